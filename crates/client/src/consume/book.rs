//! The book of one consumer: messages in the caller's hands, acknowledged events, and
//! acknowledgements to send. Pure bookkeeping, across connections.
//!
//! The server accepts acknowledgements only for events that it has sent on the same connection. So
//! an acknowledgement that was made without a connection, or lost with one, is sent when the event
//! comes again, and the caller does not receive the event a second time.
//!
//! An entry that ends grants of several data subjects has an event for each of them. The server is told of
//! the entry once all of them are acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::proto::ConsumeAck;

/// How many acknowledged indexes are remembered in case they come again. Beyond, the smallest are
/// forgotten, and the caller receives their events again.
const ACKED_MAX: usize = 10_000;
/// How many unacknowledged indexes are tracked. Beyond, progress alone is not acknowledged.
const UNACKED_MAX: usize = 10_000;
/// The most indexes of one acknowledgement: the protocol's limit.
const INDEXES_MAX: usize = 10_000;

/// Whether the caller receives a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// Yes.
    GiveOut,
    /// No: the caller holds it, or has acknowledged it.
    Known,
}

#[derive(Debug)]
pub(super) struct Book {
    /// Counts connections.
    session: u64,
    /// The server has accepted the consumer. Before, it accepts nothing else.
    is_in: bool,
    /// Events in the caller's hands, and the connection whose credit each holds.
    held: HashMap<Position, u64>,
    /// Entries with several events, of which not all are acknowledged.
    entries: BTreeMap<u64, OpenEntry>,
    /// Entries of whose events the caller received some and has not acknowledged all.
    unacked: BTreeSet<u64>,
    /// There were more of these than are tracked.
    lost_track: bool,
    /// Acknowledged one by one.
    acked: BTreeSet<u64>,
    /// Everything before it is acknowledged.
    through: u64,
    /// The part of `through` that was acknowledged on this connection.
    through_told: u64,
    /// Everything before it was delivered on this connection.
    delivered: u64,
    /// Acknowledged indexes to send.
    to_tell: BTreeSet<u64>,
    snapshot: SnapshotBook,
    /// Credits to give back, and from how many on.
    returned: u32,
    returned_min: u32,
}

/// Where an event stands: the index of its entry, and its place among the events of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Position {
    pub(super) index: u64,
    pub(super) place: u32,
}

/// An entry with several events.
#[derive(Debug, Default)]
struct OpenEntry {
    /// Places of the events that came and are not acknowledged.
    open: BTreeSet<u32>,
    /// Places of the acknowledged events.
    acked: BTreeSet<u32>,
    /// All of its events came on this connection.
    is_complete: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct SnapshotBook {
    /// One may come, before any event.
    awaited: bool,
    /// Part of one was given out, and it is not acknowledged.
    open: bool,
    /// All of it was dealt with.
    acked: bool,
    /// Its revision, once its end was delivered on this connection.
    end: Option<u64>,
    /// Counts its starts. Handles of an earlier run do not count for the present one.
    run: u64,
    /// How many messages of it the caller holds.
    held: u32,
    /// The caller has received its end.
    ended: bool,
    /// A part of it was dropped without an acknowledgement.
    dropped: bool,
}

/// The message that a handle is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The event at this position.
    Event(Position),
    /// Part of a snapshot, in this run of it.
    Snapshot(u64),
}

impl Book {
    pub(super) fn new(credits: u32) -> Self {
        Self {
            session: 0,
            is_in: false,
            held: HashMap::new(),
            entries: BTreeMap::new(),
            unacked: BTreeSet::new(),
            lost_track: false,
            acked: BTreeSet::new(),
            through: 0,
            through_told: 0,
            delivered: 0,
            to_tell: BTreeSet::new(),
            snapshot: SnapshotBook::default(),
            returned: 0,
            returned_min: (credits / 4).max(1),
        }
    }

    /// The number of the present connection.
    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.is_in = false;
    }

    /// A snapshot that comes now comes from its beginning.
    pub(super) fn snapshot_anew(&mut self) {
        let SnapshotBook { awaited, open, acked, end, run, .. } = self.snapshot;
        let run = run + 1;
        self.snapshot = SnapshotBook { awaited, open, acked, end, run, ..SnapshotBook::default() };
    }

    /// A new connection, with all credits unused.
    pub(super) fn connected(&mut self, next_index: u64, has_snapshot: bool) {
        self.session += 1;
        self.is_in = true;
        self.returned = 0;
        self.to_tell.clear();
        self.delivered = next_index;
        self.through_told = next_index;
        // Acknowledgements that the server has recorded are forgotten here.
        self.acked = self.acked.split_off(&next_index);
        self.entries = self.entries.split_off(&next_index);
        // The events of the others come again. Those that the caller dropped are expected anew.
        for (index, entry) in &mut self.entries {
            entry.is_complete = false;
            entry
                .open
                .retain(|place| self.held.contains_key(&Position { index: *index, place: *place }));
        }
        self.snapshot.end = None;
        // Events come after a snapshot: after the first event there is no snapshot to wait for.
        let had_events = self.through > 0 || !self.acked.is_empty() || !self.unacked.is_empty();
        if has_snapshot && self.session == 1 && !had_events {
            self.snapshot.awaited = true;
        }
    }

    /// An event came. `more` says that others of its entry follow.
    pub(super) fn event(&mut self, position: Position, more: bool) -> Take {
        let Position { index, place } = position;
        self.snapshot.awaited = false;
        self.delivered = self.delivered.max(index.saturating_add(1));
        if index < self.through || self.acked.contains(&index) {
            self.to_tell.insert(index);
            self.returned += 1;
            return Take::Known;
        }
        if more {
            self.entries.entry(index).or_default();
        }
        if let Some(entry) = self.entries.get_mut(&index) {
            entry.is_complete |= !more;
            if entry.acked.contains(&place) {
                self.returned += 1;
                self.end_entry(index);
                return Take::Known;
            }
            entry.open.insert(place);
        }
        match self.held.insert(position, self.session) {
            None => {
                self.follow(index);
                Take::GiveOut
            }
            // It holds a credit of this connection already.
            Some(session) if session == self.session => {
                self.returned += 1;
                Take::Known
            }
            Some(_) => Take::Known,
        }
    }

    fn follow(&mut self, index: u64) {
        if self.unacked.len() < UNACKED_MAX {
            self.unacked.insert(index);
        } else {
            self.lost_track = true;
        }
    }

    /// A data subject of a snapshot came.
    pub(super) fn snapshot_subject(&mut self) -> Take {
        if self.snapshot.acked {
            self.returned += 1;
            return Take::Known;
        }
        self.snapshot.open = true;
        self.snapshot.held += 1;
        Take::GiveOut
    }

    /// The part that a message of a snapshot is.
    pub(super) fn snapshot_part(&self) -> Part {
        Part::Snapshot(self.snapshot.run)
    }

    /// A snapshot is complete.
    pub(super) fn snapshot_end(&mut self, revision: u64) -> Take {
        self.delivered = self.delivered.max(revision);
        self.snapshot.end = Some(revision);
        // It may come again on the next connection, and wants nothing more than the first time.
        if self.snapshot.acked || self.snapshot.ended {
            self.returned += 1;
            return Take::Known;
        }
        self.snapshot.open = true;
        self.snapshot.ended = true;
        self.snapshot.held += 1;
        Take::GiveOut
    }

    /// Whether the snapshot must begin anew: a part of it was dropped, and all of it was given out.
    pub(super) fn wants_snapshot_anew(&self) -> bool {
        let SnapshotBook { ended, dropped, held, acked, .. } = self.snapshot;
        ended && dropped && held == 0 && !acked
    }

    /// Everything before `next_index` was delivered, or does not pass the filter. If all delivered
    /// events are acknowledged, so is everything before `next_index`.
    pub(super) fn progress(&mut self, next_index: u64) {
        self.delivered = self.delivered.max(next_index);
        let snapshot_settled = !self.snapshot.open && !self.snapshot.awaited;
        if self.unacked.is_empty() && !self.lost_track && snapshot_settled {
            self.through = self.through.max(next_index);
        }
    }

    pub(super) fn ack(&mut self, Position { index, place }: Position) {
        match self.entries.get_mut(&index) {
            Some(entry) => {
                entry.open.remove(&place);
                entry.acked.insert(place);
                self.end_entry(index);
            }
            None => self.ack_entry(index),
        }
    }

    /// Acknowledges an entry with several events, if all of them came and are acknowledged.
    fn end_entry(&mut self, index: u64) {
        let entry = self.entries.get(&index);
        if entry.is_some_and(|entry| entry.is_complete && entry.open.is_empty()) {
            self.entries.remove(&index);
            self.ack_entry(index);
        }
    }

    fn ack_entry(&mut self, index: u64) {
        self.unacked.remove(&index);
        self.to_tell.insert(index);
        self.acked.insert(index);
        if self.acked.len() > ACKED_MAX {
            self.acked.pop_first();
        }
    }

    pub(super) fn ack_through(&mut self, Position { index, place }: Position) {
        let before: Vec<u32> = self
            .entries
            .get(&index)
            .map_or_else(Vec::new, |entry| entry.open.range(..=place).copied().collect());
        for place in before {
            self.ack(Position { index, place });
        }
        // The other events of its entry are still to be acknowledged.
        let is_open = self.entries.contains_key(&index);
        let next = if is_open { index } else { index.saturating_add(1) };
        self.entries = self.entries.split_off(&next);
        self.unacked = self.unacked.split_off(&next);
        self.acked = self.acked.split_off(&next);
        self.through = self.through.max(next);
        // The server counts it for the snapshot, too.
        if self.snapshot.end.is_some_and(|revision| revision <= next) {
            self.snapshot =
                SnapshotBook { awaited: false, open: false, acked: true, ..self.snapshot };
        }
    }

    /// The caller dropped a handle, acknowledged or not. Its credit is free, if it is one of this
    /// connection.
    pub(super) fn release(&mut self, part: Part, session: u64, is_acked: bool) {
        let session_of_credit = match part {
            Part::Event(position) => self.held.remove(&position),
            Part::Snapshot(run) => {
                if run == self.snapshot.run {
                    self.release_snapshot(is_acked);
                }
                Some(session)
            }
        };
        if session_of_credit == Some(self.session) {
            self.returned += 1;
        }
    }

    /// The snapshot is acknowledged by its end; so that waits for all the rest.
    fn release_snapshot(&mut self, is_acked: bool) {
        let snapshot = &mut self.snapshot;
        snapshot.held = snapshot.held.saturating_sub(1);
        snapshot.dropped |= !is_acked;
        if snapshot.ended && snapshot.held == 0 && !snapshot.dropped {
            *snapshot = SnapshotBook { awaited: false, open: false, acked: true, ..*snapshot };
        }
    }

    /// The next acknowledgement to send on this connection. Call it until it returns none.
    pub(super) fn take_ack(&mut self) -> Option<ConsumeAck> {
        if !self.is_in {
            return None;
        }
        let through = self.through.min(self.delivered);
        let snapshot = self.snapshot.end.take_if(|_| self.snapshot.acked);
        let next_index = Some(through).filter(|through| *through > self.through_told).max(snapshot);
        self.through_told = self.through_told.max(next_index.unwrap_or(0));
        // The server refuses indexes that it has not sent on this connection; they wait until it
        // does.
        let undelivered = self.to_tell.split_off(&self.delivered);
        let mut tell = std::mem::replace(&mut self.to_tell, undelivered);
        tell = tell.split_off(&self.through_told);
        let indexes: Vec<u64> = tell.iter().copied().take(INDEXES_MAX).collect();
        self.to_tell.extend(tell.into_iter().skip(INDEXES_MAX));
        let whole_entries = true;
        let ack = ConsumeAck { next_index, indexes, whole_entries };
        (next_index.is_some() || !ack.indexes.is_empty()).then_some(ack)
    }

    /// Credits to give, if enough have gathered.
    pub(super) fn take_credits(&mut self) -> Option<u32> {
        (self.is_in && self.returned >= self.returned_min)
            .then(|| std::mem::take(&mut self.returned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected(credits: u32, next_index: u64) -> Book {
        let mut book = Book::new(credits);
        book.connected(next_index, false);
        book
    }

    fn ack(next_index: Option<u64>, indexes: &[u64]) -> Option<ConsumeAck> {
        Some(ConsumeAck { next_index, indexes: indexes.to_vec(), whole_entries: true })
    }

    fn at(index: u64) -> Position {
        Position { index, place: 0 }
    }

    /// The caller acknowledges an event and drops its handle.
    fn deal_with(book: &mut Book, index: u64) {
        book.ack(at(index));
        let session = book.session();
        book.release(Part::Event(at(index)), session, true);
    }

    #[test]
    fn single_and_cumulative_acknowledgements_are_told_once() {
        let mut book = connected(8, 3);
        for index in [3, 5, 9] {
            assert_eq!(book.event(at(index), false), Take::GiveOut);
        }
        deal_with(&mut book, 9);
        deal_with(&mut book, 3);
        assert_eq!(book.take_ack(), ack(None, &[3, 9]));
        assert_eq!(book.take_ack(), None);
        book.ack_through(at(5));
        book.release(Part::Event(at(5)), 1, true);
        assert_eq!(book.take_ack(), ack(Some(6), &[]));
        assert_eq!(book.take_credits(), Some(3));
        assert_eq!(book.take_credits(), None);
    }

    #[test]
    fn what_is_held_or_dealt_with_is_not_given_out_again_on_the_next_connection() {
        let mut book = connected(4, 0);
        for index in [1, 2, 3] {
            assert_eq!(book.event(at(index), false), Take::GiveOut);
        }
        deal_with(&mut book, 2);
        // The acknowledgement is lost with the connection.
        book.disconnected();
        assert_eq!((book.take_ack(), book.take_credits()), (None, None));
        book.connected(0, false);
        assert_eq!(book.take_ack(), None, "nothing was delivered here yet");
        deal_with(&mut book, 3);
        assert_eq!(book.take_ack(), None);
        assert_eq!(book.event(at(1), false), Take::Known, "it is in the caller's hands");
        assert_eq!(book.event(at(2), false), Take::Known, "it was dealt with");
        assert_eq!(book.take_ack(), ack(None, &[2]));
        assert_eq!(book.event(at(3), false), Take::Known);
        assert_eq!(book.take_ack(), ack(None, &[3]));
        assert_eq!(book.take_credits(), Some(2), "1 holds the third");
        deal_with(&mut book, 1);
        assert_eq!(book.take_ack(), ack(None, &[1]));
        assert_eq!(book.take_credits(), Some(1));
        assert_eq!(book.event(at(4), false), Take::GiveOut);
    }

    #[test]
    fn what_was_dropped_comes_again() {
        let mut book = connected(1, 0);
        assert_eq!(book.event(at(1), false), Take::GiveOut);
        book.release(Part::Event(at(1)), 1, false);
        assert_eq!((book.take_ack(), book.take_credits()), (None, Some(1)));
        assert_eq!(book.event(at(1), false), Take::GiveOut);
        assert_eq!(book.event(at(1), false), Take::Known, "a redelivery of what is held");
        assert_eq!(book.take_credits(), Some(1));
    }

    #[test]
    fn a_cumulative_acknowledgement_is_told_as_far_as_events_came() {
        let mut book = connected(8, 0);
        for index in [1, 2, 3] {
            book.event(at(index), false);
        }
        book.ack_through(at(3));
        book.connected(0, false);
        assert_eq!(book.event(at(1), false), Take::Known);
        assert_eq!(book.take_ack(), ack(Some(2), &[]));
        assert_eq!(book.event(at(3), false), Take::Known);
        assert_eq!(book.take_ack(), ack(Some(4), &[]));
    }

    #[test]
    fn progress_is_acknowledged_once_nothing_is_open() {
        let mut book = connected(8, 0);
        book.event(at(1), false);
        book.progress(5);
        assert_eq!(book.take_ack(), None);
        deal_with(&mut book, 1);
        assert_eq!(book.take_ack(), ack(None, &[1]));
        book.progress(7);
        assert_eq!(book.take_ack(), ack(Some(7), &[]));
    }

    /// A book whose caller holds a snapshot of one data subject and its end.
    fn with_snapshot(revision: u64) -> Book {
        let mut book = Book::new(8);
        book.snapshot_anew();
        book.connected(revision, true);
        assert_eq!(book.snapshot_subject(), Take::GiveOut);
        assert_eq!(book.snapshot_end(revision), Take::GiveOut);
        book
    }

    fn release_snapshot(book: &mut Book, is_acked: bool) {
        let (part, session) = (book.snapshot_part(), book.session());
        book.release(part, session, is_acked);
    }

    #[test]
    fn the_end_of_a_snapshot_is_acknowledged_once_all_of_it_is() {
        let mut book = Book::new(8);
        book.connected(9, true);
        book.progress(9);
        assert_eq!(book.take_ack(), None, "one is still to come");
        let mut book = with_snapshot(9);
        release_snapshot(&mut book, true);
        assert_eq!(book.event(at(10), false), Take::GiveOut);
        deal_with(&mut book, 10);
        assert_eq!(book.take_ack(), ack(None, &[10]));
        book.progress(12);
        assert_eq!(book.take_ack(), None, "a part of the snapshot is in the caller's hands");
        release_snapshot(&mut book, true);
        assert_eq!(book.take_ack(), ack(Some(9), &[]));
        assert!(!book.wants_snapshot_anew());
        // Lost with the connection: it is sent again, and the caller receives nothing twice.
        book.snapshot_anew();
        book.connected(9, true);
        assert_eq!(book.snapshot_subject(), Take::Known);
        assert_eq!(book.snapshot_end(9), Take::Known);
        assert_eq!(book.take_ack(), ack(Some(9), &[]));
    }

    #[test]
    fn a_snapshot_of_which_a_part_was_dropped_begins_anew() {
        let mut book = with_snapshot(9);
        release_snapshot(&mut book, false);
        assert!(!book.wants_snapshot_anew(), "its end is in the caller's hands");
        let late = book.snapshot_part();
        release_snapshot(&mut book, true);
        assert!(book.wants_snapshot_anew());
        assert_eq!(book.take_ack(), None);
        book.snapshot_anew();
        book.connected(9, true);
        assert!(!book.wants_snapshot_anew());
        assert_eq!(book.snapshot_subject(), Take::GiveOut);
        assert_eq!(book.snapshot_end(9), Take::GiveOut);
        // Handles of the first run do not count for the second.
        book.release(late, 1, false);
        release_snapshot(&mut book, true);
        assert_eq!(book.take_ack(), None);
        release_snapshot(&mut book, true);
        assert_eq!(book.take_ack(), ack(Some(9), &[]));
    }

    #[test]
    fn everything_before_an_event_is_the_snapshot_too() {
        let mut book = with_snapshot(9);
        book.event(at(10), false);
        book.ack_through(at(10));
        assert_eq!(book.take_ack(), ack(Some(11), &[]));
        release_snapshot(&mut book, false);
        release_snapshot(&mut book, false);
        assert!(!book.wants_snapshot_anew());
    }

    /// The events of an entry come; the last one is not followed by another.
    fn ends(book: &mut Book, index: u64, places: &[u32]) -> Vec<Take> {
        let last = places.last().copied();
        let event =
            |place: &u32| book.event(Position { index, place: *place }, Some(*place) != last);
        places.iter().map(event).collect()
    }

    #[test]
    fn an_entry_with_several_events_is_told_once_all_are_acknowledged() {
        let mut book = connected(8, 0);
        assert_eq!(ends(&mut book, 4, &[0, 2, 3]), [Take::GiveOut; 3]);
        for place in [3, 0] {
            book.ack(Position { index: 4, place });
            assert_eq!(book.take_ack(), None);
        }
        book.progress(9);
        assert_eq!(book.take_ack(), None, "an event is not acknowledged");
        book.ack(Position { index: 4, place: 2 });
        assert_eq!(book.take_ack(), ack(None, &[4]));
    }

    #[test]
    fn events_of_an_entry_that_are_acknowledged_are_not_given_out_again() {
        let mut book = connected(8, 0);
        assert_eq!(book.event(Position { index: 4, place: 0 }, true), Take::GiveOut);
        book.ack(Position { index: 4, place: 0 });
        book.release(Part::Event(Position { index: 4, place: 0 }), 1, true);
        // The stream breaks off in the middle of the entry.
        book.disconnected();
        book.connected(0, false);
        assert_eq!(ends(&mut book, 4, &[0, 1]), [Take::Known, Take::GiveOut]);
        book.ack(Position { index: 4, place: 1 });
        assert_eq!(book.take_ack(), ack(None, &[4]));
        // The acknowledgement is lost.
        book.disconnected();
        book.connected(0, false);
        assert_eq!(ends(&mut book, 4, &[0, 1]), [Take::Known, Take::Known]);
        assert_eq!(book.take_ack(), ack(None, &[4]));
    }

    #[test]
    fn acknowledging_through_an_event_stops_in_the_middle_of_its_entry() {
        let mut book = connected(8, 0);
        assert_eq!(book.event(at(3), false), Take::GiveOut);
        assert_eq!(ends(&mut book, 4, &[0, 1, 2]), [Take::GiveOut; 3]);
        book.ack_through(Position { index: 4, place: 1 });
        assert_eq!(book.take_ack(), ack(Some(4), &[]));
        book.ack_through(Position { index: 4, place: 2 });
        assert_eq!(book.take_ack(), ack(Some(5), &[]));
    }
}
