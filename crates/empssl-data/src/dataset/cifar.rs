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
        let holds_records =
            |dir: &PathBuf| self.train_files.iter().chain(self.test_files).any(|f| dir.join(f).exists());
        [root.join(self.folder), root.to_owned()]
            .into_iter()
            .find(|dir| holds_records(dir) || dir.ends_with(self.folder) && dir.is_dir())
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
        let names: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
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

#[cfg(test)]
mod tests {
    use super::super::{OnBadImage, open};
    use super::*;

    /// A folder with a few records per file; record r has label r % classes and pixels that tell every place apart.
    fn write_set(format: &Format, dir: &Path, records: usize) {
        std::fs::create_dir_all(dir).unwrap();
        for file in format.train_files.iter().chain(format.test_files) {
            let bytes: Vec<u8> = (0..records).flat_map(|record| record_bytes(format, record)).collect();
            std::fs::write(dir.join(file), bytes).unwrap();
        }
        let names: String = (0..format.n_classes()).map(|class| format!("class {class}\n")).collect();
        std::fs::write(dir.join(format.names_file), names + "\n").unwrap();
    }

    fn record_bytes(format: &Format, record: usize) -> Vec<u8> {
        let labels = format.labels.iter().map(|&(_, classes)| (record % classes) as u8);
        labels.chain((0..3 * PLANE).map(|place| asymmetric(record, place / PLANE, place % PLANE))).collect()
    }

    /// No two channels, rows or columns are alike, and no reflection or transposition gives the same image.
    fn asymmetric(record: usize, channel: usize, place: usize) -> u8 {
        (record * 7 + channel * 50 + place / SIDE * 3 + place % SIDE) as u8
    }

    fn options(name: &str, root: &Path, partial: bool) -> OpenOptions {
        OpenOptions { name: name.into(), root: Some(root.to_owned()), partial, on_bad_image: OnBadImage::Fail }
    }

    fn message(name: &str, root: &Path, partial: bool) -> String {
        open(&options(name, root, partial), Split::Train).unwrap_err().to_string()
    }

    #[test]
    fn a_partial_set_opens_from_its_folder_and_from_the_parent() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join(CIFAR10.folder);
        write_set(&CIFAR10, &dir, 3);
        for root in [parent.path(), &dir] {
            let train = open(&options("cifar10", root, true), Split::Train).unwrap();
            assert_eq!((train.len(), train.expected_len(), train.is_partial()), (15, Some(50_000), true));
            assert_eq!(&train.labels().unwrap()[..4], [0, 1, 2, 0]);
            assert_eq!(train.class_names()[9], "class 9");
            assert!(train.description().ends_with("15 of 50,000 records"), "{}", train.description());
            let image = train.image(4).unwrap();
            let expected = |(y, x, channel): (usize, usize, usize)| asymmetric(1, channel, y * SIDE + x);
            assert!(image.indexed_iter().all(|(place, &value)| value == expected(place)));
        }
    }

    #[test]
    fn cifar100_takes_the_fine_label() {
        let parent = tempfile::tempdir().unwrap();
        write_set(&CIFAR100, &parent.path().join(CIFAR100.folder), 30);
        let test = open(&options("cifar100", parent.path(), true), Split::Test).unwrap();
        assert_eq!((test.len(), test.expected_len()), (30, Some(10_000)));
        assert_eq!(&test.labels().unwrap()[19..22], [19, 20, 21]);
        assert_eq!(test.class_names().len(), 100);
    }

    #[test]
    fn fewer_records_than_official_are_refused_with_both_counts() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&CIFAR10, dir.path(), 2);
        let message = message("cifar10", dir.path(), false);
        assert!(message.contains("found 10 images, expected 50000"), "{message}");
    }

    #[test]
    fn no_record_at_all_is_refused_even_as_a_partial_set() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&CIFAR10, dir.path(), 0);
        let message = message("cifar10", dir.path(), true);
        assert!(message.contains("found 0 images, expected 50000"), "{message}");
    }

    #[test]
    fn more_records_than_official_are_refused_even_as_a_partial_set() {
        let options = options("cifar10", Path::new("set"), true);
        let error = check_count(&options, Split::Test, Path::new("set"), 10_001, 10_000).unwrap_err();
        assert!(matches!(error, DataError::TooManyRecords { found: 10_001, expected: 10_000, .. }), "{error}");
    }

    #[test]
    fn a_truncated_file_is_named_with_its_size() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&CIFAR10, dir.path(), 2);
        let file = dir.path().join("data_batch_3.bin");
        std::fs::write(&file, &record_bytes(&CIFAR10, 0)[..3000]).unwrap();
        let message = message("cifar10", dir.path(), true);
        assert!(message.contains("data_batch_3.bin: found 3000 bytes, expected a multiple of 3073"), "{message}");
    }

    #[test]
    fn a_label_out_of_range_is_named_with_file_record_and_value() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&CIFAR10, dir.path(), 2);
        let mut bytes: Vec<u8> = (0..2).flat_map(|record| record_bytes(&CIFAR10, record)).collect();
        bytes[3073] = 10;
        std::fs::write(dir.path().join("data_batch_2.bin"), bytes).unwrap();
        let message = message("cifar10", dir.path(), true);
        assert!(message.contains("data_batch_2.bin: record 1 has class label 10, expected less than 10"), "{message}");
    }

    #[test]
    fn either_label_of_cifar100_is_checked() {
        for (place, value, found) in [(0, 20, "coarse label 20, expected less than 20"), (1, 100, "fine label 100")] {
            let dir = tempfile::tempdir().unwrap();
            write_set(&CIFAR100, dir.path(), 1);
            let mut bytes = record_bytes(&CIFAR100, 0);
            bytes[place] = value;
            std::fs::write(dir.path().join("train.bin"), bytes).unwrap();
            let message = message("cifar100", dir.path(), true);
            assert!(message.contains(found), "{message}");
        }
    }

    #[test]
    fn a_missing_folder_says_where_to_get_the_set() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cifar10", "cifar100"] {
            let message = message(name, &dir.path().join("nowhere"), false);
            assert!(message.contains("nowhere: unpack https://") && message.contains("records"), "{message}");
        }
    }

    #[test]
    fn a_missing_file_is_named_even_for_a_partial_set() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&CIFAR10, dir.path(), 2);
        std::fs::remove_file(dir.path().join("data_batch_5.bin")).unwrap();
        let message = message("cifar10", dir.path(), true);
        assert!(message.starts_with("missing file") && message.contains("data_batch_5.bin"), "{message}");
    }

    #[test]
    fn a_list_of_names_of_the_wrong_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_set(&CIFAR10, dir.path(), 2);
        std::fs::write(dir.path().join(CIFAR10.names_file), "airplane\nautomobile\n").unwrap();
        let message = message("cifar10", dir.path(), true);
        assert!(message.contains("batches.meta.txt: found 2, expected 10"), "{message}");
    }
}
