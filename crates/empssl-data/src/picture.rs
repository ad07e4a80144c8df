//! Pictures of what the network sees.

use image::RgbImage;
use ndarray::ArrayView3;

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::patch::{PatchKey, PatchSampler};

/// Pixels between two tiles of a picture.
const GAP: u32 = 2;

/// A grid with one row per image: the whole image, then `n_patches` of its augmented patches as the network sees them.
/// Small tiles are enlarged by a whole number of times.
///
/// # Errors
/// When an index is out of range or an image cannot be read.
pub fn patch_grid(
    dataset: &Dataset,
    sampler: &PatchSampler,
    indices: &[usize],
    n_patches: u32,
    seed: u64,
) -> Result<RgbImage, DataError> {
    let side = sampler.side();
    let mut grid = Grid::new(side, n_patches + 1, indices.len() as u32);
    let mut tile = vec![0; 3 * side * side];
    for (row, &index) in (0..).zip(indices) {
        let image = dataset.image(index)?;
        sampler.whole(image.view(), &mut tile);
        grid.paint(0, row, &tile);
        for patch in 0..n_patches {
            sampler.sample(image.view(), PatchKey { seed, epoch: 0, image: index as u64, patch }, &mut tile);
            grid.paint(patch + 1, row, &tile);
        }
    }
    Ok(grid.picture)
}

/// Tiles of one size on a white ground.
struct Grid {
    picture: RgbImage,
    side: usize,
    zoom: u32,
}

impl Grid {
    fn new(side: usize, columns: u32, rows: u32) -> Self {
        let zoom = (96 / side as u32).max(1);
        let pitch = side as u32 * zoom + GAP;
        let white = image::Rgb([255; 3]);
        Self { picture: RgbImage::from_pixel(columns * pitch + GAP, rows * pitch + GAP, white), side, zoom }
    }

    /// Paints a planar tile, `[3, side, side]`, at a column and a row.
    fn paint(&mut self, column: u32, row: u32, tile: &[u8]) {
        let Some(tile) = ArrayView3::from_shape((3, self.side, self.side), tile).ok() else { return };
        let size = self.side as u32 * self.zoom;
        let (left, top) = (column * (size + GAP) + GAP, row * (size + GAP) + GAP);
        for (x, y) in (0..size).flat_map(|y| (0..size).map(move |x| (x, y))) {
            let pixel = |channel| tile[[channel, (y / self.zoom) as usize, (x / self.zoom) as usize]];
            self.picture.put_pixel(left + x, top + y, image::Rgb([pixel(0), pixel(1), pixel(2)]));
        }
    }
}
