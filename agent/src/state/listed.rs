//! `state/TARGET/PackageList.txt`: what the PackageList named that the target was given last.
//!
//! A target need not tell what its list names. Where this is missing or cannot be read, nobody knows, and a new list names all that is there for as long
//! as it is not clear what may go.

use std::io::{self, Write as _};
use std::path::PathBuf;

use blat_config::replacement::{Outlives, replace};
use blat_domain::archive::package_list::{self, LONGEST, parse};
use blat_domain::package::name::PackageId;
use tokio::task::spawn_blocking;

/// One target's former PackageList.
#[derive(Debug, Clone)]
pub(crate) struct FormerList {
    path: PathBuf,
}

impl FormerList {
    /// In the target's part of `state/`.
    pub(crate) fn new(place: PathBuf) -> Self {
        Self { path: place.join(package_list::FILE) }
    }

    /// What it named; none where nobody knows. That is handed to `choose`, off the threads that wait for others.
    pub(crate) async fn read<T: Send + Default + 'static>(
        &self,
        choose: impl FnOnce(Option<Vec<PackageId>>) -> T + Send + 'static,
    ) -> T {
        let path = self.path.clone();
        let reading = spawn_blocking(move || {
            let is_short = std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= LONGEST);
            let text = is_short.then(|| std::fs::read_to_string(&path).ok()).flatten();
            choose(text.and_then(|text| parse(&text).ok()).map(|list| list.packages))
        });
        reading.await.unwrap_or_default()
    }

    /// The target is about to be given this list.
    ///
    /// # Errors
    /// Why that is not known after a restart.
    pub(crate) async fn note(&self, list: &str) -> io::Result<()> {
        let (path, list) = (self.path.clone(), list.to_owned());
        let noting = spawn_blocking(move || {
            let is_same = std::fs::metadata(&path).is_ok_and(|found| found.len() == list.len() as u64)
                && std::fs::read(&path).is_ok_and(|before| before == list.as_bytes());
            if is_same { Ok(()) } else { replace(&path, Outlives::PowerCut, |file| file.write_all(list.as_bytes())) }
        });
        noting.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_noted_is_known_and_a_torn_note_is_none() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let place = scratch.path().join("perth");
        let former = FormerList::new(place.clone());
        assert_eq!(former.read(|packages| packages).await, None);
        former.note("a 1\nb 2\n# end 2\n").await.expect("written");
        former.note("a 1\nb 2\n# end 2\n").await.expect("the same");
        let named: Vec<String> =
            former.read(|packages| packages.expect("noted").iter().map(ToString::to_string).collect()).await;
        assert_eq!(named, ["a@1", "b@2"]);
        std::fs::write(place.join(package_list::FILE), "a 1\n").expect("an own file");
        assert_eq!(former.read(|packages| packages).await, None);
    }
}
