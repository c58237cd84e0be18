//! What agents say: events on standard output, complaints on standard error. Both are taken for untrusted.
//!
//! Whatever comes, memory stays bounded, the log stays readable and the listener goes on to the end.

use std::time::Duration;

use blat_domain::package::name::TargetName;
use blat_domain::protocol::messages::{AgentMessage, LONGEST_LINE};
use blat_domain::util::text::printable;
use tokio::io::BufReader;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lines;
use crate::agent::Heard;
use crate::agent::lines::Piece;

/// The longest line of standard error that is taken as one.
const LONGEST_COMPLAINT: usize = 8 << 10;
/// How much of an agent's noise goes into our log in each stretch of time.
const NOISE: u32 = 100;
/// That stretch.
const STRETCH: Duration = Duration::from_secs(60);

/// Hands on every event until standard output ends.
pub(crate) async fn events(target: TargetName, stdout: ChildStdout, heard: mpsc::Sender<(TargetName, Heard)>) {
    let mut from = BufReader::with_capacity(16 << 10, stdout);
    let mut noise = Noise::new();
    loop {
        let wrong = match lines::next(&mut from, LONGEST_LINE).await {
            Ok(None) => return,
            Ok(Some(Piece::Line(line))) => match serde_json::from_slice::<Box<AgentMessage>>(&line) {
                Ok(told) => {
                    if heard.send((target.clone(), Heard::Said(told))).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => format!("{error}: {}", printable(&String::from_utf8_lossy(&line))),
            },
            Ok(Some(Piece::TooLong)) => format!("a line is longer than {LONGEST_LINE} bytes"),
            Err(error) => {
                tracing::warn!(%target, %error, "cannot read what the agent says");
                return;
            }
        };
        if noise.is_heard(&target) {
            tracing::warn!(%target, "the agent sent a line that is no event: {wrong}");
        }
    }
}

/// Logs every line until standard error ends; returns the last.
pub(crate) async fn complaints(target: TargetName, stderr: ChildStderr) -> Option<String> {
    let mut from = BufReader::new(stderr);
    let mut noise = Noise::new();
    let mut last = None;
    loop {
        let text = match lines::next(&mut from, LONGEST_COMPLAINT).await {
            Ok(None) => return last,
            Ok(Some(Piece::Line(line))) => printable(&String::from_utf8_lossy(&line)),
            Ok(Some(Piece::TooLong)) => "(a very long line)".to_owned(),
            Err(error) => {
                tracing::warn!(%target, %error, "cannot read what the agent writes to its standard error");
                return last;
            }
        };
        if noise.is_heard(&target) {
            tracing::warn!(%target, "agent: {text}");
        }
        last = Some(text);
    }
}

/// Keeps one agent from filling the log.
struct Noise {
    since: Instant,
    lines: u32,
}

impl Noise {
    fn new() -> Self {
        Self { since: Instant::now(), lines: 0 }
    }

    /// Whether one more line may be logged. Says so once where not, and how many were dropped afterwards.
    fn is_heard(&mut self, target: &TargetName) -> bool {
        if self.since.elapsed() >= STRETCH {
            if self.lines > NOISE {
                tracing::warn!(%target, dropped = self.lines - NOISE, "lines from the agent were not logged");
            }
            *self = Self::new();
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= NOISE
    }
}
