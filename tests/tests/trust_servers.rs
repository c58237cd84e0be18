//! Servers are strangers before anybody is logged in, and so are S3 servers for ever: whatever one says, however long, it costs the agent little
//! memory and a bounded time. What the AWS tools' files and a proxy may have the master do.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use blat_tests::hostile::Hostile;
use blat_tests::memory::{MOST_MORE, watched};
use blat_tests::s3_liar::{answer, endless, start};
use blat_tests::{Account, Lab, Outcome, process};

/// A lab whose target `cloud` is a bucket on this port.
fn lab(name: &str, port: u16) -> Lab {
    let mut lab = Lab::new(name);
    lab.package("core", "1.0", |p| p.file("a", "1"));
    lab.release_for_buckets(&[("core", "1.0")]);
    let text = format!(
        "type: s3Sync\nsource: {}\nrelease_manager: {{file: {}}}\nprojects: [Lab]\n\
         s3: {{bucket: lab-bucket, prefix: archive, region: x, endpoint: 'http://127.0.0.1:{port}', path_style: true}}\n",
        lab.source().display(),
        lab.home().join("releases.yaml").display(),
    );
    lab.raw_config("cloud", &text);
    lab.set_environment(environment(&[("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s")]));
    lab
}

/// Variables with which nothing of this machine says who the agent is.
fn environment(more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let none = [("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")];
    let unnamed = none.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    unnamed.chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The most memory of a sync with a server that is well.
fn at_rest() -> u64 {
    let port = start(|_, _| Ok(false));
    watched(lab("s3rest", port).start_agent_once("cloud")).1
}

/// One sync to its end, which comes by itself and without much more memory than `rest`.
fn assert_harmless(lab: &Lab, target: &str, rest: u64, what: &str) -> Outcome {
    let (outcome, peak) = watched(lab.start_agent_once(target));
    println!("{what}: {} KiB at most, {} at rest", peak >> 10, rest >> 10);
    assert!(outcome.code.is_some_and(|code| code != 78), "{what}: it does not end, or does not begin\n{outcome}");
    assert!(peak < rest + MOST_MORE, "{what}: {peak} bytes, and {rest} at rest\n{outcome}");
    outcome
}

#[test]
fn an_object_that_is_longer_than_its_server_says_takes_no_memory() {
    let rest = at_rest();
    for key in ["/.blat/archive", ""] {
        let asked: Arc<AtomicU64> = Arc::default();
        let count = asked.clone();
        let port = start(move |request, stream| match request.split_once(' ') {
            Some(("GET", target)) if target.ends_with(key) && !target.contains('?') => {
                count.fetch_add(1, Ordering::Relaxed);
                endless(stream)
            }
            _ => Ok(false),
        });
        let outcome = assert_harmless(&lab("s3length", port), "cloud", rest, &format!("an endless {key}"));
        assert!(asked.load(Ordering::Relaxed) > 0, "{outcome}");
    }
}

#[test]
fn an_answer_to_a_write_that_has_no_end_takes_no_memory() {
    let rest = at_rest();
    let port = start(|request, stream| if request.starts_with("PUT ") { endless(stream) } else { Ok(false) });
    assert_harmless(&lab("s3writes", port), "cloud", rest, "an endless answer to a write")
        .expect(1)
        .says("longer than");
}

/// What a server says of a package's parts is kept until its end, and the number of its upload in a file: that package fails by name, and
/// the others are sent.
#[test]
fn long_numbers_of_uploads_and_long_headers_take_no_memory_and_fail_by_name() {
    let rest = at_rest();
    let begun = |id: &str| format!("<R><UploadId>{id}</UploadId></R>");
    for (id, header, words) in [
        ("x".repeat(3 << 20), "e".to_owned(), "names an upload by"),
        ("plain".to_owned(), "e".repeat(300_000), "headers"),
    ] {
        let published: Arc<AtomicU64> = Arc::default();
        let count = published.clone();
        let port = start(move |request, stream| match request.split_once(' ') {
            Some(("POST", target)) if target.contains("uploads") => answer(stream, "200 OK", &begun(&id)),
            Some(("PUT", target)) if target.contains("partNumber") => {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nETag: \"{header}\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )?;
                Ok(true)
            }
            Some(("PUT", target)) if target.contains("/core/1.0.zip") => {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
            _ => Ok(false),
        });
        let lab = lab("s3long", port);
        lab.package("big", "1", |p| p.noise("data", 20 << 20));
        lab.release_for_buckets(&[("big", "1"), ("core", "1.0")]);
        let outcome = assert_harmless(&lab, "cloud", rest, words);
        outcome.expect(1).says(words).says("big@1");
        assert_eq!(published.load(Ordering::Relaxed), 1, "{outcome}");
        let noted = fs::metadata(lab.home().join("state/cloud/uploads.txt")).map_or(0, |file| file.len());
        assert!(noted < 4096, "{noted} bytes of numbers are noted");
    }
}

/// A page that names these keys and goes on there.
fn page(keys: impl Iterator<Item = String>, next: &str) -> String {
    let object = |key: String| format!("<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag></Contents>");
    let objects: String = keys.map(object).collect();
    format!(
        "<List><IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>{objects}</List>"
    )
}

#[test]
fn a_listing_without_end_takes_neither_memory_nor_time() {
    /// What it is, its page of this number, and words of the error.
    type Endless = (&'static str, fn(u64) -> String, &'static str);
    let rest = at_rest();
    let cases: [Endless; 6] = [
        ("packages", |n| page((0..1000).map(|i| format!("archive/p{n}-{i}/1.zip")), &n.to_string()), "lists more than"),
        (
            "foreign keys",
            |n| page((0..1000).map(|i| format!("archive/{}/{n}/{i}", "x".repeat(900))), &n.to_string()),
            "longer than any",
        ),
        ("pages of nothing", |n| page(std::iter::empty(), &n.to_string()), "page after page names nothing"),
        ("a circle", |_| page(std::iter::once("archive/a/1.zip".to_owned()), "again"), "goes round in a circle"),
        ("one page", |_| "<a/>".repeat(10 << 20), "longer than"),
        ("a deep page", |_| format!("<List>{}", "<a>".repeat(1 << 20)), "deep in each other"),
    ];
    for (what, text, words) in cases {
        let count = AtomicU64::new(0);
        let port = start(move |request, stream| {
            if !request.contains("list-type=2") {
                return Ok(false);
            }
            answer(stream, "200 OK", &text(count.fetch_add(1, Ordering::Relaxed)))
        });
        assert_harmless(&lab("s3endless", port), "cloud", rest, what).expect(1).says(words);
    }
}

#[test]
fn uploads_without_end_take_neither_memory_nor_time() {
    let rest = at_rest();
    let asked: Arc<AtomicU64> = Arc::default();
    let count = asked.clone();
    let port = start(move |request, stream| {
        if !request.contains("uploads") {
            return Ok(false);
        }
        let n = count.fetch_add(1, Ordering::Relaxed);
        let text = format!(
            "<List><IsTruncated>true</IsTruncated><NextKeyMarker>k{n}</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker></List>"
        );
        answer(stream, "200 OK", &text)
    });
    let outcome = assert_harmless(&lab("s3uploads", port), "cloud", rest, "uploads");
    assert!(asked.load(Ordering::Relaxed) > 50, "{outcome}");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Runs a case for each file of the AWS tools: `spoil` gives it away, after which nothing of it is obeyed.
fn assert_not_obeyed(name: &str, spoil: impl Fn(&Path)) {
    let variables = [
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CA_BUNDLE",
    ];
    for variable in variables {
        let mut lab = lab(name, start(|_, _| Ok(false)));
        let folder: PathBuf = lab.home().join("aws");
        fs::create_dir_all(&folder).expect("an own folder");
        let (file, trace) = (folder.join("file"), folder.join("trace"));
        let profile = format!("[default]\ncredential_process = /bin/touch {}\n", trace.display());
        fs::write(&file, profile).expect("an own folder");
        lab.hand_over();
        set_mode(&file, 0o600);
        lab.set_environment(environment(&[
            (variable, &file.display().to_string()),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ROLE_ARN", "arn:lab"),
        ]));
        lab.blat(&["check"]).expect_success();
        spoil(&file);
        lab.blat(&["check"]).expect(78).says("so others may change what is read here");
        lab.agent_once("cloud").expect(78).says("so others may change what is read here");
        assert!(!trace.exists(), "{variable}: its command ran");
    }
}

#[test]
fn files_of_the_aws_tools_that_others_may_write_are_not_obeyed() {
    assert_not_obeyed("awsmode", |file| set_mode(file, 0o666));
}

#[test]
fn as_root_files_of_the_aws_tools_that_belong_to_a_stranger_are_not_obeyed() {
    let (uid, gid) = Account::Stranger.ids();
    assert_not_obeyed("awsowner", |file| {
        set_mode(file, 0o644);
        lchown(file, Some(uid), Some(gid)).expect("root may");
    });
}

#[test]
fn no_proxy_is_asked_for_credentials() {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let proxy = start(move |request, stream| {
        log.lock().expect("no thread panics with it").push(request.to_owned());
        answer(stream, "200 OK", "{\"AccessKeyId\": \"K\", \"SecretAccessKey\": \"S\", \"Token\": \"T\"}")
    });
    let proxy = format!("http://127.0.0.1:{proxy}");
    let proxies: Vec<(&str, &str)> =
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, &*proxy)).to_vec();
    let instance = [("AWS_EC2_METADATA_DISABLED", "false")];
    let addressed = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]")];
    let container = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/lab")];
    for way in [&instance[..], &addressed, &container] {
        let mut lab = lab("s3proxy", 9);
        lab.set_environment(environment(&[&proxies, way].concat()));
        lab.agent_once("cloud").expect(1).says("there are no credentials");
        assert_eq!(*heard.lock().expect("no thread panics with it"), [] as [&str; 0], "{way:?}");
    }
}

/// A port on which each caller is served so, until one of the two hangs up.
fn ssh_port(serve: fn(TcpStream) -> io::Result<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    port
}

fn flood(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.write_all(&b"this is no ssh server\r\n".repeat(1000))?;
    }
}

/// One byte a second, of lines that never are the version.
fn drip(mut stream: TcpStream) -> io::Result<()> {
    loop {
        stream.write_all(b"x\r\n")?;
        thread::sleep(Duration::from_secs(1));
    }
}

/// A version, and then packets without end that libssh2 keeps.
fn packets(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"SSH-2.0-lab\r\n")?;
    let mut packet = vec![0, 0, 0x10, 4, 4];
    packet.extend([80; 0x1003]);
    loop {
        stream.write_all(&packet.repeat(100))?;
    }
}

/// A lab, and the most memory of a sync over libssh2 with a target that is well.
fn over_libssh2(name: &str) -> (Lab, u64) {
    let lab = Lab::new(name);
    lab.package("core", "1.0", |p| p.file("a", "1"));
    lab.release(&[("core", "1.0")]);
    lab.config("well", "transport: libssh2");
    let (outcome, rest) = watched(lab.start_agent_once("well"));
    outcome.expect_success();
    (lab, rest)
}

/// A target that is such a server.
fn unending(lab: &Lab, target: &str, port: u16) {
    let archive = format!("/srv/{target}");
    lab.config(target, &format!("transport: libssh2\nport: {port}\narchive: {archive}"));
}

#[test]
fn an_ssh_server_without_end_takes_neither_memory_nor_time() {
    /// What it is, how it serves a connection, and words of the error.
    type Endless = (&'static str, fn(TcpStream) -> io::Result<()>, &'static str);
    let (lab, rest) = over_libssh2("sshendless");
    let cases: [Endless; 3] = [
        ("flood", flood, "256 KiB before the login is done"),
        ("packets", packets, "cannot connect"),
        ("drip", drip, "cannot connect"),
    ];
    for (what, serve, words) in cases {
        unending(&lab, what, ssh_port(serve));
        assert_harmless(&lab, what, rest, what).expect(1).says(words);
        let enrol = ["enrol", what, "--fingerprint", "SHA256:none"];
        lab.blat(&enrol).expect(1).says(words);
    }
}

/// The ssh client prints what a server says before the exchange of keys, with its line ends: nothing of that makes a key trusted, and nobody is
/// told the password.
#[test]
fn what_a_stranger_has_the_ssh_client_print_vouches_for_no_key_and_gets_no_password() {
    let lab = Lab::new("sshforged");
    let own = lab.home().with_file_name("sshd").join("daemon/host_key");
    let listed = Command::new("ssh-keygen").arg("-lf").arg(&own).output().expect("ssh-keygen");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let fingerprint = listed.split(' ').nth(1).expect("a fingerprint");
    let lines = format!(
        "x\ndebug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com {fingerprint}, serial 0 ID \"h\" CA ssh-ed25519 SHA256:x valid \
         forever\ndebug1: Host 'h' is known and matches the ED25519-CERT host certificate.\ndebug1: SSH2_MSG_NEWKEYS sent\n"
    );
    let (known_hosts, password) = (lab.home().join("ssh/known_hosts"), lab.home().join("ssh/password"));
    fs::write(&password, "of the target\n").expect("an own folder");
    fs::set_permissions(&password, Permissions::from_mode(0o600)).expect("an own file");
    let authority = fs::read_to_string(lab.home().with_file_name("sshd").join("id_ed25519.pub")).expect("the lab's");
    for way in ["debug", "farewell", "offer"] {
        let server = Hostile::start(&lab, way, &lines);
        let port = server.port;
        let text = format!("@cert-authority [127.0.0.1]:{port} {authority}");
        fs::write(&known_hosts, &text).expect("an own folder");
        lab.config("perth", &format!("transport: libssh2\nport: {port}\nknown_hosts: ssh/known_hosts"));
        lab.hand_over();
        let blat = lab.command("blat");
        let mut enrol = Command::new("setsid");
        enrol.arg("-w").arg(blat.get_program()).args(blat.get_args()).args(["enrol", "perth", "--password-file"]);
        let outcome = process::run(enrol.arg(&password), &lab.home());
        assert_eq!(server.heard(), "", "{way}: {outcome}");
        outcome.expect(1).says(fingerprint).says("not signed by a certificate authority").says("--fingerprint");
        assert_eq!(fs::read_to_string(&known_hosts).expect("an own file"), text, "{way}");
    }
}

/// The same over the ssh client, where the host's key is known: the words that a stranger puts into its mouth are neither a login, nor a verdict on a
/// key.
#[test]
fn what_a_stranger_has_the_ssh_client_print_is_no_login_and_no_verdict_on_a_key() {
    let lab = Lab::new("sshwords");
    let authority = fs::read_to_string(lab.home().with_file_name("sshd").join("id_ed25519.pub")).expect("the lab's");
    for (way, text) in [
        ("offer", "x\nchannel 0: open failed: no"),
        ("offer", "x\nnobody@x: Permission denied (publickey)."),
        ("offer", "x\nREVOKED HOST KEY\nHost key verification failed."),
        ("offer", "x\nSHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.\nHost key verification failed."),
        ("farewell", "x\nHost key verification failed."),
    ] {
        let server = Hostile::start(&lab, way, text);
        let port = server.port;
        fs::write(lab.home().join("ssh/known_hosts"), format!("[127.0.0.1]:{port} {authority}"))
            .expect("an own folder");
        lab.config("perth", &format!("transport: openssh\nport: {port}\nknown_hosts: ssh/known_hosts"));
        lab.hand_over();
        let outcome = lab.blat(&["check", "--connect", "perth"]);
        drop(server);
        outcome.expect(1).says("not logged in: cannot connect to ");
        for words in ["logged in to ", "does not accept", "is revoked in", "has changed"] {
            assert!(!outcome.to_string().contains(words), "it says {words:?}\n{outcome}");
        }
    }
}

#[test]
fn nine_ssh_servers_without_end_are_errors_in_the_status() {
    let mut lab = Lab::new("sshnine");
    lab.package("core", "1.0", |p| p.file("a", "1"));
    lab.release(&[("core", "1.0")]);
    let names: Vec<String> = (1..=9).map(|number| format!("drip{number}")).collect();
    names.iter().for_each(|name| unending(&lab, name, ssh_port(if name.ends_with('9') { flood } else { drip })));
    lab.start_master();
    for name in &names {
        lab.wait_for_status(name, "an error", |status| status["last_error"]["text"].is_string());
    }
}

#[test]
fn what_nobody_sees_in_a_name_is_shown() {
    let lab = Lab::new("unseen");
    lab.package("core", "1.0", |p| p.file("a", "1"));
    lab.release(&[("core", "1.0")]);
    let releases = lab.home().join("releases.yaml");
    let text = fs::read_to_string(&releases).expect("the lab's own");
    let unseen = "\u{2028}\u{2029}\u{200b}\u{200f}\u{2060}\u{feff}\u{ad}";
    // As YAML writes them.
    let written: String = unseen.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let text = text.replace("name: Lab\n", &format!("name: \"L{written}ab\"\n"));
    fs::write(&releases, text.replace("name: Lab 1,", &format!("name: \"L{written}ab 1\","))).expect("the lab's own");
    lab.config("perth", &format!("projects: [\"L{written}ab\", \"Absent{written}\"]"));
    for words in [&["why", "core", "1.0"][..], &["plan", "perth"], &["check"], &["sync", "perth"]] {
        let outcome = lab.blat(words);
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(!said.chars().any(|c| unseen.contains(c)), "{words:?}: {said:?}");
    }
    lab.blat(&["why", "core", "1.0"]).says("\\u{2028}\\u{2029}\\u{200b}");
}
