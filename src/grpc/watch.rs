//! `consent.v1.WatchService`.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, TryStreamExt, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};

use super::{
    consume,
    convert::{self, Watching},
    snapshot::Beginning,
    subscription,
};
use crate::{
    domain::Millis,
    event::EventDetail,
    node::{Node, Snapshotting},
    proto::{self, watch_service_server::WatchService},
    status::Fault,
    telemetry::Metrics,
    watch::{Heard, Post, WatchError, Watcher},
};

/// Streams changes to services that must act on them.
#[derive(Debug)]
pub struct Watch {
    pub(crate) node: Arc<Node>,
    pub(crate) metrics: Arc<Metrics>,
    /// Streams end once it is cancelled.
    pub(crate) drain: CancellationToken,
}

/// A message to a watcher, before it is encoded.
#[derive(Debug)]
pub enum Outgoing {
    /// An event, and the positions of the changes that pass.
    Event(Arc<Post>, Vec<usize>),
    /// Anything else.
    Message(proto::WatchResponse),
}

impl Outgoing {
    /// The message as it is generated.
    #[must_use]
    pub fn into_message(self) -> proto::WatchResponse {
        match self {
            Self::Event(post, positions) => convert::event(&post.event, &positions),
            Self::Message(message) => message,
        }
    }
}

/// The messages to a watcher.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<Outgoing, Status>> + Send>>;

impl Watch {
    /// The messages to a watcher, for as long as it reads them.
    pub(super) async fn messages(&self, request: proto::WatchRequest) -> Result<Messages, Status> {
        let Watching { start, filter, progress_interval, snapshot, snapshot_token } =
            convert::watching(request)?;
        let beginning = match snapshot {
            None => None,
            Some(kind) => {
                let snapshotting = Snapshotting {
                    revision: self.node.revision(),
                    kind,
                    filter: Arc::new(filter.clone()),
                    shard: None,
                };
                let drain = self.drain.clone();
                Some(Beginning::new(&self.node, snapshotting, snapshot_token, drain).await?)
            }
        };
        let start = beginning.as_ref().map(Beginning::revision).or(start);
        let watched = Watched::new(
            self.node.watch(start, filter)?,
            start,
            progress_interval,
            self.drain.clone(),
            Connected::new(Arc::clone(&self.metrics)),
        );
        // A message is made when the client has room for it. So a slow client holds no more than its
        // queue.
        let stages = (beginning, watched);
        let messages = stream::try_unfold(stages, async |(beginning, mut watched)| {
            let Some(mut beginning) = beginning else {
                return Ok(Some((watched.next().await?, (None, watched))));
            };
            let (message, is_last) = beginning.next().await?;
            let stages = (Some(beginning).filter(|_| !is_last), watched);
            Ok(Some((Outgoing::Message(message), stages)))
        });
        Ok(Box::pin(messages))
    }
}

#[tonic::async_trait]
impl WatchService for Watch {
    /// Over HTTP, `wire.rs` serves this method without it.
    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<BoxStream<proto::WatchResponse>>, Status> {
        let messages = self.messages(request.into_inner()).await?;
        Ok(Response::new(Box::pin(messages.map_ok(Outgoing::into_message))))
    }

    async fn create_subscription(
        &self,
        request: Request<proto::CreateSubscriptionRequest>,
    ) -> Result<Response<proto::CreateSubscriptionResponse>, Status> {
        Ok(Response::new(subscription::create(&self.node, request.into_inner()).await?))
    }

    async fn list_subscriptions(
        &self,
        request: Request<proto::ListSubscriptionsRequest>,
    ) -> Result<Response<proto::ListSubscriptionsResponse>, Status> {
        Ok(Response::new(subscription::list(&self.node, request.into_inner()).await?))
    }

    async fn delete_subscription(
        &self,
        request: Request<proto::DeleteSubscriptionRequest>,
    ) -> Result<Response<proto::DeleteSubscriptionResponse>, Status> {
        Ok(Response::new(subscription::delete(&self.node, request.into_inner()).await?))
    }

    async fn consume(
        &self,
        request: Request<Streaming<proto::ConsumeRequest>>,
    ) -> Result<Response<BoxStream<proto::ConsumeResponse>>, Status> {
        let requests = request.into_inner();
        Ok(Response::new(consume::consume(&self.node, &self.drain, requests).await?))
    }

    async fn get_propagation(
        &self,
        request: Request<proto::GetPropagationRequest>,
    ) -> Result<Response<proto::GetPropagationResponse>, Status> {
        Ok(Response::new(subscription::propagation(&self.node, request.into_inner()).await?))
    }

    async fn list_dead_letters(
        &self,
        request: Request<proto::ListDeadLettersRequest>,
    ) -> Result<Response<proto::ListDeadLettersResponse>, Status> {
        Ok(Response::new(subscription::dead_letters(&self.node, request.into_inner()).await?))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<proto::ReplayDeadLettersRequest>,
    ) -> Result<Response<proto::ReplayDeadLettersResponse>, Status> {
        Ok(Response::new(subscription::replay(&self.node, request.into_inner()).await?))
    }
}

/// Maximum age of the time in a progress message. A stream that reads much of the ledger first takes
/// longer to catch up; it checks once more then, with a new time.
const PROGRESS_AGE_MAX: Duration = Duration::from_millis(100);

/// Where the events of a stream come from.
trait Source: Send {
    /// As [`Watcher::next_event`].
    fn next_event(&mut self) -> impl Future<Output = Result<Heard, WatchError>> + Send;

    /// As [`Watcher::next_or_caught_up`].
    fn next_or_caught_up(&mut self) -> impl Future<Output = Result<Heard, WatchError>> + Send;
}

impl Source for Watcher {
    fn next_event(&mut self) -> impl Future<Output = Result<Heard, WatchError>> + Send {
        Watcher::next_event(self)
    }

    fn next_or_caught_up(&mut self) -> impl Future<Output = Result<Heard, WatchError>> + Send {
        Watcher::next_or_caught_up(self)
    }
}

/// A stream to one client.
struct Watched<S> {
    source: S,
    /// Every event before this index was delivered or did not pass the filter; none until a watcher that
    /// started at "now" gets its first message.
    next_index: Option<u64>,
    /// The events of the entry at `next_index` that are still to be sent.
    parts: VecDeque<(Arc<Post>, Vec<usize>)>,
    /// Whether the stream has caught up with the ledger once.
    has_caught_up: bool,
    /// Whether a progress message is sent as soon as no event waits.
    progress_due: bool,
    progress_timer: Interval,
    drain: CancellationToken,
    connected: Connected,
}

impl<S: Source> Watched<S> {
    fn new(
        source: S,
        start: Option<u64>,
        progress_interval: Duration,
        drain: CancellationToken,
        connected: Connected,
    ) -> Self {
        let mut progress_timer = interval_at(Instant::now() + progress_interval, progress_interval);
        progress_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            source,
            next_index: start,
            parts: VecDeque::new(),
            has_caught_up: false,
            progress_due: true,
            progress_timer,
            drain,
            connected,
        }
    }

    async fn next(&mut self) -> Result<Outgoing, Status> {
        if !self.parts.is_empty() && self.drain.is_cancelled() {
            return Err(self.closing().into());
        }
        if let Some((post, positions)) = self.parts.pop_front() {
            return Ok(self.event(post, positions));
        }
        let mut checked_again = false;
        loop {
            // Taken before the source is read: every entry acknowledged until then is covered.
            let (started, as_of) = (Instant::now(), Millis::now());
            let progress_due = self.progress_due;
            let source = &mut self.source;
            let heard = async {
                if progress_due {
                    source.next_or_caught_up().await
                } else {
                    source.next_event().await
                }
            };
            // In this order: a drain ends the stream although events wait, and progress is sent only
            // while no event waits.
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(self.closing().into()),
                heard = heard => match heard? {
                    Heard::Event(post, positions) => {
                        self.progress_due = !self.has_caught_up;
                        self.progress_timer.reset();
                        if !matches!(post.event.detail, EventDetail::Ends(_)) {
                            return Ok(self.event(post, positions));
                        }
                        let parts = post.event.parts(&positions).into_iter();
                        self.parts.extend(parts.map(|(event, positions)| {
                            (Arc::new(Post::new(event)), positions)
                        }));
                        if let Some((post, positions)) = self.parts.pop_front() {
                            return Ok(self.event(post, positions));
                        }
                    }
                    Heard::CaughtUp { next_index } => {
                        self.next_index = Some(next_index);
                        if started.elapsed() > PROGRESS_AGE_MAX && !checked_again {
                            checked_again = true;
                            continue;
                        }
                        self.has_caught_up = true;
                        return Ok(self.progress(next_index, as_of));
                    }
                },
                _ = self.progress_timer.tick(), if !self.progress_due => self.progress_due = true,
            }
        }
    }

    /// Sends an event. The stream resumes behind its entry only once all events of that are sent.
    fn event(&mut self, post: Arc<Post>, positions: Vec<usize>) -> Outgoing {
        self.next_index = Some(post.event.index + u64::from(self.parts.is_empty()));
        self.connected.metrics.watch_events.inc();
        Outgoing::Event(post, positions)
    }

    fn progress(&mut self, next_index: u64, as_of: Millis) -> Outgoing {
        self.progress_due = false;
        self.progress_timer.reset();
        Outgoing::Message(convert::progress(next_index, as_of))
    }

    fn closing(&self) -> Fault {
        match self.next_index {
            Some(next_index) => WatchError::Closing { next_index }.into(),
            None => Fault::ShuttingDown,
        }
    }
}

/// Counts a watcher for as long as it is connected.
struct Connected {
    metrics: Arc<Metrics>,
}

impl Connected {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.watchers.inc();
        Self { metrics }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.metrics.watchers.dec();
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;
    use crate::{
        domain::{Action, Actor, ChangeRecord, Outcome, ScopeKeys, Subject},
        event::{ConsentDetail, Event, Part},
    };

    /// Delivers its events, and has caught up then.
    struct Script {
        events: VecDeque<Result<Heard, WatchError>>,
        next_index: u64,
        /// Whether it never catches up.
        is_behind: bool,
    }

    impl Source for Script {
        async fn next_event(&mut self) -> Result<Heard, WatchError> {
            match self.events.pop_front() {
                Some(heard) => heard,
                None => std::future::pending().await,
            }
        }

        async fn next_or_caught_up(&mut self) -> Result<Heard, WatchError> {
            if !self.events.is_empty() || self.is_behind {
                return self.next_event().await;
            }
            Ok(Heard::CaughtUp { next_index: self.next_index })
        }
    }

    const LONG: Duration = Duration::from_secs(3_600);

    fn event(index: u64) -> Result<Heard, WatchError> {
        let change = |action| ChangeRecord {
            action,
            scope: ScopeKeys { purpose: None, channel: None },
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::Applied,
            linked_subjects: 0,
        };
        let detail = EventDetail::Consent(ConsentDetail {
            subject: Subject::parse("user:42").unwrap(),
            actor: Actor::Subject,
            effective_at: Millis(0),
            changes: vec![change(Action::Refuse), change(Action::Withdraw)],
            preferences_changed: false,
            cause: None,
            reason: None,
            linked: Vec::new(),
            part: None,
        });
        let event = Event { index, recorded_at: Millis(0), detail };
        Ok(Heard::Event(Arc::new(Post::new(Arc::new(event))), vec![1]))
    }

    fn watched<S: Source>(source: S, interval: Duration) -> (Watched<S>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let connected = Connected::new(Arc::clone(&metrics));
        (Watched::new(source, None, interval, CancellationToken::new(), connected), metrics)
    }

    fn script(
        next_index: u64,
        events: impl IntoIterator<Item = Result<Heard, WatchError>>,
    ) -> Script {
        Script { events: events.into_iter().collect(), next_index, is_behind: false }
    }

    async fn next<S: Source>(watched: &mut Watched<S>) -> String {
        use proto::watch_response::Message;
        match watched.next().await.unwrap().into_message().message.unwrap() {
            Message::Consent(consent) => {
                let actions: Vec<i32> = consent.changes.iter().map(|c| c.action).collect();
                format!("event {} {actions:?}", consent.index)
            }
            Message::Progress(progress) => format!("progress {}", progress.next_index),
            Message::Link(link) => format!("link {}", link.index),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn progress_comes_once_when_the_head_is_reached_and_events_only_in_part() {
        let (mut watched, metrics) = watched(script(5, [event(3)]), LONG);
        assert_eq!(next(&mut watched).await, "event 3 [3]", "only the change that passes");
        assert_eq!(next(&mut watched).await, "progress 5");
        watched.source = script(9, [event(5), event(8)]);
        assert_eq!(next(&mut watched).await, "event 5 [3]");
        assert_eq!(next(&mut watched).await, "event 8 [3]");
        let more = tokio::time::timeout(Duration::from_millis(20), watched.next()).await;
        assert!(more.is_err(), "9 waits for its interval, not {more:?}");
        assert_eq!((metrics.watchers.get(), metrics.watch_events.get()), (1, 3));
        drop(watched);
        assert_eq!(metrics.watchers.get(), 0);
    }

    #[tokio::test]
    async fn an_idle_stream_gets_progress_at_every_interval() {
        let (mut watched, _) = watched(script(7, []), Duration::from_millis(2));
        for next_index in [7, 8, 9] {
            watched.source.next_index = next_index;
            assert_eq!(next(&mut watched).await, format!("progress {next_index}"));
        }
    }

    #[tokio::test]
    async fn waiting_events_come_before_due_progress() {
        let (mut watched, _) = watched(script(7, []), LONG);
        assert_eq!(next(&mut watched).await, "progress 7");
        watched.progress_due = true;
        watched.source = script(9, [event(7), event(8)]);
        assert_eq!(next(&mut watched).await, "event 7 [3]");
        assert_eq!(next(&mut watched).await, "event 8 [3]");
        assert!(!watched.progress_due, "the events show the progress");
    }

    #[tokio::test]
    async fn a_stream_that_has_not_caught_up_gets_no_progress() {
        let behind = Script { is_behind: true, ..script(9, [event(3)]) };
        let (mut watched, _) = watched(behind, Duration::from_millis(1));
        assert_eq!(next(&mut watched).await, "event 3 [3]");
        let more = tokio::time::timeout(Duration::from_millis(20), watched.next()).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[tokio::test]
    async fn a_drain_ends_the_stream_at_once_and_says_where_to_resume() {
        let (mut watched, _) = watched(script(5, [event(3), event(4)]), LONG);
        assert_eq!(next(&mut watched).await, "event 3 [3]");
        watched.drain.cancel();
        let info = watched.next().await.unwrap_err().get_details_error_info().unwrap();
        assert_eq!(info.reason, "SHUTTING_DOWN");
        assert_eq!(info.metadata.get("next_index").map(String::as_str), Some("4"));
    }

    /// An entry that ends grants of several data subjects.
    fn ends(index: u64, count: u32) -> Result<Heard, WatchError> {
        let Ok(Heard::Event(post, _)) = event(index) else { unreachable!() };
        let EventDetail::Consent(consent) = &post.event.detail else { unreachable!() };
        let end = |place| ConsentDetail {
            subject: Subject::parse(&format!("user:{place}")).unwrap(),
            changes: consent.changes[..1].to_vec(),
            part: Some(Part { place, more: false }),
            ..consent.clone()
        };
        let detail = EventDetail::Ends((0..count).map(end).collect());
        let event = Event { index, recorded_at: Millis(0), detail };
        let positions = (0..count as usize).collect();
        Ok(Heard::Event(Arc::new(Post::new(Arc::new(event))), positions))
    }

    #[tokio::test]
    async fn each_event_of_an_entry_is_sent_and_the_stream_resumes_at_the_entry_until_the_last() {
        let resumes_at = |watched: &Watched<Script>| watched.next_index;
        let (mut watched, metrics) = watched(script(5, [ends(3, 3), event(4)]), LONG);
        for (want, next_index) in [("event 3 [2]", 3), ("event 3 [2]", 3), ("event 3 [2]", 4)] {
            assert_eq!(next(&mut watched).await, want);
            assert_eq!(resumes_at(&watched), Some(next_index));
        }
        assert_eq!(next(&mut watched).await, "event 4 [3]");
        assert_eq!(metrics.watch_events.get(), 4);
        watched.source = script(9, [ends(7, 2)]);
        assert_eq!(next(&mut watched).await, "event 7 [2]");
        watched.drain.cancel();
        let info = watched.next().await.unwrap_err().get_details_error_info().unwrap();
        assert_eq!(info.metadata.get("next_index").map(String::as_str), Some("7"));
    }

    #[tokio::test]
    async fn unreadable_state_ends_the_stream_with_an_error() {
        let fault = Err(WatchError::Unreadable("a file".to_owned()));
        let (mut watched, _) = watched(script(5, [event(3), fault]), LONG);
        assert_eq!(next(&mut watched).await, "event 3 [3]");
        let info = watched.next().await.unwrap_err().get_details_error_info().unwrap();
        assert_eq!(info.reason, "STATE_UNREADABLE");
    }
}
