//! An independent and deliberately naive model: it keeps every entry, and to answer a question it
//! looks up who is linked, sorts all acts that touch the cell and replays them one by one. It shares
//! the plain words with the service (actors, actions, the catalogue), but neither state nor fold nor
//! decision.

use std::collections::BTreeSet;

use consent_ledger::domain::{
    Action, Actor, Catalog, ChangeRecord, Key, LegalBasis, LinkConfidence, Millis, Outcome,
    Purpose, PurposeName, PurposeVersion, Reason, Region, ScopeKeys, Status, StopKind,
};

use super::world::{Act, Content, Entry, Name};

/// A cell, by its keys.
pub type CellKeys = (Key, Key);

/// All cells of the catalogue.
pub fn all_cells(catalog: &Catalog) -> Vec<CellKeys> {
    let channels = || catalog.channels().map(|(_, channel)| channel.key.clone());
    let cells_of = |purpose: &Purpose| {
        let purpose = purpose.key.clone();
        channels().map(move |channel| (purpose.clone(), channel)).collect::<Vec<_>>()
    };
    catalog.purposes().flat_map(|(_, purpose)| cells_of(purpose)).collect()
}

pub fn covers(scope: &ScopeKeys, cell: &CellKeys) -> bool {
    covers_purpose(scope, &cell.0)
        && scope.channel.as_ref().is_none_or(|channel| *channel == cell.1)
}

/// By the text of names: a class ends with `.*`.
fn covers_purpose(scope: &ScopeKeys, purpose: &Key) -> bool {
    let Some(name) = scope.purpose.as_ref().map(ToString::to_string) else { return true };
    match name.strip_suffix('*') {
        Some(prefix) => purpose.as_str().starts_with(prefix),
        None => purpose.as_str() == name,
    }
}

fn is_as_wide(wide: &ScopeKeys, narrow: &ScopeKeys) -> bool {
    let name =
        |scope: &ScopeKeys| scope.purpose.as_ref().map_or("*".to_owned(), ToString::to_string);
    let (wide_name, narrow_name) = (name(wide), name(narrow));
    let has_purposes = match wide_name.strip_suffix('*') {
        Some(prefix) => narrow_name.starts_with(prefix),
        None => narrow_name == wide_name,
    };
    has_purposes && (wide.channel.is_none() || wide.channel == narrow.channel)
}

pub fn speaks(actor: Actor) -> bool {
    matches!(actor, Actor::Subject | Actor::Guardian | Actor::Agent)
}

fn find<'a>(catalog: &'a Catalog, cell: &CellKeys) -> (&'a Purpose, bool) {
    let purpose = catalog.purposes().find(|(_, p)| p.key == cell.0).unwrap().1;
    let channel = catalog.channels().find(|(_, c)| c.key == cell.1).unwrap().1;
    (purpose, channel.retired)
}

/// The basis in a region: that of the region, else of its country, else the default.
fn basis_in(version: &PurposeVersion, region: Option<Region>) -> LegalBasis {
    let text = region.map(|region| region.as_str().to_owned()).unwrap_or_default();
    let of = |wanted: &str| {
        version
            .basis_by_region
            .iter()
            .find(|(named, _)| named.as_str() == wanted)
            .map(|(_, basis)| *basis)
    };
    of(&text).or_else(|| of(text.split('-').next().unwrap())).unwrap_or(version.legal_basis)
}

fn ever_consent(purpose: &Purpose, region: Option<Region>) -> bool {
    // A region may be missing or only a country: then every region that it may stand for counts.
    let text = region.map(|region| region.as_str().to_owned()).unwrap_or_default();
    let may_be = |place: Option<Region>| {
        let name = place.map(|place| place.as_str().to_owned()).unwrap_or_default();
        text.is_empty() || name == text || name.starts_with(&format!("{text}-"))
    };
    let meant: Vec<_> = regions(purpose).into_iter().filter(|place| may_be(*place)).collect();
    let meant = meant.into_iter().chain([region]);
    let rests = |version: &PurposeVersion, region| basis_in(version, region) == LegalBasis::Consent;
    let versions = || purpose.versions.iter();
    meant.into_iter().any(|region| versions().any(|version| rests(version, region)))
}

/// Every region that some version of the purpose names, and no region.
fn regions(purpose: &Purpose) -> Vec<Option<Region>> {
    let named = purpose.versions.iter().flat_map(|version| version.basis_by_region.keys());
    named.copied().map(Some).chain([None]).collect()
}

/// Whether a stop can touch the purpose somewhere.
fn is_stoppable(purpose: &Purpose) -> bool {
    regions(purpose).into_iter().any(|region| {
        let basis = basis_in(purpose.current(), region);
        basis == LegalBasis::LegitimateInterest || ever_consent(purpose, region)
    })
}

/// Whether a stop ends an ALLOW somewhere that needs no grant.
fn is_open_until_stopped(purpose: &Purpose) -> bool {
    regions(purpose).into_iter().any(|region| {
        let basis = basis_in(purpose.current(), region);
        basis == LegalBasis::LegitimateInterest
            || basis != LegalBasis::Consent && ever_consent(purpose, region)
    })
}

fn rests_on_consent_somewhere(purpose: &Purpose) -> bool {
    let rests = |region| basis_in(purpose.current(), region) == LegalBasis::Consent;
    regions(purpose).into_iter().any(rests)
}

/// All data subjects reachable from `name` by links, itself included: by verified links alone, and
/// by any.
fn linked(entries: &[Entry], name: Name) -> [BTreeSet<Name>; 2] {
    let mut links: Vec<(Name, Name, LinkConfidence)> = Vec::new();
    for entry in entries {
        let Content::Link { one, other, confidence } = entry.content else { continue };
        links.retain(|link| {
            [(one, other), (other, one)].iter().all(|&pair| pair != (link.0, link.1))
        });
        links.extend(confidence.map(|confidence| (one, other, confidence)));
    }
    let spread = |by: &dyn Fn(LinkConfidence) -> bool| {
        let mut reached = BTreeSet::from([name]);
        for _ in 0..=links.len() {
            for &(one, other, _) in links.iter().filter(|link| by(link.2)) {
                if reached.contains(&one) || reached.contains(&other) {
                    reached.extend([one, other]);
                }
            }
        }
        reached
    };
    [spread(&|confidence| confidence == LinkConfidence::Verified), spread(&|_| true)]
}

/// One act's change in one cell.
#[derive(Clone, Copy)]
struct Event<'a> {
    index: u64,
    act: &'a Act,
    change: &'a ChangeRecord,
    /// The first entry that confirmed it.
    confirmed_by: Option<u64>,
}

impl Event<'_> {
    fn is_grant(&self) -> bool {
        self.change.action == Action::Grant
    }

    fn is_grant_or_persons_stop(&self) -> bool {
        self.is_grant() || speaks(self.act.actor) || self.change.action == Action::Object
    }

    fn order(&self) -> (Millis, bool, u64) {
        (self.act.effective_at, self.is_grant(), self.index)
    }

    /// Of two stops of one act, the narrower decides: first by purposes, then by channels.
    fn narrowness(&self) -> (usize, bool) {
        let purposes = match &self.change.scope.purpose {
            None => 0,
            Some(PurposeName::Class(key)) => key.as_str().split('.').count(),
            Some(PurposeName::One(_)) => usize::MAX,
        };
        (purposes, self.change.scope.channel.is_some())
    }

    fn needs_double_opt_in(&self, purpose: &Purpose) -> bool {
        let version = self.change.purpose_version as usize;
        purpose.versions[version - 1].double_opt_in
    }

    fn waits(&self, purpose: &Purpose) -> bool {
        self.needs_double_opt_in(purpose) && self.confirmed_by.is_none()
    }

    /// The entry that made it effective.
    fn decided_by(&self) -> u64 {
        self.confirmed_by.unwrap_or(self.index)
    }

    fn is_expired(&self, now: Millis) -> bool {
        self.change.expires_at.is_some_and(|at| now >= at)
    }

    fn guardian_has_no_say(&self, now: Millis) -> bool {
        self.act.actor == Actor::Guardian && self.act.authority_ends_at.is_some_and(|at| now >= at)
    }
}

/// Every change that counts for `name`: all changes of verified links, and the stops of asserted
/// ones.
fn events(entries: &[Entry], name: Name) -> Vec<Event<'_>> {
    let [surely, maybe] = linked(entries, name);
    let mut events = Vec::new();
    for entry in entries {
        let Content::Act(act) = &entry.content else { continue };
        for change in &act.changes {
            let is_stop = change.action != Action::Grant;
            if surely.contains(&act.subject) || is_stop && maybe.contains(&act.subject) {
                let confirmed_by = confirmed_by(entries, entry.index, &change.scope);
                events.push(Event { index: entry.index, act, change, confirmed_by });
            }
        }
    }
    events
}

fn confirmed_by(entries: &[Entry], request: u64, scope: &ScopeKeys) -> Option<u64> {
    let confirms = |entry: &&Entry| match &entry.content {
        Content::Confirmed(confirmation) => {
            confirmation.request_index == request
                && confirmation.grants.iter().any(|grant| grant.scope == *scope)
        }
        _ => false,
    };
    entries.iter().filter(confirms).map(|entry| entry.index).min()
}

fn erased_by(entries: &[Entry], name: Name) -> Option<u64> {
    let erased = entries
        .iter()
        .find(|entry| matches!(entry.content, Content::Erased(erased) if erased == name));
    erased.map(|entry| entry.index)
}

/// A cell after a replay of its events.
struct Cell<'a> {
    events: Vec<Event<'a>>,
    stop: Option<Event<'a>>,
    /// The stop that names the status: the person's own, where one stands.
    named: Option<Event<'a>>,
    /// The latest grant of the person.
    own: Option<Event<'a>>,
    /// A later one of somebody else, where no stop ever covered the cell.
    other: Option<Event<'a>>,
    waiting: Option<Event<'a>>,
    lifted_by: Option<u64>,
}

impl<'a> Cell<'a> {
    /// The grants that count, the latest first. That of somebody else does not end the person's own.
    fn counting(&self, purpose: &Purpose, now: Millis) -> Vec<Event<'a>> {
        let both = self.other.into_iter().chain(self.own);
        both.filter(|grant| counts(purpose, grant, now)).collect()
    }

    fn latest(&self) -> Option<Event<'a>> {
        self.other.or(self.own)
    }

    /// What a request of this person, or of somebody else, can be compared with.
    fn rivals(&self, of: &Event<'_>) -> Vec<Event<'a>> {
        let was_stopped = self.events.iter().any(|event| !event.is_grant());
        let is_rival = |event: &&Event<'_>| {
            event.is_grant() && (speaks(event.act.actor) || !speaks(of.act.actor) && !was_stopped)
        };
        self.events.iter().filter(is_rival).copied().collect()
    }
}

fn replay<'a>(purpose: &Purpose, events: &[Event<'a>], cell: &CellKeys) -> Cell<'a> {
    let all = replay_all(purpose, events, cell);
    let persons: Vec<_> = events.iter().copied().filter(Event::is_grant_or_persons_stop).collect();
    let persons = replay_all(purpose, &persons, cell).stop;
    Cell { named: all.stop.map(|stop| persons.unwrap_or(stop)), ..all }
}

/// Whether a stop wins over a grant of the same cell: it is of a later moment, or of the same moment
/// and another act.
fn bars(stop: &Event<'_>, grant: &Event<'_>) -> bool {
    let (stopped_at, granted_at) = (stop.act.effective_at, grant.act.effective_at);
    stopped_at > granted_at || stopped_at == granted_at && stop.index != grant.index
}

fn is_barred(events: &[Event<'_>], grant: &Event<'_>) -> bool {
    events.iter().any(|event| !event.is_grant() && bars(event, grant))
}

fn replay_all<'a>(purpose: &Purpose, events: &[Event<'a>], cell: &CellKeys) -> Cell<'a> {
    let mut events: Vec<Event<'a>> =
        events.iter().filter(|event| covers(&event.change.scope, cell)).copied().collect();
    events.sort_by_key(|event| (event.order(), event.narrowness()));

    let (mut stop, mut own, mut other) = (None, None, None);
    let (mut waiting, mut lifted_by) = (None, None);
    let mut was_stopped = false;
    for &event in &events {
        let speaks = speaks(event.act.actor);
        if !event.is_grant() {
            (stop, own, other, waiting, lifted_by) = (Some(event), None, None, None, None);
            was_stopped = true;
        } else if was_stopped && !speaks || stop.is_some() && is_barred_then(&events, &event) {
            // It is recorded, and changes nothing.
        } else if event.waits(purpose) {
            waiting = Some(event);
        } else if speaks {
            (stop, own, other, waiting) = (None, Some(event), None, None);
            if was_stopped {
                lifted_by = Some(event.index);
            }
        } else {
            (other, waiting) = (Some(event), None);
        }
    }
    Cell { events, stop, named: stop, own, other, waiting, lifted_by }
}

/// Whether a stop of the grant's own moment wins over it.
fn is_barred_then(events: &[Event<'_>], grant: &Event<'_>) -> bool {
    let then = |event: &&Event<'_>| event.act.effective_at == grant.act.effective_at;
    events.iter().filter(then).any(|event| !event.is_grant() && bars(event, grant))
}

/// The answer to a check.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub reason: Reason,
    pub status: Status,
    pub decided_by: Option<u64>,
    pub legal_basis: LegalBasis,
}

/// A question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub name: Name,
    pub cell: &'a CellKeys,
    pub categories: &'a [String],
    pub region: Option<Region>,
    pub now: Millis,
}

/// Answers a question by the rows of the decision table, in their order.
pub fn decide(catalog: &Catalog, entries: &[Entry], question: Question<'_>) -> Answer {
    let Question { name, cell, region, now, .. } = question;
    let (purpose, channel_is_retired) = find(catalog, cell);
    let erased_by = erased_by(entries, name);
    let cell = replay(purpose, &events(entries, name), cell);
    let legal_basis = basis_in(purpose.current(), region);
    let status = if erased_by.is_some() { Status::Unknown } else { status(purpose, &cell, now) };
    let answer = |reason, decided_by| Answer { reason, status, decided_by, legal_basis };

    if channel_is_retired {
        return answer(Reason::UnknownChannel, None);
    }
    if purpose.retired {
        return answer(Reason::PurposeRetired, Some(purpose.index));
    }
    let needs_no_consent =
        !matches!(legal_basis, LegalBasis::Consent | LegalBasis::LegitimateInterest);
    let is_stopped = cell.stop.is_some() || erased_by.is_some();
    let would_fall_back = is_stopped && ever_consent(purpose, region);
    if needs_no_consent && !would_fall_back {
        return answer(Reason::NotConsentBased, Some(purpose.index));
    }
    if erased_by.is_some() {
        return answer(Reason::Erased, erased_by);
    }
    if let Some(stop) = cell.named {
        let reason = match kind(stop) {
            StopKind::Refused => Reason::Refused,
            StopKind::Withdrawn => Reason::Withdrawn,
            StopKind::Revoked => Reason::Revoked,
            StopKind::Objected => Reason::Objected,
        };
        return answer(reason, Some(stop.index));
    }
    if legal_basis == LegalBasis::LegitimateInterest {
        return answer(Reason::NoObjection, cell.lifted_by);
    }
    let counting = cell.counting(purpose, now);
    if let Some(latest) = counting.first() {
        let covers = |grant: &&Event<'_>| covers_categories(purpose, **grant, question.categories);
        return match counting.iter().find(covers) {
            Some(grant) => answer(Reason::Granted, Some(grant.decided_by())),
            None => answer(Reason::DataCategoryNotCovered, Some(latest.decided_by())),
        };
    }
    if let Some(waiting) = cell.waiting {
        return answer(Reason::PendingConfirmation, Some(waiting.index));
    }
    let Some(grant) = cell.latest() else { return answer(Reason::NoRecord, None) };
    if grant.is_expired(now) {
        return answer(Reason::Expired, Some(grant.decided_by()));
    }
    if grant.change.purpose_version < purpose.oldest_compatible {
        return answer(Reason::ReconsentRequired, Some(purpose.oldest_compatible_index));
    }
    answer(Reason::ReconsentRequired, Some(grant.decided_by()))
}

fn kind(stop: Event<'_>) -> StopKind {
    match stop.change.action {
        Action::Refuse => StopKind::Refused,
        Action::Object => StopKind::Objected,
        _ if speaks(stop.act.actor) => StopKind::Withdrawn,
        _ => StopKind::Revoked,
    }
}

fn status(purpose: &Purpose, cell: &Cell<'_>, now: Millis) -> Status {
    if let Some(stop) = cell.named {
        return match kind(stop) {
            StopKind::Refused => Status::Refused,
            StopKind::Withdrawn => Status::Withdrawn,
            StopKind::Revoked => Status::Revoked,
            StopKind::Objected => Status::Objected,
        };
    }
    match cell.latest() {
        Some(_) if !cell.counting(purpose, now).is_empty() => Status::Given,
        _ if cell.waiting.is_some() => Status::Requested,
        None => Status::Unknown,
        Some(grant) if grant.is_expired(now) => Status::Expired,
        Some(_) => Status::Invalidated,
    }
}

fn covers_categories(purpose: &Purpose, grant: Event<'_>, asked: &[String]) -> bool {
    let declared = &purpose.versions[grant.change.purpose_version as usize - 1].data_categories;
    let narrowed = &grant.change.data_categories;
    let all_within = |categories: &[String]| {
        let is_within = |asked: &String| {
            categories
                .iter()
                .any(|covering| asked == covering || asked.starts_with(&format!("{covering}.")))
        };
        asked.iter().all(is_within)
    };
    all_within(declared) && (narrowed.is_empty() || all_within(narrowed))
}

/// Whether a request asks for the same as an existing grant.
fn asks_for_the_same(grant: &Event<'_>, request: Event<'_>) -> bool {
    let (given, asked) = (grant.change, request.change);
    asked.purpose_version <= given.purpose_version
        && asked.expires_at == given.expires_at
        && asked.data_categories == given.data_categories
}

fn counts(purpose: &Purpose, grant: &Event<'_>, now: Millis) -> bool {
    !grant.is_expired(now)
        && !grant.guardian_has_no_say(now)
        && grant.change.purpose_version >= purpose.oldest_compatible
}

/// Whether one grant gives all that another gives, for as long.
fn gives_all_of(purpose: &Purpose, wide: &Event<'_>, narrow: &Event<'_>) -> bool {
    let end = |grant: &Event<'_>| {
        let by_authority =
            grant.act.authority_ends_at.filter(|_| grant.act.actor == Actor::Guardian);
        let ends = grant.change.expires_at.into_iter().chain(by_authority).min();
        ends.unwrap_or(Millis(i64::MAX))
    };
    let version = narrow.change.purpose_version as usize - 1;
    let given = match narrow.change.data_categories.as_slice() {
        [] => &purpose.versions[version].data_categories,
        narrowed => narrowed,
    };
    end(narrow) <= end(wide) && covers_categories(purpose, *wide, given)
}

/// The admissible outcomes of a change: one, or "superseded" by any of these entries, of which those of
/// linked data subjects have no index.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Is(Outcome),
    SupersededByOneOf(Vec<Option<u64>>),
}

impl Verdict {
    pub fn admits(&self, outcome: Outcome) -> bool {
        match (self, outcome) {
            (Self::Is(want), got) => *want == got,
            (Self::SupersededByOneOf(causes), Outcome::SupersededByLater(got)) => {
                causes.contains(&got)
            }
            (Self::SupersededByOneOf(_), _) => false,
        }
    }

    /// The verdict as the ledger tells it.
    fn naming_only(self, is_own: impl Fn(u64) -> bool) -> Self {
        match self {
            Self::Is(outcome) => Self::Is(outcome.naming_only(is_own)),
            Self::SupersededByOneOf(causes) => {
                let told = |cause: Option<u64>| cause.filter(|index| is_own(*index));
                Self::SupersededByOneOf(causes.into_iter().map(told).collect())
            }
        }
    }
}

/// The outcome of a change of the last entry, an act or a confirmation, by the rules that the fold
/// module documents, and to how many linked data subjects it applied.
pub fn verdict(
    catalog: &Catalog,
    entries: &[Entry],
    change: &ChangeRecord,
    now: Millis,
) -> (Verdict, u32) {
    let name = entries.last().unwrap().names()[0];
    let verdict_for = |name| verdict_for(catalog, entries, change, now, name);
    // A grant counts only for those who are surely the same person.
    let [surely, maybe] = linked(entries, name);
    let others = if change.action == Action::Grant { surely } else { maybe };
    let others = others.into_iter().filter(|other| *other != name);
    let applied = others.filter(|&other| verdict_for(other) == Verdict::Is(Outcome::Applied));
    match u32::try_from(applied.count()).unwrap() {
        0 => {
            let is_own = |index| {
                entries.iter().any(|entry| entry.index == index && entry.names().contains(&name))
            };
            (verdict_for(name).naming_only(is_own), 0)
        }
        count => (Verdict::Is(Outcome::Applied), count),
    }
}

/// The outcome for one of the data subjects.
fn verdict_for(
    catalog: &Catalog,
    entries: &[Entry],
    change: &ChangeRecord,
    now: Millis,
    name: Name,
) -> Verdict {
    let (last, earlier) = entries.split_last().unwrap();
    let judged = match &last.content {
        Content::Act(act) => Event { index: last.index, act, change, confirmed_by: None },
        Content::Confirmed(confirmation) => Event {
            index: confirmation.request_index,
            act: &confirmation.request,
            change,
            confirmed_by: Some(last.index),
        },
        _ => panic!("nothing becomes of {last:?}"),
    };
    let judgement = Judgement {
        catalog,
        judged,
        before: events(earlier, name),
        after: events(entries, name),
        erased_by: erased_by(earlier, name),
        now,
    };
    if judged.is_grant() { Verdict::Is(judgement.grant()) } else { judgement.stop() }
}

/// Everything that decides the outcome of one change.
struct Judgement<'a> {
    catalog: &'a Catalog,
    judged: Event<'a>,
    before: Vec<Event<'a>>,
    after: Vec<Event<'a>>,
    erased_by: Option<u64>,
    now: Millis,
}

impl Judgement<'_> {
    fn grant(&self) -> Outcome {
        let judged = self.judged;
        let scope = judged.change.scope.clone();
        let keys = (scope.purpose.unwrap().as_one().unwrap().clone(), scope.channel.unwrap());
        let (purpose, _) = find(self.catalog, &keys);
        let before = replay(purpose, &self.before, &keys);
        let after = replay(purpose, &self.after, &keys);
        let waits = judged.waits(purpose);
        let is_later = |event: &Event<'_>| event.order() > judged.order();
        let later_request = latest_request(purpose, &after, &judged).filter(is_later);

        if !is_stoppable(purpose) {
            return Outcome::NoEffect;
        }
        if let Some(index) = self.erased_by {
            return Outcome::BlockedByStop(Some(index));
        }
        if let (Some(stop), Some(named)) = (after.stop, after.named) {
            if !speaks(judged.act.actor) {
                return Outcome::BlockedByStop(Some(named.index));
            }
            if is_barred(&after.events, &judged) {
                return Outcome::SupersededByLater(Some(stop.index));
            }
            return match later_request {
                Some(event) if !is_barred(&after.events, &event) => {
                    Outcome::SupersededByLater(Some(event.index))
                }
                _ => Outcome::PendingConfirmation,
            };
        }
        if !rests_on_consent_somewhere(purpose) {
            return match after.lifted_by {
                Some(index) if index == judged.index || before.stop.is_some() => Outcome::Applied,
                // A stop between this grant and the later one that lifts it counts too.
                Some(index) if speaks(judged.act.actor) && !waits => {
                    Outcome::SupersededByLater(Some(index))
                }
                _ => Outcome::NoEffect,
            };
        }
        if before.stop.is_some() {
            return Outcome::Applied;
        }
        let was_stopped = after.events.iter().any(|event| !event.is_grant());
        let rivals = after.rivals(&judged);
        let given = rivals.iter().rfind(|event| !event.waits(purpose));
        let later = given.filter(|event| is_later(event)).map(|event| event.index);
        if let Some(index) = later {
            return Outcome::SupersededByLater(Some(index));
        }
        if was_stopped && !speaks(judged.act.actor) {
            return Outcome::NoEffect;
        }
        let counting = after.counting(purpose, self.now);
        if waits {
            return match later_request {
                Some(request) => Outcome::SupersededByLater(Some(request.index)),
                None if counting.iter().any(|grant| asks_for_the_same(grant, judged)) => {
                    Outcome::NoEffect
                }
                None => Outcome::PendingConfirmation,
            };
        }
        // The grant stands. Did it change what is given?
        let counts = |grant: &Event<'_>| counts(purpose, grant, self.now);
        let is_given_by =
            |grant: &Event<'_>, by: &Event<'_>| counts(by) && gives_all_of(purpose, by, grant);
        let own_side = speaks(judged.act.actor);
        let (beside, replaced) =
            if own_side { (after.other, before.own) } else { (after.own, before.other) };
        let Some(beside) = beside else { return Outcome::Applied };
        if !own_side && !counts(&beside) {
            return Outcome::Applied;
        }
        // A later grant of somebody else decides as soon as it counts.
        if !own_side && counts(&judged) {
            return Outcome::Applied;
        }
        let mut counted = [Some(judged), replaced].into_iter().flatten().filter(counts);
        if counted.any(|grant| !is_given_by(&grant, &beside)) {
            return Outcome::Applied;
        }
        if own_side { Outcome::SupersededByLater(Some(beside.index)) } else { Outcome::NoEffect }
    }

    /// Whether a stop that is lifted at once took something from others that its lifting grant does
    /// not give.
    fn takes_from_others(&self, purpose: &Purpose, before: &Cell<'_>, after: &Cell<'_>) -> bool {
        if before.stop.is_some() || after.stop.is_some() {
            return false;
        }
        let shown = before.counting(purpose, self.now).first().copied().or(before.waiting);
        let left = after.own.filter(|own| counts(purpose, own, self.now));
        shown
            .filter(|grant| !speaks(grant.act.actor))
            .is_some_and(|grant| left.is_none_or(|own| !gives_all_of(purpose, &own, &grant)))
    }

    fn stop(&self) -> Verdict {
        let judged = self.judged;
        let scope = &judged.change.scope;
        if self.erased_by.is_some() {
            return Verdict::Is(Outcome::NoEffect);
        }
        if let Some(PurposeName::One(key)) = &scope.purpose {
            let purpose =
                self.catalog.purposes().find(|(_, purpose)| purpose.key == *key).unwrap().1;
            if !is_stoppable(purpose) {
                return Verdict::Is(Outcome::NoEffect);
            }
        }
        let stops = self.before.iter().filter(|event| !event.is_grant());
        let as_wide: Vec<_> =
            stops.filter(|event| is_as_wide(&event.change.scope, scope)).collect();
        let later_as_wide = as_wide.iter().filter(|event| event.order() > judged.order());
        let mut causes: Vec<u64> = later_as_wide.map(|event| event.index).collect();

        for keys in all_cells(self.catalog) {
            let (purpose, channel_is_retired) = find(self.catalog, &keys);
            if !covers(scope, &keys) || !is_stoppable(purpose) {
                continue;
            }
            let before = replay(purpose, &self.before, &keys);
            let after = replay(purpose, &self.after, &keys);
            let is_live = !purpose.retired && !channel_is_retired;
            let answers = matches!(judged.change.action, Action::Refuse | Action::Object);
            let can_matter_without_grant = is_live && (is_open_until_stopped(purpose) || answers);
            let is_named = after.events.iter().any(Event::is_grant);
            if !is_named && (!as_wide.is_empty() || !can_matter_without_grant) {
                continue;
            }
            if self.takes_from_others(purpose, &before, &after) {
                return Verdict::Is(Outcome::Applied);
            }
            match after.stop {
                Some(stop) if stop.index != judged.index => causes.push(stop.index),
                None => {
                    causes.extend(latest_lifting(purpose, &after).filter(|&i| i != judged.index));
                }
                Some(_)
                    if takes_back(purpose, &before, self.now)
                        || before.stop.is_none() && can_matter_without_grant =>
                {
                    return Verdict::Is(Outcome::Applied);
                }
                Some(_) => {}
            }
        }
        if causes.is_empty() {
            Verdict::Is(Outcome::NoEffect)
        } else {
            Verdict::SupersededByOneOf(causes.into_iter().map(Some).collect())
        }
    }
}

/// The latest rival that needs a double opt-in, completed or not.
fn latest_request<'a>(purpose: &Purpose, cell: &Cell<'a>, of: &Event<'_>) -> Option<Event<'a>> {
    cell.rivals(of).into_iter().rfind(|event| event.needs_double_opt_in(purpose))
}

fn latest_lifting(purpose: &Purpose, cell: &Cell<'_>) -> Option<u64> {
    let lifts =
        |event: &&Event<'_>| event.is_grant() && speaks(event.act.actor) && !event.waits(purpose);
    cell.events.iter().rfind(lifts).map(|event| event.index)
}

/// Whether a stop ends a valid grant or a pending request.
fn takes_back(purpose: &Purpose, before: &Cell<'_>, now: Millis) -> bool {
    if before.stop.is_none() {
        return !before.counting(purpose, now).is_empty()
            || before.latest().is_some_and(|grant| !grant.is_expired(now))
            || before.waiting.is_some();
    }
    let asks = |event: &&Event<'_>| {
        event.is_grant() && speaks(event.act.actor) && event.needs_double_opt_in(purpose)
    };
    before.events.iter().rfind(asks).is_some_and(|event| !is_barred(&before.events, event))
}
