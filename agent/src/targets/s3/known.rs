//! What is remembered of a bucket's objects, since a listing tells neither the time of a package nor whose an object is.
//!
//! An entry counts only where the listing shows the same entity tag and size. What is lost or damaged is asked for again, object by object;
//! it never looks like an object that is gone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_config::replacement::{Outlives, replace};
use blat_domain::archive::record::Record;
use blat_domain::package::name::{PackageId, PackageName, Version};
use blat_domain::util::text::hex;
use sha2::{Digest as _, Sha256};

use super::LONGEST_ETAG;
use super::wire::unhex;
use crate::targets::s3::object_metadata::ObjectMetadata;

/// The file's name in the target's part of `state/`.
pub(super) const FILE: &str = "bucket.txt";
/// Its first line, before the bucket's place.
const TITLE: &str = "# blat bucket 2 ";
/// That of a file whose objects have their tags as the server gave them.
const FORMER: &str = "# blat bucket 1 ";

/// What stands for an entity tag: it is short, whatever the server takes for one. The beginning of its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EtagDigest([u8; 16]);

impl EtagDigest {
    /// That of an entity tag without its quotes.
    pub(super) fn of(etag: &str) -> Self {
        let mut tag = [0; 16];
        tag.iter_mut().zip(Sha256::digest(etag)).for_each(|(to, from)| *to = from);
        Self(tag)
    }

    fn parse(text: &str) -> Option<Self> {
        Some(Self(unhex(text.as_bytes())?.try_into().ok()?))
    }
}

impl fmt::Display for EtagDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A package, with the time of its `descpkg`.
    Package { time: i64 },
    /// A version that is a link, with the time of the package that it was a copy of.
    Link { time: i64, to: Version },
    /// Nothing of ours, though its key could be.
    Foreign,
    /// One of ours that is not as long as what was sent: it counts as not there.
    Damaged,
}

impl What {
    /// By an object's card.
    pub(super) fn of(card: Option<&ObjectMetadata>) -> Self {
        match card {
            Some(ObjectMetadata { time, link: Some(to), .. }) => Self::Link { time: *time, to: to.clone() },
            Some(ObjectMetadata { time, link: None, .. }) => Self::Package { time: *time },
            None => Self::Foreign,
        }
    }
}

/// An object under the tag and the size that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownObject {
    pub(super) tag: EtagDigest,
    pub(super) size: u64,
    pub(super) what: What,
}

/// The PackageList as it was put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    pub(super) etag: String,
    pub(super) size: u64,
    /// SHA-256 of it, in hexadecimal digits.
    pub(super) digest: String,
}

/// The record of whose archive it is, or the last visit, under the tag and the size that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) etag: String,
    pub(super) size: u64,
    pub(super) record: Record,
}

/// Memory and file.
#[derive(Debug)]
pub(super) struct BucketMemory {
    path: PathBuf,
    state: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// Where the bucket is: what is known of another one does not count.
    place: String,
    entries: BTreeMap<PackageId, KnownObject>,
    list: Option<List>,
    record: Option<Owned>,
    visit: Option<Owned>,
    is_changed: bool,
}

impl BucketMemory {
    /// What the file at `path` has, once it is asked for.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Reads the file, unless that was done before for this place.
    pub(super) fn load(&self, place: &str) {
        let mut state = self.lock();
        if state.place != place {
            let file = File::open(&self.path).ok();
            *state = file.and_then(|file| read(BufReader::new(file), place)).unwrap_or_default();
            place.clone_into(&mut state.place);
        }
    }

    /// What is known of an object that has this tag and size.
    pub(super) fn get(&self, package: &PackageId, etag: &str, size: u64) -> Option<What> {
        let state = self.lock();
        let entry =
            state.entries.get(package).filter(|entry| entry.size == size && entry.tag == EtagDigest::of(etag))?;
        Some(entry.what.clone())
    }

    /// What is known of the object in a package's place, as it was last listed or put there.
    pub(super) fn entry(&self, package: &PackageId) -> Option<KnownObject> {
        self.lock().entries.get(package).cloned()
    }

    /// Everything that is remembered.
    pub(super) fn packages(&self) -> Vec<PackageId> {
        self.lock().entries.keys().cloned().collect()
    }

    /// The versions of a package that are links, with what each addresses.
    pub(super) fn links(&self, name: &PackageName) -> Vec<(Version, Version)> {
        let state = self.lock();
        let link = |(package, entry): (&PackageId, &KnownObject)| match &entry.what {
            What::Link { to, .. } if package.name == *name => Some((package.version.clone(), to.clone())),
            What::Link { .. } | What::Package { .. } | What::Foreign | What::Damaged => None,
        };
        state.entries.iter().filter_map(link).collect()
    }

    /// An object was looked at, or put there.
    pub(super) fn note(&self, package: &PackageId, entry: KnownObject) {
        let mut state = self.lock();
        let neighbour = state.entries.range(..package).next_back().map(|(neighbour, _)| neighbour);
        let key = package.clone().beside(neighbour);
        state.is_changed |= state.entries.get(package) != Some(&entry);
        state.entries.insert(key, entry);
    }

    /// Only what is still there is worth remembering.
    pub(super) fn keep(&self, is_there: impl Fn(&PackageId) -> bool) {
        let mut state = self.lock();
        let before = state.entries.len();
        state.entries.retain(|package, _| is_there(package));
        state.is_changed |= state.entries.len() != before;
    }

    /// The PackageList that was put there last.
    pub(super) fn list(&self) -> Option<List> {
        self.lock().list.clone()
    }

    /// A PackageList was put there. One is not remembered whose tag is long or cannot be told from the words beside it.
    pub(super) fn note_list(&self, list: List) {
        let mut state = self.lock();
        state.list = Some(list).filter(|list| list.etag.is_empty() || is_plain(&list.etag));
        state.is_changed = true;
    }

    /// The record that was there last.
    pub(super) fn record(&self) -> Option<Owned> {
        self.lock().record.clone()
    }

    /// The record was looked at. It is remembered as the PackageList is.
    pub(super) fn note_record(&self, record: Owned) {
        let mut state = self.lock();
        if is_plain(&record.etag) && state.record.as_ref() != Some(&record) {
            state.record = Some(record);
            state.is_changed = true;
        }
    }

    /// The last visit that was there.
    pub(super) fn visit(&self) -> Option<Owned> {
        self.lock().visit.clone()
    }

    /// The last visit was looked at. It is remembered as the record is.
    pub(super) fn note_visit(&self, visit: Owned) {
        let mut state = self.lock();
        if is_plain(&visit.etag) && state.visit.as_ref() != Some(&visit) {
            state.visit = Some(visit);
            state.is_changed = true;
        }
    }

    /// Writes the file where something changed. Failing costs time later, and nothing else.
    pub(super) fn save(&self) {
        let mut state = self.lock();
        if !state.is_changed {
            return;
        }
        state.is_changed = false;
        if let Err(error) = store(&self.path, &state) {
            let file = self.path.display();
            tracing::warn!(%file, %error, "cannot note down what is in the bucket; it will be asked for again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Each change is whole in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a tag is short, and can be told from the words beside it.
fn is_plain(etag: &str) -> bool {
    (1..=LONGEST_ETAG).contains(&etag.len()) && etag.bytes().all(|byte| byte.is_ascii_graphic())
}

fn store(path: &Path, state: &Remembered) -> io::Result<()> {
    replace(path, Outlives::Process, |file| {
        let mut file = BufWriter::new(file);
        write(&mut file, state)?;
        file.flush()
    })
}

fn write(file: &mut impl Write, state: &Remembered) -> io::Result<()> {
    writeln!(file, "{TITLE}{}", state.place)?;
    let mut lines = 0u64;
    for (PackageId { name, version }, KnownObject { tag, size, what }) in &state.entries {
        match what {
            What::Package { time } => writeln!(file, "package {name} {version} {size} {tag} {time}"),
            What::Link { time, to } => writeln!(file, "link {name} {version} {size} {tag} {time} {to}"),
            What::Foreign => writeln!(file, "foreign {name} {version} {size} {tag}"),
            What::Damaged => writeln!(file, "damaged {name} {version} {size} {tag}"),
        }?;
        lines += 1;
    }
    if let Some(List { etag, size, digest }) = &state.list {
        writeln!(file, "list {size} {etag} {digest}")?;
        lines += 1;
    }
    for (word, owned) in [("record", &state.record), ("visit", &state.visit)] {
        if let Some(Owned { etag, size, record: Record { archive, owner } }) = owned {
            writeln!(file, "{word} {size} {etag} {archive} {owner}")?;
            lines += 1;
        }
    }
    writeln!(file, "# end {lines}")
}

/// All of it or nothing.
fn read(from: impl BufRead, place: &str) -> Option<Remembered> {
    let mut lines = from.lines();
    let title = lines.next()?.ok()?;
    let of_former = || title.strip_prefix(FORMER);
    let is_former = of_former().is_some();
    if title.strip_prefix(TITLE).or_else(of_former)? != place {
        return None;
    }
    let tag_of = |text: &str| if is_former { Some(EtagDigest::of(text)) } else { EtagDigest::parse(text) };
    let (mut state, mut count) = (Remembered::default(), 0u64);
    for line in lines {
        let line = line.ok()?;
        if let Some(end) = line.strip_prefix("# end ") {
            return (end.parse() == Ok(count)).then_some(state);
        }
        count += 1;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["list", size, etag, digest] => {
                state.list = Some(List { etag: etag.to_owned(), size: size.parse().ok()?, digest: digest.to_owned() });
            }
            [word @ ("record" | "visit"), size, etag, archive, home, target] => {
                let record = Record::parse(&format!("{archive} {home} {target}"))?;
                let owned = Some(Owned { etag: etag.to_owned(), size: size.parse().ok()?, record });
                *(if word == "record" { &mut state.record } else { &mut state.visit }) = owned;
            }
            [kind, name, version, size, tag, ref rest @ ..] => {
                let what = match (kind, rest) {
                    ("package", [time]) => What::Package { time: time.parse().ok()? },
                    ("link", [time, to]) => What::Link { time: time.parse().ok()?, to: to.parse().ok()? },
                    ("foreign", []) => What::Foreign,
                    ("damaged", []) => What::Damaged,
                    _ => return None,
                };
                let package = PackageId::new(name, version).ok()?;
                let neighbour = state.entries.last_key_value().map(|(neighbour, _)| neighbour);
                let entry = KnownObject { tag: tag_of(tag)?, size: size.parse().ok()?, what };
                state.entries.insert(package.beside(neighbour), entry);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn id(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    fn filled(path: &Path) -> BucketMemory {
        let known = BucketMemory::at(path.to_owned());
        known.load("http://h/b/p");
        let entry = |what| KnownObject { tag: EtagDigest::of("e-1"), size: 5, what };
        known.note(&id("core@1"), entry(What::Package { time: -3 }));
        known.note(&id("core@current"), entry(What::Link { time: -3, to: "1".parse().expect("a version") }));
        known.note(&id("odd@1"), entry(What::Foreign));
        known.note(&id("odd@2"), entry(What::Damaged));
        known.note_list(List { etag: "l".into(), size: 9, digest: "ab".into() });
        known.save();
        known
    }

    #[test]
    fn what_was_noted_outlives_the_process_and_counts_under_its_tag_and_size_only() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("perth/bucket.txt");
        filled(&path);
        let known = BucketMemory::at(path.clone());
        known.load("http://h/b/p");
        assert_eq!(known.get(&id("core@1"), "e-1", 5), Some(What::Package { time: -3 }));
        assert!(matches!(known.get(&id("core@current"), "e-1", 5), Some(What::Link { .. })));
        assert_eq!(known.get(&id("odd@1"), "e-1", 5), Some(What::Foreign));
        assert_eq!(known.get(&id("odd@2"), "e-1", 5), Some(What::Damaged));
        assert!(known.list().is_some());
        assert_eq!(known.get(&id("core@1"), "e-2", 5), None, "it was replaced");
        assert_eq!(known.get(&id("core@1"), "e-1", 6), None);
        known.keep(|package| *package == id("core@1"));
        known.save();
        let again = BucketMemory::at(path.clone());
        again.load("http://h/b/p");
        assert!(again.entry(&id("odd@1")).is_none() && again.get(&id("core@1"), "e-1", 5).is_some());
        again.load("http://h/other/p");
        assert_eq!(again.get(&id("core@1"), "e-1", 5), None, "another bucket");
    }

    #[test]
    fn a_damaged_file_is_no_memory_wherever_it_is_damaged() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("bucket.txt");
        filled(&path);
        let text = fs::read_to_string(&path).expect("a file");
        for end in 0..text.len() - 1 {
            assert!(read(&text.as_bytes()[..end], "http://h/b/p").is_none(), "cut after {end}");
        }
        for (from, to) in [("core 1", "../x 1"), ("-3", "soon"), ("link", "lynk"), (" 5 ", " ")] {
            assert!(read(text.replace(from, to).as_bytes(), "http://h/b/p").is_none(), "{from} became {to}");
        }
    }

    #[test]
    fn a_tag_takes_as_much_whatever_its_length_and_a_file_of_an_earlier_build_is_read() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("bucket.txt");
        let long = "e".repeat(16 << 10);
        let known = BucketMemory::at(path.clone());
        known.load("here");
        known.note(&id("core@1"), KnownObject { tag: EtagDigest::of(&long), size: 5, what: What::Foreign });
        known.note_list(List { etag: long.clone(), size: 9, digest: "ab".into() });
        known.note_record(Owned { etag: long.clone(), size: 9, record: record() });
        known.save();
        assert!(fs::metadata(&path).expect("a file").len() < 200, "neither memory nor file has it");
        let again = BucketMemory::at(path.clone());
        again.load("here");
        assert_eq!(again.get(&id("core@1"), &long, 5), Some(What::Foreign));
        assert_eq!(again.get(&id("core@1"), &long[1..], 5), None);
        assert!(again.list().is_none() && again.record().is_none());

        fs::write(&path, "# blat bucket 1 here\npackage core 1 5 e-1 -3\nlist 9 l ab\n# end 2\n").expect("a file");
        let former = BucketMemory::at(path);
        former.load("here");
        assert_eq!(former.get(&id("core@1"), "e-1", 5), Some(What::Package { time: -3 }));
        assert!(former.list().is_some());
    }

    fn record() -> Record {
        let id = "ab".repeat(16);
        Record::parse(&format!("{id} {id} perth")).expect("a record")
    }
}
