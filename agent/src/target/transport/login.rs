//! What is reported of a login that failed: whether we were logged in, what was printed meanwhile, and what to do.

use std::time::Duration;

use blat_config::SshSettings;
use blat_domain::text::{escaped, printable};
use tokio::time::timeout;

use super::known_hosts::KnownHost;
use super::libssh2::connect::greet;
use super::{key_refused, place, private_key, revoked_host_key, untrusted_host_key};
use crate::target::TargetError;

/// The most that is shown of what a login printed, in bytes: its end, where the reason stands.
const SHOWN: usize = 256;
/// For a host to show its key once more.
const SHOW_KEY: Duration = Duration::from_secs(10);
/// The exit status of the ssh client for its own failures; every other is that of what ran at the far end.
const OF_THE_CLIENT: i32 = 255;

/// The end of what a login printed.
#[derive(Debug, Default)]
pub(super) struct Printed {
    last: Vec<u8>,
    count: usize,
}

impl Printed {
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

/// How the ssh client ended, or did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With this status; none where a signal ended it.
    Exited(Option<i32>),
    /// It still runs; whether it has logged in.
    Running {
        /// It has opened its control socket, which it does after the login.
        logged_in: bool,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// We were logged in, and this is how that ended.
    LoggedIn(String),
    /// The host showed a key that is revoked.
    RevokedHostKey,
    /// The host showed a key that is not trusted, with this fingerprint where the client says it, fit for printing.
    HostKey(Option<String>),
    /// The server refused our key. These are the client's words, fit for printing.
    Denied(String),
    /// The way there, or the client itself; its last words, fit for printing.
    Other(String),
}

impl Cause {
    /// From how the client ended, the end of what it and the far end said on standard error, and whether anything came on standard output, which
    /// only somebody who is logged in can have printed.
    pub(super) fn of(end: End, said: &str, has_printed: bool) -> Self {
        match end {
            End::Running { logged_in } if logged_in || has_printed => {
                return Self::LoggedIn("it does not answer".into());
            }
            End::Exited(Some(status)) if status != OF_THE_CLIENT => {
                return Self::LoggedIn(format!("it ended with status {status} before it answered"));
            }
            End::Exited(_) if has_printed => return Self::LoggedIn("it ended before it answered".into()),
            End::Running { .. } | End::Exited(_) => {}
        }
        // Everything before the last line may be the far end's.
        let Some(last) = said.lines().rev().map(str::trim).find(|line| !line.is_empty()) else {
            return Self::Other("the ssh client said nothing".into());
        };
        // A connection that "timed out" or was "reset" may have done so before the login.
        let was_closed = last.starts_with("Connection to ") && last.ends_with(" closed by remote host.");
        if last.starts_with("channel ") || was_closed {
            return Self::LoggedIn(printable(last));
        }
        if last == "Host key verification failed." {
            if said.contains("REVOKED HOST KEY") {
                return Self::RevokedHostKey;
            }
            let fingerprint = said.split_whitespace().find(|word| word.starts_with("SHA256:"));
            return Self::HostKey(fingerprint.map(|fingerprint| printable(fingerprint.trim_end_matches('.'))));
        }
        if last.contains(": Permission denied (") {
            return Self::Denied(printable(last));
        }
        Self::Other(printable(last))
    }
}

/// Lines in which the ssh client says the same as in its last one, before it: they are not the host's words.
const ALSO_OF_THE_CLIENT: [&str; 3] =
    ["Connection timed out during banner exchange", "kex_exchange_identification: ", "banner exchange: "];

/// Splits what a client that failed and its host said into the host's words and the client's last ones.
pub(super) fn words_of_both(said: &str) -> (String, &str) {
    let (before, last) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    let of_the_host = |line: &&str| !ALSO_OF_THE_CLIENT.iter().any(|own| line.starts_with(own));
    (before.lines().filter(of_the_host).collect::<Vec<_>>().join("\n"), last.trim())
}

/// What a person must know of a client that did not log in: from why that is, all that it `said`, and what the host printed before the client's
/// last words.
pub(super) async fn report(
    settings: &SshSettings,
    known: &KnownHost,
    cause: Cause,
    said: &str,
    printed: &Printed,
) -> TargetError {
    let with_words = |words: String| format!("{words}{}", said_before(printed));
    match cause {
        Cause::RevokedHostKey => revoked_host_key(settings),
        Cause::HostKey(Some(fingerprint)) => untrusted_host_key(settings, known.acquaintance(), Some(&fingerprint)),
        Cause::HostKey(None) => {
            untrusted_host_key(settings, known.acquaintance(), offered_key(settings).await.as_deref())
        }
        Cause::Denied(words) => match private_key::trouble(settings, said).await {
            Some(trouble) => trouble,
            None => key_refused(settings, &with_words(words)),
        },
        Cause::LoggedIn(words) | Cause::Other(words) => {
            TargetError::Link(format!("not logged in: cannot connect to {}: {}", place(settings), with_words(words)))
        }
    }
}

/// The fingerprint of the key that a host shows, which the client does not say of one that is not known.
async fn offered_key(settings: &SshSettings) -> Option<String> {
    let settings = settings.clone();
    let greeted = tokio::task::spawn_blocking(move || greet(&settings, SHOW_KEY));
    match timeout(SHOW_KEY, greeted).await {
        Ok(Ok(Ok(greeted))) => Some(greeted.key.fingerprint()),
        // It was there a moment ago: the next try says more.
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => None,
    }
}

/// What a person must know when we were logged in and nothing came of it. `how` says how it ended, fit for printing.
pub(super) fn in_vain(ssh: &SshSettings, how: &str, printed: &Printed) -> TargetError {
    let printed = printed.shown().map_or_else(|| "it printed nothing".into(), |text| format!("it printed \"{text}\""));
    TargetError::Operator(format!(
        "logged in to {}, but the login runs no commands of ours: {how}; {printed}; that account needs a shell that runs commands: look there at its \
         shell, at start-up files that take long, end it or replace it, and whether it is for sftp or a forced command alone",
        place(ssh)
    ))
}

/// What a host said before a login failed, as an addition to a message; empty where it said nothing.
pub(super) fn said_before(printed: &Printed) -> String {
    printed.shown().map(|text| format!("; before that the host said \"{text}\"")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXITED: End = End::Exited(Some(OF_THE_CLIENT));

    #[test]
    fn what_a_login_printed_is_shown_from_its_end_in_256_bytes() {
        let mut printed = Printed::default();
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
        assert_eq!(Cause::of(EXITED, denied, false), Cause::Denied("u@h: Permission denied (publickey).".into()));
        // The same words of somebody else.
        for end in [End::Exited(Some(1)), End::Running { logged_in: true }] {
            let cause = Cause::of(end, "bash: ./rc: Permission denied (not ours).\n", false);
            assert!(matches!(cause, Cause::LoggedIn(_)), "{cause:?}");
        }
        assert!(matches!(Cause::of(EXITED, "", true), Cause::LoggedIn(_)));
        assert!(matches!(Cause::of(EXITED, "channel 0: open failed: connect failed\n", false), Cause::LoggedIn(_)));
        let closed = "Connection to h closed by remote host.\r\n";
        assert!(matches!(Cause::of(EXITED, closed, false), Cause::LoggedIn(_)));
        let silent = "Connection timed out during banner exchange\r\nConnection to 192.0.2.1 port 22 timed out\r\n";
        let cause = Cause::of(EXITED, silent, false);
        assert_eq!(cause, Cause::Other("Connection to 192.0.2.1 port 22 timed out".into()));
        assert!(matches!(Cause::of(End::Running { logged_in: false }, "", false), Cause::Other(_)));
        let silent = "Connection timed out during banner exchange\r\nConnection to UNKNOWN port 65535 timed out\r\n";
        assert!(matches!(Cause::of(EXITED, silent, false), Cause::Other(_)));
        let refused = Cause::of(EXITED, "ssh: connect to host h port 22: Connection refused", false);
        assert_eq!(refused, Cause::Other("ssh: connect to host h port 22: Connection refused".into()));
    }

    #[test]
    fn a_host_key_is_unknown_changed_or_revoked_by_the_clients_words() {
        let changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nThe fingerprint for the ED25519 key sent by the \
                       remote host is\nSHA256:abcdef.\nHost key verification failed.\r\n";
        assert_eq!(Cause::of(EXITED, changed, false), Cause::HostKey(Some("SHA256:abcdef".into())));
        let revoked = "@       WARNING: REVOKED HOST KEY DETECTED!               @\nHost key verification failed.\n";
        assert_eq!(Cause::of(EXITED, revoked, false), Cause::RevokedHostKey);
        let unknown = "No ED25519 host key is known for h and you have requested strict checking.\n\
                       Host key verification failed.\n";
        assert_eq!(Cause::of(EXITED, unknown, false), Cause::HostKey(None));
    }
}
