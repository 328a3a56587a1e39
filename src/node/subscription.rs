//! Durable subscriptions: create, list and delete them, and report which events they have received.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Core, DeadLettersError, Node, PropagationError, ReadError, SubscribeError,
    SubscriptionNotFound, UnsubscribeError, WriteError,
    batch::Batch,
    delivery::{self, Pending, Written},
};
use crate::{
    domain::{
        Entry, Filter, Key, Millis, Snapshot, Subscription, SubscriptionCreated,
        SubscriptionDeleted, SubscriptionEntry,
    },
    event::{Event, EventOutline},
    view::{DeadLetter, Settlement},
};

/// Dead letters of a subscription are counted up to this number.
const DEAD_LETTERS_COUNTED_MAX: usize = 10_000;
/// Time limit for measuring the lag of the listed subscriptions.
const LAG_TIME_MAX: Duration = Duration::from_millis(500);

/// A subscription to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubscription {
    /// Name.
    pub name: Key,
    /// Who is responsible for it.
    pub owner: String,
    /// The events that it receives.
    pub filter: Filter,
    /// First index that it receives; none means the first after its creation.
    pub start: Option<u64>,
    /// The snapshot that its consumers receive first.
    pub snapshot: Option<Snapshot>,
    /// Number of shards.
    pub shards: u32,
    /// How long an event may stay unacknowledged, in milliseconds.
    pub deadline_ms: Option<i64>,
    /// Where to deliver by HTTP.
    pub webhook_url: Option<String>,
}

/// The answer to the creation of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Whether it is new.
    pub created: bool,
}

/// A subscription, and its lag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionReport {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// Its shards, from 0.
    pub shards: Vec<ShardReport>,
    /// Number of dead letters, counted up to 10,000.
    pub dead_letters: u64,
}

/// The lag of one shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// Every event of the subscription before this index is acknowledged.
    pub next_index: u64,
    /// Entries from the oldest event that is not acknowledged to the head.
    pub lag_entries: u64,
    /// When that event was recorded; none if there is none.
    pub pending_since: Option<Millis>,
    /// Name of the current consumer, if any.
    pub consumer: Option<String>,
    /// Whether the deadline has passed.
    pub overdue: bool,
    /// Whether the snapshot is not acknowledged yet.
    pub snapshot_pending: bool,
}

/// The subscriptions that cover an event, and its state at each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropagationReport {
    /// When the ledger recorded the entry.
    pub recorded_at: Millis,
    /// Every subscription that covers the event, by name.
    pub subscriptions: Vec<Propagation>,
    /// Number of entries that the answer includes.
    pub revision: u64,
}

/// An event at one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Propagation {
    /// The subscription.
    pub subscription: Arc<Subscription>,
    /// State of the event.
    pub state: PropagationState,
    /// Time from the record of the event to its final state, or to now.
    pub elapsed: Duration,
    /// The shards that have acknowledged it, each with the index of the entry that says so.
    pub receipts: Vec<(u32, u64)>,
}

/// State of an event at a subscription; with several shards, at the shard that is furthest behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropagationState {
    /// Acknowledged: when, and the index of the entry that proves it.
    Acknowledged(Millis, u64),
    /// Not acknowledged.
    Pending,
    /// Not acknowledged, and the deadline has passed.
    Overdue,
    /// Delivery was given up: when, and the index of the entry that records it.
    DeadLetter(Millis, u64),
    /// The subscription was deleted before: when, and the index of that entry.
    Deleted(Millis, u64),
}

impl Node {
    /// Creates a subscription, unless it exists already, possibly with another start.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub async fn create_subscription(
        &self,
        new: NewSubscription,
    ) -> Result<Subscribed, SubscribeError> {
        if let Some(url) = &new.webhook_url {
            let targets = &self.core.limits.webhook_targets;
            targets.check_url(url).map_err(|problem| SubscribeError::WebhookRefused {
                problem: problem.to_string(),
            })?;
        }
        self.write(move |batch| batch.subscribe(new)).await
    }

    /// Deletes a subscription, and answers the index of the entry that records it.
    ///
    /// # Errors
    /// See [`UnsubscribeError`].
    pub async fn delete_subscription(&self, name: Key) -> Result<u64, UnsubscribeError> {
        let (index, written) = self.write(move |batch| batch.unsubscribe(&name)).await?;
        self.core.report_written(&written);
        Ok(index)
    }

    /// The subscription of a name, if it is not deleted.
    ///
    /// # Errors
    /// [`SubscriptionNotFound`].
    pub fn subscription(&self, name: &str) -> Result<Arc<Subscription>, SubscriptionNotFound> {
        self.core.subscription(name)
    }

    /// Up to `limit` subscriptions after a name, by name, with their lag. If reading the ledger takes
    /// too long, the reported lag is greater than the true one, never smaller. Blocking.
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
        let is_listed = |subscription: &&Arc<Subscription>| {
            owner.is_none_or(|owner| subscription.spec.owner == owner)
                && after.is_none_or(|after| subscription.spec.name > *after)
        };
        let mut listed: Vec<_> = all.live().filter(is_listed).collect();
        listed.sort_unstable_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let until = Instant::now() + LAG_TIME_MAX;
        let reports = listed
            .into_iter()
            .take(limit)
            .map(|subscription| self.core.report(subscription, until));
        reports.collect()
    }

    /// The subscriptions that cover the event at an index, and its state there. Blocking.
    ///
    /// # Errors
    /// See [`PropagationError`].
    pub fn propagation(&self, index: u64) -> Result<PropagationReport, PropagationError> {
        let core = &self.core;
        let revision = core.view.applied();
        if index >= revision {
            return Err(ReadError::IndexOutOfRange { index, head: revision }.into());
        }
        let Entry { recorded_at, body, .. } = core.entry(index)?;
        let event = core.event(index)?;
        // An event of an erased data subject can not be told any more. It was one all the same.
        let is_of_erased = matches!(
            body.kind().outline(),
            EventOutline::Consent(_) | EventOutline::Ends(_) | EventOutline::Link(_)
        );
        if event.is_none() && !is_of_erased {
            return Err(PropagationError::NotAnEvent { index, noun: body.noun() });
        }
        let mut subscriptions = Vec::new();
        if let Some(event) = &event {
            for subscription in core.view.subscriptions().all() {
                subscriptions.extend(core.propagation_to(subscription, event)?);
            }
        }
        let key = |Propagation { subscription, .. }: &Propagation| {
            (subscription.spec.name.clone(), subscription.id)
        };
        subscriptions.sort_by_cached_key(key);
        Ok(PropagationReport { recorded_at, subscriptions, revision })
    }

    /// Up to `limit` dead letters of a webhook, after a shard and index. Blocking.
    ///
    /// # Errors
    /// See [`DeadLettersError`].
    pub fn dead_letters(
        &self,
        name: &str,
        after: Option<(u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, DeadLettersError> {
        let subscription = self.core.subscription(name)?;
        if subscription.spec.webhook_url.is_none() {
            return Err(DeadLettersError::NotWebhook { name: subscription.spec.name.clone() });
        }
        Ok(self.core.view.dead_letters(subscription.id, after, limit)?)
    }
}

impl Core {
    fn report(
        &self,
        subscription: &Arc<Subscription>,
        until: Instant,
    ) -> Result<SubscriptionReport, ReadError> {
        let mut shards = Vec::with_capacity(subscription.shards.len());
        for shard in 0..subscription.spec.shards {
            shards.push(self.shard_report(subscription, shard, until));
        }
        let dead_letters = match subscription.spec.webhook_url {
            Some(_) => {
                self.view.dead_letter_count(subscription.id, DEAD_LETTERS_COUNTED_MAX)? as u64
            }
            None => 0,
        };
        Ok(SubscriptionReport { subscription: Arc::clone(subscription), shards, dead_letters })
    }

    pub(super) fn shard_report(
        &self,
        subscription: &Arc<Subscription>,
        shard: u32,
        until: Instant,
    ) -> ShardReport {
        // A subscription that was deleted just now has no lag.
        let Some(standing) = self.standing(subscription, shard, until) else {
            return ShardReport::default();
        };
        let head = self.hub.head();
        let mut lag_start = standing.pending.map(|pending| pending.index);
        let mut oldest = standing.oldest(subscription);
        if standing.pending.is_none() && standing.seen < standing.head {
            // Entries that were not searched may all be pending.
            lag_start = Some(standing.seen);
            // If the first of them can not be read, everything since the creation may be pending.
            let entry = self.entry(standing.seen);
            let since = entry.map_or(subscription.created_at, |entry| entry.recorded_at);
            oldest = oldest.or(Some(Pending { index: standing.seen, since }));
        }
        let overdue = standing.oldest(subscription).is_some_and(|pending| {
            delivery::is_overdue(subscription, pending.counts_from(subscription), self.now())
        });
        ShardReport {
            next_index: standing.next_index,
            lag_entries: lag_start.map_or(0, |start| head.saturating_sub(start)),
            pending_since: oldest.map(|pending| pending.since),
            consumer: self.consumers.present(subscription.id, shard),
            overdue,
            snapshot_pending: standing.snapshot_pending,
        }
    }

    /// The state of an event at a subscription; none if the subscription does not cover the event.
    fn propagation_to(
        &self,
        subscription: &Arc<Subscription>,
        event: &Event,
    ) -> Result<Option<Propagation>, ReadError> {
        let was_deleted = subscription.deleted.is_some_and(|(deleted, _)| deleted < event.index);
        if subscription.spec.start_index > event.index || was_deleted {
            return Ok(None);
        }
        let now = self.now();
        let count = subscription.spec.shards;
        let (filter, secret) = (&subscription.spec.filter, self.vault.ledger_secret());
        let (mut states, mut receipts) = (Vec::new(), Vec::new());
        let hears = |shard: &u32| event.passing_in(filter, (*shard, count), secret).is_some();
        for shard in (0..count).filter(hears) {
            let settlement = self.view.settlement(subscription.id, shard, event.index)?;
            let receipt = settlement.as_ref().filter(|settlement| !settlement.is_failure);
            receipts.extend(receipt.map(|receipt| (shard, receipt.entry_index)));
            let mut state = state_of(subscription, event.recorded_at, settlement, now);
            // An acknowledgement that is not recorded yet is in time.
            if state == PropagationState::Overdue
                && self.with_settled(subscription.id, shard, |all, _| all.contains(event.index))
                    == Some(true)
            {
                state = PropagationState::Pending;
            }
            states.push(state);
        }
        Ok(states.into_iter().max_by_key(|state| rank(*state)).map(|state| {
            let ended = match state {
                PropagationState::Acknowledged(at, _)
                | PropagationState::DeadLetter(at, _)
                | PropagationState::Deleted(at, _) => at,
                PropagationState::Pending | PropagationState::Overdue => now,
            };
            let took = u64::try_from(ended.0.saturating_sub(event.recorded_at.0)).unwrap_or(0);
            let elapsed = Duration::from_millis(took);
            Propagation { subscription: Arc::clone(subscription), state, elapsed, receipts }
        }))
    }

    pub(super) fn subscription(
        &self,
        name: &str,
    ) -> Result<Arc<Subscription>, SubscriptionNotFound> {
        let all = self.view.subscriptions();
        let subscription = all.named(name).cloned();
        subscription.ok_or_else(|| SubscriptionNotFound { name: name.to_owned() })
    }
}

impl Batch<'_> {
    fn subscribe(&mut self, new: NewSubscription) -> Result<Subscribed, SubscribeError> {
        let head = self.tip.next_index;
        let mut wanted = SubscriptionCreated {
            name: new.name,
            owner: new.owner,
            filter: new.filter,
            start_index: new.start.unwrap_or(head + 1),
            snapshot: new.snapshot,
            shards: new.shards,
            deadline_ms: new.deadline_ms,
            webhook_url: new.webhook_url,
        };
        if let Some(existing) = self.subscriptions().named(wanted.name.as_str()) {
            wanted.start_index = existing.spec.start_index;
            if *existing.spec != wanted {
                return Err(SubscribeError::Exists { name: wanted.name });
            }
            return Ok(Subscribed { subscription: Arc::clone(existing), created: false });
        }
        let limit = self.core().limits.subscriptions_max;
        if self.subscriptions().live_count() >= limit {
            return Err(SubscribeError::TooMany { limit });
        }
        if let Some(index) = new.start.filter(|start| *start > head) {
            return Err(SubscribeError::StartBeyondHead { index, head });
        }
        let name = wanted.name.clone();
        self.put_subscription(SubscriptionEntry::Created(Box::new(wanted)))?;
        let subscription = self
            .subscriptions()
            .named(name.as_str())
            .cloned()
            .ok_or_else(|| WriteError::StateUnreadable(format!("subscription {name}")))?;
        Ok(Subscribed { subscription, created: true })
    }

    /// Deletes a subscription. Its acknowledgements are recorded before.
    fn unsubscribe(&mut self, name: &Key) -> Result<(u64, Written), UnsubscribeError> {
        let id = self.subscriptions().named(name.as_str()).map(|subscription| subscription.id);
        let id = id.ok_or_else(|| UnsubscribeError::NotFound { name: name.clone() })?;
        let taken = self.core().deliveries.take_of(id);
        let written = self.deliveries(&taken);
        let deleted = SubscriptionDeleted { subscription: id };
        Ok((self.put_subscription(SubscriptionEntry::Deleted(deleted))?, written))
    }
}

/// State of an event at one shard.
fn state_of(
    subscription: &Subscription,
    recorded_at: Millis,
    settlement: Option<Settlement>,
    now: Millis,
) -> PropagationState {
    match (settlement, subscription.deleted) {
        (Some(Settlement { at, entry_index, is_failure: false }), _) => {
            PropagationState::Acknowledged(at, entry_index)
        }
        (Some(Settlement { at, entry_index, is_failure: true }), _) => {
            PropagationState::DeadLetter(at, entry_index)
        }
        (None, Some((index, at))) => PropagationState::Deleted(at, index),
        (None, None)
            if delivery::is_overdue(
                subscription,
                recorded_at.max(subscription.created_at),
                now,
            ) =>
        {
            PropagationState::Overdue
        }
        (None, None) => PropagationState::Pending,
    }
}

/// Orders states by how far behind they are.
fn rank(state: PropagationState) -> (u8, Millis) {
    match state {
        PropagationState::Acknowledged(at, _) => (0, at),
        PropagationState::DeadLetter(at, _) => (1, at),
        PropagationState::Deleted(at, _) => (2, at),
        PropagationState::Pending => (3, Millis(0)),
        PropagationState::Overdue => (4, Millis(0)),
    }
}
