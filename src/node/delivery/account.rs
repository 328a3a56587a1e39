//! The account of one shard: what was delivered, what is acknowledged, and what of that no entry says
//! yet. Plain arithmetic: no clock, no ledger, no stream.
//!
//! After every step:
//! * Nothing is settled that was neither delivered, nor settled before, nor passed over by the source:
//!   acknowledgements are never ahead of what was delivered.
//! * No event in flight is settled.
//! * What is settled is on record, or is being written, or is in [`Unrecorded`]. An entry says of each
//!   index once what became of it, but for a dead letter that was delivered after all.
//! * An acknowledgement that is refused changes nothing.
//!
//! An account is made from what the view has on record, and is kept while its subscription lasts. So
//! it outlives consumers: who takes over begins with what is not settled.

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
    /// Acknowledged or given up.
    settled: Settled,
    /// Whether the snapshot is still to be acknowledged.
    snapshot_pending: bool,
    /// Delivered to the present consumer, and not acknowledged.
    flight: Flight<T>,
    /// Settled, and neither on record nor being written.
    pub(super) unrecorded: Unrecorded,
    /// How far the ledger was looked through for what this shard must hear.
    pub(super) place: Place,
    /// The last time that the shard was said to be overdue, if it has recovered from that since.
    pub(super) recovered: Option<Overdue>,
}

/// An acknowledgement of something that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct NotDelivered {
    /// What was acknowledged.
    pub index: u64,
    /// What was delivered lies before.
    pub delivered: u64,
}

impl<T> Account<T> {
    /// As the entries of the ledger have it.
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

    /// Begins to deliver to a consumer: nothing is in flight.
    pub(in crate::node) fn begin(&mut self, credits: u32, redeliver_after: Option<Duration>) {
        self.flight = Flight::new(self.settled.next(), credits, redeliver_after);
    }

    /// Ends delivery to a consumer that leaves: what was in flight is delivered to the next one.
    pub(in crate::node) fn leave(&mut self) {
        self.begin(0, None);
    }

    /// What is acknowledged or given up.
    pub(in crate::node) fn settled(&self) -> &Settled {
        &self.settled
    }

    /// Whether the snapshot is still to be acknowledged.
    pub(in crate::node) fn snapshot_pending(&self) -> bool {
        self.snapshot_pending
    }

    /// Lets more messages come.
    pub(in crate::node) fn credit(&mut self, more: u32) {
        self.flight.credit(more);
    }

    /// Whether anything new may be delivered.
    pub(in crate::node) fn has_room(&self) -> bool {
        self.flight.has_room(self.settled.count_above())
    }

    /// Notes a message of the snapshot.
    pub(in crate::node) fn snapshot_sent(&mut self) {
        self.flight.spend_credit();
    }

    /// Notes a snapshot's end, which may be acknowledged from now on.
    pub(in crate::node) fn snapshot_ended(&mut self, revision: u64) {
        self.flight.end_snapshot(revision);
    }

    /// Notes that no event before `next_index` is still to come. If nothing is in flight, all of it is
    /// settled.
    pub(in crate::node) fn caught_up(&mut self, next_index: u64, now: Millis) {
        self.flight.pass(next_index);
        if self.settle_passed_over() {
            self.unrecorded.note(0, now);
        }
    }

    /// The moment from which something can be delivered again, if there is a credit for it.
    pub(in crate::node) fn redelivery_at(&self) -> Option<Duration> {
        self.flight.redelivery_at()
    }

    /// Takes an acknowledgement by the present consumer, and answers how many events in flight it
    /// settles. To acknowledge again is nothing new.
    ///
    /// # Errors
    /// [`NotDelivered`]; then nothing was taken.
    pub(in crate::node) fn acknowledge(
        &mut self,
        acknowledged: &Acknowledged,
        now: Millis,
    ) -> Result<usize, NotDelivered> {
        self.check(acknowledged)?;
        let mut events = acknowledged.next_index.map_or(0, |next| self.flight.land_before(next));
        let mut landed = acknowledged.indexes.clone();
        landed.retain(|index| self.flight.land(*index));
        events += landed.len();
        // Who acknowledges beyond the snapshot has dealt with it.
        let snapshot = self.flight.snapshot_revision().is_some_and(|revision| {
            acknowledged.snapshot || acknowledged.next_index.is_some_and(|next| next >= revision)
        });
        let next_index = acknowledged.next_index;
        self.settle(&Acknowledged { next_index, indexes: landed, snapshot }, events, now);
        if self.settle_passed_over() {
            self.unrecorded.note(0, now);
        }
        Ok(events)
    }

    /// Gives up an event in flight: it is settled, and will be a dead letter. One that is not in
    /// flight stays as it is. Answers whether it was.
    pub(in crate::node) fn give_up(&mut self, failed: FailedDelivery, now: Millis) -> bool {
        if !self.flight.land(failed.index) {
            return false;
        }
        self.fail(failed);
        if self.settle_passed_over() {
            self.unrecorded.note(0, now);
        }
        true
    }

    /// Notes that dead letters were delivered after all. `is_dead_letter` says of an index that is on
    /// record whether it was given up; what is no dead letter stays as it is.
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

    /// Settles what is acknowledged, whether it was delivered or not.
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

    /// Settles an event that is given up, whether it was delivered or not, unless it is settled.
    pub(super) fn fail(&mut self, failed: FailedDelivery) {
        let range = failed.index..failed.index.saturating_add(1);
        if !self.settled.insert(range).is_empty() {
            self.unrecorded.fail(failed);
        }
    }

    /// Whether all of it was delivered to the present consumer, or is settled.
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

    /// Settles what lies before the oldest event in flight: all that was delivered of it is settled,
    /// and the rest does not concern this shard. So the ranges beyond it stay few.
    fn settle_passed_over(&mut self) -> bool {
        self.settle_range(0..self.flight.oldest().unwrap_or(self.flight.delivered()))
    }

    /// Answers whether any of it is new.
    fn settle_range(&mut self, range: Range<u64>) -> bool {
        let new = self.settled.insert(range);
        let is_new = !new.is_empty();
        new.into_iter().for_each(|range| self.unrecorded.acknowledge(range));
        is_new
    }
}

impl<T: Clone> Account<T> {
    /// Delivers an event for the first time, unless it is settled. To be asked only with room, and in
    /// ascending order.
    pub(in crate::node) fn deliver(
        &mut self,
        index: u64,
        event: T,
        now: Duration,
    ) -> Option<Sent<T>> {
        debug_assert!(index >= self.flight.delivered(), "events come in order, each once");
        self.flight.pass(index + 1);
        (!self.settled.contains(index)).then(|| self.flight.send(index, event, now))
    }

    /// Delivers the event again whose time came first, if it has come.
    pub(in crate::node) fn redeliver(&mut self, now: Duration) -> Option<Sent<T>> {
        self.flight.redeliver(now)
    }
}

#[cfg(test)]
mod tests;
