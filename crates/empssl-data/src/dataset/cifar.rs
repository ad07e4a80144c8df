//! CIFAR-10 and CIFAR-100 in the official binary format (Krizhevsky, 2009).
//!
//! A record is one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then the red, green and blue planes of
//! a 32x32 image, row after row.

use std::path::{Path, PathBuf};

use super::image_folder::{self, Tree};
use super::store::Store;
use super::{About, Dataset, OpenOptions, Split, check_count};
use crate::error::DataError;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// What tells one of the two sets from the other.
struct Format {
    title: &'static str,
    /// The folder that the official archive unpacks to.
    folder: &'static str,
    archive: &'static str,
    train_files: &'static [&'static str],
    test_files: &'static [&'static str],
    names_file: &'static str,
    /// The label bytes of a record: which label, and how many classes it distinguishes. The last is the class.
    labels: &'static [(&'static str, usize)],
}

const CIFAR10: Format = Format {
    title: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    archive: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    train_files: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test_files: &["test_batch.bin"],
    names_file: "batches.meta.txt",
    labels: &[("class", 10)],
};

const CIFAR100: Format = Format {
    title: "CIFAR-100",
    folder: "cifar-100-binary",
    archive: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    train_files: &["train.bin"],
    test_files: &["test.bin"],
    names_file: "fine_label_names.txt",
    labels: &[("coarse", 20), ("fine", 100)],
};

fn official_count(split: Split) -> usize {
    match split {
        Split::Train => 50_000,
        Split::Test => 10_000,
    }
}

/// Opens CIFAR-10: the official records or, where the folder holds `train` and `test` with ten class folders each, that
/// tree of image files.
pub(crate) fn open_cifar10(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    match CIFAR10.find(options.root()) {
        Some(dir) => CIFAR10.open(&dir, options, split),
        None if image_folder::has_splits(options.root()) => open_tree(options, split),
        None => Err(CIFAR10.missing(options.root())),
    }
}

/// Opens CIFAR-100 from the official records, with the fine labels.
pub(crate) fn open_cifar100(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    match CIFAR100.find(options.root()) {
        Some(dir) => CIFAR100.open(&dir, options, split),
        None => Err(CIFAR100.missing(options.root())),
    }
}

fn open_tree(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    let tree = Tree::list(options.root(), split)?;
    let (path, found, expected) = (tree.dir().to_owned(), tree.class_names().len(), 10);
    if found != expected {
        return Err(DataError::ClassCount { path, found, expected });
    }
    check_count(options, split, &path, tree.len(), official_count(split))?;
    tree.open(options, split, Some(official_count(split)))
}

impl Format {
    /// The folder with the records: `root` itself or the official folder within it.
    fn find(&self, root: &Path) -> Option<PathBuf> {
        let holds_records = |dir: &PathBuf| self.train_files.iter().chain(self.test_files).any(|f| dir.join(f).exists());
        [root.join(self.folder), root.to_owned()].into_iter().find(|dir| holds_records(dir) || dir.ends_with(self.folder) && dir.is_dir())
    }

    fn missing(&self, root: &Path) -> DataError {
        DataError::MissingFolder {
            what: format!("{} records", self.title),
            path: root.to_owned(),
            hint: format!("unpack {} there, or give the folder that holds `{}`", self.archive, self.folder),
        }
    }

    fn open(&self, dir: &Path, options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
        let files = match split {
            Split::Train => self.train_files,
            Split::Test => self.test_files,
        };
        let class_names = self.read_names(&dir.join(self.names_file))?;
        let mut records = Records::default();
        for file in files {
            self.read_records(&dir.join(file), &mut records)?;
        }
        let expected = official_count(split);
        check_count(options, split, dir, records.labels.len(), expected)?;
        let about = About {
            name: options.name.clone(),
            split: split.to_string(),
            form: format!("{} binary records from {}", self.title, dir.display()),
            expected: Some(expected),
            class_names,
            ..About::default()
        };
        Ok(Dataset::new(about, Store::Records { pixels: records.pixels, side: SIDE }, Some(records.labels)))
    }

    fn read_names(&self, path: &Path) -> Result<Vec<String>, DataError> {
        let bytes = self.read(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
        let (found, expected) = (names.len(), self.n_classes());
        if found != expected {
            return Err(DataError::ClassCount { path: path.to_owned(), found, expected });
        }
        Ok(names)
    }

    fn read_records(&self, path: &Path, records: &mut Records) -> Result<(), DataError> {
        let bytes = self.read(path)?;
        let record_bytes = self.labels.len() + 3 * PLANE;
        if !bytes.len().is_multiple_of(record_bytes) {
            return Err(DataError::TruncatedRecords { path: path.to_owned(), bytes: bytes.len(), record_bytes });
        }
        for (record, bytes) in bytes.chunks_exact(record_bytes).enumerate() {
            let (labels, planes) = bytes.split_at(self.labels.len());
            for (&found, &(kind, expected)) in labels.iter().zip(self.labels) {
                if usize::from(found) >= expected {
                    return Err(DataError::LabelOutOfRange { path: path.to_owned(), record, kind, found, expected });
                }
            }
            records.push(planes, labels[labels.len() - 1]);
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, DataError> {
        std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let hint = format!("unpack {} completely", self.archive);
                DataError::MissingFile { path: path.to_owned(), hint }
            }
            _ => DataError::io(path, error),
        })
    }

    fn n_classes(&self) -> usize {
        self.labels[self.labels.len() - 1].1
    }
}

#[derive(Default)]
struct Records {
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Records {
    /// Appends a record, its three planes interleaved.
    fn push(&mut self, planes: &[u8], label: u8) {
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let pixels = red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]);
        self.pixels.extend(pixels);
        self.labels.push(u32::from(label));
    }
}
