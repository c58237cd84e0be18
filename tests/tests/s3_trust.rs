//! A bucket's server is a stranger whose answers are read by what they say, and other people's objects and uploads are theirs.

use std::os::unix::fs::PermissionsExt;

use blat_tests::s3_proxy::{Asks, Proxy, RequestFault};
use blat_tests::{Bucket, Lab, Store, process, tree};
use rustix::process::Signal;

const DELETING: &str = "aging: immediate\nmax_delete: 100%";

/// A bucket that holds these packages, three of which nobody wants any more.
fn lab(name: &str) -> (Lab, Bucket, Proxy) {
    let mut lab = Lab::new(name);
    let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
    let proxy = Proxy::to(bucket.port());
    bucket.config_through(proxy.port, &lab, "cloud", &[], DELETING);
    let all = ["a", "b", "c", "stays"].map(|name| (name, "1"));
    all.iter().for_each(|(name, version)| drop(lab.package(name, version, |p| p.file("a", "1"))));
    lab.release_for_buckets(&all);
    lab.agent_once("cloud").expect_success();
    lab.release_for_buckets(&all[3..]);
    (lab, bucket, proxy)
}

const ALL: [&str; 5] =
    ["archive/PackageList.txt", "archive/a/1.zip", "archive/b/1.zip", "archive/c/1.zip", "archive/stays/1.zip"];
const LEFT: [&str; 2] = ["archive/PackageList.txt", "archive/stays/1.zip"];

#[test]
fn a_success_that_carries_an_error_deletes_nothing_and_says_so() {
    let (lab, bucket, proxy) = lab("s3never");
    proxy.spoils(usize::MAX, Asks::DeleteMany, RequestFault::Refused(200, "InternalError"));
    let outcome = lab.agent_once("cloud");

    outcome.expect(1).says("InternalError");
    assert!(!outcome.stdout.contains("3 deleted") && !outcome.stderr.contains("3 deleted"), "{outcome}");
    assert!(!outcome.stdout.contains("2 deleted") && !outcome.stderr.contains("2 deleted"), "{outcome}");
    assert_eq!(bucket.keys(), ALL);
    proxy.heals();
    lab.agent_once("cloud").expect_success().says("3 deleted");
    assert_eq!(bucket.keys(), LEFT);
}

/// As where another server answers at the endpoint, or one whose disk is not mounted: what is there is moved away for a while.
#[test]
fn no_tag_is_used_up_by_another_bucket_that_answers_at_the_endpoint() {
    let (mut lab, bucket, _proxy) = lab("s3another");
    lab.start_master();
    lab.wait_for_status("cloud", "idle", |s| s["last_sync"]["result"] == "ok" && s["state"] == "idle");
    ["late", "later"].iter().for_each(|name| drop(lab.package(name, "1", |p| p.file("a", "1"))));
    let (here, away) = (bucket.url("archive"), bucket.url("away"));
    let moves = |from: &str, to: &str| drop(bucket.aws(&["s3", "mv", "--recursive", "--only-show-errors", from, to]));
    let wait_for_history = |text: &str| {
        let says = || lab.blat(&["history", "--target", "cloud"]).stdout.contains(text).then_some(());
        lab.wait_for("an entry of the history", says);
    };

    moves(&here, &away);
    let tag = lab.drop_tag("cloud", "late", "1");
    wait_for_history("no record of its owner");
    assert!(bucket.objects().keys().all(|key| key.starts_with("away/")) && tag.exists(), "{:?}", bucket.objects());
    moves(&away, &here);
    lab.blat(&["sync", "cloud", "--wait"]).expect_success();
    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    bucket.assert_published(&lab, "late", "1");

    let record = bucket.record().expect("a record");
    bucket.put("archive/.blat/archive", &record.replace(" cloud", " other"));
    let tag = lab.drop_tag("cloud", "later", "1");
    wait_for_history("may be another one");
    assert!(!bucket.keys().contains(&"archive/later/1.zip".to_owned()) && tag.exists(), "{:?}", bucket.keys());
    // A full sync judges: the bucket is somebody else's, and is sent to.
    lab.blat(&["sync", "cloud", "--wait"]).expect(1);
    lab.wait_for("the tag to be removed", || (!tag.exists()).then_some(()));
    bucket.assert_published(&lab, "later", "1");
}

/// SeaweedFS lists `a/…` before `a-b/…`, and of these keys a page would end among those of `a-b`.
#[test]
fn a_bucket_that_is_listed_folder_by_folder_is_seen_whole() {
    let mut lab = Lab::new("s3order");
    let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
    let proxy = Proxy::to(bucket.port());
    bucket.config_through(proxy.port, &lab, "cloud", &[], DELETING);
    let versions: Vec<String> = (0..950).map(|number| format!("v{number:03}")).collect();
    let of = |name, count| versions.iter().take(count).map(move |version: &String| (name, version.as_str()));
    let all: Vec<(&str, &str)> = of("0x", 950).chain(of("a-b", 90)).chain(of("a", 5)).collect();
    all.iter().for_each(|(name, version)| drop(lab.package(name, version, |p| p)));
    lab.release_for_buckets(&all);
    lab.agent_once("cloud").expect_success();
    assert!(proxy.count(Asks::Put) > all.len(), "each package is sent: {}", proxy.count(Asks::Put));

    proxy.forget();
    let wanted: Vec<(&str, &str)> = all.iter().copied().filter(|package| *package != ("a", "v001")).collect();
    lab.release_for_buckets(&wanted);
    lab.agent_once("cloud").expect_success().says("1044 of 1044").says("1 deleted");

    assert_eq!(proxy.count(Asks::Put), 1, "nothing but the PackageList is sent again: {:#?}", proxy.log());
}

/// The agent's file is the very one of before, and only the bucket knows that somebody has worked on it since.
#[test]
fn a_memory_that_was_put_back_is_known_by_the_bucket() {
    let (lab, bucket, _proxy) = lab("s3putback");
    let known = lab.home().join("config/.known/cloud.json");
    let week = lab.home().join("week");
    std::fs::hard_link(&known, &week).expect("an own folder");
    lab.release_for_buckets(&["a", "b", "c", "stays"].map(|name| (name, "1")));
    lab.agent_once("cloud").expect_success();
    std::fs::rename(&week, &known).expect("an own folder");
    lab.release_for_buckets(&[("stays", "1")]);
    lab.agent_once("cloud").expect_success().says("does not know what tags brought before");
    assert_eq!(bucket.keys(), ALL);
}

/// A file with a hole takes no room at the source, and packing it would take hours.
#[test]
fn a_package_larger_than_an_object_is_refused_by_name_and_others_go_on() {
    let (lab, bucket, _proxy) = lab("s3hole");
    let hole = lab.package("hole", "1", |p| p.file("data", "1")).join("data");
    let set_mode = |mode| std::fs::set_permissions(&hole, PermissionsExt::from_mode(mode)).expect("an own file");
    set_mode(0o644);
    std::fs::File::options().write(true).open(&hole).and_then(|file| file.set_len((5 << 40) + 1)).expect("a hole");
    set_mode(0o444);
    lab.package("late", "1", |p| p.file("a", "1"));
    lab.release_for_buckets(&[("hole", "1"), ("late", "1"), ("stays", "1")]);

    lab.blat(&["plan", "cloud"]).expect_success().says("hole@1").says("more than 5.0 TiB");
    lab.agent_once("cloud").expect(1).says("hole@1").says("more than 5.0 TiB");
    assert!(bucket.keys().contains(&"archive/late/1.zip".to_owned()), "{:?}", bucket.keys());
    // Not whole, so nothing is deleted.
    assert!(bucket.keys().contains(&"archive/a/1.zip".to_owned()), "{:?}", bucket.keys());
}

#[test]
fn an_error_in_a_success_and_a_key_without_an_answer_are_tried_again() {
    let without_b = |text: String| {
        let deleted = |part: &&str| !part.contains("archive/b/1.zip");
        text.split_inclusive("</Deleted>").filter(deleted).collect::<String>()
    };
    for fault in [
        RequestFault::Refused(200, "SlowDown"),
        RequestFault::Answered(200, without_b),
        RequestFault::Answered(200, |_| "<DeleteResult></DeleteResult>".to_owned()),
        RequestFault::Answered(200, |_| {
            "<DeleteResult><Error><Code>InternalError</Code><Message>m</Message></Error></DeleteResult>".to_owned()
        }),
        RequestFault::Answered(200, |_| {
            "<DeleteResult><Deleted><Key>theirs</Key></Deleted><Error><Key>theirs</Key><Code>AccessDenied</Code>\
             <Message>m</Message></Error></DeleteResult>"
                .to_owned()
        }),
    ] {
        let (lab, bucket, proxy) = lab("s3again");
        proxy.spoils(1, Asks::DeleteMany, fault);
        proxy.forget();
        lab.agent_once("cloud").expect_success().says("3 deleted");
        assert!(proxy.all_spoiled() && proxy.count(Asks::DeleteMany) == 2, "{fault:?}: {:#?}", proxy.log());
        assert_eq!(bucket.keys(), LEFT, "{fault:?}");
    }
}

#[test]
fn an_upload_whose_end_is_a_success_with_an_error_is_ended_again() {
    let (lab, bucket, proxy) = lab("s3end");
    lab.package("big", "1", |p| p.noise("data", 20 << 20));
    lab.release_for_buckets(&[("big", "1")]);
    proxy.spoils(1, Asks::Complete, RequestFault::Refused(200, "InternalError"));
    lab.agent_once("cloud").expect_success();
    assert!(proxy.all_spoiled());
    bucket.assert_published(&lab, "big", "1");
    assert_eq!(bucket.unfinished(), [] as [&str; 0]);
}

#[test]
fn packages_called_like_errors_come_and_go() {
    let (lab, bucket, _proxy) = lab("s3names");
    let names = ["InternalError", "SlowDown", "Error", "Deleted"];
    for name in names {
        let bytes = if name == "InternalError" { 20 << 20 } else { 1000 };
        lab.package(name, "1", |p| p.noise("data", bytes));
    }
    lab.release_for_buckets(&names.map(|name| (name, "1")));
    lab.agent_once("cloud").expect_success();
    names.iter().for_each(|name| bucket.assert_published(&lab, name, "1"));
    lab.release_for_buckets(&[("stays", "1")]);
    lab.agent_once("cloud").expect_success().says("4 deleted");
    assert_eq!(bucket.keys(), LEFT);
}

#[test]
fn an_unfinished_upload_of_somebody_else_is_left_alone_even_where_a_package_goes() {
    let (lab, bucket, _proxy) = lab("s3others");
    for key in ["archive/big/1.zip", "archive/stays/1.zip", "archive/.blat/check"] {
        bucket.aws(&["s3api", "create-multipart-upload", "--bucket", &bucket.name, "--key", key]);
    }
    lab.package("big", "1", |p| p.noise("data", 20 << 20));
    lab.release_for_buckets(&[("big", "1"), ("stays", "1")]);
    lab.agent_once("cloud").expect_success();
    lab.agent_once("cloud").expect_success();
    assert_eq!(bucket.unfinished(), ["archive/.blat/check", "archive/big/1.zip", "archive/stays/1.zip"]);
}

/// An agent that dies before it hears the number of its upload knows none at that key.
#[test]
fn an_upload_of_somebody_else_is_left_alone_where_an_agent_died_while_it_began_one() {
    let (lab, bucket, proxy) = lab("s3begins");
    lab.package("big", "1", |p| p.noise("data", 20 << 20));
    lab.release_for_buckets(&[("big", "1"), ("stays", "1")]);
    proxy.spoils(usize::MAX, Asks::Begin, RequestFault::Silence);
    let agent = lab.start_agent_once("cloud");
    lab.wait_for("an upload that begins", || (proxy.count(Asks::Begin) > 0).then_some(()));
    process::signal(agent.pid(), Signal::KILL);
    agent.finish();
    proxy.heals();
    bucket.aws(&["s3api", "create-multipart-upload", "--bucket", &bucket.name, "--key", "archive/big/1.zip"]);
    lab.agent_once("cloud").expect_success();
    bucket.assert_published(&lab, "big", "1");
    assert_eq!(bucket.unfinished(), ["archive/big/1.zip"]);
}

/// The server kept another number of bytes than were sent: its listing says so, and nobody relies on such an object.
#[test]
fn packages_that_are_listed_with_another_size_are_sent_again() {
    let (lab, bucket, proxy) = lab("s3size");
    lab.release_for_buckets(&["a", "b", "c", "stays"].map(|name| (name, "1")));
    lab.agent_once("cloud").expect_success();
    let otherwise = |text: String| text.replace("<Size>", "<Size>1");
    proxy.spoils(1, Asks::List, RequestFault::Answered(200, otherwise));
    proxy.forget();
    lab.agent_once("cloud").expect_success().says("another size than was sent");
    let sent = |name: &str| {
        proxy.log().iter().any(|request| request.starts_with(&format!("PUT /{}/archive/{name}/1.zip", bucket.name)))
    };
    assert!(["a", "b", "c", "stays"].iter().all(|name| sent(name)), "{:#?}", proxy.log());
    proxy.forget();
    lab.agent_once("cloud").expect_success();
    assert_eq!(proxy.count(Asks::Put), 0, "{:#?}", proxy.log());
}

/// Between two tries of a write that replaces something another home may adopt the bucket.
#[test]
fn a_write_that_replaces_is_made_again_only_after_a_look_at_the_record() {
    let (lab, _bucket, proxy) = lab("s3owner");
    let sync = |what: &str| {
        proxy.forget();
        proxy.spoils(1, Asks::Put, RequestFault::Refused(503, "SlowDown"));
        lab.agent_once("cloud").expect_success();
        assert!(proxy.all_spoiled());
        let log = proxy.log();
        let writes: Vec<usize> =
            (0..log.len()).filter(|at| log[*at].starts_with("PUT ") && log[*at].contains(what)).collect();
        assert_eq!(writes.len(), 2, "{log:#?}");
        assert!(log[writes[0]..writes[1]].iter().any(|asked| asked.contains("/.blat/archive")), "{log:#?}");
    };
    // Three packages go, so that the list is another.
    sync("/PackageList.txt");
    tree::remove(&lab.source().join("stays/1"));
    lab.package("stays", "1", |p| p.file("a", "2").time(1_800_000_000));
    sync("/stays/1.zip");
}

/// The server says that it stored an object, and in the same answer that it did not.
#[test]
fn a_package_whose_success_carries_an_error_is_sent_again_and_not_listed_before() {
    let (lab, bucket, proxy) = lab("s3put");
    lab.package("new", "1", |p| p.file("a", "1"));
    lab.release_for_buckets(&[("new", "1"), ("stays", "1")]);
    proxy.spoils(1, Asks::Put, RequestFault::Refused(200, "InternalError"));
    lab.agent_once("cloud").expect_success();
    assert!(proxy.all_spoiled());
    bucket.assert_published(&lab, "new", "1");

    lab.package("newer", "1", |p| p.file("a", "1"));
    lab.release_for_buckets(&[("newer", "1"), ("stays", "1")]);
    proxy.spoils(usize::MAX, Asks::Put, RequestFault::Refused(200, "InternalError"));
    lab.agent_once("cloud").expect(1).says("InternalError");
    assert_eq!(bucket.package_list(), ["new 1", "stays 1"]);
}

/// Whoever may only write objects puts marks there that are years old. One that is written as Blat writes it goes with the next sync; no other counts.
#[test]
fn a_mark_that_is_not_written_as_blat_writes_it_is_foreign_and_hurries_no_deletion() {
    let (lab, bucket, proxy) = lab("s3oddmark");
    let waiting = "aging: {by: master, after: 1d}\nmax_delete: 100%";
    bucket.config_through(proxy.port, &lab, "cloud", &[], waiting);
    lab.release_for_buckets(&["a", "b", "c", "stays"].map(|name| (name, "1")));
    for (package, mark) in [("a", "7+0"), ("b", "007+0"), ("c", "+7+0"), ("c", "-0+0")] {
        bucket.put(&format!("archive/.blat/marks/{package}/1/{mark}"), "");
    }
    lab.agent_once("cloud").expect_success();
    assert!(!bucket.keys().contains(&"archive/.blat/marks/a/1/7+0".to_owned()), "{:?}", bucket.keys());
    lab.release_for_buckets(&[("stays", "1")]);
    lab.agent_once("cloud").expect_success().says("3 marked");
    lab.agent_once("cloud").expect_success();
    assert!(ALL.iter().all(|key| bucket.keys().contains(&(*key).to_owned())), "{:?}", bucket.keys());
}

/// A copy has the metadata of what it is a copy of, which say what package that is.
#[test]
fn a_copy_that_somebody_made_of_a_package_is_theirs_and_stays() {
    let (lab, bucket, _proxy) = lab("s3copies");
    let from = bucket.url("archive/stays/1.zip");
    for copy in ["archive/stays/1-keep.zip", "archive/mine/1.zip"] {
        bucket.aws(&["s3", "cp", &from, &bucket.url(copy)]);
        assert_eq!(bucket.head(copy)["Metadata"]["blat-package"], "stays@1", "the tool copies what it says");
    }
    lab.agent_once("cloud").expect_success().says("3 deleted").says("not ours").says("stays/1-keep.zip");
    lab.agent_once("cloud").expect_success();
    let mut left = LEFT.map(str::to_owned).to_vec();
    left.extend(["archive/mine/1.zip", "archive/stays/1-keep.zip"].map(str::to_owned));
    left.sort();
    assert_eq!(bucket.keys(), left);
    lab.release_for_buckets(&[("stays", "1"), ("mine", "1")]);
    lab.package("mine", "1", |p| p.file("a", "1"));
    lab.agent_once("cloud").expect(1).says("mine/1.zip");
}
