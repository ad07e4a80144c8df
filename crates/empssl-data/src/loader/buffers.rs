//! The memory of the batches: where buffers come from, and the pool in which they are used again and again.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::error::DataError;

/// Memory for the bytes of one batch.
///
/// Everything that can be seen as bytes and moved to another thread is one, above all `Vec<u8>`.
pub trait PatchBuffer: AsRef<[u8]> + AsMut<[u8]> + Send {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send> PatchBuffer for T {}

/// Where a loader gets its buffers from: the heap, or memory that a device can read by itself.
///
/// A loader asks for a buffer only when its pool has none, so at most prefetch + 2 times where the caller lets go of
/// each batch before it asks for the next.
pub trait BatchMemory: Send + Sync {
    /// A buffer of at least so many `bytes`, whatever their values.
    ///
    /// # Errors
    /// [`DataError::NoMemory`] when there is none.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError>;
}

/// Buffers on the heap.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapMemory;

impl BatchMemory for HeapMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        let mut buffer: Vec<u8> = Vec::new();
        let reserved = buffer.try_reserve_exact(bytes);
        reserved.map_err(|error| DataError::NoMemory { bytes, reason: error.to_string() })?;
        // Touches every page once, so that no batch pays for it.
        buffer.resize(bytes, 0);
        Ok(Box::new(buffer))
    }
}

/// A buffer, or room for one that is not allocated yet.
type Slot = Option<Box<dyn PatchBuffer>>;

/// The buffers of one loader.
///
/// A buffer is free, with the workers, or with the caller. It becomes free by the drop of its [`PooledBuffer`] and by
/// nothing else, so no batch that is alive can be written to.
pub(super) struct BufferPool {
    shared: Arc<Shared>,
    free: Receiver<Slot>,
}

struct Shared {
    memory: Arc<dyn BatchMemory>,
    /// Size of a buffer.
    bytes: usize,
    /// Buffers that are kept.
    capacity: usize,
    /// Buffers in all three places.
    alive: AtomicUsize,
    /// Disconnected once the loader is gone: a buffer that comes back then is freed.
    free: Sender<Slot>,
}

impl BufferPool {
    /// A pool of `capacity` buffers of so many `bytes`, none of which is allocated yet.
    pub(super) fn new(memory: Arc<dyn BatchMemory>, bytes: usize, capacity: usize) -> Self {
        let (sender, free) = bounded(capacity);
        let pool = Self { shared: Arc::new(Shared { memory, bytes, capacity, alive: 0.into(), free: sender }), free };
        (0..capacity).for_each(|_| drop(pool.grow()));
        pool
    }

    /// A buffer that is free.
    pub(super) fn take(&self) -> Option<PooledBuffer> {
        let slot = self.free.try_recv().ok()?;
        Some(PooledBuffer { slot, pool: Some(Arc::clone(&self.shared)) })
    }

    /// A further buffer. While there are more than the capacity, one that comes back is freed.
    pub(super) fn grow(&self) -> PooledBuffer {
        self.shared.alive.fetch_add(1, Ordering::Relaxed);
        PooledBuffer { slot: None, pool: Some(Arc::clone(&self.shared)) }
    }
}

impl Drop for BufferPool {
    fn drop(&mut self) {
        // What waits in a channel would stay there as long as a batch is alive.
        self.free.try_iter().for_each(drop);
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { bytes, capacity, .. } = &*self.shared;
        f.debug_struct("BufferPool").field("bytes", bytes).field("capacity", capacity).finish_non_exhaustive()
    }
}

impl Shared {
    fn allocate(&self) -> Result<Box<dyn PatchBuffer>, DataError> {
        let buffer = self.memory.allocate(self.bytes)?;
        let (found, expected) = ((*buffer).as_ref().len(), self.bytes);
        let short = || format!("the memory for a batch has {found} bytes, expected at least {expected}");
        if found < expected { Err(DataError::Loader(short())) } else { Ok(buffer) }
    }
}

/// The memory of one batch, which goes back to its pool when this is dropped.
pub(super) struct PooledBuffer {
    slot: Slot,
    /// `None` for memory that is freed when it is no longer needed.
    pool: Option<Arc<Shared>>,
}

impl PooledBuffer {
    /// Memory that belongs to no pool.
    pub(super) fn of(buffer: Vec<u8>) -> Self {
        Self { slot: Some(Box::new(buffer)), pool: None }
    }

    /// The bytes, for the workers; allocates them where that was not done yet.
    ///
    /// # Errors
    /// When there is no memory, or a panic says so: then the loader stops before `batch`.
    pub(super) fn bytes_mut(&mut self, batch: usize) -> Result<&mut [u8], DataError> {
        if let (None, Some(pool)) = (&self.slot, &self.pool) {
            let buffer = catch_unwind(AssertUnwindSafe(|| pool.allocate()));
            self.slot = Some(buffer.unwrap_or(Err(DataError::LoaderStopped { batch }))?);
        }
        Ok(self.slot.as_mut().map_or(&mut [], |buffer| (**buffer).as_mut()))
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.slot.as_ref().map_or(&[], |buffer| (**buffer).as_ref())
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let Some(pool) = &self.pool else { return };
        let fewer = |alive| (alive > pool.capacity).then(|| alive - 1);
        if pool.alive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err() {
            // Refused once the loader is gone; then the buffer is freed.
            let _ = pool.free.try_send(self.slot.take());
        }
    }
}
