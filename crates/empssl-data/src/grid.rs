//! A fixed lattice of patches, for features that are the same every time.

use crate::augment::resize::CropBox;
use crate::error::DataError;

/// Where the patches of an image are when nothing is left to chance.
///
/// The places form a lattice of rows x columns that reaches from border to border; its longer side lies along the
/// image's longer side. Among all pairs whose product is the number of places, the one closest to a square is taken.
/// Where even that one is more than twice as long as wide there is no lattice: 1, 2, 4, 6, 8, 9, 12, 15, 16 places make
/// one, and all powers of two; 3, 5, 7 and 10 do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchGrid {
    short: usize,
    long: usize,
}

impl PatchGrid {
    /// The lattice of `n_patches`; with `flip` that of half as many places, each seen as it is and mirrored.
    ///
    /// # Errors
    /// When the patches form no lattice.
    pub fn new(n_patches: usize, flip: bool) -> Result<Self, DataError> {
        let places = if flip { n_patches / 2 } else { n_patches };
        let short = (1..=places.isqrt()).rev().find(|&short| places.is_multiple_of(short)).unwrap_or(0);
        let grid = Self { short, long: places.checked_div(short).unwrap_or(0) };
        if short == 0 || grid.long > 2 * short || (flip && !n_patches.is_multiple_of(2)) {
            let twice = if flip { "twice " } else { "" };
            let expected =
                format!("{twice}a product of two whole numbers, one at most twice the other: 1, 2, 4, 6, 8, 9, 12, 16");
            return Err(DataError::setting("n_patches", n_patches, expected));
        }
        Ok(grid)
    }

    /// The number of places.
    pub fn places(&self) -> usize {
        self.short * self.long
    }

    /// Whether `patch` is the mirrored view of its place: the patches beyond the number of places are.
    pub fn is_mirrored(&self, patch: usize) -> bool {
        patch / self.places() % 2 == 1
    }

    /// The part of an image of `height` x `width` that `patch` shows, as large as `size` (rows, columns) says; places
    /// are counted row by row.
    ///
    /// Place i of k along an axis with r pixels of room begins at i r / (k - 1), a half rounded up; a single one lies
    /// in the middle, a half rounded down.
    ///
    /// # Panics
    /// When the image is smaller than `size`.
    pub fn crop(&self, patch: usize, (height, width): (usize, usize), size: (usize, usize)) -> CropBox {
        let (rows, columns) = if height > width { (self.long, self.short) } else { (self.short, self.long) };
        let place = patch % self.places();
        let top = start(place / columns, rows, height - size.0);
        let left = start(place % columns, columns, width - size.1);
        CropBox { top, left, height: size.0, width: size.1 }
    }
}

/// Where place `i` of `k` begins in so much `room`.
fn start(i: usize, k: usize, room: usize) -> usize {
    if k == 1 { room / 2 } else { (2 * i * room + (k - 1)) / (2 * (k - 1)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The (top, left) of all places for crops of 16 x 16.
    fn corners(n: usize, height: usize, width: usize) -> Vec<(usize, usize)> {
        let grid = PatchGrid::new(n, false).unwrap();
        let crops = (0..n).map(|patch| grid.crop(patch, (height, width), (16, 16)));
        crops.map(|crop| (crop.top, crop.left)).collect()
    }

    fn product(tops: &[usize], lefts: &[usize]) -> Vec<(usize, usize)> {
        tops.iter().flat_map(|&top| lefts.iter().map(move |&left| (top, left))).collect()
    }

    #[test]
    fn the_places_on_a_cifar_image_are_known() {
        assert_eq!(corners(1, 32, 32), [(8, 8)]);
        assert_eq!(corners(2, 32, 32), [(8, 0), (8, 16)]);
        assert_eq!(corners(4, 32, 32), product(&[0, 16], &[0, 16]));
        assert_eq!(corners(9, 32, 32), product(&[0, 8, 16], &[0, 8, 16]));
        assert_eq!(corners(16, 32, 32), product(&[0, 5, 11, 16], &[0, 5, 11, 16]));
        assert_eq!(corners(1, 33, 32), [(8, 8)]);
    }

    #[test]
    fn the_longer_side_of_the_lattice_follows_the_image() {
        assert_eq!(corners(6, 20, 40), product(&[0, 4], &[0, 12, 24]));
        assert_eq!(corners(6, 40, 20), product(&[0, 12, 24], &[0, 4]));
    }

    #[test]
    fn mirrored_patches_come_second() {
        let grid = PatchGrid::new(8, true).unwrap();
        assert_eq!(grid.places(), 4);
        let mirrored: Vec<bool> = (0..8).map(|patch| grid.is_mirrored(patch)).collect();
        assert_eq!(mirrored, [false, false, false, false, true, true, true, true]);
        let crop = |patch| grid.crop(patch, (32, 32), (16, 16));
        assert!((0..4).all(|place| crop(place) == crop(place + 4)));
        assert!((0..4).all(|patch| !PatchGrid::new(4, false).unwrap().is_mirrored(patch)));
    }

    #[test]
    fn numbers_without_a_lattice_are_refused() {
        let good = |n: &usize| PatchGrid::new(*n, false).is_ok();
        assert_eq!((0..=20).filter(good).collect::<Vec<_>>(), [1, 2, 4, 6, 8, 9, 12, 15, 16, 18, 20]);
        assert!((0..10).all(|power| PatchGrid::new(1 << power, false).is_ok()));
        let message = PatchGrid::new(7, false).unwrap_err().to_string();
        assert!(message.starts_with("`n_patches` is 7, expected a product of two whole numbers"), "{message}");
        for odd in [0, 1, 3, 5, 14] {
            let message = PatchGrid::new(odd, true).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`n_patches` is {odd}, expected twice a product")), "{message}");
        }
    }

    proptest! {
        #[test]
        fn every_crop_lies_within_and_the_corners_are_reached(
            n in (1_usize..200).prop_filter("a lattice", |&n| PatchGrid::new(n, false).is_ok()),
            (height, width) in (16_usize..300, 16_usize..300),
        ) {
            let places = corners(n, height, width);
            prop_assert!(places.iter().all(|&(top, left)| top + 16 <= height && left + 16 <= width));
            if n >= 4 {
                prop_assert_eq!((places[0], places[n - 1]), ((0, 0), (height - 16, width - 16)));
            }
        }
    }
}
