//! Progress of long work, reported to an observer that may stop it.

use std::ops::ControlFlow;

use crate::error::DataError;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Bytes come from a server.
    Download,
    /// Bytes on disk are compared with their published checksum.
    Checksum,
    /// Images are decoded.
    Decode,
}

/// How far a piece of work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub stage: Stage,
    /// To which file or split.
    pub what: &'a str,
    /// Bytes or, for [`Stage::Decode`], images that are done.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
}

/// The caller's observer. It is called at least once per megabyte or few hundred images, and answers whether to go on; after
/// [`ControlFlow::Break`] the work ends with [`DataError::Stopped`] and leaves nothing half done under a final name.
pub type Observer<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;

/// Calls `observer`, and stops the work where it answers so.
pub(crate) fn report(observer: &mut Observer<'_>, progress: Progress<'_>) -> Result<(), DataError> {
    match observer(&progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(DataError::Stopped { what: progress.what.to_owned() }),
    }
}
