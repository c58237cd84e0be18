//! Reading what a target says: no more of it than what was asked for can take.
//!
//! Everything that a target says is read by way of this module, whatever it says it over. A line has a longest length, an answer as many lines and
//! bytes as its question allows, complaints a most of all. What goes beyond ends the conversation: a target that speaks without end costs
//! neither memory nor time.

use std::io;

use blat_domain::archive::inventory::MOST_LISTED;
use blat_domain::protocol::reply::LONGEST_LINE;
use blat_domain::util::text::printable;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _};

/// Lines beside those about packages: leftovers that the target cannot remove.
const MOST_LEFTOVERS: u64 = 20;
/// How much of complaints is kept of their beginning, and of their end, in bytes.
const KEPT: usize = 4 << 10;
/// The most that is read of complaints, in bytes: tar has a line for each file that it fails at.
const MOST_COMPLAINTS: u64 = 16 << 20;

/// How much of an answer there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    lines: u64,
    bytes: u64,
}

impl Bounds {
    /// An answer that only says that it is done.
    pub(crate) const NONE: Self = Self::lines(0);
    /// An answer to questions about the target itself: its tools, its scripts, what became of an installation.
    pub(crate) const FEW: Self = Self::lines(100);
    /// The listing of an archive: its lines are short, and there are no more of them than an agent keeps packages in mind.
    pub(crate) const LISTING: Self = Self { lines: MOST_LISTED, bytes: MOST_LISTED * 128 };

    /// So many lines.
    const fn lines(lines: u64) -> Self {
        Self { lines, bytes: lines * LONGEST_LINE as u64 }
    }

    /// A line for each of so many packages, and leftovers.
    pub(crate) const fn packages(count: usize) -> Self {
        Self::lines(count as u64 + MOST_LEFTOVERS)
    }

    /// Takes one line off what is left.
    ///
    /// # Errors
    /// That there may be no such line, fit for printing.
    pub(crate) fn take(&mut self, line: &str) -> Result<(), String> {
        if line.len() > LONGEST_LINE {
            return Err(format!("a line of the answer is longer than {LONGEST_LINE} bytes"));
        }
        let left = self.lines.checked_sub(1).zip(self.bytes.checked_sub(line.len() as u64));
        let (lines, bytes) =
            left.ok_or_else(|| format!("the answer is longer than any to that question: {}", shown(line)))?;
        *self = Self { lines, bytes };
        Ok(())
    }
}

fn shown(line: &str) -> String {
    format!("\"{}\" is too much", printable(line))
}

/// Reads a line of at most `most` bytes in place of what was in `line`, its end included: without one it is longer, or the last and cut. Gives
/// false where there is no more.
pub(crate) async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    most: usize,
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    let count = input.take(most as u64 + 1).read_until(b'\n', line).await?;
    Ok(count > 0)
}

/// What a command or a client complained of: as much of it as helps.
#[derive(Debug, Default)]
pub(crate) struct StderrExcerpt {
    first: Vec<u8>,
    last: Vec<u8>,
    read: u64,
}

impl StderrExcerpt {
    /// Reads on to the end of the stream, so that nobody blocks on it.
    ///
    /// # Errors
    /// That there is no end to be seen.
    pub(crate) async fn read(&mut self, mut stderr: impl AsyncRead + Unpin) -> Result<(), String> {
        let mut some = [0; 8 << 10];
        // A stream that breaks has said what it could.
        while let Ok(count @ 1..) = stderr.read(&mut some).await {
            self.add(&some[..count]);
            if self.read > MOST_COMPLAINTS {
                return Err(format!("it complains without end: {}", self.all()));
            }
        }
        Ok(())
    }

    fn add(&mut self, some: &[u8]) {
        self.read += some.len() as u64;
        let room = KEPT - self.first.len();
        self.first.extend_from_slice(&some[..some.len().min(room)]);
        self.last.extend_from_slice(&some[some.len().saturating_sub(KEPT)..]);
        let surplus = self.last.len().saturating_sub(KEPT);
        self.last.drain(..surplus);
    }

    /// Its beginning and its end as they are, not fit for printing, on lines of their own where something between is left out.
    pub(crate) fn both_ends(&self) -> String {
        let last = String::from_utf8_lossy(&self.last);
        let is_whole = self.read <= self.last.len() as u64;
        if is_whole { last.into_owned() } else { format!("{}\n{last}", String::from_utf8_lossy(&self.first)) }
    }

    /// Its beginning on one line, fit for printing; empty where there was nothing.
    pub(crate) fn all(&self) -> String {
        let text = String::from_utf8_lossy(&self.first);
        text.lines().filter(|line| !line.trim().is_empty()).map(printable).collect::<Vec<_>>().join("; ")
    }

    /// Its last line, fit for printing; none where there was nothing.
    pub(crate) fn last(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.last);
        text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| printable(line.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_as_many_lines_and_bytes_as_its_question_allows() {
        let mut none = Bounds::NONE;
        assert!(none.take("").is_err());
        let mut two = Bounds::packages(2);
        let taken = (0..100).take_while(|_| two.take(&"x".repeat(LONGEST_LINE)).is_ok()).count();
        assert_eq!(taken, 22, "and leftovers");
        assert!(Bounds::packages(2).take(&"x".repeat(LONGEST_LINE + 1)).is_err());
        let mut listing = Bounds::LISTING;
        let line = "x".repeat(LONGEST_LINE);
        let bytes = (0u64..).take_while(|_| listing.take(&line).is_ok()).count() * LONGEST_LINE;
        assert!(bytes <= 1 << 27, "{bytes}");
    }

    #[tokio::test]
    async fn of_complaints_the_beginning_and_the_end_are_kept_and_no_endless_ones_are_heard_to_their_end() {
        let mut complaints = StderrExcerpt::default();
        let text = format!("first\u{1b}\n\n{}\nlast \n", "x".repeat(1 << 20));
        complaints.read(text.as_bytes()).await.expect("an end");
        assert!(complaints.all().starts_with("first\\u{1b}; x") && complaints.all().len() < 300);
        assert_eq!(complaints.last().as_deref(), Some("last"));
        let ends = complaints.both_ends();
        assert!(ends.starts_with("first\u{1b}\n\nx") && ends.ends_with("x\nlast \n"), "{ends}");
        let mut complaints = StderrExcerpt::default();
        complaints.read("all of it\n".as_bytes()).await.expect("an end");
        assert_eq!(complaints.both_ends(), "all of it\n");
        let endless = StderrExcerpt::default().read(tokio::io::repeat(b'x')).await;
        assert!(endless.is_err_and(|why| why.contains("without end") && why.len() < 400));
    }
}
