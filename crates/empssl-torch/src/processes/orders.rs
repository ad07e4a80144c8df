//! Orders: rank 0 says what is to be done together, and the others wait for it as long as it takes.
//!
//! A collective waits no longer than the time-out. Where rank 0 has work of its own between two of them, which may take
//! hours, the others wait for its next word in the store instead, and end when its signs of life do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::GroupError;
use super::group::ProcessGroup;
use super::watch::Pace;
use crate::ffi::ShimError;

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
    /// [`GroupError::Refused`] on any other rank.
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
    /// [`GroupError::Lost`] within the time-out when a rank failed or ended; [`GroupError::Refused`] on rank 0.
    pub fn next_order(&self) -> Result<String, GroupError> {
        self.demand_place(self.rank() != 0, "rank 0 gives orders and receives none")?;
        let orders = self.orders();
        loop {
            let asked = Instant::now();
            let error = match self.store().get(&orders.key(), orders.look) {
                Ok(order) => {
                    orders.count_one();
                    return Ok(order);
                }
                Err(error) => error,
            };
            if let Some(fault) = self.watch().seen_at_fault(orders.silence) {
                return Err(self.lost_by(Some(fault), "there was no order to follow"));
            }
            // A store that is there lets the time pass; one that is gone fails at once.
            if asked.elapsed() < orders.look / 2 || !self.watch().is_well(0) {
                return Err(self.lost_by(None, &error.0));
            }
        }
    }

    fn demand_place(&self, holds: bool, otherwise: &str) -> Result<(), GroupError> {
        if holds { Ok(()) } else { Err(GroupError::Refused(ShimError(otherwise.to_owned()))) }
    }
}
