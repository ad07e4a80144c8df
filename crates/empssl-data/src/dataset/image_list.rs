//! Any image files, as they are named: no set, no classes.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::store::ImageFile;
use super::tree::{Tree, images_below};
use super::{About, Dataset};
use crate::error::DataError;
use crate::options::OnBadImage;

/// Opens images that belong to no set: files, whatever they are called, and folders, of which all JPEG and PNG files
/// count, at any depth and sorted by name. They have no labels; their order is that of `inputs`, and one that is named
/// twice is there twice. [`Dataset::path`] says which image is which.
///
/// # Errors
/// [`DataError::Io`] for what is not there, [`DataError::Inconsistent`] for a folder without an image or no input at
/// all, and for images that do not decode as `on_bad_image` says: with [`OnBadImage::Skip`] all are decoded now, and
/// the bad ones left out.
pub fn open_images(inputs: &[PathBuf], on_bad_image: OnBadImage) -> Result<Dataset, DataError> {
    let mut files = Vec::new();
    for input in inputs {
        let metadata = std::fs::metadata(input).map_err(|error| DataError::io(input, error))?;
        if metadata.is_dir() {
            files.extend(images_below(input)?);
        } else {
            files.push(ImageFile { path: input.clone(), bytes: metadata.len() });
        }
    }
    let dir = inputs.first().cloned().unwrap_or_default();
    if files.is_empty() {
        return Err(DataError::no_images(&dir));
    }
    // The split is part of the fingerprint.
    let about = About { name: "images".to_owned(), split: "test".to_owned(), ..About::default() };
    Tree::unlabelled(dir, files).open(about, on_bad_image, &mut |_| ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use image::{Rgb, RgbImage};

    use super::*;

    fn write(path: &Path, side: u32, shade: u8) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(side, side + 1, Rgb([shade, 0, 0]))
            .save_with_format(path, image::ImageFormat::Png)
            .unwrap();
        path.to_owned()
    }

    /// The shade of each image and its path below `root`.
    fn seen(set: &Dataset, root: &Path) -> Vec<(u8, String)> {
        let path = |index| set.path(index).unwrap().unwrap().strip_prefix(root).unwrap().display().to_string();
        (0..set.len()).map(|index| (set.image(index).unwrap()[[0, 0, 0]], path(index))).collect()
    }

    #[test]
    fn files_and_folders_keep_their_order_and_names() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for (name, side, shade) in [("d/b.png", 5, 1), ("d/a.png", 90, 2), ("d/e/c.jpeg", 7, 3), ("x.picture", 8, 4)] {
            write(&at(name), side, shade);
        }
        fs::write(at("d/notes.txt"), "no image").unwrap();
        let set = open_images(&[at("x.picture"), at("d"), at("d/b.png"), at("x.picture")], OnBadImage::Fail).unwrap();
        let names =
            [(4, "x.picture"), (2, "d/a.png"), (1, "d/b.png"), (3, "d/e/c.jpeg"), (1, "d/b.png"), (4, "x.picture")];
        assert_eq!(seen(&set, root.path()), names.map(|(shade, name)| (shade, name.to_owned())));
        assert!(set.labels().is_none() && set.class_names().is_empty());
        assert_eq!(seen(&set.subset(&[3]).unwrap(), root.path()), [(3, "d/e/c.jpeg".to_owned())]);
        assert!(set.path(6).is_err());
    }

    #[test]
    fn what_is_no_image_is_refused_by_name_or_left_out() {
        let root = tempfile::tempdir().unwrap();
        let good = write(&root.path().join("good.png"), 5, 9);
        let (bad, empty) = (root.path().join("bad.png"), root.path().join("empty"));
        fs::write(&bad, "no picture").unwrap();
        fs::create_dir(&empty).unwrap();
        let inputs = [bad.clone(), good.clone()];
        let refusal = |inputs: &[PathBuf], on_bad| match open_images(inputs, on_bad) {
            Err(error) => error.to_string(),
            Ok(set) => set.image(0).unwrap_err().to_string(),
        };
        assert!(refusal(&inputs, OnBadImage::Fail).contains("bad.png"));
        let set = open_images(&inputs, OnBadImage::Skip).unwrap();
        assert_eq!(seen(&set, root.path()), [(9, "good.png".to_owned())]);
        assert_eq!(set.skipped()[0].path, bad);
        assert!(refusal(&[good.clone(), root.path().join("absent.png")], OnBadImage::Skip).contains("absent.png"));
        assert!(refusal(&[good, empty], OnBadImage::Skip).contains("empty"));
        assert!(refusal(&[], OnBadImage::Fail).starts_with("no images in"));
        assert!(refusal(&[bad], OnBadImage::Skip).starts_with("all 1 images in"));
    }
}
