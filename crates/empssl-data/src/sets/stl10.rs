//! STL-10 (Coates, Lee, Ng, 2011) in its binary form: the labelled train and test images.
//!
//! An image is three planes of 96x96 bytes, each stored column after column; labels count from 1 and lie in a file of
//! their own. The 100,000 unlabelled images are not read.

use std::path::{Path, PathBuf};

use empssl_pickle::bytes::Fault;

use super::{ImageSet, Member, PublishedFile, Records, Request, check_n_classes};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::options::Split;

const SIDE: usize = 96;
const IMAGE_BYTES: usize = 3 * SIDE * SIDE;
const CLASSES: [&str; 10] = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];
const N_CLASSES: usize = CLASSES.len();
const NAMES_FILE: &str = "class_names.txt";

const fn images_of(path: &'static str, count: u64, md5: &'static str) -> Member {
    Member::new(path, Some(count * IMAGE_BYTES as u64), Some(md5))
}

/// The archive; its first four members are what is read.
const ARCHIVE: PublishedFile = PublishedFile {
    site: "http://ai.stanford.edu/~acoates/stl10/",
    file: "stl10_binary.tar.gz",
    bytes: None,
    md5: "91f7769df0f17e558f3565bffb0c7dfb",
    folder: "stl10_binary",
    members: &[
        images_of("train_X.bin", 5_000, "918c2871b30a85fa023e0c44e0bee87f"),
        Member::new("train_y.bin", Some(5_000), Some("5a34089d4802c674881badbb80307741")),
        images_of("test_X.bin", 8_000, "7f263ba9f9e0b06b93213547f721ac82"),
        Member::new("test_y.bin", Some(8_000), Some("36f9794fa4beb8a2c72628de14fa638e")),
        images_of("unlabeled_X.bin", 100_000, "5242ba1fed5e4be9e1e742405eb56ca4"),
        Member::new(NAMES_FILE, None, None),
    ],
};

/// The files of a split: images and labels.
fn official_files(split: Split) -> [&'static str; 2] {
    let first = if split == Split::Train { 0 } else { 2 };
    [first, first + 1].map(|place| ARCHIVE.members[place].path)
}

/// The folder with the files, or else the archive.
fn find(root: &Path) -> Option<PathBuf> {
    ARCHIVE.folder_at(root, 4).or_else(|| ARCHIVE.archive_at(root))
}

fn open(request: &Request<'_>) -> Result<Dataset, DataError> {
    let Some(place) = find(request.options.root()) else {
        let (url, folder) = (ARCHIVE.url(), ARCHIVE.folder);
        let hint = format!("put {url} there, packed or unpacked, or give the folder that holds `{folder}`");
        return Err(request.missing("STL-10 images".into(), hint));
    };
    let [images_file, labels_file] = official_files(request.split);
    let hint = format!("get {} and unpack it completely, or give it as it is", ARCHIVE.url());
    let mut files = ARCHIVE.read(place, hint, &[images_file, labels_file, NAMES_FILE])?;
    let names_path = files.path(NAMES_FILE);
    let names = String::from_utf8_lossy(&files.take(NAMES_FILE)?).split_whitespace().map(String::from).collect();
    let names = check_n_classes(names, &names_path, N_CLASSES)?;
    let labels = labels(&files.take(labels_file)?, &files.path(labels_file))?;
    let pixels = images(&files.take(images_file)?, labels.len())
        .map_err(|fault| DataError::malformed("STL-10 file", &files.path(images_file), fault.0))?;
    request.of_records(files.place(), "STL-10 binary images", names, Records { pixels, side: SIDE, labels })
}

/// The labels, counted from 0.
pub(crate) fn labels(bytes: &[u8], path: &Path) -> Result<Vec<u32>, DataError> {
    let wrong = |&label: &u8| !(1..=N_CLASSES).contains(&usize::from(label));
    match bytes.iter().position(wrong) {
        None => Ok(bytes.iter().map(|&label| u32::from(label) - 1).collect()),
        Some(record) => {
            let reason = format!("record {record} has label {}, expected 1 to {N_CLASSES}", bytes[record]);
            Err(DataError::malformed("STL-10 file", path, reason))
        }
    }
}

/// The pixels of the `count` images of a file, row after row, the channels interleaved.
pub(crate) fn images(bytes: &[u8], count: usize) -> Result<Vec<u8>, Fault> {
    if Some(bytes.len()) != count.checked_mul(IMAGE_BYTES) {
        let (found, each) = (bytes.len(), IMAGE_BYTES);
        return Err(Fault::new(format!("found {found} bytes, expected {count} images of {each}, one for every label")));
    }
    Ok(bytes.chunks_exact(IMAGE_BYTES).flat_map(|planes| upright(planes, SIDE, SIDE)).collect())
}

/// Turns an image of three planes, each `width` columns of `height` bytes, into rows of RGB.
fn upright(planes: &[u8], height: usize, width: usize) -> impl Iterator<Item = u8> {
    let value = move |y: usize, x: usize, channel: usize| planes[(channel * width + x) * height + y];
    (0..height).flat_map(move |y| (0..width).flat_map(move |x| [0, 1, 2].map(|channel| value(y, x, channel))))
}

/// STL-10.
pub(crate) const SET: ImageSet = ImageSet {
    counts: Some([5_000, 8_000]),
    n_classes: Some(N_CLASSES),
    class_names: || CLASSES.to_vec(),
    is_balanced: true,
    files: &[ARCHIVE],
    looks_for: "stl10_binary with train_X.bin, stl10_binary.tar.gz",
    ..ImageSet::new("stl10", "STL-10", |root| find(root).is_some(), |request, _| open(request))
};

#[cfg(test)]
mod tests {
    use empssl_golden::damage::Parser;

    use super::super::open as open_by_name;
    use super::*;
    use crate::options::{OnBadImage, OpenOptions};

    /// A level that differs in every direction.
    fn level(record: usize, channel: usize, y: usize, x: usize) -> u8 {
        (record * 11 + channel * 70 + y * 2 + x / 3) as u8
    }

    fn stored(record: usize) -> Vec<u8> {
        let places = (0..3).flat_map(|channel| (0..SIDE).map(move |x| (channel, x)));
        places.flat_map(|(channel, x)| (0..SIDE).map(move |y| level(record, channel, y, x))).collect()
    }

    fn write_set(dir: &Path, records: usize) {
        std::fs::create_dir_all(dir).unwrap();
        for split in [Split::Train, Split::Test] {
            let [images, labels] = official_files(split);
            std::fs::write(dir.join(images), (0..records).flat_map(stored).collect::<Vec<_>>()).unwrap();
            std::fs::write(dir.join(labels), (0..records).map(|r| r as u8 % 10 + 1).collect::<Vec<_>>()).unwrap();
        }
        std::fs::write(dir.join(NAMES_FILE), CLASSES.join("\n")).unwrap();
    }

    fn options(root: &Path, partial: bool) -> OpenOptions {
        OpenOptions { name: "stl10".into(), root: Some(root.to_owned()), partial, on_bad_image: OnBadImage::Fail }
    }

    fn message(root: &Path, partial: bool) -> String {
        open_by_name(&options(root, partial), Split::Train).unwrap_err().to_string()
    }

    #[test]
    fn images_stand_upright_and_labels_count_from_zero() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join(ARCHIVE.folder);
        write_set(&dir, 12);
        for root in [parent.path(), &dir] {
            let set = open_by_name(&options(root, true), Split::Test).unwrap();
            assert_eq!((set.len(), set.expected_len(), &*set.class_names()[7]), (12, Some(8_000), "monkey"));
            assert_eq!(set.labels().unwrap(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
            let image = set.image(3).unwrap();
            assert_eq!(image.dim(), (96, 96, 3));
            assert!(image.indexed_iter().all(|((y, x, channel), &found)| found == level(3, channel, y, x)));
        }
    }

    #[test]
    fn an_image_that_is_wider_than_high_keeps_its_shape() {
        // Two rows and three columns: column by column 0 3, 1 4, 2 5.
        let columns = [0, 3, 1, 4, 2, 5];
        let stored: Vec<u8> = [0, 10, 20].iter().flat_map(|add| columns.map(|level| level + add)).collect();
        let rows: Vec<u8> = (0..6).flat_map(|level| [level, level + 10, level + 20]).collect();
        assert_eq!(upright(&stored, 2, 3).collect::<Vec<_>>(), rows);
    }

    #[cfg(feature = "archives")]
    #[test]
    fn the_archive_gives_the_same_set() {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), 2);
        let folder = open_by_name(&options(dir.path(), true), Split::Train).unwrap();
        let files = ["unlabeled_X.bin", "train_X.bin", NAMES_FILE, "train_y.bin"];
        std::fs::write(dir.path().join(files[0]), [1; 1000]).unwrap();
        let bytes = files.map(|file| (format!("stl10_binary/{file}"), std::fs::read(dir.path().join(file)).unwrap()));
        let members: Vec<(&str, &[u8])> = bytes.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
        let packed = tempfile::tempdir().unwrap();
        let path = packed.path().join(ARCHIVE.file);
        std::fs::write(&path, crate::dataset::archive::tests::packed(&members)).unwrap();
        for root in [packed.path(), &path] {
            let archive = open_by_name(&options(root, true), Split::Train).unwrap();
            assert_eq!((archive.len(), archive.fingerprint()), (2, folder.fingerprint()));
        }
    }

    #[test]
    fn wrong_counts_labels_and_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_set(dir.path(), 2);
        assert!(message(dir.path(), false).contains("found 2 images, expected 5000"));
        std::fs::write(dir.path().join("train_y.bin"), [1, 11]).unwrap();
        assert!(message(dir.path(), true).contains("train_y.bin: record 1 has label 11, expected 1 to 10"));
        std::fs::write(dir.path().join("train_y.bin"), [1, 0]).unwrap();
        assert!(message(dir.path(), true).contains("record 1 has label 0"));
        std::fs::write(dir.path().join("train_y.bin"), [1, 1, 1]).unwrap();
        assert!(message(dir.path(), true).contains("train_X.bin: found 55296 bytes, expected 3 images of 27648"));
        std::fs::write(dir.path().join(NAMES_FILE), "cat dog").unwrap();
        assert!(message(dir.path(), true).contains("class_names.txt: found 2, expected 10"));
        std::fs::remove_file(dir.path().join(NAMES_FILE)).unwrap();
        assert!(message(dir.path(), true).starts_with("missing file"));
    }

    #[test]
    fn a_missing_set_says_where_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(dir.path()).is_none());
        assert!(message(dir.path(), false).contains("put http://ai.stanford.edu"));
    }

    #[test]
    fn damaged_files_neither_panic_nor_take_memory() {
        Parser::new("images", |bytes| images(bytes, 1).is_ok(), vec![vec![5; 3 * 96 * 96]]).hold();
        Parser::new("labels", |bytes| labels(bytes, Path::new("")).is_ok(), vec![vec![1, 10, 5, 2]]).hold();
    }
}
