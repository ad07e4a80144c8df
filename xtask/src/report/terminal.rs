//! The report in a few lines, for the terminal.

use super::model::{Report, Row};
use super::text;

/// Warnings, verdict, the table of rows and the bars.
pub(crate) fn terminal(report: &Report) -> String {
    let warnings: String = text::warnings(report).iter().map(|warning| format!("! {warning}\n")).collect();
    let bars: String = report.bars.iter().map(bar).collect();
    let parts = [format!("{}\n{warnings}{}\n", report.title, text::verdict(report)), table(report), bars];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn bar(bar: &super::model::Bar) -> String {
    let word = if bar.holds { "met    " } else { "NOT MET" };
    format!("{word}  {}: {}, {}\n", bar.what, bar.found(), bar.bound())
}

fn table(report: &Report) -> String {
    let mut rows: Vec<_> = report.rows.iter().collect();
    rows.sort_by_key(|row| (row.probe, row.encoder));
    let head = ["encoder", "probe", "top-1", "top-5", "labelled", "test", "time"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.into_iter().map(cells)).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0));
    lines.iter().map(|line| aligned(line, &widths)).collect()
}

fn cells(row: &Row) -> [String; 7] {
    [
        row.encoder.label().to_owned(),
        row.probe.label().to_owned(),
        text::percent(row.top1),
        row.top5.map_or("-".to_owned(), text::percent),
        text::count(row.n_train),
        text::count(row.n_test),
        row.seconds.map_or("-".to_owned(), text::duration),
    ]
}

/// Words to the left, figures to the right.
fn aligned(line: &[String; 7], widths: &[usize; 7]) -> String {
    let columns = line.iter().zip(widths).enumerate();
    let padded =
        columns.map(|(i, (cell, &width))| if i < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") });
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
}
