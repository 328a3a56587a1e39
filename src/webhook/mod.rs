//! Delivery over HTTP, for services that hold no stream: CloudEvents 1.0, signed according to Standard
//! Webhooks.
//!
//! For a subscription with a URL, the server itself is the consumer of each shard. So the guarantees
//! for consumers hold for webhooks: at-least-once delivery, receipts in the ledger, no loss after a
//! crash. This module adds the HTTP part:
//!
//! * [`event`]: the message; [`signature`]: its signature.
//! * [`sender`]: one request. [`crate::web::target`] decides which addresses are allowed.
//! * `lanes`: the order of messages; `health`: whether the endpoint is down;
//!   [`retry`]: the pauses between tries; `progress`: how far delivery runs ahead of the oldest event.
//! * [`worker`]: delivers one shard. This module starts and stops the workers.
//!
//! It knows neither gRPC nor the bytes of the ledger. No log line, metric, URL, header or id names a
//! data subject.

pub mod event;
mod health;
mod lanes;
mod progress;
pub mod retry;
pub mod sender;
pub mod signature;
pub mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use retry::Retry;
use sender::Sender;
use signature::{Secret, SignatureError};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info};

use self::{
    event::Envelope,
    health::Health,
    worker::{Ended, Shared, WAITING_MAX, Worker},
};
use crate::{
    domain::{Subscription, SubscriptionId},
    node::{ConsumeError, Consuming, Node},
    telemetry::Metrics,
    watch::WatchError,
};

/// Maximum number of requests in flight, over all subscriptions.
pub const TRIES_MAX: usize = 512;
/// How often the server looks for new and ended subscriptions.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the worker of a shard starts again after an unexpected error.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// Name of the server as a consumer.
const CONSUMER: &str = "webhook";

/// Delivers every subscription with a URL until the node drains.
#[derive(Debug)]
#[must_use = "delivery stops when this is dropped"]
pub struct Webhooks {
    stop: DropGuard,
    supervisor: JoinHandle<()>,
}

impl Webhooks {
    /// Starts to deliver, until `draining` is cancelled.
    pub fn start(
        node: &Arc<Node>,
        sender: Sender,
        retry: Retry,
        metrics: &Arc<Metrics>,
        draining: &CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            node: Arc::clone(node),
            sender,
            retry,
            metrics: Arc::clone(metrics),
            places: Arc::new(Semaphore::new(TRIES_MAX)),
        });
        // A child, so that dropping this stops its workers and nothing else.
        let stop = draining.child_token();
        let supervisor = tokio::spawn(supervise(shared, stop.clone()));
        Self { stop: stop.drop_guard(), supervisor }
    }

    /// Waits until all workers have ended. When the node drains they take no more events, and wait
    /// up to [`worker::STOP_GRACE`] for the requests in flight.
    pub async fn ended(self) {
        let Self { stop: _stop, supervisor } = self;
        if let Err(error) = supervisor.await {
            error!(%error, "delivery over HTTP ended early");
        }
    }
}

/// The endpoint of a subscription, and the workers that deliver to it.
struct Endpoint {
    stop: CancellationToken,
    health: Arc<Health>,
    envelope: Arc<Envelope>,
    /// The worker of each shard.
    workers: Vec<Option<JoinHandle<()>>>,
}

/// Keeps one worker running for each shard of each subscription with a URL.
async fn supervise(shared: Arc<Shared>, stop: CancellationToken) {
    let mut endpoints: HashMap<SubscriptionId, Endpoint> = HashMap::new();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let live = shared.node.webhooks();
        endpoints.retain(|id, endpoint| {
            let is_live = live.iter().any(|live| live.id == *id);
            if !is_live {
                endpoint.stop.cancel();
            }
            is_live
        });
        for subscription in live {
            match endpoint_of(&mut endpoints, &shared, &subscription, &stop) {
                Ok(endpoint) => start_workers(endpoint, &shared, &subscription),
                Err(error) => {
                    let name = &subscription.spec.name;
                    error!(subscription = %name, %error, "messages cannot be signed");
                }
            }
        }
    }
    for worker in endpoints.into_values().flat_map(|endpoint| endpoint.workers).flatten() {
        // A panic of a worker was logged already.
        let _ = worker.await;
    }
}

/// Why an endpoint gets no messages.
#[derive(Debug, thiserror::Error)]
enum NoEndpoint {
    /// The entry that created the subscription can not be read.
    #[error(transparent)]
    Read(#[from] crate::node::ReadError),
    /// The secret is none.
    #[error(transparent)]
    Secret(#[from] SignatureError),
}

fn endpoint_of<'a>(
    endpoints: &'a mut HashMap<SubscriptionId, Endpoint>,
    shared: &Shared,
    subscription: &Subscription,
    stop: &CancellationToken,
) -> Result<&'a mut Endpoint, NoEndpoint> {
    use std::collections::hash_map::Entry;
    match endpoints.entry(subscription.id) {
        Entry::Occupied(endpoint) => Ok(endpoint.into_mut()),
        Entry::Vacant(place) => {
            let (node, id) = (&shared.node, subscription.id);
            let secret = Secret::parse(&node.webhook_secret(id)?)?;
            let envelope = Arc::new(Envelope::new(&node.ledger_id(), node.origin(), id, secret));
            // A try may wait for its place among the requests in flight.
            let try_max = shared.sender.timeout() * 2;
            let health = Arc::new(Health::new(shared.retry, try_max));
            let workers = subscription.shards.iter().map(|_| None).collect();
            info!(subscription = %subscription.spec.name, "delivering over HTTP");
            Ok(place.insert(Endpoint { stop: stop.child_token(), health, envelope, workers }))
        }
    }
}

/// Starts a worker for each shard that has none.
fn start_workers(endpoint: &mut Endpoint, shared: &Arc<Shared>, subscription: &Arc<Subscription>) {
    for (shard, worker) in (0_u32..).zip(&mut endpoint.workers) {
        if worker.as_ref().is_some_and(|worker| !worker.is_finished()) {
            continue;
        }
        let (shared, subscription) = (Arc::clone(shared), Arc::clone(subscription));
        let (envelope, health) = (Arc::clone(&endpoint.envelope), Arc::clone(&endpoint.health));
        let stop = endpoint.stop.clone();
        *worker = Some(tokio::spawn(async move {
            let name = subscription.spec.name.clone();
            let ended = run_worker(shared, subscription, shard, envelope, health, &stop).await;
            match ended {
                Ended::Stopped
                | Ended::Source(
                    ConsumeError::Deleted
                    | ConsumeError::NotFound { .. }
                    | ConsumeError::WritesStopped(_)
                    | ConsumeError::Watch(WatchError::Closing { .. }),
                ) => {
                    debug!(subscription = %name, shard, ?ended, "no longer delivering");
                    return;
                }
                Ended::Source(error) => {
                    error!(subscription = %name, shard, %error, "delivery ended and will restart");
                }
                // It was logged already.
                Ended::Broken => {}
            }
            stop.run_until_cancelled(sleep(RESTART_PAUSE)).await;
        }));
    }
}

async fn run_worker(
    shared: Arc<Shared>,
    subscription: Arc<Subscription>,
    shard: u32,
    envelope: Arc<Envelope>,
    health: Arc<Health>,
    stop: &CancellationToken,
) -> Ended {
    let consuming = Consuming {
        subscription: subscription.spec.name.clone(),
        shard,
        credits: u32::try_from(WAITING_MAX).unwrap_or(u32::MAX),
        redeliver_after: None,
        snapshot_token: Vec::new(),
        consumer: CONSUMER.to_owned(),
        is_webhook: true,
    };
    match shared.node.consume(consuming) {
        // Another subscription has taken the name since.
        Ok(consumer) if consumer.subscription().id != subscription.id => {
            Ended::Source(ConsumeError::Deleted)
        }
        Ok(consumer) => {
            Worker::new(shared, consumer, subscription, shard, envelope, health).run(stop).await
        }
        Err(error) => Ended::Source(error),
    }
}
