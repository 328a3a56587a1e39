//! Kinds of entry about durable subscriptions, one file for each kind.
//!
//! They act on the subscriptions only, name no data subject and are in no history.

mod created;
mod deleted;
mod delivered;
mod failed;
mod overdue;

pub use created::{SubscriptionCreated, filter_to_proto, snapshot_to_proto};
pub use deleted::SubscriptionDeleted;
pub use delivered::Delivered;
pub(super) use delivered::receipt;
pub use failed::{DeliveryFailed, FailedDelivery};
pub use overdue::DeliveryOverdue;

use super::Kind;

/// An entry about a durable subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscriptionEntry {
    /// It was created.
    Created(Box<SubscriptionCreated>),
    /// It was ended.
    Deleted(SubscriptionDeleted),
    /// Subscribers acknowledged events.
    Delivered(Vec<Delivered>),
    /// Delivery of events was given up.
    Failed(DeliveryFailed),
    /// Its deadline passed.
    Overdue(DeliveryOverdue),
}

impl SubscriptionEntry {
    /// The entry's kind.
    #[must_use]
    pub fn kind(&self) -> &dyn Kind {
        match self {
            Self::Created(created) => &**created,
            Self::Deleted(deleted) => deleted,
            Self::Delivered(delivered) => delivered,
            Self::Failed(failed) => failed,
            Self::Overdue(overdue) => overdue,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{
        created::tests::any_created, deleted::tests::any_deleted, delivered::tests::any_receipt,
        failed::tests::any_failed, overdue::tests::any_overdue, *,
    };

    pub(in crate::entry) fn any_subscription_entry() -> impl Strategy<Value = SubscriptionEntry> {
        prop_oneof![
            any_created().prop_map(|created| SubscriptionEntry::Created(Box::new(created))),
            any_deleted().prop_map(SubscriptionEntry::Deleted),
            any_receipt().prop_map(SubscriptionEntry::Delivered),
            any_failed().prop_map(SubscriptionEntry::Failed),
            any_overdue().prop_map(SubscriptionEntry::Overdue),
        ]
    }
}
