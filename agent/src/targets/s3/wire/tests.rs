//! The client before a server that answers as it is told.

use std::num::NonZeroU64;
use std::sync::atomic::AtomicUsize;

use blat_domain::flow::bandwidth::Bandwidth;
use http::Method;
use object_store::PutPayload;
use object_store::client::HttpRequestBody;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::error::TargetError;

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Slow\r\nContent-Length: 40\r\n\r\n<Error><Code>SlowDown</Code></Error>    ";
const ELSEWHERE: &str = "HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n";
/// It reads and says nothing.
const SILENCE: &str = "";

struct Server {
    url: String,
    asked: Arc<AtomicUsize>,
    /// Bytes of bodies that arrived.
    bytes: Arc<AtomicUsize>,
    /// Heads of requests, in small letters.
    heads: Heads,
}

type Heads = Arc<Mutex<Vec<String>>>;

impl Server {
    /// Gives these answers, one after the other, and the last one for ever.
    async fn answering(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/b/k", listener.local_addr().expect("an address"));
        let (asked, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let heads = Heads::default();
        let server = Self { url, asked: asked.clone(), bytes: bytes.clone(), heads: heads.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, answers, asked.clone(), bytes.clone(), heads.clone()));
            }
        });
        server
    }

    fn request(&self, method: Method, body: &[u8]) -> HttpRequest {
        let body = match body.len() {
            0 => HttpRequestBody::empty(),
            _ => PutPayload::from(body.to_vec()).into(),
        };
        let request = http::Request::builder().method(method).uri(&self.url);
        request.header("content-length", body.content_length()).body(body).expect("a request")
    }

    /// The same to another address on it.
    fn to(&self, method: Method, query: &str, body: &[u8]) -> HttpRequest {
        let mut request = self.request(method, body);
        *request.uri_mut() = format!("{}?{query}", self.url).parse().expect("a URL");
        request
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A request's head in small letters; none where the other end hung up.
async fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).ok()?.to_lowercase())
}

async fn converse(
    mut stream: TcpStream,
    answers: &[&str],
    asked: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    heads: Heads,
) -> Option<()> {
    loop {
        let head = head_of(&mut stream).await?;
        let number = asked.fetch_add(1, Ordering::SeqCst);
        heads.lock().expect("one at a time").push(head.clone());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        for _ in 0..length.unwrap_or(0) {
            stream.read_u8().await.ok()?;
            bytes.fetch_add(1, Ordering::SeqCst);
        }
        match answers[number.min(answers.len() - 1)] {
            SILENCE => std::future::pending().await,
            answer => stream.write_all(answer.as_bytes()).await.ok()?,
        }
    }
}

fn wire(rate: Option<u64>) -> (Wire, Arc<RateLimiter>) {
    let limiter = Arc::new(RateLimiter::new(Bandwidth::Always(rate.and_then(NonZeroU64::new))));
    (Wire::new(limiter.clone()).expect("a client"), limiter)
}

#[tokio::test]
async fn a_body_waits_for_the_valve_and_a_question_does_not() {
    let server = Server::answering(&[FINE]).await;
    let (wire, limiter) = wire(Some(1));
    assert!(!limiter.is_closed(), "the first may go at once");
    limiter.spend(100_000);
    assert!(limiter.is_closed());
    wire.send(&server.request(Method::GET, b"")).await.expect("a question");
    let request = server.request(Method::PUT, &[7; 300_000]);
    let sending = tokio::spawn(async move { wire.send(&request).await.map(|_| ()) });
    while server.asked() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.bytes.load(Ordering::SeqCst), 0);
    assert!(!sending.is_finished());
    limiter.set(Bandwidth::Always(None));
    assert_eq!(sending.await.expect("no panic"), Ok(()));
    assert_eq!(server.bytes.load(Ordering::SeqCst), 300_000);
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_told_at_once() {
    let (wire, _) = wire(None);
    let busy_first = Server::answering(&[BUSY, BUSY, FINE]).await;
    wire.send(&busy_first.request(Method::PUT, b"x")).await.expect("the third try");
    assert_eq!((busy_first.asked(), busy_first.bytes.load(Ordering::SeqCst)), (3, 3));

    let busy = Server::answering(&[BUSY]).await;
    let fault = wire.send(&busy.request(Method::GET, b"")).await.expect_err("never");
    assert_eq!(busy.asked(), usize::try_from(TRIES).expect("few"));
    assert!(matches!(TargetError::from(fault), TargetError::Link(why) if why.contains("SlowDown")));

    let elsewhere = Server::answering(&[ELSEWHERE]).await;
    let fault = wire.send(&elsewhere.request(Method::GET, b"")).await.expect_err("never");
    assert_eq!(elsewhere.asked(), 1);
    assert!(matches!(TargetError::from(fault), TargetError::Operator(why) if why.contains("say region: eu-west-1")));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let server = Server::answering(&[FINE, SILENCE]).await;
    let (wire, _) = wire(None);
    wire.send(&server.request(Method::GET, b"")).await.expect("an answer");
    // From here on the clock jumps wherever everybody waits.
    tokio::time::pause();
    let fault = wire.send(&server.request(Method::PUT, &[1; 10])).await.expect_err("never");
    assert!(matches!(fault, Fault::Unreached(_)), "{fault}");
}

const FAILED_AFTERWARDS: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n  <?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>";
const DENIED_AFTERWARDS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n<Error><Code>AccessDenied</Code></Error>";
const COMPLETED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 136\r\n\r\n<CompleteMultipartUploadResult>\
    <Key>p/InternalError/SlowDown.zip</Key><ETag>&quot;ab-2&quot;</ETag></CompleteMultipartUploadResult>     ";

const BEGUN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 91\r\n\r\n<InitiateMultipartUploadResult>\
    <UploadId>a/b+c==</UploadId></InitiateMultipartUploadResult>";

/// For each request whose answer reports success or failure, and for none whose answer is an object.
#[tokio::test]
async fn an_error_that_comes_with_a_success_is_one_and_is_tried_again() {
    let (wire, _) = wire(None);
    for (method, query) in [
        (Method::POST, "delete"),
        (Method::POST, "uploads"),
        (Method::GET, "list-type=2"),
        (Method::GET, "uploads"),
        (Method::POST, "uploadId=1"),
        (Method::PUT, "x-id=PutObject"),
        (Method::PUT, "partNumber=1&uploadId=1"),
        (Method::DELETE, "uploadId=1"),
    ] {
        let begins = method == Method::POST && query == "uploads";
        let answers: &[&str] = if begins {
            &[FAILED_AFTERWARDS, FAILED_AFTERWARDS, BEGUN]
        } else {
            &[FAILED_AFTERWARDS, FAILED_AFTERWARDS, COMPLETED]
        };
        let server = Server::answering(answers).await;
        wire.send(&server.to(method.clone(), query, b"")).await.expect("the third try");
        assert_eq!(server.asked(), 3, "{method} {query}");
        let server = Server::answering(&[DENIED_AFTERWARDS]).await;
        let fault = wire.send(&server.to(method.clone(), query, b"")).await.expect_err("an error");
        assert_eq!(server.asked(), 1, "{method} {query}");
        assert!(matches!(TargetError::from(fault), TargetError::Operator(why) if why.contains("AccessDenied")));
    }
    let server = Server::answering(&[FAILED_AFTERWARDS]).await;
    wire.send(&server.request(Method::GET, b"")).await.expect("an object may say what it likes");
    let mut copy = server.request(Method::PUT, b"");
    copy.headers_mut().insert("x-amz-copy-source", "/b/k".parse().expect("a value"));
    assert!(matches!(wire.send(&copy).await, Err(Fault::Answered(answer)) if answer.code == "InternalError"));
}

const ERROR_AFTER_THE_END: &str = "HTTP/1.1 200 OK\r\nContent-Length: 135\r\n\r\n<CompleteMultipartUploadResult>\
    <ETag>&quot;ab-2&quot;</ETag></CompleteMultipartUploadResult><Error><Code>InternalError</Code></Error>  ";

#[tokio::test]
async fn an_upload_whose_end_is_followed_by_an_error_has_not_ended() {
    let (wire, _) = wire(None);
    let server = Server::answering(&[ERROR_AFTER_THE_END]).await;
    let fault = wire.send(&server.to(Method::POST, "uploadId=1", b"")).await.expect_err("an error");
    assert_eq!(server.asked(), usize::try_from(TRIES).expect("few"));
    assert!(matches!(TargetError::from(fault), TargetError::Link(why) if why.contains("cannot be used")));
}

#[tokio::test]
async fn only_the_end_of_an_upload_that_may_replace_nothing_is_conditional() {
    let (wire, _) = wire(None);
    wire.set_condition("a/b+c", true);
    let server = Server::answering(&[COMPLETED]).await;
    for (method, query) in [
        (Method::POST, "uploadId=a%2Fb%2Bc"),
        (Method::POST, "uploadId=a%2Fb"),
        (Method::PUT, "partNumber=1&uploadId=a%2Fb%2Bc"),
    ] {
        wire.send(&server.to(method, query, b"")).await.expect("a success");
    }
    wire.set_condition("a/b+c", false);
    wire.send(&server.to(Method::POST, "uploadId=a%2Fb%2Bc", b"")).await.expect("a success");
    let heads = server.heads.lock().expect("one at a time").clone();
    let are_conditional: Vec<bool> = heads.iter().map(|head| head.contains("if-none-match: *\r\n")).collect();
    assert_eq!(are_conditional, [true, false, false, false]);
}

/// An answer with these headers and this body, as long as it says.
fn whole_answer(headers: &str, body: &str) -> &'static [&'static str] {
    let answer: &str = format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).leak();
    vec![answer].leak()
}

#[tokio::test]
async fn an_upload_with_a_long_or_odd_number_is_not_begun() {
    let (wire, _) = wire(None);
    for (id, is_taken) in
        [("x".repeat(2048), true), ("x".repeat(2049), false), ("a\u{1}b".to_owned(), false), (String::new(), false)]
    {
        let body = format!("<Result><UploadId>{id}</UploadId></Result>");
        let server = Server::answering(whole_answer("", &body)).await;
        let begun = wire.send(&server.to(Method::POST, "uploads", b"")).await;
        assert_eq!(begun.is_ok(), is_taken, "{} bytes", id.len());
        let why = begun.err().map(|fault| TargetError::from(fault).to_string());
        assert!(why.is_none_or(|why| why.contains("names an upload by")), "{} bytes", id.len());
        assert_eq!(server.asked(), 1);
    }
}

#[tokio::test]
async fn headers_are_short_and_so_are_the_tags_of_what_was_written() {
    let (wire, _) = wire(None);
    let etag = |length| format!("ETag: {}\r\n", "e".repeat(length));
    let others = (0..20).map(|number| format!("x-{number}: {}\r\n", "x".repeat(1000))).collect::<String>();
    for (method, headers, is_taken) in [
        (Method::PUT, etag(256), true),
        (Method::PUT, etag(257), false),
        (Method::GET, etag(257), true),
        (Method::GET, etag(300 << 10), false),
        (Method::PUT, etag(300 << 10), false),
        (Method::DELETE, others.clone(), false),
        (Method::POST, others, false),
    ] {
        let server = Server::answering(whole_answer(&headers, "")).await;
        let answered = wire.send(&server.request(method.clone(), b"")).await;
        assert_eq!(answered.is_ok(), is_taken, "{method} {} bytes", headers.len());
        if let Err(fault) = answered {
            assert!(matches!(TargetError::from(fault), TargetError::Refused(why) if why.contains("at most")));
            assert_eq!(server.asked(), 1);
        }
    }
}

#[tokio::test]
async fn a_package_called_like_an_error_is_none() {
    let (wire, _) = wire(None);
    let server = Server::answering(&[COMPLETED]).await;
    let answer = wire.send(&server.to(Method::POST, "uploadId=1", b"")).await.expect("a success");
    let text = limited(answer.into_body(), LONGEST).await.expect("a document");
    assert_eq!(text, b"<CompleteMultipartUploadResult><ETag>&quot;ab-2&quot;</ETag></CompleteMultipartUploadResult>");
}

/// Credentials that are others each time.
#[derive(Debug, Default)]
struct Rolling(AtomicUsize);

#[async_trait]
impl object_store::CredentialProvider for Rolling {
    type Credential = object_store::aws::AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<Self::Credential>> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let token = (number == 0).then(|| "first".to_owned());
        Ok(Arc::new(Self::Credential { key_id: format!("key{number}"), secret_key: "secret".into(), token }))
    }
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_signed_anew() {
    let (wire, _) = wire(None);
    let credentials: Arc<Rolling> = Arc::default();
    let wire = wire.signing(credentials, "eu-west-1", Demands::default());
    let server = Server::answering(&[BUSY, BUSY, FINE]).await;
    let request = server.request(Method::PUT, b"body");
    let request = wire.signed_anew(&request).await.expect("credentials").expect("a signer");
    wire.send(&request).await.expect("the third try");
    let heads = server.heads.lock().expect("one at a time").clone();
    for (number, head) in heads.iter().enumerate() {
        assert!(head.contains(&format!("credential=key{number}/")), "{head}");
        assert_eq!(head.contains("x-amz-security-token"), number == 0, "an old token does not go along: {head}");
        assert_eq!(head.matches("authorization:").count(), 1, "{head}");
    }
    let digest = |head: &String| {
        head.lines().find(|line| line.starts_with("x-amz-content-sha256")).map(str::to_owned).expect("a digest")
    };
    assert!(heads.len() == 3 && digest(&heads[0]) == digest(&heads[2]), "the body is the same: {heads:#?}");
}

/// AWS's own description of its requests says which of them take which of these headers; servers refuse them on others.
#[tokio::test]
async fn every_request_says_what_the_bucket_demands_where_s3_takes_it_and_has_it_signed() {
    let (plain, _) = wire(None);
    let demands = blat_config::Demands {
        sse: Some("aws:kms"),
        kms_key_id: Some("alias/packages".into()),
        storage_class: Some("STANDARD_IA".into()),
        acl: Some("bucket-owner-full-control"),
        is_requester_paying: true,
    };
    let demanding = plain.signing(Arc::<Rolling>::default(), "x", Demands::of(&demands).expect("headers"));
    let silent = plain.signing(Arc::<Rolling>::default(), "x", Demands::default());
    let of_objects = [
        "x-amz-acl: bucket-owner-full-control",
        "x-amz-server-side-encryption: aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id: alias/packages",
        "x-amz-storage-class: standard_ia",
    ];
    for (method, query, makes_object) in [
        (Method::PUT, "", true),
        (Method::PUT, "x-id=CopyObject", true),
        (Method::POST, "uploads", true),
        (Method::PUT, "partNumber=1&uploadId=1", false),
        (Method::POST, "uploadId=1", false),
        (Method::DELETE, "uploadId=1", false),
        (Method::POST, "delete", false),
        (Method::DELETE, "", false),
        (Method::GET, "", false),
        (Method::HEAD, "", false),
        (Method::GET, "list-type=2&prefix=uploads", false),
        (Method::GET, "uploads", false),
    ] {
        // The second try says it as well.
        let answers: &[&str] = if query == "uploads" { &[BUSY, BEGUN] } else { &[BUSY, COMPLETED] };
        let server = Server::answering(answers).await;
        let mut request = server.to(method.clone(), query, b"");
        if query == "x-id=CopyObject" {
            request.headers_mut().insert("x-amz-copy-source", "/b/k".parse().expect("a value"));
        }
        demanding.send(&request).await.expect("a success");
        silent.send(&request).await.expect("a success");
        let heads = server.heads.lock().expect("one at a time").clone();
        assert_eq!(heads.len(), 3, "{method} {query}");
        for (number, head) in heads.iter().enumerate() {
            let is_demanding = number < 2;
            let says = |header: &str| {
                let name = header.split(':').next().unwrap_or_default();
                let is_signed = head.contains(&format!(";{name}")) || head.contains(&format!("={name};"));
                assert_eq!(head.matches(&format!("{name}: ")).count(), usize::from(is_signed), "{head}");
                head.contains(&format!("{header}\r\n"))
            };
            assert_eq!(says("x-amz-request-payer: requester"), is_demanding, "{method} {query}: {head}");
            for header in of_objects {
                assert_eq!(says(header), is_demanding && makes_object, "{method} {query}: {head}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_drips_is_given_up_also_one_that_never_stands_still() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/b/k", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        head_of(&mut stream).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n").await.expect("a caller");
        // The clock jumps to each of these seconds.
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    });
    let request = http::Request::builder().uri(url).body(HttpRequestBody::empty()).expect("a request");
    let (mut wire, _) = wire(None);
    wire.tries = 1;
    // Connecting waits for the system, not for the clock.
    wire.signer =
        Some(Signer { credentials: Arc::new(Rolling::default()), region: "x".into(), demands: Arc::default() });
    let answer = wire.send(&request).await.expect("a head");
    tokio::time::pause();
    let fault = limited(answer.into_body(), SHORT).await.expect_err("never whole");
    assert!(matches!(fault, Fault::Unreached(_)), "{fault}");
}

#[tokio::test]
async fn what_is_said_beside_objects_and_documents_is_short() {
    const LONG: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/latest/api/token", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head_of(&mut stream).await;
                stream.write_all(LONG.as_bytes()).await.ok();
                let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
                while stream.write_all(chunk.as_bytes()).await.is_ok() {}
            });
        }
    });
    let (wire, _) = wire(None);
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::POST] {
        let request = http::Request::builder().method(method.clone()).uri(&url);
        let request = request.body(HttpRequestBody::empty()).expect("a request");
        let fault = wire.send(&request).await.expect_err("endless");
        assert!(matches!(&fault, Fault::Nonsense(why) if why.contains("longer than")), "{method}: {fault}");
    }
}
