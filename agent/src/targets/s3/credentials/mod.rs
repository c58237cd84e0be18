//! Who we are towards the server, found where the AWS tools look, in their order: the environment, a web identity, the profile's files
//! or its process, the container's and the instance's metadata. Nothing of it is ever shown.

mod process;
pub(super) mod profile;

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use blat_config::aws;
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use tokio::sync::Mutex;
use tokio::time::Instant;

use profile::{CredentialSource, Profile};

use super::fault::Fault;
use super::wire::Wire;

/// What stands in a file is looked at again after this: people renew it by writing it anew.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Credentials are renewed so long before they expire.
const EARLY: Duration = Duration::from_secs(300);

/// The longest token in a file, in bytes.
const LONGEST_TOKEN: u64 = 64 << 10;

/// The whole search.
#[derive(Debug)]
pub(super) struct Credentials {
    /// Keys in the environment, or a web identity that it names.
    environment: Option<AwsCredentialProvider>,
    /// The metadata of the container or the instance, where that may be asked.
    metadata: Option<AwsCredentialProvider>,
    metadata_name: &'static str,
    region: String,
    wire: Wire,
    cached: Mutex<Option<CachedCredential>>,
}

/// What the files said, for a while.
#[derive(Debug)]
struct CachedCredential {
    credential: Arc<AwsCredential>,
    until: Instant,
}

/// A variable that is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Credentials {
    /// Gets ready to look; nobody is asked yet.
    ///
    /// # Errors
    /// The environment contradicts itself.
    pub(super) fn new(wire: &Wire, region: &str) -> Result<Self, Fault> {
        let set = |names: &[&str]| names.iter().all(|name| variable(name).is_some());
        let environment = if set(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]) {
            Some(provider(wire, region, &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"], None)?)
        } else if set(&["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"]) {
            let names =
                ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_ENDPOINT_URL_STS"];
            Some(provider(wire, region, &names, None)?)
        } else {
            None
        };
        let next_door = wire.next_door()?;
        let relative = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        let full = ["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
        let (metadata, metadata_name) = if set(&[relative]) {
            (Some(provider(&next_door, region, &[relative], None)?), "the container's metadata")
        } else if set(&full) {
            (Some(provider(&next_door, region, &full, None)?), "the container's metadata")
        } else if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            (None, "")
        } else {
            let endpoint = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
            let endpoint =
                endpoint.map(|url| (AmazonS3ConfigKey::MetadataEndpoint, url.trim_end_matches('/').to_owned()));
            (Some(provider(&next_door, region, &[], endpoint)?), "the instance's metadata")
        };
        let (region, wire) = (region.to_owned(), wire.clone());
        Ok(Self { environment, metadata, metadata_name, region, wire, cached: Mutex::default() })
    }

    async fn find(&self) -> Result<Arc<AwsCredential>, Fault> {
        if let Some(environment) = &self.environment {
            return environment.get_credential().await.map_err(|error| unusable("the environment's", &error));
        }
        let mut cached = self.cached.lock().await;
        if let Some(CachedCredential { credential, until }) = &*cached
            && Instant::now() < *until
        {
            return Ok(credential.clone());
        }
        let profile = Profile::load()?;
        if let Some(kept) = &profile.kept {
            let new = match kept {
                CredentialSource::Keys(keys) => {
                    CachedCredential { credential: keys.credential(), until: Instant::now() + LOOK_AGAIN }
                }
                CredentialSource::Process(command) => {
                    let (keys, lasting) = process::run(command, &profile.name).await?;
                    let lasting = lasting.map_or(LOOK_AGAIN * 15, |lasting| lasting.saturating_sub(EARLY));
                    CachedCredential { credential: keys.credential(), until: Instant::now() + lasting }
                }
                CredentialSource::WebIdentity { token_file, role, session } => {
                    let pairs = [
                        (AmazonS3ConfigKey::WebIdentityTokenFile, Some(token_file)),
                        (AmazonS3ConfigKey::RoleArn, Some(role)),
                        (AmazonS3ConfigKey::RoleSessionName, session.as_ref()),
                    ];
                    let pairs = pairs.into_iter().filter_map(|(key, value)| Some((key, value?.clone())));
                    let provider = provider(&self.wire, &self.region, &["AWS_ENDPOINT_URL_STS"], pairs)?;
                    let credential =
                        provider.get_credential().await.map_err(|error| unusable("the web identity's", &error))?;
                    // The library asks for an hour.
                    CachedCredential { credential, until: Instant::now() + LOOK_AGAIN * 45 }
                }
            };
            let credential = new.credential.clone();
            *cached = Some(new);
            return Ok(credential);
        }
        let Some(metadata) = &self.metadata else { return Err(profile.nothing("")) };
        metadata.get_credential().await.map_err(|error| {
            let said = super::fault::fault(&error).map_or_else(|| error.to_string(), ToString::to_string);
            profile.nothing(&format!(" and {} ({said})", self.metadata_name))
        })
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.find().await.map_err(|fault| object_store::Error::Generic { store: "S3", source: Box::new(fault) })
    }
}

/// What a file of the AWS tools says, of at most so many bytes; none where there is no such file.
///
/// # Errors
/// Others may write it, it is larger, or it cannot be read.
pub(super) fn obeyed(path: &Path, most: u64) -> Result<Option<Vec<u8>>, Fault> {
    let unreadable =
        |why: &dyn std::fmt::Display| Fault::NoCredentials(format!("cannot read {}: {why}", path.display()));
    let Some(file) = aws::open(path).map_err(|why| unreadable(&why))? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > most {
        return Err(unreadable(&format!("it is larger than {} KiB", most >> 10)));
    }
    Ok(Some(bytes))
}

fn unusable(whose: &str, error: &object_store::Error) -> Fault {
    let said = super::fault::fault(error).map_or_else(|| error.to_string(), ToString::to_string);
    Fault::NoCredentials(format!("{whose} credentials cannot be had: {said}"))
}

/// Fails unless this is a file that holds a token and that only root and we ourselves can have written, since the library reads it by its
/// name. One that is not there may come: then the library says so.
fn expect_token(path: &str) -> Result<(), Fault> {
    obeyed(Path::new(path), LONGEST_TOKEN).map(drop)
}

/// The library's own provider for what these variables and settings say.
fn provider(
    wire: &Wire,
    region: &str,
    variables: &[&str],
    more: impl IntoIterator<Item = (AmazonS3ConfigKey, String)>,
) -> Result<AwsCredentialProvider, Fault> {
    // A bucket has to be named, and is never asked.
    let mut builder =
        AmazonS3Builder::new().with_bucket_name("none").with_region(region).with_http_connector(wire.clone());
    for name in variables {
        if let (Some(value), Ok(key)) = (variable(name), name.to_ascii_lowercase().parse()) {
            if name.ends_with("_FILE") {
                expect_token(&value)?;
            }
            builder = builder.with_config(key, value);
        }
    }
    for (key, value) in more {
        if key == AmazonS3ConfigKey::WebIdentityTokenFile {
            expect_token(&value)?;
        }
        builder = builder.with_config(key, value);
    }
    let store =
        builder.build().map_err(|error| Fault::NoCredentials(format!("the credentials are not usable: {error}")))?;
    Ok(store.credentials().clone())
}
