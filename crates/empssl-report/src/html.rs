//! A page as HTML: nothing outside the file is asked for anything.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::page::{Block, Page, Picture, Section};
use crate::table::{Cell, Table};

const STYLE: &str = include_str!("style.css");

/// Forbids whatever the page does not need, requests to anywhere above all.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// One self-contained page, light and dark, for a desk and for a phone.
pub fn render(page: &Page) -> String {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (page.title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (page.title) }
                    @for warning in &page.warnings { p.warning role="note" { (warning) } }
                    p.lead { (page.lead) }
                    @for part in &page.sections { (section(part)) }
                }
            }
        }
    };
    markup.into_string() + "\n"
}

fn section(section: &Section) -> Markup {
    let blocks = html! { @for part in &section.blocks { (block(part)) } };
    html! {
        @if section.folded {
            details { summary { h2 { (section.title) } } (blocks) }
        } @else {
            section { h2 { (section.title) } (blocks) }
        }
    }
}

fn block(block: &Block) -> Markup {
    match block {
        Block::Note(text) => html! { p.note { (text) } },
        Block::Table(of) => table(of),
        Block::Charts(charts) => html! { div.charts { @for chart in charts { (chart.figure()) } } },
        Block::Pictures(pictures) => html! { div.charts { @for of in pictures { (picture(of)) } } },
        Block::Code(text) => html! { pre { (text) } },
    }
}

fn table(table: &Table) -> Markup {
    let is_right = |cell: &Cell| cell.is_figure() && cell.bar.is_none();
    let is_figure = |column: usize| table.rows.first().is_some_and(|row| is_right(&row[column]));
    html! {
        table {
            @if table.heads.iter().any(|head| !head.is_empty()) {
                thead { tr { @for (column, head) in table.heads.iter().enumerate() {
                    th.num[is_figure(column)] { (head) }
                } } }
            }
            tbody { @for row in &table.rows {
                tr { @for (of, head) in row.iter().zip(&table.heads) {
                    td.num[is_right(of)] data-name=(head) { (cell(of)) }
                } }
            } }
        }
    }
}

fn cell(cell: &Cell) -> Markup {
    let text = html! { @if cell.strong { b { (cell.text) } } @else { (cell.text) } };
    html! {
        @if !cell.class.is_empty() && cell.bar.is_none() { span.dot.(cell.class) {} }
        @match &cell.link {
            Some(link) => a href=(link) { (text) },
            None => (text),
        }
        @if !cell.small.is_empty() { small { (cell.small) } }
        @if let Some(bar) = cell.bar {
            i.bar.(cell.class) style={ "width:" (format!("{:.1}", bar.clamp(0.0, 100.0))) "%" } {}
        }
    }
}

/// As an image, within which nothing is markup of this page.
fn picture(picture: &Picture) -> Markup {
    let data = format!("data:{};base64,{}", picture.media, BASE64_STANDARD.encode(&picture.bytes));
    html! { figure { img alt=(picture.alt) src=(data); figcaption { (picture.caption) } } }
}
