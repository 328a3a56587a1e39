//! The purposes, channels and subscriptions that entries name. A server refuses a ledger with an entry
//! that names one which no entry before it made, so it is damage.

use std::sync::Arc;

use crate::{
    domain::{ScopeKeys, UnknownKey},
    entry::Fact,
    fold::{Fold, FoldError},
};

/// The catalogue and the subscriptions so far. The states of data subjects are not kept: what an entry
/// may name does not depend on them.
#[derive(Debug, Default)]
pub struct Names(Fold);

impl Names {
    /// Takes the next entry.
    ///
    /// # Errors
    /// It names what no entry before it made.
    pub fn take(&mut self, fact: Fact<'_>) -> Result<(), FoldError> {
        self.0.apply(fact, |_| Ok::<_, FoldError>(Arc::default())).map(drop)
    }

    /// Checks a scope of the entry at `index`: all entries before it were taken.
    ///
    /// # Errors
    /// The first key that no entry before it put.
    pub fn check(&self, index: u64, scope: &ScopeKeys) -> Result<(), FoldError> {
        let catalog = &self.0.catalog.catalog;
        let known = catalog.resolve(scope).map(drop);
        known.map_err(|problem: UnknownKey| FoldError::UnknownKey { index, problem })
    }
}
