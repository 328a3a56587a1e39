//! Support for the tests of the command line: captured output, and a server with fixed answers.

use std::{
    collections::HashSet,
    io::{self, Write},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Parser;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, codegen::BoxStream, transport::Server};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::{Cli, Context, output::Output};
use crate::{
    proto::{
        self, RecordConsentRequest, RecordConsentResponse,
        audit_service_server::{AuditService, AuditServiceServer},
        catalog_service_server::{CatalogService, CatalogServiceServer},
        check_service_server::{CheckService, CheckServiceServer},
        consent_service_server::{ConsentService, ConsentServiceServer},
        watch_response::Message,
        watch_service_server::{WatchService, WatchServiceServer},
    },
    tlog::key::{Algorithm, SignerKey},
};

/// A key with this name and seed.
pub fn signer(name: &str, algorithm: Algorithm, seed: u8) -> SignerKey {
    SignerKey::from_seed(name, algorithm, &[seed; 32]).unwrap()
}

/// Standard output in memory.
#[derive(Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// A context that prints into a capture.
    pub fn context(json: bool) -> (Context, Self) {
        Self::context_of(&[], json)
    }

    /// The same, with global options.
    pub fn context_of(options: &[&str], json: bool) -> (Context, Self) {
        let args = ["consent-ledger"].iter().chain(options).chain(&["completions", "bash"]);
        let capture = Self::default();
        let out = Output::new(Box::new(capture.clone()), json, false);
        (Context { global: Cli::parse_from(args).global, out }, capture)
    }

    /// The printed text.
    pub fn text(&self, mut context: Context) -> String {
        context.out.flush().unwrap();
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The requests that a [`Rote`] server received.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<SeenActs>>);

#[derive(Default)]
struct SeenActs {
    keys: Vec<(String, String)>,
    in_flight: HashSet<String>,
    overlapped: bool,
    refused_once: HashSet<String>,
    streams: Vec<(proto::ImportStart, Vec<usize>)>,
    imported: Vec<proto::ImportRow>,
    streams_left: Option<usize>,
}

impl Seen {
    /// Idempotency keys of one data subject's acts, in the order of recording.
    pub fn keys_of(&self, subject: &str) -> Vec<String> {
        let seen = self.0.lock().unwrap();
        let keys = seen.keys.iter().filter(|(key_subject, _)| key_subject == subject);
        keys.map(|(_, key)| key.clone()).collect()
    }

    /// Number of acts recorded.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().keys.len()
    }

    /// The streams of rows that were answered: how each began, and the rows of each message.
    pub fn streams(&self) -> Vec<(proto::ImportStart, Vec<usize>)> {
        self.0.lock().unwrap().streams.clone()
    }

    /// Rows of the streams that were answered, in their order.
    pub fn rows(&self) -> Vec<proto::ImportRow> {
        self.0.lock().unwrap().imported.clone()
    }

    /// Lets the server answer this many more streams of rows, and fail at the next one.
    pub fn break_after(&self, streams: Option<usize>) {
        self.0.lock().unwrap().streams_left = streams;
    }

    /// Whether two acts of one data subject were ever in flight together.
    pub fn overlapped(&self) -> bool {
        self.0.lock().unwrap().overlapped
    }
}

/// A server with fixed answers:
/// * it allows the channel `email` and denies all others, and fails on the purpose `broken`;
/// * it refuses to record for the subject `user:refused`, with a reason and a field;
/// * it refuses every act of a subject `busy:…` once, for lack of room;
/// * of an import it refuses the rows of `user:refused`, has no room once for a stream with a
///   subject `busy:…`, finds nothing new in rows without changes, and records all others;
/// * it records anything else after a moment;
/// * its ledger is two entries, its watch one withdrawal and one progress message, and its
///   catalogue one purpose, `a`.
#[derive(Clone, Default)]
pub struct Rote {
    seen: Seen,
}

impl Rote {
    /// Starts a server; it runs as long as the test's runtime.
    pub async fn start() -> (String, Seen) {
        let rote = Self::default();
        let seen = rote.seen.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = Server::builder()
            .add_service(ConsentServiceServer::new(rote.clone()))
            .add_service(CheckServiceServer::new(rote.clone()))
            .add_service(WatchServiceServer::new(rote.clone()))
            .add_service(AuditServiceServer::new(rote.clone()))
            .add_service(CatalogServiceServer::new(rote));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (addr, seen)
    }
}

fn refusal(reason: &str, code: i32, field: Option<&str>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "consent.v1", []);
    if let Some(field) = field {
        details.set_bad_request(vec![FieldViolation::new(field, "must be otherwise")]);
    }
    Status::with_error_details(code.into(), "refused by rote", details)
}

const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const INTERNAL: i32 = 13;

type Answer<T> = Result<Response<T>, Status>;
type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stream<T: Send + 'static>(items: Vec<T>) -> Response<AnswerStream<T>> {
    Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok))))
}

#[tonic::async_trait]
impl ConsentService for Rote {
    async fn record_consent(
        &self,
        request: Request<RecordConsentRequest>,
    ) -> Answer<RecordConsentResponse> {
        let request = request.into_inner();
        if request.subject == "user:refused" {
            return Err(refusal("INVALID_FIELD", INVALID_ARGUMENT, Some("changes[0].scope")));
        }
        {
            let mut seen = self.seen.0.lock().unwrap();
            if request.subject.starts_with("busy:")
                && seen.refused_once.insert(request.idempotency_key.clone())
            {
                return Err(refusal("TOO_MANY_APPENDS", RESOURCE_EXHAUSTED, None));
            }
            seen.overlapped |= !seen.in_flight.insert(request.subject.clone());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut seen = self.seen.0.lock().unwrap();
        seen.in_flight.remove(&request.subject);
        seen.keys.push((request.subject, request.idempotency_key));
        let index = u64::try_from(seen.keys.len()).unwrap();
        let results = request.changes.into_iter().map(|change| proto::ChangeResult {
            action: change.action,
            scope: change.scope,
            outcome: proto::Outcome::Applied.into(),
            expires_at: change.expires_at,
            ..Default::default()
        });
        Ok(Response::new(RecordConsentResponse {
            index,
            revision: index + 1,
            results: results.collect(),
            ..Default::default()
        }))
    }

    async fn import_consents(
        &self,
        request: Request<Streaming<proto::ImportConsentsRequest>>,
    ) -> Answer<proto::ImportConsentsResponse> {
        let (start, messages) = import_messages(request.into_inner()).await?;
        let mut seen = self.seen.0.lock().unwrap();
        if let Some(left) = &mut seen.streams_left {
            *left = left.checked_sub(1).ok_or_else(|| refusal("INTERNAL", INTERNAL, None))?;
        }
        let rows: Vec<_> = messages.iter().flatten().cloned().collect();
        let is_busy = rows.iter().any(|row| row.subject.starts_with("busy:"));
        if is_busy && seen.refused_once.insert(rows[0].subject.clone()) {
            return Err(refusal("TOO_MANY_STREAMS", RESOURCE_EXHAUSTED, None));
        }
        seen.streams.push((start, messages.iter().map(Vec::len).collect()));
        seen.imported.extend(rows.clone());
        Ok(Response::new(imported(&rows)))
    }

    async fn get_preferences(
        &self,
        request: Request<proto::GetPreferencesRequest>,
    ) -> Answer<proto::GetPreferencesResponse> {
        Ok(Response::new(proto::GetPreferencesResponse {
            subject: request.into_inner().subject,
            cells: vec![proto::CellPreference {
                purpose: "a".into(),
                channel: "email".into(),
                status: proto::Status::Given.into(),
                effect: proto::Effect::Allow.into(),
                reason: proto::Reason::Granted.into(),
                decided_by_index: Some(4),
                ..Default::default()
            }],
            stops: vec![proto::StandingStop {
                action: proto::Action::Withdraw.into(),
                scope: Some(proto::Scope { purpose: "*".into(), channel: "sms".into() }),
                effective_at: Some(prost_types::Timestamp::default()),
                index: 5,
                recorded_under: None,
            }],
            revision: 6,
            ..Default::default()
        }))
    }

    async fn list_history(
        &self,
        _: Request<proto::ListHistoryRequest>,
    ) -> Answer<BoxStream<proto::ListHistoryResponse>> {
        Ok(stream(vec![proto::ListHistoryResponse {
            index: 4,
            effective_at: Some(prost_types::Timestamp::default()),
            actor: proto::Actor::Subject.into(),
            changes: vec![proto::ChangeResult {
                action: proto::Action::Grant.into(),
                scope: Some(proto::Scope { purpose: "a".into(), channel: "email".into() }),
                outcome: proto::Outcome::BlockedByStop.into(),
                cause_index: Some(3),
                ..Default::default()
            }],
            evidence: Some(proto::Evidence {
                touchpoint: "onboarding-web".into(),
                notice_id: "n".into(),
                notice_version: "2".into(),
                ..Default::default()
            }),
            entry_hash: vec![0xab; 2],
            ..Default::default()
        }]))
    }
}

/// How a stream of rows begins, and the rows of its messages.
async fn import_messages(
    mut stream: Streaming<proto::ImportConsentsRequest>,
) -> Result<(proto::ImportStart, Vec<Vec<proto::ImportRow>>), Status> {
    use proto::import_consents_request::Message;
    let (mut start, mut messages) = (None, Vec::new());
    while let Some(message) = stream.message().await? {
        match message.message.unwrap() {
            Message::Start(first) if start.is_none() => start = Some(first),
            Message::Rows(chunk) if start.is_some() => messages.push(chunk.rows),
            _ => return Err(refusal("INVALID_FIELD", INVALID_ARGUMENT, Some("start"))),
        }
    }
    Ok((start.unwrap(), messages))
}

fn imported(rows: &[proto::ImportRow]) -> proto::ImportConsentsResponse {
    let count = |count: usize| u64::try_from(count).unwrap();
    let (refused, taken): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row.subject == "user:refused");
    let recorded: Vec<_> = taken.iter().filter(|row| !row.changes.is_empty()).collect();
    let reject = |row: &&proto::ImportRow| proto::ImportReject {
        line: row.line,
        field: "changes[0].scope".to_owned(),
        reason: "INVALID_FIELD".to_owned(),
        message: "refused by rote".to_owned(),
    };
    proto::ImportConsentsResponse {
        rows: count(rows.len()),
        recorded: count(recorded.len()),
        unchanged: count(taken.len() - recorded.len()),
        replayed: 0,
        rejected: count(refused.len()),
        outcomes: vec![proto::OutcomeCount {
            outcome: proto::Outcome::Applied.into(),
            count: count(recorded.iter().map(|row| row.changes.len()).sum()),
        }],
        rejects: refused.iter().map(reject).collect(),
        revision: 2,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl CheckService for Rote {
    async fn check(&self, request: Request<proto::CheckRequest>) -> Answer<proto::CheckResponse> {
        let request = request.into_inner();
        if request.purpose == "broken" {
            return Err(refusal("STATE_UNREADABLE", INTERNAL, None));
        }
        let (effect, reason) = match request.channel.as_str() {
            "email" => (proto::Effect::Allow, proto::Reason::Granted),
            _ => (proto::Effect::Deny, proto::Reason::NoRecord),
        };
        Ok(Response::new(proto::CheckResponse {
            effect: effect.into(),
            reason: reason.into(),
            status: proto::Status::Given.into(),
            revision: 6,
            ..Default::default()
        }))
    }

    async fn batch_check(
        &self,
        _: Request<proto::BatchCheckRequest>,
    ) -> Answer<proto::BatchCheckResponse> {
        Ok(Response::new(proto::BatchCheckResponse::default()))
    }
}

#[tonic::async_trait]
impl WatchService for Rote {
    async fn watch(
        &self,
        _: Request<proto::WatchRequest>,
    ) -> Answer<BoxStream<proto::WatchResponse>> {
        let event = proto::ConsentEvent {
            index: 7,
            subject: "user:42".into(),
            actor: proto::Actor::Subject.into(),
            changes: vec![proto::EventChange {
                action: proto::Action::Withdraw.into(),
                scope: Some(proto::Scope { purpose: "a".into(), channel: "*".into() }),
                outcome: proto::Outcome::Applied.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let progress = proto::Progress { next_index: 9, as_of: None };
        Ok(stream(vec![
            proto::WatchResponse { message: Some(Message::Consent(event)) },
            proto::WatchResponse { message: Some(Message::Progress(progress)) },
        ]))
    }

    async fn list_dead_letters(
        &self,
        request: Request<proto::ListDeadLettersRequest>,
    ) -> Answer<proto::ListDeadLettersResponse> {
        let request = request.into_inner();
        let dead_letter = |index| proto::DeadLetter {
            index,
            failed_index: index + 10,
            failed_at: Some(prost_types::Timestamp::default()),
            attempts: 3,
            http_status: if index == 7 { 0 } else { 503 },
            shard: 1,
        };
        let (indexes, next): (&[u64], _) = match request.page_token.as_str() {
            _ if request.subscription != "crm" => (&[], ""),
            "" => (&[7, 8], "second"),
            "second" => (&[9], ""),
            _ => return Err(refusal("INVALID_FIELD", INVALID_ARGUMENT, Some("page_token"))),
        };
        Ok(Response::new(proto::ListDeadLettersResponse {
            dead_letters: indexes.iter().copied().map(dead_letter).collect(),
            next_page_token: next.to_owned(),
        }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<proto::ReplayDeadLettersRequest>,
    ) -> Answer<proto::ReplayDeadLettersResponse> {
        let indexes = request.into_inner().indexes;
        // Of the three that there are.
        let replayed = if indexes.is_empty() { 3 } else { indexes.len() };
        let replayed = u64::try_from(replayed).unwrap();
        Ok(Response::new(proto::ReplayDeadLettersResponse { replayed }))
    }
}

#[tonic::async_trait]
impl AuditService for Rote {
    async fn get_checkpoint(
        &self,
        _: Request<proto::GetCheckpointRequest>,
    ) -> Answer<proto::GetCheckpointResponse> {
        Ok(Response::new(proto::GetCheckpointResponse { size: 2, ..Default::default() }))
    }

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Answer<BoxStream<proto::ListEntriesResponse>> {
        let request = request.into_inner();
        let indexes = request.start_index..request.end_index.unwrap();
        let entry = |index| proto::ListEntriesResponse {
            index,
            entry: proto::ledger::Entry { index, ..Default::default() }.encode_to_vec(),
        };
        Ok(stream(indexes.map(entry).collect()))
    }
}

#[tonic::async_trait]
impl CatalogService for Rote {
    async fn put_purpose(
        &self,
        request: Request<proto::PutPurposeRequest>,
    ) -> Answer<proto::PutPurposeResponse> {
        let purpose = proto::Purpose { version: 1, ..request.into_inner().purpose.unwrap() };
        let changed = purpose.key != "a";
        Ok(Response::new(proto::PutPurposeResponse {
            purpose: Some(purpose),
            revision: 3,
            changed,
        }))
    }

    async fn put_channel(
        &self,
        request: Request<proto::PutChannelRequest>,
    ) -> Answer<proto::PutChannelResponse> {
        let channel = request.into_inner().channel;
        Ok(Response::new(proto::PutChannelResponse { channel, revision: 3, changed: true }))
    }

    async fn put_namespace(
        &self,
        request: Request<proto::PutNamespaceRequest>,
    ) -> Answer<proto::PutNamespaceResponse> {
        let namespace = request.into_inner().namespace;
        Ok(Response::new(proto::PutNamespaceResponse { namespace, revision: 3, changed: true }))
    }

    async fn list_namespaces(
        &self,
        _: Request<proto::ListNamespacesRequest>,
    ) -> Answer<proto::ListNamespacesResponse> {
        Ok(Response::new(proto::ListNamespacesResponse::default()))
    }

    async fn put_party(
        &self,
        request: Request<proto::PutPartyRequest>,
    ) -> Answer<proto::PutPartyResponse> {
        let party = request.into_inner().party;
        Ok(Response::new(proto::PutPartyResponse { party, revision: 3, changed: true }))
    }

    async fn list_parties(
        &self,
        _: Request<proto::ListPartiesRequest>,
    ) -> Answer<proto::ListPartiesResponse> {
        Ok(Response::new(proto::ListPartiesResponse::default()))
    }

    async fn get_purpose(
        &self,
        _: Request<proto::GetPurposeRequest>,
    ) -> Answer<proto::GetPurposeResponse> {
        Ok(Response::new(proto::GetPurposeResponse::default()))
    }

    /// Two pages: a client that reads one only sees no purpose.
    async fn list_purposes(
        &self,
        request: Request<proto::ListPurposesRequest>,
    ) -> Answer<proto::ListPurposesResponse> {
        if request.into_inner().page_token.is_empty() {
            let next_page_token = "second".to_owned();
            let answer = proto::ListPurposesResponse { next_page_token, ..Default::default() };
            return Ok(Response::new(answer));
        }
        let purposes = vec![proto::Purpose {
            key: "a".into(),
            title: "A".into(),
            legal_basis: proto::LegalBasis::Consent.into(),
            version: 1,
            oldest_compatible_version: 1,
            ..Default::default()
        }];
        Ok(Response::new(proto::ListPurposesResponse { purposes, ..Default::default() }))
    }

    async fn list_channels(
        &self,
        _: Request<proto::ListChannelsRequest>,
    ) -> Answer<proto::ListChannelsResponse> {
        Ok(Response::new(proto::ListChannelsResponse::default()))
    }
}
