//! What a run leaves to be read: `run.json`, written by training, and `report.json`, written by evaluation.
//!
//! Both are types of `empssl-report`; here are those of this program that stand in them, and what is said in a report.

use empssl_data::{BadImage, Dataset};
use empssl_model::Portion;
pub(crate) use empssl_report::report::{
    Bar, Counts, Encoder, FeatureFile, Labelled, ModelSummary, PartialCounts, PeakBytes, Probe, Processes, Row,
    RunReport, SCHEMA_VERSION, ScoredOn, Seconds, SkippedImage, Transfer, Versions,
};
use empssl_report::run;
pub(crate) use empssl_report::run::{Machine, TrainingSummary};

use crate::args::TrainOptions;
use crate::config::Checks;
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

/// Which images a run learnt from.
pub(crate) type DataIdentity = run::DataIdentity<ImageSource>;
/// What one process did.
pub(crate) type Segment = run::Segment<TrainOptions>;
/// Weights from elsewhere.
pub(crate) type Imported = run::Imported<Portion>;
/// `run.json`
pub(crate) type RunIdentity = run::RunIdentity<ImageSource, TrainOptions, Portion>;

/// The training images as `run.json` knows them.
pub(crate) fn data_identity(train: &Dataset, source: ImageSource) -> DataIdentity {
    let fingerprint = format!("{:016x}", train.fingerprint());
    DataIdentity { name: train.name().to_owned(), source, n_images: train.len(), fingerprint }
}

/// How much of a network the run has: all of it, unless its weights were imported.
pub(crate) fn portion(run: &RunIdentity) -> Portion {
    run.imported.as_ref().map_or(Portion::Full, |imported| imported.portion)
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

/// For the title: the file of imported weights, and what is scored where that is not the features.
fn origin(imported: &Imported) -> String {
    let scored = if imported.portion == Portion::Backbone { ", the backbone's output" } else { "" };
    format!(", weights imported from {}{scored}", imported.file)
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
        None if run.training.finished => run.imported.as_ref().map_or_else(String::new, origin),
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
pub(crate) fn bars(checks: &Checks, rows: &[Row]) -> Vec<Bar> {
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
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(encoder: Encoder, probe: Probe, top1: f64) -> Row {
        let peak_bytes = PeakBytes { host: None, device: None };
        let known = json!({
            "encoder": encoder, "probe": probe, "top1": top1, "top5": 99.0, "n_train": 1, "n_test": 1, "seconds": 0.0,
            "peak_bytes": peak_bytes, "setting": "",
        });
        serde_json::from_value(known).unwrap()
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
        let bars = bars(&checks, &rows);
        let held: Vec<bool> = bars.iter().map(|bar| bar.holds).collect();
        assert_eq!(held, [false, true, true, false]);
        assert_eq!((bars[0].measured, bars[3].measured), (Some(14.0), None));
    }
}
