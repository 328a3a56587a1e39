//! Receipts of every kind of act, and every way in which one can be worth nothing.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use super::*;
use crate::{
    domain::{
        Action, Authority, Body, Catalog, ChannelPut, ConfirmationOffer, ConsentAct,
        ConsentConfirmed, ContactChange, Door, IdempotencyMark, Key, LegalBasis, Outcome,
        PurposePut, PurposeVersion, ScopeKeys, SubjectRef,
    },
    entry::{Content, Names, evidence_to_message},
    format::{
        Reference,
        entry::{Body as SealedBody, Entry},
        keys::{
            ledger::LedgerSecret,
            person::{IdentityKey, PersonKeys},
        },
        seal::OneTimeKey,
        slot::{self, Draft},
    },
    ledger::{FORMAT_VERSION as LEDGER_FORMAT, LEVEL},
    proto::ledger::Record,
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::Algorithm,
        merkle::{Hash, Range},
        policy::Witness,
        proof::TlogProof,
    },
};

const LEDGER_ID: [u8; 16] = *b"0123456789abcdef";
const ORIGIN: &str = "consent.example.org/eu";
/// 2026-10-26T06:13:20.250Z.
const AT: Millis = Millis(1_792_995_200_250);
const SUBJECT: &str = "user:42";

fn signer() -> SignerKey {
    SignerKey::from_seed(ORIGIN, Algorithm::Note, &[7; 32]).unwrap()
}

fn witness() -> SignerKey {
    SignerKey::from_seed("witness.example.net", Algorithm::Cosignature, &[8; 32]).unwrap()
}

fn of_witness() -> Policy {
    let key = witness().verifier().clone();
    Policy::any_of(1, vec![Witness { name: "W".to_owned(), key, url: None }]).unwrap()
}

fn scope(purpose: &str, channel: &str) -> ScopeKeys {
    let key = |text: &str| (text != "*").then(|| Key::parse(text).unwrap());
    ScopeKeys { purpose: key(purpose).map(Into::into), channel: key(channel) }
}

fn change(action: Action, purpose: &str, channel: &str, outcome: Outcome) -> ChangeRecord {
    ChangeRecord {
        action,
        scope: scope(purpose, channel),
        purpose_version: if action == Action::Grant { 2 } else { 0 },
        expires_at: (action == Action::Grant).then(|| AT.plus_ms(86_400_000)),
        data_categories: Vec::new(),
        outcome,
        linked_subjects: 0,
    }
}

fn evidence() -> Evidence {
    Evidence {
        touchpoint: "onboarding".to_owned(),
        notice_id: "privacy-notice".to_owned(),
        notice_version: "2026-05".to_owned(),
        language: "de-DE".to_owned(),
        notice_hash: vec![0xab; 32],
        method: "checkbox".to_owned(),
        ip_address: "192.0.2.7".to_owned(),
        user_agent: "Browser/1".to_owned(),
        attributes: [("screen".to_owned(), "2".to_owned())].into(),
        authority: None,
        unreadable: std::collections::BTreeMap::new(),
        subject_given: String::new(),
        effective_at_given: None,
    }
}

fn acme() -> PartyText {
    PartyText {
        key: "acme".to_owned(),
        version: 3,
        index: 1,
        name: "Example AG".to_owned(),
        contact: "Data Protection Officer".to_owned(),
        address: "Example Street 1, 10115 Berlin".to_owned(),
        email: "dpo@example.org".to_owned(),
        phone: "+49 30 123456".to_owned(),
        url: "https://example.org".to_owned(),
        privacy_policy_url: "https://example.org/privacy".to_owned(),
        jurisdictions: vec!["DE".to_owned(), "US-CA".to_owned()],
        sensitive_categories: Some(vec!["user.health".to_owned()]),
    }
}

/// A party of which the catalogue has no more than the name.
fn named(key: &str, name: &str) -> PartyText {
    PartyText {
        key: key.to_owned(),
        version: 1,
        index: 0,
        name: name.to_owned(),
        contact: String::new(),
        address: String::new(),
        email: String::new(),
        phone: String::new(),
        url: String::new(),
        privacy_policy_url: String::new(),
        jurisdictions: Vec::new(),
        sensitive_categories: None,
    }
}

fn parties(controllers: &[&str], parties: Vec<PartyText>) -> StatedParties {
    let controllers = controllers.iter().map(ToString::to_string).collect();
    StatedParties { controllers, parties }
}

fn newsletter() -> PurposeText {
    PurposeText {
        number: 1,
        key: "marketing.newsletter".to_owned(),
        version: 2,
        index: 2,
        title: "Newsletter".to_owned(),
        description: "News about our products, once a week".to_owned(),
        legal_basis: LegalBasis::Consent,
        data_categories: vec!["user.contact.email".to_owned(), "user.name".to_owned()],
        controller: Some("acme".to_owned()),
        recipients: Some(vec!["mailer".to_owned()]),
    }
}

fn act(actor: Actor, changes: Vec<ChangeRecord>) -> ConsentAct {
    ConsentAct {
        subject_ref: SubjectRef([9; 16]),
        actor,
        effective_at: AT,
        changes,
        door: Door::Call,
        import: None,
        idempotency: Some(IdempotencyMark { key_hash: [1; 16], request_digest: [2; 16] }),
        authority_ends_at: None,
        confirmation: None,
        contact: ContactChange::default(),
    }
}

/// A proof that an entry is in a ledger of others.
fn proof(index: u64, bytes: &[u8], size: u64) -> TlogProof {
    let leaf = |at: u64| if at == index { leaf_hash(bytes) } else { leaf_hash(&at.to_be_bytes()) };
    let subtree = |level: u32, at: u64| -> Result<Hash, ()> {
        let mut range = Range::empty(0);
        (at << level..(at + 1) << level).for_each(|at| range.push(leaf(at)));
        Ok(range.root().unwrap())
    };
    let root = crate::tlog::merkle::root(size, subtree).unwrap();
    let path = crate::tlog::merkle::prove_inclusion(index, size, subtree).unwrap();
    let checkpoint =
        Checkpoint { origin: ORIGIN.to_owned(), size, root, extensions: String::new() };
    let mut checkpoint = SignedCheckpoint::sign(checkpoint, &signer()).unwrap();
    checkpoint.note.sign(&witness(), 1_793_000_000);
    TlogProof { extra: None, index, path, checkpoint }
}

/// The channels of the catalogue.
const CHANNELS: [&str; 3] = ["email", "sms", "post"];

fn catalog() -> Catalog {
    let newsletter = newsletter();
    let content = PurposeVersion {
        title: newsletter.title,
        description: newsletter.description,
        legal_basis: newsletter.legal_basis,
        basis_by_region: std::collections::BTreeMap::new(),
        data_categories: newsletter.data_categories,
        default_validity_ms: None,
        double_opt_in: false,
        obligations: Vec::new(),
        controller: None,
        recipients: None,
    };
    let (oldest_compatible, retired) = (1, false);
    let mut catalog = Catalog::default();
    for key in [newsletter.key.as_str(), "ads", "stats"] {
        let (key, content) = (Key::parse(key).unwrap(), content.clone());
        catalog.put_purpose(1, PurposePut { key, version: 1, content, oldest_compatible, retired });
    }
    for channel in CHANNELS {
        let key = Key::parse(channel).unwrap();
        catalog.put_channel(ChannelPut { key, title: String::new(), retired });
    }
    catalog
}

fn reference_of(index: u64) -> Reference {
    let mut reference = [0xee; 16];
    reference[..8].copy_from_slice(&index.to_be_bytes());
    reference
}

/// The keys of the data subject, the same in every receipt.
fn keys() -> PersonKeys {
    PersonKeys::random(&mut StdRng::seed_from_u64(5))
}

/// The first entry of the data subject, sealed with the same random bytes each time.
fn sealed(record: Record, evidence: Option<&Evidence>) -> SealedBody {
    let draft = Draft {
        keys: &keys(),
        number: 0,
        identity: SUBJECT,
        record: Record { recorded_ms: 250, ..record },
        evidence: evidence.map(evidence_to_message),
        peer: None,
    };
    let mut rng = StdRng::seed_from_u64(6);
    let (persons, _) = slot::seal_persons(LEDGER_ID, 5, &[draft], None, &mut rng).unwrap();
    SealedBody::Persons(persons)
}

fn stated(body: &Body, evidence: Option<&Evidence>) -> Statement {
    let index = 5;
    let changes = body.kind().receipt().map_or_else(Vec::new, |act| act.changes.to_vec());
    let catalog = catalog();
    let names = Names {
        index,
        catalog: &catalog,
        reference_of: &|_: SubjectRef, index| Ok(reference_of(index)),
    };
    let body = match body.kind().content(&names).unwrap() {
        Content::Persons(mut records) => sealed(*records.remove(0).1, evidence),
        Content::Clear(body) => body,
        other => panic!("{other:?}"),
    };
    let (record_key, evidence_key) = match &body {
        SealedBody::Persons(persons) => {
            let slot = &persons.slots[0];
            let leaf = keys().evidence.leaf(0).unwrap();
            let evidence_key = OneTimeKey::derive(&leaf, &slot.salt);
            (slot::record_key(&keys().records(), slot), Some(evidence_key))
        }
        _ => (OneTimeKey::from_slice(&[0; 32]).unwrap(), None),
    };
    let clear = LedgerSecret::new(crate::format::secret::Key::new([1; 32])).confidential().clear;
    let recorded_at_s = AT.plus_ms(1_000).0.div_euclid(1_000);
    let entry = Entry::new(index, [3; 32], recorded_at_s, body, &clear).encode();
    let channel = |(number, key): (u32, &str)| ChannelText { number, key: key.to_owned() };
    let used = |change: &ChangeRecord, key: &str| {
        change.scope.channel.as_ref().is_some_and(|channel| channel.as_str() == key)
    };
    let is_used = |(_, key): &(u32, &str)| changes.iter().any(|change| used(change, key));
    Statement {
        format_version: FORMAT_VERSION,
        ledger_id: LEDGER_ID,
        proof: proof(index, &entry, 11),
        slot: 0,
        record_key,
        evidence_key,
        subject: SUBJECT.to_owned(),
        identity_key: Some(keys().identity()),
        issued_at: AT.plus_ms(60_000),
        parties: parties(&["acme"], vec![acme(), named("mailer", "Mailer GmbH")]),
        purposes: vec![newsletter()],
        channels: (1..).zip(CHANNELS).filter(is_used).map(channel).collect(),
        entry,
    }
}

/// A grant, and a refusal, in one act.
fn mixed() -> Statement {
    let changes = vec![
        change(Action::Grant, "marketing.newsletter", "email", Outcome::Applied),
        change(Action::Refuse, "marketing.newsletter", "sms", Outcome::Applied),
    ];
    let act = Body::Act(act(Actor::Subject, changes));
    stated(&act, Some(&evidence()))
}

fn id_of(statement: &Statement) -> String {
    receipt_id(&statement.record_key.reference())
}

fn issued(statement: &Statement, format: Format) -> Issued {
    issue(statement, format, &signer()).unwrap()
}

fn verified(receipt: &str) -> Result<Receipt, ReceiptError> {
    verify(receipt, signer().verifier(), &of_witness())
}

fn json_of(statement: &Statement, format: Format) -> Value {
    let issued = issued(statement, format);
    let receipt = verified(&issued.receipt).unwrap();
    assert_eq!((receipt.format, &receipt.payload), (format, &issued.payload));
    serde_json::from_str(&issued.payload).unwrap()
}

/// Another payload, signed as it should be.
fn forged(payload: &Value) -> String {
    jws::Signer::from_seed(&signer().seed(), TYPE).sign(payload.to_string().as_bytes())
}

fn grant_only(outcome: Outcome, actor: Actor) -> Statement {
    let grant = change(Action::Grant, "marketing.newsletter", "email", outcome);
    stated(&Body::Act(act(actor, vec![grant])), None)
}

#[test]
fn a_receipt_says_what_was_given_and_what_was_refused() {
    let payload = json_of(&mixed(), Format::ConsentReceipt);
    let id = id_of(&mixed());
    for (field, wanted) in [
        ("/version", json!("KI-CR-v1.1.0")),
        ("/jurisdiction", json!("DE, US-CA")),
        ("/consentTimestamp", json!(1_792_995_200)),
        ("/collectionMethod", json!("onboarding: checkbox")),
        ("/consentReceiptID", json!(id)),
        ("/publicKey", json!(signer().verifier().to_string())),
        ("/language", json!("de-DE")),
        ("/piiPrincipalId", json!("user:42")),
        ("/piiControllers/0/piiController", json!("Example AG")),
        ("/piiControllers/0/address/streetAddress", json!("Example Street 1, 10115 Berlin")),
        ("/policyUrl", json!("https://example.org/privacy")),
        ("/services/0/purposes/0/purpose", json!("Newsletter")),
        ("/services/0/purposes/0/consentType", json!("EXPLICIT")),
        ("/services/0/purposes/0/piiCategory", json!(["user.contact.email", "user.name"])),
        ("/services/0/purposes/0/channel", json!("email")),
        ("/services/0/purposes/0/thirdPartyDisclosure", json!(true)),
        ("/services/0/purposes/0/thirdPartyName", json!("Mailer GmbH")),
        ("/sensitive", json!(false)),
        ("/spiCat", json!([])),
        ("/schema_version", json!("ISO/IEC TS 27560:2023")),
        ("/record_id", json!("consent.example.org/eu/5")),
        ("/pii_processing/privacy_notice", json!("privacy-notice@2026-05")),
        ("/pii_processing/purposes/0/lawful_basis", json!("consent")),
        ("/party_identification/0/party_role", json!("PII controller")),
        ("/party_identification/0/party_id", json!("acme")),
        ("/party_identification/1/party_role", json!("recipient")),
        ("/pii_processing/purposes/0/pii_controllers", json!(["acme"])),
        ("/pii_processing/recipient_third_parties", json!(["Mailer GmbH"])),
        ("/consent_ledger/parties/0/version", json!(3)),
        ("/events/0/event_state", json!("given")),
        ("/events/0/validity_duration", json!("PT86400S")),
        ("/events/1/event_state", json!("refused")),
        ("/consent_ledger/changes/0/purpose_version", json!(2)),
        ("/consent_ledger/changes/0/termination/kind", json!("EXPIRY")),
        ("/consent_ledger/changes/1/refusal/at", json!("2026-10-26T06:13:20.250Z")),
        (
            "/consent_ledger/channels",
            json!([{"number": 1, "key": "email"}, {"number": 2, "key": "sms"}]),
        ),
        ("/consent_ledger/evidence/ip_address", json!("192.0.2.7")),
        ("/consent_ledger/recorded_at", json!("2026-10-26T06:13:21.250Z")),
    ] {
        assert_eq!(payload.pointer(field), Some(&wanted), "{field}");
    }
    assert_eq!(payload.pointer("/services/0/purposes").unwrap().as_array().unwrap().len(), 1);
    for word in ["valid\"", "current", "status"] {
        assert!(!payload.to_string().contains(word), "nothing that can change: {word}");
    }
}

#[test]
fn json_ld_names_every_term_in_its_context() {
    let payload = json_of(&mixed(), Format::Dpv);
    for (field, wanted) in [
        ("/@type", json!("dpv:ConsentRecord")),
        ("/@id", json!(format!("urn:uuid:{}", id_of(&mixed())))),
        ("/@context/dpv", json!("https://w3id.org/dpv#")),
        ("/@context/consent_ledger/@type", json!("@json")),
        ("/dct:created/@value", json!("2026-10-26T06:13:21.250Z")),
        ("/dpv:hasDataSubject/dct:identifier", json!("user:42")),
        ("/dpv:hasDataController/dpv:hasName", json!("Example AG")),
        ("/dpv:hasJurisdiction/1/@id", json!("loc:US-CA")),
        ("/dpv:hasNotice/dct:hasVersion", json!("2026-05")),
        ("/dpv:hasProcess/0/dpv:hasLegalBasis/@id", json!("eu-gdpr:A6-1-a")),
        ("/dpv:hasProcess/0/dpv:hasConsentStatus/@id", json!("dpv:ConsentGiven")),
        ("/dpv:hasProcess/0/dpv:hasPersonalData/1/dct:title", json!("user.name")),
        ("/dpv:hasProcess/0/dpv:hasDuration/rdf:value/@value", json!("2026-10-27T06:13:20.250Z")),
        ("/dpv:hasProcess/1/dpv:hasConsentStatus/@id", json!("dpv:ConsentRefused")),
        ("/dpv:hasProcess/1/ledger:channel", json!("sms")),
    ] {
        assert_eq!(payload.pointer(field), Some(&wanted), "{field}");
    }
    // Only one of its cells is superseded, so the receipt does not claim to be replaced.
    assert!(payload.get("dct:replaces").is_none());
    let context = payload["@context"].as_object().unwrap();
    let mut open = vec![&payload];
    while let Some(node) = open.pop() {
        match node {
            Value::Array(nodes) => open.extend(nodes),
            Value::Object(members) => {
                for (name, value) in members {
                    let known = name.starts_with('@')
                        || context.contains_key(name.split(':').next().unwrap());
                    assert!(known, "{name}");
                    if !["@context", "consent_ledger"].contains(&name.as_str()) {
                        open.push(value);
                    }
                }
            }
            _ => {}
        }
    }
}

#[test]
fn the_same_act_makes_the_same_receipt() {
    for format in [Format::ConsentReceipt, Format::Dpv] {
        let first = issued(&mixed(), format);
        let again = verified(&first.receipt).unwrap().statement;
        assert_eq!(issued(&again, format), first);
    }
}

#[test]
fn a_receipt_says_when_it_was_made() {
    let original = json_of(&mixed(), Format::ConsentReceipt);
    assert_eq!(original["consent_ledger"]["issued_at"], "2026-10-26T06:14:20.250Z");
    let dpv = json_of(&mixed(), Format::Dpv);
    assert_eq!(dpv["dct:issued"]["@value"], "2026-10-26T06:14:20.250Z");
    let later = Statement { issued_at: AT.plus_ms(120_000), ..mixed() };
    let later = issued(&later, Format::ConsentReceipt);
    assert_ne!(later.receipt, issued(&mixed(), Format::ConsentReceipt).receipt);
    let read = verified(&later.receipt).unwrap();
    assert_eq!(read.statement.issued_at, AT.plus_ms(120_000));
    for (lie, name) in [
        ("2026-10-26T06:14:20.2501Z", "DISAGREES"),
        ("2026-10-26T08:14:20.250+02:00", "DISAGREES"),
        ("yesterday", "MALFORMED_PAYLOAD"),
    ] {
        let mut payload = original.clone();
        payload["consent_ledger"]["issued_at"] = json!(lie);
        assert_eq!(verified(&forged(&payload)).unwrap_err().name(), name, "{lie}");
    }
}

#[test]
fn only_recorded_facts_are_asserted() {
    let issued_with = |evidence: Option<&Evidence>| {
        let grant = change(Action::Grant, "marketing.newsletter", "email", Outcome::Applied);
        let body = Body::Act(act(Actor::Subject, vec![grant]));
        let statement = stated(&body, evidence);
        let payload = json_of(&statement, Format::ConsentReceipt);
        let missing = issued(&statement, Format::ConsentReceipt).missing_fields;
        let dpv = json_of(&statement, Format::Dpv);
        (payload, dpv, missing, issued(&statement, Format::Dpv).missing_fields)
    };
    let no_method = Evidence { method: String::new(), ..evidence() };
    let (payload, _, missing, _) = issued_with(Some(&no_method));
    assert!(payload["services"][0]["purposes"][0].get("consentType").is_none());
    assert_eq!(missing, ["services[].purposes[].consentType"]);
    let no_notice = Evidence {
        notice_id: String::new(),
        notice_version: String::new(),
        notice_hash: Vec::new(),
        ..evidence()
    };
    let (payload, dpv, missing, missing_in_dpv) = issued_with(Some(&no_notice));
    assert_eq!(payload["policyUrl"], "https://example.org/privacy");
    assert!(payload["pii_processing"].get("privacy_notice").is_none());
    assert!(dpv.get("dpv:hasNotice").is_none());
    assert_eq!(missing, ["pii_processing.privacy_notice"]);
    assert_eq!(missing_in_dpv, ["dpv:hasNotice"]);
    let (payload, dpv, missing, _) = issued_with(None);
    assert!(payload["services"][0]["purposes"][0].get("consentType").is_none());
    assert!(dpv.get("dpv:hasNotice").is_none());
    assert!(missing.contains(&"services[].purposes[].consentType".to_owned()), "{missing:?}");
    // A notice that was shown is not the policy of today.
    assert!(json_of(&mixed(), Format::Dpv)["dpv:hasNotice"].get("dct:source").is_none());
}

#[test]
fn no_receipt_is_longer_than_its_verifier_takes() {
    let mut statement = mixed();
    statement.purposes[0].data_categories = vec!["user.contact.email".to_owned(); 10_000];
    for format in [Format::ConsentReceipt, Format::Dpv] {
        match issue(&statement, format, &signer()) {
            Ok(short) => drop(verified(&short.receipt).unwrap()),
            Err(error) => assert_eq!(error.name(), "TOO_LONG"),
        }
    }
    let refused = issue(&statement, Format::ConsentReceipt, &signer()).unwrap_err();
    let ReceiptError::TooLong { bytes } = refused else { panic!("{refused}") };
    assert!(bytes > RECEIPT_BYTES_MAX);
}

#[test]
fn only_grants_that_count_are_consents() {
    for (outcome, given, state, status) in [
        (Outcome::Applied, 1, "given", Some("dpv:ConsentGiven")),
        (Outcome::PendingConfirmation, 0, "requested", Some("dpv:ConsentRequested")),
        (Outcome::BlockedByStop(Some(3)), 0, "without effect", None),
        (Outcome::SupersededByLater(Some(4)), 0, "without effect", None),
        (Outcome::NoEffect, 0, "without effect", None),
    ] {
        let statement = grant_only(outcome, Actor::Subject);
        let payload = json_of(&statement, Format::ConsentReceipt);
        assert_eq!(
            payload["services"][0]["purposes"].as_array().unwrap().len(),
            given,
            "{outcome:?}"
        );
        assert_eq!(payload["events"][0]["event_state"], state);
        assert_eq!(
            payload["consent_ledger"]["changes"][0].get("cause").and_then(Value::as_str),
            outcome.cause_index().map(|index| receipt_id(&reference_of(index))).as_deref()
        );
        let payload = json_of(&statement, Format::Dpv);
        let stated_status = payload.pointer("/dpv:hasProcess/0/dpv:hasConsentStatus/@id");
        assert_eq!(stated_status.and_then(Value::as_str), status, "{outcome:?}");
    }
}

#[test]
fn stops_end_what_they_cover() {
    for (action, actor, kind, state) in [
        (Action::Withdraw, Actor::Subject, "WITHDRAWAL", "withdrawn"),
        (Action::Withdraw, Actor::Operator, "REVOCATION", "revoked"),
        (Action::Object, Actor::Subject, "OBJECTION", "objected"),
    ] {
        let stop = change(action, "*", "*", Outcome::Applied);
        let mut statement = stated(&Body::Act(act(actor, vec![stop])), Some(&evidence()));
        statement.purposes.clear();
        statement.parties = parties(&["acme"], vec![acme()]);
        let payload = json_of(&statement, Format::ConsentReceipt);
        let change = &payload["consent_ledger"]["changes"][0];
        assert_eq!((&change["purpose"], &change["channel"]), (&json!("*"), &json!("*")));
        assert_eq!(change["termination"], json!({"kind": kind, "at": "2026-10-26T06:13:20.250Z"}));
        assert_eq!(payload["events"][0]["event_state"], state);
        assert_eq!(payload["services"][0]["purposes"], json!([]));
        let payload = json_of(&statement, Format::Dpv);
        let right = payload.pointer("/dpv:hasProcess/0/dpv:hasRight/@id");
        assert_eq!(right.is_some(), action == Action::Object);
    }
}

#[test]
fn a_guardian_and_their_authority_are_named() {
    let mut guardian_act = act(
        Actor::Guardian,
        vec![change(Action::Grant, "marketing.newsletter", "email", Outcome::Applied)],
    );
    guardian_act.authority_ends_at = Some(AT.plus_ms(5_000));
    let evidence = Evidence {
        authority: Some(Authority {
            relationship: "parent".to_owned(),
            representative: "user:7".to_owned(),
            proof: String::new(),
            ends_at: Some(AT.plus_ms(5_000)),
        }),
        ..evidence()
    };
    let statement = stated(&Body::Act(guardian_act), Some(&evidence));
    let payload = json_of(&statement, Format::ConsentReceipt);
    let extension = &payload["consent_ledger"];
    assert_eq!(extension["actor"], "GUARDIAN");
    assert_eq!(extension["authority_ends_at"], "2026-10-26T06:13:25.250Z");
    assert_eq!(extension["evidence"]["authority"]["relationship"], "parent");
    let payload = json_of(&statement, Format::Dpv);
    let by = payload.pointer("/dpv:hasProcess/0/dpv:isIndicatedBy/@id").unwrap();
    assert_eq!(by, "dpv:GuardianOfDataSubject");
}

#[test]
fn a_double_opt_in_has_two_receipts_and_the_second_names_the_first() {
    let pending = Outcome::PendingConfirmation;
    let grant = change(Action::Grant, "marketing.newsletter", "email", pending);
    let mut request = act(Actor::Subject, vec![grant.clone()]);
    let expires_at = AT.plus_ms(60_000);
    request.confirmation =
        Some(ConfirmationOffer { nonce: [3; 16], token_hash: [4; 32], expires_at });
    let request = json_of(&stated(&Body::Act(request), None), Format::ConsentReceipt);
    assert_eq!(request["consent_ledger"]["confirm_until"], "2026-10-26T06:14:20.250Z");
    let confirmed = ConsentConfirmed {
        subject_ref: SubjectRef([9; 16]),
        request_index: 4,
        requested_by: Actor::Subject,
        requested_at: AT,
        authority_ends_at: None,
        effective_at: AT.plus_ms(30_000),
        grants: vec![ChangeRecord { outcome: Outcome::Applied, ..grant }],
        idempotency: None,
    };
    let statement = stated(&Body::Confirmed(confirmed), Some(&evidence()));
    let payload = json_of(&statement, Format::ConsentReceipt);
    assert_eq!(payload["consent_ledger"]["kind"], "CONFIRMATION");
    assert_eq!(payload["consent_ledger"]["confirms"]["receipt_id"], receipt_id(&reference_of(4)));
    assert_eq!(payload["consentTimestamp"], 1_792_995_230);
    assert_eq!(payload["services"][0]["purposes"].as_array().unwrap().len(), 1);
}

#[test]
fn sensitive_data_is_named() {
    let mut statement = mixed();
    let sensitive_categories = Some(vec!["user.contact".to_owned()]);
    statement.parties = parties(&["acme"], vec![PartyText { sensitive_categories, ..acme() }]);
    statement.purposes[0].recipients = Some(Vec::new());
    let payload = json_of(&statement, Format::ConsentReceipt);
    assert_eq!(
        (&payload["sensitive"], &payload["spiCat"]),
        (&json!(true), &json!(["user.contact.email"]))
    );
    let purpose = &payload["services"][0]["purposes"][0];
    assert_eq!(purpose["thirdPartyDisclosure"], false);
    assert!(purpose.get("thirdPartyName").is_none());
    let data = &payload["pii_processing"]["purposes"][0]["pii_information"];
    assert_eq!(data[0]["sensitive_pii_category"], true);
    let payload = json_of(&statement, Format::Dpv);
    let data = &payload["dpv:hasProcess"][0]["dpv:hasPersonalData"];
    assert_eq!(data[0]["@type"], "dpv:SensitivePersonalData");
    assert_eq!(data[1]["@type"], "dpv:PersonalData");
}

#[test]
fn each_purpose_has_its_controller_and_its_recipients() {
    let grant = |purpose: &str| change(Action::Grant, purpose, "email", Outcome::Applied);
    let changes = vec![grant("marketing.newsletter"), grant("ads"), grant("stats")];
    let mut statement = stated(&Body::Act(act(Actor::Subject, changes)), None);
    let text = |number, key: &str, controller: Option<&str>, recipients: Option<Vec<String>>| {
        let controller = controller.map(str::to_owned);
        PurposeText { number, key: key.to_owned(), controller, recipients, ..newsletter() }
    };
    statement
        .purposes
        .extend([text(2, "ads", Some("ads-gmbh"), Some(Vec::new())), text(3, "stats", None, None)]);
    let ads = PartyText { jurisdictions: vec!["AT".to_owned()], ..named("ads-gmbh", "Ads GmbH") };
    statement.parties =
        parties(&["acme", "ads-gmbh"], vec![acme(), ads, named("mailer", "Mailer GmbH")]);
    let payload = json_of(&statement, Format::ConsentReceipt);
    let names: Vec<_> = payload["piiControllers"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 3);
    for (at, (name, purpose)) in
        [("Example AG", "marketing.newsletter"), ("Ads GmbH", "ads"), (ORIGIN, "stats")]
            .into_iter()
            .enumerate()
    {
        assert_eq!(names[at]["piiController"], name);
        let service = &payload["services"][at];
        assert_eq!(service["service"], name);
        assert_eq!(service["purposes"].as_array().unwrap().len(), 1);
        assert_eq!(service["purposes"][0]["purposeCategory"], json!([purpose]));
    }
    assert_eq!(payload["services"][0]["purposes"][0]["thirdPartyName"], "Mailer GmbH");
    assert_eq!(payload["services"][1]["purposes"][0]["thirdPartyDisclosure"], false);
    let unsaid = &payload["services"][2]["purposes"][0];
    assert!(unsaid.get("thirdPartyDisclosure").is_none());
    assert_eq!(payload["jurisdiction"], "DE, US-CA, AT");
    assert!(payload.get("sensitive").is_none(), "only one controller says what is sensitive");
    let processed = &payload["pii_processing"]["purposes"];
    assert_eq!(processed[1]["pii_controllers"], json!(["ads-gmbh"]));
    let dpv = json_of(&statement, Format::Dpv);
    assert_eq!(dpv["dpv:hasDataController"].as_array().unwrap().len(), 3);
    assert_eq!(dpv["dpv:hasRecipientThirdParty"].as_array().unwrap().len(), 1);
    let missing = issued(&statement, Format::ConsentReceipt).missing_fields;
    assert!(missing.contains(&"piiControllers[].email".to_owned()), "{missing:?}");
}

#[test]
fn fields_that_were_not_given_are_left_out_and_listed() {
    let mut statement = grant_only(Outcome::Applied, Actor::Import);
    statement.parties = parties(&[], Vec::new());
    statement.purposes[0].controller = None;
    statement.purposes[0].recipients = None;
    let receipt = issued(&statement, Format::ConsentReceipt);
    let payload = json_of(&statement, Format::ConsentReceipt);
    assert_eq!(payload["piiControllers"], json!([{ "piiController": ORIGIN }]));
    for field in ["jurisdiction", "policyUrl", "collectionMethod", "language", "sensitive"] {
        assert!(payload.get(field).is_none(), "{field}");
    }
    assert_eq!(
        receipt.missing_fields,
        [
            "jurisdiction",
            "collectionMethod",
            "piiControllers[].piiController",
            "piiControllers[].contact",
            "piiControllers[].address",
            "piiControllers[].email",
            "piiControllers[].phone",
            "policyUrl",
            "services[].purposes[].consentType",
            "services[].purposes[].thirdPartyDisclosure",
            "sensitive",
            "spiCat",
            "pii_processing.privacy_notice",
        ]
    );
    assert_eq!(issued(&statement, Format::Dpv).missing_fields.len(), 6);
    assert!(issued(&mixed(), Format::ConsentReceipt).missing_fields.is_empty());
    assert!(issued(&mixed(), Format::Dpv).missing_fields.is_empty());
}

#[test]
fn other_entries_have_no_receipt() {
    let mut only_contact = act(Actor::Subject, Vec::new());
    only_contact.contact.language = crate::domain::Said::Value("de".to_owned());
    let opened = Body::Opened(crate::domain::LedgerOpened {
        ledger_id: LEDGER_ID,
        origin: ORIGIN.to_owned(),
        format_version: LEDGER_FORMAT,
        created_at: AT,
        feature_level: LEVEL,
    });
    for body in [opened, Body::Act(only_contact)] {
        let refused = issue(&stated(&body, None), Format::Dpv, &signer()).unwrap_err();
        assert_eq!((refused.name(), refused), ("NOT_AN_ACT", ReceiptError::NotAnAct { index: 5 }));
    }
}

#[test]
fn the_holder_sees_what_was_shown_and_how_it_is_proved() {
    let receipt = verified(&issued(&mixed(), Format::ConsentReceipt).receipt).unwrap();
    assert_eq!(receipt.evidence, evidence());
    assert_eq!((receipt.index, receipt.tree_size()), (5, 11));
    assert_eq!(receipt.cosigners, [("witness.example.net".to_owned(), 1_793_000_000)]);
    assert_eq!((receipt.actor, receipt.effective_at), (Actor::Subject, AT));
    assert_eq!(receipt.changes.len(), 2);
    let printed = format!("{receipt:?}");
    assert!(!printed.contains("Browser"), "evidence is not printed");
}

#[test]
fn every_changed_byte_is_refused() {
    let receipt = issued(&grant_only(Outcome::Applied, Actor::Subject), Format::Dpv).receipt;
    for at in 0..receipt.len() {
        let mut bytes = receipt.clone().into_bytes();
        bytes[at] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else { continue };
        assert!(verified(&changed).is_err(), "byte {at}");
    }
    for cut in [1, receipt.len() / 2, receipt.len() - 1] {
        assert!(verified(&receipt[..cut]).is_err() && verified(&receipt[cut..]).is_err());
    }
}

#[test]
fn other_keys_types_and_policies_are_refused() {
    let receipt = issued(&mixed(), Format::ConsentReceipt).receipt;
    let other = SignerKey::from_seed(ORIGIN, Algorithm::Note, &[6; 32]).unwrap();
    let name = |result: Result<Receipt, ReceiptError>| result.unwrap_err().name();
    assert_eq!(name(verify(&receipt, other.verifier(), &Policy::none())), "UNKNOWN_KEY");
    let renamed = SignerKey::from_seed("other.example", Algorithm::Note, &[7; 32]).unwrap();
    assert_eq!(name(verify(&receipt, renamed.verifier(), &Policy::none())), "BAD_PROOF");
    let unknown = SignerKey::from_seed("w2.example", Algorithm::Cosignature, &[3; 32]).unwrap();
    let key = unknown.verifier().clone();
    let strict = Policy::any_of(1, vec![Witness { name: "W".into(), key, url: None }]).unwrap();
    assert_eq!(name(verify(&receipt, signer().verifier(), &strict)), "TOO_FEW_WITNESSES");
    let payload = issued(&mixed(), Format::ConsentReceipt).payload;
    let token = jws::Signer::from_seed(&signer().seed(), "consent-decision+jwt");
    assert_eq!(name(verified(&token.sign(payload.as_bytes()))), "WRONG_TYPE");
    assert_eq!(name(verified(&"a".repeat(RECEIPT_BYTES_MAX + 1))), "MALFORMED");
}

/// Even a holder of the key can not misstate an act: the entry contradicts it.
#[test]
fn a_signed_lie_is_named() {
    let good = json_of(&mixed(), Format::ConsentReceipt);
    let extension = |field: &str| format!("/consent_ledger/{field}");
    for (field, lie, name) in [
        (extension("index"), json!(6), "DISAGREES"),
        (extension("recorded_at"), json!("2026-10-26T06:13:22.250Z"), "DISAGREES"),
        (extension("effective_at"), json!("2026-10-26T06:13:22.250Z"), "DISAGREES"),
        (extension("actor"), json!("AGENT"), "DISAGREES"),
        (extension("kind"), json!("CONFIRMATION"), "DISAGREES"),
        (extension("ledger"), json!("other.example"), "DISAGREES"),
        (extension("changes/0/action"), json!("REFUSE"), "DISAGREES"),
        (extension("changes/0/channel"), json!("phone"), "DISAGREES"),
        (extension("changes/0/purpose"), json!("other"), "DISAGREES"),
        (extension("changes/0/purpose_version"), json!(1), "DISAGREES"),
        (extension("changes/0/outcome"), json!("NO_EFFECT"), "DISAGREES"),
        (extension("changes/0/expires_at"), json!("2036-10-26T06:13:22.250Z"), "DISAGREES"),
        (extension("changes/1/refusal/at"), json!(""), "DISAGREES"),
        (extension("evidence/notice_version"), json!("2026-06"), "DISAGREES"),
        (extension("receipt_id"), json!("x"), "DISAGREES"),
        ("/consentTimestamp".to_owned(), json!(1), "DISAGREES"),
        ("/services/0/purposes/0/channel".to_owned(), json!("sms"), "DISAGREES"),
        ("/events/1/event_state".to_owned(), json!("given"), "DISAGREES"),
        ("/consentReceiptID".to_owned(), json!("x"), "DISAGREES"),
        (extension("format_version"), json!(2), "UNKNOWN_VERSION"),
        (extension("parties/1/key"), json!("other"), "DISAGREES"),
        (extension("controllers/0"), json!("mailer"), "DISAGREES"),
        (extension("purposes/0/controller"), json!("mailer"), "DISAGREES"),
        (extension("entry"), json!("AAAA"), "BAD_ENTRY"),
        (extension("proof"), json!("c2sp.org/tlog-proof@v2\n"), "BAD_PROOF"),
        (extension("ledger_id"), json!("ab"), "MALFORMED_PAYLOAD"),
        (extension("ledger_id"), json!("00".repeat(16)), "BAD_ENTRY"),
        (extension("slot"), json!(1), "BAD_ENTRY"),
        (extension("record_key"), json!(BASE64_STANDARD.encode([1; 32])), "BAD_ENTRY"),
        (extension("record_key"), json!("AAAA"), "MALFORMED_PAYLOAD"),
        (extension("identity_key"), json!(BASE64_STANDARD.encode([1; 32])), "BAD_IDENTITY"),
        (extension("subject"), json!("user:43"), "BAD_IDENTITY"),
        (extension("channels/0/number"), json!(9), "BAD_ENTRY"),
        (extension("evidence_key"), json!(BASE64_STANDARD.encode([1; 32])), "BAD_EVIDENCE"),
        ("/consent_ledger".to_owned(), json!({}), "MALFORMED_PAYLOAD"),
    ] {
        let mut payload = good.clone();
        *payload.pointer_mut(&field).unwrap_or_else(|| panic!("{field}")) = lie;
        let refused = verified(&forged(&payload)).unwrap_err();
        assert_eq!(refused.name(), name, "{field}: {refused}");
        if let ReceiptError::Disagrees { field: disputed } = refused {
            assert!(!disputed.is_empty(), "{field}");
        }
    }
    let mut more = good.clone();
    more["valid"] = json!(true);
    let refused = verified(&forged(&more)).unwrap_err();
    assert_eq!(refused, ReceiptError::Disagrees { field: "/valid".to_owned() });
}

/// Fields that do not follow from the entry are checked for consistency.
#[test]
fn references_must_point_to_entries_before_the_act() {
    let name = |statement: &Statement| {
        verified(&issued(statement, Format::ConsentReceipt).receipt).unwrap_err().to_string()
    };
    let purpose = PurposeText { index: 6, ..newsletter() };
    assert!(name(&Statement { purposes: vec![purpose], ..mixed() }).contains("purposes"));
    let purpose = PurposeText { number: 2, key: "other".to_owned(), ..newsletter() };
    let purposes = vec![newsletter(), purpose];
    assert!(name(&Statement { purposes, ..mixed() }).contains("purposes"));
    let channel = ChannelText { number: 3, key: "post".to_owned() };
    let mut more = mixed();
    more.channels.push(channel);
    assert!(name(&more).contains("channels"));
    for (wrong, why) in [
        (parties(&["acme"], vec![acme()]), "the recipient is missing"),
        (parties(&[], vec![acme(), named("mailer", "")]), "the controller is no controller"),
        (parties(&["acme"], vec![named("mailer", ""), acme()]), "not in the order of the keys"),
        (
            parties(&["acme"], vec![acme(), PartyText { index: 5, ..named("mailer", "") }]),
            "not in the catalogue before the act",
        ),
        (
            parties(&["acme"], vec![acme(), named("mailer", ""), named("other", "")]),
            "nobody names it",
        ),
    ] {
        let statement = Statement { parties: wrong, ..mixed() };
        assert!(name(&statement).contains("/consent_ledger/parties"), "{why}");
    }
    let mut moved = mixed();
    moved.proof.index = 4;
    assert!(name(&moved).contains("prove"));
    let mut extra = mixed();
    extra.proof.extra = Some(vec![1]);
    assert!(name(&extra).contains("/consent_ledger/proof"));
}

#[test]
fn only_the_keys_of_the_slot_open_it() {
    let refused = |spoil: fn(&mut Statement)| {
        let mut statement = mixed();
        spoil(&mut statement);
        issue(&statement, Format::Dpv, &signer()).unwrap_err().name()
    };
    assert_eq!(refused(|it| it.evidence_key = OneTimeKey::from_slice(&[1; 32])), "BAD_EVIDENCE");
    assert_eq!(
        refused(|it| it.record_key = OneTimeKey::from_slice(&[1; 32]).unwrap()),
        "BAD_ENTRY"
    );
    assert_eq!(refused(|it| it.identity_key = None), "BAD_IDENTITY");
    assert_eq!(refused(|it| it.identity_key = IdentityKey::from_slice(&[1; 32])), "BAD_IDENTITY");
}

/// Retention may have forgotten the key of the evidence.
#[test]
fn a_receipt_without_the_key_of_its_evidence_says_nothing_of_it() {
    let statement = Statement { evidence_key: None, ..mixed() };
    let payload = json_of(&statement, Format::ConsentReceipt);
    assert!(payload["consent_ledger"].get("evidence").is_none());
    assert!(payload["consent_ledger"].get("evidence_key").is_none());
}

#[test]
fn the_identifier_is_the_reference_of_the_record_as_a_uuid() {
    let id = receipt_id(&[0xab; 16]);
    assert_eq!(id, "abababab-abab-abab-abab-abababababab");
}

/// Version, format, file and content of receipts that were issued once.
const FIXTURES: [(u32, Format, &str, &str); 2] = [
    (
        3,
        Format::ConsentReceipt,
        "receipt_v3.jws",
        include_str!("../../../../tests/fixtures/receipt_v3.jws"),
    ),
    (
        3,
        Format::Dpv,
        "receipt_v3_dpv.jws",
        include_str!("../../../../tests/fixtures/receipt_v3_dpv.jws"),
    ),
];

/// Receipts live for years: one of every version still verifies, and is reproduced byte for byte.
#[test]
fn receipts_of_every_version_stay_good() {
    for (version, format, name, golden) in FIXTURES {
        let golden = golden.trim();
        let receipt = verified(golden).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((receipt.statement.format_version, receipt.format), (version, format), "{name}");
        assert!(receipt.evidence.authority.is_some(), "{name}");
        let again = issued(&receipt.statement, format);
        assert_eq!(again.receipt, golden, "{name}");
    }
}

#[test]
#[ignore = "writes the fixtures anew"]
fn write_fixtures() {
    // Those of older versions stay as they were issued.
    for (_, format, name, _) in
        FIXTURES.into_iter().filter(|(version, ..)| *version == FORMAT_VERSION)
    {
        let path = format!("{}/../../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, issued(&narrowed_by_staff(), format).receipt + "\n").unwrap();
    }
}

/// Staff records a grant that is narrowed for email, a whole one for SMS, and a stop for post.
fn narrowed_by_staff() -> Statement {
    let mut narrowed = change(Action::Grant, "marketing.newsletter", "email", Outcome::Applied);
    narrowed.data_categories = vec!["user.name".to_owned()];
    let whole = change(Action::Grant, "marketing.newsletter", "sms", Outcome::Applied);
    let stop = change(Action::Withdraw, "marketing.newsletter", "post", Outcome::Applied);
    let authority = Authority {
        relationship: "call-centre".to_owned(),
        representative: "staff:114".to_owned(),
        proof: String::new(),
        ends_at: None,
    };
    let evidence = Evidence { authority: Some(authority), ..evidence() };
    let act = Body::Act(act(Actor::Agent, vec![narrowed, whole, stop]));
    stated(&act, Some(&evidence))
}

#[test]
fn only_covered_categories_are_listed_as_processed_and_staff_is_a_party() {
    let payload = json_of(&narrowed_by_staff(), Format::ConsentReceipt);
    let processed: Vec<(Value, Vec<&Value>)> = payload["pii_processing"]["purposes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|purpose| {
            let information = purpose["pii_information"].as_array().unwrap();
            (purpose["channels"].clone(), information.iter().map(|one| &one["pii_type"]).collect())
        })
        .collect();
    let (email, name) = (json!("user.contact.email"), json!("user.name"));
    assert_eq!(processed, [(json!(["email"]), vec![&name]), (json!(["sms"]), vec![&email, &name])]);
    let party = &payload["party_identification"][2];
    assert_eq!(
        (&party["party_id"], &party["party_role"]),
        (&json!("staff:114"), &json!("call-centre"))
    );
    let events = payload["events"].as_array().unwrap();
    assert!(events.iter().all(|event| event["entity_id"] == "staff:114"), "{events:?}");
    let payload = json_of(&narrowed_by_staff(), Format::Dpv);
    assert_eq!(payload["ledger:representative"]["dct:identifier"], "staff:114");
    let data =
        |at: usize| payload["dpv:hasProcess"][at]["dpv:hasPersonalData"].as_array().unwrap().len();
    assert_eq!((data(0), data(1)), (1, 2));

    // An act that only stops is about all that the purpose declares.
    let stop = change(Action::Withdraw, "marketing.newsletter", "email", Outcome::Applied);
    let stop = stated(&Body::Act(act(Actor::Subject, vec![stop])), None);
    let payload = json_of(&stop, Format::ConsentReceipt);
    let purposes = payload["pii_processing"]["purposes"].as_array().unwrap();
    assert_eq!(purposes.len(), 1);
    assert_eq!(purposes[0]["pii_information"].as_array().unwrap().len(), 2);
    assert_eq!(payload["events"][0]["entity_id"], "SUBJECT");
}

proptest! {
    #[test]
    fn changed_receipts_never_panic_or_pass(at: prop::sample::Index, byte: u8) {
        let receipt = issued(&mixed(), Format::ConsentReceipt).receipt;
        let mut bytes = receipt.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(text) = String::from_utf8(bytes) {
            prop_assert_eq!(verified(&text).is_ok(), text == receipt);
        }
    }

    #[test]
    fn changed_payloads_never_panic_or_pass(at: prop::sample::Index, byte in 0x20u8..0x7f) {
        let payload = issued(&mixed(), Format::Dpv).payload;
        let mut bytes = payload.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let signer = jws::Signer::from_seed(&signer().seed(), TYPE);
        let receipt = verified(&signer.sign(&bytes));
        if bytes == payload.as_bytes() {
            prop_assert!(receipt.is_ok());
        } else if let Ok(receipt) = receipt {
            // Accepted changes are to fields that only the ledger vouches for: names, texts,
            // addresses.
            prop_assert_eq!(receipt.index, 5);
            prop_assert_eq!(receipt.evidence, evidence());
        }
    }

    #[test]
    fn arbitrary_text_is_refused_without_panic(
        text in "\\PC{0,200}", json in "[\\[\\]{}\",:a-z0-9@_]{0,200}",
    ) {
        prop_assert!(verified(&text).is_err());
        let signer = jws::Signer::from_seed(&signer().seed(), TYPE);
        prop_assert!(verified(&signer.sign(text.as_bytes())).is_err());
        prop_assert!(verified(&signer.sign(json.as_bytes())).is_err());
    }
}
