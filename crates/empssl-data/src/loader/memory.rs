//! The memory of the batches: where buffers come from, and the ring in which they are used again and again.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::DataError;

/// Memory for the bytes of one batch.
///
/// Everything that can be seen as bytes and moved to another thread is one, above all `Vec<u8>`.
pub trait PatchBuffer: AsRef<[u8]> + AsMut<[u8]> + Send {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send> PatchBuffer for T {}

/// Where a loader gets its buffers from: the heap, or memory that a device can read by itself.
///
/// A loader asks for a buffer only when its ring has none, so at most prefetch + 2 times where the caller lets go of
/// each batch before it asks for the next. Around an implementation, [`super::KeptMemory`] keeps the buffers for the next
/// loader.
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
        let no_memory = |error: std::collections::TryReserveError| {
            let reason = error.to_string();
            DataError::NoMemory { bytes, reason }
        };
        buffer.try_reserve_exact(bytes).map_err(no_memory)?;
        // Touches every page once, so that no batch pays for it.
        buffer.resize(bytes, 0);
        Ok(Box::new(buffer))
    }
}

/// The buffers of one loader.
///
/// A buffer is in one of three places: free, with the workers, or with the caller. It gets back to the first by the
/// drop of its [`Lease`] and by nothing else, so no batch that is alive can be written to.
pub(super) struct Ring {
    memory: Arc<dyn BatchMemory>,
    /// Size of a buffer.
    bytes: usize,
    /// Buffers that are kept.
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Box<dyn PatchBuffer>>,
    /// Buffers in all three places.
    alive: usize,
    /// Buffers with the caller.
    handed_over: usize,
    /// The caller waits for a batch.
    is_awaited: bool,
    is_closed: bool,
}

impl State {
    /// A caller that keeps more batches than the ring has buffers, and asks for another, gets another buffer: the
    /// alternative is that both wait for each other.
    fn may_grow(&self, capacity: usize) -> bool {
        self.alive < capacity || (self.is_awaited && self.handed_over == self.alive)
    }
}

impl Ring {
    /// A ring of `capacity` buffers of so many `bytes`, none of which is allocated yet.
    pub(super) fn new(memory: Arc<dyn BatchMemory>, bytes: usize, capacity: usize) -> Self {
        Self { memory, bytes, capacity, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for a buffer; `None` once the ring is closed.
    pub(super) fn acquire(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            let buffer = state.free.pop();
            if buffer.is_some() || state.may_grow(self.capacity) {
                state.alive += usize::from(buffer.is_none());
                return Some(Lease { buffer, ring: Some(Arc::clone(self)), is_handed_over: false });
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The caller waits for a batch.
    pub(super) fn await_batch(&self) {
        self.lock().is_awaited = true;
        self.changed.notify_all();
    }

    /// Ends all waiting, now and later, and keeps no buffer any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.free.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn put_back(&self, buffer: Option<Box<dyn PatchBuffer>>, is_handed_over: bool) {
        let mut state = self.lock();
        state.handed_over -= usize::from(is_handed_over);
        match buffer {
            Some(buffer) if !state.is_closed && state.alive <= self.capacity => state.free.push(buffer),
            _ => state.alive -= 1,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The state is consistent at every point where a thread could panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, capacity, .. } = self;
        f.debug_struct("Ring").field("bytes", bytes).field("capacity", capacity).finish_non_exhaustive()
    }
}

/// The right to one buffer, which goes back to the ring when this is dropped.
pub(super) struct Lease {
    /// `None` until it is allocated.
    buffer: Option<Box<dyn PatchBuffer>>,
    /// `None` for memory that is freed when it is no longer needed.
    ring: Option<Arc<Ring>>,
    is_handed_over: bool,
}

impl Lease {
    /// Memory that belongs to no ring.
    pub(super) fn of(buffer: Vec<u8>) -> Self {
        Self { buffer: Some(Box::new(buffer)), ring: None, is_handed_over: true }
    }

    /// The bytes, for the workers; allocates them where that was not done yet.
    pub(super) fn bytes_mut(&mut self) -> Result<&mut [u8], DataError> {
        if let (None, Some(ring)) = (&self.buffer, &self.ring) {
            self.buffer = Some(allocate(ring)?);
        }
        Ok(self.buffer.as_mut().map_or(&mut [], |buffer| (**buffer).as_mut()))
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| (**buffer).as_ref())
    }

    /// The buffer is the caller's from now on.
    pub(super) fn hand_over(&mut self) {
        self.is_handed_over = true;
        if let Some(ring) = &self.ring {
            let mut state = ring.lock();
            state.handed_over += 1;
            state.is_awaited = false;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(ring) = &self.ring {
            ring.put_back(self.buffer.take(), self.is_handed_over);
        }
    }
}

fn allocate(ring: &Ring) -> Result<Box<dyn PatchBuffer>, DataError> {
    let buffer = ring.memory.allocate(ring.bytes)?;
    let (found, expected) = ((*buffer).as_ref().len(), ring.bytes);
    if found < expected { Err(DataError::ShortBuffer { found, expected }) } else { Ok(buffer) }
}
