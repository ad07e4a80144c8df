//! How a set is walked, and which settings cannot work.

use crate::error::DataError;
use crate::grid::PatchGrid;

/// What is seen of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// n random patches, drawn by the epoch and the image's place in its set.
    Augmented,
    /// n random patches, drawn by a digest of the image's pixels in place of its place: the same in whatever set and
    /// order the image comes.
    AugmentedByPixels,
    /// n patches in fixed places, cropped as the recipe's [`crate::PatchSampler::grid`] says and not augmented.
    Grid {
        /// Show n / 2 places, each as it is and mirrored.
        flip: bool,
    },
    /// The whole image, resized to s x s (unchanged if it has that size) and not augmented; n is 1.
    Whole,
}

/// The order of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Random, another one for every seed and epoch.
    Shuffled,
    /// As they are in the data set.
    Sequential,
}

/// How to walk a data set.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Patches per image, n.
    pub n_patches: usize,
    /// Images per batch, b, over all ranks.
    pub batch_size: usize,
    /// What is seen of an image.
    pub view: View,
    /// The order of the images.
    pub order: Order,
    /// Leave out the last batch if it has fewer than b images.
    pub drop_last: bool,
    /// The seed of the run.
    pub seed: u64,
    /// The pass over the data to start in; part of the address of every random number.
    pub epoch: u64,
    /// The batch to start with. The batches before it are not made, so resuming costs nothing.
    pub first_batch: usize,
    /// Batches to make, over as many further epochs as that takes; `None` for the rest of the epoch.
    pub n_batches: Option<usize>,
    /// Which of the processes that share the work this is, from 0.
    pub rank: usize,
    /// Processes that share the work. Each batch is cut into as many slices in the order of its images, and rank r gets
    /// slice r, so the slices side by side are the batch of a single process. Where an incomplete batch does not divide
    /// evenly, the first ranks get one image more; the last may get none, but every rank gets every batch.
    pub world: usize,
    /// Threads that make patches. Their number changes the speed, never the bytes.
    pub n_workers: usize,
    /// Finished batches that may wait. Besides them one batch is being made and one is the caller's, so a loader owns
    /// prefetch + 2 buffers.
    pub prefetch: usize,
}

impl LoaderConfig {
    /// Refuses what cannot work with so many `images` and patches of `side`.
    pub(super) fn check(&self, images: usize, side: usize) -> Result<(), DataError> {
        self.check_counts(images, side)?;
        self.check_ranks()?;
        self.check_view()?;
        let batches = self.batches_per_epoch(images);
        if batches == 0 {
            let b = self.batch_size;
            return Err(DataError::Loader(format!(
                "{images} images do not fill one batch of {b}: lower the batch size or keep incomplete batches"
            )));
        }
        if self.first_batch > batches {
            let expected = format!("at most {batches}, the batches of an epoch");
            return Err(DataError::setting("first_batch", self.first_batch, expected));
        }
        Ok(())
    }

    fn check_counts(&self, images: usize, side: usize) -> Result<(), DataError> {
        let counts = [
            ("n_patches", self.n_patches),
            ("batch_size", self.batch_size),
            ("world", self.world),
            ("n_workers", self.n_workers),
        ];
        if let Some((key, count)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return Err(DataError::setting(key, count, "at least 1"));
        }
        if u32::try_from(self.n_patches).is_err() {
            return Err(DataError::setting("n_patches", self.n_patches, format!("at most {}", u32::MAX)));
        }
        if self.buffer_bytes(images, side).is_none() {
            let expected = format!("patches of side {side} of {} images that fit the memory", self.batch_size);
            return Err(DataError::setting("n_patches", self.n_patches, expected));
        }
        Ok(())
    }

    fn check_ranks(&self) -> Result<(), DataError> {
        if self.rank >= self.world {
            return Err(DataError::setting("rank", self.rank, format!("less than `world`, which is {}", self.world)));
        }
        if !self.batch_size.is_multiple_of(self.world) {
            let expected = format!("a multiple of `world`, which is {}", self.world);
            return Err(DataError::setting("batch_size", self.batch_size, expected));
        }
        Ok(())
    }

    fn check_view(&self) -> Result<(), DataError> {
        match self.view {
            View::Whole if self.n_patches != 1 => {
                Err(DataError::setting("n_patches", self.n_patches, "1 where the view is the whole image"))
            }
            View::Grid { flip } => PatchGrid::new(self.n_patches, flip).map(drop),
            View::Augmented | View::AugmentedByPixels | View::Whole => Ok(()),
        }
    }

    /// The batches that so many `images` make.
    pub(super) fn batches_per_epoch(&self, images: usize) -> usize {
        let Self { batch_size, drop_last, .. } = *self;
        if drop_last { images / batch_size } else { images.div_ceil(batch_size) }
    }

    /// The most images of a batch that fall to one rank.
    pub(super) fn images_per_rank(&self, images: usize) -> usize {
        self.batch_size.min(images).div_ceil(self.world)
    }

    /// The bytes of this rank's largest batch; `None` if no machine could address them.
    pub(super) fn buffer_bytes(&self, images: usize, side: usize) -> Option<usize> {
        let factors = [self.n_patches, self.images_per_rank(images), 3, side, side];
        let bytes = factors.into_iter().try_fold(1, usize::checked_mul)?;
        isize::try_from(bytes).is_ok().then_some(bytes)
    }
}
