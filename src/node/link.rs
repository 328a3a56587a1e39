//! Links between data subjects: two data subjects are, or are no longer, the same person.
//!
//! A link is one entry, and so is its removal. Neither changes earlier entries: decisions resolve over
//! all data subjects that are linked with each other, and after a removal each has its own acts again.
//! The changed cells in an answer come from the same function that decides checks.

use std::{fmt, sync::Arc};

use super::{
    Node,
    batch::{Batch, Sealer},
    error::{LinkError, WriteError},
    preferences::live_cells,
};
use crate::{
    decide::decide,
    domain::{Body, Identity, Key, LinkChange, LinkConfidence, Query, Reason, Subject, SubjectRef},
    fold::{After, LINKED_SUBJECTS_MAX, around, reach, unite},
};

/// The greatest number of changed cells in an answer.
pub const CELL_CHANGES_MAX: usize = 10_000;

/// Whether two data subjects are the same person.
#[derive(Clone)]
pub struct Linking {
    /// One data subject.
    pub subject: Subject,
    /// The other one.
    pub other: Subject,
    /// Confidence of the link; none removes the link.
    pub confidence: Option<LinkConfidence>,
    /// Who asserts it.
    pub asserted_by: String,
    /// Whether nothing is written, only the answer is computed.
    pub dry_run: bool,
}

impl fmt::Debug for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linking").finish_non_exhaustive()
    }
}

/// The answer to a link or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOutcome {
    /// Index of the entry, if one was written.
    pub index: Option<u64>,
    /// First revision that includes the link; in a dry run, the revision that was read.
    pub revision: u64,
    /// Whether an entry was written; in a dry run, whether it would be.
    pub changed: bool,
    /// Cells whose decision changes, by subject, purpose and channel: at most one more than
    /// [`CELL_CHANGES_MAX`], which means that there are more.
    pub cells: Vec<CellChange>,
}

/// A cell whose decision changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellChange {
    /// The data subject.
    pub subject: Subject,
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// Reason of the decision before.
    pub before: Reason,
    /// Reason of the decision after.
    pub after: Reason,
}

impl Node {
    /// Links two data subjects, or removes a link. Writes nothing if the link is set like this already.
    ///
    /// # Errors
    /// See [`LinkError`]. On error nothing is recorded.
    pub async fn link(&self, linking: Linking) -> Result<LinkOutcome, LinkError> {
        self.write(move |batch| batch.link_subjects(&linking)).await
    }
}

impl Batch<'_> {
    /// Adds a link or its removal, unless it is set like this already. On error the batch is unchanged.
    pub(super) fn link_subjects(&mut self, linking: &Linking) -> Result<LinkOutcome, LinkError> {
        if linking.subject == linking.other {
            return Err(LinkError::ToSelf);
        }
        let sealers = (self.sealer(&linking.subject)?, self.sealer(&linking.other)?);
        let (one, other) = (sealers.0.subject_ref(), sealers.1.subject_ref());
        let state = self.state(one)?;
        let current = state.links.iter().find(|link| link.other == other);
        match (current, linking.confidence) {
            (None, None) => return Err(LinkError::NotLinked),
            (Some(link), Some(confidence)) if link.confidence == confidence => {
                let revision = if linking.dry_run { self.tip.next_index } else { link.index + 1 };
                let cells = Vec::new();
                return Ok(LinkOutcome { index: None, revision, changed: false, cells });
            }
            _ => {}
        }

        let sides = [one, other];
        let around = around(&sides, |subject| self.state(subject))?;
        let members: Vec<_> = sides.into_iter().chain(around).collect();
        if members.len() > LINKED_SUBJECTS_MAX && linking.confidence.is_some() {
            let (got, limit) = (members.len(), LINKED_SUBJECTS_MAX);
            return Err(LinkError::TooMany { got, limit });
        }
        let (confidence, asserted_by) = (linking.confidence, linking.asserted_by.clone());
        let link = LinkChange { subject_ref: one, other_ref: other, confidence, asserted_by };
        let recorded_at = self.recorded_at();
        let folded = self.fold(self.fact(recorded_at, &link), |subject| self.state(subject))?;
        let named = [&sealers.0, &sealers.1];
        let cells = self.cell_changes(&members, &folded.after, &named)?;
        if linking.dry_run {
            let revision = self.tip.next_index;
            return Ok(LinkOutcome { index: None, revision, changed: true, cells });
        }
        let index = self.write_folded(recorded_at, Body::Link(link), folded, &named, None)?;
        self.keep(sealers.0);
        self.keep(sealers.1);
        Ok(LinkOutcome { index: Some(index), revision: index + 1, changed: true, cells })
    }

    /// The cells whose decision changes, ordered by subject, purpose and channel. `named` lists the
    /// subjects that may be new.
    fn cell_changes(
        &self,
        members: &[SubjectRef],
        after: &After,
        named: &[&Sealer],
    ) -> Result<Vec<CellChange>, WriteError> {
        let (catalog, now) = (self.catalog(), self.recorded_at());
        let cells = live_cells(catalog);
        let state_after = |subject| match after.state(subject) {
            Some(state) => Ok(Arc::clone(state)),
            None => self.state(subject),
        };
        let mut changes = Vec::new();
        for &subject in members {
            let before = self.whole(subject, &self.state(subject)?)?;
            let unlinked = state_after(subject)?;
            let after = unite(&unlinked, &reach(subject, &unlinked, state_after)?);
            if before.stops() == after.stops() && before.cells() == after.cells() {
                continue;
            }
            let reasons = cells.iter().map(|(keys, (purpose_id, channel_id))| {
                let query = Query {
                    purpose: Some(*purpose_id),
                    channel: Some(*channel_id),
                    data_categories: &[],
                    region: None,
                };
                let reason = |state| decide(catalog, state, &query, now).reason;
                (keys, reason(&*before), reason(&after))
            });
            let mut changed = reasons.filter(|(_, before, after)| before != after).peekable();
            if changed.peek().is_none() {
                continue;
            }
            // Decisions about an erased data subject are of no use to the caller.
            let Identity::Known(subject) = self.identity(subject, named)? else { continue };
            let changed = changed.map(|((purpose, channel), before, after)| CellChange {
                subject: subject.clone(),
                purpose: purpose.clone(),
                channel: channel.clone(),
                before,
                after,
            });
            changes.extend(changed.take(CELL_CHANGES_MAX + 1));
        }
        // The sort is stable: the cells of a subject keep their order.
        changes.sort_by(|one, other| one.subject.as_str().cmp(other.subject.as_str()));
        changes.truncate(CELL_CHANGES_MAX + 1);
        Ok(changes)
    }
}
