//! The bytes that docs/format.md describes, three times: as written once (`tests/fixtures`), as
//! shown in the document, and as computed today. All three must be equal.
//!
//! The readers here are written from the document, not from the code: they decode frames, segments
//! and sealed bytes by hand.
//!
//! `UPDATE_DOCS=1 cargo test --test suite format::` copies the fixtures into the document. Fixtures
//! are never updated: changed bytes are a new format. `NEW_FIXTURES=1` writes missing ones.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use aes_gcm::{
    Aes256Gcm, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use consent_ledger::{
    domain::{
        Body, ClockCorrected, Delivered, DeliveryFailed, DeliveryOverdue, Effect, EventKind,
        FailedDelivery, Filter, Key, Millis, PartyPut, PartyRole, PartyVersion, Reason, Region,
        Snapshot, SubscriptionCreated, SubscriptionDeleted, SubscriptionEntry, SubscriptionId,
    },
    ledger::{chain, envelope},
    proto,
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::SignerKey,
        merkle::leaf_hash,
        proof::TlogProof,
        tile::{Kind, Tile},
    },
    token::{Lifetime, Signer, Statement, SubjectHash},
};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
use sha2::{Digest as _, Sha256};

use crate::support::{
    self, Server, hex,
    tree::{self, Tree},
};

const ORIGIN: &str = "consent.example.org/eu";
const KEK: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";
const LEDGER: &str = "ledger/00000000000000000000.seg";
const VAULT: &str = "vault/00000000000000000000.seg";

/// Hexadecimal digits, with white space and comments from `#` to the end of a line between them.
fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
        .collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// A file of the kept data directory.
fn kept(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(support::repository("tests/fixtures/data_dir_v1.hex")).unwrap();
    let (_, rest) = text.split_once(&format!("# {name}\n")).unwrap();
    unhex(rest.split("\n#").next().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// CRC-32C over kind and log id, then over the given bytes.
fn crc(segment: &[u8], more: &[&[u8]]) -> u32 {
    let identity = crc32c::crc32c(&segment[12..32]);
    more.iter().fold(identity, |sum, bytes| crc32c::crc32c_append(sum, bytes))
}

/// The payloads of a segment; every byte of it is checked.
fn payloads(segment: &[u8], kind: &[u8; 4]) -> Vec<Vec<u8>> {
    assert_eq!(&segment[..8], b"FRAMELOG");
    assert_eq!(u32_at(segment, 8), 1);
    assert_eq!(&segment[12..16], kind);
    assert_eq!(segment[32..56], [0; 24], "the first segment has none before it");
    assert_eq!(u32_at(segment, 56), crc32c::crc32c(&segment[..56]));
    let (mut at, mut found) = (60, Vec::new());
    while at < segment.len() {
        let frame = &segment[at..];
        let bytes = u32_at(frame, 1) as usize;
        let (index, payload) = (u64_at(frame, 5), &frame[25..25 + bytes]);
        assert_eq!(frame[0], b'F');
        assert_eq!(index, found.len() as u64);
        assert!(u64::from(u32_at(frame, 13)) <= index, "the batch begins in the log");
        assert_eq!(u32_at(frame, 17), crc(segment, &[&index.to_le_bytes(), payload]));
        assert_eq!(u32_at(frame, 21), crc(segment, &[&frame[..21]]));
        assert_eq!(frame[25 + bytes], b'\n');
        found.push(payload.to_vec());
        at += 26 + bytes;
    }
    found
}

/// Opens sealed bytes. Returns the one-time key too.
fn open(key: &[u8], context: &[u8], sealed: &proto::Sealed) -> ([u8; 32], Vec<u8>) {
    let one_time =
        blake3::derive_key("consent-ledger v1 sealing key", &[key, &sealed.salt].concat());
    let payload = Payload { msg: &sealed.ciphertext, aad: context };
    let cipher = Aes256Gcm::new(&one_time.into());
    let text = cipher.decrypt(&Nonce::default(), payload).unwrap();
    let length = (context.len() as u64).to_le_bytes();
    let committed = [&one_time, length.as_slice(), context, &text].concat();
    let commitment = blake3::derive_key("consent-ledger v1 commitment", &committed);
    assert_eq!(sealed.commitment, commitment);
    (one_time, text)
}

fn context(ledger_id: &[u8], kind: &str, rest: &[u8]) -> Vec<u8> {
    [b"consent-ledger v1\0", ledger_id, kind.as_bytes(), &[0], rest].concat()
}

/// The description of a field of a message.
struct Field {
    name: String,
    /// Full name of its message or enum.
    of: String,
    kind: Type,
}

/// Messages by name, for decoding bytes.
#[derive(Default)]
struct Schema {
    messages: BTreeMap<String, BTreeMap<u32, Field>>,
    enums: BTreeMap<String, BTreeMap<i32, String>>,
}

impl Schema {
    /// The protocol's messages, and those of the vault.
    fn all() -> Self {
        let mut schema = Self::default();
        let set = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        for file in set.file {
            for message in &file.message_type {
                schema.add(&format!(".{}", file.package()), message);
            }
            for enumeration in &file.enum_type {
                let name = format!(".{}.{}", file.package(), enumeration.name());
                let values = enumeration.value.iter().map(|v| (v.number(), v.name().to_owned()));
                schema.enums.insert(name, values.collect());
            }
        }
        let sealed = ".consent.v1.Sealed";
        schema.add_own("Frame", &[(1, "opened", "Opened"), (2, "subject", "Subject")]);
        schema.add_own(
            "Opened",
            &[(1, "ledger_id", ""), (2, "format_version", "u32"), (3, "master", sealed)],
        );
        schema.add_own(
            "Subject",
            &[
                (1, "subject_ref", ""),
                (2, "lookup", ""),
                (3, "key", sealed),
                (4, "identity", sealed),
            ],
        );
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
        let fields = message
            .field
            .iter()
            .map(|descriptor| (descriptor.number().unsigned_abs(), field(descriptor)));
        self.messages.insert(name, fields.collect());
    }

    fn add_own(&mut self, name: &str, fields: &[(u32, &str, &str)]) {
        let field = |(number, name, of): &(u32, &str, &str)| {
            let kind = match *of {
                "" => Type::Bytes,
                "u32" => Type::Uint32,
                _ => Type::Message,
            };
            (*number, Field { name: (*name).to_owned(), of: (*of).to_owned(), kind })
        };
        self.messages.insert(name.to_owned(), fields.iter().map(field).collect());
    }

    /// One line for each field: its bytes and their meaning.
    fn annotate(&self, message: &str, bytes: &[u8]) -> String {
        let mut out = String::new();
        self.annotate_in(message, bytes, 0, &mut out);
        assert_eq!(unhex(&out), bytes, "no byte is lost");
        out
    }

    fn annotate_in(&self, message: &str, bytes: &[u8], depth: usize, out: &mut String) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (tag, tag_bytes) = varint(rest);
            let fields = &self.messages[message];
            let field = &fields[&u32::try_from(tag >> 3).unwrap()];
            rest = &rest[tag_bytes.len()..];
            let (number, number_bytes) = varint(rest);
            rest = &rest[number_bytes.len()..];
            let head = [tag_bytes, number_bytes].concat();
            if tag & 7 == 0 {
                line(out, depth, &head, &format!("{}: {}", field.name, self.value(field, number)));
                continue;
            }
            assert_eq!(tag & 7, 2, "varints and lengths are all there is");
            let (value, after) = rest.split_at(tree::at(number));
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

const SEGMENT_HEADER: [(usize, &str); 8] = [
    (8, "magic: FRAMELOG"),
    (4, "format: 1"),
    (4, "kind: LEDG"),
    (16, "log id"),
    (8, "first index: 0"),
    (8, "first index of the segment before: none, 0"),
    (8, "bytes of the segment before: none, 0"),
    (4, "CRC-32C of bytes 0 to 55"),
];

const INDEX_HEADER: [(usize, &str); 12] = [
    (8, "magic: FRAMEIDX"),
    (4, "format: 1"),
    (4, "kind: TEST"),
    (16, "log id"),
    (8, "first index: 0"),
    (8, "end index: 2"),
    (8, "bytes of the segment: 118"),
    (8, "pairs: 1"),
    (4, "CRC-32C of the pairs"),
    (4, "CRC-32C of bytes 0 to 67"),
    (8, "pair 0: index 0"),
    (8, "pair 0: offset 60"),
];

/// Names of the entry kinds, in the order of the kept ledger.
const ENTRIES: [&str; 11] = [
    "ledger_opened",
    "channel_put",
    "purpose_put",
    "",
    "consent_act",
    "",
    "grant_expired",
    "consent_confirmed",
    "use_recorded",
    "subjects_linked",
    "subjects_unlinked",
];

/// Every example, as computed today.
fn computed() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, text: String| assert!(all.insert(name.to_owned(), text).is_none());
    storage(&mut put);
    let entries = payloads(&kept(LEDGER), b"LEDG");
    let schema = Schema::all();
    for (bytes, name) in entries.iter().zip(ENTRIES).filter(|(_, name)| !name.is_empty()) {
        put(&format!("entry_{name}"), schema.annotate(".consent.v1.Entry", bytes));
    }
    let mut hashes = String::new();
    for (index, bytes) in entries.iter().enumerate() {
        let (chain, leaf) = (hex(chain::hash(bytes)), hex(leaf_hash(bytes)));
        writeln!(hashes, "{index:>2} {chain} {leaf}").unwrap();
    }
    put("hashes", hashes);
    for (name, bytes) in later_entries(&entries) {
        put(&format!("entry_{name}"), schema.annotate(".consent.v1.Entry", &bytes));
    }
    sealing(&schema, &entries, &mut put);
    log(entries, &mut put);
    all
}

/// Entries about a subscription, the clock and a party, as they would follow those of the kept ledger.
fn later_entries(kept: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>)> {
    let mut tip = chain::Tip::genesis();
    for bytes in kept {
        (_, tip) = tip.follow(bytes).unwrap();
    }
    let subscription = SubscriptionId(tip.next_index);
    let key = |text| Key::parse(text).unwrap();
    let at = |ms: i64| Millis(1_795_596_820_000 + ms);
    let created = SubscriptionCreated {
        name: key("crm.production"),
        owner: "crm-team".to_owned(),
        filter: Filter {
            purposes: [key("marketing.newsletter").into()].into(),
            channels: [key("email")].into(),
            kinds: [EventKind::Withdraw, EventKind::Object, EventKind::Expire].into(),
            namespaces: ["user".to_owned()].into(),
        },
        start_index: 4,
        snapshot: Some(Snapshot::Denied),
        shards: 2,
        deadline_ms: Some(600_000),
        webhook_url: Some("https://crm.example.org/consent".to_owned()),
    };
    let delivered = Delivered {
        subscription,
        shard: 1,
        ranges: vec![4..7, 9..10],
        acknowledged_at: at(15),
        snapshot: true,
    };
    let failed = FailedDelivery { index: 7, attempts: 12, http_status: 503 };
    let failed = DeliveryFailed { subscription, shard: 0, failed: vec![failed] };
    let (event_index, pending_since) = (10, Millis(1_795_596_818_642));
    let overdue = DeliveryOverdue { subscription, shard: 0, event_index, pending_since };
    let content = PartyVersion {
        roles: vec![PartyRole::Controller],
        name: "Acme AG".to_owned(),
        email: "dpo@acme.example".to_owned(),
        jurisdictions: vec![Region::parse("DE").unwrap()],
        sensitive_categories: Some(vec!["user.health".to_owned()]),
        ..PartyVersion::default()
    };
    let bodies = [
        (
            "subscription_created",
            0,
            Body::Subscription(SubscriptionEntry::Created(Box::new(created))),
        ),
        ("delivery_receipt", 20, Body::Subscription(SubscriptionEntry::Delivered(vec![delivered]))),
        ("delivery_failed", 30, Body::Subscription(SubscriptionEntry::Failed(failed))),
        ("delivery_overdue", 600_000, Body::Subscription(SubscriptionEntry::Overdue(overdue))),
        (
            "subscription_deleted",
            700_000,
            Body::Subscription(SubscriptionEntry::Deleted(SubscriptionDeleted { subscription })),
        ),
        (
            "clock_corrected",
            40,
            Body::ClockCorrected(ClockCorrected {
                first_index: 14,
                end_index: 16,
                right_until: at(30),
                right_again: at(40),
                reason: "NTP was ten minutes ahead".to_owned(),
            }),
        ),
        ("party_put", 800_000, Body::PartyPut(PartyPut { key: key("acme"), version: 1, content })),
    ];
    let mut entry = |(name, ms, body)| {
        let (entry, bytes, next) = tip.link(at(ms), body).unwrap();
        assert_eq!(envelope::decode(&bytes), Ok(entry), "it reads back");
        tip = next;
        (name, bytes)
    };
    bodies.into_iter().map(&mut entry).collect()
}

fn storage(put: &mut impl FnMut(&str, String)) {
    let segment = kept(LEDGER);
    put("segment_header", parts(&segment[..60], &SEGMENT_HEADER));
    let bytes = u32_at(&segment, 61) as usize;
    let frame = &segment[60..60 + 26 + bytes];
    put(
        "frame",
        parts(
            frame,
            &[
                (1, "mark: F"),
                (4, "bytes of the payload: 94"),
                (8, "index: 0"),
                (4, "place: 0"),
                (4, "CRC-32C of kind, log id, index and payload"),
                (4, "CRC-32C of kind, log id and bytes 0 to 20"),
                (bytes, "payload: entry 0"),
                (1, "end mark"),
            ],
        ),
    );
    let log = fs::read_to_string(support::repository("tests/fixtures/frame_log_v1.hex")).unwrap();
    let index = log.lines().find(|line| line.starts_with(&hex(b"FRAMEIDX"))).unwrap();
    put("segment_index", parts(&unhex(index), &INDEX_HEADER));
}

fn sealing(schema: &Schema, entries: &[Vec<u8>], put: &mut impl FnMut(&str, String)) {
    let vault = payloads(&kept(VAULT), b"VALT");
    put("vault_opened", schema.annotate("Frame", &vault[0]));
    put("vault_subject", schema.annotate("Frame", &vault[1]));
    let sealed = |bytes: &[u8], field: u64| {
        // The frame's body, then its field.
        let body = field_of(bytes, bytes[0].into());
        proto::Sealed::decode(field_of(body, field << 3 | 2)).unwrap()
    };
    let ledger_id = kept(LEDGER)[16..32].to_vec();
    assert_eq!(kept(VAULT)[16..32], ledger_id);
    let kek = unhex(KEK);
    let (_, master) = open(&kek, &context(&ledger_id, "master", &[]), &sealed(&vault[0], 3));
    let subject = field_of(&vault[1], vault[1][0].into());
    let subject_ref = field_of(subject, 1 << 3 | 2);
    let lookup_key = blake3::derive_key("consent-ledger v1 identity lookup", &master);
    let lookup = blake3::keyed_hash(&lookup_key, b"user:42");
    assert_eq!(lookup.as_bytes(), field_of(subject, 2 << 3 | 2));
    let (_, key) =
        open(&kek, &context(&ledger_id, "subject key", subject_ref), &sealed(&vault[1], 3));
    let (_, identity) =
        open(&key, &context(&ledger_id, "identity", subject_ref), &sealed(&vault[1], 4));
    assert_eq!(identity, b"user:42");

    let decoded = proto::Entry::decode(entries[4].as_slice()).unwrap();
    let Some(proto::entry::Body::ConsentAct(act)) = decoded.body else { panic!("entry 4") };
    let key_key = blake3::derive_key("consent-ledger v1 idempotency key", &master);
    let key_hash = blake3::keyed_hash(&key_key, b"order-1");
    assert_eq!(act.idempotency_key_hash, key_hash.as_bytes());
    assert_eq!(act.subject_ref, subject_ref);
    let token_key = blake3::derive_key("consent-ledger v1 confirmation token", &master);
    let place = [ledger_id.as_slice(), &4_u64.to_be_bytes(), &decoded.prev_hash].concat();
    let token = BASE64_URL_SAFE_NO_PAD.encode(blake3::keyed_hash(&token_key, &place).as_bytes());
    assert_eq!(act.confirmation.unwrap().token_hash, Sha256::digest(token).as_slice());
    let aad = context(&ledger_id, "evidence", key_hash.as_bytes());
    let evidence = act.evidence.unwrap();
    let (one_time, text) = open(&key, &aad, &evidence);
    put("evidence", schema.annotate(".consent.v1.Evidence", &text));

    let mut steps = String::new();
    for (name, bytes) in [
        ("key-encryption key", &kek),
        ("master secret", &master),
        ("idempotency key's hash", &key_hash.as_bytes().to_vec()),
        ("subject's key", &key),
        ("salt", &evidence.salt),
        ("one-time key", &one_time.to_vec()),
        ("context", &aad),
        ("ciphertext and tag", &evidence.ciphertext),
        ("plaintext", &text),
        ("commitment", &evidence.commitment),
    ] {
        writeln!(steps, "# {name}, {} bytes", bytes.len()).unwrap();
        raw(&mut steps, 0, bytes);
    }
    put("sealing", steps);

    let link = proto::Entry::decode(entries[9].as_slice()).unwrap();
    let Some(proto::entry::Body::SubjectsLinked(link)) = link.body else { panic!("entry 9") };
    // The link is sealed under the first subject's key, which is that of user:42.
    assert_eq!(link.subject_ref, subject_ref);
    let (_, by) = open(&key, &context(&ledger_id, "assertion", &[]), &link.asserted_by.unwrap());
    assert_eq!(by, b"login-service");
}

/// The value of the length-delimited field with this tag.
fn field_of(mut bytes: &[u8], wanted: u64) -> &[u8] {
    loop {
        let (tag, read) = varint(bytes);
        bytes = &bytes[read.len()..];
        let (number, read) = varint(bytes);
        bytes = &bytes[read.len()..];
        if tag & 7 == 0 {
            continue;
        }
        let (value, rest) = bytes.split_at(tree::at(number));
        if tag == wanted {
            return value;
        }
        bytes = rest;
    }
}

fn log(entries: Vec<Vec<u8>>, put: &mut impl FnMut(&str, String)) {
    let tree = Tree::new(entries);
    let key = support::signer_key(ORIGIN, 1);
    let witness = support::cosigner_key("witness.example/w1", 2);
    put("signer_key", format!("{}\n", *key.to_secret_text()));
    put("verifier_key", format!("{}\n", key.verifier()));
    put("witness_key", format!("{}\n", witness.verifier()));
    let checkpoint = Checkpoint {
        origin: ORIGIN.to_owned(),
        size: tree.size(),
        root: tree.root(tree.size()),
        extensions: String::new(),
    };
    let mut signed = SignedCheckpoint::sign(checkpoint, &key).unwrap();
    signed.note.sign(&witness, 1_790_000_000);
    put("checkpoint", signed.to_string());
    let proof = TlogProof {
        extra: Some(tree.entry(4).to_vec()),
        index: 4,
        path: tree.inclusion(4, tree.size()),
        checkpoint: signed,
    };
    put("tlog_proof", proof.to_string());
    let tile = Tile::in_tree(Kind::Level(0), 0, tree.size()).unwrap();
    assert_eq!(tile.to_string(), "tile/0/000.p/11");
    let mut rows = String::new();
    raw(&mut rows, 0, &tree.tile(&tile));
    put("tile", rows);
    let bundle = Tile::in_tree(Kind::Entries, 0, 2).unwrap();
    assert_eq!(bundle.to_string(), "tile/entries/000.p/2");
    let lengths = [0, 1].map(|index| tree.entry(index).len());
    put(
        "bundle",
        parts(
            &tree.tile(&bundle),
            &[
                (2, "length of entry 0, big endian"),
                (lengths[0], "entry 0"),
                (2, "length of entry 1"),
                (lengths[1], "entry 1"),
            ],
        ),
    );
    put("decision_token", Signer::from_seed(&key.seed()).sign(&statement()) + "\n");
}

fn statement() -> Statement {
    Statement {
        issuer: ORIGIN.to_owned(),
        lifetime: Lifetime { issued_at_s: 1_793_000_000, expires_at_s: 1_793_000_900 },
        subject: SubjectHash::new("user:42", [5; 16]),
        purpose: "marketing.newsletter".to_owned(),
        channel: "email".to_owned(),
        region: Some(Region::parse("DE").unwrap()),
        data_categories: Vec::new(),
        effect: Effect::Allow,
        reason: Reason::Granted,
        revision: 36,
        decided_by: Some(35),
        valid_until: Some(Millis(1_793_000_900_500)),
        has_obligations: false,
        not_before: None,
        obligations_ignored: false,
    }
}

fn fixture(name: &str) -> PathBuf {
    support::repository("tests/fixtures/format_v1").join(format!("{name}.txt"))
}

#[test]
fn examples_computed_today_equal_the_fixtures() {
    for (name, text) in computed() {
        let path = fixture(&name);
        if env::var_os("NEW_FIXTURES").is_some() && !path.exists() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        let golden =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text, golden, "{name}: bytes of format 1 never change");
    }
}

/// A block of the document: its fixture and its lines.
struct Block {
    name: String,
    start: usize,
    end: usize,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    for (at, _) in document.match_indices("<!-- fixture: ") {
        let rest = &document[at + "<!-- fixture: ".len()..];
        let (name, after) = rest.split_once(" -->\n```text\n").expect("a block follows its marker");
        let start = document.len() - after.len();
        let end = start + after.find("```\n").expect("a block ends");
        found.push(Block { name: name.to_owned(), start, end });
    }
    found
}

#[test]
fn the_document_shows_the_fixtures() {
    let path = support::repository("docs/format.md");
    let mut document = fs::read_to_string(&path).unwrap();
    let golden = |name: &str| {
        fs::read_to_string(fixture(name)).unwrap_or_else(|e| panic!("fixture {name}: {e}"))
    };
    if env::var_os("UPDATE_DOCS").is_some() {
        for block in blocks(&document).into_iter().rev() {
            document.replace_range(block.start..block.end, &golden(&block.name));
        }
        fs::write(&path, &document).unwrap();
    }
    let mut shown: Vec<String> = Vec::new();
    for block in blocks(&document) {
        assert_eq!(document[block.start..block.end], golden(&block.name), "{}", block.name);
        shown.push(block.name);
    }
    shown.sort_unstable();
    let all: Vec<String> = computed().into_keys().collect();
    assert_eq!(shown, all, "every example is shown once");
}

#[test]
fn kept_entries_are_decoded_linked_and_encoded_the_same() {
    let entries = payloads(&kept(LEDGER), b"LEDG");
    let mut tip = chain::Tip::genesis();
    for bytes in &entries {
        let (read, next) = tip.follow(bytes).unwrap();
        assert_eq!(envelope::encode(&read), *bytes);
        tip = next;
    }
    let kinds: Vec<_> = entries.iter().map(|bytes| envelope::decode(bytes).unwrap().body).collect();
    let of = |is: fn(&Body) -> bool| kinds.iter().filter(|body| is(body)).count();
    assert_eq!(of(|body| matches!(body, Body::Opened(_))), 1);
    assert_eq!(of(|body| matches!(body, Body::Act(_))), 2);
    assert_eq!(of(|body| matches!(body, Body::Link(_))), 2);
    for (body, name) in kinds.iter().zip(ENTRIES).filter(|(_, name)| !name.is_empty()) {
        let fits = match body {
            Body::Opened(_) => "ledger_opened",
            Body::Act(_) => "consent_act",
            Body::PurposePut(_) => "purpose_put",
            Body::ChannelPut(_) => "channel_put",
            Body::NamespacePut(_) => "namespace_put",
            Body::PartyPut(_) => "party_put",
            Body::ClockCorrected(_) => "clock_corrected",
            Body::Confirmed(_) => "consent_confirmed",
            Body::Expired(_) => "grant_expired",
            Body::Link(link) if link.confidence.is_some() => "subjects_linked",
            Body::Link(_) => "subjects_unlinked",
            Body::Use(_) => "use_recorded",
            Body::SigningKeyChanged(_) => "signing_key_changed",
            Body::Subscription(SubscriptionEntry::Created(_)) => "subscription_created",
            Body::Subscription(SubscriptionEntry::Deleted(_)) => "subscription_deleted",
            Body::Subscription(SubscriptionEntry::Delivered(_)) => "delivery_receipt",
            Body::Subscription(SubscriptionEntry::Failed(_)) => "delivery_failed",
            Body::Subscription(SubscriptionEntry::Overdue(_)) => "delivery_overdue",
        };
        assert_eq!(fits, name);
    }
}

#[test]
fn a_data_directory_of_format_1_is_served_today() {
    let dir = tempfile::tempdir().unwrap();
    for name in [LEDGER, VAULT] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, kept(name)).unwrap();
    }
    let kek = dir.path().join("kek");
    fs::write(&kek, KEK).unwrap();
    // The fixture is older than signing keys.
    let unsigned = ["--unused-signing-key", "--new-signing-key"];
    Server::start_with(dir.path(), &unsigned).terminate();
    support::verify(dir.path()).expect_code(0);
    tree_and_book_are_as_described(dir.path());
    let server = Server::start(dir.path());
    // This ledger is older than namespaces.
    let catalog = dir.path().join("catalog.toml");
    fs::write(&catalog, "[[namespaces]]\nkey = \"user\"\nkind = \"opaque\"\n").unwrap();
    server.cli(&["catalog", "apply", catalog.to_str().unwrap()]).expect_code(0);
    let check = ["check", "--json", "--subject", "user:42", "--purpose", "marketing.newsletter"];
    let answer = server.cli(&[&check[..], &["--channel", "email"]].concat()).expect_code(0).json();
    assert_eq!(answer["decidedByIndex"], "7", "{answer}");
    let history = server.cli(&["history", "--json", "--subject", "user:42"]).expect_code(0);
    assert!(history.stdout.contains("privacy-2026"), "{}", history.stdout);
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}

/// Checks the files that a closed server leaves in `tree/` and `checkpoint.json`, and their
/// signature.
fn tree_and_book_are_as_described(data_dir: &Path) {
    let tree = Tree::new(payloads(&kept(LEDGER), b"LEDG"));
    let tile = Tile::in_tree(Kind::Level(0), 0, tree.size()).unwrap();
    assert_eq!(fs::read(data_dir.join("tree/0.hashes")).unwrap(), tree.tile(&tile));
    let book = fs::read(data_dir.join("checkpoint.json")).unwrap();
    let book: serde_json::Value = serde_json::from_slice(&book).unwrap();
    assert_eq!(book["format"], 1);
    let key = fs::read_to_string(data_dir.join("signing-key")).unwrap();
    let key = SignerKey::parse(&key).unwrap();
    for line in ["signed", "released"] {
        assert!(book[line]["signed_at_ms"].is_i64(), "{book}");
        let note = book[line]["note"].as_str().unwrap();
        let signed = SignedCheckpoint::open(note, key.verifier()).unwrap().checkpoint;
        assert_eq!((signed.size, signed.root), (tree.size(), tree.root(tree.size())));
    }
}
