//! Claims of a time that cannot be right: over gRPC, and through `import`. A grant is refused and the
//! likely cause is named; a stop is recorded, and the caller is told when it takes effect.

use std::fs;

use consent_ledger::proto::{
    self,
    Action::{Grant, Object, Refuse, Withdraw},
    Actor, Effect, LinkConfidence, Outcome, Reason, RecordConsentRequest, RecordConsentResponse,
    import_consents_request::Message,
};
use futures_util::stream;
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{
    Clients, LONG_PATIENCE, Process, Server, act, binary, change, check_request, now_ms, timestamp,
    typed,
};

const NEWS: &str = "marketing.newsletter";
const OFFERS: &str = "marketing.offers";
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

async fn ledger() -> (Server, Clients, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let clients = server.clients_with_catalog(&[NEWS, OFFERS], &["email", "sms"]).await;
    (server, clients, dir)
}

fn at(at_ms: i64, request: RecordConsentRequest) -> RecordConsentRequest {
    RecordConsentRequest { effective_at: Some(timestamp(at_ms)), ..request }
}

fn by(actor: Actor, request: RecordConsentRequest) -> RecordConsentRequest {
    RecordConsentRequest { actor: actor.into(), ..request }
}

fn grant(person: &str) -> RecordConsentRequest {
    act(person, vec![change(Grant, NEWS, "email")])
}

fn stop(person: &str) -> RecordConsentRequest {
    act(person, vec![change(Withdraw, NEWS, "email")])
}

async fn effect(clients: &mut Clients, person: &str, purpose: &str) -> Effect {
    clients.ask(check_request(person, purpose, "email")).await.effect()
}

fn warned(answer: &RecordConsentResponse) -> Vec<(&str, &str)> {
    let warnings = answer.warnings.iter();
    warnings.map(|warning| (warning.field.as_str(), warning.reason.as_str())).collect()
}

fn at_ms(at: Option<prost_types::Timestamp>) -> i64 {
    let at = at.unwrap();
    at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
}

/// The time that the caller claimed, as the history of a person keeps it for its last act.
async fn claimed(clients: &mut Clients, person: &str) -> Option<i64> {
    let history = clients.history(person).await;
    let evidence = history.last().unwrap().evidence.clone();
    evidence.and_then(|evidence| evidence.effective_at_given).map(|given| at_ms(Some(given)))
}

/// Times that cannot be right, with what the caller learns of each.
fn impossible() -> Vec<(i64, &'static str, Option<&'static str>)> {
    let now = now_ms();
    vec![
        (now / 1_000, "EFFECTIVE_AT_TOO_OLD", Some("SECONDS_AS_MILLISECONDS")),
        (0, "EFFECTIVE_AT_TOO_OLD", Some("EMPTY_TIME")),
        (-62_135_596_800_000, "EFFECTIVE_AT_TOO_OLD", Some("EMPTY_TIME")),
        (-61_400_000_000_000, "EFFECTIVE_AT_TOO_OLD", Some("TWO_DIGIT_YEAR")),
        (788_918_399_999, "EFFECTIVE_AT_TOO_OLD", None),
        (now + 2 * HOUR_MS, "EFFECTIVE_AT_IN_FUTURE", Some("ZONE_OR_CLOCK")),
        (now + 400 * DAY_MS, "EFFECTIVE_AT_IN_FUTURE", None),
        (253_402_214_400_000, "EFFECTIVE_AT_IN_FUTURE", Some("NEVER")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_an_impossible_time_is_refused_and_the_likely_cause_named() {
    let (_server, mut clients, _dir) = ledger().await;
    let head = clients.checkpoint().await.size;
    for (claim, reason, cause) in impossible() {
        let status = clients.consent.record_consent(at(claim, grant("user:1"))).await.unwrap_err();
        let error = typed(&status);
        assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, reason), "{claim}");
        assert_eq!(error.fields, ["effective_at"], "{claim}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata.get("likely_cause").map(String::as_str), cause, "{claim}");
        assert_eq!(status.message().contains("it looks like"), cause.is_some(), "{status:?}");
    }
    // Milliseconds where the protocol has seconds.
    let effective_at = Some(prost_types::Timestamp { seconds: now_ms(), nanos: 0 });
    let request = RecordConsentRequest { effective_at, ..grant("user:1") };
    let status = clients.consent.record_consent(request).await.unwrap_err();
    assert_eq!(typed(&status).fields, ["effective_at"]);
    assert!(status.message().contains("milliseconds that were read as seconds"), "{status:?}");

    // Data was not used at such a time, either.
    let used = proto::RecordUseRequest {
        subject: "user:1".into(),
        purpose: NEWS.into(),
        channel: "email".into(),
        used_at: Some(timestamp(now_ms() / 1_000)),
        ..Default::default()
    };
    let status = clients.consent.record_use(used).await.unwrap_err();
    assert_eq!(typed(&status).fields, ["used_at"]);
    assert!(status.message().contains("seconds that were read as milliseconds"), "{status:?}");
    assert_eq!(clients.checkpoint().await.size, head, "nothing was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_an_impossible_time_is_taken_as_of_now_and_told_so() {
    let (_server, mut clients, _dir) = ledger().await;
    for (number, (claim, reason, _)) in impossible().into_iter().enumerate() {
        for actor in [Actor::Subject, Actor::Guardian, Actor::Agent, Actor::Operator, Actor::System]
        {
            let person = format!("user:{number}-{actor:?}");
            clients.record(grant(&person)).await;
            let before = now_ms();
            let answer = clients.record(by(actor, at(claim, stop(&person)))).await;
            assert!(at_ms(answer.effective_at) >= before, "{person}");
            assert_eq!(warned(&answer), [("effective_at", reason)], "{person}");
            assert!(answer.warnings[0].message.contains("as of now"), "{:?}", answer.warnings);
            assert_eq!(effect(&mut clients, &person, NEWS).await, Effect::Deny, "{person}");
            assert_eq!(claimed(&mut clients, &person).await, Some(claim), "{person}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_stop_of_an_impossible_time_no_grant_is_recorded() {
    let (_server, mut clients, _dir) = ledger().await;
    for (number, (claim, reason, _)) in impossible().into_iter().enumerate() {
        let person = format!("user:{number}");
        clients.record(grant(&person)).await;
        let changes = vec![change(Grant, OFFERS, "email"), change(Withdraw, NEWS, "*")];
        let answer = clients.record(at(claim, act(&person, changes))).await;
        let outcomes: Vec<_> = answer.results.iter().map(proto::ChangeResult::outcome).collect();
        assert_eq!(outcomes, [Outcome::NotRecorded, Outcome::Applied], "{person}");
        assert!(warned(&answer).contains(&("effective_at", reason)), "{person}");
        assert_eq!(effect(&mut clients, &person, NEWS).await, Effect::Deny, "{person}");
        assert_eq!(effect(&mut clients, &person, OFFERS).await, Effect::Deny, "{person}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stop_never_loses_to_a_slow_clock() {
    let (_server, mut clients, _dir) = ledger().await;
    for actor in [Actor::Subject, Actor::Guardian, Actor::Agent] {
        for slow_ms in [1, 90_000, 2 * HOUR_MS, 300 * DAY_MS] {
            let person = format!("user:{actor:?}-{slow_ms}");
            let given = clients.record(grant(&person)).await;
            let request = by(actor, at(at_ms(given.recorded_at) - slow_ms, stop(&person)));
            let answer = clients.record(request.clone()).await;
            assert_eq!(answer.results[0].outcome(), Outcome::Applied, "{person}");
            assert!(at_ms(answer.effective_at) > at_ms(given.effective_at), "{person}");
            assert_eq!(warned(&answer), [("effective_at", "EFFECTIVE_AT_OVERTAKEN")], "{person}");
            assert_eq!(effect(&mut clients, &person, NEWS).await, Effect::Deny, "{person}");
            let claim = at_ms(request.effective_at);
            assert_eq!(claimed(&mut clients, &person).await, Some(claim), "{person}");
        }
    }
    // A claim that loses to nothing stays as it is.
    let claim = now_ms() - DAY_MS;
    let answer = clients.record(at(claim, stop("user:quiet"))).await;
    assert_eq!(at_ms(answer.effective_at), claim);
    assert_eq!(warned(&answer), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_reported_late_keeps_its_time() {
    let (server, mut clients, _dir) = ledger().await;
    let given = clients.record(grant("user:late")).await;
    let claim = at_ms(given.recorded_at) - DAY_MS;
    let late = RecordConsentRequest { reported_late: true, ..at(claim, stop("user:late")) };
    let answer = clients.record(late).await;
    assert_eq!((at_ms(answer.effective_at), warned(&answer)), (claim, vec![]));
    assert_eq!(answer.results[0].outcome(), Outcome::SupersededByLater);
    assert_eq!(effect(&mut clients, "user:late", NEWS).await, Effect::Allow);

    // So does one of somebody who does not speak for the person, and the command line says it too.
    for actor in [Actor::Operator, Actor::System, Actor::Import] {
        let answer = clients.record(by(actor, at(claim, stop("user:late")))).await;
        assert_eq!(at_ms(answer.effective_at), claim, "{actor:?}");
    }
    let time = jiff::Timestamp::from_millisecond(claim).unwrap().to_string();
    let words = ["record", "--subject", "user:late", "--withdraw", "marketing.newsletter:email"];
    let late = [&words[..], &["--effective-at", &time, "--reported-late"]].concat();
    server.cli(&late).expect_code(0);
    assert_eq!(effect(&mut clients, "user:late", NEWS).await, Effect::Allow);
    let live = [&words[..], &["--effective-at", &time]].concat();
    let told = server.cli(&live).expect_code(0);
    assert!(told.stdout.contains("newest act of the person"), "{}", told.stdout);
    assert_eq!(effect(&mut clients, "user:late", NEWS).await, Effect::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stop_wins_over_newer_acts_of_linked_persons_too() {
    let (_server, mut clients, _dir) = ledger().await;
    for confidence in [LinkConfidence::Verified, LinkConfidence::Asserted] {
        let [one, other] = ["a", "b"].map(|name| format!("user:{name}-{confidence:?}"));
        clients.link(&one, &other, confidence).await;
        clients.record(grant(&one)).await;
        let newest = clients.record(grant(&other)).await;
        let claim = at_ms(newest.recorded_at) - HOUR_MS;
        let answer = clients.record(at(claim, stop(&one))).await;
        assert!(at_ms(answer.effective_at) > at_ms(newest.effective_at));
        for person in [&one, &other] {
            assert_eq!(effect(&mut clients, person, NEWS).await, Effect::Deny, "{person}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_beside_a_live_stop_stands_unless_it_would_pass_a_newer_stop() {
    let (_server, mut clients, _dir) = ledger().await;
    let form = |person: &str, claim| {
        at(claim, act(person, vec![change(Withdraw, "*", "*"), change(Grant, NEWS, "email")]))
    };
    let given = clients.record(act("user:form", vec![change(Grant, OFFERS, "email")])).await;
    let answer = clients.record(form("user:form", at_ms(given.recorded_at) - MINUTE_MS)).await;
    assert_eq!(warned(&answer), [("effective_at", "EFFECTIVE_AT_OVERTAKEN")]);
    assert_eq!(effect(&mut clients, "user:form", NEWS).await, Effect::Allow);
    assert_eq!(effect(&mut clients, "user:form", OFFERS).await, Effect::Deny);

    clients.record(grant("user:stopped")).await;
    let stopped = clients.record(stop("user:stopped")).await;
    let answer = clients.record(form("user:stopped", at_ms(stopped.recorded_at) - MINUTE_MS)).await;
    let outcomes: Vec<_> = answer.results.iter().map(proto::ChangeResult::outcome).collect();
    assert_eq!(outcomes[1], Outcome::NotRecorded);
    assert_eq!(effect(&mut clients, "user:stopped", NEWS).await, Effect::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_is_told_the_same() {
    let (_server, mut clients, _dir) = ledger().await;
    clients.record(grant("user:1")).await;
    for (key, claim) in [("slow", now_ms() - HOUR_MS), ("ahead", now_ms() + HOUR_MS), ("old", 0)] {
        let request =
            RecordConsentRequest { idempotency_key: key.into(), ..at(claim, stop("user:1")) };
        // Only the first stop is older than the newest grant.
        clients.record(grant("user:1")).await;
        let first = clients.record(request.clone()).await;
        let again = clients.record(request).await;
        assert!(again.replayed && !first.replayed);
        assert_eq!(again.warnings, first.warnings, "{key}");
        assert_eq!(warned(&first).len(), 1, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_live_stop_is_weaker_for_the_time_it_claims() {
    let (_server, mut clients, _dir) = ledger().await;
    let mut random = ChaCha8Rng::seed_from_u64(13);
    for round in 0..150 {
        let person = format!("user:{round}");
        let seconds = match round % 3 {
            0 => i64::from(random.next_u32()),
            1 => now_ms() / 1_000 - i64::from(random.next_u32() % 10_000_000),
            _ => random.next_u64().cast_signed() >> (random.next_u32() % 40),
        };
        clients.record(grant(&person)).await;
        let kind = [Withdraw, Object, Refuse][round % 3];
        let effective_at = Some(prost_types::Timestamp { seconds, nanos: 0 });
        let stop = act(&person, vec![change(kind, NEWS, "*")]);
        clients.record(RecordConsentRequest { effective_at, ..stop }).await;
        assert_eq!(effect(&mut clients, &person, NEWS).await, Effect::Deny, "{person}: {seconds}");
        // The person's next word counts.
        clients.record(grant(&person)).await;
        assert_eq!(effect(&mut clients, &person, NEWS).await, Effect::Allow, "{person}: {seconds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_an_import_keeps_its_time_unless_that_cannot_be_right() {
    let (_server, mut clients, _dir) = ledger().await;
    let row = |line: u64, person: &str, action, claim| proto::ImportRow {
        line,
        subject: person.into(),
        changes: vec![change(action, NEWS, "email")],
        effective_at: Some(timestamp(claim)),
        ..proto::ImportRow::default()
    };
    let past = now_ms() - DAY_MS;
    for person in ["user:late", "user:ahead", "user:old"] {
        clients.record(grant(person)).await;
    }
    let rows = vec![
        row(1, "user:late", Withdraw, past),
        row(2, "user:ahead", Withdraw, now_ms() + DAY_MS),
        row(3, "user:old", Withdraw, now_ms() / 1_000),
        row(4, "user:grant-ahead", Grant, now_ms() + DAY_MS),
        row(5, "user:grant-old", Grant, now_ms() / 1_000),
    ];
    let start = proto::ImportStart { source: "list".to_owned(), dry_run: false };
    let messages = [Message::Start(start), Message::Rows(proto::ImportRows { rows })]
        .map(|message| proto::ImportConsentsRequest { message: Some(message) });
    let answer = clients.consent.import_consents(stream::iter(messages)).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.recorded, answer.rejected, answer.warned), (3, 2, 2), "{answer:?}");
    let warnings: Vec<_> =
        answer.warnings.iter().map(|warning| (warning.line, warning.reason.as_str())).collect();
    assert_eq!(warnings, [(2, "EFFECTIVE_AT_IN_FUTURE"), (3, "EFFECTIVE_AT_TOO_OLD")]);
    let rejects: Vec<_> =
        answer.rejects.iter().map(|reject| (reject.line, reject.reason.as_str())).collect();
    assert_eq!(rejects, [(4, "EFFECTIVE_AT_IN_FUTURE"), (5, "EFFECTIVE_AT_TOO_OLD")]);
    assert_eq!(effect(&mut clients, "user:late", NEWS).await, Effect::Allow);
    for person in ["user:ahead", "user:old", "user:grant-ahead", "user:grant-old"] {
        assert_eq!(effect(&mut clients, person, NEWS).await, Effect::Deny, "{person}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_times_are_of_another_unit_loses_no_opt_out() {
    let (server, mut clients, dir) = ledger().await;
    for person in ["user:1", "user:2"] {
        clients.record(grant(person)).await;
    }
    let seconds = now_ms() / 1_000;
    let file = dir.path().join("list.csv");
    fs::write(&file, format!("id,news,at\n1,no,{seconds}\n2,no,0\n3,yes,{seconds}\n")).unwrap();
    let mapping = dir.path().join("map.toml");
    let text = "subject = \"user:{id}\"\n[[cells]]\ncolumn = \"news\"\npurpose = \"marketing.newsletter\"\n\
                channel = \"email\"\ngrant = [\"yes\"]\nwithdraw = [\"no\"]\n[effective_at]\ncolumn = \"at\"\n\
                format = \"unix_ms\"\n";
    fs::write(&mapping, text).unwrap();
    let mut command = binary();
    command.args(["--json", "--addr", &server.address, "import"]).arg(&file);
    command.args(["--source", "list"]).arg("--mapping").arg(&mapping);
    let imported = Process::spawn(command).wait(LONG_PATIENCE);
    assert!(imported.output().contains("seconds that were read as milliseconds"), "{imported:?}");
    for person in ["user:1", "user:2", "user:3"] {
        assert_eq!(effect(&mut clients, person, NEWS).await, Effect::Deny, "{person}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_before_1970_with_a_fraction_is_a_time_and_its_likely_cause_is_told() {
    let (server, mut clients, _dir) = ledger().await;
    for (number, (claim, cause)) in [
        ("1969-12-31T23:30:00.5Z", "a time that was left empty"),
        ("1899-12-30T00:00:00.123Z", "a time that was left empty"),
        ("0024-05-04T10:00:00.001Z", "a year of two digits"),
    ]
    .into_iter()
    .enumerate()
    {
        let person = format!("user:{number}");
        let cell = "marketing.newsletter:email";
        let record = |flag: &str| {
            server.cli(&["record", "--subject", &person, flag, cell, "--effective-at", claim])
        };
        let stopped = record("--withdraw").expect_code(0).output();
        assert!(stopped.contains("lies before") && stopped.contains(cause), "{claim}: {stopped}");
        assert!(!stopped.contains("nanoseconds"), "{claim}: {stopped}");
        let text: jiff::Timestamp = claim.parse().unwrap();
        let given = claimed(&mut clients, &person).await;
        assert_eq!(given, Some(text.as_millisecond()), "{claim}: the claim is kept");
        let refused = record("--grant").expect_code(1).stderr;
        assert!(refused.contains("lies before") && refused.contains(cause), "{claim}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_whose_offset_is_not_one_of_its_zone_is_refused() {
    let (server, _clients, _dir) = ledger().await;
    let record = |at: &str| {
        let act = ["record", "--subject", "user:1", "--grant", "marketing.newsletter:email"];
        server.cli(&[&act[..], &["--effective-at", at]].concat())
    };
    let refused = record("2026-07-01T12:00:00+02:00[America/New_York]").expect_code(2);
    assert!(refused.stderr.contains("--effective-at"), "{}", refused.stderr);
    record("2026-07-01T12:00:00-04:00[America/New_York]").expect_code(0);
}

/// Clocks of Vienna repeat the hour from 02:00 on 25 October 2026, and skip that of 29 March.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_hour_that_clocks_repeat_or_skip_a_stop_takes_the_later_reading_and_a_grant_the_earlier()
 {
    let (server, mut clients, dir) = ledger().await;
    const CELL: &str = "marketing.newsletter:email";
    let record = |person: &str, changes: &[&str], at: &str| {
        let act = ["record", "--subject", person, "--reported-late", "--effective-at", at];
        server.cli(&[&act[..], changes].concat())
    };
    for (n, grant, stop, is_given) in [
        (1, "2026-10-25T00:45:00Z", "2026-10-25T02:30:00[Europe/Vienna]", false),
        (2, "2026-10-25T02:30:00[Europe/Vienna]", "2026-10-25T00:45:00Z", false),
        (3, "2026-03-29T01:15:00Z", "2026-03-29T02:30:00[Europe/Vienna]", false),
        (4, "2026-03-29T02:30:00[Europe/Vienna]", "2026-03-29T00:45:00Z", false),
        (5, "2026-10-25T02:30:00+01:00[Europe/Vienna]", "2026-10-25T00:45:00Z", true),
    ] {
        let person = format!("user:{n}");
        record(&person, &["--grant", CELL], grant).expect_code(0);
        record(&person, &["--withdraw", CELL], stop).expect_code(0);
        let given = effect(&mut clients, &person, NEWS).await == Effect::Allow;
        assert_eq!(given, is_given, "{grant} {stop}");
    }
    let both = ["--grant", CELL, "--withdraw", "marketing.newsletter:sms"];
    let refused = record("user:6", &both, "2026-10-25T02:30:00[Europe/Vienna]").expect_code(2);
    assert!(refused.stderr.contains("offset"), "{}", refused.stderr);
    record("user:6", &both, "2026-10-25T02:30:00+02:00[Europe/Vienna]").expect_code(0);
    let of = ["check", "--subject", "user:1", "--purpose", NEWS, "--channel", "email"];
    let moment = ["--true-at", "2026-10-25T02:30:00[Europe/Vienna]"];
    let refused = server.cli(&[&of[..], &moment].concat()).expect_code(2).stderr;
    assert!(refused.contains("--true-at") && refused.contains("ambiguous"), "{refused}");

    // The same in a file.
    record("user:7", &["--grant", CELL], "2026-10-25T00:45:00Z").expect_code(0);
    let (file, mapping) = (dir.path().join("list.csv"), dir.path().join("map.toml"));
    fs::write(&file, "id,news,at\n7,no,2026-10-25T02:30:00[Europe/Vienna]\n").unwrap();
    let text = "subject = \"user:{id}\"\n[[cells]]\ncolumn = \"news\"\n\
                purpose = \"marketing.newsletter\"\nchannel = \"email\"\nwithdraw = [\"no\"]\n\
                [effective_at]\ncolumn = \"at\"\n";
    fs::write(&mapping, text).unwrap();
    let mut command = binary();
    command.args(["--addr", &server.address, "import"]).arg(&file);
    command.args(["--source", "list"]).arg("--mapping").arg(&mapping);
    Process::spawn(command).wait(LONG_PATIENCE).expect_code(0);
    assert_eq!(effect(&mut clients, "user:7", NEWS).await, Effect::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_times_stand_for_never_says_so_in_every_form() {
    let (server, mut clients, dir) = ledger().await;
    for (id, form, zone, text) in [
        (1, "rfc3339", "", "9999-12-31T23:59:59Z"),
        (2, "%Y-%m-%d", "time_zone = \"UTC\"\n", "9999-12-31"),
    ] {
        let file = dir.path().join("list.csv");
        fs::write(&file, format!("id,news,at\n{id},no,{text}\n")).unwrap();
        let mapping = dir.path().join("map.toml");
        let cells = "subject = \"user:{id}\"\n[[cells]]\ncolumn = \"news\"\n\
                     purpose = \"marketing.newsletter\"\nchannel = \"email\"\nwithdraw = [\"no\"]\n";
        let column = format!("[effective_at]\ncolumn = \"at\"\nformat = \"{form}\"\n{zone}");
        fs::write(&mapping, format!("{cells}{column}")).unwrap();
        let mut command = binary();
        command.args(["--json", "--addr", &server.address, "import"]).arg(&file);
        command.args(["--source", form]).arg("--mapping").arg(&mapping);
        let imported = Process::spawn(command).wait(LONG_PATIENCE).output();
        assert!(imported.contains("a date that stands for"), "{form}: {imported}");
        let person = format!("user:{id}");
        assert_eq!(effect(&mut clients, &person, NEWS).await, Effect::Deny);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_on_the_past_is_a_setting() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--earliest-effective-at", "2020-05-01"];
    let server = Server::start_with(dir.path(), &flags);
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let bound = 1_588_291_200_000;
    let status = clients.consent.record_consent(at(bound - 1, grant("user:1"))).await.unwrap_err();
    assert_eq!(typed(&status).reason, "EFFECTIVE_AT_TOO_OLD");
    assert!(status.message().contains("2020-05-01T00:00:00Z"), "{status:?}");
    let answer = clients.record(at(bound, grant("user:1"))).await;
    assert_eq!(at_ms(answer.effective_at), bound);
    let decision = clients.ask(check_request("user:1", NEWS, "email")).await;
    assert_eq!(decision.reason(), Reason::Granted);
}
