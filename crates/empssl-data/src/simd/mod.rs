//! The hot operations of [`augment`](crate::augment) written for AVX2, where the processor has it.
//!
//! Every function here answers whether it did its work; where it answers `false`, nothing has been touched and the
//! portable form in `augment` does it. The two give the same bytes, as the tests at the end compare.
//! What a kernel says about its operands is said in [`lanes`]; this is the only module with `unsafe` code, which is
//! there for two things: loads and stores by address, and the entry into code that needs AVX2.

#[cfg(target_arch = "x86_64")]
mod blur;
#[cfg(target_arch = "x86_64")]
mod colour;
#[cfg(target_arch = "x86_64")]
mod hue;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod resample;
#[cfg(test)]
mod tests;

use crate::augment::blur::BoxFilter;
use crate::augment::resample::{CropRows, TurnedScratch};
use crate::augment::weights::Weights;

/// Whether the processor has what the kernels are written for; the standard library asks it once.
fn is_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Runs a kernel if the processor can and the operands are such as it takes.
macro_rules! run {
    ($kernel:expr, if $suits:expr) => {{
        let suits = is_there() && $suits;
        #[cfg(target_arch = "x86_64")]
        if suits {
            #[expect(unsafe_code, reason = "the compiler cannot know that the processor has been asked")]
            // SAFETY: the kernels are safe functions that need AVX2 and FMA; `is_there` has found both.
            unsafe {
                $kernel
            }
        }
        suits
    }};
}

/// Whether blends by this factor stay within the 16 bits that the kernels clip from.
fn is_moderate(factor: f32) -> bool {
    factor.abs() <= 100.0
}

/// See [`brightness`](crate::augment::colour::brightness) and [`contrast`](crate::augment::colour::contrast).
pub(crate) fn blend_all(pixels: &mut [u8], degenerate: u8, factor: f32) -> bool {
    run!(colour::blend_all(pixels, degenerate, factor), if is_moderate(factor))
}

/// See [`saturation`](crate::augment::colour::saturation).
pub(crate) fn saturation(pixels: &mut [u8], factor: f32) -> bool {
    run!(colour::saturation(pixels, factor), if is_moderate(factor))
}

/// See [`grayscale`](crate::augment::colour::grayscale).
pub(crate) fn grayscale(pixels: &mut [u8]) -> bool {
    run!(colour::grayscale(pixels), if true)
}

/// See [`solarize`](crate::augment::colour::solarize).
pub(crate) fn solarize(pixels: &mut [u8], threshold: u8) -> bool {
    run!(colour::solarize(pixels, threshold), if true)
}

/// Writes the sum of the greys of all pixels to `sum`.
pub(crate) fn sum_of_greys(pixels: &mut [u8], sum: &mut u64) -> bool {
    run!(*sum = colour::sum_of_greys(pixels), if true)
}

/// See [`rotate_hue`](crate::augment::hue::rotate_hue); the shift is in levels.
pub(crate) fn rotate_hue(pixels: &mut [u8], shift: u8) -> bool {
    run!(hue::rotate(pixels, shift), if true)
}

/// Whether planes of so many rows and columns can be blurred by [`turn`] and [`blur_pass`]; where the box is wide, a
/// moving sum is better.
pub(crate) fn can_blur(size: [usize; 2], filter: BoxFilter) -> bool {
    is_there() && size.iter().all(|&len| len >= 16) && filter.radius <= 3
}

/// Blurs `source` into `out`: the neighbours of `out[i]` are `source[i]`, `source[i + distance]` and so on, the radius
/// of the filter and one more on either side.
///
/// # Panics
/// Where [`can_blur`] denies it.
pub(crate) fn blur_pass(source: &[u8], out: &mut [u8], distance: usize, filter: BoxFilter) {
    let is_done = run!(blur::pass(source, out, distance, filter), if out.len() >= 16 && filter.radius <= 3);
    assert!(is_done, "a blur that is not for this processor or this filter");
}

/// Writes the columns of a plane of so many rows and columns as rows.
///
/// # Panics
/// Where [`can_blur`] denies it.
pub(crate) fn turn(plane: &[u8], [rows, columns]: [usize; 2], out: &mut [u8]) {
    let is_large = rows >= 16 && columns >= 16;
    let is_done = run!(resample::turn(plane, columns, [rows, columns], out, rows), if is_large);
    assert!(is_done, "a plane of {rows} x {columns} that is not for this processor");
}

/// Enlarges a crop of 16 x 16 pixels twofold into `out`, planar, mirrored if `flip`.
pub(crate) fn double(crop: CropRows<'_>, flip: bool, out: &mut [u8]) -> bool {
    run!(resample::double(crop, flip, out), if [crop.width, crop.height] == [16, 16])
}

/// Resizes a crop by the weights across and down into `out`, planar, mirrored if `flip`.
pub(crate) fn resize(
    crop: CropRows<'_>,
    weights: [&Weights; 2],
    flip: bool,
    scratch: &mut TurnedScratch,
    out: &mut [u8],
) -> bool {
    let is_large = crop.width >= 16 && crop.height >= 16 && weights[1].len() >= 16;
    run!(resample::resize(crop, weights, flip, scratch, out), if is_large)
}
