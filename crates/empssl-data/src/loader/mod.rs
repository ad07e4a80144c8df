//! Walking a data set in batches: the order, the worker threads, the ring of buffers.

mod batch;
mod config;
mod kept;
mod memory;
mod order;
mod source;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

pub use batch::PatchBatch;
pub use config::{LoaderConfig, Order, View};
pub use kept::KeptMemory;
pub use memory::{BatchMemory, HeapMemory, PatchBuffer};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::patch::PatchSampler;
use memory::Ring;
use order::Plan;
use source::{ImageSource, PatchSource};
use workers::{Made, Workshop, n_lanes};

/// Yields the batches of one epoch in order, made ahead of time by worker threads.
///
/// Memory: the loader owns prefetch + 2 buffers of one batch each and uses them again and again; a batch gives its
/// buffer back when it is dropped. A caller that keeps more batches than there are buffers gets further ones: at most
/// one more than it keeps, and they are freed when they come back.
///
/// The first error ends the iteration, after the batches before it. Dropping the loader early stops the workers within
/// the time of one patch, or of reading one image; batches that are still alive stay as they are.
#[derive(Debug)]
pub struct PatchLoader {
    n_batches: usize,
    next_batch: usize,
    every: usize,
    /// Batches that were done before the next one.
    early: BTreeMap<usize, Result<PatchBatch, DataError>>,
    /// `None` once the loader is being dropped.
    queue: Option<Receiver<Made>>,
    ring: Arc<Ring>,
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<()>>,
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
        let (images, side) = (dataset.len(), sampler.side());
        config.check(images, side)?;
        let source = Box::new(ImageSource::new(dataset, sampler, config)?);
        Self::start(source, images, side, config, memory)
    }

    /// Starts the workers on settings that were checked.
    fn start(
        source: Box<dyn PatchSource>,
        images: usize,
        side: usize,
        config: &LoaderConfig,
        memory: Arc<dyn BatchMemory>,
    ) -> Result<Self, DataError> {
        let LoaderConfig { n_patches, n_workers, prefetch, first_batch, every, .. } = *config;
        let plan = Plan::new(images, config);
        let n_batches = plan.n_batches();
        let bytes = config.buffer_bytes(images, side).unwrap_or(usize::MAX);
        let ring = Arc::new(Ring::new(memory, bytes, prefetch.saturating_add(2)));
        let name = |worker| format!("patches-{worker}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_workers).thread_name(name).build();
        let pool = pool.map_err(|error| no_threads(&error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let workshop = Arc::new(Workshop {
            plan,
            source,
            n_patches,
            side,
            ring: Arc::clone(&ring),
            pool,
            next: Mutex::new(first_batch),
            every,
            stop: Arc::clone(&stop),
        });
        let (sender, queue) = channel();
        let (early, queue) = (BTreeMap::new(), Some(queue));
        let mut loader = Self { n_batches, next_batch: first_batch, every, early, queue, ring, stop, lanes: vec![] };
        for lane in 0..n_lanes(n_workers, config.images_per_rank(images), prefetch) {
            let (workshop, sender) = (Arc::clone(&workshop), sender.clone());
            let thread = std::thread::Builder::new().name(format!("batches-{lane}"));
            let lane = thread.spawn(move || workshop.run(&sender)).map_err(|error| no_threads(&error))?;
            loader.lanes.push(lane);
        }
        Ok(loader)
    }

    /// The number of batches in the epoch, including those before the first one asked for.
    pub fn n_batches(&self) -> usize {
        self.n_batches
    }

    /// Waits for a batch that is not among the early ones.
    fn wait_for(&mut self, batch: usize) -> Result<PatchBatch, DataError> {
        self.ring.await_batch();
        while let Some((number, made)) = self.queue.as_ref().and_then(|queue| queue.recv().ok()) {
            if number == batch {
                return made;
            }
            self.early.insert(number, made);
        }
        Err(DataError::LoaderStopped { batch })
    }
}

impl Iterator for PatchLoader {
    type Item = Result<PatchBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch;
        if batch >= self.n_batches {
            return None;
        }
        let made = self.early.remove(&batch).unwrap_or_else(|| self.wait_for(batch));
        self.next_batch = if made.is_ok() { batch.saturating_add(self.every) } else { self.n_batches };
        Some(made.map(PatchBatch::handed_over))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.n_batches.saturating_sub(self.next_batch).div_ceil(self.every);
        (left.min(1), Some(left))
    }
}

impl Drop for PatchLoader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ring.close();
        self.queue = None;
        for lane in self.lanes.drain(..) {
            // A lane catches the panics of its work and has nothing else to say.
            let _ = lane.join();
        }
    }
}

fn no_threads(error: &dyn ToString) -> DataError {
    DataError::NoThreads { reason: error.to_string() }
}
