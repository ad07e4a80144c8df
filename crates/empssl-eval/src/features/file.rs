//! Banks on disk: one file for an encoder, a split and a view, with every output and every number of patches that was
//! asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use empssl_torch::{SafetensorsError, SafetensorsFile, TensorSpec};
use tch::{Device, Tensor};

use super::bank::FeatureBank;
use super::pass::Kept;
use crate::error::EvalError;

/// Raised whenever a reader of the older form could misread the newer one.
const FORMAT_VERSION: &str = "1";
const FORMAT: &str = "empssl features";
/// In front of the keys of a [`BankIdentity`] in the metadata.
const OF: &str = "of.";
/// The seconds that features took, one figure for each number of patches.
pub(super) const SECONDS: &str = "seconds";

/// What the features of a file are of: the encoder's checksum, the images' fingerprint, the view, the seed, whatever
/// else shapes them, by key.
///
/// Two banks with equal identities hold the same features, so one that was made before can be taken instead of computing
/// it again; nothing is read into keys or values here.
pub type BankIdentity = BTreeMap<String, String>;

/// What goes into a file.
#[derive(Clone, Debug)]
pub struct BankSpec {
    /// What the features are of.
    pub identity: BankIdentity,
    /// Which outputs, and means over how many patches.
    pub kept: Kept,
    /// For each image of the data set that is walked, in its order, the number by which others know it: its index in the
    /// split it was taken from.
    pub ids: Vec<i64>,
    /// Number of classes of the data set.
    pub n_classes: i64,
}

/// A bank file, mapped into memory: what is not scored is never read again, and the system may forget what was read.
#[derive(Debug)]
pub struct BankFile {
    path: PathBuf,
    file: SafetensorsFile,
    /// Labels, ids, and features in the order of their numbers.
    arrays: Vec<TensorSpec>,
}

impl BankFile {
    /// Opens a file that was written before.
    ///
    /// # Errors
    /// [`EvalError::Read`] when it cannot be opened; [`EvalError::BankFormat`] when it is truncated, damaged, be it by
    /// one bit, or not a bank of this form.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let foreign = |reason: String| EvalError::BankFormat { path: path.to_owned(), reason };
        let file = SafetensorsFile::open(path).map_err(|error| match error {
            SafetensorsError::Io(source) => EvalError::Read { path: path.to_owned(), source },
            other => foreign(other.to_string()),
        })?;
        demand_format(&file).map_err(foreign)?;
        let file = Self { path: path.to_owned(), arrays: file.specs(), file };
        file.check_arrays().map_err(foreign)?;
        Ok(file)
    }

    /// Opens a file that holds what is specified.
    ///
    /// # Errors
    /// As [`BankFile::open`]; [`EvalError::OtherBank`] where its features are of something else, or it lacks one of
    /// the outputs or numbers of patches.
    pub fn open_matching(path: &Path, spec: &BankSpec) -> Result<Self, EvalError> {
        let file = Self::open(path)?;
        file.demand(&spec.identity)?;
        file.demand_kept(&spec.kept)?;
        Ok(file)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.file.n_bytes() as u64
    }

    /// What the features are of.
    fn identity(&self) -> BankIdentity {
        let entries = self.file.metadata().iter();
        entries.filter_map(|(key, value)| Some((key.strip_prefix(OF)?.to_owned(), value.clone()))).collect()
    }

    /// Refuses a file whose features are of something else, with each key that differs and both of its values.
    fn demand(&self, expected: &BankIdentity) -> Result<(), EvalError> {
        let found = self.identity();
        let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
        let value = |of: &BankIdentity, key: &String| of.get(key).map_or("not told".to_owned(), Clone::clone);
        let differences: Vec<String> = keys
            .into_iter()
            .filter(|key| found.get(*key) != expected.get(*key))
            .map(|key| format!("`{key}` is {} there and {} here", value(&found, key), value(expected, key)))
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let reason = format!("holds features of something else: {}", differences.join("; "));
        Err(EvalError::OtherBank { path: self.path.clone(), reason })
    }

    /// Refuses a file that lacks one of the outputs or numbers of patches.
    fn demand_kept(&self, wanted: &Kept) -> Result<(), EvalError> {
        let pairs = wanted.outputs.iter().flat_map(|output| wanted.counts.iter().map(move |count| (output, *count)));
        pairs.into_iter().try_for_each(|(output, count)| self.array(output, count).map(drop))
    }

    /// Number of images, at least one.
    pub fn n_images(&self) -> i64 {
        self.arrays.first().map_or(0, |labels| labels.size[0])
    }

    /// The outputs in the file and the numbers of patches that their means are over.
    pub fn kept(&self) -> Kept {
        let pairs = || self.arrays.iter().filter_map(|array| output_and_count(&array.name));
        let mut outputs: Vec<String> = Vec::new();
        for (output, _) in pairs() {
            if !outputs.iter().any(|known| known == output) {
                outputs.push(output.to_owned());
            }
        }
        let counts: BTreeSet<i64> = pairs().map(|(_, count)| count).collect();
        Kept { outputs, counts: counts.into_iter().collect() }
    }

    /// What features over so many patches took when they were computed, see [`extract_features`](super::extract_features); `None` where the file has
    /// none over so many.
    pub fn seconds(&self, count: i64) -> Option<f64> {
        let at = self.kept().counts.iter().position(|&kept| kept == count)?;
        self.file.metadata().get(SECONDS)?.split(' ').nth(at)?.parse().ok()
    }

    /// The numbers by which others know the images, `[images]`, in the order of the rows.
    ///
    /// # Errors
    /// [`EvalError::BankFormat`] when the memory map fails.
    pub fn ids(&self) -> Result<Tensor, EvalError> {
        self.tensor(&self.arrays[1])
    }

    /// The labels `[images]`.
    ///
    /// # Errors
    /// As [`BankFile::ids`].
    pub fn labels(&self) -> Result<Tensor, EvalError> {
        self.tensor(&self.arrays[0])
    }

    /// Features `[images, h]` of an output, averaged over so many patches; on the CPU they are the file itself.
    ///
    /// # Errors
    /// [`EvalError::OtherBank`] when the file has none of these.
    pub fn features(&self, output: &str, count: i64) -> Result<Tensor, EvalError> {
        self.tensor(self.array(output, count)?)
    }

    /// The bank of an output over so many patches, checked as every bank is; on the CPU its features are the file itself.
    ///
    /// # Errors
    /// As [`BankFile::features`] and [`FeatureBank::new`].
    pub fn bank(&self, name: &str, output: &str, count: i64, device: Device) -> Result<FeatureBank, EvalError> {
        let features = self.features(output, count)?.to_device(device);
        FeatureBank::new(name, &features, &self.labels()?, self.n_classes())
    }

    /// Number of classes of the data set.
    pub fn n_classes(&self) -> i64 {
        self.file.metadata().get("n_classes").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn array(&self, output: &str, count: i64) -> Result<&TensorSpec, EvalError> {
        let name = array_name(output, count);
        self.arrays.iter().find(|array| array.name == name).ok_or_else(|| {
            let Kept { outputs, counts } = self.kept();
            let reason = format!(
                "has no features `{output}` over {count} patches; it has {} over {counts:?} patches",
                outputs.join(", ")
            );
            EvalError::OtherBank { path: self.path.clone(), reason }
        })
    }

    fn tensor(&self, array: &TensorSpec) -> Result<Tensor, EvalError> {
        let tensor = self.file.tensor(&array.name);
        tensor.map_err(|error| EvalError::BankFormat { path: self.path.clone(), reason: error.to_string() })
    }

    /// Whether every array is one of a bank.
    fn check_arrays(&self) -> Result<(), String> {
        let arrays = &self.arrays;
        let integers = |at: usize, name: &str| {
            arrays
                .get(at)
                .is_some_and(|array| array.name == name && array.kind == tch::Kind::Int64 && array.size.len() == 1)
        };
        if !integers(0, "labels") || !integers(1, "ids") || arrays.len() < 3 {
            return Err("it does not hold labels, ids and features".to_owned());
        }
        let images = arrays[0].size[0];
        let fits = |array: &TensorSpec| {
            let features =
                array.kind != tch::Kind::Int64 && array.size.len() == 2 && output_and_count(&array.name).is_some();
            features && array.size[0] == images
        };
        match arrays[2..].iter().find(|array| !fits(array)) {
            None if arrays[1].size[0] == images && self.n_classes() >= 1 => Ok(()),
            None => Err("its labels, ids and classes do not fit together".to_owned()),
            Some(array) => Err(format!("its array `{}` has no place in a bank", array.name)),
        }
    }
}

/// The metadata of a file, but for what is known at its end.
pub(super) fn metadata(spec: &BankSpec) -> BTreeMap<String, String> {
    let own = [("format", FORMAT), ("format_version", FORMAT_VERSION), ("empssl_version", env!("CARGO_PKG_VERSION"))];
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let identity = spec.identity.iter().map(|(key, value)| (format!("{OF}{key}"), value.clone()));
    let n_classes = ("n_classes".to_owned(), spec.n_classes.to_string());
    own.into_iter().chain(identity).chain([n_classes]).collect()
}

/// Figures of one length each.
pub(super) fn seconds_text(seconds: &[f64]) -> String {
    seconds.iter().map(|seconds| format!("{:015.6}", seconds.clamp(0.0, 1e7))).collect::<Vec<_>>().join(" ")
}

/// What the array of an output and a number of patches is called.
pub(super) fn array_name(output: &str, count: i64) -> String {
    format!("{output}.{count}")
}

fn output_and_count(name: &str) -> Option<(&str, i64)> {
    let (output, count) = name.rsplit_once('.')?;
    Some((output, count.parse().ok()?))
}

fn demand_format(file: &SafetensorsFile) -> Result<(), String> {
    let text = |key: &str| file.metadata().get(key).map_or("none", String::as_str);
    if text("format") != FORMAT {
        return Err(format!("it is no bank of features (its format is {})", text("format")));
    }
    if text("format_version") != FORMAT_VERSION {
        let (version, program) = (text("format_version"), text("empssl_version"));
        return Err(format!(
            "it has format version {version} (empssl {program}) and this program reads {FORMAT_VERSION}"
        ));
    }
    if !file.has_checksum() {
        return Err("its header has no checksum".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
