//! Where a step's patches come from, and how they reach the network.

use std::ops::Range;

use empssl_data::{Dataset, LoaderConfig, Order, PatchBatch, PatchLoader, PatchSampler, View};
use tch::{Device, Kind, Tensor};

use crate::config::TrainConfig;
use crate::error::TrainError;

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
    /// The batch of each of these steps of a run, with the epoch it belongs to: the position in the data follows from
    /// the number of the step, so a run may begin anywhere.
    pub(crate) fn batches(
        &self,
        config: &TrainConfig,
        steps: Range<u64>,
    ) -> impl Iterator<Item = Result<(u64, PatchBatch), TrainError>> {
        let steps_per_epoch = config.steps_per_epoch(self.dataset.len());
        let mut loader = None;
        steps.map(move |step| {
            let (epoch, position) = (step / steps_per_epoch, step % steps_per_epoch);
            if position == 0 || loader.is_none() {
                loader = Some(self.epoch(config, epoch, position as usize)?);
            }
            let batch = loader.as_mut().and_then(Iterator::next);
            Ok((epoch, batch.expect("an epoch has a batch for each of its steps")?))
        })
    }

    /// The batches of one epoch from `first_batch` on, without an incomplete last one.
    fn epoch(&self, config: &TrainConfig, epoch: u64, first_batch: usize) -> Result<PatchLoader, TrainError> {
        let loader = LoaderConfig {
            n_patches: config.n_patches,
            batch_size: config.batch_size,
            view: View::Augmented,
            order: Order::Shuffled,
            drop_last: true,
            seed: config.seed,
            epoch,
            first_batch,
            rank: 0,
            world: 1,
            n_workers: self.n_workers,
            prefetch: self.prefetch,
        };
        Ok(PatchLoader::new(&self.dataset, &self.sampler, &loader)?)
    }
}

/// The patches of a batch on `device`, bytes `[n, b, 3, s, s]`, as the loader cut them.
pub fn patches_on(batch: &PatchBatch, device: Device) -> Tensor {
    let (n, b, channels, height, width) = batch.patches().dim();
    let sizes = [n, b, channels, height, width].map(|size| size as i64);
    Tensor::from_data_size(batch.bytes(), &sizes, Kind::Uint8).to_device(device)
}

/// The network's input: bytes `[n, b, 3, s, s]` to numbers `x / 127.5 - 1` of `kind`, `[n * b, 3, s, s]`
/// (tsb0601/EMP-SSL `dataset/aug.py`: ToTensor, then Normalize with mean and deviation 0.5).
pub fn network_input(patches: &Tensor, kind: Kind) -> Tensor {
    patches.flatten(0, 1).to_kind(kind) / 127.5 - 1.0
}
