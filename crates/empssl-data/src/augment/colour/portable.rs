//! Colour operations on any processor.

use crate::augment::{cut_off, luma, planes};

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

/// Replaces every value by its entry in a table.
fn look_up(pixels: &mut [u8], table: &[u8; 256]) {
    pixels.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

pub(super) fn blend_all(pixels: &mut [u8], degenerate: u8, factor: f32) {
    look_up(pixels, &blend_table(degenerate, factor));
}

pub(super) fn sum_of_greys(pixels: &mut [u8]) -> u64 {
    let (red, green, blue) = planes(pixels);
    red.iter().zip(&*green).zip(&*blue).map(|((&r, &g), &b)| u64::from(luma(r, g, b))).sum()
}

pub(super) fn saturation(pixels: &mut [u8], factor: f32) {
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let grey = luma(*r, *g, *b);
        (*r, *g, *b) = (blend(grey, *r, factor), blend(grey, *g, factor), blend(grey, *b, factor));
    }
}

pub(super) fn grayscale(pixels: &mut [u8]) {
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let grey = luma(*r, *g, *b);
        (*r, *g, *b) = (grey, grey, grey);
    }
}

pub(super) fn solarize(pixels: &mut [u8], threshold: u8) {
    pixels.iter_mut().for_each(|value| *value = if *value < threshold { *value } else { 255 - *value });
}
