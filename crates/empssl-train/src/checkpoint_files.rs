//! Which checkpoints of a run are kept, and under which names.
//!
//! The last two are kept: `checkpoint.safetensors`, and `checkpoint.previous.safetensors`, which is used where the newer
//! one is damaged. Beside them, under `snapshots/`, are those of the epochs that the recipe names; they are checkpoints
//! like the others and are never replaced by a later step.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use empssl_model::ModelError;
use empssl_torch::whole_file;

use crate::checkpoint::Checkpoint;
use crate::error::TrainError;

/// The checkpoints in the folder of a run.
#[derive(Debug, Clone)]
pub struct CheckpointFiles {
    folder: PathBuf,
}

/// Where a run can go on.
#[derive(Debug)]
pub struct LastCheckpoint {
    /// The newest whole checkpoint; `None` when nothing was saved yet.
    pub checkpoint: Option<Checkpoint>,
    /// What was wrong with a newer one.
    pub passed_over: Option<TrainError>,
}

impl CheckpointFiles {
    /// Those in `folder`, which must exist before the first is written.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// The newest checkpoint.
    pub fn newest(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// The one before it.
    pub fn previous(&self) -> PathBuf {
        self.folder.join("checkpoint.previous.safetensors")
    }

    /// Where a damaged one is put.
    pub fn damaged(&self) -> PathBuf {
        self.folder.join("checkpoint.damaged.safetensors")
    }

    /// The one after so many epochs, when the recipe asks for it.
    pub fn snapshot(&self, epochs: u64) -> PathBuf {
        self.snapshots().join(format!("epoch-{epochs:04}.safetensors"))
    }

    /// The folder of the snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.folder.join("snapshots")
    }

    /// The newest whole checkpoint. A newest one that is damaged or missing is passed over where the previous one is
    /// whole: its steps are taken again. One that is whole and cannot be used, such as that of another format version,
    /// is never passed over.
    ///
    /// # Errors
    /// What is wrong with the newest checkpoint, when it cannot be passed over; [`TrainError::NoneWhole`] when there is
    /// no whole one.
    pub fn last(&self) -> Result<LastCheckpoint, TrainError> {
        let newest = match Checkpoint::load(&self.newest()) {
            Ok(checkpoint) => return Ok(LastCheckpoint { checkpoint: Some(checkpoint), passed_over: None }),
            Err(error) => error,
        };
        match Checkpoint::load(&self.previous()) {
            _ if !is_damage(&newest) => Err(newest),
            Ok(checkpoint) => Ok(LastCheckpoint { checkpoint: Some(checkpoint), passed_over: Some(newest) }),
            Err(previous) if is_missing(&newest) && is_missing(&previous) => {
                Ok(LastCheckpoint { checkpoint: None, passed_over: None })
            }
            Err(previous) => {
                let damage = Box::new(if is_missing(&newest) { previous } else { newest });
                Err(TrainError::NoneWhole { damage })
            }
        }
    }

    /// Renames a damaged newest checkpoint, so that the next save does not replace the whole one before it by it. One that
    /// is missing is no error.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn set_newest_aside(&self) -> Result<(), TrainError> {
        match fs::rename(self.newest(), self.damaged()) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(ModelError::Write { path: self.damaged(), source }.into())
            }
            _ => Ok(()),
        }
    }

    /// Removes what a process left that was killed while it wrote. Nobody else may be writing.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_leftovers(&self) -> Result<(), TrainError> {
        let is_checkpoint = |name: &str| name.ends_with(".safetensors");
        let removed = [&self.folder, &self.snapshots()]
            .into_iter()
            .try_for_each(|folder| whole_file::remove_leftovers(folder, is_checkpoint));
        removed.map_err(|(path, source)| ModelError::Write { path, source }.into())
    }

    /// Makes this the newest checkpoint and the newest one the previous.
    pub(crate) fn save(&self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        checkpoint.save_keeping(&self.newest(), &self.previous())
    }

    /// Keeps this for good.
    pub(crate) fn save_snapshot(&self, epochs: u64, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let (folder, path) = (self.snapshots(), self.snapshot(epochs));
        fs::create_dir_all(&folder).map_err(|source| ModelError::Write { path: folder, source })?;
        checkpoint.save(&path)
    }
}

/// Whether a file is not there, or not whole.
fn is_damage(error: &TrainError) -> bool {
    matches!(error, TrainError::Model(ModelError::Format { .. } | ModelError::Read { .. }))
}

fn is_missing(error: &TrainError) -> bool {
    matches!(error, TrainError::Model(ModelError::Read { source, .. }) if source.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use empssl_model::weights;

    use super::*;
    use crate::checkpoint::tests::checkpoint;

    fn at(step: u64) -> Checkpoint {
        Checkpoint { step, ..checkpoint() }
    }

    /// Steps of the checkpoint a run would go on from, and the complaint about a newer one.
    fn last(files: &CheckpointFiles) -> (Option<u64>, String) {
        let last = files.last().unwrap();
        let complaint = last.passed_over.map_or(String::new(), |error| error.to_string());
        (last.checkpoint.map(|checkpoint| checkpoint.step), complaint)
    }

    fn tear(path: &Path) {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
    }

    #[test]
    fn the_last_two_are_kept_and_the_newest_whole_one_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(folder.path());
        assert_eq!(last(&files), (None, String::new()), "nothing was saved yet");
        for step in [10, 20, 30] {
            files.save(&at(step)).unwrap();
            assert_eq!(last(&files), (Some(step), String::new()));
        }
        assert_eq!(Checkpoint::load(&files.previous()).unwrap().step, 20);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        tear(&files.newest());
        let (step, complaint) = last(&files);
        assert_eq!(step, Some(20));
        assert!(complaint.contains("checkpoint.safetensors") && complaint.contains("truncated"), "{complaint}");
        files.set_newest_aside().unwrap();
        files.set_newest_aside().expect("nothing is there any more");
        assert!(files.damaged().is_file());
        // As after a kill between the two renamings.
        assert_eq!(last(&files).0, Some(20));
        tear(&files.previous());
        let error = files.last().unwrap_err().to_string();
        assert!(error.contains("checkpoint.previous.safetensors"), "{error}");
        files.save(&at(40)).unwrap();
        tear(&files.newest());
        let error = files.last().unwrap_err().to_string();
        assert!(error.contains("checkpoint.safetensors") && error.ends_with("so train anew"), "{error}");
    }

    #[test]
    fn a_newest_one_of_another_format_version_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(folder.path());
        files.save(&at(10)).unwrap();
        files.save(&at(20)).unwrap();
        let metadata = [("format", "empssl checkpoint"), ("format_version", "3"), ("empssl_version", "9.0.0")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        weights::write(&files.newest(), &[], &metadata).unwrap();
        assert!(files.last().unwrap_err().to_string().contains("version 3 (empssl 9.0.0)"));
    }

    #[test]
    fn snapshots_stay_and_what_a_kill_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(folder.path());
        files.save_snapshot(1, &at(10)).unwrap();
        files.save_snapshot(30, &at(300)).unwrap();
        files.save(&at(300)).unwrap();
        let torn = [".checkpoint.safetensors.7.tmp", "snapshots/.epoch-0030.safetensors.7.tmp"];
        torn.iter().for_each(|name| fs::write(folder.path().join(name), "torn").unwrap());
        files.remove_leftovers().unwrap();
        assert!(torn.iter().all(|name| !folder.path().join(name).exists()));
        assert!(files.newest().is_file());
        assert_eq!(Checkpoint::load(&folder.path().join("snapshots/epoch-0001.safetensors")).unwrap().step, 10);
        assert_eq!(Checkpoint::load(&files.snapshot(30)).unwrap().step, 300);
    }
}
