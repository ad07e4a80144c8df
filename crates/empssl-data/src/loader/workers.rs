//! The threads that make batches.
//!
//! A *lane* is a thread that takes the next batch and a buffer, cuts the batch into pieces of a few images, gives them
//! to the pool of workers and waits. The pool takes pieces first come, first served. While the last pieces of a batch
//! are being made, those of the next, which another lane has cut already, keep the other workers busy: no worker ever
//! waits for a batch to be complete.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ndarray::{ArrayViewMut5, Axis};
use rayon::ThreadPool;

use super::batch::{PatchBatch, Shape};
use super::memory::{Lease, Ring};
use super::order::Plan;
use super::source::PatchSource;
use crate::error::DataError;

/// A batch, or why there is none, with its number.
pub(super) type Made = (usize, Result<PatchBatch, DataError>);

/// Handing a piece to the pool costs about as much as one patch, so a piece is worth this many.
const PATCHES_PER_PIECE: usize = 32;

/// Pieces per worker that a batch is cut into at least, if it has as many images: the last pieces end at different
/// times, and smaller ones less so.
const PIECES_PER_WORKER: usize = 4;

/// What the lanes of one loader share.
pub(super) struct Workshop {
    pub(super) plan: Plan,
    pub(super) source: Box<dyn PatchSource>,
    /// Patches per image.
    pub(super) n_patches: usize,
    /// Side of a patch.
    pub(super) side: usize,
    pub(super) ring: Arc<Ring>,
    pub(super) pool: ThreadPool,
    /// The batch to make next.
    pub(super) next: Mutex<usize>,
    /// From one batch to the next that is made.
    pub(super) every: usize,
    /// Set when nobody wants batches any more.
    pub(super) stop: Arc<AtomicBool>,
}

/// How many lanes keep so many workers busy with batches of b images: one whose batch is ending and, beside it, enough
/// for an image per worker. More than wait in the ring beside the caller's are of no use.
pub(super) fn n_lanes(n_workers: usize, b: usize, prefetch: usize) -> usize {
    n_workers.div_ceil(b.max(1)).min(prefetch) + 1
}

impl Workshop {
    /// Makes batches until there are no more, one fails, or nobody wants them: the life of a lane.
    pub(super) fn run(&self, queue: &Sender<Made>) {
        while let Some((batch, lease)) = self.begin() {
            let made = catch_unwind(AssertUnwindSafe(|| self.make(batch, lease)));
            let made = made.unwrap_or(Err(DataError::LoaderStopped { batch }));
            let failed = made.is_err();
            // Never waits: the ring bounds what is in the queue.
            let is_wanted = queue.send((batch, made)).is_ok();
            if failed {
                *self.lock_next() = usize::MAX;
            }
            if !is_wanted {
                return;
            }
        }
    }

    /// The next batch with a buffer for it. Buffers are given out in the order of the batches, so the one that the
    /// caller waits for never lacks one.
    fn begin(&self) -> Option<(usize, Lease)> {
        let mut next = self.lock_next();
        if *next >= self.plan.n_batches() {
            return None;
        }
        let lease = self.ring.acquire()?;
        let batch = *next;
        *next = batch.saturating_add(self.every);
        Some((batch, lease))
    }

    fn lock_next(&self) -> MutexGuard<'_, usize> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, batch: usize, mut lease: Lease) -> Result<PatchBatch, DataError> {
        let images = self.plan.images(batch);
        let shape = Shape { n: self.n_patches, b: images.len(), s: self.side };
        let failure = Failure::default();
        let mut patches = shape.view_mut(lease.bytes_mut()?);
        let step = images_per_piece(images.len(), self.n_patches, self.pool.current_num_threads());
        let pieces = images.chunks(step).zip(patches.axis_chunks_iter_mut(Axis(1), step));
        self.pool.in_place_scope(|scope| {
            for (first, (images, patches)) in (0..).step_by(step).zip(pieces) {
                let failure = &failure;
                scope.spawn(move |_| self.make_piece(first, images, patches, failure));
            }
        });
        failure.into_result()?;
        Ok(PatchBatch::made(shape, lease, self.source.labels(images), images.to_vec()))
    }

    /// Makes the patches of a few images, the first of which has the place `first` in the batch.
    fn make_piece(&self, first: usize, images: &[usize], mut patches: ArrayViewMut5<'_, u8>, failure: &Failure) {
        for ((place, &index), patches) in (first..).zip(images).zip(patches.axis_iter_mut(Axis(1))) {
            if self.stop.load(Ordering::Relaxed) || failure.is_before(place) {
                return;
            }
            let written = catch_unwind(AssertUnwindSafe(|| self.source.write(index, patches, &self.stop)));
            let written = written.unwrap_or_else(|panic| {
                let reason = message(&*panic);
                Err(DataError::WorkerPanicked { index, reason })
            });
            if let Err(error) = written {
                failure.note(place, error);
            }
        }
    }
}

/// Images per piece of a batch of `b`.
fn images_per_piece(b: usize, n_patches: usize, n_workers: usize) -> usize {
    let even = b.div_ceil(n_workers.saturating_mul(PIECES_PER_WORKER));
    even.min(PATCHES_PER_PIECE.div_ceil(n_patches)).max(1)
}

/// The failure of the image that comes first in the batch, whichever worker was faster.
struct Failure {
    place: AtomicUsize,
    error: Mutex<Option<(usize, DataError)>>,
}

impl Default for Failure {
    fn default() -> Self {
        Self { place: AtomicUsize::new(usize::MAX), error: Mutex::new(None) }
    }
}

impl Failure {
    /// Whether an image before `place` failed, so that making that one is of no use.
    fn is_before(&self, place: usize) -> bool {
        self.place.load(Ordering::Relaxed) < place
    }

    fn note(&self, place: usize, error: DataError) {
        self.place.fetch_min(place, Ordering::Relaxed);
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if first.as_ref().is_none_or(|(other, _)| place < *other) {
            *first = Some((place, error));
        }
    }

    fn into_result(self) -> Result<(), DataError> {
        let error = self.error.into_inner().unwrap_or_else(PoisonError::into_inner);
        error.map_or(Ok(()), |(_, error)| Err(error))
    }
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
    fn lanes_keep_the_workers_busy_and_stay_within_the_ring() {
        assert_eq!([n_lanes(2, 100, 4), n_lanes(64, 100, 4), n_lanes(64, 16, 8), n_lanes(64, 16, 2)], [2, 2, 5, 3]);
        assert_eq!([n_lanes(1, 100, 0), n_lanes(1, 0, 9)], [1, 2]);
    }

    #[test]
    fn pieces_are_worth_their_while_and_enough_for_all_workers() {
        assert_eq!(
            [images_per_piece(100, 20, 2), images_per_piece(100, 200, 2), images_per_piece(100, 1, 2)],
            [2, 1, 13]
        );
        assert_eq!([images_per_piece(100, 1, 64), images_per_piece(1000, 1, 2), images_per_piece(0, 1, 2)], [1, 32, 1]);
    }
}
