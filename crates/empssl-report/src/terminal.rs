//! What of a page is not folded, in a few aligned lines.

use crate::page::{Block, Page};
use crate::table::{Cell, Table};

/// Warnings, the sentence and the tables.
pub fn render(page: &Page) -> String {
    let warnings: String = page.warnings.iter().map(|warning| format!("! {warning}\n")).collect();
    let lead = if page.lead.is_empty() { String::new() } else { format!("{}\n", page.lead) };
    let shown = page.sections.iter().filter(|section| !section.folded);
    let tables = shown.flat_map(|section| section.blocks.iter()).filter_map(|block| match block {
        Block::Table(of) => Some(table(of)),
        _ => None,
    });
    [format!("{}\n{warnings}{lead}", page.title)].into_iter().chain(tables).collect::<Vec<_>>().join("\n")
}

/// Words to the left, figures to the right.
fn table(table: &Table) -> String {
    let heads: Vec<Cell> = table.heads.iter().map(|head| Cell::from(head.to_lowercase())).collect();
    let has_heads = table.heads.iter().any(|head| !head.is_empty());
    let lines: Vec<&Vec<Cell>> = has_heads.then_some(&heads).into_iter().chain(&table.rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].text.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.heads.len()).map(width).collect();
    let is_figure = |column: usize| table.rows.iter().any(|row| row[column].is_figure());
    let line = |line: &&Vec<Cell>| {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match is_figure(column) {
            true => format!("{:>width$}", cell.text),
            false => format!("{:<width$}", cell.text),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}
