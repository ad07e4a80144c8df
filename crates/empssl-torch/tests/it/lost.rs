//! Ranks that are killed, halted or fail: all others end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::Duration;

use empssl_golden::processes;
use empssl_torch::processes::{GroupError, ProcessGroup};
use tch::{Device, Kind, Tensor};

use crate::ranks::{self, PLENTY};

/// After which a rank gives up that waits for a halted one; within it all have started.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sums until it fails; says when it has begun.
fn sum_for_ever(group: &ProcessGroup) -> GroupError {
    for step in 1.. {
        if let Err(error) = group.sum(&Tensor::ones([1000], (Kind::Float, Device::Cpu))) {
            return error;
        }
        if step == 20 {
            println!("begun");
        }
    }
    unreachable!("the loop has no other end")
}

fn send_signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Waits until a rank has begun, which it says.
fn await_begun(child: &mut Child) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("begun")), "it ended before it began");
}

/// Sends a signal to rank `target` of three, after which all others fail.
fn the_others_end(name: &str, target: usize, signal: &str, timeout: Duration) {
    if let Some(launch) = ranks::own() {
        let group = ProcessGroup::join(&launch, timeout).unwrap();
        println!("{}", sum_for_ever(&group));
        // As a program does that fails: at once.
        std::process::exit(3);
    }
    let mut children = ranks::start(name, 3);
    children.iter_mut().for_each(await_begun);
    send_signal(&children[target], signal);
    let mut lost = children.remove(target);
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = processes::text(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains("a collective with the other ranks failed: libtorch: "), "{text}");
    }
    lost.kill().unwrap();
    lost.wait().unwrap();
}

#[test]
fn a_killed_rank_ends_all_others() {
    the_others_end("lost::a_killed_rank_ends_all_others", 1, "KILL", PLENTY);
}

#[test]
fn a_killed_rank_0_ends_all_others() {
    the_others_end("lost::a_killed_rank_0_ends_all_others", 0, "KILL", PLENTY);
}

#[test]
fn a_halted_rank_ends_all_others() {
    the_others_end("lost::a_halted_rank_ends_all_others", 2, "STOP", TIMEOUT);
}

#[test]
fn a_rank_that_returns_an_error_ends_all_others() {
    let name = "lost::a_rank_that_returns_an_error_ends_all_others";
    let Some(launch) = ranks::own() else { return processes::succeed(ranks::start(name, 3)) };
    let group = ProcessGroup::join(&launch, PLENTY).unwrap();
    group.barrier().unwrap();
    if group.rank() != 1 {
        assert!(matches!(sum_for_ever(&group), GroupError::Collective(_)));
    }
    std::process::exit(0);
}
