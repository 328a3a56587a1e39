//! The settled indexes of a shard that are not written to the ledger yet, and the entries for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Range,
};

use prost::encoding::encoded_len_varint;

use super::book::Shard;
use crate::domain::{
    Delivered, DeliveryFailed, DeliveryOverdue, FailedDelivery, Millis, Settled, SubscriptionEntry,
};

/// Maximum size of the body of a receipt, in bytes. The rest of an entry has room for its other fields.
const RECEIPT_BYTES_MAX: usize = 65_000;
/// A text is padded to at most so many times its size, and an item of no more than [`RECEIPT_BYTES_MAX`] over
/// this fits into its largest bucket.
const PADDING: usize = 2;
/// Maximum size of an item besides the padded fields of its shards: the smallest bucket, salt, commitment and
/// authentication tag, and the fields of item and subscription.
const ITEM_BYTES: usize = 128 + 16 + 32 + 16 + 20 + PADDING * 24;
/// Maximum number of events in one entry of failed deliveries.
pub(super) const FAILED_MAX: usize = 500;
/// Acknowledged indexes without an event are written only when they are this many. So after a crash, at
/// most this many entries are read again.
pub(super) const RIDE_ENTRIES_MAX: u64 = 65_536;

/// The settled indexes of one shard that are neither written nor with the writer.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    ranges: Ranges,
    /// Dead letters that were delivered after all. Each is a range of its own in a receipt.
    redelivered: BTreeSet<u64>,
    failed: BTreeMap<u64, FailedDelivery>,
    snapshot: bool,
    /// Time of the last acknowledgement.
    at: Millis,
    /// Number of acknowledged events.
    events: usize,
}

/// Indexes as disjoint ranges that do not touch.
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
    /// Adds an acknowledged range that was not settled before.
    pub(super) fn acknowledge(&mut self, range: Range<u64>) {
        self.ranges.insert(range);
    }

    /// Adds the snapshot.
    pub(super) fn acknowledge_snapshot(&mut self) {
        self.snapshot = true;
    }

    /// Adds an event that was given up, and was not settled before.
    pub(super) fn fail(&mut self, failed: FailedDelivery) {
        self.failed.insert(failed.index, failed);
    }

    /// Notes that an event was delivered after it was given up. Returns whether this changes anything.
    /// `is_dead_letter` tells whether the ledger has an index as given up.
    pub(super) fn redelivered(&mut self, index: u64, is_dead_letter: impl Fn(u64) -> bool) -> bool {
        if self.failed.remove(&index).is_some() {
            self.ranges.insert(index..index.saturating_add(1));
            return true;
        }
        !self.ranges.set.contains(index) && is_dead_letter(index) && self.redelivered.insert(index)
    }

    /// Notes the number of events that the last change acknowledged, and the time.
    pub(super) fn note(&mut self, events: usize, now: Millis) {
        self.at = self.at.max(now);
        self.events += events;
    }

    /// Whether it is due to be written.
    pub(super) fn is_due(&self) -> bool {
        self.count() > 0 || self.ranges.len >= RIDE_ENTRIES_MAX
    }

    /// Number of settled events and snapshots.
    pub(super) fn count(&self) -> usize {
        self.events + self.failed.len() + usize::from(self.snapshot)
    }

    /// The acknowledged ranges, ascending and disjoint. Former dead letters are ranges of their own.
    pub(super) fn acknowledged(&self) -> Vec<Range<u64>> {
        let redelivered = self.redelivered.iter().map(|index| *index..index + 1);
        let mut ranges: Vec<_> = self.ranges.iter().chain(redelivered).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    /// Puts a receipt back that could not be written. `source` is what it was made from.
    pub(super) fn put_back(&mut self, receipt: &Delivered, source: &Self) {
        for range in &receipt.ranges {
            if source.redelivered.contains(&range.start) {
                self.redelivered.insert(range.start);
            } else {
                self.ranges.insert(range.clone());
            }
        }
        self.snapshot |= receipt.snapshot;
        self.at = self.at.max(receipt.acknowledged_at);
        // One event makes it due after the interval; the full number could make it due at once.
        self.events = self.events.max(1);
    }
}

/// What the writer took from the book, to write it to the ledger.
#[derive(Debug, Default)]
pub(in crate::node) struct Taken {
    pub(super) shards: Vec<(Shard, Unrecorded)>,
    pub(super) overdue: Vec<DeliveryOverdue>,
}

impl Taken {
    /// The entries for it, each within the size limit.
    pub(super) fn bodies(&self) -> Vec<SubscriptionEntry> {
        let mut bodies = Vec::new();
        let mut receipts = ReceiptBuilder::default();
        for (shard, unrecorded) in &self.shards {
            receipts.add(*shard, unrecorded, &mut bodies);
        }
        receipts.end(&mut bodies);
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
        // Last: a shard whose acknowledgement is written just before is not overdue.
        bodies.extend(self.overdue.iter().copied().map(SubscriptionEntry::Overdue));
        bodies
    }
}

/// Collects the receipts of several shards into entries.
#[derive(Default)]
struct ReceiptBuilder {
    delivered: Vec<Delivered>,
    bytes: usize,
}

impl ReceiptBuilder {
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
            let bytes = PADDING * range_bytes(&range);
            if self.bytes + bytes > RECEIPT_BYTES_MAX {
                self.end(to);
                // The receipt before has the snapshot.
                self.push(Delivered { snapshot: false, ..head.clone() }, to);
            }
            self.bytes += bytes;
            if let Some(last) = self.delivered.last_mut() {
                last.ranges.push(range);
            }
        }
    }

    fn push(&mut self, head: Delivered, to: &mut Vec<SubscriptionEntry>) {
        let bytes = PADDING * head_bytes(&head);
        let most = ITEM_BYTES + bytes + PADDING * RANGE_BYTES_MAX;
        if self.bytes + most > RECEIPT_BYTES_MAX {
            self.end(to);
        }
        let is_of_last = |last: &Delivered| last.subscription == head.subscription;
        let goes_on = self.delivered.last().is_some_and(is_of_last);
        self.bytes += bytes + if goes_on { 0 } else { ITEM_BYTES };
        self.delivered.push(head);
    }

    fn end(&mut self, to: &mut Vec<SubscriptionEntry>) {
        self.bytes = 0;
        if !self.delivered.is_empty() {
            to.push(SubscriptionEntry::Delivered(mem::take(&mut self.delivered)));
        }
    }
}

/// Maximum size of a range in an entry, in bytes.
const RANGE_BYTES_MAX: usize = 2 + 2 * (1 + 10);

/// Size of a range in an entry, in bytes.
fn range_bytes(range: &Range<u64>) -> usize {
    2 + 2 + encoded_len_varint(range.start) + encoded_len_varint(range.end)
}

/// Maximum size of a receipt without its ranges, in bytes: tag and length, and the other fields.
fn head_bytes(head: &Delivered) -> usize {
    let time = 1 + 10;
    1 + 3
        + (1 + encoded_len_varint(head.subscription.0))
        + (1 + encoded_len_varint(head.shard.into()))
        + time
        + 2
}
