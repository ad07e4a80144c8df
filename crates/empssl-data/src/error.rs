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
    /// A record file ends inside a record.
    #[error(
        "truncated record file {}: found {bytes} bytes, expected a multiple of {record_bytes}; unpack it again",
        path.display()
    )]
    TruncatedRecords {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: usize,
        /// The size of one record in bytes.
        record_bytes: usize,
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
    /// Nothing in a folder is known.
    #[error("no data set recognised at {}: looked for {looked_for}", path.display())]
    UnrecognisedDataset {
        /// The folder or archive.
        path: PathBuf,
        /// What would have been recognised.
        looked_for: String,
    },
    /// A file needs a part of this crate that was left out when it was built.
    #[error("cannot read {}: this build lacks the feature `{feature}`", path.display())]
    MissingFeature {
        /// The file.
        path: PathBuf,
        /// The feature.
        feature: &'static str,
    },
    /// A record carries a label that no class has.
    #[error(
        "label out of range in {}: record {record} has {kind} label {found}, expected less than {expected}",
        path.display()
    )]
    LabelOutOfRange {
        /// The file.
        path: PathBuf,
        /// The record within the file, counted from 0.
        record: usize,
        /// Which label of the record: `class`, `coarse` or `fine`.
        kind: &'static str,
        /// The label found.
        found: i64,
        /// The number of classes.
        expected: usize,
    },
    /// A list of class names has the wrong length.
    #[error("wrong number of classes in {}: found {found}, expected {expected}", path.display())]
    ClassCount {
        /// The file or folder with the classes.
        path: PathBuf,
        /// Classes found.
        found: usize,
        /// Classes expected.
        expected: usize,
    },
    /// The split has fewer images than the official set.
    #[error(
        "incomplete {name} {split} split in {}: found {found} images, expected {expected}; \
         allow a partial set to use it as it is",
        path.display()
    )]
    TooFewRecords {
        /// The data set.
        name: String,
        /// The split.
        split: String,
        /// Where it was opened.
        path: PathBuf,
        /// Images found.
        found: usize,
        /// Official number of images.
        expected: usize,
    },
    /// The split has more images than the official set.
    #[error(
        "not the official {name} {split} split in {}: found {found} images, expected {expected}; \
         open it as `folder`, or remove what does not belong there",
        path.display()
    )]
    TooManyRecords {
        /// The data set.
        name: String,
        /// The split.
        split: String,
        /// Where it was opened.
        path: PathBuf,
        /// Images found.
        found: usize,
        /// Official number of images.
        expected: usize,
    },
    /// A folder holds no image, at any depth.
    #[error("no images in {}: expected files ending in .jpg, .jpeg or .png", path.display())]
    NoImages {
        /// The folder.
        path: PathBuf,
    },
    /// A class folder holds no image.
    #[error("empty class folder {}: put images into it or remove it", path.display())]
    EmptyClass {
        /// The folder.
        path: PathBuf,
    },
    /// A class of the set has no folder.
    #[error(
        "no folder for class `{class}` in {}: {absent} of {classes} classes are missing there",
        path.display()
    )]
    MissingClass {
        /// The first class without a folder.
        class: String,
        /// Where the class folders are.
        path: PathBuf,
        /// How many classes have no folder.
        absent: usize,
        /// How many classes the set has.
        classes: usize,
    },
    /// The file that says which image is of which class does not know this image.
    #[error("image without a class: {} is not in {}; remove it, or bring the two from the same source", path.display(), truth.display())]
    UnknownImage {
        /// The image.
        path: PathBuf,
        /// The file with the classes.
        truth: PathBuf,
    },
    /// An image lies beside the class folders, so it has no class.
    #[error("image without a class: {} lies beside class folders; move it into one or remove it", path.display())]
    StrayImage {
        /// The image.
        path: PathBuf,
    },
    /// The two splits of a tree disagree about the classes.
    #[error(
        "class folder `{class}` is in {} but not in {}: both splits need the same classes",
        present.display(),
        absent.display()
    )]
    SplitsDiffer {
        /// The class.
        class: String,
        /// The split folder that has it.
        present: PathBuf,
        /// The split folder that lacks it.
        absent: PathBuf,
    },
    /// Folders are nested so deeply that a link probably leads back to its parent.
    #[error("folders nest too deeply at {}: look for a link that leads back to a parent", path.display())]
    NestedTooDeeply {
        /// The folder.
        path: PathBuf,
    },
    /// A file has the name of an image, but does not decode.
    #[error("bad image {}: {reason}", path.display())]
    BadImage {
        /// The file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
    /// Every image of the split was skipped as bad.
    #[error("all {skipped} images in {} are bad; the first: {first}", path.display())]
    OnlyBadImages {
        /// The folder.
        path: PathBuf,
        /// How many were skipped.
        skipped: usize,
        /// The first of them with its reason.
        first: String,
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
    /// Incomplete batches are dropped and the set does not fill a single one.
    #[error("{images} images do not fill one batch of {batch_size}: lower the batch size or keep incomplete batches")]
    TooFewImages {
        /// Images in the set.
        images: usize,
        /// Images per batch.
        batch_size: usize,
    },
    /// A set could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Whoever watched the work stopped it.
    #[error("stopped at {what}: nothing half done was left under its name")]
    Stopped {
        /// The file or split that was being worked on.
        what: String,
    },
    /// The operating system gave no thread.
    #[error("cannot start the loader's threads: {reason}")]
    NoThreads {
        /// The system's reason.
        reason: String,
    },
    /// There is no memory for the batches.
    #[error("no memory for a batch of {bytes} bytes: {reason}; use fewer patches or smaller batches")]
    NoMemory {
        /// The size of a batch.
        bytes: usize,
        /// The reason of whoever provides the memory.
        reason: String,
    },
    /// Whoever provides the memory of the batches gave too little.
    #[error("the memory for a batch has {found} bytes, expected at least {expected}")]
    ShortBuffer {
        /// Bytes of the buffer.
        found: usize,
        /// Bytes asked for.
        expected: usize,
    },
    /// Making the patches of an image panicked.
    #[error("making the patches of image {index} panicked: {reason}")]
    WorkerPanicked {
        /// The index of the image in the data set.
        index: usize,
        /// The message of the panic.
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
    /// The set is not published at an address that everyone may download from.
    #[error("`{name}` has no public address: {hint}")]
    NoSource {
        /// The data set.
        name: String,
        /// Where it comes from, and what to do.
        hint: &'static str,
    },
    /// The server was not reached.
    #[error(
        "cannot reach {url} ({reason}): without a network, download it elsewhere, put it here as {}, and run this again",
        file.display()
    )]
    Offline {
        /// What was asked for.
        url: String,
        /// Why there was no answer.
        reason: String,
        /// Where the downloaded file belongs.
        file: PathBuf,
    },
    /// The server answered, but not with the file.
    #[error(
        "{url} answered with status {status}: if the file has moved, put it here as {} and run this again",
        file.display()
    )]
    Status {
        /// What was asked for.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// Where the downloaded file belongs.
        file: PathBuf,
    },
    /// The connection ended before the file did.
    #[error("the connection to {url} broke after {done} bytes of {total}: run this again to go on from there")]
    Broken {
        /// What was asked for.
        url: String,
        /// Bytes on disk.
        done: u64,
        /// Bytes expected, in words.
        total: String,
    },
    /// The server's file has another length than the published one.
    #[error("{url} is not the published file: it has {found} bytes, expected {expected}; nothing of it was kept")]
    Length {
        /// What was asked for.
        url: String,
        /// Bytes the server offers.
        found: u64,
        /// Bytes published.
        expected: u64,
    },
    /// The downloaded bytes are not the published ones.
    #[error(
        "wrong checksum: the download of {url} has MD5 {found}, expected {expected}; it was removed, run this again"
    )]
    Checksum {
        /// What was asked for.
        url: String,
        /// The sum found.
        found: String,
        /// The sum published.
        expected: String,
    },
    /// A file that was here before is not the published one.
    #[error("wrong checksum: {} has MD5 {found}, expected {expected}; move it away and run this again", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// The sum found.
        found: String,
        /// The sum published.
        expected: String,
    },
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
