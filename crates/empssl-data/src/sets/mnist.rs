//! MNIST, from its IDX files.

use super::idx::{COUNTS, FASHION_MNIST, MNIST, N_CLASSES};
use super::{ImageSet, PublishedFile};
use crate::patch::PatchConfig;

const SITE: &str = "https://ossci-datasets.s3.amazonaws.com/mnist/";

/// MNIST.
pub(crate) const SET: ImageSet = ImageSet {
    name: "mnist",
    title: "MNIST",
    counts: Some(COUNTS),
    n_classes: Some(N_CLASSES),
    class_names: || vec!["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    is_balanced: false,
    is_generated: false,
    patches: PatchConfig::cifar32,
    files: &[
        PublishedFile::plain(SITE, "MNIST/raw/train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        PublishedFile::plain(SITE, "MNIST/raw/train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        PublishedFile::plain(SITE, "MNIST/raw/t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        PublishedFile::plain(SITE, "MNIST/raw/t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ],
    other_files: &[],
    instead_of_fetching: "",
    looks_for: "train-images-idx3-ubyte[.gz] or MNIST/raw with it",
    recognises: |root| MNIST.recognises(root, &FASHION_MNIST),
    open: |request, _| MNIST.open(&FASHION_MNIST, request),
};
