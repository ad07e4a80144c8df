//! A bank on its way to the disk: rows go to their places batch by batch, and memory holds none of those before.

use std::io;
use std::path::Path;

use empssl_data::{DataError, PatchBatch};
use empssl_torch::{SafetensorsError, SafetensorsWriter, TensorSpec};
use tch::{Kind, Tensor};

use super::bank::first_non_finite_row;
use super::extractor::FeatureExtractor;
use super::file::{self, BankFile, BankSpec};
use super::pass::{BankOptions, ImageFeatures, RETURNED, extract_features};
use crate::error::EvalError;

/// The arrays in front of the features.
const LABELS: usize = 0;
const IDS: usize = 1;
const FIRST_FEATURES: usize = 2;

impl BankFile {
    /// Runs the images of `batches` through the encoder ([`extract_features`]), writes the file as it goes, and opens it.
    ///
    /// The file is whole or not there: it is written under another name, synced and renamed, and removed when anything
    /// fails. Memory: as [`extract_features`]; the bank itself goes to the disk. `name` is what messages call the bank, and
    /// `progress` is told the number of images done after each batch.
    ///
    /// # Errors
    /// As [`extract_features`]; [`EvalError::Unlabelled`], [`EvalError::LabelOutOfRange`], [`EvalError::NonFinite`] and
    /// [`EvalError::EmptyBank`] as for a bank in memory; [`EvalError::Shape`] when there are more or fewer images than
    /// ids; [`EvalError::Write`] when the folder or the disk refuses.
    pub fn build(
        path: &Path,
        name: &str,
        spec: &BankSpec,
        extractor: &dyn FeatureExtractor,
        batches: impl IntoIterator<Item = Result<PatchBatch, DataError>>,
        options: &BankOptions,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, EvalError> {
        let mut writer = BankWriter::new(name, spec, path);
        let mut done = 0;
        let seconds = extract_features(extractor, batches, &spec.kept, options, &mut |batch| {
            writer.push(&batch)?;
            done += batch.indices.len();
            progress(done);
            Ok(())
        })?;
        writer.finish(&seconds)?;
        Self::open(path)
    }
}

/// Writes one bank.
struct BankWriter<'a> {
    name: &'a str,
    spec: &'a BankSpec,
    path: &'a Path,
    /// Begun once the first features are there, which tell their widths.
    out: Option<(SafetensorsWriter, Vec<i64>)>,
    written: i64,
}

impl<'a> BankWriter<'a> {
    /// A writer of the file at `path`; `name` is what messages call the bank.
    fn new(name: &'a str, spec: &'a BankSpec, path: &'a Path) -> Self {
        Self { name, spec, path, out: None, written: 0 }
    }

    /// Appends the rows of a batch.
    fn push(&mut self, batch: &ImageFeatures) -> Result<(), EvalError> {
        let labels = batch.labels.as_ref().ok_or_else(|| EvalError::Unlabelled { bank: self.name.to_owned() })?;
        self.check_labels(labels)?;
        let ids = self.ids(&batch.indices)?;
        let means: Vec<&Tensor> = batch.means.iter().flatten().collect();
        if let Some(row) = means.iter().find_map(|mean| first_non_finite_row(mean)) {
            return Err(EvalError::NonFinite { bank: self.name.to_owned(), row: self.written + row });
        }
        let path = self.path;
        let out = self.out(&means)?;
        let integers = [(LABELS, &Tensor::from_slice(labels)), (IDS, &Tensor::from_slice(&ids))];
        let features = means.into_iter().enumerate().map(|(array, mean)| (FIRST_FEATURES + array, mean));
        let mut arrays = integers.into_iter().chain(features);
        arrays.try_for_each(|(array, rows)| out.append(array, rows)).map_err(|error| unwritten(path, error))?;
        self.written += labels.len() as i64;
        Ok(())
    }

    fn check_labels(&self, labels: &[i64]) -> Result<(), EvalError> {
        let (bank, n_classes) = (self.name.to_owned(), self.spec.n_classes);
        match labels.iter().position(|label| !(0..n_classes).contains(label)) {
            None => Ok(()),
            Some(at) => {
                let (row, label) = (self.written + at as i64, labels[at]);
                Err(EvalError::LabelOutOfRange { bank, row, label, n_classes })
            }
        }
    }

    fn ids(&self, indices: &[usize]) -> Result<Vec<i64>, EvalError> {
        let ids: Option<Vec<i64>> = indices.iter().map(|&index| self.spec.ids.get(index).copied()).collect();
        let fits = self.written as usize + indices.len() <= self.spec.ids.len();
        let found = || self.written as usize + indices.len();
        ids.filter(|_| fits).ok_or_else(|| wrong_count(self.name, self.spec, found()))
    }

    /// The file, begun when the first rows are there; later rows must have the same form.
    fn out(&mut self, means: &[&Tensor]) -> Result<&mut SafetensorsWriter, EvalError> {
        if self.out.is_none() {
            let (images, kept) = (self.spec.ids.len() as i64, &self.spec.kept);
            let spec = |name: String, kind, size: Vec<i64>| TensorSpec { name, kind, size };
            let integers = ["labels", "ids"].map(|name| spec(name.to_owned(), Kind::Int64, vec![images]));
            let names = kept
                .outputs
                .iter()
                .flat_map(|output| kept.counts.iter().map(move |count| file::array_name(output, *count)));
            let features = names.zip(means).map(|(name, mean)| spec(name, mean.kind(), vec![images, mean.size()[1]]));
            let mut metadata = file::metadata(self.spec);
            metadata.insert(file::SECONDS.to_owned(), file::seconds_text(&vec![0.0; kept.counts.len()]));
            let tensors = integers.into_iter().chain(features).collect();
            let writer = SafetensorsWriter::create(self.path, tensors, metadata);
            let widths = means.iter().map(|mean| mean.size()[1]).collect();
            self.out = Some((writer.map_err(|error| unwritten(self.path, error))?, widths));
        }
        let Some((writer, widths)) = &mut self.out else { unreachable!("it was begun above") };
        for (mean, width) in means.iter().zip(&*widths) {
            EvalError::check_sizes(RETURNED, &mean.size(), &[mean.size()[0], *width])?;
        }
        Ok(writer)
    }

    /// Completes the file with what the features of each count took.
    fn finish(self, seconds: &[f64]) -> Result<(), EvalError> {
        let Some((mut writer, _)) = self.out else { return Err(EvalError::EmptyBank { bank: self.name.to_owned() }) };
        if self.written as usize != self.spec.ids.len() {
            return Err(wrong_count(self.name, self.spec, self.written as usize));
        }
        writer.set_text(file::SECONDS, file::seconds_text(seconds));
        writer.finish(None).map_err(|error| unwritten(self.path, error))
    }
}

fn unwritten(path: &Path, error: SafetensorsError) -> EvalError {
    let source = match error {
        SafetensorsError::Io(source) => source,
        other => io::Error::other(other.to_string()),
    };
    EvalError::Write { path: path.to_owned(), source }
}

fn wrong_count(name: &str, spec: &BankSpec, found: usize) -> EvalError {
    EvalError::Shape {
        what: format!("the images of the bank `{name}`"),
        expected: format!("{}", spec.ids.len()),
        found: format!("{found}"),
    }
}
