//! Where the time of a step goes: a clock that watches a run, the operations that its arithmetic needs, and the rate at
//! which this machine multiplies matrices.

mod operations;
mod rate;

use std::time::Instant;

use empssl_torch::ShimError;
use empssl_torch::device::synchronize;
use tch::Device;

use crate::observer::Observer;
use crate::phase::Phase;

pub use operations::StepOperations;
pub use rate::{ProductRate, product_rate};

/// Seconds of one step, by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PhaseSeconds([f64; Phase::OF_A_STEP.len()]);

impl PhaseSeconds {
    /// Seconds in one phase; 0 in what is no part of a step.
    pub fn of(&self, phase: Phase) -> f64 {
        self.0.get(phase as usize).copied().unwrap_or_default()
    }

    /// Seconds of the step: everything from the wait for its batch to the end of its update is in one of its phases.
    pub fn whole(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// What a [`StepClock`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTimes {
    /// The steps that were taken apart, in order.
    pub steps: Vec<PhaseSeconds>,
    /// Mean seconds of a step that nothing waits in, where that is another thing.
    pub overlapped: Option<f64>,
}

/// Takes the time of the steps of a run, watching [`crate::Trainer::run`].
///
/// A device that computes beside the host is waited for wherever a phase begins or ends, since it would otherwise not be
/// known which phase its work belongs to. That keeps the phases from overlapping, so as many steps again are then timed
/// as a whole, with a wait only before the first and after the last.
#[derive(Debug)]
pub struct StepClock {
    device: Device,
    warmup: u64,
    steps: u64,
    /// Steps that are over.
    done: u64,
    /// The phase that is going on, in a step that is taken apart.
    open: Option<(Phase, Instant)>,
    current: PhaseSeconds,
    taken: Vec<PhaseSeconds>,
    /// When the steps that are timed as a whole began, and their seconds.
    whole: Option<Instant>,
    whole_seconds: f64,
    failure: Option<ShimError>,
}

impl StepClock {
    /// A clock that lets `warmup` steps pass and takes the next `steps` apart.
    pub fn new(device: Device, warmup: u64, steps: u64) -> Self {
        let (current, taken) = (PhaseSeconds::default(), Vec::new());
        let (open, whole, whole_seconds, failure) = (None, None, 0.0, None);
        Self { device, warmup, steps, done: 0, open, current, taken, whole, whole_seconds, failure }
    }

    /// Steps that the run must have.
    pub fn n_steps(&self) -> u64 {
        self.warmup + self.steps * if self.is_asynchronous() { 2 } else { 1 }
    }

    /// What was found, when the run is over.
    ///
    /// # Errors
    /// When work on the device failed.
    pub fn finish(self) -> Result<StepTimes, ShimError> {
        let overlapped = (self.whole_seconds > 0.0).then(|| self.whole_seconds / self.steps as f64);
        self.failure.map_or(Ok(StepTimes { steps: self.taken, overlapped }), Err)
    }

    fn is_asynchronous(&self) -> bool {
        self.device != Device::Cpu
    }

    /// The time when everything issued so far is done.
    fn now(&mut self) -> Instant {
        if let Err(failure) = synchronize(self.device) {
            self.failure.get_or_insert(failure);
        }
        Instant::now()
    }

    fn take_apart(&mut self, phase: Phase) {
        let now = self.now();
        if let Some((before, began)) = self.open {
            self.current.0[before as usize] += (now - began).as_secs_f64();
        }
        self.open = (phase != Phase::Between).then_some((phase, now));
        if phase == Phase::Between {
            self.taken.push(std::mem::take(&mut self.current));
        }
    }

    fn take_whole(&mut self, phase: Phase) {
        if self.whole.is_none() {
            self.whole = Some(self.now());
        }
        if phase == Phase::Between && self.done + 1 == self.n_steps() {
            let now = self.now();
            self.whole_seconds = self.whole.map_or(0.0, |began| (now - began).as_secs_f64());
        }
    }
}

impl Observer for StepClock {
    fn on_phase(&mut self, phase: Phase) {
        match self.done.checked_sub(self.warmup) {
            None => {}
            Some(step) if step < self.steps => self.take_apart(phase),
            Some(_) if self.done < self.n_steps() => self.take_whole(phase),
            Some(_) => {}
        }
        self.done += u64::from(phase == Phase::Between);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    /// One step with pauses in it.
    fn step(clock: &mut StepClock, pause_between: Duration) {
        for phase in [Phase::DataWait, Phase::Forward, Phase::Loss, Phase::Backward, Phase::Forward] {
            clock.on_phase(phase);
            if phase == Phase::Forward {
                sleep(Duration::from_millis(4));
            }
        }
        clock.on_phase(Phase::Between);
        sleep(pause_between);
    }

    #[test]
    fn a_step_is_the_sum_of_its_phases_and_what_lies_between_steps_is_in_none() {
        let mut clock = StepClock::new(Device::Cpu, 1, 3);
        assert_eq!(clock.n_steps(), 4);
        let pause = Duration::from_millis(200);
        (0..4).for_each(|_| step(&mut clock, pause));
        clock.on_phase(Phase::DataWait);
        let times = clock.finish().unwrap();
        assert_eq!((times.steps.len(), times.overlapped), (3, None));
        for step in times.steps {
            assert!(step.of(Phase::Forward) >= 0.008, "both visits count: {step:?}");
            let sum: f64 = Phase::OF_A_STEP.iter().map(|&phase| step.of(phase)).sum();
            assert_eq!(sum, step.whole());
            assert!(step.whole() < pause.as_secs_f64(), "{step:?}");
            assert_eq!(step.of(Phase::Between) + step.of(Phase::Copy), 0.0);
        }
    }

    /// Without the device, which cannot be waited for here: a failure to do so is reported and nothing else goes wrong.
    #[test]
    fn beside_an_asynchronous_device_as_many_steps_again_are_timed_as_a_whole() {
        let mut clock = StepClock::new(Device::Cuda(4096), 2, 3);
        assert_eq!(clock.n_steps(), 8);
        let began = Instant::now();
        (0..8).for_each(|_| step(&mut clock, Duration::from_millis(20)));
        assert_eq!(clock.taken.len(), 3);
        // Three steps of two pauses, and the two breaks between them, of eight steps in all.
        assert!((0.064..began.elapsed().as_secs_f64() / 2.0).contains(&clock.whole_seconds), "{}", clock.whole_seconds);
        assert!(clock.finish().is_err());
    }
}
