//! `DeliveryOverdue`: the deadline of a durable subscription passed with an event unacknowledged.

use crate::{
    domain::{Millis, Overdue, SubscriptionId},
    entry::{Content, NamesNoSubject, OfSubscriptions, Place, Target},
    event::EventOutline,
    fold::{FoldError, Lead, Subscriptions},
    proto::ledger::{self, item},
};

/// A subscription's deadline passed with an event unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryOverdue {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The shard.
    pub shard: u32,
    /// The oldest event that it has not acknowledged.
    pub event_index: u64,
    /// When that was recorded.
    pub pending_since: Millis,
}

impl NamesNoSubject for DeliveryOverdue {
    fn content(&self) -> Content {
        Content::Items(vec![item::Content::Lateness(ledger::DeliveryLateness {
            subscription_index: self.subscription.0,
            shard: self.shard,
            event_index: self.event_index,
            pending_since_ms: self.pending_since.0,
        })])
    }

    fn target(&self) -> Target<'_> {
        Target::Subscriptions(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Overdue(self)
    }
}

impl OfSubscriptions for DeliveryOverdue {
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError> {
        let state = all.shard_mut(self.subscription, self.shard, place.index)?;
        let last = state.overdue.filter(|last| last.recorded_at > place.recorded_at);
        let now = Overdue { event_index: self.event_index, recorded_at: place.recorded_at };
        state.overdue = last.or(Some(now));
        Ok(vec![Lead::Subscription(self.subscription)])
    }
}

impl From<ledger::DeliveryLateness> for DeliveryOverdue {
    fn from(message: ledger::DeliveryLateness) -> Self {
        Self {
            subscription: SubscriptionId(message.subscription_index),
            shard: message.shard,
            event_index: message.event_index,
            pending_since: Millis(message.pending_since_ms),
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

    pub(in crate::entry) fn any_overdue() -> impl Strategy<Value = DeliveryOverdue> {
        (any::<u64>(), 0..SHARDS_MAX, any::<u64>(), any::<i64>()).prop_map(
            |(id, shard, event_index, since)| DeliveryOverdue {
                subscription: SubscriptionId(id),
                shard,
                event_index,
                pending_since: Millis(since),
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back(overdue in any_overdue()) {
            reads_back(&Body::Subscription(SubscriptionEntry::Overdue(overdue)));
        }
    }
}
