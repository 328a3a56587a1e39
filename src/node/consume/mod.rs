//! Delivers a durable subscription to one consumer for each of its shards.
//!
//! A consumer holds the seat of its shard (`registry`) and reads messages from a source (`feed`). While
//! it holds the seat, it changes the account of the shard ([`super::delivery`]): which events it was
//! delivered, and which it acknowledges. Without credits it reads nothing: a stalled consumer costs the
//! memory of its events in flight and nothing else.

mod feed;
mod registry;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    Core, Node,
    delivery::{Account, Acknowledged, NotDelivered, Sent},
    error::ConsumeError,
    snapshot::{SnapshotSubject, Snapshotting, revision_of_token},
};
use crate::{
    domain::{FailedDelivery, Key, Subscription},
    event::Event,
    watch::WatchError,
};
use feed::{Feed, SnapshotSource};
pub(super) use registry::Consumers;
use registry::Seated;

/// Maximum number of credits of a consumer.
pub const CREDITS_MAX: u32 = 10_000;
/// Maximum number of events in flight plus acknowledged ranges between them. Beyond it, no new event is
/// delivered.
pub const IN_FLIGHT_MAX: usize = 10_000;

/// A request to consume a shard.
#[derive(Debug, Clone)]
pub struct Consuming {
    /// Name of the subscription.
    pub subscription: Key,
    /// The shard.
    pub shard: u32,
    /// Initial number of credits: how many messages may be delivered.
    pub credits: u32,
    /// How long an event may stay unacknowledged before it is delivered again; none means never again.
    pub redeliver_after: Option<Duration>,
    /// Where to resume the snapshot; empty means at its beginning.
    pub snapshot_token: Vec<u8>,
    /// Name of the consumer.
    pub consumer: String,
    /// Whether the consumer is this server, which delivers over HTTP.
    pub is_webhook: bool,
}

/// A message for a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The event of an entry. An entry that ends grants of several data subjects has one for each of them
    /// ([`Event::parts`]).
    Event {
        /// The event.
        event: Arc<Event>,
        /// Positions of the changes that pass the filter.
        passing: Vec<usize>,
        /// Number of deliveries to this consumer, counted from 1.
        attempt: u32,
    },
    /// One data subject of a snapshot.
    Snapshot(Box<SnapshotSubject>),
    /// The snapshot is complete.
    SnapshotEnd {
        /// Its revision.
        revision: u64,
        /// Number of data subjects that were delivered to this consumer.
        subjects: u64,
    },
    /// Every event before `next_index` was delivered to this consumer, or does not concern it.
    CaughtUp {
        /// The index to acknowledge once all delivered events are processed.
        next_index: u64,
    },
}

/// An event, and the positions of the changes that pass the filter.
pub(super) type FilteredEvent = (Arc<Event>, Vec<usize>);

impl Node {
    /// Begins to consume a shard. The present consumer of the shard ends.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    pub fn consume(self: &Arc<Self>, consuming: Consuming) -> Result<Consumer, ConsumeError> {
        let core = &self.core;
        let named = core.view.subscriptions().named(consuming.subscription.as_str()).cloned();
        let not_found = || ConsumeError::NotFound { name: consuming.subscription.clone() };
        let subscription = named.ok_or_else(not_found)?;
        check(&subscription, &consuming)?;
        let (id, shard) = (subscription.id, consuming.shard);
        let seat = core.consumers.enter((id, shard), consuming.consumer);
        // Checked with the seat held: when writes stop, every consumer with a seat is ended.
        if let Some(reason) = &*core.writes.stopped.borrow() {
            return Err(ConsumeError::WritesStopped(reason.clone()));
        }
        // Also with the seat held: the account has every acknowledgement of the older consumer.
        let begin = |account: &mut Account<FilteredEvent>| {
            account.begin(consuming.credits, consuming.redeliver_after);
            (account.settled().next(), account.snapshot_pending())
        };
        let (next_index, snapshot_pending) =
            seat.holding(|| core.account(id, shard, begin))?.ok_or_else(not_found)?;
        let spec = &subscription.spec;
        let snapshot = spec.snapshot.filter(|_| snapshot_pending).map(|kind| {
            let snapshotting = Snapshotting {
                revision: spec.start_index,
                kind,
                filter: Arc::new(spec.filter.clone()),
                shard: (spec.shards > 1).then_some((shard, spec.shards)),
            };
            SnapshotSource::Unopened(Arc::clone(self), snapshotting, consuming.snapshot_token)
        });
        let events = core.hub.watch(next_index, spec.filter.clone());
        let feed = Feed::new(
            snapshot,
            events,
            (Arc::clone(&subscription), shard),
            Arc::clone(&core.vault),
        );
        core.metrics.consumers.inc();
        Ok(Consumer {
            core: Arc::clone(core),
            seat,
            subscription,
            shard,
            feed,
            since: Instant::now(),
        })
    }
}

/// Checks a request to consume against the subscription.
fn check(subscription: &Subscription, consuming: &Consuming) -> Result<(), ConsumeError> {
    let spec = &subscription.spec;
    if spec.webhook_url.is_some() && !consuming.is_webhook {
        return Err(ConsumeError::IsWebhook { name: spec.name.clone() });
    }
    if consuming.shard >= spec.shards {
        let (name, shard, shards) = (spec.name.clone(), consuming.shard, spec.shards);
        return Err(ConsumeError::NoSuchShard { name, shard, shards });
    }
    // The token stays valid after the snapshot was acknowledged.
    let is_of_snapshot =
        |token: &[u8]| spec.snapshot.is_some() && revision_of_token(token) == Ok(spec.start_index);
    if consuming.snapshot_token.is_empty() || is_of_snapshot(&consuming.snapshot_token) {
        Ok(())
    } else {
        Err(ConsumeError::SnapshotToken)
    }
}

/// One consumer of a shard.
#[derive(Debug)]
pub struct Consumer {
    core: Arc<Core>,
    subscription: Arc<Subscription>,
    shard: u32,
    seat: Seated,
    feed: Feed,
    /// When it began: the times of the account count from here.
    since: Instant,
}

impl Consumer {
    /// The subscription.
    #[must_use]
    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    /// The first index that is not acknowledged: the next consumer begins there.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        let next_index =
            self.core.with_settled(self.subscription.id, self.shard, |settled, _| settled.next());
        // None: the subscription was ended, and delivers no more events.
        next_index.unwrap_or(self.subscription.spec.start_index)
    }

    /// Whether it replaced another consumer.
    #[must_use]
    pub fn took_over(&self) -> bool {
        self.seat.took_over
    }

    /// Whether a new event would be delivered at once.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.account(|account| account.has_room()).unwrap_or(false)
    }

    /// The next message, as soon as there is one and a credit for it. Cancel-safe.
    ///
    /// # Errors
    /// Why the consumer ends: see [`ConsumeError`].
    pub async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        loop {
            let now = self.since.elapsed();
            let (redelivered, redelivery_at, has_room) = self.account(|account| {
                (account.redeliver(now), account.redelivery_at(), account.has_room())
            })?;
            if let Some(sent) = redelivered {
                self.core.metrics.redeliveries.inc();
                return Ok(sent.into());
            }
            let due = redelivery_at.and_then(|at| self.since.checked_add(at));
            let (core, feed) = (&self.core, &mut self.feed);
            let next = async {
                // A delivered event brings an acknowledgement, which needs room in the book.
                core.deliveries.room().await;
                feed.next().await
            };
            let delivery = tokio::select! {
                biased;
                reason = self.seat.ended() => return Err(reason),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => continue,
                delivery = next, if has_room => delivery,
            };
            let delivery = delivery.map_err(|error| self.ended_by(error))?;
            if let Some(delivery) = self.enter(delivery)? {
                return Ok(delivery);
            }
        }
    }

    /// Waits until the consumer must end, and returns the reason. The future does not borrow the
    /// consumer.
    pub fn ended(&self) -> impl Future<Output = ConsumeError> + Send + use<> {
        self.seat.ended()
    }

    /// Adds credits. The total is at most [`CREDITS_MAX`].
    pub fn credit(&mut self, more: u32) {
        // If the consumer has ended, its next call says so.
        drop(self.account(|account| account.credit(more)));
    }

    /// Takes an acknowledgement.
    ///
    /// # Errors
    /// [`ConsumeError::AckNotDelivered`], or why the consumer ended; then nothing is acknowledged.
    pub fn acknowledge(&mut self, acknowledged: &Acknowledged) -> Result<(), ConsumeError> {
        let now = self.core.now();
        let events = self.account(|account| account.acknowledge(acknowledged, now))??;
        self.core.metrics.acknowledged_events.inc_by(events as u64);
        Ok(())
    }

    /// Notes that a dead letter was delivered after all: it is acknowledged from now on. An event that
    /// is no dead letter of this shard is not changed.
    pub fn redelivered(&mut self, index: u64) {
        let (core, id, shard) = (&self.core, self.subscription.id, self.shard);
        // If another consumer has the seat, the event stays a dead letter.
        drop(self.seat.holding(|| core.redelivered(id, shard, &[index])));
    }

    /// Gives up a delivered event: it is settled as a dead letter. An event that is not in flight is not
    /// changed.
    pub fn give_up(&mut self, failed: FailedDelivery) {
        let now = self.core.now();
        // If another consumer has the seat, the event is delivered to that one.
        drop(self.account(|account| account.give_up(failed, now)));
    }

    /// Changes the account of the shard, if this consumer still holds the seat.
    fn account<T>(
        &self,
        change: impl FnOnce(&mut Account<FilteredEvent>) -> T,
    ) -> Result<T, ConsumeError> {
        let (id, shard) = (self.subscription.id, self.shard);
        let changed = self.seat.holding(|| self.core.account(id, shard, change))?;
        changed.ok_or(ConsumeError::Deleted)
    }

    /// Enters a message into the account. None if the event is settled already.
    fn enter(&self, delivery: Delivery) -> Result<Option<Delivery>, ConsumeError> {
        match delivery {
            Delivery::Event { event, passing, .. } => {
                let (index, now) = (event.index, self.since.elapsed());
                let parts = event.part_count(&passing);
                let sent =
                    self.account(|account| account.deliver(index, parts, (event, passing), now))?;
                self.core.metrics.deliveries.inc_by(sent.as_ref().map_or(0, |_| parts as u64));
                return Ok(sent.map(Delivery::from));
            }
            Delivery::Snapshot(_) => self.account(Account::snapshot_sent)?,
            Delivery::SnapshotEnd { revision, .. } => {
                self.account(|account| account.snapshot_ended(revision))?;
            }
            Delivery::CaughtUp { next_index } => {
                let now = self.core.now();
                self.account(|account| account.caught_up(next_index, now))?;
            }
        }
        Ok(Some(delivery))
    }

    /// When the node closes, a consumer resumes from the first index that is not acknowledged.
    fn ended_by(&self, mut error: WatchError) -> ConsumeError {
        if let WatchError::Closing { next_index } = &mut error {
            *next_index = self.next_index();
        }
        error.into()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // If another consumer has the seat, the account is not changed.
        drop(self.account(Account::leave));
        self.core.metrics.consumers.dec();
    }
}

impl From<NotDelivered> for ConsumeError {
    fn from(NotDelivered { index, delivered }: NotDelivered) -> Self {
        Self::AckNotDelivered { index, delivered }
    }
}

impl From<Sent<FilteredEvent>> for Delivery {
    fn from(Sent { event: (event, passing), attempt }: Sent<FilteredEvent>) -> Self {
        Self::Event { event, passing, attempt }
    }
}
