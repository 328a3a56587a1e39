//! A ledger in memory: persons, a tip, entries, and the signing key of its checkpoints.

use std::convert::Infallible;

use consent_ledger_format::{
    LEVEL, LedgerId, Reference,
    chain::Tip,
    confidential::{seal_erasure, seal_items},
    entry::{Body, Entry, Uses},
    keys::ledger::ConfidentialRoot,
    message::{
        Change, ChannelPut, Confirmation, Delivery, Door, Erasure, Evidence, IndexRange, Item,
        LedgerOpened, NamedText, PurposePut, Record, RecordKind, ShardDelivery,
        SubscriptionCreated, Totals, Use, VaultState, WebhookAddress, item::Content,
    },
    rebuild::{Counters, Found, Rebuild, RebuildError, Rebuilt, TagMap, VaultFacts},
    slot::{Draft, Written, seal_persons},
    uses::seal_uses,
    vault::{Person, Secrets},
};
use consent_ledger_proto::{Action, Actor, LegalBasis, Outcome, Reason};
use consent_ledger_tlog::{
    checkpoint::{Checkpoint, SignedCheckpoint},
    key::{Algorithm, SignerKey},
    merkle::{self, leaf_hash},
    proof::TlogProof,
};
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

pub const LEDGER: LedgerId = *b"ledger in memory";

/// A step of a random ledger. Numbers name persons, modulo their count.
#[derive(Debug, Clone)]
pub enum Step {
    Act { person: usize, has_evidence: bool, stops: bool },
    Link { persons: [usize; 2] },
    Expire { persons: Vec<usize> },
    Use { persons: Vec<usize> },
    Erase { persons: Vec<usize> },
    Deliver,
}

pub fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let people = || prop::collection::vec(0usize..6, 1..5);
    let step = prop_oneof![
        4 => (0usize..6, any::<bool>(), any::<bool>())
            .prop_map(|(person, has_evidence, stops)| Step::Act { person, has_evidence, stops }),
        1 => any::<[u8; 2]>().prop_map(|it| Step::Link { persons: it.map(usize::from) }),
        1 => people().prop_map(|persons| Step::Expire { persons }),
        2 => people().prop_map(|persons| Step::Use { persons }),
        1 => people().prop_map(|persons| Step::Erase { persons }),
        1 => Just(Step::Deliver),
    ];
    prop::collection::vec(step, 1..25)
}

pub struct TestLedger {
    pub secrets: Secrets,
    pub people: Vec<Person>,
    /// Landed tags of each lane.
    pub counters: Vec<(u64, u64)>,
    pub is_erased: Vec<bool>,
    pub entries: Vec<Entry>,
    pub bytes: Vec<Vec<u8>>,
    pub totals: Totals,
    pub rng: ChaCha20Rng,
    pub tip: Tip,
    /// The record by which each person's last act is named.
    pub last: Vec<Option<Reference>>,
}

impl TestLedger {
    /// A ledger with six persons, whose ids begin with `prefix`.
    pub fn new(seed: u64, prefix: &str) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let secrets = Secrets::random(&mut rng);
        let identity = |number| format!("user:{prefix}{number}");
        let people: Vec<_> = (0..6).map(|it| Person::new(identity(it), &mut rng)).collect();
        let mut ledger = Self {
            secrets,
            counters: vec![(0, 0); people.len()],
            is_erased: vec![false; people.len()],
            last: vec![None; people.len()],
            people,
            entries: Vec::new(),
            bytes: Vec::new(),
            totals: Totals::default(),
            rng,
            tip: Tip::genesis(),
        };
        ledger.append(Body::Opened(LedgerOpened {
            ledger_id: LEDGER.to_vec(),
            origin: "ledger.example".into(),
            format_version: 2,
            created_at_s: 1_800_000_000,
            feature_level: LEVEL,
        }));
        ledger.append(Body::Channel(ChannelPut { key: "email".into(), ..<_>::default() }));
        ledger.append(Body::Purpose(PurposePut {
            key: "marketing.newsletter".into(),
            version: 1,
            legal_basis: LegalBasis::Consent.into(),
            oldest_compatible_version: 1,
            ..PurposePut::default()
        }));
        ledger
    }

    /// The ledger of some steps.
    pub fn of_steps(seed: u64, prefix: &str, steps: &[Step]) -> Self {
        let mut ledger = Self::new(seed, prefix);
        steps.iter().for_each(|step| ledger.step(step));
        ledger
    }

    pub fn root(&self) -> ConfidentialRoot {
        self.secrets.ledger.confidential()
    }

    pub fn next_index(&self) -> u64 {
        self.tip.next_index
    }

    pub fn append(&mut self, body: Body) -> u64 {
        let at = 1_800_000_000 + i64::try_from(self.entries.len()).unwrap();
        let (entry, bytes, tip) = self.tip.link(at, body, &self.root().clear).unwrap();
        assert_eq!(Entry::decode(&bytes).as_ref(), Ok(&entry));
        self.tip = tip;
        self.entries.push(entry);
        self.bytes.push(bytes);
        self.tip.next_index - 1
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Act { person, has_evidence, stops } => {
                self.act(*person, *has_evidence, *stops);
            }
            Step::Link { persons: [one, other] } => {
                let (one, other) = (one % 6, other % 6);
                if one != other {
                    self.records(&[one, other], |person, _| Record {
                        kind: RecordKind::Link.into(),
                        confidence: 1,
                        text: format!("{person} says so"),
                        ..Record::default()
                    });
                }
            }
            Step::Expire { persons } => {
                self.records(persons, |_, last| Record {
                    kind: RecordKind::Expiry.into(),
                    changes: vec![Change {
                        action: Action::Expire.into(),
                        reason: Reason::Expired.into(),
                        cause: last.unwrap_or([7; 16]).to_vec(),
                        expires_at_ms: Some(1_800_000_000_000),
                        ..grant()
                    }],
                    ..Record::default()
                });
            }
            Step::Use { persons } => self.record_use(persons),
            Step::Erase { persons } => self.erase(persons),
            Step::Deliver => {
                self.items(&[delivery(0, 0..self.next_index())]);
            }
        }
    }

    /// An act of one person; none if the person is erased. Returns its index.
    pub fn act(&mut self, person: usize, has_evidence: bool, stops: bool) -> Option<u64> {
        let change = if stops { stop() } else { grant() };
        let record = act(vec![change]);
        let evidence = has_evidence.then(evidence);
        self.write(&[person], |_, _| record.clone(), evidence.as_ref(), None)
    }

    /// Records of several persons, each once. Returns the index of the entry.
    pub fn records(
        &mut self,
        persons: &[usize],
        record: impl Fn(usize, Option<Reference>) -> Record,
    ) -> Option<u64> {
        self.write(persons, record, None, None)
    }

    fn write(
        &mut self,
        persons: &[usize],
        record: impl Fn(usize, Option<Reference>) -> Record,
        evidence: Option<&Evidence>,
        erasure: Option<&Erasure>,
    ) -> Option<u64> {
        let persons = self.living(persons);
        let is_link = |record: &Record| record.kind == RecordKind::Link as i32;
        let index = self.next_index();
        let drafts: Vec<_> = persons
            .iter()
            .enumerate()
            .map(|(at, person)| {
                let record = record(*person, self.last[*person]);
                Draft {
                    keys: &self.people[*person].keys,
                    number: self.counters[*person].0,
                    identity: &self.people[*person].identity,
                    peer: is_link(&record).then_some(1 - at.min(1)),
                    record,
                    evidence: evidence.cloned(),
                }
            })
            .collect();
        if drafts.is_empty() || drafts.iter().any(|it| is_link(&it.record)) && drafts.len() != 2 {
            return None;
        }
        let root = self.root();
        let shared = erasure
            .map(|erasure| seal_erasure(&root, LEDGER, index, erasure, &mut self.rng).unwrap());
        let rng = &mut self.rng;
        let (body, written) = seal_persons(LEDGER, index, &drafts, shared, rng).unwrap();
        self.land(&persons, &written);
        Some(self.append(Body::Persons(body)))
    }

    fn land(&mut self, persons: &[usize], written: &[Written]) {
        for (person, written) in persons.iter().zip(written) {
            self.counters[*person].0 += 1;
            self.last[*person] = Some(written.reference);
        }
    }

    pub fn record_use(&mut self, persons: &[usize]) {
        let persons = self.living(persons);
        if persons.is_empty() {
            return;
        }
        let uses = self.seal_use(&persons);
        for person in &persons {
            self.counters[*person].1 += 1;
        }
        self.totals.lane1 += (uses.tags.len() - persons.len()) as u64;
        self.append(Body::Uses(uses));
    }

    pub fn seal_use(&mut self, persons: &[usize]) -> Uses {
        let users: Vec<_> =
            persons.iter().map(|it| (&self.people[*it].keys, self.counters[*it].1)).collect();
        let (root, index) = (self.root(), self.next_index());
        seal_uses(&root, LEDGER, index, &users, &used(), &mut self.rng).unwrap()
    }

    pub fn erase(&mut self, persons: &[usize]) {
        let persons = self.living(persons);
        for person in &persons {
            self.totals.lane0 += self.counters[*person].0 + 1;
            self.totals.lane1 += self.counters[*person].1;
        }
        let erasure = Erasure {
            totals: Some(self.totals),
            persons: persons.len() as u64,
            generation: 1,
            ..Erasure::default()
        };
        let kind = RecordKind::Erased.into();
        self.write(&persons, |_, _| Record { kind, ..Record::default() }, None, Some(&erasure));
        persons.iter().for_each(|person| self.is_erased[*person] = true);
    }

    pub fn items(&mut self, items: &[Item]) -> u64 {
        let (root, index) = (self.root(), self.next_index());
        let sealed = seal_items(&root, LEDGER, index, items, &mut self.rng).unwrap();
        self.append(Body::Confidential(sealed))
    }

    /// The state of the vault after a compaction, as an item.
    pub fn vault_state(&mut self, generation: u64, tombstones: u64) {
        let state = VaultState { generation, tombstones, totals: Some(self.totals) };
        self.items(&[item(Content::Vault(state))]);
    }

    /// Named persons who live, each once.
    fn living(&self, persons: &[usize]) -> Vec<usize> {
        let mut persons: Vec<_> = persons.iter().map(|person| person % 6).collect();
        persons.sort_unstable();
        persons.dedup();
        persons.retain(|person| !self.is_erased[*person]);
        persons
    }

    /// A pass over the ledger with the keys of some persons.
    pub fn rebuild_with(
        &self,
        people: &[Person],
        generation: u64,
        visit: &mut dyn FnMut(u64, Found<'_>),
    ) -> Result<Rebuilt<TagMap>, RebuildError<Infallible>> {
        let facts = VaultFacts { generation, tombstones: 0 };
        let mut rebuild = Rebuild::new(LEDGER, facts, people, TagMap::default())?;
        let root = self.root();
        for entry in &self.entries {
            rebuild.apply(&root, entry, &mut |found| visit(entry.index, found))?;
        }
        rebuild.finish()
    }

    pub fn rebuild(&self) -> Result<Rebuilt<TagMap>, RebuildError<Infallible>> {
        self.rebuild_with(&self.people, 1, &mut |_, _| {})
    }

    /// The persons that are not erased.
    pub fn survivors(&self) -> Vec<Person> {
        let people = self.people.iter().zip(&self.is_erased);
        people.filter(|(_, is_erased)| !**is_erased).map(|(person, _)| person.clone()).collect()
    }

    pub fn signer() -> SignerKey {
        SignerKey::from_seed("ledger.example", Algorithm::Note, &[1; 32]).unwrap()
    }

    /// The proof of an entry against a checkpoint of the whole ledger.
    pub fn proof(&self, index: u64) -> TlogProof {
        let size = self.bytes.len() as u64;
        let subtree = |height: u32, number: u64| Ok::<_, Infallible>(self.hash_of(height, number));
        let path = merkle::prove_inclusion(index, size, subtree).unwrap();
        let root = merkle::root(size, subtree).unwrap();
        let origin = "ledger.example".to_owned();
        let checkpoint = Checkpoint { origin, size, root, extensions: String::new() };
        let checkpoint = SignedCheckpoint::sign(checkpoint, &Self::signer()).unwrap();
        TlogProof { extra: None, index, path, checkpoint }
    }

    fn hash_of(&self, height: u32, number: u64) -> merkle::Hash {
        if height == 0 {
            return leaf_hash(&self.bytes[usize::try_from(number).unwrap()]);
        }
        let (left, right) = (2 * number, 2 * number + 1);
        merkle::node_hash(&self.hash_of(height - 1, left), &self.hash_of(height - 1, right))
    }
}

pub fn entry_at(ledger: &TestLedger, index: u64) -> &Entry {
    &ledger.entries[usize::try_from(index).unwrap()]
}

pub fn grant() -> Change {
    Change {
        action: Action::Grant.into(),
        purpose: 1,
        channel: 1,
        purpose_version: 1,
        outcome: Outcome::Applied.into(),
        ..Change::default()
    }
}

pub fn stop() -> Change {
    Change {
        action: Action::Withdraw.into(),
        purpose: 1,
        channel: 1,
        outcome: Outcome::Applied.into(),
        ..Change::default()
    }
}

pub fn act(changes: Vec<Change>) -> Record {
    Record {
        kind: RecordKind::Act.into(),
        recorded_ms: 902,
        actor: Actor::Subject.into(),
        effective_at_ms: 1_800_000_000_902,
        changes,
        door: Door::Call.into(),
        ..Record::default()
    }
}

/// An act with everything that can be in one.
pub fn full_act() -> Record {
    let confirmation = Confirmation {
        nonce: vec![1; 16],
        token_hash: vec![2; 32],
        expires_at_ms: 1_800_600_000_000,
    };
    let pending = Change { outcome: Outcome::PendingConfirmation.into(), ..grant() };
    Record {
        idempotency: vec![3; 16],
        request_digest: vec![4; 16],
        confirmation: Some(confirmation),
        ..act(vec![pending])
    }
}

pub fn evidence() -> Evidence {
    Evidence {
        touchpoint: "onboarding".into(),
        notice_id: "privacy".into(),
        attributes: vec![NamedText { name: "form".into(), text: "7".into() }],
        ..Evidence::default()
    }
}

pub fn used() -> Use {
    Use {
        purpose: 1,
        channel: 1,
        used_at_ms: 1_800_000_000_000,
        reason: Reason::Granted.into(),
        ..Use::default()
    }
}

pub fn item(content: Content) -> Item {
    Item { recorded_ms: 5, content: Some(content) }
}

pub fn subscription() -> Item {
    item(Content::SubscriptionCreated(SubscriptionCreated {
        name: "mailer".into(),
        owner: "crm".into(),
        shards: 4,
        has_webhook: true,
        ..SubscriptionCreated::default()
    }))
}

pub fn webhook() -> Item {
    let url = "https://hooks.example/?token=SECRET".into();
    item(Content::WebhookAddress(WebhookAddress { url }))
}

pub fn delivery(subscription_index: u64, range: std::ops::Range<u64>) -> Item {
    let range = IndexRange { start_index: range.start, end_index: range.end };
    let shard = ShardDelivery {
        shard: 1,
        ranges: vec![range],
        acknowledged_at_ms: 1_800_000_000_000,
        snapshot: false,
    };
    item(Content::Delivery(Delivery { subscription_index, shards: vec![shard] }))
}

/// Where a counter of the pass stands.
pub fn landed(counters: &Counters) -> (u64, u64) {
    (counters.records, counters.uses)
}
