//! A bank on its way to the disk: rows go to their places batch by batch, and memory holds none of those before.

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::bank::first_non_finite_row;
use super::file::{self, BankSpec};
use super::format::{self, Array, Header, LENGTH_BYTES};
use super::pass::{ImageFeatures, RETURNED};
use super::whole_file::{WholeFile, bytes_of};
use crate::error::EvalError;

/// The arrays in front of the features.
const LABELS: usize = 0;
const IDS: usize = 1;
const FIRST_FEATURES: usize = 2;

/// Writes one bank.
pub(super) struct BankWriter<'a> {
    name: &'a str,
    spec: &'a BankSpec,
    out: WholeFile,
    /// Known once the first features are, which tell their width.
    arrays: Vec<Array>,
    checksums: Vec<crc32fast::Hasher>,
    written: i64,
}

impl<'a> BankWriter<'a> {
    /// A writer into `out`; `name` is what messages call the bank.
    pub(super) fn new(name: &'a str, spec: &'a BankSpec, out: WholeFile) -> Self {
        Self { name, spec, out, arrays: Vec::new(), checksums: Vec::new(), written: 0 }
    }

    /// Appends the rows of a batch.
    pub(super) fn push(&mut self, batch: &ImageFeatures) -> Result<(), EvalError> {
        let labels = batch.labels.as_ref().ok_or_else(|| EvalError::Unlabelled { bank: self.name.to_owned() })?;
        self.check_labels(labels)?;
        let ids = self.ids(&batch.indices)?;
        let means: Vec<&Tensor> = batch.means.iter().flatten().collect();
        self.lay_out(&means)?;
        for (array, mean) in means.iter().enumerate() {
            if let Some(row) = first_non_finite_row(mean) {
                return Err(EvalError::NonFinite { bank: self.name.to_owned(), row: self.written + row });
            }
            self.append(FIRST_FEATURES + array, mean)?;
        }
        self.append(LABELS, &Tensor::from_slice(labels))?;
        self.append(IDS, &Tensor::from_slice(&ids))?;
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
        ids.filter(|_| fits).ok_or_else(|| self.wrong_count(found()))
    }

    fn wrong_count(&self, found: usize) -> EvalError {
        EvalError::Shape {
            what: format!("the images of the bank `{}`", self.name),
            expected: format!("{}", self.spec.ids.len()),
            found: format!("{found}"),
        }
    }

    /// Gives every array its place when the first rows are there, and checks that later rows have the same form.
    fn lay_out(&mut self, means: &[&Tensor]) -> Result<(), EvalError> {
        if !self.arrays.is_empty() {
            for (array, mean) in self.arrays[FIRST_FEATURES..].iter().zip(means) {
                EvalError::check_sizes(RETURNED, &mean.size(), &[mean.size()[0], array.sizes[1]])?;
            }
            return Ok(());
        }
        let (images, kept) = (self.spec.ids.len() as i64, &self.spec.kept);
        let integers = ["labels", "ids"].map(|name| (name.to_owned(), Kind::Int64, vec![images]));
        let names = kept
            .outputs
            .iter()
            .flat_map(|output| kept.counts.iter().map(move |count| file::array_name(output, *count)));
        let features = names.zip(means).map(|(name, mean)| (name, mean.kind(), vec![images, mean.size()[1]]));
        let mut start = 0;
        for (name, kind, sizes) in integers.into_iter().chain(features) {
            let array = Array { name, kind, sizes, start };
            start += array.bytes().unwrap_or(0);
            self.arrays.push(array);
            self.checksums.push(crc32fast::Hasher::new());
        }
        Ok(())
    }

    fn append(&mut self, array: usize, rows: &Tensor) -> Result<(), EvalError> {
        let bytes = bytes_of(rows).map_err(|source| EvalError::Write { path: self.out.path().to_owned(), source })?;
        let row = bytes.len() as u64 / rows.size()[0].max(1) as u64;
        let offset = self.data_start() + self.arrays[array].start + self.written as u64 * row;
        self.checksums[array].update(&bytes);
        self.out.write_at(offset, &bytes)
    }

    /// Where the numbers begin: the header's length does not depend on the figures in it.
    fn data_start(&self) -> u64 {
        LENGTH_BYTES + self.header(&vec![0.0; self.spec.kept.counts.len()]).to_bytes(format::UNFILLED).len() as u64
    }

    fn header(&self, seconds: &[f64]) -> Header {
        let mut metadata: BTreeMap<String, String> = file::metadata(self.spec);
        metadata.insert(file::SECONDS.to_owned(), file::seconds_text(seconds));
        Header { metadata, arrays: self.arrays.clone() }
    }

    /// Completes the file with what the features of each count took.
    pub(super) fn finish(mut self, seconds: &[f64]) -> Result<(), EvalError> {
        if self.written == 0 {
            return Err(EvalError::EmptyBank { bank: self.name.to_owned() });
        }
        if self.written as usize != self.spec.ids.len() {
            return Err(self.wrong_count(self.written as usize));
        }
        let header = self.header(seconds);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header.to_bytes(format::UNFILLED));
        self.checksums.iter().for_each(|part| crc.combine(part));
        let text = header.to_bytes(&format::checksum_text(crc));
        self.out.write_at(0, &(text.len() as u64).to_le_bytes())?;
        self.out.write_at(LENGTH_BYTES, &text)?;
        self.out.finish()
    }
}
