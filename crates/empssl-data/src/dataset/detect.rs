//! Which data set a folder or archive holds.

use std::path::Path;

use super::{cifar, idx, image_folder, imagenet100, stl10, tiny_imagenet};
use crate::error::DataError;

/// How a named set is recognised.
struct Detector {
    name: &'static str,
    /// Whether the set lies at this folder or archive; looks at names of files, and into them only where names are not
    /// enough.
    recognises: fn(&Path) -> bool,
    /// What it looks for, in words.
    looks_for: &'static str,
}

/// Every set that has a form of its own.
const DETECTORS: [Detector; 7] = [
    Detector {
        name: "cifar10",
        recognises: cifar::recognises_cifar10,
        looks_for: "cifar-10-batches-bin, cifar-10-batches-py, cifar-10-*.tar.gz, a train folder with the ten classes",
    },
    Detector {
        name: "cifar100",
        recognises: cifar::recognises_cifar100,
        looks_for: "cifar-100-binary, cifar-100-python, cifar-100-*.tar.gz",
    },
    Detector {
        name: "tiny-imagenet",
        recognises: tiny_imagenet::recognises,
        looks_for: "tiny-imagenet-200 or its wnids.txt, tiny-imagenet-200.zip",
    },
    Detector {
        name: "imagenet100",
        recognises: imagenet100::recognises,
        looks_for: "a train or val folder with the hundred classes' folders, ILSVRC/Data/CLS-LOC",
    },
    Detector {
        name: "mnist",
        recognises: idx::recognises_mnist,
        looks_for: "train-images-idx3-ubyte[.gz] or MNIST/raw with it",
    },
    Detector {
        name: "fashion-mnist",
        recognises: idx::recognises_fashion_mnist,
        looks_for: "the same files, or FashionMNIST/raw",
    },
    Detector {
        name: "stl10",
        recognises: stl10::recognises,
        looks_for: "stl10_binary with train_X.bin, stl10_binary.tar.gz",
    },
];

/// The name of the data set that the folder or archive `root` holds, as [`open`](super::open) understands it.
///
/// A set with a form of its own comes before `folder`, which any tree of images is.
///
/// # Errors
/// When there is nothing at `root`, nothing in it is known, or more than one set could be meant.
pub fn detect(root: &Path) -> Result<&'static str, DataError> {
    let path = root.to_owned();
    if !root.exists() {
        return Err(DataError::MissingFolder { what: "a data set".into(), path, hint: "check the path".into() });
    }
    let found = DETECTORS.iter().filter(|detector| (detector.recognises)(root));
    let names: Vec<&str> = found.map(|detector| detector.name).collect();
    match names[..] {
        [only] => Ok(only),
        [] if image_folder::recognises(root) => Ok("folder"),
        [] => Err(DataError::UnrecognisedDataset { path, looked_for: looked_for() }),
        _ => Err(DataError::AmbiguousDataset { path, candidates: names }),
    }
}

fn looked_for() -> String {
    let each = DETECTORS.iter().map(|Detector { name, looks_for, .. }| format!("{looks_for} ({name})"));
    each.chain(["any .jpg, .jpeg or .png file (folder)".into()]).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::NAMES;
    use super::*;

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
    fn every_named_set_has_a_detector() {
        let has_detector = |name: &&str| DETECTORS.iter().any(|detector| detector.name == *name);
        let without: Vec<&str> = NAMES.iter().filter(|name| !has_detector(name)).copied().collect();
        assert_eq!(without, ["synthetic", "folder"]);
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
        use super::super::archive::tests::packed;
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
        assert!(matches!(detect(&path), Err(DataError::UnrecognisedDataset { .. })));
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
}
