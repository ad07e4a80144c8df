//! Cropping and antialiased resizing, as Pillow does it.
//!
//! The filter widens when the image shrinks. The horizontal pass comes first, its result is rounded and clipped to
//! 8 bits, then the vertical pass. Weights are 22-bit fixed point.

use std::collections::HashMap;

use ndarray::ArrayView3;
use serde::{Deserialize, Serialize};

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
    weights: HashMap<(usize, usize, Interpolation), Weights>,
    /// The crop after the horizontal pass, planar.
    narrow: Vec<u8>,
    /// One row of sums.
    sums: Vec<i32>,
    /// One row of one channel, with the pixels at its ends repeated.
    line: Vec<u8>,
}

impl ResizeScratch {
    /// Sizes whose weights are kept; many images of different sizes must not fill the memory.
    const MAX_KEPT: usize = 64;

    /// Computes the weights of the given sizes where they are not at hand.
    fn prepare(&mut self, sizes: [usize; 2], to: usize, interpolation: Interpolation) {
        if self.weights.len() > Self::MAX_KEPT {
            self.weights.clear();
        }
        for from in sizes {
            self.weights.entry((from, to, interpolation)).or_insert_with(|| Weights::new(from, to, interpolation));
        }
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
        let row = |y: usize| &pixels[((crop.top + y) * width + crop.left) * 3..][..crop.width * 3];
        scratch.narrow.resize(3 * crop.height * side, 0);
        if interpolation == Interpolation::Bilinear && (2 * crop.width, 2 * crop.height) == (side, side) {
            self.double(row, scratch, out);
        } else {
            self.resize(row, scratch, out);
        }
    }

    /// The general way, for any sizes.
    fn resize<'a>(&self, row: impl Fn(usize) -> &'a [u8], scratch: &mut ResizeScratch, out: &mut [u8]) {
        let Self { crop, side, interpolation, flip } = *self;
        scratch.prepare([crop.width, crop.height], side, interpolation);
        let ResizeScratch { weights, narrow, sums, .. } = scratch;
        let across = &weights[&(crop.width, side, interpolation)];
        let down = &weights[&(crop.height, side, interpolation)];
        let plane = crop.height * side;
        for y in 0..crop.height {
            across.resize_row(row(y), flip, &mut narrow[y * side..], plane, side);
        }
        for (narrow, out) in narrow.chunks_exact(plane).zip(out.chunks_exact_mut(side * side)) {
            down.resize_columns(narrow, out, side, sums);
        }
    }

    /// Exactly twofold enlargement by the triangle filter, which is what the 32-pixel recipe does to every patch: the
    /// general way with weights of exactly 3/4 and 1/4, in 16 bits instead of 32.
    fn double<'a>(&self, row: impl Fn(usize) -> &'a [u8], scratch: &mut ResizeScratch, out: &mut [u8]) {
        let (side, small) = (self.side, self.side / 2);
        let ResizeScratch { narrow, line, .. } = scratch;
        let plane = small * side;
        line.resize(small + 2, 0);
        for (y, channel) in (0..small).flat_map(|y| (0..3).map(move |channel| (y, channel))) {
            line[1..].iter_mut().zip(row(y).chunks_exact(3)).for_each(|(value, pixel)| *value = pixel[channel]);
            if self.flip {
                line[1..=small].reverse();
            }
            (line[0], line[small + 1]) = (line[1], line[small]);
            let wide = narrow[channel * plane + y * side..].chunks_exact_mut(2);
            for (pair, near) in wide.zip(line.windows(3)) {
                (pair[0], pair[1]) = (mix(near[1], near[0]), mix(near[1], near[2]));
            }
        }
        for (narrow, out) in narrow.chunks_exact(plane).zip(out.chunks_exact_mut(side * side)) {
            let row = |y: usize| &narrow[y.min(small - 1) * side..][..side];
            for (y, pair) in out.chunks_exact_mut(2 * side).enumerate() {
                let (upper, lower) = pair.split_at_mut(side);
                mix_rows(row(y), row(y.saturating_sub(1)), upper);
                mix_rows(row(y), row(y + 1), lower);
            }
        }
    }
}

/// Three parts of one value and one part of another, rounded.
#[inline(always)]
fn mix(three: u8, one: u8) -> u8 {
    ((3 * u16::from(three) + u16::from(one) + 2) >> 2) as u8
}

fn mix_rows(three: &[u8], one: &[u8], out: &mut [u8]) {
    out.iter_mut().zip(three).zip(one).for_each(|((out, &three), &one)| *out = mix(three, one));
}

/// The weights of a resize along one axis.
#[derive(Debug)]
struct Weights {
    /// For every output pixel, the first input pixel and where its weights lie.
    spans: Vec<Span>,
    weights: Vec<i32>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first: usize,
    start: usize,
    count: usize,
}

/// Fraction bits of the weights: 32 less 8 for the values and 2 for the overshoot of the filter and the sign.
const BITS: u32 = 22;
const HALF: i32 = 1 << (BITS - 1);

fn round_and_clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

impl Weights {
    fn new(from: usize, to: usize, interpolation: Interpolation) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = interpolation.support() * stretch;
        let mut all = Self { spans: Vec::with_capacity(to), weights: Vec::new() };
        for pixel in 0..to {
            let centre = (pixel as f64 + 0.5) * scale;
            // Casts cut off at zero, as wanted here.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let position = |input: usize| (input as f64 - centre + 0.5) * (1.0 / stretch);
            all.push(first, (first..end).map(|input| interpolation.weight(position(input))).collect());
        }
        all
    }

    /// Appends the weights of one output pixel, scaled to a sum of one.
    fn push(&mut self, first: usize, weights: Vec<f64>) {
        let sum: f64 = weights.iter().sum();
        self.spans.push(Span { first, start: self.weights.len(), count: weights.len() });
        let fixed = weights.iter().map(|weight| (weight / sum * f64::from(1 << BITS)).round() as i32);
        self.weights.extend(fixed);
    }

    fn of(&self, span: Span) -> &[i32] {
        &self.weights[span.start..span.start + span.count]
    }

    /// Resizes one interleaved row and writes it to the three planes of `out`, mirrored if `flip`.
    fn resize_row(&self, row: &[u8], flip: bool, out: &mut [u8], plane: usize, side: usize) {
        for (pixel, &span) in self.spans.iter().enumerate() {
            let inputs = row[3 * span.first..].chunks_exact(3);
            let (mut red, mut green, mut blue) = (HALF, HALF, HALF);
            for (input, weight) in inputs.zip(self.of(span)) {
                red += i32::from(input[0]) * weight;
                green += i32::from(input[1]) * weight;
                blue += i32::from(input[2]) * weight;
            }
            let x = if flip { side - 1 - pixel } else { pixel };
            out[x] = round_and_clip(red);
            out[plane + x] = round_and_clip(green);
            out[2 * plane + x] = round_and_clip(blue);
        }
    }

    /// Resizes all columns of one plane, a whole row at a time.
    fn resize_columns(&self, plane: &[u8], out: &mut [u8], width: usize, sums: &mut Vec<i32>) {
        for (&span, out) in self.spans.iter().zip(out.chunks_exact_mut(width)) {
            sums.clear();
            sums.resize(width, HALF);
            let rows = plane[span.first * width..].chunks_exact(width);
            for (row, weight) in rows.zip(self.of(span)) {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
            }
            out.iter_mut().zip(sums.iter()).for_each(|(out, &sum)| *out = round_and_clip(sum));
        }
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
    fn weights_sum_to_one_and_bicubic_overshoots_are_clipped() {
        for interpolation in BOTH {
            for (from, to) in [(1, 7), (16, 32), (50, 224), (500, 224), (7, 1)] {
                let weights = Weights::new(from, to, interpolation);
                assert_eq!(weights.spans.len(), to);
                for &span in &weights.spans {
                    let sum: i32 = weights.of(span).iter().sum();
                    assert!((sum - (1 << BITS)).abs() <= span.count as i32 && span.first + span.count <= from);
                }
            }
        }
        let out = resize(&row(&[0, 0, 255, 255]), CropBox::whole(1, 4), 16, Interpolation::Bicubic, false);
        assert_eq!((out[4], out[11]), (0, 255));
    }

    #[test]
    fn doubling_is_the_general_way_in_short() {
        for small in 1..20_usize {
            let image = Array3::from_shape_fn((small + 3, small + 2, 3), |(y, x, channel)| {
                crate::rng::mix((y << 20 | x << 10 | channel) as u64) as u8
            });
            let crop = CropBox { top: 2, left: 1, height: small, width: small };
            let row = |y: usize| &image.as_slice().unwrap()[((y + 2) * (small + 2) + 1) * 3..][..small * 3];
            for flip in [false, true] {
                let mut scratch = ResizeScratch { narrow: vec![0; 6 * small * small], ..ResizeScratch::default() };
                let mut general = vec![0; 12 * small * small];
                let interpolation = Interpolation::Bilinear;
                ResizedCrop { crop, side: 2 * small, interpolation, flip }.resize(row, &mut scratch, &mut general);
                assert_eq!(resize(&image, crop, 2 * small, interpolation, flip), general, "{small} {flip}");
            }
        }
    }

    #[test]
    fn the_memory_for_weights_stays_bounded() {
        let mut scratch = ResizeScratch::default();
        let image = row(&[1; 300]);
        for width in 1..300 {
            let crop = CropBox { top: 0, left: 0, height: 1, width };
            let resized = ResizedCrop { crop, side: 2, interpolation: Interpolation::Bilinear, flip: false };
            resized.write(image.view(), &mut scratch, &mut [0; 12]);
        }
        assert!(scratch.weights.len() <= ResizeScratch::MAX_KEPT + 2);
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
