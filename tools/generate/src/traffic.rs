//! The sequence of acts.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use consent_ledger::{
    cli::{catalog::file::CatalogFile, words::wire_time},
    proto::{Action, Actor, Change, Evidence, LegalBasis, RecordConsentRequest, Scope},
};

use super::{
    dice::{Dice, Zipf},
    person::{Cell, Person},
};

/// The cells of a catalogue that acts can be about.
pub struct Plan {
    purposes: Vec<String>,
    channels: Vec<String>,
    /// Cells on consent that concern a device: on the site or in the app.
    consent_on_device: Vec<Cell>,
    /// Cells on consent that need an address.
    consent_by_contact: Vec<Cell>,
    /// Cells on legitimate interest, open to objections.
    interest: Vec<Cell>,
}

/// Channels without an address.
const PLACES: [&str; 2] = ["web", "app"];
/// Prefixes of purposes that concern a device and not messages.
const ON_DEVICE: [&str; 2] = ["tcf.", "product."];

impl Plan {
    /// The plan of a catalogue; none if there is nothing to consent to.
    #[must_use]
    pub fn of(catalog: &CatalogFile) -> Option<Self> {
        let live = || catalog.purposes.iter().filter(|purpose| !purpose.retired);
        let channels = catalog.channels.iter().filter(|channel| !channel.retired);
        let channels: Vec<String> = channels.map(|channel| channel.key.clone()).collect();
        let cells = |basis: LegalBasis, on_device: bool| -> Vec<Cell> {
            live()
                .enumerate()
                .filter(|(_, purpose)| purpose.legal_basis() == basis)
                .filter(|(_, purpose)| is_on_device(&purpose.key) == on_device)
                .flat_map(|(place, purpose)| {
                    let channels = fitting(&channels, &purpose.key, on_device).into_iter();
                    channels.map(move |channel| (place, channel))
                })
                .collect()
        };
        let interest = LegalBasis::LegitimateInterest;
        let plan = Self {
            purposes: live().map(|purpose| purpose.key.clone()).collect(),
            consent_on_device: cells(LegalBasis::Consent, true),
            consent_by_contact: cells(LegalBasis::Consent, false),
            interest: [cells(interest, true), cells(interest, false)].concat(),
            channels,
        };
        let nothing = plan.consent_on_device.is_empty() && plan.consent_by_contact.is_empty();
        (!nothing).then_some(plan)
    }

    fn scope(&self, (purpose, channel): Cell) -> Scope {
        Scope { purpose: self.purposes[purpose].clone(), channel: self.channels[channel].clone() }
    }

    /// The cells on consent that suit a person or a device.
    fn consent(&self, is_device: bool) -> &[Cell] {
        let (first, other) = if is_device {
            (&self.consent_on_device, &self.consent_by_contact)
        } else {
            (&self.consent_by_contact, &self.consent_on_device)
        };
        if first.is_empty() { other } else { first }
    }
}

fn is_on_device(purpose: &str) -> bool {
    ON_DEVICE.iter().any(|prefix| purpose.starts_with(prefix))
}

/// Channels for a purpose: the one in its key, as in `sms-offers`, or else those of its kind, or else
/// all.
fn fitting(channels: &[String], purpose: &str, on_device: bool) -> Vec<usize> {
    let named = |channel: &String| purpose.split(['.', '-', '_']).any(|word| word == channel);
    let of_kind = |channel: &String| PLACES.contains(&channel.as_str()) == on_device;
    let chosen = |test: &dyn Fn(&String) -> bool| -> Vec<usize> {
        (0..channels.len()).filter(|place| test(&channels[*place])).collect()
    };
    [chosen(&named), chosen(&of_kind)]
        .into_iter()
        .find(|chosen| !chosen.is_empty())
        .unwrap_or_else(|| (0..channels.len()).collect())
}

/// A situation after the onboarding.
#[derive(Debug, Clone, Copy)]
enum Situation {
    PreferenceCentre,
    Checkout,
    CallCentre,
    StopPurpose,
    StopChannel,
    StopEverything,
    Objection,
    Import,
    Operator,
    System,
}

const SITUATIONS: [(u64, Situation); 10] = [
    (34, Situation::PreferenceCentre),
    (22, Situation::Checkout),
    (11, Situation::CallCentre),
    (7, Situation::StopPurpose),
    (6, Situation::StopChannel),
    (3, Situation::StopEverything),
    (8, Situation::Objection),
    (4, Situation::Import),
    (3, Situation::Operator),
    (2, Situation::System),
];

/// The five touchpoints.
const ONBOARDING_WEB: &str = "onboarding-web";
const ONBOARDING_APP: &str = "onboarding-app";
const PREFERENCE_CENTRE: &str = "preference-centre";
const CALL_CENTRE: &str = "call-centre";
const CHECKOUT: &str = "checkout";

/// An act without time and idempotency key.
struct Draft {
    actor: Actor,
    touchpoint: &'static str,
    method: &'static str,
    /// Time from taking effect to being recorded, in milliseconds.
    late_ms: u64,
    changes: Vec<Change>,
    attributes: BTreeMap<String, String>,
}

impl Draft {
    fn new(actor: Actor, touchpoint: &'static str, method: &'static str) -> Self {
        Self {
            actor,
            touchpoint,
            method,
            late_ms: 0,
            changes: Vec::new(),
            attributes: BTreeMap::new(),
        }
    }

    fn change(&mut self, action: Action, scope: Scope) {
        // An act has at most one change for a scope.
        if self.changes.iter().all(|change| change.scope.as_ref() != Some(&scope)) {
            let (action, scope) = (action.into(), Some(scope));
            self.changes.push(Change { action, scope, ..Change::default() });
        }
    }

    fn attribute(&mut self, key: &str, value: &str) {
        self.attributes.insert(key.to_owned(), value.to_owned());
    }
}

/// An endless stream of acts.
pub struct Traffic {
    plan: Plan,
    seed: u64,
    dice: Dice,
    zipf: Zipf,
    people: HashMap<u64, Person>,
    start_ms: i64,
    elapsed_ms: i64,
    gap_ms: u64,
    acts: u64,
}

const SECOND_MS: u64 = 1_000;
const DAY_MS: u64 = 24 * 60 * 60 * SECOND_MS;

/// Average time between two acts, unless they would exceed [`SPAN_MS_MAX`].
const GAP_MS: u64 = 180 * SECOND_MS;
/// Maximum time from the first act to the last, so that all are in the past.
const SPAN_MS_MAX: u64 = 90 * DAY_MS;

impl Traffic {
    /// The traffic of a seed with `subjects` data subjects.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, subjects: u64, start: Timestamp) -> Self {
        Self {
            plan,
            seed,
            dice: Dice::new(seed, "traffic"),
            zipf: Zipf::new(subjects),
            people: HashMap::new(),
            start_ms: start.as_millisecond(),
            elapsed_ms: 0,
            gap_ms: GAP_MS,
            acts: 0,
        }
    }

    /// The same traffic with a smaller gap if `acts` would exceed [`SPAN_MS_MAX`].
    #[must_use]
    pub fn paced_for(mut self, acts: u64) -> Self {
        self.gap_ms = GAP_MS.min(SPAN_MS_MAX / acts.max(1));
        self
    }

    fn act(&mut self) -> RecordConsentRequest {
        let rank = self.zipf.draw(&mut self.dice);
        let seed = self.seed;
        let mut person = self.people.remove(&rank).unwrap_or_else(|| Person::new(seed, rank));
        let maker = ActMaker { plan: &self.plan, dice: &mut self.dice, person: &mut person };
        let draft = maker.make();
        let act = self.finish(draft, &person);
        self.people.insert(rank, person);
        act
    }

    /// Adds time, expiries, evidence and idempotency key.
    fn finish(&mut self, mut draft: Draft, person: &Person) -> RecordConsentRequest {
        self.acts += 1;
        let gap_ms_min = self.gap_ms / 90;
        self.elapsed_ms += signed(self.dice.between(gap_ms_min, 2 * self.gap_ms - gap_ms_min));
        // No act takes effect before the start.
        let effective_ms = self.start_ms + (self.elapsed_ms - signed(draft.late_ms)).max(0);
        self.expire_some(&mut draft, effective_ms);
        RecordConsentRequest {
            subject: person.subject.clone(),
            actor: draft.actor.into(),
            effective_at: Some(wire_time(timestamp(effective_ms))),
            evidence: Some(self.evidence(&mut draft, person)),
            changes: draft.changes,
            idempotency_key: format!("seed-{}-act-{}", self.seed, self.acts),
            ..RecordConsentRequest::default()
        }
    }

    fn expire_some(&mut self, draft: &mut Draft, effective_ms: i64) {
        for change in &mut draft.changes {
            if change.action() == Action::Grant && self.dice.chance(8) {
                let days = self.dice.weighted(&[(3, 30), (3, 90), (2, 365), (2, 1_825)]);
                change.expires_at =
                    Some(wire_time(timestamp(effective_ms + signed(days * DAY_MS))));
            }
        }
    }

    fn evidence(&mut self, draft: &mut Draft, person: &Person) -> Evidence {
        let has_screen = matches!(draft.method, "checkbox" | "toggle" | "button");
        let (notice_id, notice_version) = self.notice(draft.touchpoint, draft.method);
        let ip_address = match has_screen && self.dice.chance(15) {
            true => format!("192.0.2.{}", self.dice.between(1, 254)),
            false => String::new(),
        };
        Evidence {
            touchpoint: draft.touchpoint.to_owned(),
            notice_id,
            notice_version,
            language: person.language.to_owned(),
            method: draft.method.to_owned(),
            ip_address,
            attributes: std::mem::take(&mut draft.attributes),
            ..Evidence::default()
        }
    }

    /// The notice that was shown, read out or printed; none for acts without a question.
    fn notice(&mut self, touchpoint: &str, method: &str) -> (String, String) {
        let version = match self.dice.below(10) {
            0..2 => "2025-09",
            2..9 => "2025-12",
            _ => "2026-01",
        };
        let id = match (method, touchpoint) {
            ("back-office" | "automatic", _) => return Default::default(),
            ("voice", _) => "call-script",
            ("paper", _) => "paper-form",
            ("migration", _) => "crm-form",
            (_, ONBOARDING_WEB | ONBOARDING_APP) => "welcome-notice",
            (_, CHECKOUT) => "checkout-notice",
            _ => "privacy-settings",
        };
        (id.to_owned(), version.to_owned())
    }
}

impl Iterator for Traffic {
    type Item = RecordConsentRequest;

    fn next(&mut self) -> Option<RecordConsentRequest> {
        Some(self.act())
    }
}

/// Makes the next act of a person.
struct ActMaker<'a> {
    plan: &'a Plan,
    dice: &'a mut Dice,
    person: &'a mut Person,
}

impl ActMaker<'_> {
    fn make(mut self) -> Draft {
        if !self.person.onboarded {
            self.person.onboarded = true;
            return self.onboarding();
        }
        match self.dice.weighted(&SITUATIONS) {
            Situation::PreferenceCentre => self.preference_centre(),
            Situation::Checkout => self.checkout(),
            Situation::CallCentre => self.call_centre(),
            Situation::StopPurpose => self.stop_purpose(),
            Situation::StopChannel => self.stop_channel(),
            Situation::StopEverything => self.stop_everything(),
            Situation::Objection => self.objection(),
            Situation::Import => self.import(),
            Situation::Operator => self.operator(),
            Situation::System => self.system(),
        }
    }

    fn subject_or_guardian(&self) -> Actor {
        if self.person.is_child { Actor::Guardian } else { Actor::Subject }
    }

    /// A draft of an act by the person, or by the guardian of a child.
    fn own_draft(&self, touchpoint: &'static str, method: &'static str) -> Draft {
        let mut draft = Draft::new(self.subject_or_guardian(), touchpoint, method);
        if self.person.is_child {
            draft.attribute("relation", "parent");
        }
        draft
    }

    /// A form with a few boxes. An empty box is a refusal.
    fn onboarding(&mut self) -> Draft {
        let in_app = self.dice.chance(40);
        let touchpoint = if in_app { ONBOARDING_APP } else { ONBOARDING_WEB };
        let method = if in_app { "toggle" } else { "checkbox" };
        let mut draft = self.own_draft(touchpoint, method);
        let place = if in_app { "app" } else { "web" };
        for _ in 0..self.dice.between(1, 3) {
            self.decide_on_device(&mut draft, place);
        }
        if !self.person.is_device {
            for _ in 0..self.dice.between(1, 3) {
                self.decide(&mut draft, 62);
            }
        }
        draft
    }

    /// A choice about the site or app that the person uses.
    fn decide_on_device(&mut self, draft: &mut Draft, place: &str) {
        let here = |cell: &&Cell| self.plan.channels[cell.1] == place;
        let cells: Vec<Cell> = self.plan.consent_on_device.iter().filter(here).copied().collect();
        let cells = if cells.is_empty() { self.plan.consent(true).to_vec() } else { cells };
        if let Some(cell) = self.dice.pick(&cells).copied() {
            let yes = self.dice.chance(55);
            self.settle(draft, cell, yes);
        }
    }

    /// A choice about messages, a grant with a probability of `percent`.
    fn decide(&mut self, draft: &mut Draft, percent: u64) {
        let cells = self.plan.consent(self.person.is_device);
        if let Some(cell) = self.dice.pick(cells).copied() {
            let yes = self.dice.chance(percent);
            self.settle(draft, cell, yes);
        }
    }

    fn settle(&mut self, draft: &mut Draft, cell: Cell, yes: bool) {
        draft.change(if yes { Action::Grant } else { Action::Refuse }, self.plan.scope(cell));
        if yes {
            self.person.given.insert(cell);
        } else {
            self.person.given.remove(&cell);
        }
    }

    /// Withdraws a grant; without one, refuses a cell.
    fn withdraw_one(&mut self, draft: &mut Draft) {
        let given: Vec<Cell> = self.person.given.iter().copied().collect();
        match self.dice.pick(&given).copied() {
            Some(cell) => {
                draft.change(Action::Withdraw, self.plan.scope(cell));
                self.person.given.remove(&cell);
            }
            None => self.decide(draft, 0),
        }
    }

    fn preference_centre(&mut self) -> Draft {
        let mut draft = self.own_draft(PREFERENCE_CENTRE, "toggle");
        for _ in 0..self.dice.between(1, 3) {
            if self.dice.chance(45) {
                self.withdraw_one(&mut draft);
            } else {
                self.decide(&mut draft, 80);
            }
        }
        draft
    }

    fn checkout(&mut self) -> Draft {
        let mut draft = self.own_draft(CHECKOUT, "checkbox");
        for _ in 0..self.dice.between(1, 2) {
            self.decide(&mut draft, 55);
        }
        draft
    }

    /// Staff record a call or a letter, sometimes days later.
    fn call_centre(&mut self) -> Draft {
        let by_letter = self.dice.chance(25);
        let method = if by_letter { "paper" } else { "voice" };
        let mut draft = Draft::new(Actor::Agent, CALL_CENTRE, method);
        draft.attribute("agent", &format!("staff-{:02}", self.dice.between(1, 24)));
        if by_letter || self.dice.chance(20) {
            draft.late_ms = self.dice.between(DAY_MS / 4, 9 * DAY_MS);
        }
        if self.dice.chance(50) {
            self.withdraw_one(&mut draft);
        } else {
            self.decide(&mut draft, 75);
        }
        draft
    }

    fn stop_purpose(&mut self) -> Draft {
        let mut draft = self.own_draft(PREFERENCE_CENTRE, "button");
        let given: Vec<Cell> = self.person.given.iter().copied().collect();
        let cell = self.dice.pick(&given).or(self.dice.pick(&self.plan.interest)).copied();
        let cells = self.plan.consent(self.person.is_device);
        let Some((purpose, _)) = cell.or(self.dice.pick(cells).copied()) else { return draft };
        let action = if self.dice.chance(80) { Action::Withdraw } else { Action::Object };
        let purpose_key = self.plan.purposes[purpose].clone();
        draft.change(action, Scope { purpose: purpose_key, channel: "*".to_owned() });
        self.person.given.retain(|cell| cell.0 != purpose);
        draft
    }

    fn stop_channel(&mut self) -> Draft {
        let mut draft = self.own_draft(PREFERENCE_CENTRE, "button");
        let cells = self.plan.consent(self.person.is_device);
        let Some((_, channel)) = self.dice.pick(cells).copied() else { return draft };
        let channel_key = self.plan.channels[channel].clone();
        draft.change(Action::Withdraw, Scope { purpose: "*".to_owned(), channel: channel_key });
        self.person.given.retain(|cell| cell.1 != channel);
        draft
    }

    fn stop_everything(&mut self) -> Draft {
        let by_phone = self.dice.chance(30);
        let mut draft = match by_phone {
            true => Draft::new(Actor::Agent, CALL_CENTRE, "voice"),
            false => self.own_draft(PREFERENCE_CENTRE, "button"),
        };
        let action = if self.dice.chance(75) { Action::Withdraw } else { Action::Object };
        draft.change(action, Scope { purpose: "*".to_owned(), channel: "*".to_owned() });
        self.person.given.clear();
        draft
    }

    fn objection(&mut self) -> Draft {
        let mut draft = self.own_draft(PREFERENCE_CENTRE, "button");
        match self.dice.pick(&self.plan.interest).copied() {
            Some(cell) => draft.change(Action::Object, self.plan.scope(cell)),
            None => self.withdraw_one(&mut draft),
        }
        draft
    }

    /// Consents of an older system with their old times. They never lift a stop.
    fn import(&mut self) -> Draft {
        let mut draft = Draft::new(Actor::Import, CHECKOUT, "migration");
        draft.attribute("source", "crm-2025");
        draft.late_ms = self.dice.between(DAY_MS, 12 * DAY_MS);
        let cells = self.plan.consent(self.person.is_device);
        for _ in 0..self.dice.between(1, 3) {
            if let Some(cell) = self.dice.pick(cells).copied() {
                draft.change(Action::Grant, self.plan.scope(cell));
            }
        }
        draft
    }

    /// Withdrawals for undeliverable addresses, and some grants that an operator may not record.
    fn operator(&mut self) -> Draft {
        let mut draft = Draft::new(Actor::Operator, CALL_CENTRE, "back-office");
        if self.dice.chance(70) {
            draft.attribute("cause", "undeliverable");
            self.withdraw_one(&mut draft);
        } else {
            let cells = self.plan.consent(self.person.is_device);
            if let Some(cell) = self.dice.pick(cells).copied() {
                draft.change(Action::Grant, self.plan.scope(cell));
            }
        }
        draft
    }

    fn system(&mut self) -> Draft {
        let mut draft = Draft::new(Actor::System, PREFERENCE_CENTRE, "automatic");
        draft.attribute("cause", "inactive");
        self.withdraw_one(&mut draft);
        draft
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
