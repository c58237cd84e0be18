//! Running one command of ours on a target: its input fed, its answer read to the counted end, its failure classified.
//!
//! Everything that comes back is untrusted: lines are bounded, what the command complains is bounded and made printable.

use std::sync::Arc;
use std::time::Duration;

use blat_domain::reply::{LONGEST_LINE, ReplyError, ReplyReader};
use blat_domain::text::printable;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::TargetError;
use super::transport::{Exit, Remote};
use super::valve::{Urgency, Valve};

/// A command that neither takes nor says anything for this long stands still.
const STANDSTILL: Duration = Duration::from_secs(120);
/// The most of a command's complaints that is kept, in bytes.
const MOST_COMPLAINT: u64 = 4 << 10;
/// The exit status by which our scripts say that there is no space (the number of ENOSPC).
const NO_SPACE: i32 = 28;
/// The exit status by which our scripts say that somebody else holds the lock (sysexits' EX_TEMPFAIL).
const BUSY: i32 = 75;

/// What a command reads.
pub(crate) enum Input {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What comes through here until the sender is dropped, held back as the valve wants it.
    Stream {
        /// The bytes.
        chunks: mpsc::Receiver<Vec<u8>>,
        /// What holds them back.
        valve: Arc<Valve>,
        /// Whether others go before them.
        urgency: Urgency,
    },
}

/// Feeds `input` to the command and gives each line of its answer to `each`.
pub(crate) async fn ask(remote: Remote, input: Input, mut each: impl FnMut(&str)) -> Result<(), TargetError> {
    let Remote { stdin, stdout, stderr, exit } = remote;
    let (moved, mut movement) = watch::channel(());
    let feeding = feed(stdin, input, &moved);
    let reading = read(stdout, &mut each, &moved);
    let complaining = complaints(stderr);
    let whole = async {
        let ((), answer, complaint) = tokio::join!(feeding, reading, complaining);
        (answer, complaint, exit.await)
    };
    let stands_still = async {
        // The sender lives as long as the command is being talked to, so only the pause ends this.
        while let Ok(Ok(())) = timeout(STANDSTILL, movement.changed()).await {}
    };
    tokio::select! {
        (answer, complaint, exit) = whole => judge(answer, &complaint, exit?),
        () = stands_still => Err(TargetError::Link(format!("no progress for {} s; given up", STANDSTILL.as_secs()))),
    }
}

async fn feed(
    mut stdin: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    input: Input,
    moved: &watch::Sender<()>,
) {
    // A command that stops reading has its reason, and says it in its answer or its exit status: that is what counts.
    match input {
        Input::Bytes(bytes) => {
            let _ = stdin.write_all(&bytes).await;
        }
        Input::Stream { mut chunks, valve, urgency } => {
            while let Some(chunk) = chunks.recv().await {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let (portion, later) = rest.split_at(rest.len().min(valve.portion()));
                    // While it is us who hold back, the target does not stand still.
                    while timeout(STANDSTILL / 4, valve.pass(urgency, portion.len())).await.is_err() {
                        moved.send_replace(());
                    }
                    moved.send_replace(());
                    if stdin.write_all(portion).await.is_err() {
                        // Without its reader the packing thread ends.
                        return;
                    }
                    moved.send_replace(());
                    rest = later;
                }
            }
        }
    }
    let _ = stdin.shutdown().await;
    moved.send_replace(());
}

/// The answer itself can be wrong, or reading it can fail.
type Answer = Result<Result<(), ReplyError>, std::io::Error>;

async fn read(stdout: impl AsyncRead + Unpin, each: &mut impl FnMut(&str), moved: &watch::Sender<()>) -> Answer {
    let mut lines = BufReader::with_capacity(64 << 10, stdout);
    let mut reply = ReplyReader::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = LONGEST_LINE as u64 + 1;
        if (&mut lines).take(limit).read_until(b'\n', &mut line).await? == 0 {
            return Ok(reply.finish());
        }
        moved.send_replace(());
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 == limit {
            return Ok(Err(ReplyError::LineTooLong));
        }
        match reply.line(&String::from_utf8_lossy(&line)) {
            Ok(Some(text)) => each(text),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

/// The first of what the command complains; the rest is read and dropped, so that the command never blocks on it.
pub(super) async fn complaints(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    // A stream that breaks has said what it could.
    let _ = (&mut stderr).take(MOST_COMPLAINT).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    let text = String::from_utf8_lossy(&kept);
    text.lines().filter(|line| !line.trim().is_empty()).map(printable).collect::<Vec<_>>().join("; ")
}

/// What a command's end means.
fn judge(answer: Answer, complaint: &str, exit: Exit) -> Result<(), TargetError> {
    let said = |otherwise: &str| if complaint.is_empty() { otherwise.to_owned() } else { complaint.to_owned() };
    // A command that talks nonsense is cut off, so how it ended then says nothing.
    if let Ok(Err(nonsense @ (ReplyError::LineTooLong | ReplyError::WrongCount { .. } | ReplyError::AfterEnd))) =
        &answer
    {
        return Err(TargetError::Refused(nonsense.to_string()));
    }
    match exit {
        Exit::Code(0) => match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(TargetError::Link(error.to_string())),
            Err(error) => Err(TargetError::Link(format!("the target's answer cannot be read: {error}"))),
        },
        Exit::Code(NO_SPACE) => Err(TargetError::Space(said("the target has no space left"))),
        Exit::Code(BUSY) => Err(TargetError::Refused(said("the target's archive is locked by somebody else"))),
        Exit::Code(255) => Err(TargetError::Link(said("the ssh link broke"))),
        Exit::NotFound => Err(TargetError::Refused(said("the target did not find the command"))),
        Exit::Code(code) => Err(TargetError::Refused(said(&format!("the command ended with status {code}")))),
        Exit::Killed => Err(TargetError::Link(said("the command was killed on the target"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, input: &[u8]) -> (Vec<String>, Result<(), TargetError>) {
        let shell = super::super::transport::Transport::Local(super::super::transport::local::Shell::new());
        let remote = shell.exec(script).await.expect("a shell");
        let mut lines = Vec::new();
        let result = ask(remote, Input::Bytes(input.to_vec()), |line| lines.push(line.to_owned())).await;
        (lines, result)
    }

    #[tokio::test]
    async fn a_whole_answer_counts() {
        let (lines, result) = run("echo noise; echo '# blat 1'; cat; echo '# end 2'", b"a\nb\n").await;
        assert_eq!((lines, result), (vec!["a".into(), "b".into()], Ok(())));
    }

    #[tokio::test]
    async fn a_cut_answer_is_a_broken_link_even_with_exit_zero() {
        let (_, result) = run("echo '# blat 1'; echo a", b"").await;
        assert!(matches!(result, Err(TargetError::Link(_))), "{result:?}");
    }

    #[tokio::test]
    async fn failures_are_told_apart_by_exit_status() {
        let (_, full) = run("echo 'receive_package: no space' >&2; exit 28", b"").await;
        assert_eq!(full, Err(TargetError::Space("receive_package: no space".into())));
        let (_, refused) = run("printf 'bad%b[31m' '\\0033' >&2; exit 1", b"").await;
        assert_eq!(refused, Err(TargetError::Refused("bad\\u{1b}[31m".into())));
        let (_, killed) = run("kill -9 $$", b"").await;
        assert!(matches!(killed, Err(TargetError::Link(_))), "{killed:?}");
    }

    #[tokio::test]
    async fn a_command_that_does_not_read_its_input_is_heard_all_the_same() {
        let (_, result) = run("echo 'not now' >&2; exit 1", &vec![b'x'; 1 << 20]).await;
        assert_eq!(result, Err(TargetError::Refused("not now".into())));
    }

    #[tokio::test]
    async fn a_flood_on_stderr_and_endless_lines_are_bounded() {
        let (_, result) = run("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1", b"").await;
        assert!(matches!(result, Err(TargetError::Refused(text)) if text.len() < 1000));
        let (_, result) = run("echo '# blat 1'; head -c 3000000 /dev/zero | tr '\\0' x", b"").await;
        assert!(matches!(&result, Err(TargetError::Refused(text)) if text.contains("longer")), "{result:?}");
    }
}
