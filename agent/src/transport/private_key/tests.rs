use std::process;

use super::*;

/// A private key of this kind, made by `ssh-keygen`.
fn key(folder: &Path, name: &str, words: &[&str]) -> String {
    let path = folder.join(name);
    let made = process::Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(words).status();
    assert!(made.expect("ssh-keygen").success());
    std::fs::read_to_string(path).expect("what was just made")
}

fn what(text: &str, mode: u32) -> String {
    of_text(text.as_bytes(), mode, Path::new("/k/id")).map_or_else(String::new, |flaw| flaw.what)
}

#[test]
fn each_flaw_of_a_private_key_has_its_name_and_its_remedy() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let good = key(folder.path(), "good", &["-t", "ed25519", "-N", ""]);
    let classic = key(folder.path(), "classic", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]);
    let public = std::fs::read_to_string(folder.path().join("good.pub")).expect("its public half");
    assert_eq!((what(&good, 0o100_600), what(&classic, 0o100_400)), (String::new(), String::new()));
    for (text, mode, expected) in [
        (good.clone(), 0o644, "mode 0644"),
        (public, 0o644, "public half"),
        (good.replace('\n', "\r\n"), 0o600, "CR LF"),
        (classic.replace('\n', "\r\n"), 0o600, "CR LF"),
        (good.trim_end().to_owned(), 0o600, "no line end"),
        (format!("\u{feff}{good}"), 0o600, "before its first line"),
        (good[..good.len() / 2].to_owned(), 0o600, "-----END"),
        (String::new(), 0o600, "empty"),
        ("hello\n".to_owned(), 0o600, "no private key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\n".to_owned(), 0o600, "PuTTY"),
        (key(folder.path(), "locked", &["-t", "ed25519", "-N", "secret"]), 0o600, "passphrase"),
        (key(folder.path(), "old", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "secret"]), 0o600, "passphrase"),
        (key(folder.path(), "new", &["-t", "rsa", "-b", "2048", "-m", "PKCS8", "-N", "secret"]), 0o600, "passphrase"),
    ] {
        assert!(what(&text, mode).contains(expected), "{expected}: {:?} of {text:?}", what(&text, mode));
    }
    let remedy = |text: &str, path: &str| of_text(text.as_bytes(), 0o644, Path::new(path)).expect("a flaw").remedy;
    assert_eq!(remedy(&good, "/k/my id"), "run `chmod 600 '/k/my id'`");
    assert!(remedy("ssh-ed25519 AAAA", "/k/id.pub").ends_with("/k/id"));
}

#[tokio::test]
async fn what_a_host_says_of_a_sound_key_is_not_believed() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    key(folder.path(), "id", &["-t", "ed25519", "-N", ""]);
    let (identity, home) = (folder.path().join("id"), folder.path().to_owned());
    let (target, known_hosts) = ("perth".parse().expect("a name"), "/k/known".into());
    let (host, user, jumps) = ("h".into(), "u".into(), Vec::new());
    let mut ssh = SshSettings { target, host, port: 22, user, identity, known_hosts, home, jumps };
    for said in ["Load key \"/k/id\": error in libcrypto\n", "no such identity: /k/id: No such file or directory\n"] {
        ssh.identity = folder.path().join("id");
        assert!(trouble(&ssh, said).await.is_none(), "{said}");
        // Of a key that has a flaw they are the client's.
        ssh.identity = folder.path().join("missing");
        let error = trouble(&ssh, said).await.expect("no such file").to_string();
        assert!(error.contains("there is no such file; the ssh client says: "), "{error}");
    }
}
