//! Sets of images: opening them by name, and what is known about an opened one.
//!
//! Each form of data set is a module that fills a [`Dataset`]; a new one is a module here, an arm in [`open`], a
//! row in the table of [`detect`] and an entry in the repository's `data` folder.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ndarray::{CowArray, Ix3};

use crate::error::DataError;
use crate::progress::{Observer, Progress, Stage, tell};

#[cfg(feature = "archives")]
mod archive;
mod bytes;
mod cifar;
mod decode;
mod detect;
mod files;
pub(crate) mod fingerprint;
#[cfg(test)]
mod fuzz_targets;
mod idx;
mod image_folder;
mod image_list;
mod imagenet100;
mod jpeg;
mod pickle;
mod stl10;
pub(crate) mod store;
mod synthetic;
mod tiny_imagenet;
mod truth;
#[cfg(feature = "archives")]
mod zip;

pub use decode::decode_image;
pub use detect::detect;
use fingerprint::Hasher;
#[cfg(test)]
pub(crate) use fuzz_targets::all as fuzz_targets;
pub use image_list::open_images;
use store::Store;

/// Where a data set is looked for when no folder is given, relative to the working folder.
pub const DEFAULT_ROOT: &str = "data";

/// The names that [`open`] understands.
pub const NAMES: [&str; 9] =
    ["synthetic", "cifar10", "cifar100", "tiny-imagenet", "imagenet100", "mnist", "fashion-mnist", "stl10", "folder"];

/// The half of a data set to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What is learned from.
    Train,
    /// What is scored.
    Test,
}

impl Split {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Train, Self::Test];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
        })
    }
}

/// What to do with a file that has the name of an image but does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadImage {
    /// Refuse the set, or the batch, naming the file.
    Fail,
    /// Leave the file out and list it in [`Dataset::skipped`].
    Skip,
}

/// How to open a data set.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// One of [`NAMES`].
    pub name: String,
    /// The folder of the set or, for sets that unpack to a folder of a known name, its parent; for sets that come as one
    /// archive, that archive or the folder it lies in; [`DEFAULT_ROOT`] when `None`. Ignored by the synthetic set.
    pub root: Option<PathBuf>,
    /// Accept fewer images than the official count.
    pub partial: bool,
    /// What to do with files that do not decode.
    pub on_bad_image: OnBadImage,
}

impl OpenOptions {
    fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT))
    }
}

/// A file that was left out of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// The file.
    pub path: PathBuf,
    /// Why it did not decode.
    pub reason: String,
}

/// Opens the `split` of the data set that the options name.
///
/// [`Dataset::description`] says which form of the set was found.
///
/// # Errors
/// When the name is unknown, a folder or file is missing, damaged or inconsistent, or the number of images is not the
/// official one (fewer are accepted with [`OpenOptions::partial`]).
pub fn open(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    open_watched(options, split, &mut |_| ControlFlow::Continue(()))
}

/// [`open`] where somebody watches: where images are decoded, `observer` is told at least once per some thousand of
/// them, and may stop the work.
///
/// # Errors
/// As [`open`], and when `observer` stops the work.
pub fn open_watched(options: &OpenOptions, split: Split, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    let what = format!("{} {split}", options.name);
    let none = Progress { stage: Stage::Decode, what: &what, done: 0, total: None };
    tell(observer, none)?;
    let opened = open_own(options, split, observer);
    // Whoever stopped the work meanwhile wants no more of it, least of all complaints.
    tell(observer, none)?;
    opened
}

fn open_own(options: &OpenOptions, split: Split, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    match options.name.as_str() {
        "synthetic" => Ok(synthetic::open(split)),
        "cifar10" => cifar::open_cifar10(options, split),
        "cifar100" => cifar::open_cifar100(options, split),
        "mnist" => idx::open_mnist(options, split),
        "fashion-mnist" => idx::open_fashion_mnist(options, split),
        "stl10" => stl10::open(options, split),
        "tiny-imagenet" => tiny_imagenet::open(options, split, observer),
        "imagenet100" => imagenet100::open(options, split, observer),
        "folder" => image_folder::open(options, split, observer),
        name => Err(DataError::UnknownDataset { name: name.to_owned(), known: NAMES.join(", ") }),
    }
}

/// What a reader found out about a set besides its images and labels.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) split: String,
    /// The form of the files and where they are, in words.
    pub(crate) form: String,
    pub(crate) expected: Option<usize>,
    pub(crate) synthetic: bool,
    pub(crate) class_names: Vec<String>,
    pub(crate) skipped: Vec<BadImage>,
}

/// An opened set of RGB images, with or without labels.
///
/// Cloning is cheap: clones and subsets share the images.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The split as it was opened.
    whole: Arc<Whole>,
    labels: Option<Arc<[u32]>>,
    /// The images of the store that belong to this subset; `None` means all.
    rows: Option<Arc<[usize]>>,
}

#[derive(Debug)]
struct Whole {
    about: About,
    store: Store,
    labels: Option<Arc<[u32]>>,
    /// The hash of the split, computed when first asked for.
    fingerprint: OnceLock<u64>,
}

impl Dataset {
    pub(crate) fn new(about: About, store: Store, labels: Option<Vec<u32>>) -> Self {
        let labels: Option<Arc<[u32]>> = labels.map(Arc::from);
        let whole = Whole { about, store, labels: labels.clone(), fingerprint: OnceLock::new() };
        Self { whole: Arc::new(whole), labels, rows: None }
    }

    /// The name the set was opened by.
    pub fn name(&self) -> &str {
        &self.whole.about.name
    }

    /// One line for reports: the split, its form, where it came from, and how much of it there is.
    pub fn description(&self) -> String {
        let About { name, split, form, expected, skipped, .. } = &self.whole.about;
        let found = self.whole.store.len();
        let count = match expected {
            Some(expected) if found != *expected => format!("{} of {} records", grouped(found), grouped(*expected)),
            _ => format!("{} images", grouped(found)),
        };
        let mut line = format!("{name} {split}: {form}, {count}");
        if !skipped.is_empty() {
            line += &format!(", {} bad images skipped", grouped(skipped.len()));
        }
        if let Some(rows) = &self.rows {
            line += &format!(", subset of {}", grouped(rows.len()));
        }
        line
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.rows.as_ref().map_or(self.whole.store.len(), |rows| rows.len())
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of every image, an index into [`Dataset::class_names`]; `None` for images without labels.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The names of the classes, in the order of the labels; empty for images without labels.
    pub fn class_names(&self) -> &[String] {
        &self.whole.about.class_names
    }

    /// The official number of images of the split, where there is one.
    pub fn expected_len(&self) -> Option<usize> {
        self.whole.about.expected
    }

    /// Whether the opened split had fewer images than the official one; taking a subset does not change the answer.
    pub fn is_partial(&self) -> bool {
        self.expected_len().is_some_and(|expected| self.whole.store.len() < expected)
    }

    /// Whether the images were generated by code.
    pub fn is_synthetic(&self) -> bool {
        self.whole.about.synthetic
    }

    /// The files that were left out because they do not decode ([`OnBadImage::Skip`]).
    pub fn skipped(&self) -> &[BadImage] {
        &self.whole.about.skipped
    }

    /// The pixels of one image, `[height, width, 3]` in RGB: borrowed when the set is held in memory, else decoded.
    ///
    /// # Errors
    /// When the index is out of range, or the file cannot be read or decoded.
    pub fn image(&self, index: usize) -> Result<CowArray<'_, u8, Ix3>, DataError> {
        self.whole.store.image(self.row(index)?)
    }

    /// The file of one image, in an archive with the archive's path in front; `None` for images that have no file of
    /// their own, such as records.
    ///
    /// # Errors
    /// When the index is out of range.
    pub fn path(&self, index: usize) -> Result<Option<&Path>, DataError> {
        Ok(self.whole.store.path(self.row(index)?))
    }

    /// The images of the given indices, in that order; an index may be repeated.
    ///
    /// # Errors
    /// When an index is out of range.
    pub fn subset(&self, indices: &[usize]) -> Result<Self, DataError> {
        let rows: Vec<usize> = indices.iter().map(|&index| self.row(index)).collect::<Result<_, _>>()?;
        let labels = self.labels().map(|labels| indices.iter().map(|&index| labels[index]).collect());
        Ok(Self { labels, rows: Some(rows.into()), ..self.clone() })
    }

    /// A hash of the split's name, its class names, labels and images (bytes where they are held as records, relative
    /// paths and sizes where they are files), and of the subset taken. The same on every machine.
    pub fn fingerprint(&self) -> u64 {
        let whole = *self.whole.fingerprint.get_or_init(|| self.whole.hash());
        let Some(rows) = &self.rows else { return whole };
        let mut hasher = Hasher::default();
        hasher.number(whole);
        rows.iter().for_each(|&row| hasher.number(row as u64));
        hasher.finish()
    }

    fn row(&self, index: usize) -> Result<usize, DataError> {
        let len = self.len();
        let out_of_range = DataError::IndexOutOfRange { index, len };
        match &self.rows {
            Some(rows) => rows.get(index).copied().ok_or(out_of_range),
            None if index < len => Ok(index),
            None => Err(out_of_range),
        }
    }
}

impl Whole {
    fn hash(&self) -> u64 {
        let mut hasher = Hasher::default();
        hasher.text(&self.about.name);
        hasher.text(&self.about.split);
        self.about.class_names.iter().for_each(|name| hasher.text(name));
        self.labels.iter().flat_map(|labels| labels.iter()).for_each(|&label| hasher.number(u64::from(label)));
        self.store.hash_into(&mut hasher);
        hasher.finish()
    }
}

/// Refuses a split whose number of images is not the official one, unless fewer are allowed.
pub(crate) fn check_count(
    options: &OpenOptions,
    split: Split,
    path: &Path,
    found: usize,
    expected: usize,
) -> Result<(), DataError> {
    let (name, path) = (options.name.clone(), path.to_owned());
    if found > expected {
        return Err(DataError::TooManyRecords { name, split, path, found, expected });
    }
    if found == 0 || (found < expected && !options.partial) {
        return Err(DataError::TooFewRecords { name, split, path, found, expected });
    }
    Ok(())
}

/// A number with commas between the thousands.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let comma = |(place, digit): (usize, char)| {
        let wants_comma = place > 0 && (digits.len() - place).is_multiple_of(3);
        if wants_comma { format!(",{digit}") } else { String::from(digit) }
    };
    digits.chars().enumerate().map(comma).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> OpenOptions {
        OpenOptions { name: name.into(), root: None, partial: false, on_bad_image: OnBadImage::Fail }
    }

    /// Four grey images of one pixel.
    fn tiny(levels: [u8; 4], labels: Option<Vec<u32>>) -> Dataset {
        let pixels = levels.iter().flat_map(|&level| [level; 3]).collect();
        let about = About { name: "tiny".into(), expected: Some(5), ..About::default() };
        Dataset::new(about, Store::Records { pixels, side: 1 }, labels)
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = open(&options("cifar11"), Split::Train).unwrap_err().to_string();
        assert!(message.contains("`cifar11`") && message.contains(&NAMES.join(", ")), "{message}");
    }

    #[test]
    fn every_listed_name_is_understood() {
        for name in NAMES {
            let options = OpenOptions { root: Some("/nowhere/at/all".into()), ..options(name) };
            let unknown = matches!(open(&options, Split::Test), Err(DataError::UnknownDataset { .. }));
            assert!(!unknown, "{name}");
        }
    }

    #[test]
    fn a_subset_of_a_subset_keeps_images_and_labels_together() {
        let set = tiny([10, 20, 30, 40], Some(vec![1, 2, 3, 4]));
        let subset = set.subset(&[3, 1, 3]).unwrap().subset(&[2, 1]).unwrap();
        assert_eq!((subset.len(), subset.labels().unwrap()), (2, &[4, 2][..]));
        assert_eq!(subset.image(0).unwrap()[[0, 0, 0]], 40);
        assert_eq!(subset.image(1).unwrap()[[0, 0, 2]], 20);
        assert!(subset.is_partial() && subset.description().contains("4 of 5 records, subset of 2"));
        assert!(set.subset(&[]).unwrap().is_empty());
    }

    #[test]
    fn an_index_out_of_range_is_named() {
        let set = tiny([10, 20, 30, 40], None);
        let subset = set.subset(&[0, 1]).unwrap();
        let expect = "image index 4 is out of range: the set has 4 images";
        assert_eq!(set.image(4).unwrap_err().to_string(), expect);
        assert_eq!(set.subset(&[0, 4]).unwrap_err().to_string(), expect);
        assert!(matches!(subset.image(2), Err(DataError::IndexOutOfRange { index: 2, len: 2 })));
    }

    #[test]
    fn the_fingerprint_tells_pixels_labels_and_subsets_apart() {
        let base = tiny([1, 2, 3, 4], Some(vec![0, 1, 0, 1]));
        let others = [
            tiny([1, 2, 3, 5], Some(vec![0, 1, 0, 1])),
            tiny([1, 2, 3, 4], Some(vec![0, 1, 1, 0])),
            tiny([1, 2, 3, 4], None),
            base.subset(&[0, 1, 2, 3]).unwrap(),
            base.subset(&[1, 0]).unwrap(),
            base.subset(&[0, 1]).unwrap(),
        ];
        let mut all: Vec<u64> = others.iter().map(Dataset::fingerprint).chain([base.fingerprint()]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
        assert_eq!(base.fingerprint(), tiny([1, 2, 3, 4], Some(vec![0, 1, 0, 1])).fingerprint());
        let twice = base.subset(&[1, 0]).unwrap().subset(&[1, 0]).unwrap();
        assert_eq!(twice.fingerprint(), base.subset(&[0, 1]).unwrap().fingerprint());
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1_000, 50_000, 1_234_567].map(grouped), ["0", "999", "1,000", "50,000", "1,234,567"]);
    }
}
