//! What is seen of the source, and a target that turns out to be the source only by what was written there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blat_config::{Home, load_target};
use blat_domain::archive::record::Owner;
use blat_domain::package::name::PackageId;
use blat_domain::policy::confirmation::HeldBack;

use super::*;
use crate::session::Sent;
use crate::sync::Synced;
use crate::sync::outcome::Dropped;
use crate::targets::fake::Fake;

fn id(byte: u8) -> RandomId {
    RandomId::from_random([byte; 16])
}

/// Makes `directory` an archive with this id.
fn write(directory: &Path, byte: u8) {
    fs::create_dir_all(directory.join(CONTROL)).expect("a directory");
    let text = format!("{}\n{} perth\n", id(byte), id(9));
    fs::write(directory.join(CONTROL).join(FILE), text).expect("a record");
}

#[test]
fn the_source_is_known_by_its_own_record_and_by_those_above_it() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let source = scratch.path().join("outer/source");
    fs::create_dir_all(source.join(CONTROL)).expect("a directory");
    let around = Around::look(&source).expect("a source");
    assert!(around.ids.is_empty() && around.unsure.is_none(), "{around:?}");
    assert!(around.place.directories.len() > 2 && !around.place.boot.is_empty(), "{around:?}");
    symlink(&source, scratch.path().join("link")).expect("a link");
    assert_eq!(Around::look(&scratch.path().join("link")).expect("a source").place, around.place);

    write(&source, 1);
    write(&scratch.path().join("outer"), 2);
    let ids = || Around::look(&source).expect("a source").ids;
    assert_eq!(ids(), [(id(1), 0), (id(2), 1)]);
    let real = fs::canonicalize(scratch.path()).expect("a path");
    assert_eq!(record_above(&source, 1), real.join("outer").join(CONTROL).join(FILE));
    fs::write(source.join(CONTROL).join(FILE), "damaged").expect("a record");
    assert_eq!(ids(), [(id(2), 1)]);
    fs::remove_file(source.join(CONTROL).join(FILE)).expect("a record");
    symlink("/dev/zero", source.join(CONTROL).join(FILE)).expect("a link");
    let unsure = Around::look(&source).expect("a source").unsure.expect("what is in its place is not followed");
    assert!(unsure.contains("source/.dpkg_archive/archive"), "{unsure}");
    assert!(Around::look(&scratch.path().join("away")).expect_err("no source").contains("mounted"));
}

#[test]
fn as_root_above_the_source_a_strangers_record_does_not_count() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (outer, source) = (scratch.path().join("outer"), scratch.path().join("outer/source"));
    fs::create_dir_all(&source).expect("a directory");
    write(&outer, 2);
    let (house, file) = (outer.join(CONTROL), outer.join(CONTROL).join(FILE));
    let ids = || Around::look(&source).expect("a source").ids;
    assert_eq!(ids(), [(id(2), 1)]);
    for strangers in [&house, &file] {
        chown(strangers, Some(1234), None).expect("root may");
        assert_eq!(ids(), [], "{}", strangers.display());
        chown(strangers, Some(0), None).expect("root may");
    }
    [&source, &house, &file].into_iter().for_each(|path| chown(path, Some(1234), None).expect("root may"));
    assert_eq!(ids(), [(id(2), 1)], "the source's owner may have his archives above it");
    write(&source, 1);
    chown(source.join(CONTROL).join(FILE), Some(1235), None).expect("root may");
    assert_eq!(ids(), [(id(1), 0), (id(2), 1)], "in the source, any record counts");
}

/// The source by way of another machine, which cannot tell where it is: only what is written there shows.
fn mirror(source: PathBuf) -> Fake {
    let claim = move |how, record: &Record| {
        let file = source.join(CONTROL).join(FILE);
        match how {
            Claim::Look | Claim::Visit => {}
            Claim::First | Claim::Adopt => {
                fs::create_dir_all(source.join(CONTROL)).expect("a directory");
                fs::write(&file, record.render()).expect("a record");
            }
            Claim::Withdraw => fs::remove_file(&file).expect("a record"),
        }
        fs::read_to_string(&file).map_or(Found::Nothing, |text| Found::read(&text))
    };
    Fake {
        packages: &["a@1", "b@1"],
        claim: Box::new(claim),
        during: Box::new(|| {}),
        changed: std::sync::Mutex::default(),
    }
}

#[tokio::test]
async fn an_archive_that_only_its_id_shows_to_be_the_source_is_refused_and_left_as_it_was() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path();
    for folder in ["config", "source/a/1", "archive"] {
        fs::create_dir_all(root.join(folder)).expect("an own folder");
    }
    fs::write(root.join("source/a/1/descpkg"), "a").expect("a file");
    let text = format!(
        "transport: local\nsource: {0}/source\narchive: {0}/archive\npkg: {{a: 1}}\naging: immediate\nmax_delete: 100%\n",
        root.display()
    );
    let home = Home::at(root).expect("a path");
    let name = "perth".parse().expect("a name");
    fs::write(home.target_config(&name), text).expect("a config");
    let settings = load_target(&home, &name).expect("valid settings");
    let owner = Owner { home: RandomId::from_random([1; 16]), target: name };
    let mut context = SyncContext::new(&home, settings, owner);
    let mirror = Arc::new(mirror(root.join("source")));
    context.target = mirror.clone();
    let refused = |text: &str| text.contains("the same directory") && text.contains("config/perth.conf");

    let Synced::Ended(report, problem) = context.sync(Some(HeldBack::default())).await else {
        panic!("no other settings are there")
    };
    assert!(refused(&problem.expect("it is refused").text));
    assert_eq!((report.sent, report.deleted), (0, 0));
    let tagged: BTreeSet<PackageId> = ["a@1".parse().expect("a package")].into();
    let sent = context.send_tagged(tagged, &Dropped::new()).await;
    assert!(matches!(&sent[..], [(_, Sent::Failed(problem))] if refused(&problem.text)), "{sent:?}");
    assert!(refused(&context.adopt().await.expect_err("it is refused").text));
    assert!(!root.join("source").join(CONTROL).join(FILE).exists(), "what was written is taken away again");
    assert_eq!(context.contact(), Contact::None);
    assert_eq!(mirror.changed(), [""; 0], "the source is asked for nothing else");
}

/// An old disk of the same site has packages of the same names, and none of them is what is wanted.
#[test]
fn packages_are_wanted_as_they_are_only_by_their_times() {
    let package = |text: &str| text.parse::<PackageId>().expect("a package");
    let wanted: WantedSet = ["a@1", "b@1", "b@now"].map(|text| (package(text), Default::default())).into();
    let links = [(package("b@now"), "1".to_owned())].into();
    let inventory =
        Inventory { packages: [(package("a@1"), 5), (package("b@1"), 6)].into(), links, ..Inventory::default() };
    let sight = |times: &[Option<i64>]| Sight::of(&inventory, &wanted, times);
    assert_eq!(sight(&[Some(5), Some(6), None]), Sight::Wanted);
    for times in [&[Some(5), Some(7), None][..], &[Some(5), None, None], &[]] {
        assert_eq!(sight(times), Sight::Packages, "{times:?}");
    }
    let more = WantedSet::from([(package("a@1"), Default::default()), (package("b@1"), Default::default())]);
    assert_eq!(Sight::of(&inventory, &more, &[Some(5), Some(6)]), Sight::Packages, "the link is not wanted");
}
