//! Whether a JPEG file is complete. The decoder fills what is missing of a truncated photograph with grey and says
//! nothing, which would quietly train on half images; Pillow refuses such a file, and so does this.

/// Follows the markers of a JPEG file to its end. Files of other formats pass.
///
/// # Errors
/// When the end-of-image marker is missing or a marker is found that has no place in a JPEG file.
pub(crate) fn check_complete(bytes: &[u8]) -> Result<(), String> {
    const START: [u8; 2] = [0xff, 0xd8];
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
    fn a_marker_out_of_place_is_named() {
        let mut bytes = photograph();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2].copy_from_slice(&[0xff, 0x42]);
        assert_eq!(check_complete(&bytes), Err("unexpected JPEG marker 0x42".to_owned()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![Just(0xff_u8), any::<u8>()], 0..300)) {
            let _ = check_complete(&[&[0xff, 0xd8], &bytes[..]].concat());
        }
    }
}
