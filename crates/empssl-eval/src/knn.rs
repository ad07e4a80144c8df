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
        train.signature().check(test)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::top_k;
    use crate::testing::{PRECISIONS, bank, clusters, golden_bank, integers, numbers, refusal, values};
    use empssl_golden::{Family, Tensors, assert_close, max_abs_diff};
    use serde_json::Value;
    use tch::Device;

    fn config_of(run: &Value) -> KnnConfig {
        KnnConfig {
            k: run["k"].as_i64().unwrap(),
            temperature: run["T"].as_f64().unwrap(),
            metric: serde_json::from_value(run["distance_fx"].clone()).unwrap(),
        }
    }

    /// The rows that the index does not call ambiguous.
    fn clear_rows(run: &Value, n_test: i64) -> Tensor {
        let ambiguous: Vec<i64> =
            run["ambiguous_rows"].as_array().unwrap().iter().map(|row| row.as_i64().unwrap()).collect();
        let clear: Vec<i64> = (0..n_test).filter(|row| !ambiguous.contains(row)).collect();
        Tensor::from_slice(&clear)
    }

    fn check_accuracy(name: &str, run: &Value, accuracy: Accuracy, n_test: i64) {
        let slack = 1e-9 + 100.0 * run["ambiguous_rows"].as_array().unwrap().len() as f64 / n_test as f64;
        let number = |key: &str| run[key].as_f64().unwrap();
        assert!((accuracy.top1 - number("top1")).abs() <= slack, "{name}: top1 {}", accuracy.top1);
        let range = number("top5_lowest") - slack..=number("top5_highest") + slack;
        assert!(range.contains(&accuracy.top5), "{name}: top5 {} not in {range:?}", accuracy.top5);
    }

    fn check_run(tensors: &Tensors, case: &Value, run: &Value, (kind, precision): (Kind, &str)) {
        let key = run["key"].as_str().unwrap();
        let name = format!("{} {key} {precision}", case["name"]);
        let (train, test) = (golden_bank(tensors, case, "train", kind), golden_bank(tensors, case, "test", kind));
        let (config, clear) = (config_of(run), clear_rows(run, test.n_images()));
        let knn = WeightedKnn::new(&config).unwrap();

        let (similarity, neighbour) = Voters::new(&config, &train).nearest(test.features());
        if kind == Kind::Double && tensors.find(&format!("{key}.neighbours")).is_some() {
            let truth = integers(tensors, &format!("{key}.neighbours"));
            let sorted = |rows: Tensor| values(&rows.index_select(0, &clear).sort(1, false).0);
            assert_eq!(sorted(neighbour), sorted(truth), "{name}: neighbours");
        }
        let scores = knn.class_scores(&train, &test).unwrap().index_select(0, &clear);
        let truth = numbers(tensors, &format!("{key}.score"), Kind::Double).index_select(0, &clear);
        // Scores under the cosine are told apart from the reference's by the weight of the nearest neighbour.
        let unit = match config.metric {
            Metric::Cosine => (similarity.narrow(1, 0, 1) / config.temperature).exp().index_select(0, &clear),
            Metric::Euclidean => Tensor::ones([clear.size()[0], 1], (kind, Device::Cpu)),
        };
        let largest = truth.amax([1i64], true);
        let tolerance = run["tolerance_score_relative_to_row_max"][precision].as_f64().unwrap();
        assert_close(&name, &values(&(&scores * unit / &largest)), &values(&(truth / largest)), tolerance);
        let truth = integers(tensors, &format!("{key}.prediction")).index_select(0, &clear);
        assert_eq!(top_k(&scores, &truth, &[1]).unwrap(), [100.0], "{name}: predictions");
        check_accuracy(&name, run, knn.score(&train, &test).unwrap(), test.n_images());
    }

    #[test]
    fn golden_knn_neighbours_scores_predictions_and_accuracies() {
        let Some(family) = Family::open("knn") else { return };
        for case in family.cases() {
            let tensors = family.tensors(case["file"].as_str().unwrap());
            for run in case["runs"].as_array().unwrap() {
                PRECISIONS.into_iter().for_each(|precision| check_run(&tensors, case, run, precision));
            }
        }
    }

    #[test]
    fn golden_mean_is_normalised_as_the_reference_does() {
        let Some(family) = Family::open("knn") else { return };
        let about = &family.index["chunk_avg"];
        let Some(file) = about["file"].as_str() else { return };
        let tensors = family.tensors(file);
        for (kind, precision) in PRECISIONS {
            let ours = normalise_rows(&numbers(&tensors, "mean", kind));
            let tolerance = about["tolerance"][precision].as_f64().unwrap();
            assert_close("normalised mean", &values(&ours), &tensors.get("mean_normalized").f64(), tolerance);
        }
    }

    fn knn(k: i64, temperature: f64, metric: Metric) -> WeightedKnn {
        WeightedKnn::new(&KnnConfig { k, temperature, metric }).unwrap()
    }

    #[test]
    fn the_size_of_the_chunks_changes_nothing() {
        let (train, test) = (clusters("train", 90, 0.8, Kind::Double), clusters("test", 31, 0.9, Kind::Double));
        for metric in [Metric::Cosine, Metric::Euclidean] {
            let whole = knn(7, 0.1, metric).class_scores(&train, &test).unwrap();
            for elements in [1, 4 * 118, 1000] {
                let chunked = knn(7, 0.1, metric).class_scores_in_chunks(&train, &test, elements);
                assert!(max_abs_diff(&values(&chunked), &values(&whole)) < 1e-12, "{metric:?}, {elements} elements");
            }
        }
    }

    #[test]
    fn a_chunk_never_exceeds_the_elements_it_was_given() {
        let train = clusters("train", 90, 0.8, Kind::Double);
        let config = KnnConfig { k: 7, ..KnnConfig::published() };
        let voters = Voters::new(&config, &train);
        assert_eq!(voters.rows_at_once(4 * (90 + 7 * 4) + 1), 4);
        assert_eq!(voters.rows_at_once(1), 1, "no progress");
    }

    #[test]
    fn of_equally_near_images_the_first_rows_vote() {
        // Rows 0, 2 and 3 are the same point and just one of the places is free beside row 1.
        let rows = [[0.0, 2.0], [0.0, 1.9], [0.0, 2.0], [0.0, 2.0], [5.0, 0.0]];
        let test = bank("test", &[[0.0, 1.0]], &[2], 3);
        for (labels, winner) in [([2, 0, 1, 1, 0], 2), ([1, 0, 2, 2, 0], 1)] {
            let train = bank("train", &rows, &labels, 3);
            let scores = knn(2, 0.1, Metric::Euclidean).class_scores(&train, &test).unwrap();
            let expected: Vec<bool> = (0..3).map(|class| class == 0 || class == winner).collect();
            assert_eq!(values(&scores).iter().map(|&score| score > 0.0).collect::<Vec<_>>(), expected);
        }
        let best = best_of_rows(&Tensor::from_slice(&[1.0, 3.0, 3.0, 2.0, 3.0, 3.0]).view([1, 6]), 3);
        assert_eq!(values(&best.1), [1.0, 2.0, 4.0]);
        assert_eq!(values(&best.0), [3.0, 3.0, 3.0]);
    }

    #[test]
    fn the_order_of_the_training_images_does_not_matter() {
        let (train, test) = (clusters("train", 60, 0.7, Kind::Double), clusters("test", 20, 0.9, Kind::Double));
        let order = Tensor::arange(60, (Kind::Int64, Device::Cpu)).flip([0]);
        let (features, labels) = (train.features().index_select(0, &order), train.labels().index_select(0, &order));
        let turned = FeatureBank::new("turned", &features, &labels, 4).unwrap();
        for metric in [Metric::Cosine, Metric::Euclidean] {
            let scores = |train| values(&knn(9, 0.1, metric).class_scores(train, &test).unwrap());
            assert!(max_abs_diff(&scores(&train), &scores(&turned)) < 1e-12);
        }
    }

    #[test]
    fn a_tiny_temperature_does_not_overflow() {
        let (train, test) = (clusters("train", 40, 0.2, Kind::Float), clusters("test", 20, 0.2, Kind::Float));
        let scores = knn(5, 1e-6, Metric::Cosine).class_scores(&train, &test).unwrap();
        assert!(values(&scores).iter().all(|score| score.is_finite()));
        assert_eq!(knn(5, 1e-6, Metric::Cosine).score(&train, &test).unwrap().top1, 100.0);
    }

    #[test]
    fn a_row_of_zeros_and_a_copy_of_a_training_row_have_scores() {
        let train = bank("train", &[[0.0, 0.0], [3.0, 4.0]], &[0, 1], 2);
        let test = bank("test", &[[3.0, 4.0], [0.0, 0.0]], &[1, 0], 2);
        for metric in [Metric::Cosine, Metric::Euclidean] {
            assert_eq!(knn(1, 0.07, metric).score(&train, &test).unwrap().top1, 100.0, "{metric:?}");
        }
    }

    #[test]
    fn one_training_image_and_one_test_image_are_enough() {
        let (train, test) = (bank("train", &[[1.0]], &[1], 2), bank("test", &[[2.0]], &[1], 2));
        let accuracy = knn(20, 0.07, Metric::Cosine).score(&train, &test).unwrap();
        assert_eq!(accuracy, Accuracy { top1: 100.0, top5: 100.0 });
    }

    #[test]
    fn top5_counts_at_most_k_classes() {
        let train = bank("train", &[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], &[0, 1, 2], 6);
        let test = bank("test", &[[1.0, 0.01]], &[2], 6);
        assert_eq!(knn(2, 0.07, Metric::Cosine).score(&train, &test).unwrap().top5, 0.0);
        assert_eq!(knn(3, 0.07, Metric::Cosine).score(&train, &test).unwrap().top5, 100.0);
    }

    #[test]
    fn refuses_settings_without_meaning() {
        let refused = |k, temperature| refusal(WeightedKnn::new(&KnnConfig { k, temperature, metric: Metric::Cosine }));
        assert_eq!(refused(0, 0.07), "`k` must be at least 1, found 0");
        for temperature in [0.0, -0.07, f64::NAN, f64::INFINITY] {
            let expected = format!("`temperature` must be positive and finite, found {temperature}");
            assert_eq!(refused(20, temperature), expected);
        }
        let text = serde_json::to_string(&KnnConfig::published()).unwrap();
        assert_eq!(serde_json::from_str::<KnnConfig>(&text).unwrap(), KnnConfig::published());
        let error = serde_json::from_str::<KnnConfig>(&text.replace("\"k\"", "\"kk\"")).unwrap_err().to_string();
        assert!(error.contains("unknown field `kk`"), "{error}");
    }

    #[test]
    fn refuses_banks_that_do_not_belong_together() {
        let train = bank("train", &[[1.0, 2.0]], &[0], 2);
        let knn = knn(1, 0.07, Metric::Cosine);
        let message = refusal(knn.score(&train, &bank("test", &[[1.0]], &[0], 2)));
        assert_eq!(
            message,
            "the bank `test` has 1 features of kind Double on Cpu and 2 classes, but the bank `train` has 2 features of \
             kind Double on Cpu and 2 classes: both must come from one encoder"
        );
        let message = refusal(knn.score(&train, &bank("test", &[[1.0, 2.0]], &[0], 3)));
        assert!(message.contains("and 3 classes, but"), "{message}");
        let single = Tensor::from_slice(&[1.0f32, 2.0]).view([1, 2]);
        let single = FeatureBank::new("test", &single, &Tensor::from_slice(&[0i64]), 2).unwrap();
        assert!(refusal(knn.score(&train, &single)).contains("of kind Float on"));
    }
}
