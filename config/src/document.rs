//! A YAML file as a tree of texts with their places.
//!
//! Values keep the text as written: a version `1.10` must not become the number 1.1, nor a name `no` a falsehood.
//! Files are bounded before they are parsed, and the parser's budget stops alias bombs and endless nesting.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use blat_domain::util::text::printable;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::budget::BudgetBreach;
use serde_yaml::{DuplicateKeyPolicy, Error, Location, NonFiniteFloatPolicy, Options, Spanned};

use crate::complaint::{Complaint, Place, without_words};
use crate::home::Home;
use crate::trust::{self, Distrust};

/// The most a config file may hold, in bytes.
const LARGEST: u64 = 1 << 20;
/// The deepest nesting any key needs, with room to spare.
const DEEPEST: usize = 32;
/// So many lines above one are looked at for the key that it is below: no command has more arguments.
const MOST_ARGUMENTS: usize = 100;

/// One file.
#[derive(Debug)]
pub(crate) struct Document {
    path: PathBuf,
    text: String,
    /// Where each line begins, in bytes: a file that is wrong in every line must not be searched for each.
    line_starts: Vec<usize>,
    pub(crate) root: Node,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// What YAML can say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Nothing.
    Empty,
    /// A scalar, as written.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) place: Place,
}

impl Document {
    /// Reads and parses a file. None where there is no such file.
    pub(crate) fn load(home: &Home, path: &Path, complaints: &mut Vec<Complaint>) -> Option<Self> {
        let shown = home.shown(path).to_owned();
        match trust::read(home.root(), path, LARGEST) {
            Ok(text) => Self::parse(shown, text, complaints),
            Err(error) if error.is_absence() => None,
            Err(Distrust::Io(error)) => {
                complaints.push(Complaint::unread(shown, &error));
                None
            }
            Err(error @ Distrust::OpenToOthers { .. }) => {
                complaints.push(Complaint::whole(shown, error.to_string()));
                None
            }
        }
    }

    /// Parses text. What can be read although something is wrong is read, so that everything wrong is told at once.
    pub(crate) fn parse(path: PathBuf, text: String, complaints: &mut Vec<Complaint>) -> Option<Self> {
        let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut document = Self { path, text, line_starts, root: Node { value: Value::Empty, place: START } };
        let parsed = match parse(&document.text, DuplicateKeyPolicy::Error) {
            Ok(parsed) => parsed,
            Err(error) => {
                complaints.push(document.syntax(&error));
                // A key given twice hides nothing else: the rest can be checked all the same.
                parse(&document.text, DuplicateKeyPolicy::LastWins).ok()?
            }
        };
        document.root = parsed.map(|parsed| document.node(parsed)).unwrap_or(document.root);
        document.complain_of_twins(&document.root, complaints);
        Some(document)
    }

    /// A complaint about a place in this file.
    pub(crate) fn complain(&self, place: Place, message: String, expected: Option<String>) -> Complaint {
        let line = self.line(place.line);
        // What a command's arguments mean is its own matter, and may be secret. What stands for a URL may be anything.
        let hidden = self.is_in_command(place.line).then(|| without_words(line));
        Complaint::at(self.path.clone(), place, hidden.as_deref().unwrap_or(line), message, expected)
    }

    /// Whether a line is one of those below the key `command`, or below that of a database's URL.
    fn is_in_command(&self, number: usize) -> bool {
        let indent = |line: &str| line.len() - line.trim_start().len();
        let line = self.line(number);
        // The items of a list may stand as far to the left as its key.
        let (mut least, mut is_item) = (indent(line), line.trim_start().starts_with('-'));
        for above in (1..number).rev().take(MOST_ARGUMENTS).map(|number| self.line(number)) {
            let said = above.trim_start();
            let is_key = indent(above) < least || is_item && indent(above) == least && !said.starts_with('-');
            if !is_key || said.is_empty() || said.starts_with('#') {
                continue;
            }
            if ["command", "postgres:", "mysql:"].iter().any(|key| said.contains(key)) {
                return true;
            }
            (least, is_item) = (indent(above), false);
            if least == 0 {
                return false;
            }
        }
        false
    }

    /// The text of a line, counted from 1; empty where the file has no such line.
    fn line(&self, number: usize) -> &str {
        let start = number.checked_sub(1).and_then(|index| self.line_starts.get(index));
        let rest = start.and_then(|start| self.text.get(*start..)).unwrap_or_default();
        rest.lines().next().unwrap_or_default()
    }

    /// Whether it has no key at all: nothing, comments alone, `{}`.
    pub(crate) fn says_nothing(&self) -> bool {
        match &self.root.value {
            Value::Empty => true,
            Value::Map(entries) => entries.is_empty(),
            Value::Text(_) | Value::List(_) => false,
        }
    }

    /// Complains about each key that its mapping has given before. The parser tells the first at most.
    fn complain_of_twins(&self, node: &Node, complaints: &mut Vec<Complaint>) {
        match &node.value {
            Value::Empty | Value::Text(_) => {}
            Value::List(items) => items.iter().for_each(|item| self.complain_of_twins(item, complaints)),
            Value::Map(entries) => {
                let mut seen = HashSet::new();
                for (key, value) in entries {
                    if !seen.insert(key.text.as_str()) {
                        complaints.push(self.complain(key.place, twin(&key.text), None));
                    }
                    self.complain_of_twins(value, complaints);
                }
            }
        }
    }

    fn syntax(&self, error: &serde_yaml::Error) -> Complaint {
        let error = error.without_snippet();
        let Some(location) = error.location() else {
            return Complaint::whole(self.path.clone(), wording(error, "config"));
        };
        let mut place = place(location, 1);
        // What is missing at the end of a file is told where its last line is.
        place.line = place.line.min(self.text.lines().count().max(1));
        let mut message = wording(error, "config");
        if let Error::DuplicateMappingKey { key: Some(key), .. } = error {
            place.length = key.chars().count().max(1);
        }
        if self.line(place.line).trim_start_matches(' ').starts_with('\t') {
            message.push_str("; YAML is indented by spaces, never by tabs");
        }
        self.complain(place, message, None)
    }

    fn node(&self, parsed: Spanned<Raw>) -> Node {
        let Spanned { value, referenced, defined } = parsed;
        let span = defined.span();
        let written = span.byte_offset().zip(span.byte_len()).and_then(|(from, length)| {
            let from = usize::try_from(from).ok()?;
            self.text.get(from..from + usize::try_from(length).ok()?)
        });
        let value = match value {
            Raw::Empty => Value::Empty,
            Raw::Plain(read) => Value::Text(written.map_or(read, |text| text.trim().to_owned())),
            Raw::Text(text) => Value::Text(text),
            Raw::List(items) => Value::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => {
                let entry = |(key, value): (Spanned<String>, Spanned<Raw>)| {
                    let length = key.value.chars().count();
                    (Key { place: place(key.referenced, length), text: key.value }, self.node(value))
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
        };
        let length = written.and_then(|text| text.lines().next()).map_or(1, |line| line.trim_end().chars().count());
        Node { value, place: place(referenced, length) }
    }
}

fn twin(key: &str) -> String {
    format!("the key {} is given twice", printable(key))
}

/// What a parser error means to somebody who edits a config: the place is told by the complaint itself, and the parser's
/// own words where they speak of its interface are replaced. `what` is the kind of file.
pub(crate) fn wording(error: &Error, what: &str) -> String {
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => twin(key),
        Error::DuplicateMappingKey { key: None, .. } => "a key is given twice".to_owned(),
        // The depth is that of the first level too many.
        Error::Budget { breach: BudgetBreach::Depth { depth }, .. } => {
            format!("nested deeper than {} levels", depth.saturating_sub(1))
        }
        Error::MultipleDocuments { .. } => format!("a second document begins here: a {what} is one document"),
        Error::BinaryNotUtf8 { .. } => "a value with the tag !!binary is no text: write it as text".to_owned(),
        Error::NullIntoString { .. } => "a key without text: quote it where it is meant".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an alias inside of what it stands for".to_owned(),
        // The parser's list is open, and grows with its versions.
        other => {
            let message = other.to_string();
            // A breach inside of an alias comes wrapped in the alias's own error.
            if message.contains("budget breached") {
                return format!("far more values than any {what} needs, once its aliases are followed");
            }
            let end = message.find(" at line ").or_else(|| message.find(" at byte ")).unwrap_or(message.len());
            printable(message[..end].trim_end_matches([':', ' ', ',']))
        }
    }
}

const START: Place = Place { line: 1, column: 1, length: 1 };

fn place(location: Location, length: usize) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    Place { line: number(location.line()), column: number(location.column()), length: length.max(1) }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Option<Spanned<Raw>>, Box<serde_yaml::Error>> {
    let mut options = Options::default();
    (options.duplicate_keys, options.with_snippet) = (duplicate_keys, false);
    // A tag that means nothing to us is refused, not ignored; a number is read from its text, whatever its value.
    options.reject_unsupported_tags = true;
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = DEEPEST;
        budget.max_nodes = 100_000;
        budget.max_aliases = 1_000;
    }
    serde_yaml::from_str_with_options(text, options).map_err(Box::new)
}

/// What the parser hands over.
#[derive(Debug)]
enum Raw {
    Empty,
    /// A scalar that YAML takes for something other than text; what it was read as serves where its source is not known.
    Plain(String),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Empty)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Plain(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_text(text: &str) -> (Option<Node>, Vec<Complaint>) {
        let mut complaints = Vec::new();
        let document = Document::parse("x.conf".into(), text.to_owned(), &mut complaints);
        (document.map(|document| document.root), complaints)
    }

    fn scalars(text: &str) -> Vec<String> {
        let (root, complaints) = read_text(text);
        assert_eq!(complaints, []);
        match root.expect("a document").value {
            Value::Map(entries) => entries
                .into_iter()
                .map(|(_, node)| match node.value {
                    Value::Text(text) => text,
                    other @ (Value::Empty | Value::List(_) | Value::Map(_)) => format!("{other:?}"),
                })
                .collect(),
            other @ (Value::Empty | Value::List(_) | Value::Text(_)) => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn scalars_stay_as_they_are_written() {
        let text = "a: 1.10\nb: no\nc: 012\nd: 1e3\ne: 0x10 # a comment\nf: '5'\ng: 2026-01-01\nh: \"x\\ty\"\n";
        assert_eq!(scalars(text), ["1.10", "no", "012", "1e3", "0x10", "5", "2026-01-01", "x\ty"]);
    }

    #[test]
    fn arguments_of_a_command_are_never_shown() {
        for text in [
            "release_manager:\n  command:\n    - /bin/x\n    # of ours\n\n    - !odd hemlig\n",
            "release_manager:\n  command:\n  - /bin/x\n  - \"hemlig \\q\"\n",
            "release_manager: {command: [/bin/x,\n  \"hemlig \\q\"]}\n",
            "release_manager: {command: [/bin/x, hemlig, \"\\q\"]}\n",
        ] {
            let (_, complaints) = read_text(text);
            assert!(!complaints.is_empty(), "{text}");
            for complaint in complaints {
                assert!(!complaint.to_string().contains("hemlig"), "{complaint}");
            }
        }
        let (_, complaints) = read_text("release_manager:\n  command: x\nprojects:\n- a\n- \"shown \\q\"\n");
        assert!(complaints[0].to_string().contains("shown"), "{complaints:?}");
    }

    #[test]
    fn places_are_those_of_the_file() {
        let (root, _) = read_text("# first\na:\n  - x\n  - 1.50\n");
        let Value::Map(entries) = root.expect("a document").value else { panic!("a map") };
        assert_eq!(entries[0].0.place, Place { line: 2, column: 1, length: 1 });
        let Value::List(items) = &entries[0].1.value else { panic!("a list") };
        assert_eq!(items[1].place, Place { line: 4, column: 5, length: 4 });
    }

    #[test]
    fn a_bomb_of_aliases_and_endless_nesting_are_refused() {
        let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 0..12 {
            let (from, to) = (char::from(b'a' + n), char::from(b'b' + n));
            bomb.push_str(&format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(", ")));
        }
        assert_eq!(read_text(&bomb).1.len(), 1);
        assert_eq!(read_text(&"[".repeat(10_000)).1.len(), 1);
        assert_eq!(read_text(&format!("a: {}1{}", "[".repeat(1000), "]".repeat(1000))).1.len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s).{0,300}") {
            read_text(&text);
        }

        #[test]
        fn no_near_yaml_makes_it_panic(text in "[-:a-c0-9 \\n\\t\\[\\]{}&*#'\"|>!%@,.?]{0,200}") {
            read_text(&text);
        }
    }
}
