//! Signals that ask the program to stop: the first is heard, the second ends it at once.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::error::CliError;
use crate::print;

/// The signals, and what users call them.
const ASKING: [(c_int, &str); 3] = [(SIGINT, "Ctrl-C"), (SIGTERM, "SIGTERM"), (SIGHUP, "the end of its terminal")];

/// Whether a signal came, for whoever works.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicI32>,
}

impl Stop {
    /// Listens from now on; `note`, unless it is empty, is printed when the first signal comes. Where the end of the
    /// terminal was ignored before, as under `nohup`, it stays ignored; shells let scripts ignore Ctrl-C too, but who
    /// sends it means it.
    pub(crate) fn watch(note: &'static str) -> Result<Self, CliError> {
        let signals = Self::signals()?;
        let stop = Self::default();
        let seen = stop.clone();
        std::thread::spawn(move || seen.listen(signals, note));
        Ok(stop)
    }

    /// The signals that are heard.
    pub(crate) fn signals() -> Result<Signals, CliError> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let heard = ASKING
            .map(|(signal, _)| signal)
            .into_iter()
            .filter(|&signal| signal != SIGHUP || !is_ignored(&status, signal));
        Signals::new(heard).map_err(|e| CliError::Run(format!("cannot watch for Ctrl-C: {e}")))
    }

    fn listen(&self, mut signals: Signals, note: &str) {
        for signal in signals.forever() {
            self.signal.store(signal, Ordering::Relaxed);
            if self.asked.swap(true, Ordering::Relaxed) {
                // At once: to take libtorch down in order while it computes would crash.
                low_level::exit(130);
            }
            if !note.is_empty() {
                print::line(note);
            }
        }
    }

    /// Asks as a signal does.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Set when a signal came.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// What the signal that came is called.
    pub(crate) fn by(&self) -> &'static str {
        let came = self.signal.load(Ordering::Relaxed);
        ASKING.iter().find(|(signal, _)| *signal == came).map_or("a signal", |(_, name)| name)
    }
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn is_ignored(status: &str, signal: c_int) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tempssl\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000001001\n";
        assert!(is_ignored(status, SIGHUP) && !is_ignored(status, SIGINT) && !is_ignored(status, SIGTERM));
        assert!(!is_ignored("", SIGHUP));
    }

    #[test]
    fn a_signal_is_called_by_its_name() {
        let stop = Stop::default();
        assert_eq!(stop.by(), "a signal");
        stop.signal.store(SIGTERM, Ordering::Relaxed);
        assert_eq!(stop.by(), "SIGTERM");
    }
}
