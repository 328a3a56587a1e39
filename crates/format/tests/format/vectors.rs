//! The values that a program computed from `docs/format.md` alone: `vectors.py`, which wrote
//! `vectors.json`.

use std::convert::Infallible;

use consent_ledger_format::{
    LedgerId, canonical,
    chain::Tip,
    confidential::{Kind, seal_erasure, seal_items},
    disclosure::{Found, Verifier},
    entry::Body,
    keys::{
        ledger::LedgerSecret,
        person::{PersonKeys, token_hash},
        tree::KeyTree,
    },
    message::{
        ChannelPut, Disclosure, Erasure, Evidence, Item, LedgerOpened, NamedText, Record,
        RecordKind, SubscriptionCreated, SurvivingStop, Totals, VaultTombstone, WebhookAddress,
        item::Content as ItemContent,
    },
    rebuild::{Rebuild, TagMap, VaultFacts},
    secret::Key,
    slot::{Draft, Written, seal_persons},
    token::{self, Grounds},
    uses::seal_uses,
    vault::{Content, Person, Secrets, Vault},
};
use consent_ledger_tlog::{hex, unhex};
use rand::{TryCryptoRng, TryRng};
use serde_json::Value;

use super::support::{act, grant, used};

const LEDGER: LedgerId = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The random bytes of the vectors: the byte at place k is 7 k + 3 modulo 256.
struct Stream(u64);

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = (7 * self.0 + 3).to_le_bytes()[0];
            self.0 += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Stream {}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn person(first: u8, identity: &str) -> Person {
    let [master, evidence, uses] = [0, 1, 2].map(|it| Key::new([first + it; 32]));
    let (evidence, uses) = (KeyTree::whole(evidence), KeyTree::whole(uses));
    Person { keys: PersonKeys { master, evidence, uses }, identity: identity.to_owned() }
}

fn people() -> [Person; 2] {
    [person(0x11, "user:42"), person(0x21, "email:jo@example.org")]
}

fn secret() -> LedgerSecret {
    LedgerSecret::new(Key::new([0x51; 32]))
}

#[test]
fn keys_tags_and_tokens_are_those_of_the_document() {
    let vectors = vectors();
    let [one, _] = people();
    let keys = &one.keys;
    for (name, derived) in vectors["derived"].as_object().unwrap() {
        let context = format!("consent-ledger v2 {name}");
        let ours = blake3::derive_key(&context, keys.master.bytes());
        assert_eq!(Value::from(hex(&ours)), *derived, "{name}");
    }
    let tags = keys.tags();
    let numbers = [0, 1, 1 << 40];
    assert_eq!(vectors["tags"], Value::from(numbers.map(|it| hex(&tags.tag(it))).to_vec()));
    assert_eq!(vectors["blind"], hex(tags.blind(1).bytes()));
    assert_eq!(vectors["next"], hex(&tags.next(1)));
    for leaf in vectors["leaves"].as_array().unwrap() {
        let number = leaf[0].as_u64().unwrap();
        assert_eq!(leaf[1], hex(keys.evidence.leaf(number).unwrap().bytes()), "{number}");
    }
    let use_tags = [0, 1].map(|it| hex(&keys.use_tag(it).unwrap()));
    assert_eq!(vectors["use_tags"], Value::from(use_tags.to_vec()));
    let key = secret().confidential().of_epoch(Kind::Delivery, 3);
    assert_eq!(vectors["confidential_key"], hex(key.bytes()));
    let confirmation = keys.confirmations().token(&[0; 16]);
    assert_eq!(vectors["confirmation_token_hash"], hex(&token_hash(&confirmation)));
    assert_eq!(vectors["confirmation_token"], confirmation);
    assert_eq!(vectors["webhook_secret"], secret().webhook_secret(&[0; 32]));
    assert_eq!(vectors["shard"], secret().shard("user:42", 64));
    let value = vectors["decision_token"].as_str().unwrap();
    let grounds = Grounds { decided_by: Some(3), revision: 7 };
    assert_eq!(token::open(&secret().tokens(), value, b"claims"), Ok(grounds));
}

/// The ledger of the vectors.
struct Writer {
    tip: Tip,
    bytes: Vec<Vec<u8>>,
    entries: Vec<consent_ledger_format::entry::Entry>,
    stream: Stream,
}

impl Writer {
    fn append(&mut self, body: Body) {
        let at = 1_800_000_000 + i64::try_from(self.tip.next_index).unwrap();
        let (entry, bytes, tip) = self.tip.link(at, body, &secret().confidential().clear).unwrap();
        self.entries.push(entry);
        self.bytes.push(bytes);
        self.tip = tip;
    }

    fn persons(&mut self, drafts: &[Draft<'_>], erasure: Option<&Erasure>) -> Vec<Written> {
        let (index, root) = (self.tip.next_index, secret().confidential());
        let erasure =
            erasure.map(|it| seal_erasure(&root, LEDGER, index, it, &mut self.stream).unwrap());
        let (persons, written) =
            seal_persons(LEDGER, index, drafts, erasure, &mut self.stream).unwrap();
        self.append(Body::Persons(persons));
        written
    }
}

fn draft(person: &Person, number: u64, record: Record) -> Draft<'_> {
    let (keys, identity) = (&person.keys, person.identity.as_str());
    Draft { keys, number, identity, record, evidence: None, peer: None }
}

fn writer() -> (Writer, Vec<Written>) {
    let (tip, stream) = (Tip::genesis(), Stream(0));
    let mut writer = Writer { tip, bytes: Vec::new(), entries: Vec::new(), stream };
    let [one, other] = &people();
    writer.append(Body::Opened(LedgerOpened {
        ledger_id: LEDGER.to_vec(),
        origin: "ledger.example".into(),
        format_version: 2,
        created_at_s: 1_800_000_000,
        feature_level: 1,
    }));
    let (key, title) = ("email".into(), "Email".into());
    writer.append(Body::Channel(ChannelPut { key, title, retired: false }));

    let idempotency = one.keys.idempotency();
    let record = Record {
        idempotency: idempotency.mark("crm", "signup").to_vec(),
        request_digest: idempotency.digest(b"request").to_vec(),
        ..act(vec![grant()])
    };
    let evidence = Evidence {
        touchpoint: "onboarding".into(),
        attributes: vec![NamedText { name: "form".into(), text: "7".into() }],
        ..Evidence::default()
    };
    let act = Draft { evidence: Some(evidence), ..draft(one, 0, record) };
    let written = writer.persons(&[act], None);

    let link = Record {
        kind: RecordKind::Link.into(),
        text: "crm".into(),
        confidence: 1,
        ..Record::default()
    };
    let sides = [
        Draft { peer: Some(1), ..draft(one, 1, link.clone()) },
        Draft { peer: Some(0), ..draft(other, 0, link) },
    ];
    writer.persons(&sides, None);

    let (root, users) = (secret().confidential(), [(&one.keys, 0), (&other.keys, 0)]);
    let uses = seal_uses(&root, LEDGER, 4, &users, &used(), &mut writer.stream).unwrap();
    writer.append(Body::Uses(uses));

    let item = |content| Item { recorded_ms: 5, content: Some(content) };
    let subscription = SubscriptionCreated {
        name: "mailer".into(),
        shards: 4,
        has_webhook: true,
        ..SubscriptionCreated::default()
    };
    let url = "https://hooks.example/?token=SECRET".into();
    let items = [
        item(ItemContent::SubscriptionCreated(subscription)),
        item(ItemContent::WebhookAddress(WebhookAddress { url })),
    ];
    let items = seal_items(&root, LEDGER, 5, &items, &mut writer.stream).unwrap();
    writer.append(Body::Confidential(items));

    let erasure = Erasure {
        recorded_ms: 3,
        totals: Some(Totals { lane0: 2, lane1: 7 }),
        persons: 1,
        generation: 1,
        batch_persons: 1,
    };
    let erased = Record { kind: RecordKind::Erased.into(), ..Record::default() };
    writer.persons(&[draft(other, 1, erased)], Some(&erasure));
    (writer, written)
}

#[test]
fn entries_are_those_of_the_document_to_the_last_byte() {
    let vectors = vectors();
    let (writer, written) = writer();
    let wanted = vectors["entries"].as_array().unwrap();
    assert_eq!(wanted.len(), writer.bytes.len());
    for (index, (bytes, wanted)) in writer.bytes.iter().zip(wanted).enumerate() {
        assert_eq!(*wanted, hex(bytes), "entry {index}");
    }
    assert_eq!(vectors["tip"], hex(&writer.tip.hash));
    assert_eq!(vectors["reference"], hex(&written[0].reference));
}

#[test]
fn the_vaults_frames_are_those_of_the_document_to_the_last_byte() {
    let vectors = vectors();
    let key = |byte| Key::new([byte; 32]);
    let secrets = Secrets {
        ledger: secret(),
        lookup: key(0x62),
        view: key(0x63),
        suppression: vec![(0, key(0x64))],
    };
    let stream = &mut Stream(0);
    let (mut vault, opening) = Vault::create(LEDGER, &key(0x61), secrets.clone(), stream).unwrap();
    let [mut one, _] = people();
    one.keys.uses = one.keys.uses.without(&(0..=1)).unwrap();
    let (key_number, digest) = secrets.suppression("email:gone@example.org").unwrap();
    let tombstone = VaultTombstone {
        key_number,
        digest: digest.to_vec(),
        month: 682,
        stops: vec![SurvivingStop { channel: 1, ..SurvivingStop::default() }],
    };
    let person = vault.append(&Content::Person(one), stream).unwrap();
    let tombstone = vault.append(&Content::Tombstone(tombstone), stream).unwrap();
    for (number, frame) in [opening, person, tombstone].iter().enumerate() {
        assert_eq!(vectors["vault"][number], hex(frame), "frame {number}");
    }
}

#[test]
fn a_disclosure_that_was_made_from_the_document_verifies() {
    let bytes = unhex(vectors()["disclosure"].as_str().unwrap()).unwrap();
    let disclosure: Disclosure = canonical::decode(&bytes).unwrap();
    let mut verifier = Verifier::new(&disclosure).unwrap();
    let mut kinds = Vec::new();
    for entry in &writer().0.entries {
        let visit = &mut |found: Found<'_>| {
            if let Found::Record { opened, .. } = found {
                kinds.push(opened.kind);
            }
        };
        verifier.follow(entry, visit).unwrap();
    }
    assert_eq!(verifier.finish().unwrap().identities, [Some("user:42".to_owned())]);
    assert_eq!(kinds, [RecordKind::Act, RecordKind::Link]);
}

#[test]
fn the_entries_of_the_document_are_found_by_their_persons_keys() {
    let (writer, _) = writer();
    let people = people();
    let facts = VaultFacts { generation: 1, tombstones: 0 };
    let mut rebuild = Rebuild::new(LEDGER, facts, &people[..], TagMap::default()).unwrap();
    for entry in &writer.entries {
        rebuild.apply(&secret().confidential(), entry, &mut |_| {}).unwrap();
    }
    let rebuilt = rebuild.finish().unwrap();
    let counters = rebuilt.counters.iter().map(|it| (it.records, it.uses, it.is_erased));
    assert_eq!(counters.collect::<Vec<_>>(), [(2, 1, false), (2, 1, true)]);
}
