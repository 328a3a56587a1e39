//! What subscribers acknowledge, until the ledger holds it; and who is behind.
//!
//! Acknowledgements gather in memory. One thread writes those of all subscriptions down as one
//! DELIVERY_RECEIPT entry, every receipt interval or as soon as many have gathered, so that the
//! proof costs little. What is not yet written down is lost with a crash, and then delivered again.

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
pub(super) struct Deliveries {}

impl Core {
    /// Takes an acknowledgement.
    pub(super) fn acknowledge(&self, id: SubscriptionId, shard: u32, what: &Acknowledged) {
        todo!("{:?} {id:?} {shard} {what:?}", self.deliveries)
    }

    /// Takes an event that is given up.
    pub(super) fn give_up(&self, id: SubscriptionId, shard: u32, failed: FailedDelivery) {
        todo!("{:?} {id:?} {shard} {failed:?}", self.deliveries)
    }

    /// What a shard has acknowledged, be it written down or not, and whether its snapshot is still
    /// to be acknowledged. None if there is no such shard of a subscription that was not ended.
    pub(super) fn settled(&self, id: SubscriptionId, shard: u32) -> Option<(Settled, bool)> {
        todo!("{:?} {id:?} {shard}", self.deliveries)
    }
}
