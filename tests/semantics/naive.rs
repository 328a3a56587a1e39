//! An independent and deliberately naive model: it keeps every act, and to answer a question it
//! sorts all acts that touch the cell and replays them one by one. It shares the plain words with
//! the service (actors, actions, the catalogue), but neither state nor fold nor decision.

use consent_ledger::domain::{
    Action, Actor, Catalog, ChangeRecord, Key, LegalBasis, Millis, Outcome, Purpose, Reason,
    ScopeKeys, StopKind,
};

use crate::world::Act;

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
    scope.purpose.as_ref().is_none_or(|purpose| *purpose == cell.0)
        && scope.channel.as_ref().is_none_or(|channel| *channel == cell.1)
}

fn is_as_wide(wide: &ScopeKeys, narrow: &ScopeKeys) -> bool {
    (wide.purpose.is_none() || wide.purpose == narrow.purpose)
        && (wide.channel.is_none() || wide.channel == narrow.channel)
}

fn speaks(actor: Actor) -> bool {
    matches!(actor, Actor::Subject | Actor::Guardian | Actor::Agent)
}

fn find<'a>(catalog: &'a Catalog, cell: &CellKeys) -> (&'a Purpose, bool) {
    let purpose = catalog.purposes().find(|(_, p)| p.key == cell.0).unwrap().1;
    let channel = catalog.channels().find(|(_, c)| c.key == cell.1).unwrap().1;
    (purpose, channel.retired)
}

fn is_stoppable(purpose: &Purpose) -> bool {
    use LegalBasis::{Consent, LegitimateInterest};
    matches!(purpose.current().legal_basis, Consent | LegitimateInterest)
}

/// One act's change in one cell.
#[derive(Clone, Copy)]
struct Event<'a> {
    act: &'a Act,
    change: &'a ChangeRecord,
}

impl Event<'_> {
    fn is_grant(&self) -> bool {
        self.change.action == Action::Grant
    }

    fn order(&self) -> (Millis, bool, u64) {
        (self.act.effective_at, self.is_grant(), self.act.index)
    }

    /// Of two stops of one act, the narrower is named.
    fn width(&self) -> u8 {
        match (&self.change.scope.purpose, &self.change.scope.channel) {
            (None, None) => 3,
            (None, Some(_)) => 2,
            (Some(_), None) => 1,
            (Some(_), Some(_)) => 0,
        }
    }

    fn waits(&self, purpose: &Purpose) -> bool {
        let version = self.change.purpose_version as usize;
        purpose.versions[version - 1].double_opt_in
    }
}

/// A cell, after a replay.
struct Cell<'a> {
    events: Vec<Event<'a>>,
    stop: Option<Event<'a>>,
    grant: Option<Event<'a>>,
    waiting: Option<Event<'a>>,
    lifted_by: Option<u64>,
}

fn replay<'a>(purpose: &Purpose, acts: &'a [Act], cell: &CellKeys) -> Cell<'a> {
    let mut events: Vec<Event<'a>> = acts
        .iter()
        .flat_map(|act| act.changes.iter().map(move |change| Event { act, change }))
        .filter(|event| covers(&event.change.scope, cell))
        .collect();
    events.sort_by_key(|event| (event.order(), 3 - event.width()));

    let (mut stop, mut grant, mut waiting, mut lifted_by) = (None, None, None, None);
    let mut was_stopped = false;
    for &event in &events {
        if !event.is_grant() {
            (stop, grant, waiting, lifted_by) = (Some(event), None, None, None);
            was_stopped = true;
        } else if stop.is_some() && !speaks(event.act.actor) {
            // Recorded, and changes nothing.
        } else if event.waits(purpose) {
            waiting = Some(event);
        } else {
            (stop, grant, waiting) = (None, Some(event), None);
            if was_stopped && speaks(event.act.actor) {
                lifted_by = Some(event.act.index);
            }
        }
    }
    Cell { events, stop, grant, waiting, lifted_by }
}

/// What a check answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub reason: Reason,
    pub decided_by: Option<u64>,
}

/// Answers a question, by the rows of the table in their order.
pub fn decide(
    catalog: &Catalog,
    acts: &[Act],
    erased_by: Option<u64>,
    cell: &CellKeys,
    categories: &[String],
    now: Millis,
) -> Answer {
    let (purpose, channel_is_retired) = find(catalog, cell);
    let basis = purpose.current().legal_basis;
    let answer = |reason, decided_by| Answer { reason, decided_by };
    if channel_is_retired {
        return answer(Reason::UnknownChannel, None);
    }
    if purpose.retired {
        return answer(Reason::PurposeRetired, Some(purpose.index));
    }
    if !is_stoppable(purpose) {
        return answer(Reason::NotConsentBased, Some(purpose.index));
    }
    if erased_by.is_some() {
        return answer(Reason::Erased, erased_by);
    }
    let cell = replay(purpose, acts, cell);
    if let Some(stop) = cell.stop {
        let reason = match stop.change.action.stop_kind(stop.act.actor).unwrap() {
            StopKind::Refused => Reason::Refused,
            StopKind::Withdrawn => Reason::Withdrawn,
            StopKind::Revoked => Reason::Revoked,
            StopKind::Objected => Reason::Objected,
        };
        return answer(reason, Some(stop.act.index));
    }
    if basis == LegalBasis::LegitimateInterest {
        return answer(Reason::NoObjection, cell.lifted_by);
    }
    if let (Some(waiting), false) = (cell.waiting, grant_counts(purpose, &cell, now)) {
        return answer(Reason::PendingConfirmation, Some(waiting.act.index));
    }
    let Some(grant) = cell.grant else { return answer(Reason::NoRecord, None) };
    if is_expired(grant, now) {
        return answer(Reason::Expired, Some(grant.act.index));
    }
    if grant.change.purpose_version < purpose.oldest_compatible {
        return answer(Reason::ReconsentRequired, Some(purpose.oldest_compatible_index));
    }
    let declared = &purpose.versions[grant.change.purpose_version as usize - 1].data_categories;
    let narrowed = &grant.change.data_categories;
    let all_within = |own: &[String]| {
        let is_within = |asked: &String| {
            own.iter().any(|own| asked == own || asked.starts_with(&format!("{own}.")))
        };
        categories.iter().all(is_within)
    };
    if !all_within(declared) || !(narrowed.is_empty() || all_within(narrowed)) {
        return answer(Reason::DataCategoryNotCovered, Some(grant.act.index));
    }
    answer(Reason::Granted, Some(grant.act.index))
}

fn is_expired(grant: Event<'_>, now: Millis) -> bool {
    grant.change.expires_at.is_some_and(|at| now >= at)
}

fn grant_counts(purpose: &Purpose, cell: &Cell<'_>, now: Millis) -> bool {
    cell.grant.is_some_and(|grant| {
        !is_expired(grant, now) && grant.change.purpose_version >= purpose.oldest_compatible
    })
}

/// What may become of a change: an outcome, and any of these causes.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Is(Outcome),
    SupersededByOneOf(Vec<u64>),
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
}

/// What becomes of a change of the last act, by the rules that the fold module documents.
pub fn verdict(
    catalog: &Catalog,
    acts: &[Act],
    erased_by: Option<u64>,
    change: &ChangeRecord,
    now: Millis,
) -> Verdict {
    if change.action == Action::Grant {
        Verdict::Is(grant_outcome(catalog, acts, erased_by, change, now))
    } else {
        stop_verdict(catalog, acts, erased_by, change, now)
    }
}

fn grant_outcome(
    catalog: &Catalog,
    acts: &[Act],
    erased_by: Option<u64>,
    change: &ChangeRecord,
    now: Millis,
) -> Outcome {
    let (act, earlier) = acts.split_last().unwrap();
    let scope = change.scope.clone();
    let keys = (scope.purpose.unwrap(), scope.channel.unwrap());
    let (purpose, _) = find(catalog, &keys);
    let (before, after) = (replay(purpose, earlier, &keys), replay(purpose, acts, &keys));
    let own = Event { act, change };
    let waits = own.waits(purpose);
    let later_waiting = after
        .events
        .iter()
        .rfind(|event| event.is_grant() && event.waits(purpose))
        .filter(|event| event.order() > own.order());

    if !is_stoppable(purpose) {
        return Outcome::NoEffect;
    }
    if let Some(index) = erased_by {
        return Outcome::BlockedByStop(index);
    }
    if let Some(stop) = after.stop {
        if !speaks(act.actor) {
            return Outcome::BlockedByStop(stop.act.index);
        }
        if stop.order() > own.order() {
            return Outcome::SupersededByLater(stop.act.index);
        }
        return match later_waiting {
            Some(event) if speaks(event.act.actor) => Outcome::SupersededByLater(event.act.index),
            _ => Outcome::PendingConfirmation,
        };
    }
    if purpose.current().legal_basis == LegalBasis::LegitimateInterest {
        return match after.lifted_by {
            Some(index) if index == act.index => Outcome::Applied,
            // A stop that came before the later lifting grant, but after this one, counts too.
            Some(index) if speaks(act.actor) && !waits => Outcome::SupersededByLater(index),
            _ => Outcome::NoEffect,
        };
    }
    if before.stop.is_some() {
        return Outcome::Applied;
    }
    let confirmed = after.events.iter().rfind(|event| event.is_grant() && !event.waits(purpose));
    match confirmed {
        Some(grant) if grant.order() > own.order() => Outcome::SupersededByLater(grant.act.index),
        _ if !waits => Outcome::Applied,
        _ if later_waiting.is_some() => {
            Outcome::SupersededByLater(later_waiting.unwrap().act.index)
        }
        _ if grant_counts(purpose, &after, now) => Outcome::NoEffect,
        _ => Outcome::PendingConfirmation,
    }
}

fn stop_verdict(
    catalog: &Catalog,
    acts: &[Act],
    erased_by: Option<u64>,
    change: &ChangeRecord,
    now: Millis,
) -> Verdict {
    let (act, earlier) = acts.split_last().unwrap();
    let own = Event { act, change };
    if erased_by.is_some() {
        return Verdict::Is(Outcome::NoEffect);
    }
    if let Some(key) = &change.scope.purpose {
        let purpose = catalog.purposes().find(|(_, purpose)| purpose.key == *key).unwrap().1;
        if !is_stoppable(purpose) {
            return Verdict::Is(Outcome::NoEffect);
        }
    }
    let mut causes = Vec::new();
    let as_wide = earlier.iter().flat_map(|act| {
        let stops = act.changes.iter().filter(|c| c.action != Action::Grant);
        stops.map(move |change| Event { act, change })
    });
    let as_wide: Vec<_> =
        as_wide.filter(|event| is_as_wide(&event.change.scope, &change.scope)).collect();
    let later_as_wide = as_wide.iter().filter(|event| event.order() > own.order());
    causes.extend(later_as_wide.map(|event| event.act.index));

    for keys in all_cells(catalog) {
        let (purpose, channel_is_retired) = find(catalog, &keys);
        if !covers(&change.scope, &keys) || !is_stoppable(purpose) {
            continue;
        }
        let (before, after) = (replay(purpose, earlier, &keys), replay(purpose, acts, &keys));
        let is_live = !purpose.retired && !channel_is_retired;
        let rests_on_interest = purpose.current().legal_basis == LegalBasis::LegitimateInterest;
        let answers = matches!(change.action, Action::Refuse | Action::Object);
        let can_matter_without_grant = is_live && (rests_on_interest || answers);
        let is_named = after.events.iter().any(Event::is_grant);
        if !is_named && (!as_wide.is_empty() || !can_matter_without_grant) {
            continue;
        }
        match after.stop {
            Some(stop) if stop.act.index != act.index => causes.push(stop.act.index),
            None => causes.extend(latest_lifting(purpose, &after).filter(|&i| i != act.index)),
            Some(_)
                if changed(purpose, &before, now)
                    || nothing_stood(&before) && can_matter_without_grant =>
            {
                return Verdict::Is(Outcome::Applied);
            }
            Some(_) => {}
        }
    }
    if causes.is_empty() {
        Verdict::Is(Outcome::NoEffect)
    } else {
        Verdict::SupersededByOneOf(causes)
    }
}

fn latest_lifting(purpose: &Purpose, cell: &Cell<'_>) -> Option<u64> {
    let lifts =
        |event: &&Event<'_>| event.is_grant() && speaks(event.act.actor) && !event.waits(purpose);
    cell.events.iter().rfind(lifts).map(|event| event.act.index)
}

fn nothing_stood(before: &Cell<'_>) -> bool {
    before.stop.is_none()
}

/// Whether a stop takes something back.
fn changed(purpose: &Purpose, before: &Cell<'_>, now: Millis) -> bool {
    let Some(stop) = before.stop else {
        return before.grant.is_some_and(|grant| !is_expired(grant, now))
            || before.waiting.is_some();
    };
    let waiting = before.events.iter().rfind(|event| event.is_grant() && event.waits(purpose));
    waiting.is_some_and(|event| speaks(event.act.actor) && event.order() > stop.order())
}
