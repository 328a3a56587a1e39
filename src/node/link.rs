//! Links between data subjects: that two of them are one person, or no longer so.
//!
//! A link is one entry, and so is its end. Nothing that was written before is touched: what a link
//! does, it does to decisions, which resolve over all who hang together, and what its end does is to
//! leave each with their own acts again. Who is told what changes is told it by the same decision
//! function as everyone who asks.

use std::{fmt, sync::Arc};

use super::{
    Node,
    batch::Batch,
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

/// "These two are one person", or "they are not".
#[derive(Clone)]
pub struct Linking {
    /// One data subject.
    pub subject: Subject,
    /// The other one.
    pub other: Subject,
    /// How sure it is; none takes the link back.
    pub confidence: Option<LinkConfidence>,
    /// Who says so.
    pub asserted_by: String,
    /// Whether to write nothing, and only tell what would change.
    pub dry_run: bool,
}

impl fmt::Debug for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linking").finish_non_exhaustive()
    }
}

/// What became of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOutcome {
    /// Index of the entry, if one was written.
    pub index: Option<u64>,
    /// First revision at which it is so; of a dry run, the revision that was looked at.
    pub revision: u64,
    /// Whether an entry was written, or would be.
    pub changed: bool,
    /// Cells whose answer changed, or would, by subject, purpose and channel: at most one more than
    /// [`CELL_CHANGES_MAX`], which says that there are more.
    pub cells: Vec<CellChange>,
}

/// A cell whose answer changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellChange {
    /// Whose.
    pub subject: Subject,
    /// Purpose key.
    pub purpose: Key,
    /// Channel key.
    pub channel: Key,
    /// What a check answered.
    pub before: Reason,
    /// What it answers now, or would.
    pub after: Reason,
}

impl Node {
    /// Links two data subjects, or takes a link back; writes nothing if all is as asked.
    ///
    /// # Errors
    /// See [`LinkError`]; what is refused changes nothing.
    pub async fn link(&self, linking: Linking) -> Result<LinkOutcome, LinkError> {
        self.write(move |batch| batch.link_subjects(&linking)).await
    }
}

impl Batch<'_> {
    /// Adds a link, or its end, unless all is as asked. If it is refused, the batch is as it was.
    pub(super) fn link_subjects(&mut self, linking: &Linking) -> Result<LinkOutcome, LinkError> {
        if linking.subject == linking.other {
            return Err(LinkError::ToSelf);
        }
        let sealers = (self.sealer(&linking.subject, true)?, self.sealer(&linking.other, false)?);
        let (one, other) = (sealers.0.subject_ref, sealers.1.subject_ref);
        let standing = self.state(one)?;
        let standing = standing.links.iter().find(|link| link.other == other);
        match (standing, linking.confidence) {
            (None, None) => return Err(LinkError::NotLinked),
            (Some(link), Some(confidence)) if link.confidence == confidence => {
                let revision = if linking.dry_run { self.tip.next_index } else { link.index + 1 };
                return Ok(LinkOutcome {
                    index: None,
                    revision,
                    changed: false,
                    cells: Vec::new(),
                });
            }
            _ => {}
        }

        let members = self.together(one, other)?;
        if members.len() > LINKED_SUBJECTS_MAX && linking.confidence.is_some() {
            let (got, limit) = (members.len(), LINKED_SUBJECTS_MAX);
            return Err(LinkError::TooMany { got, limit });
        }
        let asserted_by = sealers.0.key.as_ref();
        let asserted_by =
            asserted_by.map(|key| self.core().vault.seal_assertion(key, &linking.asserted_by));
        let confidence = linking.confidence;
        let link = LinkChange { subject_ref: one, other_ref: other, confidence, asserted_by };
        let recorded_at = self.recorded_at();
        let folded = self.fold(self.fact(recorded_at, &link), |subject| self.state(subject))?;
        let changes = self.cell_changes(&members, &folded.after)?;
        let named = [(one, &linking.subject), (other, &linking.other)];
        let cells = self.with_names(changes, &named)?;
        if linking.dry_run {
            let revision = self.tip.next_index;
            return Ok(LinkOutcome { index: None, revision, changed: true, cells });
        }
        let index = self.write_folded(recorded_at, Body::Link(link), folded, &named)?;
        self.keep(sealers.0, &linking.subject);
        self.keep(sealers.1, &linking.other);
        Ok(LinkOutcome { index: Some(index), revision: index + 1, changed: true, cells })
    }

    /// The two, and then all who hang together with one of them.
    fn together(&self, one: SubjectRef, other: SubjectRef) -> Result<Vec<SubjectRef>, WriteError> {
        let sides = [one, other];
        let around = around(&sides, |subject| self.state(subject))?;
        Ok(sides.into_iter().chain(around).collect())
    }

    /// The cells whose answer is another one after the link, each subject's ordered by purpose and
    /// channel.
    fn cell_changes(
        &self,
        members: &[SubjectRef],
        after: &After,
    ) -> Result<Vec<(SubjectRef, Vec<ChangedCell>)>, WriteError> {
        let (catalog, now) = (self.catalog(), self.recorded_at());
        let cells = live_cells(catalog);
        let state_after = |subject| match after.state(subject) {
            Some(state) => Ok(Arc::clone(state)),
            None => self.state(subject),
        };
        let mut changes = Vec::new();
        for &subject in members {
            let before = self.whole(subject, &self.state(subject)?)?;
            let own = state_after(subject)?;
            let after = unite(&own, &reach(subject, &own, state_after)?);
            if before.stops() == after.stops() && before.cells() == after.cells() {
                continue;
            }
            let changed = cells.iter().filter_map(|((purpose, channel), ids)| {
                let (purpose_id, channel_id) = (Some(ids.0), Some(ids.1));
                let query = Query {
                    purpose: purpose_id,
                    channel: channel_id,
                    data_categories: &[],
                    region: None,
                };
                let before = decide(catalog, &before, &query, now).reason;
                let after = decide(catalog, &after, &query, now).reason;
                let cell = (purpose.clone(), channel.clone());
                (before != after).then_some(ChangedCell { cell, before, after })
            });
            changes.push((subject, changed.take(CELL_CHANGES_MAX + 1).collect()));
        }
        Ok(changes)
    }

    /// Changed cells with the names of their subjects, ordered by them. The two sides may be new,
    /// and known to nobody yet.
    fn with_names(
        &self,
        changes: Vec<(SubjectRef, Vec<ChangedCell>)>,
        sides: &[(SubjectRef, &Subject); 2],
    ) -> Result<Vec<CellChange>, WriteError> {
        let mut named = Vec::with_capacity(changes.len());
        for (subject, cells) in changes.into_iter().filter(|(_, cells)| !cells.is_empty()) {
            let side = sides.iter().find(|(side, _)| *side == subject);
            let name = match side {
                Some((_, name)) => Identity::Known((*name).clone()),
                None => self.identity(subject)?,
            };
            // Nobody could do anything with the answers of an erased data subject.
            named.extend(name.known().map(|name| (name, cells)));
        }
        named.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        let of_subject = |(subject, cells): (Subject, Vec<ChangedCell>)| {
            cells.into_iter().map(move |ChangedCell { cell: (purpose, channel), before, after }| {
                CellChange { subject: subject.clone(), purpose, channel, before, after }
            })
        };
        Ok(named.into_iter().flat_map(of_subject).take(CELL_CHANGES_MAX + 1).collect())
    }
}

/// A cell of somebody whose answer changes.
struct ChangedCell {
    cell: (Key, Key),
    before: Reason,
    after: Reason,
}
