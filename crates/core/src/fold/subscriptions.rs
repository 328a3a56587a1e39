//! The durable subscriptions, folded from entries. All of them are in memory: there are few.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashMap;

use super::{FoldError, Lead};
use crate::{
    domain::{Key, ShardState, Subscription, SubscriptionId},
    entry::{Fact, Place, Target},
};

/// The durable subscriptions, including ended ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    all: BTreeMap<SubscriptionId, Arc<Subscription>>,
    /// Those that were not ended.
    live: HashMap<Key, SubscriptionId>,
}

impl Subscriptions {
    /// Every subscription in the order of creation, including ended ones.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.all.values()
    }

    /// Those that were not ended.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.all.values().filter(|subscription| subscription.deleted.is_none())
    }

    /// Number of those that were not ended.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// The subscription of this name that was not ended.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Subscription>> {
        self.live.get(name).and_then(|id| self.all.get(id))
    }

    /// A subscription by its identity; it may have been ended.
    #[must_use]
    pub fn get(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.all.get(&id)
    }

    /// Folds in an entry, if it is about subscriptions, and returns the leads to update. Folding an
    /// entry again changes nothing.
    ///
    /// # Errors
    /// [`FoldError::UnknownSubscription`]: no entry before it created that subscription or shard.
    pub fn fold(&mut self, fact: Fact<'_>) -> Result<Vec<Lead>, FoldError> {
        match fact.kind.target() {
            Target::Subscriptions(target) => target.fold(fact.place, self),
            Target::Subjects(_) | Target::Catalog(_) | Target::Nothing => Ok(Vec::new()),
        }
    }

    /// Adds a subscription with its state.
    pub fn restore(&mut self, subscription: Arc<Subscription>) {
        if subscription.deleted.is_none() {
            self.live.insert(subscription.spec.name.clone(), subscription.id);
        }
        self.all.insert(subscription.id, subscription);
    }

    /// Ends a subscription.
    pub(crate) fn end(&mut self, id: SubscriptionId, place: Place) -> Result<(), FoldError> {
        let subscription = self.get_mut(id, place.index)?;
        subscription.deleted = Some((place.index, place.recorded_at));
        let name = subscription.spec.name.clone();
        if self.live.get(&name) == Some(&id) {
            self.live.remove(&name);
        }
        Ok(())
    }

    /// A shard of a subscription, for the entry at `index` to change.
    pub(crate) fn shard_mut(
        &mut self,
        id: SubscriptionId,
        shard: u32,
        index: u64,
    ) -> Result<&mut ShardState, FoldError> {
        let shards = &mut self.get_mut(id, index)?.shards;
        shards.get_mut(shard as usize).ok_or(FoldError::UnknownSubscription { index, id })
    }

    fn get_mut(&mut self, id: SubscriptionId, index: u64) -> Result<&mut Subscription, FoldError> {
        let subscription = self.all.get_mut(&id).map(Arc::make_mut);
        subscription.ok_or(FoldError::UnknownSubscription { index, id })
    }
}
