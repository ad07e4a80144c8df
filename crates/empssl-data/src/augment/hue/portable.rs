//! Rotation of the hue on any processor.

use crate::augment::{cut_off, planes, round};

/// Adds `shift` to the hue of all pixels.
pub(super) fn rotate(pixels: &mut [u8], shift: u8) {
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let (hue, saturation, value) = to_hsv(*r, *g, *b);
        [*r, *g, *b] = to_rgb(hue.wrapping_add(shift), saturation, value);
    }
}

/// Hue, saturation and value of a colour, each from 0 to 255.
#[inline(always)]
pub(super) fn to_hsv(red: u8, green: u8, blue: u8) -> (u8, u8, u8) {
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
pub(super) fn to_rgb(hue: u8, saturation: u8, value: u8) -> [u8; 3] {
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
