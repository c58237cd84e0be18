//! Who answers a login: a shell, or behind a key that can run nothing else, `blat-receiver`.
//!
//! The first command of every connection is [`COMMAND`], which stays and is asked for signs of life. What it says first tells who runs:
//! nothing is said to the far end before that, since each takes the other's words for nonsense.

use blat_config::SshSettings;
use blat_domain::protocol::frames::{self, Lane, PROTOCOL, Reply, Request};
use blat_domain::protocol::reply;
use blat_domain::util::text::printable;
use serde::{Deserialize, Serialize};

use super::place;
use crate::model::error::TargetError;

/// What a login is asked to run: a line that only a shell prints, then an echo.
pub(super) const COMMAND: &str = "echo '# blat 1'; exec cat";
/// What every receiver's first line begins with, whatever its protocol.
const RECEIVER: &str = "# blat-receiver ";

/// Who runs what we ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Listener {
    /// A shell: everything is possible that the user may do.
    Shell,
    /// A receiver, whatever is asked for.
    Receiver,
}

/// What a line says of who answers; none where it is a login shell's noise. The error is for the operator.
///
/// A banner that ends without a line end sticks to the line.
pub(super) fn greeted(line: &[u8]) -> Result<Option<Listener>, String> {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\n');
    if line.ends_with(reply::MARKER) {
        return Ok(Some(Listener::Shell));
    }
    if line.ends_with(frames::MARKER) {
        return Ok(Some(Listener::Receiver));
    }
    match line.rfind(RECEIVER) {
        Some(at) => Err(format!("its receiver says {:?}, not {:?}", printable(&line[at..]), frames::MARKER)),
        None => Ok(None),
    }
}

/// A sign of life asked of `listener`, the `count`th; with 0 the receiver is greeted.
pub(super) fn question(listener: Listener, count: u64) -> Vec<u8> {
    match (listener, count) {
        (Listener::Shell, _) => format!("blat heartbeat {count}\n").into_bytes(),
        (Listener::Receiver, 0) => framed(&Request::Hello { protocol: PROTOCOL }),
        (Listener::Receiver, beat) => framed(&Request::Ping { beat }),
    }
}

fn framed(request: &Request<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    frames::append(&mut frame, Lane::CONTROL, request).expect("a request of a few bytes fits into a frame");
    frame
}

/// Whether a receiver's answer to the `count`th question is the right one. The error is for the operator.
pub(super) fn is_answer(body: &[u8], count: u64) -> Result<bool, String> {
    match frames::decode(body).map_err(|error| error.to_string())? {
        Reply::Welcome { protocol: PROTOCOL, .. } => Ok(count == 0),
        Reply::Welcome { protocol, version, .. } => {
            Err(format!("its receiver is {} of protocol {protocol}, ours is {PROTOCOL}", printable(version)))
        }
        Reply::Failed { text, .. } => Err(format!("its receiver says: {}", printable(text))),
        Reply::Pong { beat, .. } => Ok(beat == count),
        Reply::Credit { .. } => Ok(false),
        Reply::Lines(_)
        | Reply::Listed { .. }
        | Reply::Held { .. }
        | Reply::Lacks { .. }
        | Reply::Ready
        | Reply::Done => Err("its receiver answers what was not asked".to_owned()),
    }
}

/// The longest answer of a receiver to a question, in bytes: most of it is a number for each lane.
const LONGEST_ANSWER: usize = 1 << 10;

/// The answer to one question, on its way in: exactly that and nothing more.
#[derive(Debug, Default)]
pub(super) struct HeartbeatAnswer(Vec<u8>);

impl HeartbeatAnswer {
    /// Takes in what has come; tells whether the `count`th question is answered. The error says what is wrong, fit for printing.
    pub(super) fn take(&mut self, listener: Listener, count: u64, bytes: &[u8]) -> Result<bool, String> {
        self.0.extend_from_slice(bytes);
        let other = || Err("the far end says something else than what it was asked for".to_owned());
        match listener {
            Listener::Shell => {
                let echo = question(listener, count);
                if !echo.starts_with(&self.0) {
                    return other();
                }
                Ok(self.0.len() == echo.len())
            }
            Listener::Receiver => {
                let Some((head, body)) = self.0.split_first_chunk() else { return Ok(false) };
                let (length, _) = frames::header(*head).map_err(|error| error.to_string())?;
                if length > LONGEST_ANSWER || body.len() > length {
                    return other();
                }
                if body.len() < length {
                    return Ok(false);
                }
                if is_answer(body, count)? { Ok(true) } else { other() }
            }
        }
    }
}

/// What a person must know when a key can run only a receiver that we cannot talk to. `why` is fit for printing.
pub(super) fn unusable(ssh: &SshSettings, why: &str) -> TargetError {
    TargetError::Operator(format!(
        "{}: {why}; the key can run nothing else, so `blat enrol --restrict` has to install the receiver anew, with a password or a key that may",
        place(ssh)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_a_receiver_and_noise_are_told_apart() {
        assert_eq!(greeted(b"# blat 1\n"), Ok(Some(Listener::Shell)));
        assert_eq!(greeted(b"Welcome!# blat-receiver 1\n"), Ok(Some(Listener::Receiver)));
        assert_eq!(greeted(b"Last login: today\n"), Ok(None));
        assert_eq!(greeted(b"\xff\n"), Ok(None));
        let other = greeted(b"# blat-receiver 2\x1b\n").expect_err("another framing");
        assert!(other.contains("# blat-receiver 2") && !other.contains('\x1b'), "{other}");
    }

    #[test]
    fn an_answer_may_come_in_parts_and_nothing_may_follow_it() {
        let mut answer = HeartbeatAnswer::default();
        assert_eq!(answer.take(Listener::Shell, 7, b"blat heart"), Ok(false));
        assert_eq!(answer.take(Listener::Shell, 7, b"beat 7\n"), Ok(true));
        assert!(answer.take(Listener::Shell, 7, b"more").is_err());
        assert!(HeartbeatAnswer::default().take(Listener::Shell, 7, b"anything\n").is_err());

        let pong = |beat, lanes| {
            let mut frame = Vec::new();
            frames::append(&mut frame, Lane::CONTROL, &Reply::Pong { beat, work: vec![0; lanes] }).expect("a frame");
            frame
        };
        let (mut answer, frame) = (HeartbeatAnswer::default(), pong(7, 8));
        for byte in &frame[..frame.len() - 1] {
            assert_eq!(answer.take(Listener::Receiver, 7, &[*byte]), Ok(false));
        }
        assert_eq!(answer.take(Listener::Receiver, 7, &frame[frame.len() - 1..]), Ok(true));
        assert!(answer.take(Listener::Receiver, 7, &frame).is_err());
        assert!(HeartbeatAnswer::default().take(Listener::Receiver, 7, &pong(6, 8)).is_err());
        assert!(HeartbeatAnswer::default().take(Listener::Receiver, 7, &pong(7, 5000)).is_err());
        assert!(
            HeartbeatAnswer::default()
                .take(Listener::Receiver, 7, &[9, 0, 0, 0, 0, 99])
                .is_ok_and(|is_whole| !is_whole)
        );
    }

    #[test]
    fn only_the_right_answer_of_a_receiver_of_our_protocol_is_a_sign_of_life() {
        let body = |reply: &Reply<'_>| {
            let mut frame = Vec::new();
            frames::append(&mut frame, Lane::CONTROL, reply).expect("a frame");
            frame.split_off(frames::HEADER)
        };
        let welcome = |protocol| body(&Reply::Welcome { protocol, version: "0.1.0", remains: Vec::new() });
        assert_eq!(is_answer(&welcome(PROTOCOL), 0), Ok(true));
        assert!(
            is_answer(&welcome(PROTOCOL + 1), 0).is_err_and(|why| why.contains(&format!("protocol {}", PROTOCOL + 1)))
        );
        let pong = body(&Reply::Pong { beat: 7, work: vec![0; 8] });
        assert_eq!((is_answer(&pong, 7), is_answer(&pong, 8)), (Ok(true), Ok(false)));
        assert!(is_answer(b"nonsense", 1).is_err());
    }
}
