//! `record_only_news`: an act that says what stands already is answered, and not recorded.

use consent_ledger::proto::{
    self,
    Action::{Grant, Object, Withdraw},
    Actor, LinkConfidence, Outcome, RecordConsentRequest, RecordConsentResponse,
};
use tempfile::TempDir;

use crate::support::{
    self, Clients, Server, act, change, check_request, consent_purpose, timestamp,
};

const NEWS: &str = "marketing.newsletter";
const HOUR_MS: i64 = 3_600_000;

struct Ledger {
    server: Server,
    clients: Clients,
    _dir: TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
        Self { server, clients, _dir: dir }
    }

    async fn size(&mut self) -> u64 {
        self.clients.ask(check_request("user:nobody", NEWS, "email")).await.revision
    }

    /// Records an act only as news, some hours ago.
    async fn news(
        &mut self,
        hours_ago: i64,
        request: RecordConsentRequest,
    ) -> RecordConsentResponse {
        let at = support::now_ms() - hours_ago * HOUR_MS;
        let effective_at = Some(timestamp(at));
        let request = RecordConsentRequest { record_only_news: true, effective_at, ..request };
        self.clients.record(request).await
    }

    /// Fails the test unless an act is recorded, or unless it is not.
    async fn expect(
        &mut self,
        is_news: bool,
        hours_ago: i64,
        request: RecordConsentRequest,
    ) -> u64 {
        let context = format!("{hours_ago} hours ago {request:?}");
        let size = self.size().await;
        let answer = self.news(hours_ago, request).await;
        assert_eq!(answer.nothing_recorded, !is_news, "{context}");
        assert_eq!(self.size().await, size + u64::from(is_news), "{context}");
        answer.index
    }
}

fn stop(person: &str) -> RecordConsentRequest {
    act(person, vec![change(Object, "*", "email")])
}

fn grant(person: &str) -> RecordConsentRequest {
    act(person, vec![change(Grant, NEWS, "email")])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_names_the_entry_that_stands() {
    let mut ledger = Ledger::new().await;
    let first = ledger.expect(true, 3, stop("user:1")).await;
    let answer = ledger.news(1, stop("user:1")).await;
    assert!(answer.nothing_recorded && !answer.replayed);
    assert_eq!((answer.index, answer.revision), (first, first + 1));
    assert_eq!((answer.recorded_at, answer.effective_at), (None, None));
    let result = &answer.results[0];
    assert_eq!(result.outcome(), Outcome::StandsAlready);
    assert_eq!(result.cause_index, Some(first));
    assert_eq!(ledger.clients.history("user:1").await.len(), 1);

    let args = ["record", "--subject", "user:1", "--object", "*:email", "--only-news"];
    let record = ledger.server.cli(&args).expect_code(0);
    assert!(record.stdout.contains(&format!("entry {first} says it already")), "{record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_stop_is_recorded_once_a_day() {
    let mut ledger = Ledger::new().await;
    ledger.expect(true, 60, stop("user:1")).await;
    ledger.expect(false, 37, stop("user:1")).await;
    ledger.expect(true, 36, stop("user:1")).await;
    ledger.expect(false, 36, stop("user:1")).await;
    // A live claim from before the standing one takes effect after it.
    ledger.expect(false, 48, stop("user:1")).await;
    // A late grant from between the last two lifts neither.
    let late = RecordConsentRequest {
        effective_at: Some(timestamp(support::now_ms() - 40 * HOUR_MS)),
        ..grant("user:1")
    };
    let late = ledger.clients.record(late).await;
    assert_eq!(late.results[0].outcome(), Outcome::SupersededByLater);
    ledger.expect(true, 2, stop("user:1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_stop_from_before_the_standing_one_is_recorded() {
    let mut ledger = Ledger::new().await;
    let late = |request| RecordConsentRequest { reported_late: true, ..request };
    ledger.expect(true, 9, late(grant("user:1"))).await;
    ledger.expect(true, 1, late(stop("user:1"))).await;
    // It says more of the time between the two.
    ledger.expect(true, 7, late(stop("user:1"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_says_more_is_recorded() {
    let mut ledger = Ledger::new().await;
    ledger.expect(true, 9, stop("user:1")).await;
    let other_scope = act("user:1", vec![change(Object, NEWS, "email")]);
    ledger.expect(true, 8, other_scope.clone()).await;
    let other_kind = act("user:1", vec![change(Withdraw, "*", "email")]);
    ledger.expect(true, 7, other_kind.clone()).await;
    let by_system = RecordConsentRequest { actor: Actor::System.into(), ..other_kind.clone() };
    ledger.expect(true, 6, by_system).await;
    ledger.expect(false, 6, other_kind).await;
    // A grant lifts the stop in one cell, so repeating it is news.
    ledger.expect(true, 5, grant("user:1")).await;
    ledger.expect(true, 4, stop("user:1")).await;
    // Of two changes one is news: the act is recorded whole.
    let both = act("user:1", vec![change(Object, "*", "email"), change(Object, "*", "sms")]);
    ledger.expect(true, 3, both.clone()).await;
    assert_eq!(ledger.clients.history("user:1").await.last().unwrap().changes.len(), 2);
    ledger.expect(false, 3, both.clone()).await;
    // Preferences are recorded.
    let preferences = proto::ContactPreferences { language: "de".into(), ..Default::default() };
    let with_preferences = RecordConsentRequest { preferences: Some(preferences), ..both };
    ledger.expect(true, 3, with_preferences).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_stops_a_linked_person_again_is_recorded() {
    let mut ledger = Ledger::new().await;
    ledger.clients.link("user:1", "device:1", LinkConfidence::Asserted).await;
    ledger.expect(true, 9, stop("device:1")).await;
    ledger.expect(false, 8, stop("device:1")).await;
    ledger.expect(true, 7, grant("user:1")).await;
    ledger.expect(true, 6, stop("device:1")).await;
    // That of the other side may go with the link.
    ledger.expect(true, 5, stop("user:1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_dropped_only_where_the_same_one_counts() {
    let mut ledger = Ledger::new().await;
    let categories = ["user.contact", "user.name"].map(str::to_owned).to_vec();
    let purpose = proto::Purpose { data_categories: categories, ..consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    let import = RecordConsentRequest { actor: Actor::Import.into(), ..grant("user:1") };
    let current = |request: RecordConsentRequest| {
        let mut request = request;
        request.changes[0].purpose_version = 2;
        request
    };
    ledger.expect(true, 90, current(import.clone())).await;
    ledger.expect(false, 80, current(import.clone())).await;
    // The person's own says more: it lifts stops.
    ledger.expect(true, 70, current(grant("user:1"))).await;
    ledger.expect(false, 60, current(grant("user:1"))).await;
    let mut narrowed = current(grant("user:1"));
    narrowed.changes[0].data_categories = vec!["user.name".to_owned()];
    ledger.expect(true, 50, narrowed.clone()).await;
    ledger.expect(false, 40, narrowed.clone()).await;
    let mut limited = narrowed.clone();
    limited.changes[0].expires_at = Some(timestamp(support::now_ms() + HOUR_MS));
    ledger.expect(true, 30, limited.clone()).await;
    ledger.expect(false, 20, limited).await;
    ledger.expect(false, 20, narrowed).await;
    let mut older_version = grant("user:1");
    older_version.changes[0].purpose_version = 1;
    ledger.expect(true, 10, older_version).await;
    ledger.expect(true, 9, stop("user:1")).await;
    ledger.expect(true, 8, current(grant("user:1"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_flag_everything_is_recorded() {
    let mut ledger = Ledger::new().await;
    for _ in 0..3 {
        let size = ledger.size().await;
        let answer = ledger.clients.record(stop("user:1")).await;
        assert!(!answer.nothing_recorded && answer.recorded_at.is_some());
        assert_eq!(ledger.size().await, size + 1);
    }
}
