//! What is known of one data subject: the fold of all acts that touch them.
//!
//! Acts are ordered by `(effective_at, stop before grant, index)`. The state keeps, for every
//! scope, the latest stop and, for every cell, the latest grant of anyone and the latest grant of
//! somebody who can lift a stop. Each is a maximum under that order, so folding is commutative and
//! idempotent: the order of arrival can not matter, and a late act needs no replay.
//!
//! Why the maxima suffice: a cell is stopped exactly if its latest covering stop is later than its
//! latest lifting grant. If it is not, every grant after the lifting one takes effect too, so the
//! latest grant of anyone decides.

use std::{mem::size_of, sync::Arc};

use super::{
    act::{Actor, StopKind},
    catalog::{ChannelId, PurposeId},
    scope::Scope,
    time::Millis,
};

/// Where an act stands in the order of its own kind: by effect, then by place in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// When the act took effect.
    pub effective_at: Millis,
    /// Index of its entry.
    pub index: u64,
}

impl Mark {
    /// Whether a stop with this mark is later than a grant with that one. On a tie of time the
    /// stop comes first and the grant wins, whatever their indices.
    #[must_use]
    pub fn stop_is_later_than_grant(self, grant: Self) -> bool {
        self.effective_at > grant.effective_at
    }
}

/// A stop that stands for its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stop {
    /// What it covers.
    pub scope: Scope,
    /// Its kind.
    pub kind: StopKind,
    /// When and where.
    pub mark: Mark,
}

/// A grant for a cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// When and where.
    pub mark: Mark,
    /// Who gave it.
    pub actor: Actor,
    /// The version of the purpose that was agreed to.
    pub purpose_version: u32,
    /// First moment at which it no longer counts.
    pub expires_at: Option<Millis>,
    /// The data categories that the grant is narrowed to; none means all of the version's.
    pub data_categories: Option<Arc<[String]>>,
}

/// What is known of one cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CellState {
    /// Purpose.
    pub purpose: PurposeId,
    /// Channel.
    pub channel: ChannelId,
    /// The latest grant that needs no further confirmation, by whomever.
    pub grant: Option<Grant>,
    /// The latest such grant by somebody who speaks for the subject.
    pub lifted: Option<Mark>,
    /// The latest grant that waits for its double opt-in. It lifts nothing.
    pub pending: Option<Box<Grant>>,
}

/// What is known of one data subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SubjectState {
    stops: Vec<Stop>,
    cells: Vec<CellState>,
    /// Index of the entry that began the subject's erasure.
    pub erased_by: Option<u64>,
    /// One more than the index of the last entry that touched the subject.
    pub revision: u64,
}

impl SubjectState {
    /// Puts a state together from its parts, in any order.
    #[must_use]
    pub fn from_parts(
        stops: Vec<Stop>,
        mut cells: Vec<CellState>,
        erased_by: Option<u64>,
        revision: u64,
    ) -> Self {
        cells.sort_unstable_by_key(|cell| (cell.purpose, cell.channel));
        Self { stops, cells, erased_by, revision }
    }

    /// The stops that stand, one a scope.
    #[must_use]
    pub fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// The cells that some grant named, ordered by purpose and channel.
    #[must_use]
    pub fn cells(&self) -> &[CellState] {
        &self.cells
    }

    /// What is known of a cell, if some grant named it.
    #[must_use]
    pub fn cell(&self, purpose: PurposeId, channel: ChannelId) -> Option<&CellState> {
        let position = self.cell_position(purpose, channel).ok()?;
        self.cells.get(position)
    }

    /// The latest stop that covers a cell, lifted or not.
    #[must_use]
    pub fn latest_stop(&self, purpose: PurposeId, channel: ChannelId) -> Option<&Stop> {
        self.stops
            .iter()
            .filter(|stop| stop.scope.covers(purpose, channel))
            .max_by_key(|stop| stop.mark)
    }

    /// The live stop that covers a cell: the latest one, unless a later grant lifted it there.
    #[must_use]
    pub fn live_stop(&self, purpose: PurposeId, channel: ChannelId) -> Option<&Stop> {
        let stop = self.latest_stop(purpose, channel)?;
        let lifted = self.cell(purpose, channel).and_then(|cell| cell.lifted);
        lifted.is_none_or(|grant| stop.mark.stop_is_later_than_grant(grant)).then_some(stop)
    }

    /// Folds in a stop.
    pub fn merge_stop(&mut self, stop: Stop) {
        match self.stops.iter_mut().find(|own| own.scope == stop.scope) {
            Some(own) if own.mark < stop.mark => *own = stop,
            Some(_) => {}
            None => self.stops.push(stop),
        }
    }

    /// Folds in a grant that needs no further confirmation.
    pub fn merge_grant(&mut self, purpose: PurposeId, channel: ChannelId, grant: Grant) {
        let cell = self.cell_mut(purpose, channel);
        if grant.actor.speaks_for_subject() {
            cell.lifted = cell.lifted.max(Some(grant.mark));
        }
        if cell.grant.as_ref().is_none_or(|own| own.mark < grant.mark) {
            cell.grant = Some(grant);
        }
    }

    /// Folds in a grant that waits for its double opt-in.
    pub fn merge_pending(&mut self, purpose: PurposeId, channel: ChannelId, grant: Grant) {
        let cell = self.cell_mut(purpose, channel);
        if cell.pending.as_ref().is_none_or(|own| own.mark < grant.mark) {
            cell.pending = Some(Box::new(grant));
        }
    }

    /// About how many bytes of memory the state holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.stops.capacity() * size_of::<Stop>()
            + self.cells.capacity() * size_of::<CellState>()
    }

    fn cell_position(&self, purpose: PurposeId, channel: ChannelId) -> Result<usize, usize> {
        self.cells.binary_search_by_key(&(purpose, channel), |cell| (cell.purpose, cell.channel))
    }

    fn cell_mut(&mut self, purpose: PurposeId, channel: ChannelId) -> &mut CellState {
        let position = match self.cell_position(purpose, channel) {
            Ok(position) => position,
            Err(position) => {
                let cell = CellState { purpose, channel, grant: None, lifted: None, pending: None };
                self.cells.insert(position, cell);
                position
            }
        };
        &mut self.cells[position]
    }
}
