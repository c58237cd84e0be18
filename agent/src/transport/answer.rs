//! Running one command of ours on a target: its input fed, its answer read to the counted end, its failure classified.
//!
//! Everything that comes back is untrusted, and bounded by what was asked ([`bounded`](super::bounded)). An answer that is none, or too long, ends the
//! command at once.

use std::sync::Arc;

use blat_domain::protocol::exit_code::{BUSY, NO_SPACE};
use blat_domain::protocol::reply::{GO, LONGEST_LINE, READY, ReplyError, ReplyReader};
use blat_domain::util::limits::named;
use tokio::io::{AsyncRead, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::bounded::{Bounds, StderrExcerpt, read_line};
use super::{Exit, Remote};
use crate::flow::STALL_TIMEOUT;
use crate::flow::rate_limit::{RateLimiter, Urgency};
use crate::model::error::TargetError;

/// What a command reads.
pub(crate) enum CommandInput {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes, and that it is still wanted, once the command asks. A command that outlives us hears the end instead, and leaves it undone.
    Confirmed(Vec<u8>),
    /// What comes through here until the sender is dropped, held back as the limiter wants it.
    Stream {
        /// The bytes.
        chunks: mpsc::Receiver<Vec<u8>>,
        /// What holds them back.
        limiter: Arc<RateLimiter>,
        /// Whether others go before them.
        urgency: Urgency,
    },
}

/// Feeds `input` to the command and gives each line of its answer to `each`, as many as `bounds` allow. An error of `each` says why nothing asked for
/// a line.
pub(crate) async fn ask(
    remote: Remote,
    input: CommandInput,
    bounds: Bounds,
    mut each: impl FnMut(&str) -> Result<(), String>,
) -> Result<(), TargetError> {
    let Remote { stdin, stdout, stderr, exit } = remote;
    let (moved, mut movement) = watch::channel(());
    let (asks, asked) = oneshot::channel();
    let feeding = async {
        feed(stdin, input, asked, &moved).await;
        Ok(())
    };
    let reading = read(stdout, bounds, asks, &mut each, &moved);
    let complaining = async {
        let mut complaints = StderrExcerpt::default();
        complaints.read(stderr).await.map_err(|why| TargetError::Refused(format!("the command is ended: {why}")))?;
        Ok(complaints.all())
    };
    let whole = async {
        // What is no answer ends it all: nobody waits for the rest of it.
        let ((), answer, complaint) = tokio::try_join!(feeding, reading, complaining)?;
        judge(answer, &complaint, exit.await?)
    };
    let stands_still = async {
        // The sender lives as long as the command is being talked to, so only the pause ends this.
        while let Ok(Ok(())) = timeout(STALL_TIMEOUT, movement.changed()).await {}
    };
    tokio::select! {
        judged = whole => judged,
        () = stands_still => Err(TargetError::Link(format!("no progress for {} s; given up", STALL_TIMEOUT.as_secs()))),
    }
}

async fn feed(
    mut stdin: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    input: CommandInput,
    asked: oneshot::Receiver<()>,
    moved: &watch::Sender<()>,
) {
    // A command that stops reading has its reason, and says it in its answer or its exit status: that is what counts.
    match input {
        CommandInput::Bytes(bytes) => {
            let _ = stdin.write_all(&bytes).await;
        }
        CommandInput::Confirmed(bytes) => {
            let _ = stdin.write_all(&bytes).await;
            let _ = stdin.flush().await;
            moved.send_replace(());
            // Where its answer ends without a question, there is nothing to be confirmed.
            if asked.await.is_ok() {
                let _ = stdin.write_all(format!("{GO}\n").as_bytes()).await;
            }
        }
        CommandInput::Stream { mut chunks, limiter, urgency } => {
            while let Some(chunk) = chunks.recv().await {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let (portion, later) = rest.split_at(rest.len().min(limiter.portion()));
                    // While it is us who hold back, the target does not stand still.
                    while timeout(STALL_TIMEOUT / 4, limiter.pass(urgency, portion.len())).await.is_err() {
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

/// How the answer ended: whole, cut, or because it could not be read.
type ReplyEnd = Result<Result<(), ReplyError>, std::io::Error>;

/// Reads an answer to its end. An error says that it is none, whatever may still come. `asks` hears when the command asks whether to go on.
async fn read(
    stdout: impl AsyncRead + Unpin,
    mut bounds: Bounds,
    asks: oneshot::Sender<()>,
    each: &mut impl FnMut(&str) -> Result<(), String>,
    moved: &watch::Sender<()>,
) -> Result<ReplyEnd, TargetError> {
    let mut lines = BufReader::with_capacity(64 << 10, stdout);
    let mut reply = ReplyReader::default();
    let (mut line, mut asks) = (Vec::new(), Some(asks));
    loop {
        match read_line(&mut lines, LONGEST_LINE, &mut line).await {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(reply.finish())),
            Err(error) => return Ok(Err(error)),
        }
        moved.send_replace(());
        let wrong = |error: ReplyError| TargetError::Refused(error.to_string());
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > LONGEST_LINE {
            return Err(wrong(ReplyError::LineTooLong));
        }
        let has_begun = reply.has_begun();
        let line = String::from_utf8_lossy(&line);
        if has_begun
            && line == READY
            && let Some(asks) = asks.take()
        {
            // Whoever has nothing to confirm does not listen.
            let _ = asks.send(());
        }
        if let Some(text) = reply.line(&line).map_err(wrong)? {
            bounds
                .take(text)
                .and_then(|()| each(text))
                .map_err(|why| TargetError::Refused(format!("protocol error: {why}")))?;
        }
    }
}

/// What a command's end means.
fn judge(answer: ReplyEnd, complaint: &str, exit: Exit) -> Result<(), TargetError> {
    let said = |otherwise: &str| if complaint.is_empty() { otherwise.to_owned() } else { named(complaint.to_owned()) };
    match exit {
        Exit::Code(0) => match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(TargetError::Link(error.to_string())),
            Err(error) => Err(TargetError::Link(format!("the target's answer cannot be read: {error}"))),
        },
        Exit::Code(code) if code == i32::from(NO_SPACE) => {
            Err(TargetError::Space(said("the target has no space left")))
        }
        Exit::Code(code) if code == i32::from(BUSY) => {
            Err(TargetError::Refused(said("the target's archive is locked by somebody else")))
        }
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
        run_on(script, CommandInput::Bytes(input.to_vec()), 2).await
    }

    async fn run_on(script: &str, input: CommandInput, packages: usize) -> (Vec<String>, Result<(), TargetError>) {
        let shell = crate::transport::Transport::Local(crate::transport::local::Shell::new());
        let remote = shell.exec(script).await.expect("a shell");
        let mut lines = Vec::new();
        let each = |line: &str| {
            lines.push(line.to_owned());
            Ok(())
        };
        let result = ask(remote, input, Bounds::packages(packages), each).await;
        (lines, result)
    }

    #[tokio::test]
    async fn a_whole_answer_counts() {
        let (lines, result) = run("echo noise; echo '# blat 1'; cat; echo '# end 2'", b"a\nb\n").await;
        assert_eq!((lines, result), (vec!["a".into(), "b".into()], Ok(())));
    }

    #[tokio::test]
    async fn a_command_that_asks_hears_that_it_is_wanted_and_one_that_does_not_ask_hears_the_end() {
        let confirm = async |script: &str| run_on(script, CommandInput::Confirmed(b"list\n".to_vec()), 3).await;
        let asking = "read -r list; echo ready; echo '# blat 1'; echo ready; read -r word; echo $list $word; cat; echo '# end 1'";
        assert_eq!(confirm(asking).await, (vec!["list go".into()], Ok(())), "noise is no question");
        let (lines, result) = confirm("echo '# blat 1'; read -r list; echo $list; echo '# end 1'").await;
        assert_eq!((lines, result), (vec!["list".into()], Ok(())));
        let (_, result) = confirm("echo 'not now' >&2; exit 1").await;
        assert_eq!(result, Err(TargetError::Refused("not now".into())));
    }

    #[tokio::test]
    async fn a_limit_of_the_account_is_named_whoever_ran_into_it() {
        for (script, words) in [
            (
                "echo 'receive_package: 46: Cannot fork' >&2; exit 2",
                "Cannot fork; the target's account may not start more processes (ulimit -u)",
            ),
            (
                "echo 'bash: fork: retry: Resource temporarily unavailable' >&2; exit 254",
                "may not start more processes (ulimit -u)",
            ),
            (
                "file=$(mktemp); (ulimit -f 1; head -c 1000000 /dev/zero 2>&1 >$file) | cat >&2; rm $file; exit 1",
                "takes no file that large (ulimit -f)",
            ),
            (
                "echo 'receive_package: x: Disk quota exceeded' >&2; exit 28",
                "the disk quota of the target's account is used up",
            ),
        ] {
            let script = format!("trap '' XFSZ; {script}");
            let (_, result) = run(&script, b"").await;
            let text = result.expect_err("it failed").to_string();
            assert!(text.contains(words), "{script}: {text}");
        }
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

    /// None of these commands ends by itself, nor heeds that nobody reads it.
    #[tokio::test]
    async fn what_has_no_end_is_ended() {
        let for_ever = |what: &str| format!("trap '' PIPE; while :; do {what}; done");
        for (script, why) in [
            (for_ever("echo noise"), "does not begin with"),
            (format!("echo '# blat 1'; {}", for_ever("echo line")), "longer than any"),
            (format!("echo '# blat 1'; {}", for_ever("echo alive")), "does not come to an end"),
            (format!("echo '# blat 1'; {}", for_ever("printf 0123456789abcdef")), "longer than"),
            (for_ever("printf %65536s complaint >&2"), "complains without end"),
            (format!("echo '# blat 1'; echo '# end 0'; {}", for_ever("echo more")), "goes on after its end"),
        ] {
            let (lines, result) = run(&script, b"").await;
            assert!(matches!(&result, Err(TargetError::Refused(text)) if text.contains(why)), "{script}: {result:?}");
            assert!(lines.len() <= 22);
        }
    }
}
