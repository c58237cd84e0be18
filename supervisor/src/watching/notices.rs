//! Notifications of all tag directories of this home tree, by one inotify instance: the system allows an account few of them.
//!
//! Each agent adds its tag directory to the instance and reports the number that the system gave it; what is heard under that number goes to
//! the agent's mailbox, past the loop. Nothing is decided by a notification, and no directory is touched here: whoever hears of one looks
//! for himself, and does so now and then in any case.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blat_config::notifications::{self, Notifications};
use blat_domain::package::name::TargetName;
use blat_domain::protocol::messages::Watch;
use blat_domain::protocol::news::{News, Notice};
use blat_domain::protocol::status::LastError;
use jiff::Timestamp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::agent::mailbox::Mailbox;

/// How often an instance is tried for where there is none.
const RETRY: Duration = Duration::from_secs(10);
/// How long it is shown that notifications were lost.
const LOST_IS_SHOWN: Duration = Duration::from_secs(600);
/// The most directories of which something is kept before an agent says that it is its own.
const MOST_EARLY: usize = 256;

/// Who hears what.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notices(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    instance: Option<Arc<Notifications>>,
    /// Why there is no instance, and when one is tried for again; never where the one there was cannot be read any more.
    missing: Option<(String, Option<Instant>)>,
    agents: HashMap<TargetName, Listener>,
    /// Those who hear of the directory with this number: more than one where a stranger moves a target's directory to another's place.
    hearers: HashMap<i32, Vec<Arc<Mailbox>>>,
    /// What was heard of directories that are nobody's yet.
    early: BTreeMap<i32, News>,
    lost: Option<Instant>,
    /// What was said last of what is wrong, and since when it is so.
    said: Option<(String, Timestamp)>,
}

#[derive(Debug)]
struct Listener {
    mailbox: Arc<Mailbox>,
    watch: Watch,
}

impl Notices {
    /// Makes the instance. Where the system refuses, that is said, and tried again.
    pub(crate) fn start() -> Self {
        let notices = Self::default();
        notices.look();
        notices
    }

    /// To be called now and then: makes an instance where there is none, and says what is wrong, once.
    pub(crate) fn look(&self) {
        let mut state = self.state();
        let is_due = match &state.missing {
            Some((_, retry_at)) => retry_at.is_some_and(|at| at <= Instant::now()),
            None => state.instance.is_none(),
        };
        if is_due {
            match Notifications::new().map(Arc::new).and_then(|instance| Ok((readable(instance.clone())?, instance))) {
                Ok((readable, instance)) => {
                    tokio::spawn(self.clone().read(readable));
                    state.agents.values().for_each(|agent| agent.mailbox.post_instance(instance.clone()));
                    (state.instance, state.missing) = (Some(instance), None);
                }
                Err(error) => state.missing = Some((error.to_string(), Some(Instant::now() + RETRY))),
            }
        }
        state.say();
    }

    /// A new agent of this target, which is to add its directory.
    pub(crate) fn add(&self, target: &TargetName, mailbox: Arc<Mailbox>) {
        let mut state = self.state();
        if let Some(instance) = &state.instance {
            mailbox.post_instance(instance.clone());
        }
        state.agents.insert(target.clone(), Listener { mailbox, watch: Watch::No });
    }

    /// The target's agent says how its directory is watched.
    pub(crate) fn follow(&self, target: &TargetName, watch: &Watch) {
        let mut state = self.state();
        let Some(agent) = state.agents.get_mut(target).filter(|agent| agent.watch != *watch) else { return };
        let former = std::mem::replace(&mut agent.watch, watch.clone());
        let mailbox = agent.mailbox.clone();
        if let Watch::Under(number) = watch {
            state.hearers.entry(*number).or_default().push(mailbox.clone());
            if let Some(news) = state.early.remove(number) {
                mailbox.post_news(*number, news);
            }
        }
        state.leave(&former, &mailbox);
    }

    /// The target's agent is gone.
    pub(crate) fn remove(&self, target: &TargetName) {
        let mut state = self.state();
        if let Some(Listener { mailbox, watch }) = state.agents.remove(target) {
            state.leave(&watch, &mailbox);
        }
    }

    /// What is wrong with notifications, for `blat status`.
    pub(crate) fn trouble(&self) -> Option<LastError> {
        let state = self.state();
        let (why, targets) = state.trouble()?;
        let since = state.said.as_ref().map_or_else(Timestamp::now, |(_, since)| *since);
        let text = match targets {
            0 => why,
            1 => format!("{why}; the tags of 1 target are found by polling alone"),
            _ => format!("{why}; the tags of {targets} targets are found by polling alone"),
        };
        Some(LastError { at: since, package: None, text, retry_at: None })
    }

    async fn read(self, instance: AsyncFd<Arc<Notifications>>) {
        loop {
            let read = match instance.readable().await {
                Ok(mut ready) => {
                    let read = instance.get_ref().read(|number, notice| self.state().hear(number, notice));
                    match read {
                        Ok(false) => ready.clear_ready(),
                        // However much comes, others have their turn.
                        Ok(true) => tokio::task::yield_now().await,
                        Err(_) => {}
                    }
                    read
                }
                Err(error) => Err(error),
            };
            if let Err(error) = read {
                // Numbers of another instance could not be told from those that agents report of this one.
                let why = format!("cannot read notifications: {error}; restart the master");
                let mut state = self.state();
                (state.instance, state.missing) = (None, Some((why, None)));
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each entry is whole in itself: a panic elsewhere does not make them unusable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hear(&mut self, number: Option<i32>, notice: Notice<'_>) {
        let Some(number) = number else {
            if notice == Notice::Lost {
                self.lost = Some(Instant::now());
            }
            for (number, hearers) in &self.hearers {
                hearers.iter().for_each(|mailbox| mailbox.post_notice(*number, notice));
            }
            for news in self.early.values_mut() {
                news.hear(notice);
            }
            return;
        };
        if let Some(hearers) = self.hearers.get(&number) {
            hearers.iter().for_each(|mailbox| mailbox.post_notice(number, notice));
        } else {
            // Its agent has not said yet that it is its own.
            self.early.entry(number).or_default().hear(notice);
            if self.early.len() > MOST_EARLY
                && let Some((oldest, _)) = self.early.pop_first()
                && let Some(instance) = &self.instance
            {
                // Nobody's. Whoever says so yet hears that it is gone, and adds it again.
                instance.unwatch(oldest);
            }
        }
    }

    fn leave(&mut self, watch: &Watch, mailbox: &Arc<Mailbox>) {
        let Watch::Under(number) = watch else { return };
        if let Some(hearers) = self.hearers.get_mut(number) {
            hearers.retain(|hearer| !Arc::ptr_eq(hearer, mailbox));
            if hearers.is_empty() {
                self.hearers.remove(number);
                if let Some(instance) = &self.instance {
                    instance.unwatch(*number);
                }
            }
        }
    }

    /// What is wrong, and how many targets it concerns.
    fn trouble(&self) -> Option<(String, usize)> {
        if let Some((why, _)) = &self.missing {
            return Some((format!("no notifications of files: {why}"), self.agents.len()));
        }
        let refused = self.agents.values().filter_map(|agent| match &agent.watch {
            Watch::Refused(why) => Some(why),
            Watch::No | Watch::Under(_) => None,
        });
        if let Some(why) = refused.clone().min() {
            return Some((format!("not all tag directories are watched: {why}"), refused.count()));
        }
        let is_recent = self.lost.is_some_and(|at| at.elapsed() < LOST_IS_SHOWN);
        is_recent.then(|| (notifications::lost(), 0))
    }

    /// Logs what is wrong when that is another than before.
    fn say(&mut self) {
        let why = self.trouble().map(|(why, _)| why);
        if self.said.as_ref().map(|(said, _)| said) == why.as_ref() {
            return;
        }
        match &why {
            Some(why) => tracing::warn!("{why}; what is not notified is found by looking now and then (`tag_poll`)"),
            None => tracing::info!("notifications are complete again"),
        }
        self.said = why.map(|why| (why, Timestamp::now()));
    }
}

#[expect(
    deprecated,
    reason = "the successor is unsafe for types that may close early, which a shared owned descriptor does not"
)]
fn readable<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

#[cfg(test)]
mod tests;
