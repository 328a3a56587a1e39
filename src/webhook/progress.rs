//! What of a shard may be acknowledged as a whole, and what one by one: pure.
//!
//! Events are taken in ledger order and settled in any. Everything before the oldest that is not
//! settled is acknowledged as a place; what is settled beyond it, by its index.

use std::collections::BTreeSet;

use crate::node::Acknowledged;

/// How far a shard has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Everything before it was taken, or concerns the shard not.
    taken: u64,
    /// Events that were taken and are not settled.
    open: BTreeSet<u64>,
    /// Events that are settled beyond the oldest that is not.
    ahead: BTreeSet<u64>,
}

impl Progress {
    /// An event was taken.
    pub(super) fn took(&mut self, index: u64) {
        self.open.insert(index);
        self.taken = self.taken.max(index.saturating_add(1));
    }

    /// Everything before an index was taken. Answers what may be acknowledged.
    pub(super) fn caught_up(&mut self, next_index: u64) -> Acknowledged {
        self.taken = self.taken.max(next_index);
        self.place()
    }

    /// An event was delivered. Answers what may be acknowledged.
    pub(super) fn delivered(&mut self, index: u64) -> Acknowledged {
        self.open.remove(&index);
        if index < self.frontier() {
            return self.place();
        }
        self.ahead.insert(index);
        Acknowledged { indexes: vec![index], ..Acknowledged::default() }
    }

    /// An event was given up, which has been said. Answers what may be acknowledged.
    pub(super) fn given_up(&mut self, index: u64) -> Acknowledged {
        self.open.remove(&index);
        self.place()
    }

    /// The oldest event that is not settled.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.open.first().copied()
    }

    /// How many events are settled beyond it.
    pub(super) fn ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Everything before it is settled.
    fn frontier(&self) -> u64 {
        self.oldest().unwrap_or(self.taken)
    }

    fn place(&mut self) -> Acknowledged {
        let frontier = self.frontier();
        self.ahead = self.ahead.split_off(&frontier);
        Acknowledged { next_index: Some(frontier), ..Acknowledged::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_acknowledged_is_what_is_settled(
            gaps in proptest::collection::vec(1_u64..4, 1..40),
            order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 40),
        ) {
            let mut progress = Progress::default();
            let mut open: Vec<u64> = gaps
                .iter()
                .scan(0, |at, gap| { *at += gap; Some(*at) })
                .collect();
            let end = open.last().unwrap() + 5;
            open.iter().for_each(|index| progress.took(*index));
            let mut acknowledged = BTreeSet::new();
            let mut given_up = BTreeSet::new();
            let mut acknowledge = |what: Acknowledged, open: &[u64]| {
                let place = what.next_index.unwrap_or(0);
                assert!(open.iter().all(|own| *own >= place && !what.indexes.contains(own)));
                acknowledged.extend(0..place);
                acknowledged.extend(what.indexes);
            };
            acknowledge(progress.caught_up(end), &open);
            for (at, gives_up) in order {
                if open.is_empty() {
                    break;
                }
                let index = open.remove(at.index(open.len()));
                if gives_up {
                    given_up.insert(index);
                    acknowledge(progress.given_up(index), &open);
                } else {
                    acknowledge(progress.delivered(index), &open);
                }
                assert_eq!(progress.oldest(), open.iter().min().copied());
            }
            // In the end, everything that is not given up was acknowledged.
            assert!((0..end).all(|own| acknowledged.contains(&own) || given_up.contains(&own)));
            assert_eq!(progress.ahead(), 0);
        }
    }
}
