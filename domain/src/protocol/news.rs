//! What is heard of a tag directory between two looks at it, whoever listens: an agent itself, or the master for its agents.
//!
//! However much happens there, it takes bounded memory. What is heard only ever makes a look come earlier, or a file count earlier.

use std::collections::BTreeMap;
use std::mem;

use serde::{Deserialize, Serialize};

use crate::package::tag::is_ignored;

/// Files of which something is remembered between two looks. Where there are more, it is as if the notifications of the earlier ones were
/// lost.
pub const MOST_FILES: usize = 2_048;

/// The last that was heard of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// Somebody wrote into it, and has not closed it since.
    Writing,
    /// It was closed after writing, or moved in.
    Whole,
}

/// One notification of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// This was heard of the file of this name.
    File(&'a [u8], Heard),
    /// Something else happened: to the file of this name, or to the directory.
    Other(Option<&'a [u8]>),
    /// The directory was removed: what is at its path now may be another one, even under the same inode number.
    Gone,
    /// Notifications were lost.
    Lost,
}

/// What was heard since it was asked for last.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct News {
    /// The last that was heard of each file, by name.
    #[serde(default, with = "as_text", skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<Vec<u8>, Heard>,
    /// Notifications were lost: what was heard before may not be true any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_broken: bool,
    /// The directory was removed: see [`Notice::Gone`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_gone: bool,
    /// It is a reason to look. That somebody writes is none: the file is of no use yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_due: bool,
}

impl News {
    /// As after notifications were lost, before anything else is heard.
    pub fn broken() -> Self {
        Self { is_broken: true, ..Self::default() }
    }

    /// Takes in one notification. Whether it is a reason to look.
    pub fn hear(&mut self, notice: Notice<'_>) -> bool {
        let is_reason = match notice {
            // Nothing comes of files that are ignored, whoever makes however many.
            Notice::File(name, _) | Notice::Other(Some(name)) if is_ignored(name) => false,
            Notice::File(name, heard) => {
                let lost = self.insert(name.to_vec(), heard);
                lost || heard == Heard::Whole
            }
            Notice::Other(_) => true,
            Notice::Gone => {
                self.is_gone = true;
                true
            }
            Notice::Lost => {
                self.lose_track();
                true
            }
        };
        self.is_due |= is_reason;
        is_reason
    }

    /// Takes in what another listener heard later.
    pub fn absorb(&mut self, later: Self) {
        if later.is_broken {
            self.lose_track();
        }
        for (name, heard) in later.files {
            self.is_due |= self.insert(name, heard);
        }
        self.is_gone |= later.is_gone;
        self.is_due |= later.is_due;
    }

    /// Hands over what was heard, and at most so many files; the rest stays for the next time.
    pub fn take(&mut self, most: usize) -> Self {
        let rest = match self.files.keys().nth(most).cloned() {
            Some(first) => self.files.split_off(&first),
            None => BTreeMap::new(),
        };
        let is_due = self.is_due && !rest.is_empty();
        mem::replace(self, Self { files: rest, is_due, ..Self::default() })
    }

    /// Whether nothing was heard.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether others were lost for it.
    fn insert(&mut self, name: Vec<u8>, heard: Heard) -> bool {
        let is_full = self.files.len() >= MOST_FILES && !self.files.contains_key(&name);
        if is_full {
            self.lose_track();
        }
        self.files.insert(name, heard);
        is_full
    }

    fn lose_track(&mut self) {
        self.files.clear();
        self.is_broken = true;
    }
}

/// Names as text, since they may be any bytes: each byte is the character of that number.
mod as_text {
    use std::collections::BTreeMap;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Heard, MOST_FILES};

    pub(super) fn serialize<S: Serializer>(files: &BTreeMap<Vec<u8>, Heard>, to: S) -> Result<S::Ok, S::Error> {
        let text = |name: &[u8]| name.iter().map(|byte| char::from(*byte)).collect::<String>();
        to.collect_map(files.iter().map(|(name, heard)| (text(name), heard)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Vec<u8>, Heard>, D::Error> {
        let files = BTreeMap::<String, Heard>::deserialize(from)?;
        if files.len() > MOST_FILES {
            return Err(D::Error::custom(format!("more than {MOST_FILES} files")));
        }
        let bytes = |text: String| text.chars().map(u8::try_from).collect::<Result<Vec<u8>, _>>();
        files.into_iter().map(|(name, heard)| Ok((bytes(name).map_err(D::Error::custom)?, heard))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_not_whole_while_somebody_writes_into_it() {
        let mut news = News::default();
        assert!(news.hear(Notice::File(b"x", Heard::Whole)));
        assert!(!news.hear(Notice::File(b"x", Heard::Writing)), "no reason to look yet");
        assert_eq!(news.files[&b"x"[..]], Heard::Writing);
        assert!(news.hear(Notice::File(b"x", Heard::Whole)));
        assert_eq!(news.files[&b"x"[..]], Heard::Whole);
    }

    #[test]
    fn what_was_heard_is_bounded() {
        let mut news = News::default();
        for number in 0..=MOST_FILES {
            news.hear(Notice::File(number.to_string().as_bytes(), Heard::Whole));
        }
        assert!(news.is_broken && news.files.len() < MOST_FILES);
        assert!(news.files.contains_key(MOST_FILES.to_string().as_bytes()), "the last one is always heard");
        news.hear(Notice::Lost);
        assert!(news.is_broken && news.is_due && news.files.is_empty());
    }

    #[test]
    fn nothing_comes_of_files_that_are_ignored() {
        let mut news = News::default();
        assert!(!news.hear(Notice::File(b"core@1.tmp", Heard::Whole)) && !news.hear(Notice::Other(Some(b".core@1"))));
        assert!(news.is_empty());
        assert!(news.hear(Notice::Other(Some(b"core@1"))) && news.is_due);
    }

    #[test]
    fn it_comes_over_in_parts_whatever_the_names_are_and_is_the_same_at_the_other_end() {
        let mut here = News::default();
        for number in 0..700_u32 {
            let name = [&b"\xff\xc3\"\\\n \x01"[..], number.to_string().as_bytes()].concat();
            here.hear(Notice::File(&name, if number % 2 == 0 { Heard::Whole } else { Heard::Writing }));
        }
        let (whole, mut there, mut parts) = (here.clone(), News::default(), 0);
        while !here.is_empty() {
            let part = here.take(256);
            assert!(part.is_due, "what is left is as urgent as before");
            let line = serde_json::to_string(&part).expect("it can be written");
            there.absorb(serde_json::from_str(&line).expect("it can be read"));
            parts += 1;
        }
        assert_eq!((there, parts), (whole, 3));
    }

    #[test]
    fn what_was_lost_at_the_other_end_is_lost_here() {
        let mut here = News::default();
        here.hear(Notice::File(b"before", Heard::Whole));
        let mut there = News::default();
        there.hear(Notice::Lost);
        there.hear(Notice::File(b"after", Heard::Writing));
        here.absorb(there);
        assert!(here.is_broken && here.is_due);
        assert_eq!(here.files.keys().collect::<Vec<_>>(), [b"after"]);
    }

    #[test]
    fn names_that_are_no_bytes_are_refused() {
        assert!(serde_json::from_str::<News>(r#"{"files":{"\u0100":"whole"}}"#).is_err());
    }
}
