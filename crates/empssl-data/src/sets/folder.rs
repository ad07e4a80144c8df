//! A folder of images of one's own: JPEG and PNG files, with a folder for each class or without classes.

use super::ImageSet;
use crate::dataset::tree::{Tree, holds_image};
use crate::patch::PatchConfig;

/// Any tree of images.
pub(crate) const SET: ImageSet = ImageSet {
    name: "folder",
    title: "A folder of images",
    counts: None,
    n_classes: None,
    class_names: Vec::new,
    is_balanced: false,
    is_generated: false,
    patches: PatchConfig::cifar32,
    files: &[],
    other_files: &[],
    instead_of_fetching: "it stands for a folder of images of your own",
    looks_for: "any .jpg, .jpeg or .png file",
    recognises: holds_image,
    open: |request, observer| {
        let tree = Tree::list(request.root(), request.split)?;
        tree.open(request.about(), request.options.on_bad_image, observer)
    },
};
