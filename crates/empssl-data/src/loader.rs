//! Walking a data set in batches: the order, the worker threads, the bounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use ndarray::{Array5, Axis};
use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::patch::{PatchKey, PatchSampler};
use crate::rng::shuffled;

/// What is seen of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// n random patches.
    Augmented,
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
    /// Images per batch, b.
    pub batch_size: usize,
    /// What is seen of an image.
    pub view: View,
    /// The order of the images.
    pub order: Order,
    /// Leave out the last batch if it has fewer than b images.
    pub drop_last: bool,
    /// The seed of the run.
    pub seed: u64,
    /// The pass over the data; part of the address of every random number.
    pub epoch: u64,
    /// The batch to start with. The batches before it are not made, so resuming costs nothing.
    pub first_batch: usize,
    /// Threads that make patches. Their number changes the speed, never the bytes.
    pub n_workers: usize,
    /// Finished batches that may wait. Besides them one batch is being made and one is the caller's.
    pub prefetch: usize,
}

impl LoaderConfig {
    fn check(&self, images: usize) -> Result<(), DataError> {
        let counts = [
            ("n_patches", self.n_patches),
            ("batch_size", self.batch_size),
            ("n_workers", self.n_workers),
        ];
        if let Some((key, count)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return Err(DataError::setting(key, count, "at least 1"));
        }
        if u32::try_from(self.n_patches).is_err() {
            return Err(DataError::setting("n_patches", self.n_patches, format!("at most {}", u32::MAX)));
        }
        if self.view == View::Whole && self.n_patches != 1 {
            return Err(DataError::setting("n_patches", self.n_patches, "1 where the view is the whole image"));
        }
        if self.n_batches(images) == 0 {
            return Err(DataError::TooFewImages { images, batch_size: self.batch_size });
        }
        if self.first_batch > self.n_batches(images) {
            let expected = format!("at most {}, the batches of an epoch", self.n_batches(images));
            return Err(DataError::setting("first_batch", self.first_batch, expected));
        }
        Ok(())
    }

    fn n_batches(&self, images: usize) -> usize {
        if self.drop_last { images / self.batch_size } else { images.div_ceil(self.batch_size) }
    }
}

/// The patches of b images.
#[derive(Clone, Debug)]
pub struct PatchBatch {
    /// `[n, b, 3, s, s]`: the patch axis comes first, so that flattening the first two gives the patch-major rows that
    /// the network and the loss expect.
    pub patches: Array5<u8>,
    /// The class of every image, `[b]`; `None` for images without labels.
    pub labels: Option<Vec<u32>>,
    /// The index of every image in the data set, `[b]`.
    pub indices: Vec<usize>,
}

/// Yields the batches of one epoch in order, made ahead of time by worker threads.
///
/// The first error ends the iteration. Dropping the loader early stops the workers within one image's time.
#[derive(Debug)]
pub struct PatchLoader {
    n_batches: usize,
    next_batch: usize,
    queue: Option<Receiver<Result<PatchBatch, DataError>>>,
    stop: Arc<AtomicBool>,
    producer: Option<JoinHandle<()>>,
}

impl PatchLoader {
    /// Checks the settings and starts the workers.
    ///
    /// # Errors
    /// When a setting cannot work, the images do not fill one batch, or no thread can be started.
    pub fn new(dataset: &Dataset, sampler: &PatchSampler, config: &LoaderConfig) -> Result<Self, DataError> {
        config.check(dataset.len())?;
        let n_batches = config.n_batches(dataset.len());
        let no_threads = |reason: &dyn ToString| DataError::NoThreads { reason: reason.to_string() };
        let name = |worker| format!("patches-{worker}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(config.n_workers).thread_name(name).build();
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, queue) = bounded(config.prefetch);
        let producer = Producer {
            dataset: dataset.clone(),
            sampler: sampler.clone(),
            config: config.clone(),
            order: match config.order {
                Order::Shuffled => shuffled(dataset.len(), config.seed, config.epoch),
                Order::Sequential => (0..dataset.len()).collect(),
            },
            stop: Arc::clone(&stop),
            pool: pool.map_err(|error| no_threads(&error))?,
        };
        let thread = std::thread::Builder::new().name("batches".into());
        let producer = thread.spawn(move || producer.run(&sender)).map_err(|error| no_threads(&error))?;
        Ok(Self { n_batches, next_batch: config.first_batch, queue: Some(queue), stop, producer: Some(producer) })
    }

    /// The number of batches in the epoch, including those before the first one asked for.
    pub fn n_batches(&self) -> usize {
        self.n_batches
    }
}

impl Iterator for PatchLoader {
    type Item = Result<PatchBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch;
        if batch >= self.n_batches {
            return None;
        }
        let received = self.queue.as_ref()?.recv();
        let item = received.unwrap_or(Err(DataError::LoaderStopped { batch }));
        self.next_batch = if item.is_ok() { batch + 1 } else { self.n_batches };
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.n_batches - self.next_batch;
        (left.min(1), Some(left))
    }
}

impl Drop for PatchLoader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A producer that waits for room in the queue wakes up when the queue is gone.
        self.queue = None;
        if let Some(producer) = self.producer.take() {
            // A panic of the producer was reported by `next`; there is nothing to add here.
            let _ = producer.join();
        }
    }
}

/// Makes batches one after the other, the images of a batch in parallel.
struct Producer {
    dataset: Dataset,
    sampler: PatchSampler,
    config: LoaderConfig,
    order: Vec<usize>,
    stop: Arc<AtomicBool>,
    pool: rayon::ThreadPool,
}

impl Producer {
    fn run(&self, queue: &Sender<Result<PatchBatch, DataError>>) {
        let LoaderConfig { batch_size, first_batch, .. } = self.config;
        let n_batches = self.config.n_batches(self.order.len());
        for indices in self.order.chunks(batch_size).take(n_batches).skip(first_batch) {
            let Some(batch) = self.pool.install(|| self.make(indices)).transpose() else { return };
            let failed = batch.is_err();
            if queue.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// Makes one batch, or nothing if the loader was dropped meanwhile.
    fn make(&self, indices: &[usize]) -> Result<Option<PatchBatch>, DataError> {
        let side = self.sampler.side();
        let mut patches = Array5::zeros((self.config.n_patches, indices.len(), 3, side, side));
        let images = patches.axis_iter_mut(Axis(1)).into_par_iter().zip(indices);
        images.try_for_each(|(mut patches, &index)| {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let image = self.dataset.image(index)?;
            for (patch, mut out) in (0_u32..).zip(patches.outer_iter_mut()) {
                let Some(out) = out.as_slice_mut() else { unreachable!("one patch of a batch is contiguous") };
                let key = PatchKey { seed: self.config.seed, epoch: self.config.epoch, image: index as u64, patch };
                match self.config.view {
                    View::Augmented => self.sampler.sample(image.view(), key, out),
                    View::Whole => self.sampler.whole(image.view(), out),
                }
            }
            Ok(())
        })?;
        if self.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let labels = self.dataset.labels().map(|labels| indices.iter().map(|&index| labels[index]).collect());
        Ok(Some(PatchBatch { patches, labels, indices: indices.to_vec() }))
    }
}
