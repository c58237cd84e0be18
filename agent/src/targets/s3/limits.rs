//! How much a server may list: as much as a host may, and all of it in a time in which it gets on.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blat_domain::archive::inventory::ListingBudget;
use tokio::time::{Instant, timeout_at};

use super::TargetError;
use super::keys::Meaning;
use crate::transport::bounded::Bounds;

/// How long a listing may take, beside the time for each of its keys.
const GRACE: Duration = Duration::from_secs(600);
/// The time for each key: a page of a thousand has 20 seconds.
const EACH: Duration = Duration::from_millis(20);
/// The most pages: those of a thousand keys for all that may be listed, and twenty times as many where a server has smaller ones.
const MOST_PAGES: usize = 20_000;
/// The most pages that name nothing and still say that more follows.
const MOST_EMPTY: usize = 100;

/// What is left of one listing, whose parts may be asked for at once.
pub(super) struct Limits {
    begun: Instant,
    hasher: RandomState,
    left: Mutex<Left>,
}

struct Left {
    bounds: Bounds,
    room: ListingBudget,
    keys: u32,
    empty: usize,
    /// What the places hash to where pages begin: the places themselves may be long.
    pages: HashSet<u64>,
}

impl Limits {
    /// Those of a listing that begins now.
    pub(super) fn new() -> Self {
        let left = Left {
            bounds: Bounds::LISTING,
            room: ListingBudget::default(),
            keys: 0,
            empty: 0,
            pages: HashSet::default(),
        };
        Self { begun: Instant::now(), hasher: RandomState::new(), left: Mutex::new(left) }
    }

    /// The next page, unless the listing takes too long.
    ///
    /// # Errors
    /// [`TargetError::Link`] where it does, else those of `asking`.
    pub(super) async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, TargetError>>,
    ) -> Result<T, TargetError> {
        let (until, keys) = {
            let left = self.left();
            (self.begun + GRACE + EACH * left.keys, left.keys)
        };
        let slow = |_| {
            let seconds = self.begun.elapsed().as_secs();
            TargetError::Link(format!("the server's listing makes no progress: {keys} keys in {seconds} seconds"))
        };
        timeout_at(until, asking).await.unwrap_or_else(|elapsed| Err(slow(elapsed)))
    }

    /// Takes a key.
    ///
    /// # Errors
    /// There have been too many.
    pub(super) fn take(&self, key: &str, meaning: &Meaning) -> Result<(), TargetError> {
        let mut left = self.left();
        left.keys += 1;
        left.bounds
            .take(key)
            .map_err(|why| TargetError::Refused(format!("the server's listing cannot be used: {why}")))?;
        match meaning {
            Meaning::Package(package) | Meaning::Mark(package, _) => {
                left.room.take(package).map_err(|error| TargetError::Refused(error.to_string()))
            }
            Meaning::List | Meaning::Record | Meaning::Visit | Meaning::House | Meaning::Foreign => Ok(()),
        }
    }

    /// Takes a page that named so many keys, and says that the next one begins at this place.
    ///
    /// # Errors
    /// It does not get on.
    pub(super) fn take_page(&self, keys: usize, next: &str) -> Result<(), TargetError> {
        let mut left = self.left();
        let refused = |why: &str| Err(TargetError::Refused(format!("the server's listing {why}")));
        if !left.pages.insert(self.hasher.hash_one(next)) {
            return refused("goes round in a circle");
        }
        left.empty += usize::from(keys == 0);
        if left.empty > MOST_EMPTY {
            return refused("makes no progress: page after page names nothing");
        }
        if left.pages.len() > MOST_PAGES {
            return refused(&format!("has more than {MOST_PAGES} pages"));
        }
        Ok(())
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        // Each change is whole in itself.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
