//! How long a pack takes to open, and what an image of it costs, for as many images as ImageNet-100 has.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use empssl_data::pack::{self, PackOptions};
use empssl_data::progress::Progress;
use empssl_data::{Dataset, OnBadImage, OpenOptions, Split};
use image::RgbImage;

const N_IMAGES: usize = 126_689;

/// The set or its pack at `root`.
fn open(root: &Path) -> Dataset {
    let root = Some(root.to_owned());
    let options = OpenOptions { name: "folder".into(), root, partial: false, on_bad_image: OnBadImage::Fail };
    empssl_data::open(&options, Split::Train).expect("a set that was just written")
}

/// Two small images of different sizes over and over, 395 MB with places in a table; the file is in the system's cache,
/// as after the first run with it.
fn packed(criterion: &mut Criterion) {
    let (source, folder) = (folder(), folder());
    for (class, height) in [("cat", 32), ("dog", 33)] {
        let dir = source.path().join("train").join(class);
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        RgbImage::new(32, height).save(dir.join("1.png")).expect("room on the disk");
    }
    let rows: Vec<usize> = (0..N_IMAGES).map(|row| row % 2).collect();
    let images = open(source.path()).subset(&rows).expect("rows that exist");
    let path = folder.path().join(pack::file_name("folder", Split::Train));
    let go_on = &mut |_: &Progress<'_>| ControlFlow::Continue(());
    pack::write(&images, Split::Train, &path, &PackOptions::RAW, go_on).expect("room on the disk");

    let mut group = criterion.benchmark_group("pack");
    group.bench_function("open", |bencher| bencher.iter(|| open(folder.path()).len()));
    let set = open(folder.path());
    assert_eq!(set.len(), N_IMAGES);
    let mut row = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("image", |bencher| {
        bencher.iter(|| {
            row = (row + 7919) % N_IMAGES;
            black_box(set.image(row).expect("a whole pack"))[[0, 0, 0]]
        });
    });
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

criterion_group!(benches, packed);
criterion_main!(benches);
