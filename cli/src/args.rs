//! The command line as it is written: names, help texts, examples. Nothing is decided here.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use blat_domain::package::name::{NameError, PackageId, PackageName, TargetName, Version};
use blat_domain::util::units::duration;
use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;

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
  blat check perth
  blat check --connect")]
    Check(CheckArgs),

    /// Once for each target: trust its host key, have it let this master in, install the scripts.
    ///
    /// Shows the host key's fingerprint and asks; makes an identity where there is none; installs its public half by a
    /// password that is asked for, used once and kept nowhere. It can be repeated at any time.
    #[command(after_help = "\
Examples:
  blat enrol perth
  blat enrol perth --cron
  blat enrol perth --restrict           from then on the key can run nothing but the receiver
  blat enrol perth --fingerprint SHA256:… --password-file /root/perth.password")]
    Enrol(EnrolArgs),

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
  blat tag core_devl@2.1.0.cr           the same
  blat tag tools 1.3.0 --target perth --target sydney --wait")]
    Tag(TagArgs),

    /// Show what a sync would do to packages, with bytes and reasons; change nothing.
    #[command(after_help = "\
Examples:
  blat plan perth
  blat plan perth --json | jq '[.steps[].bytes] | add'")]
    Plan(PlanArgs),

    /// Log in to a target as its agent does, for a look around or one command.
    #[command(after_help = "\
Examples:
  blat ssh perth
  blat ssh perth df -h dpkg_archive")]
    Ssh(SshArgs),
    /// Have a target hash its packages again, and say what is not as it should be.
    ///
    /// They are compared with the manifests that came with them, and with the source. A sync compares times alone. This reads every byte on both sides, so it takes as long as that does. It works beside a
    /// running master.
    #[command(after_help = "\
Examples:
  blat verify perth
  blat verify perth --repair            send again what is not as it should be")]
    Verify(VerifyArgs),

    /// Let this home tree's target list, mark and delete in an archive that another one owns.
    ///
    /// An archive has one owner: the target of the home tree that came first. Others may send packages there, and leave the PackageList, marks and
    /// deletions to it. Shows who owned the archive. It works beside a running master.
    #[command(after_help = "\
Examples:
  blat plan perth                       says who owns the archive, where that keeps it from deleting
  blat adopt perth && blat sync perth")]
    Adopt(AdoptArgs),

    /// Explain why a package is or is not on a target.
    ///
    /// Says what wants it, what the next sync does about it, and what was done to it last. Asks Release Manager, the source and the targets, as `blat plan` does.
    #[command(after_help = "\
Examples:
  blat why core_devl 2.1.0.cr
  blat why core_devl@2.1.0.cr           the same
  blat why tools 1.3.0 --target perth")]
    Why(WhyArgs),

    /// Show what was sent and deleted, when, and how long after its tag.
    #[command(after_help = "\
Examples:
  blat history --since 1d
  blat history --target perth --json | jq -r 'select(.deed == \"failed\") | .package'")]
    History(HistoryArgs),

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

    /// Also log in, and name every tool, right and space that is missing there.
    #[arg(long)]
    pub(crate) connect: bool,
}

/// `blat enrol`
#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// Which target.
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,

    /// The host key's fingerprint, as the host's owner gives it to you; without it, you are asked to confirm the key. With
    /// jump hosts, once for each in their order, and the target's last.
    #[arg(long = "fingerprint", value_name = "SHA256:…")]
    pub(crate) fingerprints: Vec<String>,

    /// A file whose first line is the password; without it, you are asked for the password.
    #[arg(long, value_name = "FILE", env = "BLAT_PASSWORD_FILE")]
    pub(crate) password_file: Option<PathBuf>,

    /// Install the crontab lines of pkg_mon and pkg_purge on the target too.
    #[arg(long)]
    pub(crate) cron: bool,

    /// From then on the key can run nothing on the target but the receiver, for this archive.
    #[arg(long)]
    pub(crate) restrict: bool,
}

/// `blat ssh`
#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    /// Which target.
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,

    /// What to run there [default: a shell].
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<OsString>,
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

    /// Let these syncs, and no later ones, mark and delete what blat status shows as held back.
    #[arg(long)]
    pub(crate) allow_delete: bool,
}

/// One package, as two words or as one.
#[derive(Debug, Args)]
pub(crate) struct PackageArgs {
    /// The package's name, or NAME@VERSION.
    #[arg(value_name = "NAME")]
    name: NameOrPackage,

    /// Its version, where it does not stand behind the name.
    #[arg(value_name = "VERSION")]
    version: Option<Version>,
}

/// What may stand in the place of a package's name.
#[derive(Debug, Clone)]
enum NameOrPackage {
    Name(PackageName),
    Package(PackageId),
}

impl FromStr for NameOrPackage {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains('@') { text.parse().map(Self::Package) } else { text.parse().map(Self::Name) }
    }
}

impl PackageArgs {
    /// The package.
    ///
    /// # Errors
    /// Where its version is not given, or given twice.
    pub(crate) fn package(&self) -> Result<PackageId, Failure> {
        match (&self.name, &self.version) {
            (NameOrPackage::Package(package), None) => Ok(package.clone()),
            (NameOrPackage::Name(name), Some(version)) => {
                Ok(PackageId { name: name.clone(), version: version.clone() })
            }
            (NameOrPackage::Name(name), None) => {
                Err(Failure::usage(format!("the version of {name} is missing; give NAME VERSION or NAME@VERSION")))
            }
            (NameOrPackage::Package(package), Some(version)) => {
                Err(Failure::usage(format!("{package} has a version, and {version} is a second one")))
            }
        }
    }
}

/// `blat tag`
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Which package.
    #[command(flatten)]
    pub(crate) package: PackageArgs,

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

/// `blat verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Which target.
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,

    /// Send again what is not as it should be; each package is exchanged for its successor in one step.
    #[arg(long)]
    pub(crate) repair: bool,
}

/// `blat adopt`
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// Which target.
    #[arg(value_name = "TARGET")]
    pub(crate) target: TargetName,
}

/// `blat why`
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Which package.
    #[command(flatten)]
    pub(crate) package: PackageArgs,

    /// On this target [default: all targets].
    #[arg(long, value_name = "T")]
    pub(crate) target: Option<TargetName>,
}

/// `blat history`
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Of this target [default: all targets].
    #[arg(long, value_name = "T")]
    pub(crate) target: Option<TargetName>,

    /// Only what was done in so long a time until now, such as 90m or 1d [default: all that is kept].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) since: Option<Duration>,

    /// As one JSON object a line.
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
