//! Where the time of a step goes: a clock that listens to the spans of a run, the operations that its arithmetic needs,
//! and the rate at which this machine multiplies matrices.

mod clock;
mod operations;
mod rate;

pub use clock::{PhaseSeconds, StepClock, StepTimes};
pub use operations::StepOperations;
pub use rate::{ProductRate, product_rate};

/// The phases of a step, each the name of a `tracing` span of this crate: waiting for a batch of patches; handing it to
/// the device; the network's first pass; the objective and its gradient; what a memory mode runs once more; the way back;
/// the update; and, as `step`, whatever else lies within a step.
pub const PHASES: [&str; 8] = ["data wait", "copy", "forward", "loss", "recompute", "backward", "optimizer", "other"];

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// The names of the spans that `run` opens, in order.
    pub(crate) fn spans_of<T>(run: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
        let names = Arc::new(Names(Mutex::default()));
        let value = super::clock::listen(Arc::clone(&names), run);
        let names = std::mem::take(&mut *names.0.lock().unwrap());
        (value, names)
    }

    struct Names(Mutex<Vec<&'static str>>);

    impl Subscriber for Names {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.is_span()
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            self.0.lock().unwrap().push(span.metadata().name());
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }
}
