//! An archive that is taken back: whoever had it before knows nothing of what the tags of others brought to it meanwhile.

use blat_tests::s3_proxy::Proxy;
use blat_tests::{Bucket, Lab, Store, process};

/// What lets everything go that nothing wants.
const EAGER: &str = "aging: immediate\nmax_delete: 100%";
/// A bucket instead of an archive on a host.
const BUCKET: &str = "a bucket";
/// The kinds of targets.
const KINDS: [&str; 3] = ["receiver: auto", "receiver: never", BUCKET];

/// An archive that two targets, perth and sydney, lead to in different ways, so that no comparison of configs sees it.
struct Shared {
    bucket: Option<(Proxy, Bucket)>,
    kind: &'static str,
    lab: Lab,
}

impl Shared {
    /// It holds what the release wants, sent by perth, who owns it; the master serves both.
    fn new(name: &str, kind: &'static str, perth: &str, wanted: &[(&str, &str)]) -> Self {
        let mut lab = Lab::new(name);
        for name in ["core", "old", "later"] {
            lab.package(name, "1", |p| p.file("bin/a", name));
        }
        let bucket = (kind == BUCKET).then(|| {
            let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
            (Proxy::to(bucket.port()), bucket)
        });
        lab.release_for_buckets(wanted);
        let mut shared = Self { bucket, kind, lab };
        shared.config("perth", perth);
        shared.lab.agent_once("perth").expect_success();
        shared.config("sydney", "");
        shared.lab.start_master();
        let ended = |target, result| shared.lab.wait_for_status(target, result, |s| s["last_sync"]["result"] == result);
        ended("perth", "ok");
        let text = ended("sydney", "failed")["last_error"]["text"].to_string();
        assert!(text.contains("belongs to target perth"), "{kind}: {text}");
        shared
    }

    fn config(&self, target: &str, extra: &str) {
        let lab = &self.lab;
        if let Some((proxy, bucket)) = &self.bucket {
            let port = if target == "perth" { bucket.port() } else { proxy.port };
            return bucket.config_through(port, lab, target, &[], &format!("{EAGER}\n{extra}"));
        }
        let mut own = format!("{EAGER}\n{}\n{extra}", self.kind);
        if target != "perth" {
            let link = lab.target_archive().with_file_name("by another name");
            std::os::unix::fs::symlink(lab.target_archive(), &link).expect("an own folder");
            own += &format!("\narchive: {}", link.display());
        }
        lab.config(target, &own);
    }

    fn packages(&self) -> Vec<String> {
        let Some((_, bucket)) = &self.bucket else { return self.lab.visible() };
        let package = |key: &String| Some(key.strip_prefix("archive/")?.strip_suffix(".zip")?.replace('/', "@"));
        bucket.keys().iter().filter_map(package).collect()
    }

    fn adopt(&self, target: &str, former: &str) {
        self.lab.blat(&["adopt", target]).expect_success().says(&format!("it belonged to target {former}"));
    }

    fn tag(&self, name: &str) {
        self.lab.blat(&["tag", name, "1", "--target", "sydney", "--wait"]).expect_success();
    }

    fn sync(&self, target: &str, more: &[&str]) -> process::Outcome {
        self.lab.blat(&[&["sync", target, "--wait"], more].concat())
    }
}

/// Nor does it count that somebody confirms what was held back before.
#[test]
fn who_takes_an_archive_back_deletes_nothing_that_a_tag_brought_meanwhile() {
    for kind in KINDS {
        let shared = Shared::new("takenback", kind, "", &[("core", "1")]);
        shared.adopt("sydney", "perth");
        shared.sync("sydney", &[]).expect_success();
        shared.tag("later");
        let all = ["core@1", "later@1"];
        assert_eq!(shared.packages(), all, "{kind}");

        // Without a sync in between: perth's agent has not seen that anybody else owned it.
        shared.adopt("perth", "sydney");
        for more in [&["--allow-delete"][..], &[]] {
            shared.sync("perth", more).expect_success();
            assert_eq!(shared.packages(), all, "{kind}: {more:?}");
        }
        let status = shared.lab.target_status("perth").to_string();
        assert!(status.contains("does not know what tags brought before"), "{kind}: {status}");
        shared.sync("perth", &["--allow-delete"]).expect_success().says("deleted 1");
        assert_eq!(shared.packages(), ["core@1"], "{kind}: somebody has looked at it since");
    }
}

#[test]
fn a_sync_that_was_planned_before_an_archive_was_given_away_and_taken_back_deletes_nothing() {
    for kind in KINDS {
        // At that rate it takes some seconds.
        let shared = Shared::new("midway", kind, "bandwidth: 128k", &[("core", "1"), ("old", "1")]);
        let lab = &shared.lab;
        lab.package("bulk", "1", |p| p.noise("a", 2 << 20));
        lab.release_for_buckets(&[("core", "1"), ("bulk", "1")]);
        let sync = process::Running::start(lab.command("blat").args(["sync", "perth", "--wait"]), &lab.home());
        lab.wait_for_status("perth", "sending", |s| s["current"]["done"].as_u64().is_some_and(|done| done > 0));
        shared.adopt("sydney", "perth");
        shared.tag("old");
        shared.adopt("perth", "sydney");
        // Whether what was sent went to the bucket that was meant is judged before anything of it counts.
        let why =
            if kind == BUCKET { "the bucket was adopted meanwhile" } else { "it was adopted since this was planned" };
        sync.finish().expect(1).says(why);
        assert!(shared.packages().contains(&"old@1".to_owned()), "{kind}: {:?}", shared.packages());
        shared.sync("perth", &[]).expect_success();
        assert_eq!(shared.packages(), ["bulk@1", "core@1", "old@1"], "{kind}");
    }
}
