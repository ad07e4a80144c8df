//! Walking a data set in batches: the order of the images, the worker threads, the pool of buffers.
//!
//! ```text
//!                  jobs                     batches
//! PatchLoader ------------->  workers  ------------------>  PatchLoader::next  ------>  the caller
//!      ^                                                                                    |
//!      +----------------------------------- free buffers -----------------------------------+
//!                                      when a batch is dropped
//! ```

mod batch;
mod buffers;
mod config;
mod order;
mod source;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use batch::PatchBatch;
pub use buffers::{BatchMemory, HeapMemory, PatchBuffer};
pub use config::{LoaderConfig, Order, View};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::patch::PatchSampler;
use buffers::{BufferPool, PooledBuffer};
use order::Plan;
use source::{ImageSource, PatchSource};
use workers::{PendingBatch, WorkerPool};

/// Yields batches in order, made ahead of time by worker threads: those of one epoch, or of a whole run.
///
/// Memory: the loader owns prefetch + 2 buffers of one batch each and uses them again and again; a batch gives its
/// buffer back when it is dropped. A caller that keeps more batches than there are buffers gets further ones: at most
/// one more than it keeps, and they are freed when they come back.
///
/// The first error ends the iteration, after the batches before it. Dropping the loader early stops the workers within
/// the time of one patch, or of reading one image; batches that are still alive stay as they are.
#[derive(Debug)]
pub struct PatchLoader {
    plan: Plan,
    workers: WorkerPool,
    buffers: BufferPool,
    /// The batch to hand over next; batches are counted from the beginning of the first epoch.
    next_batch: usize,
    /// The batch to give to the workers next.
    next_job: usize,
    /// The batch to end before.
    end: usize,
    /// Batches that were done before the next one.
    early: BTreeMap<usize, Result<PatchBatch, DataError>>,
}

impl PatchLoader {
    /// Checks the settings and starts the workers, with buffers on the heap.
    ///
    /// # Errors
    /// When a setting cannot work, the images do not fill one batch, or no thread can be started.
    pub fn new(dataset: &Dataset, sampler: &PatchSampler, config: &LoaderConfig) -> Result<Self, DataError> {
        Self::with_memory(dataset, sampler, config, Arc::new(HeapMemory))
    }

    /// As [`PatchLoader::new`], with buffers from `memory`. Where that has none, the iteration says so.
    ///
    /// # Errors
    /// As [`PatchLoader::new`].
    pub fn with_memory(
        dataset: &Dataset,
        sampler: &PatchSampler,
        config: &LoaderConfig,
        memory: Arc<dyn BatchMemory>,
    ) -> Result<Self, DataError> {
        Self::start(Box::new(dataset.clone()), dataset.len(), sampler, config, memory)
    }

    /// Checks the settings for so many `images` and starts the workers.
    fn start(
        source: Box<dyn ImageSource>,
        images: usize,
        sampler: &PatchSampler,
        config: &LoaderConfig,
        memory: Arc<dyn BatchMemory>,
    ) -> Result<Self, DataError> {
        config.check(images, sampler.side())?;
        let plan = Plan::new(images, config);
        let LoaderConfig { first_batch, n_batches, n_workers, prefetch, .. } = *config;
        let end = n_batches.map_or(plan.batches_per_epoch(), |n_batches| first_batch.saturating_add(n_batches));
        let capacity = prefetch.saturating_add(2).min(end - first_batch).max(1);
        let bytes = config.buffer_bytes(images, sampler.side()).unwrap_or(usize::MAX);
        let source = PatchSource::new(source, sampler, config)?;
        let workers = WorkerPool::new(source, config.images_per_rank(images), n_workers, capacity)?;
        let buffers = BufferPool::new(memory, bytes, capacity);
        let (next_batch, next_job, early) = (first_batch, first_batch, BTreeMap::new());
        let mut loader = Self { plan, workers, buffers, next_batch, next_job, end, early };
        loader.submit_all();
        Ok(loader)
    }

    /// The number of batches in an epoch, including those before the first one asked for.
    pub fn batches_per_epoch(&self) -> usize {
        self.plan.batches_per_epoch()
    }

    /// Gives the workers as many batches as there are free buffers.
    fn submit_all(&mut self) {
        while self.next_job < self.end
            && let Some(buffer) = self.buffers.take()
        {
            self.submit(buffer);
        }
    }

    fn submit(&mut self, buffer: PooledBuffer) {
        let (epoch, images) = self.plan.images(self.next_job);
        self.workers.submit(PendingBatch::new(self.next_job, epoch, images, buffer));
        self.next_job += 1;
    }

    /// Waits for the next batch.
    fn receive(&mut self) -> Result<PatchBatch, DataError> {
        loop {
            self.submit_all();
            if let Some(result) = self.early.remove(&self.next_batch) {
                return result;
            }
            if self.next_job == self.next_batch {
                // The caller keeps every buffer, and would wait for ever.
                let buffer = self.buffers.grow();
                self.submit(buffer);
            }
            let (batch, result) = self.workers.receive().ok_or(DataError::LoaderStopped { batch: self.next_batch })?;
            self.early.insert(batch, result);
        }
    }
}

impl Iterator for PatchLoader {
    type Item = Result<PatchBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_batch >= self.end {
            return None;
        }
        let result = self.receive();
        match result {
            Ok(_) => self.next_batch += 1,
            Err(_) => self.end = self.next_batch,
        }
        Some(result)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end - self.next_batch;
        (left.min(1), Some(left))
    }
}
