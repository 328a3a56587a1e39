//! The durable subscriptions as the ledger tells of them, and the rows that lead to their receipts.
//!
//! All of them are in memory: there are few. What each has acknowledged is a set of indexes that is
//! kept as one row a subscription; beside it stands one row for each range of a receipt, so that
//! the entry that proves an acknowledgement is found without reading the ledger.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use hashbrown::HashMap;
use prost::Message;

use crate::{
    domain::{
        Body, Entry, Key as Name, Millis, Overdue, Settled, ShardState, Subscription,
        SubscriptionId,
    },
    storage::{index::Row, keys::Key},
};

use super::ViewError;

/// The durable subscriptions, those that were ended among them.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions {
    all: BTreeMap<SubscriptionId, Arc<Subscription>>,
    /// Those that were not ended.
    live: HashMap<Name, SubscriptionId>,
}

/// What became of an event at one shard of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// Index of the entry that says so.
    pub entry_index: u64,
    /// When it was acknowledged, or given up.
    pub at: Millis,
    /// Whether it was given up.
    pub is_failure: bool,
}

/// An event that was given up, as its row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter {
    /// The shard.
    pub shard: u32,
    /// Index of the event.
    pub index: u64,
    /// Index of the entry that says so.
    pub failed_index: u64,
    /// When it was given up.
    pub failed_at: Millis,
    /// How often it was tried.
    pub attempts: u32,
    /// HTTP status of the last answer; 0 if there was none.
    pub http_status: u32,
}

impl Subscriptions {
    /// Every subscription, by the order of creation; those that were ended, too.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.all.values()
    }

    /// Those that were not ended.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.all.values().filter(|own| own.deleted.is_none())
    }

    /// Number of those that were not ended.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// The one of this name that was not ended.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Subscription>> {
        self.live.get(name).and_then(|id| self.all.get(id))
    }

    /// One by its identity; it may have been ended.
    #[must_use]
    pub fn get(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.all.get(&id)
    }

    /// Folds in an entry, and answers the rows that it leaves. To fold an entry again changes
    /// nothing.
    ///
    /// # Errors
    /// [`ViewError::UnknownSubscription`]: it names what no entry before it created.
    pub fn fold(
        &mut self,
        index: u64,
        recorded_at: Millis,
        body: &Body,
    ) -> Result<Vec<Row>, ViewError> {
        let mut rows = Vec::new();
        match body {
            Body::Subscribed(created) => {
                let id = SubscriptionId(index);
                self.live.insert(created.name.clone(), id);
                let created = Subscription::new(id, recorded_at, (**created).clone());
                rows.push(state_row(&created));
                self.all.insert(id, Arc::new(created));
            }
            Body::Unsubscribed(id) => {
                let own = self.own(index, *id)?;
                own.deleted = Some((index, recorded_at));
                rows.push(state_row(own));
                let name = own.spec.name.clone();
                if self.live.get(&name) == Some(id) {
                    self.live.remove(&name);
                }
            }
            Body::Delivered(delivered) => {
                for delivered in delivered {
                    let shard = delivered.shard;
                    let own = self.own(index, delivered.subscription)?;
                    let state = shard_of(own, index, shard)?;
                    state.snapshot_pending &= !delivered.snapshot;
                    for range in &delivered.ranges {
                        state.settled.insert(range.clone());
                    }
                    rows.push(state_row(own));
                    for range in &delivered.ranges {
                        let at = (index, delivered.acknowledged_at);
                        rows.push(settled_row(delivered.subscription, shard, range, at, false));
                        let is_one = range.end - range.start == 1;
                        rows.extend(is_one.then(|| {
                            let id = delivered.subscription.0;
                            (Key::DeadLetter(id, shard, range.start).encode(), None)
                        }));
                    }
                }
            }
            Body::Failed(failed) => {
                let id = failed.subscription;
                let own = self.own(index, id)?;
                let state = shard_of(own, index, failed.shard)?;
                for one in &failed.failed {
                    state.settled.insert(one.index..one.index + 1);
                }
                rows.push(state_row(own));
                for one in &failed.failed {
                    let range = one.index..one.index + 1;
                    rows.push(settled_row(id, failed.shard, &range, (index, recorded_at), true));
                    let letter = DeadLetterMessage {
                        failed_index: index,
                        failed_at_ms: recorded_at.0,
                        attempts: one.attempts,
                        http_status: one.http_status,
                    };
                    let key = Key::DeadLetter(id.0, failed.shard, one.index).encode();
                    rows.push((key, Some(letter.encode_to_vec())));
                }
            }
            Body::Overdue(overdue) => {
                let own = self.own(index, overdue.subscription)?;
                let state = shard_of(own, index, overdue.shard)?;
                state.overdue = Some(Overdue { event_index: overdue.event_index, recorded_at });
                rows.push(state_row(own));
            }
            _ => {}
        }
        Ok(rows)
    }

    fn own(&mut self, index: u64, id: SubscriptionId) -> Result<&mut Subscription, ViewError> {
        let own = self.all.get_mut(&id).map(Arc::make_mut);
        own.ok_or(ViewError::UnknownSubscription { index, id })
    }

    /// Adds one as its creation and its row say it is.
    pub(super) fn restore(&mut self, created: &Entry, row: &[u8]) -> Result<(), ViewError> {
        let Body::Subscribed(spec) = &created.body else { return Err(ViewError::Row) };
        let id = SubscriptionId(created.index);
        let mut own = Subscription::new(id, created.recorded_at, (**spec).clone());
        let message = StateMessage::decode(row).map_err(|_| ViewError::Row)?;
        if message.shards.len() != own.shards.len() {
            return Err(ViewError::Row);
        }
        own.shards = message.shards.into_iter().map(shard_state).collect();
        own.deleted = message.deleted.map(|deleted| (deleted.index, Millis(deleted.at_ms)));
        if own.deleted.is_none() {
            self.live.insert(own.spec.name.clone(), id);
        }
        self.all.insert(id, Arc::new(own));
        Ok(())
    }
}

fn shard_of(own: &mut Subscription, index: u64, shard: u32) -> Result<&mut ShardState, ViewError> {
    let id = own.id;
    own.shards.get_mut(shard as usize).ok_or(ViewError::UnknownSubscription { index, id })
}

#[derive(Clone, PartialEq, Message)]
struct StateMessage {
    #[prost(message, repeated, tag = "1")]
    shards: Vec<ShardMessage>,
    #[prost(message, optional, tag = "2")]
    deleted: Option<MomentMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ShardMessage {
    #[prost(uint64, tag = "1")]
    next: u64,
    /// Start and end of each range, one after the other.
    #[prost(uint64, repeated, tag = "2")]
    above: Vec<u64>,
    #[prost(bool, tag = "3")]
    snapshot_pending: bool,
    #[prost(message, optional, tag = "4")]
    overdue: Option<MomentMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct MomentMessage {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(int64, tag = "2")]
    at_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SettledMessage {
    #[prost(uint64, tag = "1")]
    start: u64,
    #[prost(uint64, tag = "2")]
    entry_index: u64,
    #[prost(int64, tag = "3")]
    at_ms: i64,
    #[prost(bool, tag = "4")]
    is_failure: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct DeadLetterMessage {
    #[prost(uint64, tag = "1")]
    failed_index: u64,
    #[prost(int64, tag = "2")]
    failed_at_ms: i64,
    #[prost(uint32, tag = "3")]
    attempts: u32,
    #[prost(uint32, tag = "4")]
    http_status: u32,
}

fn state_row(own: &Subscription) -> Row {
    let shard = |state: &ShardState| ShardMessage {
        next: state.settled.next(),
        above: state.settled.above().flat_map(|range| [range.start, range.end]).collect(),
        snapshot_pending: state.snapshot_pending,
        overdue: state
            .overdue
            .map(|own| MomentMessage { index: own.event_index, at_ms: own.recorded_at.0 }),
    };
    let message = StateMessage {
        shards: own.shards.iter().map(shard).collect(),
        deleted: own.deleted.map(|(index, at)| MomentMessage { index, at_ms: at.0 }),
    };
    (Key::Subscription(own.id.0).encode(), Some(message.encode_to_vec()))
}

fn shard_state(message: ShardMessage) -> ShardState {
    let mut settled = Settled::before(message.next);
    let (ranges, _) = message.above.as_chunks::<2>();
    for [start, end] in ranges {
        settled.insert(*start..*end);
    }
    ShardState {
        settled,
        snapshot_pending: message.snapshot_pending,
        overdue: message
            .overdue
            .map(|own| Overdue { event_index: own.index, recorded_at: Millis(own.at_ms) }),
    }
}

fn settled_row(
    id: SubscriptionId,
    shard: u32,
    range: &Range<u64>,
    (entry_index, at): (u64, Millis),
    is_failure: bool,
) -> Row {
    let message = SettledMessage { start: range.start, entry_index, at_ms: at.0, is_failure };
    (Key::Settled(id.0, shard, range.end).encode(), Some(message.encode_to_vec()))
}

/// What a row of a range says of an index, if the range covers it.
pub(super) fn settlement(row: &[u8], index: u64) -> Result<Option<Settlement>, ViewError> {
    let message = SettledMessage::decode(row).map_err(|_| ViewError::Row)?;
    Ok((message.start <= index).then_some(Settlement {
        entry_index: message.entry_index,
        at: Millis(message.at_ms),
        is_failure: message.is_failure,
    }))
}

/// What a row says of a dead letter.
pub(super) fn dead_letter(shard: u32, index: u64, row: &[u8]) -> Result<DeadLetter, ViewError> {
    let message = DeadLetterMessage::decode(row).map_err(|_| ViewError::Row)?;
    Ok(DeadLetter {
        shard,
        index,
        failed_index: message.failed_index,
        failed_at: Millis(message.failed_at_ms),
        attempts: message.attempts,
        http_status: message.http_status,
    })
}
