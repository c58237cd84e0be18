//! What is no tag moves to `bad/`, what can never succeed to `failed/`, each with its reason beside it.
//!
//! Both are directories of the tag directory that this account owns, no links: else they are refused by name, since whoever may write
//! to the tag directory could lead the agent anywhere. A reason is written in a directory that nobody else may enter and then moved, so that
//! nothing that lies there is opened or followed.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};

use blat_domain::package::tag::{BAD, FAILED};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::handle::{EntryStat, Handle};
use super::names::{self, REASON, beside, shown, unfinished};
use crate::session::TagStamp;

/// Files of one name that are kept in one place.
const MOST_OF_A_NAME: u32 = 1_000;

/// Why a file could not be set aside.
#[derive(Debug)]
pub(super) enum AsideError {
    /// It is not the file that was meant any more.
    Changed,
    /// The place cannot be used, for no file: why, and what to do.
    Place(String),
    /// This file cannot be moved: why, and what to do.
    File(String),
}

/// Opens `bad/` or `failed/`.
///
/// # Errors
/// What is wrong with it and what to do.
pub(super) fn place(tags: &Handle, name: &str) -> Result<Handle, String> {
    let refused =
        |why: String| format!("cannot use {tags}/{name}: {why}; remove it, and the agent makes a directory of its own");
    match tags.subdirectory(OsStr::new(name)) {
        Ok(place) => check(tags, place).map_err(refused),
        Err(error) if is_link_or_file(&error) => Err(refused("it is a link or no directory".to_owned())),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let uid = geteuid().as_raw();
            Err(format!("cannot use {tags}/{name}: {error}; give the account {uid} write permission on {tags}"))
        }
        Err(error) => Err(format!("cannot use {tags}/{name}: {error}; make it a directory of the agent's account")),
    }
}

fn check(tags: &Handle, place: Handle) -> Result<Handle, String> {
    let (owner, uid) = (place.owner(), geteuid().as_raw());
    if owner != uid {
        return Err(format!("it belongs to the account {owner}, and the agent runs as {uid}"));
    }
    if place.device() != tags.device() {
        return Err("it is on another file system than the tags".to_owned());
    }
    Ok(place)
}

fn is_link_or_file(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::LOOP | Errno::NOTDIR))
}

/// Moves a file that was seen so into `into`, and says why beside it. The reason comes first: a moved tag without one would be a riddle.
/// `hidden` is a directory of the agent's own, in which the reason is written.
pub(super) fn set_aside(
    tags: &Handle,
    hidden: &Handle,
    (name, stamp): (&OsStr, TagStamp),
    into: &str,
    why: &str,
) -> Result<OsString, AsideError> {
    let place = place(tags, into).map_err(AsideError::Place)?;
    let seen = tags.see(name).map_err(|error| cannot_move(tags, name, None, into, &error))?;
    let seen = seen.filter(|seen| seen.stamp == stamp).ok_or(AsideError::Changed)?;
    let cannot = |error: io::Error| cannot_move(tags, name, Some(&seen), into, &error);
    hidden
        .remove(unfinished())
        .and_then(|()| hidden.create(unfinished(), format!("{why}\n").as_bytes()))
        .map_err(cannot)?;
    let moved = move_beside(tags, name, &place, hidden);
    // It has another name by now, unless something failed.
    let kept = match (moved, hidden.remove(unfinished())) {
        (Err(error), _) | (Ok(_), Err(error)) => return Err(cannot(error)),
        (Ok(None), Ok(())) => return Err(AsideError::Changed),
        (Ok(Some(kept)), Ok(())) => kept,
    };
    if is_unchanged(&place, &kept, &seen).map_err(cannot)? {
        return Ok(kept);
    }
    // Another one took its name in the last moment, or it has grown: it is looked at again.
    place.move_to_free(&kept, tags, name).map_err(cannot)?;
    place.remove(&names::reason(&kept)).map_err(cannot)?;
    Err(AsideError::Changed)
}

/// Says what keeps a file where it is.
pub(super) fn cannot_move(
    tags: &Handle,
    name: &OsStr,
    seen: Option<&EntryStat>,
    into: &str,
    error: &io::Error,
) -> AsideError {
    let uid = geteuid().as_raw();
    let what = format!("cannot move \"{}\" from {tags} to {into}/: {error}", shown(name));
    AsideError::File(match seen {
        // Who moves a directory writes into it as well.
        Some(seen) if seen.is_directory && seen.owner != uid => {
            format!("{what}; it is a directory of the account {}: remove it yourself", seen.owner)
        }
        _ if error.kind() == ErrorKind::PermissionDenied => {
            let sticky = if tags.is_sticky() { " and take its sticky bit away" } else { "" };
            format!("{what}; remove it yourself, or give the account {uid} write permission on {tags}{sticky}")
        }
        _ => format!("{what}; remove it yourself"),
    })
}

fn is_unchanged(place: &Handle, kept: &OsStr, seen: &EntryStat) -> io::Result<bool> {
    Ok(place
        .see(kept)?
        .is_some_and(|now| now.is_same_content(seen) || !seen.is_file && now.stamp.inode == seen.stamp.inode))
}

/// Moves the file to the first name that is free, its reason before it. None where the file is gone.
fn move_beside(tags: &Handle, name: &OsStr, place: &Handle, hidden: &Handle) -> io::Result<Option<OsString>> {
    for kept in beside(name, MOST_OF_A_NAME) {
        let reason = names::reason(&kept);
        // What is called so may be a file that was set aside, with a reason of its own: a reason replaces only a reason.
        if place.see(&kept)?.is_some() || place.see(&names::reason(&reason))?.is_some() {
            continue;
        }
        match hidden.move_over(unfinished(), place, &reason) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ISDIR) => continue,
            moved => moved?,
        }
        match tags.move_to_free(name, place, &kept) {
            Ok(()) => return Ok(Some(kept)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => place.move_over(&reason, hidden, unfinished())?,
            Err(error) => {
                place.remove(&reason)?;
                return if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) };
            }
        }
    }
    Err(io::Error::other(format!("{place} holds {MOST_OF_A_NAME} files of this name; remove some")))
}

/// Removes the reason of a tag that was moved back.
///
/// # Errors
/// What to do about one that cannot be removed.
pub(super) fn tidy(tags: &Handle, name: &OsStr) -> Result<(), String> {
    for into in [BAD, FAILED] {
        let Ok(place) = tags.existing_subdirectory(OsStr::new(into)) else { continue };
        let Ok(place) = check(tags, place) else { continue };
        remove_reason(&place, name).map_err(|error| {
            format!("cannot remove the outdated reason of \"{}\" in {place}: {error}; remove it yourself", shown(name))
        })?;
    }
    Ok(())
}

fn remove_reason(place: &Handle, name: &OsStr) -> io::Result<()> {
    let reason = names::reason(name);
    let is_whole = reason.len() == name.len() + REASON.len();
    if is_whole && place.see(name)?.is_none() && place.see(&reason)?.is_some_and(|seen| seen.is_file) {
        // With a reason of its own it is a file that was set aside.
        if place.see(&names::reason(&reason))?.is_none() {
            place.remove(&reason)?;
        }
    }
    Ok(())
}
