//! The vote against the reference's values, and what it does at its borders.

use super::*;
use crate::metrics::top_k;
use crate::testing::{PRECISIONS, bank, clear_rows, clusters, golden_bank, integers, numbers, refusal, values};
use empssl_golden::{Family, Tensors, assert_close, max_abs_diff};
use serde_json::Value;

fn config_of(run: &Value) -> KnnConfig {
    KnnConfig { k: vec![run["k"].as_i64().unwrap()], temperature: run["T"].as_f64().unwrap() }
}

/// The golden runs by cosine.
fn runs(case: &Value) -> impl Iterator<Item = &Value> {
    case["runs"].as_array().unwrap().iter().filter(|run| run["distance_fx"] == "cosine")
}

fn check_accuracy(name: &str, run: &Value, accuracy: Accuracy, n_test: i64) {
    let slack = 1e-9 + 100.0 * run["ambiguous_rows"].as_array().unwrap().len() as f64 / n_test as f64;
    let number = |key: &str| run[key].as_f64().unwrap();
    assert!((accuracy.top1 - number("top1")).abs() <= slack, "{name}: top1 {}", accuracy.top1);
    let range = number("top5_lowest") - slack..=number("top5_highest") + slack;
    assert!(range.contains(&accuracy.top5), "{name}: top5 {} not in {range:?}", accuracy.top5);
}

/// The neighbours of every test image.
fn neighbours(knn: &WeightedKnn, train: &FeatureBank, test: &FeatureBank, at_once: i64) -> Neighbours {
    let (mut similarities, mut rows, mut next) = (Vec::new(), Vec::new(), 0);
    knn.search(train, test, at_once, &mut |first, found| {
        assert_eq!(first, next, "every row is shown once and in order");
        next += found.n_rows();
        similarities.push(found.similarities.shallow_clone());
        rows.push(found.rows.shallow_clone());
        Ok(())
    })
    .unwrap();
    assert_eq!(next, test.n_images());
    Neighbours { similarities: Tensor::cat(&similarities, 0), rows: Tensor::cat(&rows, 0) }
}

/// The class scores of every test image by the main k.
fn class_scores(knn: &WeightedKnn, train: &FeatureBank, test: &FeatureBank) -> Tensor {
    let KnnConfig { temperature, .. } = knn.config;
    let found = neighbours(knn, train, test, SIMILARITIES_AT_ONCE);
    found.class_scores(train.labels(), train.n_classes(), knn.config.main_k(), temperature)
}

fn check_run(tensors: &Tensors, case: &Value, run: &Value, (kind, precision): (Kind, &str)) {
    let key = run["key"].as_str().unwrap();
    let name = format!("{} {key} {precision}", case["name"]);
    let (train, test) = (golden_bank(tensors, case, "train", kind), golden_bank(tensors, case, "test", kind));
    let (config, clear) = (config_of(run), clear_rows(&run["ambiguous_rows"], test.n_images()));
    let knn = WeightedKnn::new(&config).unwrap();

    let Neighbours { similarities, rows } = neighbours(&knn, &train, &test, SIMILARITIES_AT_ONCE);
    if kind == Kind::Double && tensors.find(&format!("{key}.neighbours")).is_some() {
        let truth = integers(tensors, &format!("{key}.neighbours"));
        let sorted = |rows: &Tensor| values(&rows.index_select(0, &clear).sort(1, false).0);
        assert_eq!(sorted(&rows), sorted(&truth), "{name}: neighbours");
    }
    let scores = class_scores(&knn, &train, &test).index_select(0, &clear);
    let truth = numbers(tensors, &format!("{key}.score"), Kind::Double).index_select(0, &clear);
    // Our scores are those of the reference divided by the weight of the nearest neighbour.
    let unit = (similarities.narrow(1, 0, 1) / config.temperature).exp().index_select(0, &clear);
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
        for run in runs(case) {
            PRECISIONS.into_iter().for_each(|precision| check_run(&tensors, case, run, precision));
        }
    }
}

#[test]
fn golden_accuracies_of_several_k_come_from_one_pass() {
    let Some(family) = Family::open("knn") else { return };
    for case in family.cases() {
        let tensors = family.tensors(case["file"].as_str().unwrap());
        let [train, test] = ["train", "test"].map(|name| golden_bank(&tensors, case, name, Kind::Double));
        let k: Vec<i64> = runs(case).map(|run| run["k"].as_i64().unwrap()).collect();
        for run in runs(case) {
            let config = KnnConfig { k: k.clone(), ..config_of(run) };
            let scores = WeightedKnn::new(&config).unwrap().score_each(&train, &test).unwrap();
            let score = scores.iter().find(|score| score.k == run["k"].as_i64().unwrap()).unwrap();
            check_accuracy(case["name"].as_str().unwrap(), run, score.accuracy, test.n_images());
        }
    }
}

fn knn(k: &[i64], temperature: f64) -> WeightedKnn {
    WeightedKnn::new(&KnnConfig { k: k.to_vec(), temperature }).unwrap()
}

#[test]
fn every_k_scores_what_it_scores_alone_and_the_published_comes_first() {
    let all = clusters("all", 151, 1.0, Kind::Double);
    let [train, test] = [(0, 90), (90, 61)].map(|(start, length)| {
        let (features, labels) = (all.features().narrow(0, start, length), all.labels().narrow(0, start, length));
        FeatureBank::new("part", &features, &labels, 4).unwrap()
    });
    let scores = knn(&[1, 50, 20, 7, 200], 1.0).score_each(&train, &test).unwrap();
    assert_eq!(scores.iter().map(|score| score.k).collect::<Vec<_>>(), [20, 1, 50, 7, 200]);
    for score in &scores {
        assert_eq!(knn(&[score.k], 1.0).score(&train, &test).unwrap(), score.accuracy, "{score:?}");
    }
    let distinct: std::collections::BTreeSet<_> = scores.iter().map(|score| score.accuracy.top1.to_bits()).collect();
    assert!(distinct.len() > 2, "the example does not tell the numbers apart: {scores:?}");
    assert_eq!(knn(&[50, 1], 1.0).score(&train, &test).unwrap(), scores[2].accuracy);
}

#[test]
fn how_many_rows_are_compared_at_once_changes_nothing() {
    let (train, test) = (clusters("train", 90, 0.8, Kind::Double), clusters("test", 31, 0.9, Kind::Double));
    for k in [1, 7, 90, 200] {
        let knn = knn(&[k], 0.1);
        let whole = neighbours(&knn, &train, &test, SIMILARITIES_AT_ONCE);
        assert_eq!(whole.rows.size(), [31, k.min(90)]);
        for at_once in [1, 90 * 4, 90 * 30] {
            let pieces = neighbours(&knn, &train, &test, at_once);
            assert!(pieces.rows.equal(&whole.rows), "{k} neighbours, {at_once} at once");
            assert!(max_abs_diff(&values(&pieces.similarities), &values(&whole.similarities)) < 1e-12);
        }
    }
}

#[test]
fn neighbours_weigh_by_the_exponential_of_their_cosine() {
    let train = bank("train", &[[3.0, 4.0], [0.0, 2.0], [0.0, -1.0]], &[0, 1, 1], 3);
    let test = bank("test", &[[0.0, 2.0]], &[1], 3);
    let found = neighbours(&knn(&[3], 0.1), &train, &test, SIMILARITIES_AT_ONCE);
    assert_close("cosines", &values(&found.similarities), &[1.0, 0.8, -1.0], 1e-15);
    assert_eq!(values(&found.rows), [1.0, 0.0, 2.0]);
    let [two, three] = [2, 3].map(|k| values(&found.class_scores(train.labels(), 3, k, 0.1)));
    assert_close("two vote", &two, &[(-2.0f64).exp(), 1.0, 0.0], 1e-15);
    assert_close("three vote", &three, &[(-2.0f64).exp(), 1.0 + (-20.0f64).exp(), 0.0], 1e-15);
}

#[test]
fn of_equal_values_the_first_columns_are_taken_and_come_first() {
    let values_of = Tensor::from_slice(&[1.0, 3.0, 3.0, 2.0, 3.0, 3.0]).view([1, 6]);
    for (k, columns) in [(3, &[1.0, 2.0, 4.0][..]), (4, &[1.0, 2.0, 4.0, 5.0]), (5, &[1.0, 2.0, 4.0, 5.0, 3.0])] {
        let (best, found) = largest(&values_of, k);
        assert_eq!(values(&found), columns);
        assert_eq!(values(&best), values(&values_of.gather(1, &found, false)));
    }
}

#[test]
fn of_equally_near_images_the_first_rows_vote() {
    // Rows 0, 2 and 3 are the same point and just one of the places is free beside row 1.
    let rows = [[0.0, 2.0], [0.1, 1.9], [0.0, 2.0], [0.0, 2.0], [5.0, 0.0]];
    let test = bank("test", &[[0.1, 1.9]], &[2], 3);
    for (labels, winner) in [([2, 0, 1, 1, 0], 2), ([1, 0, 2, 2, 0], 1)] {
        let train = bank("train", &rows, &labels, 3);
        let scores = class_scores(&knn(&[2], 0.1), &train, &test);
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
    let scores = |train| values(&class_scores(&knn(&[9], 0.1), train, &test));
    assert!(max_abs_diff(&scores(&train), &scores(&turned)) < 1e-12);
}

#[test]
fn a_tiny_temperature_does_not_overflow() {
    let (train, test) = (clusters("train", 40, 0.2, Kind::Float), clusters("test", 20, 0.2, Kind::Float));
    let scores = class_scores(&knn(&[5], 1e-6), &train, &test);
    assert!(values(&scores).iter().all(|score| score.is_finite()));
    assert_eq!(knn(&[5], 1e-6).score(&train, &test).unwrap().top1, 100.0);
}

#[test]
fn a_row_of_zeros_and_a_copy_of_a_training_row_have_scores() {
    let train = bank("train", &[[0.0, 0.0], [3.0, 4.0]], &[0, 1], 2);
    let test = bank("test", &[[3.0, 4.0], [0.0, 0.0]], &[1, 0], 2);
    assert_eq!(knn(&[1], 0.07).score(&train, &test).unwrap().top1, 100.0);
}

#[test]
fn one_training_image_and_one_test_image_are_enough() {
    let (train, test) = (bank("train", &[[1.0]], &[1], 2), bank("test", &[[2.0]], &[1], 2));
    let accuracy = knn(&[20], 0.07).score(&train, &test).unwrap();
    assert_eq!(accuracy, Accuracy { top1: 100.0, top5: 100.0 });
}

#[test]
fn top5_counts_at_most_k_classes() {
    let train = bank("train", &[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], &[0, 1, 2], 6);
    let test = bank("test", &[[1.0, 0.01]], &[2], 6);
    assert_eq!(knn(&[2], 0.07).score(&train, &test).unwrap().top5, 0.0);
    assert_eq!(knn(&[3], 0.07).score(&train, &test).unwrap().top5, 100.0);
}

#[test]
fn refuses_settings_without_meaning() {
    let refused = |k: &[i64], temperature| refusal(WeightedKnn::new(&KnnConfig { k: k.to_vec(), temperature }));
    assert_eq!(refused(&[0], 0.07), "`k` must be at least 1, found 0");
    assert_eq!(refused(&[5, -1], 0.07), "`k` must be at least 1, found -1");
    assert_eq!(refused(&[], 0.07), "`k` must be at least one number, found []");
    assert_eq!(refused(&[5, 5], 0.07), "`k` must be numbers of which none is there twice, found [5, 5]");
    for temperature in [0.0, -0.07, f64::NAN, f64::INFINITY] {
        let expected = format!("`temperature` must be positive and finite, found {temperature}");
        assert_eq!(refused(&[20], temperature), expected);
    }
    let text = serde_json::to_string(&KnnConfig::published()).unwrap();
    assert_eq!(serde_json::from_str::<KnnConfig>(&text).unwrap(), KnnConfig::published());
    let error = serde_json::from_str::<KnnConfig>(&text.replace("\"k\"", "\"kk\"")).unwrap_err().to_string();
    assert!(error.contains("unknown field `kk`"), "{error}");
}

#[test]
fn refuses_banks_that_do_not_belong_together() {
    let train = bank("train", &[[1.0, 2.0]], &[0], 2);
    let knn = knn(&[1], 0.07);
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
