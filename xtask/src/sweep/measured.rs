//! The sweep's `report.json`: rows of tables, each over the seeds of one state of one recipe, and the cells behind them.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cell::Status;
use super::outline::Data;
use super::plan::{Cell, Group, Plan, Target};
use crate::process;
use crate::report::Report;
use crate::report::model::{Bar, Encoder, PartialCounts, Probe, ScoredOn};
use crate::report::text;
use crate::reproduce::program::Program;

/// Raised when a key changes its meaning or goes away.
pub(crate) const SCHEMA_VERSION: u64 = 1;

/// What tells a sweep's report from a run's.
pub(crate) const KIND: &str = "sweep";

/// Fewer seeds than this settle nothing.
pub(crate) const ENOUGH_SEEDS: usize = 3;

/// `report.json` of a sweep.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SweepReport {
    pub(crate) schema_version: u64,
    pub(crate) kind: String,
    pub(crate) title: String,
    /// Every cell is done.
    pub(crate) complete: bool,
    pub(crate) command: String,
    pub(crate) commit: Option<String>,
    /// Of the sources that figures depend on.
    pub(crate) revision: String,
    /// Each of the machines and versions that took part.
    pub(crate) machines: Vec<String>,
    pub(crate) tables: Vec<TableReport>,
    pub(crate) cells: Vec<CellReport>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct TableReport {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// One state of one recipe on one set, over its seeds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    /// The images that were scored, in words.
    pub(crate) dataset: String,
    /// The images that were learnt from, where they are others.
    pub(crate) trained_on: Option<String>,
    pub(crate) synthetic: bool,
    pub(crate) recipe: String,
    pub(crate) changes: Vec<String>,
    pub(crate) epochs: f64,
    pub(crate) n_patches: u64,
    pub(crate) test_patches: u64,
    /// Seeds that were asked for, and of those the ones that have scores.
    pub(crate) wanted: usize,
    pub(crate) n: usize,
    pub(crate) scores: Vec<Score>,
    pub(crate) published: Vec<Beside>,
    /// Seconds of training until this state.
    pub(crate) train_seconds: Option<Spread>,
    pub(crate) evaluate_seconds: Option<Spread>,
    pub(crate) patches_per_s: Option<Spread>,
    /// The largest over the seeds, in bytes.
    pub(crate) peak_host: Option<u64>,
    pub(crate) peak_device: Option<u64>,
    /// Of the GPU, at the end of a run: joules of the training, and of scoring all its states.
    pub(crate) train_joules: Option<Spread>,
    pub(crate) evaluate_joules: Option<Spread>,
    /// Where, and by how many threads.
    pub(crate) machine: Option<String>,
}

/// Accuracy in percent over the seeds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Score {
    pub(crate) encoder: String,
    pub(crate) probe: String,
    pub(crate) top1: Spread,
}

/// A published figure, and by how many points ours differs.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Beside {
    pub(crate) probe: String,
    pub(crate) top1: f64,
    pub(crate) source: String,
    pub(crate) note: Option<String>,
    pub(crate) difference: Option<f64>,
}

/// Values, their mean and their standard deviation, which a single one does not have.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub(crate) struct Spread {
    pub(crate) values: Vec<f64>,
    pub(crate) mean: f64,
    pub(crate) std: Option<f64>,
}

/// One cell, for whoever looks behind a row.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct CellReport {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) seed: u64,
    pub(crate) status: Status,
    pub(crate) error: Option<String>,
    /// Trainings begun, and gone on with.
    pub(crate) starts: u32,
    pub(crate) resumes: u32,
    /// From the sweep's folder.
    pub(crate) folder: String,
    pub(crate) command: Option<String>,
    /// What its recipe asked for and did not get.
    #[serde(default)]
    pub(crate) missed: Vec<String>,
}

impl Spread {
    /// Nothing of no value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { values, mean, std })
    }
}

impl Row {
    pub(crate) fn score(&self, encoder: Encoder, probe: Probe) -> Option<&Spread> {
        let (encoder, probe) = (encoder_key(encoder), probe_key(probe));
        self.scores.iter().find(|score| score.encoder == encoder && score.probe == probe).map(|score| &score.top1)
    }

    /// The name of the set, with which its label begins.
    pub(crate) fn set(&self) -> &str {
        self.dataset.split([' ', ',']).next().unwrap_or_default()
    }

    /// How many seeds stand behind it, and what that is worth.
    pub(crate) fn status(&self) -> String {
        let n = match self.n {
            0 => return "not measured yet".to_owned(),
            n if n < self.wanted => format!("n = {n} of {}", self.wanted),
            n => format!("n = {n}"),
        };
        if self.n < ENOUGH_SEEDS { format!("{n}, preliminary") } else { n }
    }
}

pub(crate) fn encoder_key(encoder: Encoder) -> &'static str {
    match encoder {
        Encoder::Trained => "trained",
        Encoder::Untrained => "untrained",
        Encoder::Pixels => "pixels",
    }
}

pub(crate) fn probe_key(probe: Probe) -> &'static str {
    match probe {
        Probe::Linear => "linear",
        Probe::Knn => "knn",
        Probe::LinearOptimum => "linear-optimum",
        Probe::FewLabels => "few-labels",
        Probe::Unknown => "unknown",
    }
}

impl SweepReport {
    /// What is there now; `folder` is the sweep's.
    pub(crate) fn new(plan: &Plan, title: &str, command: &str, program: &Program, folder: &Path) -> Self {
        let all = Gathered { plan };
        let tables = plan.tables.iter().map(|table| TableReport {
            name: table.table.map_or("runs", |table| table.name()).to_owned(),
            title: table.table.map_or("Runs", |table| table.title()).to_owned(),
            rows: table.groups.iter().flat_map(|group| all.rows(group)).collect(),
        });
        let cells: Vec<_> = plan.cells.iter().map(|cell| cell_report(cell, folder)).collect();
        Self {
            schema_version: SCHEMA_VERSION,
            kind: KIND.to_owned(),
            title: title.to_owned(),
            complete: cells.iter().all(|cell| cell.status == Status::Done),
            command: command.to_owned(),
            commit: program.commit.clone(),
            revision: program.revision.clone(),
            machines: all.machines(),
            tables: tables.collect(),
            cells,
        }
    }
}

struct Gathered<'a> {
    plan: &'a Plan,
}

impl Gathered<'_> {
    fn cells<'g>(&'g self, group: &'g Group) -> impl Iterator<Item = &'g Cell> {
        group.cells.iter().map(|&index| &self.plan.cells[index])
    }

    /// A row for each state, and for each set that the end is scored on besides.
    fn rows(&self, group: &Group) -> Vec<Row> {
        let states = group.outline.states();
        let of_state = |state: Option<u64>| {
            let reports: Vec<_> = self.cells(group).filter_map(|cell| cell.report(state)).collect();
            let mut row = row(group, state, &reports);
            if state.is_none() {
                let joules: Vec<_> = self.cells(group).map(|cell| cell.state().joules).collect();
                row.train_joules = Spread::of(joules.iter().filter_map(|joules| joules.train));
                row.evaluate_joules = Spread::of(joules.iter().filter_map(|joules| joules.evaluate));
            }
            row
        };
        let mut targets: Vec<&Target> = Vec::new();
        for target in self.cells(group).flat_map(|cell| &cell.targets) {
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let of_target = |target: &&Target| {
            let reports: Vec<_> = self.cells(group).filter_map(|cell| cell.transfer_report(target)).collect();
            let scored = reports.first().map_or_else(|| target.set.name.clone(), label_of);
            let row = row(group, None, &reports);
            Row { trained_on: Some(row.dataset), dataset: scored, published: Vec::new(), ..row }
        };
        let transferred: Vec<_> = targets.iter().map(of_target).collect();
        states.into_iter().map(of_state).chain(transferred).collect()
    }

    fn machines(&self) -> Vec<String> {
        let reports = self.plan.cells.iter().filter_map(|cell| cell.report(None));
        let distinct: BTreeSet<String> = reports.map(|report| machine(&report)).collect();
        distinct.into_iter().collect()
    }
}

fn machine(report: &Report) -> String {
    let Report { device_name, device, versions, .. } = report;
    let threads = report.threads();
    format!("{device_name} ({device}), {threads}, empssl {}, libtorch {}", versions.empssl, versions.libtorch)
}

fn row(group: &Group, state: Option<u64>, reports: &[Report]) -> Row {
    let outline = &group.outline;
    let spread = |value: fn(&Report) -> Option<f64>| Spread::of(reports.iter().filter_map(value));
    let peak = |value: fn(&Report) -> Option<u64>| reports.iter().filter_map(value).max();
    let mut row = Row {
        dataset: label(&outline.dataset, &outline.data) + held_out(outline.evaluation.scored_on),
        trained_on: None,
        synthetic: outline.data.synthetic,
        recipe: group.recipe.clone(),
        changes: group.changes.clone(),
        epochs: outline.epochs(state),
        n_patches: outline.training.n_patches,
        test_patches: outline.evaluation.n_patches,
        wanted: group.cells.len(),
        n: reports.len(),
        scores: scores(reports),
        published: Vec::new(),
        train_seconds: spread(|report| Some(report.seconds.train)),
        evaluate_seconds: spread(|report| Some(report.seconds.evaluate)),
        patches_per_s: spread(|report| report.patches_per_s),
        peak_host: peak(|report| report.peak_bytes?.host),
        peak_device: peak(|report| report.peak_bytes?.device),
        train_joules: None,
        evaluate_joules: None,
        machine: reports.first().map(|report| format!("{}, {}", report.device_name, report.threads())),
    };
    row.published = beside(group, &row);
    row
}

/// The scores of which a run has one a network; few labels have one a share, and stand in the report of each run.
const SUMMARISED: [Probe; 3] = [Probe::Linear, Probe::Knn, Probe::LinearOptimum];

fn scores(reports: &[Report]) -> Vec<Score> {
    let pairs = Encoder::ALL.into_iter().flat_map(|encoder| SUMMARISED.map(|probe| (encoder, probe)));
    pairs
        .filter_map(|(encoder, probe)| {
            let top1 = Spread::of(reports.iter().filter_map(|report| Some(report.row(encoder, probe)?.top1)))?;
            Some(Score { encoder: encoder_key(encoder).to_owned(), probe: probe_key(probe).to_owned(), top1 })
        })
        .collect()
}

/// The published figures of this many epochs; a recipe that was changed has none, and none is of held-out images.
fn beside(group: &Group, row: &Row) -> Vec<Beside> {
    let same = |epochs: Option<f64>| epochs.is_some_and(|epochs| (epochs - row.epochs).abs() < 1e-9);
    let own = group.changes.is_empty() && group.outline.evaluation.scored_on == ScoredOn::Test;
    let published = group.outline.published.iter().filter(|figure| own && same(figure.epochs));
    published
        .map(|figure| Beside {
            probe: probe_key(figure.probe).to_owned(),
            top1: figure.top1,
            source: figure.source.clone(),
            note: figure.note.clone().filter(|note| !note.is_empty()),
            difference: row.score(Encoder::Trained, figure.probe).map(|ours| ours.mean - figure.top1),
        })
        .collect()
}

fn cell_report(cell: &Cell, folder: &Path) -> CellReport {
    let (state, report) = (cell.state(), cell.report(None));
    CellReport {
        name: cell.name.clone(),
        key: cell.key.clone(),
        seed: cell.seed,
        status: cell.shown_status(),
        error: state.error,
        starts: state.starts,
        resumes: state.resumes,
        folder: relative(&cell.folder, folder),
        missed: report.iter().flat_map(|report| &report.bars).filter_map(Bar::missed).collect(),
        command: report.map(|report| report.command),
    }
}

/// The way from the sweep's folder to the cell's: both are below the same one.
fn relative(cell: &Path, sweep: &Path) -> String {
    let root = sweep.parent().and_then(Path::parent);
    let below = root.and_then(|root| cell.strip_prefix(root).ok());
    below.map_or_else(|| cell.display().to_string(), |below| format!("../../{}", below.display()))
}

/// The set in words: in which form, and how much of it.
pub(crate) fn label(dataset: &str, data: &Data) -> String {
    label_from(dataset, &data.description, data.synthetic, data.partial_counts.as_ref())
}

/// The same of a report.
pub(crate) fn label_of(report: &Report) -> String {
    label_from(&report.dataset, &report.dataset_description, report.synthetic, report.partial_counts.as_ref())
        + held_out(report.scored_on())
}

/// What a label says of scores that are not of the test images.
fn held_out(scored_on: ScoredOn) -> &'static str {
    match scored_on {
        ScoredOn::Test => "",
        ScoredOn::HeldOut => ", scored on held-out training images",
    }
}

fn label_from(dataset: &str, description: &str, synthetic: bool, counts: Option<&PartialCounts>) -> String {
    let copied = dataset.starts_with("cifar") && description.contains("JPEG");
    let form = if copied { " (JPEG copy)" } else { "" };
    let generated = if synthetic { " (generated images)" } else { "" };
    let amount = counts.and_then(|counts| counts.train.as_ref()).map_or(String::new(), |train| {
        format!(", {} of {} training images", text::count(train.found), text::count(train.expected))
    });
    format!("{dataset}{generated}{form}{amount}")
}

/// The command as typed, for the report.
pub(crate) fn command_line(xtask: &str) -> String {
    let words = std::env::args().skip(1).map(|word| process::quoted(&word));
    std::iter::once(xtask.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0]).unwrap().std, None);
        let spread = Spread::of([1.0, 2.0, 6.0]).unwrap();
        assert_eq!((spread.mean, spread.std), (3.0, Some(7f64.sqrt())));
    }

    #[test]
    fn the_way_to_a_cell_leads_out_of_the_sweeps_folder() {
        let cell = Path::new("runs/cells/a");
        assert_eq!(relative(cell, Path::new("runs/sweeps/x")), "../../cells/a");
        assert_eq!(relative(cell, Path::new("/elsewhere/sweeps/x")), "runs/cells/a");
    }
}
