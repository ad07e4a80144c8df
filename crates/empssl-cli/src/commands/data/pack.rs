//! `empssl data pack`

use std::path::Path;

use empssl_data::pack::{Encoding, PackOptions, Packed, file_name, short_side, write};
use empssl_data::{DataError, Dataset, PatchConfig, PatchSampler, Split};

use super::watch::Watch;
use crate::args::{PixelEncoding, SplitChoice};
use crate::commands::{ImageSource, say};
use crate::error::CliError;

/// How to pack, from the flags.
pub(super) struct Way(PackOptions);

impl Way {
    pub(super) fn new(patches: Option<&PatchConfig>, encoding: PixelEncoding, quality: u8) -> Result<Self, CliError> {
        // The sampler checks the recipe's numbers, which the short side is computed from.
        patches.map(PatchSampler::new).transpose()?;
        let encoding = match encoding {
            PixelEncoding::Raw => Encoding::Raw,
            PixelEncoding::Jpeg => Encoding::Jpeg { quality },
        };
        Ok(Self(PackOptions { encoding, short_side: patches.map(short_side) }))
    }
}

pub(super) fn run(source: &ImageSource, split: SplitChoice, way: &Way, out: &Path) -> Result<(), CliError> {
    let splits: &[Split] = match split {
        SplitChoice::Train => &[Split::Train],
        SplitChoice::Test => &[Split::Test],
        SplitChoice::Both => &[Split::Train, Split::Test],
    };
    std::fs::create_dir_all(out).map_err(|e| CliError::file("cannot make the folder", out, e))?;
    let mut watch = Watch::new()?;
    for &split in splits {
        match open(source, split, splits.len() == 1)? {
            Some(set) => {
                let path = out.join(file_name(set.name(), split));
                let packed = write(&set, split, &path, &way.0, &mut |progress| watch.see(progress))?;
                say(line(&packed));
            }
            None => say(format_args!("{}: no {split} split", source.name)),
        }
    }
    Ok(())
}

/// The split; `None` where a folder of images has none and it was not asked for alone.
fn open(source: &ImageSource, split: Split, alone: bool) -> Result<Option<Dataset>, CliError> {
    match source.open(split) {
        Err(CliError::Data(DataError::MissingFolder { .. }))
            if split == Split::Test && source.name == "folder" && !alone =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn line(packed: &Packed) -> String {
    let kept = match (packed.exact, packed.short_side) {
        (true, _) => "every pixel as in the source".to_owned(),
        (false, Some(side)) => format!("images shrunk to short sides of {side} pixels"),
        (false, None) => "encoded anew".to_owned(),
    };
    let was_there = if packed.was_there { ", already up to date" } else { "" };
    let megabytes = packed.bytes as f64 / 1e6;
    format!("{}: {} images, {megabytes:.1} MB, {kept}{was_there}", packed.path.display(), packed.n_images)
}
