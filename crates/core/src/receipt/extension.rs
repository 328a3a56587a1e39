//! The `consent_ledger` object, for which the standards have no field: the entry, its proof, and what
//! follows from them. Both formats carry the same object, and the rest of a receipt follows from it.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::{PartyText, ReceiptError, StatedParties};
use crate::{
    domain::{Action, Actor, ChangeRecord, Evidence, Key, LegalBasis, Millis, StopKind},
    entry::{EntryError, Meanings, Numbers, changes_of_messages, evidence_of_message},
    format::{
        Reference,
        entry::{Body, Entry},
        keys::person::IdentityKey,
        seal::OneTimeKey,
        slot::{OpenedRecord, open_evidence_once, open_record_once},
    },
    proto::ledger::RecordKind,
    tlog::{BASE64, hex, proof::TlogProof, unhex},
};

/// Version of the whole payload. The output of a version never changes: a receipt is verified by writing
/// its payload again.
pub const FORMAT_VERSION: u32 = 3;
/// Means every purpose, or every channel.
pub(super) const EVERY: &str = "*";

/// The input of a receipt. Everything else in the receipt follows from it.
#[derive(Clone)]
pub struct Statement {
    /// Version of the payload: [`FORMAT_VERSION`], or that of an older receipt.
    pub format_version: u32,
    /// Identity of the ledger.
    pub ledger_id: [u8; 16],
    /// The exact bytes of the entry.
    pub entry: Vec<u8>,
    /// The entry's place in the ledger, without extra data.
    pub proof: TlogProof,
    /// Place of the data subject's slot in the entry, from 0.
    pub slot: u32,
    /// The key that opens the record of this slot, and nothing else.
    pub record_key: OneTimeKey,
    /// The key that opens the evidence of this slot, and nothing else; none if it is forgotten.
    pub evidence_key: Option<OneTimeKey>,
    /// Whose act it is, `namespace:id`.
    pub subject: String,
    /// For the first record of the data subject: the key of the record's commitment to `subject`.
    pub identity_key: Option<IdentityKey>,
    /// When the receipt is made.
    pub issued_at: Millis,
    /// The controllers and recipients.
    pub parties: StatedParties,
    /// The purposes that the act names, as the catalogue had them.
    pub purposes: Vec<PurposeText>,
    /// The channels that the act names.
    pub channels: Vec<ChannelText>,
}

/// It names a person and holds a key: nothing of it is printed.
impl std::fmt::Debug for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statement").finish_non_exhaustive()
    }
}

/// One version of a purpose, as the catalogue had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurposeText {
    /// Its number in the catalogue, from 1, by which the record names it.
    pub number: u32,
    /// Purpose key.
    pub key: String,
    /// Version, from 1.
    pub version: u32,
    /// Index of the entry that put it into the catalogue.
    pub index: u64,
    /// Title for people.
    pub title: String,
    /// Description for people.
    pub description: String,
    /// Legal basis, where no region has another.
    #[serde(with = "basis_name")]
    pub legal_basis: LegalBasis,
    /// Data categories that the purpose uses.
    pub data_categories: Vec<String>,
    /// Key of its controller; none if it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Keys of its recipients; none if it does not say who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Vec<String>>,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelText {
    /// Its number in the catalogue, from 1, by which the record names it.
    pub number: u32,
    /// Channel key.
    pub key: String,
}

/// The extension as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extension {
    pub format_version: u32,
    ledger: String,
    ledger_id: String,
    pub index: u64,
    pub receipt_id: String,
    pub issued_at: String,
    kind: String,
    pub recorded_at: String,
    pub effective_at: String,
    pub actor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority_ends_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirms: Option<Confirms>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm_until: Option<String>,
    pub changes: Vec<Change>,
    pub subject: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parties: Vec<PartyText>,
    pub purposes: Vec<PurposeText>,
    channels: Vec<ChannelText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<EvidenceText>,
    slot: u32,
    record_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity_key: Option<String>,
    entry: String,
    proof: String,
}

/// The act that a confirmation is of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirms {
    receipt_id: String,
    effective_at: String,
}

/// One change as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub action: String,
    pub purpose: String,
    pub channel: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose_version: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    data_categories: Vec<String>,
    pub outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    termination: Option<Termination>,
}

/// Consent was asked for and not given.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    at: String,
}

/// How consent ends: by this change, or by itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Termination {
    kind: String,
    at: String,
}

/// The evidence as JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EvidenceText {
    #[serde(skip_serializing_if = "String::is_empty")]
    touchpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    notice_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    notice_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    notice_hash: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    method: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ip_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authority: Option<AuthorityText>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unreadable: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject_given: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_at_given: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityText {
    relationship: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    representative: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    proof: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends_at: Option<String>,
}

/// An entry with the act or confirmation that a slot of it holds, opened.
pub(super) struct Facts {
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// What the record is named by.
    pub reference: Reference,
    pub act: Act,
    pub evidence: Evidence,
}

/// The act or confirmation of a record.
pub(super) struct Act {
    pub actor: Actor,
    pub effective_at: Millis,
    pub changes: Vec<ChangeRecord>,
    /// For each change, the record of the same data subject that is in its way.
    causes: Vec<Option<Reference>>,
    authority_ends_at: Option<Millis>,
    /// For confirmations: the record that is confirmed, and when it took effect.
    confirms: Option<(Reference, Millis)>,
    confirm_until: Option<Millis>,
}

impl Facts {
    /// Opens the slot of a statement.
    pub fn of(statement: &Statement) -> Result<Self, ReceiptError> {
        let entry = Entry::decode(&statement.entry).map_err(EntryError::from)?;
        let index = entry.index;
        let Body::Persons(persons) = &entry.body else {
            return Err(ReceiptError::NotAnAct { index });
        };
        let place = usize::try_from(statement.slot).unwrap_or(usize::MAX);
        let (key, ledger_id) = (&statement.record_key, statement.ledger_id);
        let opened = open_record_once(key, ledger_id, index, persons, place);
        let opened = opened.map_err(EntryError::from)?;
        check_identity(statement, &opened)?;
        let slot = persons.slots.get(place).ok_or(ReceiptError::NotAnAct { index })?;
        let evidence = match &statement.evidence_key {
            None => None,
            Some(key) => open_evidence_once(key, ledger_id, index, slot)
                .map_err(|_| ReceiptError::Evidence)?,
        };
        let recorded_ms = i64::from(opened.record.recorded_ms);
        Ok(Self {
            index,
            recorded_at: Millis(entry.recorded_at_s.saturating_mul(1_000)).plus_ms(recorded_ms),
            reference: opened.reference,
            act: Act::of(index, statement, opened)?,
            evidence: evidence.map(evidence_of_message).unwrap_or_default(),
        })
    }
}

impl Act {
    fn of(index: u64, statement: &Statement, opened: OpenedRecord) -> Result<Self, ReceiptError> {
        let is_act = matches!(opened.kind, RecordKind::Act | RecordKind::Confirmation);
        let record = opened.record;
        if !is_act || record.changes.is_empty() {
            return Err(ReceiptError::NotAnAct { index });
        }
        let actor = Actor::try_from(record.actor());
        let actor = actor.map_err(|()| EntryError::Field { field: "actor" })?;
        let confirms = Reference::try_from(record.confirms.as_slice()).ok();
        let named = record.changes.iter();
        let named: Vec<Option<Reference>> =
            named.map(|change| Reference::try_from(change.cause.as_slice()).ok()).collect();
        let meanings = Meanings { index, numbers: statement, index_of: None };
        let changes = changes_of_messages(record.changes, &meanings)?;
        let causes = named.into_iter().zip(&changes).map(|(named, change)| {
            let is_of_this_act = change.outcome.cause_index() == Some(index);
            named.or_else(|| is_of_this_act.then_some(opened.reference))
        });
        Ok(Self {
            actor,
            effective_at: Millis(record.effective_at_ms),
            causes: causes.collect(),
            authority_ends_at: record.authority_ends_at_ms.map(Millis),
            confirms: confirms.zip(record.requested_at_ms.map(Millis)),
            confirm_until: record.confirmation.map(|offer| Millis(offer.expires_at_ms)),
            changes,
        })
    }
}

/// Whether the first record commits to the data subject of the statement.
fn check_identity(statement: &Statement, opened: &OpenedRecord) -> Result<(), ReceiptError> {
    let commitment = &opened.record.identity_commit;
    match &statement.identity_key {
        None if commitment.is_empty() => Ok(()),
        Some(key) if key.verifies(&statement.subject, commitment) => Ok(()),
        _ => Err(ReceiptError::Identity),
    }
}

impl Numbers for Statement {
    fn purpose(&self, number: u32) -> Option<Key> {
        let text = self.purposes.iter().find(|text| text.number == number)?;
        Key::parse(&text.key).ok()
    }

    fn channel(&self, number: u32) -> Option<Key> {
        let text = self.channels.iter().find(|text| text.number == number)?;
        Key::parse(&text.key).ok()
    }
}

impl Extension {
    /// The extension of a statement.
    pub fn new(origin: &str, statement: &Statement, facts: &Facts) -> Self {
        let evidence = EvidenceText::from(&facts.evidence);
        let StatedParties { controllers, parties } = statement.parties.clone();
        Self {
            format_version: statement.format_version,
            ledger: origin.to_owned(),
            ledger_id: hex(&statement.ledger_id),
            index: facts.index,
            receipt_id: receipt_id(&facts.reference),
            issued_at: time(statement.issued_at),
            kind: if facts.act.confirms.is_some() { "CONFIRMATION" } else { "ACT" }.to_owned(),
            recorded_at: time(facts.recorded_at),
            effective_at: time(facts.act.effective_at),
            actor: facts.act.actor.name().to_owned(),
            authority_ends_at: facts.act.authority_ends_at.map(time),
            confirms: facts.act.confirms.map(|(request, at)| Confirms {
                receipt_id: receipt_id(&request),
                effective_at: time(at),
            }),
            confirm_until: facts.act.confirm_until.map(time),
            changes: changes(facts),
            subject: statement.subject.clone(),
            controllers,
            parties,
            purposes: statement.purposes.clone(),
            channels: statement.channels.clone(),
            evidence: (evidence != EvidenceText::default()).then_some(evidence),
            slot: statement.slot,
            record_key: BASE64.encode(statement.record_key.bytes()),
            evidence_key: statement.evidence_key.as_ref().map(|key| BASE64.encode(key.bytes())),
            identity_key: statement.identity_key.as_ref().map(|key| BASE64.encode(key.bytes())),
            entry: BASE64.encode(&statement.entry),
            proof: statement.proof.to_string(),
        }
    }

    /// The statement that an extension was written from, if it was written from one.
    pub fn statement(self) -> Result<Statement, ReceiptError> {
        if self.format_version != FORMAT_VERSION {
            return Err(ReceiptError::Version(self.format_version));
        }
        let payload = ReceiptError::Payload;
        let ledger_id = unhex(&self.ledger_id).and_then(|bytes| bytes.try_into().ok());
        let ledger_id = ledger_id.ok_or_else(|| payload("its ledger_id"))?;
        let issued_at = self.issued_at.parse::<jiff::Timestamp>();
        let issued_at = issued_at.map_err(|_| payload("its issued_at is no time"))?;
        let bytes = |text: &str| zeroize::Zeroizing::new(BASE64.decode(text).unwrap_or_default());
        let evidence_key = self.evidence_key.map(|text| {
            OneTimeKey::from_slice(&bytes(&text)).ok_or_else(|| payload("its evidence_key"))
        });
        let identity_key = self.identity_key.map(|text| {
            IdentityKey::from_slice(&bytes(&text)).ok_or_else(|| payload("its identity_key"))
        });
        Ok(Statement {
            format_version: self.format_version,
            ledger_id,
            entry: BASE64.decode(self.entry).map_err(|_| payload("its entry is not base64"))?,
            proof: TlogProof::parse(&self.proof)?,
            slot: self.slot,
            record_key: OneTimeKey::from_slice(&bytes(&self.record_key))
                .ok_or_else(|| payload("its record_key"))?,
            evidence_key: evidence_key.transpose()?,
            subject: self.subject,
            identity_key: identity_key.transpose()?,
            issued_at: Millis(issued_at.as_millisecond()),
            parties: StatedParties { controllers: self.controllers, parties: self.parties },
            purposes: self.purposes,
            channels: self.channels,
        })
    }

    /// The purpose of a change, as the catalogue had it.
    pub fn purpose_of(&self, change: &Change) -> Option<&PurposeText> {
        let mut versions = self.purposes.iter().filter(|text| text.key == change.purpose);
        versions.find(|text| change.purpose_version.is_none_or(|wanted| wanted == text.version))
    }

    /// The data categories that a change is about.
    pub fn categories_of<'a>(&'a self, change: &'a Change) -> &'a [String] {
        let declared = self.purpose_of(change).map(|text| text.data_categories.as_slice());
        match change.data_categories.as_slice() {
            [] => declared.unwrap_or_default(),
            narrowed => narrowed,
        }
    }
}

fn changes(facts: &Facts) -> Vec<Change> {
    let at = time(facts.act.effective_at);
    let written = |(record, cause): (&ChangeRecord, &Option<Reference>)| {
        let every = || EVERY.to_owned();
        let (purpose, channel) = (record.scope.purpose.as_ref(), record.scope.channel.as_ref());
        let is_grant = record.action == Action::Grant;
        Change {
            action: record.action.name().to_owned(),
            purpose: purpose.map_or_else(every, ToString::to_string),
            channel: channel.map_or_else(every, ToString::to_string),
            purpose_version: is_grant.then_some(record.purpose_version),
            data_categories: record.data_categories.clone(),
            outcome: record.outcome.name().to_owned(),
            cause: cause.as_ref().map(receipt_id),
            expires_at: record.expires_at.map(time),
            refusal: (record.action == Action::Refuse).then(|| Refusal { at: at.clone() }),
            termination: termination(record, facts.act.actor, &at),
        }
    };
    facts.act.changes.iter().zip(&facts.act.causes).map(written).collect()
}

fn termination(record: &ChangeRecord, actor: Actor, at: &str) -> Option<Termination> {
    let ended = |kind: &str| Termination { kind: kind.to_owned(), at: at.to_owned() };
    match record.action.stop_kind(actor) {
        Some(StopKind::Withdrawn) => Some(ended("WITHDRAWAL")),
        Some(StopKind::Revoked) => Some(ended("REVOCATION")),
        Some(StopKind::Objected) => Some(ended("OBJECTION")),
        Some(StopKind::Refused) => None,
        None => record.expires_at.map(|end| Termination { kind: "EXPIRY".into(), at: time(end) }),
    }
}

impl From<&Evidence> for EvidenceText {
    fn from(evidence: &Evidence) -> Self {
        Self {
            touchpoint: evidence.touchpoint.clone(),
            notice_id: evidence.notice_id.clone(),
            notice_version: evidence.notice_version.clone(),
            language: evidence.language.clone(),
            notice_hash: hex(&evidence.notice_hash),
            method: evidence.method.clone(),
            ip_address: evidence.ip_address.clone(),
            user_agent: evidence.user_agent.clone(),
            attributes: evidence.attributes.clone(),
            authority: evidence.authority.as_ref().map(|authority| AuthorityText {
                relationship: authority.relationship.clone(),
                representative: authority.representative.clone(),
                proof: authority.proof.clone(),
                ends_at: authority.ends_at.map(time),
            }),
            unreadable: evidence.unreadable.clone(),
            subject_given: evidence.subject_given.clone(),
            effective_at_given: evidence.effective_at_given.map(time),
        }
    }
}

/// Identifier of the receipt of a record, in the form of a UUID: the reference by which other records of the
/// same data subject name it. It says nothing to who has no key of that data subject.
#[must_use]
pub fn receipt_id(reference: &Reference) -> String {
    let mut digits = hex(reference);
    for at in [20, 16, 12, 8] {
        digits.insert(at, '-');
    }
    digits
}

/// A moment in RFC 3339, in UTC, with milliseconds. A moment outside the calendar is written in
/// milliseconds since the Unix epoch.
pub(super) fn time(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| format!("{} ms", at.0), |moment| format!("{moment:.3}"))
}

/// Legal bases by their names in the API.
mod basis_name {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::{domain::LegalBasis, proto};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    pub fn serialize<S: Serializer>(basis: &LegalBasis, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(basis.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<LegalBasis, D::Error> {
        let name = String::deserialize(from)?;
        let basis = proto::LegalBasis::from_str_name(&format!("LEGAL_BASIS_{name}"));
        let basis = basis.and_then(|basis| basis.try_into().ok());
        basis.ok_or_else(|| de::Error::custom("no legal basis"))
    }
}
