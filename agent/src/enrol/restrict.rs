//! `--restrict`: from then on our key can run nothing on the target but the receiver, for its one archive.
//!
//! The key's line in authorized_keys gets a forced command. The connection that does it stays open until another one has shown what the
//! key can do now: where that is not what it should be, the old file comes back.

use anyhow::{Context as _, anyhow, bail};
use blat_config::{Home, Settings, SshSettings};

use crate::target::TargetError;
use crate::target::answer::{Input, ask};
use crate::target::bounded::Bounds;
use crate::target::far_end::start;
use crate::target::install::{EXECUTABLE, shell_word};
use crate::target::transport::{Transport, place};
use crate::workplace;

/// Where the old file is kept until the new one has proved itself.
const BEFORE: &str = ".ssh/authorized_keys.blat-before";

/// Restricts the key whose public half is `public`. `transport` is connected, by that key, to a shell.
pub(super) async fn restrict(
    home: &Home,
    settings: &Settings,
    ssh: &SshSettings,
    transport: &Transport,
    public: &str,
) -> anyhow::Result<()> {
    let options = options(&settings.bin, &settings.archive);
    let by_hand = || {
        format!(
            "the line that lets the key in at {} has to become this one, by hand:\n{options} {public}\nnothing is changed",
            place(ssh)
        )
    };
    let mut words = public.split(' ');
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { bail!("the public key has no two words") };
    run(transport, replacement(&options, kind, key)).await.with_context(by_hand)?;
    // Another connection than the one that may still do everything.
    let now = match workplace::visiting_transport(home, settings) {
        Ok(fresh) => fresh.is_restricted().await,
        Err(error) => Err(TargetError::Link(format!("cannot make a scratch directory: {error}"))),
    };
    match now {
        Ok(true) => {
            run(transport, format!("cd\nrm -f {BEFORE}\n")).await.context("cannot remove the old authorized_keys")?
        }
        Ok(false) => {
            run(transport, format!("cd\nmv -f {BEFORE} .ssh/authorized_keys\n")).await?;
            bail!("the key is let in by another line than that in ~/.ssh/authorized_keys; {}", by_hand());
        }
        Err(error) => {
            run(transport, format!("cd\nmv -f {BEFORE} .ssh/authorized_keys\n")).await?;
            return Err(anyhow!("{EXECUTABLE} does not answer as the key's only command: {error}; {}", by_hand()));
        }
    }
    Ok(())
}

/// What stands before the key. sshd takes `\"` for a quote within quotes, and nothing else for anything; a login shell reads the rest.
fn options(bin: &str, archive: &str) -> String {
    format!("restrict,command=\"{}\"", start(bin, archive).replace('"', "\\\""))
}

/// Puts the options before the key in its first line and takes its other lines away. Of the options that were there, only those stay that
/// say from where and until when the key may be used. Written aside and renamed.
fn replacement(options: &str, kind: &str, key: &str) -> String {
    format!(
        r##"umask 077
cd
file=.ssh/authorized_keys
new=$file.blat.$$
[ -f $file ] || {{ echo 'there is no ~/.ssh/authorized_keys' >&2; exit 1; }}
options={options} kind={kind} key={key} awk '
/^[ \t]*#/ {{ print; next }}
{{
    words = ENVIRON["kind"] " " ENVIRON["key"]
    at = index($0, words)
    if (!at || substr($0, at + length(words), 1) !~ /^ ?$/) {{ print; next }}
    if (done) next
    done = 1
    before = "," substr($0, 1, at - 1)
    line = ENVIRON["options"]
    if (match(before, /,from="[^"]*"/)) line = line substr(before, RSTART, RLENGTH)
    if (match(before, /,expiry-time="[^"]*"/)) line = line substr(before, RSTART, RLENGTH)
    print line " " substr($0, at)
}}
END {{ exit !done }}' $file >$new || {{ rm -f $new; echo 'no line of ~/.ssh/authorized_keys has the key' >&2; exit 1; }}
chmod 600 $new && cp -p $file {BEFORE} && mv -f $new $file || exit 1
"##,
        options = shell_word(options),
        kind = shell_word(kind),
        key = shell_word(key),
    )
}

async fn run(transport: &Transport, script: String) -> Result<(), TargetError> {
    let script = format!("set -e\n{script}echo '# blat 1'\necho '# end 0'\n");
    ask(transport.exec("exec /bin/sh").await?, Input::Bytes(script.into_bytes()), Bounds::NONE, |_| Ok(())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_reaches_the_receiver_through_sshd_and_a_shell() {
        let (bin, archive) = ("my \"own\" bin", "it's\\\"an archive");
        let options = options(bin, archive);
        let command =
            options.strip_prefix("restrict,command=\"").and_then(|rest| rest.strip_suffix('"')).expect("quotes");
        // As sshd reads it.
        let command = command.replace("\\\"", "\"");
        let script = format!("printf '%s\\n' {command}");
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().expect("a shell");
        let words = format!("{bin}/blat-receiver\n--archive\n{archive}\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), words);
    }

    /// What becomes of this authorized_keys; none where the script fails.
    fn replaced(text: &str) -> Option<String> {
        let home = tempfile::tempdir().expect("a scratch directory");
        std::fs::create_dir(home.path().join(".ssh")).expect("a folder");
        let file = home.path().join(".ssh/authorized_keys");
        std::fs::write(&file, text).expect("a file");
        let script = replacement("restrict,command=\"'b\\\\' \\\"\"", "ssh-ed25519", "AAA+/=");
        let status = std::process::Command::new("/bin/sh").args(["-c", &script]).env("HOME", home.path()).status();
        let after = std::fs::read_to_string(&file).expect("the file");
        if status.expect("a shell").success() {
            let before = std::fs::read_to_string(home.path().join(BEFORE)).expect("the old file");
            assert_eq!(before, text, "it can be brought back");
            return Some(after);
        }
        assert_eq!(after, text, "a failure changes nothing");
        None
    }

    #[test]
    fn the_line_of_the_key_is_restricted_and_others_stay() {
        const OURS: &str = "restrict,command=\"'b\\\\' \\\"\"";
        let key = "ssh-ed25519 AAA+/= blat";
        assert_eq!(replaced(&format!("{key}\n")), Some(format!("{OURS} {key}\n")));
        let others = "# ssh-ed25519 AAA+/= old\nssh-rsa BBB me\n";
        let twice = format!("{others}from=\"10.0.0.*\",pty {key}\nno-pty {key}\nssh-rsa CCC you");
        let expected = format!("{others}{OURS},from=\"10.0.0.*\" {key}\nssh-rsa CCC you\n");
        assert_eq!(replaced(&twice), Some(expected), "other options could allow what the restriction forbids");
        assert_eq!(replaced(&format!("restrict,command=\"old\" {key}\n")), Some(format!("{OURS} {key}\n")));
        assert_eq!(replaced("ssh-rsa BBB me\n# ssh-ed25519 AAA+/= old\n"), None);
    }
}
