//! Linear probes: softmax regression on frozen features.
//!
//! - [`LinearProbe`] is the published one, stochastic gradient descent at a fixed setting, and [`best_of_rates`] the same
//!   for baselines;
//! - [`LogisticProbe`] needs no setting: the optimum of the regularised loss, its strength chosen on held-out images;
//! - [`FewLabels`] is that probe where only a few images of each class have labels.

mod curvature;
mod few;
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

pub use self::few::{FewLabels, FewLabelsScore};
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
