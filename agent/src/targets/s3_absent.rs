//! In the place of `s3`, for an agent that was built without it: says so, whatever it is asked.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use blat_config::S3Settings;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Owner, Record};
use blat_domain::archive::title::Title;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::Link;
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;

use super::{Leaving, Retirement, Target};
use crate::flow::rate_limit::RateLimiter;
use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};

// Callers name the real one.
pub(crate) use self::UnservedBucket as S3Target;

/// A bucket that cannot be served.
pub(crate) struct UnservedBucket;

impl UnservedBucket {
    /// Takes what the real one takes.
    pub(crate) fn new(_settings: S3Settings, _state: &Path, _valve: Arc<RateLimiter>, _owner: Owner) -> Self {
        Self
    }

    /// Nothing is well.
    pub(crate) async fn probe(&self) -> (Vec<String>, Vec<String>) {
        (Vec::new(), vec![absent().to_string()])
    }
}

fn absent() -> TargetError {
    TargetError::Operator(
        "this blat-agent was built without the feature s3, so it serves no bucket; install one that has it".to_owned(),
    )
}

#[async_trait]
impl Target for UnservedBucket {
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        Err(absent())
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        Err(absent())
    }

    async fn receive(&self, _: &[TransferItem], _: &Arc<Progress>, _: &OutcomeSink<'_>) -> Result<(), TargetError> {
        Err(absent())
    }

    async fn link(&self, _: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        Err(absent())
    }

    async fn verify(&self, _: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        Err(absent())
    }

    async fn retire(&self, _: &Record, _: Retirement, _: &[Leaving]) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        Err(absent())
    }

    async fn store_list(&self, _: &Record, _: &str, _: Purge) -> Result<Former, TargetError> {
        Err(absent())
    }

    async fn claim(&self, _: Claim, _: &Record) -> Result<Title, TargetError> {
        Err(absent())
    }
}
