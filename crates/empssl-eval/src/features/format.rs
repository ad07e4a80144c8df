//! The header of a bank on disk: a safetensors file of numbers in rows, its metadata text.
//!
//! The file is eight bytes with the header's length, the header in JSON, filled up to a multiple of eight, and the
//! numbers, array after array without a gap. The metadata holds a CRC-32 of header and numbers, taken with zeros in its
//! own place, as the weights files of this project do, so either can be checked by the other's reader.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tch::Kind;

/// Bytes before the header.
pub(super) const LENGTH_BYTES: u64 = 8;
/// A header longer than this is none: it names a few arrays and a recipe's keys.
const LONGEST: u64 = 1 << 20;
/// The key under which the format keeps free text.
const METADATA: &str = "__metadata__";
/// The key of the checksum, and what stands in its place while it is taken.
const CHECKSUM: &str = "crc32";
pub(super) const UNFILLED: &str = "00000000";

/// The types of numbers that banks have.
const KINDS: [(&str, Kind); 3] = [("I64", Kind::Int64), ("F32", Kind::Float), ("F64", Kind::Double)];

/// One array of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) sizes: Vec<i64>,
    /// Where its numbers begin, behind the header.
    pub(super) start: u64,
}

impl Array {
    /// Bytes of its numbers; `None` where no machine could address them.
    pub(super) fn bytes(&self) -> Option<u64> {
        let count = self.sizes.iter().try_fold(1u64, |count, &size| count.checked_mul(u64::try_from(size).ok()?));
        count?.checked_mul(self.kind.elt_size_in_bytes() as u64)
    }
}

/// What the header says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    /// In the order of their numbers.
    pub(super) arrays: Vec<Array>,
}

impl Header {
    /// The header's text, as long for every checksum.
    pub(super) fn to_bytes(&self, checksum: &str) -> Vec<u8> {
        let mut metadata = self.metadata.clone();
        metadata.insert(CHECKSUM.to_owned(), checksum.to_owned());
        let mut header = Map::from_iter([(METADATA.to_owned(), json!(metadata))]);
        for array in &self.arrays {
            let dtype = KINDS.iter().find(|(_, kind)| *kind == array.kind).map(|(dtype, _)| *dtype);
            let end = array.start + array.bytes().unwrap_or(0);
            let entry = json!({ "dtype": dtype, "shape": array.sizes, "data_offsets": [array.start, end] });
            header.insert(array.name.clone(), entry);
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        text
    }

    /// Understands the text of a header and of its `data` bytes; the error says what is wrong.
    pub(super) fn parse(text: &[u8], data: u64) -> Result<(Self, String), String> {
        let value: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("its header is no JSON: {error}"))?;
        let (mut metadata, mut arrays) = (BTreeMap::new(), Vec::new());
        for (name, entry) in value {
            if name == METADATA {
                metadata =
                    serde_json::from_value(entry).map_err(|error| format!("its metadata is no text: {error}"))?;
            } else {
                arrays.push(array(&name, &entry).ok_or_else(|| format!("its array `{name}` has no place in a bank"))?);
            }
        }
        arrays.sort_by_key(|array: &Array| array.start);
        let mut end = Some(0);
        for array in &arrays {
            let aligned = array.start.is_multiple_of(array.kind.elt_size_in_bytes() as u64);
            if end != Some(array.start) || !aligned {
                return Err(format!("its array `{}` does not begin where the one before it ends", array.name));
            }
            end = array.bytes().and_then(|bytes| array.start.checked_add(bytes));
        }
        if end != Some(data) {
            return Err("it is truncated, or longer than its header says".to_owned());
        }
        let checksum = metadata.remove(CHECKSUM).ok_or("its header has no checksum")?;
        Ok((Self { metadata, arrays }, checksum))
    }
}

fn array(name: &str, entry: &Value) -> Option<Array> {
    let dtype = entry.get("dtype")?.as_str()?;
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == dtype)?;
    let sizes: Vec<i64> = serde_json::from_value(entry.get("shape")?.clone()).ok()?;
    let [start, end]: [u64; 2] = serde_json::from_value(entry.get("data_offsets")?.clone()).ok()?;
    let array = Array { name: name.to_owned(), kind: *kind, sizes, start };
    (array.bytes()?.checked_add(start)? == end).then_some(array)
}

/// The length of the header of a file of so many bytes, from its first eight; `None` where it cannot be one.
pub(super) fn header_length(first: [u8; 8], file: u64) -> Option<u64> {
    let length = u64::from_le_bytes(first);
    (length <= LONGEST && length.is_multiple_of(8) && length + LENGTH_BYTES <= file).then_some(length)
}

/// The header's text with zeros in the place of its checksum.
pub(super) fn unfilled(text: &[u8], checksum: &str) -> Option<Vec<u8>> {
    // Quotes within other texts are escaped, so those cannot look like it.
    let (entry, zeros) = (checksum_entry(checksum), checksum_entry(UNFILLED));
    let place = text.windows(entry.len()).position(|place| place == entry.as_bytes())?;
    Some([&text[..place], zeros.as_bytes(), &text[place + entry.len()..]].concat())
}

fn checksum_entry(text: &str) -> String {
    format!("\"{CHECKSUM}\":\"{text}\"")
}

/// A checksum as the header spells it.
pub(super) fn checksum_text(crc: crc32fast::Hasher) -> String {
    format!("{:08x}", crc.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let array = |name: &str, kind, sizes: &[i64], start| Array {
            name: name.to_owned(),
            kind,
            sizes: sizes.to_vec(),
            start,
        };
        let arrays = vec![array("labels", Kind::Int64, &[3], 0), array("features.4", Kind::Float, &[3, 2], 24)];
        Header { metadata: [("of.encoder".to_owned(), "\"crc32\":\"00000000\"".to_owned())].into(), arrays }
    }

    #[test]
    fn a_header_comes_back_and_its_length_does_not_depend_on_the_checksum() {
        let text = header().to_bytes("0badcafe");
        assert_eq!((text.len() % 8, text.len()), (0, header().to_bytes(UNFILLED).len()));
        assert_eq!(Header::parse(&text, 48), Ok((header(), "0badcafe".to_owned())));
        assert_eq!(unfilled(&text, "0badcafe").unwrap(), header().to_bytes(UNFILLED));
        assert_eq!(unfilled(&text, "0badcaff"), None);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let text = String::from_utf8(header().to_bytes("0badcafe")).unwrap();
        let refused = |from: &str, to: &str, data| Header::parse(text.replace(from, to).as_bytes(), data).unwrap_err();
        for (from, to, data, named) in [
            ("", "", 47, "truncated"),
            ("", "", 49, "truncated"),
            ("F32", "F16", 48, "`features.4` has no place"),
            ("[3,2]", "[3,-2]", 48, "`features.4` has no place"),
            ("[3,2]", "[3,9223372036854775807]", 48, "`features.4` has no place"),
            ("[24,48]", "[24,18446744073709551615]", 48, "`features.4` has no place"),
            ("[24,48]", "[23,47]", 48, "`features.4` does not begin"),
            ("[0,24]", "[24,48]", 48, "does not begin"),
            ("crc32\":\"0badcafe", "crc33\":\"0badcafe", 48, "no checksum"),
            ("{", "[", 48, "no JSON"),
            ("\"0badcafe\"", "7", 48, "metadata"),
        ] {
            let message = refused(from, to, data);
            assert!(message.contains(named), "{from} -> {to}: {message}");
        }
        for (first, file) in [(u64::MAX, u64::MAX), (9, 100), (16, 23), (LONGEST + 8, u64::MAX)] {
            assert_eq!(header_length(first.to_le_bytes(), file), None);
        }
        assert_eq!(header_length(16u64.to_le_bytes(), 24), Some(16));
    }
}
