//! The user's own folder of images: JPEG and PNG files, with a folder for each class or without classes.

use super::ImageSet;
use crate::dataset::tree::{Tree, holds_image};

/// Any tree of images.
pub(crate) const SET: ImageSet = ImageSet {
    instead_of_fetching: "it stands for a folder of images of your own",
    looks_for: "any .jpg, .jpeg or .png file",
    ..ImageSet::new("folder", "A folder of images", holds_image, |request, observer| {
        let tree = Tree::list(request.options.root(), request.split)?;
        tree.open(request.about(), request.options.on_bad_image, observer)
    })
};
