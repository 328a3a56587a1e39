//! Compares the book with a naive model: no event is lost or delivered twice except as a redelivery, and
//! the entries settle each event once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};

use super::{
    super::{Acknowledged, flight::Sent, unrecorded::FAILED_MAX},
    *,
};
use crate::{
    domain::{
        Catalog, FailedDelivery, Filter, Key, Millis, Settled, ShardState, SubjectRef,
        SubscriptionCreated, SubscriptionDeleted,
    },
    entry::{Fact, Names, Place},
    format::{entry::Entry, keys::ledger::LedgerSecret},
    ledger::{
        ENTRY_BYTES_MAX,
        sealed::{self, LookupError, Writing},
    },
    node::consume::CREDITS_MAX,
};

const ID: SubscriptionId = SubscriptionId(0);
const SHARD: Shard = (ID, 0);
const LEDGER_START: u64 = 3;
const LEDGER_END: u64 = 40;
const TIMEOUT: Duration = Duration::from_secs(30);
const NOW: Millis = Millis(5);

fn created(start_index: u64, shards: u32) -> Subscriptions {
    let mut all = Subscriptions::default();
    let created = SubscriptionCreated {
        name: Key::parse("crm").unwrap(),
        owner: String::new(),
        filter: Filter::default(),
        start_index,
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

/// An action of a consumer, its source, the clock or the writer.
#[derive(Debug, Clone)]
enum Step {
    Credit(u32),
    /// The source delivers up to this many events.
    Events(usize),
    Redeliver,
    Wait(u64),
    /// Acknowledges everything before an index.
    Before(u64),
    /// Acknowledges the events in flight at these positions, and perhaps an index that may not be in
    /// flight.
    Single(Vec<usize>, Option<u64>),
    GiveUp(usize),
    /// An event, perhaps a dead letter, is delivered after all.
    Redelivered(u64),
    /// Another consumer takes the seat.
    TakeOver(u32),
    Leave,
    /// The writer writes everything that is due, or fails to.
    Write {
        fails: bool,
    },
    /// The writer writes everything.
    WriteAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u32..6).prop_map(Step::Credit),
        4 => (1_usize..6).prop_map(Step::Events),
        3 => Just(Step::Redeliver),
        2 => (0_u64..40).prop_map(Step::Wait),
        3 => (0..LEDGER_END + 3).prop_map(Step::Before),
        4 => (vec(0_usize..8, 0..4), prop::option::weighted(0.2, 0..LEDGER_END + 3))
            .prop_map(|(flying, other)| Step::Single(flying, other)),
        1 => (0_usize..8).prop_map(Step::GiveUp),
        1 => (0..LEDGER_END).prop_map(Step::Redelivered),
        1 => (0_u32..4).prop_map(Step::TakeOver),
        1 => Just(Step::Leave),
        2 => any::<bool>().prop_map(|fails| Step::Write { fails }),
        1 => Just(Step::WriteAll),
    ]
}

/// The naive model: sets of indexes.
struct Model {
    /// The events of this shard.
    events: BTreeSet<u64>,
    /// The settled events, and whether they are given up.
    settled: BTreeMap<u64, bool>,
    /// The events in flight: the number of deliveries, and the time of the last one.
    flying: BTreeMap<u64, (u32, Duration)>,
    credits: u32,
    /// Every event before it was delivered to the present consumer.
    delivered: u64,
    /// Every event before it was delivered to some consumer.
    delivered_ever: u64,
    now: Duration,
}

impl Model {
    fn settle(&mut self, indexes: &[u64]) -> usize {
        for index in indexes {
            self.flying.remove(index);
        }
        indexes.iter().filter(|index| self.settled.insert(**index, false).is_none()).count()
    }

    fn oldest_due(&self) -> Option<(Duration, u64)> {
        self.flying.iter().map(|(index, (_, at))| (*at + TIMEOUT, *index)).min()
    }
}

/// The book, the ledger that its entries go to, and the model.
struct World {
    book: Book<u64>,
    subscriptions: Subscriptions,
    /// The indexes that entries settled so far, and whether they were given up.
    recorded: BTreeMap<u64, bool>,
    model: Model,
    entries: u64,
}

impl World {
    fn new(events: BTreeSet<u64>, credits: u32) -> Self {
        let mut world = Self {
            book: Book::default(),
            subscriptions: created(LEDGER_START, 1),
            recorded: BTreeMap::new(),
            model: Model {
                events,
                settled: BTreeMap::new(),
                flying: BTreeMap::new(),
                credits: 0,
                delivered: 0,
                delivered_ever: 0,
                now: Duration::ZERO,
            },
            entries: 0,
        };
        world.begin(credits);
        world
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut Account<u64>) -> R) -> R {
        self.book.change(&self.subscriptions, SHARD, change).unwrap()
    }

    fn settled(&self) -> Settled {
        self.book.account(SHARD).unwrap().settled().clone()
    }

    fn on_record(&self) -> &ShardState {
        self.subscriptions.get(ID).unwrap().shard(0).unwrap()
    }

    fn begin(&mut self, credits: u32) {
        self.change(|account| account.begin(credits, Some(TIMEOUT)));
        let delivered = self.settled().next();
        self.model.flying.clear();
        (self.model.credits, self.model.delivered, self.model.now) =
            (credits, delivered, Duration::ZERO);
    }

    fn take(&mut self, step: Step) {
        let now = self.model.now;
        match step {
            Step::Credit(more) => {
                self.change(|account| account.credit(more));
                self.model.credits += more;
            }
            Step::Wait(seconds) => self.model.now += Duration::from_secs(seconds),
            Step::Events(count) => self.deliver(count),
            Step::Redeliver => {
                let model = &mut self.model;
                let due = model.oldest_due().filter(|(due, _)| *due <= now && model.credits > 0);
                let want = due.map(|(_, index)| {
                    model.credits -= 1;
                    let flight = model.flying.get_mut(&index).unwrap();
                    *flight = (flight.0 + 1, now);
                    Sent { event: index, attempt: flight.0 }
                });
                assert_eq!(self.change(|account| account.redeliver(now)), want);
            }
            Step::Before(next) => {
                let acknowledged =
                    Acknowledged { next_index: Some(next), ..Acknowledged::default() };
                let is_valid = next <= self.model.delivered.max(self.settled().next());
                let settles: Vec<u64> =
                    self.model.flying.keys().copied().filter(|index| *index < next).collect();
                self.acknowledge(&acknowledged, is_valid, &settles);
            }
            Step::Single(positions, other) => {
                let flying: Vec<u64> = self.model.flying.keys().copied().collect();
                let mut indexes: Vec<u64> =
                    positions.iter().filter_map(|at| flying.get(*at).copied()).collect();
                let settles = indexes.clone();
                indexes.extend(other);
                let settled = self.settled();
                let is_known = |index: u64| flying.contains(&index) || settled.contains(index);
                let is_valid = other.is_none_or(is_known);
                let other = other.filter(|index| flying.contains(index));
                let settles = [settles, other.into_iter().collect()].concat();
                let acknowledged = Acknowledged { indexes, ..Acknowledged::default() };
                self.acknowledge(&acknowledged, is_valid, &settles);
            }
            Step::GiveUp(position) => {
                let flying = self.model.flying.keys().copied().nth(position);
                let index = flying.unwrap_or(LEDGER_END);
                let failed = FailedDelivery { index, attempts: 1, http_status: 500 };
                let was_flying = self.change(|account| account.give_up(failed, NOW));
                assert_eq!(was_flying, flying.is_some());
                if was_flying {
                    self.model.flying.remove(&index);
                    assert_eq!(self.model.settled.insert(index, true), None);
                }
            }
            Step::Redelivered(index) => {
                let recorded = self.recorded.clone();
                self.change(|account| {
                    account.redelivered(&[index], NOW, |index| recorded.get(&index) == Some(&true));
                });
                if let Some(is_failure) = self.model.settled.get_mut(&index) {
                    *is_failure = false;
                }
            }
            Step::TakeOver(credits) => self.begin(credits),
            Step::Leave => {
                self.change(Account::leave);
                assert_eq!(self.change(|account| account.redelivery_at()), None);
                assert!(!self.change(|account| account.has_room()));
                self.begin(0);
            }
            Step::Write { fails } => {
                let taken = self.book.take();
                if fails {
                    for body in taken.bodies() {
                        self.book.put_back(&body, &taken);
                    }
                } else {
                    self.write(&taken);
                }
            }
            Step::WriteAll => {
                let taken = self.book.take_of(ID);
                self.write(&taken);
                assert_eq!(self.on_record().settled, self.settled(), "nothing is left out");
                assert!(self.book.take_of(ID).bodies().is_empty(), "taken once");
                for (index, is_failure) in &self.model.settled {
                    assert_eq!(self.recorded.get(index), Some(is_failure), "{index}");
                }
            }
        }
    }

    fn write(&mut self, taken: &Taken) {
        for body in taken.bodies() {
            self.entries += 1;
            fold(&mut self.subscriptions, self.entries, &body);
            record(&mut self.recorded, body);
        }
    }

    /// Delivers events while there is room, and catches up when there are no more.
    fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            if !self.change(|account| account.has_room()) {
                return;
            }
            let Some(next) = self.model.events.range(self.model.delivered..).next().copied() else {
                self.change(|account| account.caught_up(LEDGER_END, NOW));
                self.model.delivered = LEDGER_END;
                return;
            };
            self.model.delivered = next + 1;
            let now = self.model.now;
            let sent = self.change(|account| account.deliver(next, 1, next, now));
            let want = (!self.model.settled.contains_key(&next)).then(|| {
                self.model.credits -= 1;
                self.model.flying.insert(next, (1, now));
                Sent { event: next, attempt: 1 }
            });
            assert_eq!(sent, want, "once, unless it is settled");
        }
    }

    fn acknowledge(&mut self, acknowledged: &Acknowledged, is_valid: bool, settles: &[u64]) {
        let before = format!("{:?}", self.book.account(SHARD));
        match self.change(|account| account.acknowledge(acknowledged, NOW)) {
            Ok(events) => {
                assert!(is_valid, "{acknowledged:?} was not delivered");
                assert_eq!(events, self.model.settle(settles));
            }
            Err(error) => {
                assert!(!is_valid, "{acknowledged:?}: {error:?}");
                let after = format!("{:?}", self.book.account(SHARD));
                assert_eq!(after, before, "a refused acknowledgement changes nothing");
            }
        }
    }

    /// Checks the invariants after a step.
    fn check(&mut self) {
        let model = &mut self.model;
        model.delivered_ever = model.delivered_ever.max(model.delivered);
        let account = self.book.account(SHARD).unwrap();
        let (settled, recorded) =
            (account.settled(), &self.subscriptions.get(ID).unwrap().shards[0]);
        for index in 0..LEDGER_END + 5 {
            if model.events.contains(&index) {
                let is_settled = model.settled.contains_key(&index);
                assert_eq!(settled.contains(index), is_settled, "{index}");
                assert!(!(is_settled && model.flying.contains_key(&index)), "{index}");
            } else if settled.contains(index) {
                assert!(index < model.delivered_ever, "ahead of the deliveries");
            }
            assert!(settled.contains(index) || !recorded.settled.contains(index), "{index}");
        }
        let due = model.oldest_due().map(|(due, _)| due).filter(|_| model.credits > 0);
        assert_eq!(account.redelivery_at(), due);
        assert_eq!(account.has_room(), model.credits > 0);
        assert_eq!(self.book.count(), account.unrecorded.count());
        if self.book.count() > 0 {
            assert!(self.book.since().is_some(), "it will be written");
        }
    }
}

/// Records the indexes that an entry settles; none may be settled before.
fn record(recorded: &mut BTreeMap<u64, bool>, body: SubscriptionEntry) {
    match body {
        SubscriptionEntry::Delivered(delivered) => {
            for delivered in delivered {
                let mut end = 0;
                for range in delivered.ranges {
                    assert!(end <= range.start && range.start < range.end, "ascending");
                    end = range.end;
                    let is_one = range.end - range.start == 1;
                    for at in range {
                        let before = recorded.insert(at, false);
                        assert!(before.is_none() || (is_one && before == Some(true)), "{at}");
                    }
                }
            }
        }
        SubscriptionEntry::Failed(failed) => {
            for failed in failed.failed {
                assert_eq!(recorded.insert(failed.index, true), None);
            }
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_event_is_lost_or_delivered_twice_except_as_a_redelivery(
        events in prop::collection::btree_set(LEDGER_START..LEDGER_END, 0..25),
        credits in 0_u32..6,
        steps in vec(step(), 0..120),
    ) {
        let mut world = World::new(events.clone(), credits);
        for step in steps {
            world.take(step);
            world.check();
        }
        // The next consumer gets exactly the rest, in order.
        world.begin(CREDITS_MAX);
        let settled: BTreeSet<u64> = world.model.settled.keys().copied().collect();
        let rest: Vec<u64> = events.difference(&settled).copied().collect();
        world.deliver(usize::MAX);
        prop_assert_eq!(world.model.flying.keys().copied().collect::<Vec<_>>(), rest);
        world.take(Step::Before(LEDGER_END));
        world.check();
        world.take(Step::WriteAll);
        prop_assert_eq!(world.model.settled.into_keys().collect::<BTreeSet<_>>(), events);
        prop_assert_eq!(&world.subscriptions.get(ID).unwrap().shards[0].settled, &Settled::before(LEDGER_END));
    }
}

/// An acknowledgement or failure of events, delivered or not, or a write.
#[derive(Debug, Clone)]
enum Op {
    Acknowledge(Vec<u64>, Option<u64>),
    GiveUp(u64),
    Write,
}

fn any_op() -> impl Strategy<Value = Op> {
    let next = proptest::option::of(0_u64..40);
    prop_oneof![
        4 => (vec(0_u64..40, 0..5), next).prop_map(|(indexes, next)| Op::Acknowledge(indexes, next)),
        2 => (0_u64..40).prop_map(Op::GiveUp),
        1 => Just(Op::Write),
    ]
}

fn acknowledged(indexes: &[u64], next_index: Option<u64>) -> Acknowledged {
    Acknowledged { next_index, indexes: indexes.to_vec(), ..Acknowledged::default() }
}

proptest! {
    #[test]
    fn entries_settle_each_event_once(mut ops in vec(any_op(), 1..80)) {
        ops.push(Op::Write);
        let (mut all, mut book) = (created(0, 1), Book::<u64>::default());
        let mut model: BTreeMap<u64, bool> = BTreeMap::new();
        let mut written: BTreeMap<u64, bool> = BTreeMap::new();
        let mut index = 1;
        book.change(&all, SHARD, |_| {});
        for op in ops {
            match op {
                Op::Acknowledge(indexes, next) => {
                    let is_dead_letter = |at| written.get(&at).is_some_and(|is_failure| *is_failure);
                    book.change(&all, SHARD, |account| {
                        account.redelivered(&indexes, NOW, is_dead_letter);
                        account.settle(&acknowledged(&indexes, next), indexes.len(), NOW);
                    });
                    // Everything before `next` is settled, event or not.
                    let before = (0..next.unwrap_or(0)).filter(|at| !model.contains_key(at));
                    let new: Vec<u64> = indexes.into_iter().chain(before).collect();
                    model.extend(new.into_iter().map(|at| (at, false)));
                }
                Op::GiveUp(at) => {
                    let failed = FailedDelivery { index: at, attempts: 1, http_status: 500 };
                    book.change(&all, SHARD, |account| account.fail(failed));
                    model.entry(at).or_insert(true);
                }
                Op::Write => {
                    for body in book.take_of(ID).bodies() {
                        fold(&mut all, index, &body);
                        index += 1;
                        record(&mut written, body);
                    }
                    prop_assert_eq!(&written, &model);
                    let state = all.get(ID).unwrap().shard(0).unwrap();
                    prop_assert_eq!(&state.settled, book.account(SHARD).unwrap().settled());
                }
            }
        }
    }
}

fn bytes_of(body: &SubscriptionEntry) -> usize {
    let catalog = Catalog::default();
    let nobody = |_: SubjectRef, _| Err(LookupError("nobody".to_owned()));
    let names = Names { index: u64::MAX, catalog: &catalog, reference_of: &nobody };
    let content = body.kind().content(&names).unwrap();
    let confidential = LedgerSecret::random(&mut rand::rng()).confidential();
    let (index, recorded_at) = (u64::MAX, Millis(i64::MAX));
    let writing = Writing { ledger_id: [7; 16], confidential: &confidential, index, recorded_at };
    let (body, _) = sealed::seal(content, &writing, &[], None).unwrap();
    Entry::new(index, [7; 32], i64::MAX, body, &confidential.clear).encode().len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn receipts_beyond_the_size_limit_go_into_further_entries(
        counts in vec(0_u64..9_000, 1..4),
        start in prop::sample::select(vec![0, 1 << 20, u64::MAX >> 1]),
    ) {
        let shards = u32::try_from(counts.len()).unwrap();
        let (all, mut book) = (created(0, shards), Book::<u64>::default());
        for (shard, &count) in (0..).zip(&counts) {
            let indexes: Vec<u64> = (0..count).map(|at| start + 2 * at).collect();
            book.change(&all, (ID, shard), |account| {
                account.settle(&acknowledged(&indexes, None), indexes.len(), Millis(i64::MAX));
            });
        }
        let mut written = vec![0; counts.len()];
        for body in book.take().bodies() {
            let SubscriptionEntry::Delivered(delivered) = &body else { panic!("{body:?}") };
            for receipt in delivered {
                prop_assert!(!receipt.ranges.is_empty());
                written[receipt.shard as usize] += receipt.ranges.len() as u64;
            }
            prop_assert!(bytes_of(&body) <= ENTRY_BYTES_MAX);
        }
        prop_assert_eq!(written, counts);
    }
}

#[test]
fn the_content_of_an_unwritten_entry_goes_back_into_the_book() {
    let (all, mut book) = (created(0, 1), Book::<u64>::default());
    book.change(&all, SHARD, |account| {
        // An old dead letter.
        account.fail(FailedDelivery { index: 13, attempts: 3, http_status: 500 });
    });
    book.take();
    book.change(&all, SHARD, |account| {
        account.settle(&acknowledged(&[8, 9, 12], Some(4)), 3, Millis(7));
        account.fail(FailedDelivery { index: 20, attempts: 3, http_status: 500 });
        account.redelivered(&[13], Millis(8), |index| index == 13);
    });
    assert_eq!(book.count(), 5);
    let taken = book.take_of(ID);
    let bodies = taken.bodies();
    assert_eq!((book.count(), bodies.len()), (0, 2));
    assert!(book.take_of(ID).bodies().is_empty(), "taken once");
    for body in &bodies {
        book.put_back(body, &taken);
    }
    assert!(book.since().is_some(), "it is due");
    assert_eq!(book.take().bodies(), bodies);
    book.stop();
    book.put_back(&bodies[0], &taken);
    assert!(book.take_of(ID).bodies().is_empty());
    book.change(&all, SHARD, |account| account.settle(&acknowledged(&[30], None), 1, NOW));
    assert!(
        book.take_of(ID).bodies().is_empty(),
        "no acknowledgement gathers once the book is stopped"
    );
}

#[test]
fn many_failures_are_many_entries() {
    let (all, mut book) = (created(0, 1), Book::<u64>::default());
    for index in 0..3 * FAILED_MAX as u64 + 1 {
        let (attempts, http_status) = (u32::MAX, 599);
        let failed = FailedDelivery { index: index << 30, attempts, http_status };
        book.change(&all, SHARD, |account| account.fail(failed));
    }
    let bodies = book.take().bodies();
    assert_eq!(bodies.len(), 4);
    for body in bodies {
        assert!(bytes_of(&body) <= ENTRY_BYTES_MAX);
    }
}

#[test]
fn accounts_of_ended_subscriptions_are_forgotten() {
    let (mut all, mut book) = (created(0, 2), Book::<u64>::default());
    let settle = |account: &mut Account<u64>| account.settle(&acknowledged(&[7], None), 1, NOW);
    assert!(book.change(&all, (ID, 1), settle).is_some());
    assert!(book.change(&all, (ID, 2), settle).is_none(), "there is no such shard");
    book.forget_ended(&all);
    assert_eq!(book.count(), 1);
    let deleted = SubscriptionDeleted { subscription: ID };
    fold(&mut all, 9, &SubscriptionEntry::Deleted(deleted));
    assert!(book.change(&all, (ID, 1), settle).is_none());
    book.forget_ended(&all);
    assert_eq!(book.count(), 0);
    assert!(book.account((ID, 1)).is_none());
}
