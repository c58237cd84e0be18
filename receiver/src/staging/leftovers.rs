//! What was to be removed and cannot be, since somebody else's files are in it: it is named in answers, left where it is, and in nobody's way.

use std::io;

use blat_domain::package::name::PackageId;

use crate::archive::dir::Dir;
use crate::archive::locks;
use crate::archive::tree::{self, Stuck, shortened};
use crate::archive::{Archive, Rooms};

/// The most that one answer names.
const MOST: usize = 20;
/// Names that are tried for what is moved out of the way.
const TRIES: u32 = 64;

/// Lines for an answer: `leftover PATH [user=NUMBER] TEXT`.
#[derive(Debug, Default)]
pub(crate) struct Leftovers(pub(crate) Vec<String>);

impl Leftovers {
    /// Notes what cannot be removed, by its path below the archive. Whether it could.
    pub(crate) fn note(&mut self, removed: Result<(), Stuck>) -> bool {
        let Err(Stuck { path, why, owner }) = removed else { return true };
        if self.0.len() < MOST {
            let path =
                shortened(&path).iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' });
            let path: String = path.collect();
            let owner = owner.map(|owner| format!("user={owner} ")).unwrap_or_default();
            self.0
                .push(format!("leftover {path} {owner}removing it failed: {why}; remove it as its owner or as root\n"));
        }
        false
    }
}

/// Removes what is in the way of a new stage. What cannot be removed gets another name beside it, which sweeps know as that of a dead one's stage:
/// they try again, and name it.
pub(crate) fn clear(stages: &Dir, name: &str) -> Result<(), Stuck> {
    let Err(stuck) = tree::remove(stages, name) else { return Ok(()) };
    for number in 1..=TRIES {
        match stages.rename_new(name, stages, &format!("stuck-{}-{number}", std::process::id())) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => break,
        }
    }
    Err(stuck)
}

/// Where a package waits beside its place while a stage of this id is published, and the one that it replaces where they cannot be exchanged.
pub(crate) fn hidden(package: &PackageId, id: &str) -> (String, String) {
    let hidden = format!(".{}.{id}", package.version);
    let old = format!("{hidden}.old");
    (hidden, old)
}

/// Removes what a process that died while it published left beside the place, and puts back what it had taken out of it.
pub(crate) fn clear_hidden(archive: &Archive, rooms: &Rooms, package: &PackageId, id: &str) -> Result<(), Stuck> {
    let PackageId { name, version } = package;
    let at_name = |why: io::Error| Stuck::at(name.as_str(), why);
    let Some(of_name) = archive.root.open_if_there(name.as_str()).map_err(at_name)? else { return Ok(()) };
    let (hidden, old) = hidden(package, id);
    if of_name.stat(old.as_str()).map_err(at_name)?.is_some() {
        let put_back = || match of_name.stat(version.as_str()).map_err(at_name)? {
            Some(_) => tree::remove(&of_name, &old).map_err(|stuck| stuck.below(name.as_str())),
            None => of_name.rename(old.as_str(), &of_name, version.as_str()).map_err(at_name),
        };
        locks::publishing(archive, rooms, put_back).map_err(|failure| at_name(io::Error::other(failure)))??;
    }
    if of_name.stat(hidden.as_str()).map_err(at_name)?.is_some() {
        tree::remove(&of_name, &hidden).map_err(|stuck| stuck.below(name.as_str()))?;
        // Where it was to be the first of its name, nothing of the name stays. Only then: others may be about to publish into it.
        archive.root.remove_empty(name.as_str());
    }
    Ok(())
}
