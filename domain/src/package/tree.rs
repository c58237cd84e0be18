//! Tree files: what a package holds beside the bytes of its files, a line for each entry, so that `blat verify` sees links, modes, directories and
//! entries that changed. One lies beside each manifest, which stays what `sha256sum -c` reads.
//!
//! A line is `WHAT<tab>PATH`. WHAT is `dir MODE`, `file MODE` or `link TEXT`; the package's root is the directory `.`. In texts and paths a
//! backslash, a line end, a carriage return and a tab are written `\\`, `\n`, `\r` and `\t`. The order of the lines has no meaning.

use crate::package::manifest::{Escapes, escaped, unescaped};
use crate::package::name::Version;

/// What separates the two parts of a line must be in neither.
const ESCAPES: &Escapes = &[(b'\\', b'\\'), (b'\n', b'n'), (b'\r', b'r'), (b'\t', b't')];

/// What one entry of a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A directory with these permission bits.
    Directory(u16),
    /// A file with these permission bits.
    File(u16),
    /// A symbolic link with this text.
    Link(&'a [u8]),
}

/// The name of a version's tree file, in the directory of its manifest. No version begins with a dot.
pub fn file_name(version: &Version) -> String {
    format!(".{version}.tree")
}

/// An entry's line, with its line end. The root has an empty path.
pub fn line(path: &[u8], node: Node<'_>) -> Vec<u8> {
    [&what(node), &b"\t"[..], &written(path), b"\n"].concat()
}

/// A path as lines have it.
pub fn written(path: &[u8]) -> Vec<u8> {
    escaped(if path.is_empty() { b"." } else { path }, ESCAPES)
}

/// The part of a line that says what the entry is.
pub fn what(node: Node<'_>) -> Vec<u8> {
    match node {
        Node::Directory(mode) => format!("dir {mode:o}").into_bytes(),
        Node::File(mode) => format!("file {mode:o}").into_bytes(),
        Node::Link(text) => [b"link ", &escaped(text, ESCAPES)[..]].concat(),
    }
}

/// What a line without its line end says an entry is, and the entry's path; none where it is no such line. The root's path is empty.
pub fn parse(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let (what, path) = (&line[..tab], unescaped(&line[tab + 1..], ESCAPES)?);
    let is_known = [&b"dir "[..], b"file ", b"link "].iter().any(|word| what.starts_with(word));
    match path.as_slice() {
        _ if !is_known => None,
        b"" => None,
        b"." => Some((what, Vec::new())),
        _ => Some((what, path)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_what_the_scripts_read() {
        let text = |path: &[u8], node| String::from_utf8(line(path, node)).expect("UTF-8");
        assert_eq!(text(b"", Node::Directory(0o755)), "dir 755\t.\n");
        assert_eq!(text(b"a b", Node::File(0o44)), "file 44\ta b\n");
        assert_eq!(text(b"a\tb", Node::Link(b"\\x\n\r")), "link \\\\x\\n\\r\ta\\tb\n");
        assert_eq!(parse(b"dir 700\t."), Some((&b"dir 700"[..], vec![])));
        assert_eq!(file_name(&"1.tree".parse().expect("a version")), ".1.tree.tree");
    }

    #[test]
    fn what_is_no_line_is_not_taken_for_one() {
        for text in ["", "\t", "dir 755", "dir 755\t", "pipe 644\ta", "file 644\ta\\", "file 644\ta\\x", "# end 2"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_read_as_they_were_written(path in "[-a\\\\\n\r\t ]{1,9}", to in "[-a\\\\\n\r\t ]{1,9}", noise: Vec<u8>) {
            let written = line(path.as_bytes(), Node::Link(to.as_bytes()));
            let (what, there) = parse(&written[..written.len() - 1]).expect("a line");
            prop_assert_eq!(there, path.into_bytes());
            prop_assert_eq!(what.strip_prefix(b"link ").and_then(|text| unescaped(text, ESCAPES)), Some(to.into_bytes()));
            let _ = parse(&noise);
        }
    }
}
