//! Weights files: safetensors in and out, for this crate, PyTorch and anything else that reads the format.
//!
//! A file of [`Network::state_dict`](crate::Network::state_dict) loads into the official encoder with `strict=True`,
//! one of [`Network::backbone_state_dict`](crate::Network::backbone_state_dict) into torchvision's ResNet with
//! `fc = Identity`; and what PyTorch's `safetensors.torch.save_file` wrote loads here. The format itself, with its
//! checksum, and how a file appears complete or not at all, is that of [`empssl_torch::safetensors`].

use std::collections::BTreeMap;
use std::path::Path;

use empssl_torch::{SafetensorsError, SafetensorsFile, SafetensorsWriter, TensorSpec};
use tch::Tensor;

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
    let unreadable = |error| match error {
        SafetensorsError::Io(source) => ModelError::Read { path: path.to_owned(), source },
        other => ModelError::Format { path: path.to_owned(), reason: other.to_string() },
    };
    let file = SafetensorsFile::open(path).map_err(unreadable)?;
    let tensors = file.specs().into_iter().map(|TensorSpec { name, kind, .. }| {
        let mapped = file.tensor(&name).map_err(unreadable)?;
        // A copy, so that nobody who writes into the file later changes the weights.
        let copy = mapped.f_to_dtype(kind, false, true);
        Ok((name, copy.map_err(|error| unreadable(SafetensorsError::Format(error.to_string())))?))
    });
    Ok(WeightsFile { tensors: tensors.collect::<Result<_, _>>()?, metadata: file.metadata().clone() })
}

/// Writes named tensors and metadata to a file, replacing the one that may be there once the new one is complete.
///
/// Equal content gives equal bytes. Tensors may be on any device and of any layout.
///
/// # Errors
/// [`ModelError::Write`] when the folder or the disk refuses, [`ModelError::Unwritable`] for a repeated or reserved
/// name, or numbers of a type that the format lacks.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<(), ModelError> {
    write_keeping(path, None, tensors, metadata)
}

/// Like [`write()`], but the file that may be at `path` is renamed to `previous`, in the same folder, instead of being
/// lost. That happens once the new one is complete, so one of the two names leads to a whole file at every moment.
///
/// # Errors
/// As [`write()`].
pub fn write_keeping(
    path: &Path,
    previous: Option<&Path>,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), ModelError> {
    let spec = |(name, tensor): &(String, Tensor)| {
        let (name, kind, size) = (name.clone(), tensor.kind(), tensor.size());
        TensorSpec { name, kind, size }
    };
    let written = SafetensorsWriter::create(path, tensors.iter().map(spec).collect(), metadata.clone());
    let written = written.and_then(|mut writer| {
        tensors.iter().enumerate().try_for_each(|(index, (_, tensor))| writer.append(index, tensor))?;
        writer.finish(previous)
    });
    written.map_err(|error| match error {
        SafetensorsError::Unwritable { key, reason } => ModelError::Unwritable { key, reason },
        SafetensorsError::Io(source) => ModelError::Write { path: path.to_owned(), source },
        SafetensorsError::Format(reason) => ModelError::Format { path: path.to_owned(), reason },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tch::{Device, Kind};

    use super::*;

    fn sample() -> Vec<(String, Tensor)> {
        let grid = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        vec![("turned".to_owned(), grid.transpose(0, 1)), ("count".to_owned(), Tensor::from(7i64))]
    }

    /// A folder with one good file in it.
    fn folder_with_file() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        write(&path, &sample(), &BTreeMap::from([("note".to_owned(), "text".to_owned())])).unwrap();
        (folder, path)
    }

    #[test]
    fn what_was_read_does_not_change_with_the_file() {
        let (_folder, path) = folder_with_file();
        let file = read(&path).unwrap();
        let length = fs::metadata(&path).unwrap().len() as usize;
        // In its place, not under another name.
        fs::write(&path, vec![0xff; length]).unwrap();
        assert_eq!(file.metadata, BTreeMap::from([("note".to_owned(), "text".to_owned())]));
        for (key, expected) in sample() {
            let (_, found) = file.tensors.iter().find(|(name, _)| *name == key).unwrap();
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()), "{key}");
            assert!(found.equal(&expected), "{key}");
        }
    }

    #[test]
    fn the_file_before_is_kept_under_its_other_name() {
        let (folder, path) = folder_with_file();
        let (first, previous) = (fs::read(&path).unwrap(), folder.path().join("w.previous.safetensors"));
        write_keeping(&path, Some(&previous), &sample()[1..], &BTreeMap::new()).unwrap();
        assert_eq!(fs::read(&previous).unwrap(), first);
        assert_eq!(read(&path).unwrap().tensors.len(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn files_that_cannot_be_read_or_written_are_named() {
        let (folder, path) = folder_with_file();
        let absent = folder.path().join("absent").join("w.safetensors");
        for nowhere in [&absent, &folder.path().to_owned()] {
            let error = read(nowhere).unwrap_err();
            assert!(matches!(error, ModelError::Read { .. }), "{error:?}");
            assert!(error.to_string().contains(&nowhere.display().to_string()), "{error}");
        }
        let error = write(&absent, &sample(), &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, ModelError::Write { .. }), "{error:?}");
        assert!(error.to_string().contains(&absent.display().to_string()), "{error}");
        fs::write(&path, "text that is no file of weights").unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, ModelError::Format { .. }), "{error:?}");
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        let twice: Vec<_> = sample().into_iter().chain(sample()).collect();
        let error = write(&path, &twice, &BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(error, "cannot write `turned` to a weights file: the name occurs twice");
    }
}
