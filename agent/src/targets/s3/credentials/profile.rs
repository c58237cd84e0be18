//! The files of the AWS tools: which profile counts, and what it says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use blat_config::aws;
use blat_domain::util::text::unmarked;
use ini::{Ini, ParseOption, Properties};
use object_store::aws::AwsCredential;

use super::super::fault::Fault;
use super::{obeyed, variable};

/// Files larger than this hold no profiles, in bytes.
const LARGEST: u64 = 1 << 20;

/// The profile that counts: `AWS_PROFILE`, else `default`.
#[derive(Debug)]
pub(in super::super) struct Profile {
    pub(super) name: String,
    /// What it says of credentials, if anything.
    pub(super) kept: Option<CredentialSource>,
    /// The region it names.
    pub(in super::super) region: Option<String>,
    /// The server it names.
    pub(in super::super) endpoint: Option<String>,
    /// Whether it says something of credentials that only the AWS tools themselves understand.
    is_beyond_us: bool,
    looked_in: Vec<PathBuf>,
}

/// Where a profile keeps its credentials.
#[derive(Debug)]
pub(super) enum CredentialSource {
    /// In the file.
    Keys(Secret),
    /// A command prints them.
    Process(String),
    /// They are given for a token in a file.
    WebIdentity { token_file: String, role: String, session: Option<String> },
}

/// Keys, which no `Debug` shows.
pub(super) struct Secret {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// As the library takes them.
    pub(super) fn credential(&self) -> Arc<AwsCredential> {
        let Self { id, secret, token } = self;
        Arc::new(AwsCredential { key_id: id.clone(), secret_key: secret.clone(), token: token.clone() })
    }
}

impl Profile {
    /// Reads the files of whoever runs the agent.
    ///
    /// # Errors
    /// One is there and cannot be read, or the profile that was asked for by name is in neither.
    pub(in super::super) fn load() -> Result<Self, Fault> {
        Self::read(variable("AWS_PROFILE"), aws::credentials_file(), aws::config_file())
    }

    fn read(asked_for: Option<String>, credentials: PathBuf, config: PathBuf) -> Result<Self, Fault> {
        let name = asked_for.clone().unwrap_or_else(|| "default".to_owned());
        let (keys, settings) = (load(&credentials)?, load(&config)?);
        let own = section(&keys, &[&name]);
        let section_name = format!("profile {name}");
        let shared = if name == "default" {
            section(&settings, &["default", &section_name])
        } else {
            section(&settings, &[&section_name])
        };
        if asked_for.is_some() && own.is_none() && shared.is_none() {
            let (credentials, config) = (credentials.display(), config.display());
            return Err(Fault::NoCredentials(format!(
                "the profile {name} (AWS_PROFILE) is neither in {credentials} nor in {config}"
            )));
        }
        let say = |from: Option<&Properties>, key: &str| {
            from?.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let either = |key: &str| say(own, key).or_else(|| say(shared, key));
        let secret = |from| {
            let (id, secret) = (say(from, "aws_access_key_id")?, say(from, "aws_secret_access_key")?);
            Some(CredentialSource::Keys(Secret { id, secret, token: say(from, "aws_session_token") }))
        };
        let web_identity = || {
            let (token_file, role) = (either("web_identity_token_file")?, either("role_arn")?);
            Some(CredentialSource::WebIdentity { token_file, role, session: either("role_session_name") })
        };
        let process = || either("credential_process").map(CredentialSource::Process);
        // The order of the AWS tools.
        let kept = web_identity().or_else(|| secret(own)).or_else(process).or_else(|| secret(shared));
        let is_beyond_us =
            ["role_arn", "sso_session", "sso_start_url", "source_profile"].iter().any(|key| either(key).is_some());
        let (region, endpoint) = (either("region"), either("endpoint_url"));
        Ok(Self { name, kept, region, endpoint, is_beyond_us, looked_in: vec![credentials, config] })
    }

    /// That there are no credentials anywhere, and what to do.
    pub(super) fn nothing(&self, also: &str) -> Fault {
        let Self { name, looked_in, .. } = self;
        if self.is_beyond_us {
            return Fault::NoCredentials(format!(
                "the profile {name} assumes a role or logs in by SSO; say credential_process = aws configure export-credentials --profile {name} \
                 --format process in a profile of its own, and name that in AWS_PROFILE"
            ));
        }
        let files: Vec<String> = looked_in.iter().map(|file| file.display().to_string()).collect();
        Fault::NoCredentials(format!(
            "there are no credentials: looked at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, the profile {name} in {}{also}",
            files.join(" and ")
        ))
    }
}

/// A file's sections; none of a file that is not there.
fn load(path: &Path) -> Result<Ini, Fault> {
    let unreadable =
        |why: &dyn std::fmt::Display| Fault::NoCredentials(format!("cannot read {}: {why}", path.display()));
    let Some(bytes) = obeyed(path, LARGEST)? else { return Ok(Ini::new()) };
    let text = String::from_utf8(bytes).map_err(|_| unreadable(&"it is not UTF-8 text"))?;
    let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    // Without the parser's own words: they could quote the line.
    Ini::load_from_str_opt(unmarked(&text), options)
        .map_err(|error| unreadable(&format!("line {} is not of the form KEY = VALUE", error.line + 1)))
}

fn section<'a>(file: &'a Ini, names: &[&str]) -> Option<&'a Properties> {
    names.iter().find_map(|name| file.section(Some(*name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(asked_for: Option<&str>, credentials: &str, config: &str) -> Result<Profile, Fault> {
        // Paths of people are long.
        let scratch = tempfile::Builder::new().prefix(&"long".repeat(40)).tempdir().expect("a scratch directory");
        let (keys, settings) = (scratch.path().join("credentials"), scratch.path().join("config"));
        std::fs::write(&keys, credentials).expect("a file");
        std::fs::write(&settings, config).expect("a file");
        Profile::read(asked_for.map(str::to_owned), keys, settings)
    }

    const KEYS: &str = "# ours\n[default]\naws_access_key_id = A\naws_secret_access_key=s/e+c\\r=\n\n[ci]\naws_access_key_id=B\n\
                        aws_secret_access_key = t\naws_session_token = x\n";

    #[test]
    fn a_profile_is_read_as_the_aws_tools_read_it() {
        let config = "[default]\nregion = eu-west-1\ns3 =\n  max_concurrent_requests = 20\n[profile ci]\nregion=us-west-2\nendpoint_url = http://h:1\n";
        let profile = read(None, KEYS, config).expect("a profile");
        let Some(CredentialSource::Keys(keys)) = profile.kept else { panic!("keys in the file") };
        assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.token.as_deref()), ("A", "s/e+c\\r=", None));
        assert_eq!(profile.region.as_deref(), Some("eu-west-1"));
        let marked =
            read(None, "\u{feff}[default]\naws_access_key_id=A\naws_secret_access_key=s\n", "").expect("a profile");
        assert!(
            matches!(marked.kept, Some(CredentialSource::Keys(keys)) if keys.id == "A"),
            "an editor's mark is no name"
        );
        let ci = read(Some("ci"), KEYS, config).expect("a profile");
        assert_eq!((ci.region.as_deref(), ci.endpoint.as_deref()), (Some("us-west-2"), Some("http://h:1")));
        assert!(matches!(ci.kept, Some(CredentialSource::Keys(keys)) if keys.token.as_deref() == Some("x")));
    }

    #[test]
    fn processes_and_web_identities_count_in_the_order_of_the_aws_tools() {
        let process =
            "[profile p]\ncredential_process = /bin/x --a \"b c\"\naws_access_key_id = C\naws_secret_access_key = u\n";
        let profile = read(Some("p"), "", process).expect("a profile");
        assert!(matches!(profile.kept, Some(CredentialSource::Process(command)) if command == "/bin/x --a \"b c\""));
        let both =
            read(Some("p"), "[p]\naws_access_key_id = D\naws_secret_access_key = v\n", process).expect("a profile");
        assert!(matches!(both.kept, Some(CredentialSource::Keys(keys)) if keys.id == "D"));
        let web = read(None, "", "[default]\nrole_arn = r\nweb_identity_token_file = /t\n").expect("a profile");
        assert!(matches!(web.kept, Some(CredentialSource::WebIdentity { session: None, .. })));
    }

    #[test]
    fn a_file_that_others_may_write_is_not_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let file = scratch.path().join("config");
        std::fs::write(&file, "[default]\ncredential_process = /bin/x\n").expect("a file");
        let read = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("an own file");
            Profile::read(None, "/dev/null".into(), file.clone())
        };
        assert!(read(0o644).is_ok_and(|profile| profile.kept.is_some()));
        let Err(Fault::NoCredentials(why)) = read(0o664) else { panic!("its group may write it") };
        assert!(why.contains("so others may change what is read here"), "{why}");
    }

    #[test]
    fn what_is_missing_is_said_without_a_word_of_the_files_content() {
        assert!(matches!(read(Some("nobody"), KEYS, ""), Err(Fault::NoCredentials(why)) if why.contains("nobody")));
        let role = read(None, "", "[default]\nrole_arn = r\nsource_profile = x\n").expect("a profile");
        assert!(role.kept.is_none() && role.nothing("").to_string().contains("export-credentials"));
        let none = read(None, "", "").expect("no profile is no error").nothing(" and more").to_string();
        assert!(
            none.contains("AWS_ACCESS_KEY_ID") && none.contains("credentials and ") && none.ends_with("and more"),
            "{none}"
        );
        let broken = read(None, "[default]\nhunter2\n", "").expect_err("no INI file").to_string();
        assert!(broken.contains("line") && !broken.contains("hunter2"), "{broken}");
    }
}
