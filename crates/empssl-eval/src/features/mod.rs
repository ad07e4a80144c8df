//! Features of a frozen encoder, extracted once and scored many times.
//!
//! - [`FeatureExtractor`]: an encoder as seen from here, a function from patches to named rows;
//! - `pass`: one pass over a split, the mean over the patches of each image and over fewer of them on the way;
//! - [`FeatureBank`]: labelled features in a tensor, which is what probes and neighbours take;
//! - [`BankFile`]: banks on disk, written as they are computed and mapped into memory when they are read;
//!   [`BankIdentity`] says of which encoder, images and patches they are, so that a stale one is told from a good one;
//! - [`npy`]: the same rows as a NumPy array.

mod bank;
mod extractor;
mod file;
pub mod npy;
mod pass;
mod writer;

pub use bank::FeatureBank;
pub(crate) use bank::{SMALLEST_NORM, Signature, first_non_finite_row};
pub use extractor::{FEATURES, FeatureExtractor, n_pixels, pixels};
pub use file::{BankFile, BankIdentity, BankSpec};
pub use pass::{BankOptions, ImageFeatures, Kept, Sink, extract_features};
pub(crate) use pass::{mean_over_patches, to_device};
