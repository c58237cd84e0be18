//! What every ssh client of ours is given before the host: nothing is taken from the user's or the system's configuration.

use std::ffi::OsString;
use std::path::Path;

use blat_config::SshSettings;

/// Options of a client, and the variables that it finds its paths in where options cannot hold them.
#[derive(Debug)]
pub(crate) struct Policy {
    /// In front of the host.
    pub(crate) arguments: Vec<OsString>,
    /// Added to the environment.
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

const OPTIONS: [&str; 18] = [
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
    "ConnectTimeout=10",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "Compression=no",
    // What a host says before it refuses somebody, such as that an account has expired, is shown from this level on.
    "LogLevel=INFO",
    // The cipher decides how fast a link can be: with the processor's instructions this one costs the least.
    "Ciphers=^aes128-gcm@openssh.com",
];

impl Policy {
    /// That of a target's settings.
    pub(crate) fn of(ssh: &SshSettings) -> Self {
        let mut policy = Self { arguments: vec!["-F".into(), "none".into()], environment: Vec::new() };
        policy.arguments.extend(OPTIONS.iter().flat_map(|option| ["-o", option]).map(OsString::from));
        policy.path("UserKnownHostsFile", "BLAT_KNOWN_HOSTS", &ssh.known_hosts);
        policy.path("IdentityFile", "BLAT_IDENTITY", &ssh.identity);
        policy.arguments.extend(["-p".into(), ssh.port.to_string().into(), "-l".into(), OsString::from(&ssh.user)]);
        policy
    }

    /// Adds an option that is a path, which the client must take as it is. It replaces `%` and `${…}` in it by values of its own, once. There is
    /// no escape for the latter, so such a path comes as the value of a variable; so does one with a mark that not every version quotes alike.
    fn path(&mut self, option: &str, variable: &'static str, path: &Path) {
        let value = match path.to_str().filter(|text| !text.contains(is_special)) {
            Some(text) => format!("\"{}\"", text.replace('%', "%%")),
            None => {
                self.environment.push((variable, path.into()));
                format!("\"${{{variable}}}\"")
            }
        };
        self.arguments.extend(["-o".into(), format!("{option}={value}").into()]);
    }
}

fn is_special(mark: char) -> bool {
    matches!(mark, '$' | '"' | '\'' | '\\') || mark.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the ssh client makes of a destination.
    fn destination(host: &str, user: &str) -> (String, String) {
        let ssh = SshSettings {
            target: "perth".parse().expect("a name"),
            host: host.into(),
            port: 22,
            user: user.into(),
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
            let variable = Some(("BLAT_IDENTITY", OsString::from(path)));
            assert_eq!(given(path), ("IdentityFile=\"${BLAT_IDENTITY}\"".to_owned(), variable), "{path:?}");
        }
    }
}
