//! report.html of a sweep: one self-contained page, light and dark, for a desk and for a phone.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::Status;
use super::measured::{CellReport, Row, SweepReport, TableReport, label};
use super::plan::{Group, Plan, TablePlan};
use super::tables::Table;
use super::words;
use crate::report::chart::{Chart, Line, Scale};
use crate::report::html::{self, escape};
use crate::report::model::{self, Encoder, Probe, TestPoint, View};

const STYLE: &str = concat!(include_str!("../report/style.css"), include_str!("style.css"));

/// Forbids whatever the page does not need, requests to anywhere above all.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// Colours of lines, by their classes in the style sheet; after the last the first comes again.
const COLOURS: [&str; 6] = ["line0", "line1", "line2", "line3", "line4", "line5"];

/// More charts of one kind than this hide what they show.
const MAX_CHARTS: usize = 12;

/// The page of a report; the plan says where the curves are.
pub(crate) fn render(report: &SweepReport, plan: &Plan) -> String {
    let title = escape(&report.title);
    let warnings: String = words::warnings(report)
        .iter()
        .map(|warning| format!("<p class=\"warning\" role=\"note\">{}</p>\n", escape(warning)))
        .collect();
    let tables: String = report.tables.iter().zip(&plan.tables).map(|(table, plan)| one_table(table, plan)).collect();
    let sections = [
        tables,
        section("Accuracy by test patches", charts(each_group(plan, by_test_patches))),
        section("Loss", charts(each_group(plan, loss))),
        section("Patches", patches(plan)),
        section("Cells", cells(&report.cells)),
        section("How it was made", facts(report)),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main class=\"wide\">\n<h1>{title}</h1>\n\
         {warnings}<p class=\"note\">{}</p>\n{}</main>\n</body>\n</html>\n",
        words::NOTE,
        sections.concat()
    )
}

/// A section, or nothing where there is nothing to say.
fn section(title: &str, body: String) -> String {
    if body.is_empty() { body } else { format!("<section>\n<h2>{}</h2>\n{body}\n</section>\n", escape(title)) }
}

fn one_table(table: &TableReport, plan: &TablePlan) -> String {
    let columns = Columns {
        published: table.rows.iter().any(|row| !row.published.is_empty()),
        energy: table.rows.iter().any(|row| words::energy(row).is_some()),
    };
    let heads = ["Data and recipe", "Epochs", "Patches", "Linear probe"].into_iter();
    let heads = heads.chain(columns.published.then_some("Published")).chain(["kNN", "Training", "Evaluation"]);
    let heads = heads.chain(["Patches/s", "Peak memory"]).chain(columns.energy.then_some("Energy")).chain(["Seeds"]);
    let heads: String = heads.map(|head| format!("<th>{head}</th>")).collect();
    let rows: String = table.rows.iter().map(|row| one_row(row, &columns)).collect();
    let curves = charts([by_epochs(table), by_patches(table, plan)].into_iter().flatten().collect());
    let body = format!(
        "<table class=\"sweep\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n{curves}"
    );
    section(&table.title, body)
}

/// Columns that a table has only where they would hold something.
struct Columns {
    published: bool,
    energy: bool,
}

fn one_row(row: &Row, columns: &Columns) -> String {
    let published: String = row
        .published
        .iter()
        .map(|beside| {
            let (figure, source) = words::published(beside);
            format!("<span class=\"figure\">{figure}<small>{}</small></span>", escape(&source))
        })
        .collect();
    let compared = |figures: [String; 2]| format!("<small>untrained {}, pixels {}</small>", figures[0], figures[1]);
    let others = [Encoder::Untrained, Encoder::Pixels];
    let linear = compared(others.map(|encoder| words::linear(row, encoder)));
    let knn = compared(others.map(|encoder| words::knn(row, encoder)));
    let cells = [
        format!(
            "<td class=\"name\"><b>{}</b><small>{}</small></td>",
            escape(&words::data(row)),
            escape(&words::recipe(row))
        ),
        cell("epochs", &words::epochs(row)),
        cell("patches, training / test", &words::patches(row)),
        cell("linear probe", &format!("<b>{}</b>{linear}", words::linear(row, Encoder::Trained))),
        if columns.published { cell("published (difference)", &published) } else { String::new() },
        cell("weighted kNN", &format!("{}{knn}", words::knn(row, Encoder::Trained))),
        cell("training", &words::seconds(row.train_seconds.as_ref())),
        cell("evaluation", &words::seconds(row.evaluate_seconds.as_ref())),
        cell("patches/s", &words::rate(row.patches_per_s.as_ref())),
        cell("peak memory", &words::memory(row)),
        if columns.energy { cell("energy", &words::energy(row).unwrap_or_default()) } else { String::new() },
        cell("seeds", &row.status()),
    ];
    format!("<tr>{}</tr>\n", cells.concat())
}

fn cell(name: &str, value: &str) -> String {
    format!("<td data-name=\"{name}\">{value}</td>")
}

/// A chart with the names of its lines.
struct Named<'a> {
    title: String,
    x_label: &'a str,
    y_label: &'a str,
    x_scale: Scale,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

fn charts(charts: Vec<Named<'_>>) -> String {
    let figures: String = charts.iter().filter_map(figure).collect();
    if figures.is_empty() { figures } else { format!("<div class=\"charts\">\n{figures}</div>") }
}

fn figure(named: &Named<'_>) -> Option<String> {
    let colour = |index: usize| COLOURS[index % COLOURS.len()];
    let lines = named.lines.iter().enumerate();
    let lines = lines.map(|(index, (_, points))| Line { class: colour(index), points: points.clone() }).collect();
    let Named { title, x_label, y_label, x_scale, .. } = named;
    let chart = Chart { title, x_label, y_label, x_scale: *x_scale, lines };
    let legend: String = named
        .lines
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("<span><span class=\"dot {}\"></span>{}</span>", colour(index), escape(name)))
        .collect();
    let (svg, title) = (chart.svg()?, escape(&named.title));
    Some(format!("<figure><h3>{title}</h3><p class=\"legend\">{legend}</p>{svg}</figure>\n"))
}

/// Accuracy over the epochs of recipes that keep states on the way.
fn by_epochs(table: &TableReport) -> Option<Named<'_>> {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for row in table.rows.iter().filter(|row| row.trained_on.is_none()) {
        let Some(top1) = row.score(Encoder::Trained, Probe::Linear) else { continue };
        let name = format!("{}, {}", row.dataset, words::recipe(row));
        match lines.iter_mut().find(|(known, _)| *known == name) {
            Some((_, points)) => points.push((row.epochs, top1.mean)),
            None => lines.push((name, vec![(row.epochs, top1.mean)])),
        }
    }
    lines.retain(|(_, points)| points.len() > 1);
    let title = "Linear probe by epochs".to_owned();
    let (x_label, y_label, x_scale) = ("epochs", "test top-1, percent", Scale::Even);
    (!lines.is_empty()).then_some(Named { title, x_label, y_label, x_scale, lines })
}

/// Accuracy over the number of patches, in the table that varies it.
fn by_patches<'a>(table: &TableReport, plan: &TablePlan) -> Option<Named<'a>> {
    let mut lines: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for row in table.rows.iter().filter(|_| plan.table == Some(Table::Patches)) {
        for (probe, name) in [(Probe::Linear, "linear probe"), (Probe::Knn, "kNN")] {
            let Some(top1) = row.score(Encoder::Trained, probe) else { continue };
            let (name, point) = (format!("{}, {name}", row.dataset), (row.n_patches as f64, top1.mean));
            match lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(point),
                None => lines.push((name, vec![point])),
            }
        }
    }
    let title = "Accuracy by patches an image".to_owned();
    let (x_label, y_label, x_scale) = ("patches an image in training", "test top-1, percent", Scale::Even);
    (!lines.is_empty()).then_some(Named { title, x_label, y_label, x_scale, lines })
}

/// A chart for every group of cells that has something to show, each once.
fn each_group(plan: &Plan, chart: fn(&Group, &Plan) -> Option<Named<'static>>) -> Vec<Named<'static>> {
    let mut seen: Vec<&[usize]> = Vec::new();
    let mut charts = Vec::new();
    for group in plan.tables.iter().flat_map(|table| &table.groups) {
        if seen.contains(&group.cells.as_slice()) || charts.len() == MAX_CHARTS {
            continue;
        }
        seen.push(&group.cells);
        charts.extend(chart(group, plan));
    }
    charts
}

/// The set of a group in words.
fn set(group: &Group) -> String {
    label(&group.outline.dataset, &group.outline.data)
}

/// Set, recipe and changes of a group.
fn title(group: &Group) -> String {
    format!("{}: {}", set(group), words::changed(&group.recipe, &group.changes))
}

/// The loss of every seed.
fn loss(group: &Group, plan: &Plan) -> Option<Named<'static>> {
    let line = |&index: &usize| {
        let cell = &plan.cells[index];
        (format!("seed {}", cell.seed), points(&cell.folder))
    };
    Some(Named {
        title: title(group),
        x_label: "training step",
        y_label: "total loss",
        x_scale: Scale::Even,
        lines: group.cells.iter().map(line).filter(|(_, points)| !points.is_empty()).collect(),
    })
}

/// Linear probe and kNN against the patches of a test image, of the first seed that is scored.
fn by_test_patches(group: &Group, plan: &Plan) -> Option<Named<'static>> {
    let report = group.cells.iter().find_map(|&index| plan.cells[index].report(None))?;
    let line = |probe: Probe| {
        let of_line = |point: &&TestPoint| (point.view, point.probe) == (View::Published, probe);
        let points = report.test_curve.iter().filter(of_line);
        (probe.label().to_owned(), points.map(|point| (point.n_patches as f64, point.top1)).collect::<Vec<_>>())
    };
    let lines: Vec<_> =
        [Probe::Linear, Probe::Knn].map(line).into_iter().filter(|(_, points)| points.len() > 1).collect();
    let (x_label, y_label, x_scale) = ("random patches of a test image", "test top-1, percent", Scale::Doubling);
    (!lines.is_empty()).then(|| Named { title: title(group), x_label, y_label, x_scale, lines })
}

/// What the network saw, once for every set.
fn patches(plan: &Plan) -> String {
    let mut seen: Vec<String> = Vec::new();
    let mut figures = String::new();
    for group in plan.tables.iter().flat_map(|table| &table.groups) {
        let set = set(group);
        let picture = || group.cells.iter().find_map(|&index| fs::read(plan.cells[index].join("patches.png")).ok());
        if let Some(png) = (!seen.contains(&set)).then(picture).flatten() {
            let _ = write!(figures, "<h3>{}</h3>\n{}", escape(&set), html::patches(&png));
            seen.push(set);
        }
    }
    figures
}

fn points(folder: &Path) -> Vec<(f64, f64)> {
    model::steps(folder).unwrap_or_default().iter().map(|step| (step.step, step.loss)).collect()
}

fn cells(cells: &[CellReport]) -> String {
    let items: String = cells.iter().map(one_cell).collect();
    format!("<ul class=\"cells\">\n{items}</ul>")
}

fn one_cell(cell: &CellReport) -> String {
    let folder = escape(&cell.folder);
    let name = match cell.status {
        Status::Done => format!("<a href=\"{folder}/report.html\">{}</a>", escape(&cell.name)),
        _ => escape(&cell.name),
    };
    let log = match cell.status {
        Status::New => String::new(),
        _ => format!(" <a href=\"{folder}/log.txt\">log</a>"),
    };
    let command = cell.command.as_ref().map_or(String::new(), |command| {
        format!("<details><summary>commands</summary><pre>{}</pre></details>", escape(&command.replace("; ", "\n")))
    });
    let class = match cell.status {
        Status::Done => "met",
        Status::Failed => "missed",
        _ => "",
    };
    format!("<li class=\"{class}\">{name}: <b>{}</b>{log}{command}</li>\n", escape(&words::cell(cell)))
}

fn facts(report: &SweepReport) -> String {
    let pairs = words::facts(report).into_iter();
    let pairs = pairs.map(|(name, value)| format!("<dt>{name}</dt><dd><code>{}</code></dd>\n", escape(&value)));
    format!("<dl>\n{}</dl>", pairs.collect::<String>())
}
