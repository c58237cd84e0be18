//! `blat-agent`: one target's daemon.
//!
//! One loop waits for events, a pure [`session`] decides, and workers perform. Only [`sync`] writes through a target.

mod args;
mod commands;
mod daemon;
mod flow;
mod model;
mod releases;
mod session;
mod source;
mod state;
mod sync;
mod targets;
mod transport;
mod ui;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use blat_config::{Home, Settings, account, surroundings};
use blat_domain::archive::record::Owner;
use blat_domain::package::name::{PackageId, TargetName};
use blat_domain::protocol::exit_code::{BAD_CONFIG, BUSY, FAILED};
use blat_domain::util::text::{escaped, escaped_lines};
use clap::Parser;
use rustix::process::Signal;

use args::Args;
use sync::Synced;
use sync::context::SyncContext;

/// Why the agent ends other than well, with its exit status.
struct FatalError(u8, anyhow::Error);

impl From<anyhow::Error> for FatalError {
    fn from(error: anyhow::Error) -> Self {
        Self(FAILED, error)
    }
}

/// How long a worker thread is kept that has nothing to do.
const WORKER_STAYS: Duration = Duration::from_secs(600);

/// How long workers may take to notice that the agent ends; a read from a hanging file system never does.
const WIND_UP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    if let Err(error) = surroundings::settle() {
        say(format_args!("blat-agent: cannot start: {error}"));
        return ExitCode::from(FAILED);
    }
    if let Some(code) = transport::tied::become_other(std::env::args_os()) {
        return code;
    }
    if let Some(code) = transport::libssh2::speak_instead(std::env::args_os()) {
        return code;
    }
    if let Some(code) = crate::releases::read_instead(std::env::args_os()) {
        return code;
    }
    if let Some(code) = crate::releases::keep_instead(std::env::args_os()) {
        return code;
    }
    let args = Args::parse();
    if let Some(parent) = args.with_parent
        && let Err(error) = transport::tied::end_with(parent, Signal::TERM)
    {
        say(format_args!("blat-agent: cannot start for process {parent}: {error}; nothing was done"));
        return ExitCode::from(FAILED);
    }
    // Before anything is opened or made. Where there is no home tree, that is said below.
    if args.create_database.is_none()
        && let Ok(home) = Home::locate(args.home.as_deref())
        && let Err(error) = account::expect_owner(home.root(), "blat-agent")
    {
        say(format_args!("blat-agent: {error}"));
        return ExitCode::from(FAILED);
    }
    // One thread for the loop; work that takes a processor has threads of its own.
    crate::flow::idle_timer::begin();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let built =
        surroundings::expect_threads().and_then(|()| runtime.enable_all().thread_keep_alive(WORKER_STAYS).build());
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("blat-agent: cannot start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    runtime.spawn(keep_a_worker());
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(WIND_UP);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(FatalError(code, error)) => {
            say(format_args!("blat-agent: {error:#}"));
            ExitCode::from(code)
        }
    }
}

/// Keeps one worker thread alive. Where the account may have no more threads, work waits for that one; without any, it is the end of the process
/// (tokio panics).
async fn keep_a_worker() {
    // It says nothing where it fails: the runtime is shut down.
    while tokio::task::spawn_blocking(|| {}).await.is_ok() {
        tokio::time::sleep(WORKER_STAYS / 2).await;
    }
}

/// Says it on standard error, whatever names it carries. Where that is closed, there is no place left to report to.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{}", escaped_lines(&text.to_string()));
}

/// Standard error for lines whose text may come from anybody.
struct ForPeople;

impl std::io::Write for ForPeople {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        std::io::stderr().write_all(escaped_lines(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

async fn run(args: Args) -> Result<(), FatalError> {
    if let Some(path) = &args.create_database {
        return Ok(crate::releases::create_database(path).await.map_err(|why| anyhow!(why))?);
    }
    let home = Home::locate(args.home.as_deref()).context("cannot find the home tree")?;
    let target = args.target.context("--target is missing: say which target to serve")?;
    home.close_to_others().context("cannot make a place for the agent's own files")?;
    let settings = load(&home, &target)?;
    if args.enrol {
        let Args { fingerprints, password_file, cron, restrict, .. } = args;
        let wishes = crate::commands::enrol::Wishes { fingerprints, password_file, cron, restrict };
        return Ok(crate::commands::enrol::run(&home, &settings, &wishes).await?);
    }
    if args.shell {
        return Ok(crate::commands::shell::become_ssh(&settings, &args.command).map(|never| match never {})?);
    }
    let owner = owner(&home, &target)?;
    if args.check {
        return print_findings(&home, &settings, owner).await;
    }
    if args.once {
        return once(&home, settings, owner, args.allow_delete).await;
    }
    let visiting = |settings| visiting(&home, settings, owner.clone());
    match (&args.why, args.plan, args.verify, args.adopt) {
        (Some(package), ..) => print_why(visiting(settings)?, package).await,
        (_, true, ..) => print_plan(visiting(settings)?).await,
        (_, _, true, _) => verify(visiting(settings)?, args.repair).await,
        (.., true) => adopt(visiting(settings)?).await,
        (None, false, false, false) => daemon::run(home, settings, owner, args.supervised).await,
    }
}

/// On whose behalf archives are listed and deleted from.
fn owner(home: &Home, target: &TargetName) -> Result<Owner, FatalError> {
    let id = blat_config::home_id::ensure(home).map_err(|error| FatalError(BAD_CONFIG, anyhow!(error)))?;
    Ok(Owner { home: id, target: target.clone() })
}

/// Somebody watches: what a daemon would log as a warning is shown.
fn warn_on_stderr() {
    tracing_subscriber::fmt()
        .with_writer(|| ForPeople)
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_target(false)
        .without_time()
        .init();
}

fn load(home: &Home, target: &TargetName) -> Result<Settings, FatalError> {
    blat_config::load_target(home, target).map_err(|complaints| {
        // What the system refuses now it may give in a moment, though no file changes.
        let code = if complaints.is_unread() { FAILED } else { BAD_CONFIG };
        FatalError(code, anyhow!(complaints))
    })
}

/// What the master does for its agents: of two targets with one archive the later one is not served.
fn refuse_rivals(home: &Home, settings: &Settings) -> Result<(), FatalError> {
    crate::sync::rival::find(home, settings).map_or(Ok(()), |why| Err(FatalError(BAD_CONFIG, anyhow!(why))))
}

/// One sync in the foreground.
async fn once(home: &Home, settings: Settings, owner: Owner, allow_delete: bool) -> Result<(), FatalError> {
    warn_on_stderr();
    let _lock = daemon::lock(home, &settings.name)?;
    refuse_rivals(home, &settings)?;
    let context = SyncContext::new(home, settings, owner);
    let confirmed = allow_delete.then(|| context.lasting.held_back());
    let bars = crate::ui::bars::Bars::new(context.progress.clone());
    let (report, problem) = match bars.during(context.sync(confirmed)).await {
        Synced::Ended(report, problem) => (report, problem),
        Synced::Superseded => {
            let name = &context.settings.name;
            return Err(FatalError(
                BUSY,
                anyhow!("{name}: the config changed during the sync, which ended early; run it again"),
            ));
        }
    };
    println!("{}", crate::ui::bars::summary(&report));
    report.held_packages.iter().for_each(|held| println!("    held: {}: {}", held.package, escaped(&held.why)));
    match problem {
        None => Ok(()),
        Some(problem) => {
            let about = problem.package.map(|package| format!("{package}: ")).unwrap_or_default();
            Err(anyhow!("{}: the sync is not complete: {about}{}", context.settings.name, problem.text).into())
        }
    }
}

/// All that is missing on the way to the target and there, each on a line; well or worth knowing on standard output.
async fn print_findings(home: &Home, settings: &Settings, owner: Owner) -> Result<(), FatalError> {
    let found = crate::commands::check::run(home, settings, owner).await;
    let name = &settings.name;
    if found.wrong.is_empty() {
        println!("ok  {name}: {}", escaped(&found.notes.join("; ")));
        return Ok(());
    }
    found.notes.iter().for_each(|note| println!("    {name}: {}", escaped(note)));
    found.wrong.iter().for_each(|wrong| say(format_args!("error: {name}: {wrong}")));
    Err(anyhow!("{name}: {} to be mended before packages can be sent", found.wrong.len()).into())
}

/// A context that leaves a running agent's connection alone.
fn visiting(home: &Home, settings: Settings, owner: Owner) -> Result<SyncContext, FatalError> {
    Ok(SyncContext::visiting(home, settings, owner).context("cannot make a temporary directory for the connection")?)
}

/// What a sync would do, as JSON on one line.
async fn print_plan(context: SyncContext) -> Result<(), FatalError> {
    warn_on_stderr();
    let prepared = context.prepare(None).await.map_err(|problem| anyhow!("cannot plan: {}", problem.text))?;
    println!("{}", serde_json::to_string(&prepared.plan).context("cannot write the plan")?);
    Ok(())
}

/// Why a package is or is not there, as JSON on one line.
async fn print_why(context: SyncContext, package: &PackageId) -> Result<(), FatalError> {
    warn_on_stderr();
    let why = context.why(package).await.map_err(|problem| anyhow!("cannot tell why: {}", problem.text))?;
    println!("{}", serde_json::to_string(&why).context("cannot write the answer")?);
    Ok(())
}

/// Looks at every byte on the target. Takes no lock: the target's own locks keep a repair and a running agent apart.
async fn verify(context: SyncContext, repair: bool) -> Result<(), FatalError> {
    let tally = context.verify(repair).await.map_err(|problem| anyhow!("cannot verify: {}", problem.text))?;
    println!("{tally}");
    if tally.wrong > 0 {
        let hint = if repair { "" } else { "; `blat verify --repair` sends them again" };
        let wrong = tally.wrong;
        return Err(anyhow!("{}: {wrong} packages are not as they should be{hint}", context.settings.name).into());
    }
    Ok(())
}

/// Takes an archive over. The agent that runs finds it out by itself, at its next sync.
async fn adopt(context: SyncContext) -> Result<(), FatalError> {
    warn_on_stderr();
    let name = &context.settings.name;
    let (before, after) = context.adopt().await.map_err(|problem| anyhow!("{name}: {}", problem.text))?;
    if before == after {
        println!("{name}: the archive {} belongs to this target already", context.settings.archive);
        return Ok(());
    }
    println!("{name}: {}", escaped(&crate::sync::ownership::shown(&before)));
    println!("{name}: it belongs to this target now ({}); `blat sync {name}` lists, marks and deletes", context.owner);
    Ok(())
}
