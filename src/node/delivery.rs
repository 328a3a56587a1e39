//! What subscribers acknowledge, until the ledger holds it; and who is behind.
//!
//! Acknowledgements gather in memory. One thread writes those of all subscriptions down as one
//! DELIVERY_RECEIPT entry, every receipt interval or as soon as many have gathered, so that the
//! proof costs little. What is not yet written down is lost with a crash, and then delivered again.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Core;
use crate::domain::{FailedDelivery, Settled, SubscriptionId};

/// What a consumer acknowledges at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Everything before it.
    pub next_index: Option<u64>,
    /// Single events.
    pub indexes: Vec<u64>,
    /// Number of events that this settles. With none, nothing is written down for it alone: the
    /// place goes on record with the next event that is acknowledged.
    pub events: usize,
    /// Whether the snapshot is acknowledged.
    pub snapshot: bool,
}

/// The acknowledgements that are not written down yet.
#[derive(Debug, Default)]
pub(super) struct Deliveries(Mutex<HashMap<(SubscriptionId, u32), (Settled, bool)>>);

impl Core {
    /// Takes an acknowledgement.
    pub(super) fn acknowledge(&self, id: SubscriptionId, shard: u32, what: &Acknowledged) {
        let Some((mut settled, pending)) = self.settled(id, shard) else { return };
        settled.insert(0..what.next_index.unwrap_or(0));
        for index in &what.indexes {
            settled.insert(*index..*index + 1);
        }
        self.deliveries.0.lock().insert((id, shard), (settled, pending && !what.snapshot));
    }

    /// Takes an event that is given up.
    pub(super) fn give_up(&self, id: SubscriptionId, shard: u32, failed: FailedDelivery) {
        let what = Acknowledged { indexes: vec![failed.index], ..Acknowledged::default() };
        self.acknowledge(id, shard, &what);
    }

    /// What a shard has acknowledged, be it written down or not, and whether its snapshot is still
    /// to be acknowledged. None if there is no such shard of a subscription that was not ended.
    pub(super) fn settled(&self, id: SubscriptionId, shard: u32) -> Option<(Settled, bool)> {
        let all = self.view.subscriptions();
        let own = all.get(id).filter(|own| own.deleted.is_none())?.shard(shard)?;
        let initial = || (own.settled.clone(), own.snapshot_pending);
        Some(self.deliveries.0.lock().get(&(id, shard)).cloned().unwrap_or_else(initial))
    }
}
