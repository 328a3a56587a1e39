//! How far behind each shard is, and whether its deadline has passed.
//!
//! The account of each shard keeps one place: everything before it is acknowledged or does not concern
//! the shard. It only grows, so each part of the ledger is looked through once; a shard that keeps up costs
//! next to nothing, and one whose place is not known after a restart is looked for in small steps.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{Core, Deliveries};
use crate::{
    domain::{DeliveryOverdue, Millis, Overdue, Settled, ShardState, Subscription, SubscriptionId},
    event::Event,
    node::ReadError,
    shutdown::{Stage, Threads},
};

/// How often is looked who is behind.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one look may take.
const STEP: Duration = Duration::from_millis(100);
/// How soon a shard that is still behind is said to be overdue again, at the earliest.
const REPEAT_MS_MIN: i64 = 60_000;

/// The oldest event that a shard has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct Pending {
    /// Index of its entry; for a snapshot, that of the subscription's creation.
    pub index: u64,
    /// When that was recorded.
    pub since: Millis,
}

/// Where a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::node) struct Standing {
    /// Everything before it is acknowledged or concerns the shard not.
    pub next_index: u64,
    /// The oldest event that is not acknowledged; none if there is none before `seen`.
    pub pending: Option<Pending>,
    /// How far the ledger was looked through, if nothing is pending.
    pub seen: u64,
    /// How far it would have been, had there been time.
    pub head: u64,
    /// Whether the snapshot is still to be acknowledged.
    pub snapshot_pending: bool,
}

/// A place up to which a shard is clear, and the event there, if it is known to be pending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    clear_to: u64,
    pending: Option<Pending>,
}

impl Place {
    /// Of a shard that nobody has looked at.
    pub(super) fn new(start_index: u64) -> Self {
        Self { clear_to: start_index, pending: None }
    }

    /// As it is after acknowledgements.
    fn after(self, settled: &Settled) -> Self {
        Self {
            clear_to: self.clear_to.max(settled.next()),
            pending: self.pending.filter(|pending| !settled.contains(pending.index)),
        }
    }
}

impl Pending {
    /// What has waited longest, the snapshot among it.
    fn oldest(own: &Subscription, event: Option<Self>, snapshot_pending: bool) -> Option<Self> {
        let snapshot = Self { index: own.id.0, since: own.created_at };
        let snapshot = snapshot_pending.then_some(snapshot);
        snapshot.into_iter().chain(event).min_by_key(|pending| pending.counts_from(own))
    }

    /// Whether it still is.
    pub(super) fn is_pending(
        &self,
        own: &Subscription,
        settled: &Settled,
        snapshot_pending: bool,
    ) -> bool {
        if self.index == own.id.0 { snapshot_pending } else { !settled.contains(self.index) }
    }

    /// Since when it counts for the deadline: a subscription may be younger than what it must hear.
    pub(in crate::node) fn counts_from(&self, own: &Subscription) -> Millis {
        self.since.max(own.created_at)
    }
}

/// Whether the deadline of a subscription has passed, if it counts from a moment.
pub(in crate::node) fn is_overdue(own: &Subscription, counts_from: Millis, now: Millis) -> bool {
    own.spec.deadline_ms.is_some_and(|deadline| counts_from.plus_ms(deadline) <= now)
}

/// Whether it may be said that a shard is overdue: not again too soon, unless it had recovered from
/// the last time.
pub(super) fn is_to_be_told(
    own: &Subscription,
    state: &ShardState,
    recovered: Option<Overdue>,
    now: Millis,
) -> bool {
    let again_ms = own.spec.deadline_ms.unwrap_or(i64::MAX).max(REPEAT_MS_MIN);
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
            after = core.look_who_is_behind(after);
        }
    };
    threads.spawn("deadlines", Stage::Deliveries, || {}, run)?;
    Ok(())
}

impl Deliveries {
    /// The time that a shard was said to be overdue from which it has recovered.
    pub(super) fn recovered(&self, id: SubscriptionId, shard: u32) -> Option<Overdue> {
        self.book.lock().account((id, shard)).and_then(|account| account.recovered)
    }
}

impl Core {
    /// Looks at the shards beyond one, as far as the time goes, and answers where to go on.
    pub(super) fn look_who_is_behind(
        &self,
        after: Option<(SubscriptionId, u32)>,
    ) -> Option<(SubscriptionId, u32)> {
        let until = Instant::now() + STEP;
        let all = self.view.subscriptions();
        self.deliveries.with_book(|book| book.forget_ended(&all));
        let shards = all.live().flat_map(|own| (0..own.spec.shards).map(move |shard| (own, shard)));
        let beyond = |id, shard| after.is_none_or(|after| (id, shard) > after);
        let mut stopped_at = None;
        for (own, shard) in shards.filter(|(own, shard)| beyond(own.id, *shard)) {
            if let Some(standing) = self.standing(own, shard, until) {
                self.check_deadline(own, shard, &standing);
            }
            if Instant::now() >= until {
                stopped_at = Some((own.id, shard));
                break;
            }
        }
        self.measure_lag();
        stopped_at
    }

    /// Where a shard stands, as far as it can be found out until a moment. None if its subscription
    /// was ended. What can not be read stays unseen, and is no concern of other shards.
    pub(in crate::node) fn standing(
        &self,
        own: &Arc<Subscription>,
        shard: u32,
        until: Instant,
    ) -> Option<Standing> {
        // Before the acknowledgements: whatever is acknowledged later is beyond it.
        let head = self.hub.head();
        let (mut place, snapshot_pending, settled) = self.account(own.id, shard, |account| {
            let place = account.place.after(account.settled());
            let is_behind = place.pending.is_none() && place.clear_to < head;
            // The ledger is read without the lock that all consumers share.
            let settled = is_behind.then(|| account.settled().clone());
            (place, account.snapshot_pending(), settled)
        })?;
        let mut seen = head.max(place.clear_to);
        if let Some(settled) = settled {
            let looked = self.look_on((own, shard), &settled, &mut place, head, until);
            seen = looked.unwrap_or_else(|error| {
                let (subscription, index) = (&own.spec.name, place.clear_to);
                warn!(%subscription, shard, index, %error, "how far it is behind can not be read");
                place.clear_to
            });
        }
        self.account(own.id, shard, |account| account.place = place)?;
        let Place { clear_to: next_index, pending } = place;
        Some(Standing { next_index, pending, seen, head, snapshot_pending })
    }

    /// Looks for the first event that is not settled, and answers how far it has come.
    fn look_on(
        &self,
        (own, shard): (&Subscription, u32),
        settled: &Settled,
        place: &mut Place,
        head: u64,
        until: Instant,
    ) -> Result<u64, ReadError> {
        let filter = &own.spec.filter;
        let is_pending = |event: &Event| {
            !settled.contains(event.index)
                && event.is_of_shard(shard, own.spec.shards)
                && event.passing(filter).is_some()
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

    /// Has it written down that a shard is overdue, if it is and that was not said.
    fn check_deadline(&self, own: &Arc<Subscription>, shard: u32, standing: &Standing) {
        let Some(state) = own.shard(shard) else { return };
        let oldest = standing.oldest(own);
        let now = self.now();
        if let Some(last) = state.overdue
            && standing.has_recovered(own, oldest, last, now)
        {
            self.account(own.id, shard, |account| account.recovered = Some(last));
        }
        let Some(pending) = oldest else { return };
        let recovered = self.deliveries.recovered(own.id, shard);
        if is_overdue(own, pending.counts_from(own), now)
            && is_to_be_told(own, state, recovered, now)
        {
            self.overdue(DeliveryOverdue {
                subscription: own.id,
                shard,
                event_index: pending.index,
                pending_since: pending.since,
            });
        }
    }

    /// Brings the metrics up to date.
    fn measure_lag(&self) {
        let (all, now) = (self.view.subscriptions(), self.now());
        let book = self.deliveries.book.lock();
        let (mut overdue, mut oldest) = (0, now);
        for own in all.live() {
            let pending = (0..own.spec.shards).filter_map(|shard| {
                // One that nobody has looked at is not known to be behind.
                let account = book.account((own.id, shard))?;
                // What was acknowledged counts, be it on record or not.
                let pending = account.place.after(account.settled()).pending;
                Pending::oldest(own, pending, account.snapshot_pending())
            });
            if let Some(since) = pending.map(|pending| pending.counts_from(own)).min() {
                overdue += u64::from(is_overdue(own, since, now));
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
    /// Whether all is acknowledged that there was when a shard was said to be overdue, and what came
    /// since is not overdue: so it is told at most once a deadline.
    fn has_recovered(
        &self,
        own: &Subscription,
        oldest: Option<Pending>,
        last: Overdue,
        now: Millis,
    ) -> bool {
        let is_seen = self.pending.is_some() || self.seen >= self.head;
        is_seen
            && oldest.is_none_or(|pending| {
                pending.since > last.recorded_at && !is_overdue(own, pending.counts_from(own), now)
            })
    }

    /// What has waited longest, the snapshot among it.
    pub(in crate::node) fn oldest(&self, own: &Subscription) -> Option<Pending> {
        Pending::oldest(own, self.pending, self.snapshot_pending)
    }
}
