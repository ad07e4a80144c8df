//! How much room is left, before pip finds out the hard way.

use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Outcome};
use crate::process;

/// Free bytes on the disk of `path`, which must exist; `None` where `df` cannot tell.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    parse(&process::output(Command::new("df").arg("-Pk").arg(path)).ok()?)
}

/// The fourth column of the last line of `df -Pk`, in kibibytes.
fn parse(table: &str) -> Option<u64> {
    let kibibytes: u64 = table.lines().last()?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Refuses to begin what the disk cannot hold.
pub(crate) fn check(free: Option<u64>, needed: u64, path: &Path) -> Outcome {
    match free {
        Some(free) if free < needed => Err(Failure::setup(format!(
            "{} has {} free, but installing the wheels needs {}: free some space and run `cargo xtask setup` again",
            path.display(),
            gigabytes(free),
            gigabytes(needed)
        ))),
        _ => Ok(()),
    }
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_df_is_read() {
        let table = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 100 40 60 40% /\n";
        assert_eq!(parse(table), Some(60 * 1024));
        assert_eq!(parse("nothing of the kind"), None);
    }

    #[test]
    fn this_disk_has_some_room() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
    }

    #[test]
    fn too_little_room_is_refused_with_both_figures() {
        let message = check(Some(300_000_000), 2_500_000_000, Path::new("/x")).unwrap_err().to_string();
        assert!(message.contains("has 0.3 GB free") && message.contains("needs 2.5 GB"), "{message}");
        check(Some(3_000_000_000), 2_500_000_000, Path::new("/x")).unwrap();
        check(None, 2_500_000_000, Path::new("/x")).unwrap();
    }
}
