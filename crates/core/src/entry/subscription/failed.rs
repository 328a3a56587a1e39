//! `DeliveryFailed`: delivery of events to one shard was given up.

use crate::{
    domain::SubscriptionId,
    entry::{Content, NamesNoSubject, OfSubscriptions, Place, Target},
    event::EventOutline,
    fold::{FoldError, Lead, Subscriptions},
    proto::ledger::{self, item},
};

/// Delivery of events was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFailed {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The shard.
    pub shard: u32,
    /// The events, ascending.
    pub failed: Vec<FailedDelivery>,
}

/// An event whose delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedDelivery {
    /// Index of the event.
    pub index: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// HTTP status of the last answer; 0 if there was none.
    pub http_status: u32,
}

impl NamesNoSubject for DeliveryFailed {
    fn content(&self) -> Content {
        let to_message = |failed: &FailedDelivery| ledger::FailedDelivery {
            index: failed.index,
            attempts: failed.attempts,
            http_status: failed.http_status,
        };
        Content::Items(vec![item::Content::Failure(ledger::DeliveryFailure {
            subscription_index: self.subscription.0,
            shard: self.shard,
            failed: self.failed.iter().map(to_message).collect(),
        })])
    }

    fn target(&self) -> Target<'_> {
        Target::Subscriptions(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl OfSubscriptions for DeliveryFailed {
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError> {
        let (id, shard) = (self.subscription, self.shard);
        let state = all.shard_mut(id, shard, place.index)?;
        let mut leads = vec![Lead::Subscription(id)];
        for failed in &self.failed {
            let (range, at) = (failed.index..failed.index + 1, place.recorded_at);
            state.settled.insert(range.clone());
            leads.push(Lead::Settled { id, shard, range, at, is_failure: true });
            leads.push(Lead::DeadLetter { id, shard, failed: *failed, at });
        }
        Ok(leads)
    }
}

impl From<ledger::DeliveryFailure> for DeliveryFailed {
    fn from(message: ledger::DeliveryFailure) -> Self {
        let of_message = |failed: &ledger::FailedDelivery| FailedDelivery {
            index: failed.index,
            attempts: failed.attempts,
            http_status: failed.http_status,
        };
        Self {
            subscription: SubscriptionId(message.subscription_index),
            shard: message.shard,
            failed: message.failed.iter().map(of_message).collect(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::SHARDS_MAX,
        entry::{Body, SubscriptionEntry, tests::reads_back},
    };

    pub(in crate::entry) fn any_failed() -> impl Strategy<Value = DeliveryFailed> {
        // A map, as they ascend.
        let failed = prop::collection::btree_map(any::<u64>(), any::<(u32, u32)>(), 1..4);
        ((any::<u64>(), 0..SHARDS_MAX), failed).prop_map(|((id, shard), failed)| {
            let one =
                |(index, (attempts, http_status))| FailedDelivery { index, attempts, http_status };
            let (subscription, failed) = (SubscriptionId(id), failed.into_iter().map(one));
            DeliveryFailed { subscription, shard, failed: failed.collect() }
        })
    }

    proptest! {
        #[test]
        fn it_reads_back(failed in any_failed()) {
            reads_back(&Body::Subscription(SubscriptionEntry::Failed(failed)));
        }
    }
}
