//! ImportConsents with the real binary: which rows change something, which are rejected, and what
//! is recorded when the server dies during an import.

use std::collections::{BTreeMap, BTreeSet};

use consent_ledger::{
    domain::Body,
    proto::{self, Action, Actor, Effect, Outcome, Reason, import_consents_request::Message},
};
use futures_util::{StreamExt as _, stream};
use tonic::{Code, Status};

use crate::support::{
    self, Clients, Server, act, change, check_request, consent_purpose, opened, timestamp, typed,
};

const LETTER: &str = "marketing.newsletter";
const DAY_MS: i64 = 24 * 3_600 * 1_000;

struct Ledger {
    server: Server,
    clients: Clients,
    _dir: tempfile::TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let clients =
            server.clients_with_catalog(&[LETTER, "marketing.offers"], &["email", "sms"]).await;
        Self { server, clients, _dir: dir }
    }

    async fn import(&mut self, source: &str, rows: &[proto::ImportRow]) -> Answer {
        Answer(send(&mut self.clients, start(source, false), rows).await.unwrap())
    }

    async fn head(&mut self) -> u64 {
        self.clients.checkpoint().await.size
    }

    async fn check(&mut self, subject: &str) -> proto::CheckResponse {
        let request = check_request(subject, LETTER, "email");
        self.clients.ask(request).await
    }

    async fn record(&mut self, request: proto::RecordConsentRequest) {
        self.clients.record(request).await;
    }

    async fn reason(&mut self, subject: &str) -> Reason {
        self.check(subject).await.reason()
    }
}

struct Answer(proto::ImportConsentsResponse);

impl Answer {
    /// Rows recorded, unchanged, replayed and rejected; together they are all rows.
    #[track_caller]
    fn counts(&self) -> [u64; 4] {
        let response = &self.0;
        let counts = [response.recorded, response.unchanged, response.replayed, response.rejected];
        assert_eq!(response.rows, counts.iter().sum::<u64>(), "{response:?}");
        counts
    }

    fn outcomes(&self) -> BTreeMap<Outcome, u64> {
        self.0.outcomes.iter().map(|outcome| (outcome.outcome(), outcome.count)).collect()
    }

    fn rejects(&self) -> Vec<(u64, &str, &str)> {
        let has_message =
            |reject: &'_ proto::ImportReject| assert!(!reject.message.is_empty(), "{reject:?}");
        self.0.rejects.iter().for_each(has_message);
        let rejects = self.0.rejects.iter();
        rejects.map(|reject| (reject.line, reject.field.as_str(), reject.reason.as_str())).collect()
    }
}

fn start(source: &str, dry_run: bool) -> proto::ImportConsentsRequest {
    let start = proto::ImportStart { source: source.into(), dry_run };
    proto::ImportConsentsRequest { message: Some(Message::Start(start)) }
}

fn rows(rows: Vec<proto::ImportRow>) -> proto::ImportConsentsRequest {
    proto::ImportConsentsRequest { message: Some(Message::Rows(proto::ImportRows { rows })) }
}

async fn send(
    clients: &mut Clients,
    start: proto::ImportConsentsRequest,
    all: &[proto::ImportRow],
) -> Result<proto::ImportConsentsResponse, Status> {
    let parts = all.chunks(1_000).map(|part| rows(part.to_vec()));
    send_messages(clients, std::iter::once(start).chain(parts).collect()).await
}

async fn send_messages(
    clients: &mut Clients,
    messages: Vec<proto::ImportConsentsRequest>,
) -> Result<proto::ImportConsentsResponse, Status> {
    Ok(clients.consent.import_consents(stream::iter(messages)).await?.into_inner())
}

fn row(subject: &str, changes: Vec<proto::Change>) -> proto::ImportRow {
    proto::ImportRow { subject: subject.into(), changes, ..Default::default() }
}

fn grant(subject: &str) -> proto::ImportRow {
    row(subject, vec![change(Action::Grant, LETTER, "email")])
}

fn dated(row: proto::ImportRow, days_ago: i64) -> proto::ImportRow {
    let at = support::now_ms() / DAY_MS * DAY_MS - days_ago * DAY_MS;
    proto::ImportRow { effective_at: Some(timestamp(at)), ..row }
}

fn language(tag: &str) -> Option<proto::ContactPreferences> {
    Some(proto::ContactPreferences { language: tag.into(), ..Default::default() })
}

fn by(actor: Actor, method: &str, row: proto::ImportRow) -> proto::ImportRow {
    let evidence = proto::Evidence { method: method.into(), ..Default::default() };
    proto::ImportRow { actor: actor.into(), evidence: Some(evidence), ..row }
}

fn numbered(rows: Vec<proto::ImportRow>) -> Vec<proto::ImportRow> {
    (1..).zip(rows).map(|(line, row)| proto::ImportRow { line, ..row }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_row_is_rejected_with_line_field_and_reason_and_others_are_recorded() {
    let mut ledger = Ledger::new().await;
    let unknown = row(
        "user:2",
        vec![change(Action::Grant, LETTER, "email"), change(Action::Grant, "no.such", "email")],
    );
    let mut late = grant("user:6");
    late.effective_at = Some(timestamp(support::now_ms() + DAY_MS));
    let long_key = proto::ImportRow { row_key: "k".repeat(129), ..grant("user:7") };
    let number = proto::ImportRow { actor: 99, ..grant("user:8") };
    let list = numbered(vec![
        grant("user:1"),
        grant("nobody"),
        unknown,
        row("user:3", vec![change(Action::Grant, LETTER, "*")]),
        row("user:4", vec![change(Action::Withdraw, LETTER, "pigeon")]),
        by(Actor::Agent, "", grant("user:5")),
        late,
        long_key,
        number,
        grant("user:9"),
    ]);
    let answer = ledger.import("crm", &list).await;
    assert_eq!(answer.counts(), [2, 0, 0, 8]);
    assert_eq!(
        answer.rejects(),
        [
            (2, "subject", "INVALID_FIELD"),
            (3, "changes[1].scope.purpose", "UNKNOWN_PURPOSE"),
            (4, "changes[0].scope.channel", "INVALID_FIELD"),
            (5, "changes[0].scope.channel", "UNKNOWN_CHANNEL"),
            (6, "evidence.method", "INVALID_FIELD"),
            (7, "effective_at", "EFFECTIVE_AT_IN_FUTURE"),
            (8, "row_key", "LIMIT_EXCEEDED"),
            (9, "actor", "INVALID_FIELD"),
        ]
    );
    assert_eq!(answer.outcomes(), BTreeMap::from([(Outcome::Applied, 2)]));
    assert_eq!(answer.0.revision, ledger.head().await);
    assert_eq!(ledger.check("user:9").await.effect(), Effect::Allow);
    assert_eq!(ledger.reason("user:2").await, Reason::NoRecord, "a row is recorded whole or not");
    let history = ledger.clients.history("user:1").await;
    assert_eq!(history[0].actor(), Actor::Import);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_change_is_named_by_its_position_in_the_row() {
    let mut ledger = Ledger::new().await;
    ledger.import("crm", &[grant("user:1")]).await;
    let mut wrong = change(Action::Grant, "marketing.offers", "email");
    wrong.purpose_version = 7;
    let known_first = row("user:1", vec![change(Action::Grant, LETTER, "email"), wrong]);
    let answer = ledger.import("crm", &[known_first]).await;
    assert_eq!(answer.rejects(), [(0, "changes[1].purpose_version", "INVALID_FIELD")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_grant_keeps_its_entry_and_expiry() {
    let mut ledger = Ledger::new().await;
    let mut purpose = consent_purpose("yearly");
    purpose.default_validity = Some(prost_types::Duration { seconds: 365 * 86_400, nanos: 0 });
    ledger.clients.put_purpose(purpose).await;
    ledger.record(act("user:1", vec![change(Action::Grant, "yearly", "email")])).await;
    let request = check_request("user:1", "yearly", "email");
    let before = ledger.clients.ask(request.clone()).await;
    let head = ledger.head().await;

    let undated = row("user:1", vec![change(Action::Grant, "yearly", "email")]);
    for (position, known) in [undated.clone(), dated(undated.clone(), 30)].into_iter().enumerate() {
        let answer = ledger.import(&format!("crm-{position}"), &[known]).await;
        assert_eq!(answer.counts(), [0, 1, 0, 0]);
    }
    assert_eq!(ledger.head().await, head);
    let mut after = ledger.clients.ask(request.clone()).await;
    assert_eq!(after.decided_by_index, before.decided_by_index);
    assert_eq!(after.valid_until, before.valid_until);

    // If only part of a row is new, only that part is recorded.
    let mut part = undated.clone();
    part.changes.push(change(Action::Grant, LETTER, "email"));
    let answer = ledger.import("crm", &[part]).await;
    assert_eq!(answer.outcomes(), BTreeMap::from([(Outcome::Applied, 1)]));
    after = ledger.clients.ask(request.clone()).await;
    assert_eq!(after.valid_until, before.valid_until);
    assert_eq!(ledger.clients.history("user:1").await[1].changes.len(), 1);

    // Another expiry is new.
    let mut sooner = undated;
    sooner.changes[0].expires_at = Some(timestamp(support::now_ms() + DAY_MS - 60_000));
    let answer = ledger.import("crm", &[sooner.clone()]).await;
    assert_eq!(answer.counts(), [1, 0, 0, 0]);
    after = ledger.clients.ask(request).await;
    assert_eq!(after.valid_until, sooner.changes[0].expires_at.map(cut));
}

/// Cut to milliseconds, as the ledger keeps them.
fn cut(at: prost_types::Timestamp) -> prost_types::Timestamp {
    timestamp(support::millis(Some(&at)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn blank_fields_erase_nothing() {
    let mut ledger = Ledger::new().await;
    let mut signup = act("user:1", vec![change(Action::Grant, LETTER, "email")]);
    signup.preferences = language("de");
    ledger.record(signup).await;
    let head = ledger.head().await;
    let empty = proto::ImportRow {
        preferences: Some(proto::ContactPreferences::default()),
        ..row("user:1", vec![])
    };
    let by_nobody_in_particular = by(Actor::Subject, "", row("user:1", vec![]));
    let same = proto::ImportRow { preferences: language("de"), ..row("user:1", vec![]) };
    let list = [row("user:1", vec![]), empty, by_nobody_in_particular, same];
    let answer = ledger.import("crm", &list);
    assert_eq!(answer.await.counts(), [0, 4, 0, 0]);
    assert_eq!(ledger.head().await, head);
    assert_eq!(ledger.reason("user:1").await, Reason::Granted);

    let zone = proto::ContactPreferences {
        time_zones: vec!["Europe/Vienna".into()],
        language: "de".into(),
        ..Default::default()
    };
    let more = proto::ImportRow { preferences: Some(zone), ..grant("user:1") };
    assert_eq!(ledger.import("crm", &[more]).await.counts(), [1, 0, 0, 0]);
    let added = ledger.clients.history("user:1").await.pop().unwrap();
    assert!(added.changes.is_empty(), "{added:?}");
    let added = added.preferences.unwrap();
    assert_eq!((added.language.as_str(), added.time_zones.len()), ("", 1));
    let request = proto::GetPreferencesRequest { subject: "user:1".into(), ..Default::default() };
    let answer = ledger.clients.consent.get_preferences(request).await.unwrap().into_inner();
    let preferences = answer.preferences.unwrap();
    assert_eq!((preferences.language.as_str(), preferences.time_zones.len()), ("de", 1));
}

/// A list as a CRM might keep it: grants, stops, preferences; dated or not.
fn list() -> Vec<proto::ImportRow> {
    let mut list = Vec::new();
    for n in 0..20 {
        let subject = format!("user:{n}");
        list.push(match n % 5 {
            0 => grant(&subject),
            1 => dated(grant(&subject), 300),
            2 => row(
                &subject,
                vec![change(Action::Withdraw, "*", "*"), change(Action::Object, LETTER, "sms")],
            ),
            3 => dated(row(&subject, vec![change(Action::Refuse, LETTER, "*")]), 200),
            _ => proto::ImportRow { preferences: language("fr"), ..grant(&subject) },
        });
    }
    numbered(list)
}

#[tokio::test(flavor = "multi_thread")]
async fn last_years_list_changes_nothing_from_any_source() {
    let mut ledger = Ledger::new().await;
    assert_eq!(ledger.import("crm-2025", &list()).await.counts(), [20, 0, 0, 0]);
    let head = ledger.head().await;
    // Line numbers and the order of rows do not matter.
    let mut again: Vec<_> = list().into_iter().rev().collect();
    again.iter_mut().for_each(|row| row.line += 100);
    assert_eq!(ledger.import("crm-2025", &again).await.counts(), [0, 0, 20, 0]);
    assert_eq!(ledger.import("crm-2026", &list()).await.counts(), [0, 20, 0, 0]);
    assert_eq!(ledger.head().await, head);

    // Acts of people since the first import stay in force.
    ledger.record(act("user:0", vec![change(Action::Withdraw, LETTER, "email")])).await;
    ledger.record(act("user:3", vec![change(Action::Grant, LETTER, "email")])).await;
    let head = ledger.head().await;
    assert_eq!(ledger.import("crm-2025", &list()).await.counts(), [0, 0, 20, 0]);
    assert_eq!(ledger.head().await, head);
    let answer = ledger.import("crm-2026", &list()).await;
    assert_eq!(answer.outcomes(), BTreeMap::from([(Outcome::BlockedByStop, 1)]));
    assert_eq!(ledger.reason("user:0").await, Reason::Withdrawn);
    assert_eq!(ledger.reason("user:3").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_row_twice_in_a_list_is_one_act_and_order_is_kept() {
    let mut ledger = Ledger::new().await;
    let stop = row("user:1", vec![change(Action::Withdraw, LETTER, "email")]);
    let answer =
        ledger.import("crm", &[grant("user:1"), stop, grant("user:1"), grant("user:2")]).await;
    assert_eq!(answer.counts(), [3, 0, 1, 0]);
    assert_eq!(ledger.reason("user:1").await, Reason::Revoked);
    // Many changes of direction: every row sees those before it.
    let start = support::now_ms() + 1;
    support::wait_until_time(start + 201);
    let there_and_back = |n: usize| {
        let action = if n.is_multiple_of(2) { Action::Withdraw } else { Action::Grant };
        let row = by(Actor::Agent, "phone", row("user:2", vec![change(action, LETTER, "email")]));
        let effective_at = Some(timestamp(start + i64::try_from(n).unwrap()));
        proto::ImportRow { row_key: n.to_string(), effective_at, ..row }
    };
    let many: Vec<_> = (0..200).map(there_and_back).collect();
    let answer = ledger.import("crm", &many).await;
    assert_eq!(answer.outcomes(), BTreeMap::from([(Outcome::Applied, 200)]));
    assert_eq!(ledger.reason("user:2").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_lifts_no_stop_and_records_that_once() {
    let mut ledger = Ledger::new().await;
    ledger.record(act("user:1", vec![change(Action::Grant, LETTER, "email")])).await;
    ledger.record(act("user:1", vec![change(Action::Withdraw, "*", "email")])).await;
    for actor in [Actor::Unspecified, Actor::Operator, Actor::System] {
        let blocked = proto::ImportRow {
            actor: actor.into(),
            row_key: format!("{actor:?}"),
            ..grant("user:1")
        };
        let first = actor == Actor::Unspecified;
        let answer = ledger.import("crm", std::slice::from_ref(&blocked)).await;
        assert_eq!(answer.counts(), if first { [1, 0, 0, 0] } else { [0, 1, 0, 0] }, "{actor:?}");
        if first {
            assert_eq!(answer.outcomes(), BTreeMap::from([(Outcome::BlockedByStop, 1)]));
            assert_eq!(ledger.import("crm", &[blocked]).await.counts(), [0, 0, 1, 0]);
        }
        assert_eq!(ledger.reason("user:1").await, Reason::Withdrawn);
    }
    let head = ledger.head().await;
    let old = dated(grant("user:1"), 100);
    assert_eq!(ledger.import("crm-old", std::slice::from_ref(&old)).await.counts(), [0, 1, 0, 0]);
    assert_eq!(ledger.head().await, head);

    // A withdrawal on top of a withdrawal is not new; an objection is.
    let stop = |action| row("user:1", vec![change(action, LETTER, "email")]);
    assert_eq!(ledger.import("crm", &[stop(Action::Withdraw)]).await.counts(), [0, 1, 0, 0]);
    assert_eq!(ledger.import("crm", &[stop(Action::Object)]).await.counts(), [1, 0, 0, 0]);
    assert_eq!(ledger.reason("user:1").await, Reason::Objected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_from_an_import_ends_later_grants_of_the_person() {
    let mut ledger = Ledger::new().await;
    let stop = row("user:1", vec![change(Action::Withdraw, LETTER, "*")]);
    assert_eq!(ledger.import("crm", std::slice::from_ref(&stop)).await.counts(), [1, 0, 0, 0]);
    ledger.record(act("user:1", vec![change(Action::Grant, LETTER, "email")])).await;
    assert_eq!(ledger.reason("user:1").await, Reason::Granted);
    assert_eq!(ledger.import("web", &[stop]).await.counts(), [1, 0, 0, 0], "a new word");
    assert_eq!(ledger.reason("user:1").await, Reason::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_key_and_time_stops_again_after_the_persons_own_grant() {
    let mut ledger = Ledger::new().await;
    let both = vec![change(Action::Withdraw, LETTER, "*"), change(Action::Grant, LETTER, "sms")];
    let row = proto::ImportRow { preferences: language("de"), ..row("user:1", both) };
    assert_eq!(ledger.import("nightly", std::slice::from_ref(&row)).await.counts(), [1, 0, 0, 0]);
    for _ in 0..2 {
        ledger.record(act("user:1", vec![change(Action::Grant, LETTER, "email")])).await;
        assert_eq!(ledger.reason("user:1").await, Reason::Granted);
        let foreseen =
            send(&mut ledger.clients, start("nightly", true), std::slice::from_ref(&row)).await;
        assert_eq!(Answer(foreseen.unwrap()).counts(), [1, 0, 0, 0]);
        assert_eq!(ledger.reason("user:1").await, Reason::Granted, "a dry run");
        let again = ledger.import("nightly", std::slice::from_ref(&row)).await;
        assert_eq!(again.counts(), [1, 0, 0, 0]);
        assert_eq!(again.outcomes()[&Outcome::Applied], 1);
        assert_eq!(ledger.reason("user:1").await, Reason::Revoked);
        let head = ledger.head().await;
        let replayed = ledger.import("nightly", std::slice::from_ref(&row)).await;
        assert_eq!((replayed.counts(), ledger.head().await), ([0, 0, 1, 0], head));
    }
    let recorded = ledger.clients.history("user:1").await.pop().unwrap();
    assert_eq!((recorded.changes.len(), recorded.preferences), (1, None), "the stop alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_row_whose_stop_was_lifted_is_a_warning() {
    let mut ledger = Ledger::new().await;
    let stop = |subject: &str| {
        let grant = change(Action::Grant, "marketing.offers", "sms");
        numbered(vec![row(subject, vec![grant, change(Action::Withdraw, LETTER, "email")])])
    };
    let keyed = vec![proto::ImportRow { row_key: "7".into(), ..stop("user:1").remove(0) }];
    let day = vec![dated(stop("user:2").remove(0), 100)];
    for (subject, rows) in [("user:1", keyed), ("user:2", day)] {
        assert_eq!(ledger.import("crm", &rows).await.counts(), [1, 0, 0, 0]);
        let quiet = ledger.import("crm", &rows).await;
        assert_eq!((quiet.counts(), quiet.0.warned), ([0, 0, 1, 0], 0));
        ledger.record(act(subject, vec![change(Action::Grant, LETTER, "email")])).await;
        let told = ledger.import("crm", &rows).await;
        assert_eq!((told.counts(), told.0.warned), ([0, 0, 1, 0], 1));
        let warning = &told.0.warnings[0];
        let place = (warning.line, warning.field.as_str(), warning.reason.as_str());
        assert_eq!(place, (1, "changes[1]", "SUPERSEDED_BY_LATER"));
        assert_eq!(ledger.reason(subject).await, Reason::Granted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_row_of_the_person_a_stop_wins_over_the_grants_that_it_covers() {
    let mut ledger = Ledger::new().await;
    for (n, actor) in [Actor::Subject, Actor::Agent, Actor::Import].into_iter().enumerate() {
        let subject = format!("user:{n}");
        ledger.record(act(&subject, vec![change(Action::Grant, LETTER, "email")])).await;
        let changes = vec![
            change(Action::Grant, LETTER, "email"),
            change(Action::Withdraw, "*", "email"),
            change(Action::Grant, LETTER, "sms"),
        ];
        let at = Some(timestamp(support::now_ms()));
        let both = proto::ImportRow { effective_at: at, ..row(&subject, changes) };
        let answer = ledger.import("paper", &[by(actor, "signature", both)]).await;
        assert_eq!((answer.counts(), answer.0.warned), ([1, 0, 0, 0], 1), "{actor:?}");
        assert_eq!(answer.0.warnings[0].field, "changes[0]");
        assert_eq!(answer.outcomes()[&Outcome::NotRecorded], 1);
        assert_eq!(ledger.check(&subject).await.effect(), Effect::Deny, "{actor:?}");
        let sms = ledger.clients.ask(check_request(&subject, LETTER, "sms")).await;
        assert_eq!(sms.effect(), Effect::Allow, "its other grants stand");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_a_day_that_has_not_ended_is_taken_as_of_now() {
    let mut ledger = Ledger::new().await;
    ledger.record(act("user:1", vec![change(Action::Grant, LETTER, "email")])).await;
    let stop = row("user:1", vec![change(Action::Withdraw, LETTER, "email")]);
    let tonight = Some(timestamp((support::now_ms() / DAY_MS + 1) * DAY_MS + DAY_MS / 2));
    let stop = proto::ImportRow { effective_at: tonight, row_key: "1".into(), ..stop };
    assert_eq!(ledger.import("crm", std::slice::from_ref(&stop)).await.counts(), [1, 0, 0, 0]);
    assert_eq!(ledger.reason("user:1").await, Reason::Revoked);
    assert_eq!(ledger.import("crm", &[stop]).await.counts(), [0, 0, 1, 0], "it is the same row");
    let recorded = ledger.clients.history("user:1").await.pop().unwrap();
    assert!(support::millis(recorded.effective_at.as_ref()).unwrap() <= support::now_ms() + 1_000);
    ledger.record(act("user:1", vec![change(Action::Grant, LETTER, "email")])).await;
    assert_eq!(ledger.reason("user:1").await, Reason::Granted, "the person's own later act counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_person_needs_evidence_and_a_date_and_lifts_stops() {
    let mut ledger = Ledger::new().await;
    for (n, actor) in [Actor::Subject, Actor::Guardian, Actor::Agent].into_iter().enumerate() {
        let subject = format!("user:{n}");
        ledger.record(act(&subject, vec![change(Action::Withdraw, LETTER, "email")])).await;
        let without = ledger.import("paper", &[by(actor, "", grant(&subject))]).await;
        assert_eq!(without.rejects(), [(0, "evidence.method", "INVALID_FIELD")]);
        assert_eq!(ledger.reason(&subject).await, Reason::Withdrawn);
        let undated = by(actor, "signature", grant(&subject));
        let without = ledger.import("paper", std::slice::from_ref(&undated)).await;
        assert_eq!(without.rejects(), [(0, "effective_at", "INVALID_FIELD")]);
        assert_eq!(ledger.reason(&subject).await, Reason::Withdrawn);
        let with = proto::ImportRow {
            effective_at: Some(timestamp(support::now_ms() + 1_000)),
            ..undated
        };
        assert_eq!(
            ledger.import("paper", std::slice::from_ref(&with)).await.counts(),
            [1, 0, 0, 0]
        );
        assert_eq!(ledger.reason(&subject).await, Reason::Granted);
        assert_eq!(ledger.import("paper", &[with]).await.counts(), [0, 0, 1, 0]);
        let recorded = ledger.clients.history(&subject).await.pop().unwrap();
        assert_eq!(recorded.actor(), actor);
        assert_eq!(recorded.evidence.unwrap().method, "signature");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_opt_in_stays_pending_and_is_not_asked_for_again() {
    let mut ledger = Ledger::new().await;
    let purpose = proto::Purpose { double_opt_in: true, ..consent_purpose("doi") };
    ledger.clients.put_purpose(purpose).await;
    let pending = row("user:1", vec![change(Action::Grant, "doi", "email")]);
    let answer = ledger.import("crm", std::slice::from_ref(&pending)).await;
    assert_eq!(answer.outcomes(), BTreeMap::from([(Outcome::PendingConfirmation, 1)]));
    assert_eq!(ledger.import("other", &[pending]).await.counts(), [0, 1, 0, 0]);
    let request = check_request("user:1", "doi", "email");
    let decision = ledger.clients.ask(request).await;
    assert_eq!(decision.reason(), Reason::PendingConfirmation);
    assert_eq!(ledger.clients.history("user:1").await[0].confirmation_expires_at, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_grant_is_not_renewed_by_the_same_list() {
    let mut ledger = Ledger::new().await;
    let mut ended = dated(grant("user:1"), 300);
    ended.changes[0].expires_at = Some(timestamp(support::now_ms() / DAY_MS * DAY_MS - DAY_MS));
    assert_eq!(ledger.import("crm-2025", &[ended.clone()]).await.counts(), [1, 0, 0, 0]);
    assert_eq!(ledger.reason("user:1").await, Reason::Expired);
    let head = ledger.head().await;
    assert_eq!(ledger.import("crm-2026", &[ended]).await.counts(), [0, 1, 0, 0]);
    assert_eq!(ledger.head().await, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_and_predicts_the_import() {
    let mut ledger = Ledger::new().await;
    ledger.record(act("user:0", vec![change(Action::Withdraw, LETTER, "email")])).await;
    ledger.record(act("user:5", vec![change(Action::Grant, LETTER, "email")])).await;
    let head = ledger.head().await;
    let mut list = list();
    list.push(grant("nobody"));
    let foreseen = Answer(send(&mut ledger.clients, start("crm", true), &list).await.unwrap());
    assert_eq!(ledger.head().await, head);
    assert_eq!(foreseen.0.revision, head);
    assert_eq!(foreseen.counts(), [19, 1, 0, 1]);
    assert_eq!(ledger.reason("user:1").await, Reason::NoRecord);
    let done = ledger.import("crm", &list).await;
    assert_eq!(done.counts(), foreseen.counts());
    assert_eq!(done.outcomes(), foreseen.outcomes());
    assert_eq!(done.rejects(), foreseen.rejects());
    let again = Answer(send(&mut ledger.clients, start("crm", true), &list).await.unwrap());
    assert_eq!(again.counts(), [0, 1, 19, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_key_stands_for_one_content_about_its_person_in_its_source() {
    let mut ledger = Ledger::new().await;
    let keyed = |row| proto::ImportRow { row_key: "7".into(), ..row };
    assert_eq!(ledger.import("crm", &[keyed(grant("user:1"))]).await.counts(), [1, 0, 0, 0]);
    let stop = row("user:1", vec![change(Action::Withdraw, LETTER, "email")]);
    let other = proto::ImportRow { line: 3, ..keyed(stop) };
    let answer = ledger.import("crm", &[keyed(grant("user:1")), other.clone()]).await;
    assert_eq!(answer.counts(), [0, 0, 1, 1]);
    assert_eq!(answer.rejects(), [(3, "row_key", "IDEMPOTENCY_KEY_REUSED")]);
    assert_eq!(ledger.import("web", &[other]).await.counts(), [1, 0, 0, 0]);
    assert_eq!(ledger.import("crm", &[keyed(grant("user:2"))]).await.counts(), [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_stream_has_one_start_and_then_rows() {
    let mut ledger = Ledger::new().await;
    let head = ledger.head().await;
    let nothing = proto::ImportConsentsRequest { message: None };
    let many = vec![grant("user:1"); 1_001];
    for (messages, field, reason) in [
        (vec![], "start", "INVALID_FIELD"),
        (vec![nothing.clone()], "start", "INVALID_FIELD"),
        (vec![rows(vec![grant("user:1")])], "start", "INVALID_FIELD"),
        (vec![start("crm", false), start("crm", false)], "start", "INVALID_FIELD"),
        (vec![start("crm", false), nothing], "rows", "INVALID_FIELD"),
        (vec![start("crm", false), rows(many)], "rows.rows", "LIMIT_EXCEEDED"),
        (vec![start("", false)], "start.source", "INVALID_FIELD"),
        (vec![start("a\0b", false)], "start.source", "INVALID_FIELD"),
        (vec![start(&"s".repeat(129), false)], "start.source", "LIMIT_EXCEEDED"),
    ] {
        let error = typed(&send_messages(&mut ledger.clients, messages).await.unwrap_err());
        assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, reason), "{field}");
        assert_eq!(error.fields, [field]);
    }
    assert_eq!(ledger.head().await, head);
    assert_eq!(ledger.import("crm", &[]).await.counts(), [0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_may_exceed_the_request_timeout_but_not_with_a_silent_client() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--request-timeout", "1s", "--import-rows-per-second-max", "15"];
    let server = Server::start_with(dir.path(), &flags);
    let mut clients = server.clients_with_catalog(&[LETTER], &["email"]).await;
    let list: Vec<_> = (0..40).map(|n| grant(&format!("user:{n}"))).collect();
    let began = std::time::Instant::now();
    let answer = Answer(send(&mut clients, start("crm", false), &list).await.unwrap());
    assert_eq!(answer.counts(), [40, 0, 0, 0]);
    assert!(began.elapsed().as_millis() > 2_000, "15 rows a second: {:?}", began.elapsed());
    let silent = stream::iter([start("crm", false)]).chain(stream::pending());
    let error = clients.consent.import_consents(silent).await.unwrap_err();
    assert_eq!(typed(&error).reason, "DEADLINE_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_ends_an_import_and_keeps_its_recorded_rows() {
    let ledger = Ledger::new().await;
    let (server, mut clients) = (ledger.server, ledger.clients);
    let mut consent = clients.consent.clone();
    let unfinished = stream::iter([start("crm", false), rows(vec![grant("user:1")])]);
    let call = tokio::spawn(async move {
        consent.import_consents(unfinished.chain(stream::pending())).await.unwrap_err()
    });
    while clients.history("user:1").await.is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
    assert_eq!(typed(&call.await.unwrap()).reason, "SHUTTING_DOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_leave_room_for_acts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--appends-max", "4"]);
    let mut clients = server.clients_with_catalog(&[LETTER], &["email"]).await;
    let imports: Vec<_> = (0..3)
        .map(|number| {
            let mut clients = clients.clone();
            let list: Vec<_> =
                (0..300).map(|n| grant(&format!("user:import{number}-{n}"))).collect();
            tokio::spawn(async move {
                Answer(send(&mut clients, start("crm", false), &list).await.unwrap()).counts()
            })
        })
        .collect();
    for n in 0..50 {
        let request = act(&format!("user:{n}"), vec![change(Action::Grant, LETTER, "email")]);
        clients.consent.record_consent(request).await.expect("a place");
    }
    for import in imports {
        assert_eq!(import.await.unwrap(), [300, 0, 0, 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_sent_again_after_a_kill_are_each_one_act() {
    const ROWS: u64 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    // Slow enough that the kill always comes in the middle.
    let server = Server::start_with(dir.path(), &["--import-rows-per-second-max", "2000"]);
    let mut clients = server.clients_with_catalog(&[LETTER], &["email"]).await;
    let list: Vec<_> = (0..ROWS).map(|n| grant(&format!("user:{n}"))).collect();
    let list = numbered(list);
    let call = {
        let (mut clients, list) = (clients.clone(), list.clone());
        tokio::spawn(async move { send(&mut clients, start("crm", false), &list).await })
    };
    support::eventually("a thousand entries", async || {
        (clients.checkpoint().await.size > 1_000).then_some(())
    })
    .await;
    server.kill();
    assert!(call.await.unwrap().is_err(), "killed in the middle");

    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let answer = Answer(send(&mut clients, start("crm", false), &list).await.unwrap());
    let [recorded, unchanged, replayed, rejected] = answer.counts();
    assert_eq!((recorded + replayed, unchanged, rejected), (ROWS, 0, 0));
    assert!(recorded > 0 && replayed > 900, "{recorded} and {replayed}");
    let cells: Vec<_> =
        (0..ROWS).map(|n| (format!("user:{n}"), LETTER.to_owned(), "email".to_owned())).collect();
    let decisions = clients.check_cells(&cells).await;
    assert!(decisions.iter().all(|decision| decision.effect() == Effect::Allow));
    let deciding: BTreeSet<_> =
        decisions.iter().map(|decision| decision.decided_by_index).collect();
    assert_eq!(deciding.len() as u64, ROWS);
    let opened = opened::Ledger::open(dir.path());
    let acts = opened.entries().filter(|entry| matches!(entry.body, Body::Act(_)));
    assert_eq!(acts.count() as u64, ROWS);
    assert_eq!(
        Answer(send(&mut clients, start("crm", false), &list).await.unwrap()).counts(),
        [0, 0, ROWS, 0]
    );
    drop(clients);
    server.terminate();
    support::verify(dir.path()).expect_code(0);
}
