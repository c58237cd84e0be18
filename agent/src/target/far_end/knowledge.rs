//! What is known of a target's far end, as long as its connection lasts.

use std::sync::{Arc, PoisonError};

use blat_domain::status;
use tokio::sync::Mutex;

use super::{FarEnd, Scout};
use crate::target::TargetError;
use crate::target::transport::Transport;
use crate::target::valve::Valve;

/// The way to a target, and what serves it there.
#[derive(Debug)]
pub(crate) struct Knowledge {
    transport: Transport,
    scout: Scout,
    valve: Arc<Valve>,
    /// What was found, and over which connection.
    found: Mutex<Option<(u64, FarEnd)>>,
    /// What was found last, for the status.
    shown: std::sync::Mutex<Option<status::FarEnd>>,
}

impl Knowledge {
    /// Of a target that nobody has looked at yet.
    pub(crate) fn new(transport: Transport, scout: Scout, valve: Arc<Valve>) -> Self {
        Self { transport, scout, valve, found: Mutex::new(None), shown: std::sync::Mutex::default() }
    }

    /// The way to the target.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What all that is sent there goes through.
    pub(crate) fn valve(&self) -> &Arc<Valve> {
        &self.valve
    }

    /// What serves the target: asked once a connection, and after every doubt.
    pub(crate) async fn far_end(&self) -> Result<FarEnd, TargetError> {
        let generation = self.transport.generation().await?;
        let mut found = self.found.lock().await;
        if let Some((_, far_end)) = found.as_ref().filter(|(when, _)| *when == generation) {
            return Ok(far_end.clone());
        }
        let far_end = self.scout.far_end(&self.transport).await?;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(far_end.serves.shown());
        *found = Some((generation, far_end.clone()));
        Ok(far_end)
    }

    /// Something is not as it was found: the next one looks again.
    pub(crate) async fn doubt(&self) {
        *self.found.lock().await = None;
    }

    /// What was found last; none before the first look.
    pub(crate) fn shown(&self) -> Option<status::FarEnd> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
