//! The sweep's report: rows of tables, each over the seeds of one state of one recipe, the cells behind them, and the
//! curves that lie in their folders.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use empssl_report::chart::{Chart, Line, Scale};
use empssl_report::metrics;
use empssl_report::outline::Outline;
use empssl_report::page::Picture;
use empssl_report::report::{Probe, RunReport, SCHEMA_VERSION, ScoredOn, View};
use empssl_report::run_page::{TOP1, missed, patches, threads};
use empssl_report::sweep::{Beside, CellReport, KIND, Spread, Status, SweepReport, SweepRow, SweepTable};
use empssl_report::sweep_page::{COLOURS, Curves, changed};
use empssl_report::words;

use super::plan::{Cell, Group, Plan, Target};
use crate::process;
use crate::reproduce::program::Program;

/// More charts of one kind than this hide what they show.
const MAX_CHARTS: usize = 12;

/// What is there now; `folder` is the sweep's.
pub(crate) fn report(plan: &Plan, title: &str, command: &str, program: &Program, folder: &Path) -> SweepReport {
    let tables = plan.tables.iter().map(|table| SweepTable {
        name: table.table.name(),
        title: table.table.title().to_owned(),
        rows: table.groups.iter().flat_map(|group| rows(plan, group)).collect(),
    });
    let cells: Vec<_> = plan.cells.iter().map(|cell| cell_report(cell, folder)).collect();
    let machines: BTreeSet<String> =
        plan.cells.iter().filter_map(|cell| cell.report(None)).map(|report| machine(&report)).collect();
    SweepReport {
        schema_version: SCHEMA_VERSION,
        kind: KIND.to_owned(),
        title: title.to_owned(),
        complete: cells.iter().all(|cell| cell.status == Status::Done),
        command: command.to_owned(),
        commit: program.commit.clone(),
        revision: program.revision.clone(),
        machines: machines.into_iter().collect(),
        tables: tables.collect(),
        cells,
    }
}

/// A row for each state, and for each set that the end is scored on besides.
fn rows(plan: &Plan, group: &Group) -> Vec<SweepRow> {
    let cells = || plan.cells_of(group);
    let of_state = |state: Option<u64>| {
        let reports: Vec<_> = cells().filter_map(|cell| cell.report(state)).collect();
        let mut row = row(group, state, &reports);
        if state.is_none() {
            let joules: Vec<_> = cells().map(|cell| cell.state().joules).collect();
            row.train_joules = Spread::of(joules.iter().filter_map(|joules| joules.train));
            row.evaluate_joules = Spread::of(joules.iter().filter_map(|joules| joules.evaluate));
        }
        row
    };
    let mut targets: Vec<&Target> = Vec::new();
    for target in cells().flat_map(|cell| &cell.targets) {
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    let of_target = |target: &&Target| {
        let reports: Vec<_> = cells().filter_map(|cell| cell.transfer_report(target)).collect();
        let scored = reports.first().map_or_else(|| target.set.name.clone(), |report| SweepRow::of_run(report).dataset);
        let row = row(group, None, &reports);
        SweepRow { trained_on: Some(row.dataset), dataset: scored, published: Vec::new(), ..row }
    };
    let transferred: Vec<_> = targets.iter().map(of_target).collect();
    group.outline.states().into_iter().map(of_state).chain(transferred).collect()
}

/// A state of a group; a recipe that was changed has no published figures, and none is of held-out images.
fn row(group: &Group, state: Option<u64>, reports: &[RunReport]) -> SweepRow {
    let outline = &group.outline;
    let row = SweepRow {
        dataset: label(outline) + outline.evaluation.scored_on.label(),
        synthetic: outline.data.synthetic,
        recipe: group.recipe.clone(),
        changes: group.changes.clone(),
        epochs: outline.epochs(state),
        n_patches: outline.training.n_patches as u64,
        test_patches: outline.evaluation.n_patches as u64,
        wanted: group.keys.len(),
        ..SweepRow::default()
    };
    let row = row.measured(reports);
    let is_cited = group.changes.is_empty() && outline.evaluation.scored_on == ScoredOn::Test;
    let own = outline.published.iter().filter(|figure| is_cited && (figure.epochs - row.epochs).abs() < 1e-9);
    let published = own.map(|figure| Beside::new(figure, &row)).collect();
    SweepRow { published, ..row }
}

/// The set of an outline in words.
pub(crate) fn label(outline: &Outline) -> String {
    let data = &outline.data;
    words::set(&outline.dataset, &data.description, data.synthetic, data.partial_counts.as_ref())
}

fn machine(report: &RunReport) -> String {
    let RunReport { device_name, device, versions, .. } = report;
    let threads = threads(report);
    format!("{device_name} ({device}), {threads}, empssl {}, libtorch {}", versions.empssl, versions.libtorch)
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
        missed: report.iter().flat_map(missed).collect(),
        command: report.map(|report| report.command),
    }
}

/// The way from the sweep's folder to the cell's: both are below the same one.
fn relative(cell: &Path, sweep: &Path) -> String {
    let root = sweep.parent().and_then(Path::parent);
    let below = root.and_then(|root| cell.strip_prefix(root).ok());
    below.map_or_else(|| cell.display().to_string(), |below| format!("../../{}", below.display()))
}

/// The command as typed, for the report.
pub(crate) fn command_line(xtask: &str) -> String {
    let words = std::env::args().skip(1).map(|word| process::quoted(&word));
    std::iter::once(xtask.to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// The charts and pictures of groups of cells, each group once.
pub(crate) fn curves(plan: &Plan) -> Curves {
    let mut curves = Curves::default();
    let (mut seen, mut sets): (Vec<&[String]>, Vec<&str>) = (Vec::new(), Vec::new());
    for group in plan.groups() {
        let cells = || plan.cells_of(group);
        if !seen.contains(&group.keys.as_slice()) && seen.len() < MAX_CHARTS {
            seen.push(&group.keys);
            let title = format!("{}: {}", label(&group.outline), changed(&group.recipe, &group.changes));
            curves.losses.push(losses(&title, cells()));
            let scored = cells().find_map(|cell| cell.report(None));
            curves.by_test_patches.extend(scored.map(|report| by_test_patches(&title, &report)));
        }
        let set = group.outline.dataset.as_str();
        if !sets.contains(&set)
            && let Some(png) = cells().find_map(|cell| fs::read(cell.join("patches.png")).ok())
        {
            sets.push(set);
            let picture = patches(png);
            curves.patches.push(Picture { caption: format!("{set}. {}", picture.caption), ..picture });
        }
    }
    curves
}

/// The loss of every seed.
fn losses<'a>(title: &str, cells: impl Iterator<Item = &'a Cell>) -> Chart {
    let lines = cells.zip(COLOURS.into_iter().cycle()).map(|(cell, class)| {
        let steps = metrics::steps(&cell.folder).unwrap_or_default();
        let points = steps.iter().map(|step| (step.step, step.loss)).collect();
        Line { name: format!("seed {}", cell.seed), class, points }
    });
    Chart::new(title, "training step", "total loss", lines)
}

/// Linear probe and kNN against the patches of a test image, of the first seed that is scored.
fn by_test_patches(title: &str, report: &RunReport) -> Chart {
    let line = |(probe, class): (Probe, &'static str)| {
        let points = report.test_curve.iter().filter(|point| (point.view, point.probe) == (View::Published, probe));
        let points = points.map(|point| (point.n_patches as f64, point.top1)).collect();
        Line { name: probe.label().to_owned(), class, points }
    };
    let lines = [(Probe::Linear, COLOURS[0]), (Probe::Knn, COLOURS[1])].map(line);
    Chart { x_scale: Scale::Doubling, ..Chart::new(title, "random patches of a test image", TOP1, lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_cell_leads_out_of_the_sweeps_folder() {
        let cell = Path::new("runs/cells/a");
        assert_eq!(relative(cell, Path::new("runs/sweeps/x")), "../../cells/a");
        assert_eq!(relative(cell, Path::new("/elsewhere/sweeps/x")), "runs/cells/a");
    }
}
