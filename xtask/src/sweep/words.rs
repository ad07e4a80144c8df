//! Figures of a sweep in words, the same in every form of its report.

use std::iter;

use super::Status;
use super::measured::{Beside, CellReport, Row, Spread, SweepReport};
use crate::report::model::{Encoder, PeakBytes, Probe};
use crate::report::text;

/// What stands where nothing was measured.
pub(crate) const NOTHING: &str = "\u{2013}";

/// Under every table.
pub(crate) const NOTE: &str = "Top-1 on the whole test split in percent, by the last epoch of the probe: mean and standard \
    deviation over n seeds. Published figures are of the full set; a row on a part of one, or on a copy, does not compare \
    with them strictly. Energy is that of the GPU, by the power its driver tells every half second.";

/// Mean and deviation of accuracies.
pub(crate) fn percent(spread: Option<&Spread>) -> String {
    match spread {
        None => NOTHING.to_owned(),
        Some(Spread { mean, std: Some(std), .. }) => format!("{mean:.1} \u{b1} {std:.1} %"),
        Some(Spread { mean, std: None, .. }) => text::percent(*mean),
    }
}

pub(crate) fn seconds(spread: Option<&Spread>) -> String {
    spread.map_or(NOTHING.to_owned(), |spread| text::duration(spread.mean))
}

pub(crate) fn rate(spread: Option<&Spread>) -> String {
    spread.map_or(NOTHING.to_owned(), |spread| text::number(spread.mean.round()))
}

pub(crate) fn memory(row: &Row) -> String {
    match (row.peak_host, row.peak_device) {
        (None, None) => NOTHING.to_owned(),
        (host, device) => text::peak(PeakBytes { host, device }),
    }
}

/// Joules of training and of evaluation, where the driver told.
pub(crate) fn energy(row: &Row) -> Option<String> {
    let said = |spread: &Option<Spread>, what: &str| {
        spread.as_ref().map(|spread| format!("{} kJ {what}", text::decimals(spread.mean / 1000.0, 1)))
    };
    let parts = [said(&row.train_joules, "training"), said(&row.evaluate_joules, "evaluation")];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The recipe of a row with its changes.
pub(crate) fn recipe(row: &Row) -> String {
    changed(&row.recipe, &row.changes)
}

/// A recipe with its changes.
pub(crate) fn changed(recipe: &str, changes: &[String]) -> String {
    iter::once(recipe).chain(changes.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
}

/// What was learnt from and scored.
pub(crate) fn data(row: &Row) -> String {
    match &row.trained_on {
        Some(source) => format!("{source}, scored on {}", row.dataset),
        None => row.dataset.clone(),
    }
}

pub(crate) fn epochs(row: &Row) -> String {
    text::decimals(row.epochs, usize::from(row.epochs.fract() != 0.0))
}

pub(crate) fn patches(row: &Row) -> String {
    format!("{} / {}", text::count(row.n_patches), text::count(row.test_patches))
}

/// A published figure with the difference, and where it is from.
pub(crate) fn published(beside: &Beside) -> (String, String) {
    let difference = beside.difference.map_or(String::new(), |points| format!(" ({})", signed(points)));
    let source = match &beside.note {
        Some(note) => format!("{}; {note}", beside.source),
        None => beside.source.clone(),
    };
    (format!("{}{difference}", text::percent(beside.top1)), source)
}

fn signed(points: f64) -> String {
    let sign = if points >= 0.05 { "+" } else { "" };
    format!("{sign}{}", text::decimals(points, 1))
}

pub(crate) fn linear(row: &Row, encoder: Encoder) -> String {
    percent(row.score(encoder, Probe::Linear))
}

pub(crate) fn knn(row: &Row, encoder: Encoder) -> String {
    percent(row.score(encoder, Probe::Knn))
}

/// What a reader must know before any figure.
pub(crate) fn warnings(report: &SweepReport) -> Vec<String> {
    let count = |status: Status| report.cells.iter().filter(|cell| cell.status == status).count();
    let (all, done, failed) = (report.cells.len(), count(Status::Done), count(Status::Failed));
    let unfinished = (done < all).then(|| {
        format!(
            "{done} of {all} cells are done{}: the same command goes on.",
            match failed {
                0 => String::new(),
                n => format!(", {n} failed and are tried again with --retry"),
            }
        )
    });
    let rows = || report.tables.iter().flat_map(|table| &table.rows);
    let synthetic = rows().any(|row| row.synthetic).then(|| {
        "Rows on generated images say nothing about real ones, and no published figure stands beside them.".to_owned()
    });
    let missed = report.cells.iter().filter(|cell| !cell.missed.is_empty());
    let missed = missed.map(|cell| format!("{} missed {}.", cell.name, cell.missed.join("; ")));
    [unfinished, synthetic].into_iter().flatten().chain(missed).collect()
}

/// One line about a cell.
pub(crate) fn cell(cell: &CellReport) -> String {
    let times = |n: u32, once: &str| match n {
        0 => None,
        1 => Some(once.to_owned()),
        n => Some(format!("{once} {n} times")),
    };
    let parts = [times(cell.starts, "begun"), times(cell.resumes, "resumed"), cell.error.clone()];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) };
    format!("{}{parts}", cell.status.label())
}

/// Machines, versions and commands, as pairs of a name and a value.
pub(crate) fn facts(report: &SweepReport) -> Vec<(&'static str, String)> {
    let machines = if report.machines.is_empty() { "none yet".to_owned() } else { report.machines.join("; ") };
    vec![
        ("Command", report.command.clone()),
        ("Machine", machines),
        ("Commit", report.commit.clone().unwrap_or_else(|| "not known".to_owned())),
        ("Sources", report.revision.clone()),
    ]
}
