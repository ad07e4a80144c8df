//! Brightness, contrast, saturation, grayscale and solarisation of planar pixels.
//!
//! The first three move every value away from, or towards, a "degenerate" image: black, the mean grey, the grayscale
//! version of the pixel. A factor of 0 gives the degenerate image, 1 the original, more exaggerates.

use super::{look_up, luma, planes};

/// Pillow's blend: computed in float32, clipped to 0..=255, the fraction cut off (not rounded).
fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (degenerate, value) = (f32::from(degenerate), f32::from(value));
    // The conversion clips and cuts off.
    (degenerate + factor * (value - degenerate)) as u8
}

/// The table of a blend with one degenerate value for the whole image.
fn blend_table(degenerate: u8, factor: f32) -> [u8; 256] {
    std::array::from_fn(|value| blend(degenerate, value as u8, factor))
}

/// Multiplies every value by `factor`.
pub fn brightness(pixels: &mut [u8], factor: f32) {
    look_up(pixels, &blend_table(0, factor));
}

/// Scales the distance of every value from the image's mean grey by `factor`.
pub fn contrast(pixels: &mut [u8], factor: f32) {
    let (red, green, blue) = planes(pixels);
    let greys = red.iter().zip(&*green).zip(&*blue).map(|((&r, &g), &b)| u64::from(luma(r, g, b)));
    let mean = greys.sum::<u64>() as f64 / red.len() as f64;
    look_up(pixels, &blend_table((mean + 0.5) as u8, factor));
}

/// Scales the distance of every value from its pixel's grey by `factor`.
pub fn saturation(pixels: &mut [u8], factor: f32) {
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let grey = luma(*r, *g, *b);
        (*r, *g, *b) = (blend(grey, *r, factor), blend(grey, *g, factor), blend(grey, *b, factor));
    }
}

/// Replaces every pixel by its grey.
pub fn grayscale(pixels: &mut [u8]) {
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let grey = luma(*r, *g, *b);
        (*r, *g, *b) = (grey, grey, grey);
    }
}

/// Inverts every value that is `threshold` or more.
pub fn solarize(pixels: &mut [u8], threshold: u8) {
    pixels.iter_mut().for_each(|value| *value = if *value < threshold { *value } else { 255 - *value });
}
