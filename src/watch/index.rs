//! An inverted index of filters: finds the listeners of an event without a test of each filter.
//!
//! Every listener has a number. For each kind there is the set of listeners that want it. For each
//! purpose, channel and namespace in some filter there is the set of listeners that list it; and for
//! each of these three dimensions the set of listeners that list nothing, and so want all. A change is
//! for the intersection of its sets. An event is for the union over its changes, narrowed to the
//! namespaces of its data subjects. So an event costs a few passes over one bit for each listener.
//!
//! Invariant: [`FilterIndex::matching`] returns exactly the listeners whose filter the event passes,
//! as defined by [`Event::passing`].

use std::{borrow::Borrow, collections::BTreeSet, hash::Hash, iter::successors};

use fixedbitset::FixedBitSet;
use hashbrown::HashMap;

use crate::{
    domain::{EventKind, Filter, Key, PurposeName, Subject},
    event::{ConsentDetail, Event, EventDetail},
};

/// The filters of all listeners.
#[derive(Debug, Default)]
pub(super) struct FilterIndex {
    kinds: HashMap<EventKind, FixedBitSet>,
    purposes: Dimension<PurposeName>,
    channels: Dimension<Key>,
    namespaces: Dimension<String>,
    /// The result of a search. This set and the next two are kept to reuse their memory.
    found: FixedBitSet,
    change: FixedBitSet,
    union: FixedBitSet,
}

/// The listeners by the values that one part of their filters lists.
#[derive(Debug)]
struct Dimension<K> {
    /// The listeners that list nothing.
    any: FixedBitSet,
    /// The listeners that list each value.
    by_value: HashMap<K, FixedBitSet>,
}

impl FilterIndex {
    /// Adds the filter of a listener that has none yet.
    pub(super) fn insert(&mut self, listener: usize, filter: &Filter) {
        for kind in EventKind::ALL.into_iter().filter(|kind| filter.wants(*kind)) {
            add(self.kinds.entry(kind).or_default(), listener);
        }
        self.purposes.insert(listener, &filter.purposes);
        self.channels.insert(listener, &filter.channels);
        self.namespaces.insert(listener, &filter.namespaces);
    }

    /// Removes the filter of a listener; it must be the one that was added.
    pub(super) fn remove(&mut self, listener: usize, filter: &Filter) {
        for listeners in self.kinds.values_mut() {
            take(listeners, listener);
        }
        self.purposes.remove(listener, &filter.purposes);
        self.channels.remove(listener, &filter.channels);
        self.namespaces.remove(listener, &filter.namespaces);
    }

    /// The listeners whose filter an event passes, ascending.
    pub(super) fn matching(&mut self, event: &Event) -> impl Iterator<Item = usize> {
        self.found.clear();
        match &event.detail {
            EventDetail::Consent(consent) => self.find_consent(consent),
            EventDetail::Ends(ends) => {
                let mut found = FixedBitSet::new();
                for end in ends {
                    self.found.clear();
                    self.find_consent(end);
                    let namespaces = end.subjects().map(Subject::namespace);
                    self.namespaces.narrow(&mut self.found, namespaces, &mut self.union);
                    found.union_with(&self.found);
                }
                self.found = found;
            }
            EventDetail::Link(_) => self.find(EventKind::Link, None, None),
            EventDetail::Catalog(change) => {
                let purpose = change.purpose.clone().map(PurposeName::One);
                self.find(EventKind::Catalog, purpose.as_ref(), change.channel.as_ref());
            }
            EventDetail::Overdue(_) => self.find(EventKind::Overdue, None, None),
        }
        // Of several ends, each was narrowed to the namespaces of its own data subjects.
        let mut namespaces = event.subjects().map(Subject::namespace).peekable();
        if namespaces.peek().is_some() {
            self.namespaces.narrow(&mut self.found, namespaces, &mut self.union);
        }
        self.found.ones()
    }

    /// Adds to `found` the listeners that want a change of an act, in any namespace.
    fn find_consent(&mut self, consent: &ConsentDetail) {
        for change in &consent.changes {
            let scope = &change.scope;
            self.find(change.action.into(), scope.purpose.as_ref(), scope.channel.as_ref());
        }
        if consent.preferences_changed {
            self.find(EventKind::Preferences, None, None);
        }
    }

    /// Adds to `found` the listeners that want a change of this kind. None stands for all purposes or
    /// channels.
    fn find(&mut self, kind: EventKind, purpose: Option<&PurposeName>, channel: Option<&Key>) {
        let Some(of_kind) = self.kinds.get(&kind) else { return };
        self.change.clone_from(of_kind);
        if let Some(purpose) = purpose {
            self.purposes.narrow_to_meeting(&mut self.change, purpose, &mut self.union);
        }
        if channel.is_some() {
            self.channels.narrow(&mut self.change, channel, &mut self.union);
        }
        self.found.union_with(&self.change);
    }
}

impl<K> Default for Dimension<K> {
    fn default() -> Self {
        Self { any: FixedBitSet::new(), by_value: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Dimension<K> {
    fn insert(&mut self, listener: usize, values: &BTreeSet<K>) {
        if values.is_empty() {
            add(&mut self.any, listener);
        }
        for value in values {
            add(self.by_value.entry_ref(value).or_default(), listener);
        }
    }

    fn remove(&mut self, listener: usize, values: &BTreeSet<K>) {
        take(&mut self.any, listener);
        for value in values {
            if let Some(listeners) = self.by_value.get_mut(value) {
                take(listeners, listener);
                if listeners.is_clear() {
                    self.by_value.remove(value);
                }
            }
        }
    }

    /// Keeps the listeners that want one of the values. `union` is overwritten.
    fn narrow<'v, V>(
        &self,
        listeners: &mut FixedBitSet,
        values: impl IntoIterator<Item = &'v V>,
        union: &mut FixedBitSet,
    ) where
        K: Borrow<V>,
        V: Eq + Hash + ?Sized + 'v,
    {
        union.clone_from(&self.any);
        for listing in values.into_iter().filter_map(|value| self.by_value.get(value)) {
            union.union_with(listing);
        }
        listeners.intersect_with(union);
    }
}

impl Dimension<PurposeName> {
    /// Keeps the listeners that list a purpose or class which has a purpose in common with `name`.
    /// `union` is overwritten.
    fn narrow_to_meeting(
        &self,
        listeners: &mut FixedBitSet,
        name: &PurposeName,
        union: &mut FixedBitSet,
    ) {
        union.clone_from(&self.any);
        match name {
            // A purpose is in the classes of its own key alone.
            PurposeName::One(key) => {
                let above = successors(key.parent(), Key::parent).map(PurposeName::Class);
                for listing in above.filter_map(|class| self.by_value.get(&class)) {
                    union.union_with(listing);
                }
                if let Some(listing) = self.by_value.get(name) {
                    union.union_with(listing);
                }
            }
            PurposeName::Class(_) => {
                let meeting = self.by_value.iter().filter(|(listed, _)| listed.meets(name));
                meeting.for_each(|(_, listing)| union.union_with(listing));
            }
        }
        listeners.intersect_with(union);
    }
}

fn add(listeners: &mut FixedBitSet, listener: usize) {
    listeners.grow_and_insert(listener);
}

/// `FixedBitSet::remove` panics beyond the length of the set, which grows with its members.
fn take(listeners: &mut FixedBitSet, listener: usize) {
    if listeners.contains(listener) {
        listeners.remove(listener);
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;
    use crate::{
        domain::{Action, Actor, ChangeRecord, LinkConfidence, Millis, Outcome, ScopeKeys},
        event::{CatalogDetail, CatalogEffect, LinkDetail, OverdueDetail},
    };

    const PURPOSES: [&str; 5] = ["news", "ads", "care", "news.local", "never-listed"];
    const NAMES: [&str; 8] =
        ["news", "ads", "care", "news.local", "never-listed", "news.*", "news.local.*", "ads.*"];
    const CHANNELS: [&str; 4] = ["email", "sms", "push", "post"];
    const NAMESPACES: [&str; 4] = ["user", "email", "device", "crm"];
    /// More listeners than one word of a set has bits.
    const LISTENERS: usize = 90;

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    fn keys(from: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<Key>> {
        vec(select(from), 0..3).prop_map(|texts| texts.into_iter().map(key).collect())
    }

    fn name(text: &str) -> PurposeName {
        PurposeName::parse(text).unwrap()
    }

    fn names() -> impl Strategy<Value = BTreeSet<PurposeName>> {
        vec(select(&NAMES[..]), 0..3).prop_map(|texts| texts.into_iter().map(name).collect())
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let namespaces = vec(select(&NAMESPACES[..]), 0..2);
        let kinds = vec(select(&EventKind::ALL[..]), 0..4);
        (names(), keys(&CHANNELS), kinds, namespaces).prop_map(
            |(purposes, channels, kinds, namespaces)| Filter {
                purposes,
                channels,
                kinds: kinds.into_iter().collect(),
                namespaces: namespaces.into_iter().map(str::to_owned).collect(),
            },
        )
    }

    fn any_change() -> impl Strategy<Value = ChangeRecord> {
        use Action::{Expire, Grant, Object, Refuse, Withdraw};
        let action = select(&[Grant, Refuse, Withdraw, Object, Expire][..]);
        let purpose = option::weighted(0.7, select(&NAMES[..]));
        let channel = option::weighted(0.7, select(&CHANNELS[..]));
        (action, purpose, channel).prop_map(|(action, purpose, channel)| ChangeRecord {
            action,
            scope: ScopeKeys { purpose: purpose.map(name), channel: channel.map(key) },
            purpose_version: 0,
            expires_at: None,
            data_categories: Vec::new(),
            outcome: Outcome::Applied,
            linked_subjects: 0,
        })
    }

    fn any_subject() -> impl Strategy<Value = Subject> {
        (select(&NAMESPACES[..]), 0..9_u8)
            .prop_map(|(namespace, id)| Subject::parse(&format!("{namespace}:{id}")).unwrap())
    }

    fn any_detail() -> impl Strategy<Value = EventDetail> {
        let linked = || vec(any_subject(), 0..3);
        let consent = (any_subject(), vec(any_change(), 0..4), any::<bool>(), linked());
        let consent = consent
            .prop_map(|(subject, changes, preferences_changed, linked)| ConsentDetail {
                subject,
                actor: Actor::Subject,
                effective_at: Millis(0),
                changes,
                preferences_changed,
                cause: None,
                reason: None,
                linked,
                part: None,
            })
            .boxed();
        let end = consent
            .clone()
            .prop_map(|consent| ConsentDetail { preferences_changed: false, ..consent });
        let catalog = (option::of(select(&PURPOSES[..])), select(&CHANNELS[..]));
        prop_oneof![
            6 => consent.prop_map(EventDetail::Consent),
            2 => vec(end, 2..4).prop_map(EventDetail::Ends),
            2 => (any_subject(), any_subject(), linked()).prop_map(|(subject, other, linked)| {
                let confidence = Some(LinkConfidence::Verified);
                EventDetail::Link(LinkDetail { subject, other, confidence, linked })
            }),
            2 => catalog.prop_map(|(purpose, channel)| EventDetail::Catalog(CatalogDetail {
                channel: purpose.is_none().then(|| key(channel)),
                purpose: purpose.map(key),
                namespace: None,
                effects: vec![CatalogEffect::Retired],
                version: 1,
                oldest_compatible: 1,
            })),
            1 => Just(EventDetail::Overdue(OverdueDetail {
                subscription: key("mailer"),
                shard: 0,
                event_index: 1,
                pending_since: Millis(0),
            })),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A listener with this number comes, or, if it is there, leaves.
        Toggle(usize, Box<Filter>),
        Event(Box<EventDetail>),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0..LISTENERS, any_filter()).prop_map(|(at, filter)| Step::Toggle(at, Box::new(filter))),
            1 => any_detail().prop_map(|detail| Step::Event(Box::new(detail))),
        ]
    }

    fn config() -> ProptestConfig {
        let default = ProptestConfig::default();
        let cases = if env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 128 };
        ProptestConfig { cases, ..default }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn the_index_finds_whom_asking_each_filter_finds(
            begin in vec(any_filter(), LISTENERS),
            steps in vec(any_step(), 1..120),
        ) {
            let mut index = FilterIndex::default();
            let mut filters: Vec<Option<Filter>> = begin.into_iter().map(Some).collect();
            for (listener, filter) in filters.iter().enumerate() {
                index.insert(listener, filter.as_ref().unwrap());
            }
            for step in steps {
                match step {
                    Step::Toggle(listener, filter) => match filters[listener].take() {
                        Some(filter) => index.remove(listener, &filter),
                        None => {
                            index.insert(listener, &filter);
                            filters[listener] = Some(*filter);
                        }
                    },
                    Step::Event(detail) => {
                        let event = Event { index: 0, recorded_at: Millis(0), detail: *detail };
                        let passes = |filter: &Option<Filter>| {
                            filter.as_ref().is_some_and(|filter| event.passing(filter).is_some())
                        };
                        let naive: Vec<usize> =
                            (0..LISTENERS).filter(|at| passes(&filters[*at])).collect();
                        prop_assert_eq!(index.matching(&event).collect::<Vec<_>>(), naive);
                    }
                }
            }
        }
    }

    #[test]
    fn values_that_no_filter_lists_are_removed() {
        let mut index = FilterIndex::default();
        let filter = Filter { purposes: [name("news")].into(), ..Filter::default() };
        index.insert(3, &filter);
        index.insert(70, &filter);
        index.remove(3, &filter);
        assert_eq!(index.purposes.by_value.len(), 1);
        index.remove(70, &filter);
        assert!(index.purposes.by_value.is_empty());
    }
}
