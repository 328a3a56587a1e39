//! What opens one slot of one entry, and nothing else: the part of a receipt that anybody can verify
//! against the ledger's public key.
//!
//! It holds the entry, its proof, and the one-time keys of the slot's two parts. A one-time key reveals no
//! other key, so whoever has the opening and all of the ledger's bytes learns nothing of the person's other
//! entries. It never holds what opens the commitment to the next tag.

use consent_ledger_proto::ledger::{EntryOpening, Evidence};
use consent_ledger_tlog::{
    key::VerifierKey,
    merkle::leaf_hash,
    proof::{TlogProof, TlogProofError},
};
use thiserror::Error;

use crate::{
    LedgerId, Reference, Tag,
    canonical::CanonicalError,
    entry::{Body, Entry, EntryError},
    error::OpenError,
    field::{FieldError, fixed},
    keys::person::IdentityKey,
    seal::OneTimeKey,
    slot::{
        OpenedEvidence, OpenedRecord, open_evidence, open_evidence_once, open_record,
        open_record_once,
    },
    vault::Person,
};

/// Why a statement about entries can not be made, or is not true.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// Not canonical.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// A field with a value that the format does not allow.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The entry is none.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The proof of inclusion is not valid, or no key that was given signed it.
    #[error("the entry's proof of inclusion: {0}")]
    Inclusion(#[from] TlogProofError),
    /// The proof is of another entry.
    #[error("the proof is of entry {proof}, the statement of entry {entry}")]
    Index {
        /// Index in the proof.
        proof: u64,
        /// Index of the entry.
        entry: u64,
    },
    /// No key to verify with.
    #[error("no verifier key of the ledger was given")]
    NoKey,
    /// The entry has no slots or no items.
    #[error("the entry is {0}, which a statement of this kind can not open")]
    Kind(&'static str),
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The identity is not the one that the first record commits to.
    #[error("the identity is not the one that the person's first record commits to")]
    Identity,
}

/// A verified opening.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedOpening {
    /// Index of the entry.
    pub index: u64,
    /// The second in which the entry was recorded, since the Unix epoch.
    pub recorded_at_s: i64,
    /// The slot's tag.
    pub tag: Tag,
    /// The record.
    pub record: OpenedRecord,
    /// The evidence; none if it is forgotten or the entry has none.
    pub evidence: Option<Evidence>,
    /// The person, as the statement says.
    pub identity: String,
    /// Whether the record commits to that identity. Only a person's first record does.
    pub is_identity_proven: bool,
    /// The proof with its signed checkpoint, for the policy of witnesses.
    pub proof: TlogProof,
}

/// Makes the opening of a person's slot. `proof` is the entry's tlog-proof.
///
/// # Errors
/// The slot is not the person's, or damaged.
pub fn open_entry(
    person: &Person,
    number: u64,
    ledger_id: LedgerId,
    entry: &Entry,
    proof: &TlogProof,
) -> Result<EntryOpening, ProofError> {
    let Body::Persons(persons) = &entry.body else {
        return Err(ProofError::Kind(entry.body.noun()));
    };
    let tag = person.keys.tags().tag(number);
    let (place, slot) = persons.slot_of(&tag).ok_or(OpenError::NotTheirs)?;
    let (keys, identity) = (&person.keys, &person.identity);
    let opened = open_record(keys, identity, number, ledger_id, entry.index, persons, place)?;
    let evidence = open_evidence(keys, number, ledger_id, entry.index, slot)?;
    let evidence_key = match &evidence {
        OpenedEvidence::Known(_, key) => key.bytes().to_vec(),
        OpenedEvidence::None | OpenedEvidence::Forgotten => Vec::new(),
    };
    let identity_key = (number == 0).then(|| keys.identity().bytes().to_vec());
    Ok(EntryOpening {
        entry: entry.encode(),
        proof: proof.to_string(),
        slot: number_of(place)?,
        record_key: opened.key.bytes().to_vec(),
        evidence_key,
        identity: identity.clone(),
        identity_key: identity_key.unwrap_or_default(),
        ledger_id: ledger_id.to_vec(),
    })
}

/// Verifies an opening: the entry is in the log of one of the keys, and the slot opens.
///
/// # Errors
/// The first thing that is not true.
pub fn verify_entry(
    opening: &EntryOpening,
    keys: &[VerifierKey],
) -> Result<VerifiedOpening, ProofError> {
    let ledger_id = fixed("ledger_id", &opening.ledger_id)?;
    let (entry, proof) = verify_inclusion(&opening.entry, &opening.proof, keys)?;
    let Body::Persons(persons) = &entry.body else {
        return Err(ProofError::Kind(entry.body.noun()));
    };
    let place = usize::try_from(opening.slot).map_err(|_| OpenError::NotTheirs)?;
    let slot = persons.slots.get(place).ok_or(OpenError::NotTheirs)?;
    let record_key = one_time_key("record_key", &opening.record_key)?;
    let record = open_record_once(&record_key, ledger_id, entry.index, persons, place)?;
    let evidence = match opening.evidence_key.as_slice() {
        [] => None,
        key => {
            let key = one_time_key("evidence_key", key)?;
            open_evidence_once(&key, ledger_id, entry.index, slot)?
        }
    };
    let commitment = &record.record.identity_commit;
    let is_identity_proven = verify_identity(&opening.identity, &opening.identity_key, commitment)?;
    Ok(VerifiedOpening {
        index: entry.index,
        recorded_at_s: entry.recorded_at_s,
        tag: slot.tag,
        record,
        evidence,
        identity: opening.identity.clone(),
        is_identity_proven,
        proof,
    })
}

impl VerifiedOpening {
    /// The receipt's id.
    #[must_use]
    pub fn reference(&self) -> Reference {
        self.record.reference
    }
}

/// Whether a statement proves an identity; one without a key proves none.
pub(crate) fn verify_identity(
    identity: &str,
    identity_key: &[u8],
    commitment: &[u8],
) -> Result<bool, ProofError> {
    if identity_key.is_empty() {
        return Ok(false);
    }
    let got = identity_key.len();
    let key = IdentityKey::from_slice(identity_key);
    let key = key.ok_or(FieldError::Length { field: "identity_key", want: 32, got })?;
    if key.verifies(identity, commitment) { Ok(true) } else { Err(ProofError::Identity) }
}

/// Verifies that bytes are an entry of a log of one of the keys.
pub(crate) fn verify_inclusion(
    entry_bytes: &[u8],
    proof: &str,
    keys: &[VerifierKey],
) -> Result<(Entry, TlogProof), ProofError> {
    let entry = Entry::decode(entry_bytes)?;
    let proof = TlogProof::parse(proof)?;
    if proof.index != entry.index {
        return Err(ProofError::Index { proof: proof.index, entry: entry.index });
    }
    let leaf = leaf_hash(entry_bytes);
    let mut refused = ProofError::NoKey;
    for key in keys {
        match proof.verify(&leaf, key) {
            Ok(()) => return Ok((entry, proof)),
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
}

pub(crate) fn one_time_key(field: &'static str, bytes: &[u8]) -> Result<OneTimeKey, FieldError> {
    let wrong = FieldError::Length { field, want: 32, got: bytes.len() };
    OneTimeKey::from_slice(bytes).ok_or(wrong)
}

pub(crate) fn number_of(place: usize) -> Result<u32, FieldError> {
    let got = u64::try_from(place).unwrap_or(u64::MAX);
    let out_of_range = FieldError::Range { field: "place", min: 0, max: u32::MAX.into(), got };
    u32::try_from(place).map_err(|_| out_of_range)
}
