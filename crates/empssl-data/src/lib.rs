//! Images to augmented patches to batches, without libtorch.
//!
//! The data flows through four modules, in this order:
//!
//! 1. [`sets`] opens a set of images by name: [`open`] gives a [`Dataset`], which [`dataset`] is about.
//! 2. [`augment`] holds the image operations of the published recipe, each with the integer arithmetic of Pillow.
//! 3. [`patch`] draws the parameters of a patch and applies them: [`PatchSampler`]; [`grid`] places patches where nothing
//!    is left to chance: [`PatchGrid`].
//! 4. [`loader`] walks a set in batches with worker threads: [`PatchLoader`] yields [`PatchBatch`].
//!
//! Beside them, [`fetch`] downloads what is published and [`verify`] says what is wrong with what is on disk. The
//! features are `fetch`, with `verify`, and `archives`, both on by default.
//!
//! [`rng`] is the counter-based generator behind every random draw, [`picture`] paints what the network sees.
//!
//! Letters in shapes: `n` patches per image, `b` images per batch, `s` the side of a patch in pixels.
//!
//! ```
//! use empssl_data::{LoaderConfig, OnBadImage, OpenOptions, Order, PatchConfig};
//! use empssl_data::{PatchLoader, PatchSampler, Split, View};
//!
//! # fn main() -> Result<(), empssl_data::DataError> {
//! let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
//! let images = empssl_data::open(&options, Split::Test)?.subset(&[0, 1, 2, 3, 4, 5])?;
//! let sampler = PatchSampler::new(&PatchConfig::cifar32())?;
//! let config = LoaderConfig {
//!     n_patches: 2,
//!     batch_size: 3,
//!     view: View::Augmented,
//!     order: Order::Shuffled,
//!     drop_last: true,
//!     seed: 0,
//!     epoch: 0,
//!     first_batch: 0,
//!     n_batches: None,
//!     rank: 0,
//!     world: 1,
//!     n_workers: 1,
//!     prefetch: 1,
//! };
//! for batch in PatchLoader::new(&images, &sampler, &config)? {
//!     assert_eq!(batch?.patches().shape(), [2, 3, 3, 32, 32]);
//! }
//! # Ok(())
//! # }
//! ```

// Everything is checked on x86-64; elsewhere the kernels are left out, and with them what only they use.
#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, unused_variables, reason = "only the kernels use it"))]

pub mod augment;
#[cfg(feature = "fetch")]
mod checksum;
pub mod dataset;
pub mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod grid;
pub mod loader;
mod maths;
pub mod options;
pub mod patch;
pub mod picture;
pub mod progress;
pub mod rng;
pub mod sets;
pub mod statistics;
#[cfg(feature = "fetch")]
pub mod verify;

pub use augment::resize::Interpolation;
pub use dataset::fingerprint::Hasher as Fingerprint;
pub use dataset::{BadImage, Dataset, decode_image, open_images};
pub use error::{DataError, DecodeError};
pub use grid::PatchGrid;
pub use loader::{BatchMemory, HeapMemory, LoaderConfig, Order, PatchBatch, PatchBuffer, PatchLoader, View};
pub use options::{OnBadImage, OpenOptions, Split};
pub use patch::{PatchConfig, PatchKey, PatchSampler};
pub use sets::{ImageSet, SETS, detect, open};
