//! Audiences, over TCP to the built binary: who may be contacted, as of one revision.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use consent_ledger::proto::{
    self, Action, AudienceQuery, AudienceSubjects, AudienceSummary, AudienceVerdicts,
    FilterAudienceRequest, FilterAudienceResponse, LinkConfidence, Reason,
    filter_audience_request::Message as Request, filter_audience_response::Message as Response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::support::{
    self, Clients, PATIENCE, Server, TypedError, check_request, millis, now_ms, typed,
};

const PURPOSE: &str = "marketing.newsletter";
const CHANNEL: &str = "email";

fn query() -> AudienceQuery {
    AudienceQuery { purpose: PURPOSE.into(), channel: CHANNEL.into(), ..AudienceQuery::default() }
}

/// One audience stream, message by message.
struct Stream {
    requests: Option<mpsc::Sender<FilterAudienceRequest>>,
    answers: Streaming<FilterAudienceResponse>,
}

impl Stream {
    async fn open(clients: &Clients) -> Self {
        let (requests, receiver) = mpsc::channel(1_000);
        let mut check = clients.check.clone();
        let answers = check.filter_audience(ReceiverStream::new(receiver)).await.unwrap();
        Self { requests: Some(requests), answers: answers.into_inner() }
    }

    async fn ask(clients: &Clients, query: AudienceQuery) -> Self {
        let mut stream = Self::open(clients).await;
        stream.send(Request::Query(query)).await;
        stream
    }

    async fn send(&mut self, message: Request) {
        let request = FilterAudienceRequest { message: Some(message) };
        self.requests.as_ref().unwrap().send(request).await.unwrap();
    }

    async fn answer(&mut self) -> Result<Option<Response>, Status> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        Ok(answer.expect("an answer in time")?.map(|answer| answer.message.unwrap()))
    }

    async fn verdicts(&mut self, subjects: &[impl ToString]) -> AudienceVerdicts {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        self.send(Request::Subjects(AudienceSubjects { subjects })).await;
        match self.answer().await.unwrap() {
            Some(Response::Verdicts(verdicts)) => verdicts,
            other => panic!("{other:?}"),
        }
    }

    async fn summary(&mut self) -> AudienceSummary {
        self.requests = None;
        let Some(Response::Summary(summary)) = self.answer().await.unwrap() else { panic!() };
        assert_eq!(self.answer().await.unwrap(), None, "the summary is the last message");
        summary
    }

    async fn refusal(mut self) -> TypedError {
        typed(&self.answer().await.unwrap_err())
    }
}

async fn record(clients: &mut Clients, subject: &str, action: Action) -> u64 {
    clients.record_change(subject, action, PURPOSE, CHANNEL).await.revision
}

/// `user:0` and so on. Of each five, the first two granted, the third withdrew, the fourth refused;
/// the fifth is unknown.
async fn population(clients: &mut Clients, size: usize) -> Vec<String> {
    clients.put_catalog(&[PURPOSE], &[CHANNEL]).await;
    let mut subjects = Vec::new();
    for number in 0..size {
        let subject = format!("user:{number}");
        match number % 5 {
            0 | 1 => drop(record(clients, &subject, Action::Grant).await),
            2 => {
                record(clients, &subject, Action::Grant).await;
                record(clients, &subject, Action::Withdraw).await;
            }
            3 => drop(record(clients, &subject, Action::Refuse).await),
            _ => {}
        }
        subjects.push(subject);
    }
    subjects
}

fn reasons(summary: &AudienceSummary) -> BTreeMap<Reason, u64> {
    let numbers: Vec<i32> = summary.reasons.iter().map(|row| row.reason).collect();
    assert!(numbers.is_sorted() && !numbers.contains(&0), "{numbers:?}");
    summary.reasons.iter().map(|row| (row.reason(), row.count)).collect()
}

fn bits(packed: &[u8], count: usize) -> Vec<bool> {
    assert_eq!(packed.len(), count.div_ceil(8));
    (0..count).map(|at| packed[at / 8] >> (at % 8) & 1 == 1).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_has_the_allowed_subjects_and_counts_by_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let mut subjects = population(&mut clients, 100).await;
    subjects.extend(["nonsense".into(), String::new(), "user:\u{7}".into(), ":1".into()]);
    let cells: Vec<_> =
        subjects[..100].iter().map(|s| (s.clone(), PURPOSE.into(), CHANNEL.into())).collect();
    let checked = clients.check_cells(&cells).await;
    let allowed: Vec<_> = (subjects.iter().zip(&checked))
        .filter(|(_, check)| check.effect() == proto::Effect::Allow)
        .map(|(subject, _)| subject.clone())
        .collect();
    assert_eq!(allowed.len(), 40);

    let before = now_ms();
    let mut stream = Stream::ask(&clients, query()).await;
    // Two messages, with the malformed ones in the second.
    let first = stream.verdicts(&subjects[..33]).await;
    let second = stream.verdicts(&subjects[33..]).await;
    assert_eq!(first.allowed.len(), first.allowed_count as usize);
    assert_eq!([first.allowed, second.allowed].concat(), allowed);
    assert!(first.packed.is_empty() && second.packed.is_empty());
    let summary = stream.summary().await;
    assert_eq!(summary.revision, checked[0].revision);
    assert!((before..=now_ms()).contains(&millis(summary.decided_at.as_ref()).unwrap()));
    assert_eq!((summary.subjects, summary.allowed, summary.malformed), (104, 40, 4));
    let expected = [
        (Reason::Granted, 40),
        (Reason::Withdrawn, 20),
        (Reason::Refused, 20),
        (Reason::NoRecord, 20),
    ];
    assert_eq!(reasons(&summary), BTreeMap::from(expected));
    assert_eq!(summary.use_revision, None);

    let mut stream = Stream::ask(&clients, AudienceQuery { packed: true, ..query() }).await;
    let packed = stream.verdicts(&subjects).await;
    assert!(packed.allowed.is_empty());
    let verdicts = bits(&packed.packed, subjects.len());
    let unpacked: Vec<_> =
        subjects.iter().zip(verdicts).filter(|(_, bit)| *bit).map(|(s, _)| s.clone()).collect();
    assert_eq!(unpacked, allowed);
    assert_eq!(packed.allowed_count, 40);
    let again = AudienceSummary { decided_at: None, ..stream.summary().await };
    assert_eq!(again, AudienceSummary { decided_at: None, ..summary });
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_purposes_and_channels_are_denied_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let subjects = population(&mut clients, 5).await;
    for (purpose, channel, reason) in [
        ("marketing.letters", CHANNEL, Reason::UnknownPurpose),
        (PURPOSE, "pigeon", Reason::UnknownChannel),
    ] {
        let query = AudienceQuery { purpose: purpose.into(), channel: channel.into(), ..query() };
        let mut stream = Stream::ask(&clients, query).await;
        assert_eq!(stream.verdicts(&subjects).await.allowed_count, 0);
        assert_eq!(reasons(&stream.summary().await), BTreeMap::from([(reason, 5)]));
    }
    // No subjects at all: no message, or an empty one.
    let mut stream = Stream::ask(&clients, query()).await;
    let summary = stream.summary().await;
    assert_eq!((summary.subjects, summary.reasons.len()), (0, 0));
    let asked = AudienceQuery { record_use: true, segment: "s".into(), packed: true, ..query() };
    let mut stream = Stream::ask(&clients, asked).await;
    assert_eq!(stream.verdicts(&[] as &[String]).await, AudienceVerdicts::default());
    let summary = stream.summary().await;
    assert_eq!(summary.use_revision, Some(summary.revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_is_of_the_revision_at_which_the_audience_began() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let subjects = population(&mut clients, 50).await;
    let mut stream = Stream::ask(&clients, query()).await;
    let (some, others) = subjects.split_at(25);
    assert_eq!(stream.verdicts(some).await.allowed_count, 10);
    // Acts after the revision of the audience do not count: a withdrawal, a second grant, a first
    // grant, and a new subject.
    for (number, subject) in subjects.iter().enumerate() {
        let action = if number % 5 < 2 { Action::Withdraw } else { Action::Grant };
        record(&mut clients, subject, action).await;
    }
    let head = record(&mut clients, "user:new", Action::Grant).await;
    let retired = proto::Purpose { retired: true, ..support::consent_purpose(PURPOSE) };
    clients.put_purpose(retired).await;

    let expected: Vec<_> = others.chunks(5).flat_map(|five| five[..2].to_vec()).collect();
    assert_eq!(stream.verdicts(others).await.allowed, expected);
    assert_eq!(stream.verdicts(&["user:new"]).await.allowed_count, 0);
    let summary = stream.summary().await;
    assert!(summary.revision < head, "{summary:?}");
    let expected = [
        (Reason::Granted, 20),
        (Reason::Withdrawn, 10),
        (Reason::Refused, 10),
        (Reason::NoRecord, 11),
    ];
    assert_eq!(reasons(&summary), BTreeMap::from(expected));
    let mut late = Stream::ask(&clients, query()).await;
    assert_eq!(late.verdicts(&subjects).await.allowed_count, 0);
    assert_eq!(reasons(&late.summary().await), BTreeMap::from([(Reason::PurposeRetired, 50)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audience_beside_a_writer_never_mixes_two_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    // From here on, at every revision at most one of the two is granted.
    record(&mut clients, "user:a", Action::Grant).await;
    record(&mut clients, "user:b", Action::Withdraw).await;
    let mut writer = clients.clone();
    let writing = tokio::spawn(async move {
        for round in 0..100 {
            let (from, to) =
                if round % 2 == 0 { ("user:a", "user:b") } else { ("user:b", "user:a") };
            record(&mut writer, from, Action::Withdraw).await;
            record(&mut writer, to, Action::Grant).await;
        }
    });
    while !writing.is_finished() {
        let mut stream = Stream::ask(&clients, query()).await;
        let [first, second] =
            [stream.verdicts(&["user:a"]).await, stream.verdicts(&["user:b"]).await];
        assert!(first.allowed_count + second.allowed_count <= 1, "{first:?} {second:?}");
    }
    writing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn linked_people_count_as_they_did_at_the_revision() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    let subjects = ["user:1", "device:1", "user:2", "device:2", "user:3", "device:3", "user:4"];
    for granted in ["user:1", "user:2", "user:3"] {
        record(&mut clients, granted, Action::Grant).await;
    }
    // A verified link; an asserted link to one who withdrew; and a subject that is linked only
    // later.
    clients.link("user:1", "device:1", LinkConfidence::Verified).await;
    record(&mut clients, "device:2", Action::Withdraw).await;
    clients.link("user:2", "device:2", LinkConfidence::Asserted).await;
    let mut stream = Stream::ask(&clients, query()).await;
    assert_eq!(stream.verdicts(&["user:4"]).await.allowed_count, 0);

    record(&mut clients, "device:1", Action::Withdraw).await;
    clients.unlink("user:2", "device:2").await;
    record(&mut clients, "device:3", Action::Withdraw).await;
    clients.link("user:3", "device:3", LinkConfidence::Verified).await;
    clients.link("user:4", "user:2", LinkConfidence::Verified).await;
    // `device:1` is the same person as `user:1`.
    assert_eq!(stream.verdicts(&subjects).await.allowed, ["user:1", "user:3"]);
    let expected = [(Reason::Granted, 2), (Reason::Withdrawn, 2), (Reason::NoRecord, 3)];
    let summary = stream.summary().await;
    assert_eq!((reasons(&summary), summary.duplicates), (BTreeMap::from(expected), 1));
    let mut late = Stream::ask(&clients, query()).await;
    assert_eq!(late.verdicts(&subjects).await.allowed, ["user:2"]);
    assert_eq!(late.summary().await.duplicates, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_subjects_are_refused_once_the_audience_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--audience-age-max", "300ms"]);
    let mut clients = server.clients().await;
    population(&mut clients, 5).await;
    let mut stream = Stream::ask(&clients, query()).await;
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < deadline, "the audience is never too old");
        let subjects = vec!["user:4".to_owned()];
        stream.send(Request::Subjects(AudienceSubjects { subjects })).await;
        match stream.answer().await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(status) => break typed(&status),
        }
    };
    assert_eq!(refused, TypedError::new(Code::Aborted, "AUDIENCE_TOO_OLD", &["subjects"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_since_the_audience_began_counts_when_its_use_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    population(&mut clients, 5).await;
    let asked = AudienceQuery { record_use: true, segment: "s".into(), ..query() };
    let mut stream = Stream::ask(&clients, asked).await;
    assert_eq!(stream.verdicts(&["user:4"]).await.allowed_count, 0);
    record(&mut clients, "user:0", Action::Withdraw).await;
    assert_eq!(stream.verdicts(&["user:0", "user:1"]).await.allowed, ["user:1"]);
    assert_eq!(uses(&mut clients, "user:0").await, [], "nobody is used after a stop");
    assert_eq!(uses(&mut clients, "user:1").await.len(), 1);
    let expected = [(Reason::Granted, 1), (Reason::Withdrawn, 1), (Reason::NoRecord, 1)];
    assert_eq!(reasons(&stream.summary().await), BTreeMap::from(expected));
}

/// A purpose that permits one use a day.
async fn once_a_day(clients: &mut Clients, key: &str) {
    let limit = proto::FrequencyLimit {
        uses_max: 1,
        period: Some(prost_types::Duration { seconds: 86_400, nanos: 0 }),
    };
    let kind = Some(proto::obligation::Kind::FrequencyLimit(limit));
    let obligations = vec![proto::Obligation { kind, ..Default::default() }];
    clients.put_purpose(proto::Purpose { obligations, ..support::consent_purpose(key) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_audiences_at_once_keep_to_one_limit() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    once_a_day(&mut clients, PURPOSE).await;
    record(&mut clients, "user:1", Action::Grant).await;
    let asked = AudienceQuery { record_use: true, segment: "s".into(), ..query() };
    let mut one = Stream::ask(&clients, asked.clone()).await;
    let mut other = Stream::ask(&clients, asked.clone()).await;
    for stream in [&mut one, &mut other] {
        assert_eq!(stream.verdicts(&["user:4"]).await.allowed_count, 0);
    }
    assert_eq!(one.verdicts(&["user:1"]).await.allowed_count, 1);
    let late = other.verdicts(&["user:1"]).await;
    assert_eq!((late.allowed_count, late.not_now_count), (0, 1));
    assert!(late.not_now[0].not_before.is_some());
    assert_eq!(uses(&mut clients, "user:1").await.len(), 1);

    let asked = AudienceQuery { ignore_obligations: true, ..asked };
    let mut third = Stream::ask(&clients, asked).await;
    assert_eq!(third.verdicts(&["user:1"]).await.allowed_count, 1);
    let uses = uses(&mut clients, "user:1").await;
    assert_eq!(uses.iter().map(|used| used.deviation).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_is_let_through_once_whatever_the_names() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    once_a_day(&mut clients, PURPOSE).await;
    for granted in ["email:kim@x.example", "user:v"] {
        record(&mut clients, granted, Action::Grant).await;
    }
    clients.link("user:v", "email:v@x.example", LinkConfidence::Verified).await;
    let asked = AudienceQuery { record_use: true, segment: "s".into(), ..query() };
    let mut stream = Stream::ask(&clients, asked).await;
    let spellings = ["email:Kim@X.example", "email:kim@x.example", "user:v", "email:v@x.example"];
    assert_eq!(stream.verdicts(&spellings).await.allowed, ["email:Kim@X.example", "user:v"]);
    // Not in a later message either.
    let again = stream.verdicts(&["email:KIM@x.example", "email:V@x.example", "user:4"]).await;
    assert_eq!((again.allowed_count, again.not_now_count), (0, 0));
    let summary = stream.summary().await;
    assert_eq!((summary.subjects, summary.allowed, summary.duplicates), (7, 2, 4));
    assert_eq!(uses(&mut clients, "email:kim@x.example").await.len(), 1);
    // Those that are NOT NOW are not counted twice either.
    let mut stream = Stream::ask(&clients, query()).await;
    let later = stream.verdicts(&spellings).await;
    assert_eq!((later.allowed_count, later.not_now_count), (0, 2));
    assert_eq!(stream.summary().await.duplicates, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stream_leaves_room_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--streams-max", "1"]);
    let mut clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    let mut stream = Stream::ask(&clients, query()).await;
    stream.verdicts(&["user:1"]).await;
    let request = || tokio_stream::iter([FilterAudienceRequest::default()]);
    let refused = typed(&clients.check.filter_audience(request()).await.unwrap_err());
    assert_eq!(refused.reason, "TOO_MANY_STREAMS");
    drop(stream);
    let deadline = Instant::now() + PATIENCE;
    // On a stream that was let in, faults come in the stream.
    while clients.check.filter_audience(request()).await.is_err() {
        assert!(Instant::now() < deadline, "the place is never free");
    }
}

async fn uses(clients: &mut Clients, subject: &str) -> Vec<proto::UseRecord> {
    clients.history(subject).await.into_iter().filter_map(|item| item.r#use).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_are_recorded_before_the_verdict_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    let subjects = population(&mut clients, 20).await;
    let asked = AudienceQuery {
        record_use: true,
        segment: "winter-sale".into(),
        campaign: "2026-11".into(),
        region: "DE".into(),
        ..query()
    };
    let mut stream = Stream::ask(&clients, asked).await;
    let verdicts = stream.verdicts(&subjects[..10]).await;
    assert_eq!(verdicts.allowed_count, 4);
    let used = uses(&mut clients, "user:0").await;
    assert_eq!(used.len(), 1);
    assert_eq!((&*used[0].segment, &*used[0].campaign), ("winter-sale", "2026-11"));
    assert!(!used[0].deviation);
    assert_eq!(uses(&mut clients, "user:2").await, [], "who is denied is not used");
    assert_eq!(uses(&mut clients, "user:15").await, [], "who was not asked about is not used");
    stream.verdicts(&subjects[10..]).await;
    let summary = stream.summary().await;
    let use_revision = summary.use_revision.unwrap();
    assert!(use_revision > summary.revision);
    assert_eq!(clients.entries(0).await.len() as u64, use_revision, "two messages, two entries");
    for (number, subject) in subjects.iter().enumerate() {
        let count = uses(&mut clients, subject).await.len();
        assert_eq!(count, usize::from(number % 5 < 2), "{subject}");
    }
    let check = clients.ask(check_request("user:0", PURPOSE, CHANNEL)).await;
    assert_eq!(check.reason(), Reason::Granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_wait_while_the_append_queue_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--appends-max", "1"]);
    let mut clients = server.clients().await;
    let subjects = population(&mut clients, 10).await;
    let audiences: Vec<_> = (0..8)
        .map(|_| {
            let (clients, subjects) = (clients.clone(), subjects.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let segment = "winter-sale".into();
                    let asked = AudienceQuery { record_use: true, segment, ..query() };
                    let mut stream = Stream::ask(&clients, asked).await;
                    assert_eq!(stream.verdicts(&subjects).await.allowed_count, 4);
                    stream.summary().await.use_revision.unwrap();
                }
            })
        })
        .collect();
    for audience in audiences {
        audience.await.unwrap();
    }
    assert_eq!(uses(&mut clients, "user:0").await.len(), 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_subjects_can_be_used_for_purposes_without_consent() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    let mut purpose = support::consent_purpose("service.mail");
    purpose.legal_basis = proto::LegalBasis::Contract.into();
    clients.put_purpose(purpose).await;
    let asked = AudienceQuery {
        purpose: "service.mail".into(),
        record_use: true,
        segment: "all".into(),
        ..query()
    };
    // More than one entry can hold.
    let subjects: Vec<_> = (0..8_000).map(|number| format!("user:{number}")).collect();
    let mut stream = Stream::ask(&clients, asked).await;
    assert_eq!(stream.verdicts(&subjects).await.allowed, subjects);
    let summary = stream.summary().await;
    assert_eq!(reasons(&summary), BTreeMap::from([(Reason::NotConsentBased, 8_000)]));
    for subject in ["user:0", "user:3499", "user:3500", "user:7999"] {
        assert_eq!(uses(&mut clients, subject).await.len(), 1, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_named_with_their_field() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--revision-wait", "10ms"]);
    let clients = server.clients_with_catalog(&[PURPOSE], &[CHANNEL]).await;
    let long = "x".repeat(129);
    let wrong: Vec<(AudienceQuery, &str, &str)> = vec![
        (AudienceQuery { purpose: String::new(), ..query() }, "INVALID_FIELD", "query.purpose"),
        (AudienceQuery { channel: "*".into(), ..query() }, "INVALID_FIELD", "query.channel"),
        (AudienceQuery { region: "Atlantis".into(), ..query() }, "INVALID_FIELD", "query.region"),
        (
            AudienceQuery { data_categories: vec!["a".into(), "B".into()], ..query() },
            "INVALID_FIELD",
            "query.data_categories[1]",
        ),
        (
            AudienceQuery { data_categories: vec!["a".into(); 101], ..query() },
            "LIMIT_EXCEEDED",
            "query.data_categories",
        ),
        (AudienceQuery { record_use: true, ..query() }, "INVALID_FIELD", "query.segment"),
        (AudienceQuery { segment: long.clone(), ..query() }, "LIMIT_EXCEEDED", "query.segment"),
        (AudienceQuery { campaign: long, ..query() }, "LIMIT_EXCEEDED", "query.campaign"),
        (AudienceQuery { campaign: "a\nb".into(), ..query() }, "INVALID_FIELD", "query.campaign"),
    ];
    for (query, reason, field) in wrong {
        let refused = Stream::ask(&clients, query).await.refusal().await;
        let expected = (Code::InvalidArgument, reason, vec![field.to_owned()]);
        assert_eq!((refused.code, &*refused.reason, refused.fields), expected);
    }
    let ahead = AudienceQuery { at_least_revision: Some(1_000), ..query() };
    let refused = Stream::ask(&clients, ahead).await.refusal().await;
    assert_eq!((refused.code, &*refused.reason), (Code::Unavailable, "REVISION_NOT_REACHED"));

    let subjects =
        |count| Request::Subjects(AudienceSubjects { subjects: vec!["a:1".into(); count] });
    let invalid =
        |reason: &str, field: &str| TypedError::new(Code::InvalidArgument, reason, &[field]);
    // The query comes last, twice, or never.
    let mut stream = Stream::open(&clients).await;
    stream.send(subjects(1)).await;
    assert_eq!(stream.refusal().await, invalid("INVALID_FIELD", "query"));
    let mut stream = Stream::ask(&clients, query()).await;
    stream.send(Request::Query(query())).await;
    assert_eq!(stream.refusal().await, invalid("INVALID_FIELD", "query"));
    let mut stream = Stream::open(&clients).await;
    stream.requests = None;
    assert_eq!(stream.refusal().await, invalid("INVALID_FIELD", "query"));

    let mut stream = Stream::ask(&clients, query()).await;
    assert_eq!(stream.verdicts(&vec!["user:1"; 10_000]).await.allowed_count, 0);
    stream.send(subjects(10_001)).await;
    assert_eq!(stream.refusal().await, invalid("LIMIT_EXCEEDED", "subjects.subjects"));
    let stream = Stream::ask(&clients, query()).await;
    let empty = FilterAudienceRequest { message: None };
    stream.requests.as_ref().unwrap().send(empty).await.unwrap();
    assert_eq!(stream.refusal().await, invalid("INVALID_FIELD", "message"));
    let mut stream = Stream::ask(&clients, query()).await;
    let huge = AudienceSubjects { subjects: vec!["x".repeat(9 << 20)] };
    stream.send(Request::Subjects(huge)).await;
    assert_eq!(stream.refusal().await.reason, "LIMIT_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_audience_does_not_delay_a_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--drain-timeout", "50s"]);
    let mut clients = server.clients().await;
    let subjects = population(&mut clients, 5).await;
    let mut stream = Stream::ask(&clients, query()).await;
    stream.verdicts(&subjects).await;
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    let refused = tokio::time::timeout(Duration::from_secs(20), stream.answers.message()).await;
    let refused = typed(&refused.expect("at once").unwrap_err());
    assert_eq!((refused.code, &*refused.reason), (Code::Unavailable, "SHUTTING_DOWN"));
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("at once").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_filters_a_list_of_ids() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let mut clients = server.clients().await;
    let subjects = population(&mut clients, 10).await;
    let mut lines = String::from("nonsense\n\n");
    for subject in &subjects {
        writeln!(lines, "{subject}\r").unwrap();
    }
    let file = dir.path().join("ids");
    fs::write(&file, lines).unwrap();
    let file = file.to_str().unwrap();
    let cell = ["audience", "--purpose", PURPOSE, "--channel", CHANNEL];
    let audience = |more: &[&str]| server.cli(&[&cell, more].concat());

    let filtered = audience(&[file]).expect_code(0);
    assert_eq!(filtered.stdout, "user:0\nuser:1\nuser:5\nuser:6\n");
    assert!(
        filtered.stderr.starts_with("4 of 11 data subjects allowed; revision "),
        "{}",
        filtered.stderr
    );
    assert!(filtered.stderr.contains("malformed  1\n"), "{}", filtered.stderr);
    assert_eq!(uses(&mut clients, "user:0").await, []);

    let recorded = audience(&[file, "--segment", "s", "--record-use", "--json"]).expect_code(0);
    assert_eq!(recorded.stdout, filtered.stdout);
    let summary: serde_json::Value = serde_json::from_str(&recorded.stderr).unwrap();
    assert_eq!((&summary["subjects"], &summary["malformed"]), (&"11".into(), &"1".into()));
    let granted = serde_json::json!({"reason": "REASON_GRANTED", "count": "4"});
    assert!(summary["reasons"].as_array().unwrap().contains(&granted), "{summary}");
    let revision = |field: &str| summary[field].as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision("useRevision") > revision("revision"));
    assert_eq!(uses(&mut clients, "user:0").await.len(), 1);

    audience(&[file, "--record-use"]).expect_code(2);
    audience(&["no-such-file"]).expect_code(1);
    assert_eq!(audience(&["-"]).expect_code(0).stdout, "", "nobody");
    let refused = audience(&[file, "--region", "Atlantis"]).expect_code(1);
    assert_eq!(refused.stdout, "");
    assert!(refused.stderr.contains("query.region"), "{}", refused.stderr);
}
