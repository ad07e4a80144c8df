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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The report of the hand-made run, with these votes.
    fn report(votes: Value) -> Report {
        let mut report: Value = serde_json::from_str(include_str!("../../fixtures/run/report.json")).unwrap();
        report["knn_grid"] = votes;
        serde_json::from_value(report).unwrap()
    }

    fn vote(encoder: &str, metric: &str, temperature: Option<f64>, k: u64, top1: f64) -> Value {
        json!({ "encoder": encoder, "metric": metric, "temperature": temperature, "k": k, "top1": top1, "top5": 90.0 })
    }

    #[test]
    fn a_row_holds_the_ks_of_one_metric_and_temperature_in_their_order() {
        let report = report(json!([
            vote("trained", "cosine", Some(0.07), 20, 48.26),
            vote("trained", "cosine", Some(0.07), 5, 47.0),
            vote("trained", "cosine", Some(0.2), 20, 46.5),
            vote("untrained", "cosine", Some(0.07), 20, 11.0),
            vote("trained", "euclidean", None, 5, 45.0),
        ]));
        let expected = [
            ["Weighted kNN", "k 5", "k 20"],
            ["cosine, T 0.070", "47.0 %", "48.3 %"],
            ["cosine, T 0.200", "", "46.5 %"],
            ["euclidean", "45.0 %", ""],
        ];
        assert_eq!(table(&report), expected);
        let markdown = markdown(&report);
        assert!(markdown.contains("| cosine, T 0.200 |  | 46.5 % |") && markdown.contains(NOTE), "{markdown}");
        let html = html(&report);
        assert_eq!((html.matches("<tr>").count(), html.matches("class=\"num\"").count()), (4, 8));
        assert!(!html.contains("11.0 %"), "the untrained encoder's votes are not shown");
    }

    #[test]
    fn nothing_is_said_without_votes() {
        assert_eq!([markdown(&report(json!([]))), html(&report(json!([])))], ["", ""]);
    }
}
