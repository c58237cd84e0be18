//! `--restrict`: from then on our key can run nothing on the target but the receiver, for its one archive.
//!
//! The key's line in authorized_keys gets a forced command. The connection that does it stays open until another one has shown what the
//! key can do now: where that is not what it should be, the old file comes back.

use anyhow::{Context as _, anyhow, bail};
use blat_config::{Home, Settings, SshSettings};

use super::authorized_keys::PublicKey;
use crate::model::error::TargetError;
use crate::sync::context;
use crate::targets::host::install::EXECUTABLE;
use crate::targets::host::remote::start;
use crate::transport::answer::{CommandInput, ask};
use crate::transport::bounded::Bounds;
use crate::transport::{Transport, place};

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
    let key = PublicKey::parse(public)?;
    run(transport, key.restriction(&options)).await.with_context(by_hand)?;
    // Another connection than the one that may still do everything.
    let now = match context::visiting_transport(home, settings) {
        Ok(fresh) => fresh.is_restricted().await,
        Err(error) => Err(TargetError::Link(format!("cannot make a scratch directory: {error}"))),
    };
    match now {
        Ok(true) => run(transport, PublicKey::forgetting()).await.context("cannot remove the old authorized_keys")?,
        Ok(false) => {
            run(transport, key.undoing(&options)).await?;
            bail!("the key is let in by another line than that in ~/.ssh/authorized_keys; {}", by_hand());
        }
        Err(error) => {
            run(transport, key.undoing(&options)).await?;
            return Err(anyhow!("{EXECUTABLE} does not answer as the key's only command: {error}; {}", by_hand()));
        }
    }
    Ok(())
}

/// What stands before the key. sshd takes `\"` for a quote within quotes, and nothing else for anything; a login shell reads the rest.
fn options(bin: &str, archive: &str) -> String {
    format!("restrict,command=\"{}\"", start(bin, archive).replace('"', "\\\""))
}

async fn run(transport: &Transport, script: String) -> Result<(), TargetError> {
    ask(transport.exec("exec /bin/sh").await?, CommandInput::Bytes(script.into_bytes()), Bounds::NONE, |_| Ok(())).await
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
}
