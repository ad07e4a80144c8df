//! Downloading the sets that are published for everyone: resumed where it broke, compared with the published checksum,
//! and complete under the final name or not there at all. Nothing is unpacked: archives are read as they are.
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

pub(crate) mod download;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::DataError;
pub use crate::error::FetchError;
use crate::progress::Observer;
use crate::sets::{ImageSet, PublishedFile};

/// A file of a set that is now here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The file.
    pub path: PathBuf,
    /// Whether it was complete before.
    pub was_there: bool,
    /// Bytes that were downloaded for it now.
    pub downloaded: u64,
}

/// Downloads the published files of the data set `name` into the folder `into`, which is made where it is missing; they
/// are read without unpacking them. Complete files are kept, interrupted downloads are resumed.
///
/// # Errors
/// When the set has no public address, the server is not reached or answers with something else, the checksum is
/// wrong, or the disk refuses; see [`FetchError`].
pub fn fetch(name: &str, into: &Path, observer: &mut Observer<'_>) -> Result<Vec<Fetched>, DataError> {
    let set = ImageSet::named(name)?;
    if set.files.is_empty() {
        let hint = set.instead_of_fetching;
        return Err(FetchError::Download(format!("`{name}` has no public address: {hint}")).into());
    }
    fetch_files(set.files, into, observer)
}

fn fetch_files(files: &[PublishedFile], into: &Path, observer: &mut Observer<'_>) -> Result<Vec<Fetched>, DataError> {
    fs::create_dir_all(into).map_err(|error| FetchError::write(into, error))?;
    let _lock = lock(into)?;
    files.iter().map(|file| fetch_one(file, into, observer)).collect()
}

fn fetch_one(source: &PublishedFile, into: &Path, observer: &mut Observer<'_>) -> Result<Fetched, DataError> {
    let path = into.join(source.file);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| FetchError::write(parent, error))?;
    }
    let was_there = path.exists();
    let downloaded = download::download(source, &path, observer)?;
    Ok(Fetched { path, was_there, downloaded })
}

/// Keeps two processes from writing the same files: an empty file that stays, locked while this one fetches. The system
/// releases the lock however the process ends.
fn lock(folder: &Path) -> Result<File, FetchError> {
    let path = folder.join(".fetch.lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|error| FetchError::write(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(FetchError::Busy { folder: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(FetchError::write(&path, error)),
    }
}
