//! One of several processes that work together: who started it, and how it meets and leaves the others.
//!
//! - [`supervise`]: the process that starts the others with `--nproc` and does nothing else.

mod supervise;

use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

use empssl_data::Fingerprint;
use empssl_torch::device::{self, DeviceChoice};
use empssl_torch::processes::{Launch, ProcessGroup, Traffic};
use empssl_train::Share;
use tch::Device;

use crate::args::{DeviceArgs, RankArgs};
use crate::error::CliError;
use crate::{host, print};

/// What this process is to do.
pub(crate) enum Role {
    /// Do the work, alone or with others.
    Work(Option<Member>),
    /// Start so many others.
    Supervise(usize),
}

impl RankArgs {
    /// By the flags, or by the variables of the launcher.
    pub(crate) fn role(&self) -> Result<Role, CliError> {
        let launch = Launch::from_environment(|name| std::env::var(name).ok());
        let launch = launch.map_err(|error| CliError::Ranks(error.to_string()))?;
        match (self.nproc, launch) {
            (Some(_), Some(_)) => Err(CliError::Ranks(
                "--nproc starts processes on this machine, but the environment (RANK or SLURM_STEP_NUM_TASKS) says that \
                 torchrun or srun has done so; leave one of them out"
                    .to_owned(),
            )),
            (Some(nproc), None) if nproc > 1 => Ok(Role::Supervise(nproc.into())),
            // One process that torchrun started is a group, too: all that groups do can be tried with it.
            (None, Some(launch)) => {
                let _ = RANK.set(launch.rank);
                Ok(Role::Work(Some(Member { launch, timeout: self.timeout() })))
            }
            _ => Ok(Role::Work(None)),
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.dist_timeout)
    }

    /// Starts the processes, each of which has a GPU where they compute on GPUs, and ends when all have.
    pub(crate) fn supervise(&self, nproc: usize, device: DeviceChoice) -> Result<(), CliError> {
        if let (Device::Cuda(first), count) = chosen(device)? {
            Launch::demand_gpus(nproc, first, count)?;
        }
        supervise::run(nproc)
    }
}

/// Refuses to do the work of one process in several, asked for by `--nproc` or by the variables of a launcher.
pub(crate) fn demand_one_process(command: &str, nproc: Option<u16>) -> Result<(), CliError> {
    let of_launcher = |name| std::env::var(name).ok()?.parse().ok();
    let asked = [nproc, of_launcher("WORLD_SIZE"), of_launcher("SLURM_STEP_NUM_TASKS")];
    match asked.into_iter().flatten().find(|&n| n > 1) {
        Some(n) => Err(CliError::Ranks(format!(
            "`empssl {command}` is one process on one device, but {n} were asked for: start it once, without --nproc, \
             torchrun or srun"
        ))),
        None => Ok(()),
    }
}

/// The place of this process among those that work together.
pub(crate) struct Member {
    launch: Launch,
    timeout: Duration,
}

/// This process among those that work together; `None` for one alone.
pub(crate) type Among<'a> = Option<(&'a Member, &'a ProcessGroup)>;

/// This rank's number, for messages; not set in a process alone.
static RANK: OnceLock<usize> = OnceLock::new();

impl Member {
    /// Meets the others, who compute as this one does on the CPU or on a GPU each.
    pub(crate) fn join(&self, device: Device) -> Result<ProcessGroup, CliError> {
        Ok(ProcessGroup::join_on(&self.launch, device, self.timeout)?)
    }

    /// The device of this rank: of GPUs, the one that was asked for is the first rank's of a host, and the others have
    /// those after it.
    fn device(&self, asked: DeviceChoice) -> Result<DeviceChoice, CliError> {
        match chosen(asked)? {
            (Device::Cuda(first), count) => Ok(DeviceChoice::Cuda(self.launch.gpu(first, count)?)),
            _ => Ok(DeviceChoice::Cpu),
        }
    }

    /// Whether it writes the run folder, and prints what one rank alone prints.
    pub(crate) fn is_first(&self) -> bool {
        self.launch.rank == 0
    }

    /// Calls `end` when the process that started this one is gone, where that was `empssl --nproc`: its end of the pipe
    /// closes then, however it ended.
    pub(crate) fn watch_parent(&self, end: impl FnOnce() + Send + 'static) {
        if std::env::var_os(supervise::HOLDS_STDIN).is_some() {
            std::thread::spawn(move || {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
                end();
            });
        }
    }
}

/// What a choice comes to on this machine, and how many GPUs there are.
fn chosen(asked: DeviceChoice) -> Result<(Device, usize), CliError> {
    let device = device::select(asked)?;
    Ok((device, if device.is_cuda() { device::open().unwrap_or_default() } else { 0 }))
}

/// Leaves the others after work that was done or stopped; one that failed ends at once, which the others see.
pub(crate) fn part(group: ProcessGroup, outcome: Result<(), CliError>) -> Result<(), CliError> {
    if matches!(outcome, Ok(()) | Err(CliError::Interrupted { .. })) {
        group.leave()?;
    }
    outcome
}

/// Whether this process is alone or the first of those that work together.
pub(crate) fn is_first(member: Option<&Member>) -> bool {
    member.is_none_or(Member::is_first)
}

/// The slice of every batch of this process, and the processes that share this host.
pub(crate) fn share(member: Option<&Member>) -> (Share, usize) {
    let of = |member: &Member| {
        let Launch { rank, world, local_world, .. } = member.launch;
        (Share { rank, world }, local_world)
    };
    member.map_or((Share::WHOLE, 1), of)
}

/// The device settings of one of several processes: the GPUs and the processors of a host are divided among those on it.
pub(crate) fn compute(asked: &DeviceArgs, member: Option<&Member>) -> Result<DeviceArgs, CliError> {
    let (_, local_world) = share(member);
    let threads = asked.threads.or_else(|| member.map(|_| (host::n_processors() / local_world).max(1)));
    let device = member.map_or(Ok(asked.choice()), |member| member.device(asked.choice()))?;
    Ok(DeviceArgs { device: Some(device), threads, deterministic: asked.deterministic })
}

/// Threads that cut patches, divided in the same way where nobody says.
pub(crate) fn workers(asked: Option<usize>, member: Option<&Member>) -> Option<usize> {
    let (_, local_world) = share(member);
    asked.or_else(|| member.map(|_| (host::n_processors() / local_world).clamp(1, 16)))
}

/// A number that differs, as good as always, where the texts do, and is the same in every build.
pub(crate) fn fingerprint(text: &str) -> u64 {
    let mut fingerprint = Fingerprint::default();
    fingerprint.text(text);
    fingerprint.finish()
}

/// What the processes said to each other in so many steps, as a line.
pub(crate) fn summary(group: &ProcessGroup, traffic: Traffic, steps: u64) -> String {
    let steps = steps.max(1) as f64;
    format!(
        "{} ranks: {:.0} collectives and {:.2} MB a step, {:.3} s a step waited for them",
        group.world(),
        traffic.calls as f64 / steps,
        traffic.bytes as f64 / 1e6 / steps,
        traffic.nanoseconds as f64 / 1e9 / steps
    )
}

/// Prints an error as the program does, with the rank where there are several; an interruption is told once.
pub(crate) fn print(error: &CliError) {
    match RANK.get() {
        Some(0) if matches!(error, CliError::Interrupted { .. }) => print::line(format_args!("rank 0: {error}")),
        Some(_) if matches!(error, CliError::Interrupted { .. }) => {}
        Some(rank) => print::line(format_args!("rank {rank}: error: {error}")),
        None => print::line(format_args!("error: {error}")),
    }
}

/// Ends a process that worked with others at once: after a failure, threads of libtorch still wait for the network, and
/// to take it down in order while they do would wait for them or crash.
pub(crate) fn end_at_once(code: u8) {
    if RANK.get().is_some() {
        signal_hook::low_level::exit(i32::from(code));
    }
}
