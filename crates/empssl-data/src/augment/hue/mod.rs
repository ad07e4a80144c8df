//! Rotation of the hue of planar pixels, through Pillow's 8-bit HSV.
//!
//! Pillow converts to hue, saturation and value of 8 bits each and back, in a mixture of float32 and float64. Float32
//! suffices for the same bytes if the operations come in this order; the tests compare the two over their domain.
//! There are no branches and no tables, so that several pixels can be worked on at a time: by the compiler in
//! `portable`, by hand in `avx2`.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

/// Rotates the hue by `factor` turns, from -0.5 to 0.5.
///
/// A factor of 0 is not the identity: the colours still pass through 8-bit HSV.
pub fn rotate_hue(pixels: &mut [u8], factor: f32) {
    // torchvision cuts off the fraction of a level, towards zero, and adds modulo 256.
    let shift = (f64::from(factor) * 255.0) as i32 as u8;
    rotate_by(pixels, shift);
}

/// Adds `shift` to the hue of all pixels.
fn rotate_by(pixels: &mut [u8], shift: u8) {
    fastest!(avx2::rotate(pixels, shift), if true, else portable::rotate(pixels, shift));
}

#[cfg(test)]
mod tests {
    use super::portable::{to_hsv, to_rgb};
    use super::*;
    use crate::augment::tests::compare;

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

    /// The arithmetic of the middle channel, number by number: there is no tie, as 255^2 is odd.
    #[test]
    fn one_fused_rounding_finds_the_nearest_level_of_all_products() {
        let (share, to_whole) = (1.0 / 65_025.0_f32, crate::augment::TO_WHOLE);
        for left in 0..=65_025_u32 {
            for value in 0..=255_u32 {
                let product = left * value;
                let fused = (product as f32).mul_add(share, to_whole).to_bits() & 255;
                assert_eq!(fused, (2 * product + 65_025) / 130_050, "{left} {value}");
            }
        }
    }

    /// All colours that differ in their hue, at full and at some lower range: every share of the middle channel.
    #[test]
    fn hues_are_those_of_the_portable_form() {
        let shades = (0..=255_u8).flat_map(|value| (0..=value).map(move |middle| (value, middle)));
        for (low, step) in [(0, 1), (1, 1), (2, 3), (60, 7)] {
            let colours: Vec<[u8; 3]> = shades
                .clone()
                .filter(|&(value, middle)| middle >= low && (value - low).is_multiple_of(step))
                .flat_map(|(a, b)| [[a, b, low], [a, low, b], [b, a, low], [low, a, b], [b, low, a], [low, b, a]])
                .collect();
            let planar: Vec<u8> =
                (0..3).flat_map(|channel| colours.iter().map(move |colour| colour[channel])).collect();
            for shift in (0..=255).step_by(5).chain([1, 128]) {
                let (mut a, mut b) = (planar.clone(), planar.clone());
                rotate_by(&mut a, shift);
                portable::rotate(&mut b, shift);
                assert!(a == b, "low {low}, shift {shift}");
            }
        }
    }

    #[test]
    fn hues_take_any_number_of_pixels() {
        for factor in [-0.5_f32, -0.2, 0.0, 0.13, 0.5] {
            let shift = (f64::from(factor) * 255.0) as i32 as u8;
            compare("hue", |pixels| rotate_hue(pixels, factor), |pixels| portable::rotate(pixels, shift));
        }
    }
}
