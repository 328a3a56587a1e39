//! The catalogue that all cases share, and a short notation for acts.
//!
//! An act is `TIME ACTOR ACTION SCOPE`, further changes follow after `and`; a grant may go on with
//! `v2`, `until 50` or `only user.name,user.age`. Acts are separated by `;`. Entries of the
//! catalogue have the indices below 100; acts count from 100, in the order in which they arrive.

use consent_ledger::{
    domain::{
        Action, Actor, Catalog, ChangeRecord, ChannelPut, Key, LegalBasis, Millis, Obligation,
        Outcome, PurposePut, PurposeVersion, ScopeKeys, SubjectState,
    },
    view::fold::{ActFacts, fold},
};

/// Index of the first act.
pub const FIRST_ACT: u64 = 100;

/// One act, as a test tells it.
#[derive(Debug, Clone)]
pub struct Act {
    pub index: u64,
    pub effective_at: Millis,
    pub actor: Actor,
    pub changes: Vec<ChangeRecord>,
}

impl Act {
    pub fn facts(&self) -> ActFacts<'_> {
        ActFacts {
            index: self.index,
            effective_at: self.effective_at,
            actor: self.actor,
            changes: &self.changes,
        }
    }
}

/// The state after some acts, in the order given.
pub fn state_after<'a>(catalog: &Catalog, acts: impl IntoIterator<Item = &'a Act>) -> SubjectState {
    let mut state = SubjectState::default();
    for act in acts {
        fold(catalog, &mut state, &act.facts()).expect("the tests name what the catalogue has");
    }
    state
}

/// Index, key, legal basis, whether a grant needs a double opt-in, data categories, oldest
/// compatible version, whether it is retired.
type PurposeLine = (u64, &'static str, LegalBasis, bool, &'static [&'static str], u32, bool);

/// The purposes, one line an entry. `news` and `care` come with an obligation.
#[rustfmt::skip]
const PURPOSES: [PurposeLine; 14] = [
    (1,  "news",    LegalBasis::Consent,            false, &["user.contact", "user.name"], 1, false),
    (2,  "offers",  LegalBasis::Consent,            true,  &["user.contact"],              1, false),
    (3,  "care",    LegalBasis::LegitimateInterest, false, &["user.contact"],              1, false),
    (4,  "invoice", LegalBasis::Contract,           false, &["user.contact"],              1, false),
    (5,  "tax",     LegalBasis::LegalObligation,    false, &[],                            1, false),
    (6,  "rescue",  LegalBasis::VitalInterest,      false, &[],                            1, false),
    (7,  "census",  LegalBasis::PublicTask,         false, &[],                            1, false),
    (8,  "old",     LegalBasis::Consent,            false, &[],                            1, false),
    (9,  "old",     LegalBasis::Consent,            false, &[],                            1, true),
    // Version 1 of `profile` no longer counts: entry 12 raised the oldest compatible to 2.
    (10, "profile", LegalBasis::Consent,            false, &["user.contact"],              1, false),
    (11, "profile", LegalBasis::Consent,            false, &["user.contact", "user.age"],  1, false),
    (12, "profile", LegalBasis::Consent,            false, &["user.contact", "user.age"],  2, false),
    // `club` needs a double opt-in from version 2 on; version 1 still counts.
    (13, "club",    LegalBasis::Consent,            false, &["user.contact"],              1, false),
    (14, "club",    LegalBasis::Consent,            true,  &["user.contact"],              1, false),
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
    for (index, key, legal_basis, double_opt_in, categories, oldest_compatible, retired) in PURPOSES
    {
        let known = catalog.purpose_id(key).and_then(|id| catalog.purpose(id));
        let content = PurposeVersion {
            title: key.to_owned(),
            description: String::new(),
            legal_basis,
            data_categories: categories.iter().map(|&text| text.to_owned()).collect(),
            default_validity_ms: None,
            double_opt_in,
            obligations: if matches!(key, "news" | "care") { vec![obligation()] } else { vec![] },
        };
        let version = match known {
            None => 1,
            Some(purpose) if *purpose.current() == content => purpose.version(),
            Some(purpose) => purpose.version() + 1,
        };
        let key = self::key(key);
        catalog
            .put_purpose(index, PurposePut { key, version, content, oldest_compatible, retired });
    }
    catalog
}

pub fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub fn scope(text: &str) -> ScopeKeys {
    let (purpose, channel) = text.split_once(':').unwrap();
    let side = |text: &str| (text != "*").then(|| key(text));
    ScopeKeys { purpose: side(purpose), channel: side(channel) }
}

pub fn change(action: Action, scope: ScopeKeys, purpose_version: u32) -> ChangeRecord {
    ChangeRecord {
        action,
        scope,
        purpose_version: if action == Action::Grant { purpose_version } else { 0 },
        expires_at: None,
        data_categories: Vec::new(),
        // No act may depend on what its outcome was: start from one that is never right here.
        outcome: Outcome::SupersededByLater(u64::MAX),
    }
}

/// Reads acts.
pub fn acts(text: &str) -> Vec<Act> {
    let texts = text.split(';').map(str::trim).filter(|text| !text.is_empty());
    (FIRST_ACT..).zip(texts).map(|(index, text)| act(index, text)).collect()
}

fn act(index: u64, text: &str) -> Act {
    let (time, text) = text.split_once(' ').unwrap();
    let (actor, text) = text.split_once(' ').unwrap();
    let actor = match actor {
        "subject" => Actor::Subject,
        "guardian" => Actor::Guardian,
        "agent" => Actor::Agent,
        "operator" => Actor::Operator,
        "system" => Actor::System,
        "import" => Actor::Import,
        other => panic!("{other} is no actor"),
    };
    let changes = text.split(" and ").map(read_change).collect();
    Act { index, effective_at: Millis(time.parse().unwrap()), actor, changes }
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
