//! What is remembered of a bucket's objects, since a listing tells neither the time of a package nor whose an object is.
//!
//! An entry counts only where the listing shows the same entity tag and size. What is lost or damaged is asked for again, object by object;
//! it never looks like an object that is gone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_domain::name::{PackageId, PackageName, Version};
use blat_domain::ownership::Record;

use super::card::Card;

/// The file's name in the target's part of `state/`.
pub(super) const FILE: &str = "bucket.txt";
/// Its first line, before the bucket's place.
const TITLE: &str = "# blat bucket 1 ";

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A package, with the time of its `descpkg`.
    Package { time: i64 },
    /// A version that is a link, with the time of the package that it was a copy of.
    Link { time: i64, to: Version },
    /// Nothing of ours, though its key could be.
    Foreign,
}

impl What {
    /// By an object's card.
    pub(super) fn of(card: Option<&Card>) -> Self {
        match card {
            Some(Card { time, link: Some(to), .. }) => Self::Link { time: *time, to: to.clone() },
            Some(Card { time, link: None, .. }) => Self::Package { time: *time },
            None => Self::Foreign,
        }
    }
}

/// An object under the tag and the size that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) etag: String,
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

/// The record of whose archive it is, under the tag and the size that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) etag: String,
    pub(super) size: u64,
    pub(super) record: Record,
}

/// Memory and file.
#[derive(Debug)]
pub(super) struct Known {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the bucket is: what is known of another one does not count.
    place: String,
    entries: BTreeMap<PackageId, Entry>,
    list: Option<List>,
    record: Option<Owned>,
    is_changed: bool,
}

impl Known {
    /// What the file at `path` has, once it is asked for.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Reads the file, unless that was done before for this place.
    pub(super) fn load(&self, place: &str) {
        let mut state = self.lock();
        if state.place != place {
            *state = fs::read_to_string(&self.path).ok().and_then(|text| read(&text, place)).unwrap_or_default();
            place.clone_into(&mut state.place);
        }
    }

    /// What is known of an object that has this tag and size.
    pub(super) fn get(&self, package: &PackageId, etag: &str, size: u64) -> Option<What> {
        let state = self.lock();
        let entry = state.entries.get(package).filter(|entry| entry.etag == etag && entry.size == size)?;
        Some(entry.what.clone())
    }

    /// What is known of the object in a package's place, as it was last listed or put there.
    pub(super) fn entry(&self, package: &PackageId) -> Option<Entry> {
        self.lock().entries.get(package).cloned()
    }

    /// Whether the object in a package's place was somebody else's when it was last looked at.
    pub(super) fn is_foreign(&self, package: &PackageId) -> bool {
        self.lock().entries.get(package).is_some_and(|entry| entry.what == What::Foreign)
    }

    /// Everything that is remembered.
    pub(super) fn packages(&self) -> Vec<PackageId> {
        self.lock().entries.keys().cloned().collect()
    }

    /// The versions of a package that are links, with what each addresses.
    pub(super) fn links(&self, name: &PackageName) -> Vec<(Version, Version)> {
        let state = self.lock();
        let link = |(package, entry): (&PackageId, &Entry)| match &entry.what {
            What::Link { to, .. } if package.name == *name => Some((package.version.clone(), to.clone())),
            What::Link { .. } | What::Package { .. } | What::Foreign => None,
        };
        state.entries.iter().filter_map(link).collect()
    }

    /// An object was looked at, or put there.
    pub(super) fn note(&self, package: &PackageId, entry: Entry) {
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

    /// A PackageList was put there.
    pub(super) fn note_list(&self, list: List) {
        let mut state = self.lock();
        state.list = Some(list);
        state.is_changed = true;
    }

    /// The record that was there last.
    pub(super) fn record(&self) -> Option<Owned> {
        self.lock().record.clone()
    }

    /// The record was looked at. A tag that cannot be told from the words beside it is not remembered.
    pub(super) fn note_record(&self, record: Owned) {
        let mut state = self.lock();
        let is_plain = !record.etag.is_empty() && record.etag.bytes().all(|byte| byte.is_ascii_graphic());
        if is_plain && state.record.as_ref() != Some(&record) {
            state.record = Some(record);
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
        if let Err(error) = store(&self.path, &written(&state)) {
            let file = self.path.display();
            tracing::warn!(%file, %error, "cannot note down what is in the bucket; it will be asked for again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn store(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&aside, text)?;
    fs::rename(&aside, path)
}

fn written(state: &State) -> String {
    let mut text = format!("{TITLE}{}\n", state.place);
    let mut lines = 0u64;
    // Writing to a String cannot fail.
    for (PackageId { name, version }, Entry { etag, size, what }) in &state.entries {
        let _ = match what {
            What::Package { time } => writeln!(text, "package {name} {version} {size} {etag} {time}"),
            What::Link { time, to } => writeln!(text, "link {name} {version} {size} {etag} {time} {to}"),
            What::Foreign => writeln!(text, "foreign {name} {version} {size} {etag}"),
        };
        lines += 1;
    }
    if let Some(List { etag, size, digest }) = &state.list {
        let _ = writeln!(text, "list {size} {etag} {digest}");
        lines += 1;
    }
    if let Some(Owned { etag, size, record: Record { archive, owner } }) = &state.record {
        let _ = writeln!(text, "record {size} {etag} {archive} {owner}");
        lines += 1;
    }
    let _ = writeln!(text, "# end {lines}");
    text
}

/// All of it or nothing.
fn read(text: &str, place: &str) -> Option<State> {
    let mut lines = text.lines();
    if lines.next()?.strip_prefix(TITLE)? != place {
        return None;
    }
    let (mut state, mut count) = (State::default(), 0u64);
    for line in lines.by_ref() {
        if let Some(end) = line.strip_prefix("# end ") {
            return (end.parse() == Ok(count)).then_some(state);
        }
        count += 1;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["list", size, etag, digest] => {
                state.list = Some(List { etag: etag.to_owned(), size: size.parse().ok()?, digest: digest.to_owned() });
            }
            ["record", size, etag, archive, home, target] => {
                let record = Record::parse(&format!("{archive} {home} {target}"))?;
                state.record = Some(Owned { etag: etag.to_owned(), size: size.parse().ok()?, record });
            }
            [kind, name, version, size, etag, ref rest @ ..] => {
                let what = match (kind, rest) {
                    ("package", [time]) => What::Package { time: time.parse().ok()? },
                    ("link", [time, to]) => What::Link { time: time.parse().ok()?, to: to.parse().ok()? },
                    ("foreign", []) => What::Foreign,
                    _ => return None,
                };
                let package = PackageId::new(name, version).ok()?;
                let neighbour = state.entries.last_key_value().map(|(neighbour, _)| neighbour);
                let entry = Entry { etag: etag.to_owned(), size: size.parse().ok()?, what };
                state.entries.insert(package.beside(neighbour), entry);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PackageId {
        text.parse().expect("a package")
    }

    fn filled(path: &Path) -> Known {
        let known = Known::at(path.to_owned());
        known.load("http://h/b/p");
        let entry = |what| Entry { etag: "e-1".into(), size: 5, what };
        known.note(&id("core@1"), entry(What::Package { time: -3 }));
        known.note(&id("core@current"), entry(What::Link { time: -3, to: "1".parse().expect("a version") }));
        known.note(&id("odd@1"), entry(What::Foreign));
        known.note_list(List { etag: "l".into(), size: 9, digest: "ab".into() });
        known.save();
        known
    }

    #[test]
    fn what_was_noted_outlives_the_process_and_counts_under_its_tag_and_size_only() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("perth/bucket.txt");
        filled(&path);
        let known = Known::at(path.clone());
        known.load("http://h/b/p");
        assert_eq!(known.get(&id("core@1"), "e-1", 5), Some(What::Package { time: -3 }));
        assert!(matches!(known.get(&id("core@current"), "e-1", 5), Some(What::Link { .. })));
        assert!(known.is_foreign(&id("odd@1")) && known.list().is_some());
        assert_eq!(known.get(&id("core@1"), "e-2", 5), None, "it was replaced");
        assert_eq!(known.get(&id("core@1"), "e-1", 6), None);
        known.keep(|package| *package == id("core@1"));
        known.save();
        let again = Known::at(path.clone());
        again.load("http://h/b/p");
        assert!(!again.is_foreign(&id("odd@1")) && again.get(&id("core@1"), "e-1", 5).is_some());
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
            assert!(read(&text[..end], "http://h/b/p").is_none(), "cut after {end}");
        }
        for (from, to) in [("core 1", "../x 1"), ("-3", "soon"), ("link", "lynk"), (" 5 ", " ")] {
            assert!(read(&text.replace(from, to), "http://h/b/p").is_none(), "{from} became {to}");
        }
    }
}
