//! `consent.v1.WatchService/Consume`: a subscription's stream to its consumer.
//!
//! Each stream has a task of its own, so that what the client acknowledges is heard at once, also
//! while it is slow to read. The task takes the next delivery only when the client has room for it
//! and a credit.

use std::{
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

use super::convert::{self, ConsumerSaid};
use crate::{
    domain::Millis,
    node::{ConsumeError, Consumer, Delivery, Node},
    proto,
    status::{Fault, fault_of_transport},
    watch::WatchError,
};

/// How many messages wait for a client to have room for them, beyond what the transport holds.
const WAITING_MAX: usize = 1;
/// How many messages of a client are still taken once the server drains.
const LAST_REQUESTS_MAX: usize = 64;

/// What a consumer is sent.
pub(super) type Messages =
    Pin<Box<dyn Stream<Item = Result<proto::ConsumeResponse, Status>> + Send>>;

/// Lets a consumer in, once it has said what it wants.
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
    let (tell, told) = mpsc::channel(WAITING_MAX);
    let stream = Consumed { consumer, progress: Progress::new(progress_interval) };
    let running = tokio::spawn(stream.run(requests, tell, drain.clone()).in_current_span());
    let sent = Sent { started: Some(started), told, running };
    Ok(Box::pin(stream::try_unfold(sent, Sent::next)))
}

/// The next message; none when the client has closed its side.
async fn received(
    requests: &mut Streaming<proto::ConsumeRequest>,
) -> Result<Option<proto::ConsumeRequest>, Status> {
    requests.message().await.map_err(|status| {
        match fault_of_transport(status.clone().into_http::<()>().headers()) {
            Some(fault) => fault.into(),
            None => status,
        }
    })
}

/// What goes out: the first message, those that the task has for the client, and how it ended.
struct Sent {
    started: Option<proto::ConsumeResponse>,
    told: mpsc::Receiver<proto::ConsumeResponse>,
    running: JoinHandle<Result<(), Status>>,
}

impl Sent {
    async fn next(mut self) -> Result<Option<(proto::ConsumeResponse, Self)>, Status> {
        let message = match self.started.take() {
            Some(started) => Some(started),
            None => self.told.recv().await,
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
    Said(Result<Option<proto::ConsumeRequest>, Status>),
    Place(Option<P>),
    Tell(Result<proto::ConsumeResponse, Fault>),
}

/// The stream of one consumer.
struct Consumed {
    consumer: Consumer,
    progress: Progress,
}

impl Consumed {
    /// Runs until the client has closed its side, or is gone; or until it has to be told of an end.
    async fn run(
        mut self,
        mut requests: Streaming<proto::ConsumeRequest>,
        tell: mpsc::Sender<proto::ConsumeResponse>,
        drain: CancellationToken,
    ) -> Result<(), Status> {
        let mut place = None;
        let mut ended = pin!(self.consumer.ended());
        loop {
            // What ends a stream comes first, however much the client says or there is to tell, and
            // also while it reads nothing. Of the rest, nothing can keep the others from their turn.
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    self.take_last(&mut requests)?;
                    return Err(self.closing().into());
                }
                why = &mut ended => return Err(Fault::from(why).into()),
                () = tell.closed() => return Ok(()),
                step = async {
                    tokio::select! {
                        request = received(&mut requests) => Step::Said(request),
                        reserved = tell.reserve(), if place.is_none() => Step::Place(reserved.ok()),
                        message = self.next(), if place.is_some() => Step::Tell(message),
                    }
                } => match step {
                    Step::Said(request) => match request? {
                        Some(request) => self.take(request)?,
                        None => return Ok(()),
                    },
                    Step::Place(reserved) => place = reserved,
                    Step::Tell(message) => {
                        let message = message?;
                        if let Some(place) = place.take() {
                            place.send(message);
                        }
                    }
                },
            }
        }
    }

    /// Takes what the client had said before a drain: what was acknowledged in time counts.
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
        match convert::consumer_said(request)? {
            ConsumerSaid::Credit(more) => self.consumer.credit(more),
            ConsumerSaid::Acknowledged(what) => self.consumer.acknowledge(&what)?,
        }
        Ok(())
    }

    /// The next message to the client. Cancel-safe.
    async fn next(&mut self) -> Result<proto::ConsumeResponse, Fault> {
        loop {
            // Without room for an event nobody looks whether there is one, and to say that there is
            // none would be a guess.
            let may_be_idle = self.progress.is_caught_up && self.consumer.has_room();
            tokio::select! {
                biased;
                delivery = self.consumer.next() => {
                    let delivery = delivery?;
                    let message = match delivery {
                        Delivery::CaughtUp { next_index } => self.progress.caught_up(next_index),
                        _ => self.progress.delivered(&delivery),
                    };
                    if let Some(message) = message {
                        return Ok(message);
                    }
                }
                _ = self.progress.timer.tick(), if may_be_idle => return Ok(self.progress.tell()),
            }
        }
    }

    fn closing(&self) -> Fault {
        let next_index = self.consumer.next_index();
        ConsumeError::from(WatchError::Closing { next_index }).into()
    }
}

/// When a stream hears how far it has come: once it has caught up, and from then on at every
/// interval in which it has nothing else to hear.
struct Progress {
    timer: Interval,
    /// Everything before it was told, or does not concern the consumer.
    next_index: u64,
    /// Whether that is all that there is.
    is_caught_up: bool,
    was_told: bool,
}

impl Progress {
    fn new(interval: Duration) -> Self {
        let mut timer = interval_at(Instant::now() + interval, interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { timer, next_index: 0, is_caught_up: false, was_told: false }
    }

    /// Takes note of a delivery, and words it.
    fn delivered(&mut self, delivery: &Delivery) -> Option<proto::ConsumeResponse> {
        // What is delivered again was told before.
        if !matches!(delivery, Delivery::Event { attempt: 2.., .. }) {
            self.is_caught_up = false;
        }
        self.timer.reset();
        convert::consumer_told(delivery)
    }

    /// Takes note that everything was told; says so where it is time to.
    fn caught_up(&mut self, next_index: u64) -> Option<proto::ConsumeResponse> {
        (self.next_index, self.is_caught_up) = (next_index, true);
        // Where nothing passes the filter and much happens, there is never a moment of waiting: the
        // timer must be asked here, too.
        let is_time = !self.was_told || self.timer.tick().now_or_never().is_some();
        is_time.then(|| self.tell())
    }

    fn tell(&mut self) -> proto::ConsumeResponse {
        self.was_told = true;
        self.timer.reset();
        convert::consume_progress(self.next_index, Millis::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::Key,
        event::{CatalogEffect, CatalogTold, Event, EventTold},
    };

    fn event(attempt: u32) -> Delivery {
        let told = EventTold::Catalog(CatalogTold {
            purpose: Some(Key::parse("news").unwrap()),
            channel: None,
            effects: vec![CatalogEffect::Retired],
            version: 1,
            oldest_compatible: 1,
        });
        let event = Arc::new(Event { index: 7, recorded_at: Millis(0), told });
        Delivery::Event { event, passing: Vec::new(), attempt }
    }

    fn next_index(message: &proto::ConsumeResponse) -> Option<u64> {
        match &message.message {
            Some(proto::consume_response::Message::Progress(own)) => Some(own.next_index),
            _ => None,
        }
    }

    #[tokio::test]
    async fn progress_is_told_once_and_then_in_its_own_time() {
        let mut progress = Progress::new(Duration::from_secs(3_600));
        let first = progress.caught_up(5).unwrap();
        assert_eq!(next_index(&first), Some(5));
        assert_eq!(progress.caught_up(6), None);
        assert_eq!(next_index(&progress.tell()), Some(6), "and then as far as it has come");
        assert_eq!(progress.delivered(&event(2)).unwrap().attempt, 2);
        assert!(progress.is_caught_up, "what comes again is nothing new");
        assert_eq!(progress.delivered(&event(1)).unwrap().attempt, 1);
        assert!(!progress.is_caught_up);
    }

    #[tokio::test]
    async fn where_much_happens_that_nobody_hears_there_is_progress_all_the_same() {
        let mut progress = Progress::new(Duration::from_millis(2));
        progress.caught_up(0).unwrap();
        let begun = Instant::now();
        let mut told = Vec::new();
        for next in 1.. {
            told.extend(progress.caught_up(next));
            if told.len() == 3 {
                break;
            }
            // Never a moment of waiting.
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() >= Duration::from_millis(5), "not more often than asked for");
    }
}
