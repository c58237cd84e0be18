//! A package while it comes: staged entry by entry, hashed on the way, never visible.
//!
//! What is finished is forgotten, so a package of a million files takes no more memory than one of a thousand; only directories are
//! kept in mind, whose modes and times can be set at the end alone.

mod closing;
mod files;
mod group;
pub(crate) mod held;
mod manifest;
mod place;
mod shared;
mod sparse;
pub(crate) mod unpacking;

use std::collections::VecDeque;

use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use blat_domain::package::tree::Node;
use blat_domain::protocol::frames::{Copy, Entry, Kind, Part, Rule, Time};
use blat_domain::protocol::outcome::FailedFor;

use crate::archive::tree::{self, DEEPEST};
use crate::archive::{Archive, is_plain};
use crate::failure::{Setback, file_limit, shown};
use crate::package::held::Held;
use crate::publish::written::Written;
use crate::publish::{Whole, weight};
use crate::staging::{PACKAGE, Stage};
use crate::wire::inbox::Inbox;
use closing::Closing;
use files::Writing;
use manifest::Manifest;
pub(crate) use place::Places;
use shared::SharedFiles;

/// Bytes of entries whose files have not come yet.
const MOST_WAITING: usize = 16 << 20;

/// What an agent says of a package beforehand.
#[derive(Debug)]
pub(crate) struct Announced {
    /// Its number, for answers.
    pub(crate) number: u32,
    /// Which.
    pub(crate) package: PackageId,
    /// The time that its descpkg must have.
    pub(crate) time: i64,
    /// Permission bits of its root.
    pub(crate) mode: u16,
    /// What it may do to what is in its place.
    pub(crate) rule: Rule,
    /// Whether files that are staged already are to be told.
    pub(crate) ask: bool,
}

/// Why a package is given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Held files were not what they should be: it may come without them.
    Lacks,
    /// It failed.
    Setback(Setback),
}

impl From<Setback> for Outcome {
    fn from(setback: Setback) -> Self {
        Self::Setback(setback)
    }
}

/// A file that was announced and is not finished.
#[derive(Debug)]
struct Waiting {
    number: u32,
    path: Vec<u8>,
    mode: u16,
    size: u64,
    time: Time,
    content: Content,
}

/// Where a file's bytes come from.
#[derive(Debug)]
enum Content {
    /// Pieces.
    Fresh,
    /// Another version.
    Copy(Copy),
    /// An interrupted attempt: they are there, unless pieces bring others.
    Staged,
    /// The file of this entry, of which it is another name.
    Name(u32),
}

/// A package on its way.
#[derive(Debug)]
pub(crate) struct Incoming {
    announced: Announced,
    stage: Stage,
    places: Places,
    /// Entries that came.
    entries: u32,
    waiting: VecDeque<Waiting>,
    /// Bytes of memory that those take.
    waiting_bytes: usize,
    shared: SharedFiles,
    /// Parts of the piece that comes at the moment, and what is left of the first.
    parts: VecDeque<Part>,
    part_left: u32,
    writing: Option<Writing>,
    closing: Closing,
    manifest: Manifest,
    written: Written,
    /// Bytes of all files that are finished.
    bytes: u64,
    /// The time of its descpkg, once that is there.
    descpkg: Option<i64>,
    /// Whether something was staged before.
    resumed: bool,
    /// Whether anything of it came from elsewhere than from pieces alone.
    made_use_of_held: bool,
}

impl Incoming {
    /// Takes the package's stage.
    pub(crate) fn begin(archive: &Archive, announced: Announced) -> Result<Self, Setback> {
        if announced.mode & 0o500 != 0o500 {
            // Listings could not look into it: all that follow would fail, for every package.
            let mode = announced.mode & 0o777;
            return Err(Setback::foreign(format!(
                "its own directory has the mode {mode:03o}, which closes it to its owner"
            )));
        }
        let (stage, resumed) = Stage::take(archive, &announced.package, announced.ask)?;
        let failed = |error| Setback::io(format!("staging it in {}", archive.shown()), &error);
        if !resumed {
            stage.dir.make(PACKAGE, 0o700).map_err(failed)?;
        }
        let root = stage.dir.open(PACKAGE).map_err(failed)?;
        let manifest = Manifest::begin(&stage.dir).map_err(failed)?;
        Ok(Self {
            announced,
            stage,
            places: Places::new(root),
            entries: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            shared: SharedFiles::default(),
            parts: VecDeque::new(),
            part_left: 0,
            writing: None,
            closing: Closing::default(),
            manifest,
            written: Written::default(),
            bytes: 0,
            descpkg: None,
            resumed,
            made_use_of_held: false,
        })
    }

    /// The agent's number for it.
    pub(crate) fn number(&self) -> u32 {
        self.announced.number
    }

    /// What of it is there, as a disk feels it, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        weight(self.bytes + self.writing.as_ref().map_or(0, Writing::written), self.entries)
    }

    /// Whether the agent wants to know what is staged.
    pub(crate) fn ask(&self) -> bool {
        self.announced.ask
    }

    /// Which it is.
    pub(crate) fn package(&self) -> &PackageId {
        &self.announced.package
    }

    /// Drops what came of it.
    pub(crate) fn discard(self: Box<Self>) {
        self.stage.discard();
    }

    /// Makes the next directories and links, and notes the next files. Gives those of which the right number of bytes is staged already.
    pub(crate) fn take_entries(&mut self, entries: Vec<Entry>, inbox: &Inbox) -> Result<Vec<(u32, [u8; 32])>, Outcome> {
        let mut held = Vec::new();
        for entry in entries {
            let number = self.entries;
            self.entries =
                number.checked_add(1).ok_or_else(|| Setback::foreign("it has more entries than can be counted"))?;
            check_path(number, &entry)?;
            self.note(&entry)?;
            match entry.kind {
                Kind::Directory { mode } => self.directory(number, &entry.path, mode, entry.time)?,
                Kind::Link { to } => self.link(&entry.path, &to, entry.time)?,
                Kind::File { mode, size, copy, shared } => {
                    if file_limit().is_some_and(|most| size > most) {
                        let error = std::io::ErrorKind::FileTooLarge.into();
                        return Err(Setback::io(format!("writing {}", shown(&entry.path)), &error).into());
                    }
                    let content = copy.map_or(Content::Fresh, Content::Copy);
                    let file = Waiting { number, path: entry.path, mode, size, time: entry.time, content };
                    if shared {
                        self.shared.announce(&file)?;
                    }
                    held.extend(self.announce(file, inbox)?);
                }
                Kind::HardLink { to } => {
                    let (path, time, content) = (entry.path, entry.time, Content::Name(to));
                    self.announce_name(Waiting { number, path, mode: 0, size: 0, time, content }, to)?;
                }
            }
            inbox.get_on();
        }
        Ok(held)
    }

    /// Writes down what an entry is, for the tree file.
    fn note(&mut self, entry: &Entry) -> Result<(), Outcome> {
        let node = match &entry.kind {
            Kind::Directory { .. } if entry.path.is_empty() => Node::Directory(self.announced.mode & 0o777),
            Kind::Directory { mode } => Node::Directory(mode & 0o777),
            Kind::File { mode, .. } => Node::File(mode & 0o777),
            Kind::HardLink { to } => {
                let mode = self.shared.mode(*to).ok_or_else(|| shared::no_file(&entry.path, *to))?;
                Node::File(mode & 0o777)
            }
            Kind::Link { to } => Node::Link(to),
        };
        self.manifest.entry(&entry.path, node).map_err(|error| Setback::io("writing its tree file", &error).into())
    }

    fn directory(&mut self, number: u32, path: &[u8], mode: u16, time: Time) -> Result<(), Outcome> {
        let mode = match number {
            0 => self.announced.mode,
            _ => mode,
        };
        if number > 0 {
            self.places.make_directory(path, self.resumed).map_err(|error| self.unmakable(path, &error))?;
        }
        self.closing.push(path, mode & 0o777, time);
        Ok(())
    }

    fn link(&mut self, path: &[u8], to: &[u8], time: Time) -> Result<(), Outcome> {
        if to.is_empty() || to.contains(&0) {
            return Err(Setback::foreign(format!("the link {} leads nowhere", shown(path))).into());
        }
        self.places.make_link(path, to, time, self.resumed).map_err(|error| self.unmakable(path, &error))
    }

    /// Notes a file; its digest where it is staged and not copied again.
    fn announce(&mut self, mut file: Waiting, inbox: &Inbox) -> Result<Option<(u32, [u8; 32])>, Outcome> {
        let mut held = None;
        if self.resumed && matches!(file.content, Content::Fresh) {
            let staged = self.places.staged(&file.path, file.size, inbox);
            if let Some(digest) = staged.map_err(|error| self.unmakable(&file.path, &error))? {
                file.content = Content::Staged;
                held = Some((file.number, digest));
            }
        }
        self.wait_for(file)?;
        Ok(held)
    }

    /// Keeps a file in mind until its bytes come.
    fn wait_for(&mut self, file: Waiting) -> Result<(), Outcome> {
        self.waiting_bytes += memory_of(&file);
        if self.waiting_bytes > MOST_WAITING {
            let why = format!("more than {MOST_WAITING} bytes of entries came ahead of their files");
            return Err(Setback {
                class: FailedFor::Io,
                text: format!("{why}; install blat-agent and blat-receiver of one version"),
            }
            .into());
        }
        self.waiting.push_back(file);
        Ok(())
    }

    /// Why an entry could not be made. What lies outside the package or under one of its links is not the system's fault.
    fn unmakable(&self, path: &[u8], error: &std::io::Error) -> Outcome {
        use crate::archive::dir::is_absence;
        if is_absence(error) || error.kind() == std::io::ErrorKind::AlreadyExists {
            return Setback::foreign(format!(
                "its entry {} comes twice, or not below a directory of its own",
                shown(path)
            ))
            .into();
        }
        Setback::io(format!("making {}", shown(path)), error).into()
    }

    /// The bytes differ from what they should be.
    fn spoiled(&self, why: impl std::fmt::Display) -> Outcome {
        if self.made_use_of_held { Outcome::Lacks } else { Setback::digest(why).into() }
    }

    /// Everything came: checks that it is what was announced, and closes the directories.
    pub(crate) fn finish(
        &mut self,
        entries: u64,
        manifest: &[u8; 32],
        held: &Held<'_>,
        inbox: &Inbox,
    ) -> Result<(), Outcome> {
        self.finish_waiting(held, inbox)?;
        if let Some(file) = &self.writing {
            return Err(self.spoiled(format!("{} ends early", shown(file.path()))));
        }
        if u64::from(self.entries) != entries {
            return Err(self.spoiled(format!("{} entries came of {entries}", self.entries)));
        }
        let announced = self.announced.time;
        match self.descpkg {
            Some(time) if time == announced => {}
            Some(time) => return Err(self.spoiled(format!("its {DESCPKG} has the time {time}, not {announced}"))),
            None => return Err(self.spoiled(format!("its {DESCPKG} is no regular file of its own"))),
        }
        let digest = self.manifest.finish().map_err(|error| Setback::io("writing its manifest", &error))?;
        if digest != *manifest {
            return Err(self.spoiled("the bytes differ from its manifest"));
        }
        if self.resumed {
            self.nothing_else_is_staged()?;
        }
        group::inherit(held.archive, &self.announced.package.name, self.places.root())
            .map_err(|error| Setback::io("giving it its group", &error))?;
        let root_stays_open = self.announced.mode & 0o200 == 0;
        self.closing
            .close(&self.places, root_stays_open, &mut |dir| self.written.keep(dir, held.archive))
            .map_err(|error| Setback::io("closing its directories", &error))?;
        Ok(())
    }

    /// An interrupted attempt at another content may have left what does not belong to this one.
    fn nothing_else_is_staged(&self) -> Result<(), Outcome> {
        // The root is an entry of its own.
        let mut count = 1u64;
        let counted = tree::walk(self.places.root(), &mut |_, _, _| {
            count += 1;
            Ok(())
        });
        counted.map_err(|error| Setback::io("looking at what is staged", &error))?;
        if count == u64::from(self.entries) { Ok(()) } else { Err(Outcome::Lacks) }
    }

    /// The package, ready to be published.
    pub(crate) fn into_whole(self: Box<Self>, manifest: [u8; 32]) -> Whole {
        let Self { announced, stage, written, bytes, entries, .. } = *self;
        let Announced { package, time, mode, rule, .. } = announced;
        Whole { stage, package, time, mode: mode & 0o777, rule, digest: manifest, written, bytes, entries }
    }
}

fn memory_of(file: &Waiting) -> usize {
    let copy = match &file.content {
        Content::Copy(copy) => copy.path.as_ref().map_or(0, Vec::len),
        Content::Fresh | Content::Staged | Content::Name(_) => 0,
    };
    size_of::<Waiting>() + file.path.len() + copy
}

/// The root is the first entry and has no path; every other one has one that stays below it.
fn check_path(number: u32, entry: &Entry) -> Result<(), Setback> {
    let path = &entry.path;
    if entry.time.nanoseconds >= 1_000_000_000 {
        return Err(Setback::foreign(format!("its entry {} has a time that is none", shown(path))));
    }
    if number == 0 {
        return match entry.kind {
            Kind::Directory { .. } if path.is_empty() => Ok(()),
            Kind::Directory { .. } | Kind::Link { .. } | Kind::File { .. } | Kind::HardLink { .. } => {
                Err(Setback::foreign("its first entry is not its own directory"))
            }
        };
    }
    if !is_plain(path) || path.split(|byte| *byte == b'/').count() > DEEPEST {
        return Err(Setback::foreign(format!(
            "its entry {} leads out of it, or deeper than {DEEPEST} directories",
            shown(path)
        )));
    }
    Ok(())
}
