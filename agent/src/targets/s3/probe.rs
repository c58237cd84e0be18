//! What `blat check --connect` finds out about a bucket: every right that serving it takes is tried, on an object of its own.

use blat_domain::package::name::{PackageId, Version};
use object_store::{PutMode, PutMultipartOptions, PutOptions, PutPayload};

use super::bucket::Bucket;
use super::inventory::Range;
use super::limits::Limits;
use super::tries::RetryBudget;
use super::{S3Target, TargetError, fault, keys};
use crate::flow::rate_limit::Urgency;
use crate::targets::s3::object_metadata::ObjectMetadata;

impl S3Target {
    /// Tries login, bucket and rights; gives what is well and what is not. Leaves nothing behind.
    pub(crate) async fn probe(&self) -> (Vec<String>, Vec<String>) {
        let (mut well, mut wrong) = (Vec::new(), Vec::new());
        let mut tell = |what: &str, tried: Result<String, TargetError>| match tried {
            Ok(note) => well.push(note),
            Err(error) => wrong.push(format!("{what}: {error}")),
        };
        let bucket = match self.bucket().await {
            Ok(bucket) => bucket,
            Err(error) => return (well, vec![format!("no way to the bucket: {error}")]),
        };
        let mut count = 0u64;
        let listed = self.each(bucket, self.keys.prefix(), Range::default(), &Limits::new(), |_, _| count += 1).await;
        let is_reached = listed.is_ok();
        tell("cannot list the bucket", listed.map(|_| format!("{} holds {count} objects", bucket.place)));
        if !is_reached {
            return (well, wrong);
        }
        tell(
            "cannot write, read and delete",
            self.probe_object().await.map(|()| "writing, reading, copying and deleting are allowed".to_owned()),
        );
        tell("cannot send in parts", self.probe_parts().await.map(|()| "sending in parts is allowed".to_owned()));
        (well, wrong)
    }

    /// Writes something in our own corner and takes it away again.
    pub(super) async fn try_house(&self, bucket: &Bucket) -> Result<(), TargetError> {
        // Another key than that of a condition under trial, which nobody else may take away.
        let (key, payload) = (format!("{}-again", self.keys.probe()), PutPayload::from_static(b"blat"));
        let put = bucket.store(Urgency::Tag).put_opts(&keys::path(&key)?, payload, PutOptions::default()).await;
        put.map_err(|error| fault::sorted(&error))?;
        super::retiring::remove(bucket, vec![key], None).await.map(drop)
    }

    /// Whether the server takes `If-None-Match` and replaces nevertheless what is there: then it is looked before each write. It is found out in our
    /// own corner, before the first new package. A server that refuses the condition ignores nothing.
    pub(super) async fn ignores_conditions(&self, bucket: &Bucket) -> bool {
        let tried = self.ignores.get_or_try_init(|| async {
            let (key, store) = (self.keys.probe(), bucket.once(Urgency::Tag));
            let path = keys::path(&key)?;
            let put = || async {
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                match store.put_opts(&path, PutPayload::from_static(b"blat"), options).await {
                    Ok(_) => Ok(true),
                    Err(error) => match fault::sorted(&error) {
                        error @ TargetError::Link(_) => Err(error),
                        TargetError::Space(_) | TargetError::Refused(_) | TargetError::Operator(_) => Ok(false),
                    },
                }
            };
            // Where it is there already, somebody else finds out the same just now: it is his to take away.
            if !put().await? {
                return Ok(false);
            }
            let again = put().await;
            super::retiring::remove(bucket, vec![key], None).await?;
            again
        });
        // Where nobody knows, the condition is said, as to any server.
        let ignores = *tried.await.unwrap_or_else(|error: TargetError| {
            tracing::debug!(%error, "it cannot be found out whether the server knows conditional writes");
            &false
        });
        if ignores {
            tracing::debug!("the server ignores conditional writes; it is looked first");
        }
        ignores
    }

    async fn probe_object(&self) -> Result<(), TargetError> {
        let bucket = self.bucket().await?;
        let (key, copy) = (self.keys.probe(), format!("{}-copy", self.keys.probe()));
        let store = bucket.store(Urgency::Bulk);
        let (digest, link) = ("0".repeat(64), "none".parse::<Version>().ok());
        let card = ObjectMetadata {
            time: 0,
            digest,
            files: 0,
            size: Some(4),
            link,
            package: PackageId::new("check", "0").ok(),
        };
        let options = PutOptions { attributes: card.attributes(), ..PutOptions::default() };
        store
            .put_opts(&keys::path(&key)?, PutPayload::from_static(b"blat"), options)
            .await
            .map_err(|error| fault::sorted(&error))?;
        let seen = self.look(bucket, &key).await;
        let mut tries = RetryBudget::new();
        let copied = loop {
            match bucket.ask.copy(&key, &copy, &card, false).await {
                Err(error) if tries.again(&error).await => {}
                done => break done,
            }
        };
        let removed = super::retiring::remove(bucket, vec![key.clone(), copy], None).await?;
        if let Some((key, why)) = removed.first_key_value() {
            return Err(TargetError::Operator(format!("{key} stays behind: {why}")));
        }
        copied?;
        match seen?.and_then(|seen| seen.card) {
            Some(there) if there == card => Ok(()),
            Some(_) | None => Err(TargetError::Operator(format!(
                "the server does not keep the metadata of {key}, without which nothing can be told apart"
            ))),
        }
    }

    async fn probe_parts(&self) -> Result<(), TargetError> {
        let bucket = self.bucket().await?;
        let (path, store) = (keys::path(&self.keys.probe())?, bucket.store(Urgency::Bulk));
        let id = store
            .create_multipart_opts(&path, PutMultipartOptions::default())
            .await
            .map_err(|error| fault::sorted(&error))?;
        let listed = bucket.ask.uploads(self.keys.prefix(), None).await;
        store.abort_multipart(&path, &id).await.map_err(|error| fault::sorted(&error))?;
        listed.map(|_| ())
    }
}
