//! Two hosts, as two network namespaces joined by a pair of virtual devices: the same numbers as on one, and who is
//! missing when one host dies or the link between them is cut.
//!
//! Making namespaces needs the rights of root; elsewhere these tests say so and pass.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

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

const TIMEOUT: Duration = Duration::from_secs(5);
/// What a busy machine may take beyond it.
const SLACK: Duration = Duration::from_secs(5);

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

#[track_caller]
fn assert_names(output: &Output, rank: usize, began: Instant) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(began.elapsed() <= TIMEOUT + SLACK, "{:?}: {text}", began.elapsed());
    assert!(!output.status.success(), "{text}");
    let has_line = |line: &str| line.starts_with(&format!("rank {rank} (process ")) && line.contains("no sign of life");
    assert!(text.lines().any(has_line), "{text}");
}

#[test]
fn the_end_of_a_host_is_told_by_the_other() {
    let test = "hosts::the_end_of_a_host_is_told_by_the_other";
    if is_rank() {
        return;
    }
    let Some(hosts) = Hosts::new("end") else { return };
    for struck in [1, 0] {
        let out = tempfile::tempdir().unwrap();
        let mut ranks = under_way(&hosts, test, out.path()).map(Some);
        let began = Instant::now();
        let mut dead = ranks[struck].take().unwrap();
        dead.kill().unwrap();
        dead.wait().unwrap();
        let alive = ranks[1 - struck].take().unwrap();
        assert_names(&alive.wait_with_output().unwrap(), struck, began);
    }
}

#[test]
fn a_cut_link_is_told_at_both_ends() {
    let test = "hosts::a_cut_link_is_told_at_both_ends";
    if is_rank() {
        return;
    }
    let Some(hosts) = Hosts::new("cut") else { return };
    let out = tempfile::tempdir().unwrap();
    let ranks = under_way(&hosts, test, out.path());
    let began = Instant::now();
    ip(&format!("-n {} link set link0 down", hosts.names[1])).unwrap();
    for (rank, child) in ranks.into_iter().enumerate() {
        assert_names(&child.wait_with_output().unwrap(), 1 - rank, began);
    }
}
