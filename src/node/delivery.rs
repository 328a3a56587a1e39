//! What subscribers acknowledge, until the ledger holds it; and who is behind.
//!
//! Acknowledgements gather in memory. One thread writes those of all subscriptions down as one
//! DELIVERY_RECEIPT entry, every receipt interval or as soon as many have gathered, so that the
//! proof costs little. What is not yet written down is lost with a crash, and then delivered again.
//!
//! Invariants: a receipt names only what no entry before it settled, except a dead letter that was
//! delivered after all; what gathered when the node closed is on record; once writes are stopped,
//! nothing more gathers.

mod gather;
mod lag;
mod receipts;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gather::{Gathered, Taken};
use lag::Lag;
pub(super) use lag::{Pending, is_overdue};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::{Core, expiry::Closing, writer::Admitted};
use crate::domain::{DeliveryOverdue, FailedDelivery, Settled, SubscriptionId};

/// How many times as much as makes a receipt due may gather before nothing more is delivered.
const ROOM_RECEIPTS: usize = 2;

/// What a consumer acknowledges at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Everything before it.
    pub next_index: Option<u64>,
    /// Single events.
    pub indexes: Vec<u64>,
    /// Number of events that this settles. With none, nothing is written down for it alone, unless
    /// it is very far from what is written down: the place goes on record with the next event that
    /// is acknowledged.
    pub events: usize,
    /// Whether the snapshot is acknowledged.
    pub snapshot: bool,
}

/// The acknowledgements that are not written down yet, and how far behind everybody is.
#[derive(Debug)]
pub(super) struct Deliveries {
    gathered: Mutex<Gathered>,
    /// Something has become due, or the node is closing.
    due: Condvar,
    /// Whether so much gathers that nothing more should be delivered.
    is_full: watch::Sender<bool>,
    is_closing: AtomicBool,
    interval: Duration,
    acks_max: usize,
    lag: Lag,
}

impl Deliveries {
    pub(super) fn new(interval: Duration, acks_max: usize) -> Self {
        Self {
            gathered: Mutex::default(),
            due: Condvar::new(),
            is_full: watch::Sender::new(false),
            is_closing: AtomicBool::new(false),
            interval,
            acks_max: acks_max.max(1),
            lag: Lag::default(),
        }
    }

    /// Waits for a moment at which there is room for what the next delivery will bring. Cancel-safe.
    #[cfg_attr(not(test), expect(dead_code, reason = "asked before an event is delivered"))]
    pub(super) async fn room(&self) {
        let mut is_full = self.is_full.subscribe();
        // The sender lives as long as `self`.
        drop(is_full.wait_for(|is_full| !is_full).await);
    }

    /// Has something gather, and wakes the thread that waits for it.
    fn gather(&self, change: impl FnOnce(&mut Gathered)) {
        let mut gathered = self.gathered.lock();
        let was_due = gathered.since().is_some();
        let was_full = gathered.count() >= self.acks_max;
        change(&mut gathered);
        // The first that gathers begins the interval, and enough of it end it.
        let is_full = gathered.count() >= self.acks_max;
        if (!was_due && gathered.since().is_some()) || (!was_full && is_full) {
            self.due.notify_all();
        }
        self.tell_room(&gathered);
    }

    fn tell_room(&self, gathered: &Gathered) {
        let is_full = gathered.count() >= self.acks_max.saturating_mul(ROOM_RECEIPTS);
        self.is_full.send_if_modified(|was| std::mem::replace(was, is_full) != is_full);
    }

    /// Waits until something is to be written down, and takes it; nothing if the node is closing and
    /// nothing is left.
    fn take_due(&self) -> Option<Taken> {
        let mut gathered = self.gathered.lock();
        loop {
            let is_closing = self.is_closing.load(Ordering::Acquire);
            match gathered.since().map(|since| since + self.interval) {
                None if is_closing => return None,
                None => self.due.wait(&mut gathered),
                Some(until)
                    if is_closing
                        || gathered.count() >= self.acks_max
                        || until <= Instant::now() =>
                {
                    let taken = gathered.take();
                    self.tell_room(&gathered);
                    return Some(taken);
                }
                Some(until) => {
                    self.due.wait_until(&mut gathered, until);
                }
            }
        }
    }

    /// Gathers nothing more: nothing will be written down.
    fn stop(&self) {
        let mut gathered = self.gathered.lock();
        gathered.stop();
        self.tell_room(&gathered);
    }

    fn close(&self) {
        // Under the lock, so that whoever is about to wait sees it.
        let gathered = self.gathered.lock();
        self.is_closing.store(true, Ordering::Release);
        drop(gathered);
        self.due.notify_all();
    }
}

impl Core {
    /// Takes an acknowledgement.
    pub(super) fn acknowledge(&self, id: SubscriptionId, shard: u32, what: &Acknowledged) {
        let now = self.now();
        let all = self.view.subscriptions();
        // Only webhooks have dead letters.
        let is_webhook = all.get(id).is_some_and(|own| own.spec.webhook_url.is_some());
        let is_dead_letter = |index| {
            is_webhook
                && self.view.settlement(id, shard, index).map_or_else(
                    |error| {
                        error!(%error, index, "what became of an event could not be read");
                        false
                    },
                    |settlement| settlement.is_some_and(|own| own.is_failure),
                )
        };
        self.deliveries.gather(|gathered| {
            gathered.change(&self.view, id, shard, |own| {
                own.acknowledge(what, now, is_dead_letter);
            });
        });
    }

    /// Takes an event that is given up.
    pub(super) fn give_up(&self, id: SubscriptionId, shard: u32, failed: FailedDelivery) {
        self.deliveries.gather(|gathered| {
            gathered.change(&self.view, id, shard, |own| own.give_up(failed));
        });
    }

    /// Takes a shard that is overdue.
    fn overdue(&self, overdue: DeliveryOverdue) {
        self.deliveries.gather(|gathered| gathered.overdue(overdue));
    }

    /// What a shard has acknowledged, be it written down or not, and whether its snapshot is still
    /// to be acknowledged. None if there is no such shard of a subscription that was not ended.
    pub(super) fn settled(&self, id: SubscriptionId, shard: u32) -> Option<(Settled, bool)> {
        self.with_settled(id, shard, |settled, is_pending| (settled.clone(), is_pending))
    }

    /// As [`Self::settled`], without a copy.
    fn with_settled<T>(
        &self,
        id: SubscriptionId,
        shard: u32,
        look: impl FnOnce(&Settled, bool) -> T,
    ) -> Option<T> {
        let gathered = self.deliveries.gathered.lock();
        let all = self.view.subscriptions();
        let own = all.get(id).filter(|own| own.deleted.is_none())?;
        let state = own.shard(shard)?;
        Some(match gathered.known(id, shard) {
            Some((known, is_pending)) => look(known, is_pending),
            None => look(&state.settled, state.snapshot_pending),
        })
    }
}

/// The threads that write receipts, and that look who is behind.
#[derive(Debug)]
pub(super) struct Threads {
    core: Arc<Core>,
    closing: Arc<Closing>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts them. The first ends when writes are stopped, both when the node closes.
    pub(super) fn start(
        core: &Arc<Core>,
        jobs: mpsc::WeakSender<Admitted>,
    ) -> std::io::Result<Self> {
        let closing = Arc::new(Closing::default());
        let receipts = receipts::start(Arc::clone(core), jobs)?;
        let own = Self { core: Arc::clone(core), closing, threads: Mutex::new(vec![receipts]) };
        // Should this one not start, dropping `own` ends the other.
        let lag = lag::start(Arc::clone(core), Arc::clone(&own.closing))?;
        own.threads.lock().push(lag);
        Ok(own)
    }

    /// Writes down what has gathered, and ends. To be called while the writer still takes jobs.
    /// Blocking.
    pub(super) fn close(&self) {
        self.closing.close();
        self.core.deliveries.close();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                error!("a thread of the deliveries ended early");
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}
