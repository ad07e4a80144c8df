//! Seconds of training.

use std::time::{Duration, Instant};

/// Seconds of training, in laps from one record to the next.
pub(crate) struct Clock {
    began: Instant,
    seconds_before: f64,
    lap_began: Instant,
    lap_step: u64,
    /// Of this lap, until the next batches were there.
    waited: Duration,
    /// From the start of the run to the end of the last lap, earlier processes included.
    pub(crate) seconds: f64,
    /// Of the last lap.
    pub(crate) lap_seconds: f64,
    /// The share of the last lap that passed in [`Clock::next`].
    pub(crate) lap_waited: f64,
}

impl Clock {
    pub(crate) fn start(step: u64, seconds_before: f64) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            seconds_before,
            lap_began: now,
            lap_step: step,
            waited: Duration::ZERO,
            seconds: 0.0,
            lap_seconds: 0.0,
            lap_waited: 0.0,
        }
    }

    /// The next batch; the time until it is there is counted as waiting.
    pub(crate) fn next<T>(&mut self, batches: &mut impl Iterator<Item = T>) -> Option<T> {
        let began = Instant::now();
        let batch = batches.next();
        self.waited += began.elapsed();
        batch
    }

    /// Ends the lap at `step`; returns its number of steps.
    pub(crate) fn lap(&mut self, step: u64) -> f64 {
        let now = Instant::now();
        self.seconds = self.seconds_before + (now - self.began).as_secs_f64();
        self.lap_seconds = (now - self.lap_began).as_secs_f64().max(1e-9);
        self.lap_waited = self.waited.as_secs_f64() / self.lap_seconds;
        self.waited = Duration::ZERO;
        let steps = (step - self.lap_step) as f64;
        (self.lap_began, self.lap_step) = (now, step);
        steps
    }
}
