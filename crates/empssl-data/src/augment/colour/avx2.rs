//! Blends, greys and solarisation with AVX2: the float32 steps of the portable forms in the same order.

use std::arch::x86_64::*;

use crate::augment::lanes::{
    Bytes, Groups, LANES, all, floats, load, map, map_pixels, narrow, pairs, to_floats, whole_parts, widen,
};
use crate::augment::planes;

/// Moves all values away from one degenerate value, or towards it.
#[target_feature(enable = "avx2")]
pub(super) fn blend_all(pixels: &mut [u8], degenerate: u8, factor: f32) {
    if degenerate == 0 {
        let factor = _mm256_set1_ps(factor);
        map(pixels, |values| {
            let [a, b, c, d] = floats(values);
            let scale = |values| _mm256_mul_ps(factor, values);
            whole_parts([scale(a), scale(b), scale(c), scale(d)])
        });
    } else {
        let degenerate = [_mm256_set1_epi32(i32::from(degenerate)); 4];
        map(pixels, |values| blend(degenerate, values, factor));
    }
}

/// Moves all values away from the grey of their pixel, or towards it.
#[target_feature(enable = "avx2")]
pub(super) fn saturation(pixels: &mut [u8], factor: f32) {
    map_pixels(pixels, |[red, green, blue]| {
        let grey = widen(luma(red, green, blue));
        [blend(grey, red, factor), blend(grey, green, factor), blend(grey, blue, factor)]
    });
}

/// Replaces every pixel by its grey.
#[target_feature(enable = "avx2")]
pub(super) fn grayscale(pixels: &mut [u8]) {
    map_pixels(pixels, |[red, green, blue]| [luma(red, green, blue); 3]);
}

/// The sum of the greys of all pixels.
#[target_feature(enable = "avx2")]
pub(super) fn sum_of_greys(pixels: &mut [u8]) -> u64 {
    let (red, green, blue) = planes(pixels);
    let ((reds, red), (greens, green), (blues, blue)) = (red.as_chunks(), green.as_chunks(), blue.as_chunks());
    let mut sums = _mm256_setzero_si256();
    for ((r, g), b) in reds.iter().zip(greens).zip(blues) {
        let grey = luma(load(r), load(g), load(b));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(grey, _mm256_setzero_si256()));
    }
    let lanes = [_mm256_extract_epi64::<0>(sums), _mm256_extract_epi64::<1>(sums)];
    let more = [_mm256_extract_epi64::<2>(sums), _mm256_extract_epi64::<3>(sums)];
    let whole = lanes.iter().chain(&more).map(|lane| lane.cast_unsigned()).sum::<u64>();
    let rest = red.iter().zip(green).zip(blue).map(|((&r, &g), &b)| u64::from(crate::augment::luma(r, g, b)));
    debug_assert!(red.len() < LANES);
    whole + rest.sum::<u64>()
}

/// Inverts every value that is `threshold` or more.
#[target_feature(enable = "avx2")]
pub(super) fn solarize(pixels: &mut [u8], threshold: u8) {
    let threshold = all(threshold);
    map(pixels, |values| {
        let is_bright = _mm256_cmpeq_epi8(_mm256_max_epu8(values, threshold), values);
        _mm256_xor_si256(values, is_bright)
    });
}

/// Pillow's blend, as the portable form of the same name; differences are taken before the values become floats.
#[inline]
#[target_feature(enable = "avx2")]
fn blend(degenerate: Groups<__m256i>, values: Bytes, factor: f32) -> Bytes {
    let factor = _mm256_set1_ps(factor);
    let values = widen(values);
    let mut blended = to_floats(degenerate);
    for ((blended, value), degenerate) in blended.iter_mut().zip(values).zip(degenerate) {
        let distance = _mm256_cvtepi32_ps(_mm256_sub_epi32(value, degenerate));
        *blended = _mm256_add_ps(*blended, _mm256_mul_ps(factor, distance));
    }
    whole_parts(blended)
}

/// The grey of pixels; the weight of green, too large for signed 16 bits, is spent in two halves.
#[inline]
#[target_feature(enable = "avx2")]
fn luma(red: Bytes, green: Bytes, blue: Bytes) -> Bytes {
    let of_red_green = _mm256_set1_epi32(19_235 << 16 | 19_595);
    let of_green_blue = _mm256_set1_epi32(7_471 << 16 | 19_235);
    let [red_green, green_blue] = [pairs(red, green), pairs(green, blue)];
    let mut greys = red_green;
    for (grey, other) in greys.iter_mut().zip(green_blue) {
        let sum = _mm256_add_epi32(_mm256_madd_epi16(*grey, of_red_green), _mm256_madd_epi16(other, of_green_blue));
        *grey = _mm256_srli_epi32::<16>(_mm256_add_epi32(sum, _mm256_set1_epi32(0x8000)));
    }
    narrow(greys)
}
