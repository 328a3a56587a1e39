//! The catalogue: purposes with their versions, and channels.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use thiserror::Error;

use super::{
    clock::ClockCorrection,
    namespace::Namespace,
    region::Region,
    scope::{Key, Scope, ScopeKeys},
    state::{Grant, Mark, Stop},
    time::Millis,
};
use crate::entry::{ChannelPut, PurposePut};

/// Ordinal of a purpose: its place among all purposes, by first appearance in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PurposeId(pub u32);

/// Ordinal of a channel: its place among all channels, by first appearance in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// The legal basis of a purpose (GDPR Art. 6(1)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LegalBasis {
    /// Art. 6(1)(a).
    Consent,
    /// Art. 6(1)(b).
    Contract,
    /// Art. 6(1)(c).
    LegalObligation,
    /// Art. 6(1)(d).
    VitalInterest,
    /// Art. 6(1)(e).
    PublicTask,
    /// Art. 6(1)(f).
    LegitimateInterest,
}

impl LegalBasis {
    /// Whether a stop has an effect: only for consent and legitimate interest.
    #[must_use]
    pub fn can_be_stopped(self) -> bool {
        matches!(self, Self::Consent | Self::LegitimateInterest)
    }
}

/// A condition that comes with an ALLOW.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Obligation {
    /// At most so many uses within a period.
    FrequencyLimit {
        /// The greatest number of uses, at least 1.
        uses_max: u32,
        /// Length of the period, in milliseconds.
        period_ms: i64,
    },
    /// A daily span of local time without uses.
    QuietHours {
        /// First minute, from local midnight.
        start_minute: u32,
        /// First minute after the span, from local midnight.
        end_minute: u32,
        /// IANA time zone; empty if not known.
        time_zone: String,
    },
}

/// One version of a purpose. It never changes once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposeVersion {
    /// Title for people.
    pub title: String,
    /// Description for people.
    pub description: String,
    /// Legal basis, where no region has another.
    pub legal_basis: LegalBasis,
    /// Legal basis by region.
    pub basis_by_region: BTreeMap<Region, LegalBasis>,
    /// Data categories that the purpose uses, hierarchical by dots.
    pub data_categories: Vec<String>,
    /// How long a grant lasts by default, in milliseconds.
    pub default_validity_ms: Option<i64>,
    /// Whether a grant needs a double opt-in.
    pub double_opt_in: bool,
    /// Obligations that come with every ALLOW.
    pub obligations: Vec<Obligation>,
}

impl PurposeVersion {
    /// The legal basis in a region: its own, else that of its country, else the default.
    #[must_use]
    pub fn basis_in(&self, region: Option<Region>) -> LegalBasis {
        let Some(region) = region.filter(|_| !self.basis_by_region.is_empty()) else {
            return self.legal_basis;
        };
        let basis = self.basis_by_region.get(&region);
        let basis = basis.or_else(|| self.basis_by_region.get(&region.country()));
        basis.copied().unwrap_or(self.legal_basis)
    }

    /// Whether a region, or some part of it, has consent as its legal basis.
    fn rests_on_consent_within(&self, region: Region) -> bool {
        let is_within = |part: &Region| region == region.country() && part.country() == region;
        let mut parts = self.basis_by_region.iter().filter(|(part, _)| is_within(part));
        self.basis_in(Some(region)) == LegalBasis::Consent
            || parts.any(|(_, basis)| *basis == LegalBasis::Consent)
    }

    /// Whether some region, or the default, has this legal basis.
    #[must_use]
    pub fn has_basis(&self, basis: LegalBasis) -> bool {
        self.legal_basis == basis
            || self.basis_by_region.values().any(|regional| *regional == basis)
    }
}

/// A purpose with all its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Key.
    pub key: Key,
    /// Versions; version `n` is at `n - 1`.
    pub versions: Vec<Arc<PurposeVersion>>,
    /// Indices of the entries that put them.
    pub version_indices: Vec<u64>,
    /// The oldest version whose grants still count.
    pub oldest_compatible: u32,
    /// Index of the entry that set `oldest_compatible`.
    pub oldest_compatible_index: u64,
    /// Whether the purpose is retired.
    pub retired: bool,
    /// Index of the latest entry about this purpose.
    pub index: u64,
}

impl Purpose {
    /// The current version's number.
    #[must_use]
    pub fn version(&self) -> u32 {
        u32::try_from(self.versions.len()).unwrap_or(u32::MAX)
    }

    /// The current version.
    #[must_use]
    pub fn current(&self) -> &PurposeVersion {
        // A purpose comes into being with its first version.
        &self.versions[self.versions.len() - 1]
    }

    /// Whether the purpose rests, or ever rested, on consent in a region. A withdrawal from such a
    /// purpose stays in force when the basis changes.
    #[must_use]
    pub fn ever_rested_on_consent(&self, region: Option<Region>) -> bool {
        self.versions.iter().any(|version| match region {
            None => version.has_basis(LegalBasis::Consent),
            Some(region) => version.rests_on_consent_within(region),
        })
    }

    /// Whether a stop can touch the purpose somewhere.
    #[must_use]
    pub fn can_be_stopped(&self) -> bool {
        self.current().has_basis(LegalBasis::LegitimateInterest)
            || self.versions.iter().any(|version| version.has_basis(LegalBasis::Consent))
    }

    /// Whether a stop ends an ALLOW that needs no grant, in some region or by default: one of
    /// legitimate interest, or of another basis than consent where consent was the basis before.
    #[must_use]
    pub fn is_open_until_stopped(&self) -> bool {
        let regions = self.versions.iter().flat_map(|version| version.basis_by_region.keys());
        regions.copied().map(Some).chain([None]).any(|region| {
            match self.current().basis_in(region) {
                LegalBasis::Consent => false,
                LegalBasis::LegitimateInterest => true,
                _ => self.ever_rested_on_consent(region),
            }
        })
    }

    /// A version, if it exists.
    #[must_use]
    pub fn at_version(&self, version: u32) -> Option<&PurposeVersion> {
        let position = usize::try_from(version.checked_sub(1)?).ok()?;
        self.versions.get(position).map(Arc::as_ref)
    }
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Key.
    pub key: Key,
    /// Title for people.
    pub title: String,
    /// Whether the channel is retired.
    pub retired: bool,
}

impl From<ChannelPut> for Channel {
    fn from(put: ChannelPut) -> Self {
        let ChannelPut { key, title, retired } = put;
        Self { key, title, retired }
    }
}

/// A key that the catalogue lacks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnknownKey {
    /// No such purpose.
    #[error("no purpose `{0}` in the catalogue")]
    Purpose(Key),
    /// No such channel.
    #[error("no channel `{0}` in the catalogue")]
    Channel(Key),
}

/// The catalogue at one revision: the fold of all its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    purposes: Vec<Purpose>,
    purpose_ids: HashMap<Key, PurposeId>,
    channels: Vec<Channel>,
    channel_ids: HashMap<Key, ChannelId>,
    namespaces: BTreeMap<Key, Namespace>,
    clock_corrections: Vec<ClockCorrection>,
}

impl Catalog {
    /// Folds in a purpose entry.
    ///
    /// A version that exists keeps its text; only retirement and the oldest compatible version
    /// change.
    /// An entry older than the latest folded one changes nothing, so entries may be folded again.
    ///
    /// The ledger counts versions without a gap. If one is missing all the same, the versions after
    /// it are ignored: a grant for them refers to no version, and the decision is DENY.
    pub fn put_purpose(&mut self, index: u64, put: PurposePut) {
        let Some(&id) = self.purpose_ids.get(&put.key) else {
            if put.version != 1 {
                return;
            }
            let id = PurposeId(u32::try_from(self.purposes.len()).unwrap_or(u32::MAX));
            self.purpose_ids.insert(put.key.clone(), id);
            self.purposes.push(Purpose {
                key: put.key,
                versions: vec![Arc::new(put.content)],
                version_indices: vec![index],
                oldest_compatible: put.oldest_compatible,
                oldest_compatible_index: index,
                retired: put.retired,
                index,
            });
            return;
        };
        let purpose = &mut self.purposes[id.0 as usize];
        if index < purpose.index {
            return;
        }
        if put.version.checked_sub(1) == Some(purpose.version()) {
            purpose.versions.push(Arc::new(put.content));
            purpose.version_indices.push(index);
        }
        if put.oldest_compatible != purpose.oldest_compatible {
            purpose.oldest_compatible = put.oldest_compatible;
            purpose.oldest_compatible_index = index;
        }
        purpose.retired = put.retired;
        purpose.index = index;
    }

    /// Folds in a channel entry.
    pub fn put_channel(&mut self, put: ChannelPut) {
        let channel = Channel { key: put.key.clone(), title: put.title, retired: put.retired };
        match self.channel_ids.get(&put.key) {
            Some(id) => self.channels[id.0 as usize] = channel,
            None => {
                let id = ChannelId(u32::try_from(self.channels.len()).unwrap_or(u32::MAX));
                self.channel_ids.insert(put.key, id);
                self.channels.push(channel);
            }
        }
    }

    /// Folds in a namespace entry.
    pub fn put_namespace(&mut self, namespace: Namespace) {
        self.namespaces.insert(namespace.key.clone(), namespace);
    }

    /// Folds in a correction of the clock. One that is known already changes nothing.
    pub fn put_clock_correction(&mut self, correction: ClockCorrection) {
        if self.clock_corrections.last().is_none_or(|last| last.index < correction.index) {
            self.clock_corrections.push(correction);
        }
    }

    /// The corrections of the clock, by index.
    #[must_use]
    pub fn clock_corrections(&self) -> &[ClockCorrection] {
        &self.clock_corrections
    }

    /// The earliest moment at which an act can have taken effect, by the corrections of the clock before
    /// the entry at `end`.
    #[must_use]
    pub fn earliest(&self, mark: Mark, end: u64) -> Mark {
        self.corrections_before(end).fold(mark, |mark, correction| correction.earliest(mark))
    }

    /// As [`Self::earliest`], the latest moment.
    #[must_use]
    pub fn latest(&self, mark: Mark, end: u64) -> Mark {
        self.corrections_before(end).fold(mark, |mark, correction| correction.latest(mark))
    }

    /// A stop with its time by the corrections of the clock before the entry at `end`.
    #[must_use]
    pub fn corrected_stop(&self, mut stop: Stop, end: u64) -> Stop {
        for correction in self.corrections_before(end) {
            correction.correct_stop(&mut stop);
        }
        stop
    }

    /// A grant for a purpose with its time by the corrections of the clock before the entry at `end`.
    #[must_use]
    pub fn corrected_grant(&self, purpose: PurposeId, mut grant: Grant, end: u64) -> Grant {
        for correction in self.corrections_before(end) {
            let validity_ms = self.validity_ms(purpose, grant.purpose_version);
            correction.correct_grant(&mut grant, validity_ms);
        }
        grant
    }

    /// The end of a time that the ledger gave from when it recorded an entry on.
    #[must_use]
    pub fn end_of_span(&self, index: u64, recorded_at: Millis, ends_at: Millis) -> Millis {
        let end =
            |correction: &ClockCorrection| correction.end_of_span(index, recorded_at, ends_at);
        self.clock_corrections.iter().map(end).fold(ends_at, Millis::min)
    }

    /// When an entry was recorded at the latest: a correction of the clock is younger than the entries
    /// before it.
    #[must_use]
    pub fn recorded_by(&self, index: u64, recorded_at: Millis) -> Millis {
        let younger = self.clock_corrections.iter().filter(|correction| correction.index > index);
        younger.map(|correction| correction.recorded_at).fold(recorded_at, Millis::min)
    }

    /// How long a grant lasts by the default of the version that was agreed to.
    pub(crate) fn validity_ms(&self, purpose: PurposeId, version: u32) -> Option<i64> {
        self.purpose(purpose)?.at_version(version)?.default_validity_ms
    }

    fn corrections_before(&self, end: u64) -> impl Iterator<Item = &ClockCorrection> {
        self.clock_corrections.iter().take_while(move |correction| correction.index < end)
    }

    /// A namespace, by its key in lower case.
    #[must_use]
    pub fn namespace(&self, key: &str) -> Option<&Namespace> {
        self.namespaces.get(key)
    }

    /// All namespaces, by key.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// The ordinal of a purpose.
    #[must_use]
    pub fn purpose_id(&self, key: &str) -> Option<PurposeId> {
        self.purpose_ids.get(key).copied()
    }

    /// The ordinal of a channel.
    #[must_use]
    pub fn channel_id(&self, key: &str) -> Option<ChannelId> {
        self.channel_ids.get(key).copied()
    }

    /// A purpose by ordinal.
    #[must_use]
    pub fn purpose(&self, id: PurposeId) -> Option<&Purpose> {
        self.purposes.get(id.0 as usize)
    }

    /// A channel by ordinal.
    #[must_use]
    pub fn channel(&self, id: ChannelId) -> Option<&Channel> {
        self.channels.get(id.0 as usize)
    }

    /// All purposes, by ordinal.
    pub fn purposes(&self) -> impl Iterator<Item = (PurposeId, &Purpose)> {
        (0..).map(PurposeId).zip(&self.purposes)
    }

    /// All channels, by ordinal.
    pub fn channels(&self) -> impl Iterator<Item = (ChannelId, &Channel)> {
        (0..).map(ChannelId).zip(&self.channels)
    }

    /// Resolves the keys of a scope.
    ///
    /// # Errors
    /// The first key that the catalogue lacks.
    pub fn resolve(&self, keys: &ScopeKeys) -> Result<Scope, UnknownKey> {
        let purpose_id = |key: &Key| {
            self.purpose_id(key.as_str()).ok_or_else(|| UnknownKey::Purpose(key.clone()))
        };
        let channel_id = |key: &Key| {
            self.channel_id(key.as_str()).ok_or_else(|| UnknownKey::Channel(key.clone()))
        };
        Ok(Scope {
            purpose: keys.purpose.as_ref().map(purpose_id).transpose()?,
            channel: keys.channel.as_ref().map(channel_id).transpose()?,
        })
    }

    /// The keys of a scope, for people and entries.
    #[must_use]
    pub fn keys(&self, scope: Scope) -> ScopeKeys {
        ScopeKeys {
            purpose: scope.purpose.and_then(|id| self.purpose(id)).map(|p| p.key.clone()),
            channel: scope.channel.and_then(|id| self.channel(id)).map(|c| c.key.clone()),
        }
    }
}

/// Whether a declared data category covers one that is asked for: the same, or below it in the
/// dotted hierarchy (`user.contact` covers `user.contact.email`).
#[must_use]
pub fn covers_category(declared: &str, asked: &str) -> bool {
    asked.strip_prefix(declared).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(version: u32, title: &str, oldest_compatible: u32, retired: bool) -> PurposePut {
        PurposePut {
            key: Key::parse("news").unwrap(),
            version,
            content: PurposeVersion {
                title: title.to_owned(),
                description: String::new(),
                legal_basis: LegalBasis::Consent,
                basis_by_region: BTreeMap::new(),
                data_categories: Vec::new(),
                default_validity_ms: None,
                double_opt_in: false,
                obligations: Vec::new(),
            },
            oldest_compatible,
            retired,
        }
    }

    fn fold(puts: &[(u64, PurposePut)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (index, put) in puts {
            catalog.put_purpose(*index, put.clone());
        }
        catalog
    }

    fn news(catalog: &Catalog) -> &Purpose {
        catalog.purpose(catalog.purpose_id("news").unwrap()).unwrap()
    }

    #[test]
    fn a_version_keeps_its_text_and_the_standing_moves() {
        let catalog = fold(&[
            (1, put(1, "one", 1, false)),
            (2, put(2, "two", 2, false)),
            (3, put(2, "other", 2, true)),
        ]);
        let news = news(&catalog);
        assert_eq!((news.version(), news.current().title.as_str()), (2, "two"));
        assert_eq!(news.at_version(1).unwrap().title, "one");
        assert!(news.at_version(0).is_none() && news.at_version(3).is_none());
        assert!(news.retired);
        assert_eq!((news.index, news.oldest_compatible_index), (3, 2));
    }

    #[test]
    fn folding_again_changes_nothing() {
        let puts = [
            (1, put(1, "one", 1, false)),
            (2, put(1, "one", 1, true)),
            (3, put(2, "two", 2, false)),
        ];
        let twice: Vec<_> = puts.iter().chain(&puts).cloned().collect();
        assert_eq!(fold(&twice), fold(&puts));
    }

    #[test]
    fn a_gap_in_the_versions_never_gives_a_version_the_wrong_text() {
        let catalog = fold(&[(1, put(1, "one", 1, false)), (2, put(3, "three", 3, false))]);
        let news = news(&catalog);
        assert_eq!(news.version(), 1);
        assert!(news.at_version(3).is_none());
        assert_eq!(news.oldest_compatible, 3);
        assert_eq!(fold(&[(1, put(2, "two", 1, false))]).purpose_id("news"), None);
    }

    #[test]
    fn categories_cover_what_is_below_them() {
        for (declared, asked, covers) in [
            ("user.contact", "user.contact", true),
            ("user.contact", "user.contact.email", true),
            ("user.contact", "user.contacts", false),
            ("user.contact.email", "user.contact", false),
            ("user.contact", "", false),
        ] {
            assert_eq!(covers_category(declared, asked), covers, "{declared} {asked}");
        }
    }
}
