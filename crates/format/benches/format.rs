//! The parts of an act that format 2 adds, one at a time: the key tree, sealing and opening an entry about one
//! person, a frame of the vault, and the pass over a ledger.

use std::{convert::Infallible, hint::black_box};

use consent_ledger_format::{
    LedgerId,
    chain::Tip,
    entry::{Body, Entry, Persons},
    keys::{
        ledger::LedgerSecret,
        person::PersonKeys,
        tree::{KeyTree, TreePath},
    },
    message::{Change, Evidence, LedgerOpened, Record, RecordKind},
    rebuild::{Rebuild, RebuildError, TagMap, VaultFacts},
    secret::Key,
    slot::{Draft, open_evidence, open_record, seal_persons},
    vault::{Content, Person, Secrets, Vault},
};
use consent_ledger_proto::{Action, Actor, Outcome};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LEDGER: LedgerId = [7; 16];
const PERSONS: usize = 1_000;
const ACTS_A_PERSON: u64 = 10;

fn record() -> Record {
    let change = Change {
        action: Action::Grant.into(),
        purpose: 1,
        channel: 1,
        purpose_version: 1,
        outcome: Outcome::Applied.into(),
        ..Change::default()
    };
    Record {
        kind: RecordKind::Act.into(),
        recorded_ms: 902,
        actor: Actor::Subject.into(),
        effective_at_ms: 1_800_000_000_902,
        changes: vec![change],
        ..Record::default()
    }
}

fn evidence() -> Evidence {
    Evidence {
        touchpoint: "onboarding".into(),
        notice_id: "privacy".into(),
        notice_version: "3".into(),
        language: "de-AT".into(),
        notice_hash: vec![7; 32],
        method: "checkbox".into(),
        ..Evidence::default()
    }
}

fn draft(person: &Person, number: u64) -> Draft<'_> {
    let (keys, identity) = (&person.keys, person.identity.as_str());
    let evidence = Some(evidence());
    Draft { keys, number, identity, record: record(), evidence, peer: None }
}

fn sealed(person: &Person, index: u64, number: u64) -> Persons {
    let drafts = [draft(person, number)];
    let sealed = seal_persons(LEDGER, index, &drafts, None, &mut rand::rng());
    sealed.expect("an act of one person can be sealed").0
}

fn key_tree(criterion: &mut Criterion) {
    let tree = KeyTree::whole(Key::new([1; 32]));
    criterion.bench_function("key tree: a leaf, 32 hashes", |bencher| {
        let mut number = 0;
        bencher.iter(|| {
            number += 1;
            tree.leaf(black_box(number))
        });
    });
    criterion.bench_function("key tree: the next leaf, path cached", |bencher| {
        let (mut path, mut number) = (TreePath::new(tree.clone()), 0);
        bencher.iter(|| {
            number += 1;
            path.leaf(black_box(number))
        });
    });
}

fn one_person(criterion: &mut Criterion) {
    let person = Person::new("user:42".into(), &mut rand::rng());
    let keys: &PersonKeys = &person.keys;
    criterion.bench_function("person: tag and commitment to the next", |bencher| {
        bencher.iter(|| (keys.tags().tag(black_box(5)), keys.tags().next(5)));
    });
    criterion.bench_function("entry: seal an act with evidence", |bencher| {
        bencher.iter(|| sealed(&person, black_box(9), 5));
    });
    let persons = sealed(&person, 9, 5);
    criterion.bench_function("entry: open the record", |bencher| {
        bencher.iter(|| open_record(keys, &person.identity, 5, LEDGER, 9, black_box(&persons), 0));
    });
    criterion.bench_function("entry: open the evidence", |bencher| {
        bencher.iter(|| open_evidence(keys, 5, LEDGER, 9, black_box(&persons.slots[0])));
    });
    let entry = Entry {
        index: 9,
        prev_hash: [0; 32],
        recorded_at_s: 1_800_000_000,
        mac: None,
        body: Body::Persons(persons),
    };
    let bytes = entry.encode();
    criterion.bench_function("entry: decode without keys", |bencher| {
        bencher.iter(|| Entry::decode(black_box(&bytes)));
    });
}

fn vault(criterion: &mut Criterion) {
    let (rng, kek) = (&mut rand::rng(), Key::new([5; 32]));
    let made = Vault::create(LEDGER, &kek, Secrets::random(rng), rng);
    let (mut vault, _) = made.expect("a vault can be made");
    let person = Content::Person(Person::new("email:jo@example.org".into(), rng));
    let number = vault.next_number();
    let frame = vault.append(&person, rng).expect("a person fits in a frame");
    criterion.bench_function("vault: append a person", |bencher| {
        bencher.iter(|| vault.append(black_box(&person), rng));
    });
    let reader = &vault;
    criterion.bench_function("vault: open a frame", |bencher| {
        bencher.iter(|| reader.open_at(number, black_box(&frame)));
    });
}

fn rebuild(criterion: &mut Criterion) {
    let rng = &mut rand::rng();
    let people: Vec<_> = (0..PERSONS).map(|it| Person::new(format!("user:{it}"), rng)).collect();
    let root = LedgerSecret::random(rng).confidential();
    let mut entries = vec![Body::Opened(LedgerOpened::default())];
    for number in 0..ACTS_A_PERSON {
        for person in &people {
            let index = entries.len() as u64;
            entries.push(Body::Persons(sealed(person, index, number)));
        }
    }
    let (prev_hash, recorded_at_s) = (Tip::genesis().hash, 1_800_000_000);
    let entries: Vec<_> = (0..)
        .zip(entries)
        .map(|(index, body)| Entry::new(index, prev_hash, recorded_at_s, body, &root.clear))
        .collect();
    let mut group = criterion.benchmark_group("rebuild");
    group.throughput(Throughput::Elements(entries.len() as u64)).sample_size(10);
    group.bench_function("10,000 acts of 1,000 persons", |bencher| {
        bencher.iter(|| -> Result<_, RebuildError<Infallible>> {
            let facts = VaultFacts { generation: 1, tombstones: 0 };
            let mut pass = Rebuild::new(LEDGER, facts, &people[..], TagMap::default())?;
            for entry in &entries {
                pass.apply(&root, entry, &mut |found| {
                    black_box(found);
                })?;
            }
            pass.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, key_tree, one_person, vault, rebuild);
criterion_main!(benches);
