//! The official binary form: a record is one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then the red,
//! green and blue planes of a 32x32 image, row after row.

use std::path::Path;

use super::{Label, PLANE, Records, checked_label};
use crate::error::DataError;

/// Appends the records of a file.
pub(crate) fn read(bytes: &[u8], path: &Path, labels: &[Label], records: &mut Records) -> Result<(), DataError> {
    let record_bytes = labels.len() + 3 * PLANE;
    if !bytes.len().is_multiple_of(record_bytes) {
        return Err(DataError::TruncatedRecords { path: path.to_owned(), bytes: bytes.len(), record_bytes });
    }
    for (record, bytes) in bytes.chunks_exact(record_bytes).enumerate() {
        let (label_bytes, planes) = bytes.split_at(labels.len());
        let mut class = 0;
        for (label, &found) in labels.iter().zip(label_bytes) {
            class = checked_label(label, found.into(), record, path)?;
        }
        records.push(planes, class);
    }
    Ok(())
}

/// The names of the classes, one a line.
pub(crate) fn names(bytes: &[u8], _path: &Path) -> Result<Vec<String>, DataError> {
    let text = String::from_utf8_lossy(bytes);
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect())
}
