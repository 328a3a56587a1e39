//! Durable subscriptions: created, listed, ended; and who has heard what.

use std::{sync::Arc, time::Duration};

use super::{Core, Node, ReadError, WriteError, batch::Batch};
use crate::{
    domain::{Body, Filter, Key, Millis, Snapshot, Subscription, SubscriptionCreated},
    view::DeadLetter,
};

/// A subscription that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubscription {
    /// Name.
    pub name: Key,
    /// Who answers for it.
    pub owner: String,
    /// Which events it must hear.
    pub filter: Filter,
    /// First index that it must hear; none means the first after its creation.
    pub start: Option<u64>,
    /// The state that its consumers hear first.
    pub snapshot: Option<Snapshot>,
    /// Over how many consumers it is spread.
    pub shards: u32,
    /// How long an event may stay unacknowledged, in milliseconds.
    pub deadline_ms: Option<i64>,
    /// Where to deliver by HTTP.
    pub webhook_url: Option<String>,
}

/// A subscription that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Whether it is new.
    pub created: bool,
}

/// A subscription, and how far it is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionReport {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Its shards, from 0.
    pub shards: Vec<ShardReport>,
    /// Number of events that were given up.
    pub dead_letters: u64,
}

/// How far one shard is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// Everything before it is acknowledged or concerns the subscription not.
    pub next_index: u64,
    /// Entries from the oldest event that is not acknowledged to the head.
    pub lag_entries: u64,
    /// When that event was recorded; none if there is none.
    pub pending_since: Option<Millis>,
    /// The name of the present consumer; none if there is none.
    pub consumer: Option<String>,
    /// Whether the deadline has passed.
    pub overdue: bool,
    /// Whether the snapshot is still to be acknowledged.
    pub snapshot_pending: bool,
}

/// Who has heard an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropagationReport {
    /// When the ledger recorded the entry.
    pub recorded_at: Millis,
    /// Every subscription that should have heard it, by name.
    pub subscriptions: Vec<Propagation>,
    /// Number of entries that the answer takes into account.
    pub revision: u64,
}

/// An event at one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Propagation {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// What became of the event.
    pub state: PropagationState,
    /// How long it took, or has taken so far.
    pub elapsed: Duration,
}

/// What became of an event at a subscription; of one that is sharded, at the shard that is furthest
/// behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationState {
    /// It was acknowledged: when, and the entry that proves it.
    Acknowledged(Millis, u64),
    /// It is not acknowledged.
    Pending,
    /// It is not acknowledged, and the deadline has passed.
    Overdue,
    /// It was given up: when, and the entry that says so.
    DeadLetter(Millis, u64),
    /// The subscription was ended before: when, and the entry that ended it.
    Deleted(Millis, u64),
}

impl Node {
    /// Creates a subscription, unless there is one that is the same but for its start.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn create_subscription(
        &self,
        new: NewSubscription,
    ) -> Result<Subscribed, WriteError> {
        self.write(move |batch| batch.subscribe(new)).await
    }

    /// Ends a subscription, and answers the index of the entry that says so.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn delete_subscription(&self, name: Key) -> Result<u64, WriteError> {
        self.write(move |batch| batch.unsubscribe(&name)).await
    }

    /// The subscription of a name that was not ended.
    ///
    /// # Errors
    /// [`ReadError::SubscriptionNotFound`].
    pub fn subscription(&self, name: &str) -> Result<Arc<Subscription>, ReadError> {
        self.core.subscription(name)
    }

    /// Up to `limit` subscriptions beyond a name, by name, with how far they are behind. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn subscriptions(
        &self,
        owner: Option<&str>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<SubscriptionReport>, ReadError> {
        todo!("{owner:?} {after:?} {limit}")
    }

    /// Who has heard the event at an index. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] or [`ReadError::StateUnreadable`].
    pub fn propagation(&self, index: u64) -> Result<PropagationReport, ReadError> {
        todo!("{index}")
    }

    /// Up to `limit` events of a webhook that were given up, beyond a shard and index. Blocking.
    ///
    /// # Errors
    /// [`ReadError::SubscriptionNotFound`], [`ReadError::NotWebhook`] or
    /// [`ReadError::StateUnreadable`].
    pub fn dead_letters(
        &self,
        name: &str,
        after: Option<(u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadError> {
        let own = self.core.subscription(name)?;
        if own.spec.webhook_url.is_none() {
            return Err(ReadError::NotWebhook { name: own.spec.name.clone() });
        }
        Ok(self.core.view.dead_letters(own.id, after, limit)?)
    }
}

impl Core {
    pub(super) fn subscription(&self, name: &str) -> Result<Arc<Subscription>, ReadError> {
        let all = self.view.subscriptions();
        let own = all.named(name).cloned();
        own.ok_or_else(|| ReadError::SubscriptionNotFound { name: name.to_owned() })
    }
}

impl Batch<'_> {
    fn subscribe(&mut self, new: NewSubscription) -> Result<Subscribed, WriteError> {
        let index = self.tip.next_index;
        let head = index;
        if let Some(own) = self.subscriptions().named(new.name.as_str()) {
            return if is_same(&own.spec, &new) {
                Ok(Subscribed { subscription: Arc::clone(own), created: false })
            } else {
                Err(WriteError::SubscriptionExists { name: new.name })
            };
        }
        let limit = self.core().subscriptions_max;
        if self.subscriptions().live_count() >= limit {
            return Err(WriteError::TooManySubscriptions { limit });
        }
        if let Some(start) = new.start.filter(|start| *start > head) {
            return Err(WriteError::StartBeyondHead { index: start, head });
        }
        let created = SubscriptionCreated {
            name: new.name,
            owner: new.owner,
            filter: new.filter,
            start_index: new.start.unwrap_or(index + 1),
            snapshot: new.snapshot,
            shards: new.shards,
            deadline_ms: new.deadline_ms,
            webhook_url: new.webhook_url,
        };
        let name = created.name.clone();
        self.put_subscription(Body::Subscribed(Box::new(created)))?;
        let own = self.subscriptions().named(name.as_str()).cloned();
        let subscription =
            own.ok_or_else(|| WriteError::StateUnreadable(format!("subscription {name}")))?;
        Ok(Subscribed { subscription, created: true })
    }

    fn unsubscribe(&mut self, name: &Key) -> Result<u64, WriteError> {
        let own = self.subscriptions().named(name.as_str()).map(|own| own.id);
        let id = own.ok_or_else(|| WriteError::SubscriptionNotFound { name: name.clone() })?;
        self.put_subscription(Body::Unsubscribed(id))
    }
}

/// Whether a subscription is as somebody wants it, wherever it starts.
fn is_same(own: &SubscriptionCreated, new: &NewSubscription) -> bool {
    let NewSubscription {
        name,
        owner,
        filter,
        start: _,
        snapshot,
        shards,
        deadline_ms,
        webhook_url,
    } = new;
    own.name == *name
        && own.owner == *owner
        && own.filter == *filter
        && own.snapshot == *snapshot
        && own.shards == *shards
        && own.deadline_ms == *deadline_ms
        && own.webhook_url == *webhook_url
}
