//! Filling a version's place, under the publish lock, after another look at what is in it. The words of the answer are `receive_package`'s.

use std::io;

use blat_domain::archive::MARKS;
use blat_domain::package::DESCPKG;
use blat_domain::package::name::{PackageId, Version};
use blat_domain::package::tree as tree_file;
use blat_domain::protocol::frames::Rule;
use blat_domain::protocol::outcome::{FailedFor, Outcome};
use rustix::fs::FileType;

use crate::archive::dir::{Dir, kind};
use crate::archive::hash::digest;
use crate::archive::spelling::Spelling;
use crate::archive::{Archive, Rooms, mark_name, tree};
use crate::failure::refused_by_system;
use crate::owner::record;
use crate::publish::Whole;
use crate::staging::{MANIFEST, OLD, PACKAGE, TREE, hidden_of};
use crate::wire::inbox::Inbox;
use crate::wire::replies::line;

/// Packages of one batch on their way to their places.
pub(crate) struct Installer<'a> {
    archive: &'a Archive,
    rooms: &'a Rooms,
    /// Who may replace what is there, where it was named.
    owner: Option<&'a str>,
    /// Why nothing is to be brought there at all.
    unowned: Option<String>,
    inbox: &'a Inbox,
    aged: Option<Dir>,
    spelling: Spelling,
    /// Directories whose names changed, or may have been changed by somebody who died before he made that durable.
    changed: Vec<Dir>,
    /// Whether names of packages may have changed too.
    has_new_names: bool,
}

/// What is in a place.
enum There {
    Nothing,
    Link,
    /// Nothing of ours.
    Foreign,
    /// A package whose descpkg has this time.
    Package(i64),
}

impl<'a> Installer<'a> {
    /// Under the publish lock.
    pub(crate) fn new(
        archive: &'a Archive,
        rooms: &'a Rooms,
        owner: Option<&'a str>,
        inbox: &'a Inbox,
    ) -> io::Result<Self> {
        // Without marks there are none to take away.
        let aged = rooms.control.open(MARKS).ok();
        let spelling = Spelling::of(archive);
        let unowned = record::keeps_from_bringing(&rooms.control, owner)?;
        Ok(Self { archive, rooms, owner, unowned, inbox, aged, spelling, changed: Vec::new(), has_new_names: false })
    }

    /// Directories that have to be made durable before anything is answered.
    pub(crate) fn changed(mut self) -> io::Result<Vec<Dir>> {
        if self.has_new_names {
            self.changed.extend([self.archive.root.open_again()?, self.rooms.manifests.open_again()?]);
        }
        Ok(self.changed)
    }

    /// Puts one package in its place, if it may; gives the line for the answer.
    pub(crate) fn install(&mut self, whole: &Whole) -> String {
        let outcome = self.decide(whole).unwrap_or_else(|error| {
            // Where it was to be the first of its name, nothing of the name stays.
            self.archive.root.remove_empty(whole.package.name.as_str());
            let text = format!("moving it to its place failed: {error}; check owners, modes and space there");
            Outcome::Failed(refused_by_system(&error), text)
        });
        if let Some(aged) = &self.aged {
            // Somebody wants it: no mark may outlive that. One that cannot be removed shows in the next listing.
            let _ = aged.unlink(mark_name(&whole.package));
        }
        line(&whole.package, outcome)
    }

    fn decide(&mut self, whole: &Whole) -> io::Result<Outcome> {
        let PackageId { name, version } = &whole.package;
        let failed = |class, text: &str| Ok(Outcome::Failed(class, text.to_owned()));
        if let Some(why) = &self.unowned {
            return failed(FailedFor::Unowned, why);
        }
        match self.archive.root.stat(name.as_str())? {
            Some(stat) if kind(&stat) != FileType::Directory => {
                return failed(FailedFor::Foreign, &format!("{name} is not a directory; move it away"));
            }
            Some(_) | None => {}
        }
        if let Some(why) = self.spelling.misleads(&self.archive.root, name.as_str())? {
            return failed(FailedFor::Conflict, &why);
        }
        let (of_name, is_new) = self.archive.root.ensure(name.as_str())?;
        self.has_new_names |= is_new;
        if let Some(why) = self.spelling.misleads(&of_name, version.as_str())? {
            return failed(FailedFor::Conflict, &why);
        }
        match self.look(&of_name, whole)? {
            There::Nothing => self.publish(whole, of_name),
            There::Link => failed(FailedFor::Foreign, "a symbolic link is in its place; remove it"),
            There::Foreign => failed(FailedFor::Foreign, "what is in its place is no package of ours; move it away"),
            There::Package(time) if time == whole.time && whole.rule != Rule::Repair => {
                let manifests = self.rooms.manifests.open_if_there(name.as_str())?;
                if self.is_known_to_differ(manifests.as_ref(), whole)? {
                    return failed(
                        FailedFor::Differs,
                        "the one there has the same time of descpkg and other bytes; it was not touched: blat verify --repair settles it, \
                         or a new time of descpkg at the source",
                    );
                }
                // Whoever published it may have died before that was durable.
                self.has_new_names = true;
                self.changed.push(of_name);
                self.changed.extend(manifests);
                Ok(Outcome::Already)
            }
            There::Package(time) => match whole.rule {
                Rule::New => {
                    let mine = whole.time;
                    failed(
                        FailedFor::Conflict,
                        &format!(
                            "another one is there, whose descpkg has the time {time}, not {mine}; compare the two"
                        ),
                    )
                }
                Rule::Replace | Rule::Repair => {
                    // By now it may be somebody else's who adopted the archive a moment ago.
                    if let Some(why) = record::keeps_from_replacing(&self.rooms.control, self.owner)? {
                        return failed(FailedFor::Conflict, &why);
                    }
                    if let Some(why) = tree::foreign_part(&of_name, version.as_str().as_bytes())? {
                        return failed(FailedFor::Foreign, &why);
                    }
                    self.replace(whole, of_name)
                }
            },
        }
    }

    fn look(&self, of_name: &Dir, whole: &Whole) -> io::Result<There> {
        let version = whole.package.version.as_str();
        let Some(there) = of_name.stat(version)? else { return Ok(There::Nothing) };
        if kind(&there) == FileType::Symlink {
            return Ok(There::Link);
        }
        let descpkg = of_name.open_if_there(version)?.map_or(Ok(None), |dir| dir.stat(DESCPKG))?;
        Ok(match descpkg {
            Some(stat) if kind(&stat) == FileType::RegularFile => There::Package(stat.st_mtime),
            Some(_) | None => There::Foreign,
        })
    }

    /// Whether there is a manifest of the one in place, and it says that its bytes are others.
    fn is_known_to_differ(&self, manifests: Option<&Dir>, whole: &Whole) -> io::Result<bool> {
        let Some(manifests) = manifests else { return Ok(false) };
        let Ok(manifest) = manifests.read(whole.package.version.as_str()) else { return Ok(false) };
        let length = manifest.metadata()?.len();
        Ok(digest(&manifest, length, self.inbox)? != whole.digest)
    }

    fn publish(&mut self, whole: &Whole, of_name: Dir) -> io::Result<Outcome> {
        let PackageId { name, version } = &whole.package;
        let (manifests, is_new) = self.rooms.manifests.ensure(name.as_str())?;
        self.has_new_names |= is_new;
        let stage = &whole.stage.dir;
        // They come before their package, so that none is ever without.
        for (staged, name) in &papers(version) {
            stage.rename(*staged, &manifests, name.as_str())?;
        }
        let shown = if whole.mode & 0o200 == 0 {
            let (hidden, _) = hidden_of(&whole.package);
            bring_near(whole, &of_name, &hidden).and_then(|()| of_name.rename_new(&hidden, &of_name, version.as_str()))
        } else {
            stage.rename_new(PACKAGE, &of_name, version.as_str())
        };
        if let Err(error) = shown {
            for (_, name) in &papers(version) {
                manifests.unlink(name.as_str())?;
            }
            return Err(error);
        }
        self.changed.extend([of_name, manifests]);
        Ok(Outcome::Published)
    }

    fn replace(&mut self, whole: &Whole, of_name: Dir) -> io::Result<Outcome> {
        let PackageId { name, version } = &whole.package;
        let (manifests, _) = self.rooms.manifests.ensure(name.as_str())?;
        let (near, aside) = hidden_of(&whole.package);
        let stage = &whole.stage.dir;
        bring_near(whole, &of_name, &near)?;
        // The old one's are kept until its package is gone.
        let papers = papers(version);
        let mut had = [false; 2];
        for (had, (staged, name)) in had.iter_mut().zip(&papers) {
            *had = manifests.stat(name.as_str())?.is_some();
            swap(stage, staged, &manifests, name, "paper.old", *had)?;
        }
        if let Err(error) = swap(&of_name, &near, &of_name, version.as_str(), &aside, true) {
            for (had, (staged, name)) in had.iter().zip(&papers) {
                match had {
                    true => swap(stage, staged, &manifests, name, "paper.old", true)?,
                    false => manifests.unlink(name.as_str())?,
                }
            }
            tree::remove(&of_name, &near)?;
            return Err(error);
        }
        // A directory has to be writable to get another parent. Where it cannot move it stays hidden, and the next one to stage this package removes it.
        let _ = of_name
            .open(&near)
            .and_then(|old| old.set_mode(0o700))
            .and_then(|()| of_name.rename(near.as_str(), stage, OLD));
        self.changed.extend([of_name, manifests]);
        Ok(Outcome::Replaced)
    }
}

/// Manifest and tree file: their names in a stage, and among the manifests of a package's name.
fn papers(version: &Version) -> [(&'static str, String); 2] {
    [(MANIFEST, version.to_string()), (TREE, tree_file::file_name(version))]
}

/// Moves a package beside its place and gives it its last mode: a directory that its owner may not write can be renamed within its parent, but
/// not be moved to another.
fn bring_near(whole: &Whole, of_name: &Dir, hidden: &str) -> io::Result<()> {
    whole.stage.dir.rename_new(PACKAGE, of_name, hidden)?;
    if whole.mode & 0o200 == 0 { of_name.open(hidden)?.set_mode(whole.mode) } else { Ok(()) }
}

/// Puts `new` in `place` and what was there, if anything, where `new` was. Not in one step where the file system cannot: then what was in place is
/// `aside`, beside it, for an instant.
fn swap(dir: &Dir, new: &str, to: &Dir, place: &str, aside: &str, taken: bool) -> io::Result<()> {
    if !taken {
        return dir.rename(new, to, place);
    }
    if dir.exchange(new, to, place)? {
        return Ok(());
    }
    to.rename(place, dir, aside)?;
    match dir.rename(new, to, place) {
        Ok(()) => dir.rename(aside, dir, new),
        Err(error) => {
            dir.rename(aside, to, place)?;
            Err(error)
        }
    }
}
