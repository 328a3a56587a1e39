//! One consumer's hearing of one shard, as plain arithmetic: no clock, no ledger, no stream.
//!
//! Time is an argument, counted from the session's beginning. What is true after every step:
//! * A first delivery lies beyond every first delivery before it.
//! * An event that was offered is in flight until it is settled, and is delivered again from there.
//! * Nothing is settled that was neither delivered here, nor settled before, nor passed over by the
//!   source: what is acknowledged is never ahead of what was told.
//! * What is refused changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{domain::Settled, node::Acknowledged};

use super::{CREDITS_MAX, ConsumeError, IN_FLIGHT_MAX};

/// What one consumer has been told and has acknowledged; `T` is an event.
#[derive(Debug)]
pub(super) struct Session<T> {
    /// What was settled before this session, and in it.
    settled: Settled,
    /// Everything before it was delivered, was settled before, or does not concern the consumer.
    told: u64,
    credits: u32,
    redeliver_after: Option<Duration>,
    in_flight: BTreeMap<u64, InFlight<T>>,
    /// When which event in flight is to be delivered again.
    due: BTreeSet<(Duration, u64)>,
    snapshot: Snapshot,
}

#[derive(Debug)]
struct InFlight<T> {
    event: T,
    attempt: u32,
    /// None means never again.
    due: Option<Duration>,
}

/// How far the snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    /// There is none, or it was acknowledged.
    Settled,
    /// It is being told.
    Telling,
    /// It was told to its end, as of this revision.
    Told(u64),
}

/// An event as it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delivered<T> {
    pub(super) event: T,
    /// How often it was delivered in this session, counted from 1.
    pub(super) attempt: u32,
}

impl<T: Clone> Session<T> {
    /// A session that begins where others have come to.
    pub(super) fn new(
        settled: Settled,
        snapshot_pending: bool,
        credits: u32,
        redeliver_after: Option<Duration>,
    ) -> Self {
        Self {
            told: settled.next(),
            settled,
            credits: credits.min(CREDITS_MAX),
            redeliver_after,
            in_flight: BTreeMap::new(),
            due: BTreeSet::new(),
            snapshot: if snapshot_pending { Snapshot::Telling } else { Snapshot::Settled },
        }
    }

    /// The first index that is not settled: where another session would begin.
    pub(super) fn next_index(&self) -> u64 {
        self.settled.next()
    }

    /// Lets more messages come; what is beyond [`CREDITS_MAX`] is not given.
    pub(super) fn credit(&mut self, more: u32) {
        self.credits = self.credits.saturating_add(more).min(CREDITS_MAX);
    }

    /// Whether anything new may be delivered: there is a credit, and the events from the oldest
    /// that is not settled are not too many to keep. With nothing in flight there is always room
    /// for one, so that a session can never stand still by itself.
    pub(super) fn has_room(&self) -> bool {
        let kept = self.in_flight.len() + self.settled.count_above();
        self.credits > 0 && (self.in_flight.is_empty() || kept < IN_FLIGHT_MAX)
    }

    /// Delivers an event for the first time, unless it is settled. To be asked only with room, and
    /// in ascending order.
    pub(super) fn offer(&mut self, index: u64, event: T, now: Duration) -> Option<Delivered<T>> {
        debug_assert!(index >= self.told, "events come in order, each once");
        self.told = self.told.max(index + 1);
        if self.settled.contains(index) {
            return None;
        }
        self.credits = self.credits.saturating_sub(1);
        let due = self.schedule(index, now);
        let delivered = Delivered { event: event.clone(), attempt: 1 };
        self.in_flight.insert(index, InFlight { event, attempt: 1, due });
        Some(delivered)
    }

    /// Takes the credit of a message of the snapshot.
    pub(super) fn snapshot_told(&mut self) {
        self.credits = self.credits.saturating_sub(1);
    }

    /// Takes the credit of a snapshot's end, which may be acknowledged from now on.
    pub(super) fn snapshot_ended(&mut self, revision: u64) {
        self.snapshot_told();
        self.snapshot = Snapshot::Told(revision);
    }

    /// Takes note that no event before `next_index` is still to come. If nothing is in flight, all
    /// of it is settled: answers what is newly so.
    pub(super) fn caught_up(&mut self, next_index: u64) -> Option<Acknowledged> {
        self.told = self.told.max(next_index);
        let before = self.settled.next();
        self.settle_passed_over();
        self.moved_from(before)
    }

    /// The moment from which something can be delivered again, if there is a credit for it.
    pub(super) fn redelivery_at(&self) -> Option<Duration> {
        self.due.first().filter(|_| self.credits > 0).map(|(due, _)| *due)
    }

    /// Delivers the event again whose time came first, if it has come.
    pub(super) fn redeliver(&mut self, now: Duration) -> Option<Delivered<T>> {
        let (due, index) = *self.due.first().filter(|(due, _)| *due <= now)?;
        if self.credits == 0 {
            return None;
        }
        self.credits -= 1;
        self.due.remove(&(due, index));
        let again = self.schedule(index, now);
        let own = self.in_flight.get_mut(&index)?;
        own.due = again;
        own.attempt = own.attempt.saturating_add(1);
        Some(Delivered { event: own.event.clone(), attempt: own.attempt })
    }

    /// Takes an acknowledgement, and answers what is newly settled by it; none if nothing is.
    ///
    /// # Errors
    /// [`ConsumeError::AckNotDelivered`]; then nothing was taken.
    pub(super) fn acknowledge(
        &mut self,
        what: Acknowledged,
    ) -> Result<Option<Acknowledged>, ConsumeError> {
        self.check(&what)?;
        let snapshot = match self.snapshot {
            Snapshot::Told(revision) => {
                what.snapshot || what.next_index.is_some_and(|next| next >= revision)
            }
            Snapshot::Settled | Snapshot::Telling => false,
        };
        if snapshot {
            self.snapshot = Snapshot::Settled;
        }
        let before = self.settled.next();
        let mut events = 0;
        if let Some(next) = what.next_index {
            while let Some(index) = self.in_flight.keys().next().copied().filter(|own| *own < next)
            {
                events += usize::from(self.land(index));
            }
            self.settled.insert(0..next);
        }
        let mut indexes = Vec::new();
        for index in what.indexes {
            if self.land(index) {
                events += 1;
                indexes.push(index);
                self.settled.insert(index..index + 1);
            }
        }
        self.settle_passed_over();
        let next = self.settled.next();
        indexes.retain(|index| *index >= next);
        let next_index = (next > before).then_some(next);
        let changed = next_index.is_some() || !indexes.is_empty() || snapshot;
        Ok(changed.then_some(Acknowledged { next_index, indexes, events, snapshot }))
    }

    /// Settles an event that is given up, if it is in flight, and answers what is passed over with
    /// it.
    pub(super) fn give_up(&mut self, index: u64) -> Option<Option<Acknowledged>> {
        if !self.land(index) {
            return None;
        }
        self.settled.insert(index..index + 1);
        let before = self.settled.next();
        self.settle_passed_over();
        Some(self.moved_from(before))
    }

    /// Whether all of it was delivered here, or is settled.
    fn check(&self, what: &Acknowledged) -> Result<(), ConsumeError> {
        let delivered = self.told.max(self.settled.next());
        let refused = |index| Err(ConsumeError::AckNotDelivered { index, delivered });
        if let Some(next) = what.next_index
            && next > delivered
        {
            return refused(next);
        }
        let is_known = |own: &u64| self.in_flight.contains_key(own) || self.settled.contains(*own);
        if let Some(index) = what.indexes.iter().find(|own| !is_known(own)) {
            return refused(*index);
        }
        if what.snapshot && self.snapshot == Snapshot::Telling {
            return refused(delivered);
        }
        Ok(())
    }

    /// When an event that is delivered now is delivered again.
    fn schedule(&mut self, index: u64, now: Duration) -> Option<Duration> {
        let due = now.saturating_add(self.redeliver_after?);
        self.due.insert((due, index));
        Some(due)
    }

    /// Takes an event out of flight; answers whether it was there.
    fn land(&mut self, index: u64) -> bool {
        let Some(own) = self.in_flight.remove(&index) else { return false };
        if let Some(due) = own.due {
            self.due.remove(&(due, index));
        }
        true
    }

    /// Settles what lies before the oldest event in flight: all that was of it is settled, and the
    /// rest does not concern this consumer. So the ranges beyond it stay few.
    fn settle_passed_over(&mut self) {
        let oldest = self.in_flight.keys().next().copied();
        self.settled.insert(0..oldest.unwrap_or(self.told));
    }

    fn moved_from(&self, before: u64) -> Option<Acknowledged> {
        let next = self.settled.next();
        (next > before).then(|| Acknowledged { next_index: Some(next), ..Acknowledged::default() })
    }
}

#[cfg(test)]
mod tests;
