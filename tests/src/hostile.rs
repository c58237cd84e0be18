//! An ssh server that is a stranger, and what its clients come to.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Lab;

/// A server of the lab's host key, until this is dropped.
pub struct Hostile {
    server: Child,
    /// Where it listens.
    pub port: u16,
}

impl Hostile {
    /// One of the kinds that `tests/lab/hostile_sshd.py` knows.
    pub fn start(lab: &Lab, kind: &str, what: &str) -> Self {
        let mut server = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/hostile-sshd"));
        server.arg(lab.home().with_file_name("sshd").join("daemon/host_key")).args([kind, what]);
        let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("what setup installed");
        let mut port = String::new();
        let output = server.stdout.as_mut().expect("a piped stream");
        BufReader::new(output).read_line(&mut port).expect("a server that starts");
        Self { server, port: port.trim().parse().expect("a port") }
    }

    /// Has `ssh/known_hosts` of the home tree trust its key, and gives the lines of a config that lead to it.
    pub fn trusted(&self, lab: &Lab) -> String {
        let known = fs::read_to_string(lab.home().with_file_name("client").join("known_hosts")).expect("the lab's");
        let key = known.split_once(' ').expect("a host and its key").1;
        let port = self.port;
        fs::write(lab.home().join("ssh/known_hosts"), format!("[127.0.0.1]:{port} {key}")).expect("an own folder");
        lab.hand_over();
        format!("port: {port}\nknown_hosts: ssh/known_hosts")
    }

    /// Ends it, and gives what it heard.
    pub fn heard(mut self) -> String {
        self.end();
        let mut heard = String::new();
        self.server.stdout.take().expect("a piped stream").read_to_string(&mut heard).expect("text");
        heard
    }

    fn end(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).expect("it runs");
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.end();
    }
}
