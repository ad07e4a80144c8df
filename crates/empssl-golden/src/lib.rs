//! Reads the reference values ("golden" values) that were computed with the official EMP-SSL code.
//!
//! A *family* is a folder (`loss`, `lars`, `resnet`, ...) with an `index.json` and tensors in safetensors files.
//! [`Family::open`] looks in the folder named by `EMPSSL_GOLDEN`, by default `../shared/golden` beside the checkout.
//! A family that is not there is skipped with a printed line, unless `EMPSSL_REQUIRE_SHARED` is set, in which case its
//! absence is a failure: continuous integration sets it, a user's machine does not.
//!
//! What else the tests of several crates need is here too: a Python ([`Python`]), processes of their own
//! ([`processes`]) and damaged inputs for parsers ([`damage`]).
//!
//! Tests only: no other crate depends on this one outside its `[dev-dependencies]`.

pub mod damage;
pub mod processes;
mod python;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

pub use python::Python;

/// The folder with everything that tests may use but the project does not ship: `EMPSSL_SHARED`, or `../shared`
/// beside the checkout.
pub fn shared_dir() -> PathBuf {
    match std::env::var_os("EMPSSL_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => package_dir().join("../../../shared"),
    }
}

/// The folder that the archives of genuine images beside the reference values are unpacked to: `EMPSSL_SHARED_DATA`, or
/// `target/shared-data`. Where `what` is not in it, says why the test is skipped and returns `None`.
///
/// # Panics
/// As [`skip`].
pub fn genuine_images(what: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("EMPSSL_SHARED_DATA") {
        Some(dir) => PathBuf::from(dir),
        None => package_dir().join("../../target/shared-data"),
    };
    if root.join(what).is_dir() {
        return Some(root);
    }
    let archives = shared_dir().join("data");
    skip(&format!("{what} (unpack the archives of {} there)", archives.display()), &root);
    None
}

/// The package under test, which lies in `crates/` as this one does; cargo says where when it runs the test.
fn package_dir() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

/// Says why a test is skipped, or fails where skipping is not allowed (`EMPSSL_REQUIRE_SHARED` is set).
///
/// # Panics
/// When `EMPSSL_REQUIRE_SHARED` is set.
pub fn skip(what: &str, path: &Path) {
    let line = format!("skipped: {what} is not at {}", path.display());
    assert!(std::env::var_os("EMPSSL_REQUIRE_SHARED").is_none(), "{line}, and EMPSSL_REQUIRE_SHARED forbids skipping");
    eprintln!("{line}");
}

/// One folder of reference values.
pub struct Family {
    dir: PathBuf,
    /// The parsed `index.json`.
    pub index: Value,
}

impl Family {
    /// Opens the family `name`, or prints why it is skipped and returns `None`.
    ///
    /// # Panics
    /// When the index cannot be parsed, or the family is absent and `EMPSSL_REQUIRE_SHARED` is set.
    pub fn open(name: &str) -> Option<Self> {
        let root = match std::env::var_os("EMPSSL_GOLDEN") {
            Some(dir) => PathBuf::from(dir),
            None => shared_dir().join("golden"),
        };
        let dir = root.join(name);
        let path = dir.join("index.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            skip(&format!("the golden family `{name}`"), &path);
            return None;
        };
        let index = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Some(Self { dir, index })
    }

    /// The cases listed in the index; a missing list is an empty one.
    pub fn cases(&self) -> &[Value] {
        self.index["cases"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The path of a file of this family.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Reads every tensor of a safetensors file of this family.
    ///
    /// # Panics
    /// When the file is missing or malformed.
    pub fn tensors(&self, file: &str) -> Tensors {
        let path = self.path(file);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let parsed = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tensors = parsed.iter().map(|(name, view)| {
            let tensor =
                GoldenTensor { shape: view.shape().to_vec(), dtype: view.dtype(), bytes: view.data().to_vec() };
            (name.to_owned(), tensor)
        });
        Tensors { path, by_name: tensors.collect() }
    }
}

/// The tensors of one file, by name.
pub struct Tensors {
    path: PathBuf,
    by_name: HashMap<String, GoldenTensor>,
}

impl Tensors {
    /// The tensor called `name`.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, name: &str) -> &GoldenTensor {
        self.find(name).unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.path.display()))
    }

    /// The tensor called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&GoldenTensor> {
        self.by_name.get(name)
    }

    /// All tensors, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &GoldenTensor)> {
        let mut all: Vec<_> = self.by_name.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        all.sort_by_key(|(name, _)| *name);
        all.into_iter()
    }
}

/// One stored tensor; the reader asks for the type it wants to compute in.
pub struct GoldenTensor {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    dtype: Dtype,
    bytes: Vec<u8>,
}

impl GoldenTensor {
    /// Sizes as libtorch wants them.
    pub fn sizes(&self) -> Vec<i64> {
        self.shape.iter().map(|&size| size as i64).collect()
    }

    /// The values, converted to float64; exact for every stored type but large 64-bit integers.
    ///
    /// # Panics
    /// On a type that the golden files do not use.
    pub fn f64(&self) -> Vec<f64> {
        match self.dtype {
            Dtype::F64 => chunks(&self.bytes).map(f64::from_le_bytes).collect(),
            Dtype::F32 => chunks(&self.bytes).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            Dtype::I64 => chunks(&self.bytes).map(|b| i64::from_le_bytes(b) as f64).collect(),
            Dtype::I32 => chunks(&self.bytes).map(|b| f64::from(i32::from_le_bytes(b))).collect(),
            Dtype::U8 => self.bytes.iter().map(|&b| f64::from(b)).collect(),
            other => panic!("golden tensors are not stored as {other:?}"),
        }
    }

    /// The values as 64-bit integers.
    ///
    /// # Panics
    /// When the tensor does not hold integers.
    pub fn i64(&self) -> Vec<i64> {
        match self.dtype {
            Dtype::I64 | Dtype::I32 | Dtype::U8 => self.f64().into_iter().map(|v| v as i64).collect(),
            other => panic!("expected integers, found {other:?}"),
        }
    }

    /// The raw bytes of an 8-bit tensor.
    ///
    /// # Panics
    /// When the tensor is not 8-bit.
    pub fn u8(&self) -> &[u8] {
        assert_eq!(self.dtype, Dtype::U8, "expected 8-bit values");
        &self.bytes
    }
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.chunks_exact(N).map(|chunk| chunk.try_into().expect("chunks_exact yields N bytes"))
}

/// Largest absolute difference; NaN anywhere, or another length, is infinite.
pub fn max_abs_diff(ours: &[f64], truth: &[f64]) -> f64 {
    if ours.len() != truth.len() {
        return f64::INFINITY;
    }
    let differences = ours.iter().zip(truth).map(|(a, b)| (a - b).abs());
    // `f64::max` passes over NaN, which must count as the largest difference there is.
    differences.map(|diff| if diff.is_nan() { f64::INFINITY } else { diff }).fold(0.0, f64::max)
}

/// Fails unless every value is within `tolerance` of the truth.
///
/// # Panics
/// With the name, the deviation and the tolerance when it is not.
#[track_caller]
pub fn assert_close(name: &str, ours: &[f64], truth: &[f64], tolerance: f64) {
    let deviation = max_abs_diff(ours, truth);
    assert!(deviation <= tolerance, "{name}: deviates by {deviation:e}, tolerance {tolerance:e}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_or_another_length_is_never_close() {
        assert_eq!(max_abs_diff(&[1.0, f64::NAN, 1.0], &[1.0, 1.0, 1.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[1.0, 3.0], &[1.0, 2.5]), 0.5);
    }
}
