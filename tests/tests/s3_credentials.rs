//! Credentials, taken from everywhere the AWS tools take them from. The server is a real one that looks at every signature.

use blat_tests::s3::AccessKey;
use blat_tests::s3_identity::{CONTAINER, CONTAINER_TOKEN, Identity, WEB_IDENTITY};
use blat_tests::{Bucket, Lab, Store};

/// The variables of a lab in which nothing but what is added says who the agent is.
struct Nobody {
    folder: std::path::PathBuf,
}

impl Nobody {
    fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("an own folder");
        path.display().to_string()
    }

    fn with(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let own = ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(|name| (name, "/dev/null".to_owned()));
        let disabled = ("AWS_EC2_METADATA_DISABLED", "true".to_owned());
        own.into_iter().chain([disabled]).chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
    }
}

/// The lab's bucket, the owner's keys, and the way to become somebody.
fn lab(name: &str) -> (Lab, Bucket, AccessKey, Nobody) {
    let mut lab = Lab::new(name);
    let bucket = Bucket::new(&mut lab, Store::SeaweedFs);
    bucket.config(&lab, "cloud", &[], "");
    lab.package("small", "1", |p| p.noise("data", 50_000));
    lab.release_for_buckets(&[("small", "1")]);
    let folder = lab.home().parent().expect("the lab's folder").to_owned();
    let owner = bucket.owner();
    (lab, bucket, owner, Nobody { folder })
}

#[test]
fn keys_are_found_in_files_and_printed_by_commands() {
    let (mut lab, bucket, AccessKey { key, secret }, nobody) = lab("s3files");
    let keys = format!("aws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    let named = nobody
        .file("credentials", &format!("[default]\naws_access_key_id = X\naws_secret_access_key = y\n[ci]\n{keys}"));
    let printed = format!(r#"{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "{secret}"}}"#);
    let printed = nobody.file("printed", &printed);
    let process = nobody.file("config", &format!("[default]\ncredential_process = /bin/cat \"{printed}\"\n"));
    let ways: [&[(&str, &str)]; 2] =
        [&[("AWS_SHARED_CREDENTIALS_FILE", &named), ("AWS_PROFILE", "ci")], &[("AWS_CONFIG_FILE", &process)]];
    for way in ways {
        lab.set_environment(nobody.with(way));
        lab.agent_once("cloud").expect_success();
    }
    bucket.assert_published(&lab, "small", "1");

    lab.set_environment(nobody.with(&[("AWS_SHARED_CREDENTIALS_FILE", &named), ("AWS_PROFILE", "nobody")]));
    lab.agent_once("cloud").expect(1).says("the profile nobody (AWS_PROFILE) is neither in");
    lab.set_environment(nobody.with(&[]));
    lab.agent_once("cloud").expect(1).says("there are no credentials: looked at AWS_ACCESS_KEY_ID");
}

#[test]
fn containers_instances_and_web_identities_are_given_keys() {
    let (mut lab, bucket, owner, nobody) = lab("s3given");
    let identity = Identity::new(owner);
    let (container, instance) = (identity.url(CONTAINER), identity.url(""));
    let (token, web) = (nobody.file("token", CONTAINER_TOKEN), nobody.file("web", WEB_IDENTITY));
    let profile = nobody.file("config", &format!("[default]\nrole_arn = arn:lab\nweb_identity_token_file = {web}\n"));
    let ways: [(&[(&str, &str)], &str); 4] = [
        (
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token)],
            "GET /v2/credentials/lab 200",
        ),
        (
            &[("AWS_EC2_METADATA_DISABLED", "false"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance)],
            "GET /latest/meta-data/iam/security-credentials/lab-role 200",
        ),
        (
            &[("AWS_WEB_IDENTITY_TOKEN_FILE", &web), ("AWS_ROLE_ARN", "arn:lab"), ("AWS_ENDPOINT_URL_STS", &instance)],
            "POST / 200",
        ),
        (&[("AWS_CONFIG_FILE", &profile), ("AWS_ENDPOINT_URL_STS", &instance)], "POST / 200"),
    ];
    for (way, last) in ways {
        lab.set_environment(nobody.with(way));
        let outcome = lab.agent_once("cloud");
        let asked = identity.asked();
        assert_eq!(asked.last().map(String::as_str), Some(last), "{asked:#?}\n{outcome}");
        outcome.expect_success();
    }
    bucket.assert_published(&lab, "small", "1");

    let stale = nobody.file("stale", "another-secret");
    lab.set_environment(nobody.with(&[
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &stale),
        ("AWS_ROLE_ARN", "arn:lab"),
        ("AWS_ENDPOINT_URL_STS", &instance),
    ]));
    let outcome = lab.agent_once("cloud");
    outcome.expect(1).says("the environment's credentials cannot be had").says("403");
    assert!(![&outcome.stdout, &outcome.stderr].iter().any(|said| said.contains("another-secret")), "{outcome}");
}
