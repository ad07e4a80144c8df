//! How a task fails: one sentence for the reader and one exit code for scripts.

use std::fmt;
use std::io;
use std::path::Path;

/// What every task returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// The exit codes, documented in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// A check failed.
    Check = 1,
    /// Wrong usage; clap exits with the same number.
    Usage = 2,
    /// libtorch could not be provided.
    Setup = 3,
    /// A program we started failed.
    Child = 4,
    /// A report could not be read or written.
    Report = 5,
    /// Interrupted, as shells count it: 128 + SIGINT.
    Interrupted = 130,
}

/// One clear sentence and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn check(message: impl Into<String>) -> Self {
        Self::new(Code::Check, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(crate) fn setup(message: impl Into<String>) -> Self {
        Self::new(Code::Setup, message)
    }

    pub(crate) fn report(message: impl Into<String>) -> Self {
        Self::new(Code::Report, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Turns an I/O error into a failure that says what was tried on which path.
pub(crate) trait Context<T> {
    /// `doing` reads after "cannot": "write", "create the folder".
    fn at(self, code: Code, doing: &str, path: &Path) -> Outcome<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, code: Code, doing: &str, path: &Path) -> Outcome<T> {
        self.map_err(|error| Failure::new(code, format!("cannot {doing} {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_names_the_deed_and_the_path() {
        let failure = std::fs::read("/no/such/file").at(Code::Report, "read", Path::new("/no/such/file")).unwrap_err();
        assert_eq!(failure.code, Code::Report);
        assert!(failure.to_string().starts_with("cannot read /no/such/file: "), "{failure}");
    }
}
