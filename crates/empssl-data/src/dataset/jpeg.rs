//! JPEG files: whether one is complete, what its header says, and its pixels.
//!
//! The decoder is a Rust port of libjpeg-turbo and gives the same bytes, hence the same as Pillow.

use std::panic::{AssertUnwindSafe, catch_unwind};

use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};
use ndarray::Array3;

/// The most pixels that a file may have, as Pillow limits it; more is refused as a damaged or hostile header.
const MAX_PIXELS: u64 = 178_956_970;

const START: [u8; 2] = [0xff, 0xd8];
const END: [u8; 2] = [0xff, 0xd9];

/// Whether the bytes start as a JPEG file does.
pub(crate) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&START)
}

/// Decodes a JPEG file to `[height, width, 3]`.
///
/// # Errors
/// With the reason when the file is damaged, truncated, too large, or of a kind that photographs do not have.
pub(crate) fn decode(bytes: &[u8]) -> Result<Array3<u8>, String> {
    check_complete(bytes)?;
    Frame::read(bytes)?.check()?;
    // The decoder indexes with what the file says; a panic that the checks before did not foresee is a bad image,
    // not the end of a run.
    catch_unwind(AssertUnwindSafe(|| decode_checked(bytes).map_err(|error| error.to_string())))
        .unwrap_or_else(|_| Err("the decoder gave up on it".to_owned()))
}

fn decode_checked(bytes: &[u8]) -> Result<Array3<u8>, JpegError> {
    let limits = DecodeLimits { max_pixels: MAX_PIXELS, ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(bytes, limits)?;
    decoder.set_output_format(PixelFormat::Rgb);
    let image = decoder.decode_image()?;
    let shape = (image.height, image.width, 3);
    Array3::from_shape_vec(shape, image.data).map_err(|error| JpegError::CorruptData(error.to_string()))
}

/// What the start-of-frame segment says.
#[derive(Debug, PartialEq)]
struct Frame {
    width: usize,
    height: usize,
    precision: u8,
    /// Samples per block of the image, across and down, of every component.
    factors: Vec<(u8, u8)>,
}

impl Frame {
    /// Walks the segments of a JPEG file to the start of its frame.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes.get(2..).unwrap_or_default();
        while let [before, after @ ..] = rest {
            rest = after;
            let (0xff, Some(&marker)) = (*before, after.first()) else { continue };
            match marker {
                // Fillers, and markers without a segment.
                0x00 | 0x01 | 0xff | 0xd0..=0xd8 => continue,
                0xda | 0xd9 => break,
                _ => {}
            }
            let len = match after.get(1..3) {
                Some(len) => usize::from(u16::from_be_bytes([len[0], len[1]])),
                None => break,
            };
            let segment = after.get(3..1 + len).ok_or("a JPEG segment reaches beyond the end of the file")?;
            // 0xc4, 0xc8 and 0xcc are tables among the start-of-frame markers.
            if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                return Self::parse(segment).ok_or_else(|| "the JPEG frame header is too short".to_owned());
            }
            rest = &after[1 + len..];
        }
        Err("the JPEG file has no frame header".to_owned())
    }

    fn parse(segment: &[u8]) -> Option<Self> {
        let &[precision, h1, h0, w1, w0, count, ref components @ ..] = segment else { return None };
        let (components, _) = components.as_chunks::<3>();
        let components = components.get(..usize::from(count))?;
        let factors = components.iter().map(|component| (component[1] >> 4, component[1] & 15)).collect();
        let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
        Some(Self { width: side(w1, w0), height: side(h1, h0), precision, factors })
    }

    /// Refuses frames that photographs do not have, on which decoders are least tested.
    fn check(&self) -> Result<(), String> {
        let Self { width, height, precision, factors } = self;
        if *precision != 8 {
            return Err(format!("JPEG of {precision} bits per sample, expected 8"));
        }
        let pixels = (*width as u64) * (*height as u64);
        if pixels == 0 || pixels > MAX_PIXELS {
            return Err(format!("JPEG of {width}x{height} pixels, expected 1 to {MAX_PIXELS}"));
        }
        // The first component has the full size, of CMYK and YCCK the fourth too, and the others a whole part of it.
        let whole = |part: u8, of: u8| (1..=4).contains(&of) && part > 0 && of.is_multiple_of(part);
        let fits = |first: &(u8, u8), other: &(u8, u8)| whole(other.0, first.0) && whole(other.1, first.1);
        let usual = match &factors[..] {
            [first] => fits(first, first),
            [first, second, third] => fits(first, second) && fits(first, third),
            [first, second, third, fourth] => {
                first.0 <= 2 && first.1 <= 2 && fits(first, second) && second == third && first == fourth
            }
            _ => false,
        };
        if usual { Ok(()) } else { Err(format!("JPEG components of unusual sampling factors {factors:?}")) }
    }
}

/// Follows the markers of a JPEG file to its end. Files of other formats pass.
///
/// Many decoders fill what is missing of a truncated photograph with grey without an error, which would train on half
/// images; Pillow refuses such a file, and so does this.
///
/// # Errors
/// When the end-of-image marker is missing or a marker is found that has no place in a JPEG file.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<(), String> {
    // An end within the picture is not written like this, and without a whole picture the decoder misses its data.
    if bytes.ends_with(&END) {
        return Ok(());
    }
    let Some(mut rest) = bytes.strip_prefix(&START) else { return Ok(()) };
    while let Some(place) = rest.iter().position(|&byte| byte == 0xff) {
        rest = &rest[place + 1..];
        let Some((&marker, after)) = rest.split_first() else { break };
        rest = match marker {
            // The end of the image; what follows does not matter.
            0xd9 => return Ok(()),
            // A byte of the picture that is 0xff, a restart within the picture, a filler.
            0x00 | 0xd0..=0xd7 => after,
            0xff => rest,
            // Tables, headers, comments, thumbnails: skipped by their length, which counts its own two bytes.
            0xc0..=0xcf | 0xda..=0xef | 0xfe => match after {
                [high, low, ..] => after.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or(&[]),
                _ => break,
            },
            _ => return Err(format!("unexpected JPEG marker {marker:#04x}")),
        };
    }
    Err("the JPEG file is truncated: it has no end-of-image marker".to_owned())
}

#[cfg(test)]
mod tests {
    use empssl_golden::damage::Parser;
    use image::codecs::jpeg::JpegEncoder;
    use proptest::prelude::*;

    use super::*;

    fn photograph() -> Vec<u8> {
        let image = image::RgbImage::from_fn(90, 70, |x, y| image::Rgb([(x * y) as u8, (3 * x) as u8, (y ^ x) as u8]));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
        bytes
    }

    #[test]
    fn complete_files_pass_with_anything_behind_them() {
        let bytes = photograph();
        assert_eq!(check_complete(&bytes), Ok(()));
        assert_eq!(check_complete(&[&bytes[..], &[0; 50]].concat()), Ok(()));
        assert_eq!(check_complete(b"\x89PNG\r\n\x1a\n"), Ok(()));
        assert_eq!(check_complete(b""), Ok(()));
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = photograph();
        assert!((2..bytes.len()).all(|len| check_complete(&bytes[..len]).is_err()));
    }

    #[test]
    fn an_end_within_a_thumbnail_is_not_the_end() {
        let bytes = photograph();
        let thumbnail = [&[0xff, 0xe1, 0, 6], &[0xff, 0xd8, 0xff, 0xd9][..]].concat();
        let with_thumbnail = [&bytes[..2], &thumbnail, &bytes[2..]].concat();
        assert_eq!(check_complete(&with_thumbnail), Ok(()));
        assert!(check_complete(&with_thumbnail[..with_thumbnail.len() / 2]).is_err());
    }

    #[test]
    fn a_marker_out_of_place_is_refused() {
        let mut bytes = photograph();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2].copy_from_slice(&[0xff, 0x42]);
        bytes.push(0);
        assert_eq!(check_complete(&bytes), Err("unexpected JPEG marker 0x42".to_owned()));
        bytes.pop();
        assert!(decode(&bytes).is_err());
    }

    /// The photograph with a frame header of these sampling factors, one component each.
    fn with_factors(factors: &[u8]) -> Vec<u8> {
        let bytes = photograph();
        let start = bytes.windows(2).position(|window| window == [0xff, 0xc0]).unwrap();
        let mut header = vec![0xff, 0xc0, 0, 8 + 3 * factors.len() as u8];
        header.extend(&bytes[start + 4..start + 9]);
        header.push(factors.len() as u8);
        (1..).zip(factors).for_each(|(id, &factors)| header.extend([id, factors, 0]));
        [&bytes[..start], &header, &bytes[start + 19..]].concat()
    }

    #[test]
    fn the_frame_header_is_read() {
        let frame = Frame::read(&photograph()).unwrap();
        assert_eq!((frame.width, frame.height, frame.precision), (90, 70, 8));
        assert_eq!(Frame::read(&with_factors(&[0x21, 0x11, 0x11])).unwrap().factors, [(2, 1), (1, 1), (1, 1)]);
        assert_eq!(Frame::read(&START).unwrap_err(), "the JPEG file has no frame header");
        assert_eq!(Frame::read(&photograph()[..12]).unwrap_err(), "a JPEG segment reaches beyond the end of the file");
        let short = [&START[..], &[0xff, 0xc0, 0, 5, 8, 0, 1]].concat();
        assert_eq!(Frame::read(&short).unwrap_err(), "the JPEG frame header is too short");
    }

    #[test]
    fn what_no_photograph_is_gets_refused() {
        for factors in [&[0x11, 0x11][..], &[0x11, 0x21, 0x11], &[0x11, 0x11, 0x11, 0x12], &[0x31, 0x21, 0x11], &[0]] {
            let reason = decode(&with_factors(factors)).unwrap_err();
            assert!(reason.contains("sampling factors"), "{factors:?}: {reason}");
        }
        let at = |offset: usize, bytes: &[u8]| {
            let mut file = photograph();
            let start = file.windows(2).position(|window| window == [0xff, 0xc0]).unwrap() + offset;
            file[start..start + bytes.len()].copy_from_slice(bytes);
            decode(&file).unwrap_err()
        };
        assert_eq!(at(4, &[12]), "JPEG of 12 bits per sample, expected 8");
        assert_eq!(at(5, &[0xff, 0xff, 0xff, 0xff]), "JPEG of 65535x65535 pixels, expected 1 to 178956970");
        assert_eq!(at(5, &[0, 0]), "JPEG of 90x0 pixels, expected 1 to 178956970");
    }

    proptest! {
        #[test]
        fn damaged_photographs_never_panic(edits in proptest::collection::vec((0..5000_usize, any::<u8>()), 1..9)) {
            let mut bytes = photograph();
            for (place, byte) in edits {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![Just(0xff_u8), any::<u8>()], 0..300)) {
            let _ = check_complete(&[&[0xff, 0xd8], &bytes[..]].concat());
        }
    }

    #[test]
    fn damaged_markers_neither_panic_nor_take_memory() {
        // Every kind of marker segment: two tables, a frame, a scan with a stuffed byte and a restart.
        let markers =
            *b"\xff\xd8\xff\xe0\0\x04ab\xff\xdb\0\x03c\xff\xc0\0\x02\xff\xda\0\x02xy\xff\0z\xff\xd0w\xff\xff\xd9..";
        Parser::new("JPEG markers", |bytes| check_complete(bytes).is_ok(), vec![markers.to_vec()]).hold();
    }
}
