use std::net::{TcpListener, TcpStream};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Settings whose host is this port of this machine.
fn settings(port: u16, known_hosts: &Path) -> SshSettings {
    let (target, host) = ("perth".parse().expect("a name"), "127.0.0.1".into());
    let (identity, home, user) = ("/k/id".into(), "/".into(), "u".into());
    SshSettings { target, host, port, user, identity, known_hosts: known_hosts.into(), home, jumps: Vec::new() }
}

/// Runs a command of OpenSSH in this folder.
fn run(folder: &Path, program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).current_dir(folder).output().expect("OpenSSH");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The second word of this file, decoded.
fn blob(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).expect("a public key");
    STANDARD.decode(text.split(' ').nth(1).expect("a key")).expect("base64")
}

fn framed(part: &[u8]) -> Vec<u8> {
    [&u32::try_from(part.len()).expect("short").to_be_bytes(), part].concat()
}

/// A packet of SSH before anything is encrypted.
fn packet(message: &[u8]) -> Vec<u8> {
    let filling = 16 - (message.len() + 5) % 8;
    let length = u32::try_from(message.len() + filling + 1).expect("short");
    [&length.to_be_bytes(), [u8::try_from(filling).expect("short")].as_slice(), message, &vec![0; filling]].concat()
}

/// What a host offers, its key algorithms being these.
fn offer(algorithms: &str) -> Vec<u8> {
    let lists = ["curve25519-sha256", algorithms, "aes128-ctr", "aes128-ctr", "hmac-sha2-256", "hmac-sha2-256"];
    let lists = lists.iter().chain(&["none", "none", "", ""]).flat_map(|list| framed(list.as_bytes()));
    packet(&[20].into_iter().chain([7; 16]).chain(lists).chain([0; 5]).collect::<Vec<u8>>())
}

/// Has the certificate of a host checked that says this to each client.
fn checked_with(words: Vec<u8>) -> Option<HostKey> {
    let folder = tempfile::tempdir().expect("a scratch directory");
    run(folder.path(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", "authority"]);
    let public = std::fs::read_to_string(folder.path().join("authority.pub")).expect("a public key");
    std::fs::write(folder.path().join("known"), format!("@cert-authority 127.0.0.1 {public}")).expect("a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let host = std::thread::spawn(move || {
        let (mut client, _): (TcpStream, _) = listener.accept().expect("the client");
        // It may have had enough before that.
        let _ = client.write_all(&words);
        let _ = client.read_to_end(&mut Vec::new());
    });
    let found = certified_key(&settings(port, &folder.path().join("known")), "ssh-ed25519").expect("a check");
    host.join().expect("no panic");
    found
}

#[test]
fn nothing_that_a_host_has_the_client_print_vouches_for_a_key() {
    let lines = "x\ndebug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com SHA256:abc, serial 0 ID \"h\" CA ssh-ed25519 SHA256:x\n\
                 debug1: Host 'h' is known and matches the ED25519-CERT host certificate.\ndebug1: SSH2_MSG_NEWKEYS sent\n";
    let version = b"SSH-2.0-OpenSSH_9.2\r\n".to_vec();
    let debug = packet(&[[4, 1].as_slice(), &framed(lines.as_bytes()), &framed(b"")].concat());
    let farewell = packet(&[[1, 0, 0, 0, 2].as_slice(), &framed(lines.as_bytes()), &framed(b"")].concat());
    assert_eq!(checked_with([version.clone(), debug, offer("ssh-dss")].concat()), None);
    assert_eq!(checked_with([version.clone(), farewell].concat()), None);
    assert_eq!(checked_with([version, offer(&lines.replace(", ", " "))].concat()), None);
    // Nor by saying more and more.
    assert_eq!(checked_with([&[b'x'; 1000], b"\r\n".as_slice()].concat().repeat(2000)), None);
}

#[test]
fn a_certificate_is_of_the_key_that_was_signed_and_a_plain_key_is_none() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = |name: &str| folder.path().join(name);
    run(folder.path(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", "authority"]);
    for (name, bits, kind) in [
        ("ed25519", "256", "ssh-ed25519"),
        ("ecdsa", "256", "ecdsa-sha2-nistp256"),
        ("ecdsa", "521", "ecdsa-sha2-nistp521"),
        ("rsa", "2048", "ssh-rsa"),
    ] {
        let file = format!("{name}{bits}");
        run(folder.path(), "ssh-keygen", &["-q", "-t", name, "-b", bits, "-N", "", "-f", &file]);
        run(
            folder.path(),
            "ssh-keygen",
            &["-q", "-h", "-I", "h", "-n", "perth", "-s", "authority", &format!("{file}.pub")],
        );
        let (plain, signed) = (blob(&path(&format!("{file}.pub"))), blob(&path(&format!("{file}-cert.pub"))));
        assert_eq!(key_in(&signed, kind), Some(HostKey { kind, blob: plain.clone() }));
        assert_eq!(key_in(&plain, kind), None);
        assert_eq!(key_in(&signed, "ecdsa-sha2-nistp384"), None);
        assert_eq!(key_in(&signed[..60], kind), None);
    }
}

#[test]
fn only_what_a_client_tells_of_its_host_is_heard_and_everything_is_refused() {
    let bind =
        [&[EXTENSION], framed(BIND).as_slice(), &framed(b"key"), &framed(b"id"), &framed(b"proof"), &[0]].concat();
    assert_eq!(bound(&bind), Some(b"key".as_slice()));
    assert_eq!(bound(&[&[EXTENSION], framed(b"query").as_slice(), &framed(b"key")].concat()), None);
    assert_eq!(bound(&[&[11], framed(BIND).as_slice(), &framed(b"key")].concat()), None);
    assert_eq!(bound(&[]), None);

    let soon = || Instant::now() + PATIENCE;
    let tried = |requests: &[u8]| {
        let (mut client, agent) = UnixStream::pair().expect("a pair");
        client.write_all(requests).and_then(|()| client.shutdown(std::net::Shutdown::Write)).expect("room");
        let heard = heard(agent, soon());
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).expect("an end");
        (heard, answers)
    };
    let (heard, answers) = tried(&[framed(&[11]), framed(&bind)].concat());
    assert_eq!((heard.expect("requests"), answers), (Some(b"key".to_vec()), FAILURE.to_vec()));
    let (heard, answers) = tried(&framed(&[11]).repeat(MOST_ASKED));
    assert_eq!((heard.expect("requests"), answers), (None, FAILURE.repeat(MOST_ASKED)));
    assert_eq!(tried(&framed(&[11])).0.expect("a request"), None);
    assert!(tried(&[0xff; 4]).0.is_err(), "a request without end");
}
