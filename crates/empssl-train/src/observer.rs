//! Who watches a run: progress bars, logs, monitors.

use empssl_model::Network;
use serde::Serializer;

use crate::error::TrainError;

/// What is known about one logged step.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StepRecord {
    /// Steps done so far in the whole run, the first being 1.
    pub step: u64,
    /// The epoch the step belongs to, from 0.
    pub epoch: u64,
    /// The learning rate it was taken with.
    pub lr: f64,
    /// The objective, which is minimised.
    pub loss: f64,
    /// Its terms by name, as [`empssl_loss::LossTerms::parts`] has them; serialised as fields beside the others.
    #[serde(flatten, serialize_with = "by_name")]
    pub parts: Vec<(&'static str, f64)>,
    /// Patches trained on per second since the record before.
    pub patches_per_s: f64,
    /// The share of the time since the record before in which the next patches were waited for, from 0 to 1.
    pub waited: f64,
    /// Seconds of training so far, in this process and in earlier ones of the same run.
    pub seconds: f64,
}

fn by_name<S: Serializer>(parts: &[(&'static str, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(parts.iter().copied())
}

/// Watches a run. Every method may do nothing.
pub trait Observer {
    /// A step was issued, and its record given if it has one. The device may still be computing, so nothing may be read
    /// from it here.
    fn on_step(&mut self, _step: u64, _n_steps: u64) {}

    /// Whether to be shown the network after this step, the first being 1; such a step has a record, whichever others
    /// have.
    fn wants_network(&mut self, _step: u64, _n_steps: u64) -> bool {
        false
    }

    /// The network as a step left it, with weights that were found finite; the record of the step follows. The device
    /// has done all that was asked of it, so the time until this returns is the observer's own.
    ///
    /// It is there to be read: run it in [`Mode::Eval`](empssl_model::Mode::Eval) without gradients, write to none of
    /// its tensors, and draw nothing from libtorch's global generator. Then training goes on in the same bits as
    /// unwatched.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_network(&mut self, _network: &Network) -> Result<(), TrainError> {
        Ok(())
    }

    /// The metrics of a step were read.
    ///
    /// # Errors
    /// An error ends the run.
    fn on_record(&mut self, _record: &StepRecord) -> Result<(), TrainError> {
        Ok(())
    }

    /// A checkpoint is about to be saved. A run that goes on from it gives no record of a step before it again, so
    /// what was recorded must be safe on the disk when this returns.
    ///
    /// # Errors
    /// An error ends the run.
    fn before_save(&mut self) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Watches nothing.
impl Observer for () {}
