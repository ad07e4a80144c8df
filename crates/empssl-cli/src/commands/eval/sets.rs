//! The labelled images that a run is scored on.

use empssl_data::rng::shuffled;
use empssl_data::{Dataset, Split};

use crate::commands::{NO_EPOCH, SavedRun};
use crate::error::CliError;
use crate::ranks;
use crate::report::{PartialCounts, SkippedImage};

/// The labelled images that every row of the table is computed from.
pub(crate) struct LabelledSets {
    pub(crate) train: Dataset,
    pub(crate) test: Dataset,
    /// The place of each training image in the split as it was opened.
    pub(crate) train_ids: Vec<i64>,
    pub(crate) n_train_available: usize,
    /// Of the training split as it was opened.
    pub(crate) description: String,
    pub(crate) counts: Option<PartialCounts>,
    pub(crate) skipped: Vec<SkippedImage>,
    pub(crate) n_classes: i64,
    /// Classes of which no labelled training image is there.
    pub(crate) absent_classes: Vec<String>,
}

impl LabelledSets {
    /// The images of a run.
    pub(crate) fn open(saved: &SavedRun) -> Result<Self, CliError> {
        let (identity, at_most) = (&saved.identity, saved.run.config.evaluation.labelled_images);
        let train = saved.training_images()?;
        // Images without labels may have no test split either; the labels are what the user has to know of.
        demand_labels(&train)?;
        Self::of(&train, identity.data.source.open(Split::Test)?, at_most, identity.seed)
    }

    /// At most so many of the training images, chosen by the seed, and all test images.
    pub(crate) fn of(train: &Dataset, test: Dataset, at_most: usize, seed: u64) -> Result<Self, CliError> {
        demand_labels(train)?;
        let skipped = SkippedImage::of(train).into_iter().chain(SkippedImage::of(&test)).collect();
        let share = share(train.len(), at_most, seed);
        let labelled = train.subset(&share)?;
        let absent_classes = absent_classes(&labelled);
        if !absent_classes.is_empty() {
            let (absent, n) = (absent_classes.len(), train.class_names().len());
            let names = absent_classes[..absent.min(5)].join(", ");
            let more = if absent > 5 { ", ..." } else { "" };
            ranks::note(format_args!(
                "{absent} of {n} classes have no labelled training image ({names}{more}), so test images of theirs can \
                 hardly be right; evaluation.labelled_images is {at_most}"
            ));
        }
        Ok(Self {
            counts: PartialCounts::of(train, &test),
            n_train_available: train.len(),
            description: train.description(),
            n_classes: train.class_names().len() as i64,
            train: labelled,
            test,
            train_ids: share.into_iter().map(|index| index as i64).collect(),
            skipped,
            absent_classes,
        })
    }
}

/// The names of the classes that no image has.
fn absent_classes(set: &Dataset) -> Vec<String> {
    let mut present = vec![false; set.class_names().len()];
    for &label in set.labels().unwrap_or_default() {
        present[label as usize] = true;
    }
    let names = set.class_names().iter().zip(present);
    names.filter(|(_, present)| !present).map(|(name, _)| name.clone()).collect()
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
pub(crate) fn share(n: usize, at_most: usize, seed: u64) -> Vec<usize> {
    if at_most >= n {
        return (0..n).collect();
    }
    let mut indices = shuffled(n, seed, NO_EPOCH);
    indices.truncate(at_most);
    indices.sort_unstable();
    indices
}
