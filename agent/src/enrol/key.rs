//! Letting our key in, by a password that is used once and kept nowhere.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use blat_config::SshSettings;
use blat_domain::text::printable;
use ssh2::{KeyboardInteractivePrompt, Prompt, Session};

use crate::target::install::shell_word;
use crate::target::transport::libssh2::connect::{BY_HAND, Greeted, greet_trusted, is_refusal};
use crate::target::transport::place;

/// How often a person may mistype; sshd itself allows six.
const TRIES: usize = 3;
/// The most of what the installation says that is read, in bytes.
const MOST_SAID: u64 = 4 << 10;

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
    format!("on the target, append this line to ~{}/.ssh/authorized_keys, then enrol again:\n{public}", ssh.user)
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

/// Adds the key to authorized_keys unless it is there, and gives that file and its directory the modes that sshd wants.
pub(super) fn install(session: &Session, public: &str) -> anyhow::Result<()> {
    run(session, &installation(public, second_word(public)?))
}

/// Gives the key a line of its own without any options, in the place of all that it has: it is not restricted any more.
pub(super) fn install_anew(session: &Session, public: &str) -> anyhow::Result<()> {
    let key = second_word(public)?;
    let script = format!(
        "set -eu\numask 077\ncd\nfile=.ssh/authorized_keys\nnew=$file.blat.$$\n\
         if [ -f $file ]; then grep -vF {} $file >$new || true; chmod 600 $new; mv -f $new $file; fi\n{}",
        shell_word(key),
        installation(public, key)
    );
    run(session, &script)
}

fn second_word(public: &str) -> anyhow::Result<&str> {
    public.split(' ').nth(1).context("the public key has no second word")
}

/// Runs a script of ours over a login by password.
fn run(session: &Session, script: &str) -> anyhow::Result<()> {
    let said = (|| -> std::io::Result<(String, i32)> {
        let mut channel = session.channel_session()?;
        channel.exec("exec /bin/sh")?;
        channel.write_all(script.as_bytes())?;
        channel.send_eof()?;
        let mut said = String::new();
        channel.stderr().take(MOST_SAID).read_to_string(&mut said)?;
        channel.close()?;
        channel.wait_close()?;
        Ok((said, channel.exit_status()?))
    })()
    .map_err(|error| anyhow!("the connection broke: {error}"))?;
    match said {
        (_, 0) => Ok(()),
        (said, status) => bail!("the target says: {} (status {status})", printable(said.trim())),
    }
}

/// Written aside and renamed: whoever logs in meanwhile finds the old file or the new one.
fn installation(public: &str, key: &str) -> String {
    format!(
        "set -eu\numask 077\ncd\nmkdir -p .ssh\nchmod 700 .ssh\nfile=.ssh/authorized_keys\n\
         if [ -f $file ] && grep -qF {key} $file; then chmod go-w $file; exit 0; fi\n\
         new=$file.blat.$$\n{{ if [ -f $file ]; then awk 1 $file; fi; printf '%s\\n' {line}; }} >$new\n\
         chmod 600 $new\nmv -f $new $file\n",
        key = shell_word(key),
        line = shell_word(public),
    )
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

    #[test]
    fn a_key_is_added_once_and_other_lines_stay() {
        let home = tempfile::tempdir().expect("a scratch directory");
        let file = home.path().join(".ssh/authorized_keys");
        let run = |public: &str| {
            let script = installation(public, public.split(' ').nth(1).expect("a key"));
            let status = std::process::Command::new("/bin/sh").args(["-c", &script]).env("HOME", home.path()).status();
            assert!(status.expect("a shell").success());
            std::fs::read_to_string(&file).expect("the file")
        };
        assert_eq!(run("ssh-ed25519 AAA+/= blat's"), "ssh-ed25519 AAA+/= blat's\n");
        std::fs::write(&file, "# mine\nssh-rsa BBB me").expect("an own file");
        let both = "# mine\nssh-rsa BBB me\nssh-ed25519 AAA+/= blat's\n";
        assert_eq!(run("ssh-ed25519 AAA+/= blat's"), both, "behind a line without its end");
        assert_eq!(run("ssh-ed25519 AAA+/= another comment"), both, "the same key is not added again");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&home.path().join(".ssh"))), (0o600, 0o700));
    }
}
