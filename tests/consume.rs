//! Durable subscriptions as their consumers see them: real servers, real streams.
//!
//! Every stream is read through [`Consumer`], which checks what each stream promises: first
//! deliveries in ledger order, every event that the subscription covers and no other, redeliveries
//! marked by their attempt, and progress never ahead of delivery.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use consent_ledger::proto::{
    self, consume_request::Message as Request, consume_response::Message as Response,
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::support::{self, Clients, PATIENCE, Server, TypedError, eventually, seed, typed};

const NAME: &str = "crm";

/// The first message of a consumer in most tests.
fn start(credits: u32) -> proto::ConsumeStart {
    proto::ConsumeStart {
        subscription: NAME.into(),
        credits,
        redelivery_timeout: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..proto::ConsumeStart::default()
    }
}

/// One stream, and the events that it delivered.
struct Consumer {
    requests: mpsc::Sender<proto::ConsumeRequest>,
    responses: Streaming<proto::ConsumeResponse>,
    started: proto::ConsumeStarted,
    /// Index and attempt of each delivery, in order.
    deliveries: Vec<(u64, u32)>,
    /// Whether the last event said that more of its entry follow.
    more_in_entry: bool,
    /// Indexes below this one may be acknowledged.
    ackable_before: u64,
}

impl Consumer {
    async fn start(clients: &Clients, start: proto::ConsumeStart) -> Result<Self, Status> {
        Self::start_with(clients, vec![Request::Start(start)]).await
    }

    /// Sends all of these messages at once.
    async fn start_with(clients: &Clients, first: Vec<Request>) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(64);
        for message in first {
            requests.try_send(proto::ConsumeRequest { message: Some(message) }).unwrap();
        }
        Self::open(clients, requests, outgoing).await
    }

    async fn open(
        clients: &Clients,
        requests: mpsc::Sender<proto::ConsumeRequest>,
        outgoing: mpsc::Receiver<proto::ConsumeRequest>,
    ) -> Result<Self, Status> {
        let mut consuming = clients.watch.clone();
        let responses = consuming.consume(ReceiverStream::new(outgoing));
        let mut responses = timeout(PATIENCE, responses).await.expect("an answer")?.into_inner();
        let first = timeout(PATIENCE, responses.message()).await.expect("a message")?;
        let Some(Response::Started(started)) = first.and_then(|message| message.message) else {
            panic!("the first message is `started`")
        };
        let ackable_before = started.next_index;
        let (deliveries, more_in_entry) = (Vec::new(), false);
        Ok(Self { requests, responses, started, deliveries, more_in_entry, ackable_before })
    }

    /// The next message; `None` at a clean end.
    async fn message(&mut self) -> Result<Option<proto::ConsumeResponse>, Status> {
        let message = timeout(PATIENCE, self.responses.message()).await.expect("a message")?;
        if let Some(message) = &message {
            self.check(message);
        }
        Ok(message)
    }

    /// Checks a message against what every stream promises.
    fn check(&mut self, message: &proto::ConsumeResponse) {
        let index = index(message);
        let follows = std::mem::take(&mut self.more_in_entry);
        if let Some(Response::Consent(event)) = &message.message {
            self.more_in_entry = event.more_in_entry;
        }
        match (index, message.attempt) {
            (Some(index), _) if follows => {
                let before = self.deliveries.last().map(|(before, _)| *before);
                assert_eq!(before, Some(index), "the events of an entry are not parted");
            }
            (Some(index), 1) => {
                assert!(
                    index >= self.ackable_before,
                    "{index} came late, or twice: {:?}",
                    self.deliveries
                );
                self.ackable_before = index + 1;
            }
            (Some(index), attempt) => {
                let times =
                    self.deliveries.iter().filter(|(delivered, _)| *delivered == index).count();
                assert_eq!(attempt as usize, times + 1, "{index} was delivered so often");
            }
            (None, attempt) => assert_eq!(attempt, 0, "only events are counted"),
        }
        self.deliveries.extend(index.map(|index| (index, message.attempt)));
        match &message.message {
            Some(Response::Progress(progress)) => {
                assert!(progress.next_index >= self.ackable_before, "progress goes back");
                self.ackable_before = progress.next_index;
            }
            Some(Response::Started(_)) => panic!("started twice"),
            _ => {}
        }
    }

    /// The next event: its index, and how often it was delivered.
    async fn event(&mut self) -> (u64, u32) {
        loop {
            let message = self.message().await.unwrap().expect("the stream goes on");
            if let Some(index) = index(&message) {
                return (index, message.attempt);
            }
        }
    }

    async fn events(&mut self, count: usize) -> Vec<u64> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.event().await.0);
        }
        events
    }

    /// Reads up to the next progress message; returns the index below which all may be
    /// acknowledged.
    async fn progress(&mut self) -> u64 {
        loop {
            let message = self.message().await.unwrap().expect("the stream goes on");
            if let Some(Response::Progress(progress)) = message.message {
                return progress.next_index;
            }
        }
    }

    /// Reads the next event or progress message; returns the index after it.
    async fn progress_or_event(&mut self) -> u64 {
        self.message().await.unwrap().expect("the stream goes on");
        self.ackable_before
    }

    /// Reads to the end of the stream; returns its error, if any.
    async fn end(&mut self) -> Result<(), Status> {
        while self.message().await?.is_some() {}
        Ok(())
    }

    async fn send(&self, message: Request) {
        // Fails only if the stream has ended, which the next read shows.
        drop(self.requests.send(proto::ConsumeRequest { message: Some(message) }).await);
    }

    async fn ack(&self, next_index: Option<u64>, indexes: &[u64]) {
        self.send(Request::Ack(proto::ConsumeAck {
            next_index,
            indexes: indexes.to_vec(),
            whole_entries: false,
        }))
        .await;
    }

    async fn credit(&self, credits: u32) {
        self.send(Request::Credit(proto::ConsumeCredit { credits })).await;
    }

    /// Closes the sending side and reads to the end.
    async fn close(mut self) {
        let (requests, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.requests, requests));
        self.end().await.expect("an end that the client wants is none to complain of");
    }
}

fn index(message: &proto::ConsumeResponse) -> Option<u64> {
    match message.message.as_ref()? {
        Response::Consent(event) => Some(event.index),
        Response::Link(event) => Some(event.index),
        Response::Catalog(event) => Some(event.index),
        Response::Overdue(event) => Some(event.index),
        Response::Started(_)
        | Response::Snapshot(_)
        | Response::SnapshotEnd(_)
        | Response::Progress(_) => None,
    }
}

/// A server with a catalogue, in a temporary directory.
struct Ledger {
    server: Option<Server>,
    dir: tempfile::TempDir,
    clients: Clients,
}

impl Ledger {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), FLAGS);
        let clients = server.clients_with_catalog(&["news"], &["email", "sms"]).await;
        Self { server: Some(server), dir, clients }
    }

    /// Starts another server over the same directory.
    async fn restart(&mut self) {
        let server = Server::start_with(self.dir.path(), FLAGS);
        self.clients = server.clients().await;
        self.server = Some(server);
    }

    async fn subscribe(&mut self, subscription: proto::Subscription) -> proto::Subscription {
        let named = proto::Subscription { name: NAME.into(), ..subscription };
        let created = self.clients.subscribe(named).await;
        assert!(created.created);
        created.subscription.unwrap()
    }

    /// Withdraws; returns the index of the event.
    async fn withdraw(&mut self, subject: &str) -> u64 {
        self.clients.record_change(subject, proto::Action::Withdraw, "news", "email").await.index
    }

    async fn withdrawals(&mut self, count: usize) -> Vec<u64> {
        let mut events = Vec::new();
        for number in 0..count {
            events.push(self.withdraw(&format!("user:{number}")).await);
        }
        events
    }

    /// Records an act that the default filter does not pass.
    async fn grant(&mut self, subject: &str) -> u64 {
        self.clients.record_change(subject, proto::Action::Grant, "news", "sms").await.index
    }

    async fn consume(&self, start: proto::ConsumeStart) -> Consumer {
        Consumer::start(&self.clients, start).await.unwrap()
    }

    /// The status of the only shard.
    async fn shard_status(&mut self) -> proto::ShardStatus {
        self.clients.subscriptions().await[0].shards.remove(0)
    }

    /// Waits until exactly the events below an index are acknowledged.
    async fn acknowledged_before(&mut self, index: u64) -> proto::ShardStatus {
        eventually(&format!("all before {index} is acknowledged"), async || {
            Some(self.shard_status().await).filter(|status| status.next_index == index)
        })
        .await
    }

    /// Waits until the ledger holds the receipt of an event.
    async fn on_record(&mut self, index: u64) {
        let acknowledged = i32::from(proto::PropagationState::Acknowledged);
        eventually(&format!("{index} is on record"), async || {
            let propagation = self.clients.propagation(index).await;
            (propagation.subscriptions[0].state == acknowledged).then_some(())
        })
        .await;
    }

    async fn refused(&self, first: Vec<Request>) -> TypedError {
        typed(&Consumer::start_with(&self.clients, first).await.err().expect("refused"))
    }
}

/// Acknowledgements are written to the ledger soon.
const FLAGS: &[&str] = &["--receipt-interval", "50ms"];

#[tokio::test]
async fn a_consumer_resumes_behind_its_acknowledgements() {
    let mut ledger = Ledger::start().await;
    let subscription = ledger.subscribe(proto::Subscription::default()).await;
    let events = ledger.withdrawals(6).await;
    let mut first = ledger.consume(start(100)).await;
    assert_eq!(first.started.subscription, Some(subscription.clone()));
    assert_eq!(
        (first.started.next_index, first.started.took_over),
        (subscription.start_index, false)
    );
    assert_eq!(first.events(6).await, events);
    first.ack(Some(events[2] + 1), &[]).await;
    first.close().await;

    let mut second = ledger.consume(start(100)).await;
    assert_eq!(second.started.next_index, events[3]);
    assert!(!second.started.took_over, "the first had left");
    assert_eq!(second.events(3).await, events[3..]);
    assert!(second.deliveries.iter().all(|(_, attempt)| *attempt == 1), "on this stream");
    let later = ledger.withdraw("user:9").await;
    assert_eq!(second.event().await, (later, 1));
}

#[tokio::test]
async fn single_acknowledgements_come_in_any_order() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let mut events = Vec::new();
    for number in 0..8 {
        events.push(ledger.withdraw(&format!("user:{number}")).await);
        ledger.grant(&format!("user:{number}")).await;
    }
    let mut first = ledger.consume(start(100)).await;
    assert_eq!(first.events(8).await, events);
    first.ack(None, &[events[6], events[1]]).await;
    first.ack(None, &[events[0], events[4], events[1]]).await;
    first.close().await;

    let mut second = ledger.consume(start(100)).await;
    assert_eq!(second.started.next_index, events[2], "acknowledged events between are skipped");
    let rest = [events[2], events[3], events[5], events[7]];
    assert_eq!(second.events(4).await, rest);
    assert_eq!(second.progress().await, events[7] + 2);
    second.ack(Some(events[3] + 1), &[events[7], events[5], events[0]]).await;
    second.close().await;

    let mut third = ledger.consume(start(100)).await;
    assert_eq!(third.started.next_index, events[7] + 2);
    third.progress().await;
    assert_eq!(third.deliveries, []);
}

/// Grants of several data subjects that end at one time, and the index of the entry that says so.
async fn ends_of_one_entry(ledger: &mut Ledger, namespace: &str, persons: usize) -> u64 {
    let ends_at = support::now_ms() + 2_000;
    for number in 0..persons {
        let mut grant = support::change(proto::Action::Grant, "news", "email");
        grant.expires_at = Some(support::timestamp(ends_at));
        ledger.clients.record(support::act(&format!("{namespace}:{number}"), vec![grant])).await;
    }
    eventually("the ends are recorded", async || {
        let history = ledger.clients.history(&format!("{namespace}:0")).await;
        let end = history.iter().find(|line| line.kind() == proto::HistoryKind::Expiry);
        end.map(|line| line.index)
    })
    .await
}

fn place(message: &proto::ConsumeResponse) -> u32 {
    let Some(Response::Consent(event)) = &message.message else { panic!("{message:?}") };
    event.place
}

#[tokio::test]
async fn an_entry_with_several_events_is_acknowledged_event_by_event_or_whole() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let index = ends_of_one_entry(&mut ledger, "user", 3).await;
    // The messages come together, whatever the credits.
    let mut first = ledger.consume(start(1)).await;
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(place(&first.message().await.unwrap().unwrap()));
    }
    assert_eq!(places, [0, 1, 2]);
    assert!(!first.more_in_entry);
    // A consumer that works in order, and knows nothing of such entries.
    first.ack(Some(index + 1), &[]).await;
    first.ack(Some(index + 1), &[]).await;
    first.close().await;
    // It crashed before the third: all of them come again.
    let mut second = ledger.consume(start(100)).await;
    assert_eq!(second.started.next_index, index);
    assert_eq!(second.events(3).await, [index; 3]);
    for _ in 0..2 {
        second.ack(None, &[index]).await;
    }
    assert_eq!(ledger.shard_status().await.next_index, index);
    second.ack(None, &[index]).await;
    ledger.on_record(index).await;
    second.close().await;

    // The next entry, by a consumer that knows.
    let index = ends_of_one_entry(&mut ledger, "device", 4).await;
    let mut third = ledger.consume(start(100)).await;
    assert_eq!(third.events(4).await, [index; 4]);
    let whole = proto::ConsumeAck {
        next_index: Some(index + 1),
        whole_entries: true,
        ..Default::default()
    };
    third.send(Request::Ack(whole)).await;
    ledger.on_record(index).await;
    third.close().await;
}

#[tokio::test]
async fn unacknowledged_events_are_redelivered_with_their_attempt() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let events = ledger.withdrawals(3).await;
    let one_second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let mut consumer =
        ledger.consume(proto::ConsumeStart { redelivery_timeout: one_second, ..start(4) }).await;
    assert_eq!(consumer.events(3).await, events);
    let at = Instant::now();
    consumer.ack(None, &[events[1]]).await;
    assert_eq!(consumer.event().await, (events[0], 2), "the oldest first");
    assert!(at.elapsed() > Duration::from_millis(800), "not before its time");
    // That used the last credit: the other event waits.
    let silence = timeout(Duration::from_millis(1_500), consumer.responses.message()).await;
    assert!(silence.is_err(), "{silence:?}");
    consumer.credit(2).await;
    let mut again = [consumer.event().await, consumer.event().await];
    again.sort_unstable();
    assert_eq!(again, [(events[0], 3), (events[2], 2)]);
    consumer.ack(Some(events[2] + 1), &[]).await;
    consumer.credit(10).await;
    let later = ledger.withdraw("user:9").await;
    assert_eq!(consumer.event().await, (later, 1));
    assert_eq!(consumer.event().await, (later, 2), "nothing else comes again");
}

#[tokio::test]
async fn a_newer_consumer_takes_over_and_the_older_gets_an_error() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let events = ledger.withdrawals(4).await;
    let named = |name: &str| proto::ConsumeStart { consumer: name.into(), ..start(10) };
    let mut older = ledger.consume(named("host-1")).await;
    assert_eq!(older.events(4).await, events);
    older.ack(Some(events[0] + 1), &[]).await;
    // Acknowledgements from here on may come too late.
    let mut newer = ledger.consume(named("host-2")).await;
    assert!(newer.started.took_over);
    older.ack(Some(events[3] + 1), &[]).await;
    let status = older.end().await.expect_err("the stream ends");
    assert!(status.message().contains("host-2"), "{status:?}");
    assert_eq!(typed(&status), TypedError::new(Code::Aborted, "SUBSCRIPTION_TAKEN_OVER", &[]));
    let next = newer.started.next_index;
    assert!([events[0], events[1]].contains(&next) || next < events[0]);
    let left: Vec<u64> = events.iter().copied().filter(|index| *index >= next).collect();
    assert_eq!(newer.events(left.len()).await, left, "events acknowledged too late are delivered");
}

#[tokio::test]
async fn each_data_subject_has_one_shard_and_the_shards_together_hear_all() {
    const SHARDS: u32 = 3;
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription { shards: SHARDS, ..Default::default() }).await;
    let mut events = BTreeSet::new();
    for round in 0..4 {
        for number in 0..20 {
            events.insert(ledger.withdraw(&format!("user:{number}")).await);
        }
        if round == 1 {
            // An event about two data subjects, which may be in two shards.
            ledger.clients.link("user:1", "user:2", proto::LinkConfidence::Verified).await;
        }
    }
    let mut shard_of = BTreeMap::new();
    let mut deliveries = BTreeSet::new();
    for shard in 0..SHARDS {
        let mut consumer = ledger.consume(proto::ConsumeStart { shard, ..start(1_000) }).await;
        let mut last = BTreeMap::new();
        loop {
            match consumer.message().await.unwrap().unwrap().message.unwrap() {
                Response::Consent(event) => {
                    assert!(deliveries.insert(event.index), "{} is delivered once", event.index);
                    let first = *shard_of.entry(event.subject.clone()).or_insert(shard);
                    assert_eq!(first, shard, "{} is in one shard", event.subject);
                    assert!(
                        last.insert(event.subject, event.index) < Some(event.index),
                        "in order"
                    );
                }
                Response::Link(link) => {
                    let sides = [link.subject, link.other_subject];
                    assert!(sides.iter().any(|side| shard_of.get(side) == Some(&shard)));
                }
                Response::Progress(_) => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(deliveries, events);
    let used: BTreeSet<u32> = shard_of.into_values().collect();
    assert_eq!(used.len(), SHARDS as usize, "20 data subjects are spread over all");
}

#[tokio::test]
async fn deleting_a_subscription_ends_its_consumers_with_a_reason() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription { shards: 2, ..Default::default() }).await;
    let mut consumers = Vec::new();
    for shard in 0..2 {
        consumers.push(ledger.consume(proto::ConsumeStart { shard, ..start(0) }).await);
    }
    let request = proto::DeleteSubscriptionRequest { name: NAME.into() };
    ledger.clients.watch.delete_subscription(request).await.unwrap();
    for mut consumer in consumers {
        let ended = typed(&consumer.end().await.expect_err("the stream ends"));
        assert_eq!(ended, TypedError::new(Code::Aborted, "SUBSCRIPTION_DELETED", &[]));
    }
    let not_found =
        TypedError::new(Code::NotFound, "SUBSCRIPTION_NOT_FOUND", &["start.subscription"]);
    assert_eq!(ledger.refused(vec![Request::Start(start(1))]).await, not_found);
    // A new subscription of the same name has no consumer to take over from.
    ledger.subscribe(proto::Subscription::default()).await;
    assert!(!ledger.consume(start(1)).await.started.took_over);
}

#[tokio::test]
async fn a_consumer_without_credits_hears_nothing_and_delays_no_other() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription { shards: 2, ..Default::default() }).await;
    let mut stalled = ledger.consume(start(0)).await;
    let mut other = ledger.consume(proto::ConsumeStart { shard: 1, ..start(1_000) }).await;
    other.progress().await;
    let events = ledger.withdrawals(40).await;
    let last = *events.last().unwrap();
    while other.progress_or_event().await <= last {}
    let mut all: BTreeSet<u64> = other.deliveries.iter().map(|(index, _)| *index).collect();
    // The other shard has heard everything; this one has heard nothing.
    assert!(timeout(Duration::from_millis(50), stalled.responses.message()).await.is_err());
    for _ in all.len()..events.len() {
        stalled.credit(1).await;
        let (index, _) = stalled.event().await;
        assert!(all.insert(index));
        assert!(timeout(Duration::from_millis(2), stalled.responses.message()).await.is_err());
    }
    assert_eq!(all, events.into_iter().collect());
}

#[tokio::test]
async fn progress_takes_no_credit_and_may_be_acknowledged() {
    let mut ledger = Ledger::start().await;
    let subscription = ledger.subscribe(proto::Subscription::default()).await;
    let often = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let mut consumer =
        ledger.consume(proto::ConsumeStart { progress_interval: often, ..start(2) }).await;
    assert_eq!(consumer.progress().await, subscription.start_index, "as soon as it has caught up");
    assert_eq!(consumer.progress().await, subscription.start_index, "and at every interval");
    let granted = ledger.grant("user:1").await;
    while consumer.progress().await <= granted {}
    consumer.ack(Some(granted + 1), &[]).await;
    let event = ledger.withdraw("user:1").await;
    assert_eq!(consumer.event().await, (event, 1), "a credit is left");
    assert_eq!(consumer.progress().await, event + 1);
    // An acknowledgement ahead of delivery is refused as a whole.
    consumer.ack(Some(event + 2), &[]).await;
    let refused = consumer.end().await.unwrap_err();
    assert_eq!(
        typed(&refused),
        TypedError::new(Code::InvalidArgument, "ACK_NOT_DELIVERED", &["ack"])
    );
    let facts = refused.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["index"], (event + 2).to_string());
    assert_eq!(facts["delivered"], (event + 1).to_string());
    assert_eq!(ledger.consume(start(0)).await.started.next_index, event);
}

#[tokio::test]
async fn every_faulty_message_is_a_typed_error_and_changes_nothing() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let events = ledger.withdrawals(2).await;
    let webhook = proto::Subscription {
        name: "hook".into(),
        webhook: Some(proto::Webhook { url: "https://hook.example.org/in".into() }),
        ..Default::default()
    };
    ledger.clients.subscribe(webhook).await;

    let invalid = |field: &str| TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &[field]);
    let limit = |field: &str| TypedError::new(Code::InvalidArgument, "LIMIT_EXCEEDED", &[field]);
    let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let with = |spoil: fn(&mut proto::ConsumeStart, Option<prost_types::Duration>), span| {
        let mut start = start(1);
        spoil(&mut start, span);
        Request::Start(start)
    };
    let ack = |next_index, indexes| {
        Request::Ack(proto::ConsumeAck { next_index, indexes, whole_entries: false })
    };
    let credit = |credits| Request::Credit(proto::ConsumeCredit { credits });

    // Refused before the stream starts.
    let mut valid = ledger.consume(start(10)).await;
    let before_start = [
        (ack(Some(1), vec![]), invalid("start")),
        (credit(1), invalid("start")),
        (with(|start, _| start.subscription.clear(), None), invalid("start.subscription")),
        (with(|start, _| start.credits = 10_001, None), limit("start.credits")),
        (with(|start, _| start.consumer = "x".repeat(257), None), limit("start.consumer")),
        (with(|start, _| start.consumer = "\u{7}".into(), None), invalid("start.consumer")),
        (with(|start, span| start.redelivery_timeout = span, span(0)), {
            invalid("start.redelivery_timeout")
        }),
        (with(|start, span| start.redelivery_timeout = span, span(3_601)), {
            limit("start.redelivery_timeout")
        }),
        (with(|start, span| start.progress_interval = span, span(3_601)), {
            limit("start.progress_interval")
        }),
        (with(|start, _| start.shard = 1, None), invalid("start.shard")),
        (with(|start, _| start.snapshot_token = vec![1], None), invalid("start.snapshot_token")),
        (with(|start, _| start.subscription = "none".into(), None), {
            TypedError::new(Code::NotFound, "SUBSCRIPTION_NOT_FOUND", &["start.subscription"])
        }),
        (with(|start, _| start.subscription = "hook".into(), None), {
            TypedError::new(
                Code::FailedPrecondition,
                "SUBSCRIPTION_IS_WEBHOOK",
                &["start.subscription"],
            )
        }),
    ];
    for (request, want) in before_start {
        assert_eq!(ledger.refused(vec![request.clone()]).await, want, "{request:?}");
    }
    let (requests, no_requests) = mpsc::channel(1);
    drop(requests);
    let (unused, _) = mpsc::channel(1);
    let nothing = Consumer::open(&ledger.clients, unused, no_requests).await.err().unwrap();
    assert_eq!(typed(&nothing), invalid("start"));
    // None of these attempts ended the stream of the present consumer.
    assert_eq!(valid.events(2).await, events);
    valid.close().await;

    // Refused on a running stream.
    let undelivered = || TypedError::new(Code::InvalidArgument, "ACK_NOT_DELIVERED", &["ack"]);
    let later = [
        (Request::Start(start(1)), invalid("start")),
        (credit(10_001), limit("credit.credits")),
        (ack(None, vec![events[0]; 10_001]), limit("ack.indexes")),
        (ack(None, vec![]), invalid("ack.next_index")),
        (ack(Some(events[0] + 2), vec![]), undelivered()),
        (ack(Some(u64::MAX), vec![]), undelivered()),
        (ack(None, vec![events[0], events[1]]), undelivered()),
    ];
    for (request, want) in later {
        let mut consumer = ledger.consume(start(1)).await;
        assert_eq!(consumer.event().await, (events[0], 1));
        consumer.send(request.clone()).await;
        assert_eq!(typed(&consumer.end().await.unwrap_err()), want, "{request:?}");
    }
    let mut consumer = ledger.consume(start(1)).await;
    assert_eq!(consumer.started.next_index, events[0], "nothing was acknowledged by mistake");
    drop(consumer.requests.send(proto::ConsumeRequest { message: None }).await);
    assert_eq!(typed(&consumer.end().await.unwrap_err()), invalid("message"));
}

/// The data subjects of the next snapshot with their tokens, and its end.
async fn snapshot(consumer: &mut Consumer) -> (Vec<(String, Vec<u8>)>, proto::SnapshotEnd) {
    let mut subjects = Vec::new();
    loop {
        match consumer.message().await.unwrap().unwrap().message.unwrap() {
            Response::Snapshot(state) => subjects.push((state.subject, state.token)),
            Response::SnapshotEnd(end) => return (subjects, end),
            other => panic!("in the middle of a snapshot: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_snapshot_comes_first_until_it_is_acknowledged() {
    let mut ledger = Ledger::start().await;
    ledger.withdrawals(5).await;
    let denied = proto::Snapshot::Denied.into();
    let subscription =
        ledger.subscribe(proto::Subscription { snapshot: denied, ..Default::default() }).await;
    let event = ledger.withdraw("user:9").await;

    let mut first = ledger.consume(start(100)).await;
    let (subjects, end) = snapshot(&mut first).await;
    assert_eq!((end.revision, end.subjects), (subscription.start_index, 5), "as of the creation");
    let names: BTreeSet<&String> = subjects.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 5, "each once");
    assert_eq!(first.event().await, (event, 1), "then the later events");
    first.close().await;

    // The snapshot was not acknowledged, so it comes again from the token on: three data subjects,
    // and one credit for the end.
    let (_, token) = subjects[1].clone();
    let with_token = proto::ConsumeStart { snapshot_token: token, ..start(3) };
    let mut second = ledger.consume(with_token.clone()).await;
    for (name, _) in &subjects[2..] {
        let message = second.message().await.unwrap().unwrap().message;
        assert!(
            matches!(&message, Some(Response::Snapshot(subscription)) if subscription.subject == *name)
        );
    }
    assert!(timeout(Duration::from_millis(50), second.responses.message()).await.is_err());
    second.credit(2).await;
    let (none, end) = snapshot(&mut second).await;
    assert_eq!((none.len(), end.revision, end.subjects), (0, subscription.start_index, 3));
    second.ack(Some(end.revision), &[]).await;
    assert_eq!(second.event().await, (event, 1));
    second.close().await;

    let mut third = ledger.consume(start(100)).await;
    assert_eq!(third.event().await, (event, 1), "the snapshot was dealt with, the event was not");
    let mut late = ledger.consume(with_token).await;
    assert_eq!(late.event().await, (event, 1), "a token of a snapshot that is over does no harm");
}

#[tokio::test]
async fn the_shards_of_a_snapshot_are_together_complete() {
    let mut ledger = Ledger::start().await;
    ledger.withdrawals(30).await;
    let all = proto::Snapshot::All.into();
    ledger.subscribe(proto::Subscription { snapshot: all, shards: 2, ..Default::default() }).await;
    let mut deliveries = Vec::new();
    for shard in 0..2 {
        let mut consumer = ledger.consume(proto::ConsumeStart { shard, ..start(100) }).await;
        let (subjects, end) = snapshot(&mut consumer).await;
        assert_eq!(end.subjects, subjects.len() as u64);
        assert!(!subjects.is_empty(), "30 data subjects are in both");
        deliveries.extend(subjects.into_iter().map(|(name, _)| name));
    }
    let once: BTreeSet<&String> = deliveries.iter().collect();
    assert_eq!((deliveries.len(), once.len()), (30, 30));
}

/// Ends the server cleanly while its clients go on.
async fn terminate(ledger: &mut Ledger) {
    let server = ledger.server.take().unwrap();
    tokio::task::spawn_blocking(|| server.terminate()).await.unwrap();
}

#[tokio::test]
async fn the_list_of_subscriptions_names_consumers_and_their_position() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let events = ledger.withdrawals(2).await;
    assert!(!ledger.shard_status().await.connected);
    let named = proto::ConsumeStart { consumer: "host-1".into(), ..start(10) };
    let mut consumer = ledger.consume(named).await;
    consumer.events(2).await;
    consumer.ack(Some(events[0] + 1), &[]).await;
    let status = ledger.acknowledged_before(events[1]).await;
    assert_eq!((&*status.consumer, status.connected), ("host-1", true));
    // Without events to acknowledge, progress moves the position.
    consumer.ack(None, &[events[1]]).await;
    let granted = ledger.grant("user:1").await;
    ledger.acknowledged_before(granted + 1).await;
    // The connection breaks without a clean end.
    drop(consumer);
    let gone = async {
        while ledger.shard_status().await.connected {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_names_the_position_and_the_next_server_resumes_there() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let events = ledger.withdrawals(5).await;
    let mut first = ledger.consume(start(100)).await;
    assert_eq!(first.events(5).await, events);
    first.ack(Some(events[1] + 1), &[events[3]]).await;
    ledger.acknowledged_before(events[2]).await;
    let ended = tokio::spawn(async move { first.end().await });
    terminate(&mut ledger).await;
    let status = ended.await.unwrap().expect_err("the server ends it");
    assert_eq!(typed(&status), TypedError::new(Code::Unavailable, "SHUTTING_DOWN", &[]));
    let facts = status.get_details_error_info().unwrap().metadata;
    assert_eq!(facts["next_index"], events[2].to_string());

    ledger.restart().await;
    let mut second = ledger.consume(start(100)).await;
    assert_eq!(second.started.next_index, events[2], "the drain recorded the acknowledgements");
    assert_eq!(second.events(2).await, [events[2], events[4]]);
}

#[tokio::test]
async fn a_crash_loses_no_event_and_no_recorded_acknowledgement() {
    let mut ledger = Ledger::start().await;
    ledger.subscribe(proto::Subscription::default()).await;
    let mut events = Vec::new();
    let mut acked: BTreeSet<u64> = BTreeSet::new();
    let mut deliveries = BTreeSet::new();
    for round in 0..3 {
        events.extend(ledger.withdrawals(20).await);
        let mut consumer = ledger.consume(start(1_000)).await;
        consumer.progress().await;
        let delivered: Vec<u64> = consumer.deliveries.iter().map(|(index, _)| *index).collect();
        let missed =
            events.iter().find(|index| !acked.contains(*index) && !delivered.contains(index));
        assert_eq!(missed, None, "round {round}: {delivered:?}");
        deliveries.extend(delivered.iter().copied());
        // Half of the acknowledgements are recorded before the crash; the rest may or may not be.
        let on_record: Vec<u64> = delivered.iter().copied().step_by(2).collect();
        consumer.ack(None, &on_record).await;
        ledger.on_record(*on_record.last().unwrap()).await;
        let unknown: Vec<u64> = delivered.iter().copied().skip(1).step_by(4).collect();
        consumer.ack(None, &unknown).await;
        ledger.server.take().unwrap().kill();
        assert!(consumer.end().await.is_err());
        ledger.restart().await;
        let mut next = ledger.consume(start(1_000)).await;
        next.progress().await;
        let again: Vec<u64> = next.deliveries.iter().map(|(index, _)| *index).collect();
        let twice = again.iter().find(|index| on_record.contains(index));
        assert_eq!(twice, None, "recorded acknowledgements are not delivered again");
        acked.extend(events.iter().filter(|index| !again.contains(index)));
        next.close().await;
    }
    assert_eq!(deliveries, events.into_iter().collect());
}

/// The deliveries of one stream, and what was acknowledged before it began.
struct Session {
    acked_before: BTreeSet<u64>,
    deliveries: Vec<(u64, u32)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_consumer_hears_everything_in_order() {
    const EVENTS: usize = 600;
    let seed = seed("a_random_consumer_hears_everything_in_order");
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut ledger = Ledger::start().await;
    ledger.clients.put_catalog(&["ads"], &[]).await;
    let filter = proto::WatchFilter { purposes: vec!["news".into()], ..Default::default() };
    ledger.subscribe(proto::Subscription { filter: Some(filter), ..Default::default() }).await;
    let writer = tokio::spawn(write(ledger.clients.clone(), EVENTS, seed));

    let mut acked = BTreeSet::new();
    let mut sessions = Vec::new();
    while acked.len() < EVENTS {
        let begin = proto::ConsumeStart {
            redelivery_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..start(u32::try_from(dice.next_u64() % 20).unwrap())
        };
        let acked_before = acked.clone();
        let mut consumer = ledger.consume(begin).await;
        let mut flying: Vec<u64> = Vec::new();
        for _ in 0..dice.next_u64() % 40 {
            match dice.next_u64() % 5 {
                0 => consumer.credit(u32::try_from(dice.next_u64() % 30).unwrap()).await,
                // There may be no credits or no events.
                1 | 2 => {
                    for _ in 0..10 {
                        let message = timeout(Duration::from_millis(5), consumer.message()).await;
                        let Ok(message) = message else { break };
                        let message = message.unwrap().unwrap();
                        flying.extend(index(&message).filter(|_| message.attempt == 1));
                    }
                }
                3 if !flying.is_empty() => {
                    let at = usize::try_from(dice.next_u64()).unwrap() % flying.len();
                    let index = flying.swap_remove(at);
                    consumer.ack(None, &[index]).await;
                    acked.insert(index);
                }
                _ => {
                    let Some(index) = flying.iter().copied().max() else { continue };
                    consumer.ack(Some(index + 1), &[]).await;
                    acked.extend(flying.drain(..));
                }
            }
        }
        // A clean close waits until the server has taken all earlier acknowledgements.
        let (requests, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut consumer.requests, requests));
        consumer.end().await.unwrap();
        sessions.push(Session { acked_before, deliveries: consumer.deliveries });
    }
    let events = writer.await.unwrap();
    for Session { acked_before, deliveries } in &sessions {
        let first = deliveries.iter().filter(|(_, attempt)| *attempt == 1);
        let first: Vec<u64> = first.map(|(index, _)| *index).collect();
        let left = events.iter().copied().filter(|index| !acked_before.contains(index));
        let want: Vec<u64> = left.take(first.len()).collect();
        assert_eq!(first, want, "no gap, nothing else, in order");
    }
    let redelivered =
        sessions.iter().flat_map(|session| &session.deliveries).filter(|(_, attempt)| *attempt > 1);
    println!("{} sessions, {} delivered again", sessions.len(), redelivered.count());
}

/// Writes this many covered events among others; returns their indexes.
async fn write(mut clients: Clients, events: usize, seed: u64) -> Vec<u64> {
    let mut dice = ChaCha8Rng::seed_from_u64(!seed);
    let mut indexes = Vec::new();
    while indexes.len() < events {
        let (action, purpose) = match dice.next_u64() % 4 {
            0 => (proto::Action::Grant, "news"),
            1 => (proto::Action::Withdraw, "ads"),
            _ => (proto::Action::Withdraw, "news"),
        };
        let subject = format!("user:{}", dice.next_u64() % 50);
        let index = clients.record_change(&subject, action, purpose, "email").await.index;
        if (action, purpose) == (proto::Action::Withdraw, "news") {
            indexes.push(index);
        }
    }
    indexes
}
