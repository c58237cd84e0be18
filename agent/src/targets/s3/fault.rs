//! What can go wrong on the way to a bucket, sorted once: by what the server said, never by where it was noticed.

use std::error::Error;
use std::fmt;

use blat_domain::util::text::{escaped, printable};
use serde::Deserialize;

use super::body::xml;
use super::denial;
use crate::model::error::TargetError;

/// Why a request did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// No answer came, or only a part of it.
    Unreached(String),
    /// There are no credentials to sign with.
    NoCredentials(String),
    /// The server answered, and not with what was asked for.
    Answered(ErrorResponse),
    /// What the server sent makes no sense.
    Nonsense(String),
    /// The request was not made: what was looked at right before it speaks against it, or could not be had.
    Unsent(TargetError),
}

/// A server's answer that is no success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ErrorResponse {
    /// The HTTP status.
    pub(super) status: u16,
    /// The server's word for it; empty where the answer had no body, as those to HEAD.
    pub(super) code: String,
    /// The server's text, as it came.
    pub(super) message: String,
    /// What was asked for, as policies name it.
    pub(super) action: &'static str,
    /// The region that the bucket is in, where the server told.
    pub(super) region: Option<String>,
}

/// The body of an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    code: String,
    #[serde(default)]
    message: String,
    region: Option<String>,
}

/// The same from services whose errors stand in something larger.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wrapped {
    error: Body,
}

impl ErrorResponse {
    /// What a body and a header say beside the status.
    pub(super) fn read(status: u16, body: &[u8], region: Option<String>, action: &'static str) -> Self {
        let wrapped = || xml::<Wrapped>(body).map(|wrapped| wrapped.error);
        let Ok(Body { code, message, region: named }) = xml::<Body>(body).or_else(|_| wrapped()) else {
            return Self { status, action, region, ..Self::default() };
        };
        Self { status, code, message, action, region: region.or(named) }
    }

    /// Whether the same request may well succeed in a moment.
    pub(super) fn will_pass(&self) -> bool {
        let words = [
            "SlowDown",
            "InternalError",
            "ServiceUnavailable",
            "RequestTimeout",
            "ThrottlingException",
            "KMS.ThrottlingException",
            "XMinioServerNotInitialized",
        ];
        let damaged = ["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"];
        matches!(self.status, 408 | 429 | 500 | 502..=504)
            || words.contains(&&*self.code)
            || damaged.contains(&&*self.code)
    }

    /// Whether the server does not know a request or one of its conditions, as far as it does not say that it is something else.
    pub(super) fn is_not_known(&self) -> bool {
        let may_be =
            self.status == 501 || ["NotImplemented", "InvalidArgument", "InvalidRequest"].contains(&&*self.code);
        may_be && denial::named(self).is_none()
    }

    /// The same for people, with what to do where only a person can do something.
    pub(super) fn explained(&self) -> String {
        match self.sorted() {
            TargetError::Operator(text) => text,
            TargetError::Link(_) | TargetError::Space(_) | TargetError::Refused(_) => self.to_string(),
        }
    }

    fn sorted(&self) -> TargetError {
        let said = self.to_string();
        let operator = |advice: &str| TargetError::Operator(format!("{said}; {advice}"));
        if let Some(advice) = denial::named(self) {
            return operator(&advice);
        }
        match (self.status, &*self.code) {
            (301 | 307 | 308, _) | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
                match &self.region {
                    Some(region) => {
                        operator(&format!("the bucket is in region {0}: say region: {0}", printable(region)))
                    }
                    None => operator("the bucket is elsewhere: correct region and endpoint"),
                }
            }
            (_, "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired") => {
                operator("the credentials have expired: renew them")
            }
            (401, _)
            | (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "InvalidClientTokenId") => {
                operator("the server does not accept the credentials: correct them, and look at their region")
            }
            (_, "RequestTimeTooSkewed") => operator("this machine's clock is wrong: set it"),
            (_, "NoSuchBucket") => operator("there is no such bucket: make it, or correct bucket, region and endpoint"),
            (403, _) | (_, "AccessDenied") => operator(&denial::reason(self)),
            (507, _) | (_, "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull") => TargetError::Space(said),
            _ if self.will_pass() => TargetError::Link(format!("{said}; it is tried again")),
            _ => TargetError::Refused(said),
        }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, message, action, .. } = self;
        write!(f, "the server answers {status}")?;
        if !code.is_empty() {
            write!(f, " {}", printable(code))?;
        }
        write!(f, " to {action}")?;
        if message.is_empty() { Ok(()) } else { write!(f, ": {}", printable(message.trim_end_matches('.'))) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached(why) | Self::Nonsense(why) => f.write_str(&printable(why)),
            // Our own words, whose end says what to do; paths in them may be long.
            Self::NoCredentials(why) => f.write_str(&escaped(why)),
            Self::Answered(answer) => answer.fmt(f),
            Self::Unsent(error) => error.fmt(f),
        }
    }
}

impl Error for Fault {}

impl From<Fault> for TargetError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unreached(_) => Self::Link(fault.to_string()),
            Fault::NoCredentials(_) => Self::Operator(fault.to_string()),
            Fault::Answered(answer) => answer.sorted(),
            Fault::Nonsense(_) => Self::Refused(fault.to_string()),
            Fault::Unsent(error) => error,
        }
    }
}

/// The fault at the root of a library's error, where one of ours is.
pub(super) fn fault(error: &object_store::Error) -> Option<&Fault> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return Some(fault);
        }
        cause = error.source();
    }
    None
}

/// A library's error, sorted.
pub(super) fn sorted(error: &object_store::Error) -> TargetError {
    match fault(error) {
        Some(fault) => fault.clone().into(),
        None => TargetError::Refused(printable(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, code: &str, extra: &str) -> TargetError {
        let body =
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>No \u{1b}way.</Message>{extra}</Error>");
        ErrorResponse::read(status, body.as_bytes(), None, "s3:PutObject").sorted()
    }

    #[test]
    fn every_fault_is_sorted_by_what_can_be_done_about_it_and_says_so() {
        let operators = [
            (403, "AccessDenied", "", "not allowed s3:PutObject"),
            (403, "InvalidAccessKeyId", "", "does not accept"),
            (403, "SignatureDoesNotMatch", "", "does not accept"),
            (400, "ExpiredToken", "", "have expired"),
            (404, "NoSuchBucket", "", "no such bucket"),
            (400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>", "say region: eu-west-1"),
            (301, "PermanentRedirect", "", "elsewhere"),
            (403, "RequestTimeTooSkewed", "", "clock"),
        ];
        for (status, code, extra, advice) in operators {
            let TargetError::Operator(text) = read(status, code, extra) else { panic!("{code} is for an operator") };
            assert!(text.contains(advice) && text.contains(code) && !text.contains('\u{1b}'), "{text}");
        }
        for (status, code) in
            [(503, "SlowDown"), (500, "InternalError"), (400, "RequestTimeout"), (429, ""), (400, "BadDigest")]
        {
            assert!(matches!(read(status, code, ""), TargetError::Link(_)), "{code} passes");
        }
        assert!(matches!(read(507, "", ""), TargetError::Space(_)));
        assert!(matches!(read(400, "EntityTooLarge", ""), TargetError::Refused(_)));
    }

    #[test]
    fn an_answer_without_a_body_is_told_by_its_status_and_its_action() {
        let answer = ErrorResponse::read(403, b"", None, "s3:GetObject");
        assert_eq!(answer.to_string(), "the server answers 403 to s3:GetObject");
        assert!(matches!(answer.sorted(), TargetError::Operator(text) if text.contains("s3:GetObject")));
        let wrapped =
            b"<ErrorResponse><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code></Error></ErrorResponse>";
        assert_eq!(ErrorResponse::read(400, wrapped, None, "sts").code, "InvalidIdentityToken");
        let page = ErrorResponse::read(502, b"<html>bad gateway</html>", None, "s3:ListBucket");
        assert!(page.code.is_empty() && page.will_pass());
    }
}
