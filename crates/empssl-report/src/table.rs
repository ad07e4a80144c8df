//! Tables, whatever they are about and in whichever form they are rendered.

/// A table whose first column says what a row is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Heads of the columns; a table of names and values has empty ones.
    pub heads: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// The figure or word.
    pub text: String,
    /// Set apart from its neighbours.
    pub strong: bool,
    /// Beside or below it, in small letters.
    pub small: String,
    /// Where it leads, from the page's folder.
    pub link: Option<String>,
    /// A class of the style sheet, which gives a colour.
    pub class: &'static str,
    /// A line as long as so many percent of the column.
    pub bar: Option<f64>,
}

/// The head of a column, and its cell of an item.
pub type Column<'a, T> = (&'a str, &'a dyn Fn(&T) -> Cell);

impl Table {
    /// A row for each item.
    pub fn of<T>(items: impl IntoIterator<Item = T>, columns: &[Column<'_, T>]) -> Self {
        let row = |item: T| columns.iter().map(|(_, cell)| cell(&item)).collect();
        Self::new(&columns.iter().map(|(head, _)| *head).collect::<Vec<_>>(), items.into_iter().map(row).collect())
    }

    /// A table with these heads.
    pub fn new(heads: &[&str], rows: Vec<Vec<Cell>>) -> Self {
        Self { heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows }
    }

    /// Names and values.
    pub fn facts(facts: Vec<(&'static str, String)>) -> Self {
        Self::new(&["", ""], facts.into_iter().map(|(name, value)| vec![name.into(), value.into()]).collect())
    }

    /// Without the columns that are empty in every row.
    pub fn without_empty_columns(mut self) -> Self {
        let is_kept = |column: usize| self.rows.iter().any(|row| row[column] != Cell::default());
        let kept: Vec<bool> = (0..self.heads.len()).map(is_kept).collect();
        let mut column = kept.iter();
        self.heads.retain(|_| column.next() == Some(&true));
        for row in &mut self.rows {
            let mut column = kept.iter();
            row.retain(|_| column.next() == Some(&true));
        }
        self
    }
}

impl Cell {
    /// Set apart from its neighbours.
    pub fn strong(self) -> Self {
        Self { strong: true, ..self }
    }

    /// With small letters beside it.
    pub fn small(self, small: impl Into<String>) -> Self {
        Self { small: small.into(), ..self }
    }

    /// Leading somewhere.
    pub fn link(self, to: impl Into<String>) -> Self {
        Self { link: Some(to.into()), ..self }
    }

    /// In a colour of the style sheet.
    pub fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }

    /// Whether it is a figure, which stands to the right.
    pub(crate) fn is_figure(&self) -> bool {
        self.text.starts_with(|c: char| c.is_ascii_digit() || c == '\u{2212}')
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, ..Self::default() }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
