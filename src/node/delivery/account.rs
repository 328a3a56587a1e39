//! The account of one shard: deliveries, acknowledgements, and which of them are not written to the
//! ledger yet. It has no clock, no ledger and no stream: time is an argument.
//!
//! After every step:
//! * A settled index was delivered, was settled before, or was passed over by the source:
//!   acknowledgements never run ahead of deliveries.
//! * No event in flight is settled.
//! * A settled index is in the ledger, with the writer, or in [`Unrecorded`]. Entries settle each index
//!   once, except a dead letter that was delivered after all.
//! * A refused acknowledgement changes nothing.
//!
//! An account is created from the view and lasts as long as its subscription. So it outlives consumers:
//! a new consumer begins with the events that are not settled.

use std::{ops::Range, time::Duration};

use super::{
    Acknowledged,
    flight::{Flight, Sent},
    lag::Place,
    unrecorded::Unrecorded,
};
use crate::domain::{FailedDelivery, Millis, Overdue, Settled, ShardState};

/// The account of one shard; `T` is an event.
#[derive(Debug)]
pub(in crate::node) struct Account<T> {
    /// The indexes that are acknowledged or given up.
    settled: Settled,
    /// Whether the snapshot is not acknowledged yet.
    snapshot_pending: bool,
    /// The deliveries to the present consumer.
    flight: Flight<T>,
    /// The settled indexes that are neither in the ledger nor with the writer.
    pub(super) unrecorded: Unrecorded,
    /// How far the ledger was searched for pending events of this shard.
    pub(super) place: Place,
    /// The last overdue report of the shard, if it has recovered since.
    pub(super) recovered: Option<Overdue>,
}

/// An acknowledgement of an index that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct NotDelivered {
    /// The acknowledged index.
    pub index: u64,
    /// Only indexes below this one were delivered.
    pub delivered: u64,
}

impl<T> Account<T> {
    /// The account as recorded in the ledger.
    pub(super) fn on_record(state: &ShardState, start_index: u64) -> Self {
        Self {
            settled: state.settled.clone(),
            snapshot_pending: state.snapshot_pending,
            flight: Flight::new(state.settled.next(), 0, None),
            unrecorded: Unrecorded::default(),
            place: Place::new(start_index),
            recovered: None,
        }
    }

    /// Begins to deliver to a new consumer: no event is in flight.
    pub(in crate::node) fn begin(&mut self, credits: u32, redeliver_after: Option<Duration>) {
        self.flight = Flight::new(self.settled.next(), credits, redeliver_after);
    }

    /// Ends delivery to a consumer. The events in flight go to the next one.
    pub(in crate::node) fn leave(&mut self) {
        self.begin(0, None);
    }

    /// The indexes that are acknowledged or given up.
    pub(in crate::node) fn settled(&self) -> &Settled {
        &self.settled
    }

    /// Whether the snapshot is not acknowledged yet.
    pub(in crate::node) fn snapshot_pending(&self) -> bool {
        self.snapshot_pending
    }

    /// Adds credits.
    pub(in crate::node) fn credit(&mut self, more: u32) {
        self.flight.credit(more);
    }

    /// Whether a new message may be delivered.
    pub(in crate::node) fn has_room(&self) -> bool {
        self.flight.has_room(self.settled.count_above())
    }

    /// Notes that a message of the snapshot was delivered.
    pub(in crate::node) fn snapshot_sent(&mut self) {
        self.flight.spend_credit();
    }

    /// Notes that the end of the snapshot was delivered, which may be acknowledged from now on.
    pub(in crate::node) fn snapshot_ended(&mut self, revision: u64) {
        self.flight.end_snapshot(revision);
    }

    /// Notes that the source has no more events before `next_index`. If nothing is in flight, everything
    /// before it is settled.
    pub(in crate::node) fn caught_up(&mut self, next_index: u64, now: Millis) {
        self.flight.pass(next_index);
        self.settle_passed_over(now);
    }

    /// Time of the next redelivery, if there is a credit for it.
    pub(in crate::node) fn redelivery_at(&self) -> Option<Duration> {
        self.flight.redelivery_at()
    }

    /// Takes an acknowledgement of the present consumer. Returns the number of entries in flight that it
    /// settles. A repeated acknowledgement has no effect, but counts where an entry has several events: such
    /// an entry is settled when it was acknowledged as often as it has events, or whole.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing is acknowledged.
    pub(in crate::node) fn acknowledge(
        &mut self,
        acknowledged: &Acknowledged,
        now: Millis,
    ) -> Result<usize, NotDelivered> {
        self.check(acknowledged)?;
        let is_whole = acknowledged.whole_entries;
        let next_index = acknowledged.next_index.map(|next| match next.checked_sub(1) {
            Some(last) if !is_whole && !self.flight.count_part(last) => last,
            _ => next,
        });
        let mut events = next_index.map_or(0, |next| self.flight.land_before(next));
        let mut landed = acknowledged.indexes.clone();
        landed.retain(|index| {
            (is_whole || self.flight.count_part(*index)) && self.flight.land(*index)
        });
        events += landed.len();
        // An acknowledgement beyond the snapshot includes it.
        let snapshot = self.flight.snapshot_revision().is_some_and(|revision| {
            acknowledged.snapshot || acknowledged.next_index.is_some_and(|next| next >= revision)
        });
        let whole_entries = true;
        let landed = Acknowledged { next_index, indexes: landed, whole_entries, snapshot };
        self.settle(&landed, events, now);
        self.settle_passed_over(now);
        Ok(events)
    }

    /// Gives up an event in flight: it is settled as a dead letter. An event that is not in flight is not
    /// changed. Returns whether it was in flight.
    pub(in crate::node) fn give_up(&mut self, failed: FailedDelivery, now: Millis) -> bool {
        if !self.flight.land(failed.index) {
            return false;
        }
        self.fail(failed);
        self.settle_passed_over(now);
        true
    }

    /// Notes that dead letters were delivered after all; other events are not changed.
    /// `is_dead_letter` tells whether the ledger has an index as given up.
    pub(super) fn redelivered(
        &mut self,
        indexes: &[u64],
        now: Millis,
        is_dead_letter: impl Fn(u64) -> bool,
    ) {
        let mut events = 0;
        for &index in indexes.iter().filter(|index| self.settled.contains(**index)) {
            events += usize::from(self.unrecorded.redelivered(index, &is_dead_letter));
        }
        if events > 0 {
            self.unrecorded.note(events, now);
        }
    }

    /// Settles acknowledged indexes, delivered or not.
    pub(super) fn settle(&mut self, acknowledged: &Acknowledged, events: usize, now: Millis) {
        let mut is_new = false;
        for &index in &acknowledged.indexes {
            is_new |= self.settle_range(index..index.saturating_add(1));
        }
        is_new |= self.settle_range(0..acknowledged.next_index.unwrap_or(0));
        if acknowledged.snapshot && self.snapshot_pending {
            self.snapshot_pending = false;
            self.unrecorded.acknowledge_snapshot();
            is_new = true;
        }
        if is_new {
            self.unrecorded.note(events, now);
        }
    }

    /// Settles an event as given up, delivered or not, unless it is settled already.
    pub(super) fn fail(&mut self, failed: FailedDelivery) {
        let range = failed.index..failed.index.saturating_add(1);
        if !self.settled.insert(range).is_empty() {
            self.unrecorded.fail(failed);
        }
    }

    /// Checks that every acknowledged index was delivered to the present consumer, or is settled.
    fn check(&self, acknowledged: &Acknowledged) -> Result<(), NotDelivered> {
        let delivered = self.flight.delivered().max(self.settled.next());
        let refused = |index| Err(NotDelivered { index, delivered });
        if let Some(next) = acknowledged.next_index.filter(|next| *next > delivered) {
            return refused(next);
        }
        let is_known = |index: &u64| self.flight.contains(*index) || self.settled.contains(*index);
        if let Some(index) = acknowledged.indexes.iter().find(|index| !is_known(index)) {
            return refused(*index);
        }
        let is_sending = self.snapshot_pending && self.flight.snapshot_revision().is_none();
        if acknowledged.snapshot && is_sending {
            return refused(delivered);
        }
        Ok(())
    }

    /// Settles everything before the oldest event in flight: delivered events there are settled, and the
    /// other indexes do not concern this shard. So there are few ranges beyond it.
    fn settle_passed_over(&mut self, now: Millis) {
        if self.settle_range(0..self.flight.oldest().unwrap_or(self.flight.delivered())) {
            self.unrecorded.note(0, now);
        }
    }

    /// Settles a range. Returns whether any index of it is new.
    fn settle_range(&mut self, range: Range<u64>) -> bool {
        let new = self.settled.insert(range);
        let is_new = !new.is_empty();
        new.into_iter().for_each(|range| self.unrecorded.acknowledge(range));
        is_new
    }
}

impl<T: Clone> Account<T> {
    /// Delivers an event for the first time, unless it is settled. Only with room, and in ascending
    /// order. `parts` is how many messages it has.
    pub(in crate::node) fn deliver(
        &mut self,
        index: u64,
        parts: usize,
        event: T,
        now: Duration,
    ) -> Option<Sent<T>> {
        debug_assert!(index >= self.flight.delivered(), "events come in order, each once");
        self.flight.pass(index + 1);
        (!self.settled.contains(index)).then(|| self.flight.send(index, parts, event, now))
    }

    /// Redelivers the event that is due first, if one is due.
    pub(in crate::node) fn redeliver(&mut self, now: Duration) -> Option<Sent<T>> {
        self.flight.redeliver(now)
    }
}

#[cfg(test)]
mod tests;
