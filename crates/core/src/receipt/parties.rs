//! The parties that a receipt names: controllers and recipients.
//!
//! They are those of the catalogue as of the act. Both formats ask [`Extension`] for them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::extension::{Extension, PurposeText};
use crate::domain::{Party, PartyVersion, Region, sensitive_among};

/// Identifier of a controller that the catalogue does not name; no key is written so.
const UNNAMED: &str = "UNNAMED";

/// The parties of a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedParties {
    /// Keys of the controllers of all that the act covers, ascending.
    pub controllers: Vec<String>,
    /// All parties that are named, by key.
    pub parties: Vec<PartyText>,
}

impl StatedParties {
    /// The names of the controllers that are named.
    #[must_use]
    pub fn controller_names(&self) -> Vec<&str> {
        let is_controller = |party: &&PartyText| self.controllers.contains(&party.key);
        self.parties.iter().filter(is_controller).map(|party| party.name.as_str()).collect()
    }

    /// Whether they are all that the purposes of an act name, and no others, each from an entry before the
    /// act. Controllers may be more: those of the purposes that a wide stop covers.
    pub(super) fn are_those_of(&self, purposes: &[PurposeText], act: u64) -> bool {
        let Self { controllers, parties } = self;
        let is_ascending = |keys: Vec<&String>| keys.windows(2).all(|pair| pair[0] < pair[1]);
        let recipients = purposes.iter().flat_map(|text| text.recipients.iter().flatten());
        let named: BTreeSet<&String> = controllers.iter().chain(recipients).collect();
        let known: BTreeSet<&String> = parties.iter().map(|party| &party.key).collect();
        purposes
            .iter()
            .filter_map(|text| text.controller.as_ref())
            .all(|key| controllers.contains(key))
            && named == known
            && is_ascending(controllers.iter().collect())
            && is_ascending(parties.iter().map(|party| &party.key).collect())
            && parties.iter().all(|party| party.index < act)
    }
}

/// One version of a party, as the catalogue had it. Texts that were not given are empty, and left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartyText {
    /// Party key.
    pub key: String,
    /// Version, from 1.
    pub version: u32,
    /// Index of the entry that put it into the catalogue.
    pub index: u64,
    /// Name for people.
    pub name: String,
    /// Contact for questions about data protection.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub contact: String,
    /// Postal address, in one line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Email address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// Telephone number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phone: String,
    /// Web page.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Web page of its privacy policy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub privacy_policy_url: String,
    /// Regions whose law applies to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jurisdictions: Vec<String>,
    /// Data categories that it treats as sensitive; none if it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitive_categories: Option<Vec<String>>,
}

impl PartyText {
    /// A party as it was before an entry; none if there was none.
    #[must_use]
    pub fn before(party: &Party, entry: u64) -> Option<Self> {
        let (version, index, content) = party.before(entry)?;
        let PartyVersion { roles: _, name, contact, address, email, phone, .. } = content.clone();
        Some(Self {
            key: party.key.to_string(),
            version,
            index,
            name,
            contact,
            address,
            email,
            phone,
            url: content.url.clone(),
            privacy_policy_url: content.privacy_policy_url.clone(),
            jurisdictions: content.jurisdictions.iter().map(Region::to_string).collect(),
            sensitive_categories: content.sensitive_categories.clone(),
        })
    }
}

/// A party as the formats write it. What was not given is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub id: &'a str,
    /// None for a controller that nobody named: receipts give the ledger's name in its place.
    pub name: Option<&'a str>,
    pub contact: Option<&'a str>,
    pub address: Option<&'a str>,
    pub email: Option<&'a str>,
    pub phone: Option<&'a str>,
    pub url: Option<&'a str>,
    pub privacy_policy_url: Option<&'a str>,
    pub jurisdictions: &'a [String],
    pub sensitive_categories: Option<&'a [String]>,
}

impl Named<'_> {
    const UNNAMED: Self = Self {
        id: UNNAMED,
        name: None,
        contact: None,
        address: None,
        email: None,
        phone: None,
        url: None,
        privacy_policy_url: None,
        jurisdictions: &[],
        sensitive_categories: None,
    };
}

impl<'a> From<&'a PartyText> for Named<'a> {
    fn from(party: &'a PartyText) -> Self {
        let given = |text: &'a String| Some(text.as_str()).filter(|text| !text.is_empty());
        Self {
            id: &party.key,
            name: Some(&party.name),
            contact: given(&party.contact),
            address: given(&party.address),
            email: given(&party.email),
            phone: given(&party.phone),
            url: given(&party.url),
            privacy_policy_url: given(&party.privacy_policy_url),
            jurisdictions: &party.jurisdictions,
            sensitive_categories: party.sensitive_categories.as_deref(),
        }
    }
}

impl Extension {
    fn party(&self, key: &str) -> Option<Named<'_>> {
        self.parties.iter().find(|party| party.key == key).map(Named::from)
    }

    /// The controllers of all that the act covers; at least one.
    pub(super) fn controllers(&self) -> Vec<Named<'_>> {
        let named = self.controllers.iter().filter_map(|key| self.party(key));
        let has_unnamed = self.purposes.iter().any(|text| text.controller.is_none());
        let unnamed = (has_unnamed || self.controllers.is_empty()).then_some(Named::UNNAMED);
        named.chain(unnamed).collect()
    }

    /// The controller of a purpose.
    pub(super) fn controller_of(&self, purpose: Option<&PurposeText>) -> Named<'_> {
        let key = purpose.and_then(|text| text.controller.as_ref());
        key.and_then(|key| self.party(key)).unwrap_or(Named::UNNAMED)
    }

    /// The names of those who receive the data of a purpose; none if it was not said.
    pub(super) fn recipients_of(&self, purpose: Option<&PurposeText>) -> Option<Vec<&str>> {
        let keys = purpose?.recipients.as_ref()?;
        Some(keys.iter().filter_map(|key| self.party(key)?.name).collect())
    }

    /// The names of all who receive data, once each; none if it was said for no purpose.
    pub(super) fn recipients(&self) -> Option<Vec<&str>> {
        let said = self.purposes.iter().filter_map(|text| self.recipients_of(Some(text)));
        said.reduce(|mut all, names| {
            for name in names {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
            all
        })
    }

    /// The parties that are named as recipients alone.
    pub(super) fn other_parties(&self) -> impl Iterator<Item = Named<'_>> {
        let others = self.parties.iter().filter(|party| !self.controllers.contains(&party.key));
        others.map(Named::from)
    }

    /// The regions whose law applies to some controller, once each.
    pub(super) fn jurisdictions(&self) -> Vec<&str> {
        let mut regions = Vec::new();
        for region in self.controllers().into_iter().flat_map(|party| party.jurisdictions) {
            if !regions.contains(&region.as_str()) {
                regions.push(region.as_str());
            }
        }
        regions
    }

    /// The sensitive ones among data categories of a purpose; none if its controller did not say which
    /// are.
    pub(super) fn sensitive_among<'a>(
        &self,
        purpose: Option<&PurposeText>,
        categories: &'a [String],
    ) -> Option<Vec<&'a str>> {
        sensitive_among(self.controller_of(purpose).sensitive_categories, categories)
    }
}
