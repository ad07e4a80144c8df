//! The parser of packs, with good packs, for the fuzzing harness.

use super::format::{DATA_START, head, parse};
use super::tests::{small, with_table};
use crate::fuzz::Target;

/// The parser of this module, on bytes as they are and with hashes that fit.
pub(crate) fn all() -> Vec<Target> {
    let (dir, of_one_size) = (tempfile::tempdir().unwrap(), |path| std::fs::read(path).unwrap());
    let seeds = vec![of_one_size(small(dir.path(), 2).1), with_table()];
    vec![Target { repair: rehash, ..Target::new("pack", read, seeds) }]
}

/// Reads the header and everything that it leads to, as opening, training and `verify` do.
fn read(file: &[u8]) -> bool {
    let Ok(header) = parse(file) else { return false };
    let labels = header.labels(file).map_or(0, |labels| labels.len());
    assert!(labels == 0 || labels == header.n_images);
    let _ = header.hashes(file).count();
    (0..header.n_images.min(64)).all(|row| header.image(file, row).is_some())
}

/// Gives head and index the sizes and hashes that make them worth reading.
fn rehash(file: &mut [u8]) {
    let Some(data) = file.get(16..24).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes) else { return };
    let most = file.len().saturating_sub(DATA_START);
    let data = usize::try_from(data).unwrap_or(most).min(most);
    if let Some(index) = file.get(DATA_START + data..) {
        let head = head(data as u64, index);
        file[..head.len()].copy_from_slice(&head);
    }
}
