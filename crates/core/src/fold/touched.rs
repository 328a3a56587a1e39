//! The cells that an entry touches, and their decisions as of that entry.
//!
//! The catalogue and the states are arguments. A node and an auditor call the same code, each with
//! states of their own.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{CatalogAt, FoldError, consent};
use crate::{
    decide::decide,
    domain::{
        Catalog, ChannelId, Key, Millis, PurposeId, Query, Reason, Scope, SubjectRef, SubjectState,
        UnknownKey,
    },
    entry::{Fact, Target, Touched},
};

/// The decision for a cell as of an entry, for no region and no data category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellDecision {
    /// Index of the entry. The decision is of the revision after it, at the moment of its record.
    pub index: u64,
    /// Whose cell.
    pub subject: SubjectRef,
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// Why; the effect follows from it.
    pub reason: Reason,
    /// Index of the entry that decided, if one did.
    pub decided_by: Option<u64>,
    /// First moment at which the decision could change with no new entry.
    pub valid_until: Option<Millis>,
}

/// The answers for all cells that an entry touches, in the order of data subject (bytes of its
/// reference), purpose key and channel key. One cell is decided at a time, so that an entry that
/// touches a large catalogue takes no more memory than the ids of its cells.
#[derive(Debug)]
pub struct Answers {
    index: u64,
    now: Millis,
    catalog: Arc<CatalogAt>,
    subjects: SmallVec<[OfSubject; 2]>,
    /// The place of the next data subject and of its next cell.
    next: (usize, usize),
}

#[derive(Debug)]
struct OfSubject {
    subject: SubjectRef,
    state: Arc<SubjectState>,
    cells: Vec<(PurposeId, ChannelId)>,
}

impl Answers {
    /// The answers for an entry. `catalog` is that of the revision after it, and so is the state that
    /// `whole` gives of a data subject, with all that linked ones contribute.
    ///
    /// # Errors
    /// Those of `whole`, and a scope with a key that the catalogue lacks.
    pub fn of<E: From<FoldError>>(
        fact: Fact<'_>,
        catalog: &Arc<CatalogAt>,
        mut whole: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
    ) -> Result<Self, E> {
        let index = fact.place.index;
        let mut answers = Self {
            index,
            now: fact.place.recorded_at,
            catalog: Arc::clone(catalog),
            subjects: SmallVec::new(),
            next: (0, 0),
        };
        let Target::Subjects(target) = fact.kind.target() else { return Ok(answers) };
        let mut subjects = target.named();
        subjects.sort_unstable();
        subjects.dedup();
        for subject in subjects {
            let cells = touched_cells(&catalog.catalog, target.touches(subject))
                .map_err(|problem| FoldError::UnknownKey { index, problem })?;
            if !cells.is_empty() {
                answers.subjects.push(OfSubject { subject, state: whole(subject)?, cells });
            }
        }
        Ok(answers)
    }

    fn decide(
        &self,
        OfSubject { subject, state, .. }: &OfSubject,
        (purpose, channel): (PurposeId, ChannelId),
    ) -> Option<CellDecision> {
        let catalog = &self.catalog.catalog;
        let query = Query {
            purpose: Some(purpose),
            channel: Some(channel),
            data_categories: &[],
            region: None,
        };
        let decision = decide(catalog, state, &query, self.now);
        Some(CellDecision {
            index: self.index,
            subject: *subject,
            purpose: catalog.purpose(purpose)?.key.clone(),
            channel: catalog.channel(channel)?.key.clone(),
            reason: decision.reason,
            decided_by: decision.decided_by,
            valid_until: decision.valid_until,
        })
    }
}

impl Iterator for Answers {
    type Item = CellDecision;

    fn next(&mut self) -> Option<CellDecision> {
        let of_subject = self.subjects.get(self.next.0)?;
        let decision = self.decide(of_subject, *of_subject.cells.get(self.next.1)?)?;
        self.next.1 += 1;
        if self.next.1 == of_subject.cells.len() {
            self.next = (self.next.0 + 1, 0);
        }
        Some(decision)
    }
}

/// The cells that an entry touches, in the order of their keys: those that its changes cover or, for
/// a link, all of them. Retired purposes and channels are included.
fn touched_cells(
    catalog: &Catalog,
    touched: Touched<'_>,
) -> Result<Vec<(PurposeId, ChannelId)>, UnknownKey> {
    let scopes = match touched {
        Touched::Changes(changes) => consent::resolve(catalog, changes)?,
        Touched::Everything => smallvec::smallvec![Scope::EVERYTHING],
    };
    let mut cells = Vec::new();
    for scope in scopes {
        let covered = |id: &PurposeId| catalog.covers_purpose(scope, *id);
        for purpose in catalog.purposes().map(|(id, _)| id).filter(covered) {
            let channels = catalog.channels().map(|(id, _)| id);
            let covered = |channel: &ChannelId| catalog.covers(scope, purpose, *channel);
            cells.extend(channels.filter(covered).map(|channel| (purpose, channel)));
        }
    }
    let keys = |(purpose, channel): &(PurposeId, ChannelId)| {
        (
            catalog.purpose(*purpose).map(|purpose| &purpose.key),
            catalog.channel(*channel).map(|channel| &channel.key),
        )
    };
    cells.sort_unstable_by(|one, other| keys(one).cmp(&keys(other)));
    cells.dedup();
    Ok(cells)
}
