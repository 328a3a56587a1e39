//! Node functions for the delivery of webhooks, and dead letters that wait to be delivered again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Core, DeadLettersError, Node, ReadError};
use crate::{
    domain::{Subscription, SubscriptionId},
    event::Event,
    ledger::chain,
};

/// The greatest number of dead letters of a subscription that wait to be delivered again.
pub const REPLAYS_MAX: usize = 10_000;

/// Dead letters that wait to be delivered again. They are kept in memory only: the list of dead letters
/// shows which of them were not delivered.
#[derive(Debug, Default)]
pub(super) struct Replays {
    /// By shard and index.
    waiting: Mutex<HashMap<SubscriptionId, BTreeSet<(u32, u64)>>>,
    /// Number of requests for replays.
    requests: watch::Sender<u64>,
}

impl Node {
    /// The secret that signs the deliveries of a subscription, in the form of Standard Webhooks. It is
    /// derived from the ledger's secret and the entry that created the subscription. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn webhook_secret(&self, id: SubscriptionId) -> Result<String, ReadError> {
        let created = chain::hash(&self.core.entry_bytes(id.0)?);
        Ok(self.core.vault.ledger_secret().webhook_secret(&created))
    }

    /// Identity of the ledger.
    #[must_use]
    pub fn ledger_id(&self) -> [u8; 16] {
        self.core.ledger.ledger_id
    }

    /// Name of the ledger.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.core.ledger.origin
    }

    /// The subscriptions that are delivered by HTTP and not deleted.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Arc<Subscription>> {
        let all = self.core.view.subscriptions();
        let is_webhook =
            |subscription: &&Arc<Subscription>| subscription.spec.webhook_url.is_some();
        all.live().filter(is_webhook).cloned().collect()
    }

    /// The event of the entry at an index, if it has one. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn event(&self, index: u64) -> Result<Option<Arc<Event>>, ReadError> {
        self.core.event(index)
    }

    /// The positions of the changes of an event that a shard of a subscription hears; none if it does not hear
    /// the event.
    #[must_use]
    pub fn passing(
        &self,
        event: &Event,
        subscription: &Subscription,
        shard: u32,
    ) -> Option<Vec<usize>> {
        let spec = &subscription.spec;
        let secret = self.core.vault.ledger_secret();
        event.passing_in(&spec.filter, (shard, spec.shards), secret)
    }

    /// Has dead letters of a webhook delivered again: those at `indexes`, or all if there are none.
    /// Answers how many. Blocking.
    ///
    /// # Errors
    /// See [`DeadLettersError`].
    pub fn replay_dead_letters(
        &self,
        name: &str,
        indexes: &[u64],
    ) -> Result<usize, DeadLettersError> {
        let subscription = self.core.subscription(name)?;
        let mut letters = BTreeSet::new();
        if indexes.is_empty() {
            let all = self.dead_letters(name, None, REPLAYS_MAX)?;
            letters.extend(all.iter().map(|letter| (letter.shard, letter.index)));
        } else if subscription.spec.webhook_url.is_none() {
            return Err(DeadLettersError::NotWebhook { name: subscription.spec.name.clone() });
        }
        for &index in indexes {
            for shard in 0..subscription.spec.shards {
                let settlement = self.core.view.settlement(subscription.id, shard, index)?;
                if settlement.is_some_and(|settlement| settlement.is_failure) {
                    letters.insert((shard, index));
                }
            }
        }
        Ok(self.core.replays.add(subscription.id, letters))
    }

    /// Changes with each request for replays.
    #[must_use]
    pub fn replays(&self) -> watch::Receiver<u64> {
        self.core.replays.requests.subscribe()
    }

    /// Takes up to `limit` waiting dead letters of a shard.
    #[must_use]
    pub fn take_replays(&self, id: SubscriptionId, shard: u32, limit: usize) -> Vec<u64> {
        self.core.replays.take(id, shard, limit)
    }
}

impl Core {
    /// Read from the ledger: the newest entry can be in the view before its event is in the hub.
    pub(super) fn event(&self, index: u64) -> Result<Option<Arc<Event>>, ReadError> {
        Ok(self.hub.event_on_record(index)?)
    }
}

impl Replays {
    /// Adds letters as far as there is room, and answers how many of them wait.
    fn add(&self, id: SubscriptionId, letters: BTreeSet<(u32, u64)>) -> usize {
        let mut waiting = self.waiting.lock();
        let waiting_letters = waiting.entry(id).or_default();
        let mut added = 0;
        for letter in letters {
            if waiting_letters.len() < REPLAYS_MAX || waiting_letters.contains(&letter) {
                waiting_letters.insert(letter);
                added += 1;
            }
        }
        drop(waiting);
        self.requests.send_modify(|requests| *requests += 1);
        added
    }

    fn take(&self, id: SubscriptionId, shard: u32, limit: usize) -> Vec<u64> {
        let mut waiting = self.waiting.lock();
        let Some(letters) = waiting.get_mut(&id) else { return Vec::new() };
        let of_shard = letters.range((shard, 0)..=(shard, u64::MAX)).take(limit);
        let taken: Vec<(u32, u64)> = of_shard.copied().collect();
        for letter in &taken {
            letters.remove(letter);
        }
        if letters.is_empty() {
            waiting.remove(&id);
        }
        taken.into_iter().map(|(_, index)| index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_takes_its_own_once_and_no_more_wait_than_may() {
        let replays = Replays::default();
        let id = SubscriptionId(7);
        assert_eq!(replays.add(id, [(0, 5), (1, 6), (0, 9)].into()), 3);
        assert_eq!(replays.add(id, [(0, 5)].into()), 1, "it waits already");
        assert_eq!(replays.take(SubscriptionId(8), 0, 9), [0_u64; 0]);
        assert_eq!(replays.take(id, 0, 1), [5]);
        assert_eq!(replays.take(id, 0, 9), [9]);
        assert_eq!(replays.take(id, 0, 9), [0_u64; 0]);
        assert_eq!(replays.take(id, 1, 9), [6]);
        let many = (0..REPLAYS_MAX as u64 + 5).map(|index| (0, index)).collect();
        assert_eq!(replays.add(id, many), REPLAYS_MAX);
    }
}
