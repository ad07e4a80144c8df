//! MNIST (LeCun, Cortes, Burges) and Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017) in the IDX format.
//!
//! An IDX file is two zero bytes, the type of its elements (8: unsigned bytes), the number of axes, the size of each axis
//! as four bytes with the highest first, and the elements. Both sets have the same files, 28x28 grey images; their first
//! labels tell one from the other. Grey is repeated over the three channels.

use std::path::{Path, PathBuf};

use super::bytes::{Cursor, Fault, InFile};
use super::store::Store;
use super::{About, Dataset, OpenOptions, Split, check_count};
use crate::error::DataError;

const SIDE: usize = 28;
const N_CLASSES: usize = 10;
/// The most axes of an IDX file of interest.
const MAX_AXES: usize = 3;

/// What tells one of the two sets from the other.
struct Format {
    title: &'static str,
    name: &'static str,
    /// The folder in which torchvision keeps the set.
    folder: &'static str,
    source: &'static str,
    class_names: [&'static str; N_CLASSES],
    /// The first labels of the train and test splits.
    first_labels: [[u8; 10]; 2],
}

const MNIST: Format = Format {
    title: "MNIST",
    name: "mnist",
    folder: "MNIST/raw",
    source: "http://yann.lecun.com/exdb/mnist",
    class_names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    first_labels: [[5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]],
};

const FASHION_MNIST: Format = Format {
    title: "Fashion-MNIST",
    name: "fashion-mnist",
    folder: "FashionMNIST/raw",
    source: "https://github.com/zalandoresearch/fashion-mnist",
    class_names: [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    first_labels: [[9, 0, 0, 3, 0, 2, 7, 2, 5, 5], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]],
};

/// Whether MNIST lies at `root`, or files that could be of either set.
pub(crate) fn recognises_mnist(root: &Path) -> bool {
    MNIST.recognises(root, &FASHION_MNIST)
}

/// Whether Fashion-MNIST lies at `root`, or files that could be of either set.
pub(crate) fn recognises_fashion_mnist(root: &Path) -> bool {
    FASHION_MNIST.recognises(root, &MNIST)
}

/// Opens MNIST.
pub(crate) fn open_mnist(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    MNIST.open(&FASHION_MNIST, options, split)
}

/// Opens Fashion-MNIST.
pub(crate) fn open_fashion_mnist(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    FASHION_MNIST.open(&MNIST, options, split)
}

/// The names of the official files of a split, without `.gz`: images and labels.
fn official_files(split: Split) -> [&'static str; 2] {
    match split {
        Split::Train => ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        Split::Test => ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
    }
}

fn official_count(split: Split) -> usize {
    match split {
        Split::Train => 60_000,
        Split::Test => 10_000,
    }
}

/// The file called `name` in `dir`: plain, with the dot that some tools put in its name, or compressed.
fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    let dotted = name.replacen("-idx", ".idx", 1);
    let names = [name.to_owned(), dotted.clone(), format!("{name}.gz"), format!("{dotted}.gz")];
    names.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

impl Format {
    /// The folder with the files: torchvision's below `root`, or `root` itself.
    fn find(&self, root: &Path) -> Option<PathBuf> {
        let has_files = |dir: &PathBuf| {
            let splits = [Split::Train, Split::Test].into_iter();
            splits.flat_map(official_files).any(|file| find_file(dir, file).is_some())
        };
        let below = [self.folder, self.folder.trim_end_matches("/raw"), "raw"].map(|folder| root.join(folder));
        below.into_iter().chain([root.to_owned()]).find(has_files)
    }

    fn recognises(&self, root: &Path, other: &Self) -> bool {
        self.find(root).is_some_and(|dir| !other.owns(&dir))
    }

    /// Whether the files in `dir` are known to be of this set: its first labels are, or the folder is torchvision's.
    fn owns(&self, dir: &Path) -> bool {
        let has_first_labels = |split: Split| {
            let labels = find_file(dir, official_files(split)[1]).and_then(|path| read_file(&path, split).ok());
            labels.and_then(|bytes| Some(self.begins(split, parse(&bytes).ok()?.elements))).unwrap_or(false)
        };
        dir.ends_with(self.folder) || has_first_labels(Split::Train) || has_first_labels(Split::Test)
    }

    fn begins(&self, split: Split, labels: &[u8]) -> bool {
        let [train, test] = &self.first_labels;
        labels.starts_with(if split == Split::Train { train } else { test })
    }

    fn open(&self, other: &Self, options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
        let Some(dir) = self.find(options.root()) else { return Err(self.missing(options.root())) };
        let [images_path, labels_path] = official_files(split).map(|file| self.file(&dir, file));
        let (images_path, labels_path) = (images_path?, labels_path?);
        let labels = labels(&read_file(&labels_path, split)?, &labels_path)?;
        if other.begins(split, &labels) {
            let reason = format!("its labels begin as those of {}: open it as `{}`", other.title, other.name);
            return Err(Fault::new(reason).of("IDX file", &labels_path));
        }
        let pixels = images(&read_file(&images_path, split)?, labels.len())
            .map_err(|fault| fault.of("IDX file", &images_path))?;
        check_count(options, split, &dir, labels.len(), official_count(split))?;
        let about = About {
            name: options.name.clone(),
            split: split.to_string(),
            form: format!("{} IDX files from {}", self.title, dir.display()),
            expected: Some(official_count(split)),
            class_names: self.class_names.map(String::from).to_vec(),
            ..About::default()
        };
        let labels = labels.into_iter().map(u32::from).collect();
        Ok(Dataset::new(about, Store::Records { pixels, side: SIDE }, Some(labels)))
    }

    fn file(&self, dir: &Path, name: &str) -> Result<PathBuf, DataError> {
        let hint = format!("get it, plain or as .gz, from {}", self.source);
        find_file(dir, name).ok_or_else(|| DataError::MissingFile { path: dir.join(name), hint })
    }

    fn missing(&self, root: &Path) -> DataError {
        DataError::MissingFolder {
            what: format!("{} files", self.title),
            path: root.to_owned(),
            hint: format!("put train-images-idx3-ubyte.gz and the other three files of {} there", self.source),
        }
    }
}

/// The content of a file, unzipped where its name ends in `.gz`.
fn read_file(path: &Path, split: Split) -> Result<Vec<u8>, DataError> {
    let file = std::fs::File::open(path).map_err(|error| DataError::io(path, error))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        return unzipped(file, path, (4 + 4 * MAX_AXES + official_count(split) * SIDE * SIDE) as u64);
    }
    std::fs::read(path).map_err(|error| DataError::io(path, error))
}

#[cfg(feature = "archives")]
fn unzipped(file: std::fs::File, path: &Path, limit: u64) -> Result<Vec<u8>, DataError> {
    super::archive::gunzip(std::io::BufReader::new(file), limit).map_err(|fault| fault.of("compressed file", path))
}

#[cfg(not(feature = "archives"))]
fn unzipped(_file: std::fs::File, path: &Path, _limit: u64) -> Result<Vec<u8>, DataError> {
    Err(DataError::MissingFeature { path: path.to_owned(), feature: "archives" })
}

/// An array of bytes.
pub(crate) struct Idx<'a> {
    sizes: Vec<usize>,
    elements: &'a [u8],
}

/// Reads an IDX file of unsigned bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Idx<'_>, Fault> {
    let mut cursor = Cursor::new(bytes);
    let [zero, nought, kind, axes] = cursor.array()?;
    if [zero, nought, kind] != [0, 0, 8] || usize::from(axes) > MAX_AXES {
        return Err(Fault::new("it does not begin as an IDX file of unsigned bytes"));
    }
    let mut sizes = Vec::with_capacity(MAX_AXES);
    for _ in 0..axes {
        sizes.push(u32::from_be_bytes(cursor.array()?) as usize);
    }
    let expected = sizes.iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
    let elements = cursor.rest();
    if expected != Some(elements.len()) {
        let shape = sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        return Err(Fault::new(format!("its header announces {shape} bytes, {} follow", elements.len())));
    }
    Ok(Idx { sizes, elements })
}

/// The labels in an IDX file.
pub(crate) fn labels(bytes: &[u8], path: &Path) -> Result<Vec<u8>, DataError> {
    let idx = parse(bytes).map_err(|fault| fault.of("IDX file", path))?;
    if idx.sizes.len() != 1 {
        let reason = format!("it has {} axes, labels have one", idx.sizes.len());
        return Err(Fault::new(reason).of("IDX file", path));
    }
    match idx.elements.iter().position(|&label| usize::from(label) >= N_CLASSES) {
        None => Ok(idx.elements.to_vec()),
        Some(record) => Err(DataError::LabelOutOfRange {
            path: path.to_owned(),
            record,
            kind: "class",
            found: idx.elements[record].into(),
            expected: N_CLASSES,
        }),
    }
}

/// The pixels of the `count` images in an IDX file, each value repeated over the channels.
pub(crate) fn images(bytes: &[u8], count: usize) -> Result<Vec<u8>, Fault> {
    let idx = parse(bytes)?;
    match idx.sizes[..] {
        [images, SIDE, SIDE] if images == count => Ok(idx.elements.iter().flat_map(|&level| [level; 3]).collect()),
        [images, SIDE, SIDE] => Err(Fault::new(format!("it has {images} images, there are {count} labels"))),
        _ => Err(Fault::new(format!("its axes are {:?}, expected [{count}, {SIDE}, {SIDE}]", idx.sizes))),
    }
}

#[cfg(test)]
mod tests;
