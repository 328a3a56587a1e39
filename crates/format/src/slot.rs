//! Slots: what an entry says about one person, sealed with that person's keys.
//!
//! ```text
//! salt         = K(S, 32 random bytes || aad of the record || its text || aad of the evidence || its text)
//! record key   = D("sealing key", R || salt)
//! evidence key = D("sealing key", leaf_E(n) || salt)
//! ```
//!
//! An entry about one person always has both parts, sealed empty where there is none, so that all look
//! alike. An entry about several has records only, in the order of tags. The writer fills in what follows
//! from the person's keys: the commitments to the next tag and to the identity, and the place of a linked
//! person's slot.

use consent_ledger_proto::ledger::{Evidence, Record, RecordKind};
use prost::Message;
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::{
    LedgerId, Reference, Tag,
    entry::{ENTRY_BYTES_MAX, Persons, SealedText, Slot},
    error::{BuildError, OpenError},
    field::FieldError,
    hash::is_same,
    keys::person::{PersonKeys, RecordKey},
    message,
    record::{check, check_evidence},
    seal::{AUTH_BYTES, Buckets, OneTimeKey, Part, Place, pad},
};

/// How many bytes the slots of an entry can have together: the rest is for its other fields.
pub const SLOTS_BYTES_MAX: usize = ENTRY_BYTES_MAX - 128;

/// What an entry shall say about one person.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    /// The person's keys.
    pub keys: &'a PersonKeys,
    /// How many tags of lane 0 the person had before.
    pub number: u64,
    /// The canonical identity, `namespace:id`.
    pub identity: &'a str,
    /// What decides. `next`, `identity_commit` and `peer` are filled in.
    pub record: Record,
    /// The evidence; none in an entry about several persons.
    pub evidence: Option<Evidence>,
    /// For a link: the linked person's draft, by its place among the drafts.
    pub peer: Option<usize>,
}

/// A slot as it was sealed.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Its place in the entry.
    pub place: usize,
    /// Its tag.
    pub tag: Tag,
    /// What other records name it by, and the id of its receipt.
    pub reference: Reference,
    /// The record with everything that was filled in.
    pub record: Record,
}

/// An opened record.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedRecord {
    /// What it is.
    pub kind: RecordKind,
    /// What decides.
    pub record: Record,
    /// What other records name it by, and the id of its receipt.
    pub reference: Reference,
    /// Opens this record alone.
    pub key: OneTimeKey,
}

/// The evidence of a slot, as far as there is one.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenedEvidence {
    /// The entry is about several persons and has none.
    None,
    /// Its key is forgotten.
    Forgotten,
    /// The evidence; empty where the act came without. The key opens it alone.
    Known(Box<Evidence>, OneTimeKey),
}

/// Seals what an entry says about persons. Returns the body, and what was sealed, in the order of the drafts.
///
/// # Errors
/// See [`BuildError`].
pub fn seal_persons(
    ledger_id: LedgerId,
    index: u64,
    drafts: &[Draft<'_>],
    erasure: Option<SealedText>,
    rng: &mut impl CryptoRng,
) -> Result<(Persons, Vec<Written>), BuildError> {
    if drafts.is_empty() {
        return Err(FieldError::Unknown("persons.slots").into());
    }
    let is_alone = drafts.len() == 1;
    let tags: Vec<Tag> = drafts.iter().map(|it| it.keys.tags().tag(it.number)).collect();
    let mut sorted = tags.clone();
    sorted.sort_unstable();
    if !sorted.is_sorted_by(|one, next| one < next) {
        return Err(BuildError::SameTag);
    }
    let place_of = |tag: &Tag| sorted.binary_search(tag).expect("the tags are the same, sorted");
    let mut slots = vec![None; drafts.len()];
    let mut written = Vec::with_capacity(drafts.len());
    for (draft, tag) in drafts.iter().zip(&tags) {
        let peer = draft.peer.and_then(|peer| tags.get(peer)).map(place_of);
        let record = complete(draft, peer)?;
        let place = Place { ledger_id, index, tag: *tag, part: Part::Record, item: 0 };
        let (slot, reference) = seal(&place, draft, &record, is_alone, rng)?;
        let place = place_of(tag);
        slots[place] = Some(slot);
        written.push(Written { place, tag: *tag, reference, record });
    }
    Ok((Persons { slots: slots.into_iter().flatten().collect(), erasure }, written))
}

/// How many bytes a slot takes in an entry about several persons. The record is as in a [`Draft`], of a person
/// with records before. None if it is too long.
#[must_use]
pub fn bytes_among_several(record: &Record) -> Option<usize> {
    let complete = Record { recorded_ms: 999, next: vec![0; 32], ..record.clone() };
    let text = Buckets::RECORD.text_bytes(complete.encoded_len())?;
    let slot = message::Slot {
        tag: vec![0; 16],
        salt: vec![0; 16],
        record: vec![0; text + AUTH_BYTES],
        record_commit: vec![0; 32],
        ..message::Slot::default()
    };
    let bytes = slot.encoded_len();
    Some(1 + prost::length_delimiter_len(bytes) + bytes)
}

/// Opens the record of a person's slot, and checks what it commits to. `number` is how many tags of lane 0
/// the person had before.
///
/// # Errors
/// [`OpenError::NotTheirs`] for another tag than the person's. With the right tag, everything that does not
/// fit is damage.
pub fn open_record(
    keys: &PersonKeys,
    identity: &str,
    number: u64,
    ledger_id: LedgerId,
    index: u64,
    persons: &Persons,
    place: usize,
) -> Result<OpenedRecord, OpenError> {
    let slot = persons.slots.get(place).ok_or(OpenError::NotTheirs)?;
    let tags = keys.tags();
    if slot.tag != tags.tag(number) {
        return Err(OpenError::NotTheirs);
    }
    let key = record_key(&keys.records(), slot);
    let opened = open_record_once(&key, ledger_id, index, persons, place).map_err(damaged(slot))?;
    let next = <&[u8; 32]>::try_from(opened.record.next.as_slice());
    if !next.is_ok_and(|next| is_same(next, &tags.next(number))) {
        return Err(OpenError::Next { index });
    }
    let commit = &opened.record.identity_commit;
    let is_theirs = match number {
        0 => keys.identity().verifies(identity, commit),
        _ => commit.is_empty(),
    };
    if is_theirs { Ok(opened) } else { Err(OpenError::Identity { index }) }
}

/// Opens the evidence of a person's slot.
///
/// # Errors
/// As [`open_record`].
pub fn open_evidence(
    keys: &PersonKeys,
    number: u64,
    ledger_id: LedgerId,
    index: u64,
    slot: &Slot,
) -> Result<OpenedEvidence, OpenError> {
    if slot.tag != keys.tags().tag(number) {
        return Err(OpenError::NotTheirs);
    }
    if slot.evidence.is_none() {
        return Ok(OpenedEvidence::None);
    }
    let Some(leaf) = keys.evidence.leaf(number) else { return Ok(OpenedEvidence::Forgotten) };
    let key = OneTimeKey::derive(&leaf, &slot.salt);
    let evidence = open_evidence_once(&key, ledger_id, index, slot).map_err(damaged(slot))?;
    Ok(evidence
        .map_or(OpenedEvidence::None, |evidence| OpenedEvidence::Known(Box::new(evidence), key)))
}

/// The one-time key of a slot's record.
#[must_use]
pub fn record_key(records: &RecordKey, slot: &Slot) -> OneTimeKey {
    OneTimeKey::derive(&records.0, &slot.salt)
}

/// Opens a record with its one-time key.
///
/// # Errors
/// See [`OpenError`].
pub fn open_record_once(
    key: &OneTimeKey,
    ledger_id: LedgerId,
    index: u64,
    persons: &Persons,
    place: usize,
) -> Result<OpenedRecord, OpenError> {
    let slot = persons.slots.get(place).ok_or(OpenError::NotTheirs)?;
    let bound = Place { ledger_id, index, tag: slot.tag, part: Part::Record, item: 0 };
    let record: Record = key
        .open_message(&bound, &slot.record)
        .map_err(|problem| OpenError::seal(&bound, problem))?;
    let kind = check(&record)?;
    check_peer(&record, index, persons.slots.len(), place)?;
    let is_erased = kind == RecordKind::Erased;
    if is_erased != persons.erasure.is_some() {
        return Err(FieldError::Unexpected("persons.shared").into());
    }
    Ok(OpenedRecord { kind, record, reference: key.reference(), key: key.clone() })
}

/// Opens an evidence with its one-time key; none if the slot has none.
///
/// # Errors
/// See [`OpenError`].
pub fn open_evidence_once(
    key: &OneTimeKey,
    ledger_id: LedgerId,
    index: u64,
    slot: &Slot,
) -> Result<Option<Evidence>, OpenError> {
    let Some(sealed) = &slot.evidence else { return Ok(None) };
    let place = Place { ledger_id, index, tag: slot.tag, part: Part::Evidence, item: 0 };
    let evidence: Evidence =
        key.open_message(&place, sealed).map_err(|problem| OpenError::seal(&place, problem))?;
    check_evidence(&evidence)?;
    Ok(Some(evidence))
}

/// A part that does not open although its tag is the person's is damaged.
fn damaged(slot: &Slot) -> impl Fn(OpenError) -> OpenError {
    let tag = slot.tag;
    move |error| match error {
        OpenError::Seal { index, part, problem } => {
            OpenError::Damaged { index, tag, part, problem }
        }
        other => other,
    }
}

fn check_peer(record: &Record, index: u64, slots: usize, place: usize) -> Result<(), OpenError> {
    let Some(peer) = record.peer else { return Ok(()) };
    let is_other_slot = usize::try_from(peer).is_ok_and(|peer| peer < slots && peer != place);
    if is_other_slot { Ok(()) } else { Err(OpenError::Peer { index, peer }) }
}

/// The record with what follows from the person's keys.
fn complete(draft: &Draft<'_>, peer: Option<usize>) -> Result<Record, BuildError> {
    if draft.number == u64::MAX {
        return Err(BuildError::NoLeaf(draft.number)); // there is no next tag to commit to
    }
    let (tags, is_first) = (draft.keys.tags(), draft.number == 0);
    let commitment = is_first.then(|| draft.keys.identity().commitment(draft.identity).to_vec());
    let record = Record {
        next: tags.next(draft.number).to_vec(),
        identity_commit: commitment.unwrap_or_default(),
        peer: peer.and_then(|peer| u32::try_from(peer).ok()),
        ..draft.record.clone()
    };
    check(&record)?;
    Ok(record)
}

fn seal(
    place: &Place,
    draft: &Draft<'_>,
    record: &Record,
    is_alone: bool,
    rng: &mut impl CryptoRng,
) -> Result<(Slot, Reference), BuildError> {
    let record_text = padded(Part::Record, &record.encode_to_vec())?;
    let evidence_place = Place { part: Part::Evidence, ..*place };
    let evidence_text = match (&draft.evidence, is_alone) {
        (Some(_), false) => return Err(BuildError::EvidenceOfSeveral),
        (None, false) => None,
        (evidence, true) => {
            let evidence = evidence.as_ref();
            evidence.map_or(Ok(()), check_evidence)?;
            let message = evidence.map(Message::encode_to_vec).unwrap_or_default();
            Some(padded(Part::Evidence, &Zeroizing::new(message))?)
        }
    };
    let (record_aad, evidence_aad) = (place.aad(), evidence_place.aad());
    let mut sealed: Vec<&[u8]> = vec![&record_aad, &record_text];
    if let Some(text) = &evidence_text {
        sealed.extend([&evidence_aad[..], text]);
    }
    let salt = draft.keys.salts().salt(rng, &sealed);
    let key = OneTimeKey::derive(&draft.keys.records().0, &salt);
    let evidence = match &evidence_text {
        None => None,
        Some(text) => {
            let leaf = draft.keys.evidence.leaf(draft.number);
            let leaf = leaf.ok_or(BuildError::NoLeaf(draft.number))?;
            Some(OneTimeKey::derive(&leaf, &salt).seal(&evidence_place, text))
        }
    };
    let slot = Slot { tag: place.tag, salt, record: key.seal(place, &record_text), evidence };
    Ok((slot, key.reference()))
}

fn padded(part: Part, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, BuildError> {
    pad(part.buckets(), message).map_err(|problem| BuildError::TooLong { part, problem })
}

impl OpenedEvidence {
    /// The evidence, if it is known.
    #[must_use]
    pub fn known(&self) -> Option<&Evidence> {
        if let Self::Known(evidence, _) = self { Some(evidence) } else { None }
    }
}
