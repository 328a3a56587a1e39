//! Rows of an import: acts that another system knows of, some of which are known here already.
//!
//! What an import says for the person's sake is their act, and is recorded like one. What the
//! controller says of its own accord is recorded only as far as it is news: whoever sends last
//! year's list again changes nothing, and renews nothing. What is left out of a row is left alone.
//!
//! Whether a change is news is judged in the writer, against the subject's state with all that
//! linked subjects contribute. A row that says when it took effect is no news if that, or something
//! later, is on record. If in doubt, a stop is news.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use super::{
    Node,
    act::{Act, Recorded},
    batch::{Batch, Prepared},
    error::{RecordError, WriteError},
    writer,
};
use crate::{
    decide::Standing,
    domain::{
        Action, Body, Catalog, Change, ChangeRecord, Contact, ContactChange, Field, Grant, Millis,
        Said, Scope, StopKind, SubjectState,
    },
};

/// One row of an import.
#[derive(Debug, Clone)]
pub struct ImportRow {
    /// The act that it tells of. Its idempotency is the row's identity.
    pub act: Act,
    /// Whether it is only judged, and nothing is written.
    pub dry_run: bool,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// What of it was news is recorded; or would be, at that index if it came now. There is never a
    /// confirmation: whoever imports is not asked to bring tokens to people.
    Recorded(Recorded),
    /// It says nothing that is not known.
    Unchanged,
    /// An earlier import of it is on record.
    Replayed,
}

/// What will be known of a row once it has landed. Who drops it does not take the row back.
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
    /// Hands a row to the writer, when there is a place for it. Rows that are handed over one after
    /// the other are written in that order.
    ///
    /// # Errors
    /// See [`WriteError`], and [`RecordError`] in the answer.
    pub async fn import(&self, row: ImportRow) -> Result<ImportAnswer, WriteError> {
        self.core.check_writable()?;
        let place = self.admission.place_of_import().await?;
        Ok(ImportAnswer(self.admission.admit(&self.core, move |batch| batch.import(row), place)?))
    }
}

impl Batch<'_> {
    /// Adds what is news in a row. If it is refused, the batch is as it was.
    fn import(&mut self, row: ImportRow) -> Result<Imported, RecordError> {
        let ImportRow { act, dry_run } = row;
        let mark = act.idempotency.as_ref().map(|idempotency| self.mark(idempotency));
        if self.written_before(mark.as_ref())?.is_some() {
            return Ok(Imported::Replayed);
        }
        let (asked, claimed) = (act.changes.clone(), act.effective_at);
        let mut prepared = self.prepare(act, mark)?;
        if !prepared.body.actor.speaks_for_subject() {
            self.leave_known_out(&mut prepared, &asked, claimed)?;
        }
        if prepared.body.changes.is_empty() && prepared.body.contact.is_empty() {
            return Ok(Imported::Unchanged);
        }
        let folded = self.judge(&mut prepared)?;
        let recorded =
            if dry_run { self.foresee(prepared)? } else { self.commit(prepared, folded)? };
        Ok(Imported::Recorded(recorded))
    }

    /// What would be recorded.
    fn foresee(&self, prepared: Prepared) -> Result<Recorded, WriteError> {
        let Prepared { recorded_at, body, .. } = prepared;
        let (effective_at, changes) = (body.effective_at, body.changes.clone());
        let (entry, ..) = self.next_entry(recorded_at, Body::Act(body))?;
        let (index, replayed, confirmation) = (entry.index, false, None);
        Ok(Recorded { index, recorded_at, effective_at, changes, replayed, confirmation })
    }

    fn leave_known_out(
        &self,
        prepared: &mut Prepared,
        asked: &[Change],
        claimed: Option<Millis>,
    ) -> Result<(), WriteError> {
        let state = self.whole(prepared.body.subject_ref, &prepared.before)?;
        let known = Known {
            catalog: self.catalog(),
            own: &prepared.before,
            state: &state,
            claimed,
            now: prepared.recorded_at,
        };
        let changes = known.news(asked, &prepared.body.changes);
        let contact = known.contact_news(&prepared.body.contact);
        prepared.body.changes = changes;
        prepared.body.contact = contact;
        Ok(())
    }
}

/// What is known of a subject, as a row of the controller's finds it.
struct Known<'a> {
    catalog: &'a Catalog,
    /// The subject's own state.
    own: &'a SubjectState,
    /// The same with all that linked subjects contribute.
    state: &'a SubjectState,
    /// When the row took effect, if it says so.
    claimed: Option<Millis>,
    now: Millis,
}

impl Known<'_> {
    /// The changes that are not known. `asked` are the same as the row has them.
    fn news(&self, asked: &[Change], changes: &[ChangeRecord]) -> Vec<ChangeRecord> {
        let scope_of = |change: &ChangeRecord| self.catalog.resolve(&change.scope).ok();
        let is_new_stop = |change: &&ChangeRecord| {
            change.action != Action::Grant
                && !scope_of(change).is_some_and(|scope| self.knows_stop(change.action, scope))
        };
        let stops: Vec<Scope> = changes.iter().filter(is_new_stop).filter_map(scope_of).collect();
        let is_new = |(asked, change): &(&Change, &ChangeRecord)| match change.action {
            // Beside a new stop that covers it a grant says more: that it is an exception.
            Action::Grant => scope_of(change).is_none_or(|cell| {
                stops.iter().any(|stop| stop.contains(cell)) || !self.knows_grant(asked, change)
            }),
            _ => is_new_stop(change),
        };
        asked.iter().zip(changes).filter(is_new).map(|(_, change)| change.clone()).collect()
    }

    fn knows_grant(&self, asked: &Change, change: &ChangeRecord) -> bool {
        let scope = self.catalog.resolve(&change.scope).ok();
        let Some((purpose_id, channel_id)) = scope.and_then(Scope::as_cell) else { return false };
        let Some(purpose) = self.catalog.purpose(purpose_id) else { return false };
        let says_the_same = |grant: &Grant| says_the_same(grant, asked, change);
        match Standing::of(self.state, purpose, purpose_id, channel_id, self.now) {
            Standing::Given(grant) => says_the_same(grant),
            Standing::Pending(grant) => !grant.has_expired(self.now) && says_the_same(grant),
            // Recorded, and blocked, once.
            Standing::Stopped(stop) => self.grants(scope).any(|grant| {
                grant.mark.index > stop.mark.index
                    && !grant.actor.speaks_for_subject()
                    && self.is_as_late(grant.mark.effective_at)
                    && says_the_same(grant)
            }),
            // What has ended is begun again by who says that it was given later, and by nobody else.
            Standing::Expired(_) | Standing::Outdated(_) | Standing::CameOfAge(_) => self
                .grants(scope)
                .any(|grant| self.is_as_late(grant.mark.effective_at) && says_the_same(grant)),
            Standing::Nothing | Standing::Erased(_) => false,
        }
    }

    fn grants(&self, scope: Option<Scope>) -> impl Iterator<Item = &Grant> {
        let cells = scope.into_iter().flat_map(|scope| self.state.cells_in(scope));
        cells.flat_map(|cell| cell.grant.iter().chain(cell.pending.as_deref()))
    }

    /// A link may end, and what the other one stopped with it: so a stop must stand without, too.
    fn knows_stop(&self, action: Action, scope: Scope) -> bool {
        [self.own, self.state].iter().all(|state| self.stop_stands(state, action, scope))
    }

    /// An objection says more than any other stop. Apart from that one stop is as good as another.
    fn stop_stands(&self, state: &SubjectState, action: Action, scope: Scope) -> bool {
        let Some(stop) = state.latest_stop_over(scope) else { return false };
        if action == Action::Object && stop.kind != StopKind::Objected {
            return false;
        }
        if self.claimed.is_some() {
            return self.is_as_late(stop.mark.effective_at);
        }
        !state.cells_in(scope).any(|cell| {
            let waiting = cell.pending.as_ref().filter(|grant| grant.actor.speaks_for_subject());
            let mut marks = cell.lifted.into_iter().chain(waiting.map(|grant| grant.mark));
            marks.any(|grant| !stop.mark.stop_is_later_than_grant(grant))
        })
    }

    /// Whether something that took effect then is no earlier than the row, as far as that says.
    fn is_as_late(&self, at: Millis) -> bool {
        self.claimed.is_none_or(|claimed| claimed <= at)
    }

    fn contact_news(&self, said: &ContactChange) -> ContactChange {
        let nothing = Contact::default();
        let own = self.state.contact.as_deref().unwrap_or(&nothing);
        ContactChange {
            time_zones: self
                .field_news(&said.time_zones, own.time_zones.as_ref(), |own, said| **own == **said),
            language: self
                .field_news(&said.language, own.language.as_ref(), |own, said| **own == **said),
            quiet_hours: self.field_news(
                &said.quiet_hours,
                own.quiet_hours.as_ref(),
                |own, said| own == said,
            ),
            frequency_limit: self.field_news(
                &said.frequency_limit,
                own.frequency_limit.as_ref(),
                |own, said| own == said,
            ),
        }
    }

    fn field_news<S: Clone, T>(
        &self,
        said: &Said<S>,
        own: Option<&Field<T>>,
        is_same: impl Fn(&T, &S) -> bool,
    ) -> Said<S> {
        let value = own.and_then(|own| own.value.as_ref());
        let is_known = match said {
            Said::Nothing => true,
            Said::Clear => value.is_none(),
            Said::Value(said) => value.is_some_and(|own| is_same(own, said)),
        };
        let said_later =
            own.zip(self.claimed).is_some_and(|(own, claimed)| claimed < own.mark.effective_at);
        if is_known || said_later { Said::Nothing } else { said.clone() }
    }
}

/// Whether a grant on record says all that a row's does. A version, an end or categories that the row
/// leaves out are whatever is on record: a blank widens nothing.
fn says_the_same(grant: &Grant, asked: &Change, change: &ChangeRecord) -> bool {
    asked.purpose_version.is_none_or(|version| version <= grant.purpose_version)
        && (asked.expires_at.is_none() || asked.expires_at == grant.expires_at)
        && (asked.data_categories.is_empty()
            || grant.data_categories.as_deref().unwrap_or_default() == change.data_categories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Actor, ChannelId, FrequencyCap, Mark, PurposeId, Stop};

    const CELL: (PurposeId, ChannelId) = (PurposeId(1), ChannelId(1));
    const ALL: Scope = Scope { purpose: None, channel: None };

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
        state.merge_stop(Stop { scope: ALL, kind, mark: mark(at) });
        state
    }

    fn knows_stop(state: &SubjectState, action: Action, claimed: Option<i64>) -> bool {
        let catalog = Catalog::default();
        let claimed = claimed.map(Millis);
        let known = Known { catalog: &catalog, own: state, state, claimed, now: Millis(100) };
        known.knows_stop(action, Scope { purpose: Some(CELL.0), channel: None })
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
    fn a_stop_of_a_linked_subject_alone_is_not_known() {
        let (own, whole) = (SubjectState::default(), stopped(10, StopKind::Withdrawn));
        let catalog = Catalog::default();
        let now = Millis(100);
        let known = Known { catalog: &catalog, own: &own, state: &whole, claimed: None, now };
        assert!(!known.knows_stop(Action::Withdraw, ALL));
    }

    #[test]
    fn a_grant_says_the_same_unless_version_end_or_categories_say_more() {
        let own = grant(10, Actor::Subject);
        let same = |version, end: Option<i64>, category: &str| {
            let purpose = crate::domain::Key::parse("p").ok();
            let scope = crate::domain::ScopeKeys { channel: purpose.clone(), purpose };
            let asked = Change {
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
                data_categories: asked.data_categories.clone(),
                outcome: crate::domain::Outcome::NoEffect,
            };
            says_the_same(&own, &asked, &change)
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
            Known { catalog: &catalog, own: state, state, claimed, now }.contact_news(said)
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
