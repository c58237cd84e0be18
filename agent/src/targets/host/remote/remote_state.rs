//! What is known of a target's far end, as long as its connection lasts.

use std::sync::{Arc, PoisonError};

use blat_domain::archive::record::{Found, Owner};
use blat_domain::protocol::status;
use tokio::sync::Mutex;

use super::{FarEnd, RemoteProbe, Serves};
use crate::flow::rate_limit::RateLimiter;
use crate::model::error::TargetError;
use crate::transport::Transport;

/// So many conversations may break before their greeting over one connection; then scripts serve, where the config lets them.
const MOST_BROKEN: u32 = 3;

/// The way to a target, and what serves it there.
#[derive(Debug)]
pub(crate) struct RemoteState {
    transport: Transport,
    probe: RemoteProbe,
    limiter: Arc<RateLimiter>,
    /// What was found, and over which connection.
    found: Mutex<Option<(u64, FarEnd)>>,
    /// What was found last, for the status.
    shown: std::sync::Mutex<Option<status::FarEnd>>,
    /// Conversations that broke before their greeting since the last one that did not.
    broken: std::sync::Mutex<Broken>,
    /// Whose the archive was when it was looked at last; none before that.
    met: std::sync::Mutex<Option<Found>>,
}

/// Conversations that broke before their greeting, in a row and over one connection.
#[derive(Debug, Default)]
struct Broken {
    generation: u64,
    count: u32,
    /// Why the last one did.
    why: String,
}

impl RemoteState {
    /// Of a target that nobody has looked at yet.
    pub(crate) fn new(transport: Transport, probe: RemoteProbe, limiter: Arc<RateLimiter>) -> Self {
        Self {
            transport,
            probe,
            limiter,
            found: Mutex::new(None),
            shown: std::sync::Mutex::default(),
            broken: std::sync::Mutex::default(),
            met: std::sync::Mutex::default(),
        }
    }

    /// What was found in the record's place was judged.
    pub(crate) fn met(&self, found: &Found) {
        *self.met.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
    }

    /// On whose behalf packages are brought: nothing where it is known that somebody else owns the archive, which replaces nothing. `replaces` says
    /// what was planned, for an archive that could not be looked at.
    pub(crate) fn brings_for(&self, owner: &Owner, replaces: bool) -> String {
        let is_ours = match &*self.met.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Found::Record(record)) => record.owner == *owner,
            Some(Found::Malformed(_)) => false,
            Some(Found::Nothing) | None => replaces,
        };
        if is_ours { owner.to_string() } else { String::new() }
    }

    /// On whose behalf links are made: by the record that was seen, where that is ours.
    pub(crate) fn links_for(&self, owner: &Owner) -> String {
        match &*self.met.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Found::Record(record)) if record.owner == *owner => record.line(),
            Some(_) | None => owner.to_string(),
        }
    }

    /// The way to the target.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What all that is sent there goes through.
    pub(crate) fn limiter(&self) -> &Arc<RateLimiter> {
        &self.limiter
    }

    /// What serves the target: asked once a connection, and after every doubt.
    pub(crate) async fn far_end(&self) -> Result<FarEnd, TargetError> {
        let generation = self.transport.generation().await?;
        let mut found = self.found.lock().await;
        if let Some((_, far_end)) = found.as_ref().filter(|(when, _)| *when == generation) {
            return Ok(far_end.clone());
        }
        let mut far_end = self.probe.far_end(&self.transport).await?;
        if let Some(why) = self.why_given_up(generation, &far_end.serves) {
            far_end.serves = Serves::Scripts { why: Some(why) };
        }
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(far_end.serves.shown());
        *found = Some((generation, far_end.clone()));
        Ok(far_end)
    }

    /// Something is not as it was found: the next one looks again.
    pub(crate) async fn doubt(&self) {
        *self.found.lock().await = None;
    }

    /// A conversation broke before its greeting: whoever comes next looks again what serves.
    pub(crate) async fn mistrust(&self, error: &TargetError) {
        let Some((generation, _)) = self.found.lock().await.take() else { return };
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if broken.generation == generation { broken.count } else { 0 };
        *broken = Broken { generation, count: before.saturating_add(1), why: error.to_string() };
    }

    /// A conversation has begun: those that broke before are no reason for anything any more.
    pub(crate) fn trust(&self) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Broken::default();
    }

    /// Why a receiver that runs when it is tried, and holds no conversation, is left alone until the next connection.
    fn why_given_up(&self, generation: u64, serves: &Serves) -> Option<String> {
        let may_do_without =
            matches!(serves, Serves::Receiver { restricted: false, .. }) && self.probe.may_do_without();
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_hopeless = broken.generation == generation && broken.count >= MOST_BROKEN;
        (may_do_without && is_hopeless).then(|| {
            format!("{MOST_BROKEN} conversations in a row broke before their greeting, the last since {}", broken.why)
        })
    }

    /// Whether a receiver serves where our key can install it and the scripts: then they are looked after.
    pub(crate) fn may_install_beside(&self) -> bool {
        matches!(self.shown(), Some(status::FarEnd::Receiver { restricted: false, .. }))
    }

    /// The receiver found all that is installed beside it as it should be: whatever was wrong there was put right by somebody.
    pub(crate) fn scripts_are_whole(&self) {
        if let Some(status::FarEnd::Receiver { scripts, .. }) =
            self.shown.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            *scripts = None;
        }
    }

    /// What was found last; none before the first look.
    pub(crate) fn shown(&self) -> Option<status::FarEnd> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
