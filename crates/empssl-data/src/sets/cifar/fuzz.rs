//! The readers of this module on plain bytes, for the fuzzing harness.

use std::path::Path;

use super::{Format, Records, lines};
use crate::sets::cifar10::FORMAT as CIFAR10;
use crate::sets::cifar100::FORMAT as CIFAR100;

fn read(bytes: &[u8], format: &Format, form: usize) -> bool {
    let mut records = Records::default();
    let read = format.forms[form].read(bytes, Path::new("set"), format.labels, &mut records).is_ok();
    assert_eq!(records.pixels.len(), 3072 * records.labels.len());
    read
}

/// Reads records of CIFAR-10.
pub(crate) fn cifar10_records(bytes: &[u8]) -> bool {
    read(bytes, &CIFAR10, 0)
}

/// Reads records of CIFAR-100.
pub(crate) fn cifar100_records(bytes: &[u8]) -> bool {
    read(bytes, &CIFAR100, 0)
}

/// Reads pickles of either set.
pub(crate) fn pickles(bytes: &[u8]) -> bool {
    let names = [&CIFAR10, &CIFAR100].map(|format| format.forms[1].names(bytes, Path::new("set")).is_ok());
    read(bytes, &CIFAR10, 1) | read(bytes, &CIFAR100, 1) | names[0] | names[1]
}

/// Reads names of ten classes, as few as the shortest list has.
pub(crate) fn names(bytes: &[u8]) -> bool {
    !lines(bytes).is_empty()
}

/// A pickle with a very small array.
pub(crate) fn small_pickle() -> Vec<u8> {
    super::tests::pickle(2, 3, "labels", &[3, 9])
}
