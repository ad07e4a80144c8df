//! Base64, for the picture inside the page.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
pub(crate) fn encode(data: &[u8]) -> String {
    data.chunks(3).flat_map(four).collect()
}

/// One to three bytes as four characters.
fn four(bytes: &[u8]) -> [char; 4] {
    let bits = (0..3).fold(0u32, |bits, i| bits << 8 | u32::from(bytes.get(i).copied().unwrap_or(0)));
    std::array::from_fn(|i| match i > bytes.len() {
        true => '=',
        false => char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648() {
        let vectors = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, expected) in vectors.iter().enumerate() {
            assert_eq!(encode(&b"foobar"[..length]), *expected);
        }
        assert_eq!(encode(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
