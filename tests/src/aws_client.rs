//! The AWS command-line client as a lasting process, so that each question costs a request and not a start.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::process::Outcome;

/// One client, which ends with this.
pub(crate) struct AwsClient {
    /// None where the client is the one that all tests share.
    child: Option<Child>,
    requests: Option<Box<dyn Write + Send>>,
    answers: Box<dyn BufRead + Send>,
}

impl AwsClient {
    /// Starts it by `command`, which is the lab's.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the lab's client can be started");
        let requests = child.stdin.take().expect("a piped stream");
        let answers = BufReader::new(child.stdout.take().expect("a piped stream"));
        Self { child: Some(child), requests: Some(Box::new(requests)), answers: Box::new(answers) }
    }

    /// The one that answers on this socket.
    pub(crate) fn connect(socket: &Path) -> Self {
        let requests = UnixStream::connect(socket).expect("the lab's client answers");
        let answers = BufReader::new(requests.try_clone().expect("a socket"));
        Self { child: None, requests: Some(Box::new(requests)), answers: Box::new(answers) }
    }

    /// How the client ended, run with these arguments.
    pub(crate) fn ask(&mut self, arguments: &[&str], lab: &Path) -> Outcome {
        let request = serde_json::to_string(arguments).expect("only text");
        let requests = self.requests.as_mut().expect("it is there until this ends");
        writeln!(requests, "{request}").expect("a client that reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("a client that answers");
        let (code, stdout, stderr): (i32, String, String) = serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("aws {arguments:?}: {error} in the answer: {answer:?}"));
        Outcome::told(format!("aws {}", arguments.join(" ")), Some(code), [stdout, stderr], lab)
    }
}

impl Drop for AwsClient {
    fn drop(&mut self) {
        // It ends with its input.
        self.requests.take();
        // What it leaves the lab finds and ends.
        let _ = self.child.as_mut().map(Child::wait);
    }
}
