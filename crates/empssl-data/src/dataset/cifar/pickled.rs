//! The form for Python: a pickled dict with an array of all images, a row each, and lists of labels.

use std::path::Path;

use super::super::bytes::{Fault, InFile};
use super::super::pickle::Pickle;
use super::{Label, PLANE, Records, checked_label};
use crate::error::DataError;

/// Appends the images of a pickle.
pub(crate) fn read(bytes: &[u8], path: &Path, labels: &[Label], records: &mut Records) -> Result<(), DataError> {
    let malformed = |fault: Fault| fault.of("pickle", path);
    let pickle = Pickle::load(bytes).map_err(malformed)?;
    let data = pickle.matrix("data").map_err(malformed)?;
    if data.columns != 3 * PLANE {
        return Err(malformed(Fault::new(format!("its images have {} values, expected {}", data.columns, 3 * PLANE))));
    }
    let mut classes = vec![0; data.rows];
    for label in labels {
        let found = pickle.integers(label.key).map_err(malformed)?;
        if found.len() != data.rows {
            let reason = format!("it has {} images and {} {} labels", data.rows, found.len(), label.kind);
            return Err(malformed(Fault::new(reason)));
        }
        for (record, (class, found)) in classes.iter_mut().zip(found).enumerate() {
            *class = checked_label(label, found, record, path)?;
        }
    }
    data.bytes.chunks_exact(3 * PLANE).zip(classes).for_each(|(planes, class)| records.push(planes, class));
    Ok(())
}

/// The names of the classes in the pickle with the description of the set.
pub(crate) fn names(bytes: &[u8], path: &Path, key: &str) -> Result<Vec<String>, DataError> {
    Pickle::load(bytes).and_then(|pickle| pickle.names(key)).map_err(|fault| fault.of("pickle", path))
}
