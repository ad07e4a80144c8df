//! Resizing on any processor.

use super::weights::{BITS, HALF, Weights};
use super::{CropRows, ResizeScratch, ResizedCrop};

/// The general way, for any sizes.
pub(super) fn resize(
    resized: &ResizedCrop,
    crop: CropRows<'_>,
    [across, down]: [&Weights; 2],
    narrow: &mut Vec<u8>,
    sums: &mut Vec<i32>,
    out: &mut [u8],
) {
    let ResizedCrop { side, flip, .. } = *resized;
    let plane = crop.height * side;
    narrow.resize(3 * plane, 0);
    for y in 0..crop.height {
        resize_row(across, crop.row(y), flip, &mut narrow[y * side..], plane, side);
    }
    for (narrow, out) in narrow.chunks_exact(plane).zip(out.chunks_exact_mut(side * side)) {
        resize_columns(down, narrow, out, side, sums);
    }
}

/// Exactly twofold enlargement by the triangle filter, which is what the 32-pixel recipe does to every patch: the
/// general way with weights of exactly 3/4 and 1/4, in 16 bits instead of 32.
pub(super) fn double(resized: &ResizedCrop, crop: CropRows<'_>, scratch: &mut ResizeScratch, out: &mut [u8]) {
    let (side, small) = (resized.side, resized.side / 2);
    let ResizeScratch { narrow, line, .. } = scratch;
    let plane = small * side;
    narrow.resize(3 * plane, 0);
    line.resize(small + 2, 0);
    for (y, channel) in (0..small).flat_map(|y| (0..3).map(move |channel| (y, channel))) {
        line[1..].iter_mut().zip(crop.row(y).chunks_exact(3)).for_each(|(value, pixel)| *value = pixel[channel]);
        if resized.flip {
            line[1..=small].reverse();
        }
        (line[0], line[small + 1]) = (line[1], line[small]);
        let wide = narrow[channel * plane + y * side..].chunks_exact_mut(2);
        for (pair, near) in wide.zip(line.windows(3)) {
            (pair[0], pair[1]) = (mix(near[1], near[0]), mix(near[1], near[2]));
        }
    }
    for (narrow, out) in narrow.chunks_exact(plane).zip(out.chunks_exact_mut(side * side)) {
        let row = |y: usize| &narrow[y.min(small - 1) * side..][..side];
        for (y, pair) in out.chunks_exact_mut(2 * side).enumerate() {
            let (upper, lower) = pair.split_at_mut(side);
            mix_rows(row(y), row(y.saturating_sub(1)), upper);
            mix_rows(row(y), row(y + 1), lower);
        }
    }
}

/// Resizes one interleaved row and writes it to the three planes of `out`, mirrored if `flip`.
fn resize_row(weights: &Weights, row: &[u8], flip: bool, out: &mut [u8], plane: usize, side: usize) {
    for pixel in 0..weights.len() {
        let (first, weights) = weights.of(pixel);
        let (mut red, mut green, mut blue) = (HALF, HALF, HALF);
        for (input, weight) in row[3 * first..].chunks_exact(3).zip(weights) {
            red += i32::from(input[0]) * weight;
            green += i32::from(input[1]) * weight;
            blue += i32::from(input[2]) * weight;
        }
        let x = if flip { side - 1 - pixel } else { pixel };
        out[x] = round_and_clip(red);
        out[plane + x] = round_and_clip(green);
        out[2 * plane + x] = round_and_clip(blue);
    }
}

/// Resizes all columns of one plane, a whole row at a time.
fn resize_columns(weights: &Weights, plane: &[u8], out: &mut [u8], width: usize, sums: &mut Vec<i32>) {
    for (pixel, out) in out.chunks_exact_mut(width).enumerate() {
        let (first, weights) = weights.of(pixel);
        sums.clear();
        sums.resize(width, HALF);
        for (row, weight) in plane[first * width..].chunks_exact(width).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i32::from(value) * weight);
        }
        out.iter_mut().zip(sums.iter()).for_each(|(out, &sum)| *out = round_and_clip(sum));
    }
}

fn round_and_clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Three parts of one value and one part of another, rounded.
#[inline(always)]
fn mix(three: u8, one: u8) -> u8 {
    ((3 * u16::from(three) + u16::from(one) + 2) >> 2) as u8
}

fn mix_rows(three: &[u8], one: &[u8], out: &mut [u8]) {
    out.iter_mut().zip(three).zip(one).for_each(|((out, &three), &one)| *out = mix(three, one));
}
