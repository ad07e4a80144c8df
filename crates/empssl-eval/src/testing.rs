//! What the tests of several modules need: golden tensors in a kind, patches, banks with and without structure.

use empssl_data::PatchBatch;
use empssl_golden::Tensors;
use ndarray::Array5;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::error::EvalError;
use crate::features::{BankOptions, FeatureBank};

/// Features of 4 classes in float64, a few patches a call.
pub(crate) const OPTIONS: BankOptions =
    BankOptions { n_classes: 4, device: Device::Cpu, kind: Kind::Double, patches_per_call: 6 };

/// `n` patches of one pixel and 3 channels for each label; the bytes count up.
pub(crate) fn patches(n: usize, labels: &[u32]) -> PatchBatch {
    let shape = (n, labels.len(), 3, 1, 1);
    let mut byte = 0u8;
    let patches = Array5::from_shape_simple_fn(shape, || {
        byte = byte.wrapping_add(7);
        byte
    });
    PatchBatch::new(patches, Some(labels.to_vec()), (0..labels.len()).collect()).unwrap()
}

/// Both precisions, as libtorch and as the golden index call them.
pub(crate) const PRECISIONS: [(Kind, &str); 2] = [(Kind::Double, "float64"), (Kind::Float, "float32")];

/// The rows of `n_rows` that a golden index does not call ambiguous; those may go either way by rounding.
pub(crate) fn clear_rows(ambiguous: &Value, n_rows: i64) -> Tensor {
    let ambiguous: Vec<i64> = ambiguous.as_array().unwrap().iter().map(|row| row.as_i64().unwrap()).collect();
    let clear: Vec<i64> = (0..n_rows).filter(|row| !ambiguous.contains(row)).collect();
    Tensor::from_slice(&clear)
}

/// A golden tensor of numbers in the kind under test.
pub(crate) fn numbers(tensors: &Tensors, name: &str, kind: Kind) -> Tensor {
    let stored = tensors.get(name);
    Tensor::from_slice(&stored.f64()).view(&stored.sizes()[..]).to_kind(kind)
}

/// A golden tensor of integers.
pub(crate) fn integers(tensors: &Tensors, name: &str) -> Tensor {
    let stored = tensors.get(name);
    Tensor::from_slice(&stored.i64()).view(&stored.sizes()[..])
}

/// The bank `train` or `test` of a golden case.
pub(crate) fn golden_bank(tensors: &Tensors, case: &Value, name: &str, kind: Kind) -> FeatureBank {
    let features = numbers(tensors, &format!("{name}_features"), kind);
    let labels = integers(tensors, &format!("{name}_labels"));
    FeatureBank::new(name, &features, &labels, case["classes"].as_i64().unwrap()).unwrap()
}

/// A bank of given rows.
pub(crate) fn bank<const H: usize>(name: &str, rows: &[[f64; H]], labels: &[i64], n_classes: i64) -> FeatureBank {
    let features = Tensor::from_slice(rows.as_flattened()).view([-1, H as i64]);
    FeatureBank::new(name, &features, &Tensor::from_slice(labels), n_classes).unwrap()
}

/// Rows around one corner of a cube for each of 4 classes, which a linear layer separates; noise by sines, so that no
/// random generator is shared with other tests.
pub(crate) fn clusters(name: &str, n_images: i64, noise: f64, kind: Kind) -> FeatureBank {
    let labels = Tensor::arange(n_images, (Kind::Int64, Device::Cpu)).remainder(4);
    let waves = Tensor::arange(n_images * 6, (Kind::Double, Device::Cpu)).square() * 12.9898;
    let features = labels.one_hot(6).to_kind(Kind::Double) + waves.sin().view([n_images, 6]) * noise;
    FeatureBank::new(name, &features.to_kind(kind), &labels, 4).unwrap()
}

/// The values of a tensor as float64.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// The sentence of a refusal.
#[track_caller]
pub(crate) fn refusal<T>(result: Result<T, EvalError>) -> String {
    result.err().expect("not refused").to_string()
}
