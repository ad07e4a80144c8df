//! Pillow's approximation of a Gaussian blur: three box blurs a side, the box's radius a fraction.
//!
//! The box of radius r = l + a (l whole, 0 <= a < 1) weighs 2l + 1 pixels fully and the next one on either side by a
//! (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011).
//! Weights are 24-bit fixed point and every pass rounds to 8 bits; beyond the edge the edge pixel is repeated.

use crate::simd;

/// Passes along each axis.
const PASSES: usize = 3;

/// Memory for a blur, kept from one to the next.
#[derive(Debug, Default)]
pub struct BlurScratch {
    line: Vec<u8>,
    sums: Vec<u32>,
    /// A plane before and after a pass, with the lines at the edges repeated.
    padded: [Vec<u8>; 2],
}

/// A box with fractional ends in fixed point.
#[derive(Clone, Copy)]
pub(crate) struct BoxFilter {
    /// Pixels on either side that weigh fully.
    pub(crate) radius: usize,
    /// Weight of a full pixel, in 2^-24.
    pub(crate) full: u32,
    /// Weight of the pixel beyond, in 2^-24.
    pub(crate) far: u32,
}

impl BoxFilter {
    /// The box whose third power comes closest to a Gaussian of deviation `sigma`.
    ///
    /// Pillow mixes float32 and float64 here; both matter, since many sums are exact halves.
    pub(crate) fn for_sigma(sigma: f32) -> Self {
        let variance = sigma * sigma / PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let excess = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        let fraction = excess / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        Self::new(whole + fraction)
    }

    fn new(radius: f32) -> Self {
        const ONE: u32 = 1 << 24;
        let full = (ONE as f32 / (radius * 2.0 + 1.0)) as u32;
        let radius = radius as u32;
        Self { radius: radius as usize, full, far: (ONE - (radius * 2 + 1) * full) / 2 }
    }

    /// The blurred value of a pixel from the sum over the full pixels and the two pixels beyond.
    fn weigh(self, sum: u32, left: u8, right: u8) -> u8 {
        const HALF: u32 = 1 << 23;
        ((sum * self.full + (u32::from(left) + u32::from(right)) * self.far + HALF) >> 24) as u8
    }
}

/// Blurs planar pixels of three planes, each `width` wide, by a Gaussian of `sigma` pixels.
///
/// # Panics
/// When the pixels are not three planes of whole rows.
pub fn blur(pixels: &mut [u8], width: usize, sigma: f32, scratch: &mut BlurScratch) {
    assert!(
        width > 0 && pixels.len().is_multiple_of(3 * width),
        "{} bytes are not 3 planes of {width} columns",
        pixels.len()
    );
    let filter = BoxFilter::for_sigma(sigma);
    if simd::can_blur([pixels.len() / 3 / width, width], filter) {
        blur_padded(pixels, width, filter, &mut scratch.padded);
    } else {
        blur_portably(pixels, width, filter, scratch);
    }
}

/// The blur with vectors: along columns, then turned by a quarter and along columns again.
fn blur_padded(pixels: &mut [u8], width: usize, filter: BoxFilter, scratch: &mut [Vec<u8>; 2]) {
    let plane = pixels.len() / 3;
    let (reach, height) = (filter.radius + 1, plane / width);
    let len = plane + 2 * reach * width.max(height);
    scratch.iter_mut().for_each(|buffer| buffer.resize(buffer.len().max(len), 0));
    let [from, to] = scratch;
    for pixels in pixels.chunks_exact_mut(plane) {
        // Rows come first, as columns of the turned plane.
        simd::turn(pixels, [height, width], &mut from[reach * height..]);
        blur_lines(from, to, height, plane, filter);
        simd::turn(&from[reach * height..], [width, height], &mut to[reach * width..]);
        blur_lines(to, from, width, plane, filter);
        pixels.copy_from_slice(&to[reach * width..][..plane]);
    }
}

/// All passes across lines, which lie in `lines` behind room for those beyond the first; the result lies there too.
fn blur_lines(lines: &mut Vec<u8>, other: &mut Vec<u8>, width: usize, plane: usize, filter: BoxFilter) {
    let pad = (filter.radius + 1) * width;
    for _ in 0..PASSES {
        repeat_edges(&mut lines[..plane + 2 * pad], width, pad);
        simd::blur_pass(&lines[..plane + 2 * pad], &mut other[pad..pad + plane], width, filter);
        std::mem::swap(lines, other);
    }
}

/// Fills the `pad` bytes at either end of a plane with the nearest row inside.
fn repeat_edges(plane: &mut [u8], width: usize, pad: usize) {
    let end = plane.len() - pad;
    for start in (0..pad).step_by(width) {
        plane.copy_within(pad..pad + width, start);
        plane.copy_within(end - width..end, end + start);
    }
}

/// The blur on any processor and with any filter: sums that move along.
pub(crate) fn blur_portably(pixels: &mut [u8], width: usize, filter: BoxFilter, scratch: &mut BlurScratch) {
    for row in pixels.chunks_exact_mut(width) {
        (0..PASSES).for_each(|_| blur_row(row, filter, &mut scratch.line));
    }
    let plane = pixels.len() / 3;
    for plane in pixels.chunks_exact_mut(plane) {
        (0..PASSES).for_each(|_| blur_columns(plane, width, filter, scratch));
    }
}

/// One pass along a row: the sum over the box moves by one pixel a step.
fn blur_row(row: &mut [u8], filter: BoxFilter, padded: &mut Vec<u8>) {
    let reach = filter.radius + 1;
    padded.clear();
    padded.resize(reach, row[0]);
    padded.extend_from_slice(row);
    padded.resize(row.len() + 2 * reach, row[row.len() - 1]);
    let mut sum: u32 = padded[..2 * filter.radius + 1].iter().map(|&value| u32::from(value)).sum();
    let window = 2 * reach + 1;
    for (value, window) in row.iter_mut().zip(padded.windows(window)) {
        let (left, right) = (window[0], window[window.len() - 1]);
        sum = sum + u32::from(window[window.len() - 2]) - u32::from(left);
        *value = filter.weigh(sum, left, right);
    }
}

/// One pass along all columns of a plane at once: the sums of a whole row move down by one row a step.
fn blur_columns(plane: &mut [u8], width: usize, filter: BoxFilter, scratch: &mut BlurScratch) {
    let height = plane.len() / width;
    let BlurScratch { line: source, sums, .. } = scratch;
    source.clear();
    source.extend_from_slice(plane);
    let row = |y: usize| {
        let y = y.saturating_sub(filter.radius + 1).min(height - 1);
        &source[y * width..][..width]
    };
    // Row numbers below are counted from radius + 1 rows above the plane.
    sums.clear();
    sums.resize(width, 0);
    for y in 0..=2 * filter.radius {
        sums.iter_mut().zip(row(y)).for_each(|(sum, &value)| *sum += u32::from(value));
    }
    for (y, out) in plane.chunks_exact_mut(width).enumerate() {
        let (above, last, below) = (row(y), row(y + 2 * filter.radius + 1), row(y + 2 * filter.radius + 2));
        for ((((out, sum), &above), &last), &below) in
            out.iter_mut().zip(sums.iter_mut()).zip(above).zip(last).zip(below)
        {
            *sum = *sum + u32::from(last) - u32::from(above);
            *out = filter.weigh(*sum, above, below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One pass along a line, straight from the definition: clamped indices, no moving sum.
    fn defined(line: &[u8], filter: BoxFilter) -> Vec<u8> {
        let last = line.len() as isize - 1;
        let at = |x: isize| line[x.clamp(0, last) as usize];
        let radius = filter.radius as isize;
        let blurred = |x: isize| {
            let sum = (x - radius..=x + radius).map(|x| u32::from(at(x))).sum();
            filter.weigh(sum, at(x - radius - 1), at(x + radius + 1))
        };
        (0..=last).map(blurred).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u64).map(|place| crate::rng::mix(place) as u8).collect()
    }

    #[test]
    fn rows_and_columns_follow_the_definition_even_where_the_box_is_wider_than_the_image() {
        let mut scratch = BlurScratch::default();
        for (sigma, width) in [(0.1, 7), (0.5, 1), (1.0, 2), (1.0, 9), (2.0, 3), (9.0, 5), (30.0, 4)] {
            let filter = BoxFilter::for_sigma(sigma);
            let mut row = noise(width);
            let expected = defined(&row, filter);
            let mut columns: Vec<u8> = row.iter().flat_map(|&value| [value, 255 - value, 0]).collect();
            blur_row(&mut row, filter, &mut scratch.line);
            assert_eq!(row, expected, "a row of {width}, sigma {sigma}");
            blur_columns(&mut columns, 3, filter, &mut scratch);
            let column: Vec<u8> = columns.iter().step_by(3).copied().collect();
            assert_eq!(column, expected, "a column of {width}, sigma {sigma}");
        }
    }

    #[test]
    fn a_flat_image_stays_as_it_is() {
        for level in [0, 1, 128, 255] {
            let mut pixels = vec![level; 3 * 5 * 4];
            blur(&mut pixels, 5, 1.3, &mut BlurScratch::default());
            assert_eq!(pixels, vec![level; 3 * 5 * 4]);
        }
    }

    #[test]
    fn a_line_spreads_over_the_variance_of_the_gaussian() {
        for sigma in [0.8_f32, 1.4, 2.0] {
            let mut pixels = vec![0; 3 * 31 * 31];
            // A line across is as good as a dot, along a row.
            (0..31).for_each(|y| pixels[y * 31 + 15] = 255);
            blur(&mut pixels, 31, sigma, &mut BlurScratch::default());
            let row = &pixels[15 * 31..16 * 31];
            let total: f64 = row.iter().map(|&value| f64::from(value)).sum();
            let spread = |(x, &value): (usize, &u8)| f64::from(value) * (x as f64 - 15.0).powi(2);
            let variance = row.iter().enumerate().map(spread).sum::<f64>() / total;
            assert!((variance.sqrt() / f64::from(sigma) - 1.0).abs() < 0.05, "sigma {sigma}: {}", variance.sqrt());
        }
    }
}
