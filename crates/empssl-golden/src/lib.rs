//! Reads the reference values ("golden" values) that were computed with the official EMP-SSL code.
//!
//! A *family* is a folder (`loss`, `lars`, `resnet`, ...) with an `index.json` and tensors in safetensors files.
//! [`Family::open`] looks in the folder named by `EMPSSL_GOLDEN`, else in `../shared/golden` beside the checkout, else
//! in `values`, which is part of the repository and holds whole files of every family, compressed.
//! `values` leaves out the largest cases, and a family opened there does not list them.
//! Anything else that is not there is skipped with a printed line, unless `EMPSSL_REQUIRE_SHARED` is set, in which case
//! its absence is a failure, as is that of the folder beside the checkout: continuous integration sets it, a user's
//! machine does not.
//!
//! What else the tests of several crates need is here too: a Python ([`Python`]), processes of their own
//! ([`processes`]) and damaged inputs for parsers ([`damage`]).
//!
//! Tests only: no other crate depends on this one outside its `[dev-dependencies]`.

pub mod damage;
pub mod processes;
mod python;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
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
    assert!(!shared_is_required(), "{line}, and EMPSSL_REQUIRE_SHARED forbids skipping");
    eprintln!("{line}");
}

fn shared_is_required() -> bool {
    std::env::var_os("EMPSSL_REQUIRE_SHARED").is_some()
}

/// The values that are part of the repository.
fn values_dir() -> PathBuf {
    package_dir().join("../empssl-golden/values")
}

/// One folder of reference values.
pub struct Family {
    dir: PathBuf,
    /// The parsed `index.json`; in the repository's values less the cases and sections whose files are left out.
    pub index: Value,
}

impl Family {
    /// Opens the family `name`, or prints why it is skipped and returns `None`.
    ///
    /// # Panics
    /// When the index cannot be parsed, or something of the family is absent and `EMPSSL_REQUIRE_SHARED` is set.
    pub fn open(name: &str) -> Option<Self> {
        let beside = shared_dir().join("golden");
        let root = match std::env::var_os("EMPSSL_GOLDEN") {
            Some(dir) => PathBuf::from(dir),
            None if beside.is_dir() => beside,
            None => {
                assert!(!shared_is_required(), "no golden values at {}", beside.display());
                return Some(Self::shipped(name));
            }
        };
        let mut family = Self { dir: root.join(name), index: Value::Null };
        if !family.holds("index.json") {
            skip(&format!("the golden family `{name}`"), &family.dir);
            return None;
        }
        family.index = family.json("index.json");
        Some(family)
    }

    /// The family as the repository holds it: without the cases and sections that name a file which was left out.
    fn shipped(name: &str) -> Self {
        let mut family = Self { dir: values_dir().join(name), index: Value::Null };
        let mut index = family.json("index.json");
        let is_here = |part: &Value| {
            let files = part.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
            files.filter(|text| text.ends_with(".safetensors")).all(|file| family.holds(file))
        };
        if let Some(sections) = index.as_object_mut() {
            sections.retain(|_, section| is_here(section));
        }
        if let Some(cases) = index["cases"].as_array_mut() {
            cases.retain(is_here);
        }
        family.index = index;
        family
    }

    /// The cases listed in the index; a missing list is an empty one.
    pub fn cases(&self) -> &[Value] {
        self.index["cases"].as_array().map_or(&[], Vec::as_slice)
    }

    fn holds(&self, file: &str) -> bool {
        self.dir.join(file).is_file() || self.dir.join(format!("{file}.gz")).is_file()
    }

    /// The bytes of a file of this family, which may be compressed.
    fn bytes(&self, file: &str) -> Vec<u8> {
        let (plain, packed) = (self.dir.join(file), self.dir.join(format!("{file}.gz")));
        let mut bytes = Vec::new();
        let read = match std::fs::File::open(&packed) {
            Ok(packed) if !plain.is_file() => GzDecoder::new(packed).read_to_end(&mut bytes).map(|_| bytes),
            _ => std::fs::read(&plain),
        };
        read.unwrap_or_else(|e| panic!("{}: {e}", plain.display()))
    }

    /// A JSON file of this family.
    ///
    /// # Panics
    /// When it is missing or malformed.
    pub fn json(&self, file: &str) -> Value {
        let bytes = self.bytes(file);
        serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", self.dir.join(file).display()))
    }

    /// Reads every tensor of a safetensors file of this family.
    ///
    /// # Panics
    /// When the file is missing or malformed.
    pub fn tensors(&self, file: &str) -> Tensors {
        let path = self.dir.join(file);
        let bytes = self.bytes(file);
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

    /// The families of the repository, and the largest sizes that its files may have, one by one and together.
    const FAMILIES: [&str; 8] = ["augment", "baselines", "knn", "lars", "linear", "loss", "resnet", "step"];
    const FILE_BYTES: u64 = 2_000_000;
    const ALL_BYTES: u64 = 10_000_000;

    #[test]
    fn the_repository_holds_whole_readable_files_of_every_family_and_stays_small() {
        let listed = std::fs::read_to_string(values_dir().join("SHA256SUMS")).unwrap();
        let listed: Vec<&str> = listed.lines().filter_map(|line| line.split_once("  ").map(|(_, file)| file)).collect();
        let mut bytes = 0;
        for file in &listed {
            let (name, file) = file.split_once('/').unwrap();
            let size = std::fs::metadata(values_dir().join(name).join(format!("{file}.gz"))).unwrap().len();
            assert!(size <= FILE_BYTES, "{name}/{file} has {size} bytes");
            bytes += size;
            let family = Family { dir: values_dir().join(name), index: Value::Null };
            match file.ends_with(".json") {
                true => assert!(family.json(file).is_object(), "{name}/{file}"),
                false => assert!(family.tensors(file).iter().count() > 0, "{name}/{file}"),
            }
        }
        assert!(bytes <= ALL_BYTES, "{bytes} bytes");
        let present = FAMILIES.iter().flat_map(|name| std::fs::read_dir(values_dir().join(name)).unwrap()).count();
        assert_eq!(present, listed.len(), "files of `values` that SHA256SUMS does not list");
    }

    #[test]
    fn what_is_left_out_of_the_repository_is_left_out_of_the_index() {
        for (name, absent) in [("knn", 0), ("lars", 0), ("linear", 0), ("loss", 1), ("resnet", 2), ("step", 0)] {
            let family = Family::shipped(name);
            let all = family.json("index.json")["cases"].as_array().unwrap().len();
            assert_eq!(all - family.cases().len(), absent, "{name}");
            assert!(!family.cases().is_empty(), "{name}");
        }
        let augment = Family::shipped("augment");
        assert!(augment.index["photos"].is_null() && !augment.index["cifar"].is_null());
    }

    #[test]
    fn a_nan_or_another_length_is_never_close() {
        assert_eq!(max_abs_diff(&[1.0, f64::NAN, 1.0], &[1.0, 1.0, 1.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(max_abs_diff(&[1.0, 3.0], &[1.0, 2.5]), 0.5);
    }
}
