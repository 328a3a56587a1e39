//! A new service reads the snapshot and then the events: its state equals the answers of checks.

use std::collections::BTreeMap;

use consent_ledger::proto::{self, Action, EventKind, Outcome, watch_response::Message};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::Streaming;

use crate::support::{self, Clients, Server, act, change, typed};

const PURPOSES: [&str; 3] = ["marketing.newsletter", "marketing.offers", "analytics.usage"];
const CHANNELS: [&str; 3] = ["email", "sms", "push"];

/// The state that a service keeps: for subject, purpose and channel, whether it is allowed.
#[derive(Default)]
struct ServiceState(BTreeMap<(String, String, String), bool>);

impl ServiceState {
    fn hear(&mut self, message: Message) {
        match message {
            Message::Snapshot(subject_state) => {
                for cell in subject_state.cells {
                    let key =
                        (subject_state.subject.clone(), cell.purpose.clone(), cell.channel.clone());
                    let may = cell.effect() == proto::Effect::Allow;
                    assert!(self.0.insert(key, may).is_none(), "each cell comes once");
                }
            }
            Message::Consent(event) => {
                for change in &event.changes {
                    if change.outcome() == Outcome::Applied {
                        self.change(&event.subject, change);
                    }
                }
            }
            Message::SnapshotEnd(_) | Message::Progress(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }

    fn change(&mut self, subject: &str, change: &proto::EventChange) {
        let scope = change.scope.clone().unwrap_or_default();
        let wide = |key: &str| key.is_empty() || key == "*";
        for purpose in
            PURPOSES.into_iter().filter(|purpose| wide(&scope.purpose) || scope.purpose == *purpose)
        {
            for channel in CHANNELS
                .into_iter()
                .filter(|channel| wide(&scope.channel) || scope.channel == *channel)
            {
                let key = (subject.to_owned(), purpose.to_owned(), channel.to_owned());
                let is_grant = change.action() == Action::Grant;
                // A stop of a cell without a grant changes no answer.
                if is_grant || self.0.contains_key(&key) {
                    self.0.insert(key, is_grant);
                }
            }
        }
    }
}

async fn write_some(clients: &mut Clients, rng: &mut StdRng, count: usize) {
    for _ in 0..count {
        let subject = format!("user:{}", rng.random_range(0..300));
        let purpose = PURPOSES[rng.random_range(0..3)];
        let channel = CHANNELS[rng.random_range(0..3)];
        let random_change = match rng.random_range(0..8) {
            0..5 => change(Action::Grant, purpose, channel),
            5 => change(Action::Withdraw, purpose, channel),
            6 => change(Action::Object, purpose, "*"),
            _ => change(Action::Withdraw, "*", "*"),
        };
        clients.record(act(&subject, vec![random_change])).await;
    }
}

fn request(token: &[u8]) -> proto::WatchRequest {
    proto::WatchRequest {
        snapshot: proto::Snapshot::All.into(),
        snapshot_token: token.to_vec(),
        filter: Some(proto::WatchFilter {
            kinds: [EventKind::Grant, EventKind::Withdraw, EventKind::Object]
                .map(Into::into)
                .to_vec(),
            ..proto::WatchFilter::default()
        }),
        ..proto::WatchRequest::default()
    }
}

async fn next(stream: &mut Streaming<proto::WatchResponse>) -> Message {
    let message = tokio::time::timeout(support::PATIENCE, stream.message()).await;
    message.unwrap().unwrap().unwrap().message.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_and_events_give_the_state_that_checks_answer() {
    let mut rng = StdRng::seed_from_u64(support::seed("snapshots"));
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&PURPOSES, &CHANNELS).await;
    write_some(&mut clients, &mut rng, 600).await;

    let mut believed = ServiceState::default();
    let mut stream = clients.watch.clone().watch(request(&[])).await.unwrap().into_inner();
    let mut token = Vec::new();
    for _ in 0..100 {
        let message = next(&mut stream).await;
        let Message::Snapshot(subject_state) = &message else { panic!("{message:?}") };
        token.clone_from(&subject_state.token);
        believed.hear(message);
    }
    // In the middle, many entries follow and the connection breaks.
    write_some(&mut clients, &mut rng, 200).await;
    drop(stream);
    let mut stream = clients.watch.clone().watch(request(&token)).await.unwrap().into_inner();
    let mut is_following = false;
    loop {
        let message = next(&mut stream).await;
        match &message {
            Message::Snapshot(_) => assert!(!is_following, "the snapshot comes first"),
            Message::SnapshotEnd(end) => {
                is_following = true;
                assert!(end.subjects > 0);
                write_some(&mut clients, &mut rng, 200).await;
            }
            Message::Progress(progress) => {
                if progress.next_index == clients.checkpoint().await.size {
                    break;
                }
            }
            _ => assert!(is_following),
        }
        believed.hear(message);
    }

    let cells: Vec<_> = believed.0.keys().cloned().collect();
    assert!(cells.len() > 500);
    let decisions = clients.check_cells(&cells).await;
    for ((cell, may), decision) in believed.0.iter().zip(decisions) {
        assert_eq!(*may, decision.effect() == proto::Effect::Allow, "{cell:?} {decision:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_snapshot_requests_are_refused_with_their_field() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let beside = proto::WatchRequest { start_index: Some(0), ..request(&[]) };
    let alone = proto::WatchRequest { snapshot: 0, ..request(&[1; 24]) };
    let unknown = proto::WatchRequest { snapshot: 9, ..request(&[]) };
    let cases = [
        (request(&[1, 2]), "INVALID_FIELD", vec!["snapshot_token"]),
        (request(&[0xff; 24]), "INDEX_OUT_OF_RANGE", vec![]),
        (beside, "INVALID_FIELD", vec!["start_index"]),
        (alone, "INVALID_FIELD", vec!["snapshot"]),
        (unknown, "INVALID_FIELD", vec!["snapshot"]),
    ];
    for (request, reason, fields) in cases {
        let refused = clients.watch.watch(request.clone()).await.unwrap_err();
        let refused = typed(&refused);
        assert_eq!(
            (refused.reason.as_str(), refused.fields),
            (reason, fields.iter().map(|f| (*f).to_owned()).collect()),
            "{request:?}"
        );
    }
}
