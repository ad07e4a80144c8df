//! Image files to RGB pixels, as Pillow's `Image.open(file).convert("RGB")` gives them.
//!
//! The content decides about the format: some PNG files are named `.JPEG`. Grey images are repeated over the channels,
//! palettes are looked up, an alpha channel is dropped, CMYK and YCCK files are converted to RGB, and an EXIF
//! orientation is ignored. Of 16 bits the upper 8 are kept, but of grey ones without alpha Pillow keeps everything above
//! 255 as 255, and so does this.

use image::{DynamicImage, ImageFormat};
use ndarray::Array3;

use super::jpeg;
use crate::error::DecodeError;

/// How every PNG file begins.
const PNG: &[u8] = b"\x89PNG";

/// Decodes a JPEG or PNG file to `[height, width, 3]` in RGB, to the bytes of Pillow's
/// `Image.open(file).convert("RGB")`; what the file is, its content decides.
///
/// # Errors
/// With the reason when the bytes are no complete image, or of a kind that photographs do not have.
pub fn decode_image(bytes: &[u8]) -> Result<Array3<u8>, DecodeError> {
    let decoded = match bytes {
        [] => Err("the file is empty".to_owned()),
        _ if jpeg::is_jpeg(bytes) => jpeg::decode(bytes),
        _ if bytes.starts_with(PNG) => decode_png(bytes),
        _ => Err("neither a JPEG nor a PNG file".to_owned()),
    };
    decoded.map_err(DecodeError)
}

fn decode_png(bytes: &[u8]) -> Result<Array3<u8>, String> {
    let words = |error: image::ImageError| error.to_string().trim_end_matches('.').to_owned();
    let image = image::load_from_memory_with_format(bytes, ImageFormat::Png).map_err(words)?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    Array3::from_shape_vec((height, width, 3), to_rgb(image)).map_err(|error| error.to_string())
}

fn to_rgb(image: DynamicImage) -> Vec<u8> {
    let upper = |value: &u16| (value >> 8) as u8;
    match image {
        DynamicImage::ImageRgb16(image) => image.iter().map(upper).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(|v| upper(&v))).collect()
        }
        DynamicImage::ImageLuma16(image) => image.iter().flat_map(|&value| [value.min(255) as u8; 3]).collect(),
        DynamicImage::ImageLumaA16(image) => image.pixels().flat_map(|pixel| [upper(&pixel[0]); 3]).collect(),
        image => image.into_rgb8().into_raw(),
    }
}

/// The (width, height) in the header of an image file; the pixels are not read.
///
/// # Errors
/// With the reason when there is no such header.
pub(crate) fn dimensions(reader: impl std::io::BufRead + std::io::Seek) -> Result<(u32, u32), String> {
    let reader = image::ImageReader::new(reader).with_guessed_format().map_err(|error| error.to_string())?;
    reader.into_dimensions().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use empssl_golden::damage::Parser;

    use super::*;

    /// The fixtures, each with Pillow's pixels.
    fn fixtures() -> Vec<(String, Vec<u8>, Vec<u8>)> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/decode");
        let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension != "rgb"));
        paths.sort();
        let read = |path: &std::path::PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let pixels = std::fs::read(path.with_file_name(format!("{name}.rgb"))).unwrap();
            (name, std::fs::read(path).unwrap(), pixels)
        };
        paths.iter().map(read).collect()
    }

    #[test]
    fn what_is_no_image_is_refused_in_words() {
        let refusal = |bytes: &[u8]| decode_image(bytes).unwrap_err().to_string();
        assert_eq!(refusal(b""), "the file is empty");
        assert_eq!(refusal(b"bad\n"), "neither a JPEG nor a PNG file");
        assert_eq!(refusal(b"\x89PNG"), "unexpected end of file");
        assert_eq!(refusal(b"\x89PNG\r\n....."), "Format error decoding Png: Invalid PNG signature");
    }

    #[test]
    fn golden_every_kind_of_file_decodes_to_the_pixels_of_pillow() {
        let fixtures = fixtures();
        assert!(fixtures.len() >= 30, "{}", fixtures.len());
        for (name, bytes, expected) in fixtures {
            let image = decode_image(&bytes).unwrap_or_else(|reason| panic!("{name}: {reason}"));
            let found = image.as_slice().unwrap();
            assert_eq!(found.len(), expected.len(), "{name}");
            let gap = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert_eq!(gap, 0, "{name}: {gap} levels from Pillow's pixels");
            assert_eq!(dimensions(Cursor::new(&bytes)).unwrap().0 as usize, image.dim().1, "{name}");
        }
    }

    /// One file of every kind that decodes.
    fn kinds() -> Vec<Vec<u8>> {
        let jpeg =
            ["420-17x1", "progressive-420", "restarts", "cmyk", "ycck", "grey"].map(|name| format!("{name}.jpg"));
        let png = ["palette-4-bit-transparent.png", "rgba-16-bit.png"].map(str::to_owned);
        let names = [&jpeg[..], &png].concat();
        let files: Vec<_> = fixtures().into_iter().filter(|(name, ..)| names.contains(name)).collect();
        assert_eq!(files.len(), names.len());
        files.into_iter().map(|(_, bytes, _)| bytes).collect()
    }

    #[test]
    fn damaged_files_neither_panic_nor_take_memory() {
        Parser::new("header", |bytes| dimensions(Cursor::new(bytes)).is_ok(), kinds()).hold();
        // What its header calls small, so that no input takes long.
        let decode: fn(&[u8]) -> bool = |bytes| {
            let is_small = |(width, height): (u32, u32)| u64::from(width) * u64::from(height) <= 1 << 16;
            dimensions(Cursor::new(bytes)).is_ok_and(is_small) && decode_image(bytes).is_ok()
        };
        // Coefficients, a plane of each component and the pixels of what the guard lets through.
        Parser { memory: [64 << 20, 16], ..Parser::new("image", decode, kinds()) }.hold();
    }
}
