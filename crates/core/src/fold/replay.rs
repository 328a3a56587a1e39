//! The ledger folded from its beginning, from its entries alone.
//!
//! A replay keeps the catalogue and the state of every data subject in memory. It uses no index and
//! no keys. For every entry it gives the decisions of the cells that it touches, and the claims of
//! the entry that do not follow from the entries before it. Each kind of entry checks its own
//! claims, with the help of a [`Judged`].
//!
//! It trusts the entries and their order; chain and tree verify those.

use std::{convert::Infallible, mem::size_of, sync::Arc};

use hashbrown::HashMap;

use super::{Acted, After, Answers, Fold, FoldError, Linked, corrected, reach, unite};
use crate::{
    domain::{
        Actor, Catalog, ChangeRecord, Mark, Millis, Outcome, Reason, SubjectRef, SubjectState,
        UnknownKey,
    },
    entry::{ConsentAct, ConsentConfirmed, Entry, Place, Subjects, Target},
};

/// The fold of the first entries of a ledger.
#[derive(Debug, Default)]
pub struct Replay {
    fold: Fold,
    states: States,
    requests: Requests,
    size: u64,
}

type States = HashMap<SubjectRef, Arc<SubjectState>>;

/// The acts whose offered confirmation was not used yet.
type Requests = HashMap<u64, Request>;

/// The fields of an act that its confirmation must repeat.
#[derive(Debug)]
struct Request {
    subject: SubjectRef,
    actor: Actor,
    effective_at: Millis,
    authority_ends_at: Option<Millis>,
    recorded_at: Millis,
    offered_until: Millis,
    grants: Vec<ChangeRecord>,
}

/// A claim of an entry that does not follow from the entries before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrue {
    /// The outcome of a change is wrong.
    Outcome {
        /// The change, from 0.
        position: usize,
        /// The outcome in the entry.
        stored: Outcome,
        /// The correct value.
        recomputed: Outcome,
    },
    /// A change applied to another number of linked data subjects.
    LinkedSubjects {
        /// The change, from 0.
        position: usize,
        /// The number in the entry.
        stored: u32,
        /// The correct value.
        recomputed: u32,
    },
    /// It claims to have taken effect too late.
    EffectiveAt {
        /// The latest moment that it can have taken effect at.
        latest: Millis,
    },
    /// A grant did not end then, or did not decide its cell.
    Expiry {
        /// The change, from 0.
        position: usize,
    },
    /// The reason of an expiry is wrong.
    ExpiryReason {
        /// The correct value.
        recomputed: Reason,
    },
    /// No act offers this confirmation, the offer was used or has ended, or the confirmation
    /// differs from the act.
    Confirmation,
}

impl Replay {
    /// The number of entries that were folded.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The catalogue after them.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.fold.catalog.catalog
    }

    /// The number of data subjects that they are about.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.states.len()
    }

    /// About how many bytes of memory the states take, including their table.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let slot = size_of::<(SubjectRef, Arc<SubjectState>)>() + 1;
        // Two reference counts come before a state.
        let counts = 2 * size_of::<usize>();
        let states = self.states.values().map(|state| counts + state.memory_bytes());
        self.states.capacity() * slot + states.sum::<usize>()
    }

    /// Folds in the next entry, and returns its claims that are not true.
    ///
    /// # Errors
    /// It names a key or subscription that no entry before it put or created.
    pub fn apply(&mut self, entry: &Entry) -> Result<Vec<Untrue>, FoldError> {
        self.apply_judging(entry, |_| true)
    }

    /// As [`Self::apply`], and returns the claims about some of its data subjects alone.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_judging(
        &mut self,
        entry: &Entry,
        is_judged: impl Fn(SubjectRef) -> bool,
    ) -> Result<Vec<Untrue>, FoldError> {
        let (fact, index) = (entry.fact(), entry.index);
        let target = fact.kind.target();
        let subjects = match target {
            Target::Subjects(target) => target.named(),
            Target::Catalog(_) | Target::Subscriptions(_) | Target::Nothing => Subjects::new(),
        };
        let catalog = &self.fold.catalog.catalog;
        let before = |subject: &SubjectRef| state(&self.states, catalog, *subject);
        let before: Vec<Arc<SubjectState>> = subjects.iter().map(before).collect();
        let stored = |subject| self.states.get(&subject).cloned().unwrap_or_default();
        let after = self.fold.apply(fact, |subject| Ok::<_, FoldError>(stored(subject)))?;
        if let After::Subjects(states) = after {
            self.states.extend(states);
        }
        self.size = index + 1;
        let Target::Subjects(target) = target else { return Ok(Vec::new()) };
        let catalog = &self.fold.catalog.catalog;
        let mut untrue = Vec::new();
        for (subject, before) in subjects.into_iter().zip(before) {
            let mut judged = Judged {
                place: fact.place,
                subject,
                catalog,
                // Where the links of the subject stay as they were, so do the states of all others.
                linked: linked(&self.states, catalog, subject, &before),
                before,
                after: state(&self.states, catalog, subject),
                requests: &mut self.requests,
            };
            // Asked in any case: it remembers what a confirmation takes up.
            let found = target.untrue(&mut judged);
            let found = found.map_err(|problem| FoldError::UnknownKey { index, problem })?;
            untrue.extend(found.into_iter().filter(|_| is_judged(subject)));
        }
        Ok(untrue)
    }

    /// The data subjects that links connect with one, as of the last folded entry.
    #[must_use]
    pub fn connected(&self, subject: SubjectRef) -> Vec<SubjectRef> {
        let catalog = &self.fold.catalog.catalog;
        let alone = state(&self.states, catalog, subject);
        let linked = linked(&self.states, catalog, subject, &alone);
        linked.into_iter().map(|linked| linked.subject).collect()
    }

    /// The decisions for the cells that the last folded entry touches.
    ///
    /// # Errors
    /// [`FoldError::UnknownKey`]: it names a key that no entry before it put.
    pub fn answers(&self, entry: &Entry) -> Result<Answers, FoldError> {
        let catalog = &self.fold.catalog.catalog;
        Answers::of(entry.fact(), &self.fold.catalog, |subject| {
            let alone = state(&self.states, catalog, subject);
            Ok(whole(&alone, &linked(&self.states, catalog, subject, &alone)))
        })
    }
}

fn state(states: &States, catalog: &Catalog, subject: SubjectRef) -> Arc<SubjectState> {
    corrected(catalog, states.get(&subject).cloned().unwrap_or_default(), u64::MAX)
}

fn linked(
    states: &States,
    catalog: &Catalog,
    subject: SubjectRef,
    alone: &SubjectState,
) -> Vec<Linked> {
    let state_of = |other| Ok::<_, Infallible>(state(states, catalog, other));
    let Ok(linked) = reach(subject, alone, state_of);
    linked
}

fn whole(alone: &Arc<SubjectState>, linked: &[Linked]) -> Arc<SubjectState> {
    if linked.is_empty() { Arc::clone(alone) } else { Arc::new(unite(alone, linked)) }
}

/// The context in which a kind checks the claims of an entry.
#[derive(Debug)]
pub struct Judged<'a> {
    /// The place of the entry.
    pub place: Place,
    /// The data subject.
    subject: SubjectRef,
    /// The catalogue.
    pub catalog: &'a Catalog,
    /// The data subject's own state before and after the entry, and the data subjects linked to it.
    before: Arc<SubjectState>,
    after: Arc<SubjectState>,
    linked: Vec<Linked>,
    requests: &'a mut Requests,
}

impl Judged<'_> {
    /// The data subject.
    #[must_use]
    pub fn subject(&self) -> SubjectRef {
        self.subject
    }

    /// The state before the entry, with the contributions of linked data subjects.
    #[must_use]
    pub fn before(&self) -> Arc<SubjectState> {
        whole(&self.before, &self.linked)
    }

    /// The changes whose outcome in the entry is wrong.
    ///
    /// # Errors
    /// The first key that the catalogue lacks.
    pub fn outcomes(
        &self,
        mark: Mark,
        actor: Actor,
        is_confirmation: bool,
        changes: &[ChangeRecord],
    ) -> Result<Vec<Untrue>, UnknownKey> {
        let acted = Acted {
            catalog: self.catalog,
            subject: self.subject,
            before: &self.before,
            after: &self.after,
            linked: &self.linked,
            mark,
            actor,
            now: self.place.recorded_at,
            is_confirmation,
        };
        let mut judged = changes.to_vec();
        acted.outcomes(&mut judged)?;
        let pairs = changes.iter().zip(&judged).enumerate();
        let untrue = pairs.filter_map(|(position, (stored, judged))| {
            if stored.outcome != judged.outcome {
                let (stored, recomputed) = (stored.outcome, judged.outcome);
                return Some(Untrue::Outcome { position, stored, recomputed });
            }
            let (stored, recomputed) = (stored.linked_subjects, judged.linked_subjects);
            (stored != recomputed).then_some(Untrue::LinkedSubjects {
                position,
                stored,
                recomputed,
            })
        });
        Ok(untrue.collect())
    }

    /// The latest moment at which an act can take effect: that of its record or, where it would tie
    /// with something that is known, of linked data subjects too, and lose, just after that.
    #[must_use]
    pub fn latest_effect(&self) -> Millis {
        let linked = self.linked.iter().map(|linked| &*linked.state);
        let states = std::iter::once(&*self.before).chain(linked);
        let after = states.filter_map(|state| state.first_moment_after(true, true));
        after.fold(self.place.recorded_at, Millis::max)
    }

    /// Remembers the confirmation that an act offers, if it offers one.
    pub fn remember_request(&mut self, act: &ConsentAct) {
        let Some(offer) = act.confirmation else { return };
        let waits = |change: &&ChangeRecord| change.outcome == Outcome::PendingConfirmation;
        let request = Request {
            subject: act.subject_ref,
            actor: act.actor,
            effective_at: act.effective_at,
            authority_ends_at: act.authority_ends_at,
            recorded_at: self.place.recorded_at,
            offered_until: offer.expires_at,
            grants: act.changes.iter().filter(waits).cloned().collect(),
        };
        self.requests.insert(self.place.index, request);
    }

    /// Whether an act offered this confirmation, and the confirmation repeats the act.
    pub fn takes_up_request(&mut self, confirmed: &ConsentConfirmed) -> bool {
        let index = confirmed.request_index;
        let Some(request) = self.requests.remove(&index) else { return false };
        let Request { recorded_at, offered_until, .. } = request;
        let offered_until = self.catalog.end_of_span(index, recorded_at, offered_until);
        let is_same = |(confirmed, asked): (&ChangeRecord, &ChangeRecord)| {
            let linked_subjects = confirmed.linked_subjects;
            let outcome = confirmed.outcome;
            *confirmed == ChangeRecord { outcome, linked_subjects, ..asked.clone() }
        };
        request.subject == confirmed.subject_ref
            && request.actor == confirmed.requested_by
            && request.effective_at == confirmed.requested_at
            && request.authority_ends_at == confirmed.authority_ends_at
            && offered_until > self.place.recorded_at
            && request.grants.len() == confirmed.grants.len()
            && confirmed.grants.iter().zip(&request.grants).all(is_same)
    }
}
