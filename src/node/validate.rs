//! What a change of the catalogue would come to, without the change (Google AIP-163): the same rules as
//! those of the writer, on the current catalogue.

use super::{
    CatalogError, NamespaceDraft, NamespaceUse, Node, PartyDraft, PurposeDraft, Put, WriteError,
    batch::purpose_put, parties::party_put,
};
use crate::{
    domain::{Channel, ChannelPut, Namespace, Party, Purpose},
    entry::{Fact, Kind, Place},
    fold::CatalogAt,
};

impl Node {
    /// What [`Self::put_purpose`] would answer.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn validate_purpose(&self, draft: PurposeDraft) -> Result<Put<Purpose>, CatalogError> {
        let (before, revision) = (self.catalog(), self.revision());
        let key = draft.key.clone();
        let put = purpose_put(&before.catalog, draft)?;
        let after = &self.after(&before, put.as_ref().map(|put| put as &dyn Kind)).catalog;
        let value = after.purpose_id(key.as_str()).and_then(|id| after.purpose(id)).cloned();
        let value = value.ok_or_else(|| WriteError::StateUnreadable(format!("purpose {key}")))?;
        Ok(Put { value, revision, changed: put.is_some() })
    }

    /// What [`Self::put_party`] would answer.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn validate_party(&self, draft: PartyDraft) -> Result<Put<Party>, CatalogError> {
        let (before, revision) = (self.catalog(), self.revision());
        let key = draft.key.clone();
        let put = party_put(&before.catalog, draft)?;
        let after = self.after(&before, put.as_ref().map(|put| put as &dyn Kind));
        let value = after.catalog.party(key.as_str()).cloned();
        let value = value.ok_or_else(|| WriteError::StateUnreadable(format!("party {key}")))?;
        Ok(Put { value, revision, changed: put.is_some() })
    }

    /// The catalogue after an entry that is not written.
    fn after(&self, before: &CatalogAt, put: Option<&dyn Kind>) -> CatalogAt {
        let mut after = before.clone();
        if let Some(kind) = put {
            let place = Place { index: before.revision, recorded_at: self.core.question_time() };
            after.fold(Fact { place, kind });
        }
        after
    }

    /// What [`Self::put_channel`] would answer.
    #[must_use]
    pub fn validate_channel(&self, put: ChannelPut) -> Put<Channel> {
        let (current, revision) = (self.catalog(), self.revision());
        let catalog = &current.catalog;
        let existing = catalog.channel_id(put.key.as_str()).and_then(|id| catalog.channel(id));
        let value = Channel::from(put);
        Put { changed: existing != Some(&value), value, revision }
    }

    /// What [`Self::put_namespace`] would answer.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn validate_namespace(
        &self,
        draft: NamespaceDraft,
        known_use: NamespaceUse,
    ) -> Result<Put<Namespace>, CatalogError> {
        let (current, revision) = (self.catalog(), self.revision());
        let existing = current.catalog.namespace(draft.key.as_str());
        draft.check_use(existing, || Ok(known_use.is_used))?;
        let value = Namespace::from(draft);
        Ok(Put { changed: existing != Some(&value), value, revision })
    }
}
