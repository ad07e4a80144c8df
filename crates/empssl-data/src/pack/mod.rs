//! One memory-mapped file per split: opening it is instant, and every worker reads raw pixels without a copy.
//!
//! A pack is a snapshot of an opened [`Dataset`]. Raw packs of images that were not shrunk hold every pixel of their
//! source; such a pack has the source's fingerprint and gives the same batches to the last bit. Others (shrunk, or
//! encoded anew) have a fingerprint of their own, made of the source's and of what was done to it.
//!
//! The header is checked whenever a pack is opened; the data, whose hashes are in it, when [`verify`] is asked to.
//! Whether the source has changed since is also asked for, by [`check_source`]: looking at all of it would make opening
//! slow. The bytes of the file are described in the module `format`.

mod error;
pub(crate) mod format;
mod map;
mod shrink;
mod write;

#[cfg(test)]
mod fuzz_targets;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use memmap2::Mmap;
use ndarray::{CowArray, Ix3};
use rayon::prelude::*;

pub use error::PackError;
pub use shrink::short_side;
pub use write::{Packed, write};

#[cfg(test)]
pub(crate) use fuzz_targets::all as fuzz_targets;

use crate::dataset::fingerprint::Hasher;
use crate::dataset::store::{Store, view};
use crate::dataset::{About, BadImage, DEFAULT_ROOT, Dataset, NAMES, OpenOptions, Split, check_count, decode_image};
use crate::error::DataError;
use crate::patch::PatchConfig;
use crate::progress::{Observer, Progress, Stage, tell};
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
        Ok(Self { path: path.to_owned(), map, header })
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

    /// The pixels of image `row`, which must exist: a view of the file for raw packs.
    pub(crate) fn image(&self, row: usize) -> Result<CowArray<'_, u8, Ix3>, DataError> {
        let Some((height, width, bytes)) = self.header.image(&self.map, row) else {
            return Err(self.damaged(format!("image {row} is not where its index says")));
        };
        match self.header.encoding {
            Encoding::Raw => Ok(view(bytes, 0, height, width)),
            Encoding::Jpeg { .. } => match decode_image(bytes, None) {
                Ok(image) if image.dim() == (height, width, 3) => Ok(image.into()),
                Ok(_) => Err(self.damaged(format!("image {row} has another size than its index says"))),
                Err(error) => Err(self.damaged(format!("image {row} does not decode ({error})"))),
            },
        }
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
            expected: expected.map(|expected| expected as usize),
            synthetic: *synthetic,
            class_names: class_names.clone(),
            skipped: skipped
                .iter()
                .map(|(path, reason)| BadImage { path: path.into(), reason: reason.clone() })
                .collect(),
        };
        let (labels, fingerprint) = (self.header.labels(&self.map), self.fingerprint());
        Dataset::new(about, Store::Pack(self), labels).with_fingerprint(fingerprint)
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
    let pack = Pack::open(path)?;
    if pack.header.name != options.name || pack.header.split != split {
        let asked = format!("{} {split}", options.name);
        return Err(PackError::WrongSet { path: path.to_owned(), found: pack.holds(), asked }.into());
    }
    if let Some(expected) = pack.header.expected {
        check_count(options, split, path, pack.len(), expected as usize)?;
    }
    Ok(pack.into_dataset())
}

/// Compares every block of a pack's data with its hash, on all cores, and looks up the place of every image.
///
/// # Errors
/// When the file is not a pack that can be opened, or a block has changed; the message names the bytes.
pub fn verify(path: &Path, observer: &mut Observer<'_>) -> Result<Packed, DataError> {
    /// Blocks between two words to the observer.
    const STRETCH: usize = 64;
    let pack = Pack::open(path)?;
    let (data, what) = (&pack.map[pack.header.data.clone()], pack.holds());
    let hashes: Vec<u64> = pack.header.hashes(&pack.map).collect();
    let mut first = 0;
    for (blocks, hashes) in data.chunks(STRETCH * BLOCK).zip(hashes.chunks(STRETCH)) {
        let found: Vec<u64> = blocks.par_chunks(BLOCK).map(format::hash).collect();
        if let Some(bad) = (0..found.len()).find(|&block| found[block] != hashes[block]) {
            let start = format::DATA_START + (first + bad) * BLOCK;
            return Err(pack.damaged(format!("bytes {start} to {} are not what was written", start + BLOCK)));
        }
        first += found.len();
        let done = (first * BLOCK).min(data.len()) as u64;
        tell(observer, Progress { stage: Stage::Check, what: &what, done, total: Some(data.len() as u64) })?;
    }
    (0..pack.len()).into_par_iter().try_for_each(|row| match pack.header.image(&pack.map, row) {
        Some(_) => Ok(()),
        None => Err(pack.damaged(format!("image {row} is not where its index says"))),
    })?;
    Ok(Packed::of(&pack, true))
}

/// Compares the fingerprint in a pack with that of `source`, the set as it is now.
///
/// # Errors
/// When the file is not a pack that can be opened, or its source has changed since.
pub fn check_source(path: &Path, source: &Dataset) -> Result<(), DataError> {
    let (then, now) = (Pack::open(path)?.header.source, source.fingerprint());
    if then == now { Ok(()) } else { Err(PackError::Stale { path: path.to_owned(), then, now }.into()) }
}
