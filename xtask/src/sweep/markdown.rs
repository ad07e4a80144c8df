//! report.md of a sweep.

use super::measured::{CellReport, Row, SweepReport, TableReport};
use super::words;
use crate::report::markdown::{escape, line, table};
use crate::report::model::Encoder;

const HEADS: [&str; 12] = [
    "Data",
    "Recipe",
    "Epochs",
    "Patches, training / test",
    "Linear probe",
    "Published (difference)",
    "Weighted kNN",
    "Training",
    "Evaluation",
    "Patches/s",
    "Peak memory",
    "Status",
];

pub(crate) fn render(report: &SweepReport) -> String {
    let warnings: Vec<_> = words::warnings(report).iter().map(|text| format!("> **{}**\n", escape(text))).collect();
    let tables: String = report.tables.iter().map(one_table).collect();
    let facts: String = words::facts(report).iter().map(|(name, value)| line(&[name, value])).collect();
    let cells: String = report.cells.iter().map(cell).collect();
    format!(
        "# {}\n\n{}\n{tables}{}\n\n## Cells\n\n{}{cells}\n## How it was made\n\n{}{facts}",
        escape(&report.title),
        warnings.join(">\n"),
        words::NOTE,
        table(&["Cell", "State", "Report"]),
        table(&["", ""]),
    )
}

fn one_table(report: &TableReport) -> String {
    let rows: String = report.rows.iter().map(row).collect();
    let sources: String = report.rows.iter().flat_map(sources).collect();
    format!("## {}\n\n{}{rows}\n{sources}\n", report.title, table(&HEADS))
}

fn row(row: &Row) -> String {
    let published: Vec<_> = row.published.iter().map(|beside| words::published(beside).0).collect();
    let energy = words::energy(row).map_or(String::new(), |energy| format!("; {energy}"));
    let cells = [
        words::data(row),
        words::recipe(row),
        words::epochs(row),
        words::patches(row),
        format!(
            "{} (untrained {}, pixels {})",
            words::linear(row, Encoder::Trained),
            words::linear(row, Encoder::Untrained),
            words::linear(row, Encoder::Pixels)
        ),
        published.join(", "),
        words::knn(row, Encoder::Trained),
        words::seconds(row.train_seconds.as_ref()),
        words::seconds(row.evaluate_seconds.as_ref()),
        words::rate(row.patches_per_s.as_ref()),
        words::memory(row) + &energy,
        row.status(),
    ];
    line(&cells.each_ref().map(String::as_str))
}

/// Where the published figures of a row are from.
fn sources(row: &Row) -> Vec<String> {
    let named = |beside| {
        let (figure, source) = words::published(beside);
        escape(&format!("{} after {} epochs, {figure}: {source}.", row.recipe, words::epochs(row)))
    };
    row.published.iter().map(|beside| format!("- {}\n", named(beside))).collect()
}

fn cell(cell: &CellReport) -> String {
    let page = match cell.status {
        super::Status::Done => format!("[report]({0}/report.md), [log]({0}/log.txt)", cell.folder),
        super::Status::New => String::new(),
        _ => format!("[log]({}/log.txt)", cell.folder),
    };
    // The links are ours; the rest is escaped by the line.
    format!("{} {page} |\n", line(&[&cell.name, &words::cell(cell)]).trim_end())
}
