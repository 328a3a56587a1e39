//! The order of undelivered messages. Pure bookkeeping.
//!
//! Each data subject has a lane, and messages without a data subject share one. A message stands in
//! the lanes of all its data subjects and may be sent when it is first in each. So an event waits
//! while an earlier event of the same data subject is retried, and no other event waits. A barrier
//! waits for all messages before it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::domain::Subject;

/// A place in the queue, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// The lane of a data subject; none is the lane of messages without one.
type Lane = Option<Subject>;

/// An undelivered message: waiting or in flight.
#[derive(Debug)]
pub(super) struct Waiting<M> {
    pub(super) message: M,
    /// Number of attempts.
    pub(super) attempts: u32,
    /// HTTP status of the last response; 0 if there was none.
    pub(super) http_status: u16,
    pub(super) in_flight: bool,
    lanes: Vec<Lane>,
    is_barrier: bool,
    first_attempt: Option<Instant>,
    not_before: Option<Instant>,
}

/// All undelivered messages of a shard. There are few, so searches are linear.
#[derive(Debug)]
pub(super) struct Lanes<M> {
    waiting: BTreeMap<Ticket, Waiting<M>>,
    lanes: HashMap<Lane, VecDeque<Ticket>>,
    next: u64,
}

impl<M> Lanes<M> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), lanes: HashMap::new(), next: 0 }
    }

    /// Adds a message at the end of the lanes of its data subjects.
    pub(super) fn push<'a>(&mut self, message: M, subjects: impl Iterator<Item = &'a Subject>) {
        let mut lanes: Vec<Lane> = subjects.cloned().map(Some).collect();
        lanes.dedup();
        if lanes.is_empty() {
            lanes.push(None);
        }
        self.add(message, lanes, false);
    }

    /// Adds a message that may be sent once all messages before it are removed.
    pub(super) fn push_barrier(&mut self, message: M) {
        self.add(message, Vec::new(), true);
    }

    fn add(&mut self, message: M, lanes: Vec<Lane>, is_barrier: bool) {
        let ticket = Ticket(self.next);
        self.next += 1;
        for lane in &lanes {
            self.lanes.entry(lane.clone()).or_default().push_back(ticket);
        }
        let waiting = Waiting {
            message,
            attempts: 0,
            http_status: 0,
            lanes,
            is_barrier,
            in_flight: false,
            first_attempt: None,
            not_before: None,
        };
        self.waiting.insert(ticket, waiting);
    }

    /// Number of undelivered messages.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// All messages, in the order of arrival.
    pub(super) fn messages(&self) -> impl Iterator<Item = (Ticket, &M)> {
        self.waiting.iter().map(|(ticket, waiting)| (*ticket, &waiting.message))
    }

    /// The undelivered message of a ticket.
    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiting<M>> {
        self.waiting.get(&ticket)
    }

    /// Messages that are first in all of their lanes and not in flight.
    fn first_in_line(&self) -> impl Iterator<Item = (Ticket, &Waiting<M>)> {
        let oldest = self.waiting.first_key_value().map(|(ticket, _)| *ticket);
        let is_first = move |ticket: Ticket, waiting: &Waiting<M>| {
            if waiting.is_barrier {
                return Some(ticket) == oldest;
            }
            let mut lanes = waiting.lanes.iter();
            lanes.all(|lane| self.lanes.get(lane).and_then(VecDeque::front) == Some(&ticket))
        };
        self.waiting
            .iter()
            .map(|(ticket, waiting)| (*ticket, waiting))
            .filter(move |(ticket, waiting)| !waiting.in_flight && is_first(*ticket, waiting))
    }

    /// The oldest message that may be sent now.
    pub(super) fn due(&self, now: Instant) -> Option<Ticket> {
        let is_due = |waiting: &Waiting<M>| waiting.not_before.is_none_or(|at| at <= now);
        self.first_in_line().find(|(_, waiting)| is_due(waiting)).map(|(ticket, _)| ticket)
    }

    /// When the next message may be sent: `now` if one is due.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        self.first_in_line().map(|(_, waiting)| waiting.not_before.unwrap_or(now)).min()
    }

    /// The message to probe the endpoint with: the one with the fewest attempts, due or not. So a
    /// message that the endpoint always refuses is not probed with again and again.
    pub(super) fn probe(&self) -> Option<Ticket> {
        let least =
            self.first_in_line().min_by_key(|(ticket, waiting)| (waiting.attempts, *ticket));
        least.map(|(ticket, _)| ticket)
    }

    /// Starts an attempt.
    pub(super) fn start(&mut self, ticket: Ticket, now: Instant) -> Option<&Waiting<M>> {
        let waiting = self.waiting.get_mut(&ticket)?;
        waiting.in_flight = true;
        waiting.attempts = waiting.attempts.saturating_add(1);
        waiting.first_attempt.get_or_insert(now);
        Some(waiting)
    }

    /// Ends a failed attempt. The next one may start after a pause, computed from the number of
    /// attempts. Returns that number.
    pub(super) fn retry(
        &mut self,
        ticket: Ticket,
        http_status: u16,
        now: Instant,
        pause: impl FnOnce(u32) -> Duration,
    ) -> u32 {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return 0 };
        waiting.in_flight = false;
        waiting.http_status = http_status;
        waiting.not_before = Some(now + pause(waiting.attempts));
        waiting.attempts
    }

    /// Messages whose first attempt was at least `retry_for` ago, without those in flight.
    pub(super) fn expired(&self, now: Instant, retry_for: Duration) -> Vec<Ticket> {
        let is_expired = |waiting: &Waiting<M>| {
            let first = waiting.first_attempt.filter(|_| !waiting.in_flight);
            first.is_some_and(|first| now.duration_since(first) >= retry_for)
        };
        let expired = self.waiting.iter().filter(|(_, waiting)| is_expired(waiting));
        expired.map(|(ticket, _)| *ticket).collect()
    }

    /// Removes a message, so that those behind it move up.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting<M>> {
        let removed = self.waiting.remove(&ticket)?;
        for lane in &removed.lanes {
            if let Some(tickets) = self.lanes.get_mut(lane) {
                tickets.retain(|other| *other != ticket);
                if tickets.is_empty() {
                    self.lanes.remove(lane);
                }
            }
        }
        Some(removed)
    }

    /// Ends all pauses: the endpoint has recovered.
    pub(super) fn end_pauses(&mut self) {
        for waiting in self.waiting.values_mut() {
            waiting.not_before = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        Subject::parse(text).unwrap()
    }

    fn lanes(of: &[(&'static str, &[&str])]) -> Lanes<&'static str> {
        let mut lanes = Lanes::new();
        for (message, subjects) in of {
            let subjects: Vec<Subject> = subjects.iter().map(|text| subject(text)).collect();
            lanes.push(*message, subjects.iter());
        }
        lanes
    }

    /// Starts every message that is due.
    fn start_all(lanes: &mut Lanes<&'static str>, now: Instant) -> Vec<(&'static str, Ticket)> {
        let mut started = Vec::new();
        while let Some(ticket) = lanes.due(now) {
            started.push((lanes.start(ticket, now).unwrap().message, ticket));
        }
        started
    }

    fn names(started: &[(&'static str, Ticket)]) -> Vec<&'static str> {
        started.iter().map(|(message, _)| *message).collect()
    }

    #[tokio::test]
    async fn messages_of_a_data_subject_are_ordered_and_hold_up_no_others() {
        let now = Instant::now();
        let mut lanes = lanes(&[
            ("a1", &["user:a"]),
            ("b1", &["user:b"]),
            ("a2", &["user:a"]),
            ("everybody1", &[]),
            ("everybody2", &[]),
        ]);
        let started = start_all(&mut lanes, now);
        assert_eq!(names(&started), ["a1", "b1", "everybody1"]);
        let in_flight = lanes.waiting.values().filter(|waiting| waiting.in_flight).count();
        assert_eq!((lanes.len(), in_flight), (5, 3));
        // A failed message holds up only its own lane.
        let pause = Duration::from_secs(10);
        lanes.retry(started[0].1, 500, now, |_| pause);
        lanes.remove(started[1].1);
        lanes.remove(started[2].1);
        assert_eq!(names(&start_all(&mut lanes, now)), ["everybody2"]);
        assert_eq!(lanes.due_at(now), Some(now + pause));
        let again = start_all(&mut lanes, now + pause);
        assert_eq!(names(&again), ["a1"]);
        assert_eq!(lanes.expired(now + 2 * pause, pause), [], "it is in flight");
        lanes.retry(again[0].1, 503, now + pause, |_| pause);
        assert_eq!(lanes.expired(now + pause, 2 * pause), []);
        assert_eq!(lanes.expired(now + 2 * pause, 2 * pause), [again[0].1]);
        let removed = lanes.remove(again[0].1).unwrap();
        assert_eq!((removed.attempts, removed.http_status), (2, 503));
        assert_eq!(names(&start_all(&mut lanes, now)), ["a2"]);
    }

    #[tokio::test]
    async fn a_link_stands_in_the_lanes_of_both() {
        let now = Instant::now();
        let mut lanes = lanes(&[
            ("a1", &["user:a"]),
            ("link", &["user:a", "user:b"]),
            ("b2", &["user:b"]),
            ("self", &["user:c", "user:c"]),
        ]);
        let started = start_all(&mut lanes, now);
        assert_eq!(names(&started), ["a1", "self"]);
        lanes.remove(started[0].1);
        let started = start_all(&mut lanes, now);
        assert_eq!(names(&started), ["link"]);
        lanes.remove(started[0].1);
        assert_eq!(names(&start_all(&mut lanes, now)), ["b2"]);
        assert_eq!(lanes.lanes.len(), 2, "no lane stays behind: those of b2 and self");
    }

    #[tokio::test]
    async fn a_barrier_waits_for_everything_before_it() {
        let now = Instant::now();
        let mut lanes = lanes(&[("a1", &["user:a"]), ("b1", &["user:b"])]);
        lanes.push_barrier("end");
        let started = start_all(&mut lanes, now);
        assert_eq!(names(&started), ["a1", "b1"]);
        lanes.remove(started[1].1);
        assert_eq!(lanes.due(now), None);
        lanes.remove(started[0].1);
        assert_eq!(names(&start_all(&mut lanes, now)), ["end"]);
    }

    #[tokio::test]
    async fn the_probe_is_the_message_with_the_fewest_attempts() {
        let now = Instant::now();
        let mut lanes = lanes(&[("a1", &["user:a"]), ("b1", &["user:b"])]);
        for (_, ticket) in start_all(&mut lanes, now) {
            lanes.retry(ticket, 0, now, |_| Duration::from_secs(60));
        }
        assert_eq!(lanes.due(now), None);
        let first = lanes.probe().unwrap();
        assert_eq!(lanes.start(first, now).unwrap().message, "a1");
        lanes.retry(first, 0, now, |_| Duration::from_secs(60));
        let second = lanes.probe().unwrap();
        assert_eq!(lanes.start(second, now).unwrap().message, "b1");
        lanes.retry(second, 0, now, |_| Duration::from_secs(60));
        lanes.end_pauses();
        assert_eq!(names(&start_all(&mut lanes, now)), ["a1", "b1"]);
    }
}
