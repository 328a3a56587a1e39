//! Durable subscriptions on a real server: created, listed, ended, and overdue.

use std::path::Path;

use consent_ledger::{
    domain::{Body, Entry, SubscriptionEntry},
    proto::{
        self, Action, EventKind, ListSubscriptionsRequest, Subscription, WatchFilter, WatchRequest,
        watch_response::Message,
    },
};
use prost_types::Duration;
use tonic::{Code, Status};

use crate::support::{self, Clients, PATIENCE, Server, opened, typed, wait_until};

fn named(name: &str) -> Subscription {
    Subscription { name: name.to_owned(), owner: "team".to_owned(), ..Default::default() }
}

async fn create(
    clients: &mut Clients,
    subscription: Subscription,
    start_index: Option<u64>,
) -> Result<proto::CreateSubscriptionResponse, Status> {
    let subscription = Some(subscription);
    let request = proto::CreateSubscriptionRequest { subscription, start_index };
    clients.watch.create_subscription(request).await.map(tonic::Response::into_inner)
}

async fn delete(
    clients: &mut Clients,
    name: &str,
) -> Result<proto::DeleteSubscriptionResponse, Status> {
    let request = proto::DeleteSubscriptionRequest { name: name.to_owned() };
    clients.watch.delete_subscription(request).await.map(tonic::Response::into_inner)
}

async fn list(clients: &mut Clients, owner: &str) -> Vec<proto::SubscriptionStatus> {
    let request = ListSubscriptionsRequest { owner: owner.to_owned(), ..Default::default() };
    clients.watch.list_subscriptions(request).await.unwrap().into_inner().subscriptions
}

async fn withdraw(clients: &mut Clients, subject: &str) -> u64 {
    clients.record_change(subject, Action::Withdraw, "news", "email").await.index
}

/// A server with a catalogue.
async fn start(dir: &Path, flags: &[&str]) -> (Server, Clients) {
    let server = Server::start_with(dir, flags);
    let clients = server.clients_with_catalog(&["news"], &["email"]).await;
    (server, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_lasts_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = start(dir.path(), &[]).await;
    let filter = WatchFilter {
        purposes: vec!["news".to_owned()],
        kinds: vec![EventKind::Withdraw.into()],
        namespaces: vec!["user".to_owned()],
        ..Default::default()
    };
    let asked = Subscription {
        filter: Some(filter.clone()),
        shards: 3,
        deadline: Some(Duration { seconds: 600, nanos: 0 }),
        ..named("crm.production")
    };
    let first = create(&mut clients, asked.clone(), Some(1)).await.unwrap();
    let subscription = first.subscription.clone().unwrap();
    assert!(first.created && first.webhook_secret.is_empty());
    assert_eq!(
        (subscription.start_index, subscription.shards, subscription.filter),
        (1, 3, Some(filter))
    );
    assert_eq!(first.revision, subscription.created_index + 1);
    // A second request is idempotent, whatever its start.
    let again = create(&mut clients, asked.clone(), None).await.unwrap();
    assert!(!again.created);
    assert_eq!((again.subscription, again.revision), (first.subscription.clone(), first.revision));
    let other = Subscription { shards: 2, ..asked.clone() };
    let refused = create(&mut clients, other, Some(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(typed(&refused).reason, "SUBSCRIPTION_EXISTS");
    // The same after a crash and from a rebuilt view.
    server.kill();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let listed = list(&mut clients, "team").await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].subscription, first.subscription);
    assert_eq!(listed[0].shards.len(), 3);
    assert!(list(&mut clients, "others").await.is_empty());
    let ended = delete(&mut clients, "crm.production").await.unwrap();
    assert_eq!(ended.revision, ended.index + 1);
    assert!(list(&mut clients, "").await.is_empty());
    let refused = delete(&mut clients, "crm.production").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(typed(&refused).reason, "SUBSCRIPTION_NOT_FOUND");
    // The name is free again, for a new subscription.
    let next = create(&mut clients, asked, None).await.unwrap();
    let subscription = next.subscription.unwrap();
    assert!(next.created && subscription.created_index > ended.index);
    assert_eq!(subscription.start_index, subscription.created_index + 1);
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_subscription_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = start(dir.path(), &["--subscriptions-max", "1"]).await;
    let ms = |ms: i64| {
        let nanos = i32::try_from(ms % 1_000).unwrap() * 1_000_000;
        Some(Duration { seconds: ms / 1_000, nanos })
    };
    let webhook = |url: &str| Some(proto::Webhook { url: url.to_owned() });
    let snapshot = proto::Snapshot::All.into();
    let cases = [
        (named(""), None, "INVALID_FIELD", "subscription.name"),
        (named("Crm"), None, "INVALID_FIELD", "subscription.name"),
        (
            Subscription { owner: "x".repeat(257), ..named("a") },
            None,
            "LIMIT_EXCEEDED",
            "subscription.owner",
        ),
        (Subscription { shards: 65, ..named("a") }, None, "LIMIT_EXCEEDED", "subscription.shards"),
        (
            Subscription { deadline: ms(999), ..named("a") },
            None,
            "LIMIT_EXCEEDED",
            "subscription.deadline",
        ),
        (
            Subscription { deadline: ms(90 * 86_400_000 + 1), ..named("a") },
            None,
            "LIMIT_EXCEEDED",
            "subscription.deadline",
        ),
        (
            Subscription { snapshot: 9, ..named("a") },
            None,
            "INVALID_FIELD",
            "subscription.snapshot",
        ),
        (Subscription { snapshot, ..named("a") }, Some(0), "INVALID_FIELD", "start_index"),
        (named("a"), Some(4_711), "INDEX_OUT_OF_RANGE", "start_index"),
        (
            Subscription { webhook: webhook(""), ..named("a") },
            None,
            "INVALID_FIELD",
            "subscription.webhook.url",
        ),
        (
            Subscription { webhook: webhook("ftp://crm.example.org"), ..named("a") },
            None,
            "WEBHOOK_REFUSED",
            "subscription.webhook.url",
        ),
    ];
    let revision = clients.entries(0).await.len();
    for (subscription, start_index, reason, field) in cases {
        let context = format!("{subscription:?} {start_index:?}");
        let error = create(&mut clients, subscription, start_index).await.expect_err(&context);
        let error = typed(&error);
        assert_eq!((error.reason.as_str(), &error.fields[..]), (reason, &[field.to_owned()][..]));
    }
    assert_eq!(clients.entries(0).await.len(), revision);
    create(&mut clients, named("a"), None).await.unwrap();
    let refused = create(&mut clients, named("b"), None).await.unwrap_err();
    assert_eq!(typed(&refused).reason, "TOO_MANY_SUBSCRIPTIONS");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_listed_in_pages_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = start(dir.path(), &[]).await;
    for name in ["e", "b", "a", "d", "c"] {
        create(&mut clients, named(name), None).await.unwrap();
    }
    let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = ListSubscriptionsRequest {
            page_size: 2,
            page_token: token.clone(),
            owner: "team".to_owned(),
        };
        let page = clients.watch.list_subscriptions(request).await.unwrap().into_inner();
        names
            .extend(page.subscriptions.into_iter().map(|status| status.subscription.unwrap().name));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    assert_eq!((names.join(""), pages), ("abcde".to_owned(), 3));
    // A page token is valid only for the list that gave it.
    let bad = [("", token.as_str(), 0), ("team", "s00", 0), ("", "", -1), ("", "", 1_001)];
    for (owner, token, page_size) in bad {
        let (owner, page_token) = (owner.to_owned(), token.to_owned());
        let request = ListSubscriptionsRequest { owner, page_token, page_size };
        let error = clients.watch.list_subscriptions(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    }
}

fn metric(address: &str, name: &str) -> u64 {
    support::metric(&support::http_get(address, "/metrics"), name)
}

fn count_overdue(dir: &Path) -> usize {
    let opened = opened::Ledger::open(dir);
    let is_overdue =
        |entry: &&Entry| matches!(entry.body, Body::Subscription(SubscriptionEntry::Overdue(_)));
    opened.entries().filter(is_overdue).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_deadline_is_one_event_one_metric_and_one_log_line() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--metrics-listen", "127.0.0.1:0"];
    let (server, mut clients) = start(dir.path(), &flags).await;
    let metrics = server.printed("metrics on ").unwrap();
    let deadline = Some(Duration { seconds: 1, nanos: 0 });
    create(&mut clients, Subscription { deadline, ..named("crm") }, None).await.unwrap();
    let kinds = vec![EventKind::Overdue.into()];
    let filter = Some(WatchFilter { kinds, ..Default::default() });
    let request = WatchRequest { start_index: Some(0), filter, ..Default::default() };
    let mut stream = clients.watch.watch(request).await.unwrap().into_inner();
    let stop = withdraw(&mut clients, "user:1").await;
    let overdue = loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await.unwrap();
        if let Some(Message::Overdue(overdue)) = message.unwrap().unwrap().message {
            break overdue;
        }
    };
    assert_eq!(
        (overdue.subscription.as_str(), overdue.shard, overdue.event_index),
        ("crm", 0, stop)
    );
    let took = support::millis(overdue.recorded_at.as_ref()).unwrap()
        - support::millis(overdue.pending_since.as_ref()).unwrap();
    assert!(took >= 1_000, "not before the deadline: {took} ms");
    let gauge = "consent_ledger_subscriptions_overdue";
    wait_until(gauge, PATIENCE, || (metric(&metrics, gauge) == 1).then_some(()));
    assert_eq!(metric(&metrics, "consent_ledger_subscriptions"), 1);
    assert_eq!(metric(&metrics, "consent_ledger_deliveries_overdue_total"), 1);
    assert!(metric(&metrics, "consent_ledger_delivery_pending_seconds") >= 1);
    assert!(server.log().contains("a subscription is overdue"), "{}", server.log());
    let listed = server.cli(&["subscription", "list", "--json"]).expect_code(0).json();
    assert_eq!(listed["shards"][0]["overdue"], true);
    assert_eq!(listed["shards"][0]["nextIndex"], stop.to_string());
    let lag = listed["shards"][0]["lag"].as_str().unwrap().strip_suffix('s').unwrap();
    assert!(lag.parse::<f64>().unwrap() >= 1.0, "{listed}");
    // The overdue event is in the ledger: after a restart it is not written again.
    server.kill();
    let server = Server::start_with(dir.path(), &flags);
    let metrics = server.printed("metrics on ").unwrap();
    wait_until(gauge, PATIENCE, || (metric(&metrics, gauge) == 1).then_some(()));
    assert_eq!(count_overdue(dir.path()), 1);
    assert_eq!(metric(&metrics, "consent_ledger_deliveries_overdue_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_creates_lists_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = start(dir.path(), &[]).await;
    let none = server.cli(&["subscription", "list"]).expect_code(0);
    assert_eq!(none.stdout, "there are no subscriptions\n");
    let words = ["subscription", "create", "crm", "--owner", "crm-team", "--purpose", "news"];
    let more = ["--kind", "withdraw,expire", "--snapshot", "denied", "--deadline", "10m"];
    let words = [&words[..], &more, &["--json"]].concat();
    let made = server.cli(&words).expect_code(0).json();
    assert_eq!(made["created"], true);
    let subscription = &made["subscription"];
    assert_eq!(
        subscription["filter"]["kinds"],
        serde_json::json!(["EVENT_KIND_WITHDRAW", "EVENT_KIND_EXPIRE"])
    );
    assert_eq!(
        (&subscription["snapshot"], &subscription["deadline"]),
        (&"SNAPSHOT_DENIED".into(), &"600s".into())
    );
    assert_eq!(made["webhookSecret"], "");
    let again = server.cli(&words[..words.len() - 1]).expect_code(0).stdout;
    assert_eq!(
        again,
        format!(
            "the subscription exists already, since index {}\n",
            subscription["createdIndex"].as_str().unwrap()
        )
    );
    // The alias works, and another owner is refused.
    let refused = ["subscribe", "create", "crm", "--owner", "another", "--json"];
    let refused = server.cli(&refused).expect_code(1);
    let error: serde_json::Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "SUBSCRIPTION_EXISTS", "{error}");
    let usage = ["subscription", "create", "b", "--owner", "b", "--from", "0", "--snapshot", "all"];
    server.cli(&usage).expect_code(2);
    server.cli(&["subscription", "create", "b", "--owner", "b", "--kind", "revoke"]).expect_code(2);
    withdraw(&mut clients, "user:1").await;
    let table = server.cli(&["subscription", "list"]).expect_code(0).stdout;
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..5], ["NAME", "OWNER", "SHARD", "NEXT", "LAG"]);
    assert_eq!((rows[1][..3].to_vec(), rows[1][4]), (vec!["crm", "crm-team", "0"], "1"), "{table}");
    assert!(table.contains("snapshot pending"), "{table}");
    assert!(server.cli(&["subscription", "list", "--owner", "x", "--json"]).stdout.is_empty());
    let ended = server.cli(&["subscription", "delete", "crm", "--json"]).expect_code(0).json();
    let number = |field: &str| ended[field].as_str().unwrap().parse::<u64>().unwrap();
    assert_eq!(number("revision"), number("index") + 1);
    server.cli(&["subscription", "delete", "crm"]).expect_code(1);
}
