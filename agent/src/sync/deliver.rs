//! Delivering: packages in streams of the size that the target takes, a few at once, and links after them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use blat_domain::package::name::PackageId;
use blat_domain::policy::plan::{Link, Size, Step};
use blat_domain::protocol::history::Operation;
use blat_packing::item::TransferItem;
use futures_util::StreamExt;

use super::unreached;
use crate::model::orders::Orders;
use crate::model::outcome::Delivery;
use crate::session::Sent;
use crate::sync::context::SyncContext;
use crate::sync::outcome::Dropped;
use crate::targets::Rule;

impl SyncContext {
    pub(super) fn items(&self, steps: &[Step], rule: impl Fn(&Step) -> Rule) -> Vec<TransferItem> {
        let item = |step: &Step| TransferItem {
            package: step.package.clone(),
            archive: self.source.archive(),
            time: step.time,
            size: step.size,
            rule: rule(step),
            tagged: None,
            print: self.source.print(&step.package),
            orders: None,
        };
        steps.iter().map(item).collect()
    }

    /// Puts links, in their order, and says what became of each.
    pub(super) async fn put_links(&self, links: &[Link], dropped: &Dropped) -> Vec<(PackageId, Sent)> {
        if links.is_empty() {
            return Vec::new();
        }
        let asking = self.unanswered.ask(Operation::Linked, links.iter().map(|link| &link.package));
        let deliveries = match self.target.link(links).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                let failed = Sent::Failed(unreached("cannot put links", error));
                return links.iter().map(|link| (link.package.clone(), failed.clone())).collect();
            }
        };
        let settled = self.settle_links(links, deliveries, dropped);
        drop(asking);
        settled
    }

    /// Delivers items in streams of the size that the target takes, a few at once, and says what became of each.
    pub(crate) async fn deliver(&self, items: Vec<TransferItem>) -> Vec<(TransferItem, Sent)> {
        let mut size = Size::default();
        items.iter().for_each(|item| size += item.size);
        self.progress.expect(items.len() as u64, size);
        if items.is_empty() {
            return Vec::new();
        }
        let limits = match self.target.batch_limits().await {
            Ok(limits) => limits,
            Err(error) => {
                self.progress.finish(items.len() as u64);
                let failed = Sent::Failed(unreached("cannot send", error));
                return items.into_iter().map(|item| (item, failed.clone())).collect();
            }
        };
        let streams = streams(items, limits.size);
        let delivering = futures_util::stream::iter(streams).map(|stream| self.deliver_stream(stream));
        delivering.buffer_unordered(limits.streams).concat().await
    }

    /// One stream. When it fails as a whole for a reason that one package may have, its halves are tried, down to single packages.
    async fn deliver_stream(&self, items: Vec<TransferItem>) -> Vec<(TransferItem, Sent)> {
        let mut waiting = vec![items];
        let mut done = Vec::new();
        while let Some(items) = waiting.pop() {
            if items.first().is_some_and(|item| item.superseded().is_some()) {
                self.progress.finish(items.len() as u64);
                done.extend(items.into_iter().map(|item| (item, Sent::Failed(Orders::problem()))));
                continue;
            }
            let tracker = BatchTracker::new(self, &items);
            let asking = self.unanswered.ask(Operation::Sent, items.iter().map(|item| &item.package));
            let received = self.target.receive(&items, &self.progress, &|news| tracker.hear(news)).await;
            let (settled, mut untold) = tracker.end();
            drop(asking);
            done.extend(settled);
            match received {
                Ok(()) => {
                    let silent = Delivery::Failed("the target did not say what became of it".to_owned());
                    let news = untold.iter().map(|item| (item.package.clone(), silent.clone())).collect();
                    self.progress.finish(untold.len() as u64);
                    done.extend(self.settle(untold, news));
                }
                Err(error) if untold.len() > 1 && error.may_concern_one_package() => {
                    tracing::debug!(packages = untold.len(), %error, "a stream failed; trying its halves");
                    waiting.push(untold.split_off(untold.len() / 2));
                    waiting.push(untold);
                }
                Err(error) => {
                    self.progress.finish(untold.len() as u64);
                    let failed = Sent::Failed(unreached("cannot send", error));
                    done.extend(untold.into_iter().map(|item| (item, failed.clone())));
                }
            }
        }
        done
    }
}

/// What is known of one stream while it is under way.
struct BatchTracker<'a> {
    context: &'a SyncContext,
    known: Mutex<BatchState>,
}

struct BatchState {
    settled: Vec<(TransferItem, Sent)>,
    untold: BTreeMap<PackageId, TransferItem>,
}

impl<'a> BatchTracker<'a> {
    fn new(context: &'a SyncContext, items: &[TransferItem]) -> Self {
        let untold = items.iter().map(|item| (item.package.clone(), item.clone())).collect();
        Self { context, known: Mutex::new(BatchState { settled: Vec::new(), untold }) }
    }

    /// Settles what has become known; what nobody asked about is not heard.
    fn hear(&self, mut news: Vec<(PackageId, Delivery)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut items = Vec::with_capacity(news.len());
        news.retain(|(package, _)| known.untold.remove(package).map(|item| items.push(item)).is_some());
        self.context.progress.finish(items.len() as u64);
        known.settled.extend(self.context.settle(items, news));
    }

    /// What is settled, and those of which nothing was heard.
    fn end(self) -> (Vec<(TransferItem, Sent)>, Vec<TransferItem>) {
        let BatchState { settled, untold } = self.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        (settled, untold.into_values().collect())
    }
}
/// Cuts items into streams of at most `most`, in their order.
fn streams(items: Vec<TransferItem>, most: Size) -> Vec<Vec<TransferItem>> {
    let mut streams: Vec<Vec<TransferItem>> = Vec::new();
    let mut size = Size::default();
    for item in items {
        let more = item.size;
        let fits = size.bytes.saturating_add(more.bytes) <= most.bytes && size.entries + more.entries <= most.entries;
        match streams.last_mut() {
            Some(stream) if fits => stream.push(item),
            Some(_) | None => {
                size = Size::default();
                streams.push(vec![item]);
            }
        }
        size += more;
    }
    streams
}
