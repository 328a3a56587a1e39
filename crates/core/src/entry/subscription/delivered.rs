//! `Delivery`: subscribers acknowledged events. One entry holds the acknowledgements of many shards, so
//! the kind is a list. Each subscription has an item of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{
    domain::{Millis, SubscriptionId},
    entry::{Content, NamesNoSubject, OfSubscriptions, Place, Target},
    event::EventOutline,
    fold::{FoldError, Lead, Subscriptions},
    proto::ledger::{self, item},
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
    fn content(&self) -> Content {
        let mut deliveries: BTreeMap<u64, Vec<&Delivered>> = BTreeMap::new();
        for delivered in self {
            deliveries.entry(delivered.subscription.0).or_default().push(delivered);
        }
        let item = |(subscription_index, mut of_shards): (u64, Vec<&Delivered>)| {
            of_shards.sort_by_key(|delivered| delivered.shard);
            let shards = of_shards.into_iter().map(shard_to_message).collect();
            item::Content::Delivery(ledger::Delivery { subscription_index, shards })
        };
        Content::Items(deliveries.into_iter().map(item).collect())
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

fn shard_to_message(delivered: &Delivered) -> ledger::ShardDelivery {
    let range =
        |range: &Range<u64>| ledger::IndexRange { start_index: range.start, end_index: range.end };
    ledger::ShardDelivery {
        shard: delivered.shard,
        ranges: delivered.ranges.iter().map(range).collect(),
        acknowledged_at_ms: delivered.acknowledged_at.0,
        snapshot: delivered.snapshot,
    }
}

/// The acknowledgements of an item.
pub(in crate::entry) fn of_delivery(delivery: ledger::Delivery) -> impl Iterator<Item = Delivered> {
    let subscription = SubscriptionId(delivery.subscription_index);
    delivery.shards.into_iter().map(move |delivered| Delivered {
        subscription,
        shard: delivered.shard,
        ranges: delivered.ranges.iter().map(|it| it.start_index..it.end_index).collect(),
        acknowledged_at: Millis(delivered.acknowledged_at_ms),
        snapshot: delivered.snapshot,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        domain::SHARDS_MAX,
        entry::{Body, SubscriptionEntry, tests::reads_back},
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

    /// What one subscription acknowledged at some shards, in their order.
    fn any_of_subscription() -> impl Strategy<Value = Vec<(u32, Vec<Range<u64>>, i64, bool)>> {
        let shards = prop::collection::btree_map(
            0..SHARDS_MAX,
            (any_ranges(), any::<i64>(), any::<bool>()),
            1..3,
        );
        shards.prop_map(|shards| {
            let shards = shards.into_iter();
            shards.map(|(shard, (ranges, at, snapshot))| (shard, ranges, at, snapshot)).collect()
        })
    }

    /// In the order of subscription and shard, as they are written.
    pub(in crate::entry) fn any_receipt() -> impl Strategy<Value = Vec<Delivered>> {
        prop::collection::btree_map(any::<u64>(), any_of_subscription(), 1..3).prop_map(|all| {
            let mut delivered = Vec::new();
            for (id, shards) in all {
                let of_shard = |(shard, ranges, at, snapshot)| Delivered {
                    subscription: SubscriptionId(id),
                    shard,
                    ranges,
                    acknowledged_at: Millis(at),
                    snapshot,
                };
                delivered.extend(shards.into_iter().map(of_shard));
            }
            delivered
        })
    }

    proptest! {
        #[test]
        fn it_reads_back(delivered in any_receipt()) {
            reads_back(&Body::Subscription(SubscriptionEntry::Delivered(delivered)));
        }
    }

    #[test]
    fn each_subscription_has_an_item_of_its_own() {
        let of = |id, shard| Delivered {
            subscription: SubscriptionId(id),
            shard,
            ranges: Vec::new(),
            acknowledged_at: Millis(0),
            snapshot: true,
        };
        let Content::Items(items) = NamesNoSubject::content(&vec![of(7, 1), of(5, 0), of(7, 0)])
        else {
            panic!("items")
        };
        let shards = items.iter().map(|item| match item {
            item::Content::Delivery(delivery) => {
                let shards = delivery.shards.iter().map(|shard| shard.shard).collect::<Vec<_>>();
                (delivery.subscription_index, shards)
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(shards.collect::<Vec<_>>(), [(5, vec![0]), (7, vec![0, 1])]);
    }
}
