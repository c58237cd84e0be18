//! What a value of Release Manager's means, whichever source gives it: the one place where rows are judged.
//!
//! Nothing is guessed. A number that may have lost what somebody wrote (a version `1.10` kept as the number 1.1) is no version, and
//! `01` is no second way to write the id 1. Such a row is odd: nobody acts on it, and it holds back those whom it may concern. What no
//! two values differ in counts for nothing: blanks at the end, with which columns are filled up, and capitals in words of ours.

use super::{About, OddRow, Release, ReleaseState};
use crate::package::name::PackageId;
use crate::util::text::{composed, printable};

/// What a value that must be text is instead, and what to do about it.
const AS_TEXT: &str = "expected text: a number or a date may differ from what was written; store it as text";

/// One value, as its source gives it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cell {
    /// NULL, or not given at all.
    #[default]
    Missing,
    /// Text, exactly as it was written.
    Text(String),
    /// A number of an exact type, in its plain decimal form.
    Number(String),
    /// A truth value.
    Flag(bool),
    /// A value of a type that nothing here can be, or one that cannot be read.
    Other {
        /// What it is, with its article: `a floating-point number`.
        kind: String,
        /// How it looks.
        shown: String,
    },
}

impl Cell {
    /// A value that is of no use, named.
    pub fn other(kind: impl Into<String>, shown: impl Into<String>) -> Self {
        Self::Other { kind: kind.into(), shown: shown.into() }
    }

    /// An id. Ids of different types are the same where their text is: the number 1 and the text `1`, but not `01` or `1.0`.
    ///
    /// # Errors
    /// What it is instead, as the rest of a sentence that begins with the column.
    pub fn id(&self) -> Result<i64, String> {
        match self {
            Self::Missing => Err("is missing".into()),
            Self::Text(text) | Self::Number(text) => match text.trim().parse::<i64>() {
                Ok(id) if id.to_string() == text.trim_end_matches(' ') => Ok(id),
                Ok(id) => Err(format!("is {self}; write it as {id}, so that it cannot be taken for another id")),
                Err(_) => Err(format!("is {self}, which is no whole number")),
            },
            Self::Flag(_) | Self::Other { .. } => Err(format!("is {self}; expected a whole number")),
        }
    }

    /// The id that was probably meant, where [`Self::id`] finds none.
    fn probable_id(&self) -> Option<i64> {
        let (Self::Text(text) | Self::Number(text) | Self::Other { shown: text, .. }) = self else { return None };
        let text = text.trim();
        let whole = text
            .split_once('.')
            .map_or(text, |(whole, rest)| if rest.bytes().all(|digit| digit == b'0') { whole } else { text });
        whole.parse().ok()
    }

    /// A name, in the one form that names are compared in.
    ///
    /// # Errors
    /// What it is instead, as the rest of a sentence that begins with the column.
    pub fn name(self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(composed(text)),
            Self::Missing => Err("is missing".into()),
            Self::Number(_) | Self::Flag(_) | Self::Other { .. } => Err(format!("is {self}; {AS_TEXT}")),
        }
    }

    fn state(&self) -> Result<ReleaseState, String> {
        let word = if let Self::Text(text) = self { word(text) } else { String::new() };
        match word.as_str() {
            "open" => Ok(ReleaseState::Open),
            "restricted" => Ok(ReleaseState::Restricted),
            "closed" => Ok(ReleaseState::Closed),
            _ => Err(format!("is {self}; expected open, restricted or closed")),
        }
    }

    /// Whether a release is for buckets as well. What is not said is not meant.
    fn flag(&self) -> Result<bool, String> {
        match self {
            Self::Missing => Ok(false),
            Self::Flag(flag) => Ok(*flag),
            Self::Text(text) | Self::Number(text) => match word(text).as_str() {
                "1" | "t" | "true" | "y" | "yes" | "on" => Ok(true),
                "0" | "f" | "false" | "n" | "no" | "off" => Ok(false),
                _ => Err(format!("is {self}; expected 0 or 1")),
            },
            Self::Other { .. } => Err(format!("is {self}; expected 0 or 1")),
        }
    }
}

/// One of the words that a column may have, as it is compared.
fn word(text: &str) -> String {
    text.trim_end_matches(' ').to_ascii_lowercase()
}

/// Fit for printing, and short.
impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Text(text) => write!(f, "\"{}\"", printable(text)),
            Self::Number(text) => write!(f, "the number {}", printable(text)),
            Self::Flag(flag) => write!(f, "the truth value {flag}"),
            Self::Other { kind, shown } if shown.is_empty() => f.write_str(kind),
            Self::Other { kind, shown } => write!(f, "{kind} ({})", printable(shown)),
        }
    }
}

/// How a source calls the columns of a release.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Its number.
    pub id: &'static str,
    /// Its name.
    pub name: &'static str,
}

impl Columns {
    /// In the documented schema.
    pub const TABLE: Self = Self { id: "release_id", name: "release_name" };
    /// In the documented file.
    pub const FILE: Self = Self { id: "id", name: "name" };
}

/// What a source says about one release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReleaseRow {
    /// Its number.
    pub id: Cell,
    /// Its name.
    pub name: Cell,
    /// Whether it is open, restricted or closed.
    pub state: Cell,
    /// Whether it is for buckets as well.
    pub s3sync: Cell,
}

impl ReleaseRow {
    /// The release, without its packages. `of` are the names of its project, or why nobody can say which project it is of.
    ///
    /// # Errors
    /// The odd row that it is, which concerns all that the row does say.
    pub fn read(self, columns: Columns, of: Result<&[String], String>) -> Result<Release, OddRow> {
        let about = About::Named {
            id: self.id.id().ok().or_else(|| self.id.probable_id()),
            names: self.name.clone().name().into_iter().collect(),
            projects: of.as_deref().unwrap_or_default().to_vec(),
        };
        let subject = self.subject();
        self.judge(columns, of).map_err(|why| {
            // It does not say which release it is: that may be one of other projects too, or one that is selected by its number.
            let may_be_any = matches!(&about, About::Named { id: None, names, .. } if names.is_empty());
            OddRow::invalid(if may_be_any { About::Anything } else { about }, format!("{subject}: {why}"))
        })
    }

    fn judge(self, columns: Columns, of: Result<&[String], String>) -> Result<Release, String> {
        let Columns { id: id_column, name: name_column } = columns;
        of?;
        Ok(Release {
            id: self.id.id().map_err(|why| format!("its {id_column} {why}"))?,
            name: self.name.name().map_err(|why| format!("its {name_column} {why}"))?,
            state: self.state.state().map_err(|why| format!("its state {why}"))?,
            s3sync: self.s3sync.flag().map_err(|why| format!("its s3sync {why}"))?,
            packages: Vec::new(),
        })
    }

    /// The row as messages name it.
    fn subject(&self) -> String {
        let name = match &self.name {
            Cell::Text(name) => format!("release \"{}\"", printable(name)),
            _ => "release without a valid name".to_owned(),
        };
        self.id.id().map_or(name.clone(), |id| format!("{name} ({id})"))
    }
}

/// A package of the release `of`, which has this number, from the two values that a row has for it.
///
/// # Errors
/// The odd row that it is.
pub fn package(name: Cell, version: Cell, id: i64, of: &str) -> Result<PackageId, OddRow> {
    let read = || {
        let name = name.name().map_err(|why| format!("a package's name {why}"))?;
        let version =
            version.name().map_err(|why| format!("the version of the package \"{}\" {why}", printable(&name)))?;
        PackageId::new(&name, &version).map_err(|error| error.to_string())
    };
    read().map_err(|why| odd_package(id, of, &why))
}

/// Something wrong with a package of the release `of`, which has this number.
pub fn odd_package(id: i64, of: &str, why: &str) -> OddRow {
    OddRow::invalid(About::PackagesOf(id), format!("release {} ({id}): {why}", printable(of)))
}

/// A package whose row names no release by its id. It concerns the release that was probably meant, else whoever wants anything.
pub fn stray_package(release: &Cell, name: &Cell, why: &str) -> OddRow {
    let about = release.probable_id().map_or(About::Anything, About::PackagesOf);
    OddRow::invalid(about, format!("package {name}: its release_id {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    fn number(text: &str) -> Cell {
        Cell::Number(text.to_owned())
    }

    #[test]
    fn an_id_is_the_same_in_every_type_that_writes_it_alike_and_no_other() {
        for good in [text("1"), number("1"), text("1  ")] {
            assert_eq!(good.id(), Ok(1));
        }
        for odd in ["01", "+1", "-0", " 1", "1\n", "1\u{a0}", "1.0", "1e0", "0x1", "1_0", "", "99999999999999999999"] {
            assert!(text(odd).id().is_err() && number(odd).id().is_err(), "{odd}");
        }
        for odd in [Cell::Missing, Cell::Flag(true), Cell::other("a value of type REAL", "1")] {
            assert!(odd.id().is_err(), "{odd}");
        }
        assert!(text("01").id().expect_err("odd").contains("write it as 1"));
    }

    #[test]
    fn columns_are_read_as_databases_fill_them_up_and_in_any_case() {
        let row = |name: &str, state: &str, s3sync: Cell| {
            let row = ReleaseRow { id: text("7   "), name: text(name), state: text(state), s3sync };
            row.read(Columns::TABLE, Ok(&[])).expect("a good row")
        };
        for (state, read) in [
            ("OPEN", ReleaseState::Open),
            ("Closed    ", ReleaseState::Closed),
            ("restricted ", ReleaseState::Restricted),
        ] {
            assert_eq!(row("R", state, Cell::Missing).state, read);
        }
        for (yes, no) in [("1", "0"), ("T", "F"), ("true", "FALSE"), ("Y ", "N "), ("Yes", "no"), ("on", "off")] {
            assert!(row("R", "open", text(yes)).s3sync && !row("R", "open", text(no)).s3sync, "{yes} {no}");
        }
        assert!(row("R", "open", Cell::Flag(true)).s3sync && !row("R", "open", Cell::Missing).s3sync);
        assert_eq!(row("Perth 7.1   ", "open", number("0")).name, "Perth 7.1");
        assert_eq!(package(text("core   "), text("1.10 "), 7, "R").expect("good").to_string(), "core@1.10");
        assert!(
            package(text("co re"), text("1"), 7, "R").is_err() && package(text("core"), text("   "), 7, "R").is_err()
        );
    }

    #[test]
    fn a_number_or_a_date_is_no_name_and_no_version() {
        for odd in [
            number("1.1"),
            number("7"),
            Cell::Flag(true),
            Cell::Missing,
            Cell::other("a value of type DATE", "2026-01-02"),
        ] {
            let row = package(text("core"), odd.clone(), 4, "R").expect_err("odd");
            assert_eq!(row.about, About::PackagesOf(4));
            assert!(row.text.contains("core") && row.text.contains(&odd.to_string()), "{}", row.text);
            assert!(package(odd, text("1.10"), 4, "R").is_err());
        }
        assert_eq!(package(text("core"), text("1.10"), 4, "R").expect("good").to_string(), "core@1.10");
    }

    #[test]
    fn an_odd_package_concerns_the_release_that_was_probably_meant() {
        for (id, about) in [
            (text("01"), About::PackagesOf(1)),
            (text(" 1"), About::PackagesOf(1)),
            (number("1.00"), About::PackagesOf(1)),
            (Cell::other("a value of type REAL", "1.0"), About::PackagesOf(1)),
            (text("1.5"), About::Anything),
            (text("l0"), About::Anything),
            (Cell::Missing, About::Anything),
        ] {
            assert_eq!(stray_package(&id, &text("a"), "is odd").about, about, "{id}");
        }
    }

    #[test]
    fn an_odd_release_concerns_those_who_select_what_it_does_say() {
        let row = |id, name, state| ReleaseRow { id, name, state, s3sync: Cell::Missing };
        let perth = ["Perth".to_owned()];
        let read = |row: ReleaseRow, of| row.read(Columns::TABLE, of).map_err(|odd| odd.about);
        let named = |id, names: &[&str], projects: &[&str]| About::Named {
            id,
            names: names.iter().map(ToString::to_string).collect(),
            projects: projects.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(read(row(number("1"), text("R"), text("open")), Ok(&perth)).map(|release| release.id), Ok(1));
        for (state, of, about) in [
            (text("opened"), Ok(&perth[..]), named(Some(1), &["R"], &["Perth"])),
            (Cell::Missing, Ok(&perth[..]), named(Some(1), &["R"], &["Perth"])),
            (text("open"), Err("nobody knows".to_owned()), named(Some(1), &["R"], &[])),
        ] {
            assert_eq!(read(row(text("1"), text("R"), state), of), Err(about));
        }
        assert_eq!(
            read(row(text("01"), number("7.1"), text("open")), Ok(&perth)),
            Err(named(Some(1), &[], &["Perth"]))
        );
        for of in [Ok(&perth[..]), Err("none".to_owned())] {
            assert_eq!(read(row(Cell::Missing, Cell::Missing, text("open")), of), Err(About::Anything));
        }
    }

    #[test]
    fn what_a_stranger_wrote_is_shown_cut_and_escaped() {
        let shown = text(&"\u{1b}".repeat(100_000)).to_string();
        assert!(!shown.contains('\u{1b}') && shown.len() < 2_000, "{}", shown.len());
    }
}
