//! One module a command. Each says what was done on standard output, and hands its failure up.

use std::ffi::OsString;
use std::path::Path;

use blat_config::{Home, HomeError, account};
use blat_domain::util::text::{nearest, printable};

use crate::args::{Cli, Command};
use crate::failure::{Failure, Outcome};

mod adopt;
mod check;
mod enrol;
mod history;
mod init;
mod logs;
mod plan;
mod ssh;
mod start;
mod status;
mod stop;
mod sync;
mod tag;
mod targets;
mod verify;
mod why;

/// Commands there are, for the nearest one to a misspelt one; among equals, the one that is used more often.
const COMMANDS: [&str; 16] = [
    "status", "tag", "sync", "logs", "plan", "why", "history", "verify", "check", "start", "stop", "restart", "ssh",
    "enrol", "adopt", "init",
];

/// Carries out what was asked.
pub(crate) fn run(cli: &Cli) -> Outcome {
    let home = || locate(cli);
    match &cli.command {
        Command::Init(args) => init::run(cli.home.as_deref(), args),
        Command::Check(args) => check::run(home, args),
        Command::Enrol(args) => enrol::run(home, args),
        Command::Start => start::run(&home()?),
        Command::Stop => stop::run(&home()?),
        Command::Restart => {
            let home = home()?;
            stop::run(&home)?;
            start::run(&home)
        }
        Command::Status(args) => status::run(&home()?, args),
        Command::Sync(args) => sync::run(home, args),
        Command::Tag(args) => tag::run(&home()?, args),
        Command::Plan(args) => plan::run(&home()?, args),
        Command::Ssh(args) => ssh::run(&home()?, args),
        Command::Verify(args) => verify::run(&home()?, args),
        Command::Adopt(args) => adopt::run(&home()?, args),
        Command::Why(args) => why::run(&home()?, args),
        Command::History(args) => history::run(&home()?, args),
        Command::Logs(args) => logs::run(&home()?, args),
        Command::Detach { executable, serve } => {
            expect_owner(serve)?;
            Err(start::become_master(executable, serve))
        }
        Command::Other(words) => Err(other(words)),
    }
}

/// The home tree this is about. A wrong one is wrong usage: nothing was tried.
fn locate(cli: &Cli) -> Result<Home, Failure> {
    let home = Home::locate(cli.home.as_deref()).map_err(|error| unusable(&error))?;
    expect_owner(home.root())?;
    Ok(home)
}

/// Nothing is done in a home tree but by its owner.
fn expect_owner(root: &Path) -> Result<(), Failure> {
    account::expect_owner(root, "blat").map_err(|error| Failure::failed(error.to_string()))
}

/// Why a home tree cannot be used, as a failure.
fn unusable(error: &HomeError) -> Failure {
    match error {
        HomeError::NotNamed | HomeError::NotOne(_) | HomeError::InArchive(_) => Failure::usage(error.to_string()),
        HomeError::Io { .. } => Failure::failed(error.to_string()),
    }
}

/// A command there is not.
fn other(words: &[OsString]) -> Failure {
    let word = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    let failure = Failure::usage(format!("there is no command {:?}", printable(&word)));
    match nearest(&word, COMMANDS) {
        Some(command) => failure.hint(format!("did you mean `blat {command}`?")),
        None => failure.hint("`blat --help` lists them"),
    }
}
