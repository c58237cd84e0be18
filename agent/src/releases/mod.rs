//! Release Manager: where the wanted set comes from.
//!
//! Whatever the source, it has a limited time and a limited size to answer in, its names are checked, and what it cannot say
//! is never guessed: in the mode `fallback` the last good answer stands in, and the resolution says so.

mod command;
mod database;
mod file;
mod freshness;
mod keeper;
mod package_list;
mod reader;
mod snapshot;
mod turns;
mod unchanged;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blat_config::{Home, Mode, ReleaseManager, ReleaseSource};
use blat_domain::package::name::TargetName;
use blat_domain::policy::release::{Catalog, KnownReleases, Resolution, Selection, resolve};
use blat_domain::util::text::printable;
use blat_domain::util::units::show_duration;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use database::create as create_database;
pub(crate) use freshness::{ContentTime, FileReading, ServedReading, is_prompt, trailing, written_at};
pub(crate) use keeper::keep_instead;
pub(crate) use reader::read_instead;
use reader::{ReadCatalog, Reader};
use snapshot::Snapshot;
use unchanged::Unchanged;

/// So many of its entries that are not valid, or that the source has no package for, are logged one by one: garbage must not push everything
/// else out of the log.
pub(crate) const MOST_LOGGED: usize = 20;

/// Why Release Manager could not be asked. A sync that does not know what is wanted does nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    /// The config selects releases but names no source for them.
    #[error("the config selects releases or projects, but has no release_manager to look them up in; add one")]
    NoSource,
    /// The source could not be read.
    #[error("cannot read the releases from {from}: {why}")]
    Unreadable {
        /// Which source.
        from: String,
        /// What went wrong.
        why: String,
    },
    /// What was read could not be worked on.
    #[error("working on the releases failed: {0}; report this as a bug")]
    NotUnderstood(String),
    /// Neither could the source be read, nor its last good answer be used.
    #[error("{unreadable}; and mode: fallback does not help: {why}")]
    NoFallback {
        /// Why the source could not be read.
        unreadable: Box<ReleaseError>,
        /// Why no snapshot can stand in for it.
        why: String,
    },
}

/// Where one target's questions to Release Manager are asked, and its last good answer is kept.
#[derive(Debug, Clone)]
pub(crate) struct CatalogLoader {
    root: PathBuf,
    /// The target's part of `state/`.
    place: PathBuf,
    snapshot: PathBuf,
    unchanged: Unchanged,
}

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// To know what is wanted.
    Looking,
    /// To have packages marked or deleted: what gives the releases is looked over for damage, which may take long.
    Taking,
    /// The same, where a database in a file changes all the time: its writers are kept waiting, so that whatever changes it then is none of them.
    TakingHeld,
}

impl Purpose {
    fn is_taking(self) -> bool {
        self != Self::Looking
    }
}

/// What Release Manager says, before it is known what that means.
struct Loaded {
    catalog: Arc<Catalog>,
    reading: Option<FileReading>,
    served: Option<ServedReading>,
    is_for_looking: bool,
}

/// What the target should hold.
pub(crate) struct CatalogAnswer {
    pub(crate) resolution: Resolution,
    /// What is known of releases from now on; none where Release Manager was not asked.
    pub(crate) known: Option<Recollection>,
    /// The file that it was read from, where that may have been half-written: whatever else gives releases says by itself when it is whole.
    pub(crate) reading: Option<FileReading>,
    /// How a server or a command was read.
    pub(crate) served: Option<ServedReading>,
    /// Nothing may go by it: nothing was read for it, since its file looks as it did when it was read for an earlier one, or its database was not
    /// looked over for damage, or it is the first one that a server or a command gave.
    pub(crate) is_for_looking: bool,
    fresh: Option<Snapshot>,
}

impl CatalogAnswer {
    /// What follows where Release Manager was not asked, or did not answer.
    fn unasked(resolution: Resolution) -> Self {
        Self { resolution, known: None, reading: None, served: None, is_for_looking: false, fresh: None }
    }
}

/// The releases that brought packages, by one answer.
pub(crate) struct Recollection {
    /// Where they are looked up.
    pub(crate) origin: String,
    /// After a sync whose deletions nobody confirmed.
    pub(crate) as_it_is: KnownReleases,
    /// After one whose deletions an operator confirmed.
    pub(crate) once_confirmed: KnownReleases,
}

/// Which source releases are looked up in: text that is compared. The number of a release means nothing in another one.
pub(crate) fn origin(manager: Option<&ReleaseManager>) -> String {
    manager.map(|manager| format!("{:?}", manager.source)).unwrap_or_default()
}

impl CatalogLoader {
    /// The catalog of one target.
    pub(crate) fn new(home: &Home, target: &TargetName) -> Self {
        let place = home.target_state_dir(target);
        Self {
            root: home.root().to_owned(),
            snapshot: place.join(snapshot::FILE),
            place,
            unchanged: Unchanged::default(),
        }
    }

    /// What the target should hold, asked anew. `known` are the releases that brought packages before.
    pub(crate) async fn ask(
        &self,
        manager: Option<&ReleaseManager>,
        selection: &Selection,
        known: &KnownReleases,
        purpose: Purpose,
    ) -> Result<CatalogAnswer, ReleaseError> {
        let Some(manager) = manager.filter(|manager| needs_catalog(manager, selection)) else {
            if selection.needs_catalog() {
                return Err(ReleaseError::NoSource);
            }
            // The config selects nothing: no row says whether a release is still there.
            let resolution = resolve(&Catalog::default(), selection, &KnownReleases::default());
            return Ok(CatalogAnswer::unasked(resolution));
        };
        match self.load(manager, selection, purpose).await {
            Ok(Loaded { catalog, reading, served, is_for_looking }) => {
                let (manager, selection, known) = (manager.clone(), selection.clone(), known.clone());
                let understanding =
                    tokio::task::spawn_blocking(move || understood(&manager, &selection, &known, catalog));
                let answer = understanding.await.map_err(|error| ReleaseError::NotUnderstood(error.to_string()))?;
                Ok(CatalogAnswer { reading, served, is_for_looking, ..answer })
            }
            Err(unreadable) => match manager.mode {
                Mode::Strict => Err(unreadable),
                Mode::Fallback => self.fall_back(manager, selection, unreadable).await,
            },
        }
    }

    /// Keeps an answer for when the next question finds nobody. Without it the sync is as good: a failure is only told.
    pub(crate) async fn keep(&self, answer: &mut CatalogAnswer) {
        let Some(snapshot) = answer.fresh.take() else { return };
        if let Err(why) = snapshot.store(self.snapshot.clone()).await {
            let path = self.snapshot.display();
            tracing::warn!("cannot keep Release Manager's answer for mode: fallback in {path}: {why}");
        }
    }

    /// From here on nothing is taken from an earlier answer: whatever is asked for next is read.
    pub(crate) fn forget(&self) {
        self.unchanged.forget();
    }

    async fn load(
        &self,
        manager: &ReleaseManager,
        selection: &Selection,
        purpose: Purpose,
    ) -> Result<Loaded, ReleaseError> {
        let ReleaseManager { source, timeout, .. } = manager;
        let asking = async {
            if let ReleaseSource::File { path } = source
                && let Some((catalog, reading)) = self.unchanged.look(path, selection).await
            {
                return Ok(Loaded { catalog, reading: Some(reading), served: None, is_for_looking: true });
            }
            // They may have been changed since the config was read.
            let (judged, root) = (manager.clone(), self.root.clone());
            let judging = tokio::task::spawn_blocking(move || judged.distrusted(&root));
            let distrusted = judging.await.map_err(|error| format!("looking at its files failed: {error}"))?;
            if let Some((_, why)) = distrusted.into_iter().next() {
                return Err(why);
            }
            let read = |catalog, reading| Loaded { catalog, reading, served: None, is_for_looking: false };
            // Nothing goes by the first one alone.
            let served = |catalog, slowest| {
                let served = Some(ServedReading::new(slowest));
                Loaded { catalog, reading: None, served, is_for_looking: !purpose.is_taking() }
            };
            let reader = Reader::start(source, selection, *timeout, purpose, &self.place).await?;
            match source {
                ReleaseSource::File { path } => {
                    let ReadCatalog { catalog, state, .. } = reader.finish().await?;
                    let (catalog, reading) = (Arc::new(catalog), FileReading::new(path, state));
                    self.unchanged.keep(path, selection, &catalog, &reading);
                    Ok(read(catalog, Some(reading)))
                }
                ReleaseSource::Command { argv } => {
                    let catalog = command::load(argv, &self.root, reader).await?;
                    Ok(served(Arc::new(catalog), Duration::ZERO))
                }
                ReleaseSource::Sqlite { path, .. } => {
                    let ReadCatalog { catalog, state, .. } = reader.finish().await?;
                    // Without a state, its writers change it in a file beside it, or were kept from that.
                    let reading = state.map(|state| FileReading::new(path, Some(state)));
                    Ok(Loaded { is_for_looking: !purpose.is_taking(), ..read(Arc::new(catalog), reading) })
                }
                ReleaseSource::Postgres(_) | ReleaseSource::MySql(_) => {
                    let ReadCatalog { catalog, slowest, .. } = reader.finish().await?;
                    Ok(served(Arc::new(catalog), slowest))
                }
                ReleaseSource::PackageList { .. } => Ok(read(Arc::new(reader.finish().await?.catalog), None)),
            }
        };
        let loaded = tokio::time::timeout(*timeout, asking).await.unwrap_or_else(|_| {
            Err(format!("no answer within {}; timeout sets how long it may take", show_duration(*timeout)))
        });
        loaded.map_err(|why| ReleaseError::Unreadable { from: shown(source), why })
    }

    async fn fall_back(
        &self,
        manager: &ReleaseManager,
        selection: &Selection,
        unreadable: ReleaseError,
    ) -> Result<CatalogAnswer, ReleaseError> {
        let question = snapshot::question(&manager.source, selection);
        match Snapshot::read(self.snapshot.clone(), question).await {
            Ok(Snapshot { taken, catalog, .. }) => {
                tracing::warn!("{unreadable}; going by its answer of {taken:.0}: nothing is deleted or marked");
                let nothing = KnownReleases::default();
                let resolution = Resolution { snapshot: Some(taken), ..resolve(&catalog, selection, &nothing) };
                Ok(CatalogAnswer::unasked(resolution))
            }
            Err(why) => Err(ReleaseError::NoFallback { unreadable: Box::new(unreadable), why }),
        }
    }
}

/// The source as it is named in messages. A command's arguments are its own matter, and may be secret.
fn shown(source: &ReleaseSource) -> String {
    printable(&match source {
        ReleaseSource::Sqlite { path, .. } | ReleaseSource::File { path } | ReleaseSource::PackageList { path } => {
            path.display().to_string()
        }
        ReleaseSource::Postgres(database) | ReleaseSource::MySql(database) => database.url.clone(),
        ReleaseSource::Command { argv } => format!("the command {}", argv[0]),
    })
}

/// A PackageList is the wanted set itself; the others are asked only for what is selected.
fn needs_catalog(manager: &ReleaseManager, selection: &Selection) -> bool {
    matches!(manager.source, ReleaseSource::PackageList { .. }) || selection.needs_catalog()
}

/// What a catalog means for this target, and whether it is good enough to be kept.
fn understood(
    manager: &ReleaseManager,
    selection: &Selection,
    known: &KnownReleases,
    catalog: Arc<Catalog>,
) -> CatalogAnswer {
    let resolution = resolve(&catalog, selection, known);
    for row in resolution.odd.iter().take(MOST_LOGGED) {
        tracing::warn!(entry = printable(&row.text), "Release Manager lists something that is not valid");
    }
    if let Some(more @ 1..) = resolution.odd.len().checked_sub(MOST_LOGGED) {
        tracing::warn!(more, "Release Manager lists more that is not valid");
    }
    if let Some(elsewhere @ 1..) = catalog.rejected.len().checked_sub(resolution.odd.len()) {
        tracing::debug!(
            elsewhere,
            "Release Manager lists what is not valid and concerns nothing that is selected here"
        );
    }
    let after = |is_confirmed| known.after(&catalog, selection, &resolution, is_confirmed);
    let recollection =
        Recollection { origin: origin(Some(manager)), as_it_is: after(false), once_confirmed: after(true) };
    // An answer that lacks what it was asked for, or says that nothing is wanted, must not replace one that knows better.
    let good = resolution.unknown.is_empty() && !resolution.wanted.is_empty();
    let keep = manager.mode == Mode::Fallback && good;
    let fresh = keep.then(|| {
        let question = snapshot::question(&manager.source, selection);
        Snapshot::new(Timestamp::now(), question, Arc::unwrap_or_clone(catalog))
    });
    CatalogAnswer { known: Some(recollection), fresh, ..CatalogAnswer::unasked(resolution) }
}

#[cfg(test)]
mod tests {
    use blat_config::{Database, Queries};

    use super::*;

    /// Whether the answer to a question for these projects is kept, where Release Manager knows `P` with this package.
    fn is_kept(mode: Mode, projects: &[&str], package: Option<&str>) -> bool {
        let source = ReleaseSource::File { path: "r.yaml".into() };
        let manager = ReleaseManager { source, mode, timeout: Duration::from_secs(60) };
        let selection =
            Selection { projects: projects.iter().map(ToString::to_string).collect(), ..Selection::default() };
        let packages: Vec<&str> = package.into_iter().chain(["../x@1"]).collect();
        let release = serde_json::json!({"id": 1, "name": "R", "packages": packages});
        let text = serde_json::json!({"projects": [{"name": "P", "releases": [release]}]}).to_string();
        let catalog = blat_config::release_file::parse(&text).expect("the form");
        understood(&manager, &selection, &KnownReleases::default(), catalog.into()).fresh.is_some()
    }

    #[tokio::test]
    async fn nobody_is_asked_by_files_that_others_may_write_by_now() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let root = std::fs::canonicalize(scratch.path()).expect("a scratch directory");
        let certificate = root.join("ca.pem");
        std::fs::write(&certificate, "").expect("an own folder");
        // Nobody listens there.
        let url = format!("postgres://127.0.0.1:1/rm?sslmode=verify-full&sslrootcert={}", certificate.display());
        let database = Database { url, password_file: None, queries: Queries::default() };
        let source = ReleaseSource::Postgres(database);
        let manager = ReleaseManager { source, mode: Mode::Strict, timeout: Duration::from_secs(60) };
        let place = root.join("state");
        let catalog = CatalogLoader { root, snapshot: place.join("snapshot"), place, unchanged: Unchanged::default() };
        let selection = Selection { projects: vec!["P".into()], ..Selection::default() };
        for (mode, is_refused) in [(0o644, false), (0o664, true)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&certificate, permissions).expect("an own file");
            let asked = catalog.ask(Some(&manager), &selection, &KnownReleases::default(), Purpose::Looking).await;
            let why = asked.err().expect("nobody answers").to_string();
            assert_eq!(why.contains("so others may change what is read here"), is_refused, "{mode:o}: {why}");
        }
    }

    #[test]
    fn only_a_good_answer_is_kept_and_only_for_fallback() {
        assert!(is_kept(Mode::Fallback, &["P"], Some("a@1")), "an entry that is not valid is told each time");
        assert!(!is_kept(Mode::Strict, &["P"], Some("a@1")));
        assert!(!is_kept(Mode::Fallback, &["P", "Q"], Some("a@1")), "Q is not known");
        assert!(!is_kept(Mode::Fallback, &["P"], None), "nothing is wanted");
    }
}
