//! Brightness, contrast, saturation, grayscale and solarisation of planar pixels.
//!
//! The first three move every value away from, or towards, a "degenerate" image: black, the mean grey, the grayscale
//! version of the pixel. A factor of 0 gives the degenerate image, 1 the original, more exaggerates.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;

/// Whether blends by this factor stay within the 16 bits that the AVX2 form clips from.
#[cfg(target_arch = "x86_64")]
fn is_moderate(factor: f32) -> bool {
    factor.abs() <= 100.0
}

/// Multiplies every value by `factor`.
pub fn brightness(pixels: &mut [u8], factor: f32) {
    blend_all(pixels, 0, factor);
}

/// Scales the distance of every value from the image's mean grey by `factor`.
pub fn contrast(pixels: &mut [u8], factor: f32) {
    let mean = sum_of_greys(pixels) as f64 / (pixels.len() / 3) as f64;
    blend_all(pixels, (mean + 0.5) as u8, factor);
}

/// The sum of the greys of all pixels.
fn sum_of_greys(pixels: &mut [u8]) -> u64 {
    fastest!(avx2::sum_of_greys(pixels), if true, else portable::sum_of_greys(pixels))
}

/// Moves all values away from one degenerate value, or towards it.
fn blend_all(pixels: &mut [u8], degenerate: u8, factor: f32) {
    fastest!(
        avx2::blend_all(pixels, degenerate, factor),
        if is_moderate(factor),
        else portable::blend_all(pixels, degenerate, factor)
    );
}

/// Scales the distance of every value from its pixel's grey by `factor`.
pub fn saturation(pixels: &mut [u8], factor: f32) {
    fastest!(avx2::saturation(pixels, factor), if is_moderate(factor), else portable::saturation(pixels, factor));
}

/// Replaces every pixel by its grey.
pub fn grayscale(pixels: &mut [u8]) {
    fastest!(avx2::grayscale(pixels), if true, else portable::grayscale(pixels));
}

/// Inverts every value that is `threshold` or more.
pub fn solarize(pixels: &mut [u8], threshold: u8) {
    fastest!(avx2::solarize(pixels, threshold), if true, else portable::solarize(pixels, threshold));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::tests::compare;
    use crate::rng::{Purpose, Stream};

    /// Three planar pixels: red-ish, grey, blue-ish.
    const PIXELS: [u8; 9] = [200, 100, 10, 50, 100, 20, 0, 100, 250];

    fn after(operation: impl Fn(&mut [u8])) -> [u8; 9] {
        let mut pixels = PIXELS;
        operation(&mut pixels);
        pixels
    }

    #[test]
    fn factor_one_changes_nothing() {
        for operation in [brightness, contrast, saturation] {
            assert_eq!(after(|pixels| operation(pixels, 1.0)), PIXELS);
        }
    }

    #[test]
    fn factor_zero_gives_the_degenerate_image() {
        // Greys: (19595 200 + 38470 50 + 32768) >> 16 = 89, 100 and 43; their mean is 77.3.
        assert_eq!(after(|pixels| brightness(pixels, 0.0)), [0; 9]);
        assert_eq!(after(|pixels| contrast(pixels, 0.0)), [77; 9]);
        assert_eq!(after(|pixels| saturation(pixels, 0.0)), [89, 100, 43, 89, 100, 43, 89, 100, 43]);
        assert_eq!(after(grayscale), [89, 100, 43, 89, 100, 43, 89, 100, 43]);
    }

    #[test]
    fn results_are_cut_off_and_clipped() {
        // 129.9, 12.99, 64.95, 25.98 lose their fractions; 259.8 and 324.75 leave the range.
        assert_eq!(after(|pixels| brightness(pixels, 1.299)), [255, 129, 12, 64, 129, 25, 0, 129, 255]);
        // The distance from 77, by 1.5: 77 + 184.5, 77 + 34.5, 77 - 100.5.
        assert_eq!(after(|pixels| contrast(pixels, 1.5))[..3], [255, 111, 0]);
    }

    #[test]
    fn solarisation_inverts_from_the_threshold_on() {
        assert_eq!(after(|pixels| solarize(pixels, 100)), [55, 155, 10, 50, 155, 20, 0, 155, 5]);
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
                    |pixels| blend_all(pixels, degenerate, factor),
                    |pixels| portable::blend_all(pixels, degenerate, factor),
                );
            }
            compare(
                &format!("saturation by {factor}"),
                |pixels| saturation(pixels, factor),
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
            assert_eq!(sum_of_greys(&mut pixels), portable::sum_of_greys(&mut pixels));
            let mut portably = pixels.clone();
            grayscale(&mut pixels);
            portable::grayscale(&mut portably);
            assert!(pixels == portably, "red {red}");
        }
    }

    #[test]
    fn greys_and_their_sum_take_any_number_of_pixels() {
        compare("grayscale", grayscale, portable::grayscale);
        compare(
            "sum of greys",
            |pixels| {
                assert_eq!(sum_of_greys(pixels), portable::sum_of_greys(pixels), "{} pixels", pixels.len() / 3);
            },
            |_| (),
        );
    }

    #[test]
    fn solarisation_is_that_of_the_portable_form() {
        for threshold in 0..=255 {
            compare(
                &format!("solarisation from {threshold}"),
                |pixels| solarize(pixels, threshold),
                |pixels| portable::solarize(pixels, threshold),
            );
        }
    }
}
