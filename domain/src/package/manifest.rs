//! Manifests: the digests of a package's files, as `sha256sum -c` reads them. The files stand in the order in which they are sent, `descpkg` last.

use crate::util::text::hex;

/// One file's line, with its line end and the escapes of `sha256sum`: a leading backslash says that backslashes, line ends and carriage returns are
/// escaped.
pub fn line(digest: &[u8], path: &[u8]) -> Vec<u8> {
    let escaped = escaped(path, OF_SUMS);
    let mark: &[u8] = if escaped == path { b"" } else { b"\\" };
    // A file called `-` would be taken for the standard input.
    let here: &[u8] = if path == b"-" { b"./" } else { b"" };
    [mark, hex(digest).as_bytes(), b"  ", here, &escaped, b"\n"].concat()
}

/// Digest and path of a line without its line end; none where it is no such line.
pub fn parse(line: &[u8]) -> Option<([u8; 32], Vec<u8>)> {
    let (escaped, line) = match line.split_first() {
        Some((b'\\', rest)) => (true, rest),
        Some(_) | None => (false, line),
    };
    let (digest, path) = line.split_at_checked(64)?;
    let path = path.strip_prefix(b"  ").filter(|path| !path.is_empty())?;
    let path = if escaped { unescaped(path, OF_SUMS)? } else { path.to_vec() };
    Some((digest_of(digest)?, path))
}

/// Bytes that are written as a backslash and a letter.
pub(crate) type Escapes = [(u8, u8)];

/// Those of `sha256sum`.
const OF_SUMS: &Escapes = &[(b'\\', b'\\'), (b'\n', b'n'), (b'\r', b'r')];

/// Bytes with these escapes.
pub(crate) fn escaped(bytes: &[u8], escapes: &Escapes) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match escapes.iter().find(|(odd, _)| odd == byte) {
            Some((_, letter)) => escaped.extend([b'\\', *letter]),
            None => escaped.push(*byte),
        }
    }
    escaped
}

/// What [`escaped`] was given; none where a backslash stands before anything else than a letter of these.
pub(crate) fn unescaped(text: &[u8], escapes: &Escapes) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => {
                let letter = bytes.next()?;
                escapes.iter().find(|(_, known)| known == letter)?.0
            }
            other => *other,
        });
    }
    Some(plain)
}

fn digest_of(text: &[u8]) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.chunks(2)) {
        let lower = pair.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        *byte = lower.then(|| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).flatten()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn manifests_are_escaped_as_sha256sum_reads_them() {
        let line = |path: &[u8]| String::from_utf8(line(&[0xab], path)).expect("UTF-8");
        assert_eq!(line(b"a b"), "ab  a b\n");
        assert_eq!(line(b"a\nb"), "\\ab  a\\nb\n");
        assert_eq!(line(b"a\r"), "\\ab  a\\r\n");
        assert_eq!(line(b"a\\b"), "\\ab  a\\\\b\n");
        assert_eq!(line(b"-"), "ab  ./-\n");
    }

    #[test]
    fn what_is_no_line_is_not_taken_for_one() {
        let digest = "0".repeat(64);
        for text in [
            "",
            "\\",
            &digest,
            &format!("{digest}  "),
            &format!("{digest} a"),
            &format!("\\{digest}  a\\t"),
            &format!("g{}  a", &digest[1..]),
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_read_as_they_were_written(digest: [u8; 32], path in "[-a\\\\\n\r ]{1,9}", noise: Vec<u8>) {
            let written = line(&digest, path.as_bytes());
            let path = if path == "-" { "./-".to_owned() } else { path };
            prop_assert_eq!(parse(&written[..written.len() - 1]), Some((digest, path.into_bytes())));
            let _ = parse(&noise);
        }
    }
}
