//! Parties: who decides on the use of data, and who receives it.

use std::sync::Arc;

use super::{catalog::covers_category, region::Region, scope::Key};

/// What a party is for the purposes that name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartyRole {
    /// Decides for what and how data is used (GDPR Art. 4(7)).
    Controller,
    /// Data is disclosed to it (GDPR Art. 4(9)).
    Recipient,
}

/// One version of a party. It never changes once written. Texts that were not given are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartyVersion {
    /// Its roles, ascending, once each.
    pub roles: Vec<PartyRole>,
    /// Name for people.
    pub name: String,
    /// Contact for questions about data protection.
    pub contact: String,
    /// Postal address, in one line.
    pub address: String,
    /// Email address.
    pub email: String,
    /// Telephone number.
    pub phone: String,
    /// Web page.
    pub url: String,
    /// Web page of its privacy policy.
    pub privacy_policy_url: String,
    /// Regions whose law applies to it.
    pub jurisdictions: Vec<Region>,
    /// Data categories that it treats as sensitive, with all below them; none if it did not say.
    pub sensitive_categories: Option<Vec<String>>,
}

/// The sensitive ones among some data categories; none if the sensitive categories were not given.
#[must_use]
pub fn sensitive_among<'a>(
    sensitive: Option<&[String]>,
    categories: &'a [String],
) -> Option<Vec<&'a str>> {
    let sensitive = sensitive?;
    let is_sensitive =
        |category: &&String| sensitive.iter().any(|declared| covers_category(declared, category));
    Some(categories.iter().filter(is_sensitive).map(String::as_str).collect())
}

/// A party with its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Key.
    pub key: Key,
    /// Versions; version `n` is at `n - 1`. There is at least one.
    pub versions: Vec<Arc<PartyVersion>>,
    /// Indices of the entries that put them.
    pub version_indices: Vec<u64>,
}

impl Party {
    /// The current version, from 1.
    #[must_use]
    pub fn version(&self) -> u32 {
        u32::try_from(self.versions.len()).unwrap_or(u32::MAX)
    }

    /// The content of the current version.
    #[must_use]
    pub fn current(&self) -> &PartyVersion {
        self.versions.last().expect("a party begins with a version")
    }

    /// The content and number of the version that was current before an entry, with the index of the
    /// entry that put it; none if there was none.
    #[must_use]
    pub fn before(&self, index: u64) -> Option<(u32, u64, &PartyVersion)> {
        let count = self.version_indices.partition_point(|put| *put < index);
        let position = count.checked_sub(1)?;
        let (put, version) = (self.version_indices.get(position)?, self.versions.get(position)?);
        Some((u32::try_from(count).ok()?, *put, version))
    }
}
