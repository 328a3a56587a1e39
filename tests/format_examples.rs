//! The byte examples of docs/format.md: as shown there, as this program writes them, and as they follow from
//! the document. All three must be equal.
//!
//! The examples come from one small ledger with fixed keys and fixed bytes in the place of random ones, so
//! they never change. The readers here are written from the document, not from the code: they decode frames,
//! derive keys and open sealed texts by hand.
//!
//! `UPDATE_DOCS=1 cargo test --test suite format_examples::` writes the examples into the document.

use std::{collections::BTreeMap, convert::Infallible, env, fmt::Write as _, fs, sync::Arc};

use aes_gcm::{
    Aes256Gcm, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use consent_ledger::{
    backend::{LocalLog, LogBackend as _},
    format::{
        LedgerId,
        chain::Tip,
        confidential::seal_items,
        entry::Body,
        keys::{ledger::LedgerSecret, person::PersonKeys, tree::KeyTree},
        secret::Key,
        slot::{Draft, seal_persons},
        token::{self, Grounds},
        uses::seal_uses,
        vault::{Content, Person, Secrets, Vault},
    },
    proto::{
        self, Action, Actor, Outcome, Reason,
        ledger::{
            self, Change, ChannelPut, Door, Evidence, Item, LedgerOpened, Record, RecordKind,
            SubscriptionCreated, Use, item,
        },
    },
    storage::disk::RealDisk,
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        merkle::leaf_hash,
        proof::TlogProof,
    },
};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use rand::{TryCryptoRng, TryRng};

use crate::support::{self, hex, tree::Tree};

const ORIGIN: &str = "consent.example.org/eu";
const LEDGER: LedgerId = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const AT_S: i64 = 1_800_000_000;
const HOUR_MS: i64 = 3_600_000;
/// The key-encryption key, and M, E and U of `user:42`, are these bytes 32 times.
const KEK: u8 = 0x61;
const MASTER: u8 = 0x11;
/// The ledger secret.
const SECRET: u8 = 0x51;

/// In the place of random bytes: the byte at place k is 7 k + 3 modulo 256.
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

fn key(byte: u8) -> Key {
    Key::new([byte; 32])
}

fn person(first: u8, identity: &str) -> Person {
    let [master, evidence, uses] = [0, 1, 2].map(|it| key(first + it));
    let (evidence, uses) = (KeyTree::whole(evidence), KeyTree::whole(uses));
    Person { keys: PersonKeys { master, evidence, uses }, identity: identity.to_owned() }
}

fn people() -> [Person; 2] {
    [person(MASTER, "user:42"), person(0x21, "user:43")]
}

fn draft(person: &Person, number: u64, record: Record, evidence: Option<Evidence>) -> Draft<'_> {
    let (keys, identity) = (&person.keys, person.identity.as_str());
    Draft { keys, number, identity, record, evidence, peer: None }
}

/// The ledger of the examples: an act of each of two persons, the ends of both in one hour, a use, and a
/// subscription.
fn entries() -> Vec<Vec<u8>> {
    let secret = LedgerSecret::new(key(SECRET)).confidential();
    let [one, other] = &people();
    let stream = &mut Stream(0);
    let (mut tip, mut all) = (Tip::genesis(), Vec::new());
    let mut append = |body| {
        let at = AT_S + i64::try_from(all.len()).unwrap();
        let (_, bytes, next) = tip.link(at, body, &secret.clear).unwrap();
        tip = next;
        all.push(bytes);
    };
    append(Body::Opened(LedgerOpened {
        ledger_id: LEDGER.to_vec(),
        origin: ORIGIN.into(),
        format_version: 2,
        created_at_s: AT_S,
        feature_level: 1,
    }));
    let (name, title) = ("email".into(), "E-mail".into());
    append(Body::Channel(ChannelPut { key: name, title, retired: false }));

    let ends_at_ms = (AT_S * 1_000 + 30 * 24 * HOUR_MS) / HOUR_MS * HOUR_MS;
    let grant = Change {
        action: Action::Grant.into(),
        purpose: 1,
        channel: 1,
        purpose_version: 1,
        expires_at_ms: Some(ends_at_ms),
        outcome: Outcome::Applied.into(),
        ..Change::default()
    };
    let act = |second: i64| Record {
        kind: RecordKind::Act.into(),
        recorded_ms: 902,
        actor: Actor::Subject.into(),
        effective_at_ms: (AT_S + second) * 1_000 + 902,
        changes: vec![grant.clone()],
        door: Door::Call.into(),
        ..Record::default()
    };
    let idempotency = one.keys.idempotency();
    let record = Record {
        idempotency: idempotency.mark("", "signup-42").to_vec(),
        request_digest: idempotency.digest(b"request").to_vec(),
        ..act(2)
    };
    let evidence = Evidence { touchpoint: "onboarding".into(), ..Evidence::default() };
    let drafts = [draft(one, 0, record, Some(evidence))];
    let (persons, first) = seal_persons(LEDGER, 2, &drafts, None, stream).unwrap();
    append(Body::Persons(persons));
    let drafts = [draft(other, 0, act(3), None)];
    let (persons, second) = seal_persons(LEDGER, 3, &drafts, None, stream).unwrap();
    append(Body::Persons(persons));

    let end = |reference: &[u8]| Record {
        kind: RecordKind::Expiry.into(),
        recorded_ms: 114,
        effective_at_ms: ends_at_ms,
        changes: vec![Change {
            action: Action::Expire.into(),
            cause: reference.to_vec(),
            reason: Reason::Expired.into(),
            ..grant.clone()
        }],
        ..Record::default()
    };
    let ends = [
        draft(one, 1, end(&first[0].reference), None),
        draft(other, 1, end(&second[0].reference), None),
    ];
    let (persons, _) = seal_persons(LEDGER, 4, &ends, None, stream).unwrap();
    append(Body::Persons(persons));

    let used = Use {
        recorded_ms: 7,
        purpose: 1,
        channel: 1,
        reason: Reason::Granted.into(),
        ..Use::default()
    };
    let uses = seal_uses(&secret, LEDGER, 5, &[(&one.keys, 0)], &used, stream).unwrap();
    append(Body::Uses(uses));
    let subscription =
        SubscriptionCreated { name: "crm".into(), shards: 2, ..SubscriptionCreated::default() };
    let content = Some(item::Content::SubscriptionCreated(subscription));
    let items = [Item { recorded_ms: 5, content }];
    let items = seal_items(&secret, LEDGER, 6, &items, stream).unwrap();
    append(Body::Confidential(items));
    all
}

/// `D(context, x)` of the document.
fn derive(context: &str, material: &[u8]) -> [u8; 32] {
    blake3::derive_key(&format!("consent-ledger v2 {context}"), material)
}

/// `K(key, x)` of the document.
fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    *blake3::keyed_hash(key.try_into().unwrap(), &parts.concat()).as_bytes()
}

/// The leaf of a key tree.
fn leaf(root: u8, number: u32) -> [u8; 32] {
    let bits = (0..32).rev().map(|bit| u8::from(number >> bit & 1 == 1));
    bits.fold([root; 32], |node, bit| keyed(&node, &[&[bit]]))
}

/// Opens a sealed text by its key, and checks its commitment. Returns the one-time key and the text.
fn open(key: &[u8], salt: &[u8], aad: &[u8], sealed: &[u8], commit: &[u8]) -> ([u8; 32], Vec<u8>) {
    let one_time = derive("sealing key", &[key, salt].concat());
    let text = decrypt(&one_time, aad, sealed);
    let length = (aad.len() as u64).to_le_bytes();
    let commitment = derive("commitment", &[&one_time, length.as_slice(), aad, &text].concat());
    assert_eq!(commit, commitment);
    (one_time, text)
}

fn decrypt(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: sealed, aad };
    Aes256Gcm::new(key.into()).decrypt(&Nonce::default(), payload).unwrap()
}

fn aad(index: u64, tag: &[u8], part: u8) -> Vec<u8> {
    let head = [b"consent-ledger v2\0".as_slice(), &LEDGER, &index.to_le_bytes()].concat();
    [&head, tag, &[part], &0_u32.to_le_bytes()].concat()
}

/// The message of a padded text.
fn message(text: &[u8]) -> &[u8] {
    let length = usize::from(u16::from_le_bytes([text[0], text[1]]));
    assert!(text[2 + length..].iter().all(|byte| *byte == 0), "zeros up to the bucket");
    &text[2..2 + length]
}

/// The description of a field of a message.
struct Field {
    name: String,
    /// Full name of its message or enum.
    of: String,
    kind: Type,
}

/// Messages by name, for decoding bytes.
struct Schema {
    messages: BTreeMap<String, BTreeMap<u32, Field>>,
    enums: BTreeMap<String, BTreeMap<i32, String>>,
}

impl Schema {
    fn all() -> Self {
        let mut schema = Self { messages: BTreeMap::new(), enums: BTreeMap::new() };
        for set in [proto::FILE_DESCRIPTOR_SET, ledger::FILE_DESCRIPTOR_SET] {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for message in &file.message_type {
                    schema.add(&format!(".{}", file.package()), message);
                }
                for of in &file.enum_type {
                    let name = format!(".{}.{}", file.package(), of.name());
                    let values = of.value.iter().map(|v| (v.number(), v.name().to_owned()));
                    schema.enums.insert(name, values.collect());
                }
            }
        }
        schema
    }

    fn add(&mut self, within: &str, message: &DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        message.nested_type.iter().for_each(|nested| self.add(&name, nested));
        let field = |field: &prost_types::FieldDescriptorProto| Field {
            name: field.name().to_owned(),
            of: field.type_name().to_owned(),
            kind: field.r#type(),
        };
        let fields = message.field.iter().map(|it| (it.number().unsigned_abs(), field(it)));
        self.messages.insert(name, fields.collect());
    }

    /// One line for each field: its bytes and their meaning.
    fn annotate(&self, message: &str, bytes: &[u8]) -> String {
        let mut out = String::new();
        self.annotate_in(&format!(".consent.ledger.v2.{message}"), bytes, 0, &mut out);
        assert_eq!(unhex(&out), bytes, "no byte is lost");
        out
    }

    fn annotate_in(&self, message: &str, bytes: &[u8], depth: usize, out: &mut String) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (tag, tag_bytes) = varint(rest);
            let field = &self.messages[message][&u32::try_from(tag >> 3).unwrap()];
            rest = &rest[tag_bytes.len()..];
            let (number, number_bytes) = varint(rest);
            rest = &rest[number_bytes.len()..];
            let head = [tag_bytes, number_bytes].concat();
            if tag & 7 == 0 {
                line(out, depth, &head, &format!("{}: {}", field.name, self.value(field, number)));
                continue;
            }
            assert_eq!(tag & 7, 2, "varints and lengths are all there is");
            let (value, after) = rest.split_at(usize::try_from(number).unwrap());
            rest = after;
            match field.kind {
                Type::Message => {
                    line(out, depth, &head, &field.name);
                    self.annotate_in(&field.of, value, depth + 1, out);
                }
                Type::String => {
                    let text = std::str::from_utf8(value).unwrap();
                    line(out, depth, &head, &format!("{}: {text:?}", field.name));
                    raw(out, depth + 1, value);
                }
                _ => {
                    line(out, depth, &head, &format!("{}, {number} bytes", field.name));
                    raw(out, depth + 1, value);
                }
            }
        }
    }

    fn value(&self, field: &Field, number: u64) -> String {
        match self.enums.get(&field.of) {
            Some(names) => names[&i32::try_from(number).unwrap()].clone(),
            None => number.to_string(),
        }
    }
}

/// A varint, and the bytes that hold it.
fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let digits = bytes[..length].iter().rev();
    (digits.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)), &bytes[..length])
}

fn line(out: &mut String, depth: usize, bytes: &[u8], meaning: &str) {
    let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    let digits = format!("{}{digits}", "  ".repeat(depth));
    writeln!(out, "{digits:<32}# {meaning}").unwrap();
}

fn raw(out: &mut String, depth: usize, bytes: &[u8]) {
    for part in bytes.chunks(32) {
        writeln!(out, "{}{}", "  ".repeat(depth), hex(part)).unwrap();
    }
}

/// Named values, each on lines of its own.
fn named(values: &[(&str, &[u8])]) -> String {
    let mut out = String::new();
    for (name, bytes) in values {
        writeln!(out, "# {name}, {} bytes", bytes.len()).unwrap();
        raw(&mut out, 0, bytes);
    }
    out
}

/// Bytes with a name for each part of them.
fn parts(bytes: &[u8], parts: &[(usize, &str)]) -> String {
    let (mut out, mut rest) = (String::new(), bytes);
    for (length, name) in parts {
        let (part, after) = rest.split_at(*length);
        for (at, row) in part.chunks(16).enumerate() {
            let note = if at == 0 { format!("# {name}") } else { String::new() };
            writeln!(out, "{}", format!("{:<34}{note}", hex(row)).trim_end()).unwrap();
        }
        rest = after;
    }
    assert!(rest.is_empty(), "no byte is lost");
    out
}

/// Hexadecimal digits, with white space and comments from `#` to the end of a line between them.
fn unhex(text: &str) -> Vec<u8> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let digits: String = lines.flat_map(|it| it.chars().filter(|c| !c.is_whitespace())).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Every example, by name.
fn computed() -> BTreeMap<&'static str, String> {
    let (entries, schema) = (entries(), Schema::all());
    let mut all = BTreeMap::new();
    storage(&entries, &mut all);
    for (name, index) in [
        ("entry_ledger_opened", 0),
        ("entry_channel_put", 1),
        ("entry_of_an_act", 2),
        ("entry_of_ends", 4),
        ("entry_of_a_use", 5),
        ("entry_of_a_subscription", 6),
    ] {
        all.insert(name, schema.annotate("Entry", &entries[index]));
    }
    let mut hashes = String::new();
    let mut before = [0; 32];
    for (index, bytes) in entries.iter().enumerate() {
        let entry = ledger::Entry::decode(bytes.as_slice()).unwrap();
        assert_eq!((entry.index, entry.prev_hash.as_slice()), (index as u64, &before[..]));
        before = derive("chain", bytes);
        writeln!(hashes, "{index} {} {}", hex(before), hex(leaf_hash(bytes))).unwrap();
    }
    all.insert("hashes", hashes);
    seals(&schema, &entries, &mut all);
    vault(&schema, &mut all);
    statements(entries, &mut all);
    all
}

fn storage(entries: &[Vec<u8>], all: &mut BTreeMap<&'static str, String>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk);
    let (log, _) = LocalLog::open(disk, dir.path().to_owned(), 64 << 20, LEDGER, 0).unwrap();
    log.append(0, &entries[..1]).unwrap();
    drop(log);
    let segment = fs::read(dir.path().join("00000000000000000000.seg")).unwrap();
    let (header, frame) = segment.split_at(60);
    assert_eq!(u32_at(header, 56), crc32c::crc32c(&header[..56]));
    let bytes = u32_at(frame, 1) as usize;
    let identity = crc32c::crc32c(&header[12..32]);
    let over =
        |parts: &[&[u8]]| parts.iter().fold(identity, |sum, it| crc32c::crc32c_append(sum, it));
    assert_eq!(u32_at(frame, 17), over(&[&frame[5..13], &frame[25..25 + bytes]]));
    assert_eq!(u32_at(frame, 21), over(&[&frame[..21]]));
    all.insert(
        "segment_header",
        parts(
            header,
            &[
                (8, "magic: FRAMELOG"),
                (4, "format: 1"),
                (4, "kind: LEDG"),
                (16, "log id"),
                (8, "first index: 0"),
                (8, "first index of the segment before: none, 0"),
                (8, "bytes of the segment before: none, 0"),
                (4, "CRC-32C of bytes 0 to 55"),
            ],
        ),
    );
    let payload = format!("bytes of the payload: {bytes}");
    all.insert(
        "frame",
        parts(
            &frame[..26 + bytes],
            &[
                (1, "mark: F"),
                (4, &payload),
                (8, "index: 0"),
                (4, "place: 0"),
                (4, "CRC-32C of kind, log id, index and payload"),
                (4, "CRC-32C of kind, log id and bytes 0 to 20"),
                (bytes, "payload: entry 0"),
                (1, "end mark"),
            ],
        ),
    );
}

/// The slots of an entry.
fn slots(bytes: &[u8]) -> Vec<ledger::Slot> {
    let entry = ledger::Entry::decode(bytes).unwrap();
    let Some(ledger::entry::Body::Persons(persons)) = entry.body else { panic!("{entry:?}") };
    persons.slots
}

fn seals(schema: &Schema, entries: &[Vec<u8>], all: &mut BTreeMap<&'static str, String>) {
    let master = [MASTER; 32];
    let [tags, records, idempotency, identity] =
        ["tag", "record", "idempotency", "identity"].map(|name| derive(name, &master));
    let tag = |number: u64| keyed(&tags, &[&[0], &number.to_le_bytes()])[..16].to_vec();
    let blind = |number: u64| keyed(&tags, &[&[1], &number.to_le_bytes()]);
    let next = |number: u64| derive("next tag", &[&blind(number)[..], &tag(number + 1)].concat());
    let use_tag = keyed(&leaf(MASTER + 2, 0), &[b"use"])[..16].to_vec();
    all.insert(
        "keys",
        named(&[
            ("T", &tags),
            ("R", &records),
            ("tag(0)", &tag(0)),
            ("blind(0)", &blind(0)),
            ("next(0)", &next(0)),
            ("tag(1)", &tag(1)),
            ("leaf_E(0)", &leaf(MASTER + 1, 0)),
            ("tag(0) of lane 1", &use_tag),
        ]),
    );

    let slot = &slots(&entries[2])[0];
    assert_eq!(slot.tag, tag(0));
    let context = aad(2, &slot.tag, 1);
    let (one_time, text) = open(&records, &slot.salt, &context, &slot.record, &slot.record_commit);
    let reference = derive("reference", &one_time)[..16].to_vec();
    all.insert(
        "sealing",
        named(&[
            ("key: R", &records),
            ("salt", &slot.salt),
            ("one-time key", &one_time),
            ("additional data", &context),
            ("text", &text),
            ("ciphertext and tag", &slot.record),
            ("commitment", &slot.record_commit),
            ("reference", &reference),
        ]),
    );
    let bytes = message(&text);
    all.insert("record_of_an_act", schema.annotate("Record", bytes));
    let record = Record::decode(bytes).unwrap();
    assert_eq!(record.next, next(0));
    let committed = derive("identity commitment", &[&identity[..], b"user:42"].concat());
    assert_eq!(record.identity_commit, committed);
    let mark = keyed(&idempotency, &[&[0], b"", &[0], b"signup-42"]);
    assert_eq!(record.idempotency, mark[..16]);
    assert_eq!(record.request_digest, keyed(&idempotency, &[&[1], b"request"])[..16]);
    let context = aad(2, &slot.tag, 2);
    let (_, text) =
        open(&leaf(MASTER + 1, 0), &slot.salt, &context, &slot.evidence, &slot.evidence_commit);
    all.insert("evidence", schema.annotate("Evidence", message(&text)));

    let ends = slots(&entries[4]);
    let end = ends.iter().find(|slot| slot.tag == tag(1)).unwrap();
    let context = aad(4, &end.tag, 1);
    let (_, text) = open(&records, &end.salt, &context, &end.record, &end.record_commit);
    let bytes = message(&text);
    let record = Record::decode(bytes).unwrap();
    assert_eq!((&record.changes[0].cause, record.next.as_slice()), (&reference, &next(1)[..]));
    assert_eq!(record.effective_at_ms % HOUR_MS, 0);
    all.insert("record_of_an_end", schema.annotate("Record", bytes));

    let entry = ledger::Entry::decode(entries[5].as_slice()).unwrap();
    let Some(ledger::entry::Body::Uses(uses)) = entry.body else { panic!("{entry:?}") };
    assert!(uses.tags.as_chunks::<16>().0.iter().any(|tag| tag[..] == use_tag[..]));
    let root = derive("confidential", &[SECRET; 32]);
    let of_kind = |kind: ledger::ConfidentialKind| {
        let kind = u8::try_from(i32::from(kind)).unwrap();
        derive("confidential", &[&root[..], &[kind], &0_u64.to_le_bytes()].concat())
    };
    let shared = uses.shared.unwrap();
    let use_key = of_kind(ledger::ConfidentialKind::Use);
    let context = aad(5, &[0; 16], 4);
    let (_, text) = open(&use_key, &shared.salt, &context, &shared.ciphertext, &shared.commitment);
    all.insert("use", schema.annotate("Use", message(&text)));

    let entry = ledger::Entry::decode(entries[6].as_slice()).unwrap();
    let Some(ledger::entry::Body::Confidential(items)) = entry.body else { panic!("{entry:?}") };
    let sealed = &items.items[0];
    let item_key = of_kind(ledger::ConfidentialKind::Subscription);
    let context = aad(6, &[0; 16], 5);
    let (one_time, text) =
        open(&item_key, &sealed.salt, &context, &sealed.ciphertext, &sealed.commitment);
    all.insert(
        "confidential",
        named(&[
            ("Lc", &root),
            ("key of SUBSCRIPTION in epoch 0", &item_key),
            ("one-time key", &one_time),
            ("additional data", &context),
        ]),
    );
    all.insert("item", schema.annotate("Item", message(&text)));
}

fn vault(schema: &Schema, all: &mut BTreeMap<&'static str, String>) {
    let secrets = Secrets {
        ledger: LedgerSecret::new(key(SECRET)),
        lookup: key(0x62),
        view: key(0x63),
        suppression: vec![(0, key(0x64))],
    };
    let stream = &mut Stream(0);
    let (mut vault, opening) = Vault::create(LEDGER, &key(KEK), secrets, stream).unwrap();
    let [one, _] = people();
    let frame = vault.append(&Content::Person(one), stream).unwrap();
    all.insert("vault_opening", schema.annotate("VaultFrame", &opening));
    all.insert("vault_person", schema.annotate("VaultFrame", &frame));

    let first = ledger::VaultFrame::decode(opening.as_slice()).unwrap();
    let opened = first.opened.unwrap();
    let wrapping = derive("vault key wrapping", &[&[KEK; 32][..], &opened.wrap_salt].concat());
    let bound = [
        b"consent-ledger v2\0".as_slice(),
        &LEDGER,
        &first.generation.to_le_bytes(),
        &opened.format_version.to_le_bytes(),
    ];
    let key = decrypt(&wrapping, &bound.concat(), &opened.wrapped_key);
    assert_eq!(opened.key_check, derive("vault key check", &[KEK; 32])[..16]);
    let chain = derive("vault chain", &[SECRET; 32]);
    let mac = |before: &[u8], frame: &ledger::VaultFrame| {
        let (generation, number) = (frame.generation.to_le_bytes(), frame.number.to_le_bytes());
        let parts = [before, &generation, &number, &frame.id, &frame.salt, &frame.ciphertext];
        keyed(&chain, &parts)
    };
    let first = ledger::VaultFrame::decode(opening.as_slice()).unwrap();
    let second = ledger::VaultFrame::decode(frame.as_slice()).unwrap();
    assert_eq!(first.mac, mac(&[0; 32], &first));
    assert_eq!(second.mac, mac(&first.mac, &second));
    let one_time = derive("vault frame", &[&key, second.salt.as_slice()].concat());
    let bound = [
        b"consent-ledger v2\0".as_slice(),
        &LEDGER,
        &second.generation.to_le_bytes(),
        &second.number.to_le_bytes(),
        &second.id,
    ];
    let text = decrypt(&one_time, &bound.concat(), &second.ciphertext);
    all.insert("vault_content", schema.annotate("VaultContent", message(&text)));
    all.insert(
        "vault_keys",
        named(&[
            ("key-encryption key", &[KEK; 32]),
            ("V", &key),
            ("L", &[SECRET; 32]),
            ("key of the chain", &chain),
            ("one-time key of frame 1", &one_time),
            ("additional data of frame 1", &bound.concat()),
        ]),
    );
}

fn statements(entries: Vec<Vec<u8>>, all: &mut BTreeMap<&'static str, String>) {
    let tree = Tree::new(entries);
    let key = support::signer_key(ORIGIN, 1);
    let witness = support::cosigner_key("witness.example/w1", 2);
    all.insert("signer_key", format!("{}\n", *key.to_secret_text()));
    all.insert("verifier_key", format!("{}\n", key.verifier()));
    all.insert("witness_key", format!("{}\n", witness.verifier()));
    let (origin, size) = (ORIGIN.to_owned(), tree.size());
    let root = tree.root(size);
    let checkpoint = Checkpoint { origin, size, root, extensions: String::new() };
    let mut signed = SignedCheckpoint::sign(checkpoint, &key).unwrap();
    signed.note.sign(&witness, 1_790_000_000);
    all.insert("checkpoint", signed.to_string());
    let proof = TlogProof {
        extra: Some(tree.entry(1).to_vec()),
        index: 1,
        path: tree.inclusion(1, size),
        checkpoint: signed,
    };
    all.insert("tlog_proof", proof.to_string());
    let tokens = LedgerSecret::new(self::key(SECRET)).tokens();
    let grounds = Grounds { decided_by: Some(2), revision: 7 };
    let value = token::seal(&tokens, grounds, b"claims", &mut Stream(0));
    assert_eq!(token::open(&tokens, &value, b"claims"), Ok(grounds));
    all.insert("grounds", value + "\n");
}

/// A block of the document: its name and its lines.
struct Block {
    name: String,
    start: usize,
    end: usize,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    for (at, mark) in document.match_indices("<!-- example: ") {
        let rest = &document[at + mark.len()..];
        let (name, after) = rest.split_once(" -->\n```text\n").expect("a block follows its marker");
        let start = document.len() - after.len();
        let end = start + after.find("```\n").expect("a block ends");
        found.push(Block { name: name.to_owned(), start, end });
    }
    found
}

#[test]
fn the_document_shows_the_bytes_that_are_written() {
    let path = support::repository("docs/format.md");
    let mut document = fs::read_to_string(&path).unwrap();
    let computed = computed();
    if env::var_os("UPDATE_DOCS").is_some() {
        for block in blocks(&document).into_iter().rev() {
            document.replace_range(block.start..block.end, &computed[&*block.name]);
        }
        fs::write(&path, &document).unwrap();
    }
    let mut shown: Vec<String> = Vec::new();
    for block in blocks(&document) {
        assert_eq!(document[block.start..block.end], computed[&*block.name], "{}", block.name);
        shown.push(block.name);
    }
    shown.sort_unstable();
    let all: Vec<String> = computed.into_keys().map(str::to_owned).collect();
    assert_eq!(shown, all, "every example is shown once");
}
