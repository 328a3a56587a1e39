//! The deliveries to the present consumer of a shard: credits, events in flight, redelivery.
//!
//! Time is an argument, counted from the start of the consumer. After every step:
//! * A first delivery has a greater index than every first delivery before it.
//! * A delivered event is in flight until it [lands](Flight::land), and redelivery takes it from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::node::consume::{CREDITS_MAX, IN_FLIGHT_MAX};

/// The deliveries to one consumer; `T` is an event.
#[derive(Debug)]
pub(super) struct Flight<T> {
    /// Every event before it was delivered, was settled before, or does not concern the consumer.
    delivered: u64,
    /// Negative while the events of an entry took more than there were: they are delivered together.
    credits: i64,
    redeliver_after: Option<Duration>,
    in_flight: BTreeMap<u64, InFlight<T>>,
    /// The events in flight by the time of their redelivery.
    due: BTreeSet<(Duration, u64)>,
    /// The revision of the snapshot, once all of it was delivered.
    snapshot_revision: Option<u64>,
}

#[derive(Debug)]
struct InFlight<T> {
    event: T,
    attempt: u32,
    /// How many messages it has, and how many of them are not acknowledged since the last delivery.
    parts: usize,
    open: usize,
    /// When it is delivered again; none means never.
    due: Option<Duration>,
}

/// A delivery of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) struct Sent<T> {
    pub event: T,
    /// Number of deliveries to this consumer, counted from 1.
    pub attempt: u32,
}

impl<T> Flight<T> {
    /// For a consumer that begins at `next_index`. Credits are limited to [`CREDITS_MAX`].
    pub(super) fn new(next_index: u64, credits: u32, redeliver_after: Option<Duration>) -> Self {
        Self {
            delivered: next_index,
            credits: credits.min(CREDITS_MAX).into(),
            redeliver_after,
            in_flight: BTreeMap::new(),
            due: BTreeSet::new(),
            snapshot_revision: None,
        }
    }

    /// Adds credits, up to [`CREDITS_MAX`].
    pub(super) fn credit(&mut self, more: u32) {
        self.credits = self.credits.saturating_add(more.into()).min(CREDITS_MAX.into());
    }

    /// Whether a new message may be delivered: there is a credit, and the events in flight and the
    /// `ranges` acknowledged between them are below the limit. With nothing in flight there is always
    /// room for one event, so that a consumer never stalls by itself.
    pub(super) fn has_room(&self, ranges: usize) -> bool {
        let kept = self.in_flight.len() + ranges;
        self.credits > 0 && (self.in_flight.is_empty() || kept < IN_FLIGHT_MAX)
    }

    /// Every event before it was delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Notes that there is no first delivery left before `next_index`.
    pub(super) fn pass(&mut self, next_index: u64) {
        self.delivered = self.delivered.max(next_index);
    }

    /// Spends one credit.
    pub(super) fn spend_credit(&mut self) {
        self.spend_credits(1);
    }

    fn spend_credits(&mut self, count: usize) {
        self.credits = self.credits.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Spends a credit for the end of a snapshot, which may be acknowledged from now on.
    pub(super) fn end_snapshot(&mut self, revision: u64) {
        self.spend_credit();
        self.snapshot_revision = Some(revision);
    }

    /// The revision of the snapshot, once all of it was delivered.
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

    /// Time of the next redelivery, if there is a credit for it.
    pub(super) fn redelivery_at(&self) -> Option<Duration> {
        self.due.first().filter(|_| self.credits > 0).map(|(due, _)| *due)
    }

    /// Counts an acknowledgement of one message of an event. Returns whether no message of it is left to
    /// acknowledge. True for an event that is not in flight.
    pub(super) fn count_part(&mut self, index: u64) -> bool {
        let Some(in_flight) = self.in_flight.get_mut(&index) else { return true };
        in_flight.open = in_flight.open.saturating_sub(1);
        in_flight.open == 0
    }

    /// Takes an event out of flight. Returns whether it was in flight.
    pub(super) fn land(&mut self, index: u64) -> bool {
        let Some(landed) = self.in_flight.remove(&index) else { return false };
        if let Some(due) = landed.due {
            self.due.remove(&(due, index));
        }
        true
    }

    /// Takes all events before an index out of flight. Returns their number.
    pub(super) fn land_before(&mut self, next_index: u64) -> usize {
        let mut count = 0;
        while let Some(index) = self.oldest().filter(|index| *index < next_index) {
            count += usize::from(self.land(index));
        }
        count
    }

    /// Schedules the redelivery of an event that is delivered now.
    fn schedule(&mut self, index: u64, now: Duration) -> Option<Duration> {
        let due = now.saturating_add(self.redeliver_after?);
        self.due.insert((due, index));
        Some(due)
    }
}

impl<T: Clone> Flight<T> {
    /// Delivers an event for the first time.
    pub(super) fn send(&mut self, index: u64, parts: usize, event: T, now: Duration) -> Sent<T> {
        self.spend_credits(parts);
        let due = self.schedule(index, now);
        let sent = Sent { event: event.clone(), attempt: 1 };
        let in_flight = InFlight { event, attempt: 1, parts, open: parts, due };
        self.in_flight.insert(index, in_flight);
        sent
    }

    /// Redelivers the event that is due first, if one is due.
    pub(super) fn redeliver(&mut self, now: Duration) -> Option<Sent<T>> {
        let (due, index) = *self.due.first().filter(|(due, _)| *due <= now)?;
        if self.credits <= 0 {
            return None;
        }
        self.due.remove(&(due, index));
        let due = self.schedule(index, now);
        let in_flight = self.in_flight.get_mut(&index)?;
        in_flight.due = due;
        in_flight.attempt = in_flight.attempt.saturating_add(1);
        // All of its messages come again.
        in_flight.open = in_flight.parts;
        let sent = Sent { event: in_flight.event.clone(), attempt: in_flight.attempt };
        let parts = in_flight.parts;
        self.spend_credits(parts);
        Some(sent)
    }
}
