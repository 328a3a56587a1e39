//! The catalogue: purposes with their versions, and channels.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use smallvec::SmallVec;
use thiserror::Error;

use super::{
    clock::ClockCorrection,
    namespace::Namespace,
    party::Party,
    region::Region,
    scope::{Key, PurposeName, PurposeScope, Scope, ScopeKeys},
    state::{Grant, Mark, Stop},
    time::Millis,
};
use crate::entry::{ChannelPut, PartyPut, PurposePut};

/// Ordinal of a purpose: its place among all purposes, by first appearance in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PurposeId(pub u32);

/// Ordinal of a class of purposes: its place among all classes, by the first purpose in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

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
    /// The party that decides on the use of the data; none if it was not named.
    pub controller: Option<Key>,
    /// The parties that receive the data; none if it was not said who does.
    pub recipients: Option<Vec<Key>>,
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
    /// The classes that it is in, the narrowest first.
    pub classes: Vec<ClassId>,
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
    /// No such purpose, or none in the class.
    #[error("no purpose `{0}` in the catalogue")]
    Purpose(PurposeName),
    /// No such channel.
    #[error("no channel `{0}` in the catalogue")]
    Channel(Key),
}

/// A class: the purposes below a key. There is one as soon as it has a purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    key: Key,
    /// The classes that contain it, the narrowest first.
    within: Classes,
}

/// Classes, each within the next.
type Classes = SmallVec<[ClassId; 2]>;

/// The catalogue at one revision: the fold of all its entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    purposes: Vec<Purpose>,
    purpose_ids: HashMap<Key, PurposeId>,
    classes: Vec<Class>,
    class_ids: HashMap<Key, ClassId>,
    channels: Vec<Channel>,
    channel_ids: HashMap<Key, ChannelId>,
    namespaces: BTreeMap<Key, Namespace>,
    parties: BTreeMap<Key, Party>,
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
            let classes = self.classes_above(&put.key).to_vec();
            self.purposes.push(Purpose {
                key: put.key,
                classes,
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

    /// The classes that a key is in, the narrowest first. Those that are new get the next ordinals.
    fn classes_above(&mut self, key: &Key) -> Classes {
        let Some(prefix) = key.parent() else { return Classes::new() };
        let id = match self.class_ids.get(&prefix) {
            Some(&id) => id,
            None => {
                let within = self.classes_above(&prefix);
                let id = ClassId(u32::try_from(self.classes.len()).unwrap_or(u32::MAX));
                self.class_ids.insert(prefix.clone(), id);
                self.classes.push(Class { key: prefix, within });
                id
            }
        };
        let within = self.classes.get(id.0 as usize).map(|class| class.within.as_slice());
        [id].into_iter().chain(within.unwrap_or_default().iter().copied()).collect()
    }

    /// Folds in a channel entry.
    pub fn put_channel(&mut self, put: ChannelPut) {
        let channel = Channel::from(put);
        match self.channel_ids.get(&channel.key) {
            Some(id) => self.channels[id.0 as usize] = channel,
            None => {
                let id = ChannelId(u32::try_from(self.channels.len()).unwrap_or(u32::MAX));
                self.channel_ids.insert(channel.key.clone(), id);
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
        younger.map(ClockCorrection::made_by).fold(recorded_at, Millis::min)
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

    /// Folds in a party entry. A version that exists keeps its content, so entries may be folded again;
    /// one that does not follow the last is ignored.
    pub fn put_party(&mut self, index: u64, put: PartyPut) {
        let party = self.parties.get_mut(&put.key);
        let next = party.as_ref().map_or(1, |party| party.version().saturating_add(1));
        if put.version != next {
            return;
        }
        let content = Arc::new(put.content);
        match party {
            Some(party) => {
                party.versions.push(content);
                party.version_indices.push(index);
            }
            None => {
                let (versions, version_indices) = (vec![content], vec![index]);
                let party = Party { key: put.key.clone(), versions, version_indices };
                self.parties.insert(put.key, party);
            }
        }
    }

    /// A party, by its key.
    #[must_use]
    pub fn party(&self, key: &str) -> Option<&Party> {
        self.parties.get(key)
    }

    /// All parties, by key.
    pub fn parties(&self) -> impl Iterator<Item = &Party> {
        self.parties.values()
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

    /// The keys of all classes, by ordinal.
    pub fn classes(&self) -> impl Iterator<Item = &Key> {
        self.classes.iter().map(|class| &class.key)
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
        let purpose = |name: &PurposeName| match name {
            PurposeName::One(key) => match self.purpose_id(key.as_str()) {
                Some(id) => Ok(PurposeScope::One(id)),
                None => Err(UnknownKey::Purpose(name.clone())),
            },
            PurposeName::Class(key) => match self.class_ids.get(key) {
                Some(id) => Ok(PurposeScope::Class(*id)),
                None => Err(UnknownKey::Purpose(name.clone())),
            },
        };
        let channel_id = |key: &Key| {
            self.channel_id(key.as_str()).ok_or_else(|| UnknownKey::Channel(key.clone()))
        };
        Ok(Scope {
            purpose: keys.purpose.as_ref().map(purpose).transpose()?,
            channel: keys.channel.as_ref().map(channel_id).transpose()?,
        })
    }

    /// The keys of a scope, for people and entries.
    #[must_use]
    pub fn keys(&self, scope: Scope) -> ScopeKeys {
        let purpose = scope.purpose.and_then(|purpose| match purpose {
            PurposeScope::One(id) => self.purpose(id).map(|p| PurposeName::One(p.key.clone())),
            PurposeScope::Class(id) => self.class(id).map(|c| PurposeName::Class(c.key.clone())),
        });
        let channel = scope.channel.and_then(|id| self.channel(id)).map(|c| c.key.clone());
        ScopeKeys { purpose, channel }
    }

    fn class(&self, id: ClassId) -> Option<&Class> {
        self.classes.get(id.0 as usize)
    }

    /// The classes that contain all that a scope names of the purposes, the narrowest first.
    fn classes_of(&self, purpose: Option<PurposeScope>) -> Classes {
        match purpose {
            None => Classes::new(),
            Some(PurposeScope::One(id)) => self
                .purpose(id)
                .into_iter()
                .flat_map(|purpose| purpose.classes.iter().copied())
                .collect(),
            Some(PurposeScope::Class(id)) => {
                let within = self.class(id).into_iter().flat_map(|class| &class.within);
                [id].into_iter().chain(within.copied()).collect()
            }
        }
    }

    /// Every scope that contains a scope, itself included. The narrower come first: a purpose before its
    /// classes, these before all purposes; and with the same purposes one channel before all.
    #[must_use]
    pub fn scopes_around(&self, scope: Scope) -> SmallVec<[Scope; 8]> {
        let classes = self.classes_of(scope.purpose).into_iter().map(PurposeScope::Class);
        let purposes = scope.purpose.into_iter().chain(classes).map(Some).chain([None]);
        let mut scopes: SmallVec<[Scope; 8]> = SmallVec::new();
        for purpose in purposes {
            for channel in [scope.channel, None] {
                let around = Scope { purpose, channel };
                if !scopes.contains(&around) {
                    scopes.push(around);
                }
            }
        }
        scopes
    }

    /// Whether a scope covers a cell.
    #[must_use]
    pub fn covers(&self, scope: Scope, purpose: PurposeId, channel: ChannelId) -> bool {
        scope.channel.is_none_or(|covered| covered == channel)
            && self.covers_purpose(scope, purpose)
    }

    /// Whether a scope covers a purpose, over one channel at least.
    #[must_use]
    pub fn covers_purpose(&self, scope: Scope, purpose: PurposeId) -> bool {
        match scope.purpose {
            None => true,
            Some(PurposeScope::One(covered)) => covered == purpose,
            Some(PurposeScope::Class(class)) => {
                self.purpose(purpose).is_some_and(|purpose| purpose.classes.contains(&class))
            }
        }
    }

    /// Whether a scope covers every cell of another.
    #[must_use]
    pub fn contains(&self, wide: Scope, narrow: Scope) -> bool {
        self.scopes_around(narrow).contains(&wide)
    }

    /// The cells that two scopes have in common, if they have any.
    #[must_use]
    pub fn overlap(&self, one: Scope, other: Scope) -> Option<Scope> {
        let all_channels = |scope: Scope| Scope { channel: None, ..scope };
        let (wide, narrow) = match self.contains(all_channels(one), all_channels(other)) {
            true => (one, other),
            false => (other, one),
        };
        let channel = one.channel.or(other.channel);
        let overlap = Scope { purpose: narrow.purpose, channel };
        (self.contains(wide, overlap) && self.contains(narrow, overlap)).then_some(overlap)
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
                controller: None,
                recipients: None,
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
