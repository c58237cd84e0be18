//! The far end of Blat: serves one archive to one agent over standard input and output. `docs/protocol.md` says how.

mod archive;
mod conversation;
mod failure;
mod inbox;
mod lane;
mod link;
mod listing;
mod locks;
mod package;
mod publish;
mod replies;
mod retire;
mod scratch;
mod settle;
mod stage;
mod store;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: blat-receiver --archive DIR | --version | --help

Serves the archive DIR, which has to exist, to one blat-agent over standard input and output,
in frames (docs/protocol.md). Blat's agents install and start it by themselves.";

/// What the command line asks for.
enum Asked {
    Serve(PathBuf),
    Version,
    Help,
}

fn main() -> ExitCode {
    match asked(std::env::args_os().skip(1)) {
        Ok(Asked::Serve(archive)) => match conversation::hold(&archive) {
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
