//! What waits to be delivered, in which order: pure bookkeeping.
//!
//! Each message stands in the lane of every data subject in whose order it is; those that are about
//! nobody in particular share one. Only who stands first in all of its lanes may go, so that an event
//! waits while an earlier one of the same data subject is tried again, and nothing else does. A
//! barrier stands behind everything.

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

/// A data subject's lane; none is that of messages about nobody in particular.
type Lane = Option<Subject>;

/// A message that waits, or is on its way.
#[derive(Debug)]
pub(super) struct Waiting<M> {
    pub(super) message: M,
    /// How often it was tried.
    pub(super) attempts: u32,
    /// HTTP status of the last answer; 0 if there was none.
    pub(super) http_status: u16,
    lanes: Vec<Lane>,
    is_barrier: bool,
    in_flight: bool,
    first_try: Option<Instant>,
    not_before: Option<Instant>,
}

/// Everything that waits or is on its way. Few: it is searched from its beginning.
#[derive(Debug)]
pub(super) struct Lanes<M> {
    waiting: BTreeMap<Ticket, Waiting<M>>,
    lanes: HashMap<Lane, VecDeque<Ticket>>,
    next: u64,
    in_flight: usize,
}

impl<M> Lanes<M> {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), lanes: HashMap::new(), next: 0, in_flight: 0 }
    }

    /// Adds a message behind those of the same data subjects.
    pub(super) fn push<'a>(&mut self, message: M, subjects: impl Iterator<Item = &'a Subject>) {
        let mut lanes: Vec<Lane> = subjects.cloned().map(Some).collect();
        lanes.dedup();
        if lanes.is_empty() {
            lanes.push(None);
        }
        self.add(message, lanes, false);
    }

    /// Adds a message that goes once everything before it is gone.
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

    /// Number of messages that wait or are on their way.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// All messages, in the order of arrival.
    pub(super) fn messages(&self) -> impl Iterator<Item = (Ticket, &M)> {
        self.waiting.iter().map(|(ticket, own)| (*ticket, &own.message))
    }

    /// Whether a message is on its way.
    pub(super) fn is_in_flight(&self, ticket: Ticket) -> bool {
        self.waiting.get(&ticket).is_some_and(|own| own.in_flight)
    }

    /// Those that may go, but for the time.
    fn first_in_line(&self) -> impl Iterator<Item = (Ticket, &Waiting<M>)> {
        let eldest = self.waiting.first_key_value().map(|(ticket, _)| *ticket);
        let goes_first = move |ticket: Ticket, own: &Waiting<M>| {
            if own.is_barrier {
                return Some(ticket) == eldest;
            }
            own.lanes
                .iter()
                .all(|lane| self.lanes.get(lane).and_then(VecDeque::front) == Some(&ticket))
        };
        self.waiting
            .iter()
            .map(|(ticket, own)| (*ticket, own))
            .filter(move |(ticket, own)| !own.in_flight && goes_first(*ticket, own))
    }

    /// The eldest that may go now.
    pub(super) fn due(&self, now: Instant) -> Option<Ticket> {
        let mut may_go = self.first_in_line();
        may_go.find(|(_, own)| own.not_before.is_none_or(|at| at <= now)).map(|(ticket, _)| ticket)
    }

    /// When the next one may go: at once, if one is due.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        self.first_in_line().map(|(_, own)| own.not_before.unwrap_or(now)).min()
    }

    /// The one to ask with whether the endpoint is there again: that which was tried least, whenever
    /// it would be due. What no endpoint would take must not keep others from being the one.
    pub(super) fn probe(&self) -> Option<Ticket> {
        let least = self.first_in_line().min_by_key(|(ticket, own)| (own.attempts, *ticket));
        least.map(|(ticket, _)| ticket)
    }

    /// Sends one on its way.
    pub(super) fn start(&mut self, ticket: Ticket, now: Instant) -> Option<&Waiting<M>> {
        let own = self.waiting.get_mut(&ticket)?;
        if !own.in_flight {
            self.in_flight += 1;
        }
        own.in_flight = true;
        own.attempts = own.attempts.saturating_add(1);
        own.first_try.get_or_insert(now);
        Some(own)
    }

    /// One came back undelivered; it may go again after a pause, which its number of tries decides.
    /// Answers that number.
    pub(super) fn came_back(
        &mut self,
        ticket: Ticket,
        http_status: u16,
        now: Instant,
        pause: impl FnOnce(u32) -> Duration,
    ) -> u32 {
        let Some(own) = self.waiting.get_mut(&ticket) else { return 0 };
        if own.in_flight {
            self.in_flight -= 1;
        }
        own.in_flight = false;
        own.http_status = http_status;
        own.not_before = Some(now + pause(own.attempts));
        own.attempts
    }

    /// Those that have been tried for so long, in vain.
    pub(super) fn expired(&self, now: Instant, tried_for: Duration) -> Vec<Ticket> {
        let is_over = |own: &Waiting<M>| {
            let first = own.first_try.filter(|_| !own.in_flight);
            first.is_some_and(|first| now.duration_since(first) >= tried_for)
        };
        let over = self.waiting.iter().filter(|(_, own)| is_over(own));
        over.map(|(ticket, _)| *ticket).collect()
    }

    /// The message of a ticket.
    pub(super) fn message(&self, ticket: Ticket) -> Option<&M> {
        self.waiting.get(&ticket).map(|own| &own.message)
    }

    /// Takes one out; those behind it move up.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiting<M>> {
        let own = self.waiting.remove(&ticket)?;
        if own.in_flight {
            self.in_flight -= 1;
        }
        for lane in &own.lanes {
            if let Some(tickets) = self.lanes.get_mut(lane) {
                tickets.retain(|other| *other != ticket);
                if tickets.is_empty() {
                    self.lanes.remove(lane);
                }
            }
        }
        Some(own)
    }

    /// Lets everything go that waits for its time: the endpoint is there again.
    pub(super) fn wake(&mut self) {
        for own in self.waiting.values_mut() {
            own.not_before = None;
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

    /// Sends whatever may go.
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
    async fn a_data_subject_is_told_in_order_and_keeps_nobody_else_waiting() {
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
        assert_eq!((lanes.len(), lanes.in_flight), (5, 3));
        // What came back holds up its own lane alone.
        let pause = Duration::from_secs(10);
        lanes.came_back(started[0].1, 500, now, |_| pause);
        lanes.remove(started[1].1);
        lanes.remove(started[2].1);
        assert_eq!(names(&start_all(&mut lanes, now)), ["everybody2"]);
        assert_eq!(lanes.due_at(now), Some(now + pause));
        let again = start_all(&mut lanes, now + pause);
        assert_eq!(names(&again), ["a1"]);
        assert_eq!(lanes.expired(now + 2 * pause, pause), [], "it is on its way");
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
    async fn the_probe_is_what_was_tried_least() {
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
