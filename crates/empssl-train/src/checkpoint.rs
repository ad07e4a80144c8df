//! A run at one step, in one file: everything that another process needs to go on from there.
//!
//! The file is a safetensors file. The network's tensors are under `network.`, with the official names behind it, the
//! optimizer's momentum under `momentum.`; the header's metadata holds the rest as text. It is written beside its place,
//! synced and renamed, so a reader sees the old checkpoint or the new one, never half of one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use empssl_model::weights;
use empssl_torch::version;
use tch::Tensor;

use crate::error::TrainError;

/// Raised whenever a reader of the older form could misread the newer one.
const FORMAT_VERSION: u32 = 2;
const FORMAT: &str = "empssl checkpoint";

/// The state of a run between two steps.
#[derive(Debug)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Where the next step stands in the data and on the schedule.
    pub position: Position,
    /// The run's seed.
    pub seed: u64,
    /// CPU threads that computed it: sums are split by thread, so another number may give other last bits.
    pub threads: u64,
    /// Processes that shared its last batch; how many moves the last bits as well.
    pub world: u64,
    /// The programs that computed it.
    pub versions: Versions,
    /// The resolved recipe, as text.
    pub recipe: String,
    /// Weights and buffers by their official names.
    pub network: Vec<(String, Tensor)>,
    /// The optimizer's momentum by parameter name; zeros before the first step.
    pub momentum: Vec<(String, Tensor)>,
}

/// Where the next step of a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The epoch it belongs to, from 0.
    pub epoch: u64,
    /// Its batch within the epoch, from 0.
    pub batch: u64,
    /// Steps over which the learning rate falls to 0; with the number of the step it tells the rate.
    pub schedule_steps: u64,
}

/// What else the bits of a result may depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Of this program.
    pub empssl: String,
    /// Of the tensor library.
    pub libtorch: String,
}

impl Versions {
    /// Those of the present process.
    pub fn running() -> Self {
        let libtorch = version::running().unwrap_or_else(version::built_for);
        Self { empssl: env!("CARGO_PKG_VERSION").to_owned(), libtorch }
    }
}

impl Checkpoint {
    /// Writes the checkpoint; an older one at `path` stays until the new one is complete.
    ///
    /// # Errors
    /// When the disk is full or the folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        Ok(weights::write(path, &self.tensors(), &self.metadata())?)
    }

    /// Writes the checkpoint; an older one at `path` is renamed to `previous` once the new one is complete.
    ///
    /// # Errors
    /// When the disk is full or the folder cannot be written.
    pub fn save_keeping(&self, path: &Path, previous: &Path) -> Result<(), TrainError> {
        Ok(weights::write_keeping(path, Some(previous), &self.tensors(), &self.metadata())?)
    }

    /// Reads a checkpoint onto the CPU.
    ///
    /// # Errors
    /// When the file is missing, truncated, not a checkpoint of this program, or of another format version.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        let file = weights::read(path)?;
        let header = Header { path, metadata: &file.metadata };
        header.demand_format()?;
        let (mut network, mut momentum) = (Vec::new(), Vec::new());
        for (name, tensor) in file.tensors {
            match name.split_once('.') {
                Some(("network", name)) => network.push((name.to_owned(), tensor)),
                Some(("momentum", name)) => momentum.push((name.to_owned(), tensor)),
                _ => return Err(header.unusable(format!("it holds a tensor `{name}` that no checkpoint has"))),
            }
        }
        Ok(Self {
            step: header.number("step")?,
            position: Position {
                epoch: header.number("epoch")?,
                batch: header.number("batch")?,
                schedule_steps: header.number("schedule_steps")?,
            },
            seed: header.number("seed")?,
            threads: header.number("threads")?,
            // Files from before there could be several have no such entry.
            world: if header.metadata.contains_key("world") { header.number("world")? } else { 1 },
            versions: Versions {
                empssl: header.text("empssl_version")?.to_owned(),
                libtorch: header.text("libtorch_version")?.to_owned(),
            },
            recipe: header.text("recipe")?.to_owned(),
            network,
            momentum,
        })
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let momentum = prefixed("momentum.", &self.momentum);
        prefixed("network.", &self.network).into_iter().chain(momentum).collect()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        let entries = [
            ("format", FORMAT.to_owned()),
            ("format_version", FORMAT_VERSION.to_string()),
            ("step", self.step.to_string()),
            ("epoch", self.position.epoch.to_string()),
            ("batch", self.position.batch.to_string()),
            ("schedule_steps", self.position.schedule_steps.to_string()),
            ("seed", self.seed.to_string()),
            ("threads", self.threads.to_string()),
            ("world", self.world.to_string()),
            ("recipe", self.recipe.clone()),
            ("empssl_version", self.versions.empssl.clone()),
            ("libtorch_version", self.versions.libtorch.clone()),
        ];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn prefixed(prefix: &str, tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.shallow_clone())).collect()
}

/// The text part of a checkpoint file.
struct Header<'a> {
    path: &'a Path,
    metadata: &'a BTreeMap<String, String>,
}

impl Header<'_> {
    fn unusable(&self, reason: String) -> TrainError {
        TrainError::Checkpoint { path: self.path.to_path_buf(), reason }
    }

    fn demand_format(&self) -> Result<(), TrainError> {
        if self.metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(self.unusable("it is a safetensors file, but not a checkpoint written by empssl".to_owned()));
        }
        let version: u32 = self.number("format_version")?;
        let cure = match version.cmp(&FORMAT_VERSION) {
            Ordering::Equal => return Ok(()),
            Ordering::Less => "use the older empssl that wrote it, or train anew",
            Ordering::Greater => "use the newer empssl that wrote it",
        };
        let writer = self.text("empssl_version").map_or(String::new(), |writer| format!(" (empssl {writer})"));
        let reads = format!("this program reads version {FORMAT_VERSION}");
        Err(self.unusable(format!("its format is version {version}{writer} and {reads}; {cure}")))
    }

    fn text(&self, key: &str) -> Result<&str, TrainError> {
        let missing = || self.unusable(format!("its header has no `{key}`"));
        self.metadata.get(key).map(String::as_str).ok_or_else(missing)
    }

    fn number<T: FromStr>(&self, key: &str) -> Result<T, TrainError> {
        let text = self.text(key)?;
        text.parse().map_err(|_| self.unusable(format!("`{key}` in its header is `{text}`, which is no valid number")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn checkpoint() -> Checkpoint {
        Checkpoint {
            step: 17,
            position: Position { epoch: 5, batch: 2, schedule_steps: 40 },
            seed: u64::MAX,
            threads: 2,
            world: 4,
            versions: Versions { empssl: "0.0.9".to_owned(), libtorch: "2.10.0+cpu".to_owned() },
            recipe: "key = \"value\"\n".to_owned(),
            network: vec![("conv1.weight".to_owned(), Tensor::from_slice(&[1.0f32, -0.0, 3.5]))],
            momentum: vec![("conv1.weight".to_owned(), Tensor::from_slice(&[0.5f32, 0.25, 0.125]))],
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        checkpoint().save(&path).unwrap();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!((loaded.step, loaded.seed, loaded.threads, loaded.world), (17, u64::MAX, 2, 4));
        assert_eq!((loaded.position, &loaded.versions), (checkpoint().position, &checkpoint().versions));
        assert_eq!(loaded.recipe, "key = \"value\"\n");
        for (ours, theirs) in [(&loaded.network, checkpoint().network), (&loaded.momentum, checkpoint().momentum)] {
            assert_eq!(ours.len(), 1);
            assert_eq!(ours[0].0, theirs[0].0);
            assert_eq!(ours[0].1, theirs[0].1);
        }
    }

    #[test]
    fn foreign_and_damaged_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let refusal = |what: &str| {
            let error = Checkpoint::load(&path).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{what}: {error}");
            error
        };
        refusal("missing");
        std::fs::write(&path, b"PK\x03\x04 a zip file").unwrap();
        refusal("foreign");
        weights::write(&path, &checkpoint().network, &BTreeMap::new()).unwrap();
        assert!(refusal("other safetensors").contains("not a checkpoint written by empssl"));
        let mut metadata = checkpoint().metadata();
        for (version, cure) in [("1", "the older empssl"), ("3", "the newer empssl")] {
            metadata.insert("format_version".to_owned(), version.to_owned());
            weights::write(&path, &[], &metadata).unwrap();
            let sentence = refusal("another format");
            let versions = format!("version {version} (empssl 0.0.9) and this program reads version 2");
            assert!(sentence.contains(&versions) && sentence.contains(cure), "{sentence}");
        }
        metadata = checkpoint().metadata();
        metadata.insert("step".to_owned(), "-1".to_owned());
        weights::write(&path, &[], &metadata).unwrap();
        assert!(refusal("bad number").contains("`step` in its header is `-1`"));
        metadata.remove("step");
        metadata.remove("world");
        weights::write(&path, &[], &metadata).unwrap();
        assert!(refusal("no number").contains("has no `step`"));
        checkpoint().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        refusal("truncated");
    }
}
