//! Lines for the user. Printing never ends the program: on standard error a line that cannot be written is dropped, on
//! standard output the failure is kept and reported when the command is done.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;

use crate::error::CliError;

/// The first failure of standard output; nothing is written there after it.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// A line of the result, on standard output.
pub(crate) fn output(line: impl Display) {
    if FAILED.get().is_some() {
        return;
    }
    // In one piece, so that lines of several processes stay apart.
    let text = format!("{line}\n");
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        let _ = FAILED.set(error);
    }
}

/// A line about the work, on standard error, where nobody may be left to read it.
pub(crate) fn line(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// [`line()`] with `note: ` before it.
pub(crate) fn note(text: impl Display) {
    line(format_args!("note: {text}"));
}

/// Fails when standard output did not take everything.
pub(crate) fn all_written() -> Result<(), CliError> {
    FAILED.get().map_or(Ok(()), |error| Err(CliError::Output(error.to_string())))
}
