//! What the workers do for one image: read it and make its patches.

use ndarray::{ArrayView3, CowArray, Ix3};

use super::config::{LoaderConfig, View};
use crate::dataset::Dataset;
use crate::dataset::fingerprint::Hasher;
use crate::error::DataError;
use crate::grid::PatchGrid;
use crate::patch::{PatchKey, PatchSampler};

/// Where images come from; the workers know nothing else about it.
pub(super) trait ImageSource: Send + Sync {
    /// The classes of these images, if they have any.
    fn labels(&self, images: &[usize]) -> Option<Vec<u32>>;

    /// The pixels of one image, `[height, width, 3]`.
    fn image(&self, index: usize) -> Result<CowArray<'_, u8, Ix3>, DataError>;
}

impl ImageSource for Dataset {
    fn labels(&self, images: &[usize]) -> Option<Vec<u32>> {
        self.labels().map(|labels| images.iter().map(|&image| labels[image]).collect())
    }

    fn image(&self, index: usize) -> Result<CowArray<'_, u8, Ix3>, DataError> {
        self.image(index)
    }
}

/// The patches of every image, as a loader's settings say.
pub(super) struct PatchSource {
    pub(super) images: Box<dyn ImageSource>,
    /// Patches per image.
    pub(super) n_patches: usize,
    sampler: PatchSampler,
    view: View,
    /// The lattice of [`View::Grid`].
    grid: Option<PatchGrid>,
    seed: u64,
}

impl PatchSource {
    /// The source of a loader whose settings were checked.
    pub(super) fn new(
        images: Box<dyn ImageSource>,
        sampler: &PatchSampler,
        config: &LoaderConfig,
    ) -> Result<Self, DataError> {
        let LoaderConfig { n_patches, view, seed, .. } = *config;
        let grid = if let View::Grid { flip } = view { Some(PatchGrid::new(n_patches, flip)?) } else { None };
        Ok(Self { images, n_patches, sampler: sampler.clone(), view, grid, seed })
    }

    /// Side of a patch.
    pub(super) fn side(&self) -> usize {
        self.sampler.side()
    }

    /// By what the patches of the image of this `index` are drawn.
    pub(super) fn address(&self, pixels: ArrayView3<'_, u8>, index: usize) -> u64 {
        if self.view == View::AugmentedByPixels { digest(pixels) } else { index as u64 }
    }

    /// Writes one patch of the image of this address, whose `pixels` are given, to `out`, `[3, s, s]`.
    pub(super) fn write(&self, pixels: ArrayView3<'_, u8>, epoch: u64, image: u64, patch: u32, out: &mut [u8]) {
        match &self.grid {
            Some(grid) => self.sampler.grid(pixels, grid, patch as usize, out),
            None if self.view == View::Whole => self.sampler.whole(pixels, out),
            None => self.sampler.sample(pixels, PatchKey { seed: self.seed, epoch, image, patch }, out),
        }
    }
}

/// A number that differs, as good as always, where sizes or pixels do.
fn digest(pixels: ArrayView3<'_, u8>) -> u64 {
    let mut hasher = Hasher::default();
    pixels.shape().iter().for_each(|&size| hasher.number(size as u64));
    match pixels.as_slice() {
        Some(bytes) => hasher.bytes(bytes),
        None => hasher.bytes(&pixels.iter().copied().collect::<Vec<u8>>()),
    }
    hasher.finish()
}
