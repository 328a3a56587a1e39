//! Delivery over HTTP, for services that hold no stream: CloudEvents 1.0 with signatures of Standard
//! Webhooks.
//!
//! The server itself is the consumer of each shard of a subscription with a URL. So webhooks have the
//! guarantees of consumers: delivery at least once, receipts in the ledger, no loss in a crash. This
//! module adds only HTTP:
//!
//! * [`event`]: the message; [`signature`]: its signature.
//! * [`sender`]: one attempt. [`crate::web::target`] decides which addresses are allowed.
//! * `lanes`: the order of messages; `health`: whether the endpoint is down; [`retry`]: the backoff;
//!   `progress`: how many events were settled ahead of a failing one.
//! * [`worker`]: one shard. This module starts and ends the workers.
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

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use retry::Retry;
use sender::Sender;
use signature::{Secret, SignatureError};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
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
pub const REQUESTS_MAX: usize = 512;
/// How often the server looks for new and deleted subscriptions.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before a worker that failed is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// The server's own name as a consumer.
const CONSUMER: &str = "webhook";

/// Delivers every subscription with a URL until the node drains.
#[derive(Debug)]
#[must_use = "nothing is delivered once it is dropped"]
pub struct Webhooks {
    stop: CancellationToken,
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
            permits: Semaphore::new(REQUESTS_MAX),
        });
        // A child token, so that dropping this stops the workers but does not drain the node.
        let stop = draining.child_token();
        let supervisor = tokio::spawn(supervise(shared, stop.clone()));
        Self { stop, supervisor }
    }

    /// Waits until all workers have ended. Once the node drains they take no more events and wait
    /// shortly for requests in flight.
    pub async fn ended(mut self) {
        if let Err(error) = (&mut self.supervisor).await {
            error!(%error, "delivery over HTTP ended early");
        }
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The workers of one subscription.
struct Running {
    stop: CancellationToken,
    health: Arc<Health>,
    envelope: Arc<Envelope>,
    shards: Vec<Option<JoinHandle<()>>>,
}

/// Keeps one worker running for each shard of each subscription with a URL.
async fn supervise(shared: Arc<Shared>, stop: CancellationToken) {
    let mut running: HashMap<SubscriptionId, Running> = HashMap::new();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let live = shared.node.webhooks();
        running.retain(|id, workers| {
            let is_live = live.iter().any(|subscription| subscription.id == *id);
            if !is_live {
                workers.stop.cancel();
            }
            is_live
        });
        for subscription in live {
            let workers = match running.entry(subscription.id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match Running::new(&shared, &subscription, &stop) {
                    Ok(workers) => entry.insert(workers),
                    Err(error) => {
                        let name = &subscription.spec.name;
                        error!(subscription = %name, %error, "it can not be signed");
                        continue;
                    }
                },
            };
            start_shards(workers, &shared, &subscription);
        }
    }
    for worker in running.into_values().flat_map(|workers| workers.shards).flatten() {
        // A panic of a worker was logged when it happened.
        let _ = worker.await;
    }
}

impl Running {
    fn new(
        shared: &Shared,
        subscription: &Subscription,
        stop: &CancellationToken,
    ) -> Result<Self, SignatureError> {
        let (node, id) = (&shared.node, subscription.id);
        let secret = Secret::parse(&node.webhook_secret(id))?;
        let envelope = Arc::new(Envelope::new(&node.ledger_id(), node.origin(), id, secret));
        // An attempt may first wait for a permit.
        let attempt_max = shared.sender.timeout() * 2;
        let health = Arc::new(Health::new(shared.retry, attempt_max));
        let shards = subscription.shards.iter().map(|_| None).collect();
        info!(subscription = %subscription.spec.name, "delivering over HTTP");
        Ok(Self { stop: stop.child_token(), health, envelope, shards })
    }
}

/// Starts a worker for each shard that has none.
fn start_shards(running: &mut Running, shared: &Arc<Shared>, subscription: &Arc<Subscription>) {
    for (shard, slot) in (0_u32..).zip(&mut running.shards) {
        if slot.as_ref().is_some_and(|worker| !worker.is_finished()) {
            continue;
        }
        let consuming = Consuming {
            subscription: subscription.spec.name.clone(),
            shard,
            credits: u32::try_from(WAITING_MAX).unwrap_or(u32::MAX),
            redeliver_after: None,
            snapshot_token: Vec::new(),
            consumer: CONSUMER.to_owned(),
            is_webhook: true,
        };
        let (shared, subscription) = (Arc::clone(shared), Arc::clone(subscription));
        let (envelope, health) = (Arc::clone(&running.envelope), Arc::clone(&running.health));
        let stop = running.stop.clone();
        *slot = Some(tokio::spawn(async move {
            let name = subscription.spec.name.clone();
            let ended = match shared.node.consume(consuming) {
                // The name may belong to a newer subscription by now.
                Ok(consumer) if consumer.subscription().id != subscription.id => {
                    Ended::Consumer(ConsumeError::Deleted)
                }
                Ok(consumer) => {
                    let worker =
                        Worker::new(shared, consumer, subscription, shard, envelope, health);
                    worker.run(stop.clone()).await
                }
                Err(error) => Ended::Consumer(error),
            };
            match ended {
                Ended::Stopped
                | Ended::Consumer(
                    ConsumeError::Deleted
                    | ConsumeError::NotFound { .. }
                    | ConsumeError::WritesStopped(_)
                    | ConsumeError::Watch(WatchError::Closing { .. }),
                ) => debug!(subscription = %name, shard, ?ended, "no longer delivering"),
                Ended::Consumer(error) => {
                    error!(subscription = %name, shard, %error, "delivery ended, and starts again");
                    pause(&stop).await;
                }
                Ended::Broken => pause(&stop).await,
            }
        }));
    }
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(RESTART_PAUSE) => {}
    }
}
