//! The image operations of the published augmentation, each with the 8-bit arithmetic of Pillow.
//!
//! Colour operations work on *planar* pixels: all red values, then all green, then all blue, one byte each, as the
//! network wants them. [`resize`] reads interleaved images, `[height, width, 3]`, and writes planar patches.
//! The operations reproduce torchvision 0.26's `transforms` on Pillow 13 images byte for byte.
//!
//! Each operation is a folder: its public functions, the form for any processor in `portable`, and the form for AVX2,
//! which is looked for at run time, in `avx2`. The two give the same bytes, as the tests compare. `unsafe` code is here
//! for two things: loads and stores by address, in `lanes`, and the entry into code that needs AVX2, `fastest!`.

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    // The standard library asks the processor once.
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Ends the function with the AVX2 form where the processor and the operands suit it, else with the portable one.
macro_rules! fastest {
    ($avx2:expr, if $suits:expr, else $portable:expr) => {{
        #[cfg(target_arch = "x86_64")]
        if crate::augment::has_avx2() && $suits {
            #[expect(unsafe_code, reason = "the compiler cannot know that the processor has been asked")]
            // SAFETY: the AVX2 forms are safe functions that need AVX2 and FMA; `has_avx2` has found both.
            return unsafe { $avx2 };
        }
        $portable
    }};
}

pub mod blur;
pub mod colour;
pub mod hue;
#[cfg(target_arch = "x86_64")]
mod lanes;
pub mod resize;
#[cfg(test)]
mod tests;

/// Splits planar pixels into their red, green and blue planes.
fn planes(pixels: &mut [u8]) -> (&mut [u8], &mut [u8], &mut [u8]) {
    let plane = pixels.len() / 3;
    let (red, rest) = pixels.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    (red, green, &mut blue[..plane])
}

/// The perceived lightness of a pixel, ITU-R 601 weights in 16-bit fixed point, rounded.
fn luma(red: u8, green: u8, blue: u8) -> u8 {
    let weighted = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
    ((weighted + 0x8000) >> 16) as u8
}

/// Adding it to a float32 from 0 to 2^22 rounds to a whole number, which is then found in the lowest bits.
const TO_WHOLE: f32 = 8_388_608.0;

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
