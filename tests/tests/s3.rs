//! Buckets as targets, on real S3 servers: what arrives is read back with the AWS client and `unzip`; what is asked for is counted on the way.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use blat_tests::process;
use blat_tests::s3_proxy::{Asks, Proxy};
use blat_tests::{Bucket, Lab, Store, tree};

const STORES: [Store; 2] = [Store::SeaweedFs, Store::Moto];

/// A bucket and a config for it; nothing is sent yet.
fn lab(name: &str, store: Store, more: &str) -> (Lab, Bucket) {
    let mut lab = Lab::new(name);
    let bucket = Bucket::new(&mut lab, store);
    bucket.config(&lab, "cloud", &[], more);
    (lab, bucket)
}

/// A bucket that holds core@1, core@2 and tools@1, all from the release.
fn filled(name: &str, store: Store, more: &str) -> (Lab, Bucket) {
    let (lab, bucket) = lab(name, store, more);
    for (name, version) in [("core", "1"), ("core", "2"), ("tools", "1")] {
        lab.package(name, version, |p| p.file("a", name));
    }
    lab.release_for_buckets(&[("core", "1"), ("core", "2"), ("tools", "1")]);
    lab.agent_once("cloud").expect_success();
    assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/1.zip", "core/2.zip", "tools/1.zip"]));
    (lab, bucket)
}

/// Keys below the config's prefix.
fn keys(below: &[&str]) -> Vec<String> {
    below.iter().map(|key| format!("archive/{key}")).collect()
}

fn sha256(path: &std::path::Path, lab: &Lab) -> String {
    let outcome = process::run(Command::new("sha256sum").arg(path), &lab.home());
    outcome.expect_success().stdout.split(' ').next().expect("a digest").to_owned()
}

#[test]
fn a_first_sync_fills_the_bucket_and_every_package_comes_back_as_it_is() {
    for store in STORES {
        let (lab, bucket) = lab("s3first", store, "");
        let proxy = Proxy::to(bucket.port());
        bucket.config_through(proxy.port, &lab, "cloud", &[], "");
        lab.package("shapes", "1.0", |p| {
            p.file("name with spaces", "x")
                .file("größe/日本", "y".repeat(100_000))
                .file("empty", "")
                .noise("compressed already", 300_000)
                .exec("bin/run", "#!/bin/sh\n")
                .with_mode("secret", "not for everybody", 0o400)
                .symlink("relative", "bin/run")
                .symlink("dangling", "/not/there")
                .empty_dir("an empty folder")
        });
        lab.package("big", "2.0~rc1+b2", |p| p.noise("data", 20 << 20));
        lab.package("old", "1970", |p| p.file("a", "older than a ZIP can say otherwise").time(1));
        lab.package("other", "1", |p| p);
        let wanted = [("shapes", "1.0"), ("big", "2.0~rc1+b2"), ("old", "1970")];
        lab.release_for_buckets(&wanted);

        lab.agent_once("cloud").expect_success().says("3 sent");

        assert_eq!(
            bucket.keys(),
            keys(&["PackageList.txt", "big/2.0~rc1+b2.zip", "old/1970.zip", "shapes/1.0.zip"]),
            "{store}"
        );
        wanted.iter().for_each(|(name, version)| bucket.assert_published(&lab, name, version));
        assert_eq!(bucket.package_list(), ["big 2.0~rc1+b2", "old 1970", "shapes 1.0"]);
        for (key, files) in [("archive/shapes/1.0.zip", "7"), ("archive/big/2.0~rc1+b2.zip", "2")] {
            let head = bucket.head(key);
            assert_eq!(head["ContentType"], "application/zip", "{store}: {head:#}");
            assert_eq!(head["Metadata"]["blat-sha256"], sha256(&bucket.fetch(key), &lab), "{store}: {head:#}");
            assert_eq!(head["Metadata"]["blat-time"], "1709208001", "{store}: {head:#}");
            assert_eq!(head["Metadata"]["blat-files"], files, "{store}: {head:#}");
            assert_eq!(head["Metadata"]["blat-size"], head["ContentLength"].to_string(), "{store}: {head:#}");
        }
        assert!(proxy.count(Asks::Part) >= 3, "20 MiB go in parts\n{:#?}", proxy.log());
        assert_eq!(bucket.unfinished(), [] as [&str; 0]);
        let last = proxy.log().into_iter().rfind(|request| !request.starts_with("GET ")).unwrap_or_default();
        assert!(
            last.starts_with(&format!("PUT /{}/archive/PackageList.txt", bucket.name)),
            "the PackageList goes last, not {last}"
        );
    }
}

#[test]
fn the_same_package_is_the_same_object_in_another_bucket() {
    let digests = STORES.map(|store| {
        let (_lab, bucket) = filled("s3same", store, "");
        bucket.head("archive/core/1.zip")["Metadata"]["blat-sha256"].clone()
    });
    assert!(digests[0].is_string());
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_sync_that_finds_all_there_costs_only_the_listing() {
    const PACKAGES: usize = 3_500;
    let (lab, bucket) = lab("s3noop", Store::SeaweedFs, "");
    let proxy = Proxy::to(bucket.port());
    bucket.config_through(proxy.port, &lab, "cloud", &[], "");
    let names: Vec<String> = (0..PACKAGES).map(|number| format!("p{number:05}")).collect();
    let wanted: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    wanted.iter().for_each(|(name, version)| drop(lab.package(name, version, |p| p)));
    lab.release_for_buckets(&wanted);
    lab.agent_once("cloud").expect_success();
    assert_eq!(
        proxy.count(Asks::Put),
        PACKAGES + 4,
        "each package once, the PackageList, whose archive it is, and whether it knows conditions"
    );

    proxy.forget();
    lab.agent_once("cloud").expect_success();

    // An agent that begins looks once for uploads that a former one left, and leaves a number beside the record, once it has looked at that. A page
    // holds a thousand objects. The record is looked at again at the end: whoever lost the bucket meanwhile must not say that all is well.
    let mut counts = proxy.counts();
    counts.remove(&Asks::ListUploads);
    let pages = (PACKAGES + 3).div_ceil(1_000);
    let expected = [(Asks::List, pages), (Asks::Get, 2), (Asks::Visit, 2)];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected, "{:#?}", proxy.log());

    // What was remembered costs time when it is lost, and nothing else.
    fs::remove_dir_all(lab.home().join("state")).expect("a stopped agent's state");
    proxy.forget();
    lab.agent_once("cloud").expect_success();
    assert_eq!(proxy.count(Asks::Head), PACKAGES, "each object is asked for once");
    assert_eq!(proxy.count(Asks::Put), 1, "nothing but the PackageList is sent again");
}

#[test]
fn only_releases_that_ask_for_their_bucket_count() {
    let (lab, bucket) = lab("s3unset", Store::Moto, "aging: immediate\nmax_delete: 100%");
    lab.package("core", "1", |p| p);
    lab.release_for_buckets(&[("core", "1")]);
    lab.agent_once("cloud").expect_success();
    assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/1.zip"]));

    lab.package("tools", "1", |p| p);
    lab.release(&[("core", "1"), ("tools", "1")]);
    lab.agent_once("cloud");
    assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/1.zip"]), "nothing is sent for such a release");
}

#[test]
fn a_tag_brings_a_package_to_the_bucket_without_a_full_sync() {
    let (mut lab, bucket) = lab("s3tag", Store::SeaweedFs, "tag_poll: 1s");
    lab.package("core", "1", |p| p.noise("a", 10_000));
    lab.release_for_buckets(&[]);
    lab.start_master();
    lab.wait_for_status("cloud", "done with its first sync", |s| {
        s["last_sync"]["result"] == "ok" && s["state"] == "idle"
    });

    let tag = lab.drop_tag("cloud", "core", "1");

    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    bucket.assert_published(&lab, "core", "1");
    lab.blat(&["history", "--target", "cloud"]).expect_success().says("core@1");
    let why = lab.blat(&["why", "core", "1", "--target", "cloud"]);
    why.expect_success().says("core@1");
}

#[test]
fn usr1_syncs_and_the_status_says_what_came_of_it() {
    let (mut lab, bucket) = filled("s3usr1", Store::SeaweedFs, "");
    lab.start_master();
    lab.wait_for_status("cloud", "idle", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    lab.package("core", "3", |p| p);
    lab.release_for_buckets(&[("core", "3")]);

    lab.blat(&["plan", "cloud"]).expect_success().says("core@3");
    lab.blat(&["sync", "cloud", "--wait"]).expect_success();

    let status = lab.target_status("cloud");
    assert_eq!((&status["type"], &status["last_sync"]["sent"]), (&"s3Sync".into(), &1.into()), "{status:#}");
    bucket.assert_published(&lab, "core", "3");
}

#[test]
fn immediate_aging_deletes_in_batches_and_leaves_others_objects_alone() {
    for store in STORES {
        let (lab, bucket) = lab("s3aging", store, "");
        let proxy = Proxy::to(bucket.port());
        bucket.config_through(proxy.port, &lab, "cloud", &[], "aging: immediate\nmax_delete: 100%");
        let names: Vec<String> = (0..60).map(|number| format!("p{number:02}")).collect();
        let wanted: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        wanted.iter().for_each(|(name, version)| drop(lab.package(name, version, |p| p)));
        lab.release_for_buckets(&wanted);
        lab.agent_once("cloud").expect_success();
        let foreign = ["archive/README.txt", "archive/p00/notes.txt", "archive/p01/9.zip", "elsewhere/p02/1.zip"];
        foreign.iter().for_each(|key| bucket.put(key, "somebody else's"));
        lab.release_for_buckets(&wanted[..1]);

        proxy.forget();
        lab.agent_once("cloud").expect_success().says("59 deleted");

        let deletes = proxy.count(Asks::Delete) + proxy.count(Asks::DeleteMany);
        assert_eq!(deletes, 1, "{store}: many in one request\n{:#?}", proxy.log());
        let mut left = keys(&["PackageList.txt", "p00/1.zip"]);
        left.extend(foreign.map(str::to_owned));
        left.sort();
        assert_eq!(bucket.keys(), left, "{store}");
        assert_eq!(bucket.package_list(), ["p00 1"]);
        let plan = lab.blat(&["plan", "cloud", "--json"]);
        for key in &foreign[..3] {
            let name = key.strip_prefix("archive/").expect("a key below the prefix");
            assert!(plan.expect_success().stdout.contains(name), "{store}: {key} is not reported\n{plan}");
        }
    }
}

#[test]
fn the_guard_stops_a_mass_deletion_until_it_is_confirmed() {
    let (lab, bucket) = filled("s3guard", Store::Moto, "aging: immediate\nmax_delete: 1");
    lab.release_for_buckets(&[("core", "1")]);

    lab.agent_once("cloud").expect(1).says("max_delete");
    assert_eq!(bucket.keys().len(), 4, "nothing is deleted");

    let allowed = lab.command("blat-agent").args(["--target", "cloud", "--once", "--allow-delete"]).status();
    assert!(allowed.expect("an agent").success());
    assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/1.zip"]));
}

#[test]
fn the_master_marks_waits_and_unmarks_in_the_bucket() {
    let (lab, bucket) = filled("s3marks", Store::SeaweedFs, "aging: {by: master, after: 30d}\nmax_delete: 100%");
    lab.release_for_buckets(&[("core", "1")]);
    lab.agent_once("cloud").expect_success().says("2 marked");
    assert!(bucket.keys().contains(&"archive/core/2.zip".to_owned()), "it waits");
    lab.agent_once("cloud").expect_success();
    let marks = || bucket.keys().into_iter().filter(|key| key.contains("/marks/")).collect::<Vec<_>>();
    assert_eq!(marks().len(), 2, "{:?}", marks());

    lab.release_for_buckets(&[("core", "1"), ("core", "2")]);
    lab.agent_once("cloud").expect_success();
    let left = marks();
    assert!(left.len() == 1 && left[0].contains("tools/1"), "{left:?}");

    // As if it had been marked long ago.
    let (before, times) = left[0].rsplit_once('/').expect("a key of several parts");
    let (at, wait) = times.split_once('+').expect("a moment and a wait");
    let at: u64 = at.parse().expect("a number");
    bucket.put(&format!("{before}/{}+{wait}", at - 31 * 86_400), "");
    bucket.aws(&["s3", "rm", &bucket.url(&left[0])]);
    lab.agent_once("cloud").expect_success().says("1 deleted");
    assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/1.zip", "core/2.zip"]));
}

#[test]
fn a_package_whose_descpkg_has_another_time_is_replaced() {
    let (lab, bucket) = filled("s3replaced", Store::SeaweedFs, "");
    tree::remove(&lab.source().join("core/1"));
    lab.package("core", "1", |p| p.file("a", "after").file("come", "x").time(1_800_000_000));

    lab.agent_once("cloud").expect_success().says("1 sent");

    bucket.assert_published(&lab, "core", "1");
    assert_eq!(bucket.head("archive/core/1.zip")["Metadata"]["blat-time"], "1800000000");
}

#[test]
fn a_version_that_is_a_link_is_a_copy_of_what_it_addresses() {
    for store in STORES {
        let (lab, bucket) = lab("s3link", store, "");
        lab.package("core", "1", |p| p.file("a", "1"));
        lab.package("core", "2", |p| p.file("a", "2"));
        let current = lab.source().join("core/current");
        let point_to = |version: &str| {
            fs::remove_file(&current).ok();
            std::os::unix::fs::symlink(version, &current).expect("a free name");
        };
        point_to("1");
        bucket.config(&lab, "cloud", &[], "pkg: {core: current}");
        lab.release_for_buckets(&[]);
        lab.agent_once("cloud").expect_success();
        bucket.assert_published(&lab, "core", "1");
        let digest = |key: &str| bucket.head(key)["Metadata"]["blat-sha256"].clone();
        assert_eq!(digest("archive/core/current.zip"), digest("archive/core/1.zip"), "{store}");

        point_to("2");
        lab.agent_once("cloud").expect_success();
        assert_eq!(digest("archive/core/current.zip"), digest("archive/core/2.zip"), "{store}");
        assert_eq!(bucket.head("archive/core/current.zip")["Metadata"]["blat-link"], "2", "{store}");
    }
}

/// One server keeps what it is told, the other looks at what is signed.
#[test]
fn a_bucket_that_demands_encryption_class_and_list_is_told_them_with_every_object() {
    let demands = ["storage_class: STANDARD_IA", "acl: bucket-owner-full-control", "request_payer: requester"];
    for store in STORES {
        let (lab, bucket) = lab("s3demands", store, "");
        let encrypted: &[&str] = match store {
            Store::SeaweedFs => &["sse: AES256"],
            Store::Moto | Store::MotoIam => &["sse: aws:kms", "kms_key_id: alias/packages"],
        };
        let more = "aging: immediate\nmax_delete: 100%\npkg: {core: current}";
        bucket.config(&lab, "cloud", &[&demands, encrypted].concat(), more);
        lab.package("big", "1", |p| p.noise("data", 9 << 20));
        ["1", "2"].iter().for_each(|version| drop(lab.package("core", version, |p| p.file("a", *version))));
        std::os::unix::fs::symlink("1", lab.source().join("core/current")).expect("a free name");
        lab.release_for_buckets(&[("big", "1"), ("core", "2")]);
        lab.blat(&["check", "cloud", "--connect"]).expect_success();
        lab.agent_once("cloud").expect_success();

        let objects = ["PackageList.txt", ".blat/archive", "big/1.zip", "core/1.zip", "core/current.zip"];
        for key in objects.map(|key| format!("archive/{key}")) {
            let head = bucket.head(&key);
            assert_eq!(head["StorageClass"], "STANDARD_IA", "{store} {key}: {head}");
            let said = [&head["ServerSideEncryption"], &head["SSEKMSKeyId"]].map(|said| said.as_str());
            let expected = match store {
                Store::SeaweedFs => [Some("AES256"), None],
                Store::Moto | Store::MotoIam => [Some("aws:kms"), Some("alias/packages")],
            };
            assert_eq!(said, expected, "{key}: {head}");
        }
        bucket.assert_published(&lab, "big", "1");
        lab.blat(&["verify", "cloud"]).expect_success();
        lab.release_for_buckets(&[("core", "2")]);
        lab.agent_once("cloud").expect_success().says("1 deleted");
    }
}

#[test]
fn verify_finds_an_object_that_rotted_and_repairs_it() {
    let (lab, bucket) = filled("s3verify", Store::SeaweedFs, "");
    lab.blat(&["verify", "cloud"]).expect_success();
    let (zip, url) = (bucket.fetch("archive/core/1.zip"), bucket.url("archive/core/1.zip"));
    let metadata = bucket.head("archive/core/1.zip")["Metadata"].to_string();
    let mut bytes = fs::read(&zip).expect("a fetched file");
    bytes[40] ^= 1;
    fs::write(&zip, bytes).expect("an own file");
    let path = zip.display().to_string();
    bucket.aws(&["s3", "cp", "--only-show-errors", "--metadata", &metadata, &path, &url]);

    lab.blat(&["verify", "cloud"]).expect(1).says("core@1");
    lab.blat(&["verify", "cloud", "--repair"]).expect_success();
    bucket.assert_published(&lab, "core", "1");
}

#[test]
fn a_bucket_can_be_checked_before_anything_is_sent() {
    let (lab, bucket) = lab("s3check", Store::SeaweedFs, "");
    lab.release_for_buckets(&[]);
    lab.blat(&["check", "cloud", "--connect"])
        .expect_success()
        .says("writing, reading, copying and deleting are allowed");
    assert_eq!(bucket.keys(), [] as [&str; 0], "nothing is left behind");
    assert_eq!(bucket.unfinished(), [] as [&str; 0], "nothing is left behind");
}

/// More than 32 bits can count, in one file and in the whole.
#[test]
fn faults_long_a_file_of_more_than_4_gib_comes_back_whole() {
    const LENGTH: u64 = (4 << 30) + (300 << 20);
    let (lab, bucket) = lab("s3large", Store::SeaweedFs, "");
    let package = lab.package("large", "1", |p| p.file("data", "").file("zzz", "after it"));
    let data = package.join("data");
    fs::set_permissions(&data, Permissions::from_mode(0o644)).expect("an own file");
    fs::File::options().write(true).open(&data).and_then(|file| file.set_len(LENGTH)).expect("a sparse file");
    fs::set_permissions(&data, Permissions::from_mode(0o444)).expect("an own file");
    lab.release_for_buckets(&[("large", "1")]);

    lab.agent_once("cloud").expect_success();

    let zip = bucket.fetch("archive/large/1.zip");
    let tested = process::run(Command::new("unzip").arg("-tq").arg(&zip), &lab.home());
    tested.expect_success().says("No errors detected");
    let listed = process::run(Command::new("unzip").arg("-l").arg(&zip), &lab.home());
    listed.expect_success().says(&LENGTH.to_string()).says("zzz");
}

/// The policy that the document shows, for the lab's prefix. Where many objects are to be deleted, the lab's server asks for the right to that on
/// the bucket as well; others ask for it on the objects alone.
fn documented_policy() -> String {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/s3.md");
    let text = fs::read_to_string(document).expect("the document");
    let policy = text.split("cat >blat-policy.json <<'END'\n").nth(1).and_then(|rest| rest.split("END\n").next());
    let policy = policy.expect("a policy in the document").replace("/dpkg_archive/", "/archive/");
    let on_bucket =
        r#"{"Effect": "Allow", "Action": ["s3:DeleteObject"], "Resource": "arn:aws:s3:::example-packages"}"#;
    policy.replace("\"Statement\": [", &format!("\"Statement\": [{on_bucket},"))
}

#[test]
fn the_documented_policy_is_enough_for_everything_that_blat_does() {
    let (mut lab, bucket) = lab("s3policy", Store::MotoIam, "aging: immediate\nmax_delete: 100%\npkg: {core: current}");
    let account = bucket.account("blat");
    bucket.allow("blat", &documented_policy());
    lab.set_environment(account.environment());
    lab.package("big", "1", |p| p.noise("data", 20 << 20));
    for version in ["1", "2"] {
        lab.package("core", version, |p| p.file("a", version));
    }
    std::os::unix::fs::symlink("1", lab.source().join("core/current")).expect("a free name");
    lab.release_for_buckets(&[("big", "1"), ("core", "2")]);

    lab.blat(&["check", "cloud", "--connect"]).expect_success();
    lab.agent_once("cloud").expect_success();
    lab.blat(&["verify", "cloud"]).expect_success();
    tree::remove(&lab.source().join("big/1"));
    lab.package("big", "1", |p| p.noise("data", 21 << 20).time(1_800_000_000));
    lab.release_for_buckets(&[("big", "1")]);
    lab.agent_once("cloud").expect_success().says("1 deleted");

    assert_eq!(bucket.keys(), keys(&["PackageList.txt", "big/1.zip", "core/1.zip", "core/current.zip"]));
}

#[test]
fn a_right_that_the_documented_policy_would_lack_is_named_by_check() {
    let (mut lab, bucket) = lab("s3least", Store::MotoIam, "");
    lab.set_environment(bucket.account("blat").environment());
    lab.release_for_buckets(&[]);
    let policy = documented_policy();
    let actions: BTreeSet<&str> = policy.split('"').filter(|word| word.starts_with("s3:")).collect();
    assert_eq!(actions.len(), 6, "{policy}");
    for action in actions {
        bucket.allow("blat", &policy.replace(&format!("\"{action}\""), "\"s3:GetBucketLocation\""));
        lab.blat(&["check", "cloud", "--connect"]).expect(1).says(action);
    }
    bucket.allow("blat", &policy);
    lab.blat(&["check", "cloud", "--connect"]).expect_success();
}

/// One archive, one owner: another home tree sends to the bucket, and neither lists nor deletes there until it takes it over.
#[test]
fn two_home_trees_on_one_bucket_never_delete_each_others_packages() {
    for store in STORES {
        let (lab, bucket) = filled("s3owner", store, "aging: immediate\nmax_delete: 100%");
        let record = bucket.record().expect("a record");
        let id = lab.home().join("config/home-id");
        let first = fs::read_to_string(&id).expect("a home id");
        assert_eq!(record.lines().nth(1), Some(format!("{} cloud", first.trim()).as_str()), "{store}");

        fs::write(&id, "0123456789abcdef0123456789abcdef\n").expect("another home tree");
        lab.package("core", "3", |p| p.file("a", "3"));
        lab.release_for_buckets(&[("core", "3")]);
        lab.agent_once("cloud").expect(1).says("another home tree").says("blat adopt cloud");
        let all = keys(&["PackageList.txt", "core/1.zip", "core/2.zip", "core/3.zip", "tools/1.zip"]);
        assert_eq!((bucket.keys(), bucket.package_list().len()), (all, 3), "{store}");
        assert_eq!(bucket.record(), Some(record.clone()));

        lab.blat(&["adopt", "cloud"]).expect_success().says("it belonged to target cloud").says(first.trim());
        let adopted = bucket.record().expect("a record");
        assert_ne!(
            adopted.lines().next(),
            record.lines().next(),
            "{store}: an adoption is another archive to all that remember"
        );
        lab.agent_once("cloud").expect_success().says("does not know what tags brought before");
        let mut confirmed = lab.command("blat-agent");
        confirmed.args(["--target", "cloud", "--once", "--allow-delete"]);
        process::run(&mut confirmed, &lab.home()).expect_success().says("3 deleted");
        assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/3.zip"]), "{store}");

        // Line 16: nothing is deleted without a list.
        lab.release_for_buckets(&[("core", "1")]);
        bucket.put("archive/PackageList.txt", "core 3\n");
        lab.agent_once("cloud").expect(1).says("no whole PackageList");
        assert_eq!(bucket.keys(), keys(&["PackageList.txt", "core/1.zip", "core/3.zip"]), "{store}");
        lab.agent_once("cloud").expect_success().says("1 deleted");
    }
}
