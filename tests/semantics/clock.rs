//! A clock that was ahead, and its correction: whatever was recorded with wrong times, in whatever order
//! it came, and whatever the wrong times displaced, nothing is allowed afterwards that is denied by the
//! same acts with their true times.
//!
//! Two ledgers record the same acts, one with a clock that is ahead for a while. The grants name no ends
//! and no categories of their own: of two grants for one cell, the terms are those of the one that was
//! recorded with the later time, as they were before the correction.

use std::{collections::BTreeMap, ops::Range};

use consent_ledger::{
    decide::decide,
    domain::{
        Action, Actor, Body, Catalog, ChangeRecord, ChannelPut, ClockCorrected, ClockCorrection,
        ConsentAct, ConsentConfirmed, ContactChange, Door, Effect, Key, LegalBasis, Millis,
        PurposeName, PurposePut, PurposeVersion, Query, SubjectRef, SubjectState,
    },
    entry::{Fact, Place},
    fold::{self, CatalogAt},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::world::{change, scope};

const PERSON: SubjectRef = SubjectRef([7; 16]);
/// Purpose, legal basis, default validity, whether it needs a double opt-in.
const PURPOSES: [(&str, LegalBasis, Option<i64>, bool); 4] = [
    ("shop.news", LegalBasis::Consent, None, false),
    ("shop.offers", LegalBasis::Consent, Some(120), false),
    ("club", LegalBasis::Consent, None, true),
    ("care", LegalBasis::LegitimateInterest, None, false),
];
const CHANNELS: [&str; 2] = ["email", "sms"];
/// The entries before it make the catalogue.
const FIRST_ACT: u64 = 10;
const START: i64 = 1_000;
/// More than the acts of one person take that a ledger gives one time: each takes effect after the others.
const MOMENT_MS: i64 = 16;

/// One thing that happens.
#[derive(Debug, Clone)]
struct Step {
    /// Time since the step before.
    passed: i64,
    /// How long before now the caller claims that it happened.
    claim: Option<i64>,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Act {
        actor: Actor,
        changes: Vec<ChangeRecord>,
        reported_late: bool,
    },
    /// Confirms the act so many steps back, if it waits.
    Confirm(usize),
}

/// When the clock is ahead, and how far; then when it is corrected, in steps.
#[derive(Debug, Clone)]
struct Jump {
    begins: usize,
    lasts: usize,
    ahead: i64,
    corrected_after: usize,
}

fn any_grant() -> impl Strategy<Value = ChangeRecord> {
    (0..PURPOSES.len(), select(CHANNELS.to_vec())).prop_map(|(purpose, channel)| {
        change(Action::Grant, scope(&format!("{}:{channel}", PURPOSES[purpose].0)), 1)
    })
}

fn any_stop() -> impl Strategy<Value = ChangeRecord> {
    let purposes =
        PURPOSES.iter().map(|purpose| purpose.0).chain(["shop.*", "*"]).collect::<Vec<_>>();
    let channels = CHANNELS.into_iter().chain(["*"]).collect::<Vec<_>>();
    let action = select(vec![Action::Withdraw, Action::Object, Action::Refuse]);
    (action, select(purposes), select(channels)).prop_map(|(action, purpose, channel)| {
        change(action, scope(&format!("{purpose}:{channel}")), 0)
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let actor = select(vec![Actor::Subject, Actor::Subject, Actor::Agent, Actor::Import]);
    let changes = vec(prop_oneof![any_grant(), any_stop()], 1..4);
    let act = (actor, changes, any::<bool>()).prop_map(|(actor, mut changes, reported_late)| {
        let mut seen = Vec::new();
        changes.retain(|change| {
            let is_new = !seen.contains(&change.scope);
            seen.push(change.scope.clone());
            is_new
        });
        Content::Act { actor, changes, reported_late }
    });
    let content = prop_oneof![5 => act, 1 => (1..6_usize).prop_map(Content::Confirm)];
    (1..40_i64, option::weighted(0.5, 0..200_i64), content)
        .prop_map(|(passed, claim, content)| Step { passed, claim, content })
}

fn any_jump() -> impl Strategy<Value = Jump> {
    (0..8_usize, 1..5_usize, 1..400_i64, 0..6_usize).prop_map(
        |(begins, lasts, ahead, corrected_after)| Jump { begins, lasts, ahead, corrected_after },
    )
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn catalog() -> CatalogAt {
    let mut catalog = Catalog::default();
    for channel in CHANNELS {
        let put = ChannelPut { key: key(channel), title: String::new(), retired: false };
        catalog.put_channel(put);
    }
    for (index, (purpose, legal_basis, default_validity_ms, double_opt_in)) in (1..).zip(PURPOSES) {
        let content = PurposeVersion {
            title: String::new(),
            description: String::new(),
            legal_basis,
            basis_by_region: BTreeMap::new(),
            data_categories: Vec::new(),
            default_validity_ms,
            double_opt_in,
            obligations: Vec::new(),
            controller: None,
            recipients: None,
        };
        let key = key(purpose);
        let put = PurposePut { key, version: 1, content, oldest_compatible: 1, retired: false };
        catalog.put_purpose(index, put);
    }
    CatalogAt { catalog, revision: FIRST_ACT }
}

/// A ledger of one person.
struct Ledger {
    catalog: CatalogAt,
    state: SubjectState,
    /// When each act was recorded, by index.
    times: Vec<Millis>,
    acts: BTreeMap<u64, ConsentAct>,
}

impl Ledger {
    fn new() -> Self {
        Self {
            catalog: catalog(),
            state: SubjectState::default(),
            times: vec![Millis(START)],
            acts: BTreeMap::new(),
        }
    }

    /// Index of the next entry. The first time is that of the last entry of the catalogue.
    fn next_index(&self) -> u64 {
        FIRST_ACT - 1 + self.times.len() as u64
    }

    fn last(&self) -> Millis {
        *self.times.last().unwrap()
    }

    fn corrected(&self) -> SubjectState {
        let mut state = self.state.clone();
        fold::correct(&self.catalog.catalog, &mut state, u64::MAX);
        state
    }

    fn fold(&mut self, body: &Body, recorded_at: Millis) {
        let place = Place { index: self.next_index(), recorded_at };
        let fact = Fact { place, kind: body.kind() };
        fold::subject(&self.catalog.catalog, &mut self.state, PERSON, fact).unwrap();
        self.times.push(recorded_at);
    }

    /// Records a step as a server with this clock does.
    fn record(&mut self, step: &Step, clock: Millis, now: Millis) {
        let recorded_at = clock.max(self.last());
        let index = self.next_index();
        match &step.content {
            Content::Confirm(back) => {
                let request = index.checked_sub(*back as u64).and_then(|at| self.acts.get(&at));
                let Some(body) = request.and_then(|act| confirmation(index - *back as u64, act))
                else {
                    // Both ledgers count the step.
                    self.times.push(recorded_at);
                    return;
                };
                self.fold(&Body::Confirmed(body), recorded_at);
            }
            Content::Act { actor, changes, reported_late } => {
                let is_stop = |change: &ChangeRecord| change.action != Action::Grant;
                let (stops, grants) = (changes.iter().any(is_stop), !changes.iter().all(is_stop));
                let claimed =
                    step.claim.map_or(recorded_at, |ago| now.plus_ms(-ago).min(recorded_at));
                // A stop beside a grant is not moved here: a server refuses some of these acts.
                let is_live = stops && !grants && actor.speaks_for_subject() && !reported_late;
                let newest = self.corrected().first_moment_after(stops, grants);
                let is_moved = claimed == recorded_at || is_live;
                let effective_at =
                    newest.filter(|_| is_moved).map_or(claimed, |at| at.max(claimed));
                let mut changes = changes.clone();
                for grant in changes.iter_mut().filter(|change| !is_stop(change)) {
                    let purpose = grant.scope.purpose.as_ref().unwrap().to_string();
                    let validity = PURPOSES.iter().find(|known| known.0 == purpose).unwrap().2;
                    grant.expires_at = validity.map(|span| effective_at.plus_ms(span));
                }
                let act = ConsentAct {
                    subject_ref: PERSON,
                    actor: *actor,
                    effective_at,
                    changes,
                    door: Door::Call,
                    import: None,
                    idempotency: None,
                    authority_ends_at: None,
                    confirmation: None,
                    contact: ContactChange::default(),
                };
                self.acts.insert(index, act.clone());
                self.fold(&Body::Act(act), recorded_at);
            }
        }
    }

    /// Corrects the clock as an operator does: up to where the clock has clearly caught up, or up to now.
    fn correct(&mut self, jumped: &Range<usize>, now: Millis) {
        let index = self.next_index();
        let is_ahead = self.last() > now;
        // The first time is that of the catalogue.
        let first = jumped.start + 1;
        let mut steps = jumped.end + 1..self.times.len();
        let caught_up = |at: &usize| {
            let passed_ms = self.times[*at].0 - self.times[*at - 1].0;
            // Acts of one moment take effect a little after each other.
            !is_ahead && passed_ms > MOMENT_MS
        };
        let caught_up = steps.find(caught_up);
        let (end, right_again) = match caught_up {
            Some(at) => (at, self.times[at]),
            None => (self.times.len(), now),
        };
        let body = ClockCorrected {
            first_index: FIRST_ACT - 1 + first as u64,
            end_index: FIRST_ACT - 1 + end as u64,
            right_until: self.times[first - 1],
            right_again,
            reason: String::new(),
        };
        let recorded_at = if is_ahead { now } else { now.max(self.last()) };
        let place = Place { index, recorded_at };
        let body = Body::ClockCorrected(body);
        self.catalog.fold(Fact { place, kind: body.kind() });
        self.times.push(recorded_at);
    }

    fn allows(&self, state: &SubjectState, now: Millis) -> Vec<(&'static str, &'static str)> {
        let catalog = &self.catalog.catalog;
        let cells =
            PURPOSES.iter().flat_map(|purpose| CHANNELS.map(|channel| (purpose.0, channel)));
        let is_allowed = |(purpose, channel): &(&str, &str)| {
            let query = Query::new(catalog, purpose, channel, &[], None);
            decide(catalog, state, &query, now).effect() == Effect::Allow
        };
        cells.filter(is_allowed).collect()
    }
}

fn confirmation(request_index: u64, act: &ConsentAct) -> Option<ConsentConfirmed> {
    let club = PurposeName::One(key("club"));
    let waits = |change: &&ChangeRecord| {
        change.action == Action::Grant && change.scope.purpose.as_ref() == Some(&club)
    };
    let grants: Vec<_> = act.changes.iter().filter(waits).cloned().collect();
    (!grants.is_empty()).then_some(ConsentConfirmed {
        subject_ref: PERSON,
        request_index,
        requested_by: act.actor,
        requested_at: act.effective_at,
        authority_ends_at: None,
        effective_at: act.effective_at,
        grants,
        idempotency: None,
    })
}

fn config() -> ProptestConfig {
    let defaults = ProptestConfig::default();
    let is_set = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if is_set { defaults.cases } else { 5_000 };
    ProptestConfig { cases, failure_persistence: None, ..defaults }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn after_a_correction_nothing_is_allowed_that_is_denied_by_true_times(
        steps in vec(any_step(), 2..16),
        jump in any_jump(),
    ) {
        let (mut wrong, mut right) = (Ledger::new(), Ledger::new());
        let jumped = jump.begins..jump.begins + jump.lasts;
        let corrected_at = jumped.end + jump.corrected_after;
        let mut now = Millis(START);
        let mut is_corrected = false;
        for (position, step) in steps.iter().enumerate() {
            now = now.plus_ms(step.passed);
            if position == corrected_at {
                wrong.correct(&jumped, now);
                right.times.push(now);
                is_corrected = true;
                now = now.plus_ms(1);
            }
            let ahead = if jumped.contains(&position) { jump.ahead } else { 0 };
            wrong.record(step, now.plus_ms(ahead), now);
            right.record(step, now, now);
            prop_assert_eq!(wrong.next_index(), right.next_index());
            if !is_corrected {
                continue;
            }
            prop_assert!(wrong.last() <= now, "the ledger's time is right again");
            let (corrected, truth) = (wrong.corrected(), right.corrected());
            for after in [0, 60, 121, 500] {
                let at = now.plus_ms(after);
                let allowed = right.allows(&truth, at);
                for cell in wrong.allows(&corrected, at) {
                    prop_assert!(allowed.contains(&cell), "{cell:?} {position} +{after}");
                }
            }
        }
    }

    /// A state may take a correction over at any later time, and a second time.
    #[test]
    fn a_correction_that_is_taken_over_twice_changes_nothing_more(
        steps in vec(any_step(), 2..9),
        ahead in 1..400_i64,
    ) {
        let mut ledger = Ledger::new();
        let mut now = Millis(START);
        for step in &steps {
            now = now.plus_ms(step.passed);
            ledger.record(step, now.plus_ms(ahead), now);
        }
        ledger.correct(&(0..steps.len()), now);
        let once = ledger.corrected();
        let mut twice = once.clone();
        let corrections: Vec<ClockCorrection> = ledger.catalog.catalog.clock_corrections().to_vec();
        for correction in &corrections {
            twice.correct(correction, &ledger.catalog.catalog);
        }
        twice.revision = once.revision;
        prop_assert_eq!(once, twice);
    }
}
