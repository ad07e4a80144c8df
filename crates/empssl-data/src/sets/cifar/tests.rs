//! Tests of every form against small made-up sets.

use super::*;
use crate::options::{OnBadImage, OpenOptions};
use crate::sets::cifar10::FORMAT as CIFAR10;
use crate::sets::cifar100::FORMAT as CIFAR100;
use crate::sets::open;

/// A folder with a few records per file; record r has label r % classes and pixels that tell every place apart.
fn write_set(format: &Format, dir: &Path, records: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let (train, names) = format.forms[0].files(Split::Train);
    let (test, _) = format.forms[0].files(Split::Test);
    for file in [train, test].concat() {
        let bytes: Vec<u8> = (0..records).flat_map(|record| record_bytes(format, record)).collect();
        std::fs::write(dir.join(file), bytes).unwrap();
    }
    let lines: String =
        (0..format.labels[format.labels.len() - 1].n_classes).map(|class| format!("class {class}\n")).collect();
    std::fs::write(dir.join(names), lines + "\n").unwrap();
}

fn record_bytes(format: &Format, record: usize) -> Vec<u8> {
    let labels = format.labels.iter().map(|label| (record % label.n_classes) as u8);
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
    let dir = parent.path().join(CIFAR10.forms[0].archive.folder);
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
    write_set(&CIFAR100, &parent.path().join(CIFAR100.forms[0].archive.folder), 30);
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
        assert!(message.contains("nowhere: put https://") && message.contains("records"), "{message}");
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
    std::fs::write(dir.path().join("batches.meta.txt"), "airplane\nautomobile\n").unwrap();
    let message = message("cifar10", dir.path(), true);
    assert!(message.contains("batches.meta.txt: found 2, expected 10"), "{message}");
}

/// A committed excerpt of a set, in the folder that its archive unpacks to; `tests/data/make_pickles.py` made it.
fn excerpt(folder: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder)
}

fn fingerprints(name: &str, root: &Path) -> [u64; 2] {
    [Split::Train, Split::Test].map(|split| open(&options(name, root, true), split).unwrap().fingerprint())
}

/// The excerpts of each set in its two forms.
const EXCERPTS: [(&str, [&str; 2]); 2] = [
    ("cifar10", ["cifar-10-batches-bin", "cifar-10-batches-py"]),
    ("cifar100", ["cifar-100-binary", "cifar-100-python"]),
];

#[test]
fn records_and_pickles_agree_in_pixels_labels_and_classes() {
    for (name, [binary, python]) in EXCERPTS {
        assert_eq!(fingerprints(name, &excerpt(binary)), fingerprints(name, &excerpt(python)));
    }
    let pickles = open(&options("cifar10", &excerpt("cifar-10-batches-py"), true), Split::Train).unwrap();
    assert_eq!((pickles.len(), &*pickles.class_names()[9]), (10, "truck"));
    assert!(pickles.description().contains("CIFAR-10 Python pickles from"), "{}", pickles.description());
    // The first record is the frog that the official train split begins with.
    assert_eq!(pickles.labels().unwrap()[..2], [6, 9]);
    assert_eq!(pickles.image(0).unwrap().iter().take(3).copied().collect::<Vec<_>>(), [59, 62, 63]);
}

/// The files of a folder as the members of an archive.
#[cfg(feature = "archives")]
fn packed_folder(folder: &Path) -> Vec<u8> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(String, Vec<u8>)> = entries
        .map(|path| (format!("{name}/{}", path.file_name().unwrap().to_str().unwrap()), std::fs::read(&path).unwrap()))
        .collect();
    let members: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    crate::dataset::archive::tests::packed(&members)
}

#[cfg(feature = "archives")]
#[test]
fn archives_agree_with_what_they_hold_under_any_name() {
    for (name, folders) in EXCERPTS {
        let format = if name == "cifar10" { &CIFAR10 } else { &CIFAR100 };
        for (folder, form) in folders.iter().zip(&format.forms) {
            let dir = tempfile::tempdir().unwrap();
            let archive = packed_folder(&excerpt(folder));
            std::fs::write(dir.path().join(form.archive.file), &archive).unwrap();
            let renamed = dir.path().join("set.tgz");
            std::fs::write(&renamed, &archive).unwrap();
            for root in [dir.path(), &renamed] {
                assert_eq!(fingerprints(name, root), fingerprints(name, &excerpt(folder)), "{}", root.display());
            }
        }
    }
}

#[cfg(feature = "archives")]
#[test]
fn damaged_and_foreign_archives_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cifar-10-python.tar.gz");
    let archive = packed_folder(&excerpt("cifar-10-batches-py"));
    std::fs::write(&path, &archive[..archive.len() - 9]).unwrap();
    let truncated = message("cifar10", dir.path(), true);
    assert!(truncated.contains("malformed archive") && truncated.contains("cifar-10-python.tar.gz: it is truncated"));
    std::fs::write(&path, crate::dataset::archive::tests::packed(&[("cifar-10-batches-py/batches.meta", b"}.")]))
        .unwrap();
    assert!(message("cifar10", &path, true).contains("it has no key `label_names`"));
    let foreign = message("cifar100", &path, true);
    assert!(foreign.starts_with("no folder with CIFAR-100 records"), "{foreign}");
}

#[test]
fn what_is_unpacked_comes_first_and_records_before_pickles() {
    let dir = tempfile::tempdir().unwrap();
    let place = |folder: &str| CIFAR10.find(dir.path()).map(|(form, _)| form.archive.folder == folder);
    std::fs::write(dir.path().join("cifar-10-python.tar.gz"), "").unwrap();
    assert_eq!(place("cifar-10-batches-py"), Some(true));
    std::fs::write(dir.path().join("cifar-10-binary.tar.gz"), "").unwrap();
    assert_eq!(place("cifar-10-batches-bin"), Some(true));
    std::fs::create_dir(dir.path().join("cifar-10-batches-py")).unwrap();
    assert_eq!(place("cifar-10-batches-py"), Some(true));
    std::fs::create_dir(dir.path().join("cifar-10-batches-bin")).unwrap();
    assert_eq!(place("cifar-10-batches-bin"), Some(true));
}

/// A pickle of protocol 1 with `rows` images of `columns` values, and one list of labels.
fn pickle(rows: u8, columns: u16, key: &str, labels: &[u8]) -> Vec<u8> {
    let size = usize::from(rows) * usize::from(columns);
    let mut bytes =
        b"}(X\x04\0\0\0datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR(K\x01(K".to_vec();
    bytes.extend([&[rows, b'M'][..], &columns.to_le_bytes(), b"tcnumpy\ndtype\n(U\x02u1K\0K\x01tRI00\nT"].concat());
    bytes.extend(
        [&(size as u32).to_le_bytes()[..], &vec![7; size], b"tbU", &[key.len() as u8], key.as_bytes(), b"]("].concat(),
    );
    bytes.extend(labels.iter().flat_map(|&label| [b'K', label]));
    bytes.extend(b"eu.");
    bytes
}

#[test]
fn pickles_with_other_images_or_labels_are_refused() {
    let read = |bytes: &[u8]| {
        let mut records = Records::default();
        read_pickle(bytes, Path::new("set/test_batch"), CIFAR10.labels, &mut records).map(|()| records.labels)
    };
    assert_eq!(read(&pickle(2, 3072, "labels", &[3, 9])).unwrap(), [3, 9]);
    let reasons = [
        (pickle(2, 3071, "labels", &[3, 9]), "malformed pickle set/test_batch: its images have 3071 values"),
        (pickle(2, 3072, "labels", &[3]), "it has 2 images and 1 class labels"),
        (pickle(2, 3072, "targets", &[3, 9]), "it has no key `labels`"),
        (pickle(2, 3072, "labels", &[3, 10]), "test_batch: record 1 has class label 10, expected less than 10"),
    ];
    for (bytes, expected) in reasons {
        let message = read(&bytes).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

mod damaged {
    use empssl_golden::damage::Parser;

    use super::*;

    fn reads(bytes: &[u8], format: &Format, form: usize) -> bool {
        let mut records = Records::default();
        let reads = format.forms[form].read(bytes, Path::new("set"), format.labels, &mut records).is_ok();
        assert_eq!(records.pixels.len(), 3072 * records.labels.len());
        reads
    }

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
    }

    /// The first record and all records of each file.
    fn cut(files: &[&str], record_bytes: usize) -> Vec<Vec<u8>> {
        files.iter().flat_map(|file| [fixture(file)[..record_bytes].to_vec(), fixture(file)]).collect()
    }

    #[test]
    fn records_and_names_neither_panic_nor_take_memory() {
        let files = ["cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/test_batch.bin"];
        Parser::new("CIFAR-10", |bytes| reads(bytes, &CIFAR10, 0), cut(&files, 3073)).hold();
        let files = ["cifar-100-binary/train.bin"];
        Parser::new("CIFAR-100", |bytes| reads(bytes, &CIFAR100, 0), cut(&files, 3074)).hold();
        let names = vec![b"apple\nbear \r\n\nwolf".to_vec(), b"\xff\n".to_vec()];
        Parser::new("names", |bytes| !lines(bytes).is_empty(), names).hold();
    }

    /// Pickles by genuine Pythons, of every protocol.
    #[test]
    fn pickles_neither_panic_nor_take_memory() {
        let files = (1..=5).map(|file| format!("cifar-10-batches-py/data_batch_{file}"));
        let others = ["cifar-10-batches-py/test_batch", "cifar-100-python/train", "cifar-100-python/test"];
        let files = files.chain(others.map(str::to_owned)).map(|name| fixture(&name)).collect();
        let parse: fn(&[u8]) -> bool = |bytes| {
            let names = [&CIFAR10, &CIFAR100].map(|format| format.forms[1].names(bytes, Path::new("set")).is_ok());
            reads(bytes, &CIFAR10, 1) | reads(bytes, &CIFAR100, 1) | names[0] | names[1]
        };
        // A byte may stand for an object of 64 bytes in a list that is growing, one reference on the stack and a memo.
        Parser { memory: [64 << 10, 320], ..Parser::new("pickles of either set", parse, files) }.hold();
    }
}
