//! The tag directory: what lies in it, and what becomes of each file.
//!
//! The directory may belong to another account, or lie on a file system that does not answer. So a thread of its own does all that
//! touches it, by handles ([`handle`]); the loop gives it jobs and takes its answers, and never waits for either. A tag is removed in
//! two steps ([`leaving`]): it moves to a hidden directory, and is deleted only when it has not changed for a while after that.

mod aside;
mod complaint;
mod first_seen;
mod handle;
mod leaving;
mod look;
mod names;
#[cfg(test)]
mod tests;
mod turns;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use blat_config::notifications::Notifications;
use blat_domain::protocol::messages::Watch;
use blat_domain::protocol::news::News;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub(crate) use self::first_seen::FILE;
use self::first_seen::FirstSeen;
use self::worker::Worker;
use crate::daemon::watcher::{DirectoryWatch, Origin};
use crate::session::{Event, LookLimits, Removal};

/// How long the thread may take to end what it does.
const WIND_UP: Duration = Duration::from_secs(1);

/// What the thread is to do.
enum Job {
    Look(LookLimits),
    Remove(Vec<Removal>),
}

/// The loop's end of a target's tag directory.
pub(crate) struct Tags {
    path: PathBuf,
    /// Neither queue has a bound of its own: the session has one look under way, and asks once for each tag.
    jobs: mpsc::Sender<Job>,
    results: UnboundedReceiver<Event>,
    watch: Arc<DirectoryWatch>,
    /// This agent's own inotify instance, where it has one.
    own: Option<AsyncFd<Arc<Notifications>>>,
    /// Since when the thread is at what it does now.
    busy: Busy,
}

type Busy = Arc<Mutex<Option<Instant>>>;

impl Tags {
    /// The directory at `path`, which need not exist yet. `state` is the file that keeps when tags were seen first, `origin` says where
    /// notifications come from.
    ///
    /// # Errors
    /// Where the system starts no thread.
    pub(crate) fn new(path: PathBuf, state: PathBuf, origin: Origin) -> io::Result<Self> {
        let watch = Arc::new(DirectoryWatch::new(origin));
        let (jobs, orders) = mpsc::channel();
        let (answers, results) = unbounded_channel();
        let (directory, watching, busy) = (path.clone(), watch.clone(), Busy::default());
        let is_busy = busy.clone();
        let serve = move || {
            serve(&mut Worker::new(directory, watching, FirstSeen::load(state)), &orders, &answers, &is_busy);
        };
        std::thread::Builder::new().name("tags".to_owned()).spawn(serve)?;
        Ok(Self { path, jobs, results, watch, own: None, busy })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at the directory; the answer is an [`Event::TagsFound`].
    pub(crate) fn look(&self, look: LookLimits) {
        self.order(Job::Look(look));
    }

    /// Removes tags; the answer is an [`Event::TagsRemoved`].
    pub(crate) fn remove(&self, removals: Vec<Removal>) {
        self.order(Job::Remove(removals));
    }

    fn order(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            // The session notices that no answer comes, and reports it.
            tracing::error!(
                "the thread that looks at tags is gone; restart this target's agent and report this as a bug"
            );
        }
    }

    /// The next answer, or a hint that something may have happened.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            self.listen();
            tokio::select! {
                biased;
                Some(event) = self.results.recv() => return event,
                () = self.watch.hinted() => return Event::TagsHinted,
                () = came(self.own.as_ref()) => if self.watch.drain() {
                    return Event::TagsHinted;
                },
            }
        }
    }

    /// Listens to this agent's own instance, where it has one.
    fn listen(&mut self) {
        let instance = self.watch.make_instance();
        let present = self.own.as_ref().map(AsyncFd::get_ref);
        if instance.as_ref().map(Arc::as_ptr) == present.map(Arc::as_ptr) {
            return;
        }
        self.own = None;
        match instance.map(readable).transpose() {
            Ok(own) => self.own = own,
            Err(error) => self.watch.refuse_instance(format!("cannot wait for notifications: {error}")),
        }
    }

    /// The master's inotify instance watches the directory from now on.
    pub(crate) fn set_instance(&self, instance: Arc<Notifications>) {
        self.watch.set_instance(instance);
    }

    /// The master heard this of the directory with this number.
    pub(crate) fn noticed(&self, number: i32, news: News) {
        self.watch.absorb(number, news);
    }

    /// Whether the master's instance watches the directory.
    pub(crate) fn watch(&self) -> Watch {
        self.watch.for_master()
    }

    /// For how long the thread has been at what it does now.
    pub(crate) fn busy_for(&self) -> Duration {
        lock(&self.busy).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the thread. One that hangs in a file system is left behind.
    pub(crate) async fn close(self) {
        let Self { jobs, mut results, .. } = self;
        drop(jobs);
        // Answers to what was asked last have no reader any more.
        let ended = async { while results.recv().await.is_some() {} };
        if tokio::time::timeout(WIND_UP, ended).await.is_err() {
            tracing::warn!(directory = %self.path.display(), "the tag directory does not answer; stopping without it");
        }
    }
}

/// Waits until this instance may have something to read. Without an instance it never ends.
async fn came(own: Option<&AsyncFd<Arc<Notifications>>>) {
    match own {
        Some(own) => {
            // Where it fails, the runtime is about to be gone.
            if let Ok(mut ready) = own.readable().await {
                // All that is there is taken next. What comes after this makes it ready again.
                ready.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

#[expect(
    deprecated,
    reason = "the successor is unsafe for types that may close early, which a shared owned descriptor does not"
)]
fn readable(instance: Arc<Notifications>) -> io::Result<AsyncFd<Arc<Notifications>>> {
    AsyncFd::with_interest(instance, Interest::READABLE)
}

/// The thread: one job after the other, and between them what is due.
fn serve(worker: &mut Worker, orders: &mpsc::Receiver<Job>, answers: &UnboundedSender<Event>, busy: &Busy) {
    loop {
        *lock(busy) = None;
        let job = match worker.due_in() {
            None => orders.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(rest) => orders.recv_timeout(rest),
        };
        *lock(busy) = Some(Instant::now());
        let answer = match job {
            Ok(Job::Look(look)) => match worker.look_for(look) {
                Some(found) => Event::TagsFound(found),
                None => continue,
            },
            Ok(Job::Remove(removals)) => Event::TagsRemoved(worker.remove(removals)),
            Err(mpsc::RecvTimeoutError::Timeout) => match worker.do_what_is_due() {
                Some(found) => Event::TagsFound(found),
                None => continue,
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                worker.end();
                return;
            }
        };
        if answers.send(answer).is_err() {
            // Other settings name another directory.
            worker.end();
            return;
        }
    }
}

fn lock(busy: &Busy) -> MutexGuard<'_, Option<Instant>> {
    // A moment is whole in itself: a panic elsewhere does not make it unusable.
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}
