//! What subscribers acknowledge, until the ledger holds it; and who is behind.
//!
//! One [book](book) has an [account](account) for each shard: what was delivered to its consumer, what
//! is acknowledged, and what of that no entry says yet. One thread has the writer write that down for
//! all subscriptions as one DELIVERY_RECEIPT entry, every receipt interval or as soon as many
//! acknowledgements have gathered, so that the proof costs little. A crash loses acknowledgements that
//! are not written down; those events are delivered again.
//!
//! Acknowledgements of a subscription that is ended are written down first, in the same batch.
//!
//! Invariants: a receipt names only what no entry before it settled, except a dead letter that was
//! delivered after all; every acknowledgement that was accepted before the node closed is on record;
//! once writes are stopped, nothing more gathers.

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
use book::{Book, Shard};
pub(super) use flight::Sent;
pub(super) use lag::{Pending, is_overdue};
use parking_lot::{Condvar, Mutex};
pub(super) use receipts::Written;
use tokio::sync::watch;
use tracing::error;
pub(super) use unrecorded::Taken;

use super::{Core, NodeConfig, consume::Passed, writer::Jobs};
use crate::{
    domain::{DeliveryOverdue, Settled, SubscriptionEntry, SubscriptionId},
    shutdown::{Shutdown, Stage, Threads},
    view::View,
};

/// How many times as much as makes a receipt due may gather before nothing more is delivered.
const ROOM_RECEIPTS: usize = 2;

/// What a consumer acknowledges at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Everything before it. A place without an event of its own is not written down for its own sake,
    /// unless it is very far from what is on record: it goes with the next event that is acknowledged.
    pub next_index: Option<u64>,
    /// Single events.
    pub indexes: Vec<u64>,
    /// Whether the snapshot is acknowledged.
    pub snapshot: bool,
}

/// The book of acknowledgements, and the signals around it.
#[derive(Debug)]
pub(super) struct Deliveries {
    /// Consumers change it, the writer, and the threads of receipts and deadlines. The view may be read
    /// while it is locked.
    book: Mutex<Book<Passed>>,
    /// Rung, with `book` locked before, when something has become due or the node closes. The thread of
    /// receipts waits for it.
    due: Condvar,
    /// Whether so much gathers that nothing more should be delivered. Sent while `book` is locked.
    is_full: watch::Sender<bool>,
    /// At [`Stage::Deliveries`] everything is due, and nothing is put back.
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

    /// Waits for a moment at which there is room for the acknowledgements that the next delivery will
    /// bring. Cancel-safe.
    pub(super) async fn room(&self) {
        let mut is_full = self.is_full.subscribe();
        // The sender lives as long as `self`.
        drop(is_full.wait_for(|is_full| !is_full).await);
    }

    /// Changes the account of a shard; as [`Book::change`].
    fn change<R>(
        &self,
        view: &View,
        shard: Shard,
        change: impl FnOnce(&mut Account<Passed>) -> R,
    ) -> Option<R> {
        self.with_book(|book| book.change(&view.subscriptions(), shard, change))
    }

    /// Changes the book, and wakes the thread of receipts if something has become due.
    fn with_book<R>(&self, change: impl FnOnce(&mut Book<Passed>) -> R) -> R {
        let mut book = self.book.lock();
        let was_due = book.since().is_some();
        let (count, was_at_once) = (book.count(), self.is_due_at_once(&book));
        let changed = change(&mut book);
        // The first acknowledgement begins the interval, and enough of them end it.
        let is_at_once = self.is_due_at_once(&book);
        if (!was_due && book.since().is_some()) || (!was_at_once && is_at_once) {
            self.due.notify_all();
        }
        if book.count() != count {
            self.tell_room(&book);
        }
        changed
    }

    /// Whether a receipt does not wait for the interval.
    fn is_due_at_once(&self, book: &Book<Passed>) -> bool {
        book.count() >= self.acks_max || book.is_urgent()
    }

    fn tell_room(&self, book: &Book<Passed>) {
        let is_full = book.count() >= self.acks_max.saturating_mul(ROOM_RECEIPTS);
        self.is_full.send_if_modified(|was| std::mem::replace(was, is_full) != is_full);
    }

    /// Waits until something is to be written down; false if the node is closing and nothing is left.
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

    /// Takes what is due. Only by the writer, so that nothing is on its way to it when it takes more.
    fn take(&self) -> Taken {
        self.with_book(Book::take)
    }

    /// Takes all of a subscription that is about to be ended. Only by the writer.
    pub(super) fn take_of(&self, id: SubscriptionId) -> Taken {
        self.with_book(|book| book.take_of(id))
    }

    /// Takes back what an entry was to say that could not be written. When the node is closing there
    /// is no second time.
    fn put_back(&self, body: &SubscriptionEntry, taken: &Taken) {
        if !self.shutdown.has_reached(Stage::Deliveries) {
            self.with_book(|book| book.put_back(body, taken));
        }
    }

    /// Gathers nothing more: nothing will be written down.
    fn stop(&self) {
        self.with_book(Book::stop);
    }

    /// Has the thread of receipts look what is due. With the lock taken, so that it cannot be about to
    /// wait.
    fn wake(&self) {
        drop(self.book.lock());
        self.due.notify_all();
    }
}

impl Core {
    /// Changes the account of a shard. Only for the consumer that holds the shard's seat. None if there
    /// is no such shard of a subscription that was not ended.
    pub(super) fn account<R>(
        &self,
        id: SubscriptionId,
        shard: u32,
        change: impl FnOnce(&mut Account<Passed>) -> R,
    ) -> Option<R> {
        self.deliveries.change(&self.view, (id, shard), change)
    }

    /// Notes that dead letters were delivered after all. What is no dead letter stays as it is.
    pub(super) fn redelivered(&self, id: SubscriptionId, shard: u32, indexes: &[u64]) {
        let now = self.now();
        // Read before the lock that all consumers share.
        let dead_letters = self.dead_letters_among(id, shard, indexes);
        self.account(id, shard, |account| {
            account.redelivered(indexes, now, |index| dead_letters.contains(&index));
        });
    }

    /// Those of some indexes that are on record as given up.
    fn dead_letters_among(&self, id: SubscriptionId, shard: u32, indexes: &[u64]) -> BTreeSet<u64> {
        let is_dead_letter = |index: &u64| {
            self.view.settlement(id, shard, *index).map_or_else(
                |error| {
                    error!(%error, index, "what became of an event could not be read");
                    false
                },
                |settlement| settlement.is_some_and(|own| own.is_failure),
            )
        };
        indexes.iter().copied().filter(is_dead_letter).collect()
    }

    /// Notes that a shard is overdue.
    fn overdue(&self, overdue: DeliveryOverdue) {
        self.deliveries.with_book(|book| book.overdue(overdue));
    }

    /// What a shard has acknowledged, be it on record or not, and whether its snapshot is still to be
    /// acknowledged. None if there is no such shard of a subscription that was not ended.
    pub(super) fn with_settled<T>(
        &self,
        id: SubscriptionId,
        shard: u32,
        look: impl FnOnce(&Settled, bool) -> T,
    ) -> Option<T> {
        let book = self.deliveries.book.lock();
        let all = self.view.subscriptions();
        let state = all.get(id).filter(|own| own.deleted.is_none())?.shard(shard)?;
        Some(match book.account((id, shard)) {
            Some(account) => look(account.settled(), account.snapshot_pending()),
            None => look(&state.settled, state.snapshot_pending),
        })
    }
}

/// Starts the threads of receipts and of deadlines. Both end at [`Stage::Deliveries`]; that of receipts
/// ends when writes are stopped, too.
pub(super) fn start(core: &Arc<Core>, threads: &Threads, jobs: Jobs) -> io::Result<()> {
    receipts::start(core, threads, jobs)?;
    lag::start(core, threads)
}

#[cfg(test)]
mod tests;
