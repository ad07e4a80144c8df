//! What a run leaves to be read: `run.json`, written by training, and `report.json`, written by evaluation.
//!
//! Programs that render `report.json` read it by the types of `empssl-report`.

use empssl_data::{BadImage, Dataset};
use empssl_model::Portion;
pub(crate) use empssl_report::report::{
    Bar, Counts, CurvePoint, Encoder, FeatureFile, Labelled, ModelSummary, PartialCounts, PeakBytes, Probe, Processes,
    Row, RunReport, SCHEMA_VERSION, Seconds, SkippedImage, TestPoint, Transfer, Versions, View,
};
use serde::{Deserialize, Serialize};

use crate::args::TrainOptions;
use crate::config::{Checks, CurveProbe, EvalView, ScoredOn};
use crate::images::ImageSource;

/// The counts of both splits, when one of them is not whole.
pub(crate) fn partial_counts(train: &Dataset, test: &Dataset) -> Option<PartialCounts> {
    let counts = |set: &Dataset| Counts { found: set.len(), expected: set.expected_len().unwrap_or(set.len()) };
    (train.is_partial() || test.is_partial()).then(|| PartialCounts { train: counts(train), test: counts(test) })
}

/// The images that opening a split left out.
pub(crate) fn skipped_images(set: &Dataset) -> Vec<SkippedImage> {
    let text = |bad: &BadImage| SkippedImage { path: bad.path.display().to_string(), reason: bad.reason.clone() };
    set.skipped().iter().map(text).collect()
}

/// Versions of this process.
pub(crate) fn versions() -> Versions {
    let empssl_train::Versions { empssl, libtorch } = empssl_train::Versions::running();
    Versions { empssl, libtorch }
}

impl From<CurveProbe> for Probe {
    fn from(probe: CurveProbe) -> Self {
        match probe {
            CurveProbe::Linear => Self::Linear,
            CurveProbe::Knn => Self::Knn,
        }
    }
}

impl From<EvalView> for View {
    fn from(view: EvalView) -> Self {
        match view {
            EvalView::Published => Self::Published,
            EvalView::Grid => Self::Grid,
            EvalView::GridFlip => Self::GridFlip,
            EvalView::Whole => Self::Whole,
        }
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

/// How training went, over all processes that took part in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TrainingSummary {
    pub(crate) finished: bool,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    pub(crate) patches_per_s: f64,
    pub(crate) peak_bytes: PeakBytes,
}

/// What one process did, and under which settings of its own, none of which changes the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// When training began, in UTC.
    pub(crate) began: String,
    /// When it ended; missing for a process that was killed or failed.
    pub(crate) ended: Option<String>,
    pub(crate) host: String,
    pub(crate) machine: Machine,
    pub(crate) workers: usize,
    /// Processes that shared every batch; how many moves the last bits.
    #[serde(default = "one")]
    pub(crate) ranks: usize,
    /// What was asked for, in this call or in those before it.
    #[serde(default)]
    pub(crate) options: TrainOptions,
    /// Keys changed with `--set`; at a resume only such as do not change the result.
    pub(crate) changes: Vec<String>,
    pub(crate) command: String,
    /// Steps that were done before.
    pub(crate) from_step: u64,
    /// Steps that were done after it and that later processes built on; missing while it runs.
    pub(crate) to_step: Option<u64>,
}

/// Segments of runs from before there could be several say nothing.
fn one() -> usize {
    1
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

/// Makes a report that of a snapshot, about which the recipe claims nothing.
pub(crate) fn mark_snapshot(report: &mut RunReport, run: &RunIdentity, epochs: u64) {
    report.title = title(run, report.synthetic, report.partial_counts.as_ref(), Some(epochs)) + &scored(&report.rows);
    report.bars.clear();
}

/// Makes a report that of scores on another data set, about which the recipe neither claims nor cites anything.
pub(crate) fn mark_transfer(report: &mut RunReport, run: &RunIdentity, dataset: &str, transfer: Transfer) {
    report.title = format!(
        "EMP-SSL from {} to {dataset}{}: recipe {}, seed {}, {} steps{}",
        transfer.trained_on,
        amount(report.synthetic, report.partial_counts.as_ref()),
        run.recipe,
        run.seed,
        run.model.steps,
        scored(&report.rows)
    );
    report.dataset = dataset.to_owned();
    report.transfer = Some(transfer);
    report.bars.clear();
    report.published.clear();
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
        // Without one of the rows nothing was shown, and nothing never reaches a bar.
        Bar::at_least(
            what,
            top1(Encoder::Trained, probe).zip(top1(other, probe)).map(|(ours, theirs)| ours - theirs),
            bar,
        )
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
            Some((seconds.train + seconds.evaluate) / 60.0),
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
        assert_eq!((bars[0].measured, bars[3].measured), (Some(14.0), None));
    }
}
