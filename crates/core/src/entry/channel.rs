//! `ChannelPut`: a channel was added to the catalogue, or changed.

use super::{
    EntryError, IdempotencyMark, Kind, OfCatalog, Place, Receipted, Subjects, Target, fields::key,
};
use crate::{
    domain::{Catalog, Channel, Key, SubjectRef},
    event::{CatalogEffect, CatalogTold, Tells},
    fold::Lead,
    history::Line,
    proto,
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

impl Kind for ChannelPut {
    fn message(&self) -> proto::entry::Body {
        proto::entry::Body::ChannelPut(proto::ChannelPut {
            key: self.key.to_string(),
            title: self.title.clone(),
            retired: self.retired,
        })
    }

    fn named(&self) -> Subjects {
        Subjects::new()
    }

    fn target(&self) -> Target<'_> {
        Target::Catalog(self)
    }

    fn leads(&self, _: Place) -> Vec<Lead> {
        Vec::new()
    }

    fn tells(&self) -> Tells<'_> {
        Tells::Catalog
    }

    fn line(&self, _: Place, _: SubjectRef) -> Option<Line> {
        None
    }

    fn idempotency(&self) -> Option<IdempotencyMark> {
        None
    }

    fn receipt(&self) -> Option<Receipted<'_>> {
        None
    }
}

impl OfCatalog for ChannelPut {
    fn fold(&self, _: Place, catalog: &mut Catalog) -> Option<CatalogTold> {
        let before = channel(catalog, &self.key).cloned();
        catalog.put_channel(self.clone());
        told(before.as_ref(), channel(catalog, &self.key)?)
    }
}

fn channel<'a>(catalog: &'a Catalog, key: &Key) -> Option<&'a Channel> {
    catalog.channel_id(key.as_str()).and_then(|id| catalog.channel(id))
}

fn told(before: Option<&Channel>, after: &Channel) -> Option<CatalogTold> {
    let effects = channel_effects(before, after);
    (!effects.is_empty()).then(|| CatalogTold {
        purpose: None,
        channel: Some(after.key.clone()),
        effects,
        version: 0,
        oldest_compatible: 0,
    })
}

/// What a change of a channel can do to answers; its title alone does nothing.
#[must_use]
pub fn channel_effects(before: Option<&Channel>, after: &Channel) -> Vec<CatalogEffect> {
    let added = before.is_none().then_some(CatalogEffect::Added);
    let was_retired = before.is_some_and(|before| before.retired);
    added.into_iter().chain(standing(was_retired, after.retired)).collect()
}

pub(super) fn standing(was_retired: bool, is_retired: bool) -> Option<CatalogEffect> {
    match (was_retired, is_retired) {
        (false, true) => Some(CatalogEffect::Retired),
        (true, false) => Some(CatalogEffect::Reinstated),
        _ => None,
    }
}

impl TryFrom<proto::ChannelPut> for ChannelPut {
    type Error = EntryError;

    fn try_from(message: proto::ChannelPut) -> Result<Self, EntryError> {
        Ok(Self {
            key: key("channel_put.key", &message.key)?,
            title: message.title,
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
    fn effects(puts: &[ChannelPut]) -> Vec<CatalogEffect> {
        let mut catalog = Catalog::default();
        let fold = |put: &ChannelPut| {
            put.fold(Place { index: 1, recorded_at: crate::domain::Millis(0) }, &mut catalog)
        };
        let told = puts.iter().map(fold).last().flatten();
        told.map_or(Vec::new(), |told| told.effects)
    }

    #[test]
    fn a_title_of_a_channel_changes_no_answer() {
        use CatalogEffect::{Added, Reinstated, Retired};
        let sms = |title: &str, retired| {
            let key = Key::parse("sms").unwrap();
            ChannelPut { key, title: title.to_owned(), retired }
        };
        assert_eq!(effects(&[sms("SMS", false)]), [Added]);
        assert_eq!(effects(&[sms("SMS", false), sms("Text", false)]), []);
        assert_eq!(effects(&[sms("SMS", false), sms("Text", true)]), [Retired]);
        assert_eq!(effects(&[sms("SMS", true), sms("SMS", false)]), [Reinstated]);
    }
}
