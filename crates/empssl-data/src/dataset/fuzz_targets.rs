//! The parsers of data set files, with good inputs, for the fuzzing harness: a new parser is a new line here.

use std::io::Cursor;
use std::path::Path;

use empssl_pickle::bytes::Fault;

use super::{decode, jpeg};
use crate::fuzz::Target;
use crate::sets::{cifar, idx, pickle, stl10, truth};

/// Every parser of the data set modules.
pub(crate) fn all() -> Vec<Target> {
    #[cfg(feature = "archives")]
    let compressed = archives::all();
    #[cfg(not(feature = "archives"))]
    let compressed = [];
    plain().into_iter().chain(compressed).collect()
}

fn plain() -> Vec<Target> {
    vec![
        Target::new("cifar10 records", cifar::fuzz::cifar10_records, cut(&CIFAR10, 3073)),
        Target::new("cifar100 records", cifar::fuzz::cifar100_records, cut(&CIFAR100, 3074)),
        Target::new("class names", cifar::fuzz::names, vec![b"apple\nbear \r\n\nwolf".to_vec(), b"\xff\n".to_vec()]),
        Target::new("idx", |bytes| idx::parse(bytes).is_ok(), vec![idx_labels(), idx_images()]),
        Target::new("idx images", |bytes| idx::images(bytes, 2).is_ok(), vec![idx_images()]),
        Target::new("idx labels", |bytes| idx::labels(bytes, Path::new("")).is_ok(), vec![idx_labels()]),
        Target::new("stl10 images", |bytes| stl10::images(bytes, 1).is_ok(), vec![vec![5; 3 * 96 * 96]]),
        Target::new("stl10 labels", |bytes| stl10::labels(bytes, Path::new("")).is_ok(), vec![vec![1, 10, 5, 2]]),
        Target::new("wnids", |bytes| truth::wnids(bytes).is_ok(), vec![b"n01443537\nn01440764\n".to_vec()]),
        Target { memory: MAPS, ..Target::new("words", |bytes| truth::words(bytes).is_ok(), vec![WORDS.to_vec()]) },
        Target {
            memory: MAPS,
            ..Target::new("annotations", |bytes| truth::annotations(bytes).is_ok(), vec![ANNOTATIONS.to_vec()])
        },
        Target {
            memory: MAPS,
            ..Target::new("solution", |bytes| truth::solution(bytes).is_ok(), vec![SOLUTION.to_vec()])
        },
        Target::new("ground truth", |bytes| truth::ground_truth(bytes).is_ok(), vec![b"490\n1\n1000\n".to_vec()]),
        Target::new("image header", |bytes| decode::dimensions(Cursor::new(bytes)).is_ok(), images()),
        // Coefficients, a plane of each component and the pixels of what the guard lets through.
        Target { memory: [64 << 20, 16], ..Target::new("image", decode_small, images()) },
        Target::new("jpeg markers", |bytes| jpeg::check_complete(bytes).is_ok(), vec![JPEG.to_vec()]),
        // A byte may stand for an object of 64 bytes in a list that is growing, one reference on the stack and a memo.
        Target { memory: [64 << 10, 320], ..Target::new("pickle", walk_pickle, pickles()) },
        Target { memory: [64 << 10, 320], ..Target::new("cifar pickles", cifar::fuzz::pickles, fixtures()) },
    ]
}

const CIFAR10: [&[u8]; 2] = [
    include_bytes!("../../tests/data/cifar-10-batches-bin/data_batch_1.bin"),
    include_bytes!("../../tests/data/cifar-10-batches-bin/test_batch.bin"),
];
const CIFAR100: [&[u8]; 1] = [include_bytes!("../../tests/data/cifar-100-binary/train.bin")];

/// The shortest that has every kind of marker segment: two tables, a frame, a scan with a stuffed byte and a restart.
const JPEG: [u8; 34] =
    *b"\xff\xd8\xff\xe0\0\x04ab\xff\xdb\0\x03c\xff\xc0\0\x02\xff\xda\0\x02xy\xff\0z\xff\xd0w\xff\xff\xd9..";

/// A map's entry for a line of a dozen bytes: two texts of their own and its slot, twice as the map grows.
const MAPS: [u64; 2] = [64 << 10, 64];
const WORDS: &[u8] = b"n01443537\tgoldfish, Carassius auratus\nn01440764\ttench\n";
const ANNOTATIONS: &[u8] = b"val_0.JPEG\tn01443537\t0\t32\t44\t62\nval_1.JPEG\tn01440764\t52\t55\t57\t59\n";
const SOLUTION: &[u8] = b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 85 1 499 272 n01443537 1 2 3 4\n";

/// One file of every kind that decodes.
fn images() -> Vec<Vec<u8>> {
    let files: [&[u8]; 8] = [
        include_bytes!("../../tests/data/decode/420-17x1.jpg"),
        include_bytes!("../../tests/data/decode/progressive-420.jpg"),
        include_bytes!("../../tests/data/decode/restarts.jpg"),
        include_bytes!("../../tests/data/decode/cmyk.jpg"),
        include_bytes!("../../tests/data/decode/ycck.jpg"),
        include_bytes!("../../tests/data/decode/grey.jpg"),
        include_bytes!("../../tests/data/decode/palette-4-bit-transparent.png"),
        include_bytes!("../../tests/data/decode/rgba-16-bit.png"),
    ];
    files.map(<[u8]>::to_vec).to_vec()
}

/// Decodes what its header calls small, so that no input takes long.
fn decode_small(bytes: &[u8]) -> bool {
    let is_small = |(width, height): (u32, u32)| u64::from(width) * u64::from(height) <= 1 << 16;
    decode::dimensions(Cursor::new(bytes)).is_ok_and(is_small) && decode::decode_image(bytes).is_ok()
}

/// The first record and all records of each file.
fn cut(files: &[&[u8]], record_bytes: usize) -> Vec<Vec<u8>> {
    files.iter().flat_map(|file| [file[..record_bytes].to_vec(), file.to_vec()]).collect()
}

fn idx_labels() -> Vec<u8> {
    b"\0\0\x08\x01\0\0\0\x03\x05\x00\x09".to_vec()
}

fn idx_images() -> Vec<u8> {
    [&b"\0\0\x08\x03\0\0\0\x02\0\0\0\x1c\0\0\0\x1c"[..], &[9; 2 * 28 * 28]].concat()
}

/// Pickles by genuine Pythons, of every protocol.
fn fixtures() -> Vec<Vec<u8>> {
    let files: [&[u8]; 8] = [
        include_bytes!("../../tests/data/cifar-10-batches-py/data_batch_1"),
        include_bytes!("../../tests/data/cifar-10-batches-py/data_batch_2"),
        include_bytes!("../../tests/data/cifar-10-batches-py/data_batch_3"),
        include_bytes!("../../tests/data/cifar-10-batches-py/data_batch_4"),
        include_bytes!("../../tests/data/cifar-10-batches-py/data_batch_5"),
        include_bytes!("../../tests/data/cifar-10-batches-py/test_batch"),
        include_bytes!("../../tests/data/cifar-100-python/train"),
        include_bytes!("../../tests/data/cifar-100-python/test"),
    ];
    files.map(<[u8]>::to_vec).to_vec()
}

/// The fixtures with little data each, so that most changes hit the program, and one that uses the rarer opcodes.
fn pickles() -> Vec<Vec<u8>> {
    let rare = b"\x80\x02}(X\x04\0\0\0dataNU\x01aI01\nU\x01bL-5L\nV\\u00e9\nG\0\0\0\0\0\0\0\0S'\\x00'\n\x8a\x02\0\x01M\x01\x01\x88F1.\n)u.";
    let meta = include_bytes!("../../tests/data/cifar-10-batches-py/batches.meta");
    let small = cifar::fuzz::small_pickle();
    vec![rare.to_vec(), meta.to_vec(), small, fixtures().swap_remove(0), fixtures().swap_remove(4)]
}

/// Loads a pickle and asks for everything in every way.
fn walk_pickle(bytes: &[u8]) -> bool {
    let Ok(pickle) = pickle::Pickle::load(bytes) else { return false };
    for key in ["data", "labels", "fine_labels", "label_names", "a"] {
        let parts: [Result<(), Fault>; 3] = [
            pickle.integers(key).map(drop),
            pickle.names(key).map(drop),
            pickle.matrix(key).map(|matrix| assert_eq!(matrix.rows * matrix.columns, matrix.bytes.len())),
        ];
        let _ = parts;
    }
    true
}

/// The readers of compressed files.
#[cfg(feature = "archives")]
mod archives {
    use std::io::Cursor;

    use super::super::archive::{self, Limits, tests};
    use super::super::zip;
    use crate::fuzz::{Target, repair_tar};

    const LIMITS: Limits = Limits { kept: 64 << 10, total: 1 << 20 };
    /// Inflating needs its window and tables; a kept file grows by doubling.
    const MEMORY: [u64; 2] = [512 << 10, 16];

    pub(super) fn all() -> [Target; 4] {
        let tar = Target::new("tar", tar, vec![members(), tests::tarred(&[("a", b"top"), ("set/b", &[1; 600])])]);
        [
            Target { repair: repair_tar, memory: MEMORY, ..tar },
            Target { memory: MEMORY, ..Target::new("tar.gz", zipped, vec![tests::gzipped(&members())]) },
            Target { memory: MEMORY, ..Target::new("gz", unzip, vec![tests::gzipped(&[7; 900]), tests::gzipped(b"")]) },
            Target { memory: MEMORY, ..Target::new("zip", walk_zip, vec![zip::tests::small()]) },
        ]
    }

    fn members() -> Vec<u8> {
        tests::tarred(&[("set/a", &[3; 40]), ("set/c", b"other"), ("set/b", b"second")])
    }

    fn tar(bytes: &[u8]) -> bool {
        let _ = archive::first_folder(bytes);
        archive::members(bytes, "set", &["a", "b"], LIMITS).is_ok()
    }

    fn zipped(bytes: &[u8]) -> bool {
        archive::unzipped_members(bytes, "set", &["a", "b"], LIMITS).is_ok()
    }

    /// Lists an archive and reads every file of it.
    fn walk_zip(bytes: &[u8]) -> bool {
        let Ok((mut archive, entries)) = zip::walk(Cursor::new(bytes)) else { return false };
        entries.iter().filter(|entry| zip::read_entry(&mut archive, &entry.name).is_ok()).count() == entries.len()
    }

    fn unzip(bytes: &[u8]) -> bool {
        archive::gunzip(bytes, 64 << 10).is_ok()
    }
}
