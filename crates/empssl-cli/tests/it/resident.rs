//! What a long run takes of the machine: memory that stays where it is, and no processor while its threads wait.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::chain::steps;

/// A run without an end, into `run` of a folder with some images.
fn endless(folder: &Path) -> Command {
    crate::draw_images(folder, 12);
    let recipe = crate::recipe("synthetic/smoke.toml");
    let changes = [
        "training.length={steps=1000000}",
        "training.batch_size=2",
        "patches.side=8",
        "network.base_width=1",
        "network.hidden=8",
        "network.projection=8",
    ];
    let mut arguments = crate::training(&recipe, &changes);
    // An epoch of six steps: the loader, its threads, the metrics file and the checkpoints all come by many times.
    arguments.extend(["--dataset", "folder", "--data", "images", "--out", "run", "--log-every", "20"]);
    let mut command = crate::command(folder, &arguments);
    command.stderr(Stdio::null());
    command
}

/// The text of a file that the system keeps of a run, once this step was logged.
fn told_at(step: u64, folder: &Path, child: &mut Child, file: &str) -> String {
    let run = folder.join("run");
    while !run.join("metrics.jsonl").is_file() || steps(&run).last().is_none_or(|&last| last < step) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    String::from_utf8_lossy(&fs::read(format!("/proc/{}/{file}", child.id())).unwrap()).into_owned()
}

#[test]
fn resident_memory_stays_where_it_is_between_step_500_and_2000() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = endless(folder.path()).spawn().unwrap();
    let mut resident_at = |step: u64| {
        let status = told_at(step, folder.path(), &mut child, "status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    };
    let (early, late) = (resident_at(500), resident_at(2000));
    child.kill().unwrap();
    child.wait().unwrap();
    println!("resident at step 500: {early} kB, at step 2000: {late} kB");
    assert!(late - early <= 2048, "{early} kB at step 500, {late} kB at step 2000");
}

#[test]
fn threads_sleep_at_barriers_unless_the_user_says_how_they_wait() {
    let spins = |setting: Option<(&str, &str)>| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = endless(folder.path());
        command.env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT").envs(setting);
        let mut child = command.spawn().unwrap();
        let variables = told_at(1, folder.path(), &mut child, "environ");
        child.kill().unwrap();
        child.wait().unwrap();
        variables.split('\0').find_map(|variable| variable.strip_prefix("GOMP_SPINCOUNT=").map(str::to_owned))
    };
    assert_eq!(spins(None).as_deref(), Some("100"));
    assert_eq!(spins(Some(("GOMP_SPINCOUNT", "7"))).as_deref(), Some("7"));
    assert_eq!(spins(Some(("OMP_WAIT_POLICY", "active"))), None);
}
