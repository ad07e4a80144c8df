//! Photographs decoded per second by one thread, to compare with `reference/decode.py` one after the other on the same
//! machine: both read the files once and then decode from memory.
//!
//! The photographs are those of `imagenet-photos` in the folder named by `EMPSSL_SHARED_DATA`; without it the benches
//! are skipped with a printed line.

use std::hint::black_box;
use std::path::{Path, PathBuf};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use empssl_data::decode_image;

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

fn photographs() -> Option<Vec<Vec<u8>>> {
    let dir = PathBuf::from(std::env::var_os("EMPSSL_SHARED_DATA")?).join("imagenet-photos");
    if !dir.is_dir() {
        return None;
    }
    let mut files = Vec::new();
    files_below(&dir, &mut files);
    files.sort();
    Some(files.iter().map(|path| std::fs::read(path).expect("a readable photograph")).collect())
}

fn decode(criterion: &mut Criterion) {
    let Some(photographs) = photographs() else {
        println!("skipped: EMPSSL_SHARED_DATA names no folder with imagenet-photos");
        return;
    };
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(photographs.len() as u64));
    group.sample_size(10);
    group.bench_function("imagenet/1-thread", |bencher| {
        bencher.iter(|| {
            for bytes in &photographs {
                black_box(decode_image(bytes).expect("a good photograph"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
