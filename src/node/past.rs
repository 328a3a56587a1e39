//! Reads of the past, answered from the ledger alone.
//!
//! The *known* state at a revision or a time is the fold of the entries that were recorded by then.
//! The *effective* state at a time is the fold of all acts that had taken effect by then, whenever
//! they were recorded, under the catalogue of that time. Both replay the entries of the subject and
//! use nothing of the view's state but the ordinals of the catalogue, which never change.

use std::sync::Arc;

use super::{
    AsOfError, Checked, Core, Naming, Node, Preferences, Question, ReadError,
    due::{CountedUses, due},
    preferences::Asked,
    read::AskedAt,
};
use crate::{
    decide::{decide, unknown_namespace},
    domain::{
        Action, Body, Catalog, Decision, Entry, Mark, Millis, Query, Region, Subject, SubjectRef,
        SubjectState,
    },
    entry::{Fact, Target},
    fold::{self, CatalogAt, Linked, UseCell, reach, unite},
};

/// A moment in the past, as callers name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    /// The known state after this number of entries.
    Revision(u64),
    /// The known state at this time.
    RecordedAt(Millis),
    /// The effective state at this time, by all entries of today.
    EffectiveAt(Millis),
}

/// A moment in the past, found in the ledger.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// The catalogue at that moment.
    pub catalog: Arc<CatalogAt>,
    /// The number of entries that count.
    pub end: u64,
    /// If set, only acts that had taken effect by this time count.
    pub until: Option<Millis>,
    /// The time at which questions are decided.
    pub now: Millis,
}

/// A decision in the past.
#[derive(Debug)]
pub(super) struct Then {
    pub decision: Decision,
    /// The state of the data subject then.
    pub state: SubjectState,
    /// The uses that were recorded by then.
    pub counted: CountedUses,
}

impl Node {
    /// Decides a question at a moment in the past. Blocking.
    ///
    /// # Errors
    /// See [`AsOfError`].
    pub fn check_at(&self, question: &Question<'_>, as_of: AsOf) -> Result<Checked, AsOfError> {
        self.core.check_at(question, as_of)
    }

    /// The preferences of a data subject at a moment in the past. Blocking.
    ///
    /// # Errors
    /// As [`Self::check_at`].
    pub fn preferences_at(
        &self,
        subject: &Subject,
        all_cells: bool,
        region: Option<Region>,
        as_of: AsOf,
        naming: Naming,
    ) -> Result<Preferences, AsOfError> {
        let core = &self.core;
        let past = core.past(as_of)?;
        let known = core.vault.find(subject).map_err(ReadError::from)?;
        let (state, linked) = core.state_of_at(known, &past)?;
        let at = AskedAt::past(past.now);
        let asked = Asked { all_cells, region, at, subject: known, end: past.end };
        let mut preferences =
            core.preferences_of(&past.catalog.catalog, &state, &linked, &asked)?;
        preferences.revision = past.end;
        // A link that was verified then may have been a mistake: the names follow the links of today.
        let same_person = match linked.as_slice() {
            [] => Vec::new(),
            _ => core.same_person_today(subject)?,
        };
        preferences.links = core.linked_names(&linked, &same_person, naming)?;
        Ok(preferences)
    }
}

impl Core {
    /// Finds a moment in the ledger. Blocking.
    pub(super) fn past(&self, as_of: AsOf) -> Result<Past, AsOfError> {
        let head = self.view.applied();
        match as_of {
            AsOf::Revision(end) => Ok(self.past_revision(end)?),
            AsOf::RecordedAt(now) => {
                let end = self.recorded_until(now, head)?;
                Ok(Past { catalog: self.catalog_at(end)?, end, until: None, now })
            }
            AsOf::EffectiveAt(now) => {
                let catalog = self.catalog_at(self.recorded_until(now, head)?)?;
                Ok(Past { catalog, end: head, until: Some(now), now })
            }
        }
    }

    /// The moment after the first `end` entries. Blocking.
    pub(super) fn past_revision(&self, end: u64) -> Result<Past, ReadError> {
        let head = self.view.applied();
        if end > head {
            return Err(ReadError::IndexOutOfRange { index: end, head });
        }
        let now = match end.checked_sub(1) {
            Some(last) => self.recorded_at(last)?,
            None => self.ledger.created_at,
        };
        Ok(Past { catalog: self.catalog_at(end)?, end, until: None, now })
    }

    /// The number of entries that were recorded at or before a time. Entries are in this order, if one of
    /// a wrong clock counts as recorded by when the clock was corrected.
    fn recorded_until(&self, at: Millis, head: u64) -> Result<u64, AsOfError> {
        if at > self.question_time() {
            return Err(AsOfError::InFuture);
        }
        let catalog = &self.view.catalog().catalog;
        let (mut start, mut end) = (0, head);
        while start < end {
            let middle = start + (end - start) / 2;
            if catalog.recorded_by(middle, self.recorded_at(middle)?) <= at {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        Ok(start)
    }

    /// The catalogue after a number of entries. Blocking.
    pub(super) fn catalog_at(&self, end: u64) -> Result<Arc<CatalogAt>, ReadError> {
        let current = self.view.catalog();
        if current.revision <= end {
            return Ok(current);
        }
        let mut catalog = CatalogAt::default();
        for index in self.view.catalog_entries()?.into_iter().take_while(|index| *index < end) {
            catalog.fold(self.entry(index)?.fact());
        }
        Ok(Arc::new(catalog))
    }

    /// The state of a subject, united with the states of linked subjects, and these. Blocking.
    pub(super) fn state_at(
        &self,
        subject: SubjectRef,
        past: &Past,
    ) -> Result<(SubjectState, Vec<Linked>), ReadError> {
        let state = self.unlinked_state_at(subject, past)?;
        let state_of = |other| self.unlinked_state_at(other, past).map(Arc::new);
        let linked = reach(subject, &state, state_of)?;
        Ok((unite(&state, &linked), linked))
    }

    /// The state of a subject, without linked subjects. Blocking.
    pub(super) fn unlinked_state_at(
        &self,
        subject: SubjectRef,
        past: &Past,
    ) -> Result<SubjectState, ReadError> {
        let catalog = self.view.catalog();
        let mut state = SubjectState::default();
        for index in self.view.history(subject, 0, usize::MAX)? {
            if index >= past.end {
                break;
            }
            let mut entry = self.entry(index)?;
            if past.until.is_some_and(|until| !is_effective(&catalog.catalog, &mut entry, until)) {
                continue;
            }
            fold::subject(&catalog.catalog, &mut state, subject, entry.fact())?;
        }
        fold::correct(&catalog.catalog, &mut state, past.end);
        Ok(state)
    }

    /// Decides a question at a moment in the past. Blocking.
    pub(super) fn check_at(
        &self,
        question: &Question<'_>,
        as_of: AsOf,
    ) -> Result<Checked, AsOfError> {
        let past = self.past(as_of)?;
        let Then { decision, state, counted } = self.decided_then(question, &past)?;
        let contact = state.contact.as_deref();
        let due = due(&decision, contact, question.region, past.now, |widest| {
            self.uses(&counted, widest, past.now)
        })?;
        let ignores = question.ignore_obligations;
        Ok(Checked::new(decision, due, ignores, past.end, Some(question.subject)))
    }

    /// The decision on a question at a moment in the past, with what its obligations depend on. Blocking.
    pub(super) fn decided_then(
        &self,
        question: &Question<'_>,
        past: &Past,
    ) -> Result<Then, ReadError> {
        let catalog: &Catalog = &past.catalog.catalog;
        let Question { subject, purpose, channel, data_categories, region, .. } = *question;
        let cell = UseCell::new(purpose, channel);
        if catalog.namespace(subject.namespace()).is_none() {
            let counted = CountedUses::new(None, &[], cell, past.end);
            let state = SubjectState::default();
            return Ok(Then { decision: unknown_namespace(), state, counted });
        }
        let subject = self.vault.find(subject)?;
        let (state, linked) = self.state_of_at(subject, past)?;
        let query = Query::new(catalog, purpose, channel, data_categories, region);
        let decision = decide(catalog, &state, &query, past.now);
        let counted = CountedUses::new(subject, &linked, cell, past.end);
        Ok(Then { decision, state, counted })
    }

    fn state_of_at(
        &self,
        subject: Option<SubjectRef>,
        past: &Past,
    ) -> Result<(SubjectState, Vec<Linked>), ReadError> {
        match subject {
            Some(subject) => self.state_at(subject, past),
            None => Ok((SubjectState::default(), Vec::new())),
        }
    }
}

/// Whether an entry had taken effect by a time, by the corrections of the clock of today. Of an act of
/// which that is not certain only the stops stay.
fn is_effective(catalog: &Catalog, entry: &mut Entry, until: Millis) -> bool {
    let mark = Mark { effective_at: effective_at(entry.fact()), index: entry.index };
    if catalog.latest(mark, u64::MAX).effective_at <= until {
        return true;
    }
    if catalog.earliest(mark, u64::MAX).effective_at > until {
        return false;
    }
    let Body::Act(act) = &mut entry.body else { return false };
    act.changes.retain(|change| change.action != Action::Grant);
    !act.changes.is_empty()
}

/// When an entry took effect. An entry that changes no subject takes effect when it is recorded.
fn effective_at(fact: Fact<'_>) -> Millis {
    match fact.kind.target() {
        Target::Subjects(target) => target.effective_at(fact.place),
        Target::Catalog(_) | Target::Subscriptions(_) | Target::Nothing => fact.place.recorded_at,
    }
}
