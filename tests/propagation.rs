//! Which subscriptions have acknowledged an event, asked of a real server.

use std::path::Path;

use consent_ledger::{
    domain::{Body, SubscriptionEntry},
    format::{
        confidential::{item_place, open_item_once},
        entry::{Body as SealedBody, Entry},
        seal::OneTimeKey,
    },
    proto::{
        self, Action, ConsumeAck, ConsumeStart, ListDeadLettersRequest, PropagationState,
        Subscription, Webhook, consume_request::Message as Request,
        consume_response::Message as Response, get_inclusion_proof_request::Entry as ToProve,
        ledger,
    },
    tlog::{key::VerifierKey, merkle::leaf_hash, proof::TlogProof},
};
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{self, Clients, PATIENCE, Server, opened, typed, wait_until};

async fn subscribe(clients: &mut Clients, subscription: Subscription) -> u64 {
    let subscription = Subscription { owner: "team".to_owned(), ..subscription };
    clients.subscribe(subscription).await.subscription.unwrap().created_index
}

fn named(name: &str) -> Subscription {
    Subscription { name: name.to_owned(), ..Default::default() }
}

async fn record(clients: &mut Clients, action: Action) -> u64 {
    clients.record_change("user:1", action, "news", "email").await.index
}

async fn states(clients: &mut Clients, index: u64) -> Vec<(String, PropagationState)> {
    let propagations = clients.propagation(index).await.subscriptions;
    propagations
        .iter()
        .map(|propagation| (propagation.subscription.clone(), propagation.state()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_subscriptions_are_listed_with_their_elapsed_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
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
    let answer = clients.propagation(stop).await;
    let [_, of_ended, of_late] = &answer.subscriptions[..] else { panic!("{answer:?}") };
    assert_eq!((of_ended.receipt_index, &of_ended.settled_at), (Some(ended), &None));
    assert_eq!((of_late.receipt_index, of_late.created_index), (None, late));
    assert!(of_late.elapsed.unwrap().seconds >= 1);
    assert_eq!(of_late.deadline.unwrap().seconds, 1);
    assert!(answer.recorded_at.is_some() && answer.revision > stop);
    // An event that no subscription covers, an entry that is no event, and an index without an entry.
    assert_eq!(states(&mut clients, grant).await, []);
    let beyond = answer.revision + 100;
    for (index, reason, text) in [
        (0, "NOT_AN_EVENT", "entry 0 is the opening of the ledger: nobody has to hear it"),
        (late, "NOT_AN_EVENT", "is the beginning of a subscription: nobody has to hear it"),
        (ended, "NOT_AN_EVENT", "is the end of a subscription: nobody has to hear it"),
        (beyond, "INDEX_OUT_OF_RANGE", ""),
    ] {
        let request = proto::GetPropagationRequest { index, ..Default::default() };
        let error = clients.watch.get_propagation(request).await.unwrap_err();
        assert_eq!(typed(&error).reason, reason);
        assert!(error.message().contains(text), "{error:?}");
        let index = index.to_string();
        let said = server.cli(&["propagation", &index]).expect_code(5).stderr;
        assert!(said.contains(reason) && said.contains(text), "{said}");
        let said = server.cli(&["propagation", &index, "--json"]).expect_code(5).stderr;
        let error: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(error["error"]["reason"], reason);
    }

    let index = stop.to_string();
    let report = server.cli(&["propagation", &index, "--json"]).expect_code(1).json();
    assert!(report["recordedAt"].is_string(), "{report}");
    let states: Vec<_> = report["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subscription| subscription["state"].clone())
        .collect();
    assert_eq!(
        states,
        ["PROPAGATION_STATE_PENDING", "PROPAGATION_STATE_DELETED", "PROPAGATION_STATE_OVERDUE"]
    );
    assert_eq!(report["subscriptions"][1]["receiptIndex"], ended.to_string());
    let table = server.cli(&["propagation", &index]).expect_code(1).stdout;
    assert!(table.starts_with("STATE    SUBSCRIPTION  OWNER"), "{table}");
    let uncovered = server.cli(&["propagation", &grant.to_string()]).expect_code(0).stdout;
    assert_eq!(uncovered, "no subscription should have received it\n");
    server.cli(&["propagation", "x"]).expect_code(2);
    // The answer is the same after a restart and from a rebuilt view.
    server.kill();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    let again = server.cli(&["propagation", &index, "--json"]).expect_code(1).json();
    let subscription_states = |report: &serde_json::Value, at: usize| {
        let subscription = &report["subscriptions"][at];
        (
            subscription["subscription"].clone(),
            subscription["state"].clone(),
            subscription["receiptIndex"].clone(),
        )
    };
    for at in 0..3 {
        assert_eq!(subscription_states(&again, at), subscription_states(&report, at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_webhooks_have_dead_letters() {
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
    let none = server.cli(&["webhooks", "dead-letters", "hook"]).expect_code(0).stdout;
    assert_eq!(none, "there are no dead letters\n");
    assert_eq!(
        server.cli(&["webhooks", "dead-letters", "hook", "--json"]).expect_code(0).stdout,
        ""
    );
    for words in [&["dead-letters", "crm"][..], &["replay", "crm", "--all"]] {
        let refused = server.cli(&[&["webhooks"], words].concat()).expect_code(1);
        assert!(refused.stderr.contains("SUBSCRIPTION_NOT_WEBHOOK"), "{}", refused.stderr);
    }
}

/// Consumes a subscription up to an event, acknowledges it and closes the stream.
async fn hear_and_acknowledge(clients: &mut Clients, subscription: &str, event: u64) {
    let (requests, outgoing) = mpsc::channel(4);
    let send = async |message| {
        requests.send(proto::ConsumeRequest { message: Some(message) }).await.unwrap();
    };
    let subscription = subscription.to_owned();
    send(Request::Start(ConsumeStart { subscription, credits: 8, ..Default::default() })).await;
    let mut responses =
        clients.watch.consume(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    loop {
        let message = timeout(PATIENCE, responses.message()).await.expect("a message").unwrap();
        if let Some(Response::Consent(consent)) = message.expect("the stream goes on").message {
            assert_eq!(consent.index, event);
            break;
        }
    }
    send(Request::Ack(ConsumeAck { next_index: None, indexes: vec![event], whole_entries: false }))
        .await;
    drop(requests);
    // The server takes the acknowledgement before it ends the stream.
    while timeout(PATIENCE, responses.message()).await.expect("an end").unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_can_be_proven() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--receipt-interval=50ms", "--checkpoint-interval=20ms"];
    let server = Server::start_with(dir.path(), &flags);
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let created = subscribe(&mut clients, named("crm")).await;
    // Covers nothing that happens here.
    let filter = proto::WatchFilter { purposes: vec!["other".to_owned()], ..Default::default() };
    let webhook = Some(Webhook { url: "https://crm.example.org/?token=SECRET".to_owned() });
    subscribe(&mut clients, Subscription { webhook, filter: Some(filter), ..named("hook") }).await;
    let stop = record(&mut clients, Action::Withdraw).await;
    let index = stop.to_string();
    let pending = server.cli(&["propagation", &index, "--json"]).expect_code(1).json();
    assert_eq!(pending["subscriptions"][0]["state"], "PROPAGATION_STATE_PENDING");
    assert_eq!(pending["subscriptions"][0]["receiptIndex"], serde_json::Value::Null);

    hear_and_acknowledge(&mut clients, "crm", stop).await;
    let report = wait_until("a receipt", PATIENCE, || {
        let answer = server.cli(&["propagation", &index, "--json"]);
        (answer.code == Some(0)).then(|| answer.json())
    });
    let subscription = &report["subscriptions"][0];
    assert_eq!(subscription["state"], "PROPAGATION_STATE_ACKNOWLEDGED");
    assert_eq!(subscription["createdIndex"], created.to_string());
    let receipt = subscription["receiptIndex"].as_str().unwrap().parse::<u64>().unwrap();
    let table = server.cli(&["propagation", &index]).expect_code(0).stdout;
    let row = table.lines().nth(1).unwrap();
    assert!(row.ends_with(&format!("  {receipt}")), "{table}");

    // The named entry is the receipt, and it is provably in the ledger.
    let key = server.printed("verifier key ").unwrap();
    let file = dir.path().join("receipt.tlog-proof");
    let file = file.to_str().unwrap();
    let receipt_index = receipt.to_string();
    wait_until("a checkpoint over the receipt", PATIENCE, || {
        let words = ["prove", "--index", &receipt_index, "--key", &key, "--output", file];
        (server.cli(&words).code == Some(0)).then_some(())
    });
    support::run(["verify-proof", file, "--key", &key]).expect_code(0);
    let request = proto::GetInclusionProofRequest {
        entry: Some(ToProve::Index(receipt)),
        ..Default::default()
    };
    let proven = clients.audit.get_inclusion_proof(request).await.unwrap().into_inner();
    let proof = TlogProof::parse(&proven.proof).unwrap();
    proof.verify(&leaf_hash(&proven.entry), &VerifierKey::parse(&key).unwrap()).unwrap();
    let opened = opened::Ledger::open(dir.path());
    let entry = opened.entries().nth(usize::try_from(receipt).unwrap()).unwrap();
    let Body::Subscription(SubscriptionEntry::Delivered(delivered)) = &entry.body else {
        panic!("{entry:?}")
    };
    let [delivered] = &delivered[..] else { panic!("{delivered:?}") };
    assert_eq!(delivered.subscription.0, created);
    assert!(delivered.ranges.iter().any(|range| range.contains(&stop)));
    proofs_open_two_items_and_nothing_else(&server, &mut clients, dir.path(), &key, stop).await;
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}

/// Writes the proofs of an event that `crm` has acknowledged, and verifies them with no server.
async fn proofs_open_two_items_and_nothing_else(
    server: &Server,
    clients: &mut Clients,
    dir: &Path,
    key: &str,
    event: u64,
) {
    let (index, proofs) = (event.to_string(), dir.join("proofs"));
    let folder = proofs.to_str().unwrap();
    server.cli(&["propagation", &index, "--proofs", folder]).expect_code(0);
    let file = proofs.join(format!("{index}-crm-0.propagation"));
    let path = file.to_str().unwrap();
    let words = ["verify-propagation", path, "--key", key];
    let told = support::run([&words[..], &["--event", &index]].concat()).expect_code(0).stdout;
    assert!(told.starts_with(&format!("proven\nevent         #{index}\n")), "{told}");
    assert!(told.contains("by crm of team, shard 0"), "{told}");
    let proven = support::run([&words[..], &["--json"]].concat()).expect_code(0).json();
    assert_eq!((&proven["proven"], &proven["eventIndex"]), (&true.into(), &event.into()));

    let proof = ledger::Propagation::decode(&*std::fs::read(&file).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut ledger::Propagation)| {
        let mut changed = proof.clone();
        change(&mut changed);
        std::fs::write(dir.join("changed"), changed.encode_to_vec()).unwrap();
        let changed = dir.join("changed");
        let words = ["verify-propagation", changed.to_str().unwrap(), "--key", key];
        support::run(words).expect_code(1).stderr
    };
    assert!(refused(&|it| it.event_index += 1_000).contains("does not cover event"));
    assert!(refused(&|it| it.shard = 1).contains("does not cover event"));
    assert!(refused(&|it| it.delivery = it.subscription.clone()).contains("no acknowledgement"));
    refused(&|it| it.delivery.as_mut().unwrap().item_key[0] ^= 1);
    refused(&|it| it.ledger_id[0] ^= 1);
    support::run([&words[..], &["--event", "0"]].concat()).expect_code(1);
    let other = support::signer_key("other.example", 9).verifier().to_string();
    support::run(["verify-propagation", path, "--key", &other]).expect_code(1);
    support::run(["verify-propagation", path]).expect_code(2);

    // The two keys open their items, and no other item of the ledger.
    let ledger_id = proof.ledger_id.clone().try_into().unwrap();
    let openings = [proof.subscription.as_ref().unwrap(), proof.delivery.as_ref().unwrap()];
    let keys = openings.map(|it| OneTimeKey::from_slice(&it.item_key).unwrap());
    let own = openings.map(|it| (Entry::decode(&it.entry).unwrap().index, it.item as usize));
    let mut opened = Vec::new();
    let request = proto::ListEntriesRequest { start_index: 0, end_index: None };
    let mut entries = clients.audit.list_entries(request).await.unwrap().into_inner();
    let mut items_seen = 0;
    while let Some(entry) = entries.message().await.unwrap() {
        let entry = Entry::decode(&entry.entry).unwrap();
        let SealedBody::Confidential(items) = &entry.body else { continue };
        for (number, sealed) in items.iter().enumerate() {
            items_seen += 1;
            let place = item_place(ledger_id, entry.index, number).unwrap();
            if keys.iter().any(|key| open_item_once(key, &place, sealed).is_ok()) {
                opened.push((entry.index, number));
            }
        }
    }
    assert_eq!(opened, own);
    assert!(items_seen > 2, "the address of a webhook is an item, too");
}
