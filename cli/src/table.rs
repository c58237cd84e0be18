//! Aligned tables: columns as wide as they must be, cut where the terminal is narrower, notes indented below their row.
//!
//! Text that comes in here is fit for printing already.

use crate::style::{Style, Tone};

/// What separates two columns.
const GAP: usize = 2;
/// No column is cut to fewer columns than this.
const NARROWEST: usize = 6;
/// How far notes are indented.
const INDENT: &str = "    ";

/// One field of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A field in a tone.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// One row with what is said below it.
#[derive(Debug, Clone)]
struct Row<const COLUMNS: usize> {
    cells: [Cell; COLUMNS],
    notes: Vec<String>,
}

/// A table as it is drawn.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    /// The line above all rows.
    pub(crate) heading: String,
    /// What stands below it.
    pub(crate) rows: Vec<DrawnRow>,
}

/// One row as it is drawn.
#[derive(Debug, Clone)]
pub(crate) struct DrawnRow {
    /// Its fields.
    pub(crate) line: String,
    /// What is said below it, in lines that fit.
    pub(crate) notes: Vec<String>,
}

impl Drawn {
    /// How many lines it takes.
    pub(crate) fn height(&self) -> usize {
        1 + self.rows.iter().map(|row| 1 + row.notes.len()).sum::<usize>()
    }

    /// All of it.
    pub(crate) fn into_lines(self) -> Vec<String> {
        let rows = self.rows.into_iter().flat_map(|row| [row.line].into_iter().chain(row.notes));
        [self.heading].into_iter().chain(rows).collect()
    }
}

/// A table of so many columns, of which the first is never cut.
#[derive(Debug, Clone)]
pub(crate) struct Table<const COLUMNS: usize> {
    headings: [&'static str; COLUMNS],
    rows: Vec<Row<COLUMNS>>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// An empty table.
    pub(crate) fn new(headings: [&'static str; COLUMNS]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row, and lines to stand below it.
    pub(crate) fn row(&mut self, cells: [Cell; COLUMNS], notes: Vec<String>) {
        self.rows.push(Row { cells, notes });
    }

    /// The table as lines, each with its line end.
    pub(crate) fn render(&self, style: Style) -> String {
        self.draw(style).into_lines().into_iter().map(|line| line + "\n").collect()
    }

    /// The table as lines that still are of a row.
    pub(crate) fn draw(&self, style: Style) -> Drawn {
        let widths = self.widths(style.width);
        let headings = self.headings.map(|heading| Cell::toned(heading, Tone::Faint));
        let room = style.width.map(|width| width.saturating_sub(INDENT.len()));
        let rows = self.rows.iter().map(|row| DrawnRow {
            line: line(&row.cells, &widths, style),
            notes: row.notes.iter().flat_map(|note| wrap(note, room)).map(|part| format!("{INDENT}{part}")).collect(),
        });
        Drawn { heading: line(&headings, &widths, style), rows: rows.collect() }
    }

    /// As wide as each column's longest text; where that is more than there is, the widest are cut first.
    fn widths(&self, room: Option<usize>) -> [usize; COLUMNS] {
        let mut widths = self.headings.map(length);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(length(&cell.text));
            }
        }
        let Some(room) = room else { return widths };
        let total = |widths: &[usize; COLUMNS]| widths.iter().sum::<usize>() + GAP * COLUMNS.saturating_sub(1);
        while total(&widths) > room {
            let widest = widths.iter_mut().skip(1).max_by_key(|width| **width).filter(|width| **width > NARROWEST);
            match widest {
                Some(width) => *width -= 1,
                None => break,
            }
        }
        widths
    }
}

/// One line, without blanks and line end.
fn line(cells: &[Cell], widths: &[usize], style: Style) -> String {
    let mut line = String::new();
    let mut pending = 0;
    for (cell, width) in cells.iter().zip(widths) {
        let text = cut(&cell.text, *width);
        if !text.is_empty() {
            line.extend(std::iter::repeat_n(' ', pending));
            line += &style.paint(cell.tone, &text);
            pending = 0;
        }
        pending += width - length(&text) + GAP;
    }
    line
}

/// How many columns a text takes: all that is shown here is one column a character, near enough.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// `text`, or its beginning and an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `text` in lines of at most `room` columns, broken at blanks. A line that is indented already keeps its form: it is a
/// snippet whose marks would no longer stand below what they mark.
pub(crate) fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room.filter(|_| !text.starts_with(' ')) else { return vec![text.to_owned()] };
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table<3> {
        let mut table = Table::new(["TARGET", "STATE", "CURRENT"]);
        table.row(["perth".into(), "sending".into(), "core_devl@2.1.0.cr 45%".into()], vec![]);
        table.row(["a-long-name".into(), "idle".into(), "".into()], vec!["one two three four".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_end() {
        let expected = "\
TARGET       STATE    CURRENT
perth        sending  core_devl@2.1.0.cr 45%
a-long-name  idle
    one two three four
";
        assert_eq!(sample().render(Style::default()), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column_and_wraps_notes() {
        let style = Style { width: Some(32), ..Style::default() };
        let expected = "\
TARGET       STATE    CURRENT
perth        sending  core_devl…
a-long-name  idle
    one two three four
";
        assert_eq!(sample().render(style), expected);
        let narrow = sample().render(Style { width: Some(14), ..Style::default() });
        assert!(narrow.contains("a-long-name") && narrow.contains("    one two\n    three four\n"), "{narrow}");
    }

    #[test]
    fn colours_do_not_disturb_the_alignment() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::toned("x", Tone::Bad), "y".into()], vec![]);
        let style = Style { colours: true, ..Style::default() };
        assert_eq!(table.render(style), "\u{1b}[2mA\u{1b}[0m  \u{1b}[2mB\u{1b}[0m\n\u{1b}[31mx\u{1b}[0m  y\n");
    }

    #[test]
    fn snippets_keep_their_form() {
        assert_eq!(wrap("   | ^ here", Some(4)), ["   | ^ here"]);
    }
}
