//! What a run leaves to be read: `run.json`, written by training, and `report.json`, written by evaluation.
//!
//! Programs that render `report.json` read it by the types of `empssl-report`.

use empssl_data::{BadImage, Dataset};
use empssl_model::Portion;
use serde::{Deserialize, Serialize};

use crate::commands::ImageSource;
use crate::config::{Checks, CurveProbe, EvalView, Published, ScoredOn};
use crate::segments::Segment;

/// Raised whenever a reader of the older form could misread the newer one.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Records found and expected of one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) found: usize,
    pub(crate) expected: usize,
}

/// Counts of both splits of a set that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartialCounts {
    pub(crate) train: Counts,
    pub(crate) test: Counts,
}

impl PartialCounts {
    /// The counts, when one of the splits is not whole.
    pub(crate) fn of(train: &Dataset, test: &Dataset) -> Option<Self> {
        let counts = |set: &Dataset| Counts { found: set.len(), expected: set.expected_len().unwrap_or(set.len()) };
        (train.is_partial() || test.is_partial()).then(|| Self { train: counts(train), test: counts(test) })
    }
}

/// An image that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SkippedImage {
    pub(crate) path: String,
    pub(crate) reason: String,
}

impl SkippedImage {
    /// The images that opening a split left out.
    pub(crate) fn of(set: &Dataset) -> Vec<Self> {
        let text = |bad: &BadImage| Self { path: bad.path.display().to_string(), reason: bad.reason.clone() };
        set.skipped().iter().map(text).collect()
    }
}

/// Which images a run learnt from, and how to open them again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataIdentity {
    pub(crate) name: String,
    pub(crate) source: ImageSource,
    pub(crate) n_images: usize,
    /// Of names, labels and sizes of the training images, so that another set is noticed.
    pub(crate) fingerprint: String,
}

impl DataIdentity {
    pub(crate) fn new(train: &Dataset, source: ImageSource) -> Self {
        let fingerprint = format!("{:016x}", train.fingerprint());
        Self { name: train.name().to_owned(), source, n_images: train.len(), fingerprint }
    }
}

/// Where a run was computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) device: String,
    pub(crate) device_name: String,
    pub(crate) threads: usize,
    pub(crate) versions: Versions,
    /// The source's commit, where `EMPSSL_COMMIT` tells.
    pub(crate) commit: Option<String>,
}

/// Versions that a result may depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Versions {
    pub(crate) empssl: String,
    pub(crate) libtorch: String,
}

impl From<empssl_train::Versions> for Versions {
    fn from(versions: empssl_train::Versions) -> Self {
        Self { empssl: versions.empssl, libtorch: versions.libtorch }
    }
}

/// Bytes at the peak.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeakBytes {
    pub(crate) host: Option<u64>,
    pub(crate) device: Option<u64>,
}

impl PeakBytes {
    /// The larger of two phases.
    pub(crate) fn max(self, other: Self) -> Self {
        Self { host: self.host.max(other.host), device: self.device.max(other.device) }
    }
}

/// How large the job was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelSummary {
    pub(crate) parameters: i64,
    pub(crate) patch_side: usize,
    pub(crate) n_patches: usize,
    pub(crate) test_patches: usize,
    /// Patches of each image that BatchNorm saw at once in training: all, unless a step went by patches.
    pub(crate) norm_patches: usize,
    pub(crate) batch_size: usize,
    pub(crate) steps: u64,
    /// Passes over the training images, a fraction where a run ends within one.
    pub(crate) epochs: f64,
    pub(crate) patches_seen: u64,
}

impl ModelSummary {
    pub(crate) fn patches_a_step(&self) -> u64 {
        (self.n_patches * self.batch_size) as u64
    }
}

/// How training went, over all processes that took part in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainingSummary {
    pub(crate) finished: bool,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    pub(crate) patches_per_s: f64,
    pub(crate) peak_bytes: PeakBytes,
}

/// `run.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunIdentity {
    pub(crate) schema_version: u32,
    pub(crate) recipe: String,
    pub(crate) seed: u64,
    pub(crate) data: DataIdentity,
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) model: ModelSummary,
    pub(crate) training: TrainingSummary,
    /// The processes that took part, in order.
    #[serde(default)]
    pub(crate) segments: Vec<Segment>,
    /// Where the weights are from, when no process of ours trained them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) imported: Option<Imported>,
}

/// Weights from elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Imported {
    /// The file they were read from.
    pub(crate) file: String,
    /// What it is, in words.
    pub(crate) origin: String,
    /// How much of a network it holds.
    pub(crate) portion: Portion,
    /// Keys of it that were left out.
    pub(crate) left_out: Vec<String>,
    /// What whoever reads the scores should know.
    pub(crate) notes: Vec<String>,
}

impl Imported {
    /// For the title of the report: the file, and what is scored where that is not the features.
    fn title(&self) -> String {
        let scored = if self.portion == Portion::Backbone { ", the backbone's output" } else { "" };
        format!(", weights imported from {}{scored}", self.file)
    }
}

impl RunIdentity {
    /// How much of a network the run has: all of it, unless its weights were imported.
    pub(crate) fn portion(&self) -> Portion {
        self.imported.as_ref().map_or(Portion::Full, |imported| imported.portion)
    }

    /// The run as it stood after fewer steps, and so many seconds of training.
    pub(crate) fn go_back_to(&mut self, step: u64, seconds: f64) {
        let (model, training) = (&mut self.model, &mut self.training);
        model.epochs *= step as f64 / model.steps as f64;
        model.steps = step;
        model.patches_seen = step * model.patches_a_step();
        training.finished = false;
        (training.steps, training.seconds) = (step, seconds);
        training.patches_per_s = model.patches_seen as f64 / seconds.max(1e-9);
    }
}

/// `seconds` of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Seconds {
    pub(crate) train: f64,
    pub(crate) evaluate: f64,
}

/// `labelled` of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Labelled {
    pub(crate) n_train: usize,
    pub(crate) n_train_available: usize,
    pub(crate) n_test: usize,
    /// Classes without a labelled training image.
    pub(crate) absent_classes: Vec<String>,
}

/// How many processes shared the work, by which seconds are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Processes {
    /// In the last part of the training.
    pub(crate) train: usize,
    pub(crate) evaluate: usize,
}

/// Which features were scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoder {
    /// The run's network.
    Trained,
    /// The same network with its initial weights.
    Untrained,
    /// No network: the numbers of the whole image.
    Pixels,
}

impl Encoder {
    /// The word in reports and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Untrained => "untrained",
            Self::Pixels => "pixels",
        }
    }
}

/// How features were scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Probe {
    /// The published probe, and the best of a few rates for raw pixels.
    Linear,
    Knn,
    /// The optimum of the regularised loss, its strength chosen on held-out training images.
    LinearOptimum,
    /// The same where few training images have labels.
    FewLabels,
}

impl Probe {
    /// The word in reports and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Knn => "knn",
            Self::LinearOptimum => "linear-optimum",
            Self::FewLabels => "few-labels",
        }
    }
}

impl From<CurveProbe> for Probe {
    fn from(probe: CurveProbe) -> Self {
        match probe {
            CurveProbe::Linear => Self::Linear,
            CurveProbe::Knn => Self::Knn,
        }
    }
}

/// One score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) encoder: Encoder,
    pub(crate) probe: Probe,
    pub(crate) top1: f64,
    pub(crate) top5: f64,
    /// The probe's best epoch on the test images, as the original prints it beside the last; nothing where there are no
    /// epochs. It flatters, so nothing is ever concluded from it.
    pub(crate) chosen_on_test: Option<f64>,
    /// How often the score was taken, with other seeds; top-1 and top-5 are the means.
    pub(crate) n_seeds: usize,
    /// Standard deviation of top-1 over the seeds, in points; nothing for a single one.
    pub(crate) top1_deviation: Option<f64>,
    /// Labelled images that the score learnt from.
    pub(crate) n_train: usize,
    /// Images that were scored, and which ones.
    pub(crate) n_test: usize,
    pub(crate) scored_on: ScoredOn,
    /// Features and score together.
    pub(crate) seconds: f64,
    pub(crate) peak_bytes: PeakBytes,
    pub(crate) setting: String,
}

/// Test accuracy after an epoch of a linear probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CurvePoint {
    pub(crate) encoder: Encoder,
    pub(crate) epoch: usize,
    pub(crate) test_top1: f64,
}

/// What was scored on images other than those that were learnt from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Transfer {
    /// The data set that was learnt from.
    pub(crate) trained_on: String,
    /// What a patch shows of an image, in words.
    pub(crate) patches: String,
}

/// A score of the trained encoder against what the features of a test image cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TestPoint {
    pub(crate) view: EvalView,
    /// Patches of an image.
    pub(crate) n_patches: usize,
    pub(crate) probe: Probe,
    pub(crate) top1: f64,
    pub(crate) top5: f64,
    /// The features of all test images.
    pub(crate) seconds: f64,
}

/// Features that were scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FeatureFile {
    pub(crate) encoder: Encoder,
    pub(crate) split: &'static str,
    pub(crate) view: EvalView,
    /// The most patches of an image.
    pub(crate) n_patches: usize,
    pub(crate) bytes: u64,
    /// In the run's folder of features; nothing for those that are not kept.
    pub(crate) file: Option<String>,
    /// Taken from an earlier evaluation of the same state.
    pub(crate) reused: bool,
    /// To compute them, whenever that was.
    pub(crate) seconds: f64,
}

/// A claim of the recipe, and whether this run bears it out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) measured: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at_most: Option<f64>,
    pub(crate) holds: bool,
}

impl Bar {
    fn at_least(what: &str, measured: f64, bar: f64) -> Self {
        Self { what: what.to_owned(), measured, at_least: Some(bar), at_most: None, holds: measured >= bar }
    }

    fn at_most(what: &str, measured: f64, bar: f64) -> Self {
        Self { what: what.to_owned(), measured, at_least: None, at_most: Some(bar), holds: measured <= bar }
    }
}

/// `report.json`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunReport {
    pub(crate) schema_version: u32,
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
    pub(crate) threads: usize,
    pub(crate) versions: Versions,
    pub(crate) commit: Option<String>,
    pub(crate) command: String,
    pub(crate) skipped_images: Vec<SkippedImage>,
    pub(crate) model: ModelSummary,
    pub(crate) training_finished: bool,
    pub(crate) seconds: Seconds,
    pub(crate) processes: Processes,
    pub(crate) patches_per_s: f64,
    pub(crate) peak_bytes: PeakBytes,
    pub(crate) labelled: Labelled,
    pub(crate) rows: Vec<Row>,
    pub(crate) published: Vec<Published>,
    pub(crate) probe_curve: Vec<CurvePoint>,
    pub(crate) test_curve: Vec<TestPoint>,
    /// Nothing for the images that were learnt from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) transfer: Option<Transfer>,
    pub(crate) features: Vec<FeatureFile>,
    pub(crate) bars: Vec<Bar>,
}

impl RunReport {
    /// Makes this the report of a snapshot, about which the recipe claims nothing.
    pub(crate) fn be_of_snapshot(&mut self, run: &RunIdentity, epochs: u64) {
        self.title = title(run, self.synthetic, self.partial_counts.as_ref(), Some(epochs)) + &scored(&self.rows);
        self.bars.clear();
    }

    /// Makes this the report of scores on another data set, about which the recipe neither claims nor cites anything.
    pub(crate) fn be_of_transfer(&mut self, run: &RunIdentity, dataset: &str, transfer: Transfer) {
        let amount = amount(self.synthetic, self.partial_counts.as_ref());
        self.title = format!(
            "EMP-SSL from {} to {dataset}{amount}: recipe {}, seed {}, {} steps{}",
            transfer.trained_on,
            run.recipe,
            run.seed,
            run.model.steps,
            scored(&self.rows)
        );
        self.dataset = dataset.to_owned();
        self.transfer = Some(transfer);
        self.bars.clear();
        self.published.clear();
    }
}

/// How much of which images.
fn amount(synthetic: bool, counts: Option<&PartialCounts>) -> String {
    match counts {
        _ if synthetic => " (generated images)".to_owned(),
        Some(PartialCounts { train, test }) => format!(
            " ({} of {} training and {} of {} test images)",
            train.found, train.expected, test.found, test.expected
        ),
        None => String::new(),
    }
}

/// The report's title: which set, how much of it, by which recipe, and what was left out of the training.
pub(crate) fn title(
    run: &RunIdentity,
    synthetic: bool,
    counts: Option<&PartialCounts>,
    snapshot: Option<u64>,
) -> String {
    let amount = amount(synthetic, counts);
    let state = match snapshot {
        Some(epochs) => format!(", snapshot after {epochs} epoch{}", if epochs == 1 { "" } else { "s" }),
        None if run.training.finished => run.imported.as_ref().map_or_else(String::new, Imported::title),
        None => ", training not finished".to_owned(),
    };
    format!("EMP-SSL on {}{amount}: recipe {}, seed {}{state}", run.data.name, run.recipe, run.seed)
}

/// For the title: which images were scored, where they are not the test images.
pub(crate) fn scored(rows: &[Row]) -> String {
    let held_out = rows.iter().find(|row| row.scored_on == ScoredOn::HeldOut);
    held_out.map_or_else(String::new, |row| format!(", scored on {} {}", row.n_test, row.scored_on.images()))
}

/// The recipe's claims against what was measured.
pub(crate) fn bars(checks: &Checks, rows: &[Row], seconds: &Seconds) -> Vec<Bar> {
    let top1 =
        |encoder, probe| rows.iter().find(|row| row.encoder == encoder && row.probe == probe).map(|row| row.top1);
    let above = |what: &str, probe, other, bar| {
        // Without one of the rows nothing was shown, and NaN never reaches a bar.
        let measured =
            top1(Encoder::Trained, probe).zip(top1(other, probe)).map_or(f64::NAN, |(ours, theirs)| ours - theirs);
        Bar::at_least(what, measured, bar)
    };
    vec![
        above(
            "linear probe, points above the untrained encoder",
            Probe::Linear,
            Encoder::Untrained,
            checks.linear_above_untrained,
        ),
        above("linear probe, points above raw pixels", Probe::Linear, Encoder::Pixels, checks.linear_above_pixels),
        above("kNN, points above the untrained encoder", Probe::Knn, Encoder::Untrained, checks.knn_above_untrained),
        above("kNN, points above raw pixels", Probe::Knn, Encoder::Pixels, checks.knn_above_pixels),
        Bar::at_most(
            "minutes of training and evaluation",
            (seconds.train + seconds.evaluate) / 60.0,
            checks.max_minutes,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(encoder: Encoder, probe: Probe, top1: f64) -> Row {
        let peak_bytes = PeakBytes { host: None, device: None };
        Row {
            encoder,
            probe,
            top1,
            top5: 99.0,
            chosen_on_test: None,
            n_seeds: 1,
            top1_deviation: None,
            n_train: 1,
            n_test: 1,
            scored_on: ScoredOn::Test,
            seconds: 0.0,
            peak_bytes,
            setting: String::new(),
        }
    }

    #[test]
    fn bars_compare_like_with_like_and_a_missing_row_never_holds() {
        let checks = Checks {
            linear_above_untrained: 15.0,
            linear_above_pixels: 10.0,
            knn_above_untrained: 5.0,
            knn_above_pixels: 7.0,
            max_minutes: 1.0,
        };
        let rows = [
            row(Encoder::Trained, Probe::Linear, 50.0),
            row(Encoder::Trained, Probe::Knn, 45.0),
            row(Encoder::Untrained, Probe::Linear, 36.0),
            row(Encoder::Untrained, Probe::Knn, 20.0),
            row(Encoder::Pixels, Probe::Linear, 40.0),
        ];
        let bars = bars(&checks, &rows, &Seconds { train: 40.0, evaluate: 21.0 });
        let held: Vec<bool> = bars.iter().map(|bar| bar.holds).collect();
        assert_eq!(held, [false, true, true, false, false]);
        assert_eq!(bars[0].measured, 14.0);
        assert!(bars[3].measured.is_nan());
    }
}
