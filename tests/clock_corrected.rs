//! A wrong clock that was trusted, and its correction: the built binary, with a clock that the test sets.
//! After the call, nothing is answered by the wrong times, and the ledger's time is that of the clock.

use consent_ledger::{
    domain::Body,
    proto::{
        self,
        Action::{Grant, Withdraw},
        CatalogEffect, CorrectClockRequest, CorrectClockResponse, Effect, EventKind, Outcome,
        Reason, RecordConsentRequest, RecordConsentResponse,
        as_of::Moment,
        watch_response::Message as Watched,
    },
};
use tonic::{Code, Status};

use crate::support::{
    self, Clients, PATIENCE, Server, TypedError, act, change, check_request, clock::TestClock,
    consent_purpose, eventually, millis, now_ms, opened, timestamp, typed, wait_until_time,
};

const NEWS: &str = "marketing.newsletter";
/// Grants of it last [`VALIDITY_S`] by default.
const TRIAL: &str = "trial";
/// One use in a day.
const RARE: &str = "rare";
/// It needs a double opt-in.
const CLUB: &str = "club";
const VALIDITY_S: i64 = 4;
const DAY_MS: i64 = 24 * 3_600_000;
const YEAR_S: i64 = 365 * 24 * 3_600;

struct Ledger {
    clock: TestClock,
    dir: tempfile::TempDir,
}

impl Ledger {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { clock: TestClock::new(dir.path()), dir }
    }

    fn serve(&self) -> Server {
        self.clock.serve(&self.data_dir(), &[])
    }

    fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// When each of the ends of grants was that are recorded from an index on.
    fn recorded_ends(&self, start: u64) -> Vec<i64> {
        let opened = opened::Ledger::open(&self.data_dir());
        let entries = opened.entries().filter(|entry| entry.index >= start);
        let ends = |body: &Body| match body {
            Body::Expired(expired) => expired.ends.clone(),
            _ => Vec::new(),
        };
        entries.flat_map(|entry| ends(&entry.body)).map(|end| end.expired_at.0).collect()
    }

    fn verify_decisions(&self, server: &Server) {
        support::verify_decisions(&self.data_dir(), &server.address, &["--json"]).expect_code(0);
    }

    async fn start(&self) -> (Server, Clients) {
        let server = self.serve();
        let mut clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let default_validity = seconds(VALIDITY_S);
        clients.put_purpose(proto::Purpose { default_validity, ..consent_purpose(TRIAL) }).await;
        let club = proto::Purpose { double_opt_in: true, ..consent_purpose(CLUB) };
        clients.put_purpose(club).await;
        let limit = proto::FrequencyLimit { uses_max: 1, period: seconds(DAY_MS / 1_000) };
        let obligation = proto::Obligation {
            kind: Some(proto::obligation::Kind::FrequencyLimit(limit)),
            ..proto::Obligation::default()
        };
        let obligations = vec![obligation];
        clients.put_purpose(proto::Purpose { obligations, ..consent_purpose(RARE) }).await;
        (server, clients)
    }

    /// The server trusts a clock that is a year ahead, records these acts, and gets the right time again.
    /// Returns the index of the first, and the answers.
    async fn jump(
        &self,
        clients: &mut Clients,
        acts: Vec<RecordConsentRequest>,
    ) -> (u64, Vec<RecordConsentResponse>) {
        let first = clients.checkpoint().await.size;
        self.clock.set_ahead(YEAR_S);
        self.clock.set_synchronised(true);
        let trusted = act("user:trusts", vec![change(Grant, NEWS, "email")]);
        eventually("the wrong clock is trusted", async || {
            clients.consent.record_consent(trusted.clone()).await.ok()
        })
        .await;
        let mut answers = Vec::new();
        for act in acts {
            let answer = clients.record(act).await;
            assert!(millis(answer.recorded_at.as_ref()).unwrap() > now_ms() + 300 * DAY_MS);
            answers.push(answer);
        }
        let used = proto::RecordUseRequest {
            subject: "user:rare".into(),
            purpose: RARE.into(),
            channel: "email".into(),
            ..proto::RecordUseRequest::default()
        };
        clients.consent.record_use(used).await.unwrap();
        self.clock.set_synchronised(false);
        self.clock.set_ahead(0);
        (first, answers)
    }
}

fn of(person: &str, action: proto::Action, purpose: &str) -> RecordConsentRequest {
    act(person, vec![change(action, purpose, "email")])
}

async fn reason(clients: &mut Clients, person: &str, purpose: &str) -> Reason {
    clients.ask(check_request(person, purpose, "email")).await.reason()
}

fn correction(first_index: u64, end_index: Option<u64>) -> CorrectClockRequest {
    let reason = "NTP was a year ahead".to_owned();
    CorrectClockRequest { first_index, end_index, reason, dry_run: false }
}

async fn correct(clients: &mut Clients, request: CorrectClockRequest) -> CorrectClockResponse {
    clients.catalog.correct_clock(request).await.unwrap().into_inner()
}

async fn refused(clients: &mut Clients, request: CorrectClockRequest) -> Status {
    clients.catalog.correct_clock(request).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_clock_wrote_is_repaired_by_one_call() {
    let ledger = Ledger::new();
    let (server, mut clients) = ledger.start().await;
    for person in ["user:late", "user:stopped"] {
        clients.record(of(person, Grant, NEWS)).await;
    }
    clients.record(of("user:rare", Grant, RARE)).await;
    let mut ends = of("user:ends", Grant, NEWS);
    ends.changes[0].expires_at = Some(timestamp(now_ms() + 30 * DAY_MS));
    clients.record(ends).await;

    let in_jump = vec![
        of("user:late", Grant, NEWS),
        of("user:stopped", Withdraw, NEWS),
        of("user:again", Withdraw, NEWS),
        of("user:asked", Grant, CLUB),
    ];
    let (first, answers) = ledger.jump(&mut clients, in_jump).await;
    let token = answers[3].confirmation.as_ref().unwrap().token.clone();

    // The damage: a stop with the right time loses to the grant of the jump, and a grant has ended.
    let reported = RecordConsentRequest {
        effective_at: Some(timestamp(now_ms())),
        reported_late: true,
        ..of("user:late", Withdraw, NEWS)
    };
    let answer = clients.record(reported).await;
    assert_eq!(answer.results[0].outcome(), Outcome::SupersededByLater);
    assert_eq!(reason(&mut clients, "user:late", NEWS).await, Reason::Granted);
    assert_eq!(reason(&mut clients, "user:ends", NEWS).await, Reason::Expired);
    eventually("the end is recorded, too", async || {
        (!ledger.recorded_ends(first).is_empty()).then_some(())
    })
    .await;
    let head = clients.checkpoint().await.size;

    // A dry run says what would be, and writes nothing.
    let dry = CorrectClockRequest { dry_run: true, ..correction(first, None) };
    let would = correct(&mut clients, dry).await;
    assert!(would.changed && would.index.is_none());
    assert_eq!((would.first_index, would.end_index), (first, head));
    // Four of the jump, `user:trusts`, and whose end was recorded.
    assert_eq!(would.subject_count, 6);
    assert_eq!(clients.checkpoint().await.size, head);

    let before = now_ms();
    let corrected = correct(&mut clients, correction(first, None)).await;
    assert_eq!((corrected.changed, corrected.index), (true, Some(head)));
    assert!(millis(corrected.right_until.as_ref()).unwrap() <= before);
    let right_again = millis(corrected.right_again.as_ref()).unwrap();
    assert!((before..=now_ms()).contains(&right_again));
    assert_eq!(corrected.revision, head + 1);

    let repaired = async |clients: &mut Clients| {
        for (person, purpose, want) in [
            ("user:late", NEWS, Reason::Withdrawn),
            ("user:stopped", NEWS, Reason::Withdrawn),
            ("user:ends", NEWS, Reason::Granted),
            ("user:trusts", NEWS, Reason::Granted),
        ] {
            assert_eq!(reason(clients, person, purpose).await, want, "{person}");
        }
        let rare = clients.ask(check_request("user:rare", RARE, "email")).await;
        assert_eq!(rare.effect(), Effect::NotNow, "the use of the jump counts as one of today");
        let not_before = millis(rare.not_before.as_ref()).unwrap();
        assert!(not_before <= now_ms() + DAY_MS, "{not_before}");
    };
    repaired(&mut clients).await;
    // A history shows what was written, and what corrects it.
    let acts = clients.history("user:late").await;
    let corrected_by: Vec<_> = acts.iter().map(|act| act.clock_corrected_by).collect();
    assert_eq!(corrected_by, [None, Some(head), Some(head)]);
    let table = server.cli(&["history", "--subject", "user:late"]).expect_code(0).stdout;
    assert!(table.contains(&format!("by a wrong clock, see #{head}")), "{table}");
    // What was answered before the correction, and why, is not changed by it.
    let as_of = Some(proto::AsOf { moment: Some(Moment::Revision(head)) });
    let past = proto::CheckRequest { as_of, ..check_request("user:late", NEWS, "email") };
    assert_eq!(clients.ask(past).await.reason(), Reason::Granted);

    // The ledger's time goes on from the clock, and acts of now are later than those of the jump.
    let answer = clients.record(of("user:again", Grant, NEWS)).await;
    assert_eq!(answer.results[0].outcome(), Outcome::Applied);
    assert!(millis(answer.recorded_at.as_ref()).unwrap() <= now_ms());
    assert_eq!(reason(&mut clients, "user:again", NEWS).await, Reason::Granted);
    let proven =
        RecordConsentRequest { wait_for_checkpoint: true, ..of("user:again", Withdraw, NEWS) };
    let answer = clients.record(proven).await;
    assert_eq!(answer.results[0].outcome(), Outcome::Applied);
    assert!(!answer.checkpoint.is_empty(), "checkpoints are signed again");

    // What was asked in the jump can be confirmed, and counts as asked in it.
    let confirm = proto::ConfirmConsentRequest { token, ..Default::default() };
    let confirmed = clients.consent.confirm_consent(confirm).await.unwrap().into_inner();
    assert_eq!(confirmed.results[0].outcome(), Outcome::Applied);
    assert_eq!(reason(&mut clients, "user:asked", CLUB).await, Reason::Granted);

    // Again: nothing more.
    let size = clients.checkpoint().await.size;
    let again = correct(&mut clients, correction(first, None)).await;
    assert_eq!((again.changed, again.index), (false, Some(head)));
    assert_eq!(clients.checkpoint().await.size, size);

    ledger.verify_decisions(&server);
    // A crash and a rebuilt view change nothing.
    drop(clients);
    server.kill();
    let verified = support::verify(&ledger.data_dir()).expect_code(0).json();
    assert_eq!(verified["intact"], true, "{verified}");
    let server = ledger.serve();
    let mut clients = server.clients().await;
    repaired(&mut clients).await;
    drop(clients);
    server.terminate();
    let data_dir = ledger.data_dir();
    support::run(["rebuild-view", "--data-dir", data_dir.to_str().unwrap()]).expect_code(0);
    let server = ledger.serve();
    let mut clients = server.clients().await;
    repaired(&mut clients).await;
    ledger.verify_decisions(&server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_ends_by_default_ends_as_if_given_before_the_jump_and_its_end_is_told_once() {
    let ledger = Ledger::new();
    let (server, mut clients) = ledger.start().await;
    let (first, _) = ledger.jump(&mut clients, vec![of("user:1", Grant, TRIAL)]).await;
    let corrected = correct(&mut clients, correction(first, None)).await;
    let end = millis(corrected.right_until.as_ref()).unwrap() + VALIDITY_S * 1_000;
    eventually("the end is recorded", async || (!ledger.recorded_ends(0).is_empty()).then_some(()))
        .await;
    assert!(now_ms() >= end);
    assert_eq!(reason(&mut clients, "user:1", TRIAL).await, Reason::Expired);
    ledger.verify_decisions(&server);

    drop(clients);
    server.terminate();
    let data_dir = ledger.data_dir();
    support::run(["rebuild-view", "--data-dir", data_dir.to_str().unwrap()]).expect_code(0);
    let server = ledger.serve();
    let mut clients = server.clients().await;
    // The end of a younger grant is told after it would have been told again.
    let mut younger = of("user:2", Grant, NEWS);
    younger.changes[0].expires_at = Some(timestamp(now_ms() + 2_000));
    clients.record(younger).await;
    let all = eventually("a later end is recorded", async || {
        let ends = ledger.recorded_ends(0);
        (ends.len() > 1).then_some(ends)
    })
    .await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(all[0], end);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_jump_is_not_taken_for_the_one_that_is_corrected() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    let (first, _) = ledger.jump(&mut clients, vec![of("user:1", Grant, NEWS)]).await;
    correct(&mut clients, correction(first, None)).await;
    let (second, _) = ledger.jump(&mut clients, vec![of("user:2", Grant, NEWS)]).await;
    let reported = RecordConsentRequest {
        effective_at: Some(timestamp(now_ms())),
        reported_late: true,
        ..of("user:2", Withdraw, NEWS)
    };
    clients.record(reported).await;
    assert_eq!(reason(&mut clients, "user:2", NEWS).await, Reason::Granted);
    let status = refused(&mut clients, correction(first, None)).await;
    assert!(status.message().contains("name a later first_index"), "{status:?}");
    assert!(correct(&mut clients, correction(second, None)).await.changed);
    assert_eq!(reason(&mut clients, "user:2", NEWS).await, Reason::Withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_holds_an_earlier_correction_is_refused_with_its_index() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    wait_until_time(now_ms() + 20);
    let before = clients.record(of("user:0", Grant, NEWS)).await;
    let (first, _) = ledger.jump(&mut clients, vec![of("user:1", Grant, NEWS)]).await;
    let corrected = correct(&mut clients, correction(first, None)).await.index.unwrap();
    wait_until_time(now_ms() + 20);
    clients.record(of("user:2", Grant, NEWS)).await;
    wait_until_time(now_ms() + 20);
    let end = clients.record(of("user:3", Grant, NEWS)).await;
    let head = clients.checkpoint().await.size;
    for start in [before.index, first] {
        let status = refused(&mut clients, correction(start, Some(end.index))).await;
        let want = TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &["first_index"]);
        assert_eq!(typed(&status), want);
        let named = format!("entry {corrected} in this range has corrected the clock");
        assert!(status.message().contains(&named), "{status:?}");
    }
    assert_eq!(clients.checkpoint().await.size, head, "nothing is written");
    // The entries before it may be corrected once more, from an earlier one on.
    assert!(correct(&mut clients, correction(before.index, Some(corrected))).await.changed);
    for person in ["user:0", "user:1", "user:2"] {
        assert_eq!(reason(&mut clients, person, NEWS).await, Reason::Granted, "{person}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_step_is_corrected_after_the_clock_has_caught_up() {
    let ledger = Ledger::new();
    let (server, mut clients) = ledger.start().await;
    clients.record(of("user:1", Withdraw, NEWS)).await;
    clients.record(of("user:4", Grant, NEWS)).await;
    ledger.clock.set_ahead(5);
    let first = clients.record(of("user:1", Grant, NEWS)).await;
    let ahead_until = millis(first.recorded_at.as_ref()).unwrap();
    ledger.clock.set_ahead(0);
    clients.record(of("user:2", Grant, NEWS)).await;
    wait_until_time(ahead_until + 100);
    let end = clients.record(of("user:3", Grant, NEWS)).await;

    let invalid = |field| TypedError::new(Code::InvalidArgument, "INVALID_FIELD", &[field]);
    for (request, field) in [
        (correction(first.index, None), "end_index"),
        (correction(first.index, Some(first.index + 1)), "end_index"),
        (correction(first.index, Some(first.index)), "end_index"),
        (correction(0, None), "first_index"),
        (CorrectClockRequest { reason: String::new(), ..correction(first.index, None) }, "reason"),
        // It was recorded while the ledger waited for the clock, at the time of the entry before.
        (correction(first.index + 1, Some(end.index)), "first_index"),
    ] {
        let got = typed(&refused(&mut clients, request.clone()).await);
        assert_eq!(got, invalid(field), "{request:?}");
    }
    let beyond = typed(&refused(&mut clients, correction(first.index, Some(1_000))).await);
    assert_eq!(beyond, TypedError::new(Code::OutOfRange, "INDEX_OUT_OF_RANGE", &["end_index"]));

    let (from, to) = (first.index.to_string(), end.index.to_string());
    let command = ["clock", "correct", "--from", &from, "--to", &to, "--reason", "a small step"];
    let dry = server.cli(&[&command[..], &["--dry-run"]].concat()).expect_code(0).stdout;
    assert!(dry.contains("nothing was written"), "{dry}");
    let done = server.cli(&command).expect_code(0).stdout;
    assert!(done.contains(&format!("index {}", end.index + 1)), "{done}");
    assert!(done.contains("of 2 data subjects"), "{done}");
    let again = server.cli(&command).expect_code(0).stdout;
    assert!(again.contains("nothing to write"), "{again}");
    // The grant may have been given before a stop that is reported only now.
    let opened = opened::Ledger::open(&ledger.data_dir());
    let before = opened.entries().find(|entry| entry.index == first.index - 1).unwrap();
    let last_right = before.recorded_at.0;
    let reported = RecordConsentRequest {
        effective_at: Some(timestamp(last_right + 1)),
        reported_late: true,
        ..of("user:2", Withdraw, NEWS)
    };
    clients.record(reported).await;
    assert_eq!(reason(&mut clients, "user:2", NEWS).await, Reason::Withdrawn);
    assert_eq!(reason(&mut clients, "user:1", NEWS).await, Reason::Granted);
    assert_eq!(reason(&mut clients, "user:3", NEWS).await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clock_in_doubt_corrects_and_no_range_that_is_ahead_of_nothing() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    let before = clients.record(of("user:1", Grant, NEWS)).await;
    let (first, _) = ledger.jump(&mut clients, Vec::new()).await;
    let head = clients.checkpoint().await.size;
    let field = async |clients: &mut Clients, first_index, end_index| {
        let error = typed(&refused(clients, correction(first_index, end_index)).await);
        assert_eq!(error.reason, "INVALID_FIELD");
        error.fields
    };
    assert_eq!(field(&mut clients, before.index, None).await, ["first_index"], "it is right");
    assert_eq!(field(&mut clients, first + 1, None).await, ["first_index"], "one before is ahead");
    assert_eq!(
        field(&mut clients, first, Some(head - 1)).await,
        ["end_index"],
        "the last is ahead"
    );

    ledger.clock.set_ahead(2 * YEAR_S);
    let status = refused(&mut clients, correction(first, None)).await;
    assert_eq!(typed(&status).reason, "CLOCK_NOT_TRUSTED");
    assert_eq!(clients.checkpoint().await.size, head);
    ledger.clock.set_ahead(0);
    assert!(correct(&mut clients, correction(first, None)).await.changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_hear_that_all_data_subjects_must_be_checked_again() {
    let ledger = Ledger::new();
    let (_server, mut clients) = ledger.start().await;
    let (first, _) = ledger.jump(&mut clients, Vec::new()).await;
    let filter = proto::WatchFilter {
        purposes: vec![NEWS.to_owned()],
        kinds: vec![EventKind::Catalog.into()],
        ..proto::WatchFilter::default()
    };
    let request = proto::WatchRequest { filter: Some(filter), ..proto::WatchRequest::default() };
    let mut stream = clients.watch.watch(request).await.unwrap().into_inner();
    let corrected = correct(&mut clients, correction(first, None)).await;
    let heard = async {
        loop {
            if let Watched::Catalog(event) =
                stream.message().await.unwrap().unwrap().message.unwrap()
            {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE, heard).await.unwrap();
    assert_eq!(Some(event.index), corrected.index);
    assert_eq!(event.effects().collect::<Vec<_>>(), [CatalogEffect::ClockCorrected]);
    let keys = [&event.purpose, &event.channel, &event.namespace];
    assert!(keys.iter().all(|key| key.is_empty()), "{event:?}");
}
