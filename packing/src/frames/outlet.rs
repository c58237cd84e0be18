//! Where frames go: to one lane, and into the pack cache where they are to be found by others.
//!
//! Whoever makes an entry of the pack cache holds up all who wait for it, so he must not wait for his own target. While one is made, the lane gets
//! what it takes at once; the rest it gets later, from the file.

use std::sync::atomic::{AtomicBool, Ordering};

use blat_domain::protocol::frames::{HEADER, Lane, Request, append, decode};

use super::{PackAborted, Packed};
use crate::cache::{CacheEntry, Making, PackCache};
use crate::progress::Progress;

/// Where frames go to a lane: a queue of bounded length, whose other end may hang up.
pub trait FrameSink: Sync {
    /// Puts a frame in, as soon as there is room; false where nobody takes it any more.
    fn send(&self, frame: Vec<u8>) -> bool;

    /// Puts a frame in where there is room now.
    fn offer(&self, frame: Vec<u8>) -> Offer;

    /// Whether there is room now. Others may use it up.
    fn has_room(&self) -> bool;

    /// Whether nobody takes frames any more.
    fn is_closed(&self) -> bool;
}

/// What became of a frame that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is on its way.
    Taken,
    /// There is no room for it now.
    Full,
    /// Nobody takes it any more.
    Closed,
}

/// The way to one lane of a target.
pub struct Outlet<'a> {
    lane: Lane,
    frames: &'a dyn FrameSink,
    in_vain: &'a AtomicBool,
    recording: Option<Recording>,
}

/// An entry that is being made.
#[derive(Debug)]
struct Recording {
    making: Making,
    /// Up to where the lane has got it, in bytes of the file.
    passed_on: u64,
}

impl<'a> Outlet<'a> {
    /// To this lane by way of `frames`. What a target refuses is not packed any further once `in_vain` says so.
    pub fn new(lane: Lane, frames: &'a dyn FrameSink, in_vain: &'a AtomicBool) -> Self {
        Self { lane, frames, in_vain, recording: None }
    }

    /// Whether somebody waits for the package, which is then worth more of our time.
    pub(super) fn is_awaited(&self) -> bool {
        self.lane == Lane::TAGS
    }

    /// Whether nobody wants what is packed any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.in_vain.load(Ordering::Acquire) || self.frames.is_closed()
    }

    /// Fails where the target has said that it takes nothing.
    pub(super) fn check_use(&self) -> Packed<()> {
        if self.in_vain.load(Ordering::Acquire) { Err(PackAborted::InVain) } else { Ok(()) }
    }

    /// Says something on the lane, and to whoever takes it from the pack cache later.
    pub(super) fn say(&mut self, request: &Request<'_>) -> Packed<()> {
        let data = if let Request::Data(data) = request { data.len() } else { 0 };
        let mut frame = Vec::with_capacity(HEADER + data + 16);
        append(&mut frame, self.lane, request).map_err(|error| PackAborted::Package(error.to_string()))?;
        let Some(recording) = &mut self.recording else { return self.send(frame) };
        if let Err(error) = recording.making.append(&mut frame) {
            tracing::warn!(%error, "cannot write to the store; the package is packed for one target alone");
            self.catch_up()?;
            return self.send(frame);
        }
        self.offer(frame)
    }

    fn send(&self, frame: Vec<u8>) -> Packed<()> {
        if self.frames.send(frame) { Ok(()) } else { Err(PackAborted::HungUp) }
    }

    /// From now on what is said is also written there.
    pub(super) fn record(&mut self, making: Making) {
        self.recording = Some(Recording { making, passed_on: 0 });
    }

    /// Gives the lane what it takes at once of all that is in the file by now, `last` at its end.
    fn offer(&mut self, last: Vec<u8>) -> Packed<()> {
        let Some(Recording { making, passed_on }) = &mut self.recording else { return self.send(last) };
        if making.is_last(*passed_on, &last) {
            return match self.frames.offer(last) {
                Offer::Taken => {
                    *passed_on = making.written();
                    Ok(())
                }
                Offer::Full => Ok(()),
                Offer::Closed => Err(PackAborted::HungUp),
            };
        }
        while *passed_on < making.written() && self.frames.has_room() {
            let (frame, next) = read_back(making, *passed_on, self.lane)?;
            match self.frames.offer(frame) {
                Offer::Taken => *passed_on = next,
                Offer::Full => return Ok(()),
                Offer::Closed => return Err(PackAborted::HungUp),
            }
        }
        if self.frames.is_closed() { Err(PackAborted::HungUp) } else { Ok(()) }
    }

    /// Ends the entry, which is only kept where all was `made`, and gives the lane what it has not got of it.
    pub(super) fn settle(&mut self, made: Packed<()>, cache: &PackCache) -> Packed<()> {
        if matches!(made, Err(PackAborted::HungUp)) {
            self.recording = None;
            return made;
        }
        if let (Ok(()), Some(recording)) = (&made, &mut self.recording)
            && let Err(error) = recording.making.seal(cache)
        {
            tracing::debug!(%error, "an entry of the store could not be finished");
        }
        // A piece that was begun is ended, or nobody would understand what comes next.
        self.catch_up()?;
        made
    }

    /// Ends the recording, so that nobody waits for it any more, and gives the lane the rest of it, however long that takes.
    fn catch_up(&mut self) -> Packed<()> {
        let Some(Recording { mut making, mut passed_on }) = self.recording.take() else { return Ok(()) };
        if let Err(error) = making.give_up() {
            tracing::debug!(%error, "an unfinished entry of the store could not be deleted");
        }
        while passed_on < making.written() {
            let (frame, next) = read_back(&making, passed_on, self.lane)?;
            if is_piece(&frame) {
                self.check_use()?;
            }
            passed_on = next;
            self.send(frame)?;
        }
        Ok(())
    }

    /// Gives the lane an entry of the pack cache. Tells the damage where it could not be read to its end: then what was given of it is to be forgotten.
    pub(super) fn pass_on(&self, entry: &mut CacheEntry, progress: &Progress) -> Packed<Option<std::io::Error>> {
        loop {
            self.check_use()?;
            let stretch = match entry.next(self.lane) {
                Ok(Some(stretch)) => stretch,
                Ok(None) => return Ok(None),
                Err(damage) => return Ok(Some(damage)),
            };
            progress.advance(stretch.bytes);
            for frame in stretch.frames {
                self.send(frame)?;
            }
        }
    }
}

fn read_back(making: &Making, offset: u64, lane: Lane) -> Packed<(Vec<u8>, u64)> {
    let read = making.frame_at(offset, lane);
    read.map_err(|error| PackAborted::Package(format!("what was packed of it could not be read again: {error}")))
}

fn is_piece(frame: &[u8]) -> bool {
    matches!(frame.get(HEADER..).map(decode), Some(Ok(Request::Piece(_))))
}
