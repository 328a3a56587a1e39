//! `consent.v1.WatchService/Consume`: a subscription's stream to its consumer.
//!
//! Each stream has a task of its own, so that acknowledgements are processed at once, also while the
//! client is slow to read. The task takes the next delivery only when the client has a credit and room
//! for it.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, Stream, stream};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::Instrument;

use super::{
    convert::{self, ConsumerRequest},
    received,
};
use crate::{
    domain::Millis,
    node::{ConsumeError, Consumer, Delivery, Node},
    proto,
    status::Fault,
    watch::WatchError,
};

/// How many messages wait for a client to have room for them, beyond what the transport holds.
const WAITING_MAX: usize = 1;
/// How many messages of a client are still taken once the server drains.
const LAST_REQUESTS_MAX: usize = 64;

/// The messages to a consumer.
pub(super) type Messages =
    Pin<Box<dyn Stream<Item = Result<proto::ConsumeResponse, Status>> + Send>>;

/// Starts to consume, as the first message of the stream asks for it.
pub(super) async fn consume(
    node: &Arc<Node>,
    drain: &CancellationToken,
    mut requests: Streaming<proto::ConsumeRequest>,
) -> Result<Messages, Status> {
    let (consuming, progress_interval) = tokio::select! {
        biased;
        () = drain.cancelled() => return Err(Fault::ShuttingDown.into()),
        first = received(&mut requests) => convert::consuming(first?)?,
    };
    let consumer = node.consume(consuming).map_err(Fault::from)?;
    let started = convert::consume_started(&consumer);
    let (sender, messages) = mpsc::channel(WAITING_MAX);
    let progress = Progress::new(progress_interval);
    let stream = Consumed { consumer, progress, parts: VecDeque::new() };
    let running = tokio::spawn(stream.run(requests, sender, drain.clone()).in_current_span());
    let sent = Sent { started: Some(started), messages, running };
    Ok(Box::pin(stream::try_unfold(sent, Sent::next)))
}

/// The outgoing side of a stream: the first message, those of the task, and how the task ended.
struct Sent {
    started: Option<proto::ConsumeResponse>,
    messages: mpsc::Receiver<proto::ConsumeResponse>,
    running: JoinHandle<Result<(), Status>>,
}

impl Sent {
    async fn next(mut self) -> Result<Option<(proto::ConsumeResponse, Self)>, Status> {
        let message = match self.started.take() {
            Some(started) => Some(started),
            None => self.messages.recv().await,
        };
        if let Some(message) = message {
            return Ok(Some((message, self)));
        }
        match self.running.await {
            Ok(ended) => ended.map(|()| None),
            Err(error) => Err(Fault::Internal(format!("a consumer's stream: {error}")).into()),
        }
    }
}

/// What comes next in a stream.
enum Step<P> {
    Request(Result<Option<proto::ConsumeRequest>, Status>),
    Place(Option<P>),
    Message(Result<proto::ConsumeResponse, Fault>),
}

/// The stream of one consumer.
struct Consumed {
    consumer: Consumer,
    progress: Progress,
    /// The rest of the messages of an entry with several events.
    parts: VecDeque<proto::ConsumeResponse>,
}

impl Consumed {
    /// Runs until the client has closed its side or is gone, or until the stream has to end.
    async fn run(
        mut self,
        mut requests: Streaming<proto::ConsumeRequest>,
        messages: mpsc::Sender<proto::ConsumeResponse>,
        drain: CancellationToken,
    ) -> Result<(), Status> {
        let mut place = None;
        let mut ended = pin!(self.consumer.ended());
        loop {
            // The ends of a stream come first: they apply also while messages wait in either direction.
            // The rest is polled in random order, so that each gets its turn.
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    self.take_last(&mut requests)?;
                    return Err(self.closing().into());
                }
                error = &mut ended => return Err(Fault::from(error).into()),
                () = messages.closed() => return Ok(()),
                step = async {
                    tokio::select! {
                        request = received(&mut requests) => Step::Request(request),
                        reserved = messages.reserve(), if place.is_none() => Step::Place(reserved.ok()),
                        message = self.next(), if place.is_some() => Step::Message(message),
                    }
                } => match step {
                    Step::Request(request) => match request? {
                        Some(request) => self.take(request)?,
                        None => return Ok(()),
                    },
                    Step::Place(reserved) => place = reserved,
                    Step::Message(message) => {
                        let message = message?;
                        if let Some(place) = place.take() {
                            place.send(message);
                        }
                    }
                },
            }
        }
    }

    /// Takes the requests that arrived before a drain: acknowledgements among them count.
    fn take_last(&mut self, requests: &mut Streaming<proto::ConsumeRequest>) -> Result<(), Status> {
        for _ in 0..LAST_REQUESTS_MAX {
            match received(requests).now_or_never() {
                Some(Ok(Some(request))) => self.take(request)?,
                _ => break,
            }
        }
        Ok(())
    }

    fn take(&mut self, request: proto::ConsumeRequest) -> Result<(), Fault> {
        match convert::consumer_request(request)? {
            ConsumerRequest::Credit(more) => self.consumer.credit(more),
            ConsumerRequest::Acknowledged(ack) => self.consumer.acknowledge(&ack)?,
        }
        Ok(())
    }

    /// The next message to the client. Cancel-safe.
    async fn next(&mut self) -> Result<proto::ConsumeResponse, Fault> {
        loop {
            if let Some(message) = self.parts.pop_front() {
                return Ok(message);
            }
            // Without room for an event it is not known whether there is one, so progress would be a
            // guess.
            let may_be_idle = self.progress.is_caught_up && self.consumer.has_room();
            tokio::select! {
                biased;
                delivery = self.consumer.next() => {
                    let delivery = delivery?;
                    match delivery {
                        Delivery::CaughtUp { next_index } => {
                            self.parts.extend(self.progress.caught_up(next_index));
                        }
                        _ => self.parts.extend(self.progress.delivered(&delivery)),
                    }
                }
                _ = self.progress.timer.tick(), if may_be_idle => return Ok(self.progress.message()),
            }
        }
    }

    fn closing(&self) -> Fault {
        let next_index = self.consumer.next_index();
        ConsumeError::from(WatchError::Closing { next_index }).into()
    }
}

/// When a stream gets a progress message: once it has caught up, and then after every interval without
/// another message.
struct Progress {
    timer: Interval,
    /// Every event before this index was sent, or does not concern the consumer.
    next_index: u64,
    /// Whether no event is left to send.
    is_caught_up: bool,
    was_sent: bool,
}

impl Progress {
    fn new(interval: Duration) -> Self {
        let mut timer = interval_at(Instant::now() + interval, interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { timer, next_index: 0, is_caught_up: false, was_sent: false }
    }

    /// Takes note of a delivery, and makes its messages.
    fn delivered(&mut self, delivery: &Delivery) -> Vec<proto::ConsumeResponse> {
        // A repeated delivery is not a new event.
        if !matches!(delivery, Delivery::Event { attempt: 2.., .. }) {
            self.is_caught_up = false;
        }
        self.timer.reset();
        convert::consume_delivery(delivery)
    }

    /// Takes note that everything was sent; makes a progress message if one is due.
    fn caught_up(&mut self, next_index: u64) -> Option<proto::ConsumeResponse> {
        (self.next_index, self.is_caught_up) = (next_index, true);
        // While many events fail the filter, the stream never waits for its timer, so the timer is
        // polled here, too.
        let is_due = !self.was_sent || self.timer.tick().now_or_never().is_some();
        is_due.then(|| self.message())
    }

    fn message(&mut self) -> proto::ConsumeResponse {
        self.was_sent = true;
        self.timer.reset();
        convert::consume_progress(self.next_index, Millis::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::Key,
        event::{CatalogDetail, CatalogEffect, Event, EventDetail},
    };

    fn event(attempt: u32) -> Delivery {
        let detail = EventDetail::Catalog(CatalogDetail {
            purpose: Some(Key::parse("news").unwrap()),
            channel: None,
            namespace: None,
            effects: vec![CatalogEffect::Retired],
            version: 1,
            oldest_compatible: 1,
        });
        let event = Arc::new(Event { index: 7, recorded_at: Millis(0), detail });
        Delivery::Event { event, passing: Vec::new(), attempt }
    }

    fn next_index(message: &proto::ConsumeResponse) -> Option<u64> {
        match &message.message {
            Some(proto::consume_response::Message::Progress(progress)) => Some(progress.next_index),
            _ => None,
        }
    }

    #[tokio::test]
    async fn progress_is_sent_once_and_then_at_its_interval() {
        let mut progress = Progress::new(Duration::from_secs(3_600));
        let first = progress.caught_up(5).unwrap();
        assert_eq!(next_index(&first), Some(5));
        assert_eq!(progress.caught_up(6), None);
        assert_eq!(next_index(&progress.message()), Some(6), "and then as far as it has come");
        assert_eq!(progress.delivered(&event(2))[0].attempt, 2);
        assert!(progress.is_caught_up, "a repeated delivery is not a new event");
        assert_eq!(progress.delivered(&event(1))[0].attempt, 1);
        assert!(!progress.is_caught_up);
    }

    #[tokio::test]
    async fn progress_is_sent_while_many_events_fail_the_filter() {
        let mut progress = Progress::new(Duration::from_millis(2));
        progress.caught_up(0).unwrap();
        let begun = Instant::now();
        let mut sent = Vec::new();
        for next in 1.. {
            sent.extend(progress.caught_up(next));
            if sent.len() == 3 {
                break;
            }
            // Yields, but never waits.
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() >= Duration::from_millis(5), "not more often than asked for");
    }
}
