//! What a change of the catalogue can do to answers, told as one event a purpose or channel.
//!
//! Pure, but for [`History`], which folds the catalogue's entries for watchers that read the ledger:
//! what they hear of an entry depends on all catalogue entries before it.

use std::collections::BTreeMap;

use crate::{
    domain::{Body, Catalog, Channel, Key, Purpose},
    view::CatalogAt,
};

use super::event::{CatalogEffect, CatalogTold};

/// What watchers hear of a catalogue entry that leads from one catalogue to another; none if no
/// answer can change.
#[must_use]
pub fn catalog_told(before: &Catalog, after: &Catalog, body: &Body) -> Option<CatalogTold> {
    match body {
        Body::PurposePut(put) => purpose_told(purpose(before, &put.key), purpose(after, &put.key)?),
        Body::ChannelPut(put) => channel_told(channel(before, &put.key), channel(after, &put.key)?),
        _ => None,
    }
}

fn purpose<'a>(catalog: &'a Catalog, key: &Key) -> Option<&'a Purpose> {
    catalog.purpose_id(key.as_str()).and_then(|id| catalog.purpose(id))
}

fn channel<'a>(catalog: &'a Catalog, key: &Key) -> Option<&'a Channel> {
    catalog.channel_id(key.as_str()).and_then(|id| catalog.channel(id))
}

fn purpose_told(before: Option<&Purpose>, after: &Purpose) -> Option<CatalogTold> {
    let effects = purpose_effects(before, after);
    (!effects.is_empty()).then(|| CatalogTold {
        purpose: Some(after.key.clone()),
        channel: None,
        effects,
        version: after.version(),
        oldest_compatible: after.oldest_compatible,
    })
}

fn channel_told(before: Option<&Channel>, after: &Channel) -> Option<CatalogTold> {
    let effects = channel_effects(before, after);
    (!effects.is_empty()).then(|| CatalogTold {
        purpose: None,
        channel: Some(after.key.clone()),
        effects,
        version: 0,
        oldest_compatible: 0,
    })
}

/// What a change of a purpose can do to answers. A new version counts as new content even where only
/// its words differ: what people are shown is part of what they agree to.
#[must_use]
pub fn purpose_effects(before: Option<&Purpose>, after: &Purpose) -> Vec<CatalogEffect> {
    use CatalogEffect::{Added, BasisChanged, ContentChanged, ReconsentLifted, ReconsentRequired};
    let Some(before) = before else {
        return Some(Added).into_iter().chain(standing(false, after.retired)).collect();
    };
    let (old, new) = (before.current(), after.current());
    let basis_differs =
        old.legal_basis != new.legal_basis || old.basis_by_region != new.basis_by_region;
    let content_differs = {
        let mut rest = new.clone();
        rest.legal_basis = old.legal_basis;
        rest.basis_by_region.clone_from(&old.basis_by_region);
        rest != *old
    };
    let oldest = (before.oldest_compatible, after.oldest_compatible);
    [
        standing(before.retired, after.retired),
        (oldest.0 < oldest.1).then_some(ReconsentRequired),
        (oldest.0 > oldest.1).then_some(ReconsentLifted),
        basis_differs.then_some(BasisChanged),
        content_differs.then_some(ContentChanged),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a change of a channel can do to answers; its title alone does nothing.
#[must_use]
pub fn channel_effects(before: Option<&Channel>, after: &Channel) -> Vec<CatalogEffect> {
    let added = before.is_none().then_some(CatalogEffect::Added);
    let was_retired = before.is_some_and(|before| before.retired);
    added.into_iter().chain(standing(was_retired, after.retired)).collect()
}

fn standing(was_retired: bool, is_retired: bool) -> Option<CatalogEffect> {
    match (was_retired, is_retired) {
        (false, true) => Some(CatalogEffect::Retired),
        (true, false) => Some(CatalogEffect::Reinstated),
        _ => None,
    }
}

/// What every catalogue entry told, as far as somebody asked. It grows with the history of the
/// catalogue, as the catalogue in memory does.
#[derive(Debug, Default)]
pub(super) struct History {
    catalog: CatalogAt,
    told: BTreeMap<u64, CatalogTold>,
}

impl History {
    /// What the catalogue entry at `index` told. `entries` gives the indexes of all catalogue
    /// entries, ascending, and `read` one of them.
    pub(super) fn told<E>(
        &mut self,
        index: u64,
        entries: impl FnOnce() -> Result<Vec<u64>, E>,
        read: impl Fn(u64) -> Result<Body, E>,
    ) -> Result<Option<CatalogTold>, E> {
        if index >= self.catalog.revision {
            let from = self.catalog.revision;
            let unread = entries()?.into_iter().filter(|at| (from..=index).contains(at));
            for at in unread {
                self.fold(at, &read(at)?);
            }
        }
        Ok(self.told.get(&index).cloned())
    }

    /// Keeps of the catalogue before only what the entry is about: there may be many entries.
    fn fold(&mut self, at: u64, body: &Body) {
        let catalog = &mut self.catalog;
        let told = match body {
            Body::PurposePut(put) => {
                let before = purpose(&catalog.catalog, &put.key).cloned();
                catalog.put(at, body);
                let after = purpose(&catalog.catalog, &put.key);
                after.and_then(|after| purpose_told(before.as_ref(), after))
            }
            Body::ChannelPut(put) => {
                let before = channel(&catalog.catalog, &put.key).cloned();
                catalog.put(at, body);
                let after = channel(&catalog.catalog, &put.key);
                after.and_then(|after| channel_told(before.as_ref(), after))
            }
            _ => None,
        };
        self.told.extend(told.map(|told| (at, told)));
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap as Map};

    use super::*;
    use crate::domain::{ChannelPut, LegalBasis, Obligation, PurposePut, PurposeVersion, Region};

    fn put(version: u32, spoil: impl FnOnce(&mut PurposePut)) -> Body {
        let mut put = PurposePut {
            key: Key::parse("news").unwrap(),
            version,
            content: PurposeVersion {
                title: "News".to_owned(),
                description: String::new(),
                legal_basis: LegalBasis::Consent,
                basis_by_region: Map::new(),
                data_categories: vec!["user.contact".to_owned()],
                default_validity_ms: None,
                double_opt_in: false,
                obligations: Vec::new(),
            },
            oldest_compatible: 1,
            retired: false,
        };
        spoil(&mut put);
        Body::PurposePut(put)
    }

    fn sms(title: &str, retired: bool) -> Body {
        let key = Key::parse("sms").unwrap();
        Body::ChannelPut(ChannelPut { key, title: title.to_owned(), retired })
    }

    /// The effects of the last of some entries.
    fn effects(bodies: &[Body]) -> Vec<CatalogEffect> {
        let mut catalog = CatalogAt::default();
        let mut effects = Vec::new();
        for (index, body) in (1..).zip(bodies) {
            let before = catalog.catalog.clone();
            catalog.put(index, body);
            let told = catalog_told(&before, &catalog.catalog, body);
            effects = told.map_or(Vec::new(), |told| told.effects);
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
        assert_eq!(effects(&[first()]), [Added]);
        assert_eq!(effects(&[put(1, |put| put.retired = true)]), [Added, Retired]);
        assert_eq!(effects(&[first(), put(1, |put| put.retired = true)]), [Retired]);
        assert_eq!(effects(&[put(1, |put| put.retired = true), first()]), [Reinstated]);
        let second = |spoil: fn(&mut PurposeVersion)| {
            effects(&[first(), put(2, |put| spoil(&mut put.content))])
        };
        assert_eq!(second(|own| own.legal_basis = LegalBasis::Contract), [BasisChanged]);
        let region = Region::parse("DE").unwrap();
        let by_region = effects(&[
            first(),
            put(2, |put| {
                put.content.basis_by_region = Map::from([(region, LegalBasis::Contract)]);
            }),
        ]);
        assert_eq!(by_region, [BasisChanged]);
        assert_eq!(second(|own| own.data_categories.clear()), [ContentChanged]);
        assert_eq!(second(|own| own.default_validity_ms = Some(1)), [ContentChanged]);
        assert_eq!(second(|own| own.double_opt_in = true), [ContentChanged]);
        assert_eq!(second(|own| "Reworded".clone_into(&mut own.title)), [ContentChanged]);
        assert_eq!(
            second(|own| own
                .obligations
                .push(Obligation::FrequencyLimit { uses_max: 1, period_ms: 1 })),
            [ContentChanged]
        );
        let raised = put(2, |put| {
            "Reworded".clone_into(&mut put.content.title);
            put.oldest_compatible = 2;
        });
        assert_eq!(effects(&[first(), raised.clone()]), [ReconsentRequired, ContentChanged]);
        let lowered = put(2, |put| "Reworded".clone_into(&mut put.content.title));
        assert_eq!(effects(&[first(), raised, lowered]), [ReconsentLifted]);
    }

    #[test]
    fn a_title_of_a_channel_changes_no_answer() {
        use CatalogEffect::{Added, Reinstated, Retired};
        assert_eq!(effects(&[sms("SMS", false)]), [Added]);
        assert_eq!(effects(&[sms("SMS", false), sms("Text", false)]), []);
        assert_eq!(effects(&[sms("SMS", false), sms("Text", true)]), [Retired]);
        assert_eq!(effects(&[sms("SMS", true), sms("SMS", false)]), [Reinstated]);
    }

    #[test]
    fn an_entry_that_is_not_folded_tells_nothing() {
        let gap = put(3, |put| "Never shown".clone_into(&mut put.content.title));
        assert_eq!(effects(&[put(1, |_| {}), gap]), []);
        assert_eq!(effects(&[put(2, |_| {})]), []);
    }

    #[test]
    fn history_is_read_once_and_told_in_any_order() {
        let bodies = [
            (1, put(1, |_| {})),
            (4, sms("SMS", false)),
            (5, sms("Text", false)),
            (9, put(1, |put| put.retired = true)),
        ];
        let entries = || Ok::<_, ()>(bodies.iter().map(|(at, _)| *at).collect());
        let reads = Cell::new(0);
        let read = |at| {
            reads.set(reads.get() + 1);
            let (_, body) = bodies.iter().find(|(own, _)| *own == at).unwrap();
            Ok(body.clone())
        };
        let mut history = History::default();
        let mut effects = |index| {
            let told = history.told(index, entries, read).unwrap();
            told.map(|told| told.effects)
        };
        assert_eq!(effects(4), Some(vec![CatalogEffect::Added]));
        assert_eq!(reads.get(), 2, "what comes later is not read yet");
        assert_eq!(effects(9), Some(vec![CatalogEffect::Retired]));
        assert_eq!(effects(1), Some(vec![CatalogEffect::Added]));
        assert_eq!(effects(5), None);
        assert_eq!(reads.get(), 4);
    }
}
