//! What CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) share: the official records, the pickles for Python, and the archives
//! of either.
//!
//! Where several forms lie in one place, what is unpacked comes before archives, and records before pickles.

use std::path::{Path, PathBuf};

use super::pickle::Pickle;
use super::{PublishedFile, Records, Request, check_n_classes, label_out_of_range};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::options::Split;

pub(crate) const SITE: &str = "https://www.cs.toronto.edu/~kriz/";
pub(crate) const COUNTS: [usize; 2] = [50_000, 10_000];
const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// In what the two sets differ.
pub(crate) struct Format {
    /// The forms, the preferred one first.
    pub(crate) forms: [Form; 2],
    /// The labels of an image; the last is the class.
    pub(crate) labels: &'static [Label],
}

/// A label of every image.
pub(crate) struct Label {
    pub(crate) kind: &'static str,
    pub(crate) n_classes: usize,
    /// What the pickles call the list of them.
    pub(crate) key: &'static str,
}

/// A set in one form.
pub(crate) struct Form {
    pub(crate) title: &'static str,
    /// The archive. Its members are the train files, the test file and the file with the names of the classes.
    pub(crate) archive: PublishedFile,
    /// What its files are.
    pub(crate) kind: Kind,
}

/// The kinds of files.
pub(crate) enum Kind {
    /// Records of bytes: every label, then the red, green and blue planes, row after row. Names of classes are lines.
    Binary,
    /// Pickled dicts with an array of all images, a row each, and lists of labels; the names are under this key.
    Pickle(&'static str),
}

impl Format {
    /// The form that lies at `root`, and where.
    pub(crate) fn find(&self, root: &Path) -> Option<(&Form, PathBuf)> {
        let unpacked =
            self.forms.iter().find_map(|form| Some((form, form.archive.folder_at(root, form.n_data_files())?)));
        unpacked.or_else(|| self.forms.iter().find_map(|form| Some((form, form.archive.archive_at(root)?))))
    }

    /// Opens the form that lies at the root; `None` where there is none.
    pub(crate) fn open(&self, request: &Request<'_>) -> Option<Result<Dataset, DataError>> {
        let (form, place) = self.find(request.options.root())?;
        Some(self.open_form(form, place, request))
    }

    fn open_form(&self, form: &Form, place: PathBuf, request: &Request<'_>) -> Result<Dataset, DataError> {
        let hint = format!("get {} and unpack it completely, or give it as it is", form.archive.name());
        let (data_files, names_file) = form.files(request.split);
        let mut files = form.archive.read(place, hint, &[&data_files[..], &[names_file]].concat())?;
        let names_path = files.path(names_file);
        let names = form.names(&files.take(names_file)?, &names_path)?;
        let names = check_n_classes(names, &names_path, self.labels[self.labels.len() - 1].n_classes)?;
        let mut records = Records { side: SIDE, ..Records::default() };
        for file in data_files {
            form.read(&files.take(file)?, &files.path(file), self.labels, &mut records)?;
        }
        request.of_records(files.place(), &format!("{} {}", request.set.title, form.title), names, records)
    }

    /// The refusal where no form is found.
    pub(crate) fn missing(&self, request: &Request<'_>) -> DataError {
        let [binary, python] = &self.forms;
        let folders = format!("`{}` or `{}`", binary.archive.folder, python.archive.folder);
        let url = binary.archive.url();
        let hint = format!("put {url} there, packed or unpacked, or give the folder that holds {folders}");
        request.missing(format!("{} records", request.set.title), hint)
    }
}

impl Form {
    fn n_data_files(&self) -> usize {
        self.archive.members.len() - 1
    }

    /// The files of a split, and the file with the names.
    fn files(&self, split: Split) -> (Vec<&'static str>, &'static str) {
        let members = self.archive.members;
        let (data, names) = members.split_at(self.n_data_files());
        let (train, test) = data.split_at(data.len() - 1);
        let of_split = if split == Split::Train { train } else { test };
        (of_split.iter().map(|member| member.path).collect(), names[0].path)
    }

    /// Appends the images of a file's bytes; the path is for messages.
    fn read(&self, bytes: &[u8], path: &Path, labels: &[Label], records: &mut Records) -> Result<(), DataError> {
        match self.kind {
            Kind::Binary => read_binary(bytes, path, labels, records),
            Kind::Pickle(_) => read_pickle(bytes, path, labels, records),
        }
    }

    /// The names of the classes.
    fn names(&self, bytes: &[u8], path: &Path) -> Result<Vec<String>, DataError> {
        match self.kind {
            Kind::Binary => Ok(lines(bytes)),
            Kind::Pickle(key) => {
                let names = Pickle::load(bytes).and_then(|pickle| pickle.names(key));
                names.map_err(|fault| DataError::malformed("pickle", path, fault.0))
            }
        }
    }
}

fn read_binary(bytes: &[u8], path: &Path, labels: &[Label], records: &mut Records) -> Result<(), DataError> {
    let record_bytes = labels.len() + 3 * PLANE;
    if !bytes.len().is_multiple_of(record_bytes) {
        return Err(DataError::Inconsistent(format!(
            "truncated record file {}: found {} bytes, expected a multiple of {record_bytes}; unpack it again",
            path.display(),
            bytes.len()
        )));
    }
    for (record, bytes) in bytes.chunks_exact(record_bytes).enumerate() {
        let (label_bytes, planes) = bytes.split_at(labels.len());
        let mut class = 0;
        for (label, &found) in labels.iter().zip(label_bytes) {
            class = checked_label(label, found.into(), record, path)?;
        }
        push(records, planes, class);
    }
    Ok(())
}

fn lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect()
}

fn read_pickle(bytes: &[u8], path: &Path, labels: &[Label], records: &mut Records) -> Result<(), DataError> {
    let malformed = |reason: String| DataError::malformed("pickle", path, reason);
    let pickle = Pickle::load(bytes).map_err(|fault| malformed(fault.0))?;
    let data = pickle.matrix("data").map_err(|fault| malformed(fault.0))?;
    if data.columns != 3 * PLANE {
        return Err(malformed(format!("its images have {} values, expected {}", data.columns, 3 * PLANE)));
    }
    let mut classes = vec![0; data.rows];
    for label in labels {
        let found = pickle.integers(label.key).map_err(|fault| malformed(fault.0))?;
        if found.len() != data.rows {
            let reason = format!("it has {} images and {} {} labels", data.rows, found.len(), label.kind);
            return Err(malformed(reason));
        }
        for (record, (class, found)) in classes.iter_mut().zip(found).enumerate() {
            *class = checked_label(label, found, record, path)?;
        }
    }
    data.bytes.chunks_exact(3 * PLANE).zip(classes).for_each(|(planes, class)| push(records, planes, class));
    Ok(())
}

/// Appends an image, its three planes interleaved.
fn push(records: &mut Records, planes: &[u8], label: u32) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    records.pixels.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
    records.labels.push(label);
}

/// Checks the label that image `record` of a file has.
fn checked_label(label: &Label, found: i64, record: usize, path: &Path) -> Result<u32, DataError> {
    match u32::try_from(found) {
        Ok(class) if (class as usize) < label.n_classes => Ok(class),
        _ => Err(label_out_of_range(path, record, label.kind, found, label.n_classes)),
    }
}

#[cfg(test)]
mod tests;
