//! Proofs that a subscriber acknowledged an event: two items of confidential entries, each with the one-time
//! key that opens it alone, and the proofs of their entries.

use consent_ledger_proto::ledger::{
    Delivery, ItemOpening, Propagation, SubscriptionCreated, item::Content,
};
use consent_ledger_tlog::{key::VerifierKey, proof::TlogProof};
use thiserror::Error;

use crate::{
    LedgerId,
    confidential::{Keyring, item_place, open_item, open_item_once},
    entry::{Body, Entry},
    error::OpenError,
    field::{FieldError, fixed},
    opening::{ProofError, number_of, one_time_key, verify_inclusion},
    seal::{Part, SealError},
};

/// A verified proof of propagation.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedPropagation {
    /// Index of the entry that created the subscription.
    pub subscription_index: u64,
    /// The subscription.
    pub subscription: SubscriptionCreated,
    /// Index of the entry that holds the acknowledgement.
    pub delivery_index: u64,
    /// When the last acknowledgement of the shard in that entry came, in milliseconds since the Unix epoch.
    pub acknowledged_at_ms: i64,
    /// The proofs with their signed checkpoints: of the subscription, of the acknowledgement.
    pub proofs: [TlogProof; 2],
}

/// Why a proof of propagation is not true.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PropagationError {
    /// An entry or item is not what it should be.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The first item creates no subscription.
    #[error("the first item creates no subscription")]
    NoSubscription,
    /// The second item is no acknowledgement.
    #[error("the second item is no acknowledgement")]
    NoDelivery,
    /// The acknowledgement is of another subscription.
    #[error(
        "the acknowledgement is of the subscription that entry {got} created, not entry {want}"
    )]
    OtherSubscription {
        /// The subscription that the proof is about.
        want: u64,
        /// The one that the acknowledgement names.
        got: u64,
    },
    /// The acknowledgement does not cover the event.
    #[error("the acknowledgement does not cover event {event} on shard {shard}")]
    NotCovered {
        /// Index of the event.
        event: u64,
        /// The shard.
        shard: u32,
    },
}

/// Opens one item of an entry. `proof` is the entry's tlog-proof.
///
/// # Errors
/// The entry has no such item, or no key opens it.
pub fn open_one_item(
    keys: &impl Keyring,
    ledger_id: LedgerId,
    entry: &Entry,
    item: usize,
    proof: &TlogProof,
) -> Result<ItemOpening, ProofError> {
    let Body::Confidential(items) = &entry.body else {
        return Err(ProofError::Kind(entry.body.noun()));
    };
    let sealed = items.get(item).ok_or(OpenError::NotTheirs)?;
    let opened = open_item(keys, ledger_id, entry.index, item, sealed)?;
    let opened = opened.ok_or(OpenError::Seal {
        index: entry.index,
        part: Part::Item,
        problem: SealError::Key,
    })?;
    Ok(ItemOpening {
        entry: entry.encode(),
        proof: proof.to_string(),
        item: number_of(item)?,
        item_key: opened.key.bytes().to_vec(),
    })
}

/// Verifies that a subscription acknowledged an event.
///
/// # Errors
/// The first thing that is not true.
pub fn verify(
    propagation: &Propagation,
    keys: &[VerifierKey],
) -> Result<VerifiedPropagation, PropagationError> {
    let ledger_id = fixed("ledger_id", &propagation.ledger_id).map_err(ProofError::from)?;
    let (created, proof_of_creation, content) =
        verify_item(propagation.subscription.as_ref(), ledger_id, keys)?;
    let Content::SubscriptionCreated(subscription) = content else {
        return Err(PropagationError::NoSubscription);
    };
    let (received, proof_of_delivery, content) =
        verify_item(propagation.delivery.as_ref(), ledger_id, keys)?;
    let Content::Delivery(delivery) = content else { return Err(PropagationError::NoDelivery) };
    let (want, got) = (created.index, delivery.subscription_index);
    if want != got {
        return Err(PropagationError::OtherSubscription { want, got });
    }
    let acknowledged_at_ms = acknowledged(&delivery, propagation.event_index, propagation.shard)?;
    Ok(VerifiedPropagation {
        subscription_index: created.index,
        subscription,
        delivery_index: received.index,
        acknowledged_at_ms,
        proofs: [proof_of_creation, proof_of_delivery],
    })
}

fn verify_item(
    opening: Option<&ItemOpening>,
    ledger_id: LedgerId,
    keys: &[VerifierKey],
) -> Result<(Entry, TlogProof, Content), ProofError> {
    let opening = opening.ok_or(FieldError::Unknown("item"))?;
    let (entry, proof) = verify_inclusion(&opening.entry, &opening.proof, keys)?;
    let Body::Confidential(items) = &entry.body else {
        return Err(ProofError::Kind(entry.body.noun()));
    };
    let number = usize::try_from(opening.item).map_err(|_| OpenError::NotTheirs)?;
    let sealed = items.get(number).ok_or(OpenError::NotTheirs)?;
    let key = one_time_key("item_key", &opening.item_key)?;
    let place = item_place(ledger_id, entry.index, number)?;
    let (_, item) = open_item_once(&key, &place, sealed)?;
    let content = item.content.ok_or(FieldError::Unknown("content"))?;
    Ok((entry, proof, content))
}

fn acknowledged(delivery: &Delivery, event: u64, shard: u32) -> Result<i64, PropagationError> {
    let mut of_shard = delivery.shards.iter().filter(|delivered| delivered.shard == shard);
    let covers = of_shard.find(|delivered| {
        let mut ranges = delivered.ranges.iter();
        ranges.any(|range| (range.start_index..range.end_index).contains(&event))
    });
    covers
        .map(|delivered| delivered.acknowledged_at_ms)
        .ok_or(PropagationError::NotCovered { event, shard })
}
