//! Tests of both sets against small made-up files.

use empssl_golden::damage::Parser;

use super::*;
use crate::options::{OnBadImage, OpenOptions};
use crate::sets::open;

/// A level that differs in every direction.
fn level(record: usize, y: usize, x: usize) -> u8 {
    (record * 31 + y * 9 + x) as u8
}

fn idx(axes: &[usize], elements: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let sizes = axes.iter().flat_map(|&size| (size as u32).to_be_bytes());
    [0, 0, 8, axes.len() as u8].into_iter().chain(sizes).chain(elements).collect()
}

fn stored_images(count: usize) -> Vec<u8> {
    let places = (0..count).flat_map(|record| (0..SIDE * SIDE).map(move |place| (record, place)));
    idx(&[count, SIDE, SIDE], places.map(|(record, place)| level(record, place / SIDE, place % SIDE)))
}

fn write_set(dir: &Path, first: &Format) {
    std::fs::create_dir_all(dir).unwrap();
    for (split, labels) in [Split::Train, Split::Test].into_iter().zip(first.first_labels) {
        let [images_file, labels_file] = official_files(split);
        std::fs::write(dir.join(images_file), stored_images(10)).unwrap();
        std::fs::write(dir.join(labels_file), idx(&[10], labels)).unwrap();
    }
}

fn options(name: &str, root: &Path, partial: bool) -> OpenOptions {
    OpenOptions { name: name.into(), root: Some(root.to_owned()), partial, on_bad_image: OnBadImage::Fail }
}

fn message(name: &str, root: &Path, partial: bool) -> String {
    open(&options(name, root, partial), Split::Train).unwrap_err().to_string()
}

/// Whether each of the two sets takes the files at `root` for its own.
fn recognised(root: &Path) -> [bool; 2] {
    [MNIST.recognises(root, &FASHION_MNIST), FASHION_MNIST.recognises(root, &MNIST)]
}

#[test]
fn a_set_opens_from_its_folder_and_from_where_torchvision_keeps_it() {
    let parent = tempfile::tempdir().unwrap();
    for (format, last_class) in [(&MNIST, "9"), (&FASHION_MNIST, "Ankle boot")] {
        let dir = parent.path().join(format.folder);
        write_set(&dir, format);
        for root in [parent.path(), dir.parent().unwrap(), &dir] {
            let set = open(&options(format.name, root, true), Split::Test).unwrap();
            assert_eq!((set.len(), set.expected_len()), (10, Some(10_000)));
            assert_eq!(
                set.labels().unwrap()[..3],
                format.first_labels[1][..3].iter().map(|&l| l.into()).collect::<Vec<u32>>()
            );
            assert_eq!(set.class_names()[9], last_class);
            let image = set.image(4).unwrap();
            assert_eq!(image.dim(), (28, 28, 3));
            assert!(image.indexed_iter().all(|((y, x, _), &found)| found == level(4, y, x)));
        }
    }
}

#[cfg(feature = "archives")]
#[test]
fn compressed_files_and_dotted_names_give_the_same_set() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), &MNIST);
    let plain = open(&options("mnist", dir.path(), true), Split::Train).unwrap();
    for file in official_files(Split::Train) {
        let bytes = std::fs::read(dir.path().join(file)).unwrap();
        std::fs::remove_file(dir.path().join(file)).unwrap();
        let name = format!("{}.gz", file.replace("-idx", ".idx"));
        std::fs::write(dir.path().join(name), crate::dataset::archive::tests::gzipped(&bytes)).unwrap();
    }
    let zipped = open(&options("mnist", dir.path(), true), Split::Train).unwrap();
    assert_eq!((zipped.len(), zipped.fingerprint()), (10, plain.fingerprint()));
    let path = dir.path().join("train-labels.idx1-ubyte.gz");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    let message = message("mnist", dir.path(), true);
    assert!(message.contains("train-labels.idx1-ubyte.gz: it is truncated or damaged"), "{message}");
}

#[test]
fn one_set_under_the_name_of_the_other_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), &FASHION_MNIST);
    let message = message("mnist", dir.path(), true);
    assert!(message.contains("begin as those of Fashion-MNIST: open it as `fashion-mnist`"), "{message}");
    assert_eq!(recognised(dir.path()), [false, true]);
}

#[test]
fn files_of_neither_set_could_be_of_both() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), &MNIST);
    for split in [Split::Train, Split::Test] {
        std::fs::write(dir.path().join(official_files(split)[1]), idx(&[10], [3; 10])).unwrap();
    }
    assert_eq!(recognised(dir.path()), [true, true]);
}

#[test]
fn wrong_counts_and_labels_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_set(dir.path(), &MNIST);
    assert!(message("mnist", dir.path(), false).contains("found 10 images, expected 60000"));
    let [images, labels] = official_files(Split::Train).map(|file| dir.path().join(file));
    let reasons = [
        (&images, stored_images(9), "it has 9 images, there are 10 labels"),
        (&images, idx(&[10, 28, 27], vec![0; 7560]), "its axes are [10, 28, 27], expected [10, 28, 28]"),
        (&images, idx(&[10], [0; 10]), "its axes are [10]"),
        (&labels, idx(&[10], [10; 10]), "record 0 has class label 10, expected less than 10"),
        (&labels, idx(&[2, 5], [1; 10]), "it has 2 axes, labels have one"),
    ];
    for (path, bytes, expected) in reasons {
        write_set(dir.path(), &MNIST);
        std::fs::write(path, bytes).unwrap();
        let message = message("mnist", dir.path(), true);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn headers_that_promise_something_else_are_refused() {
    let reasons: [(&[u8], &str); 7] = [
        (b"", "4 bytes are needed and 0 are left"),
        (b"\0\0\x09\x01\0\0\0\0", "does not begin as an IDX file"),
        (b"\0\x01\x08\x01\0\0\0\0", "does not begin as an IDX file"),
        (b"\0\0\x08\x04", "does not begin as an IDX file"),
        (b"\0\0\x08\x02\0\0\0\x01\0\0", "4 bytes are needed and 2 are left"),
        (b"\0\0\x08\x01\0\0\0\x02a", "announces 2 bytes, 1 follow"),
        (b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "announces 4294967295 x 4294967295 x"),
    ];
    for (bytes, expected) in reasons {
        let reason = format!("{:?}", parse(bytes).err());
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_missing_set_or_file_says_where_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message("fashion-mnist", dir.path(), false).contains("zalandoresearch/fashion-mnist there"));
    write_set(dir.path(), &MNIST);
    std::fs::remove_file(dir.path().join("train-images-idx3-ubyte")).unwrap();
    let message = message("mnist", dir.path(), true);
    assert!(message.starts_with("missing file") && message.contains("train-images-idx3-ubyte: get it"), "{message}");
}

#[test]
fn damaged_files_neither_panic_nor_take_memory() {
    let labels = b"\0\0\x08\x01\0\0\0\x03\x05\x00\x09".to_vec();
    let images = [&b"\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c"[..], &[9; 2 * 28 * 28]].concat();
    Parser::new("idx", |bytes| parse(bytes).is_ok(), vec![labels.clone(), images.clone()]).hold();
    Parser::new("idx images", |bytes| super::images(bytes, 2).is_ok(), vec![images]).hold();
    Parser::new("idx labels", |bytes| super::labels(bytes, Path::new("")).is_ok(), vec![labels]).hold();
}
