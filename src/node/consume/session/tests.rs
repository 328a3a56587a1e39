//! The session against a naive model: nothing lost, and nothing twice without a word.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;

const LEDGER_END: u64 = 40;
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a consumer, its source and the clock may do.
#[derive(Debug, Clone)]
enum Step {
    Credit(u32),
    /// The source brings up to so many events.
    Events(usize),
    Redeliver,
    Wait(u64),
    /// Everything before.
    Before(u64),
    /// Those in flight at these positions, and perhaps one that may not be.
    Single(Vec<usize>, Option<u64>),
    GiveUp(usize),
    /// Another session begins where this one has come to.
    Reconnect(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u32..6).prop_map(Step::Credit),
        4 => (1_usize..6).prop_map(Step::Events),
        3 => Just(Step::Redeliver),
        2 => (0_u64..40).prop_map(Step::Wait),
        3 => (0..LEDGER_END + 3).prop_map(Step::Before),
        4 => (vec(0_usize..8, 0..4), prop::option::weighted(0.2, 0..LEDGER_END + 3))
            .prop_map(|(own, other)| Step::Single(own, other)),
        1 => (0_usize..8).prop_map(Step::GiveUp),
        1 => (0_u32..4).prop_map(Step::Reconnect),
    ]
}

/// The naive model: sets of indexes, looked through from end to end.
struct Model {
    /// Which indexes are events of this consumer.
    mine: BTreeSet<u64>,
    /// Which of those are acknowledged, or given up.
    done: BTreeSet<u64>,
    /// Of this session: how often each event was delivered, and when last.
    flying: BTreeMap<u64, (u32, Duration)>,
    credits: u32,
    /// Everything before it was told.
    told: u64,
    /// The same, in all sessions so far.
    told_ever: u64,
    now: Duration,
    /// What the ledger would hold, from what the session says is newly settled.
    record: Settled,
}

impl Model {
    fn session(&mut self, credits: u32) -> Session<u64> {
        self.flying.clear();
        (self.credits, self.told, self.now) = (credits, self.record.next(), Duration::ZERO);
        Session::new(self.record.clone(), false, credits, Some(TIMEOUT))
    }

    fn note(&mut self, newly: Option<Acknowledged>) {
        let Some(newly) = newly else { return };
        self.record.insert(0..newly.next_index.unwrap_or(0));
        for index in newly.indexes {
            assert_eq!(self.record.insert(index..index + 1).len(), 1, "told once");
        }
    }

    fn settle(&mut self, indexes: &[u64]) -> usize {
        for index in indexes {
            self.flying.remove(index);
        }
        indexes.iter().filter(|index| self.done.insert(**index)).count()
    }

    fn oldest_due(&self) -> Option<(Duration, u64)> {
        self.flying.iter().map(|(index, (_, at))| (*at + TIMEOUT, *index)).min()
    }

    /// What must be true between any two steps.
    fn check(&mut self, session: &Session<u64>) {
        self.told_ever = self.told_ever.max(self.told);
        for index in 0..LEDGER_END + 5 {
            if self.mine.contains(&index) {
                let done = self.done.contains(&index);
                assert_eq!(self.record.contains(index), done, "{index}");
            } else if self.record.contains(index) {
                assert!(index < self.told_ever, "ahead of what was told");
            }
        }
        assert_eq!(session.next_index(), self.record.next());
        let due = self.oldest_due().map(|(due, _)| due).filter(|_| self.credits > 0);
        assert_eq!(session.redelivery_at(), due);
        assert_eq!(session.has_room(), self.credits > 0);
    }
}

/// Takes one step in both.
fn take(step: Step, session: &mut Session<u64>, model: &mut Model) {
    match step {
        Step::Credit(more) => {
            session.credit(more);
            model.credits += more;
        }
        Step::Wait(seconds) => model.now += Duration::from_secs(seconds),
        Step::Events(count) => bring(count, session, model),
        Step::Redeliver => {
            let due = model.oldest_due().filter(|(due, _)| *due <= model.now && model.credits > 0);
            let want = due.map(|(_, index)| {
                model.credits -= 1;
                let flight = model.flying.get_mut(&index).unwrap();
                *flight = (flight.0 + 1, model.now);
                Delivered { event: index, attempt: flight.0 }
            });
            assert_eq!(session.redeliver(model.now), want);
        }
        Step::Before(next) => {
            let what = Acknowledged { next_index: Some(next), ..Acknowledged::default() };
            let fine = next <= model.told.max(model.record.next());
            let settles: Vec<u64> =
                model.flying.keys().copied().filter(|index| *index < next).collect();
            acknowledge(&what, fine, &settles, session, model);
        }
        Step::Single(positions, other) => {
            let flying: Vec<u64> = model.flying.keys().copied().collect();
            let mut indexes: Vec<u64> =
                positions.iter().filter_map(|at| flying.get(*at).copied()).collect();
            let settles = indexes.clone();
            indexes.extend(other);
            let is_known = |own: u64| model.flying.contains_key(&own) || model.record.contains(own);
            let fine = other.is_none_or(is_known);
            let settles = [settles, other.filter(|own| flying.contains(own)).into_iter().collect()];
            let what = Acknowledged { indexes, ..Acknowledged::default() };
            acknowledge(&what, fine, &settles.concat(), session, model);
        }
        Step::GiveUp(position) => {
            let index = model.flying.keys().copied().nth(position).unwrap_or(LEDGER_END);
            let newly = session.give_up(index);
            assert_eq!(newly.is_some(), model.flying.contains_key(&index));
            if let Some(newly) = newly {
                model.record.insert(index..index + 1);
                model.settle(&[index]);
                model.note(newly);
            }
        }
        Step::Reconnect(credits) => *session = model.session(credits),
    }
}

/// Brings events for as long as there is room, and says so where there are no more.
fn bring(count: usize, session: &mut Session<u64>, model: &mut Model) {
    for _ in 0..count {
        if !session.has_room() {
            return;
        }
        let Some(next) = model.mine.range(model.told..).next().copied() else {
            let newly = session.caught_up(LEDGER_END);
            model.told = LEDGER_END;
            model.note(newly);
            return;
        };
        model.told = next + 1;
        let delivered = session.offer(next, next, model.now);
        let want = (!model.done.contains(&next)).then(|| {
            model.credits -= 1;
            model.flying.insert(next, (1, model.now));
            Delivered { event: next, attempt: 1 }
        });
        assert_eq!(delivered, want, "all of it once, but for what is settled");
    }
}

fn acknowledge(
    what: &Acknowledged,
    fine: bool,
    settles: &[u64],
    session: &mut Session<u64>,
    model: &mut Model,
) {
    let before = format!("{session:?}");
    match session.acknowledge(what.clone()) {
        Ok(newly) => {
            assert!(fine, "{what:?} was not delivered");
            let events = newly.as_ref().map_or(0, |newly| newly.events);
            assert_eq!(events, model.settle(settles));
            model.note(newly);
        }
        Err(error) => {
            assert!(!fine, "{what:?}: {error}");
            assert_eq!(format!("{session:?}"), before, "what is refused changes nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn nothing_is_lost_or_told_twice_but_as_such(
        mine in prop::collection::btree_set(3..LEDGER_END, 0..25),
        credits in 0_u32..6,
        steps in vec(step(), 0..120),
    ) {
        let mut model = Model {
            mine: mine.clone(),
            done: BTreeSet::new(),
            flying: BTreeMap::new(),
            credits: 0,
            told: 0,
            told_ever: 0,
            now: Duration::ZERO,
            record: Settled::before(3),
        };
        let mut session = model.session(credits);
        for step in steps {
            take(step, &mut session, &mut model);
            model.check(&session);
        }
        // Whoever comes next hears the rest, in order, and nothing else.
        session = model.session(CREDITS_MAX);
        let rest: Vec<u64> = mine.difference(&model.done).copied().collect();
        bring(usize::MAX, &mut session, &mut model);
        prop_assert_eq!(model.flying.keys().copied().collect::<Vec<_>>(), rest);
        take(Step::Before(LEDGER_END), &mut session, &mut model);
        model.check(&session);
        prop_assert_eq!(model.done, mine);
        prop_assert_eq!(model.record, Settled::before(LEDGER_END));
    }
}

fn session(credits: u32) -> Session<u64> {
    Session::new(Settled::before(0), false, credits, Some(TIMEOUT))
}

fn single(indexes: &[u64]) -> Acknowledged {
    Acknowledged { indexes: indexes.to_vec(), ..Acknowledged::default() }
}

fn before(next: u64) -> Acknowledged {
    Acknowledged { next_index: Some(next), ..Acknowledged::default() }
}

#[test]
fn more_credits_than_there_may_be_are_not_given() {
    let mut session = session(u32::MAX);
    session.credit(u32::MAX);
    for index in 0..u64::from(CREDITS_MAX) {
        assert!(session.has_room());
        session.offer(index, index, Duration::ZERO).unwrap();
        session.acknowledge(before(index + 1)).unwrap();
    }
    assert!(!session.has_room());
}

#[test]
fn an_event_that_nobody_acknowledges_holds_up_only_so_many() {
    let mut session = session(0);
    let mut delivered = 0;
    let mut offer = |session: &mut Session<u64>| {
        session.credit(1);
        let room = session.has_room();
        if room {
            // Every other index is an event: what is acknowledged leaves a range of its own.
            session.offer(delivered * 2, 0, Duration::ZERO).unwrap();
            delivered += 1;
        }
        room.then(|| (delivered - 1) * 2)
    };
    offer(&mut session).unwrap();
    let mut kept = 1;
    while let Some(index) = offer(&mut session) {
        session.acknowledge(single(&[index])).unwrap();
        kept += 1;
    }
    assert_eq!(kept, IN_FLIGHT_MAX);
    let mut next = Session::new(session.settled.clone(), false, 1, None);
    assert!(next.has_room(), "another session begins with the oldest");
    assert_eq!(next.offer(0, 0, Duration::ZERO), Some(Delivered { event: 0, attempt: 1 }));
    session.acknowledge(single(&[0])).unwrap();
    assert!(session.has_room());
    assert_eq!(session.settled.count_above(), 0, "what was between is settled, too");
}

#[test]
fn without_a_timeout_nothing_is_delivered_again() {
    let mut session = Session::new(Settled::before(0), false, 2, None);
    session.offer(4, 4, Duration::ZERO).unwrap();
    assert_eq!(session.redelivery_at(), None);
    assert_eq!(session.redeliver(Duration::MAX), None);
}

#[test]
fn a_snapshot_is_settled_by_what_follows_its_end() {
    let mut session: Session<u64> = Session::new(Settled::before(7), true, 10, None);
    session.snapshot_told();
    let snapshot = Acknowledged { snapshot: true, ..Acknowledged::default() };
    let refused = Err(ConsumeError::AckNotDelivered { index: 7, delivered: 7 });
    assert_eq!(session.acknowledge(snapshot), refused);
    assert_eq!(session.acknowledge(before(7)), Ok(None), "its end was not told yet");
    session.snapshot_ended(7);
    assert_eq!(session.caught_up(9), Some(before(9)));
    assert_eq!(session.acknowledge(before(6)), Ok(None));
    let settled = Acknowledged { snapshot: true, ..Acknowledged::default() };
    assert_eq!(session.acknowledge(before(7)), Ok(Some(settled)));
    assert_eq!(session.acknowledge(before(7)), Ok(None), "once is enough");
    assert_eq!(session.credits, 8);
}

#[test]
fn whoever_acknowledges_beyond_the_snapshot_has_dealt_with_it() {
    let mut session = Session::new(Settled::before(7), true, 10, None);
    session.snapshot_ended(7);
    session.offer(8, 8, Duration::ZERO).unwrap();
    let single_first = session.acknowledge(single(&[8])).unwrap().unwrap();
    assert!(!single_first.snapshot, "an event alone says nothing of the snapshot");
    let settled = session.acknowledge(before(9)).unwrap().unwrap();
    assert!(settled.snapshot && settled.events == 0);
}
