//! Delivers one shard of a subscription: takes what its consumer is told, sends it, and says what
//! became of it.
//!
//! The ledger is the queue: little is held here, and when that is full nothing more is taken. What is
//! not acknowledged when the process ends is delivered again after the next start.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::{
    sync::{Semaphore, watch},
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Ledger, Source,
    event::{Envelope, Message},
    health::{Change, Health, Leave},
    lanes::{Lanes, Ticket, Waiting},
    progress::Progress,
    retry::Retry,
    sender::{Sender, Sent},
};
use crate::{
    domain::{FailedDelivery, Subscription},
    event::Event,
    node::{Acknowledged, ConsumeError, Delivery, SnapshotSubject},
    telemetry::{Metrics, WebhookOutcome},
    watch::WatchError,
};

/// The greatest number of messages of a shard that wait or are on their way.
pub const WAITING_MAX: usize = 256;
/// The greatest number of messages of a shard that are on their way.
pub const IN_FLIGHT_MAX: usize = 16;
/// The greatest number of dead letters of a shard that are held to be delivered once more; the others
/// wait to be taken.
pub const REPLAYS_OPEN_MAX: usize = 64;
/// The greatest number of events that are delivered while an older one is tried again and again. When
/// there are more, that one is given up before its time: the endpoint takes everything else, and what
/// is remembered of each would grow without bound. Fewer than a consumer keeps
/// ([`crate::node::IN_FLIGHT_MAX`]), so that it never stands still for one event.
pub const AHEAD_MAX: usize = 8_000;
/// How long what is on its way has time to come back when the server stops.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a worker needs, and shares with others.
pub(super) struct Tools<L> {
    pub(super) ledger: Arc<L>,
    pub(super) sender: Sender,
    pub(super) retry: Retry,
    pub(super) metrics: Arc<Metrics>,
    /// The places of tries, of all subscriptions.
    pub(super) places: Arc<Semaphore>,
}

/// Something to deliver.
#[derive(Debug)]
enum Job {
    Event(Arc<Event>, Vec<usize>),
    /// A dead letter: tried once.
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
            Self::Snapshot(own) => envelope.snapshot(own),
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
    /// It was told to.
    Stopped,
    /// Its consumer hears nothing more.
    Source(ConsumeError),
    /// A try ended that should not have.
    Broken,
}

/// Delivers one shard.
pub(super) struct Worker<L: Ledger> {
    tools: Arc<Tools<L>>,
    source: L::Source,
    subscription: Arc<Subscription>,
    shard: u32,
    envelope: Arc<Envelope>,
    health: Arc<Health>,
    recovered: watch::Receiver<u64>,
    replays: watch::Receiver<u64>,
    more_replays: bool,
    replays_open: usize,
    lanes: Lanes<Job>,
    tries: JoinSet<(Ticket, Sent)>,
    progress: Progress,
    /// The end of the snapshot waits, or is on its way: nothing more is taken.
    ending_snapshot: bool,
    /// A data subject of the snapshot was not told of.
    snapshot_lost: bool,
    counted: Counted,
}

impl<L: Ledger> Worker<L> {
    pub(super) fn new(
        tools: Arc<Tools<L>>,
        source: L::Source,
        subscription: Arc<Subscription>,
        shard: u32,
        envelope: Arc<Envelope>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            recovered: health.recovered(),
            replays: tools.ledger.replays(),
            more_replays: true,
            replays_open: 0,
            lanes: Lanes::new(),
            tries: JoinSet::new(),
            progress: Progress::default(),
            ending_snapshot: false,
            snapshot_lost: false,
            counted: Counted { metrics: Arc::clone(&tools.metrics), waiting: 0 },
            tools,
            source,
            subscription,
            shard,
            envelope,
            health,
        }
    }

    /// Delivers until it is told to stop, or there is nothing more to hear.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ended {
        loop {
            if self.more_replays && self.replays_open < REPLAYS_OPEN_MAX {
                self.take_replays().await;
            }
            let wake = self.start_due();
            self.counted.waiting(self.lanes.len());
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.finish().await;
                    return Ended::Stopped;
                }
                Some(tried) = self.tries.join_next() => match tried {
                    Ok((ticket, sent)) => self.came_back(ticket, &sent),
                    Err(error) => return self.broken(&error),
                },
                Ok(()) = self.recovered.changed() => self.lanes.wake(),
                Ok(()) = self.replays.changed() => self.more_replays = true,
                told = self.source.next(), if self.may_take() => match told {
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
                let own = Arc::clone(&event);
                self.lanes.push(Job::Event(event, passing), own.own_subjects());
            }
            Delivery::Snapshot(own) => {
                let subject = own.subject.clone();
                self.lanes.push(Job::Snapshot(own), std::iter::once(&subject));
            }
            Delivery::SnapshotEnd { .. } if self.snapshot_lost => self.source.credit(1),
            Delivery::SnapshotEnd { revision, subjects } => {
                self.lanes.push_barrier(Job::SnapshotEnd { revision, subjects });
                self.ending_snapshot = true;
            }
            // What is passed over is settled by itself.
            Delivery::CaughtUp { .. } => {}
        }
    }

    /// Takes dead letters that somebody wants to be delivered once more.
    async fn take_replays(&mut self) {
        let room = REPLAYS_OPEN_MAX - self.replays_open;
        let ledger = Arc::clone(&self.tools.ledger);
        let indexes = ledger.take_replays(self.subscription.id, self.shard, room);
        self.more_replays = indexes.len() == room;
        let read = spawn_blocking(move || {
            let read = |index| (index, ledger.event(index));
            indexes.into_iter().map(read).collect::<Vec<_>>()
        });
        for (index, event) in read.await.unwrap_or_default() {
            let name = &self.subscription.spec.name;
            match event {
                Ok(Some(event)) => {
                    let passing = event.passing(&self.subscription.spec.filter).unwrap_or_default();
                    let own = Arc::clone(&event);
                    self.lanes.push(Job::Replay(event, passing), own.own_subjects());
                    self.replays_open += 1;
                }
                Ok(None) => error!(subscription = %name, index, "a dead letter is no event"),
                Err(error) => {
                    error!(subscription = %name, index, %error, "a dead letter can not be read");
                }
            }
        }
    }

    /// Sends what may go now. Answers when something may go that may not now, if anything waits.
    fn start_due(&mut self) -> Option<Instant> {
        while self.tries.len() < IN_FLIGHT_MAX {
            // Who has nothing to send must not hold the one probe.
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
        let tools = Arc::clone(&self.tools);
        let (envelope, spec) = (Arc::clone(&self.envelope), Arc::clone(&self.subscription.spec));
        self.tries.spawn(async move {
            let message = match message {
                Ok(message) => message,
                Err(error) => return (ticket, Sent::Unreachable(error.to_string())),
            };
            // None is only answered by what was closed, and these places never are.
            let _place = tools.places.acquire().await.ok();
            let _on_its_way = OnItsWay::new(&tools.metrics);
            let url = spec.webhook_url.as_deref().unwrap_or_default();
            (ticket, tools.sender.send(url, &message, envelope.secret()).await)
        });
    }

    fn came_back(&mut self, ticket: Ticket, sent: &Sent) {
        self.tools.metrics.webhook_try(outcome(sent));
        match sent {
            Sent::Taken => self.delivered(ticket),
            Sent::Gone => self.give_up(ticket, sent),
            _ => self.failed(ticket, sent),
        }
    }

    fn delivered(&mut self, ticket: Ticket) {
        if self.health.taken() {
            info!(subscription = %self.subscription.spec.name, "the endpoint takes events again");
        }
        let Some(gone) = self.lanes.remove(ticket) else { return };
        match gone.message {
            Job::Event(event, _) => {
                self.progress.settled(event.index);
                let indexes = vec![event.index];
                self.acknowledge(Acknowledged { indexes, ..Acknowledged::default() });
                self.source.credit(1);
                self.bound_ahead();
            }
            Job::Replay(event, _) => {
                self.replays_open -= 1;
                self.source.redelivered(event.index);
            }
            Job::Snapshot(_) => self.source.credit(1),
            Job::SnapshotEnd { .. } => {
                self.ending_snapshot = false;
                self.acknowledge(Acknowledged { snapshot: true, ..Acknowledged::default() });
                self.source.credit(1);
            }
        }
    }

    fn failed(&mut self, ticket: Ticket, sent: &Sent) {
        let now = Instant::now();
        let hold = match sent {
            Sent::Refused { hold, .. } => *hold,
            _ => None,
        };
        let (retry, die) = (self.tools.retry, rand::rng().random_range(0.0..1.0));
        let attempt =
            self.lanes.came_back(ticket, sent.status(), now, |attempts| retry.pause(attempts, die));
        let name = &self.subscription.spec.name;
        let index = self.lanes.message(ticket).and_then(Job::index);
        let (shard, why) = (self.shard, why(sent));
        debug!(subscription = %name, shard, index, attempt, why, "a message was not taken");
        if self.health.failed(shard, ticket, hold, now) == Change::WentDown {
            warn!(subscription = %name, shard, why, "the endpoint is down, and is probed");
        }
        if matches!(self.lanes.message(ticket), Some(Job::Replay(..))) {
            self.give_up(ticket, sent);
        }
        for ticket in self.lanes.expired(now, retry.retry_for) {
            self.give_up(ticket, sent);
        }
    }

    /// Nothing more is tried of a message. An event becomes a dead letter; a replay stays one.
    fn give_up(&mut self, ticket: Ticket, sent: &Sent) {
        let Some(gone) = self.lanes.remove(ticket) else { return };
        let http_status = match sent {
            Sent::Gone => sent.status(),
            _ => gone.http_status,
        };
        self.tell_given_up(&gone, http_status);
        match gone.message {
            Job::Event(event, _) => {
                self.source.give_up(FailedDelivery {
                    index: event.index,
                    attempts: gone.attempts,
                    http_status: http_status.into(),
                });
                self.progress.settled(event.index);
                self.source.credit(1);
            }
            Job::Replay(..) => self.replays_open -= 1,
            Job::Snapshot(_) => {
                // What was not told to its end is not acknowledged, and told again after a restart.
                self.snapshot_lost = true;
                self.source.credit(1);
                self.drop_snapshot_end();
            }
            Job::SnapshotEnd { .. } => {
                self.ending_snapshot = false;
                self.source.credit(1);
            }
        }
    }

    fn tell_given_up(&self, gone: &Waiting<Job>, http_status: u16) {
        let name = &self.subscription.spec.name;
        let (shard, attempts) = (self.shard, gone.attempts);
        match &gone.message {
            Job::Event(event, _) => {
                self.tools.metrics.webhook_given_up.inc();
                let index = event.index;
                warn!(subscription = %name, shard, index, attempts, http_status, "a dead letter");
            }
            Job::Replay(event, _) => {
                let index = event.index;
                warn!(subscription = %name, shard, index, http_status, "it stays a dead letter");
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
            self.source.credit(1);
        }
    }

    /// Gives the oldest event up if too many were delivered since.
    fn bound_ahead(&mut self) {
        if self.progress.ahead() <= AHEAD_MAX {
            return;
        }
        let Some(oldest) = self.progress.oldest() else { return };
        let is_oldest = |job: &Job| matches!(job, Job::Event(event, _) if event.index == oldest);
        let ticket = self.lanes.messages().find(|(_, job)| is_oldest(job)).map(|(own, _)| own);
        if let Some(ticket) = ticket.filter(|own| !self.lanes.is_in_flight(*own)) {
            self.give_up(ticket, &Sent::TimedOut);
        }
    }

    fn acknowledge(&mut self, what: Acknowledged) {
        if let Err(error) = self.source.acknowledge(what) {
            let name = &self.subscription.spec.name;
            error!(subscription = %name, %error, "a delivery could not be acknowledged");
        }
    }

    /// Lets what is on its way come back, and sends nothing more.
    async fn finish(&mut self) {
        let all = async {
            while let Some(tried) = self.tries.join_next().await {
                if let Ok((ticket, sent)) = tried {
                    self.came_back(ticket, &sent);
                }
            }
        };
        if timeout(STOP_GRACE, all).await.is_err() {
            debug!("what is on its way will be sent again after the next start");
        }
    }

    fn broken(&self, error: &JoinError) -> Ended {
        error!(subscription = %self.subscription.spec.name, %error, "a try ended unexpectedly");
        Ended::Broken
    }
}

/// What came of a try, for the metrics.
fn outcome(sent: &Sent) -> WebhookOutcome {
    match sent {
        Sent::Taken => WebhookOutcome::Delivered,
        Sent::Gone | Sent::Refused { .. } => WebhookOutcome::Refused,
        Sent::TimedOut => WebhookOutcome::TimedOut,
        Sent::Unreachable(_) => WebhookOutcome::Unreachable,
        Sent::Blocked(_) => WebhookOutcome::Blocked,
    }
}

/// What came of a try, for the log.
fn why(sent: &Sent) -> String {
    match sent {
        Sent::Taken | Sent::Gone | Sent::Refused { .. } => format!("status {}", sent.status()),
        Sent::TimedOut => "no answer in time".to_owned(),
        Sent::Unreachable(why) => why.clone(),
        Sent::Blocked(why) => why.to_string(),
    }
}

/// Keeps the number of messages that wait; none of this worker's, once it is gone.
struct Counted {
    metrics: Arc<Metrics>,
    waiting: u64,
}

impl Counted {
    fn waiting(&mut self, now: usize) {
        let now = now as u64;
        let level = &self.metrics.webhook_waiting;
        level.inc_by(now.saturating_sub(self.waiting));
        level.dec_by(self.waiting.saturating_sub(now));
        self.waiting = now;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting(0);
    }
}

/// Counts a try for as long as it is on its way.
struct OnItsWay(Arc<Metrics>);

impl OnItsWay {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.webhook_in_flight.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.webhook_in_flight.dec();
    }
}
