//! Showing text that came from somewhere else.

use std::fmt::Write as _;

use unicode_normalization::UnicodeNormalization;

/// The most of a foreign text that is ever shown in a message.
const SHOWN: usize = 200;

/// `text` fit for a terminal or a log: control characters, line ends and what nobody sees escaped, and cut to a sane length.
///
/// Everything that comes from a tag, a database, a file name or a target passes through here before it is printed.
pub fn printable(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => escaped(&text[..end]) + "…",
        None => escaped(text),
    }
}

/// `text` with its control characters and whatever nobody sees escaped, at its whole length: for text whose length somebody else
/// bounds, such as a line of our own log.
pub fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = is_unseen(c) || is_other_blank(c);
            let plain = (!escape).then_some(c);
            plain.into_iter().chain(escape.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

/// As [`escaped`], line by line: for a message of our own that has several lines.
pub fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// Whether a character of this text would not show as what it is.
pub fn hides_something(text: &str) -> bool {
    text.chars().any(is_unseen)
}

/// Characters that a terminal does not show, or that change what it shows of others, and so can disguise a name: control characters, the
/// Unicode categories Cf, Zl and Zp, and what Unicode says may be ignored where it is displayed.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Blanks that look like the usual one and are another character; the ideographic one shows as what it is.
fn is_other_blank(c: char) -> bool {
    c.is_whitespace() && !matches!(c, ' ' | '\u{3000}')
}

/// `text` without the byte order mark that some editors put before it, to say how it is written.
pub fn unmarked(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The one form in which names of releases and projects are compared: Unicode's NFC, since one system writes `é` as one character and another as
/// two that look the same; without blanks at its end, with which columns are filled up.
pub fn composed(mut text: String) -> String {
    text.truncate(text.trim_end_matches(' ').len());
    if text.is_ascii() { text } else { text.nfc().collect() }
}

/// The nearest of `known` to `given`, when it is near enough to be what was meant. Never what was given itself: that was not it, whatever the
/// reason.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let shown = printable(given);
    known
        .into_iter()
        .filter(|candidate| printable(candidate) != shown)
        .map(|candidate| (edit_distance(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(given.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// One word of a command that a person is to type, as a shell takes it: quoted where it has to be, and fit for printing.
pub fn typed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", escaped(word).replace('\'', "'\\''"))
    }
}

/// Levenshtein distance, by characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(SHOWN).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(SHOWN).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Bytes as lower-case hexadecimal digits, as `sha256sum` prints them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_never_printed_raw() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(escaped_lines("a\rb\n\tc\n"), "a\\rb\n\\tc\n");
        assert_eq!(printable("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(escaped(&"\u{1b}".repeat(300)), "\\u{1b}".repeat(300));
        assert_eq!(printable("Perth 7.1 – straße"), "Perth 7.1 – straße");
        assert!(printable(&"x".repeat(5000)).chars().count() <= SHOWN + 1);
    }

    #[test]
    fn what_nobody_sees_is_never_printed_raw() {
        let marks = (0x200b..=0x200f).chain(0x2028..=0x202e).chain(0x2060..=0x206f);
        for number in marks.chain([0xad, 0x61c, 0x180e, 0xfeff, 0xfe0f, 0xfff9, 0x3164, 0xe0001, 0xe0041, 0x85, 0x9b]) {
            let Some(unseen) = char::from_u32(number) else { continue };
            let text = format!("Per{unseen}th");
            assert_eq!(printable(&text), format!("Per\\u{{{number:x}}}th"));
            assert!(escaped(&text).is_ascii() && hides_something(&text));
        }
        for plain in ["Perth 7.1 – straße", "東京 ・ ленинград", "a\u{301}b", "東京\u{3000}1", ""] {
            assert!(escaped(plain) == plain && !hides_something(plain), "{plain}");
        }
    }

    #[test]
    fn a_blank_that_is_not_the_usual_one_is_told_from_it() {
        assert_eq!(printable("Perth\u{a0}7.1\u{2003}a\u{202f}"), "Perth\\u{a0}7.1\\u{2003}a\\u{202f}");
        assert!(!hides_something("Perth\u{a0}7.1"), "it may stand in a name");
    }

    #[test]
    fn commands_to_type_survive_a_shell() {
        assert_eq!(typed("/srv/blat-1.0"), "/srv/blat-1.0");
        assert_eq!(typed("/srv/my blat's"), "'/srv/my blat'\\''s'");
        assert_eq!([typed("$(id)"), typed("#1000"), typed(""), typed("a\nb")], ["'$(id)'", "'#1000'", "''", "'a\\nb'"]);
    }

    #[test]
    fn the_nearest_word_is_suggested_only_when_it_is_near() {
        let known = ["releases", "release_manager", "projects"];
        assert_eq!(nearest("release", known), Some("releases"));
        assert_eq!(nearest("project", known), Some("projects"));
        assert_eq!(nearest("zebra", known), None);
    }

    #[test]
    fn what_was_given_is_never_suggested() {
        for given in ["projects", "2024", "Zürich"] {
            assert_eq!(nearest(given, [given]), None);
        }
        assert_eq!(nearest("2024", ["2024", "2025"]), Some("2025"));
        let long = "x".repeat(SHOWN);
        let (one, other) = (format!("{long}a"), format!("{long}b"));
        assert_eq!(nearest(&one, [other.as_str()]), None, "they look alike where they are printed");
    }

    #[test]
    fn names_that_look_alike_since_they_are_written_in_other_characters_are_one() {
        for (written, one) in
            [("Zu\u{308}rich", "Z\u{fc}rich"), ("\u{212b}lesund", "\u{c5}lesund"), ("\u{1112}\u{1161}", "\u{d558}")]
        {
            assert_eq!(composed(written.to_owned()), one);
            assert_eq!(composed(one.to_owned()), one);
        }
        assert_eq!(composed(" Perth 7.1  ".to_owned()), " Perth 7.1");
        assert_eq!(composed("x\u{b2}".to_owned()), "x\u{b2}", "no other sign is taken for one that it is like");
    }
}
