//! Tensors on disk, in safetensors files: one streaming writer and one mapped reader.
//!
//! A file is eight bytes with the header's length, the header in JSON, filled up with spaces to a multiple of eight, and
//! the numbers of the tensors without a gap. What is written here has a CRC-32 of header and numbers in its metadata,
//! taken with zeros in its own place, so a number that changed on the disk is noticed; files without one, as other
//! programs write them, are taken as they are.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ::safetensors::tensor::Metadata;
use ::safetensors::{Dtype, SafeTensorError};
use crc32fast::Hasher;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::mapped::MappedFile;
use crate::whole_file::WholeFile;

/// The bytes before the header, which hold its length.
const LENGTH_BYTES: usize = 8;

/// The key under which the format keeps free text.
const METADATA: &str = "__metadata__";

/// The key of the checksum in the metadata.
const CHECKSUM: &str = "crc32";

/// What stands in the place of the checksum while it is taken.
const UNFILLED: &str = "00000000";

/// Bytes that a checksum is taken of at once when a file is read.
const PIECE: usize = 1 << 20;

/// Types that the format and libtorch share.
const KINDS: [(Dtype, Kind); 10] = [
    (Dtype::BOOL, Kind::Bool),
    (Dtype::U8, Kind::Uint8),
    (Dtype::I8, Kind::Int8),
    (Dtype::I16, Kind::Int16),
    (Dtype::I32, Kind::Int),
    (Dtype::I64, Kind::Int64),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F32, Kind::Float),
    (Dtype::F64, Kind::Double),
];

/// Free text by key.
pub type TextMetadata = BTreeMap<String, String>;

/// Why a file could not be read or written; its caller knows which file.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// In the system's words.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not what it should be, and what to do where that is known.
    #[error("{0}")]
    Format(String),
    /// A tensor that a file cannot hold.
    #[error("`{key}` cannot be written: {reason}")]
    Unwritable {
        /// The tensor's name.
        key: String,
        /// Why not.
        reason: String,
    },
}

impl SafetensorsError {
    fn unwritable(key: &str, reason: impl Into<String>) -> Self {
        Self::Unwritable { key: key.to_owned(), reason: reason.into() }
    }
}

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// The type of its numbers.
    pub kind: Kind,
    /// Its sizes.
    pub size: Vec<i64>,
}

/// A tensor with a place in a file that is written.
#[derive(Debug)]
struct Placed {
    spec: TensorSpec,
    dtype: Dtype,
    /// Where its numbers begin and end, behind the header.
    span: [u64; 2],
    /// Where the next ones go.
    next: u64,
    checksum: Hasher,
}

/// Writes a file piece by piece: the numbers of every tensor in their order, the tensors in any order or by turns.
///
/// Equal content gives equal bytes. The file is whole or not there: see [`WholeFile`].
#[derive(Debug)]
pub struct SafetensorsWriter {
    out: WholeFile,
    tensors: Vec<Placed>,
    metadata: TextMetadata,
    /// Where the numbers begin.
    data: u64,
}

impl SafetensorsWriter {
    /// Begins a file at `path` with room for these tensors.
    ///
    /// # Errors
    /// [`SafetensorsError::Unwritable`] for a repeated or reserved name, a negative size, or numbers of a type that the
    /// format lacks; [`SafetensorsError::Io`] when the folder refuses.
    pub fn create(path: &Path, tensors: Vec<TensorSpec>, metadata: TextMetadata) -> Result<Self, SafetensorsError> {
        let mut tensors = tensors.into_iter().map(placed).collect::<Result<Vec<_>, _>>()?;
        for (index, tensor) in tensors.iter().enumerate() {
            let name = &tensor.spec.name;
            if name == METADATA {
                return Err(SafetensorsError::unwritable(name, "the format reserves this name"));
            }
            if tensors[..index].iter().any(|other| other.spec.name == *name) {
                return Err(SafetensorsError::unwritable(name, "the name occurs twice"));
            }
        }
        // Wide numbers come first in the file, so that each starts at a multiple of its own size.
        let mut by_width: Vec<&mut Placed> = tensors.iter_mut().collect();
        by_width.sort_by_key(|tensor| Reverse(tensor.dtype.bitsize()));
        let mut start = 0;
        for tensor in by_width {
            tensor.span = tensor.span.map(|bytes| start + bytes);
            tensor.next = start;
            start = tensor.span[1];
        }
        let data = LENGTH_BYTES as u64 + header(&tensors, &metadata, UNFILLED).len() as u64;
        Ok(Self { out: WholeFile::create(path)?, tensors, metadata, data })
    }

    /// Appends the numbers of `rows`, row by row, to tensor `index` of those given in the beginning. They may be on any
    /// device and of any layout.
    ///
    /// # Errors
    /// [`SafetensorsError::Unwritable`] for numbers of another type, or more than there is room for;
    /// [`SafetensorsError::Io`] when the disk refuses.
    pub fn append(&mut self, index: usize, rows: &Tensor) -> Result<(), SafetensorsError> {
        let tensor = &mut self.tensors[index];
        let bytes = bytes_of(rows)?;
        let (start, end) = (tensor.next, tensor.next + bytes.len() as u64);
        if rows.kind() != tensor.spec.kind || end > tensor.span[1] {
            let reason = format!("{:?} {:?} do not belong there", rows.size(), rows.kind());
            return Err(SafetensorsError::unwritable(&tensor.spec.name, reason));
        }
        tensor.checksum.update(&bytes);
        tensor.next = end;
        Ok(self.out.write_at(self.data + start, &bytes)?)
    }

    /// Replaces a text of the metadata by another of the same length, which was not known in the beginning.
    pub fn set_text(&mut self, key: &str, text: String) {
        self.metadata.insert(key.to_owned(), text);
    }

    /// Completes the file and gives it its name. The file that may be in its place is renamed to `previous` then, where
    /// that is given ([`WholeFile::persist_keeping`]), and otherwise replaced.
    ///
    /// # Errors
    /// [`SafetensorsError::Unwritable`] when numbers of a tensor are missing; [`SafetensorsError::Io`] when the disk
    /// refuses.
    pub fn finish(mut self, previous: Option<&Path>) -> Result<(), SafetensorsError> {
        let unfinished = self.tensors.iter().find(|tensor| tensor.next != tensor.span[1]);
        if let Some(Placed { spec, span, next, .. }) = unfinished {
            let reason = format!("{} of its {} bytes were not given", span[1] - next, span[1] - span[0]);
            return Err(SafetensorsError::unwritable(&spec.name, reason));
        }
        let mut checksum = Hasher::new();
        checksum.update(&header(&self.tensors, &self.metadata, UNFILLED));
        let mut by_place: Vec<&Placed> = self.tensors.iter().collect();
        by_place.sort_by_key(|tensor| tensor.span);
        by_place.iter().for_each(|tensor| checksum.combine(&tensor.checksum));
        let text = header(&self.tensors, &self.metadata, &checksum_text(checksum));
        let length = text.len() as u64;
        if LENGTH_BYTES as u64 + length != self.data {
            return Err(SafetensorsError::unwritable(METADATA, "a text is longer or shorter than in the beginning"));
        }
        self.out.write_at(0, &length.to_le_bytes())?;
        self.out.write_at(LENGTH_BYTES as u64, &text)?;
        Ok(self.out.persist_keeping(previous)?)
    }
}

/// A tensor as if it were alone in its file.
fn placed(spec: TensorSpec) -> Result<Placed, SafetensorsError> {
    let dtype = KINDS.iter().find(|(_, kind)| *kind == spec.kind).map(|(dtype, _)| *dtype);
    let lacking = || SafetensorsError::unwritable(&spec.name, format!("the format has no type for {:?}", spec.kind));
    let dtype = dtype.ok_or_else(lacking)?;
    let count = spec.size.iter().try_fold(1u64, |count, &size| count.checked_mul(u64::try_from(size).ok()?));
    let bytes = count.and_then(|count| count.checked_mul(spec.kind.elt_size_in_bytes() as u64));
    let bytes =
        bytes.ok_or_else(|| SafetensorsError::unwritable(&spec.name, format!("{:?} are no sizes", spec.size)))?;
    Ok(Placed { spec, dtype, span: [0, bytes], next: 0, checksum: Hasher::new() })
}

/// The header's text, as long for every checksum, filled up so that the numbers start at a multiple of 8.
fn header(tensors: &[Placed], metadata: &TextMetadata, checksum: &str) -> Vec<u8> {
    let mut metadata = metadata.clone();
    metadata.insert(CHECKSUM.to_owned(), checksum.to_owned());
    let mut header = Map::from_iter([(METADATA.to_owned(), json!(metadata))]);
    for Placed { spec, dtype, span, .. } in tensors {
        header.insert(spec.name.clone(), json!({ "dtype": dtype, "shape": spec.size, "data_offsets": span }));
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    text
}

/// The numbers of a tensor as they lie in files, row by row.
///
/// # Errors
/// When they cannot be copied from their device.
pub fn bytes_of(tensor: &Tensor) -> io::Result<Vec<u8>> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A file that was checked and mapped into memory: a tensor that is not looked at is read for the checksum alone.
#[derive(Debug)]
pub struct SafetensorsFile {
    map: MappedFile,
    /// Where the numbers begin.
    data: usize,
    header: Metadata,
    metadata: TextMetadata,
    has_checksum: bool,
}

impl SafetensorsFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`SafetensorsError::Io`] when it cannot be opened or mapped; [`SafetensorsError::Format`] when it is truncated,
    /// damaged (be it by one bit, where the file has a checksum), of another format, or holds numbers of a type that
    /// libtorch lacks.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let map = MappedFile::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => explain(&SafeTensorError::HeaderTooSmall),
            _ => error.into(),
        })?;
        let (text, header) = read_header(&map)?;
        let mut metadata: TextMetadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        let (data, checksum) = (LENGTH_BYTES + text.len(), metadata.remove(CHECKSUM));
        if let Some(stored) = &checksum {
            demand_checksum(stored, &text, &map, data)?;
        }
        let mut infos = header.offset_keys().into_iter().filter_map(|name| Some((header.info(&name)?.dtype, name)));
        if let Some((dtype, name)) = infos.find(|(dtype, _)| kind(*dtype).is_none()) {
            return Err(SafetensorsError::Format(format!("`{name}` holds {dtype} numbers")));
        }
        Ok(Self { map, data, header, metadata, has_checksum: checksum.is_some() })
    }

    /// The bytes of the file.
    pub fn n_bytes(&self) -> usize {
        self.map.len()
    }

    /// Its free text, without the checksum.
    pub fn metadata(&self) -> &TextMetadata {
        &self.metadata
    }

    /// Whether the file has a checksum, which was compared then.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// The tensors, in the order of their bytes in the file.
    pub fn specs(&self) -> Vec<TensorSpec> {
        self.header.offset_keys().iter().filter_map(|name| self.spec(name)).collect()
    }

    /// One tensor's type and sizes.
    pub fn spec(&self, name: &str) -> Option<TensorSpec> {
        let info = self.header.info(name)?;
        let size = info.shape.iter().map(|&size| size as i64).collect();
        Some(TensorSpec { name: name.to_owned(), kind: kind(info.dtype)?, size })
    }

    /// A tensor on the CPU, on the memory of the file where its numbers are aligned, as they are in files that this
    /// program wrote, and else a copy.
    ///
    /// # Errors
    /// [`SafetensorsError::Format`] when there is none of this name.
    pub fn tensor(&self, name: &str) -> Result<Tensor, SafetensorsError> {
        let absent = || SafetensorsError::Format(format!("it has no tensor `{name}`"));
        let (TensorSpec { kind, size, .. }, info) = self.spec(name).zip(self.header.info(name)).ok_or_else(absent)?;
        let tensor = self.map.tensor(self.data + info.data_offsets.0, &size, kind);
        tensor.map_err(|error| SafetensorsError::Format(error.to_string()))
    }
}

/// The header's text, and what it says, which fits the file.
fn read_header(map: &MappedFile) -> Result<(Vec<u8>, Metadata), SafetensorsError> {
    let mut first = [0; LENGTH_BYTES];
    map.copy_to(0, &mut first).map_err(|_| explain(&SafeTensorError::HeaderTooSmall))?;
    if first.starts_with(b"PK\x03\x04") {
        let hint = "it is a zip archive, as PyTorch's .pt files are; `empssl import` reads those";
        return Err(SafetensorsError::Format(hint.to_owned()));
    }
    let length = usize::try_from(u64::from_le_bytes(first)).ok();
    // No length in a file is believed before it is compared with the bytes that are there.
    let length = length.filter(|&length| length <= map.len() - LENGTH_BYTES);
    let mut text = vec![0; length.ok_or_else(|| explain(&SafeTensorError::InvalidHeaderLength))?];
    map.copy_to(LENGTH_BYTES, &mut text)?;
    let header: Metadata = serde_json::from_slice(&text)
        .map_err(|error| explain(&SafeTensorError::InvalidHeaderDeserialization(error)))?;
    if header.data_len() != map.len() - LENGTH_BYTES - text.len() {
        return Err(explain(&SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((text, header))
}

fn explain(error: &SafeTensorError) -> SafetensorsError {
    SafetensorsError::Format(format!("{error}; it is truncated, damaged or of another format"))
}

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(candidate, _)| *candidate == dtype).map(|(_, kind)| *kind)
}

/// Compares the bytes with the checksum that was taken when they were written.
fn demand_checksum(stored: &str, header: &[u8], map: &MappedFile, data: usize) -> Result<(), SafetensorsError> {
    let entry = checksum_entry(stored);
    // Quotes within other texts are escaped, so those cannot look like it.
    let place = header.windows(entry.len()).position(|place| place == entry.as_bytes());
    let mut header = header.to_vec();
    if let Some(place) = place.filter(|_| stored.len() == UNFILLED.len()) {
        header[place..place + entry.len()].copy_from_slice(checksum_entry(UNFILLED).as_bytes());
    }
    let mut checksum = Hasher::new();
    checksum.update(&header);
    let mut piece = vec![0; PIECE.min(map.len() - data)];
    for start in (data..map.len()).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(map.len() - start)];
        map.copy_to(start, piece)?;
        checksum.update(piece);
    }
    let found = checksum_text(checksum);
    if found == stored {
        return Ok(());
    }
    let reason = format!("it is damaged: its {CHECKSUM} is {found}, and it was {stored} when the file was written");
    Err(SafetensorsError::Format(reason))
}

fn checksum_text(checksum: Hasher) -> String {
    format!("{:08x}", checksum.finalize())
}

/// The checksum as the header's text has it.
fn checksum_entry(text: &str) -> String {
    format!("\"{CHECKSUM}\":\"{text}\"")
}

#[cfg(test)]
mod tests;
