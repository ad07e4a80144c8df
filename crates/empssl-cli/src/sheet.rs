//! A white sheet with pictures, frames and words on it.

use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::FONT_6X10;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::{Baseline, Text};
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};
use ndarray::ArrayView3;

/// Width and height of a letter with the space around it, in pixels.
pub(crate) const LETTER: [u32; 2] = [6, 10];

/// A place on the sheet, in pixels from its left and upper edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) x: u32,
    pub(crate) y: u32,
}

/// The sheet.
pub(crate) struct Sheet(RgbImage);

impl Sheet {
    pub(crate) fn new(width: u32, height: u32) -> Self {
        Self(RgbImage::from_pixel(width, height, Rgb([255; 3])))
    }

    pub(crate) fn into_picture(self) -> RgbImage {
        self.0
    }

    /// Puts a picture down, enlarged or shrunk to a size; single pixels stay visible where it is enlarged.
    pub(crate) fn put(&mut self, at: At, picture: &RgbImage, [width, height]: [u32; 2]) {
        let filter = if picture.width() > width { FilterType::Triangle } else { FilterType::Nearest };
        let sized = resize(picture, width, height, filter);
        image::imageops::replace(&mut self.0, &sized, i64::from(at.x), i64::from(at.y));
    }

    /// Puts an image down as large as fits into a square of `side`; returns by how much it was enlarged.
    pub(crate) fn fit(&mut self, at: At, image: ArrayView3<'_, u8>, side: u32) -> f64 {
        let (height, width, _) = image.dim();
        let scale = f64::from(side) / height.max(width) as f64;
        self.put(at, &picture_of(image), [width, height].map(|side| ((side as f64 * scale).round() as u32).max(1)));
        scale
    }

    /// Draws a frame of two pixels whose outer edge has this size.
    pub(crate) fn frame(&mut self, at: At, [width, height]: [u32; 2], colour: [u8; 3]) {
        let is_edge = |x: u32, y: u32| x < 2 || y < 2 || x + 2 >= width || y + 2 >= height;
        for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).filter(|&(x, y)| is_edge(x, y)) {
            self.set(i64::from(at.x + x), i64::from(at.y + y), colour);
        }
    }

    /// Writes a line of text whose upper left corner is `at`, cut to `width` pixels.
    pub(crate) fn write(&mut self, at: At, width: u32, text: &str) {
        let text: String = text.chars().take((width / LETTER[0]) as usize).collect();
        let style = MonoTextStyle::new(&FONT_6X10, Rgb888::BLACK);
        let place = Point::new(at.x as i32, at.y as i32);
        // Drawing onto a picture in memory cannot fail.
        let Ok(_) = embedded_graphics::Drawable::draw(&Text::with_baseline(&text, place, style, Baseline::Top), self);
    }

    fn set(&mut self, x: i64, y: i64, colour: [u8; 3]) {
        if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
            && let Some(pixel) = self.0.get_pixel_mut_checked(x, y)
        {
            *pixel = Rgb(colour);
        }
    }
}

fn picture_of(view: ArrayView3<'_, u8>) -> RgbImage {
    let (height, width, _) = view.dim();
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        Rgb([0, 1, 2].map(|channel| view[[y as usize, x as usize, channel]]))
    })
}

impl OriginDimensions for Sheet {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Sheet {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        for Pixel(Point { x, y }, colour) in pixels {
            self.set(i64::from(x), i64::from(y), [colour.r(), colour.g(), colour.b()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark(picture: &RgbImage) -> usize {
        picture.pixels().filter(|pixel| pixel.0 == [0; 3]).count()
    }

    #[test]
    fn words_are_cut_to_their_width_and_nothing_leaves_the_sheet() {
        let mut sheet = Sheet::new(60, 10);
        sheet.write(At { x: 0, y: 0 }, 18, "airplane");
        let (mut three, mut long) = (Sheet::new(60, 10), Sheet::new(20, 6));
        three.write(At { x: 0, y: 0 }, 60, "air");
        assert!(dark(&sheet.0) > 10 && sheet.0 == three.0);
        long.write(At { x: 10, y: 3 }, 600, "airplane");
        long.frame(At { x: 15, y: 0 }, [30, 30], [255, 0, 0]);
    }

    #[test]
    fn frames_and_pictures_have_their_size() {
        let mut sheet = Sheet::new(20, 20);
        sheet.put(At { x: 5, y: 5 }, &RgbImage::from_pixel(2, 2, Rgb([0; 3])), [8, 8]);
        assert_eq!(dark(&sheet.0), 64);
        sheet.frame(At { x: 3, y: 3 }, [12, 12], [9, 9, 9]);
        assert_eq!(dark(&sheet.0), 64, "a frame lies around what it frames");
        assert_eq!(sheet.0.pixels().filter(|pixel| pixel.0 == [9; 3]).count(), 144 - 64);
    }
}
