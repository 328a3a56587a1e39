//! What somebody learns who has every byte that a ledger publishes, and what a receipt or a token adds to
//! it: the built binary, over gRPC. `crates/format/tests/format/adversary.rs` asks the same of the format
//! alone; what is left over is named in `docs/format.md`.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use consent_ledger::{
    format::entry::{Body, Entry},
    proto::{self, Action, Actor, LinkConfidence, get_receipt_request::Act},
    tlog::tile::unbundle,
};
use serde_json::Value;

use crate::support::{
    self, Clients, Server, act, change, check_request, millis, now_ms, timestamp,
};

const NEWS: &str = "news";
/// It stands in every text of the test that is about a person, a use or a subscription.
const MARK: &str = "zqxv";
const HOUR_MS: i64 = 3_600_000;

fn marked(text: &str) -> String {
    format!("{MARK}-{text}")
}

/// Every byte of the ledger and of what is published of it.
fn published(data_dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let is_published = |path: &str| {
        ["ledger/", "tree/", "checkpoint.json"].iter().any(|part| path.starts_with(part))
    };
    let named = support::files(data_dir).into_iter().map(|(path, bytes)| {
        (path.strip_prefix(data_dir).unwrap().to_str().unwrap().to_owned(), bytes)
    });
    named.filter(|(path, _)| is_published(path)).collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// An unsigned number as a message holds it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

/// Acts, uses and subscriptions with every text that a caller can give.
async fn say_much(clients: &mut Clients) -> Vec<i64> {
    let person = format!("user:{}", marked("kim"));
    let ends_at = now_ms() + 400 * 24 * HOUR_MS + 1_234;
    let expires_at = now_ms() + 1_234_567;
    let mut request = act(&person, vec![change(Action::Grant, NEWS, "email")]);
    request.actor = Actor::Guardian.into();
    request.changes[0].expires_at = Some(timestamp(expires_at));
    request.idempotency_key = marked("signup");
    request.evidence = Some(proto::Evidence {
        touchpoint: marked("onboarding"),
        notice_id: marked("notice"),
        notice_version: marked("2026-05"),
        method: marked("checkbox"),
        ip_address: "203.0.113.77".to_owned(),
        user_agent: marked("browser"),
        attributes: [(format!("{MARK}_key"), marked("value"))].into(),
        authority: Some(proto::Authority {
            relationship: marked("parent"),
            representative: marked("user:7"),
            proof: marked("document"),
            ends_at: Some(timestamp(ends_at)),
        }),
        ..proto::Evidence::default()
    });
    let given = clients.record(request).await;
    let taken = clients.record_change(&person, Action::Withdraw, NEWS, "email").await;
    let other = format!("device:{}", marked("phone"));
    clients.link(&person, &other, LinkConfidence::Verified).await;
    let used = proto::RecordUseRequest {
        subject: person,
        purpose: NEWS.to_owned(),
        channel: "email".to_owned(),
        segment: marked("segment"),
        campaign: marked("campaign"),
        idempotency_key: marked("use"),
        ..proto::RecordUseRequest::default()
    };
    clients.consent.record_use(used).await.unwrap();
    clients
        .subscribe(proto::Subscription {
            name: marked("hook"),
            owner: marked("team"),
            webhook: Some(proto::Webhook {
                url: format!("https://hooks.example.com/{MARK}?token={MARK}"),
            }),
            ..proto::Subscription::default()
        })
        .await;
    let times = [&given, &taken].map(|answer| millis(answer.recorded_at.as_ref()).unwrap());
    [&times[..], &[ends_at, expires_at]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_of_a_person_a_use_or_a_subscription_is_in_no_published_byte() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let times = say_much(&mut clients).await;
    drop(clients);
    server.terminate();

    let files = published(dir.path());
    let size: usize = files.values().map(Vec::len).sum();
    assert!(size > 2_000, "{:?}", files.keys());
    for (path, bytes) in files {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        assert!(!text.contains(MARK), "{path}");
        assert!(!contains(&bytes, b"203.0.113.77"), "{path}");
        for time in &times {
            let number = varint(u64::try_from(*time).unwrap());
            assert!(!contains(&bytes, &number), "{path} holds the millisecond {time}");
        }
    }
}

/// The 16-byte windows of all bytes that a receipt holds in one encoding or another.
fn values(payload: &Value) -> HashSet<Vec<u8>> {
    let mut texts = Vec::new();
    let mut left = vec![payload];
    while let Some(value) = left.pop() {
        match value {
            Value::String(text) => texts.push(text.clone()),
            Value::Array(list) => left.extend(list),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    let unhex = |text: &str| -> Option<Vec<u8>> {
        let digits: String = text.chars().filter(|it| *it != '-').collect();
        let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        (0..digits.len()).step_by(2).map(byte).collect()
    };
    let decoded = texts.iter().flat_map(|text| {
        [BASE64_STANDARD.decode(text).ok(), BASE64_URL_SAFE_NO_PAD.decode(text).ok(), unhex(text)]
    });
    decoded
        .flatten()
        .flat_map(|bytes| bytes.windows(16).map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

async fn receipt(clients: &mut Clients, index: u64) -> HashSet<Vec<u8>> {
    let request = proto::GetReceiptRequest { act: Some(Act::Index(index)), ..Default::default() };
    let answer = clients.audit.get_receipt(request).await.unwrap().into_inner();
    values(&serde_json::from_str(&answer.payload).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_shares_no_value_with_another_entry_or_another_receipt_of_the_person() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--checkpoint-interval=50ms"]);
    let mut clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
    let mut indices = Vec::new();
    for (person, action) in [
        ("user:kim", Action::Grant),
        ("user:other", Action::Grant),
        ("user:kim", Action::Withdraw),
        ("user:kim", Action::Grant),
        ("user:other", Action::Withdraw),
    ] {
        let mut request = act(person, vec![change(action, NEWS, "email")]);
        request.wait_for_checkpoint = true;
        request.evidence =
            Some(proto::Evidence { touchpoint: "app".to_owned(), ..Default::default() });
        indices.push(clients.record(request).await.index);
    }
    let mut receipts = Vec::new();
    for index in &indices {
        receipts.push(receipt(&mut clients, *index).await);
    }
    let of_all: HashSet<&Vec<u8>> =
        receipts[0].iter().filter(|value| receipts[1].contains(*value)).collect();
    for [one, later] in [[0, 2], [0, 3], [2, 3]] {
        let shared = receipts[one].iter().filter(|value| receipts[later].contains(*value));
        let of_the_person: Vec<_> = shared.filter(|value| !of_all.contains(value)).collect();
        assert!(of_the_person.is_empty(), "{of_the_person:?}");
    }

    drop(clients);
    server.terminate();
    let raw = dir.path().join("raw").display().to_string();
    let data_dir = dir.path().display().to_string();
    support::run(["export", "--raw", "--data-dir", &data_dir, "--output", &raw]).expect_code(0);
    let raw = std::fs::read(&raw).unwrap();
    let mut compared = 0;
    for bytes in unbundle(&raw).unwrap() {
        let entry = Entry::decode(bytes).unwrap();
        let Body::Persons(_) = entry.body else { continue };
        for (index, receipt) in indices.iter().zip(&receipts) {
            let found = bytes.windows(16).find(|window| receipt.contains(*window));
            let is_of_it = *index == entry.index;
            assert_eq!(found.is_some(), is_of_it, "receipt of {index}, entry {}", entry.index);
            compared += 1;
        }
    }
    assert_eq!(compared, indices.len().pow(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_for_equal_answers_share_no_value_and_say_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    clients.record_change("user:kim", Action::Grant, NEWS, "email").await;
    let mut claims: Vec<serde_json::Map<String, Value>> = Vec::new();
    for _ in 0..2 {
        let request =
            proto::CheckRequest { want_token: true, ..check_request("user:kim", NEWS, "email") };
        let token = clients.ask(request).await.token;
        let part = token.split('.').nth(1).unwrap().to_owned();
        claims.push(serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap());
    }
    for name in ["salt", "sub", "grounds"] {
        assert_ne!(claims[0][name], claims[1][name], "{name}");
    }
    let numbers = claims[0].iter().filter(|(_, value)| value.is_number());
    let names: Vec<_> = numbers.map(|(name, _)| name.as_str()).collect();
    assert!(names.iter().all(|name| ["iat", "exp", "nbf"].contains(name)), "{names:?}");
}
