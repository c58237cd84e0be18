//! What is wrong with a file: everything at once, each with its place.

use std::fmt;
use std::path::PathBuf;

use blat_domain::text::printable;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The file, relative to the home tree where it lies inside.
    pub path: PathBuf,
    /// Where in the file; none where the file as a whole is meant.
    pub place: Option<Place>,
    /// What is wrong, fit for printing.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
    /// The line it stands on, fit for printing.
    pub line_text: String,
}

/// A stretch of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters; at least 1.
    pub length: usize,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let path = printable(&self.path.display().to_string());
        match self.place {
            None => write!(f, "\n  --> {path}")?,
            Some(Place { line, column, length }) => {
                let number = line.to_string();
                let margin = " ".repeat(number.len());
                let before = " ".repeat(column.saturating_sub(1));
                let room = self.line_text.chars().count().saturating_sub(column - 1).max(1);
                let carets = "^".repeat(length.clamp(1, room));
                write!(f, "\n {margin}--> {path}:{line}:{column}")?;
                write!(f, "\n {margin} |\n {number} | {}\n {margin} | {before}{carets}", self.line_text)?;
            }
        }
        match &self.expected {
            Some(expected) => write!(f, "\n   = expected {expected}"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a configuration. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaints(Vec<Complaint>);

impl Complaints {
    /// None where there is nothing to complain about.
    pub(crate) fn of(mut list: Vec<Complaint>) -> Option<Self> {
        list.sort_by(|a, b| (&a.path, a.place).cmp(&(&b.path, b.place)));
        list.dedup();
        (!list.is_empty()).then_some(Self(list))
    }

    /// Each by itself, in the order of the file.
    pub fn list(&self) -> &[Complaint] {
        &self.0
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.0.iter().enumerate() {
            write!(f, "{}{complaint}", if index > 0 { "\n\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaints {}
