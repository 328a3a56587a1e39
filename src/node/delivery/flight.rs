//! What is on its way to the present consumer of a shard: credits, events in flight, redelivery.
//!
//! Time is an argument, counted from the consumer's beginning. After every step:
//! * A first delivery lies beyond every first delivery before it.
//! * An event that was delivered is in flight until it [lands](Flight::land), and is delivered again
//!   from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::node::consume::{CREDITS_MAX, IN_FLIGHT_MAX};

/// What is on its way; `T` is an event.
#[derive(Debug)]
pub(super) struct Flight<T> {
    /// Everything before it was delivered, was settled before, or does not concern the consumer.
    delivered: u64,
    credits: u32,
    redeliver_after: Option<Duration>,
    in_flight: BTreeMap<u64, InFlight<T>>,
    /// When which event in flight is to be delivered again.
    due: BTreeSet<(Duration, u64)>,
    /// The revision of the snapshot, once it was delivered to its end.
    snapshot_revision: Option<u64>,
}

#[derive(Debug)]
struct InFlight<T> {
    event: T,
    attempt: u32,
    /// None means never again.
    due: Option<Duration>,
}

/// An event as it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Sent<T> {
    pub event: T,
    /// How often it was delivered to this consumer, counted from 1.
    pub attempt: u32,
}

impl<T> Flight<T> {
    /// Of a consumer that begins at `next_index`; credits beyond [`CREDITS_MAX`] are not given.
    pub(super) fn new(next_index: u64, credits: u32, redeliver_after: Option<Duration>) -> Self {
        Self {
            delivered: next_index,
            credits: credits.min(CREDITS_MAX),
            redeliver_after,
            in_flight: BTreeMap::new(),
            due: BTreeSet::new(),
            snapshot_revision: None,
        }
    }

    /// Lets more messages come; what is beyond [`CREDITS_MAX`] is not given.
    pub(super) fn credit(&mut self, more: u32) {
        self.credits = self.credits.saturating_add(more).min(CREDITS_MAX);
    }

    /// Whether anything new may be delivered: there is a credit, and the events in flight and the
    /// ranges acknowledged between them are not too many to keep. With nothing in flight there is
    /// always room for one, so that a consumer never stands still by itself.
    pub(super) fn has_room(&self, ranges: usize) -> bool {
        let kept = self.in_flight.len() + ranges;
        self.credits > 0 && (self.in_flight.is_empty() || kept < IN_FLIGHT_MAX)
    }

    /// Everything before it was delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Nothing before `next_index` is still to be delivered for the first time.
    pub(super) fn pass(&mut self, next_index: u64) {
        self.delivered = self.delivered.max(next_index);
    }

    /// Uses the credit of one message.
    pub(super) fn spend_credit(&mut self) {
        self.credits = self.credits.saturating_sub(1);
    }

    /// Uses the credit of the end of a snapshot, which may be acknowledged from now on.
    pub(super) fn end_snapshot(&mut self, revision: u64) {
        self.spend_credit();
        self.snapshot_revision = Some(revision);
    }

    /// The revision of the snapshot, once it was delivered to its end.
    pub(super) fn snapshot_revision(&self) -> Option<u64> {
        self.snapshot_revision
    }

    /// Whether an event is in flight.
    pub(super) fn contains(&self, index: u64) -> bool {
        self.in_flight.contains_key(&index)
    }

    /// The oldest event in flight.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.in_flight.keys().next().copied()
    }

    /// The moment from which something can be delivered again, if there is a credit for it.
    pub(super) fn redelivery_at(&self) -> Option<Duration> {
        self.due.first().filter(|_| self.credits > 0).map(|(due, _)| *due)
    }

    /// Takes an event out of flight; answers whether it was there.
    pub(super) fn land(&mut self, index: u64) -> bool {
        let Some(landed) = self.in_flight.remove(&index) else { return false };
        if let Some(due) = landed.due {
            self.due.remove(&(due, index));
        }
        true
    }

    /// Takes all events before an index out of flight; answers how many there were.
    pub(super) fn land_before(&mut self, next_index: u64) -> usize {
        let mut count = 0;
        while let Some(index) = self.oldest().filter(|index| *index < next_index) {
            count += usize::from(self.land(index));
        }
        count
    }

    /// When an event that is delivered now is delivered again.
    fn schedule(&mut self, index: u64, now: Duration) -> Option<Duration> {
        let due = now.saturating_add(self.redeliver_after?);
        self.due.insert((due, index));
        Some(due)
    }
}

impl<T: Clone> Flight<T> {
    /// Delivers an event for the first time.
    pub(super) fn send(&mut self, index: u64, event: T, now: Duration) -> Sent<T> {
        self.spend_credit();
        let due = self.schedule(index, now);
        let sent = Sent { event: event.clone(), attempt: 1 };
        self.in_flight.insert(index, InFlight { event, attempt: 1, due });
        sent
    }

    /// Delivers the event again whose time came first, if it has come.
    pub(super) fn redeliver(&mut self, now: Duration) -> Option<Sent<T>> {
        let (due, index) = *self.due.first().filter(|(due, _)| *due <= now)?;
        if self.credits == 0 {
            return None;
        }
        self.credits -= 1;
        self.due.remove(&(due, index));
        let again = self.schedule(index, now);
        let event = self.in_flight.get_mut(&index)?;
        event.due = again;
        event.attempt = event.attempt.saturating_add(1);
        Some(Sent { event: event.event.clone(), attempt: event.attempt })
    }
}
