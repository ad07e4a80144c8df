//! Reading all of a pack, and of its source, to see whether they are what they were.

use std::path::Path;

use rayon::prelude::*;

use super::format::BLOCK;
use super::write::pixel_hash;
use super::{Pack, PackError, Packed};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::progress::{Observer, Progress, Stage, tell};

/// Compares every block of a pack's data with its hash, on all cores, and looks up the place of every image.
///
/// # Errors
/// When the file is not a pack that can be opened, or a block has changed; the message names the bytes.
pub fn verify(path: &Path, observer: &mut Observer<'_>) -> Result<Packed, DataError> {
    let pack = Pack::open(path)?;
    check_data(&pack, observer)?;
    Ok(Packed::of(&pack, true))
}

/// [`verify`] of an opened pack.
pub(super) fn check_data(pack: &Pack, observer: &mut Observer<'_>) -> Result<(), DataError> {
    /// Blocks between two words to the observer.
    const STRETCH: usize = 64;
    let (n_blocks, bytes, what) = (pack.trusted.len(), pack.data().len(), pack.holds());
    for first in (0..n_blocks).step_by(STRETCH) {
        let next = n_blocks.min(first + STRETCH);
        let found: Vec<_> = (first..next).into_par_iter().map(|block| pack.check_block(block)).collect();
        // The first fault, whichever thread came upon one first.
        found.into_iter().collect::<Result<(), _>>()?;
        let done = (next * BLOCK).min(bytes) as u64;
        tell(observer, Progress { stage: Stage::Check, what: &what, done, total: Some(bytes as u64) })?;
    }
    let is_in_place = |row| pack.header.image(&pack.map, row).is_some();
    match (0..pack.len()).into_par_iter().find_first(|&row| !is_in_place(row)) {
        Some(row) => Err(pack.astray(row)),
        None => Ok(()),
    }
}

/// Compares what a pack remembers of its source with `source`, the set as it is now: the fingerprint, and the pixels of
/// every image.
///
/// # Errors
/// When the file is not a pack that can be opened, its source has changed since or does not decode, or `observer` stops
/// the work.
pub fn check_source(path: &Path, source: &Dataset, observer: &mut Observer<'_>) -> Result<(), DataError> {
    /// Images between two words to the observer.
    const STRETCH: usize = 512;
    let pack = Pack::open(path)?;
    let stale = |what| Err(PackError::Stale { path: path.to_owned(), what }.into());
    let (then, now) = (pack.header.source, source.fingerprint());
    if then != now {
        return stale(format!("fingerprint {now:016x} now, {then:016x} then"));
    }
    let (what, total) = (pack.holds(), Some(pack.len() as u64));
    let is_same = |row| Ok(pixel_hash(source.image(row)?.view()) == pack.header.source_hash(&pack.map, row));
    for first in (0..pack.len()).step_by(STRETCH) {
        tell(observer, Progress { stage: Stage::Decode, what: &what, done: first as u64, total })?;
        let rows = (first..pack.len().min(first + STRETCH)).into_par_iter();
        let same: Vec<bool> = rows.map(is_same).collect::<Result<_, DataError>>()?;
        if let Some(other) = same.iter().position(|same| !same) {
            return stale(format!("image {} has other pixels", first + other));
        }
    }
    tell(observer, Progress { stage: Stage::Decode, what: &what, done: pack.len() as u64, total })
}
