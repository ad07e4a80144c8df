//! Banks in memory: golden means, order, bounds, and what is refused.

use super::*;
use crate::features::pixels;
use crate::testing::{OPTIONS, PRECISIONS, numbers, patches as batch, refusal, values};
use empssl_data::{LoaderConfig, OnBadImage, OpenOptions, Order, PatchConfig, PatchLoader, PatchSampler, Split, View};
use empssl_golden::{Family, assert_close};
use ndarray::Array5;
use std::cell::Cell;
use tch::Device;

fn build(batches: Vec<PatchBatch>, options: &BankOptions) -> Result<FeatureBank, EvalError> {
    FeatureBank::build("train", &pixels, batches.into_iter().map(Ok), options, &mut |_| {})
}

#[test]
fn golden_features_are_averaged_over_the_patches() {
    let Some(family) = Family::open("knn") else { return };
    let about = &family.index["chunk_avg"];
    let Some(file) = about["file"].as_str() else { return };
    let tensors = family.tensors(file);
    let (n, b) = (about["n_chunks"].as_u64().unwrap() as usize, about["batch"].as_u64().unwrap() as usize);
    for ((kind, precision), patches_per_call) in PRECISIONS.into_iter().zip([1, 3 * b as i64]) {
        let (rows, seen) = (numbers(&tensors, "x", kind), Cell::new(0));
        let extractor =
            |patches: &Tensor| rows.narrow(0, seen.replace(seen.get() + patches.size()[0]), patches.size()[0]);
        let options = BankOptions { kind, patches_per_call, ..OPTIONS };
        let batches = [Ok(batch(n, &vec![0; b]))];
        let bank = FeatureBank::build("golden", &extractor, batches, &options, &mut |_| {}).unwrap();
        let tolerance = about["tolerance"][precision].as_f64().unwrap();
        assert_close("mean", &values(bank.features()), &tensors.get("mean").f64(), tolerance);
    }
}

#[test]
fn bytes_become_numbers_from_minus_one_to_one() {
    let patches = Array5::from_shape_vec((1, 1, 3, 1, 1), vec![0, 51, 255]).unwrap();
    let batch = PatchBatch::new(patches, Some(vec![0]), vec![0]).unwrap();
    let bank = build(vec![batch], &OPTIONS).unwrap();
    assert_close("pixels", &values(bank.features()), &[-1.0, -0.6, 1.0], 1e-15);
}

#[test]
fn rows_follow_the_images_whatever_the_batches_and_calls() {
    // The whole set as one batch of 5, and the same as batches of 2, 2 and 1.
    let whole = batch(3, &[0, 1, 2, 3, 0]);
    let part = |from: usize, to: usize| {
        let patches = whole.patches().slice_axis(ndarray::Axis(1), (from..to).into()).to_owned();
        let labels = whole.labels.as_ref().map(|labels| labels[from..to].to_vec());
        PatchBatch::new(patches, labels, (from..to).collect()).unwrap()
    };
    let parts = vec![part(0, 2), part(2, 4), part(4, 5)];
    let expected: Vec<f64> = (0..5)
        .flat_map(|image| (0..3).map(move |channel| (image, channel)))
        .map(|(image, channel)| {
            let bytes = (0..3).map(|patch| f64::from(whole.patches()[[patch, image, channel, 0, 0]]));
            bytes.map(|byte| byte / 127.5 - 1.0).sum::<f64>() / 3.0
        })
        .collect();
    let mut done = Vec::new();
    let options = BankOptions { patches_per_call: 4, ..OPTIONS };
    let parted =
        FeatureBank::build("parted", &pixels, parts.into_iter().map(Ok), &options, &mut |n| done.push(n)).unwrap();
    for bank in [parted, build(vec![batch(3, &[0, 1, 2, 3, 0])], &OPTIONS).unwrap()] {
        assert_close(bank.name(), &values(bank.features()), &expected, 1e-14);
        assert_eq!(values(bank.labels()), [0.0, 1.0, 2.0, 3.0, 0.0]);
        assert_eq!((bank.n_images(), bank.width(), bank.n_classes()), (5, 3, 4));
    }
    assert_eq!(done, [2, 4, 5]);
}

#[test]
fn whole_images_of_a_loader_become_rows_in_their_order() {
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let images = empssl_data::open(&options, Split::Test).unwrap().subset(&[5, 900, 17, 3, 1999]).unwrap();
    let loader = LoaderConfig {
        n_patches: 1,
        batch_size: 2,
        view: View::Whole,
        order: Order::Sequential,
        drop_last: false,
        seed: 0,
        epoch: 0,
        first_batch: 0,
        n_batches: None,
        rank: 0,
        world: 1,
        n_workers: 2,
        prefetch: 1,
    };
    let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
    let loader = PatchLoader::new(&images, &sampler, &loader).unwrap();
    let options = BankOptions { n_classes: images.class_names().len() as i64, ..OPTIONS };
    let bank = FeatureBank::build("test", &pixels, loader, &options, &mut |_| {}).unwrap();
    for row in 0..5 {
        let image = images.image(row).unwrap();
        let planar = image.view().permuted_axes([2, 0, 1]);
        let expected: Vec<f64> = planar.iter().map(|&byte| f64::from(byte) / 127.5 - 1.0).collect();
        assert_close("pixels", &values(&bank.features().get(row as i64)), &expected, 1e-15);
        assert_eq!(bank.labels().int64_value(&[row as i64]), i64::from(images.labels().unwrap()[row]));
    }
}

#[test]
fn the_encoder_sees_bounded_calls_and_leaves_no_graph() {
    let scale = Tensor::from_slice(&[2.0]).set_requires_grad(true);
    let largest = Cell::new(0);
    let extractor = |patches: &Tensor| {
        largest.set(largest.get().max(patches.size()[0]));
        pixels(patches) * &scale
    };
    let options = BankOptions { patches_per_call: 9, ..OPTIONS };
    let batches = [Ok(batch(7, &[0, 1, 2]))];
    let bank = FeatureBank::build("train", &extractor, batches, &options, &mut |_| {}).unwrap();
    assert_eq!(largest.get(), 9);
    assert!(!bank.features().requires_grad());
}

#[test]
fn refuses_images_that_cannot_be_scored() {
    let mut unlabelled = batch(1, &[0]);
    unlabelled.labels = None;
    let message = refusal(build(vec![unlabelled], &OPTIONS));
    assert!(message.starts_with("the images of the bank `train` have no labels, and a score is"), "{message}");
    let message = refusal(build(vec![], &OPTIONS));
    assert_eq!(message, "the bank `train` holds no image, so there is nothing to score");
    let message = refusal(build(vec![batch(1, &[0, 1]), batch(1, &[3, 4])], &OPTIONS));
    assert_eq!(message, "the bank `train` gives image 3 the label 4, but there are 4 classes, counted from 0");
}

#[test]
fn an_error_of_the_loader_ends_the_bank() {
    let batches = [Ok(batch(1, &[0])), Err(DataError::LoaderStopped { batch: 1 })];
    let result = FeatureBank::build("train", &pixels, batches, &OPTIONS, &mut |_| {});
    assert_eq!(refusal(result), DataError::LoaderStopped { batch: 1 }.to_string());
}

#[test]
fn refuses_extractors_that_lose_or_change_rows() {
    let built = |extractor: &dyn FeatureExtractor, batches: Vec<PatchBatch>| {
        refusal(FeatureBank::build("train", extractor, batches.into_iter().map(Ok), &OPTIONS, &mut |_| {}))
    };
    let fewer = |patches: &Tensor| pixels(patches).narrow(0, 0, 1);
    let message = built(&fewer, vec![batch(2, &[0, 1])]);
    assert_eq!(message, "the features that the extractor returned must be [4, h], found [1, 3]");
    let square = |patches: &Tensor| patches.shallow_clone();
    assert!(built(&square, vec![batch(1, &[0])]).ends_with("must be [1, h], found [1, 3, 1, 1]"));
    let calls = Cell::new(0);
    let wider = |patches: &Tensor| pixels(patches).repeat([1, calls.replace(calls.get() + 1) + 1]);
    assert!(built(&wider, vec![batch(1, &[0]), batch(1, &[0])]).ends_with("must be [1, 3], found [1, 6]"));
    calls.set(0);
    assert!(built(&wider, vec![batch(9, &[0])]).ends_with("must be [1, 3], found [1, 6]"));
}

#[test]
fn refuses_features_that_are_not_finite_and_names_the_first_row() {
    let labels = Tensor::zeros([9000], (Kind::Int64, Device::Cpu));
    for (value, row) in [(f64::NAN, 0), (f64::INFINITY, 4099), (f64::NEG_INFINITY, 8999)] {
        let features = Tensor::zeros([9000, 2], (Kind::Double, Device::Cpu));
        let _ = features.get(row).fill_(value);
        let _ = features.get(8999).fill_(value);
        let message = refusal(FeatureBank::new("test", &features, &labels, 1));
        let expected = format!("the features of the bank `test` are not finite, first in row {row}: ");
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn refuses_tensors_of_the_wrong_shape_or_kind() {
    let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
    let refused = |features: &Tensor, labels: &Tensor| refusal(FeatureBank::new("x", features, labels, 2));
    let (features, labels) = (zeros(&[3, 2], Kind::Float), zeros(&[3], Kind::Int64));
    let start = "the features of the bank `x` must be ";
    assert_eq!(refused(&zeros(&[3], Kind::Float), &labels), format!("{start}[images, h], found [3]"));
    let message = refused(&zeros(&[3, 2], Kind::Int64), &labels);
    assert_eq!(message, format!("{start}floating-point and at least one wide, found Int64 of [3, 2]"));
    assert!(refused(&zeros(&[3, 0], Kind::Float), &labels).ends_with("found Float of [3, 0]"));
    assert!(refused(&zeros(&[0, 2], Kind::Float), &labels).contains("`x` holds no image"));
    let message = refused(&features, &zeros(&[2], Kind::Int64));
    assert_eq!(message, "the labels of the bank `x` must be Int64 of [3], found Int64 of [2]");
    assert!(refused(&features, &zeros(&[3], Kind::Float)).ends_with("found Float of [3]"));
    let negative = Tensor::from_slice(&[0i64, -1, 0]);
    assert!(refused(&features, &negative).starts_with("the bank `x` gives image 1 the label -1, but"));
}

#[test]
fn refuses_options_without_meaning() {
    for (key, options) in [
        ("n_classes", BankOptions { n_classes: 0, ..OPTIONS }),
        ("patches_per_call", BankOptions { patches_per_call: 0, ..OPTIONS }),
    ] {
        let message = refusal(build(vec![batch(1, &[0])], &options));
        assert_eq!(message, format!("`{key}` must be at least 1, found 0"));
    }
}
