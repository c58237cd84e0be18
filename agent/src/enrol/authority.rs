//! Certificate authorities of hosts: where known_hosts trusts one for a host, nobody has to confirm a fingerprint.
//!
//! libssh2 knows no certificates, so the system's ssh client is asked. It stops before any login: it only checks the host's certificate, and
//! says which key that is of.

use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use blat_config::SshSettings;

use crate::target::transport::place;
use crate::target::transport::policy::Policy;

/// From starting the client to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// The most of what it says that is read, in bytes.
const MOST_SAID: u64 = 256 << 10;

/// The fingerprint of the host's key, where a trusted authority has signed that key for this host; none where none has.
///
/// # Errors
/// The client cannot be run, or does not end.
pub(super) fn vouched_key(ssh: &SshSettings) -> anyhow::Result<Option<String>> {
    let mut said = tempfile::tempfile().context("cannot make a scratch file")?;
    let policy = Policy::of(ssh);
    let mut client = Command::new("ssh")
        .arg("-v")
        .args(["-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=none"])
        .envs(policy.environment)
        .args(policy.arguments)
        .args(["-T", "--", &ssh.host, "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().context("cannot use a scratch file")?)
        .spawn()
        .context("cannot run the ssh client, which checks certificates of hosts; install openssh-client")?;
    let begun = Instant::now();
    while client.try_wait().context("cannot wait for the ssh client")?.is_none() {
        if begun.elapsed() > PATIENCE {
            client.kill().and_then(|()| client.wait()).context("cannot end the ssh client")?;
            bail!("the certificate of {} is not checked within {} s", place(ssh), PATIENCE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    let mut text = Vec::new();
    said.rewind().and_then(|()| said.take(MOST_SAID).read_to_end(&mut text)).context("cannot read a scratch file")?;
    Ok(vouched(&String::from_utf8_lossy(&text)))
}

/// The fingerprint that the client's debug lines have of a key whose certificate it accepts.
fn vouched(said: &str) -> Option<String> {
    // The first such line is the client's: nobody else has spoken before it but in words that it escapes.
    let lines: Vec<&str> = said.lines().filter_map(|line| line.trim_end().strip_prefix("debug1: ")).collect();
    let shown = lines.iter().find_map(|line| line.strip_prefix("Server host certificate: "))?;
    let fingerprint = shown.split(' ').nth(1)?.trim_end_matches(',');
    let matches = lines.iter().position(|line| {
        line.starts_with("Host '")
            && line.contains("' is known and matches the ")
            && line.ends_with("-CERT host certificate.")
    })?;
    // Only then it looks at the certificate's hosts and times, and goes on only where these are right too.
    let goes_on = lines.iter().skip(matches).any(|line| *line == "SSH2_MSG_NEWKEYS sent");
    let took_plain_key = lines.iter().any(|line| line.starts_with("No matching CA found"));
    (goes_on && !took_plain_key && fingerprint.starts_with("SHA256:")).then(|| fingerprint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_that_the_client_accepts_vouches_for_a_key() {
        let shown = "debug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com SHA256:abc, serial 0 ID \"a host\" CA \
                     ssh-ed25519 SHA256:ca valid forever\r\n";
        let accepted = "debug1: Host 'perth' is known and matches the ED25519-CERT host certificate.\r\n";
        let goes_on = "debug1: SSH2_MSG_NEWKEYS sent\n";
        assert_eq!(vouched(&format!("{shown}{accepted}{goes_on}")).as_deref(), Some("SHA256:abc"));
        // It is of that authority, and for another host or another time.
        assert_eq!(vouched(&format!("{shown}{accepted}Host key verification failed.\n")), None);
        let plain_key = "debug1: No matching CA found. Retry with plain key\n";
        assert_eq!(vouched(&format!("{shown}{accepted}{plain_key}{goes_on}")), None);
        assert_eq!(vouched(shown), None);
        assert_eq!(vouched(&format!("{shown}Host key verification failed.\n")), None);
        let plain = "debug1: Server host key: ssh-ed25519 SHA256:abc\n\
                     debug1: Host 'perth' is known and matches the ED25519 host key.\n\
                     debug1: SSH2_MSG_NEWKEYS sent\n";
        assert_eq!(vouched(plain), None);
    }
}
