//! Cases of one account. The tests of the book check the invariants over any sequence of steps.

use super::*;
use crate::node::{
    consume::{CREDITS_MAX, IN_FLIGHT_MAX},
    delivery::unrecorded::RIDE_ENTRIES_MAX,
};

const TIMEOUT: Duration = Duration::from_secs(30);
const NOW: Millis = Millis(1);

fn begun(
    settled: Settled,
    snapshot_pending: bool,
    credits: u32,
    redeliver_after: Option<Duration>,
) -> Account<u64> {
    let start_index = settled.next();
    let state = ShardState { settled, snapshot_pending, overdue: None };
    let mut account = Account::on_record(&state, start_index);
    account.begin(credits, redeliver_after);
    account
}

fn account(credits: u32) -> Account<u64> {
    begun(Settled::before(0), false, credits, Some(TIMEOUT))
}

fn single(indexes: &[u64]) -> Acknowledged {
    Acknowledged { indexes: indexes.to_vec(), ..Acknowledged::default() }
}

fn before(next: u64) -> Acknowledged {
    Acknowledged { next_index: Some(next), ..Acknowledged::default() }
}

#[test]
fn credits_are_limited() {
    let mut account = account(u32::MAX);
    account.credit(u32::MAX);
    for index in 0..u64::from(CREDITS_MAX) {
        assert!(account.has_room());
        account.deliver(index, 1, index, Duration::ZERO).unwrap();
        account.acknowledge(&before(index + 1), NOW).unwrap();
    }
    assert!(!account.has_room());
}

#[test]
fn an_unacknowledged_event_limits_the_events_after_it() {
    let mut account = account(0);
    let mut delivered = 0;
    let mut deliver = |account: &mut Account<u64>| {
        account.credit(1);
        let room = account.has_room();
        if room {
            // Every other index is an event, so each acknowledged event is a range.
            account.deliver(delivered * 2, 1, 0, Duration::ZERO).unwrap();
            delivered += 1;
        }
        room.then(|| (delivered - 1) * 2)
    };
    deliver(&mut account).unwrap();
    let mut kept = 1;
    while let Some(index) = deliver(&mut account) {
        account.acknowledge(&single(&[index]), NOW).unwrap();
        kept += 1;
    }
    assert_eq!(kept, IN_FLIGHT_MAX);
    let mut next = begun(account.settled().clone(), false, 1, None);
    assert!(next.has_room(), "the next consumer begins with the oldest");
    assert_eq!(next.deliver(0, 1, 0, Duration::ZERO), Some(Sent { event: 0, attempt: 1 }));
    account.acknowledge(&single(&[0]), NOW).unwrap();
    assert!(account.has_room());
    assert_eq!(account.settled().count_above(), 0, "the indexes between are settled, too");
}

#[test]
fn without_a_timeout_there_is_no_redelivery() {
    let mut account = begun(Settled::before(0), false, 2, None);
    account.deliver(4, 1, 4, Duration::ZERO).unwrap();
    assert_eq!(account.redelivery_at(), None);
    assert_eq!(account.redeliver(Duration::MAX), None);
}

#[test]
fn an_acknowledgement_after_its_end_settles_a_snapshot() {
    let mut account = begun(Settled::before(7), true, 10, None);
    account.snapshot_sent();
    let snapshot = Acknowledged { snapshot: true, ..Acknowledged::default() };
    let refused = Err(NotDelivered { index: 7, delivered: 7 });
    assert_eq!(account.acknowledge(&snapshot, NOW), refused);
    assert_eq!(account.acknowledge(&before(7), NOW), Ok(0));
    assert!(account.snapshot_pending(), "its end was not delivered yet");
    account.snapshot_ended(7);
    account.caught_up(9, NOW);
    assert_eq!(account.settled(), &Settled::before(9));
    assert_eq!(account.acknowledge(&before(6), NOW), Ok(0));
    assert!(account.snapshot_pending(), "it ends after that");
    assert_eq!(account.unrecorded.count(), 0);
    assert_eq!(account.acknowledge(&before(7), NOW), Ok(0));
    assert!(!account.snapshot_pending());
    assert_eq!(account.unrecorded.count(), 1, "it will be written");
    assert_eq!(account.acknowledge(&before(7), NOW), Ok(0));
    assert_eq!(account.unrecorded.count(), 1, "once is enough");
    for index in 9..17 {
        assert!(account.has_room(), "two of ten credits were spent");
        account.deliver(index, 1, index, Duration::ZERO).unwrap();
        account.acknowledge(&before(index + 1), NOW).unwrap();
    }
    assert!(!account.has_room());
}

#[test]
fn an_acknowledgement_beyond_the_snapshot_settles_it() {
    let mut account = begun(Settled::before(7), true, 10, None);
    account.snapshot_ended(7);
    account.deliver(8, 1, 8, Duration::ZERO).unwrap();
    assert_eq!(account.acknowledge(&single(&[8]), NOW), Ok(1));
    assert!(account.snapshot_pending(), "a single event does not include the snapshot");
    assert_eq!(account.acknowledge(&before(9), NOW), Ok(0));
    assert!(!account.snapshot_pending());
}

#[test]
fn indexes_without_events_are_written_with_the_next_event_unless_they_are_many() {
    let mut near = account(0);
    near.settle(&before(RIDE_ENTRIES_MAX - 1), 0, NOW);
    assert!(!near.unrecorded.is_due());
    near.settle(&before(RIDE_ENTRIES_MAX), 0, NOW);
    assert!(near.unrecorded.is_due());
    let mut other = account(0);
    other.settle(&before(7), 0, NOW);
    other.settle(&single(&[9]), 1, NOW);
    assert!(other.unrecorded.is_due());
    assert_eq!(other.unrecorded.acknowledged(), [0..7, 9..10]);
}

#[test]
fn only_dead_letters_can_be_delivered_after_all() {
    let mut account = account(3);
    account.deliver(4, 1, 4, Duration::ZERO).unwrap();
    account.redelivered(&[4, 9], NOW, |_| true);
    assert!(!account.settled().contains(4) && !account.settled().contains(9));
    assert_eq!(account.unrecorded.count(), 0);
    assert_eq!(account.acknowledge(&single(&[4]), NOW), Ok(1));
    account.redelivered(&[4], NOW, |_| true);
    assert_eq!(account.unrecorded.count(), 1, "it is acknowledged already");
}

#[test]
fn an_entry_is_settled_once_each_of_its_events_is_acknowledged() {
    let one_by_one: [&[Acknowledged]; 3] = [
        &[single(&[4]), single(&[4]), single(&[4])],
        &[before(5), before(5), before(5)],
        &[single(&[4, 4]), before(5)],
    ];
    for acknowledgements in one_by_one {
        let mut account = account(10);
        account.deliver(2, 1, 2, Duration::ZERO).unwrap();
        account.deliver(4, 3, 4, Duration::ZERO).unwrap();
        account.acknowledge(&single(&[2]), NOW).unwrap();
        let (last, first) = acknowledgements.split_last().unwrap();
        for acknowledged in first {
            assert_eq!(account.acknowledge(acknowledged, NOW), Ok(0));
            assert_eq!(account.settled().next(), 4, "{acknowledged:?}");
        }
        assert_eq!(account.acknowledge(last, NOW), Ok(1));
        assert_eq!(account.settled().next(), 5);
    }
    let whole = [
        Acknowledged { whole_entries: true, ..single(&[4]) },
        Acknowledged { whole_entries: true, ..before(5) },
        // It comes from behind a later entry.
        before(8),
    ];
    for acknowledged in whole {
        let mut account = account(10);
        account.deliver(4, 3, 4, Duration::ZERO).unwrap();
        account.deliver(7, 1, 7, Duration::ZERO).unwrap();
        account.acknowledge(&acknowledged, NOW).unwrap();
        assert!(account.settled().contains(4), "{acknowledged:?}");
    }
}

#[test]
fn the_events_of_an_entry_come_again_together_and_are_counted_anew() {
    let mut account = account(20);
    account.deliver(4, 3, 4, Duration::ZERO).unwrap();
    account.acknowledge(&single(&[4, 4]), NOW).unwrap();
    assert_eq!(account.redeliver(TIMEOUT), Some(Sent { event: 4, attempt: 2 }));
    account.acknowledge(&single(&[4, 4]), NOW).unwrap();
    assert!(!account.settled().contains(4), "one of them may not be dealt with");
    account.acknowledge(&single(&[4]), NOW).unwrap();
    assert!(account.settled().contains(4));
}

#[test]
fn the_events_of_an_entry_take_a_credit_each_although_they_come_together() {
    let mut account = account(2);
    account.deliver(4, 5, 4, Duration::ZERO).unwrap();
    account.credit(3);
    assert!(!account.has_room(), "the credits are owed");
    account.credit(1);
    assert!(account.has_room());
}
