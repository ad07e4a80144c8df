//! Patches per second that a loader hands over with one and with two threads, and that it keeps to its buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use empssl_data::{
    BatchMemory, DataError, Dataset, HeapMemory, LoaderConfig, OnBadImage, OpenOptions, Order, PatchBuffer,
    PatchConfig, PatchLoader, PatchSampler, Split, View,
};

const N_PATCHES: usize = 20;
const PREFETCH: usize = 2;

/// Heap memory that counts what it gave.
#[derive(Default)]
struct Counted {
    buffers: AtomicUsize,
}

impl BatchMemory for Counted {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn PatchBuffer>, DataError> {
        self.buffers.fetch_add(1, Ordering::Relaxed);
        HeapMemory.allocate(bytes)
    }
}

/// One pass over the images with full augmentation, n = 20, b = 100.
fn pass(images: &Dataset, sampler: &PatchSampler, n_workers: usize, epoch: u64) {
    let config = LoaderConfig {
        n_patches: N_PATCHES,
        batch_size: 100,
        view: View::Augmented,
        order: Order::Shuffled,
        drop_last: true,
        seed: 0,
        epoch,
        first_batch: 0,
        n_batches: None,
        rank: 0,
        world: 1,
        n_workers,
        prefetch: PREFETCH,
    };
    let memory = Arc::new(Counted::default());
    let loader = PatchLoader::with_memory(images, sampler, &config, memory.clone()).expect("valid settings");
    for batch in loader {
        drop(batch.expect("images in memory"));
    }
    let buffers = memory.buffers.load(Ordering::Relaxed);
    assert!(buffers <= PREFETCH + 2, "{buffers} buffers, more than the pool has");
}

/// The 2,000 generated images; a pass includes the start and the end of the threads.
fn cifar32(criterion: &mut Criterion) {
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let images = empssl_data::open(&options, Split::Test).expect("the synthetic set always opens");
    let sampler = PatchSampler::new(&PatchConfig::cifar32()).expect("a valid recipe");
    let mut group = criterion.benchmark_group("loader");
    group.throughput(Throughput::Elements((images.len() * N_PATCHES) as u64)).sample_size(10);
    for (id, n_workers) in [("cifar32/1-thread", 1), ("cifar32/2-threads", 2)] {
        let mut epoch = 0;
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                epoch += 1;
                pass(&images, &sampler, n_workers, epoch);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, cifar32);
criterion_main!(benches);
