//! The parts of a check and an act, in process, one at a time. `consent-ledger-bench` measures the whole
//! service over gRPC with baselines.

use std::{
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use consent_ledger::{
    config::ServeConfig,
    decide::decide,
    domain::{
        Action, Actor, Catalog, Change, ChannelPut, ContactChange, Evidence, Grant, Key,
        LegalBasis, Mark, Millis, Namespace, NamespaceKind, PhoneRegion, PurposePut,
        PurposeVersion, Query, ScopeKeys, Subject, SubjectState,
    },
    format::{
        entry::{Body, Persons, Slot},
        keys::ledger::LedgerSecret,
        seal::Sealed,
        secret::Key as SecretKey,
    },
    ledger::{LEVEL, Tip, chain},
    node::{Act, Idempotency, Node, NodeConfig, PurposeDraft, Question},
    telemetry::Metrics,
    vault::Kek,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PURPOSE: &str = "marketing.newsletter";
const CHANNEL: &str = "email";
const SUBJECTS: u64 = 10_000;

/// Number of idempotency keys so far.
static KEYS: AtomicU64 = AtomicU64::new(0);

fn key(text: &str) -> Key {
    Key::parse(text).expect("a key")
}

fn content() -> PurposeVersion {
    PurposeVersion {
        title: "Newsletter".to_owned(),
        description: String::new(),
        legal_basis: LegalBasis::Consent,
        basis_by_region: std::collections::BTreeMap::new(),
        data_categories: vec!["user.contact".to_owned()],
        default_validity_ms: None,
        double_opt_in: false,
        obligations: Vec::new(),
        controller: None,
        recipients: None,
    }
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.put_channel(ChannelPut { key: key(CHANNEL), title: String::new(), retired: false });
    let put = PurposePut {
        key: key(PURPOSE),
        version: 1,
        content: content(),
        oldest_compatible: 1,
        retired: false,
    };
    catalog.put_purpose(2, put);
    catalog
}

fn bench_decide(c: &mut Criterion) {
    let catalog = catalog();
    let (purpose, channel) = (catalog.purpose_id(PURPOSE), catalog.channel_id(CHANNEL));
    let mut state = SubjectState::default();
    let grant = Grant {
        mark: Mark { effective_at: Millis(5), index: 3 },
        actor: Actor::Subject,
        purpose_version: 1,
        expires_at: None,
        data_categories: None,
        authority_ends_at: None,
        confirmed_by: None,
    };
    state.merge_grant(purpose.expect("put"), channel.expect("put"), grant);
    c.bench_function("decide: granted", |b| {
        b.iter(|| {
            let query = Query::new(&catalog, black_box(PURPOSE), black_box(CHANNEL), &[], None);
            decide(&catalog, black_box(&state), &query, Millis(9))
        });
    });
}

fn config(dir: &Path) -> NodeConfig {
    NodeConfig {
        data_dir: dir.to_owned(),
        origin: Some("consent.example.org/bench".to_owned()),
        kek: Some(Kek::random()),
        hot_bytes_max: 256 << 20,
        recent_events_max: 1_024,
        scrub_bytes_per_second: 0,
        ..ServeConfig::default().node
    }
}

fn act(number: u64) -> Act {
    Act {
        subject: Subject::parse(&format!("user:{number}")).expect("a subject"),
        actor: Actor::Subject,
        changes: vec![Change {
            action: Action::Grant,
            scope: ScopeKeys { purpose: Some(key(PURPOSE).into()), channel: Some(key(CHANNEL)) },
            purpose_version: None,
            expires_at: None,
            data_categories: Vec::new(),
        }],
        contact: ContactChange::default(),
        effective_at: None,
        record_only_news: false,
        confirmation_validity_ms: None,
        reported_late: false,
        evidence: Evidence { touchpoint: "onboarding".to_owned(), ..Evidence::default() },
        // A new key for each act, as callers should use it.
        idempotency: Some(Idempotency {
            key: format!("bench-{}", KEYS.fetch_add(1, Ordering::Relaxed)),
            request: vec![0x5a; 200],
        }),
    }
}

async fn record_all(node: &Arc<Node>, numbers: std::ops::Range<u64>) {
    let calls = numbers.map(|number| {
        let node = Arc::clone(node);
        tokio::spawn(async move { node.record(act(number)).await.expect("recorded") })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("recorded");
    }
}

fn bench_node(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    consent_ledger::node::init(&config).expect("a ledger");
    let node = Node::open(&config, Arc::new(Metrics::default())).expect("a node");
    runtime.block_on(async {
        let channel = ChannelPut { key: key(CHANNEL), title: String::new(), retired: false };
        node.put_channel(channel).await.expect("put");
        let draft = PurposeDraft {
            key: key(PURPOSE),
            content: content(),
            oldest_compatible: None,
            requires_reconsent: false,
            retired: false,
        };
        node.put_purpose(draft).await.expect("put");
        for start in (0..SUBJECTS).step_by(1_000) {
            record_all(&node, start..start + 1_000).await;
        }
    });

    let subjects: Vec<Subject> = (0..SUBJECTS).map(|number| act(number).subject).collect();
    let mut next = subjects.iter().cycle();
    c.bench_function("node: check, 10,000 hot subjects in turn", |b| {
        b.iter(|| {
            let subject = next.next().expect("it cycles");
            let question = Question {
                subject,
                purpose: PURPOSE,
                channel: CHANNEL,
                data_categories: &[],
                region: None,
                ignore_obligations: false,
            };
            node.check(&question).expect("an answer")
        });
    });

    let catalog = namespaces();
    for (name, given) in
        [("phone number", "tel:+436641234567"), ("e-mail address", "email:kim@x.example")]
    {
        let stored = Act { subject: Subject::parse(given).expect("a subject"), ..act(0) };
        runtime.block_on(node.record(stored)).expect("recorded");
        c.bench_function(&format!("canonical form/{name}, stored"), |b| {
            b.iter(|| catalog.subject_unless_stored(black_box(given), |it| node.remembers(it)));
        });
    }

    let mut group = c.benchmark_group("node");
    group.sample_size(20).throughput(Throughput::Elements(1_000));
    group.bench_function("record, 1,000 in flight, durable", |b| {
        b.iter(|| runtime.block_on(record_all(&node, 0..1_000)));
    });
    group.finish();
}

fn bench_entry(c: &mut Criterion) {
    let slot = Slot {
        tag: [7; 16],
        salt: [7; 16],
        record: Sealed { ciphertext: vec![7; 208], commitment: [7; 32] },
        evidence: Some(Sealed { ciphertext: vec![7; 272], commitment: [7; 32] }),
    };
    let body = Body::Persons(Persons { slots: vec![slot], erasure: None });
    let key = LedgerSecret::new(SecretKey::new([1; 32])).confidential().clear;
    let tip = Tip { next_index: 1, hash: [7; 32], recorded_at_s: 5, level: LEVEL };
    c.bench_function("entry: link to the chain", |b| {
        b.iter(|| tip.link(5, black_box(body.clone()), &key));
    });
    let bytes = vec![0x5a; 300];
    let mut group = c.benchmark_group("chain");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("hash of 300 bytes", |b| b.iter(|| chain::hash(black_box(&bytes))));
    group.finish();
}

/// A namespace of each kind.
fn namespaces() -> Catalog {
    let mut catalog = Catalog::default();
    let namespaces = [
        ("user", NamespaceKind::Opaque),
        ("email", NamespaceKind::Email { fold_local_part: true }),
        ("tel", NamespaceKind::Phone { default_region: PhoneRegion::parse("AT").ok() }),
        ("domain", NamespaceKind::Domain),
    ];
    for (name, kind) in namespaces {
        let (key, title) = (key(name), String::new());
        catalog.put_namespace(Namespace { key, title, kind, form_version: 1 });
    }
    catalog
}

/// What the canonical form costs a call, for spellings as they come and for the worst of them.
fn bench_canonical_form(c: &mut Criterion) {
    let catalog = namespaces();
    let mut group = c.benchmark_group("canonical form");
    for (name, given) in [
        ("user", "user:000000042"),
        ("e-mail address", "email:kim@x.example"),
        ("e-mail address, decorated", "Email:Ren\u{c9} <RENE\u{301}@b\u{fc}cher.example>"),
        ("phone number", "tel:+436641234567"),
        ("phone number, national", "tel:'0664/123 45-67"),
        ("domain", "domain:B\u{fc}cher.example."),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| catalog.subject(black_box(given)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench_decide, bench_canonical_form, bench_node, bench_entry);
criterion_main!(benches);
