//! Folds acts into the state of a data subject, and computes the outcome of each change.
//!
//! [`fold`] applies a recorded act, whatever its outcome was: the state follows from the acts and
//! the catalogue alone. [`judge`] is for the moment at which an act is written: it folds too, and
//! sets the outcomes, which the entry then carries for ever. This module knows no storage and no
//! clock. Both functions resolve every key before they change anything, so an error leaves state
//! and outcomes as they were.
//!
//! # Outcomes
//! The state before the act is compared with the state after the whole of it, at the moment of
//! recording. "Later" is the order in which acts win: by effect; at one moment a stop is later than
//! the grants of other acts, and a grant is later than the stops of its own; then by index.
//! Retirement of a purpose or channel is left aside for standing consents, as it may end.
//!
//! Contract, legal obligation, vital interest and public task need no consent and know no stop:
//! a change of a purpose that has never rested on anything else, in any region, has NO_EFFECT.
//!
//! A **grant**, in this order:
//! 1. The subject is erased or under erasure: BLOCKED_BY_STOP, the erasure.
//! 2. A live stop covers the cell and the actor may not lift it: BLOCKED_BY_STOP.
//! 3. A live stop covers the cell and is later: SUPERSEDED_BY_LATER, that stop.
//! 4. A live stop covers the cell and is not later. Only a grant that waits for its double opt-in
//!    leaves it so: PENDING_CONFIRMATION, or SUPERSEDED_BY_LATER if a later one of somebody who may
//!    lift the stop waits and could do so too.
//! 5. The purpose rests on consent nowhere: APPLIED if this is the grant that lifts a stop,
//!    SUPERSEDED_BY_LATER if a later grant does, NO_EFFECT if there is none to lift.
//! 6. It lifted a stop that was live before: APPLIED.
//! 7. The actor may not lift stops, and one was lifted in the cell: SUPERSEDED_BY_LATER if the grant
//!    that lifted it is later, else NO_EFFECT. Only the data subject's own grants count there.
//! 8. A later grant stands, and not one of somebody else over an own one: SUPERSEDED_BY_LATER, the
//!    latest.
//! 9. Its version needs a double opt-in, and it is no confirmation: SUPERSEDED_BY_LATER if a later grant,
//!    as in 8, waits for its own; NO_EFFECT if a confirmed grant stands that counts now and
//!    says all that this one does, of the same or a newer version, with the same end and categories;
//!    else PENDING_CONFIRMATION. A request never downgrades a confirmed grant, and one that asks for
//!    something else waits beside it, while the confirmed one goes on.
//! 10. A later grant of somebody else stands: SUPERSEDED_BY_LATER, that grant, if it leaves nothing to
//!     this one, nor to the own one that this one replaces.
//! 11. It is somebody else's that does not count now, beside an own one that counts: NO_EFFECT, unless
//!     it took the place of one that did count.
//! 12. APPLIED.
//!
//! A **stop** is looked at cell by cell; a class is every purpose that it has when the act is written.
//! The cells that can matter are those of its scope that some grant named and, unless a stop of at
//! least its width stood before, the live cells of its scope that are open without one, in some region:
//! those of legitimate interest, and those of another basis where consent was the basis before. For a
//! refusal or an objection, which answer a question, they are all live cells of its scope that a stop
//! can touch.
//! 1. APPLIED if it decides some cell and changed something there: no stop stood and it closed an
//!    open cell, took back a grant that was not past its expiry or that waited for its double
//!    opt-in, or answered a question (refusal or objection of a live cell); or a stop stood, and
//!    the latest own grant that waits could have lifted that one when confirmed. Also if an own grant
//!    lifts it, and it took from others what that one does not give.
//! 2. SUPERSEDED_BY_LATER if a later stop of at least its width stands, or if a later stop or a
//!    later lifting grant decides some cell that can matter. The cause is what decides the first such cell
//!    that some grant named, in the order of the catalogue; else the latest stop of at least its width; else
//!    the latest stop that decides another such cell.
//! 3. NO_EFFECT otherwise: withdrawn where nothing was known, or stopped again.

use smallvec::SmallVec;

use crate::{
    decide::{Given, Standing, counts, includes},
    domain::{
        Action, Actor, Catalog, CellState, ChangeRecord, ChannelId, Exception, Grant, LegalBasis,
        Mark, Millis, Outcome, Purpose, PurposeId, PurposeScope, Scope, Stop, SubjectState,
        UnknownKey,
    },
    entry::{ConsentAct, ConsentConfirmed},
};

/// The fields of an act that the fold needs.
#[derive(Debug, Clone, Copy)]
pub struct ActFacts<'a> {
    /// Index of its entry.
    pub index: u64,
    /// When it took effect.
    pub effective_at: Millis,
    /// Who acted.
    pub actor: Actor,
    /// What changed. Outcomes are ignored.
    pub changes: &'a [ChangeRecord],
    /// For guardians: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
}

impl<'a> ActFacts<'a> {
    /// The fields of a recorded act.
    #[must_use]
    pub fn of(index: u64, act: &'a ConsentAct) -> Self {
        Self {
            index,
            effective_at: act.effective_at,
            actor: act.actor,
            changes: &act.changes,
            authority_ends_at: act.authority_ends_at,
        }
    }

    fn mark(&self) -> Mark {
        Mark { effective_at: self.effective_at, index: self.index }
    }
}

/// Folds in an act that is on record. Folding it again, or in another order, gives the same state.
///
/// # Errors
/// The first key that the catalogue lacks; the state is unchanged then.
pub fn fold(
    catalog: &Catalog,
    state: &mut SubjectState,
    act: &ActFacts<'_>,
) -> Result<(), UnknownKey> {
    let scopes = resolve(catalog, act.changes)?;
    let mark = act.mark();
    // The corrections that the state has taken over hold for an act that is folded again, too.
    let end = state.revision.max(act.index);
    let earliest = catalog.earliest(mark, end);
    let stops: Scopes = act
        .changes
        .iter()
        .zip(&scopes)
        .filter(|(change, _)| change.action.stop_kind(act.actor).is_some())
        .map(|(_, scope)| *scope)
        .collect();
    for (change, scope) in act.changes.iter().zip(scopes) {
        if let Some(kind) = change.action.stop_kind(act.actor) {
            let stop = Stop::new(scope, kind, act.actor, mark);
            state.merge_stop(catalog.corrected_stop(stop, end));
            continue;
        }
        if change.action != Action::Grant {
            continue;
        }
        // Consent is granted cell by cell and never wider: a wider grant grants nothing.
        let Some((purpose, channel)) = scope.as_cell() else { continue };
        let grant = grant(mark, act.actor, act.authority_ends_at, change);
        let grant = catalog.corrected_grant(purpose, grant, end);
        let waits = waits(catalog, purpose, change.purpose_version);
        let is_exception = stops.iter().any(|stop| catalog.covers(*stop, purpose, channel));
        if is_exception && act.actor.speaks_for_subject() {
            let exception = Exception { mark: earliest, lifts: !waits };
            state.merge_exception(purpose, channel, exception);
        }
        if waits {
            state.merge_pending(purpose, channel, grant);
        } else {
            state.merge_uncertain_grant(purpose, channel, grant, earliest);
        }
    }
    state.revision = state.revision.max(act.index.saturating_add(1));
    Ok(())
}

/// Folds in a confirmation. The grants keep the place of the act that is confirmed, so a stop after
/// it still stands. Folding it again, or in another order, gives the same state.
///
/// # Errors
/// The first key that the catalogue lacks; the state is unchanged then.
pub fn confirm(
    catalog: &Catalog,
    state: &mut SubjectState,
    index: u64,
    confirmed: &ConsentConfirmed,
) -> Result<(), UnknownKey> {
    let scopes = resolve(catalog, &confirmed.grants)?;
    let mark = confirmed.mark();
    // The clock may have been corrected since the request.
    let end = state.revision.max(index);
    let earliest = catalog.earliest(mark, end);
    for (change, scope) in confirmed.grants.iter().zip(scopes) {
        if let (Action::Grant, Some((purpose, channel))) = (change.action, scope.as_cell()) {
            let grant = Grant {
                confirmed_by: Some(index),
                ..grant(mark, confirmed.requested_by, confirmed.authority_ends_at, change)
            };
            let grant = catalog.corrected_grant(purpose, grant, end);
            state.merge_uncertain_grant(purpose, channel, grant, earliest);
        }
    }
    Ok(())
}

/// Computes the outcomes of changes that are about to be written.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The catalogue.
    pub catalog: &'a Catalog,
    /// The state before the changes, with all that linked subjects contribute.
    pub before: &'a SubjectState,
    /// The same after them.
    pub after: &'a SubjectState,
    /// When the changes took effect, and the index of their act.
    pub mark: Mark,
    /// Who performs the act.
    pub actor: Actor,
    /// The moment at which decisions are compared.
    pub now: Millis,
    /// Whether the changes are grants whose double opt-in is completed.
    pub is_confirmation: bool,
}

impl Judge<'_> {
    /// Sets the outcome of each change, for this state alone.
    ///
    /// # Errors
    /// The first key that the catalogue lacks; no outcome is set then.
    pub fn outcomes(&self, changes: &mut [ChangeRecord]) -> Result<(), UnknownKey> {
        let scopes = resolve(self.catalog, changes)?;
        for (change, &scope) in changes.iter_mut().zip(&scopes) {
            change.linked_subjects = 0;
            change.outcome = match (change.action, scope.as_cell()) {
                (Action::Grant, Some((purpose, channel))) => self.grant(purpose, channel, change),
                (Action::Grant, None) | (Action::Expire, _) => Outcome::NoEffect,
                (stop, _) => self.stop(stop, scope),
            };
        }
        Ok(())
    }
}

/// Folds in an act that is about to be written, of a subject without links, and sets the outcome of
/// each of its changes.
///
/// # Errors
/// The first key that the catalogue lacks; state and outcomes are unchanged then.
pub fn judge(
    catalog: &Catalog,
    state: &mut SubjectState,
    act: ActFacts<'_>,
    now: Millis,
) -> Result<Vec<ChangeRecord>, UnknownKey> {
    let before = state.clone();
    fold(catalog, state, &act)?;
    let judge = Judge {
        catalog,
        before: &before,
        after: state,
        mark: act.mark(),
        actor: act.actor,
        now,
        is_confirmation: false,
    };
    let mut changes = act.changes.to_vec();
    judge.outcomes(&mut changes)?;
    Ok(changes)
}

type Scopes = SmallVec<[Scope; 16]>;

/// The scopes of changes.
///
/// # Errors
/// The first key that the catalogue lacks.
pub(super) fn resolve(catalog: &Catalog, changes: &[ChangeRecord]) -> Result<Scopes, UnknownKey> {
    changes.iter().map(|change| catalog.resolve(&change.scope)).collect()
}

fn grant(
    mark: Mark,
    actor: Actor,
    authority_ends_at: Option<Millis>,
    change: &ChangeRecord,
) -> Grant {
    Grant {
        mark,
        actor,
        purpose_version: change.purpose_version,
        expires_at: change.expires_at,
        data_categories: match change.data_categories.as_slice() {
            [] => None,
            categories => Some(categories.into()),
        },
        authority_ends_at: authority_ends_at.filter(|_| actor == Actor::Guardian),
        confirmed_by: None,
    }
}

/// Whether a confirmed grant already gives everything that a request asks for.
fn says_no_more(grant: &Grant, change: &ChangeRecord) -> bool {
    change.purpose_version <= grant.purpose_version
        && change.expires_at == grant.expires_at
        && change.data_categories == grant.data_categories.as_deref().unwrap_or_default()
}

/// Whether a grant of this version waits for its double opt-in. One of a version that the
/// catalogue lacks waits for ever.
fn waits(catalog: &Catalog, purpose: PurposeId, version: u32) -> bool {
    let version = catalog.purpose(purpose).and_then(|purpose| purpose.at_version(version));
    version.is_none_or(|version| version.double_opt_in)
}

/// The effect of a stop on one cell.
enum AtCell {
    Changed,
    Unchanged,
    DecidedLater(u64),
}

impl Judge<'_> {
    fn grant(
        &self,
        purpose_id: PurposeId,
        channel_id: ChannelId,
        change: &ChangeRecord,
    ) -> Outcome {
        let (Some(purpose), Some(cell)) =
            (self.stoppable(purpose_id), self.after.cell(purpose_id, channel_id))
        else {
            return Outcome::NoEffect;
        };
        // Earlier than the mark only for a confirmation, if the clock was corrected since the request.
        let lift_mark = self.catalog.earliest(self.mark, u64::MAX);
        if let Some(index) = self.after.erased_by {
            return Outcome::BlockedByStop(Some(index));
        }
        if let Some(stop) = self.after.live_stop(self.catalog, purpose_id, channel_id) {
            return if !self.actor.speaks_for_subject() {
                Outcome::BlockedByStop(Some(stop.mark.index))
            } else if self.after.stops_bar(self.catalog, purpose_id, channel_id, lift_mark) {
                let latest =
                    self.after.latest_stop(self.catalog, purpose_id, channel_id).unwrap_or(stop);
                Outcome::SupersededByLater(Some(latest.mark.index))
            } else {
                let lifting = self.later(cell.own.pending.as_deref()).filter(|&mark| {
                    !self.after.stops_bar(self.catalog, purpose_id, channel_id, mark)
                });
                superseded_or(lifting, Outcome::PendingConfirmation)
            };
        }

        let was_stopped = self.before.live_stop(self.catalog, purpose_id, channel_id).is_some();
        // A later grant of the same moment may be barred by the stop that this one stands beside.
        let is_exception = cell.exception.as_ref().is_some_and(|one| one.mark == lift_mark);
        let lifts = cell.lifted == Some(lift_mark) || is_exception && was_stopped;
        let waits =
            !self.is_confirmation && waits(self.catalog, purpose_id, change.purpose_version);
        if !purpose.current().has_basis(LegalBasis::Consent) {
            let may_lift = self.actor.speaks_for_subject() && !waits;
            return match self.after.latest_stop(self.catalog, purpose_id, channel_id) {
                Some(_) if lifts => Outcome::Applied,
                // The stop is lifted, and not by this grant, so by a later one.
                Some(_) if may_lift => superseded_or(cell.lifted, Outcome::NoEffect),
                _ => Outcome::NoEffect,
            };
        }
        if lifts && was_stopped {
            return Outcome::Applied;
        }
        let others = self.after.others_that_count(self.catalog, cell);
        let is_own = self.actor.speaks_for_subject();
        let is_idle =
            !is_own && self.after.latest_stop(self.catalog, purpose_id, channel_id).is_some();
        if is_idle {
            return superseded_or(self.later(cell.own.given.as_ref()), Outcome::NoEffect);
        }
        // Nobody else's grant takes the place of an own one.
        let rivals = || [&cell.own].into_iter().chain(others.filter(|_| !is_own));
        if let Some(later) = rivals().filter_map(|side| self.later(side.given.as_ref())).max() {
            return Outcome::SupersededByLater(Some(later.index));
        }
        if !waits {
            let other = self.later(others.and_then(|others| others.given.as_ref()));
            return match self.changes_what_is_given(purpose, cell) {
                true => Outcome::Applied,
                false => superseded_or(other, Outcome::NoEffect),
            };
        }
        if let Some(later) = rivals().filter_map(|side| self.later(side.pending.as_deref())).max() {
            return Outcome::SupersededByLater(Some(later.index));
        }
        match Standing::of(self.catalog, self.after, purpose_id, channel_id, self.now) {
            Standing::Given(given) if given.iter().any(|grant| says_no_more(grant, change)) => {
                Outcome::NoEffect
            }
            _ => Outcome::PendingConfirmation,
        }
    }

    /// The place of a grant, if it is later than the judged one. Where a correction of the clock changed
    /// their times, each counts as the latest that it can be.
    fn later(&self, grant: Option<&Grant>) -> Option<Mark> {
        let judged = self.catalog.latest(self.mark, u64::MAX);
        grant.map(|grant| grant.mark).filter(|&mark| mark > judged)
    }

    /// Whether a grant, the latest of its side, changed what is given in an unstopped cell.
    fn changes_what_is_given(&self, purpose: &Purpose, after: &CellState) -> bool {
        let before = self.before.cell(after.purpose, after.channel);
        let counting = |grant: &&Grant| counts(purpose, grant, self.now);
        let own = after.own.given.as_ref();
        let other = self
            .after
            .others_that_count(self.catalog, after)
            .and_then(|others| others.given.as_ref());
        if self.actor.speaks_for_subject() {
            let Some(later) = other.filter(|&grant| self.later(Some(grant)).is_some()) else {
                return true;
            };
            let replaced = before.and_then(|cell| cell.own.given.as_ref());
            let covers = counts(purpose, later, self.now);
            let mut counted = own.into_iter().chain(replaced).filter(counting);
            return counted.any(|grant| !covers || !includes(purpose, later, grant));
        }
        let Some(own) = own.filter(counting) else { return true };
        let replaced = before.and_then(|cell| cell.others.as_ref()?.given.as_ref());
        let replaced = replaced.filter(|grant| grant.mark > own.mark).filter(counting);
        other.filter(counting).is_some()
            || replaced.is_some_and(|grant| !includes(purpose, own, grant))
    }

    fn stop(&self, action: Action, scope: Scope) -> Outcome {
        let names_what_no_stop_touches =
            scope.as_purpose().is_some_and(|purpose| self.stoppable(purpose).is_none());
        if names_what_no_stop_touches || self.after.erased_by.is_some() {
            return Outcome::NoEffect;
        }
        let mut later = None;
        for cell in self.after.cells_in(self.catalog, scope) {
            match self.stop_at(action, cell) {
                AtCell::Changed => return Outcome::Applied,
                AtCell::Unchanged => {}
                AtCell::DecidedLater(index) => later = later.or(Some(index)),
            }
        }
        match self.after.latest_stop_over(self.catalog, scope) {
            Some(stop) if stop.mark > self.mark => later = later.or(Some(stop.mark.index)),
            _ if self.before.latest_stop_over(self.catalog, scope).is_some() => {}
            _ if self.stops_a_cell_without_record(action, scope) => return Outcome::Applied,
            _ => later = later.or_else(|| self.later_stop_within(action, scope)),
        }
        later.map_or(Outcome::NoEffect, |index| Outcome::SupersededByLater(Some(index)))
    }

    /// The effect of a stop on a cell of its scope that some grant named.
    fn stop_at(&self, action: Action, cell: &CellState) -> AtCell {
        let (purpose_id, channel_id) = (cell.purpose, cell.channel);
        let Some(purpose) = self.stoppable(purpose_id) else { return AtCell::Unchanged };
        let stands = self.after.live_stop(self.catalog, purpose_id, channel_id).is_some();
        let latest =
            self.after.latest_stop(self.catalog, purpose_id, channel_id).filter(|_| stands);
        match (latest, cell.lifted) {
            (Some(stop), _) if stop.mark > self.mark => {
                return AtCell::DecidedLater(stop.mark.index);
            }
            (Some(_), _) => {}
            (None, _) if self.takes_from_others(purpose, cell) => return AtCell::Changed,
            // The act's own grant is an exception from its stop, not a later act.
            (None, Some(grant)) if grant.index != self.mark.index => {
                return AtCell::DecidedLater(grant.index);
            }
            (None, _) => return AtCell::Unchanged,
        }
        let changed =
            match Standing::of(self.catalog, self.before, purpose_id, channel_id, self.now) {
                Standing::Given(_)
                | Standing::Outdated(_)
                | Standing::CameOfAge(_)
                | Standing::Pending(_) => true,
                Standing::Stopped(_) => self
                    .before
                    .cell(purpose_id, channel_id)
                    .and_then(|cell| cell.own.pending.as_deref())
                    .is_some_and(|grant| {
                        !self.before.stops_bar(self.catalog, purpose_id, channel_id, grant.mark)
                    }),
                Standing::Nothing | Standing::Expired(_) => {
                    can_matter(action, purpose) && self.is_live(channel_id)
                }
                Standing::Erased(_) => false,
            };
        if changed { AtCell::Changed } else { AtCell::Unchanged }
    }

    /// Whether a stop, lifted at once, ended what others had given in a cell, and the own grant that
    /// lifts it does not give as much.
    fn takes_from_others(&self, purpose: &Purpose, cell: &CellState) -> bool {
        let standing =
            |state| Standing::of(self.catalog, state, cell.purpose, cell.channel, self.now);
        let is_others = |grant: &&Grant| !grant.actor.speaks_for_subject();
        let taken = match standing(self.before) {
            Standing::Given(Given { latest, .. }) => latest,
            Standing::Pending(grant) => grant,
            _ => return false,
        };
        let left = cell.own.given.as_ref().filter(|own| counts(purpose, own, self.now));
        Some(taken)
            .filter(is_others)
            .is_some_and(|taken| left.is_none_or(|own| !includes(purpose, own, taken)))
    }

    /// Whether the scope has a cell that can matter and that no grant named and no stop covered.
    ///
    /// A purpose or channel is skipped only if it is retired, has another basis, or has a stop or
    /// grant of the subject. So the walk is short where it succeeds, and never longer than the
    /// catalogue's purposes and the subject's record.
    fn stops_a_cell_without_record(&self, action: Action, scope: Scope) -> bool {
        let is_covered = |scope: Scope| self.before.latest_stop_over(self.catalog, scope).is_some();
        let is_open = |&id: &ChannelId| {
            self.is_live(id) && !is_covered(Scope { purpose: None, channel: Some(id) })
        };
        let channels: SmallVec<[ChannelId; 16]> = match scope.channel {
            Some(id) => Some(id).into_iter().filter(is_open).collect(),
            None => self.catalog.channels().map(|(id, _)| id).filter(is_open).collect(),
        };
        if channels.is_empty() {
            return false;
        }
        self.any_purpose(scope, |id, purpose| {
            let over_all = Scope { purpose: Some(PurposeScope::One(id)), channel: None };
            can_matter(action, purpose)
                && !is_covered(over_all)
                && channels.iter().any(|&channel| {
                    !is_covered(Scope::cell(id, channel)) && self.after.cell(id, channel).is_none()
                })
        })
    }

    /// The latest stop that decides some cell of the scope that can matter.
    fn later_stop_within(&self, action: Action, scope: Scope) -> Option<u64> {
        let touches_a_cell = |stop: &&Stop| {
            let Some(overlap) = self.catalog.overlap(stop.scope, scope) else { return false };
            let has_channel = match overlap.channel {
                Some(id) => self.is_live(id),
                None => self.catalog.channels().any(|(_, channel)| !channel.retired),
            };
            has_channel && self.any_purpose(overlap, |_, purpose| can_matter(action, purpose))
        };
        let later = self.before.stops().iter().filter(|stop| stop.mark > self.mark);
        later.filter(touches_a_cell).max_by_key(|stop| stop.mark).map(|stop| stop.mark.index)
    }

    fn any_purpose(&self, scope: Scope, test: impl Fn(PurposeId, &Purpose) -> bool) -> bool {
        if let Some(id) = scope.as_purpose() {
            return self.catalog.purpose(id).is_some_and(|purpose| test(id, purpose));
        }
        let mut covered =
            self.catalog.purposes().filter(|(id, _)| self.catalog.covers_purpose(scope, *id));
        covered.any(|(id, purpose)| test(id, purpose))
    }

    fn stoppable(&self, id: PurposeId) -> Option<&Purpose> {
        self.catalog.purpose(id).filter(|purpose| purpose.can_be_stopped())
    }

    fn is_live(&self, id: ChannelId) -> bool {
        self.catalog.channel(id).is_some_and(|channel| !channel.retired)
    }
}

/// Whether a stop can matter to a live cell of this purpose that holds no grant.
fn can_matter(action: Action, purpose: &Purpose) -> bool {
    // Without a grant, a cell that rests on consent is closed already.
    let ends_something = || purpose.is_open_until_stopped();
    let answers = matches!(action, Action::Refuse | Action::Object);
    !purpose.retired && purpose.can_be_stopped() && (answers || ends_something())
}

fn superseded_or(later: Option<Mark>, otherwise: Outcome) -> Outcome {
    later.map_or(otherwise, |mark| Outcome::SupersededByLater(Some(mark.index)))
}
