//! `blat ssh`: becomes the agent's executable, which becomes the ssh client with the agent's own options.

use std::os::unix::process::CommandExt as _;

use blat_config::Home;

use crate::args::SshArgs;
use crate::commands::targets;
use crate::failure::{Failure, Outcome};
use crate::sibling;

/// Logs in; it returns only when it could not begin.
pub(crate) fn run(home: &Home, args: &SshArgs) -> Outcome {
    targets::known(home, &args.target)?;
    let error = sibling::agent_itself(home, &args.target)?.arg("--shell").arg("--").args(&args.command).exec();
    Err(Failure::failed(format!("cannot run blat-agent to log in: {error}")))
}
