//! Weighted k-nearest-neighbour classification: no training, so it judges the features alone.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::EvalError;
use crate::features::{FeatureBank, SMALLEST_NORM};
use crate::metrics::{Accuracy, hits};

/// Most numbers of one piece of the similarity matrix, 16 MiB of float32: few beside the banks, also where every row is
/// sorted in full, and enough rows for the product to run at the machine's rate.
const SIMILARITIES_AT_ONCE: i64 = 1 << 22;

/// Settings of [`WeightedKnn`]; every key must be given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnnConfig {
    /// Numbers of neighbours k, each of which is scored; with fewer training images all of them vote.
    pub k: Vec<i64>,
    /// Temperature T: a neighbour of cosine `s` weighs `exp(s / T)`.
    pub temperature: f64,
}

impl KnnConfig {
    /// The reference's evaluation: 20 neighbours at temperature 0.07 (tsb0601/EMP-SSL `func.py:24-173`).
    pub fn published() -> Self {
        Self { k: vec![20], temperature: 0.07 }
    }

    /// The k whose accuracy is "the" kNN accuracy: the published 20 where it is listed, otherwise the first.
    pub fn main_k(&self) -> i64 {
        let published = self.k.iter().find(|&&k| k == 20);
        published.or(self.k.first()).copied().unwrap_or_default()
    }

    fn check(&self) -> Result<(), EvalError> {
        EvalError::check(!self.k.is_empty(), "k", "at least one number", "[]")?;
        self.k.iter().try_for_each(|&k| EvalError::check(k >= 1, "k", "at least 1", k))?;
        let twice = self.k.iter().enumerate().any(|(index, k)| self.k[..index].contains(k));
        EvalError::check(!twice, "k", "numbers of which none is there twice", format!("{:?}", self.k))?;
        let positive = self.temperature > 0.0 && self.temperature.is_finite();
        EvalError::check(positive, "temperature", "positive and finite", self.temperature)
    }
}

/// The accuracy of one k.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnnScore {
    /// Number of neighbours that voted.
    pub k: i64,
    /// Accuracy on the test bank; as in the reference, top-5 counts at most k classes.
    pub accuracy: Accuracy,
}

/// The class of an image is voted by its nearest training images by cosine, near ones weighing more (tsb0601/EMP-SSL
/// `func.py`, `WeightedKNNClassifier`).
///
/// The score of a class is the sum of the weights of the neighbours that have it.
/// Ties are settled, so that a score does not depend on the device: of training images at exactly the same similarity
/// the earlier row is the nearer, and of classes at the same score the lower number is the better.
///
/// Similarities are computed in the kind of the banks, weights and their sums in float64 on the host.
/// Memory: 16 MiB for a piece of the similarity matrix and up to five times as much to search it.
#[derive(Clone, Debug)]
pub struct WeightedKnn {
    config: KnnConfig,
}

impl WeightedKnn {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`EvalError::Setting`] when there is no k, one is below 1 or listed twice, or the temperature is not positive and
    /// finite.
    pub fn new(config: &KnnConfig) -> Result<Self, EvalError> {
        config.check()?;
        Ok(Self { config: config.clone() })
    }

    /// Accuracy on the test bank by [`KnnConfig::main_k`] neighbours.
    ///
    /// # Errors
    /// As [`WeightedKnn::score_each`].
    pub fn score(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Accuracy, EvalError> {
        let one = Self { config: KnnConfig { k: vec![self.config.main_k()], ..self.config.clone() } };
        Ok(one.score_each(train, test)?[0].accuracy)
    }

    /// The score of every k in one pass over the similarities: that of [`KnnConfig::main_k`] first, then the others as
    /// they are listed. None is chosen: choosing by the test accuracy would flatter it.
    ///
    /// # Errors
    /// [`EvalError::BanksDiffer`] when the banks differ in width, classes, kind or device.
    pub fn score_each(&self, train: &FeatureBank, test: &FeatureBank) -> Result<Vec<KnnScore>, EvalError> {
        let mut ks = self.config.k.clone();
        ks.sort_by_key(|&k| k != self.config.main_k());
        let mut counts = vec![[0; 2]; ks.len()];
        let [classes, labels] = [train, test].map(|bank| bank.labels().to_device(Device::Cpu));
        self.search(train, test, SIMILARITIES_AT_ONCE, &mut |first, neighbours| {
            let labels = labels.narrow(0, first, neighbours.n_rows());
            for (&k, counts) in ks.iter().zip(&mut counts) {
                let scores = neighbours.class_scores(&classes, train.n_classes(), k, self.config.temperature);
                for (count, hits) in counts.iter_mut().zip(hits(&scores, &labels, &[1, k.min(5)])?) {
                    *count += hits;
                }
            }
            Ok(())
        })?;
        let scores = ks.into_iter().zip(counts);
        Ok(scores.map(|(k, hits)| KnnScore { k, accuracy: Accuracy::counted(hits, test.n_images()) }).collect())
    }

    /// Shows the neighbours of the largest k, some test rows at a time, with the number of the first of these rows.
    fn search(
        &self,
        train: &FeatureBank,
        test: &FeatureBank,
        at_once: i64,
        found: &mut dyn FnMut(i64, &Neighbours) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        train.signature().check(test)?;
        let _guard = tch::no_grad_guard();
        let (n_train, n_test) = (train.n_images(), test.n_images());
        let most = self.config.k.iter().copied().max().unwrap_or_default().min(n_train);
        let lengths = lengths_of(train.features()).squeeze_dim(1);
        let at_once = (at_once / n_train).max(1);
        for first in (0..n_test).step_by(at_once as usize) {
            let rows = test.features().narrow(0, first, at_once.min(n_test - first));
            let directions = &rows / lengths_of(&rows);
            let mut similarities = directions.matmul(&train.features().tr());
            similarities /= &lengths;
            let (similarities, rows) = largest(&similarities, most);
            let similarities = similarities.to_device(Device::Cpu).to_kind(Kind::Double);
            found(first, &Neighbours { similarities, rows: rows.to_device(Device::Cpu) })?;
        }
        Ok(())
    }
}

/// The nearest training images of some test images, nearest first; on the host.
#[derive(Debug)]
struct Neighbours {
    /// Cosines `[m, k]`, float64.
    similarities: Tensor,
    /// Rows of the training bank `[m, k]`.
    rows: Tensor,
}

impl Neighbours {
    fn n_rows(&self) -> i64 {
        self.rows.size()[0]
    }

    /// Class scores `[m, c]` when the first k vote, those of an image divided by the weight of its nearest neighbour;
    /// `classes` are those of the training images.
    ///
    /// The division keeps a small temperature from overflowing and changes no order within a row.
    fn class_scores(&self, classes: &Tensor, n_classes: i64, k: i64, temperature: f64) -> Tensor {
        let k = k.min(self.rows.size()[1]);
        let (similarities, rows) = (self.similarities.narrow(1, 0, k), self.rows.narrow(1, 0, k));
        let classes = classes.index_select(0, &rows.flatten(0, -1)).view_as(&rows);
        let weights = ((&similarities - similarities.narrow(1, 0, 1)) / temperature).exp();
        Tensor::zeros([self.n_rows(), n_classes], (Kind::Double, Device::Cpu)).scatter_add(1, &classes, &weights)
    }
}

/// Length of each row `[m, 1]`, at least [`SMALLEST_NORM`].
fn lengths_of(rows: &Tensor) -> Tensor {
    rows.norm_scalaropt_dim(2, [1i64], true).clamp_min(SMALLEST_NORM)
}

/// The k largest values of each row `[m, n]` and their columns, largest first; of equal values the first columns.
///
/// `topk` alone leaves open which of several equal values it returns and in which order. So what it returns is sorted,
/// and one value more is asked for: rows in which it equals the last are sorted in full, which is rare.
fn largest(values: &Tensor, k: i64) -> (Tensor, Tensor) {
    if k == values.size()[1] {
        return values.sort_stable(true, 1, true);
    }
    let (more, columns) = values.topk(k + 1, 1, true, true);
    let (columns, _) = columns.narrow(1, 0, k).sort(1, false);
    let (best, order) = values.gather(1, &columns, false).sort_stable(true, 1, true);
    let mut columns = columns.gather(1, &order, false);
    let tied = more.select(1, k - 1).eq_tensor(&more.select(1, k)).nonzero().flatten(0, -1);
    if tied.numel() > 0 {
        let (_, sorted) = values.index_select(0, &tied).sort_stable(true, 1, true);
        columns = columns.index_copy(0, &tied, &sorted.narrow(1, 0, k));
    }
    (best, columns)
}

#[cfg(test)]
mod tests;
