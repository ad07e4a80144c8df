//! What can go wrong while evaluating, one sentence each.

use std::path::PathBuf;

use empssl_data::DataError;
use empssl_torch::{ShimError, TorchFailure};
use thiserror::Error;

/// A refusal of the evaluation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A setting outside its range; NaN is outside every range.
    #[error("`{key}` must be {expected}, found {found}")]
    Setting {
        /// The key as recipes spell it, without the section that is all of this crate's.
        key: String,
        /// The range, in words that follow "must be".
        expected: &'static str,
        /// The value as given.
        found: String,
    },
    /// A number that is possible by itself, but not with the other settings.
    #[error("`{key}` = {value} is not possible: {rule}")]
    Impossible {
        /// The key, as in [`EvalError::Setting`].
        key: String,
        /// The value as given.
        value: usize,
        /// What is wrong with it.
        rule: String,
    },
    /// The images could not be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A bank without a single image.
    #[error("the bank `{bank}` holds no image, so there is nothing to score")]
    EmptyBank {
        /// Name of the bank.
        bank: String,
    },
    /// Images without labels.
    #[error(
        "the images of the bank `{bank}` have no labels, and a score is the share of labels that were predicted: \
         give a labelled data set, such as a folder with one sub-folder for each class"
    )]
    Unlabelled {
        /// Name of the bank.
        bank: String,
    },
    /// A label outside the classes of the data set.
    #[error("the bank `{bank}` gives image {row} the label {label}, but there are {n_classes} classes, counted from 0")]
    LabelOutOfRange {
        /// Name of the bank.
        bank: String,
        /// First row with such a label.
        row: i64,
        /// Its label.
        label: i64,
        /// Number of classes.
        n_classes: i64,
    },
    /// NaN or infinite features.
    #[error(
        "the features of the bank `{bank}` are not finite, first in row {row}: \
         the encoder's weights are damaged or its numbers overflow"
    )]
    NonFinite {
        /// Name of the bank.
        bank: String,
        /// First row with a feature that is NaN or infinite.
        row: i64,
    },
    /// A tensor of another shape or kind than the operation needs.
    #[error("{what} must be {expected}, found {found}")]
    Shape {
        /// The tensor, in words.
        what: String,
        /// Shape or kind that is needed.
        expected: String,
        /// Shape or kind as given.
        found: String,
    },
    /// Training and test features that cannot belong to the same encoder and data set.
    #[error("the bank `{test}` has {found}, but the bank `{train}` has {expected}: both must come from one encoder")]
    BanksDiffer {
        /// Name of the training bank.
        train: String,
        /// Name of the test bank.
        test: String,
        /// What the training bank has.
        expected: String,
        /// What the test bank has.
        found: String,
    },
    /// Fewer training images than one batch of the probe.
    #[error(
        "the bank `{bank}` holds {n_images} images, fewer than one batch of {batch_size}, and incomplete batches are \
         dropped: lower `batch_size` to at most {n_images}, or give more images"
    )]
    SmallerThanBatch {
        /// Name of the training bank.
        bank: String,
        /// Its number of images.
        n_images: i64,
        /// Images in one batch.
        batch_size: i64,
    },
    /// An output that the extractor does not offer.
    #[error("the encoder has no output `{wanted}`; it has {}", .offered.join(", "))]
    UnknownOutput {
        /// The name as asked for.
        wanted: String,
        /// The names that it has.
        offered: Vec<String>,
    },
    /// A file of features that cannot be opened or mapped.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of features that cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that is no whole bank of features.
    #[error("{path} cannot be used: {reason}; remove it, and the features are computed again")]
    BankFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Features of another encoder, other images or other patches than are asked for.
    #[error("{path} {reason}")]
    OtherBank {
        /// The file.
        path: PathBuf,
        /// What it holds.
        reason: String,
    },
    /// The device failed while features were computed or scored.
    #[error(transparent)]
    Device(#[from] ShimError),
    /// An operator of libtorch failed while features were scored.
    #[error(transparent)]
    Torch(#[from] TorchFailure),
    /// A probe whose weights overflowed.
    #[error("the linear probe diverged in epoch {epoch} at lr {lr}: choose a lower rate or scale the features down")]
    Diverged {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Rate of the first epoch.
        lr: f64,
    },
}

impl EvalError {
    /// The refusal of a setting unless `holds`; NaN fails when the condition is written so that it does.
    pub(crate) fn check(holds: bool, key: &str, expected: &'static str, found: impl ToString) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Setting { key: key.to_owned(), expected, found: found.to_string() }) }
    }

    /// The refusal of a setting by another key.
    pub(crate) fn renamed(self, name: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Setting { key, expected, found } => Self::Setting { key: name(key), expected, found },
            error => error,
        }
    }

    /// The refusal of a tensor whose sizes are not `expected`.
    pub(crate) fn check_sizes(what: &str, found: &[i64], expected: &[i64]) -> Result<(), Self> {
        if found == expected {
            return Ok(());
        }
        Err(Self::Shape { what: what.to_owned(), expected: format!("{expected:?}"), found: format!("{found:?}") })
    }
}
