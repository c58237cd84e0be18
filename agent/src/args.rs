//! The command line of `blat-agent`.

use std::ffi::OsString;
use std::path::PathBuf;

use blat_domain::package::name::{PackageId, TargetName};
use clap::{ArgGroup, Parser};

use crate::targets::host::remote;

/// Keeps one target's package archive filled.
///
/// The master (blatd) starts one agent for every config/TARGET.conf. By hand, --once does one sync in the foreground.
#[derive(Debug, Parser)]
#[command(name = "blat-agent", version, long_version = remote::long_version(), max_term_width = 100)]
#[command(group = ArgGroup::new("mode")
    .args(["once", "plan", "why", "verify", "adopt", "supervised", "create_database", "enrol", "check", "shell"]))]
pub(crate) struct Args {
    /// The home tree; else the current directory where it holds config/
    #[arg(long, value_name = "DIR", env = "BLAT_HOME")]
    pub(crate) home: Option<PathBuf>,

    /// The target: the stem of its file in config/
    #[arg(long, value_name = "NAME", required_unless_present = "create_database")]
    pub(crate) target: Option<TargetName>,

    /// End when the process of this number does, which has to be the parent: what `blat` runs
    #[arg(long, value_name = "PID")]
    pub(crate) with_parent: Option<i32>,

    /// Do one sync in the foreground with progress bars, then exit: 0 when all that is wanted is there
    #[arg(long)]
    pub(crate) once: bool,

    /// With --once: mark and delete even more than max_delete, this once
    #[arg(long, requires = "once")]
    pub(crate) allow_delete: bool,

    /// Print as JSON what a sync would do, and change nothing
    #[arg(long)]
    pub(crate) plan: bool,

    /// Print as JSON why a package is or is not on the target, and change nothing
    #[arg(long, value_name = "NAME@VERSION")]
    pub(crate) why: Option<PackageId>,

    /// Have the target hash its packages again, compare them with their manifests and with the source, and print what is wrong
    #[arg(long)]
    pub(crate) verify: bool,

    /// With --verify: send what is wrong again
    #[arg(long, requires = "verify")]
    pub(crate) repair: bool,

    /// Take the archive over from the home tree or target that owns it: what `blat adopt` runs
    #[arg(long)]
    pub(crate) adopt: bool,

    /// Run for a master: orders come on standard input, events go to standard output, end of input means that the master is gone
    #[arg(long)]
    pub(crate) supervised: bool,

    /// Have the target let this master in, and install the scripts: what `blat enrol` runs
    #[arg(long)]
    pub(crate) enrol: bool,

    /// With --enrol: the host key's fingerprint, instead of asking; with jump hosts, once for each in their order, and the target's last
    #[arg(long = "fingerprint", value_name = "SHA256:…", requires = "enrol")]
    pub(crate) fingerprints: Vec<String>,

    /// With --enrol: the file whose first line is the password, instead of asking
    #[arg(long, value_name = "FILE", requires = "enrol")]
    pub(crate) password_file: Option<PathBuf>,

    /// With --enrol: install the crontab lines too
    #[arg(long, requires = "enrol")]
    pub(crate) cron: bool,

    /// With --enrol: have the key run nothing but the receiver from then on
    #[arg(long, requires = "enrol")]
    pub(crate) restrict: bool,

    /// Log in and name all that is missing: what `blat check --connect` runs
    #[arg(long)]
    pub(crate) check: bool,

    /// Log in for a person, or for one command after `--`: what `blat ssh` runs
    #[arg(long)]
    pub(crate) shell: bool,

    /// With --shell: the command
    #[arg(last = true, value_name = "COMMAND", requires = "shell")]
    pub(crate) command: Vec<OsString>,

    /// Make an empty SQLite database with Release Manager's tables, then exit
    #[arg(long, value_name = "FILE")]
    pub(crate) create_database: Option<PathBuf>,
}
