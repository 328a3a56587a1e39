//! Obligations, over gRPC against the built binary: to every caller ALLOW means now.
//!
//! Quiet hours are chosen by the clock of UTC, hours away from the present minute, so that no test
//! depends on the time of day at which it runs.

use std::fs;

use consent_ledger::proto::{
    self, Action, AudienceQuery, AudienceSubjects, Effect, FilterAudienceRequest, LinkConfidence,
    ObligationKind, Reason, filter_audience_request::Message as Asked,
    filter_audience_response::Message as Answered,
};
use consent_ledger_client::{
    Client, ClientConfig,
    cache::{Answer, CacheOptions, Question},
};

use crate::support::{self, Clients, Server, check_request, millis, now_ms, timestamp};

const NEWS: &str = "marketing.newsletter";
const DAY_MS: i64 = 86_400_000;

struct Ledger {
    server: Server,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Ledger {
    /// A ledger with one purpose under these obligations.
    async fn new(obligations: Vec<proto::Obligation>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let mut clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
        clients.put_purpose(proto::Purpose { obligations, ..support::consent_purpose(NEWS) }).await;
        Self { server, clients, dir }
    }

    async fn grant(&mut self, subject: &str) -> proto::RecordConsentResponse {
        self.clients.record_change(subject, Action::Grant, NEWS, "email").await
    }

    async fn check(&mut self, subject: &str) -> proto::CheckResponse {
        self.clients.ask(check_request(subject, NEWS, "email")).await
    }

    async fn use_at(&mut self, subject: &str, used_at: Option<i64>) -> proto::RecordUseResponse {
        let used = proto::RecordUseRequest {
            subject: subject.to_owned(),
            purpose: NEWS.to_owned(),
            channel: "email".to_owned(),
            used_at: used_at.map(timestamp),
            ..Default::default()
        };
        self.clients.consent.record_use(used).await.unwrap().into_inner()
    }

    async fn audience(
        &mut self,
        query: AudienceQuery,
        subjects: &[&str],
    ) -> (proto::AudienceVerdicts, proto::AudienceSummary) {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        let requests = [
            Asked::Query(AudienceQuery {
                purpose: NEWS.to_owned(),
                channel: "email".to_owned(),
                ..query
            }),
            Asked::Subjects(AudienceSubjects { subjects }),
        ];
        let requests = requests.map(|message| FilterAudienceRequest { message: Some(message) });
        let answers = self.clients.check.filter_audience(tokio_stream::iter(requests)).await;
        let mut answers = answers.unwrap().into_inner();
        let mut next = async || answers.message().await.unwrap().unwrap().message.unwrap();
        match (next().await, next().await) {
            (Answered::Verdicts(verdicts), Answered::Summary(summary)) => (verdicts, summary),
            other => panic!("{other:?}"),
        }
    }
}

fn limit(uses_max: u32, days: i64) -> proto::Obligation {
    let period = prost_types::Duration { seconds: days * 86_400, nanos: 0 };
    let limit = proto::FrequencyLimit { uses_max, period: Some(period) };
    proto::Obligation {
        kind: Some(proto::obligation::Kind::FrequencyLimit(limit)),
        ..Default::default()
    }
}

/// Quiet hours in UTC, in minutes from the present one.
fn quiet(from: i64, to: i64) -> proto::Obligation {
    quiet_in("UTC", now_ms(), from, to)
}

fn quiet_in(time_zone: &str, local_ms: i64, from: i64, to: i64) -> proto::Obligation {
    let minute = |shift: i64| {
        let minute = (local_ms.div_euclid(60_000) + shift).rem_euclid(1_440);
        u32::try_from(minute).unwrap()
    };
    let hours = proto::QuietHours {
        start_minute: minute(from),
        end_minute: minute(to),
        time_zone: time_zone.to_owned(),
    };
    proto::Obligation {
        kind: Some(proto::obligation::Kind::QuietHours(hours)),
        ..Default::default()
    }
}

fn claims(token: &str) -> serde_json::Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_limit_is_not_now_wherever_an_effect_is_answered() {
    let mut ledger = Ledger::new(vec![limit(1, 30)]).await;
    ledger.grant("user:1").await;
    ledger.grant("user:2").await;
    assert_eq!(ledger.check("user:1").await.effect(), Effect::Allow);
    let before = now_ms();
    let used = ledger.use_at("user:1", None).await;
    assert_eq!((used.deviation, used.broken_obligations.len()), (false, 0));

    let answer = ledger.check("user:1").await;
    assert_eq!((answer.effect(), answer.reason()), (Effect::NotNow, Reason::Granted));
    let not_before = millis(answer.not_before.as_ref()).unwrap();
    assert!((before..=now_ms()).contains(&(not_before - 30 * DAY_MS)), "{answer:?}");
    assert_eq!(answer.valid_until, answer.not_before, "it can change then, with no new entry");

    let batch = proto::BatchCheckRequest {
        checks: ["user:1", "user:2", "user:3"]
            .map(|subject| check_request(subject, NEWS, "email"))
            .into(),
        ..Default::default()
    };
    let results = ledger.clients.check.batch_check(batch).await.unwrap().into_inner().results;
    let effects: Vec<_> = results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            proto::batch_check_result::Result::Decision(decision) => decision.effect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(effects, [Effect::NotNow, Effect::Allow, Effect::Deny]);

    let request = proto::GetPreferencesRequest { subject: "user:1".into(), ..Default::default() };
    let preferences = ledger.clients.consent.get_preferences(request).await.unwrap().into_inner();
    let cell = &preferences.cells[0];
    assert_eq!((cell.effect(), cell.status()), (Effect::NotNow, proto::Status::Given));
    assert_eq!(cell.not_before, answer.not_before);

    let people = ["user:1", "user:2", "user:3", "nobody"];
    let (verdicts, summary) = ledger.audience(AudienceQuery::default(), &people).await;
    assert_eq!(verdicts.allowed, ["user:2"]);
    let later: Vec<_> = verdicts.not_now.iter().map(|one| &*one.subject).collect();
    assert_eq!((later, verdicts.not_now[0].not_before), (vec!["user:1"], answer.not_before));
    assert_eq!((verdicts.allowed_count, verdicts.not_now_count), (1, 1));
    assert_eq!((summary.subjects, summary.allowed, summary.not_now), (4, 1, 1));
    let packed = AudienceQuery { packed: true, ..Default::default() };
    let (verdicts, _) = ledger.audience(packed, &people).await;
    assert_eq!((verdicts.packed, verdicts.not_now.len()), (vec![0b0010], 0));
    assert_eq!((verdicts.allowed_count, verdicts.not_now_count), (1, 1));
    drop(ledger.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_beyond_a_limit_or_within_quiet_hours_is_a_deviation_that_says_so() {
    let mut ledger = Ledger::new(vec![limit(2, 30)]).await;
    let given = ledger.grant("user:1").await;
    let given_at = millis(given.recorded_at.as_ref()).unwrap();
    // Reported together, after they happened: the third is one too many.
    support::wait_until_time(given_at + 10);
    for (after, broken) in [(1, false), (2, false), (3, true)] {
        let used = ledger.use_at("user:1", Some(given_at + after)).await;
        assert_eq!((used.deviation, used.reason()), (broken, Reason::Granted), "use {after}");
        let kinds: Vec<_> = used.broken_obligations().collect();
        assert_eq!(kinds, [ObligationKind::FrequencyLimit][..usize::from(broken)]);
    }
    // Mail tools list the newest first.
    let given = ledger.grant("user:4").await;
    let given_at = millis(given.recorded_at.as_ref()).unwrap();
    support::wait_until_time(given_at + 10);
    for (after, broken) in [(3, false), (2, false), (1, true)] {
        let used = ledger.use_at("user:4", Some(given_at + after)).await;
        assert_eq!((used.deviation, used.reason()), (broken, Reason::Granted), "use {after}");
    }
    let history = ledger.clients.history("user:1").await;
    let used = history.last().unwrap().r#use.as_ref().unwrap();
    let kinds: Vec<_> = used.broken_obligations().collect();
    assert_eq!((used.deviation, kinds), (true, vec![ObligationKind::FrequencyLimit]));

    let quiet = vec![quiet(-120, 120), limit(9, 1)];
    let purpose = proto::Purpose { obligations: quiet, ..support::consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    ledger.grant("user:2").await;
    let used = ledger.use_at("user:2", None).await;
    assert_eq!(used.broken_obligations().collect::<Vec<_>>(), [ObligationKind::QuietHours]);
    assert!(used.deviation);
    // A denied use names no obligation.
    let used = ledger.use_at("user:3", None).await;
    assert_eq!((used.deviation, used.broken_obligations.len()), (true, 0));
    let words = ["use", "--subject", "user:2", "--purpose", NEWS, "--channel", "email"];
    let printed = ledger.server.cli(&words).expect_code(3).stdout;
    assert!(printed.contains("deviation: granted, quiet_hours"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_of_verified_links_count_and_those_of_asserted_links_do_not() {
    let mut ledger = Ledger::new(vec![limit(1, 30)]).await;
    for subject in ["user:1", "user:2"] {
        ledger.grant(subject).await;
    }
    ledger.clients.link("user:1", "device:1", LinkConfidence::Verified).await;
    ledger.clients.link("user:2", "device:2", LinkConfidence::Asserted).await;
    for subject in ["device:1", "device:2"] {
        ledger.use_at(subject, None).await;
    }
    assert_eq!(ledger.check("user:1").await.effect(), Effect::NotNow);
    assert_eq!(ledger.check("user:2").await.effect(), Effect::Allow);
    let (verdicts, _) = ledger.audience(AudienceQuery::default(), &["user:1", "user:2"]).await;
    assert_eq!((verdicts.allowed, verdicts.not_now_count), (vec!["user:2".to_owned()], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_allow_ends_before_quiet_hours_begin() {
    let mut ledger = Ledger::new(vec![quiet(10, 300)]).await;
    ledger.grant("user:1").await;
    let request =
        proto::CheckRequest { want_token: true, ..check_request("user:1", NEWS, "email") };
    let answer = ledger.clients.ask(request.clone()).await;
    assert_eq!(answer.effect(), Effect::Allow);
    let begin = millis(answer.valid_until.as_ref()).unwrap();
    assert!((8 * 60_000..=10 * 60_000).contains(&(begin - now_ms())), "{answer:?}");
    let claims_of = claims(&answer.token);
    assert_eq!(claims_of["effect"], "ALLOW");
    assert!(claims_of["exp"].as_i64().unwrap() * 1_000 <= begin, "{claims_of}");

    let hours = vec![quiet(-60, 60)];
    let purpose = proto::Purpose { obligations: hours, ..support::consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    let answer = ledger.clients.ask(request.clone()).await;
    assert_eq!(answer.effect(), Effect::NotNow);
    let claims_of = claims(&answer.token);
    assert_eq!(
        (&claims_of["effect"], &claims_of["reason"]),
        (&"NOT_NOW".into(), &"GRANTED".into())
    );
    let key = ledger.server.cli(&["token", "key"]).expect_code(0).stdout;
    let file = ledger.dir.path().join("key.jwk");
    fs::write(&file, key).unwrap();
    let key = format!("@{}", file.display());
    let verified = support::run(["token", "verify", &answer.token, "--key", &key]).expect_code(4);
    assert!(verified.stdout.starts_with("NOT NOW  granted"), "{}", verified.stdout);

    let urgent = proto::CheckRequest { ignore_obligations: true, ..request };
    let answer = ledger.clients.ask(urgent).await;
    assert_eq!((answer.effect(), answer.obligations_ignored), (Effect::Allow, true));
    let claims_of = claims(&answer.token);
    assert_eq!(
        (&claims_of["effect"], &claims_of["obligations_ignored"]),
        (&"ALLOW".into(), &true.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_never_says_allow_when_the_server_says_not_now() {
    let mut ledger = Ledger::new(vec![limit(1, 30)]).await;
    ledger.grant("user:1").await;
    let config = ClientConfig::new(format!("http://{}", ledger.server.address));
    let client = Client::connect_lazy(config).unwrap();
    let checker = client.cached_checker(CacheOptions::default()).unwrap();
    let question = Question::new("user:1", NEWS, "email");
    support::eventually("the cache is fresh", async || checker.is_fresh().then_some(())).await;
    for _ in 0..3 {
        let answer = checker.check(&question).await;
        assert!(matches!(answer, Answer::Server(_)), "it holds only at its moment: {answer:?}");
        assert!(answer.is_allowed());
    }
    ledger.use_at("user:1", None).await;
    let answer = checker.check(&question).await;
    assert!(!answer.is_allowed(), "{answer:?}");
    assert_eq!(answer.response().unwrap().effect(), Effect::NotNow);
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_that_leave_no_moment_are_never_allow_and_are_said_as_that() {
    // The two spans cover the day whatever the time zone is, and none is known.
    let zoneless = |from, to| quiet_in("", now_ms(), from, to);
    let mut ledger = Ledger::new(vec![zoneless(-60, 600), zoneless(600, -60)]).await;
    ledger.grant("user:1").await;
    let answer = ledger.check("user:1").await;
    assert_eq!((answer.effect(), answer.not_before), (Effect::NotNow, None));
    assert!(answer.indeterminate && answer.obligations.iter().all(|one| one.leaves_no_moment));
    let words = ["check", "--subject", "user:1", "--purpose", NEWS, "--channel", "email"];
    let printed = ledger.server.cli(&words).expect_code(4).stdout;
    assert!(
        printed.starts_with("NOT NOW: the quiet hours leave no moment of any day  granted\n"),
        "{printed}"
    );
    // Not known where the person is: too uncertain, and not the fault of the hours.
    let purpose =
        proto::Purpose { obligations: vec![zoneless(-600, 600)], ..support::consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    let answer = ledger.check("user:1").await;
    assert_eq!((answer.effect(), answer.indeterminate), (Effect::NotNow, true));
    assert!(!answer.obligations[0].leaves_no_moment);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_the_past_answers_with_the_obligations_of_then() {
    let mut ledger = Ledger::new(vec![limit(1, 30)]).await;
    let given = ledger.grant("user:1").await;
    let used = ledger.use_at("user:1", None).await;
    let mut effect_at = async |revision: u64| {
        let as_of = proto::AsOf { moment: Some(proto::as_of::Moment::Revision(revision)) };
        let request =
            proto::CheckRequest { as_of: Some(as_of), ..check_request("user:1", NEWS, "email") };
        ledger.clients.ask(request).await.effect()
    };
    assert_eq!(effect_at(given.revision).await, Effect::Allow, "the use was not recorded");
    assert_eq!(effect_at(used.revision).await, Effect::NotNow);
    assert_eq!(effect_at(given.revision - 1).await, Effect::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_send_now_can_and_the_record_says_that_obligations_were_ignored() {
    let mut ledger = Ledger::new(vec![limit(1, 30)]).await;
    for subject in ["user:1", "user:2"] {
        ledger.grant(subject).await;
    }
    ledger.use_at("user:1", None).await;
    let urgent =
        proto::CheckRequest { ignore_obligations: true, ..check_request("user:1", NEWS, "email") };
    let answer = ledger.clients.ask(urgent).await;
    assert_eq!((answer.effect(), answer.obligations_ignored), (Effect::Allow, true));
    let free =
        proto::CheckRequest { ignore_obligations: true, ..check_request("user:2", NEWS, "email") };
    let answer = ledger.clients.ask(free).await;
    assert_eq!((answer.effect(), answer.obligations_ignored), (Effect::Allow, false));

    let query = AudienceQuery {
        record_use: true,
        segment: "recall".into(),
        ignore_obligations: true,
        ..Default::default()
    };
    let (verdicts, summary) = ledger.audience(query, &["user:1", "user:2"]).await;
    assert_eq!(verdicts.allowed, ["user:1", "user:2"]);
    assert_eq!((summary.allowed, summary.not_now, summary.obligations_ignored), (2, 0, 1));
    for (subject, deviation) in [("user:1", true), ("user:2", false)] {
        let history = ledger.clients.history(subject).await;
        assert_eq!(history.last().unwrap().r#use.as_ref().unwrap().deviation, deviation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_exits_with_4_and_keeps_the_waiting_apart() {
    let mut ledger = Ledger::new(vec![limit(1, 30)]).await;
    for subject in ["user:1", "user:2"] {
        ledger.grant(subject).await;
    }
    ledger.use_at("user:1", None).await;
    let cell = ["--purpose", NEWS, "--channel", "email"];
    let check = |more: &[&str]| {
        ledger.server.cli(&[&["check", "--subject", "user:1"], &cell[..], more].concat())
    };
    let printed = check(&["--color", "always"]).expect_code(4).stdout;
    let first = printed.lines().next().unwrap();
    assert!(first.contains("NOT NOW, not before 2") && first.contains("granted"), "{first}");
    assert!(!first.contains("\u{1b}[32m"), "not in green: {first:?}");
    assert_eq!(check(&["--json"]).expect_code(4).json()["effect"], "EFFECT_NOT_NOW");
    let printed = check(&["--ignore-obligations"]).expect_code(0).stdout;
    assert!(printed.starts_with("ALLOW  granted\nobligations are ignored"), "{printed}");

    let met = ["check", "--subject", "user:2"];
    let printed = ledger.server.cli(&[&met[..], &cell[..]].concat()).expect_code(0).stdout;
    assert!(printed.contains("at most 1 in 30d") && !printed.contains("not before"), "{printed}");

    let ids = ledger.dir.path().join("ids");
    fs::write(&ids, "user:1\nuser:2\nuser:3\n").unwrap();
    let later = ledger.dir.path().join("later");
    let (ids, later_file) = (ids.to_str().unwrap(), later.to_str().unwrap());
    let audience = |more: &[&str]| {
        ledger.server.cli(&[&["audience", ids], &cell[..], more].concat()).expect_code(0)
    };
    let filtered = audience(&["--not-now-file", later_file]);
    assert_eq!(filtered.stdout, "user:2\n");
    assert!(filtered.stderr.contains("1 more are NOT NOW"), "{}", filtered.stderr);
    let later = fs::read_to_string(&later).unwrap();
    assert!(later.starts_with("user:1\t2") && later.lines().count() == 1, "{later}");
    for wrong in ["-", ids] {
        let words = [&["audience", ids], &cell[..], &["--not-now-file", wrong]].concat();
        ledger.server.cli(&words).expect_code(2);
    }
    assert_eq!(fs::read_to_string(ids).unwrap().lines().count(), 3, "the list is as it was");
    let filtered = audience(&["--ignore-obligations"]);
    assert_eq!(filtered.stdout, "user:1\nuser:2\n");
    assert!(filtered.stderr.contains("obligations are ignored"), "{}", filtered.stderr);
}
