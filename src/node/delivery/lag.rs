//! How far behind each shard is, and whether its deadline has passed.
//!
//! The account of each shard keeps a place: everything before it is acknowledged or does not concern the
//! shard. The place only grows, so each part of the ledger is read once. A shard that keeps up costs
//! almost nothing. After a restart the place of each shard is searched for in small steps.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{Core, Deliveries, Shard};
use crate::{
    domain::{DeliveryOverdue, Millis, Overdue, Settled, ShardState, Subscription, SubscriptionId},
    event::Event,
    node::ReadError,
    shutdown::{Stage, Threads},
};

/// How often all shards are checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum time of one check.
const STEP: Duration = Duration::from_millis(100);
/// Minimum time between two reports that a shard is overdue.
const REPEAT_MS_MIN: i64 = 60_000;

/// The oldest event that a shard has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct Pending {
    /// Index of its entry; for a snapshot, that of the subscription's creation.
    pub index: u64,
    /// When that entry was recorded.
    pub since: Millis,
}

/// The progress of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct Standing {
    /// Everything before it is acknowledged or does not concern the shard.
    pub next_index: u64,
    /// The oldest event before `seen` that is not acknowledged.
    pub pending: Option<Pending>,
    /// If nothing is pending: how far the ledger was searched.
    pub seen: u64,
    /// How far a complete search would have gone.
    pub head: u64,
    /// Whether the snapshot is not acknowledged yet.
    pub snapshot_pending: bool,
}

/// The index up to which a shard has no pending event, and the pending event there, if one is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    clear_to: u64,
    pending: Option<Pending>,
}

impl Place {
    /// The place of a shard that was not searched yet.
    pub(super) fn new(start_index: u64) -> Self {
        Self { clear_to: start_index, pending: None }
    }

    /// The place after acknowledgements.
    fn after(self, settled: &Settled) -> Self {
        Self {
            clear_to: self.clear_to.max(settled.next()),
            pending: self.pending.filter(|pending| !settled.contains(pending.index)),
        }
    }
}

impl Pending {
    /// The longest pending of an event and the snapshot.
    fn oldest(
        subscription: &Subscription,
        event: Option<Self>,
        snapshot_pending: bool,
    ) -> Option<Self> {
        let snapshot = Self { index: subscription.id.0, since: subscription.created_at };
        let snapshot = snapshot_pending.then_some(snapshot);
        snapshot.into_iter().chain(event).min_by_key(|pending| pending.counts_from(subscription))
    }

    /// Whether it is still pending.
    pub(super) fn is_pending(
        &self,
        subscription: &Subscription,
        settled: &Settled,
        snapshot_pending: bool,
    ) -> bool {
        if self.index == subscription.id.0 {
            snapshot_pending
        } else {
            !settled.contains(self.index)
        }
    }

    /// Start of the deadline: a subscription may be younger than its first event.
    pub(in crate::node) fn counts_from(&self, subscription: &Subscription) -> Millis {
        self.since.max(subscription.created_at)
    }
}

/// Whether the deadline of a subscription, counted from a moment, has passed.
pub(in crate::node) fn is_overdue(
    subscription: &Subscription,
    counts_from: Millis,
    now: Millis,
) -> bool {
    subscription.spec.deadline_ms.is_some_and(|deadline| counts_from.plus_ms(deadline) <= now)
}

/// Whether it may be reported that a shard is overdue: not again too soon, unless the shard has
/// recovered since the last report.
pub(super) fn may_report(
    subscription: &Subscription,
    state: &ShardState,
    recovered: Option<Overdue>,
    now: Millis,
) -> bool {
    let again_ms = subscription.spec.deadline_ms.unwrap_or(i64::MAX).max(REPEAT_MS_MIN);
    state
        .overdue
        .is_none_or(|last| recovered == Some(last) || last.recorded_at.plus_ms(again_ms) <= now)
}

/// Starts the thread. It ends at [`Stage::Deliveries`].
pub(super) fn start(core: &Arc<Core>, threads: &Threads) -> io::Result<()> {
    let (core, shutdown) = (Arc::clone(core), threads.shutdown().clone());
    let run = move || {
        let mut after = None;
        while !shutdown.sleep(INTERVAL, Stage::Deliveries) {
            after = core.check_deadlines(after);
        }
    };
    threads.spawn("deadlines", Stage::Deliveries, || {}, run)?;
    Ok(())
}

impl Deliveries {
    /// The last overdue report of a shard, if the shard has recovered since.
    pub(super) fn recovered(&self, id: SubscriptionId, shard: u32) -> Option<Overdue> {
        self.book.lock().account((id, shard)).and_then(|account| account.recovered)
    }
}

impl Core {
    /// Checks the shards after a given one, for up to [`STEP`]. Returns the shard to continue after.
    pub(super) fn check_deadlines(&self, after: Option<Shard>) -> Option<Shard> {
        let until = Instant::now() + STEP;
        let all = self.view.subscriptions();
        self.deliveries.with_book(|book| book.forget_ended(&all));
        let shards = all.live().flat_map(|subscription| {
            (0..subscription.spec.shards).map(move |shard| (subscription, shard))
        });
        let beyond = |id, shard| after.is_none_or(|after| (id, shard) > after);
        let mut stopped_at = None;
        for (subscription, shard) in
            shards.filter(|(subscription, shard)| beyond(subscription.id, *shard))
        {
            if let Some(standing) = self.standing(subscription, shard, until) {
                self.check_deadline(subscription, shard, &standing);
            }
            if Instant::now() >= until {
                stopped_at = Some((subscription.id, shard));
                break;
            }
        }
        self.measure_lag();
        stopped_at
    }

    /// The progress of a shard, as far as it can be found until a moment. None if its subscription was
    /// ended. If the ledger cannot be read, the search ends there, and other shards are not affected.
    pub(in crate::node) fn standing(
        &self,
        subscription: &Arc<Subscription>,
        shard: u32,
        until: Instant,
    ) -> Option<Standing> {
        // Read before the acknowledgements, which may then reach beyond it.
        let head = self.hub.head();
        let (mut place, snapshot_pending, settled) =
            self.account(subscription.id, shard, |account| {
                let place = account.place.after(account.settled());
                let is_behind = place.pending.is_none() && place.clear_to < head;
                // The ledger is read without the lock that all consumers share.
                let settled = is_behind.then(|| account.settled().clone());
                (place, account.snapshot_pending(), settled)
            })?;
        let mut seen = head.max(place.clear_to);
        if let Some(settled) = settled {
            let searched = self.search((subscription, shard), &settled, &mut place, head, until);
            seen = searched.unwrap_or_else(|error| {
                let (name, index) = (&subscription.spec.name, place.clear_to);
                warn!(
                    subscription = %name, shard, index, %error,
                    "the lag of a shard could not be determined"
                );
                place.clear_to
            });
        }
        self.account(subscription.id, shard, |account| account.place = place)?;
        let Place { clear_to: next_index, pending } = place;
        Some(Standing { next_index, pending, seen, head, snapshot_pending })
    }

    /// Searches for the first event that is not settled. Returns how far it came.
    fn search(
        &self,
        (subscription, shard): (&Subscription, u32),
        settled: &Settled,
        place: &mut Place,
        head: u64,
        until: Instant,
    ) -> Result<u64, ReadError> {
        let filter = &subscription.spec.filter;
        let is_pending = |event: &Event| {
            let (shard, secret) = ((shard, subscription.spec.shards), self.vault.ledger_secret());
            !settled.contains(event.index) && event.passing_in(filter, shard, secret).is_some()
        };
        loop {
            place.clear_to = settled.first_not_in(place.clear_to);
            if place.clear_to >= head {
                return Ok(place.clear_to);
            }
            let (events, next) = self
                .hub
                .events_between(place.clear_to, head, filter)
                .map_err(|error| ReadError::StateUnreadable(error.to_string()))?;
            if let Some(event) = events.iter().find(|event| is_pending(event)) {
                place.clear_to = event.index;
                place.pending = Some(Pending { index: event.index, since: event.recorded_at });
                return Ok(head);
            }
            place.clear_to = next.max(place.clear_to);
            if Instant::now() >= until {
                return Ok(place.clear_to);
            }
        }
    }

    /// Has a shard reported as overdue, if it is and this was not reported before.
    fn check_deadline(&self, subscription: &Arc<Subscription>, shard: u32, standing: &Standing) {
        let Some(state) = subscription.shard(shard) else { return };
        let oldest = standing.oldest(subscription);
        let now = self.now();
        if let Some(last) = state.overdue
            && standing.has_recovered(subscription, oldest, last, now)
        {
            self.account(subscription.id, shard, |account| account.recovered = Some(last));
        }
        let Some(pending) = oldest else { return };
        let recovered = self.deliveries.recovered(subscription.id, shard);
        if is_overdue(subscription, pending.counts_from(subscription), now)
            && may_report(subscription, state, recovered, now)
        {
            let overdue = DeliveryOverdue {
                subscription: subscription.id,
                shard,
                event_index: pending.index,
                pending_since: pending.since,
            };
            self.deliveries.with_book(|book| book.overdue(overdue));
        }
    }

    /// Updates the metrics.
    fn measure_lag(&self) {
        let (all, now) = (self.view.subscriptions(), self.now());
        let book = self.deliveries.book.lock();
        let (mut overdue, mut oldest) = (0, now);
        for subscription in all.live() {
            let pending = (0..subscription.spec.shards).filter_map(|shard| {
                // A shard without an account was not searched yet.
                let account = book.account((subscription.id, shard))?;
                // Acknowledgements count whether they are in the ledger or not.
                let pending = account.place.after(account.settled()).pending;
                Pending::oldest(subscription, pending, account.snapshot_pending())
            });
            if let Some(since) = pending.map(|pending| pending.counts_from(subscription)).min() {
                overdue += u64::from(is_overdue(subscription, since, now));
                oldest = oldest.min(since);
            }
        }
        drop(book);
        let pending_ms = u64::try_from(now.0.saturating_sub(oldest.0)).unwrap_or(0);
        self.metrics.subscriptions.set(all.live_count() as u64);
        self.metrics.subscriptions_overdue.set(overdue);
        self.metrics.delivery_pending_seconds.set(pending_ms / 1_000);
    }
}

impl Standing {
    /// Whether everything before the last overdue report is acknowledged, and later events are not
    /// overdue. So a shard is reported at most once for each deadline.
    fn has_recovered(
        &self,
        subscription: &Subscription,
        oldest: Option<Pending>,
        last: Overdue,
        now: Millis,
    ) -> bool {
        let is_seen = self.pending.is_some() || self.seen >= self.head;
        is_seen
            && oldest.is_none_or(|pending| {
                pending.since > last.recorded_at
                    && !is_overdue(subscription, pending.counts_from(subscription), now)
            })
    }

    /// The longest pending of the oldest event and the snapshot.
    pub(in crate::node) fn oldest(&self, subscription: &Subscription) -> Option<Pending> {
        Pending::oldest(subscription, self.pending, self.snapshot_pending)
    }
}
