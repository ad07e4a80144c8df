//! CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from the official records, the pickles for Python, or either's archive.
//!
//! Where several forms lie in one place, what is unpacked comes before archives, and records before pickles; a tree of
//! image files, which may have been compressed with loss, comes last.

mod pickled;
mod records;

use std::path::Path;

use super::files::{Files, Official, Place};
use super::image_folder::Tree;
use super::store::Store;
use super::{About, Dataset, OpenOptions, Split, check_count};
use crate::error::DataError;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// What tells one of the two sets from the other.
struct Format {
    title: &'static str,
    url: &'static str,
    /// The forms, the preferred one first.
    forms: [Form; 2],
    /// The labels of an image; the last is the class.
    labels: &'static [Label],
}

/// A label of every image.
struct Label {
    kind: &'static str,
    n_classes: usize,
    /// What the pickles call the list of them.
    key: &'static str,
}

/// Appends the images of a file's bytes; the path is for messages.
type ReadFile = fn(&[u8], &Path, &[Label], &mut Records) -> Result<(), DataError>;

/// The files of a set in one form, and how they are read.
struct Form {
    official: Official,
    title: &'static str,
    train_files: &'static [&'static str],
    test_files: &'static [&'static str],
    names_file: &'static str,
    /// Reads the images and labels of one file.
    read: ReadFile,
    /// Reads the names of the classes.
    names: fn(&[u8], &Path) -> Result<Vec<String>, DataError>,
}

const CIFAR10: Format = Format {
    title: "CIFAR-10",
    url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    forms: [
        Form {
            official: Official { folder: "cifar-10-batches-bin", archive: "cifar-10-binary.tar.gz" },
            title: "binary records",
            train_files: &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            test_files: &["test_batch.bin"],
            names_file: "batches.meta.txt",
            read: records::read,
            names: records::names,
        },
        Form {
            official: Official { folder: "cifar-10-batches-py", archive: "cifar-10-python.tar.gz" },
            title: "Python pickles",
            train_files: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
            test_files: &["test_batch"],
            names_file: "batches.meta",
            read: pickled::read,
            names: |bytes, path| pickled::names(bytes, path, "label_names"),
        },
    ],
    labels: &[Label { kind: "class", n_classes: 10, key: "labels" }],
};

const CIFAR100: Format = Format {
    title: "CIFAR-100",
    url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    forms: [
        Form {
            official: Official { folder: "cifar-100-binary", archive: "cifar-100-binary.tar.gz" },
            title: "binary records",
            train_files: &["train.bin"],
            test_files: &["test.bin"],
            names_file: "fine_label_names.txt",
            read: records::read,
            names: records::names,
        },
        Form {
            official: Official { folder: "cifar-100-python", archive: "cifar-100-python.tar.gz" },
            title: "Python pickles",
            train_files: &["train"],
            test_files: &["test"],
            names_file: "meta",
            read: pickled::read,
            names: |bytes, path| pickled::names(bytes, path, "fine_label_names"),
        },
    ],
    labels: &[
        Label { kind: "coarse", n_classes: 20, key: "coarse_labels" },
        Label { kind: "fine", n_classes: 100, key: "fine_labels" },
    ],
};

/// The classes of CIFAR-10, by which a tree of image files is recognised.
const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

fn official_count(split: Split) -> usize {
    match split {
        Split::Train => 50_000,
        Split::Test => 10_000,
    }
}

/// Whether CIFAR-10 lies at `root`.
pub(crate) fn recognises_cifar10(root: &Path) -> bool {
    CIFAR10.find(root).is_some() || holds_classes(root)
}

/// Whether a split at `root` has a folder for each class of CIFAR-10.
fn holds_classes(root: &Path) -> bool {
    ["train", "test", "val"].iter().any(|split| CLASSES.iter().all(|class| root.join(split).join(class).is_dir()))
}

/// Whether CIFAR-100 lies at `root`.
pub(crate) fn recognises_cifar100(root: &Path) -> bool {
    CIFAR100.find(root).is_some()
}

/// Opens CIFAR-10 in any of its forms or, where the folder holds `train` and `test` with the ten class folders, that
/// tree of image files.
pub(crate) fn open_cifar10(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    match CIFAR10.find(options.root()) {
        Some((form, place)) => CIFAR10.open(form, &place, options, split),
        None if holds_classes(options.root()) => open_tree(options, split),
        None => Err(CIFAR10.missing(options.root())),
    }
}

/// Opens CIFAR-100 in any of its forms, with the fine labels.
pub(crate) fn open_cifar100(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    match CIFAR100.find(options.root()) {
        Some((form, place)) => CIFAR100.open(form, &place, options, split),
        None => Err(CIFAR100.missing(options.root())),
    }
}

fn open_tree(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    let tree = Tree::list(options.root(), split)?;
    if tree.class_names() != CLASSES {
        return Err(DataError::MissingFolder {
            what: "the classes of CIFAR-10".into(),
            path: tree.dir().to_owned(),
            hint: format!("expected the folders {} and no others", CLASSES.join(", ")),
        });
    }
    check_count(options, split, tree.dir(), tree.len(), official_count(split))?;
    tree.open(options, split, Some(official_count(split)))
}

impl Format {
    /// The form that lies at `root`, and where.
    fn find(&self, root: &Path) -> Option<(&Form, Place)> {
        let folder = |form: &'_ Form| form.official.folder_at(root, &form.data_files());
        let unpacked = self.forms.iter().find_map(|form| Some((form, folder(form)?)));
        unpacked.or_else(|| self.forms.iter().find_map(|form| Some((form, form.official.archive_at(root)?))))
    }

    fn missing(&self, root: &Path) -> DataError {
        let [binary, python] = &self.forms;
        let folders = format!("`{}` or `{}`", binary.official.folder, python.official.folder);
        DataError::MissingFolder {
            what: format!("{} records", self.title),
            path: root.to_owned(),
            hint: format!("put {} there, packed or unpacked, or give the folder that holds {folders}", self.url),
        }
    }

    fn open(&self, form: &Form, place: &Place, options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
        let wanted = form.files(split);
        let hint = format!("get {} and unpack it completely, or give it as it is", form.official.archive);
        let mut files = form.official.files(place, &hint, &[wanted, &[form.names_file]].concat())?;
        let class_names = self.names(form, &mut files)?;
        let mut records = Records::default();
        for file in wanted {
            (form.read)(&files.take(file)?, &files.path(file), self.labels, &mut records)?;
        }
        let expected = official_count(split);
        check_count(options, split, files.place(), records.labels.len(), expected)?;
        let about = About {
            name: options.name.clone(),
            split: split.to_string(),
            form: format!("{} {} from {}", self.title, form.title, files.place().display()),
            expected: Some(expected),
            class_names,
            ..About::default()
        };
        Ok(Dataset::new(about, Store::Records { pixels: records.pixels, side: SIDE }, Some(records.labels)))
    }

    fn names(&self, form: &Form, files: &mut Files) -> Result<Vec<String>, DataError> {
        let path = files.path(form.names_file);
        let names = (form.names)(&files.take(form.names_file)?, &path)?;
        let (found, expected) = (names.len(), self.n_classes());
        if found == expected { Ok(names) } else { Err(DataError::ClassCount { path, found, expected }) }
    }

    fn n_classes(&self) -> usize {
        self.labels[self.labels.len() - 1].n_classes
    }
}

impl Form {
    fn files(&self, split: Split) -> &'static [&'static str] {
        match split {
            Split::Train => self.train_files,
            Split::Test => self.test_files,
        }
    }

    fn data_files(&self) -> Vec<&'static str> {
        [self.train_files, self.test_files].concat()
    }
}

/// The images read so far.
#[derive(Default)]
pub(crate) struct Records {
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Records {
    /// Appends an image, its three planes interleaved.
    fn push(&mut self, planes: &[u8], label: u32) {
        let (red, rest) = planes.split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        let pixels = red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]);
        self.pixels.extend(pixels);
        self.labels.push(label);
    }
}

/// Checks the label that image `record` of a file has.
fn checked_label(label: &Label, found: i64, record: usize, path: &Path) -> Result<u32, DataError> {
    match u32::try_from(found) {
        Ok(class) if (class as usize) < label.n_classes => Ok(class),
        _ => {
            let (kind, expected) = (label.kind, label.n_classes);
            Err(DataError::LabelOutOfRange { path: path.to_owned(), record, kind, found, expected })
        }
    }
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
