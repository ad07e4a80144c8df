//! `run.json`: what was run on what, and how training went, as `empssl train` and `empssl import` write it.
//!
//! The program puts types of its own in the places of the parameters: `Source` says how to open the images again, `Options`
//! what a call of the training asked for, and `Portion` how much of a network was imported. Whoever only reads a run takes
//! them as they are, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::{ModelSummary, PeakBytes, Versions};

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunIdentity<Source = Value, Options = Value, Portion = Value> {
    /// [`crate::report::SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Name of the recipe.
    pub recipe: String,
    /// Seed of everything random.
    pub seed: u64,
    /// The images that the network learns from.
    pub data: DataIdentity<Source>,
    /// Where the first process computed.
    pub machine: Machine,
    /// Its command.
    pub command: String,
    /// Sizes of the network and of its training.
    pub model: ModelSummary,
    /// How training went.
    pub training: TrainingSummary,
    /// The processes that took part, in order.
    #[serde(default)]
    pub segments: Vec<Segment<Options>>,
    /// Where the weights are from, when no process of ours trained them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported<Portion>>,
}

/// Which images a run learnt from, and how to open them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataIdentity<Source = Value> {
    /// Name of the set.
    pub name: String,
    /// How it was opened.
    pub source: Source,
    /// Training images.
    pub n_images: usize,
    /// Of names, labels and sizes of the training images, so that another set is noticed.
    pub fingerprint: String,
}

/// Where a run was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// As `--device` names it.
    pub device: String,
    /// The same as its vendor names it.
    pub device_name: String,
    /// Threads of libtorch on the CPU.
    pub threads: usize,
    /// Of the program and of libtorch.
    pub versions: Versions,
    /// The source's commit, where `EMPSSL_COMMIT` tells.
    pub commit: Option<String>,
}

/// How training went, over all processes that took part in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingSummary {
    /// Whether it reached its last step.
    pub finished: bool,
    /// Steps that were done.
    pub steps: u64,
    /// Wall-clock time.
    pub seconds: f64,
    /// Patches a second.
    pub patches_per_s: f64,
    /// Most memory.
    pub peak_bytes: PeakBytes,
}

/// What one process did, and under which settings of its own, none of which changes the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment<Options = Value> {
    /// When training began, in UTC.
    pub began: String,
    /// When it ended; missing for a process that was killed or failed.
    pub ended: Option<String>,
    /// Name of the machine.
    pub host: String,
    /// What it computed on.
    pub machine: Machine,
    /// Threads that cut patches.
    pub workers: usize,
    /// Processes that shared every batch; their number changes the last bits.
    #[serde(default = "crate::report::one")]
    pub ranks: usize,
    /// What was asked for, in this call or in those before it.
    #[serde(default)]
    pub options: Options,
    /// Keys changed with `--set`; at a resume only such as do not change the result.
    pub changes: Vec<String>,
    /// Its command.
    pub command: String,
    /// Steps that were done before.
    pub from_step: u64,
    /// Steps that were done after it and that later processes built on; missing while it runs.
    pub to_step: Option<u64>,
}

/// Weights from elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Imported<Portion = Value> {
    /// The file they were read from.
    pub file: String,
    /// What it is, in words.
    pub origin: String,
    /// How much of a network it holds.
    pub portion: Portion,
    /// Keys of it that were left out.
    pub left_out: Vec<String>,
    /// What whoever reads the scores should know.
    pub notes: Vec<String>,
}

impl<Source, Options, Portion> RunIdentity<Source, Options, Portion> {
    /// The run as it stood after fewer steps, and so many seconds of training.
    pub fn go_back_to(&mut self, step: u64, seconds: f64) {
        let (model, training) = (&mut self.model, &mut self.training);
        model.epochs *= step as f64 / model.steps as f64;
        model.steps = step;
        model.patches_seen = step * model.patches_a_step();
        training.finished = false;
        (training.steps, training.seconds) = (step, seconds);
        training.patches_per_s = model.patches_seen as f64 / seconds.max(1e-9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_before_there_were_segments_is_read() {
        let text = r#"{"schema_version": 1, "recipe": "quick", "seed": 0, "data": {"name": "cifar10", "source": {"name":
            "cifar10", "root": "data"}, "n_images": 9, "fingerprint": "f"}, "machine": {"device": "cpu", "device_name": "",
            "threads": 2, "versions": {"empssl": "0", "libtorch": "2"}, "commit": null}, "command": "empssl train",
            "model": {"parameters": 1, "patch_side": 16, "n_patches": 4, "test_patches": 4, "batch_size": 5, "steps": 8,
            "epochs": 2.0, "patches_seen": 160}, "training": {"finished": true, "steps": 8, "seconds": 1.0,
            "patches_per_s": 160.0, "peak_bytes": {"host": null, "device": null}}}"#;
        let mut run: RunIdentity = serde_json::from_str(text).unwrap();
        assert!(run.training.finished && run.segments.is_empty() && run.imported.is_none());
        run.go_back_to(2, 0.5);
        assert_eq!((run.model.epochs, run.model.patches_seen, run.training.finished), (0.5, 40, false));
    }
}
