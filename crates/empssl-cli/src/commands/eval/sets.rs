//! The labelled images that a run is scored on.

use empssl_data::rng::shuffled;
use empssl_data::{Dataset, Split};

use crate::commands::{NO_EPOCH, SavedRun};
use crate::error::CliError;
use crate::report::{PartialCounts, SkippedImage};

/// The labelled images that every row of the table is computed from.
pub(crate) struct LabelledSets {
    pub(crate) train: Dataset,
    pub(crate) test: Dataset,
    pub(crate) n_train_available: usize,
    /// Of the training split as it was opened.
    pub(crate) description: String,
    pub(crate) counts: Option<PartialCounts>,
    pub(crate) skipped: Vec<SkippedImage>,
    pub(crate) n_classes: i64,
}

impl LabelledSets {
    pub(crate) fn open(saved: &SavedRun) -> Result<Self, CliError> {
        let (identity, at_most) = (&saved.identity, saved.run.config.evaluation.labelled_images);
        let train = saved.training_images()?;
        demand_labels(&train)?;
        let test = identity.data.source.open(Split::Test)?;
        let skipped = SkippedImage::of(&train).into_iter().chain(SkippedImage::of(&test)).collect();
        let counts = PartialCounts::of(&train, &test);
        let (n_train_available, description) = (train.len(), train.description());
        let n_classes = train.class_names().len() as i64;
        let train = train.subset(&share(n_train_available, at_most, identity.seed))?;
        Ok(Self { train, test, n_train_available, description, counts, skipped, n_classes })
    }
}

/// Scores need labels; training does not.
fn demand_labels(set: &Dataset) -> Result<(), CliError> {
    if set.labels().is_some() {
        return Ok(());
    }
    let what = set.description();
    Err(CliError::Unlabelled(format!(
        "{what}: the images have no labels, and scores need them; put each class in a folder of its own"
    )))
}

/// A random share of `0..n`, in order: the same for every row, and for every run of the same seed.
fn share(n: usize, at_most: usize, seed: u64) -> Vec<usize> {
    if at_most >= n {
        return (0..n).collect();
    }
    let mut indices = shuffled(n, seed, NO_EPOCH);
    indices.truncate(at_most);
    indices.sort_unstable();
    indices
}
