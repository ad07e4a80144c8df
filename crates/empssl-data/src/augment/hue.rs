//! Rotation of the hue of planar pixels, through Pillow's 8-bit HSV.
//!
//! Pillow converts to hue, saturation and value of 8 bits each, in a mixture of float32 and float64. Which way that
//! arithmetic falls where a result is almost whole is kept in two small tables, filled with it once; the way back has
//! no such cases and is done in integers.

use std::sync::LazyLock;

use super::planes;

/// Rotates the hue by `factor` turns, from -0.5 to 0.5. A factor of 0 is not the identity: the colours still pass through
/// 8-bit HSV.
pub fn rotate_hue(pixels: &mut [u8], factor: f32) {
    // torchvision cuts off the fraction of a level, towards zero, and adds modulo 256.
    let shift = (f64::from(factor) * 255.0) as i32 as u8;
    let tables = &*TABLES;
    let wheel: [Slice; 256] = std::array::from_fn(|hue| Slice::of((hue as u8).wrapping_add(shift)));
    let (red, green, blue) = planes(pixels);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let (hue, saturation, value) = tables.hsv(*r, *g, *b);
        [*r, *g, *b] = wheel[usize::from(hue)].rgb(saturation, value);
    }
}

/// Pillow's conversion from RGB, looked up.
struct Tables {
    /// Hue by sector, by what the middle channel lacks to the largest, and by what the smallest lacks to it.
    hue: Vec<u8>,
    /// Saturation by what the smallest channel lacks to the largest, and by the largest.
    saturation: Vec<u8>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| Tables {
    hue: (0..3 << 17).map(|index| hue(index >> 16, (index >> 8) as u8, index as u8)).collect(),
    saturation: (0..1 << 16_u32).map(|index| saturation((index >> 8) as u8, index as u8)).collect(),
});

/// The sectors: which channel is the largest and which the smallest. Sector 2k has the hue 2k sixths minus the share, sector
/// 2k + 1 the same plus it, counted from the largest channel k.
const MINUS: usize = 0;
const PLUS: usize = 1;

impl Tables {
    fn hsv(&self, red: u8, green: u8, blue: u8) -> (u8, u8, u8) {
        let value = red.max(green).max(blue);
        let range = value - red.min(green).min(blue);
        // The channels after and before the largest one, going round red, green, blue.
        let (largest, after, before) = if red == value {
            (0, green, blue)
        } else if green == value {
            (1, blue, red)
        } else {
            (2, red, green)
        };
        let (side, lacks) = if value - before == range { (PLUS, value - after) } else { (MINUS, value - before) };
        let hue = (largest * 2 + side) << 16 | usize::from(lacks) << 8 | usize::from(range);
        let saturation = usize::from(range) << 8 | usize::from(value);
        (self.hue[hue], self.saturation[saturation], value)
    }
}

/// Pillow's hue of a colour, in its own order of operations and of roundings to float32.
fn hue(sector: u32, lacks: u8, range: u8) -> u8 {
    if range == 0 || lacks > range {
        return 0;
    }
    let share = f32::from(lacks) / f32::from(range);
    let (base, side) = (f64::from(sector / 2 * 2), sector as usize % 2);
    let (before, after) = if side == PLUS { (1.0, share) } else { (share, 1.0) };
    let sixths = if base == 0.0 { before - after } else { (base + f64::from(before) - f64::from(after)) as f32 };
    let turns = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    (f64::from(turns) * 255.0) as u8
}

/// Pillow's saturation of a colour.
fn saturation(range: u8, value: u8) -> u8 {
    if range == 0 || range > value { 0 } else { (f64::from(f32::from(range) / f32::from(value)) * 255.0) as u8 }
}

/// The sixth of the colour wheel that a hue lies in.
#[derive(Clone, Copy)]
struct Slice {
    /// How far into the sixth, in 255ths.
    depth: u32,
    /// Where red, green and blue are found among (full, rising, falling, empty).
    channels: [u8; 3],
}

impl Slice {
    fn of(hue: u8) -> Self {
        const CHANNELS: [[u8; 3]; 6] = [[0, 1, 3], [2, 0, 3], [3, 0, 1], [3, 2, 0], [1, 3, 0], [0, 3, 2]];
        let sixths = u32::from(hue) * 6;
        Self { depth: sixths % 255, channels: CHANNELS[(sixths / 255 % 6) as usize] }
    }

    /// The colour of this hue. The products are never half-way between two levels, so plain rounding is exact.
    fn rgb(self, saturation: u8, value: u8) -> [u8; 3] {
        const ONE: u32 = 255 * 255;
        let level = |lost: u32| ((u32::from(value) * (ONE - u32::from(saturation) * lost) + ONE / 2) / ONE) as u8;
        let levels = [value, level(255 - self.depth), level(self.depth), level(255)];
        self.channels.map(|channel| levels[usize::from(channel & 3)])
    }
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

    #[test]
    fn every_fourth_level_and_its_neighbour_convert_as_in_floats() {
        let levels = || (0..=255_u8).filter(|level| level % 4 < 2);
        for (r, g) in levels().flat_map(|r| levels().map(move |g| (r, g))) {
            for b in levels() {
                assert_eq!(TABLES.hsv(r, g, b), hsv_in_floats(r, g, b), "{r} {g} {b}");
            }
        }
    }

    #[test]
    fn every_hue_and_saturation_converts_back_as_in_floats() {
        for hue in 0..=255 {
            let slice = Slice::of(hue);
            for (saturation, value) in (0..=255).flat_map(|s| (0..=255).step_by(3).map(move |v| (s, v))) {
                assert_eq!(
                    slice.rgb(saturation, value),
                    rgb_in_floats(hue, saturation, value),
                    "{hue} {saturation} {value}"
                );
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
