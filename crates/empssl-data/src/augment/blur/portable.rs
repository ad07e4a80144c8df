//! The blur on any processor.

use super::{BlurScratch, BoxFilter, PASSES};

/// Blurs planar pixels with any filter: sums that move along.
pub(super) fn blur(pixels: &mut [u8], width: usize, filter: BoxFilter, scratch: &mut BlurScratch) {
    for row in pixels.chunks_exact_mut(width) {
        (0..PASSES).for_each(|_| blur_row(row, filter, &mut scratch.line));
    }
    let plane = pixels.len() / 3;
    for plane in pixels.chunks_exact_mut(plane) {
        (0..PASSES).for_each(|_| blur_columns(plane, width, filter, scratch));
    }
}

/// One pass along a row: the sum over the box moves by one pixel a step.
pub(super) fn blur_row(row: &mut [u8], filter: BoxFilter, padded: &mut Vec<u8>) {
    let reach = filter.radius + 1;
    padded.clear();
    padded.resize(reach, row[0]);
    padded.extend_from_slice(row);
    padded.resize(row.len() + 2 * reach, row[row.len() - 1]);
    let mut sum: u32 = padded[..2 * filter.radius + 1].iter().map(|&value| u32::from(value)).sum();
    let window = 2 * reach + 1;
    for (value, window) in row.iter_mut().zip(padded.windows(window)) {
        let (left, right) = (window[0], window[window.len() - 1]);
        sum = sum + u32::from(window[window.len() - 2]) - u32::from(left);
        *value = filter.weigh(sum, left, right);
    }
}

/// One pass along all columns of a plane at once: the sums of a whole row move down by one row a step.
pub(super) fn blur_columns(plane: &mut [u8], width: usize, filter: BoxFilter, scratch: &mut BlurScratch) {
    let height = plane.len() / width;
    let BlurScratch { line: source, sums, .. } = scratch;
    source.clear();
    source.extend_from_slice(plane);
    let row = |y: usize| {
        let y = y.saturating_sub(filter.radius + 1).min(height - 1);
        &source[y * width..][..width]
    };
    // Row numbers below are counted from radius + 1 rows above the plane.
    sums.clear();
    sums.resize(width, 0);
    for y in 0..=2 * filter.radius {
        sums.iter_mut().zip(row(y)).for_each(|(sum, &value)| *sum += u32::from(value));
    }
    for (y, out) in plane.chunks_exact_mut(width).enumerate() {
        let (above, last, below) = (row(y), row(y + 2 * filter.radius + 1), row(y + 2 * filter.radius + 2));
        for ((((out, sum), &above), &last), &below) in
            out.iter_mut().zip(sums.iter_mut()).zip(above).zip(last).zip(below)
        {
            *sum = *sum + u32::from(last) - u32::from(above);
            *out = filter.weigh(*sum, above, below);
        }
    }
}
