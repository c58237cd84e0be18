//! The master's archive, read only: what a package's state is, how much it is, and its bytes as a stream.

pub(crate) mod quick_scan;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use blat_domain::archive::inventory::Inventory;
use blat_domain::package::DESCPKG;
use blat_domain::package::links::addressee;
use blat_domain::package::name::PackageId;
use blat_domain::policy::follow::{Followed, follow};
use blat_domain::policy::plan::{Blocker, Size, Source};
use blat_domain::policy::release::WantedSet;
use blat_domain::protocol::frames::Leaving;
use blat_domain::protocol::frames::Rule;
use blat_packing::item::{Fingerprint, TransferItem};
use blat_packing::tree::Digests;
use blat_packing::tree::{Links, Tree};
use blat_packing::walker::{Archive, FoundVersion, Root, SourceError, Stat};
use blat_paths::{Missing, way};
use rustix::fs::{Dir, DirEntry};

/// A version that is to leave a target, with what the source has of it now; or why nobody can say what it has.
type Compared = Result<Leaving, (PackageId, SourceError)>;

/// The package archive of this master.
#[derive(Debug, Clone)]
pub(crate) struct SourceArchive {
    root: Arc<Path>,
    /// How long a package may stay writable before it is taken for finished.
    patience: Duration,
    /// What the target makes of hard links.
    links: Links,
    /// What was measured once: packages are immutable, so it holds as long as the time of their `descpkg`.
    measured: Arc<Mutex<HashMap<PackageId, (i64, Size)>>>,
    /// Of packages that the last survey found lacking.
    prints: Arc<Mutex<HashMap<PackageId, Fingerprint>>>,
}

/// Why the archive as a whole cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the source archive {} cannot be read: {why}; is it mounted?", path.display())]
pub(crate) struct ArchiveError {
    path: PathBuf,
    why: String,
}

impl SourceArchive {
    /// The archive at `root`, where a package that is still writable waits for `patience`, for a target that makes this of hard links.
    pub(crate) fn new(root: PathBuf, patience: Duration, links: Links) -> Self {
        Self { root: root.into(), patience, links, measured: Arc::default(), prints: Arc::default() }
    }

    /// The same under other settings; what was measured is known still where the place is the same.
    pub(crate) fn with(&self, root: PathBuf, patience: Duration, links: Links) -> Self {
        if *root == *self.root && links == self.links {
            return Self { patience, ..self.clone() };
        }
        Self::new(root, patience, links)
    }

    /// An archive that is gone, or empty where something is wanted of it, must not be mistaken for one that lacks every package.
    pub(crate) fn check(&self, wanted: bool) -> Result<(), ArchiveError> {
        let fail = |why: String| ArchiveError { path: self.root.to_path_buf(), why };
        let opened = way::open(&self.root, Missing::Fail, "source").and_then(|archive| Ok(Dir::new(archive)?));
        let mut entries = opened.map_err(|error| fail(error.to_string()))?;
        let is_real = |entry: &rustix::io::Result<DirEntry>| {
            entry.as_ref().map_or(true, |entry| !matches!(entry.file_name().to_bytes(), b"." | b".."))
        };
        match entries.find(is_real) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(fail(error.to_string())),
            None if wanted => Err(fail("it is empty".into())),
            None => Ok(()),
        }
    }

    /// The times of what is wanted, as far as a quick scan tells; what the target has needs not be known for that.
    pub(crate) fn quick_scan(&self, wanted: &WantedSet) -> Vec<Option<i64>> {
        // An archive that cannot be opened takes a closer look, which says why.
        Archive::open(&self.root)
            .map_or_else(|_| Vec::new(), |archive| crate::source::quick_scan::times(&archive, wanted))
    }

    /// What is wanted, with all that its links address, as the source has it after a `quick_scan` at it. Only what the target lacks is
    /// measured: for the rest the quick scan is enough.
    pub(crate) fn survey(&self, wanted: WantedSet, quick_scan: &[Option<i64>], inventory: &Inventory) -> Followed {
        let now = SystemTime::now();
        self.prints().clear();
        let archive = Archive::open(&self.root);
        follow(wanted, quick_scan, inventory, |package| {
            self.look_in(&archive, package, inventory.packages.get(package).copied(), now)
        })
    }

    /// A package to be sent in the place of one that is there already, or why it cannot be.
    pub(crate) fn repair(&self, package: &PackageId) -> Result<TransferItem, String> {
        match self.look(package, None, SystemTime::now()) {
            Source::Ready { time, size } => Ok(TransferItem {
                package: package.clone(),
                archive: self.root.clone(),
                time,
                size,
                rule: Rule::Repair,
                tagged: None,
                print: self.print(package),
                orders: None,
            }),
            Source::Link { to } => Err(format!("at the source it is a link to {to}")),
            Source::Held(hold) => Err(hold.to_string()),
        }
    }

    /// The digests that a package would be sent with now, `by` the target's way; none where the source has not got it with the same time
    /// of `descpkg`. Reads all of it.
    pub(crate) fn digests(
        &self,
        package: &PackageId,
        time: i64,
        by: impl FnOnce(&Root) -> Result<Digests, String>,
    ) -> Option<Result<Digests, String>> {
        match self.look(package, Some(time), SystemTime::now()) {
            Source::Ready { time: here, .. } if here == time => {
                Some(Root::open(&self.root, package).map_err(|error| error.to_string()).and_then(|root| by(&root)))
            }
            Source::Ready { .. } | Source::Link { .. } | Source::Held(_) => None,
        }
    }

    /// Versions that are to leave a target, each with the files that the source has of it now; or why nobody can say what it has. Blocks.
    ///
    /// # Errors
    /// The source as a whole cannot be looked at.
    pub(crate) fn compare_with(&self, leaving: Vec<Leaving>) -> Result<Vec<Compared>, SourceError> {
        let archive = Archive::open(&self.root)?;
        let compare = |leaving: Leaving| match archive.identities(&leaving.package) {
            Ok(source) => Ok(Leaving { source, ..leaving }),
            Err(error) => Err((leaving.package, error)),
        };
        Ok(leaving.into_iter().map(compare).collect())
    }

    /// Bytes that the target's archive may still grow by; none where `max_size` is 0, which means no limit. A package that the target
    /// holds and the source does not is of unknown size and counts as nothing.
    pub(crate) fn left_below(&self, max_size: u64, inventory: &Inventory) -> Option<u64> {
        let held = || inventory.packages.iter().map(|(package, time)| self.known_size(package, *time).bytes);
        (max_size > 0).then(|| max_size.saturating_sub(held().fold(0, u64::saturating_add)))
    }

    fn known_size(&self, package: &PackageId, time: i64) -> Size {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, size)) = measured.get(package).filter(|(known, _)| *known == time) {
            return *size;
        }
        // What cannot be measured now is asked again next time.
        let tree = Root::open(&self.root, package).and_then(|root| Tree::look(&root));
        let Ok(tree) = tree else { return Size::default() };
        let size = tree.size_with(self.links);
        measured.insert(package.clone(), (time, size));
        size
    }

    /// What told a package from any other state of itself when the last survey found it lacking.
    pub(crate) fn print(&self, package: &PackageId) -> Option<Fingerprint> {
        self.prints().get(package).copied()
    }

    fn prints(&self) -> MutexGuard<'_, HashMap<PackageId, Fingerprint>> {
        // Each change is whole in itself.
        self.prints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The archive's directory.
    pub(crate) fn archive(&self) -> Arc<Path> {
        self.root.clone()
    }

    fn look(&self, package: &PackageId, on_target: Option<i64>, now: SystemTime) -> Source {
        self.look_in(&Archive::open(&self.root), package, on_target, now)
    }

    fn look_in(
        &self,
        archive: &Result<Archive, SourceError>,
        package: &PackageId,
        on_target: Option<i64>,
        now: SystemTime,
    ) -> Source {
        let found = match archive {
            Ok(archive) => archive.find(package),
            Err(error) => return Source::Held(Blocker::Unusable { why: error.to_string() }),
        };
        match found {
            Ok(FoundVersion::Missing) => Source::Held(Blocker::Missing),
            Ok(FoundVersion::Link(to)) => linked(package, &String::from_utf8_lossy(&to)),
            Ok(FoundVersion::Package(root)) => self
                .look_at(&root, package, on_target, now)
                .unwrap_or_else(|error| Source::Held(Blocker::Unusable { why: error.to_string() })),
            Err(error) => Source::Held(Blocker::Unusable { why: error.to_string() }),
        }
    }

    fn look_at(
        &self,
        root: &Root,
        package: &PackageId,
        on_target: Option<i64>,
        now: SystemTime,
    ) -> Result<Source, SourceError> {
        let Some(descpkg) = root.stat_of(DESCPKG)? else { return Ok(Source::Held(Blocker::Incomplete)) };
        if !descpkg.is_file() {
            let why = format!("{} is not a regular file", root.shown(DESCPKG.as_bytes()));
            return Ok(Source::Held(Blocker::Unusable { why }));
        }
        let (time, _) = descpkg.modified;
        if on_target == Some(time) {
            return Ok(Source::Ready { time, size: Size::default() });
        }
        if let Some(ready_in) = self.still_writable(root.stat(), &descpkg, now) {
            return Ok(Source::Held(Blocker::Writable { ready_in }));
        }
        let tree = Tree::look(root)?;
        self.prints().insert(package.clone(), tree.print);
        Ok(Source::Ready { time, size: tree.size_with(self.links) })
    }

    /// Seconds until a writable package is taken for finished; none when it is read-only or was left alone long enough.
    fn still_writable(&self, root: &Stat, descpkg: &Stat, now: SystemTime) -> Option<u64> {
        let writable = [root, descpkg].iter().any(|stat| stat.mode & 0o222 != 0);
        let (seconds, nanoseconds) = root.modified.max(descpkg.modified);
        // Before 1970 is long ago, whenever it was.
        let since_1970 = Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
        let newest = SystemTime::UNIX_EPOCH.checked_add(since_1970)?;
        // A time in the future counts as now: the wait starts over rather than lasting for ever.
        let left_alone = now.duration_since(newest).unwrap_or_default();
        (writable && left_alone < self.patience).then(|| (self.patience - left_alone).as_secs().max(1))
    }
}

/// A version that is a link, or why it is refused.
fn linked(package: &PackageId, to: &str) -> Source {
    match addressee(package, to) {
        Ok(to) => Source::Link { to },
        Err(why) => Source::Held(Blocker::BadLink { to: to.to_owned(), why }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    struct Scratch {
        directory: tempfile::TempDir,
    }

    impl Scratch {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().expect("a scratch directory") }
        }

        fn package(&self, id: &str) -> PackageId {
            let package: PackageId = id.parse().expect("a package");
            let path = self.directory.path().join(package.path());
            fs::create_dir_all(&path).expect("a package directory");
            fs::write(path.join(DESCPKG), "x").expect("a descpkg");
            package
        }

        fn look(&self, package: &PackageId, patience: u64) -> Source {
            let archive = SourceArchive::new(self.directory.path().into(), Duration::from_secs(patience), Links::Kept);
            archive.look(package, None, SystemTime::now())
        }
    }

    #[test]
    fn a_writable_package_waits_and_a_read_only_one_does_not() {
        let scratch = Scratch::new();
        let package = scratch.package("core@1");
        assert!(matches!(scratch.look(&package, 3600), Source::Held(Blocker::Writable { ready_in: 3500..=3600 })));
        assert!(matches!(scratch.look(&package, 0), Source::Ready { .. }));
        let path = scratch.directory.path().join("core/1");
        fs::set_permissions(path.join(DESCPKG), fs::Permissions::from_mode(0o444)).expect("chmod");
        assert!(
            matches!(scratch.look(&package, 3600), Source::Held(Blocker::Writable { .. })),
            "its directory is writable"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).expect("chmod");
        assert!(matches!(scratch.look(&package, 3600), Source::Ready { size: Size { bytes: 1, entries: 1 }, .. }));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    #[test]
    fn what_is_not_a_finished_package_is_held_with_its_reason() {
        let scratch = Scratch::new();
        let missing: PackageId = "none@1".parse().expect("a package");
        assert_eq!(scratch.look(&missing, 0), Source::Held(Blocker::Missing));

        let late = scratch.package("late@1");
        fs::remove_file(scratch.directory.path().join("late/1").join(DESCPKG)).expect("no descpkg");
        assert_eq!(scratch.look(&late, 0), Source::Held(Blocker::Incomplete));

        let odd = scratch.package("odd@1");
        let descpkg = scratch.directory.path().join("odd/1").join(DESCPKG);
        fs::remove_file(&descpkg).expect("no descpkg");
        symlink("/etc/passwd", &descpkg).expect("a link");
        let is_unusable = |found: Source| matches!(found, Source::Held(Blocker::Unusable { why }) if why.contains("not a regular file"));
        assert!(is_unusable(scratch.look(&odd, 0)), "a link");
        fs::remove_file(&descpkg).and_then(|()| fs::create_dir(&descpkg)).expect("a directory");
        assert!(is_unusable(scratch.look(&odd, 0)), "a directory");
    }

    #[test]
    fn a_link_to_another_version_is_one_and_any_other_link_is_refused() {
        let scratch = Scratch::new();
        scratch.package("core@1");
        let directory = scratch.directory.path().join("core");
        for (link, to) in [("current", "1"), ("away", "/srv/core/1"), ("foreign", "../tools/1"), ("out", "../..")] {
            symlink(to, directory.join(link)).expect("a link");
        }
        let look = |id: &str| scratch.look(&id.parse().expect("a package"), 0);
        assert_eq!(look("core@current"), Source::Link { to: "1".parse().expect("a version") });
        for link in ["core@away", "core@foreign", "core@out"] {
            assert!(matches!(look(link), Source::Held(Blocker::BadLink { .. })), "{link}");
        }
    }

    #[test]
    fn sockets_pipes_and_devices_are_refused() {
        let scratch = Scratch::new();
        let package = scratch.package("odd@1");
        let socket = scratch.directory.path().join("odd/1/socket");
        let _listener = std::os::unix::net::UnixListener::bind(socket).expect("a socket");
        assert!(
            matches!(scratch.look(&package, 0), Source::Held(Blocker::Unusable { why }) if why.contains("neither file"))
        );
    }

    #[test]
    fn a_package_with_an_archive_in_it_is_refused() {
        let scratch = Scratch::new();
        let package = scratch.package("odd@1");
        let below = |path: &str| scratch.directory.path().join("odd/1").join(path);
        for fine in ["x.dpkg_archive/archive", ".dpkg_archive/archives", "archive"] {
            fs::create_dir_all(below(fine).parent().expect("a folder")).expect("a folder");
            fs::write(below(fine), "").expect("a file");
        }
        assert!(matches!(scratch.look(&package, 0), Source::Ready { .. }));
        for record in [".dpkg_archive/archive", "deep/er/.dpkg_archive/archive"] {
            fs::create_dir_all(below(record)).expect("a folder");
            let held = scratch.look(&package, 0);
            assert!(
                matches!(&held, Source::Held(Blocker::Unusable { why }) if why.contains(record) && why.contains("remove the")),
                "{held:?}"
            );
            fs::remove_dir(below(record)).expect("a folder");
        }
    }

    #[test]
    fn what_was_measured_is_known_under_other_settings_of_the_same_place_only() {
        let scratch = Scratch::new();
        let package = scratch.package("core@1");
        let root = scratch.directory.path();
        let archive = SourceArchive::new(root.into(), Duration::ZERO, Links::Kept);
        let size = |archive: &SourceArchive| archive.known_size(&package, 1).bytes;
        assert_eq!(size(&archive), 1);
        fs::write(root.join("core/1/more"), "xx").expect("a file");
        let reloaded = archive.with(root.into(), Duration::from_secs(60), Links::Kept);
        assert_eq!((size(&reloaded), reloaded.patience), (1, Duration::from_secs(60)), "not measured again");
        let with = |archive: &SourceArchive, root: PathBuf| archive.with(root, Duration::ZERO, Links::Kept);
        assert_eq!(size(&with(&with(&archive, root.join(".")), root.join("other"))), 0);
    }

    #[test]
    fn an_empty_or_missing_archive_is_an_error() {
        let scratch = Scratch::new();
        let check = |path: PathBuf, wanted| SourceArchive::new(path, Duration::ZERO, Links::Kept).check(wanted);
        let here = || scratch.directory.path().to_owned();
        assert!(check(here(), true).is_err());
        assert!(check(here(), false).is_ok(), "a new site of which nothing is wanted yet");
        assert!(check(here().join("gone"), false).is_err());
        scratch.package("core@1");
        assert!(check(here(), true).is_ok());
    }
}
