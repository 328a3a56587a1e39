//! The payload as JSON-LD with the W3C Data Privacy Vocabulary, version 2: a `dpv:ConsentRecord`
//! with one `dpv:Process` a change.
//!
//! `dpv:hasConsentStatus` is the outcome of the act when it was recorded. The extension is a JSON
//! literal (JSON-LD 1.1, section 4.2.2), so that its bytes mean the same to every processor.
//!
//! There is no `dct:replaces`: a receipt names no other act.

use serde::Serialize;

use super::{
    consent_receipt::{collection_method, representative, title},
    extension::{Change, EVERY, Extension, Facts},
    parties::Named,
};
use crate::{
    domain::{Actor, ChangeRecord, LegalBasis, Outcome, StopKind},
    tlog::hex,
};

/// A typed literal.
#[derive(Serialize)]
struct Typed<'a> {
    #[serde(rename = "@value")]
    value: &'a str,
    #[serde(rename = "@type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct Id {
    #[serde(rename = "@id")]
    id: String,
}

#[derive(Serialize)]
struct Context {
    #[serde(rename = "@version")]
    version: f32,
    dpv: &'static str,
    #[serde(rename = "eu-gdpr")]
    eu_gdpr: &'static str,
    loc: &'static str,
    dct: &'static str,
    rdf: &'static str,
    xsd: &'static str,
    ledger: &'static str,
    consent_ledger: JsonTerm,
}

#[derive(Serialize)]
struct JsonTerm {
    #[serde(rename = "@id")]
    id: &'static str,
    #[serde(rename = "@type")]
    kind: &'static str,
}

const CONTEXT: Context = Context {
    version: 1.1,
    dpv: "https://w3id.org/dpv#",
    eu_gdpr: "https://w3id.org/dpv/legal/eu/gdpr#",
    loc: "https://w3id.org/dpv/loc#",
    dct: "http://purl.org/dc/terms/",
    rdf: "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    xsd: "http://www.w3.org/2001/XMLSchema#",
    ledger: "urn:consent-ledger:v1:",
    consent_ledger: JsonTerm { id: "urn:consent-ledger:v1:receipt", kind: "@json" },
};

#[derive(Serialize)]
struct Record<'a> {
    #[serde(rename = "@context")]
    context: Context,
    #[serde(rename = "@id")]
    id: String,
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dct:identifier")]
    identifier: &'a str,
    #[serde(rename = "dct:created")]
    created: Typed<'a>,
    #[serde(rename = "dct:issued")]
    issued: Typed<'a>,
    #[serde(rename = "dpv:hasDataSubject")]
    subject: DataSubject<'a>,
    #[serde(rename = "dpv:hasDataController")]
    controller: OneOrMany<DataController<'a>>,
    #[serde(rename = "dpv:hasJurisdiction", skip_serializing_if = "Vec::is_empty")]
    jurisdictions: Vec<Id>,
    #[serde(rename = "dpv:hasRecipientThirdParty", skip_serializing_if = "Vec::is_empty")]
    third_parties: Vec<ThirdParty<'a>>,
    #[serde(rename = "dpv:hasNotice", skip_serializing_if = "Option::is_none")]
    notice: Option<Notice<'a>>,
    #[serde(rename = "dpv:hasIndicationMethod", skip_serializing_if = "Option::is_none")]
    indication_method: Option<String>,
    #[serde(rename = "dpv:hasProcess")]
    processes: Vec<Process<'a>>,
    #[serde(rename = "ledger:representative", skip_serializing_if = "Option::is_none")]
    representative: Option<Representative<'a>>,
    consent_ledger: &'a Extension,
}

/// JSON-LD writes one value without an array.
#[derive(Serialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[derive(Serialize)]
struct DataSubject<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dct:identifier")]
    identifier: &'a str,
}

/// Whoever acted for the data subject, and what they are to it.
#[derive(Serialize)]
struct Representative<'a> {
    #[serde(rename = "dct:identifier")]
    identifier: &'a str,
    #[serde(rename = "ledger:relationship", skip_serializing_if = "str::is_empty")]
    relationship: &'a str,
}

#[derive(Serialize)]
struct DataController<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dpv:hasName")]
    name: &'a str,
    #[serde(rename = "dpv:hasAddress", skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(rename = "dpv:hasContact", skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<&'a str>,
}

#[derive(Serialize)]
struct ThirdParty<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dpv:hasName")]
    name: &'a str,
}

#[derive(Serialize)]
struct Notice<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dct:identifier", skip_serializing_if = "str::is_empty")]
    identifier: &'a str,
    #[serde(rename = "dct:hasVersion", skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(rename = "dct:language", skip_serializing_if = "str::is_empty")]
    language: &'a str,
    #[serde(rename = "ledger:hash", skip_serializing_if = "String::is_empty")]
    hash: String,
}

#[derive(Serialize)]
struct Process<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dpv:hasPurpose")]
    purpose: Purpose<'a>,
    #[serde(rename = "dpv:hasPersonalData", skip_serializing_if = "Vec::is_empty")]
    personal_data: Vec<PersonalData<'a>>,
    #[serde(rename = "dpv:hasLegalBasis", skip_serializing_if = "Option::is_none")]
    legal_basis: Option<Id>,
    #[serde(rename = "dpv:hasConsentStatus", skip_serializing_if = "Option::is_none")]
    status: Option<Id>,
    #[serde(rename = "dpv:hasRight", skip_serializing_if = "Option::is_none")]
    right: Option<Id>,
    #[serde(rename = "dpv:isIndicatedBy", skip_serializing_if = "Option::is_none")]
    indicated_by: Option<Id>,
    #[serde(rename = "dpv:isIndicatedAtTime")]
    indicated_at: Typed<'a>,
    #[serde(rename = "dpv:hasDuration", skip_serializing_if = "Option::is_none")]
    duration: Option<UntilTime<'a>>,
    #[serde(rename = "ledger:action")]
    action: &'a str,
    #[serde(rename = "ledger:channel")]
    channel: &'a str,
    #[serde(rename = "ledger:outcome")]
    outcome: &'a str,
}

#[derive(Serialize)]
struct UntilTime<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "rdf:value")]
    end: Typed<'a>,
}

#[derive(Serialize)]
struct Purpose<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dct:identifier")]
    identifier: &'a str,
    #[serde(rename = "dct:title")]
    title: &'a str,
    #[serde(rename = "dct:description", skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(rename = "dct:hasVersion", skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

#[derive(Serialize)]
struct PersonalData<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "dct:title")]
    title: &'a str,
}

pub(super) fn payload(extension: &Extension, facts: &Facts, origin: &str) -> String {
    let controllers = extension.controllers();
    let controllers: Vec<_> =
        controllers.iter().map(|party| data_controller(party, origin)).collect();
    let record = Record {
        context: CONTEXT,
        id: format!("urn:uuid:{}", extension.receipt_id),
        kind: "dpv:ConsentRecord",
        identifier: &extension.receipt_id,
        created: moment(&extension.recorded_at),
        issued: moment(&extension.issued_at),
        subject: DataSubject { kind: "dpv:DataSubject", identifier: &extension.subject },
        controller: match <[_; 1]>::try_from(controllers) {
            Ok([only]) => OneOrMany::One(only),
            Err(controllers) => OneOrMany::Many(controllers),
        },
        jurisdictions: extension.jurisdictions().iter().map(|region| id("loc", region)).collect(),
        third_parties: extension
            .recipients()
            .into_iter()
            .flatten()
            .map(|name| ThirdParty { kind: "dpv:ThirdParty", name })
            .collect(),
        notice: notice(facts),
        indication_method: collection_method(facts),
        processes: extension
            .changes
            .iter()
            .zip(&facts.act.changes)
            .map(|(change, record)| process(extension, facts, change, record))
            .collect(),
        representative: representative(facts).map(|authority| Representative {
            identifier: &authority.representative,
            relationship: &authority.relationship,
        }),
        consent_ledger: extension,
    };
    serde_json::to_string(&record).expect("texts and numbers always have a JSON form")
}

/// Fields that the vocabulary recommends for a consent record and that the ledger was not given.
pub(super) fn missing_fields(extension: &Extension, facts: &Facts) -> Vec<String> {
    let controllers = extension.controllers();
    let lacks = |text: fn(&Named<'_>) -> bool| controllers.iter().any(text);
    [
        ("dpv:hasDataController.dpv:hasName", lacks(|party| party.name.is_none())),
        ("dpv:hasDataController.dpv:hasAddress", lacks(|party| party.address.is_none())),
        ("dpv:hasDataController.dpv:hasContact", lacks(|party| contacts(party).is_empty())),
        ("dpv:hasJurisdiction", lacks(|party| party.jurisdictions.is_empty())),
        ("dpv:hasNotice", notice(facts).is_none()),
        ("dpv:hasIndicationMethod", collection_method(facts).is_none()),
    ]
    .into_iter()
    .filter(|(_, is_missing)| *is_missing)
    .map(|(field, _)| field.to_owned())
    .collect()
}

fn data_controller<'a>(party: &Named<'a>, origin: &'a str) -> DataController<'a> {
    DataController {
        kind: "dpv:DataController",
        name: party.name.unwrap_or(origin),
        address: party.address,
        contacts: contacts(party),
    }
}

fn contacts<'a>(party: &Named<'a>) -> Vec<&'a str> {
    [party.contact, party.email, party.phone, party.url].into_iter().flatten().collect()
}

fn process<'a>(
    extension: &'a Extension,
    facts: &Facts,
    change: &'a Change,
    record: &ChangeRecord,
) -> Process<'a> {
    let text = extension.purpose_of(change);
    let description = match (text, change.purpose.as_str()) {
        (_, EVERY) => Some("every purpose"),
        (text, _) => text.map(|text| text.description.as_str()).filter(|text| !text.is_empty()),
    };
    let categories = extension.categories_of(change);
    let sensitive = extension.sensitive_among(text, categories).unwrap_or_default();
    let personal_data = |title: &'a String| {
        let is_sensitive = sensitive.contains(&title.as_str());
        let kind = if is_sensitive { "dpv:SensitivePersonalData" } else { "dpv:PersonalData" };
        PersonalData { kind, title }
    };
    Process {
        kind: "dpv:Process",
        purpose: Purpose {
            kind: "dpv:Purpose",
            identifier: &change.purpose,
            title: title(extension, change),
            description,
            version: text.map(|text| text.version.to_string()),
        },
        personal_data: categories.iter().map(personal_data).collect(),
        legal_basis: text.map(|text| id("eu-gdpr", article(text.legal_basis))),
        status: status(record, facts.act.actor).map(|name| id("dpv", name)),
        // The right to object, GDPR Art. 21.
        right: (record.action.stop_kind(facts.act.actor) == Some(StopKind::Objected))
            .then(|| id("eu-gdpr", "A21")),
        indicated_by: indicated_by(facts.act.actor).map(|name| id("dpv", name)),
        indicated_at: moment(&extension.effective_at),
        duration: change
            .expires_at
            .as_deref()
            .map(|end| UntilTime { kind: "dpv:UntilTimeDuration", end: moment(end) }),
        action: &change.action,
        channel: &change.channel,
        outcome: &change.outcome,
    }
}

/// The notice that was shown, if the evidence names one.
fn notice<'a>(facts: &'a Facts) -> Option<Notice<'a>> {
    let evidence = &facts.evidence;
    if evidence.notice_id.is_empty() && evidence.notice_hash.is_empty() {
        return None;
    }
    Some(Notice {
        kind: "dpv:ConsentNotice",
        identifier: &evidence.notice_id,
        version: &evidence.notice_version,
        language: &evidence.language,
        hash: hex(&evidence.notice_hash),
    })
}

/// The status of the consent when the act was recorded; none where the vocabulary has no term, as for
/// an objection, or for a grant without effect.
fn status(record: &ChangeRecord, actor: Actor) -> Option<&'static str> {
    match (record.action.stop_kind(actor), record.outcome) {
        (Some(StopKind::Refused), _) => Some("ConsentRefused"),
        (Some(StopKind::Withdrawn), _) => Some("ConsentWithdrawn"),
        (Some(StopKind::Revoked), _) => Some("ConsentRevoked"),
        (None, Outcome::Applied) => Some("ConsentGiven"),
        (None, Outcome::PendingConfirmation) => Some("ConsentRequested"),
        (Some(StopKind::Objected), _) | (None, _) => None,
    }
}

/// Whose word it is; unknown for an import.
fn indicated_by(actor: Actor) -> Option<&'static str> {
    match actor {
        Actor::Subject | Actor::Agent => Some("DataSubject"),
        Actor::Guardian => Some("GuardianOfDataSubject"),
        Actor::Operator | Actor::System => Some("DataController"),
        Actor::Import => None,
    }
}

/// Legal bases of GDPR Art. 6(1), as the vocabulary's extension names them.
fn article(basis: LegalBasis) -> &'static str {
    match basis {
        LegalBasis::Consent => "A6-1-a",
        LegalBasis::Contract => "A6-1-b",
        LegalBasis::LegalObligation => "A6-1-c",
        LegalBasis::VitalInterest => "A6-1-d",
        LegalBasis::PublicTask => "A6-1-e",
        LegalBasis::LegitimateInterest => "A6-1-f",
    }
}

fn id(prefix: &str, name: &str) -> Id {
    Id { id: format!("{prefix}:{name}") }
}

fn moment(at: &str) -> Typed<'_> {
    Typed { value: at, kind: "xsd:dateTime" }
}
