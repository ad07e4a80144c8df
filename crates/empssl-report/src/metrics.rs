//! `metrics.jsonl`: one line for each logged step of a training.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One logged step, as far as it is shown.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Step {
    /// From 1.
    pub step: f64,
    /// Learning rate.
    pub lr: f64,
    /// The total loss.
    pub loss: f64,
    /// The check of the features after it, if there was one.
    pub monitor: Option<Check>,
    /// Everything else, terms of the loss by their names among it.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Weighted kNN on labelled training images while training goes on, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Images whose class is the one their neighbours vote for.
    pub knn_top1: f64,
    /// The same for the five classes with the most votes.
    pub knn_top5: f64,
    /// Labelled training images.
    pub images: i64,
    /// Patches of each, in fixed places.
    pub patches: i64,
    /// What it took.
    pub seconds: f64,
}

/// How far a training has come by a line, whatever else that says.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Progress {
    /// From 1.
    pub step: u64,
    /// Of training up to there.
    pub seconds: f64,
}

/// Figures of a line that belong to no term of the loss.
const NO_TERMS: [&str; 4] = ["epoch", "patches_per_s", "waited", "seconds"];

impl Step {
    /// A term of the loss.
    pub(crate) fn term(&self, name: &str) -> Option<f64> {
        self.others.get(name)?.as_f64()
    }

    /// The names of the terms of the loss.
    pub(crate) fn terms(&self) -> impl Iterator<Item = &str> {
        let numbers = self.others.iter().filter(|(_, value)| value.is_number());
        numbers.map(|(name, _)| name.as_str()).filter(|name| !NO_TERMS.contains(name))
    }
}

/// The steps of RUN/metrics.jsonl: whole lines with finite numbers, which a run that was cut off may not end with.
pub fn steps(run: &Path) -> Option<Vec<Step>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).ok()?;
    Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
