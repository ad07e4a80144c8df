//! Patches per second of one thread, and nanoseconds per patch of every operation.
//!
//! `patches/...` is to be compared with `reference/pillow.py`, run one after the other on the same machine. The images
//! are genuine ones where they are unpacked (see `EMPSSL_SHARED_DATA` in the golden crate) and generated ones elsewhere;
//! either way they are written to `target/bench-images`, from where the reference takes them.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use empssl_data::augment::blur::{BlurScratch, blur};
use empssl_data::augment::colour::{brightness, contrast, grayscale, saturation, solarize};
use empssl_data::augment::hue::rotate_hue;
use empssl_data::patch::PatchParams;
use empssl_data::{OnBadImage, OpenOptions, PatchConfig, PatchKey, PatchSampler, Split};
use ndarray::Array3;

/// Patches of one image before the next one's turn.
const N_PATCHES: u32 = 20;
/// Images of 32 x 32 pixels.
const N_SMALL: usize = 100;

fn open(name: &str, root: Option<PathBuf>) -> empssl_data::Dataset {
    let options = OpenOptions { name: name.into(), root, partial: true, on_bad_image: OnBadImage::Fail };
    empssl_data::open(&options, Split::Test).expect("the set opens")
}

/// Writes what the reference is to read.
fn write_for_reference(name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench-images");
    fs::create_dir_all(&dir).expect("target can be written to");
    fs::write(dir.join(name), bytes).expect("target can be written to");
}

/// CIFAR-10's first test images, or synthetic ones.
fn small_images() -> Vec<Array3<u8>> {
    let root = empssl_golden::genuine_images("cifar-10-batches-bin");
    let images = open(if root.is_some() { "cifar10" } else { "synthetic" }, root);
    let images: Vec<_> = (0..N_SMALL).map(|index| images.image(index).expect("in range").into_owned()).collect();
    write_for_reference("cifar32.rgb", &images.iter().flatten().copied().collect::<Vec<_>>());
    images
}

/// A photograph of 500 x 375 pixels, or waves with a little noise.
fn photograph() -> Array3<u8> {
    let genuine = empssl_golden::genuine_images("imagenet-photos").and_then(|root| {
        let images = open("folder", Some(root.join("imagenet-photos")));
        (0..images.len())
            .map(|index| images.image(index).expect("decodes").into_owned())
            .find(|image| image.dim() == (375, 500, 3))
    });
    let image = genuine.unwrap_or_else(|| {
        Array3::from_shape_fn((375, 500, 3), |(y, x, channel)| {
            let wave = (x as f64 / 23.0 + channel as f64).sin() * (y as f64 / 31.0).cos();
            (128.0 + 90.0 * wave + f64::from((x * 7_919 + y * 104_729) as u32 % 13)) as u8
        })
    });
    write_for_reference("imagenet224.ppm", &[b"P6 500 375 255\n", image.as_slice().expect("standard layout")].concat());
    image
}

/// Full augmentation of images in memory, one after the other.
fn patches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("patches");
    for (name, config, images) in [
        ("cifar32", PatchConfig::cifar32(), small_images()),
        ("imagenet224", PatchConfig::imagenet224(), vec![photograph()]),
    ] {
        let sampler = PatchSampler::new(&config).expect("a valid recipe");
        let mut out = vec![0; 3 * sampler.side() * sampler.side()];
        group.throughput(Throughput::Elements(images.len() as u64 * u64::from(N_PATCHES)));
        let mut epoch = 0;
        group.bench_function(format!("{name}/1-thread"), |bencher| {
            bencher.iter(|| {
                epoch += 1;
                for (image, pixels) in (0..).zip(&images) {
                    for patch in 0..N_PATCHES {
                        sampler.sample(pixels.view(), PatchKey { seed: 0, epoch, image, patch }, &mut out);
                        black_box(&out);
                    }
                }
            });
        });
    }
    group.finish();
}

/// An operation on planar pixels.
type Operation = Box<dyn FnMut(&mut [u8])>;

/// Every operation alone, on a patch of either recipe.
fn operations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ops");
    for (config, image) in
        [(PatchConfig::cifar32(), small_images().swap_remove(0)), (PatchConfig::imagenet224(), photograph())]
    {
        let sampler = PatchSampler::new(&config).expect("a valid recipe");
        let side = sampler.side();
        let (height, width, _) = image.dim();
        let key = |patch| PatchKey { seed: 0, epoch: 0, image: 0, patch };
        let mut pixels = vec![0; 3 * side * side];
        let mut patch = 0;
        group.bench_function(format!("{side}/draw"), |bencher| {
            bencher.iter(|| {
                patch += 1;
                black_box(sampler.draw(height, width, key(patch)))
            });
        });
        group.bench_function(format!("{side}/crop and resize"), |bencher| {
            bencher.iter(|| {
                patch += 1;
                let crop = sampler.draw(height, width, key(patch)).crop;
                sampler.apply(image.view(), &PatchParams::plain(crop), &mut pixels);
                black_box(&pixels);
            });
        });
        let mut scratch = BlurScratch::default();
        let operations: [(&str, Operation); 7] = [
            ("brightness", Box::new(|pixels| brightness(pixels, 1.2))),
            ("contrast", Box::new(|pixels| contrast(pixels, 0.8))),
            ("saturation", Box::new(|pixels| saturation(pixels, 1.2))),
            ("hue", Box::new(|pixels| rotate_hue(pixels, 0.1))),
            ("grayscale", Box::new(grayscale)),
            ("blur", Box::new(move |pixels| blur(pixels, side, 1.0, &mut scratch))),
            ("solarise", Box::new(|pixels| solarize(pixels, 128))),
        ];
        let copy: Operation = Box::new({
            let source = pixels.clone();
            move |pixels| pixels.copy_from_slice(&source)
        });
        for (name, mut operation) in operations.into_iter().chain([("copy, the bound", copy)]) {
            group.bench_function(format!("{side}/{name}"), |bencher| {
                // What the pixels are does not matter to the time, so they may be those of the last round.
                bencher.iter(|| operation(black_box(&mut pixels)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, patches, operations);
criterion_main!(benches);
