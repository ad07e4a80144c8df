//! Made-up sets with the official number of images, which open without being allowed to be partial.

use std::path::Path;

use empssl_data::{Dataset, OnBadImage, OpenOptions, Split, detect, open};

use crate::forms::{pack, pickled, pickled_names};

/// Opens what is recognised at `root`, complete.
fn opened(root: &Path, name: &str, split: Split) -> Dataset {
    assert_eq!(detect(root).expect("known"), name);
    let options =
        OpenOptions { name: name.into(), root: Some(root.to_owned()), partial: false, on_bad_image: OnBadImage::Fail };
    let set = open(&options, split).unwrap_or_else(|error| panic!("{error}"));
    assert!(!set.is_partial() && set.expected_len() == Some(set.len()));
    set
}

/// Bytes in which neighbours, rows, channels and images differ.
fn texture(count: usize) -> Vec<u8> {
    (0..count).map(|place| (place % 251 + place / 1021) as u8).collect()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::create_dir_all(dir).expect("room");
    std::fs::write(dir.join(name), bytes).expect("room");
}

#[test]
fn a_complete_cifar10_test_split_opens_alike_in_every_form() {
    let mut records = texture(10_000 * 3073);
    records.chunks_exact_mut(3073).enumerate().for_each(|(record, bytes)| bytes[0] = (record % 10) as u8);
    let names: Vec<u8> = (0..10).flat_map(|class| format!("class {class}\n").into_bytes()).collect();
    let root = tempfile::tempdir().expect("a folder");
    let [binary, python] = ["cifar-10-batches-bin", "cifar-10-batches-py"].map(|folder| root.path().join(folder));
    write(&binary, "test_batch.bin", &records);
    write(&binary, "batches.meta.txt", &names);
    write(&python, "test_batch", &pickled(&records, &["labels"]));
    write(&python, "batches.meta", &pickled_names(&names, "label_names"));
    let expected = opened(&binary, "cifar10", Split::Test);
    assert_eq!((expected.len(), expected.labels().expect("labelled")[9_999]), (10_000, 9));
    let mut roots = vec![python.clone()];
    if cfg!(feature = "archives") {
        roots.push(root.path().join("renamed.tgz"));
        pack(&python, &roots[1]);
    }
    for form in roots {
        assert_eq!(opened(&form, "cifar10", Split::Test).fingerprint(), expected.fingerprint(), "{}", form.display());
    }
}

#[test]
fn a_complete_mnist_opens() {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("MNIST/raw");
    let images = [&b"\0\0\x08\x03\0\0\x27\x10\0\0\0\x1c\0\0\0\x1c"[..], &texture(10_000 * 28 * 28)].concat();
    let labels: Vec<u8> = (0..10_000).map(|place| (place % 10) as u8).collect();
    write(&dir, "t10k-images-idx3-ubyte", &images);
    write(&dir, "t10k-labels-idx1-ubyte", &[&b"\0\0\x08\x01\0\0\x27\x10"[..], &labels].concat());
    let set = opened(root.path(), "mnist", Split::Test);
    let last = set.image(9_999).expect("in range");
    assert_eq!((last.dim(), last[[27, 27, 0]]), ((28, 28, 3), images[images.len() - 1]));
    assert_eq!(last[[27, 27, 0]], last[[27, 27, 2]]);
}

#[test]
fn a_complete_stl10_opens() {
    let root = tempfile::tempdir().expect("a folder");
    let dir = root.path().join("stl10_binary");
    write(&dir, "class_names.txt", b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n");
    write(&dir, "train_y.bin", &[10; 5_000]);
    let pixels = texture(5_000 * 3 * 96 * 96);
    write(&dir, "train_X.bin", &pixels);
    let set = opened(root.path(), "stl10", Split::Train);
    let last = set.image(4_999).expect("in range");
    // The lower left corner is the end of the first column.
    let lower_left = pixels[pixels.len() - 3 * 96 * 96 + 95];
    assert_eq!((set.labels().expect("labelled")[4_999], last[[95, 0, 0]]), (9, lower_left));
}
