//! CIFAR-100, with the fine labels: from either of its archives.

use super::cifar::{COUNTS, Form, Format, Kind, Label, SITE};
use super::{ImageSet, Member, PublishedFile};

/// The fine classes.
const CLASSES: &str = include_str!("../../../../data/cifar100-classes.txt");

pub(crate) const FORMAT: Format = Format {
    forms: [
        Form {
            title: "binary records",
            archive: PublishedFile {
                site: SITE,
                file: "cifar-100-binary.tar.gz",
                bytes: Some(168_513_733),
                md5: "03b5dce01913d631647c71ecec9e9cb8",
                folder: "cifar-100-binary",
                members: &[
                    Member::new("train.bin", Some(153_700_000), Some("6172c7755cfe09b2fe270c85cebc1b15")),
                    Member::new("test.bin", Some(30_740_000), Some("4499cfba6c016c1be1438163640a0898")),
                    Member::new("fine_label_names.txt", None, None),
                ],
            },
            kind: Kind::Binary,
        },
        Form {
            title: "Python pickles",
            archive: PublishedFile {
                site: SITE,
                file: "cifar-100-python.tar.gz",
                bytes: None,
                md5: "eb9058c3a382ffc7106e4002c42a8d85",
                folder: "cifar-100-python",
                members: &[
                    Member::new("train", None, Some("16019d7e3df5f24257cddd939b257f8d")),
                    Member::new("test", None, Some("f0ef6b0ae62326f3e7ffdfab6717acfc")),
                    Member::new("meta", None, Some("7973b15100ade9c7d40fb424638fde48")),
                ],
            },
            kind: Kind::Pickle("fine_label_names"),
        },
    ],
    labels: &[
        Label { kind: "coarse", n_classes: 20, key: "coarse_labels" },
        Label { kind: "fine", n_classes: 100, key: "fine_labels" },
    ],
};

/// CIFAR-100.
pub(crate) const SET: ImageSet = ImageSet {
    counts: Some(COUNTS),
    n_classes: Some(100),
    class_names: || CLASSES.lines().collect(),
    is_balanced: true,
    files: &[FORMAT.forms[0].archive],
    other_files: &[FORMAT.forms[1].archive],
    looks_for: "cifar-100-binary, cifar-100-python, cifar-100-*.tar.gz",
    ..ImageSet::new(
        "cifar100",
        "CIFAR-100",
        |root| FORMAT.find(root).is_some(),
        |request, _| FORMAT.open(request).unwrap_or_else(|| Err(FORMAT.missing(request))),
    )
};
