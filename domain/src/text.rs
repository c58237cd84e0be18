//! Showing text that came from somewhere else.

/// The most of a foreign text that is ever shown in a message.
const SHOWN: usize = 200;

/// `text` fit for a terminal or a log: control characters and line ends escaped, and cut to a sane length.
///
/// Everything that comes from a tag, a database, a file name or a target passes through here before it is printed.
pub fn printable(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => escaped(&text[..end]) + "…",
        None => escaped(text),
    }
}

/// `text` with its control characters escaped, at its whole length: for text whose length somebody else bounds, such as
/// a line of our own log.
pub fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() || is_bidirectional(c);
            let plain = (!escape).then_some(c);
            plain.into_iter().chain(escape.then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

/// Characters that reorder what a terminal shows, and so can disguise a name.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The nearest of `known` to `given`, when it is near enough to be what was meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (edit_distance(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(given.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_never_printed_raw() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(printable("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(escaped(&"\u{1b}".repeat(300)), "\\u{1b}".repeat(300));
        assert_eq!(printable("Perth 7.1 – straße"), "Perth 7.1 – straße");
        assert!(printable(&"x".repeat(5000)).chars().count() <= SHOWN + 1);
    }

    #[test]
    fn the_nearest_word_is_suggested_only_when_it_is_near() {
        let known = ["releases", "release_manager", "projects"];
        assert_eq!(nearest("release", known), Some("releases"));
        assert_eq!(nearest("project", known), Some("projects"));
        assert_eq!(nearest("zebra", known), None);
    }
}
