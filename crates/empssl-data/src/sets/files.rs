//! The files of a set, wherever they lie: in a folder, or in an archive that is read without unpacking it.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::PublishedFile;
#[cfg(feature = "archives")]
use crate::dataset::archive::{folder_of, open as read_archive};
use crate::error::DataError;

/// The files of one set.
pub(crate) struct Files {
    /// The folder or archive.
    place: PathBuf,
    /// What to do about a file that is missing.
    hint: String,
    /// What was read of an archive; `None` for a folder.
    members: Option<HashMap<String, Vec<u8>>>,
}

impl Files {
    /// The folder or archive.
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// What messages call the file `name`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// The content of the file `name`, which can be taken once.
    pub(crate) fn take(&mut self, name: &str) -> Result<Vec<u8>, DataError> {
        let path = self.path(name);
        let missing = || DataError::MissingFile { path: path.clone(), hint: self.hint.clone() };
        match &mut self.members {
            Some(members) => members.remove(name).ok_or_else(missing),
            None => std::fs::read(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => missing(),
                _ => DataError::io(&path, error),
            }),
        }
    }
}

/// Whether `path` is a file with the name of an archive.
pub(crate) fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    (name.ends_with(".tar.gz") || name.ends_with(".tgz")) && path.is_file()
}

/// Without the means to look inside, the official name is all there is.
#[cfg(not(feature = "archives"))]
fn folder_of(_: &Path) -> Option<String> {
    None
}

#[cfg(not(feature = "archives"))]
fn read_archive(path: &Path, _folder: &str, _wanted: &[&str]) -> Result<HashMap<String, Vec<u8>>, DataError> {
    Err(DataError::without_archives(path))
}

impl PublishedFile {
    /// The folder that the archive unpacks to: `root` or the folder within it. It counts when it has the official name
    /// or holds any of the first `n_telling` members.
    pub(crate) fn folder_at(&self, root: &Path, n_telling: usize) -> Option<PathBuf> {
        let holds_files = |dir: &Path| self.members[..n_telling].iter().any(|member| dir.join(member.path).is_file());
        let mut candidates = [root.join(self.folder), root.to_owned()].into_iter();
        candidates.find(|dir| holds_files(dir) || dir.ends_with(self.folder) && dir.is_dir())
    }

    /// The archive: `root` itself, under any name, or the official archive within it.
    pub(crate) fn archive_at(&self, root: &Path) -> Option<PathBuf> {
        if is_archive(root) {
            let is_this = match folder_of(root) {
                Some(folder) => folder == self.folder,
                None => root.ends_with(self.file),
            };
            return is_this.then(|| root.to_owned());
        }
        Some(root.join(self.file)).filter(|within| within.is_file())
    }

    /// The files `wanted` of the folder or archive at `place`: of a folder each is read when it is taken, of an archive
    /// all are read now. `hint` is what to do about a missing one.
    pub(crate) fn read(&self, place: PathBuf, hint: String, wanted: &[&str]) -> Result<Files, DataError> {
        let members = if place.is_dir() { None } else { Some(read_archive(&place, self.folder, wanted)?) };
        Ok(Files { place, hint, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "archives"))]
    #[test]
    fn without_the_feature_an_archive_is_refused_by_the_features_name() {
        let error = read_archive(Path::new("a.tar.gz"), "set", &["x"]).map(drop).unwrap_err().to_string();
        assert_eq!(error, "cannot read a.tar.gz: this build lacks the feature `archives`");
    }

    #[test]
    fn a_missing_file_comes_with_the_hint_and_another_failure_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let mut files = Files { place: dir.path().to_owned(), hint: "unpack it".into(), members: None };
        assert!(files.take("none").unwrap_err().to_string().ends_with("none: unpack it"));
        assert!(files.take("folder").unwrap_err().to_string().starts_with("cannot read"));
    }

    #[test]
    fn an_archive_is_a_file_with_the_name_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let named = |name: &str| dir.path().join(name);
        for name in ["a.TAR.GZ", "a.tgz", "a.gz"] {
            std::fs::write(named(name), "").unwrap();
        }
        std::fs::create_dir(named("b.tar.gz")).unwrap();
        let archives = ["a.TAR.GZ", "a.tgz", "a.gz", "b.tar.gz"].map(|name| is_archive(&named(name)));
        assert_eq!(archives, [true, true, false, false]);
    }
}
