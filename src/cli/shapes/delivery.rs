//! What entries say of subscriptions and their deliveries, as JSON.

use serde::Serialize;

use crate::{
    cli::words::{rfc3339_ms, word},
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
