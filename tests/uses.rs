//! Recorded uses, and previews of catalogue changes: over gRPC against the built binary.

use consent_ledger::proto::{self, Action, LegalBasis, Reason};
use tonic::Code;

use crate::support::{self, Clients, Server, check_request, millis, now_ms, timestamp, typed};

const NEWS: &str = "marketing.newsletter";

struct Ledger {
    server: Server,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let clients = server.clients_with_catalog(&[NEWS], &["email", "sms"]).await;
        Self { server, clients, dir }
    }

    async fn record_change(
        &mut self,
        subject: &str,
        action: Action,
    ) -> proto::RecordConsentResponse {
        self.clients.record_change(subject, action, NEWS, "email").await
    }

    async fn record_use(&mut self, used: proto::RecordUseRequest) -> proto::RecordUseResponse {
        self.clients.consent.record_use(used).await.unwrap().into_inner()
    }

    async fn refused(&mut self, used: proto::RecordUseRequest) -> support::TypedError {
        typed(&self.clients.consent.record_use(used).await.unwrap_err())
    }

    async fn preview(
        &mut self,
        purpose: proto::Purpose,
        requires_reconsent: bool,
    ) -> proto::PreviewPurposeChangeResponse {
        let request = proto::PreviewPurposeChangeRequest {
            purpose: Some(purpose),
            requires_reconsent,
            ..Default::default()
        };
        self.clients.catalog.preview_purpose_change(request).await.unwrap().into_inner()
    }

    async fn reason(&mut self, subject: &str, channel: &str) -> Reason {
        let request = check_request(subject, NEWS, channel);
        self.clients.ask(request).await.reason()
    }
}

fn mailing(subject: &str) -> proto::RecordUseRequest {
    proto::RecordUseRequest {
        subject: subject.to_owned(),
        purpose: NEWS.to_owned(),
        channel: "email".to_owned(),
        segment: "spring".to_owned(),
        campaign: "tulips".to_owned(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_judged_by_the_state_at_its_time() {
    let mut ledger = Ledger::new().await;
    let given = ledger.record_change("user:1", Action::Grant).await;
    let first = ledger.record_use(mailing("user:1")).await;
    assert_eq!((first.deviation, first.reason()), (false, Reason::Granted));
    let sent = millis(given.recorded_at.as_ref()).unwrap() + 1;
    support::wait_until_time(sent + 6);
    ledger.record_change("user:1", Action::Withdraw).await;
    let after = ledger.record_use(mailing("user:1")).await;
    assert_eq!((after.deviation, after.reason()), (true, Reason::Withdrawn));
    // Reported after the withdrawal, but sent before it: no deviation.
    let late = proto::RecordUseRequest { used_at: Some(timestamp(sent)), ..mailing("user:1") };
    let late = ledger.record_use(late).await;
    assert_eq!((late.deviation, late.reason()), (false, Reason::Granted));
    // Sent before any act was recorded: a deviation, although a grant followed.
    let early = timestamp(millis(given.recorded_at.as_ref()).unwrap() - 3_600_000);
    let early = proto::RecordUseRequest { used_at: Some(early), ..mailing("user:1") };
    assert!(ledger.record_use(early).await.deviation);
    // The subject never acted.
    let stranger = ledger.record_use(mailing("user:2")).await;
    assert_eq!((stranger.deviation, stranger.reason()), (true, Reason::NoRecord));

    let history = ledger.clients.history("user:1").await;
    use proto::HistoryKind::{Act, Use};
    let kinds: Vec<_> = history.iter().map(proto::ListHistoryResponse::kind).collect();
    assert_eq!(kinds, [Act, Use, Act, Use, Use, Use]);
    let used = history[3].r#use.clone().unwrap();
    assert_eq!((used.deviation, used.reason()), (true, Reason::Withdrawn));
    assert_eq!((&*used.segment, &*used.campaign), ("spring", "tulips"));
    assert_eq!(ledger.clients.history("user:2").await.len(), 1, "a use alone makes a history");
    assert_eq!(ledger.reason("user:2", "email").await, Reason::NoRecord, "and no consent");
    drop(ledger.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_judged_by_the_links_and_the_catalogue_of_its_time() {
    let mut ledger = Ledger::new().await;
    ledger.record_change("user:1", Action::Grant).await;
    let apart = moment();
    ledger.clients.link("user:1", "phone:1", proto::LinkConfidence::Verified).await;
    let linked = moment();
    // The answer is that of the time of use, with or without later entries.
    for (used_at, reason) in [(linked, Reason::Granted), (apart, Reason::NoRecord)] {
        let used_at = Some(timestamp(used_at));
        let used = proto::RecordUseRequest { used_at, ..mailing("phone:1") };
        assert_eq!(ledger.record_use(used).await.reason(), reason);
    }
    let purpose = proto::Purpose { retired: true, ..support::consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    let retired = moment();
    ledger.clients.unlink("user:1", "phone:1").await;
    for (used_at, reason) in [
        (apart, Reason::NoRecord),
        (linked, Reason::Granted),
        (retired, Reason::PurposeRetired),
        (moment(), Reason::PurposeRetired),
    ] {
        let used_at = Some(timestamp(used_at));
        let used = proto::RecordUseRequest { used_at, ..mailing("phone:1") };
        let used = ledger.record_use(used).await;
        assert_eq!((used.reason(), used.deviation), (reason, reason != Reason::Granted));
    }
}

/// A moment with a whole millisecond on either side in which nothing happens.
fn moment() -> i64 {
    let now = now_ms();
    support::wait_until_time(now + 4);
    now + 2
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reports_uses_and_exits_with_3_for_a_deviation() {
    let mut ledger = Ledger::new().await;
    ledger.record_change("user:1", Action::Grant).await;
    let report = |server: &Server, subject: &str, more: &[&str]| {
        let words =
            ["use", "--subject", subject, "--purpose", NEWS, "--channel", "email", "--json"];
        server.cli(&[&words[..], more].concat())
    };
    let used =
        report(&ledger.server, "user:1", &["--campaign", "tulips", "--idempotency-key", "k"]);
    let used = used.expect_code(0).json();
    assert_eq!((&used["deviation"], &used["reason"]), (&false.into(), &"REASON_GRANTED".into()));
    let again =
        report(&ledger.server, "user:1", &["--campaign", "tulips", "--idempotency-key", "k"]);
    let again = again.expect_code(0).json();
    assert_eq!((&again["replayed"], &again["index"]), (&true.into(), &used["index"]));
    let used = report(&ledger.server, "user:2", &["--segment", "spring"]).expect_code(3).json();
    assert_eq!((&used["deviation"], &used["reason"]), (&true.into(), &"REASON_NO_RECORD".into()));
    let refused = report(&ledger.server, "user:1", &["--used-at", "2999-01-01T00:00:00Z"]);
    assert!(refused.expect_code(1).stderr.contains("used_at"));
    let history = ledger.server.cli(&["history", "--subject", "user:2"]).expect_code(0).stdout;
    assert!(history.contains("deviation: no_record  segment spring"), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_use_is_refused_with_its_field() {
    let mut ledger = Ledger::new().await;
    let count = ledger.clients.entries(0).await.len();
    let ahead = Some(timestamp(now_ms() + 600_000));
    for (used, code, reason, field) in [
        (
            proto::RecordUseRequest { purpose: "no.such".into(), ..mailing("user:1") },
            Code::NotFound,
            "UNKNOWN_PURPOSE",
            "purpose",
        ),
        (
            proto::RecordUseRequest { channel: "fax".into(), ..mailing("user:1") },
            Code::NotFound,
            "UNKNOWN_CHANNEL",
            "channel",
        ),
        (
            proto::RecordUseRequest { used_at: ahead, ..mailing("user:1") },
            Code::InvalidArgument,
            "INVALID_FIELD",
            "used_at",
        ),
        (
            proto::RecordUseRequest { segment: "s".repeat(129), ..mailing("user:1") },
            Code::InvalidArgument,
            "LIMIT_EXCEEDED",
            "segment",
        ),
        (mailing("nobody"), Code::InvalidArgument, "INVALID_FIELD", "subject"),
    ] {
        let error = ledger.refused(used).await;
        assert_eq!(
            (error.code, &*error.reason, &*error.fields),
            (code, reason, &[field.to_owned()][..])
        );
    }
    assert_eq!(ledger.clients.entries(0).await.len(), count);

    let keyed = proto::RecordUseRequest { idempotency_key: "k".into(), ..mailing("user:1") };
    let first = ledger.record_use(keyed.clone()).await;
    let again = ledger.record_use(keyed.clone()).await;
    assert_eq!((again.index, again.replayed, again.reason), (first.index, true, first.reason));
    let other = proto::RecordUseRequest { campaign: "spring".into(), ..keyed.clone() };
    assert_eq!(ledger.refused(other).await.reason, "IDEMPOTENCY_KEY_REUSED");
    let elsewhere = proto::RecordUseRequest { subject: "user:9".into(), ..keyed };
    assert!(!ledger.record_use(elsewhere).await.replayed, "it is another key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frequency_limit_counts_the_uses_that_were_reported() {
    let mut ledger = Ledger::new().await;
    let week = prost_types::Duration { seconds: 7 * 24 * 3_600, nanos: 0 };
    let limit = proto::FrequencyLimit { uses_max: 2, period: Some(week) };
    let limited = proto::Obligation {
        kind: Some(proto::obligation::Kind::FrequencyLimit(limit)),
        ..Default::default()
    };
    let purpose = proto::Purpose { obligations: vec![limited], ..support::consent_purpose(NEWS) };
    ledger.clients.put_purpose(purpose).await;
    ledger.record_change("user:1", Action::Grant).await;
    for (uses, waits) in [(0, false), (1, false), (2, true)] {
        let request = check_request("user:1", NEWS, "email");
        let answer = ledger.clients.ask(request).await;
        assert_eq!(answer.reason(), Reason::Granted, "a preference denies nothing");
        assert_eq!(answer.not_before.is_some(), waits, "after {uses} uses");
        ledger.record_use(mailing("user:1")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_counts_the_answers_that_change() {
    let mut ledger = Ledger::new().await;
    for number in 0..10 {
        ledger.record_change(&format!("user:{number}"), Action::Grant).await;
    }
    for number in 0..3 {
        ledger.record_change(&format!("user:{number}"), Action::Withdraw).await;
    }
    let purpose = support::consent_purpose(NEWS);
    let same = ledger.preview(purpose.clone(), false).await;
    assert_eq!((same.changed, same.cells, same.flips.len()), (false, 20, 0));

    let interest = proto::Purpose {
        legal_basis: LegalBasis::LegitimateInterest.into(),
        ..support::consent_purpose(NEWS)
    };
    let count = ledger.clients.entries(0).await.len();
    let basis = ledger.preview(interest.clone(), false).await;
    // Seven grants are NO_OBJECTION then, ten cells without record too; three withdrawals stay.
    assert_eq!((basis.would_allow, basis.would_deny, basis.version), (10, 0, 2));
    let unknown = basis.unknown_subject.unwrap();
    assert_eq!((unknown.before(), unknown.after()), (Reason::NoRecord, Reason::NoObjection));
    let again =
        ledger.preview(proto::Purpose { title: "New".into(), ..purpose.clone() }, true).await;
    assert_eq!((again.would_allow, again.would_deny), (0, 7));
    let retired = ledger.preview(proto::Purpose { retired: true, ..purpose }, false).await;
    assert_eq!((retired.would_deny, retired.version), (7, 1));
    assert_eq!(ledger.clients.entries(0).await.len(), count, "nothing is written");

    ledger.clients.put_purpose(interest).await;
    let mut allowed = 0;
    for (number, channel) in (0..10).flat_map(|n| ["email", "sms"].map(|c| (n, c))) {
        let reason = ledger.reason(&format!("user:{number}"), channel).await;
        allowed += u64::from(reason == Reason::NoObjection);
    }
    assert_eq!(allowed, 7 + basis.would_allow);

    let wrong = proto::PreviewPurposeChangeRequest {
        purpose: Some(proto::Purpose {
            oldest_compatible_version: 9,
            ..support::consent_purpose(NEWS)
        }),
        ..Default::default()
    };
    let error = typed(&ledger.clients.catalog.preview_purpose_change(wrong).await.unwrap_err());
    assert_eq!(error.fields, ["purpose.oldest_compatible_version"]);
}
