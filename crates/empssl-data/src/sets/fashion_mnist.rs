//! Fashion-MNIST, from its IDX files.

use super::idx::{COUNTS, FASHION_MNIST, MNIST, N_CLASSES};
use super::{ImageSet, PublishedFile};
use crate::patch::PatchConfig;

const SITE: &str = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";

#[rustfmt::skip]
const CLASSES: [&str; N_CLASSES] = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
];

/// Fashion-MNIST.
pub(crate) const SET: ImageSet = ImageSet {
    name: "fashion-mnist",
    title: "Fashion-MNIST",
    counts: Some(COUNTS),
    n_classes: Some(N_CLASSES),
    class_names: || CLASSES.to_vec(),
    is_balanced: true,
    is_generated: false,
    patches: PatchConfig::cifar32,
    files: &[
        PublishedFile::plain(SITE, "FashionMNIST/raw/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        PublishedFile::plain(SITE, "FashionMNIST/raw/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        PublishedFile::plain(SITE, "FashionMNIST/raw/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        PublishedFile::plain(SITE, "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ],
    other_files: &[],
    instead_of_fetching: "",
    looks_for: "the same files, or FashionMNIST/raw",
    recognises: |root| FASHION_MNIST.recognises(root, &MNIST),
    open: |request, _| FASHION_MNIST.open(&MNIST, request),
};
