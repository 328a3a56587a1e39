//! Receipts, deadlines and propagation, on a whole node.

use std::{future::Future, path::Path};

use super::*;
use crate::{
    config::ServeConfig,
    domain::{
        Action, Actor, Body, Change, ChannelPut, ContactChange, EventKind, Evidence,
        FailedDelivery, Filter, Key, LegalBasis, LinkConfidence, Millis, Overdue, PurposeVersion,
        ScopeKeys, Snapshot, Subject, Subscription, SubscriptionCreated, SubscriptionEntry,
    },
    event::EventDetail,
    node::{
        Act, Linking, NewSubscription, Node, NodeConfig, Propagation, PropagationError,
        PropagationState, PurposeDraft, ReadError, ShardReport,
    },
    vault::Kek,
    view::DeadLetter,
    watch::{Heard, Watcher},
};

const LONG: Duration = Duration::from_secs(3_600);
const PATIENCE: Duration = Duration::from_secs(30);

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// A node that writes receipts only when `acks_max` acknowledgements have gathered, or when it closes.
async fn open(dir: &Path, acks_max: usize) -> Arc<Node> {
    let node = open_with(dir, LONG, acks_max);
    let channel = ChannelPut { key: key("email"), title: String::new(), retired: false };
    node.put_channel(channel).await.unwrap();
    let content = PurposeVersion {
        title: String::new(),
        description: String::new(),
        legal_basis: LegalBasis::Consent,
        basis_by_region: std::collections::BTreeMap::new(),
        data_categories: Vec::new(),
        default_validity_ms: None,
        double_opt_in: false,
        obligations: Vec::new(),
        controller: None,
        recipients: None,
    };
    let draft = PurposeDraft {
        key: key("news"),
        content,
        oldest_compatible: None,
        requires_reconsent: false,
        retired: false,
    };
    node.put_purpose(draft).await.unwrap();
    node
}

fn open_with(dir: &Path, interval: Duration, acks_max: usize) -> Arc<Node> {
    let config = NodeConfig {
        data_dir: dir.to_owned(),
        kek: Some(Kek::parse(&"5a".repeat(32)).unwrap()),
        scrub_bytes_per_second: 0,
        receipt_interval: interval,
        receipt_acks_max: acks_max,
        // Older ones are read from the ledger.
        recent_events_max: 8,
        ..ServeConfig::default().node
    };
    crate::node::open_in_test(&config)
}

fn new(name: &str) -> NewSubscription {
    NewSubscription {
        name: key(name),
        owner: "team".to_owned(),
        filter: Filter::default(),
        start: None,
        snapshot: None,
        shards: 1,
        deadline_ms: None,
        webhook_url: None,
    }
}

async fn subscribe(node: &Node, new: NewSubscription) -> Arc<Subscription> {
    node.create_subscription(new).await.unwrap().subscription
}

async fn act(node: &Node, subject: &str, action: Action) -> u64 {
    let change = Change {
        action,
        scope: ScopeKeys { purpose: Some(key("news").into()), channel: Some(key("email")) },
        purpose_version: None,
        expires_at: None,
        data_categories: Vec::new(),
    };
    let act = Act {
        subject: Subject::parse(subject).unwrap(),
        actor: Actor::Subject,
        changes: vec![change],
        contact: ContactChange::default(),
        effective_at: None,
        record_only_news: false,
        confirmation_validity_ms: None,
        reported_late: false,
        evidence: Evidence::default(),
        idempotency: None,
    };
    node.record(act).await.unwrap().index
}

async fn withdraw(node: &Node, subject: &str) -> u64 {
    act(node, subject, Action::Withdraw).await
}

/// Acknowledges like a consumer that was delivered all of it.
fn settle(node: &Node, id: SubscriptionId, shard: u32, acknowledged: &Acknowledged, events: usize) {
    let now = node.core.now();
    node.core.account(id, shard, |account| account.settle(acknowledged, events, now));
}

fn acknowledge(node: &Node, id: SubscriptionId, shard: u32, indexes: &[u64]) {
    let acknowledged = Acknowledged { indexes: indexes.to_vec(), ..Acknowledged::default() };
    settle(node, id, shard, &acknowledged, indexes.len());
}

/// The settled indexes, and whether the snapshot is pending.
fn settled(node: &Node, id: SubscriptionId, shard: u32) -> Option<(Settled, bool)> {
    node.core.with_settled(id, shard, |settled, is_pending| (settled.clone(), is_pending))
}

fn entries(node: &Node) -> Vec<Body> {
    (0..node.revision()).map(|at| node.core.entry(at).unwrap().body).collect()
}

fn receipts(node: &Node) -> usize {
    entries(node)
        .iter()
        .filter(|body| matches!(body, Body::Subscription(SubscriptionEntry::Delivered(_))))
        .count()
}

fn overdues(node: &Node) -> usize {
    entries(node)
        .iter()
        .filter(|body| matches!(body, Body::Subscription(SubscriptionEntry::Overdue(_))))
        .count()
}

fn shard_now(node: &Node, name: &str) -> ShardReport {
    let reports = node.subscriptions(None, None, usize::MAX).unwrap();
    let report = reports.into_iter().find(|report| report.subscription.spec.name.as_str() == name);
    report.unwrap().shards.remove(0)
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

/// Waits for the first entry that `want` accepts, and returns its index.
async fn entry_where(node: &Node, want: impl Fn(&Body) -> bool) -> u64 {
    let mut at = 0;
    loop {
        within(node.reach(Some(at + 1))).await.unwrap();
        if want(&node.core.entry(at).unwrap().body) {
            return at;
        }
        at += 1;
    }
}

async fn reach_receipts(node: &Node, count: usize) {
    let mut applied = node.core.view.applied_changes();
    within(async {
        while receipts(node) < count {
            applied.changed().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_acknowledgements_become_few_entries() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 10).await;
    let [crm, mail] = ["crm", "mail"].map(|name| subscribe(&node, new(name)));
    let (crm, mail) = (crm.await.id, mail.await.id);
    let mut stops = Vec::new();
    for number in 0..25 {
        stops.push(withdraw(&node, &format!("user:{number}")).await);
    }
    for (round, ten) in stops[..20].chunks(10).enumerate() {
        for index in ten {
            acknowledge(&node, crm, 0, &[*index]);
        }
        reach_receipts(&node, round + 1).await;
    }
    for index in &stops[20..] {
        acknowledge(&node, crm, 0, &[*index]);
    }
    acknowledge(&node, mail, 0, &stops[..3]);
    assert_eq!(receipts(&node), 2, "not before the interval, nor before as many");
    let (known, _) = settled(&node, crm, 0).unwrap();
    assert!(stops.iter().all(|index| known.contains(*index)));
    assert!(
        !node.core.view.subscriptions().get(crm).unwrap().shards[0].settled.contains(stops[20])
    );
    // Acknowledgements that gathered before the node closed are written once.
    drop(node);
    let node = open_with(dir.path(), LONG, 10);
    assert_eq!(receipts(&node), 3, "{:?}", entries(&node));
    assert_eq!(settled(&node, crm, 0).unwrap().0, known);
    for (id, of) in [(crm, &stops[..]), (mail, &stops[..3])] {
        for index in of {
            let settlement = node.core.view.settlement(id, 0, *index).unwrap().unwrap();
            assert!(!settlement.is_failure);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_are_written_after_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), 1_000).await);
    let node = open_with(dir.path(), Duration::from_millis(20), 1_000);
    let crm = subscribe(&node, new("crm")).await.id;
    let index = withdraw(&node, "user:1").await;
    acknowledge(&node, crm, 0, &[index]);
    let receipt = entry_where(&node, |body| {
        matches!(body, Body::Subscription(SubscriptionEntry::Delivered(_)))
    })
    .await;
    // An acknowledged index without an event waits for the next event.
    let place = Acknowledged { next_index: Some(receipt + 1), ..Acknowledged::default() };
    settle(&node, crm, 0, &place, 0);
    settle(&node, crm, 0, &place, 0);
    node.close();
    assert_eq!(node.revision(), receipt + 1);
    assert_eq!(node.core.metrics.delivery_receipts.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn delivery_pauses_while_too_many_acknowledgements_gather() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 4).await;
    let crm = subscribe(&node, new("crm")).await.id;
    within(node.core.deliveries.room()).await;
    let indexes: Vec<u64> = (crm.0 + 1..).take(100).collect();
    let acknowledged = Acknowledged { indexes, ..Acknowledged::default() };
    node.core.deliveries.with_book(|book| {
        book.change(&node.core.view.subscriptions(), (crm, 0), |account| {
            account.settle(&acknowledged, 100, Millis(1));
        });
        // Under the lock: the thread has not taken them yet.
        node.core.deliveries.update_room(book);
        assert!(*node.core.deliveries.is_full.borrow());
    });
    within(node.core.deliveries.room()).await;
    reach_receipts(&node, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_delivered_after_all_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1).await;
    let webhook_url = Some("https://crm.example/hook".to_owned());
    let crm = subscribe(&node, NewSubscription { webhook_url, ..new("crm") }).await;
    let stops = [withdraw(&node, "user:1").await, withdraw(&node, "user:2").await];
    for index in stops {
        let failed = FailedDelivery { index, attempts: 9, http_status: 503 };
        node.core.account(crm.id, 0, |account| account.fail(failed));
    }
    let is_failed = |body: &Body| matches!(body, Body::Subscription(SubscriptionEntry::Failed(entry)) if entry.failed.iter().any(|failed| failed.index == stops[1]));
    let failed_index = entry_where(&node, is_failed).await;
    let letters = node.dead_letters("crm", None, 10).unwrap();
    assert_eq!(letters.len(), 2);
    assert!(matches!(letters[1], DeadLetter { attempts: 9, http_status: 503, .. }));
    let state = |at: u64| node.propagation(at).unwrap().subscriptions[0].state;
    let PropagationState::DeadLetter(_, by) = state(stops[1]) else { panic!() };
    assert_eq!(by, failed_index);
    assert_eq!(node.subscriptions(None, None, 1).unwrap()[0].dead_letters, 2);
    // Both at once, side by side.
    node.core.redelivered(crm.id, 0, &stops);
    reach_receipts(&node, 1).await;
    assert_eq!(node.dead_letters("crm", None, 10).unwrap(), []);
    for index in stops {
        assert!(matches!(state(index), PropagationState::Acknowledged(..)));
    }
    // A second time has no effect.
    node.core.redelivered(crm.id, 0, &stops);
    let revision = node.revision();
    node.close();
    assert_eq!(node.revision(), revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledgement_gathers_after_the_end_of_a_subscription_or_of_writes() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 100).await;
    let [crm, mail] = ["crm", "mail"].map(|name| subscribe(&node, new(name)));
    let (crm, mail) = (crm.await.id, mail.await.id);
    let index = withdraw(&node, "user:1").await;
    acknowledge(&node, crm, 0, &[index]);
    let end = node.delete_subscription(key("crm")).await.unwrap();
    // Its acknowledgements are written before its end.
    assert!(matches!(
        node.core.entry(end - 1).unwrap().body,
        Body::Subscription(SubscriptionEntry::Delivered(_))
    ));
    assert_eq!(states(&node, index)[0], ("crm".to_owned(), "acknowledged"));
    assert_eq!(node.core.metrics.delivery_receipts.get(), 1);
    acknowledge(&node, crm, 0, &[index]);
    assert_eq!(settled(&node, crm, 0), None);
    assert_eq!(settled(&node, mail, 1), None);
    acknowledge(&node, mail, 7, &[index]);
    node.core.stop_writes("a test says so");
    acknowledge(&node, mail, 0, &[index]);
    node.close();
    assert_eq!(receipts(&node), 1);
    within(node.core.deliveries.room()).await;
}

async fn overdue_event(watcher: &mut Watcher) -> (u64, u64) {
    loop {
        if let Heard::Event(post, _) = within(watcher.next()).await.unwrap() {
            let EventDetail::Overdue(overdue) = &post.event.detail else { panic!("{post:?}") };
            assert_eq!(overdue.subscription.as_str(), "crm");
            return (post.event.index, overdue.event_index);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_deadline_is_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1_000).await;
    let kinds = [EventKind::Overdue].into();
    let mut watcher = node.watch(None, Filter { kinds, ..Filter::default() }).unwrap();
    let late = NewSubscription { deadline_ms: Some(1), ..new("crm") };
    let crm = subscribe(&node, late).await.id;
    subscribe(&node, new("patient")).await;
    let [first, second] = [withdraw(&node, "user:1").await, withdraw(&node, "user:2").await];
    let (index, event_index) = overdue_event(&mut watcher).await;
    assert_eq!(event_index, first);
    let Body::Subscription(SubscriptionEntry::Overdue(overdue)) =
        node.core.entry(index).unwrap().body
    else {
        panic!()
    };
    assert_eq!((overdue.subscription, overdue.shard), (crm, 0));
    assert_eq!(overdue.pending_since, node.core.entry(first).unwrap().recorded_at);
    assert!(shard_now(&node, "crm").overdue && !shard_now(&node, "patient").overdue);
    for _ in 0..3 {
        node.core.check_deadlines(None);
    }
    let metrics = Arc::clone(&node.core.metrics);
    assert_eq!((metrics.subscriptions.get(), metrics.subscriptions_overdue.get()), (2, 1));
    node.close();
    assert_eq!((overdues(&node), metrics.deliveries_overdue.get()), (1, 1));
    drop(node);
    // It was said; that a server starts again does not change it.
    let node = open_with(dir.path(), LONG, 1_000);
    node.core.check_deadlines(None);
    assert_eq!(node.core.metrics.subscriptions_overdue.get(), 1);
    acknowledge(&node, crm, 0, &[first, second]);
    node.core.check_deadlines(None);
    assert_eq!(node.core.metrics.subscriptions_overdue.get(), 0);
    assert!(!shard_now(&node, "crm").overdue);
    // Acknowledged, and no receipt yet; the other has no deadline.
    assert_eq!(states(&node, first), are(&[("crm", "pending"), ("patient", "pending")]));
    node.close();
    assert_eq!(overdues(&node), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacknowledged_snapshot_is_overdue_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1_000).await;
    let snapshot = Some(Snapshot::Denied);
    let late = NewSubscription { deadline_ms: Some(1), snapshot, ..new("crm") };
    let crm = subscribe(&node, late).await;
    let index = entry_where(&node, |body| {
        matches!(body, Body::Subscription(SubscriptionEntry::Overdue(_)))
    })
    .await;
    let Body::Subscription(SubscriptionEntry::Overdue(overdue)) =
        node.core.entry(index).unwrap().body
    else {
        panic!()
    };
    assert_eq!((overdue.event_index, overdue.pending_since), (crm.id.0, crm.created_at));
    let report = shard_now(&node, "crm");
    assert!(report.snapshot_pending && report.overdue);
    assert_eq!((report.pending_since, report.lag_entries), (Some(crm.created_at), 0));
    let done = Acknowledged { snapshot: true, ..Acknowledged::default() };
    settle(&node, crm.id, 0, &done, 0);
    let report = shard_now(&node, "crm");
    assert!(!report.snapshot_pending && !report.overdue);
    node.close();
    assert_eq!(receipts(&node), 1, "a snapshot is written");
}

#[test]
fn an_overdue_shard_is_reported_again_after_another_deadline() {
    let spec = |deadline_ms| SubscriptionCreated {
        name: key("crm"),
        owner: String::new(),
        filter: Filter::default(),
        start_index: 1,
        snapshot: None,
        shards: 1,
        deadline_ms,
        webhook_url: None,
    };
    for (deadline_ms, again_ms) in [(1_000, 60_000), (3_600_000, 3_600_000)] {
        let mut subscription =
            Subscription::new(SubscriptionId(0), Millis(0), spec(Some(deadline_ms)));
        assert!(lag::may_report(&subscription, &subscription.shards[0], None, Millis(0)));
        let recorded_at = Millis(500);
        subscription.shards[0].overdue = Some(Overdue { event_index: 3, recorded_at });
        for (after_ms, want) in [(again_ms - 1, false), (again_ms, true)] {
            let now = recorded_at.plus_ms(after_ms);
            assert_eq!(lag::may_report(&subscription, &subscription.shards[0], None, now), want);
            let recovered = subscription.shards[0].overdue;
            assert!(
                lag::may_report(&subscription, &subscription.shards[0], recovered, now),
                "after recovery"
            );
            let before = Some(Overdue { event_index: 1, recorded_at: Millis(1) });
            assert_eq!(lag::may_report(&subscription, &subscription.shards[0], before, now), want);
        }
        // A subscription may be younger than its first event.
        let created_at = Millis(700);
        let subscription =
            Subscription::new(SubscriptionId(9), created_at, spec(Some(deadline_ms)));
        let pending = Pending { index: 3, since: Millis(100) };
        assert_eq!(pending.counts_from(&subscription), created_at);
        assert!(!is_overdue(&subscription, created_at, created_at.plus_ms(deadline_ms - 1)));
        assert!(is_overdue(&subscription, created_at, created_at.plus_ms(deadline_ms)));
    }
    let subscription = Subscription::new(SubscriptionId(0), Millis(0), spec(None));
    assert!(!is_overdue(&subscription, Millis(0), Millis(i64::MAX)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_the_current_lag_of_each_subscription() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1_000).await;
    let crm = subscribe(&node, new("crm")).await.id;
    let other = NewSubscription { owner: "other".to_owned(), ..new("ads") };
    subscribe(&node, other).await;
    let idle = shard_now(&node, "crm");
    assert_eq!((idle.next_index, idle.lag_entries), (node.revision(), 0));
    assert_eq!(idle.pending_since, None);
    act(&node, "user:0", Action::Grant).await;
    let mut stops = Vec::new();
    // More than memory keeps.
    for number in 0..20 {
        stops.push(withdraw(&node, &format!("user:{number}")).await);
    }
    let behind = shard_now(&node, "crm");
    assert_eq!((behind.next_index, behind.lag_entries), (stops[0], 20));
    assert_eq!(behind.pending_since, Some(node.core.entry(stops[0]).unwrap().recorded_at));
    // Out of order: the oldest counts.
    acknowledge(&node, crm, 0, &stops[1..19]);
    assert_eq!(shard_now(&node, "crm").lag_entries, 20);
    acknowledge(&node, crm, 0, &stops[..1]);
    let behind = shard_now(&node, "crm");
    assert_eq!((behind.next_index, behind.lag_entries), (stops[19], 1));
    let to = Some(node.revision());
    let rest = Acknowledged { next_index: to, ..Acknowledged::default() };
    settle(&node, crm, 0, &rest, 1);
    assert_eq!(shard_now(&node, "crm").lag_entries, 0);
    assert_eq!(shard_now(&node, "ads").lag_entries, 20);
    // By name, from one name on, of one owner.
    let named = |owner, after: Option<&str>, limit| {
        let after = after.map(key);
        let all = node.subscriptions(owner, after.as_ref(), limit).unwrap();
        all.iter().map(|report| report.subscription.spec.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(named(None, None, 9), ["ads", "crm"]);
    assert_eq!(named(None, None, 1), ["ads"]);
    assert_eq!(named(None, Some("ads"), 9), ["crm"]);
    assert_eq!(named(Some("other"), None, 9), ["ads"]);
    assert!(named(Some("nobody"), None, 9).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_time_to_search_the_reported_lag_is_never_too_small() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1_000).await;
    let crm = subscribe(&node, new("crm")).await;
    for number in 0..400 {
        act(&node, &format!("user:{number}"), Action::Grant).await;
    }
    // The thread of deadlines has ended, and the shard was not searched yet.
    node.threads.end();
    node.core.account(crm.id, 0, |account| account.place = lag::Place::new(crm.id.0 + 1));
    let report = node.core.shard_report(&crm, 0, Instant::now());
    assert!(report.lag_entries > 0 && report.pending_since.is_some(), "{report:?}");
    assert!(!report.overdue);
    // The next search continues from there.
    assert_eq!(shard_now(&node, "crm").lag_entries, 0);
}

/// The state of an event at each subscription.
fn states(node: &Node, index: u64) -> Vec<(String, &'static str)> {
    let word = |propagation: &Propagation| match propagation.state {
        PropagationState::Acknowledged(..) => "acknowledged",
        PropagationState::Pending => "pending",
        PropagationState::Overdue => "overdue",
        PropagationState::DeadLetter(..) => "dead letter",
        PropagationState::Deleted(..) => "deleted",
    };
    let report = node.propagation(index).unwrap();
    let named = |propagation: &Propagation| {
        (propagation.subscription.spec.name.to_string(), word(propagation))
    };
    report.subscriptions.iter().map(named).collect()
}

fn are(pairs: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    pairs.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn propagation_lists_every_subscription_that_must_get_the_event() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1).await;
    let before = withdraw(&node, "user:0").await;
    subscribe(&node, new("gone")).await;
    node.delete_subscription(key("gone")).await.unwrap();
    let crm = subscribe(&node, new("crm")).await.id;
    let ended = subscribe(&node, new("ended")).await.id;
    let late = NewSubscription { deadline_ms: Some(1), ..new("late") };
    subscribe(&node, late).await;
    let elsewhere = Filter { namespaces: ["device".to_owned()].into(), ..Filter::default() };
    subscribe(&node, NewSubscription { filter: elsewhere, ..new("elsewhere") }).await;
    let grant = act(&node, "user:1", Action::Grant).await;
    let stop = withdraw(&node, "user:1").await;
    assert_eq!(states(&node, stop)[0].1, "pending");
    // Created after the event, and must hear it.
    let behind = NewSubscription { start: Some(before), ..new("audit") };
    subscribe(&node, behind).await;
    acknowledge(&node, crm, 0, &[stop]);
    reach_receipts(&node, 1).await;
    let end = node.delete_subscription(key("ended")).await.unwrap();
    let want =
        [("audit", "pending"), ("crm", "acknowledged"), ("ended", "deleted"), ("late", "overdue")];
    entry_where(&node, |body| matches!(body, Body::Subscription(SubscriptionEntry::Overdue(_))))
        .await;
    assert_eq!(states(&node, stop), are(&want));
    let report = node.propagation(stop).unwrap();
    let recorded_at = node.core.entry(stop).unwrap().recorded_at;
    assert_eq!(report.recorded_at, recorded_at);
    let PropagationState::Acknowledged(at, by) = report.subscriptions[1].state else { panic!() };
    assert!(matches!(
        node.core.entry(by).unwrap().body,
        Body::Subscription(SubscriptionEntry::Delivered(_))
    ));
    let took = report.subscriptions[1].elapsed.as_millis();
    assert_eq!(took, u128::try_from(at.0 - recorded_at.0).unwrap());
    let PropagationState::Deleted(_, by) = report.subscriptions[2].state else { panic!() };
    assert_eq!((by, report.subscriptions[2].subscription.id), (end, ended));
    // Before every subscription that must get it, and an entry without an event.
    assert_eq!(states(&node, before), are(&[("audit", "pending")]));
    assert_eq!(states(&node, grant), []);
    let error = node.propagation(0).unwrap_err();
    assert_eq!(error.to_string(), "entry 0 is the opening of the ledger: nobody has to hear it");
    let receipt = entry_where(&node, |body| {
        matches!(body, Body::Subscription(SubscriptionEntry::Delivered(_)))
    });
    let index = receipt.await;
    let error = node.propagation(index).unwrap_err();
    assert_eq!(error, PropagationError::NotAnEvent { index, noun: "a delivery receipt" });
    let head = node.revision();
    let error = node.propagation(head).unwrap_err();
    assert_eq!(error, ReadError::IndexOutOfRange { index: head, head }.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_shards_the_one_furthest_behind_counts() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path(), 1).await;
    let crm = subscribe(&node, NewSubscription { shards: 2, ..new("crm") }).await.id;
    let of = |shard| {
        let names = (0..).map(|number| Subject::parse(&format!("user:{number}")).unwrap());
        let secret = node.core.vault.ledger_secret();
        names.into_iter().find(|name| secret.shard(name.as_str(), 2) == shard).unwrap()
    };
    let (one, two) = (of(0), of(1));
    let stop = withdraw(&node, one.as_str()).await;
    // The other shard has nothing to do with it.
    acknowledge(&node, crm, 0, &[stop]);
    reach_receipts(&node, 1).await;
    assert_eq!(states(&node, stop), are(&[("crm", "acknowledged")]));
    // A link concerns both.
    let linking = Linking {
        subject: one,
        other: two,
        confidence: Some(LinkConfidence::Verified),
        asserted_by: "test".to_owned(),
        dry_run: false,
    };
    let link = node.link(linking).await.unwrap().index.unwrap();
    assert_eq!(states(&node, link), are(&[("crm", "pending")]));
    acknowledge(&node, crm, 0, &[link]);
    reach_receipts(&node, 2).await;
    assert_eq!(states(&node, link), are(&[("crm", "pending")]));
    acknowledge(&node, crm, 1, &[link]);
    reach_receipts(&node, 3).await;
    assert_eq!(states(&node, link), are(&[("crm", "acknowledged")]));
}
