//! Durable subscriptions: their filters and their acknowledgements.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::time::Millis;
use crate::entry::SubscriptionCreated;

/// The greatest number of shards of a subscription.
pub const SHARDS_MAX: u32 = 64;
/// The longest owner of a subscription, and name of a consumer, in bytes.
pub const OWNER_BYTES_MAX: usize = 256;
/// The longest URL of a webhook, in bytes.
pub const WEBHOOK_URL_BYTES_MAX: usize = 2_048;

/// A subscription by the index of the entry that created it. Its name may be reused after it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// The content of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// Only denied cells.
    Denied,
    /// All recorded cells.
    All,
}

/// A subscription with its current state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its identity.
    pub id: SubscriptionId,
    /// When it was created.
    pub created_at: Millis,
    /// As it was created.
    pub spec: Arc<SubscriptionCreated>,
    /// Its shards; as many as `spec.shards`.
    pub shards: Vec<ShardState>,
    /// The entry that ended it, and when that was.
    pub deleted: Option<(u64, Millis)>,
}

/// The state of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState {
    /// The events that it acknowledged, or whose delivery was given up.
    pub settled: Settled,
    /// Whether its snapshot is still to be acknowledged.
    pub snapshot_pending: bool,
    /// The last time that an overdue entry was written for it.
    pub overdue: Option<Overdue>,
}

/// An overdue entry of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// The oldest event that it had not acknowledged.
    pub event_index: u64,
    /// When the entry was recorded.
    pub recorded_at: Millis,
}

impl Subscription {
    /// A new subscription.
    #[must_use]
    pub fn new(id: SubscriptionId, created_at: Millis, spec: SubscriptionCreated) -> Self {
        let shard = ShardState {
            settled: Settled::before(spec.start_index),
            snapshot_pending: spec.snapshot.is_some(),
            overdue: None,
        };
        let shards = vec![shard; spec.shards as usize];
        Self { id, created_at, spec: Arc::new(spec), shards, deleted: None }
    }

    /// One of its shards.
    #[must_use]
    pub fn shard(&self, shard: u32) -> Option<&ShardState> {
        self.shards.get(shard as usize)
    }
}

/// A set of ledger indexes that mostly grows at its end: everything before one index, and ranges
/// above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    next: u64,
    /// Start to end; no two touch, and none touches `next`.
    above: BTreeMap<u64, u64>,
}

impl Settled {
    /// Everything before an index.
    #[must_use]
    pub fn before(next: u64) -> Self {
        Self { next, above: BTreeMap::new() }
    }

    /// The first index that is not in the set.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether an index is in the set.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        index < self.next
            || self.above.range(..=index).next_back().is_some_and(|(_, end)| index < *end)
    }

    /// The first index from `from` on that is not in the set.
    #[must_use]
    pub fn first_not_in(&self, from: u64) -> u64 {
        let from = from.max(self.next);
        self.above.range(..=from).next_back().map_or(from, |(_, end)| from.max(*end))
    }

    /// The ranges beyond [`Self::next`], ascending.
    pub fn above(&self) -> impl Iterator<Item = Range<u64>> {
        self.above.iter().map(|(start, end)| *start..*end)
    }

    /// Number of the ranges beyond [`Self::next`].
    #[must_use]
    pub fn count_above(&self) -> usize {
        self.above.len()
    }

    /// Adds a range, and returns the parts of it that are new, ascending.
    pub fn insert(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut added = Vec::new();
        let mut from = range.start.max(self.next);
        if from >= range.end {
            return added;
        }
        // Ranges that overlap or touch become one.
        let (mut start, mut end) = (from, range.end);
        if let Some((before, to)) = self.above.range(..from).next_back().map(|(s, e)| (*s, *e))
            && to >= from
        {
            start = before;
            end = end.max(to);
            from = to;
            self.above.remove(&before);
        }
        while from <= range.end
            && let Some((next, to)) =
                self.above.range(from..=range.end).next().map(|(s, e)| (*s, *e))
        {
            if from < next {
                added.push(from..next);
            }
            from = to;
            end = end.max(to);
            self.above.remove(&next);
        }
        if from < range.end {
            added.push(from..range.end);
        }
        if start <= self.next {
            self.next = end;
        } else {
            self.above.insert(start, end);
        }
        added
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn settled_is_a_set(start in 0_u64..10, ranges in vec((0_u64..60, 0_u64..12), 0..30)) {
            let mut settled = Settled::before(start);
            let mut model: BTreeSet<u64> = (0..start).collect();
            for (from, len) in ranges {
                let new: Vec<u64> = settled.insert(from..from + len).into_iter().flatten().collect();
                let want: Vec<u64> = (from..from + len).filter(|at| model.insert(*at)).collect();
                prop_assert_eq!(new, want);
                prop_assert_eq!(settled.next(), (0..).find(|at| !model.contains(at)).unwrap());
                for at in 0..80 {
                    prop_assert_eq!(settled.contains(at), model.contains(&at));
                    let first = (at..).find(|at| !model.contains(at));
                    prop_assert_eq!(Some(settled.first_not_in(at)), first);
                }
                // The same set has one form.
                let mut last = settled.next();
                for range in settled.above() {
                    prop_assert!(last < range.start && range.start < range.end);
                    last = range.end;
                }
            }
        }
    }
}
