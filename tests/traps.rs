//! Cases that break systems which keep consent in rows, one test a case, over gRPC against the
//! built binary. Linked subjects and imports have files of their own.

use std::time::Duration;

use consent_ledger::proto::{
    self, Action, Actor, Effect, EventKind, LegalBasis, Outcome, Reason, Status, as_of::Moment,
    watch_response::Message,
};
use tonic::Code;

use crate::support::{
    self, Clients, Server, act, check_request, millis, now_ms, one_change, timestamp, typed,
};

const NEWS: &str = "marketing.newsletter";
const OFFERS: &str = "marketing.offers";
const DAY_MS: i64 = 24 * 3_600 * 1_000;

/// A server with purposes of several legal bases, and clients of it.
struct Ledger {
    server: Option<Server>,
    clients: Clients,
    dir: tempfile::TempDir,
}

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let clients = server.clients_with_catalog(&[NEWS, OFFERS], &["email", "sms"]).await;
        let mut ledger = Self { server: Some(server), clients, dir };
        ledger.clients.put_purpose(purpose("service.receipts", LegalBasis::Contract)).await;
        ledger
            .clients
            .put_purpose(purpose("service.improvement", LegalBasis::LegitimateInterest))
            .await;
        ledger
    }

    async fn record(
        &mut self,
        request: proto::RecordConsentRequest,
    ) -> proto::RecordConsentResponse {
        self.clients.record(request).await
    }

    async fn refused(&mut self, request: proto::RecordConsentRequest) -> support::TypedError {
        typed(&self.clients.consent.record_consent(request).await.unwrap_err())
    }

    async fn confirm(
        &mut self,
        request: proto::ConfirmConsentRequest,
    ) -> Result<proto::ConfirmConsentResponse, support::TypedError> {
        let answer = self.clients.consent.confirm_consent(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| typed(&status))
    }

    async fn ask(&mut self, request: proto::CheckRequest) -> proto::CheckResponse {
        self.clients.ask(request).await
    }

    async fn check(&mut self, subject: &str, purpose: &str, channel: &str) -> proto::CheckResponse {
        self.ask(check_request(subject, purpose, channel)).await
    }

    async fn reason(&mut self, subject: &str, purpose: &str, channel: &str) -> Reason {
        self.check(subject, purpose, channel).await.reason()
    }

    async fn reason_as_of(&mut self, subject: &str, moment: Moment) -> Reason {
        let as_of = Some(proto::AsOf { moment: Some(moment) });
        self.ask(proto::CheckRequest { as_of, ..check_request(subject, NEWS, "email") })
            .await
            .reason()
    }

    async fn entry_count(&mut self) -> usize {
        self.clients.entries(0).await.len()
    }

    /// Kills the server and starts another over the same directory.
    async fn restart(&mut self) {
        self.server.take().unwrap().kill();
        let server = Server::start(self.dir.path());
        self.clients = server.clients().await;
        self.server = Some(server);
    }
}

fn purpose(key: &str, basis: LegalBasis) -> proto::Purpose {
    proto::Purpose { legal_basis: basis.into(), ..support::consent_purpose(key) }
}

fn double_opt_in(key: &str) -> proto::Purpose {
    proto::Purpose { double_opt_in: true, ..support::consent_purpose(key) }
}

fn grant(subject: &str) -> proto::RecordConsentRequest {
    one_change(subject, Action::Grant, NEWS, "email")
}

fn withdraw(subject: &str) -> proto::RecordConsentRequest {
    one_change(subject, Action::Withdraw, NEWS, "email")
}

fn by(actor: Actor, request: proto::RecordConsentRequest) -> proto::RecordConsentRequest {
    proto::RecordConsentRequest { actor: actor.into(), ..request }
}

/// An act that is reported late.
fn at(effective_at_ms: i64, request: proto::RecordConsentRequest) -> proto::RecordConsentRequest {
    let effective_at = Some(timestamp(effective_at_ms));
    proto::RecordConsentRequest { effective_at, reported_late: true, ..request }
}

fn until(
    expires_at_ms: i64,
    mut request: proto::RecordConsentRequest,
) -> proto::RecordConsentRequest {
    request.changes[0].expires_at = Some(timestamp(expires_at_ms));
    request
}

fn token(token: &str) -> proto::ConfirmConsentRequest {
    proto::ConfirmConsentRequest { token: token.to_owned(), ..Default::default() }
}

fn outcomes(results: &[proto::ChangeResult]) -> Vec<(Outcome, Option<u64>)> {
    results.iter().map(|result| (result.outcome(), result.cause_index)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_refusal_does_not_reveal_an_older_grant() {
    let mut ledger = Ledger::new().await;
    ledger.record(at(now_ms() - 2 * DAY_MS, grant("user:1"))).await;
    let refusal = one_change("user:1", Action::Refuse, NEWS, "email");
    // Only grants expire. A refusal with an expiry is an error, and nothing is recorded.
    let error = ledger.refused(until(now_ms() + 50, refusal.clone())).await;
    assert_eq!(
        (error.reason.as_str(), &*error.fields),
        ("INVALID_FIELD", &["changes[0].expires_at".to_owned()][..])
    );
    ledger.record(at(now_ms() - DAY_MS, refusal)).await;
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!((answer.reason(), answer.status()), (Reason::Refused, Status::Refused));
    assert_eq!(answer.valid_until, None, "no time brings the grant back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_grant_does_not_reveal_an_older_one_that_lasts() {
    let mut ledger = Ledger::new().await;
    ledger.record(at(now_ms() - 2 * DAY_MS, grant("user:1"))).await;
    ledger.record(until(now_ms() - 1_000, at(now_ms() - DAY_MS, grant("user:1")))).await;
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_upload_does_not_reopen_a_withdrawn_cell() {
    let mut ledger = Ledger::new().await;
    let stop = ledger.record(at(now_ms() - DAY_MS, withdraw("user:1"))).await;
    // The device was offline: its opt-in is older than the withdrawal and arrives after it.
    let late = ledger.record(at(now_ms() - 2 * DAY_MS, grant("user:1"))).await;
    assert_eq!(outcomes(&late.results), [(Outcome::SupersededByLater, Some(stop.index))]);
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Withdrawn);
    // The reverse holds too: a late stop does not undo a newer grant.
    let newer = ledger.record(at(now_ms() - DAY_MS, grant("user:2"))).await;
    let late = ledger.record(at(now_ms() - 2 * DAY_MS, withdraw("user:2"))).await;
    assert_eq!(outcomes(&late.results), [(Outcome::SupersededByLater, Some(newer.index))]);
    assert_eq!(ledger.reason("user:2", NEWS, "email").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_on_sms_leaves_transactional_sms_allowed() {
    let mut ledger = Ledger::new().await;
    ledger.record(one_change("user:1", Action::Grant, NEWS, "sms")).await;
    ledger.record(one_change("user:1", Action::Grant, NEWS, "email")).await;
    ledger.record(one_change("user:1", Action::Withdraw, "*", "sms")).await;
    assert_eq!(ledger.reason("user:1", NEWS, "sms").await, Reason::Withdrawn);
    assert_eq!(ledger.reason("user:1", "service.improvement", "sms").await, Reason::Withdrawn);
    assert_eq!(ledger.reason("user:1", "service.receipts", "sms").await, Reason::NotConsentBased);
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_global_stop_and_then_the_persons_own_opt_in_allows_that_cell_only() {
    let mut ledger = Ledger::new().await;
    ledger.record(one_change("user:1", Action::Grant, OFFERS, "sms")).await;
    ledger.record(one_change("user:1", Action::Withdraw, "*", "*")).await;
    let opt_in = ledger.record(grant("user:1")).await;
    assert_eq!(outcomes(&opt_in.results), [(Outcome::Applied, None)]);
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!((answer.reason(), answer.decided_by_index), (Reason::Granted, Some(opt_in.index)));
    for (purpose, channel) in [(NEWS, "sms"), (OFFERS, "sms"), ("service.improvement", "email")] {
        assert_eq!(ledger.reason("user:1", purpose, channel).await, Reason::Withdrawn, "{purpose}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_opt_in_by_import_does_not_lift_the_stop() {
    let mut ledger = Ledger::new().await;
    let stop = ledger.record(one_change("user:1", Action::Withdraw, "*", "*")).await;
    for actor in [Actor::Import, Actor::Operator, Actor::System] {
        let other = ledger.record(by(actor, grant("user:1"))).await;
        assert_eq!(outcomes(&other.results), [(Outcome::BlockedByStop, Some(stop.index))]);
        assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Withdrawn);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_in_a_purpose_is_an_error_on_record_and_deny_on_check() {
    let mut ledger = Ledger::new().await;
    let before = ledger.entry_count().await;
    let error =
        ledger.refused(one_change("user:1", Action::Grant, "marketing.newsleter", "email")).await;
    assert_eq!((error.code, error.reason.as_str()), (Code::NotFound, "UNKNOWN_PURPOSE"));
    assert_eq!(error.fields, ["changes[0].scope.purpose"]);
    assert_eq!(ledger.entry_count().await, before, "a refused request changes nothing");
    let answer = ledger.check("user:1", "marketing.newsleter", "email").await;
    assert_eq!((answer.effect(), answer.reason()), (Effect::Deny, Reason::UnknownPurpose));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resubmitted_form_is_idempotent_and_a_reused_key_is_refused() {
    let mut ledger = Ledger::new().await;
    let form = proto::RecordConsentRequest { idempotency_key: "form-1".into(), ..grant("user:1") };
    let first = ledger.record(form.clone()).await;
    let again = ledger.record(form.clone()).await;
    assert!(!first.replayed && again.replayed);
    assert_eq!(proto::RecordConsentResponse { replayed: false, ..again }, first);
    ledger.restart().await;
    assert_eq!(ledger.record(form.clone()).await.index, first.index, "a restart forgets nothing");
    let evidence = Some(proto::Evidence { touchpoint: "shop".into(), ..Default::default() });
    let other = proto::RecordConsentRequest { evidence, ..form };
    let error = ledger.refused(other).await;
    assert_eq!((error.code, &*error.reason), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(ledger.reason("user:2", NEWS, "email").await, Reason::NoRecord);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_consent_never_falls_back_to_another_basis() {
    let mut ledger = Ledger::new().await;
    ledger.record(grant("user:1")).await;
    let stop = ledger.record(withdraw("user:1")).await;
    for basis in [LegalBasis::LegitimateInterest, LegalBasis::Contract, LegalBasis::PublicTask] {
        ledger.clients.put_purpose(purpose(NEWS, basis)).await;
        let answer = ledger.check("user:1", NEWS, "email").await;
        assert_eq!(answer.reason(), Reason::Withdrawn, "{basis:?}");
        assert_eq!(answer.decided_by_index, Some(stop.index));
        // For a subject who never withdrew, today's legal basis decides.
        assert_eq!(
            ledger.check("user:2", NEWS, "email").await.effect(),
            Effect::Allow,
            "{basis:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_region_of_the_data_subject_chooses_the_legal_basis() {
    let mut ledger = Ledger::new().await;
    let bases = [("DE", LegalBasis::Consent), ("US", LegalBasis::Contract)];
    let regional = proto::Purpose {
        basis_by_region: bases.map(|(region, basis)| (region.to_owned(), basis.into())).into(),
        ..purpose("regional", LegalBasis::LegitimateInterest)
    };
    let put = ledger.clients.put_purpose(regional.clone()).await;
    assert_eq!(put.purpose.unwrap().basis_by_region, regional.basis_by_region);
    for (region, reason, basis) in [
        ("", Reason::NoObjection, LegalBasis::LegitimateInterest),
        ("FR", Reason::NoObjection, LegalBasis::LegitimateInterest),
        ("DE", Reason::NoRecord, LegalBasis::Consent),
        ("DE-BY", Reason::NoRecord, LegalBasis::Consent),
        ("US-CA", Reason::NotConsentBased, LegalBasis::Contract),
    ] {
        let request = check_request("user:1", "regional", "email");
        let answer = ledger.ask(proto::CheckRequest { region: region.into(), ..request }).await;
        assert_eq!((answer.reason(), answer.legal_basis()), (reason, basis), "{region}");
    }
    let wrong = proto::CheckRequest { region: "UK".into(), ..check_request("user:1", NEWS, "sms") };
    let error = typed(&ledger.clients.check.check(wrong).await.unwrap_err());
    assert_eq!((&*error.reason, &*error.fields), ("INVALID_FIELD", &["region".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_counts_old_grants_unless_it_asks_for_consent_again() {
    let mut ledger = Ledger::new().await;
    ledger.record(grant("user:1")).await;
    let reworded = proto::Purpose { title: "News".into(), ..support::consent_purpose(NEWS) };
    assert_eq!(ledger.clients.put_purpose(reworded.clone()).await.purpose.unwrap().version, 2);
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Granted);
    let request = proto::PutPurposeRequest {
        purpose: Some(proto::Purpose { title: "All new".into(), ..reworded.clone() }),
        requires_reconsent: true,
        ..proto::PutPurposeRequest::default()
    };
    let put = ledger.clients.catalog.put_purpose(request).await.unwrap().into_inner();
    assert_eq!(put.purpose.unwrap().oldest_compatible_version, 3);
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!(
        (answer.reason(), answer.status()),
        (Reason::ReconsentRequired, Status::Invalidated)
    );
    let retired = proto::Purpose { title: "All new".into(), retired: true, ..reworded.clone() };
    ledger.clients.put_purpose(retired.clone()).await;
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::PurposeRetired);
    ledger.clients.put_purpose(proto::Purpose { retired: false, ..retired }).await;
    ledger.record(grant("user:1")).await;
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_can_be_narrowed_to_some_data_categories() {
    let mut ledger = Ledger::new().await;
    let profile = proto::Purpose {
        data_categories: vec!["user.contact".into(), "user.age".into()],
        ..support::consent_purpose("profile")
    };
    ledger.clients.put_purpose(profile).await;
    let mut narrowed = one_change("user:1", Action::Grant, "profile", "email");
    narrowed.changes[0].data_categories = vec!["user.contact.email".into()];
    let recorded = ledger.record(narrowed.clone()).await;
    assert_eq!(recorded.results[0].data_categories, ["user.contact.email"]);
    for (asked, reason) in [
        (&["user.contact.email"][..], Reason::Granted),
        (&[], Reason::Granted),
        (&["user.contact.phone"], Reason::DataCategoryNotCovered),
        (&["user.contact"], Reason::DataCategoryNotCovered),
        (&["user.contact.email", "user.age"], Reason::DataCategoryNotCovered),
    ] {
        let mut request = check_request("user:1", "profile", "email");
        request.data_categories = asked.iter().map(ToString::to_string).collect();
        let answer = ledger.ask(request).await;
        assert_eq!(answer.reason(), reason, "{asked:?}");
        let granted = reason == Reason::Granted;
        assert_eq!(answer.data_categories.is_empty(), !granted, "says what the grant covers");
    }
    narrowed.changes[0].data_categories = vec!["user.contact".into(), "user.name".into()];
    let error = ledger.refused(narrowed).await;
    assert_eq!(error.fields, ["changes[0].data_categories[1]"], "the purpose does not declare it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_opt_in_is_completed_by_its_token_once() {
    let mut ledger = Ledger::new().await;
    ledger.clients.put_purpose(double_opt_in("club")).await;
    let form = proto::RecordConsentRequest {
        idempotency_key: "form".into(),
        ..one_change("user:1", Action::Grant, "club", "email")
    };
    let request = ledger.record(form.clone()).await;
    assert_eq!(outcomes(&request.results), [(Outcome::PendingConfirmation, None)]);
    let offer = request.confirmation.clone().unwrap();
    let week =
        millis(offer.expires_at.as_ref()).unwrap() - millis(request.recorded_at.as_ref()).unwrap();
    assert_eq!((offer.token.len(), week), (43, 7 * DAY_MS));
    assert_eq!(
        ledger.record(form).await.confirmation.unwrap(),
        offer,
        "asked again, the same token"
    );
    let answer = ledger.check("user:1", "club", "email").await;
    assert_eq!(
        (answer.reason(), answer.status()),
        (Reason::PendingConfirmation, Status::Requested)
    );

    // No file holds the token: neither the ledger, nor the vault, nor the view.
    for (path, bytes) in support::files(ledger.dir.path()) {
        let found = bytes.windows(offer.token.len()).any(|w| w == offer.token.as_bytes());
        assert!(!found, "the token is in {}", path.display());
    }

    let before = ledger.entry_count().await;
    let unknown = ledger.confirm(token(&"A".repeat(43))).await.unwrap_err();
    assert_eq!((unknown.code, &*unknown.reason), (Code::NotFound, "CONFIRMATION_TOKEN_UNKNOWN"));
    let anothers = proto::ConfirmConsentRequest { subject: "user:2".into(), ..token(&offer.token) };
    assert_eq!(ledger.confirm(anothers).await.unwrap_err().reason, "CONFIRMATION_TOKEN_UNKNOWN");
    assert_eq!(ledger.confirm(token("")).await.unwrap_err().reason, "INVALID_FIELD");
    assert_eq!(ledger.entry_count().await, before, "a refused request changes nothing");

    ledger.restart().await;
    let click = proto::ConfirmConsentRequest {
        evidence: Some(proto::Evidence { touchpoint: "mail".into(), ..Default::default() }),
        idempotency_key: "click".into(),
        ..token(&offer.token)
    };
    let confirmed = ledger.confirm(click.clone()).await.unwrap();
    assert_eq!(confirmed.request_index, request.index);
    assert_eq!(outcomes(&confirmed.results), [(Outcome::Applied, None)]);
    let answer = ledger.check("user:1", "club", "email").await;
    assert_eq!(
        (answer.reason(), answer.decided_by_index),
        (Reason::Granted, Some(confirmed.index))
    );

    let again = ledger.confirm(click).await.unwrap();
    assert!(again.replayed && again.index == confirmed.index);
    let used = ledger.confirm(token(&offer.token)).await.unwrap_err();
    assert_eq!((used.code, &*used.reason), (Code::FailedPrecondition, "CONFIRMATION_TOKEN_USED"));

    let repeated = ledger.record(one_change("user:1", Action::Grant, "club", "email")).await;
    assert_eq!(outcomes(&repeated.results), [(Outcome::NoEffect, None)]);
    assert_eq!(repeated.confirmation, None);
    assert_eq!(ledger.reason("user:1", "club", "email").await, Reason::Granted, "never downgraded");

    // The history shows the evidence of the request and of the confirmation separately.
    let history = ledger.clients.history("user:1").await;
    let kinds: Vec<_> = history.iter().map(proto::ListHistoryResponse::kind).collect();
    use proto::HistoryKind::{Act, Confirmation};
    assert_eq!(kinds, [Act, Confirmation, Act]);
    assert_eq!(history[1].cause_index, Some(request.index));
    let touchpoint = |n: usize| history[n].evidence.as_ref().unwrap().touchpoint.clone();
    assert_eq!(touchpoint(1), "mail");
    assert_ne!(touchpoint(0), "mail");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_confirms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--confirmation-validity", "1s"]);
    let clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let mut ledger = Ledger { server: Some(server), clients, dir };
    ledger.clients.put_purpose(double_opt_in("club")).await;
    let request = ledger.record(one_change("user:1", Action::Grant, "club", "email")).await;
    let offer = request.confirmation.unwrap();
    let expires_at = millis(offer.expires_at.as_ref()).unwrap();
    support::wait_until_time(expires_at + 1);
    let error = ledger.confirm(token(&offer.token)).await.unwrap_err();
    assert_eq!(
        (error.code, &*error.reason),
        (Code::FailedPrecondition, "CONFIRMATION_TOKEN_EXPIRED")
    );
    assert_eq!(ledger.reason("user:1", "club", "email").await, Reason::PendingConfirmation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_does_not_undo_a_stop_that_came_after_the_request() {
    let mut ledger = Ledger::new().await;
    ledger.clients.put_purpose(double_opt_in("club")).await;
    let request = ledger.record(one_change("user:1", Action::Grant, "club", "email")).await;
    let stop = ledger.record(one_change("user:1", Action::Withdraw, "*", "*")).await;
    let confirmed = ledger.confirm(token(&request.confirmation.unwrap().token)).await.unwrap();
    assert_eq!(outcomes(&confirmed.results), [(Outcome::SupersededByLater, Some(stop.index))]);
    assert_eq!(ledger.reason("user:1", "club", "email").await, Reason::Withdrawn);
    // Once confirmed, a request lifts a stop that came before it.
    let again = ledger.record(one_change("user:1", Action::Grant, "club", "email")).await;
    assert_eq!(ledger.reason("user:1", "club", "email").await, Reason::Withdrawn);
    ledger.confirm(token(&again.confirmation.unwrap().token)).await.unwrap();
    assert_eq!(ledger.reason("user:1", "club", "email").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardians_grant_asks_for_consent_again_when_the_child_comes_of_age() {
    let mut ledger = Ledger::new().await;
    let by_guardian = |subject: &str, ends_at_ms: i64| {
        let authority = proto::Authority {
            relationship: "parent".into(),
            representative: "user:7".into(),
            proof: "custody-2024-117".into(),
            ends_at: Some(timestamp(ends_at_ms)),
        };
        let evidence = proto::Evidence { authority: Some(authority), ..Default::default() };
        proto::RecordConsentRequest {
            evidence: Some(evidence),
            ..by(Actor::Guardian, grant(subject))
        }
    };
    let eighteen = now_ms() + 1_500;
    ledger.record(by_guardian("user:1", eighteen)).await;
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!(answer.reason(), Reason::Granted);
    assert_eq!(millis(answer.valid_until.as_ref()), Some(eighteen));
    support::wait_until_time(eighteen);
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!(
        (answer.reason(), answer.status()),
        (Reason::ReconsentRequired, Status::Invalidated)
    );
    let error = ledger.refused(by_guardian("user:1", eighteen)).await;
    assert_eq!((error.code, &*error.reason), (Code::FailedPrecondition, "AUTHORITY_ENDED"));
    ledger.record(grant("user:1")).await;
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Granted);

    // The subject and the guardian may each stop what the other granted.
    ledger.record(by_guardian("user:2", now_ms() + DAY_MS)).await;
    ledger.record(withdraw("user:2")).await;
    assert_eq!(ledger.reason("user:2", NEWS, "email").await, Reason::Withdrawn);
    ledger.record(grant("user:3")).await;
    ledger.record(by(Actor::Guardian, withdraw("user:3"))).await;
    assert_eq!(ledger.reason("user:3", NEWS, "email").await, Reason::Withdrawn);

    // The history shows who acted and by which authority. A subject acts without one, and only a
    // guardian's has an end.
    let history = ledger.clients.history("user:2").await;
    let authority = history[0].evidence.clone().unwrap().authority.unwrap();
    assert_eq!((history[0].actor(), &*authority.relationship), (Actor::Guardian, "parent"));
    for (actor, field) in
        [(Actor::Subject, "evidence.authority"), (Actor::Agent, "evidence.authority.ends_at")]
    {
        let error = ledger.refused(by(actor, by_guardian("user:4", now_ms() + DAY_MS))).await;
        assert_eq!((&*error.reason, &*error.fields), ("INVALID_FIELD", &[field.to_owned()][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_is_recorded_once_and_survives_a_restart() {
    let mut ledger = Ledger::new().await;
    let ends = now_ms() + 2_500;
    let first = ledger.record(until(ends, grant("user:1"))).await;
    ledger.record(until(ends, grant("user:2"))).await;
    // A later grant or a stop has replaced these grants: their expiry changes nothing.
    ledger.record(until(ends, grant("user:3"))).await;
    ledger.record(grant("user:3")).await;
    ledger.record(until(ends, grant("user:4"))).await;
    ledger.record(withdraw("user:4")).await;
    ledger.restart().await;
    support::wait_until_time(ends);
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Expired, "without any entry");

    let request = proto::WatchRequest { start_index: Some(0), ..Default::default() };
    let mut stream = ledger.clients.watch.watch(request).await.unwrap().into_inner();
    let mut expiries = Vec::new();
    while expiries.len() < 2 {
        let message = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
        if let Some(Message::Consent(event)) = message.unwrap().unwrap().unwrap().message
            && event.changes[0].action() == Action::Expire
        {
            assert_eq!((event.reason(), event.actor()), (Reason::Expired, Actor::System));
            assert_eq!(millis(event.effective_at.as_ref()), Some(ends));
            expiries.push((event.subject, event.cause_index));
        }
    }
    assert!(expiries.contains(&("user:1".to_owned(), Some(first.index))), "{expiries:?}");
    assert!(expiries.iter().any(|(subject, _)| subject == "user:2"));
    let history = ledger.clients.history("user:1").await;
    assert_eq!(history[1].kind(), proto::HistoryKind::Expiry);
    assert_eq!(history[1].cause_index, Some(first.index));

    // A view rebuilt from the ledger knows which expiries are already recorded.
    let count = ledger.entry_count().await;
    ledger.server.take().unwrap().terminate();
    std::fs::remove_dir_all(ledger.dir.path().join("view")).unwrap();
    let server = Server::start(ledger.dir.path());
    ledger.clients = server.clients().await;
    ledger.server = Some(server);
    let later = ledger.record(until(now_ms() + 300, grant("user:9"))).await;
    let request = proto::WatchRequest {
        start_index: Some(later.index),
        filter: Some(proto::WatchFilter {
            kinds: vec![EventKind::Expire.into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut stream = ledger.clients.watch.watch(request).await.unwrap().into_inner();
    let event = loop {
        let message = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
        if let Some(Message::Consent(event)) = message.unwrap().unwrap().unwrap().message {
            break event;
        }
    };
    assert_eq!((&*event.subject, event.cause_index), ("user:9", Some(later.index)));
    assert_eq!(ledger.entry_count().await, count + 2, "one act, one expiry, and nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_can_be_asked_by_record_time_or_effective_time() {
    let mut ledger = Ledger::new().await;
    let start = now_ms();
    // Signed up three days ago, withdrew on paper two days ago, and the paper is entered today.
    let given = ledger.record(at(start - 3 * DAY_MS, grant("user:1"))).await;
    support::wait_until_time(millis(given.recorded_at.as_ref()).unwrap() + 6);
    let paper = ledger.record(at(start - 2 * DAY_MS, withdraw("user:1"))).await;
    let recorded = millis(paper.recorded_at.as_ref()).unwrap();
    for (moment, want) in [
        (Moment::Revision(0), Reason::UnknownNamespace),
        (Moment::Revision(given.index), Reason::NoRecord),
        (Moment::Revision(given.revision), Reason::Granted),
        (Moment::Revision(paper.revision), Reason::Withdrawn),
        (Moment::RecordedAt(timestamp(recorded - 1)), Reason::Granted),
        (Moment::RecordedAt(timestamp(recorded)), Reason::Withdrawn),
        // The catalogue of that time was empty yet.
        (Moment::EffectiveAt(timestamp(start - DAY_MS)), Reason::UnknownNamespace),
        (Moment::EffectiveAt(timestamp(recorded)), Reason::Withdrawn),
    ] {
        assert_eq!(ledger.reason_as_of("user:1", moment).await, want, "{moment:?}");
    }
    // State by effective time: between two acts that were both recorded late.
    let known = now_ms();
    ledger.record(at(known - 20, withdraw("user:2"))).await;
    ledger.record(at(known - 40, grant("user:2"))).await;
    assert_eq!(ledger.reason("user:2", NEWS, "email").await, Reason::Withdrawn);
    if known - 30 > start {
        let between = Moment::EffectiveAt(timestamp(known - 30));
        let reason = ledger.reason_as_of("user:2", between).await;
        assert!(matches!(reason, Reason::Granted | Reason::UnknownNamespace), "{reason:?}");
    }

    let as_of = Some(proto::AsOf { moment: Some(Moment::Revision(given.revision)) });
    let request =
        proto::GetPreferencesRequest { subject: "user:1".into(), as_of, ..Default::default() };
    let then = ledger.clients.consent.get_preferences(request).await.unwrap().into_inner();
    assert_eq!((then.revision, then.stops.len()), (given.revision, 0));
    assert_eq!(then.cells[0].status(), Status::Given);

    let ahead = now_ms() + DAY_MS;
    for (moment, reason) in [
        (Moment::Revision(1_000_000), "INDEX_OUT_OF_RANGE"),
        (Moment::RecordedAt(timestamp(ahead)), "INVALID_FIELD"),
        (Moment::EffectiveAt(timestamp(ahead)), "INVALID_FIELD"),
    ] {
        let as_of = Some(proto::AsOf { moment: Some(moment) });
        let request = proto::CheckRequest { as_of, ..check_request("user:1", NEWS, "email") };
        let error = typed(&ledger.clients.check.check(request).await.unwrap_err());
        assert_eq!(error.reason, reason, "{moment:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_arrival_does_not_matter() {
    let mut ledger = Ledger::new().await;
    let start = now_ms() - 10 * DAY_MS;
    let acts = |subject: &str| {
        vec![
            at(start, grant(subject)),
            at(start + 1_000, one_change(subject, Action::Object, "*", "email")),
            at(start + 2_000, by(Actor::Import, grant(subject))),
            at(start + 3_000, one_change(subject, Action::Grant, OFFERS, "email")),
            at(start + 4_000, one_change(subject, Action::Withdraw, OFFERS, "*")),
        ]
    };
    let mut answers = Vec::new();
    for (number, order) in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 0, 3, 1]].iter().enumerate() {
        let subject = format!("user:{number}");
        for position in order {
            ledger.record(acts(&subject)[*position].clone()).await;
        }
        let mut subject_answers = Vec::new();
        for (purpose, channel) in [(NEWS, "email"), (NEWS, "sms"), (OFFERS, "email")] {
            let answer = ledger.check(&subject, purpose, channel).await;
            subject_answers.push((answer.effect(), answer.reason(), answer.status()));
        }
        answers.push(subject_answers);
    }
    assert!(answers.iter().all(|subject_answers| *subject_answers == answers[0]), "{answers:?}");
    assert_eq!(answers[0][0].1, Reason::Objected);
    assert_eq!(answers[0][2].1, Reason::Withdrawn);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validity_over_the_29th_of_february_is_counted_in_days() {
    let mut ledger = Ledger::new().await;
    let year = prost_types::Duration { seconds: 365 * 24 * 3_600, nanos: 0 };
    ledger
        .clients
        .put_purpose(proto::Purpose {
            default_validity: Some(year),
            ..support::consent_purpose("yearly")
        })
        .await;
    for (given, ends) in [
        ("2024-02-29T12:00:00Z", "2025-02-28T12:00:00Z"),
        ("2023-03-01T12:00:00Z", "2024-02-29T12:00:00Z"),
        // Clocks change twice in between; the moment is the same.
        ("2025-03-30T00:59:59Z", "2026-03-30T00:00:00Z"),
    ] {
        let ms = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let recorded = ledger
            .record(at(ms(given), one_change("user:1", Action::Grant, "yearly", "email")))
            .await;
        assert_eq!(millis(recorded.results[0].expires_at.as_ref()), Some(ms(ends)), "{given}");
    }
}

/// Quiet hours around the present moment in a zone, and the time at which they end.
fn quiet_now(zone: &str) -> (proto::QuietHours, i64) {
    let now = jiff::Timestamp::now();
    let end_ms = (now.as_millisecond() / 60_000 + 120) * 60_000;
    let zone = jiff::tz::TimeZone::get(zone).unwrap();
    let minute = |ms: i64| {
        let local = zone.to_datetime(jiff::Timestamp::from_millisecond(ms).unwrap());
        u32::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap()
    };
    let hours = proto::QuietHours {
        start_minute: minute(end_ms - 3 * 3_600_000),
        end_minute: minute(end_ms),
        time_zone: String::new(),
    };
    (hours, end_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn contact_preferences_become_obligations_and_never_a_denial() {
    use proto::obligation::Kind;
    let mut ledger = Ledger::new().await;
    let (hours, ends_ms) = quiet_now("Asia/Kathmandu");
    let mut signup = grant("user:1");
    signup.preferences = Some(proto::ContactPreferences {
        time_zones: vec!["Asia/Kathmandu".into()],
        language: "ne".into(),
        quiet_hours: Some(hours.clone()),
        ..Default::default()
    });
    ledger.record(signup).await;
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!((answer.effect(), answer.reason()), (Effect::NotNow, Reason::Granted));
    assert_eq!(millis(answer.not_before.as_ref()), Some(ends_ms));
    let kinds: Vec<_> =
        answer.obligations.iter().map(|obligation| obligation.kind.clone().unwrap()).collect();
    assert!(kinds.contains(&Kind::QuietHours(hours.clone())), "{kinds:?}");
    assert!(
        kinds
            .contains(&Kind::PreferredLanguage(proto::PreferredLanguage { language: "ne".into() }))
    );
    assert_eq!(ledger.check("user:1", OFFERS, "email").await.obligations, [], "none with a DENY");

    // Preferences that an act omits stay; those it clears are removed. Consent does not change.
    let only = |preferences| proto::RecordConsentRequest {
        preferences: Some(preferences),
        ..act("user:1", Vec::new())
    };
    ledger
        .record(only(proto::ContactPreferences { language: "hi".into(), ..Default::default() }))
        .await;
    let answer = ledger.check("user:1", NEWS, "email").await;
    assert_eq!((answer.obligations.len(), millis(answer.not_before.as_ref())), (2, Some(ends_ms)));
    let clear = vec!["quiet_hours".into(), "language".into()];
    ledger.record(only(proto::ContactPreferences { clear, ..Default::default() })).await;
    assert_eq!(ledger.check("user:1", NEWS, "email").await.obligations, []);

    // Nobody else takes quiet hours and limits away.
    for field in ["quiet_hours", "frequency_limit"] {
        let clear = vec![field.to_owned()];
        let mut request = only(proto::ContactPreferences { clear, ..Default::default() });
        request.actor = Actor::Import.into();
        let error = ledger.refused(request).await;
        assert_eq!((&*error.reason, &*error.fields[0]), ("INVALID_FIELD", "preferences.clear[0]"));
    }

    // Without a known time zone, only hours that are quiet in no possible zone are allowed.
    let mut signup = grant("user:2");
    signup.preferences =
        Some(proto::ContactPreferences { quiet_hours: Some(hours), ..Default::default() });
    ledger.record(signup).await;
    let here = ledger.check("user:2", NEWS, "email").await;
    assert!(here.obligations[0].indeterminate || here.obligations[0].not_before.is_some());
    let there =
        proto::CheckRequest { region: "NP".into(), ..check_request("user:2", NEWS, "email") };
    assert_eq!(
        millis(ledger.ask(there).await.not_before.as_ref()),
        Some(ends_ms),
        "one zone there"
    );

    for (preferences, field) in [
        (
            proto::ContactPreferences {
                time_zones: vec!["Europe/Wien".into()],
                ..Default::default()
            },
            "preferences.time_zones[0]",
        ),
        (
            proto::ContactPreferences { language: "e".into(), ..Default::default() },
            "preferences.language",
        ),
        (
            proto::ContactPreferences { clear: vec!["consent".into()], ..Default::default() },
            "preferences.clear[0]",
        ),
    ] {
        let error = ledger.refused(only(preferences)).await;
        assert_eq!((&*error.reason, &*error.fields), ("INVALID_FIELD", &[field.to_owned()][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_grant_agreed_to_the_version_of_its_time() {
    let mut ledger = Ledger::new().await;
    let first = ledger.record(grant("user:0")).await;
    let shown = millis(first.recorded_at.as_ref()).unwrap() + 1;
    support::wait_until_time(shown + 3);
    let request = proto::PutPurposeRequest {
        purpose: Some(proto::Purpose { title: "All new".into(), ..support::consent_purpose(NEWS) }),
        requires_reconsent: true,
        ..proto::PutPurposeRequest::default()
    };
    ledger.clients.catalog.put_purpose(request).await.unwrap();
    // A late act from an offline device or an old list refers to the version shown at its time.
    for actor in [Actor::Subject, Actor::Import] {
        let late = ledger.record(at(shown, by(actor, grant("user:1")))).await;
        assert_eq!(late.results[0].purpose_version, 1);
        assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::ReconsentRequired);
    }
    let now = ledger.record(grant("user:1")).await;
    assert_eq!(now.results[0].purpose_version, 2);
    assert_eq!(ledger.reason("user:1", NEWS, "email").await, Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_without_a_region_does_not_bypass_a_withdrawal() {
    let mut ledger = Ledger::new().await;
    let regional = proto::Purpose {
        basis_by_region: [("DE".to_owned(), LegalBasis::Consent.into())].into(),
        ..purpose("regional", LegalBasis::Contract)
    };
    ledger.clients.put_purpose(regional).await;
    ledger.record(one_change("user:1", Action::Withdraw, "regional", "*")).await;
    for (region, reason) in
        [("DE", Reason::Withdrawn), ("", Reason::Withdrawn), ("FR", Reason::NotConsentBased)]
    {
        let request = check_request("user:1", "regional", "email");
        let answer = ledger.ask(proto::CheckRequest { region: region.into(), ..request }).await;
        assert_eq!(answer.reason(), reason, "{region}");
    }
}
