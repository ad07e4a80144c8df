//! Files that are there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tch::{Device, Tensor};

use crate::error::EvalError;

/// How the names of files end that are not complete yet.
const TEMPORARY: &str = ".tmp";

/// Whether a file of this name, `.NAME.PROCESS.tmp`, is what a killed process left of a bank or array.
pub fn is_leftover(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
    inner.and_then(|inner| inner.rsplit_once('.')).is_some_and(|(_, process)| process.parse::<u32>().is_ok())
}

/// A file that is being written, under a name of its own in the folder of its place; dropped unfinished it is removed.
#[derive(Debug)]
pub(super) struct WholeFile {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl WholeFile {
    /// Begins a file for `path`; what is there stays until the new one is complete.
    pub(super) fn create(path: &Path) -> Result<Self, EvalError> {
        let temporary = temporary_sibling(path);
        let file = File::create(&temporary).map_err(|source| EvalError::Write { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), temporary, file })
    }

    /// The name that the file will have.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes bytes from a place on.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), EvalError> {
        let written = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|source| EvalError::Write { path: self.path.clone(), source })
    }

    /// Puts the file in its place, once all of it is on the disk.
    pub(super) fn finish(self) -> Result<(), EvalError> {
        let moved = self.file.sync_all().and_then(|()| fs::rename(&self.temporary, &self.path));
        moved
            .and_then(|()| sync_folder(&self.path))
            .map_err(|source| EvalError::Write { path: self.path.clone(), source })
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // After it was renamed there is nothing to remove.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn temporary_sibling(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}{TEMPORARY}", std::process::id()));
    path.with_file_name(name)
}

/// Makes the renaming itself durable, where folders can be synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The numbers of a tensor as they lie in files, row by row.
pub(crate) fn bytes_of(tensor: &Tensor) -> io::Result<Vec<u8>> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_complete_and_the_older_one_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        fs::write(&path, "old").unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.write_at(4, b"5678").unwrap();
        file.write_at(0, b"1234").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let unfinished = names(folder.path());
        assert!(is_leftover(&unfinished[0]) && unfinished[1] == "a.npy", "{unfinished:?}");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "12345678");
        assert_eq!(names(folder.path()), ["a.npy"]);
    }

    #[test]
    fn a_file_that_was_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        drop(WholeFile::create(&path).unwrap());
        assert!(names(folder.path()).is_empty());
        let error = WholeFile::create(&folder.path().join("no/a.npy")).unwrap_err().to_string();
        assert!(error.contains("no/a.npy"), "{error}");
        fs::create_dir(&path).unwrap();
        assert!(WholeFile::create(&path).unwrap().finish().is_err());
        assert_eq!(names(folder.path()), ["a.npy"]);
    }

    #[test]
    fn leftovers_are_told_from_other_files() {
        assert!(is_leftover(".a.safetensors.77.tmp"));
        for other in ["a.safetensors", ".a.safetensors.mine.tmp", "a.77.tmp", ".lock", ".77.tmp"] {
            assert!(!is_leftover(other), "{other}");
        }
    }
}
