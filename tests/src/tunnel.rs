//! A link of the lab's own that loses, delays and narrows packets, so that the system's TCP has to come through. It takes root.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::process;

/// The link; it is gone with this.
pub struct Tunnel {
    /// The address at which whoever listens at [`Self::near`] is reached over this link.
    pub far: String,
    /// The address to listen at.
    pub near: String,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Tunnel {
    /// A sound link to this port. Its addresses are of those that are for tests of networks alone, and differ from one to the next.
    pub fn to(port: u16) -> Self {
        let (process, number) = (std::process::id(), process::next_number());
        // Of a process that has made many, the next hundred processes make none.
        let own = process.wrapping_add(number.wrapping_mul(127)) % 0x8000 * 4;
        let address = |last: u32| format!("198.{}.{}.{}", 18 + (own >> 16), (own >> 8) & 255, (own & 255) + last);
        let (near, far) = (address(1), address(2));
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/tunnel.py"));
        command.arg(format!("blat{process}x{number:x}")).args([&near, &far, &port.to_string()]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the lab's tool, and python3");
        let answers = BufReader::new(child.stdout.take().expect("a piped stream"));
        let mut tunnel = Self { far, near, child, answers };
        assert_eq!(tunnel.answer(), "up", "no link could be made; this takes root, /dev/net/tun and iproute2");
        tunnel
    }

    /// From here on this holds: a rule of the lab's tool with its value.
    pub fn set(&mut self, rule: &str) {
        let input = self.child.stdin.as_mut().expect("a piped stream");
        // In one piece: the tool takes what it reads at once for whole lines.
        input.write_all(format!("{rule}\n").as_bytes()).expect("a tool that reads");
        assert_eq!(self.answer(), rule);
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a tool that answers");
        line.trim_end().to_owned()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It ends with its input.
        self.child.stdin.take();
        // Nothing of it outlives the test's process anyway.
        let _ = self.child.wait();
    }
}
