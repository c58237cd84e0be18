//! The attack itself: a directory and a link to a directory of secrets change places as fast as the system lets them, while the package is
//! packed in each way there is. Sometimes the package comes out, sometimes it is given up; a secret never comes out.

use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use blat_domain::policy::plan::Size;
use blat_domain::protocol::frames::{Lane, Rule};
use tokio::sync::mpsc;

use super::*;
use crate::cache::PackCache;
use crate::delta_base::DeltaBase;
use crate::frames::{Attempt, Codec, Outlet};
use crate::item::TransferItem;
use crate::progress::Progress;
use crate::tar::encoder::Compression;
use crate::tree::Tree;
use crate::{frames, tar};

/// How often each packer gets the package, and how many exchanges happen meanwhile at least.
const TRIES: usize = 400;

impl Scratch {
    /// Packs core@1 again and again, while its directory `what` and a link to the secrets change places. Gives what came out well and is more
    /// than nothing, each once.
    fn attacked(&self, what: &str, mut pack: impl FnMut(&TransferItem) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
        let directory = self.path("archive/core/1").join(what);
        let link = self.path("swapped");
        symlink(self.path("secret"), &link).expect("a link");
        let item = TransferItem {
            package: core(),
            archive: self.path("archive").into(),
            time: 0,
            size: Size::default(),
            rule: Rule::New,
            tagged: None,
            print: None,
            orders: None,
        };
        let (is_over, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut outcomes = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE).expect("an exchange");
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
            let mut tries = 0;
            while tries < TRIES || swaps.load(Ordering::Relaxed) < TRIES {
                tries += 1;
                match pack(&item) {
                    Some(packed) if !outcomes.contains(&packed) => outcomes.push(packed),
                    Some(_) | None => {}
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        fs::remove_file(link).or_else(|_| fs::remove_file(directory)).expect("the link");
        outcomes
    }

    /// What `look` gives of the package as it is, and where `a` is a link.
    fn both<T>(&self, look: impl Fn() -> T) -> [T; 2] {
        let whole = look();
        self.swap("archive/core/1/a", "secret");
        let with_link = look();
        fs::remove_file(self.path("archive/core/1/a")).expect("a link");
        fs::rename(self.path("away"), self.path("archive/core/1/a")).expect("a rename");
        [whole, with_link]
    }
}

fn assert_no_secret(outcomes: &[Vec<u8>]) {
    for outcome in outcomes {
        let leaks = outcome.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
        assert!(!leaks, "the secret is in what was packed");
    }
}

/// As frames, which bring files as they are.
fn frames(item: &TransferItem) -> Option<Vec<u8>> {
    static WANTED: AtomicBool = AtomicBool::new(false);
    let attempt = Attempt { number: 1, item: item.clone(), ask: false, delta_base: None };
    let (frames, mut packed) = mpsc::channel(1000);
    let (_answers, held) = std::sync::mpsc::channel();
    let outlet = Outlet::new(Lane(3), &frames, &WANTED);
    frames::pack(vec![attempt], Codec::Plain, outlet, &PackCache::new("/nowhere".into()), &Progress::default(), &held);
    drop(frames);
    let mut all = Vec::new();
    while let Some(frame) = packed.blocking_recv() {
        all.extend(frame);
    }
    Some(all)
}

#[test]
fn no_frame_brings_a_secret() {
    for what in ["a", "a/b"] {
        assert_no_secret(&Scratch::new().attacked(what, frames));
    }
}

#[test]
fn no_tar_brings_a_secret() {
    for what in ["a", "a/b"] {
        let outcomes = Scratch::new().attacked(what, |item| {
            let (sender, pieces) = std::sync::mpsc::channel();
            let sink = Box::new(move |piece| sender.send(piece).is_ok());
            tar::pack(from_ref(item), Compression::None, &Progress::default(), Path::new("/nowhere"), sink);
            Some(pieces.into_iter().flatten().collect())
        });
        assert_no_secret(&outcomes);
    }
}

#[cfg(feature = "zip")]
#[test]
fn no_zip_brings_a_secret() {
    use crate::zip::zip;
    for what in ["a", "a/b"] {
        let outcomes = Scratch::new().attacked(what, |item| {
            let root = Root::open(&item.archive, &item.package).expect("a package");
            let mut all = Vec::new();
            // A package that is given up is none, whatever was written of it.
            let _ = zip(&root, &Progress::default(), Path::new("/nowhere"), &mut all);
            Some(all)
        });
        // Short files are stored as they are.
        assert_no_secret(&outcomes);
    }
}

#[test]
fn no_digest_is_made_of_a_secret() {
    let scratch = Scratch::new();
    let digests = || {
        let digests = Root::open(&scratch.path("archive"), &core()).and_then(|root| tar::digests(&root))?;
        Ok::<_, SourceError>(format!("{digests:?}").into_bytes())
    };
    let right = scratch.both(|| digests().expect("a package"));
    let outcomes = scratch.attacked("a", |_| digests().ok());
    assert!(outcomes.iter().all(|digest| right.contains(digest)), "{outcomes:?}");
}

#[test]
fn no_scan_counts_a_secret() {
    let scratch = Scratch::new();
    scratch.file("secret/more", SECRET);
    let size = || {
        let size = Root::open(&scratch.path("archive"), &core()).and_then(|root| Tree::look(&root))?.size;
        Ok::<_, SourceError>(format!("{size:?}").into_bytes())
    };
    let right = scratch.both(|| size().expect("a package"));
    let outcomes = scratch.attacked("a", |_| size().ok());
    assert!(outcomes.iter().all(|size| right.contains(size)), "{outcomes:?}");
}

#[test]
fn nothing_is_taken_for_a_copy_of_a_secret() {
    let scratch = Scratch::new();
    scratch.file("archive/core/2/descpkg", "x");
    scratch.file("archive/core/2/a/b/file", SECRET);
    let archive: Arc<Path> = scratch.path("archive").into();
    let next: PackageId = "core@2".parse().expect("a package");
    let root = Root::open(&archive, &next).expect("a package");
    let file = node(&root, "a/b/file");
    let outcomes = scratch.attacked("a", |item| {
        // Where the delta base's directory is the link, its file would be the same as this one.
        let delta_base = DeltaBase::new(item.package.version.clone(), 0, None, &next, &archive);
        let base_file = delta_base.base_file(&file.path, file.stat.size)?;
        let (copy, _) = base_file.copy_of(&root, &file)?;
        Some(copy.version.to_string().into_bytes())
    });
    assert!(outcomes.is_empty());
}
