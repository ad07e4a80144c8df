//! Lines for the user, of every program of ours. Printing never ends the program, as the standard library's macros do when
//! their reader is gone: what standard error does not take is dropped, and the first failure of standard output is kept.

use std::io::{self, Write};
use std::sync::OnceLock;

static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output in one piece, so that lines of several processes stay apart; nothing after a failure.
pub fn output(text: &str) {
    if FAILED.get().is_some() {
        return;
    }
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        let _ = FAILED.set(error);
    }
}

/// Writes to standard error, where nobody may be left to read it.
pub fn error(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Why standard output did not take everything, if it did not.
pub fn failure() -> Option<&'static io::Error> {
    FAILED.get()
}
