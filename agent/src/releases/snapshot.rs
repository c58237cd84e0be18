//! `mode: fallback`: Release Manager's last good answer, kept in the target's state.
//!
//! It answers only the very question that it was the answer to, since a source is asked for the packages of selected releases alone.

use std::io::Write as _;
use std::path::PathBuf;

use blat_config::ReleaseSource;
use blat_config::replacement::{Outlives, replace};
use blat_domain::policy::release::{Catalog, Selection};
use blat_domain::util::text::printable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::file;

/// Its name in the target's state directory.
pub(super) const FILE: &str = "catalog.json";
/// The version of its form that is written and read.
const VERSION: u32 = 1;

/// A good answer, the question, and when it was given.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapshot {
    version: u32,
    pub(super) taken: Timestamp,
    question: String,
    pub(super) catalog: Catalog,
}

/// What every version of the file begins with.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// What was asked, and whom: text that is compared, and that an operator can read.
pub(super) fn question(source: &ReleaseSource, selection: &Selection) -> String {
    format!("releases {:?} and projects {:?} of {source:?}", selection.releases, selection.projects)
}

impl Snapshot {
    pub(super) fn new(taken: Timestamp, question: String, catalog: Catalog) -> Self {
        Self { version: VERSION, taken, question, catalog }
    }

    /// Writes it in place of the one before, which stays if anything goes wrong.
    pub(super) async fn store(self, path: PathBuf) -> Result<(), String> {
        let storing = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&self).map_err(|error| error.to_string())?;
            if bytes.len() as u64 > file::LARGEST {
                return Err(format!("it is larger than {} MiB", file::LARGEST >> 20));
            }
            replace(&path, Outlives::PowerCut, |file| file.write_all(&bytes)).map_err(|error| error.to_string())
        });
        storing.await.map_err(|error| error.to_string())?
    }

    /// Reads the answer to `question`.
    pub(super) async fn read(path: PathBuf, question: String) -> Result<Self, String> {
        let reading = async { file::read(file::open(&path).await?).await };
        let text = match reading.await {
            Err(_) if !path.exists() => return Err("no good answer was kept yet".into()),
            read => read.map_err(|why| format!("cannot read {}: {why}", path.display()))?,
        };
        let unusable = |why: &str| format!("{} cannot be used: {}", path.display(), printable(why));
        let Head { version } = serde_json::from_str(&text).map_err(|error| unusable(&error.to_string()))?;
        if version != VERSION {
            return Err(unusable(&format!("its form has version {version}, and this one reads {VERSION}")));
        }
        let snapshot: Self = serde_json::from_str(&text).map_err(|error| unusable(&error.to_string()))?;
        if snapshot.question != question {
            return Err("the answer that was kept is to another question: the config changed since".into());
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use blat_domain::policy::release::{Project, Release, ReleaseState};

    fn snapshot() -> Snapshot {
        let release = Release {
            id: 1,
            name: "R \u{1b}".into(),
            state: ReleaseState::Restricted,
            s3sync: true,
            packages: vec!["a@1".parse().expect("a package")],
        };
        let projects = vec![Project { name: "P".into(), releases: vec![release] }];
        Snapshot::new(Timestamp::UNIX_EPOCH, "q".into(), Catalog { projects, ..Catalog::default() })
    }

    #[tokio::test]
    async fn what_is_stored_is_read_again_for_the_same_question_only() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("new/catalog.json");
        assert_eq!(Snapshot::read(path.clone(), "q".into()).await, Err("no good answer was kept yet".into()));
        snapshot().store(path.clone()).await.expect("stored");
        snapshot().store(path.clone()).await.expect("stored over the one before");
        assert_eq!(Snapshot::read(path.clone(), "q".into()).await, Ok(snapshot()));
        assert!(Snapshot::read(path.clone(), "other".into()).await.expect_err("another question").contains("config"));
        assert_eq!(
            fs::read_dir(scratch.path().join("new")).expect("its directory").count(),
            1,
            "nothing is left aside"
        );
    }

    #[tokio::test]
    async fn a_damaged_newer_or_hostile_snapshot_is_refused() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("catalog.json");
        let good = serde_json::to_string(&snapshot()).expect("JSON");
        let damaged = [
            good[..good.len() / 2].to_owned(),
            good.replace("\"version\":1", "\"version\":2"),
            good.replace("a@1", "../a@1"),
            good.replace("\"projects\"", "\"project\""),
            String::new(),
        ];
        for text in damaged {
            fs::write(&path, &text).expect("written");
            let why = Snapshot::read(path.clone(), "q".into()).await.expect_err(&text);
            assert!(why.contains("cannot be used"), "{why}");
        }
    }

    /// A file that an older Blat wrote, as it must stay readable.
    #[tokio::test]
    async fn the_first_version_of_the_form_stays_readable() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("catalog.json");
        let text = r#"{"version":1,"taken":"1970-01-01T00:00:00Z","question":"q","catalog":{"projects":[{"name":"P",
            "releases":[{"id":1,"name":"R \u001b","state":"restricted","s3sync":true,"packages":["a@1"]}]}],
            "listed":[],"rejected":[]}}"#;
        fs::write(&path, text).expect("written");
        assert_eq!(Snapshot::read(path, "q".into()).await, Ok(snapshot()));
    }
}
