//! Accuracy against what the features of a test image cost: for each way of looking at it, over so many patches.

use super::chart::{Chart, Line, Scale};
use super::html::{escape, figure};
use super::markdown;
use super::model::{Probe, Report, TestPoint, View};
use super::text;

/// What the tables and charts are about.
const NOTE: &str = "The trained encoder, its features averaged over so many patches of each image, in training and test \
    images alike; random patches are the first of one pass, fixed places a pass of their own. Time is for the features of \
    one test image on this machine.";

const HEADS: [&str; 5] = ["View", "Patches", "Linear probe", "Weighted kNN", "Time an image"];

/// The rows of the table: one for each view and number of patches.
fn rows(report: &Report) -> Vec<[String; 5]> {
    let points = &report.test_curve;
    let mut places: Vec<(View, u64)> = points.iter().map(|point| (point.view, point.n_patches)).collect();
    places.sort_unstable();
    places.dedup();
    let cells = places.into_iter().filter_map(|(view, n_patches)| {
        let at = |probe: Option<Probe>| {
            let same = |point: &&TestPoint| (point.view, point.n_patches) == (view, n_patches);
            points.iter().filter(same).find(|point| probe.is_none_or(|probe| point.probe == probe))
        };
        let percent = |probe| at(Some(probe)).map_or(String::new(), |point| text::percent(point.top1));
        let time = format!("{} ms", text::number(milliseconds(report, at(None)?)));
        let (linear, knn) = (percent(Probe::Linear), percent(Probe::Knn));
        Some([view.label().to_owned(), text::count(n_patches), linear, knn, time])
    });
    cells.collect()
}

/// What the features of one test image took.
fn milliseconds(report: &Report, point: &TestPoint) -> f64 {
    1e3 * point.seconds / report.labelled.n_test as f64
}

/// The section of report.md, empty without a curve.
pub(super) fn markdown(report: &Report) -> String {
    let rows = rows(report);
    if rows.is_empty() {
        return String::new();
    }
    let lines: String = rows.iter().map(|row| markdown::line(&row.each_ref().map(String::as_str))).collect();
    format!("{}{lines}\n{NOTE}\n", markdown::table(&HEADS))
}

/// The section of report.html, empty without a curve.
pub(super) fn html(report: &Report) -> String {
    let rows = rows(report);
    if rows.is_empty() {
        return String::new();
    }
    let figures = [Probe::Linear, Probe::Knn].into_iter().flat_map(|probe| {
        let by = |title: &str, x_label, x: &dyn Fn(&TestPoint) -> f64| {
            chart(report, probe, &format!("{}, {title}", capital(probe.label())), x_label, x)
        };
        [
            by("by patches", "patches of an image", &|point| point.n_patches as f64),
            by("by time", "milliseconds for the features of a test image", &|point| milliseconds(report, point)),
        ]
    });
    let figures: String = figures.flatten().collect();
    let figures = if figures.is_empty() { figures } else { format!("<div class=\"charts\">\n{figures}</div>\n") };
    format!("{figures}{}<p class=\"note\">{NOTE}</p>", table(&rows))
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The accuracies of a probe, one line for each view.
fn chart(report: &Report, probe: Probe, title: &str, x_label: &str, x: &dyn Fn(&TestPoint) -> f64) -> Option<String> {
    let points = |view: View| {
        let own = report.test_curve.iter().filter(|point| (point.view, point.probe) == (view, probe));
        let mut points: Vec<(f64, f64)> = own.map(|point| (x(point), point.top1)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let shown: Vec<_> =
        View::ALL.into_iter().map(|view| (view, points(view))).filter(|(_, own)| !own.is_empty()).collect();
    let legend: String = shown
        .iter()
        .map(|(view, _)| format!("<span><span class=\"dot {}\"></span>{}</span>", colour(*view), view.label()))
        .collect();
    let lines = shown.into_iter().map(|(view, points)| Line { class: colour(view), points }).collect();
    let chart = Chart { title, x_label, y_label: "test top-1, percent", x_scale: Scale::Doubling, lines };
    figure(&chart, &format!("<p class=\"legend\">{legend}</p>"))
}

/// The class of the style sheet that a view's colour hangs on.
fn colour(view: View) -> &'static str {
    match view {
        View::Published => "trained",
        View::Grid => "fixed",
        View::GridFlip => "untrained",
        View::Whole => "pixels",
    }
}

fn table(rows: &[[String; 5]]) -> String {
    let heads: String = HEADS.iter().enumerate().map(|(at, head)| format!("<th{}>{head}</th>", class(at))).collect();
    let line = |row: &[String; 5]| {
        let cells = row.iter().enumerate().map(|(at, cell)| format!("<td{}>{}</td>", class(at), escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let lines: String = rows.iter().map(line).collect();
    format!("<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>\n")
}

/// Figures stand to the right, words to the left.
fn class(column: usize) -> &'static str {
    if column == 0 { "" } else { " class=\"num\"" }
}
