//! Durable subscriptions: created, listed, ended; and who has heard what.

use std::{
    cmp::Ordering,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Core, DeadLettersError, Node, ReadError, SubscribeError, SubscriptionNotFound,
    UnsubscribeError, WriteError,
    batch::Batch,
    delivery::{self, Pending, Written},
};
use crate::{
    domain::{
        Filter, Key, Millis, Snapshot, Subscription, SubscriptionCreated, SubscriptionDeleted,
        SubscriptionEntry,
    },
    event::Event,
    view::{DeadLetter, Settlement},
};

/// Dead letters of a subscription are counted up to this many.
const DEAD_LETTERS_COUNTED_MAX: usize = 10_000;
/// How long a list of subscriptions looks for how far they are behind.
const LAG_TIME_MAX: Duration = Duration::from_millis(500);

/// A subscription that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubscription {
    /// Name.
    pub name: Key,
    /// Who answers for it.
    pub owner: String,
    /// Which events it must hear.
    pub filter: Filter,
    /// First index that it must hear; none means the first after its creation.
    pub start: Option<u64>,
    /// The state that its consumers hear first.
    pub snapshot: Option<Snapshot>,
    /// Over how many consumers it is spread.
    pub shards: u32,
    /// How long an event may stay unacknowledged, in milliseconds.
    pub deadline_ms: Option<i64>,
    /// Where to deliver by HTTP.
    pub webhook_url: Option<String>,
}

/// A subscription that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Whether it is new.
    pub created: bool,
}

/// A subscription, and how far it is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionReport {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Its shards, from 0.
    pub shards: Vec<ShardReport>,
    /// Number of events that were given up, counted up to 10,000.
    pub dead_letters: u64,
}

/// How far one shard is behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// Everything before it is acknowledged or concerns the subscription not.
    pub next_index: u64,
    /// Entries from the oldest event that is not acknowledged to the head.
    pub lag_entries: u64,
    /// When that event was recorded; none if there is none.
    pub pending_since: Option<Millis>,
    /// The name of the present consumer; none if there is none.
    pub consumer: Option<String>,
    /// Whether the deadline has passed.
    pub overdue: bool,
    /// Whether the snapshot is still to be acknowledged.
    pub snapshot_pending: bool,
}

/// Who has heard an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropagationReport {
    /// When the ledger recorded the entry.
    pub recorded_at: Millis,
    /// Every subscription that should have heard it, by name.
    pub subscriptions: Vec<Propagation>,
    /// Number of entries that the answer takes into account.
    pub revision: u64,
}

/// An event at one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Propagation {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// What became of the event.
    pub state: PropagationState,
    /// How long it took, or has taken so far.
    pub elapsed: Duration,
}

/// What became of an event at a subscription; of one that is sharded, at the shard that is furthest
/// behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationState {
    /// It was acknowledged: when, and the entry that proves it.
    Acknowledged(Millis, u64),
    /// It is not acknowledged.
    Pending,
    /// It is not acknowledged, and the deadline has passed.
    Overdue,
    /// It was given up: when, and the entry that says so.
    DeadLetter(Millis, u64),
    /// The subscription was ended before: when, and the entry that ended it.
    Deleted(Millis, u64),
}

impl Node {
    /// Creates a subscription, unless there is one that is the same but for its start.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub async fn create_subscription(
        &self,
        new: NewSubscription,
    ) -> Result<Subscribed, SubscribeError> {
        if let Some(url) = &new.webhook_url {
            let judged = self.core.limits.webhook_targets.check_url(url);
            judged.map_err(|why| SubscribeError::WebhookRefused { problem: why.to_string() })?;
        }
        self.write(move |batch| batch.subscribe(new)).await
    }

    /// Ends a subscription, and answers the index of the entry that says so.
    ///
    /// # Errors
    /// See [`UnsubscribeError`].
    pub async fn delete_subscription(&self, name: Key) -> Result<u64, UnsubscribeError> {
        let (index, written) = self.write(move |batch| batch.unsubscribe(&name)).await?;
        self.core.report_written(&written);
        Ok(index)
    }

    /// The subscription of a name that was not ended.
    ///
    /// # Errors
    /// [`SubscriptionNotFound`].
    pub fn subscription(&self, name: &str) -> Result<Arc<Subscription>, SubscriptionNotFound> {
        self.core.subscription(name)
    }

    /// Up to `limit` subscriptions beyond a name, by name, with how far they are behind. Where more of
    /// the ledger would have to be read than there is time for, they are said to be further behind
    /// than they may be, never less. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn subscriptions(
        &self,
        owner: Option<&str>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<SubscriptionReport>, ReadError> {
        let all = self.core.view.subscriptions();
        let is_listed = |own: &&Arc<Subscription>| {
            owner.is_none_or(|owner| own.spec.owner == owner)
                && after.is_none_or(|after| own.spec.name > *after)
        };
        let mut listed: Vec<_> = all.live().filter(is_listed).collect();
        listed.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let until = Instant::now() + LAG_TIME_MAX;
        let reports = listed.into_iter().take(limit).map(|own| self.core.report(own, until));
        reports.collect()
    }

    /// Who has heard the event at an index. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] or [`ReadError::StateUnreadable`].
    pub fn propagation(&self, index: u64) -> Result<PropagationReport, ReadError> {
        self.core.propagation(index)
    }

    /// Up to `limit` events of a webhook that were given up, beyond a shard and index. Blocking.
    ///
    /// # Errors
    /// See [`DeadLettersError`].
    pub fn dead_letters(
        &self,
        name: &str,
        after: Option<(u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeadLettersError> {
        let own = self.core.subscription(name)?;
        if own.spec.webhook_url.is_none() {
            return Err(DeadLettersError::NotWebhook { name: own.spec.name.clone() });
        }
        Ok(self.core.view.dead_letters(own.id, after, limit)?)
    }
}

impl Core {
    fn report(
        &self,
        own: &Arc<Subscription>,
        until: Instant,
    ) -> Result<SubscriptionReport, ReadError> {
        let mut shards = Vec::with_capacity(own.shards.len());
        for shard in 0..own.spec.shards {
            shards.push(self.shard_report(own, shard, until));
        }
        let dead_letters = match own.spec.webhook_url {
            Some(_) => self.view.dead_letter_count(own.id, DEAD_LETTERS_COUNTED_MAX)? as u64,
            None => 0,
        };
        Ok(SubscriptionReport { subscription: Arc::clone(own), shards, dead_letters })
    }

    pub(super) fn shard_report(
        &self,
        own: &Arc<Subscription>,
        shard: u32,
        until: Instant,
    ) -> ShardReport {
        // One that was ended just now is no longer behind.
        let Some(standing) = self.standing(own, shard, until) else {
            return ShardReport::default();
        };
        let head = self.hub.head();
        let mut lag_start = standing.pending.map(|pending| pending.index);
        let mut oldest = standing.oldest(own);
        if standing.pending.is_none() && standing.seen < standing.head {
            // What has not been looked through may be pending from its first entry on.
            lag_start = Some(standing.seen);
            // If that can not be read, then perhaps all that it must hear is.
            let entry = self.entry(standing.seen);
            let since = entry.map_or(own.created_at, |entry| entry.recorded_at);
            oldest = oldest.or(Some(Pending { index: standing.seen, since }));
        }
        let overdue = standing
            .oldest(own)
            .is_some_and(|pending| delivery::is_overdue(own, pending.counts_from(own), self.now()));
        ShardReport {
            next_index: standing.next_index,
            lag_entries: lag_start.map_or(0, |start| head.saturating_sub(start)),
            pending_since: oldest.map(|pending| pending.since),
            consumer: self.consumers.present(own.id, shard),
            overdue,
            snapshot_pending: standing.snapshot_pending,
        }
    }

    fn propagation(&self, index: u64) -> Result<PropagationReport, ReadError> {
        let revision = self.view.applied();
        if index >= revision {
            return Err(ReadError::IndexOutOfRange { index, head: revision });
        }
        let recorded_at = self.entry(index)?.recorded_at;
        let mut subscriptions = Vec::new();
        if let Some(event) = &self.event(index)? {
            for own in self.view.subscriptions().all() {
                subscriptions.extend(self.propagation_to(own, event)?);
            }
        }
        let key = |own: &Propagation| (own.subscription.spec.name.clone(), own.subscription.id);
        subscriptions.sort_by_cached_key(key);
        Ok(PropagationReport { recorded_at, subscriptions, revision })
    }

    /// What became of an event at a subscription; none if that should not have heard it.
    fn propagation_to(
        &self,
        own: &Arc<Subscription>,
        event: &Event,
    ) -> Result<Option<Propagation>, ReadError> {
        let was_ended = own.deleted.is_some_and(|(ended, _)| ended < event.index);
        if own.spec.start_index > event.index
            || was_ended
            || event.passing(&own.spec.filter).is_none()
        {
            return Ok(None);
        }
        let now = self.now();
        let shards = 0..own.spec.shards;
        let mut worst = None;
        for shard in shards.filter(|shard| event.is_of_shard(*shard, own.spec.shards)) {
            let settlement = self.view.settlement(own.id, shard, event.index)?;
            let mut state = state_of(own, event.recorded_at, settlement, now);
            // Acknowledged, and not on record yet: nobody is late.
            if state == PropagationState::Overdue
                && self.with_settled(own.id, shard, |all, _| all.contains(event.index))
                    == Some(true)
            {
                state = PropagationState::Pending;
            }
            worst = worst.max(Some(Worst(state))); // None comes before all.
        }
        Ok(worst.map(|Worst(state)| {
            let ended = match state {
                PropagationState::Acknowledged(at, _)
                | PropagationState::DeadLetter(at, _)
                | PropagationState::Deleted(at, _) => at,
                PropagationState::Pending | PropagationState::Overdue => now,
            };
            let took = u64::try_from(ended.0.saturating_sub(event.recorded_at.0)).unwrap_or(0);
            let elapsed = Duration::from_millis(took);
            Propagation { subscription: Arc::clone(own), state, elapsed }
        }))
    }

    pub(super) fn subscription(
        &self,
        name: &str,
    ) -> Result<Arc<Subscription>, SubscriptionNotFound> {
        let all = self.view.subscriptions();
        let own = all.named(name).cloned();
        own.ok_or_else(|| SubscriptionNotFound { name: name.to_owned() })
    }
}

impl Batch<'_> {
    fn subscribe(&mut self, new: NewSubscription) -> Result<Subscribed, SubscribeError> {
        let index = self.tip.next_index;
        let head = index;
        if let Some(own) = self.subscriptions().named(new.name.as_str()) {
            return if is_same(&own.spec, &new) {
                Ok(Subscribed { subscription: Arc::clone(own), created: false })
            } else {
                Err(SubscribeError::Exists { name: new.name })
            };
        }
        let limit = self.core().limits.subscriptions_max;
        if self.subscriptions().live_count() >= limit {
            return Err(SubscribeError::TooMany { limit });
        }
        if let Some(start) = new.start.filter(|start| *start > head) {
            return Err(SubscribeError::StartBeyondHead { index: start, head });
        }
        let created = SubscriptionCreated {
            name: new.name,
            owner: new.owner,
            filter: new.filter,
            start_index: new.start.unwrap_or(index + 1),
            snapshot: new.snapshot,
            shards: new.shards,
            deadline_ms: new.deadline_ms,
            webhook_url: new.webhook_url,
        };
        let name = created.name.clone();
        self.put_subscription(SubscriptionEntry::Created(Box::new(created)))?;
        let own = self.subscriptions().named(name.as_str()).cloned();
        let subscription =
            own.ok_or_else(|| WriteError::StateUnreadable(format!("subscription {name}")))?;
        Ok(Subscribed { subscription, created: true })
    }

    /// Ends a subscription. What was acknowledged before goes on record before it.
    fn unsubscribe(&mut self, name: &Key) -> Result<(u64, Written), UnsubscribeError> {
        let own = self.subscriptions().named(name.as_str()).map(|own| own.id);
        let id = own.ok_or_else(|| UnsubscribeError::NotFound { name: name.clone() })?;
        let taken = self.core().deliveries.take_of(id);
        let written = self.deliveries(&taken);
        let deleted = SubscriptionDeleted { subscription: id };
        Ok((self.put_subscription(SubscriptionEntry::Deleted(deleted))?, written))
    }
}

/// What became of an event at one shard.
fn state_of(
    own: &Subscription,
    recorded_at: Millis,
    settlement: Option<Settlement>,
    now: Millis,
) -> PropagationState {
    match (settlement, own.deleted) {
        (Some(Settlement { at, entry_index, is_failure: false }), _) => {
            PropagationState::Acknowledged(at, entry_index)
        }
        (Some(Settlement { at, entry_index, is_failure: true }), _) => {
            PropagationState::DeadLetter(at, entry_index)
        }
        (None, Some((index, at))) => PropagationState::Deleted(at, index),
        (None, None) if delivery::is_overdue(own, recorded_at.max(own.created_at), now) => {
            PropagationState::Overdue
        }
        (None, None) => PropagationState::Pending,
    }
}

/// States in the order of how far behind they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Worst(PropagationState);

impl Worst {
    fn rank(self) -> (u8, Millis) {
        match self.0 {
            PropagationState::Acknowledged(at, _) => (0, at),
            PropagationState::DeadLetter(at, _) => (1, at),
            PropagationState::Deleted(at, _) => (2, at),
            PropagationState::Pending => (3, Millis(0)),
            PropagationState::Overdue => (4, Millis(0)),
        }
    }
}

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether a subscription is as somebody wants it, wherever it starts.
fn is_same(own: &SubscriptionCreated, new: &NewSubscription) -> bool {
    let NewSubscription {
        name,
        owner,
        filter,
        start: _,
        snapshot,
        shards,
        deadline_ms,
        webhook_url,
    } = new;
    own.name == *name
        && own.owner == *owner
        && own.filter == *filter
        && own.snapshot == *snapshot
        && own.shards == *shards
        && own.deadline_ms == *deadline_ms
        && own.webhook_url == *webhook_url
}
