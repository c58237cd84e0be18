//! `blat verify`: every byte of a target, looked at by the agent's executable, whose words are shown as they come.

use std::io;
use std::process::Stdio;

use blat_config::Home;

use crate::args::VerifyArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};
use crate::sibling;

/// Has the agent's executable look, and passes on its exit code.
pub(crate) fn run(home: &Home, args: &VerifyArgs) -> Outcome {
    targets::known(home, &args.target)?;
    let mut command = sibling::agent(home, &args.target)?;
    command.arg("--verify");
    if args.repair {
        command.arg("--repair");
    }
    command.stdin(Stdio::null());
    let status = command
        .status()
        .map_err(|error: io::Error| Failure::failed(format!("cannot run blat-agent to verify: {error}")))?;
    Ok(Exit::of(status))
}
