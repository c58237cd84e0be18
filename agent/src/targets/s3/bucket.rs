//! The way to one bucket: where it is, who asks, and the few requests that the library does not make as we need them.
//!
//! The library's listing takes a truncated answer for a whole one where the server forgets to say how it goes on, and gives up at keys that
//! others chose badly. It knows no list of unfinished uploads, and no copy with other metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use blat_config::S3Settings;
use bytes::Bytes;
use http::{Method, Request};
use jiff::fmt::rfc2822::DateTimeParser;
use md5::Md5;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, Checksum};
use object_store::client::{HttpRequestBody, HttpResponse};
use object_store::multipart::MultipartStore;
use object_store::{CredentialProvider, ObjectStore, RetryConfig};
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::body::{LONGEST, SHORT, limited, xml};
use super::credentials::profile::Profile;
use super::credentials::{Credentials, variable};
use super::deleting;
use super::demands::Demands;
use super::fault::{ErrorResponse, Fault};
use super::listing::{self, Page, Uploads};
use super::wire::Wire;
use crate::flow::rate_limit::{RateLimiter, Urgency};
use crate::model::error::TargetError;
use crate::targets::s3::object_metadata::{ObjectMetadata, ZIP};

/// What the library does for us.
pub(super) trait Store: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Store for T {}

/// Where a page of a listing begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin<'a> {
    Start,
    /// After this key, whether it is there or not.
    Key(&'a str),
    /// Where the page before said that this one begins.
    Page(&'a str),
}

/// What it does not.
#[async_trait]
pub(super) trait Ask: Send + Sync {
    /// A page of the objects whose keys begin with `prefix`, and the server's clock in epoch seconds where it told.
    async fn objects(&self, prefix: &str, from: Begin<'_>) -> Result<(Page, Option<i64>), TargetError>;

    /// From here on the end of this upload in parts asks, or does not ask, that nothing is in its place; the library cannot ask that.
    fn set_condition(&self, upload: &str, is_conditional: bool);

    /// Deletes objects, at most [`deleting::MOST`], by one request that is sent once: whoever sends it again looks first whether that is still
    /// right. Gives those that are not known to be gone, each with what the server says of it.
    async fn delete(&self, keys: &[String]) -> Result<BTreeMap<String, ErrorResponse>, TargetError>;

    /// A page of the unfinished uploads to such keys.
    async fn uploads(&self, prefix: &str, after: Option<&(String, String)>) -> Result<Uploads, TargetError>;

    /// Copies an object within the bucket, with another card, and gives the copy's entity tag. `is_new`: nothing may be there, as far as the
    /// server can look for that; none where something is. It is sent once, as [`Bucket::once`] does.
    async fn copy(
        &self,
        from: &str,
        to: &str,
        card: &ObjectMetadata,
        is_new: bool,
    ) -> Result<Option<String>, TargetError>;
}

/// An open way.
#[derive(Clone)]
pub(super) struct Bucket {
    bulk: Arc<dyn Store>,
    tags: Arc<dyn Store>,
    /// The same for what is sent once.
    bulk_once: Arc<dyn Store>,
    tags_once: Arc<dyn Store>,
    /// Our own questions.
    pub(super) ask: Arc<dyn Ask>,
    /// Where it is, for people.
    pub(super) place: String,
}

impl Bucket {
    /// Finds out where the bucket is and who we are. Nobody is asked yet.
    ///
    /// # Errors
    /// The settings, the environment and the AWS tools' files do not go together.
    pub(super) fn open(settings: &S3Settings, limiter: &Arc<RateLimiter>) -> Result<Self, Fault> {
        let wire = Wire::new(limiter.clone())?;
        let profile = Profile::load()?;
        let region =
            settings.region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        let region = region.or(profile.region).unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint = settings.endpoint.clone().or_else(|| variable("AWS_ENDPOINT_URL_S3"));
        let endpoint = endpoint.or_else(|| variable("AWS_ENDPOINT_URL")).or(profile.endpoint);
        let url = address(settings, endpoint.as_deref(), &region)?;
        let credentials = Arc::new(Credentials::new(&wire, &region)?);
        let wire = wire.signing(credentials.clone(), &region, Demands::of(&settings.demands)?);
        let store = |wire: Wire| -> Result<Arc<AmazonS3>, Fault> {
            let builder = AmazonS3Builder::new()
                .with_bucket_name(&settings.bucket)
                .with_region(&region)
                // The bucket is in the URL already: it is taken as it is.
                .with_virtual_hosted_style_request(true)
                .with_endpoint(url.as_str().trim_end_matches('/'))
                .with_credentials(credentials.clone())
                .with_http_connector(wire)
                .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
                .with_checksum_algorithm(Checksum::SHA256);
            Ok(Arc::new(
                builder
                    .build()
                    .map_err(|error| Fault::Nonsense(format!("cannot set up the way to the bucket: {error}")))?,
            ))
        };
        let place = format!("{}/{}", url.as_str().trim_end_matches('/'), settings.prefix);
        Ok(Self {
            bulk: store(wire.clone())?,
            tags: store(wire.urgent())?,
            bulk_once: store(wire.once())?,
            tags_once: store(wire.urgent().once())?,
            ask: Arc::new(Server { wire, url, region, credentials, bucket: settings.bucket.clone() }),
            place,
        })
    }

    /// A bucket in memory, or whatever a test has.
    #[cfg(test)]
    pub(super) fn of(store: Arc<dyn Store>, ask: Arc<dyn Ask>) -> Self {
        Self {
            bulk: store.clone(),
            tags: store.clone(),
            bulk_once: store.clone(),
            tags_once: store,
            ask,
            place: "memory".to_owned(),
        }
    }

    /// The library's way, for bytes of this urgency.
    pub(super) fn store(&self, urgency: Urgency) -> &Arc<dyn Store> {
        match urgency {
            Urgency::Tag => &self.tags,
            Urgency::Bulk => &self.bulk,
        }
    }

    /// The same for a write that may replace something: it is sent once, and whoever sends it again looks first whether that is still right.
    pub(super) fn once(&self, urgency: Urgency) -> &Arc<dyn Store> {
        match urgency {
            Urgency::Tag => &self.tags_once,
            Urgency::Bulk => &self.bulk_once,
        }
    }
}

/// The bucket's own URL.
fn address(settings: &S3Settings, endpoint: Option<&str>, region: &str) -> Result<Url, Fault> {
    let bucket = &settings.bucket;
    // A certificate for all buckets of a server fits one label.
    let path_style = settings.path_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let server =
        endpoint.map_or_else(|| format!("https://s3.{region}.{domain}"), |url| url.trim_end_matches('/').to_owned());
    let text = match (path_style, server.split_once("://")) {
        (false, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
        (true, _) | (false, None) => format!("{server}/{bucket}"),
    };
    Url::parse(&text).map_err(|error| Fault::Nonsense(format!("{text} is no URL: {error}; correct the endpoint")))
}

/// What signs and sends our own questions.
struct Server {
    wire: Wire,
    url: Url,
    region: String,
    credentials: Arc<Credentials>,
    bucket: String,
}

impl Server {
    async fn send(
        &self,
        wire: &Wire,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<HttpResponse, Fault> {
        let mut url = self.url.clone();
        if !key.is_empty() {
            url = format!("{}/{}", self.url.as_str().trim_end_matches('/'), encoded(key))
                .parse()
                .map_err(|error| odd(&error))?;
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = Request::builder().method(method).uri(url.as_str());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut request = request.body(HttpRequestBody::from(body)).map_err(|error| odd(&error))?;
        let credential = self.credentials.get_credential().await.map_err(|error| unsigned(&error))?;
        let signer = AwsAuthorizer::new(&credential, "s3", &self.region);
        signer.try_authorize(&mut request, None).map_err(|error| unsigned(&error))?;
        let response = wire.send(&request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, action) = (response.status().as_u16(), super::wire::action(&request));
        let body = limited(response.into_body(), SHORT).await.unwrap_or_default();
        Err(Fault::Answered(ErrorResponse::read(status, &body, None, action)))
    }

    async fn list(&self, query: &[(&str, &str)]) -> Result<(Vec<u8>, Option<i64>), TargetError> {
        let response = self.send(&self.wire, Method::GET, "", query, &[], Bytes::new()).await?;
        let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        let clock = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()).map(|date| date.as_second());
        Ok((limited(response.into_body(), LONGEST).await?, clock))
    }
}

#[async_trait]
impl Ask for Server {
    async fn objects(&self, prefix: &str, from: Begin<'_>) -> Result<(Page, Option<i64>), TargetError> {
        let mut query = vec![("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)];
        match from {
            Begin::Start => {}
            Begin::Key(key) => query.push(("start-after", key)),
            Begin::Page(token) => query.push(("continuation-token", token)),
        }
        let (body, clock) = self.list(&query).await?;
        Ok((listing::objects(&body).map_err(unreadable)?, clock))
    }

    async fn uploads(&self, prefix: &str, after: Option<&(String, String)>) -> Result<Uploads, TargetError> {
        let mut query = vec![("uploads", ""), ("encoding-type", "url"), ("prefix", prefix)];
        if let Some((key, id)) = after {
            query.extend([("key-marker", key.as_str()), ("upload-id-marker", id.as_str())]);
        }
        let (body, _) = self.list(&query).await?;
        listing::uploads(&body).map_err(unreadable)
    }

    fn set_condition(&self, upload: &str, is_conditional: bool) {
        self.wire.set_condition(upload, is_conditional);
    }

    async fn delete(&self, keys: &[String]) -> Result<BTreeMap<String, ErrorResponse>, TargetError> {
        let body = deleting::request(keys);
        let digest = |digest: &[u8]| base64::engine::general_purpose::STANDARD.encode(digest);
        let headers = [
            ("content-type", "application/xml".to_owned()),
            ("content-md5", digest(&Md5::digest(&body))),
            ("x-amz-checksum-sha256", digest(&Sha256::digest(&body))),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value));
        let response = self.send(&self.wire.once(), Method::POST, "", &[("delete", "")], &headers, body.into()).await?;
        let body = limited(response.into_body(), LONGEST).await?;
        deleting::not_deleted(keys, &body)
            .map_err(|why| TargetError::Link(format!("the server's answer to s3:DeleteObject cannot be used: {why}")))
    }

    async fn copy(
        &self,
        from: &str,
        to: &str,
        card: &ObjectMetadata,
        is_new: bool,
    ) -> Result<Option<String>, TargetError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Copied {
            #[serde(rename = "ETag")]
            etag: String,
        }
        let source = format!("/{}/{}", self.bucket, encoded(from));
        let fixed = [
            ("x-amz-copy-source", source),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
            ("content-type", ZIP.to_owned()),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        let pairs = card.pairs().into_iter().map(|(name, value)| (format!("x-amz-meta-{name}"), value));
        let mut headers: Vec<(String, String)> = fixed.chain(pairs).collect();
        headers.extend(is_new.then(|| ("if-none-match".to_owned(), "*".to_owned())));
        let response = match self.send(&self.wire.once(), Method::PUT, to, &[], &headers, Bytes::new()).await {
            Err(Fault::Answered(answer)) if is_new && matches!(answer.status, 409 | 412) => return Ok(None),
            Err(Fault::Answered(answer)) if is_new && answer.is_not_known() => {
                return self.copy(from, to, card, false).await;
            }
            answered => answered?,
        };
        let body = limited(response.into_body(), LONGEST).await?;
        // It may say 200 first and that it failed afterwards.
        match xml::<Copied>(&body) {
            Ok(Copied { etag }) => Ok(Some(listing::bare(&etag).to_owned())),
            Err(_) => Err(Fault::Answered(ErrorResponse::read(200, &body, None, "s3:PutObject")).into()),
        }
    }
}

fn unreadable(why: String) -> TargetError {
    // Whatever it was, it is no listing: nothing may be concluded from it.
    TargetError::Link(format!("the server's listing cannot be used: {why}"))
}

fn odd(error: &dyn std::fmt::Display) -> Fault {
    Fault::Unsent(TargetError::Refused(format!("no request can be made of this: {error}")))
}

fn unsigned(error: &object_store::Error) -> Fault {
    Fault::Unsent(super::fault::sorted(error))
}

/// A key of ours in a URL: of all that it may hold, only a plus means something else there.
fn encoded(key: &str) -> String {
    key.replace('+', "%2B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_url_follows_from_endpoint_region_and_style() {
        let settings = |bucket: &str, path_style| S3Settings {
            bucket: bucket.into(),
            prefix: String::new(),
            region: None,
            endpoint: None,
            path_style,
            demands: blat_config::Demands::default(),
        };
        for (bucket, path_style, endpoint, region, expected) in [
            ("b-1", None, None, "eu-west-1", "https://b-1.s3.eu-west-1.amazonaws.com/"),
            ("b.1", None, None, "eu-west-1", "https://s3.eu-west-1.amazonaws.com/b.1"),
            ("b-1", Some(true), None, "cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn/b-1"),
            ("b-1", None, Some("http://127.0.0.1:8333"), "x", "http://127.0.0.1:8333/b-1"),
            ("b-1", Some(false), Some("https://s3.example.com:9"), "x", "https://b-1.s3.example.com:9/"),
        ] {
            assert_eq!(address(&settings(bucket, path_style), endpoint, region).expect("a URL").as_str(), expected);
        }
    }
}
