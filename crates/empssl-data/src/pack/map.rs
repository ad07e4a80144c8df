//! A file as memory: the one place where the operating system's promise replaces the compiler's.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::error::DataError;

/// Maps a file for reading. Nothing is read until it is looked at.
pub(crate) fn map(path: &Path) -> Result<Mmap, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    #[expect(unsafe_code, reason = "a mapped file is memory that other programs can change")]
    // SAFETY: the map is read-only and handed out as plain bytes, of which every value is valid. Packs are written
    // under another name, by the one process that holds its lock, and renamed; what has been renamed is never written
    // again. So the bytes stay as they are while the map lives, unless
    // someone overwrites or truncates the file on purpose: then pixels change or the system ends the process, as it
    // would for a program whose own file is overwritten.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(|error| DataError::io(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_holds_what_a_plain_read_gives() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        for len in [1_u64, 4095, 4096, 4097, 300_000] {
            let bytes: Vec<u8> = (0..len).map(|place| crate::rng::mix(place) as u8).collect();
            std::fs::write(&file, &bytes).unwrap();
            assert!(map(&file).unwrap()[..] == std::fs::read(&file).unwrap()[..], "{len}");
        }
        assert!(map(&folder.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
        assert!(map(folder.path()).is_err());
    }
}
