//! Parties of the catalogue: putting them there, and the rule that whatever a purpose names is a party with
//! the role that it is named for.

use super::{
    Node,
    batch::Batch,
    catalog::Put,
    error::{CatalogError, NamedParty, WriteError},
};
use crate::domain::{Body, Catalog, Key, Party, PartyPut, PartyRole, PartyVersion, PurposeVersion};

/// A party as a caller wants it to be. The ledger assigns the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartyDraft {
    /// Key.
    pub key: Key,
    /// Content of its current version.
    pub content: PartyVersion,
}

impl Node {
    /// Adds a party or a new version of it; writes nothing if nothing differs.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub async fn put_party(&self, draft: PartyDraft) -> Result<Put<Party>, CatalogError> {
        self.write(|batch| batch.put_party(draft)).await
    }
}

impl Batch<'_> {
    /// Adds a party or a new version of it, unless the catalogue has it already.
    ///
    /// # Errors
    /// [`CatalogError::PartyInUse`]: some purpose names it for a role that it would lose.
    fn put_party(&mut self, draft: PartyDraft) -> Result<Put<Party>, CatalogError> {
        let key = draft.key.clone();
        let put = party_put(self.catalog(), draft)?;
        let changed = put.is_some();
        if let Some(put) = put {
            self.write(self.recorded_second(), Body::PartyPut(put), &[])?;
        }
        let value = self.catalog().party(key.as_str()).cloned();
        let value = value.ok_or_else(|| WriteError::StateUnreadable(format!("party {key}")))?;
        let index = value.version_indices.last().copied().unwrap_or_default();
        Ok(Put { revision: index + 1, value, changed })
    }
}

/// What must be written so that the catalogue has a party; none if it has it.
///
/// # Errors
/// [`CatalogError::PartyInUse`]: some purpose names it for a role that it would lose.
pub(super) fn party_put(
    catalog: &Catalog,
    draft: PartyDraft,
) -> Result<Option<PartyPut>, CatalogError> {
    let PartyDraft { key, content } = draft;
    let existing = catalog.party(key.as_str());
    if existing.is_some_and(|existing| *existing.current() == content) {
        return Ok(None);
    }
    check_roles_in_use(catalog, &key, &content)?;
    let version = existing.map_or(1, |existing| existing.version().saturating_add(1));
    Ok(Some(PartyPut { key, version, content }))
}

/// Whether a party keeps every role that the current version of some purpose names it for.
fn check_roles_in_use(
    catalog: &Catalog,
    party: &Key,
    content: &PartyVersion,
) -> Result<(), CatalogError> {
    for (_, purpose) in catalog.purposes() {
        for (role, named, _) in parties_named(purpose.current()) {
            if named == party && !content.roles.contains(&role) {
                let purpose = purpose.key.clone();
                return Err(CatalogError::PartyInUse { key: party.clone(), role, purpose });
            }
        }
    }
    Ok(())
}

/// Whether everything that a purpose names is a party of the catalogue, with the role that it is named for.
///
/// # Errors
/// The first that is not.
pub fn check_parties(catalog: &Catalog, content: &PurposeVersion) -> Result<(), CatalogError> {
    for (role, key, at) in parties_named(content) {
        let Some(party) = catalog.party(key.as_str()) else {
            return Err(CatalogError::UnknownParty { key: key.clone(), at });
        };
        if !party.current().roles.contains(&role) {
            return Err(CatalogError::PartyWithoutRole { key: key.clone(), role, at });
        }
    }
    Ok(())
}

/// The parties that a purpose names, for which role, and where.
pub fn parties_named(
    content: &PurposeVersion,
) -> impl Iterator<Item = (PartyRole, &Key, NamedParty)> {
    let controller = content.controller.iter();
    let controller = controller.map(|key| (PartyRole::Controller, key, NamedParty::Controller));
    let recipients = content.recipients.iter().flatten().enumerate();
    let recipients = recipients
        .map(|(position, key)| (PartyRole::Recipient, key, NamedParty::Recipient(position)));
    controller.chain(recipients)
}
