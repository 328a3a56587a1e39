//! The payload with the fields of Kantara Consent Receipt v1.1 (section 4) and of ISO/IEC TS
//! 27560:2023 (clause 6), side by side. Names do not collide: the first has the form
//! `consentReceiptID`, the second `record_id`.
//!
//! `services` lists only the consents that were given: a grant that waits, that a stop blocks or that
//! a later act supersedes gave no consent. `events` lists every change.

use serde::Serialize;

use super::{
    Controller, PurposeText,
    extension::{Change, Extension, Facts},
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
    controllers: [PiiController<'a>; 1],
    #[serde(rename = "policyUrl", skip_serializing_if = "Option::is_none")]
    policy_url: Option<&'a str>,
    services: [Service<'a>; 1],
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
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    jurisdiction: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_third_parties: Option<&'a [String]>,
}

#[derive(Serialize)]
struct ProcessingPurpose<'a> {
    purpose: &'a str,
    purpose_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    purpose_description: &'a str,
    lawful_basis: &'static str,
    pii_information: Vec<PiiInformation<'a>>,
    pii_controllers: [&'static str; 1],
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

/// Party of `party_identification` that every purpose names.
const CONTROLLER: &str = "controller";

pub(super) fn payload(extension: &Extension, facts: &Facts, key: &VerifierKey) -> String {
    let controller = &extension.controller;
    let name = controller.name.as_deref().unwrap_or(key.name());
    let jurisdictions = &controller.jurisdictions;
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
        controllers: [PiiController {
            name,
            contact: controller.contact.as_deref(),
            address: controller.address.as_deref().map(|street_address| Address { street_address }),
            email: controller.email.as_deref(),
            phone: controller.phone.as_deref(),
            url: controller.url.as_deref(),
        }],
        policy_url: controller.privacy_policy_url.as_deref(),
        services: [Service { service: name, purposes: purposes(extension, facts) }],
        sensitive: sensitive.as_ref().map(|categories| !categories.is_empty()),
        sensitive_categories: sensitive,
        schema_version: SCHEMA_VERSION,
        record_id: format!("{}/{}", key.name(), extension.index),
        pii_principal_id: &extension.subject,
        pii_processing: processing(extension, facts),
        party_identification: parties(extension, facts, name),
        events: events(extension, facts),
        consent_ledger: extension,
    };
    serde_json::to_string(&receipt).expect("texts and numbers always have a JSON form")
}

/// The controller, and whoever acted for the data subject.
fn parties<'a>(extension: &'a Extension, facts: &'a Facts, name: &'a str) -> Vec<Party<'a>> {
    let controller = &extension.controller;
    let controller = Party {
        party_id: CONTROLLER,
        party_name: name,
        party_role: "PII controller",
        party_contact: controller.contact.as_deref(),
        party_address: controller.address.as_deref(),
        party_email: controller.email.as_deref(),
        party_phone: controller.phone.as_deref(),
        party_url: controller.url.as_deref(),
    };
    let representative = representative(facts).map(|authority| Party {
        party_id: &authority.representative,
        party_name: &authority.representative,
        party_role: &authority.relationship,
        party_contact: None,
        party_address: None,
        party_email: None,
        party_phone: None,
        party_url: None,
    });
    std::iter::once(controller).chain(representative).collect()
}

/// By whom and by what right the data subject was represented, if the evidence names them.
pub(super) fn representative(facts: &Facts) -> Option<&Authority> {
    let authority = facts.evidence.authority.as_ref();
    authority.filter(|authority| !authority.representative.is_empty())
}

/// Fields that one of the standards requires and that the ledger was not given.
pub(super) fn missing_fields(controller: &Controller, facts: &Facts) -> Vec<String> {
    let some_given = facts.act.changes.iter().any(gives_consent);
    let no_type = some_given && consent_type(facts).is_none();
    let no_disclosure = some_given && controller.third_parties.is_none();
    let no_sensitive = controller.sensitive_categories.is_none();
    [
        ("jurisdiction", controller.jurisdictions.is_empty()),
        ("collectionMethod", collection_method(facts).is_none()),
        ("piiControllers[].piiController", controller.name.is_none()),
        ("piiControllers[].contact", controller.contact.is_none()),
        ("piiControllers[].address", controller.address.is_none()),
        ("piiControllers[].email", controller.email.is_none()),
        ("piiControllers[].phone", controller.phone.is_none()),
        ("policyUrl", controller.privacy_policy_url.is_none()),
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

fn purposes<'a>(extension: &'a Extension, facts: &Facts) -> Vec<Purpose<'a>> {
    let parties = extension.controller.third_parties.as_ref();
    let purpose = |change: &'a Change| Purpose {
        purpose: title(extension, change),
        category: [&change.purpose],
        consent_type: consent_type(facts),
        pii_category: extension.categories_of(change),
        termination: match &change.expires_at {
            Some(end) => format!("ends at {end}, or earlier when it is withdrawn"),
            None => "ends when it is withdrawn".to_owned(),
        },
        third_party_disclosure: parties.map(|parties| !parties.is_empty()),
        third_party_name: parties
            .filter(|parties| !parties.is_empty())
            .map(|parties| parties.join(", ")),
        channel: &change.channel,
    };
    given(extension, facts).map(purpose).collect()
}

/// The sensitive data categories of all given consents, once each; none if the controller did not say
/// which categories are sensitive.
fn sensitive_categories<'a>(extension: &'a Extension, facts: &Facts) -> Option<Vec<&'a str>> {
    let mut found = Vec::new();
    for change in given(extension, facts) {
        for category in extension.controller.sensitive_among(extension.categories_of(change))? {
            if !found.contains(&category) {
                found.push(category);
            }
        }
    }
    extension.controller.sensitive_categories.is_some().then_some(found)
}

/// Explicit only if the actor speaks for the data subject and the method is recorded. Otherwise it is
/// not known.
fn consent_type(facts: &Facts) -> Option<&'static str> {
    let is_recorded = !facts.evidence.method.is_empty();
    (is_recorded && facts.act.actor.speaks_for_subject()).then_some("EXPLICIT")
}

fn processing<'a>(extension: &'a Extension, facts: &'a Facts) -> Processing<'a> {
    let covered = extension.purposes.iter().flat_map(|text| {
        let coverages = coverages(extension, text);
        coverages.into_iter().map(|coverage| processing_purpose(extension, text, coverage))
    });
    Processing {
        privacy_notice: privacy_notice(facts),
        language: &facts.evidence.language,
        purposes: covered.collect(),
        collection_method: collection_method(facts),
        jurisdiction: &extension.controller.jurisdictions,
        recipient_third_parties: extension.controller.third_parties.as_deref(),
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
            .controller
            .sensitive_among(std::slice::from_ref(category))
            .map(|sensitive| !sensitive.is_empty()),
    };
    ProcessingPurpose {
        purpose: if text.title.is_empty() { &text.key } else { &text.title },
        purpose_type: &text.key,
        purpose_description: &text.description,
        lawful_basis: lawful_basis(text.legal_basis),
        pii_information: coverage.categories.iter().map(information).collect(),
        pii_controllers: [CONTROLLER],
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
