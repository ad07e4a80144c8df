//! The blur with AVX2: passes over pixels whose neighbours lie at a fixed distance, the width of the plane.

use std::arch::x86_64::*;

use super::{BoxFilter, PASSES};
use crate::augment::lanes::{at, at_mut, load_half, store_half, transpose};

/// Outputs of one step.
const STEP: usize = 16;

/// Blurs planar pixels of 16 rows and columns at least: along the columns of the transposed planes, then along their own.
#[target_feature(enable = "avx2")]
pub(super) fn blur(pixels: &mut [u8], width: usize, filter: BoxFilter, scratch: &mut [Vec<u8>; 2]) {
    let plane = pixels.len() / 3;
    let (reach, height) = (filter.radius + 1, plane / width);
    let len = plane + 2 * reach * width.max(height);
    scratch.iter_mut().for_each(|buffer| buffer.resize(buffer.len().max(len), 0));
    let [from, to] = scratch;
    for pixels in pixels.chunks_exact_mut(plane) {
        // Rows come first, as columns of the transposed plane.
        transpose(pixels, width, [height, width], &mut from[reach * height..], height);
        blur_lines(from, to, height, plane, filter);
        transpose(&from[reach * height..], height, [width, height], &mut to[reach * width..], width);
        blur_lines(to, from, width, plane, filter);
        pixels.copy_from_slice(&to[reach * width..][..plane]);
    }
}

/// All passes across lines, which lie in `lines` behind room for those beyond the first; the result lies there too.
#[target_feature(enable = "avx2")]
fn blur_lines(lines: &mut Vec<u8>, other: &mut Vec<u8>, width: usize, plane: usize, filter: BoxFilter) {
    let pad = (filter.radius + 1) * width;
    for _ in 0..PASSES {
        repeat_edges(&mut lines[..plane + 2 * pad], width, pad);
        pass(&lines[..plane + 2 * pad], &mut other[pad..pad + plane], width, filter);
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

/// Blurs `source` into `out`: the neighbours of `out[i]` are `source[i]`, `source[i + distance]` and so on.
#[target_feature(enable = "avx2")]
fn pass(source: &[u8], out: &mut [u8], distance: usize, filter: BoxFilter) {
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
