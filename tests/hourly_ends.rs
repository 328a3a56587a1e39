//! Ends of grants: rounded to the hour when they are recorded, and those of an hour in one entry. So the time
//! of an end says nothing of the act that it ends.

use std::collections::BTreeSet;

use consent_ledger::{
    domain::Body,
    proto::{
        self, Action, Actor, EventKind, HistoryKind, Reason, RecordConsentRequest,
        watch_response::Message,
    },
};
use tonic::Streaming;

use crate::support::{
    self, Clients, PATIENCE, Server, act, change, check_request, clock::TestClock, consent_purpose,
    eventually, millis, now_ms, opened, timestamp,
};

const NEWS: &str = "marketing.newsletter";
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn hour(ms: i64) -> i64 {
    ms - ms.rem_euclid(HOUR_MS)
}

fn until(ends_at: i64, person: &str, channel: &str) -> RecordConsentRequest {
    let mut grant = change(Action::Grant, NEWS, channel);
    grant.expires_at = Some(timestamp(ends_at));
    act(person, vec![grant])
}

async fn reason(clients: &mut Clients, person: &str) -> Reason {
    clients.ask(check_request(person, NEWS, "email")).await.reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_a_day_away_or_more_is_a_full_hour_and_told_so_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--checkpoint-interval=50ms"]);
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let monthly = Some(prost_types::Duration { seconds: 30 * DAY_MS / 1_000, nanos: 0 });
    clients
        .put_purpose(proto::Purpose { default_validity: monthly, ..consent_purpose("monthly") })
        .await;
    let given = now_ms() - 60_000;
    for (number, (purpose, span_ms, recorded)) in [
        (NEWS, Some(DAY_MS - 1), given + DAY_MS - 1),
        (NEWS, Some(DAY_MS), hour(given + DAY_MS)),
        (NEWS, Some(40 * DAY_MS + 1_234_567), hour(given + 40 * DAY_MS + 1_234_567)),
        ("monthly", None, hour(given + 30 * DAY_MS)),
        ("monthly", Some(HOUR_MS + 1), given + HOUR_MS + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let person = format!("user:{number}");
        let mut grant = change(Action::Grant, purpose, "email");
        grant.expires_at = span_ms.map(|span_ms| timestamp(given + span_ms));
        let request = RecordConsentRequest {
            effective_at: Some(timestamp(given)),
            ..act(&person, vec![grant.clone()])
        };
        let answer = clients.record(request).await;
        let ends = millis(answer.results[0].expires_at.as_ref());
        assert_eq!(ends, Some(recorded), "{person}");
        let checked = clients.ask(check_request(&person, purpose, "email")).await;
        assert_eq!(millis(checked.valid_until.as_ref()), Some(recorded), "{person}");
        let history = clients.history(&person).await;
        assert_eq!(millis(history[0].changes[0].expires_at.as_ref()), Some(recorded), "{person}");
        // The same once more is the same grant, by a list and by a signal.
        let again = RecordConsentRequest {
            effective_at: Some(timestamp(given)),
            record_only_news: true,
            ..act(&person, vec![grant])
        };
        assert!(clients.record(again).await.nothing_recorded, "{person}");
    }
    // A guardian's authority ends likewise.
    let of_age = given + 400 * DAY_MS + 1_800_001;
    let authority = proto::Authority {
        relationship: "parent".into(),
        ends_at: Some(timestamp(of_age)),
        ..proto::Authority::default()
    };
    let guardian = RecordConsentRequest {
        actor: Actor::Guardian.into(),
        effective_at: Some(timestamp(given)),
        evidence: Some(proto::Evidence { authority: Some(authority), ..Default::default() }),
        ..act("user:child", vec![change(Action::Grant, NEWS, "email")])
    };
    clients.record(guardian).await;
    let checked = clients.ask(check_request("user:child", NEWS, "email")).await;
    assert_eq!(millis(checked.valid_until.as_ref()), Some(hour(of_age)));
    let evidence = clients.history("user:child").await.remove(0).evidence.unwrap();
    let ends_at = evidence.authority.unwrap().ends_at;
    assert_eq!(millis(ends_at.as_ref()), Some(hour(of_age)));
}

/// The stream of ends from an index on.
async fn ends_from(clients: &mut Clients, start_index: u64) -> Streaming<proto::WatchResponse> {
    let kinds = vec![EventKind::Expire.into()];
    let filter = Some(proto::WatchFilter { kinds, ..proto::WatchFilter::default() });
    let request = proto::WatchRequest {
        start_index: Some(start_index),
        filter,
        ..proto::WatchRequest::default()
    };
    clients.watch.watch(request).await.unwrap().into_inner()
}

async fn next_end(stream: &mut Streaming<proto::WatchResponse>) -> proto::ConsentEvent {
    loop {
        let message = tokio::time::timeout(PATIENCE, stream.message()).await;
        if let Some(Message::Consent(event)) = message.unwrap().unwrap().unwrap().message {
            return event;
        }
    }
}

/// The entries that end grants: their index, and whose each end is, in their order.
fn recorded_ends(dir: &std::path::Path) -> Vec<(u64, Vec<[u8; 16]>)> {
    let opened = opened::Ledger::open(dir);
    let ends = opened.entries().filter_map(|entry| match &entry.body {
        Body::Expired(expired) => {
            Some((entry.index, expired.ends.iter().map(|end| end.subject_ref.0).collect()))
        }
        _ => None,
    });
    ends.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_grant_that_applied_to_linked_subjects_too_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    clients.link("user:1", "device:1", proto::LinkConfidence::Verified).await;
    let given = clients.record(until(now_ms() + 1_000, "user:1", "email")).await;
    assert_eq!(given.results[0].linked_subjects, 1);
    let end = next_end(&mut ends_from(&mut clients, given.index).await).await;
    assert_eq!((&*end.subject, end.changes.len()), ("user:1", 1));
    support::verify_decisions(dir.path(), &server.address, &["--json"]).expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_one_time_stand_in_one_entry_once_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
    let ends_at = now_ms() + 4_000;
    for number in 0..20 {
        clients.record(until(ends_at, &format!("user:{number}"), "email")).await;
    }
    // Two acts of one person end: an entry has one slot of a person.
    clients.record(until(ends_at, "user:7", "sms")).await;
    server.kill();
    support::wait_until_time(ends_at);
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    assert_eq!(reason(&mut clients, "user:3").await, Reason::Expired, "without an entry");

    let mut stream = ends_from(&mut clients, 0).await;
    let first = next_end(&mut stream).await;
    let mut told = vec![first.clone()];
    while told.len() < 21 {
        told.push(next_end(&mut stream).await);
    }
    let (together, alone) = told.split_at(20);
    let places: Vec<u32> = together.iter().map(|event| event.place).collect();
    assert_eq!(places, (0..20).collect::<Vec<u32>>());
    assert!(together.iter().all(|event| event.index == first.index));
    assert!(together[..19].iter().all(|event| event.more_in_entry) && !together[19].more_in_entry);
    let names: BTreeSet<&str> = together.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(names.len(), 20);
    assert_eq!((&*alone[0].subject, alone[0].place, alone[0].more_in_entry), ("user:7", 0, false));

    // Without keys it is a list of tags that ascend, each with a record of one size and no evidence.
    let (_, entry) = clients.entries(first.index).await.remove(0);
    let Some(proto::ledger::entry::Body::Persons(persons)) = entry.body else {
        panic!("{entry:?}")
    };
    assert!(persons.slots.is_sorted_by(|one, next| one.tag < next.tag));
    assert!(persons.slots.iter().all(|slot| slot.record.len() == 208 && slot.evidence.is_empty()));
    assert_eq!(persons.slots.len(), 20);

    // A stream that breaks off in the middle of the entry goes on with all of its events.
    let watch = ["watch", "--json", "--kind", "expire", "--count", "5"];
    let from = first.index.to_string();
    let cut = server.cli(&[&watch[..], &["--from", &from]].concat()).expect_code(0);
    assert!(cut.stderr.contains(&format!("\"resumeFrom\":{from}")), "{}", cut.stderr);
    let mut again = ends_from(&mut clients, first.index).await;
    assert_eq!(next_end(&mut again).await, first);

    // Each person's history has its own end alone.
    for number in 0..20 {
        let history = clients.history(&format!("user:{number}")).await;
        let ends = history.iter().filter(|line| line.kind() == HistoryKind::Expiry);
        assert_eq!(ends.count(), if number == 7 { 2 } else { 1 });
        let end = history.iter().find(|line| line.kind() == HistoryKind::Expiry).unwrap();
        assert_eq!((end.changes.len(), end.cause_index), (1, Some(history[0].index)));
    }
    let verified = support::verify_decisions(dir.path(), &server.address, &["--json"]);
    verified.expect_code(0);

    // Nothing is recorded twice, neither after a crash nor by a view that is made anew.
    server.kill();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let later = clients.record(until(now_ms() + 300, "user:late", "email")).await.index;
    next_end(&mut ends_from(&mut clients, later).await).await;
    server.terminate();
    let ends = recorded_ends(dir.path());
    let counts: Vec<usize> = ends.iter().map(|(_, of)| of.len()).collect();
    assert_eq!(counts, [20, 1, 1], "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_recorded_once_however_often_the_server_is_killed() {
    const PERSONS: usize = 260;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let ends_at = now_ms() + 8_000;
    for number in 0..PERSONS {
        clients.record(until(ends_at, &format!("user:{number}"), "email")).await;
    }
    drop(clients);
    server.kill();
    support::wait_until_time(ends_at);
    // The search comes a second after the start, and needs some time itself.
    for after_ms in [990, 1_010, 1_030, 1_060] {
        let server = Server::start(dir.path());
        support::wait_until_time(now_ms() + after_ms);
        server.kill();
    }
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let mut stream = ends_from(&mut clients, 0).await;
    let mut told = BTreeSet::new();
    for _ in 0..PERSONS {
        let end = next_end(&mut stream).await;
        assert!(told.insert(end.subject.clone()), "{} twice", end.subject);
    }
    drop(clients);
    server.terminate();
    let ends = recorded_ends(dir.path());
    let all: Vec<[u8; 16]> = ends.iter().flat_map(|(_, of)| of.clone()).collect();
    assert_eq!(all.len(), PERSONS, "nothing twice");
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), PERSONS);
    assert!(ends[0].1.len() > 200, "the first entry is full: {}", ends[0].1.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_ends_of_an_hour_stand_in_one_entry_that_says_nothing_of_their_acts() {
    let (dir, clock_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = TestClock::new(clock_dir.path());
    let server = clock.serve(dir.path(), &[]);
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    // Their ends lie in one hour, seconds apart.
    let full_hour = hour(now_ms() + 30 * DAY_MS);
    for number in 0..12 {
        let ends_at = full_hour + 1 + number * 299_000;
        let answer = clients.record(until(ends_at, &format!("user:{number}"), "email")).await;
        assert_eq!(millis(answer.results[0].expires_at.as_ref()), Some(full_hour));
    }
    let next_hour = clients.record(until(full_hour + HOUR_MS, "user:next", "email")).await;
    let head = next_hour.revision;
    clock.set_ahead((full_hour - now_ms()) / 1_000 + 2);
    clock.set_synchronised(true);
    let mut stream = ends_from(&mut clients, head).await;
    let mut told = Vec::new();
    while told.len() < 12 {
        told.push(next_end(&mut stream).await);
    }
    assert!(told.iter().all(|event| event.index == told[0].index), "{told:?}");
    assert!(told.iter().all(|event| millis(event.effective_at.as_ref()) == Some(full_hour)));
    let head = clients.checkpoint().await.size;
    clock.set_ahead((full_hour - now_ms()) / 1_000 + 3_602);
    eventually("the end of the next hour", async || {
        (clients.checkpoint().await.size > head).then_some(())
    })
    .await;
    assert_eq!(next_end(&mut stream).await.subject, "user:next");
    drop(clients);
    server.terminate();
    let counts: Vec<usize> = recorded_ends(dir.path()).iter().map(|(_, of)| of.len()).collect();
    assert_eq!(counts, [12, 1]);
}
