//! What whoever delivers over HTTP needs of a node, and the dead letters that wait to be delivered
//! once more.

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
};

/// The greatest number of dead letters of a subscription that wait to be delivered once more.
pub const REPLAYS_MAX: usize = 10_000;

/// Dead letters that somebody wants to be delivered once more, by shard and index. They are only in
/// memory: whoever asked sees in the list which of them stayed dead letters.
#[derive(Debug, Default)]
pub(super) struct Replays {
    waiting: Mutex<HashMap<SubscriptionId, BTreeSet<(u32, u64)>>>,
    /// Counts how often somebody asked.
    asked: watch::Sender<u64>,
}

impl Node {
    /// The secret that signs what is delivered of a subscription, as Standard Webhooks writes it.
    #[must_use]
    pub fn webhook_secret(&self, id: SubscriptionId) -> String {
        self.core.vault.webhook_secret(id.0)
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

    /// The subscriptions that are delivered by HTTP and were not ended.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Arc<Subscription>> {
        let all = self.core.view.subscriptions();
        all.live().filter(|own| own.spec.webhook_url.is_some()).cloned().collect()
    }

    /// The event at an index; none if the entry is no event. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn event(&self, index: u64) -> Result<Option<Arc<Event>>, ReadError> {
        self.core.event(index)
    }

    /// Has dead letters of a webhook delivered once more: those named that are some, or all. Answers
    /// how many. Blocking.
    ///
    /// # Errors
    /// See [`DeadLettersError`].
    pub fn replay_dead_letters(
        &self,
        name: &str,
        indexes: &[u64],
    ) -> Result<usize, DeadLettersError> {
        let own = self.core.subscription(name)?;
        let mut letters = BTreeSet::new();
        if indexes.is_empty() {
            let all = self.dead_letters(name, None, REPLAYS_MAX)?;
            letters.extend(all.iter().map(|letter| (letter.shard, letter.index)));
        } else if own.spec.webhook_url.is_none() {
            return Err(DeadLettersError::NotWebhook { name: own.spec.name.clone() });
        }
        for &index in indexes {
            for shard in 0..own.spec.shards {
                let settlement = self.core.view.settlement(own.id, shard, index)?;
                if settlement.is_some_and(|own| own.is_failure) {
                    letters.insert((shard, index));
                }
            }
        }
        Ok(self.core.replays.add(own.id, letters))
    }

    /// Tells each time that somebody wants dead letters to be delivered once more.
    #[must_use]
    pub fn replays(&self) -> watch::Receiver<u64> {
        self.core.replays.asked.subscribe()
    }

    /// Takes up to `limit` of those of a shard.
    #[must_use]
    pub fn take_replays(&self, id: SubscriptionId, shard: u32, limit: usize) -> Vec<u64> {
        self.core.replays.take(id, shard, limit)
    }
}

impl Core {
    /// From the ledger: what was told last may be in the view and not in the memory of the hub yet.
    pub(super) fn event(&self, index: u64) -> Result<Option<Arc<Event>>, ReadError> {
        let event = self.hub.event_on_record(index);
        event.map_err(|error| ReadError::StateUnreadable(error.to_string()))
    }
}

impl Replays {
    /// Adds letters, as many as there is room for, and answers how many of them wait.
    fn add(&self, id: SubscriptionId, letters: BTreeSet<(u32, u64)>) -> usize {
        let added = {
            let mut waiting = self.waiting.lock();
            let own = waiting.entry(id).or_default();
            let wanted = letters.len();
            let mut refused = 0;
            for letter in letters {
                if own.len() < REPLAYS_MAX || own.contains(&letter) {
                    own.insert(letter);
                } else {
                    refused += 1;
                }
            }
            wanted - refused
        };
        self.asked.send_modify(|times| *times += 1);
        added
    }

    fn take(&self, id: SubscriptionId, shard: u32, limit: usize) -> Vec<u64> {
        let mut waiting = self.waiting.lock();
        let Some(own) = waiting.get_mut(&id) else { return Vec::new() };
        let of_shard = own.range((shard, 0)..=(shard, u64::MAX)).take(limit);
        let taken: Vec<(u32, u64)> = of_shard.copied().collect();
        for letter in &taken {
            own.remove(letter);
        }
        if own.is_empty() {
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
