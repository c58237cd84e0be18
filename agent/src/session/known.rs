//! The tags that the lane knows, in the order in which they are due: a step costs what it does, not what the directory holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::time::Duration;

use super::Moment;
use super::pass::Pass;
use super::tags::{Leave, Name, Tag, TagStamp};

/// What a tag waits for.
#[derive(Debug)]
pub(super) enum TagStage {
    /// Its packages are not in memory.
    Unread,
    /// Its packages are being sent.
    Sending(Pass),
    /// It is to leave; `is_asked`: and whoever removes it was asked to.
    Leaving { how: Leave, is_asked: bool },
}

/// A tag that lies in the directory.
#[derive(Debug)]
pub(super) struct KnownTag {
    pub(super) stamp: TagStamp,
    /// When it was read, and how long before an agent had seen it, and it had been dropped.
    pub(super) read_at: Moment,
    pub(super) seen_ago: Duration,
    pub(super) dropped_ago: Duration,
    pub(super) stage: TagStage,
    pub(super) failures: u32,
    pub(super) not_before: Moment,
    /// Nothing was tried for it yet.
    pub(super) is_new: bool,
    /// The look that found it last.
    look: u64,
}

impl KnownTag {
    fn new(tag: &Tag, now: Moment) -> Self {
        let Tag { stamp, dropped_ago, seen_ago, .. } = *tag;
        let (stage, failures, not_before, is_new) = (TagStage::Unread, 0, now, true);
        Self { stamp, read_at: now, seen_ago, dropped_ago, stage, failures, not_before, is_new, look: 0 }
    }

    fn weight(&self) -> usize {
        if let TagStage::Sending(pass) = &self.stage { pass.weight() } else { 0 }
    }

    /// One that is served waits for nothing, unless it cannot be removed.
    fn is_served(&self) -> bool {
        self.failures == 0 && matches!(self.stage, TagStage::Leaving { how: Leave::Consumed, .. })
    }

    fn queue(&self) -> Option<Queue> {
        match &self.stage {
            TagStage::Unread => Some(Queue::Unread),
            TagStage::Sending(_) => Some(Queue::Sending),
            TagStage::Leaving { is_asked, .. } => (!is_asked).then_some(Queue::Leaving),
        }
    }
}

/// What tags queue for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// To be read.
    Unread,
    /// To be sent.
    Sending,
    /// To be removed.
    Leaving,
}

/// Which of those that are due comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DueOrder {
    /// The one that has been due for longest.
    Oldest,
    /// The one that was dropped last and not tried yet; after all of these, as above.
    Newest,
}

#[derive(Debug, Default)]
struct QueueIndex {
    by_time: BTreeSet<(Moment, Name)>,
    /// Those of them that were not tried yet, by the time of their last change.
    new: BTreeSet<((i64, i64), Name)>,
}

/// All of them. Each change goes through [`Self::change`], so that the queues are always right.
#[derive(Debug, Default)]
pub(super) struct AllKnown {
    by_name: BTreeMap<Name, KnownTag>,
    queues: [QueueIndex; 3],
    /// What the packages of those that are sent weigh.
    weight: usize,
    served: usize,
    look: u64,
}

impl AllKnown {
    pub(super) fn get(&self, name: &OsStr) -> Option<&KnownTag> {
        self.by_name.get(name)
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.by_name.keys().cloned().collect()
    }

    /// How many wait for something.
    pub(super) fn waiting(&self) -> usize {
        self.by_name.len() - self.served
    }

    /// What their packages weigh together, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn is_empty(&self, queue: Queue) -> bool {
        self.queues[queue as usize].by_time.is_empty()
    }

    /// When the next one is due.
    pub(super) fn soonest(&self, queue: Queue) -> Moment {
        self.queues[queue as usize].by_time.first().map_or(Moment::MAX, |(at, _)| *at)
    }

    /// Those that are due.
    pub(super) fn due(&self, queue: Queue, first: DueOrder, now: Moment) -> impl Iterator<Item = (&Name, &KnownTag)> {
        let index = &self.queues[queue as usize];
        let is_newest = first == DueOrder::Newest;
        let new = index.new.iter().rev().map(|(_, name)| name).filter(move |_| is_newest);
        let others = index.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, name)| name);
        let known = |name| self.by_name.get_key_value::<Name>(name);
        let new = new.filter_map(known).filter(move |(_, tag)| tag.not_before <= now);
        new.chain(others.filter_map(known).filter(move |(_, tag)| !is_newest || !tag.is_new))
    }

    /// Those that are not due yet.
    pub(super) fn later(&self, queue: Queue, now: Moment) -> Vec<Name> {
        let index = self.queues[queue as usize].by_time.iter().rev();
        index.take_while(|(at, _)| *at > now).map(|(_, name)| name.clone()).collect()
    }

    /// Takes in what a look found: what it did not find is forgotten, and what has changed is new.
    pub(super) fn follow(&mut self, tags: Vec<Tag>, now: Moment) {
        self.look += 1;
        let look = self.look;
        for tag in tags {
            if self.get(&tag.name).is_none_or(|known| known.stamp != tag.stamp) {
                self.forget(&tag.name);
                let known = KnownTag::new(&tag, now);
                self.enter(&tag.name, &known);
                self.by_name.insert(tag.name.clone(), known);
            }
            if let Some(known) = self.by_name.get_mut(&tag.name) {
                known.look = look;
            }
            if let Some(packages) = tag.packages {
                self.change(&tag.name, |known| {
                    if let TagStage::Unread = known.stage {
                        known.stage = TagStage::Sending(Pass::new(packages, now));
                    }
                });
            }
        }
        let is_gone = |(name, known): (&Name, &KnownTag)| (known.look != look).then(|| name.clone());
        let gone: Vec<Name> = self.by_name.iter().filter_map(is_gone).collect();
        gone.iter().for_each(|name| self.forget(name));
    }

    /// Changes a tag, if it is known.
    pub(super) fn change<T>(&mut self, name: &OsStr, change: impl FnOnce(&mut KnownTag) -> T) -> Option<T> {
        let (name, mut known) = self.by_name.remove_entry(name)?;
        self.leave(&name, &known);
        let changed = change(&mut known);
        self.enter(&name, &known);
        self.by_name.insert(name, known);
        Some(changed)
    }

    pub(super) fn forget(&mut self, name: &OsStr) {
        if let Some((name, known)) = self.by_name.remove_entry(name) {
            self.leave(&name, &known);
        }
    }

    fn enter(&mut self, name: &Name, known: &KnownTag) {
        self.weight += known.weight();
        self.served += usize::from(known.is_served());
        if let Some(queue) = known.queue() {
            let index = &mut self.queues[queue as usize];
            index.by_time.insert((known.not_before, name.clone()));
            if known.is_new {
                index.new.insert((known.stamp.changed, name.clone()));
            }
        }
    }

    fn leave(&mut self, name: &Name, known: &KnownTag) {
        self.weight -= known.weight();
        self.served -= usize::from(known.is_served());
        if let Some(queue) = known.queue() {
            let index = &mut self.queues[queue as usize];
            index.by_time.remove(&(known.not_before, name.clone()));
            index.new.remove(&(known.stamp.changed, name.clone()));
        }
    }
}
