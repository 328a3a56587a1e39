//! The thread that writes acknowledgements to the ledger, through the writer.

use std::{io, sync::Arc};

use tracing::{error, warn};

use super::{
    Core, Taken,
    book::{Book, live},
    lag::{self, Pending},
};
use crate::{
    domain::{DeliveryOverdue, Key, SubscriptionEntry},
    node::{WriteError, batch::Batch, writer::Jobs},
    shutdown::{Stage, Threads},
};

/// Starts the thread. It ends at [`Stage::Deliveries`] once everything is written, or when writes are
/// stopped.
pub(super) fn start(core: &Arc<Core>, threads: &Threads, jobs: Jobs) -> io::Result<()> {
    let wake = {
        let core = Arc::clone(core);
        move || core.deliveries.wake()
    };
    let core = Arc::clone(core);
    let run = move || {
        core.write_receipts(&jobs);
        core.deliveries.with_book(Book::stop);
    };
    threads.spawn("receipts", Stage::Deliveries, wake, run)?;
    Ok(())
}

/// What a batch wrote about deliveries.
#[derive(Debug, Default)]
pub(in crate::node) struct Written {
    /// Number of entries with receipts.
    receipts: u64,
    /// Number of events that were given up.
    failed: u64,
    /// The overdue shards, with the names of their subscriptions.
    overdue: Vec<(Key, DeliveryOverdue)>,
}

impl Core {
    fn write_receipts(&self, jobs: &Jobs) {
        while self.deliveries.wait_due() {
            // The writer takes them itself, so that each take follows the write of the one before.
            let write = |batch: &mut Batch<'_>| {
                let taken = batch.core().deliveries.with_book(Book::take);
                Ok::<_, WriteError>(batch.deliveries(&taken))
            };
            match jobs.write(write) {
                Ok(written) => self.report_written(&written),
                Err(error) => {
                    // The job itself never fails: writes are stopped, or the writer has ended.
                    error!(%error, "no more receipts are written: acknowledgements not yet written to \
                        the ledger are lost, and their events are delivered again after a restart");
                    return;
                }
            }
        }
    }

    /// Counts and logs what was written about deliveries.
    pub(in crate::node) fn report_written(&self, written: &Written) {
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
    /// Writes entries about deliveries, as far as they still apply. The content of an entry that cannot
    /// be written goes back into the book, because it was acknowledged to consumers.
    pub(in crate::node) fn deliveries(&mut self, taken: &Taken) -> Written {
        let mut written = Written::default();
        for body in taken.bodies() {
            if let Err(error) = self.delivery(body.clone(), &mut written) {
                error!(%error, "an entry about deliveries could not be written");
                self.core().deliveries.put_back(&body, taken);
            }
        }
        written
    }

    /// Writes one entry. If that fails, the batch is not changed.
    fn delivery(
        &mut self,
        body: SubscriptionEntry,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        match body {
            SubscriptionEntry::Delivered(mut delivered) => {
                delivered
                    .retain(|receipt| live(self.subscriptions(), receipt.subscription).is_some());
                if !delivered.is_empty() {
                    self.put_subscription(SubscriptionEntry::Delivered(delivered))?;
                    written.receipts += 1;
                }
            }
            SubscriptionEntry::Failed(failed)
                if live(self.subscriptions(), failed.subscription).is_some() =>
            {
                let count = failed.failed.len() as u64;
                self.put_subscription(SubscriptionEntry::Failed(failed))?;
                written.failed += count;
            }
            SubscriptionEntry::Overdue(overdue) => {
                written.overdue.extend(self.overdue(&overdue)?.map(|name| (name, overdue)));
            }
            // The subscription was ended meanwhile, or the entry is none about deliveries.
            SubscriptionEntry::Failed(_)
            | SubscriptionEntry::Created(_)
            | SubscriptionEntry::Deleted(_) => {}
        }
        Ok(())
    }

    /// Writes that a shard is overdue, if it still is and this was not reported before. Returns the name
    /// of its subscription then.
    fn overdue(&mut self, overdue: &DeliveryOverdue) -> Result<Option<Key>, WriteError> {
        let recorded_at = self.recorded_at();
        let subscription = live(self.subscriptions(), overdue.subscription).cloned();
        let Some(subscription) = subscription else { return Ok(None) };
        let pending = Pending { index: overdue.event_index, since: overdue.pending_since };
        let Some(state) = subscription.shard(overdue.shard) else { return Ok(None) };
        let is_pending = pending.is_pending(&subscription, &state.settled, state.snapshot_pending);
        let recovered = self.core().deliveries.recovered(subscription.id, overdue.shard);
        if !is_pending || !lag::may_report(&subscription, state, recovered, recorded_at) {
            return Ok(None);
        }
        self.put_subscription(SubscriptionEntry::Overdue(*overdue))?;
        Ok(Some(subscription.spec.name.clone()))
    }
}
