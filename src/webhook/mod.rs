//! Delivery over HTTP, for services that hold no stream: CloudEvents 1.0, signed as Standard Webhooks
//! asks.
//!
//! The server itself is the consumer of each shard of a subscription with a URL. So whatever holds for
//! consumers holds for webhooks: at least once, receipts on record, nothing lost by a crash. Here is
//! only what HTTP adds:
//!
//! * [`event`]: what is sent; [`signature`]: who sent it.
//! * [`sender`]: one try. Where it may go to is judged by [`crate::web::target`].
//! * `lanes`: what waits for what; `health`: whether an endpoint takes anything at all;
//!   [`retry`]: when to try again; `progress`: what may be acknowledged.
//! * [`worker`]: one shard. This module starts one for each, and ends it.
//!
//! It refuses to know gRPC and the bytes of the ledger. No log line, metric, URL, header or id names a
//! data subject.

pub mod event;
mod health;
mod lanes;
mod progress;
pub mod retry;
pub mod sender;
pub mod signature;
pub mod worker;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use retry::Retry;
use sender::Sender;
use signature::{Secret, SignatureError};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use self::{
    event::Envelope,
    health::Health,
    worker::{Ended, Tools, WAITING_MAX, Worker},
};
use crate::{
    domain::{FailedDelivery, Subscription, SubscriptionId},
    event::Event,
    node::{Acknowledged, ConsumeError, Consumer, Consuming, Delivery, Node, ReadError},
    telemetry::Metrics,
    watch::WatchError,
};

/// The greatest number of tries on their way, over all subscriptions.
pub const TRIES_MAX: usize = 512;
/// How often the server looks for subscriptions that are new, or gone.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a shard rests when its worker ended for something that should not be.
const RESTART_PAUSE: Duration = Duration::from_secs(10);
/// What the server calls itself as a consumer.
const CONSUMER: &str = "webhook";

/// Where the messages of a shard come from, and what is said of them.
pub trait Source: Send + 'static {
    /// As [`Consumer::next`]; cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<Delivery, ConsumeError>> + Send;
    /// As [`Consumer::acknowledge`].
    ///
    /// # Errors
    /// [`ConsumeError::AckNotDelivered`].
    fn acknowledge(&mut self, what: Acknowledged) -> Result<(), ConsumeError>;
    /// As [`Consumer::credit`].
    fn credit(&mut self, more: u32);
    /// As [`Consumer::give_up`].
    fn give_up(&mut self, failed: FailedDelivery);
    /// As [`Consumer::redelivered`].
    fn redelivered(&mut self, index: u64);
    /// The subscription that it is of: that of a name may be another by now.
    fn subscription(&self) -> SubscriptionId;
}

impl Source for Consumer {
    fn next(&mut self) -> impl Future<Output = Result<Delivery, ConsumeError>> + Send {
        Consumer::next(self)
    }

    fn acknowledge(&mut self, what: Acknowledged) -> Result<(), ConsumeError> {
        Consumer::acknowledge(self, &what)
    }

    fn credit(&mut self, more: u32) {
        Consumer::credit(self, more);
    }

    fn give_up(&mut self, failed: FailedDelivery) {
        Consumer::give_up(self, failed);
    }

    fn redelivered(&mut self, index: u64) {
        Consumer::redelivered(self, index);
    }

    fn subscription(&self) -> SubscriptionId {
        Consumer::subscription(self).id
    }
}

/// What a ledger does for those who deliver it.
pub trait Ledger: Send + Sync + 'static {
    /// Where a shard's messages come from.
    type Source: Source;
    /// What the ids of a subscription's messages, their source and their signatures are made of.
    ///
    /// # Errors
    /// The secret is none.
    fn envelope(&self, id: SubscriptionId) -> Result<Envelope, SignatureError>;
    /// The subscriptions that are delivered by HTTP and were not ended.
    fn webhooks(&self) -> Vec<Arc<Subscription>>;
    /// Lets the server consume a shard.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    fn consume(self: &Arc<Self>, how: Consuming) -> Result<Self::Source, ConsumeError>;
    /// The event at an index, if there is one. Blocking.
    ///
    /// # Errors
    /// See [`Node::event`].
    fn event(&self, index: u64) -> Result<Option<Arc<Event>>, ReadError>;
    /// Tells each time that somebody wants dead letters to be delivered once more.
    fn replays(&self) -> watch::Receiver<u64>;
    /// Takes up to `limit` of those of a shard.
    fn take_replays(&self, id: SubscriptionId, shard: u32, limit: usize) -> Vec<u64>;
}

impl Ledger for Node {
    type Source = Consumer;

    fn envelope(&self, id: SubscriptionId) -> Result<Envelope, SignatureError> {
        let secret = Secret::parse(&self.webhook_secret(id))?;
        Ok(Envelope::new(&self.ledger_id(), self.origin(), id, secret))
    }

    fn webhooks(&self) -> Vec<Arc<Subscription>> {
        self.webhooks()
    }

    fn consume(self: &Arc<Self>, how: Consuming) -> Result<Consumer, ConsumeError> {
        Node::consume(self, how)
    }

    fn event(&self, index: u64) -> Result<Option<Arc<Event>>, ReadError> {
        self.event(index)
    }

    fn replays(&self) -> watch::Receiver<u64> {
        self.replays()
    }

    fn take_replays(&self, id: SubscriptionId, shard: u32, limit: usize) -> Vec<u64> {
        self.take_replays(id, shard, limit)
    }
}

/// Delivers every subscription with a URL until the node drains.
#[derive(Debug)]
#[must_use = "nothing is delivered once it is dropped"]
pub struct Webhooks {
    stop: CancellationToken,
    looking: JoinHandle<()>,
}

impl Webhooks {
    /// Starts to deliver, until `draining` is cancelled.
    pub fn start<L: Ledger>(
        ledger: &Arc<L>,
        sender: Sender,
        retry: Retry,
        metrics: &Arc<Metrics>,
        draining: &CancellationToken,
    ) -> Self {
        let tools = Arc::new(Tools {
            ledger: Arc::clone(ledger),
            sender,
            retry,
            metrics: Arc::clone(metrics),
            places: Arc::new(Semaphore::new(TRIES_MAX)),
        });
        // A view of the same signal, so that dropping this ends its workers alone.
        let stop = draining.child_token();
        let looking = tokio::spawn(look(tools, stop.clone()));
        Self { stop, looking }
    }

    /// Waits until all workers have ended. Once the node drains they take nothing more, and wait a
    /// little for what is on its way.
    pub async fn ended(mut self) {
        if let Err(error) = (&mut self.looking).await {
            error!(%error, "delivery over HTTP ended early");
        }
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        // The workers see it, and end.
        self.stop.cancel();
    }
}

/// A subscription that is delivered.
struct Running {
    stop: CancellationToken,
    health: Arc<Health>,
    envelope: Arc<Envelope>,
    shards: Vec<Option<JoinHandle<()>>>,
}

/// Keeps a worker for each shard of each subscription that there is.
async fn look<L: Ledger>(tools: Arc<Tools<L>>, stop: CancellationToken) {
    let mut running: HashMap<SubscriptionId, Running> = HashMap::new();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let live = tools.ledger.webhooks();
        running.retain(|id, own| {
            let is_live = live.iter().any(|live| live.id == *id);
            if !is_live {
                own.stop.cancel();
            }
            is_live
        });
        for subscription in live {
            match running_of(&mut running, &tools, &subscription, &stop) {
                Ok(own) => start_shards(own, &tools, &subscription),
                Err(error) => {
                    error!(subscription = %subscription.spec.name, %error, "it can not be signed");
                }
            }
        }
    }
    for handle in running.into_values().flat_map(|own| own.shards).flatten() {
        // A worker that panicked has nothing more to say.
        let _ = handle.await;
    }
}

fn running_of<'a, L: Ledger>(
    running: &'a mut HashMap<SubscriptionId, Running>,
    tools: &Arc<Tools<L>>,
    subscription: &Arc<Subscription>,
    stop: &CancellationToken,
) -> Result<&'a mut Running, SignatureError> {
    use std::collections::hash_map::Entry;
    match running.entry(subscription.id) {
        Entry::Occupied(own) => Ok(own.into_mut()),
        Entry::Vacant(place) => {
            let envelope = Arc::new(tools.ledger.envelope(subscription.id)?);
            // A try may wait for a place among all that are on their way.
            let try_max = tools.sender.timeout() * 2;
            let health = Arc::new(Health::new(tools.retry, try_max));
            let shards = subscription.shards.iter().map(|_| None).collect();
            info!(subscription = %subscription.spec.name, "delivering over HTTP");
            Ok(place.insert(Running { stop: stop.child_token(), health, envelope, shards }))
        }
    }
}

/// Starts a worker for each shard that has none.
fn start_shards<L: Ledger>(
    own: &mut Running,
    tools: &Arc<Tools<L>>,
    subscription: &Arc<Subscription>,
) {
    for (shard, place) in (0_u32..).zip(&mut own.shards) {
        if place.as_ref().is_some_and(|worker| !worker.is_finished()) {
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
        let (tools, subscription) = (Arc::clone(tools), Arc::clone(subscription));
        let (envelope, health) = (Arc::clone(&own.envelope), Arc::clone(&own.health));
        let stop = own.stop.clone();
        *place = Some(tokio::spawn(async move {
            let name = subscription.spec.name.clone();
            let ended = match tools.ledger.consume(consuming) {
                Ok(source) if source.subscription() != subscription.id => {
                    Ended::Source(ConsumeError::Deleted)
                }
                Ok(source) => {
                    let worker = Worker::new(tools, source, subscription, shard, envelope, health);
                    worker.run(stop.clone()).await
                }
                Err(error) => Ended::Source(error),
            };
            match ended {
                Ended::Stopped
                | Ended::Source(
                    ConsumeError::Deleted
                    | ConsumeError::NotFound { .. }
                    | ConsumeError::WritesStopped(_)
                    | ConsumeError::Watch(WatchError::Closing { .. }),
                ) => debug!(subscription = %name, shard, ?ended, "no longer delivering"),
                Ended::Source(error) => {
                    error!(subscription = %name, shard, %error, "delivery ended, and starts again");
                    rest(&stop).await;
                }
                Ended::Broken => rest(&stop).await,
            }
        }));
    }
}

async fn rest(stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(RESTART_PAUSE) => {}
    }
}
