//! A clock that listens to the spans of a run.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use empssl_torch::ShimError;
use empssl_torch::device::synchronize;
use tch::Device;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Metadata, Subscriber};

use super::PHASES;

/// The place of `other` among the phases; its span is called `step`.
const OTHER: usize = PHASES.len() - 1;

/// Seconds of one step, by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PhaseSeconds([f64; PHASES.len()]);

impl PhaseSeconds {
    /// Seconds in each of the [`PHASES`].
    pub fn each(&self) -> [f64; PHASES.len()] {
        self.0
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

/// Takes the time of the steps of a run.
///
/// A device that computes beside the host is waited for wherever a phase begins or ends, since it would otherwise not be
/// known which phase its work belongs to. That keeps the phases from overlapping, so as many steps again are then timed
/// as a whole, with a wait only before the first and after the last.
#[derive(Debug)]
pub struct StepClock(Arc<Listener>);

impl StepClock {
    /// A clock that lets `warmup` steps pass and takes the next `steps` apart.
    pub fn new(device: Device, warmup: u64, steps: u64) -> Self {
        let state = State { plan: Plan { warmup, steps, overlaps: device != Device::Cpu }, ..State::default() };
        Self(Arc::new(Listener { device, state: Mutex::new(state) }))
    }

    /// Steps that the run must have.
    pub fn n_steps(&self) -> u64 {
        self.0.state().plan.n_steps()
    }

    /// Listens to the spans that this thread opens in `run`.
    pub fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        listen(Arc::clone(&self.0), run)
    }

    /// What was found, when the run is over.
    ///
    /// # Errors
    /// When work on the device failed.
    pub fn finish(self) -> Result<StepTimes, ShimError> {
        let mut state = self.0.state();
        let overlapped = (state.whole_seconds > 0.0).then(|| state.whole_seconds / state.plan.steps as f64);
        state.failure.take().map_or(Ok(StepTimes { steps: state.taken.clone(), overlapped }), Err)
    }
}

/// Gives the spans that this thread opens in `run` to `listener`.
///
/// With one subscriber alone, `tracing` decides for good whether a span is of interest by asking the thread that comes to
/// it first, which may be one that listens to nothing. With a second one it asks both.
pub(super) fn listen<T>(listener: impl Subscriber + Send + Sync + 'static, run: impl FnOnce() -> T) -> T {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
    LazyLock::force(&SECOND);
    tracing::subscriber::with_default(listener, run)
}

/// How many steps are timed, and how.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    warmup: u64,
    steps: u64,
    /// Whether the device computes beside the host.
    overlaps: bool,
}

/// What is done with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timed {
    Not,
    ByPhase,
    AsAWhole,
}

impl Plan {
    fn n_steps(self) -> u64 {
        self.warmup + self.steps * if self.overlaps { 2 } else { 1 }
    }

    fn of(self, step: u64) -> Timed {
        match step.checked_sub(self.warmup) {
            Some(measured) if measured < self.steps => Timed::ByPhase,
            Some(_) if step < self.n_steps() => Timed::AsAWhole,
            _ => Timed::Not,
        }
    }
}

/// What is known so far.
#[derive(Debug, Default)]
struct State {
    plan: Plan,
    /// Steps that are over.
    done: u64,
    /// The phases that are open, each within the one before it, and when the innermost began or went on.
    open: Vec<usize>,
    since: Option<Instant>,
    current: PhaseSeconds,
    taken: Vec<PhaseSeconds>,
    /// When the steps that are timed as a whole began, and their seconds.
    whole: Option<Instant>,
    whole_seconds: f64,
    failure: Option<ShimError>,
}

impl State {
    /// Whether the device must be waited for where a phase begins or ends now.
    fn waits(&self, ends_step: bool) -> bool {
        match self.plan.of(self.done) {
            Timed::Not => false,
            Timed::ByPhase => true,
            Timed::AsAWhole => self.whole.is_none() || (ends_step && self.done + 1 == self.plan.n_steps()),
        }
    }

    fn enter(&mut self, phase: usize, now: Instant) {
        self.pass(now);
        self.open.push(phase);
    }

    fn exit(&mut self, phase: usize, now: Instant) {
        self.pass(now);
        self.open.pop();
        if phase != OTHER {
            return;
        }
        match self.plan.of(self.done) {
            Timed::ByPhase => self.taken.push(std::mem::take(&mut self.current)),
            Timed::AsAWhole if self.done + 1 == self.plan.n_steps() => {
                self.whole_seconds = self.whole.map_or(0.0, |began| (now - began).as_secs_f64());
            }
            _ => {}
        }
        self.done += 1;
    }

    /// Gives the time until `now` to the innermost phase.
    fn pass(&mut self, now: Instant) {
        match (self.plan.of(self.done), self.open.last(), self.since) {
            (Timed::ByPhase, Some(&phase), Some(since)) => self.current.0[phase] += (now - since).as_secs_f64(),
            (Timed::AsAWhole, ..) if self.whole.is_none() => self.whole = Some(now),
            _ => {}
        }
        self.since = Some(now);
    }
}

/// Hears where spans begin and end.
#[derive(Debug)]
struct Listener {
    device: Device,
    state: Mutex<State>,
}

impl Listener {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time, after everything issued so far is done where that matters.
    fn now(&self, state: &mut State, ends_step: bool) -> Instant {
        if state.waits(ends_step)
            && let Err(failure) = synchronize(self.device)
        {
            state.failure.get_or_insert(failure);
        }
        Instant::now()
    }
}

/// The place of a span's phase.
fn phase_of(metadata: &Metadata<'_>) -> Option<usize> {
    let is_own = metadata.is_span() && metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
    let phase = if metadata.name() == "step" { Some(OTHER) } else { PHASES.iter().position(|&p| p == metadata.name()) };
    phase.filter(|_| is_own)
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        phase_of(metadata).is_some()
    }

    /// All spans of a phase have one number.
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        Id::from_u64(phase_of(span.metadata()).unwrap_or(OTHER) as u64 + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, span: &Id) {
        let mut state = self.state();
        let now = self.now(&mut state, false);
        state.enter(span.into_u64() as usize - 1, now);
    }

    fn exit(&self, span: &Id) {
        let (mut state, phase) = (self.state(), span.into_u64() as usize - 1);
        let now = self.now(&mut state, phase == OTHER);
        state.exit(phase, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FORWARD: usize = 2;

    fn state(warmup: u64, steps: u64, overlaps: bool) -> State {
        State { plan: Plan { warmup, steps, overlaps }, ..State::default() }
    }

    /// One step of four seconds of waiting, two of passes and three besides, and one second after it.
    fn step(state: &mut State, now: &mut Instant) {
        let mut after = |seconds| {
            *now += Duration::from_secs(seconds);
            *now
        };
        state.enter(0, after(0));
        state.exit(0, after(4));
        state.enter(OTHER, after(0));
        for _ in 0..2 {
            state.enter(FORWARD, after(1));
            state.exit(FORWARD, after(1));
        }
        state.exit(OTHER, after(1));
        after(1);
    }

    #[test]
    fn a_step_is_the_sum_of_its_phases_and_what_lies_between_steps_is_in_none() {
        let (mut state, mut now) = (state(1, 3, false), Instant::now());
        assert_eq!(state.plan.n_steps(), 4);
        (0..5).for_each(|_| step(&mut state, &mut now));
        assert_eq!((state.taken.len(), state.whole_seconds), (3, 0.0));
        for step in state.taken {
            assert_eq!((step.each(), step.whole()), ([4.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0], 9.0));
        }
    }

    #[test]
    fn beside_an_asynchronous_device_as_many_steps_again_are_timed_as_a_whole() {
        let (mut state, mut now) = (state(2, 3, true), Instant::now());
        assert_eq!(state.plan.n_steps(), 8);
        let waits: Vec<bool> = (0..8)
            .map(|_| {
                let waits = state.waits(true);
                step(&mut state, &mut now);
                waits
            })
            .collect();
        assert_eq!(waits, [false, false, true, true, true, true, false, true], "where a step ends");
        // Three steps of nine seconds, and the two breaks between them.
        assert_eq!((state.taken.len(), state.whole_seconds), (3, 29.0));
    }

    /// Spans of this crate, heard by name; a device that cannot be waited for is reported and nothing else goes wrong.
    #[test]
    fn the_clock_hears_the_spans_of_its_own_thread() {
        let step = || {
            tracing::info_span!("data wait").in_scope(|| ());
            let _step = tracing::info_span!("step").entered();
            tracing::info_span!("forward").in_scope(|| tracing::info_span!("unknown").in_scope(|| ()));
        };
        let clock = StepClock::new(Device::Cpu, 1, 2);
        clock.during(|| (0..3).for_each(|_| step()));
        step();
        assert_eq!(clock.finish().unwrap().steps.len(), 2);
        let clock = StepClock::new(Device::Cuda(4096), 0, 1);
        clock.during(|| (0..2).for_each(|_| step()));
        assert!(clock.finish().is_err());
    }
}
