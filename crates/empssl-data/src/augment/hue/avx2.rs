//! Rotation of the hue with AVX2, 32 pixels at a time: what is 8-bit in the portable form stays in bytes here; what is a float
//! there is the same float here, except where a fused multiply-add provably gives the same bytes.

use std::arch::x86_64::*;

use crate::augment::lanes::{
    Bytes, Floats, Groups, all, floats, map_pixels, narrow, pick, table, to_floats, whole_parts,
};
use crate::augment::lanes::{widen, widen_words, words};

/// Adds `shift` to the hue of all pixels.
#[target_feature(enable = "avx2,fma")]
pub(super) fn rotate(pixels: &mut [u8], shift: u8) {
    let shift = all(shift);
    // Two short loops are faster than a long one, of which the processor has too few rounds in flight.
    map_pixels(pixels, |colours| to_hsv(colours));
    map_pixels(pixels, |[hue, saturation, value]| to_rgb(_mm256_add_epi8(hue, shift), saturation, value));
}

/// Hue, saturation and value of pixels. Greys come out with a hue of 0, as 0 / 0 does in [`whole_parts`].
#[inline]
#[target_feature(enable = "avx2,fma")]
fn to_hsv([red, green, blue]: [Bytes; 3]) -> [Bytes; 3] {
    let (low, high) = (_mm256_min_epu8(red, green), _mm256_max_epu8(red, green));
    let (value, smallest) = (_mm256_max_epu8(high, blue), _mm256_min_epu8(low, blue));
    let middle = _mm256_max_epu8(low, _mm256_min_epu8(high, blue));
    let (is_red, is_green) = (_mm256_cmpeq_epi8(red, value), _mm256_cmpeq_epi8(green, value));
    // The channel before the largest one, going round red, green, blue.
    let before = pick(is_red, blue, pick(is_green, red, green));
    // Which sixth of the wheel: 0, 2, 4 for the largest channel, and 1 more on the side of the channel after it.
    let largest = _mm256_andnot_si256(is_red, pick(is_green, all(2), all(4)));
    let sixth = _mm256_sub_epi8(largest, _mm256_cmpeq_epi8(before, smallest));

    let range = floats(_mm256_sub_epi8(value, smallest));
    let hue = hues(widen(sixth), floats(_mm256_sub_epi8(value, middle)), range);
    let mut saturation = range;
    for (saturation, value) in saturation.iter_mut().zip(floats(value)) {
        *saturation = _mm256_div_ps(_mm256_mul_ps(*saturation, _mm256_set1_ps(255.0)), value);
    }
    [hue, whole_parts(saturation), value]
}

/// Hues from the number of the sixth and from what the middle channel lacks of the largest.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn hues(sixth: Groups<__m256i>, lacks: Groups<Floats>, range: Groups<Floats>) -> Bytes {
    /// Where the sixths begin or end on the wheel, which way they run from there, and whether they are below zero.
    const STARTS: [f32; 8] = [-1.0, 1.0, 1.0, 3.0, 3.0, 5.0, 0.0, 0.0];
    let [s0, s1, s2, s3, s4, s5, s6, s7] = STARTS;
    let starts = _mm256_setr_ps(s0, s1, s2, s3, s4, s5, s6, s7);
    let sides = _mm256_setr_ps(-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.0, 0.0);
    let turns_added = _mm256_setr_ps(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    let mut hues = lacks;
    for ((hue, sixth), range) in hues.iter_mut().zip(sixth).zip(range) {
        let start = _mm256_permutevar8x32_ps(starts, sixth);
        let side = _mm256_permutevar8x32_ps(sides, sixth);
        let sixths = _mm256_fnmadd_ps(side, _mm256_div_ps(*hue, range), start);
        let turns = _mm256_add_ps(a_sixth_of(sixths), _mm256_permutevar8x32_ps(turns_added, sixth));
        *hue = _mm256_mul_ps(turns, _mm256_set1_ps(255.0));
    }
    whole_parts(hues)
}

/// `x` / 6, correctly rounded, without a division: the product with 1/6, corrected by what it leaves over.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn a_sixth_of(x: Floats) -> Floats {
    let sixth = _mm256_set1_ps(1.0 / 6.0);
    let product = _mm256_mul_ps(x, sixth);
    _mm256_fmadd_ps(_mm256_fnmadd_ps(product, _mm256_set1_ps(6.0), x), sixth, product)
}

/// The sixth of the wheel that a hue is in, 6 for the hue of 255.
const fn turn(hue: usize) -> u8 {
    (hue * 6 / 255) as u8
}

/// For every 16 hues, the sixth of the first.
const FIRST_TURNS: [u8; 16] = {
    let mut turns = [0; 16];
    let mut start = 0;
    while start < 16 {
        turns[start] = turn(16 * start);
        start += 1;
    }
    turns
};

/// For every 16 hues, the first that is in the next sixth, otherwise 255.
const NEXT_TURNS: [u8; 16] = {
    let mut hues = [255; 16];
    let mut hue = 255;
    while hue > 0 {
        hue -= 1;
        if turn(hue) != turn(hue / 16 * 16) {
            hues[hue / 16] = hue as u8;
        }
    }
    hues
};

/// Marks the sixths in a table.
const fn marks(sixths: [usize; 3]) -> [u8; 16] {
    let mut table = [0; 16];
    table[sixths[0]] = 255;
    table[sixths[1]] = 255;
    table[sixths[2]] = 255;
    table
}

/// The colours of hues, saturations and values.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn to_rgb(hue: Bytes, saturation: Bytes, value: Bytes) -> [Bytes; 3] {
    let sixteen = _mm256_and_si256(_mm256_srli_epi16::<4>(hue), all(15));
    let next = _mm256_shuffle_epi8(table(&NEXT_TURNS), sixteen);
    let is_next = _mm256_cmpeq_epi8(_mm256_max_epu8(hue, next), hue);
    let turn = _mm256_sub_epi8(_mm256_shuffle_epi8(table(&FIRST_TURNS), sixteen), is_next);
    let at = |sixths| _mm256_shuffle_epi8(table(&sixths), turn);

    // 6 hue - 255 turn, from 0 to 254, of which the low 8 bits suffice.
    let thrice = _mm256_add_epi8(_mm256_add_epi8(hue, hue), hue);
    let depth = _mm256_add_epi8(_mm256_add_epi8(thrice, thrice), turn);
    // It rises in even sixths: there 255 less it is lost.
    let lost = _mm256_xor_si256(depth, pick(at(marks([1, 3, 5])), all(0), all(255)));
    let (middle, empty) = (middle_levels(saturation, lost, value), empty_levels(saturation, value));
    // Sixth 6 is sixth 0.
    [
        pick(at(marks([0, 5, 6])), value, pick(at(marks([1, 4, 4])), middle, empty)),
        pick(at(marks([1, 2, 2])), value, pick(at(marks([0, 3, 6])), middle, empty)),
        pick(at(marks([3, 4, 4])), value, pick(at(marks([2, 5, 5])), middle, empty)),
    ]
}

/// The nearest whole number to value (255^2 - saturation lost) / 255^2.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn middle_levels(saturation: Bytes, lost: Bytes, value: Bytes) -> Bytes {
    let mut left = words(saturation);
    for (left, lost) in left.iter_mut().zip(words(lost)) {
        *left = _mm256_sub_epi16(_mm256_set1_epi16(65_025_u16.cast_signed()), _mm256_mullo_epi16(*left, lost));
    }
    let left = to_floats(widen_words(left));
    let value = floats(value);
    let share = _mm256_set1_ps(1.0 / 65_025.0);
    let to_whole = _mm256_set1_ps(crate::augment::TO_WHOLE);
    let mut levels = widen_words([_mm256_setzero_si256(); 2]);
    for ((level, left), value) in levels.iter_mut().zip(left).zip(value) {
        // One rounding only: the sum is the right whole number for every product of a value and
        // a difference, see the test of all of them.
        let sum = _mm256_fmadd_ps(_mm256_mul_ps(left, value), share, to_whole);
        *level = _mm256_and_si256(_mm256_castps_si256(sum), _mm256_set1_epi32(255));
    }
    narrow(levels)
}

/// The nearest whole number to value (255 - saturation) / 255.
#[inline]
#[target_feature(enable = "avx2")]
fn empty_levels(saturation: Bytes, value: Bytes) -> Bytes {
    let mut lost = words(saturation);
    for (lost, value) in lost.iter_mut().zip(words(value)) {
        // x / 255 for x below 2^16, rounded.
        let product = _mm256_add_epi16(_mm256_mullo_epi16(*lost, value), _mm256_set1_epi16(128));
        *lost = _mm256_srli_epi16::<8>(_mm256_add_epi16(product, _mm256_srli_epi16::<8>(product)));
    }
    _mm256_sub_epi8(value, _mm256_packus_epi16(lost[0], lost[1]))
}
