//! Lines for the user. Printing never ends the program: on standard error a line that cannot be written is dropped, on
//! standard output the failure is kept and reported when the command is done.

use std::fmt::Display;

use empssl_report::print;

use serde::Serialize;

use crate::error::CliError;

/// A line of the result, on standard output.
pub(crate) fn output(line: impl Display) {
    print::output(&format!("{line}\n"));
}

/// The result as JSON.
pub(crate) fn json(result: &impl Serialize) -> Result<(), CliError> {
    output(serde_json::to_string_pretty(result).map_err(|error| CliError::Run(error.to_string()))?);
    Ok(())
}

/// A line about the work, on standard error, where nobody may be left to read it.
pub(crate) fn line(line: impl Display) {
    print::error(&format!("{line}\n"));
}

/// [`line()`] with `note: ` before it.
pub(crate) fn note(text: impl Display) {
    line(format_args!("note: {text}"));
}

/// Fails when standard output did not take everything.
pub(crate) fn all_written() -> Result<(), CliError> {
    print::failure().map_or(Ok(()), |error| Err(CliError::Output(error.to_string())))
}
