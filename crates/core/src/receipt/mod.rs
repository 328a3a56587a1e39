//! Receipts: an act of consent as a signed statement for the person or system that it concerns. The
//! ledger's public key is enough to verify it offline.
//!
//! A receipt is a JSON Web Signature (RFC 7515) in compact form, signed with the ledger's key. Its
//! payload has the fields of Kantara Consent Receipt v1.1 and of ISO/IEC TS 27560, or is JSON-LD
//! with the W3C Data Privacy Vocabulary. Both carry one object, `consent_ledger`, for which the
//! standards have no field: the exact bytes of the entry, its C2SP tlog-proof with the
//! checkpoint inside, the keys that open the data subject's part of it, and the changes by channel with their
//! outcome, refusal and termination. `docs/receipts.md` has every field.
//!
//! Invariants:
//!
//! * **It states an act, never a current status.** What it states of the act can not change later.
//! * **It names the parties of the act's time.** Controllers, recipients and jurisdictions are those that
//!   the catalogue had when the act was recorded: a later change of the catalogue changes no receipt. (The
//!   receipts of versions 1 and 2 had them from the settings of the server at `issued_at`.)
//! * **It asserts only recorded facts.** A consent is explicit only if the evidence names the
//!   method by which it was expressed; a notice was shown only if the evidence names one.
//! * **It is verified in two ways.** What follows from the entry is recomputed from the entry
//!   and compared; the rest (who the controller is, when it was made, what the catalogue said and, but for
//!   the data subject's first record, who that is) is the ledger's word, under the ledger's signature.
//! * **It opens its one record and nothing else.** Each key in it opens one sealed text, and it names no other
//!   entry. So whoever has it and all of the ledger's bytes learns nothing of the data subject's other acts.
//!   It is personal data, and copies outlive an erasure.
//!
//! This module knows no clock, no files, no keys at rest and no protocol.

mod consent_receipt;
mod dpv;
mod extension;
mod parties;

use std::fmt;

pub use extension::{ChannelText, FORMAT_VERSION, PurposeText, Statement, receipt_id};
use extension::{Extension, Facts};
pub use parties::{PartyText, StatedParties};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::{
    domain::{Actor, ChangeRecord, Evidence, Millis},
    entry::EntryError,
    jws::{self, JwsError, PublicKey},
    tlog::{
        key::{SignerKey, VerifierKey},
        merkle::leaf_hash,
        policy::{Policy, Unmet, Witness},
        proof::TlogProofError,
    },
};

/// The longest receipt that is looked at, in bytes.
pub const RECEIPT_BYTES_MAX: usize = 1 << 20;
/// The `typ` of receipts, which distinguishes them from everything else that the ledger's key
/// signs.
const TYPE: &str = "consent-receipt+json";

/// How the content of a receipt is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// JSON with the fields of Kantara Consent Receipt v1.1 and of ISO/IEC TS 27560.
    #[default]
    ConsentReceipt,
    /// JSON-LD with the W3C Data Privacy Vocabulary.
    Dpv,
}

/// An issued receipt.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// Index of the entry.
    pub index: u64,
    /// The receipt: a JSON Web Signature.
    pub receipt: String,
    /// Its payload, as JSON.
    pub payload: String,
    /// Fields that the format asks for and that the ledger was not given.
    pub missing_fields: Vec<String>,
}

/// It is about a person: nothing of it is printed.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("index", &self.index).finish_non_exhaustive()
    }
}

/// A receipt that was verified.
#[derive(Clone)]
pub struct Receipt {
    /// The format of its payload.
    pub format: Format,
    /// Its identifier.
    pub id: String,
    /// What it states.
    pub statement: Statement,
    /// Index of the entry.
    pub index: u64,
    /// When the ledger recorded it.
    pub recorded_at: Millis,
    /// The evidence of the act.
    pub evidence: Evidence,
    /// Its payload, as JSON.
    pub payload: String,
    /// Which witnesses of the policy have cosigned the checkpoint, and when by their clocks, in
    /// seconds since the Unix epoch.
    pub cosigners: Vec<(String, u64)>,
    /// Who acted.
    pub actor: Actor,
    /// When the act took effect.
    pub effective_at: Millis,
    /// What changed.
    pub changes: Vec<ChangeRecord>,
}

/// It is about a person: nothing of it is printed.
impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Receipt {
    /// Number of entries under the checkpoint.
    #[must_use]
    pub fn tree_size(&self) -> u64 {
        self.statement.proof.checkpoint.checkpoint.size
    }
}

/// Why a receipt can not be issued, or is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReceiptError {
    /// Not signed with the ledger's key, or not as a receipt.
    #[error("the receipt is not signed as it must be: {0}")]
    Jws(#[from] JwsError),
    /// The payload is not that of a receipt.
    #[error("the receipt's payload is malformed: {0}")]
    Payload(&'static str),
    /// Of a version that this program does not know.
    #[error("the receipt is of version {0}, which this program does not know")]
    Version(u32),
    /// The entry in it is none.
    #[error("the receipt's entry: {0}")]
    Entry(#[from] EntryError),
    /// The entry is not about consent.
    #[error("entry {index} is no act of consent, so there is no receipt of it")]
    NotAnAct {
        /// Index of the entry.
        index: u64,
    },
    /// The key in it does not open the evidence in the entry.
    #[error("the evidence in the receipt's entry does not open with the key in the receipt")]
    Evidence,
    /// The record commits to another data subject, or the key of the commitment is missing or too much.
    #[error("the data subject of the receipt is not the one that its record commits to")]
    Identity,
    /// The entry is not proved to be in the ledger.
    #[error("the receipt does not prove that its entry is in the ledger: {0}")]
    Proof(#[from] TlogProofError),
    /// Not enough witnesses have seen the checkpoint.
    #[error(transparent)]
    Witnesses(#[from] Unmet),
    /// Longer than verifiers accept.
    #[error(
        "the receipt would have {bytes} bytes, the limit is {RECEIPT_BYTES_MAX}: the other format may be \
         shorter"
    )]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// About another data subject than expected.
    #[error("the receipt is about another data subject")]
    Subject,
    /// A field contradicts the entry.
    #[error("the receipt's field {field} does not agree with its entry")]
    Disagrees {
        /// The field, as a JSON Pointer (RFC 6901).
        field: String,
    },
}

impl ReceiptError {
    /// Name for programs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Jws(error) => error.name(),
            Self::Payload(_) => "MALFORMED_PAYLOAD",
            Self::Version(_) => "UNKNOWN_VERSION",
            Self::Entry(_) => "BAD_ENTRY",
            Self::NotAnAct { .. } => "NOT_AN_ACT",
            Self::Evidence => "BAD_EVIDENCE",
            Self::Identity => "BAD_IDENTITY",
            Self::Proof(_) => "BAD_PROOF",
            Self::Witnesses(_) => "TOO_FEW_WITNESSES",
            Self::Subject => "WRONG_SUBJECT",
            Self::TooLong { .. } => "TOO_LONG",
            Self::Disagrees { .. } => "DISAGREES",
        }
    }
}

/// Issues the receipt of a statement. The same statement always gives the same receipt.
///
/// # Errors
/// The entry is not an act or confirmation, or does not open; or the receipt is longer than
/// [`RECEIPT_BYTES_MAX`]. The proof is not verified.
pub fn issue(
    statement: &Statement,
    format: Format,
    key: &SignerKey,
) -> Result<Issued, ReceiptError> {
    let facts = Facts::of(statement)?;
    let extension = Extension::new(key.verifier().name(), statement, &facts);
    let payload = payload(&extension, &facts, format, key.verifier());
    let signer = jws::Signer::from_seed(&key.seed(), TYPE);
    let receipt = signer.sign(payload.as_bytes());
    if receipt.len() > RECEIPT_BYTES_MAX {
        return Err(ReceiptError::TooLong { bytes: receipt.len() });
    }
    Ok(Issued {
        index: facts.index,
        receipt,
        missing_fields: missing_fields(&extension, &facts, format),
        payload,
    })
}

/// Verifies a receipt with the ledger's key and a policy that says which witnesses count, offline.
///
/// # Errors
/// See [`ReceiptError`]. Nothing in the receipt is looked at before its signature is.
pub fn verify(receipt: &str, key: &VerifierKey, policy: &Policy) -> Result<Receipt, ReceiptError> {
    verify_under(receipt, key, std::slice::from_ref(key), policy)
}

/// Verifies a receipt that is signed with `key`, and whose checkpoint is signed with one of `keys`.
fn verify_under(
    receipt: &str,
    key: &VerifierKey,
    keys: &[VerifierKey],
    policy: &Policy,
) -> Result<Receipt, ReceiptError> {
    // A verifier key holds no other public key than one that can be used.
    let public = PublicKey::from_bytes(&key.public_key());
    let public = public.map_err(|_| ReceiptError::Jws(JwsError::Signature))?;
    let payload = public.open(receipt, TYPE, RECEIPT_BYTES_MAX)?;
    let payload = String::from_utf8(payload).map_err(|_| ReceiptError::Payload("it is no text"))?;
    let form: Form = serde_json::from_str(&payload)
        .map_err(|_| ReceiptError::Payload("it has no consent_ledger object as it must be"))?;
    let format = if form.context.is_some() { Format::Dpv } else { Format::ConsentReceipt };
    let statement = form.consent_ledger.statement()?;
    let facts = Facts::of(&statement)?;
    check_place(&statement, &facts, keys)?;
    policy.verify(&statement.proof.checkpoint.note)?;
    let extension = Extension::new(key.name(), &statement, &facts);
    agrees(&payload, &self::payload(&extension, &facts, format, key))?;
    let cosigned = policy.cosigned(&statement.proof.checkpoint.note).map_err(Unmet::from)?;
    let name_and_time = |(witness, at): (&Witness, u64)| (witness.key.name().to_owned(), at);
    Ok(Receipt {
        format,
        id: receipt_id(&facts.reference),
        cosigners: cosigned.into_iter().map(name_and_time).collect(),
        index: facts.index,
        recorded_at: facts.recorded_at,
        changes: facts.act.changes,
        actor: facts.act.actor,
        effective_at: facts.act.effective_at,
        evidence: facts.evidence,
        payload,
        statement,
    })
}

/// As [`verify`], with the one of several keys that the receipt is signed with. Its checkpoint may be
/// signed with another of them: shortly after a change of the key it is.
///
/// # Errors
/// As [`verify`]; if no key has signed, the error of the last.
pub fn verify_any(
    receipt: &str,
    keys: &[VerifierKey],
    policy: &Policy,
) -> Result<Receipt, ReceiptError> {
    let mut result = Err(ReceiptError::Jws(JwsError::Signature));
    for key in keys {
        result = verify_under(receipt, key, keys, policy);
        // A receipt names the key that signed it.
        if !matches!(result, Err(ReceiptError::Jws(JwsError::Key { .. }))) {
            break;
        }
    }
    result
}

/// The part of a payload that is read; the rest is written again and compared.
#[derive(Deserialize)]
struct Form {
    #[serde(rename = "@context")]
    context: Option<Value>,
    consent_ledger: Extension,
}

fn payload(extension: &Extension, facts: &Facts, format: Format, key: &VerifierKey) -> String {
    match format {
        Format::ConsentReceipt => consent_receipt::payload(extension, facts, key),
        Format::Dpv => dpv::payload(extension, facts, key.name()),
    }
}

fn missing_fields(extension: &Extension, facts: &Facts, format: Format) -> Vec<String> {
    match format {
        Format::ConsentReceipt => consent_receipt::missing_fields(extension, facts),
        Format::Dpv => dpv::missing_fields(extension, facts),
    }
}

/// Whether the entry is at the index that the receipt names, and all that it refers to comes before
/// it.
fn check_place(
    statement: &Statement,
    facts: &Facts,
    keys: &[VerifierKey],
) -> Result<(), ReceiptError> {
    let disagrees = |field: &str| Err(ReceiptError::Disagrees { field: field.to_owned() });
    let Statement { proof, purposes, channels, .. } = statement;
    proof.verify_any(&leaf_hash(&statement.entry), keys)?;
    let index = facts.index;
    if proof.index != index || proof.extra.is_some() {
        return disagrees("/consent_ledger/proof");
    }
    let is_named = |text: &PurposeText| {
        let mut keys = facts.act.changes.iter().filter_map(|change| change.scope.purpose.as_ref());
        keys.any(|name| name.as_one().is_some_and(|key| key.as_str() == text.key))
    };
    if !purposes.iter().all(|text| text.index < index && is_named(text)) {
        return disagrees("/consent_ledger/purposes");
    }
    let is_named = |text: &ChannelText| {
        let mut keys = facts.act.changes.iter().filter_map(|change| change.scope.channel.as_ref());
        keys.any(|key| key.as_str() == text.key)
    };
    if !channels.iter().all(is_named) {
        return disagrees("/consent_ledger/channels");
    }
    if !statement.parties.are_those_of(purposes, index) {
        return disagrees("/consent_ledger/parties");
    }
    Ok(())
}

/// Whether a payload is, byte for byte, the one that it must be.
fn agrees(stated: &str, wanted: &str) -> Result<(), ReceiptError> {
    if stated == wanted {
        return Ok(());
    }
    let value = |text| serde_json::from_str::<Value>(text).unwrap_or_default();
    // Equal values in other bytes: a duplicate field, or other formatting.
    let field = difference(&value(stated), &value(wanted)).unwrap_or_default();
    Err(ReceiptError::Disagrees { field })
}

/// The first place at which two values differ.
fn difference(stated: &Value, wanted: &Value) -> Option<String> {
    let below =
        |name: &str, rest: String| format!("/{}{rest}", name.replace('~', "~0").replace('/', "~1"));
    match (stated, wanted) {
        (Value::Object(stated), Value::Object(wanted)) => {
            let names = stated.keys().chain(wanted.keys());
            names.into_iter().find_map(|name| match (stated.get(name), wanted.get(name)) {
                (Some(stated), Some(wanted)) => Some(below(name, difference(stated, wanted)?)),
                _ => Some(below(name, String::new())),
            })
        }
        (Value::Array(stated), Value::Array(wanted)) if stated.len() == wanted.len() => {
            let mut pairs = stated.iter().zip(wanted).enumerate();
            pairs.find_map(|(at, (stated, wanted))| {
                Some(below(&at.to_string(), difference(stated, wanted)?))
            })
        }
        _ => (stated != wanted).then(String::new),
    }
}

#[cfg(test)]
mod tests;
