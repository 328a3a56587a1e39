//! The catalogue that the tables share, and a short notation for entries.
//!
//! Everything that happens is an entry; entries are separated by `;` and numbered from 100, in
//! their order of arrival. The entries of the catalogue have the numbers below.
//!
//! - `5 subject grant news:email` is an act: time, actor, action, scope. Further changes follow after
//!   `and`. A grant may go on with `v2`, `until 50` or `only user.name,user.age`. The authority of
//!   `guardian/18` ends at 18.
//! - `confirm 100` completes the double opt-in of act 100.
//! - `b 5 subject withdraw *:*` is an act of `b`. Without a name it is one of `a`, the one that is
//!   asked about.
//! - `verify a b`, `assert a b` and `unlink a b` link two names, or end their link.
//! - `erase` asks for the erasure of `a`.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use consent_ledger::{
    domain::{
        Action, Actor, Body, Catalog, ChangeRecord, ChannelPut, ConsentAct, ConsentConfirmed,
        ContactChange, Door, Key, LegalBasis, LinkChange, LinkConfidence, Mark, Millis, Obligation,
        Outcome, PurposeName, PurposePut, PurposeVersion, Region, ScopeKeys, SubjectRef,
        SubjectState,
    },
    entry::{Fact, Place},
    fold::{self, Acted, Linked, consent::ActFacts, reach, unite},
};

/// Index of the first entry after those of the catalogue.
pub const FIRST_ENTRY: u64 = 100;
/// The data subject that questions are about.
pub const ASKED: Name = 'a';

/// A data subject, by its name in a test.
pub type Name = char;

/// One entry of a test.
#[derive(Debug, Clone)]
pub struct Entry {
    pub index: u64,
    pub content: Content,
}

/// The content of an entry.
#[derive(Debug, Clone)]
pub enum Content {
    Act(Act),
    Confirmed(Confirmation),
    Link { one: Name, other: Name, confidence: Option<LinkConfidence> },
    Erased(Name),
}

/// One act.
#[derive(Debug, Clone)]
pub struct Act {
    pub subject: Name,
    pub effective_at: Millis,
    pub actor: Actor,
    pub authority_ends_at: Option<Millis>,
    pub changes: Vec<ChangeRecord>,
}

/// The completion of an act's double opt-in.
#[derive(Debug, Clone)]
pub struct Confirmation {
    pub request_index: u64,
    pub request: Act,
    pub grants: Vec<ChangeRecord>,
}

impl Act {
    pub fn facts(&self, index: u64) -> ActFacts<'_> {
        ActFacts {
            index,
            effective_at: self.effective_at,
            actor: self.actor,
            changes: &self.changes,
            authority_ends_at: self.authority_ends_at,
        }
    }

    /// The grants of the act that wait for a double opt-in.
    pub fn waiting(&self, catalog: &Catalog) -> Vec<ChangeRecord> {
        let waits = |change: &&ChangeRecord| {
            let purpose = change
                .scope
                .purpose
                .as_ref()
                .and_then(PurposeName::as_one)
                .and_then(|key| catalog.purpose(catalog.purpose_id(key.as_str()).unwrap()));
            let version = purpose.and_then(|purpose| purpose.at_version(change.purpose_version));
            change.action == Action::Grant && version.is_some_and(|version| version.double_opt_in)
        };
        self.changes.iter().filter(waits).cloned().collect()
    }
}

impl Entry {
    /// The entry as the ledger holds it; none for an erasure, which the ledger does not know yet.
    pub fn body(&self) -> Option<Body> {
        match &self.content {
            Content::Act(act) => Some(Body::Act(ConsentAct {
                subject_ref: name_ref(act.subject),
                actor: act.actor,
                effective_at: act.effective_at,
                changes: act.changes.clone(),
                door: Door::Call,
                import: None,
                idempotency: None,
                authority_ends_at: act.authority_ends_at,
                confirmation: None,
                contact: ContactChange::default(),
            })),
            Content::Confirmed(confirmation) => Some(Body::Confirmed(confirmation.body())),
            Content::Link { one, other, confidence } => Some(Body::Link(LinkChange {
                subject_ref: name_ref(*one),
                other_ref: name_ref(*other),
                confidence: *confidence,
                asserted_by: String::new(),
            })),
            Content::Erased(_) => None,
        }
    }

    /// The data subjects that the entry is about.
    pub fn names(&self) -> Vec<Name> {
        match &self.content {
            Content::Act(act) => vec![act.subject],
            Content::Confirmed(confirmation) => vec![confirmation.request.subject],
            Content::Link { one, other, .. } => vec![*one, *other],
            Content::Erased(name) => vec![*name],
        }
    }
}

impl Confirmation {
    fn body(&self) -> ConsentConfirmed {
        ConsentConfirmed {
            subject_ref: name_ref(self.request.subject),
            request_index: self.request_index,
            requested_by: self.request.actor,
            requested_at: self.request.effective_at,
            authority_ends_at: self.request.authority_ends_at,
            effective_at: self.request.effective_at,
            grants: self.grants.clone(),
            idempotency: None,
        }
    }
}

fn name_ref(name: Name) -> SubjectRef {
    SubjectRef([u8::try_from(name).unwrap(); 16])
}

/// The states of all data subjects, each without its links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct People {
    states: BTreeMap<Name, SubjectState>,
}

impl People {
    /// The states after some entries, folded in the order given.
    pub fn after<'a>(catalog: &Catalog, entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut people = Self::default();
        for entry in entries {
            people.fold(catalog, entry);
        }
        people
    }

    pub fn fold(&mut self, catalog: &Catalog, entry: &Entry) {
        let body = entry.body();
        for name in entry.names().into_iter().collect::<BTreeSet<_>>() {
            let state = self.states.entry(name).or_default();
            match &body {
                Some(body) => {
                    let place = Place { index: entry.index, recorded_at: Millis(0) };
                    let fact = Fact { place, kind: body.kind() };
                    fold::subject(catalog, state, name_ref(name), fact)
                        .expect("the tests name what the catalogue has");
                }
                None => {
                    let first = state
                        .erased_by
                        .map_or(entry.index, |first_erasure| first_erasure.min(entry.index));
                    state.erased_by = Some(first);
                }
            }
        }
    }

    /// The state of a data subject from its own entries alone.
    pub fn own_state(&self, name: Name) -> SubjectState {
        self.states.get(&name).cloned().unwrap_or_default()
    }

    /// The state including the contributions of linked data subjects.
    pub fn whole(&self, name: Name) -> SubjectState {
        unite(&self.own_state(name), &self.linked(name))
    }

    fn linked(&self, name: Name) -> Vec<Linked> {
        let state_of = |other: SubjectRef| {
            Ok::<_, Infallible>(Arc::new(self.own_state(char::from(other.0[0]))))
        };
        let Ok(linked) = reach(name_ref(name), &self.own_state(name), state_of);
        linked
    }

    /// Folds in an entry; returns its changes with their outcomes.
    pub fn record(&mut self, catalog: &Catalog, entry: &Entry, now: Millis) -> Vec<ChangeRecord> {
        let (request_index, act, mut changes, is_confirmation) = match &entry.content {
            Content::Act(act) => (entry.index, act, act.changes.clone(), false),
            Content::Confirmed(confirmation) => (
                confirmation.request_index,
                &confirmation.request,
                confirmation.grants.clone(),
                true,
            ),
            Content::Link { .. } | Content::Erased(_) => {
                self.fold(catalog, entry);
                return Vec::new();
            }
        };
        let before = Arc::new(self.own_state(act.subject));
        let linked = self.linked(act.subject);
        self.fold(catalog, entry);
        let acted = Acted {
            catalog,
            subject: name_ref(act.subject),
            before: &before,
            after: &Arc::new(self.own_state(act.subject)),
            linked: &linked,
            mark: Mark { effective_at: act.effective_at, index: request_index },
            actor: act.actor,
            now,
            is_confirmation,
        };
        acted.outcomes(&mut changes).expect("the tests name what the catalogue has");
        changes
    }
}

/// One entry of the catalogue about a purpose.
pub struct PurposeLine {
    pub index: u64,
    pub key: &'static str,
    /// The default basis, then `REGION=BASIS`.
    pub bases: &'static str,
    pub double_opt_in: bool,
    pub categories: &'static [&'static str],
    pub oldest_compatible: u32,
    pub retired: bool,
}

const fn line(
    index: u64,
    key: &'static str,
    bases: &'static str,
    categories: &'static [&'static str],
) -> PurposeLine {
    PurposeLine {
        index,
        key,
        bases,
        double_opt_in: false,
        categories,
        oldest_compatible: 1,
        retired: false,
    }
}

impl PurposeLine {
    /// The fields that make a version: a change of any of them is a new version.
    pub fn version_content(&self) -> (&str, bool, &[&str]) {
        (self.bases, self.double_opt_in, self.categories)
    }

    const fn double_opt_in(self) -> Self {
        Self { double_opt_in: true, ..self }
    }

    const fn oldest_compatible(self, version: u32) -> Self {
        Self { oldest_compatible: version, ..self }
    }

    const fn retired(self) -> Self {
        Self { retired: true, ..self }
    }
}

/// The purposes, one line an entry. `news` and `care` come with an obligation.
#[rustfmt::skip]
pub const PURPOSES: [PurposeLine; 25] = [
    line(1,  "news",    "consent",             &["user.contact", "user.name"]),
    line(2,  "offers",  "consent",             &["user.contact"]).double_opt_in(),
    line(3,  "care",    "legitimate-interest", &["user.contact"]),
    line(4,  "invoice", "contract",            &["user.contact"]),
    line(5,  "tax",     "legal-obligation",    &[]),
    line(6,  "rescue",  "vital-interest",      &[]),
    line(7,  "census",  "public-task",         &[]),
    line(8,  "old",     "consent",             &[]),
    line(9,  "old",     "consent",             &[]).retired(),
    // Version 1 of `profile` no longer counts: entry 12 raised the oldest compatible to 2.
    line(10, "profile", "consent",             &["user.contact"]),
    line(11, "profile", "consent",             &["user.contact", "user.age"]),
    line(12, "profile", "consent",             &["user.contact", "user.age"]).oldest_compatible(2),
    // `club` needs a double opt-in from version 2 on; version 1 still counts.
    line(13, "club",    "consent",             &["user.contact"]),
    line(14, "club",    "consent",             &["user.contact"]).double_opt_in(),
    // Purposes that once had another legal basis.
    line(15, "account", "consent",             &["user.contact"]),
    line(16, "account", "contract",            &["user.contact"]),
    line(17, "insight", "consent",             &["user.contact"]),
    line(18, "insight", "legitimate-interest", &["user.contact"]),
    line(19, "bonus",   "legitimate-interest", &["user.contact"]),
    line(20, "bonus",   "contract",            &["user.contact"]),
    // Purposes with another legal basis in some regions.
    line(21, "ads",     "consent US=legitimate-interest US-CA=consent BR=contract", &["user.contact"]),
    line(22, "support", "contract DE=consent", &["user.contact"]),
    // A class, one within it, and a purpose that is in neither.
    line(23, "shop",           "consent", &["user.contact"]),
    line(24, "shop.news",      "consent", &["user.contact"]),
    line(25, "shop.ads.fresh", "consent", &["user.contact"]),
];

/// Channels of the catalogue; `fax` is retired.
pub const CHANNELS: [(&str, bool); 3] = [("email", false), ("sms", false), ("fax", true)];

/// The obligation of `news` and `care`.
pub fn obligation() -> Obligation {
    Obligation::QuietHours { start_minute: 1_320, end_minute: 420, time_zone: String::new() }
}

pub fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for (key, retired) in CHANNELS {
        catalog.put_channel(ChannelPut { key: self::key(key), title: key.to_owned(), retired });
    }
    for line in PURPOSES {
        put(&mut catalog, &line);
    }
    catalog
}

fn put(catalog: &mut Catalog, line: &PurposeLine) {
    let known = catalog.purpose_id(line.key).and_then(|id| catalog.purpose(id));
    let mut bases = line.bases.split(' ');
    let content = PurposeVersion {
        title: line.key.to_owned(),
        description: String::new(),
        legal_basis: basis(bases.next().unwrap()),
        basis_by_region: bases.map(region_basis).collect(),
        data_categories: line.categories.iter().map(|&text| text.to_owned()).collect(),
        default_validity_ms: None,
        double_opt_in: line.double_opt_in,
        obligations: if matches!(line.key, "news" | "care") { vec![obligation()] } else { vec![] },
        controller: None,
        recipients: None,
    };
    let version = match known {
        None => 1,
        Some(purpose) if *purpose.current() == content => purpose.version(),
        Some(purpose) => purpose.version() + 1,
    };
    let put = PurposePut {
        key: key(line.key),
        version,
        content,
        oldest_compatible: line.oldest_compatible,
        retired: line.retired,
    };
    catalog.put_purpose(line.index, put);
}

fn basis(text: &str) -> LegalBasis {
    match text {
        "consent" => LegalBasis::Consent,
        "contract" => LegalBasis::Contract,
        "legal-obligation" => LegalBasis::LegalObligation,
        "vital-interest" => LegalBasis::VitalInterest,
        "public-task" => LegalBasis::PublicTask,
        "legitimate-interest" => LegalBasis::LegitimateInterest,
        other => panic!("{other} is no legal basis"),
    }
}

fn region_basis(text: &str) -> (Region, LegalBasis) {
    let (region, basis_word) = text.split_once('=').unwrap();
    (Region::parse(region).unwrap(), basis(basis_word))
}

pub fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub fn scope(text: &str) -> ScopeKeys {
    let (purpose, channel) = text.split_once(':').unwrap();
    ScopeKeys {
        purpose: (purpose != "*").then(|| PurposeName::parse(purpose).unwrap()),
        channel: (channel != "*").then(|| key(channel)),
    }
}

pub fn change(action: Action, scope: ScopeKeys, purpose_version: u32) -> ChangeRecord {
    ChangeRecord {
        action,
        scope,
        purpose_version: if action == Action::Grant { purpose_version } else { 0 },
        expires_at: None,
        data_categories: Vec::new(),
        // The fold must not read the outcome of an act: start from one that is never right here.
        outcome: Outcome::SupersededByLater(Some(u64::MAX)),
        linked_subjects: u32::MAX,
    }
}

/// Reads entries.
pub fn entries(catalog: &Catalog, text: &str) -> Vec<Entry> {
    let texts = text.split(';').map(str::trim).filter(|text| !text.is_empty());
    let mut entries: Vec<Entry> = Vec::new();
    for (index, text) in (FIRST_ENTRY..).zip(texts) {
        let content = read_entry(catalog, &entries, text);
        entries.push(Entry { index, content });
    }
    entries
}

fn read_entry(catalog: &Catalog, before: &[Entry], text: &str) -> Content {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let link = |confidence| {
        let (one, other) = rest.split_once(' ').unwrap();
        Content::Link { one: one.parse().unwrap(), other: other.parse().unwrap(), confidence }
    };
    match first {
        "confirm" => {
            let request_index = rest.parse().unwrap();
            let request = before.iter().find_map(|entry| match &entry.content {
                Content::Act(act) if entry.index == request_index => Some(act.clone()),
                _ => None,
            });
            let request = request.unwrap();
            let grants = request.waiting(catalog);
            Content::Confirmed(Confirmation { request_index, request, grants })
        }
        "verify" => link(Some(LinkConfidence::Verified)),
        "assert" => link(Some(LinkConfidence::Asserted)),
        "unlink" => link(None),
        "erase" => Content::Erased(ASKED),
        time if time.parse::<i64>().is_ok() => Content::Act(read_act(ASKED, text)),
        name => Content::Act(read_act(name.parse().unwrap(), rest)),
    }
}

fn read_act(subject: Name, text: &str) -> Act {
    let (time, text) = text.split_once(' ').unwrap();
    let (actor, text) = text.split_once(' ').unwrap();
    let (actor, ends_at) = actor.split_once('/').map_or((actor, None), |(a, at)| (a, Some(at)));
    let actor = match actor {
        "subject" => Actor::Subject,
        "guardian" => Actor::Guardian,
        "agent" => Actor::Agent,
        "operator" => Actor::Operator,
        "system" => Actor::System,
        "import" => Actor::Import,
        other => panic!("{other} is no actor"),
    };
    Act {
        subject,
        effective_at: Millis(time.parse().unwrap()),
        actor,
        authority_ends_at: ends_at.map(|at| Millis(at.parse().unwrap())),
        changes: text.split(" and ").map(read_change).collect(),
    }
}

fn read_change(text: &str) -> ChangeRecord {
    let mut words = text.split_whitespace();
    let action = match words.next().unwrap() {
        "grant" => Action::Grant,
        "refuse" => Action::Refuse,
        "withdraw" => Action::Withdraw,
        "object" => Action::Object,
        other => panic!("{other} is no action"),
    };
    let mut change = change(action, scope(words.next().unwrap()), 1);
    while let Some(word) = words.next() {
        match word {
            "until" => change.expires_at = Some(Millis(words.next().unwrap().parse().unwrap())),
            "only" => {
                let categories = words.next().unwrap().split(',');
                change.data_categories = categories.map(str::to_owned).collect();
            }
            version => change.purpose_version = version.strip_prefix('v').unwrap().parse().unwrap(),
        }
    }
    change
}
