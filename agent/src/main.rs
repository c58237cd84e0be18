//! `blat-agent`: one target's daemon.
//!
//! One loop waits for events, a pure [`session`] decides, and workers perform. Only [`sync`] writes through a target.

mod args;
mod bars;
mod daemon;
mod memory;
mod progress;
mod release;
mod session;
mod source;
mod sync;
mod tags;
mod target;
mod upkeep;
mod watching;
mod workplace;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use blat_config::{Home, Settings};
use blat_domain::name::TargetName;
use clap::Parser;

use args::Args;
use workplace::Workplace;

/// A sync that left something undone, or anything else that failed.
const FAILED: u8 = 1;
/// Another agent serves this target (sysexits' EX_TEMPFAIL).
const BUSY: u8 = 75;
/// The config is not valid (sysexits' EX_CONFIG); the master waits until it changes.
const BAD_CONFIG: u8 = 78;

/// Why the agent ends other than well, with its exit status.
struct Failure(u8, anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(FAILED, error)
    }
}

/// How long workers may take to notice that the agent ends; a read from a hanging file system never does.
const WIND_UP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // One thread for the loop; work that takes a processor has threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("blat-agent: cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let result = runtime.block_on(run(Args::parse()));
    runtime.shutdown_timeout(WIND_UP);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, error)) => {
            eprintln!("blat-agent: {error:#}");
            ExitCode::from(code)
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    if let Some(path) = &args.create_database {
        return Ok(release::create_database(path).await.map_err(|why| anyhow!(why))?);
    }
    let home = Home::locate(args.home.as_deref()).context("cannot find the home tree")?;
    let target = args.target.context("--target is missing: say which target to serve")?;
    let settings = load(&home, &target)?;
    if args.once || args.plan {
        warn_on_stderr();
    }
    match (args.once, args.plan) {
        (true, _) => once(&home, settings, args.allow_delete).await,
        (_, true) => print_plan(&home, settings).await,
        (false, false) => daemon::run(home, settings, args.supervised).await,
    }
}

/// Somebody watches: what a daemon would log as a warning is shown.
fn warn_on_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN)
        .with_target(false)
        .without_time()
        .init();
}

fn load(home: &Home, target: &TargetName) -> Result<Settings, Failure> {
    blat_config::load_target(home, target).map_err(|complaints| Failure(BAD_CONFIG, anyhow!(complaints)))
}

/// One sync in the foreground.
async fn once(home: &Home, settings: Settings, allow_delete: bool) -> Result<(), Failure> {
    let _lock = daemon::lock(home, &settings.name)?;
    let workplace = Workplace::new(home, settings);
    let bars = bars::Bars::new(workplace.progress.clone());
    let (report, problem) = bars.during(workplace.sync(allow_delete)).await;
    println!("{}", bars::summary(&report));
    match problem {
        None => Ok(()),
        Some(problem) => {
            let about = problem.package.map(|package| format!("{package}: ")).unwrap_or_default();
            Err(anyhow!("{}: the sync is not complete: {about}{}", workplace.settings.name, problem.text).into())
        }
    }
}

/// What a sync would do, as JSON on one line.
async fn print_plan(home: &Home, settings: Settings) -> Result<(), Failure> {
    let workplace = Workplace::new(home, settings);
    let prepared = workplace.prepare(false).await.map_err(|problem| anyhow!("cannot plan: {}", problem.text))?;
    println!("{}", serde_json::to_string(&prepared.plan).context("cannot write the plan")?);
    Ok(())
}
