//! What standard output is: a terminal of some width that may show colours, or a plain stream.

use std::env;
use std::io::{self, IsTerminal};

/// A meaning that a colour carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Something moves.
    Busy,
    /// Something waits for its time.
    Warn,
    /// Somebody should look.
    Bad,
    /// Of little interest, or a heading.
    Faint,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Busy => Some("36"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
            Self::Faint => Some("2"),
        }
    }
}

/// How to write to standard output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether tones are shown.
    pub(crate) colours: bool,
    /// Columns there are; none when lines may be of any length.
    pub(crate) width: Option<usize>,
    /// Lines there are; none when there may be any number.
    pub(crate) height: Option<usize>,
    /// Whether a person sees it at once, so that it can be redrawn.
    pub(crate) terminal: bool,
}

impl Style {
    /// What standard output is, right now: a terminal's width changes.
    pub(crate) fn of_stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self::default();
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        Self {
            colours: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            width: size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0),
            height: size.map(|size| usize::from(size.ws_row)).filter(|lines| *lines > 0),
            terminal: true,
        }
    }

    /// `text` in its tone, where tones are shown.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        match tone.code().filter(|_| self.colours && !text.is_empty()) {
            Some(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            None => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_shown_only_where_they_are_wanted() {
        assert_eq!(Style::default().paint(Tone::Bad, "failing"), "failing");
        let style = Style { colours: true, ..Style::default() };
        assert_eq!(style.paint(Tone::Bad, "failing"), "\u{1b}[31mfailing\u{1b}[0m");
        assert_eq!(style.paint(Tone::Plain, "idle"), "idle");
        assert_eq!(style.paint(Tone::Bad, ""), "");
    }
}
