//! HTTP to the server: held back by the limiter, watched for stalls, tried again where that helps.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use blat_config::aws;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use quick_xml::events::Event;
use reqwest::redirect;
use serde::Deserialize;

use super::LONGEST_ETAG;
use super::begun::is_id;
use super::body::{LONGEST, SHORT, WatchedBody, limited, xml};
use super::credentials::obeyed;
use super::demands::Demands;
use super::fault::{ErrorResponse, Fault, fault};
use super::tries::{FIRST_WAIT, MOST as TRIES};
use crate::flow::STALL_TIMEOUT;
use crate::flow::rate_limit::{RateLimiter, Urgency};

/// A connection that takes longer to come about never will.
const CONNECT: Duration = Duration::from_secs(10);
/// The same for metadata, which is next door or nowhere.
const NEXT_DOOR: Duration = Duration::from_secs(2);
/// The most that is sent in one go, in bytes.
const PORTION: usize = 64 << 10;

/// The most that an answer's headers come to, in bytes.
const LONGEST_HEADERS: usize = 16 << 10;

/// The largest file of certificates that is read, in bytes.
const LARGEST_BUNDLE: u64 = 16 << 20;

/// One client, and whose bytes go through it.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    client: reqwest::Client,
    limiter: Arc<RateLimiter>,
    urgency: Urgency,
    tries: u32,
    /// The uploads in parts whose end asks that nothing is in its place.
    conditional: Arc<Mutex<BTreeSet<String>>>,
    /// Who signs a request again before it is sent again.
    signer: Option<Signer>,
}

/// What a signature takes.
#[derive(Debug, Clone)]
struct Signer {
    credentials: AwsCredentialProvider,
    region: String,
    /// What it signs beside what the request has.
    demands: Arc<Demands>,
}

impl Wire {
    /// A way to any server.
    ///
    /// # Errors
    /// The client cannot be set up, say because the system's certificates cannot be read.
    pub(super) fn new(limiter: Arc<RateLimiter>) -> Result<Self, Fault> {
        // Whoever was first has set the same; no other provider is compiled in.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = client(CONNECT, false)?;
        Ok(Self { client, limiter, urgency: Urgency::Bulk, tries: TRIES, conditional: Arc::default(), signer: None })
    }

    /// A way to what is next door or not there at all: one short try.
    ///
    /// # Errors
    /// As [`Wire::new`].
    pub(super) fn next_door(&self) -> Result<Self, Fault> {
        Ok(Self { client: client(NEXT_DOOR, true)?, tries: 1, ..self.clone() })
    }

    /// The same for requests that these credentials sign: one that is sent again is signed anew, since a signature is good for minutes and a
    /// token may have run out. Each says what the bucket demands.
    pub(super) fn signing(&self, credentials: AwsCredentialProvider, region: &str, demands: Demands) -> Self {
        let demands = Arc::new(demands);
        Self { signer: Some(Signer { credentials, region: region.to_owned(), demands }), ..self.clone() }
    }

    /// From here on the end of this upload in parts asks, or does not ask, that nothing is in its place.
    pub(super) fn set_condition(&self, upload: &str, is_conditional: bool) {
        let mut conditional = self.conditional.lock().unwrap_or_else(PoisonError::into_inner);
        if is_conditional {
            conditional.insert(upload.to_owned());
        } else {
            conditional.remove(upload);
        }
    }

    /// The same client for what is not sent again before somebody has looked whether it is still right.
    pub(super) fn once(&self) -> Self {
        Self { tries: 1, ..self.clone() }
    }

    /// The same client for what a tag asks for.
    pub(super) fn urgent(&self) -> Self {
        Self { urgency: Urgency::Tag, ..self.clone() }
    }

    /// Sends a request until it succeeds, or until trying again makes no sense.
    ///
    /// # Errors
    /// What the last try came to. Answers that the library has a use for, such as 404 and 412, are no errors here.
    pub(super) async fn send(&self, request: &HttpRequest) -> Result<HttpResponse, Fault> {
        let (mut wait, mut left) = (FIRST_WAIT, self.tries);
        let demands = |signer: &Signer| signer.demands.of_request(request).next().is_some();
        // Whoever made it signed it without them, and a server takes none that is not signed.
        let mut again = if self.signer.as_ref().is_some_and(demands) { self.signed_anew(request).await? } else { None };
        loop {
            left = left.saturating_sub(1);
            let outcome = self.send_once(again.as_ref().unwrap_or(request)).await;
            match outcome {
                Err(Fault::Unreached(why)) if left > 0 => tracing::debug!(why, "a request is tried again"),
                Err(Fault::Answered(answer)) if left > 0 && answer.will_pass() => {
                    tracing::debug!(%answer, "a request is tried again");
                }
                done => return done,
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
            again = self.signed_anew(request).await?;
        }
    }

    /// The same request with what the bucket demands and a signature of now; none where nobody signs it.
    async fn signed_anew(&self, request: &HttpRequest) -> Result<Option<HttpRequest>, Fault> {
        let Some(Signer { credentials, region, demands }) = &self.signer else { return Ok(None) };
        let unsigned = |error: object_store::Error| match fault(&error) {
            Some(fault) => fault.clone(),
            None => Fault::NoCredentials(format!("cannot sign a request: {error}")),
        };
        let credential = credentials.get_credential().await.map_err(unsigned)?;
        let mut again = request.clone();
        ["authorization", "x-amz-security-token"].iter().for_each(|name| drop(again.headers_mut().remove(*name)));
        again.headers_mut().extend(demands.of_request(request));
        // What the body comes to does not change.
        let digest = request.headers().get("x-amz-content-sha256").and_then(|digest| unhex(digest.as_bytes()));
        AwsAuthorizer::new(&credential, "s3", region).try_authorize(&mut again, digest.as_deref()).map_err(unsigned)?;
        Ok(Some(again))
    }

    async fn send_once(&self, request: &HttpRequest) -> Result<HttpResponse, Fault> {
        let action = action(request);
        let url = request.uri().to_string();
        let url = url.parse().map_err(|error| Fault::Nonsense(format!("{url} is no URL: {error}")))?;
        let progress = Arc::new(BodyProgress::default());
        let mut wired = reqwest::Request::new(request.method().clone(), url);
        *wired.headers_mut() = request.headers().clone();
        if self.is_conditional(request) {
            // As the library does where it asks that itself, beside what is signed.
            wired.headers_mut().insert(http::header::IF_NONE_MATCH, http::HeaderValue::from_static("*"));
        }
        *wired.body_mut() = self.body(request, &progress);
        let unreached = |error: reqwest::Error| Fault::Unreached(format!("cannot reach the server: {}", whole(&error)));
        let response = watched(&progress, self.client.execute(wired)).await?.map_err(unreached)?;
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        refuse_long_headers(request, &parts.headers, action)?;
        let body = HttpResponseBody::new(WatchedBody::new(body));
        if parts.status.is_success() && is_answered_by_document(request) {
            let body = document(request, limited(body, LONGEST).await?, action)?;
            return Ok(HttpResponse::from_parts(parts, body.into()));
        }
        if parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED {
            // Only an object's bytes may be many, and whoever asked for them takes them piece by piece.
            let is_object = self.signer.is_some() && request.method() == Method::GET;
            if is_object {
                return Ok(HttpResponse::from_parts(parts, body));
            }
            let body = limited(body, SHORT).await?;
            if request.method() != Method::GET {
                refuse_error(&body, action)?;
            }
            return Ok(HttpResponse::from_parts(parts, body.into()));
        }
        let region = parts.headers.get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
        // An explanation that breaks off or has no end is none.
        let body = limited(body, SHORT).await.unwrap_or_default();
        let answer = ErrorResponse::read(parts.status.as_u16(), &body, region.map(str::to_owned), action);
        match parts.status {
            StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT
                if answer.code != "NoSuchBucket" =>
            {
                Ok(HttpResponse::from_parts(parts, body.into()))
            }
            _ => Err(Fault::Answered(answer)),
        }
    }

    /// Whether a request ends an upload that must replace nothing.
    fn is_conditional(&self, request: &HttpRequest) -> bool {
        let conditional = self.conditional.lock().unwrap_or_else(PoisonError::into_inner);
        if conditional.is_empty() || request.method() != Method::POST {
            return false;
        }
        let query = request.uri().query().unwrap_or_default();
        let mut ids = query.split('&').filter_map(|pair| pair.strip_prefix("uploadId="));
        ids.any(|id| {
            let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
            conditional.contains(&*id)
        })
    }

    /// A request's body, in portions that go through the limiter.
    fn body(&self, request: &HttpRequest, progress: &Arc<BodyProgress>) -> Option<reqwest::Body> {
        let body = request.body();
        if body.content_length() == 0 {
            return None;
        }
        if let Some(bytes) = body.as_bytes() {
            // A short question: it must not wait.
            self.limiter.spend(bytes.len());
            return Some(reqwest::Body::from(bytes.clone()));
        }
        let (limiter, urgency, progress) = (self.limiter.clone(), self.urgency, progress.clone());
        let state = (body.clone().into_data_stream(), Bytes::new(), limiter, progress);
        let portions =
            futures_util::stream::try_unfold(state, move |(mut rest, mut chunk, limiter, progress)| async move {
                while chunk.is_empty() {
                    match rest.next().await {
                        Some(next) => chunk = next?,
                        None => return Ok::<_, HttpError>(None),
                    }
                }
                let portion = chunk.split_to(limiter.portion().min(PORTION).min(chunk.len()));
                progress.held(true);
                limiter.pass(urgency, portion.len()).await;
                progress.held(false);
                Ok(Some((portion, (rest, chunk, limiter, progress))))
            });
        Some(reqwest::Body::wrap_stream(portions))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Of a kind that the library does not try again by itself.
        self.send(&request).await.map_err(|fault| HttpError::new(HttpErrorKind::Unknown, fault))
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

/// A client; no proxy stands between us and what is next door, which may hand out credentials.
fn client(connect: Duration, is_next_door: bool) -> Result<reqwest::Client, Fault> {
    let builder = reqwest::Client::builder().redirect(redirect::Policy::none()).connect_timeout(connect);
    let builder = builder.tls_certs_merge(own_certificates()?);
    let builder = if is_next_door { builder.no_proxy() } else { builder };
    let built = builder.user_agent(concat!("blat/", env!("CARGO_PKG_VERSION"))).build();
    built.map_err(|error| Fault::Nonsense(format!("cannot set up an HTTP client: {}", whole(&error))))
}

/// The certificates that are trusted beside the system's, where the environment names such a file as the AWS tools do.
fn own_certificates() -> Result<Vec<reqwest::Certificate>, Fault> {
    let Some(path) = aws::named("AWS_CA_BUNDLE") else { return Ok(Vec::new()) };
    let unusable = |why: String| Fault::NoCredentials(format!("cannot use AWS_CA_BUNDLE, {}: {why}", path.display()));
    let pem = obeyed(&path, LARGEST_BUNDLE)?.ok_or_else(|| unusable("there is no such file".to_owned()))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(whole(&error)))
}

/// Whether a success of this request is an XML document that says what came of it, and not an object's bytes.
fn is_answered_by_document(request: &HttpRequest) -> bool {
    match request.method().as_str() {
        "POST" => ["delete", "uploads", "uploadId"].iter().any(|word| asks(request, word)),
        "GET" => ["list-type", "uploads"].iter().any(|word| asks(request, word)),
        "PUT" => request.headers().contains_key("x-amz-copy-source"),
        _ => false,
    }
}

/// A document that comes with a success. The server may say 200 first and that it failed afterwards: then the document is an error.
fn document(request: &HttpRequest, body: Vec<u8>, action: &'static str) -> Result<Vec<u8>, Fault> {
    refuse_error(&body, action)?;
    let unusable = |why: String| Fault::Unreached(format!("the answer to {action} cannot be used: {why}"));
    if request.method() != Method::POST {
        return Ok(body);
    }
    if asks(request, "uploads") {
        let InitiatedUpload { id } = xml(&body).map_err(unusable)?;
        // It is noted down, and becomes part of URLs.
        if !is_id(&id) {
            let length = id.len();
            let why = format!(
                "the server names an upload by {length} bytes that are too many or not plain; nothing is sent to it"
            );
            return Err(Fault::Nonsense(why));
        }
        return Ok(body);
    }
    if !asks(request, "uploadId") {
        return Ok(body);
    }
    // The library takes the names of errors anywhere in it for errors, and a package may be called so: it gets the one thing that it reads.
    match xml::<Completed>(&body) {
        Ok(Completed { etag }) => {
            let etag = quick_xml::escape::escape(&etag);
            let name = "CompleteMultipartUploadResult";
            Ok(format!("<{name}><ETag>{etag}</ETag></{name}>").into_bytes())
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Fails where what comes with a success is an error: the server began to answer before it was done.
fn refuse_error(body: &[u8], action: &'static str) -> Result<(), Fault> {
    if root(body).as_deref() == Some(b"Error") {
        return Err(Fault::Answered(ErrorResponse::read(StatusCode::OK.as_u16(), body, None, action)));
    }
    Ok(())
}

/// Fails where an answer's headers are longer than any that a server has reason to send. Of what was written, the entity tag is kept for
/// each object and each part, so it has to be shorter.
fn refuse_long_headers(request: &HttpRequest, headers: &http::HeaderMap, action: &'static str) -> Result<(), Fault> {
    let refused = |what: &str, length: usize, most: usize| {
        Err(Fault::Nonsense(format!(
            "the server's answer to {action} has {what} of {length} bytes, and at most {most} are taken"
        )))
    };
    let length = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if length > LONGEST_HEADERS {
        return refused("headers", length, LONGEST_HEADERS);
    }
    let etag = headers.get(http::header::ETAG).map_or(0, http::HeaderValue::len);
    if request.method() == Method::PUT && etag > LONGEST_ETAG {
        return refused("an entity tag", etag, LONGEST_ETAG);
    }
    Ok(())
}

/// The beginning of an upload in parts.
#[derive(Deserialize)]
struct InitiatedUpload {
    #[serde(rename = "UploadId")]
    id: String,
}

/// The end of an upload in parts.
#[derive(Deserialize)]
struct Completed {
    #[serde(rename = "ETag")]
    etag: String,
}

/// The name of a document's outermost element; none where it has none.
fn root(document: &[u8]) -> Option<Vec<u8>> {
    let mut reader = quick_xml::Reader::from_reader(document);
    loop {
        match reader.read_event() {
            Ok(Event::Start(element) | Event::Empty(element)) => return Some(element.local_name().as_ref().to_vec()),
            Ok(Event::Eof) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// The bytes that hexadecimal digits stand for; none where they are none.
pub(super) fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

/// What a request asks to be allowed, in the words of policies.
pub(super) fn action(request: &HttpRequest) -> &'static str {
    match request.method().as_str() {
        _ if asks(request, "Action") => "sts:AssumeRoleWithWebIdentity",
        _ if request.uri().path().starts_with("/latest/") => "the instance's metadata",
        "GET" if asks(request, "list-type") => "s3:ListBucket",
        "GET" if asks(request, "uploads") => "s3:ListBucketMultipartUploads",
        "GET" | "HEAD" => "s3:GetObject",
        "POST" if asks(request, "delete") => "s3:DeleteObject",
        "DELETE" if asks(request, "uploadId") => "s3:AbortMultipartUpload",
        "DELETE" => "s3:DeleteObject",
        _ => "s3:PutObject",
    }
}

/// Whether a request's query has this word.
pub(super) fn asks(request: &HttpRequest, word: &str) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair.split('=').next() == Some(word))
}

/// An error with all that it rests on.
pub(super) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Shows that a request's body moves.
#[derive(Debug, Default)]
struct BodyProgress {
    beats: AtomicU64,
    /// It waits for the limiter, which is no stall.
    is_held: AtomicBool,
}

impl BodyProgress {
    fn held(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// The outcome of `work`, unless nothing of its request moves.
async fn watched<T>(progress: &BodyProgress, work: impl Future<Output = T>) -> Result<T, Fault> {
    tokio::pin!(work);
    loop {
        let before = progress.beats.load(Ordering::Relaxed);
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(STALL_TIMEOUT) => {
                if progress.beats.load(Ordering::Relaxed) == before && !progress.is_held.load(Ordering::Relaxed) {
                    return Err(stalled());
                }
            }
        }
    }
}

pub(super) fn stalled() -> Fault {
    Fault::Unreached(format!("nothing moved for {} seconds", STALL_TIMEOUT.as_secs()))
}
