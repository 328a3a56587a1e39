//! The Rust client: its dependencies, its retries, how its streams resume, and that its cache is
//! never stale beyond its bound.

mod cache;
mod fake;
mod proxy;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use consent_ledger::{
    client::{
        BackoffPolicy, Client, ClientConfig, ConsumeOptions, Consumer, Delivery, Heard,
        ServiceConfig, WatchOptions, consume::Consumed,
    },
    proto::{self, Action, consume_response::Message as ConsumeMessage, watch_response::Message},
};
use futures_util::StreamExt as _;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::{self, PATIENCE, Process, Server};

/// A client with short pauses between attempts.
fn client(address: &str) -> Client {
    let mut config = ClientConfig::new(format!("http://{address}"));
    config.connect_timeout = Duration::from_millis(500);
    Client::connect_lazy(config).unwrap()
}

fn quick() -> BackoffPolicy {
    let ms = Duration::from_millis;
    BackoffPolicy::new(ms(10), ms(200), 1.5).unwrap()
}

#[test]
fn a_dependant_of_the_client_compiles_no_server() {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "--locked", "--package", "consent-ledger-client"]);
    command.args(["--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    command.arg("--manifest-path").arg(support::repository("Cargo.toml"));
    let tree = Process::spawn(command).wait(PATIENCE).expect_code(0).stdout;
    let crates: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains(&"tonic") && crates.contains(&"quick_cache"), "{crates:?}");
    for server in [
        "consent-ledger-index",
        "axum",
        "clap",
        "aes-gcm",
        "blake3",
        "ed25519-dalek",
        "reqwest",
        "jiff",
        "tonic-web",
        "tonic-health",
        "tonic-reflection",
        "tower-http",
        "opentelemetry",
        "prometheus-client",
        "tracing-subscriber",
        "mimalloc",
        "rustix",
        "toml",
        "indicatif",
        "csv-core",
    ] {
        assert!(!crates.contains(&server), "{server} is compiled for the client");
    }
}

fn own_error(code: i32, reason: &str, delay: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "consent.v1", []);
    if delay.is_some() {
        details.set_retry_info(delay);
    }
    Status::with_error_details(code.into(), "scripted", details)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_retried_by_the_service_config() {
    let (checks, acts) = (fake::Checks::default(), fake::Acts::default());
    let endpoint = fake::start(&checks, &acts, &fake::Subscription::default()).await;
    let mut config = ClientConfig::new(endpoint);
    let hooked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&hooked);
    config.metadata = Some(Arc::new(move |metadata| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        metadata.insert("authorization", format!("Bearer {number}").parse().unwrap());
    }));
    let client = Client::connect_lazy(config).unwrap();
    let ask = async || client.checks().check(proto::CheckRequest::default()).await;

    // Two UNAVAILABLE, then an answer. Each attempt has its number and its own metadata.
    checks.script([Status::unavailable("1"), own_error(8, "TOO_MANY_REQUESTS", Some(MS_20))]);
    ask().await.unwrap();
    let seen = checks.seen();
    let header =
        |at: usize, name: &str| seen[at].get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(seen.len(), 3);
    let attempts = "grpc-previous-rpc-attempts";
    assert_eq!([header(0, attempts), header(2, attempts)], [None, Some("2".to_owned())]);
    assert_eq!(header(2, "authorization").as_deref(), Some("Bearer 2"));
    assert!(header(0, "grpc-timeout").is_some());

    // At most three attempts.
    checks.script((0..9).map(|_| Status::unavailable("away")));
    assert_eq!(ask().await.unwrap_err().message(), "away");
    assert_eq!(checks.seen().len(), 3);
    // Errors that a retry can not mend, by code or by the server's word, are not retried.
    for last in [own_error(3, "INVALID_FIELD", None), own_error(14, "WRITES_STOPPED", None)] {
        checks.script([last]);
        ask().await.unwrap_err();
        assert_eq!(checks.seen().len(), 1);
    }
    // The client waits as long as the server asks.
    checks.script([own_error(14, "SHUTTING_DOWN", Some(Duration::from_millis(300)))]);
    let start = Instant::now();
    ask().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(u64::from(hooked.load(Ordering::Relaxed)), 3 + 3 + 2 + 2);
    assert_eq!(client.calls().retries(), 2 + 2 + 1);
}

const MS_20: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn acts_are_retried_only_with_an_idempotency_key() {
    let acts = fake::Acts::default();
    let endpoint =
        fake::start(&fake::Checks::default(), &acts, &fake::Subscription::default()).await;
    let client = Client::connect_lazy(ClientConfig::new(endpoint)).unwrap();
    let mut act = support::act("user:1", vec![support::change(Action::Withdraw, "ads", "email")]);
    client.consents().record_consent(act.clone()).await.unwrap_err();
    assert_eq!(acts.count(), 1);
    act.idempotency_key = "once".to_owned();
    client.consents().record_consent(act).await.unwrap_err();
    assert_eq!(acts.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deadline_covers_all_attempts_and_failures_throttle_retries() {
    let checks = fake::Checks::default();
    let endpoint =
        fake::start(&checks, &fake::Acts::default(), &fake::Subscription::default()).await;
    let mut config = ClientConfig::new(endpoint);
    config.service_config = ServiceConfig::from_json(
        r#"{"methodConfig": [{"name": [{}], "timeout": "0.5s", "retryPolicy": {
            "maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.01s",
            "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}}"#,
    )
    .unwrap();
    let client = Client::connect_lazy(config).unwrap();
    let ask = async || client.checks().check(proto::CheckRequest::default()).await;

    checks.delay(Duration::from_secs(30));
    let start = Instant::now();
    let late = ask().await.unwrap_err();
    assert_eq!(i32::from(late.code()), 4, "{late:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    checks.delay(Duration::ZERO);
    checks.seen();
    checks.script((0..99).map(|_| Status::unavailable("away")));
    // Of ten tokens the fifth failure leaves half, which is too few for a retry.
    ask().await.unwrap_err();
    assert_eq!(checks.seen().len(), 5);
    ask().await.unwrap_err();
    assert_eq!(checks.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_through_restarts_without_gap_or_repetition() {
    const ROUNDS: u64 = 3;
    const ACTS: u64 = 20;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let address = server.address.clone();
    server.clients().await.put_catalog(&["ads"], &["email"]).await;

    let kinds = vec![proto::EventKind::Grant.into(), proto::EventKind::Withdraw.into()];
    let mut watch = client(&address).watch(WatchOptions {
        start_index: Some(0),
        filter: proto::WatchFilter { kinds, ..Default::default() },
        progress_interval: Some(Duration::from_millis(200)),
        backoff: quick(),
        ..WatchOptions::default()
    });
    let listener = tokio::spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < usize::try_from(ROUNDS * ACTS).unwrap() {
            if let Heard::Message(message) = watch.next().await.unwrap().unwrap()
                && let Message::Consent(event) = *message
            {
                heard.push((event.index, event.subject));
            }
        }
        (heard, watch.interruptions())
    });

    let mut recorded = Vec::new();
    for round in 0..ROUNDS {
        let mut clients = server.clients().await;
        for number in 0..ACTS {
            let subject = format!("user:{round}-{number}");
            let index = clients.record_change(&subject, Action::Grant, "ads", "email").await.index;
            recorded.push((index, subject));
        }
        if round + 1 < ROUNDS {
            server.kill();
            server = Server::start_at(dir.path(), &address);
        }
    }
    let (heard, interruptions) = tokio::time::timeout(PATIENCE, listener).await.unwrap().unwrap();
    assert_eq!(heard, recorded);
    assert!(interruptions >= ROUNDS - 1, "{interruptions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_resumes_through_a_restart_and_continues_with_events() {
    const SUBJECTS: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let address = server.address.clone();
    let mut clients = server.clients_with_catalog(&["ads"], &["email"]).await;
    for number in 0..SUBJECTS {
        clients.record_change(&format!("user:{number}"), Action::Withdraw, "ads", "email").await;
    }
    let mut watch = client(&address).watch(WatchOptions {
        snapshot: proto::Snapshot::Denied,
        backoff: quick(),
        ..WatchOptions::default()
    });
    let mut restarted = false;
    let mut times_delivered = BTreeMap::new();
    let revision = loop {
        let Heard::Message(message) = watch.next().await.unwrap().unwrap() else { continue };
        match *message {
            Message::Snapshot(subject) => {
                *times_delivered.entry(subject.subject).or_insert(0) += 1;
                // The server dies in the middle; the event written meanwhile is not lost.
                if !restarted && times_delivered.len() == SUBJECTS / 10 {
                    restarted = true;
                    server.kill();
                    server = Server::start_at(dir.path(), &address);
                    let mut clients = server.clients().await;
                    clients.record_change("user:new", Action::Withdraw, "ads", "email").await;
                }
            }
            Message::SnapshotEnd(end) => break end.revision,
            Message::Progress(_) => {}
            other => panic!("before the end of the snapshot: {other:?}"),
        }
    };
    assert_eq!(
        times_delivered.len(),
        SUBJECTS + usize::from(times_delivered.contains_key("user:new"))
    );
    // The new subject is in the snapshot or in an event after it.
    while !times_delivered.contains_key("user:new") {
        if let Heard::Message(message) = watch.next().await.unwrap().unwrap()
            && let Message::Consent(event) = *message
        {
            assert!(event.index >= revision);
            times_delivered.insert(event.subject, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_a_permanent_error_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let filter = proto::WatchFilter { purposes: vec!["No Key".into()], ..Default::default() };
    let mut watch = client(&server.address).watch(WatchOptions { filter, ..Default::default() });
    let refused = watch.next().await.unwrap().unwrap_err();
    assert_eq!(support::typed(&refused).reason, "INVALID_FIELD");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_order_acknowledgements_through_breaks_settle_every_event() {
    const EVENTS: u64 = 600;
    const CREDITS: u32 = 16;
    let subscription = fake::Subscription::default();
    {
        let mut state = subscription.state();
        state.events = (0..EVENTS).map(|number| 3 + 2 * number).collect();
        state.lasts = 40;
    }
    let endpoint =
        fake::start(&fake::Checks::default(), &fake::Acts::default(), &subscription).await;
    let client = Client::connect_lazy(ClientConfig::new(endpoint)).unwrap();
    let options =
        ConsumeOptions { credits: CREDITS, backoff: quick(), ..ConsumeOptions::new("mailer") };
    let mut consumer = client.consume(options);

    // How often each event was delivered to the test, and how often it was dropped.
    let mut heard: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let mut hands = Vec::new();
    let everything = async {
        while subscription.state().acked.len() < usize::try_from(EVENTS).unwrap() {
            let next = tokio::time::timeout(Duration::from_millis(20), consumer.next()).await;
            match next {
                Ok(Some(Ok(Consumed::Delivery(delivery)))) => {
                    heard.entry(delivery.index().unwrap()).or_default().0 += 1;
                    hands.push(delivery);
                    let most = usize::try_from(CREDITS).unwrap();
                    assert!(hands.len() <= most, "more than there are credits");
                }
                Ok(Some(Ok(_))) => continue,
                Ok(other) => panic!("{other:?}"),
                // At the limit, nothing more comes before something is settled.
                Err(_) => {}
            }
            if hands.len() > 9 || next_is_slow(&hands) {
                let one = hands.swap_remove(rand::random_range(0..hands.len()));
                if rand::random_range(0..20) == 0 {
                    heard.entry(one.index().unwrap()).or_default().1 += 1;
                } else {
                    one.ack();
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, everything).await.unwrap();
    drop(hands);
    assert!(consumer.interruptions() > 5, "{}", consumer.interruptions());
    consumer.close().await;
    let state = subscription.state();
    assert_eq!(state.wrong, Vec::<String>::new());
    assert_eq!(heard.keys().copied().collect::<Vec<_>>(), state.events);
    for (index, (given, dropped)) in &heard {
        assert!(*given <= dropped + 1, "{index} was given out {given} times, dropped {dropped}");
    }
}

/// Whether anything can be settled: near the end few events are left.
fn next_is_slow(hands: &[Delivery]) -> bool {
    !hands.is_empty() && hands.len() < 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_sends_all_acknowledgements_first() {
    let subscription = fake::Subscription::default();
    subscription.state().events = (10..20).collect();
    let endpoint =
        fake::start(&fake::Checks::default(), &fake::Acts::default(), &subscription).await;
    let client = Client::connect_lazy(ClientConfig::new(endpoint)).unwrap();
    let mut consumer = client.consume(ConsumeOptions::new("mailer"));
    loop {
        match consumer.next().await.unwrap().unwrap() {
            Consumed::Delivery(delivery) if delivery.index() == Some(19) => {
                delivery.ack_through();
                break;
            }
            _ => {}
        }
    }
    consumer.close().await;
    assert_eq!(subscription.state().acked, (10..20).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partly_dropped_snapshot_comes_again_and_is_settled_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["ads"], &["email"]).await;
    let subjects = ["user:1", "user:2", "user:3"];
    for subject in subjects {
        clients.record_change(subject, Action::Withdraw, "ads", "email").await;
    }
    let client = client(&server.address);
    let subscription = proto::Subscription {
        name: "mailer".into(),
        owner: "mail".into(),
        snapshot: proto::Snapshot::Denied.into(),
        ..Default::default()
    };
    let request =
        proto::CreateSubscriptionRequest { subscription: Some(subscription), ..Default::default() };
    client.watches().create_subscription(request).await.unwrap();
    let is_pending = async || {
        let request = proto::ListSubscriptionsRequest::default();
        let listed = client.watches().list_subscriptions(request).await.unwrap().into_inner();
        listed.subscriptions[0].shards[0].snapshot_pending
    };
    let mut consumer = client.consume(ConsumeOptions {
        redelivery_timeout: Some(Duration::from_secs(1)),
        ..ConsumeOptions::new("mailer")
    });

    // Of the first snapshot, one data subject is dropped and the rest acknowledged.
    let mut first = snapshot(&mut consumer).await;
    assert_eq!(first.len(), subjects.len() + 1);
    drop(first.remove(1));
    first.into_iter().for_each(Delivery::ack);
    // Of the second snapshot, the end is acknowledged first, which is not yet sent.
    let mut second = snapshot(&mut consumer).await;
    assert_eq!(second.len(), subjects.len() + 1);
    let left = second.remove(0);
    second.into_iter().rev().for_each(Delivery::ack);
    clients.record_change("user:4", Action::Withdraw, "ads", "email").await;
    loop {
        if let Consumed::Delivery(event) = consumer.next().await.unwrap().unwrap() {
            event.ack();
            break;
        }
    }
    assert!(is_pending().await, "a part of it is still in our hands");
    left.ack();
    let settled = async { while is_pending().await {} };
    tokio::time::timeout(PATIENCE, settled).await.unwrap();
    assert_eq!(consumer.interruptions(), 0);
}

/// Reads a snapshot to its end.
async fn snapshot(consumer: &mut Consumer) -> Vec<Delivery> {
    let mut parts = Vec::new();
    let whole = async {
        loop {
            if let Consumed::Delivery(delivery) = consumer.next().await.unwrap().unwrap() {
                let is_end = matches!(delivery.message(), ConsumeMessage::SnapshotEnd(_));
                parts.push(delivery);
                if is_end {
                    break;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.unwrap();
    parts
}
