//! Brightness, contrast, saturation, grayscale and solarisation of planar pixels.
//!
//! The first three move every value away from, or towards, a "degenerate" image: black, the mean grey, the grayscale
//! version of the pixel. A factor of 0 gives the degenerate image, 1 the original, more exaggerates.

use super::{cut_off, look_up, luma, planes};
use crate::simd;

/// Pillow's blend: computed in float32, clipped to 0..=255, the fraction cut off (not rounded).
#[inline(always)]
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (degenerate, value) = (f32::from(degenerate), f32::from(value));
    cut_off((degenerate + factor * (value - degenerate)).clamp(0.0, 255.0))
}

/// The table of a blend with one degenerate value for the whole image.
fn blend_table(degenerate: u8, factor: f32) -> [u8; 256] {
    std::array::from_fn(|value| blend(degenerate, value as u8, factor))
}

/// Multiplies every value by `factor`.
pub fn brightness(pixels: &mut [u8], factor: f32) {
    blend_all(pixels, 0, factor);
}

/// Scales the distance of every value from the image's mean grey by `factor`.
pub fn contrast(pixels: &mut [u8], factor: f32) {
    let mut sum = 0;
    if !simd::sum_of_greys(pixels, &mut sum) {
        sum = portable::sum_of_greys(pixels);
    }
    let mean = sum as f64 / (pixels.len() / 3) as f64;
    blend_all(pixels, (mean + 0.5) as u8, factor);
}

/// Moves all values away from one degenerate value, or towards it.
pub(crate) fn blend_all(pixels: &mut [u8], degenerate: u8, factor: f32) {
    if !simd::blend_all(pixels, degenerate, factor) {
        portable::blend_all(pixels, degenerate, factor);
    }
}

/// Scales the distance of every value from its pixel's grey by `factor`.
pub fn saturation(pixels: &mut [u8], factor: f32) {
    if !simd::saturation(pixels, factor) {
        portable::saturation(pixels, factor);
    }
}

/// Replaces every pixel by its grey.
pub fn grayscale(pixels: &mut [u8]) {
    if !simd::grayscale(pixels) {
        portable::grayscale(pixels);
    }
}

/// Inverts every value that is `threshold` or more.
pub fn solarize(pixels: &mut [u8], threshold: u8) {
    if !simd::solarize(pixels, threshold) {
        portable::solarize(pixels, threshold);
    }
}

/// The operations for any processor.
pub(crate) mod portable {
    use super::{blend, blend_table, look_up, luma, planes};

    pub(crate) fn blend_all(pixels: &mut [u8], degenerate: u8, factor: f32) {
        look_up(pixels, &blend_table(degenerate, factor));
    }

    pub(crate) fn sum_of_greys(pixels: &mut [u8]) -> u64 {
        let (red, green, blue) = planes(pixels);
        red.iter().zip(&*green).zip(&*blue).map(|((&r, &g), &b)| u64::from(luma(r, g, b))).sum()
    }

    pub(crate) fn saturation(pixels: &mut [u8], factor: f32) {
        let (red, green, blue) = planes(pixels);
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            let grey = luma(*r, *g, *b);
            (*r, *g, *b) = (blend(grey, *r, factor), blend(grey, *g, factor), blend(grey, *b, factor));
        }
    }

    pub(crate) fn grayscale(pixels: &mut [u8]) {
        let (red, green, blue) = planes(pixels);
        for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
            let grey = luma(*r, *g, *b);
            (*r, *g, *b) = (grey, grey, grey);
        }
    }

    pub(crate) fn solarize(pixels: &mut [u8], threshold: u8) {
        pixels.iter_mut().for_each(|value| *value = if *value < threshold { *value } else { 255 - *value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three planar pixels: red-ish, grey, blue-ish.
    const PIXELS: [u8; 9] = [200, 100, 10, 50, 100, 20, 0, 100, 250];

    fn after(operation: impl Fn(&mut [u8])) -> [u8; 9] {
        let mut pixels = PIXELS;
        operation(&mut pixels);
        pixels
    }

    #[test]
    fn factor_one_changes_nothing() {
        for operation in [brightness, contrast, saturation] {
            assert_eq!(after(|pixels| operation(pixels, 1.0)), PIXELS);
        }
    }

    #[test]
    fn factor_zero_gives_the_degenerate_image() {
        // Greys: (19595 200 + 38470 50 + 32768) >> 16 = 89, 100 and 43; their mean is 77.3.
        assert_eq!(after(|pixels| brightness(pixels, 0.0)), [0; 9]);
        assert_eq!(after(|pixels| contrast(pixels, 0.0)), [77; 9]);
        assert_eq!(after(|pixels| saturation(pixels, 0.0)), [89, 100, 43, 89, 100, 43, 89, 100, 43]);
        assert_eq!(after(grayscale), [89, 100, 43, 89, 100, 43, 89, 100, 43]);
    }

    #[test]
    fn results_are_cut_off_and_clipped() {
        // 129.9, 12.99, 64.95, 25.98 lose their fractions; 259.8 and 324.75 leave the range.
        assert_eq!(after(|pixels| brightness(pixels, 1.299)), [255, 129, 12, 64, 129, 25, 0, 129, 255]);
        // The distance from 77, by 1.5: 77 + 184.5, 77 + 34.5, 77 - 100.5.
        assert_eq!(after(|pixels| contrast(pixels, 1.5))[..3], [255, 111, 0]);
    }

    #[test]
    fn solarisation_inverts_from_the_threshold_on() {
        assert_eq!(after(|pixels| solarize(pixels, 100)), [55, 155, 10, 50, 155, 20, 0, 155, 5]);
    }
}
