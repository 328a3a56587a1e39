//! Clients of every service, the requests that many tests make, and errors as clients see them.

use consent_ledger::proto::{
    self, NamespaceKind, audit_service_client::AuditServiceClient,
    catalog_service_client::CatalogServiceClient, check_service_client::CheckServiceClient,
    consent_service_client::ConsentServiceClient, privacy_service_client::PrivacyServiceClient,
    watch_service_client::WatchServiceClient,
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use super::PATIENCE;

/// A client of every service.
#[derive(Clone)]
pub struct Clients {
    pub channel: Channel,
    pub consent: ConsentServiceClient<Channel>,
    pub check: CheckServiceClient<Channel>,
    pub watch: WatchServiceClient<Channel>,
    pub audit: AuditServiceClient<Channel>,
    pub catalog: CatalogServiceClient<Channel>,
    pub privacy: PrivacyServiceClient<Channel>,
}

/// The namespaces that tests use. Each is an entry.
pub const NAMESPACES: [(&str, NamespaceKind); 8] = [
    ("user", NamespaceKind::Opaque),
    ("device", NamespaceKind::Opaque),
    ("crm", NamespaceKind::Opaque),
    ("cookie", NamespaceKind::Opaque),
    ("phone", NamespaceKind::Opaque),
    ("email", NamespaceKind::Email),
    ("tel", NamespaceKind::Phone),
    ("domain", NamespaceKind::Domain),
];

impl Clients {
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let channel = endpoint.connect_timeout(PATIENCE).connect().await?;
        Ok(Self {
            consent: ConsentServiceClient::new(channel.clone()),
            check: CheckServiceClient::new(channel.clone()),
            watch: WatchServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel.clone()),
            catalog: CatalogServiceClient::new(channel.clone()),
            privacy: PrivacyServiceClient::new(channel.clone()),
            channel,
        })
    }

    /// Puts the namespaces that tests use. Phone numbers without a country code are Austrian.
    pub async fn put_namespaces(&mut self) {
        for (key, kind) in NAMESPACES {
            let default_region =
                if kind == NamespaceKind::Phone { "AT".to_owned() } else { String::new() };
            let namespace = proto::Namespace {
                key: key.to_owned(),
                kind: kind.into(),
                default_region,
                ..proto::Namespace::default()
            };
            let request =
                proto::PutNamespaceRequest { namespace: Some(namespace), ..Default::default() };
            self.catalog.put_namespace(request).await.expect("a namespace without faults");
        }
    }

    /// Puts consent-based purposes without conditions, channels, and the namespaces that tests use.
    pub async fn put_catalog(&mut self, purposes: &[&str], channels: &[&str]) {
        for key in purposes {
            self.put_purpose(consent_purpose(key)).await;
        }
        for key in channels {
            self.put_channel(key, false).await;
        }
        self.put_namespaces().await;
    }

    /// Puts a purpose that the server accepts; grants of earlier versions stay valid.
    pub async fn put_purpose(&mut self, purpose: proto::Purpose) -> proto::PutPurposeResponse {
        let request = proto::PutPurposeRequest {
            purpose: Some(purpose),
            requires_reconsent: false,
            ..Default::default()
        };
        self.catalog.put_purpose(request).await.expect("a valid purpose").into_inner()
    }

    /// Puts a party that the server accepts.
    pub async fn put_party(&mut self, party: proto::Party) -> proto::PutPartyResponse {
        let request = proto::PutPartyRequest { party: Some(party), ..Default::default() };
        self.catalog.put_party(request).await.expect("a valid party").into_inner()
    }

    /// Puts a channel; its title is its key.
    pub async fn put_channel(&mut self, key: &str, retired: bool) {
        let channel = proto::Channel { key: key.into(), title: key.into(), retired };
        let request = proto::PutChannelRequest { channel: Some(channel), ..Default::default() };
        self.catalog.put_channel(request).await.expect("a valid channel");
    }

    /// Records an act that the server accepts.
    pub async fn record(
        &mut self,
        request: proto::RecordConsentRequest,
    ) -> proto::RecordConsentResponse {
        self.consent.record_consent(request).await.expect("an act without faults").into_inner()
    }

    /// Records one change by the data subject in person.
    pub async fn record_change(
        &mut self,
        subject: &str,
        action: proto::Action,
        purpose: &str,
        channel: &str,
    ) -> proto::RecordConsentResponse {
        self.record(one_change(subject, action, purpose, channel)).await
    }

    /// Links two data subjects.
    pub async fn link(
        &mut self,
        subject: &str,
        other: &str,
        confidence: proto::LinkConfidence,
    ) -> proto::LinkSubjectsResponse {
        let request = link_request(subject, other, confidence);
        self.privacy.link_subjects(request).await.expect("a valid link").into_inner()
    }

    /// Ends the link between two data subjects.
    pub async fn unlink(&mut self, subject: &str, other: &str) -> proto::UnlinkSubjectsResponse {
        let request = unlink_request(subject, other);
        self.privacy.unlink_subjects(request).await.expect("a linked pair").into_inner()
    }

    /// Asks a question that the server answers.
    pub async fn ask(&mut self, request: proto::CheckRequest) -> proto::CheckResponse {
        self.check.check(request).await.expect("a question without faults").into_inner()
    }

    /// Creates a subscription that the server accepts; it starts at the end of the ledger.
    pub async fn subscribe(
        &mut self,
        subscription: proto::Subscription,
    ) -> proto::CreateSubscriptionResponse {
        self.try_subscribe(subscription).await.expect("a subscription without faults")
    }

    /// Like [`Self::subscribe`], where the server may refuse.
    pub async fn try_subscribe(
        &mut self,
        subscription: proto::Subscription,
    ) -> Result<proto::CreateSubscriptionResponse, Status> {
        let request = proto::CreateSubscriptionRequest {
            subscription: Some(subscription),
            start_index: None,
        };
        Ok(self.watch.create_subscription(request).await?.into_inner())
    }

    /// The first page of the subscriptions.
    pub async fn subscriptions(&mut self) -> Vec<proto::SubscriptionStatus> {
        let request = proto::ListSubscriptionsRequest::default();
        let answer = self.watch.list_subscriptions(request).await.expect("a first page");
        answer.into_inner().subscriptions
    }

    /// The delivery state of the event at an index, for each subscription that covers it.
    pub async fn propagation(&mut self, index: u64) -> proto::GetPropagationResponse {
        let request = proto::GetPropagationRequest { index, ..Default::default() };
        self.watch.get_propagation(request).await.expect("within the ledger").into_inner()
    }

    /// The latest checkpoint.
    pub async fn checkpoint(&mut self) -> proto::GetCheckpointResponse {
        let request = proto::GetCheckpointRequest::default();
        self.audit.get_checkpoint(request).await.expect("there always is one").into_inner()
    }

    /// Checks cells `(subject, purpose, channel)` in batches that fit every limit.
    pub async fn check_cells(
        &mut self,
        cells: &[(String, String, String)],
    ) -> Vec<proto::CheckResponse> {
        let mut decisions = Vec::with_capacity(cells.len());
        for part in cells.chunks(5_000) {
            let checks = part.iter().map(|(s, p, c)| check_request(s, p, c)).collect();
            let request = proto::BatchCheckRequest { checks, at_least_revision: None };
            let answer = self.check.batch_check(request).await.expect("a batch within limits");
            for (result, cell) in answer.into_inner().results.into_iter().zip(part) {
                match result.result {
                    Some(proto::batch_check_result::Result::Decision(decision)) => {
                        decisions.push(decision);
                    }
                    other => panic!("no decision for {cell:?}: {other:?}"),
                }
            }
        }
        assert_eq!(decisions.len(), cells.len(), "one result for each check");
        decisions
    }

    /// Entries from `start` on, decoded.
    pub async fn entries(&mut self, start: u64) -> Vec<(u64, proto::ledger::Entry)> {
        let request = proto::ListEntriesRequest { start_index: start, end_index: None };
        let mut stream =
            self.audit.list_entries(request).await.expect("within the ledger").into_inner();
        let mut entries = Vec::new();
        while let Some(answer) = stream.message().await.expect("the stream ends well") {
            let entry = prost::Message::decode(answer.entry.as_slice()).expect("an entry");
            entries.push((answer.index, entry));
        }
        entries
    }

    /// The history of a data subject.
    pub async fn history(&mut self, subject: &str) -> Vec<proto::ListHistoryResponse> {
        let request = proto::ListHistoryRequest {
            subject: subject.into(),
            ..proto::ListHistoryRequest::default()
        };
        let mut stream = self.consent.list_history(request).await.expect("a subject").into_inner();
        let mut acts = Vec::new();
        while let Some(act) = stream.message().await.expect("the stream ends well") {
            acts.push(act);
        }
        acts
    }
}

/// A purpose based on consent, without conditions.
pub fn consent_purpose(key: &str) -> proto::Purpose {
    proto::Purpose {
        key: key.into(),
        title: key.into(),
        legal_basis: proto::LegalBasis::Consent.into(),
        ..proto::Purpose::default()
    }
}

pub fn scope(purpose: &str, channel: &str) -> proto::Scope {
    proto::Scope { purpose: purpose.into(), channel: channel.into() }
}

pub fn change(action: proto::Action, purpose: &str, channel: &str) -> proto::Change {
    proto::Change {
        action: action.into(),
        scope: Some(scope(purpose, channel)),
        ..proto::Change::default()
    }
}

/// An act of the data subject in person.
pub fn act(subject: &str, changes: Vec<proto::Change>) -> proto::RecordConsentRequest {
    proto::RecordConsentRequest {
        subject: subject.into(),
        actor: proto::Actor::Subject.into(),
        changes,
        ..proto::RecordConsentRequest::default()
    }
}

/// An act of the data subject in person with one change.
pub fn one_change(
    subject: &str,
    action: proto::Action,
    purpose: &str,
    channel: &str,
) -> proto::RecordConsentRequest {
    act(subject, vec![change(action, purpose, channel)])
}

pub fn link_request(
    subject: &str,
    other: &str,
    confidence: proto::LinkConfidence,
) -> proto::LinkSubjectsRequest {
    proto::LinkSubjectsRequest {
        subject: subject.into(),
        other_subject: other.into(),
        confidence: confidence.into(),
        asserted_by: "login-service".into(),
        dry_run: false,
    }
}

pub fn unlink_request(subject: &str, other: &str) -> proto::UnlinkSubjectsRequest {
    proto::UnlinkSubjectsRequest {
        subject: subject.into(),
        other_subject: other.into(),
        asserted_by: "support".into(),
        dry_run: false,
    }
}

pub fn check_request(subject: &str, purpose: &str, channel: &str) -> proto::CheckRequest {
    proto::CheckRequest {
        subject: subject.into(),
        purpose: purpose.into(),
        channel: channel.into(),
        ..proto::CheckRequest::default()
    }
}

/// The documented reason of an error and the fields at fault, as any client would decode them.
#[derive(Debug, PartialEq, Eq)]
pub struct TypedError {
    pub code: tonic::Code,
    pub reason: String,
    pub fields: Vec<String>,
}

impl TypedError {
    pub fn new(code: tonic::Code, reason: &str, fields: &[&str]) -> Self {
        let fields = fields.iter().map(ToString::to_string).collect();
        Self { code, reason: reason.to_owned(), fields }
    }
}

/// Decodes the details of an error; fails the test where there is no `ErrorInfo` of ours.
#[track_caller]
pub fn typed(status: &Status) -> TypedError {
    let details = status.check_error_details().expect("google.rpc.Status decodes");
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "consent.v1", "{status:?}");
    let violations =
        details.bad_request().map(|bad_request| bad_request.field_violations.as_slice());
    for violation in violations.unwrap_or_default() {
        assert!(!violation.description.is_empty(), "a violation says what is wrong: {status:?}");
    }
    TypedError {
        code: status.code(),
        reason: info.reason.clone(),
        fields: violations
            .unwrap_or_default()
            .iter()
            .map(|violation| violation.field.clone())
            .collect(),
    }
}
