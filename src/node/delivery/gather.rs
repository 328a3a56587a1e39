//! What gathers of each shard, and the entries that it becomes.
//!
//! A shard is here only while something of it is not written down; for all others the view knows
//! everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Range,
    time::Instant,
};

use super::Acknowledged;
use crate::{
    domain::{
        Delivered, DeliveryFailed, DeliveryOverdue, FailedDelivery, Millis, Settled,
        SubscriptionEntry, SubscriptionId,
    },
    view::View,
};

/// How large the body of a receipt may be, in bytes: what is around it in an entry takes less than
/// the rest.
const RECEIPT_BYTES_MAX: usize = 60_000;
/// The greatest number of events in one entry that gives them up.
pub(super) const FAILED_MAX: usize = 500;
/// A place without an event goes on record alone if it is this many entries ahead of what is
/// written down: as many may have to be looked through again after a crash.
pub(super) const RIDE_ENTRIES_MAX: u64 = 65_536;

/// What is not written down yet.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    shards: BTreeMap<(SubscriptionId, u32), Shard>,
    overdue: BTreeMap<(SubscriptionId, u32), DeliveryOverdue>,
    /// Number of events and snapshots that gather.
    count: usize,
    /// Since when something is due.
    since: Option<Instant>,
    /// Whether nothing will be written down any more.
    is_stopped: bool,
}

/// One shard of which something gathers, or is being written down.
#[derive(Debug)]
pub(super) struct Shard {
    /// What is written down, is being, or gathers.
    known: Settled,
    snapshot_pending: bool,
    gathers: Gathers,
}

/// What gathers of one shard.
#[derive(Debug, Default)]
struct Gathers {
    ranges: Ranges,
    /// Dead letters that were delivered after all. Each stands alone in a receipt.
    replayed: BTreeSet<u64>,
    failed: BTreeMap<u64, FailedDelivery>,
    snapshot: bool,
    /// When the last of it was acknowledged.
    at: Millis,
    /// Number of events that were acknowledged.
    events: usize,
}

/// Indexes as ranges, no two of which touch.
#[derive(Debug, Default)]
struct Ranges {
    set: Settled,
    /// Number of indexes.
    len: u64,
}

/// What a thread has taken to write it down.
#[derive(Debug, Default)]
pub(in crate::node) struct Taken {
    shards: Vec<((SubscriptionId, u32), Gathers)>,
    overdue: Vec<DeliveryOverdue>,
}

impl Ranges {
    fn insert(&mut self, range: Range<u64>) {
        let new = self.set.insert(range);
        self.len += new.iter().map(|range| range.end - range.start).sum::<u64>();
    }

    fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        let first = (self.set.next() > 0).then(|| 0..self.set.next());
        first.into_iter().chain(self.set.above())
    }
}

impl Gathers {
    fn is_empty(&self) -> bool {
        self.ranges.len == 0 && self.replayed.is_empty() && self.failed.is_empty() && !self.snapshot
    }

    /// Whether it is written down for its own sake.
    fn is_due(&self) -> bool {
        self.count() > 0 || self.ranges.len >= RIDE_ENTRIES_MAX
    }

    fn count(&self) -> usize {
        self.events + self.failed.len() + usize::from(self.snapshot)
    }

    /// What was acknowledged, ascending. No two overlap; those that were dead letters stand alone.
    fn acknowledged(&self) -> Vec<Range<u64>> {
        let alone = self.replayed.iter().map(|index| *index..index + 1);
        let mut ranges: Vec<_> = self.ranges.iter().chain(alone).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }
}

impl Shard {
    /// Takes an acknowledgement. `is_dead_letter` says of an index that is settled whether it was
    /// given up.
    pub(super) fn acknowledge(
        &mut self,
        what: &Acknowledged,
        now: Millis,
        is_dead_letter: impl Fn(u64) -> bool,
    ) {
        let own = &mut self.gathers;
        let mut is_new = false;
        for index in &what.indexes {
            let range = *index..index.saturating_add(1);
            let is_unknown = !self.known.insert(range.clone()).is_empty();
            if is_unknown || own.failed.remove(index).is_some() {
                own.ranges.insert(range);
                is_new = true;
            } else if !own.ranges.set.contains(*index) && is_dead_letter(*index) {
                is_new |= own.replayed.insert(*index);
            }
        }
        if let Some(next) = what.next_index {
            for range in self.known.insert(0..next) {
                own.ranges.insert(range);
                is_new = true;
            }
        }
        if what.snapshot && self.snapshot_pending {
            self.snapshot_pending = false;
            own.snapshot = true;
            is_new = true;
        }
        if is_new {
            own.at = own.at.max(now);
            own.events += what.events;
        }
    }

    /// Takes an event that is given up, unless it is settled.
    pub(super) fn give_up(&mut self, failed: FailedDelivery) {
        let range = failed.index..failed.index.saturating_add(1);
        if !self.known.insert(range).is_empty() {
            self.gathers.failed.insert(failed.index, failed);
        }
    }
}

impl Gathered {
    /// Has something gather of a shard, if its subscription was not ended.
    pub(super) fn change(
        &mut self,
        view: &View,
        id: SubscriptionId,
        shard: u32,
        change: impl FnOnce(&mut Shard),
    ) {
        let all = view.subscriptions();
        let live = all.get(id).filter(|own| own.deleted.is_none() && !self.is_stopped);
        let Some(state) = live.and_then(|own| own.shard(shard)) else { return };
        let own = self.shards.entry((id, shard)).or_insert_with(|| Shard {
            known: state.settled.clone(),
            snapshot_pending: state.snapshot_pending,
            gathers: Gathers::default(),
        });
        self.count -= own.gathers.count();
        change(own);
        self.count += own.gathers.count();
        if own.gathers.is_due() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// What is known of a shard of which something gathers.
    pub(super) fn known(&self, id: SubscriptionId, shard: u32) -> Option<(&Settled, bool)> {
        self.shards.get(&(id, shard)).map(|own| (&own.known, own.snapshot_pending))
    }

    /// Has it gather that a shard is overdue.
    pub(super) fn overdue(&mut self, overdue: DeliveryOverdue) {
        if !self.is_stopped {
            self.overdue.insert((overdue.subscription, overdue.shard), overdue);
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Since when something is to be written down.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Whether something gathers that waits for no interval: what everybody hears of.
    pub(super) fn is_urgent(&self) -> bool {
        !self.overdue.is_empty()
    }

    /// Number of events and snapshots that gather.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes what is due. What is taken stays known until [`Self::written`].
    pub(super) fn take(&mut self) -> Taken {
        self.since = None;
        self.count = 0;
        let due = self.shards.iter_mut().filter(|(_, own)| own.gathers.is_due());
        let shards = due.map(|(shard, own)| (*shard, mem::take(&mut own.gathers))).collect();
        Taken { shards, overdue: mem::take(&mut self.overdue).into_values().collect() }
    }

    /// Takes all of a subscription that is about to be ended, be it due or not.
    pub(super) fn take_of(&mut self, id: SubscriptionId) -> Taken {
        let of_it = self.shards.range_mut((id, 0)..=(id, u32::MAX));
        let shards: Vec<_> =
            of_it.map(|(shard, own)| (*shard, mem::take(&mut own.gathers))).collect();
        self.count -= shards.iter().map(|(_, gathers)| gathers.count()).sum::<usize>();
        Taken { shards, overdue: Vec::new() }
    }

    /// Has it gather again what an entry was to say that could not be written. Who is overdue is
    /// looked at again in any case.
    pub(super) fn put_back(&mut self, body: &SubscriptionEntry, taken: &Taken) {
        match body {
            SubscriptionEntry::Delivered(delivered) => {
                for own in delivered {
                    let shard = (own.subscription, own.shard);
                    let replayed = taken.replayed(shard);
                    self.gather_again(shard, |gathers| {
                        for range in &own.ranges {
                            if replayed.contains(&range.start) {
                                gathers.replayed.insert(range.start);
                            } else {
                                gathers.ranges.insert(range.clone());
                            }
                        }
                        gathers.snapshot |= own.snapshot;
                        gathers.at = gathers.at.max(own.acknowledged_at);
                        // So that it is due; not how many they were, or it would be at once.
                        gathers.events = gathers.events.max(1);
                    });
                }
            }
            SubscriptionEntry::Failed(own) => {
                self.gather_again((own.subscription, own.shard), |gathers| {
                    gathers.failed.extend(own.failed.iter().map(|failed| (failed.index, *failed)));
                });
            }
            SubscriptionEntry::Overdue(_)
            | SubscriptionEntry::Created(_)
            | SubscriptionEntry::Deleted(_) => {}
        }
    }

    fn gather_again(&mut self, shard: (SubscriptionId, u32), change: impl FnOnce(&mut Gathers)) {
        if let Some(own) = self.shards.get_mut(&shard).filter(|_| !self.is_stopped) {
            self.count -= own.gathers.count();
            change(&mut own.gathers);
            self.count += own.gathers.count();
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// Forgets the shards of which the view knows everything now, and those of subscriptions that
    /// were ended.
    pub(super) fn written(&mut self, view: &View) {
        let all = view.subscriptions();
        let is_live = |id| all.get(id).is_some_and(|own| own.deleted.is_none());
        self.shards.retain(|(id, _), own| !own.gathers.is_empty() && is_live(*id));
        self.count = self.shards.values().map(|own| own.gathers.count()).sum();
    }

    /// Gathers nothing more. What is known stays known.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
        (self.since, self.count) = (None, 0);
        self.overdue.clear();
        self.shards.values_mut().for_each(|own| own.gathers = Gathers::default());
    }
}

impl Taken {
    /// The dead letters of a shard that were delivered after all.
    fn replayed(&self, shard: (SubscriptionId, u32)) -> BTreeSet<u64> {
        let own = self.shards.iter().find(|(own, _)| *own == shard);
        own.map(|(_, gathers)| gathers.replayed.clone()).unwrap_or_default()
    }

    /// The entries that say it, each small enough.
    pub(super) fn bodies(&self) -> Vec<SubscriptionEntry> {
        let mut bodies = Vec::new();
        let mut receipt = Receipt::default();
        for (shard, gathers) in &self.shards {
            receipt.add(*shard, gathers, &mut bodies);
        }
        receipt.end(&mut bodies);
        for ((subscription, shard), gathers) in &self.shards {
            let failed: Vec<FailedDelivery> = gathers.failed.values().copied().collect();
            bodies.extend(failed.chunks(FAILED_MAX).map(|failed| {
                SubscriptionEntry::Failed(DeliveryFailed {
                    subscription: *subscription,
                    shard: *shard,
                    failed: failed.to_vec(),
                })
            }));
        }
        // Last: who has acknowledged just now is not overdue.
        bodies.extend(self.overdue.iter().copied().map(SubscriptionEntry::Overdue));
        bodies
    }
}

/// A receipt that is being put together.
#[derive(Default)]
struct Receipt {
    delivered: Vec<Delivered>,
    bytes: usize,
}

impl Receipt {
    fn add(
        &mut self,
        (subscription, shard): (SubscriptionId, u32),
        own: &Gathers,
        to: &mut Vec<SubscriptionEntry>,
    ) {
        let head = Delivered {
            subscription,
            shard,
            ranges: Vec::new(),
            acknowledged_at: own.at,
            snapshot: own.snapshot,
        };
        let ranges = own.acknowledged();
        if ranges.is_empty() && !own.snapshot {
            return;
        }
        self.push(head.clone(), to);
        for range in ranges {
            let bytes = range_bytes(&range);
            if self.bytes + bytes > RECEIPT_BYTES_MAX {
                self.end(to);
                // The snapshot was told of already.
                self.push(Delivered { snapshot: false, ..head.clone() }, to);
            }
            self.bytes += bytes;
            if let Some(last) = self.delivered.last_mut() {
                last.ranges.push(range);
            }
        }
    }

    fn push(&mut self, head: Delivered, to: &mut Vec<SubscriptionEntry>) {
        let bytes = head_bytes(&head);
        if self.bytes + bytes + RANGE_BYTES_MAX > RECEIPT_BYTES_MAX {
            self.end(to);
        }
        self.bytes += bytes;
        self.delivered.push(head);
    }

    fn end(&mut self, to: &mut Vec<SubscriptionEntry>) {
        self.bytes = 0;
        if !self.delivered.is_empty() {
            to.push(SubscriptionEntry::Delivered(mem::take(&mut self.delivered)));
        }
    }
}

/// The greatest size of a range in an entry, in bytes.
const RANGE_BYTES_MAX: usize = 2 + 2 * (1 + 10);

/// Size of a range in an entry, in bytes.
fn range_bytes(range: &Range<u64>) -> usize {
    2 + 2 + varint_bytes(range.start) + varint_bytes(range.end)
}

/// Size of what stands beside the ranges, in bytes, at most: the tag and the length, and the fields
/// with theirs.
fn head_bytes(head: &Delivered) -> usize {
    let time = 1 + 10;
    1 + 3
        + (1 + varint_bytes(head.subscription.0))
        + (1 + varint_bytes(head.shard.into()))
        + time
        + 2
}

fn varint_bytes(value: u64) -> usize {
    // At most 10: no loss.
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        domain::{Body, Entry, Filter, Key, SubscriptionCreated},
        entry::{Fact, Place},
        fold::Subscriptions,
        ledger::{ENTRY_BYTES_MAX, envelope},
    };

    const ID: SubscriptionId = SubscriptionId(0);

    fn created(shards: u32) -> Subscriptions {
        let mut all = Subscriptions::default();
        let created = SubscriptionCreated {
            name: Key::parse("crm").unwrap(),
            owner: String::new(),
            filter: Filter::default(),
            start_index: 0,
            snapshot: None,
            shards,
            deadline_ms: None,
            webhook_url: Some("https://crm.example".to_owned()),
        };
        fold(&mut all, 0, &SubscriptionEntry::Created(Box::new(created)));
        all
    }

    fn fold(all: &mut Subscriptions, index: u64, about: &SubscriptionEntry) {
        let place = Place { index, recorded_at: Millis(9) };
        all.fold(Fact { place, kind: about.kind() }).unwrap();
    }

    fn shard() -> Shard {
        let (known, gathers) = (Settled::default(), Gathers::default());
        Shard { known, snapshot_pending: false, gathers }
    }

    fn acknowledged(indexes: &[u64], next_index: Option<u64>) -> Acknowledged {
        let events = indexes.len();
        Acknowledged { next_index, indexes: indexes.to_vec(), events, snapshot: false }
    }

    fn bytes_of(body: SubscriptionEntry) -> usize {
        let (index, recorded_at) = (u64::MAX, Millis(i64::MAX));
        let body = Body::Subscription(body);
        envelope::encode(&Entry { index, prev_hash: [7; 32], recorded_at, body }).len()
    }

    fn taken(shards: impl IntoIterator<Item = Shard>) -> Taken {
        let shards = (0..).zip(shards).map(|(at, own)| ((ID, at), own.gathers));
        Taken { shards: shards.collect(), overdue: Vec::new() }
    }

    /// What a consumer, or the delivery by HTTP, does next.
    #[derive(Debug, Clone)]
    enum Op {
        Acknowledge(Vec<u64>, Option<u64>),
        GiveUp(u64),
        Write,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let next = proptest::option::of(0_u64..40);
        prop_oneof![
            4 => (vec(0_u64..40, 0..5), next).prop_map(|(own, next)| Op::Acknowledge(own, next)),
            2 => (0_u64..40).prop_map(Op::GiveUp),
            1 => Just(Op::Write),
        ]
    }

    proptest! {
        #[test]
        fn entries_say_once_what_became_of_each_event(mut ops in vec(any_op(), 1..80)) {
            ops.push(Op::Write);
            let (mut all, mut own) = (created(1), shard());
            let mut model: BTreeMap<u64, bool> = BTreeMap::new();
            let mut written: BTreeMap<u64, bool> = BTreeMap::new();
            let mut index = 1;
            for op in ops {
                match op {
                    Op::Acknowledge(indexes, next) => {
                        let letter = |at| written.get(&at).is_some_and(|is_failure| *is_failure);
                        own.acknowledge(&acknowledged(&indexes, next), Millis(5), letter);
                        // Everything before a place was settled, be it so or not.
                        let before = (0..next.unwrap_or(0)).filter(|at| !model.contains_key(at));
                        let new: Vec<u64> = indexes.into_iter().chain(before).collect();
                        model.extend(new.into_iter().map(|at| (at, false)));
                    }
                    Op::GiveUp(at) => {
                        own.give_up(FailedDelivery { index: at, attempts: 1, http_status: 500 });
                        model.entry(at).or_insert(true);
                    }
                    Op::Write => {
                        let gathers = mem::take(&mut own.gathers);
                        let taken =
                            Taken { shards: vec![((ID, 0), gathers)], overdue: Vec::new() };
                        for body in taken.bodies() {
                            fold(&mut all, index, &body);
                            index += 1;
                            say(&mut written, body);
                        }
                        prop_assert_eq!(&written, &model);
                        let state = all.get(ID).unwrap().shard(0).unwrap();
                        prop_assert_eq!(&state.settled, &own.known);
                    }
                }
            }
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn what_does_not_fit_into_one_entry_is_in_the_next(
            counts in vec(0_u64..9_000, 1..4),
            start in prop::sample::select(vec![0, 1 << 20, u64::MAX >> 1]),
        ) {
            let mut shards = Vec::new();
            for &count in &counts {
                let mut own = shard();
                let indexes: Vec<u64> = (0..count).map(|at| start + 2 * at).collect();
                own.acknowledge(&acknowledged(&indexes, None), Millis(i64::MAX), |_| false);
                shards.push(own);
            }
            let mut said = vec![0; counts.len()];
            for body in taken(shards).bodies() {
                let SubscriptionEntry::Delivered(delivered) = &body else { panic!("{body:?}") };
                for own in delivered {
                    prop_assert!(!own.ranges.is_empty());
                    said[own.shard as usize] += own.ranges.len() as u64;
                }
                prop_assert!(bytes_of(body) <= ENTRY_BYTES_MAX);
            }
            prop_assert_eq!(said, counts);
        }
    }

    /// Takes an entry's word; it must say nothing that was said before.
    fn say(written: &mut BTreeMap<u64, bool>, body: SubscriptionEntry) {
        match body {
            SubscriptionEntry::Delivered(delivered) => {
                for own in delivered {
                    let mut end = 0;
                    for range in own.ranges {
                        assert!(end <= range.start && range.start < range.end, "ascending");
                        end = range.end;
                        let is_one = range.end - range.start == 1;
                        for at in range {
                            let before = written.insert(at, false);
                            assert!(before.is_none() || (is_one && before == Some(true)), "{at}");
                        }
                    }
                }
            }
            SubscriptionEntry::Failed(failed) => {
                for own in failed.failed {
                    assert_eq!(written.insert(own.index, true), None);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_could_not_be_written_gathers_again_as_it_was() {
        let mut own = shard();
        own.acknowledge(&acknowledged(&[8, 9, 12], Some(4)), Millis(7), |_| false);
        own.give_up(FailedDelivery { index: 20, attempts: 3, http_status: 500 });
        // Settled long ago, and a dead letter.
        own.known.insert(13..14);
        own.acknowledge(&acknowledged(&[13], None), Millis(8), |index| index == 13);
        let count = own.gathers.count();
        let mut gathered = Gathered { count, ..Gathered::default() };
        gathered.shards.insert((ID, 0), own);
        let taken = gathered.take_of(ID);
        let bodies = taken.bodies();
        assert_eq!((gathered.count, bodies.len()), (0, 2));
        assert!(gathered.take_of(ID).bodies().is_empty(), "taken once");
        for body in &bodies {
            gathered.put_back(body, &taken);
        }
        assert!(gathered.since().is_some(), "and is due");
        assert_eq!(gathered.take().bodies(), bodies);
        gathered.stop();
        gathered.put_back(&bodies[0], &taken);
        assert!(gathered.take_of(ID).bodies().is_empty());
    }

    #[test]
    fn many_failures_are_many_entries() {
        let mut own = shard();
        for index in 0..3 * FAILED_MAX as u64 + 1 {
            let (attempts, http_status) = (u32::MAX, 599);
            own.give_up(FailedDelivery { index: index << 30, attempts, http_status });
        }
        let bodies = taken([own]).bodies();
        assert_eq!(bodies.len(), 4);
        for body in bodies {
            assert!(bytes_of(body) <= ENTRY_BYTES_MAX);
        }
    }

    #[test]
    fn a_place_without_events_waits_for_the_next_event_unless_it_is_far() {
        let mut own = shard();
        own.acknowledge(&acknowledged(&[], Some(RIDE_ENTRIES_MAX - 1)), Millis(1), |_| false);
        assert!(!own.gathers.is_due());
        let far = acknowledged(&[], Some(RIDE_ENTRIES_MAX));
        own.acknowledge(&far, Millis(1), |_| false);
        assert!(own.gathers.is_due());
        let mut own = shard();
        own.acknowledge(&acknowledged(&[], Some(7)), Millis(1), |_| false);
        own.acknowledge(&acknowledged(&[9], None), Millis(1), |_| false);
        assert!(own.gathers.is_due());
        assert_eq!(own.gathers.acknowledged(), [0..7, 9..10]);
    }
}
