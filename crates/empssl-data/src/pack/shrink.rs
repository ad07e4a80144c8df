//! How small large images may become before a recipe would notice.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use ndarray::{Array3, ArrayView3};

use crate::patch::PatchConfig;

/// The short side in pixels that serves a recipe: images above it can be shrunk to it.
///
/// The smallest crop of an image with short side m and long side M covers the area a m M, a being the lower end of
/// [`PatchConfig::crop_scale`], and its sides are sqrt(a m M r) and sqrt(a m M / r) for a ratio r. As M >= m, its
/// narrower side is at least m sqrt(a q), q being the smaller of the lowest ratio and the inverse of the highest one.
/// With m >= s / sqrt(a q) that is at least the patch's side s: no crop is ever enlarged, so the patch holds all the
/// detail that s pixels can show. The recipe of 224 pixels (a = 1/4, q = 3/4) needs 518; a quarter-area crop of ratio
/// 1 then has 259 pixels a side. Images that are smaller are never changed, so no crop is enlarged more than from the
/// original.
pub fn short_side(config: &PatchConfig) -> usize {
    let [lowest, highest] = config.crop_ratio;
    let narrowest = (config.crop_scale[0] * lowest.min(1.0 / highest)).sqrt();
    (config.side as f64 / narrowest).ceil() as usize
}

/// The image with its short side shrunk to `short_side`, or `None` if it is not longer than that. The filter is the
/// antialiased cubic one.
pub(crate) fn shrink(image: ArrayView3<'_, u8>, short_side: usize) -> Option<Array3<u8>> {
    let (height, width, _) = image.dim();
    let shortest = height.min(width);
    if shortest <= short_side {
        return None;
    }
    let scaled = |side: usize| (side * short_side + shortest / 2) / shortest;
    let (to_height, to_width) = (scaled(height), scaled(width));
    let pixels = image.as_standard_layout().into_owned().into_raw_vec_and_offset().0;
    let picture = RgbImage::from_raw(width as u32, height as u32, pixels)?;
    let small = resize(&picture, to_width as u32, to_height as u32, FilterType::CatmullRom);
    Array3::from_shape_vec((to_height, to_width, 3), small.into_raw()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::{PatchKey, PatchSampler};

    #[test]
    fn the_published_recipes() {
        assert_eq!(short_side(&PatchConfig::imagenet224()), 518);
        assert_eq!(short_side(&PatchConfig::cifar32()), 64);
    }

    #[test]
    fn no_crop_of_an_image_of_that_side_is_enlarged() {
        let config = PatchConfig::imagenet224();
        let sampler = PatchSampler::new(&config).unwrap();
        let side = short_side(&config);
        let crops = |short: usize| {
            let key = |image| PatchKey { seed: 0, epoch: 0, image, patch: 0 };
            (0..4000).map(|image| sampler.draw(short, short, key(image)).crop).collect::<Vec<_>>()
        };
        assert!(crops(side).iter().all(|crop| crop.height.min(crop.width) >= 224));
        assert!(
            crops(side - 12).iter().any(|crop| crop.height.min(crop.width) < 224),
            "the side is not larger than need be"
        );
    }

    #[test]
    fn the_short_side_becomes_what_was_asked_and_small_images_stay() {
        let image = Array3::from_shape_fn((60, 90, 3), |(y, x, c)| (y * 2 + x + 40 * c) as u8);
        let small = shrink(image.view(), 20).unwrap();
        assert_eq!(small.dim(), (20, 30, 3));
        // A slope stays a slope: the pixel at (10, 15) covers rows 30 to 32 and columns 45 to 47.
        assert!(small[[10, 15, 1]].abs_diff(62 + 46 + 40) <= 1, "{}", small[[10, 15, 1]]);
        assert_eq!(shrink(image.view().permuted_axes([1, 0, 2]), 20).unwrap().dim(), (30, 20, 3));
        assert!(shrink(image.view(), 60).is_none() && shrink(image.view(), 100).is_none());
    }
}
