//! What only the archive's owner may do, and only while somebody still wants it: looked at under the publish lock, right before it is done.

use std::time::Duration;

use blat_domain::protocol::frames::{self, Lane, Reply, Request};

use super::record;
use crate::archive::Archive;
use crate::archive::dir::Dir;
use crate::failure::Failure;
use crate::wire::inbox::Inbox;
use crate::wire::replies::Replies;

/// How long the agent may take to say that it still wants what it asked for. Whoever publishes waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// On whose behalf a lane asks, and the way to whoever asks.
pub(crate) struct Mandate<'a> {
    /// `HOME-ID TARGET` or a whole record, where one was named.
    pub(crate) owner: Option<&'a str>,
    pub(crate) lane: Lane,
    pub(crate) replies: &'a Replies,
    pub(crate) inbox: &'a Inbox,
    /// Bytes that were taken off the lane for the answer.
    pub(crate) taken: u64,
}

impl Mandate<'_> {
    /// Fails unless the archive is its owner's.
    pub(crate) fn check_owner(&self, archive: &Archive, control: &Dir) -> Result<(), Failure> {
        record::check(archive, control, self.owner)
    }

    /// Fails unless the agent says that this is still wanted: it may have waited long for the lock, and whoever asked for it may be gone. A later
    /// sync would not know what is done now.
    pub(crate) fn confirm(&mut self, archive: &Archive) -> Result<(), Failure> {
        let what = || format!("asking whether to go on in {}", archive.shown());
        let asked = self.replies.send(self.lane, &[Reply::Ready]);
        asked.map_err(|error| Failure::io(what(), &error, "connect again"))?;
        let mut body = Vec::new();
        let came = self.inbox.take_within(PATIENCE, &mut body);
        self.taken += body.len() as u64;
        match frames::decode(&body) {
            Ok(Request::Go) if came => Ok(()),
            Ok(_) | Err(_) => {
                Err(Failure::busy(what(), "the agent is gone or does not say go, so nothing was changed"))
            }
        }
    }
}
