//! What the AVX2 forms share: 32 bytes in a register, how they become wider numbers and come back, and transposing.
//!
//! Loads and stores by address are in this module alone.
//!
//! Widening splits 32 bytes into four *groups* of eight 32-bit lanes. Group i holds bytes 4 i to 4 i + 3 of either
//! half of the register, because that is the order in which the instructions that narrow put them back.

use std::arch::x86_64::*;

use super::planes;

/// 32 unsigned bytes.
pub(super) type Bytes = __m256i;
/// Eight floats.
pub(super) type Floats = __m256;
/// 32 values as four groups of eight, in 32 bits each.
pub(super) type Groups<T> = [T; 4];

/// Bytes of one register.
pub(super) const LANES: usize = 32;

/// Rows and columns of the blocks that are transposed at a time.
pub(super) const BLOCK: usize = 16;

/// The `N` bytes at a place.
#[inline]
pub(super) fn at<const N: usize>(bytes: &[u8], place: usize) -> &[u8; N] {
    &bytes[place..place + N].as_chunks().0[0]
}

/// The `N` bytes at a place, to be written.
#[inline]
pub(super) fn at_mut<const N: usize>(bytes: &mut [u8], place: usize) -> &mut [u8; N] {
    &mut bytes[place..place + N].as_chunks_mut().0[0]
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "loads are by address")]
pub(super) fn load(bytes: &[u8; LANES]) -> Bytes {
    // SAFETY: the reference is good for 32 bytes, and the instruction asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "stores are by address")]
pub(super) fn store(bytes: &mut [u8; LANES], value: Bytes) {
    // SAFETY: the reference is good for 32 bytes, and the instruction asks for no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "loads are by address")]
pub(super) fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the reference is good for 16 bytes, and the instruction asks for no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "stores are by address")]
pub(super) fn store_half(bytes: &mut [u8; 16], value: __m128i) {
    // SAFETY: the reference is good for 16 bytes, and the instruction asks for no alignment.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}

/// A table of 16 bytes in either half, as [`_mm256_shuffle_epi8`] looks values up.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn table(entries: &[u8; 16]) -> Bytes {
    _mm256_broadcastsi128_si256(load_half(entries))
}

/// The same byte in all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn all(value: u8) -> Bytes {
    _mm256_set1_epi8(value.cast_signed())
}

/// `yes` where the mask is set, `no` elsewhere.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pick(mask: Bytes, yes: Bytes, no: Bytes) -> Bytes {
    _mm256_blendv_epi8(no, yes, mask)
}

/// Bytes as unsigned 32-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn widen(bytes: Bytes) -> Groups<__m256i> {
    const fn spread(group: u8) -> [u8; 16] {
        // A set top bit gives a zero.
        let mut places = [0x80; 16];
        let mut lane = 0;
        while lane < 4 {
            places[4 * lane] = 4 * group + lane as u8;
            lane += 1;
        }
        places
    }
    const PLACES: [[u8; 16]; 4] = [spread(0), spread(1), spread(2), spread(3)];
    [
        _mm256_shuffle_epi8(bytes, table(&PLACES[0])),
        _mm256_shuffle_epi8(bytes, table(&PLACES[1])),
        _mm256_shuffle_epi8(bytes, table(&PLACES[2])),
        _mm256_shuffle_epi8(bytes, table(&PLACES[3])),
    ]
}

/// Unsigned 16-bit numbers, the lower and the upper eight of either half, as 32-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn widen_words([low, high]: [__m256i; 2]) -> Groups<__m256i> {
    let zero = _mm256_setzero_si256();
    [
        _mm256_unpacklo_epi16(low, zero),
        _mm256_unpackhi_epi16(low, zero),
        _mm256_unpacklo_epi16(high, zero),
        _mm256_unpackhi_epi16(high, zero),
    ]
}

/// Bytes as 16-bit numbers: the lower and the upper eight of either half.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn words(bytes: Bytes) -> [__m256i; 2] {
    let zero = _mm256_setzero_si256();
    [_mm256_unpacklo_epi8(bytes, zero), _mm256_unpackhi_epi8(bytes, zero)]
}

/// Bytes of two registers side by side, as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn pairs(a: Bytes, b: Bytes) -> Groups<__m256i> {
    let [low, high] = [words(_mm256_unpacklo_epi8(a, b)), words(_mm256_unpackhi_epi8(a, b))];
    [low[0], low[1], high[0], high[1]]
}

/// 32-bit numbers as bytes, those beyond 0 to 255 clipped; the numbers must fit 16 bits, which are signed.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn narrow([a, b, c, d]: Groups<__m256i>) -> Bytes {
    _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d))
}

/// 32-bit integers as floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn to_floats([a, b, c, d]: Groups<__m256i>) -> Groups<Floats> {
    [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b), _mm256_cvtepi32_ps(c), _mm256_cvtepi32_ps(d)]
}

/// Bytes as floats.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn floats(bytes: Bytes) -> Groups<Floats> {
    to_floats(widen(bytes))
}

/// The whole parts of floats within 16 bits, clipped to 0 to 255; 0 for NaN.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn whole_parts([a, b, c, d]: Groups<Floats>) -> Bytes {
    narrow([_mm256_cvttps_epi32(a), _mm256_cvttps_epi32(b), _mm256_cvttps_epi32(c), _mm256_cvttps_epi32(d)])
}

/// Replaces all bytes, 32 at a time; a shorter rest is filled up with zeros.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn map(pixels: &mut [u8], operation: impl Fn(Bytes) -> Bytes) {
    let (whole, rest) = pixels.as_chunks_mut();
    for chunk in whole {
        store(chunk, operation(load(chunk)));
    }
    if !rest.is_empty() {
        let mut last = padded(rest);
        let changed = operation(load(&last));
        store(&mut last, changed);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Replaces all pixels of three planes, 32 at a time; a shorter rest is filled up with black.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn map_pixels(pixels: &mut [u8], operation: impl Fn([Bytes; 3]) -> [Bytes; 3]) {
    let (red, green, blue) = planes(pixels);
    let ((reds, red), (greens, green), (blues, blue)) =
        (red.as_chunks_mut(), green.as_chunks_mut(), blue.as_chunks_mut());
    for ((r, g), b) in reds.iter_mut().zip(greens).zip(blues) {
        let changed = operation([load(r), load(g), load(b)]);
        store(r, changed[0]);
        store(g, changed[1]);
        store(b, changed[2]);
    }
    if !red.is_empty() {
        let changed = operation([load(&padded(red)), load(&padded(green)), load(&padded(blue))]);
        for (rest, value) in [red, green, blue].into_iter().zip(changed) {
            let mut last = [0; LANES];
            store(&mut last, value);
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

/// A chunk that starts with `rest` and goes on with zeros.
fn padded(rest: &[u8]) -> [u8; LANES] {
    let mut chunk = [0; LANES];
    chunk[..rest.len()].copy_from_slice(rest);
    chunk
}

/// The starts of blocks that cover `len` items, the last moved back so as not to stand out.
pub(super) fn blocks(len: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(BLOCK)).map(move |place| (place * BLOCK).min(len - BLOCK))
}

/// Transposes `rows` lines, `stride` apart, of `columns` bytes each, into lines that are `out_stride` apart.
#[target_feature(enable = "avx2")]
pub(super) fn transpose(lines: &[u8], stride: usize, [rows, columns]: [usize; 2], out: &mut [u8], out_stride: usize) {
    for (top, left) in blocks(rows).flat_map(|top| blocks(columns).map(move |left| (top, left))) {
        let mut block = [_mm_setzero_si128(); BLOCK];
        for (y, line) in block.iter_mut().enumerate() {
            *line = load_half(at(lines, (top + y) * stride + left));
        }
        write_block(transpose_block(block), &mut out[left * out_stride + top..], out_stride);
    }
}

/// Writes the lines of a block, `stride` apart.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn write_block(block: [__m128i; BLOCK], out: &mut [u8], stride: usize) {
    for (y, line) in block.into_iter().enumerate() {
        store_half(at_mut(out, y * stride), line);
    }
}

/// Transposes 16 x 16 bytes: four times, the bytes of the first eight lines are interleaved with those of the last eight.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose_block(mut lines: [__m128i; BLOCK]) -> [__m128i; BLOCK] {
    for _ in 0..4 {
        let before = lines;
        for place in 0..BLOCK / 2 {
            let (a, b) = (before[place], before[place + BLOCK / 2]);
            (lines[2 * place], lines[2 * place + 1]) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b));
        }
    }
    lines
}
