//! Pillow's approximation of a Gaussian blur: three box blurs a side, the box's radius a fraction.
//!
//! The box of radius r = l + a (l whole, 0 <= a < 1) weighs 2l + 1 pixels fully and the next one on either side by a
//! (Gwosdek et al., "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM 2011).
//! Weights are 24-bit fixed point and every pass rounds to 8 bits; beyond the edge the edge pixel is repeated.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

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
struct BoxFilter {
    /// Pixels on either side that weigh fully.
    radius: usize,
    /// Weight of a full pixel, in 2^-24.
    full: u32,
    /// Weight of the pixel beyond, in 2^-24.
    far: u32,
}

impl BoxFilter {
    /// The box whose third power comes closest to a Gaussian of deviation `sigma`.
    ///
    /// Pillow mixes float32 and float64 here; both matter, since many sums are exact halves.
    fn for_sigma(sigma: f32) -> Self {
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
    // Where the box is wide, a moving sum is better.
    fastest!(
        avx2::blur(pixels, width, filter, &mut scratch.padded),
        if width >= 16 && pixels.len() / 3 / width >= 16 && filter.radius <= 3,
        else portable::blur(pixels, width, filter, scratch)
    );
}

#[cfg(test)]
mod tests {
    use super::portable::{blur_columns, blur_row};
    use super::*;
    use crate::rng::{Purpose, Stream};

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

    #[test]
    fn blurs_are_those_of_the_portable_form() {
        let mut stream = Stream::new(5, Purpose::Patch, 0, 0, 0);
        let mut scratch = BlurScratch::default();
        let sizes = [(1, 1), (1, 16), (16, 1), (3, 5), (4, 4), (15, 40), (16, 16), (32, 32), (33, 31), (17, 70)];
        for (height, width) in sizes {
            for place in 0..60 {
                let sigma = [0.1, 1.41, 1.42, 2.0, 4.5, 9.0].get(place).copied();
                let sigma = sigma.unwrap_or_else(|| stream.uniform(0.1, 2.0) as f32);
                let mut a = crate::augment::tests::noise(3 * height * width, &mut stream);
                let mut b = a.clone();
                blur(&mut a, width, sigma, &mut scratch);
                portable::blur(&mut b, width, BoxFilter::for_sigma(sigma), &mut scratch);
                assert!(a == b, "{height} x {width}, sigma {sigma}");
            }
        }
    }
}
