//! Weights files: safetensors in and out, for this crate, PyTorch and anything else that reads the format.
//!
//! A file of [`Network::state_dict`](crate::Network::state_dict) loads into the official encoder with `strict=True`,
//! one of [`Network::backbone_state_dict`](crate::Network::backbone_state_dict) into torchvision's ResNet with
//! `fc = Identity`; and what PyTorch's `safetensors.torch.save_file` wrote loads here.
//!
//! A file appears complete or not at all: it is written under a temporary name beside its place, synced to the disk and
//! then renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::ModelError;

/// What a weights file holds.
#[derive(Debug)]
pub struct WeightsFile {
    /// Tensors by name, on the CPU, in the types they are stored in and the order of their bytes in the file.
    pub tensors: Vec<(String, Tensor)>,
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file.
///
/// # Errors
/// [`ModelError::Read`] when it cannot be opened or read, [`ModelError::Format`] when it is truncated, damaged, of
/// another format, or holds numbers of a type that libtorch lacks.
pub fn read(path: &Path) -> Result<WeightsFile, ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
    let foreign = |reason: String| ModelError::Format { path: path.to_owned(), reason };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(explain(&bytes, &e)))?;
    let stored = SafeTensors::deserialize(&bytes).map_err(|e| foreign(explain(&bytes, &e)))?;
    let tensors = header.offset_keys().into_iter().map(|key| {
        let view = stored.tensor(&key).map_err(|e| foreign(e.to_string()))?;
        let kind = kind(view.dtype()).ok_or_else(|| foreign(format!("`{key}` holds {} numbers", view.dtype())))?;
        let size: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &size, kind).map_err(|e| foreign(e.to_string()))?;
        Ok((key, tensor))
    });
    let metadata = header.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok(WeightsFile { tensors: tensors.collect::<Result<_, _>>()?, metadata })
}

/// Why the bytes are not a safetensors file, with a hint for the format they are most often mistaken for.
fn explain(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    if bytes.starts_with(b"PK\x03\x04") {
        return "it is a zip archive, as PyTorch's .pt files are; convert it with safetensors.torch.save_file"
            .to_owned();
    }
    format!("{error}; it is truncated, damaged or of another format")
}

/// Writes named tensors and metadata to a file, replacing the one that may be there once the new one is complete.
///
/// Equal content gives equal bytes. Tensors may be on any device and of any layout.
///
/// # Errors
/// [`ModelError::Write`] when the folder or the disk refuses, [`ModelError::Unwritable`] for a repeated or reserved
/// name, or numbers of a type that the format lacks.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<(), ModelError> {
    let layout = Layout::new(tensors, metadata)?;
    write_replacing(path, &layout).map_err(|source| ModelError::Write { path: path.to_owned(), source })
}

/// The header of a file, and its tensors in the order of their bytes.
struct Layout<'a> {
    header: Vec<u8>,
    tensors: Vec<&'a Tensor>,
}

impl<'a> Layout<'a> {
    fn new(tensors: &'a [(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<Self, ModelError> {
        let mut typed = tensors.iter().map(|(key, tensor)| Ok((key, tensor, dtype(key, tensor)?)));
        let mut typed = typed.by_ref().collect::<Result<Vec<_>, ModelError>>()?;
        // Wide numbers first, so that each starts at a multiple of its own size.
        typed.sort_by_key(|(_, _, dtype)| std::cmp::Reverse(dtype.bitsize()));

        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert(METADATA.to_owned(), json!(metadata));
        }
        let mut start = 0;
        for (key, tensor, dtype) in &typed {
            let end = start + tensor.numel() * dtype.bitsize() / 8;
            let entry = json!({ "dtype": dtype, "shape": tensor.size(), "data_offsets": [start, end] });
            insert_new(&mut header, key, entry)?;
            start = end;
        }
        Ok(Self { header: padded(header), tensors: typed.into_iter().map(|(_, tensor, _)| tensor).collect() })
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        self.tensors.iter().try_for_each(|tensor| out.write_all(&bytes_of(tensor)?))
    }
}

/// The key under which the format keeps free text.
const METADATA: &str = "__metadata__";

fn insert_new(header: &mut Map<String, Value>, key: &str, entry: Value) -> Result<(), ModelError> {
    if key == METADATA || header.contains_key(key) {
        let reason = if key == METADATA { "the format reserves this name" } else { "the name occurs twice" };
        return Err(ModelError::Unwritable { key: key.to_owned(), reason: reason.to_owned() });
    }
    header.insert(key.to_owned(), entry);
    Ok(())
}

/// The header's text, filled up with spaces so that the data starts at a multiple of 8.
fn padded(header: Map<String, Value>) -> Vec<u8> {
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    text
}

fn bytes_of(tensor: &Tensor) -> io::Result<Vec<u8>> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(io::Error::other)?;
    Ok(bytes)
}

fn write_replacing(path: &Path, layout: &Layout<'_>) -> io::Result<()> {
    let temporary = temporary_sibling(path)?;
    let written = write_synced(&temporary, layout).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first failure is the one worth reporting.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(path)
}

fn write_synced(path: &Path, layout: &Layout<'_>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    layout.write_to(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// `.NAME.PID.tmp` in the same folder, hence on the same disk.
fn temporary_sibling(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path does not end in a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Makes the renaming itself durable, where folders can be synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

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

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(candidate, _)| *candidate == dtype).map(|(_, kind)| *kind)
}

fn dtype(key: &str, tensor: &Tensor) -> Result<Dtype, ModelError> {
    let kind = tensor.kind();
    let found = KINDS.iter().find(|(_, candidate)| *candidate == kind).map(|(dtype, _)| *dtype);
    let reason = || format!("the format has no type for {kind:?}");
    found.ok_or_else(|| ModelError::Unwritable { key: key.to_owned(), reason: reason() })
}
