//! The families of textures, each a signed distance: positive inside the ink, in units of the family's period.

use crate::rng::mix;

/// A family of textures.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    /// The class name.
    pub(crate) name: &'static str,
    /// Smallest and largest period in pixels.
    pub(crate) period: [f64; 2],
    /// How many periods the origin may lie off the centre of the image.
    pub(crate) wander: f64,
    /// The distance at a place, given in periods; the number picks one of the arrangements of an irregular family.
    pub(crate) distance: fn([f64; 2], u64) -> f64,
}

/// All families, in the order of the labels.
pub(crate) const FAMILIES: [Family; 10] = [
    Family { name: "bricks", period: [4.0, 6.0], wander: 40.0, distance: bricks },
    Family { name: "cells", period: [5.5, 8.0], wander: 40.0, distance: cells },
    Family { name: "checks", period: [6.0, 10.0], wander: 40.0, distance: checks },
    Family { name: "clouds", period: [3.5, 5.5], wander: 40.0, distance: clouds },
    Family { name: "dots", period: [5.0, 8.0], wander: 40.0, distance: dots },
    Family { name: "rings", period: [4.0, 6.5], wander: 4.0, distance: rings },
    Family { name: "stripes", period: [4.0, 8.0], wander: 40.0, distance: stripes },
    Family { name: "triangles", period: [6.5, 9.5], wander: 40.0, distance: triangles },
    Family { name: "weave", period: [6.0, 9.0], wander: 40.0, distance: weave },
    Family { name: "zigzag", period: [4.5, 7.0], wander: 40.0, distance: zigzag },
];

fn fraction(x: f64) -> f64 {
    x - x.floor()
}

/// The distance to the nearest half: a wave of triangles between 0 and 0.5.
fn wave(x: f64) -> f64 {
    (fraction(x) - 0.5).abs()
}

/// Ink where exactly one of two edges is crossed.
fn either(a: f64, b: f64) -> f64 {
    let distance = a.abs().min(b.abs());
    if (a > 0.0) == (b > 0.0) { -distance } else { distance }
}

fn length(u: f64, v: f64) -> f64 {
    (u * u + v * v).sqrt()
}

fn stripes([u, _]: [f64; 2], _: u64) -> f64 {
    0.25 - wave(u)
}

fn checks([u, v]: [f64; 2], _: u64) -> f64 {
    either(0.25 - wave(u), 0.25 - wave(v))
}

/// Discs, every other row shifted by half a period.
fn dots([u, v]: [f64; 2], _: u64) -> f64 {
    let shift = 0.5 * v.floor().rem_euclid(2.0);
    0.32 - length(fraction(u + shift) - 0.5, fraction(v) - 0.5)
}

fn rings([u, v]: [f64; 2], _: u64) -> f64 {
    0.25 - wave(length(u, v))
}

fn zigzag([u, v]: [f64; 2], _: u64) -> f64 {
    // The slope of the folds shortens distances.
    (0.25 - wave(v + 2.4 * wave(u / 2.4))) * 0.7
}

/// A wall in running bond, bricks twice as wide as high.
fn bricks([u, v]: [f64; 2], _: u64) -> f64 {
    let shift = 0.5 * v.floor().rem_euclid(2.0);
    let beside = 2.0 * (0.5 - wave(u / 2.0 + shift));
    let above = 0.5 - wave(v);
    beside.min(above) - 0.13
}

/// Squares of stripes, along and across by turns.
fn weave([u, v]: [f64; 2], _: u64) -> f64 {
    let along = (u.floor() + v.floor()).rem_euclid(2.0) == 0.0;
    (0.25 - wave(2.0 * if along { u } else { v })) / 2.0
}

/// Equilateral triangles, every other one inked.
fn triangles([u, v]: [f64; 2], _: u64) -> f64 {
    const HEIGHT: f64 = 0.866_025_403_784_438_6;
    let directions = [v / HEIGHT, u + 0.5 * v / HEIGHT, u - 0.5 * v / HEIGHT];
    let nearest = directions.iter().map(|d| (0.5 - wave(*d)) * HEIGHT).fold(f64::INFINITY, f64::min);
    // Upward and downward triangles differ in the parity of the three strips they lie in.
    let odd = (directions[0].floor() + directions[1].floor() - directions[2].floor()).rem_euclid(2.0) == 0.0;
    if odd { nearest } else { -nearest }
}

/// Cells around scattered points, with lines between them.
fn cells([u, v]: [f64; 2], arrangement: u64) -> f64 {
    let (mut nearest, mut second) = (f64::INFINITY, f64::INFINITY);
    for (du, dv) in (-2..=2).flat_map(|du| (-2..=2).map(move |dv| (f64::from(du), f64::from(dv)))) {
        let (column, row) = (u.floor() + du, v.floor() + dv);
        let point = [0, 1].map(|axis| 0.5 + 0.9 * (scatter(column, row, arrangement ^ axis) - 0.5));
        let distance = length(column + point[0] - u, row + point[1] - v);
        second = second.min(nearest.max(distance));
        nearest = nearest.min(distance);
    }
    (second - nearest) / 2.0 - 0.1
}

/// Smooth noise of one wavelength.
fn clouds([u, v]: [f64; 2], arrangement: u64) -> f64 {
    let corner = |du: f64, dv: f64| scatter(u.floor() + du, v.floor() + dv, arrangement);
    let ease = |t: f64| t * t * (3.0 - 2.0 * t);
    let (across, down) = (ease(fraction(u)), ease(fraction(v)));
    let mix = |a: f64, b: f64, share: f64| a + (b - a) * share;
    let top = mix(corner(0.0, 0.0), corner(1.0, 0.0), across);
    let bottom = mix(corner(0.0, 1.0), corner(1.0, 1.0), across);
    (mix(top, bottom, down) - 0.5) * 0.5
}

/// A random number from 0 to 1 for a place of the lattice.
fn scatter(column: f64, row: f64, arrangement: u64) -> f64 {
    let bits = mix(mix(arrangement ^ column as i64 as u64) ^ row as i64 as u64);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places over many periods, on no line of symmetry.
    fn places() -> impl Iterator<Item = [f64; 2]> {
        (0..120).flat_map(|x| (0..120).map(move |y| [f64::from(x) * 0.131 - 7.3, f64::from(y) * 0.127 - 6.9]))
    }

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(FAMILIES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn every_family_has_ink_and_ground() {
        for family in FAMILIES {
            let inked = places().filter(|&place| (family.distance)(place, 5) > 0.0).count() as f64 / 14_400.0;
            assert!((0.2..0.8).contains(&inked), "{}: {inked} inked", family.name);
        }
    }

    /// Edges are drawn about one pixel wide, which only works if the distance grows no faster than the place moves.
    #[test]
    fn distances_change_no_faster_than_places() {
        const STEP: f64 = 1e-3;
        for family in FAMILIES {
            for [u, v] in places() {
                let here = (family.distance)([u, v], 5);
                let there = (family.distance)([u + 0.6 * STEP, v + 0.8 * STEP], 5);
                // A jump is allowed where ink ends between two differently drawn squares.
                let jumps = family.name == "weave" && (here - there).abs() > 0.05;
                assert!(jumps || (here - there).abs() < 1.3 * STEP, "{} at {u}, {v}", family.name);
            }
        }
    }

    #[test]
    fn only_irregular_families_depend_on_the_arrangement() {
        for family in FAMILIES {
            let differs = places().any(|place| (family.distance)(place, 5) != (family.distance)(place, 6));
            assert_eq!(differs, ["cells", "clouds"].contains(&family.name), "{}", family.name);
        }
    }
}
