//! Proofs and checkpoints.

use super::{Invalid, Problem, act::check_idempotency_key, receipt::subject_if_given};
use crate::{
    domain::{Catalog, Subject},
    node::{Checkpoint, Consistency, Inclusion},
    proto::{self, get_inclusion_proof_request, get_receipt_request},
    tlog::{key::VerifierKey, merkle::leaf_hash, proof::TlogProof},
    tree::Signed,
};

/// How a request names an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryRef {
    /// The one at an index.
    Index(u64),
    /// The one that a request about a data subject with an idempotency key wrote.
    IdempotencyKey {
        /// The data subject.
        subject: Subject,
        /// The key.
        key: String,
    },
}

/// The entry that a request for a proof names.
///
/// # Errors
/// None is named, the key is malformed, or its data subject is missing.
pub fn entry_to_prove(
    catalog: &Catalog,
    request: proto::GetInclusionProofRequest,
) -> Result<EntryRef, Invalid> {
    use get_inclusion_proof_request::Entry;
    match request.entry {
        Some(Entry::Index(index)) => Ok(EntryRef::Index(index)),
        Some(Entry::IdempotencyKey(key)) => {
            entry_by_key(key, subject_if_given(catalog, &request.subject)?)
        }
        None => Err(Problem::Required.at("entry")),
    }
}

/// The act that a request for a receipt names.
///
/// # Errors
/// None is named, the key is malformed, or its data subject is missing.
pub fn act_of_receipt(
    act: Option<get_receipt_request::Act>,
    subject: Option<&Subject>,
) -> Result<EntryRef, Invalid> {
    use get_receipt_request::Act;
    match act {
        Some(Act::Index(index)) => Ok(EntryRef::Index(index)),
        Some(Act::IdempotencyKey(key)) => entry_by_key(key, subject.cloned()),
        None => Err(Problem::Required.at("act")),
    }
}

fn entry_by_key(key: String, subject: Option<Subject>) -> Result<EntryRef, Invalid> {
    if key.is_empty() {
        return Err(Problem::Required.at("idempotency_key"));
    }
    check_idempotency_key(&key)?;
    let subject = subject.ok_or_else(|| Problem::Required.at("subject"))?;
    Ok(EntryRef::IdempotencyKey { subject, key })
}

/// The sizes of a consistency proof.
///
/// # Errors
/// The second lies before the first.
pub fn sizes(request: &proto::GetConsistencyProofRequest) -> Result<(u64, Option<u64>), Invalid> {
    if request.second_size.is_some_and(|second| second < request.first_size) {
        return Err(Problem::SecondBeforeFirst.at("second_size"));
    }
    Ok((request.first_size, request.second_size))
}

/// The head of the ledger, and the latest checkpoint.
#[must_use]
pub fn checkpoint(
    head: Checkpoint,
    released: Option<&Signed>,
    key: &VerifierKey,
    key_changes: &str,
) -> proto::GetCheckpointResponse {
    proto::GetCheckpointResponse {
        origin: head.origin,
        ledger_id: head.ledger_id.to_vec(),
        size: head.size,
        chain_hash: head.chain_hash.to_vec(),
        recorded_at: Some(super::timestamp(head.recorded_at.second())),
        checkpoint: note(released),
        checkpoint_size: released.map_or(0, Signed::size),
        root_hash: released.map_or_else(Vec::new, |released| released.root().to_vec()),
        verifier_key: key.to_string(),
        witnessed: released.is_some_and(|released| released.witnessed),
        key_changes: TlogProof::split(key_changes).map(str::to_owned).collect(),
    }
}

/// An entry with its proof.
#[must_use]
pub fn inclusion(inclusion: &Inclusion) -> proto::GetInclusionProofResponse {
    let proof = inclusion.tlog_proof(Some(inclusion.entry.clone()));
    proto::GetInclusionProofResponse {
        index: inclusion.index,
        tree_size: inclusion.size,
        leaf_hash: leaf_hash(&inclusion.entry).to_vec(),
        hashes: inclusion.path.iter().map(|hash| hash.to_vec()).collect(),
        entry: inclusion.entry.clone(),
        root_hash: inclusion.root.to_vec(),
        checkpoint: note(inclusion.checkpoint.as_deref()),
        proof: proof.map(|proof| proof.to_string()).unwrap_or_default(),
    }
}

/// A consistency proof.
#[must_use]
pub fn consistency(consistency: &Consistency) -> proto::GetConsistencyProofResponse {
    proto::GetConsistencyProofResponse {
        first_size: consistency.first.0,
        second_size: consistency.second.0,
        hashes: consistency.proof.iter().map(|hash| hash.to_vec()).collect(),
        first_root_hash: consistency.first.1.to_vec(),
        second_root_hash: consistency.second.1.to_vec(),
        checkpoint: note(consistency.checkpoint.as_deref()),
    }
}

fn note(signed: Option<&Signed>) -> String {
    signed.map(|signed| signed.text.to_string()).unwrap_or_default()
}
