//! `blat status`: what the master knows, or what was known last. Never touches the network.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use blat_config::Home;
use blat_domain::protocol::status::{LastError, State, Status, TargetStatus};
use blat_domain::util::text::printable;
use jiff::Timestamp;

use crate::args::StatusArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::master::Master;
use crate::picture;
use crate::screen;
use crate::style::Style;

/// How often `--watch` looks again.
const BEAT: Duration = Duration::from_secs(1);
/// The most of a kept state that is read, in bytes.
const MOST_KEPT: u64 = 64 << 20;

/// Shows the state once, or again and again.
pub(crate) fn run(home: &Home, args: &StatusArgs) -> Outcome {
    if !args.watch {
        return show(home, args, &mut io::stdout().lock());
    }
    let redraw = !args.json && Style::of_stdout().terminal;
    loop {
        let mut stdout = io::stdout().lock();
        if redraw {
            stdout.write_all(in_place(&frame(home, Style::of_stdout())).as_bytes())?;
        } else {
            let mut frame = Vec::new();
            let said = show(home, args, &mut frame).err().map(|failure| failure.to_string()).unwrap_or_default();
            // Where standard error is gone, the frames still come.
            let _ = write!(io::stderr(), "{said}");
            stdout.write_all(&frame)?;
        }
        stdout.flush()?;
        drop(stdout);
        thread::sleep(BEAT);
    }
}

/// The state, or what hinders it from being shown, as it fits the terminal.
fn frame(home: &Home, style: Style) -> String {
    let (status, failure) = match look(home) {
        Ok((status, outcome)) => (Some(status), outcome.err()),
        Err(failure) => (None, Some(failure)),
    };
    let said = failure.as_ref().map(ToString::to_string).unwrap_or_default();
    let status = status.filter(|status| failure.is_none() || !status.targets.is_empty());
    screen::screen(&said, status.as_ref(), Timestamp::now(), style)
}

/// A frame drawn over the one before it: each line is cleared behind its end, and all below the last. A line that is wider than we count, as
/// some signs are, is cut by the terminal instead of taking a second line.
fn in_place(frame: &str) -> String {
    format!("\u{1b}[?7l\u{1b}[H{}\u{1b}[J\u{1b}[?7h", frame.replace('\n', "\u{1b}[K\n"))
}

/// The state from the master or as it was known last, and what is to be said of that.
fn look(home: &Home) -> Result<(Status, Outcome), Failure> {
    match Master::find(home)? {
        Some(master) => Ok((master.status()?, Ok(Exit::DONE))),
        None => last_known(home),
    }
}

/// Writes the state.
fn show(home: &Home, args: &StatusArgs, out: &mut impl Write) -> Outcome {
    let (status, outcome) = look(home)?;
    if args.json {
        let line = serde_json::to_string(&status)
            .map_err(|error| Failure::failed(format!("cannot write the status as json: {error}")))?;
        writeln!(out, "{line}")?;
    } else if outcome.is_ok() || !status.targets.is_empty() {
        write!(out, "{}", picture::status(&status, Timestamp::now(), Style::of_stdout()))?;
    }
    out.flush()?;
    outcome
}

/// What a master that is gone wrote last, as it is true without one: nothing runs, nothing is on its way.
fn last_known(home: &Home) -> Result<(Status, Outcome), Failure> {
    let path = home.status_snapshot();
    let cannot = |why: String| {
        let path = printable(&path.to_string_lossy());
        Failure::new(Exit::NO_MASTER, format!("no master is running, and cannot read {path}: {why}"))
            .hint("start it with `blat start`")
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let status = Status { home: home.root().to_owned(), supervisor: None, targets: Vec::new() };
            let text = "no master is running, and nothing is known of an earlier one";
            return Ok((status, Err(Failure::new(Exit::NO_MASTER, text).hint("start it with `blat start`"))));
        }
        Err(error) => return Err(cannot(error.to_string())),
    };
    let written =
        file.metadata().and_then(|metadata| metadata.modified()).map_err(|error| cannot(error.to_string()))?;
    let written = Timestamp::try_from(written).map_err(|error| cannot(error.to_string()))?;
    let mut text = String::new();
    file.take(MOST_KEPT).read_to_string(&mut text).map_err(|error| cannot(error.to_string()))?;
    let kept: Status = serde_json::from_str(&text).map_err(|error| cannot(error.to_string()))?;
    let targets = kept.targets.into_iter().map(|target| at_rest(target, written)).collect();
    let status = Status { home: home.root().to_owned(), supervisor: None, targets };
    // Whole seconds: nobody compares these with a log to the nanosecond.
    let text = format!("no master is running (blat start); last known state of {written:.0}");
    Ok((status, Err(Failure::new(Exit::NO_MASTER, text))))
}

/// A target whose agent ended with its master.
fn at_rest(target: TargetStatus, since: Timestamp) -> TargetStatus {
    let last_error = target.last_error.map(|error| LastError { retry_at: None, ..error });
    TargetStatus { pid: None, state: State::Stopped, since, current: None, last_error, ..target }
}
