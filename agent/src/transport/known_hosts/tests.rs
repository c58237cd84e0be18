use super::*;

const ONE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIKtQoI0yVXDCsnEYvXsFhMWcFhvWJGHvS2eyFhrlTbJb";
const TWO: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIF7YFGSyeZmwyWXpN1tq0s0tnEItGXq4w1TnZyX3kqWT";

fn judged(known_hosts: &str, host: &str, port: u16, key: &str) -> Result<HostKeyVerdict, String> {
    let known = KnownHost::parse(known_hosts.as_bytes(), host, port)?;
    Ok(known.judge(&STANDARD.decode(key).expect("base64")))
}

/// The verdict on the key `ONE` of perth, at the usual port.
fn of_perth(known_hosts: &str) -> Result<HostKeyVerdict, String> {
    judged(known_hosts, "perth", 22, ONE)
}

#[test]
fn a_key_counts_for_its_host_and_its_port_only() {
    let known = format!("# ours\nperth ssh-ed25519 {ONE}\n[perth]:2222,[10.0.0.1]:2222 ssh-ed25519 {TWO} comment\n");
    assert_eq!(judged(&known, "Perth", 22, ONE), Ok(HostKeyVerdict::Trusted));
    assert_eq!(judged(&known, "perth", 2222, TWO), Ok(HostKeyVerdict::Trusted));
    assert_eq!(judged(&known, "10.0.0.1", 2222, TWO), Ok(HostKeyVerdict::Trusted));
    assert_eq!(judged(&known, "perth", 2222, ONE), Ok(HostKeyVerdict::Changed), "that is another port's key");
    assert_eq!(judged(&known, "perth", 23, ONE), Ok(HostKeyVerdict::Unknown));
    assert_eq!(of_perth(""), Ok(HostKeyVerdict::Unknown));
    assert_eq!(
        of_perth("nonsense\n\u{1b}[31m x\nperth ssh-ed25519\nperth ssh-ed25519 !!\n"),
        Ok(HostKeyVerdict::Unknown)
    );
}

#[test]
fn hosts_are_matched_as_the_ssh_client_does() {
    for (hosts, is_perth) in [
        ("perth", true),
        ("PERTH", true),
        ("p?rth", true),
        ("p*", true),
        ("*", true),
        ("sydney,perth", true),
        ("*,!perth", false),
        ("!sydney,*", true),
        ("!perth", false),
        ("pert", false),
        ("perth?", false),
        ("[perth]:22", false),
        ("", false),
    ] {
        let trusted = if is_perth { HostKeyVerdict::Trusted } else { HostKeyVerdict::Unknown };
        assert_eq!(of_perth(&format!("{hosts}\t ssh-ed25519 \t{ONE} me@here\r\n")), Ok(trusted), "{hosts}");
    }
    assert!(is_like(&"a".repeat(60), &"*a".repeat(40)), "many stars take no time to speak of");
    assert!(!is_like(&"a".repeat(300), &format!("{}b", "*a".repeat(100))));
}

#[test]
fn hashed_names_are_found() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("known_hosts");
    std::fs::write(&path, format!("perth ssh-ed25519 {ONE}\n[perth]:2222 ssh-ed25519 {TWO}\n")).expect("a file");
    let hashed = std::process::Command::new("ssh-keygen").arg("-q").arg("-H").arg("-f").arg(&path).output();
    assert!(hashed.expect("ssh-keygen, of OpenSSH's client").status.success());
    let known = String::from_utf8(text(&path).expect("a file")).expect("text");
    assert!(!known.contains("perth"), "{known}");
    assert_eq!(of_perth(&known), Ok(HostKeyVerdict::Trusted));
    assert_eq!(judged(&known, "perth", 2222, TWO), Ok(HostKeyVerdict::Trusted));
    assert_eq!(judged(&known, "perth", 22, TWO), Ok(HostKeyVerdict::Changed));
    assert_eq!(judged(&known, "sydney", 22, ONE), Ok(HostKeyVerdict::Unknown));

    let name = known.split(' ').next().expect("a hashed name");
    assert_eq!(of_perth(&format!("{known}@revoked {name} ssh-ed25519 {ONE}\n")), Ok(HostKeyVerdict::Revoked));
    assert!(of_perth(&format!("{known}@revoked |1|nonsense| ssh-ed25519 {ONE}\n")).is_err());
}

#[test]
fn a_revocation_counts_wherever_it_stands_and_however_its_hosts_are_written() {
    let trusted = format!("perth ssh-ed25519 {ONE}\n");
    for line in [
        format!("@revoked perth ssh-ed25519 {ONE}"),
        format!("@revoked  \t perth\tssh-ed25519\t{ONE}\tcomment"),
        format!("@revoked\tperth\tssh-ed25519\t{ONE}"),
        format!(" \t@revoked * ssh-ed25519 {ONE} stolen @revoked"),
        format!("@revoked sydney,PER?H ssh-ed25519 {ONE}\r"),
        format!("@revoked *,!sydney ssh-ed25519 {ONE}"),
    ] {
        assert_eq!(of_perth(&format!("{trusted}{line}\n")), Ok(HostKeyVerdict::Revoked), "{line:?}");
        assert_eq!(of_perth(&format!("{line}\n{trusted}")), Ok(HostKeyVerdict::Revoked), "{line:?}");
        assert_eq!(of_perth(&line), Ok(HostKeyVerdict::Revoked), "no other line speaks of the host: {line:?}");
    }
    for line in [
        format!("@revoked sydney ssh-ed25519 {ONE}"),
        format!("@revoked *,!perth ssh-ed25519 {ONE}"),
        format!("@revoked perth ssh-ed25519 {TWO}"),
        format!("#@revoked perth ssh-ed25519 {ONE}"),
        format!("@cert-authority * ssh-ed25519 {TWO}"),
    ] {
        assert_eq!(of_perth(&format!("{trusted}{line}\n")), Ok(HostKeyVerdict::Trusted), "{line:?}");
    }
    let authority = format!("@cert-authority perth ssh-ed25519 {ONE}\n");
    assert_eq!(of_perth(&authority), Ok(HostKeyVerdict::Unknown), "an authority's key is no host's");
    assert_eq!(of_perth(&format!("{authority}{trusted}@revoked * ssh-ed25519 {ONE}\n")), Ok(HostKeyVerdict::Revoked));
}

#[test]
fn a_marker_that_some_client_would_skip_makes_the_file_unusable() {
    let trusted = format!("perth ssh-ed25519 {ONE}\n");
    for (line, why) in [
        (format!("@revoked\tperth ssh-ed25519 {ONE}"), "a tab"),
        (format!("@Revoked perth ssh-ed25519 {ONE}"), "no marker"),
        (format!("\u{b}@revoked perth ssh-ed25519 {ONE}"), "no marker"),
        (format!("\u{feff}@revoked perth ssh-ed25519 {ONE}"), "no marker"),
        (format!("@revoked,perth ssh-ed25519 {ONE}"), "no marker"),
        (format!("@revoked @cert-authority perth ssh-ed25519 {ONE}"), "two markers"),
        (format!("@cert-authority @revoked perth ssh-ed25519 {ONE}"), "two markers"),
        (format!("perth @revoked ssh-ed25519 {ONE}"), "in the place of its key"),
        (format!("@revoked perth ssh-rsa {ONE}"), "a key that is none"),
        (format!("@revoked perth {ONE}"), "a key that is none"),
        ("@revoked perth ssh-ed25519".to_owned(), "a key that is none"),
        ("@revoked".to_owned(), "a key that is none"),
        ("@revoked perth ssh-ed25519 AAAA".to_owned(), "a key that is none"),
        (format!("@revoked perth,{} ssh-ed25519 {ONE}", "x".repeat(1023)), "hosts that cannot be read"),
        (format!("@revoked perth ssh-ed25519-cert-v01@openssh.com {ONE}"), "a key that is none"),
        (format!("\0@revoked perth ssh-ed25519 {ONE}"), "NUL"),
    ] {
        let refusal = of_perth(&format!("{trusted}{line}\n")).expect_err(&line);
        assert!(refusal.contains("line 2 ") && refusal.contains(why), "{line:?}: {refusal}");
        assert!(!refusal.contains(['\u{b}', '\0']), "{refusal:?}");
    }
}

#[test]
fn a_revocation_by_the_bare_name_is_not_passed_over_at_another_port() {
    let revoked = format!("@revoked perth ssh-ed25519 {ONE}\n");
    let known = format!("{revoked}[perth]:2222 ssh-ed25519 {ONE}\n");
    assert!(
        judged(&known, "perth", 2222, ONE).is_err_and(|why| why.contains("line 1") && why.contains("[perth]:2222"))
    );
    let signed = format!("{revoked}@cert-authority * ssh-ed25519 {ONE}\n");
    assert!(
        judged(&signed, "perth", 2222, TWO).is_err_and(|why| why.contains("line 1")),
        "nor is that of an authority"
    );
    assert_eq!(judged(&signed, "sydney", 2222, TWO), Ok(HostKeyVerdict::Unknown));
    assert_eq!(
        judged(&revoked, "perth", 2222, ONE),
        Ok(HostKeyVerdict::Revoked),
        "a key that nobody trusts yet is not stored"
    );
    let but_this_port = format!("@revoked *,![perth]:2222 ssh-ed25519 {ONE}\n[perth]:2222 ssh-ed25519 {ONE}\n");
    assert_eq!(judged(&but_this_port, "perth", 2222, ONE), Ok(HostKeyVerdict::Trusted), "that is said, not forgotten");
    // The same key under another name, and another key of the host, are none of its business.
    assert_eq!(
        judged(&format!("{revoked}[perth]:2222 ssh-ed25519 {TWO}\n"), "perth", 2222, TWO),
        Ok(HostKeyVerdict::Trusted)
    );
    assert_eq!(
        judged(&format!("{revoked}[sydney]:2222 ssh-ed25519 {ONE}\n"), "sydney", 2222, ONE),
        Ok(HostKeyVerdict::Trusted)
    );
}

#[test]
fn the_same_number_with_zeros_before_it_is_the_same_key() {
    let rsa = |zeros: usize| {
        let mut blob = Vec::new();
        for part in [b"ssh-rsa".to_vec(), vec![1, 0, 1], [vec![0; zeros], vec![0xc5; 256]].concat()] {
            blob.extend(u32::try_from(part.len()).expect("a length").to_be_bytes());
            blob.extend(part);
        }
        STANDARD.encode(blob)
    };
    let known = format!("perth ssh-rsa {}\n@revoked perth ssh-rsa {}\n", rsa(1), rsa(2));
    assert_eq!(judged(&known, "perth", 22, &rsa(1)), Ok(HostKeyVerdict::Revoked));
    assert_eq!(judged(&known, "perth", 22, &rsa(5)), Ok(HostKeyVerdict::Revoked));
}

#[test]
fn the_command_that_removes_a_key_survives_a_shell() {
    let command = removal("[10.0.0.1]:2222", Path::new("/srv/it's a home/known_hosts"));
    assert_eq!(command, r"ssh-keygen -R '[10.0.0.1]:2222' -f '/srv/it'\''s a home/known_hosts'");
}

#[test]
fn a_host_is_known_by_its_key_by_an_authority_or_not_at_all() {
    let acquaintance = |text: &str| KnownHost::parse(text.as_bytes(), "perth", 2222).expect("a file").acquaintance();
    let key = format!("[perth]:2222 ssh-ed25519 {ONE}\n");
    for hosts in ["[perth]:2222", "perth", "*", "sydney,p?rth"] {
        let authority = format!("@cert-authority {hosts} ssh-ed25519 {TWO}\n");
        assert_eq!(acquaintance(&authority), Acquaintance::Authority, "{hosts}");
        assert_eq!(acquaintance(&(authority + &key)), Acquaintance::Key);
    }
    for text in ["", &format!("perth ssh-ed25519 {ONE}\n"), &format!("@cert-authority sydney ssh-ed25519 {ONE}\n")] {
        assert_eq!(acquaintance(text), Acquaintance::Stranger, "{text:?}");
    }
}

#[test]
fn of_a_file_only_authorities_and_revocations_are_copied() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("known");
    assert_eq!(marked_lines(&path).expect("no file"), b"");
    std::fs::write(&path, "perth a b\n# @c\n@cert-authority * a b\r\n\n \t@revoked x\nsydney @x\n@last")
        .expect("a file");
    assert_eq!(marked_lines(&path).expect("a file"), b"@cert-authority * a b\r\n \t@revoked x\n@last");
}

#[test]
fn a_connection_stands_on_what_trusted_its_hosts_and_on_nothing_else_in_the_file() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("known");
    let jump = blat_config::Jump { user: "u".into(), host: "bastion".into(), port: 22 };
    let (target, jumps, home) = ("perth".parse().expect("a name"), vec![jump], folder.path().into());
    let (host, user, identity, known_hosts) = ("perth".into(), "u".into(), "/k/id".into(), path.clone());
    let settings = SshSettings { target, host, port: 2222, user, jumps, identity, known_hosts, home };
    let line = |hosts: &str, key: &str| format!("{hosts} ssh-ed25519 {key}\n");
    // A file of its own each time: two changes within one tick of the clock have the same time.
    let write = |text: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).expect("a file");
    };
    let both = line("[perth]:2222", ONE) + &line("bastion", TWO);
    let signed = line("@cert-authority perth", ONE) + &line("bastion", TWO);
    for (before, now, holds) in [
        (&both, both.clone(), true),
        (&both, line("bastion", TWO) + "# moved\n" + &line("[perth]:2222,sydney", ONE), true),
        (&both, both.clone() + &line("[perth]:2222", TWO) + &line("@revoked sydney", ONE), true),
        (&both, both.clone() + &line("@revoked *", ONE), false),
        (&both, both.clone() + &line("@revoked bastion", TWO), false),
        (&both, line("[perth]:2222", ONE), false),
        (&both, line("[perth]:2222", TWO) + &line("bastion", TWO), false),
        (&both, both.clone() + "@revoked nonsense\n", false),
        (&both, String::new(), false),
        (&signed, signed.clone() + &line("[perth]:2222", TWO), true),
        (&signed, line("@cert-authority perth", TWO) + &line("bastion", TWO), false),
        (&signed, signed.clone() + &line("@revoked [perth]:2222", ONE), false),
    ] {
        write(before);
        let basis = Basis::read(&settings).expect("a file");
        assert!(basis.holds(), "nothing was changed");
        write(&now);
        assert_eq!(basis.holds(), holds, "before:\n{before}now:\n{now}");
        assert_eq!(basis.holds(), holds, "nor does it come back by itself");
    }
    write(&both);
    let basis = Basis::read(&settings).expect("a file");
    std::fs::remove_file(&path).expect("a file");
    assert!(!basis.holds(), "without a file no host is trusted");
    std::fs::create_dir(&path).expect("a folder");
    assert!(basis.holds(), "what cannot be read says nothing new");
}
