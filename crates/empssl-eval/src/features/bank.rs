//! Feature banks: one row of features for each image, the mean over the image's patches.

use empssl_data::{DataError, PatchBatch};
use tch::{Kind, Tensor};

use super::extractor::FeatureExtractor;
use super::pass::{BankOptions, Kept, RETURNED, extract_features};
use crate::error::EvalError;

/// Smallest length that a row is divided by where directions are compared, so that a row of zeros stays one.
pub(crate) const SMALLEST_NORM: f64 = 1e-12;

/// Numbers whose finiteness is checked at once; bounds the memory of the check.
const NUMBERS_AT_ONCE: i64 = 1 << 20;

/// Labelled features of a set of images, checked: at least one image, finite features, labels within the classes.
///
/// In the reference the features and labels are lists filled by `evaluate.py`; probe and kNN take a bank and know no
/// encoder.
#[derive(Debug)]
pub struct FeatureBank {
    name: String,
    features: Tensor,
    labels: Tensor,
    n_classes: i64,
}

impl FeatureBank {
    /// A bank of given features `[images, h]`, floating-point, and labels `[images]`, 64-bit integers below `n_classes`.
    ///
    /// The `name` ("train", "test") is what messages call it. The labels move to the device of the features.
    ///
    /// # Errors
    /// [`EvalError::EmptyBank`], [`EvalError::Shape`], [`EvalError::Setting`] for no classes,
    /// [`EvalError::LabelOutOfRange`] and [`EvalError::NonFinite`].
    pub fn new(name: &str, features: &Tensor, labels: &Tensor, n_classes: i64) -> Result<Self, EvalError> {
        EvalError::check(n_classes >= 1, "n_classes", "at least 1", n_classes)?;
        let bank = name.to_owned();
        check_tensors(name, features, labels)?;
        if let Some((row, label)) = first_label_outside(labels, n_classes) {
            return Err(EvalError::LabelOutOfRange { bank, row, label, n_classes });
        }
        if let Some(row) = first_non_finite_row(features) {
            return Err(EvalError::NonFinite { bank, row });
        }
        let (features, labels) = (features.detach(), labels.to_device(features.device()));
        Ok(Self { name: bank, features, labels, n_classes })
    }

    /// Runs every patch of `batches` through the encoder and averages over the patches of each image, see [`extract_features`]; the
    /// scored output is kept.
    ///
    /// Rows and labels keep the order of the batches, each of which has as many patches an image as the first.
    /// `progress` is told the number of images done after each batch.
    ///
    /// Memory: twice the bank beside that of [`extract_features`]; [`crate::BankFile::build`] holds no bank in memory.
    ///
    /// # Errors
    /// As [`extract_features`] and [`FeatureBank::new`]; [`EvalError::Unlabelled`].
    pub fn build(
        name: &str,
        extractor: &dyn FeatureExtractor,
        batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
        options: &BankOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, EvalError> {
        let mut batches = batches.into_iter().peekable();
        let n = batches.peek().map_or(1, |first| first.as_ref().map_or(1, |batch| batch.patches().shape()[0]));
        let kept = Kept::scored(extractor, &[n as i64]);
        let (mut rows, mut labels) = (Vec::<Tensor>::new(), Vec::new());
        extract_features(extractor, batches, &kept, options, &mut |batch| {
            labels.extend(batch.labels.ok_or_else(|| EvalError::Unlabelled { bank: name.to_owned() })?);
            for means in batch.means.into_iter().flatten() {
                let width = rows.first().unwrap_or(&means).size()[1];
                EvalError::check_sizes(RETURNED, &means.size(), &[means.size()[0], width])?;
                rows.push(means);
            }
            progress(labels.len());
            Ok(())
        })?;
        if rows.is_empty() {
            return Err(EvalError::EmptyBank { bank: name.to_owned() });
        }
        Self::new(name, &Tensor::cat(&rows, 0), &Tensor::from_slice(&labels), options.n_classes)
    }

    /// What messages call the bank.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Features `[images, h]`.
    pub fn features(&self) -> &Tensor {
        &self.features
    }

    /// Labels `[images]`, 64-bit integers, on the device of the features.
    pub fn labels(&self) -> &Tensor {
        &self.labels
    }

    /// Number of classes of the data set.
    pub fn n_classes(&self) -> i64 {
        self.n_classes
    }

    /// Number of images, at least one.
    pub fn n_images(&self) -> i64 {
        self.features.size()[0]
    }

    /// Feature width h.
    pub fn width(&self) -> i64 {
        self.features.size()[1]
    }

    /// What this bank, as a training bank, asks of a test bank.
    pub(crate) fn signature(&self) -> Signature {
        let (kind, device) = (self.features.kind(), self.features.device());
        let (width, n_classes) = (self.width(), self.n_classes);
        let form = format!("{width} features of kind {kind:?} on {device:?} and {n_classes} classes");
        Signature { bank: self.name.clone(), form }
    }
}

/// A training bank's name and form, kept by what was made from it.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    bank: String,
    form: String,
}

impl Signature {
    /// Refuses a test bank that cannot come from the same encoder and data set.
    pub(crate) fn check(&self, test: &FeatureBank) -> Result<(), EvalError> {
        let Signature { bank, form: found } = test.signature();
        if found == self.form {
            return Ok(());
        }
        let (train, expected) = (self.bank.clone(), self.form.clone());
        Err(EvalError::BanksDiffer { train, test: bank, expected, found })
    }
}

fn check_tensors(name: &str, features: &Tensor, labels: &Tensor) -> Result<(), EvalError> {
    let shape = features.size();
    let fault = |what: &str, expected: String, found: String| {
        Err(EvalError::Shape { what: format!("the {what} of the bank `{name}`"), expected, found })
    };
    if shape.len() != 2 {
        return fault("features", "[images, h]".to_owned(), format!("{shape:?}"));
    }
    if shape[0] == 0 {
        return Err(EvalError::EmptyBank { bank: name.to_owned() });
    }
    if shape[1] == 0 || !features.is_floating_point() {
        let found = format!("{:?} of {shape:?}", features.kind());
        return fault("features", "floating-point and at least one wide".to_owned(), found);
    }
    if labels.size() != shape[..1] || labels.kind() != Kind::Int64 {
        let found = format!("{:?} of {:?}", labels.kind(), labels.size());
        return fault("labels", format!("Int64 of {:?}", &shape[..1]), found);
    }
    Ok(())
}

fn first_label_outside(labels: &Tensor, n_classes: i64) -> Option<(i64, i64)> {
    let outside = labels.lt(0).logical_or(&labels.ge(n_classes)).nonzero();
    let row = (outside.size()[0] > 0).then(|| outside.int64_value(&[0, 0]))?;
    Some((row, labels.int64_value(&[row])))
}

pub(crate) fn first_non_finite_row(features: &Tensor) -> Option<i64> {
    let n_rows = features.size()[0];
    let at_once = (NUMBERS_AT_ONCE / features.size()[1].max(1)).max(1);
    (0..n_rows).step_by(at_once as usize).find_map(|start| {
        let rows = features.narrow(0, start, at_once.min(n_rows - start));
        let bad = rows.isfinite().all_dim(1, false).logical_not().nonzero();
        (bad.size()[0] > 0).then(|| start + bad.int64_value(&[0, 0]))
    })
}

#[cfg(test)]
mod tests;
