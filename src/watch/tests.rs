//! For any sizes of memory and queues, any speed of readers and any number of cancelled calls: every
//! watcher returns each event that passes its filter exactly once, in order, and never reports an index
//! beyond the events that it returned.

use std::{collections::BTreeSet, env, sync::atomic::AtomicU64, time::Duration};

use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::{runtime::Runtime, task::yield_now, time::timeout};

use super::{recent::Gathered, *};
use crate::{
    domain::{Action, Actor, ChangeRecord, Key, Millis, Outcome, ScopeKeys, Subject},
    event::{ConsentDetail, EventDetail},
};

/// An entry: its event, or none.
type Written = Option<Arc<Event>>;

/// A ledger in memory that reads a few entries at a time.
#[derive(Debug, Default)]
struct Log {
    entries: Mutex<Vec<Written>>,
    reads: AtomicU64,
}

impl Past for Log {
    fn read(&self, cursor: u64, end: u64, _: &Filter) -> Result<Gathered, WatchError> {
        let read = self.reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let next = end.min(cursor + 1 + read % 7);
        let entries = self.entries.lock();
        let range = usize::try_from(cursor).unwrap()..usize::try_from(next).unwrap();
        let events = entries[range].iter().flatten().cloned();
        Ok(Gathered { posts: events.map(|event| Arc::new(Post::new(event))).collect(), next })
    }
}

const PURPOSES: [&str; 3] = ["news", "ads", "care"];

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn event(index: u64, purpose: Option<&str>, namespace: &str) -> Event {
    let change = ChangeRecord {
        action: Action::Withdraw,
        scope: ScopeKeys { purpose: purpose.map(|text| key(text).into()), channel: None },
        purpose_version: 0,
        expires_at: None,
        data_categories: Vec::new(),
        outcome: Outcome::Applied,
        linked_subjects: 0,
    };
    let detail = EventDetail::Consent(ConsentDetail {
        subject: Subject::parse(&format!("{namespace}:{index}")).unwrap(),
        actor: Actor::Subject,
        effective_at: Millis(0),
        changes: vec![change],
        preferences_changed: false,
        cause: None,
        reason: None,
        linked: Vec::new(),
        part: None,
    });
    Event { index, recorded_at: Millis(0), detail }
}

/// Makes an entry from a number: without an event, or a withdrawal of one purpose or of all, in one
/// namespace.
fn entry(index: u64, number: u8) -> Written {
    let namespace = if number.is_multiple_of(2) { "user" } else { "email" };
    let purpose = match number / 2 % 5 {
        0 => return None,
        1 => None,
        other => Some(PURPOSES[usize::from(other) - 2]),
    };
    Some(Arc::new(event(index, purpose, namespace)))
}

/// A hub over a ledger in memory, and its writer.
struct World {
    log: Arc<Log>,
    hub: Hub,
    threads: Threads,
}

impl World {
    fn new(before: &[u8], recent_max: usize, queue_max: usize) -> Self {
        let log = Arc::new(Log::default());
        log.entries.lock().extend((0..).zip(before).map(|(index, number)| entry(index, *number)));
        let past: Arc<dyn Past> = log.clone();
        let (head, threads) = (before.len() as u64, Threads::default());
        let hub = Hub::over(past, head, recent_max, queue_max, &threads).unwrap();
        Self { log, hub, threads }
    }

    fn write(&self, batch: &[u8]) {
        let mut entries = self.log.entries.lock();
        let first = entries.len() as u64;
        let batch: Vec<_> =
            (first..).zip(batch).map(|(index, number)| entry(index, *number)).collect();
        entries.extend(batch.clone());
        let head = entries.len() as u64;
        drop(entries);
        self.hub.publish(batch.into_iter().flatten().collect(), head);
        self.hub.wake();
    }

    /// The events that a watcher must return.
    fn wanted(&self, start: u64, filter: &Filter) -> Vec<u64> {
        let entries = self.log.entries.lock();
        let passing = entries.iter().flatten().filter(|event| event.passing(filter).is_some());
        passing.map(|event| event.index).filter(|index| *index >= start).collect()
    }
}

#[derive(Debug, Clone)]
struct Reader {
    /// Where it starts, in percent of the entries at the beginning.
    start: u64,
    filter: Filter,
    /// How often it yields after each event.
    pauses: u8,
    /// Whether it begins after the last write.
    is_stalled: bool,
    /// Whether it cancels calls that do not return at once, and calls again.
    is_hasty: bool,
    /// Which method it calls.
    call: Call,
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Next,
    NextEvent,
    NextOrCaughtUp,
}

fn any_reader() -> impl Strategy<Value = Reader> {
    let purposes = vec(select(&PURPOSES[..]), 0..3);
    let namespaces = vec(select(&["user", "email", "device"][..]), 0..2);
    let filter = (purposes, namespaces).prop_map(|(purposes, namespaces)| Filter {
        purposes: purposes.into_iter().map(|text| key(text).into()).collect(),
        namespaces: namespaces.into_iter().map(str::to_owned).collect(),
        ..Filter::default()
    });
    let call = select(&[Call::Next, Call::NextEvent, Call::NextOrCaughtUp][..]);
    (0..=100_u64, filter, 0..4_u8, prop::bool::weighted(0.2), any::<bool>(), call).prop_map(
        |(start, filter, pauses, is_stalled, is_hasty, call)| Reader {
            start,
            filter,
            pauses,
            is_stalled,
            is_hasty,
            call,
        },
    )
}

impl Reader {
    async fn next(&self, watcher: &mut Watcher) -> Result<Heard, WatchError> {
        match self.call {
            Call::Next => watcher.next().await,
            Call::NextEvent => watcher.next_event().await,
            Call::NextOrCaughtUp => watcher.next_or_caught_up().await,
        }
    }

    /// Reads until the hub closes. Returns the indexes of the events, and the index to resume from.
    async fn read(self, world: Arc<World>, mut watcher: Watcher, start: u64) -> (Vec<u64>, u64) {
        let mut heard = Vec::new();
        let mut reached = start;
        loop {
            let head = world.hub.head();
            let patience = if self.is_hasty { Duration::ZERO } else { Duration::from_secs(60) };
            let heard_next = match timeout(patience, self.next(&mut watcher)).await {
                Ok(heard_next) => heard_next,
                Err(_) if self.is_hasty => {
                    yield_now().await;
                    continue;
                }
                Err(_) => panic!("no event and no end for a minute"),
            };
            match heard_next {
                Ok(Heard::Event(post, passing)) => {
                    assert!(post.event.index >= reached, "beyond the reported index");
                    assert_eq!(post.event.passing(&self.filter), Some(passing));
                    heard.push(post.event.index);
                }
                Ok(Heard::CaughtUp { next_index }) => {
                    assert!(next_index >= head.max(reached), "{next_index} of {head}");
                    assert!(!matches!(self.call, Call::NextEvent));
                    reached = next_index;
                    yield_now().await;
                }
                Err(WatchError::Closing { next_index }) => return (heard, next_index),
                Err(error) => panic!("{error}"),
            }
            for _ in 0..self.pauses {
                yield_now().await;
            }
        }
    }
}

async fn check(
    before: Vec<u8>,
    batches: Vec<Vec<u8>>,
    readers: Vec<Reader>,
    (recent_max, queue_max): (usize, usize),
) {
    let world = Arc::new(World::new(&before, recent_max, queue_max));
    let mut stalled = Vec::new();
    let mut reading = Vec::new();
    for reader in readers {
        let start = before.len() as u64 * reader.start / 100;
        let watcher = world.hub.watch(start, reader.filter.clone());
        let filter = reader.filter.clone();
        let is_stalled = reader.is_stalled;
        let read = reader.read(Arc::clone(&world), watcher, start);
        if is_stalled {
            stalled.push((start, filter, read));
        } else {
            reading.push((start, filter, tokio::spawn(read)));
        }
    }
    for batch in batches {
        world.write(&batch);
        yield_now().await;
    }
    reading.extend(
        stalled.into_iter().map(|(start, filter, read)| (start, filter, tokio::spawn(read))),
    );
    world.threads.end();
    for (start, filter, read) in reading {
        let (heard, next_index) = read.await.unwrap();
        assert_eq!(heard, world.wanted(start, &filter), "from {start} with {filter:?}");
        assert_eq!(next_index, world.hub.head());
    }
    assert_eq!(world.hub.shared.seated(), 0, "readers that ended have no seat");
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 96 };
    ProptestConfig { cases, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_event_that_passes_is_returned_once_and_in_order(
        before in vec(any::<u8>(), 0..40),
        batches in vec(vec(any::<u8>(), 1..40), 1..60),
        readers in vec(any_reader(), 1..12),
        sizes in (0..60_usize, 1..9_usize),
    ) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(check(before, batches, readers, sizes));
    }
}

/// The number of a withdrawal of "news" by a user; see [`entry`].
const NEWS: u8 = 4;
/// The number of an entry without an event.
const NOTHING: u8 = 0;

fn news() -> Filter {
    Filter { purposes: BTreeSet::from([key("news").into()]), ..Filter::default() }
}

async fn index(watcher: &mut Watcher) -> u64 {
    match watcher.next().await.unwrap() {
        Heard::Event(post, _) => post.event.index,
        Heard::CaughtUp { next_index } => panic!("caught up at {next_index}"),
    }
}

#[tokio::test]
async fn a_stalled_watcher_loses_its_seat_and_takes_one_again() {
    let world = World::new(&[], 1_000, 4);
    let mut watcher = world.hub.watch(0, news());
    assert_eq!(watcher.next().await.unwrap(), Heard::CaughtUp { next_index: 0 });
    assert_eq!(world.hub.shared.seated(), 1);
    world.write(&[NEWS; 50]);
    while world.hub.shared.seated() > 0 {
        yield_now().await;
    }
    for want in 0..50 {
        assert_eq!(index(&mut watcher).await, want);
    }
    assert_eq!(watcher.next().await.unwrap(), Heard::CaughtUp { next_index: 50 });
    assert_eq!(world.hub.shared.seated(), 1, "it is woken again");
    world.write(&[NOTHING, NEWS]);
    assert_eq!(index(&mut watcher).await, 51);
}

#[tokio::test]
async fn a_watcher_is_woken_for_its_events_only_and_still_reports_the_head() {
    let world = World::new(&[], 1_000, 4);
    let mut watcher = world.hub.watch(0, news());
    assert_eq!(watcher.next().await.unwrap(), Heard::CaughtUp { next_index: 0 });
    {
        let mut waiting = Box::pin(watcher.next());
        assert!(timeout(Duration::ZERO, &mut waiting).await.is_err());
        for _ in 0..10 {
            world.write(&[NOTHING; 10]);
            assert!(timeout(Duration::ZERO, &mut waiting).await.is_err(), "it is not woken");
        }
        // Only its timer ends the wait.
        assert_eq!(waiting.await.unwrap(), Heard::CaughtUp { next_index: 100 });
    }
    world.write(&[NOTHING]);
    assert_eq!(watcher.next().await.unwrap(), Heard::CaughtUp { next_index: 101 });
    let heard = watcher.next_or_caught_up().await.unwrap();
    assert_eq!(heard, Heard::CaughtUp { next_index: 101 }, "at each call");
}

#[tokio::test]
async fn a_watcher_of_a_closed_hub_returns_the_events_up_to_the_end() {
    let world = World::new(&[NEWS, NOTHING, NEWS], 10, 4);
    world.threads.end();
    let mut watcher = world.hub.watch(0, news());
    assert_eq!(index(&mut watcher).await, 0);
    assert_eq!(index(&mut watcher).await, 2);
    let closing = loop {
        match watcher.next().await {
            Ok(Heard::CaughtUp { next_index: 3 }) => {}
            other => break other,
        }
    };
    assert_eq!(closing, Err(WatchError::Closing { next_index: 3 }));
}

#[tokio::test]
async fn watchers_that_keep_up_share_the_encoded_event() {
    let world = World::new(&[], 10, 4);
    let mut watchers = [world.hub.watch(0, news()), world.hub.watch(0, Filter::default())];
    world.write(&[NEWS]);
    let mut made = 0;
    for watcher in &mut watchers {
        let Heard::Event(post, _) = watcher.next_event().await.unwrap() else { panic!("an event") };
        post.wire.get_or_init(|| {
            made += 1;
            bytes::Bytes::from_static(b"once")
        });
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn a_failed_tailer_ends_the_watchers() {
    let world = World::new(&[NEWS], 10, 4);
    let mut watchers = [world.hub.watch(0, news()), world.hub.watch(1, news())];
    assert_eq!(index(&mut watchers[0]).await, 0);
    assert_eq!(watchers[1].next().await.unwrap(), Heard::CaughtUp { next_index: 1 });
    world.hub.shared.end(End::Failed);
    let late = world.hub.watch(1, news());
    for mut watcher in watchers.into_iter().chain([late]) {
        let heard = watcher.next_or_caught_up().await;
        assert!(matches!(heard, Err(WatchError::Unreadable(_))), "{heard:?}");
    }
}

#[test]
fn an_event_of_the_ledger_is_found_before_it_is_published() {
    let world = World::new(&[2, 0], 4, 4);
    let event = entry(2, 4);
    world.log.entries.lock().extend([event.clone(), None]);
    assert_eq!(world.hub.head(), 2, "it is not published");
    assert_eq!(world.hub.event_on_record(2).unwrap(), event);
    assert_eq!(world.hub.event_on_record(3).unwrap(), None);
    assert_eq!(world.hub.event_on_record(0).unwrap(), entry(0, 2));
}
