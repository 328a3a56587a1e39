//! `Consume` as a stream that reconnects by itself, with a handle on each message to acknowledge
//! it.
//!
//! A separate task holds the connection: it sends acknowledgements and credits to the server while
//! the caller is busy, and reconnects when the connection breaks. A `book` keeps track, across
//! connections, of the events that the caller holds or has acknowledged: if the server sends one
//! again, the caller does not receive it a second time. An event whose handle was dropped without
//! an acknowledgement comes again after the server's redelivery timeout. Delivery is at least once.
//!
//! A snapshot is acknowledged as a whole, once every handle of it was acknowledged. The protocol
//! can not request one data subject again. So if a handle of it was dropped without an
//! acknowledgement, the whole snapshot starts again, on a new connection, one redelivery timeout
//! after its last handle was dropped.
//!
//! Each message takes a credit, and returns it when its handle is dropped. So the caller holds at
//! most [`ConsumeOptions::credits`] messages.

mod book;

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use book::{Book, Part, Position, Take};
use futures_util::Stream;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    Calls,
    backoff::{Backoff, BackoffPolicy},
    fault,
    watch::{OPEN_PATIENCE, PROGRESS_INTERVAL, silence_max},
};
use crate::proto::{
    ConsumeAck, ConsumeCredit, ConsumeRequest, ConsumeResponse, ConsumeStart, ConsumeStarted,
    Progress, Snapshot, consume_request, consume_response::Message,
    watch_service_client::WatchServiceClient,
};

/// The most credits of a consumer: the protocol's limit.
pub const CREDITS_MAX: u32 = 10_000;
/// How many messages wait between the connection and the caller.
const QUEUE_MAX: usize = 64;
/// How many requests wait for the server to read them.
const REQUESTS_MAX: usize = 8;
/// The server's own redelivery timeout, where the caller names none.
const REDELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a closing consumer waits for the end of the stream.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Options of a consumer.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumeOptions {
    /// Name of the subscription.
    pub subscription: String,
    /// Which shard, from 0.
    pub shard: u32,
    /// How many messages the caller may hold or have on their way: 1 to [`CREDITS_MAX`]. Other
    /// values are clamped.
    pub credits: u32,
    /// How long an event may stay unacknowledged before it comes again: 1 s to 1 h; none: 30 s.
    pub redelivery_timeout: Option<Duration>,
    /// Interval of progress messages on an idle stream: 100 ms to 1 h; none: 10 s. The connection
    /// is given up after three intervals and two seconds without a message.
    pub progress_interval: Option<Duration>,
    /// Name of the consumer, for example a host name; never personal data.
    pub consumer: String,
    /// The waits before reconnects.
    pub backoff: BackoffPolicy,
}

impl ConsumeOptions {
    /// The defaults for a subscription: 256 credits.
    pub fn new(subscription: impl Into<String>) -> Self {
        Self {
            subscription: subscription.into(),
            shard: 0,
            credits: 256,
            redelivery_timeout: None,
            progress_interval: None,
            consumer: String::new(),
            backoff: BackoffPolicy::default(),
        }
    }
}

/// An item of the stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum Consumed {
    /// An event, or a part of the snapshot.
    Delivery(Delivery),
    /// The position of the stream. It needs no acknowledgement: once every event before it is
    /// acknowledged, the position is too.
    Progress(Progress),
    /// The server accepted the consumer.
    Connected(Box<ConsumeStarted>),
    /// The stream was interrupted, and reconnects by itself.
    Interrupted {
        /// Why.
        status: Status,
        /// When the next try is made, from now.
        retry_in: Duration,
    },
}

/// A message to acknowledge. Dropped without an acknowledgement, it comes again; part of a snapshot
/// comes again with the whole snapshot.
#[derive(Debug)]
pub struct Delivery {
    message: Box<Message>,
    attempt: u32,
    handle: Handle,
}

impl Delivery {
    /// The server's message: an event, a data subject of the snapshot, or the snapshot's end.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// For events: how often the server has sent it on this connection, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// For events: index of the ledger entry.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        position_of(&self.message).map(|(position, _)| position.index)
    }

    /// Acknowledges this message. A snapshot is acknowledged to the server once every message of it
    /// is.
    pub fn ack(self) {
        self.handle.settle(Book::ack);
    }

    /// Acknowledges this event and everything before it, including the snapshot. For part of a
    /// snapshot it is the same as [`Self::ack`].
    pub fn ack_through(self) {
        self.handle.settle(Book::ack_through);
    }
}

/// Where an event stands, and whether others of its entry follow.
fn position_of(message: &Message) -> Option<(Position, bool)> {
    let (index, place, more) = match message {
        Message::Consent(event) => (event.index, event.place, event.more_in_entry),
        Message::Link(event) => (event.index, 0, false),
        Message::Catalog(event) => (event.index, 0, false),
        Message::Overdue(event) => (event.index, 0, false),
        _ => return None,
    };
    Some((Position { index, place }, more))
}

/// A message that the caller holds, with its credit.
#[derive(Debug)]
struct Handle {
    part: Part,
    session: u64,
    is_acked: bool,
    shared: Arc<Shared>,
}

impl Handle {
    fn settle(mut self, ack: impl FnOnce(&mut Book, Position)) {
        self.is_acked = true;
        if let Part::Event(position) = self.part {
            ack(&mut self.shared.book.lock(), position);
        }
        // Dropping the handle does the rest, and brings it to the server.
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.book.lock().release(self.part, self.session, self.is_acked);
        self.shared.changed.notify_one();
    }
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    changed: Notify,
    interruptions: AtomicU64,
}

/// The stream. It ends after an error that a retry can not resolve: the subscription is gone, a
/// newer consumer has taken over, the request is not valid.
#[derive(Debug)]
pub struct Consumer {
    items: mpsc::Receiver<Result<Consumed, Status>>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Consumer {
    pub(super) fn new(client: WatchServiceClient<Calls>, options: ConsumeOptions) -> Self {
        let options = ConsumeOptions { credits: options.credits.clamp(1, CREDITS_MAX), ..options };
        let shared = Arc::new(Shared {
            book: Mutex::new(Book::new(options.credits)),
            changed: Notify::new(),
            interruptions: AtomicU64::new(0),
        });
        let (out, items) = mpsc::channel(QUEUE_MAX);
        let driver = Driver {
            client,
            backoff: Backoff::new(options.backoff),
            options,
            snapshot_token: Vec::new(),
            shared: Arc::clone(&shared),
            out,
        };
        Self { items, shared, task: tokio::spawn(driver.run()) }
    }

    /// How often it was interrupted.
    #[must_use]
    pub fn interruptions(&self) -> u64 {
        self.shared.interruptions.load(Ordering::Relaxed)
    }

    /// Ends the stream. Acknowledgements made so far are sent to the server first, within five
    /// seconds. Dropping the consumer does the same in the background.
    pub async fn close(self) {
        drop(self.items);
        // A task that panicked has no result.
        let _ = self.task.await;
    }
}

impl Stream for Consumer {
    type Item = Result<Consumed, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(cx)
    }
}

/// How a connection ended.
enum End {
    /// The caller has gone.
    Closed,
    /// It broke.
    Broken(Status),
    /// It was closed to start the snapshot again.
    SnapshotAnew,
}

struct Driver {
    client: WatchServiceClient<Calls>,
    options: ConsumeOptions,
    backoff: Backoff,
    snapshot_token: Vec<u8>,
    shared: Arc<Shared>,
    out: mpsc::Sender<Result<Consumed, Status>>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let status = match self.session().await {
                End::Closed => return,
                End::Broken(status) => status,
                End::SnapshotAnew => {
                    self.snapshot_token = Vec::new();
                    continue;
                }
            };
            let stale = !self.snapshot_token.is_empty()
                && fault::refuses_field(&status, "start.snapshot_token");
            if stale {
                self.snapshot_token = Vec::new();
            } else if !fault::heals(&status) {
                // The caller may have dropped the stream.
                let _ = self.out.send(Err(status)).await;
                return;
            }
            self.shared.interruptions.fetch_add(1, Ordering::Relaxed);
            let retry_in = self.backoff.next(fault::stay_away(&status));
            if self.out.send(Ok(Consumed::Interrupted { status, retry_in })).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.out.closed() => return,
                () = sleep(retry_in) => {}
            }
        }
    }

    async fn session(&mut self) -> End {
        {
            let mut book = self.shared.book.lock();
            book.disconnected();
            if self.snapshot_token.is_empty() {
                book.snapshot_anew();
            }
        }
        let (requests, sent) = mpsc::channel(REQUESTS_MAX);
        // There is room: it is the first.
        let _ = requests.try_send(self.start());
        let opening = timeout(OPEN_PATIENCE, self.client.consume(ReceiverStream::new(sent)));
        let opened = tokio::select! {
            () = self.out.closed() => return End::Closed,
            opened = opening => opened,
        };
        let mut responses = match opened {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return End::Broken(status),
            Err(_) => return End::Broken(Status::unavailable("the server does not answer")),
        };
        match self.follow(&requests, &mut responses).await {
            End::Closed => {
                self.finish(requests, responses).await;
                End::Closed
            }
            other => other,
        }
    }

    fn start(&self) -> ConsumeRequest {
        let span = |span: Option<Duration>| span.map(|span| span.try_into().unwrap_or_default());
        let start = ConsumeStart {
            subscription: self.options.subscription.clone(),
            shard: self.options.shard,
            credits: self.options.credits,
            redelivery_timeout: span(self.options.redelivery_timeout),
            progress_interval: span(self.options.progress_interval),
            snapshot_token: self.snapshot_token.clone(),
            consumer: self.options.consumer.clone(),
        };
        ConsumeRequest { message: Some(consume_request::Message::Start(start)) }
    }

    async fn follow(
        &mut self,
        requests: &mpsc::Sender<ConsumeRequest>,
        responses: &mut Streaming<ConsumeResponse>,
    ) -> End {
        let silence_max = silence_max(self.options.progress_interval.unwrap_or(PROGRESS_INTERVAL));
        let (shared, out) = (Arc::clone(&self.shared), self.out.clone());
        let redelivery = self.options.redelivery_timeout.unwrap_or(REDELIVERY_TIMEOUT);
        let mut anew_at = None;
        loop {
            if anew_at.is_none() && shared.book.lock().wants_snapshot_anew() {
                anew_at = Instant::now().checked_add(redelivery);
            }
            let anew = async {
                match anew_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            // Messages are read only while the queue to the caller has room; acknowledgements are
            // always sent.
            let next = async {
                let room = out.reserve().await.ok()?;
                Some((room, timeout(silence_max, responses.message()).await))
            };
            let (room, received) = tokio::select! {
                () = shared.changed.notified() => {
                    if let Ok(Ok(())) = timeout(silence_max, self.flush(requests)).await {
                        continue;
                    }
                    // The response stream has the cause.
                    match timeout(silence_max, responses.message()).await {
                        Ok(Err(status)) => return End::Broken(status),
                        _ => return End::Broken(Status::unavailable("the server hears nothing")),
                    }
                }
                next = next => match next {
                    Some(next) => next,
                    None => return End::Closed,
                },
                () = out.closed() => return End::Closed,
                () = anew => return End::SnapshotAnew,
            };
            match received {
                Ok(Ok(Some(response))) => {
                    if let Some(consumed) = self.hear(response) {
                        room.send(Ok(consumed));
                    }
                }
                Ok(Ok(None)) => {
                    return End::Broken(Status::unavailable("the server ended the stream"));
                }
                Ok(Err(status)) => return End::Broken(status),
                Err(_) => {
                    return End::Broken(Status::unavailable("nothing was heard for too long"));
                }
            }
        }
    }

    /// Handles a message, and returns the item for the caller, if there is one.
    fn hear(&mut self, response: ConsumeResponse) -> Option<Consumed> {
        let mut book = self.shared.book.lock();
        let message = response.message?;
        let take = match &message {
            Message::Started(started) => {
                self.backoff.reset();
                let has_snapshot = started
                    .subscription
                    .as_ref()
                    .is_some_and(|delivered| delivered.snapshot() != Snapshot::Unspecified);
                book.connected(started.next_index, has_snapshot);
                return Some(Consumed::Connected(Box::new(started.clone())));
            }
            Message::Progress(progress) => {
                book.progress(progress.next_index);
                self.shared.changed.notify_one();
                return Some(Consumed::Progress(*progress));
            }
            Message::Snapshot(subject) => {
                self.snapshot_token.clone_from(&subject.token);
                book.snapshot_subject()
            }
            Message::SnapshotEnd(end) => book.snapshot_end(end.revision),
            event => {
                self.snapshot_token = Vec::new();
                let (position, more) = position_of(event)?;
                book.event(position, more)
            }
        };
        let (session, snapshot) = (book.session(), book.snapshot_part());
        drop(book);
        match take {
            Take::GiveOut => {
                let position = position_of(&message).map(|(position, _)| position);
                let part = position.map_or(snapshot, Part::Event);
                let shared = Arc::clone(&self.shared);
                let handle = Handle { part, session, is_acked: false, shared };
                let message = Box::new(message);
                Some(Consumed::Delivery(Delivery { message, attempt: response.attempt, handle }))
            }
            Take::Known => {
                self.shared.changed.notify_one();
                None
            }
        }
    }

    /// Sends pending acknowledgements and credits.
    async fn flush(
        &self,
        requests: &mpsc::Sender<ConsumeRequest>,
    ) -> Result<(), mpsc::error::SendError<ConsumeRequest>> {
        let send = |message| requests.send(ConsumeRequest { message: Some(message) });
        loop {
            let ack: Option<ConsumeAck> = self.shared.book.lock().take_ack();
            let Some(ack) = ack else { break };
            send(consume_request::Message::Ack(ack)).await?;
        }
        let credits: Option<u32> = self.shared.book.lock().take_credits();
        if let Some(credits) = credits {
            send(consume_request::Message::Credit(ConsumeCredit { credits })).await?;
        }
        Ok(())
    }

    /// Brings the last acknowledgements, and waits until the server has taken them.
    async fn finish(
        &self,
        requests: mpsc::Sender<ConsumeRequest>,
        mut responses: Streaming<ConsumeResponse>,
    ) {
        let last_words = async {
            if self.flush(&requests).await.is_ok() {
                drop(requests);
                while let Ok(Some(_)) = responses.message().await {}
            }
        };
        // After that, the server delivers the events again, to the next consumer.
        let _ = timeout(CLOSE_PATIENCE, last_words).await;
    }
}
