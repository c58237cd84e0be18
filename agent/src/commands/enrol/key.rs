//! Letting our key in, by a password that is used once and kept nowhere.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use blat_config::SshSettings;
use blat_domain::util::text::printable;
use ssh2::{Channel, KeyboardInteractivePrompt, Prompt, Session};

use super::authorized_keys::{FREED, PublicKey, RESTORED};
use crate::transport::libssh2::connect::{BY_HAND, Greeted, greet_trusted, is_refusal};
use crate::transport::place;

/// How often a person may mistype; sshd itself allows six.
const TRIES: usize = 3;
/// The most of what a script says that is read, in bytes. A login shell may speak before it.
const MOST_SAID: usize = 64 << 10;

/// Logs in by password, from the file or from the terminal. Where the target takes none, the error says how to let the key in by
/// hand.
pub(super) fn login_by_password(ssh: &SshSettings, public: &str, file: Option<&Path>) -> anyhow::Result<Greeted> {
    let tries = if file.is_some() { 1 } else { TRIES };
    for remaining in (0..tries).rev() {
        let mut greeted = greet_trusted(ssh, BY_HAND)?;
        let session = &greeted.session;
        let methods = session.auth_methods(&ssh.user).map(str::to_owned);
        let methods = methods
            .map_err(|error| anyhow!("cannot ask {} how to log in: {}", place(ssh), printable(error.message())))?;
        let by_password = methods.split(',').any(|method| method == "password");
        let by_dialogue = methods.split(',').any(|method| method == "keyboard-interactive");
        if !by_password && !by_dialogue {
            bail!("{} takes no passwords; {}", place(ssh), by_hand(ssh, public));
        }
        let password = password(ssh, public, file)?;
        let login = if by_password {
            session.userauth_password(&ssh.user, &password)
        } else {
            let host = greeted.connection().context("cannot log in by dialogue")?;
            let mut dialogue = Dialogue { password: &password, rounds: 0, answered: 0, host };
            let login = session.userauth_keyboard_interactive(&ssh.user, &mut dialogue);
            if dialogue.is_over() {
                bail!(
                    "{} asks again and again without an end, so the login was given up; {}",
                    place(ssh),
                    by_hand(ssh, public)
                );
            }
            login
        };
        match login {
            Ok(()) => return Ok(greeted),
            Err(error) if is_refusal(&error) && remaining > 0 => eprintln!("that was not accepted; once more"),
            Err(error) if is_refusal(&error) => {
                bail!("{} does not accept the password; {}", place(ssh), by_hand(ssh, public))
            }
            Err(error) => {
                let why = greeted.cut().unwrap_or_else(|| printable(error.message()));
                bail!("cannot log in to {}: {why}", place(ssh))
            }
        }
    }
    bail!("no password was tried")
}

fn by_hand(ssh: &SshSettings, public: &str) -> String {
    // A shell would not understand `~DOMAIN\\user`.
    let user = &ssh.user;
    format!(
        "on {}, append this line to .ssh/authorized_keys in the home directory of {user}, then enrol again:\n{public}",
        ssh.host
    )
}

fn password(ssh: &SshSettings, public: &str, file: Option<&Path>) -> anyhow::Result<String> {
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the password file {}", path.display()))?;
        let first = text.lines().next().filter(|line| !line.is_empty());
        return first.map(str::to_owned).with_context(|| format!("the password file {} is empty", path.display()));
    }
    if !super::somebody_is_there() {
        bail!("nobody is there to type a password; give --password-file, or {}", by_hand(ssh, public));
    }
    rpassword::prompt_password(format!("Password of {}, used once to let the key in: ", place(ssh)))
        .context("cannot ask for a password")
}

/// Answers every question with the password: a server that asks by dialogue has that one question. One that goes on asking tries what else
/// it can have answered, so it is hung up on.
struct Dialogue<'p> {
    password: &'p str,
    rounds: u32,
    /// Rounds that had a question.
    answered: u32,
    host: TcpStream,
}

/// The most rounds that are answered with the password.
const MOST_ANSWERED: u32 = 3;
/// The most rounds, those that only tell something included.
const MOST_ROUNDS: u32 = 8;

impl Dialogue<'_> {
    fn is_over(&self) -> bool {
        self.answered > MOST_ANSWERED || self.rounds > MOST_ROUNDS
    }
}

impl KeyboardInteractivePrompt for Dialogue<'_> {
    fn prompt<'a>(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'a>]) -> Vec<String> {
        self.rounds += 1;
        self.answered += u32::from(!prompts.is_empty());
        if self.is_over() {
            // It may be gone already, which is the same.
            let _ = self.host.shutdown(Shutdown::Both);
            return vec![String::new(); prompts.len()];
        }
        prompts.iter().map(|_| self.password.to_owned()).collect()
    }
}

/// Adds the key to authorized_keys unless it is there.
pub(super) fn install(session: &Session, ssh: &SshSettings, public: &str) -> anyhow::Result<()> {
    let script = PublicKey::parse(public)?.addition();
    let (channel, said) = (|| -> std::io::Result<(Channel, Said)> {
        let mut channel = begin(session, &script)?;
        let said = finish(&mut channel)?;
        Ok((channel, said))
    })()
    .map_err(|error| anyhow!("the connection broke: {error}"))?;
    refusal(&channel, &said).with_context(|| by_hand(ssh, public))
}

/// A key that can do everything for a while, and the login by password that ends it: when this connection ends, however it does, the target puts the
/// restricted line back, unless the file was changed since.
pub(super) struct Freed {
    /// The login, which lives as long as its channel.
    _greeted: Greeted,
    channel: Channel,
}

impl Freed {
    /// Frees the key: its line in authorized_keys loses its forced command.
    ///
    /// # Errors
    /// The login fails, or the line cannot be changed; it is then as it was.
    pub(super) fn begin(greeted: Greeted, public: &str) -> anyhow::Result<Self> {
        let script = PublicKey::parse(public)?.freeing();
        let broke = |error: std::io::Error| anyhow!("the connection broke: {error}");
        let mut channel = begin(&greeted.session, &script).map_err(broke)?;
        let (mut said, mut portion) = (Vec::new(), [0; 1024]);
        while !has_line(&said, FREED) {
            let count = channel.read(&mut portion).map_err(broke)?;
            said.extend_from_slice(portion.get(..count).unwrap_or_default());
            if count == 0 || said.len() > MOST_SAID {
                finish(&mut channel).map_err(broke).and_then(|said| refusal(&channel, &said))?;
                bail!("the target did not run the script that was sent to its shell");
            }
        }
        Ok(Self { _greeted: greeted, channel })
    }

    /// Ends it. Where `outcome` is a failure, it says what has become of the key.
    pub(super) fn end(mut self, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
        let ended = finish(&mut self.channel)
            .map_err(|error| anyhow!("the connection broke: {error}"))
            .and_then(|said| refusal(&self.channel, &said).map(|()| has_line(said.out.as_bytes(), RESTORED)));
        let Err(error) = outcome else {
            // The line is another one by now, so nothing was to be put back.
            if let Err(why) = ended {
                println!("key        a copy of the old authorized_keys may be left beside it: {why:#}");
            }
            return Ok(());
        };
        Err(match ended {
            Ok(true) => anyhow!("{error:#}; the key is restricted as before"),
            Ok(false) => anyhow!(
                "{error:#}; somebody changed authorized_keys meanwhile: look whether the key is restricted in it"
            ),
            Err(why) => anyhow!("{error:#}; look in authorized_keys whether the key is restricted again: {why:#}"),
        })
    }
}

/// What a script of ours wrote.
struct Said {
    out: String,
    error: String,
}

fn has_line(text: &[u8], line: &str) -> bool {
    text.split(|byte| *byte == b'\n').any(|found| found == line.as_bytes())
}

/// Starts a script of ours over a login by password.
fn begin(session: &Session, script: &str) -> std::io::Result<Channel> {
    let mut channel = session.channel_session()?;
    channel.exec("exec /bin/sh")?;
    channel.write_all(script.as_bytes())?;
    channel.flush()?;
    Ok(channel)
}

/// Ends its input, and takes what it says until its own end.
fn finish(channel: &mut Channel) -> std::io::Result<Said> {
    channel.send_eof()?;
    let (mut out, mut error) = (Vec::new(), Vec::new());
    channel.take(MOST_SAID as u64).read_to_end(&mut out)?;
    channel.stderr().take(MOST_SAID as u64).read_to_end(&mut error)?;
    channel.close()?;
    channel.wait_close()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { out: text(out), error: text(error) })
}

fn refusal(channel: &Channel, said: &Said) -> anyhow::Result<()> {
    match channel.exit_status()? {
        0 => Ok(()),
        status => bail!("the target says: {} (status {status})", printable(said.error.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_asks_without_end_hears_the_password_three_times() {
        let rounds = |questions: usize| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let host = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
            let (mut far, _) = listener.accept().expect("a caller");
            let mut dialogue = Dialogue { password: "hunter2", rounds: 0, answered: 0, host };
            let prompts: Vec<Prompt<'_>> =
                (0..questions).map(|_| Prompt { text: "Password: ".into(), echo: false }).collect();
            let mut told = 0;
            for _ in 0..20_000 {
                told += dialogue.prompt("u", "", &prompts).iter().filter(|answer| !answer.is_empty()).count();
            }
            let is_over = dialogue.is_over();
            assert!(!is_over || far.read(&mut [0]).is_ok_and(|count| count == 0), "it is hung up on");
            (told, is_over)
        };
        assert_eq!(rounds(1), (3, true));
        assert_eq!(rounds(0), (0, true));
    }
}
