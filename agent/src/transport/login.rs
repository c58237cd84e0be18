//! What is reported of a login that failed: whether we were logged in, what was printed meanwhile, and what to do.

use std::process::ExitStatus;

use blat_config::SshSettings;
use blat_domain::util::text::{escaped, printable};

use super::known_hosts::{HostKeyVerdict, KnownHost};
use super::libssh2::shown_key;
use super::{key_refused, place, private_key, revoked_host_key, untrusted_host_key};
use crate::model::error::TargetError;

/// The most that is shown of what a login printed, in bytes: its end, where the reason stands.
const SHOWN: usize = 256;
/// The exit status of the ssh client for its own failures; every other is that of what ran at the far end.
const OF_THE_CLIENT: i32 = 255;

/// The end of what a login printed.
#[derive(Debug, Default)]
pub(super) struct LoginOutput {
    last: Vec<u8>,
    count: usize,
}

impl LoginOutput {
    /// Takes in what was printed.
    pub(super) fn add(&mut self, some: &[u8]) {
        self.count += some.len();
        self.last.extend_from_slice(&some[some.len().saturating_sub(SHOWN)..]);
        let surplus = self.last.len().saturating_sub(SHOWN);
        self.last.drain(..surplus);
    }

    /// How much was printed, in bytes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Its last bytes on one line, fit for printing; none where there was nothing.
    pub(super) fn shown(&self) -> Option<String> {
        let cut = if self.count > self.last.len() { "…" } else { "" };
        // What was cut may begin within a character.
        let whole = self.last.iter().position(|byte| cut.is_empty() || byte & 0xc0 != 0x80).unwrap_or_default();
        let text = String::from_utf8_lossy(&self.last[whole..]);
        let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(escaped).collect();
        (!lines.is_empty()).then(|| format!("{cut}{}", lines.join("; ")))
    }
}

/// How the ssh client ended. No host can make any of this up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// How it ended; none where it still runs.
    pub(super) exit: Option<Exited>,
    /// Whether it was logged in: it opens its control socket after the login, and what runs at the far end may print then.
    pub(super) logged_in: bool,
}

/// How the ssh client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exited {
    /// With this status.
    With(i32),
    /// By a signal, or nobody can say.
    Unknown,
}

impl Exited {
    /// From what waiting for it gives.
    pub(super) fn of(waited: std::io::Result<ExitStatus>) -> Self {
        waited.ok().and_then(|status| status.code()).map_or(Self::Unknown, Self::With)
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// We were logged in, and this is how that ended, fit for printing.
    LoggedIn(String),
    /// The client refused the host's key. These are its words, fit for printing.
    HostKey(String),
    /// The server refused our key. These are the client's words, fit for printing.
    Denied(String),
    /// The way there, or the client itself; its words, fit for printing.
    Other(String),
}

impl Cause {
    /// From how the client ended, and from what it and the far end wrote to standard error.
    pub(super) fn of(end: End, said: &str) -> Self {
        // Everything before the last words may be the far end's, and once we were logged in, these too.
        let (_, last) = words_of_both(said);
        match end.exit {
            None if end.logged_in => return Self::LoggedIn("it does not answer".into()),
            Some(Exited::With(status)) if status != OF_THE_CLIENT => {
                return Self::LoggedIn(format!("it ended with status {status} before it answered"));
            }
            Some(_) if end.logged_in => {
                let is_of_the_connection = last.starts_with("channel ") || last.starts_with("Connection to ");
                let how = if is_of_the_connection { printable(last) } else { "it ended before it answered".into() };
                return Self::LoggedIn(how);
            }
            None | Some(_) => {}
        }
        if last.is_empty() {
            return Self::Other("the ssh client said nothing".into());
        }
        let words = on_one_line(last);
        if is_quoting(last) {
            Self::Other(words)
        } else if last == "Host key verification failed." {
            Self::HostKey(words)
        } else if last.contains(": Permission denied (") {
            Self::Denied(words)
        } else {
            Self::Other(words)
        }
    }
}

/// What lines of the ssh client begin with that have words of the far end in them before it has proved which host it is. They come with
/// the line ends that they have: whatever follows may be anybody's.
const QUOTING: [&str; 4] = [
    "Unable to negotiate with ",
    "Received disconnect from ",
    "Bad remote protocol version identification: ",
    "GSSAPI Error",
];

fn is_quoting(line: &str) -> bool {
    QUOTING.iter().any(|beginning| line.starts_with(beginning))
}

/// Lines in which the ssh client says the same as in its last one, before it: they are not the host's words.
const ALSO_OF_THE_CLIENT: [&str; 3] =
    ["Connection timed out during banner exchange", "kex_exchange_identification: ", "banner exchange: "];

/// Splits what a client that failed and its host said into the host's words and the client's last ones: its last line, or all from the line on in
/// which it quotes a stranger.
pub(super) fn words_of_both(said: &str) -> (String, &str) {
    let said = said.trim_end();
    let mut starts = std::iter::once(0).chain(said.match_indices('\n').map(|(end, _)| end + 1));
    let quote = starts.find(|start| is_quoting(&said[*start..]));
    let (before, last) = match quote {
        Some(start) => said.split_at(start),
        None => said.rsplit_once('\n').unwrap_or(("", said)),
    };
    let of_the_host = |line: &&str| !ALSO_OF_THE_CLIENT.iter().any(|own| line.starts_with(own));
    (before.lines().filter(of_the_host).collect::<Vec<_>>().join("\n"), last.trim())
}

/// Words fit for printing.
fn on_one_line(words: &str) -> String {
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    printable(&lines.join("; "))
}

/// What a person must know of a client that did not log in: from why that is, all that it `said`, and what the host printed before the client's
/// last words.
pub(super) async fn report(
    settings: &SshSettings,
    known: &KnownHost,
    cause: Cause,
    said: &str,
    printed: &LoginOutput,
) -> TargetError {
    let with_words = |words: String| format!("{words}{}", said_before(printed));
    let no_connection = |words: String| {
        TargetError::Link(format!("not logged in: cannot connect to {}: {}", place(settings), with_words(words)))
    };
    match cause {
        Cause::HostKey(words) => match shown_key(settings).await {
            Some((HostKeyVerdict::Revoked, _)) => revoked_host_key(settings),
            Some((HostKeyVerdict::Unknown | HostKeyVerdict::Changed, shown)) => {
                untrusted_host_key(settings, known.acquaintance(), Some(&shown))
            }
            Some((HostKeyVerdict::Trusted, _)) | None => no_connection(words),
        },
        Cause::Denied(words) => match private_key::trouble(settings, said).await {
            Some(trouble) => trouble,
            None => key_refused(settings, &with_words(words)),
        },
        Cause::LoggedIn(words) | Cause::Other(words) => no_connection(words),
    }
}

/// What a person must know when we were logged in and nothing came of it. `how` says how it ended, fit for printing.
pub(super) fn in_vain(ssh: &SshSettings, how: &str, printed: &LoginOutput) -> TargetError {
    let printed = printed.shown().map_or_else(|| "it printed nothing".into(), |text| format!("it printed \"{text}\""));
    TargetError::Operator(format!(
        "logged in to {}, but the login runs no commands of ours: {how}; {printed}; that account needs a shell that runs commands: look there at its \
         shell, at start-up files that take long, end it or replace it, and whether it is for sftp or a forced command alone",
        place(ssh)
    ))
}

/// What a host said before a login failed, as an addition to a message; empty where it said nothing.
pub(super) fn said_before(printed: &LoginOutput) -> String {
    printed.shown().map(|text| format!("; before that the host said \"{text}\"")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXITED: End = End { exit: Some(Exited::With(OF_THE_CLIENT)), logged_in: false };

    #[test]
    fn what_a_login_printed_is_shown_from_its_end_in_256_bytes() {
        let mut printed = LoginOutput::default();
        assert_eq!(printed.shown(), None);
        printed.add(b"Welcome\r\n\x1b[31mThis account is\xff locked.\n\n");
        assert_eq!(printed.shown().as_deref(), Some("Welcome; \\u{1b}[31mThis account is\u{fffd} locked."));
        for _ in 0..1000 {
            printed.add("€".as_bytes());
        }
        printed.add(b" the end");
        let shown = printed.shown().expect("something");
        assert!(shown.starts_with("…€") && shown.ends_with("€ the end") && shown.len() <= SHOWN + 3, "{shown}");
        assert!(printed.last.len() <= SHOWN && printed.count() > 3000);
    }

    #[test]
    fn a_client_that_says_the_same_twice_is_not_the_host() {
        let silent =
            "Keep out!\r\nConnection timed out during banner exchange\r\nConnection to 192.0.2.1 port 22 timed out\r\n";
        assert_eq!(words_of_both(silent), ("Keep out!".into(), "Connection to 192.0.2.1 port 22 timed out"));
        let gone =
            "kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by 192.0.2.1 port 22\r\n";
        assert_eq!(words_of_both(gone), (String::new(), "Connection reset by 192.0.2.1 port 22"));
        assert_eq!(words_of_both("u@h: Permission denied (publickey).\n").0, "");
    }

    #[test]
    fn whether_we_were_logged_in_decides_who_said_what() {
        let denied = "Permission denied, please try again\nu@h: Permission denied (publickey).\n";
        assert_eq!(Cause::of(EXITED, denied), Cause::Denied("u@h: Permission denied (publickey).".into()));
        // The same words of somebody else.
        let by_itself = End { exit: Some(Exited::With(1)), logged_in: false };
        for end in [by_itself, End { exit: None, logged_in: true }, End { logged_in: true, ..EXITED }] {
            let cause = Cause::of(end, "bash: ./rc: Permission denied (not ours).\n");
            assert!(matches!(cause, Cause::LoggedIn(_)), "{cause:?}");
        }
        for words in ["channel 0: open failed: connect failed", "Connection to h closed by remote host."] {
            assert_eq!(Cause::of(End { logged_in: true, ..EXITED }, words), Cause::LoggedIn(words.into()));
            // Whoever says so before the login.
            assert_eq!(Cause::of(EXITED, words), Cause::Other(words.into()));
        }
        let silent = "Connection timed out during banner exchange\r\nConnection to 192.0.2.1 port 22 timed out\r\n";
        let cause = Cause::of(EXITED, silent);
        assert_eq!(cause, Cause::Other("Connection to 192.0.2.1 port 22 timed out".into()));
        let killed = End { exit: Some(Exited::Unknown), logged_in: false };
        for end in [End { exit: None, logged_in: false }, killed] {
            assert_eq!(Cause::of(end, ""), Cause::Other("the ssh client said nothing".into()));
        }
        let refused = Cause::of(EXITED, "ssh: connect to host h port 22: Connection refused");
        assert_eq!(refused, Cause::Other("ssh: connect to host h port 22: Connection refused".into()));
        assert_eq!(
            Cause::of(EXITED, "No key is known for h.\r\nHost key verification failed.\r\n"),
            Cause::HostKey("Host key verification failed.".into())
        );
    }

    #[test]
    fn what_a_stranger_has_the_client_print_is_never_taken_for_its_own_words() {
        let before = "Warning: something of this machine\r\n";
        for line in [
            "Unable to negotiate with 192.0.2.1 port 22: no matching host key type found. Their offer: x",
            "Received disconnect from 192.0.2.1 port 22:2: x",
            "Bad remote protocol version identification: 'x",
        ] {
            for words in [
                "channel 0: open failed: no",
                "u@h: Permission denied (publickey).",
                "REVOKED HOST KEY\nHost key verification failed.",
                "Load key \"/k/id\": error in libcrypto\nu@h: Permission denied (publickey).",
                "stdio forwarding failed",
            ] {
                let said = format!("{before}{line}\n{words}\r\nDisconnected from 192.0.2.1 port 22\r\n");
                for said in [said.as_str(), &format!("{before}{line}\n{words}\r\n"), &format!("{line} {words}\r\n")] {
                    let Cause::Other(cause) = Cause::of(EXITED, said) else { panic!("{said:?}") };
                    assert!(cause.starts_with(line) && !cause.contains('\n'), "{cause:?}");
                    assert!(words_of_both(said).1.starts_with(line), "{said:?}");
                }
            }
        }
    }
}
