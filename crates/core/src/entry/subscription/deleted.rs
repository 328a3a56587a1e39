//! `SubscriptionDeleted`: a durable subscription was ended. Its name is free again.

use crate::{
    domain::SubscriptionId,
    entry::{Content, NamesNoSubject, OfSubscriptions, Place, Target},
    event::EventOutline,
    fold::{FoldError, Lead, Subscriptions},
    proto::ledger::{self, item},
};

/// A durable subscription was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionDeleted {
    /// The subscription.
    pub subscription: SubscriptionId,
}

impl NamesNoSubject for SubscriptionDeleted {
    fn content(&self) -> Content {
        let subscription_index = self.subscription.0;
        let deleted = ledger::SubscriptionDeleted { subscription_index };
        Content::Items(vec![item::Content::SubscriptionDeleted(deleted)])
    }

    fn target(&self) -> Target<'_> {
        Target::Subscriptions(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl OfSubscriptions for SubscriptionDeleted {
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError> {
        all.end(self.subscription, place)?;
        Ok(vec![Lead::Subscription(self.subscription)])
    }
}

impl From<ledger::SubscriptionDeleted> for SubscriptionDeleted {
    fn from(message: ledger::SubscriptionDeleted) -> Self {
        Self { subscription: SubscriptionId(message.subscription_index) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Body, SubscriptionEntry, tests::reads_back};

    pub(in crate::entry) fn any_deleted() -> impl Strategy<Value = SubscriptionDeleted> {
        any::<u64>().prop_map(|id| SubscriptionDeleted { subscription: SubscriptionId(id) })
    }

    proptest! {
        #[test]
        fn it_reads_back(deleted in any_deleted()) {
            reads_back(&Body::Subscription(SubscriptionEntry::Deleted(deleted)));
        }
    }
}
