//! Buffers that outlive their loader and serve the next one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::{BatchMemory, PatchBuffer};
use crate::error::DataError;

/// Memory that keeps the buffers it gave out once they are dropped, and gives them out again.
///
/// A run makes a loader for every epoch; with this the buffers of the first serve all of them. There are never more than
/// were in use at one time. Buffers that are shorter than what is asked for are freed, and all are freed with this.
pub struct KeptMemory {
    memory: Box<dyn BatchMemory>,
    free: Arc<Free>,
}

#[derive(Default)]
struct Free(Mutex<Vec<Box<dyn PatchBuffer>>>);

impl Free {
    /// No code that could panic runs while the list is locked.
    fn lock(&self) -> MutexGuard<'_, Vec<Box<dyn PatchBuffer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptMemory {
    /// Keeps buffers that come from `memory`.
    pub fn new(memory: impl BatchMemory + 'static) -> Self {
        Self { memory: Box::new(memory), free: Arc::default() }
    }

    fn take(&self, bytes: usize) -> Option<Box<dyn PatchBuffer>> {
        let mut free = self.free.lock();
        free.retain(|buffer| (**buffer).as_ref().len() >= bytes);
        free.pop()
    }
}

impl BatchMemory for KeptMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        let buffer = self.take(bytes).map_or_else(|| self.memory.allocate(bytes), Ok)?;
        Ok(Box::new(Kept { buffer: Some(buffer), free: Arc::clone(&self.free) }))
    }
}

impl fmt::Debug for KeptMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptMemory").field("free", &self.free.lock().len()).finish_non_exhaustive()
    }
}

/// A buffer that goes back to the free ones.
struct Kept {
    /// `None` only while this is dropped.
    buffer: Option<Box<dyn PatchBuffer>>,
    free: Arc<Free>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| (**buffer).as_ref())
    }
}

impl AsMut<[u8]> for Kept {
    fn as_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], |buffer| (**buffer).as_mut())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.free.lock().extend(self.buffer.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::memory::HeapMemory;
    use super::*;

    /// Heap memory that counts what it was asked for.
    #[derive(Clone, Default)]
    struct Counted(Arc<AtomicUsize>);

    impl BatchMemory for Counted {
        fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            HeapMemory.allocate(bytes)
        }
    }

    #[test]
    fn a_buffer_that_was_dropped_is_given_out_again_and_no_other() {
        let counted = Counted::default();
        let memory = KeptMemory::new(counted.clone());
        let mut first = memory.allocate(8).unwrap();
        (*first).as_mut()[0] = 7;
        let second = memory.allocate(8).unwrap();
        assert_eq!((counted.0.load(Ordering::Relaxed), format!("{memory:?}").contains("free: 0")), (2, true));
        drop(first);
        let again = memory.allocate(5).unwrap();
        assert_eq!(((*again).as_ref()[0], (*again).as_ref().len()), (7, 8));
        assert_eq!((*second).as_ref()[0], 0);
        assert_eq!(counted.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn buffers_that_are_too_short_are_freed() {
        let counted = Counted::default();
        let memory = KeptMemory::new(counted.clone());
        drop([memory.allocate(8).unwrap(), memory.allocate(8).unwrap()]);
        assert_eq!((*memory.allocate(9).unwrap()).as_ref().len(), 9);
        assert_eq!(memory.free.lock().len(), 1, "the short ones are still there");
        assert_eq!(counted.0.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn buffers_may_outlive_the_memory_they_came_from() {
        let memory = KeptMemory::new(HeapMemory);
        let (free, buffer) = (Arc::downgrade(&memory.free), memory.allocate(8).unwrap());
        drop(memory);
        assert_eq!((*buffer).as_ref(), [0; 8]);
        drop(buffer);
        assert!(free.upgrade().is_none(), "the buffer is kept for nobody");
    }
}
