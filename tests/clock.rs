//! A clock that jumps: the built binary, with a clock that the test sets. No grant gets a wrong time, no
//! stop is lost, and nothing of the jump stays once the clock is right again.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use consent_ledger::{
    domain::Body,
    proto::{
        self,
        Action::{Grant, Withdraw},
        Effect, Outcome, Reason, RecordConsentRequest,
        import_consents_request::Message,
    },
};
use futures_util::stream;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::support::{
    Clients, PATIENCE, Server, act, change, check_request, clock::TestClock, consent_purpose,
    http_get, now_ms, opened, timestamp, typed, wait_until,
};

const NEWS: &str = "marketing.newsletter";
const HOUR_MS: i64 = 3_600_000;
const DAY_S: i64 = 24 * 3_600;
const YEAR_S: i64 = 365 * DAY_S;

struct Ledger {
    clock: TestClock,
    dir: tempfile::TempDir,
}

impl Ledger {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { clock: TestClock::new(dir.path()), dir }
    }

    fn serve(&self, flags: &[&str]) -> Server {
        self.clock.serve(&self.dir.path().join("data"), flags)
    }

    async fn start(&self) -> (Server, Clients) {
        let server = self.serve(&[]);
        let mut clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
        let double = proto::Purpose { double_opt_in: true, ..consent_purpose("double") };
        clients.put_purpose(double).await;
        (server, clients)
    }
}

fn grant(person: &str) -> RecordConsentRequest {
    act(person, vec![change(Grant, NEWS, "email")])
}

fn withdraw(person: &str) -> RecordConsentRequest {
    act(person, vec![change(Withdraw, NEWS, "email")])
}

async fn reason(clients: &mut Clients, person: &str) -> Reason {
    clients.ask(check_request(person, NEWS, "email")).await.reason()
}

async fn refused(clients: &mut Clients, request: RecordConsentRequest) -> Status {
    clients.consent.record_consent(request).await.unwrap_err()
}

#[track_caller]
fn is_not_trusted(status: &Status) {
    let error = typed(status);
    assert_eq!((error.code, error.reason.as_str()), (Code::Unavailable, "CLOCK_NOT_TRUSTED"));
    let delay = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay.as_secs() >= 1, "{delay:?}");
}

fn at_ms(at: Option<prost_types::Timestamp>) -> i64 {
    let at = at.unwrap();
    at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
}

/// Waits until the health of taking grants is reported like this.
async fn grants_are(clients: &Clients, status: ServingStatus) {
    let mut health = HealthClient::new(clients.channel.clone());
    let request = HealthCheckRequest { service: "grants".to_owned() };
    let mut changes = health.watch(request).await.unwrap().into_inner();
    let seen = async { while changes.message().await.unwrap().unwrap().status() != status {} };
    tokio::time::timeout(PATIENCE, seen).await.expect("the health is reported in time");
}

/// The latest time of an entry, in whole seconds.
async fn latest_time(clients: &mut Clients) -> i64 {
    let entries = clients.entries(0).await.into_iter();
    entries.map(|(_, entry)| entry.recorded_at_s * 1_000).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_jump_no_grant_is_taken_no_stop_is_lost_and_nothing_of_it_stays() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    let mut ends = grant("user:ends");
    ends.changes[0].expires_at = Some(timestamp(now_ms() + HOUR_MS));
    clients.record(ends).await;
    for person in ["user:1", "user:2", "user:3"] {
        clients.record(grant(person)).await;
    }
    let waiting = clients.record(act("user:1", vec![change(Grant, "double", "email")])).await;
    let token = waiting.confirmation.unwrap().token;

    ledger.clock.set_ahead(YEAR_S);
    let head = clients.checkpoint().await.size;
    is_not_trusted(&refused(&mut clients, grant("user:new")).await);
    let confirm = proto::ConfirmConsentRequest { token: token.clone(), ..Default::default() };
    is_not_trusted(&clients.consent.confirm_consent(confirm.clone()).await.unwrap_err());
    assert_eq!(clients.checkpoint().await.size, head, "nothing was recorded");

    // A stop is taken as of the last sane time: with a claim by the right clock, by the wrong one, and
    // without one.
    for (person, claim) in
        [("user:1", Some(now_ms())), ("user:2", Some(now_ms() + YEAR_S * 1_000)), ("user:3", None)]
    {
        let before = now_ms();
        let effective_at = claim.map(timestamp);
        let stop = RecordConsentRequest { effective_at, ..withdraw(person) };
        let answer = clients.record(stop).await;
        assert_eq!(answer.results[0].outcome(), Outcome::Applied, "{person}");
        let taken = at_ms(answer.effective_at);
        assert!((before - 2_000..=now_ms() + 2_000).contains(&taken), "{person}: {taken}");
        assert_eq!(reason(&mut clients, person).await, Reason::Withdrawn, "{person}");
    }
    // A grant beside a stop is refused alone.
    let changes = vec![change(Withdraw, NEWS, "*"), change(Grant, NEWS, "sms")];
    let answer = clients.record(act("user:2", changes)).await;
    assert_eq!(answer.results[1].outcome(), Outcome::NotRecorded);
    assert_eq!(answer.warnings[0].reason, "CLOCK_NOT_TRUSTED");

    // What would have ended is denied while nobody knows the time, and no end is written down.
    assert_eq!(reason(&mut clients, "user:ends").await, Reason::Expired);
    grants_are(&clients, ServingStatus::NotServing).await;

    ledger.clock.set_ahead(0);
    assert_eq!(reason(&mut clients, "user:ends").await, Reason::Granted);
    let answer = clients.record(grant("user:new")).await;
    assert!(at_ms(answer.recorded_at) <= now_ms());
    grants_are(&clients, ServingStatus::Serving).await;
    clients.consent.confirm_consent(confirm).await.unwrap();
    assert!(latest_time(&mut clients).await <= now_ms());
    let opened = opened::Ledger::open(&ledger.dir.path().join("data"));
    assert!(!opened.entries().any(|entry| matches!(entry.body, Body::Expired(_))));
    // Checkpoints go on, too.
    let proven = RecordConsentRequest { wait_for_checkpoint: true, ..withdraw("user:new") };
    assert!(!clients.record(proven).await.checkpoint.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_is_taken_for_the_time_once_the_system_says_that_it_is_synchronised() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    ledger.clock.set_ahead(YEAR_S);
    is_not_trusted(&refused(&mut clients, grant("user:1")).await);
    ledger.clock.set_synchronised(true);
    let trusted = wait_until("the clock is trusted", PATIENCE, || {
        let request = grant("user:1");
        let mut clients = clients.clone();
        let answer = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(clients.consent.record_consent(request))
        });
        answer.ok()
    });
    let recorded_at = at_ms(trusted.into_inner().recorded_at);
    assert!(recorded_at > now_ms() + (YEAR_S - DAY_S) * 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_step_ahead_is_no_jump_and_the_bound_is_a_setting() {
    let ledger = Ledger::new();
    let (server, mut clients) = ledger.start().await;
    ledger.clock.set_ahead(4 * 60);
    clients.record(grant("user:1")).await;
    drop(clients);
    server.terminate();
    let server = ledger.serve(&["--clock-jump-max", "1m"]);
    let mut clients = server.clients().await;
    ledger.clock.set_ahead(6 * 60);
    is_not_trusted(&refused(&mut clients, grant("user:2")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_more_than_a_day_after_the_last_entry_needs_a_word_for_the_clock() {
    let ledger = Ledger::new();
    let (server, mut clients) = ledger.start().await;
    clients.record(grant("user:1")).await;
    let last = latest_time(&mut clients).await;
    drop(clients);
    server.terminate();

    ledger.clock.set_ahead(DAY_S + 3_600);
    let server = ledger.serve(&[]);
    let mut clients = server.clients().await;
    is_not_trusted(&refused(&mut clients, grant("user:2")).await);
    assert!(server.log().contains("--trust-clock"), "{}", server.log());
    let answer = clients.record(withdraw("user:1")).await;
    let taken = at_ms(answer.effective_at);
    assert!((last..last + HOUR_MS).contains(&taken), "as of the last sane time: {taken}");
    assert_eq!(reason(&mut clients, "user:1").await, Reason::Withdrawn);
    drop(clients);
    server.terminate();

    let server = ledger.serve(&["--trust-clock"]);
    let mut clients = server.clients().await;
    clients.record(grant("user:2")).await;
    let recorded_at = latest_time(&mut clients).await;
    assert!(recorded_at > last + DAY_S * 1_000);
    // It vouches for the clock at the start alone.
    ledger.clock.set_ahead(YEAR_S);
    is_not_trusted(&refused(&mut clients, grant("user:3")).await);
    drop(clients);
    server.terminate();

    ledger.clock.set_synchronised(true);
    let server = ledger.serve(&[]);
    let mut clients = server.clients().await;
    clients.record(grant("user:3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_during_a_jump_brings_its_stops_and_no_grants() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    clients.record(grant("user:out")).await;
    let row = |line: u64, person: &str, action| proto::ImportRow {
        line,
        subject: person.into(),
        changes: vec![change(action, NEWS, "email")],
        effective_at: Some(timestamp(now_ms())),
        ..proto::ImportRow::default()
    };
    ledger.clock.set_ahead(YEAR_S);
    let rows = vec![row(1, "user:out", Withdraw), row(2, "user:in", Grant)];
    let messages = |rows| {
        let start = proto::ImportStart { source: "list".to_owned(), dry_run: false };
        let messages = [Message::Start(start), Message::Rows(proto::ImportRows { rows })];
        stream::iter(
            messages.map(|message| proto::ImportConsentsRequest { message: Some(message) }),
        )
    };
    let answer = clients.consent.import_consents(messages(rows.clone())).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.recorded, answer.rejected), (1, 1), "{answer:?}");
    let reject = &answer.rejects[0];
    assert_eq!((reject.line, reject.reason.as_str()), (2, "CLOCK_NOT_TRUSTED"));
    assert_eq!(reason(&mut clients, "user:out").await, Reason::Revoked);

    // Afterwards the same file brings the rest.
    ledger.clock.set_ahead(0);
    let answer = clients.consent.import_consents(messages(rows)).await.unwrap().into_inner();
    assert_eq!((answer.recorded, answer.replayed), (1, 1), "{answer:?}");
    assert_eq!(reason(&mut clients, "user:in").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_with_a_time_that_is_not_sane() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    clients.record(grant("user:1")).await;
    ledger.clock.set_ahead(YEAR_S);
    let wanted = proto::CheckRequest { want_token: true, ..check_request("user:1", NEWS, "email") };
    let answer = clients.ask(wanted).await;
    assert_eq!(answer.effect(), Effect::Allow);
    let claims = BASE64.decode(answer.token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    for claim in ["iat", "exp"] {
        let at = claims[claim].as_i64().unwrap() * 1_000;
        assert!((now_ms() - HOUR_MS..now_ms() + HOUR_MS).contains(&at), "{claims}");
    }
    // A checkpoint that is signed during the jump does not stop later ones.
    let proven = |person| RecordConsentRequest { wait_for_checkpoint: true, ..withdraw(person) };
    assert!(!clients.record(proven("user:1")).await.checkpoint.is_empty());
    ledger.clock.set_ahead(0);
    assert!(!clients.record(proven("user:2")).await.checkpoint.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_does_not_free_a_frequency_limit() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    let limit = proto::FrequencyLimit {
        uses_max: 1,
        period: Some(prost_types::Duration { seconds: 30 * DAY_S, nanos: 0 }),
    };
    let obligation = proto::Obligation {
        kind: Some(proto::obligation::Kind::FrequencyLimit(limit)),
        ..proto::Obligation::default()
    };
    let limited = proto::Purpose { obligations: vec![obligation], ..consent_purpose(NEWS) };
    clients.put_purpose(limited).await;
    clients.record(grant("user:1")).await;
    let used = proto::RecordUseRequest {
        subject: "user:1".into(),
        purpose: NEWS.into(),
        channel: "email".into(),
        ..proto::RecordUseRequest::default()
    };
    clients.consent.record_use(used).await.unwrap();
    for ahead in [0, YEAR_S] {
        ledger.clock.set_ahead(ahead);
        let answer = clients.ask(check_request("user:1", NEWS, "email")).await;
        assert_eq!(answer.effect(), Effect::NotNow, "{ahead}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_sees_a_clock_in_doubt() {
    let ledger = Ledger::new();
    let server = ledger.serve(&["--metrics-listen", "127.0.0.1:0"]);
    let metrics = server.printed("metrics on ").unwrap();
    assert!(http_get(&metrics, "/metrics").contains("consent_ledger_clock_in_doubt 0"));
    ledger.clock.set_ahead(YEAR_S);
    // Nobody asks anything: the server notices it by itself.
    let clients = server.clients().await;
    grants_are(&clients, ServingStatus::NotServing).await;
    assert!(http_get(&metrics, "/metrics").contains("consent_ledger_clock_in_doubt 1"));
    let ready = http_get(&metrics, "/readyz");
    assert!(ready.contains("200 OK") && ready.contains("no grants"), "{ready}");
    assert!(server.log().contains("the clock is ahead of the last sane time"), "{}", server.log());
}
