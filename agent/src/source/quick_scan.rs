//! The times of many packages' `descpkg` at one quick_scan: a name's versions by one listing, and several names at once.

use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::thread;

use blat_domain::package::DESCPKG;
use blat_domain::package::name::PackageId;
use blat_domain::policy::release::WantedSet;
use blat_packing::walker::Archive;
use rustix::fs::{AtFlags, Dir, FileType, StatxFlags, statx};
use rustix::io::Result;

/// Names that are looked at at once: a disk that has to be read answers several questions in the time of one.
const AT_ONCE: usize = 4;

/// The time of each wanted package's `descpkg`, in whole epoch seconds, in the order of what is wanted. None wherever a quick_scan does not tell:
/// whatever is not simply a directory with a regular file `descpkg` takes a closer look.
///
/// A version that is exchanged for a link meanwhile may get the time of what that addresses: it is compared with the target's and goes nowhere.
pub(super) fn times(archive: &Archive, wanted: &WantedSet) -> Vec<Option<i64>> {
    let packages: Vec<&PackageId> = wanted.keys().collect();
    let names: Vec<&[&PackageId]> = packages.chunk_by(|one, other| one.name == other.name).collect();
    let looks = names.chunks(names.len().div_ceil(AT_ONCE).max(1));
    let of_names =
        |names: &[&[&PackageId]]| names.iter().flat_map(|versions| of_name(archive, versions)).collect::<Vec<_>>();
    thread::scope(|scope| {
        let looks: Vec<_> =
            looks.map(|names| (names, thread::Builder::new().spawn_scoped(scope, move || of_names(names)))).collect();
        let times = looks.into_iter().flat_map(|(names, look)| match look {
            Ok(look) => look.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // Where there are no more threads, it takes longer.
            Err(_) => of_names(names),
        });
        times.collect()
    })
}

/// The same for versions of one name, which are in their order.
fn of_name(archive: &Archive, versions: &[&PackageId]) -> Vec<Option<i64>> {
    let mut times = vec![None; versions.len()];
    if let Some(first) = versions.first() {
        // Whatever cannot be read takes a closer look, which says why.
        if let Ok(Some(folder)) = archive.versions(first.name.as_str()) {
            let _ = look(&folder, versions, &mut times);
        }
    }
    times
}

/// Goes by what the listing itself calls directories: a link to a version is another matter.
fn look(folder: &OwnedFd, versions: &[&PackageId], times: &mut [Option<i64>]) -> Result<()> {
    let mut path = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let place = versions.binary_search_by(|package| package.version.as_str().as_bytes().cmp(name));
        if let (FileType::Directory, Ok(place)) = (entry.file_type(), place) {
            path.clear();
            path.extend_from_slice(name);
            path.push(b'/');
            path.extend_from_slice(DESCPKG.as_bytes());
            times[place] = time(folder, path.as_slice());
        }
    }
    Ok(())
}

fn time(folder: &OwnedFd, descpkg: &[u8]) -> Option<i64> {
    let wanted = StatxFlags::TYPE | StatxFlags::MTIME;
    let found = statx(folder, descpkg, AtFlags::SYMLINK_NOFOLLOW, wanted).ok()?;
    (FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile).then_some(found.stx_mtime.tv_sec)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_glance_tells_the_times_of_plain_packages_and_nothing_of_all_else() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let root = scratch.path();
        let package = |id: &str, time: u64| {
            let folder = root.join(id.replace('@', "/"));
            fs::create_dir_all(&folder).expect("a package directory");
            let descpkg = File::create(folder.join(DESCPKG)).expect("a descpkg");
            descpkg.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(time * 1000 + 999)).expect("a time");
        };
        for number in 0..20 {
            package(&format!("p{}@{number}", number % 7), number);
        }
        symlink("2", root.join("p2/link")).expect("a link");
        fs::create_dir(root.join("p2/empty")).expect("a directory");
        fs::create_dir_all(root.join("p2/odd/descpkg")).expect("a directory");
        fs::create_dir(root.join("p2/led")).expect("a directory");
        symlink("../2/descpkg", root.join("p2/led/descpkg")).expect("a link");
        fs::write(root.join("p2/file"), "").expect("a file");

        let numbered = (0..20).map(|number| (format!("p{}@{number}", number % 7), Some(number)));
        symlink("p2", root.join("alias")).expect("a link");
        let others = ["alias@2", "p2@link", "p2@empty", "p2@odd", "p2@led", "p2@file", "p2@gone", "none@1"];
        let expected: std::collections::BTreeMap<PackageId, Option<i64>> = numbered
            .chain(others.map(|id| (id.to_owned(), None)))
            .map(|(id, time)| (id.parse().expect("a package"), time))
            .collect();
        let archive = Archive::open(root).expect("an archive");
        for count in 0..=expected.len() {
            let wanted: WantedSet = expected.keys().take(count).map(|id| (id.clone(), Default::default())).collect();
            assert_eq!(times(&archive, &wanted), expected.values().take(count).copied().collect::<Vec<_>>());
        }
    }
}
