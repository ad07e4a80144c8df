//! CIFAR-10: from either of its archives, or from a tree of image files with the folders of the ten classes.
//!
//! Such a tree, which may have been compressed with loss, comes last.

use std::path::Path;

use super::cifar::{COUNTS, Form, Format, Kind, Label, SITE};
use super::{ImageSet, Member, PublishedFile, Request};
use crate::dataset::Dataset;
use crate::dataset::tree::Tree;
use crate::error::DataError;
use crate::progress::Observer;

/// The classes, by which a tree of image files is recognised.
const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const fn batch(path: &'static str) -> Member {
    Member::new(path, Some(30_730_000), None)
}

const fn pickled(path: &'static str, md5: &'static str) -> Member {
    Member::new(path, None, Some(md5))
}

pub(crate) const FORMAT: Format = Format {
    forms: [
        Form {
            title: "binary records",
            archive: PublishedFile {
                site: SITE,
                file: "cifar-10-binary.tar.gz",
                bytes: Some(170_052_171),
                md5: "c32a1d4ab5d03f1284b67883e8d87530",
                folder: "cifar-10-batches-bin",
                members: &[
                    batch("data_batch_1.bin"),
                    batch("data_batch_2.bin"),
                    batch("data_batch_3.bin"),
                    batch("data_batch_4.bin"),
                    batch("data_batch_5.bin"),
                    batch("test_batch.bin"),
                    Member::new("batches.meta.txt", None, None),
                ],
            },
            kind: Kind::Binary,
        },
        Form {
            title: "Python pickles",
            archive: PublishedFile {
                site: SITE,
                file: "cifar-10-python.tar.gz",
                bytes: Some(170_498_071),
                md5: "c58f30108f718f92721af3b95e74349a",
                folder: "cifar-10-batches-py",
                members: &[
                    pickled("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                    pickled("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                    pickled("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                    pickled("data_batch_4", "634d18415352ddfa80567beed471001a"),
                    pickled("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
                    pickled("test_batch", "40351d587109b95175f43aff81a1287e"),
                    pickled("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
                ],
            },
            kind: Kind::Pickle("label_names"),
        },
    ],
    labels: &[Label { kind: "class", n_classes: 10, key: "labels" }],
};

/// Whether a split at `root` has a folder for each class.
fn holds_classes(root: &Path) -> bool {
    ["train", "test", "val"].iter().any(|split| CLASSES.iter().all(|class| root.join(split).join(class).is_dir()))
}

fn open(request: &Request<'_>, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    match FORMAT.open(request) {
        Some(opened) => opened,
        None if holds_classes(request.options.root()) => open_tree(request, observer),
        None => Err(FORMAT.missing(request)),
    }
}

fn open_tree(request: &Request<'_>, observer: &mut Observer<'_>) -> Result<Dataset, DataError> {
    let tree = Tree::list(request.options.root(), request.split)?;
    if tree.class_names != CLASSES {
        return Err(DataError::MissingFolder {
            what: "the classes of CIFAR-10".into(),
            path: tree.dir,
            hint: format!("expected the folders {} and no others", CLASSES.join(", ")),
        });
    }
    request.check_count(&tree.dir, tree.files.len())?;
    tree.open(request.about(), request.options.on_bad_image, observer)
}

/// CIFAR-10.
pub(crate) const SET: ImageSet = ImageSet {
    counts: Some(COUNTS),
    n_classes: Some(10),
    class_names: || CLASSES.to_vec(),
    is_balanced: true,
    files: &[FORMAT.forms[0].archive],
    other_files: &[FORMAT.forms[1].archive],
    looks_for: "cifar-10-batches-bin, cifar-10-batches-py, cifar-10-*.tar.gz, a train folder with the ten classes",
    ..ImageSet::new("cifar10", "CIFAR-10", |root| FORMAT.find(root).is_some() || holds_classes(root), open)
};
