//! `empssl data pack`

use std::path::Path;

use empssl_data::pack::{Encoding, PackOptions, Packed, file_name, open_source, short_side, splits, write};
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
    let splits = match split {
        SplitChoice::Train => vec![Split::Train],
        SplitChoice::Test => vec![Split::Test],
        SplitChoice::Both => splits(&source.options()),
    };
    make_folder(out)?;
    let mut watch = Watch::new()?;
    for &split in &splits {
        match open(source, split, splits.len() == 1, &mut watch)? {
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

fn make_folder(out: &Path) -> Result<(), CliError> {
    let what = "cannot make the folder";
    match out.ancestors().find(|path| path.is_file()) {
        Some(file) => Err(CliError::file(what, out, format_args!("the file {} is in the way", file.display()))),
        None => std::fs::create_dir_all(out).map_err(|e| CliError::file(what, out, e)),
    }
}

/// The split; `None` where a folder of images has none and it was not asked for alone.
fn open(source: &ImageSource, split: Split, alone: bool, watch: &mut Watch) -> Result<Option<Dataset>, CliError> {
    let opened = open_source(&source.options(), split, &mut |progress| watch.see(progress));
    match opened.map_err(|error| source.or_another(error)) {
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
