//! Streams under fire: the server is killed repeatedly, watchers and consumers come and go, stall,
//! and acknowledge out of order. An oracle that shares no code with the service checks a recording
//! of every stream.
//!
//! `CONSENT_LEDGER_TEST_EVENTS` says how many acts are written: 20,000, or a million for a long run.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use consent_ledger::{
    format::keys::ledger::LedgerSecret,
    proto::{
        self, Action, EventKind, consume_request, consume_response,
        watch_response::Message as Watched,
    },
    storage::disk::RealDisk,
    vault::{self, Kek, People},
};
use futures_util::{StreamExt as _, stream};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{
    self, Clients, Server, act, change,
    oracle::{self, Heard, Session, Written},
    typed,
};

const PURPOSES: usize = 20;
const CHANNELS: [&str; 7] = ["email", "sms", "push", "phone", "post", "web", "app"];
const NAMESPACES: [&str; 3] = ["user", "email", "device"];
const SUBJECTS: u32 = 4_000;
const WRITERS: u64 = 4;
const IN_FLIGHT: usize = 64;
const WATCHERS: u64 = 10;
const SUBSCRIPTIONS: u64 = 5;
const KILLS: u64 = 8;
/// Short, so that a kill loses receipts that were not yet written.
const FLAGS: &[&str] = &["--segment-bytes-max", "1048576", "--receipt-interval", "100ms"];

fn purpose(number: usize) -> String {
    format!("marketing.purpose-{number}")
}

fn events() -> u64 {
    std::env::var("CONSENT_LEDGER_TEST_EVENTS")
        .map_or(20_000, |text| text.parse().expect("a number"))
}

/// State shared by all tasks of the test.
#[derive(Clone)]
struct World {
    /// Address of the server; it changes with every restart.
    address: watch::Receiver<String>,
    shared: Arc<tokio::sync::Mutex<Option<(String, Clients)>>>,
    written: Arc<Mutex<Written>>,
    acknowledged: Arc<AtomicU64>,
    /// One more than the index of the last act, once all are written.
    end: watch::Receiver<Option<u64>>,
}

impl World {
    /// Clients over a connection of their own.
    async fn clients(&self) -> Clients {
        self.connect().await.1
    }

    async fn connect(&self) -> (String, Clients) {
        loop {
            let address = self.address.borrow().clone();
            if let Ok(clients) = Clients::connect(&address).await {
                return (address, clients);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Clients over the connection that writers share.
    async fn shared_clients(&self) -> Clients {
        let mut shared = self.shared.lock().await;
        match &*shared {
            Some((address, clients)) if *address == *self.address.borrow() => clients.clone(),
            _ => shared.insert(self.connect().await).1.clone(),
        }
    }

    /// Whether all events lie before an index.
    fn is_all(&self, next: u64) -> bool {
        self.end.borrow().is_some_and(|end| next >= end)
    }
}

fn random_act(rng: &mut StdRng, key: String) -> proto::RecordConsentRequest {
    let namespace = NAMESPACES[rng.random_range(0..NAMESPACES.len())];
    let number = rng.random_range(0..SUBJECTS);
    let subject = match namespace {
        "email" => format!("email:{number}@example.org"),
        _ => format!("{namespace}:{number}"),
    };
    let mut scopes = BTreeSet::new();
    let mut changes = Vec::new();
    for _ in 0..rng.random_range(1..=3) {
        let action = match rng.random_range(0..10) {
            0..4 => Action::Grant,
            4..8 => Action::Withdraw,
            8 => Action::Object,
            _ => Action::Refuse,
        };
        let wide = |rng: &mut StdRng| action != Action::Grant && rng.random_ratio(1, 20);
        let purpose = if wide(rng) { "*".into() } else { purpose(rng.random_range(0..PURPOSES)) };
        let channel = if wide(rng) { "*" } else { CHANNELS[rng.random_range(0..CHANNELS.len())] };
        if scopes.insert((purpose.clone(), channel)) {
            changes.push(change(action, &purpose, channel));
        }
    }
    proto::RecordConsentRequest { idempotency_key: key, ..act(&subject, changes) }
}

fn random_subset<T: Clone>(rng: &mut StdRng, of: &[T], max: usize) -> Vec<T> {
    let mut all = of.to_vec();
    (0..rng.random_range(0..=max))
        .map(|_| all.swap_remove(rng.random_range(0..all.len())))
        .collect()
}

fn random_filter(rng: &mut StdRng) -> proto::WatchFilter {
    let purposes: Vec<String> = (0..PURPOSES).map(purpose).collect();
    let kinds = [EventKind::Grant, EventKind::Refuse, EventKind::Withdraw, EventKind::Object];
    proto::WatchFilter {
        purposes: random_subset(rng, &purposes, 6),
        channels: random_subset(rng, &CHANNELS.map(str::to_owned), 3),
        kinds: random_subset(rng, &kinds, 3).into_iter().map(Into::into).collect(),
        namespaces: random_subset(rng, &NAMESPACES.map(str::to_owned), 1),
    }
}

/// Records an act, and tries again while the server is down.
async fn write(world: &World, request: proto::RecordConsentRequest) {
    let mut clients = world.shared_clients().await;
    let answer = loop {
        match clients.consent.record_consent(request.clone()).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => {
                let is_typed = !status.details().is_empty();
                assert!(!is_typed || typed(&status).reason == "SHUTTING_DOWN", "{status:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                clients = world.shared_clients().await;
            }
        }
    };
    let change = |change: proto::Change| {
        let scope = change.scope.unwrap();
        (change.action, scope.purpose, scope.channel)
    };
    let changes = request.changes.into_iter().map(change).collect();
    let recorded_act = oracle::Act { subject: request.subject, changes };
    world.written.lock().unwrap().0.insert(answer.index, recorded_act);
    world.acknowledged.fetch_add(1, Relaxed);
}

async fn write_all(world: World, seed: u64, count: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let requests = (0..count).map(|n| random_act(&mut rng, format!("{seed:x}-{n}")));
    let requests: Vec<_> = requests.collect();
    stream::iter(requests)
        .for_each_concurrent(IN_FLIGHT, |request| {
            let world = world.clone();
            async move { write(&world, request).await }
        })
        .await;
}

/// Watches until every event was heard, over any number of connections.
async fn follow(world: World, filter: proto::WatchFilter, start: u64, seed: u64) -> Vec<Session> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sessions = Vec::new();
    let mut next = start;
    while !world.is_all(next) {
        let mut session = Session { start: next, heard: Vec::new() };
        let request = proto::WatchRequest {
            start_index: Some(next),
            filter: Some(filter.clone()),
            progress_interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
            ..proto::WatchRequest::default()
        };
        // Most connections last until the server dies; some end early, some are read slowly.
        let mut left = if rng.random_ratio(1, 3) { rng.random_range(0..2_000) } else { usize::MAX };
        let stalls = rng.random_ratio(1, 3);
        if let Ok(stream) = world.clients().await.watch.watch(request).await {
            let mut stream = stream.into_inner();
            while left > 0 && !world.is_all(next) {
                let Ok(Some(message)) = stream.message().await else { break };
                match message.message.unwrap() {
                    Watched::Consent(event) => {
                        next = event.index + 1;
                        session.heard.push(Heard::of_event(&event, 1));
                    }
                    Watched::Progress(progress) => {
                        next = progress.next_index;
                        session.heard.push(Heard::Progress(next));
                    }
                    other => panic!("unexpected {other:?}"),
                }
                left -= 1;
                if stalls && rng.random_ratio(1, 500) {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
                }
            }
        }
        sessions.push(session);
    }
    sessions
}

/// A subscription under test.
#[derive(Debug, Clone)]
struct Subscribed {
    name: String,
    filter: proto::WatchFilter,
    start: u64,
    shards: u32,
}

type Consumed = Vec<(Session, BTreeSet<u64>)>;

/// Consumes one shard until everything was acknowledged, over any number of connections.
async fn consume(world: World, subscription: Subscribed, shard: u32, seed: u64) -> Consumed {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sessions = Consumed::new();
    let mut acknowledged = BTreeSet::new();
    loop {
        let mut session = Session::default();
        let before = acknowledged.clone();
        let is_done =
            consume_once(&world, &subscription, shard, &mut rng, &mut session, &mut acknowledged);
        let is_done = is_done.await;
        sessions.push((session, before));
        if is_done {
            return sessions;
        }
    }
}

/// One connection of a consumer. Returns whether everything was acknowledged.
async fn consume_once(
    world: &World,
    subscription: &Subscribed,
    shard: u32,
    rng: &mut StdRng,
    session: &mut Session,
    acknowledged: &mut BTreeSet<u64>,
) -> bool {
    let (requests, outgoing) = mpsc::channel(64);
    let send = async |message| {
        let request = proto::ConsumeRequest { message: Some(message) };
        requests.send(request).await.is_ok()
    };
    let credits = rng.random_range(1..=600);
    let start = proto::ConsumeStart {
        subscription: subscription.name.clone(),
        shard,
        credits,
        redelivery_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        progress_interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        ..proto::ConsumeStart::default()
    };
    send(consume_request::Message::Start(start)).await;
    let mut clients = world.clients().await;
    let Ok(stream) = clients.watch.consume(ReceiverStream::new(outgoing)).await else {
        return false;
    };
    let mut stream = stream.into_inner();
    let mut left = if rng.random_ratio(1, 3) { rng.random_range(0..2_000) } else { usize::MAX };
    let stalls = rng.random_ratio(1, 4);
    let mut held: Vec<u64> = Vec::new();
    let mut spent = 0;
    while left > 0 {
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return false,
            Err(status) => {
                let is_typed = !status.details().is_empty();
                assert!(!is_typed || typed(&status).reason == "SHUTTING_DOWN", "{status:?}");
                return false;
            }
        };
        left -= 1;
        let mut is_quiet = false;
        match message.message.unwrap() {
            consume_response::Message::Started(_) => {}
            consume_response::Message::Consent(event) => {
                session.heard.push(Heard::of_event(&event, message.attempt));
                held.push(event.index);
                spent += 1;
            }
            consume_response::Message::Progress(progress) => {
                session.heard.push(Heard::Progress(progress.next_index));
                is_quiet = world.is_all(progress.next_index);
                if held.is_empty() && is_quiet {
                    // A connection that ends may lose its last acknowledgements: they count as
                    // taken when the next connection is sent nothing.
                    return !session.heard.iter().any(|heard| matches!(heard, Heard::Event { .. }));
                }
            }
            other => panic!("unexpected {other:?}"),
        }
        if stalls && rng.random_ratio(1, 500) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
        }
        // Acknowledges in any order, keeping some back until the end.
        if held.len() >= 50 || spent >= credits / 2 || is_quiet || rng.random_ratio(1, 20) {
            let mut indexes = Vec::new();
            while !held.is_empty() && (indexes.len() < 30 || rng.random_ratio(9, 10)) {
                indexes.push(held.swap_remove(rng.random_range(0..held.len())));
            }
            if !indexes.is_empty() {
                acknowledged.extend(&indexes);
                let ack = proto::ConsumeAck { next_index: None, indexes, whole_entries: false };
                if !send(consume_request::Message::Ack(ack)).await {
                    return false;
                }
            }
        }
        if spent >= credits / 2 {
            let credit = proto::ConsumeCredit { credits: spent };
            spent = 0;
            if !send(consume_request::Message::Credit(credit)).await {
                return false;
            }
        }
    }
    false
}

/// Kills the server at equal steps of the acknowledged acts.
fn kill_repeatedly(
    dir: &Path,
    server: Server,
    address: &watch::Sender<String>,
    acknowledged: &AtomicU64,
    total: u64,
) -> Server {
    let mut server = server;
    for kill in 1..=KILLS {
        let at = total * kill / (KILLS + 1);
        support::wait_until("acts", support::LONG_PATIENCE, || {
            (acknowledged.load(Relaxed) >= at).then_some(())
        });
        server.kill();
        server = Server::start_with(dir, FLAGS);
        address.send_replace(server.address.clone());
    }
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_is_complete_and_in_order_through_kills() {
    let seed = support::seed("streams");
    let mut rng = StdRng::seed_from_u64(seed);
    let total = events();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), FLAGS);
    let mut clients = server.clients().await;
    let purposes: Vec<String> = (0..PURPOSES).map(purpose).collect();
    let purposes: Vec<&str> = purposes.iter().map(String::as_str).collect();
    clients.put_catalog(&purposes, &CHANNELS).await;

    let mut subscribed = Vec::new();
    for number in 0..SUBSCRIPTIONS {
        let subscription = proto::Subscription {
            name: format!("crm-{number}"),
            owner: "growth".to_owned(),
            filter: Some(random_filter(&mut rng)),
            shards: if number == 0 { 3 } else { 1 },
            ..proto::Subscription::default()
        };
        let subscription = clients.subscribe(subscription).await.subscription.unwrap();
        subscribed.push(Subscribed {
            name: subscription.name,
            filter: subscription.filter.unwrap(),
            start: subscription.start_index,
            shards: subscription.shards,
        });
    }
    let start = subscribed.last().unwrap().start;

    let (address, addresses) = watch::channel(server.address.clone());
    let (end, ends) = watch::channel(None);
    let world = World {
        address: addresses,
        shared: Arc::default(),
        written: Arc::default(),
        acknowledged: Arc::default(),
        end: ends,
    };
    let mut watching = Vec::new();
    for _ in 0..WATCHERS {
        let filter = random_filter(&mut rng);
        let following = follow(world.clone(), filter.clone(), start, rng.random());
        watching.push((filter, tokio::spawn(following)));
    }
    let mut consuming = Vec::new();
    for subscription in &subscribed {
        for shard in 0..subscription.shards {
            let consumption = consume(world.clone(), subscription.clone(), shard, rng.random());
            consuming.push((subscription.clone(), shard, tokio::spawn(consumption)));
        }
    }
    let mut writing = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        writing.spawn(write_all(world.clone(), rng.random(), total / WRITERS));
    }
    let (path, acknowledged) = (dir.path().to_owned(), Arc::clone(&world.acknowledged));
    let killing = tokio::task::spawn_blocking(move || {
        let server = kill_repeatedly(&path, server, &address, &acknowledged, total);
        (server, address)
    });
    while let Some(written) = writing.join_next().await {
        written.unwrap();
    }
    let (server, _address) = killing.await.unwrap();
    let last = *world.written.lock().unwrap().0.last_key_value().unwrap().0;
    end.send_replace(Some(last + 1));

    let mut watched = Vec::new();
    for (filter, following) in watching {
        watched.push((filter, following.await.unwrap()));
    }
    let mut consumed = Vec::new();
    for (subscription, shard, consuming) in consuming {
        consumed.push((subscription, shard, consuming.await.unwrap()));
    }
    let kek = Kek::from_file(&dir.path().join("kek")).unwrap();
    let people = People::read(&RealDisk, &dir.path().join(vault::DIR), &kek).unwrap();
    let want = judge(
        (&world.written.lock().unwrap(), &people.secret),
        total,
        &watched,
        &consumed,
        &subscribed,
    );
    check_receipts(&server, want).await;
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}

/// Checks every recording; returns, for a sample of events, the subscriptions that cover it.
fn judge(
    (written, secret): (&Written, &LedgerSecret),
    total: u64,
    watched: &[(proto::WatchFilter, Vec<Session>)],
    consumed: &[(Subscribed, u32, Consumed)],
    subscribed: &[Subscribed],
) -> BTreeMap<u64, Vec<String>> {
    assert_eq!(written.0.len() as u64, total / WRITERS * WRITERS, "each act has its own entry");
    let (mut heard, mut delivered) = (0, 0);
    for (filter, sessions) in watched {
        heard += written.check_watch(&format!("{filter:?}"), filter, sessions);
    }
    for (subscription, shard, sessions) in consumed {
        let is_of_shard = |subject: &str| secret.shard(subject, subscription.shards) == *shard;
        let label = format!("{} {shard}", subscription.name);
        delivered += written.check_consume(
            &label,
            (&subscription.filter, subscription.start),
            is_of_shard,
            sessions,
        );
    }
    let connections: usize = watched.iter().map(|(_, sessions)| sessions.len()).sum();
    let sessions: usize = consumed.iter().map(|(_, _, sessions)| sessions.len()).sum();
    println!(
        "{total} acts, {KILLS} kills; {heard} events over {connections} connections of watchers, \
         {delivered} deliveries over {sessions} of consumers"
    );
    assert!(heard > 0 && delivered > 0, "the filters cover something");
    let names = |index: u64| {
        let covers = |subscription: &&Subscribed| {
            written.covered(&subscription.filter, index).contains_key(&index)
        };
        subscribed.iter().filter(covers).map(|subscription| subscription.name.clone()).collect()
    };
    let sample = written.0.keys().copied().step_by(written.0.len() / 100 + 1);
    sample.map(|index| (index, names(index))).collect()
}

/// Waits until the ledger holds a receipt of each event from each of its subscriptions.
async fn check_receipts(server: &Server, want: BTreeMap<u64, Vec<String>>) {
    let mut clients = server.clients().await;
    for (index, names) in want {
        let deadline = tokio::time::Instant::now() + support::PATIENCE;
        loop {
            let answer = clients.propagation(index).await;
            let obliged: Vec<_> =
                answer.subscriptions.iter().map(|propagation| &propagation.subscription).collect();
            assert_eq!(obliged, names.iter().collect::<Vec<_>>(), "who must hear of {index}");
            let acknowledged = proto::PropagationState::Acknowledged;
            if answer.subscriptions.iter().all(|propagation| propagation.state() == acknowledged) {
                let has_receipt =
                    |propagation: &proto::Propagation| propagation.receipt_index > Some(index);
                assert!(answer.subscriptions.iter().all(has_receipt), "{answer:?}");
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
