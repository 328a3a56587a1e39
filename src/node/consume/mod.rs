//! Delivering a durable subscription to the one consumer of each of its shards.
//!
//! A consumer has a seat (`registry`) and a source of what it must hear (`feed`). While it has the
//! seat, it changes the account of the shard ([`super::delivery`]): what it was delivered, and what it
//! acknowledges. While it has no credit left, nothing is taken from the source: a stalled consumer
//! costs its place in the ledger and what it has in flight.

mod feed;
mod registry;

use std::{
    future::{Future, pending},
    sync::Arc,
    time::Duration,
};

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
use feed::{Fed, Feed};
pub(super) use registry::Consumers;
use registry::Seated;

/// The greatest number of messages that a consumer may have coming.
pub const CREDITS_MAX: u32 = 10_000;
/// From the oldest event that is not acknowledged on: the greatest number of events in flight, and
/// of ranges that were acknowledged between them. Beyond it, nothing new is delivered.
pub const IN_FLIGHT_MAX: usize = 10_000;

/// How somebody wants to consume.
#[derive(Debug, Clone)]
pub struct Consuming {
    /// Name of the subscription.
    pub subscription: Key,
    /// The shard.
    pub shard: u32,
    /// How many messages may come at first.
    pub credits: u32,
    /// How long an event may stay unacknowledged before it is delivered again; none means for ever.
    pub redeliver_after: Option<Duration>,
    /// Where to go on with the snapshot; empty means at its beginning.
    pub snapshot_token: Vec<u8>,
    /// What the consumer calls itself.
    pub consumer: String,
    /// Whether it is the server itself, which delivers by HTTP.
    pub is_webhook: bool,
}

/// What a consumer is told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// An event.
    Event {
        /// The event.
        event: Arc<Event>,
        /// Positions of the changes that pass the filter.
        passing: Vec<usize>,
        /// How often it was delivered to this consumer, counted from 1.
        attempt: u32,
    },
    /// Of a snapshot: one data subject.
    Snapshot(Box<SnapshotSubject>),
    /// The snapshot is complete.
    SnapshotEnd {
        /// Its revision.
        revision: u64,
        /// Number of data subjects that this consumer was told of.
        subjects: u64,
    },
    /// Everything before `next_index` was delivered to this consumer, or does not concern it.
    CaughtUp {
        /// The index that may be acknowledged, once all that was delivered is dealt with.
        next_index: u64,
    },
}

/// An event, and the positions of the changes that pass the filter.
pub(super) type Passed = (Arc<Event>, Vec<usize>);

impl Node {
    /// Lets a consumer in. One that consumes the same shard has to go.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    pub fn consume(self: &Arc<Self>, how: Consuming) -> Result<Consumer, ConsumeError> {
        let core = &self.core;
        let named = core.view.subscriptions().named(how.subscription.as_str()).cloned();
        let subscription =
            named.ok_or_else(|| ConsumeError::NotFound { name: how.subscription.clone() })?;
        check(&subscription, &how)?;
        let (id, shard) = (subscription.id, how.shard);
        let seat = core.consumers.enter((id, shard), how.consumer);
        // Once it has a seat: consumers that have one are sent away when writes are stopped.
        if let Some(reason) = &*core.writes.stopped.borrow() {
            return Err(ConsumeError::WritesStopped(reason.clone()));
        }
        // Only now: the older consumer is gone, and all that it acknowledged is part of this.
        let begin = |account: &mut Account<Passed>| {
            account.begin(how.credits, how.redeliver_after);
            (account.settled().next(), account.snapshot_pending())
        };
        let begun = seat.holding(|| core.account(id, shard, begin))?;
        let Some((next_index, snapshot_pending)) = begun else {
            return Err(ConsumeError::NotFound { name: how.subscription });
        };
        let spec = &subscription.spec;
        let events = core.hub.watch(next_index, spec.filter.clone());
        let mut feed = Feed::new(events, shard, spec.shards);
        if let Some(kind) = spec.snapshot.filter(|_| snapshot_pending) {
            let what = Snapshotting {
                revision: spec.start_index,
                kind,
                filter: Arc::new(spec.filter.clone()),
                shard: (spec.shards > 1).then_some((shard, spec.shards)),
            };
            feed = feed.with_snapshot(Arc::clone(self), what, how.snapshot_token);
        }
        core.metrics.consumers.inc();
        Ok(Consumer {
            core: Arc::clone(core),
            seat,
            subscription,
            shard,
            feed,
            since: Instant::now(),
            snapshot_subjects: 0,
        })
    }
}

/// Whether somebody can consume this subscription so.
fn check(subscription: &Subscription, how: &Consuming) -> Result<(), ConsumeError> {
    let spec = &subscription.spec;
    if spec.webhook_url.is_some() && !how.is_webhook {
        return Err(ConsumeError::IsWebhook { name: spec.name.clone() });
    }
    if how.shard >= spec.shards {
        let (name, shard, shards) = (spec.name.clone(), how.shard, spec.shards);
        return Err(ConsumeError::NoSuchShard { name, shard, shards });
    }
    // Where the snapshot was acknowledged meanwhile, a token of it is no mistake.
    let is_own =
        |token: &[u8]| spec.snapshot.is_some() && revision_of_token(token) == Ok(spec.start_index);
    if how.snapshot_token.is_empty() || is_own(&how.snapshot_token) {
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
    /// When it began: the account counts its time from here.
    since: Instant,
    snapshot_subjects: u64,
}

impl Consumer {
    /// The subscription.
    #[must_use]
    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    /// The first index that is not acknowledged: from there on, events are delivered to the next
    /// consumer.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        let next_index =
            self.core.with_settled(self.subscription.id, self.shard, |settled, _| settled.next());
        // Of a subscription that was ended nothing more is delivered.
        next_index.unwrap_or(self.subscription.spec.start_index)
    }

    /// Whether another consumer had to go.
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
    /// The consumer has to go: see [`ConsumeError`].
    pub async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        loop {
            let now = self.since.elapsed();
            let (again, redelivery_at, has_room) = self.account(|account| {
                (account.redeliver(now), account.redelivery_at(), account.has_room())
            })?;
            if let Some(again) = again {
                self.core.metrics.redeliveries.inc();
                return Ok(event(again));
            }
            let due = redelivery_at.and_then(|at| self.since.checked_add(at));
            let (core, feed) = (&self.core, &mut self.feed);
            let fed = async {
                // What is delivered will be acknowledged, and has to be written down.
                core.deliveries.room().await;
                feed.next().await
            };
            let fed = tokio::select! {
                biased;
                why = self.seat.ended() => return Err(why),
                () = until(due) => continue,
                fed = fed, if has_room => fed,
            };
            let fed = fed.map_err(|error| self.ended_by(error))?;
            if let Some(delivery) = self.take(fed)? {
                return Ok(delivery);
            }
        }
    }

    /// Waits until the consumer has to go, and answers why; also for who takes no more messages.
    pub fn ended(&self) -> impl Future<Output = ConsumeError> + Send + use<> {
        self.seat.when_ended()
    }

    /// Lets more messages come. The total is at most [`CREDITS_MAX`].
    pub fn credit(&mut self, more: u32) {
        // A consumer that has to go learns so from its next message.
        drop(self.account(|account| account.credit(more)));
    }

    /// Takes an acknowledgement.
    ///
    /// # Errors
    /// [`ConsumeError::AckNotDelivered`], or why the consumer has to go; then nothing was taken.
    pub fn acknowledge(&mut self, acknowledged: &Acknowledged) -> Result<(), ConsumeError> {
        let now = self.core.now();
        let events = self.account(|account| account.acknowledge(acknowledged, now))??;
        self.core.metrics.acknowledged_events.inc_by(events as u64);
        Ok(())
    }

    /// Takes that a dead letter was delivered after all: it is none any more. One that is no dead
    /// letter of this shard stays as it is.
    pub fn redelivered(&mut self, index: u64) {
        let (core, id, shard) = (&self.core, self.subscription.id, self.shard);
        // The consumer that has taken over does not know of it; it stays a dead letter.
        drop(self.seat.holding(|| core.redelivered(id, shard, &[index])));
    }

    /// Gives an event up that was delivered: it is settled, and a dead letter. One that is settled,
    /// or was never delivered, stays as it is.
    pub fn give_up(&mut self, failed: FailedDelivery) {
        let now = self.core.now();
        // The consumer that has taken over will find out by itself.
        drop(self.account(|account| account.give_up(failed, now)));
    }

    /// Changes the account of the shard, for as long as this consumer has the seat.
    fn account<T>(
        &self,
        change: impl FnOnce(&mut Account<Passed>) -> T,
    ) -> Result<T, ConsumeError> {
        let (id, shard) = (self.subscription.id, self.shard);
        let changed = self.seat.holding(|| self.core.account(id, shard, change))?;
        changed.ok_or(ConsumeError::Deleted)
    }

    /// What becomes of what was read; none if the consumer need not hear it.
    fn take(&mut self, fed: Fed) -> Result<Option<Delivery>, ConsumeError> {
        let delivery = match fed {
            Fed::Subject(subject) => {
                self.account(Account::snapshot_sent)?;
                self.snapshot_subjects += 1;
                Delivery::Snapshot(subject)
            }
            Fed::SnapshotEnd => {
                let revision = self.subscription.spec.start_index;
                self.account(|account| account.snapshot_ended(revision))?;
                Delivery::SnapshotEnd { revision, subjects: self.snapshot_subjects }
            }
            Fed::Event(own, passing) => {
                let (index, now) = (own.index, self.since.elapsed());
                let sent = self.account(|account| account.deliver(index, (own, passing), now))?;
                let Some(sent) = sent else { return Ok(None) };
                self.core.metrics.deliveries.inc();
                event(sent)
            }
            Fed::CaughtUp(next_index) => {
                let now = self.core.now();
                self.account(|account| account.caught_up(next_index, now))?;
                Delivery::CaughtUp { next_index }
            }
        };
        Ok(Some(delivery))
    }

    /// A consumer that has to come again begins with what is not acknowledged.
    fn ended_by(&self, error: WatchError) -> ConsumeError {
        let error = match error {
            WatchError::Closing { .. } => WatchError::Closing { next_index: self.next_index() },
            unreadable @ WatchError::Unreadable(_) => unreadable,
        };
        error.into()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // Where another consumer has taken over, the account is that one's.
        drop(self.account(Account::leave));
        self.core.metrics.consumers.dec();
    }
}

impl From<NotDelivered> for ConsumeError {
    fn from(NotDelivered { index, delivered }: NotDelivered) -> Self {
        Self::AckNotDelivered { index, delivered }
    }
}

fn event(sent: Sent<Passed>) -> Delivery {
    let Sent { event: (event, passing), attempt } = sent;
    Delivery::Event { event, passing, attempt }
}

/// Waits for a moment; for ever if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
