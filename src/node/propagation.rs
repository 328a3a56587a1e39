//! Proofs that a subscription acknowledged an event.
//!
//! Each opens two confidential items, that of the subscription and that of the acknowledgement, with keys that
//! open nothing else. So whoever holds it learns nothing of other subscriptions, of webhook addresses, and
//! of other events.

use super::{Node, PropagationReport, PropagationState, ProveError, ReadError};
use crate::{
    entry::EntryError,
    format::{
        confidential::open_item,
        entry::{Body as SealedBody, Entry as SealedEntry},
        propagation::open_one_item,
    },
    proto::ledger::{self, ItemOpening, item::Content},
    tlog::{merkle::ProofError, proof::TlogProof},
    tree::Signed,
};

impl PropagationReport {
    /// The number of entries that a checkpoint must cover, so that every acknowledgement can be proven; 0 if
    /// there is none.
    #[must_use]
    pub fn provable_from(&self) -> u64 {
        let receipts = self.subscriptions.iter().filter(|it| it.is_acknowledged());
        let entries = receipts.flat_map(|it| it.receipts.iter().map(|(_, index)| *index + 1));
        entries.max().unwrap_or(0)
    }
}

impl super::Propagation {
    fn is_acknowledged(&self) -> bool {
        matches!(self.state, PropagationState::Acknowledged(..))
    }
}

impl Node {
    /// The proofs of an event's acknowledgements, for each subscription of a report and in its order. `signed`
    /// covers all that [`PropagationReport::provable_from`] names. Blocking.
    ///
    /// # Errors
    /// See [`ProveError`].
    pub fn prove_propagation(
        &self,
        event_index: u64,
        report: &PropagationReport,
        signed: &Signed,
    ) -> Result<Vec<Vec<ledger::Propagation>>, ProveError> {
        let of_subscription = |propagation: &super::Propagation| {
            if !propagation.is_acknowledged() {
                return Ok(Vec::new());
            }
            let id = propagation.subscription.id.0;
            let created = |content: &Content| matches!(content, Content::SubscriptionCreated(_));
            let subscription = self.open_item_that(id, signed, created)?;
            let of_shard = |(shard, index): &(u32, u64)| {
                let covers = |content: &Content| match content {
                    Content::Delivery(delivery) => covers(delivery, id, *shard, event_index),
                    _ => false,
                };
                Ok(ledger::Propagation {
                    subscription: Some(subscription.clone()),
                    delivery: Some(self.open_item_that(*index, signed, covers)?),
                    event_index,
                    shard: *shard,
                    ledger_id: self.core.ledger.ledger_id.to_vec(),
                })
            };
            propagation.receipts.iter().map(of_shard).collect()
        };
        report.subscriptions.iter().map(of_subscription).collect()
    }

    /// Opens the first item of an entry that fits.
    fn open_item_that(
        &self,
        index: u64,
        signed: &Signed,
        fits: impl Fn(&Content) -> bool,
    ) -> Result<ItemOpening, ProveError> {
        let unreadable = |problem: String| ReadError::StateUnreadable(problem);
        let inclusion = self.inclusion(index, signed.size(), None)?;
        if inclusion.root != signed.root() {
            return Err(unreadable(ProofError::Root.to_string()).into());
        }
        let entry = SealedEntry::decode(&inclusion.entry).map_err(EntryError::from);
        let entry = entry.map_err(ReadError::from)?;
        let SealedBody::Confidential(items) = &entry.body else {
            let problem = format!("entry {index} is {}", entry.body.noun());
            return Err(unreadable(problem).into());
        };
        let (keys, ledger_id) = (self.core.vault.confidential(), self.core.ledger.ledger_id);
        for (number, sealed) in items.iter().enumerate() {
            let opened = open_item(keys, ledger_id, index, number, sealed);
            let opened = opened.map_err(|error| unreadable(error.to_string()))?;
            if !opened.and_then(|it| it.item.content).is_some_and(|content| fits(&content)) {
                continue;
            }
            let (path, checkpoint) = (inclusion.path, signed.checkpoint.clone());
            let proof = TlogProof { extra: None, index, path, checkpoint };
            let opening = open_one_item(keys, ledger_id, &entry, number, &proof);
            return opening.map_err(|error| unreadable(error.to_string()).into());
        }
        Err(unreadable(format!("entry {index} does not have the acknowledgement")).into())
    }
}

/// Whether a delivery of a subscription has an event on a shard.
fn covers(delivery: &ledger::Delivery, subscription: u64, shard: u32, event: u64) -> bool {
    let of_shard = delivery.shards.iter().filter(|delivered| delivered.shard == shard);
    let mut ranges = of_shard.flat_map(|delivered| &delivered.ranges);
    delivery.subscription_index == subscription
        && ranges.any(|range| (range.start_index..range.end_index).contains(&event))
}
