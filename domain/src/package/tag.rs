//! Tags: files by which Release Manager asks for packages to be sent at once.

use std::borrow::Cow;
use std::fmt;

use crate::package::name::{NameError, PackageId};
use crate::util::text::printable;

/// The most bytes a tag may hold.
pub const LONGEST: u64 = 1 << 20;
/// Where tags go that cannot be read as tags.
pub const BAD: &str = "bad";
/// Where tags go that can never succeed.
pub const FAILED: &str = "failed";

/// Why a file is not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Empty, so its name must say the package.
    #[error("an empty tag must be called NAME@VERSION: {0}")]
    Name(NameError),
    /// Empty, with a name that is not even text.
    #[error("an empty tag must be called NAME@VERSION: its name is not UTF-8")]
    NameNotText,
    /// Bytes that are not text.
    #[error("line {0} is not UTF-8 text")]
    NotText(usize),
    /// A line of neither two words nor one with an `@`.
    #[error("line {line} is not NAME VERSION or NAME@VERSION: \"{text}\"")]
    Words {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A line with a bad name.
    #[error("line {line}: {error}")]
    Package {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        error: NameError,
    },
    /// Nothing but empty lines.
    #[error("it names no package")]
    Nothing,
    /// More than [`LONGEST`] bytes.
    #[error("it is larger than {LONGEST} bytes; split it into several tags")]
    TooLarge,
}

/// The packages that a tag asks for, each once, sorted. They share one text, so that a tag of [`LONGEST`] bytes takes a few MiB of
/// memory and not a hundred.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Packages {
    text: Box<str>,
    entries: Box<[TagLine]>,
}

/// Where a package's two names stand in the text: the version follows the name at once.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TagLine {
    start: u32,
    name: u8,
    version: u8,
}

impl Packages {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none, which no tag is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One of them, counted from 0.
    pub fn get(&self, index: usize) -> Option<PackageId> {
        let (name, version) = words(&self.text, self.entries.get(index)?);
        Some(PackageId::checked_before(name, version))
    }

    /// Where this package stands among them.
    pub fn position(&self, package: &PackageId) -> Option<usize> {
        let wanted = (package.name.as_str(), package.version.as_str());
        self.entries.binary_search_by(|entry| words(&self.text, entry).cmp(&wanted)).ok()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = PackageId> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The memory that they take, in bytes.
    pub fn weight(&self) -> usize {
        self.text.len() + size_of_val(&*self.entries)
    }
}

impl fmt::Debug for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|package| package.to_string())).finish()
    }
}

impl FromIterator<PackageId> for Packages {
    fn from_iter<I: IntoIterator<Item = PackageId>>(packages: I) -> Self {
        let mut gathering = Gathering::default();
        packages.into_iter().for_each(|package| gathering.add(package.name.as_str(), package.version.as_str()));
        gathering.end()
    }
}

fn words<'a>(text: &'a str, entry: &TagLine) -> (&'a str, &'a str) {
    let start = entry.start as usize;
    let middle = start + usize::from(entry.name);
    (&text[start..middle], &text[middle..middle + usize::from(entry.version)])
}

/// Packages of a tag that is being read.
#[derive(Default)]
struct Gathering {
    text: String,
    entries: Vec<TagLine>,
}

impl Gathering {
    /// Adds two names that were checked, so that neither is longer than [`crate::package::name::LONGEST`].
    fn add(&mut self, name: &str, version: &str) {
        let start = u32::try_from(self.text.len());
        let lengths = (u8::try_from(name.len()), u8::try_from(version.len()));
        if let (Ok(start), (Ok(name_length), Ok(version_length))) = (start, lengths) {
            self.entries.push(TagLine { start, name: name_length, version: version_length });
            self.text.extend([name, version]);
        }
    }

    fn end(mut self) -> Packages {
        let text = self.text.into_boxed_str();
        self.entries.sort_unstable_by(|a, b| words(&text, a).cmp(&words(&text, b)));
        self.entries.dedup_by(|a, b| words(&text, a) == words(&text, b));
        Packages { text, entries: self.entries.into_boxed_slice() }
    }
}

/// The name of the empty file that asks for this package; none where that would be ignored, so that only a line in a
/// file of another name asks for it.
pub fn file_name(package: &PackageId) -> Option<String> {
    Some(package.to_string()).filter(|name| !is_ignored(name.as_bytes()))
}

/// A file by which the package is asked for: its content, which has a line end.
pub fn line(package: &PackageId) -> String {
    format!("{} {}\n", package.name, package.version)
}

/// Whether a file in the tag directory is none of ours, or not finished: so write-then-rename works.
pub fn is_ignored(file_name: &[u8]) -> bool {
    file_name.starts_with(b".") || file_name.ends_with(b".tmp")
}

/// The content of a tag in UTF-8, without the mark before it: some shells write UTF-16.
fn unmarked(content: &[u8]) -> Result<Cow<'_, [u8]>, TagError> {
    let (unit, units): (fn([u8; 2]) -> u16, _) = match content {
        [0xff, 0xfe, units @ ..] => (u16::from_le_bytes, units),
        [0xfe, 0xff, units @ ..] => (u16::from_be_bytes, units),
        [0xef, 0xbb, 0xbf, text @ ..] => return Ok(text.into()),
        text => return Ok(text.into()),
    };
    let (pairs, rest) = units.as_chunks::<2>();
    let mut text = String::with_capacity(pairs.len());
    for c in char::decode_utf16(pairs.iter().copied().map(unit)) {
        text.push(c.map_err(|_| TagError::NotText(1 + text.matches('\n').count()))?);
    }
    if !rest.is_empty() {
        return Err(TagError::NotText(1 + text.matches('\n').count()));
    }
    Ok(text.into_bytes().into())
}

/// The packages that a tag asks for: its name's when it is empty, else those of its lines. A byte order mark counts for nothing.
///
/// # Errors
/// What is wrong with it, for whoever dropped it.
pub fn parse(file_name: Option<&str>, content: &[u8]) -> Result<Packages, TagError> {
    if content.len() as u64 > LONGEST {
        return Err(TagError::TooLarge);
    }
    let content = &*unmarked(content)?;
    if content.is_empty() {
        let name = file_name.ok_or(TagError::NameNotText)?;
        return name.parse().map(|package: PackageId| Packages::from_iter([package])).map_err(TagError::Name);
    }
    let mut gathering = Gathering::default();
    for (index, bytes) in content.split(|b| *b == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(bytes).map_err(|_| TagError::NotText(line))?;
        // Files with marks may have been put together to one.
        let text = crate::util::text::unmarked(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
        let (name, version) = match (words.next(), words.next(), words.next()) {
            (None, ..) => continue,
            (Some(name), Some(version), None) => (name, version),
            (Some(word), None, None) if word.contains('@') => word.split_once('@').unwrap_or_default(),
            _ => return Err(TagError::Words { line, text: printable(text) }),
        };
        PackageId::new(name, version).map_err(|error| TagError::Package { line, error })?;
        gathering.add(name, version);
    }
    let packages = gathering.end();
    if packages.is_empty() { Err(TagError::Nothing) } else { Ok(packages) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packages(name: &str, content: &str) -> Vec<String> {
        let packages = parse(Some(name), content.as_bytes()).expect(content);
        packages.iter().map(|package| package.to_string()).collect()
    }

    #[test]
    fn a_tag_names_its_package_or_lists_them() {
        assert_eq!(packages("core@1.2", ""), ["core@1.2"]);
        assert_eq!(packages("anything at all", "core 1.2\r\n\n tools\t1 \n"), ["core@1.2", "tools@1"]);
    }

    #[test]
    fn lines_are_read_however_a_package_is_written() {
        let content = "core@1.2\ntools 1\r\n\tbase@3 \r\n";
        assert_eq!(packages("t", content), ["base@3", "core@1.2", "tools@1"]);
        for bad in ["@1", "core@", "core@1@2", "core@../1", "core@1 2", "core @1", "core@"] {
            assert!(parse(Some("t"), bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_byte_order_mark_counts_for_nothing() {
        assert_eq!(packages("t", "\u{feff}core 1.2\r\n\u{feff}tools@1\r\n"), ["core@1.2", "tools@1"]);
        assert_eq!(packages("core@1.2", "\u{feff}"), ["core@1.2"]);
        let units: Vec<u16> = "\u{feff}core 1.2\r\ntools@1\r\n".encode_utf16().collect();
        for bytes in
            [u16::to_le_bytes, u16::to_be_bytes].map(|bytes| units.iter().copied().flat_map(bytes).collect::<Vec<u8>>())
        {
            let read = parse(Some("t"), &bytes).expect("a tag in UTF-16");
            assert_eq!(read.iter().map(|package| package.to_string()).collect::<Vec<_>>(), ["core@1.2", "tools@1"]);
            assert_eq!(parse(Some("t"), &bytes[..bytes.len() - 1]), Err(TagError::NotText(2)));
        }
        assert_eq!(parse(Some("t"), b"\xff\xfea\0\n\0\0\xd8"), Err(TagError::NotText(2)));
    }

    #[test]
    fn packages_are_kept_once_sorted_and_in_little_memory() {
        let content: String = (0..87_000).map(|n| format!("p{n} 1.{}\n", n % 10)).collect();
        assert!(content.len() as u64 <= LONGEST);
        let packages = parse(Some("t"), (content.clone() + "p7 1.7\n").as_bytes()).expect("a tag");
        assert_eq!(packages.len(), 87_000);
        assert!(packages.weight() < 2 << 20, "{}", packages.weight());
        let all: Vec<PackageId> = packages.iter().collect();
        assert!(all.is_sorted());
        for index in [0, 1, 43_000, 86_999] {
            assert_eq!(packages.position(&all[index]), Some(index));
        }
        assert_eq!(packages.position(&"p7@1.8".parse().expect("a package")), None);
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        for (name, content, complaint) in [
            ("core", "", "an empty tag must be called NAME@VERSION"),
            ("..@1", "", "an empty tag must be called NAME@VERSION"),
            ("t", "core 1\n../x 1\n", "line 2: package name"),
            ("t", "core 1\ncore", "line 2 is not NAME VERSION"),
            ("t", "\n\n", "it names no package"),
            ("t", "core 1\0\n", "line 1: package version"),
        ] {
            let error = parse(Some(name), content.as_bytes()).expect_err(content).to_string();
            assert!(error.starts_with(complaint), "{error}");
        }
        assert_eq!(parse(Some("t"), b"a 1\n\xff"), Err(TagError::NotText(2)));
        assert_eq!(parse(None, b""), Err(TagError::NameNotText));
        assert_eq!(parse(Some("t"), &vec![b'x'; LONGEST as usize + 1]), Err(TagError::TooLarge));
    }

    #[test]
    fn unfinished_files_are_left_alone() {
        assert!(is_ignored(b".core@1") && is_ignored(b"core@1.tmp") && !is_ignored(b"core@1"));
    }

    #[test]
    fn a_package_whose_file_would_be_ignored_has_no_file_name_of_its_own() {
        let named = |name: &str, version: &str| file_name(&PackageId::new(name, version).expect("a package"));
        assert_eq!(named("core", "1.2").as_deref(), Some("core@1.2"));
        assert_eq!(named("core", "1.tmp"), None);
        assert!(named(&"n".repeat(128), &"1".repeat(112)).is_some_and(|name| name.len() < 255));
    }

    proptest! {
        #[test]
        fn every_package_can_be_asked_for(name in "[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}", version in "[A-Za-z0-9]([A-Za-z0-9._+~-]{0,111}|[.]tmp)") {
            let package = PackageId::new(&name, &version).expect("a legal package");
            let only = |packages: Packages| packages.iter().collect::<Vec<_>>() == [package.clone()];
            if let Some(file_name) = file_name(&package) {
                prop_assert!(!is_ignored(file_name.as_bytes()) && file_name.len() <= 255);
                prop_assert!(only(parse(Some(&file_name), b"").expect("a tag")));
            }
            prop_assert!(only(parse(Some("list"), line(&package).as_bytes()).expect("a tag")));
        }

        #[test]
        fn no_content_makes_it_panic(name in ".*", content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Some(&name), &content);
        }
    }
}
