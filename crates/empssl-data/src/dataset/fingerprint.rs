//! A fast 64-bit hash that is the same on every machine; it tells data sets apart and resists no attack.

use crate::rng::mix;

/// Accumulates a hash, eight bytes at a time.
#[derive(Debug, Default)]
pub struct Hasher {
    state: u64,
}

impl Hasher {
    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.state = mix(self.state ^ number);
    }

    /// Adds bytes and their count, so that ("ab", "c") and ("a", "bc") differ.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let words = bytes.chunks_exact(8);
        let mut rest = [0; 8];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        for word in words.chain([&rest[..]]) {
            self.number(word.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)));
        }
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// The hash of everything added.
    pub fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[&str]) -> u64 {
        let mut hasher = Hasher::default();
        parts.iter().for_each(|part| hasher.text(part));
        hasher.finish()
    }

    #[test]
    fn boundaries_order_and_every_byte_count() {
        let base = hash(&["ab", "c"]);
        for other in [&["a", "bc"][..], &["c", "ab"], &["ab", "c", ""], &["abc"], &["ab", "d"]] {
            assert_ne!(hash(other), base, "{other:?}");
        }
        assert_ne!(hash(&["12345678"]), hash(&["12345678\0"]));
    }

    /// A value that must never change: stored runs compare against it.
    #[test]
    fn the_hash_is_the_same_everywhere() {
        assert_eq!(hash(&["images", ""]), 10_297_774_939_720_181_467);
    }
}
