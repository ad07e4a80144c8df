//! Frozen encoder -> numbers: how good are the features that an encoder gives to labelled images?
//!
//! - [`features`]: [`FeatureBank`], one row of features an image, the mean over its patches ("bag of patches");
//! - [`knn`]: [`WeightedKnn`], the vote of the nearest training images;
//! - [`probe`]: [`LinearProbe`], softmax regression by stochastic gradient descent on the frozen features;
//! - [`metrics`]: [`Accuracy`], top-1 and top-5 in percent.
//!
//! **Invariant:** an encoder is a [`FeatureExtractor`], a function from patches to rows, and nothing else; how it was
//! trained, its layers and its weights are unknown here.
//! Everything runs in float32 and float64, on the device and in the kind of the banks it is given.

pub mod error;
pub mod features;
pub mod knn;
pub mod metrics;
pub mod probe;

pub use error::EvalError;
pub use features::{BankOptions, FeatureBank, FeatureExtractor, pixels};
pub use knn::{KnnConfig, Metric, WeightedKnn};
pub use metrics::Accuracy;
pub use probe::{BestOfRates, FittedProbe, LinearProbe, LinearProbeConfig, PIXEL_RATES, best_of_rates};
