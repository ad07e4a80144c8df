//! What can go wrong while training, one sentence each.

use std::path::PathBuf;

use empssl_data::DataError;
use empssl_loss::LossError;
use empssl_model::ModelError;
use empssl_torch::processes::GroupError;
use empssl_torch::{ShimError, TorchFailure};
use thiserror::Error;

/// A refusal of the training crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting outside its range; NaN is outside every range.
    #[error("`{key}` must be {expected}, found {found}")]
    Setting {
        /// The key as recipes spell it.
        key: &'static str,
        /// The range, in words that follow "must be".
        expected: &'static str,
        /// The value as given.
        found: String,
    },
    /// Parameters, gradients or saved buffers that the optimizer cannot work with, every mismatch listed.
    #[error("{what} do not fit the optimizer: {problems}")]
    Mismatch {
        /// Which tensors: "the parameters", "the gradients", "the saved momentum buffers".
        what: &'static str,
        /// Each tensor by name with what was found and what was expected, separated by semicolons.
        problems: String,
    },
    /// The loss or a weight is no longer finite.
    #[error(
        "{what} is not finite at step {step} (last finite loss: {last_loss}); nothing was saved since, the last good \
         checkpoint is untouched; lower the learning rate or look at the data"
    )]
    NotFinite {
        /// `the loss`, or the first parameter or buffer found, by name.
        what: String,
        /// The step at which it was noticed, counted from 1.
        step: u64,
        /// The last finite loss that was read.
        last_loss: String,
    },
    /// The machine has too little memory.
    #[error("out of memory at {n_patches} patches x {batch_size} images a step: {failure}; {advice}")]
    OutOfMemory {
        /// n.
        n_patches: usize,
        /// b.
        batch_size: usize,
        /// What the allocator said.
        failure: TorchFailure,
        /// The setting that would fit.
        advice: String,
    },
    /// A checkpoint file cannot be used.
    #[error("the checkpoint {path} cannot be used: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Every checkpoint of a run is damaged.
    #[error("{damage}; no earlier checkpoint is there to go on from, so train anew")]
    NoneWhole {
        /// What is wrong with the newest.
        damage: Box<TrainError>,
    },
    /// A checkpoint could not be written.
    #[error("the checkpoint of step {step} was not saved: {failure}; what was saved before is untouched")]
    Save {
        /// The step it belongs to.
        step: u64,
        /// The file, and what the system said.
        failure: Box<TrainError>,
    },
    /// A checkpoint of another run.
    #[error("the checkpoint belongs to another run: its `{key}` is {found}, this run's is {expected}")]
    OtherRun {
        /// What differs.
        key: &'static str,
        /// Its value in the checkpoint.
        found: String,
        /// Its value in this run.
        expected: String,
    },
    /// The processes of a run cannot go on together.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// An observer failed, and with it the run.
    #[error("{0}")]
    Observer(String),
    /// The images or their patches.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network or its weights.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The objective.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchFailure),
    /// libtorch refused a request.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

impl TrainError {
    /// The refusal of a setting unless `holds`; NaN fails when the condition is written so that it does.
    pub(crate) fn check(
        holds: bool,
        key: &'static str,
        expected: &'static str,
        found: impl ToString,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Setting { key, expected, found: found.to_string() }) }
    }

    /// The refusal of a set of tensors unless there is no problem with any.
    pub(crate) fn check_tensors(what: &'static str, problems: Vec<String>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::Mismatch { what, problems: problems.join("; ") }) }
    }
}
