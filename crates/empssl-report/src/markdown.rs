//! A page as Markdown.

use crate::chart;
use crate::page::{Block, Page, Picture, Section};
use crate::table::{Cell, Table};

/// The page, with pictures by the names of their files.
pub fn render(page: &Page) -> String {
    let warnings: Vec<_> = page.warnings.iter().map(|text| format!("> **{}**\n", escape(text))).collect();
    let head = [format!("# {}\n", escape(&page.title)), warnings.join(">\n"), escape(&page.lead) + "\n"];
    let parts = head.into_iter().chain(page.sections.iter().map(section));
    parts.filter(|part| !part.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

fn section(section: &Section) -> String {
    // A table of the section says what its charts show.
    let has_table = section.blocks.iter().any(|block| matches!(block, Block::Table(_)));
    let shown = section.blocks.iter().filter(|block| !has_table || !matches!(block, Block::Charts(_)));
    let blocks = shown.map(block).collect::<Vec<_>>().join("\n");
    match section.folded {
        true => format!("<details><summary>{}</summary>\n\n{blocks}\n</details>\n", escape(&section.title)),
        false => format!("## {}\n\n{blocks}", escape(&section.title)),
    }
}

fn block(block: &Block) -> String {
    match block {
        Block::Note(text) => escape(text) + "\n",
        Block::Table(of) => table(of),
        Block::Charts(charts) => {
            let notes = charts.iter().filter(|chart| !chart.note.is_empty()).map(|chart| escape(&chart.note) + "\n");
            chart::samples(charts).iter().map(table).chain(notes).collect::<Vec<_>>().join("\n")
        }
        Block::Pictures(pictures) => {
            let picture = |picture: &Picture| format!("![{}]({})\n", picture.caption, picture.file);
            pictures.iter().map(picture).collect()
        }
        Block::Code(text) => format!("```\n{}\n```\n", text.trim_end()),
    }
}

/// The lines of a table, the two of its head first.
pub fn table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let heads = line(table.heads.iter().map(|head| escape(head)).collect());
    let rows = table.rows.iter().map(|row| line(row.iter().map(cell).collect()));
    format!("{heads}|{}\n{}", " --- |".repeat(table.heads.len()), rows.collect::<String>())
}

fn cell(cell: &Cell) -> String {
    let escaped = |text: &str| escape(text).replace('|', "\\|").replace('\n', " ");
    let text = escaped(&cell.text);
    let text = if cell.strong && !text.is_empty() { format!("**{text}**") } else { text };
    let text = cell.link.as_ref().map_or(text.clone(), |link| format!("[{text}]({link})"));
    let small = if cell.small.is_empty() { String::new() } else { format!(" ({})", escaped(&cell.small)) };
    (text + &small).trim().to_owned()
}

/// Keeps text from being read as markup or HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('*', "\\*").replace('_', "\\_").replace('`', "\\`")
}
