//! The command line of `blat-agent`.

use std::path::PathBuf;

use blat_domain::name::TargetName;
use clap::{ArgGroup, Parser};

/// Keeps one target's package archive filled.
///
/// The master (blatd) starts one agent for every config/TARGET.conf. By hand, --once does one sync in the foreground.
#[derive(Debug, Parser)]
#[command(name = "blat-agent", version, max_term_width = 100)]
#[command(group = ArgGroup::new("mode").args(["once", "plan", "supervised", "create_database"]))]
pub(crate) struct Args {
    /// The home tree; else the current directory where it holds config/
    #[arg(long, value_name = "DIR", env = "BLAT_HOME")]
    pub(crate) home: Option<PathBuf>,

    /// The target: the stem of its file in config/
    #[arg(long, value_name = "NAME", required_unless_present = "create_database")]
    pub(crate) target: Option<TargetName>,

    /// Do one sync in the foreground with progress bars, then exit: 0 when all that is wanted is there
    #[arg(long)]
    pub(crate) once: bool,

    /// With --once: mark and delete even more than max_delete, this once
    #[arg(long, requires = "once")]
    pub(crate) allow_delete: bool,

    /// Print as JSON what a sync would do, and change nothing
    #[arg(long)]
    pub(crate) plan: bool,

    /// Run for a master: orders come on standard input, events go to standard output, end of input means that the master is gone
    #[arg(long)]
    pub(crate) supervised: bool,

    /// Make an empty SQLite database with Release Manager's tables, then exit
    #[arg(long, value_name = "FILE")]
    pub(crate) create_database: Option<PathBuf>,
}
