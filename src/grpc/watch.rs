//! `consent.v1.WatchService`.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    consume,
    convert::{self, Watching},
    snapshot::Beginning,
    subscription,
};
use crate::{
    domain::Millis,
    node::{Node, Snapshotting},
    proto::{self, watch_service_server::WatchService},
    status::Fault,
    telemetry::Metrics,
    watch::{Told, WatchError, Watcher},
};

/// Streams changes to whoever must act on them.
#[derive(Debug)]
pub struct Watch {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
}

impl Watch {
    /// The service over a node. Its streams end once `drain` is cancelled.
    #[must_use]
    pub fn new(node: Arc<Node>, metrics: Arc<Metrics>, drain: CancellationToken) -> Self {
        Self { node, metrics, drain }
    }
}

#[tonic::async_trait]
impl WatchService for Watch {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<proto::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let Watching { start, filter, progress_interval, snapshot, snapshot_token } =
            convert::watching(request.into_inner())?;
        let beginning = match snapshot {
            None => None,
            Some(kind) => {
                let what = Snapshotting {
                    revision: self.node.revision(),
                    kind,
                    filter: Arc::new(filter.clone()),
                    shard: None,
                };
                let drain = self.drain.clone();
                Some(Beginning::new(&self.node, what, snapshot_token, drain).await?)
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
        // One message at a time, made when the client has room for it: that is all the
        // back-pressure there is, and a slow client holds nothing but its place in the ledger.
        let stages = (beginning, watched);
        let messages = stream::try_unfold(stages, async |(beginning, mut watched)| {
            let Some(mut beginning) = beginning else {
                return Ok(Some((watched.next().await?, (None, watched))));
            };
            let (message, is_last) = beginning.next().await?;
            Ok(Some((message, (Some(beginning).filter(|_| !is_last), watched))))
        });
        Ok(Response::new(Box::pin(messages)))
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

    type ConsumeStream = consume::Messages;

    async fn consume(
        &self,
        request: Request<Streaming<proto::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
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

/// Where a stream stands towards the head of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CaughtUp {
    /// It has never reached the head.
    NotYet,
    /// It reached the head and has had an event since.
    Before,
    /// It has told everything that there was.
    Now,
}

/// Where a stream has its events from.
trait Source: Send {
    /// As [`Watcher::next`].
    fn next(&mut self) -> impl Future<Output = Result<Told, WatchError>> + Send;
}

impl Source for Watcher {
    fn next(&mut self) -> impl Future<Output = Result<Told, WatchError>> + Send {
        Watcher::next(self)
    }
}

/// A stream to one client.
struct Watched<S> {
    source: S,
    /// Everything before it was delivered or did not pass the filter; none before the first word
    /// of a watcher that started at "now".
    next_index: Option<u64>,
    caught_up: CaughtUp,
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
        let caught_up = CaughtUp::NotYet;
        Self { source, next_index: start, caught_up, progress_timer, drain, connected }
    }

    async fn next(&mut self) -> Result<proto::WatchResponse, Status> {
        loop {
            // In this order: a drain ends the stream however much there is to tell, and progress
            // is told only while there is nothing else.
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(self.closing().into()),
                told = self.source.next() => match told? {
                    Told::Event(event, positions) => {
                        self.next_index = Some(event.index + 1);
                        if self.caught_up == CaughtUp::Now {
                            self.caught_up = CaughtUp::Before;
                        }
                        self.progress_timer.reset();
                        self.connected.metrics.watch_events.inc();
                        return Ok(convert::event(&event, &positions));
                    }
                    Told::CaughtUp { next_index } => {
                        let first = self.caught_up == CaughtUp::NotYet;
                        self.next_index = Some(next_index);
                        self.caught_up = CaughtUp::Now;
                        if first {
                            return Ok(self.progress(next_index));
                        }
                        // Where nothing passes the filter and much happens, there is never a
                        // moment of waiting: the timer must be asked here, too.
                        if self.progress_timer.tick().now_or_never().is_some() {
                            return Ok(self.progress(next_index));
                        }
                    }
                },
                _ = self.progress_timer.tick(), if self.caught_up == CaughtUp::Now => {
                    if let Some(next_index) = self.next_index {
                        return Ok(self.progress(next_index));
                    }
                }
            }
        }
    }

    fn progress(&mut self, next_index: u64) -> proto::WatchResponse {
        self.progress_timer.reset();
        convert::progress(next_index, Millis::now())
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
    use std::collections::VecDeque;

    use tonic_types::StatusExt;

    use super::*;
    use crate::{
        domain::{Action, Actor, ChangeRecord, Outcome, ScopeKeys, Subject},
        watch::{ConsentTold, Event, EventTold},
    };

    /// Tells what it was given, and then waits for ever.
    struct Script(VecDeque<Result<Told, WatchError>>);

    impl Source for Script {
        async fn next(&mut self) -> Result<Told, WatchError> {
            match self.0.pop_front() {
                Some(told) => told,
                None => std::future::pending().await,
            }
        }
    }

    /// Nothing ever passes the filter, and there is always more.
    struct NothingPasses(u64);

    impl Source for NothingPasses {
        async fn next(&mut self) -> Result<Told, WatchError> {
            tokio::task::yield_now().await;
            self.0 += 1;
            Ok(Told::CaughtUp { next_index: self.0 })
        }
    }

    const LONG: Duration = Duration::from_secs(3_600);

    fn event(index: u64) -> Result<Told, WatchError> {
        let change = |action| ChangeRecord {
            action,
            scope: ScopeKeys { purpose: None, channel: None },
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::Applied,
        };
        let told = EventTold::Consent(ConsentTold {
            subject: Subject::parse("user:42").unwrap(),
            actor: Actor::Subject,
            effective_at: Millis(0),
            changes: vec![change(Action::Refuse), change(Action::Withdraw)],
            preferences_changed: false,
            cause: None,
            reason: None,
            linked: Vec::new(),
        });
        let event = Event { index, recorded_at: Millis(0), told };
        Ok(Told::Event(Arc::new(event), vec![1]))
    }

    fn caught_up(next_index: u64) -> Result<Told, WatchError> {
        Ok(Told::CaughtUp { next_index })
    }

    fn watched<S: Source>(source: S, interval: Duration) -> (Watched<S>, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let connected = Connected::new(Arc::clone(&metrics));
        (Watched::new(source, None, interval, CancellationToken::new(), connected), metrics)
    }

    fn script(told: impl IntoIterator<Item = Result<Told, WatchError>>) -> Script {
        Script(told.into_iter().collect())
    }

    async fn told<S: Source>(watched: &mut Watched<S>) -> String {
        use proto::watch_response::Message;
        match watched.next().await.unwrap().message.unwrap() {
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
        let told_first = [event(3), caught_up(5), event(5), caught_up(6), event(8)];
        let (mut watched, metrics) = watched(script(told_first), LONG);
        assert_eq!(told(&mut watched).await, "event 3 [3]", "only the change that passes");
        assert_eq!(told(&mut watched).await, "progress 5");
        assert_eq!(told(&mut watched).await, "event 5 [3]");
        assert_eq!(told(&mut watched).await, "event 8 [3]", "6 waits for its interval");
        assert_eq!((metrics.watchers.get(), metrics.watch_events.get()), (1, 3));
        drop(watched);
        assert_eq!(metrics.watchers.get(), 0);
    }

    #[tokio::test]
    async fn an_idle_stream_hears_of_progress_at_every_interval() {
        let (mut watched, _) = watched(script([caught_up(7)]), Duration::from_millis(2));
        for _ in 0..3 {
            assert_eq!(told(&mut watched).await, "progress 7");
        }
    }

    #[tokio::test]
    async fn a_stream_that_has_not_caught_up_hears_of_no_progress() {
        let (mut watched, _) = watched(script([event(3)]), Duration::from_millis(1));
        assert_eq!(told(&mut watched).await, "event 3 [3]");
        let more = tokio::time::timeout(Duration::from_millis(20), watched.next()).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[tokio::test]
    async fn a_stream_that_nothing_passes_still_hears_of_progress() {
        let (mut watched, _) = watched(NothingPasses(0), Duration::from_millis(5));
        assert_eq!(told(&mut watched).await, "progress 1");
        let next = told(&mut watched).await;
        assert!(next.starts_with("progress ") && next != "progress 1", "{next}");
    }

    #[tokio::test]
    async fn a_drain_ends_the_stream_at_once_and_says_where_to_resume() {
        let (mut watched, _) = watched(script([event(3), event(4)]), LONG);
        assert_eq!(told(&mut watched).await, "event 3 [3]");
        watched.drain.cancel();
        let info = watched.next().await.unwrap_err().get_details_error_info().unwrap();
        assert_eq!(info.reason, "SHUTTING_DOWN");
        assert_eq!(info.metadata.get("next_index").map(String::as_str), Some("4"));
    }

    #[tokio::test]
    async fn what_can_not_be_read_ends_the_stream_with_an_error() {
        let fault = Err(WatchError::Unreadable("a file".to_owned()));
        let (mut watched, _) = watched(script([event(3), fault]), LONG);
        assert_eq!(told(&mut watched).await, "event 3 [3]");
        let info = watched.next().await.unwrap_err().get_details_error_info().unwrap();
        assert_eq!(info.reason, "STATE_UNREADABLE");
    }
}
