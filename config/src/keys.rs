//! Reading keys: a target's own file first, then the master's defaults, with every complaint collected on the way.

use std::collections::BTreeSet;

use blat_domain::util::text::{nearest, printable};

use crate::complaint::{Complaint, Complaints, Place};
use crate::document::{Document, Key, Node, Value};

/// The keys of one mapping, possibly backed by another's.
pub(crate) struct Keys<'d> {
    layers: Vec<Layer<'d>>,
    asked: BTreeSet<&'static str>,
    /// Whether a file could not be read as keys: what seems to be missing may stand there.
    is_cut: bool,
    pub(crate) complaints: Vec<Complaint>,
}

struct Layer<'d> {
    document: &'d Document,
    entries: &'d [(Key, Node)],
}

/// A value that was found, and the file it stands in.
#[derive(Clone, Copy)]
pub(crate) struct Found<'d> {
    pub(crate) document: &'d Document,
    pub(crate) node: &'d Node,
}

/// What is wrong with a value, and what would be right.
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) expected: Option<&'static str>,
}

impl Wrong {
    /// Wrong in general: the value is shown, and what is expected.
    pub(crate) fn expected(what: &'static str) -> impl Fn(&str) -> Self {
        move |text| Self { message: format!("\"{}\" is not valid here", printable(text)), expected: Some(what) }
    }
}

impl<T: std::fmt::Display> From<T> for Wrong {
    fn from(error: T) -> Self {
        Self { message: error.to_string(), expected: None }
    }
}

impl<'d> Keys<'d> {
    /// No keys at all.
    pub(crate) fn new() -> Self {
        Self { layers: Vec::new(), asked: BTreeSet::new(), is_cut: false, complaints: Vec::new() }
    }

    /// Adds a mapping that is looked at after those added before. One without keys counts too: what is missing is missing there.
    pub(crate) fn add(&mut self, found: Found<'d>) {
        let Found { document, node } = found;
        match &node.value {
            Value::Map(entries) => self.layers.push(Layer { document, entries }),
            Value::Empty => self.layers.push(Layer { document, entries: &[] }),
            Value::Text(_) | Value::List(_) => {
                self.layers.push(Layer { document, entries: &[] });
                self.is_cut = true;
                let message = "this is not a mapping of keys to values".to_owned();
                let expected = Some("lines of the form KEY: VALUE".to_owned());
                self.complaints.push(document.complain(node.place, message, expected));
            }
        }
    }

    /// Whether a key may stand in a file that could not be read.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Notes that a file could not be read, which is complained about where it is wrong: nobody knows which keys it has.
    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// The value of a key; a key without a value counts as not given, and is complained about.
    pub(crate) fn find(&mut self, key: &'static str) -> Option<Found<'d>> {
        self.asked.insert(key);
        for Layer { document, entries } in &self.layers {
            let Some((key, node)) = entries.iter().find(|(candidate, _)| candidate.text == key) else { continue };
            if node.value != Value::Empty {
                return Some(Found { document, node });
            }
            let message = format!("{} has no value", key.text);
            self.complaints.push(document.complain(key.place, message, Some("a value, or no such line".into())));
        }
        None
    }

    /// A scalar, read by `read`; `default` where it is not given or not valid.
    pub(crate) fn value<T>(&mut self, key: &'static str, default: T, read: impl Fn(&str) -> Result<T, Wrong>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// A scalar, read by `read`; none where it is not given or not valid.
    pub(crate) fn optional<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let found = self.find(key)?;
        self.scalar(found, read)
    }

    /// As [`Keys::optional`], where a file without the key is wrong.
    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.has(key) {
            self.asked.insert(key);
            self.missing(key, expected);
        }
        self.optional(key, read)
    }

    /// The value of a key in the file that was added first, which the defaults do not count for.
    pub(crate) fn own(&mut self, key: &'static str) -> Option<Found<'d>> {
        self.asked.insert(key);
        let Layer { document, entries } = self.layers.first()?;
        let (_, node) = entries.iter().find(|(candidate, _)| candidate.text == key)?;
        Some(Found { document, node })
    }

    /// Whether the key is there, with a value or without.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.layers.iter().any(|layer| layer.entries.iter().any(|(candidate, _)| candidate.text == key))
    }

    /// Whether the key's value is just this text.
    pub(crate) fn is_text(&self, key: &str, expected: &str) -> bool {
        let mut entries = self.layers.iter().flat_map(|layer| layer.entries);
        let first = entries.find(|(candidate, node)| candidate.text == key && node.value != Value::Empty);
        first.is_some_and(|(_, node)| matches!(&node.value, Value::Text(text) if text == expected))
    }

    /// A found value as a scalar.
    pub(crate) fn scalar<T>(&mut self, found: Found<'d>, read: impl Fn(&str) -> Result<T, Wrong>) -> Option<T> {
        let Found { document, node } = found;
        let wrong = match &node.value {
            Value::Text(text) => match read(text) {
                Ok(value) => return Some(value),
                Err(wrong) => wrong,
            },
            Value::Empty => Wrong { message: "this has no value".into(), expected: Some("one value") },
            Value::List(_) => Wrong { message: "this is a list".into(), expected: Some("one value") },
            Value::Map(_) => Wrong { message: "this is a mapping".into(), expected: Some("one value") },
        };
        self.complaints.push(document.complain(node.place, wrong.message, wrong.expected.map(str::to_owned)));
        None
    }

    /// A list of scalars, or a single one.
    pub(crate) fn list<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, Wrong>) -> Vec<T> {
        match self.find(key) {
            Some(found) => self.scalars(found, read),
            None => Vec::new(),
        }
    }

    /// A found value as a list of scalars, or a single one.
    pub(crate) fn scalars<T>(&mut self, found: Found<'d>, read: impl Fn(&str) -> Result<T, Wrong>) -> Vec<T> {
        let Found { document, node } = found;
        match &node.value {
            Value::List(items) => {
                items.iter().filter_map(|item| self.scalar(Found { document, node: item }, &read)).collect()
            }
            Value::Text(_) | Value::Empty | Value::Map(_) => self.scalar(found, read).into_iter().collect(),
        }
    }

    /// Complains about the value of a key that was found before.
    pub(crate) fn complain_about(&mut self, found: Found<'d>, message: String, expected: Option<&str>) {
        self.complaints.push(found.document.complain(found.node.place, message, expected.map(str::to_owned)));
    }

    /// Complains that the first file lacks a key, unless the key may stand in a file that could not be read.
    pub(crate) fn missing(&mut self, key: &str, expected: &str) {
        if let Some(layer) = self.layers.first().filter(|_| !self.is_cut) {
            let message = format!("{key} is missing");
            let start = Place { line: 1, column: 1, length: 1 };
            self.complaints.push(layer.document.complain(start, message, Some(expected.to_owned())));
        }
    }

    /// Complains about keys that nobody asked for. `later` are keys meant to come that this version does not have,
    /// `elsewhere` says where a key belongs that is only in the wrong place.
    pub(crate) fn refuse_unknown(&mut self, later: &[&str], elsewhere: impl Fn(&str) -> Option<&'static str>) {
        for Layer { document, entries } in &self.layers {
            for (Key { text, place }, _) in entries.iter() {
                if self.asked.contains(text.as_str()) {
                    continue;
                }
                let message = if let Some(there) = elsewhere(text) {
                    format!("{text} belongs {there}")
                } else if later.contains(&text.as_str()) {
                    format!("{text} is not available yet")
                } else {
                    let known = self.asked.iter().chain(later).copied();
                    let near = nearest(text, known).map(|near| format!("; did you mean {near:?}?"));
                    format!("unknown key \"{}\"{}", printable(text), near.unwrap_or_default())
                };
                self.complaints.push(document.complain(*place, message, None));
            }
        }
    }

    /// All that was wrong, if anything.
    pub(crate) fn complaints(self) -> Option<Complaints> {
        Complaints::of(self.complaints)
    }
}
