//! `SubscriptionCreated`: a durable subscription was created. It does not change until it is ended.
//! Its identity is the index of this entry.

use std::sync::Arc;

use crate::{
    domain::{Filter, Key, PurposeName, SHARDS_MAX, Snapshot, Subscription, SubscriptionId},
    entry::{
        Content, EntryError, NamesNoSubject, OfSubscriptions, Place, Target,
        fields::{field, key},
    },
    event::EventOutline,
    fold::{FoldError, Lead, Subscriptions},
    proto::{
        self,
        ledger::{self, item},
    },
};

/// The fixed properties of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionCreated {
    /// Name.
    pub name: Key,
    /// The person or team that is responsible for it.
    pub owner: String,
    /// Which events it receives.
    pub filter: Filter,
    /// The first index that it receives.
    pub start_index: u64,
    /// The state that its consumers receive first, as of the revision `start_index`.
    pub snapshot: Option<Snapshot>,
    /// Over how many consumers it is spread: 1 to [`SHARDS_MAX`].
    pub shards: u32,
    /// How long an event may stay unacknowledged, in milliseconds; none means for ever.
    pub deadline_ms: Option<i64>,
    /// Where it is delivered by HTTP; none if it is consumed.
    pub webhook_url: Option<String>,
}

impl NamesNoSubject for SubscriptionCreated {
    /// The webhook's address is an item of its own.
    fn content(&self) -> Content {
        let filter = filter_to_proto(&self.filter);
        let created = ledger::SubscriptionCreated {
            name: self.name.to_string(),
            owner: self.owner.clone(),
            purposes: filter.purposes,
            channels: filter.channels,
            kinds: filter.kinds,
            namespaces: filter.namespaces,
            start_index: self.start_index,
            snapshot: snapshot_to_proto(self.snapshot).into(),
            shards: self.shards,
            deadline_ms: self.deadline_ms,
            has_webhook: self.webhook_url.is_some(),
        };
        let address = self
            .webhook_url
            .clone()
            .map(|url| item::Content::WebhookAddress(ledger::WebhookAddress { url }));
        let created = item::Content::SubscriptionCreated(created);
        Content::Items(std::iter::once(created).chain(address).collect())
    }

    fn target(&self) -> Target<'_> {
        Target::Subscriptions(self)
    }

    fn outline(&self) -> EventOutline<'_> {
        EventOutline::Nothing
    }
}

impl OfSubscriptions for SubscriptionCreated {
    fn fold(&self, place: Place, all: &mut Subscriptions) -> Result<Vec<Lead>, FoldError> {
        let id = SubscriptionId(place.index);
        if all.get(id).is_none() {
            all.restore(Arc::new(Subscription::new(id, place.recorded_at, self.clone())));
        }
        Ok(vec![Lead::Subscription(id)])
    }
}

impl SubscriptionCreated {
    /// The subscription of a message, with the webhook's address beside it.
    pub(super) fn of_message(
        message: ledger::SubscriptionCreated,
        webhook_url: Option<String>,
    ) -> Result<Self, EntryError> {
        if message.has_webhook != webhook_url.is_some() {
            return Err(field("webhook_address"));
        }
        if message.shards == 0 || message.shards > SHARDS_MAX {
            return Err(field("shards"));
        }
        Ok(Self {
            name: key("subscription_created.name", &message.name)?,
            snapshot: message.snapshot().try_into().ok(),
            filter: filter_of_message(&message)?,
            owner: message.owner,
            start_index: message.start_index,
            shards: message.shards,
            deadline_ms: message.deadline_ms,
            webhook_url,
        })
    }
}

/// The content of a snapshot, as a message.
#[must_use]
pub fn snapshot_to_proto(snapshot: Option<Snapshot>) -> proto::Snapshot {
    snapshot.map_or(proto::Snapshot::Unspecified, Into::into)
}

/// A filter as a message.
#[must_use]
pub fn filter_to_proto(filter: &Filter) -> proto::WatchFilter {
    proto::WatchFilter {
        purposes: filter.purposes.iter().map(ToString::to_string).collect(),
        channels: filter.channels.iter().map(ToString::to_string).collect(),
        kinds: filter.kinds.iter().map(|kind| proto::EventKind::from(*kind).into()).collect(),
        namespaces: filter.namespaces.iter().cloned().collect(),
    }
}

fn filter_of_message(filter: &ledger::SubscriptionCreated) -> Result<Filter, EntryError> {
    let purpose = |text: &String| PurposeName::parse(text).map_err(|_| field("purposes"));
    let channel = |text: &String| key("channels", text);
    let kind = |number: &i32| {
        let kind = proto::EventKind::try_from(*number).ok();
        kind.and_then(|kind| kind.try_into().ok()).ok_or(field("filter.kinds"))
    };
    Ok(Filter {
        purposes: filter.purposes.iter().map(purpose).collect::<Result<_, _>>()?,
        channels: filter.channels.iter().map(channel).collect::<Result<_, _>>()?,
        kinds: filter.kinds.iter().map(kind).collect::<Result<_, _>>()?,
        namespaces: filter.namespaces.iter().cloned().collect(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*};

    use super::*;
    use crate::{
        domain::EventKind,
        entry::{Body, SubscriptionEntry, fields::tests::any_catalog_key, tests::reads_back},
    };

    fn any_filter() -> impl Strategy<Value = Filter> {
        let keys = || prop::collection::btree_set(any_catalog_key(), 0..3);
        let kinds = prop::sample::subsequence(EventKind::ALL.to_vec(), 0..EventKind::ALL.len());
        let namespaces = prop::collection::btree_set("[a-z]{1,9}", 0..3);
        let name = |(key, is_class)| match is_class {
            true => PurposeName::Class(key),
            false => PurposeName::One(key),
        };
        let name = (any_catalog_key(), any::<bool>()).prop_map(name);
        let purposes = prop::collection::btree_set(name, 0..3);
        (purposes, keys(), kinds, namespaces).prop_map(|(purposes, channels, kinds, namespaces)| {
            Filter { purposes, channels, kinds: kinds.into_iter().collect(), namespaces }
        })
    }

    pub(in crate::entry) fn any_created() -> impl Strategy<Value = SubscriptionCreated> {
        let snapshot = option::of(prop::sample::select(vec![Snapshot::Denied, Snapshot::All]));
        let numbers = (any::<u64>(), 1..=SHARDS_MAX, option::of(any::<i64>()));
        let texts = (any_catalog_key(), ".{0,9}", option::of("https://[a-z]{1,9}"));
        (texts, any_filter(), numbers, snapshot).prop_map(
            |((name, owner, webhook_url), filter, (start_index, shards, deadline_ms), snapshot)| {
                SubscriptionCreated {
                    name,
                    owner,
                    filter,
                    start_index,
                    snapshot,
                    shards,
                    deadline_ms,
                    webhook_url,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn it_reads_back(created in any_created()) {
            reads_back(&Body::Subscription(SubscriptionEntry::Created(Box::new(created))));
        }
    }

    #[test]
    fn a_subscription_has_an_address_if_it_says_so_and_not_else() {
        for (has_webhook, url) in [(true, None), (false, Some("https://a".to_owned()))] {
            let name = "crm".to_owned();
            let message =
                ledger::SubscriptionCreated { name, shards: 1, has_webhook, ..Default::default() };
            let refused = SubscriptionCreated::of_message(message, url);
            assert_eq!(refused, Err(field("webhook_address")));
        }
    }
}
