//! The zip archive that `torch.save` writes since PyTorch 1.6: `NAME/data.pkl` and a file for each storage.
//!
//! Nothing in it is compressed, so every part is a slice of the file.

use std::io::Cursor;

use zip::{CompressionMethod, ZipArchive};

use super::dialect::Stored;
use crate::bytes::{Fault, shown};

/// The largest pickle; the numbers are not in it.
const MAX_PICKLE: usize = 64 << 20;

/// An open archive.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// What the names of all parts begin with.
    folder: String,
}

impl<'a> Archive<'a> {
    /// Finds the parts of an archive.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Fault> {
        let zip = ZipArchive::new(Cursor::new(bytes));
        let zip = zip.map_err(|error| Fault::new(format!("its zip archive is damaged: {error}")))?;
        if zip.has_duplicate_names() {
            return Err(Fault::new("two parts of its zip archive have the same name"));
        }
        let folders = zip.file_names_raw().filter_map(|name| name.strip_suffix(b"/data.pkl"));
        let folder = match folders.take(2).collect::<Vec<_>>()[..] {
            [folder] => std::str::from_utf8(folder).ok().map(str::to_owned),
            _ => None,
        };
        let folder = folder.ok_or_else(|| Fault::new("it is a zip archive, but none that torch.save wrote"))?;
        if zip.index_for_name_raw(format!("{folder}/constants.pkl").as_bytes()).is_some() {
            return Err(Fault::new(
                "it is a TorchScript module, a program beside its weights; save torch.jit.load(FILE).state_dict()",
            ));
        }
        let archive = Self { bytes, zip, folder };
        if archive.part("byteorder")?.is_some_and(|order| order != b"little") {
            return Err(Fault::new("its numbers have their highest byte first; save it on a little-endian machine"));
        }
        Ok(archive)
    }

    /// The pickle.
    pub(super) fn pickle(&self) -> Result<&'a [u8], Fault> {
        let pickle = self.part("data.pkl")?.ok_or_else(|| Fault::new("it has no data.pkl"))?;
        if pickle.len() > MAX_PICKLE {
            return Err(Fault::new(format!("its pickle has {} bytes, at most {MAX_PICKLE} are read", pickle.len())));
        }
        Ok(pickle)
    }

    /// The bytes of a storage.
    pub(super) fn storage(&self, stored: &Stored) -> Result<&'a [u8], Fault> {
        let name = format!("data/{}", stored.key);
        let bytes = self.part(&name)?.ok_or_else(|| Fault::new(format!("it lacks its part `{name}`")))?;
        if bytes.len() == stored.bytes() {
            return Ok(bytes);
        }
        let (found, expected) = (bytes.len(), stored.bytes());
        Err(Fault::new(format!("its part `{name}` has {found} bytes, {expected} were announced")))
    }

    /// The bytes of a part, whose checksum must be right; `None` when there is none of this name.
    fn part(&self, name: &str) -> Result<Option<&'a [u8]>, Fault> {
        let path = format!("{}/{name}", self.folder);
        let Some(index) = self.zip.index_for_name_raw(path.as_bytes()) else { return Ok(None) };
        let damaged = |reason: &str| Fault::new(format!("its part `{}` {reason}", shown(path.as_bytes())));
        let mut zip = self.zip.clone();
        let part = zip.by_index_raw(index).map_err(|error| damaged(&format!("is damaged: {error}")))?;
        if part.compression() != CompressionMethod::Stored || part.encrypted() {
            return Err(damaged("is compressed or encrypted, and torch.save does neither"));
        }
        let place = part.data_start().and_then(|start| Some((usize::try_from(start).ok()?, part.size())));
        let bytes = place.and_then(|(start, size)| {
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            self.bytes.get(start..end)
        });
        let bytes = bytes.ok_or_else(|| damaged("leads out of the file"))?;
        if crc32fast::hash(bytes) != part.crc32() {
            return Err(damaged("is damaged: its checksum is not that of its bytes"));
        }
        Ok(Some(bytes))
    }
}
