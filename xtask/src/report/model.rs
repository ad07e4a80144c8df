//! What a run folder says: `report.json` by its schema (docs/report.schema.json), and the log of the steps.
//!
//! Keys we do not know are left alone: a newer `empssl` may write more than this task shows.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::failure::{Code, Context, Failure, Outcome};

/// The version of report.json this task reads.
const SCHEMA_VERSION: u64 = 1;

/// report.json.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    schema_version: u64,
    pub(crate) title: String,
    pub(crate) dataset: String,
    pub(crate) dataset_description: String,
    pub(crate) synthetic: bool,
    pub(crate) partial: bool,
    pub(crate) partial_counts: Option<PartialCounts>,
    pub(crate) recipe: String,
    pub(crate) recipe_toml: String,
    pub(crate) seed: u64,
    pub(crate) device: String,
    pub(crate) device_name: String,
    pub(crate) threads: u64,
    /// One of each where a report does not say.
    #[serde(default)]
    pub(crate) processes: Processes,
    pub(crate) versions: Versions,
    pub(crate) commit: Option<String>,
    pub(crate) command: String,
    #[serde(default)]
    pub(crate) skipped_images: Vec<SkippedImage>,
    pub(crate) model: Model,
    pub(crate) training_finished: bool,
    pub(crate) seconds: Seconds,
    pub(crate) patches_per_s: Option<f64>,
    pub(crate) peak_bytes: Option<PeakBytes>,
    pub(crate) labelled: Labelled,
    pub(crate) rows: Vec<Row>,
    #[serde(default)]
    pub(crate) published: Vec<Published>,
    #[serde(default)]
    pub(crate) probe_curve: Vec<ProbePoint>,
    /// Reports of older programs have none.
    #[serde(default)]
    pub(crate) test_curve: Vec<TestPoint>,
    #[serde(default)]
    pub(crate) transfer: Option<Transfer>,
    #[serde(default)]
    pub(crate) features: Vec<FeatureFile>,
    #[serde(default)]
    pub(crate) bars: Vec<Bar>,
}

/// Found and official counts of a set that is not whole.
#[derive(Debug, Deserialize)]
pub(crate) struct PartialCounts {
    pub(crate) train: Option<Counts>,
    pub(crate) test: Option<Counts>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    pub(crate) found: u64,
    pub(crate) expected: u64,
}

/// Processes that shared the work.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Processes {
    pub(crate) train: u64,
    pub(crate) evaluate: u64,
}

impl Default for Processes {
    fn default() -> Self {
        Self { train: 1, evaluate: 1 }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Versions {
    pub(crate) empssl: String,
    pub(crate) libtorch: String,
}

/// An image left out because it could not be decoded.
#[derive(Debug, Deserialize)]
pub(crate) struct SkippedImage {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// Sizes of what was trained, and of the training.
#[derive(Debug, Deserialize)]
pub(crate) struct Model {
    pub(crate) parameters: u64,
    pub(crate) patch_side: u64,
    pub(crate) n_patches: u64,
    pub(crate) test_patches: u64,
    /// Patches of an image that BatchNorm saw at once in training; all of them where a report does not say.
    #[serde(default)]
    pub(crate) norm_patches: Option<u64>,
    pub(crate) batch_size: u64,
    pub(crate) steps: u64,
    pub(crate) epochs: f64,
    pub(crate) patches_seen: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Seconds {
    pub(crate) train: f64,
    pub(crate) evaluate: f64,
}

/// Most memory in use at once, in bytes; the device's where there is one.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct PeakBytes {
    pub(crate) host: Option<u64>,
    pub(crate) device: Option<u64>,
}

/// How many labelled images the probes learn from and are scored on.
#[derive(Debug, Deserialize)]
pub(crate) struct Labelled {
    pub(crate) n_train: u64,
    pub(crate) n_train_available: Option<u64>,
    pub(crate) n_test: u64,
    /// Classes without a labelled training image.
    #[serde(default)]
    pub(crate) absent_classes: Vec<String>,
}

/// One measured accuracy, in percent.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) encoder: Encoder,
    pub(crate) probe: Probe,
    pub(crate) top1: f64,
    pub(crate) top5: Option<f64>,
    /// The probe's best epoch on the test images, which flatters.
    #[serde(default)]
    pub(crate) chosen_on_test: Option<f64>,
    /// Of `top1`, over the seeds of a score that was taken several times.
    #[serde(default)]
    pub(crate) top1_deviation: Option<f64>,
    pub(crate) n_train: u64,
    pub(crate) n_test: u64,
    #[serde(default)]
    pub(crate) scored_on: ScoredOn,
    pub(crate) seconds: Option<f64>,
    pub(crate) peak_bytes: Option<PeakBytes>,
    pub(crate) setting: Option<String>,
}

/// Which images a score is of.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ScoredOn {
    #[default]
    Test,
    /// Training images from which no probe learnt.
    HeldOut,
}

impl ScoredOn {
    /// The images in words.
    pub(crate) fn images(self) -> &'static str {
        match self {
            Self::Test => "test images",
            Self::HeldOut => "held-out training images",
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoder {
    Trained,
    Untrained,
    Pixels,
}

impl Encoder {
    /// In the order of tables and legends.
    pub(crate) const ALL: [Self; 3] = [Self::Trained, Self::Untrained, Self::Pixels];

    /// The word in tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Untrained => "the same, untrained",
            Self::Pixels => "raw pixels",
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Probe {
    Linear,
    Knn,
    LinearOptimum,
    FewLabels,
    /// Of another program.
    #[serde(other)]
    Unknown,
}

impl Probe {
    /// The word in tables.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Linear => "linear probe",
            Self::Knn => "weighted kNN",
            Self::LinearOptimum => "linear probe, optimum",
            Self::FewLabels => "linear probe, few labels",
            Self::Unknown => "another probe",
        }
    }
}

/// A figure of the paper, for comparison; never measured here.
#[derive(Debug, Deserialize)]
pub(crate) struct Published {
    pub(crate) probe: Probe,
    pub(crate) top1: f64,
    pub(crate) epochs: Option<f64>,
    pub(crate) source: String,
    pub(crate) note: Option<String>,
}

/// The linear probe's test accuracy after one of its epochs, in percent.
#[derive(Debug, Deserialize)]
pub(crate) struct ProbePoint {
    pub(crate) encoder: Encoder,
    pub(crate) epoch: f64,
    pub(crate) test_top1: f64,
}

/// The trained encoder's accuracy when features are taken from so many patches of an image in this way.
#[derive(Debug, Deserialize)]
pub(crate) struct TestPoint {
    pub(crate) view: View,
    pub(crate) n_patches: u64,
    pub(crate) probe: Probe,
    pub(crate) top1: f64,
    /// The features of all test images.
    pub(crate) seconds: f64,
}

/// Scores of images other than those that were learnt from.
#[derive(Debug, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) trained_on: String,
    pub(crate) patches: String,
}

/// What an encoder sees of an image in evaluation.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum View {
    Published,
    Grid,
    GridFlip,
    Whole,
}

impl View {
    /// In the order of tables and legends.
    pub(crate) const ALL: [Self; 4] = [Self::Published, Self::Grid, Self::GridFlip, Self::Whole];

    /// The words in tables and legends.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Published => "random patches, augmented, as published",
            Self::Grid => "patches in fixed places, colours as they are",
            Self::GridFlip => "the same, half of them mirrored",
            Self::Whole => "the whole image, resized",
        }
    }
}

/// Features that were computed for the scores, or taken from an earlier evaluation.
#[derive(Debug, Deserialize)]
pub(crate) struct FeatureFile {
    pub(crate) bytes: u64,
    /// Nothing for those that were not kept.
    pub(crate) file: Option<String>,
    pub(crate) reused: bool,
}

/// Something the run had to show.
#[derive(Debug, Deserialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) measured: Option<f64>,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    pub(crate) holds: bool,
}

impl Bar {
    /// The measured figure in words.
    pub(crate) fn found(&self) -> String {
        self.measured.map_or("not measured".to_owned(), super::text::number)
    }

    /// What it found and should have, where it does not hold.
    pub(crate) fn missed(&self) -> Option<String> {
        (!self.holds).then(|| format!("{}: {}, {}", self.what, self.found(), self.bound()))
    }

    /// The bound in words.
    pub(crate) fn bound(&self) -> String {
        match (self.at_least, self.at_most) {
            (Some(least), _) => format!("at least {}", super::text::number(least)),
            (None, Some(most)) => format!("at most {}", super::text::number(most)),
            (None, None) => "no bound given".to_owned(),
        }
    }
}

/// One logged step of metrics.jsonl.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Step {
    pub(crate) step: f64,
    pub(crate) lr: f64,
    pub(crate) loss: f64,
    pub(crate) invariance: f64,
    pub(crate) coding_rate: f64,
    /// The look at the features after it, if there was one.
    pub(crate) monitor: Option<Check>,
}

/// Weighted kNN on labelled training images while training went on, in percent.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Check {
    pub(crate) knn_top1: f64,
    pub(crate) knn_top5: f64,
    pub(crate) images: u64,
    pub(crate) patches: u64,
    pub(crate) seconds: f64,
}

impl Report {
    /// Reads RUN/report.json.
    pub(crate) fn read(run: &Path) -> Outcome<Self> {
        let path = run.join("report.json");
        if !path.is_file() {
            let shown = run.display();
            return Err(Failure::report(format!("{shown} holds no report.json: `empssl eval {shown}` writes it")));
        }
        let text = fs::read_to_string(&path).at(Code::Report, "read", &path)?;
        let mut report: Self = serde_json::from_str(&text)
            .map_err(|error| Failure::report(format!("{} is no report: {error}", path.display())))?;
        report.rows.retain(|row| row.probe != Probe::Unknown);
        if report.schema_version == SCHEMA_VERSION {
            return Ok(report);
        }
        Err(Failure::report(format!(
            "{} has schema_version {}, but this task reads {SCHEMA_VERSION}: evaluate the run again",
            path.display(),
            report.schema_version
        )))
    }

    /// By how many threads, and processes where there were several.
    pub(crate) fn threads(&self) -> String {
        let Processes { train, evaluate } = self.processes;
        let processes = if train.max(evaluate) == 1 {
            String::new()
        } else if train == evaluate {
            format!(", {train} processes")
        } else {
            format!(", {train} processes to train and {evaluate} to evaluate")
        };
        format!("{} threads{processes}", self.threads)
    }

    /// Which images were scored.
    pub(crate) fn scored_on(&self) -> ScoredOn {
        self.rows.first().map_or(ScoredOn::Test, |row| row.scored_on)
    }

    /// The row of an encoder and a probe; the first where there are several.
    pub(crate) fn row(&self, encoder: Encoder, probe: Probe) -> Option<&Row> {
        self.rows.iter().find(|row| row.encoder == encoder && row.probe == probe)
    }

    /// The published figures that may stand beside these rows: none beside synthetic images.
    pub(crate) fn comparable(&self) -> &[Published] {
        if self.synthetic { &[] } else { &self.published }
    }
}

/// The steps of RUN/metrics.jsonl: whole lines with finite numbers, which a run that was cut off may not end with.
pub(crate) fn steps(run: &Path) -> Option<Vec<Step>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).ok()?;
    Some(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
