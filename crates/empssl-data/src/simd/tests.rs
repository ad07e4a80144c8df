//! The kernels against the portable forms. On a processor without AVX2 there is nothing to compare.

use crate::augment::blur::{BlurScratch, BoxFilter, blur, blur_portably};
use crate::augment::colour::{self, portable};
use crate::augment::hue::{rotate_by, rotate_hue, rotate_portably};
use crate::rng::{Purpose, Stream};

/// Numbers of pixels: none, ragged ones around whole registers, and patches.
const COUNTS: [usize; 9] = [0, 1, 5, 31, 32, 33, 100, 1024, 1027];

fn noise(len: usize, stream: &mut Stream) -> Vec<u8> {
    (0..len).map(|_| stream.next_u32() as u8).collect()
}

/// Noise, dull noise whose channels are close together, and all levels as greys.
fn pixels(count: usize, stream: &mut Stream) -> Vec<Vec<u8>> {
    let dull = noise(3 * count, stream).iter().map(|value| 120 + value % 5).collect();
    let grey = (0..3 * count).map(|place| (place % count) as u8).collect();
    vec![noise(3 * count, stream), dull, grey]
}

/// Compares an operation with its portable form on pixels of all kinds and counts.
fn compare(what: &str, ours: impl Fn(&mut [u8]), portable: impl Fn(&mut [u8])) {
    let mut stream = Stream::new(3, Purpose::Patch, 0, 0, 0);
    for count in COUNTS {
        for pixels in pixels(count, &mut stream) {
            let (mut a, mut b) = (pixels.clone(), pixels);
            ours(&mut a);
            portable(&mut b);
            assert!(a == b, "{what}, {count} pixels");
        }
    }
}

/// Factors of the recipes, random and special, and such as no recipe may have.
fn factors() -> Vec<f32> {
    let mut stream = Stream::new(4, Purpose::Patch, 0, 0, 0);
    let drawn = (0..60).map(|_| stream.uniform(0.0, 2.0) as f32);
    let special = [0.0, 0.5, 1.0, 1.0 - f32::EPSILON / 2.0, 1.0 + f32::EPSILON, 11.0, 100.0];
    drawn.chain(special).chain([-1.0, 101.0, 1e30, f32::INFINITY]).collect()
}

#[test]
fn blends_are_those_of_the_portable_forms() {
    for factor in factors() {
        for degenerate in [0, 1, 77, 255] {
            compare(
                &format!("blend with {degenerate} by {factor}"),
                |pixels| colour::blend_all(pixels, degenerate, factor),
                |pixels| portable::blend_all(pixels, degenerate, factor),
            );
        }
        let saturation = format!("saturation by {factor}");
        compare(
            &saturation,
            |pixels| colour::saturation(pixels, factor),
            |pixels| portable::saturation(pixels, factor),
        );
    }
}

#[test]
fn greys_are_those_of_the_portable_form_for_all_colours() {
    let mut pixels = vec![0; 3 << 16];
    for red in 0..=255 {
        let planes = pixels.chunks_exact_mut(1 << 16);
        let of_plane = |plane: usize, place: usize| [red, (place >> 8) as u8, place as u8][plane];
        planes.enumerate().for_each(|(plane, values)| {
            values.iter_mut().enumerate().for_each(|(place, value)| *value = of_plane(plane, place));
        });
        let mut sum = 0;
        let is_done = super::sum_of_greys(&mut pixels, &mut sum);
        assert!(!is_done || sum == portable::sum_of_greys(&mut pixels));
        let mut portably = pixels.clone();
        colour::grayscale(&mut pixels);
        portable::grayscale(&mut portably);
        assert!(pixels == portably, "red {red}");
    }
}

#[test]
fn greys_and_their_sum_take_any_number_of_pixels() {
    compare("grayscale", colour::grayscale, portable::grayscale);
    compare(
        "sum of greys",
        |pixels| {
            let mut sum = 0;
            let is_done = super::sum_of_greys(pixels, &mut sum);
            assert!(!is_done || sum == portable::sum_of_greys(pixels), "{} pixels", pixels.len() / 3);
        },
        |_| (),
    );
}

#[test]
fn solarisation_is_that_of_the_portable_form() {
    for threshold in 0..=255 {
        compare(
            &format!("solarisation from {threshold}"),
            |pixels| colour::solarize(pixels, threshold),
            |pixels| portable::solarize(pixels, threshold),
        );
    }
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
        let planar: Vec<u8> = (0..3).flat_map(|channel| colours.iter().map(move |colour| colour[channel])).collect();
        for shift in (0..=255).step_by(5).chain([1, 128]) {
            let (mut a, mut b) = (planar.clone(), planar.clone());
            rotate_by(&mut a, shift);
            rotate_portably(&mut b, shift);
            assert!(a == b, "low {low}, shift {shift}");
        }
    }
}

#[test]
fn hues_take_any_number_of_pixels() {
    for factor in [-0.5_f32, -0.2, 0.0, 0.13, 0.5] {
        let shift = (f64::from(factor) * 255.0) as i32 as u8;
        compare("hue", |pixels| rotate_hue(pixels, factor), |pixels| rotate_portably(pixels, shift));
    }
}

#[test]
fn blurs_are_those_of_the_portable_form() {
    let mut stream = Stream::new(5, Purpose::Patch, 0, 0, 0);
    let mut scratch = BlurScratch::default();
    let sizes = [(1, 1), (1, 16), (16, 1), (3, 5), (4, 4), (15, 40), (16, 16), (32, 32), (33, 31), (17, 70)];
    for (height, width) in sizes {
        for place in 0..60 {
            let sigma = [0.1, 1.41, 1.42, 2.0, 4.5, 9.0].get(place).copied();
            let sigma = sigma.unwrap_or_else(|| stream.uniform(0.1, 2.0) as f32);
            let mut a = noise(3 * height * width, &mut stream);
            let mut b = a.clone();
            blur(&mut a, width, sigma, &mut scratch);
            blur_portably(&mut b, width, BoxFilter::for_sigma(sigma), &mut scratch);
            assert!(a == b, "{height} x {width}, sigma {sigma}");
        }
    }
}
