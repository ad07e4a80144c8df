//! A box-blur pass over pixels whose neighbours lie at a fixed distance: 1 along rows, the width along columns.

use std::arch::x86_64::*;

use super::lanes::{at, at_mut, load_half, store_half};
use crate::augment::blur::BoxFilter;

/// Outputs of one step.
const STEP: usize = 16;

/// Blurs `source` into `out`: the neighbours of `out[i]` are `source[i]`, `source[i + distance]` and so on.
#[target_feature(enable = "avx2")]
pub(super) fn pass(source: &[u8], out: &mut [u8], distance: usize, filter: BoxFilter) {
    match filter.radius {
        0 => pass_over::<3>(source, out, distance, filter),
        1 => pass_over::<5>(source, out, distance, filter),
        2 => pass_over::<7>(source, out, distance, filter),
        _ => pass_over::<9>(source, out, distance, filter),
    }
}

/// A pass with a box that reaches over so many pixels, those beyond the full ones included.
#[inline]
#[target_feature(enable = "avx2")]
fn pass_over<const REACH: usize>(source: &[u8], out: &mut [u8], distance: usize, filter: BoxFilter) {
    let len = out.len();
    let mut neighbours = [source; REACH];
    for (place, neighbours) in neighbours.iter_mut().enumerate() {
        *neighbours = &source[place * distance..][..len];
    }
    let mut start = 0;
    while start < len {
        // The last step goes back so as not to go too far.
        start = start.min(len - STEP);
        let near = |place: usize| _mm256_cvtepu8_epi16(load_half(at(neighbours[place], start)));
        let mut sum = near(1);
        for place in 2..REACH - 1 {
            sum = _mm256_add_epi16(sum, near(place));
        }
        store_half(at_mut(out, start), weigh(sum, _mm256_add_epi16(near(0), near(REACH - 1)), filter));
        start += STEP;
    }
}

/// The blurred values from the sums over the full pixels and over the two pixels beyond, 16 bits each.
#[inline]
#[target_feature(enable = "avx2")]
fn weigh(sums: __m256i, beyond: __m256i, filter: BoxFilter) -> __m128i {
    let full = _mm256_set1_epi32(filter.full.cast_signed());
    let far = _mm256_set1_epi32(filter.far.cast_signed());
    let weigh = |sums: __m256i, beyond: __m256i| {
        let weighted = _mm256_add_epi32(_mm256_mullo_epi32(sums, full), _mm256_mullo_epi32(beyond, far));
        _mm256_srli_epi32::<24>(_mm256_add_epi32(weighted, _mm256_set1_epi32(1 << 23)))
    };
    let zero = _mm256_setzero_si256();
    let low = weigh(_mm256_unpacklo_epi16(sums, zero), _mm256_unpacklo_epi16(beyond, zero));
    let high = weigh(_mm256_unpackhi_epi16(sums, zero), _mm256_unpackhi_epi16(beyond, zero));
    let words = _mm256_packus_epi32(low, high);
    _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
}
