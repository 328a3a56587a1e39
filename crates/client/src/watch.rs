//! `Watch` as a stream that reconnects by itself.
//!
//! When the connection breaks, the server drains, or no message arrives for too long, the stream
//! resumes after the last message that it returned. So there is never a gap, and never a message
//! twice, except that a snapshot starts again if the server no longer knows its position.
//!
//! A stream that starts at "now" has a position from its first message on, which the server sends
//! at once. A caller that must not miss events before that gives an index.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use super::{
    Calls,
    backoff::{Backoff, BackoffPolicy},
    fault,
};
use crate::proto::{
    Snapshot, WatchFilter, WatchRequest, WatchResponse, watch_response::Message,
    watch_service_client::WatchServiceClient,
};

/// How long a stream may take to be opened.
pub(super) const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// The server's own interval of progress messages, where the caller names none.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Options of a watch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WatchOptions {
    /// First ledger index to consider; none: the first entry after now. Not beside `snapshot`.
    pub start_index: Option<u64>,
    /// Which events.
    pub filter: WatchFilter,
    /// Interval of progress messages on an idle stream: 100 ms to 1 h; none: 10 s. The connection
    /// is given up after three intervals and two seconds without a message.
    pub progress_interval: Option<Duration>,
    /// The snapshot to receive first, if any.
    pub snapshot: Snapshot,
    /// The waits before reconnects.
    pub backoff: BackoffPolicy,
}

/// An item of the stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Heard {
    /// A message of the server.
    Message(Box<Message>),
    /// The stream is open.
    Connected {
        /// When it was requested: the server's messages on it were written after this.
        asked_at: Instant,
    },
    /// The stream was interrupted, and reconnects by itself.
    Interrupted {
        /// Why.
        status: Status,
        /// When the next try is made, from now.
        retry_in: Duration,
    },
}

/// The stream. It ends after an error that a retry can not resolve, such as an invalid filter.
pub struct Watch {
    stream: Pin<Box<dyn Stream<Item = Result<Heard, Status>> + Send>>,
    interruptions: Arc<AtomicU64>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("interruptions", &self.interruptions()).finish()
    }
}

impl Watch {
    pub(super) fn new(client: WatchServiceClient<Calls>, options: WatchOptions) -> Self {
        let interruptions = Arc::new(AtomicU64::new(0));
        let state = State::new(client, options, Arc::clone(&interruptions));
        let stream = stream::unfold(state, async |mut state| {
            let item = state.next().await?;
            Some((item, state))
        });
        Self { stream: Box::pin(stream), interruptions }
    }

    /// How often it was interrupted.
    #[must_use]
    pub fn interruptions(&self) -> u64 {
        self.interruptions.load(Ordering::Relaxed)
    }
}

impl Stream for Watch {
    type Item = Result<Heard, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

struct State {
    client: WatchServiceClient<Calls>,
    /// The request for the rest of the stream: it advances with each message.
    request: WatchRequest,
    stream: Option<Streaming<WatchResponse>>,
    backoff: Backoff,
    wait: Option<Duration>,
    silence_max: Duration,
    interruptions: Arc<AtomicU64>,
    over: bool,
}

impl State {
    fn new(
        client: WatchServiceClient<Calls>,
        options: WatchOptions,
        interruptions: Arc<AtomicU64>,
    ) -> Self {
        let interval = options.progress_interval.unwrap_or(PROGRESS_INTERVAL);
        Self {
            client,
            request: WatchRequest {
                start_index: options.start_index,
                filter: Some(options.filter),
                // An interval that is too long for the protocol is too long for the server, too.
                progress_interval: options
                    .progress_interval
                    .map(|interval| interval.try_into().unwrap_or_default()),
                snapshot: options.snapshot.into(),
                snapshot_token: Vec::new(),
            },
            stream: None,
            backoff: Backoff::new(options.backoff),
            wait: None,
            silence_max: silence_max(interval),
            interruptions,
            over: false,
        }
    }

    async fn next(&mut self) -> Option<Result<Heard, Status>> {
        loop {
            if self.over {
                return None;
            }
            let Some(stream) = &mut self.stream else { return Some(self.open().await) };
            let status = match timeout(self.silence_max, stream.message()).await {
                Ok(Ok(Some(WatchResponse { message: Some(message) }))) => {
                    self.backoff.reset();
                    advance(&mut self.request, &message);
                    return Some(Ok(Heard::Message(Box::new(message))));
                }
                // A message of a later protocol.
                Ok(Ok(Some(WatchResponse { message: None }))) => continue,
                Ok(Ok(None)) => Status::unavailable("the server ended the stream"),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable("nothing was heard for too long"),
            };
            return Some(self.interrupted(status));
        }
    }

    async fn open(&mut self) -> Result<Heard, Status> {
        if let Some(wait) = self.wait.take() {
            sleep(wait).await;
        }
        let asked_at = Instant::now();
        match timeout(OPEN_PATIENCE, self.client.watch(self.request.clone())).await {
            Ok(Ok(answer)) => {
                self.stream = Some(answer.into_inner());
                Ok(Heard::Connected { asked_at })
            }
            Ok(Err(status)) => self.interrupted(status),
            Err(_) => self.interrupted(Status::unavailable("the server does not answer")),
        }
    }

    fn interrupted(&mut self, status: Status) -> Result<Heard, Status> {
        self.stream = None;
        if self.is_about_the_snapshot(&status) {
            self.request.snapshot_token = Vec::new();
        } else if !fault::heals(&status) {
            self.over = true;
            return Err(status);
        }
        self.interruptions.fetch_add(1, Ordering::Relaxed);
        let retry_in = self.backoff.next(fault::stay_away(&status));
        self.wait = Some(retry_in);
        Ok(Heard::Interrupted { status, retry_in })
    }

    /// Whether the server does not know the place in the snapshot any more.
    fn is_about_the_snapshot(&self, status: &Status) -> bool {
        !self.request.snapshot_token.is_empty() && fault::refuses_field(status, "snapshot_token")
    }
}

/// How long a stream with this interval of progress messages may be silent.
pub(super) fn silence_max(interval: Duration) -> Duration {
    interval.saturating_mul(3).saturating_add(Duration::from_secs(2))
}

/// Advances a request, so that it asks for the rest of the stream after a message.
fn advance(request: &mut WatchRequest, message: &Message) {
    let next = match message {
        // The others of its entry may be lost with the stream: it goes on with all of them.
        Message::Consent(event) if event.more_in_entry => event.index,
        Message::Consent(event) => event.index.saturating_add(1),
        Message::Link(event) => event.index.saturating_add(1),
        Message::Catalog(event) => event.index.saturating_add(1),
        Message::Overdue(event) => event.index.saturating_add(1),
        Message::Progress(progress) => progress.next_index,
        Message::Snapshot(subject) => {
            request.snapshot_token.clone_from(&subject.token);
            return;
        }
        Message::SnapshotEnd(end) => {
            request.set_snapshot(Snapshot::Unspecified);
            request.snapshot_token = Vec::new();
            end.revision
        }
    };
    // A snapshot resumes by its token, not by an index.
    if request.snapshot() == Snapshot::Unspecified {
        request.start_index = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ConsentEvent, Progress, SnapshotEnd, SnapshotSubject};

    #[test]
    fn a_request_moves_on_through_snapshot_and_tail() {
        let mut request = WatchRequest::default();
        request.set_snapshot(Snapshot::Denied);
        let subject = SnapshotSubject { token: vec![7], revision: 9, ..Default::default() };
        advance(&mut request, &Message::Snapshot(subject));
        assert_eq!((request.start_index, request.snapshot_token.as_slice()), (None, &[7][..]));
        advance(&mut request, &Message::Progress(Progress { next_index: 9, as_of: None }));
        assert_eq!(request.start_index, None, "a snapshot goes on by its token");
        advance(&mut request, &Message::SnapshotEnd(SnapshotEnd { revision: 9, subjects: 1 }));
        assert_eq!((request.start_index, request.snapshot()), (Some(9), Snapshot::Unspecified));
        assert!(request.snapshot_token.is_empty());
        let event = ConsentEvent { index: 12, ..Default::default() };
        advance(&mut request, &Message::Consent(event));
        assert_eq!(request.start_index, Some(13));
        let event = ConsentEvent { index: 15, more_in_entry: true, ..Default::default() };
        advance(&mut request, &Message::Consent(event));
        assert_eq!(request.start_index, Some(15), "in the middle of an entry");
        advance(&mut request, &Message::Progress(Progress { next_index: 20, as_of: None }));
        assert_eq!(request.start_index, Some(20));
    }
}
