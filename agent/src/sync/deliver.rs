//! Delivering: packages in streams of the size that the target takes, a few at once, and links after them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use blat_domain::history::Deed;
use blat_domain::name::PackageId;
use blat_domain::plan::{Link, Size, Step};
use futures_util::StreamExt;

use super::unreached;
use crate::orders::Orders;
use crate::outcome::Dropped;
use crate::session::Sent;
use crate::target::{Delivery, Parcel, Rule};
use crate::workplace::Workplace;

impl Workplace {
    pub(super) fn parcels(&self, steps: &[Step], rule: impl Fn(&Step) -> Rule) -> Vec<Parcel> {
        let parcel = |step: &Step| Parcel {
            package: step.package.clone(),
            archive: self.source.archive(),
            time: step.time,
            size: step.size,
            rule: rule(step),
            tagged: None,
            print: self.source.print(&step.package),
            orders: None,
        };
        steps.iter().map(parcel).collect()
    }

    /// Puts links, in their order, and says what became of each.
    pub(super) async fn put_links(&self, links: &[Link], dropped: &Dropped) -> Vec<(PackageId, Sent)> {
        if links.is_empty() {
            return Vec::new();
        }
        let asking = self.unanswered.ask(Deed::Linked, links.iter().map(|link| &link.package));
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

    /// Delivers parcels in streams of the size that the target takes, a few at once, and says what became of each.
    pub(crate) async fn deliver(&self, parcels: Vec<Parcel>) -> Vec<(Parcel, Sent)> {
        let mut size = Size::default();
        parcels.iter().for_each(|parcel| size += parcel.size);
        self.progress.expect(parcels.len() as u64, size);
        if parcels.is_empty() {
            return Vec::new();
        }
        let appetite = match self.target.appetite().await {
            Ok(appetite) => appetite,
            Err(error) => {
                self.progress.finish(parcels.len() as u64);
                let failed = Sent::Failed(unreached("cannot send", error));
                return parcels.into_iter().map(|parcel| (parcel, failed.clone())).collect();
            }
        };
        let streams = streams(parcels, appetite.size);
        let delivering = futures_util::stream::iter(streams).map(|stream| self.deliver_stream(stream));
        delivering.buffer_unordered(appetite.streams).concat().await
    }

    /// One stream. When it fails as a whole for a reason that one package may have, its halves are tried, down to single packages.
    async fn deliver_stream(&self, parcels: Vec<Parcel>) -> Vec<(Parcel, Sent)> {
        let mut waiting = vec![parcels];
        let mut done = Vec::new();
        while let Some(parcels) = waiting.pop() {
            if parcels.first().is_some_and(Parcel::is_superseded) {
                self.progress.finish(parcels.len() as u64);
                done.extend(parcels.into_iter().map(|parcel| (parcel, Sent::Failed(Orders::problem()))));
                continue;
            }
            let course = Course::new(self, &parcels);
            let asking = self.unanswered.ask(Deed::Sent, parcels.iter().map(|parcel| &parcel.package));
            let received = self.target.receive(&parcels, &self.progress, &|news| course.hear(news)).await;
            let (settled, mut untold) = course.end();
            drop(asking);
            done.extend(settled);
            match received {
                Ok(()) => {
                    let silent = Delivery::Failed("the target did not say what became of it".to_owned());
                    let news = untold.iter().map(|parcel| (parcel.package.clone(), silent.clone())).collect();
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
                    done.extend(untold.into_iter().map(|parcel| (parcel, failed.clone())));
                }
            }
        }
        done
    }
}

/// What is known of one stream while it is under way.
struct Course<'a> {
    workplace: &'a Workplace,
    known: Mutex<Known>,
}

struct Known {
    settled: Vec<(Parcel, Sent)>,
    untold: BTreeMap<PackageId, Parcel>,
}

impl<'a> Course<'a> {
    fn new(workplace: &'a Workplace, parcels: &[Parcel]) -> Self {
        let untold = parcels.iter().map(|parcel| (parcel.package.clone(), parcel.clone())).collect();
        Self { workplace, known: Mutex::new(Known { settled: Vec::new(), untold }) }
    }

    /// Settles what has become known; what nobody asked about is not heard.
    fn hear(&self, mut news: Vec<(PackageId, Delivery)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parcels = Vec::with_capacity(news.len());
        news.retain(|(package, _)| known.untold.remove(package).map(|parcel| parcels.push(parcel)).is_some());
        self.workplace.progress.finish(parcels.len() as u64);
        known.settled.extend(self.workplace.settle(parcels, news));
    }

    /// What is settled, and those of which nothing was heard.
    fn end(self) -> (Vec<(Parcel, Sent)>, Vec<Parcel>) {
        let Known { settled, untold } = self.known.into_inner().unwrap_or_else(PoisonError::into_inner);
        (settled, untold.into_values().collect())
    }
}
/// Cuts parcels into streams of at most `most`, in their order.
fn streams(parcels: Vec<Parcel>, most: Size) -> Vec<Vec<Parcel>> {
    let mut streams: Vec<Vec<Parcel>> = Vec::new();
    let mut size = Size::default();
    for parcel in parcels {
        let more = parcel.size;
        let fits = size.bytes.saturating_add(more.bytes) <= most.bytes && size.entries + more.entries <= most.entries;
        match streams.last_mut() {
            Some(stream) if fits => stream.push(parcel),
            Some(_) | None => {
                size = Size::default();
                streams.push(vec![parcel]);
            }
        }
        size += more;
    }
    streams
}
