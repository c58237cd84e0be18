//! What is on its way to an agent: orders, what was heard of its tag directory, and the inotify instance that it shares with all.
//!
//! However much is posted and however slowly the agent reads, it takes bounded memory.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blat_config::notifications::Notifications;
use blat_domain::protocol::messages::Order;
use blat_domain::protocol::news::{News, Notice};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The most orders that wait for an agent which does not read them; it is taken for hung long before.
const MOST_ORDERS: usize = 1_024;
/// The most files of which one order speaks, so that its line is no longer than one may be.
const MOST_FILES: usize = 256;
/// The shortest time between two orders of what was heard: whoever makes notifications without end keeps neither the agent nor us busy.
const SHORTEST_REST: Duration = Duration::from_millis(5);
/// The same where it is no more than that somebody writes. A file counts only when that has ended, or has paused for ten times as long.
const CALM: Duration = Duration::from_millis(200);

/// What waits for one agent.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    waiting: Mutex<Waiting>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    instance: Option<Arc<Notifications>>,
    orders: VecDeque<Order>,
    /// What was heard of the directory with this number.
    news: (i32, News),
    /// When an order of what was heard went out last.
    noticed: Option<Instant>,
}

/// What is handed over at once.
#[derive(Debug)]
enum Parcel {
    Instance(Arc<Notifications>),
    Order(Order),
}

/// What comes next.
#[derive(Debug)]
enum Next {
    Now(Parcel),
    At(Instant),
    Nothing,
}

impl Mailbox {
    /// Orders that say the same as one still waiting are one order: a storm of them costs nothing. Whether there was room for it.
    pub(crate) fn post(&self, order: Order) -> bool {
        let mut waiting = self.waiting();
        let said_already = waiting.orders.contains(&order);
        if !said_already && waiting.orders.len() >= MOST_ORDERS {
            return false;
        }
        if !said_already {
            waiting.orders.push_back(order);
            self.posted.notify_one();
        }
        true
    }

    /// The inotify instance to which the agent is to add its tag directory.
    pub(crate) fn post_instance(&self, instance: Arc<Notifications>) {
        self.waiting().instance = Some(instance);
        self.posted.notify_one();
    }

    /// A notification of the directory with this number.
    pub(crate) fn post_notice(&self, number: i32, notice: Notice<'_>) {
        self.change_news(number, |news| {
            news.hear(notice);
        });
    }

    /// As [`Self::post_notice`], what was heard before it was known whom it is for.
    pub(crate) fn post_news(&self, number: i32, earlier: News) {
        self.change_news(number, |news| news.absorb(earlier));
    }

    fn change_news(&self, number: i32, change: impl FnOnce(&mut News)) {
        let mut waiting = self.waiting();
        if waiting.news.0 != number {
            waiting.news = (number, News::default());
        }
        let news = &mut waiting.news.1;
        let was_quiet = !news.is_due && news.files.is_empty();
        let was_due = news.is_due;
        change(news);
        if news.is_due && !was_due || was_quiet && !news.is_empty() {
            self.posted.notify_one();
        }
    }

    async fn next(&self) -> Parcel {
        loop {
            let next = self.waiting().next(Instant::now());
            match next {
                Next::Now(parcel) => return parcel,
                Next::At(then) => {
                    // Something more urgent may come before.
                    let _ = tokio::time::timeout_at(then, self.posted.notified()).await;
                }
                Next::Nothing => self.posted.notified().await,
            }
        }
    }

    /// The next order; none where the instance comes next.
    #[cfg(test)]
    pub(crate) async fn next_order(&self) -> Option<Order> {
        match self.next().await {
            Parcel::Order(order) => Some(order),
            Parcel::Instance(_) => None,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Each part is whole in itself: a panic elsewhere does not make it unusable.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn next(&mut self, now: Instant) -> Next {
        if let Some(instance) = self.instance.take() {
            return Next::Now(Parcel::Instance(instance));
        }
        if let Some(order) = self.orders.pop_front() {
            return Next::Now(Parcel::Order(order));
        }
        let (watch, news) = &mut self.news;
        if news.is_empty() {
            return Next::Nothing;
        }
        let rest = if news.is_due { SHORTEST_REST } else { CALM };
        if let Some(then) = self.noticed.map(|noticed| noticed + rest).filter(|then| *then > now) {
            return Next::At(then);
        }
        self.noticed = Some(now);
        Next::Now(Parcel::Order(Order::Noticed { watch: *watch, news: news.take(MOST_FILES) }))
    }
}

/// Writes all that is posted to the agent's standard input until the agent stops reading. Closing it would tell the agent that
/// its master is gone, so this ends only with the agent or the master.
pub(crate) async fn deliver(mailbox: Arc<Mailbox>, mut input: UnixStream) {
    loop {
        let delivered = match mailbox.next().await {
            Parcel::Instance(instance) => hand_over(&instance, &input).await,
            Parcel::Order(order) => match serde_json::to_vec(&order) {
                Ok(mut line) => {
                    line.push(b'\n');
                    input.write_all(&line).await
                }
                Err(error) => {
                    tracing::error!(?order, %error, "an order cannot be written; this is a bug");
                    continue;
                }
            },
        };
        if let Err(error) = delivered {
            tracing::debug!(%error, "the agent reads no orders any more");
            return;
        }
    }
}

/// Sends a descriptor along with a blank, which means nothing between two orders.
async fn hand_over(instance: &Notifications, input: &UnixStream) -> io::Result<()> {
    input
        .async_io(Interest::WRITABLE, || {
            let descriptors = [instance.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("there is no room for a descriptor; this is a bug"));
            }
            sendmsg(input, &[IoSlice::new(b" ")], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

#[cfg(test)]
mod tests {
    use blat_domain::protocol::messages::Ticket;
    use blat_domain::protocol::news::Heard;

    use super::*;

    #[test]
    fn a_storm_of_orders_costs_no_memory_and_no_sync_is_taken_for_another() {
        let mailbox = Mailbox::default();
        for _ in 0..1_000_000 {
            assert!(mailbox.post(Order::Reload) && mailbox.post(Order::RollLog));
        }
        let taken =
            (0..u64::MAX).find(|ticket| !mailbox.post(Order::Sync { ticket: Ticket(*ticket), allow_delete: false }));
        assert_eq!(taken, Some(MOST_ORDERS as u64 - 2));
    }

    async fn noticed(mailbox: &Mailbox) -> (i32, News) {
        match mailbox.next().await {
            Parcel::Order(Order::Noticed { watch, news }) => (watch, news),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_whole_is_told_at_once_and_who_writes_on_and_on_is_told_of_now_and_then() {
        let (mailbox, start) = (Mailbox::default(), Instant::now());
        mailbox.post_notice(7, Notice::File(b"x", Heard::Writing));
        let (number, news) = noticed(&mailbox).await;
        assert_eq!((number, news.files[&b"x"[..]], start.elapsed()), (7, Heard::Writing, Duration::ZERO));
        for _ in 0..1_000 {
            mailbox.post_notice(7, Notice::File(b"x", Heard::Writing));
        }
        noticed(&mailbox).await;
        assert_eq!(start.elapsed(), CALM);
        mailbox.post_notice(7, Notice::File(b"y", Heard::Writing));
        mailbox.post_notice(7, Notice::File(b"x", Heard::Whole));
        let (_, news) = noticed(&mailbox).await;
        assert_eq!((news.files.len(), start.elapsed()), (2, CALM + SHORTEST_REST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_tags_comes_in_lines_that_are_short_enough_and_its_memory_is_bounded() {
        let mailbox = Mailbox::default();
        for number in 0..100_000_u32 {
            mailbox.post_notice(7, Notice::File(&[&[1; 240], number.to_string().as_bytes()].concat(), Heard::Whole));
        }
        let (mut files, mut parts) = (0, 0);
        while !mailbox.waiting().news.1.is_empty() {
            let (watch, news) = noticed(&mailbox).await;
            files += news.files.len();
            parts += 1;
            let line = serde_json::to_string(&Order::Noticed { watch, news }).expect("an order");
            assert!(line.len() < blat_domain::protocol::messages::LONGEST_LINE / 2, "{}", line.len());
        }
        assert!(files <= blat_domain::protocol::news::MOST_FILES && parts <= 9, "{files} in {parts}");
    }

    #[tokio::test]
    async fn what_was_heard_of_a_former_directory_is_not_told_as_of_another() {
        let mailbox = Mailbox::default();
        mailbox.post_notice(7, Notice::File(b"x", Heard::Whole));
        mailbox.post_notice(8, Notice::File(b"y", Heard::Whole));
        let (number, news) = noticed(&mailbox).await;
        assert_eq!((number, news.files.into_keys().collect::<Vec<_>>()), (8, vec![b"y".to_vec()]));
    }
}
