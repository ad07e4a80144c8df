//! Trees of JPEG and PNG files: a folder per class, or no classes at all.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::store::{Decoded, ImageFile, Store, decode, dimensions};
use super::{About, BadImage, Dataset, OnBadImage, OpenOptions, Split};
use crate::error::DataError;

/// Images of at most this side are kept decoded ...
const SMALL_SIDE: u32 = 64;
/// ... if all of them together need at most this many bytes.
const SMALL_SET_BYTES: usize = 512 << 20;
/// How deep folders may nest; more means a link that leads back to a parent.
const MAX_DEPTH: usize = 16;

/// Opens a tree of images.
///
/// The root holds the splits, `train` and `test` or `val`; without them the whole root is the train split. A split
/// holds a folder per class, with images at any depth and labels in the sorted order of the folders' names, or else
/// images without labels.
pub(crate) fn open(options: &OpenOptions, split: Split) -> Result<Dataset, DataError> {
    Tree::list(options.root(), split)?.open(options, split, None)
}

/// Whether `root` holds folders named after splits.
pub(crate) fn has_splits(root: &Path) -> bool {
    split_dir(root, Split::Train).is_some() || split_dir(root, Split::Test).is_some()
}

fn split_dir(root: &Path, split: Split) -> Option<PathBuf> {
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["test", "val"],
    };
    names.iter().map(|name| root.join(name)).find(|dir| dir.is_dir())
}

/// The files of a split, listed but not yet read.
pub(crate) struct Tree {
    dir: PathBuf,
    class_names: Vec<String>,
    files: Vec<ImageFile>,
    /// One label per file, or none at all when there are no classes.
    labels: Vec<u32>,
}

impl Tree {
    /// Lists the files of a split, sorted by class and path.
    pub(crate) fn list(root: &Path, split: Split) -> Result<Self, DataError> {
        let dir = find_dir(root, split)?;
        let entries = Entries::read(&dir)?;
        let class_names = entries.class_names();
        check_same_classes(root, split, &dir, &class_names)?;
        let mut tree = Self { dir, class_names, files: entries.images, labels: Vec::new() };
        if let (Some(stray), false) = (tree.files.first(), tree.class_names.is_empty()) {
            return Err(DataError::StrayImage { path: stray.path.clone() });
        }
        for (label, class_dir) in entries.folders.iter().enumerate() {
            tree.add_class(class_dir, label as u32)?;
        }
        if tree.files.is_empty() { Err(DataError::NoImages { path: tree.dir }) } else { Ok(tree) }
    }

    fn add_class(&mut self, dir: &Path, label: u32) -> Result<(), DataError> {
        let before = self.files.len();
        collect(dir, 0, &mut self.files)?;
        if self.files.len() == before {
            return Err(DataError::EmptyClass { path: dir.to_owned() });
        }
        self.labels.resize(self.files.len(), label);
        Ok(())
    }

    /// The folder of the split.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of the class folders, sorted.
    pub(crate) fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The number of files.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Makes the data set: small images are decoded now, others checked only where bad ones are to be skipped.
    pub(crate) fn open(self, options: &OpenOptions, split: Split, expected: Option<usize>) -> Result<Dataset, DataError> {
        let form = self.form();
        let Self { dir, class_names, mut files, mut labels } = self;
        let mut decoded = small_set_bytes(&files).map(Decoded::with_capacity);
        let mut skipped = Vec::new();
        if decoded.is_some() || options.on_bad_image == OnBadImage::Skip {
            let checked = decode_all(&files, &mut decoded, options.on_bad_image)?;
            retain(&mut files, &checked.good);
            retain(&mut labels, &checked.good);
            skipped = checked.bad;
        }
        if let (true, Some(first)) = (files.is_empty(), skipped.first()) {
            let first = format!("{}: {}", first.path.display(), first.reason);
            return Err(DataError::OnlyBadImages { path: dir, skipped: skipped.len(), first });
        }
        let labels = (!class_names.is_empty()).then_some(labels);
        let about = About {
            name: options.name.clone(),
            split: split.to_string(),
            form,
            expected,
            class_names,
            skipped,
            ..About::default()
        };
        Ok(Dataset::new(about, Store::Files { root: dir, files, decoded }, labels))
    }

    fn form(&self) -> String {
        let is_png = |file: &ImageFile| extension(&file.path).is_some_and(|extension| extension == "png");
        let kind = match self.files.iter().filter(|file| is_png(file)).count() {
            0 => "JPEG",
            count if count == self.files.len() => "PNG",
            _ => "JPEG and PNG",
        };
        let shape = if self.class_names.is_empty() { "images without labels" } else { "tree" };
        format!("{kind} {shape} from {}", self.dir.display())
    }
}

/// The folder of `split`: one named after it or, for the train split of a root without splits, the root.
fn find_dir(root: &Path, split: Split) -> Result<PathBuf, DataError> {
    let missing = |what: String, hint: &str| DataError::MissingFolder { what, path: root.to_owned(), hint: hint.into() };
    if !root.is_dir() {
        return Err(missing("images".into(), "check the path"));
    }
    match split_dir(root, split) {
        Some(dir) => Ok(dir),
        None if split == Split::Train && !has_splits(root) => Ok(root.to_owned()),
        None => Err(missing(
            format!("a {split} split"),
            "expected a folder `train`, and beside it `test` or `val`, with a folder per class in each",
        )),
    }
}

/// Both splits of one root must have the same classes, else their sorted labels would mean different things.
fn check_same_classes(root: &Path, split: Split, dir: &Path, classes: &[String]) -> Result<(), DataError> {
    let other = match split {
        Split::Train => Split::Test,
        Split::Test => Split::Train,
    };
    let Some(other_dir) = split_dir(root, other) else { return Ok(()) };
    let other_classes = Entries::read(&other_dir)?.class_names();
    let differ = |class: &String, present: &Path, absent: &Path| DataError::SplitsDiffer {
        class: class.clone(),
        present: present.to_owned(),
        absent: absent.to_owned(),
    };
    if let Some(class) = classes.iter().find(|class| !other_classes.contains(class)) {
        return Err(differ(class, dir, &other_dir));
    }
    match other_classes.iter().find(|class| !classes.contains(class)) {
        Some(class) => Err(differ(class, &other_dir, dir)),
        None => Ok(()),
    }
}

/// What lies directly in a folder, sorted by name; hidden entries and files of other kinds are left out.
#[derive(Default)]
struct Entries {
    folders: Vec<PathBuf>,
    images: Vec<ImageFile>,
}

impl Entries {
    fn read(dir: &Path) -> Result<Self, DataError> {
        let error = |error| DataError::io(dir, error);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(error)? {
            paths.push(entry.map_err(error)?.path());
        }
        paths.sort();
        let mut entries = Self::default();
        for path in paths.into_iter().filter(|path| !is_hidden(path)) {
            let metadata = std::fs::metadata(&path).map_err(|error| DataError::io(&path, error))?;
            if metadata.is_dir() {
                entries.folders.push(path);
            } else if extension(&path).is_some_and(|name| matches!(name.as_str(), "jpg" | "jpeg" | "png")) {
                entries.images.push(ImageFile { path, bytes: metadata.len() });
            }
        }
        Ok(entries)
    }

    fn class_names(&self) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.folders.iter().map(name).collect()
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<ImageFile>) -> Result<(), DataError> {
    if depth == MAX_DEPTH {
        return Err(DataError::NestedTooDeeply { path: dir.to_owned() });
    }
    let entries = Entries::read(dir)?;
    files.extend(entries.images);
    entries.folders.iter().try_for_each(|folder| collect(folder, depth + 1, files))
}

/// The bytes that all images need when decoded, if they are small enough to be kept. A file whose header is unreadable
/// does not decide; decoding it says what is wrong.
fn small_set_bytes(files: &[ImageFile]) -> Option<usize> {
    let small_bytes = |file: &ImageFile| match dimensions(&file.path) {
        Ok((width, height)) if width.max(height) > SMALL_SIDE => None,
        Ok((width, height)) => Some((width * height * 3) as usize),
        Err(_) => Some(0),
    };
    // The first image nearly always answers for all, without opening every file of a large set.
    small_bytes(files.first()?)?;
    let bytes = files.par_iter().map(small_bytes).try_reduce(|| 0, |a, b| Some(a + b))?;
    (bytes <= SMALL_SET_BYTES).then_some(bytes)
}

/// The outcome of decoding every file.
struct Checked {
    /// Per file, whether it decoded.
    good: Vec<bool>,
    bad: Vec<BadImage>,
}

/// Decodes every file on all cores and keeps the pixels if there is a place for them; a stretch at a time, so that no
/// more than a stretch is held twice.
fn decode_all(files: &[ImageFile], kept: &mut Option<Decoded>, on_bad: OnBadImage) -> Result<Checked, DataError> {
    const STRETCH: usize = 4096;
    let mut checked = Checked { good: Vec::with_capacity(files.len()), bad: Vec::new() };
    let keep = kept.is_some();
    for stretch in files.chunks(STRETCH) {
        let decode_one = |file: &ImageFile| decode(&file.path).map(|image| keep.then_some(image));
        let images: Vec<_> = stretch.par_iter().map(decode_one).collect();
        for image in images {
            checked.good.push(image.is_ok());
            match image {
                Ok(image) => kept.iter_mut().zip(&image).for_each(|(kept, image)| kept.push(image)),
                Err(DataError::BadImage { path, reason }) if on_bad == OnBadImage::Skip => {
                    checked.bad.push(BadImage { path, reason });
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(checked)
}

fn retain<T>(items: &mut Vec<T>, good: &[bool]) {
    let mut good = good.iter();
    items.retain(|_| good.next().copied().unwrap_or(true));
}
