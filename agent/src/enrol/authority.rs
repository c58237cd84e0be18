//! Certificate authorities of hosts: where known_hosts trusts one for a host, nobody has to confirm a fingerprint.
//!
//! libssh2 knows no certificates, so the system's ssh client is asked. It stops before any login: it only checks the host's certificate, and
//! says which key that is of.

use std::io::Read as _;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use blat_config::SshSettings;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::target::transport::place;
use crate::target::transport::policy::Policy;

/// From starting the client to its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that it may say, in bytes. Whoever answers there can have it say more and more.
const MOST_SAID: usize = 256 << 10;
/// How much of that is read at once, in bytes.
const PORTION: usize = 16 << 10;

/// The fingerprint of the host's key, where a trusted authority has signed that key for this host; none where none has.
///
/// # Errors
/// The client cannot be run, does not end, or says too much.
pub(super) fn vouched_key(ssh: &SshSettings) -> anyhow::Result<Option<String>> {
    let policy = Policy::of(ssh);
    let mut client = Command::new("ssh")
        .arg("-v")
        .args(["-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=none"])
        .envs(policy.environment)
        .args(policy.arguments)
        .args(["-T", "--", &ssh.host, "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run the ssh client, which checks certificates of hosts; install openssh-client")?;
    let said = client.stderr.take().context("the ssh client has no standard error").and_then(|stderr| all(stderr, ssh));
    // It has nothing to do any more that anybody waits for.
    client.kill().and_then(|()| client.wait()).context("cannot end the ssh client")?;
    Ok(vouched(&String::from_utf8_lossy(&said?)))
}

/// All that the client says.
fn all(mut stderr: ChildStderr, ssh: &SshSettings) -> anyhow::Result<Vec<u8>> {
    let (due, mut said, mut portion) = (Instant::now() + PATIENCE, Vec::new(), [0; PORTION]);
    loop {
        let rest = due.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            bail!("the certificate of {} is not checked within {} s", place(ssh), PATIENCE.as_secs());
        }
        let rest = Timespec { tv_sec: rest.as_secs().cast_signed(), tv_nsec: rest.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&stderr, PollFlags::IN)], Some(&rest)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error).context("cannot wait for the ssh client"),
        }
        let count = stderr.read(&mut portion).context("cannot read what the ssh client says")?;
        if count == 0 {
            return Ok(said);
        }
        if said.len() + count > MOST_SAID {
            let (place, most) = (place(ssh), MOST_SAID >> 10);
            bail!(
                "cannot check the certificate of {place}: whoever answers there sends more than {most} KiB of messages before the login"
            );
        }
        said.extend_from_slice(&portion[..count]);
    }
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
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_host_that_has_the_client_say_more_and_more_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let flood = std::thread::spawn(move || {
            let (mut host, _) = listener.accept().expect("the client");
            let line = [&[b'x'; 1000], b"\r\n".as_slice()].concat();
            // The client shows each of these, and gives up only after more of them. A connection that ends early would take some back.
            let is_whole = (0..1000).all(|_| host.write_all(&line).is_ok());
            // Either is an end.
            let _ = host.read_to_end(&mut Vec::new());
            is_whole
        });
        let (identity, known_hosts) = ("/k/id".into(), "/k/known".into());
        let (target, host) = ("perth".parse().expect("a name"), "127.0.0.1".into());
        let (user, home, jumps) = ("u".into(), "/".into(), Vec::new());
        let ssh = SshSettings { target, host, port, user, identity, known_hosts, home, jumps };
        let error = vouched_key(&ssh).expect_err("too much");
        assert!(error.to_string().contains("more than 256 KiB"), "{error:#}");
        flood.join().expect("no panic");
    }

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
