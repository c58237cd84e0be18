//! Bodies of answers: each is bounded in length, in time and in the memory that reading it takes. A server is a stranger, and what
//! it says of an answer's length beforehand need not be so.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body::{Body, Frame};
use object_store::GetResult;
use object_store::client::{HttpError, HttpErrorKind, HttpResponseBody};
use quick_xml::events::Event;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::TargetError;
use super::fault::{Fault, sorted};
use super::wire::{stalled, whole};
use crate::flow::STALL_TIMEOUT;

/// The most that is read of a document, in bytes: a page of a thousand of the longest keys takes less.
pub(super) const LONGEST: usize = 4 << 20;
/// The most that is read of an answer that says little, such as an error or credentials, in bytes.
pub(super) const SHORT: usize = 64 << 10;
/// The fewest bytes a second that an answer comes at, once [`STALL_TIMEOUT`] is over.
const SLOWEST: u64 = 4 << 10;
/// How deep elements may lie in each other. S3 needs five.
const DEEPEST: usize = 32;
/// The most elements of a document: a page of a thousand objects has some ten of each.
const MOST_ELEMENTS: usize = 100_000;

/// A whole body of at most so many bytes.
///
/// # Errors
/// It broke off, or is longer.
pub(super) async fn limited(body: HttpResponseBody, most: usize) -> Result<Vec<u8>, Fault> {
    let (mut all, mut chunks) = (Vec::new(), body.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Fault::Unreached(error.to_string()))?;
        if all.len() + chunk.len() > most {
            return Err(Fault::Nonsense(format!("the server's answer is longer than {most} bytes")));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// An object's bytes, where there are at most so many; none where there are more, whatever the server says of its size.
///
/// # Errors
/// It broke off.
pub(super) async fn object(found: GetResult, most: usize) -> Result<Option<Vec<u8>>, TargetError> {
    if found.meta.size > most as u64 {
        return Ok(None);
    }
    let (mut all, mut chunks) = (Vec::new(), found.into_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| sorted(&error))?;
        if all.len() + chunk.len() > most {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(Some(all))
}

/// Reads an XML document.
///
/// # Errors
/// Why it is none that a server has reason to send.
pub(super) fn xml<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("it is no text: {error}"))?;
    weigh(text)?;
    quick_xml::de::from_str(text).map_err(|error| format!("it cannot be read: {error}"))
}

/// Looks whether a document has no more elements, and none deeper in others, than there is reason for: whoever reads it keeps track of each.
/// Nothing follows its outermost element, which is all that is read: a server that fails while it answers may add an error there.
fn weigh(text: &str) -> Result<(), String> {
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut depth, mut count, mut is_over) = (0usize, 0usize, false);
    loop {
        let event = reader.read_event();
        let is_blank = |text: &[u8]| text.iter().all(u8::is_ascii_whitespace);
        match &event {
            Ok(Event::Eof) => return Ok(()),
            Ok(Event::Comment(_) | Event::PI(_)) => {}
            Ok(Event::Text(text)) if is_blank(text) => {}
            _ if is_over => return Err("something follows its end".to_owned()),
            Ok(Event::Start(_)) => (depth, count) = (depth + 1, count + 1),
            Ok(Event::Empty(_)) => count += 1,
            Ok(Event::End(_)) => depth = depth.saturating_sub(1),
            // What is wrong with it is found again where it is read.
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        is_over |= depth == 0 && matches!(event, Ok(Event::End(_) | Event::Empty(_)));
        if depth > DEEPEST {
            return Err(format!("its elements lie more than {DEEPEST} deep in each other"));
        }
        if count > MOST_ELEMENTS {
            return Err(format!("it has more than {MOST_ELEMENTS} elements"));
        }
    }
}

/// A response's body that fails where nothing comes any more, or so little that its end would never come.
pub(super) struct WatchedBody {
    body: reqwest::Body,
    begun: Instant,
    bytes: u64,
    /// Until when something has to come.
    patience: Pin<Box<tokio::time::Sleep>>,
}

impl WatchedBody {
    pub(super) fn new(body: reqwest::Body) -> Self {
        Self { body, begun: Instant::now(), bytes: 0, patience: Box::pin(tokio::time::sleep(STALL_TIMEOUT)) }
    }

    /// When what came so far is too little.
    fn due(&self) -> Instant {
        self.begun + STALL_TIMEOUT + Duration::from_secs(self.bytes / SLOWEST)
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let failed = |fault| Some(Err(HttpError::new(HttpErrorKind::Unknown, fault)));
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.patience.as_mut().poll(cx));
            return Poll::Ready(failed(stalled()));
        };
        self.bytes +=
            frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, |data| data.len() as u64);
        let now = Instant::now();
        let due = self.due();
        if now > due && matches!(frame, Some(Ok(_))) {
            return Poll::Ready(failed(Fault::Unreached(format!(
                "the answer comes at less than {SLOWEST} bytes a second"
            ))));
        }
        self.patience.as_mut().reset((now + STALL_TIMEOUT).min(due.max(now)));
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(error)) => failed(Fault::Unreached(format!("the answer broke off: {}", whole(&error)))),
            None => None,
        })
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_neither_deep_nor_endless() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Named {
            key: String,
        }
        let within = |inside: &str| xml::<Named>(format!("<A>{inside}<Key>k</Key></A>").as_bytes());
        assert_eq!(within("<Owner><Id>1</Id></Owner>").expect("a document").key, "k");
        let deep = "<a>".repeat(1_000_000) + &"</a>".repeat(1_000_000);
        assert!(within(&deep).is_err_and(|why| why.contains("deep")));
        assert!(within(&"<a/>".repeat(MOST_ELEMENTS + 1)).is_err_and(|why| why.contains("elements")));
        for after in ["<Error><Code>InternalError</Code></Error>", "<A/>", "x", "<", "&amp;"] {
            let text = format!("<A><Key>k</Key></A>\n{after}");
            assert!(xml::<Named>(text.as_bytes()).is_err_and(|why| why.contains("follows")), "{after}");
        }
        for after in ["", "\n", "<!-- x --> "] {
            assert!(xml::<Named>(format!("<A><Key>k</Key></A>{after}").as_bytes()).is_ok(), "{after}");
        }
        assert!(within("<a>").is_err() && xml::<Named>(b"\xff").is_err());
    }
}
