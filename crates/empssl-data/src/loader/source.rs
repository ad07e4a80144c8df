//! What the workers do for one image: read it and write its patches.

use std::sync::atomic::{AtomicBool, Ordering};

use ndarray::ArrayViewMut4;

use super::config::{LoaderConfig, View};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::grid::PatchGrid;
use crate::patch::{PatchKey, PatchSampler};

/// Where the patches of an image come from; the workers know nothing else about it.
pub(super) trait PatchSource: Send + Sync {
    /// The classes of these images, if they have any.
    fn labels(&self, images: &[usize]) -> Option<Vec<u32>>;

    /// Writes the patches of one image, `[n, 3, s, s]`, every patch contiguous; may leave off once `stop` is set.
    fn write(&self, image: usize, patches: ArrayViewMut4<'_, u8>, stop: &AtomicBool) -> Result<(), DataError>;
}

/// The images of a data set, seen as a loader's settings say.
pub(super) struct ImageSource {
    dataset: Dataset,
    sampler: PatchSampler,
    view: Placed,
    seed: u64,
    epoch: u64,
}

/// A [`View`] with everything it needs.
enum Placed {
    Augmented,
    Grid(PatchGrid),
    Whole,
}

impl ImageSource {
    /// The source of a loader whose settings were checked.
    pub(super) fn new(dataset: &Dataset, sampler: &PatchSampler, config: &LoaderConfig) -> Result<Self, DataError> {
        let view = match config.view {
            View::Augmented => Placed::Augmented,
            View::Grid { flip } => Placed::Grid(PatchGrid::new(config.n_patches, flip)?),
            View::Whole => Placed::Whole,
        };
        let LoaderConfig { seed, epoch, .. } = *config;
        Ok(Self { dataset: dataset.clone(), sampler: sampler.clone(), view, seed, epoch })
    }
}

impl PatchSource for ImageSource {
    fn labels(&self, images: &[usize]) -> Option<Vec<u32>> {
        self.dataset.labels().map(|labels| images.iter().map(|&image| labels[image]).collect())
    }

    fn write(&self, image: usize, mut patches: ArrayViewMut4<'_, u8>, stop: &AtomicBool) -> Result<(), DataError> {
        let pixels = self.dataset.image(image)?;
        for (patch, mut out) in (0_u32..).zip(patches.outer_iter_mut()) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let Some(out) = out.as_slice_mut() else { unreachable!("one patch of a batch is contiguous") };
            let key = PatchKey { seed: self.seed, epoch: self.epoch, image: image as u64, patch };
            match &self.view {
                Placed::Augmented => self.sampler.sample(pixels.view(), key, out),
                Placed::Grid(grid) => self.sampler.grid(pixels.view(), grid, patch as usize, out),
                Placed::Whole => self.sampler.whole(pixels.view(), out),
            }
        }
        Ok(())
    }
}
