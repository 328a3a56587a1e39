//! `PurposePut`: a purpose was added to the catalogue, or changed.

use std::collections::BTreeMap;

use super::{
    Content, EntryError, NamesNoSubject, OfCatalog, Place, Target,
    channel::retirement_effect,
    fields::{duration, field, key, region},
};
use crate::{
    domain::{Catalog, Key, LegalBasis, Obligation, Purpose, PurposeVersion, Region},
    event::{CatalogDetail, CatalogEffect, EventOutline},
    format::entry::Body as ClearBody,
    proto::{self, ledger},
};

/// A catalogue entry for a purpose, as written to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurposePut {
    /// Key.
    pub key: Key,
    /// Version, from 1.
    pub version: u32,
    /// The content of the version.
    pub content: PurposeVersion,
    /// The oldest version whose grants still count.
    pub oldest_compatible: u32,
    /// Whether the purpose is retired.
    pub retired: bool,
}

impl NamesNoSubject for PurposePut {
    fn content(&self) -> Content {
        let content = &self.content;
        let bases = content.basis_by_region.iter();
        let basis = |(region, basis): (&Region, &LegalBasis)| ledger::RegionBasis {
            region: region.to_string(),
            legal_basis: proto::LegalBasis::from(*basis).into(),
        };
        Content::Clear(ClearBody::Purpose(ledger::PurposePut {
            key: self.key.to_string(),
            version: self.version,
            title: content.title.clone(),
            description: content.description.clone(),
            legal_basis: proto::LegalBasis::from(content.legal_basis).into(),
            data_categories: content.data_categories.clone(),
            default_validity_ms: content.default_validity_ms,
            double_opt_in: content.double_opt_in,
            oldest_compatible_version: self.oldest_compatible,
            retired: self.retired,
            obligations: content.obligations.iter().map(obligation_to_message).collect(),
            basis_by_region: sorted(bases.map(basis).collect()),
            controller: controller_to_proto(content),
            recipients: recipients_to_proto(content),
        }))
    }

    fn target(&self) -> Target<'_> {
        Target::Catalog(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Catalog
    }
}

impl OfCatalog for PurposePut {
    fn fold(&self, place: Place, catalog: &mut Catalog) -> Option<CatalogDetail> {
        let before = purpose(catalog, &self.key).cloned();
        catalog.put_purpose(place.index, self.clone());
        let after = purpose(catalog, &self.key)?;
        Some(CatalogDetail {
            purpose: Some(self.key.clone()),
            channel: None,
            namespace: None,
            effects: effects(before.as_ref(), after),
            version: after.version(),
            oldest_compatible: after.oldest_compatible,
        })
    }
}

fn purpose<'a>(catalog: &'a Catalog, key: &Key) -> Option<&'a Purpose> {
    catalog.purpose_id(key.as_str()).and_then(|id| catalog.purpose(id))
}

/// The effects of a change on decisions. A new version counts as new content even where only its
/// words differ: people agree to the words that they are shown.
fn effects(before: Option<&Purpose>, after: &Purpose) -> Vec<CatalogEffect> {
    use CatalogEffect::{Added, BasisChanged, ContentChanged, ReconsentLifted, ReconsentRequired};
    let Some(before) = before else {
        return Some(Added).into_iter().chain(retirement_effect(false, after.retired)).collect();
    };
    let (old, new) = (before.current(), after.current());
    let basis_differs =
        old.legal_basis != new.legal_basis || old.basis_by_region != new.basis_by_region;
    let content_differs = {
        let mut with_old_basis = new.clone();
        with_old_basis.legal_basis = old.legal_basis;
        with_old_basis.basis_by_region.clone_from(&old.basis_by_region);
        with_old_basis != *old
    };
    let oldest = (before.oldest_compatible, after.oldest_compatible);
    [
        retirement_effect(before.retired, after.retired),
        (oldest.0 < oldest.1).then_some(ReconsentRequired),
        (oldest.0 > oldest.1).then_some(ReconsentLifted),
        basis_differs.then_some(BasisChanged),
        content_differs.then_some(ContentChanged),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl TryFrom<&ledger::PurposePut> for PurposePut {
    type Error = EntryError;

    fn try_from(message: &ledger::PurposePut) -> Result<Self, EntryError> {
        let legal_basis = message.legal_basis().try_into().map_err(|()| field("legal_basis"))?;
        let obligations: Option<Vec<Obligation>> =
            message.obligations.iter().map(obligation_of_message).collect();
        Ok(Self {
            key: key("purpose_put.key", &message.key)?,
            version: message.version,
            content: PurposeVersion {
                title: message.title.clone(),
                description: message.description.clone(),
                legal_basis,
                basis_by_region: bases_of_messages(&message.basis_by_region)?,
                data_categories: message.data_categories.clone(),
                default_validity_ms: message.default_validity_ms,
                double_opt_in: message.double_opt_in,
                obligations: obligations.ok_or(field("obligations"))?,
                controller: controller_from_proto(&message.controller)?,
                recipients: message.recipients.as_ref().map(recipients_from_proto).transpose()?,
            },
            oldest_compatible: message.oldest_compatible_version,
            retired: message.retired,
        })
    }
}

/// Legal bases in the order of the text of their regions.
fn sorted(mut bases: Vec<ledger::RegionBasis>) -> Vec<ledger::RegionBasis> {
    bases.sort_by(|one, other| one.region.cmp(&other.region));
    bases
}

fn bases_of_messages(
    bases: &[ledger::RegionBasis],
) -> Result<BTreeMap<Region, LegalBasis>, EntryError> {
    let basis = |message: &ledger::RegionBasis| {
        let basis = message.legal_basis().try_into().map_err(|()| field("basis_by_region"))?;
        Ok((region(&message.region)?, basis))
    };
    bases.iter().map(basis).collect()
}

fn obligation_to_message(obligation: &Obligation) -> ledger::PurposeObligation {
    match obligation {
        Obligation::FrequencyLimit { uses_max, period_ms } => ledger::PurposeObligation {
            frequency_cap: Some(ledger::FrequencyCap {
                uses_max: *uses_max,
                period_ms: *period_ms,
            }),
            quiet_span: None,
        },
        Obligation::QuietHours { start_minute, end_minute, time_zone } => {
            ledger::PurposeObligation {
                frequency_cap: None,
                quiet_span: Some(ledger::QuietSpan {
                    start_minute: *start_minute,
                    end_minute: *end_minute,
                    time_zone: time_zone.clone(),
                }),
            }
        }
    }
}

fn obligation_of_message(message: &ledger::PurposeObligation) -> Option<Obligation> {
    match (&message.frequency_cap, &message.quiet_span) {
        (Some(cap), None) => {
            Some(Obligation::FrequencyLimit { uses_max: cap.uses_max, period_ms: cap.period_ms })
        }
        (None, Some(span)) => Some(Obligation::QuietHours {
            start_minute: span.start_minute,
            end_minute: span.end_minute,
            time_zone: span.time_zone.clone(),
        }),
        _ => None,
    }
}

/// The key of the controller that a version names; empty if there is none.
#[must_use]
pub fn controller_to_proto(content: &PurposeVersion) -> String {
    content.controller.as_ref().map_or_else(String::new, Key::to_string)
}

fn controller_from_proto(text: &str) -> Result<Option<Key>, EntryError> {
    let given = Some(text).filter(|text| !text.is_empty());
    given.map(|text| key("purpose_put.controller", text)).transpose()
}

/// The recipients that a version names, as a message.
#[must_use]
pub fn recipients_to_proto(content: &PurposeVersion) -> Option<proto::Recipients> {
    let parties = content.recipients.as_ref()?.iter().map(Key::to_string).collect();
    Some(proto::Recipients { parties })
}

fn recipients_from_proto(message: &proto::Recipients) -> Result<Vec<Key>, EntryError> {
    let recipient = |text: &String| key("purpose_put.recipients", text);
    message.parties.iter().map(recipient).collect()
}

/// Legal bases by region, as a message's map.
#[must_use]
pub fn bases_to_proto(bases: &BTreeMap<Region, LegalBasis>) -> BTreeMap<String, i32> {
    let with_text = |(region, basis): (&Region, &LegalBasis)| {
        (region.to_string(), proto::LegalBasis::from(*basis).into())
    };
    bases.iter().map(with_text).collect()
}

/// An obligation as a message.
#[must_use]
pub fn obligation_to_proto(obligation: &Obligation) -> proto::Obligation {
    use proto::obligation::Kind;
    let kind = match obligation {
        Obligation::FrequencyLimit { uses_max, period_ms } => {
            Kind::FrequencyLimit(proto::FrequencyLimit {
                uses_max: *uses_max,
                period: Some(duration(*period_ms)),
            })
        }
        Obligation::QuietHours { start_minute, end_minute, time_zone } => {
            Kind::QuietHours(proto::QuietHours {
                start_minute: *start_minute,
                end_minute: *end_minute,
                time_zone: time_zone.clone(),
            })
        }
    };
    proto::Obligation { kind: Some(kind), ..Default::default() }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::entry::{
        Body,
        fields::tests::{any_catalog_key, any_categories},
        tests::reads_back,
    };

    fn any_obligation() -> impl Strategy<Value = Obligation> {
        prop_oneof![
            (any::<u32>(), any::<i64>()).prop_map(|(uses_max, period_ms)| {
                Obligation::FrequencyLimit { uses_max, period_ms }
            }),
            (0u32..1440, 0u32..1440, ".{0,9}").prop_map(|(start_minute, end_minute, time_zone)| {
                Obligation::QuietHours { start_minute, end_minute, time_zone }
            }),
        ]
    }

    pub(in crate::entry) fn any_purpose_put() -> impl Strategy<Value = PurposePut> {
        use LegalBasis::{
            Consent, Contract, LegalObligation, LegitimateInterest, PublicTask, VitalInterest,
        };
        let bases =
            vec![Consent, Contract, LegalObligation, VitalInterest, PublicTask, LegitimateInterest];
        let text = (".{0,9}", ".{0,9}", any_categories(), vec(any_obligation(), 0..3));
        let versions = (1u32..).prop_flat_map(|version| (Just(version), 1..=version));
        let rest = (option::of(any::<i64>()), any::<bool>(), any::<bool>(), versions);
        let parties = (option::of(any_catalog_key()), option::of(vec(any_catalog_key(), 0..3)));
        (any_catalog_key(), prop::sample::select(bases), text, rest, parties).prop_map(
            |(key, legal_basis, text, rest, (controller, recipients))| {
                let (title, description, data_categories, obligations) = text;
                let (default_validity_ms, double_opt_in, retired, versions) = rest;
                let (version, oldest_compatible) = versions;
                let content = PurposeVersion {
                    title,
                    description,
                    legal_basis,
                    basis_by_region: BTreeMap::from([(
                        Region::parse("US-CA").unwrap(),
                        legal_basis,
                    )]),
                    data_categories,
                    default_validity_ms,
                    double_opt_in,
                    obligations,
                    controller,
                    recipients,
                };
                PurposePut { key, version, content, oldest_compatible, retired }
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back(put in any_purpose_put()) {
            reads_back(&Body::PurposePut(put));
        }
    }

    fn put(version: u32, spoil: impl FnOnce(&mut PurposePut)) -> PurposePut {
        let mut put = PurposePut {
            key: Key::parse("news").unwrap(),
            version,
            content: PurposeVersion {
                title: "News".to_owned(),
                description: String::new(),
                legal_basis: LegalBasis::Consent,
                basis_by_region: BTreeMap::new(),
                data_categories: vec!["user.contact".to_owned()],
                default_validity_ms: None,
                double_opt_in: false,
                obligations: Vec::new(),
                controller: None,
                recipients: None,
            },
            oldest_compatible: 1,
            retired: false,
        };
        spoil(&mut put);
        put
    }

    /// The effects of the last of some entries.
    fn last_effects(puts: &[PurposePut]) -> Vec<CatalogEffect> {
        let mut catalog = Catalog::default();
        let mut effects = Vec::new();
        for (index, put) in (1..).zip(puts) {
            let place = Place { index, recorded_at: crate::domain::Millis(0) };
            effects = put.fold(place, &mut catalog).map_or(Vec::new(), |change| change.effects);
        }
        effects
    }

    #[test]
    fn every_effect_of_a_purpose_has_its_name() {
        use CatalogEffect::{
            Added, BasisChanged, ContentChanged, ReconsentLifted, ReconsentRequired, Reinstated,
            Retired,
        };
        let first = || put(1, |_| {});
        assert_eq!(last_effects(&[first()]), [Added]);
        assert_eq!(last_effects(&[put(1, |put| put.retired = true)]), [Added, Retired]);
        assert_eq!(last_effects(&[first(), put(1, |put| put.retired = true)]), [Retired]);
        assert_eq!(last_effects(&[put(1, |put| put.retired = true), first()]), [Reinstated]);
        let second = |spoil: fn(&mut PurposeVersion)| {
            last_effects(&[first(), put(2, |put| spoil(&mut put.content))])
        };
        assert_eq!(second(|version| version.legal_basis = LegalBasis::Contract), [BasisChanged]);
        let region = Region::parse("DE").unwrap();
        let by_region = last_effects(&[
            first(),
            put(2, |put| {
                put.content.basis_by_region = BTreeMap::from([(region, LegalBasis::Contract)]);
            }),
        ]);
        assert_eq!(by_region, [BasisChanged]);
        assert_eq!(second(|version| version.data_categories.clear()), [ContentChanged]);
        assert_eq!(second(|version| version.default_validity_ms = Some(1)), [ContentChanged]);
        assert_eq!(second(|version| version.double_opt_in = true), [ContentChanged]);
        assert_eq!(second(|version| "Reworded".clone_into(&mut version.title)), [ContentChanged]);
        assert_eq!(
            second(|version| version
                .obligations
                .push(Obligation::FrequencyLimit { uses_max: 1, period_ms: 1 })),
            [ContentChanged]
        );
        assert_eq!(second(|version| version.controller = Key::parse("a").ok()), [ContentChanged]);
        assert_eq!(second(|version| version.recipients = Some(Vec::new())), [ContentChanged]);
        let raised = put(2, |put| {
            "Reworded".clone_into(&mut put.content.title);
            put.oldest_compatible = 2;
        });
        assert_eq!(last_effects(&[first(), raised.clone()]), [ReconsentRequired, ContentChanged]);
        let lowered = put(2, |put| "Reworded".clone_into(&mut put.content.title));
        assert_eq!(last_effects(&[first(), raised, lowered]), [ReconsentLifted]);
    }

    #[test]
    fn an_entry_that_is_not_folded_has_no_effect() {
        let gap = put(3, |put| "Never shown".clone_into(&mut put.content.title));
        assert_eq!(last_effects(&[put(1, |_| {}), gap]), []);
        assert_eq!(last_effects(&[put(2, |_| {})]), []);
    }
}
