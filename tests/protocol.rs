//! The protocol as any client sees it: answers, typed errors, streams, and the standard gRPC
//! services. Everything goes over TCP to the built binary.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use consent_ledger::proto::{self, Action, Effect, EventKind, Outcome, Reason, watch_response};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::support::{self, Clients, Server, act, change, check_request, typed};

const SERVICES: &[&str] = &[
    "consent.v1.AuditService",
    "consent.v1.CatalogService",
    "consent.v1.CheckService",
    "consent.v1.ConsentService",
    "consent.v1.PrivacyService",
    "consent.v1.WatchService",
];

/// A server over a new directory with a small catalogue, and clients of it.
struct Ledger {
    server: Server,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Ledger {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), flags);
        let clients = server
            .clients_with_catalog(&["marketing.newsletter", "marketing.offers"], &["email", "sms"])
            .await;
        Self { server, clients, dir }
    }

    async fn record(
        &mut self,
        request: proto::RecordConsentRequest,
    ) -> proto::RecordConsentResponse {
        self.clients.record(request).await
    }

    /// One act of one change by the subject.
    async fn record_change(
        &mut self,
        subject: &str,
        action: Action,
        purpose: &str,
        channel: &str,
    ) -> proto::RecordConsentResponse {
        self.clients.record_change(subject, action, purpose, channel).await
    }

    async fn check(&mut self, subject: &str, purpose: &str, channel: &str) -> proto::CheckResponse {
        let request = check_request(subject, purpose, channel);
        self.clients.ask(request).await
    }

    /// The error of a refused act.
    async fn refused(&mut self, request: proto::RecordConsentRequest) -> support::TypedError {
        let answer = self.clients.consent.record_consent(request.clone()).await;
        typed(&answer.expect_err(&format!("{request:?}")))
    }

    async fn watch(&mut self, request: proto::WatchRequest) -> Streaming<proto::WatchResponse> {
        self.clients.watch.watch(request).await.unwrap().into_inner()
    }
}

fn newsletter(subject: &str) -> proto::RecordConsentRequest {
    act(subject, vec![change(Action::Grant, "marketing.newsletter", "email")])
}

/// The next event of a stream, past any progress messages.
async fn next_event(stream: &mut Streaming<proto::WatchResponse>) -> proto::ConsentEvent {
    loop {
        let message = tokio::time::timeout(support::PATIENCE, stream.message()).await;
        let message = message.expect("an event in time").expect("no error").expect("no end");
        if let Some(watch_response::Message::Consent(event)) = message.message {
            return event;
        }
    }
}

/// The next progress message of a stream without events, past any catalogue changes.
async fn next_progress(stream: &mut Streaming<proto::WatchResponse>) -> proto::Progress {
    loop {
        let message = tokio::time::timeout(support::PATIENCE, stream.message()).await;
        let message = message.expect("progress in time").expect("no error").expect("no end");
        match message.message {
            Some(watch_response::Message::Progress(progress)) => return progress,
            Some(watch_response::Message::Catalog(_)) => {}
            other => panic!("not progress: {other:?}"),
        }
    }
}

fn from(start_index: u64) -> proto::WatchRequest {
    proto::WatchRequest { start_index: Some(start_index), ..proto::WatchRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_sees_every_act_that_was_acknowledged_before_it() {
    let mut ledger = Ledger::new().await;
    let before = ledger.check("user:1", "marketing.newsletter", "email").await;
    assert_eq!((before.effect(), before.reason()), (Effect::Deny, Reason::NoRecord));

    let granted =
        ledger.record_change("user:1", Action::Grant, "marketing.newsletter", "email").await;
    assert_eq!(granted.revision, granted.index + 1);
    assert_eq!(granted.results[0].outcome(), Outcome::Applied);
    assert_eq!(granted.results[0].purpose_version, 1);
    let allowed = ledger.check("user:1", "marketing.newsletter", "email").await;
    assert_eq!((allowed.effect(), allowed.reason()), (Effect::Allow, Reason::Granted));
    assert_eq!(allowed.decided_by_index, Some(granted.index));
    assert_eq!(allowed.revision, granted.revision);
    let other = ledger.check("user:1", "marketing.newsletter", "sms").await;
    assert_eq!(other.reason(), Reason::NoRecord, "consent is never wider than its cell");

    let stopped = ledger.record_change("user:1", Action::Withdraw, "*", "*").await;
    let denied = ledger.check("user:1", "marketing.newsletter", "email").await;
    assert_eq!((denied.effect(), denied.reason()), (Effect::Deny, Reason::Withdrawn));
    assert_eq!(denied.decided_by_index, Some(stopped.index));

    let mut import = newsletter("user:1");
    import.actor = proto::Actor::Import.into();
    let blocked = ledger.record(import).await;
    assert_eq!(blocked.results[0].outcome(), Outcome::BlockedByStop);
    assert_eq!(blocked.results[0].cause_index, Some(stopped.index));
    let idle = ledger.record_change("user:2", Action::Withdraw, "marketing.offers", "sms").await;
    assert_eq!(idle.results[0].outcome(), Outcome::NoEffect, "nothing was known of user:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_and_history_show_the_recorded_consent() {
    let mut ledger = Ledger::new().await;
    let mut request = newsletter("user:1");
    request.evidence = Some(proto::Evidence {
        touchpoint: "onboarding".to_owned(),
        notice_hash: vec![7; 32],
        ip_address: "203.0.113.7".to_owned(),
        attributes: BTreeMap::from([("form".to_owned(), "b".to_owned())]),
        ..proto::Evidence::default()
    });
    let granted = ledger.record(request.clone()).await;
    let stopped = ledger.record_change("user:1", Action::Object, "*", "sms").await;
    ledger.record_change("user:2", Action::Grant, "marketing.offers", "sms").await;

    let ask = proto::GetPreferencesRequest {
        subject: "user:1".to_owned(),
        ..proto::GetPreferencesRequest::default()
    };
    let mut every = ask.clone();
    every.all_cells = true;
    let named = ledger.clients.consent.get_preferences(ask).await.unwrap().into_inner();
    let all = ledger.clients.consent.get_preferences(every).await.unwrap().into_inner();
    let row = |cell: &proto::CellPreference| {
        (format!("{}:{}", cell.purpose, cell.channel), cell.reason())
    };
    assert_eq!(
        all.cells.iter().map(row).collect::<Vec<_>>(),
        [
            ("marketing.newsletter:email".to_owned(), Reason::Granted),
            ("marketing.newsletter:sms".to_owned(), Reason::Objected),
            ("marketing.offers:email".to_owned(), Reason::NoRecord),
            ("marketing.offers:sms".to_owned(), Reason::Objected),
        ]
    );
    assert_eq!(row(&named.cells[0]), row(&all.cells[0]));
    assert_eq!(named.stops.len(), 1);
    assert_eq!((named.stops[0].action(), named.stops[0].index), (Action::Object, stopped.index));
    assert_eq!(named.stops[0].scope, Some(support::scope("*", "sms")));

    let history = ledger.clients.history("user:1").await;
    assert_eq!(
        history.iter().map(|act| act.index).collect::<Vec<_>>(),
        [granted.index, stopped.index]
    );
    assert_eq!(history[0].evidence, request.evidence, "evidence comes back as it was given");
    assert_eq!(history[0].changes, granted.results);
    let entries = ledger.clients.audit.list_entries(proto::ListEntriesRequest {
        start_index: granted.index,
        end_index: Some(granted.index + 1),
    });
    let entry = entries.await.unwrap().into_inner().message().await.unwrap().unwrap().entry;
    let hash = blake3::derive_key("consent-ledger v2 chain", &entry);
    assert_eq!(history[0].entry_hash, hash, "the hash can be recomputed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entries_are_a_chain_up_to_the_checkpoint() {
    let mut ledger = Ledger::new().await;
    for n in 0..20 {
        ledger.record(newsletter(&format!("user:{n}"))).await;
    }
    let checkpoint = ledger.clients.checkpoint().await;
    let request = proto::ListEntriesRequest { start_index: 0, end_index: None };
    let mut stream = ledger.clients.audit.list_entries(request).await.unwrap().into_inner();
    let (mut index, mut hash) = (0, [0; 32]);
    while let Some(answer) = stream.message().await.unwrap() {
        let entry = proto::ledger::Entry::decode(answer.entry.as_slice()).unwrap();
        assert_eq!((answer.index, entry.index), (index, index));
        assert_eq!(entry.prev_hash, hash, "entry {index} follows the one before");
        let is_opening = matches!(entry.body, Some(proto::ledger::entry::Body::LedgerOpened(_)));
        assert_eq!(is_opening, index == 0);
        hash = blake3::derive_key("consent-ledger v2 chain", &answer.entry);
        index += 1;
    }
    assert_eq!((checkpoint.size, checkpoint.chain_hash), (index, hash.to_vec()));
    assert_eq!(checkpoint.ledger_id.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_returns_the_stored_result_forever() {
    let mut ledger = Ledger::new().await;
    let mut request = newsletter("user:1");
    request.idempotency_key = "form-1".to_owned();
    let first = ledger.record(request.clone()).await;
    assert!(!first.replayed);
    ledger.record_change("user:1", Action::Withdraw, "marketing.newsletter", "email").await;
    let mut other = request.clone();
    other.changes[0].action = Action::Withdraw.into();
    let mut other_evidence = request.clone();
    other_evidence.evidence =
        Some(proto::Evidence { touchpoint: "shop".to_owned(), ..proto::Evidence::default() });

    let stored = proto::RecordConsentResponse { replayed: true, ..first };
    for restarted in [false, true] {
        if restarted {
            ledger.server.terminate();
            ledger.server = Server::start(ledger.dir.path());
            ledger.clients = ledger.server.clients().await;
        }
        assert_eq!(ledger.record(request.clone()).await, stored, "restarted: {restarted}");
        for other in [other.clone(), other_evidence.clone()] {
            let error = ledger.refused(other).await;
            assert_eq!(error.code, Code::AlreadyExists);
            assert_eq!(error.reason, "IDEMPOTENCY_KEY_REUSED");
        }
        let check = ledger.check("user:1", "marketing.newsletter", "email").await;
        assert_eq!(check.reason(), Reason::Withdrawn, "a repetition changes nothing");
    }

    // For another person, it is another key.
    let elsewhere = proto::RecordConsentRequest { subject: "user:2".to_owned(), ..request.clone() };
    assert!(!ledger.record(elsewhere.clone()).await.replayed);
    assert!(ledger.record(elsewhere).await.replayed);

    // Of concurrent requests, one is recorded; the others get its result.
    request.idempotency_key = "form-2".to_owned();
    let answers: Vec<_> = stream::iter(0..50)
        .map(|_| {
            let (mut consent, request) = (ledger.clients.consent.clone(), request.clone());
            async move { consent.record_consent(request).await.unwrap().into_inner() }
        })
        .buffer_unordered(50)
        .collect()
        .await;
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.index == answers[0].index));
    assert_eq!(ledger.clients.history("user:1").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_in_order_with_errors_by_item() {
    let mut ledger = Ledger::new().await;
    ledger.record(newsletter("user:1")).await;
    let mut checks = Vec::new();
    for n in 0..500 {
        checks.push(match n % 5 {
            0 => check_request("user:1", "marketing.newsletter", "email"),
            1 => check_request("user:1", "marketing.newsletter", "sms"),
            2 => check_request("nobody", "marketing.newsletter", "email"),
            3 => check_request("user:1", "no.such.purpose", "email"),
            _ => check_request("user:1", "marketing.newsletter", "no-such-channel"),
        });
    }
    let request = proto::BatchCheckRequest { checks, at_least_revision: None };
    let results = ledger.clients.check.batch_check(request).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 500);
    for (n, result) in results.into_iter().enumerate() {
        use proto::batch_check_result::Result as Item;
        let want = [Some(Reason::Granted), Some(Reason::NoRecord), None]
            .into_iter()
            .chain([Some(Reason::UnknownPurpose), Some(Reason::UnknownChannel)])
            .nth(n % 5)
            .unwrap();
        match (want, result.result.expect("a decision or an error")) {
            (Some(reason), Item::Decision(decision)) => assert_eq!(decision.reason(), reason),
            (None, Item::Error(error)) => {
                assert_eq!(error.reason, "INVALID_FIELD");
                assert_eq!(error.field, format!("checks[{n}].subject"));
                assert!(!error.message.is_empty());
            }
            (want, got) => panic!("item {n}: wanted {want:?}, got {got:?}"),
        }
    }

    let check = check_request("user:1", "marketing.newsletter", "email");
    let request = |count| proto::BatchCheckRequest {
        checks: vec![check.clone(); count],
        at_least_revision: None,
    };
    let most = ledger.clients.check.batch_check(request(10_000)).await.unwrap().into_inner();
    assert_eq!(most.results.len(), 10_000);
    let error = typed(&ledger.clients.check.batch_check(request(10_001)).await.unwrap_err());
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(
        (error.reason.as_str(), error.fields),
        ("LIMIT_EXCEEDED", vec!["checks".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreached_revision_is_an_error() {
    let mut ledger = Ledger::with(&["--revision-wait", "300ms"]).await;
    let recorded = ledger.record(newsletter("user:1")).await;
    let mut request = check_request("user:1", "marketing.newsletter", "email");
    request.at_least_revision = Some(recorded.revision);
    let answer = ledger.clients.ask(request.clone()).await;
    assert_eq!(answer.reason(), Reason::Granted);

    let beyond = Some(recorded.revision + 1);
    let expect = |status: Status| {
        let error = typed(&status);
        assert_eq!(error.code, Code::Unavailable, "{status:?}");
        assert_eq!(error.reason, "REVISION_NOT_REACHED");
    };
    request.at_least_revision = beyond;
    expect(ledger.clients.check.check(request.clone()).await.unwrap_err());
    let batch =
        proto::BatchCheckRequest { checks: vec![request.clone()], at_least_revision: beyond };
    expect(ledger.clients.check.batch_check(batch).await.unwrap_err());
    let preferences = proto::GetPreferencesRequest {
        subject: "user:1".to_owned(),
        at_least_revision: beyond,
        ..Default::default()
    };
    expect(ledger.clients.consent.get_preferences(preferences).await.unwrap_err());

    // A waiting request is answered as soon as the revision is reached.
    let mut other = ledger.clients.clone();
    let (answer, _) = tokio::join!(
        other.check.check(request),
        ledger.record_change("user:1", Action::Withdraw, "marketing.newsletter", "email")
    );
    assert_eq!(answer.unwrap().into_inner().reason(), Reason::Withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_act_is_refused_with_code_reason_and_field() {
    let mut ledger = Ledger::new().await;
    let retired = proto::Purpose { retired: true, ..support::consent_purpose("marketing.old") };
    ledger.clients.put_purpose(retired).await;
    ledger.clients.put_channel("fax", true).await;

    let base = newsletter("user:1");
    let with = |alter: &dyn Fn(&mut proto::RecordConsentRequest)| {
        let mut request = base.clone();
        alter(&mut request);
        request
    };
    let changes = |changes: Vec<proto::Change>| with(&|request| request.changes = changes.clone());
    let in_ten_minutes = support::timestamp(support::now_ms() + 600_000);
    let long = "x".repeat(2_000);
    let evidence =
        |evidence: proto::Evidence| with(&|request| request.evidence = Some(evidence.clone()));
    let none = proto::Evidence::default;
    let grant = |purpose: &str, channel: &str| change(Action::Grant, purpose, channel);

    // One row for each fault: code, reason, field.
    let cases = [
        (with(&|r| r.subject = String::new()), Code::InvalidArgument, "INVALID_FIELD", "subject"),
        (
            with(&|r| r.subject = "nobody-in-particular".into()),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "subject",
        ),
        (with(&|r| r.subject = "a b:1".into()), Code::InvalidArgument, "INVALID_FIELD", "subject"),
        (
            with(&|r| r.subject = "user:\n".into()),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "subject",
        ),
        (
            with(&|r| r.subject = format!("user:{}", "x".repeat(257))),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "subject",
        ),
        (with(&|r| r.actor = 0), Code::InvalidArgument, "INVALID_FIELD", "actor"),
        (with(&|r| r.actor = 99), Code::InvalidArgument, "INVALID_FIELD", "actor"),
        (changes(vec![]), Code::InvalidArgument, "INVALID_FIELD", "changes"),
        (
            changes(vec![grant("marketing.newsletter", "email"); 2]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[1].scope",
        ),
        (
            changes((0..101).map(|n| grant(&format!("p{n}"), "email")).collect()),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "changes",
        ),
        (
            changes(vec![change(Action::Unspecified, "marketing.newsletter", "email")]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].action",
        ),
        (
            changes(vec![proto::Change { scope: None, ..grant("", "") }]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].scope",
        ),
        (
            changes(vec![grant("*", "email")]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].scope.purpose",
        ),
        (
            changes(vec![grant("marketing.newsletter", "*")]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].scope.channel",
        ),
        (
            changes(vec![grant("Marketing", "email")]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].scope.purpose",
        ),
        (
            changes(vec![proto::Change {
                purpose_version: 2,
                ..grant("marketing.newsletter", "email")
            }]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].purpose_version",
        ),
        (
            changes(vec![proto::Change {
                expires_at: Some(support::timestamp(1_000)),
                ..grant("marketing.newsletter", "email")
            }]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "changes[0].expires_at",
        ),
        (
            with(&|r| r.idempotency_key = "k".repeat(257)),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "idempotency_key",
        ),
        (
            evidence(proto::Evidence { touchpoint: long.clone(), ..none() }),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "evidence.touchpoint",
        ),
        (
            evidence(proto::Evidence { user_agent: long.clone(), ..none() }),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "evidence.user_agent",
        ),
        (
            evidence(proto::Evidence { notice_hash: vec![0; 65], ..none() }),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "evidence.notice_hash",
        ),
        (
            evidence(proto::Evidence {
                attributes: (0..33).map(|n| (n.to_string(), String::new())).collect(),
                ..none()
            }),
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "evidence.attributes",
        ),
        (
            with(&|r| r.effective_at = Some(in_ten_minutes)),
            Code::InvalidArgument,
            "EFFECTIVE_AT_IN_FUTURE",
            "effective_at",
        ),
        (
            changes(vec![grant("no.such", "email")]),
            Code::NotFound,
            "UNKNOWN_PURPOSE",
            "changes[0].scope.purpose",
        ),
        (
            changes(vec![grant("marketing.newsletter", "no-such")]),
            Code::NotFound,
            "UNKNOWN_CHANNEL",
            "changes[0].scope.channel",
        ),
        (
            changes(vec![grant("marketing.old", "email")]),
            Code::FailedPrecondition,
            "PURPOSE_RETIRED",
            "changes[0].scope.purpose",
        ),
        (
            changes(vec![grant("marketing.newsletter", "fax")]),
            Code::FailedPrecondition,
            "CHANNEL_RETIRED",
            "changes[0].scope.channel",
        ),
    ];
    let before = ledger.clients.checkpoint().await.size;
    for (request, code, reason, field) in cases {
        let error = ledger.refused(request.clone()).await;
        assert_eq!((error.code, error.reason.as_str()), (code, reason), "{request:?}");
        assert_eq!(error.fields, [field], "{request:?}");
    }
    assert_eq!(ledger.clients.checkpoint().await.size, before, "nothing was recorded");
    ledger.record_change("user:1", Action::Withdraw, "marketing.old", "fax").await;

    // An invalid value may be personal data: the caller sees it, the log does not.
    assert!(!ledger.server.log().contains("nobody-in-particular"), "{}", ledger.server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_larger_than_an_entry_is_refused() {
    let mut ledger = Ledger::new().await;
    let keys = |kind: &str| -> Vec<String> {
        (0..10).map(|n| format!("{kind}{n}{}", "x".repeat(127 - kind.len()))).collect()
    };
    let (purposes, channels) = (keys("pp"), keys("cc"));
    let words = |keys: &[String]| keys.to_vec();
    let data_categories: Vec<String> =
        (0..2).map(|n| format!("user.{n}{}", "x".repeat(90))).collect();
    for purpose in &words(&purposes) {
        let data_categories = data_categories.clone();
        let purpose = proto::Purpose { data_categories, ..support::consent_purpose(purpose) };
        ledger.clients.put_purpose(purpose).await;
    }
    for channel in &words(&channels) {
        ledger.clients.put_catalog(&[], &[channel]).await;
    }
    let cells = purposes.iter().flat_map(|p| channels.iter().map(move |c| (p, c)));
    let mut request = act("user:1", cells.map(|(p, c)| change(Action::Grant, p, c)).collect());
    let attribute = |n: usize| (format!("{n:064}"), "v".repeat(1_024));
    request.evidence = Some(proto::Evidence {
        user_agent: "u".repeat(1_024),
        attributes: (0..32).map(attribute).collect(),
        touchpoint: "t".repeat(256),
        notice_id: "n".repeat(256),
        notice_version: "v".repeat(256),
        language: "l".repeat(256),
        method: "m".repeat(256),
        ip_address: "i".repeat(256),
        notice_hash: vec![0x5a; 64],
        authority: None,
        unreadable: BTreeMap::new(),
        subject_given: String::new(),
        effective_at_given: None,
    });
    for change in &mut request.changes {
        change.expires_at = Some(prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 });
        change.data_categories = data_categories.clone();
    }
    let status =
        ledger.clients.consent.record_consent(request.clone()).await.map(drop).unwrap_err();
    let error = typed(&status);
    assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, "ENTRY_TOO_LARGE"));
    request.evidence = None;
    assert_eq!(ledger.record(request).await.results.len(), 100, "every limit alone is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_services_name_the_faulty_field_too() {
    let mut ledger = Ledger::new().await;
    let head = ledger.record(newsletter("user:1")).await.revision;

    let check = ledger.clients.check.check(check_request("jo", "a", "b")).await.unwrap_err();
    assert_eq!(typed(&check).fields, ["subject"]);

    let request = proto::GetPurposeRequest { key: "no.such".to_owned(), ..Default::default() };
    let error = typed(&ledger.clients.catalog.get_purpose(request).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (Code::NotFound, "UNKNOWN_PURPOSE"));
    for title in ["", " \u{200b}"] {
        let purpose = proto::Purpose { title: title.to_owned(), ..support::consent_purpose("a.b") };
        let request = proto::PutPurposeRequest { purpose: Some(purpose), ..Default::default() };
        let error = typed(&ledger.clients.catalog.put_purpose(request).await.unwrap_err());
        assert_eq!(
            (error.reason.as_str(), error.fields),
            ("INVALID_FIELD", vec!["purpose.title".to_owned()])
        );
    }
    let request = proto::PutChannelRequest { channel: None, ..Default::default() };
    let error = typed(&ledger.clients.catalog.put_channel(request).await.unwrap_err());
    assert_eq!(error.fields, ["channel"]);
    let request = proto::ListPurposesRequest { page_token: "?".to_owned(), ..Default::default() };
    let error = typed(&ledger.clients.catalog.list_purposes(request).await.unwrap_err());
    assert_eq!(error.fields, ["page_token"]);

    let beyond = proto::ListEntriesRequest { start_index: head + 1, end_index: None };
    let error = typed(&ledger.clients.audit.list_entries(beyond).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (Code::OutOfRange, "INDEX_OUT_OF_RANGE"));
    let error = typed(&ledger.clients.watch.watch(from(head + 1)).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (Code::OutOfRange, "INDEX_OUT_OF_RANGE"));

    let hasty = proto::WatchRequest {
        progress_interval: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        ..proto::WatchRequest::default()
    };
    let error = typed(&ledger.clients.watch.watch(hasty).await.unwrap_err());
    assert_eq!(
        (error.code, error.fields),
        (Code::InvalidArgument, vec!["progress_interval".to_owned()])
    );
    let filter = proto::WatchFilter { kinds: vec![0], ..proto::WatchFilter::default() };
    let request = proto::WatchRequest { filter: Some(filter), ..proto::WatchRequest::default() };
    let error = typed(&ledger.clients.watch.watch(request).await.unwrap_err());
    assert_eq!(error.fields, ["filter.kinds[0]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_catalogue_join_without_gap_or_repetition() {
    let mut ledger = Ledger::new().await;
    let keys: Vec<String> = (0..25).map(|n| format!("paged.p{n:02}")).collect();
    for key in &keys {
        ledger.clients.put_catalog(&[key], &[]).await;
    }
    let mut request = proto::ListPurposesRequest { page_size: 4, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page =
            ledger.clients.catalog.list_purposes(request.clone()).await.unwrap().into_inner();
        assert!(page.purposes.len() <= 4);
        listed.extend(page.purposes.into_iter().map(|purpose| purpose.key));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut want = vec!["marketing.newsletter".to_owned(), "marketing.offers".to_owned()];
    want.extend(keys);
    assert_eq!(listed, want, "ordered by key, each once");

    let answer = ledger.clients.put_purpose(support::consent_purpose("marketing.offers")).await;
    assert!(!answer.changed, "nothing differs, nothing is written");
    assert_eq!(answer.purpose.unwrap().version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_resumes_at_an_index_without_gap_or_repetition() {
    let mut ledger = Ledger::new().await;
    let mut stops = Vec::new();
    for n in 0..30 {
        ledger.record(newsletter(&format!("user:{n}"))).await;
        let subject = format!("user:{n}");
        stops.push(
            ledger
                .record_change(&subject, Action::Withdraw, "marketing.newsletter", "email")
                .await
                .index,
        );
    }
    let mut next = 0;
    let mut heard = Vec::new();
    for part in [1, 7, 22] {
        let mut stream = ledger.watch(from(next)).await;
        for _ in 0..part {
            let event = next_event(&mut stream).await;
            assert_eq!(event.subject, format!("user:{}", heard.len()));
            heard.push(event.index);
            next = event.index + 1;
        }
    }
    assert_eq!(heard, stops);

    // From the head: no past events.
    let mut stream = ledger.watch(proto::WatchRequest::default()).await;
    let stop = ledger.record_change("user:7", Action::Object, "*", "*").await;
    let event = next_event(&mut stream).await;
    assert_eq!((event.index, event.subject.as_str()), (stop.index, "user:7"));
    assert_eq!(event.changes.len(), 1);
    assert_eq!(event.changes[0].action(), Action::Object);
    assert_eq!(event.changes[0].scope, Some(support::scope("*", "*")));
    assert_eq!(event.recorded_at, stop.recorded_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_passes_exactly_the_covered_events() {
    let mut ledger = Ledger::new().await;
    let acts: [(&str, Action, &str, &str); 7] = [
        ("user:1", Action::Grant, "marketing.newsletter", "email"),
        ("user:1", Action::Withdraw, "marketing.newsletter", "email"),
        ("user:1", Action::Withdraw, "marketing.offers", "sms"),
        ("device:1", Action::Object, "*", "sms"),
        ("device:1", Action::Refuse, "marketing.offers", "*"),
        ("user:2", Action::Withdraw, "*", "*"),
        ("user:2", Action::Grant, "marketing.offers", "email"),
    ];
    let mut indices = Vec::new();
    for (subject, action, purpose, channel) in acts {
        indices.push(ledger.record_change(subject, action, purpose, channel).await.index);
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let kinds = |kinds: &[EventKind]| kinds.iter().map(|kind| (*kind).into()).collect();
    let none = proto::WatchFilter::default;
    let cases = [
        (none(), vec![1, 2, 3, 4, 5]),
        (
            proto::WatchFilter { purposes: words(&["marketing.newsletter"]), ..none() },
            vec![1, 3, 5],
        ),
        (proto::WatchFilter { channels: words(&["sms"]), ..none() }, vec![2, 3, 4, 5]),
        (
            proto::WatchFilter {
                purposes: words(&["marketing.newsletter"]),
                channels: words(&["email"]),
                ..none()
            },
            vec![1, 5],
        ),
        (proto::WatchFilter { namespaces: words(&["device"]), ..none() }, vec![3, 4]),
        (proto::WatchFilter { kinds: kinds(&[EventKind::Grant]), ..none() }, vec![0, 6]),
        (
            proto::WatchFilter { kinds: kinds(&[EventKind::Object, EventKind::Refuse]), ..none() },
            vec![3, 4],
        ),
    ];
    let end = indices[6] + 1;
    for (filter, want) in cases {
        let want: Vec<u64> = want.into_iter().map(|at: usize| indices[at]).collect();
        let mut stream = ledger
            .watch(proto::WatchRequest {
                start_index: Some(0),
                filter: Some(filter.clone()),
                progress_interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
                ..Default::default()
            })
            .await;
        let mut heard = Vec::new();
        // Progress up to the end follows every event that passes.
        loop {
            let message = tokio::time::timeout(support::PATIENCE, stream.message()).await;
            match message.unwrap().unwrap().unwrap().message.unwrap() {
                watch_response::Message::Consent(event) => heard.push(event.index),
                watch_response::Message::Progress(progress) if progress.next_index == end => break,
                _ => {}
            }
        }
        assert_eq!(heard, want, "{filter:?}");
    }

    // Of an act with several changes, the event has those that pass.
    let mixed = act(
        "user:3",
        vec![
            change(Action::Grant, "marketing.newsletter", "email"),
            change(Action::Refuse, "marketing.newsletter", "sms"),
            change(Action::Refuse, "marketing.offers", "sms"),
        ],
    );
    let mixed = ledger.record(mixed).await;
    let filter = proto::WatchFilter { purposes: words(&["marketing.newsletter"]), ..none() };
    let mut stream =
        ledger.watch(proto::WatchRequest { filter: Some(filter), ..from(mixed.index) }).await;
    let event = next_event(&mut stream).await;
    let scopes: Vec<_> = event.changes.iter().map(|change| change.scope.clone().unwrap()).collect();
    assert_eq!(scopes, [support::scope("marketing.newsletter", "sms")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_change_that_can_change_answers_is_one_event() {
    use proto::CatalogEffect::{ContentChanged, ReconsentRequired, Reinstated, Retired};
    let mut ledger = Ledger::new().await;
    let filter = proto::WatchFilter {
        purposes: vec!["marketing.offers".to_owned()],
        kinds: vec![EventKind::Catalog.into()],
        namespaces: vec!["user".to_owned()],
        ..proto::WatchFilter::default()
    };
    let request = proto::WatchRequest { filter: Some(filter), ..proto::WatchRequest::default() };
    let mut stream = ledger.watch(request.clone()).await;
    let purpose = |title: &str, retired| proto::Purpose {
        title: title.to_owned(),
        retired,
        ..support::consent_purpose("marketing.offers")
    };
    let unchanged_title = support::consent_purpose("marketing.offers").title;
    let mut put = async |purpose: proto::Purpose, requires_reconsent| {
        let purpose = Some(purpose);
        let request =
            proto::PutPurposeRequest { purpose, requires_reconsent, ..Default::default() };
        ledger.clients.catalog.put_purpose(request).await.unwrap().into_inner().revision - 1
    };
    // The filter does not cover this purpose.
    let first = put(support::consent_purpose("marketing.other"), false).await;
    let want = [
        (put(purpose(&unchanged_title, true), false).await, vec![Retired], 1, 1),
        (put(purpose(&unchanged_title, false), false).await, vec![Reinstated], 1, 1),
        (put(purpose("Anew", false), true).await, vec![ReconsentRequired, ContentChanged], 2, 2),
        (put(purpose("Reworded", false), false).await, vec![ContentChanged], 3, 2),
    ];
    let mut late = ledger.watch(proto::WatchRequest { start_index: Some(first), ..request }).await;
    for stream in [&mut stream, &mut late] {
        for (index, effects, version, oldest) in &want {
            let event = loop {
                let message = tokio::time::timeout(support::PATIENCE, stream.message()).await;
                match message.unwrap().unwrap().unwrap().message.unwrap() {
                    watch_response::Message::Catalog(event) => break event,
                    watch_response::Message::Progress(_) => {}
                    other => panic!("not of the catalogue: {other:?}"),
                }
            };
            assert_eq!((&event.effects().collect(), event.index), (effects, *index));
            assert_eq!((event.version, event.oldest_compatible_version), (*version, *oldest));
            assert_eq!((event.purpose.as_str(), event.channel.as_str()), ("marketing.offers", ""));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_never_ahead_of_delivery() {
    let mut ledger = Ledger::new().await;
    let interval = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let mut stream =
        ledger.watch(proto::WatchRequest { progress_interval: interval, ..from(0) }).await;
    let mut next = 0;
    for round in 0..5 {
        // The filter does not pass grants, but progress moves over them.
        let granted = ledger.record(newsletter(&format!("user:{round}"))).await;
        let progress = loop {
            let progress = next_progress(&mut stream).await;
            assert!(progress.next_index >= next, "progress goes forward");
            assert!(progress.next_index <= granted.revision, "and not beyond the head");
            assert!(progress.as_of.is_some());
            if progress.next_index == granted.revision {
                break progress;
            }
        };
        let subject = format!("user:{round}");
        let stop = ledger.record_change(&subject, Action::Refuse, "marketing.offers", "sms").await;
        let event = next_event(&mut stream).await;
        assert_eq!(event.index, stop.index);
        assert!(event.index >= progress.next_index, "progress was not ahead of it");
        next = event.index + 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_is_never_dropped_and_slows_no_other() {
    const ACTS: usize = 5_000;
    let mut ledger = Ledger::with(&["--recent-events-max", "100"]).await;
    let start = ledger.clients.checkpoint().await.size;
    // A connection of its own, with the smallest window of HTTP/2.
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", ledger.server.address))
            .unwrap()
            .initial_stream_window_size(65_535);
    let mut lazy =
        proto::watch_service_client::WatchServiceClient::new(endpoint.connect().await.unwrap());
    let mut slow = lazy.watch(from(start)).await.unwrap().into_inner();
    let mut quick = ledger.watch(from(start)).await;
    let reader = tokio::spawn(async move {
        let mut heard = Vec::with_capacity(ACTS);
        while heard.len() < ACTS {
            heard.push(next_event(&mut quick).await.index);
        }
        heard
    });

    let mut recorded: Vec<u64> = stream::iter(0..ACTS)
        .map(|n| {
            let mut consent = ledger.clients.consent.clone();
            let stop = change(Action::Withdraw, "marketing.newsletter", "email");
            let request = act(&format!("user:{}-{}", n % 97, "x".repeat(120)), vec![stop]);
            async move { consent.record_consent(request).await.unwrap().into_inner().index }
        })
        .buffer_unordered(128)
        .collect()
        .await;
    recorded.sort_unstable();
    assert_eq!(reader.await.unwrap(), recorded, "the quick one heard all while the slow one slept");

    let mut heard = Vec::with_capacity(ACTS);
    while heard.len() < ACTS {
        heard.push(next_event(&mut slow).await.index);
    }
    assert_eq!(heard, recorded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_ends_its_streams_with_a_reason() {
    let mut ledger = Ledger::new().await;
    let stop = ledger.record_change("user:1", Action::Withdraw, "*", "*").await;
    let mut stream = ledger.watch(from(0)).await;
    assert_eq!(next_event(&mut stream).await.index, stop.index);
    let server = ledger.server;
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    let status = loop {
        match tokio::time::timeout(support::PATIENCE, stream.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    let error = typed(&status);
    assert_eq!((error.code, error.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_refuse_with_a_reason_and_free_their_places() {
    let mut ledger = Ledger::with(&["--streams-max", "1", "--appends-max", "1"]).await;
    let first = ledger.watch(from(0)).await;
    let error = typed(&ledger.clients.watch.watch(from(0)).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_STREAMS"));
    drop(first);
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while let Err(status) = ledger.clients.watch.watch(from(0)).await {
        assert_eq!(typed(&status).reason, "TOO_MANY_STREAMS");
        assert!(tokio::time::Instant::now() < deadline, "the place of a stream is free again");
    }

    let answers: Vec<_> = stream::iter(0..300)
        .map(|n| {
            let mut consent = ledger.clients.consent.clone();
            async move { consent.record_consent(newsletter(&format!("user:{n}"))).await }
        })
        .buffer_unordered(100)
        .collect()
        .await;
    let (good, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(!good.is_empty() && !refused.is_empty(), "{} of 300 were taken", good.len());
    for status in refused.into_iter().filter_map(Result::err) {
        let error = typed(&status);
        assert_eq!(
            (error.code, error.reason.as_str()),
            (Code::ResourceExhausted, "TOO_MANY_APPENDS")
        );
    }
    ledger.record(newsletter("user:1000")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_reports_its_health() {
    let ledger = Ledger::new().await;
    let mut health = HealthClient::new(ledger.clients.channel.clone());
    for service in SERVICES.iter().chain(&[""]) {
        let request = HealthCheckRequest { service: (*service).to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "consent.v1.NoSuchService".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
}

/// Sends one empty message to a method, by its path alone. Returns the first message of the
/// response, `None` if the response ends without one, or the error. Fails the test on silence.
async fn answer_to_empty_request(
    clients: &Clients,
    path: &'static str,
) -> Result<Option<()>, Status> {
    let mut client = tonic::client::Grpc::new(clients.channel.clone());
    client.ready().await.unwrap();
    let request = Request::new(stream::iter([()]));
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = async {
        let path = http::uri::PathAndQuery::from_static(path);
        let mut messages = client.streaming(request, path, codec).await?.into_inner();
        messages.message().await
    };
    let answer = tokio::time::timeout(support::PATIENCE, answer).await;
    answer.unwrap_or_else(|_| panic!("{path} is silent"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_of_the_descriptors_is_implemented() {
    let ledger = Ledger::new().await;
    for method in proto::METHODS {
        // No method may stay silent: those that follow the ledger report their progress at once.
        match answer_to_empty_request(&ledger.clients, method.path).await {
            Ok(Some(())) => {}
            Ok(None) => assert!(method.server_streaming, "{} has no response", method.path),
            // A method that the server lacks answers with a status without our details.
            Err(status) => assert!(!typed(&status).reason.is_empty(), "{}", method.path),
        }
    }
    let unknown =
        answer_to_empty_request(&ledger.clients, "/consent.v1.CheckService/Unheard").await;
    let status = unknown.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.get_details_error_info().is_none(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_serves_both_versions() {
    let ledger = Ledger::new().await;
    macro_rules! assert_reflects {
        ($version:ident) => {{
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let mut client = ServerReflectionClient::new(ledger.clients.channel.clone());
            let ask = |message_request| ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message_request),
            };
            let requests = stream::iter([
                ask(MessageRequest::ListServices(String::new())),
                ask(MessageRequest::FileContainingSymbol("consent.v1.CheckService".to_owned())),
            ]);
            let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
            let list = answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::ListServicesResponse(list) = list else { panic!("{list:?}") };
            let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
            for service in SERVICES.iter().chain(&["grpc.health.v1.Health"]) {
                assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
            }
            let files = answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::FileDescriptorResponse(files) = files else { panic!("{files:?}") };
            let file =
                prost_types::FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice())
                    .unwrap();
            assert_eq!(file.name(), "consent/v1/check_service.proto");
        }};
    }
    assert_reflects!(v1);
    assert_reflects!(v1alpha);
}

/// A unary call as a browser makes it: gRPC-Web in an HTTP/1.1 request.
fn call_over_http1(address: &str, path: &str, message: &[u8]) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], length.as_slice(), message].concat();
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/grpc-web+proto\r\n\
         x-grpc-web: 1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    socket.write_all(&body).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let split = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(answer[..split].to_vec()).unwrap().to_lowercase();
    let body = answer.split_off(split);
    let chunked = head.contains("transfer-encoding: chunked");
    (head, if chunked { unchunk(&body) } else { body })
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
        let size =
            usize::from_str_radix(str::from_utf8(&body[..line]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_can_ask_over_grpc_web() {
    let mut ledger = Ledger::new().await;
    ledger.record(newsletter("user:1")).await;
    let request = check_request("user:1", "marketing.newsletter", "email").encode_to_vec();
    let path = "/consent.v1.CheckService/Check";
    let (head, body) = call_over_http1(&ledger.server.address, path, &request);
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/grpc-web+proto"), "{head}");
    assert_eq!(body[0], 0, "a message comes first");
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    let answer = proto::CheckResponse::decode(&body[5..5 + length]).unwrap();
    assert_eq!(answer.reason(), Reason::Granted);
    let trailer = &body[5 + length..];
    assert_eq!(trailer[0], 0x80, "and the trailers last");
    let trailer = str::from_utf8(&trailer[5..]).unwrap().replace(' ', "");
    assert!(trailer.to_lowercase().contains("grpc-status:0"), "{trailer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_the_message_limit_is_refused_and_the_next_is_served() {
    let mut ledger = Ledger::new().await;
    let mut request = newsletter("user:1");
    request.idempotency_key = "k".repeat(64 << 20);
    let mut consent = ledger.clients.consent.clone();
    let status = consent.record_consent(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument),
        "{status:?}"
    );
    assert_eq!(
        ledger.check("user:1", "marketing.newsletter", "email").await.reason(),
        Reason::NoRecord
    );
    tokio::time::timeout(Duration::from_secs(5), ledger.record(newsletter("user:1")))
        .await
        .unwrap();
}
