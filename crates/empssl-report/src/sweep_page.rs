//! The page of a sweep: each table's accuracies beside published ones; costs, cells and machines folded away.

use crate::chart::{Chart, Line};
use crate::page::{Block, Page, Picture};
use crate::report::{Encoder, PeakBytes, Probe, RunReport};
use crate::run_page::TOP1;
use crate::sweep::{Beside, CellReport, ENOUGH_SEEDS, Score, Spread, Status, SweepReport, SweepRow, SweepTable};
use crate::table::{Cell, Column, Table};
use crate::words::{self, accuracy, count, decimals, duration, percent};

/// Under every table.
const NOTE: &str = "Top-1 in percent on the test images, all of them unless a row says which and how many, by the last epoch \
    of the probe: mean and standard deviation over n seeds. Published figures are of the full set; a row on a part of one, \
    or on a copy, does not compare with them strictly.";

/// Under every table of costs.
const COST_NOTE: &str = "Energy is that of the GPU, by the power its driver tells every half second.";

/// Colours of lines, by their classes in the style sheet; after the last the first comes again.
pub const COLOURS: [&str; 6] = ["line0", "line1", "line2", "line3", "line4", "line5"];

/// What a page shows besides the report, from the folders of its cells.
#[derive(Default)]
pub struct Curves {
    /// Of one seed of each group of cells.
    pub by_test_patches: Vec<Chart>,
    /// Of every seed of each group of cells.
    pub losses: Vec<Chart>,
    /// One for every set.
    pub patches: Vec<Picture>,
}

/// The page.
pub fn page(report: &SweepReport, curves: Curves) -> Page {
    let mut page = Page { title: report.title.clone(), warnings: warnings(report), ..Page::default() };
    page.lead = verdict(report);
    for table in &report.tables {
        let charts = [by_epochs(table), by_patches(table)].into_iter().flatten().collect();
        page.section(&table.title, [Block::Table(scores(table)), Block::Note(NOTE.to_owned()), Block::Charts(charts)]);
    }
    page.section("Patches", [Block::Pictures(curves.patches)]);
    for table in &report.tables {
        let title = format!("{}: time and memory", table.title);
        page.folded(&title, [Block::Table(costs(table)), Block::Note(COST_NOTE.to_owned())]);
    }
    page.folded("Accuracy by test patches", [Block::Charts(curves.by_test_patches)]);
    page.folded("Loss", [Block::Charts(curves.losses)]);
    let cells = Table::new(&["Cell", "State", "Log"], report.cells.iter().map(cell).collect());
    page.folded("Cells", [Block::Table(cells)]);
    page.folded("How it was made", [Block::Table(Table::facts(facts(report)))]);
    page
}

fn scores(table: &SweepTable) -> Table {
    let patches = |row: &SweepRow| format!("{} / {}", count(row.n_patches), count(row.test_patches));
    let columns: &[Column<'_, &SweepRow>] = &[
        ("Data", &|row| data(row).into()),
        ("Recipe", &|row| recipe(row).into()),
        ("Epochs", &|row| epochs(row).into()),
        ("Patches, training / test", &|row| patches(row).into()),
        ("Published (difference)", &|row| published(row)),
        ("Linear probe", &|row| compared(row, Probe::Linear)),
        ("Weighted kNN", &|row| compared(row, Probe::Knn)),
        ("Status", &|row| status(row).into()),
    ];
    Table::of(&table.rows, columns).without_empty_columns()
}

fn costs(table: &SweepTable) -> Table {
    let rate = |row: &SweepRow| row.patches_per_s.as_ref().map(|rate| words::number(rate.mean.round()));
    let columns: &[Column<'_, &SweepRow>] = &[
        ("Data", &|row| data(row).into()),
        ("Recipe", &|row| recipe(row).into()),
        ("Epochs", &|row| epochs(row).into()),
        ("Training", &|row| seconds(&row.train_seconds).into()),
        ("Evaluation", &|row| seconds(&row.evaluate_seconds).into()),
        ("Patches/s", &|row| rate(row).unwrap_or_else(|| words::NOTHING.to_owned()).into()),
        ("Peak memory", &|row| memory(row).into()),
        ("Energy", &|row| energy(row).into()),
    ];
    Table::of(&table.rows, columns).without_empty_columns()
}

fn seconds(spread: &Option<Spread>) -> String {
    spread.as_ref().map_or(words::NOTHING.to_owned(), |spread| duration(spread.mean))
}

fn memory(row: &SweepRow) -> String {
    words::peak(PeakBytes { host: row.peak_host, device: row.peak_device })
}

/// The table that a README shows: rows, where the report of each lies, and the claims that it missed.
pub fn summary<'a>(rows: impl IntoIterator<Item = (&'a SweepRow, String, &'a [String])>) -> Table {
    let missed = |missed: &[String]| missed.iter().map(|missed| format!("; missed {missed}")).collect::<String>();
    let recipe = |row: &SweepRow| format!("{}, {}", recipe(row), words::epochs(row.epochs));
    let columns: &[Column<'_, (&SweepRow, String, &[String])>] = &[
        ("data", &|(row, ..)| data(row).into()),
        ("recipe", &|(row, to, _)| Cell::from(recipe(row)).link(to)),
        ("published", &|(row, ..)| published(row).small("")),
        ("linear probe", &|(row, ..)| compared(row, Probe::Linear)),
        ("weighted kNN", &|(row, ..)| compared(row, Probe::Knn)),
        ("training", &|(row, ..)| seconds(&row.train_seconds).into()),
        ("evaluation", &|(row, ..)| seconds(&row.evaluate_seconds).into()),
        ("peak memory", &|(row, ..)| memory(row).into()),
        ("machine", &|(row, ..)| row.machine.clone().unwrap_or_default().into()),
        ("status", &|(row, _, claims)| (status(row) + &missed(claims)).into()),
    ];
    Table::of(rows, columns).without_empty_columns()
}

impl SweepRow {
    /// The row with what these runs measured, one a seed.
    pub fn measured(self, reports: &[RunReport]) -> Self {
        let spread = |value: fn(&RunReport) -> f64| Spread::of(reports.iter().map(value));
        let score = |(encoder, probe)| {
            let top1 = Spread::of(reports.iter().filter_map(|report| Some(report.row(encoder, probe)?.top1)))?;
            Some(Score { encoder, probe, top1 })
        };
        let pairs = Encoder::ALL.into_iter().flat_map(|encoder| SUMMARISED.map(|probe| (encoder, probe)));
        let machine = |report: &RunReport| format!("{}, {}", report.device_name, crate::run_page::threads(report));
        Self {
            n: reports.len(),
            scores: pairs.filter_map(score).collect(),
            train_seconds: spread(|report| report.seconds.train),
            evaluate_seconds: spread(|report| report.seconds.evaluate),
            patches_per_s: spread(|report| report.patches_per_s),
            peak_host: reports.iter().filter_map(|report| report.peak_bytes.host).max(),
            peak_device: reports.iter().filter_map(|report| report.peak_bytes.device).max(),
            machine: reports.first().map(machine),
            ..self
        }
    }

    /// A run alone, as a row of one seed.
    pub fn of_run(report: &RunReport) -> Self {
        let counts = report.partial_counts.as_ref();
        let row = Self {
            dataset: words::set(&report.dataset, &report.dataset_description, report.synthetic, counts)
                + report.scored_on().label(),
            trained_on: report.transfer.as_ref().map(|transfer| transfer.trained_on.clone()),
            synthetic: report.synthetic,
            recipe: report.recipe.clone(),
            epochs: report.model.epochs,
            n_patches: report.model.n_patches as u64,
            test_patches: report.model.test_patches as u64,
            wanted: 1,
            ..Self::default()
        };
        let row = row.measured(std::slice::from_ref(report));
        let published = report.published.iter().map(|figure| Beside::new(figure, &row)).collect();
        Self { published, ..row }
    }
}

/// The scores of which a run has one a network; few labels have one a share, and stand in the report of each run.
const SUMMARISED: [Probe; 3] = [Probe::Linear, Probe::Knn, Probe::LinearOptimum];

/// What was learnt from and scored.
fn data(row: &SweepRow) -> String {
    match &row.trained_on {
        Some(source) => format!("{source}, scored on {}", row.dataset),
        None => row.dataset.clone(),
    }
}

fn recipe(row: &SweepRow) -> String {
    changed(&row.recipe, &row.changes)
}

/// A recipe with its changes.
pub fn changed(recipe: &str, changes: &[String]) -> String {
    std::iter::once(recipe).chain(changes.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")
}

fn epochs(row: &SweepRow) -> String {
    decimals(row.epochs, usize::from(row.epochs.fract() != 0.0))
}

/// The trained encoder's accuracy, with what it has to beat.
fn compared(row: &SweepRow, probe: Probe) -> Cell {
    let [trained, untrained, pixels] = Encoder::ALL.map(|encoder| accuracy(row.score(encoder, probe)));
    Cell::from(trained).strong().small(format!("untrained {untrained}, pixels {pixels}"))
}

/// The published figures with the differences, and where they are from.
fn published(row: &SweepRow) -> Cell {
    let join = |words: fn(&Beside) -> String| row.published.iter().map(words).collect::<Vec<_>>().join("; ");
    Cell::from(join(figure)).small(join(|beside| match &beside.note {
        Some(note) => format!("{}; {note}", beside.source),
        None => beside.source.clone(),
    }))
}

fn figure(beside: &Beside) -> String {
    let signed = |points: f64| format!("{}{}", if points >= 0.05 { "+" } else { "" }, decimals(points, 1));
    let difference = beside.difference.map_or(String::new(), |points| format!(" ({})", signed(points)));
    format!("{}{difference}", percent(beside.top1))
}

/// How many seeds stand behind a row, and what that is worth.
pub fn status(row: &SweepRow) -> String {
    let n = match row.n {
        0 => return "not measured yet".to_owned(),
        n if n < row.wanted => format!("n = {n} of {}", row.wanted),
        n => format!("n = {n}"),
    };
    if row.n < ENOUGH_SEEDS { format!("{n}, preliminary") } else { n }
}

/// Joules of training and of evaluation, where the driver told.
fn energy(row: &SweepRow) -> String {
    let said = |spread: &Option<Spread>, what: &str| {
        spread.as_ref().map(|spread| format!("{} kJ {what}", decimals(spread.mean / 1000.0, 1)))
    };
    let parts = [said(&row.train_joules, "training"), said(&row.evaluate_joules, "evaluation")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The first row beside a published figure, or the first of all, in a sentence.
fn verdict(report: &SweepReport) -> String {
    let measured = || report.tables.iter().flat_map(|table| &table.rows).filter(|row| row.n > 0);
    let Some(row) = measured().find(|row| !row.published.is_empty()).or_else(|| measured().next()) else {
        return "No cell has scores yet.".to_owned();
    };
    let linear = row.published.iter().find(|beside| beside.probe == Probe::Linear);
    let published = linear.map_or(String::new(), |beside| format!("; published are {}", figure(beside)));
    format!(
        "The linear probe of {} on {} is right on {} of the test images after {} ({}){published}.",
        recipe(row),
        data(row),
        accuracy(row.score(Encoder::Trained, Probe::Linear)),
        words::epochs(row.epochs),
        status(row)
    )
}

/// What a reader must know before any figure.
fn warnings(report: &SweepReport) -> Vec<String> {
    let count = |status: Status| report.cells.iter().filter(|cell| cell.status == status).count();
    let (all, done, failed) = (report.cells.len(), count(Status::Done), count(Status::Failed));
    let unfinished = (done < all).then(|| {
        let failed = match failed {
            0 => String::new(),
            n => format!(", {n} failed and are tried again with --retry"),
        };
        format!("{done} of {all} cells are done{failed}: the same command goes on.")
    });
    let rows = || report.tables.iter().flat_map(|table| &table.rows);
    let synthetic = rows().any(|row| row.synthetic).then(|| {
        "Rows on generated images say nothing about real ones, and no published figure stands beside them.".to_owned()
    });
    let missed = report.cells.iter().filter(|cell| !cell.missed.is_empty());
    let missed = missed.map(|cell| format!("{} missed {}.", cell.name, cell.missed.join("; ")));
    [unfinished, synthetic].into_iter().flatten().chain(missed).collect()
}

fn cell(cell: &CellReport) -> Vec<Cell> {
    let times = |n: u32, once: &str| match n {
        0 => None,
        1 => Some(once.to_owned()),
        n => Some(format!("{once} {n} times")),
    };
    let parts = [times(cell.starts, "begun"), times(cell.resumes, "resumed"), cell.error.clone()];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let name = Cell::from(cell.name.as_str());
    let name = if cell.status == Status::Done { name.link(format!("{}/report.html", cell.folder)) } else { name };
    let log = Cell::from("log").link(format!("{}/log.txt", cell.folder));
    let log = if cell.status == Status::New { Cell::default() } else { log };
    vec![name, Cell::from(cell.status.label()).small(parts.join("; ")), log]
}

/// Machines, versions and commands, as pairs of a name and a value.
fn facts(report: &SweepReport) -> Vec<(&'static str, String)> {
    let machines = if report.machines.is_empty() { "none yet".to_owned() } else { report.machines.join("; ") };
    vec![
        ("Command", report.command.clone()),
        ("Machine", machines),
        ("Commit", report.commit.clone().unwrap_or_else(|| "not known".to_owned())),
        ("Sources", report.revision.clone()),
    ]
}

/// Accuracy over the epochs of recipes that keep states on the way.
fn by_epochs(table: &SweepTable) -> Option<Chart> {
    let rows = table.rows.iter().filter(|row| row.trained_on.is_none());
    let points = rows.filter_map(|row| {
        let top1 = row.score(Encoder::Trained, Probe::Linear)?.mean;
        Some((format!("{}, {}", row.dataset, recipe(row)), (row.epochs, top1)))
    });
    chart("Linear probe by epochs", "epochs", points)
}

/// Accuracy over the number of patches, in the table that varies it.
fn by_patches(table: &SweepTable) -> Option<Chart> {
    let rows = table.rows.iter().filter(|_| table.name == "patches");
    let points = rows.flat_map(|row| {
        [(Probe::Linear, "linear probe"), (Probe::Knn, "kNN")].into_iter().filter_map(move |(probe, name)| {
            let top1 = row.score(Encoder::Trained, probe)?.mean;
            Some((format!("{}, {name}", row.dataset), (row.n_patches as f64, top1)))
        })
    });
    chart("Accuracy by patches an image", "patches an image in training", points)
}

/// A chart of points by the names of their lines; a line has at least two.
fn chart(title: &str, x_label: &'static str, points: impl Iterator<Item = (String, (f64, f64))>) -> Option<Chart> {
    let mut lines: Vec<Line> = Vec::new();
    for (name, point) in points {
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { name, class: "", points: vec![point] }),
        }
    }
    lines.retain(|line| line.points.len() > 1);
    lines.iter_mut().zip(COLOURS.iter().cycle()).for_each(|(line, class)| line.class = class);
    (!lines.is_empty()).then(|| Chart::new(title, x_label, TOP1, lines))
}
