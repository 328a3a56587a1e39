//! What entries make of a ledger: the states of data subjects, the catalogue, the subscriptions.
//!
//! There is one fold, and everything that follows entries calls it: the writer with the entry that
//! it is about to write, the view when it catches up or is built anew, the replay of an auditor, and
//! questions about the past. It is pure: it knows no storage, clock or log, and no key. What a kind of
//! entry does, the kind says in its own file ([`crate::entry`]); here is what all kinds have in common,
//! and what several share.
//!
//! * [`Fold`]: the whole of it, entry by entry. The states of data subjects are many, so who folds
//!   keeps them, and hands in those that an entry is about.
//! * [`subject`]: an entry and one state; [`CatalogAt`] and [`Subscriptions`]: the other two parts.
//! * [`consent`]: how acts make states, and what becomes of each change.
//! * [`Linked`]: what linked data subjects contribute to each other.
//! * [`Answers`]: what is answered for the cells that an entry touches.
//! * [`Replay`]: a ledger folded from its beginning, with what in it is not true.

mod catalog;
pub mod consent;
mod lead;
mod linked;
mod replay;
mod subscriptions;
mod touched;

use std::sync::Arc;

pub use catalog::CatalogAt;
pub(crate) use lead::due;
pub use lead::{Due, Lead, UseCell};
pub use linked::{LINKED_SUBJECTS_MAX, Linked, around, reach, unite};
pub use replay::{Judged, Replay, Untrue};
use smallvec::SmallVec;
pub use subscriptions::Subscriptions;
use thiserror::Error;
pub use touched::{Answers, CellDecision};

use crate::{
    domain::{Catalog, SubjectRef, SubjectState, SubscriptionId, UnknownKey},
    entry::{Fact, Target},
    event::CatalogTold,
};

/// Why an entry can not be folded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FoldError {
    /// It names what no catalogue entry before it put.
    #[error("ledger entry {index}: {problem}")]
    UnknownKey {
        /// Index of the entry.
        index: u64,
        /// The key.
        problem: UnknownKey,
    },
    /// It names a subscription, or a shard of one, that no entry before it created.
    #[error("ledger entry {index} names subscription {}, which no entry created so", id.0)]
    UnknownSubscription {
        /// Index of the entry.
        index: u64,
        /// The subscription.
        id: SubscriptionId,
    },
}

/// What entries made of a ledger, without the states of its data subjects.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    /// The catalogue.
    pub catalog: Arc<CatalogAt>,
    /// The durable subscriptions.
    pub subscriptions: Arc<Subscriptions>,
}

/// The states that an entry leaves its data subjects in.
pub type States = SmallVec<[(SubjectRef, Arc<SubjectState>); 1]>;

/// What an entry leaves behind.
#[derive(Debug)]
pub enum After {
    /// The states of data subjects.
    Subjects(States),
    /// The catalogue.
    Catalog {
        /// As it is then.
        catalog: Arc<CatalogAt>,
        /// What watchers hear of the change; none if no answer can change.
        told: Option<CatalogTold>,
    },
    /// The subscriptions.
    Subscriptions {
        /// As they are then.
        subscriptions: Arc<Subscriptions>,
        /// What now leads where.
        leads: Vec<Lead>,
    },
    /// All as it was.
    Nothing,
}

/// What an entry does, as it is on record: what it leaves behind, and what leads to it.
#[derive(Debug)]
pub struct Effect {
    /// What it leaves behind.
    pub after: After,
    /// What leads to it, besides the data subjects whose states it is part of.
    pub leads: Vec<Lead>,
}

impl Fold {
    /// Folds in an entry that is on record.
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

    /// Folds in an entry, on record or about to be. `state_of` gives the state of a data subject
    /// before it; nothing of what the entry says of outcomes is looked at, so that they can be judged
    /// by what it leaves behind.
    ///
    /// # Errors
    /// Those of `state_of`, and [`FoldError`]; then everything is as it was.
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
                let told = Arc::make_mut(&mut self.catalog).fold(fact);
                After::Catalog { catalog: Arc::clone(&self.catalog), told }
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
    /// With what leads to the entry, as it is on record.
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

/// Folds what an entry says of one of its data subjects into that one's state. Entries that act on no
/// state change nothing.
///
/// # Errors
/// [`FoldError::UnknownKey`]: it names what the catalogue lacks; the state is unchanged then.
pub fn subject(
    catalog: &Catalog,
    state: &mut SubjectState,
    name: SubjectRef,
    fact: Fact<'_>,
) -> Result<(), FoldError> {
    let Target::Subjects(target) = fact.kind.target() else { return Ok(()) };
    let index = fact.place.index;
    target
        .fold(fact.place, catalog, name, state)
        .map_err(|problem| FoldError::UnknownKey { index, problem })?;
    state.revision = state.revision.max(index.saturating_add(1));
    Ok(())
}
