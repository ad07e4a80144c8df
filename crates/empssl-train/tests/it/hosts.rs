//! Two hosts, as two network namespaces joined by a pair of virtual devices: the same numbers as on one, and the end of
//! both when one host dies or the link between them is cut.
//!
//! Making namespaces needs the rights of root; elsewhere these tests say so and pass.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use empssl_golden::processes;

use crate::ranks::{self, JOB, distance, is_rank};

/// The two namespaces; they go with the value.
struct Hosts {
    names: [String; 2],
}

const ADDRESSES: [&str; 2] = ["10.213.87.1", "10.213.87.2"];

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Hosts {
    /// `None`, with the reason printed, where this process may not make them.
    fn new(tag: &str) -> Option<Self> {
        let names = ["a", "b"].map(|end| format!("empssl-{tag}-{}-{end}", std::process::id()));
        let hosts = Self { names };
        match hosts.make() {
            Ok(()) => Some(hosts),
            Err(reason) => {
                println!("skipped: no network namespaces can be made here ({reason})");
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        // Names of devices are short; they live in the namespaces, where nobody else's are.
        let [a, b] = &self.names;
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("-n {a} link add link0 type veth peer name link0 netns {b}"))?;
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            ip(&format!("-n {name} addr add {address}/24 dev link0"))?;
            ip(&format!("-n {name} link set link0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(())
    }

    /// `job kind memory norms` with one rank on each host.
    fn start(&self, test: &str, job: &str, out: &Path, timeout: Duration) -> [Child; 2] {
        let words: Vec<&str> = job.split(' ').chain([out.to_str().unwrap()]).collect();
        [0, 1].map(|rank| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.names[rank]]).arg(std::env::current_exe().unwrap());
            command.args(processes::test_arguments(test)).envs(JOB.into_iter().zip(words.iter().copied()));
            command.envs([("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")]);
            command.envs([("MASTER_ADDR", ADDRESSES[0]), ("MASTER_PORT", "29511")]);
            command.env("RANK", rank.to_string()).env(ranks::TIMEOUT, timeout.as_secs().to_string());
            processes::start(&mut command)
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| drop(ip(&format!("netns del {name}"))));
    }
}

/// After which a rank gives up that waits for one beyond a cut link; within it both have started.
const TIMEOUT: Duration = Duration::from_secs(15);

#[test]
fn two_hosts_have_the_gradient_of_one_process() {
    let test = "hosts::two_hosts_have_the_gradient_of_one_process";
    if is_rank() {
        return;
    }
    let Some(hosts) = Hosts::new("eq") else { return };
    type Distance = fn(&[(String, tch::Tensor)], &[(String, tch::Tensor)]) -> f64;
    for (kind, distance, tolerance) in [("double", ranks::distance as Distance, 1e-10), ("float", ranks::apart, 1e-5)] {
        let out = tempfile::tempdir().unwrap();
        let job = format!("gradient {kind} whole global");
        processes::succeed(hosts.start(test, &job, out.path(), Duration::from_secs(60)));
        let two = ranks::read_gradient(out.path());
        let found = distance(&two, &ranks::gradient(test, 1, &format!("{kind} whole global")));
        println!("{kind}: {found:e}");
        assert!(found <= tolerance, "{kind}: {found:e}");
    }
    let out = tempfile::tempdir().unwrap();
    let job = "20 double whole global";
    processes::succeed(hosts.start(test, job, out.path(), Duration::from_secs(60)));
    let (two, alone) = (ranks::last_checkpoint(out.path()), tempfile::tempdir().unwrap());
    let one = ranks::trained(test, 1, job, alone.path()).checkpoint;
    let found = distance(&two.network, &one.network);
    println!("after 20 steps: {found:e}");
    assert!(two.step == 20 && found <= 1e-10, "{found:e}");
}

/// A long training on two hosts, once it is under way.
fn under_way(hosts: &Hosts, test: &str, out: &Path) -> [Child; 2] {
    let mut ranks = hosts.start(test, "endless float whole global", out, TIMEOUT);
    while !out.join("begun").exists() {
        assert!(ranks.iter_mut().all(|rank| rank.try_wait().unwrap().is_none()), "it ended by itself");
        std::thread::sleep(Duration::from_millis(10));
    }
    ranks
}

/// It fails by itself.
#[track_caller]
fn assert_fails(rank: Child) {
    let output = rank.wait_with_output().unwrap();
    let text = processes::text(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
}

#[track_caller]
fn assert_saved(out: &Path) {
    let checkpoint = ranks::last_checkpoint(out);
    assert!(checkpoint.step >= 2 && checkpoint.world == 2, "{}", checkpoint.step);
}

#[test]
fn the_end_of_a_host_ends_the_other() {
    let test = "hosts::the_end_of_a_host_ends_the_other";
    if is_rank() {
        return;
    }
    let Some(hosts) = Hosts::new("end") else { return };
    for lost in [1, 0] {
        let out = tempfile::tempdir().unwrap();
        let mut ranks = under_way(&hosts, test, out.path()).map(Some);
        let mut dead = ranks[lost].take().unwrap();
        dead.kill().unwrap();
        dead.wait().unwrap();
        assert_fails(ranks[1 - lost].take().unwrap());
        assert_saved(out.path());
    }
}

#[test]
fn a_cut_link_ends_both() {
    let test = "hosts::a_cut_link_ends_both";
    if is_rank() {
        return;
    }
    let Some(hosts) = Hosts::new("cut") else { return };
    let out = tempfile::tempdir().unwrap();
    let ranks = under_way(&hosts, test, out.path());
    ip(&format!("-n {} link set link0 down", hosts.names[1])).unwrap();
    ranks.into_iter().for_each(assert_fails);
    assert_saved(out.path());
}
