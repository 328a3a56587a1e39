//! The `consent_ledger` object, for which the standards have no field: the entry, its proof, and what
//! follows from them. Both formats carry the same object, and the rest of a receipt follows from it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Controller, PartyText, ReceiptError, StatedParties};
use crate::{
    domain::{
        Action, Actor, ChangeRecord, Entry, Evidence, IdempotencyMark, LegalBasis, Millis, Sealed,
        StopKind,
    },
    entry::{self, Receipted},
    seal::{self, SecretKey},
    tlog::{BASE64, hex, proof::TlogProof, unhex},
};

/// Version of the whole payload of new receipts. The output of a version never changes: an old receipt
/// is verified by writing its payload again, in its own version.
///
/// Version 2 lists, for each purpose, the data categories that the grants cover and no others, and names
/// whoever acted for the data subject as a party. Version 3 takes controllers, recipients and jurisdictions
/// from the catalogue as of the act.
pub const FORMAT_VERSION: u32 = 3;
/// The first version.
pub(super) const FORMAT_VERSION_1: u32 = 1;
/// The first version whose parties are those of the catalogue.
const CATALOG_PARTIES_VERSION: u32 = 3;
/// Means every purpose, or every channel.
pub(super) const EVERY: &str = "*";
const ID_CONTEXT: &[u8] = b"consent-ledger v1 receipt\0";

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
    /// The key that opens the evidence of this entry, and nothing else; none if it has none.
    pub evidence_key: Option<SecretKey>,
    /// Whose act it is, `namespace:id`.
    pub subject: String,
    /// When the receipt is made.
    pub issued_at: Millis,
    /// The controllers and recipients.
    pub parties: StatedParties,
    /// The purposes that the act names, as the catalogue had them.
    pub purposes: Vec<PurposeText>,
    /// For each change, the indices of the acts that it superseded.
    pub supersedes: Vec<Vec<u64>>,
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<String>,
    pub subject: String,
    /// Of versions 1 and 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parties: Vec<PartyText>,
    pub purposes: Vec<PurposeText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<EvidenceText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence_key: Option<String>,
    entry: String,
    proof: String,
}

/// The act that a confirmation is of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirms {
    index: u64,
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
    cause_index: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    termination: Option<Termination>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<Earlier>,
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

/// An act that a change superseded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Earlier {
    index: u64,
    receipt_id: String,
}

/// The evidence as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
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

#[derive(Debug, Serialize, Deserialize)]
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

/// An entry with the act or confirmation that it holds, opened.
pub(super) struct Facts<'a> {
    pub entry: &'a Entry,
    pub act: Receipted<'a>,
    pub evidence: Evidence,
}

impl<'a> Facts<'a> {
    /// Opens the entry of a statement.
    pub fn of(statement: &Statement, entry: &'a Entry) -> Result<Self, ReceiptError> {
        let act = entry.body.kind().receipt().filter(|act| !act.changes.is_empty());
        let act = act.ok_or(ReceiptError::NotAnAct { index: entry.index })?;
        let evidence = match (act.evidence, &statement.evidence_key) {
            (None, None) => Evidence::default(),
            (Some(sealed), Some(key)) => {
                open(&statement.ledger_id, act.idempotency.as_ref(), sealed, key)?
            }
            _ => return Err(ReceiptError::Evidence),
        };
        Ok(Self { entry, act, evidence })
    }
}

fn open(
    ledger_id: &[u8; 16],
    idempotency: Option<&IdempotencyMark>,
    sealed: &Sealed,
    key: &SecretKey,
) -> Result<Evidence, ReceiptError> {
    let context = seal::evidence_context(ledger_id, idempotency);
    let opened =
        seal::open_once(key, &context, sealed).map_err(|seal::OpenError| ReceiptError::Evidence)?;
    Ok(entry::decode_evidence(&opened)?)
}

impl Extension {
    /// The extension of a statement.
    pub fn new(origin: &str, statement: &Statement, facts: &Facts<'_>) -> Self {
        let id = |index| receipt_id(&statement.ledger_id, index);
        let (controller, controllers, parties) = match statement.parties.clone() {
            StatedParties::Settings(controller) => (Some(*controller), Vec::new(), Vec::new()),
            StatedParties::Catalog { controllers, parties } => (None, controllers, parties),
        };
        let superseded: BTreeSet<u64> = statement.supersedes.iter().flatten().copied().collect();
        Self {
            format_version: statement.format_version,
            ledger: origin.to_owned(),
            ledger_id: hex(&statement.ledger_id),
            index: facts.entry.index,
            receipt_id: id(facts.entry.index),
            issued_at: time(statement.issued_at),
            kind: if facts.act.confirms.is_some() { "CONFIRMATION" } else { "ACT" }.to_owned(),
            recorded_at: time(facts.entry.recorded_at),
            effective_at: time(facts.act.effective_at),
            actor: facts.act.actor.name().to_owned(),
            authority_ends_at: facts.act.authority_ends_at.map(time),
            confirms: facts.act.confirms.map(|(index, at)| Confirms {
                index,
                receipt_id: id(index),
                effective_at: time(at),
            }),
            confirm_until: facts.act.confirm_until.map(time),
            changes: changes(statement, facts),
            supersedes: superseded.into_iter().map(id).collect(),
            subject: statement.subject.clone(),
            controller,
            controllers,
            parties,
            purposes: statement.purposes.clone(),
            evidence: statement.evidence_key.as_ref().map(|_| EvidenceText::from(&facts.evidence)),
            evidence_key: statement.evidence_key.as_ref().map(|key| BASE64.encode(key.as_slice())),
            entry: BASE64.encode(&statement.entry),
            proof: statement.proof.to_string(),
        }
    }

    /// The statement that an extension was written from, if it was written from one.
    pub fn statement(self) -> Result<Statement, ReceiptError> {
        if !(FORMAT_VERSION_1..=FORMAT_VERSION).contains(&self.format_version) {
            return Err(ReceiptError::Version(self.format_version));
        }
        let payload = ReceiptError::Payload;
        if self.controller.is_some() == (self.format_version >= CATALOG_PARTIES_VERSION) {
            return Err(payload("its controller"));
        }
        let ledger_id = unhex(&self.ledger_id).and_then(|bytes| bytes.try_into().ok());
        let ledger_id = ledger_id.ok_or_else(|| payload("its ledger_id"))?;
        let issued_at = self.issued_at.parse::<jiff::Timestamp>();
        let issued_at = issued_at.map_err(|_| payload("its issued_at is no time"))?;
        let parties = match self.controller {
            Some(controller) => StatedParties::Settings(Box::new(controller)),
            None => StatedParties::Catalog { controllers: self.controllers, parties: self.parties },
        };
        let key = self.evidence_key.map(|text| {
            let bytes = Zeroizing::new(BASE64.decode(text).unwrap_or_default());
            <[u8; 32]>::try_from(bytes.as_slice()).map(Zeroizing::new)
        });
        Ok(Statement {
            format_version: self.format_version,
            ledger_id,
            entry: BASE64.decode(self.entry).map_err(|_| payload("its entry is not base64"))?,
            proof: TlogProof::parse(&self.proof)?,
            evidence_key: key.transpose().map_err(|_| payload("its evidence_key"))?,
            subject: self.subject,
            issued_at: Millis(issued_at.as_millisecond()),
            parties,
            purposes: self.purposes,
            supersedes: self
                .changes
                .into_iter()
                .map(|change| change.supersedes.iter().map(|earlier| earlier.index).collect())
                .collect(),
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

fn changes(statement: &Statement, facts: &Facts<'_>) -> Vec<Change> {
    let none = Vec::new();
    let supersedes = statement.supersedes.iter().chain(std::iter::repeat(&none));
    let at = time(facts.act.effective_at);
    let written = |(record, earlier): (&ChangeRecord, &Vec<u64>)| {
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
            cause_index: record.outcome.cause_index(),
            expires_at: record.expires_at.map(time),
            refusal: (record.action == Action::Refuse).then(|| Refusal { at: at.clone() }),
            termination: termination(record, facts.act.actor, &at),
            supersedes: earlier
                .iter()
                .map(|index| Earlier {
                    index: *index,
                    receipt_id: receipt_id(&statement.ledger_id, *index),
                })
                .collect(),
        }
    };
    facts.act.changes.iter().zip(supersedes).map(written).collect()
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

/// Identifier of the receipt of an entry: a UUID (RFC 9562, version 8) that anybody can compute, so
/// that one receipt can name another that was never issued.
#[must_use]
pub fn receipt_id(ledger_id: &[u8; 16], index: u64) -> String {
    let hasher = Sha256::new().chain_update(ID_CONTEXT).chain_update(ledger_id);
    let hash: [u8; 32] = hasher.chain_update(index.to_be_bytes()).finalize().into();
    let mut digits = hex(&hash[..16]);
    let variant = ["8", "9", "a", "b"][usize::from(hash[8] >> 4 & 3)];
    digits.replace_range(12..13, "8");
    digits.replace_range(16..17, variant);
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
