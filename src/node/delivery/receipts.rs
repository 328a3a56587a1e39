//! The thread that writes down what has gathered.

use std::{sync::Arc, thread};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, warn};

use super::{
    Core,
    lag::{self, Pending},
};
use crate::{
    domain::{Body, DeliveryOverdue},
    node::{
        WriteError,
        batch::Batch,
        writer::{self, Admitted, Place},
    },
    view::Subscriptions,
    watch::{Event, EventTold, OverdueTold},
};

struct Receipts {
    core: Arc<Core>,
    jobs: mpsc::WeakSender<Admitted>,
}

/// Starts the thread. It ends when the node closes and nothing is left, or when writes are stopped.
pub(super) fn start(
    core: Arc<Core>,
    jobs: mpsc::WeakSender<Admitted>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let receipts = Receipts { core, jobs };
    thread::Builder::new().name("receipts".to_owned()).spawn(move || {
        receipts.run();
        receipts.core.deliveries.stop();
    })
}

/// What was written down.
#[derive(Debug, Default)]
struct Written {
    /// Number of entries about acknowledgements.
    receipts: u64,
    /// Number of events that were given up.
    failed: u64,
    /// Who is overdue.
    overdue: Vec<OverdueTold>,
}

impl Receipts {
    fn run(&self) {
        let deliveries = &self.core.deliveries;
        while let Some(taken) = deliveries.take_due() {
            match self.write(taken.bodies()) {
                Ok(written) => {
                    deliveries.gathered.lock().written(&self.core.view);
                    self.tell(&written);
                }
                Err(error) => {
                    // Nothing else comes of a job that refuses nothing.
                    debug!(%error, "no more receipts are written");
                    return;
                }
            }
        }
    }

    fn write(&self, bodies: Vec<Body>) -> Result<Written, WriteError> {
        if bodies.is_empty() {
            return Ok(Written::default());
        }
        let (reply, answer) = oneshot::channel();
        let job = writer::job(move |batch| Ok(batch.deliveries(bodies)), reply);
        let jobs = self.jobs.upgrade().ok_or(WriteError::ShuttingDown)?;
        // The place is free: there is one job at a time.
        let place = Place::of_receipts();
        jobs.try_send(Admitted { job, place }).map_err(|_| WriteError::ShuttingDown)?;
        drop(jobs);
        answer.blocking_recv().map_err(|_| WriteError::ShuttingDown)?
    }

    fn tell(&self, written: &Written) {
        let metrics = &self.core.metrics;
        metrics.delivery_receipts.inc_by(written.receipts);
        metrics.deliveries_failed.inc_by(written.failed);
        metrics.deliveries_overdue.inc_by(written.overdue.len() as u64);
        for overdue in &written.overdue {
            warn!(
                subscription = %overdue.subscription,
                shard = overdue.shard,
                event_index = overdue.event_index,
                "a subscription is overdue"
            );
        }
    }
}

impl Batch<'_> {
    /// Writes down what became of deliveries, as far as it is still so.
    fn deliveries(&mut self, bodies: Vec<Body>) -> Written {
        let mut written = Written::default();
        for body in bodies {
            if let Err(error) = self.delivery(body, &mut written) {
                // It is delivered again, and acknowledged again.
                error!(%error, "what was acknowledged could not be written down");
            }
        }
        written
    }

    /// Writes down one entry. If it fails, the batch is as it was.
    fn delivery(&mut self, body: Body, written: &mut Written) -> Result<(), WriteError> {
        let is_live =
            |all: &Subscriptions, id| all.get(id).is_some_and(|own| own.deleted.is_none());
        match body {
            Body::Delivered(mut delivered) => {
                delivered.retain(|own| is_live(self.subscriptions(), own.subscription));
                if !delivered.is_empty() {
                    self.put_subscription(Body::Delivered(delivered))?;
                    written.receipts += 1;
                }
            }
            Body::Failed(failed) if is_live(self.subscriptions(), failed.subscription) => {
                let count = failed.failed.len() as u64;
                self.put_subscription(Body::Failed(failed))?;
                written.failed += count;
            }
            Body::Overdue(overdue) => {
                written.overdue.extend(self.overdue(&overdue)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes down that a shard is overdue, if it is, and it was not said already.
    fn overdue(&mut self, overdue: &DeliveryOverdue) -> Result<Option<OverdueTold>, WriteError> {
        let recorded_at = self.recorded_at();
        let own = self.subscriptions().get(overdue.subscription).cloned();
        let Some(own) = own.filter(|own| own.deleted.is_none()) else { return Ok(None) };
        let pending = Pending { index: overdue.event_index, since: overdue.pending_since };
        let Some(state) = own.shard(overdue.shard) else { return Ok(None) };
        let is_pending = pending.is_pending(&own, &state.settled, state.snapshot_pending);
        if !is_pending || !lag::is_to_be_told(&own, state, recorded_at) {
            return Ok(None);
        }
        let told = OverdueTold {
            subscription: own.spec.name.clone(),
            shard: overdue.shard,
            event_index: overdue.event_index,
            pending_since: overdue.pending_since,
        };
        let index = self.put_subscription(Body::Overdue(*overdue))?;
        let event = Event { index, recorded_at, told: EventTold::Overdue(told.clone()) };
        self.events.push(Arc::new(event));
        Ok(Some(told))
    }
}
