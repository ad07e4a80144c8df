//! Where a step's patches come from, and how they reach the network.

use std::ops::Range;
use std::sync::Arc;

use empssl_data::{BatchMemory, Dataset, HeapMemory, LoaderConfig, Order, PatchBatch, PatchLoader, PatchSampler, View};
use tch::{Device, Kind, Tensor};

use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::feed::{Feed, PinnedMemory};
use crate::ranks::Share;

/// Where patches come from.
pub struct BatchSource {
    /// The images.
    pub dataset: Dataset,
    /// The augmentation.
    pub sampler: PatchSampler,
    /// Threads that cut patches.
    pub n_workers: usize,
    /// Batches cut ahead.
    pub prefetch: usize,
}

impl BatchSource {
    /// The patches of each of these steps of a run, for `device`.
    ///
    /// The workers fill the same `prefetch + 2` buffers, each of one batch, from the first step to the last; for CUDA
    /// they are page-locked.
    ///
    /// # Errors
    /// When the device cannot be reached.
    pub fn feed(&self, config: &TrainConfig, steps: Range<u64>, device: Device) -> Result<Feed<'_>, TrainError> {
        self.feed_share(config, steps, device, Share::WHOLE)
    }

    /// [`Self::feed`] for one of several processes, which each get their slice of every batch.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn feed_share(
        &self,
        config: &TrainConfig,
        steps: Range<u64>,
        device: Device,
        share: Share,
    ) -> Result<Feed<'_>, TrainError> {
        let memory: Arc<dyn BatchMemory> = match device {
            Device::Cuda(_) => Arc::new(PinnedMemory),
            _ => Arc::new(HeapMemory),
        };
        Feed::new(self.batches(config, steps, share, memory)?, device)
    }

    /// The batch of each of these steps of a run, with the epoch it belongs to, up to the first error: the position in
    /// the data follows from the number of the step, so a run may begin anywhere. Incomplete batches are left out.
    pub(crate) fn batches(
        &self,
        config: &TrainConfig,
        steps: Range<u64>,
        share: Share,
        memory: Arc<dyn BatchMemory>,
    ) -> Result<impl Iterator<Item = Result<(u64, PatchBatch), TrainError>> + use<>, TrainError> {
        // The loader says so where the images do not fill one batch.
        let steps_per_epoch = config.steps_per_epoch(self.dataset.len()).max(1);
        let loader = LoaderConfig {
            n_patches: config.n_patches,
            batch_size: config.batch_size,
            view: View::Augmented,
            order: Order::Shuffled,
            drop_last: true,
            seed: config.seed,
            epoch: steps.start / steps_per_epoch,
            first_batch: (steps.start % steps_per_epoch) as usize,
            n_batches: Some((steps.end - steps.start) as usize),
            rank: share.rank,
            world: share.world,
            n_workers: self.n_workers,
            prefetch: self.prefetch,
        };
        let loader = PatchLoader::with_memory(&self.dataset, &self.sampler, &loader, memory)?;
        Ok(steps.zip(loader).map(move |(step, batch)| Ok((step / steps_per_epoch, batch?))))
    }
}

/// The patches of a batch on `device`, bytes `[n, b, 3, s, s]`, as the loader cut them.
pub fn patches_on(batch: &PatchBatch, device: Device) -> Tensor {
    Tensor::from_data_size(batch.bytes(), &sizes(batch), Kind::Uint8).to_device(device)
}

/// n, b, 3, s, s.
pub(crate) fn sizes(batch: &PatchBatch) -> [i64; 5] {
    let (n, b, channels, height, width) = batch.patches().dim();
    [n, b, channels, height, width].map(|size| size as i64)
}

/// The network's input: bytes `[n, b, 3, s, s]` to numbers `x / 127.5 - 1` of `kind`, `[n * b, 3, s, s]`
/// (tsb0601/EMP-SSL `dataset/aug.py`: ToTensor, then Normalize with mean and deviation 0.5).
pub fn network_input(patches: &Tensor, kind: Kind) -> Tensor {
    patches.flatten(0, 1).to_kind(kind) / 127.5 - 1.0
}
