//! The operator's command, as a library, so that the executable, the man pages and the tests share one definition.
//!
//! It talks to the master's socket, else reads what is on disk. It opens no connection to any target: what needs one is
//! left to the agent's executable.

mod args;
mod commands;
mod dropped;
mod failure;
mod master;
mod past;
mod picture;
mod progress;
mod screen;
mod sibling;
mod style;
mod table;

use std::ffi::OsString;
use std::io::Write;

use blat_domain::util::text::escaped;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

pub use failure::Exit;

use failure::Failure;

/// The command line's definition: names, options and help texts.
pub fn command() -> clap::Command {
    args::Cli::command()
}

/// Carries out a command line, its first word being the name of the executable. Says what went wrong on standard error;
/// the exit code is for the caller to use.
///
/// This takes the whole process over: its umask and its limits become what [`blat_config::surroundings`] makes of them.
pub fn run(words: impl IntoIterator<Item = OsString>) -> Exit {
    if let Err(error) = blat_config::surroundings::settle() {
        Failure::failed(format!("cannot start: {error}")).say();
        return Exit::FAILED;
    }
    let cli = match args::Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    match commands::run(&cli) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.say();
            failure.exit()
        }
    }
}

/// Shows the help or the version that was asked for, or says what cannot be understood.
fn not_parsed(error: &clap::Error) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match error.print().and_then(|()| std::io::stdout().flush()) {
            Ok(()) => Exit::DONE,
            Err(_) => Exit::FAILED,
        };
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").map_or_else(|| text.clone(), |rest| format!("blat: {rest}"));
    // What was typed is quoted there as it came.
    let lines: Vec<String> = text.lines().map(escaped).collect();
    // Where standard error is gone, nobody is left to tell.
    let _ = writeln!(std::io::stderr(), "{}", lines.join("\n"));
    Exit::USAGE
}
