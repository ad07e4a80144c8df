//! `empssl data show`: labelled images with the crops they are cut into, before and after augmentation.

use std::path::Path;

use empssl_data::patch::PatchParams;
use empssl_data::{Dataset, PatchConfig, PatchKey, PatchSampler, Split};
use image::{ImageFormat, RgbImage};
use ndarray::ArrayView3;

use super::is_missing;
use crate::error::CliError;
use crate::images::ImageSource;
use crate::images::{PATCHES, chosen};
use crate::print::output;
use crate::sheet::{At, LETTER, Sheet};

/// Pixels between things.
const GAP: u32 = 8;
/// Pixels of a frame on either side.
const FRAME: u32 = 2;
/// A patch is shown about this large.
const SHOWN: u32 = 112;
/// Height of a line of text with the space below it.
const LINE: u32 = LETTER[1] + 3;
/// Letters for what was done to a patch, and what they stand for.
const LEGEND: &str = "F flipped  C colours  G grey  B blurred  S solarised";

/// One colour per patch: its frame on the image and around the patch.
const COLOURS: [[u8; 3]; PATCHES as usize] = [
    [230, 25, 75],
    [60, 180, 75],
    [0, 130, 200],
    [245, 130, 48],
    [145, 30, 180],
    [70, 200, 220],
    [240, 50, 230],
    [128, 128, 0],
];

pub(super) fn run(
    source: &ImageSource,
    patches: &PatchConfig,
    split: Option<Split>,
    seed: u64,
    out: &Path,
) -> Result<(), CliError> {
    let sampler = PatchSampler::new(patches)?;
    let set = open(source, split)?;
    let picture = draw(&set, &sampler, seed)?;
    // Whatever the file is called, it is a PNG file.
    picture.save_with_format(out, ImageFormat::Png).map_err(|e| CliError::file("cannot write", out, e))?;
    output(out.display());
    Ok(())
}

/// The split that was asked for or, without a word, the first that is there.
fn open(source: &ImageSource, split: Option<Split>) -> Result<Dataset, CliError> {
    match (split, source.open(split.unwrap_or(Split::Train))) {
        (None, Err(error)) if is_missing(&error) => source.open(Split::Test).map_err(|_| error),
        (_, opened) => opened,
    }
}

/// The sheet: a row per image, a column per patch.
fn draw(set: &Dataset, sampler: &PatchSampler, seed: u64) -> Result<RgbImage, CliError> {
    let layout = Layout::new(sampler.side() as u32);
    let indices = chosen(set, seed);
    let [width, height] = layout.sheet(indices.len() as u32);
    let mut sheet = Sheet::new(width, height);
    let room = width - 2 * GAP;
    sheet.write(At { x: GAP, y: GAP }, room, &set.description());
    let crops = format!("patches of side {}, before (above) and after augmentation: {LEGEND}", sampler.side());
    sheet.write(At { x: GAP, y: GAP + LINE }, room, &crops);
    for (row, &index) in (0..).zip(&indices) {
        Row { sheet: &mut sheet, layout, top: layout.row(row) }.draw(set, sampler, index, seed)?;
    }
    Ok(sheet.into_picture())
}

/// Where things are.
#[derive(Clone, Copy)]
struct Layout {
    /// Side of a patch as it is shown.
    patch: u32,
}

impl Layout {
    /// Patches are enlarged or shrunk by a whole number.
    fn new(side: u32) -> Self {
        Self { patch: if side <= SHOWN { SHOWN / side * side } else { side / side.div_ceil(SHOWN) } }
    }

    /// A patch with its frame and the gap after it.
    fn pitch(self) -> u32 {
        self.patch + 2 * FRAME + GAP
    }

    /// Side of the square that the image is fitted into: as high as the two patches beside it.
    fn image(self) -> u32 {
        2 * self.patch + 4 * FRAME
    }

    fn row_height(self) -> u32 {
        self.image() + LINE + GAP
    }

    fn row(self, row: u32) -> u32 {
        2 * GAP + 2 * LINE + row * self.row_height()
    }

    /// Left edge of the column of a patch.
    fn column(self, patch: u32) -> u32 {
        2 * GAP + self.image() + patch * self.pitch()
    }

    fn sheet(self, rows: u32) -> [u32; 2] {
        [self.column(PATCHES), self.row(rows)]
    }
}

/// One image with its patches.
struct Row<'a> {
    sheet: &'a mut Sheet,
    layout: Layout,
    top: u32,
}

impl Row<'_> {
    fn draw(&mut self, set: &Dataset, sampler: &PatchSampler, index: usize, seed: u64) -> Result<(), CliError> {
        let image = set.image(index)?;
        let view = image.view();
        let at = At { x: GAP, y: self.top };
        let scale = self.sheet.fit(at, view, self.layout.image());
        let label = set.labels().map(|labels| labels[index] as usize);
        let name = label.and_then(|label| set.class_names().get(label)).map_or("no label", String::as_str);
        let below = At { x: GAP, y: self.top + self.layout.image() + 2 };
        self.sheet.write(below, self.layout.image(), &format!("{name} ({index})"));
        let (height, width, _) = view.dim();
        for (patch, colour) in (0..).zip(COLOURS) {
            let key = PatchKey { seed, epoch: 0, image: index as u64, patch };
            let params = sampler.draw(height, width, key);
            self.patch(view, sampler, &params, patch, colour);
            let scaled = |pixels: usize| (pixels as f64 * scale).round() as u32;
            let crop = params.crop;
            let corner = At { x: at.x + scaled(crop.left), y: at.y + scaled(crop.top) };
            self.sheet.frame(corner, [scaled(crop.width), scaled(crop.height)], colour);
        }
        Ok(())
    }

    /// The plain crop above, the augmented patch below, and what was done.
    fn patch(
        &mut self,
        view: ArrayView3<'_, u8>,
        sampler: &PatchSampler,
        params: &PatchParams,
        patch: u32,
        colour: [u8; 3],
    ) {
        let shown = self.layout.patch;
        let framed = shown + 2 * FRAME;
        let left = self.layout.column(patch);
        let side = sampler.side();
        let mut pixels = vec![0; 3 * side * side];
        for (place, params) in (0..).zip([&PatchParams::plain(params.crop), params]) {
            sampler.apply(view, params, &mut pixels);
            let at = At { x: left, y: self.top + place * framed };
            self.sheet.frame(at, [framed; 2], colour);
            let within = At { x: at.x + FRAME, y: at.y + FRAME };
            self.sheet.put(within, &picture_of_planes(&pixels, side), [shown; 2]);
        }
        let below = At { x: left, y: self.top + self.layout.image() + 2 };
        self.sheet.write(below, framed, &done(params));
    }
}

/// The letters of what is done to a patch.
fn done(params: &PatchParams) -> String {
    let steps = [
        (params.flip, "F"),
        (params.jitter.iter().any(Option::is_some), "C"),
        (params.grayscale, "G"),
        (params.blur.is_some(), "B"),
        (params.solarize.is_some(), "S"),
    ];
    steps.into_iter().filter(|(was_done, _)| *was_done).map(|(_, letter)| letter).collect::<Vec<_>>().join(" ")
}

fn picture_of_planes(planes: &[u8], side: usize) -> RgbImage {
    RgbImage::from_fn(side as u32, side as u32, |x, y| {
        image::Rgb([0, 1, 2].map(|channel| planes[(channel * side + y as usize) * side + x as usize]))
    })
}

#[cfg(test)]
mod tests {
    use empssl_data::{OnBadImage, OpenOptions};

    use super::*;

    #[test]
    fn a_row_shows_the_image_its_crops_and_its_patches() {
        let options =
            OpenOptions { name: "synthetic".into(), root: None, partial: false, on_bad_image: OnBadImage::Fail };
        let set = empssl_data::open(&options, Split::Train).unwrap();
        let sampler = PatchSampler::new(&PatchConfig::cifar32()).unwrap();
        let picture = draw(&set, &sampler, 3).unwrap();
        let layout = Layout::new(32);
        assert_eq!((layout.patch, layout.image()), (96, 200));
        assert_eq!([picture.width(), picture.height()], layout.sheet(8));

        let index = chosen(&set, 3)[1];
        let image = set.image(index).unwrap();
        let params = sampler.draw(32, 32, PatchKey { seed: 3, epoch: 0, image: index as u64, patch: 7 });
        let mut pixels = vec![0; 3 * 32 * 32];
        for (place, params) in [PatchParams::plain(params.crop), params.clone()].iter().enumerate() {
            sampler.apply(image.view(), params, &mut pixels);
            let at = [layout.column(7) + FRAME, layout.row(1) + FRAME + place as u32 * 100];
            let found = picture.get_pixel(at[0] + 3 * 20 + 1, at[1] + 3 * 11 + 1).0;
            assert_eq!(found, [0, 1, 2].map(|channel| pixels[channel * 1024 + 11 * 32 + 20]));
        }
        // The last crop's frame lies over the others.
        let at = |pixels: usize| (pixels as f64 * 200.0 / 32.0).round() as u32;
        let corner = picture.get_pixel(GAP + at(params.crop.left), layout.row(1) + at(params.crop.top));
        assert_eq!(corner.0, COLOURS[7]);
    }

    #[test]
    fn patches_are_scaled_by_whole_numbers() {
        assert_eq!(
            [16, 32, 64, 96, 112, 224, 500].map(|side| Layout::new(side).patch),
            [112, 96, 64, 96, 112, 112, 100]
        );
    }
}
