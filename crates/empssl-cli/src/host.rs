//! This process, as the operating system accounts for it: peak memory, processors, host and clock.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Threads that cut patches: as asked for, else one per processor, at most 16.
pub(crate) fn n_workers(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| n_processors().min(16)).max(1)
}

/// How long a thread of OpenMP's spins at a barrier before it sleeps, in turns of its loop. Without it threads spin for
/// milliseconds: where another program takes one of the processors, the others burn theirs until its turn is over.
const SPIN: (&str, &str) = ("GOMP_SPINCOUNT", "100");
/// By which a user says how threads wait.
const SPIN_SETTINGS: [&str; 2] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"];

/// Lets libtorch's threads sleep at barriers, unless the user has said how they wait. OpenMP reads its settings when it is
/// loaded, which is before `main`, so this program starts itself again in its own place; where the system refuses, it
/// goes on as it is.
pub(crate) fn let_threads_sleep() {
    if SPIN_SETTINGS.iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let mut args = env::args_os();
    let name = args.next().unwrap_or_else(|| OsString::from("empssl"));
    let _refused = Command::new("/proc/self/exe").arg0(name).args(args).env(SPIN.0, SPIN.1).exec();
}

/// The command as it was typed.
pub(crate) fn command_line() -> String {
    let words = std::env::args().enumerate().map(|(index, word)| match index {
        0 => "empssl".to_owned(),
        _ if word.contains(char::is_whitespace) => format!("'{word}'"),
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The machine's name on its network.
pub(crate) fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.or_else(|| std::env::var("HOSTNAME").ok()).map_or("unknown".to_owned(), |name| name.trim().to_owned())
}

/// The time as `2026-03-31T23:59:58Z`.
pub(crate) fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
}

/// The date and time of so many seconds after the beginning of 1970, which was the day 719,468 of a calendar whose
/// years begin on the first of March, year 0 being the first; its leap days are the last days of their years.
fn utc(seconds: u64) -> String {
    let day = seconds / 86_400 + 719_468;
    let (era, day) = (day / 146_097, day % 146_097); // 400 years
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + u64::from(month >= 10), if month < 10 { month + 3 } else { month - 9 });
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
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
        assert!(n_workers(None) >= 1);
    }

    #[test]
    fn dates_follow_the_calendar() {
        // As `date -u -d @SECONDS +%FT%TZ` prints them.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        assert!(!name().is_empty() && utc_now().starts_with("20"));
    }
}
