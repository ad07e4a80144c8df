//! The parser of packs, with good packs, for the fuzzing harness.

use super::format::{BLOCK, DATA_START, head, parse};
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
    assert!(header.n_images <= header.data.len(), "{} images", header.n_images);
    let blocks = header.data.len().div_ceil(BLOCK);
    let _ = (0..blocks).fold(0, |sum, block| sum ^ header.block_hash(file, block));
    let good = |row| {
        let Some((height, width, place)) = header.image(file, row) else { return false };
        assert!(height > 0 && width > 0 && place.end <= header.data.len(), "image {row}");
        header.source_hash(file, row);
        true
    };
    (0..header.n_images.min(64)).all(good)
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
