//! The peak memory of a loader, told by a fresh process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The peak in megabytes that a fresh process of `examples/loader_memory.rs` reports; `None` where there is no VmHWM.
fn peak(arguments: &[&str], root: &Path) -> Option<u64> {
    // Cargo builds examples beside the folder of the tests.
    let test = std::env::current_exe().unwrap();
    let example = test.ancestors().nth(2).unwrap().join("examples").join("loader_memory");
    assert!(example.exists(), "build it: cargo build -p empssl-data --example loader_memory");
    let output = Command::new(example).args(arguments).arg(root).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    let megabytes = text.lines().last().unwrap().strip_prefix("peak ").unwrap().strip_suffix(" MB").unwrap();
    if cfg!(target_os = "linux") { Some(megabytes.parse().unwrap()) } else { None }
}

/// A full-sized CIFAR-10: 50,000 records of noise.
fn cifar10(root: &Path) {
    let record = |index: usize| {
        let pixels = (0..3072).map(move |place: usize| (place.wrapping_mul(index) >> 3) as u8);
        std::iter::once((index % 10) as u8).chain(pixels)
    };
    for file in 1..=5 {
        let bytes: Vec<u8> = (0..10_000).flat_map(|index| record(index * file)).collect();
        fs::write(root.join(format!("data_batch_{file}.bin")), bytes).unwrap();
    }
    fs::write(root.join("test_batch.bin"), record(0).collect::<Vec<_>>()).unwrap();
    let names: String = (0..10).map(|class| format!("class {class}\n")).collect();
    fs::write(root.join("batches.meta.txt"), names).unwrap();
}

/// 400 times the same photograph of the usual size.
fn photographs(root: &Path) {
    let class = root.join("train/x");
    fs::create_dir_all(&class).unwrap();
    let first: PathBuf = class.join("000.jpg");
    image::RgbImage::from_fn(500, 375, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8])).save(&first).unwrap();
    for copy in 1..400 {
        fs::copy(&first, class.join(format!("{copy:03}.jpg"))).unwrap();
    }
}

#[test]
fn a_loader_of_200_patches_of_cifar10_stays_below_600_megabytes() {
    let root = tempfile::tempdir().unwrap();
    cifar10(root.path());
    let Some(peak) = peak(&["cifar32", "200", "3", "cifar10"], root.path()) else { return };
    assert!((150..600).contains(&peak), "{peak} MB");
}

/// One batch only, which leaves a buffer untouched: patches of this size are slow where tests run unoptimised.
#[test]
fn a_loader_of_20_patches_of_photographs_stays_below_2_gigabytes() {
    let root = tempfile::tempdir().unwrap();
    photographs(root.path());
    let Some(peak) = peak(&["imagenet224", "20", "1", "folder"], root.path()) else { return };
    assert!((600..2000).contains(&peak), "{peak} MB");
}
