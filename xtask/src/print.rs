//! The printing macros of this program, under the names of the standard library's, which panic when their reader is gone:
//! here a line that standard error does not take is dropped, and what standard output does not take fails the task when
//! it is done.

use std::io::{self, Write};
use std::sync::OnceLock;

use crate::failure::{Code, Failure, Outcome};

/// The first failure of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();

macro_rules! println {
    () => { $crate::print::to_stdout("\n") };
    ($($text:tt)+) => { $crate::print::to_stdout(&(format!($($text)+) + "\n")) };
}
macro_rules! eprint {
    ($($text:tt)*) => { $crate::print::to_stderr(&format!($($text)*)) };
}
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::print::to_stderr(&(format!($($text)*) + "\n")) };
}

/// What `println!` does.
pub(crate) fn to_stdout(text: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        let _ = FAILED.set(error);
    }
}

/// What `eprint!` and `eprintln!` do.
pub(crate) fn to_stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Fails when standard output did not take everything.
pub(crate) fn all_written() -> Outcome {
    let failed = |error| Err(Failure::new(Code::Report, format!("cannot write to standard output: {error}")));
    FAILED.get().map_or(Ok(()), failed)
}
