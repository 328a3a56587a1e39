//! Delivering a durable subscription to the one consumer of each of its shards.

use std::{sync::Arc, time::Duration};

use thiserror::Error;

use super::{Node, delivery::Acknowledged, snapshot::SnapshotSubject};
use crate::{
    domain::{FailedDelivery, Key, Subscription},
    watch::{Event, WatchError},
};

/// The greatest number of messages that a consumer may have coming.
pub const CREDITS_MAX: u32 = 10_000;

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

/// Why a consumer hears nothing more, or was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConsumeError {
    /// There is no such subscription.
    #[error("there is no subscription `{name}`")]
    NotFound {
        /// Its name.
        name: Key,
    },
    /// The subscription has no such shard.
    #[error("subscription `{name}` has {shards} shards, counted from 0; there is no shard {shard}")]
    NoSuchShard {
        /// Its name.
        name: Key,
        /// The shard.
        shard: u32,
        /// How many there are.
        shards: u32,
    },
    /// The server delivers it by HTTP.
    #[error("subscription `{name}` is delivered by HTTP and can not be consumed")]
    IsWebhook {
        /// Its name.
        name: Key,
    },
    /// A newer consumer has taken over.
    #[error("a newer consumer of this shard has taken over{}", by(.consumer))]
    TakenOver {
        /// What that one calls itself.
        consumer: String,
    },
    /// The subscription was deleted.
    #[error("the subscription was deleted")]
    Deleted,
    /// What was acknowledged was not delivered.
    #[error("index {index} was acknowledged, but only what lies before {delivered} was delivered")]
    AckNotDelivered {
        /// What was acknowledged.
        index: u64,
        /// What was delivered lies before.
        delivered: u64,
    },
    /// The token of a snapshot is another's, or none.
    #[error("the snapshot token is not one of this snapshot")]
    SnapshotToken,
    /// The node is closing, or its ledger can not be read.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

fn by(consumer: &str) -> String {
    if consumer.is_empty() { String::new() } else { format!(": {consumer}") }
}

impl Node {
    /// Lets a consumer in. One that consumes the same shard has to go.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    pub fn consume(self: &Arc<Self>, how: Consuming) -> Result<Consumer, ConsumeError> {
        todo!("{how:?}")
    }
}

/// One consumer of a shard.
#[derive(Debug)]
pub struct Consumer {}

impl Consumer {
    /// The subscription.
    #[must_use]
    pub fn subscription(&self) -> &Arc<Subscription> {
        todo!()
    }

    /// The index from which events are delivered.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        todo!()
    }

    /// Whether another consumer had to go.
    #[must_use]
    pub fn took_over(&self) -> bool {
        todo!()
    }

    /// The next message, as soon as there is one and a credit for it. Cancel-safe.
    ///
    /// # Errors
    /// The consumer has to go: see [`ConsumeError`].
    pub async fn next(&mut self) -> Result<Delivery, ConsumeError> {
        todo!()
    }

    /// Lets more messages come. The total is at most [`CREDITS_MAX`].
    pub fn credit(&mut self, more: u32) {
        todo!("{more}")
    }

    /// Takes an acknowledgement; `events` of it is counted here.
    ///
    /// # Errors
    /// [`ConsumeError::AckNotDelivered`]; then nothing was taken.
    pub fn acknowledge(&mut self, what: Acknowledged) -> Result<(), ConsumeError> {
        todo!("{what:?}")
    }

    /// Gives an event up that was delivered: it is settled, and a dead letter.
    pub fn give_up(&mut self, failed: FailedDelivery) {
        todo!("{failed:?}")
    }
}
