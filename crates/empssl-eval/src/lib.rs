//! Frozen encoder -> numbers: how good are the features that an encoder gives to labelled images?
//!
//! - [`features`]: [`FeatureBank`], one row of features an image, the mean over its patches ("bag of patches"), in memory
//!   or, as a [`BankFile`], on disk, computed in one pass and scored many times;
//! - [`knn`]: [`WeightedKnn`], the vote of the nearest training images, for several numbers of neighbours in one pass;
//! - [`probe`]: [`LinearProbe`], softmax regression by stochastic gradient descent on the frozen features;
//!   [`LogisticProbe`], the optimum; [`FewLabels`];
//! - [`metrics`]: [`Accuracy`], top-1 and top-5 in percent, and [`Spread`] over seeds;
//! - [`monitor`]: [`KnnMonitor`], a cheap kNN score for an encoder that is still being trained;
//! - [`protocol`]: which scores there are, as rows of a report;
//! - [`embed`](mod@embed): features of images that need no labels; [`nearest`](mod@nearest): the images most
//!   like one image; [`principal`]: the axes along which features differ most.
//!
//! **Invariant:** an encoder is a [`FeatureExtractor`], a function from patches to rows, and nothing else; how it was
//! trained, its layers and its weights are unknown here.
//! Everything runs in float32 and float64, on the device and in the kind of the banks it is given.
//!
//! Letters in shapes: `n` patches per image, `b` images per batch, `s` the side of a patch in pixels, `h` features per
//! image, `c` classes, `k` neighbours, `m` rows in general.
//!
//! ```
//! use empssl_eval::{EvalError, FeatureBank, KnnConfig, LinearProbe, LinearProbeConfig, WeightedKnn};
//! use tch::Tensor;
//!
//! # fn main() -> Result<(), EvalError> {
//! // Usually `FeatureBank::build` makes the banks from an encoder and a loader of patches.
//! let (features, labels) = (Tensor::from_slice(&[0.9f32, 0.1, 0.2, 0.8]).view([2, 2]), Tensor::from_slice(&[0i64, 1]));
//! let train = FeatureBank::new("train", &features, &labels, 2)?;
//! let test = FeatureBank::new("test", &(features * 2.0), &labels, 2)?;
//!
//! assert_eq!(WeightedKnn::new(&KnnConfig::published())?.score(&train, &test)?.top1, 100.0);
//! let config = LinearProbeConfig { batch_size: 2, ..LinearProbeConfig::published() };
//! assert_eq!(LinearProbe::new(&config, 0)?.fit(&train)?.score(&test)?.top1, 100.0);
//! # Ok(())
//! # }
//! ```

pub mod embed;
pub mod error;
pub mod features;
pub mod knn;
pub mod metrics;
pub mod monitor;
pub mod nearest;
pub mod principal;
pub mod probe;
pub mod protocol;
#[cfg(test)]
mod testing;

pub use embed::{embed, embed_all};
pub use error::EvalError;
pub use features::{
    BankFile, BankIdentity, BankOptions, BankSpec, FEATURES, FeatureBank, FeatureExtractor, Kept, pixels,
};
pub use knn::{KnnConfig, KnnScore, WeightedKnn};
pub use metrics::{Accuracy, Spread};
pub use monitor::KnnMonitor;
pub use nearest::{Neighbour, nearest};
pub use principal::principal_axes;
pub use probe::{
    BestOfRates, FewLabels, FewLabelsScore, FittedProbe, LinearProbe, LinearProbeConfig, LogisticFit, LogisticProbe,
    LogisticProbeConfig, PIXEL_RATES, PathPoint, ProbePrecision, best_of_rates,
};
pub use protocol::{
    BankFiles, CurveConfig, EvalPass, EvaluationConfig, FeatureSource, NamedEncoder, Protocol, ScoresConfig,
};
