//! The peak memory of a process that does nothing but load: a data set and the buffers of one loader.
//!
//! ```text
//! cargo run --release -p empssl-data --example loader_memory -- cifar32 200 10 cifar10 data/cifar-10-batches-bin
//! ```
//!
//! The arguments are the recipe (`cifar32` or `imagenet224`), the patches per image, the batches to make, the name of
//! the set, and its folder. A batch has 100 images. The peak is what Linux calls VmHWM.

use std::error::Error;
use std::time::Instant;

use empssl_data::{
    LoaderConfig, OnBadImage, OpenOptions, Order, PatchConfig, PatchLoader, PatchSampler, Split, View, open,
};

const BATCH_SIZE: usize = 100;
const PREFETCH: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, n_patches, batches, name, root] = &arguments[..] else {
        return Err("expected five arguments: RECIPE PATCHES BATCHES SET FOLDER".into());
    };
    let recipe = match recipe.as_str() {
        "cifar32" => PatchConfig::cifar32(),
        "imagenet224" => PatchConfig::imagenet224(),
        other => return Err(format!("no recipe `{other}`: expected cifar32 or imagenet224").into()),
    };
    let options =
        OpenOptions { name: name.clone(), root: Some(root.into()), partial: true, on_bad_image: OnBadImage::Fail };
    let images = open(&options, Split::Train)?;
    println!("{}; peak after opening {}", images.description(), megabytes(peak()));
    let config = LoaderConfig {
        n_patches: n_patches.parse()?,
        batch_size: BATCH_SIZE,
        view: View::Augmented,
        order: Order::Shuffled,
        drop_last: true,
        seed: 0,
        epoch: 0,
        first_batch: 0,
        n_batches: None,
        rank: 0,
        world: 1,
        n_workers: std::thread::available_parallelism()?.get(),
        prefetch: PREFETCH,
    };
    let started = Instant::now();
    let (mut patches, mut last) = (0, None);
    for batch in PatchLoader::new(&images, &PatchSampler::new(&recipe)?, &config)?.take(batches.parse()?) {
        // As a trainer does, keep a batch until the next is there.
        last = Some(batch?);
        patches += config.n_patches * BATCH_SIZE;
    }
    let bytes = last.map_or(0, |batch| batch.bytes().len());
    let speed = patches as f64 / started.elapsed().as_secs_f64();
    println!("{patches} patches, {speed:.0} a second, {} a batch, prefetch {PREFETCH}", megabytes(bytes as u64));
    println!("peak {}", megabytes(peak()));
    Ok(())
}

/// The most memory that the process has had in use, in bytes; 0 where the system does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}
