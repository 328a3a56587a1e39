//! How far events of a shard were delivered ahead of one that is tried again and again: pure.

use std::collections::BTreeSet;

/// How far a shard has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Events that were taken and are not settled.
    open: BTreeSet<u64>,
    /// Events that are settled beyond the oldest that is not.
    ahead: BTreeSet<u64>,
}

impl Progress {
    /// An event was taken.
    pub(super) fn took(&mut self, index: u64) {
        self.open.insert(index);
    }

    /// An event was delivered, or given up.
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

    /// How many events are settled beyond it.
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
        fn what_is_ahead_is_what_is_settled_beyond_the_oldest(
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
                let ahead = settled.iter().filter(|own| **own > oldest).count();
                prop_assert_eq!(progress.ahead(), ahead);
            }
        }
    }
}
