//! What can go wrong between a published address and a folder that opens.

use std::path::PathBuf;

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
    /// The unpacked folder was here before and lacks something.
    #[error("{} is here but not complete: {lack}; move it away and run this again", folder.display())]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// What is missing or of another size.
        lack: String,
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
    /// An archive holds what must not be unpacked, or is damaged.
    #[error("will not unpack {}: `{entry}`: {reason}", archive.display())]
    Unsafe {
        /// The archive.
        archive: PathBuf,
        /// The entry within it.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl FetchError {
    /// A failed write of `file`; a full disk has a sentence of its own.
    pub(crate) fn write(file: &std::path::Path, source: std::io::Error) -> Self {
        let file = file.to_owned();
        if crate::disk::is_full(&source) { Self::DiskFull { file } } else { Self::Write { file, source } }
    }
}
