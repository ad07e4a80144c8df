//! Downloading the sets that are published for everyone: resumed where it broke, compared with the published checksum,
//! unpacked without trusting the archive, and complete under the final name or not there at all.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! let folder = std::path::Path::new("data");
//! let mut watch = |progress: &empssl_data::progress::Progress<'_>| {
//!     eprintln!("{}: {} bytes", progress.what, progress.done);
//!     ControlFlow::Continue(())
//! };
//! for part in empssl_data::fetch::fetch("cifar10", folder, &mut watch)? {
//!     println!("{}", part.path.display());
//! }
//! # Ok::<(), empssl_data::DataError>(())
//! ```

mod download;
mod error;
mod source;
mod unpack;

#[cfg(test)]
mod fuzz_targets;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub use error::FetchError;
#[cfg(test)]
pub(crate) use fuzz_targets::all as fuzz_targets;
pub use source::{Form, Member, Source, Unpack, sources};

pub(crate) use source::other_forms;
pub(crate) use unpack::lack;

use crate::error::DataError;
use crate::progress::Observer;

/// A part of a set that is now here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The unpacked folder, or the file that is read as it is.
    pub path: PathBuf,
    /// Whether it was complete before.
    pub was_there: bool,
    /// Bytes that were downloaded for it now.
    pub downloaded: u64,
}

/// Downloads and unpacks the published files of the data set `name` into the folder `into`, which is made where it is
/// missing. What is complete already stays as it is; what was interrupted goes on.
///
/// # Errors
/// When the set has no public address, the server is not reached or answers with something else, the checksum is
/// wrong, the archive holds what must not be unpacked, or the disk refuses; see [`FetchError`].
pub fn fetch(name: &str, into: &Path, observer: &mut Observer<'_>) -> Result<Vec<Fetched>, DataError> {
    fetch_sources(&sources(name)?, into, observer)
}

/// [`fetch`] from a table of one's own: another mirror, another set.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_sources(sources: &[Source], into: &Path, observer: &mut Observer<'_>) -> Result<Vec<Fetched>, DataError> {
    fs::create_dir_all(into).map_err(|error| FetchError::write(into, error))?;
    let _lock = Lock::take(into)?;
    sources.iter().map(|source| fetch_one(source, into, observer)).collect()
}

fn fetch_one(source: &Source, into: &Path, observer: &mut Observer<'_>) -> Result<Fetched, DataError> {
    let file = into.join(&source.file);
    if let Some(unpack) = &source.unpack {
        let folder = into.join(&unpack.folder);
        if folder.exists() {
            return match lack(&folder, &unpack.files) {
                None => Ok(Fetched { path: folder, was_there: true, downloaded: 0 }),
                Some(lack) => Err(FetchError::Incomplete { folder, lack }.into()),
            };
        }
    }
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(|error| FetchError::write(parent, error))?;
    }
    let was_there = source.unpack.is_none() && file.exists();
    let downloaded = download::download(source, &file, observer)?;
    let path = match &source.unpack {
        Some(unpack) => {
            unpack::unpack(&file, unpack, into, unpack::Limits::PUBLISHED, observer)?;
            into.join(&unpack.folder)
        }
        None => file,
    };
    Ok(Fetched { path, was_there, downloaded })
}

/// Where an unfinished download of `file` is.
pub(crate) fn part_of(file: &Path) -> PathBuf {
    download::beside(file, ".part")
}

/// Keeps two processes from writing the same files. The system releases it however the process ends.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(folder: &Path) -> Result<Self, FetchError> {
        let path = folder.join(".fetch.lock");
        match crate::disk::lock(&path).map_err(|error| FetchError::write(&path, error))? {
            Some(file) => Ok(Self { path, _file: file }),
            None => Err(FetchError::Busy { folder: folder.to_owned() }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock is still held, so nobody else's file is removed. Only an empty file stays behind where this fails.
        let _ = fs::remove_file(&self.path);
    }
}
