//! A run that was saved: its recipe, its identity, its checkpoints and its images.

use std::path::Path;

use empssl_data::{Dataset, Split};
use empssl_model::{Network, Portion};
use empssl_train::{Checkpoint, CheckpointFiles, LastCheckpoint};

use super::folder::{RunFolder, read_json};
use super::metrics::seconds_at;
use super::resume;
use crate::config::{Run, RunConfig};
use crate::error::CliError;
use crate::print;
use crate::report::{self, RunIdentity};

/// A run as it lies in its folder.
pub(crate) struct SavedRun {
    pub(crate) folder: RunFolder,
    pub(crate) identity: RunIdentity,
    pub(crate) run: Run,
}

impl SavedRun {
    /// Opens a run, its recipe with `KEY=VALUE` changes on top; its images are looked for in `data` where they have
    /// moved.
    pub(crate) fn open(path: &Path, data: Option<&Path>, changes: &[String]) -> Result<Self, CliError> {
        let folder = RunFolder::open(path)?;
        let mut identity: RunIdentity = read_json(&folder.identity())?;
        if let Some(data) = data {
            identity.data.source.root = Some(data.to_path_buf());
        }
        let run = Run::new(RunConfig::read(&folder.recipe(), changes)?, identity.recipe.clone())?;
        Ok(Self { folder, identity, run })
    }

    /// Makes the identity that of the run as it stood at a checkpoint, evaluated as the recipe says now.
    pub(crate) fn go_to(&mut self, checkpoint: &Checkpoint) -> Result<(), CliError> {
        if checkpoint.step != self.identity.model.steps {
            let seconds = seconds_at(&self.folder.metrics(), checkpoint.step)?;
            self.identity.go_back_to(checkpoint.step, seconds);
        }
        self.identity.model.test_patches = self.run.config.evaluation.n_patches;
        Ok(())
    }

    /// The newest checkpoint, or the snapshot after so many epochs.
    pub(crate) fn checkpoint(&self, snapshot: Option<u64>) -> Result<Checkpoint, CliError> {
        let files = self.folder.checkpoints();
        let Some(epochs) = snapshot else { return self.newest(&files) };
        let path = files.snapshot(epochs);
        if path.is_file() {
            return self.own(&path, Checkpoint::load(&path)?);
        }
        let (kept, run) = (&self.run.config.training.snapshot_epochs, self.folder.path().display());
        let reason = format!("{run} has no snapshot after {epochs} epochs; its recipe has snapshot_epochs = {kept:?}");
        Err(CliError::Run(reason))
    }

    /// How much of a network the run has: all of it, unless its weights were imported.
    pub(crate) fn portion(&self) -> Portion {
        report::portion(&self.identity)
    }

    /// Puts the run's weights into its network. What an import does not have stays as it was drawn.
    pub(crate) fn load(&self, network: &mut Network, checkpoint: &Checkpoint) -> Result<(), CliError> {
        Ok(network.load_portion_state_dict(self.portion(), &checkpoint.network)?)
    }

    /// Scores of an earlier state than the last are not what was asked for: the previous checkpoint is no substitute.
    fn newest(&self, files: &CheckpointFiles) -> Result<Checkpoint, CliError> {
        let run = self.folder.path().display();
        match files.last()? {
            LastCheckpoint { checkpoint: Some(checkpoint), passed_over: None } => self.own(&files.newest(), checkpoint),
            LastCheckpoint { checkpoint: Some(previous), passed_over: Some(damage) } => Err(CliError::Run(format!(
                "{damage}; `empssl train --resume {run}` goes on from the checkpoint before it, of step {}",
                previous.step
            ))),
            LastCheckpoint { checkpoint: None, .. } => Err(CliError::Run(format!(
                "there is no {} yet; `empssl train --resume {run}` goes on with the run",
                files.newest().display()
            ))),
        }
    }

    /// What a resumed run goes on from, and whether a newer checkpoint is damaged; nothing when none was saved yet.
    pub(crate) fn last_checkpoint(&self) -> Result<(Option<Checkpoint>, bool), CliError> {
        let files = self.folder.checkpoints();
        let LastCheckpoint { checkpoint, passed_over } = files.last()?;
        let Some(checkpoint) = checkpoint else {
            print::note("no checkpoint was saved yet, so the run begins at its first step");
            return Ok((None, false));
        };
        let path = if passed_over.is_some() { files.previous() } else { files.newest() };
        let checkpoint = self.own(&path, checkpoint)?;
        if let Some(damage) = &passed_over {
            let (step, aside) = (checkpoint.step, files.damaged());
            print::line(format_args!(
                "warning: {damage}; the run goes on from {}, of step {step}, and a damaged file is kept as {}",
                path.display(),
                aside.display()
            ));
        }
        Ok((Some(checkpoint), passed_over.is_some()))
    }

    /// A checkpoint that was trained by this run's recipe.
    fn own(&self, path: &Path, checkpoint: Checkpoint) -> Result<Checkpoint, CliError> {
        resume::demand_same_recipe(path, &checkpoint.recipe, &self.run.config.to_toml())?;
        Ok(checkpoint)
    }

    /// Where no checkpoint holds the recipe that a run began with, its folder does; `--set` may have changed it since.
    pub(crate) fn demand_stored_recipe(&self) -> Result<(), CliError> {
        let path = self.folder.recipe();
        let stored = std::fs::read_to_string(&path).map_err(|e| CliError::file("cannot read", &path, e))?;
        resume::demand_same_recipe(&path, &stored, &self.run.config.to_toml())
    }

    /// The training images, which must be those the run began with.
    pub(crate) fn training_images(&self) -> Result<Dataset, CliError> {
        let expected = &self.identity.data;
        let dataset = expected.source.open(Split::Train)?;
        if self.identity.imported.is_some() {
            return Ok(dataset); // What those weights were trained on is not known.
        }
        let found = report::data_identity(&dataset, expected.source.clone());
        if found.fingerprint == expected.fingerprint {
            return Ok(dataset);
        }
        Err(CliError::Run(format!(
            "the images of {} are not those this run was trained on ({} now, {} then; fingerprints {} and {}); point \
             --data at the original set",
            expected.name, found.n_images, expected.n_images, found.fingerprint, expected.fingerprint
        )))
    }

    /// Refuses to go on with a training of which nothing is known but its result.
    pub(crate) fn check_trained(&self) -> Result<(), CliError> {
        let Some(imported) = &self.identity.imported else { return Ok(()) };
        let (run, file) = (self.folder.path().display(), &imported.file);
        Err(CliError::Run(format!("{run} holds weights imported from {file}, and no training that could go on")))
    }
}
