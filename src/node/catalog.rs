//! The catalogue: read as it is, and changed by purposes and channels that are put.

use std::sync::Arc;

use super::{CatalogError, Node};
use crate::{
    domain::{Channel, ChannelPut, Key, Purpose, PurposeVersion},
    fold::CatalogAt,
};

/// A catalogue change, after the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put<T> {
    /// The purpose or channel as it is.
    pub value: T,
    /// First revision at which it is so.
    pub revision: u64,
    /// Whether an entry was written.
    pub changed: bool,
}

/// A purpose as a caller wants it to be. The version is the ledger's to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposeDraft {
    /// Key.
    pub key: Key,
    /// What its current version should say.
    pub content: PurposeVersion,
    /// The oldest version whose grants still count; none means unchanged, or 1 for a new purpose.
    pub oldest_compatible: Option<u32>,
    /// Whether only grants of the version that this creates, or finds, still count.
    pub requires_reconsent: bool,
    /// Whether it is retired.
    pub retired: bool,
}

impl Node {
    /// The catalogue as it is now.
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
