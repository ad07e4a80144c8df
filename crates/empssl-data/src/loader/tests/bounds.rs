//! What loaders keep in memory: how many buffers, and when one is used again.

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;

use super::ends::{numbers, within_ten_seconds};
use super::*;
use crate::rng::{Purpose, Stream};

/// Heap memory that counts its buffers.
#[derive(Clone, Default)]
struct Counted {
    given: Arc<AtomicUsize>,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn given(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }
}

impl BatchMemory for Counted {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        self.given.fetch_add(1, Ordering::Relaxed);
        self.alive.fetch_add(1, Ordering::Relaxed);
        // Longer than asked for, as memory in pages is.
        Ok(Box::new(CountedBuffer { bytes: vec![0; bytes + 100], alive: Arc::clone(&self.alive) }))
    }
}

struct CountedBuffer {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for CountedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for CountedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for CountedBuffer {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether every byte of a batch of the `numbers` source is what it should be.
fn is_intact(batch: &PatchBatch) -> bool {
    let patches = batch.patches();
    let images = patches.axis_iter(Axis(1)).zip(&batch.indices);
    patches.dim() == (3, 16, 3, 2, 2)
        && images.into_iter().all(|(patches, &index)| patches.iter().all(|&byte| byte == index as u8))
}

#[test]
fn a_run_takes_no_more_buffers_than_the_pool_has() {
    for prefetch in [0, 1, 3] {
        let memory = Counted::default();
        let config = LoaderConfig { batch_size: 2, n_batches: Some(30), n_workers: 7, prefetch, ..config() };
        let loader = PatchLoader::with_memory(&IMAGES, &sampler(), &config, Arc::new(memory.clone())).unwrap();
        assert_eq!(loader.map(Result::unwrap).count(), 30);
        assert!(memory.given() <= prefetch + 2, "{} buffers, prefetch {prefetch}", memory.given());
        assert_eq!(memory.alive(), 0);
    }
}

#[test]
fn an_idle_caller_finds_no_more_than_the_pool_filled() {
    let memory = Counted::default();
    let mut loader = numbers(&[], &[], &LoaderConfig { prefetch: 1, ..config() }, memory.clone());
    let held = loader.next().unwrap().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(memory.given() <= 3, "{} buffers", memory.given());
    assert!(is_intact(&held));
}

#[test]
fn batches_that_are_kept_are_never_written_to() {
    within_ten_seconds(|| {
        for seed in 0..100 {
            let mut stream = Stream::new(seed, Purpose::Synthetic, 0, 0, 0);
            let (prefetch, n_workers) = (stream.below(4), 1 + stream.below(4));
            let memory = Counted::default();
            let loader = numbers(&[], &[], &LoaderConfig { prefetch, n_workers, ..config() }, memory.clone());
            let mut kept: Vec<PatchBatch> = Vec::new();
            for batch in loader {
                kept.push(batch.unwrap());
                let places: HashSet<*const u8> = kept.iter().map(|batch| batch.bytes().as_ptr()).collect();
                assert_eq!(places.len(), kept.len(), "one buffer in two batches");
                assert!(kept.iter().all(is_intact));
                assert!(memory.alive() <= (prefetch + 2).max(kept.len() + 1), "{} buffers", memory.alive());
                if stream.chance(0.4) {
                    drop(kept.swap_remove(stream.below(kept.len())));
                }
            }
            // The loader is gone, its batches are not.
            assert!(kept.iter().all(is_intact));
            assert_eq!(memory.alive(), kept.len());
        }
    });
}

#[test]
fn a_caller_that_keeps_everything_gets_further_buffers_which_are_freed_again() {
    within_ten_seconds(|| {
        for prefetch in [0, 1] {
            let memory = Counted::default();
            let mut loader = numbers(&[], &[], &LoaderConfig { prefetch, ..config() }, memory.clone());
            let kept: Vec<_> = loader.by_ref().map(Result::unwrap).collect();
            assert!(kept.len() == 4 && kept.iter().all(is_intact));
            drop(kept);
            assert!(memory.alive() <= prefetch + 2, "{} buffers are left", memory.alive());
        }
    });
}

#[test]
fn a_buffer_that_comes_back_from_another_thread_lets_the_loader_go_on() {
    within_ten_seconds(|| {
        let loader = numbers(&[], &[], &LoaderConfig { prefetch: 0, ..config() }, Counted::default());
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let other = std::thread::spawn(move || receiver.iter().filter(is_intact).count());
        loader.for_each(|batch| sender.send(batch.unwrap()).unwrap());
        drop(sender);
        assert_eq!(other.join().unwrap(), 4);
    });
}
