//! Why a pack was not written, opened or believed.

use std::path::{Path, PathBuf};

/// What is wrong with a pack, or kept it from being written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The file does not begin as a pack does.
    #[error("not a pack: {} begins otherwise", path.display())]
    NotAPack {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a later program.
    #[error("pack {} has version {found}, this program reads {known}: use a newer one, or build it again", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is understood.
        known: u32,
    },
    /// The numbers in the file have their bytes in the other order.
    #[error("pack {} has the bytes of its numbers in big-endian order: build it again on this machine", path.display())]
    ForeignEndian {
        /// The file.
        path: PathBuf,
    },
    /// The file is shorter or longer than its header says.
    #[error("truncated pack {}: found {found} bytes, expected {expected}; copy or build it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Bytes of the file have changed since it was written.
    #[error("damaged pack {}: {what}; copy or build it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
    },
    /// The pack holds another set or split.
    #[error("pack {} holds `{found}`, not `{asked}`", path.display())]
    WrongSet {
        /// The file.
        path: PathBuf,
        /// The name and split it holds.
        found: String,
        /// The name and split asked for.
        asked: String,
    },
    /// The images that the pack was made of have changed since.
    #[error("stale pack {}: its source has changed since ({what}); build it again", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// What of the source has changed.
        what: String,
    },
    /// The images were shrunk too much for the recipe.
    #[error(
        "pack {} holds images shrunk to a short side of {found} pixels, the recipe needs {needed}: build it again for \
         this recipe",
        path.display()
    )]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// The short side it was made with.
        found: usize,
        /// The short side that serves the recipe.
        needed: usize,
    },
    /// A setting of the pack cannot work.
    #[error("cannot pack: {reason}")]
    Setting {
        /// What is wrong, and what would work.
        reason: String,
    },
    /// Another process is writing the same pack.
    #[error("another process is writing {}: wait for it", path.display())]
    Busy {
        /// The pack.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("no space left on the disk of {}: make room and run this again", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl PackError {
    /// A failed write of `path`; a full disk has a sentence of its own.
    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        if crate::disk::is_full(&source) { Self::DiskFull { path } } else { Self::Write { path, source } }
    }
}
