//! The list of sets holds together, and each set is found by its files.

use super::*;
use crate::options::OnBadImage;

/// A folder with empty files of these names.
fn folder(files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    root
}

#[test]
fn each_layout_is_recognised() {
    let layouts = [
        ("cifar-10-batches-bin/data_batch_1.bin", "cifar10"),
        ("cifar-10-batches-py/test_batch", "cifar10"),
        ("test_batch.bin", "cifar10"),
        ("cifar-10-python.tar.gz", "cifar10"),
        ("cifar-100-binary/train.bin", "cifar100"),
        ("cifar-100-python/test", "cifar100"),
        ("cifar-100-binary.tar.gz", "cifar100"),
        ("tiny-imagenet-200/val/val_annotations.txt", "tiny-imagenet"),
        ("tiny-imagenet-200.zip", "tiny-imagenet"),
        ("wnids.txt", "tiny-imagenet"),
        ("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG", "imagenet100"),
        ("val/ILSVRC2012_val_00000001.JPEG", "imagenet100"),
        ("MNIST/raw/train-images-idx3-ubyte.gz", "mnist"),
        ("FashionMNIST/raw/t10k-labels-idx1-ubyte", "fashion-mnist"),
        ("stl10_binary/train_X.bin", "stl10"),
        ("stl10_binary.tar.gz", "stl10"),
        ("cats/1.jpg", "folder"),
        ("train/cats/deep/1.PNG", "folder"),
    ];
    for (file, expected) in layouts {
        let root = folder(&[file]);
        assert_eq!(detect(root.path()).unwrap(), expected, "{file}");
    }
}

#[test]
fn a_tree_with_the_ten_classes_is_cifar10() {
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"];
    let mut files: Vec<String> = classes.iter().map(|class| format!("train/{class}/1.jpg")).collect();
    let names = |files: &[String]| folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(detect(names(&files).path()).unwrap(), "folder");
    files.push("train/truck/1.jpg".into());
    assert_eq!(detect(names(&files).path()).unwrap(), "cifar10");
}

#[test]
fn a_tree_with_the_hundred_classes_is_imagenet100() {
    let table = include_str!("../../../../data/imagenet100.csv");
    let wnids: Vec<&str> = table.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
    let files = |wnids: &[&str]| -> Vec<String> { wnids.iter().map(|w| format!("train/{w}/{w}_1.JPEG")).collect() };
    let at = |files: Vec<String>| {
        let root = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
        detect(root.path()).unwrap()
    };
    assert_eq!(at(files(&wnids)), "imagenet100");
    assert_eq!(at(files(&wnids[1..])), "folder");
}

#[cfg(feature = "archives")]
#[test]
fn an_archive_under_any_name_is_recognised_by_its_content() {
    use crate::dataset::archive::tests::packed;
    let root = folder(&[]);
    let path = root.path().join("download(1).tar.gz");
    let archives = [
        ("./cifar-10-batches-py/readme.html", "cifar10"),
        ("cifar-100-python/", "cifar100"),
        ("stl10_binary/", "stl10"),
    ];
    for (member, expected) in archives {
        std::fs::write(&path, packed(&[(member, b"")])).unwrap();
        assert_eq!(detect(&path).unwrap(), expected, "{member}");
    }
    std::fs::write(&path, packed(&[("holiday/1.jpg", b"")])).unwrap();
    assert!(detect(&path).unwrap_err().to_string().starts_with("no data set recognised at"));
}

#[test]
fn several_sets_in_one_place_are_named() {
    let root = folder(&["cifar-10-batches-bin/test_batch.bin", "MNIST/raw/t10k-images-idx3-ubyte", "1.jpg"]);
    let message = detect(root.path()).unwrap_err().to_string();
    assert!(message.ends_with("could be opened as cifar10 or mnist: name the data set that is meant"), "{message}");
    let root = folder(&["t10k-images-idx3-ubyte"]);
    let message = detect(root.path()).unwrap_err().to_string();
    assert!(message.contains("mnist or fashion-mnist"), "{message}");
}

#[test]
fn an_unknown_place_says_what_was_looked_for() {
    let root = folder(&["notes.txt", ".hidden.jpg"]);
    let message = detect(root.path()).unwrap_err().to_string();
    assert!(message.starts_with("no data set recognised at"), "{message}");
    for part in ["cifar-10-batches-py", "stl10_binary", "any .jpg"] {
        assert!(message.contains(part), "{message}");
    }
    let nowhere = root.path().join("nowhere");
    assert!(detect(&nowhere).unwrap_err().to_string().contains("nowhere: check the path"));
}

fn options(name: &str) -> OpenOptions {
    OpenOptions { name: name.into(), root: None, partial: false, on_bad_image: OnBadImage::Fail }
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let message = open(&options("cifar11"), Split::Train).unwrap_err().to_string();
    assert!(message.contains("`cifar11`") && message.contains(&names().join(", ")), "{message}");
}

#[test]
fn every_listed_name_is_understood() {
    for name in names() {
        let options = OpenOptions { root: Some("/nowhere/at/all".into()), ..options(name) };
        let unknown = matches!(open(&options, Split::Test), Err(DataError::UnknownDataset { .. }));
        assert!(!unknown, "{name}");
    }
}

#[test]
fn every_set_is_described_once_and_in_full() {
    let is_sum = |sum: &str| sum.len() == 32 && sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let (mut sums, mut all_names) = (Vec::new(), names().to_vec());
    for set in SETS {
        let class_names = (set.class_names)();
        assert!(class_names.is_empty() || set.n_classes == Some(class_names.len()), "{}", set.name);
        assert!(set.files.is_empty() != set.instead_of_fetching.is_empty(), "{}", set.name);
        assert!(set.is_generated || !set.looks_for.is_empty(), "{}", set.name);
        for published in set.files.iter().chain(set.other_files) {
            assert!(published.site.starts_with("http") && published.site.ends_with('/'), "{}", published.site);
            assert!(is_sum(published.md5) && published.folder.is_empty() == published.members.is_empty());
            sums.push(published.md5);
            sums.extend(published.members.iter().filter_map(|member| member.md5));
        }
    }
    let counts = (sums.len(), all_names.len());
    assert!(sums.iter().all(|sum| is_sum(sum)));
    sums.sort_unstable();
    sums.dedup();
    all_names.sort_unstable();
    all_names.dedup();
    assert_eq!((sums.len(), all_names.len()), counts, "no sum stands for two files, no name for two sets");
}

#[test]
fn more_images_than_official_are_refused_even_as_a_partial_set() {
    let options = OpenOptions { partial: true, ..options("cifar10") };
    let request = Request { set: &cifar10::SET, options: &options, split: Split::Test };
    let error = request.check_count(Path::new("set"), 10_001).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("not the official cifar10 test split in set: found 10001 images, expected 10000"));
}
