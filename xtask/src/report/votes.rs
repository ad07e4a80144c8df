//! The neighbours' vote at every setting of the grid.

use super::html::escape;
use super::markdown;
use super::model::{Encoder, KnnPoint, Report};
use super::text;

/// What the table is about.
const NOTE: &str = "The trained encoder. Every setting is shown and none is chosen: choosing by the test images would \
    flatter it.";

/// The head and the rows: one for each metric and temperature, a column for each k.
fn table(report: &Report) -> Vec<Vec<String>> {
    let points: Vec<&KnnPoint> = report.knn_grid.iter().filter(|point| point.encoder == Encoder::Trained).collect();
    let mut ks: Vec<u64> = points.iter().map(|point| point.k).collect();
    ks.sort_unstable();
    ks.dedup();
    let mut table: Vec<Vec<String>> = Vec::new();
    for point in &points {
        let name = match point.temperature {
            Some(temperature) => format!("{}, T {}", point.metric, text::number(temperature)),
            None => point.metric.clone(),
        };
        if table.last().is_none_or(|row| row[0] != name) {
            table.push([vec![name], vec![String::new(); ks.len()]].concat());
        }
        let column = ks.iter().position(|&k| k == point.k);
        if let (Some(column), Some(row)) = (column, table.last_mut()) {
            row[column + 1] = text::percent(point.top1);
        }
    }
    if !table.is_empty() {
        table.insert(0, [vec!["Weighted kNN".to_owned()], ks.iter().map(|k| format!("k {k}")).collect()].concat());
    }
    table
}

/// The section of report.md, empty without a grid.
pub(super) fn markdown(report: &Report) -> String {
    let table = table(report);
    let Some((head, rows)) = table.split_first() else { return String::new() };
    let words = |row: &'_ Vec<String>| markdown::line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    let lines: String = rows.iter().map(words).collect();
    let head = markdown::table(&head.iter().map(String::as_str).collect::<Vec<_>>());
    format!("{head}{lines}\n{NOTE}\n")
}

/// The section of report.html, empty without a grid.
pub(super) fn html(report: &Report) -> String {
    let table = table(report);
    let Some((head, rows)) = table.split_first() else { return String::new() };
    let line = |row: &Vec<String>, tag: &str| {
        let class = |column: usize| if column == 0 { "" } else { " class=\"num\"" };
        let cells = row.iter().enumerate().map(|(at, cell)| format!("<{tag}{}>{}</{tag}>", class(at), escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = rows.iter().map(|row| line(row, "td")).collect();
    let head = line(head, "th");
    format!("<table>\n<thead>{head}</thead>\n<tbody>\n{rows}</tbody>\n</table>\n<p class=\"note\">{NOTE}</p>")
}
