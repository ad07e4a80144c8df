//! A page of sections, whatever it is about and in whichever form it is rendered.

use crate::chart::Chart;
use crate::table::Table;

/// A page: the title, what must be known before any figure, one sentence, sections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The title.
    pub title: String,
    /// What a reader must know before any figure.
    pub warnings: Vec<String>,
    /// What the page comes to, in a sentence.
    pub lead: String,
    /// Sections in their order.
    pub sections: Vec<Section>,
}

/// A section; one without blocks is never shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Shown only on request, and never on the terminal.
    pub folded: bool,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A paragraph.
    Note(String),
    /// A table.
    Table(Table),
    /// Curves; in Markdown a table of some of their points, on the terminal nothing.
    Charts(Vec<Chart>),
    /// Pictures beside each other; on the terminal nothing.
    Pictures(Vec<Picture>),
    /// Text as it is, line by line.
    Code(String),
}

/// A picture in a file beside the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Its name.
    pub file: &'static str,
    /// `image/png` or `image/svg+xml`.
    pub media: &'static str,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// What a reader hears instead of seeing it.
    pub alt: &'static str,
    /// What stands below it.
    pub caption: String,
}

impl Page {
    /// Adds a section that has something to show.
    pub fn section(&mut self, title: &str, blocks: impl IntoIterator<Item = Block>) {
        self.add(title, false, blocks);
    }

    /// Adds a section that is shown only on request.
    pub fn folded(&mut self, title: &str, blocks: impl IntoIterator<Item = Block>) {
        self.add(title, true, blocks);
    }

    fn add(&mut self, title: &str, folded: bool, blocks: impl IntoIterator<Item = Block>) {
        let blocks: Vec<_> = blocks.into_iter().filter(|block| !block.is_empty()).collect();
        // A note explains what stands beside it and is nothing without.
        if blocks.iter().any(|block| !matches!(block, Block::Note(_))) {
            self.sections.push(Section { title: title.to_owned(), folded, blocks });
        }
    }
}

impl Block {
    fn is_empty(&self) -> bool {
        match self {
            Self::Note(text) | Self::Code(text) => text.is_empty(),
            Self::Table(table) => table.rows.is_empty(),
            Self::Charts(charts) => !charts.iter().any(Chart::has_lines),
            Self::Pictures(pictures) => pictures.is_empty(),
        }
    }
}
