//! The messages of one shard that wait, and the order in which they may be sent. It does no I/O.
//!
//! A message stands in the lane of each data subject that it is about; messages about no data subject
//! share one lane. A message may be sent when it is first in all of its lanes. So a retried event
//! delays only later events of the same data subject. A barrier waits for everything before it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::domain::Subject;

/// Identifies a message; tickets ascend in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// The lane of a data subject; none is the lane of messages about no data subject.
type Lane = Option<Subject>;

/// A message that waits or is in flight.
#[derive(Debug)]
pub(super) struct Waiting<M> {
    pub(super) message: M,
    /// Number of tries.
    pub(super) attempts: u32,
    /// HTTP status of the last answer; 0 if there was none.
    pub(super) http_status: u16,
    lanes: Vec<Lane>,
    is_barrier: bool,
    in_flight: bool,
    first_try: Option<Instant>,
    not_before: Option<Instant>,
}

/// All messages that wait or are in flight. There are few, so a linear search is enough.
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

    /// Adds a message behind the others of the same data subjects.
    pub(super) fn push(&mut self, message: M, subjects: impl IntoIterator<Item = Subject>) {
        let mut lanes: Vec<Lane> = subjects.into_iter().map(Some).collect();
        lanes.dedup();
        if lanes.is_empty() {
            lanes.push(None);
        }
        self.add(message, lanes, false);
    }

    /// Adds a message that may be sent once all earlier messages are removed.
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
            first_try: None,
            not_before: None,
        };
        self.waiting.insert(ticket, waiting);
    }

    /// Number of messages that wait or are in flight.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// All messages, in the order of arrival.
    pub(super) fn messages(&self) -> impl Iterator<Item = (Ticket, &M)> {
        self.waiting.iter().map(|(ticket, waiting)| (*ticket, &waiting.message))
    }

    /// Whether a message is in flight.
    pub(super) fn is_in_flight(&self, ticket: Ticket) -> bool {
        self.waiting.get(&ticket).is_some_and(|waiting| waiting.in_flight)
    }

    /// Messages that are first in all of their lanes, due or not.
    fn first_in_line(&self) -> impl Iterator<Item = (Ticket, &Waiting<M>)> {
        let oldest = self.waiting.first_key_value().map(|(ticket, _)| *ticket);
        let goes_first = move |ticket: Ticket, waiting: &Waiting<M>| {
            if waiting.is_barrier {
                return Some(ticket) == oldest;
            }
            waiting
                .lanes
                .iter()
                .all(|lane| self.lanes.get(lane).and_then(VecDeque::front) == Some(&ticket))
        };
        self.waiting
            .iter()
            .map(|(ticket, waiting)| (*ticket, waiting))
            .filter(move |(ticket, waiting)| !waiting.in_flight && goes_first(*ticket, waiting))
    }

    /// The oldest message that may be sent now.
    pub(super) fn due(&self, now: Instant) -> Option<Ticket> {
        let mut may_go = self.first_in_line();
        may_go
            .find(|(_, waiting)| waiting.not_before.is_none_or(|at| at <= now))
            .map(|(ticket, _)| ticket)
    }

    /// When the next message may be sent; `now` or earlier if one is due.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        self.first_in_line().map(|(_, waiting)| waiting.not_before.unwrap_or(now)).min()
    }

    /// The message to probe the endpoint with: the one with the fewest tries, due or not. So a message
    /// that the endpoint never takes does not block recovery.
    pub(super) fn probe(&self) -> Option<Ticket> {
        let least =
            self.first_in_line().min_by_key(|(ticket, waiting)| (waiting.attempts, *ticket));
        least.map(|(ticket, _)| ticket)
    }

    /// Marks a message as in flight.
    pub(super) fn start(&mut self, ticket: Ticket, now: Instant) -> Option<&Waiting<M>> {
        let waiting = self.waiting.get_mut(&ticket)?;
        waiting.in_flight = true;
        waiting.attempts = waiting.attempts.saturating_add(1);
        waiting.first_try.get_or_insert(now);
        Some(waiting)
    }

    /// Notes a failed try. The message may be sent again after `pause`, a function of the number of
    /// tries. Returns that number.
    pub(super) fn came_back(
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

    /// Messages whose first try is at least `tried_for` ago.
    pub(super) fn expired(&self, now: Instant, tried_for: Duration) -> Vec<Ticket> {
        let is_over = |waiting: &Waiting<M>| {
            let first = waiting.first_try.filter(|_| !waiting.in_flight);
            first.is_some_and(|first| now.duration_since(first) >= tried_for)
        };
        let over = self.waiting.iter().filter(|(_, waiting)| is_over(waiting));
        over.map(|(ticket, _)| *ticket).collect()
    }

    /// The message of a ticket.
    pub(super) fn message(&self, ticket: Ticket) -> Option<&M> {
        self.waiting.get(&ticket).map(|waiting| &waiting.message)
    }

    /// Removes a message; the next ones in its lanes move up.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting<M>> {
        let waiting = self.waiting.remove(&ticket)?;
        for lane in &waiting.lanes {
            if let Some(tickets) = self.lanes.get_mut(lane) {
                tickets.retain(|other| *other != ticket);
                if tickets.is_empty() {
                    self.lanes.remove(lane);
                }
            }
        }
        Some(waiting)
    }

    /// Makes every waiting message due: the endpoint has recovered.
    pub(super) fn wake(&mut self) {
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
            lanes.push(*message, subjects);
        }
        lanes
    }

    /// Starts every message that may be sent.
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
    async fn events_of_a_data_subject_keep_their_order_and_delay_no_others() {
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
        // A failed message delays its own lane alone.
        let pause = Duration::from_secs(10);
        lanes.came_back(started[0].1, 500, now, |_| pause);
        lanes.remove(started[1].1);
        lanes.remove(started[2].1);
        assert_eq!(names(&start_all(&mut lanes, now)), ["everybody2"]);
        assert_eq!(lanes.due_at(now), Some(now + pause));
        let again = start_all(&mut lanes, now + pause);
        assert_eq!(names(&again), ["a1"]);
        assert_eq!(lanes.expired(now + 2 * pause, pause), [], "it is in flight");
        lanes.came_back(again[0].1, 503, now + pause, |_| pause);
        assert_eq!(lanes.expired(now + pause, 2 * pause), []);
        assert_eq!(lanes.expired(now + 2 * pause, 2 * pause), [again[0].1]);
        let gone = lanes.remove(again[0].1).unwrap();
        assert_eq!((gone.attempts, gone.http_status), (2, 503));
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
    async fn the_probe_is_the_message_with_the_fewest_tries() {
        let now = Instant::now();
        let mut lanes = lanes(&[("a1", &["user:a"]), ("b1", &["user:b"])]);
        for (_, ticket) in start_all(&mut lanes, now) {
            lanes.came_back(ticket, 0, now, |_| Duration::from_secs(60));
        }
        assert_eq!(lanes.due(now), None);
        let first = lanes.probe().unwrap();
        assert_eq!(lanes.start(first, now).unwrap().message, "a1");
        lanes.came_back(first, 0, now, |_| Duration::from_secs(60));
        let second = lanes.probe().unwrap();
        assert_eq!(lanes.start(second, now).unwrap().message, "b1");
        lanes.came_back(second, 0, now, |_| Duration::from_secs(60));
        lanes.wake();
        assert_eq!(names(&start_all(&mut lanes, now)), ["a1", "b1"]);
    }
}
