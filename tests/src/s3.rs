//! A bucket on a real S3 server, looked at with the AWS command-line client.

use std::collections::BTreeMap;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{fmt, fs, thread};

use serde_json::Value;

use crate::aws_client::AwsClient;
use crate::dice::Dice;
use crate::lab::Lab;
use crate::process::{self, Outcome};
use crate::tree;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Looks at every signature, knows accounts with different rights, keeps its data.
    SeaweedFs,
    /// A stand-in for AWS itself, made for tests; it looks at no signature.
    Moto,
    /// The same, where every account may do what its policies say and nothing else.
    MotoIam,
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SeaweedFs => "seaweedfs",
            Self::Moto => "moto",
            Self::MotoIam => "moto-iam",
        })
    }
}

/// Keys of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// What it is called in requests.
    pub key: String,
    /// What it signs with.
    pub secret: String,
}

impl AccessKey {
    /// One that may read and list only; [`Store::SeaweedFs`] knows it.
    pub fn reader() -> Self {
        Self { key: "READERKEY".into(), secret: "reader-secret".into() }
    }

    /// Two words, as the lab's tool and the AWS client print them.
    fn read(text: &str) -> Self {
        let (key, secret) = text.trim().split_once(char::is_whitespace).expect("a key and a secret");
        Self { key: key.into(), secret: secret.trim().into() }
    }

    /// What a command finds its keys in. Nothing else on this machine may lend it others.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", self.key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret.clone()),
            ("AWS_CONFIG_FILE", "/dev/null".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }
}

/// An empty bucket.
pub struct Bucket {
    /// Which server it is on.
    pub store: Store,
    /// What it is called there.
    pub name: String,
    /// What the lab's tool has of the server.
    dir: PathBuf,
    lab: PathBuf,
    /// Started when it is first asked.
    client: Mutex<Option<AwsClient>>,
}

/// The end of the key of the record that says whose archive a bucket is.
const RECORD: &str = "/.blat/archive";
/// That of the last visit.
const VISIT: &str = "/.blat/visit";

fn tool(verb: &str) -> Command {
    let mut tool = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/s3"));
    tool.arg(verb);
    tool
}

impl Bucket {
    /// Makes it, and has the lab's commands find the owner's keys in their environment. All tests of a run share one SeaweedFS, where each has
    /// a bucket; moto knows all accounts of all buckets, and is started for each.
    pub fn new(lab: &mut Lab, store: Store) -> Self {
        let lab_dir = lab.home().parent().expect("the lab's folder").to_owned();
        let (dir, name) = if store == Store::SeaweedFs {
            let shared = process::run(tool("share").arg(parent_id().to_string()), &lab_dir);
            shared.expect_success();
            (PathBuf::from(shared.stdout.trim()), format!("packages-{:016x}", Dice::cast().number()))
        } else {
            let own = lab_dir.join("s3");
            process::run(tool("start").arg(store.to_string()).arg(&own), &lab_dir).expect_success();
            (own, "example-packages".to_owned())
        };
        let bucket = Self { store, name, dir, lab: lab_dir, client: Mutex::default() };
        bucket.aws(&["s3api", "create-bucket", "--bucket", &bucket.name]);
        lab.set_environment(bucket.owner().environment());
        bucket
    }

    /// Who may do everything.
    pub fn owner(&self) -> AccessKey {
        AccessKey::read(&fs::read_to_string(self.dir.join("keys")).expect("a started server"))
    }

    /// Makes an account; of its policies none says anything yet.
    pub fn account(&self, name: &str) -> AccessKey {
        self.aws(&["iam", "create-user", "--user-name", name]);
        let query = "AccessKey.[AccessKeyId, SecretAccessKey]";
        AccessKey::read(&self.aws(&[
            "iam",
            "create-access-key",
            "--user-name",
            name,
            "--query",
            query,
            "--output",
            "text",
        ]))
    }

    /// From here on an account may do what this policy says, and nothing else.
    pub fn allow(&self, name: &str, policy: &str) {
        self.aws(&["iam", "put-user-policy", "--user-name", name, "--policy-name", "lab", "--policy-document", policy]);
    }

    /// The folder of the AWS client.
    pub fn tools(&self) -> String {
        fs::read_to_string(self.dir.join("tools")).expect("a started server").trim().to_owned()
    }

    /// The port it answers on.
    pub fn port(&self) -> u16 {
        fs::read_to_string(self.dir.join("port")).expect("a started server").trim().parse().expect("a port")
    }

    /// The config of a target that is this bucket, through the server's own port; `s3` and `more` are further keys, one a line.
    pub fn config(&self, lab: &Lab, target: &str, s3: &[&str], more: &str) {
        self.config_through(self.port(), lab, target, s3, more);
    }

    /// As [`Self::config`], by another port.
    pub fn config_through(&self, port: u16, lab: &Lab, target: &str, s3: &[&str], more: &str) {
        let own = [
            format!("bucket: {}", self.name),
            "prefix: archive".into(),
            "region: us-east-1".into(),
            format!("endpoint: http://127.0.0.1:{port}"),
            "path_style: true".into(),
        ];
        let key = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
        let replaced = |line: &String| s3.iter().any(|other| key(other) == key(line));
        let lines = own.iter().filter(|line| !replaced(line)).map(String::as_str).chain(s3.iter().copied());
        let block: String = lines.map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "type: s3Sync\nsource: {}\nrelease_manager: {{file: {}}}\nprojects: [Lab]\ns3:\n{block}{more}\n",
            lab.source().display(),
            lab.home().join("releases.yaml").display(),
        );
        lab.raw_config(target, &text);
    }

    /// Runs the AWS client, which must succeed, and gives what it prints.
    pub fn aws(&self, arguments: &[&str]) -> String {
        let outcome = self.try_aws(arguments);
        outcome.expect_success();
        outcome.stdout
    }

    /// Runs the AWS client.
    pub fn try_aws(&self, arguments: &[&str]) -> Outcome {
        let mut client = self.client.lock().expect("no test that failed here goes on");
        let client = client.get_or_insert_with(|| {
            if self.store == Store::SeaweedFs {
                return AwsClient::connect(&self.dir.join("aws.sock"));
            }
            let mut command = tool("client");
            command.arg(&self.dir);
            AwsClient::start(command)
        });
        let endpoint = format!("http://127.0.0.1:{}", self.port());
        client.ask(&[&["--endpoint-url", &endpoint], arguments].concat(), &self.lab)
    }

    fn asked(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["s3api"];
        all.extend_from_slice(arguments);
        all.extend_from_slice(&["--bucket", &self.name, "--output", "json"]);
        let text = self.aws(&all);
        if text.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in the client's answer:\n{text}"))
    }

    /// Every object by its key, with its length.
    pub fn objects(&self) -> BTreeMap<String, u64> {
        let listing = self.asked(&["list-objects-v2"]);
        let contents = listing["Contents"].as_array().cloned().unwrap_or_default();
        let length = |object: &Value| object["Size"].as_u64().expect("a length");
        contents.iter().map(|object| (object["Key"].as_str().expect("a key").to_owned(), length(object))).collect()
    }

    /// The keys of [`Self::objects`], but for what says whose archive it is.
    pub fn keys(&self) -> Vec<String> {
        self.objects().into_keys().filter(|key| !key.ends_with(RECORD) && !key.ends_with(VISIT)).collect()
    }

    /// The record of whose archive this is; none where nobody has claimed it.
    pub fn record(&self) -> Option<String> {
        let key = self.objects().into_keys().find(|key| key.ends_with(RECORD))?;
        Some(fs::read_to_string(self.fetch(&key)).expect("a record"))
    }

    /// What the server says of an object: `ContentType`, `Metadata`, `ETag`.
    pub fn head(&self, key: &str) -> Value {
        self.asked(&["head-object", "--key", key])
    }

    /// Uploads that were begun and neither completed nor aborted, by their objects' keys, sorted.
    pub fn unfinished(&self) -> Vec<String> {
        let uploads = self.asked(&["list-multipart-uploads"])["Uploads"].as_array().cloned().unwrap_or_default();
        let mut keys: Vec<_> = uploads.iter().map(|upload| upload["Key"].as_str().expect("a key").to_owned()).collect();
        keys.sort();
        keys
    }

    /// An object, or what all keys of some begin with, as the AWS client wants it.
    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Puts an object of another's making.
    pub fn put(&self, key: &str, content: &str) {
        let path = self.lab.join("to-put");
        fs::write(&path, content).expect("an own folder");
        let (path, url) = (path.display().to_string(), self.url(key));
        self.aws(&["s3", "cp", "--only-show-errors", &path, &url]);
    }

    /// Fetches an object into a file of the lab.
    pub fn fetch(&self, key: &str) -> PathBuf {
        let path = self.lab.join("fetched");
        let (to, url) = (path.display().to_string(), self.url(key));
        self.aws(&["s3", "cp", "--only-show-errors", &url, &to]);
        path
    }

    /// The packages that the PackageList names, as `NAME VERSION`, after checking its form.
    pub fn package_list(&self) -> Vec<String> {
        let text = fs::read_to_string(self.fetch("archive/PackageList.txt")).expect("a fetched file");
        tree::listed(&text)
    }

    /// Fetches a package as a CI job would and unpacks it with `unzip`; fails unless it is the source's to the byte, mode, time and link.
    pub fn assert_published(&self, lab: &Lab, name: &str, version: &str) {
        let zip = self.fetch(&format!("archive/{name}/{version}.zip"));
        let to = self.lab.join("unpacked");
        tree::remove(&to);
        let mut unzip = Command::new("unzip");
        // In other locales it spells out what is not ASCII.
        unzip.env("LC_ALL", "C.UTF-8");
        process::run(unzip.args(["-q", "-d"]).arg(&to).arg(&zip), &self.lab).expect_success();
        tree::assert_same_contents(&lab.source().join(name).join(version), &to);
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Nothing of it is looked at any more.
        if self.store == Store::SeaweedFs {
            // A failed test may have been waiting for the client, and the server ends with the run.
            if !thread::panicking() {
                drop(self.try_aws(&["s3api", "delete-bucket", "--bucket", &self.name]));
            }
            return;
        }
        let stopped = tool("kill").arg(&self.dir).status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("could not stop the {} of {}", self.store, self.dir.display());
        }
    }
}
