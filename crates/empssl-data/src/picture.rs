//! Pictures of what the network sees.

use image::{RgbImage, imageops};

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::patch::{PatchKey, PatchSampler};

/// Pixels between two tiles of a picture.
const GAP: u32 = 2;

/// A grid with one row per image: the whole image, then `n_patches` of its augmented patches as the network sees them.
/// Small tiles are enlarged by a whole number of times.
///
/// # Errors
/// When an index is out of range or an image cannot be read.
pub fn patch_grid(
    dataset: &Dataset,
    sampler: &PatchSampler,
    indices: &[usize],
    n_patches: u32,
    seed: u64,
) -> Result<RgbImage, DataError> {
    let side = sampler.side();
    let zoom = (96 / side as u32).max(1);
    let pitch = side as u32 * zoom + GAP;
    let (width, height) = ((n_patches + 1) * pitch + GAP, indices.len() as u32 * pitch + GAP);
    let mut picture = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
    let mut paint = |column: u32, row: u32, planar: &[u8]| {
        let tile = RgbImage::from_fn(pitch - GAP, pitch - GAP, |x, y| {
            let place = (y / zoom) as usize * side + (x / zoom) as usize;
            image::Rgb([0, 1, 2].map(|channel| planar[channel * side * side + place]))
        });
        imageops::replace(&mut picture, &tile, (column * pitch + GAP).into(), (row * pitch + GAP).into());
    };
    let mut tile = vec![0; 3 * side * side];
    for (row, &index) in (0..).zip(indices) {
        let image = dataset.image(index)?;
        sampler.whole(image.view(), &mut tile);
        paint(0, row, &tile);
        for patch in 0..n_patches {
            sampler.sample(image.view(), PatchKey { seed, epoch: 0, image: index as u64, patch }, &mut tile);
            paint(patch + 1, row, &tile);
        }
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OnBadImage, OpenOptions, Split};
    use crate::patch::PatchConfig;
    use crate::sets::open;

    #[test]
    fn a_row_holds_the_image_and_its_patches() {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let set = open(&options, Split::Test).unwrap();
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        let picture = patch_grid(&set, &sampler, &[5, 8], 3, 1).unwrap();
        assert_eq!(picture.dimensions(), (2 + 4 * 98, 2 + 2 * 98));
        assert_eq!(picture.get_pixel(0, 0).0, [255; 3]);

        let image = set.image(8).unwrap();
        let (x, y) = (7, 20);
        let expected = [0, 1, 2].map(|channel| image[[y, x, channel]]);
        let pixel = |dx, dy| picture.get_pixel(2 + 3 * x as u32 + dx, 2 + 98 + 3 * y as u32 + dy).0;
        assert_eq!([pixel(0, 0), pixel(2, 2)], [expected; 2]);

        let mut patch = vec![0; 3 * 32 * 32];
        sampler.sample(image.view(), PatchKey { seed: 1, epoch: 0, image: 8, patch: 2 }, &mut patch);
        let expected = [0, 1, 2].map(|channel| patch[channel * 1024 + y * 32 + x]);
        assert_eq!(picture.get_pixel(2 + 3 * 98 + 3 * x as u32, 2 + 98 + 3 * y as u32).0, expected);
    }

    #[test]
    fn an_index_out_of_range_is_refused() {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let set = open(&options, Split::Test).unwrap();
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        assert!(matches!(patch_grid(&set, &sampler, &[2000], 1, 0), Err(DataError::IndexOutOfRange { .. })));
    }
}
