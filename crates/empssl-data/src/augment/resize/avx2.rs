//! Resizing with AVX2: twofold enlargement of 16 x 16 pixels in bytes, and the general way in 32-bit sums.
//!
//! Rows are resized as columns are, many neighbours at a time, so an image is transposed before and after.

use std::arch::x86_64::*;

use super::weights::{BITS, HALF, WeightPair, Weights};
use super::{CropRows, TurnedScratch};
use crate::augment::lanes::{BLOCK, Bytes, Groups, LANES, at, at_mut, blocks, load, load_half, narrow, pairs, store};
use crate::augment::lanes::{transpose, transpose_block, write_block};

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
    // Lines are filled up to whole registers, with bytes that do not matter.
    let [column, row] = [height, side].map(|len| len.next_multiple_of(LANES));
    scratch.fit([width * column, side * column, height * row]);
    let TurnedScratch { turned, resized, upright } = scratch;
    split_and_turn(crop, column, turned);
    let planes = turned.chunks_exact(width * column).zip(resized.chunks_exact_mut(side * column));
    for ((turned, resized), out) in planes.zip(out.chunks_exact_mut(side * side)) {
        resize_lines(across, turned, flip, resized);
        transpose(resized, column, [side, height], upright, row);
        resize_lines(down, upright, false, out);
    }
}

/// Resizes across lines of whole registers, mirrored if `flip`; lines of the output may be shorter.
#[inline]
#[target_feature(enable = "avx2")]
fn resize_lines(weights: &Weights, lines: &[u8], flip: bool, out: &mut [u8]) {
    let short = out.len() / weights.len();
    let width = short.next_multiple_of(LANES);
    for place in 0..weights.len() {
        let (first, pairs) = weights.pairs_of(place);
        let lines = &lines[first * width..];
        let out = &mut out[if flip { weights.len() - 1 - place } else { place } * short..][..short];
        match pairs {
            [a] => weighted_sum(&[*a], lines, width, out),
            [a, b] => weighted_sum(&[*a, *b], lines, width, out),
            [a, b, c] => weighted_sum(&[*a, *b, *c], lines, width, out),
            [a, b, c, d] => weighted_sum(&[*a, *b, *c, *d], lines, width, out),
            many => weighted_sum_of_many(many, lines, width, out),
        }
    }
}

/// Sums of 32 values, the upper and the lower parts of the weights apart.
///
/// A weight of 23 bits is too wide for the instruction that multiplies 16-bit numbers and adds pairs of products; in
/// two parts the total is exact.
struct Sums {
    upper: Groups<__m256i>,
    lower: Groups<__m256i>,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new() -> Self {
        Self { upper: [_mm256_setzero_si256(); 4], lower: [_mm256_set1_epi32(HALF); 4] }
    }

    /// Adds two values by their weights.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(&mut self, weights: WeightPair, values: [&[u8; LANES]; 2]) {
        let (of_upper, of_lower) = (_mm256_set1_epi32(weights.upper), _mm256_set1_epi32(weights.lower));
        let values = pairs(load(values[0]), load(values[1]));
        for ((upper, lower), values) in self.upper.iter_mut().zip(&mut self.lower).zip(values) {
            *upper = _mm256_add_epi32(*upper, _mm256_madd_epi16(values, of_upper));
            *lower = _mm256_add_epi32(*lower, _mm256_madd_epi16(values, of_lower));
        }
    }

    /// The totals, rounded and clipped.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(self) -> Bytes {
        let mut totals = self.upper;
        for (total, lower) in totals.iter_mut().zip(self.lower) {
            let sum = _mm256_add_epi32(_mm256_slli_epi32::<{ WeightPair::LOWER_BITS as i32 }>(*total), lower);
            *total = _mm256_srai_epi32::<{ BITS as i32 }>(sum);
        }
        narrow(totals)
    }
}

/// The lines that a pair of weights is for; where the second weight is only a filling, the first line twice.
#[inline]
fn lines_of(lines: &[u8], width: usize, place: usize, pair: WeightPair) -> [&[[u8; LANES]]; 2] {
    let second = 2 * place + usize::from(!pair.is_single);
    [2 * place, second].map(|line| lines[line * width..][..width].as_chunks().0)
}

/// The sum of a few lines by weights: their number is known to the compiler.
#[inline]
#[target_feature(enable = "avx2")]
fn weighted_sum<const PAIRS: usize>(weights: &[WeightPair; PAIRS], lines: &[u8], width: usize, out: &mut [u8]) {
    let chunks = width / LANES;
    let mut of_pairs = [[&[][..]; 2]; PAIRS];
    for (place, of_pair) in of_pairs.iter_mut().enumerate() {
        *of_pair = lines_of(lines, width, place, weights[place]).map(|line| &line[..chunks]);
    }
    for chunk in 0..chunks {
        let mut sums = Sums::new();
        for (&weights, lines) in weights.iter().zip(&of_pairs) {
            sums.add(weights, [&lines[0][chunk], &lines[1][chunk]]);
        }
        store_within(out, chunk, sums.total());
    }
}

/// The sum of any number of lines by weights.
#[target_feature(enable = "avx2")]
fn weighted_sum_of_many(weights: &[WeightPair], lines: &[u8], width: usize, out: &mut [u8]) {
    for chunk in 0..width / LANES {
        let mut sums = Sums::new();
        for (place, &weights) in weights.iter().enumerate() {
            sums.add(weights, lines_of(lines, width, place, weights).map(|line| &line[chunk]));
        }
        store_within(out, chunk, sums.total());
    }
}

/// Stores a chunk of a line as far as the line goes.
#[inline]
#[target_feature(enable = "avx2")]
fn store_within(line: &mut [u8], chunk: usize, value: Bytes) {
    let rest = &mut line[chunk * LANES..];
    if let Some(out) = rest.first_chunk_mut() {
        store(out, value);
    } else {
        let mut last = [0; LANES];
        store(&mut last, value);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Writes the columns of a crop as lines of `stride` bytes, one plane after the other.
#[inline]
#[target_feature(enable = "avx2")]
fn split_and_turn(crop: CropRows<'_>, stride: usize, out: &mut [u8]) {
    let plane = crop.width * stride;
    for (top, left) in blocks(crop.height).flat_map(|top| blocks(crop.width).map(move |left| (top, left))) {
        let [mut red, mut green, mut blue] = [[_mm_setzero_si128(); BLOCK]; 3];
        for (y, ((red, green), blue)) in red.iter_mut().zip(&mut green).zip(&mut blue).enumerate() {
            [*red, *green, *blue] = split(at(crop.row(top + y), 3 * left));
        }
        for (block, out) in [red, green, blue].into_iter().zip(out.chunks_exact_mut(plane)) {
            write_block(transpose_block(block), &mut out[left * stride + top..], stride);
        }
    }
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
