//! Cropping and antialiased resizing, as Pillow does it.
//!
//! The filter widens when the image shrinks. The horizontal pass comes first, its result is rounded and clipped to
//! 8 bits, then the vertical pass. Weights are 22-bit fixed point.

use ndarray::ArrayView3;
use serde::{Deserialize, Serialize};

use weights::WeightCache;

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
mod weights;

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The triangle filter: what the 32-pixel recipe uses.
    Bilinear,
    /// The cubic filter with a = -0.5: what the 224-pixel recipe uses.
    Bicubic,
}

impl Interpolation {
    /// Half the width of the filter, in pixels of an image that is not shrunk.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    }
}

/// A rectangle of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// Rows above the rectangle.
    pub top: usize,
    /// Columns left of the rectangle.
    pub left: usize,
    /// Its rows.
    pub height: usize,
    /// Its columns.
    pub width: usize,
}

impl CropBox {
    /// The whole of an image.
    pub fn whole(height: usize, width: usize) -> Self {
        Self { top: 0, left: 0, height, width }
    }

    /// Whether it is not empty and lies within an image of this size.
    fn is_within(self, height: usize, width: usize) -> bool {
        self.height > 0 && self.width > 0 && self.top + self.height <= height && self.left + self.width <= width
    }
}

/// Memory for resizing, and the weights of the sizes met so far.
#[derive(Debug, Default)]
pub struct ResizeScratch {
    weights: WeightCache,
    /// The crop after the horizontal pass, planar.
    narrow: Vec<u8>,
    /// One row of sums.
    sums: Vec<i32>,
    /// One row of one channel, with the pixels at its ends repeated.
    line: Vec<u8>,
    turned: TurnedScratch,
}

/// Memory for resizing with vectors, which turns rows into columns and back.
#[derive(Debug, Default)]
struct TurnedScratch {
    /// The columns of the crop, plane after plane.
    turned: Vec<u8>,
    /// The columns after the horizontal pass, plane after plane.
    resized: Vec<u8>,
    /// The rows of one plane after the horizontal pass.
    upright: Vec<u8>,
}

impl TurnedScratch {
    /// Makes room for so many bytes of a plane in the three stages.
    fn fit(&mut self, [turned, resized, upright]: [usize; 3]) {
        self.turned.resize(3 * turned, 0);
        self.resized.resize(3 * resized, 0);
        self.upright.resize(upright, 0);
    }
}

/// The rows of a crop in the image's memory.
#[derive(Clone, Copy, Debug)]
struct CropRows<'a> {
    /// The image from the first pixel of the crop on, interleaved.
    pixels: &'a [u8],
    /// Bytes from one row to the next.
    stride: usize,
    /// Rows.
    height: usize,
    /// Columns.
    width: usize,
}

impl<'a> CropRows<'a> {
    /// The pixels of a row, interleaved.
    #[inline]
    fn row(self, y: usize) -> &'a [u8] {
        &self.pixels[y * self.stride..][..3 * self.width]
    }
}

/// A crop of an image, resized to a square patch.
#[derive(Clone, Copy, Debug)]
pub struct ResizedCrop {
    /// The part of the image.
    pub crop: CropBox,
    /// Rows and columns of the patch.
    pub side: usize,
    /// How it is resized.
    pub interpolation: Interpolation,
    /// Whether the patch is mirrored.
    pub flip: bool,
}

impl ResizedCrop {
    /// Writes the patch of `image` (`[height, width, 3]`) to `out`, planar: `[3, side, side]`.
    ///
    /// # Panics
    /// When the image has other than three channels, the crop is empty or leaves it, or `out` has another length.
    pub fn write(&self, image: ArrayView3<'_, u8>, scratch: &mut ResizeScratch, out: &mut [u8]) {
        let Self { crop, side, interpolation, .. } = *self;
        let (height, width, channels) = image.dim();
        assert_eq!(channels, 3, "an image has three channels");
        assert_eq!(out.len(), 3 * side * side, "a patch of side {side} has another length");
        assert!(crop.is_within(height, width), "{crop:?} is empty or leaves an image of {height} x {width}");
        let image = image.as_standard_layout();
        let pixels = image.as_slice().unwrap_or_default();
        let pixels = &pixels[(crop.top * width + crop.left) * 3..];
        let rows = CropRows { pixels, stride: 3 * width, height: crop.height, width: crop.width };
        if interpolation == Interpolation::Bilinear && (2 * crop.width, 2 * crop.height) == (side, side) {
            fastest!(
                avx2::double(rows, self.flip, out),
                if [rows.width, rows.height] == [16, 16],
                else portable::double(self, rows, scratch, out)
            );
        } else {
            self.resize(rows, scratch, out);
        }
    }

    /// The general way, for any sizes.
    fn resize(&self, crop: CropRows<'_>, scratch: &mut ResizeScratch, out: &mut [u8]) {
        let Self { side, interpolation, flip, .. } = *self;
        let ResizeScratch { weights, narrow, sums, turned, .. } = scratch;
        let weights = weights.get([crop.width, crop.height], side, interpolation);
        fastest!(
            avx2::resize(crop, weights, flip, turned, out),
            if crop.width >= 16 && crop.height >= 16 && side >= 16,
            else portable::resize(self, crop, weights, narrow, sums, out)
        );
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    const BOTH: [Interpolation; 2] = [Interpolation::Bilinear, Interpolation::Bicubic];

    /// An image of one row that is the same in all channels.
    fn row(levels: &[u8]) -> Array3<u8> {
        Array3::from_shape_fn((1, levels.len(), 3), |(_, x, _)| levels[x])
    }

    fn resize(image: &Array3<u8>, crop: CropBox, side: usize, interpolation: Interpolation, flip: bool) -> Vec<u8> {
        let mut out = vec![0; 3 * side * side];
        let resized = ResizedCrop { crop, side, interpolation, flip };
        resized.write(image.view(), &mut ResizeScratch::default(), &mut out);
        out
    }

    #[test]
    fn a_crop_of_the_wanted_size_is_copied_planar_and_mirrored_on_request() {
        let image = Array3::from_shape_fn((5, 6, 3), |(y, x, channel)| (40 * y + 6 * x + channel) as u8);
        let crop = CropBox { top: 1, left: 2, height: 4, width: 4 };
        for interpolation in BOTH {
            for flip in [false, true] {
                let ours = Array3::from_shape_vec((3, 4, 4), resize(&image, crop, 4, interpolation, flip)).unwrap();
                let source = |x: usize| 2 + if flip { 3 - x } else { x };
                assert!(ours.indexed_iter().all(|((c, y, x), &value)| value == image[[y + 1, source(x), c]]));
            }
        }
    }

    #[test]
    fn enlarging_twofold_mixes_three_to_one() {
        let out = resize(&row(&[0, 100, 200]), CropBox::whole(1, 3), 6, Interpolation::Bilinear, false);
        assert_eq!(out[..6], [0, 25, 75, 125, 175, 200]);
    }

    #[test]
    fn shrinking_widens_the_filter() {
        // Twofold, a triangle of half-width 2: weights 3 : 3 : 1 and 1 : 3 : 3.
        let out = resize(&row(&[0, 255, 0, 0]), CropBox::whole(1, 4), 2, Interpolation::Bilinear, false);
        assert_eq!(out[..2], [109, 36]);
    }

    #[test]
    fn bicubic_overshoots_are_clipped() {
        let out = resize(&row(&[0, 0, 255, 255]), CropBox::whole(1, 4), 16, Interpolation::Bicubic, false);
        assert_eq!((out[4], out[11]), (0, 255));
    }

    /// A patch by one of the ways of resizing, whatever the processor and the sizes.
    fn by(
        resized: ResizedCrop,
        image: &Array3<u8>,
        way: impl Fn(&ResizedCrop, CropRows<'_>, &mut ResizeScratch, &mut [u8]),
    ) -> Vec<u8> {
        let ResizedCrop { crop, side, .. } = resized;
        let stride = 3 * image.dim().1;
        let pixels = &image.as_slice().unwrap()[crop.top * stride + 3 * crop.left..];
        let mut out = vec![0; 3 * side * side];
        let rows = CropRows { pixels, stride, height: crop.height, width: crop.width };
        way(&resized, rows, &mut ResizeScratch::default(), &mut out);
        out
    }

    fn generally(resized: &ResizedCrop, rows: CropRows<'_>, scratch: &mut ResizeScratch, out: &mut [u8]) {
        let ResizeScratch { weights, narrow, sums, .. } = scratch;
        let weights = weights.get([rows.width, rows.height], resized.side, resized.interpolation);
        portable::resize(resized, rows, weights, narrow, sums, out);
    }

    fn noise(height: usize, width: usize) -> Array3<u8> {
        Array3::from_shape_fn((height, width, 3), |(y, x, channel)| {
            crate::rng::mix((y << 20 | x << 10 | channel) as u64) as u8
        })
    }

    #[test]
    fn doubling_is_the_general_way_in_short() {
        for small in 1..20_usize {
            let image = noise(small + 3, small + 2);
            let crop = CropBox { top: 2, left: 1, height: small, width: small };
            for flip in [false, true] {
                let resized = ResizedCrop { crop, side: 2 * small, interpolation: Interpolation::Bilinear, flip };
                let general = by(resized, &image, generally);
                assert_eq!(by(resized, &image, portable::double), general, "{small} {flip}");
                let written = resize(&image, crop, 2 * small, Interpolation::Bilinear, flip);
                assert_eq!(written, general, "{small} {flip}");
            }
        }
    }

    #[test]
    fn vectors_resize_as_the_portable_way() {
        let image = noise(90, 101);
        let sizes = [(16, 16), (17, 40), (40, 17), (31, 33), (64, 64), (87, 98), (15, 70), (70, 15)];
        for ((height, width), side) in
            sizes.into_iter().flat_map(|size| [31, 32, 33, 47, 64, 100].map(|side| (size, side)))
        {
            let crop = CropBox { top: 3, left: 2, height, width };
            for (interpolation, flip) in BOTH.into_iter().flat_map(|way| [(way, false), (way, true)]) {
                let written = resize(&image, crop, side, interpolation, flip);
                let resized = ResizedCrop { crop, side, interpolation, flip };
                assert!(written == by(resized, &image, generally), "{resized:?}");
            }
        }
    }

    #[test]
    fn images_in_another_memory_layout_give_the_same() {
        let image = Array3::from_shape_fn((4, 6, 3), |(y, x, channel)| (40 * y + 6 * x + channel) as u8);
        let transposed = image.view().permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
        let crop = CropBox { top: 1, left: 0, height: 3, width: 5 };
        let mut out = vec![0; 3 * 9 * 9];
        let resized = ResizedCrop { crop, side: 9, interpolation: Interpolation::Bicubic, flip: false };
        resized.write(transposed.view().permuted_axes([1, 0, 2]), &mut ResizeScratch::default(), &mut out);
        assert_eq!(out, resize(&image, crop, 9, Interpolation::Bicubic, false));
    }

    #[test]
    fn a_crop_that_leaves_the_image_or_is_empty_is_refused() {
        let crop = |top, left, height, width| CropBox { top, left, height, width };
        assert!(crop(1, 2, 3, 4).is_within(4, 6));
        for crop in [crop(2, 2, 3, 4), crop(1, 3, 3, 4), crop(1, 2, 0, 4), crop(1, 2, 3, 0)] {
            assert!(!crop.is_within(4, 6), "{crop:?}");
        }
    }
}
