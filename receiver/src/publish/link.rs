//! Versions that are links to others: each is made aside and renamed over its place, so that a reader finds the old one or the new one. A link
//! never replaces anything but a link. The words of the answer are `receive_file`'s.

use std::io;

use blat_domain::archive::MARKS;
use blat_domain::package::DESCPKG;
use blat_domain::package::name::{PackageId, Version};
use blat_domain::protocol::outcome::{FailedFor, Outcome};
use rustix::fs::FileType;

use crate::archive::dir::kind;
use crate::archive::locks;
use crate::archive::spelling::Spelling;
use crate::archive::{Archive, mark_name};
use crate::failure::{Failure, refused_by_system};
use crate::owner::record;
use crate::staging::scratch::{Scratch, flush};
use crate::wire::replies::line;

/// Makes links, in their order; where `owner` is named, only that one replaces other links. Gives a line for each.
pub(crate) fn link(
    archive: &Archive,
    links: &[(PackageId, Version)],
    owner: Option<&str>,
) -> Result<(Vec<String>, Scratch), Failure> {
    let scratch = Scratch::take(archive, "file")?;
    scratch.note_batch(archive, links.iter().map(|(package, _)| package))?;
    // Without marks there are none to take away.
    let aged = scratch.rooms.control.open(MARKS).ok();
    let spelling = Spelling::of(archive);
    let lines = locks::publishing(archive, &scratch.rooms, || -> Vec<String> {
        let put = |(package, to): &(PackageId, Version)| {
            let outcome = put_link(archive, &scratch, &spelling, owner, (package, to));
            // Somebody wants it, as with a package.
            let _ = aged.as_ref().map(|aged| aged.unlink(mark_name(package)));
            line(package, outcome)
        };
        links.iter().map(put).collect()
    })?;
    flush(archive, &scratch.rooms, "the links", "check the disk")?;
    Ok((lines, scratch))
}

fn put_link(
    archive: &Archive,
    scratch: &Scratch,
    spelling: &Spelling,
    owner: Option<&str>,
    link: (&PackageId, &Version),
) -> Outcome {
    decide(archive, scratch, spelling, owner, link).unwrap_or_else(|error| {
        let text = format!("making the link failed: {error}; check owners, modes and space there");
        Outcome::Failed(refused_by_system(&error), text)
    })
}

fn decide(
    archive: &Archive,
    scratch: &Scratch,
    spelling: &Spelling,
    owner: Option<&str>,
    (package, to): (&PackageId, &Version),
) -> io::Result<Outcome> {
    let PackageId { name, version } = package;
    let failed = |class, text: &str| Ok(Outcome::Failed(class, text.to_owned()));
    if let Some(why) = record::keeps_from_linking(&scratch.rooms.control, owner)? {
        return failed(FailedFor::Unowned, &why);
    }
    let of_name = match archive.root.stat(name.as_str())? {
        Some(stat) if kind(&stat) != FileType::Directory => {
            return failed(FailedFor::Foreign, &format!("{name} is not a directory; move it away"));
        }
        Some(_) => archive.root.open_if_there(name.as_str())?,
        None => None,
    };
    let absent = || failed(FailedFor::Absent, &format!("{to}, which it shall address, is not there; send that first"));
    let Some(of_name) = of_name else { return absent() };
    for (dir, name) in [(&archive.root, name.as_str()), (&of_name, to.as_str()), (&of_name, version.as_str())] {
        if let Some(why) = spelling.misleads(dir, name)? {
            return failed(FailedFor::Conflict, &why);
        }
    }
    match of_name.stat_as_readers_do(format!("{to}/{DESCPKG}"))? {
        Some(stat) if kind(&stat) == FileType::RegularFile => {}
        Some(_) | None => return absent(),
    }
    match of_name.stat(version.as_str())? {
        Some(stat) if kind(&stat) != FileType::Symlink => {
            return failed(FailedFor::Foreign, "what is in its place is no link; delete or move it first");
        }
        Some(_) | None => {}
    }
    let there = of_name.link_target(version.as_str())?;
    if there.as_ref().is_some_and(|there| there == to.as_str().as_bytes()) {
        archive.sync_names(&of_name)?;
        return Ok(Outcome::Already);
    }
    if there.is_some()
        && let Some(why) = record::keeps_from_replacing(&scratch.rooms.control, owner)?
    {
        return failed(FailedFor::Conflict, &why);
    }
    let hidden = format!(".{version}.{}", scratch.id);
    of_name.link(to.as_str(), hidden.as_str())?;
    if let Err(error) = of_name.rename(hidden.as_str(), &of_name, version.as_str()) {
        of_name.unlink(hidden.as_str())?;
        return Err(error);
    }
    archive.sync_names(&of_name)?;
    Ok(Outcome::Linked)
}
