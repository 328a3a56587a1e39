//! The payload with the fields of Kantara Consent Receipt v1.1 (section 4) and of ISO/IEC TS
//! 27560:2023 (clause 6), side by side. Names do not collide: the first has the form
//! `consentReceiptID`, the second `record_id`.
//!
//! `services` lists only the consents that were given: a grant that waits, that a stop blocks or that
//! a later act supersedes gave no consent. `events` lists every change.

use serde::Serialize;

use super::{
    PurposeText,
    extension::{Change, Extension, Facts},
    parties::Named,
};
use crate::{
    domain::{Action, Actor, Authority, ChangeRecord, LegalBasis, Outcome, StopKind},
    tlog::key::VerifierKey,
};

const KANTARA_VERSION: &str = "KI-CR-v1.1.0";
const SCHEMA_VERSION: &str = "ISO/IEC TS 27560:2023";

#[derive(Serialize)]
struct ConsentReceipt<'a> {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    jurisdiction: Option<String>,
    #[serde(rename = "consentTimestamp")]
    consent_timestamp: i64,
    #[serde(rename = "collectionMethod", skip_serializing_if = "Option::is_none")]
    collection_method: Option<String>,
    #[serde(rename = "consentReceiptID")]
    consent_receipt_id: &'a str,
    #[serde(rename = "publicKey")]
    public_key: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    language: &'a str,
    #[serde(rename = "piiPrincipalId")]
    principal: &'a str,
    #[serde(rename = "piiControllers")]
    controllers: Vec<PiiController<'a>>,
    #[serde(rename = "policyUrl", skip_serializing_if = "Option::is_none")]
    policy_url: Option<&'a str>,
    services: Vec<Service<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitive: Option<bool>,
    #[serde(rename = "spiCat", skip_serializing_if = "Option::is_none")]
    sensitive_categories: Option<Vec<&'a str>>,
    schema_version: &'static str,
    record_id: String,
    pii_principal_id: &'a str,
    pii_processing: Processing<'a>,
    party_identification: Vec<Party<'a>>,
    events: Vec<Event<'a>>,
    consent_ledger: &'a Extension,
}

#[derive(Serialize)]
struct PiiController<'a> {
    #[serde(rename = "piiController")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Address<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone: Option<&'a str>,
    #[serde(rename = "piiControllerUrl", skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
}

/// As schema.org has it, which Kantara's examples follow.
#[derive(Serialize)]
struct Address<'a> {
    #[serde(rename = "streetAddress")]
    street_address: &'a str,
}

#[derive(Serialize)]
struct Service<'a> {
    service: &'a str,
    purposes: Vec<Purpose<'a>>,
}

#[derive(Serialize)]
struct Purpose<'a> {
    purpose: &'a str,
    #[serde(rename = "purposeCategory")]
    category: [&'a str; 1],
    #[serde(rename = "consentType", skip_serializing_if = "Option::is_none")]
    consent_type: Option<&'static str>,
    #[serde(rename = "piiCategory")]
    pii_category: &'a [String],
    termination: String,
    #[serde(rename = "thirdPartyDisclosure", skip_serializing_if = "Option::is_none")]
    third_party_disclosure: Option<bool>,
    #[serde(rename = "thirdPartyName", skip_serializing_if = "Option::is_none")]
    third_party_name: Option<String>,
    channel: &'a str,
}

#[derive(Serialize)]
struct Processing<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy_notice: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    language: &'a str,
    purposes: Vec<ProcessingPurpose<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection_method: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    jurisdiction: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_third_parties: Option<Vec<&'a str>>,
}

#[derive(Serialize)]
struct ProcessingPurpose<'a> {
    purpose: &'a str,
    purpose_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    purpose_description: &'a str,
    lawful_basis: &'static str,
    pii_information: Vec<PiiInformation<'a>>,
    pii_controllers: [&'a str; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    channels: Vec<&'a str>,
}

#[derive(Serialize)]
struct PiiInformation<'a> {
    pii_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sensitive_pii_category: Option<bool>,
}

#[derive(Serialize)]
struct Party<'a> {
    party_id: &'a str,
    party_name: &'a str,
    party_role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    party_contact: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    party_address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    party_email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    party_phone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    party_url: Option<&'a str>,
}

#[derive(Serialize)]
struct Event<'a> {
    event_time: &'a str,
    event_type: &'a str,
    event_state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    validity_duration: Option<String>,
    entity_id: &'a str,
    purpose: &'a str,
    channel: &'a str,
}

pub(super) fn payload(extension: &Extension, facts: &Facts, key: &VerifierKey) -> String {
    let controllers = extension.controllers();
    // Where the catalogue names no controller, the ledger's name stands for it.
    let named = || controllers.iter().map(|party| (party, party.name.unwrap_or(key.name())));
    let jurisdictions = extension.jurisdictions();
    let sensitive = sensitive_categories(extension, facts);
    let receipt = ConsentReceipt {
        version: KANTARA_VERSION,
        jurisdiction: (!jurisdictions.is_empty()).then(|| jurisdictions.join(", ")),
        consent_timestamp: facts.act.effective_at.0.div_euclid(1_000),
        collection_method: collection_method(facts),
        consent_receipt_id: &extension.receipt_id,
        public_key: key.to_string(),
        language: &facts.evidence.language,
        principal: &extension.subject,
        controllers: named().map(|(party, name)| pii_controller(party, name)).collect(),
        policy_url: controllers.iter().find_map(|party| party.privacy_policy_url),
        services: named()
            .map(|(party, service)| Service {
                service,
                purposes: purposes(extension, facts, party),
            })
            .collect(),
        sensitive: sensitive.as_ref().map(|categories| !categories.is_empty()),
        sensitive_categories: sensitive,
        schema_version: SCHEMA_VERSION,
        record_id: format!("{}/{}", key.name(), extension.index),
        pii_principal_id: &extension.subject,
        pii_processing: processing(extension, facts, jurisdictions),
        party_identification: named()
            .map(|(party, name)| identified(party, name, "PII controller"))
            .chain(
                extension
                    .other_parties()
                    .map(|party| identified(&party, party.name.unwrap_or_default(), "recipient")),
            )
            .chain(representative(facts).map(represented_by))
            .collect(),
        events: events(extension, facts),
        consent_ledger: extension,
    };
    serde_json::to_string(&receipt).expect("texts and numbers always have a JSON form")
}

fn pii_controller<'a>(party: &Named<'a>, name: &'a str) -> PiiController<'a> {
    PiiController {
        name,
        contact: party.contact,
        address: party.address.map(|street_address| Address { street_address }),
        email: party.email,
        phone: party.phone,
        url: party.url,
    }
}

fn identified<'a>(party: &Named<'a>, name: &'a str, role: &'a str) -> Party<'a> {
    Party {
        party_id: party.id,
        party_name: name,
        party_role: role,
        party_contact: party.contact,
        party_address: party.address,
        party_email: party.email,
        party_phone: party.phone,
        party_url: party.url,
    }
}

/// Whoever acted for the data subject, as a party.
fn represented_by(authority: &Authority) -> Party<'_> {
    Party {
        party_id: &authority.representative,
        party_name: &authority.representative,
        party_role: &authority.relationship,
        party_contact: None,
        party_address: None,
        party_email: None,
        party_phone: None,
        party_url: None,
    }
}

/// By whom and by what right the data subject was represented, if the evidence names them.
pub(super) fn representative(facts: &Facts) -> Option<&Authority> {
    let authority = facts.evidence.authority.as_ref();
    authority.filter(|authority| !authority.representative.is_empty())
}

/// Fields that one of the standards requires and that the ledger was not given.
pub(super) fn missing_fields(extension: &Extension, facts: &Facts) -> Vec<String> {
    let mut given = given(extension, facts).peekable();
    let no_type = given.peek().is_some() && consent_type(facts).is_none();
    let no_disclosure =
        given.any(|change| extension.recipients_of(extension.purpose_of(change)).is_none());
    let controllers = extension.controllers();
    let lacks = |text: fn(&Named<'_>) -> bool| controllers.iter().any(text);
    let no_sensitive = lacks(|party| party.sensitive_categories.is_none());
    [
        ("jurisdiction", lacks(|party| party.jurisdictions.is_empty())),
        ("collectionMethod", collection_method(facts).is_none()),
        ("piiControllers[].piiController", lacks(|party| party.name.is_none())),
        ("piiControllers[].contact", lacks(|party| party.contact.is_none())),
        ("piiControllers[].address", lacks(|party| party.address.is_none())),
        ("piiControllers[].email", lacks(|party| party.email.is_none())),
        ("piiControllers[].phone", lacks(|party| party.phone.is_none())),
        ("policyUrl", lacks(|party| party.privacy_policy_url.is_none())),
        ("services[].purposes[].consentType", no_type),
        ("services[].purposes[].thirdPartyDisclosure", no_disclosure),
        ("sensitive", no_sensitive),
        ("spiCat", no_sensitive),
        ("pii_processing.privacy_notice", privacy_notice(facts).is_none()),
    ]
    .into_iter()
    .filter(|(_, is_missing)| *is_missing)
    .map(|(field, _)| field.to_owned())
    .collect()
}

/// The changes that gave consent.
fn given<'a>(extension: &'a Extension, facts: &Facts) -> impl Iterator<Item = &'a Change> {
    let changes = extension.changes.iter().zip(&facts.act.changes);
    changes.filter(|(_, record)| gives_consent(record)).map(|(change, _)| change)
}

/// Whether a change gives consent.
fn gives_consent(change: &ChangeRecord) -> bool {
    change.action == Action::Grant && change.outcome == Outcome::Applied
}

/// Title of the purpose of a change, else its key.
pub(super) fn title<'a>(extension: &'a Extension, change: &'a Change) -> &'a str {
    let title = extension.purpose_of(change).map(|text| text.title.as_str());
    title.filter(|title| !title.is_empty()).unwrap_or(&change.purpose)
}

/// How the choice was made: touchpoint and method.
pub(super) fn collection_method(facts: &Facts) -> Option<String> {
    match (facts.evidence.touchpoint.as_str(), facts.evidence.method.as_str()) {
        ("", "") => None,
        (one, "") | ("", one) => Some(one.to_owned()),
        (touchpoint, method) => Some(format!("{touchpoint}: {method}")),
    }
}

/// The consents that were given for purposes of a controller.
fn purposes<'a>(
    extension: &'a Extension,
    facts: &Facts,
    controller: &Named<'_>,
) -> Vec<Purpose<'a>> {
    let is_of =
        |change: &&Change| extension.controller_of(extension.purpose_of(change)) == *controller;
    let purpose = |change: &'a Change| {
        let recipients = extension.recipients_of(extension.purpose_of(change));
        let disclosure = recipients.as_ref().map(|names| !names.is_empty());
        Purpose {
            purpose: title(extension, change),
            category: [&change.purpose],
            consent_type: consent_type(facts),
            pii_category: extension.categories_of(change),
            termination: match &change.expires_at {
                Some(end) => format!("ends at {end}, or earlier when it is withdrawn"),
                None => "ends when it is withdrawn".to_owned(),
            },
            third_party_disclosure: disclosure,
            third_party_name: recipients
                .filter(|names| !names.is_empty())
                .map(|names| names.join(", ")),
            channel: &change.channel,
        }
    };
    given(extension, facts).filter(is_of).map(purpose).collect()
}

/// The sensitive data categories of all given consents, once each; none if a controller did not say which
/// categories are sensitive.
fn sensitive_categories<'a>(extension: &'a Extension, facts: &Facts) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    for change in given(extension, facts) {
        let categories = extension.categories_of(change);
        for category in extension.sensitive_among(extension.purpose_of(change), categories)? {
            if !found.contains(&category) {
                found.push(category);
            }
        }
    }
    let is_said = |party: &Named<'_>| party.sensitive_categories.is_some();
    extension.controllers().iter().all(is_said).then_some(found)
}

/// Explicit only if the actor speaks for the data subject and the method is recorded. Otherwise it is
/// not known.
fn consent_type(facts: &Facts) -> Option<&'static str> {
    let is_recorded = !facts.evidence.method.is_empty();
    (is_recorded && facts.act.actor.speaks_for_subject()).then_some("EXPLICIT")
}

fn processing<'a>(
    extension: &'a Extension,
    facts: &'a Facts,
    jurisdiction: Vec<&'a str>,
) -> Processing<'a> {
    let covered = extension.purposes.iter().flat_map(|text| {
        let coverages = coverages(extension, text);
        coverages.into_iter().map(|coverage| processing_purpose(extension, text, coverage))
    });
    Processing {
        privacy_notice: privacy_notice(facts),
        language: &facts.evidence.language,
        purposes: covered.collect(),
        collection_method: collection_method(facts),
        jurisdiction,
        recipient_third_parties: extension.recipients(),
    }
}

fn processing_purpose<'a>(
    extension: &'a Extension,
    text: &'a PurposeText,
    coverage: Coverage<'a>,
) -> ProcessingPurpose<'a> {
    let information = |category: &'a String| PiiInformation {
        pii_type: category,
        sensitive_pii_category: extension
            .sensitive_among(Some(text), std::slice::from_ref(category))
            .map(|sensitive| !sensitive.is_empty()),
    };
    ProcessingPurpose {
        purpose: if text.title.is_empty() { &text.key } else { &text.title },
        purpose_type: &text.key,
        purpose_description: &text.description,
        lawful_basis: lawful_basis(text.legal_basis),
        pii_information: coverage.categories.iter().map(information).collect(),
        pii_controllers: [extension.controller_of(Some(text)).id],
        channels: coverage.channels,
    }
}

/// The data categories that an act is about in one version of a purpose, and over which channels.
struct Coverage<'a> {
    categories: &'a [String],
    channels: Vec<&'a str>,
}

/// What the grants of a version cover, or its stops if the act has no grant of it. Grants that are
/// narrowed to different categories stand apart.
fn coverages<'a>(extension: &'a Extension, text: &'a PurposeText) -> Vec<Coverage<'a>> {
    let declared = Coverage { categories: &text.data_categories, channels: Vec::new() };
    let is_about_it =
        |change: &&Change| extension.purpose_of(change).is_some_and(|other| other == text);
    let changes: Vec<&Change> = extension.changes.iter().filter(is_about_it).collect();
    let is_grant = |change: &&Change| change.purpose_version.is_some();
    let has_grant = changes.iter().any(is_grant);
    let mut coverages: Vec<Coverage<'a>> = Vec::new();
    for change in changes.into_iter().filter(|change| !has_grant || is_grant(change)) {
        let categories = extension.categories_of(change);
        match coverages.iter_mut().find(|coverage| coverage.categories == categories) {
            Some(coverage) => coverage.channels.push(&change.channel),
            None => coverages.push(Coverage { categories, channels: vec![&change.channel] }),
        }
    }
    if coverages.is_empty() { vec![declared] } else { coverages }
}

/// The notice that was shown. Today's privacy policy may differ from it.
fn privacy_notice(facts: &Facts) -> Option<String> {
    match (facts.evidence.notice_id.as_str(), facts.evidence.notice_version.as_str()) {
        ("", _) => None,
        (id, "") => Some(id.to_owned()),
        (id, version) => Some(format!("{id}@{version}")),
    }
}

fn events<'a>(extension: &'a Extension, facts: &'a Facts) -> Vec<Event<'a>> {
    let event = |(change, record): (&'a Change, &ChangeRecord)| Event {
        event_time: &extension.effective_at,
        event_type: &change.action,
        event_state: event_state(record, facts.act.actor),
        validity_duration: record.expires_at.map(|end| {
            let span_s = end.0.saturating_sub(facts.act.effective_at.0).div_euclid(1_000);
            format!("PT{}S", span_s.max(0))
        }),
        entity_id: representative(facts)
            .map_or(&extension.actor, |authority| &authority.representative),
        purpose: &change.purpose,
        channel: &change.channel,
    };
    extension.changes.iter().zip(&facts.act.changes).map(event).collect()
}

/// The state that the event itself led to, at its time.
fn event_state(record: &ChangeRecord, actor: Actor) -> &'static str {
    match (record.action.stop_kind(actor), record.outcome) {
        (Some(StopKind::Refused), _) => "refused",
        (Some(StopKind::Withdrawn), _) => "withdrawn",
        (Some(StopKind::Revoked), _) => "revoked",
        (Some(StopKind::Objected), _) => "objected",
        (None, Outcome::Applied) => "given",
        (None, Outcome::PendingConfirmation) => "requested",
        (None, _) => "without effect",
    }
}

fn lawful_basis(basis: LegalBasis) -> &'static str {
    match basis {
        LegalBasis::Consent => "consent",
        LegalBasis::Contract => "contract",
        LegalBasis::LegalObligation => "legal obligation",
        LegalBasis::VitalInterest => "vital interest",
        LegalBasis::PublicTask => "public task",
        LegalBasis::LegitimateInterest => "legitimate interest",
    }
}
