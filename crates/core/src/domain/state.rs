//! The state of one data subject: the fold of all its acts.
//!
//! Acts are ordered by `(effective_at, stop before grant, index)`. The state keeps, for every
//! scope, the latest stop and, for every cell, the latest grant of anyone and the latest grant of
//! somebody who can lift a stop. Each is a maximum under that order, so folding is commutative and
//! idempotent: the order of arrival can not matter, and a late act needs no replay.
//!
//! Why the maxima suffice: a cell is stopped exactly if its latest covering stop is later than its
//! latest lifting grant. If it is not, every grant after the lifting one takes effect too, so the
//! latest grant of anyone decides. A grant that waits for its double opt-in lifts nothing; it is
//! relevant only while no confirmed grant is later, and then it is later than every lifted stop
//! too, so the latest one suffices.
//!
//! Stops and cells are kept in the order of their scopes, so that the same acts give equal states
//! in any order of arrival.

use std::{cmp::Reverse, mem::size_of, sync::Arc};

use super::{
    act::{Actor, StopKind},
    catalog::{ChannelId, PurposeId},
    contact::{Contact, ContactChange},
    scope::Scope,
    subject::SubjectRef,
    time::Millis,
};

/// The place of an act in the order of its own kind: by effect, then by index.
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

/// The latest stop for a scope.
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
    /// For a guardian's grant: first moment without their authority.
    pub authority_ends_at: Option<Millis>,
    /// Index of the confirmation, if the grant needed one.
    pub confirmed_by: Option<u64>,
}

impl Grant {
    /// Index of the entry that made the grant count: its act, or its confirmation.
    #[must_use]
    pub fn decided_by(&self) -> u64 {
        self.confirmed_by.unwrap_or(self.mark.index)
    }

    /// The first moment at which the grant no longer counts by itself.
    #[must_use]
    pub fn ends_at(&self) -> Option<Millis> {
        [self.expires_at, self.authority_ends_at].into_iter().flatten().min()
    }

    /// Whether the authority of the guardian who gave it has ended: the data subject has come of age,
    /// and is asked again.
    #[must_use]
    pub fn authority_has_ended(&self, now: Millis) -> bool {
        self.authority_ends_at.is_some_and(|ends_at| ends_at <= now)
    }

    /// Whether the grant is past its expiry: `expires_at` is the first moment without it.
    #[must_use]
    pub fn has_expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// Whether it takes the place of another grant for the same cell: the later one does, and of
    /// two confirmations of one request the first.
    fn replaces(&self, standing: Option<&Self>) -> bool {
        standing.is_none_or(|standing| {
            (standing.mark, Reverse(standing.confirmed_by))
                < (self.mark, Reverse(self.confirmed_by))
        })
    }

    fn heap_bytes(&self) -> usize {
        let Some(categories) = &self.data_categories else { return 0 };
        // Two reference counts come before the strings.
        2 * size_of::<usize>()
            + categories.iter().map(|text| size_of::<String>() + text.capacity()).sum::<usize>()
    }
}

/// The state of one cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CellState {
    /// Purpose.
    pub purpose: PurposeId,
    /// Channel.
    pub channel: ChannelId,
    /// The latest grant that needs no further confirmation, by any actor.
    pub grant: Option<Grant>,
    /// The latest such grant by somebody who speaks for the subject.
    pub lifted: Option<Mark>,
    /// The latest grant that waits for its double opt-in. It lifts nothing.
    pub pending: Option<Box<Grant>>,
}

impl CellState {
    fn heap_bytes(&self) -> usize {
        self.grant.as_ref().map_or(0, Grant::heap_bytes)
            + self.pending.as_ref().map_or(0, |grant| size_of::<Grant>() + grant.heap_bytes())
    }
}

/// The confidence that two identifiers name the same person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkConfidence {
    /// The person proved it: all acts of both sides count for both.
    Verified,
    /// It is only claimed: each side contributes only its stops to the other.
    Asserted,
}

/// A link to another data subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// The other data subject.
    pub other: SubjectRef,
    /// The confidence.
    pub confidence: LinkConfidence,
    /// Index of the entry that made it.
    pub index: u64,
}

/// The state of one data subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct SubjectState {
    stops: Vec<Stop>,
    cells: Vec<CellState>,
    /// Contact preferences, if any were set.
    pub contact: Option<Box<Contact>>,
    /// Links to other data subjects.
    pub links: Vec<Link>,
    /// Index of the entry that began the subject's erasure.
    pub erased_by: Option<u64>,
    /// One more than the index of the last entry that touched the subject.
    pub revision: u64,
}

impl SubjectState {
    /// Puts a state together from its parts, in any order. Of two stops for one scope the later
    /// counts; of two entries for one cell, the first.
    #[must_use]
    pub fn from_parts(
        mut stops: Vec<Stop>,
        mut cells: Vec<CellState>,
        erased_by: Option<u64>,
        revision: u64,
    ) -> Self {
        stops.sort_unstable_by_key(|stop| (stop.scope, Reverse(stop.mark)));
        stops.dedup_by_key(|stop| stop.scope);
        cells.sort_by_key(|cell| (cell.purpose, cell.channel));
        cells.dedup_by_key(|cell| (cell.purpose, cell.channel));
        stops.shrink_to_fit();
        cells.shrink_to_fit();
        Self { stops, cells, contact: None, links: Vec::new(), erased_by, revision }
    }

    /// The latest stop for each scope, ordered by scope.
    #[must_use]
    pub fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// The cells that some grant named, ordered by purpose and channel.
    #[must_use]
    pub fn cells(&self) -> &[CellState] {
        &self.cells
    }

    /// The state of a cell, if some grant named it.
    #[must_use]
    pub fn cell(&self, purpose: PurposeId, channel: ChannelId) -> Option<&CellState> {
        let position = self.cell_position(purpose, channel).ok()?;
        self.cells.get(position)
    }

    /// The cells of a scope that some grant named, ordered by purpose and channel.
    pub fn cells_in(&self, scope: Scope) -> impl Iterator<Item = &CellState> {
        let start = self.cells.partition_point(|cell| Some(cell.purpose) < scope.purpose);
        self.cells[start..]
            .iter()
            .take_while(move |cell| scope.purpose.is_none_or(|purpose| purpose == cell.purpose))
            .filter(move |cell| scope.covers(cell.purpose, cell.channel))
    }

    /// The latest stop that covers a cell, lifted or not.
    #[must_use]
    pub fn latest_stop(&self, purpose: PurposeId, channel: ChannelId) -> Option<&Stop> {
        self.latest_stop_over(Scope::cell(purpose, channel))
    }

    /// The latest stop that covers every cell of a scope, lifted here and there or not. Of two
    /// stops of one act the narrower is named.
    #[must_use]
    pub fn latest_stop_over(&self, scope: Scope) -> Option<&Stop> {
        if self.stops.is_empty() {
            return None;
        }
        let mut latest = self.stop_for(scope);
        for wider in [
            Scope { channel: None, ..scope },
            Scope { purpose: None, ..scope },
            Scope { purpose: None, channel: None },
        ] {
            match (self.stop_for(wider), latest) {
                (Some(stop), Some(known)) if stop.mark <= known.mark => {}
                (None, _) => {}
                (stop, _) => latest = stop,
            }
        }
        latest
    }

    /// The latest stop for exactly this scope.
    #[must_use]
    pub fn stop_for(&self, scope: Scope) -> Option<&Stop> {
        let position = self.stops.binary_search_by_key(&scope, |stop| stop.scope).ok()?;
        self.stops.get(position)
    }

    /// The live stop that covers a cell: the latest one, unless a later grant lifted it there.
    #[must_use]
    pub fn live_stop(&self, purpose: PurposeId, channel: ChannelId) -> Option<&Stop> {
        let stop = self.latest_stop(purpose, channel)?;
        let lifted = self.cell(purpose, channel).and_then(|cell| cell.lifted);
        lifted.is_none_or(|grant| stop.mark.stop_is_later_than_grant(grant)).then_some(stop)
    }

    /// The first moment at which a new act is later than all known acts. A stop that ties with a
    /// grant loses, so it must be later; every other tie goes to the later entry.
    #[must_use]
    pub fn first_moment_after(&self, is_stop: bool) -> Option<Millis> {
        let stops = self.stops.iter().map(|stop| stop.mark.effective_at);
        let grants = self.cells.iter().flat_map(|cell| {
            let grants = [cell.grant.as_ref(), cell.pending.as_deref()].into_iter().flatten();
            grants.map(|grant| grant.mark).chain(cell.lifted)
        });
        let grants = grants.map(|mark| mark.effective_at.plus_ms(i64::from(is_stop)));
        let contact = self.contact.as_ref().and_then(|contact| contact.latest());
        stops.chain(grants).chain(contact).max()
    }

    /// Folds in the contact preferences of an act.
    pub fn merge_contact(&mut self, mark: Mark, change: &ContactChange) {
        if !change.is_empty() {
            self.contact.get_or_insert_default().merge(mark, change);
        }
    }

    /// Links to another data subject, or unlinks from it. Links are folded in the order of the
    /// ledger.
    pub fn merge_link(
        &mut self,
        other: SubjectRef,
        confidence: Option<LinkConfidence>,
        index: u64,
    ) {
        self.links.retain(|link| link.other != other);
        self.links.extend(confidence.map(|confidence| Link { other, confidence, index }));
    }

    /// Adds the contribution of a linked data subject: all acts if the link is verified, otherwise
    /// only its stops. Links and erasure are not taken over.
    pub fn unite(&mut self, other: &Self, confidence: LinkConfidence) {
        for stop in &other.stops {
            self.merge_stop(*stop);
        }
        if confidence == LinkConfidence::Verified {
            for cell in &other.cells {
                self.unite_cell(cell);
            }
            if let Some(contact) = &other.contact {
                self.contact.get_or_insert_default().unite(contact);
            }
        }
        self.revision = self.revision.max(other.revision);
    }

    fn unite_cell(&mut self, other: &CellState) {
        let cell = self.cell_mut(other.purpose, other.channel);
        cell.lifted = cell.lifted.max(other.lifted);
        if let Some(grant) = &other.grant
            && grant.replaces(cell.grant.as_ref())
        {
            cell.grant = Some(grant.clone());
        }
        if let Some(pending) = &other.pending
            && pending.replaces(cell.pending.as_deref())
        {
            cell.pending = Some(pending.clone());
        }
    }

    /// Folds in a stop.
    pub fn merge_stop(&mut self, stop: Stop) {
        match self.stops.binary_search_by_key(&stop.scope, |known| known.scope) {
            Ok(position) if self.stops[position].mark < stop.mark => self.stops[position] = stop,
            Ok(_) => {}
            Err(position) => {
                // Most subjects have one or two, and there are millions of subjects.
                self.stops.reserve_exact(1);
                self.stops.insert(position, stop);
            }
        }
    }

    /// Folds in a grant that needs no further confirmation.
    pub fn merge_grant(&mut self, purpose: PurposeId, channel: ChannelId, grant: Grant) {
        let cell = self.cell_mut(purpose, channel);
        if grant.actor.speaks_for_subject() {
            cell.lifted = cell.lifted.max(Some(grant.mark));
        }
        if grant.replaces(cell.grant.as_ref()) {
            cell.grant = Some(grant);
        }
    }

    /// Folds in a grant that waits for its double opt-in.
    pub fn merge_pending(&mut self, purpose: PurposeId, channel: ChannelId, grant: Grant) {
        let cell = self.cell_mut(purpose, channel);
        if grant.replaces(cell.pending.as_deref()) {
            cell.pending = Some(Box::new(grant));
        }
    }

    /// About how many bytes of memory the state takes, including its heap memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.stops.capacity() * size_of::<Stop>()
            + self.cells.capacity() * size_of::<CellState>()
            + self.cells.iter().map(CellState::heap_bytes).sum::<usize>()
            + self.links.capacity() * size_of::<Link>()
            + self.contact.as_ref().map_or(0, |contact| size_of::<Contact>() + contact.heap_bytes())
    }

    fn cell_position(&self, purpose: PurposeId, channel: ChannelId) -> Result<usize, usize> {
        self.cells.binary_search_by_key(&(purpose, channel), |cell| (cell.purpose, cell.channel))
    }

    fn cell_mut(&mut self, purpose: PurposeId, channel: ChannelId) -> &mut CellState {
        let position = match self.cell_position(purpose, channel) {
            Ok(position) => position,
            Err(position) => {
                let cell = CellState { purpose, channel, grant: None, lifted: None, pending: None };
                self.cells.reserve_exact(1);
                self.cells.insert(position, cell);
                position
            }
        };
        &mut self.cells[position]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PurposeId = PurposeId(1);
    const C: ChannelId = ChannelId(2);
    const CELL: Scope = Scope { purpose: Some(P), channel: Some(C) };
    const PURPOSE: Scope = Scope { purpose: Some(P), channel: None };
    const CHANNEL: Scope = Scope { purpose: None, channel: Some(C) };
    const EVERYTHING: Scope = Scope { purpose: None, channel: None };

    fn mark(effective_at: i64, index: u64) -> Mark {
        Mark { effective_at: Millis(effective_at), index }
    }

    fn stop(scope: Scope, effective_at: i64, index: u64) -> Stop {
        Stop { scope, kind: StopKind::Withdrawn, mark: mark(effective_at, index) }
    }

    fn grant(actor: Actor, effective_at: i64, index: u64) -> Grant {
        Grant {
            mark: mark(effective_at, index),
            actor,
            purpose_version: 1,
            expires_at: None,
            data_categories: None,
            authority_ends_at: None,
            confirmed_by: None,
        }
    }

    #[test]
    fn acts_are_ordered_by_effect_and_then_by_place() {
        assert!(mark(1, 9) < mark(2, 0) && mark(2, 0) < mark(2, 1));
        // On a tie the grant wins, on whichever side of the stop it was written.
        for (at, is_later) in [(4, false), (5, false), (6, true)] {
            for index in [1, 9] {
                assert_eq!(mark(at, index).stop_is_later_than_grant(mark(5, 5)), is_later, "{at}");
            }
        }
    }

    #[test]
    fn the_latest_stop_of_any_width_counts() {
        let scopes = [CELL, PURPOSE, CHANNEL, EVERYTHING];
        for latest in scopes {
            let mut state = SubjectState::default();
            for (index, scope) in (0..).zip(scopes) {
                state.merge_stop(stop(scope, if scope == latest { 9 } else { 5 }, index));
            }
            assert_eq!(state.latest_stop(P, C).unwrap().scope, latest);
            assert_eq!(state.latest_stop_over(EVERYTHING).unwrap().scope, EVERYTHING);
        }
    }

    #[test]
    fn of_two_stops_of_one_act_the_narrower_is_named() {
        let mut state = SubjectState::default();
        for scope in [EVERYTHING, CELL, PURPOSE] {
            state.merge_stop(stop(scope, 5, 1));
        }
        assert_eq!(state.latest_stop(P, C).unwrap().scope, CELL);
        assert_eq!(state.latest_stop(P, ChannelId(0)).unwrap().scope, PURPOSE);
        assert_eq!(state.latest_stop(PurposeId(0), C).unwrap().scope, EVERYTHING);
    }

    #[test]
    fn a_wide_stop_is_lifted_in_the_granted_cell_only() {
        let mut state = SubjectState::default();
        state.merge_stop(stop(EVERYTHING, 5, 1));
        state.merge_grant(P, C, grant(Actor::Import, 7, 2));
        assert!(state.live_stop(P, C).is_some());
        state.merge_grant(P, C, grant(Actor::Guardian, 6, 3));
        assert!(state.live_stop(P, C).is_none());
        assert!(state.live_stop(P, ChannelId(0)).is_some());
        assert_eq!(state.cell(P, C).unwrap().grant.as_ref().unwrap().mark, mark(7, 2));
    }

    #[test]
    fn states_that_know_the_same_are_equal() {
        let stops = [stop(EVERYTHING, 5, 1), stop(CELL, 5, 2), stop(CELL, 4, 3)];
        let mut one = SubjectState::default();
        let mut other = SubjectState::default();
        for stop in stops {
            one.merge_stop(stop);
        }
        for stop in stops.into_iter().rev() {
            other.merge_stop(stop);
        }
        for channel in [3, 1, 2].map(ChannelId) {
            one.merge_grant(P, channel, grant(Actor::Subject, 1, 1));
        }
        for channel in [1, 2, 3].map(ChannelId) {
            other.merge_grant(P, channel, grant(Actor::Subject, 1, 1));
        }
        assert_eq!(one, other);

        let cells = one.cells().iter().rev().cloned().collect();
        let stops = stops.into_iter().rev().collect();
        assert_eq!(SubjectState::from_parts(stops, cells, None, 0), one);
    }

    #[test]
    fn the_first_confirmation_of_a_request_counts() {
        for order in [[7, 8], [8, 7]] {
            let mut state = SubjectState::default();
            for index in order {
                let grant = Grant { confirmed_by: Some(index), ..grant(Actor::Subject, 1, 1) };
                state.merge_grant(P, C, grant);
            }
            assert_eq!(state.cell(P, C).unwrap().grant.as_ref().unwrap().decided_by(), 7);
        }
    }

    #[test]
    fn finds_the_cells_of_a_scope() {
        let mut state = SubjectState::default();
        for (purpose, channel) in [(0, 1), (0, 2), (1, 1), (1, 2), (2, 2)] {
            let grant = grant(Actor::Subject, 1, 1);
            state.merge_grant(PurposeId(purpose), ChannelId(channel), grant);
        }
        for (scope, want) in [
            (EVERYTHING, vec![(0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]),
            (PURPOSE, vec![(1, 1), (1, 2)]),
            (CHANNEL, vec![(0, 2), (1, 2), (2, 2)]),
            (CELL, vec![(1, 2)]),
            (Scope::cell(PurposeId(3), C), vec![]),
        ] {
            let got: Vec<_> = state.cells_in(scope).map(|c| (c.purpose.0, c.channel.0)).collect();
            assert_eq!(got, want, "{scope:?}");
        }
    }

    #[test]
    fn memory_counts_what_hangs_from_the_cells() {
        let mut state = SubjectState::default();
        state.merge_grant(P, C, grant(Actor::Subject, 1, 1));
        let plain = state.memory_bytes();
        state.merge_pending(P, C, grant(Actor::Subject, 2, 2));
        let with_pending = state.memory_bytes();
        assert_eq!(with_pending - plain, size_of::<Grant>());
        let narrowed = vec!["user.contact".to_owned(); 3];
        let grant = Grant { data_categories: Some(narrowed.into()), ..grant(Actor::Subject, 3, 3) };
        state.merge_grant(P, C, grant);
        assert!(state.memory_bytes() - with_pending >= 3 * (size_of::<String>() + 12));
    }
}
