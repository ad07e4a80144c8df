//! MNIST (LeCun, Cortes, Burges) and Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017), from their IDX files.
//!
//! An IDX file is two zero bytes, the type of its elements (8: unsigned bytes), the number of axes, the size of each axis
//! as four bytes with the highest first, and the elements. Both sets have the same files, 28x28 grey images; their first
//! labels tell one from the other. Grey is repeated over the three channels.

use std::path::{Path, PathBuf};

use empssl_pickle::bytes::{Cursor, Fault};

use super::{ImageSet, PublishedFile, Records, Request, label_out_of_range};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::options::Split;

const COUNTS: [usize; 2] = [60_000, 10_000];
const SIDE: usize = 28;
const N_CLASSES: usize = 10;
/// The most axes of an IDX file of interest.
const MAX_AXES: usize = 3;
/// The most bytes of a file that is unzipped.
#[cfg(feature = "archives")]
const MAX_BYTES: u64 = (4 + 4 * MAX_AXES + COUNTS[0] * SIDE * SIDE) as u64;

/// In what the two sets differ.
struct Format {
    title: &'static str,
    name: &'static str,
    /// The folder in which torchvision keeps the set, and where `fetch` puts it.
    folder: &'static str,
    /// The publisher's page.
    page: &'static str,
    /// The first labels of the train and test splits.
    first_labels: [[u8; 10]; 2],
}

const MNIST: Format = Format {
    title: "MNIST",
    name: "mnist",
    folder: "MNIST/raw",
    page: "http://yann.lecun.com/exdb/mnist",
    first_labels: [[5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]],
};

const FASHION_MNIST: Format = Format {
    title: "Fashion-MNIST",
    name: "fashion-mnist",
    folder: "FashionMNIST/raw",
    page: "https://github.com/zalandoresearch/fashion-mnist",
    first_labels: [[9, 0, 0, 3, 0, 2, 7, 2, 5, 5], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]],
};

/// The names of the official files of a split, without `.gz`: images and labels.
fn official_files(split: Split) -> [&'static str; 2] {
    match split {
        Split::Train => ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
        Split::Test => ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
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

    /// Whether the set lies at `root`, or files that could be of either set.
    fn recognises(&self, root: &Path, other: &Self) -> bool {
        self.find(root).is_some_and(|dir| !other.owns(&dir))
    }

    /// Whether the files in `dir` are known to be of this set: its first labels are, or the folder is torchvision's.
    fn owns(&self, dir: &Path) -> bool {
        let has_first_labels = |split: Split| {
            let labels = find_file(dir, official_files(split)[1]).and_then(|path| read_file(&path).ok());
            labels.and_then(|bytes| Some(self.begins(split, parse(&bytes).ok()?.elements))).unwrap_or(false)
        };
        dir.ends_with(self.folder) || has_first_labels(Split::Train) || has_first_labels(Split::Test)
    }

    fn begins(&self, split: Split, labels: &[u8]) -> bool {
        let [train, test] = &self.first_labels;
        labels.starts_with(if split == Split::Train { train } else { test })
    }

    /// Opens the set; files that are known to be of the other one are refused.
    fn open(&self, other: &Self, request: &Request<'_>) -> Result<Dataset, DataError> {
        let title = self.title;
        let Some(dir) = self.find(request.options.root()) else {
            let hint = format!("put train-images-idx3-ubyte.gz and the other three files of {} there", self.page);
            return Err(request.missing(format!("{title} files"), hint));
        };
        let [images_path, labels_path] = official_files(request.split).map(|file| self.file(&dir, file));
        let (images_path, labels_path) = (images_path?, labels_path?);
        let labels = labels(&read_file(&labels_path)?, &labels_path)?;
        if other.begins(request.split, &labels) {
            let reason = format!("its labels begin as those of {}: open it as `{}`", other.title, other.name);
            return Err(malformed(&labels_path, reason));
        }
        let pixels =
            images(&read_file(&images_path)?, labels.len()).map_err(|fault| malformed(&images_path, fault.0))?;
        let classes = (request.set.class_names)().into_iter().map(String::from).collect();
        let records = Records { pixels, side: SIDE, labels: labels.into_iter().map(u32::from).collect() };
        request.of_records(&dir, &format!("{title} IDX files"), classes, records)
    }

    fn file(&self, dir: &Path, name: &str) -> Result<PathBuf, DataError> {
        let hint = format!("get it, plain or as .gz, from {}", self.page);
        find_file(dir, name).ok_or_else(|| DataError::MissingFile { path: dir.join(name), hint })
    }
}

fn malformed(path: &Path, reason: String) -> DataError {
    DataError::malformed("IDX file", path, reason)
}

/// The content of a file, unzipped where its name ends in `.gz`.
fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = std::fs::File::open(path).map_err(|error| DataError::io(path, error))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        return unzipped(file, path);
    }
    std::fs::read(path).map_err(|error| DataError::io(path, error))
}

#[cfg(feature = "archives")]
fn unzipped(file: std::fs::File, path: &Path) -> Result<Vec<u8>, DataError> {
    let unzipped = crate::dataset::archive::gunzip(std::io::BufReader::new(file), MAX_BYTES);
    unzipped.map_err(|fault| DataError::malformed("compressed file", path, fault.0))
}

#[cfg(not(feature = "archives"))]
fn unzipped(_file: std::fs::File, path: &Path) -> Result<Vec<u8>, DataError> {
    Err(DataError::without_archives(path))
}

/// An array of bytes.
struct Idx<'a> {
    sizes: Vec<usize>,
    elements: &'a [u8],
}

/// Reads an IDX file of unsigned bytes.
fn parse(bytes: &[u8]) -> Result<Idx<'_>, Fault> {
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
fn labels(bytes: &[u8], path: &Path) -> Result<Vec<u8>, DataError> {
    let idx = parse(bytes).map_err(|fault| malformed(path, fault.0))?;
    if idx.sizes.len() != 1 {
        let reason = format!("it has {} axes, labels have one", idx.sizes.len());
        return Err(malformed(path, reason));
    }
    match idx.elements.iter().position(|&label| usize::from(label) >= N_CLASSES) {
        None => Ok(idx.elements.to_vec()),
        Some(record) => Err(label_out_of_range(path, record, "class", idx.elements[record].into(), N_CLASSES)),
    }
}

/// The pixels of the `count` images in an IDX file, each value repeated over the channels.
fn images(bytes: &[u8], count: usize) -> Result<Vec<u8>, Fault> {
    let idx = parse(bytes)?;
    match idx.sizes[..] {
        [images, SIDE, SIDE] if images == count => Ok(idx.elements.iter().flat_map(|&level| [level; 3]).collect()),
        [images, SIDE, SIDE] => Err(Fault::new(format!("it has {images} images, there are {count} labels"))),
        _ => Err(Fault::new(format!("its axes are {:?}, expected [{count}, {SIDE}, {SIDE}]", idx.sizes))),
    }
}

const MNIST_SITE: &str = "https://ossci-datasets.s3.amazonaws.com/mnist/";
const FASHION_SITE: &str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";

#[rustfmt::skip]
const FASHION_CLASSES: [&str; N_CLASSES] = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
];

/// MNIST.
pub(crate) const SET: ImageSet = ImageSet {
    counts: Some(COUNTS),
    n_classes: Some(N_CLASSES),
    class_names: || vec!["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    files: &[
        PublishedFile::plain(MNIST_SITE, "MNIST/raw/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        PublishedFile::plain(MNIST_SITE, "MNIST/raw/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        PublishedFile::plain(MNIST_SITE, "MNIST/raw/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        PublishedFile::plain(MNIST_SITE, "MNIST/raw/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ],
    looks_for: "train-images-idx3-ubyte[.gz] or MNIST/raw with it",
    ..ImageSet::new(
        MNIST.name,
        MNIST.title,
        |root| MNIST.recognises(root, &FASHION_MNIST),
        |request, _| MNIST.open(&FASHION_MNIST, request),
    )
};

/// Fashion-MNIST.
pub(crate) const FASHION_SET: ImageSet = ImageSet {
    counts: Some(COUNTS),
    n_classes: Some(N_CLASSES),
    class_names: || FASHION_CLASSES.to_vec(),
    is_balanced: true,
    files: &[
        PublishedFile::plain(
            FASHION_SITE,
            "FashionMNIST/raw/train-images-idx3-ubyte.gz",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
        PublishedFile::plain(
            FASHION_SITE,
            "FashionMNIST/raw/train-labels-idx1-ubyte.gz",
            "25c81989df183df01b3e8a0aad5dffbe",
        ),
        PublishedFile::plain(
            FASHION_SITE,
            "FashionMNIST/raw/t10k-images-idx3-ubyte.gz",
            "bef4ecab320f06d8554ea6380940ec79",
        ),
        PublishedFile::plain(
            FASHION_SITE,
            "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ],
    looks_for: "the same files, or FashionMNIST/raw",
    ..ImageSet::new(
        FASHION_MNIST.name,
        FASHION_MNIST.title,
        |root| FASHION_MNIST.recognises(root, &MNIST),
        |request, _| FASHION_MNIST.open(&MNIST, request),
    )
};

#[cfg(test)]
mod tests;
