//! What hands out keys inside AWS's network and nowhere else: the metadata of a container and of an instance, and the service that
//! takes a web identity. One stand-in for the three, for a real S3 server looks at what is signed with the keys.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::s3::AccessKey;

/// Where the container's keys are.
pub const CONTAINER: &str = "/v2/credentials/lab";
/// What has to be shown for the container's keys.
pub const CONTAINER_TOKEN: &str = "Bearer container-secret";
/// What has to be shown as web identity.
pub const WEB_IDENTITY: &str = "web-identity-secret";
/// The instance's role.
const ROLE: &str = "lab-role";
/// What has to be shown for the instance's keys.
const SESSION: &str = "session-of-the-lab";
/// Until when the keys are good.
const EXPIRATION: &str = "2099-01-01T00:00:00Z";

/// A port on 127.0.0.1 that hands out an account's keys; it ends with the test's process.
pub struct Identity {
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl Identity {
    /// Hands out these keys to whoever asks as the documents of AWS say.
    pub fn new(account: AccessKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let shared = log.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever asks may hang up: that ends this question and nothing else.
                let _ = serve(stream, &account, &shared);
            }
        });
        Self { port, log }
    }

    /// The URL of a path there.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What was asked since the last call, as `METHOD PATH STATUS`.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().expect("no thread panics with it"))
    }
}

fn serve(stream: TcpStream, account: &AccessKey, log: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut from = BufReader::new(&stream);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let line = line.trim_end().to_owned();
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.parse().unwrap_or(0);
        }
        head.push(line);
    }
    io::copy(&mut from.take(length), &mut io::sink())?;
    let mut words = head.first().map_or("", String::as_str).split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let shows = |name: &str, value: &str| {
        head.iter().any(|line| line.split_once(": ").is_some_and(|(n, v)| n.eq_ignore_ascii_case(name) && v == value))
    };
    let answer = answer(method, path, query, account, shows);
    let status = if answer.is_some() { "200 OK" } else { "403 Forbidden" };
    log.lock().expect("no thread panics with it").push(format!("{method} {path} {}", &status[..3]));
    let body = answer.unwrap_or_default();
    let length = body.len();
    (&stream).write_all(
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").as_bytes(),
    )
}

/// Nothing to whoever does not show what he has to.
fn answer(
    method: &str,
    path: &str,
    query: &str,
    AccessKey { key, secret }: &AccessKey,
    shows: impl Fn(&str, &str) -> bool,
) -> Option<String> {
    let keys = format!(
        r#"{{"Code": "Success", "AccessKeyId": "{key}", "SecretAccessKey": "{secret}", "Token": "", "Expiration": "{EXPIRATION}"}}"#
    );
    let roles = "/latest/meta-data/iam/security-credentials/";
    let is_known = || shows("X-aws-ec2-metadata-token", SESSION);
    match (method, path) {
        ("GET", CONTAINER) => shows("Authorization", CONTAINER_TOKEN).then_some(keys),
        ("PUT", "/latest/api/token") => Some(SESSION.to_owned()),
        ("GET", path) if path.trim_end_matches('/') == roles.trim_end_matches('/') => {
            is_known().then(|| ROLE.to_owned())
        }
        ("GET", path) if path == format!("{roles}{ROLE}") => is_known().then_some(keys),
        ("POST", "/") => {
            let has = |pair: &str| query.split('&').any(|other| other == pair);
            let is_asked = has("Action=AssumeRoleWithWebIdentity") && has(&format!("WebIdentityToken={WEB_IDENTITY}"));
            is_asked.then(|| {
                format!(
                    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                     <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken></SessionToken>\
                     <Expiration>{EXPIRATION}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                     </AssumeRoleWithWebIdentityResponse>"
                )
            })
        }
        _ => None,
    }
}
