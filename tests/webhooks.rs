//! Webhooks end to end: a real server, and an endpoint that accepts, refuses and breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use consent_ledger::{
    proto::{self, Action, EventKind, PropagationState},
    webhook::signature::Secret,
};
use serde_json::Value;

use crate::support::{self, Clients, Server, eventually, typed};

const ALLOW: [&str; 6] =
    ["--webhook-allow", "127.0.0.0/8", "--webhook-retry-min", "20ms", "--receipt-interval", "50ms"];

/// A delivery that the endpoint received.
#[derive(Debug, Clone)]
struct Received {
    id: String,
    timestamp: String,
    signature: String,
    content_type: String,
    body: Vec<u8>,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn subject(&self) -> String {
        self.json()["data"]["subject"].as_str().unwrap_or_default().to_owned()
    }

    fn index(&self) -> u64 {
        self.json()["data"]["index"].as_str().unwrap().parse().unwrap()
    }
}

type Answer = dyn Fn(&Received, usize) -> StatusCode + Send + Sync;

/// An endpoint: its deliveries, and its answer by delivery and number of earlier ones with that id.
#[derive(Clone)]
struct Endpoint {
    received: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Mutex<Arc<Answer>>>,
    address: SocketAddr,
}

impl Endpoint {
    async fn start(
        answer: impl Fn(&Received, usize) -> StatusCode + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Self {
            received: Arc::default(),
            answer: Arc::new(Mutex::new(Arc::new(answer))),
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new().route("/hook", post(receive)).with_state(endpoint.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        endpoint
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn answers(&self, answer: impl Fn(&Received, usize) -> StatusCode + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    async fn until(&self, goal: &str, is_enough: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        eventually(goal, async || Some(self.received()).filter(|all| is_enough(all))).await
    }
}

async fn receive(State(endpoint): State<Endpoint>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let received = Received {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        content_type: header("content-type"),
        body: body.to_vec(),
    };
    let seen = {
        let mut all = endpoint.received.lock().unwrap();
        let seen = all.iter().filter(|before| before.id == received.id).count();
        all.push(received.clone());
        seen
    };
    let answer = Arc::clone(&endpoint.answer.lock().unwrap());
    answer(&received, seen)
}

/// A subscription whose events are sent to a URL.
fn webhook(url: &str) -> proto::Subscription {
    proto::Subscription {
        name: "crm".to_owned(),
        owner: "growth".to_owned(),
        webhook: Some(proto::Webhook { url: url.to_owned() }),
        ..proto::Subscription::default()
    }
}

async fn withdraw(clients: &mut Clients, subject: &str) -> u64 {
    clients.record_change(subject, Action::Withdraw, "marketing.newsletter", "email").await.index
}

async fn state(clients: &mut Clients, index: u64) -> Option<PropagationState> {
    clients.propagation(index).await.subscriptions.first().map(proto::Propagation::state)
}

async fn dead_letters(clients: &mut Clients) -> Vec<proto::DeadLetter> {
    let request = proto::ListDeadLettersRequest {
        subscription: "crm".to_owned(),
        ..proto::ListDeadLettersRequest::default()
    };
    clients.watch.list_dead_letters(request).await.unwrap().into_inner().dead_letters
}

async fn start(dir: &std::path::Path, flags: &[&str]) -> (Server, Clients) {
    let server = Server::start_with(dir, &[&ALLOW, flags].concat());
    let clients = server.clients_with_catalog(&["marketing.newsletter"], &["email"]).await;
    (server, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_is_delivered_signed_and_recorded_as_acknowledged() {
    let endpoint = Endpoint::start(|_, _| StatusCode::NO_CONTENT).await;
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = start(dir.path(), &[]).await;
    let created = clients.subscribe(webhook(&endpoint.url())).await;
    assert!(created.created);
    let index = withdraw(&mut clients, "user:42").await;
    let received = endpoint.until("the delivery", |all| !all.is_empty()).await;
    let first = &received[0];

    let secret = Secret::parse(&created.webhook_secret).unwrap();
    let (id, body) = (&first.id, &first.body);
    let tolerance = Some((support::now_ms() / 1_000, 60));
    let verified = secret.verify(id, &first.timestamp, &first.signature, body, tolerance);
    assert_eq!(verified, Ok(()));
    let json = first.json();
    assert_eq!(first.content_type, "application/cloudevents+json; charset=utf-8");
    assert_eq!(json["specversion"], "1.0");
    assert_eq!(json["id"], first.id.as_str());
    assert_eq!(json["type"], "consent.v1.consent");
    assert_eq!(json["source"], "//localhost/consent");
    assert_eq!(json["data"]["index"], index.to_string());
    assert_eq!(json["data"]["subject"], "user:42");
    assert_eq!(json["data"]["changes"][0]["action"], "ACTION_WITHDRAW");
    assert!(!first.id.contains("user"), "no id names a data subject");

    eventually("the receipt", async || {
        (state(&mut clients, index).await == Some(PropagationState::Acknowledged)).then_some(())
    })
    .await;
    // A second request returns the same secret; the subscription can not be consumed.
    let again = clients.subscribe(webhook(&endpoint.url())).await;
    assert!(!again.created && again.webhook_secret == created.webhook_secret);
    let consume = server.cli(&["subscription", "consume", "crm", "--once"]).expect_code(1);
    assert!(consume.stderr.contains("SUBSCRIPTION_IS_WEBHOOK"), "{}", consume.stderr);

    // A deleted subscription sends nothing more.
    let request = proto::DeleteSubscriptionRequest { name: "crm".to_owned() };
    clients.watch.delete_subscription(request).await.unwrap();
    let before = endpoint.received().len();
    withdraw(&mut clients, "user:43").await;
    server.terminate();
    assert_eq!(endpoint.received().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delivery_is_retried_and_delays_only_its_own_data_subject() {
    let endpoint = Endpoint::start(|delivery, seen| match delivery.subject().as_str() {
        "user:1" if seen < 3 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = start(dir.path(), &[]).await;
    clients.subscribe(webhook(&endpoint.url())).await;
    let first = withdraw(&mut clients, "user:1").await;
    let second = withdraw(&mut clients, "user:1").await;
    let other = withdraw(&mut clients, "user:2").await;
    let received = endpoint
        .until("all", |all| all.iter().any(|delivery| delivery.index() == second) && all.len() >= 6)
        .await;
    let order: Vec<u64> = received.iter().map(Received::index).collect();
    let place = |index| order.iter().position(|delivered| *delivered == index).unwrap();
    let tries = order.iter().filter(|delivered| **delivered == first).count();
    assert_eq!(tries, 4, "{order:?}");
    let last_try = order.iter().rposition(|delivered| *delivered == first).unwrap();
    assert!(place(second) > last_try, "in order: {order:?}");
    assert!(place(other) < last_try, "others do not wait: {order:?}");
    let ids: BTreeSet<_> =
        received.iter().map(|delivery| (delivery.index(), delivery.id.clone())).collect();
    assert_eq!(ids.len(), 3, "the same event has the same id: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undeliverable_event_is_a_dead_letter_and_can_be_replayed() {
    let endpoint = Endpoint::start(|delivery, _| match delivery.subject().as_str() {
        "user:1" => StatusCode::INTERNAL_SERVER_ERROR,
        "user:2" => StatusCode::GONE,
        _ => StatusCode::OK,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) =
        start(dir.path(), &["--webhook-retry-for", "3s", "--webhook-retry-max", "100ms"]).await;
    clients.subscribe(webhook(&endpoint.url())).await;
    let tired = withdraw(&mut clients, "user:1").await;
    let gone = withdraw(&mut clients, "user:2").await;
    let taken = withdraw(&mut clients, "user:3").await;
    let letters = eventually("dead letters", async || {
        let letters = dead_letters(&mut clients).await;
        (letters.len() == 2).then_some(letters)
    })
    .await;
    let statuses: Vec<_> =
        letters.iter().map(|letter| (letter.index, letter.http_status)).collect();
    assert_eq!(statuses, [(tired, 500), (gone, 410)]);
    assert!(letters[0].attempts > 1 && letters[1].attempts == 1, "{letters:?}");
    assert_eq!(state(&mut clients, tired).await, Some(PropagationState::DeadLetter));
    eventually("the receipt", async || {
        (state(&mut clients, taken).await == Some(PropagationState::Acknowledged)).then_some(())
    })
    .await;
    let exit = server.cli(&["propagation", &tired.to_string()]);
    exit.expect_code(1);

    // While the endpoint refuses them, replayed events stay dead letters.
    let replay = ["webhooks", "replay", "crm", "--all"];
    let sent = endpoint.received().len();
    server.cli(&replay).expect_code(0);
    endpoint.until("the replay", |all| all.len() >= sent + 2).await;
    assert_eq!(dead_letters(&mut clients).await.len(), 2);
    endpoint.answers(|_, _| StatusCode::OK);
    server.cli(&replay).expect_code(0);
    eventually("no dead letters", async || {
        dead_letters(&mut clients).await.is_empty().then_some(())
    })
    .await;
    for index in [tired, gone] {
        assert_eq!(state(&mut clients, index).await, Some(PropagationState::Acknowledged));
    }
    let none = server.cli(&["webhooks", "replay", "crm", &tired.to_string()]).expect_code(1);
    assert!(none.stderr.contains("1 of the 1 indexes are no dead letters"), "{}", none.stderr);
    // The state survives the process.
    server.kill();
    let server = Server::start_with(dir.path(), &ALLOW);
    let mut clients = server.clients().await;
    assert!(dead_letters(&mut clients).await.is_empty());
    assert_eq!(state(&mut clients, gone).await, Some(PropagationState::Acknowledged));
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_is_killed() {
    let endpoint = Endpoint::start(|_, _| StatusCode::OK).await;
    let dir = tempfile::tempdir().unwrap();
    let (mut server, mut clients) = start(dir.path(), &[]).await;
    clients.subscribe(webhook(&endpoint.url())).await;
    let mut indexes = BTreeSet::new();
    for round in 0..4 {
        for at in 0..40 {
            indexes
                .insert(withdraw(&mut clients, &format!("user:{}", (round * 7 + at) % 25)).await);
        }
        server.kill();
        server = Server::start_with(dir.path(), &ALLOW);
        clients = server.clients().await;
    }
    let all = |received: &[Received]| {
        let heard: BTreeSet<u64> = received.iter().map(Received::index).collect();
        heard.is_superset(&indexes)
    };
    let received = endpoint.until("every event", all).await;
    let mut ids: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut first: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for delivery in &received {
        if ids.entry(delivery.index()).or_default().insert(delivery.id.clone()) {
            first.entry(delivery.subject()).or_default().push(delivery.index());
        }
    }
    assert!(ids.values().all(|ids| ids.len() == 1), "an event keeps its id");
    assert!(first.values().all(|indexes| indexes.is_sorted()), "in order for each data subject");
    for index in indexes {
        eventually("receipts", async || {
            (state(&mut clients, index).await == Some(PropagationState::Acknowledged)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_delivered_before_later_events() {
    let endpoint = Endpoint::start(|_, _| StatusCode::OK).await;
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = start(dir.path(), &[]).await;
    for subject in ["user:1", "user:2", "user:3"] {
        withdraw(&mut clients, subject).await;
    }
    let subscription = proto::Subscription {
        snapshot: proto::Snapshot::Denied.into(),
        ..webhook(&endpoint.url())
    };
    clients.subscribe(subscription).await;
    withdraw(&mut clients, "user:4").await;
    let received = endpoint.until("all five", |all| all.len() >= 5).await;
    let types: Vec<String> = received
        .iter()
        .map(|delivery| delivery.json()["type"].as_str().unwrap().to_owned())
        .collect();
    let snapshot = vec!["consent.v1.snapshot".to_owned(); 3];
    assert_eq!(types[..3], snapshot);
    assert_eq!(types[3..], ["consent.v1.snapshot_end", "consent.v1.consent"]);
    eventually("the snapshot's receipt", async || {
        (!clients.subscriptions().await[0].shards[0].snapshot_pending).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_post_the_events_that_watch_prints() {
    let endpoint = Endpoint::start(|_, _| StatusCode::NO_CONTENT).await;
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = start(dir.path(), &[]).await;
    let kinds = [
        EventKind::Grant,
        EventKind::Withdraw,
        EventKind::Expire,
        EventKind::Link,
        EventKind::Catalog,
    ];
    let filter = proto::WatchFilter {
        kinds: kinds.map(i32::from).to_vec(),
        ..proto::WatchFilter::default()
    };
    let subscription = proto::Subscription { filter: Some(filter), ..webhook(&endpoint.url()) };
    let created = clients.subscribe(subscription).await;
    let start_index = created.subscription.unwrap().start_index.to_string();

    // A changed purpose, a narrowed grant that expires, a link, a withdrawal.
    let purpose = proto::Purpose {
        data_categories: ["user.contact", "user.profile"].map(str::to_owned).to_vec(),
        ..support::consent_purpose("marketing.newsletter")
    };
    clients.put_purpose(purpose).await;
    let grant = proto::Change {
        expires_at: Some(support::timestamp(support::now_ms() + 3_000)),
        data_categories: vec!["user.contact".to_owned()],
        ..support::change(Action::Grant, "marketing.newsletter", "email")
    };
    clients.record(support::act("user:42", vec![grant])).await;
    clients.link("user:42", "device:7", proto::LinkConfidence::Verified).await;
    withdraw(&mut clients, "user:43").await;

    // Delivery is at least once.
    let each_once = |all: &[Received]| -> BTreeMap<u64, Value> {
        all.iter().map(|received| (received.index(), received.json())).collect()
    };
    let received = endpoint.until("all five events", |all| each_once(all).len() == 5).await;
    let watch = ["watch", "--from", &start_index, "--count", "5", "--json"];
    let watch = [&watch[..], &["--kind", "grant,withdraw,expire,link,catalog"]].concat();
    let lines = server.cli(&watch).expect_code(0).json_lines();
    for (posted, line) in each_once(&received).values().zip(&lines) {
        let kind = posted["type"].as_str().unwrap().strip_prefix("consent.v1.").unwrap();
        assert_eq!(*line, serde_json::json!({ kind: posted["data"] }));
    }
    let ended = lines.iter().find(|line| line["consent"]["reason"] == "REASON_EXPIRED").unwrap();
    assert!(ended["consent"]["causeIndex"].is_string(), "{ended}");
    let granted = &lines[1]["consent"]["changes"][0];
    assert_eq!(granted["dataCategories"], serde_json::json!(["user.contact"]), "{granted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_addresses_are_refused_as_webhooks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    for url in [
        "http://example.org/hook",
        "https://127.0.0.1/hook",
        "https://localhost/hook",
        "https://localhost./hook",
        "https://2130706433/hook",
        "https://0x7f.1/hook",
        "https://[::1]/hook",
        "https://[::ffff:10.0.0.1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://10.1.2.3/hook",
        "https://user:secret@example.org/hook",
        "https://example.org/hook#part",
        "ftp://example.org/hook",
        "example.org",
    ] {
        let refused = clients.try_subscribe(webhook(url)).await.expect_err(url);
        let refused = typed(&refused);
        assert_eq!(refused.reason, "WEBHOOK_REFUSED", "{url}");
        assert_eq!(refused.fields, ["subscription.webhook.url"], "{url}");
    }
    assert!(clients.subscriptions().await.is_empty(), "nothing was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_an_entry_is_posted_alone_and_one_that_fails_makes_the_entry_a_dead_letter() {
    let endpoint = Endpoint::start(|delivery, _| match delivery.subject().as_str() {
        "user:1" => StatusCode::GONE,
        _ => StatusCode::NO_CONTENT,
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = start(dir.path(), &[]).await;
    clients.subscribe(webhook(&endpoint.url())).await;
    let ends_at = support::now_ms() + 2_000;
    for number in 0..5 {
        let mut grant = support::change(Action::Grant, "marketing.newsletter", "email");
        grant.expires_at = Some(support::timestamp(ends_at));
        clients.record(support::act(&format!("user:{number}"), vec![grant])).await;
    }
    let received = endpoint.until("all ends", |all| all.len() >= 5).await;
    let (index, ids): (_, BTreeSet<_>) =
        (received[0].index(), received.iter().map(|it| it.id.clone()).collect());
    assert_eq!(ids.len(), 5, "{ids:?}");
    assert!(received.iter().all(|it| it.index() == index), "all ends stand in one entry");
    let subjects: BTreeSet<String> = received.iter().map(Received::subject).collect();
    assert_eq!(subjects.len(), 5);

    let letters = eventually("the dead letter", async || {
        Some(dead_letters(&mut clients).await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!((letters.len(), letters[0].index, letters[0].http_status), (1, index, 410));
    assert_eq!(state(&mut clients, index).await, Some(PropagationState::DeadLetter));
    // A replay sends all events of the entry again, under their ids.
    endpoint.answers(|_, _| StatusCode::OK);
    let replay =
        proto::ReplayDeadLettersRequest { subscription: "crm".into(), indexes: vec![index] };
    clients.watch.replay_dead_letters(replay).await.unwrap();
    let received = endpoint.until("the replay", |all| all.len() >= 10).await;
    assert_eq!(received.iter().map(|it| it.id.clone()).collect::<BTreeSet<_>>(), ids);
    eventually("the receipt", async || {
        (state(&mut clients, index).await == Some(PropagationState::Acknowledged)).then_some(())
    })
    .await;
    assert!(dead_letters(&mut clients).await.is_empty());
}
