//! The state of one data subject: the fold of all its acts.
//!
//! Acts are ordered by `effective_at`. At one moment a stop wins over a grant of another act, and a
//! grant of a named cell stands beside the stops of its own act. Of two grants of one moment the one
//! with the greater index counts. The state keeps, for every scope, the latest stop of the data
//! subject and that of anybody else and, for every cell, the latest grant of somebody who can lift a
//! stop and that of anybody else. All are maxima, so folding is commutative and idempotent: the order
//! of arrival can not matter, and a late act needs no replay.
//!
//! Why the maxima suffice: let `t` be the moment of the latest stops that cover a cell. A lifting
//! grant after `t` ends them all. One of `t` does so only if every stop of `t` is of its own act. So
//! each stop keeps the least index of its moment beside the greatest, and each cell keeps the latest
//! lifting grant that stands beside a covering stop of its own act ([`Exception`]). If two acts of
//! `t` are of that kind, each is barred by the stop of the other, so one of them suffices.
//!
//! A grant of somebody who can not lift stops counts only in a cell that no stop ever covered. Were
//! one that a stop blocked to count once the stop is lifted, it could end or narrow the grant that
//! lifted it. And a grant of somebody else that is later than the data subject's own never caps it: so
//! a stop, which takes all grants of others away, never opens what they closed.
//!
//! After a correction of the clock ([`ClockCorrection`]) a grant may have been given at any moment of a
//! span. Against stops it counts as of the earliest, against other grants as of the latest. So the place
//! of the latest lifting grant is kept apart from the latest grant.
//!
//! If no stop stands, every own grant after the lifting one takes effect too, so the latest decides. A
//! grant that waits for its double opt-in lifts nothing; it is relevant only while no confirmed grant
//! is later, and then it is later than every lifted stop too, so the latest one suffices.
//!
//! A stop by somebody else over a standing stop of the data subject often only reports it back. The
//! data subject's own stop goes on to be named, in whatever order the two came in.
//!
//! Stops and cells are kept in the order of their scopes, so that the same acts give equal states
//! in any order of arrival.

use std::{
    cmp::{Ordering, Reverse},
    mem::size_of,
    sync::Arc,
};

use smallvec::SmallVec;

use super::{
    act::{Actor, StopKind},
    catalog::{Catalog, ChannelId, PurposeId},
    clock::ClockCorrection,
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

/// The latest stop for a scope, of the data subject or of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stop {
    /// What it covers.
    pub scope: Scope,
    /// Its kind.
    pub kind: StopKind,
    /// Whether it is the data subject's own: somebody who speaks for them made it, or it is an
    /// objection, which only they can have raised.
    pub is_subjects: bool,
    /// When and where.
    pub mark: Mark,
    /// The least index of such stops for this scope at that moment.
    pub first_index: u64,
}

impl Stop {
    /// A stop that one act makes.
    #[must_use]
    pub fn new(scope: Scope, kind: StopKind, actor: Actor, mark: Mark) -> Self {
        let is_subjects = Self::is_of_subject(kind, actor);
        Self { scope, kind, is_subjects, mark, first_index: mark.index }
    }

    /// Whether a stop of this kind by this actor is the data subject's own.
    #[must_use]
    pub fn is_of_subject(kind: StopKind, actor: Actor) -> bool {
        actor.speaks_for_subject() || kind == StopKind::Objected
    }

    fn key(&self) -> (Scope, bool) {
        (self.scope, self.is_subjects)
    }

    /// Adds what is known of the same scope and the same side.
    fn unite(&mut self, other: Self) {
        let same_moment = self.mark.effective_at == other.mark.effective_at;
        let first_index = self.first_index.min(other.first_index);
        if self.mark < other.mark {
            *self = other;
        }
        if same_moment {
            self.first_index = first_index;
        }
    }
}

/// The latest stops that cover a cell: one moment, and the acts that made them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Latest {
    last: Mark,
    first_index: u64,
}

impl Latest {
    fn of<'a>(stops: impl Iterator<Item = &'a Stop>) -> Option<Self> {
        stops.fold(None, |latest: Option<Self>, stop| {
            let one = Self { last: stop.mark, first_index: stop.first_index };
            Some(match latest {
                Some(latest) if latest.last.effective_at > one.last.effective_at => latest,
                Some(latest) if latest.last.effective_at == one.last.effective_at => Self {
                    last: latest.last.max(one.last),
                    first_index: latest.first_index.min(one.first_index),
                },
                _ => one,
            })
        })
    }

    /// Whether the stops win over a grant: those of a later moment do, and at the same moment those
    /// of any other act.
    fn bar(self, grant: Mark) -> bool {
        match self.last.effective_at.cmp(&grant.effective_at) {
            Ordering::Greater => true,
            Ordering::Less => false,
            Ordering::Equal => [self.first_index, self.last.index] != [grant.index; 2],
        }
    }
}

/// A grant that stands beside a stop of its own act, which covers its cell too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exception {
    /// The place of the act.
    pub mark: Mark,
    /// Whether the grant lifts stops: it does not while it waits for its double opt-in.
    pub lifts: bool,
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

/// The latest grants of a cell, of those who speak for the data subject or of all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Grants {
    /// The latest that needs no further confirmation.
    pub given: Option<Grant>,
    /// The latest that waits for its double opt-in. It lifts nothing.
    pub pending: Option<Box<Grant>>,
}

impl Grants {
    /// Both.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.given.iter().chain(self.pending.as_deref())
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Grant> {
        self.given.iter_mut().chain(self.pending.as_deref_mut())
    }

    fn merge_given(&mut self, grant: Grant) {
        if grant.replaces(self.given.as_ref()) {
            self.given = Some(grant);
        }
    }

    fn merge_pending(&mut self, grant: Grant) {
        if grant.replaces(self.pending.as_deref()) {
            self.pending = Some(Box::new(grant));
        }
    }

    fn unite(&mut self, other: &Self) {
        other.given.iter().for_each(|grant| self.merge_given(grant.clone()));
        other.pending.iter().for_each(|grant| self.merge_pending(Grant::clone(grant)));
    }

    fn heap_bytes(&self) -> usize {
        self.given.as_ref().map_or(0, Grant::heap_bytes)
            + self.pending.as_ref().map_or(0, |grant| size_of::<Grant>() + grant.heap_bytes())
    }
}

/// The state of one cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CellState {
    /// Purpose.
    pub purpose: PurposeId,
    /// Channel.
    pub channel: ChannelId,
    /// Grants of those who speak for the data subject.
    pub own: Grants,
    /// The latest place of a given one of them that lifts stops: after a correction of the clock, each
    /// counts there as the earliest that it can have been.
    pub lifted: Option<Mark>,
    /// The latest own grant that stands beside a covering stop of its own act.
    pub exception: Option<Box<Exception>>,
    /// Grants of all others: they count only if no stop ever covered the cell.
    pub others: Option<Box<Grants>>,
}

impl CellState {
    /// All grants, in no order.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.sides().flat_map(Grants::iter)
    }

    /// The grants that need no further confirmation, in no order.
    pub fn given(&self) -> impl Iterator<Item = &Grant> {
        self.sides().filter_map(|side| side.given.as_ref())
    }

    fn sides(&self) -> impl Iterator<Item = &Grants> {
        [&self.own].into_iter().chain(self.others.as_deref())
    }

    /// The grants of the actor's side.
    fn side_mut(&mut self, actor: Actor) -> &mut Grants {
        if actor.speaks_for_subject() { &mut self.own } else { self.others.get_or_insert_default() }
    }

    fn heap_bytes(&self) -> usize {
        self.own.heap_bytes()
            + self.others.as_ref().map_or(0, |others| size_of::<Grants>() + others.heap_bytes())
            + self.exception.as_ref().map_or(0, |_| size_of::<Exception>())
    }

    fn merge_exception(&mut self, exception: Exception) {
        match &mut self.exception {
            Some(known) => **known = exception.max(**known),
            None => self.exception = Some(Box::new(exception)),
        }
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
    /// Puts a state together from its parts, in any order. Of two stops for one scope and side the
    /// later counts; of two entries for one cell, the first.
    #[must_use]
    pub fn from_parts(
        stops: Vec<Stop>,
        mut cells: Vec<CellState>,
        erased_by: Option<u64>,
        revision: u64,
    ) -> Self {
        cells.sort_by_key(|cell| (cell.purpose, cell.channel));
        cells.dedup_by_key(|cell| (cell.purpose, cell.channel));
        cells.shrink_to_fit();
        let mut state = Self { cells, erased_by, revision, ..Self::default() };
        for stop in stops {
            state.merge_stop(stop);
        }
        state
    }

    /// The latest stop of each side for each scope, ordered by scope.
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
    pub fn cells_in<'a>(
        &'a self,
        catalog: &'a Catalog,
        scope: Scope,
    ) -> impl Iterator<Item = &'a CellState> {
        let one = scope.as_purpose();
        let start = self.cells.partition_point(|cell| Some(cell.purpose) < one);
        self.cells[start..]
            .iter()
            .take_while(move |cell| one.is_none_or(|purpose| purpose == cell.purpose))
            .filter(move |cell| catalog.covers(scope, cell.purpose, cell.channel))
    }

    /// The latest stop that covers a cell, lifted or not.
    #[must_use]
    pub fn latest_stop(
        &self,
        catalog: &Catalog,
        purpose: PurposeId,
        channel: ChannelId,
    ) -> Option<&Stop> {
        self.latest_stop_over(catalog, Scope::cell(purpose, channel))
    }

    /// The latest stop that covers every cell of a scope, lifted here and there or not. Of two
    /// stops of one act the narrower is named.
    #[must_use]
    pub fn latest_stop_over(&self, catalog: &Catalog, scope: Scope) -> Option<&Stop> {
        latest(self.stops_over(catalog, scope))
    }

    /// The live stop that names the status of a cell: the latest one, unless a grant lifted it
    /// there. Where a stop of the data subject stands, a later one by somebody else does not take
    /// its place.
    #[must_use]
    pub fn live_stop(
        &self,
        catalog: &Catalog,
        purpose: PurposeId,
        channel: ChannelId,
    ) -> Option<&Stop> {
        let covering = || self.stops_over(catalog, Scope::cell(purpose, channel));
        let cell = self.cell(purpose, channel);
        let stands = |stops: Option<Latest>| stops.is_some_and(|stops| !is_lifted(cell, stops));
        if !stands(Latest::of(covering())) {
            return None;
        }
        let subjects = || covering().filter(|stop| stop.is_subjects);
        if stands(Latest::of(subjects())) { latest(subjects()) } else { latest(covering()) }
    }

    /// Whether an own grant lifts the stops of some cell of a scope, or would once it is confirmed.
    #[must_use]
    pub fn is_lifted_in(&self, catalog: &Catalog, scope: Scope) -> bool {
        self.cells_in(catalog, scope).any(|cell| {
            let (purpose, channel) = (cell.purpose, cell.channel);
            let bars = |grant: &Grant| self.stops_bar(catalog, purpose, channel, grant.mark);
            self.live_stop(catalog, purpose, channel).is_none()
                || cell.own.pending.as_ref().is_some_and(|grant| !bars(grant))
        })
    }

    /// The grants of a cell by those who can not lift stops, if no stop ever covered it.
    #[must_use]
    pub fn others_that_count<'a>(
        &self,
        catalog: &Catalog,
        cell: &'a CellState,
    ) -> Option<&'a Grants> {
        let others = cell.others.as_deref()?;
        self.latest_stop(catalog, cell.purpose, cell.channel).is_none().then_some(others)
    }

    /// Indices of the entries that the state rests on: stops, grants and their confirmations, and the
    /// beginning of the erasure. In no order, and some more than once.
    pub fn rests_on(&self) -> impl Iterator<Item = u64> {
        let stops = self.stops.iter().map(|stop| stop.mark.index);
        let grants = self.cells.iter().flat_map(CellState::grants);
        let grants = grants.flat_map(|grant| [grant.mark.index, grant.decided_by()]);
        let lifted = self.cells.iter().filter_map(|cell| cell.lifted).map(|mark| mark.index);
        stops.chain(grants).chain(lifted).chain(self.erased_by)
    }

    /// Whether the state rests on the entry at an index.
    #[must_use]
    pub fn rests_on_entry(&self, index: u64) -> bool {
        self.rests_on().any(|entry| entry == index)
    }

    /// Whether the stops that cover a cell win over a grant with this mark.
    #[must_use]
    pub fn stops_bar(
        &self,
        catalog: &Catalog,
        purpose: PurposeId,
        channel: ChannelId,
        grant: Mark,
    ) -> bool {
        Latest::of(self.stops_over(catalog, Scope::cell(purpose, channel)))
            .is_some_and(|stops| stops.bar(grant))
    }

    /// The first moment at which a new act is later than all known acts. A grant that ties with a
    /// stop of another act loses, so an act that grants must be later than all stops. A stop would
    /// win such a tie; it is later than all grants too, so that a history reads in its order.
    #[must_use]
    pub fn first_moment_after(&self, stops_any: bool, grants_any: bool) -> Option<Millis> {
        let stops = self.stops.iter().map(|stop| stop.mark.effective_at);
        let stops = stops.map(|at| at.plus_ms(i64::from(grants_any)));
        let known_grants = self.cells.iter().flat_map(CellState::grants);
        let known_grants =
            known_grants.map(|grant| grant.mark.effective_at.plus_ms(i64::from(stops_any)));
        let contact = self.contact.as_ref().and_then(|contact| contact.latest());
        stops.chain(known_grants).chain(contact).max()
    }

    /// The stops that cover every cell of a scope, the narrower first.
    fn stops_over(&self, catalog: &Catalog, scope: Scope) -> impl Iterator<Item = &Stop> {
        // Most persons have no stop: they need no list of scopes.
        let scopes =
            if self.stops.is_empty() { SmallVec::new() } else { catalog.scopes_around(scope) };
        scopes.into_iter().flat_map(|scope| self.stops_for(scope))
    }

    /// The stops for exactly this scope.
    fn stops_for(&self, scope: Scope) -> impl Iterator<Item = &Stop> {
        let start = self.stops.partition_point(|stop| stop.scope < scope);
        self.stops[start..].iter().take_while(move |stop| stop.scope == scope)
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
        cell.own.unite(&other.own);
        cell.lifted = cell.lifted.max(other.lifted);
        if let Some(exception) = &other.exception {
            cell.merge_exception(**exception);
        }
        if let Some(others) = &other.others {
            cell.others.get_or_insert_default().unite(others);
        }
    }

    /// Folds in a stop.
    pub fn merge_stop(&mut self, stop: Stop) {
        match self.stops.binary_search_by_key(&stop.key(), Stop::key) {
            Ok(position) => self.stops[position].unite(stop),
            Err(position) => {
                // Most subjects have one or two, and there are millions of subjects.
                self.stops.reserve_exact(1);
                self.stops.insert(position, stop);
            }
        }
    }

    /// Folds in a grant that needs no further confirmation.
    pub fn merge_grant(&mut self, purpose: PurposeId, channel: ChannelId, grant: Grant) {
        let earliest = grant.mark;
        self.merge_uncertain_grant(purpose, channel, grant, earliest);
    }

    /// As [`Self::merge_grant`], for a grant that may have been given as early as `earliest`: it lifts no
    /// stop that may be later.
    pub fn merge_uncertain_grant(
        &mut self,
        purpose: PurposeId,
        channel: ChannelId,
        grant: Grant,
        earliest: Mark,
    ) {
        let cell = self.cell_mut(purpose, channel);
        if grant.actor.speaks_for_subject() {
            cell.lifted = cell.lifted.max(Some(earliest));
            // A grant that is confirmed now may have been asked for beside a stop.
            if let Some(exception) = &mut cell.exception
                && exception.mark == earliest
            {
                exception.lifts = true;
            }
        }
        cell.side_mut(grant.actor).merge_given(grant);
    }

    /// Folds in that an act grants a cell which a stop of the same act covers. The actor speaks for
    /// the data subject. A later confirmation of the grant makes it lift.
    pub fn merge_exception(
        &mut self,
        purpose: PurposeId,
        channel: ChannelId,
        exception: Exception,
    ) {
        self.cell_mut(purpose, channel).merge_exception(exception);
    }

    /// Folds in a grant that waits for its double opt-in.
    pub fn merge_pending(&mut self, purpose: PurposeId, channel: ChannelId, grant: Grant) {
        self.cell_mut(purpose, channel).side_mut(grant.actor).merge_pending(grant);
    }

    /// Takes over a correction of the clock that came after all that was folded in. If it changes
    /// something, it is the last entry that touched the subject.
    pub fn correct(&mut self, correction: &ClockCorrection, catalog: &Catalog) {
        for stop in &mut self.stops {
            correction.correct_stop(stop);
        }
        for cell in &mut self.cells {
            let others = cell.others.iter_mut().flat_map(|others| others.iter_mut());
            for grant in cell.own.iter_mut().chain(others) {
                let validity_ms = catalog.validity_ms(cell.purpose, grant.purpose_version);
                correction.correct_grant(grant, validity_ms);
            }
            cell.lifted = cell.lifted.map(|mark| correction.earliest(mark));
            if let Some(exception) = &mut cell.exception {
                exception.mark = correction.earliest(exception.mark);
            }
        }
        for mark in self.contact.iter_mut().flat_map(|contact| contact.marks_mut()) {
            *mark = correction.latest(*mark);
        }
        self.revision = self.revision.max(correction.index.saturating_add(1));
    }

    /// Whether a correction of the clock concerns an act that the state rests on.
    #[must_use]
    pub fn is_changed_by(&self, correction: &ClockCorrection) -> bool {
        let stops = self.stops.iter().map(|stop| stop.mark);
        let grants = self.cells.iter().flat_map(|cell| {
            let exception = cell.exception.as_ref().map(|exception| exception.mark);
            cell.grants().map(|grant| grant.mark).chain(cell.lifted).chain(exception)
        });
        let contact = self.contact.iter().flat_map(|contact| contact.marks());
        stops.chain(grants).chain(contact).any(|mark| correction.changes(mark))
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
                let cell = CellState {
                    purpose,
                    channel,
                    own: Grants::default(),
                    lifted: None,
                    exception: None,
                    others: None,
                };
                self.cells.reserve_exact(1);
                self.cells.insert(position, cell);
                position
            }
        };
        &mut self.cells[position]
    }
}

/// The latest of some stops; of those of one act the first.
fn latest<'a>(stops: impl Iterator<Item = &'a Stop>) -> Option<&'a Stop> {
    stops.reduce(|latest, stop| if stop.mark > latest.mark { stop } else { latest })
}

/// Whether some grant of the cell lifts these stops there.
fn is_lifted(cell: Option<&CellState>, stops: Latest) -> bool {
    cell.is_some_and(|cell| {
        let exception = cell.exception.as_ref().filter(|exception| exception.lifts);
        let lifting = cell.lifted.into_iter().chain(exception.map(|exception| exception.mark));
        lifting.into_iter().any(|grant| !stops.bar(grant))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::scope::PurposeScope;

    const P: PurposeId = PurposeId(1);
    const C: ChannelId = ChannelId(2);
    const ONE: Option<PurposeScope> = Some(PurposeScope::One(P));
    const CELL: Scope = Scope { purpose: ONE, channel: Some(C) };
    const PURPOSE: Scope = Scope { purpose: ONE, channel: None };
    const CHANNEL: Scope = Scope { purpose: None, channel: Some(C) };
    const EVERYTHING: Scope = Scope { purpose: None, channel: None };

    fn mark(effective_at: i64, index: u64) -> Mark {
        Mark { effective_at: Millis(effective_at), index }
    }

    fn stop(scope: Scope, effective_at: i64, index: u64) -> Stop {
        Stop::new(scope, StopKind::Withdrawn, Actor::Subject, mark(effective_at, index))
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
    fn at_one_moment_a_stop_wins_over_a_grant_of_another_act() {
        assert!(mark(1, 9) < mark(2, 0) && mark(2, 0) < mark(2, 1));
        for (at, bars) in [(4, false), (5, true), (6, true)] {
            for index in [1, 9] {
                let mut state = SubjectState::default();
                state.merge_stop(stop(EVERYTHING, at, index));
                state.merge_grant(P, C, grant(Actor::Subject, 5, 5));
                assert_eq!(
                    state.live_stop(&Catalog::default(), P, C).is_some(),
                    bars,
                    "{at} {index}"
                );
                assert_eq!(
                    state.stops_bar(&Catalog::default(), P, C, mark(5, 5)),
                    bars,
                    "{at} {index}"
                );
            }
        }
    }

    #[test]
    fn a_grant_stands_beside_the_stop_of_its_own_act_until_another_act_stops_too() {
        let mut state = SubjectState::default();
        state.merge_stop(stop(EVERYTHING, 5, 3));
        state.merge_grant(P, C, grant(Actor::Subject, 5, 3));
        state.merge_exception(P, C, Exception { mark: mark(5, 3), lifts: true });
        assert_eq!(state.live_stop(&Catalog::default(), P, C), None);
        // Another grant of the moment leaves it so, and a stop of another act does not.
        state.merge_grant(P, C, grant(Actor::Subject, 5, 9));
        assert_eq!(state.live_stop(&Catalog::default(), P, C), None);
        for index in [1, 9] {
            let mut stopped = state.clone();
            stopped.merge_stop(stop(CHANNEL, 5, index));
            assert!(stopped.live_stop(&Catalog::default(), P, C).is_some(), "{index}");
        }
    }

    #[test]
    fn a_corrected_grant_lifts_as_of_its_earliest_and_is_compared_as_of_its_latest() {
        let correction = ClockCorrection {
            index: 9,
            recorded_at: Millis(20),
            entries: 3..5,
            right_until: Millis(10),
            right_again: Millis(20),
        };
        let mut state = SubjectState::default();
        state.merge_grant(P, C, grant(Actor::Subject, 90, 3));
        state.merge_grant(P, C, grant(Actor::Import, 91, 4));
        state.correct(&correction, &Catalog::default());
        let cell = state.cell(P, C).unwrap();
        assert_eq!(cell.lifted, Some(mark(10, 3)));
        assert_eq!(cell.own.given.as_ref().unwrap().mark, mark(20, 3));
        assert_eq!(cell.others.as_ref().unwrap().given.as_ref().unwrap().mark, mark(20, 4));
        assert!(!state.is_changed_by(&ClockCorrection { right_until: Millis(20), ..correction }));
        // A stop of the span is not lifted: it may be later.
        state.merge_stop(stop(CELL, 15, 2));
        assert!(state.live_stop(&Catalog::default(), P, C).is_some());
        state.merge_grant(P, C, grant(Actor::Subject, 16, 8));
        assert!(state.live_stop(&Catalog::default(), P, C).is_none());
        let cell = state.cell(P, C).unwrap();
        assert_eq!(cell.lifted, Some(mark(16, 8)));
        assert_eq!(cell.own.given.as_ref().unwrap().mark, mark(20, 3));
        assert!(state.rests_on().any(|index| index == 8));
    }

    #[test]
    fn an_echo_of_the_subjects_stop_does_not_take_its_place() {
        let echo = Stop::new(EVERYTHING, StopKind::Revoked, Actor::Import, mark(7, 2));
        for order in [[stop(CELL, 5, 1), echo], [echo, stop(CELL, 5, 1)]] {
            let mut state = SubjectState::default();
            order.into_iter().for_each(|stop| state.merge_stop(stop));
            assert_eq!(
                state.live_stop(&Catalog::default(), P, C).unwrap().kind,
                StopKind::Withdrawn
            );
            assert_eq!(
                state.latest_stop(&Catalog::default(), P, C).unwrap().kind,
                StopKind::Revoked
            );
            // A grant between the two lifted the subject's own stop: this one is new.
            state.merge_grant(P, C, grant(Actor::Subject, 6, 3));
            assert_eq!(state.live_stop(&Catalog::default(), P, C).unwrap().kind, StopKind::Revoked);
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
            assert_eq!(state.latest_stop(&Catalog::default(), P, C).unwrap().scope, latest);
            assert_eq!(
                state.latest_stop_over(&Catalog::default(), EVERYTHING).unwrap().scope,
                EVERYTHING
            );
        }
    }

    #[test]
    fn of_two_stops_of_one_act_the_narrower_is_named() {
        let mut state = SubjectState::default();
        for scope in [EVERYTHING, CELL, PURPOSE] {
            state.merge_stop(stop(scope, 5, 1));
        }
        assert_eq!(state.latest_stop(&Catalog::default(), P, C).unwrap().scope, CELL);
        assert_eq!(state.latest_stop(&Catalog::default(), P, ChannelId(0)).unwrap().scope, PURPOSE);
        assert_eq!(
            state.latest_stop(&Catalog::default(), PurposeId(0), C).unwrap().scope,
            EVERYTHING
        );
    }

    #[test]
    fn a_wide_stop_is_lifted_in_the_granted_cell_only() {
        let mut state = SubjectState::default();
        state.merge_stop(stop(EVERYTHING, 5, 1));
        state.merge_grant(P, C, grant(Actor::Import, 7, 2));
        assert!(state.live_stop(&Catalog::default(), P, C).is_some());
        state.merge_grant(P, C, grant(Actor::Guardian, 6, 3));
        assert!(state.live_stop(&Catalog::default(), P, C).is_none());
        assert!(state.live_stop(&Catalog::default(), P, ChannelId(0)).is_some());
        assert_eq!(state.cell(P, C).unwrap().lifted, Some(mark(6, 3)));
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
            assert_eq!(state.cell(P, C).unwrap().own.given.as_ref().unwrap().decided_by(), 7);
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
            let got: Vec<_> = state
                .cells_in(&Catalog::default(), scope)
                .map(|c| (c.purpose.0, c.channel.0))
                .collect();
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
