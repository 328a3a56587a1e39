//! `ChannelPut`: a channel was added to the catalogue, or changed.

use super::{Content, EntryError, NamesNoSubject, OfCatalog, Place, Target, fields::key};
use crate::{
    domain::{Catalog, Channel, Key},
    event::{CatalogDetail, CatalogEffect, EventOutline},
    format::entry::Body as ClearBody,
    proto::ledger,
};

/// A catalogue entry for a channel, as written to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPut {
    /// Key.
    pub key: Key,
    /// Title for people.
    pub title: String,
    /// Whether the channel is retired.
    pub retired: bool,
}

impl NamesNoSubject for ChannelPut {
    fn content(&self) -> Content {
        Content::Clear(ClearBody::Channel(ledger::ChannelPut {
            key: self.key.to_string(),
            title: self.title.clone(),
            retired: self.retired,
        }))
    }

    fn target(&self) -> Target<'_> {
        Target::Catalog(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Catalog
    }
}

impl OfCatalog for ChannelPut {
    fn fold(&self, _: Place, catalog: &mut Catalog) -> Option<CatalogDetail> {
        let before = channel(catalog, &self.key).cloned();
        catalog.put_channel(self.clone());
        let after = channel(catalog, &self.key)?;
        Some(CatalogDetail {
            purpose: None,
            channel: Some(self.key.clone()),
            namespace: None,
            effects: effects(before.as_ref(), after),
            version: 0,
            oldest_compatible: 0,
        })
    }
}

fn channel<'a>(catalog: &'a Catalog, key: &Key) -> Option<&'a Channel> {
    catalog.channel_id(key.as_str()).and_then(|id| catalog.channel(id))
}

/// The effects of a change on decisions; a new title has none.
fn effects(before: Option<&Channel>, after: &Channel) -> Vec<CatalogEffect> {
    let added = before.is_none().then_some(CatalogEffect::Added);
    let was_retired = before.is_some_and(|before| before.retired);
    added.into_iter().chain(retirement_effect(was_retired, after.retired)).collect()
}

/// The effect of a change of whether a purpose or channel is retired.
pub(super) fn retirement_effect(was_retired: bool, is_retired: bool) -> Option<CatalogEffect> {
    match (was_retired, is_retired) {
        (false, true) => Some(CatalogEffect::Retired),
        (true, false) => Some(CatalogEffect::Reinstated),
        _ => None,
    }
}

impl TryFrom<&ledger::ChannelPut> for ChannelPut {
    type Error = EntryError;

    fn try_from(message: &ledger::ChannelPut) -> Result<Self, EntryError> {
        Ok(Self {
            key: key("channel_put.key", &message.key)?,
            title: message.title.clone(),
            retired: message.retired,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::{Body, fields::tests::any_catalog_key, tests::reads_back};

    pub(in crate::entry) fn any_channel_put() -> impl Strategy<Value = ChannelPut> {
        (any_catalog_key(), ".{0,9}", any::<bool>()).prop_map(|(key, title, retired)| ChannelPut {
            key,
            title,
            retired,
        })
    }

    proptest! {
        #[test]
        fn it_reads_back(put in any_channel_put()) {
            reads_back(&Body::ChannelPut(put));
        }
    }

    /// The effects of the last of some entries.
    fn last_effects(puts: &[ChannelPut]) -> Vec<CatalogEffect> {
        let mut catalog = Catalog::default();
        let fold = |put: &ChannelPut| {
            put.fold(Place { index: 1, recorded_at: crate::domain::Millis(0) }, &mut catalog)
        };
        let change = puts.iter().map(fold).last().flatten();
        change.map_or(Vec::new(), |change| change.effects)
    }

    #[test]
    fn a_title_of_a_channel_changes_no_answer() {
        use CatalogEffect::{Added, Reinstated, Retired};
        let sms = |title: &str, retired| {
            let key = Key::parse("sms").unwrap();
            ChannelPut { key, title: title.to_owned(), retired }
        };
        assert_eq!(last_effects(&[sms("SMS", false)]), [Added]);
        assert_eq!(last_effects(&[sms("SMS", false), sms("Text", false)]), []);
        assert_eq!(last_effects(&[sms("SMS", false), sms("Text", true)]), [Retired]);
        assert_eq!(last_effects(&[sms("SMS", true), sms("SMS", false)]), [Reinstated]);
    }
}
