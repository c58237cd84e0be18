//! A target that is none: it says what a test wants and notes what it is asked to do.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use blat_domain::archive::inventory::Inventory;
use blat_domain::archive::package_list::{Former, Purge};
use blat_domain::archive::record::{Claim, Found, Record};
use blat_domain::archive::title::Title;
use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::{Link, Size};
use blat_packing::item::TransferItem;
use blat_packing::progress::Progress;

use super::{Leaving, Retirement, Target};
use crate::model::batch_limits::BatchLimits;
use crate::model::error::TargetError;
use crate::model::outcome::{Delivery, OutcomeSink, Retired, Verdict};

/// What becomes of a claim.
type Claimed = dyn Fn(Claim, &Record) -> Found + Send + Sync;

/// A target that holds packages and takes whatever comes.
pub(crate) struct Fake {
    /// What it holds, all with one time.
    pub(crate) packages: &'static [&'static str],
    /// What it finds in the place of its record.
    pub(crate) claim: Box<Claimed>,
    /// What happens while the PackageList goes there.
    pub(crate) during: Box<dyn Fn() + Send + Sync>,
    /// What it was asked to change, in order: `receive`, `link`, `list`, and each package that was to be retired.
    pub(crate) changed: Mutex<Vec<String>>,
}

impl Fake {
    /// What it was asked to change so far.
    pub(crate) fn changed(&self) -> Vec<String> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: impl IntoIterator<Item = String>) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(what);
    }
}

#[async_trait]
impl Target for Fake {
    async fn batch_limits(&self) -> Result<BatchLimits, TargetError> {
        Ok(BatchLimits { size: Size::default(), streams: 1 })
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, TargetError> {
        let packages = self.packages.iter().map(|package| (package.parse().expect("a package"), 5)).collect();
        Ok(Arc::new(Inventory { packages, clock: Some(1_700_000_000), ..Inventory::default() }))
    }

    async fn receive(&self, _: &[TransferItem], _: &Arc<Progress>, _: &OutcomeSink<'_>) -> Result<(), TargetError> {
        self.note(["receive".to_owned()]);
        Ok(())
    }

    async fn link(&self, _: &[Link]) -> Result<Vec<(PackageId, Delivery)>, TargetError> {
        self.note(["link".to_owned()]);
        Ok(Vec::new())
    }

    async fn verify(&self, _: &[PackageId]) -> Result<Vec<(PackageId, Verdict)>, TargetError> {
        Ok(Vec::new())
    }

    async fn retire(
        &self,
        _: &Record,
        _: Retirement,
        packages: &[Leaving],
    ) -> Result<Vec<(PackageId, Retired)>, TargetError> {
        self.note(packages.iter().map(|leaving| leaving.package.to_string()));
        Ok(packages.iter().map(|leaving| (leaving.package.clone(), Retired::Done)).collect())
    }

    async fn store_list(&self, _: &Record, _: &str, _: Purge) -> Result<Former, TargetError> {
        self.note(["list".to_owned()]);
        (self.during)();
        Ok(Former::Whole)
    }

    async fn claim(&self, how: Claim, record: &Record) -> Result<Title, TargetError> {
        Ok(Title { found: (self.claim)(how, record), ..Title::default() })
    }
}
