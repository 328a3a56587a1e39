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
pub use failed::{DeliveryFailed, FailedDelivery};
pub use overdue::DeliveryOverdue;

use super::{EntryError, Kind, fields::field};
use crate::proto::ledger::item::Content as Item;

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
    /// What the entry is, for people.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Created(_) => "the beginning of a subscription",
            Self::Deleted(_) => "the end of a subscription",
            Self::Delivered(_) => "a delivery receipt",
            Self::Failed(_) => "a delivery that was given up",
            Self::Overdue(_) => "a deadline that passed",
        }
    }

    /// The entry of confidential items.
    pub(super) fn of_items(items: Vec<Item>) -> Result<Self, EntryError> {
        let is_delivery = |item: &Item| matches!(item, Item::Delivery(_));
        if items.iter().all(is_delivery) {
            let deliveries = items.into_iter().filter_map(|item| match item {
                Item::Delivery(delivery) => Some(delivery),
                _ => None,
            });
            return Ok(Self::Delivered(deliveries.flat_map(delivered::of_delivery).collect()));
        }
        let mut items = items.into_iter();
        let (first, second) = (items.next(), items.next());
        if items.next().is_some() {
            return Err(field("items"));
        }
        Ok(match (first, second) {
            (Some(Item::SubscriptionCreated(created)), address) => {
                let url = match address {
                    None => None,
                    Some(Item::WebhookAddress(address)) => Some(address.url),
                    Some(_) => return Err(field("items")),
                };
                Self::Created(Box::new(SubscriptionCreated::of_message(created, url)?))
            }
            (Some(Item::SubscriptionDeleted(deleted)), None) => Self::Deleted(deleted.into()),
            (Some(Item::Failure(failure)), None) => Self::Failed(failure.into()),
            (Some(Item::Lateness(lateness)), None) => Self::Overdue(lateness.into()),
            (Some(Item::Principal(_)), None) => return Err(EntryError::Kind("a principal")),
            (Some(Item::Vault(_)), None) => return Err(EntryError::Kind("a state of the vault")),
            _ => return Err(field("items")),
        })
    }

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
