//! The vote against the reference's values, and what it does at its borders.

use super::nearest::Neighbour;
use super::*;
use crate::metrics::top_k;
use crate::testing::{PRECISIONS, bank, clusters, golden_bank, integers, numbers, refusal, values};
use empssl_golden::{Family, Tensors, assert_close, max_abs_diff};
use serde_json::Value;
use tch::{Device, Kind};

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

    let (mut nearest, mut rows) = (Vec::new(), Vec::new());
    let mut found = |_: usize, lists: &[Vec<Neighbour>]| {
        nearest.push(lists[0][0].similarity);
        rows.extend(lists[0].iter().map(|near| near.row as i64));
    };
    let searcher = Searcher::new(&train, &test, config.k, std::slice::from_ref(&config.metric)).unwrap();
    searcher.search(Among::ALONE, &Chunks::of(&train), &mut found).unwrap();
    if kind == Kind::Double && tensors.find(&format!("{key}.neighbours")).is_some() {
        let truth = integers(tensors, &format!("{key}.neighbours"));
        let sorted = |rows: Tensor| values(&rows.index_select(0, &clear).sort(1, false).0);
        assert_eq!(sorted(Tensor::from_slice(&rows).view_as(&truth)), sorted(truth), "{name}: neighbours");
    }
    let scores = knn.class_scores(&train, &test).unwrap().index_select(0, &clear);
    let truth = numbers(tensors, &format!("{key}.score"), Kind::Double).index_select(0, &clear);
    // Scores under the cosine are told apart from the reference's by the weight of the nearest neighbour.
    let unit = match config.metric {
        Metric::Cosine => {
            (Tensor::from_slice(&nearest).unsqueeze(1) / config.temperature).exp().index_select(0, &clear)
        }
        Metric::Euclidean => Tensor::ones([clear.size()[0], 1], (Kind::Double, Device::Cpu)),
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

fn knn(k: i64, temperature: f64, metric: Metric) -> WeightedKnn {
    WeightedKnn::new(&KnnConfig { k, temperature, metric }).unwrap()
}

#[test]
fn the_size_of_the_chunks_changes_nothing() {
    let (train, test) = (clusters("train", 90, 0.8, Kind::Double), clusters("test", 31, 0.9, Kind::Double));
    for metric in [Metric::Cosine, Metric::Euclidean] {
        let whole = knn(7, 0.1, metric).class_scores(&train, &test).unwrap();
        for (rows, columns) in [(1, 1), (4, 1000), (1000, 7)] {
            let knn = knn(7, 0.1, metric);
            let (_, chunked) = knn.scores_of_own_rows(Among::ALONE, &train, &test, &Chunks { rows, columns }).unwrap();
            assert!(max_abs_diff(&values(&chunked), &values(&whole)) < 1e-12, "{metric:?}, {rows} x {columns}");
        }
    }
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
