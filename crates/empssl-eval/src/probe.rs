//! Linear probes: softmax regression on frozen features.
//!
//! - [`LinearProbe`] is the published one, stochastic gradient descent at a fixed setting, and [`best_of_rates`] the same
//!   for baselines;
//! - [`GridProbe`] tries many learning rates and weight decays in one pass over the features and chooses among them on
//!   held-out training images;
//! - [`LogisticProbe`] needs no setting: the optimum of the regularised loss, its strength chosen on held-out images;
//! - [`FewLabels`] is that probe where only a few images of each class have labels.

mod curvature;
mod few;
mod grid;
mod heads;
mod holdout;
mod layer;
mod lbfgs;
mod logistic;
mod part;
mod rates;
mod sgd;
mod softmax;
#[cfg(test)]
mod testing;
mod threads;

use std::f64::consts::PI;

use empssl_data::rng::{Purpose, Stream};

use crate::error::EvalError;

pub use self::few::{FewLabels, FewLabelsScore};
pub use self::grid::{Explored, GridFit, GridPoint, GridProbe, GridProbeConfig};
pub use self::layer::FittedProbe;
pub use self::logistic::{LogisticFit, LogisticProbe, LogisticProbeConfig, PathPoint, ProbePrecision};
pub use self::rates::{BestOfRates, PIXEL_RATES, best_of_rates};
pub use self::sgd::{LinearProbe, LinearProbeConfig};

/// Parts of the seed's random stream, so that layer, order and the choice of images share no number with each other or
/// with the image loader.
const ORDER_PART: u32 = 1;
const LAYER_PART: u32 = 2;
const HOLDOUT_PART: u32 = 3;
const FEW_PART: u32 = 4;

/// The numbers below `n_rows` in the random order of an epoch.
fn order(seed: u64, n_rows: i64, epoch: usize) -> Vec<i64> {
    let mut rows: Vec<i64> = (0..n_rows).collect();
    Stream::new(seed, Purpose::Order, epoch as u64, 0, ORDER_PART).shuffle(&mut rows);
    rows
}

/// What a rate is multiplied by in `epoch`, counted from 0: a cosine from 1 to 0.
fn fall(epoch: usize, epochs: usize) -> f64 {
    (1.0 + (PI * epoch as f64 / epochs as f64).cos()) / 2.0
}

/// The full batches of an epoch.
fn n_batches(bank: &str, n_images: i64, batch_size: i64) -> Result<i64, EvalError> {
    match n_images / batch_size {
        0 => Err(EvalError::SmallerThanBatch { bank: bank.to_owned(), n_images, batch_size }),
        n_batches => Ok(n_batches),
    }
}
