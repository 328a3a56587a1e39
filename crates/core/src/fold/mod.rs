//! The fold of entries into the states of data subjects, the catalogue and the subscriptions.
//!
//! There is one fold, and everything that follows entries calls it: the writer with the entry that
//! it is about to write, the view when it catches up or is rebuilt, the replay of an auditor, and
//! questions about the past. It is pure: it knows no storage, clock or log, and no key. The effect
//! of each kind of entry is in the kind's own file ([`crate::entry`]); this module holds what kinds
//! share.
//!
//! * [`Fold`]: all three, entry by entry. The states of data subjects are many, so the caller keeps
//!   them and passes in those that an entry names.
//! * [`corrected`]: a state with the corrections of the clock that it has not taken over yet.
//! * [`subject`]: an entry and one state; [`CatalogAt`] and [`Subscriptions`]: the other two parts.
//! * [`consent`]: acts folded into states, and the outcome of each change.
//! * [`Linked`]: the contributions of linked data subjects to each other.
//! * [`Acted`]: the outcomes of an act, over all data subjects that links connect.
//! * [`Answers`]: the decisions for the cells that an entry touches.
//! * [`Replay`]: a ledger folded from its beginning, with the claims in it that are not true.

mod catalog;
pub mod consent;
mod lead;
mod linked;
mod outcomes;
mod replay;
mod subscriptions;
mod touched;

use std::sync::Arc;

pub use catalog::CatalogAt;
pub(crate) use lead::due;
pub use lead::{Due, Lead, UseCell};
pub use linked::{LINKED_SUBJECTS_MAX, Linked, around, reach, unite};
pub use outcomes::Acted;
pub use replay::{Judged, Replay, Untrue};
use smallvec::SmallVec;
pub use subscriptions::Subscriptions;
use thiserror::Error;
pub use touched::{Answers, CellDecision};

use crate::{
    domain::{Catalog, ClockCorrection, SubjectRef, SubjectState, SubscriptionId, UnknownKey},
    entry::{Fact, Target},
    event::CatalogDetail,
};

/// Why an entry can not be folded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FoldError {
    /// It names a purpose or channel that no entry before it put.
    #[error("ledger entry {index}: {problem}")]
    UnknownKey {
        /// Index of the entry.
        index: u64,
        /// The key.
        problem: UnknownKey,
    },
    /// It names a subscription, or a shard of one, that no entry before it created.
    #[error("ledger entry {index} names unknown subscription {}, or an unknown shard of it", id.0)]
    UnknownSubscription {
        /// Index of the entry.
        index: u64,
        /// The subscription.
        id: SubscriptionId,
    },
}

/// The folded ledger, without the states of its data subjects.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    /// The catalogue.
    pub catalog: Arc<CatalogAt>,
    /// The durable subscriptions.
    pub subscriptions: Arc<Subscriptions>,
}

/// The states of an entry's data subjects after it.
pub type States = SmallVec<[(SubjectRef, Arc<SubjectState>); 1]>;

/// The state after an entry.
#[derive(Debug)]
pub enum After {
    /// The states of data subjects.
    Subjects(States),
    /// The catalogue.
    Catalog {
        /// The catalogue after the entry.
        catalog: Arc<CatalogAt>,
        /// The change for watchers; none if no decision can change.
        detail: Option<CatalogDetail>,
    },
    /// The subscriptions.
    Subscriptions {
        /// The subscriptions after the entry.
        subscriptions: Arc<Subscriptions>,
        /// The leads to update.
        leads: Vec<Lead>,
    },
    /// Nothing changed.
    Nothing,
}

/// The effect of a recorded entry: the state after it, and the leads to it.
#[derive(Debug)]
pub struct Effect {
    /// The state after it.
    pub after: After,
    /// The leads to it, besides the data subjects whose states it changes.
    pub leads: Vec<Lead>,
}

impl Fold {
    /// Folds in a recorded entry.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn effect<E: From<FoldError>>(
        &mut self,
        fact: Fact<'_>,
        state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
    ) -> Result<Effect, E> {
        Ok(self.apply(fact, state_of)?.into_effect(fact))
    }

    /// Folds in an entry that is recorded, or about to be. `state_of` gives the state of a data
    /// subject before it. Outcomes in the entry are ignored, so that they can be computed from the
    /// result.
    ///
    /// # Errors
    /// Those of `state_of`, and [`FoldError`]; nothing has changed then.
    pub fn apply<E: From<FoldError>>(
        &mut self,
        fact: Fact<'_>,
        mut state_of: impl FnMut(SubjectRef) -> Result<Arc<SubjectState>, E>,
    ) -> Result<After, E> {
        Ok(match fact.kind.target() {
            Target::Subjects(target) => {
                let mut states = States::new();
                for name in target.named() {
                    let mut state = state_of(name)?;
                    subject(&self.catalog.catalog, Arc::make_mut(&mut state), name, fact)?;
                    states.push((name, state));
                }
                After::Subjects(states)
            }
            Target::Catalog(_) => {
                let detail = Arc::make_mut(&mut self.catalog).fold(fact);
                After::Catalog { catalog: Arc::clone(&self.catalog), detail }
            }
            Target::Subscriptions(_) => {
                let leads = Arc::make_mut(&mut self.subscriptions).fold(fact)?;
                After::Subscriptions { subscriptions: Arc::clone(&self.subscriptions), leads }
            }
            Target::Nothing => After::Nothing,
        })
    }
}

impl After {
    /// Adds the leads to the entry, once it is recorded.
    #[must_use]
    pub fn into_effect(mut self, fact: Fact<'_>) -> Effect {
        let mut leads = fact.kind.leads(fact.place);
        if let Self::Subscriptions { leads: of_subscriptions, .. } = &mut self {
            leads.append(of_subscriptions);
        }
        Effect { after: self, leads }
    }

    /// The state that a data subject is left in, if it is one of those.
    #[must_use]
    pub fn state(&self, subject: SubjectRef) -> Option<&Arc<SubjectState>> {
        match self {
            Self::Subjects(states) => {
                states.iter().find(|(name, _)| *name == subject).map(|(_, state)| state)
            }
            Self::Catalog { .. } | Self::Subscriptions { .. } | Self::Nothing => None,
        }
    }
}

/// A state with the corrections of the clock that came after its last entry and before the entry at
/// `end`. States are corrected when they are read or folded next, not when the correction is recorded: it
/// may concern any number of data subjects.
#[must_use]
pub fn corrected(catalog: &Catalog, mut state: Arc<SubjectState>, end: u64) -> Arc<SubjectState> {
    if needs_correction(catalog, &state, end) {
        correct(catalog, Arc::make_mut(&mut state), end);
    }
    state
}

/// As [`corrected`], in place.
pub fn correct(catalog: &Catalog, state: &mut SubjectState, end: u64) {
    for correction in corrections_after(catalog, state.revision, end) {
        if state.is_changed_by(correction) {
            state.correct(correction, catalog);
        }
    }
}

fn needs_correction(catalog: &Catalog, state: &SubjectState, end: u64) -> bool {
    let mut corrections = corrections_after(catalog, state.revision, end);
    corrections.any(|correction| state.is_changed_by(correction))
}

/// The corrections of the clock that a state of this revision does not know, before the entry at `end`.
fn corrections_after(
    catalog: &Catalog,
    revision: u64,
    end: u64,
) -> impl Iterator<Item = &ClockCorrection> {
    let unknown = revision..end;
    let corrections = catalog.clock_corrections().iter();
    corrections.filter(move |correction| unknown.contains(&correction.index))
}

/// Folds an entry into the state of one of its data subjects, after the corrections of the clock that
/// came before it. Entries that act on no state change nothing.
///
/// # Errors
/// [`FoldError::UnknownKey`]: it names a key that the catalogue lacks; the entry is not folded then.
pub fn subject(
    catalog: &Catalog,
    state: &mut SubjectState,
    name: SubjectRef,
    fact: Fact<'_>,
) -> Result<(), FoldError> {
    let Target::Subjects(target) = fact.kind.target() else { return Ok(()) };
    let index = fact.place.index;
    correct(catalog, state, index);
    target
        .fold(fact.place, catalog, name, state)
        .map_err(|problem| FoldError::UnknownKey { index, problem })?;
    state.revision = state.revision.max(index.saturating_add(1));
    Ok(())
}
