//! Resizing: twofold enlargement of 16 x 16 pixels in bytes, and the general way in 32-bit sums.
//!
//! Rows are resized as columns are, many neighbours at a time, so an image is turned (transposed) before and after.

use std::arch::x86_64::*;

use super::lanes::{LANES, at, at_mut, load, load_half, narrow, pairs, store, store_half};
use crate::augment::resample::{CropRows, TurnedScratch};
use crate::augment::weights::{BITS, HALF, WeightPair, Weights};

/// Rows and columns of the blocks that are turned at a time.
const BLOCK: usize = 16;

/// Three planes of 16 bytes.
type Split = [__m128i; 3];

/// Enlarges a crop of 16 x 16 pixels to 32 x 32 planar ones, mirrored if `flip`.
#[target_feature(enable = "avx2")]
pub(super) fn double(crop: CropRows<'_>, flip: bool, out: &mut [u8]) {
    let mut wide = [[_mm256_setzero_si256(); BLOCK]; 3];
    for y in 0..BLOCK {
        let line = split(at(crop.row(y), 0));
        for (wide, mut line) in wide.iter_mut().zip(line) {
            if flip {
                line = _mm_shuffle_epi8(line, load_half(&[15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]));
            }
            wide[y] = double_row(line);
        }
    }
    let (rows, _) = out.as_chunks_mut::<{ 2 * LANES }>();
    for (wide, rows) in wide.iter().zip(rows.chunks_exact_mut(BLOCK)) {
        for (y, pair) in rows.iter_mut().enumerate() {
            let (upper, lower) = pair.split_at_mut(LANES);
            let neighbours = [wide[y.saturating_sub(1)], wide[(y + 1).min(BLOCK - 1)]];
            for (out, neighbour) in [upper, lower].into_iter().zip(neighbours) {
                store(at_mut(out, 0), mix(wide[y], neighbour));
            }
        }
    }
}

/// Enlarges a row of 16 pixels.
#[inline]
#[target_feature(enable = "avx2")]
fn double_row(line: __m128i) -> __m256i {
    const BEFORE: [u8; 16] = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    const AFTER: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15];
    let twice = _mm256_broadcastsi128_si256(line);
    let neighbours = _mm256_shuffle_epi8(twice, _mm256_set_m128i(load_half(&AFTER), load_half(&BEFORE)));
    let mixed = mix(twice, neighbours);
    let (left, right) = (_mm256_castsi256_si128(mixed), _mm256_extracti128_si256::<1>(mixed));
    _mm256_set_m128i(_mm_unpackhi_epi8(left, right), _mm_unpacklo_epi8(left, right))
}

/// Three parts of one value and one part of another, rounded: (3 a + b + 2) / 4 is the mean, rounded up, of a and the
/// mean, rounded down, of a and b.
#[inline]
#[target_feature(enable = "avx2")]
fn mix(three: __m256i, one: __m256i) -> __m256i {
    let is_odd = _mm256_and_si256(_mm256_xor_si256(three, one), _mm256_set1_epi8(1));
    _mm256_avg_epu8(three, _mm256_sub_epi8(_mm256_avg_epu8(three, one), is_odd))
}

/// Resizes a crop to planar pixels, mirrored if `flip`.
#[target_feature(enable = "avx2")]
pub(super) fn resize(
    crop: CropRows<'_>,
    [across, down]: [&Weights; 2],
    flip: bool,
    scratch: &mut TurnedScratch,
    out: &mut [u8],
) {
    let (width, height, side) = (crop.width, crop.height, down.len());
    // Columns become lines; lines shorter than a register are filled up.
    let stride = height.max(LANES);
    scratch.fit(width, stride, height, side);
    let TurnedScratch { turned, resized, upright } = scratch;
    split_and_turn(crop, stride, turned);
    for ((turned, resized), out) in turned
        .chunks_exact(width * stride)
        .zip(resized.chunks_exact_mut(side * stride))
        .zip(out.chunks_exact_mut(side * side))
    {
        resize_lines(across, turned, stride, flip, resized);
        turn(resized, stride, [side, height], upright);
        resize_lines(down, upright, side, false, out);
    }
}

/// The starts of blocks that cover `len` items, the last moved back so as not to stand out.
fn blocks(len: usize, block: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(block)).map(move |place| (place * block).min(len - block))
}

/// Resizes across lines of `width` values each, mirrored if `flip`.
#[inline]
#[target_feature(enable = "avx2")]
fn resize_lines(weights: &Weights, lines: &[u8], width: usize, flip: bool, out: &mut [u8]) {
    for place in 0..weights.len() {
        let (first, weights_here) = weights.pairs_of(place);
        let out = &mut out[if flip { weights.len() - 1 - place } else { place } * width..][..width];
        let lines = &lines[first * width..];
        for start in blocks(width, LANES) {
            store(at_mut(out, start), weighted_sum(weights_here, &lines[start..], width));
        }
    }
}

/// The sum of lines by weights, rounded and clipped.
///
/// A weight of 23 bits is too wide for the instruction that multiplies 16-bit numbers and adds pairs of products, so
/// its upper and its lower part are summed apart: the total is exact.
#[inline]
#[target_feature(enable = "avx2")]
fn weighted_sum(weights: &[WeightPair], lines: &[u8], width: usize) -> __m256i {
    let mut upper = [_mm256_setzero_si256(); 4];
    let mut lower = [_mm256_set1_epi32(HALF); 4];
    for (place, pair) in weights.iter().enumerate() {
        let first = load(at(lines, 2 * place * width));
        // The last pair may be a single weight and a zero, for which there need not be a line.
        let second = if pair.is_single { first } else { load(at(lines, (2 * place + 1) * width)) };
        let (of_upper, of_lower) = (_mm256_set1_epi32(pair.upper), _mm256_set1_epi32(pair.lower));
        for ((upper, lower), values) in upper.iter_mut().zip(&mut lower).zip(pairs(first, second)) {
            *upper = _mm256_add_epi32(*upper, _mm256_madd_epi16(values, of_upper));
            *lower = _mm256_add_epi32(*lower, _mm256_madd_epi16(values, of_lower));
        }
    }
    for (upper, lower) in upper.iter_mut().zip(lower) {
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ WeightPair::LOWER_BITS as i32 }>(*upper), lower);
        *upper = _mm256_srai_epi32::<{ BITS as i32 }>(sum);
    }
    narrow(upper)
}

/// Writes the columns of a crop as lines of `stride` bytes, one plane after the other.
#[inline]
#[target_feature(enable = "avx2")]
fn split_and_turn(crop: CropRows<'_>, stride: usize, out: &mut [u8]) {
    let plane = crop.width * stride;
    for (top, left) in blocks(crop.height, BLOCK).flat_map(|top| blocks(crop.width, BLOCK).map(move |left| (top, left)))
    {
        let mut planes = [[_mm_setzero_si128(); BLOCK]; 3];
        for y in 0..BLOCK {
            let [red, green, blue] = split(at(crop.row(top + y), 3 * left));
            (planes[0][y], planes[1][y], planes[2][y]) = (red, green, blue);
        }
        for (block, out) in planes.into_iter().zip(out.chunks_exact_mut(plane)) {
            write_block(turn_block(block), &mut out[left * stride + top..], stride);
        }
    }
}

/// Turns `rows` lines, `stride` apart, of `columns` bytes each.
#[inline]
#[target_feature(enable = "avx2")]
fn turn(lines: &[u8], stride: usize, [rows, columns]: [usize; 2], out: &mut [u8]) {
    for (top, left) in blocks(rows, BLOCK).flat_map(|top| blocks(columns, BLOCK).map(move |left| (top, left))) {
        let mut block = [_mm_setzero_si128(); BLOCK];
        for (y, line) in block.iter_mut().enumerate() {
            *line = load_half(at(lines, (top + y) * stride + left));
        }
        write_block(turn_block(block), &mut out[left * rows + top..], rows);
    }
}

/// Writes the lines of a block, `stride` apart.
#[inline]
#[target_feature(enable = "avx2")]
fn write_block(block: [__m128i; BLOCK], out: &mut [u8], stride: usize) {
    for (y, line) in block.into_iter().enumerate() {
        store_half(at_mut(out, y * stride), line);
    }
}

/// Transposes 16 x 16 bytes: four perfect shuffles of the lines as a deck of cards.
#[inline]
#[target_feature(enable = "avx2")]
fn turn_block(mut lines: [__m128i; BLOCK]) -> [__m128i; BLOCK] {
    for _ in 0..4 {
        let deck = lines;
        for place in 0..BLOCK / 2 {
            let (a, b) = (deck[place], deck[place + BLOCK / 2]);
            (lines[2 * place], lines[2 * place + 1]) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b));
        }
    }
    lines
}

/// 16 interleaved pixels as red, green and blue.
#[inline]
#[target_feature(enable = "avx2")]
fn split(pixels: &[u8; 48]) -> Split {
    let (parts, _) = pixels.as_chunks();
    let parts = [load_half(&parts[0]), load_half(&parts[1]), load_half(&parts[2])];
    let plane = |channel: usize| {
        let part = |part: usize| _mm_shuffle_epi8(parts[part], load_half(&PLACES[channel][part]));
        _mm_or_si128(_mm_or_si128(part(0), part(1)), part(2))
    };
    [plane(0), plane(1), plane(2)]
}

/// For every channel and every 16 of the 48 bytes of interleaved pixels, where the values of the channel lie.
const PLACES: [[[u8; 16]; 3]; 3] = {
    // A set top bit gives a zero.
    let mut places = [[[0x80; 16]; 3]; 3];
    let mut byte = 0;
    while byte < 48 {
        places[byte % 3][byte / 16][byte / 3] = (byte % 16) as u8;
        byte += 1;
    }
    places
};
