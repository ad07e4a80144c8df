//! The image operations of the published augmentation, each with the 8-bit arithmetic of Pillow.
//!
//! Colour operations work on *planar* pixels: all red values, then all green, then all blue, one byte each, as the
//! network wants them. [`resample`] reads interleaved images, `[height, width, 3]`, and writes planar patches.
//! The operations reproduce torchvision 0.26's `transforms` on Pillow 13 images byte for byte.

pub mod blur;
pub mod colour;
pub mod hue;
pub mod resample;
pub(crate) mod weights;

/// Splits planar pixels into their red, green and blue planes.
pub(crate) fn planes(pixels: &mut [u8]) -> (&mut [u8], &mut [u8], &mut [u8]) {
    let plane = pixels.len() / 3;
    let (red, rest) = pixels.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    (red, green, &mut blue[..plane])
}

/// Replaces every value by its entry in a table; what brightness, contrast and solarisation come down to.
fn look_up(pixels: &mut [u8], table: &[u8; 256]) {
    pixels.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// The perceived lightness of a pixel, ITU-R 601 weights in 16-bit fixed point, rounded.
pub(crate) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    let weighted = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((weighted + 0x8000) >> 16) as u8
}

/// Adding it to a float32 from 0 to 2^22 rounds to a whole number, which is then found in the lowest bits.
pub(crate) const TO_WHOLE: f32 = 8_388_608.0;

/// The nearest whole number to a `value` from 0 to 255.
///
/// Unlike a cast, which clips as well, this compiles to a few instructions for many values at a time.
#[inline(always)]
fn round(value: f32) -> u8 {
    (value + TO_WHOLE).to_bits() as u8
}

/// The whole part of a `value` from 0 to 255.
#[inline(always)]
fn cut_off(value: f32) -> u8 {
    let rounded = value + TO_WHOLE;
    let is_above = rounded - TO_WHOLE > value;
    (rounded.to_bits() as u8).wrapping_sub(u8::from(is_above))
}
