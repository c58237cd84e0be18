//! What is published, without reading any of it: a look at each descpkg by its name. Version directories are never opened.
//!
//! The listing is not held in memory: the first walk makes digests only, the second one tells the lines of those buckets that differ. Whatever
//! cannot be read makes it fail: a short list would look like an emptied archive.

pub(crate) mod beside;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use blat_domain::archive::inventory::{Mark, link_line, mark_line, package_line};
use blat_domain::archive::listing_digest::{Buckets, MOST, bucket};
use blat_domain::archive::{CONTROL, MARKS};
use blat_domain::package::DESCPKG;
use blat_domain::package::name::{PackageId, PackageName, Version};
use blat_domain::protocol::frames::Reply;
use rustix::fs::FileType;

use crate::archive::dir::{Dir, is_absence, kind};
use crate::archive::{Archive, CHECK_MODES};
use crate::failure::{Failure, shown};
use crate::owner::record;
use crate::wire::inbox::Inbox;
use crate::wire::replies::MOST_LINES;

/// A folder of the file system's own, at the root of each, and closed to all but root. Others of the kind are no names anyway.
const LOST_AND_FOUND: &str = "lost+found";

/// From so many names on, several threads look.
const MANY: usize = 256;
/// So many threads: more only wait for each other.
const THREADS: usize = 4;
/// Names that a thread takes at once.
const SHARE: usize = 16;

/// Compares the archive with what the agent knows, and tells what differs. The outer error is that of `send`.
pub(crate) fn list(
    archive: &Archive,
    known: &[[u8; 16]],
    inbox: &Inbox,
    mut send: impl FnMut(&[Reply<'_>]) -> io::Result<()>,
) -> io::Result<Result<(), Failure>> {
    let differing = match differing(archive, known, inbox) {
        Ok(differing) => differing,
        Err(failure) => return Ok(Err(failure)),
    };
    let count = known.len().max(1);
    let mut lines = Lines { text: String::new(), send: &mut send, fault: Ok(()) };
    if !differing.is_empty() {
        let wanted = |name: &str| {
            bucket(name, count)
                .and_then(|bucket| u16::try_from(bucket).ok())
                .is_some_and(|number| differing.binary_search(&number).is_ok())
        };
        let walk = Walk { archive, wanted: &wanted, inbox };
        let told = walk.names().and_then(|names| {
            names.iter().try_for_each(|name| walk.name(name, &mut |line| lines.push(line)))?;
            walk.marks(&mut |_, line| lines.push(line))
        });
        if let Err(failure) = told {
            return Ok(Err(failure));
        }
    }
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    lines.push(&format!("clock {clock}"));
    // As with the scripts, a target that cannot tell leaves the line out.
    if let Ok(free) = archive.root.free() {
        lines.push(&format!("free {free}"));
    }
    record::lines(archive).lines().for_each(|line| lines.push(line));
    lines.flush();
    lines.fault?;
    send(&[Reply::Listed { buckets: differing }])?;
    Ok(Ok(()))
}

/// Lines on their way.
struct Lines<'a, S> {
    text: String,
    send: &'a mut S,
    fault: io::Result<()>,
}

impl<S: FnMut(&[Reply<'_>]) -> io::Result<()>> Lines<'_, S> {
    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        if self.text.len() >= MOST_LINES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.fault.is_ok() {
            self.fault = (self.send)(&[Reply::Lines(&self.text)]);
        }
        self.text.clear();
    }
}

/// The numbers of the buckets that differ from what is known, in their order.
fn differing(archive: &Archive, known: &[[u8; 16]], inbox: &Inbox) -> Result<Vec<u16>, Failure> {
    if known.is_empty() {
        return Ok(vec![0]);
    }
    if known.len() > MOST {
        let why = format!("it has {} buckets; {MOST} are the most", known.len());
        return Err(Failure::refused(
            "comparing the agent's listing",
            why,
            "install blat-agent and blat-receiver of one version",
        ));
    }
    let everything = |_: &str| true;
    let walk = Walk { archive, wanted: &everything, inbox };
    let buckets = walk.digests(known.len())?;
    let there = buckets.digests();
    let numbers = (0u16..).zip(there.iter().zip(known));
    Ok(numbers.filter(|(_, (there, known))| there != known).map(|(number, _)| number).collect())
}

/// One walk over the names that are wanted.
struct Walk<'a> {
    archive: &'a Archive,
    wanted: &'a (dyn Fn(&str) -> bool + Sync),
    inbox: &'a Inbox,
}

impl Walk<'_> {
    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        Failure::io(format!("listing {}: looking at {what}", self.archive.shown()), error, CHECK_MODES)
    }

    /// Everything that may be the name of a package.
    fn names(&self) -> Result<Vec<PackageName>, Failure> {
        let mut names = Vec::new();
        let all = self.archive.root.entries().map_err(|error| self.failed("its names", &error))?;
        for found in all {
            let found = found.map_err(|error| self.failed("its names", &error))?;
            let name = str::from_utf8(&found.name).ok().and_then(|name| name.parse::<PackageName>().ok());
            let Some(name) = name.filter(|name| name.as_str() != LOST_AND_FOUND && (self.wanted)(name.as_str())) else {
                continue;
            };
            match found.kind {
                FileType::Directory | FileType::Unknown => names.push(name),
                _ => {}
            }
        }
        Ok(names)
    }

    /// The lines of one name.
    fn name(&self, name: &PackageName, tell: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        self.inbox.get_on();
        let failed = |error: io::Error| self.failed(name.as_str(), &error);
        // One that was deleted or exchanged meanwhile is no error.
        let Some(dir) = self.archive.root.open_if_there(name.as_str()).map_err(failed)? else { return Ok(()) };
        let mut path = String::new();
        for found in dir.entries().map_err(failed)? {
            let found = found.map_err(failed)?;
            let version = str::from_utf8(&found.name).ok().and_then(|version| version.parse::<Version>().ok());
            // A file system may be mounted at a name, too.
            let Some(version) = version.filter(|version| version.as_str() != LOST_AND_FOUND) else { continue };
            let package = PackageId { name: name.clone(), version };
            let failed = |error: io::Error| self.failed(&package.path(), &error);
            let of = match found.kind {
                FileType::Unknown => {
                    dir.stat(found.name.as_slice()).map_err(failed)?.map_or(FileType::Unknown, |stat| kind(&stat))
                }
                known => known,
            };
            match of {
                FileType::Directory => {
                    path.clear();
                    path.extend([package.version.as_str(), "/", DESCPKG]);
                    let descpkg = dir.stat(path.as_str()).map_err(failed)?;
                    if let Some(stat) = descpkg.filter(|stat| kind(stat) == FileType::RegularFile) {
                        tell(&package_line(&package, stat.st_mtime));
                    }
                }
                FileType::Symlink => {
                    if let Some(to) = dir.link_target(package.version.as_str()).map_err(failed)? {
                        tell(&link_line(&package, &to));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The marks. One that vanishes meanwhile, or is none, is left out.
    fn marks(&self, tell: &mut dyn FnMut(&str, &str)) -> Result<(), Failure> {
        let failed = |error: io::Error| self.failed("its marks", &error);
        let Some(aged) = self.archive.root.open_if_there(format!("{CONTROL}/{MARKS}")).map_err(failed)? else {
            return Ok(());
        };
        for found in aged.entries().map_err(failed)? {
            let found = found.map_err(failed)?;
            let package = str::from_utf8(&found.name).ok().and_then(|name| name.parse::<PackageId>().ok());
            let Some(package) = package.filter(|package| (self.wanted)(package.name.as_str())) else { continue };
            match read_mark(&aged, &found.name) {
                Ok(Some(mark)) => tell(package.name.as_str(), &mark_line(&package, mark)),
                Ok(None) => {}
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(self.failed(&format!("the mark {}", shown(&found.name)), &error)),
            }
        }
        Ok(())
    }

    /// The digests of everything, in so many buckets.
    fn digests(&self, count: usize) -> Result<Buckets, Failure> {
        let names = self.names()?;
        let next = AtomicUsize::new(0);
        let work = || -> Result<Buckets, Failure> {
            let mut buckets = Buckets::new(count);
            loop {
                let from = next.fetch_add(SHARE, Ordering::Relaxed);
                let Some(share) = names.get(from..).filter(|rest| !rest.is_empty()) else { return Ok(buckets) };
                for name in &share[..share.len().min(SHARE)] {
                    self.name(name, &mut |line| buckets.add(name.as_str(), line))?;
                }
            }
        };
        // However many processors there are: they wait for the disk most of the time, and to ask the system for that number takes more code than
        // all of this file.
        let threads = if names.len() < MANY { 1 } else { THREADS };
        let mut all = std::thread::scope(|scope| {
            // With fewer threads than are wanted it only takes longer.
            let start = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let helpers: Vec<_> = (1..threads).filter_map(start).collect();
            let mut all = work()?;
            for helper in helpers {
                match helper.join() {
                    Ok(buckets) => all.merge(&buckets?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(all)
        })?;
        self.marks(&mut |name, line| all.add(name, line))?;
        Ok(all)
    }
}

/// A mark's two numbers, where it has them.
pub(crate) fn read_mark(aged: &Dir, name: &[u8]) -> io::Result<Option<Mark>> {
    use std::io::Read as _;
    let mut text = String::new();
    let mut file = aged.read(name)?.take(64);
    match file.read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut lines = text.lines().map(number);
    Ok(match (lines.next().flatten(), lines.next().flatten()) {
        (Some(at), Some(wait)) => i64::try_from(at).ok().map(|at| Mark { at, wait }),
        (Some(_) | None, Some(_) | None) => None,
    })
}

/// A number of at most 15 digits, as the scripts take them.
fn number(text: &str) -> Option<u64> {
    let plain = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}
