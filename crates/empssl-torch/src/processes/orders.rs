//! Orders: rank 0 says what is to be done together, and the others wait for it as long as it takes.
//!
//! A collective waits no longer than the time-out. Where rank 0 has work of its own between two of them, which may take
//! hours, the others wait for its next word in the store instead, and end when its signs of life do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::error::GroupError;
use super::group::ProcessGroup;
use super::watch::Pace;
use crate::ffi::{RawStore, ShimError};

/// What a rank knows of the orders.
#[derive(Debug)]
pub(super) struct Orders {
    prefix: String,
    /// Given by rank 0, or received by another.
    count: AtomicU64,
    /// For how long the store is asked at a time.
    look: Duration,
    /// How long a rank may be silent where nobody waits for it in a collective.
    silence: Duration,
}

impl Orders {
    pub(super) fn new(prefix: &str, timeout: Duration, pace: Pace) -> Self {
        let prefix = format!("{prefix}order/");
        Self { prefix, count: AtomicU64::new(0), look: pace.period, silence: timeout - pace.patience }
    }

    fn key(&self) -> String {
        format!("{}{}", self.prefix, self.count.load(Ordering::Relaxed))
    }

    fn count_one(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

impl ProcessGroup {
    /// On rank 0: gives the others their next order, without waiting for them.
    ///
    /// # Errors
    /// [`GroupError::Lost`] when another rank is known to have failed or ended, or the store is gone;
    /// [`GroupError::Misplaced`] on any other rank.
    pub fn give_order(&self, order: &str) -> Result<(), GroupError> {
        self.demand_place(self.rank() == 0, "rank 0 alone gives orders")?;
        let orders = self.orders();
        if let Some(fault) = self.watch().seen_at_fault(orders.silence) {
            return Err(self.lost_by(Some(fault), "an order cannot be given"));
        }
        let given = self.store().set(&orders.key(), order);
        given.map_err(|error| self.lost_by(None, &error.0))?;
        orders.count_one();
        Ok(())
    }

    /// On every other rank: waits for the next order, as long as rank 0 lives.
    ///
    /// # Errors
    /// [`GroupError::Lost`] within the time-out when a rank failed or ended; [`GroupError::Misplaced`] on rank 0.
    pub fn next_order(&self) -> Result<String, GroupError> {
        self.demand_place(self.rank() != 0, "rank 0 gives orders and receives none")?;
        let orders = self.orders();
        let asked = Question::ask(Arc::clone(self.store()), orders.key(), orders.look);
        loop {
            match asked.answer.recv_timeout(orders.look) {
                Ok(Ok(order)) => {
                    orders.count_one();
                    return Ok(order);
                }
                Ok(Err(error)) => return Err(self.lost_by(self.watch().seen_at_fault(orders.silence), &error.0)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.lost_by(None, "no thread could ask for orders")),
            }
            if let Some(fault) = self.watch().seen_at_fault(orders.silence) {
                return Err(self.lost_by(Some(fault), "there was no order to follow"));
            }
            if !self.watch().is_well(0) {
                return Err(self.lost_by(None, "rank 0 ended without another order"));
            }
        }
    }

    fn demand_place(&self, holds: bool, otherwise: &str) -> Result<(), GroupError> {
        if holds { Ok(()) } else { Err(GroupError::Misplaced(otherwise.to_owned())) }
    }
}

/// A thread that asks the store for one key.
///
/// A store whose process is halted answers nobody, not even that the time is over, so whoever waits for it must not be
/// the one who looks at the signs of life.
struct Question {
    answer: Receiver<Result<String, ShimError>>,
    is_given_up: Arc<AtomicBool>,
}

impl Question {
    fn ask(store: Arc<RawStore>, key: String, look: Duration) -> Self {
        let (sender, answer) = mpsc::channel();
        let is_given_up = Arc::new(AtomicBool::new(false));
        let gives_up = Arc::clone(&is_given_up);
        let ask = move || {
            while !gives_up.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let answer = store.get(&key, look);
                // A store that is there lets the time pass; one that is gone fails at once.
                if answer.is_ok() || asked.elapsed() < look / 2 {
                    // Nobody listens any more to what comes too late.
                    let _ = sender.send(answer);
                    return;
                }
            }
        };
        // Without a thread the sender is dropped, which the receiver sees.
        let _ = thread::Builder::new().name("orders".to_owned()).spawn(ask);
        Self { answer, is_given_up }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}
