//! Faults between agent and bucket, made by a proxy before a real S3 server: refused, slow, reset, cut, damaged. No object is ever less than
//! whole, nothing is deleted on a listing that is not whole, and what only a person can mend is named.

use blat_tests::process;
use blat_tests::s3::AccessKey;
use blat_tests::s3_proxy::{Asks, Proxy, RequestFault};
use blat_tests::{Bucket, Lab, Store};
use rustix::process::Signal;

/// A package that goes in parts, one that does not, and a proxy on their way.
fn lab(name: &str, store: Store, more: &str) -> (Lab, Bucket, Proxy) {
    let mut lab = Lab::new(name);
    let bucket = Bucket::new(&mut lab, store);
    let proxy = Proxy::to(bucket.port());
    bucket.config_through(proxy.port, &lab, "cloud", &[], more);
    lab.package("big", "1", |p| p.noise("data", 20 << 20));
    lab.package("small", "1", |p| p.noise("data", 50_000));
    lab.release_for_buckets(&[("big", "1"), ("small", "1")]);
    (lab, bucket, proxy)
}

fn assert_all_there(lab: &Lab, bucket: &Bucket) {
    assert_objects_there(lab, bucket);
    assert_eq!(bucket.unfinished(), [] as [&str; 0]);
}

fn assert_objects_there(lab: &Lab, bucket: &Bucket) {
    assert_eq!(bucket.keys(), ["archive/PackageList.txt", "archive/big/1.zip", "archive/small/1.zip"]);
    assert_eq!(bucket.package_list(), ["big 1", "small 1"]);
    bucket.assert_published(lab, "big", "1");
    bucket.assert_published(lab, "small", "1");
}

/// Spoils one request of each kind that a first sync makes; the same sync comes through.
fn comes_through(name: &str, store: Store, fault: RequestFault, asked: &[Asks]) {
    let (lab, bucket, proxy) = lab(name, store, "");
    asked.iter().for_each(|asks| proxy.spoils(1, *asks, fault));
    lab.agent_once("cloud").expect_success();
    assert!(proxy.all_spoiled(), "{fault:?}: not every order met its request\n{:#?}", proxy.log());
    assert_all_there(&lab, &bucket);
}

const FIRST_SYNC: [Asks; 5] = [Asks::List, Asks::Put, Asks::Begin, Asks::Part, Asks::Complete];

#[test]
fn a_server_that_asks_to_slow_down_is_asked_again() {
    comes_through("s3busy", Store::SeaweedFs, RequestFault::Refused(503, "SlowDown"), &FIRST_SYNC);
}

#[test]
fn an_internal_error_is_asked_again_on_another_server_too() {
    comes_through("s3internal", Store::Moto, RequestFault::Refused(500, "InternalError"), &FIRST_SYNC);
}

#[test]
fn a_reset_connection_costs_one_more_try() {
    comes_through("s3reset", Store::SeaweedFs, RequestFault::Reset, &FIRST_SYNC);
}

/// What the server did is found to be done, and neither an error nor a second object.
#[test]
fn an_answer_that_gets_lost_is_no_failure() {
    for store in [Store::SeaweedFs, Store::Moto] {
        comes_through("s3lost", store, RequestFault::LostAnswer, &[Asks::Put, Asks::Part]);
    }
}

#[test]
fn an_upload_whose_beginning_or_end_was_not_answered_is_whole_in_the_end() {
    for (store, asks) in [
        (Store::SeaweedFs, Asks::Begin),
        (Store::SeaweedFs, Asks::Complete),
        (Store::Moto, Asks::Begin),
        (Store::Moto, Asks::Complete),
    ] {
        let (lab, bucket, proxy) = lab("s3end", store, "");
        proxy.spoils(1, asks, RequestFault::LostAnswer);
        let first = lab.agent_once("cloud");
        println!("{store}, {asks:?}: ended with {:?}", first.code);
        assert!(proxy.all_spoiled());
        lab.agent_once("cloud").expect_success();
        assert_objects_there(&lab, &bucket);
        // An upload whose number never came stays: it has no parts, and by its key alone it may be anybody's.
        let left: &[&str] = if matches!(asks, Asks::Begin) { &["archive/big/1.zip"] } else { &[] };
        assert_eq!(bucket.unfinished(), left, "{store}, {asks:?}");
    }
}

#[test]
fn bytes_that_are_damaged_on_the_way_are_noticed_by_the_server_and_sent_again() {
    comes_through("s3damaged", Store::SeaweedFs, RequestFault::Damaged, &[Asks::Put, Asks::Part]);
}

#[test]
fn a_slow_link_is_slow_and_nothing_else() {
    comes_through("s3slow", Store::SeaweedFs, RequestFault::Slow(2 << 20), &[Asks::Put, Asks::Part, Asks::Part]);
}

/// A day of refusals for one package: the others arrive, nothing lists it, and it comes once the server takes it.
#[test]
fn what_the_server_refuses_for_long_is_told_and_tried_again_by_the_daemon() {
    let (mut lab, bucket, proxy) = lab("s3long", Store::SeaweedFs, "");
    proxy.spoils(usize::MAX, Asks::Begin, RequestFault::Refused(503, "SlowDown"));
    lab.start_master();
    let status = lab.wait_for_status("cloud", "failing to send", |s| s["last_error"]["text"].is_string());
    let text = status["last_error"]["text"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("SlowDown") && status["last_error"]["retry_at"].is_string(), "{status:#}");
    assert!(!bucket.keys().contains(&"archive/PackageList.txt".to_owned()), "no list names what is not there");

    proxy.heals();
    lab.blat(&["sync", "cloud", "--wait"]).expect_success();
    assert_all_there(&lab, &bucket);
}

/// Fault by fault what an operator reads; nothing is deleted meanwhile, and the next sync after the cure does everything.
#[test]
fn what_only_a_person_can_mend_is_named() {
    // Each leaves something of a first sync undone for the next ones.
    let by_policy = |_: String| {
        "<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::111122223333:user/blat is not authorized to perform: s3:ListBucket on \
         resource: \"arn:aws:s3:::example-packages\" because no VPC endpoint policy allows the s3:ListBucket action</Message></Error>"
            .to_owned()
    };
    let cases = [
        (
            Asks::List,
            RequestFault::Answered(403, by_policy),
            ["AccessDenied", "; no VPC endpoint policy allows s3:ListBucket"],
        ),
        (Asks::List, RequestFault::Refused(403, "AccessDenied"), ["AccessDenied", "s3:ListBucket"]),
        (Asks::List, RequestFault::Refused(400, "ExpiredToken"), ["ExpiredToken", "expired"]),
        (Asks::Begin, RequestFault::Refused(403, "AccessDenied"), ["AccessDenied", "s3:PutObject"]),
        (Asks::Put, RequestFault::Refused(400, "ExpiredToken"), ["ExpiredToken", "expired"]),
        (Asks::Put, RequestFault::Refused(403, "AccessDenied"), ["AccessDenied", "s3:PutObject"]),
    ];
    let (lab, bucket, proxy) = lab("s3denied", Store::SeaweedFs, "aging: immediate\nmax_delete: 100%");
    for (asks, fault, said) in cases {
        proxy.spoils(usize::MAX, asks, fault);
        let outcome = lab.agent_once("cloud");
        outcome.expect(1);
        for word in said {
            outcome.says(word);
        }
        assert!(!bucket.keys().contains(&"archive/PackageList.txt".to_owned()), "{outcome}");
        proxy.heals();
    }
    lab.agent_once("cloud").expect_success();
    assert_all_there(&lab, &bucket);

    lab.release_for_buckets(&[("small", "1")]);
    proxy.spoils(usize::MAX, Asks::DeleteMany, RequestFault::Refused(403, "AccessDenied"));
    lab.agent_once("cloud").expect(1).says("s3:DeleteObject");
    assert!(bucket.keys().contains(&"archive/big/1.zip".to_owned()), "it is still there");
}

#[test]
fn a_wrong_key_a_missing_bucket_and_missing_rights_are_told_by_the_server_itself() {
    let (mut lab, bucket, _proxy) = lab("s3rights", Store::SeaweedFs, "");
    bucket.config(&lab, "cloud", &["bucket: no-such-bucket"], "");
    lab.agent_once("cloud").expect(1).says("NoSuchBucket").says("no such bucket");
    bucket.config(&lab, "cloud", &[], "");
    lab.set_environment(AccessKey::reader().environment());
    lab.agent_once("cloud").expect(1).says("AccessDenied").says("s3:PutObject");
    let mut wrong = AccessKey::reader().environment();
    wrong[1].1 = "not-the-secret".into();
    lab.set_environment(wrong);
    let outcome = lab.agent_once("cloud");
    outcome.expect(1).says("SignatureDoesNotMatch").says("credentials");
    let said = [&outcome.stdout, &outcome.stderr].map(|stream| stream.contains("not-the-secret"));
    assert_eq!(said, [false, false], "a secret is shown\n{outcome}");
    assert_eq!(bucket.keys(), [] as [&str; 0]);
}

#[test]
fn a_bucket_in_another_region_is_told_with_the_region_to_say() {
    let (lab, _bucket, proxy) = lab("s3region", Store::Moto, "");
    let elsewhere = |_: String| {
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>\
         <Region>eu-west-1</Region></Error>"
            .to_owned()
    };
    proxy.spoils(usize::MAX, Asks::List, RequestFault::Answered(400, elsewhere));
    lab.agent_once("cloud").expect(1).says("say region: eu-west-1");
}

#[test]
fn a_listing_that_is_not_whole_deletes_nothing() {
    let (lab, bucket, proxy) = lab("s3listing", Store::SeaweedFs, "aging: immediate\nmax_delete: 100%");
    lab.agent_once("cloud").expect_success();
    lab.release_for_buckets(&[("small", "1")]);
    let without_token =
        |text: String| text.replace("<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated>");
    let faults = [
        RequestFault::CutAnswer,
        RequestFault::Refused(503, "SlowDown"),
        RequestFault::Answered(200, without_token),
        RequestFault::Answered(200, |text| text[..text.len() / 2].to_owned()),
        RequestFault::Answered(200, |_| "<html>please log in</html>".to_owned()),
    ];
    for fault in faults {
        proxy.spoils(usize::MAX, Asks::List, fault);
        proxy.forget();
        lab.agent_once("cloud").expect(1);
        let changes = [Asks::Put, Asks::Delete, Asks::DeleteMany, Asks::Begin];
        changes.iter().for_each(|asks| assert_eq!(proxy.count(*asks), 0, "{fault:?}: {asks:?}"));
        proxy.heals();
    }
    assert!(bucket.keys().contains(&"archive/big/1.zip".to_owned()));
    lab.agent_once("cloud").expect_success().says("1 deleted");
    assert_eq!(bucket.keys(), ["archive/PackageList.txt", "archive/small/1.zip"]);
}

/// The second page fails: what the first one lacks must not look gone, nor be sent again.
#[test]
fn a_listing_that_fails_on_its_second_page_is_no_listing() {
    let (lab, bucket, proxy) = lab("s3page", Store::SeaweedFs, "aging: immediate\nmax_delete: 100%");
    let names: Vec<String> = (0..1_100).map(|number| format!("p{number:04}")).collect();
    let mut wanted: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    wanted.iter().for_each(|(name, version)| drop(lab.package(name, version, |p| p)));
    lab.release_for_buckets(&wanted);
    lab.agent_once("cloud").expect_success();
    let all = bucket.keys();
    wanted.truncate(1_099);
    lab.release_for_buckets(&wanted);

    proxy.spoils_after(1, usize::MAX, Asks::List, RequestFault::Refused(503, "SlowDown"));
    proxy.forget();
    lab.agent_once("cloud").expect(1);

    assert!(proxy.count(Asks::List) >= 2, "{:#?}", proxy.log());
    assert_eq!(proxy.count(Asks::Put), 0);
    assert_eq!(bucket.keys(), all);
}

#[test]
fn an_agent_that_dies_in_the_midst_of_an_upload_leaves_nothing_for_long() {
    for store in [Store::SeaweedFs, Store::Moto] {
        let (lab, bucket, proxy) = lab("s3death", store, "");
        proxy.spoils_after(1, usize::MAX, Asks::Part, RequestFault::Silence);
        let agent = lab.start_agent_once("cloud");
        lab.wait_for("a part that does not get through", || (proxy.count(Asks::Part) > 1).then_some(()));
        process::signal(agent.pid(), Signal::KILL);
        agent.finish();
        assert_eq!(bucket.unfinished(), ["archive/big/1.zip"], "{store}");
        assert!(!bucket.keys().contains(&"archive/big/1.zip".to_owned()), "half a package is no object");

        proxy.heals();
        lab.agent_once("cloud").expect_success();
        assert_all_there(&lab, &bucket);
    }
}

#[test]
fn an_upload_of_somebody_else_is_left_alone() {
    let (lab, bucket, _proxy) = lab("s3theirs", Store::SeaweedFs, "");
    for key in ["elsewhere/1.zip", "archive/notes.bin"] {
        bucket.aws(&["s3api", "create-multipart-upload", "--bucket", &bucket.name, "--key", key]);
    }
    lab.agent_once("cloud").expect_success();
    assert_eq!(bucket.unfinished(), ["archive/notes.bin", "elsewhere/1.zip"]);
}
