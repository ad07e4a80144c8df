//! Orders: every rank gets each of them, waiting for one takes as long as rank 0 takes, and ends when rank 0 does.

use std::time::{Duration, Instant};

use empssl_golden::processes;
use empssl_torch::processes::{GroupError, ProcessGroup};

use crate::ranks;
use crate::strike::{SLACK, await_begun, signal};

const TIMEOUT: Duration = Duration::from_secs(4);

#[test]
fn orders_come_in_turn_and_are_waited_for_longer_than_the_time_out() {
    let name = "orders::orders_come_in_turn_and_are_waited_for_longer_than_the_time_out";
    let Some(launch) = ranks::own() else { return processes::succeed(ranks::start(name, 3)) };
    let group = ProcessGroup::join(&launch, TIMEOUT).unwrap();
    if group.rank() == 0 {
        group.give_order("first\nof two").unwrap();
        std::thread::sleep(TIMEOUT + Duration::from_millis(500));
        group.give_order("").unwrap();
        let refusal = group.next_order().unwrap_err().to_string();
        assert_eq!(refusal, "rank 0 gives orders and receives none");
    } else {
        assert_eq!(group.next_order().unwrap(), "first\nof two");
        assert_eq!(group.next_order().unwrap(), "");
        assert_eq!(group.give_order("x").unwrap_err().to_string(), "rank 0 alone gives orders");
    }
    group.leave().unwrap();
}

/// What ends the waiting for an order of rank 0 of two, after this blow.
fn strike(name: &str, blow: &str, expected: &str) {
    if let Some(launch) = ranks::own() {
        let group = ProcessGroup::join(&launch, TIMEOUT).unwrap();
        group.barrier().unwrap();
        println!("begun");
        if group.rank() == 0 {
            std::thread::sleep(ranks::PLENTY);
        }
        println!("{}", group.next_order().unwrap_err());
        std::process::exit(3);
    }
    let mut children = ranks::start(name, 2);
    children.iter_mut().for_each(await_begun);
    let began = Instant::now();
    signal(&children[0], blow);
    let waiting = children.pop().unwrap().wait_with_output().unwrap();
    assert!(began.elapsed() <= TIMEOUT + SLACK, "{:?}", began.elapsed());
    let mut struck = children.pop().unwrap();
    struck.kill().unwrap();
    struck.wait().unwrap();
    let text = processes::text(&waiting);
    assert_eq!(waiting.status.code(), Some(3), "{text}");
    let named = format!("rank 0 (process {} on ", struck.id());
    assert!(text.contains(&named) && text.contains(expected), "{text}");
}

#[test]
fn a_killed_rank_0_ends_the_waiting() {
    strike("orders::a_killed_rank_0_ends_the_waiting", "KILL", "has given no sign of life for ");
}

#[test]
fn a_halted_rank_0_ends_the_waiting() {
    strike("orders::a_halted_rank_0_ends_the_waiting", "STOP", "; rank 1: there was no order to follow");
}

#[test]
fn a_rank_that_fails_ends_those_that_wait_and_the_next_order_is_not_given() {
    let name = "orders::a_rank_that_fails_ends_those_that_wait_and_the_next_order_is_not_given";
    let Some(launch) = ranks::own() else { return processes::succeed(ranks::start(name, 3)) };
    let group = ProcessGroup::join(&launch, TIMEOUT).unwrap();
    group.barrier().unwrap();
    let error = match group.rank() {
        1 => {
            group.fail("cannot read cat.jpg");
            std::process::exit(0);
        }
        0 => {
            std::thread::sleep(Duration::from_secs(1));
            group.give_order("go on").unwrap_err()
        }
        _ => group.next_order().unwrap_err(),
    };
    let GroupError::Lost { rank: Some(1), reason } = &error else { panic!("{error:?}") };
    assert!(reason.contains(") failed: cannot read cat.jpg; rank "), "{reason}");
    std::process::exit(0);
}
