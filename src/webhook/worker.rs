//! Delivers one shard of a subscription: takes deliveries from its consumer, sends them, and
//! acknowledges them or gives them up.
//!
//! The ledger is the queue. A worker holds few messages, and takes no more while it is full. Events
//! that are not acknowledged when the process ends are delivered again after the next start.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    event::{Envelope, Message},
    health::{Health, Permission},
    lanes::{Lanes, Ticket, Waiting},
    progress::Progress,
    retry::Retry,
    sender::{Sender, Sent},
};
use crate::{
    domain::{FailedDelivery, Subscription},
    event::Event,
    node::{Acknowledged, ConsumeError, Consumer, Delivery, Node, SnapshotSubject},
    telemetry::{Metrics, WebhookOutcome},
    watch::WatchError,
};

/// Maximum number of undelivered messages of a shard.
pub const WAITING_MAX: usize = 256;
/// Maximum number of requests in flight of a shard.
pub const IN_FLIGHT_MAX: usize = 16;
/// Maximum number of dead letters of a shard that a worker replays at a time.
pub const REPLAYS_OPEN_MAX: usize = 64;
/// Maximum number of events that are settled ahead of an older one that keeps failing. Beyond it the
/// failing event is given up early: the endpoint accepts the others, and the memory for them must be
/// bounded. Less than a consumer's limit ([`crate::node::IN_FLIGHT_MAX`]), so that one event never
/// stops the consumer.
pub const AHEAD_MAX: usize = 8_000;
/// How long the worker waits for requests in flight when the server stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Shared by the workers of all subscriptions.
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    pub(super) sender: Sender,
    pub(super) retry: Retry,
    pub(super) metrics: Arc<Metrics>,
    /// One permit for each request in flight.
    pub(super) permits: Semaphore,
}

/// A message to deliver.
#[derive(Debug)]
enum Job {
    Event(Arc<Event>, Vec<usize>),
    /// A dead letter, attempted once.
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

    /// Index of the event, for log lines.
    fn index(&self) -> Option<u64> {
        match self {
            Self::Event(event, _) | Self::Replay(event, _) => Some(event.index),
            Self::Snapshot(_) | Self::SnapshotEnd { .. } => None,
        }
    }
}

/// Why a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// By its stop token.
    Stopped,
    /// With its consumer.
    Consumer(ConsumeError),
    /// A task of an attempt panicked.
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
    more_replays: bool,
    replays_open: usize,
    lanes: Lanes<Job>,
    attempts: JoinSet<(Ticket, Sent)>,
    progress: Progress,
    /// The end of the snapshot is undelivered: nothing more is taken.
    ending_snapshot: bool,
    /// A part of the snapshot was given up.
    snapshot_lost: bool,
    waiting: WaitingLevel,
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
            attempts: JoinSet::new(),
            progress: Progress::default(),
            ending_snapshot: false,
            snapshot_lost: false,
            waiting: WaitingLevel { metrics: Arc::clone(&shared.metrics), messages: 0 },
            shared,
            consumer,
            subscription,
            shard,
            envelope,
            health,
        }
    }

    /// Delivers until `stop` is cancelled or the consumer ends.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ended {
        loop {
            if self.more_replays && self.replays_open < REPLAYS_OPEN_MAX {
                self.take_replays().await;
            }
            let wake = self.start_due();
            self.waiting.set(self.lanes.len());
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.finish().await;
                    return Ended::Stopped;
                }
                Some(attempt) = self.attempts.join_next() => match attempt {
                    Ok((ticket, sent)) => self.conclude(ticket, &sent),
                    Err(error) => {
                        let name = &self.subscription.spec.name;
                        error!(subscription = %name, %error, "the task of an attempt failed");
                        return Ended::Broken;
                    }
                },
                Ok(()) = self.recovered.changed() => self.lanes.end_pauses(),
                Ok(()) = self.replays.changed() => self.more_replays = true,
                next = self.consumer.next(), if self.may_take() => match next {
                    Ok(delivery) => self.take(delivery),
                    Err(closing @ ConsumeError::Watch(WatchError::Closing { .. })) => {
                        self.finish().await;
                        return Ended::Consumer(closing);
                    }
                    Err(error) => return Ended::Consumer(error),
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
                self.lanes.push(Job::Event(Arc::clone(&event), passing), event.own_subjects());
            }
            Delivery::Snapshot(known) => {
                let subject = known.subject.clone();
                self.lanes.push(Job::Snapshot(known), std::iter::once(&subject));
            }
            Delivery::SnapshotEnd { .. } if self.snapshot_lost => self.consumer.credit(1),
            Delivery::SnapshotEnd { revision, subjects } => {
                self.lanes.push_barrier(Job::SnapshotEnd { revision, subjects });
                self.ending_snapshot = true;
            }
            // The consumer settles filtered entries by itself.
            Delivery::CaughtUp { .. } => {}
        }
    }

    /// Takes dead letters for which an operator asked for a replay.
    async fn take_replays(&mut self) {
        let room = REPLAYS_OPEN_MAX - self.replays_open;
        let node = Arc::clone(&self.shared.node);
        let indexes = node.take_replays(self.subscription.id, self.shard, room);
        self.more_replays = indexes.len() == room;
        let read = spawn_blocking(move || {
            let read = |index| (index, node.event(index));
            indexes.into_iter().map(read).collect::<Vec<_>>()
        });
        for (index, event) in read.await.unwrap_or_default() {
            let name = &self.subscription.spec.name;
            match event {
                Ok(Some(event)) => {
                    let passing = event.passing(&self.subscription.spec.filter).unwrap_or_default();
                    let job = Job::Replay(Arc::clone(&event), passing);
                    self.lanes.push(job, event.own_subjects());
                    self.replays_open += 1;
                }
                Ok(None) => error!(subscription = %name, index, "a dead letter is no event"),
                Err(error) => {
                    error!(subscription = %name, index, %error, "a dead letter can not be read");
                }
            }
        }
    }

    /// Starts every message that may be sent now. Returns when the next one may, if any waits.
    fn start_due(&mut self) -> Option<Instant> {
        while self.attempts.len() < IN_FLIGHT_MAX {
            // A worker with no message to send must not take the probe.
            self.lanes.probe()?;
            let now = Instant::now();
            match self.health.ask(now) {
                Permission::NoneBefore(instant) => return Some(instant),
                Permission::All => match self.lanes.due(now) {
                    Some(ticket) => self.start(ticket, now),
                    None => return self.lanes.due_at(now),
                },
                Permission::Probe => match self.lanes.probe() {
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
        self.attempts.spawn(async move {
            let message = match message {
                Ok(message) => message,
                Err(error) => return (ticket, Sent::Unreachable(error.to_string())),
            };
            // Only a closed semaphore gives no permit, and this one is never closed.
            let _permit = shared.permits.acquire().await.ok();
            let _in_flight = InFlight::new(&shared.metrics);
            let url = spec.webhook_url.as_deref().unwrap_or_default();
            (ticket, shared.sender.send(url, &message, envelope.secret()).await)
        });
    }

    fn conclude(&mut self, ticket: Ticket, sent: &Sent) {
        self.shared.metrics.webhook_try(outcome(sent));
        match sent {
            Sent::Accepted => self.delivered(ticket),
            Sent::Gone => self.give_up(ticket, sent),
            _ => self.failed(ticket, sent),
        }
    }

    fn delivered(&mut self, ticket: Ticket) {
        if self.health.accepted() {
            info!(subscription = %self.subscription.spec.name, "the endpoint accepts events again");
        }
        let Some(delivered) = self.lanes.remove(ticket) else { return };
        match delivered.message {
            Job::Event(event, _) => {
                self.progress.settled(event.index);
                let indexes = vec![event.index];
                self.acknowledge(&Acknowledged { indexes, ..Acknowledged::default() });
                self.consumer.credit(1);
                self.bound_ahead();
            }
            Job::Replay(event, _) => {
                self.replays_open -= 1;
                self.consumer.redelivered(event.index);
            }
            Job::Snapshot(_) => self.consumer.credit(1),
            Job::SnapshotEnd { .. } => {
                self.ending_snapshot = false;
                self.acknowledge(&Acknowledged { snapshot: true, ..Acknowledged::default() });
                self.consumer.credit(1);
            }
        }
    }

    fn failed(&mut self, ticket: Ticket, sent: &Sent) {
        let now = Instant::now();
        let hold = match sent {
            Sent::Refused { hold, .. } => *hold,
            _ => None,
        };
        let (retry, random) = (self.shared.retry, rand::rng().random_range(0.0..1.0));
        let pause = |attempts| retry.pause(attempts, random);
        let attempt = self.lanes.retry(ticket, sent.status(), now, pause);
        let name = &self.subscription.spec.name;
        let job = self.lanes.get(ticket).map(|waiting| &waiting.message);
        let index = job.and_then(Job::index);
        let (shard, why) = (self.shard, why(sent));
        debug!(subscription = %name, shard, index, attempt, why, "an attempt failed");
        if self.health.failed(shard, ticket, hold, now) {
            warn!(subscription = %name, shard, why, "the endpoint is down, and is probed");
        }
        if matches!(job, Some(Job::Replay(..))) {
            self.give_up(ticket, sent);
        }
        for ticket in self.lanes.expired(now, retry.retry_for) {
            self.give_up(ticket, sent);
        }
    }

    /// Ends the attempts of a message. An event becomes a dead letter; a replay stays one.
    fn give_up(&mut self, ticket: Ticket, sent: &Sent) {
        let Some(given_up) = self.lanes.remove(ticket) else { return };
        let http_status = match sent {
            Sent::Gone => sent.status(),
            _ => given_up.http_status,
        };
        self.log_given_up(&given_up, http_status);
        match given_up.message {
            Job::Event(event, _) => {
                self.consumer.give_up(FailedDelivery {
                    index: event.index,
                    attempts: given_up.attempts,
                    http_status: http_status.into(),
                });
                self.progress.settled(event.index);
                self.consumer.credit(1);
            }
            Job::Replay(..) => self.replays_open -= 1,
            Job::Snapshot(_) => {
                // An incomplete snapshot is not acknowledged, so it starts again after a restart.
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

    fn log_given_up(&self, given_up: &Waiting<Job>, http_status: u16) {
        let name = &self.subscription.spec.name;
        let (shard, attempts) = (self.shard, given_up.attempts);
        match &given_up.message {
            Job::Event(event, _) => {
                self.shared.metrics.webhook_given_up.inc();
                let index = event.index;
                warn!(subscription = %name, shard, index, attempts, http_status, "an event became a dead letter");
            }
            Job::Replay(event, _) => {
                let index = event.index;
                warn!(subscription = %name, shard, index, http_status, "the replay of a dead letter failed");
            }
            Job::Snapshot(_) | Job::SnapshotEnd { .. } => error!(
                subscription = %name, shard, attempts, http_status,
                "a snapshot was not delivered, and begins again when the server starts"
            ),
        }
    }

    fn drop_snapshot_end(&mut self) {
        let end = |job: &Job| matches!(job, Job::SnapshotEnd { .. });
        let ticket = self.lanes.messages().find(|(_, job)| end(job)).map(|(ticket, _)| ticket);
        if let Some(ticket) = ticket {
            self.lanes.remove(ticket);
            self.ending_snapshot = false;
            self.consumer.credit(1);
        }
    }

    /// Gives the oldest event up if too many later ones were settled.
    fn bound_ahead(&mut self) {
        if self.progress.ahead() <= AHEAD_MAX {
            return;
        }
        let Some(oldest) = self.progress.oldest() else { return };
        let is_oldest = |job: &Job| matches!(job, Job::Event(event, _) if event.index == oldest);
        let ticket =
            self.lanes.messages().find(|(_, job)| is_oldest(job)).map(|(ticket, _)| ticket);
        let is_waiting =
            |ticket: &Ticket| self.lanes.get(*ticket).is_some_and(|waiting| !waiting.in_flight);
        if let Some(ticket) = ticket.filter(is_waiting) {
            self.give_up(ticket, &Sent::TimedOut);
        }
    }

    fn acknowledge(&mut self, acknowledged: &Acknowledged) {
        if let Err(error) = self.consumer.acknowledge(acknowledged) {
            let name = &self.subscription.spec.name;
            error!(subscription = %name, %error, "a delivery could not be acknowledged");
        }
    }

    /// Waits for the requests in flight and starts no more.
    async fn finish(&mut self) {
        let all = async {
            while let Some(attempt) = self.attempts.join_next().await {
                if let Ok((ticket, sent)) = attempt {
                    self.conclude(ticket, &sent);
                }
            }
        };
        if timeout(STOP_GRACE, all).await.is_err() {
            debug!("messages in flight will be sent again after the next start");
        }
    }
}

/// The outcome of an attempt, for the metrics.
fn outcome(sent: &Sent) -> WebhookOutcome {
    match sent {
        Sent::Accepted => WebhookOutcome::Delivered,
        Sent::Gone | Sent::Refused { .. } => WebhookOutcome::Refused,
        Sent::TimedOut => WebhookOutcome::TimedOut,
        Sent::Unreachable(_) => WebhookOutcome::Unreachable,
        Sent::Blocked(_) => WebhookOutcome::Blocked,
    }
}

/// The outcome of an attempt, for the log.
fn why(sent: &Sent) -> String {
    match sent {
        Sent::Accepted | Sent::Gone | Sent::Refused { .. } => format!("status {}", sent.status()),
        Sent::TimedOut => "no answer in time".to_owned(),
        Sent::Unreachable(why) => why.clone(),
        Sent::Blocked(why) => why.to_string(),
    }
}

/// This worker's share of the metric of undelivered messages; dropping it takes the share away.
struct WaitingLevel {
    metrics: Arc<Metrics>,
    messages: u64,
}

impl WaitingLevel {
    fn set(&mut self, messages: usize) {
        let messages = messages as u64;
        let level = &self.metrics.webhook_waiting;
        level.inc_by(messages.saturating_sub(self.messages));
        level.dec_by(self.messages.saturating_sub(messages));
        self.messages = messages;
    }
}

impl Drop for WaitingLevel {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts a request in flight until it is dropped.
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
