//! One file per subcommand, and what they share: opening images, choosing the device.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod neighbours;
pub(crate) mod recipe;
pub(crate) mod runs;
pub(crate) mod train;

use std::path::{Path, PathBuf};

use empssl_data::options::DEFAULT_ROOT;
use empssl_data::{DataError, Dataset, ImageSet, OpenOptions, Split};
use empssl_model::{Network, Portion};
use empssl_torch::{determinism, device, memory, precision};
use empssl_train::{Checkpoint, CheckpointFiles, LastCheckpoint};
use serde::{Deserialize, Serialize};
use tch::Device;

use crate::args::{BadImage, DeviceArgs, ImageArgs};
use crate::config::{Run, RunConfig};
use crate::error::CliError;
pub(crate) use crate::print::say;
use crate::progress::seconds_at;
use crate::report::{self, DataIdentity, Machine, PeakBytes, RunIdentity};
use crate::resume;
use crate::run_folder::{RunFolder, read_json};
use crate::{host, print};

/// The epoch of random draws that belong to no epoch: what is scored or drawn is never what was trained on.
pub(crate) const NO_EPOCH: u64 = u64::MAX;

/// Sets up the device and the threads, before the first tensor, with float32 everywhere: training in another precision
/// asks for it where it is due, and everything else, evaluation above all, never does.
pub(crate) fn prepare(compute: &DeviceArgs) -> Result<Device, CliError> {
    // Opening CUDA comes first: libtorch looks for it once, and everything after may be what makes it look.
    let device = device::select(compute.choice())?;
    determinism::set_deterministic(compute.deterministic)?;
    precision::set_tf32(false)?;
    let threads = compute.threads.unwrap_or_else(host::n_processors).max(1);
    tch::set_num_threads(threads as i32);
    Ok(device)
}

/// What the present process runs on.
pub(crate) fn machine(device: Device) -> Machine {
    Machine {
        device: device_text(device),
        device_name: device::name(device),
        threads: tch::get_num_threads() as usize,
        versions: report::versions(),
        commit: std::env::var("EMPSSL_COMMIT").ok().filter(|commit| !commit.is_empty()),
    }
}

/// The device as `--device` names it.
pub(crate) fn device_text(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".to_owned(),
    }
}

/// Starts new peaks of host and device memory.
pub(crate) fn reset_peaks(device: Device) -> Result<(), CliError> {
    host::reset_peak();
    Ok(memory::reset_peak(device)?)
}

/// The peaks since [`reset_peaks`].
pub(crate) fn peaks(device: Device) -> Result<PeakBytes, CliError> {
    let device = memory::device_memory(device)?.map(|memory| memory.peak);
    Ok(PeakBytes { host: host::peak_bytes(), device })
}

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
        self.identity.portion()
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

    /// Where no checkpoint tells by what recipe a run began, its folder does; `--set` may have changed it since.
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
        let found = DataIdentity::new(&dataset, expected.source.clone());
        if found.fingerprint == expected.fingerprint {
            return Ok(dataset);
        }
        Err(CliError::Run(format!(
            "the images of {} are not those this run was trained on ({} now, {} then; fingerprints {} and {}); point \
             --data at the original set",
            expected.name, found.n_images, expected.n_images, found.fingerprint, expected.fingerprint
        )))
    }
}

/// Finished batches that may wait: enough to hide a slow one, few enough for the memory (a loader owns two more buffers).
pub(crate) const PREFETCH: usize = 2;

/// Threads that cut patches: as asked for, or as the machine has processors.
pub(crate) fn n_workers(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(host::default_workers).max(1)
}

/// Which images to open, from flags or from a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageSource {
    pub(crate) name: String,
    pub(crate) root: Option<PathBuf>,
    pub(crate) partial: bool,
    pub(crate) on_bad_image: BadImage,
}

/// The name that stands for whatever set the files are.
pub(crate) const AUTO: &str = "auto";

impl ImageSource {
    pub(crate) fn new(name: &str, args: &ImageArgs) -> Result<Self, CliError> {
        let ImageArgs { data: root, partial, on_bad_image } = args.clone();
        let name = match name {
            AUTO => empssl_data::detect(root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT)))?,
            name => name,
        };
        Ok(Self { name: name.to_owned(), root, partial, on_bad_image })
    }

    pub(crate) fn options(&self) -> OpenOptions {
        let Self { name, root, partial, on_bad_image } = self.clone();
        OpenOptions { name, root, partial, on_bad_image: on_bad_image.into() }
    }

    pub(crate) fn open(&self, split: Split) -> Result<Dataset, CliError> {
        empssl_data::open(&self.options(), split).map_err(|error| self.or_another(error))
    }

    /// Where a published set is missing and another set is there, that is what the user needs to know; any tree of
    /// images may be opened as a folder of one's own.
    fn or_another(&self, error: DataError) -> CliError {
        let is_published = ImageSet::named(&self.name).is_ok_and(|set| set.counts.is_some());
        let found = match (&error, &self.root) {
            (DataError::MissingFolder { .. }, Some(root)) if is_published => empssl_data::detect(root).ok(),
            _ => None,
        };
        match found {
            Some(found) if found != self.name => CliError::AnotherDataset { error, found },
            _ => error.into(),
        }
    }
}

/// The command as it was typed.
pub(crate) fn command_line() -> String {
    let words = std::env::args().enumerate().map(|(index, word)| match index {
        0 => "empssl".to_owned(),
        _ if word.contains(char::is_whitespace) => format!("'{word}'"),
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}
