//! Servers that answer as a test scripts them, over real connections.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use consent_ledger::proto::{
    self,
    check_service_server::{CheckService, CheckServiceServer},
    consume_request, consume_response,
    watch_service_server::{WatchService, WatchServiceServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming, body::Body, codegen::BoxStream, metadata::MetadataMap,
    server::NamedService, service::Routes,
};

use crate::support::serve_fake;

type Answer<T> = Result<Response<T>, Status>;

/// Answers checks with the statuses of its script, then with DENY.
#[derive(Clone, Default)]
pub struct Checks(Arc<Mutex<ChecksState>>);

#[derive(Default)]
struct ChecksState {
    script: VecDeque<Status>,
    delay: Duration,
    seen: Vec<MetadataMap>,
}

/// Refuses every act, and counts them.
#[derive(Clone, Default)]
pub struct Acts(Arc<Mutex<u32>>);

/// A subscription with events, and the record of its consumers.
#[derive(Clone, Default)]
pub struct Subscription(Arc<Mutex<SubscriptionState>>);

#[derive(Default)]
pub struct SubscriptionState {
    pub events: Vec<u64>,
    pub acked: BTreeSet<u64>,
    /// The number of messages after which a connection breaks.
    pub lasts: usize,
    pub connections: u32,
    /// Violations of the protocol by consumers.
    pub wrong: Vec<String>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts all fakes on one port; they run as long as the test's runtime.
pub async fn start(checks: &Checks, acts: &Acts, subscription: &Subscription) -> String {
    let services = Routes::new(CheckServiceServer::new(checks.clone()))
        .add_service(acts.clone())
        .add_service(WatchServiceServer::new(subscription.clone()));
    format!("http://{}", serve_fake(services).await)
}

impl Checks {
    pub fn script(&self, statuses: impl IntoIterator<Item = Status>) {
        lock(&self.0).script = statuses.into_iter().collect();
    }

    pub fn delay(&self, delay: Duration) {
        lock(&self.0).delay = delay;
    }

    /// The metadata of each request since the last call.
    pub fn seen(&self) -> Vec<MetadataMap> {
        std::mem::take(&mut lock(&self.0).seen)
    }
}

impl Acts {
    /// The number of attempts since the last call.
    pub fn count(&self) -> u32 {
        std::mem::take(&mut lock(&self.0))
    }
}

impl Subscription {
    pub fn state(&self) -> MutexGuard<'_, SubscriptionState> {
        lock(&self.0)
    }
}

#[tonic::async_trait]
impl CheckService for Checks {
    async fn check(&self, request: Request<proto::CheckRequest>) -> Answer<proto::CheckResponse> {
        let (next, delay) = {
            let mut state = lock(&self.0);
            state.seen.push(request.metadata().clone());
            (state.script.pop_front(), state.delay)
        };
        tokio::time::sleep(delay).await;
        match next {
            Some(status) => Err(status),
            None => Ok(Response::new(proto::CheckResponse::default())),
        }
    }
}

impl NamedService for Acts {
    const NAME: &'static str = "consent.v1.ConsentService";
}

impl tower::Service<http::Request<Body>> for Acts {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        *lock(&self.0) += 1;
        ready(Ok(Status::unavailable("not now").into_http()))
    }
}

#[tonic::async_trait]
impl WatchService for Subscription {
    async fn consume(
        &self,
        request: Request<Streaming<proto::ConsumeRequest>>,
    ) -> Answer<BoxStream<proto::ConsumeResponse>> {
        let (out, messages) = mpsc::channel(1);
        tokio::spawn(deliver(self.clone(), request.into_inner(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// The time after which an unacknowledged event is sent again.
const REDELIVERY: Duration = Duration::from_millis(100);

/// One connection of a consumer, by the protocol.
async fn deliver(
    subscription: Subscription,
    mut requests: Streaming<proto::ConsumeRequest>,
    out: mpsc::Sender<Result<proto::ConsumeResponse, Status>>,
) {
    let Ok(Some(proto::ConsumeRequest { message: Some(consume_request::Message::Start(start)) })) =
        requests.message().await
    else {
        return;
    };
    let (next_index, lasts) = {
        let mut state = subscription.state();
        state.connections += 1;
        let open = state.events.iter().find(|index| !state.acked.contains(index));
        let end = state.events.last().map_or(0, |last| last + 1);
        (open.copied().unwrap_or(end), state.lasts)
    };
    let started = proto::ConsumeStarted { next_index, ..Default::default() };
    let started = consume_response::Message::Started(started);
    let _ = out.send(Ok(answer(started, 0))).await;

    let mut connection = Connection {
        credits: start.credits,
        delivered: next_index,
        sent: HashMap::new(),
        count: 0,
    };
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => connection.hear(request, &mut subscription.state()),
                _ => return,
            },
            _ = ticks.tick() => {}
        }
        loop {
            let next = connection.next(&subscription.state());
            let Some((index, attempt)) = next else { break };
            let event = proto::ConsentEvent { index, ..Default::default() };
            let event = consume_response::Message::Consent(event);
            if out.send(Ok(answer(event, attempt))).await.is_err() {
                return;
            }
            connection.count += 1;
            if connection.count == lasts {
                let _ = out.send(Err(Status::unavailable("scripted"))).await;
                return;
            }
        }
    }
}

fn answer(message: consume_response::Message, attempt: u32) -> proto::ConsumeResponse {
    proto::ConsumeResponse { message: Some(message), attempt }
}

struct Connection {
    credits: u32,
    /// Events below this index were delivered.
    delivered: u64,
    /// The time of the last delivery of each event, and its attempt.
    sent: HashMap<u64, (Instant, u32)>,
    count: usize,
}

impl Connection {
    fn hear(&mut self, request: proto::ConsumeRequest, state: &mut SubscriptionState) {
        match request.message {
            Some(consume_request::Message::Credit(credit)) => self.credits += credit.credits,
            Some(consume_request::Message::Ack(ack)) => self.acknowledge(&ack, state),
            other => state.wrong.push(format!("{other:?}")),
        }
    }

    fn acknowledge(&self, ack: &proto::ConsumeAck, state: &mut SubscriptionState) {
        let undelivered = ack.indexes.iter().any(|index| *index >= self.delivered)
            || ack.next_index.is_some_and(|next| next > self.delivered);
        if undelivered {
            state.wrong.push(format!("{ack:?}, but {} was delivered", self.delivered));
        }
        state.acked.extend(&ack.indexes);
        let through = state.events.iter().copied().filter(|index| ack.next_index > Some(*index));
        let through: Vec<u64> = through.collect();
        state.acked.extend(through);
    }

    /// The next event to send, with its attempt.
    fn next(&mut self, state: &SubscriptionState) -> Option<(u64, u32)> {
        if self.credits == 0 {
            return None;
        }
        let may_go = |index: &&u64| match self.sent.get(index) {
            Some((at, _)) => at.elapsed() > REDELIVERY,
            None => true,
        };
        let mut open = state.events.iter().filter(|index| !state.acked.contains(index));
        let index = *open.find(may_go)?;
        self.credits -= 1;
        self.delivered = self.delivered.max(index + 1);
        let (at, attempt) = self.sent.entry(index).or_insert((Instant::now(), 0));
        *at = Instant::now();
        *attempt += 1;
        Some((index, *attempt))
    }
}
