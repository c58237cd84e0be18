//! One look at the directory: which files count as tags now, which may later, and which are none.
//!
//! A file counts when a notification said that it was closed or moved in, or when it has been quiet for [`QUIET`]. One that cannot be
//! read as a tag has longer: it may not be written wholly.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use blat_domain::package::tag::{BAD, FAILED, LONGEST, Packages, TagError, is_ignored, parse};
use blat_domain::protocol::news::Heard;
use jiff::Timestamp;

use super::aside::{self, AsideError};
use super::complaint::ComplaintKind;
use super::handle::{EntryStat, Handle};
use super::names::shown;
use super::turns::{TURN, cost};
use super::worker::{RepeatedFailure, Reported, Worker, bug};
use crate::session::{FoundTags, LookLimits, Name, Tag, TagStamp};
use crate::state::memory;

/// So long a file must not have changed to count where no notification said that it is whole.
pub(super) const QUIET: Duration = Duration::from_secs(2);
/// The same of a file that is no tag as it is.
const LONG_QUIET: Duration = Duration::from_secs(10);
/// The shortest time between two looks that nobody asked for.
const SHORTEST_REST: Duration = Duration::from_millis(100);
/// Files that no look reads, hidden or unfinished, before they are reported: each look passes over all of them.
pub(super) const MANY_IGNORED: u64 = 10_000;

/// What is at a name.
enum TagCheck {
    Tag(Tag),
    /// It is no tag, for this reason.
    Bad(TagStamp, String),
    /// It may count after this time, or when a notification comes.
    NotYet(Option<Duration>),
    Nothing,
}

/// What is gathered during one look.
struct Round<'a> {
    ask: &'a LookLimits,
    room: usize,
    now: Instant,
    /// The same by the wall clock.
    at: Timestamp,
    tags: Vec<Tag>,
    again_in: Option<Duration>,
    trouble: Option<(String, Duration)>,
    former: EarlierLooks,
    /// What all files that may be tags would take in memory, and those that were looked at in their turn, in bytes.
    weight: u64,
    taken: usize,
    /// How many files there are that are no tags by their names, with one of these.
    ignored: (u64, Option<OsString>),
}

/// What earlier looks found, less what this one has found again.
#[derive(Default)]
struct EarlierLooks {
    reported: HashMap<Name, Reported>,
    heard: HashMap<Name, Heard>,
    quiet: HashMap<Name, (TagStamp, Instant)>,
    refused: HashMap<Name, RepeatedFailure>,
    no_tags: HashMap<Name, (TagStamp, String)>,
}

impl EarlierLooks {
    /// The name as it is known already, so that it is in memory once.
    fn name(&self, name: OsString) -> Name {
        self.reported.get_key_value(name.as_os_str()).map_or_else(|| name.into(), |(known, _)| known.clone())
    }
}

impl Round<'_> {
    fn again_in(&mut self, rest: Duration) {
        self.again_in = Some(self.again_in.map_or(rest, |again| again.min(rest)));
    }

    /// Something is refused until its time comes.
    fn refuse(&mut self, failure: &RepeatedFailure) {
        let rest = failure.rest(self.now).unwrap_or(Duration::ZERO);
        self.again_in(rest);
        self.trouble.get_or_insert_with(|| (failure.text.clone(), rest));
    }
}

impl Worker {
    /// Looks at the whole directory, and says when the next look is due.
    pub(super) fn look(&mut self, ask: &LookLimits) -> FoundTags {
        let began = Instant::now();
        self.ask = LookLimits { turn: BTreeSet::new(), ..ask.clone() };
        let found = self.look_now(ask);
        let rest = found.again_in.map_or(ask.poll, |again| again.min(ask.poll)).max(SHORTEST_REST);
        // A poll may be so rare that no clock counts so far.
        self.next_look = Instant::now().checked_add(rest);
        self.told = match (&found.tags, &found.trouble) {
            (Some(tags), None) => {
                let mut hasher = DefaultHasher::new();
                tags.iter().for_each(|tag| (&tag.name, tag.stamp, tag.packages.is_some()).hash(&mut hasher));
                Some(hasher.finish())
            }
            // Trouble is told each time.
            (None, _) | (_, Some(_)) => None,
        };
        let is_unsteady = found.tags.is_none() || self.exchanged_at().is_some_and(|at| at >= began);
        self.rest_after(began, is_unsteady);
        self.remove_unused();
        found
    }

    fn look_now(&mut self, ask: &LookLimits) -> FoundTags {
        let now = Instant::now();
        let tags = match self.open() {
            Ok(tags) => tags,
            Err(error) => return self.lose(&error, ask.poll, now),
        };
        // Watched before it is listed: what comes after the list is told.
        self.watch.renew(&tags.own_path(), tags.id(), &tags.to_string());
        let listed = self.restore_leftovers(&tags, now).and_then(|rest| {
            self.hear();
            let mut found = self.list(&tags, ask, now)?;
            found.again_in = found.again_in.into_iter().chain(rest).min();
            Ok(found)
        });
        match listed {
            Ok(mut found) => {
                self.lost = None;
                if let Some(text) = self.unsteadiness(now) {
                    self.complaints.say(ComplaintKind::Directory, now, &text);
                    found.trouble.get_or_insert((text, QUIET));
                }
                found
            }
            Err(error) => self.lose(&error, ask.poll, now),
        }
    }

    /// The directory cannot be looked at. That is said once, and again less and less often.
    fn lose(&mut self, error: &io::Error, poll: Duration, now: Instant) -> FoundTags {
        let text = self.cannot_open(error);
        let is_news = self.lost.as_ref().is_none_or(|lost| lost.text != text || lost.rest(now).is_none());
        if is_news {
            self.complaints.say(ComplaintKind::Directory, now, &format!("{text}; trying again at the next poll"));
            self.lost = Some(RepeatedFailure::after(self.lost.as_ref(), text.clone(), now));
        }
        FoundTags { tags: None, again_in: None, trouble: Some((text, poll)) }
    }

    fn hear(&mut self) {
        let news = self.watch.news();
        if news.is_broken {
            self.heard.clear();
        }
        for (name, heard) in news.files {
            let name = Name::from(OsString::from_vec(name));
            if heard == Heard::Whole {
                self.turns.prefer(&name);
            }
            self.heard.insert(name, heard);
        }
    }

    fn list(&mut self, tags: &Handle, ask: &LookLimits, now: Instant) -> io::Result<FoundTags> {
        let former = EarlierLooks {
            reported: mem::take(&mut self.reported),
            heard: mem::take(&mut self.heard),
            quiet: mem::take(&mut self.quiet),
            refused: mem::take(&mut self.refused),
            no_tags: mem::take(&mut self.no_tags),
        };
        self.first_seen.follow(memory::anchor());
        let (at, room, found) = (Timestamp::now(), ask.room, Vec::new());
        let (again_in, trouble, ignored) = (None, None, (0, None));
        let mut round =
            Round { ask, room, now, at, tags: found, again_in, trouble, former, weight: 0, taken: 0, ignored };
        if let Err(error) = self.list_names(tags, &mut round) {
            // What was not reached this time is not forgotten.
            let EarlierLooks { reported, heard, quiet, refused, no_tags } = mem::take(&mut round.former);
            self.reported.extend(reported);
            self.heard.extend(heard);
            self.quiet.extend(quiet);
            self.refused.extend(refused);
            self.no_tags.extend(no_tags);
            return Err(error);
        }
        self.returned.retain(|name| self.quiet.contains_key(name));
        self.report_crowd(tags, &mut round);
        self.ask.room = round.room;
        Ok(FoundTags { tags: Some(round.tags), again_in: round.again_in, trouble: round.trouble })
    }

    /// Says where more lies in the directory than makes sense, and takes turns where there are too many tags.
    fn report_crowd(&mut self, tags: &Handle, round: &mut Round<'_>) {
        if self.turns.follow(round.weight, round.now) {
            self.first_seen.forget_others();
        }
        let mut crowds = Vec::new();
        if let Some(rest) = self.turns.rest(round.now) {
            round.again_in(rest);
            let seconds = TURN.as_secs();
            crowds.push(format!(
                "{tags} holds more tags than the agent looks at together; they take turns of {seconds} s, and those that were dropped last \
                 come first; remove those that nobody needs"
            ));
        }
        if let (count @ MANY_IGNORED.., Some(example)) = &round.ignored {
            // Rounded, so that the text stays as it is.
            let count = count / MANY_IGNORED * MANY_IGNORED;
            let owner = tags.see(example).ok().flatten().map(|seen| format!(" of the account {}", seen.owner));
            let (example, owner) = (shown(example), owner.unwrap_or_default());
            crowds.push(format!(
                "{tags} holds {count} or more files that are no tags by their names, such as \"{example}\"{owner}; each look at the tags \
                 passes over all of them: remove them, and find out who makes them"
            ));
        }
        let crowd = (!crowds.is_empty()).then(|| crowds.join(". "));
        if let Some(text) = &crowd {
            if self.crowd != crowd {
                self.complaints.say(ComplaintKind::Directory, round.now, text);
            }
            round.trouble.get_or_insert_with(|| (text.clone(), QUIET));
        }
        self.crowd = crowd;
    }

    fn list_names(&mut self, tags: &Handle, round: &mut Round<'_>) -> io::Result<()> {
        let mut needs_bad = false;
        for name in tags.names()? {
            let name = name?;
            if name == BAD || name == FAILED {
                continue;
            }
            if is_ignored(name.as_bytes()) {
                round.ignored.0 += 1;
                round.ignored.1.get_or_insert(name);
                continue;
            }
            let cost = cost(&name);
            round.weight += cost as u64;
            if !self.turns.is_preferred(&name) {
                if !self.turns.includes(&name) || round.taken + cost > self.turns.room() {
                    continue;
                }
                round.taken += cost;
            }
            let name = round.former.name(name);
            let judged = catch_unwind(AssertUnwindSafe(|| self.judge(tags, &name, round)));
            match judged {
                Ok(Ok(TagCheck::Tag(tag))) => round.tags.push(tag),
                Ok(Ok(TagCheck::Bad(stamp, why))) => {
                    needs_bad = true;
                    self.refuse_as_bad(tags, &name, stamp, &why, round);
                }
                Ok(Ok(TagCheck::NotYet(Some(rest)))) => round.again_in(rest),
                // Whoever dropped it may take it back at any moment: what is gone was never there.
                Ok(Ok(TagCheck::NotYet(None) | TagCheck::Nothing)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
                Ok(Err(error)) => {
                    let text = format!("cannot read the tag \"{}\" in {tags}: {error}", shown(&name));
                    self.refuse(name.clone(), text, round);
                }
                Err(_) => self.refuse(name.clone(), bug("reading", &name), round),
            }
            let reasons = self.reasons(&name);
            (round.taken, round.weight) = (round.taken + reasons, round.weight + reasons as u64);
        }
        if !needs_bad {
            self.bad = None;
        }
        Ok(())
    }

    /// The memory that the reasons take why this file is no tag, or stays where it is, in bytes.
    fn reasons(&self, name: &Name) -> usize {
        let no_tag = self.no_tags.get(name).map_or(0, |(_, why)| why.len());
        no_tag + self.refused.get(name).map_or(0, |failure| failure.text.len())
    }

    /// This file is left alone for a while.
    fn refuse(&mut self, name: Name, text: String, round: &mut Round<'_>) {
        let failure = RepeatedFailure::after(round.former.refused.get(&name), text, round.now);
        self.complaints.say(ComplaintKind::File, round.now, &failure.text);
        round.refuse(&failure);
        self.refused.insert(name, failure);
    }

    /// Moves what is no tag to `bad/`, unless that failed a short while ago.
    fn refuse_as_bad(&mut self, tags: &Handle, name: &Name, stamp: TagStamp, why: &str, round: &mut Round<'_>) {
        if let Some(bad) = self.bad.as_ref().filter(|bad| bad.rest(round.now).is_some()) {
            round.refuse(bad);
            return;
        }
        match self.set_aside(tags, (name, stamp), BAD, why) {
            Ok(()) => {
                self.bad = None;
                self.first_seen.forget(stamp);
            }
            Err(AsideError::Changed) => round.again_in(QUIET),
            Err(AsideError::Place(text)) => {
                let failure = RepeatedFailure::after(
                    self.bad.as_ref(),
                    format!("{text}. \"{}\" is no tag: {why}", shown(name)),
                    round.now,
                );
                self.complaints.say(ComplaintKind::Place, round.now, &failure.text);
                round.refuse(&failure);
                self.bad = Some(failure);
            }
            Err(AsideError::File(text)) => self.refuse(name.to_owned(), format!("{text}. It is no tag: {why}"), round),
        }
    }

    /// What is at this name, and whether it counts.
    fn judge(&mut self, tags: &Handle, name: &Name, round: &mut Round<'_>) -> io::Result<TagCheck> {
        if let Some(failure) =
            round.former.refused.get(name).filter(|failure| failure.rest(round.now).is_some()).cloned()
        {
            round.refuse(&failure);
            self.refused.insert(name.to_owned(), failure);
            self.heard.extend(round.former.heard.remove_entry(name));
            self.quiet.extend(round.former.quiet.remove_entry(name));
            self.no_tags.extend(round.former.no_tags.remove_entry(name));
            return Ok(TagCheck::Nothing);
        }
        let Some(seen) = tags.see(name)? else { return Ok(TagCheck::Nothing) };
        if !seen.is_file {
            return Ok(TagCheck::Bad(seen.stamp, "it is not a regular file".to_owned()));
        }
        self.first_seen.keep(seen.stamp);
        let heard = round.former.heard.remove(name);
        let reported = round.former.reported.remove(name).filter(|tag| tag.stamp == seen.stamp);
        let is_turn = round.ask.turn.contains(name);
        if let Some(reported) = reported {
            self.heard.extend(heard.map(|heard| (name.to_owned(), heard)));
            if !is_turn {
                self.reported.insert(name.to_owned(), reported);
                return Ok(TagCheck::Tag(self.tag(name, &seen, round)));
            }
        }
        let is_returned = self.returned.contains(name);
        let is_whole = reported.map_or(heard == Some(Heard::Whole) && !is_returned, |tag| tag.is_whole);
        let still_for = self.still_for(name, seen.stamp, round);
        if reported.is_none() && !is_whole {
            self.heard.extend(heard.map(|heard| (name.to_owned(), heard)));
            if heard == Some(Heard::Writing) && !is_returned {
                return Ok(TagCheck::NotYet(None));
            }
            if still_for < QUIET {
                return Ok(TagCheck::NotYet(Some(QUIET - still_for)));
            }
        }
        let verdict = self.read(tags, name, &seen, is_whole, still_for, round)?;
        if let (TagCheck::NotYet(_) | TagCheck::Bad(..), Some(Heard::Whole)) = (&verdict, heard) {
            self.heard.insert(name.to_owned(), Heard::Whole);
        }
        Ok(verdict)
    }

    /// Since when the file is as it is now.
    fn still_for(&mut self, name: &Name, stamp: TagStamp, round: &mut Round<'_>) -> Duration {
        let former = round.former.quiet.remove(name).filter(|(former, _)| *former == stamp);
        let (_, since) = *self.quiet.entry(name.to_owned()).or_insert(former.unwrap_or((stamp, round.now)));
        round.now.saturating_duration_since(since)
    }

    fn read(
        &mut self,
        tags: &Handle,
        name: &Name,
        seen: &EntryStat,
        is_whole: bool,
        still_for: Duration,
        round: &mut Round<'_>,
    ) -> io::Result<TagCheck> {
        let is_turn = round.ask.turn.contains(name);
        let packages = if !is_turn && seen.stamp.weight() > round.room {
            None
        } else {
            match self.parse(tags, name, seen, round)? {
                None => return Ok(TagCheck::NotYet(Some(QUIET))),
                Some(Ok(packages)) => Some(packages),
                Some(Err(why)) => {
                    self.no_tags.insert(name.to_owned(), (seen.stamp, why.clone()));
                    let needed = if is_whole { QUIET } else { LONG_QUIET };
                    let rest = needed.saturating_sub(still_for);
                    return Ok(if rest.is_zero() {
                        TagCheck::Bad(seen.stamp, why)
                    } else {
                        TagCheck::NotYet(Some(rest))
                    });
                }
            }
        };
        if packages.is_some() && !is_turn {
            round.room -= seen.stamp.weight();
        }
        self.quiet.remove(name);
        if self.reported.insert(name.to_owned(), Reported { stamp: seen.stamp, is_whole }).is_none() && !is_turn {
            // One that was moved back from `bad/` or `failed/` leaves its reason there.
            if let Err(text) = aside::tidy(tags, name) {
                self.complaints.say(ComplaintKind::Place, round.now, &text);
            }
        }
        let mut tag = self.tag(name, seen, round);
        tag.packages = packages;
        Ok(TagCheck::Tag(tag))
    }

    /// What a file asks for, or why it is no tag; none where it is not what was seen any more.
    fn parse(
        &self,
        tags: &Handle,
        name: &OsStr,
        seen: &EntryStat,
        round: &mut Round<'_>,
    ) -> io::Result<Option<Result<Packages, String>>> {
        // What is no tag may lie there for long when `bad/` cannot be used: it is read once.
        if let Some((_, why)) = round.former.no_tags.remove(name).filter(|(stamp, _)| *stamp == seen.stamp) {
            return Ok(Some(Err(why)));
        }
        if seen.stamp.size > LONGEST {
            return Ok(Some(Err(TagError::TooLarge.to_string())));
        }
        // What cannot be parsed is quoted in its reason, which the tag's owner reads.
        if seen.has_other_names {
            return Ok(Some(Err(
                "it is a hard link to a file that has another name; drop a file of its own".to_owned()
            )));
        }
        match tags.read(name, seen) {
            Ok(content) => Ok(content.map(|text| parse(name.to_str(), &text).map_err(|error| error.to_string()))),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Ok(Some(Err(format!("it cannot be read: {error}"))))
            }
            Err(error) => Err(error),
        }
    }

    fn tag(&mut self, name: &Name, seen: &EntryStat, round: &Round<'_>) -> Tag {
        let stamp = seen.stamp;
        let (second, nanosecond) = stamp.changed;
        let dropped = i128::from(second) * 1_000_000_000 + i128::from(nanosecond);
        // Where the file system's clock is ahead, it was dropped just now.
        let dropped_ago = Duration::from_nanos(u64::try_from(round.at.as_nanosecond() - dropped).unwrap_or(0));
        let seen_ago = self.first_seen.ago(stamp, round.at.as_second());
        Tag { name: name.to_owned(), stamp, dropped_ago, seen_ago, packages: None }
    }
}
