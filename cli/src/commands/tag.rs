//! `blat tag`: drops tags so that no reader ever finds half of one, and waits for them where that is wanted.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use blat_config::{Home, load_target};
use blat_domain::name::{PackageId, TargetName};
use blat_domain::status::{Queue, State};
use blat_domain::tag::{BAD, FAILED, file_name, line};
use blat_domain::text::printable;
use blat_domain::units::show_duration;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

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
    /// The file itself, by device and inode, which it keeps where the agent sets it aside.
    id: (u64, u64),
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
    let (path, at, id) = put(&directory, package).map_err(cannot)?;
    Ok(Dropped { target, path, at, id })
}

/// Puts a tag into the directory in one durable step: made under a name that is ignored, then renamed. Says where, when, and which file it
/// is.
fn put(directory: &Path, package: &PackageId) -> io::Result<(PathBuf, Instant, (u64, u64))> {
    // Readable by an agent that runs as another user.
    let permissions = Permissions::from_mode(0o644);
    let mut file = tempfile::Builder::new().prefix(".blat-tag-").permissions(permissions).tempfile_in(directory)?;
    let path = match file_name(package) {
        Some(name) => directory.join(name),
        // No file can be called after this package, or it would be ignored. This name is as random as the one before.
        None => {
            file.write_all(line(package).as_bytes())?;
            let unfinished = file.path().file_name().unwrap_or_default().to_string_lossy();
            directory.join(unfinished.trim_start_matches('.'))
        }
    };
    file.as_file().sync_all()?;
    let metadata = file.as_file().metadata()?;
    let at = Instant::now();
    file.persist(&path)?;
    File::open(directory)?.sync_all()?;
    Ok((path, at, (metadata.dev(), metadata.ino())))
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

/// Why a tag that is gone was set aside, if it was. The file itself is looked for, so that an earlier tag of the same name means nothing.
fn reason(tag: &Dropped) -> Result<Option<String>, Failure> {
    let Some(directory) = tag.path.parent() else { return Ok(None) };
    for place in [FAILED, BAD] {
        match reason_in(directory, place, tag.id) {
            Ok(Some(text)) => return Ok(Some(printable(text.trim()))),
            Ok(None) => {}
            Err(error) => {
                let path = printable(&directory.join(place).to_string_lossy());
                return Err(Failure::failed(format!("cannot read why the tag was set aside, in {path}: {error}")));
            }
        }
    }
    Ok(None)
}

/// The reason beside this very file, where it lies in this place. Whoever owns the tag directory may have put anything there: no link is
/// followed, and nothing is opened that could wait.
fn reason_in(directory: &Path, place: &str, id: (u64, u64)) -> io::Result<Option<String>> {
    let quiet = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let place = match rustix::fs::openat(&directory, place, quiet | OFlags::DIRECTORY, Mode::empty()) {
        // The agent uses no such place.
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
        opened => opened?,
    };
    let Some(mut name) = name_of(&place, id)? else { return Ok(None) };
    name.extend_from_slice(b".reason");
    let file = File::from(rustix::fs::openat(&place, &name[..], quiet, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("the reason is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MOST_READ).read_to_end(&mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// The name of the file with this device and inode.
fn name_of(place: &OwnedFd, id: (u64, u64)) -> io::Result<Option<Vec<u8>>> {
    for entry in Dir::read_from(place)? {
        let name = entry?.file_name().to_bytes().to_vec();
        match rustix::fs::statat(place, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == id => {
                let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                return Ok(is_file.then_some(name));
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Milliseconds while they matter.
fn show(after: Duration) -> String {
    if after < Duration::from_secs(10) { format!("{} ms", after.as_millis()) } else { show_duration(after) }
}
