//! Tests of whole networks, through the public interface.
//!
//! - `golden`: numbers and names of the official encoder.
//! - `init`: initial values.
//! - `loading`: weights that fit and weights that do not.
//! - `network`: shapes, modes and refused input.
//! - `python`: our files in PyTorch's strict loading, where PyTorch is installed.

mod golden;
mod init;
mod loading;
mod network;
mod python;

use empssl_model::{Network, NetworkConfig, ResNetConfig, Stem};
use tch::{Device, Kind, Tensor};

/// A network of a few thousand weights.
fn tiny() -> NetworkConfig {
    let resnet = ResNetConfig { base_width: 4, layers: [1, 1, 1, 1], ..ResNetConfig::resnet18(Stem::Cifar) };
    NetworkConfig { resnet, hidden: 16, projection: 8 }
}

fn build(config: &NetworkConfig, kind: Kind) -> Network {
    build_seeded(config, kind, 1)
}

fn build_seeded(config: &NetworkConfig, kind: Kind, seed: u64) -> Network {
    Network::new(config, seed, kind, Device::Cpu).expect("the configuration is valid")
}

/// All values of a tensor, in row-major order.
fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.detach().to_kind(Kind::Double).contiguous().view([-1]);
    Vec::try_from(&flat).expect("a flat float64 tensor becomes a vector")
}

/// Numbers that differ from one another, `[n, 3, side, side]`.
fn patches(n: i64, side: i64, kind: Kind) -> Tensor {
    let count = n * 3 * side * side;
    (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7).sin().view([n, 3, side, side]).to_kind(kind)
}
