//! `empssl runs --clean`: removes what can be computed again, and what killed processes left.

use std::fs::{self, TryLockError};
use std::path::{Path, PathBuf};

use empssl_torch::failure::Bytes;
use empssl_torch::whole_file::name_of_leftover;
use serde::Serialize;

use crate::error::CliError;
use crate::print;
use crate::print::output;
use crate::run::folder::{RunFolder, open_lock};

/// What was removed of one run.
#[derive(Debug, PartialEq, Serialize)]
struct Cleaned {
    path: PathBuf,
    freed_bytes: u64,
    /// Files of features.
    banks: usize,
    /// Files that were never finished.
    leftovers: usize,
}

/// Cleans runs; one that is in use is refused where it was named and left as it is among others.
pub(super) fn run(folders: &[RunFolder], named: bool, json: bool) -> Result<(), CliError> {
    let mut all = Vec::with_capacity(folders.len());
    for folder in folders {
        match clean(folder) {
            Ok(cleaned) => all.push(cleaned),
            Err(busy @ CliError::RunBusy { .. }) if !named => print::note(busy),
            Err(error) => return Err(error),
        }
    }
    if json {
        return print::json(&all);
    }
    for Cleaned { path, freed_bytes, banks, leftovers } in all.iter().filter(|run| run.banks + run.leftovers > 0) {
        let leftovers = if *leftovers == 0 { String::new() } else { format!(", {leftovers} unfinished files") };
        output(format_args!(
            "{}: {} freed ({banks} files of features{leftovers})",
            path.display(),
            Bytes(*freed_bytes)
        ));
    }
    let freed = all.iter().map(|run| run.freed_bytes).sum();
    output(format_args!("{} freed in all; checkpoints and reports are as they were", Bytes(freed)));
    Ok(())
}

fn clean(folder: &RunFolder) -> Result<Cleaned, CliError> {
    let features = folder.features();
    let mut cleaned = Cleaned { path: folder.path().to_path_buf(), freed_bytes: 0, banks: 0, leftovers: 0 };
    if features.is_dir() {
        let lock = open_lock(&features)?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            let holder = "a process that scores it".to_owned();
            return Err(CliError::RunBusy { run: folder.path().to_path_buf(), holder });
        }
        for (path, name) in files(&features) {
            let bank = name.ends_with(".safetensors") && !is_leftover(&name);
            if bank || is_leftover(&name) {
                cleaned.freed_bytes += remove(&path)?;
                (cleaned.banks, cleaned.leftovers) =
                    (cleaned.banks + usize::from(bank), cleaned.leftovers + usize::from(!bank));
            }
        }
        // A folder in which somebody put something of their own stays.
        let _ = fs::remove_file(features.join(".lock"));
        let _ = fs::remove_dir(&features);
    }
    let places = [folder.path().to_path_buf(), folder.checkpoints().snapshots()];
    let left: Vec<PathBuf> = places
        .iter()
        .flat_map(|place| files(place))
        .filter(|(_, name)| is_leftover(name))
        .map(|(path, _)| path)
        .collect();
    if !left.is_empty() {
        // A training that is on its way may be writing one of them.
        let _lock = folder.lock()?;
        for path in left {
            cleaned.freed_bytes += remove(&path)?;
            cleaned.leftovers += 1;
        }
    }
    Ok(cleaned)
}

fn is_leftover(name: &str) -> bool {
    name_of_leftover(name).is_some()
}

/// The files of a folder with their names.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_file());
    entries.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes a file and says how large it was.
fn remove(path: &Path) -> Result<u64, CliError> {
    let bytes = fs::metadata(path).map_or(0, |about| about.len());
    fs::remove_file(path).map_err(|e| CliError::file("cannot remove", path, e))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = files(folder).into_iter().map(|(_, name)| name).collect();
        names.sort();
        names
    }

    fn run_with(files: &[&str]) -> (tempfile::TempDir, RunFolder) {
        let root = tempfile::tempdir().unwrap();
        let (folder, _lock) = RunFolder::create(root.path(), false).unwrap();
        for name in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [0; 10]).unwrap();
        }
        (root, folder)
    }

    #[test]
    fn features_and_unfinished_files_go_and_everything_else_stays() {
        let (root, folder) = run_with(&[
            "features/trained-published.train.safetensors",
            "features/.trained-published.test.safetensors.7.tmp",
            ".checkpoint.safetensors.8.tmp",
            "snapshots/.epoch-0001.safetensors.9.tmp",
            "snapshots/epoch-0001.safetensors",
            "checkpoint.safetensors",
            "report.json",
        ]);
        let cleaned = clean(&folder).unwrap();
        assert_eq!((cleaned.freed_bytes, cleaned.banks, cleaned.leftovers), (40, 1, 3));
        assert_eq!(names(root.path()), [".lock", "checkpoint.safetensors", "report.json"]);
        assert_eq!(names(&root.path().join("snapshots")), ["epoch-0001.safetensors"]);
        assert!(!folder.features().exists());
        assert_eq!(clean(&folder).unwrap().freed_bytes, 0, "nothing is left to do");
    }

    #[test]
    fn what_others_put_beside_the_features_stays_and_what_is_in_use_is_not_touched() {
        let (_root, folder) = run_with(&["features/a.safetensors", "features/mine.txt"]);
        let lock = open_lock(&folder.features()).unwrap();
        lock.lock_shared().unwrap();
        let refusal = clean(&folder).unwrap_err().to_string();
        assert!(refusal.contains("is in use by a process that scores it"), "{refusal}");
        assert!(folder.features().join("a.safetensors").exists());
        drop(lock);
        assert_eq!(clean(&folder).unwrap().banks, 1);
        assert_eq!(names(&folder.features()), ["mine.txt"]);
    }
}
