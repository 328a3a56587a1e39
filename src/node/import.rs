//! Rows of an import: acts from another system, some of which this ledger has already.
//!
//! A row in which the data subject acts is recorded like any act. Of a row in which the controller
//! acts, only new changes are recorded: importing last year's list again changes nothing, and renews
//! nothing. A field that a row leaves out stays as it is.
//!
//! The writer decides whether a change is new, by the subject's state united with the states of
//! linked subjects. A change with a claimed time is not new if the state has the same or a later one.
//! In doubt, a stop is new.

use std::{
    cmp::Ordering,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    Core, Node, ReadError,
    act::{Act, Recorded, Refused},
    batch::{Batch, Prepared, mark as mark_of},
    error::{RecordError, WriteError},
    stops::UnclearStop,
    writer,
};
use crate::{
    decide::Standing,
    domain::{
        Action, Body, Catalog, CellState, Change, ChangeRecord, Contact, ContactChange, Door,
        Field, Grant, ImportOrigin, Millis, Said, Scope, StopKind, Subject, SubjectRef,
        SubjectState, recorded_end,
    },
    format::order::of_rows,
};

/// One row of an import.
#[derive(Debug, Clone)]
pub struct ImportRow {
    /// The act. Its idempotency key identifies the row.
    pub act: Act,
    /// Whether a key or a time of the row says which act it is. A row without either says how things are,
    /// each time that it is imported.
    pub names_its_act: bool,
    /// Whether nothing is written, only the answer is computed.
    pub dry_run: bool,
    /// Where it stands in the import.
    pub origin: ImportOrigin,
}

/// The answer to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// Its new changes are recorded; in a dry run, they would be. There is never a confirmation: an
    /// import does not bring tokens to data subjects.
    Recorded(Recorded),
    /// It has no new change, apart from those that were refused.
    Unchanged(Refused),
    /// An earlier import of it is recorded.
    Replayed {
        /// Positions of its stops that no longer stand, because of later acts.
        lifted: Vec<usize>,
    },
}

/// The answer to a row, once the row is written. Dropping it does not cancel the row.
#[derive(Debug)]
pub struct ImportAnswer(oneshot::Receiver<Result<Imported, RecordError>>);

impl Future for ImportAnswer {
    type Output = Result<Imported, RecordError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(
            ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or_else(|_| writer::ended_early()),
        )
    }
}

impl Node {
    /// Waits for a place, and hands a row to the writer. Rows are written in the order of these calls.
    ///
    /// # Errors
    /// See [`WriteError`], and [`RecordError`] in the answer.
    pub async fn import(&self, row: ImportRow) -> Result<ImportAnswer, WriteError> {
        Ok(ImportAnswer(self.queue(move |batch| batch.import(row)).await?))
    }

    /// A random order for the rows of these data subjects, so that neighbours in a file are none in the
    /// ledger. The rows of one person keep theirs, also where links make several data subjects one person:
    /// of rows without times, the later counts.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub async fn order_of_rows(&self, subjects: Vec<Subject>) -> Result<Vec<usize>, ReadError> {
        let core = Arc::clone(&self.core);
        let ordered = spawn_blocking(move || {
            let persons = subjects.into_iter().map(|subject| core.linked_person(subject));
            let persons: Vec<SamePerson> = persons.collect::<Result<_, _>>()?;
            Ok(of_rows(&persons, &mut rand::rng()))
        });
        ordered.await.unwrap_or_else(|error| Err(ReadError::StateUnreadable(error.to_string())))
    }
}

/// What is the same for all data subjects of a person, as far as links say so.
#[derive(Debug, PartialEq, Eq, Hash)]
enum SamePerson {
    /// The first of the linked data subjects.
    Known(SubjectRef),
    New(Subject),
}

impl Core {
    fn linked_person(&self, subject: Subject) -> Result<SamePerson, ReadError> {
        let Some(found) = self.vault.find(&subject)? else { return Ok(SamePerson::New(subject)) };
        let linked = self.view.around(&[found])?;
        Ok(SamePerson::Known(linked.into_iter().fold(found, SubjectRef::min)))
    }
}

impl Batch<'_> {
    /// Adds the new changes of a row. On error the batch is unchanged.
    fn import(&mut self, row: ImportRow) -> Result<Imported, RecordError> {
        let ImportRow { mut act, names_its_act, dry_run, origin } = row;
        let sealer = self.sealer(&act.subject)?;
        let mut mark =
            act.idempotency.as_ref().map(|idempotency| mark_of(&sealer.person, idempotency));
        if self.written_before(mark.as_ref())?.is_some() {
            let lifted = self.lifted_stops(&act)?;
            if lifted.is_empty() || names_its_act {
                return Ok(Imported::Replayed { lifted });
            }
            // Its source says once more, after the grant that lifted the stops, that they stand. The key
            // of the row stays with the first entry.
            act.changes.retain(|change| change.action != Action::Grant);
            act.contact = ContactChange::default();
            mark = None;
        }
        let (requested, claimed) = (act.changes.clone(), act.effective_at);
        let (mut prepared, refused) =
            self.prepare_stops_at_least(act, &sealer, mark, UnclearStop::IsLeftOut)?;
        prepared.body.door = Door::Import;
        prepared.body.import = Some(origin);
        if !prepared.body.actor.speaks_for_subject() {
            let requested = refused.kept(requested);
            // A claim that is not taken says nothing.
            let claimed = claimed.filter(|_| prepared.moved.is_none());
            self.keep_new_changes(&mut prepared, &requested, claimed)?;
        }
        if prepared.body.changes.is_empty() && prepared.body.contact.is_empty() {
            return Ok(Imported::Unchanged(refused));
        }
        let folded = self.judge(&mut prepared)?;
        if !dry_run {
            let recorded = self.commit(prepared, folded)?;
            return Ok(Imported::Recorded(Recorded { refused, ..recorded }));
        }
        let Prepared { recorded_at, moved, body, evidence, .. } = prepared;
        let (effective_at, changes) = (body.effective_at, body.changes.clone());
        let next = self.next_entry(recorded_at, Body::Act(body), &[&sealer], Some(&evidence))?;
        let recorded = Recorded::new(next.entry.index, recorded_at, effective_at, changes);
        Ok(Imported::Recorded(Recorded { refused, moved, ..recorded }))
    }

    /// Positions of the stops of a recorded row that no longer stand.
    fn lifted_stops(&self, act: &Act) -> Result<Vec<usize>, WriteError> {
        let has_stop = act.changes.iter().any(|change| change.action != Action::Grant);
        let subject_ref = if has_stop { self.known(&act.subject)? } else { None };
        let Some(subject_ref) = subject_ref else { return Ok(Vec::new()) };
        let unlinked = self.state(subject_ref)?;
        let state = self.whole(subject_ref, &unlinked)?;
        let catalog = self.catalog();
        let known = Known {
            catalog,
            unlinked: &unlinked,
            state: &state,
            claimed: None,
            now: self.recorded_at(),
        };
        let is_lifted = |change: &Change| {
            let scope = catalog.resolve(&change.scope).ok();
            // Of which kind the standing stop is does not matter.
            let stands = |scope| known.knows_stop(Action::Withdraw, scope);
            change.action != Action::Grant && scope.is_some_and(|scope| !stands(scope))
        };
        let changes = act.changes.iter().enumerate();
        Ok(changes.filter(|(_, change)| is_lifted(change)).map(|(position, _)| position).collect())
    }

    /// Removes the changes that the state has already.
    fn keep_new_changes(
        &self,
        prepared: &mut Prepared,
        requested: &[Change],
        claimed: Option<Millis>,
    ) -> Result<(), WriteError> {
        let state = self.whole(prepared.body.subject_ref, &prepared.before)?;
        let known = Known {
            catalog: self.catalog(),
            unlinked: &prepared.before,
            state: &state,
            claimed,
            now: prepared.recorded_at,
        };
        let changes = known.new_changes(requested, &prepared.body.changes);
        let contact = known.new_contact(&prepared.body.contact);
        prepared.body.changes = changes;
        prepared.body.contact = contact;
        Ok(())
    }
}

/// The state that a row of the controller is compared with.
struct Known<'a> {
    catalog: &'a Catalog,
    /// The subject's state, without linked subjects.
    unlinked: &'a SubjectState,
    /// The subject's state, united with the states of linked subjects.
    state: &'a SubjectState,
    /// The claimed time of the row, if any.
    claimed: Option<Millis>,
    now: Millis,
}

impl Known<'_> {
    /// The changes that the state does not have. `requested` are the same changes, as in the row.
    fn new_changes(&self, requested: &[Change], changes: &[ChangeRecord]) -> Vec<ChangeRecord> {
        let scope_of = |change: &ChangeRecord| self.catalog.resolve(&change.scope).ok();
        let is_new_stop = |change: &&ChangeRecord| {
            change.action != Action::Grant
                && !scope_of(change).is_some_and(|scope| self.knows_stop(change.action, scope))
        };
        let stops: Vec<Scope> = changes.iter().filter(is_new_stop).filter_map(scope_of).collect();
        let is_new = |(requested, change): &(&Change, &ChangeRecord)| match change.action {
            // Together with a new stop that covers it, a grant is an exception, and so it is new.
            Action::Grant => scope_of(change).is_none_or(|cell| {
                stops.iter().any(|stop| self.catalog.contains(*stop, cell))
                    || !self.knows_grant(requested, change)
            }),
            _ => is_new_stop(change),
        };
        requested.iter().zip(changes).filter(is_new).map(|(_, change)| change.clone()).collect()
    }

    fn knows_grant(&self, requested: &Change, change: &ChangeRecord) -> bool {
        let scope = self.catalog.resolve(&change.scope).ok();
        let Some((purpose_id, channel_id)) = scope.and_then(Scope::as_cell) else { return false };
        let says_the_same = |grant: &Grant| says_the_same(grant, requested, change);
        match Standing::of(self.catalog, self.state, purpose_id, channel_id, self.now) {
            Standing::Given(given) => {
                given.iter().any(says_the_same)
                    || self.idle_grants(scope).any(|grant| {
                        self.is_as_late(grant.mark.effective_at) && says_the_same(grant)
                    })
            }
            Standing::Pending(grant) => !grant.has_expired(self.now) && says_the_same(grant),
            // The grant was recorded before, and blocked by the stop.
            Standing::Stopped(stop) => self.grants(scope).any(|grant| {
                grant.mark.index > stop.mark.index
                    && !grant.actor.speaks_for_subject()
                    && self.is_as_late(grant.mark.effective_at)
                    && says_the_same(grant)
            }),
            // Only a row with a later claimed time renews a grant that has ended.
            Standing::Expired(_) | Standing::Outdated(_) | Standing::CameOfAge(_) => self
                .grants(scope)
                .any(|grant| self.is_as_late(grant.mark.effective_at) && says_the_same(grant)),
            Standing::Nothing | Standing::Erased(_) => false,
        }
    }

    fn grants(&self, scope: Option<Scope>) -> impl Iterator<Item = &Grant> {
        let cells = scope.into_iter().flat_map(|scope| self.state.cells_in(self.catalog, scope));
        cells.flat_map(CellState::grants)
    }

    /// The grants of others that are on record and count for nothing: they have ended, or a stop
    /// covered them.
    fn idle_grants(&self, scope: Option<Scope>) -> impl Iterator<Item = &Grant> {
        let (catalog, state, now) = (self.catalog, self.state, self.now);
        let cells = scope.into_iter().flat_map(|scope| state.cells_in(catalog, scope));
        cells.flat_map(move |cell| {
            let is_covered = state.others_that_count(catalog, cell).is_none();
            let grants = cell.others.iter().flat_map(|others| others.iter());
            grants.filter(move |grant| is_covered || grant.has_expired(now))
        })
    }

    /// A link may be removed, and with it the stops of the other subject: so the stop must stand
    /// without linked subjects, too.
    fn knows_stop(&self, action: Action, scope: Scope) -> bool {
        [self.unlinked, self.state].iter().all(|state| self.stop_stands(state, action, scope))
    }

    /// Whether a stop of the state makes this one redundant. Only an objection makes an objection
    /// redundant; all other kinds of stop are equal.
    fn stop_stands(&self, state: &SubjectState, action: Action, scope: Scope) -> bool {
        let Some(stop) = state.latest_stop_over(self.catalog, scope) else { return false };
        if action == Action::Object && stop.kind != StopKind::Objected {
            return false;
        }
        if let Some(claimed) = self.claimed {
            // A grant beside the stop of its own act does not stand beside another stop of the moment.
            let is_exception = |cell: &CellState| {
                cell.exception.as_ref().is_some_and(|one| one.mark.effective_at == claimed)
            };
            return match stop.mark.effective_at.cmp(&claimed) {
                Ordering::Greater => true,
                Ordering::Equal => !state.cells_in(self.catalog, scope).any(is_exception),
                Ordering::Less => false,
            };
        }
        !state.is_lifted_in(self.catalog, scope)
    }

    /// Whether `at` is not before the claimed time of the row.
    fn is_as_late(&self, at: Millis) -> bool {
        self.claimed.is_none_or(|claimed| claimed <= at)
    }

    /// The contact preferences that the state does not have.
    fn new_contact(&self, said: &ContactChange) -> ContactChange {
        let nothing = Contact::default();
        let known = self.state.contact.as_deref().unwrap_or(&nothing);
        ContactChange {
            time_zones: self.new_field(&said.time_zones, known.time_zones.as_ref()),
            language: self.new_field(&said.language, known.language.as_ref()),
            quiet_hours: self.new_field(&said.quiet_hours, known.quiet_hours.as_ref()),
            frequency_limit: self.new_field(&said.frequency_limit, known.frequency_limit.as_ref()),
        }
    }

    fn new_field<S, T>(&self, said: &Said<S>, known: Option<&Field<T>>) -> Said<S>
    where
        S: Clone + Into<T>,
        T: PartialEq,
    {
        let value = known.and_then(|field| field.value.as_ref());
        let is_known = match said {
            Said::Nothing => true,
            Said::Clear => value.is_none(),
            Said::Value(said) => value == Some(&said.clone().into()),
        };
        let is_older = known
            .zip(self.claimed)
            .is_some_and(|(field, claimed)| claimed < field.mark.effective_at);
        if is_known || is_older { Said::Nothing } else { said.clone() }
    }
}

/// Whether a recorded grant covers the grant of a row. A version, an end or categories that the row
/// leaves out match any value: a blank widens nothing.
fn says_the_same(grant: &Grant, requested: &Change, change: &ChangeRecord) -> bool {
    requested.purpose_version.is_none_or(|version| version <= grant.purpose_version)
        && ends_as_requested(grant, requested.expires_at)
        && (requested.data_categories.is_empty()
            || grant.data_categories.as_deref().unwrap_or_default() == change.data_categories)
}

/// Whether a recorded grant ends as a request asks for, which may leave the end out. The end was rounded
/// when it was recorded.
pub(super) fn ends_as_requested(grant: &Grant, requested: Option<Millis>) -> bool {
    requested.is_none_or(|at| {
        let recorded = recorded_end(grant.mark.effective_at, at);
        grant.expires_at.is_some_and(|end| end == at || end == recorded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Actor, ChannelId, Exception, FrequencyCap, Mark, PurposeId, Stop};

    const CELL: (PurposeId, ChannelId) = (PurposeId(1), ChannelId(1));
    const ALL: Scope = Scope::EVERYTHING;

    fn mark(at: i64) -> Mark {
        Mark { effective_at: Millis(at), index: at.unsigned_abs() }
    }

    fn grant(at: i64, actor: Actor) -> Grant {
        Grant {
            mark: mark(at),
            actor,
            purpose_version: 2,
            expires_at: Some(Millis(900)),
            data_categories: Some(vec!["contact".to_owned()].into()),
            authority_ends_at: None,
            confirmed_by: None,
        }
    }

    fn stopped(at: i64, kind: StopKind) -> SubjectState {
        let mut state = SubjectState::default();
        state.merge_stop(Stop::new(ALL, kind, Actor::Subject, mark(at)));
        state
    }

    fn knows_stop(state: &SubjectState, action: Action, claimed: Option<i64>) -> bool {
        let catalog = Catalog::default();
        let claimed = claimed.map(Millis);
        let known = Known { catalog: &catalog, unlinked: state, state, claimed, now: Millis(100) };
        known.knows_stop(action, Scope { channel: None, ..Scope::cell(CELL.0, CELL.1) })
    }

    #[test]
    fn a_stop_is_known_where_one_as_wide_stands_that_nothing_lifted() {
        let mut state = stopped(10, StopKind::Withdrawn);
        for action in [Action::Refuse, Action::Withdraw] {
            assert!(knows_stop(&state, action, None));
            assert!(knows_stop(&state, action, Some(10)));
            assert!(!knows_stop(&state, action, Some(11)), "a later stop stops late grants, too");
        }
        assert!(!knows_stop(&state, Action::Object, None), "an objection says more");
        assert!(knows_stop(&stopped(10, StopKind::Objected), Action::Object, None));

        state.merge_grant(CELL.0, CELL.1, grant(20, Actor::Import));
        assert!(knows_stop(&state, Action::Withdraw, None), "which lifts nothing");
        state.merge_pending(CELL.0, CELL.1, grant(9, Actor::Subject));
        assert!(knows_stop(&state, Action::Withdraw, None), "which is stopped for good");
        let mut waiting = state.clone();
        waiting.merge_pending(CELL.0, CELL.1, grant(30, Actor::Subject));
        assert!(!knows_stop(&waiting, Action::Withdraw, None), "which may be confirmed yet");
        state.merge_grant(CELL.0, CELL.1, grant(30, Actor::Subject));
        assert!(!knows_stop(&state, Action::Withdraw, None));
        assert!(knows_stop(&state, Action::Withdraw, Some(10)), "which is on record");
        assert!(!knows_stop(&SubjectState::default(), Action::Withdraw, None));
    }

    #[test]
    fn a_stop_is_new_where_an_act_of_its_moment_excepts_a_cell() {
        let mut state = stopped(10, StopKind::Withdrawn);
        state.merge_grant(CELL.0, CELL.1, grant(10, Actor::Subject));
        state.merge_exception(CELL.0, CELL.1, Exception { mark: mark(10), lifts: true });
        assert!(!knows_stop(&state, Action::Withdraw, Some(10)), "it ends the exception");
        assert!(knows_stop(&state, Action::Withdraw, Some(9)), "it is older");
    }

    #[test]
    fn a_stop_of_a_linked_subject_alone_is_not_known() {
        let (unlinked, whole) = (SubjectState::default(), stopped(10, StopKind::Withdrawn));
        let catalog = Catalog::default();
        let now = Millis(100);
        let known =
            Known { catalog: &catalog, unlinked: &unlinked, state: &whole, claimed: None, now };
        assert!(!known.knows_stop(Action::Withdraw, ALL));
    }

    #[test]
    fn a_grant_says_the_same_unless_version_end_or_categories_say_more() {
        let recorded = grant(10, Actor::Subject);
        let same = |version, end: Option<i64>, category: &str| {
            let purpose = crate::domain::Key::parse("p").ok();
            let scope = crate::domain::ScopeKeys {
                channel: purpose.clone(),
                purpose: purpose.map(Into::into),
            };
            let requested = Change {
                action: Action::Grant,
                scope: scope.clone(),
                purpose_version: version,
                expires_at: end.map(Millis),
                data_categories: vec![category.to_owned()],
            };
            let change = ChangeRecord {
                action: Action::Grant,
                scope,
                purpose_version: version.unwrap_or(3),
                expires_at: Some(Millis(end.unwrap_or(1_000))),
                data_categories: requested.data_categories.clone(),
                outcome: crate::domain::Outcome::NoEffect,
                linked_subjects: 0,
            };
            says_the_same(&recorded, &requested, &change)
        };
        assert!(same(None, None, "contact"), "what is left out is whatever is on record");
        assert!(same(Some(2), Some(900), "contact"));
        assert!(same(Some(1), None, "contact"));
        assert!(!same(Some(3), None, "contact"));
        assert!(!same(None, Some(901), "contact"));
        assert!(!same(None, None, "contact.email"));
    }

    #[test]
    fn of_preferences_only_what_differs_is_news() {
        let cap = |uses_max| Said::Value(FrequencyCap { uses_max, period_ms: 1 });
        let said = ContactChange {
            language: Said::Value("de".to_owned()),
            quiet_hours: Said::Clear,
            frequency_limit: cap(3),
            ..ContactChange::default()
        };
        let mut state = SubjectState::default();
        let (catalog, now) = (Catalog::default(), Millis(100));
        let news = |state: &SubjectState, claimed: Option<i64>, said: &ContactChange| {
            let claimed = claimed.map(Millis);
            Known { catalog: &catalog, unlinked: state, state, claimed, now }.new_contact(said)
        };
        let first = news(&state, None, &said);
        assert_eq!(first, ContactChange { quiet_hours: Said::Nothing, ..said.clone() });
        state.merge_contact(mark(10), &first);
        assert!(news(&state, None, &said).is_empty());
        let other = ContactChange { frequency_limit: cap(4), ..said };
        let want = ContactChange { frequency_limit: cap(4), ..ContactChange::default() };
        assert_eq!(news(&state, Some(10), &other), want);
        assert!(news(&state, Some(9), &other).is_empty(), "something later is on record");
    }
}
