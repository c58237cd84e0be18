//! Tags: files by which Release Manager asks for packages to be sent at once.

use std::collections::BTreeSet;

use crate::name::{NameError, PackageId};
use crate::text::printable;

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
    /// A line of other than two words.
    #[error("line {line} is not NAME VERSION: \"{text}\"")]
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
}

/// Whether a file in the tag directory is none of ours, or not finished: so write-then-rename works.
pub fn is_ignored(file_name: &[u8]) -> bool {
    file_name.starts_with(b".") || file_name.ends_with(b".tmp")
}

/// The packages that a tag asks for: its name's when it is empty, else those of its lines.
pub fn parse(file_name: Option<&str>, content: &[u8]) -> Result<BTreeSet<PackageId>, TagError> {
    if content.is_empty() {
        let name = file_name.ok_or(TagError::NameNotText)?;
        return name.parse().map(|package| BTreeSet::from([package])).map_err(TagError::Name);
    }
    let mut packages = BTreeSet::new();
    for (index, bytes) in content.split(|b| *b == b'\n').enumerate() {
        let line = index + 1;
        let text = std::str::from_utf8(bytes).map_err(|_| TagError::NotText(line))?;
        let text = text.strip_suffix('\r').unwrap_or(text);
        let words: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
        match words[..] {
            [] => {}
            [name, version] => {
                packages.insert(PackageId::new(name, version).map_err(|error| TagError::Package { line, error })?);
            }
            _ => return Err(TagError::Words { line, text: printable(text) }),
        }
    }
    if packages.is_empty() { Err(TagError::Nothing) } else { Ok(packages) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packages(name: &str, content: &str) -> Vec<String> {
        let packages = parse(Some(name), content.as_bytes()).expect(content);
        packages.iter().map(PackageId::to_string).collect()
    }

    #[test]
    fn a_tag_names_its_package_or_lists_them() {
        assert_eq!(packages("core@1.2", ""), ["core@1.2"]);
        assert_eq!(packages("anything at all", "core 1.2\r\n\n tools\t1 \n"), ["core@1.2", "tools@1"]);
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
    }

    #[test]
    fn unfinished_files_are_left_alone() {
        assert!(is_ignored(b".core@1") && is_ignored(b"core@1.tmp") && !is_ignored(b"core@1"));
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(name in ".*", content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Some(&name), &content);
        }
    }
}
