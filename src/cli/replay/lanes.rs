//! Schedules acts: many in flight, but only one for each data subject, in whichever spelling.
//!
//! Data subjects that are linked have lanes of their own. Only the ledger knows the links, and they may
//! change while a file is replayed. Their acts may therefore arrive in another order than that of the file,
//! and that changes nothing for acts that say when they took effect: all of them are reported late, and
//! states do not depend on the order of arrival. An act without `effectiveAt` takes effect when it arrives,
//! so a file of such acts about linked data subjects needs `--concurrency 1`; `import`, which sends rows in
//! order, asks for the time where it matters.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::send::{Sender, Sent};
use crate::{domain::Catalog, proto::RecordConsentRequest};

type Job = (u64, RecordConsentRequest);
type Flight = Pin<Box<dyn Future<Output = (String, Sent)> + Send>>;

/// Maximum number of waiting acts for each act in flight. It bounds memory, and is large enough
/// that one busy data subject does not block all others.
const WAITING_FACTOR: usize = 64;

/// Acts in flight and acts that wait for them.
pub(super) struct Lanes {
    sender: Sender,
    /// The namespaces, which tell the spellings of one data subject.
    catalog: Catalog,
    flights: FuturesUnordered<Flight>,
    /// For each data subject, in canonical form, with an act in flight or ready: the acts that come after it.
    waiting: HashMap<String, VecDeque<Job>>,
    waiting_count: usize,
    /// Acts whose data subject is free, for which there is no room yet.
    ready: VecDeque<(String, Job)>,
    flights_max: usize,
}

impl Lanes {
    pub(super) fn new(sender: Sender, catalog: Catalog, concurrency: u32) -> Self {
        Self {
            sender,
            catalog,
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
        let lane = self.lane(&request.subject);
        if let Some(queue) = self.waiting.get_mut(&lane) {
            queue.push_back((line, request));
            self.waiting_count += 1;
            return;
        }
        self.waiting.insert(lane.clone(), VecDeque::new());
        self.ready.push_back((lane, (line, request)));
        self.depart();
    }

    /// The canonical form of a data subject; the text as it is if the server will refuse it.
    fn lane(&self, subject: &str) -> String {
        let canonical = self.catalog.subject(subject);
        canonical.map_or_else(|_| subject.to_owned(), |subject| subject.as_str().to_owned())
    }

    /// Drops all acts that are not in flight.
    pub(super) fn drop_waiting(&mut self) {
        self.ready.clear();
        self.waiting.values_mut().for_each(VecDeque::clear);
        self.waiting_count = 0;
    }

    /// Waits for the next answer; none if no act is in flight. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Sent> {
        let (lane, sent) = self.flights.next().await?;
        let next = self.waiting.get_mut(&lane).and_then(VecDeque::pop_front);
        match next {
            Some(job) => {
                self.waiting_count -= 1;
                self.ready.push_back((lane, job));
            }
            None => drop(self.waiting.remove(&lane)),
        }
        self.depart();
        Some(sent)
    }

    fn depart(&mut self) {
        while self.flights.len() < self.flights_max {
            let Some((lane, (line, request))) = self.ready.pop_front() else { return };
            let mut sender = self.sender.clone();
            let flight = async move { (lane, sender.send(line, request).await) };
            self.flights.push(Box::pin(flight));
        }
    }
}
