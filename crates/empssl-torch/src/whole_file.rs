//! Files that are whole or not there, whatever ends their writer.
//!
//! A file is written under a temporary name in the folder of its place, synced to the disk and renamed; then the folder
//! is synced. Until then an older file of its name stays as it was.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// How the names of files end that are not complete yet.
const TEMPORARY: &str = ".tmp";

/// Random characters in a temporary name.
const RANDOM: usize = 6;

/// A file that is being written; dropped before [`WholeFile::persist`] it is removed.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl WholeFile {
    /// Begins a file for `path`; one that is there stays until the new one is complete.
    ///
    /// # Errors
    /// When the path does not end in a file name, or its folder is missing or cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("the path does not end in a file name"))?;
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(TEMPORARY).rand_bytes(RANDOM);
        // The permissions are those of any file, and an error has no path of its own.
        let file = builder.make_in(folder_of(path), |temporary| File::create_new(temporary))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The name that the file will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes bytes from a place on.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    /// Puts the file in its place, once all of it is on the disk.
    ///
    /// # Errors
    /// When the disk refuses; the file is removed then, and an older one is as it was.
    pub fn persist(self) -> io::Result<()> {
        self.persist_keeping(None)
    }

    /// [`WholeFile::persist`]; the file that may be in its place is renamed to `previous`, in the same folder, instead
    /// of being lost. That happens once the new one is complete, so one of the two names leads to a whole file at every
    /// moment.
    ///
    /// # Errors
    /// As [`WholeFile::persist`].
    pub fn persist_keeping(self, previous: Option<&Path>) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        if let Some(previous) = previous.filter(|_| self.path.exists()) {
            fs::rename(&self.path, previous)?;
        }
        self.file.persist(&self.path).map_err(|error| error.error)?;
        // Makes the renaming itself durable, where folders can be synced.
        if cfg!(unix) { File::open(folder_of(&self.path))?.sync_all() } else { Ok(()) }
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// Writes a file at once.
///
/// # Errors
/// As [`WholeFile::create`] and [`WholeFile::persist`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.persist()
}

/// The name that a file was to have which a killed process left under the temporary name `name`; `None` for any other
/// file.
pub fn name_of_leftover(name: &str) -> Option<&str> {
    let inner = name.strip_prefix('.')?.strip_suffix(TEMPORARY)?;
    let (name, random) = inner.rsplit_once('.')?;
    // Earlier versions put the number of the process there.
    let is_random = random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (!name.is_empty() && (is_random || random.parse::<u32>().is_ok())).then_some(name)
}

/// Removes what killed processes left of files whose names `is_wanted` in a folder, if there is one. Nobody else may be
/// writing such files there.
///
/// # Errors
/// The file that cannot be removed, and why.
pub fn remove_leftovers(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<(), (PathBuf, io::Error)> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if name_of_leftover(&entry.file_name().to_string_lossy()).is_some_and(&is_wanted) {
            fs::remove_file(entry.path()).map_err(|error| (entry.path(), error))?;
        }
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), file.path()), ("old", path.as_path()));
        let unfinished = names(folder.path());
        assert_eq!((name_of_leftover(&unfinished[0]), unfinished[1].as_str()), (Some("a.npy"), "a.npy"));
        file.persist().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "12345678");
        assert_eq!(names(folder.path()), ["a.npy"]);
        write(&path, b"new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path()).len()), ("new", 1));
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_a_file_as_far_as_they_may_read_any() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        fs::write(folder.path().join("any"), "").unwrap();
        write(&folder.path().join("whole"), b"").unwrap();
        assert_eq!(mode("whole"), mode("any"));
    }

    #[test]
    fn the_file_before_is_kept_under_its_other_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, previous) = (folder.path().join("a"), folder.path().join("a.previous"));
        let save = |text: &str| {
            let mut file = WholeFile::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.persist_keeping(Some(&previous)).unwrap();
        };
        save("first");
        assert_eq!(names(folder.path()), ["a"], "nothing was there to be renamed");
        save("second");
        assert_eq!([&path, &previous].map(|path| fs::read_to_string(path).unwrap()), ["second", "first"]);
    }

    #[test]
    fn a_file_that_was_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        drop(WholeFile::create(&path).unwrap());
        assert!(names(folder.path()).is_empty());
        let error = WholeFile::create(&folder.path().join("no/a.npy")).unwrap_err();
        assert_eq!((error.kind(), error.to_string().contains("tmp")), (io::ErrorKind::NotFound, false), "{error}");
        assert!(WholeFile::create(Path::new("/")).is_err());
        // A folder in its place, at the very end.
        fs::create_dir_all(path.join("inner")).unwrap();
        assert!(WholeFile::create(&path).unwrap().persist().is_err());
        assert_eq!(names(folder.path()), ["a.npy"]);
    }

    #[test]
    fn a_relative_name_without_folder_is_a_place_too() {
        assert_eq!(folder_of(Path::new("w")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/w")), Path::new("a"));
    }

    #[test]
    fn what_a_kill_leaves_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let left = [".w.safetensors.77.tmp", ".w.safetensors.aZ09bc.tmp", ".notes.8.tmp"];
        let others = [".77.tmp", ".lock", ".w.safetensors.mine.tmp", "w.77.tmp", "w.safetensors"];
        left.iter().chain(&others).for_each(|name| fs::write(folder.path().join(name), "torn").unwrap());
        assert_eq!(left.map(name_of_leftover), [Some("w.safetensors"), Some("w.safetensors"), Some("notes")]);
        assert_eq!(others.map(name_of_leftover), [None; 5]);
        let remove = || remove_leftovers(folder.path(), |name| name.ends_with(".safetensors"));
        remove().unwrap();
        assert_eq!(names(folder.path()), [&others[..2], &left[2..], &others[2..]].concat());
        remove_leftovers(&folder.path().join("absent"), |_| true).unwrap();
        fs::create_dir(folder.path().join(left[0])).unwrap();
        assert_eq!(remove().unwrap_err().0, folder.path().join(left[0]));
    }
}
