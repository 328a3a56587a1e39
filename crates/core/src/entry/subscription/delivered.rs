//! `DeliveryReceipt`: subscribers acknowledged events. One entry holds the acknowledgements of many
//! shards, so the kind is a list.

use std::{collections::BTreeSet, ops::Range};

use crate::{
    domain::{Millis, SubscriptionId},
    entry::{EntryError, NamesNoSubject, OfSubscriptions, Place, Target, fields::field},
    event::EventOutline,
    fold::{FoldError, Lead, Subscriptions},
    proto,
};

/// The acknowledgements of one shard of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// The shard.
    pub shard: u32,
    /// The acknowledged events, ascending, without overlap.
    pub ranges: Vec<Range<u64>>,
    /// When the last of them was acknowledged.
    pub acknowledged_at: Millis,
    /// Whether the snapshot was acknowledged.
    pub snapshot: bool,
}

impl NamesNoSubject for Vec<Delivered> {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::DeliveryReceipt(proto::DeliveryReceipt {
            delivered: self.iter().map(delivered_to_proto).collect(),
        })
    }

    fn target(&self) -> Target<'_> {
        Target::Subscriptions(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl OfSubscriptions for Vec<Delivered> {
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError> {
        let mut leads = Vec::new();
        let mut changed = BTreeSet::new();
        for Delivered { subscription, shard, ranges, acknowledged_at, snapshot } in self {
            let (id, shard) = (*subscription, *shard);
            changed.insert(id);
            let state = all.shard_mut(id, shard, place.index)?;
            state.snapshot_pending &= !snapshot;
            for range in ranges {
                state.settled.insert(range.clone());
                let (range, at) = (range.clone(), *acknowledged_at);
                let was_one = range.end - range.start == 1;
                let index = range.start;
                leads.push(Lead::Settled { id, shard, range, at, is_failure: false });
                leads.extend(was_one.then_some(Lead::DeadLetterDelivered { id, shard, index }));
            }
        }
        // One lead for all shards of a subscription.
        leads.extend(changed.into_iter().map(Lead::Subscription));
        Ok(leads)
    }
}

/// The acknowledgements of a receipt; at least one.
pub(in crate::entry) fn receipt(
    message: proto::DeliveryReceipt,
) -> Result<Vec<Delivered>, EntryError> {
    if message.delivered.is_empty() {
        return Err(field("delivery_receipt.delivered"));
    }
    message.delivered.into_iter().map(delivered_from_proto).collect()
}

fn delivered_to_proto(delivered: &Delivered) -> proto::Delivered {
    let range =
        |range: &Range<u64>| proto::IndexRange { start_index: range.start, end_index: range.end };
    proto::Delivered {
        subscription_index: delivered.subscription.0,
        shard: delivered.shard,
        ranges: delivered.ranges.iter().map(range).collect(),
        acknowledged_at_ms: delivered.acknowledged_at.0,
        snapshot: delivered.snapshot,
    }
}

fn delivered_from_proto(delivered: proto::Delivered) -> Result<Delivered, EntryError> {
    let mut last = 0;
    let range = |range: proto::IndexRange| {
        let ascends = last <= range.start_index && range.start_index < range.end_index;
        last = range.end_index;
        ascends.then_some(range.start_index..range.end_index).ok_or(field("ranges"))
    };
    Ok(Delivered {
        subscription: SubscriptionId(delivered.subscription_index),
        shard: delivered.shard,
        ranges: delivered.ranges.into_iter().map(range).collect::<Result<_, _>>()?,
        acknowledged_at: Millis(delivered.acknowledged_at_ms),
        snapshot: delivered.snapshot,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::entry::{
        Body, SubscriptionEntry,
        tests::{reads_back, refused},
    };

    /// Ranges that ascend; some touch.
    fn any_ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
        (0..u64::MAX >> 1, vec((0_u64..1 << 40, 1_u64..1 << 40), 0..5)).prop_map(
            |(mut end, steps)| {
                let range = |(gap, len)| {
                    let start = end + gap;
                    end = start + len;
                    start..end
                };
                steps.into_iter().map(range).collect()
            },
        )
    }

    fn any_delivered() -> impl Strategy<Value = Delivered> {
        let rest = any::<(u64, u32, i64, bool)>();
        (rest, any_ranges()).prop_map(|((id, shard, at, snapshot), ranges)| Delivered {
            subscription: SubscriptionId(id),
            shard,
            ranges,
            acknowledged_at: Millis(at),
            snapshot,
        })
    }

    pub(in crate::entry) fn any_receipt() -> impl Strategy<Value = Vec<Delivered>> {
        vec(any_delivered(), 1..4)
    }

    proptest! {
        #[test]
        fn the_message_reads_back(delivered in any_receipt()) {
            reads_back(&Body::Subscription(SubscriptionEntry::Delivered(delivered)));
        }
    }

    #[test]
    fn a_receipt_of_nothing_and_ranges_out_of_order_are_errors() {
        let receipt =
            |delivered| proto::entry::Body::DeliveryReceipt(proto::DeliveryReceipt { delivered });
        refused(receipt(Vec::new()), "delivery_receipt.delivered");
        for ranges in [[(3, 3), (4, 5)], [(3, 5), (4, 6)], [(5, 6), (3, 4)]] {
            let range = |(start_index, end_index)| proto::IndexRange { start_index, end_index };
            let ranges = ranges.into_iter().map(range).collect();
            refused(receipt(vec![proto::Delivered { ranges, ..Default::default() }]), "ranges");
        }
    }
}
