//! The catalogue at one revision.

use crate::{
    domain::Catalog,
    entry::{Fact, Target},
    event::CatalogDetail,
};

/// The catalogue at one revision.
#[derive(Debug, Clone, Default)]
pub struct CatalogAt {
    /// The catalogue.
    pub catalog: Catalog,
    /// One more than the index of the last catalogue entry.
    pub revision: u64,
}

impl CatalogAt {
    /// Folds in an entry, if it is about the catalogue. Returns the change for watchers; none if no
    /// decision can change.
    pub fn fold(&mut self, fact: Fact<'_>) -> Option<CatalogDetail> {
        let Target::Catalog(target) = fact.kind.target() else { return None };
        let change = target.fold(fact.place, &mut self.catalog);
        self.revision = fact.place.index + 1;
        change.filter(|change| !change.effects.is_empty())
    }
}
