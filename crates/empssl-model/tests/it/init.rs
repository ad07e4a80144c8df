//! Initial values: every tensor of a fresh network against the distribution that PyTorch draws it from.

use std::collections::BTreeMap;

use empssl_model::{Network, NetworkConfig, ResNetConfig, Stem};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::build_seeded;
use crate::golden::{beside_index, full_size};

/// How an initial tensor is distributed.
enum Expected {
    Constant(f64),
    Normal { std: f64 },
    Uniform { bound: f64 },
}

impl Expected {
    /// The distributions that `init_statistics.json` describes under `expected`.
    fn of(key: &str, size: &[i64], fan_in_of_bias: i64, plain_stem: bool) -> Self {
        let per_channel: i64 = size.iter().skip(1).product();
        let uniform = |fan_in: i64| Self::Uniform { bound: 1.0 / (fan_in as f64).sqrt() };
        match size.len() {
            4 if plain_stem && key == "backbone.conv1.weight" => uniform(per_channel),
            4 => Self::Normal { std: (2.0 / (size[0] * size[2] * size[3]) as f64).sqrt() },
            2 => uniform(per_channel),
            _ if fan_in_of_bias > 0 => uniform(fan_in_of_bias),
            _ => Self::Constant(if key.ends_with("weight") || key.ends_with("running_var") { 1.0 } else { 0.0 }),
        }
    }

    fn check(&self, key: &str, sample: &Tensor) {
        let count = sample.numel() as f64;
        let number = |statistic: Tensor| statistic.double_value(&[]);
        let (mean, std) = (number(sample.mean(Kind::Double)), number(sample.to_kind(Kind::Double).std(false)));
        let expected_std = match *self {
            Self::Constant(value) => return assert_eq!((mean, std), (value, 0.0), "{key}"),
            Self::Normal { std } => std,
            Self::Uniform { bound } => {
                let largest = number(sample.abs().max());
                assert!(largest <= bound, "{key}: {largest} is outside of the bound {bound}");
                assert!(largest >= bound * (1.0 - 20.0 / count), "{key}: {largest} stays far inside of {bound}");
                bound / 3f64.sqrt()
            }
        };
        assert!(mean.abs() <= 5.0 * expected_std / count.sqrt(), "{key}: mean {mean}");
        assert!((std / expected_std - 1.0).abs() <= 5.0 / (2.0 * count).sqrt(), "{key}: std {std}, not {expected_std}");
    }
}

/// Every floating-point tensor of a network, with its distribution.
fn drawn(network: &Network) -> Vec<(String, Tensor, Expected)> {
    let plain_stem = network.config().resnet.stem == Stem::Cifar;
    let state = network.state_dict();
    let sizes: BTreeMap<_, _> = state.iter().map(|(key, tensor)| (key.clone(), tensor.size())).collect();
    let floats = state.into_iter().filter(|(_, tensor)| tensor.kind() != Kind::Int64);
    let with_expected = floats.map(|(key, tensor)| {
        // The bias of a linear layer is told from that of a norm by the matrix beside it.
        let beside = key.strip_suffix("bias").and_then(|layer| sizes.get(&format!("{layer}weight")));
        let fan_in = beside.filter(|size| size.len() == 2).map_or(0, |size| size[1]);
        let expected = Expected::of(&key, &tensor.size(), fan_in, plain_stem);
        (key, tensor, expected)
    });
    with_expected.collect()
}

#[test]
fn initial_values_have_pytorchs_distributions() {
    for resnet in [ResNetConfig::resnet18(Stem::Cifar), ResNetConfig::resnet50(Stem::Imagenet)] {
        let network = build_seeded(&NetworkConfig { resnet, hidden: 256, projection: 64 }, Kind::Float, 1);
        for (key, tensor, expected) in drawn(&network) {
            expected.check(&key, &tensor);
        }
    }
}

/// The official values, too, must come from the distributions that ours are tested for.
#[test]
fn golden_resnet_initial_values() {
    let Some(statistics) = beside_index("init_statistics.json") else { return };
    for (architecture, theirs) in statistics["models"].as_object().expect("the file lists models") {
        let network = build_seeded(&NetworkConfig::paper(full_size(architecture)), Kind::Float, 1);
        for (key, tensor, expected) in drawn(&network) {
            expected.check(&key, &tensor);
            check_official(&key, &theirs[&key], &expected);
        }
    }
}

fn check_official(key: &str, theirs: &Value, expected: &Expected) {
    let number = |name: &str| theirs[name].as_f64().unwrap_or_else(|| panic!("no {name} of {key}"));
    let (std, count) = (number("std"), number("count"));
    match *expected {
        Expected::Constant(value) => assert_eq!((number("mean"), std), (value, 0.0), "{key}"),
        Expected::Normal { std: expected } => {
            assert!((std / expected - 1.0).abs() <= 5.0 / (2.0 * count).sqrt(), "{key}")
        }
        Expected::Uniform { bound } => assert!(number("max") <= bound && number("min") >= -bound, "{key}"),
    }
}
