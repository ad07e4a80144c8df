//! The files of a set, wherever they lie: in a folder, or in an archive that is read without unpacking it.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::DataError;

#[cfg(feature = "archives")]
use super::archive;

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
    /// The files of a folder, each read when it is taken.
    pub(crate) fn folder(place: &Path, hint: &str) -> Self {
        Self { place: place.to_owned(), hint: hint.to_owned(), members: None }
    }

    /// The files `wanted` of an archive, in which they lie in `folder`; all are read now.
    pub(crate) fn archive(place: &Path, hint: &str, folder: &str, wanted: &[&str]) -> Result<Self, DataError> {
        let members = Some(read_archive(place, folder, wanted)?);
        Ok(Self { place: place.to_owned(), hint: hint.to_owned(), members })
    }

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

/// The folder that an archive unpacks to, where that can be told.
pub(crate) fn archive_folder(path: &Path) -> Option<String> {
    #[cfg(feature = "archives")]
    return archive::folder_of(path);
    #[cfg(not(feature = "archives"))]
    {
        // Without the means to look inside, the official name is all there is.
        let _ = path;
        None
    }
}

#[cfg(feature = "archives")]
fn read_archive(path: &Path, folder: &str, wanted: &[&str]) -> Result<HashMap<String, Vec<u8>>, DataError> {
    archive::open(path, folder, wanted)
}

#[cfg(not(feature = "archives"))]
fn read_archive(path: &Path, _folder: &str, _wanted: &[&str]) -> Result<HashMap<String, Vec<u8>>, DataError> {
    Err(DataError::MissingFeature { path: path.to_owned(), feature: "archives" })
}

/// Where the official files of a set lie: the folder that its archive unpacks to, or the archive.
pub(crate) struct Official {
    /// The folder's name.
    pub(crate) folder: &'static str,
    /// The archive's name.
    pub(crate) archive: &'static str,
}

/// A place where an official form was found.
pub(crate) enum Place {
    /// Unpacked.
    Folder(PathBuf),
    /// As downloaded.
    Archive(PathBuf),
}

impl Official {
    /// The folder with the files: `root` or the official folder within it. It counts when it has the official name or
    /// holds any of the files that are telling.
    pub(crate) fn folder_at(&self, root: &Path, telling: &[&str]) -> Option<Place> {
        let holds_files = |dir: &Path| telling.iter().any(|file| dir.join(file).is_file());
        let mut candidates = [root.join(self.folder), root.to_owned()].into_iter();
        let found = candidates.find(|dir| holds_files(dir) || dir.ends_with(self.folder) && dir.is_dir());
        found.map(Place::Folder)
    }

    /// The archive: `root` itself, under any name, or the official archive within it.
    pub(crate) fn archive_at(&self, root: &Path) -> Option<Place> {
        if is_archive(root) {
            let is_this = match archive_folder(root) {
                Some(folder) => folder == self.folder,
                None => root.ends_with(self.archive),
            };
            return is_this.then(|| Place::Archive(root.to_owned()));
        }
        let within = root.join(self.archive);
        within.is_file().then_some(Place::Archive(within))
    }

    /// The files `wanted` of a place where this form was found.
    pub(crate) fn files(&self, place: &Place, hint: &str, wanted: &[&str]) -> Result<Files, DataError> {
        match place {
            Place::Folder(dir) => Ok(Files::folder(dir, hint)),
            Place::Archive(path) => Files::archive(path, hint, self.folder, wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "archives"))]
    #[test]
    fn without_the_feature_an_archive_is_refused_by_the_features_name() {
        let error = Files::archive(Path::new("a.tar.gz"), "", "set", &["x"]).map(drop).unwrap_err().to_string();
        assert_eq!(error, "cannot read a.tar.gz: this build lacks the feature `archives`");
    }

    #[test]
    fn a_missing_file_comes_with_the_hint_and_another_failure_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let mut files = Files::folder(dir.path(), "unpack it");
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
