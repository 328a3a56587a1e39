//! The thread that writes down what has gathered.

use std::{io, sync::Arc};

use tracing::{error, warn};

use super::{
    Core, Taken,
    lag::{self, Pending},
};
use crate::{
    domain::{DeliveryOverdue, Key, SubscriptionEntry},
    fold::Subscriptions,
    node::{WriteError, batch::Batch, writer::Jobs},
    shutdown::{Stage, Threads},
};

struct Receipts {
    core: Arc<Core>,
    jobs: Jobs,
}

/// Starts the thread. It ends at [`Stage::Deliveries`] once nothing is left, or when writes are stopped.
pub(super) fn start(core: &Arc<Core>, threads: &Threads, jobs: Jobs) -> io::Result<()> {
    let receipts = Receipts { core: Arc::clone(core), jobs };
    let run = move || {
        receipts.run();
        receipts.core.deliveries.stop();
    };
    let woken = Arc::clone(core);
    threads.spawn("receipts", Stage::Deliveries, move || woken.deliveries.wake(), run)?;
    Ok(())
}

/// What was written down.
#[derive(Debug, Default)]
pub(in crate::node) struct Written {
    /// Number of entries about acknowledgements.
    receipts: u64,
    /// Number of events that were given up.
    failed: u64,
    /// The subscriptions that are overdue, by name.
    overdue: Vec<(Key, DeliveryOverdue)>,
}

impl Receipts {
    fn run(&self) {
        let deliveries = &self.core.deliveries;
        while deliveries.wait_due() {
            // Taken by the writer, so that nothing is on its way to it when it takes more.
            let write = |batch: &mut Batch<'_>| {
                let taken = batch.core().deliveries.take();
                Ok(batch.deliveries(&taken))
            };
            match self.jobs.write(write) {
                Ok(written) => {
                    self.core.tell_written(&written);
                }
                Err(error) => {
                    // Nothing else comes of a job that refuses nothing: writes are stopped, or the
                    // writer is gone.
                    error!(%error, "no more receipts are written: what was acknowledged and is not \
                        on record is delivered again after a restart");
                    return;
                }
            }
        }
    }
}

impl Core {
    /// Tells of what was written down.
    pub(in crate::node) fn tell_written(&self, written: &Written) {
        let metrics = &self.metrics;
        metrics.delivery_receipts.inc_by(written.receipts);
        metrics.deliveries_failed.inc_by(written.failed);
        metrics.deliveries_overdue.inc_by(written.overdue.len() as u64);
        for (name, overdue) in &written.overdue {
            warn!(
                subscription = %name,
                shard = overdue.shard,
                event_index = overdue.event_index,
                "a subscription is overdue"
            );
        }
    }
}

impl Batch<'_> {
    /// Writes down what became of deliveries, as far as it is still so. What can not be written
    /// gathers again: consumers believe that it will be.
    pub(in crate::node) fn deliveries(&mut self, taken: &Taken) -> Written {
        let mut written = Written::default();
        for body in taken.bodies() {
            if let Err(error) = self.delivery(body.clone(), &mut written) {
                error!(%error, "what was acknowledged could not be written down");
                self.core().deliveries.put_back(&body, taken);
            }
        }
        written
    }

    /// Writes down one entry. If it fails, the batch is as it was.
    fn delivery(
        &mut self,
        body: SubscriptionEntry,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        let is_live =
            |all: &Subscriptions, id| all.get(id).is_some_and(|own| own.deleted.is_none());
        match body {
            SubscriptionEntry::Delivered(mut delivered) => {
                delivered.retain(|own| is_live(self.subscriptions(), own.subscription));
                if !delivered.is_empty() {
                    self.put_subscription(SubscriptionEntry::Delivered(delivered))?;
                    written.receipts += 1;
                }
            }
            SubscriptionEntry::Failed(failed)
                if is_live(self.subscriptions(), failed.subscription) =>
            {
                let count = failed.failed.len() as u64;
                self.put_subscription(SubscriptionEntry::Failed(failed))?;
                written.failed += count;
            }
            SubscriptionEntry::Overdue(overdue) => {
                written.overdue.extend(self.overdue(&overdue)?.map(|name| (name, overdue)));
            }
            // The subscription was ended meanwhile; the last two come from elsewhere.
            SubscriptionEntry::Failed(_)
            | SubscriptionEntry::Created(_)
            | SubscriptionEntry::Deleted(_) => {}
        }
        Ok(())
    }

    /// Writes down that a shard is overdue, if it is, and it was not said already. Answers the name of
    /// its subscription then.
    fn overdue(&mut self, overdue: &DeliveryOverdue) -> Result<Option<Key>, WriteError> {
        let recorded_at = self.recorded_at();
        let own = self.subscriptions().get(overdue.subscription).cloned();
        let Some(own) = own.filter(|own| own.deleted.is_none()) else { return Ok(None) };
        let pending = Pending { index: overdue.event_index, since: overdue.pending_since };
        let Some(state) = own.shard(overdue.shard) else { return Ok(None) };
        let is_pending = pending.is_pending(&own, &state.settled, state.snapshot_pending);
        let recovered = self.core().deliveries.recovered(own.id, overdue.shard);
        if !is_pending || !lag::is_to_be_told(&own, state, recovered, recorded_at) {
            return Ok(None);
        }
        self.put_subscription(SubscriptionEntry::Overdue(*overdue))?;
        Ok(Some(own.spec.name.clone()))
    }
}
