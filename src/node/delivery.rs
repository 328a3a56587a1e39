//! Acknowledgements until they are in the ledger, and the deadlines of subscriptions.
//!
//! One [`book`] has an [`account`] for each shard: the events in flight to its consumer, the
//! acknowledged ones, and the acknowledgements not yet written to the ledger. One thread has the writer
//! record these for all subscriptions in one DELIVERY_RECEIPT entry, at each receipt interval or as
//! soon as enough have gathered, so that the proof costs little. A crash loses acknowledgements not yet
//! written; those events are delivered again.
//!
//! When a subscription ends, its acknowledgements are written first, in the same batch.
//!
//! Invariants: a receipt names only indexes that no earlier entry settled, except a dead letter that
//! was delivered after all; every acknowledgement accepted before the node closed is in the ledger; no
//! acknowledgement gathers once writes are stopped.

mod account;
mod book;
mod flight;
mod lag;
mod receipts;
mod unrecorded;

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) use account::{Account, NotDelivered};
use book::Book;
pub(super) use book::Shard;
pub(super) use flight::Sent;
pub(super) use lag::{Pending, is_overdue};
use parking_lot::{Condvar, Mutex};
pub(super) use receipts::Written;
use tokio::sync::watch;
use tracing::error;
pub(super) use unrecorded::Taken;

use super::{Core, NodeConfig, consume::FilteredEvent, writer::Jobs};
use crate::{
    domain::{Settled, SubscriptionEntry, SubscriptionId},
    shutdown::{Shutdown, Stage, Threads},
};

/// Delivery pauses when this many times `receipt_acks_max` acknowledgements have gathered.
const ROOM_RECEIPTS: usize = 2;

/// An acknowledgement of a consumer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Acknowledges everything before this index. If it acknowledges no event, it is written with the
    /// next acknowledged event, or when it is far ahead of the ledger.
    pub next_index: Option<u64>,
    /// Acknowledges single events.
    pub indexes: Vec<u64>,
    /// Whether all events of these entries are meant. Otherwise an index, and `next_index` for the entry just
    /// before it, acknowledges one event of its entry each time.
    pub whole_entries: bool,
    /// Whether it acknowledges the snapshot.
    pub snapshot: bool,
}

/// The book of acknowledgements, and the signals around it.
#[derive(Debug)]
pub(super) struct Deliveries {
    /// Changed by consumers, the writer, and the threads of receipts and deadlines. The view may be read
    /// while it is locked.
    book: Mutex<Book<FilteredEvent>>,
    /// Notified, after `book` was locked, when acknowledgements have become due or the node closes. The
    /// thread of receipts waits for it.
    due: Condvar,
    /// Whether so many acknowledgements gather that delivery pauses. Sent while `book` is locked.
    is_full: watch::Sender<bool>,
    /// From [`Stage::Deliveries`] on everything is due, and nothing is put back.
    shutdown: Shutdown,
    interval: Duration,
    acks_max: usize,
}

impl Deliveries {
    pub(super) fn new(config: &NodeConfig, shutdown: &Shutdown) -> Self {
        Self {
            book: Mutex::default(),
            due: Condvar::new(),
            is_full: watch::Sender::new(false),
            shutdown: shutdown.clone(),
            interval: config.receipt_interval,
            acks_max: config.receipt_acks_max.max(1),
        }
    }

    /// Waits until there is room for the acknowledgement of another event. Cancel-safe.
    pub(super) async fn room(&self) {
        let mut is_full = self.is_full.subscribe();
        // The sender lives as long as `self`.
        drop(is_full.wait_for(|is_full| !is_full).await);
    }

    /// Changes the book, and wakes the thread of receipts if acknowledgements have become due.
    fn with_book<R>(&self, change: impl FnOnce(&mut Book<FilteredEvent>) -> R) -> R {
        let mut book = self.book.lock();
        let was_due = book.since().is_some();
        let (count, was_at_once) = (book.count(), self.is_due_at_once(&book));
        let changed = change(&mut book);
        // The first acknowledgement starts the interval; enough of them end it early.
        let is_at_once = self.is_due_at_once(&book);
        if (!was_due && book.since().is_some()) || (!was_at_once && is_at_once) {
            self.due.notify_all();
        }
        if book.count() != count {
            self.update_room(&book);
        }
        changed
    }

    /// Whether a receipt does not wait for the interval.
    fn is_due_at_once(&self, book: &Book<FilteredEvent>) -> bool {
        book.count() >= self.acks_max || book.is_urgent()
    }

    fn update_room(&self, book: &Book<FilteredEvent>) {
        let is_full = book.count() >= self.acks_max.saturating_mul(ROOM_RECEIPTS);
        self.is_full.send_if_modified(|was| std::mem::replace(was, is_full) != is_full);
    }

    /// Waits until acknowledgements are due. Returns false if the node is closing and none are left.
    fn wait_due(&self) -> bool {
        let mut book = self.book.lock();
        loop {
            let is_closing = self.shutdown.has_reached(Stage::Deliveries);
            match book.since().map(|since| since + self.interval) {
                None if is_closing => return false,
                None => self.due.wait(&mut book),
                Some(until)
                    if is_closing || self.is_due_at_once(&book) || until <= Instant::now() =>
                {
                    return true;
                }
                Some(until) => {
                    self.due.wait_until(&mut book, until);
                }
            }
        }
    }

    /// Takes all acknowledgements of a subscription that is about to be ended. Only for the writer.
    pub(super) fn take_of(&self, id: SubscriptionId) -> Taken {
        self.with_book(|book| book.take_of(id))
    }

    /// Puts the content of an entry back that could not be written. Not when the node is closing: the
    /// thread of receipts would never end.
    fn put_back(&self, body: &SubscriptionEntry, taken: &Taken) {
        if !self.shutdown.has_reached(Stage::Deliveries) {
            self.with_book(|book| book.put_back(body, taken));
        }
    }

    /// Wakes the thread of receipts. The lock is taken before, so that the thread cannot miss it.
    fn wake(&self) {
        drop(self.book.lock());
        self.due.notify_all();
    }
}

impl Core {
    /// Changes the account of a shard. Only for the consumer that holds the shard's seat. None if the
    /// subscription was ended or has no such shard.
    pub(super) fn account<R>(
        &self,
        id: SubscriptionId,
        shard: u32,
        change: impl FnOnce(&mut Account<FilteredEvent>) -> R,
    ) -> Option<R> {
        self.deliveries
            .with_book(|book| book.change(&self.view.subscriptions(), (id, shard), change))
    }

    /// Notes that dead letters were delivered after all. Other events are not changed.
    pub(super) fn redelivered(&self, id: SubscriptionId, shard: u32, indexes: &[u64]) {
        let now = self.now();
        let is_dead_letter = |index: &u64| match self.view.settlement(id, shard, *index) {
            Ok(settlement) => settlement.is_some_and(|settlement| settlement.is_failure),
            Err(error) => {
                error!(%error, index, "the settlement of an event could not be read");
                false
            }
        };
        // Read before the lock that all consumers share.
        let dead_letters: BTreeSet<u64> = indexes.iter().copied().filter(is_dead_letter).collect();
        self.account(id, shard, |account| {
            account.redelivered(indexes, now, |index| dead_letters.contains(&index));
        });
    }

    /// Passes the settled indexes of a shard, in the ledger or not yet, and whether its snapshot is
    /// pending to `inspect`. None if the subscription was ended or has no such shard.
    pub(super) fn with_settled<T>(
        &self,
        id: SubscriptionId,
        shard: u32,
        inspect: impl FnOnce(&Settled, bool) -> T,
    ) -> Option<T> {
        let book = self.deliveries.book.lock();
        let subscriptions = self.view.subscriptions();
        let state = book::live(&subscriptions, id)?.shard(shard)?;
        Some(match book.account((id, shard)) {
            Some(account) => inspect(account.settled(), account.snapshot_pending()),
            None => inspect(&state.settled, state.snapshot_pending),
        })
    }
}

/// Starts the threads of receipts and of deadlines. Both end at [`Stage::Deliveries`]; the thread of
/// receipts also ends when writes are stopped.
pub(super) fn start(core: &Arc<Core>, threads: &Threads, jobs: Jobs) -> io::Result<()> {
    receipts::start(core, threads, jobs)?;
    lag::start(core, threads)
}

#[cfg(test)]
mod tests;
