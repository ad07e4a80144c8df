//! What lies where in the folder of a run.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use empssl_torch::whole_file;
use empssl_train::CheckpointFiles;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::CliError;
use crate::{host, print};

/// The file by which a folder is held.
const LOCK: &str = ".lock";

/// The folder of one run.
#[derive(Debug, Clone)]
pub(crate) struct RunFolder(PathBuf);

impl RunFolder {
    /// A folder for a new run, locked: made when it is missing, refused when it holds one, emptied of it under `force`.
    pub(crate) fn create(path: &Path, force: bool) -> Result<(Self, RunLock), CliError> {
        let folder = Self(path.to_path_buf());
        fs::create_dir_all(path).map_err(|e| CliError::file("cannot make the run folder", path, e))?;
        let lock = folder.lock()?;
        let present: Vec<PathBuf> = folder.files().into_iter().filter(|file| file.exists()).collect();
        if !present.is_empty() && !force {
            return Err(CliError::RunExists(path.to_path_buf()));
        }
        for file in present {
            let removed = if file.is_dir() { fs::remove_dir_all(&file) } else { fs::remove_file(&file) };
            removed.map_err(|e| CliError::file("cannot remove", &file, e))?;
        }
        folder.checkpoints().remove_leftovers()?;
        Ok((folder, lock))
    }

    /// The folder of a run that another process writes.
    pub(crate) fn of_another(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// The folder of a run that was made before.
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let folder = Self(path.to_path_buf());
        if folder.identity().is_file() {
            return Ok(folder);
        }
        let (path, file) = (path.display(), folder.identity());
        if folder.recipe().is_file() {
            return Err(CliError::Run(format!(
                "{path} holds a run that ended before it began (there is no {}); train it again with --force",
                file.display()
            )));
        }
        Err(CliError::Run(format!("{path} holds no run (there is no {}); name the folder of a run", file.display())))
    }

    /// Keeps every other process from training in this folder, for as long as the lock lives. The system lets go of it
    /// however this process ends, so a killed one leaves nothing that has to be cleared away.
    pub(crate) fn lock(&self) -> Result<RunLock, CliError> {
        let path = self.0.join(LOCK);
        let mut file = open_lock(&self.0)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(CliError::RunBusy { run: self.0.clone(), holder: holder.trim().to_owned() });
            }
            Err(TryLockError::Error(reason)) => {
                let path = path.display();
                print::note(format_args!("{path} cannot be locked ({reason}): nothing else may train there now"));
            }
            Ok(()) => {}
        }
        let holder = format!("process {} on {} since {}\n", std::process::id(), host::name(), host::utc_now());
        let noted = file.set_len(0).and_then(|()| file.write_all(holder.as_bytes()));
        noted.map_err(|e| CliError::file("cannot write", &path, e))?;
        Ok(RunLock { _file: file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The resolved recipe.
    pub(crate) fn recipe(&self) -> PathBuf {
        self.0.join("recipe.toml")
    }

    /// What was run on what, and how training went.
    pub(crate) fn identity(&self) -> PathBuf {
        self.0.join("run.json")
    }

    /// One line for each logged step.
    pub(crate) fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// Weights, momentum and position: the last two, and the snapshots.
    pub(crate) fn checkpoints(&self) -> CheckpointFiles {
        CheckpointFiles::new(&self.0)
    }

    /// Features of labelled images, computed once and scored many times.
    pub(crate) fn features(&self) -> PathBuf {
        self.0.join("features")
    }

    /// Images with the patches that the network saw of them.
    pub(crate) fn patches(&self) -> PathBuf {
        self.0.join("patches.png")
    }

    /// The scores, of the last state or of the snapshot after so many epochs.
    pub(crate) fn report(&self, snapshot: Option<u64>) -> PathBuf {
        match snapshot {
            Some(epochs) => self.checkpoints().snapshot(epochs).with_extension("report.json"),
            None => self.0.join("report.json"),
        }
    }

    /// Test images by their features, of the same state as a report.
    pub(crate) fn scatter(&self, snapshot: Option<u64>) -> PathBuf {
        match snapshot {
            Some(epochs) => self.checkpoints().snapshot(epochs).with_extension("scatter.svg"),
            None => self.0.join("scatter.svg"),
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let reports = ["report.md", "report.html", "scatter.svg"].map(|name| self.0.join(name));
        let own = [self.recipe(), self.identity(), self.metrics(), self.features(), self.patches(), self.report(None)];
        let kept = self.checkpoints();
        let kept = [kept.newest(), kept.previous(), kept.damaged(), kept.snapshots()];
        own.into_iter().chain(kept).chain(reports).chain(self.transfer_reports()).collect()
    }

    /// The scores on other data sets.
    fn transfer_reports(&self) -> Vec<PathBuf> {
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("checkpoint.report-") && name.ends_with(".json")
        };
        fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path()).filter(named).collect()
    }
}

/// Holds a run folder for this process.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

/// The lock of a folder, not held yet.
pub(crate) fn open_lock(folder: &Path) -> Result<File, CliError> {
    let path = folder.join(LOCK);
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    opened.map_err(|e| CliError::file("cannot write", &path, e))
}

/// Writes a file that is there whole or not at all, also after the power went.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    whole_file::write(path, bytes).map_err(|error| CliError::file("cannot write", path, error))
}

/// Writes a value as JSON for people and programs to read.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| CliError::file("cannot write", path, e))?;
    write_file(path, format!("{text}\n").as_bytes())
}

/// Reads a value that [`write_json`] wrote.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CliError> {
    let text = fs::read_to_string(path).map_err(|e| CliError::file("cannot read", path, e))?;
    serde_json::from_str(&text).map_err(|e| CliError::file("cannot understand", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_a_run_is_not_overwritten_unless_forced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let (folder, _) = RunFolder::create(&path, false).unwrap();
        fs::write(path.join("notes.txt"), "mine").unwrap();
        RunFolder::create(&path, false).expect("a folder without a run is free");
        for file in folder.files() {
            match file.extension() {
                Some(_) => fs::write(&file, "{}").unwrap(),
                None => fs::create_dir(&file).unwrap(),
            }
            let refusal = RunFolder::create(&path, false).unwrap_err().to_string();
            assert!(refusal.contains("already holds a run") && refusal.contains("--force"), "{refusal}");
            RunFolder::create(&path, true).unwrap();
            assert!(!file.exists());
        }
        assert!(path.join("notes.txt").exists(), "only the run's own files are replaced");
    }

    #[test]
    fn a_folder_without_a_run_cannot_be_opened() {
        let root = tempfile::tempdir().unwrap();
        let refusal = RunFolder::open(root.path()).unwrap_err().to_string();
        assert!(refusal.contains("holds no run") && refusal.contains("run.json"), "{refusal}");
        assert!(RunFolder::open(&root.path().join("missing")).is_err());
    }

    #[test]
    fn a_folder_is_one_process_at_a_time_and_a_lock_ends_with_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let (folder, lock) = RunFolder::create(root.path(), false).unwrap();
        for refusal in [folder.lock().unwrap_err(), RunFolder::create(root.path(), true).unwrap_err()] {
            let refusal = refusal.to_string();
            let holder = format!("process {} on {}", std::process::id(), host::name());
            assert!(refusal.contains("is in use") && refusal.contains(&holder), "{refusal}");
        }
        drop(lock);
        // The file stays; what counts is whether somebody holds it.
        assert!(root.path().join(".lock").is_file());
        folder.lock().unwrap();
    }

    #[test]
    fn json_comes_back_and_damage_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.json");
        write_json(&path, &vec![1, 2]).unwrap();
        assert_eq!(read_json::<Vec<i32>>(&path).unwrap(), [1, 2]);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "no temporary file is left");
        fs::write(&path, "[1,").unwrap();
        assert!(read_json::<Vec<i32>>(&path).unwrap_err().to_string().contains("x.json"));
    }
}
