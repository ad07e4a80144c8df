//! The patches of a run's steps, from the loader to the device; on CUDA those of the next step travel while this one is
//! computed.
//!
//! ```text
//!               next                                      the step of batch k                     next ...
//! host          wait for batch k + 1, begin copy k + 1 |  forward, backward, ...               |
//! copy stream   copy k (in the step before)            |  copy k + 1                           |
//! computing     step k - 1                             |  (after copy k)  step k ..............|
//! ```
//!
//! **Invariant:** a buffer goes back to the workers only after its copy is done, however the run ends.
//! **Invariant:** a step reads its patches only after they have arrived, and the host does not wait for that.

use std::ops::Range;
use std::sync::Arc;

use empssl_data::{
    BatchMemory, DataError, Dataset, HeapMemory, LoaderConfig, Order, PatchBatch, PatchBuffer, PatchLoader,
    PatchSampler, View,
};
use empssl_torch::{Completion, PinnedBytes, ShimError, Stream, Upload, catch};
use tch::{Device, Kind, Tensor};
use tracing::info_span;

use crate::config::TrainConfig;
use crate::error::TrainError;
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
    /// The batches of these steps of a run on `device`, or a process's `share` of them. The position in the data follows
    /// from the number of the step, so a run may begin anywhere.
    ///
    /// The workers fill the same `prefetch + 2` buffers, each of one batch, from the first step to the last; for CUDA
    /// they are page-locked.
    ///
    /// # Errors
    /// When the images do not fill a batch, or the device cannot be reached.
    pub fn batches(
        &self,
        config: &TrainConfig,
        steps: Range<u64>,
        device: Device,
        share: Share,
    ) -> Result<DevicePrefetcher, TrainError> {
        let (memory, copier): (Arc<dyn BatchMemory>, Box<dyn Copier>) = match device {
            Device::Cuda(_) => (Arc::new(PinnedMemory), Box::new(Stream::new(device)?)),
            _ => (Arc::new(HeapMemory), Box::new(HostCopier)),
        };
        Ok(DevicePrefetcher::new(self.load(config, steps, share, memory)?, copier))
    }

    /// The batch of each step on the host, with its epoch, up to the first error.
    fn load(
        &self,
        config: &TrainConfig,
        steps: Range<u64>,
        share: Share,
        memory: Arc<dyn BatchMemory>,
    ) -> Result<impl Iterator<Item = LoadedBatch> + use<>, TrainError> {
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
            n_batches: Some(steps.end.saturating_sub(steps.start) as usize),
            rank: share.rank,
            world: share.world,
            n_workers: self.n_workers,
            prefetch: self.prefetch,
        };
        let loader = PatchLoader::with_memory(&self.dataset, &self.sampler, &loader, memory)?;
        Ok(steps.zip(loader).map(move |(step, batch)| Ok((step / steps_per_epoch, batch?))))
    }
}

/// A batch as the loader made it, with its epoch.
type LoadedBatch = Result<(u64, PatchBatch), TrainError>;

/// What one step trains on.
#[derive(Debug)]
pub struct StepBatch {
    /// The epoch the step belongs to, from 0.
    pub epoch: u64,
    /// `[n, b, 3, s, s]`, bytes, for what this thread asks the device to do from now on.
    pub patches: Tensor,
}

/// The batches of a run on its device, in order. Each is sent before the step of the one before it is computed: beside
/// the patches of the step in hand the device holds those of the next.
///
/// An item is an error when a batch could not be made or sent, told in its turn.
pub struct DevicePrefetcher {
    batches: Box<dyn Iterator<Item = LoadedBatch>>,
    copier: Box<dyn Copier>,
    /// The batch that was sent ahead.
    sent: Option<Result<SentBatch, TrainError>>,
}

struct SentBatch {
    epoch: u64,
    copy: Box<dyn PendingCopy>,
}

impl DevicePrefetcher {
    fn new(batches: impl Iterator<Item = LoadedBatch> + 'static, copier: Box<dyn Copier>) -> Self {
        Self { batches: Box::new(batches), copier, sent: None }
    }

    /// Waits for the loader's next batch and begins its copy.
    fn send(&mut self) -> Option<Result<SentBatch, TrainError>> {
        let batch = info_span!("data wait").in_scope(|| self.batches.next())?;
        let send = |(epoch, batch)| {
            let copy = catch(|| self.copier.begin(batch)).map_err(TrainError::from).flatten()?;
            Ok(SentBatch { epoch, copy })
        };
        Some(info_span!("copy").in_scope(|| batch.and_then(send)))
    }
}

impl Iterator for DevicePrefetcher {
    type Item = Result<StepBatch, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        let sent = match self.sent.take() {
            Some(sent) => sent,
            None => self.send()?,
        };
        // Its buffer goes back before the workers are waited for, because they may need it. It was sent a step ago, so
        // but for the first nobody waits.
        let sent = sent.and_then(|mut sent| {
            sent.copy.release()?;
            Ok(sent)
        });
        if sent.is_ok() {
            self.sent = self.send();
        }
        let arrive = |sent: SentBatch| Ok(StepBatch { epoch: sent.epoch, patches: sent.copy.into_tensor()? });
        Some(info_span!("copy").in_scope(|| sent.and_then(arrive)))
    }
}

/// Copies batches to a device.
trait Copier {
    /// Asks for a copy of the patches.
    fn begin(&self, batch: PatchBatch) -> Result<Box<dyn PendingCopy>, TrainError>;
}

/// A copy that was asked for.
trait PendingCopy {
    /// Gives the batch's buffer back, as soon as the copy is done.
    fn release(&mut self) -> Result<(), ShimError>;

    /// The copy, for what this thread asks the device to do from now on.
    fn into_tensor(self: Box<Self>) -> Result<Tensor, ShimError>;
}

/// A stream of a CUDA device that does nothing but copy patches.
impl Copier for Stream {
    fn begin(&self, batch: PatchBatch) -> Result<Box<dyn PendingCopy>, TrainError> {
        let sizes = sizes(&batch);
        Ok(Box::new(self.upload(batch, &sizes)?))
    }
}

impl<C: Completion> PendingCopy for Upload<PatchBatch, C> {
    fn release(&mut self) -> Result<(), ShimError> {
        Self::release(self)
    }

    fn into_tensor(self: Box<Self>) -> Result<Tensor, ShimError> {
        Self::into_tensor(*self)
    }
}

/// Copies within the host's memory, which are done when they are asked for.
struct HostCopier;

impl Copier for HostCopier {
    fn begin(&self, batch: PatchBatch) -> Result<Box<dyn PendingCopy>, TrainError> {
        Ok(Box::new(on_host(&batch)))
    }
}

impl PendingCopy for Tensor {
    fn release(&mut self) -> Result<(), ShimError> {
        Ok(())
    }

    fn into_tensor(self: Box<Self>) -> Result<Tensor, ShimError> {
        Ok(*self)
    }
}

fn on_host(batch: &PatchBatch) -> Tensor {
    Tensor::from_data_size(batch.bytes(), &sizes(batch), Kind::Uint8)
}

/// n, b, 3, s, s.
fn sizes(batch: &PatchBatch) -> [i64; 5] {
    let (n, b, channels, height, width) = batch.patches().dim();
    [n, b, channels, height, width].map(|size| size as i64)
}

/// Memory that a CUDA device reads by itself.
struct PinnedMemory;

impl BatchMemory for PinnedMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        match PinnedBytes::new(bytes) {
            Ok(buffer) => Ok(Box::new(buffer)),
            Err(error) => {
                let reason = format!("the GPU needs it page-locked, and it could not be had ({error})");
                Err(DataError::NoMemory { bytes, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests;
