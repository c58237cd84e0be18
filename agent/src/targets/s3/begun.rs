//! Uploads in parts that this agent began, noted down before their first part: so the next one gives up what a dead one left, and nobody
//! else's. One whose number never came is not known by its key: whoever else sends to that key would lose what he sent. It has no parts, so it
//! takes no space, and the bucket's lifecycle rule removes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blat_config::replacement::{Outlives, replace};

use super::listing::Upload;

/// Where the notes are, below `state/`.
pub(super) const FILE: &str = "uploads.txt";
/// Their first line begins so, and ends with the bucket's place.
const TITLE: &str = "# blat uploads 1 ";
/// The longest number of an upload, in bytes: servers need some hundred.
const LONGEST_ID: usize = 2 << 10;
/// The most uploads that are noted down. Of more, the bucket's lifecycle rule removes the parts of the oldest.
const MOST: usize = 1000;
/// The largest file that is read, in bytes: [`MOST`] uploads with the longest keys and numbers take less.
const LARGEST: u64 = 4 << 20;

/// Whether a server may name an upload so: the number is short, and plain enough to be noted down and to become part of a URL.
pub(super) fn is_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The notes, in memory and in a file.
#[derive(Debug)]
pub(super) struct BegunUploads {
    path: PathBuf,
    state: Mutex<UploadNotes>,
}

#[derive(Debug, Default)]
struct UploadNotes {
    place: String,
    /// Keys with the number that the server gave the upload. Each with its turn.
    uploads: BTreeMap<(String, String), u64>,
    turn: u64,
}

impl BegunUploads {
    /// What the file at `path` has, once [`BegunUploads::load`] is called.
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Reads the file, unless that was done before for this place. What was begun in another bucket does not count.
    pub(super) fn load(&self, place: &str) {
        let mut state = self.lock();
        if state.place != place {
            *state = UploadNotes { place: place.to_owned(), ..UploadNotes::default() };
            let text = read(&self.path);
            let mut lines = text.lines();
            if lines.next().and_then(|title| title.strip_prefix(TITLE)) == Some(place) {
                for line in lines {
                    if let Some((key, id)) = line.split_once('\t').filter(|(_, id)| is_id(id)) {
                        state.note(key, id);
                    }
                }
            }
        }
    }

    /// An upload to this key has begun, with this number.
    pub(super) fn has_begun(&self, key: &str, id: &str) {
        self.change(|state| state.note(key, id));
    }

    /// It is finished or given up.
    pub(super) fn ended(&self, key: &str, id: &str) {
        self.change(|state| {
            state.uploads.remove(&(key.to_owned(), id.to_owned()));
        });
    }

    /// Whether an upload that the server lists was begun here.
    pub(super) fn is_ours(&self, upload: &Upload) -> bool {
        self.lock().uploads.contains_key(&(upload.key.clone(), upload.id.clone()))
    }

    /// The turn of the last note.
    pub(super) fn turn(&self) -> u64 {
        self.lock().turn
    }

    /// All notes up to this turn are dealt with, but for those of uploads under way.
    pub(super) fn forget(&self, turn: u64, is_under_way: impl Fn(&str) -> bool) {
        self.change(|state| {
            state.uploads.retain(|(_, id), noted| *noted > turn || is_under_way(id));
        });
    }

    fn change(&self, change: impl FnOnce(&mut UploadNotes)) {
        let mut state = self.lock();
        let before = state.uploads.clone();
        change(&mut state);
        if state.uploads == before {
            return;
        }
        if let Err(error) = store(&self.path, &state) {
            let file = self.path.display();
            tracing::warn!(%file, %error, "cannot note down an upload; if this agent dies now, the bucket's lifecycle rule has to remove its parts");
        }
    }

    fn lock(&self) -> MutexGuard<'_, UploadNotes> {
        // Each change is whole in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UploadNotes {
    fn note(&mut self, key: &str, id: &str) {
        self.turn += 1;
        self.uploads.insert((key.to_owned(), id.to_owned()), self.turn);
        if self.uploads.len() > MOST {
            let oldest = self.uploads.iter().min_by_key(|(_, noted)| **noted).map(|(upload, _)| upload.clone());
            oldest.map(|oldest| self.uploads.remove(&oldest));
        }
    }
}

/// The notes that are there; nothing where they cannot be read or are larger than any that are written.
fn read(path: &Path) -> String {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    let text = read().unwrap_or_default();
    if text.len() as u64 > LARGEST {
        let file = path.display();
        tracing::warn!(%file, "the notes of unfinished uploads are larger than any that are written, so they do not count; the bucket's lifecycle rule has to remove the parts of those uploads");
        return String::new();
    }
    text
}

fn store(path: &Path, state: &UploadNotes) -> io::Result<()> {
    let mut text = format!("{TITLE}{}\n", state.place);
    for (key, id) in state.uploads.keys() {
        text.push_str(&format!("{key}\t{id}\n"));
    }
    replace(path, Outlives::PowerCut, |file| file.write_all(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_next_agent_knows_what_this_one_began_and_nothing_else_is_ours() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let open = |place: &str| {
            let begun = BegunUploads::at(scratch.path().join("state").join(FILE));
            begun.load(place);
            begun
        };
        let upload = |key: &str, id: &str| Upload { key: key.into(), id: id.into() };
        let begun = open("here");
        [("p/a/1.zip", "1"), ("p/b/1.zip", "2")].iter().for_each(|(key, id)| begun.has_begun(key, id));
        // As an earlier build noted down one whose number had not come.
        let file = scratch.path().join("state").join(FILE);
        let text = fs::read_to_string(&file).expect("the notes") + "p/c/1.zip\t\n";
        fs::write(&file, text).expect("the notes");
        let next = open("here");
        for begun in [&begun, &next] {
            assert!(begun.is_ours(&upload("p/a/1.zip", "1")) && !begun.is_ours(&upload("p/a/1.zip", "2")));
            assert!(!begun.is_ours(&upload("p/c/1.zip", "7")), "it may be anybody's");
        }
        assert!(!open("elsewhere").is_ours(&upload("p/a/1.zip", "1")));
        let turn = next.turn();
        next.has_begun("p/d/1.zip", "9");
        next.forget(turn, |id| id == "1");
        assert!(next.is_ours(&upload("p/a/1.zip", "1")) && next.is_ours(&upload("p/d/1.zip", "9")));
        assert!(!next.is_ours(&upload("p/b/1.zip", "2")));
        next.ended("p/a/1.zip", "1");
        assert!(!open("here").is_ours(&upload("p/a/1.zip", "1")));
    }

    #[test]
    fn notes_have_no_long_or_odd_numbers_and_neither_have_they_an_end() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join(FILE);
        let (long, longest) = ("x".repeat(LONGEST_ID + 1), "x".repeat(LONGEST_ID));
        fs::write(&path, format!("{TITLE}here\nk\t{long}\nk\t{longest}\nk\ta b\nk\tplain\n")).expect("the notes");
        let begun = BegunUploads::at(path.clone());
        begun.load("here");
        let ids: Vec<String> = begun.lock().uploads.keys().map(|(_, id)| id.clone()).collect();
        assert_eq!(ids, ["plain".to_owned(), longest]);
        (0..MOST).for_each(|number| begun.lock().note("k", &number.to_string()));
        begun.has_begun("k", "last");
        assert_eq!(begun.lock().uploads.len(), MOST);
        assert!(begun.is_ours(&Upload { key: "k".into(), id: "last".into() }), "the oldest goes");

        fs::write(&path, format!("{TITLE}here\n{}", "k\tplain\n".repeat(1 << 20))).expect("the notes");
        let begun = BegunUploads::at(path);
        begun.load("here");
        assert!(begun.lock().uploads.is_empty(), "nobody writes so many");
    }
}
