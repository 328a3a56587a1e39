//! Schedules acts: many in flight, but only one for each data subject.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::send::{Sender, Sent};
use crate::proto::RecordConsentRequest;

type Job = (u64, RecordConsentRequest);
type Flight = Pin<Box<dyn Future<Output = (String, Sent)> + Send>>;

/// Maximum number of waiting acts for each act in flight. It bounds memory, and is large enough
/// that one busy data subject does not block all others.
const WAITING_FACTOR: usize = 64;

/// Acts in flight and acts that wait for them.
pub(super) struct Lanes {
    sender: Sender,
    flights: FuturesUnordered<Flight>,
    /// For each data subject with an act in flight or ready: the acts that come after it.
    waiting: HashMap<String, VecDeque<Job>>,
    waiting_count: usize,
    /// Acts whose data subject is free, for which there is no room yet.
    ready: VecDeque<Job>,
    flights_max: usize,
}

impl Lanes {
    pub(super) fn new(sender: Sender, concurrency: u32) -> Self {
        Self {
            sender,
            flights: FuturesUnordered::new(),
            waiting: HashMap::new(),
            waiting_count: 0,
            ready: VecDeque::new(),
            flights_max: usize::try_from(concurrency).unwrap_or(usize::MAX).max(1),
        }
    }

    /// Whether another act can be taken.
    pub(super) fn have_room(&self) -> bool {
        self.waiting_count < self.flights_max.saturating_mul(WAITING_FACTOR)
            && self.flights.len() < self.flights_max
    }

    pub(super) fn are_empty(&self) -> bool {
        self.flights.is_empty() && self.ready.is_empty()
    }

    pub(super) fn add(&mut self, line: u64, request: RecordConsentRequest) {
        if let Some(queue) = self.waiting.get_mut(&request.subject) {
            queue.push_back((line, request));
            self.waiting_count += 1;
            return;
        }
        self.waiting.insert(request.subject.clone(), VecDeque::new());
        self.ready.push_back((line, request));
        self.depart();
    }

    /// Drops all acts that are not in flight.
    pub(super) fn drop_waiting(&mut self) {
        self.ready.clear();
        self.waiting.values_mut().for_each(VecDeque::clear);
        self.waiting_count = 0;
    }

    /// Waits for the next answer; none if no act is in flight. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Sent> {
        let (subject, sent) = self.flights.next().await?;
        let next = self.waiting.get_mut(&subject).and_then(VecDeque::pop_front);
        match next {
            Some(job) => {
                self.waiting_count -= 1;
                self.ready.push_back(job);
            }
            None => drop(self.waiting.remove(&subject)),
        }
        self.depart();
        Some(sent)
    }

    fn depart(&mut self) {
        while self.flights.len() < self.flights_max {
            let Some((line, request)) = self.ready.pop_front() else { return };
            let mut sender = self.sender.clone();
            self.flights.push(Box::pin(async move {
                let subject = request.subject.clone();
                (subject, sender.send(line, request).await)
            }));
        }
    }
}
