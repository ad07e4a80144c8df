//! Genuine images in every form they come in; skipped with a printed line where they are not unpacked.

use std::path::{Path, PathBuf};

use empssl_data::{DataError, Dataset, OnBadImage, OpenOptions, Split, detect, open};
use empssl_golden::genuine_images;

use crate::forms::{pack, pickled, pickled_names};

fn open_partial(name: &str, root: PathBuf, split: Split) -> Dataset {
    let options = OpenOptions { name: name.into(), root: Some(root), partial: true, on_bad_image: OnBadImage::Fail };
    open(&options, split).unwrap_or_else(|error| panic!("{error}"))
}

fn images_per_class(set: &Dataset) -> Vec<usize> {
    let labels = set.labels().expect("a labelled set");
    (0..set.class_names().len()).map(|class| labels.iter().filter(|&&label| label as usize == class).count()).collect()
}

/// The mean absolute difference of two images in levels.
fn gap(a: &Dataset, a_index: usize, b: &Dataset, b_index: usize) -> f64 {
    let (a, b) = (a.image(a_index).expect("in range"), b.image(b_index).expect("in range"));
    assert_eq!(a.dim(), b.dim());
    a.iter().zip(b.iter()).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}

#[test]
fn cifar10_records() {
    let Some(root) = genuine_images("cifar-10-batches-bin") else { return };
    let train = open_partial("cifar10", root.clone(), Split::Train);
    let test = open_partial("cifar10", root.join("cifar-10-batches-bin"), Split::Test);
    assert_eq!((train.len(), test.len()), (8_068, 1_017));
    assert_eq!(train.class_names()[..3], ["airplane", "automobile", "bird"]);
    assert!(images_per_class(&train).iter().all(|count| (700..=900).contains(count)), "{:?}", images_per_class(&train));
    assert_eq!(train.labels().expect("labelled")[..6], [6, 9, 9, 4, 1, 1]);
    // The first pixel of the first image of data_batch_1.bin, a frog.
    assert_eq!(train.image(0).expect("in range").iter().take(3).copied().collect::<Vec<_>>(), [59, 62, 63]);
    assert!(train.description().ends_with("8,068 of 50,000 records"), "{}", train.description());
    let whole =
        OpenOptions { name: "cifar10".into(), root: Some(root), partial: false, on_bad_image: OnBadImage::Fail };
    let message = open(&whole, Split::Test).expect_err("too few records").to_string();
    assert!(message.contains("found 1017 images, expected 10000"), "{message}");
}

#[test]
fn cifar100_records() {
    let Some(root) = genuine_images("cifar-100-binary") else { return };
    let train = open_partial("cifar100", root.clone(), Split::Train);
    let test = open_partial("cifar100", root, Split::Test);
    assert_eq!((train.len(), test.len()), (486, 916));
    assert_eq!((train.class_names().len(), &*train.class_names()[0]), (100, "apple"));
    // The first records of train.bin: cattle, dinosaur, apple.
    assert_eq!(train.labels().expect("labelled")[..3], [19, 29, 0]);
}

fn fingerprints(name: &str, root: &Path) -> [u64; 2] {
    [Split::Train, Split::Test].map(|split| open_partial(name, root.to_owned(), split).fingerprint())
}

/// Opens the genuine records of a set as they are, as pickles, and in the archive of either: the same every time.
fn four_forms_agree(name: &str, folders: [&str; 2], archives: [&str; 2], names: [&str; 3], keys: &[&str]) {
    let Some(root) = genuine_images(folders[0]) else { return };
    let (binary, temporary) = (root.join(folders[0]), tempfile::tempdir().expect("a folder"));
    let python = temporary.path().join(folders[1]);
    std::fs::create_dir(&python).expect("a new folder");
    let read = |file: &str| std::fs::read(binary.join(file)).expect("a genuine file");
    for entry in std::fs::read_dir(&binary).expect("the genuine folder") {
        let file = entry.expect("an entry").file_name().into_string().expect("a plain name");
        if let Some(batch) = file.strip_suffix(".bin") {
            std::fs::write(python.join(batch), pickled(&read(&file), keys)).expect("room");
        }
    }
    std::fs::write(python.join(names[1]), pickled_names(&read(names[0]), names[2])).expect("room");
    let expected = fingerprints(name, &binary);
    assert_eq!(fingerprints(name, temporary.path()), expected, "{}", python.display());
    let readable = if cfg!(feature = "archives") { 2 } else { 0 };
    for (folder, archive) in [&binary, &python].into_iter().zip(archives).take(readable) {
        let below = tempfile::tempdir().expect("a folder");
        pack(folder, &below.path().join(archive));
        assert_eq!(detect(below.path()).expect("known"), name);
        assert_eq!(fingerprints(name, below.path()), expected, "{archive}");
    }
}

#[test]
fn cifar10_records_pickles_and_archives_agree() {
    let archives = ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"];
    let names = ["batches.meta.txt", "batches.meta", "label_names"];
    four_forms_agree("cifar10", ["cifar-10-batches-bin", "cifar-10-batches-py"], archives, names, &["labels"]);
}

#[test]
fn cifar100_records_pickles_and_archives_agree() {
    let archives = ["cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"];
    let names = ["fine_label_names.txt", "meta", "fine_label_names"];
    let keys = ["coarse_labels", "fine_labels"];
    four_forms_agree("cifar100", ["cifar-100-binary", "cifar-100-python"], archives, names, &keys);
}

#[test]
fn genuine_folders_are_recognised() {
    let Some(root) = genuine_images("cifar-10-batches-bin") else { return };
    let sets = [("cifar-10-batches-bin", "cifar10"), ("cifar-100-binary", "cifar100"), ("cifar10-jpeg", "cifar10")];
    for (folder, name) in sets.into_iter().filter(|(folder, _)| root.join(folder).is_dir()) {
        assert_eq!(detect(&root.join(folder)).expect("known"), name, "{folder}");
    }
    assert!(matches!(detect(&root), Err(DataError::AmbiguousDataset { .. })));
}

/// Within a class both forms keep the official order, so the k-th frog of either is the same frog.
#[test]
fn cifar10_records_and_jpeg_tree_agree_but_for_the_compression() {
    let (Some(root), Some(_)) = (genuine_images("cifar-10-batches-bin"), genuine_images("cifar10-jpeg")) else {
        return;
    };
    let records = open_partial("cifar10", root.clone(), Split::Test);
    let tree = open_partial("cifar10", root.join("cifar10-jpeg"), Split::Test);
    assert_eq!((tree.len(), tree.is_partial(), tree.class_names()), (10_000, false, records.class_names()));
    assert_eq!(images_per_class(&tree), [1_000; 10]);
    assert!(tree.description().contains("JPEG tree"), "{}", tree.description());
    let of_class = |set: &Dataset, class: u32| -> Vec<usize> {
        (0..set.len()).filter(|&index| set.labels().expect("labelled")[index] == class).collect()
    };
    for class in 0..10 {
        let (a, b) = (of_class(&records, class), of_class(&tree, class));
        for (&a_index, &b_index) in a.iter().zip(&b).take(20) {
            let same = gap(&records, a_index, &tree, b_index);
            assert!(same < 12.0, "class {class}: records {a_index} and file {b_index} differ by {same} levels");
        }
    }
}

#[test]
fn photographs_open_as_a_folder_and_decode_on_demand() {
    let Some(root) = genuine_images("imagenet-photos") else { return };
    let photos = open_partial("folder", root.join("imagenet-photos"), Split::Test);
    assert_eq!((photos.len(), photos.class_names().len()), (100, 100));
    let image = photos.image(0).expect("a photograph");
    assert!(image.dim().0 > 64 && image.dim().2 == 3 && !image.is_view());
}

/// Grey images are among them, and the images lie one folder below their class.
#[test]
fn tiny_imagenet_train_opens_as_a_tree() {
    let Some(root) = genuine_images("tiny-imagenet-200") else { return };
    let tree = root.join("tiny-imagenet-200/train");
    let images = open_partial("folder", tree, Split::Train);
    assert_eq!((images.len(), images.class_names().len()), (20_000, 200));
    assert!(images_per_class(&images).iter().all(|&count| count == 100));
    assert!((0..images.len()).all(|index| images.image(index).expect("a good image").dim() == (64, 64, 3)));
}
