//! How many events of a shard were delivered while an older one is retried.

use std::collections::BTreeSet;

/// The events of a shard that are not settled, and the settled ones beyond the oldest of them.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Events that were taken from the consumer and are not settled.
    open: BTreeSet<u64>,
    /// Settled events beyond the oldest open one.
    ahead: BTreeSet<u64>,
}

impl Progress {
    /// Notes that an event was taken from the consumer.
    pub(super) fn took(&mut self, index: u64) {
        self.open.insert(index);
    }

    /// Notes that an event was delivered or given up.
    pub(super) fn settled(&mut self, index: u64) {
        self.open.remove(&index);
        self.ahead.insert(index);
        match self.oldest() {
            Some(oldest) => self.ahead = self.ahead.split_off(&oldest),
            None => self.ahead.clear(),
        }
    }

    /// The oldest event that is not settled.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.open.first().copied()
    }

    /// Number of settled events beyond the oldest that is not settled.
    pub(super) fn ahead(&self) -> usize {
        self.ahead.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ahead_counts_the_settled_events_beyond_the_oldest_open_one(
            count in 1_u64..40,
            order in proptest::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let mut progress = Progress::default();
            let mut open: Vec<u64> = (0..count).map(|at| at * 3).collect();
            open.iter().for_each(|index| progress.took(*index));
            let mut settled = Vec::new();
            for at in order {
                if open.is_empty() {
                    break;
                }
                let index = open.remove(at.index(open.len()));
                settled.push(index);
                progress.settled(index);
                prop_assert_eq!(progress.oldest(), open.first().copied());
                let oldest = open.first().copied().unwrap_or(u64::MAX);
                let ahead = settled.iter().filter(|index| **index > oldest).count();
                prop_assert_eq!(progress.ahead(), ahead);
            }
        }
    }
}
