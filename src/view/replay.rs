//! The ledger folded from its beginning by somebody who holds nothing but its entries.
//!
//! A replay keeps the catalogue and the state of every data subject in memory, uses no index and no
//! keys, and gives for every entry what must be answered for the cells that it touches. It also
//! says where an entry's own words are not what the entries before it make of them.
//!
//! It trusts the order of the entries that it is given; whether they are the ledger's is for the
//! chain and the tree to say.

use std::{mem::size_of, sync::Arc};

use hashbrown::HashMap;

use super::{Answers, CatalogAt, Linked, ViewError, fold, reach, subjects_of, unite};
use crate::{
    decide::Standing,
    domain::{
        Action, Actor, Body, ChangeRecord, ConsentAct, ConsentConfirmed, Entry, GrantExpired, Mark,
        Millis, Outcome, Reason, Scope, SubjectRef, SubjectState,
    },
};

/// The fold of the first entries of a ledger.
#[derive(Debug, Default)]
pub struct Replay {
    catalog: Arc<CatalogAt>,
    states: HashMap<SubjectRef, Arc<SubjectState>>,
    /// The acts with an offer to confirm that nobody has taken up yet.
    requests: HashMap<u64, Request>,
    size: u64,
}

/// What a confirmation must repeat of the act that it confirms.
#[derive(Debug)]
struct Request {
    subject: SubjectRef,
    actor: Actor,
    effective_at: Millis,
    authority_ends_at: Option<Millis>,
    offered_until: Millis,
    grants: Vec<ChangeRecord>,
}

/// Something that an entry says and that does not follow from the entries before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrue {
    /// What became of a change is something else.
    Outcome {
        /// The change, from 0.
        position: usize,
        /// What the entry says.
        stored: Outcome,
        /// What follows.
        recomputed: Outcome,
    },
    /// It took effect later than it can have.
    EffectiveAt {
        /// The latest moment that it can have taken effect at.
        latest: Millis,
    },
    /// A grant is said to have ended that did not end then, or did not decide its cell.
    Expiry {
        /// The change, from 0.
        position: usize,
    },
    /// The reason of an expiry is another one.
    ExpiryReason {
        /// What follows.
        recomputed: Reason,
    },
    /// It confirms what no act offered to confirm, what was confirmed already, what was offered no
    /// longer, or repeats it wrongly.
    Confirmation,
}

impl Replay {
    /// The number of entries that were folded.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of data subjects that they are about.
    #[must_use]
    pub fn subjects(&self) -> usize {
        self.states.len()
    }

    /// About how many bytes of memory the states take, with the table that they stand in.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let slot = size_of::<(SubjectRef, Arc<SubjectState>)>() + 1;
        // Two reference counts stand before a state.
        let counts = 2 * size_of::<usize>();
        let states = self.states.values().map(|state| counts + state.memory_bytes());
        self.states.capacity() * slot + states.sum::<usize>()
    }

    /// Folds in the next entry, and answers what in it is not true.
    ///
    /// # Errors
    /// [`ViewError::UnknownKey`]: it names what no entry before it put.
    pub fn apply(&mut self, entry: &Entry) -> Result<Vec<Untrue>, ViewError> {
        let index = entry.index;
        let unknown = |problem| ViewError::UnknownKey { index, problem };
        Arc::make_mut(&mut self.catalog).put(index, &entry.body);
        let subjects = subjects_of(&entry.body);
        let before = subjects.first().map(|subject| (*subject, self.own(*subject)));
        for subject in subjects {
            let state = Arc::make_mut(self.states.entry(subject).or_default());
            let catalog = &self.catalog.catalog;
            fold::fold_entry(catalog, state, subject, index, &entry.body).map_err(unknown)?;
        }
        self.size = index + 1;
        match before {
            Some((subject, before)) => self.untrue(entry, subject, &before),
            None => Ok(Vec::new()),
        }
    }

    /// What must be answered for the cells that the entry touches which was folded last.
    ///
    /// # Errors
    /// [`ViewError::UnknownKey`]: it names what no entry before it put.
    pub fn answers(&self, entry: &Entry) -> Result<Answers, ViewError> {
        Answers::of(entry, &self.catalog, |subject| {
            let own = self.own(subject);
            Ok(Self::whole(&own, &self.linked(subject, &own)))
        })
    }

    fn own(&self, subject: SubjectRef) -> Arc<SubjectState> {
        self.states.get(&subject).cloned().unwrap_or_default()
    }

    fn linked(&self, subject: SubjectRef, own: &SubjectState) -> Vec<Linked> {
        let own_of = |other| Ok::<_, std::convert::Infallible>(self.own(other));
        let Ok(linked) = reach(subject, own, own_of);
        linked
    }

    fn whole(own: &Arc<SubjectState>, linked: &[Linked]) -> Arc<SubjectState> {
        if linked.is_empty() { Arc::clone(own) } else { Arc::new(unite(own, linked)) }
    }

    /// What of an entry's words does not follow. `before` is the state that its subject had.
    fn untrue(
        &mut self,
        entry: &Entry,
        subject: SubjectRef,
        before: &Arc<SubjectState>,
    ) -> Result<Vec<Untrue>, ViewError> {
        // Neither an act nor its end changes who is linked, and nobody else's state.
        let linked = self.linked(subject, before);
        let whole_before = Self::whole(before, &linked);
        match &entry.body {
            Body::Act(act) => {
                self.remember_request(entry.index, act);
                let mark = Mark { effective_at: act.effective_at, index: entry.index };
                let after = Self::whole(&self.own(subject), &linked);
                let states = (&*whole_before, &*after);
                let mut untrue =
                    self.untrue_outcomes(entry, states, mark, act.actor, &act.changes)?;
                let latest = latest_effect(entry.recorded_at, before, &linked);
                let is_late = act.effective_at > latest;
                untrue.extend(is_late.then_some(Untrue::EffectiveAt { latest }));
                Ok(untrue)
            }
            Body::Confirmed(confirmed) => {
                let is_good = self.takes_up_request(entry.recorded_at, confirmed);
                let mark =
                    Mark { effective_at: confirmed.requested_at, index: confirmed.request_index };
                let after = Self::whole(&self.own(subject), &linked);
                let states = (&*whole_before, &*after);
                let (actor, grants) = (confirmed.requested_by, &confirmed.grants);
                let mut untrue = self.untrue_outcomes(entry, states, mark, actor, grants)?;
                untrue.extend((!is_good).then_some(Untrue::Confirmation));
                Ok(untrue)
            }
            Body::Expired(expired) => {
                Ok(self.untrue_expiry(entry.recorded_at, &whole_before, expired))
            }
            Body::Link(_)
            | Body::Use(_)
            | Body::Opened(_)
            | Body::PurposePut(_)
            | Body::ChannelPut(_)
            | Body::Subscription(_) => Ok(Vec::new()),
        }
    }

    fn untrue_outcomes(
        &self,
        entry: &Entry,
        (before, after): (&SubjectState, &SubjectState),
        mark: Mark,
        actor: Actor,
        changes: &[ChangeRecord],
    ) -> Result<Vec<Untrue>, ViewError> {
        let index = entry.index;
        let judge = fold::Judge {
            catalog: &self.catalog.catalog,
            before,
            after,
            mark,
            actor,
            now: entry.recorded_at,
            is_confirmation: matches!(entry.body, Body::Confirmed(_)),
        };
        let mut judged = changes.to_vec();
        judge.outcomes(&mut judged).map_err(|problem| ViewError::UnknownKey { index, problem })?;
        let pairs = changes.iter().zip(&judged).enumerate();
        let untrue = pairs.filter(|(_, (stored, judged))| stored.outcome != judged.outcome);
        Ok(untrue
            .map(|(position, (stored, judged))| Untrue::Outcome {
                position,
                stored: stored.outcome,
                recomputed: judged.outcome,
            })
            .collect())
    }

    fn remember_request(&mut self, index: u64, act: &ConsentAct) {
        let Some(offer) = act.confirmation else { return };
        let waits = |change: &&ChangeRecord| change.outcome == Outcome::PendingConfirmation;
        let request = Request {
            subject: act.subject_ref,
            actor: act.actor,
            effective_at: act.effective_at,
            authority_ends_at: act.authority_ends_at,
            offered_until: offer.expires_at,
            grants: act.changes.iter().filter(waits).cloned().collect(),
        };
        self.requests.insert(index, request);
    }

    /// Whether a confirmation is of an act that offered it, and repeats what the act says.
    fn takes_up_request(&mut self, recorded_at: Millis, confirmed: &ConsentConfirmed) -> bool {
        let Some(request) = self.requests.remove(&confirmed.request_index) else { return false };
        let is_same = |(own, asked): (&ChangeRecord, &ChangeRecord)| {
            *own == ChangeRecord { outcome: own.outcome, ..asked.clone() }
        };
        request.subject == confirmed.subject_ref
            && request.actor == confirmed.requested_by
            && request.effective_at == confirmed.requested_at
            && request.authority_ends_at == confirmed.authority_ends_at
            && request.offered_until > recorded_at
            && request.grants.len() == confirmed.grants.len()
            && confirmed.grants.iter().zip(&request.grants).all(is_same)
    }

    /// What is not true of the end of grants. That an end was not written down at all is not seen
    /// here, and needs not be: decisions do not wait for it.
    fn untrue_expiry(
        &self,
        recorded_at: Millis,
        whole: &SubjectState,
        expired: &GrantExpired,
    ) -> Vec<Untrue> {
        let has_ended = |change: &ChangeRecord| {
            expired.expired_at <= recorded_at && self.ended(whole, expired, change).is_some()
        };
        let changes = expired.changes.iter().enumerate();
        let mut untrue: Vec<_> = changes
            .filter(|(_, change)| !has_ended(change))
            .map(|(position, _)| Untrue::Expiry { position })
            .collect();
        let by_authority =
            expired.changes.iter().all(|change| change.expires_at != Some(expired.expired_at));
        let reason = if by_authority { Reason::ReconsentRequired } else { Reason::Expired };
        if untrue.is_empty() && reason != expired.reason {
            untrue.push(Untrue::ExpiryReason { recomputed: reason });
        }
        untrue
    }

    /// The grant that decided the cell of a change until just before it ended, if that is the one.
    fn ended(
        &self,
        whole: &SubjectState,
        expired: &GrantExpired,
        change: &ChangeRecord,
    ) -> Option<()> {
        let catalog = &self.catalog.catalog;
        let (purpose_id, channel_id) =
            catalog.resolve(&change.scope).ok().and_then(Scope::as_cell)?;
        let purpose = catalog.purpose(purpose_id)?;
        let before = expired.expired_at.plus_ms(-1);
        let standing = Standing::of(whole, purpose, purpose_id, channel_id, before);
        let Standing::Given(grant) = standing else { return None };
        let is_it = grant.mark.index == expired.grant_index
            && grant.ends_at() == Some(expired.expired_at)
            && change.action == Action::Expire
            && change.outcome == Outcome::Applied
            && change.expires_at == grant.expires_at
            && change.purpose_version == grant.purpose_version;
        is_it.then_some(())
    }
}

/// The latest moment at which an act can take effect: that of its record or, where it would tie with
/// something that is known, of linked data subjects too, and lose, just after that.
fn latest_effect(recorded_at: Millis, own: &SubjectState, linked: &[Linked]) -> Millis {
    let states = std::iter::once(own).chain(linked.iter().map(|linked| &*linked.state));
    let after = states.filter_map(|state| state.first_moment_after(true));
    after.fold(recorded_at, Millis::max)
}
