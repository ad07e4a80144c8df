//! The published probe against the reference's, and what it does at its borders.

use super::*;
use crate::metrics::top_k;
use crate::probe::testing::cases;
use crate::testing::{PRECISIONS, bank, clusters, golden_bank, numbers, refusal, values};
use empssl_golden::{Family, Tensors, assert_close};
use serde_json::Value;
use tch::Kind;

/// The reference's accuracy of an epoch: the mean over batches of the batches' accuracies.
fn mean_of_batches(probe: &FittedProbe, test: &FeatureBank, batch: i64) -> f64 {
    let scores = probe.class_scores(test).unwrap().split(batch, 0);
    let labels = test.labels().split(batch, 0);
    let percent = scores.iter().zip(&labels).map(|(scores, labels)| top_k(scores, labels, &[1]).unwrap()[0]);
    percent.sum::<f64>() / scores.len() as f64
}

fn replay(case: &Value, tensors: &Tensors, (kind, precision): (Kind, &str)) {
    let (train, test) = (golden_bank(tensors, case, "train", kind), golden_bank(tensors, case, "test", kind));
    let (order, n_train) = (tensors.get("order").i64(), train.n_images() as usize);
    let epochs = order.len() / n_train;
    let config = LinearProbeConfig { lr: case["lr"].as_f64().unwrap(), epochs, ..LinearProbeConfig::published() };
    let layer = |name: &str| numbers(tensors, name, kind);
    let first = FittedProbe::from_layer(&layer("init_weight"), &layer("init_bias"), &train);
    let mut rows = |epoch: usize| order[epoch * n_train..(epoch + 1) * n_train].to_vec();

    let mut curve = Vec::new();
    let mut observer = |_: usize, probe: &FittedProbe| curve.push(mean_of_batches(probe, &test, config.batch_size));
    let probe = LinearProbe::new(&config, 0).unwrap();
    let fitted = probe.descend(first, &train, &mut rows, &mut observer).unwrap();

    let tolerance = case["tolerance"][format!("final_weight_{precision}")].as_f64().unwrap();
    assert_close("final_weight", &values(fitted.weight()), &tensors.get("final_weight").f64(), tolerance);
    assert_close("final_bias", &values(fitted.bias()), &tensors.get("final_bias").f64(), tolerance);
    let truth: Vec<f64> = case["epochs"]["test_top1"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    // One row near a boundary may flip in float32; in the smallest batch it weighs most.
    let smallest = (test.n_images() - 1) % config.batch_size + 1;
    let flip = 100.0 / smallest as f64 / (test.n_images() as f64 / config.batch_size as f64).ceil();
    assert_close("test_top1", &curve, &truth, if kind == Kind::Double { 1e-3 } else { 1e-3 + flip });
    let by_sample = fitted.score(&test).unwrap().top1;
    assert!((by_sample - case["test_top1_by_sample"].as_f64().unwrap()).abs() < 1e-9 || kind == Kind::Float);
}

#[test]
fn golden_probe_follows_the_reference_along_a_given_order() {
    let Some(family) = Family::open("linear") else { return };
    for (case, tensors) in cases(&family, "sgd") {
        PRECISIONS.into_iter().for_each(|precision| replay(case, &tensors, precision));
    }
}

#[test]
fn golden_probe_scores_like_the_reference_with_its_own_order() {
    let Some(family) = Family::open("linear") else { return };
    for (case, tensors) in cases(&family, "optimum") {
        let [train, test] = ["train", "test"].map(|name| golden_bank(&tensors, case, name, Kind::Float));
        let top1 = LinearProbe::new(&LinearProbeConfig::published(), 5).unwrap();
        let top1 = top1.fit(&train).unwrap().score(&test).unwrap().top1;
        for run in case["official_linear_best_and_last_top1"]["runs"].as_array().unwrap() {
            let last = run[1].as_f64().unwrap();
            assert!((top1 - last).abs() <= 2.5, "{}: {top1} against {last}", case["name"]);
        }
    }
}

fn config(epochs: usize) -> LinearProbeConfig {
    LinearProbeConfig { batch_size: 8, epochs, ..LinearProbeConfig::published() }
}

#[test]
fn the_last_epoch_is_the_result_and_the_end_of_the_curve() {
    let (train, test) = (clusters("train", 44, 0.4, Kind::Double), clusters("test", 21, 0.6, Kind::Double));
    let probe = LinearProbe::new(&config(30), 1).unwrap();
    let (fitted, curve) = probe.fit_with_curve(&train, &test).unwrap();
    assert_eq!(curve.len(), 30);
    assert_eq!(curve[29], fitted.score(&test).unwrap());
    assert!(curve[29].top1 > 90.0 && curve[29].top1 > curve[0].top1, "{curve:?}");
    assert_eq!(values(fitted.weight()), values(probe.fit(&train).unwrap().weight()));
    let mut epochs = Vec::new();
    probe.fit_observed(&train, &mut |epoch, _| epochs.push(epoch)).unwrap();
    assert_eq!(epochs, (1..=30).collect::<Vec<_>>());
}

#[test]
fn a_small_fit_takes_one_thread_and_gives_the_others_back() {
    let train = clusters("train", 16, 0.4, Kind::Float);
    let before = tch::get_num_threads();
    tch::set_num_threads(3);
    let mut during = Vec::new();
    let observer = &mut |_: usize, _: &FittedProbe| during.push(tch::get_num_threads());
    LinearProbe::new(&config(2), 0).unwrap().fit_observed(&train, observer).unwrap();
    assert_eq!((during, tch::get_num_threads()), (vec![1, 1], 3));
    tch::set_num_threads(before);
}

#[test]
fn the_seed_decides_layer_and_order() {
    let train = clusters("train", 40, 0.4, Kind::Double);
    let fit = |seed| values(LinearProbe::new(&config(2), seed).unwrap().fit(&train).unwrap().weight());
    assert_eq!(fit(1), fit(1));
    assert_ne!(fit(1), fit(2));
    let order = |seed, epoch| LinearProbe::new(&config(2), seed).unwrap().order(40, epoch);
    let mut sorted = order(1, 0);
    sorted.sort_unstable();
    assert_eq!(sorted, (0..40).collect::<Vec<_>>());
    assert!(order(1, 0) != sorted && order(1, 0) != order(1, 1) && order(1, 0) != order(2, 0));
}

#[test]
fn every_epoch_is_fitted_along_its_own_order() {
    let train = clusters("train", 40, 0.4, Kind::Double);
    let probe = LinearProbe::new(&config(2), 1).unwrap();
    let along = |order: &mut dyn FnMut(usize) -> Vec<i64>| {
        values(probe.descend(FittedProbe::first(1, &train), &train, order, &mut |_, _| {}).unwrap().weight())
    };
    assert_eq!(values(probe.fit(&train).unwrap().weight()), along(&mut |epoch| probe.order(40, epoch)));
    assert_ne!(values(probe.fit(&train).unwrap().weight()), along(&mut |_| probe.order(40, 0)));
}

#[test]
fn the_rate_falls_along_a_cosine_of_whole_epochs() {
    let config = LinearProbeConfig { lr: 0.2, epochs: 4, ..LinearProbeConfig::published() };
    let rates: Vec<f64> = (0..4).map(|epoch| config.lr_of(epoch)).collect();
    let half = 0.5f64.sqrt();
    assert_close("rates", &rates, &[0.2, 0.1 * (1.0 + half), 0.1, 0.1 * (1.0 - half)], 1e-15);
}

#[test]
fn a_class_without_training_images_is_scored_but_not_found() {
    let train = bank("train", &[[1.0, 0.0], [0.0, 1.0]], &[0, 1], 3);
    let test = bank("test", &[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], &[0, 1, 2], 3);
    let config = LinearProbeConfig { batch_size: 2, ..LinearProbeConfig::published() };
    let accuracy = LinearProbe::new(&config, 0).unwrap().fit(&train).unwrap().score(&test).unwrap();
    assert!((accuracy.top1 - 200.0 / 3.0).abs() < 1e-9, "{accuracy:?}");
}

#[test]
fn refuses_settings_without_meaning() {
    let base = LinearProbeConfig::published;
    let refused = [
        ("lr", LinearProbeConfig { lr: f64::NAN, ..base() }),
        ("lr", LinearProbeConfig { lr: 0.0, ..base() }),
        ("lr", LinearProbeConfig { lr: f64::INFINITY, ..base() }),
        ("momentum", LinearProbeConfig { momentum: f64::NAN, ..base() }),
        ("momentum", LinearProbeConfig { momentum: 1.0, ..base() }),
        ("weight_decay", LinearProbeConfig { weight_decay: f64::NAN, ..base() }),
        ("weight_decay", LinearProbeConfig { weight_decay: -1e-9, ..base() }),
        ("batch_size", LinearProbeConfig { batch_size: 0, ..base() }),
        ("epochs", LinearProbeConfig { epochs: 0, ..base() }),
    ];
    for (key, config) in refused {
        let message = refusal(LinearProbe::new(&config, 0));
        assert!(message.starts_with(&format!("`{key}` must be ")), "{config:?}: {message}");
    }
    let text = serde_json::to_string(&base()).unwrap();
    assert_eq!(serde_json::from_str::<LinearProbeConfig>(&text).unwrap(), base());
    let error = serde_json::from_str::<LinearProbeConfig>(&text.replace("epochs", "epoch")).unwrap_err().to_string();
    assert!(error.contains("unknown field `epoch`"), "{error}");
}

#[test]
fn refuses_a_bank_that_does_not_fill_a_batch() {
    let train = clusters("train", 7, 0.1, Kind::Float);
    let message = refusal(LinearProbe::new(&config(1), 0).unwrap().fit(&train));
    assert_eq!(
        message,
        "the bank `train` holds 7 images, fewer than one batch of 8, and incomplete batches are dropped: lower \
         `batch_size` to at most 7, or give more images"
    );
}

#[test]
fn refuses_a_test_bank_of_another_width() {
    let train = clusters("train", 8, 0.1, Kind::Double);
    let test = bank("test", &[[1.0]], &[0], 4);
    let probe = LinearProbe::new(&config(1), 0).unwrap();
    for message in [refusal(probe.fit_with_curve(&train, &test)), refusal(probe.fit(&train).unwrap().score(&test))] {
        assert!(message.starts_with("the bank `test` has 1 features"), "{message}");
    }
}

#[test]
fn a_diverging_probe_is_an_error_not_a_score() {
    let train = bank("train", &[[3e38, 1.0], [-3e38, 1.0]], &[0, 1], 2);
    let features = train.features().to_kind(Kind::Float);
    let train = FeatureBank::new("train", &features, train.labels(), 2).unwrap();
    let config = LinearProbeConfig { batch_size: 2, lr: 100.0, ..LinearProbeConfig::published() };
    let message = refusal(LinearProbe::new(&config, 0).unwrap().fit(&train));
    assert!(message.starts_with("the linear probe diverged in epoch "), "{message}");
    assert!(message.contains("at lr 100"), "{message}");
}
