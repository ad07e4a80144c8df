//! The threads that make patches.
//!
//! A batch is cut into jobs of a few images, which the workers take first come, first served. While the last jobs of a
//! batch are being done, those of the next keep the other workers busy: no worker waits for a batch to be complete. A
//! worker makes some patches in memory of its own and copies them to the batch; the last worker to finish with a
//! batch sends it to the loader.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use ndarray::Ix5;

use super::batch::PatchBatch;
use super::buffers::PooledBuffer;
use super::source::PatchSource;
use crate::error::DataError;

/// Taking a job costs about as much as one patch, so a job is worth this many.
const PATCHES_PER_JOB: usize = 32;

/// Jobs per worker that a batch is cut into at least, if it has as many images: the last jobs end at different times,
/// and smaller ones less so.
const JOBS_PER_WORKER: usize = 4;

/// Bytes of patches that a worker makes before it copies them to the batch, which others copy to as well: few enough
/// to stay in its cache.
const BYTES_PER_COPY: usize = 1 << 16;

/// A batch, or why there is none, with its number.
pub(super) type BatchResult = (usize, Result<PatchBatch, DataError>);

/// A batch that is being made.
pub(super) struct PendingBatch {
    number: usize,
    epoch: u64,
    /// The images, by their index in the data set.
    images: Vec<usize>,
    progress: Mutex<Progress>,
}

struct Progress {
    buffer: PooledBuffer,
    /// The error of the image that comes first in the batch, whichever worker was faster, with its place.
    failure: Option<(usize, DataError)>,
}

impl PendingBatch {
    /// Batch `number`, of which nothing is made yet.
    pub(super) fn new(number: usize, epoch: u64, images: Vec<usize>, buffer: PooledBuffer) -> Self {
        Self { number, epoch, images, progress: Mutex::new(Progress { buffer, failure: None }) }
    }

    /// Whether an image before `place` failed, so that making that one is of no use.
    fn failed_before(&self, place: usize) -> bool {
        self.lock().failure.as_ref().is_some_and(|&(first, _)| first < place)
    }

    fn fail(&self, place: usize, error: DataError) {
        let mut progress = self.lock();
        if progress.failure.as_ref().is_none_or(|&(first, _)| place < first) {
            progress.failure = Some((place, error));
        }
    }

    /// Puts `patches` of the image at `place`, of so many bytes each and from patch number `first` on, where they belong.
    fn put(&self, place: usize, first: usize, patch_bytes: usize, patches: &[u8]) -> Result<(), DataError> {
        let mut progress = self.lock();
        let buffer = progress.buffer.bytes_mut(self.number)?;
        for (patch, bytes) in (first..).zip(patches.chunks_exact(patch_bytes)) {
            let start = (patch * self.images.len() + place) * patch_bytes;
            buffer[start..start + patch_bytes].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn into_result(self, source: &PatchSource) -> BatchResult {
        let Progress { buffer, failure } = self.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        let made = match failure {
            Some((_, error)) => Err(error),
            None => {
                let (b, s, labels) = (self.images.len(), source.side(), source.images.labels(&self.images));
                let shape = Ix5(source.n_patches, b, 3, s, s);
                Ok(PatchBatch { labels, indices: self.images, shape, buffer })
            }
        };
        (self.number, made)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A few images of a batch, by their places in it.
struct Job {
    batch: Arc<PendingBatch>,
    places: Range<usize>,
}

/// The workers of one loader, which end with it.
#[derive(Debug)]
pub(super) struct WorkerPool {
    /// `None` once the pool is being dropped.
    jobs: Option<Sender<Job>>,
    batches: Receiver<BatchResult>,
    n_patches: usize,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl WorkerPool {
    /// Starts `n_workers` threads for batches of at most `b` images, of which no more than `in_flight` are being made.
    pub(super) fn new(source: PatchSource, b: usize, n_workers: usize, in_flight: usize) -> Result<Self, DataError> {
        let n_patches = source.n_patches;
        let n_jobs = b.div_ceil(images_per_job(b, n_patches, n_workers)).max(1);
        let (jobs, waiting) = bounded(in_flight.saturating_mul(n_jobs));
        let (sender, batches) = bounded(in_flight);
        let stop = Arc::new(AtomicBool::new(false));
        let mut pool = Self { jobs: Some(jobs), batches, n_patches, stop: Arc::clone(&stop), threads: Vec::new() };
        let worker = Arc::new(Worker { source, jobs: waiting, batches: sender, stop });
        for number in 0..n_workers {
            let (worker, thread) = (Arc::clone(&worker), std::thread::Builder::new().name(format!("patches-{number}")));
            let thread = thread.spawn(move || worker.run());
            let no_thread = |error| DataError::Loader(format!("cannot start the loader's threads: {error}"));
            pool.threads.push(thread.map_err(no_thread)?);
        }
        Ok(pool)
    }

    /// Has a batch made.
    pub(super) fn submit(&self, batch: PendingBatch) {
        let b = batch.images.len();
        let step = images_per_job(b, self.n_patches, self.threads.len());
        let n_jobs = b.div_ceil(step).max(1);
        // The last job gets the batch itself, so that only jobs hold it.
        let batches = std::iter::repeat_n(Arc::new(batch), n_jobs);
        for (job, batch) in batches.enumerate() {
            let places = job * step..b.min((job + 1) * step);
            if let Some(jobs) = &self.jobs {
                // Fails where every worker died; `receive` then returns `None`.
                let _ = jobs.send(Job { batch, places });
            }
        }
    }

    /// Waits for a batch, in any order; `None` where every worker died.
    pub(super) fn receive(&self) -> Option<BatchResult> {
        self.batches.recv().ok()
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        self.batches = never();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its work and sends them as errors.
            let _ = thread.join();
        }
    }
}

/// What the workers of one loader share.
struct Worker {
    source: PatchSource,
    jobs: Receiver<Job>,
    batches: Sender<BatchResult>,
    /// Set when the loader is dropped.
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Does jobs until there are no more.
    fn run(&self) {
        let patch_bytes = 3 * self.source.side() * self.source.side();
        let most = (BYTES_PER_COPY / patch_bytes).clamp(1, self.source.n_patches);
        let mut patches = vec![0; most * patch_bytes];
        for Job { batch, places } in &self.jobs {
            for place in places {
                if self.is_stopped() || batch.failed_before(place) {
                    break;
                }
                let index = batch.images[place];
                let made = catch_unwind(AssertUnwindSafe(|| self.make(&batch, place, patch_bytes, &mut patches)));
                let made = made.unwrap_or_else(|panic| {
                    let reason = message(&*panic);
                    Err(DataError::Loader(format!("making the patches of image {index} panicked: {reason}")))
                });
                if let Err(error) = made {
                    batch.fail(place, error);
                }
            }
            if let Some(batch) = Arc::into_inner(batch) {
                // Fails where the loader is dropped.
                let _ = self.batches.send(batch.into_result(&self.source));
            }
        }
    }

    /// Makes the patches of one image, as many at a time as `scratch` holds.
    fn make(
        &self,
        batch: &PendingBatch,
        place: usize,
        patch_bytes: usize,
        scratch: &mut [u8],
    ) -> Result<(), DataError> {
        let index = batch.images[place];
        let pixels = self.source.images.image(index)?;
        let address = self.source.address(pixels.view(), index);
        let (n_patches, most) = (self.source.n_patches, scratch.len() / patch_bytes);
        for first in (0..n_patches).step_by(most) {
            let patches = first..n_patches.min(first + most);
            let scratch = &mut scratch[..patches.len() * patch_bytes];
            for (patch, out) in patches.zip(scratch.chunks_exact_mut(patch_bytes)) {
                if self.is_stopped() {
                    return Ok(());
                }
                self.source.write(pixels.view(), batch.epoch, address, patch as u32, out);
            }
            batch.put(place, first, patch_bytes, scratch)?;
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Images per job of a batch of `b`.
fn images_per_job(b: usize, n_patches: usize, n_workers: usize) -> usize {
    let even = b.div_ceil(n_workers.saturating_mul(JOBS_PER_WORKER));
    even.min(PATCHES_PER_JOB.div_ceil(n_patches)).max(1)
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason was given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_worth_their_while_and_enough_for_all_workers() {
        assert_eq!([images_per_job(100, 20, 2), images_per_job(100, 200, 2), images_per_job(100, 1, 2)], [2, 1, 13]);
        assert_eq!([images_per_job(100, 1, 64), images_per_job(1000, 1, 2), images_per_job(0, 1, 2)], [1, 32, 1]);
    }
}
