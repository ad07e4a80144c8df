//! The labelled images that a run is scored on.

use empssl_data::rng::shuffled;
use empssl_data::{Dataset, Split};

use crate::config::{EvaluationSection, ScoredOn};
use crate::error::CliError;
use crate::images::NO_EPOCH;
use crate::images::share;
use crate::report::{PartialCounts, SkippedImage, partial_counts, skipped_images};
use crate::run::saved::SavedRun;

/// The labelled images that every row of the table is computed from.
pub(crate) struct LabelledSets {
    pub(crate) train: Dataset,
    /// The images that are scored.
    pub(crate) test: Dataset,
    /// The place of each training image in the split as it was opened.
    pub(crate) train_ids: Vec<i64>,
    /// The same of each scored image, in the split that it is from.
    pub(crate) test_ids: Vec<i64>,
    pub(crate) scored_on: ScoredOn,
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
        let (identity, evaluation) = (&saved.identity, &saved.run.config.evaluation);
        let train = saved.training_images()?;
        // Images without labels may have no test split either; the labels are what the user has to know of.
        demand_labels(&train)?;
        Self::of(&train, identity.data.source.open(Split::Test)?, evaluation, identity.seed)
    }

    /// At most `labelled_images` of the training images, chosen by the seed, and all test images or the held-out ones.
    pub(crate) fn of(
        train: &Dataset,
        test: Dataset,
        evaluation: &EvaluationSection,
        seed: u64,
    ) -> Result<Self, CliError> {
        let labels = demand_labels(train)?;
        let skipped = skipped_images(train).into_iter().chain(skipped_images(&test)).collect();
        let (counts, at_most) = (partial_counts(train, &test), evaluation.labelled_images);
        let (learnt, test, test_ids) = match evaluation.scored_on {
            ScoredOn::Test => {
                let ids = (0..test.len()).collect();
                ((0..train.len()).collect(), test, ids)
            }
            ScoredOn::HeldOut => {
                let (learnt, held) = held_out(labels)?;
                (learnt, train.subset(&held)?, held)
            }
        };
        let share: Vec<usize> = share(learnt.len(), at_most, seed).into_iter().map(|index| learnt[index]).collect();
        evaluation.check_labelled(share.len())?;
        let labelled = train.subset(&share)?;
        let absent_classes = absent_classes(&labelled);
        if !absent_classes.is_empty() {
            let (absent, n) = (absent_classes.len(), train.class_names().len());
            let names = absent_classes[..absent.min(5)].join(", ");
            let more = if absent > 5 { ", ..." } else { "" };
            crate::print::line(format_args!(
                "note: {absent} of {n} classes have no labelled training image ({names}{more}), so test images of theirs can \
                 hardly be right; evaluation.labelled_images is {at_most}"
            ));
        }
        Ok(Self {
            counts,
            n_train_available: learnt.len(),
            description: train.description(),
            n_classes: train.class_names().len() as i64,
            train: labelled,
            test,
            train_ids: share.into_iter().map(|index| index as i64).collect(),
            test_ids: test_ids.into_iter().map(|index| index as i64).collect(),
            scored_on: evaluation.scored_on,
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
fn demand_labels(set: &Dataset) -> Result<&[u32], CliError> {
    set.labels().ok_or_else(|| {
        let what = set.description();
        CliError::Unlabelled(format!(
            "{what}: the images have no labels, and scores need them; put each class in a folder of its own"
        ))
    })
}

/// Held-out images, at least, where as many are left to learn from.
const LEAST_HELD_OUT: usize = 5_000;

/// What the held-out images are drawn by: they are the same for every run.
const HELD_OUT_SEED: u64 = 0;

/// The numbers of the images that may be learnt from and of those that are held out, a tenth with its share of every
/// class; each ascending.
fn held_out(labels: &[u32]) -> Result<(Vec<usize>, Vec<usize>), CliError> {
    let n = labels.len();
    if n < 2 {
        let reason =
            format!("evaluation.scored_on = \"held-out\" needs at least 2 labelled training images, found {n}");
        return Err(CliError::Recipe(reason));
    }
    let n_held = match n.div_ceil(10) {
        tenth if tenth < LEAST_HELD_OUT && n >= 2 * LEAST_HELD_OUT => LEAST_HELD_OUT,
        tenth => tenth,
    };
    let mut counts = vec![0.0; labels.iter().max().map_or(0, |&last| last as usize + 1)];
    labels.iter().for_each(|&label| counts[label as usize] += 1.0);
    // In a random order each image has a place in its class, from 0 to 1; the first places of all classes are held out.
    let mut seen = vec![0.5; counts.len()];
    let mut places: Vec<(f64, usize)> = Vec::with_capacity(n);
    for index in shuffled(n, HELD_OUT_SEED, NO_EPOCH) {
        let class = labels[index] as usize;
        places.push((seen[class] / counts[class], index));
        seen[class] += 1.0;
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let numbers = |places: &[(f64, usize)]| {
        let mut numbers: Vec<usize> = places.iter().map(|&(_, index)| index).collect();
        numbers.sort_unstable();
        numbers
    };
    Ok((numbers(&places[n_held..]), numbers(&places[..n_held])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_with_its_share_of_every_class_is_held_out() {
        // 300, 200 and 100 images of three classes, in turn.
        let labels: Vec<u32> = (0..600).map(|index| [0, 1, 0, 1, 0, 2][index % 6]).collect();
        let (learnt, held) = held_out(&labels).unwrap();
        let count = |class| held.iter().filter(|&&index| labels[index] == class).count();
        assert_eq!([0, 1, 2].map(count), [30, 20, 10]);
        assert!(learnt.is_sorted() && held.is_sorted());
        let mut all = [learnt, held.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..600).collect::<Vec<_>>());
        assert_eq!(held_out(&labels).unwrap().1, held);
        assert_ne!(held, (0..60).collect::<Vec<_>>(), "drawn at random");
    }

    #[test]
    fn at_least_5000_are_held_out_where_as_many_are_left() {
        let held = |n: usize| held_out(&vec![0; n]).unwrap().1.len();
        assert_eq!([2, 9_999, 10_000, 49_999, 50_000, 60_000].map(held), [1, 1_000, 5_000, 5_000, 5_000, 6_000]);
        let refusal = held_out(&[0]).unwrap_err().to_string();
        assert!(refusal.contains("needs at least 2 labelled training images, found 1"), "{refusal}");
    }
}
