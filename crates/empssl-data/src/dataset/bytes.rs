//! Reading the bytes of a file from outside, and the error when they are wrong.

use std::path::Path;

pub(crate) use empssl_pickle::bytes::{Cursor, Fault, shown};

use crate::error::DataError;

/// What a fault becomes once it is known which file has it.
pub(crate) trait InFile {
    /// The error for the file at `path`, which should have been a `form`.
    fn of(self, form: &'static str, path: &Path) -> DataError;
}

impl InFile for Fault {
    fn of(self, form: &'static str, path: &Path) -> DataError {
        DataError::Malformed { form, path: path.to_owned(), reason: self.0 }
    }
}
