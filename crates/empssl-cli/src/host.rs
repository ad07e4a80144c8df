//! This process, as the operating system accounts for it: peak memory, processors.

use std::thread;

/// The largest resident memory of this process since it began or [`reset_peak`] was called, in bytes; `None` where the
/// system does not tell.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

/// Starts a new peak from what is resident now. Where the system refuses, the peak stays that of the whole process,
/// which overstates the part but never understates it.
pub(crate) fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Processors this process may use.
pub(crate) fn n_processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that cut patches when nobody says: one per processor, at most 16.
pub(crate) fn default_workers() -> usize {
    n_processors().min(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_touched_and_falls_when_it_is_reset() {
        let Some(before) = peak_bytes() else { return };
        let block = vec![1u8; 64 << 20];
        assert!(peak_bytes().unwrap() >= before.max(64 << 20), "{} bytes", block.len());
        let high = peak_bytes().unwrap();
        drop(block);
        reset_peak();
        assert!(peak_bytes().unwrap() <= high);
        assert!(default_workers() >= 1);
    }
}
