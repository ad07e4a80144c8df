//! What writers of files share: a lock between processes, a rename that lasts, and telling a full disk apart.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Opens the file at `path`, made where there is none and otherwise as it is, and locks it; `None` while another
/// process holds it. The system releases the lock however the process ends.
///
/// The holder may rename or remove the file before the lock is released: what is returned is what `path` names now.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    lock_after(path, || ())
}

/// [`lock`], with something happening between opening and locking.
fn lock_after(path: &Path, mut opened: impl FnMut()) -> io::Result<Option<File>> {
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        opened();
        match file.try_lock() {
            Ok(()) if is_at(&file, path)? => return Ok(Some(file)),
            // The file has another name by now, or none: what it holds is not for us to touch.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Whether `path` still names the opened file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(there) => Ok(is_same(&file.metadata()?, &there)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    a.len() == b.len() && a.created().ok() == b.created().ok()
}

/// Renames a file or folder whose content is on the disk already, and waits until the new name is as well.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Waits until the names in a folder are on the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened as a file, and names are written in order.
    let synced = if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) };
    match synced {
        // Some network file systems cannot do this; they have their own ways.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Whether a write failed for want of room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_the_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let first = lock(&path).unwrap().unwrap();
        assert!(lock(&path).unwrap().is_none());
        drop(first);
        assert!(lock(&path).unwrap().is_some());
        assert!(lock(&dir.path().join("no/a")).is_err());
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_meanwhile_is_not_what_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, finished) = (dir.path().join("a.unfinished"), dir.path().join("a"));
        fs::write(&path, "whole").unwrap();
        let mut times = 0;
        let locked = lock_after(&path, || {
            times += 1;
            match times {
                // The first writer finishes just after the second has opened its file.
                1 => fs::rename(&path, &finished).unwrap(),
                2 => fs::remove_file(&path).unwrap(),
                _ => {}
            }
        });
        let locked = locked.unwrap().unwrap();
        locked.set_len(0).unwrap();
        assert_eq!((times, fs::read_to_string(&finished).unwrap().as_str()), (3, "whole"));
        assert!(is_at(&locked, &path).unwrap() && !is_at(&locked, &finished).unwrap());
    }

    #[test]
    fn a_rename_moves_and_names_what_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&from, "x").unwrap();
        rename(&from, &to).unwrap();
        assert!(to.is_file() && rename(&from, &to).is_err() && sync_folder(&from).is_err());
    }

    #[test]
    fn only_want_of_room_is_a_full_disk() {
        let kinds = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::PermissionDenied];
        assert_eq!(kinds.map(|kind| is_full(&kind.into())), [true, true, false]);
    }
}
