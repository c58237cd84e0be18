//! The far end of Blat: serves one archive to one agent over standard input and output. `docs/protocol.md` says how.

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use rustix::process::{Resource, getrlimit, setrlimit};

const USAGE: &str = "usage: blat-receiver --archive DIR | --version | --help

Serves the archive DIR, which has to exist, to one blat-agent over standard input and output,
in frames (docs/protocol.md). Blat's agents install and start it by themselves.";

/// Open files that we ask the system for: packages that wait to be published hold two each.
const OPEN_FILES: u64 = 4096;

/// What the command line asks for.
enum Asked {
    Serve(PathBuf),
    Version,
    Help,
}

fn main() -> ExitCode {
    match asked(std::env::args_os().skip(1)) {
        Ok(Asked::Serve(archive)) => match serve(&archive) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("blat-receiver: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(Asked::Version) => {
            println!("blat-receiver {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Asked::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("blat-receiver: understanding its arguments failed: {why}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Serves the archive until standard input ends. A lane that cannot go on ends the process, which waits for frames that nobody would
/// understand any more; what is staged stays for another time.
fn serve(archive: &Path) -> Result<(), Box<dyn Error>> {
    // Names that are made for everybody are for everybody to read; what is staged says its modes itself.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    raise(Resource::Nofile, OPEN_FILES);
    raise(Resource::Fsize, u64::MAX);
    let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let output: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    blat_receiver::serve(archive, File::from(input), output, || process::exit(1))
}

/// Asks the system for so much, or for as much as it gives. With fewer open files, fewer packages are published together.
fn raise(what: Resource, wanted: u64) {
    let mut limit = getrlimit(what);
    let wanted = limit.maximum.map_or(wanted, |most| most.min(wanted));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted).filter(|wanted| *wanted < u64::MAX);
        // Refused is as good as a low limit: it is asked for where it matters.
        let _ = setrlimit(what, limit);
    }
}

fn asked(mut arguments: impl Iterator<Item = OsString>) -> Result<Asked, &'static str> {
    let mut archive = None;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--archive") => {
                archive = Some(arguments.next().filter(|dir| !dir.is_empty()).ok_or("--archive needs a directory")?);
            }
            Some("--version") => return Ok(Asked::Version),
            Some("--help") => return Ok(Asked::Help),
            Some(_) | None => return Err("it takes --archive DIR and nothing else"),
        }
    }
    archive.map(|dir| Asked::Serve(dir.into())).ok_or("--archive DIR is missing")
}
