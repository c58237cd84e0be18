//! What a bucket demands of requests, as headers. AWS's own description of its requests says which of them take which header: who pays may
//! stand on all of them, the rest on those alone that begin an object. A part or the end of an upload that says how it is encrypted is refused.

use http::{HeaderName, HeaderValue, Method};
use object_store::client::HttpRequest;

use super::fault::Fault;
use super::wire::asks;

type Header = (HeaderName, HeaderValue);

/// The headers of each request.
#[derive(Debug, Default)]
pub(super) struct Demands {
    of_all: Vec<Header>,
    of_objects: Vec<Header>,
}

impl Demands {
    /// What the settings say.
    ///
    /// # Errors
    /// A value that no header can hold, which the settings do not take.
    pub(super) fn of(settings: &blat_config::Demands) -> Result<Self, Fault> {
        let blat_config::Demands { sse, kms_key_id, storage_class, acl, is_requester_paying } = settings;
        let objects = [
            ("x-amz-server-side-encryption", *sse),
            ("x-amz-server-side-encryption-aws-kms-key-id", kms_key_id.as_deref()),
            ("x-amz-storage-class", storage_class.as_deref()),
            ("x-amz-acl", *acl),
        ];
        let header = |(name, value): (&'static str, Option<&str>)| {
            let unusable = |error| Fault::Nonsense(format!("{name} cannot be said: {error}; correct the block s3"));
            let value = value.map(|value| HeaderValue::from_str(value).map_err(unusable));
            value.map(|value| Ok((HeaderName::from_static(name), value?)))
        };
        let payer = ("x-amz-request-payer", is_requester_paying.then_some("requester"));
        Ok(Self {
            of_all: header(payer).into_iter().collect::<Result<_, Fault>>()?,
            of_objects: objects.into_iter().filter_map(header).collect::<Result<_, Fault>>()?,
        })
    }

    /// Those of one request.
    pub(super) fn of_request(&self, request: &HttpRequest) -> impl Iterator<Item = Header> {
        let begins_object = match *request.method() {
            Method::PUT => !asks(request, "partNumber"),
            Method::POST => asks(request, "uploads"),
            _ => false,
        };
        let of_objects: &[Header] = if begins_object { &self.of_objects } else { &[] };
        self.of_all.iter().chain(of_objects).cloned()
    }
}
