//! `blat tag`: drops tags so that no reader ever finds half of one, and waits for them where that is wanted.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use blat_config::{Home, load_target};
use blat_domain::name::{PackageId, TargetName};
use blat_domain::status::{Queue, State};
use blat_domain::tag::{BAD, FAILED};
use blat_domain::text::printable;
use blat_domain::units::show_duration;

use crate::args::TagArgs;
use crate::commands::targets;
use crate::failure::{Exit, Failure, Outcome};
use crate::master::Master;
use crate::picture::counted;
use crate::progress::Progress;
use crate::style::Style;

/// How often a dropped tag is looked at.
const BEAT: Duration = Duration::from_millis(20);
/// How often the master is asked what it does meanwhile, and whether it is still there.
const LOOK_UP: Duration = Duration::from_millis(500);
/// The most of a reason that is read, in bytes.
const MOST_READ: u64 = 4 << 10;

/// A tag that was dropped.
#[derive(Debug)]
struct Dropped {
    target: TargetName,
    path: PathBuf,
    at: Instant,
    /// The tag's own modification time: what the agent writes about it is not older.
    modified: SystemTime,
}

/// Drops a tag for each target, and waits for all of them.
pub(crate) fn run(home: &Home, args: &TagArgs) -> Outcome {
    let package = PackageId { name: args.name.clone(), version: args.version.clone() };
    let targets = chosen(home, &args.targets)?;
    let served = Master::find(home)?.is_some();
    if args.wait && !served {
        return Err(Failure::no_master().hint("without --wait the tag is dropped, and acted on after `blat start`"));
    }
    let mut dropped = Vec::new();
    let mut failures = Vec::new();
    for target in targets {
        match drop_for(home, target, &package) {
            Ok(tag) => dropped.push(tag),
            // One target's trouble costs the others nothing.
            Err(failure) => failures.push(failure),
        }
    }
    if !args.wait {
        for tag in &dropped {
            writeln!(io::stdout(), "{package} is tagged for {}", tag.target)?;
        }
        if !served && !dropped.is_empty() {
            let what = if dropped.len() == 1 { "this tag waits" } else { "these tags wait" };
            // Where standard error is gone, the tag is dropped all the same.
            let _ = writeln!(io::stderr(), "blat: no master is running: {what} for `blat start`");
        }
    } else if !dropped.is_empty() {
        failures.extend(wait(home, dropped, &package).err());
    }
    let last = failures.pop();
    failures.iter().for_each(Failure::say);
    last.map_or(Ok(Exit::DONE), Err)
}

/// The targets that were named, or all there are.
fn chosen(home: &Home, named: &[TargetName]) -> Result<Vec<TargetName>, Failure> {
    named.iter().try_for_each(|target| targets::known(home, target))?;
    let mut names = if named.is_empty() { targets::all(home)? } else { named.to_vec() };
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Failure::failed("there is no target to tag").hint("each target is a file config/TARGET.conf"));
    }
    Ok(names)
}

fn drop_for(home: &Home, target: TargetName, package: &PackageId) -> Result<Dropped, Failure> {
    let settings = load_target(home, &target).map_err(|complaints| {
        let count = counted(complaints.list().len() as u64, "complaint");
        Failure::new(Exit::CONFIG, format!("cannot tag {package} for {target}: its config is not valid: {count}"))
            .hint(format!("`blat check {target}` shows what is wrong"))
    })?;
    let directory = settings.tags;
    let cannot = |error: io::Error| {
        let where_to = printable(&directory.to_string_lossy());
        Failure::failed(format!("cannot tag {package} for {target} in {where_to}: {error}"))
    };
    // Only our own directory is made. Another one that is missing may be a mount that is.
    if directory == home.tags_dir(&target) {
        fs::create_dir_all(&directory).map_err(cannot)?;
    }
    let path = directory.join(package.to_string());
    let (at, modified) = put(&directory, &path).map_err(cannot)?;
    Ok(Dropped { target, path, at, modified })
}

/// Puts an empty file at `path` in one durable step: made under a name that is ignored, then renamed. Says when.
fn put(directory: &Path, path: &Path) -> io::Result<(Instant, SystemTime)> {
    // Readable by an agent that runs as another user.
    let permissions = Permissions::from_mode(0o644);
    let file = tempfile::Builder::new().prefix(".blat-tag-").permissions(permissions).tempfile_in(directory)?;
    file.as_file().sync_all()?;
    let modified = file.as_file().metadata()?.modified()?;
    let at = Instant::now();
    file.persist(path)?;
    File::open(directory)?.sync_all()?;
    Ok((at, modified))
}

/// Waits until every tag is gone: removed when its package is published, or set aside with a reason.
fn wait(home: &Home, mut open: Vec<Dropped>, package: &PackageId) -> Result<(), Failure> {
    let mut progress = Progress::new(Style::of_stdout());
    let mut failed: Option<Failure> = None;
    let mut next_look = Instant::now();
    while !open.is_empty() {
        let (still, gone): (Vec<_>, Vec<_>) = open.into_iter().partition(|tag| is_there(&tag.path));
        for tag in gone {
            let after = tag.at.elapsed();
            match reason(&tag)? {
                None => {
                    let line = format!("{package} is on {} after {}", tag.target, show(after));
                    progress.end(&tag.target, &line)?;
                }
                Some(why) => {
                    let text = format!("{package} cannot get to {}: {why}", tag.target);
                    progress.end(&tag.target, &format!("{package} is not on {}: {why}", tag.target))?;
                    failed = Some(Failure::failed(text));
                }
            }
        }
        open = still;
        if !open.is_empty() && Instant::now() >= next_look {
            look_up(home, &open, &mut progress)?;
            next_look = Instant::now() + LOOK_UP;
        }
        if !open.is_empty() {
            thread::sleep(BEAT);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Shows what the awaited targets do. Without a master there is nothing to wait for.
fn look_up(home: &Home, open: &[Dropped], progress: &mut Progress) -> Result<(), Failure> {
    let status = match Master::find(home)? {
        Some(master) => master.status()?,
        None => {
            return Err(Failure::new(Exit::NO_MASTER, "the master went away; the tags stay")
                .hint("they are acted on after `blat start`"));
        }
    };
    for tag in open {
        match status.targets.iter().find(|target| target.name == tag.target) {
            Some(target) => progress.tell(&tag.target, target.state, target.queue, target.current.as_ref()),
            // The master has not noticed its config yet.
            None => progress.tell(&tag.target, State::Starting, Queue::default(), None),
        }
    }
    Ok(())
}

fn is_there(path: &Path) -> bool {
    // An unreadable directory does not mean that the tag is done.
    !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound)
}

/// Why a tag that is gone was set aside, if it was, since it was dropped.
fn reason(tag: &Dropped) -> Result<Option<String>, Failure> {
    let (Some(directory), Some(name)) = (tag.path.parent(), tag.path.file_name()) else { return Ok(None) };
    let mut file_name = name.to_owned();
    file_name.push(".reason");
    for place in [FAILED, BAD] {
        let path = directory.join(place).join(&file_name);
        let read = File::open(&path).and_then(|file| {
            let new = file.metadata()?.modified()? >= tag.modified;
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(file, MOST_READ), &mut text)?;
            Ok(new.then_some(text))
        });
        match read {
            Ok(Some(text)) => return Ok(Some(printable(text.trim()))),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let path = printable(&path.to_string_lossy());
                return Err(Failure::failed(format!("cannot read why the tag was set aside, in {path}: {error}")));
            }
        }
    }
    Ok(None)
}

/// Milliseconds while they matter.
fn show(after: Duration) -> String {
    if after < Duration::from_secs(10) { format!("{} ms", after.as_millis()) } else { show_duration(after) }
}
