//! The group of a package: the one that it would have, were it made in its place.

use std::io;

use blat_domain::package::name::PackageName;
use rustix::process::{Gid, getegid};

use crate::archive::dir::Dir;
use crate::archive::{Archive, tree};

/// Gives all of a staged package the group of its name's directory, or of the archive where the name is new, if that is setgid, and our own
/// otherwise. Where that group is refused, all of it gets our own; what a setgid stage gave it already is never refused.
pub(super) fn inherit(archive: &Archive, name: &PackageName, root: &Dir) -> io::Result<()> {
    let of_name = archive.root.open_if_there(name.as_str())?;
    let place = of_name.as_ref().unwrap_or(&archive.root).own_stat()?;
    let own = getegid();
    let wanted = if place.st_mode & 0o2000 == 0 { own } else { Gid::from_raw(place.st_gid) };
    if wanted == own && root.own_stat()?.st_gid == own.as_raw() {
        return Ok(());
    }
    give(root, wanted).or_else(|_| give(root, own))
}

fn give(root: &Dir, group: Gid) -> io::Result<()> {
    root.set_group(group)?;
    tree::walk(root, &mut |dir, name, _| dir.set_group_of(name, group))
}
