//! `blat adopt`: the agent's executable takes the target's archive over, and says whom it belonged to.

use std::io;
use std::process::Stdio;

use blat_config::Home;

use crate::args::AdoptArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};
use crate::sibling;

/// Has the agent's executable take the archive over, and passes on its exit code.
pub(crate) fn run(home: &Home, args: &AdoptArgs) -> Outcome {
    targets::known(home, &args.target)?;
    let mut command = sibling::agent(home, &args.target)?;
    let status = command.arg("--adopt").stdin(Stdio::null()).status().map_err(|error: io::Error| {
        Failure::failed(format!("cannot run blat-agent to take the archive over: {error}"))
    })?;
    Ok(Exit::of(status))
}
