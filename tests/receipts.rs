//! Receipts from a real server, verified by the command line and, independently, with Ed25519,
//! SHA-256, BLAKE3, AES-256-GCM, JSON and base64 alone; only the messages are ours.

use std::path::Path;

use aes_gcm::{
    Aes256Gcm, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use consent_ledger::proto::{
    self, Action, GetReceiptRequest, GetReceiptResponse, Outcome, ReceiptFormat,
    get_receipt_request::Act,
    ledger::{Entry, Record, Slot, entry},
};
use ed25519_dalek::{Signature, VerifyingKey};
use prost::Message as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::support::{
    self, Clients, Server, TypedError, act, change, consent_purpose, now_ms, timestamp, typed,
};

const NEWS: &str = "marketing.newsletter";
const SUBJECT: &str = "user:42";
const FLAGS: [&str; 1] = ["--checkpoint-interval=50ms"];

/// The controller of all purposes.
fn controller() -> proto::Party {
    proto::Party {
        key: "acme".to_owned(),
        roles: vec![proto::PartyRole::Controller.into()],
        name: "Example AG".to_owned(),
        contact: "Data Protection Officer".to_owned(),
        address: "Example Street 1, 10115 Berlin".to_owned(),
        email: "dpo@example.org".to_owned(),
        phone: "+49 30 123456".to_owned(),
        url: "https://example.org".to_owned(),
        privacy_policy_url: "https://example.org/privacy".to_owned(),
        jurisdictions: vec!["DE".to_owned()],
        sensitive_categories: Some(proto::SensitiveCategories {
            data_categories: vec!["user.health".to_owned()],
        }),
        ..proto::Party::default()
    }
}

struct World {
    dir: TempDir,
    server: Server,
    clients: Clients,
    key: String,
}

impl World {
    async fn new() -> Self {
        Self::with(&FLAGS, Some(controller())).await
    }

    async fn with(flags: &[&str], controller: Option<proto::Party>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), flags);
        let mut clients = server.clients_with_catalog(&[], &["email", "sms"]).await;
        let controller_key = controller.as_ref().map(|party| party.key.clone()).unwrap_or_default();
        let recipients = controller.is_some().then(|| proto::Recipients { parties: Vec::new() });
        if let Some(party) = controller {
            clients.put_party(party).await;
        }
        for (key, double_opt_in) in [(NEWS, false), ("doi", true)] {
            let purpose = proto::Purpose {
                title: format!("About {key}"),
                description: "What we do".to_owned(),
                data_categories: vec!["user.contact.email".to_owned()],
                double_opt_in,
                controller: controller_key.clone(),
                recipients: recipients.clone(),
                ..consent_purpose(key)
            };
            clients.put_purpose(purpose).await;
        }
        let key = server.printed("verifier key ").unwrap();
        Self { dir, server, clients, key }
    }

    async fn record(
        &mut self,
        request: proto::RecordConsentRequest,
    ) -> proto::RecordConsentResponse {
        self.clients.record(request).await
    }

    async fn ask(&mut self, request: GetReceiptRequest) -> Result<GetReceiptResponse, Status> {
        self.clients.audit.get_receipt(request).await.map(tonic::Response::into_inner)
    }

    /// The payload of the receipt of an entry, verified in both ways.
    async fn payload(&mut self, index: u64, format: ReceiptFormat) -> Value {
        let request = GetReceiptRequest { format: format.into(), ..of(index) };
        let answer = self.ask(request).await.unwrap();
        assert_eq!(answer.index, index);
        let payload = verified_payload(&answer.receipt, &self.key);
        assert_eq!(serde_json::from_str::<Value>(&answer.payload).unwrap(), payload);
        let verified = self.verify(&answer.receipt, &[]).expect_code(0).json();
        assert_eq!((&verified["index"], &verified["subject"]), (&json!(index), &json!(SUBJECT)));
        payload
    }

    fn verify(&self, receipt: &str, more: &[&str]) -> support::Finished {
        verify(self.dir.path(), receipt, &self.key, more)
    }
}

fn verify(dir: &Path, receipt: &str, key: &str, more: &[&str]) -> support::Finished {
    let file = dir.join("receipt.jws");
    std::fs::write(&file, receipt).unwrap();
    let path = file.to_str().unwrap().to_owned();
    let command = ["verify-receipt", &path, "--json", "--key", key];
    support::run(command.iter().chain(more))
}

fn of(index: u64) -> GetReceiptRequest {
    GetReceiptRequest { act: Some(Act::Index(index)), ..GetReceiptRequest::default() }
}

fn evidence() -> proto::Evidence {
    proto::Evidence {
        touchpoint: "onboarding".to_owned(),
        notice_id: "privacy-notice".to_owned(),
        notice_version: "2026-05".to_owned(),
        language: "de-DE".to_owned(),
        method: "checkbox".to_owned(),
        ip_address: "192.0.2.7".to_owned(),
        ..proto::Evidence::default()
    }
}

/// The payload of a receipt, after its signature, proof, checkpoint and entry were verified.
fn verified_payload(receipt: &str, verifier_key: &str) -> Value {
    let (origin, rest) = verifier_key.split_once('+').unwrap();
    let (key_id, key) = rest.split_once('+').unwrap();
    let key = BASE64_STANDARD.decode(key).unwrap();
    assert_eq!((key[0], key.len()), (1, 33), "a key of signed notes, Ed25519");
    let public = VerifyingKey::from_bytes(key[1..].try_into().unwrap()).unwrap();

    let parts: Vec<&str> = receipt.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("{receipt}") };
    let signature: [u8; 64] = BASE64.decode(signature).unwrap().try_into().unwrap();
    let signed = format!("{header}.{payload}");
    public.verify_strict(signed.as_bytes(), &Signature::from_bytes(&signature)).unwrap();
    let header: Value = serde_json::from_slice(&BASE64.decode(header).unwrap()).unwrap();
    let x = BASE64.encode(&key[1..]);
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    let kid = BASE64.encode(Sha256::digest(jwk));
    assert_eq!(header, json!({"alg": "EdDSA", "typ": "consent-receipt+json", "kid": kid}));

    let payload: Value = serde_json::from_slice(&BASE64.decode(payload).unwrap()).unwrap();
    let extension = &payload["consent_ledger"];
    let text = |field: &str| extension[field].as_str().unwrap().to_owned();
    let bytes = BASE64_STANDARD.decode(text("entry")).unwrap();
    assert_eq!(text("ledger"), origin);
    check_proof(&text("proof"), &bytes, &public, (origin, key_id));
    check_entry(extension, &bytes);
    payload
}

/// C2SP tlog-proof, RFC 6962 section 2.1.1 and C2SP signed-note.
fn check_proof(proof: &str, entry: &[u8], key: &VerifyingKey, (origin, key_id): (&str, &str)) {
    let (head, note) = proof.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
    let index = lines.next().and_then(|line| line.strip_prefix("index ")).unwrap();
    let mut index: u64 = index.parse().unwrap();
    let (text, signatures) = note.split_once("\n\n").unwrap();
    let text = format!("{text}\n");
    let fields: Vec<&str> = text.lines().collect();
    assert_eq!(fields[0], origin);
    let mut last = fields[1].parse::<u64>().unwrap() - 1;

    let mut hash = Sha256::new().chain_update([0]).chain_update(entry).finalize();
    for step in lines {
        let step = BASE64_STANDARD.decode(step).unwrap();
        let node = |left: &[u8], right: &[u8]| {
            Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize()
        };
        if index & 1 == 1 || index == last {
            hash = node(&step, &hash);
            while index & 1 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, &step);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    assert_eq!((BASE64_STANDARD.encode(hash).as_str(), last), (fields[2], 0));

    let signature_prefix = format!("\u{2014} {origin} ");
    let signature =
        signatures.lines().find_map(|line| line.strip_prefix(&signature_prefix)).unwrap();
    let signature = BASE64_STANDARD.decode(signature).unwrap();
    let id = support::hex(&signature[..4]);
    assert_eq!(id, key_id);
    let signature = Signature::from_bytes(signature[4..].try_into().unwrap());
    key.verify_strict(text.as_bytes(), &signature).unwrap();
}

/// Opens a part of a slot with its one-time key, by the document of the format.
fn opened(extension: &Value, key: &str, entry: &Entry, slot: &Slot, part: u8) -> Vec<u8> {
    let key = BASE64_STANDARD.decode(extension[key].as_str().unwrap()).unwrap();
    let key: [u8; 32] = key.try_into().unwrap();
    let ledger_id = extension["ledger_id"].as_str().unwrap();
    let digit = |at: usize| u8::from_str_radix(&ledger_id[2 * at..2 * at + 2], 16).unwrap();
    let ledger_id: Vec<u8> = (0..16).map(digit).collect();
    let (index, item) = (entry.index.to_le_bytes(), [0; 4]);
    let aad = [b"consent-ledger v2\0", &ledger_id[..], &index, &slot.tag, &[part], &item].concat();
    let ciphertext = if part == 1 { &slot.record } else { &slot.evidence };
    let payload = Payload { msg: ciphertext, aad: &aad };
    let text = Aes256Gcm::new(&key.into()).decrypt(&Nonce::default(), payload).unwrap();
    let length = (aad.len() as u64).to_le_bytes();
    let committed = [&key, &length[..], &aad, &text].concat();
    let commitment = blake3::derive_key("consent-ledger v2 commitment", &committed);
    let stored = if part == 1 { &slot.record_commit } else { &slot.evidence_commit };
    assert_eq!(*stored, commitment);
    let length = usize::from(u16::from_le_bytes([text[0], text[1]]));
    assert!(text[2 + length..].iter().all(|byte| *byte == 0));
    text[2..2 + length].to_vec()
}

/// Compares the extension with the entry.
fn check_entry(extension: &Value, bytes: &[u8]) {
    let entry = Entry::decode(bytes).unwrap();
    assert_eq!(extension["index"], entry.index);
    let Some(entry::Body::Persons(persons)) = &entry.body else { panic!("{entry:?}") };
    let slot = &persons.slots[usize::try_from(extension["slot"].as_u64().unwrap()).unwrap()];
    let record = Record::decode(&*opened(extension, "record_key", &entry, slot, 1)).unwrap();
    let evidence = opened(extension, "evidence_key", &entry, slot, 2);
    assert_eq!(extension.get("evidence").is_some(), !evidence.is_empty());
    let is_first = !record.identity_commit.is_empty();
    assert_eq!(extension.get("identity_key").is_some(), is_first);
    if is_first {
        let key = BASE64_STANDARD.decode(extension["identity_key"].as_str().unwrap()).unwrap();
        let subject = extension["subject"].as_str().unwrap().as_bytes();
        let text = [&key, subject].concat();
        let wanted = blake3::derive_key("consent-ledger v2 identity commitment", &text);
        assert_eq!(record.identity_commit, wanted);
    }
    let (changes, actor) = (record.changes.clone(), record.actor());
    let key_of = |list: &str, number: u32| {
        let texts = extension[list].as_array().unwrap();
        let text = texts.iter().find(|text| text["number"] == number);
        text.map_or_else(|| json!("*"), |text| text["key"].clone())
    };
    assert_eq!(extension["actor"], actor.as_str_name().trim_start_matches("ACTOR_"));
    let listed = extension["changes"].as_array().unwrap();
    assert_eq!(listed.len(), changes.len());
    for (listed_change, change) in listed.iter().zip(changes) {
        assert_eq!(
            listed_change["action"],
            change.action().as_str_name().trim_start_matches("ACTION_")
        );
        assert_eq!(listed_change["purpose"], key_of("purposes", change.purpose));
        assert_eq!(listed_change["channel"], key_of("channels", change.channel));
        assert_eq!(
            listed_change["outcome"],
            change.outcome().as_str_name().trim_start_matches("OUTCOME_")
        );
    }
}

/// The identifier of a receipt, by its definition.
fn receipt_id(payload: &Value) -> String {
    let key = payload["consent_ledger"]["record_key"].as_str().unwrap();
    let key = BASE64_STANDARD.decode(key).unwrap();
    let reference = blake3::derive_key("consent-ledger v2 reference", &key);
    let hex = support::hex(&reference[..16]);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_proves_a_consent_and_its_withdrawal() {
    let mut world = World::new().await;
    let mut both = act(
        SUBJECT,
        vec![change(Action::Grant, NEWS, "email"), change(Action::Refuse, NEWS, "sms")],
    );
    both.evidence = Some(evidence());
    both.idempotency_key = "signup-42".to_owned();
    both.changes[0].expires_at = Some(timestamp(now_ms() + 86_400_000));
    let given = world.record(both).await.index;
    let payload = world.payload(given, ReceiptFormat::Unspecified).await;
    for (field, wanted) in [
        ("/version", json!("KI-CR-v1.1.0")),
        ("/piiPrincipalId", json!(SUBJECT)),
        ("/piiControllers/0/email", json!("dpo@example.org")),
        ("/jurisdiction", json!("DE")),
        ("/sensitive", json!(false)),
        ("/services/0/purposes/0/thirdPartyDisclosure", json!(false)),
        ("/language", json!("de-DE")),
        ("/collectionMethod", json!("onboarding: checkbox")),
        ("/services/0/purposes/0/purpose", json!(format!("About {NEWS}"))),
        ("/services/0/purposes/0/piiCategory", json!(["user.contact.email"])),
        ("/pii_processing/privacy_notice", json!("privacy-notice@2026-05")),
        ("/events/1/event_state", json!("refused")),
        ("/consent_ledger/evidence/ip_address", json!("192.0.2.7")),
        ("/consent_ledger/changes/1/channel", json!("sms")),
        ("/consent_ledger/purposes/0/version", json!(1)),
        ("/consentReceiptID", json!(receipt_id(&payload))),
    ] {
        assert_eq!(payload.pointer(field), Some(&wanted), "{field}");
    }
    assert!(payload.pointer("/consent_ledger/changes/1/refusal").is_some());

    let stop = change(Action::Withdraw, NEWS, "email");
    let taken_back = world.record(act(SUBJECT, vec![stop])).await.index;
    let payload = world.payload(taken_back, ReceiptFormat::ConsentReceipt).await;
    let change = &payload["consent_ledger"]["changes"][0];
    assert_eq!(change["termination"]["kind"], "WITHDRAWAL");
    assert!(!payload.to_string().contains("supersedes"), "it names no other act");
    assert_eq!(payload["services"][0]["purposes"], json!([]));
    let payload = world.payload(taken_back, ReceiptFormat::Dpv).await;
    let status = payload.pointer("/dpv:hasProcess/0/dpv:hasConsentStatus/@id").unwrap();
    assert_eq!(status, "dpv:ConsentWithdrawn");
    assert!(payload.get("dct:replaces").is_none());

    // The receipt of the first act stays the same after the withdrawal.
    let again = world.payload(given, ReceiptFormat::ConsentReceipt).await;
    assert_eq!(again["events"][0]["event_state"], "given");
    let request = GetReceiptRequest {
        act: Some(Act::IdempotencyKey("signup-42".to_owned())),
        subject: SUBJECT.to_owned(),
        format: ReceiptFormat::Dpv.into(),
    };
    let first = world.ask(request.clone()).await.unwrap();
    assert_eq!(first.index, given);
    assert!(first.missing_fields.is_empty());
    let timeless = |answer: &GetReceiptResponse| {
        let mut payload: Value = serde_json::from_str(&answer.payload).unwrap();
        let issued_at = payload["consent_ledger"]["issued_at"].take();
        assert_eq!(payload["dct:issued"]["@value"].take(), issued_at);
        (payload, issued_at.as_str().unwrap().to_owned())
    };
    let (first, at) = timeless(&first);
    let (again, later) = timeless(&world.ask(request).await.unwrap());
    assert_eq!(again, first, "all but the time at which it was made");
    assert!(at <= later && at.as_str() > first["dct:created"]["@value"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guardians_and_double_opt_ins_have_receipts() {
    let mut world = World::new().await;
    let mut by_guardian = act(SUBJECT, vec![change(Action::Grant, NEWS, "email")]);
    by_guardian.actor = proto::Actor::Guardian.into();
    let authority = proto::Authority {
        relationship: "parent".to_owned(),
        ends_at: Some(timestamp(now_ms() + 86_400_000)),
        ..proto::Authority::default()
    };
    by_guardian.evidence =
        Some(proto::Evidence { authority: Some(authority), ..proto::Evidence::default() });
    let index = world.record(by_guardian).await.index;
    let payload = world.payload(index, ReceiptFormat::ConsentReceipt).await;
    assert_eq!(payload["consent_ledger"]["actor"], "GUARDIAN");
    assert_eq!(payload["consent_ledger"]["evidence"]["authority"]["relationship"], "parent");
    assert!(payload["consent_ledger"]["authority_ends_at"].is_string());

    let mut by_staff = act(SUBJECT, vec![change(Action::Grant, "doi", "email")]);
    by_staff.actor = proto::Actor::Agent.into();
    let authority = proto::Authority {
        relationship: "call centre".to_owned(),
        representative: "staff:7".to_owned(),
        ..proto::Authority::default()
    };
    by_staff.evidence =
        Some(proto::Evidence { authority: Some(authority), ..proto::Evidence::default() });
    let answer = world.record(by_staff).await;
    assert_eq!(answer.results[0].outcome(), Outcome::PendingConfirmation);
    let payload = world.payload(answer.index, ReceiptFormat::ConsentReceipt).await;
    assert_eq!(payload["events"][0]["event_state"], "requested");
    let request = receipt_id(&payload);
    assert_eq!(payload["services"][0]["purposes"], json!([]), "nothing is given yet");
    assert!(payload["consent_ledger"]["confirm_until"].is_string());
    let confirm = proto::ConfirmConsentRequest {
        token: answer.confirmation.unwrap().token,
        evidence: Some(evidence()),
        ..proto::ConfirmConsentRequest::default()
    };
    let confirmed = world.clients.consent.confirm_consent(confirm).await.unwrap().into_inner();
    let payload = world.payload(confirmed.index, ReceiptFormat::ConsentReceipt).await;
    assert_eq!(payload["consent_ledger"]["kind"], "CONFIRMATION");
    let authority = &payload["consent_ledger"]["evidence"]["authority"];
    assert_eq!(authority["representative"], "staff:7", "the staff member who asked for it");
    assert_eq!(payload["consent_ledger"]["confirms"]["receipt_id"], request);
    assert_eq!(payload["services"][0]["purposes"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_without_a_receipt_give_the_reason() {
    let flags = ["--checkpoint-interval=50ms", "--checkpoint-wait=100ms"];
    let mut world = World::with(&flags, None).await;
    let mut request = act(SUBJECT, vec![change(Action::Grant, NEWS, "email")]);
    request.idempotency_key = "k".to_owned();
    let index = world.record(request).await.index;
    let by_key = |key: &str| Some(Act::IdempotencyKey(key.to_owned()));
    let other = "user:43".to_owned();
    let key = &["idempotency_key"];
    for (request, wanted) in [
        (
            GetReceiptRequest::default(),
            TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &["act"]),
        ),
        (GetReceiptRequest { format: 9, ..of(index) }, {
            TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &["format"])
        }),
        (GetReceiptRequest { subject: "42".to_owned(), ..of(index) }, {
            TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &["subject"])
        }),
        (GetReceiptRequest { subject: other, ..of(index) }, {
            TypedError::new(Code::NotFound, "ACT_UNKNOWN", &["subject"])
        }),
        (GetReceiptRequest { act: by_key("other"), subject: SUBJECT.to_owned(), format: 0 }, {
            TypedError::new(Code::NotFound, "ACT_UNKNOWN", key)
        }),
        (GetReceiptRequest { act: by_key("k"), ..of(index) }, {
            TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &["subject"])
        }),
        (of(0), TypedError::new(Code::FailedPrecondition, "NOT_AN_ACT", &["index"])),
    ] {
        let refused = world.ask(request.clone()).await.unwrap_err();
        assert_eq!(typed(&refused), wanted, "{request:?}");
    }
    let beyond = world.ask(of(1_000)).await.unwrap_err();
    assert_eq!(
        (beyond.code(), typed(&beyond).reason.as_str()),
        (Code::OutOfRange, "INDEX_OUT_OF_RANGE")
    );

    // Where the purposes name no controller, the receipt names the ledger, and the response lists the
    // missing fields.
    let answer = world.ask(of(index)).await.unwrap();
    let payload: Value = serde_json::from_str(&answer.payload).unwrap();
    assert_eq!(payload["piiControllers"][0]["piiController"], "localhost/consent");
    assert!(answer.missing_fields.contains(&"policyUrl".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_gets_and_verifies_receipts() {
    let mut world = World::new().await;
    let mut request = act(SUBJECT, vec![change(Action::Grant, NEWS, "email")]);
    request.evidence = Some(evidence());
    let index = world.record(request).await.index.to_string();
    let file = world.dir.path().join("r.jws").to_str().unwrap().to_owned();
    let vkey = world.dir.path().join("ledger.vkey");
    std::fs::write(&vkey, &world.key).unwrap();
    let vkey = format!("@{}", vkey.display());

    let got = world.server.cli(&["receipt", "--index", &index, "--output", &file]).expect_code(0);
    assert!(got.stdout.contains("written to"), "{}", got.output());
    assert!(got.stderr.is_empty(), "{}", got.output());
    let good = support::run(["verify-receipt", &file, "--key", &vkey, "--subject", SUBJECT]);
    let good = good.expect_code(0);
    for word in ["good\n", "user:42", NEWS, "Example AG", "privacy-notice@2026-05"] {
        assert!(good.stdout.contains(word), "{word}: {}", good.stdout);
    }
    let dpv = ["receipt", "--index", &index, "--format", "dpv", "--payload"];
    let dpv = world.server.cli(&dpv).expect_code(0).json();
    assert_eq!(dpv["@type"], "dpv:ConsentRecord");

    let receipt = std::fs::read_to_string(&file).unwrap();
    let receipt = receipt.trim();
    let (front, signature) = receipt.rsplit_once('.').unwrap();
    let swap = if signature.starts_with('A') { "B" } else { "A" };
    let changed = format!("{front}.{swap}{}", &signature[1..]);
    let refused = world.verify(&changed, &[]).expect_code(1);
    assert!(refused.stderr.contains("BAD_SIGNATURE"), "{}", refused.output());
    let refused = world.verify(receipt, &["--subject", "user:43"]).expect_code(1);
    assert!(refused.stderr.contains("another data subject"), "{}", refused.output());
    support::run(["verify-receipt", &file]).expect_code(2);
    world.server.cli(&["receipt"]).expect_code(2);
    let unknown = ["receipt", "--idempotency-key", "nobody", "--subject", SUBJECT];
    let unknown = world.server.cli(&unknown).expect_code(1);
    assert!(unknown.stderr.contains("ACT_UNKNOWN"), "{}", unknown.output());

    // The key of receipts verifies decision tokens too.
    let jwk = world.server.cli(&["token", "key"]).expect_code(0).json();
    let key = BASE64_STANDARD.decode(world.key.splitn(3, '+').nth(2).unwrap()).unwrap();
    assert_eq!(jwk["x"], BASE64.encode(&key[1..]));
}

/// A server with another key is another ledger: its receipts do not verify here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receipts_of_another_ledger_are_refused() {
    let mut one = World::new().await;
    let other = World::new().await;
    let index = one.record(act(SUBJECT, vec![change(Action::Grant, NEWS, "email")])).await.index;
    let receipt = one.ask(of(index)).await.unwrap().receipt;
    one.verify(&receipt, &[]).expect_code(0);
    let refused = other.verify(&receipt, &[]).expect_code(1);
    assert!(refused.stderr.contains("UNKNOWN_KEY"), "{}", refused.output());
}
