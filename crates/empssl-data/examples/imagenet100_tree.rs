//! Writes a tree of ImageNet-100's layout, for machines that do not have ImageNet: the same hundred folders, JPEG files
//! of 256 pixels a side, and a class that can be learnt but not from pixels.
//!
//! ```text
//! cargo run --release -p empssl-data --example imagenet100_tree -- data/imagenet100-textures 50 10
//! ```
//!
//! The arguments are the folder, and how many images each class has in `train` and in `val`. An image is a mosaic of
//! four by four images of the synthetic set, each drawn twice as large. A class is an ordered pair of its ten textures:
//! three of every four tiles show the first, one shows the second. Tiles of `train` come from the training split, those
//! of `val` from the test split, so that no tile is in both.

use std::error::Error;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use empssl_data::rng::{Purpose, Stream};
use empssl_data::{Dataset, OnBadImage, OpenOptions, Split, open};
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;

/// Columns `wnid,ilsvrc2012_id,name`, in the order of the labels.
const CLASSES: &str = include_str!("../../../data/imagenet100.csv");

const TEXTURES: usize = 10;
const TILES: u32 = 4;
const TILE_SIDE: u32 = 64;
const QUALITY: u8 = 90;
const SEED: u64 = 0;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, train, val] = &arguments[..] else {
        return Err("expected three arguments: FOLDER TRAIN_IMAGES_A_CLASS VAL_IMAGES_A_CLASS".into());
    };
    let options = OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
    for (split, name, images) in [(Split::Train, "train", train.parse()?), (Split::Test, "val", val.parse()?)] {
        let tiles = open(&options, split)?;
        write_split(&Path::new(folder).join(name), &tiles, split, images)?;
    }
    println!("{folder}: 100 classes, {train} images each in train, {val} in val");
    Ok(())
}

fn write_split(folder: &Path, tiles: &Dataset, split: Split, images: usize) -> Result<(), Box<dyn Error>> {
    let wnids = CLASSES.lines().skip(1).map(|line| line.split(',').next().unwrap_or_default());
    for (class, wnid) in wnids.enumerate() {
        let folder = folder.join(wnid);
        fs::create_dir_all(&folder)?;
        let write = |image: usize| {
            let mut stream = Stream::new(SEED, Purpose::Synthetic, split as u64, (class * images + image) as u64, 1);
            let file = folder.join(format!("{wnid}_{image}.JPEG"));
            write_image(&file, &mosaic(tiles, class, &mut stream))
                .map_err(|error| format!("{}: {error}", file.display()))
        };
        (0..images).into_par_iter().try_for_each(write)?;
    }
    Ok(())
}

fn mosaic(tiles: &Dataset, class: usize, stream: &mut Stream) -> RgbImage {
    let pair = [class / TEXTURES, class % TEXTURES];
    let mut drawn = Vec::new();
    for place in 0..TILES * TILES {
        let is_second = place % TILES % 2 == 1 && place / TILES % 2 == 1;
        let texture = pair[usize::from(is_second)];
        // The classes of the synthetic set take turns.
        drawn.push(texture + TEXTURES * stream.below(tiles.len() / TEXTURES));
    }
    let images: Vec<_> =
        drawn.into_iter().map(|index| tiles.image(index).expect("an index below the length")).collect();
    let scale = TILE_SIDE / images[0].dim().0 as u32;
    RgbImage::from_fn(TILES * TILE_SIDE, TILES * TILE_SIDE, |x, y| {
        let tile = &images[(y / TILE_SIDE * TILES + x / TILE_SIDE) as usize];
        let at = |channel| tile[[(y % TILE_SIDE / scale) as usize, (x % TILE_SIDE / scale) as usize, channel]];
        image::Rgb([at(0), at(1), at(2)])
    })
}

fn write_image(file: &Path, image: &RgbImage) -> Result<(), Box<dyn Error>> {
    let mut writer = BufWriter::new(File::create(file)?);
    JpegEncoder::new_with_quality(&mut writer, QUALITY).encode_image(image)?;
    writer.into_inner()?;
    Ok(())
}
