//! Patches per second of one thread, to compare with `reference/pillow.py` one after the other on the same machine.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use empssl_data::{OnBadImage, OpenOptions, PatchConfig, PatchKey, PatchSampler, Split};

/// Full augmentation of 32x32 images in memory, one image after the other, 20 patches each.
fn cifar32(criterion: &mut Criterion) {
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    let images = empssl_data::open(&options, Split::Test).expect("the synthetic set always opens");
    let sampler = PatchSampler::new(&PatchConfig::cifar32()).expect("a valid recipe");
    let mut out = vec![0; 3 * sampler.side() * sampler.side()];
    let mut group = criterion.benchmark_group("patches");
    let (n_images, n_patches) = (100, 20);
    group.throughput(Throughput::Elements(n_images * u64::from(n_patches)));
    let mut epoch = 0;
    group.bench_function("cifar32/1-thread", |bencher| {
        bencher.iter(|| {
            epoch += 1;
            for image in 0..n_images {
                let pixels = images.image(image as usize).expect("the index is in range");
                for patch in 0..n_patches {
                    sampler.sample(pixels.view(), PatchKey { seed: 0, epoch, image, patch }, &mut out);
                    black_box(&out);
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, cifar32);
criterion_main!(benches);
