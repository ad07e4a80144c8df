//! What the benches share: the sizes, the projections and the published formula.

use empssl_loss::EmpSslLossConfig;
use tch::{Device, Kind, Tensor};

/// n, b and d.
pub(crate) const SIZES: [[i64; 3]; 4] = [[20, 100, 1024], [200, 100, 1024], [20, 100, 512], [5, 512, 128]];

/// The official functions, statement by statement.
pub(crate) fn published(z: &Tensor, config: &EmpSslLossConfig) -> Tensor {
    let patches = z.unbind(0);
    let mean = z.mean_dim([0i64].as_slice(), false, None::<Kind>);
    let mut similarity = Tensor::zeros([], (Kind::Float, Device::Cpu));
    let mut rate = Tensor::zeros([], (Kind::Float, Device::Cpu));
    for patch in &patches {
        similarity += Tensor::cosine_similarity(patch, &mean, 1, 1e-8).mean(None::<Kind>);
        rate += log_det(patch, config.eps_sq) * 0.5;
    }
    (similarity * config.invariance_weight + rate * config.coding_rate_weight) * (-1.0 / patches.len() as f64)
}

fn log_det(patch: &Tensor, eps_sq: f64) -> Tensor {
    let (b, d) = (patch.size()[0], patch.size()[1]);
    let identity = Tensor::eye(d, (Kind::Float, Device::Cpu));
    (identity + patch.transpose(0, 1).matmul(patch) * (d as f64 / (b as f64 * eps_sq))).logdet()
}

pub(crate) fn unit_rows(size: [i64; 3]) -> Tensor {
    tch::manual_seed(1);
    let z = Tensor::randn(size, (Kind::Float, Device::Cpu));
    &z / z.norm_scalaropt_dim(2, [2i64].as_slice(), true)
}

pub(crate) fn id([n, b, d]: [i64; 3]) -> String {
    format!("n{n}_b{b}_d{d}")
}
