//! Delivers one shard of a subscription: takes events from its consumer, sends them, and acknowledges
//! them or gives them up.
//!
//! The ledger is the queue. A worker holds at most [`WAITING_MAX`] messages, and takes no more until
//! there is room. Events that are not acknowledged when the process ends are delivered again after the
//! next start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    event::{Envelope, Message},
    health::{Health, Leave},
    lanes::{Lanes, Ticket, Waiting},
    progress::Progress,
    retry::Retry,
    sender::{Sender, TryOutcome},
};
use crate::{
    domain::{FailedDelivery, Subject, Subscription},
    event::Event,
    node::{Acknowledged, ConsumeError, Consumer, Delivery, Node, SnapshotSubject},
    telemetry::{Metrics, WebhookOutcome},
    watch::WatchError,
};

/// Maximum number of messages of a shard that wait or are in flight.
pub const WAITING_MAX: usize = 256;
/// Maximum number of messages of a shard in flight.
pub const IN_FLIGHT_MAX: usize = 16;
/// Maximum number of replays of a shard in the worker; the others stay with the node.
pub const REPLAYS_OPEN_MAX: usize = 64;
/// Maximum number of events delivered while an older one is retried. Beyond it the older event is given
/// up early: the endpoint takes everything else, and the memory for delivered events would grow without
/// bound. It is less than the limit of a consumer ([`crate::node::IN_FLIGHT_MAX`]), so that one event
/// never stops the consumer.
pub const AHEAD_MAX: usize = 8_000;
/// How long the requests in flight have to complete when the server stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// What all workers share.
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    pub(super) sender: Sender,
    pub(super) retry: Retry,
    pub(super) metrics: Arc<Metrics>,
    /// One permit for each request in flight, over all subscriptions.
    pub(super) places: Arc<Semaphore>,
}

/// A message to deliver.
#[derive(Debug)]
enum Job {
    Event(Arc<Event>, Vec<usize>),
    /// A dead letter, which is tried once more.
    Replay(Arc<Event>, Vec<usize>),
    Snapshot(Box<SnapshotSubject>),
    SnapshotEnd {
        revision: u64,
        subjects: u64,
    },
}

impl Job {
    fn message(&self, envelope: &Envelope) -> serde_json::Result<Message> {
        match self {
            Self::Event(event, passing) | Self::Replay(event, passing) => {
                envelope.event(event, passing)
            }
            Self::Snapshot(subject) => envelope.snapshot(subject),
            Self::SnapshotEnd { revision, subjects } => envelope.snapshot_end(*revision, *subjects),
        }
    }

    fn is_replay(&self) -> bool {
        matches!(self, Self::Replay(..))
    }

    /// Index of the event, for log lines.
    fn index(&self) -> Option<u64> {
        match self {
            Self::Event(event, _) | Self::Replay(event, _) => Some(event.index),
            Self::Snapshot(_) | Self::SnapshotEnd { .. } => None,
        }
    }
}

/// An entry with several events.
#[derive(Debug)]
struct OpenEntry {
    /// How many of them are neither delivered nor given up.
    left: usize,
    /// The one of those given up that was tried most often.
    failed: Option<FailedDelivery>,
}

/// Why a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was stopped.
    Stopped,
    /// Its consumer ended.
    Source(ConsumeError),
    /// The task of a try panicked.
    Broken,
}

/// Delivers one shard.
pub(super) struct Worker {
    shared: Arc<Shared>,
    consumer: Consumer,
    subscription: Arc<Subscription>,
    shard: u32,
    envelope: Arc<Envelope>,
    health: Arc<Health>,
    recovered: watch::Receiver<u64>,
    replays: watch::Receiver<u64>,
    /// Whether the node may hold more replays for this shard.
    more_replays: bool,
    replays_open: usize,
    lanes: Lanes<Job>,
    tries: JoinSet<(Ticket, TryOutcome)>,
    progress: Progress,
    /// The entries with several events of which some wait or are in flight, by index, and whether the events
    /// are replays.
    entries: BTreeMap<(u64, bool), OpenEntry>,
    /// The end of the snapshot waits or is in flight: no more messages are taken.
    ending_snapshot: bool,
    /// A data subject of the snapshot was given up.
    snapshot_lost: bool,
    waiting_gauge: WaitingGauge,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        consumer: Consumer,
        subscription: Arc<Subscription>,
        shard: u32,
        envelope: Arc<Envelope>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            recovered: health.recovered(),
            replays: shared.node.replays(),
            more_replays: true,
            replays_open: 0,
            lanes: Lanes::new(),
            tries: JoinSet::new(),
            progress: Progress::default(),
            entries: BTreeMap::new(),
            ending_snapshot: false,
            snapshot_lost: false,
            waiting_gauge: WaitingGauge { metrics: Arc::clone(&shared.metrics), waiting: 0 },
            shared,
            consumer,
            subscription,
            shard,
            envelope,
            health,
        }
    }

    /// Delivers until `stop` is cancelled or the consumer ends.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Ended {
        loop {
            if self.more_replays && self.replays_open < REPLAYS_OPEN_MAX {
                self.take_replays().await;
            }
            let wake = self.start_due();
            self.waiting_gauge.set(self.lanes.len());
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.finish().await;
                    return Ended::Stopped;
                }
                Some(result) = self.tries.join_next() => match result {
                    Ok((ticket, outcome)) => self.came_back(ticket, &outcome),
                    Err(error) => return self.broken(&error),
                },
                Ok(()) = self.recovered.changed() => self.lanes.wake(),
                Ok(()) = self.replays.changed() => self.more_replays = true,
                delivery = self.consumer.next(), if self.may_take() => match delivery {
                    Ok(delivery) => self.take(delivery),
                    Err(closing @ ConsumeError::Watch(WatchError::Closing { .. })) => {
                        self.finish().await;
                        return Ended::Source(closing);
                    }
                    Err(error) => return Ended::Source(error),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn may_take(&self) -> bool {
        !self.ending_snapshot && self.lanes.len() - self.replays_open < WAITING_MAX
    }

    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Event { event, passing, .. } => {
                self.progress.took(event.index);
                self.push(&event, &passing, Job::Event);
            }
            Delivery::Snapshot(state) => {
                let subject = state.subject.clone();
                self.lanes.push(Job::Snapshot(state), [subject]);
            }
            Delivery::SnapshotEnd { .. } if self.snapshot_lost => self.consumer.credit(1),
            Delivery::SnapshotEnd { revision, subjects } => {
                self.lanes.push_barrier(Job::SnapshotEnd { revision, subjects });
                self.ending_snapshot = true;
            }
            // The account settles events that do not pass the filter.
            Delivery::CaughtUp { .. } => {}
        }
    }

    /// Adds the events of an entry. Returns their number.
    fn push(
        &mut self,
        event: &Arc<Event>,
        passing: &[usize],
        job: fn(Arc<Event>, Vec<usize>) -> Job,
    ) -> usize {
        let (index, parts) = (event.index, event.parts(passing));
        let count = parts.len();
        for (event, passing) in parts {
            let subjects = subjects_of(&event);
            let job = job(event, passing);
            if count > 1 {
                let open = OpenEntry { left: count, failed: None };
                self.entries.entry((index, job.is_replay())).or_insert(open);
            }
            self.lanes.push(job, subjects);
        }
        count
    }

    /// Takes the replays that were requested for this shard.
    async fn take_replays(&mut self) {
        let room = REPLAYS_OPEN_MAX - self.replays_open;
        let node = Arc::clone(&self.shared.node);
        let indexes = node.take_replays(self.subscription.id, self.shard, room);
        self.more_replays = indexes.len() == room;
        let reading = spawn_blocking(move || {
            let read = |index| (index, node.event(index));
            indexes.into_iter().map(read).collect::<Vec<_>>()
        });
        for (index, event) in reading.await.unwrap_or_default() {
            let name = &self.subscription.spec.name;
            match event {
                Ok(Some(event)) => {
                    let node = &self.shared.node;
                    let passing = node.passing(&event, &self.subscription, self.shard);
                    let count = self.push(&event, &passing.unwrap_or_default(), Job::Replay);
                    self.replays_open += count;
                    if count == 0 {
                        // Those whom it was about are erased.
                        self.consumer.redelivered(index);
                    }
                }
                Ok(None) => error!(subscription = %name, index, "a dead letter has no event"),
                Err(error) => {
                    error!(subscription = %name, index, %error, "a dead letter cannot be read");
                }
            }
        }
    }

    /// Sends the messages that are due. Returns when the next one will be due, if one waits for a time.
    fn start_due(&mut self) -> Option<Instant> {
        while self.tries.len() < IN_FLIGHT_MAX {
            // A worker without a message to send must not take the one probe.
            self.lanes.probe()?;
            let now = Instant::now();
            match self.health.ask(now) {
                Leave::Not(until) => return Some(until),
                Leave::All => match self.lanes.due(now) {
                    Some(ticket) => self.start(ticket, now),
                    None => return self.lanes.due_at(now),
                },
                Leave::Probe => match self.lanes.probe() {
                    Some(ticket) => self.start(ticket, now),
                    None => self.health.unused(),
                },
            }
        }
        None
    }

    fn start(&mut self, ticket: Ticket, now: Instant) {
        let Some(waiting) = self.lanes.start(ticket, now) else { return };
        let message = waiting.message.message(&self.envelope);
        let shared = Arc::clone(&self.shared);
        let (envelope, spec) = (Arc::clone(&self.envelope), Arc::clone(&self.subscription.spec));
        self.tries.spawn(async move {
            let message = match message {
                Ok(message) => message,
                Err(error) => return (ticket, TryOutcome::Unreachable(error.to_string())),
            };
            // Acquiring fails only when the semaphore is closed, and this one never is.
            let _place = shared.places.acquire().await.ok();
            let _in_flight = InFlight::new(&shared.metrics);
            let url = spec.webhook_url.as_deref().unwrap_or_default();
            (ticket, shared.sender.send(url, &message, envelope.secret()).await)
        });
    }

    /// Takes the result of a try.
    fn came_back(&mut self, ticket: Ticket, outcome: &TryOutcome) {
        self.shared.metrics.webhook_try(metric_of(outcome));
        match outcome {
            TryOutcome::Taken => self.delivered(ticket),
            TryOutcome::Gone => self.give_up(ticket, outcome),
            _ => self.failed(ticket, outcome),
        }
    }

    fn delivered(&mut self, ticket: Ticket) {
        if self.health.taken() {
            info!(subscription = %self.subscription.spec.name, "the endpoint takes events again");
        }
        let Some(removed) = self.lanes.remove(ticket) else { return };
        match removed.message {
            Job::Event(event, _) => {
                self.event_ended(event.index, None);
                self.consumer.credit(1);
                self.bound_ahead();
            }
            Job::Replay(event, _) => {
                self.replays_open -= 1;
                if let Some(Ok(())) = self.part_ended(event.index, true, None) {
                    self.consumer.redelivered(event.index);
                }
            }
            Job::Snapshot(_) => self.consumer.credit(1),
            Job::SnapshotEnd { .. } => {
                self.ending_snapshot = false;
                self.acknowledge(&Acknowledged { snapshot: true, ..Acknowledged::default() });
                self.consumer.credit(1);
            }
        }
    }

    /// An event was delivered, or given up. Once that is so of all events of its entry, the entry is
    /// acknowledged or, if one of them was given up, a dead letter.
    fn event_ended(&mut self, index: u64, failed: Option<FailedDelivery>) {
        let Some(ended) = self.part_ended(index, false, failed) else { return };
        self.progress.settled(index);
        match ended {
            Err(failed) => self.consumer.give_up(failed),
            Ok(()) => self.acknowledge(&Acknowledged {
                indexes: vec![index],
                whole_entries: true,
                ..Acknowledged::default()
            }),
        }
    }

    /// Takes note of the end of an event. None while others of its entry are left; an error if one of them
    /// was given up.
    fn part_ended(
        &mut self,
        index: u64,
        is_replay: bool,
        failed: Option<FailedDelivery>,
    ) -> Option<Result<(), FailedDelivery>> {
        let mut failed = failed;
        if let Some(open) = self.entries.get_mut(&(index, is_replay)) {
            open.left = open.left.saturating_sub(1);
            let both = open.failed.into_iter().chain(failed);
            open.failed = both.max_by_key(|failed| failed.attempts);
            if open.left > 0 {
                return None;
            }
            failed = open.failed;
            self.entries.remove(&(index, is_replay));
        }
        Some(failed.map_or(Ok(()), Err))
    }

    fn failed(&mut self, ticket: Ticket, outcome: &TryOutcome) {
        let now = Instant::now();
        let hold = match outcome {
            TryOutcome::Refused { hold, .. } => *hold,
            _ => None,
        };
        let (retry, random) = (self.shared.retry, rand::rng().random_range(0.0..1.0));
        let attempt = self
            .lanes
            .came_back(ticket, outcome.status(), now, |attempts| retry.pause(attempts, random));
        let name = &self.subscription.spec.name;
        let index = self.lanes.message(ticket).and_then(Job::index);
        let (shard, cause) = (self.shard, cause(outcome));
        debug!(subscription = %name, shard, index, attempt, cause, "a message was not taken");
        if self.health.failed(shard, ticket, hold, now) {
            warn!(subscription = %name, shard, cause, "the endpoint is down, and is probed");
        }
        if matches!(self.lanes.message(ticket), Some(Job::Replay(..))) {
            self.give_up(ticket, outcome);
        }
        for ticket in self.lanes.expired(now, retry.retry_for) {
            self.give_up(ticket, outcome);
        }
    }

    /// Gives a message up. An event becomes a dead letter; a replay stays one.
    fn give_up(&mut self, ticket: Ticket, outcome: &TryOutcome) {
        let Some(removed) = self.lanes.remove(ticket) else { return };
        let http_status = match outcome {
            TryOutcome::Gone => outcome.status(),
            _ => removed.http_status,
        };
        self.log_given_up(&removed, http_status);
        match removed.message {
            Job::Event(event, _) => {
                let failed = FailedDelivery {
                    index: event.index,
                    attempts: removed.attempts,
                    http_status: http_status.into(),
                };
                self.event_ended(event.index, Some(failed));
                self.consumer.credit(1);
            }
            Job::Replay(event, _) => {
                self.replays_open -= 1;
                let (attempts, http_status) = (removed.attempts, http_status.into());
                let failed = FailedDelivery { index: event.index, attempts, http_status };
                // It stays a dead letter.
                self.part_ended(event.index, true, Some(failed));
            }
            Job::Snapshot(_) => {
                // An incomplete snapshot is not acknowledged, and is sent again after a restart.
                self.snapshot_lost = true;
                self.consumer.credit(1);
                self.drop_snapshot_end();
            }
            Job::SnapshotEnd { .. } => {
                self.ending_snapshot = false;
                self.consumer.credit(1);
            }
        }
    }

    fn log_given_up(&self, removed: &Waiting<Job>, http_status: u16) {
        let name = &self.subscription.spec.name;
        let (shard, attempts) = (self.shard, removed.attempts);
        match &removed.message {
            Job::Event(event, _) => {
                self.shared.metrics.webhook_given_up.inc();
                let index = event.index;
                warn!(
                    subscription = %name, shard, index, attempts, http_status,
                    "an event was given up: it is a dead letter"
                );
            }
            Job::Replay(event, _) => {
                let index = event.index;
                warn!(
                    subscription = %name, shard, index, http_status,
                    "a replay failed: the event stays a dead letter"
                );
            }
            Job::Snapshot(_) | Job::SnapshotEnd { .. } => error!(
                subscription = %name, shard, attempts, http_status,
                "a snapshot was not delivered; it will be sent again after a restart"
            ),
        }
    }

    fn drop_snapshot_end(&mut self) {
        let end = self.lanes.find(|job| matches!(job, Job::SnapshotEnd { .. }));
        if let Some(ticket) = end {
            self.lanes.remove(ticket);
            self.ending_snapshot = false;
            self.consumer.credit(1);
        }
    }

    /// Gives the oldest event up if more than [`AHEAD_MAX`] were delivered since.
    fn bound_ahead(&mut self) {
        if self.progress.ahead() <= AHEAD_MAX {
            return;
        }
        let Some(oldest) = self.progress.oldest() else { return };
        let is_oldest = |job: &Job| matches!(job, Job::Event(event, _) if event.index == oldest);
        if let Some(ticket) =
            self.lanes.find(is_oldest).filter(|ticket| !self.lanes.is_in_flight(*ticket))
        {
            self.give_up(ticket, &TryOutcome::TimedOut);
        }
    }

    fn acknowledge(&mut self, acknowledged: &Acknowledged) {
        if let Err(error) = self.consumer.acknowledge(acknowledged) {
            let name = &self.subscription.spec.name;
            error!(subscription = %name, %error, "a delivery could not be acknowledged");
        }
    }

    /// Waits for the requests in flight, and sends no more.
    async fn finish(&mut self) {
        let all = async {
            while let Some(result) = self.tries.join_next().await {
                if let Ok((ticket, outcome)) = result {
                    self.came_back(ticket, &outcome);
                }
            }
        };
        if timeout(STOP_GRACE, all).await.is_err() {
            debug!("requests in flight were abandoned; they are sent again after the next start");
        }
    }

    fn broken(&self, error: &JoinError) -> Ended {
        let name = &self.subscription.spec.name;
        error!(subscription = %name, %error, "the task of a try ended unexpectedly");
        Ended::Broken
    }
}

/// The data subjects whose order the event keeps.
fn subjects_of(event: &Event) -> Vec<Subject> {
    event.own_subjects().cloned().collect()
}

/// The result of a try, for the metrics.
fn metric_of(outcome: &TryOutcome) -> WebhookOutcome {
    match outcome {
        TryOutcome::Taken => WebhookOutcome::Delivered,
        TryOutcome::Gone | TryOutcome::Refused { .. } => WebhookOutcome::Refused,
        TryOutcome::TimedOut => WebhookOutcome::TimedOut,
        TryOutcome::Unreachable(_) => WebhookOutcome::Unreachable,
        TryOutcome::Blocked(_) => WebhookOutcome::Blocked,
    }
}

/// The result of a try, for the log.
fn cause(outcome: &TryOutcome) -> String {
    match outcome {
        TryOutcome::Taken | TryOutcome::Gone | TryOutcome::Refused { .. } => {
            format!("status {}", outcome.status())
        }
        TryOutcome::TimedOut => "no answer in time".to_owned(),
        TryOutcome::Unreachable(cause) => cause.clone(),
        TryOutcome::Blocked(refused) => refused.to_string(),
    }
}

/// This worker's part of the number of waiting messages; taken back when the worker is dropped.
struct WaitingGauge {
    metrics: Arc<Metrics>,
    waiting: u64,
}

impl WaitingGauge {
    fn set(&mut self, waiting: usize) {
        let waiting = waiting as u64;
        let gauge = &self.metrics.webhook_waiting;
        gauge.inc_by(waiting.saturating_sub(self.waiting));
        gauge.dec_by(self.waiting.saturating_sub(waiting));
        self.waiting = waiting;
    }
}

impl Drop for WaitingGauge {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts a request while it is in flight.
struct InFlight(Arc<Metrics>);

impl InFlight {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.webhook_in_flight.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.webhook_in_flight.dec();
    }
}
