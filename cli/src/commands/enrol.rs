//! `blat enrol`: the agent's executable does it, at this very terminal, since only it knows how to reach a target.

use blat_config::Home;

use crate::args::EnrolArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};
use crate::sibling;

/// Runs the enrolment; what it says and asks is said and asked here.
pub(crate) fn run(home: impl FnOnce() -> Result<Home, Failure>, args: &EnrolArgs) -> Outcome {
    let home = home()?;
    targets::known(&home, &args.target)?;
    let mut command = sibling::agent(&home, &args.target)?;
    command.arg("--enrol").env_remove("BLAT_PASSWORD_FILE");
    for fingerprint in &args.fingerprints {
        command.arg("--fingerprint").arg(fingerprint);
    }
    if let Some(file) = &args.password_file {
        command.arg("--password-file").arg(file);
    }
    if args.cron {
        command.arg("--cron");
    }
    if args.restrict {
        command.arg("--restrict");
    }
    let status = command.status();
    let status = status.map_err(|error| Failure::failed(format!("cannot run blat-agent to enrol: {error}")))?;
    if status.success() { Ok(Exit::DONE) } else { Err(Failure::told(Exit::of(status))) }
}
