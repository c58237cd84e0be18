//! What target scripts answer: lines between a marker and a counted end mark.
//!
//! ```text
//! …anything a login shell or banner prints…
//! # blat 1
//! LINES
//! # end COUNT
//! ```
//! COUNT counts LINES, less `alive` lines, which only say that the script still works, and `ready`, by which it asks whether what it was told to do
//! is still wanted. Without the end mark, or with another count,
//! the answer is not an answer: a cut connection looks just like a short list.

/// First line of every answer. Whatever comes before it is noise.
pub const MARKER: &str = "# blat 1";
/// Most noise that is skipped while looking for the marker, in bytes.
pub const MOST_NOISE: usize = 64 << 10;
/// The line by which a script that holds the lock asks its caller to say [`GO`].
pub const READY: &str = "ready";
/// What the caller says then.
pub const GO: &str = "go";
/// The most `alive` lines of one answer: scripts print one every 10 s, so these are for more than a day.
pub const MOST_ALIVE: u32 = 10_000;
/// The longest line of an answer, in bytes.
pub const LONGEST_LINE: usize = 8 << 10;

/// Why an answer does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The marker never came.
    #[error(
        "the target's answer does not begin with {MARKER:?}; it said {0:?}: check that its login shell prints nothing endless"
    )]
    NoMarker(String),
    /// A line longer than any of ours.
    #[error("the target's answer has a line longer than {LONGEST_LINE} bytes")]
    LineTooLong,
    /// The end mark never came: a cut connection or a killed script.
    #[error("the target's answer breaks off after {0} lines, without its end mark")]
    NoEnd(u64),
    /// The end mark counts other lines than came.
    #[error("the target's answer is damaged: {counted} lines came, its end mark says {said:?}")]
    WrongCount {
        /// Lines that came.
        counted: u64,
        /// What the end mark says.
        said: String,
    },
    /// A script that works and works, and never comes to an end.
    #[error(
        "the target says {MOST_ALIVE} times that it is at work, and does not come to an end; look at what runs there"
    )]
    Endless,
    /// Something after the end mark.
    #[error("the target's answer goes on after its end mark")]
    AfterEnd,
}

/// Follows an answer line by line.
#[derive(Debug, Default)]
pub struct ReplyReader {
    phase: ReplyPhase,
}

#[derive(Debug)]
enum ReplyPhase {
    Noise { bytes: usize, first: String },
    Lines { counted: u64, alive: u32 },
    Ended,
}

impl Default for ReplyPhase {
    fn default() -> Self {
        Self::Noise { bytes: 0, first: String::new() }
    }
}

impl ReplyReader {
    /// Takes one line without its line end, and gives it back when it is one of the answer's own.
    pub fn line<'a>(&mut self, line: &'a str) -> Result<Option<&'a str>, ReplyError> {
        match &mut self.phase {
            ReplyPhase::Noise { bytes, first } => {
                // A banner that ends without a line end sticks to the marker.
                if line.ends_with(MARKER) {
                    self.phase = ReplyPhase::Lines { counted: 0, alive: 0 };
                    return Ok(None);
                }
                *bytes += line.len() + 1;
                if first.is_empty() {
                    *first = crate::util::text::printable(line);
                }
                if *bytes > MOST_NOISE { Err(ReplyError::NoMarker(first.clone())) } else { Ok(None) }
            }
            ReplyPhase::Lines { counted, alive } => {
                if let Some(said) = line.strip_prefix("# end ") {
                    if said.parse() != Ok(*counted) {
                        return Err(ReplyError::WrongCount {
                            counted: *counted,
                            said: crate::util::text::printable(said),
                        });
                    }
                    self.phase = ReplyPhase::Ended;
                    return Ok(None);
                }
                if line == "alive" || line == READY {
                    *alive += 1;
                    return if *alive > MOST_ALIVE { Err(ReplyError::Endless) } else { Ok(None) };
                }
                *counted += 1;
                Ok(Some(line))
            }
            ReplyPhase::Ended => Err(ReplyError::AfterEnd),
        }
    }

    /// Whether the marker has come.
    pub fn has_begun(&self) -> bool {
        !matches!(self.phase, ReplyPhase::Noise { .. })
    }

    /// To be called at the end of the stream: an error unless the answer was whole.
    pub fn finish(self) -> Result<(), ReplyError> {
        match self.phase {
            ReplyPhase::Noise { first, .. } => Err(ReplyError::NoMarker(first)),
            ReplyPhase::Lines { counted, .. } => Err(ReplyError::NoEnd(counted)),
            ReplyPhase::Ended => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, ReplyError> {
        let mut reader = ReplyReader::default();
        let mut lines = Vec::new();
        for line in text.lines() {
            lines.extend(reader.line(line)?.map(str::to_owned));
        }
        reader.finish().map(|()| lines)
    }

    #[test]
    fn lines_between_marker_and_end_are_the_answer() {
        assert_eq!(read("Welcome!\nmotd# blat 1\na\nalive\nb\n# end 2\n"), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(read("# blat 1\n# end 0\n"), Ok(vec![]));
    }

    #[test]
    fn a_cut_or_damaged_answer_is_an_error_never_a_short_list() {
        assert_eq!(read("# blat 1\na\n"), Err(ReplyError::NoEnd(1)));
        assert!(matches!(read("# blat 1\na\n# end 2\n"), Err(ReplyError::WrongCount { .. })));
        assert!(matches!(read("# blat 1\na\n# end \n"), Err(ReplyError::WrongCount { .. })));
        assert_eq!(read("# blat 1\n# end 0\nmore\n"), Err(ReplyError::AfterEnd));
        assert!(matches!(read("sh: not found\n"), Err(ReplyError::NoMarker(_))));
        assert!(matches!(read(""), Err(ReplyError::NoMarker(_))));
    }

    #[test]
    fn a_script_that_is_only_ever_alive_is_given_up_on() {
        let mut reader = ReplyReader::default();
        assert_eq!(reader.line(MARKER), Ok(None));
        let alive = (0..1_000_000).take_while(|_| reader.line("alive").is_ok()).count();
        assert_eq!(alive, 10_000, "for a day and more, at one in 10 s");
    }

    #[test]
    fn endless_noise_is_given_up_on() {
        let noise = "x".repeat(1000);
        let mut reader = ReplyReader::default();
        assert!((0..100).any(|_| reader.line(&noise).is_err()));
    }
}
