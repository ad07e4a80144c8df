//! Weights files: safetensors in and out, for this crate, PyTorch and anything else that reads the format.
//!
//! A file of [`Network::state_dict`](crate::Network::state_dict) loads into the official encoder with `strict=True`,
//! one of [`Network::backbone_state_dict`](crate::Network::backbone_state_dict) into torchvision's ResNet with
//! `fc = Identity`; and what PyTorch's `safetensors.torch.save_file` wrote loads here.
//!
//! A file appears complete or not at all: it is written under a temporary name beside its place, synced to the disk and
//! then renamed.
//!
//! Its metadata holds a CRC-32 of header and tensors, so that a number that changed on the disk is noticed; files without
//! one, as other programs write them, are taken as they are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
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
    /// Free text by key, without the checksum.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file.
///
/// # Errors
/// [`ModelError::Read`] when it cannot be opened or read, [`ModelError::Format`] when it is truncated, damaged (be it
/// by one bit, where the file has a checksum), of another format, or holds numbers of a type that libtorch lacks.
pub fn read(path: &Path) -> Result<WeightsFile, ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
    let foreign = |reason: String| ModelError::Format { path: path.to_owned(), reason };
    let (header_length, header) = SafeTensors::read_metadata(&bytes).map_err(|e| foreign(explain(&bytes, &e)))?;
    let stored = SafeTensors::deserialize(&bytes).map_err(|e| foreign(explain(&bytes, &e)))?;
    let tensors = header.offset_keys().into_iter().map(|key| {
        let view = stored.tensor(&key).map_err(|e| foreign(e.to_string()))?;
        let kind = kind(view.dtype()).ok_or_else(|| foreign(format!("`{key}` holds {} numbers", view.dtype())))?;
        let size: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &size, kind).map_err(|e| foreign(e.to_string()))?;
        Ok((key, tensor))
    });
    let mut metadata: BTreeMap<String, String> = header.metadata().iter().flatten().map(owned).collect();
    if let Some(stored) = metadata.remove(CHECKSUM) {
        let (header, data) = bytes[LENGTH_BYTES..].split_at(header_length);
        demand_checksum(&stored, header, data).map_err(foreign)?;
    }
    Ok(WeightsFile { tensors: tensors.collect::<Result<_, _>>()?, metadata })
}

fn owned((key, text): (&String, &String)) -> (String, String) {
    (key.clone(), text.clone())
}

/// Compares the bytes with the checksum that was taken when they were written.
fn demand_checksum(stored: &str, header: &[u8], data: &[u8]) -> Result<(), String> {
    let entry = checksum_entry(stored);
    let unfilled = place_of(header, &entry).map(|place| {
        let (before, after) = (&header[..place], &header[place + entry.len()..]);
        [before, checksum_entry(UNFILLED).as_bytes(), after].concat()
    });
    let mut crc = crc32fast::Hasher::new();
    crc.update(unfilled.as_deref().unwrap_or(header));
    crc.update(data);
    let found = checksum_text(crc);
    if found == stored {
        return Ok(());
    }
    Err(format!("it is damaged: its {CHECKSUM} is {found}, and it was {stored} when the file was written"))
}

/// Why the bytes are not a safetensors file, with a hint for the format they are most often mistaken for.
fn explain(bytes: &[u8], error: &safetensors::SafeTensorError) -> String {
    if bytes.starts_with(b"PK\x03\x04") {
        return "it is a zip archive, as PyTorch's .pt files are; `empssl import` reads those".to_owned();
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
    write_layout(path, None, tensors, metadata)
}

/// Like [`write()`], but the file that may be at `path` is renamed to `previous`, in the same folder, instead of being
/// lost. That happens once the new one is complete, so one of the two names leads to a whole file at every moment.
///
/// # Errors
/// As [`write()`].
pub fn write_keeping(
    path: &Path,
    previous: &Path,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), ModelError> {
    write_layout(path, Some(previous), tensors, metadata)
}

/// Removes what killed writes of `*.safetensors` files left in a folder, if there is one. Nobody else may be writing
/// there.
///
/// # Errors
/// [`ModelError::Write`], naming the file, when one cannot be removed.
pub fn remove_leftovers(folder: &Path) -> Result<(), ModelError> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path()).map_err(|source| ModelError::Write { path: entry.path(), source })?;
        }
    }
    Ok(())
}

/// Whether a file has a name that [`temporary_sibling`] gives for a `.safetensors` file.
fn is_temporary(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
    let parts = inner.and_then(|inner| inner.rsplit_once('.'));
    parts.is_some_and(|(name, process)| name.ends_with(".safetensors") && process.parse::<u32>().is_ok())
}

fn write_layout(
    path: &Path,
    previous: Option<&Path>,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), ModelError> {
    let layout = Layout::new(tensors, metadata)?;
    write_replacing(path, previous, &layout).map_err(|source| ModelError::Write { path: path.to_owned(), source })
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
        let mut metadata = metadata.clone();
        metadata.insert(CHECKSUM.to_owned(), UNFILLED.to_owned());
        header.insert(METADATA.to_owned(), json!(metadata));
        let mut start = 0;
        for (key, tensor, dtype) in &typed {
            let end = start + tensor.numel() * dtype.bitsize() / 8;
            let entry = json!({ "dtype": dtype, "shape": tensor.size(), "data_offsets": [start, end] });
            insert_new(&mut header, key, entry)?;
            start = end;
        }
        Ok(Self { header: padded(header), tensors: typed.into_iter().map(|(_, tensor, _)| tensor).collect() })
    }

    /// Tensors leave their device once: the checksum is put into the header after they have passed.
    fn write_to(&self, out: &mut (impl Write + Seek)) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.header);
        for tensor in &self.tensors {
            let bytes = bytes_of(tensor)?;
            crc.update(&bytes);
            out.write_all(&bytes)?;
        }
        let place = place_of(&self.header, &checksum_entry(UNFILLED));
        let place = place.ok_or_else(|| io::Error::other("the header has no checksum"))?;
        out.seek(SeekFrom::Start((LENGTH_BYTES + place) as u64))?;
        out.write_all(checksum_entry(&checksum_text(crc)).as_bytes())
    }
}

/// The bytes before the header, which hold its length.
const LENGTH_BYTES: usize = 8;

/// The key of the checksum in the metadata.
const CHECKSUM: &str = "crc32";

/// What stands in the place of the checksum while it is taken.
const UNFILLED: &str = "00000000";

fn checksum_text(crc: crc32fast::Hasher) -> String {
    format!("{:08x}", crc.finalize())
}

/// The checksum as the header's text has it.
fn checksum_entry(text: &str) -> String {
    format!("\"{CHECKSUM}\":\"{text}\"")
}

/// Where the header has the checksum. Quotes within other texts are escaped, so those cannot look like it.
fn place_of(header: &[u8], entry: &str) -> Option<usize> {
    header.windows(entry.len()).position(|place| place == entry.as_bytes())
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

fn write_replacing(path: &Path, previous: Option<&Path>, layout: &Layout<'_>) -> io::Result<()> {
    let temporary = temporary_sibling(path)?;
    let written = write_synced(&temporary, layout)
        .and_then(|()| previous.filter(|_| path.exists()).map_or(Ok(()), |previous| fs::rename(path, previous)))
        .and_then(|()| fs::rename(&temporary, path));
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

/// How the names of files end that are not complete yet.
const TEMPORARY: &str = ".tmp";

/// `.NAME.PID.tmp` in the same folder, hence on the same disk.
fn temporary_sibling(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path does not end in a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}{TEMPORARY}", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Makes the renaming itself durable, where folders can be synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder_of(path))?.sync_all() } else { Ok(()) }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(entries: &[(&str, Tensor)]) -> Vec<(String, Tensor)> {
        entries.iter().map(|(key, tensor)| ((*key).to_owned(), tensor.shallow_clone())).collect()
    }

    fn sample() -> Vec<(String, Tensor)> {
        let grid = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        named(&[
            ("half", grid.to_kind(Kind::BFloat16)),
            ("grid", grid.shallow_clone()),
            ("turned", grid.transpose(0, 1)),
            ("count", Tensor::from(7i64)),
            ("flags", grid.gt(2.0)),
            ("empty", Tensor::zeros([0, 4], (Kind::Double, Device::Cpu))),
        ])
    }

    /// A folder with one good file in it.
    fn folder_with_file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let metadata =
            BTreeMap::from([("note".to_owned(), "é \"quoted\"".to_owned()), ("a".to_owned(), String::new())]);
        write(&path, &sample(), &metadata).unwrap();
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        let error = read(path).unwrap_err();
        assert!(matches!(error, ModelError::Format { .. }), "{error:?}");
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        error.to_string()
    }

    #[test]
    fn what_is_written_is_read_in_kind_shape_and_value() {
        let (_folder, path) = folder_with_file();
        let file = read(&path).unwrap();
        assert_eq!(file.metadata["note"], "é \"quoted\"");
        assert_eq!(file.metadata.len(), 2);
        assert_eq!(file.tensors.len(), sample().len());
        for (key, expected) in sample() {
            let (_, found) = file.tensors.iter().find(|(name, _)| *name == key).unwrap();
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()), "{key}");
            assert!(found.equal(&expected), "{key}");
        }
        // Wide numbers come first in the file, others in the order given.
        let order: Vec<_> = file.tensors.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(order, ["count", "empty", "grid", "turned", "half", "flags"]);
    }

    #[test]
    fn equal_content_gives_equal_bytes_and_replaces_the_old_file() {
        let (folder, path) = folder_with_file();
        let before = fs::read(&path).unwrap();
        write(&path, &sample(), &read(&path).unwrap().metadata).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn the_file_before_is_kept_under_its_other_name() {
        let (folder, path) = folder_with_file();
        let (first, previous) = (fs::read(&path).unwrap(), folder.path().join("w.previous.safetensors"));
        let second = named(&[("w", Tensor::from(1.0f32))]);
        write_keeping(&path, &previous, &second, &BTreeMap::new()).unwrap();
        assert_eq!(fs::read(&previous).unwrap(), first);
        assert_eq!(read(&path).unwrap().tensors.len(), 1);
        fs::remove_file(&path).unwrap();
        write_keeping(&path, &previous, &second, &BTreeMap::new()).unwrap();
        assert_eq!(fs::read(&previous).unwrap(), first, "nothing was there to be renamed");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_kill_leaves_is_removed_and_nothing_else() {
        let (folder, path) = folder_with_file();
        for name in [".w.safetensors.77.tmp", ".other.safetensors.8.tmp", ".notes.8.tmp", ".w.safetensors.mine.tmp"] {
            fs::write(folder.path().join(name), "torn").unwrap();
        }
        assert!(is_temporary(&temporary_sibling(&path).unwrap().file_name().unwrap().to_string_lossy()));
        remove_leftovers(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".notes.8.tmp", ".w.safetensors.mine.tmp", "w.safetensors"]);
        remove_leftovers(&folder.path().join("absent")).unwrap();
        fs::create_dir(folder.path().join(".w.safetensors.9.tmp")).unwrap();
        let error = remove_leftovers(folder.path()).unwrap_err().to_string();
        assert!(error.contains(".w.safetensors.9.tmp"), "{error}");
    }

    #[test]
    fn a_bit_that_flipped_is_noticed_where_the_file_has_a_checksum() {
        let (_folder, path) = folder_with_file();
        let whole = fs::read(&path).unwrap();
        let note = whole.windows(6).position(|text| text == b"quoted").unwrap();
        for (byte, bit) in [(note, 1), (whole.len() - 60, 1), (whole.len() - 1, 0x80)] {
            let mut damaged = whole.clone();
            damaged[byte] ^= bit;
            fs::write(&path, &damaged).unwrap();
            assert!(refusal(&path).contains("it is damaged: its crc32 is"), "byte {byte}");
        }
        let header = br#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   "#;
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &[7]].concat()).unwrap();
        assert_eq!(read(&path).unwrap().tensors[0].1, Tensor::from_slice(&[7u8]));
    }

    #[test]
    fn a_text_that_looks_like_the_checksum_does_no_harm() {
        let (_folder, path) = folder_with_file();
        let metadata =
            BTreeMap::from([("a".to_owned(), checksum_entry(UNFILLED)), ("z".to_owned(), checksum_entry(UNFILLED))]);
        write(&path, &sample(), &metadata).unwrap();
        assert_eq!(read(&path).unwrap().metadata, metadata);
    }

    #[test]
    fn a_relative_name_without_folder_is_a_place_too() {
        let name = Path::new("w.safetensors");
        assert_eq!(temporary_sibling(name).unwrap().parent(), Some(Path::new("")));
        assert!(sync_folder(name).is_ok());
    }

    #[test]
    fn a_missing_file_and_a_folder_cannot_be_read() {
        let (folder, _) = folder_with_file();
        for path in [folder.path().join("absent.safetensors"), folder.path().to_owned()] {
            let error = read(&path).unwrap_err();
            assert!(matches!(error, ModelError::Read { .. }), "{error:?}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_truncated_file_is_refused_wherever_it_ends() {
        let (_folder, path) = folder_with_file();
        let whole = fs::read(&path).unwrap();
        for length in [0, 4, 8, 40, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(refusal(&path).contains("truncated"), "cut to {length} bytes");
        }
        fs::write(&path, [&whole[..], b"more"].concat()).unwrap();
        refusal(&path);
    }

    #[test]
    fn foreign_files_are_refused_with_a_hint() {
        let (_folder, path) = folder_with_file();
        fs::write(&path, b"PK\x03\x04 and the rest of an archive").unwrap();
        assert!(refusal(&path).contains("`empssl import`"));
        for foreign in [&b"just some text that is long enough"[..], b"\x89PNG\r\n\x1a\n", &[0xff; 64]] {
            fs::write(&path, foreign).unwrap();
            assert!(refusal(&path).contains("another format"));
        }
        let header = br#"{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}      "#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0]].concat();
        fs::write(&path, bytes).unwrap();
        assert!(refusal(&path).contains("`w` holds F8_E4M3 numbers"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named_and_nothing_is_left() {
        let (folder, _) = folder_with_file();
        let path = folder.path().join("absent").join("w.safetensors");
        let error = write(&path, &sample(), &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, ModelError::Write { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
        let (folder, path) = folder_with_file();
        let before = fs::read(&path).unwrap();
        // A folder in the place of the temporary file makes creating it fail.
        let temporary = temporary_sibling(&path).unwrap();
        fs::create_dir(&temporary).unwrap();
        assert!(write(&path, &sample(), &BTreeMap::new()).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::remove_dir(&temporary).unwrap();
        // So does a folder in the place of the file itself, at the very end.
        let occupied = folder.path().join("occupied");
        fs::create_dir_all(occupied.join("inner")).unwrap();
        assert!(write(&occupied, &sample(), &BTreeMap::new()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file is left");
    }

    #[test]
    fn names_and_numbers_that_the_format_lacks_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let number = || Tensor::from(1.0f32);
        let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
        let bad = [
            (named(&[("w", number()), ("w", number())]), "`w`", "twice"),
            (named(&[("__metadata__", number())]), "`__metadata__`", "reserves"),
            (named(&[("z", complex)]), "`z`", "ComplexFloat"),
        ];
        for (tensors, key, reason) in bad {
            let message = write(&path, &tensors, &BTreeMap::new()).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains(reason), "{message}");
        }
        assert!(!path.exists());
    }
}
