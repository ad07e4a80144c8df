//! What the files of a source looked like when it was packed, so that a pack notices when those beside it change.
//!
//! Looking at every image would make opening slow. What is marked are the record files and archives, and of trees of
//! images the folders, whose times change when files come or go; image files that are written over are not among it.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::format::BLOCK;
use crate::dataset::fingerprint::Hasher;
use crate::dataset::{Dataset, listing};
use crate::error::DataError;

/// Most places that are marked; of a tree with more folders, those nearest to the root.
const MAX_MARKS: usize = 4096;

/// What a source's files looked like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// How many files, their bytes, and the newest time of modification in nanoseconds since 1970.
    pub(crate) totals: [u64; 3],
    /// The places that are looked at again whenever the pack is opened.
    pub(crate) marks: Vec<Mark>,
}

/// What a file or folder looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its path relative to the root of the set, with slashes; empty for the root.
    pub(crate) path: String,
    /// Its time of modification in nanoseconds since 1970.
    pub(crate) modified: u64,
    /// The hash of a file's bytes, or of the names and sizes of the images and folders in a folder.
    pub(crate) content: u64,
}

impl Stamp {
    /// Looks at the files of a set as they are now; those of a set that came from a pack were looked at before.
    pub(crate) fn of(dataset: &Dataset) -> Result<Self, DataError> {
        if let Some(pack) = dataset.pack() {
            return Ok(pack.header.stamp.clone());
        }
        let Some(root) = dataset.root() else { return Ok(Self::default()) };
        let base = if root.is_file() { root.parent().unwrap_or(root) } else { root };
        let files = dataset.files();
        let (files, marked) = match files.is_empty() {
            true => (record_files(dataset.name(), root), record_files(dataset.name(), root)),
            // An archive, or images.
            false if files.len() == 1 && !listing::is_image(&files[0]) => (files.clone(), files),
            false => (files.clone(), folders(&files, base)),
        };
        let mut stamp = Self::default();
        for file in &files {
            let metadata = fs::metadata(file).map_err(|error| DataError::io(file, error))?;
            let [count, bytes, newest] = stamp.totals;
            stamp.totals = [count + 1, bytes + metadata.len(), newest.max(modified(&metadata))];
        }
        for path in marked {
            stamp.marks.extend(Mark::of(&path, base).map_err(|error| DataError::io(&path, error))?);
        }
        Ok(stamp)
    }

    /// What has changed in `folder`, where the source lies there.
    pub(crate) fn changed_in(&self, folder: &Path) -> Option<String> {
        if !self.marks.iter().any(|mark| mark.is_in(folder)) {
            return None;
        }
        let changed = self.marks.iter().find(|mark| !mark.holds_in(folder).unwrap_or(false))?;
        Some(format!("{} is not as it was", folder.join(&changed.path).display()))
    }
}

impl Mark {
    /// `None` for what does not lie below `base` or has a name that is no text.
    fn of(path: &Path, base: &Path) -> io::Result<Option<Self>> {
        let relative = path.strip_prefix(base).ok().and_then(Path::to_str);
        let Some(relative) = relative else { return Ok(None) };
        let metadata = fs::metadata(path)?;
        let content = content(path, &metadata)?;
        Ok(Some(Self { path: relative.replace('\\', "/"), modified: modified(&metadata), content }))
    }

    /// Whether there is anything of the source at this place of `folder`.
    fn is_in(&self, folder: &Path) -> bool {
        if self.path.is_empty() {
            // The folder is there in any case; a source that lies right in it has images there.
            return listing::holds_image(folder);
        }
        is_below(&self.path) && folder.join(&self.path).exists()
    }

    fn holds_in(&self, folder: &Path) -> io::Result<bool> {
        let path = folder.join(&self.path);
        let metadata = fs::metadata(&path)?;
        // A copy has a time of its own, and a folder a new one for files that are none of the set's.
        Ok(modified(&metadata) == self.modified || content(&path, &metadata)? == self.content)
    }
}

/// Whether a path out of a file stays where it belongs.
fn is_below(path: &str) -> bool {
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

fn modified(metadata: &Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn content(path: &Path, metadata: &Metadata) -> io::Result<u64> {
    let mut hasher = Hasher::default();
    if metadata.is_dir() {
        for (name, bytes) in listing::list(path)? {
            hasher.bytes(&name);
            hasher.number(bytes.unwrap_or(u64::MAX));
        }
        return Ok(hasher.finish());
    }
    let (mut file, mut block) = (File::open(path)?, Vec::with_capacity(BLOCK));
    while file.by_ref().take(BLOCK as u64).read_to_end(&mut block)? > 0 {
        hasher.bytes(&block);
        block.clear();
    }
    Ok(hasher.finish())
}

/// The folders that the files lie in and those above them, up to `base`, which comes last.
fn folders(files: &[PathBuf], base: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for file in files {
        for folder in file.ancestors().skip(1).take_while(|folder| folder.starts_with(base)) {
            if !found.insert(folder) {
                break;
            }
        }
    }
    let mut folders: Vec<&Path> = found.into_iter().collect();
    folders.sort_by_key(|folder| folder.components().count());
    folders.truncate(MAX_MARKS);
    // The root was sorted first.
    let has_root = folders.first() == Some(&base);
    folders.rotate_left(usize::from(has_root));
    folders.into_iter().map(Path::to_owned).collect()
}

/// The record files of a set at `root`, as far as they lie where they belong.
fn record_files(name: &str, root: &Path) -> Vec<PathBuf> {
    if root.is_file() {
        return vec![root.to_owned()];
    }
    let (folders, archives): (&[&str], &[&str]) = match name {
        "cifar10" => {
            (&["cifar-10-batches-bin", "cifar-10-batches-py"], &["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"])
        }
        "cifar100" => {
            (&["cifar-100-binary", "cifar-100-python"], &["cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"])
        }
        "mnist" => (&["MNIST/raw", "MNIST", "raw"], &[]),
        "fashion-mnist" => (&["FashionMNIST/raw", "FashionMNIST", "raw"], &[]),
        "stl10" => (&["stl10_binary"], &["stl10_binary.tar.gz"]),
        _ => return Vec::new(),
    };
    let unpacked = folders.iter().map(|folder| records_in(&root.join(folder))).chain([records_in(root)]);
    let archives = archives.iter().map(|archive| root.join(archive)).filter(|path| path.is_file());
    unpacked.chain(archives.map(|path| vec![path])).find(|files| !files.is_empty()).unwrap_or_default()
}

/// The files in a folder that are called as record files are, sorted.
fn records_in(folder: &Path) -> Vec<PathBuf> {
    let is_record = |name: &str| {
        let is_pickle = name.starts_with("data_batch_") || ["test_batch", "train", "test"].contains(&name);
        is_pickle || name.ends_with(".bin") || name.contains("-ubyte")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_record))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}
