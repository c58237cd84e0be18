//! The command line as it is written: names, help texts, examples. Nothing is decided here.

use std::ffi::OsString;
use std::path::PathBuf;

use blat_domain::name::{PackageName, TargetName, Version};
use clap::{Args, Parser, Subcommand};

/// Keeps remote package archives filled with what their releases want.
///
/// A target is a remote archive that Blat keeps filled, one file config/TARGET.conf each. The master (blatd) runs one
/// agent per target; this command makes a home tree, runs the master, and asks it what it is doing.
#[derive(Debug, Parser)]
#[command(name = "blat", version, max_term_width = 100, after_long_help = ROOT_HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// The home tree, which holds config/ [default: BLAT_HOME, else the current directory].
    #[arg(long, global = true, value_name = "DIR", env = "BLAT_HOME", hide_env = true)]
    pub(crate) home: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const ROOT_HELP: &str = "\
Exit codes:
  0   done
  1   failed
  2   wrong usage
  69  no master is running
  75  busy, try later
  78  bad configuration

Examples:
  blat init /srv/blat                   make a home tree with commented samples
  blat check                            validate every config
  blat start                            run the master in the background
  blat status --watch                   watch all targets
  blat tag core_devl 2.1.0.cr --wait    send one package now, and wait until it is there";

/// What `blat` can do, in the order in which a new home tree needs it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a home tree with commented samples; never overwrites anything.
    #[command(after_help = "\
Examples:
  blat init /srv/blat
  blat init --database releases.db      also an empty Release Manager database")]
    Init(InitArgs),

    /// Validate every config, or one target's, and print all complaints.
    #[command(after_help = "\
Examples:
  blat check
  blat check perth")]
    Check(CheckArgs),

    /// Start the master in the background; does nothing when it runs.
    #[command(after_help = "\
Examples:
  blat start
  blat --home /srv/blat start")]
    Start,

    /// Stop the master and all agents, and wait until they are gone; does nothing when none runs.
    #[command(after_help = "\
Examples:
  blat stop")]
    Stop,

    /// Stop the master, then start it again.
    #[command(after_help = "\
Examples:
  blat restart")]
    Restart,

    /// Show every target: state, progress, queue, last sync, last error.
    ///
    /// Asks the master only, never the network. Without a master the last known state is shown, and the exit code is 69.
    #[command(after_help = "\
Examples:
  blat status
  blat status --watch
  blat status --json | jq -r '.targets[] | select(.state == \"failing\") | .name'")]
    Status(StatusArgs),

    /// Compare targets with their wanted sets now, and send what is missing.
    #[command(after_help = "\
Examples:
  blat sync
  blat sync perth --wait && echo perth is complete
  blat plan perth && blat sync perth --allow-delete    confirm deletions that max_delete stopped")]
    Sync(SyncArgs),

    /// Send one package now: drop a tag for one, several or all targets.
    ///
    /// A tag is an empty file NAME@VERSION in the target's tag directory. It is removed when the package is published on
    /// the target. It can be dropped while no master runs, and is then acted on after the next start.
    #[command(after_help = "\
Examples:
  blat tag core_devl 2.1.0.cr
  blat tag tools 1.3.0 --target perth --target sydney --wait")]
    Tag(TagArgs),

    /// Show what a sync would do to packages, with bytes and reasons; change nothing.
    #[command(after_help = "\
Examples:
  blat plan perth
  blat plan perth --json | jq '[.steps[].bytes] | add'")]
    Plan(PlanArgs),

    /// Print a target's log.
    #[command(after_help = "\
Examples:
  blat logs perth
  blat logs perth --follow")]
    Logs(LogsArgs),

    /// Becomes the master in a session of its own: what `blat start` runs in the background.
    #[command(hide = true, name = DETACH)]
    Detach {
        /// The master's executable.
        executable: PathBuf,
        /// The home tree it shall serve.
        serve: PathBuf,
    },

    /// Whatever else was typed.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The hidden command behind `blat start`.
pub(crate) const DETACH: &str = "become-master";

/// `blat init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where; made when missing [default: the home tree, else the current directory].
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Also create an empty SQLite Release Manager database: tables project, release, release_package.
    #[arg(long, value_name = "FILE")]
    pub(crate) database: Option<PathBuf>,
}

/// `blat check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Only this target's config, and blat.yaml.
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<TargetName>,

    /// Refused: a later release brings it.
    #[arg(long, hide = true)]
    pub(crate) connect: bool,
}

/// `blat status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// As one JSON object: times in RFC 3339, sizes in bytes.
    #[arg(long)]
    pub(crate) json: bool,

    /// Every second, until interrupted.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `blat sync`
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// Which targets [default: all].
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<TargetName>,

    /// Show progress until these syncs have ended; exit 0 only if all succeeded.
    #[arg(long)]
    pub(crate) wait: bool,

    /// Let these syncs, and no later ones, mark and delete more than max_delete.
    #[arg(long)]
    pub(crate) allow_delete: bool,
}

/// `blat tag`
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The package's name.
    #[arg(value_name = "NAME")]
    pub(crate) name: PackageName,

    /// Its version.
    #[arg(value_name = "VERSION")]
    pub(crate) version: Version,

    /// For this target; may be given several times [default: all targets].
    #[arg(long = "target", value_name = "T")]
    pub(crate) targets: Vec<TargetName>,

    /// Wait until the package is on the targets; exit 1 when it cannot get there.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `blat plan`
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Which target.
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,

    /// As one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `blat logs`
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Which target.
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,

    /// Go on with what is added, across rolled logs, until interrupted.
    #[arg(long, short)]
    pub(crate) follow: bool,
}
