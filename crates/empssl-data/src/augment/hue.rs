//! Rotation of the hue of planar pixels, through Pillow's 8-bit HSV.
//!
//! Pillow converts to hue, saturation and value of 8 bits each and back, in a mixture of float32 and float64. Float32
//! suffices for the same bytes if the operations come in this order; the tests compare the two over their domain.
//! There are no branches and no tables, so that several pixels can be worked on at a time: by the compiler here, by
//! hand in `simd`.

use super::{cut_off, planes, round};
use crate::simd;

/// Rotates the hue by `factor` turns, from -0.5 to 0.5.
///
/// A factor of 0 is not the identity: the colours still pass through 8-bit HSV.
pub fn rotate_hue(pixels: &mut [u8], factor: f32) {
    // torchvision cuts off the fraction of a level, towards zero, and adds modulo 256.
    let shift = (f64::from(factor) * 255.0) as i32 as u8;
    rotate_by(pixels, shift);
}

/// Adds `shift` to the hue of all pixels.
pub(crate) fn rotate_by(pixels: &mut [u8], shift: u8) {
    if !simd::rotate_hue(pixels, shift) {
        rotate_portably(pixels, shift);
    }
}

/// Adds `shift` to the hue of all pixels, on any processor.
pub(crate) fn rotate_portably(pixels: &mut [u8], shift: u8) {
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let (hue, saturation, value) = to_hsv(*r, *g, *b);
        [*r, *g, *b] = to_rgb(hue.wrapping_add(shift), saturation, value);
    }
}

/// Hue, saturation and value of a colour, each from 0 to 255.
#[inline(always)]
fn to_hsv(red: u8, green: u8, blue: u8) -> (u8, u8, u8) {
    let value = red.max(green).max(blue);
    let smallest = red.min(green).min(blue);
    let range = f32::from(value - smallest);
    let (is_red, is_green) = (red == value, green == value);
    // The channels after and before the largest one, going round red, green, blue, and the sixths of a turn at it.
    let choose = |of_red, of_green, of_blue| {
        if is_red {
            of_red
        } else if is_green {
            of_green
        } else {
            of_blue
        }
    };
    let (after, before) = (choose(green, blue, red), choose(blue, red, green));
    let at_largest = f32::from(choose(0, 2, 4));
    let (side, middle) = if before == smallest { (1.0, after) } else { (-1.0, before) };
    let share = f32::from(value - middle) / range.max(1.0);
    let sixths = (at_largest + side) - side * share;
    let turns = sixths / 6.0 + if sixths < 0.0 { 1.0 } else { 0.0 };
    let saturation = range * 255.0 / f32::from(value.max(1));
    (cut_off(turns * 255.0), cut_off(saturation), value)
}

/// The colour of a hue, a saturation and a value.
#[inline(always)]
fn to_rgb(hue: u8, saturation: u8, value: u8) -> [u8; 3] {
    let sixths = f32::from(hue) * 6.0;
    // Half a step away from every whole number, so that the product cannot land on the wrong side of one.
    let turn = cut_off((sixths + 0.5) / 255.0);
    let depth = sixths - f32::from(turn) * 255.0;
    // The channel between the largest and the smallest falls in odd sixths of the wheel and rises in even ones.
    let lost = if turn & 1 == 1 { depth } else { 255.0 - depth };
    let level = |lost: f32| round(f32::from(value) * (65_025.0 - f32::from(saturation) * lost) / 65_025.0);
    let (full, middle, empty) = (value, level(lost), level(255.0));
    // The hue of 255 closes the circle.
    let sector = if turn == 6 { 0 } else { turn };
    let choose = |full_at: [u8; 2], middle_at: [u8; 2]| {
        if sector == full_at[0] || sector == full_at[1] {
            full
        } else if sector == middle_at[0] || sector == middle_at[1] {
            middle
        } else {
            empty
        }
    };
    [choose([0, 5], [1, 4]), choose([1, 2], [0, 3]), choose([3, 4], [2, 5])]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pillow's conversion to HSV in its own arithmetic, without tables.
    fn hsv_in_floats(r: u8, g: u8, b: u8) -> (u8, u8, u8) {
        let (max, min) = (r.max(g).max(b), r.min(g).min(b));
        if max == min {
            return (0, 0, max);
        }
        let range = f32::from(max - min);
        let lacks = |channel: u8| f32::from(max - channel) / range;
        let sixths = if r == max {
            lacks(b) - lacks(g)
        } else if g == max {
            (2.0 + f64::from(lacks(r)) - f64::from(lacks(b))) as f32
        } else {
            (4.0 + f64::from(lacks(g)) - f64::from(lacks(r))) as f32
        };
        let turns = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
        ((f64::from(turns) * 255.0) as u8, (f64::from(range / f32::from(max)) * 255.0) as u8, max)
    }

    /// Pillow's way back, likewise.
    fn rgb_in_floats(hue: u8, saturation: u8, value: u8) -> [u8; 3] {
        let sixths = f64::from(f32::from(hue)) * 6.0 / 255.0;
        let sector = sixths.floor();
        let depth = (sixths - f64::from(sector as f32)) as f32;
        let share = (f64::from(f32::from(saturation)) / 255.0) as f32;
        let level = |lost: f64| (f64::from(value) * (1.0 - lost)).round() as u8;
        let empty = level(f64::from(share));
        let falling = level(f64::from(share * depth));
        let rising = level(f64::from(share) * (1.0 - f64::from(depth)));
        match sector as u8 % 6 {
            0 => [value, rising, empty],
            1 => [falling, value, empty],
            2 => [empty, value, rising],
            3 => [empty, falling, value],
            4 => [rising, empty, value],
            _ => [value, empty, falling],
        }
    }

    /// The hue depends on the two smaller channels relative to the range, the saturation on the range and the value.
    #[test]
    fn every_hue_and_every_saturation_is_found_as_in_floats() {
        for (range, lacks) in (1..=255_u8).flat_map(|range| (0..=range).map(move |lacks| (range, lacks))) {
            let (full, middle, empty) = (range, range - lacks, 0);
            for (r, g, b) in [
                (full, middle, empty),
                (full, empty, middle),
                (middle, full, empty),
                (empty, full, middle),
                (middle, empty, full),
                (empty, middle, full),
            ] {
                assert_eq!(to_hsv(r, g, b), hsv_in_floats(r, g, b), "{r} {g} {b}");
            }
            let raised = (255, 255 - range, 255 - lacks);
            assert_eq!(to_hsv(raised.0, raised.1, raised.2), hsv_in_floats(raised.0, raised.1, raised.2), "{raised:?}");
        }
    }

    #[test]
    fn greys_have_no_saturation_and_so_any_hue() {
        for level in 0..=255 {
            let (hue, saturation, value) = to_hsv(level, level, level);
            assert_eq!((saturation, value, to_rgb(hue, saturation, value)), (0, level, [level; 3]));
        }
    }

    #[test]
    fn every_hue_and_saturation_converts_back_as_in_floats() {
        for (hue, saturation) in (0..=255).flat_map(|hue| (0..=255).map(move |saturation| (hue, saturation))) {
            for value in (0..=255).step_by(5).chain(250..=255) {
                let ours = to_rgb(hue, saturation, value);
                assert_eq!(ours, rgb_in_floats(hue, saturation, value), "{hue} {saturation} {value}");
            }
        }
    }

    #[test]
    fn a_third_of_a_turn_moves_red_to_green() {
        let mut pixels = [255, 0, 0];
        rotate_hue(&mut pixels, 1.0 / 3.0);
        assert_eq!(pixels, [0, 255, 0]);
        let mut pixels = [80, 80, 80];
        rotate_hue(&mut pixels, -0.2);
        assert_eq!(pixels, [80, 80, 80]);
    }
}
