//! Accuracy: the share of images whose class is among the best scored ones; mean and deviation of repeated scores.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::EvalError;

/// Top-1 and top-5 accuracy in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Percentage of images whose own class has the best score.
    pub top1: f64,
    /// Percentage of images whose own class is among the five best; with five classes or fewer it is 100.
    pub top5: f64,
}

impl Accuracy {
    /// Accuracy of class scores `[m, c]` against labels `[m]`; see [`top_k`].
    ///
    /// # Errors
    /// As [`top_k`].
    pub fn of(scores: &Tensor, labels: &Tensor) -> Result<Self, EvalError> {
        let percent = top_k(scores, labels, &[1, 5])?;
        Ok(Self { top1: percent[0], top5: percent[1] })
    }

    /// Of so many images, those whose class is the best and among the best.
    pub(crate) fn counted([first, five]: [i64; 2], n_images: i64) -> Self {
        Self { top1: percent(first, n_images), top5: percent(five, n_images) }
    }
}

/// Mean and deviation of a score that was taken several times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample, with n - 1 in the denominator; a single score has none.
    pub deviation: Option<f64>,
    /// How many scores.
    pub n: usize,
}

impl Spread {
    /// Of scores, at least one.
    ///
    /// # Errors
    /// [`EvalError::Setting`] for none.
    pub fn of(scores: &[f64]) -> Result<Self, EvalError> {
        let n = scores.len();
        EvalError::check(n >= 1, "seeds", "at least one", n)?;
        let mean = scores.iter().sum::<f64>() / n as f64;
        let squares = scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>();
        let deviation = (n > 1).then(|| (squares / (n - 1) as f64).sqrt());
        Ok(Self { mean, deviation, n })
    }
}

/// For each k the percentage of rows of `scores` `[m, c]` whose label is among the k best classes (tsb0601/EMP-SSL
/// `func.py`, `accuracy`).
///
/// Of classes with equal scores the one with the lower number is the better; so the result is the same on every
/// device, where the order of a library's `topk` is anyone's guess.
/// A NaN never wins: a class whose score is NaN counts as better than the label's, and a label whose score is NaN as
/// the worst.
/// A `k` above the number of classes means all of them.
///
/// # Errors
/// [`EvalError::Setting`] for a k below 1; [`EvalError::Shape`] unless `scores` is `[m, c]` with at least one row and
/// `labels` holds m 64-bit integers.
pub fn top_k(scores: &Tensor, labels: &Tensor, ks: &[i64]) -> Result<Vec<f64>, EvalError> {
    let hits = hits(scores, labels, ks)?;
    Ok(hits.into_iter().map(|hits| percent(hits, scores.size()[0])).collect())
}

/// The rows that [`top_k`] is the share of.
///
/// # Errors
/// As [`top_k`].
pub(crate) fn hits(scores: &Tensor, labels: &Tensor, ks: &[i64]) -> Result<Vec<i64>, EvalError> {
    let smallest = ks.iter().copied().min().unwrap_or(1);
    EvalError::check(smallest >= 1, "k", "at least 1", smallest)?;
    check_shapes(scores, labels)?;
    let (ranks, n_classes) = (ranks(scores, labels), scores.size()[1]);
    Ok(ks.iter().map(|&k| ranks.lt(k.min(n_classes)).sum(Kind::Int64).int64_value(&[])).collect())
}

fn percent(hits: i64, n: i64) -> f64 {
    100.0 * hits as f64 / n as f64
}

fn check_shapes(scores: &Tensor, labels: &Tensor) -> Result<(), EvalError> {
    let shape = scores.size();
    if shape.len() != 2 || shape[0] == 0 {
        let expected = "[m, c] with m at least 1".to_owned();
        return Err(EvalError::Shape { what: "class scores".to_owned(), expected, found: format!("{shape:?}") });
    }
    EvalError::check_sizes("labels", &labels.size(), &shape[..1])?;
    if labels.kind() == Kind::Int64 {
        return Ok(());
    }
    let found = format!("{:?}", labels.kind());
    Err(EvalError::Shape { what: "labels".to_owned(), expected: "Int64".to_owned(), found })
}

/// How many classes are better than the label's, for each row.
fn ranks(scores: &Tensor, labels: &Tensor) -> Tensor {
    let labels = labels.unsqueeze(1);
    let classes = Tensor::arange(scores.size()[1], (Kind::Int64, scores.device()));
    let own = scores.gather(1, &labels, false);
    let worse = scores.lt_tensor(&own);
    let equal_but_later = scores.eq_tensor(&own).logical_and(&classes.ge_tensor(&labels));
    worse.logical_or(&equal_but_later).logical_not().sum_dim_intlist(1, false, Kind::Int64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use empssl_golden::Family;

    fn percent(scores: &[f64], shape: [i64; 2], labels: &[i64], ks: &[i64]) -> Vec<f64> {
        top_k(&Tensor::from_slice(scores).view(shape), &Tensor::from_slice(labels), ks).unwrap()
    }

    #[test]
    fn golden_accuracy_lies_within_what_ties_allow() {
        let Some(family) = Family::open("linear") else { return };
        let accuracy = &family.index["accuracy"];
        let tensors = family.tensors(accuracy["file"].as_str().unwrap());
        for case in accuracy["cases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let numbers =
                |key: &str| case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
            let ks: Vec<i64> = numbers("topk").into_iter().map(|k| k as i64).collect();
            let stored = tensors.get(&format!("{name}.logits"));
            let labels = Tensor::from_slice(&tensors.get(&format!("{name}.labels")).i64());
            let tolerance = case["tolerance_points"].as_f64().unwrap();
            for kind in [Kind::Double, Kind::Float] {
                let logits = Tensor::from_slice(&stored.f64()).view(&stored.sizes()[..]).to_kind(kind);
                let ours = top_k(&logits, &labels, &ks).unwrap();
                for ((ours, low), high) in ours.iter().zip(numbers("lowest")).zip(numbers("highest")) {
                    assert!(
                        low - tolerance <= *ours && *ours <= high + tolerance,
                        "{name}: {ours} not in {low}..{high}"
                    );
                }
            }
        }
    }

    #[test]
    fn equal_scores_go_to_the_lower_class() {
        let scores = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0];
        assert_eq!(percent(&scores, [2, 4], &[0, 1], &[1, 2, 3, 4]), [50.0, 100.0, 100.0, 100.0]);
        assert_eq!(percent(&scores, [2, 4], &[2, 3], &[1, 2, 3, 9]), [0.0, 0.0, 50.0, 100.0]);
    }

    #[test]
    fn a_nan_never_counts_as_a_hit() {
        let nan = f64::NAN;
        assert_eq!(percent(&[nan, nan, nan], [1, 3], &[0], &[1, 3]), [0.0, 0.0]);
        assert_eq!(percent(&[1.0, nan, 0.0], [1, 3], &[0], &[1, 2]), [0.0, 100.0]);
        assert_eq!(percent(&[1.0, nan, 0.0], [1, 3], &[1], &[3]), [0.0]);
    }

    #[test]
    fn top5_of_few_classes_is_everything() {
        let scores = Tensor::from_slice(&[3.0, 2.0, 1.0]).view([1, 3]);
        let accuracy = Accuracy::of(&scores, &Tensor::from_slice(&[2i64])).unwrap();
        assert_eq!(accuracy, Accuracy { top1: 0.0, top5: 100.0 });
    }

    #[test]
    fn spread_is_mean_and_deviation_of_the_sample() {
        let spread = Spread::of(&[1.0, 2.0, 4.0, 5.0]).unwrap();
        assert_eq!((spread.mean, spread.n), (3.0, 4));
        assert!((spread.deviation.unwrap() - (10.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(Spread::of(&[7.0]).unwrap(), Spread { mean: 7.0, deviation: None, n: 1 });
        assert_eq!(Spread::of(&[]).unwrap_err().to_string(), "`seeds` must be at least one, found 0");
    }

    #[test]
    fn refuses_what_has_no_accuracy() {
        let scores = Tensor::zeros([2, 3], (Kind::Double, tch::Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1]);
        let refusal = |scores: &Tensor, labels: &Tensor, k| top_k(scores, labels, &[k]).unwrap_err().to_string();
        assert_eq!(refusal(&scores, &labels, 0), "`k` must be at least 1, found 0");
        let none = refusal(&scores.narrow(0, 0, 0), &labels.narrow(0, 0, 0), 1);
        assert_eq!(none, "class scores must be [m, c] with m at least 1, found [0, 3]");
        assert_eq!(refusal(&scores, &labels.narrow(0, 0, 1), 1), "labels must be [2], found [1]");
        assert_eq!(refusal(&scores, &labels.to_kind(Kind::Int), 1), "labels must be Int64, found Int");
    }
}
