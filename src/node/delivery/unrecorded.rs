//! What is settled of a shard and is not on record yet, and the entries that it becomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Range,
};

use super::book::Shard;
use crate::domain::{
    Delivered, DeliveryFailed, DeliveryOverdue, FailedDelivery, Millis, Settled, SubscriptionEntry,
};

/// How large the body of a receipt may be, in bytes: what is around it in an entry takes less than
/// the rest.
const RECEIPT_BYTES_MAX: usize = 60_000;
/// The greatest number of events in one entry that gives them up.
pub(super) const FAILED_MAX: usize = 500;
/// A place without an event goes on record alone if it is this many entries ahead of what is on
/// record: as many may have to be looked through again after a crash.
pub(super) const RIDE_ENTRIES_MAX: u64 = 65_536;

/// What is settled of one shard and neither on record nor being written.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    ranges: Ranges,
    /// Dead letters that were delivered after all. Each stands alone in a receipt.
    redelivered: BTreeSet<u64>,
    failed: BTreeMap<u64, FailedDelivery>,
    snapshot: bool,
    /// When the last of it was acknowledged.
    at: Millis,
    /// Number of events that were acknowledged.
    events: usize,
}

/// Indexes as ranges, no two of which touch.
#[derive(Debug, Default)]
struct Ranges {
    set: Settled,
    /// Number of indexes.
    len: u64,
}

impl Ranges {
    fn insert(&mut self, range: Range<u64>) {
        let new = self.set.insert(range);
        self.len += new.iter().map(|range| range.end - range.start).sum::<u64>();
    }

    fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        let first = (self.set.next() > 0).then(|| 0..self.set.next());
        first.into_iter().chain(self.set.above())
    }
}

impl Unrecorded {
    /// Adds a range that is acknowledged, and was not settled before.
    pub(super) fn acknowledge(&mut self, range: Range<u64>) {
        self.ranges.insert(range);
    }

    /// Adds the snapshot.
    pub(super) fn acknowledge_snapshot(&mut self) {
        self.snapshot = true;
    }

    /// Adds an event that is given up, and was not settled before.
    pub(super) fn fail(&mut self, failed: FailedDelivery) {
        self.failed.insert(failed.index, failed);
    }

    /// Notes that an event was delivered after it was given up, and answers whether that is news.
    /// `is_dead_letter` says of an index that is on record whether it was given up.
    pub(super) fn redelivered(&mut self, index: u64, is_dead_letter: impl Fn(u64) -> bool) -> bool {
        if self.failed.remove(&index).is_some() {
            self.ranges.insert(index..index.saturating_add(1));
            return true;
        }
        !self.ranges.set.contains(index) && is_dead_letter(index) && self.redelivered.insert(index)
    }

    /// Notes how many events the last change settles, and when.
    pub(super) fn note(&mut self, events: usize, now: Millis) {
        self.at = self.at.max(now);
        self.events += events;
    }

    /// Whether it is written down for its own sake.
    pub(super) fn is_due(&self) -> bool {
        self.count() > 0 || self.ranges.len >= RIDE_ENTRIES_MAX
    }

    /// Number of events and snapshots.
    pub(super) fn count(&self) -> usize {
        self.events + self.failed.len() + usize::from(self.snapshot)
    }

    /// What was acknowledged, ascending. No two overlap; those that were dead letters stand alone.
    pub(super) fn acknowledged(&self) -> Vec<Range<u64>> {
        let alone = self.redelivered.iter().map(|index| *index..index + 1);
        let mut ranges: Vec<_> = self.ranges.iter().chain(alone).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    /// Takes a receipt back that could not be written. `taken` is what it was made from.
    fn put_back_delivered(&mut self, delivered: &Delivered, taken: &Self) {
        for range in &delivered.ranges {
            if taken.redelivered.contains(&range.start) {
                self.redelivered.insert(range.start);
            } else {
                self.ranges.insert(range.clone());
            }
        }
        self.snapshot |= delivered.snapshot;
        self.at = self.at.max(delivered.acknowledged_at);
        // So that it is due; not how many they were, or it would be at once.
        self.events = self.events.max(1);
    }
}

/// What the writer has taken from the book to write it down.
#[derive(Debug, Default)]
pub(in crate::node) struct Taken {
    pub(super) shards: Vec<(Shard, Unrecorded)>,
    pub(super) overdue: Vec<DeliveryOverdue>,
}

impl Taken {
    /// Gives back to each shard what an entry was to say of it that could not be written. Who is
    /// overdue is looked at again in any case.
    pub(super) fn put_back(
        &self,
        body: &SubscriptionEntry,
        mut change: impl FnMut(Shard, &dyn Fn(&mut Unrecorded)),
    ) {
        match body {
            SubscriptionEntry::Delivered(delivered) => {
                for delivered in delivered {
                    let shard = (delivered.subscription, delivered.shard);
                    let Some((_, taken)) = self.shards.iter().find(|(of, _)| *of == shard) else {
                        continue;
                    };
                    change(shard, &|unrecorded| unrecorded.put_back_delivered(delivered, taken));
                }
            }
            SubscriptionEntry::Failed(failed) => {
                change((failed.subscription, failed.shard), &|unrecorded| {
                    failed.failed.iter().for_each(|failed| unrecorded.fail(*failed));
                });
            }
            SubscriptionEntry::Created(_)
            | SubscriptionEntry::Deleted(_)
            | SubscriptionEntry::Overdue(_) => {}
        }
    }

    /// The entries that say it, each small enough.
    pub(super) fn bodies(&self) -> Vec<SubscriptionEntry> {
        let mut bodies = Vec::new();
        let mut receipt = Receipt::default();
        for (shard, unrecorded) in &self.shards {
            receipt.add(*shard, unrecorded, &mut bodies);
        }
        receipt.end(&mut bodies);
        for ((subscription, shard), unrecorded) in &self.shards {
            let failed: Vec<FailedDelivery> = unrecorded.failed.values().copied().collect();
            bodies.extend(failed.chunks(FAILED_MAX).map(|failed| {
                SubscriptionEntry::Failed(DeliveryFailed {
                    subscription: *subscription,
                    shard: *shard,
                    failed: failed.to_vec(),
                })
            }));
        }
        // Last: who has acknowledged just now is not overdue.
        bodies.extend(self.overdue.iter().copied().map(SubscriptionEntry::Overdue));
        bodies
    }
}

/// A receipt that is being put together.
#[derive(Default)]
struct Receipt {
    delivered: Vec<Delivered>,
    bytes: usize,
}

impl Receipt {
    fn add(
        &mut self,
        (subscription, shard): Shard,
        unrecorded: &Unrecorded,
        to: &mut Vec<SubscriptionEntry>,
    ) {
        let head = Delivered {
            subscription,
            shard,
            ranges: Vec::new(),
            acknowledged_at: unrecorded.at,
            snapshot: unrecorded.snapshot,
        };
        let ranges = unrecorded.acknowledged();
        if ranges.is_empty() && !unrecorded.snapshot {
            return;
        }
        self.push(head.clone(), to);
        for range in ranges {
            let bytes = range_bytes(&range);
            if self.bytes + bytes > RECEIPT_BYTES_MAX {
                self.end(to);
                // The snapshot was told of already.
                self.push(Delivered { snapshot: false, ..head.clone() }, to);
            }
            self.bytes += bytes;
            if let Some(last) = self.delivered.last_mut() {
                last.ranges.push(range);
            }
        }
    }

    fn push(&mut self, head: Delivered, to: &mut Vec<SubscriptionEntry>) {
        let bytes = head_bytes(&head);
        if self.bytes + bytes + RANGE_BYTES_MAX > RECEIPT_BYTES_MAX {
            self.end(to);
        }
        self.bytes += bytes;
        self.delivered.push(head);
    }

    fn end(&mut self, to: &mut Vec<SubscriptionEntry>) {
        self.bytes = 0;
        if !self.delivered.is_empty() {
            to.push(SubscriptionEntry::Delivered(mem::take(&mut self.delivered)));
        }
    }
}

/// The greatest size of a range in an entry, in bytes.
const RANGE_BYTES_MAX: usize = 2 + 2 * (1 + 10);

/// Size of a range in an entry, in bytes.
fn range_bytes(range: &Range<u64>) -> usize {
    2 + 2 + varint_bytes(range.start) + varint_bytes(range.end)
}

/// Size of what stands beside the ranges, in bytes, at most: the tag and the length, and the fields
/// with theirs.
fn head_bytes(head: &Delivered) -> usize {
    let time = 1 + 10;
    1 + 3
        + (1 + varint_bytes(head.subscription.0))
        + (1 + varint_bytes(head.shard.into()))
        + time
        + 2
}

fn varint_bytes(value: u64) -> usize {
    // At most 10: no loss.
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}
