//! "Who has stopped, who has not?" asked of a real server.

#![allow(clippy::unwrap_used)] // a test may fail where it stands

mod support;

use consent_ledger::proto::{
    self, Action, ListDeadLettersRequest, PropagationState, Subscription, Webhook,
};
use support::{Clients, PATIENCE, Server, act, change, typed};

async fn subscribe(clients: &mut Clients, subscription: Subscription) -> u64 {
    let subscription = Some(Subscription { owner: "team".to_owned(), ..subscription });
    let request = proto::CreateSubscriptionRequest { subscription, start_index: None };
    let answer = clients.watch.create_subscription(request).await.unwrap().into_inner();
    answer.subscription.unwrap().created_index
}

fn named(name: &str) -> Subscription {
    Subscription { name: name.to_owned(), ..Default::default() }
}

async fn record(clients: &mut Clients, action: Action) -> u64 {
    let act = act("user:1", vec![change(action, "news", "email")]);
    clients.consent.record_consent(act).await.unwrap().into_inner().index
}

async fn propagation(clients: &mut Clients, index: u64) -> proto::GetPropagationResponse {
    let request = proto::GetPropagationRequest { index };
    clients.watch.get_propagation(request).await.unwrap().into_inner()
}

async fn states(clients: &mut Clients, index: u64) -> Vec<(String, PropagationState)> {
    let own = propagation(clients, index).await.subscriptions;
    own.iter().map(|own| (own.subscription.clone(), own.state())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_heard_is_told_with_for_how_long() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    clients.put_catalog(&["news"], &["email"]).await;
    let deadline = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let late = subscribe(&mut clients, Subscription { deadline, ..named("late") }).await;
    subscribe(&mut clients, named("ended")).await;
    subscribe(&mut clients, named("crm")).await;
    let filter = proto::WatchFilter { purposes: vec!["other".to_owned()], ..Default::default() };
    let elsewhere = Subscription { filter: Some(filter), ..named("elsewhere") };
    subscribe(&mut clients, elsewhere).await;
    let grant = record(&mut clients, Action::Grant).await;
    let stop = record(&mut clients, Action::Withdraw).await;
    let request = proto::DeleteSubscriptionRequest { name: "ended".to_owned() };
    let ended = clients.watch.delete_subscription(request).await.unwrap().into_inner().index;
    subscribe(&mut clients, named("too-late")).await;

    let want = |late| {
        let ended = ("ended".to_owned(), PropagationState::Deleted);
        vec![("crm".to_owned(), PropagationState::Pending), ended, ("late".to_owned(), late)]
    };
    let now = states(&mut clients, stop).await;
    // A slow machine may be past the deadline already.
    let early = [PropagationState::Pending, PropagationState::Overdue].map(want);
    assert!(early.contains(&now), "{now:?}");
    let overdue = want(PropagationState::Overdue);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while states(&mut clients, stop).await != overdue {
        assert!(tokio::time::Instant::now() < deadline, "never overdue");
        tokio::task::yield_now().await;
    }
    let answer = propagation(&mut clients, stop).await;
    let [_, of_ended, of_late] = &answer.subscriptions[..] else { panic!("{answer:?}") };
    assert_eq!((of_ended.receipt_index, &of_ended.settled_at), (Some(ended), &None));
    assert_eq!((of_late.receipt_index, of_late.created_index), (None, late));
    assert!(of_late.elapsed.unwrap().seconds >= 1);
    assert_eq!(of_late.deadline.unwrap().seconds, 1);
    assert!(answer.recorded_at.is_some() && answer.revision > stop);
    // No event for anybody here, and no event at all.
    assert_eq!(states(&mut clients, grant).await, []);
    assert_eq!(states(&mut clients, 0).await, []);
    let request = proto::GetPropagationRequest { index: answer.revision + 100 };
    let error = clients.watch.get_propagation(request).await.unwrap_err();
    assert_eq!(typed(&error).reason, "INDEX_OUT_OF_RANGE");

    let index = stop.to_string();
    let told = server.cli(&["propagation", &index, "--json"]).expect_code(1).json();
    assert_eq!((&told["index"], &told["all_acknowledged"]), (&stop.into(), &false.into()));
    let states: Vec<_> =
        told["subscriptions"].as_array().unwrap().iter().map(|own| own["state"].clone()).collect();
    assert_eq!(states, ["pending", "deleted", "overdue"]);
    assert_eq!(told["subscriptions"][1]["receipt_index"], ended);
    let table = server.cli(&["propagation", &index]).expect_code(1).stdout;
    assert!(table.starts_with("STATE    SUBSCRIPTION  OWNER"), "{table}");
    let nobody = server.cli(&["propagation", &grant.to_string()]).expect_code(0).stdout;
    assert_eq!(nobody, "no subscription should have heard it\n");
    server.cli(&["propagation", "100000"]).expect_code(1);
    server.cli(&["propagation", "x"]).expect_code(2);
    // The same after a restart, and from a view that is built anew.
    server.kill();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    let again = server.cli(&["propagation", &index, "--json"]).expect_code(1).json();
    let of = |told: &serde_json::Value, at: usize| {
        let own = &told["subscriptions"][at];
        (own["subscription"].clone(), own["state"].clone(), own["receipt_index"].clone())
    };
    for at in 0..3 {
        assert_eq!(of(&again, at), of(&told, at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_those_of_webhooks() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    subscribe(&mut clients, named("crm")).await;
    let webhook = Some(Webhook { url: "https://crm.example.org/consent".to_owned() });
    subscribe(&mut clients, Subscription { webhook, ..named("hook") }).await;
    let mut ask = async |name: &str, page_size: i32, page_token: &str| {
        let (subscription, page_token) = (name.to_owned(), page_token.to_owned());
        let request = ListDeadLettersRequest { subscription, page_size, page_token };
        clients.watch.list_dead_letters(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(ask("hook", 0, "").await.unwrap(), proto::ListDeadLettersResponse::default());
    let cases = [
        ("crm", 0, "", "SUBSCRIPTION_NOT_WEBHOOK"),
        ("nobody", 0, "", "SUBSCRIPTION_NOT_FOUND"),
        ("Hook", 0, "", "INVALID_FIELD"),
        ("hook", -1, "", "INVALID_FIELD"),
        ("hook", 1_001, "", "LIMIT_EXCEEDED"),
        ("hook", 0, "d0.0.0", "INVALID_FIELD"),
    ];
    for (name, size, token, reason) in cases {
        let error = ask(name, size, token).await.unwrap_err();
        assert_eq!(typed(&error).reason, reason, "{name} {size} {token:?}");
    }
}
