//! Versions that go, or are marked for it. Everything is looked at again at that moment, under the publish lock: what was decided elsewhere may be
//! minutes old. Each vanishes by one rename; its files are deleted after the answer. The words of the answer are `delete_package`'s.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::time::{SystemTime, UNIX_EPOCH};

use blat_domain::archive::package_list::{self, Former};
use blat_domain::archive::{CONTROL, MARKS};
use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use blat_domain::package::tree::file_name;
use blat_domain::protocol::frames::{Leaving, Retirement};
use blat_domain::protocol::outcome::{FailedFor, KeptFor, Outcome};
use blat_domain::util::identity::{Identity, SAME};
use rustix::fs::{FileType, Stat};

use crate::archive::dir::{Dir, kind};
use crate::archive::locks;
use crate::archive::{Archive, CHECK_MODES, mark_name, tree};
use crate::failure::Failure;
use crate::listing::read_mark;
use crate::owner::mandate::Mandate;
use crate::package_list::read_list;
use crate::staging::scratch::{Scratch, flush};
use crate::wire::replies::line;

/// Seconds that a mark may lie ahead of the clock.
const AHEAD: i64 = 600;

/// Retires versions; gives a line for each.
pub(crate) fn retire(
    archive: &Archive,
    how: Retirement,
    packages: &[Leaving],
    mandate: &mut Mandate<'_>,
) -> Result<(Vec<String>, Scratch), Failure> {
    let scratch = Scratch::take(archive, "delete")?;
    scratch.note_batch(archive, packages.iter().map(|leaving| &leaving.package))?;
    let retiring = Retiring { archive, scratch: &scratch, now: now() };
    let lines = locks::publishing(archive, &scratch.rooms, || {
        mandate.check_owner(archive, &scratch.rooms.control)?;
        mandate.confirm(archive)?;
        if how != Retirement::Unmark {
            retiring.keep_off_the_source(packages)?;
        }
        retiring.all(how, packages)
    })??;
    flush(archive, &scratch.rooms, "the deletions", "check the disk, then delete again")?;
    Ok((lines, scratch))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

struct Retiring<'a> {
    archive: &'a Archive,
    scratch: &'a Scratch,
    now: i64,
}

impl Retiring<'_> {
    fn all(&self, how: Retirement, packages: &[Leaving]) -> Result<Vec<String>, Failure> {
        let failed = |error: io::Error| {
            Failure::io(format!("opening {CONTROL}/{MARKS} in {}", self.archive.shown()), &error, CHECK_MODES)
        };
        let control = &self.scratch.rooms.control;
        let aged = match how {
            Retirement::Mark(_) => Some(control.ensure(MARKS).map_err(failed)?.0),
            Retirement::Unmark | Retirement::DeleteDue | Retirement::Delete => {
                control.open_if_there(MARKS).map_err(failed)?
            }
        };
        let wanted = match how {
            Retirement::DeleteDue | Retirement::Delete => self.wanted(packages)?,
            Retirement::Unmark | Retirement::Mark(_) => HashSet::new(),
        };
        let aged = aged.as_ref();
        let outcomes = packages.iter().map(|leaving| (leaving, &leaving.package)).map(|(leaving, package)| match how {
            Retirement::Unmark => unmark(aged, package),
            Retirement::Mark(wait) => self.mark(aged, package, wait),
            Retirement::DeleteDue | Retirement::Delete if wanted.contains(package) => {
                Outcome::Kept(KeptFor::Wanted, "the PackageList names it".into())
            }
            Retirement::Delete => self.take_out(aged, leaving),
            Retirement::DeleteDue => self.waits(aged, package).unwrap_or_else(|| self.take_out(aged, leaving)),
        });
        let lines = packages.iter().zip(outcomes).map(|(leaving, outcome)| line(&leaving.package, outcome)).collect();
        if matches!(how, Retirement::DeleteDue | Retirement::Delete) {
            self.drop_empty_names(packages);
        }
        Ok(lines)
    }

    /// Fails where one of the packages is the source's own, by whatever way that lies here: then nothing is right of what was asked for.
    fn keep_off_the_source(&self, packages: &[Leaving]) -> Result<(), Failure> {
        // What cannot be looked at now is looked at again before it goes.
        let is_its_own = |leaving: &&Leaving| self.look(&leaving.package).is_ok_and(|found| found.is_its_own(leaving));
        let Some(Leaving { package, .. }) = packages.iter().find(is_its_own) else { return Ok(()) };
        // Without its path, which may be long: this has to arrive whole.
        let what = "changing what the archive is to hold";
        let why = format!("{SAME}: the file of {package} here is the source's own, so nothing was changed");
        Err(Failure::refused(what, why, "correct archive or source"))
    }

    fn look(&self, package: &PackageId) -> io::Result<Looked> {
        let of_name = self.archive.root.open_if_there(package.name.as_str())?;
        let version = package.version.as_str();
        let there = of_name.as_ref().map_or(Ok(None), |dir| dir.stat(version))?;
        let inner = of_name.as_ref().map_or(Ok(None), |dir| dir.open_if_there(version))?;
        let descpkg = inner.map_or(Ok(None), |dir| dir.stat(DESCPKG))?;
        let descpkg = descpkg.filter(|stat| kind(stat) == FileType::RegularFile);
        Ok(Looked { of_name, there, descpkg })
    }

    /// Those of the packages that the PackageList names, which has to be whole and to name something.
    fn wanted(&self, packages: &[Leaving]) -> Result<HashSet<PackageId>, Failure> {
        let what = || format!("deleting in {}", self.archive.shown());
        let list = format!("{CONTROL}/{}", package_list::FILE);
        let asked = packages.iter().map(|leaving| &leaving.package).collect();
        let why = match read_list(&self.scratch.rooms.control, &asked) {
            Ok((Former::Whole, wanted, _)) => return Ok(wanted),
            Ok((Former::Missing, ..)) => format!("there is no {list}, so nobody knows what is wanted"),
            Ok((Former::Damaged, ..)) => format!("{list} is empty or cut short"),
            Err(error) => return Err(Failure::io(what(), &error, CHECK_MODES)),
        };
        Err(Failure::refused(what(), why, "let the archive be synced first"))
    }

    /// A mark that is there keeps its time and gets another wait, unless its time lies ahead.
    fn mark(&self, aged: Option<&Dir>, package: &PackageId, wait: u64) -> Outcome {
        let PackageId { name, version } = package;
        let marked = || -> io::Result<bool> {
            let there =
                self.archive.root.open_if_there(name.as_str())?.map_or(Ok(None), |dir| dir.stat(version.as_str()))?;
            let Some(aged) = aged.filter(|_| there.is_some()) else { return Ok(false) };
            let before = read_mark(aged, mark_name(package).as_bytes()).ok().flatten();
            let at = before.map(|mark| mark.at).filter(|at| *at <= self.now).unwrap_or(self.now);
            self.scratch.dir.unlink("mark")?;
            let mut file = self.scratch.dir.create("mark")?;
            file.set_permissions(PermissionsExt::from_mode(0o644))?;
            file.write_all(format!("{at}\n{wait}\n").as_bytes())?;
            self.scratch.dir.rename("mark", aged, mark_name(package))?;
            self.archive.sync_names(aged)?;
            Ok(true)
        };
        match marked() {
            Ok(true) => Outcome::Marked,
            Ok(false) => Outcome::Absent,
            Err(error) => Outcome::Failed(
                FailedFor::Io,
                format!("marking it failed: {error}; check owners, modes and space there"),
            ),
        }
    }

    /// Why a mark does not let a package go yet.
    fn waits(&self, aged: Option<&Dir>, package: &PackageId) -> Option<Outcome> {
        let kept = |why, text: &str| Some(Outcome::Kept(why, text.to_owned()));
        let mark = aged.and_then(|aged| read_mark(aged, mark_name(package).as_bytes()).ok().flatten());
        let Some(mark) = mark else { return kept(KeptFor::Unmarked, "it has no mark that can be read") };
        if mark.at > self.now + AHEAD {
            return kept(KeptFor::Waiting, "its mark lies ahead of the clock");
        }
        // Both have at most 15 digits.
        let left = i64::try_from(mark.wait).unwrap_or(i64::MAX) - (self.now - mark.at);
        (left > 0).then(|| Outcome::Kept(KeptFor::Waiting, format!("it stays for {left} s more")))
    }

    fn take_out(&self, aged: Option<&Dir>, leaving: &Leaving) -> Outcome {
        self.try_take_out(aged, leaving).unwrap_or_else(|error| {
            Outcome::Failed(FailedFor::Io, format!("taking it away failed: {error}; check owners and modes there"))
        })
    }

    fn try_take_out(&self, aged: Option<&Dir>, leaving: &Leaving) -> io::Result<Outcome> {
        let package = &leaving.package;
        let PackageId { name, version } = package;
        let failed = |text: &str| Ok(Outcome::Failed(FailedFor::Foreign, text.to_owned()));
        let root = &self.archive.root;
        if root.stat(name.as_str())?.is_some_and(|stat| kind(&stat) != FileType::Directory) {
            return failed(&format!("{name} is not a directory; move it away"));
        }
        let looked = self.look(package)?;
        let is_its_own = looked.is_its_own(leaving);
        let Looked { of_name: Some(of_name), there: Some(there), descpkg } = looked else {
            self.forget(aged, package)?;
            return Ok(Outcome::Absent);
        };
        let is_link = kind(&there) == FileType::Symlink;
        if !is_link && descpkg.is_none() {
            return failed("it is no package of ours; look at it and remove it by hand");
        }
        if is_its_own {
            return failed("it is the source's own; correct archive or source");
        }
        if leaving.time.is_some_and(|time| descpkg.is_none_or(|stat| stat.st_mtime != time)) {
            return Ok(Outcome::Kept(KeptFor::Changed, "its descpkg is not the one that was listed".into()));
        }
        if tree::is_mount(root, name.as_str()) {
            return failed("its name is mounted from elsewhere, so it may be the source's own; unmount that first");
        }
        if !is_link && let Some(why) = tree::foreign_part(&of_name, version.as_str().as_bytes())? {
            return failed(&why);
        }
        if is_link {
            of_name.unlink(version.as_str())?;
        } else {
            let hidden = format!(".{version}.{}", self.scratch.id);
            of_name.rename(version.as_str(), &of_name, hidden.as_str())?;
            // It is gone now; if it cannot get to the trash, the next sweep clears it away from where it is.
            let _ = self.scratch.throw_away(&of_name, &hidden, &package.to_string());
        }
        self.archive.sync_names(&of_name)?;
        self.forget(aged, package)?;
        Ok(Outcome::Deleted)
    }

    /// Manifest, tree file and mark of what is not there any more.
    fn forget(&self, aged: Option<&Dir>, package: &PackageId) -> io::Result<()> {
        if let Some(manifests) = self.scratch.rooms.manifests.open_if_there(package.name.as_str())? {
            manifests.unlink(package.version.as_str())?;
            manifests.unlink(file_name(&package.version))?;
            self.archive.sync_names(&manifests)?;
        }
        let Some(aged) = aged else { return Ok(()) };
        aged.unlink(mark_name(package))?;
        self.archive.sync_names(aged)
    }

    /// Empty names go too, while nobody can be about to publish into them.
    fn drop_empty_names(&self, packages: &[Leaving]) {
        for Leaving { package, .. } in packages {
            self.archive.root.remove_empty(package.name.as_str());
            self.scratch.rooms.manifests.remove_empty(package.name.as_str());
        }
    }
}

/// What lies in the place of a version.
struct Looked {
    of_name: Option<Dir>,
    there: Option<Stat>,
    /// Of a regular file alone.
    descpkg: Option<Stat>,
}

impl Looked {
    /// Whether the source has this very file.
    fn is_its_own(&self, leaving: &Leaving) -> bool {
        let link = self.there.filter(|stat| kind(stat) == FileType::Symlink);
        let here = link.or(self.descpkg).map(|stat| {
            Identity::new(stat.st_ino, stat.st_ctime, u32::try_from(stat.st_ctime_nsec).unwrap_or_default())
        });
        here.is_some_and(|here| leaving.source.iter().any(|theirs| theirs.is_same(&here)))
    }
}

fn unmark(aged: Option<&Dir>, package: &PackageId) -> Outcome {
    match aged.map_or(Ok(()), |aged| aged.unlink(mark_name(package))) {
        Ok(()) => Outcome::Unmarked,
        Err(error) => Outcome::Failed(
            FailedFor::Io,
            format!("taking its mark away failed: {error}; check owners and modes there"),
        ),
    }
}
