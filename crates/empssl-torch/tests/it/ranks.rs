//! A test that runs as several processes.

use std::process::Child;
use std::time::Duration;

use empssl_golden::processes;
use empssl_torch::processes::{Launch, ProcessGroup, free_port};

/// The variable by which a rank knows that it is one.
const IS_RANK: &str = "EMPSSL_TEST_RANK";

/// Time for everything that should go well, on a machine that does much else.
pub(crate) const PLENTY: Duration = Duration::from_secs(60);

/// The launch of this process, when a test has started it as a rank.
pub(crate) fn own() -> Option<Launch> {
    std::env::var_os(IS_RANK)?;
    tch::set_num_threads(1);
    Some(Launch::from_environment(|name| std::env::var(name).ok()).unwrap().unwrap())
}

/// Starts `world` processes of the test `name`, `module::function`.
pub(crate) fn start(name: &str, world: usize) -> Vec<Child> {
    let port = free_port().unwrap();
    let start = |rank| {
        let mut command = processes::of_test(name);
        command.env(IS_RANK, "1").env_remove("TORCHELASTIC_USE_AGENT_STORE");
        processes::start(command.envs(Launch::local(rank, world, port).variables()))
    };
    (0..world).map(start).collect()
}

/// In the test `name`: `body` in each of `world` processes, which all succeed.
#[track_caller]
pub(crate) fn everywhere(name: &str, world: usize, body: impl FnOnce(&ProcessGroup)) {
    let Some(launch) = own() else { return processes::succeed(start(name, world)) };
    let group = ProcessGroup::join(&launch, PLENTY).unwrap();
    assert_eq!((group.rank(), group.world(), group.local_world()), (launch.rank, world, world));
    body(&group);
    group.leave().unwrap();
}
