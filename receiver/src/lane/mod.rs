//! What one lane asks for, in order, on a thread of its own.

pub(crate) mod urgent;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use blat_domain::archive::package_list::Purge;
use blat_domain::package::name::PackageId;
use blat_domain::protocol::frames::{self, Lane, Piece, Reply, Request};

use crate::archive::Archive;
use crate::failure::Ending;
use crate::failure::Failure;
use crate::listing::beside;
use crate::owner::mandate::Mandate;
use crate::owner::record;
use crate::package::held::Held;
use crate::package::unpacking::{self, Base};
use crate::package::{Announced, Incoming, Outcome};
use crate::package_list::Store;
use crate::publish::link;
use crate::publish::pending::Pending;
use crate::publish::{self, Whole};
use crate::staging::reservation::Room;
use crate::wire::inbox::Inbox;
use crate::wire::replies::Replies;
use crate::wire::replies::line;
use crate::{listing, retire, verify};
use urgent::Urgent;

/// Credit is given back in portions of so many bytes.
const PORTION: u64 = 256 << 10;
/// A full sync writes to the disk whenever it has so much more for it, in bytes: what makes a tag's package durable waits for no more than that.
const STRIDE: u64 = 4 << 20;
/// So long nothing has to come, while whole packages wait for others, for them to be published: making a few durable costs as much as many.
const QUIET: Duration = Duration::from_millis(100);

/// One lane.
#[derive(Debug)]
pub(crate) struct Worker {
    lane: Lane,
    archive: Arc<Archive>,
    replies: Arc<Replies>,
    inbox: Arc<Inbox>,
    /// Bytes taken off for which credit is still to be given.
    taken: u64,
    current: Current,
    pending: Pending,
    /// What had been written to the disk of the packages that are not published, by [`Worker::weight`].
    on_disk: u64,
    /// While something comes that a tag asks for.
    urgent: Option<Urgent>,
    door: Door,
    room: Room,
    /// On whose behalf the archive is listed and retired from.
    owner: Option<String>,
}

/// The package that the agent sends at the moment.
#[derive(Debug)]
enum Current {
    None,
    Coming(Box<Incoming>),
    /// It has failed, and was answered: the rest of it is read and dropped.
    Dropped {
        number: u32,
        ask: bool,
    },
}

/// Whether packages are taken at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// There was no room for what was announced: it is read and dropped, up to the next `Publish`.
    Shut,
}

impl Worker {
    /// A lane that has had nothing to do.
    pub(crate) fn new(lane: Lane, archive: Arc<Archive>, replies: Arc<Replies>, inbox: Arc<Inbox>) -> Self {
        let (current, pending) = (Current::None, Pending::default());
        let (urgent, door, room, owner) = (None, Door::Open, Room::default(), None);
        Self { lane, archive, replies, inbox, taken: 0, current, pending, on_disk: 0, urgent, door, room, owner }
    }

    /// Works until something makes that impossible.
    pub(crate) fn work(&mut self) -> Ending {
        let Err(ending) = self.work_on();
        ending
    }

    /// Tells the agent why the conversation ends.
    pub(crate) fn refuse(&self, why: &str) -> std::io::Result<()> {
        self.replies.refuse(self.lane, why)
    }

    /// The way to the agent, for what is about the archive: none of it would be true of another one that is at its path by now.
    fn replies(&self) -> Result<&Replies, Ending> {
        self.archive.still_there()?;
        Ok(&self.replies)
    }

    fn work_on(&mut self) -> Result<Infallible, Ending> {
        let mut body = Vec::new();
        loop {
            self.next(&mut body)?;
            self.perform(frames::decode(&body)?)?;
        }
    }

    /// The next body. When none comes for a while, or enough are whole, what is whole is published first.
    fn next(&mut self, body: &mut Vec<u8>) -> Result<(), Ending> {
        if self.lane >= Lane::BULK {
            urgent::give_way();
        }
        if self.pending.are_due(self.archive.syncfs_reports) {
            self.publish()?;
        }
        let patience = if self.lane == Lane::TAGS { Duration::ZERO } else { QUIET };
        let waits_for_others = !self.pending.packages.is_empty();
        if !waits_for_others || !self.inbox.take_within(patience, body) {
            self.publish()?;
            if !self.inbox.take_within(Duration::ZERO, body) {
                self.give_credit()?;
                if matches!(self.current, Current::None) {
                    self.urgent = None;
                }
                if !self.inbox.take(body) {
                    return Err(Ending::Over);
                }
            }
        }
        self.taken += body.len() as u64;
        if self.taken >= PORTION { self.give_credit() } else { Ok(()) }
    }

    fn give_credit(&mut self) -> Result<(), Ending> {
        if self.taken == 0 {
            return Ok(());
        }
        self.inbox.give(self.taken);
        let bytes = u32::try_from(self.taken).unwrap_or(u32::MAX);
        self.taken = 0;
        Ok(self.replies()?.send(self.lane, &[Reply::Credit { bytes }])?)
    }

    fn perform(&mut self, request: Request<'_>) -> Result<(), Ending> {
        match request {
            Request::Hello { .. } | Request::Ping { .. } | Request::Padding(_) => {
                return Err(Ending::Violation("a greeting or heartbeat came on another lane"));
            }
            Request::Data(_) | Request::Go => return Err(Ending::Violation("what came belongs to nothing")),
            Request::List { buckets, installed } => {
                self.replies()?.lines(self.lane, &beside::outdated(&installed))?;
                let listed = listing::list(&self.archive, &buckets, &self.inbox, |messages| {
                    self.replies.gather(self.lane, messages)
                })?;
                self.replies()?.end(self.lane, &listed)?;
            }
            Request::Store { bytes, digest, purge } => self.store(bytes, digest, purge)?,
            Request::Link { links } => {
                let linked = link::link(&self.archive, &links, self.owner.as_deref());
                self.answer(linked)?;
            }
            Request::Retire { how, packages } => {
                let mut mandate = self.mandate();
                let retired = retire::retire(&self.archive, how, &packages, &mut mandate);
                self.taken += mandate.taken;
                self.answer(retired)?;
            }
            Request::Verify { packages } => self.verify(&packages)?,
            Request::Begin { bytes, entries, reserve } => {
                let found = Room::find(&self.archive, bytes, entries, reserve).map(|room| self.room = room);
                self.door = if found.is_ok() { Door::Open } else { Door::Shut };
                self.replies()?.end(self.lane, &found)?;
            }
            Request::Package { number, package, time, mode, rule, manifest: _, ask } => {
                self.begin(Announced { number, package, time, mode, rule, ask })?;
            }
            Request::Entries { entries } => self.entries(entries)?,
            Request::Piece(piece) => self.piece(&piece)?,
            Request::Whole { entries, manifest } => self.whole(entries, manifest)?,
            Request::Forget => self.forget()?,
            Request::Publish => {
                self.publish()?;
                self.door = Door::Open;
                self.replies()?.end(self.lane, &Ok(()))?;
            }
            Request::Own { owner } => self.owner = (!owner.is_empty()).then(|| owner.to_owned()),
            Request::Claim { how, record } => {
                let ended = match record::claim(&self.archive, how, record) {
                    Ok(lines) => self.replies()?.lines(self.lane, &[lines]).map(Ok)?,
                    Err(failure) => Err(failure),
                };
                self.replies()?.end(self.lane, &ended)?;
            }
            Request::Sweep { keep } => {
                let swept = crate::staging::sweep(&self.archive, &keep);
                if let Ok(leftovers) = &swept {
                    self.replies()?.lines(self.lane, &leftovers.0)?;
                }
                self.replies()?.end(self.lane, &swept.map(drop))?;
            }
        }
        Ok(())
    }

    fn mandate(&self) -> Mandate<'_> {
        let (owner, replies, inbox) = (self.owner.as_deref(), &*self.replies, &*self.inbox);
        Mandate { owner, lane: self.lane, replies, inbox, taken: 0 }
    }

    /// Lines at once; `Done` when what came of it is cleared away too, so that nothing is left when the agent goes on.
    fn answer(
        &mut self,
        result: Result<(Vec<String>, crate::staging::scratch::Scratch), Failure>,
    ) -> Result<(), Ending> {
        let ended = match result {
            Ok((lines, scratch)) => {
                self.replies()?.lines(self.lane, &lines)?;
                self.replies()?.lines(self.lane, &scratch.leftovers.0)?;
                self.replies()?.send(self.lane, &[])?;
                // What could not be deleted is swept by whoever writes next.
                scratch.clear_away();
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        Ok(self.replies()?.end(self.lane, &ended)?)
    }

    fn store(&mut self, bytes: u64, digest: [u8; 32], purge: Purge) -> Result<(), Ending> {
        let mut store = Store::begin(&self.archive, bytes, purge);
        let mut left = bytes;
        let mut body = Vec::new();
        while left > 0 {
            let data = self.data(&mut body)?;
            left = left.checked_sub(data.len() as u64).ok_or(Ending::Violation("more data came than was announced"))?;
            store.take(data);
        }
        let mut mandate = self.mandate();
        let (stored, scratch) = store.finish(&self.archive, &mut mandate, &digest);
        self.taken += mandate.taken;
        if let Some(scratch) = scratch {
            self.replies()?.lines(self.lane, &scratch.leftovers.0)?;
            scratch.clear_away();
        }
        let ended = match stored {
            Ok(former) => self.replies()?.lines(self.lane, &[former.line() + "\n"]).map(Ok)?,
            Err(failure) => Err(failure),
        };
        Ok(self.replies()?.end(self.lane, &ended)?)
    }

    fn verify(&mut self, packages: &[PackageId]) -> Result<(), Ending> {
        for package in packages {
            let line = verify::verify(&self.archive, package, &self.inbox);
            self.replies()?.send(self.lane, &[Reply::Lines(&line)])?;
        }
        Ok(self.replies()?.end(self.lane, &Ok(()))?)
    }

    /// The next body, which has to be data that were announced.
    fn data<'a>(&mut self, body: &'a mut Vec<u8>) -> Result<&'a [u8], Ending> {
        self.next(body)?;
        let Request::Data(data) = frames::decode(body)? else {
            return Err(Ending::Violation("something else came where data were announced"));
        };
        if data.is_empty() { Err(Ending::Violation("data of no bytes came")) } else { Ok(data) }
    }

    fn begin(&mut self, announced: Announced) -> Result<(), Ending> {
        if !matches!(self.current, Current::None) {
            return Err(Ending::Violation("a package came in the midst of another"));
        }
        let (number, ask, package) = (announced.number, announced.ask, announced.package.clone());
        if self.door == Door::Shut {
            self.current = Current::Dropped { number, ask };
            return Ok(());
        }
        // One that waits to be published would keep us from its stage.
        if self.pending.packages.iter().any(|whole| whole.package == package) {
            self.publish()?;
        }
        if self.lane == Lane::TAGS && self.urgent.is_none() {
            self.urgent = Some(Urgent::begin());
        }
        match Incoming::begin(&self.archive, announced) {
            Ok(incoming) => self.current = Current::Coming(Box::new(incoming)),
            Err(setback) => {
                self.current = Current::Dropped { number, ask };
                self.replies()?.send(self.lane, &[Reply::Lines(&line(&package, setback.into_outcome()))])?;
            }
        }
        Ok(())
    }

    fn entries(&mut self, entries: Vec<frames::Entry>) -> Result<(), Ending> {
        match &mut self.current {
            Current::None => Err(Ending::Violation("entries came without their package")),
            &mut Current::Dropped { number, ask } => {
                if ask {
                    self.replies()?.send(self.lane, &[Reply::Held { number, files: Vec::new() }])?;
                }
                Ok(())
            }
            Current::Coming(incoming) => {
                let (number, ask) = (incoming.number(), incoming.ask());
                let held = incoming.take_entries(entries, &self.inbox).and_then(|held| {
                    incoming.finish_copies(
                        &Held { archive: &self.archive, pending: &self.pending.packages, room: &self.room },
                        &self.inbox,
                    )?;
                    Ok(held)
                });
                let (files, outcome) = match held {
                    Ok(files) => (files, Ok(())),
                    Err(outcome) => (Vec::new(), Err(outcome)),
                };
                if ask {
                    self.replies()?.send(self.lane, &[Reply::Held { number, files }])?;
                }
                outcome.or_else(|outcome| self.drop_current(outcome))
            }
        }
    }

    /// Takes a piece with its data to its end, also where nobody wants it any more.
    fn piece(&mut self, piece: &Piece) -> Result<(), Ending> {
        let mut left = piece.packed;
        let mut base = Base::default();
        let fault = match &mut self.current {
            Current::None => return Err(Ending::Violation("a piece came without its package")),
            Current::Dropped { .. } => None,
            Current::Coming(incoming) => {
                let held = Held { archive: &self.archive, pending: &self.pending.packages, room: &self.room };
                let begun = incoming.begin_piece(piece, &held, &self.inbox);
                begun.and_then(|()| unpacking::read_base(incoming, piece, &held)).map(|read| base = read).err()
            }
        };
        if let Some(outcome) = fault {
            self.drop_current(outcome)?;
        }
        let mut unpacking = unpacking::Unpacking::new(piece, base.bytes())?;
        let mut body = Vec::new();
        while left > 0 {
            let data = self.data(&mut body)?;
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
            left = left.checked_sub(length).ok_or(Ending::Violation("more data came than its piece announced"))?;
            if let Current::Coming(incoming) = &mut self.current
                && let Err(outcome) = unpacking.feed(
                    data,
                    incoming,
                    &Held { archive: &self.archive, pending: &self.pending.packages, room: &self.room },
                    &self.inbox,
                )
            {
                self.drop_current(outcome)?;
            }
            self.inbox.get_on();
        }
        if let Current::Coming(incoming) = &mut self.current
            && let Err(outcome) = unpacking.finish(incoming)
        {
            self.drop_current(outcome)?;
        }
        self.write_early()
    }

    /// Lets the system write what a full sync has for the disk, once that is much.
    fn write_early(&mut self) -> Result<(), Ending> {
        let weight = self.weight();
        if self.lane < Lane::BULK || weight.saturating_sub(self.on_disk) < STRIDE {
            return Ok(());
        }
        // What other lanes have staged has handles of its own, which report the same error to them.
        let written = self.archive.root.sync_file_system();
        self.inbox.get_on();
        self.on_disk = weight;
        written.or_else(|error| self.distrust(&error))
    }

    /// The disk has refused something, perhaps of what is staged here, and will not say so again: all of it is discarded.
    fn distrust(&mut self, error: &std::io::Error) -> Result<(), Ending> {
        std::mem::take(&mut self.pending).packages.into_iter().for_each(Whole::clear_away);
        if let Current::Coming(incoming) = std::mem::replace(&mut self.current, Current::None) {
            self.current = Current::Dropped { number: incoming.number(), ask: incoming.ask() };
            incoming.discard();
        }
        self.on_disk = 0;
        let what = format!("writing what is staged in {} to the disk (all of it is discarded)", self.archive.shown());
        Ok(self.replies()?.end(self.lane, &Err(Failure::io(what, error, "check the disk")))?)
    }

    /// What the packages that are not published are for a disk, in bytes.
    fn weight(&self) -> u64 {
        match &self.current {
            Current::Coming(incoming) => self.pending.weight + incoming.weight(),
            Current::None | Current::Dropped { .. } => self.pending.weight,
        }
    }

    fn whole(&mut self, entries: u64, manifest: [u8; 32]) -> Result<(), Ending> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::None => Err(Ending::Violation("the end of a package came without it")),
            Current::Dropped { .. } => Ok(()),
            Current::Coming(mut incoming) => {
                let held = Held { archive: &self.archive, pending: &self.pending.packages, room: &self.room };
                match incoming.finish(entries, &manifest, &held, &self.inbox) {
                    Ok(()) => {
                        self.pending.add(incoming.into_whole(manifest), self.archive.syncfs_reports);
                        Ok(())
                    }
                    Err(outcome) => {
                        self.current = Current::Coming(incoming);
                        self.drop_current(outcome)?;
                        self.current = Current::None;
                        Ok(())
                    }
                }
            }
        }
    }

    fn forget(&mut self) -> Result<(), Ending> {
        match std::mem::replace(&mut self.current, Current::None) {
            Current::None => Err(Ending::Violation("it wants a package forgotten that it did not send")),
            Current::Dropped { .. } => Ok(()),
            Current::Coming(incoming) => {
                incoming.discard();
                Ok(())
            }
        }
    }

    /// Says why the package that is coming is given up, and drops what comes of it from now on.
    fn drop_current(&mut self, outcome: Outcome) -> Result<(), Ending> {
        let Current::Coming(incoming) = std::mem::replace(&mut self.current, Current::None) else { return Ok(()) };
        let (number, ask) = (incoming.number(), incoming.ask());
        self.current = Current::Dropped { number, ask };
        match outcome {
            Outcome::Lacks => self.replies()?.send(self.lane, &[Reply::Lacks { number }])?,
            Outcome::Setback(setback) => {
                self.replies()?.send(self.lane, &[Reply::Lines(&line(incoming.package(), setback.into_outcome()))])?;
            }
        }
        incoming.discard();
        Ok(())
    }

    /// Publishes what is whole, and tells.
    fn publish(&mut self) -> Result<(), Ending> {
        if self.pending.packages.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.on_disk = self.weight();
        match publish::publish(&self.archive, pending.packages, self.owner.as_deref(), &self.inbox) {
            Ok((lines, published)) => {
                self.replies()?.lines(self.lane, &lines)?;
                self.replies()?.send(self.lane, &[])?;
                published.into_iter().for_each(Whole::clear_away);
            }
            Err(failure) => self.replies()?.end(self.lane, &Err(failure))?,
        }
        Ok(())
    }
}
