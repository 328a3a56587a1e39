//! `PartyPut`: a party was added to the catalogue, or has a new version.

use super::{
    Content, EntryError, NamesNoSubject, OfCatalog, Place, Target,
    fields::{field, key, region},
};
use crate::{
    domain::{Catalog, Key, PartyRole, PartyVersion, Region},
    event::{CatalogDetail, EventOutline},
    format::entry::Body as ClearBody,
    proto::{self, ledger},
};

/// A catalogue entry for a party, as written to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartyPut {
    /// Key.
    pub key: Key,
    /// Version, from 1.
    pub version: u32,
    /// The content of the version.
    pub content: PartyVersion,
}

impl NamesNoSubject for PartyPut {
    fn content(&self) -> Content {
        let content = &self.content;
        Content::Clear(ClearBody::Party(ledger::PartyPut {
            key: self.key.to_string(),
            version: self.version,
            roles: roles_to_proto(&content.roles),
            name: content.name.clone(),
            contact: content.contact.clone(),
            address: content.address.clone(),
            email: content.email.clone(),
            phone: content.phone.clone(),
            url: content.url.clone(),
            privacy_policy_url: content.privacy_policy_url.clone(),
            jurisdictions: content.jurisdictions.iter().map(Region::to_string).collect(),
            sensitive_categories: sensitive_categories_to_proto(content),
        }))
    }

    fn target(&self) -> Target<'_> {
        Target::Catalog(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Catalog
    }
}

impl OfCatalog for PartyPut {
    /// No decision asks for a party, so no watcher is told: what purposes name is told with them.
    fn fold(&self, place: Place, catalog: &mut Catalog) -> Option<CatalogDetail> {
        catalog.put_party(place.index, self.clone());
        None
    }
}

/// Roles as messages have them.
#[must_use]
pub fn roles_to_proto(roles: &[PartyRole]) -> Vec<i32> {
    roles.iter().map(|role| proto::PartyRole::from(*role).into()).collect()
}

/// The sensitive categories of a party as a message.
#[must_use]
pub fn sensitive_categories_to_proto(content: &PartyVersion) -> Option<proto::SensitiveCategories> {
    let data_categories = content.sensitive_categories.clone()?;
    Some(proto::SensitiveCategories { data_categories })
}

impl TryFrom<&ledger::PartyPut> for PartyPut {
    type Error = EntryError;

    fn try_from(message: &ledger::PartyPut) -> Result<Self, EntryError> {
        let role = |number: &i32| proto::PartyRole::try_from(*number).ok()?.try_into().ok();
        let roles: Option<Vec<PartyRole>> = message.roles.iter().map(role).collect();
        let jurisdictions = message.jurisdictions.iter().map(|text| region(text));
        let sensitive = message.sensitive_categories.clone();
        Ok(Self {
            key: key("party_put.key", &message.key)?,
            version: message.version,
            content: PartyVersion {
                roles: roles.ok_or(field("party_put.roles"))?,
                name: message.name.clone(),
                contact: message.contact.clone(),
                address: message.address.clone(),
                email: message.email.clone(),
                phone: message.phone.clone(),
                url: message.url.clone(),
                privacy_policy_url: message.privacy_policy_url.clone(),
                jurisdictions: jurisdictions.collect::<Result<_, _>>()?,
                sensitive_categories: sensitive.map(|categories| categories.data_categories),
            },
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{array::uniform7, collection::vec, option, prelude::*, sample::subsequence};

    use super::*;
    use crate::{
        domain::Millis,
        entry::{
            Body,
            fields::tests::{any_catalog_key, any_categories},
            tests::reads_back,
        },
    };

    fn any_content() -> impl Strategy<Value = PartyVersion> {
        let roles = subsequence(vec![PartyRole::Controller, PartyRole::Recipient], 0..=2);
        let regions = vec(
            prop::sample::select(vec!["DE", "US-CA"]).prop_map(|code| Region::parse(code).unwrap()),
            0..3,
        );
        (roles, uniform7(".{0,9}"), regions, option::of(any_categories())).prop_map(
            |(roles, texts, jurisdictions, sensitive_categories)| {
                let [name, contact, address, email, phone, url, privacy_policy_url] = texts;
                PartyVersion {
                    roles,
                    name,
                    contact,
                    address,
                    email,
                    phone,
                    url,
                    privacy_policy_url,
                    jurisdictions,
                    sensitive_categories,
                }
            },
        )
    }

    pub(in crate::entry) fn any_party_put() -> impl Strategy<Value = PartyPut> {
        (any_catalog_key(), 1u32.., any_content()).prop_map(|(key, version, content)| PartyPut {
            key,
            version,
            content,
        })
    }

    proptest! {
        #[test]
        fn it_reads_back(put in any_party_put()) {
            reads_back(&Body::PartyPut(put));
        }
    }

    #[test]
    fn a_jurisdiction_that_no_region_has_is_refused() {
        let read = |region: &str| {
            PartyPut::try_from(&ledger::PartyPut {
                key: "acme".to_owned(),
                version: 1,
                jurisdictions: vec![region.to_owned()],
                ..ledger::PartyPut::default()
            })
        };
        assert!(read("AT").is_ok());
        assert!(read("UK").is_err());
    }

    #[test]
    fn versions_follow_each_other_and_each_is_found_as_of_its_time() {
        let mut catalog = Catalog::default();
        let mut put = |index, version, name: &str| {
            let content = PartyVersion { name: name.to_owned(), ..PartyVersion::default() };
            let put = PartyPut { key: Key::parse("acme").unwrap(), version, content };
            let place = Place { index, recorded_at: Millis(0) };
            assert_eq!(put.fold(place, &mut catalog), None);
        };
        put(2, 1, "Acme");
        put(5, 2, "Acme AG");
        put(6, 4, "never");
        put(2, 1, "Acme");
        let party = catalog.party("acme").unwrap();
        let name = |index| {
            party.before(index).map(|(version, put, content)| (version, put, content.name.as_str()))
        };
        assert_eq!(name(2), None);
        assert_eq!((name(3), name(5)), (Some((1, 2, "Acme")), Some((1, 2, "Acme"))));
        assert_eq!(name(9), Some((2, 5, "Acme AG")));
        assert_eq!((party.version(), party.current().name.as_str()), (2, "Acme AG"));
    }
}
