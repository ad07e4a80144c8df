//! What the tests of several probes need.

use empssl_golden::{Family, Tensors};
use serde_json::Value;

/// The golden cases of one kind, with their tensors.
pub(crate) fn cases<'a>(family: &'a Family, kind: &str) -> Vec<(&'a Value, Tensors)> {
    let of_kind = family.cases().iter().filter(|case| case["kind"] == kind);
    of_kind.map(|case| (case, family.tensors(case["file"].as_str().unwrap()))).collect()
}
