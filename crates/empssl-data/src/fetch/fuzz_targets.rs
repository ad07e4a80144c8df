//! The walks over downloaded archives, with good archives, for the fuzzing harness.

use std::io::Cursor;
use std::path::Path;

use super::tests::{FILE, gzipped, tar_of, zip_of};
use super::unpack::{Limits, Sink, walk_tar, walk_zip};
use crate::archive_paths::{relative, relative_in};
use crate::error::DataError;
use crate::fuzz::{Target, repair_tar};

/// Inflating needs its window and tables, copying its buffer.
const MEMORY: [u64; 2] = [2 << 20, 32];
const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 100, ratio: 100 };

/// The parsers of this module.
pub(crate) fn all() -> Vec<Target> {
    let tar = tar_of(&[("set/", tar::EntryType::Directory, b""), ("set/x", FILE, &[7; 600]), ("set/d/y", FILE, b"")]);
    let zip = zip_of(&[("set/x", 0o644, &[7; 600]), ("set/d/y", 0o644, b"second")]);
    let names = ["set/a/b.bin", "./set//b/", "set/./b c.JPEG"].map(|name| name.as_bytes().to_vec());
    vec![
        Target { repair: repair_tar, memory: MEMORY, ..Target::new("fetched tar", fetched_tar, vec![tar.clone()]) },
        Target { memory: MEMORY, ..Target::new("fetched tar.gz", fetched_tar_gz, vec![gzipped(&tar)]) },
        Target { memory: MEMORY, ..Target::new("fetched zip", fetched_zip, vec![zip]) },
        Target::new("name in archive", name, names.to_vec()),
    ]
}

/// Holds the walks to their word: every path lies in the folder, and no more comes than is allowed.
#[derive(Default)]
struct Held {
    bytes: u64,
    entries: u64,
}

impl Held {
    fn place(&mut self, path: &Path) -> Result<(), DataError> {
        self.entries += 1;
        assert!(stays(path) && self.entries <= LIMITS.entries, "{}", path.display());
        Ok(())
    }
}

impl Sink for Held {
    fn folder(&mut self, path: &Path) -> Result<(), DataError> {
        self.place(path)
    }

    fn open(&mut self, path: &Path) -> Result<(), DataError> {
        self.place(path)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.bytes += bytes.len() as u64;
        assert!(self.bytes <= LIMITS.bytes);
        Ok(())
    }
}

fn stays(path: &Path) -> bool {
    path.starts_with("set") && path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Compressed anew, so that the changes reach the walk.
fn fetched_tar(bytes: &[u8]) -> bool {
    fetched_tar_gz(&gzipped(bytes))
}

fn fetched_tar_gz(bytes: &[u8]) -> bool {
    walk_tar(bytes, bytes.len() as u64, "set", LIMITS, &mut Held::default()).is_ok()
}

fn fetched_zip(bytes: &[u8]) -> bool {
    walk_zip(Cursor::new(bytes), bytes.len() as u64, "set", LIMITS, &mut Held::default()).is_ok()
}

fn name(bytes: &[u8]) -> bool {
    let inside = relative_in("set", bytes);
    assert!(inside.iter().all(|path| stays(path)));
    assert!(relative(bytes).is_ok() || inside.is_err());
    inside.is_ok()
}
