//! The labelled images that a run is scored on.

use empssl_data::{Dataset, Split};
use empssl_eval::protocol::held_out;

use crate::config::Run;
use crate::error::CliError;
use crate::images::share;
use crate::report::{Labelled, PartialCounts, ScoredOn, SkippedImage, partial_counts, skipped_images};
use crate::run::saved::SavedRun;

/// Labelled images of one split.
pub(crate) struct LabelledSplit {
    /// In names of files and in the report.
    pub(crate) name: &'static str,
    pub(crate) images: Dataset,
    /// The place of each image in the split as it was opened.
    pub(crate) ids: Vec<i64>,
}

impl LabelledSplit {
    fn new(name: &'static str, images: Dataset, ids: Vec<usize>) -> Self {
        Self { name, images, ids: ids.into_iter().map(|index| index as i64).collect() }
    }
}

/// The labelled images that every row of the table is computed from.
pub(crate) struct LabelledSets {
    pub(crate) train: LabelledSplit,
    /// The images that are scored.
    pub(crate) test: LabelledSplit,
    pub(crate) labelled: Labelled,
    /// Of the training split as it was opened.
    pub(crate) description: String,
    pub(crate) counts: Option<PartialCounts>,
    pub(crate) skipped: Vec<SkippedImage>,
    pub(crate) n_classes: i64,
}

impl LabelledSets {
    /// The images of a run.
    pub(crate) fn open(saved: &SavedRun) -> Result<Self, CliError> {
        let identity = &saved.identity;
        let train = saved.training_images()?;
        // Images without labels may have no test split either; the labels are what the user has to know of.
        demand_labels(&train)?;
        Self::of(&train, identity.data.source.open(Split::Test)?, &saved.run, identity.seed)
    }

    /// At most `labelled_images` of the training images, chosen by the seed, and all test images or the held-out ones.
    pub(crate) fn of(train: &Dataset, test: Dataset, run: &Run, seed: u64) -> Result<Self, CliError> {
        let (labels, evaluation) = (demand_labels(train)?, &run.config.evaluation);
        let skipped = skipped_images(train).into_iter().chain(skipped_images(&test)).collect();
        let (counts, at_most) = (partial_counts(train, &test), evaluation.labelled_images);
        let (learnt, test, test_ids) = match evaluation.scored_on {
            ScoredOn::Test => {
                let ids = (0..test.len()).collect();
                ((0..train.len()).collect(), test, ids)
            }
            ScoredOn::HeldOut => {
                let (learnt, held) = held_out(labels).ok_or_else(|| {
                    CliError::Recipe(format!(
                        "evaluation.scored_on = \"held-out\" needs at least 2 labelled training images, found {}",
                        labels.len()
                    ))
                })?;
                (learnt, train.subset(&held)?, held)
            }
        };
        let share: Vec<usize> = share(learnt.len(), at_most, seed).into_iter().map(|index| learnt[index]).collect();
        run.check_labelled(share.len())?;
        let absent_classes = absent_classes(train.class_names(), share.iter().map(|&index| labels[index]));
        if !absent_classes.is_empty() {
            let (absent, n) = (absent_classes.len(), train.class_names().len());
            let names = absent_classes[..absent.min(5)].join(", ");
            let more = if absent > 5 { ", ..." } else { "" };
            crate::print::note(format_args!(
                "{absent} of {n} classes have no labelled training image ({names}{more}), so test images of theirs can \
                 hardly be right; evaluation.labelled_images is {at_most}"
            ));
        }
        let labelled =
            Labelled { n_train: share.len(), n_train_available: learnt.len(), n_test: test.len(), absent_classes };
        Ok(Self {
            counts,
            labelled,
            description: train.description(),
            n_classes: train.class_names().len() as i64,
            train: LabelledSplit::new("train", train.subset(&share)?, share),
            test: LabelledSplit::new(evaluation.scored_on.split(), test, test_ids),
            skipped,
        })
    }
}

/// The names of the classes that no image has.
fn absent_classes(names: &[String], labels: impl Iterator<Item = u32>) -> Vec<String> {
    let mut present = vec![false; names.len()];
    labels.for_each(|label| present[label as usize] = true);
    names.iter().zip(present).filter(|(_, present)| !present).map(|(name, _)| name.clone()).collect()
}

/// Scores need labels; training does not.
fn demand_labels(set: &Dataset) -> Result<&[u32], CliError> {
    set.labels().ok_or_else(|| {
        let what = set.description();
        CliError::Unlabelled(format!(
            "{what}: the images have no labels, and scores need them; put each class in a folder of its own"
        ))
    })
}
