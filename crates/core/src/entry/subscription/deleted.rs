//! `SubscriptionDeleted`: a durable subscription was ended. Its name is free again.

use crate::{
    domain::{SubjectRef, SubscriptionId},
    entry::{IdempotencyMark, Kind, OfSubscriptions, Place, Receipted, Subjects, Target},
    event::Tells,
    fold::{FoldError, Lead, Subscriptions},
    history::Line,
    proto,
};

/// A durable subscription was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionDeleted {
    /// The subscription.
    pub subscription: SubscriptionId,
}

impl Kind for SubscriptionDeleted {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::SubscriptionDeleted(proto::SubscriptionDeleted {
            subscription_index: self.subscription.0,
        })
    }

    fn named(&self) -> Subjects {
        Subjects::new()
    }

    fn target(&self) -> Target<'_> {
        Target::Subscriptions(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        Vec::new()
    }

    fn tells(&self) -> Tells<'_> {
        Tells::Nothing
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        None
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl OfSubscriptions for SubscriptionDeleted {
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError> {
        all.end(self.subscription, place)?;
        Ok(vec![Lead::Subscription(self.subscription)])
    }
}

impl From<proto::SubscriptionDeleted> for SubscriptionDeleted {
    fn from(message: proto::SubscriptionDeleted) -> Self {
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
