//! The score where few of the training images have labels.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::FEW_PART;
use super::holdout::{rows_by_class, shuffle_class};
use super::logistic::{LogisticProbe, LogisticProbeConfig};
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

/// A [`LogisticProbe`] on the same share of every class, several times with other images.
///
/// Everything, the strength of the penalty included, is chosen from those few images alone.
#[derive(Clone, Debug)]
pub struct FewLabels {
    config: LogisticProbeConfig,
    share: f64,
    seeds: Vec<u64>,
}

/// What [`FewLabels`] scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FewLabelsScore {
    /// Training images of each class; fewer of a class that has fewer.
    pub n_per_class: i64,
    /// Training images in all.
    pub n_train: i64,
    /// Accuracy on the test bank for each seed.
    pub accuracies: Vec<Accuracy>,
}

impl FewLabels {
    /// Checks the settings: the `share` of the training images that have labels, and one seed for each choice of them.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for a share outside `(0, 1]` and for no seeds; as [`LogisticProbe::new`].
    pub fn new(config: &LogisticProbeConfig, share: f64, seeds: &[u64]) -> Result<Self, EvalError> {
        EvalError::check(share > 0.0 && share <= 1.0, "share", "above 0 and at most 1", share)?;
        EvalError::check(!seeds.is_empty(), "seeds", "at least one seed", "none")?;
        LogisticProbe::new(config, 0)?;
        Ok(Self { config: config.clone(), share, seeds: seeds.to_vec() })
    }

    /// Fits and scores once for each seed.
    ///
    /// # Errors
    /// As [`LogisticProbe::fit`] and [`super::FittedProbe::score`].
    pub fn score(&self, train: &FeatureBank, test: &FeatureBank) -> Result<FewLabelsScore, EvalError> {
        train.signature().check(test)?;
        let n_per_class = self.n_per_class(train);
        let (mut accuracies, mut n_train) = (Vec::new(), 0);
        for &seed in &self.seeds {
            let rows = Tensor::from_slice(&balanced(train, n_per_class, seed)).to_device(train.features().device());
            let (features, labels) = (train.features().index_select(0, &rows), train.labels().index_select(0, &rows));
            let few = FeatureBank::new(train.name(), &features, &labels, train.n_classes())?;
            n_train = few.n_images();
            accuracies.push(LogisticProbe::new(&self.config, seed)?.fit(&few)?.probe.score(test)?);
        }
        Ok(FewLabelsScore { n_per_class, n_train, accuracies })
    }

    /// The share of an even class, at least one image.
    fn n_per_class(&self, train: &FeatureBank) -> i64 {
        let even = train.n_images() as f64 / train.n_classes() as f64;
        (even * self.share).round().max(1.0) as i64
    }
}

/// So many rows of every class, or all that it has, ascending.
fn balanced(train: &FeatureBank, n_per_class: i64, seed: u64) -> Vec<i64> {
    let mut chosen = Vec::new();
    for mut rows in rows_by_class(train) {
        shuffle_class(&mut rows, train, seed, FEW_PART);
        rows.truncate(n_per_class as usize);
        chosen.append(&mut rows);
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bank, clusters, refusal, values};
    use tch::Kind;

    fn few(share: f64, seeds: &[u64]) -> Result<FewLabels, EvalError> {
        FewLabels::new(&LogisticProbeConfig::usual(), share, seeds)
    }

    #[test]
    fn every_class_gives_the_same_number_of_images_at_least_one() {
        let train = clusters("train", 200, 0.3, Kind::Float);
        let labels = values(train.labels());
        for (share, n_per_class) in [(0.1, 5), (0.01, 1), (1e-9, 1), (1.0, 50)] {
            assert_eq!(few(share, &[0]).unwrap().n_per_class(&train), n_per_class);
            let rows = balanced(&train, n_per_class, 0);
            let count = |class| rows.iter().filter(|&&row| labels[row as usize] == f64::from(class)).count() as i64;
            assert_eq!([0, 1, 2, 3].map(count), [n_per_class; 4]);
            assert!(rows.is_sorted_by(|a, b| a < b));
        }
        assert_eq!(balanced(&bank("train", &[[0.0], [1.0], [2.0]], &[2, 0, 2], 3), 2, 0), [0, 1, 2]);
        assert_eq!(balanced(&train, 3, 1), balanced(&train, 3, 1));
        assert_ne!(balanced(&train, 3, 1), balanced(&train, 3, 2));
    }

    #[test]
    fn more_labels_score_better_and_each_seed_scores_once() {
        let (train, test) = (clusters("train", 400, 1.5, Kind::Float), clusters("test", 101, 1.4, Kind::Float));
        let mean = |share: f64| {
            let score = few(share, &[0, 1, 2, 3]).unwrap().score(&train, &test).unwrap();
            assert_eq!((score.accuracies.len(), score.n_train), (4, 4 * score.n_per_class));
            score.accuracies.iter().map(|accuracy| accuracy.top1).sum::<f64>() / 4.0
        };
        let (one, ten, all) = (mean(0.01), mean(0.1), mean(1.0));
        assert!(25.0 < one && one < ten && ten < all, "{one} {ten} {all}");
    }

    #[test]
    fn refuses_shares_seeds_and_banks_without_meaning() {
        for share in [0.0, -0.1, 1.1, f64::NAN] {
            let expected = format!("`share` must be above 0 and at most 1, found {share}");
            assert_eq!(refusal(few(share, &[0])), expected);
        }
        assert_eq!(refusal(few(0.1, &[])), "`seeds` must be at least one seed, found none");
        let message = refusal(
            few(0.1, &[0]).unwrap().score(&clusters("train", 8, 0.1, Kind::Double), &bank("test", &[[1.0]], &[0], 4)),
        );
        assert!(message.starts_with("the bank `test` has 1 features"), "{message}");
    }
}
