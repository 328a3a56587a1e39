//! Durable subscriptions and their deliveries, as answers and entries say it, as JSON.

use serde::Serialize;

use super::duration_ms;
use crate::{
    cli::words::{rfc3339, rfc3339_ms, word},
    proto,
};

/// Which events a subscription must hear. An empty list does not restrict, except for `kinds`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EntryFilter {
    /// Purpose keys.
    pub purposes: Vec<String>,
    /// Channel keys.
    pub channels: Vec<String>,
    /// Kinds; empty: those that are told by default.
    pub kinds: Vec<String>,
    /// Subject namespaces.
    pub namespaces: Vec<String>,
}

impl From<Option<&proto::WatchFilter>> for EntryFilter {
    fn from(filter: Option<&proto::WatchFilter>) -> Self {
        let Some(filter) = filter else { return Self::default() };
        Self {
            purposes: filter.purposes.clone(),
            channels: filter.channels.clone(),
            kinds: filter.kinds.iter().map(|kind| word::<proto::EventKind>(*kind)).collect(),
            namespaces: filter.namespaces.clone(),
        }
    }
}

/// What one shard of a subscription acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryDelivered {
    /// Index of the entry that created the subscription.
    pub subscription_index: u64,
    /// The shard.
    pub shard: u32,
    /// The indexes.
    pub ranges: Vec<EntryRange>,
    /// When the last of them was acknowledged.
    pub acknowledged_at: String,
    /// Whether the snapshot was acknowledged.
    pub snapshot: bool,
}

impl From<&proto::Delivered> for EntryDelivered {
    fn from(own: &proto::Delivered) -> Self {
        let range = |own: &proto::IndexRange| EntryRange {
            start_index: own.start_index,
            end_index: own.end_index,
        };
        Self {
            subscription_index: own.subscription_index,
            shard: own.shard,
            ranges: own.ranges.iter().map(range).collect(),
            acknowledged_at: rfc3339_ms(own.acknowledged_at_ms),
            snapshot: own.snapshot,
        }
    }
}

/// Ledger indexes from one on, before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EntryRange {
    /// The first.
    pub start_index: u64,
    /// One more than the last.
    pub end_index: u64,
}

/// An event whose delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EntryFailed {
    /// Index of the event.
    pub index: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// HTTP status of the last answer; 0 if there was none.
    pub http_status: u32,
}

impl From<&proto::FailedDelivery> for EntryFailed {
    fn from(own: &proto::FailedDelivery) -> Self {
        Self { index: own.index, attempts: own.attempts, http_status: own.http_status }
    }
}

/// A durable subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// Name.
    pub name: String,
    /// Who answers for it.
    pub owner: String,
    /// Which events it must hear.
    pub filter: EntryFilter,
    /// The first ledger index that it must hear.
    pub start_index: u64,
    /// `denied` or `all`; null if its consumers hear no snapshot.
    pub snapshot: Option<String>,
    /// Over how many consumers it is spread.
    pub shards: u32,
    /// How long an event may stay unacknowledged.
    pub deadline_ms: Option<i64>,
    /// Where it is delivered by HTTP; null if it is consumed.
    pub webhook_url: Option<String>,
    /// Index of the entry that created it.
    pub created_index: u64,
    /// When it was created.
    pub created_at: Option<String>,
}

impl From<Option<&proto::Subscription>> for Subscription {
    fn from(own: Option<&proto::Subscription>) -> Self {
        let none = proto::Subscription::default();
        let own = own.unwrap_or(&none);
        Self {
            name: own.name.clone(),
            owner: own.owner.clone(),
            filter: own.filter.as_ref().into(),
            start_index: own.start_index,
            snapshot: (own.snapshot != 0).then(|| word::<proto::Snapshot>(own.snapshot)),
            shards: own.shards,
            deadline_ms: own.deadline.as_ref().map(duration_ms),
            webhook_url: own.webhook.as_ref().map(|webhook| webhook.url.clone()),
            created_index: own.created_index,
            created_at: own.created_at.as_ref().map(rfc3339),
        }
    }
}

/// The answer to `subscription create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subscribed {
    /// The subscription as it is.
    pub subscription: Subscription,
    /// False if it was there already.
    pub created: bool,
    /// For webhooks: the secret that signs deliveries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_secret: Option<String>,
    /// First revision that includes it.
    pub revision: u64,
}

impl From<&proto::CreateSubscriptionResponse> for Subscribed {
    fn from(answer: &proto::CreateSubscriptionResponse) -> Self {
        let secret = Some(answer.webhook_secret.clone());
        Self {
            subscription: answer.subscription.as_ref().into(),
            created: answer.created,
            webhook_secret: secret.filter(|secret| !secret.is_empty()),
            revision: answer.revision,
        }
    }
}

/// The answer to `subscription delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsubscribed {
    /// Index of the entry that ended it.
    pub index: u64,
    /// First revision that includes it.
    pub revision: u64,
}

/// A line of `subscription list`: a subscription, and how far it is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriptionStanding {
    /// The subscription.
    pub subscription: Subscription,
    /// Its shards, from 0.
    pub shards: Vec<ShardStanding>,
    /// Events that it gave up on.
    pub dead_letters: u64,
}

/// How far one shard of a subscription is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardStanding {
    /// Everything before it is acknowledged or concerns the subscription not.
    pub next_index: u64,
    /// Entries from the oldest event that is not acknowledged to the head.
    pub lag_entries: u64,
    /// How long ago that was recorded; null if there is none.
    pub lag_ms: Option<i64>,
    /// What the present consumer calls itself; null if nobody consumes.
    pub consumer: Option<String>,
    /// Whether the deadline has passed.
    pub overdue: bool,
    /// Whether the snapshot is still to be acknowledged.
    pub snapshot_pending: bool,
}

impl From<&proto::SubscriptionStatus> for SubscriptionStanding {
    fn from(own: &proto::SubscriptionStatus) -> Self {
        Self {
            subscription: own.subscription.as_ref().into(),
            shards: own.shards.iter().map(Into::into).collect(),
            dead_letters: own.dead_letters,
        }
    }
}

impl From<&proto::ShardStatus> for ShardStanding {
    fn from(own: &proto::ShardStatus) -> Self {
        Self {
            next_index: own.next_index,
            lag_entries: own.lag_entries,
            lag_ms: own.lag.as_ref().map(duration_ms),
            consumer: own.connected.then(|| own.consumer.clone()),
            overdue: own.overdue,
            snapshot_pending: own.snapshot_pending,
        }
    }
}

/// The answer to `propagation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Propagated {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Option<String>,
    /// Whether everybody who should have heard it has acknowledged.
    pub all_acknowledged: bool,
    /// Every subscription that should have heard it, by name.
    pub subscriptions: Vec<Propagation>,
    /// Number of entries that the answer takes into account.
    pub revision: u64,
}

/// An event at one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Propagation {
    /// Name of the subscription.
    pub subscription: String,
    /// Its owner.
    pub owner: String,
    /// `acknowledged`, `pending`, `overdue`, `dead_letter` or `deleted`.
    pub state: String,
    /// When it was acknowledged, or given up.
    pub settled_at: Option<String>,
    /// Index of the entry that says so.
    pub receipt_index: Option<u64>,
    /// How long it took, or has taken so far.
    pub elapsed_ms: Option<i64>,
    /// The subscription's deadline.
    pub deadline_ms: Option<i64>,
    /// Index of the entry that created the subscription.
    pub created_index: u64,
}

impl Propagated {
    /// The answer about an index.
    #[must_use]
    pub fn new(index: u64, answer: &proto::GetPropagationResponse) -> Self {
        let has_heard =
            |own: &proto::Propagation| own.state() == proto::PropagationState::Acknowledged;
        Self {
            index,
            recorded_at: answer.recorded_at.as_ref().map(rfc3339),
            all_acknowledged: answer.subscriptions.iter().all(has_heard),
            subscriptions: answer.subscriptions.iter().map(Into::into).collect(),
            revision: answer.revision,
        }
    }
}

impl From<&proto::Propagation> for Propagation {
    fn from(own: &proto::Propagation) -> Self {
        Self {
            subscription: own.subscription.clone(),
            owner: own.owner.clone(),
            state: word::<proto::PropagationState>(own.state),
            settled_at: own.settled_at.as_ref().map(rfc3339),
            receipt_index: own.receipt_index,
            elapsed_ms: own.elapsed.as_ref().map(duration_ms),
            deadline_ms: own.deadline.as_ref().map(duration_ms),
            created_index: own.created_index,
        }
    }
}

/// A line of `webhooks dead-letters`: an event that a webhook did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Index of the event.
    pub index: u64,
    /// The shard that it belongs to.
    pub shard: u32,
    /// Index of the entry that says that it was given up.
    pub failed_index: u64,
    /// When it was given up.
    pub failed_at: Option<String>,
    /// How often delivery was tried since the server last started.
    pub attempts: u32,
    /// HTTP status of the last answer; null if there was none.
    pub http_status: Option<u32>,
}

impl From<&proto::DeadLetter> for DeadLetter {
    fn from(own: &proto::DeadLetter) -> Self {
        Self {
            index: own.index,
            shard: own.shard,
            failed_index: own.failed_index,
            failed_at: own.failed_at.as_ref().map(rfc3339),
            attempts: own.attempts,
            http_status: Some(own.http_status).filter(|status| *status != 0),
        }
    }
}

/// The answer to `webhooks replay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeadLettersReplayed {
    /// How many are on their way. They stay dead letters until they are delivered.
    pub replayed: u64,
}

/// The answer to `webhooks verify`, for a delivery that is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryVerified {
    /// Always true: what is not good is an error.
    pub good: bool,
    /// Id of the message.
    pub id: String,
    /// When it was sent.
    pub sent_at: String,
    /// Length of the body.
    pub bytes: u64,
}
