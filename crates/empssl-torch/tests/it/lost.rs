//! Ranks that are killed, halted or fail: all others end, within the time-out, and say who it was.

use std::process::Output;
use std::time::{Duration, Instant};

use empssl_golden::processes;
use empssl_torch::processes::{GroupError, ProcessGroup};
use tch::{Device, Kind, Tensor};

use crate::ranks;
use crate::strike::{SLACK, await_begun, signal};

const TIMEOUT: Duration = Duration::from_secs(4);

/// Sums until it fails; says when it has begun.
fn sum_for_ever(group: &ProcessGroup) -> GroupError {
    for step in 1.. {
        group.set_step(step);
        if let Err(error) = group.sum(&Tensor::ones([1000], (Kind::Float, Device::Cpu))) {
            assert!(group.is_broken());
            return error;
        }
        if step == 20 {
            println!("begun");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    unreachable!("the loop has no other end")
}

/// Sends a signal to rank `target` of `world`; what the others say of it, and how long they took.
fn strike(name: &str, world: usize, target: usize, blow: &str) -> Option<Vec<Output>> {
    if let Some(launch) = ranks::own() {
        let group = ProcessGroup::join(&launch, TIMEOUT).unwrap();
        println!("{}", sum_for_ever(&group));
        // As a program does that fails: at once.
        std::process::exit(3);
    }
    let mut children = ranks::start(name, world);
    children.iter_mut().for_each(await_begun);
    let began = Instant::now();
    signal(&children[target], blow);
    let mut struck = children.remove(target);
    let outputs: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(began.elapsed() <= TIMEOUT + SLACK, "{:?}", began.elapsed());
    struck.kill().unwrap();
    struck.wait().unwrap();
    for output in &outputs {
        let text = processes::text(output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        let named = format!("rank {target} (process {} on ", struck.id());
        assert!(text.contains(&named) && text.contains("has given no sign of life for "), "{text}");
    }
    Some(outputs)
}

#[test]
fn a_killed_rank_is_named_by_all_others() {
    strike("lost::a_killed_rank_is_named_by_all_others", 3, 1, "KILL");
}

#[test]
fn a_killed_rank_0_is_named_by_all_others() {
    strike("lost::a_killed_rank_0_is_named_by_all_others", 3, 0, "KILL");
}

#[test]
fn a_halted_rank_is_named_by_all_others() {
    strike("lost::a_halted_rank_is_named_by_all_others", 3, 2, "STOP");
}

#[test]
fn a_halted_rank_0_is_named_by_all_others() {
    strike("lost::a_halted_rank_0_is_named_by_all_others", 2, 0, "STOP");
}

#[test]
fn the_reason_of_a_rank_that_fails_reaches_the_others() {
    let name = "lost::the_reason_of_a_rank_that_fails_reaches_the_others";
    let Some(launch) = ranks::own() else { return processes::succeed(ranks::start(name, 3)) };
    let group = ProcessGroup::join(&launch, TIMEOUT).unwrap();
    group.barrier().unwrap();
    if group.rank() == 1 {
        group.fail("cannot read cat.jpg:\nno such file");
        std::process::exit(0);
    }
    let error = sum_for_ever(&group);
    let GroupError::Lost { rank: Some(1), reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains(") failed: cannot read cat.jpg: no such file; rank "), "{reason}");
    group.fail("another one failed");
    std::process::exit(0);
}

#[test]
fn a_rank_that_lags_behind_is_named() {
    let name = "lost::a_rank_that_lags_behind_is_named";
    let Some(launch) = ranks::own() else { return processes::succeed(ranks::start(name, 2)) };
    let group = ProcessGroup::join(&launch, Duration::from_secs(3)).unwrap();
    group.set_step(4);
    group.barrier().unwrap();
    if group.rank() == 1 {
        // As a rank whose disk does not answer.
        std::thread::sleep(Duration::from_secs(4));
        std::process::exit(0);
    }
    group.set_step(5);
    let error = group.barrier().unwrap_err().to_string();
    assert!(error.contains("is alive and still in step 4, this one in step 5; rank 0: "), "{error}");
    std::process::exit(0);
}
