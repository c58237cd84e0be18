//! `credential_process`: a command whose output is the credentials.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use blat_domain::util::text::printable;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::super::fault::Fault;
use super::profile::Secret;

/// How long the command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most that it may print on either stream, in bytes.
const MOST: usize = 64 << 10;

/// What it prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PrintedCredentials {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<Timestamp>,
}

/// Runs the command; gives the credentials, and how long they last where it says so.
///
/// # Errors
/// It fails, takes too long, or prints something else.
pub(super) async fn run(command: &str, profile: &str) -> Result<(Secret, Option<Duration>), Fault> {
    let failed = |why: String| Fault::NoCredentials(format!("the credential_process of the profile {profile} {why}"));
    let mut process = Command::new("/bin/sh");
    process.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, output(process)).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(format!("cannot be run: {error}"))),
        Err(_) => return Err(failed(format!("took longer than {} seconds", PATIENCE.as_secs()))),
    };
    if output.stdout.len().max(output.stderr.len()) > MOST {
        return Err(failed(format!("prints more than {MOST} bytes")));
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default();
        return Err(failed(format!("failed ({}): {}", output.status, printable(said))));
    }
    // Without the parser's words: they could quote what was printed.
    let printed: PrintedCredentials = serde_json::from_slice(&output.stdout).map_err(|error| {
        failed(format!("prints no credentials: line {}, column {} is not as expected", error.line(), error.column()))
    })?;
    if printed.version != 1 {
        return Err(failed(format!("prints version {} of their form, and only 1 is known", printed.version)));
    }
    let lasting =
        printed.expiration.map(|end| Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default());
    if lasting == Some(Duration::ZERO) {
        return Err(failed("prints credentials that have expired".to_owned()));
    }
    let PrintedCredentials { access_key_id: id, secret_access_key: secret, session_token: token, .. } = printed;
    Ok((Secret { id, secret, token }, lasting))
}

/// What a command prints, of each stream no more than one byte beyond [`MOST`]: then it is ended.
async fn output(mut command: Command) -> io::Result<Output> {
    let mut child = command.spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(beginning(out), beginning(err))?;
    if stdout.len().max(stderr.len()) > MOST {
        child.start_kill()?;
    }
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MOST as u64 + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_gives_credentials_and_when_they_expire() {
        let print = |more: &str| {
            format!("echo '{{\"Version\": 1, \"AccessKeyId\": \"A\", \"SecretAccessKey\": \"hunter2\"{more}}}'")
        };
        let (secret, lasting) = run(&print(""), "p").await.expect("credentials");
        assert_eq!((secret.id.as_str(), secret.secret.as_str(), lasting), ("A", "hunter2", None));
        let (_, lasting) =
            run(&print(", \"Expiration\": \"2999-01-01T00:00:00+00:00\""), "p").await.expect("credentials");
        assert!(lasting > Some(Duration::from_secs(86_400)));
        for (bad, why) in [
            (print(", \"Expiration\": \"2001-01-01T00:00:00Z\""), "expired"),
            (print("").replace(": 1", ": 2"), "version 2"),
            (print(", x"), "no credentials"),
            ("echo never >&2; exit 3".to_owned(), "never"),
            ("exec cat /dev/zero".to_owned(), "prints more than"),
        ] {
            let Err(fault) = run(&bad, "p").await else { panic!("{bad}") };
            assert!(fault.to_string().contains(why) && !fault.to_string().contains("hunter2"), "{fault}");
        }
    }
}
