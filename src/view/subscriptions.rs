//! The rows of durable subscriptions, and the rows that lead to their receipts.
//!
//! One row has the indexes that a subscription has acknowledged. In addition there is one row for each
//! range of a receipt, to find the entry that proves an acknowledgement without reading the ledger.

use std::{ops::Range, sync::Arc};

use prost::Message;

use super::{ViewError, keys::Key};
use crate::{
    domain::{Millis, Overdue, Settled, ShardState, Subscription, SubscriptionId},
    entry::{Body, Entry, FailedDelivery, SubscriptionEntry},
    storage::index::Row,
};

/// How an event was settled at one shard of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// Index of the entry that settled it.
    pub entry_index: u64,
    /// When it was acknowledged or given up.
    pub at: Millis,
    /// Whether it was given up.
    pub is_failure: bool,
}

/// An event that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetter {
    /// The shard.
    pub shard: u32,
    /// Index of the event.
    pub index: u64,
    /// Index of the entry that gave it up.
    pub failed_index: u64,
    /// When it was given up.
    pub failed_at: Millis,
    /// Number of tries.
    pub attempts: u32,
    /// HTTP status of the last answer; 0 if there was none.
    pub http_status: u32,
}

/// Restores a subscription from its creation and its row.
pub(super) fn restored(created: &Entry, row: &[u8]) -> Result<Arc<Subscription>, ViewError> {
    let Body::Subscription(SubscriptionEntry::Created(spec)) = &created.body else {
        return Err(ViewError::Row);
    };
    let id = SubscriptionId(created.index);
    let mut subscription = Subscription::new(id, created.recorded_at, (**spec).clone());
    let message = StateMessage::decode(row).map_err(|_| ViewError::Row)?;
    if message.shards.len() != subscription.shards.len() {
        return Err(ViewError::Row);
    }
    subscription.shards = message.shards.iter().map(shard_state).collect();
    subscription.deleted = message.deleted.map(|deleted| (deleted.index, Millis(deleted.at_ms)));
    Ok(Arc::new(subscription))
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

/// The row of a subscription.
pub(super) fn state_row(subscription: &Subscription) -> Row {
    let shard = |state: &ShardState| ShardMessage {
        next: state.settled.next(),
        above: state.settled.above().flat_map(|range| [range.start, range.end]).collect(),
        snapshot_pending: state.snapshot_pending,
        overdue: state
            .overdue
            .map(|last| MomentMessage { index: last.event_index, at_ms: last.recorded_at.0 }),
    };
    let message = StateMessage {
        shards: subscription.shards.iter().map(shard).collect(),
        deleted: subscription.deleted.map(|(index, at)| MomentMessage { index, at_ms: at.0 }),
    };
    (Key::Subscription(subscription.id.0).encode(), Some(message.encode_to_vec()))
}

fn shard_state(message: &ShardMessage) -> ShardState {
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
            .map(|moment| Overdue { event_index: moment.index, recorded_at: Millis(moment.at_ms) }),
    }
}

/// The row of events that were acknowledged, or given up.
pub(super) fn settled_row(
    id: SubscriptionId,
    shard: u32,
    range: &Range<u64>,
    (entry_index, at): (u64, Millis),
    is_failure: bool,
) -> Row {
    let message = SettledMessage { start: range.start, entry_index, at_ms: at.0, is_failure };
    (Key::Settled(id.0, shard, range.end).encode(), Some(message.encode_to_vec()))
}

/// The row of an event that was given up.
pub(super) fn dead_letter_row(
    id: SubscriptionId,
    shard: u32,
    failed: &FailedDelivery,
    (entry_index, at): (u64, Millis),
) -> Row {
    let message = DeadLetterMessage {
        failed_index: entry_index,
        failed_at_ms: at.0,
        attempts: failed.attempts,
        http_status: failed.http_status,
    };
    (Key::DeadLetter(id.0, shard, failed.index).encode(), Some(message.encode_to_vec()))
}

/// Reads the settlement of an index from the row of a range; none if the range does not cover it.
pub(super) fn settlement(row: &[u8], index: u64) -> Result<Option<Settlement>, ViewError> {
    let message = SettledMessage::decode(row).map_err(|_| ViewError::Row)?;
    Ok((message.start <= index).then_some(Settlement {
        entry_index: message.entry_index,
        at: Millis(message.at_ms),
        is_failure: message.is_failure,
    }))
}

/// Reads the row of a dead letter.
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use proptest::{collection::vec, prelude::*, sample::Index as Pick};

    use super::*;
    use crate::{
        domain::{Filter, Key as Name, Snapshot},
        entry::{
            Delivered, DeliveryFailed, DeliveryOverdue, SubscriptionCreated, SubscriptionDeleted,
        },
        fold::{Fold, FoldError, Subscriptions},
        ledger::sealed::{Opened, Slots},
        storage::{index::Index, scratch_index},
        view::{View, rows},
    };

    /// All events have lower indexes.
    const EVENTS: u64 = 40;

    /// A change of the picked subscription.
    #[derive(Debug, Clone)]
    enum Op {
        Create { shards: u32, start: u64, snapshot: bool },
        Acknowledge { shard: u32, from: u64, len: u64, snapshot: bool },
        GiveUp { shard: u32, indexes: Vec<u64> },
        Replay { shard: u32, pick: Pick },
        Overdue { shard: u32, event_index: u64 },
        Delete,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let shard = 0_u32..3;
        prop_oneof![
            2 => (1_u32..4, 0_u64..8, any::<bool>())
                .prop_map(|(shards, start, snapshot)| Op::Create { shards, start, snapshot }),
            6 => (shard.clone(), 0..EVENTS, 1_u64..12, any::<bool>()).prop_map(
                |(shard, from, len, snapshot)| Op::Acknowledge { shard, from, len, snapshot }
            ),
            2 => (shard.clone(), vec(0..EVENTS, 1..4))
                .prop_map(|(shard, indexes)| Op::GiveUp { shard, indexes }),
            2 => (shard.clone(), any::<Pick>())
                .prop_map(|(shard, pick)| Op::Replay { shard, pick }),
            1 => (shard, 0..EVENTS)
                .prop_map(|(shard, event_index)| Op::Overdue { shard, event_index }),
            1 => Just(Op::Delete),
        ]
    }

    /// The settlement of each index of each shard.
    type Model = BTreeMap<(SubscriptionId, u32), BTreeMap<u64, Settlement>>;

    #[derive(Default)]
    struct World {
        entries: Vec<Entry>,
        all: Subscriptions,
        model: Model,
    }

    impl World {
        fn of(ops: &[(Pick, Op)]) -> Self {
            let mut world = Self::default();
            world.write(created("s0", 1, 0, false));
            for (pick, op) in ops {
                world.act(pick, op);
            }
            world
        }

        fn write(&mut self, about: SubscriptionEntry) {
            let entry = entry(self.entries.len() as u64, about);
            self.all.fold(entry.fact()).unwrap();
            self.entries.push(entry);
        }

        fn act(&mut self, pick: &Pick, op: &Op) {
            if let Op::Create { shards, start, snapshot } = op {
                // Names of ended subscriptions are used again.
                let free = (0..).map(|n| format!("s{n}"));
                let name = free.into_iter().find(|name| self.all.named(name).is_none()).unwrap();
                return self.write(created(&name, *shards, *start, *snapshot));
            }
            let live: Vec<_> = self.all.live().cloned().collect();
            let Some(subscription) = (!live.is_empty()).then(|| &live[pick.index(live.len())])
            else {
                return;
            };
            let body = self.body(subscription, op);
            body.into_iter().for_each(|body| self.write(body));
        }

        /// The entry that the service would write for the change, if any.
        fn body(&mut self, subscription: &Subscription, op: &Op) -> Option<SubscriptionEntry> {
            let (entry_index, id) = (self.entries.len() as u64, subscription.id);
            let mut settle = |shard: u32, indexes: Range<u64>, at: Millis, is_failure: bool| {
                let settled = self.model.entry((id, shard)).or_default();
                settled.extend(
                    indexes.map(|at_index| (at_index, Settlement { entry_index, at, is_failure })),
                );
            };
            match op {
                Op::Create { .. } => None,
                Op::Acknowledge { shard, from, len, snapshot } => {
                    let shard = shard % subscription.spec.shards;
                    let mut settled = subscription.shard(shard).unwrap().settled.clone();
                    let ranges = settled.insert(*from..from + len);
                    let acknowledged_at = at(entry_index).plus_ms(-3);
                    for range in &ranges {
                        settle(shard, range.clone(), acknowledged_at, false);
                    }
                    Some(delivered(id, shard, ranges, acknowledged_at, *snapshot))
                }
                Op::GiveUp { shard, indexes } => {
                    let shard = shard % subscription.spec.shards;
                    let mut settled = subscription.shard(shard).unwrap().settled.clone();
                    let mut new = indexes.clone();
                    new.sort_unstable();
                    new.retain(|index| !settled.insert(*index..index + 1).is_empty());
                    for index in &new {
                        settle(shard, *index..index + 1, at(entry_index), true);
                    }
                    let failed = |index| FailedDelivery { index, attempts: 7, http_status: 503 };
                    let failed: Vec<_> = new.into_iter().map(failed).collect();
                    let failed = DeliveryFailed { subscription: id, shard, failed };
                    (!failed.failed.is_empty()).then_some(SubscriptionEntry::Failed(failed))
                }
                Op::Replay { shard, pick } => {
                    let shard = shard % subscription.spec.shards;
                    let letters: Vec<u64> = self.dead_letters(id, shard);
                    let index = *letters.get(pick.index(letters.len().max(1)))?;
                    let acknowledged_at = at(entry_index).plus_ms(-3);
                    let settled = self.model.entry((id, shard)).or_default();
                    let now = Settlement { entry_index, at: acknowledged_at, is_failure: false };
                    settled.insert(index, now);
                    let range = index..index + 1;
                    Some(delivered(id, shard, vec![range], acknowledged_at, false))
                }
                Op::Overdue { shard, event_index } => {
                    Some(SubscriptionEntry::Overdue(DeliveryOverdue {
                        subscription: id,
                        shard: shard % subscription.spec.shards,
                        event_index: *event_index,
                        pending_since: at(*event_index),
                    }))
                }
                Op::Delete => {
                    Some(SubscriptionEntry::Deleted(SubscriptionDeleted { subscription: id }))
                }
            }
        }

        fn dead_letters(&self, id: SubscriptionId, shard: u32) -> Vec<u64> {
            let settled = self.model.get(&(id, shard)).into_iter().flatten();
            settled
                .filter(|(_, settlement)| settlement.is_failure)
                .map(|(index, _)| *index)
                .collect()
        }

        fn check(&self, view: &View) {
            assert_eq!(*view.subscriptions(), self.all);
            for subscription in self.all.all() {
                let mut letters = Vec::new();
                for shard in 0..subscription.spec.shards {
                    let model = self.model.get(&(subscription.id, shard));
                    for index in subscription.spec.start_index..EVENTS + 12 {
                        let want = model.and_then(|model| model.get(&index)).copied();
                        let got = view.settlement(subscription.id, shard, index).unwrap();
                        assert_eq!(got, want, "{:?} shard {shard} index {index}", subscription.id);
                        let settled = &subscription.shard(shard).unwrap().settled;
                        assert_eq!(settled.contains(index), want.is_some());
                    }
                    let of_shard = self.dead_letters(subscription.id, shard);
                    letters.extend(of_shard.into_iter().map(|index| (shard, index)));
                }
                let got = view.dead_letters(subscription.id, None, usize::MAX).unwrap();
                let got: Vec<_> = got.iter().map(|letter| (letter.shard, letter.index)).collect();
                assert_eq!(got, letters);
                let beyond =
                    view.dead_letters(subscription.id, letters.first().copied(), usize::MAX);
                let beyond = beyond.unwrap().len();
                assert_eq!(beyond, letters.len().saturating_sub(1));
                assert_eq!(
                    view.dead_letter_count(subscription.id, usize::MAX).unwrap(),
                    letters.len()
                );
            }
        }
    }

    fn entry(index: u64, about: SubscriptionEntry) -> Entry {
        let body = Body::Subscription(about);
        Entry { index, prev_hash: [0; 32], recorded_at: at(index), body }
    }

    fn at(index: u64) -> Millis {
        Millis(1_000_000 + 10 * i64::try_from(index).unwrap())
    }

    fn created(name: &str, shards: u32, start_index: u64, snapshot: bool) -> SubscriptionEntry {
        SubscriptionEntry::Created(Box::new(SubscriptionCreated {
            name: Name::parse(name).unwrap(),
            owner: "crm".to_owned(),
            filter: Filter::default(),
            start_index,
            snapshot: snapshot.then_some(Snapshot::All),
            shards,
            deadline_ms: Some(5),
            webhook_url: None,
        }))
    }

    fn delivered(
        subscription: SubscriptionId,
        shard: u32,
        ranges: Vec<Range<u64>>,
        acknowledged_at: Millis,
        snapshot: bool,
    ) -> SubscriptionEntry {
        let receipt = Delivered { subscription, shard, ranges, acknowledged_at, snapshot };
        SubscriptionEntry::Delivered(vec![receipt])
    }

    fn index_in(dir: &Path) -> Arc<Index> {
        Arc::new(scratch_index(dir))
    }

    /// Opens a view over the rows of an index.
    fn opened(entries: &[Entry]) -> Vec<Opened> {
        let opened = |entry: &Entry| Opened { entry: entry.clone(), slots: Slots::new() };
        entries.iter().map(opened).collect()
    }

    fn open(index: &Arc<Index>, entries: &[Entry]) -> View {
        let entry = |at: u64| -> Result<Entry, ViewError> {
            Ok(entries[usize::try_from(at).unwrap()].clone())
        };
        View::open(Arc::clone(index), &[7; 16], 1 << 20, entry).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn the_settlement_of_each_event_is_found_and_survives(
            ops in vec((any::<Pick>(), any_op()), 0..60),
            cut in any::<Pick>(),
        ) {
            let world = World::of(&ops);
            let cut = cut.index(world.entries.len() + 1);
            let dir = tempfile::tempdir().unwrap();
            let index = index_in(dir.path());
            open(&index, &world.entries).catch_up(&opened(&world.entries[..cut]), [0; 32]).unwrap();
            // Continues from the rows of the earlier fold.
            let view = open(&index, &world.entries);
            view.catch_up(&opened(&world.entries[cut..]), [0; 32]).unwrap();
            world.check(&view);
            world.check(&open(&index, &world.entries));
            // A rebuilt view is equal.
            let other = tempfile::tempdir().unwrap();
            let view = open(&index_in(other.path()), &world.entries);
            view.catch_up(&opened(&world.entries), [0; 32]).unwrap();
            world.check(&view);
        }

        #[test]
        fn folding_again_changes_nothing(
            ops in vec((any::<Pick>(), any_op()), 0..60),
            cut in any::<Pick>(),
        ) {
            let world = World::of(&ops);
            let mut all = world.all.clone();
            let from = cut.index(world.entries.len());
            for entry in &world.entries[from..] {
                all.fold(entry.fact()).unwrap();
            }
            prop_assert_eq!(&all, &world.all);
        }
    }

    #[test]
    fn a_receipt_leaves_one_row_of_state_a_subscription() {
        let mut fold = Fold::default();
        let mut effect = |index, about| {
            let no_state = |_| unreachable!("it is about no data subject");
            fold.effect::<FoldError>(entry(index, about).fact(), no_state).unwrap()
        };
        effect(3, created("s", 8, 0, false));
        effect(4, created("t", 1, 0, false));
        let receipt = |id, shard| Delivered {
            subscription: SubscriptionId(id),
            shard,
            ranges: std::iter::once(5..9).collect(),
            acknowledged_at: at(9),
            snapshot: false,
        };
        let body = SubscriptionEntry::Delivered(
            (0..8).map(|shard| receipt(3, shard)).chain([receipt(4, 0)]).collect(),
        );
        let mut rows = Vec::new();
        rows::push(&effect(9, body), 9, &mut rows);
        let all = &fold.subscriptions;
        let states = [3, 4].map(|id| state_row(all.get(SubscriptionId(id)).unwrap()));
        let is_state = |row: &&Row| states.iter().any(|state| state.0 == row.0);
        let got: Vec<_> = rows.iter().filter(is_state).cloned().collect();
        assert_eq!(got, states, "as they are in the end");
        assert_eq!(rows.len(), 2 + 9);
    }

    #[test]
    fn an_entry_about_an_unknown_subscription_is_an_error() {
        let mut all = Subscriptions::default();
        all.fold(entry(3, created("s", 2, 0, false)).fact()).unwrap();
        for (id, shard) in [(2, 0), (3, 2)] {
            let body = delivered(SubscriptionId(id), shard, Vec::new(), at(4), true);
            let error = all.fold(entry(4, body).fact()).unwrap_err();
            assert!(matches!(error, FoldError::UnknownSubscription { index: 4, .. }), "{error}");
        }
    }
}
