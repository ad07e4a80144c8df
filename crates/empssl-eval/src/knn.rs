//! Weighted k-nearest-neighbour classification: no training, so it judges the features alone.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::EvalError;
use crate::features::FeatureBank;
use crate::metrics::Accuracy;

/// Most numbers in one piece of the similarity matrix: 32 MiB in float32, whatever the sizes of the banks.
const ELEMENTS_AT_ONCE: i64 = 1 << 23;

/// Smallest length that a row is divided by, so that a row of zeros stays one.
const SMALLEST_NORM: f64 = 1e-12;

/// Added to a distance before it is inverted, so that identical rows have a finite similarity.
const SMALLEST_DISTANCE: f64 = 1e-5;

/// What makes two rows of features near.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// The class of an image is voted by its nearest training images, near ones weighing more (tsb0601/EMP-SSL `func.py`,
/// `WeightedKNNClassifier`).
///
/// The score of a class is the sum of the weights of the neighbours that have it.
/// Ties are settled, so that a score depends on neither device nor chunking: of training images at exactly the same
/// similarity the earlier row is the nearer, and of classes at the same score the lower number is the better.
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
        EvalError::check(config.k >= 1, "k", "at least 1", config.k)?;
        let positive = config.temperature > 0.0 && config.temperature.is_finite();
        EvalError::check(positive, "temperature", "positive and finite", config.temperature)?;
        Ok(Self { config: config.clone() })
    }

    /// Accuracy on the test bank; as in the reference, top-5 counts at most k classes.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the banks differ in width, classes, kind or device.
    pub fn score(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Accuracy, EvalError> {
        Accuracy::among(&self.class_scores(train, test)?, test.labels(), self.config.k)
    }

    /// Class scores `[test images, c]`, those of an image divided by the weight of its nearest neighbour under
    /// [`Metric::Cosine`].
    ///
    /// The division keeps a small temperature from overflowing and changes no order within a row.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the banks differ in width, classes, kind or device.
    pub fn class_scores(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Tensor, EvalError> {
        train.check_test(test)?;
        let _guard = tch::no_grad_guard();
        Ok(self.class_scores_in_chunks(train, test, ELEMENTS_AT_ONCE))
    }

    fn class_scores_in_chunks(&self, train: &FeatureBank, test: &FeatureBank, elements_at_once: i64) -> Tensor {
        let voters = Voters::new(&self.config, train);
        let (n_test, rows) = (test.n_images(), voters.rows_at_once(elements_at_once));
        let scores = Tensor::empty([n_test, train.n_classes()], (train.features().kind(), train.features().device()));
        for start in (0..n_test).step_by(rows as usize) {
            let chunk = rows.min(n_test - start);
            let (similarity, neighbour) = voters.nearest(&test.features().narrow(0, start, chunk));
            scores.narrow(0, start, chunk).copy_(&voters.votes(&similarity, &neighbour));
        }
        scores
    }
}

/// The training bank, made ready to be compared with.
struct Voters<'a> {
    config: &'a KnnConfig,
    bank: &'a FeatureBank,
    /// Length of each row, `[images]`, squared for euclidean distances.
    lengths: Tensor,
    k: i64,
}

impl<'a> Voters<'a> {
    fn new(config: &'a KnnConfig, bank: &'a FeatureBank) -> Self {
        let lengths = row_norms(bank.features()).squeeze_dim(1);
        let lengths = match config.metric {
            Metric::Cosine => lengths.clamp_min(SMALLEST_NORM),
            Metric::Euclidean => lengths.square(),
        };
        Self { config, bank, lengths, k: config.k.min(bank.n_images()) }
    }

    /// How many test rows keep similarities and votes within a number of elements.
    fn rows_at_once(&self, elements: i64) -> i64 {
        (elements / (self.bank.n_images() + self.k * self.bank.n_classes())).max(1)
    }

    /// Similarities and rows of the nearest training images of `features` `[m, h]`, both `[m, k]`, nearest first.
    fn nearest(&self, features: &Tensor) -> (Tensor, Tensor) {
        let similarity = match self.config.metric {
            Metric::Cosine => self.cosines(features),
            Metric::Euclidean => self.inverse_distances(features),
        };
        best_of_rows(&similarity, self.k)
    }

    /// Cosines `[m, images]`; dividing the products by the lengths spares a normalised copy of the bank.
    fn cosines(&self, features: &Tensor) -> Tensor {
        let directions = normalise_rows(features);
        let mut products = directions.matmul(&self.bank.features().tr());
        products.divide_(&self.lengths)
    }

    /// `1 / (distance + 1e-5)`, `[m, images]`, from `|a - b|^2 = |a|^2 - 2 a b + |b|^2`.
    fn inverse_distances(&self, features: &Tensor) -> Tensor {
        let mut squares = (features * -2.0).matmul(&self.bank.features().tr());
        squares += row_norms(features).square();
        squares += &self.lengths;
        let mut distances = squares.clamp_min_(0.0).sqrt_();
        distances += SMALLEST_DISTANCE;
        distances.reciprocal_()
    }

    /// Class scores `[m, c]` of neighbours `[m, k]`.
    fn votes(&self, similarity: &Tensor, neighbour: &Tensor) -> Tensor {
        let weights = match self.config.metric {
            Metric::Cosine => ((similarity - similarity.narrow(1, 0, 1)) / self.config.temperature).exp(),
            Metric::Euclidean => similarity.shallow_clone(),
        };
        let labels = self.bank.labels().index_select(0, &neighbour.flatten(0, 1)).view_as(neighbour).unsqueeze(2);
        let classes = Tensor::arange(self.bank.n_classes(), (Kind::Int64, labels.device()));
        // A product with indicators [m, k, c], since scattered sums are not reproducible on a GPU.
        let belongs = labels.eq_tensor(&classes).to_kind(weights.kind());
        weights.unsqueeze(1).matmul(&belongs).squeeze_dim(1)
    }
}

fn row_norms(rows: &Tensor) -> Tensor {
    rows.norm_scalaropt_dim(2, [1i64], true)
}

fn normalise_rows(rows: &Tensor) -> Tensor {
    rows / row_norms(rows).clamp_min(SMALLEST_NORM)
}

/// The k largest values of each row and their columns, largest first; of equal values the first columns.
///
/// `topk` alone leaves open which of several equal values it returns, which matters when not all of them fit.
/// So one value more is asked for, and rows in which it equals the last are sorted in full; that is rare.
fn best_of_rows(values: &Tensor, k: i64) -> (Tensor, Tensor) {
    if k == values.size()[1] {
        return values.sort_stable(true, 1, true);
    }
    let (more, more_columns) = values.topk(k + 1, 1, true, true);
    let (best, mut columns) = (more.narrow(1, 0, k), more_columns.narrow(1, 0, k));
    let tied = best.select(1, k - 1).eq_tensor(&more.select(1, k)).nonzero().flatten(0, -1);
    if tied.numel() > 0 {
        let (_, sorted) = values.index_select(0, &tied).sort_stable(true, 1, true);
        columns = columns.index_copy(0, &tied, &sorted.narrow(1, 0, k));
    }
    (best, columns)
}
