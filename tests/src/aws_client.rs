//! The AWS command-line client as a lasting process, so that each question costs a request and not a start.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::process::Outcome;

/// One client, which ends with this.
pub(crate) struct AwsClient {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl AwsClient {
    /// Starts it by `command`, which is the lab's.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the lab's client can be started");
        let answers = BufReader::new(child.stdout.take().expect("a piped stream"));
        Self { child, answers }
    }

    /// How the client ended, run with these arguments.
    pub(crate) fn ask(&mut self, arguments: &[&str], lab: &Path) -> Outcome {
        let request = serde_json::to_string(arguments).expect("only text");
        let requests = self.child.stdin.as_mut().expect("a piped stream");
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
        self.child.stdin.take();
        // What it leaves the lab finds and ends.
        let _ = self.child.wait();
    }
}
