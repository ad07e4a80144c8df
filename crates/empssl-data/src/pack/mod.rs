//! One memory-mapped file per split: opening it is instant, and every worker reads raw pixels without a copy.
//!
//! A pack is a snapshot of an opened [`Dataset`]. Raw packs of images that were not shrunk hold every pixel of their
//! source; such a pack has the source's fingerprint and gives the same batches to the last bit. Others (shrunk, or
//! encoded anew) have a fingerprint of their own, made of the source's and of what was done to it.
//!
//! What is checked when:
//!
//! - Opening checks the header and the index, and looks whether what the pack was made of lies beside it and has changed:
//!   record files and archives by time and size, trees of images by the times of their folders. Where a time is another,
//!   the bytes of the file, or the names and sizes in the folder, decide. Image files that were written over in place are
//!   not among it: looking at every image would make opening slow.
//! - The first touch of a block of data, a megabyte, compares it with its hash: no pixel of a damaged block is used.
//! - [`verify`] does that for all blocks, and [`check_source`] compares the pixels of every image of the source with those
//!   that were packed.
//!
//! The bytes of the file are described in the module `format`.

mod error;
pub(crate) mod format;
mod map;
mod shrink;
mod stamp;
mod verify;
mod write;

#[cfg(test)]
mod fuzz_targets;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;
use ndarray::{CowArray, Ix3};

pub use error::PackError;
pub use shrink::short_side;
pub use verify::{check_source, verify};
pub use write::{Packed, write};

#[cfg(test)]
pub(crate) use fuzz_targets::all as fuzz_targets;

use crate::dataset::fingerprint::Hasher;
use crate::dataset::store::{Store, view};
use crate::dataset::{
    About, BadImage, DEFAULT_ROOT, Dataset, NAMES, OpenOptions, Split, check_count, decode_image, open_files,
};
use crate::error::DataError;
use crate::patch::PatchConfig;
use crate::progress::Observer;
use format::{BLOCK, Flaw, Header};

/// How the pixels are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are, three bytes a pixel.
    Raw,
    /// As JPEG. The file of a source image that is a JPEG and need not be shrunk is taken over as it is; others are
    /// encoded with this quality, 1 to 100.
    Jpeg {
        /// The quality.
        quality: u8,
    },
}

/// How to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// How the pixels are stored.
    pub encoding: Encoding,
    /// Images with a longer short side are shrunk to this one, see [`short_side`]; `None` keeps every size.
    pub short_side: Option<usize>,
}

/// The name of the pack of a split: `NAME-SPLIT.pack`.
pub fn file_name(name: &str, split: Split) -> String {
    format!("{name}-{split}.pack")
}

impl PackOptions {
    /// Every pixel as it is.
    pub const RAW: Self = Self { encoding: Encoding::Raw, short_side: None };
}

/// An opened pack.
pub(crate) struct Pack {
    path: PathBuf,
    map: Mmap,
    header: Header,
    /// Which blocks have been compared with their hashes.
    trusted: Vec<AtomicBool>,
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pack").field("path", &self.path).field("header", &self.header).finish()
    }
}

impl Pack {
    /// Maps a file and checks its header.
    fn open(path: &Path) -> Result<Self, DataError> {
        // A file of no bytes cannot be mapped.
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(PackError::NotAPack { path: path.to_owned() }.into());
        }
        let map = map::map(path)?;
        let header = format::parse(&map).map_err(|flaw| named(flaw, path, map.len()))?;
        let trusted = (0..header.data.len().div_ceil(BLOCK)).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { path: path.to_owned(), map, header, trusted })
    }

    pub(crate) fn len(&self) -> usize {
        self.header.n_images
    }

    pub(crate) fn shrunk_to(&self) -> Option<usize> {
        self.header.short_side.map(|side| side as usize)
    }

    /// Refuses a recipe whose crops would be enlarged because the images were shrunk.
    pub(crate) fn check_serves(&self, config: &PatchConfig) -> Result<(), DataError> {
        match (self.shrunk_to(), short_side(config)) {
            (Some(found), needed) if found < needed => {
                Err(PackError::TooSmall { path: self.path.clone(), found, needed }.into())
            }
            _ => Ok(()),
        }
    }

    /// The source's fingerprint if every pixel is the source's, else one of its own.
    pub(crate) fn fingerprint(&self) -> u64 {
        let Header { source, exact: false, encoding, short_side, .. } = self.header else { return self.header.source };
        let mut hasher = Hasher::default();
        hasher.number(source);
        hasher.number(short_side.unwrap_or(0));
        hasher.number(match encoding {
            Encoding::Raw => 0,
            Encoding::Jpeg { quality } => u64::from(quality),
        });
        hasher.finish()
    }

    /// Whether images are decoded when they are asked for.
    pub(crate) fn decodes(&self) -> bool {
        self.header.encoding != Encoding::Raw
    }

    /// The pixels of image `row`, which must exist: a view of the file for raw packs. Of JPEG packs, with `short_side`,
    /// at a reduced size, see [`decode_image`].
    pub(crate) fn image(&self, row: usize, short_side: Option<usize>) -> Result<CowArray<'_, u8, Ix3>, DataError> {
        let (height, width, bytes) = self.frame(row)?;
        if !self.decodes() {
            return Ok(view(bytes, 0, height, width));
        }
        match decode_image(bytes, short_side) {
            Ok(image) if short_side.is_some() || image.dim() == (height, width, 3) => Ok(image.into()),
            Ok(_) => Err(self.damaged(format!("image {row} has another size than its index says"))),
            Err(error) => Err(self.damaged(format!("image {row} does not decode ({error})"))),
        }
    }

    /// The JPEG file of image `row`, which must exist, if it is stored as one.
    pub(crate) fn encoded(&self, row: usize) -> Result<Option<Vec<u8>>, DataError> {
        if self.decodes() { Ok(Some(self.frame(row)?.2.to_vec())) } else { Ok(None) }
    }

    /// The size of image `row` and its bytes, which are what was written.
    fn frame(&self, row: usize) -> Result<(usize, usize, &[u8]), DataError> {
        let Some((height, width, place)) = self.header.image(&self.map, row) else { return Err(self.astray(row)) };
        self.trust(&place)?;
        Ok((height, width, &self.data()[place]))
    }

    fn data(&self) -> &[u8] {
        &self.map[self.header.data.clone()]
    }

    /// Compares the blocks that hold a part of the data with their hashes, the first time that they are touched.
    fn trust(&self, part: &Range<usize>) -> Result<(), DataError> {
        for block in part.start / BLOCK..part.end.div_ceil(BLOCK) {
            // Two threads may both find the block new; then both look at it. The bytes never change, so nothing else
            // depends on the flag.
            if !self.trusted[block].load(Ordering::Relaxed) {
                self.check_block(block)?;
                self.trusted[block].store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Compares a block, which must exist, with its hash.
    fn check_block(&self, block: usize) -> Result<(), DataError> {
        let data = self.data();
        let bytes = &data[block * BLOCK..data.len().min((block + 1) * BLOCK)];
        if format::hash(bytes) == self.header.block_hash(&self.map, block) {
            return Ok(());
        }
        let start = format::DATA_START + block * BLOCK;
        Err(self.damaged(format!("bytes {start} to {} are not what was written", start + bytes.len())))
    }

    fn astray(&self, row: usize) -> DataError {
        self.damaged(format!("image {row} is not where its index says"))
    }

    fn damaged(&self, what: String) -> DataError {
        PackError::Damaged { path: self.path.clone(), what }.into()
    }

    /// What the pack holds, as it is asked for.
    fn holds(&self) -> String {
        format!("{} {}", self.header.name, self.header.split)
    }

    fn into_dataset(self) -> Dataset {
        let Header { name, split, form, expected, synthetic, class_names, skipped, encoding, .. } = &self.header;
        let encoding = match encoding {
            Encoding::Raw => "raw pack",
            Encoding::Jpeg { .. } => "JPEG pack",
        };
        let shrunk = self.shrunk_to().map_or(String::new(), |side| format!(", shrunk to short sides of {side}"));
        let about = About {
            name: name.clone(),
            split: split.to_string(),
            form: format!("{encoding} {}{shrunk}, made of {form}", self.path.display()),
            made_of: Some(form.clone()),
            expected: expected.map(|expected| expected as usize),
            synthetic: *synthetic,
            class_names: class_names.clone(),
            skipped: skipped
                .iter()
                .map(|(path, reason)| BadImage { path: path.into(), reason: reason.clone() })
                .collect(),
        };
        let (labels, fingerprint) = (self.header.labels(&self.map), self.fingerprint());
        Dataset::new(about, Store::Pack(Box::new(self)), labels).with_fingerprint(fingerprint)
    }
}

/// A flaw with the file it is in.
fn named(flaw: Flaw, path: &Path, len: usize) -> DataError {
    let path = path.to_owned();
    let error = match flaw {
        Flaw::NotAPack => PackError::NotAPack { path },
        Flaw::Version(found) => PackError::Version { path, found, known: format::VERSION },
        Flaw::ForeignEndian => PackError::ForeignEndian { path },
        Flaw::Truncated { expected } => PackError::Truncated { path, found: len as u64, expected },
        Flaw::Damaged(what) => PackError::Damaged { path, what },
    };
    error.into()
}

/// The pack that the options lead to, if there is one: the root itself if it is a `.pack` file (or its sibling for the
/// other split), else the one of the set's name in the root.
pub(crate) fn find(options: &OpenOptions, split: Split) -> Option<PathBuf> {
    if options.root.is_none() && options.name == "synthetic" {
        return None;
    }
    let root = options.root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT));
    if is_pack_path(root) {
        return Some(sibling(root, split));
    }
    let path = root.join(file_name(&options.name, split));
    path.is_file().then_some(path)
}

/// The sets whose packs lie in the folder `root`, or the set of the pack `root`.
pub(crate) fn names_at(root: &Path) -> Result<Vec<&'static str>, DataError> {
    if is_pack_path(root) {
        let name = Pack::open(root)?.header.name;
        return Ok(NAMES.into_iter().filter(|known| *known == name).collect());
    }
    let has_pack = |name: &&str| Split::ALL.iter().any(|split| root.join(file_name(name, *split)).is_file());
    Ok(NAMES.into_iter().filter(has_pack).collect())
}

fn is_pack_path(root: &Path) -> bool {
    root.extension().is_some_and(|extension| extension == "pack") && !root.is_dir()
}

/// `NAME-test.pack` for `NAME-train.pack` where the test split is asked for, and the other way round.
fn sibling(path: &Path, split: Split) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = ["-train.pack", "-test.pack"].iter().find_map(|ending| name.strip_suffix(ending));
    stem.map_or(path.to_owned(), |stem| path.with_file_name(file_name(stem, split)))
}

/// Opens the pack at `path`, which must hold what the options ask for.
pub(crate) fn open(path: &Path, options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    if !path.exists() {
        let hint = format!("make it with `data pack`, or give a folder that holds the {split} split");
        return Err(DataError::MissingFile { path: path.to_owned(), hint });
    }
    let pack = checked(path, options, split)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match pack.header.stamp.changed_in(folder) {
        Some(what) => Err(PackError::Stale { path: path.to_owned(), what }.into()),
        None => Ok(pack.into_dataset()),
    }
}

/// The pack at `path`, of the set, the split and the number of images that the options ask for.
pub(crate) fn checked(path: &Path, options: &OpenOptions, split: Split) -> Result<Pack, DataError> {
    let pack = Pack::open(path)?;
    if pack.header.name != options.name || pack.header.split != split {
        let asked = format!("{} {split}", options.name);
        return Err(PackError::WrongSet { path: path.to_owned(), found: pack.holds(), asked }.into());
    }
    if let Some(expected) = pack.header.expected {
        check_count(options, split, path, pack.len(), expected as usize)?;
    }
    Ok(pack)
}

/// The images to make a pack of: the set's own files, or the pack that the root is, but never a pack that merely lies in
/// the root, which may be the very one that is to be made anew.
///
/// # Errors
/// As [`open`](crate::open), and when `observer` stops the work.
pub fn open_source(options: &OpenOptions, split: Split, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    let found = find(options, split);
    if options.root.as_deref().is_some_and(is_pack_path) {
        return crate::dataset::open(options, split);
    }
    match (open_files(options, split, observer), found) {
        (Err(DataError::MissingFolder { path, .. } | DataError::NoImages { path }), Some(pack)) => {
            Err(DataError::MissingFolder {
                what: format!("the own files of {}", options.name),
                path,
                hint: format!("there is only a pack; give {} itself to make another of it", pack.display()),
            })
        }
        (opened, _) => opened,
    }
}

/// The splits that the root leads to: both or, where the root is a `.pack` file, those whose file is there.
pub fn splits(options: &OpenOptions) -> Vec<Split> {
    let is_there = |split: &Split| match options.root.as_deref().filter(|root| is_pack_path(root) && root.is_file()) {
        Some(root) => Pack::open(root).is_ok_and(|pack| pack.header.split == *split) || has_sibling(root, *split),
        None => true,
    };
    let found: Vec<Split> = Split::ALL.into_iter().filter(is_there).collect();
    // A file that is no pack has no split; opening it says why.
    if found.is_empty() { Split::ALL.to_vec() } else { found }
}

/// Whether the pack of `split` lies beside that of the other split, which `root` is.
fn has_sibling(root: &Path, split: Split) -> bool {
    let other = sibling(root, split);
    other != root && other.is_file()
}
