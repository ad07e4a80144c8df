//! Everything that can go wrong between a folder of images and a batch of patches.

use std::path::{Path, PathBuf};

/// Why a set could not be opened, an image not be read, or a batch not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No data set has this name.
    #[error("unknown data set `{name}`: the known ones are {known}")]
    UnknownDataset {
        /// The name as given.
        name: String,
        /// The names that would have been understood.
        known: String,
    },
    /// The folder of a data set is not there.
    #[error("no folder with {what} at {}: {hint}", path.display())]
    MissingFolder {
        /// What was looked for.
        what: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// A file that belongs to the set is not there.
    #[error("missing file {}: {hint}", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// The operating system refused to read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what its name says, or damaged.
    #[error("malformed {form} {}: {reason}", path.display())]
    Malformed {
        /// What the file should have been: `pickle`, `archive`, ...
        form: &'static str,
        /// The file; within an archive, the archive's path and the name in it.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Several data sets lie in a folder, or its files could be of either of two.
    #[error("{} could be opened as {}: name the data set that is meant", path.display(), candidates.join(" or "))]
    AmbiguousDataset {
        /// The folder or archive.
        path: PathBuf,
        /// The names that would open it.
        candidates: Vec<&'static str>,
    },
    /// The split has fewer images than the official set.
    #[error("{0}; allow a partial set to use it as it is")]
    TooFewRecords(String),
    /// Files, folders, labels or counts are not as the set needs them: the sentence says what, where, and what to do.
    #[error("{0}")]
    Inconsistent(String),
    /// A file has the name of an image, but does not decode.
    #[error("bad image {}: {reason}", path.display())]
    BadImage {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
    /// There is no image of this index.
    #[error("image index {index} is out of range: the set has {len} images")]
    IndexOutOfRange {
        /// The index asked for.
        index: usize,
        /// The number of images.
        len: usize,
    },
    /// A setting has a value that cannot work.
    #[error("`{key}` is {found}, expected {expected}")]
    BadSetting {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What would have worked.
        expected: String,
    },
    /// A set could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The observer of the work stopped it.
    #[error("stopped at {what}: nothing half done was left under its name")]
    Stopped {
        /// The file or split that was being worked on.
        what: String,
    },
    /// The loader cannot work: no full batch, no thread, too small a buffer, or a panic over an image.
    #[error("{0}")]
    Loader(String),
    /// There is no memory for the batches.
    #[error("no memory for a batch of {bytes} bytes: {reason}; use fewer patches or smaller batches")]
    NoMemory {
        /// The size of a batch.
        bytes: usize,
        /// Why the memory could not be provided.
        reason: String,
    },
    /// A thread of the loader died without leaving an error.
    #[error("the loader stopped before batch {batch}: one of its threads panicked, see the message above")]
    LoaderStopped {
        /// The first batch that was not delivered.
        batch: usize,
    },
}

/// Why a set was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The set has no public address, the server was not reached or did not send the published file, or a file that
    /// was here before is not the published one; the sentence says what to do.
    #[error("{0}")]
    Download(String),
    /// The disk is full.
    #[error("no space left on the disk of {}: make room and run this again to go on", file.display())]
    DiskFull {
        /// What was being written.
        file: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file or folder.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process is fetching into the folder.
    #[error("another fetch is at work in {}: wait for it, or choose another folder", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
}

/// Why bytes are no image that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub(crate) String);

impl DataError {
    /// Wraps a failed read of `path`.
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Says that the file at `path`, which should have been a `form`, is not, or is damaged.
    pub(crate) fn malformed(form: &'static str, path: &Path, reason: String) -> Self {
        Self::Malformed { form, path: path.to_owned(), reason }
    }

    /// Says that no image lies in the folder at `path`, at any depth.
    pub(crate) fn no_images(path: &Path) -> Self {
        Self::Inconsistent(format!("no images in {}: expected files ending in .jpg, .jpeg or .png", path.display()))
    }

    /// Says that the file at `path` cannot be read, as this crate was built without the feature `archives`.
    #[cfg(not(feature = "archives"))]
    pub(crate) fn without_archives(path: &Path) -> Self {
        Self::Inconsistent(format!("cannot read {}: this build lacks the feature `archives`", path.display()))
    }

    /// Says that `key` has a value that cannot work.
    pub(crate) fn setting(key: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::BadSetting { key, found: found.to_string(), expected: expected.into() }
    }
}

#[cfg(feature = "fetch")]
impl FetchError {
    /// A failed write of `file`; a full disk has a sentence of its own.
    pub(crate) fn write(file: &Path, source: std::io::Error) -> Self {
        let file = file.to_owned();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull { file },
            _ => Self::Write { file, source },
        }
    }
}
