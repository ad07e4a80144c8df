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
use crate::among::Among;
use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::{Accuracy, hits};

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
        self.score_among(Among::ALONE, train, test)
    }

    /// [`WeightedKnn::score`] by all ranks, which deal out the test images; it is the same whatever their number.
    ///
    /// # Errors
    /// As [`WeightedKnn::score`]; [`EvalError::Group`] when a rank is lost.
    pub fn score_among(
        &self,
        among: Among<'_>,
        train: &FeatureBank,
        test: &FeatureBank,
    ) -> Result<Accuracy, EvalError> {
        let own = self.hits(among, train, test, &Chunks::of(train))?;
        let all = among.sum(own.to_vec())?;
        Ok(Accuracy::counted([all[0], all[1]], test.n_images()))
    }

    /// Of this rank's test images those whose class is the best and among the best.
    fn hits(
        &self,
        among: Among<'_>,
        train: &FeatureBank,
        test: &FeatureBank,
        chunks: &Chunks,
    ) -> Result<[i64; 2], EvalError> {
        let (rows, scores) = self.scores_of_own_rows(among, train, test, chunks)?;
        if rows.is_empty() {
            return Ok([0; 2]);
        }
        let labels = test.labels().index_select(0, &Tensor::from_slice(&rows).to_device(test.labels().device()));
        let hits = hits(&scores, &labels, &[1, self.config.k.min(5)])?;
        Ok([hits[0], hits[1]])
    }

    /// Class scores `[test images, c]`, those of an image divided by the weight of its nearest neighbour under
    /// [`Metric::Cosine`].
    ///
    /// The division keeps a small temperature from overflowing and changes no order within a row.
    ///
    /// # Errors
    /// As [`WeightedKnn::score`].
    pub fn class_scores(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Tensor, EvalError> {
        Ok(self.scores_of_own_rows(Among::ALONE, train, test, &Chunks::of(train))?.1)
    }

    /// This rank's test rows and their class scores `[rows, c]`.
    fn scores_of_own_rows(
        &self,
        among: Among<'_>,
        train: &FeatureBank,
        test: &FeatureBank,
        chunks: &Chunks,
    ) -> Result<(Vec<i64>, Tensor), EvalError> {
        let n_classes = train.n_classes();
        let mut tally = Tally::new(n_classes as usize, self.config.weight());
        let (mut rows, mut scores) = (Vec::new(), Vec::new());
        Searcher::new(train, test, self.config.k, &[self.config.metric])?.search(
            among,
            chunks,
            &mut |row, found| {
                rows.push(row as i64);
                scores.extend_from_slice(tally.vote_all(&found[0]));
            },
        )?;
        let scores = Tensor::from_slice(&scores).view([rows.len() as i64, n_classes]);
        Ok((rows, scores.to_kind(train.features().kind()).to_device(train.features().device())))
    }
}

#[cfg(test)]
mod dealt_tests;
#[cfg(test)]
mod tests;
