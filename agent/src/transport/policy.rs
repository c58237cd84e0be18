//! What every ssh client of ours is given before the host: nothing is taken from the user's or the system's configuration.

use std::ffi::OsString;
use std::path::Path;

use blat_config::SshSettings;

use super::tied;

/// Options of a client, and the variables that it finds its paths in where options cannot hold them.
#[derive(Debug)]
pub(crate) struct Policy {
    /// In front of the host.
    pub(crate) arguments: Vec<OsString>,
    /// Added to the environment.
    pub(crate) environment: Vec<(String, OsString)>,
}

/// How long a client may take to connect, in seconds, and again for each host that it goes through.
const CONNECT: usize = 10;

const OPTIONS: [&str; 17] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "IdentitiesOnly=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "ControlPersist=no",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "Compression=no",
    // What a host says before it refuses somebody, such as that an account has expired, is shown from this level on.
    "LogLevel=INFO",
    // The cipher decides how fast a link can be: with the processor's instructions this one costs the least.
    "Ciphers=^aes128-gcm@openssh.com",
];

impl Policy {
    /// That of a target's settings. The clients at the hosts on the way say nothing: what this one says is its own.
    pub(crate) fn of(ssh: &SshSettings) -> Self {
        Self::with(ssh, "QUIET")
    }

    /// The same for a person, who reads what the clients at the hosts on the way say too.
    pub(crate) fn for_a_person(ssh: &SshSettings) -> Self {
        Self::with(ssh, "ERROR")
    }

    /// For a client that does nothing but check the host's certificate, of one of these algorithms, by the authorities in `known_hosts`. It has no
    /// identity to log in with, and tells `agent`, a socket, which certificate it accepted.
    pub(crate) fn for_certificates(ssh: &SshSettings, algorithms: &str, known_hosts: &Path, agent: &Path) -> Self {
        let Self { arguments, environment } = Self::of(ssh);
        let mut policy = Self { arguments: vec!["-F".into(), "none".into()], environment };
        // Of an option that is given twice, the first counts; of identities, each.
        policy.path("UserKnownHostsFile", "BLAT_AUTHORITIES", known_hosts);
        policy.path("IdentityAgent", "BLAT_AGENT", agent);
        for option in
            ["PubkeyAuthentication=yes", "PreferredAuthentications=publickey", "IdentitiesOnly=no", "AddKeysToAgent=no"]
        {
            policy.arguments.extend(["-o".into(), option.into()]);
        }
        policy.arguments.extend(["-o".into(), format!("HostKeyAlgorithms={algorithms}").into()]);
        policy.arguments.extend(arguments.into_iter().skip(2).map(|argument| {
            let is_identity = argument.as_encoded_bytes().starts_with(b"IdentityFile=");
            if is_identity { "IdentityFile=none".into() } else { argument }
        }));
        policy
    }

    /// For a client that has its connection from another one, which logs in to the last host on the way, and that from the next. `-J` would start
    /// these with the user's configuration, and leave them to themselves when ours is killed.
    fn with(ssh: &SshSettings, jumps_say: &str) -> Self {
        let mut policy = Self::direct(ssh);
        let ways: Vec<SshSettings> = ssh.ways_to_jumps().collect();
        let after = ways.iter().skip(1).chain([ssh]);
        for (index, (jump, next)) in ways.iter().zip(after).enumerate() {
            let mut arguments = Self::direct(jump).arguments;
            // Of an option that is given twice, the first counts.
            arguments.splice(2..2, ["-o".into(), format!("LogLevel={jumps_say}").into()]);
            arguments.extend(index.checked_sub(1).into_iter().flat_map(by_way_of));
            arguments.extend(onward(next));
            arguments.extend(["--".into(), OsString::from(&jump.host)]);
            policy.environment.push((variable(index), tied::shell_command("ssh", &arguments)));
        }
        if let Some(last) = ways.len().checked_sub(1) {
            policy.arguments.extend(by_way_of(last));
            policy.environment.push(("SHELL".to_owned(), SHELL.into()));
        }
        policy
    }

    /// All but the way.
    fn direct(ssh: &SshSettings) -> Self {
        let mut policy = Self { arguments: vec!["-F".into(), "none".into()], environment: Vec::new() };
        policy.arguments.extend(OPTIONS.iter().flat_map(|option| ["-o", option]).map(OsString::from));
        let patience = CONNECT * (1 + ssh.jumps.len());
        policy.arguments.extend(["-o".into(), format!("ConnectTimeout={patience}").into()]);
        policy.path("UserKnownHostsFile", "BLAT_KNOWN_HOSTS", &ssh.known_hosts);
        policy.path("IdentityFile", "BLAT_IDENTITY", &ssh.identity);
        policy.arguments.extend(["-p".into(), ssh.port.to_string().into(), "-l".into(), OsString::from(&ssh.user)]);
        policy
    }

    /// Adds an option that is a path, which the client must take as it is. It replaces `%` and `${…}` in it by values of its own, once. There is
    /// no escape for the latter, so such a path comes as the value of a variable; so does one with a mark that not every version quotes alike.
    fn path(&mut self, option: &str, variable: &str, path: &Path) {
        let value = match path.to_str().filter(|text| !text.contains(is_special)) {
            Some(text) => format!("\"{}\"", text.replace('%', "%%")),
            None => {
                self.environment.push((variable.to_owned(), path.into()));
                format!("\"${{{variable}}}\"")
            }
        };
        self.arguments.extend(["-o".into(), format!("{option}={value}").into()]);
    }
}

/// The shell by which a client starts the one that it has its connection from.
const SHELL: &str = "/bin/sh";

/// What a client takes that passes its standard input and output on to this host, and runs nothing.
pub(crate) fn onward(next: &SshSettings) -> [OsString; 2] {
    let SshSettings { host, port, .. } = next;
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    ["-W".into(), place.into()]
}

/// The variable that holds the command of the client at a jump host. In the option itself, a command within a command within a command would be
/// quoted at each step anew, and what the client replaces in it too.
fn variable(index: usize) -> String {
    format!("BLAT_JUMP_{index}")
}

/// The option of a client that has its connection from the one at this jump host.
fn by_way_of(index: usize) -> [OsString; 2] {
    ["-o".into(), format!("ProxyCommand={SHELL} -c \"exec ${}\"", variable(index)).into()]
}

fn is_special(mark: char) -> bool {
    matches!(mark, '$' | '"' | '\'' | '\\') || mark.is_control()
}

#[cfg(test)]
mod tests {
    use blat_config::Jump;

    use super::*;

    /// What the ssh client makes of a destination.
    fn destination(host: &str, user: &str) -> (String, String) {
        let ssh = SshSettings {
            target: "perth".parse().expect("a name"),
            host: host.into(),
            port: 22,
            user: user.into(),
            jumps: Vec::new(),
            identity: "/a".into(),
            known_hosts: "/b".into(),
            home: "/".into(),
        };
        let policy = Policy::of(&ssh);
        let mut client = std::process::Command::new("ssh");
        client.envs(policy.environment).args(policy.arguments).args(["-G", "--", host]);
        let output = client.output().expect("the ssh client");
        let said = String::from_utf8(output.stdout).expect("text");
        let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned();
        assert!(output.status.success(), "{host} {user}: {}", String::from_utf8_lossy(&output.stderr));
        (value("hostname "), value("user "))
    }

    #[test]
    fn users_and_hosts_reach_ssh_as_they_are() {
        for user in [
            "pkgadmin",
            "EXAMPLE\\pkgadmin",
            "a@example.com",
            "Jane Doe",
            "perth$",
            "j\u{fc}rgen",
            "%h",
            "#1",
            "~x",
            "a/b",
        ] {
            assert_eq!(destination("perth", user), ("perth".to_owned(), user.to_owned()));
        }
        for host in ["::1", "fe80::1%lo", "127.0.0.1", "perth.example.com.", "p\u{e9}rth", "a~b+c"] {
            assert_eq!(destination(host, "u@v").0, host);
        }
    }

    #[test]
    fn paths_reach_ssh_as_they_are() {
        let given = |path: &str| {
            let mut policy = Policy { arguments: Vec::new(), environment: Vec::new() };
            policy.path("IdentityFile", "BLAT_IDENTITY", Path::new(path));
            (policy.arguments[1].to_string_lossy().into_owned(), policy.environment.pop())
        };
        assert_eq!(given("/a b/100%"), ("IdentityFile=\"/a b/100%%\"".to_owned(), None));
        for path in ["/a/${HOME}/%h", "/a\"b", "/a\\\"b", "/a'b", "/a\nb"] {
            let variable = Some(("BLAT_IDENTITY".to_owned(), OsString::from(path)));
            assert_eq!(given(path), ("IdentityFile=\"${BLAT_IDENTITY}\"".to_owned(), variable), "{path:?}");
        }
    }

    #[test]
    fn a_client_that_checks_a_certificate_has_no_identity_and_an_agent_of_ours() {
        let ssh = SshSettings {
            target: "perth".parse().expect("a name"),
            host: "perth".into(),
            port: 22,
            user: "u".into(),
            jumps: vec![Jump { user: "j".into(), host: "first".into(), port: 22 }],
            identity: "/k/id".into(),
            known_hosts: "/k/known".into(),
            home: "/".into(),
        };
        let algorithm = "ssh-ed25519-cert-v01@openssh.com";
        let policy = Policy::for_certificates(&ssh, algorithm, Path::new("/s/known"), Path::new("/s/agent"));
        let way = policy.environment.iter().find(|(name, _)| name == "BLAT_JUMP_0").expect("a way").1.to_string_lossy();
        assert!(
            way.contains("IdentityFile=\"/k/id\"") && way.contains("/k/known") && !way.contains("IdentityAgent"),
            "{way}"
        );
        let mut client = std::process::Command::new("ssh");
        client.envs(policy.environment).args(policy.arguments).args(["-G", "--", "perth"]);
        let said = String::from_utf8(client.output().expect("the ssh client").stdout).expect("text");
        let values = |key: &str| said.lines().filter_map(|line| line.strip_prefix(key)).collect::<Vec<_>>().join(";");
        assert_eq!(values("userknownhostsfile "), "/s/known");
        assert_eq!(values("identityagent "), "/s/agent");
        assert!(values("identityfile ").split(';').all(|file| file == "none"), "{said}");
        assert_eq!(values("hostkeyalgorithms "), algorithm);
        for (key, value) in [
            ("stricthostkeychecking ", "true"),
            ("globalknownhostsfile ", "/dev/null"),
            ("passwordauthentication ", "no"),
            ("kbdinteractiveauthentication ", "no"),
            ("preferredauthentications ", "publickey"),
            ("forwardagent ", "no"),
            ("batchmode ", "yes"),
        ] {
            assert_eq!(values(key), value, "{key}: {said}");
        }
    }

    #[test]
    fn each_client_on_the_way_has_our_options_and_its_connection_from_the_one_before() {
        let jump = |user: &str, host: &str, port| Jump { user: user.into(), host: host.into(), port };
        let ssh = SshSettings {
            target: "perth".parse().expect("a name"),
            host: "perth".into(),
            port: 23,
            user: "pkgadmin".into(),
            jumps: vec![jump("it's $HOME %h", "first", 22), jump("b", "fe80::1%lo", 2222)],
            identity: "/a b/$id".into(),
            known_hosts: "/b".into(),
            home: "/".into(),
        };
        let policy = Policy::of(&ssh);
        let has = |words: &str| policy.arguments.iter().any(|argument| argument == words);
        assert!(has("ProxyCommand=/bin/sh -c \"exec $BLAT_JUMP_1\"") && has("ConnectTimeout=30"), "{policy:?}");
        let value = |name: &str| {
            let found = policy.environment.iter().find(|(variable, _)| variable == name);
            found.unwrap_or_else(|| panic!("{name} in {policy:?}")).1.to_string_lossy().into_owned()
        };
        assert_eq!([value("SHELL"), value("BLAT_IDENTITY")], ["/bin/sh", "/a b/$id"]);
        let (first, second) = (value("BLAT_JUMP_0"), value("BLAT_JUMP_1"));
        for words in
            ["'-F' 'none' '-o' 'LogLevel=QUIET'", "'UserKnownHostsFile=\"/b\"'", "'IdentityFile=\"${BLAT_IDENTITY}\"'"]
        {
            assert!(first.contains(words) && second.contains(words), "{words}: {first}; {second}");
        }
        assert!(first.ends_with(r"'-p' '22' '-l' 'it'\''s $HOME %h' '-W' '[fe80::1%lo]:2222' '--' 'first'"), "{first}");
        assert!(!first.contains("ProxyCommand"), "{first}");
        let end = "'-o' 'ProxyCommand=/bin/sh -c \"exec $BLAT_JUMP_0\"' '-W' 'perth:23' '--' 'fe80::1%lo'";
        assert!(second.ends_with(end), "{second}");
    }
}
