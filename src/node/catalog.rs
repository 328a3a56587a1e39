//! Reading the catalogue, and putting purposes and channels into it.

use std::sync::Arc;

use super::{CatalogError, Node, WriteError};
use crate::{
    domain::{
        CANONICAL_FORM_VERSION, Channel, ChannelPut, Key, Namespace, NamespaceKind, Purpose,
        PurposeVersion,
    },
    fold::CatalogAt,
};

/// The answer to a change of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put<T> {
    /// The purpose or channel after the call.
    pub value: T,
    /// First revision that includes it.
    pub revision: u64,
    /// Whether an entry was written.
    pub changed: bool,
}

/// A purpose as a caller wants it to be. The ledger assigns the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposeDraft {
    /// Key.
    pub key: Key,
    /// Content of its current version.
    pub content: PurposeVersion,
    /// The oldest version whose grants stay valid; none means unchanged, or 1 for a new purpose.
    pub oldest_compatible: Option<u32>,
    /// Whether only grants of the resulting version stay valid.
    pub requires_reconsent: bool,
    /// Whether it is retired.
    pub retired: bool,
}

/// A namespace as a caller wants it to be. The program says which canonical form its persons have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceDraft {
    /// Key.
    pub key: Key,
    /// Title for people.
    pub title: String,
    /// What its ids are.
    pub kind: NamespaceKind,
}

impl NamespaceDraft {
    /// Refuses a change of how the ids of a namespace are read, if some are on record. `is_used` is asked
    /// only where it matters.
    ///
    /// # Errors
    /// [`CatalogError::NamespaceInUse`], or `is_used` failed.
    pub(super) fn check_use(
        &self,
        existing: Option<&Namespace>,
        is_used: impl FnOnce() -> Result<bool, WriteError>,
    ) -> Result<(), CatalogError> {
        match existing.and_then(|existing| existing.kind.differs_in(&self.kind)) {
            Some(field) if is_used()? => {
                Err(CatalogError::NamespaceInUse { key: self.key.clone(), field })
            }
            _ => Ok(()),
        }
    }
}

impl From<NamespaceDraft> for Namespace {
    fn from(draft: NamespaceDraft) -> Self {
        let NamespaceDraft { key, title, kind } = draft;
        Self { key, title, kind, form_version: CANONICAL_FORM_VERSION }
    }
}

impl Node {
    /// The current catalogue.
    #[must_use]
    pub fn catalog(&self) -> Arc<CatalogAt> {
        self.core.view.catalog()
    }

    /// Adds a purpose or a new version of it; writes nothing if nothing differs.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn put_purpose(&self, draft: PurposeDraft) -> Result<Put<Purpose>, CatalogError> {
        self.write(|batch| batch.put_purpose(draft)).await
    }

    /// Adds or changes a channel; writes nothing if nothing differs.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn put_channel(&self, put: ChannelPut) -> Result<Put<Channel>, CatalogError> {
        self.write(|batch| batch.put_channel(put)).await
    }
}
