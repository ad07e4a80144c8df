//! Weighted k-nearest-neighbour classification: no training, so it judges the features alone.
//!
//! [`WeightedKnn`] votes by one setting; [`KnnGrid`] by many, in one pass over the similarities. How near images are
//! found is the business of `nearest`, how they vote that of `votes`.

mod grid;
mod nearest;
mod votes;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use self::nearest::{Chunks, Searcher};
use self::votes::{Tally, Weight};
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

pub use self::grid::{KnnCell, KnnGrid, KnnGridConfig};

/// What makes two rows of features near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cosine of the angle; a neighbour of cosine `s` weighs `exp(s / T)`.
    Cosine,
    /// Distance `r` of the rows as they are; a neighbour weighs `1 / (r + 1e-5)` and the temperature has no effect.
    Euclidean,
}

/// Settings of [`WeightedKnn`]; every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnConfig {
    /// Number of neighbours k; with fewer training images all of them vote.
    pub k: i64,
    /// Temperature T of the cosine's weights.
    pub temperature: f64,
    /// Which rows are near.
    pub metric: Metric,
}

impl KnnConfig {
    /// The reference's evaluation: 20 neighbours by cosine at temperature 0.07 (tsb0601/EMP-SSL `func.py:24-173`).
    pub fn published() -> Self {
        Self { k: 20, temperature: 0.07, metric: Metric::Cosine }
    }

    fn weight(&self) -> Weight {
        match self.metric {
            Metric::Cosine => Weight::Exponential { temperature: self.temperature },
            Metric::Euclidean => Weight::Similarity,
        }
    }
}

fn check_k(k: i64) -> Result<(), EvalError> {
    EvalError::check(k >= 1, "k", "at least 1", k)
}

fn check_temperature(temperature: f64) -> Result<(), EvalError> {
    let positive = temperature > 0.0 && temperature.is_finite();
    EvalError::check(positive, "temperature", "positive and finite", temperature)
}

/// The class of an image is voted by its nearest training images, near ones weighing more (tsb0601/EMP-SSL `func.py`,
/// `WeightedKNNClassifier`).
///
/// The score of a class is the sum of the weights of the neighbours that have it.
/// Ties are settled, so that a score depends on neither device nor chunking: of training images at exactly the same
/// similarity the earlier row is the nearer, and of classes at the same score the lower number is the better.
///
/// Similarities are computed in the kind of the banks, weights and their sums in float64.
///
/// Memory: a piece of the similarity matrix of bounded size, and `[test images, classes]` scores.
#[derive(Clone, Debug)]
pub struct WeightedKnn {
    config: KnnConfig,
}

impl WeightedKnn {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EvalError::Setting`] when k is below 1 or the temperature is not positive and finite.
    pub fn new(config: &KnnConfig) -> Result<Self, EvalError> {
        check_k(config.k)?;
        check_temperature(config.temperature)?;
        Ok(Self { config: config.clone() })
    }

    /// Accuracy on the test bank; as in the reference, top-5 counts at most k classes.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the banks differ in width, classes, kind or device; [`EvalError::Device`].
    pub fn score(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Accuracy, EvalError> {
        Accuracy::among(&self.class_scores(train, test)?, test.labels(), self.config.k)
    }

    /// Class scores `[test images, c]`, those of an image divided by the weight of its nearest neighbour under
    /// [`Metric::Cosine`].
    ///
    /// The division keeps a small temperature from overflowing and changes no order within a row.
    ///
    /// # Errors
    /// As [`WeightedKnn::score`].
    pub fn class_scores(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Tensor, EvalError> {
        self.class_scores_in_chunks(train, test, &Chunks::of(train))
    }

    fn class_scores_in_chunks(
        &self,
        train: &FeatureBank,
        test: &FeatureBank,
        chunks: &Chunks,
    ) -> Result<Tensor, EvalError> {
        let n_classes = train.n_classes();
        let mut tally = Tally::new(n_classes as usize, self.config.weight());
        let mut scores = Vec::with_capacity((test.n_images() * n_classes) as usize);
        Searcher::new(train, test, self.config.k, &[self.config.metric])?.search(chunks, &mut |_, found| {
            scores.extend_from_slice(tally.vote_all(&found[0]));
        })?;
        let scores = Tensor::from_slice(&scores).view([test.n_images(), n_classes]);
        Ok(scores.to_kind(train.features().kind()).to_device(train.features().device()))
    }
}

#[cfg(test)]
mod tests;
