//! What all pixels of a set are like: sizes of the images, mean and deviation of each channel.

use rayon::prelude::*;

use crate::dataset::Dataset;
use crate::error::DataError;

/// Sums over every pixel of every image of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelStatistics {
    /// Smallest height and smallest width.
    pub smallest: [usize; 2],
    /// Largest height and largest width.
    pub largest: [usize; 2],
    /// Mean of the red, green and blue values, 0 to 1.
    pub mean: [f64; 3],
    /// Their standard deviation over all pixels, 0 to 1.
    pub std: [f64; 3],
}

/// Sums that are whole numbers, so that no order of adding changes them.
#[derive(Clone, Copy)]
struct Sums {
    smallest: [usize; 2],
    largest: [usize; 2],
    pixels: u128,
    values: [u128; 3],
    squares: [u128; 3],
}

impl Sums {
    const NONE: Self = Self { smallest: [usize::MAX; 2], largest: [0; 2], pixels: 0, values: [0; 3], squares: [0; 3] };

    fn of(dataset: &Dataset, index: usize) -> Result<Self, DataError> {
        let image = dataset.image(index)?;
        let (height, width, _) = image.dim();
        let (mut values, mut squares) = ([0u64; 3], [0u64; 3]);
        for pixel in image.rows() {
            for (channel, &value) in pixel.iter().enumerate() {
                values[channel] += u64::from(value);
                squares[channel] += u64::from(value) * u64::from(value);
            }
        }
        Ok(Self {
            smallest: [height, width],
            largest: [height, width],
            pixels: (height * width) as u128,
            values: values.map(u128::from),
            squares: squares.map(u128::from),
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            smallest: [0, 1].map(|side| self.smallest[side].min(other.smallest[side])),
            largest: [0, 1].map(|side| self.largest[side].max(other.largest[side])),
            pixels: self.pixels + other.pixels,
            values: [0, 1, 2].map(|channel| self.values[channel] + other.values[channel]),
            squares: [0, 1, 2].map(|channel| self.squares[channel] + other.squares[channel]),
        }
    }
}

/// Looks at every pixel of the set, on all cores.
///
/// # Errors
/// When an image cannot be read or decoded, or there is none.
pub fn pixel_statistics(dataset: &Dataset) -> Result<PixelStatistics, DataError> {
    if dataset.is_empty() {
        return Err(DataError::IndexOutOfRange { index: 0, len: 0 });
    }
    let each = (0..dataset.len()).into_par_iter().map(|index| Sums::of(dataset, index));
    let sums = each.try_reduce(|| Sums::NONE, |a, b| Ok(a.plus(b)))?;
    let pixels = sums.pixels as f64;
    let mean = sums.values.map(|sum| sum as f64 / pixels);
    let variance = [0, 1, 2].map(|channel| sums.squares[channel] as f64 / pixels - mean[channel] * mean[channel]);
    Ok(PixelStatistics {
        smallest: sums.smallest,
        largest: sums.largest,
        mean: mean.map(|mean| mean / 255.0),
        std: variance.map(|variance| variance.max(0.0).sqrt() / 255.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OnBadImage, OpenOptions, Split};
    use crate::sets::open;

    #[test]
    fn two_known_images() {
        let root = tempfile::tempdir().unwrap();
        let save = |name: &str, width, height, colour: [u8; 3]| {
            image::RgbImage::from_pixel(width, height, image::Rgb(colour)).save(root.path().join(name)).unwrap();
        };
        save("a.png", 4, 2, [0, 51, 255]);
        save("b.png", 2, 4, [102, 51, 0]);
        let root = Some(root.path().to_owned());
        let options = OpenOptions { name: "folder".into(), root, partial: false, on_bad_image: OnBadImage::Fail };
        let set = open(&options, Split::Train).unwrap();
        let found = pixel_statistics(&set).unwrap();
        assert_eq!((found.smallest, found.largest), ([2, 2], [4, 4]));
        let near = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(near(found.mean, [0.2, 0.2, 0.5]) && near(found.std, [0.2, 0.0, 0.5]), "{found:?}");
        assert!(pixel_statistics(&set.subset(&[]).unwrap()).is_err());
    }
}
