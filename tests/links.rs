//! Linked data subjects over gRPC against the built binary: what a link does to decisions, and that
//! neither it nor its end rewrites anything.

use consent_ledger::proto::{
    self, Action, Actor, Effect, EventKind, HistoryKind, LinkConfidence, Outcome, Reason,
    as_of::Moment, watch_response::Message,
};
use tonic::Code;

use crate::support::{self, Clients, Server, TypedError, act, change, check_request, typed};

const NEWS: &str = "marketing.newsletter";
const OFFERS: &str = "marketing.offers";
const PURPOSES: [&str; 2] = [NEWS, OFFERS];
const CHANNELS: [&str; 2] = ["email", "sms"];

/// A server with a small catalogue, and clients of it.
struct It {
    server: Option<Server>,
    clients: Clients,
    dir: tempfile::TempDir,
}

/// A changed cell: whose, which, and its reasons before and after.
type Cell = (String, String, String, Reason, Reason);

impl It {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let mut clients = server.clients_with_catalog(&PURPOSES, &CHANNELS).await;
        // What is retired is never told about.
        let channel = proto::Channel { key: "fax".into(), title: String::new(), retired: true };
        let request = proto::PutChannelRequest { channel: Some(channel) };
        clients.catalog.put_channel(request).await.unwrap();
        Self { server: Some(server), clients, dir }
    }

    async fn record(
        &mut self,
        request: proto::RecordConsentRequest,
    ) -> proto::RecordConsentResponse {
        self.clients.record(request).await
    }

    /// Records one change of the newsletter by e-mail, and answers its index.
    async fn says(&mut self, subject: &str, action: Action) -> u64 {
        self.clients.say(subject, action, NEWS, "email").await.index
    }

    async fn try_link(
        &mut self,
        request: proto::LinkSubjectsRequest,
    ) -> Result<proto::LinkSubjectsResponse, TypedError> {
        let answer = self.clients.privacy.link_subjects(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| typed(&status))
    }

    async fn link(
        &mut self,
        subject: &str,
        other: &str,
        confidence: LinkConfidence,
    ) -> proto::LinkSubjectsResponse {
        self.try_link(link(subject, other, confidence)).await.unwrap()
    }

    async fn try_unlink(
        &mut self,
        request: proto::UnlinkSubjectsRequest,
    ) -> Result<proto::UnlinkSubjectsResponse, TypedError> {
        let answer = self.clients.privacy.unlink_subjects(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| typed(&status))
    }

    async fn unlink(&mut self, subject: &str, other: &str) -> proto::UnlinkSubjectsResponse {
        self.try_unlink(unlink(subject, other)).await.unwrap()
    }

    /// The answer for the newsletter by e-mail.
    async fn check(&mut self, subject: &str) -> proto::CheckResponse {
        let request = check_request(subject, NEWS, "email");
        self.clients.ask(request).await
    }

    async fn reason(&mut self, subject: &str) -> Reason {
        self.check(subject).await.reason()
    }

    async fn reason_at(&mut self, subject: &str, revision: u64) -> Reason {
        let as_of = Some(proto::AsOf { moment: Some(Moment::Revision(revision)) });
        let request = proto::CheckRequest { as_of, ..check_request(subject, NEWS, "email") };
        self.clients.ask(request).await.reason()
    }

    async fn preferences(&mut self, subject: &str) -> proto::GetPreferencesResponse {
        let request = proto::GetPreferencesRequest {
            subject: subject.to_owned(),
            all_cells: true,
            ..Default::default()
        };
        self.clients.consent.get_preferences(request).await.unwrap().into_inner()
    }

    async fn links(&mut self, subject: &str) -> Vec<(String, LinkConfidence)> {
        let links = self.preferences(subject).await.links;
        let mut links: Vec<_> =
            links.iter().map(|link| (link.subject.clone(), link.confidence())).collect();
        links.sort();
        links
    }

    async fn size(&mut self) -> u64 {
        self.clients.checkpoint().await.size
    }

    /// Every answer about these subjects that does not change by itself.
    async fn everything(&mut self, subjects: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        for subject in subjects {
            all.push(format!("{:?}", self.preferences(subject).await));
            all.push(format!("{:?}", self.clients.history(subject).await));
        }
        all
    }

    /// The reason of every cell of these subjects.
    async fn reasons(&mut self, subjects: &[&str]) -> Vec<(String, String, String, Reason)> {
        let mut cells = Vec::new();
        for subject in subjects {
            for purpose in PURPOSES {
                for channel in CHANNELS {
                    cells.push((subject.to_string(), purpose.to_owned(), channel.to_owned()));
                }
            }
        }
        let answers = self.clients.check_cells(&cells).await;
        let with_reason = cells.into_iter().zip(answers);
        with_reason.map(|((s, p, c), answer)| (s, p, c, answer.reason())).collect()
    }

    async fn restart(&mut self, killed: bool, without_view: bool) {
        let server = self.server.take().unwrap();
        if killed {
            server.kill();
        } else {
            // The client must be able to hear that the connection ends.
            tokio::task::spawn_blocking(move || server.terminate()).await.unwrap();
        }
        if without_view {
            std::fs::remove_dir_all(self.dir.path().join("view")).unwrap();
        }
        let server = Server::start(self.dir.path());
        self.clients = server.clients().await;
        self.server = Some(server);
    }

    /// Hears events from an index on until there is nothing more.
    async fn heard(&mut self, start: u64, filter: proto::WatchFilter) -> Vec<Message> {
        let request = proto::WatchRequest {
            start_index: Some(start),
            filter: Some(filter),
            ..Default::default()
        };
        let mut stream = self.clients.watch.watch(request).await.unwrap().into_inner();
        let mut heard = Vec::new();
        loop {
            match stream.message().await.unwrap().unwrap().message.unwrap() {
                Message::Progress(_) => return heard,
                message => heard.push(message),
            }
        }
    }
}

fn link(subject: &str, other: &str, confidence: LinkConfidence) -> proto::LinkSubjectsRequest {
    proto::LinkSubjectsRequest {
        subject: subject.to_owned(),
        other_subject: other.to_owned(),
        confidence: confidence.into(),
        asserted_by: "login-service".to_owned(),
        dry_run: false,
    }
}

fn unlink(subject: &str, other: &str) -> proto::UnlinkSubjectsRequest {
    proto::UnlinkSubjectsRequest {
        subject: subject.to_owned(),
        other_subject: other.to_owned(),
        asserted_by: "support".to_owned(),
        dry_run: false,
    }
}

fn told(cells: &[proto::CellChange]) -> Vec<Cell> {
    let told = |cell: &proto::CellChange| {
        for (effect, reason) in [
            (cell.effect_before(), cell.reason_before()),
            (cell.effect_after(), cell.reason_after()),
        ] {
            let allows = matches!(reason, Reason::Granted | Reason::NoObjection);
            assert_eq!(effect == Effect::Allow, allows, "{cell:?}");
        }
        let (subject, purpose) = (cell.subject.clone(), cell.purpose.clone());
        (subject, purpose, cell.channel.clone(), cell.reason_before(), cell.reason_after())
    };
    cells.iter().map(told).collect()
}

const BOTH: [LinkConfidence; 2] = [LinkConfidence::Verified, LinkConfidence::Asserted];

#[tokio::test]
async fn a_merged_profile_does_not_revive_a_revoked_consent() {
    let mut it = It::new().await;
    let mut pairs = 0;
    for confidence in BOTH {
        for linked_first in [false, true] {
            for swapped in [false, true] {
                pairs += 1;
                let (own, other) = (format!("user:{pairs}"), format!("email:{pairs}@example.org"));
                let (one, two) = if swapped { (&other, &own) } else { (&own, &other) };
                if linked_first {
                    it.link(one, two, confidence).await;
                }
                it.says(&other, Action::Grant).await;
                it.says(&own, Action::Grant).await;
                let stop = it.says(&own, Action::Withdraw).await;
                if !linked_first {
                    assert_eq!(it.reason(&other).await, Reason::Granted);
                    let answer = it.link(one, two, confidence).await;
                    let cell = (NEWS.to_owned(), "email".to_owned());
                    let want = (other.clone(), cell.0, cell.1, Reason::Granted, Reason::Withdrawn);
                    assert_eq!(told(&answer.cells), [want]);
                }
                for who in [&own, &other] {
                    let answer = it.check(who).await;
                    assert_eq!(answer.reason(), Reason::Withdrawn, "{who} {confidence:?}");
                    assert_eq!(answer.decided_by_index, Some(stop));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_late_upload_to_the_other_profile_does_not_revive_it_either() {
    let mut it = It::new().await;
    for (n, confidence) in BOTH.into_iter().enumerate() {
        let (own, other) = (format!("user:{n}"), format!("device:{n}"));
        it.link(&own, &other, confidence).await;
        let before = support::now_ms() - 60_000;
        let stop = it.says(&own, Action::Withdraw).await;
        // Given before the withdrawal, uploaded after it.
        let mut late = act(&other, vec![change(Action::Grant, NEWS, "email")]);
        late.effective_at = Some(support::timestamp(before));
        let late = it.record(late).await;
        assert_eq!(late.results[0].outcome(), Outcome::SupersededByLater, "{confidence:?}");
        assert_eq!(late.results[0].cause_index, Some(stop));
        // Nobody but the person lifts it.
        let mut import = act(&other, vec![change(Action::Grant, NEWS, "email")]);
        import.actor = Actor::Import.into();
        let import = it.record(import).await;
        assert_eq!(import.results[0].outcome(), Outcome::BlockedByStop, "{confidence:?}");
        assert_eq!(import.results[0].cause_index, Some(stop));
        for who in [&own, &other] {
            assert_eq!(it.reason(who).await, Reason::Withdrawn, "{who} {confidence:?}");
        }
    }
}

#[tokio::test]
async fn a_later_verified_grant_wins_and_an_unverified_one_only_for_its_own_side() {
    let mut it = It::new().await;
    for (n, confidence) in BOTH.into_iter().enumerate() {
        let (own, other) = (format!("user:{n}"), format!("device:{n}"));
        it.says(&own, Action::Withdraw).await;
        let grant = it.says(&other, Action::Grant).await;
        let answer = it.link(&own, &other, confidence).await;
        let own_answer = it.check(&own).await;
        assert_eq!(it.check(&other).await.decided_by_index, Some(grant));
        assert_eq!(it.reason(&other).await, Reason::Granted);
        if confidence == LinkConfidence::Verified {
            assert_eq!(own_answer.reason(), Reason::Granted);
            assert_eq!(own_answer.decided_by_index, Some(grant));
            assert_eq!(answer.cells.len(), 1);
        } else {
            assert_eq!(own_answer.reason(), Reason::Withdrawn);
            assert_eq!(told(&answer.cells), []);
        }
    }
}

#[tokio::test]
async fn an_unverified_side_contributes_stops_only() {
    let mut it = It::new().await;
    it.says("user:1", Action::Grant).await;
    let preferences = proto::ContactPreferences { language: "de".into(), ..Default::default() };
    let german =
        proto::RecordConsentRequest { preferences: Some(preferences), ..act("user:1", Vec::new()) };
    it.record(german).await;
    it.link("user:1", "device:1", LinkConfidence::Asserted).await;
    assert_eq!(it.reason("device:1").await, Reason::NoRecord);
    assert_eq!(it.preferences("device:1").await.preferences, None);
    assert_eq!(it.reason("user:1").await, Reason::Granted);

    it.says("device:1", Action::Object).await;
    assert_eq!(it.reason("user:1").await, Reason::Objected);
    // Said to be sure after all: with the person's own later grant all counts on both sides.
    it.says("user:1", Action::Grant).await;
    assert_eq!(it.reason("device:1").await, Reason::Objected);
    let answer = it.link("device:1", "user:1", LinkConfidence::Verified).await;
    assert!(answer.changed);
    assert_eq!(it.reason("device:1").await, Reason::Granted);
    assert_eq!(it.preferences("device:1").await.preferences.unwrap().language, "de");
    // And back.
    assert!(it.link("user:1", "device:1", LinkConfidence::Asserted).await.changed);
    assert_eq!(it.reason("device:1").await, Reason::Objected);
}

#[tokio::test]
async fn links_reach_through_links() {
    use LinkConfidence::{Asserted, Verified};
    let mut it = It::new().await;
    let chain = ["user:a", "user:b", "user:c", "user:d"];
    for (pair, confidence) in chain.windows(2).zip([Verified, Asserted, Verified]) {
        it.link(pair[0], pair[1], confidence).await;
    }
    it.says("user:a", Action::Grant).await;
    for (who, want) in
        chain.iter().zip([Reason::Granted, Reason::Granted, Reason::NoRecord, Reason::NoRecord])
    {
        assert_eq!(it.reason(who).await, want, "{who}");
    }
    let named = |links: [(&str, LinkConfidence); 3]| links.map(|(who, how)| (who.to_owned(), how));
    let want = named([("user:b", Verified), ("user:c", Asserted), ("user:d", Asserted)]);
    assert_eq!(it.links("user:a").await, want);
    let want = named([("user:a", Asserted), ("user:b", Asserted), ("user:c", Verified)]);
    assert_eq!(it.links("user:d").await, want);

    let stop = it.says("user:d", Action::Withdraw).await;
    for who in chain {
        assert_eq!(it.check(who).await.decided_by_index, Some(stop), "{who}");
    }
    // In two, at the weak link.
    let answer = it.unlink("user:b", "user:c").await;
    let told = told(&answer.cells);
    let whose: Vec<_> = told.iter().map(|(who, _, _, _, after)| (who.as_str(), *after)).collect();
    assert_eq!(whose, [("user:a", Reason::Granted), ("user:b", Reason::Granted)]);
    assert_eq!(it.links("user:a").await, [("user:b".to_owned(), Verified)]);
    assert_eq!(it.reason("user:c").await, Reason::Withdrawn);
}

#[tokio::test]
async fn the_cells_that_are_told_are_those_that_change() {
    let mut it = It::new().await;
    let subjects = ["device:1", "email:jo@example.org", "user:1", "user:2"];
    it.record(act(
        "user:1",
        vec![
            change(Action::Grant, NEWS, "email"),
            change(Action::Grant, NEWS, "sms"),
            change(Action::Grant, OFFERS, "sms"),
        ],
    ))
    .await;
    it.record(act("device:1", vec![change(Action::Withdraw, "*", "sms")])).await;
    it.record(act("user:2", vec![change(Action::Refuse, OFFERS, "*")])).await;
    it.link("user:2", "device:1", LinkConfidence::Asserted).await;
    it.link("user:1", "email:jo@example.org", LinkConfidence::Verified).await;
    let requests = [
        link("email:jo@example.org", "device:1", LinkConfidence::Verified),
        link("user:1", "user:2", LinkConfidence::Verified),
        link("user:1", "user:2", LinkConfidence::Asserted),
    ];
    for request in requests {
        let before = it.reasons(&subjects).await;
        let size = it.size().await;
        let asked = it
            .try_link(proto::LinkSubjectsRequest { dry_run: true, ..request.clone() })
            .await
            .unwrap();
        assert_eq!((asked.index, asked.changed, asked.revision), (None, true, size));
        assert_eq!((it.size().await, it.reasons(&subjects).await), (size, before.clone()));

        let answer = it.try_link(request).await.unwrap();
        assert_eq!((answer.index, answer.revision), (Some(size), size + 1));
        assert_eq!(told(&answer.cells), told(&asked.cells));
        assert!(!answer.cells.is_empty());
        let after = it.reasons(&subjects).await;
        let differ = before.into_iter().zip(after).filter(|(before, after)| before.3 != after.3);
        let want: Vec<Cell> =
            differ.map(|((s, p, c, before), (.., after))| (s, p, c, before, after)).collect();
        assert_eq!(told(&answer.cells), want);
    }
}

#[tokio::test]
async fn an_unlink_brings_back_what_was_and_rewrites_nothing() {
    let mut it = It::new().await;
    let subjects = ["user:1", "device:1"];
    it.says("user:1", Action::Grant).await;
    let last = it.says("device:1", Action::Withdraw).await;
    let before = it.reasons(&subjects).await;
    let entries = it.clients.entries(0).await;
    let linked = it.link("user:1", "device:1", LinkConfidence::Verified).await;
    assert_eq!(it.reason("user:1").await, Reason::Withdrawn);
    let revision = linked.revision;

    // The same again, from either side, writes nothing.
    for (one, other) in [("user:1", "device:1"), ("device:1", "user:1")] {
        let again = it.link(one, other, LinkConfidence::Verified).await;
        assert_eq!((again.index, again.changed, again.revision), (None, false, revision));
        assert_eq!(again.cells, []);
    }
    let asked = it
        .try_unlink(proto::UnlinkSubjectsRequest { dry_run: true, ..unlink("device:1", "user:1") })
        .await
        .unwrap();
    assert_eq!((asked.index, asked.revision, it.size().await), (None, revision, revision));
    let answer = it.unlink("device:1", "user:1").await;
    assert_eq!((answer.index, answer.cells.len()), (Some(revision), 1));
    assert_eq!(answer.cells, asked.cells);
    assert_eq!(it.reasons(&subjects).await, before);
    assert_eq!(it.links("user:1").await, []);
    let error = it.try_unlink(unlink("user:1", "device:1")).await.unwrap_err();
    assert_eq!(error.reason, "SUBJECTS_NOT_LINKED");
    assert_eq!(
        (error.code, error.fields),
        (Code::FailedPrecondition, vec!["other_subject".into()])
    );

    let now = it.clients.entries(0).await;
    assert_eq!(now.len(), entries.len() + 2);
    assert_eq!(now[..entries.len()], entries);
    // The past is as it was at each step.
    for (revision, want) in
        [(last + 1, Reason::Granted), (last + 2, Reason::Withdrawn), (last + 3, Reason::Granted)]
    {
        assert_eq!(it.reason_at("user:1", revision).await, want, "{revision}");
    }
}

#[tokio::test]
async fn both_histories_and_every_watcher_tell_of_a_link() {
    let mut it = It::new().await;
    it.says("user:1", Action::Grant).await;
    let linked = it.link("user:1", "device:1", LinkConfidence::Asserted).await.index.unwrap();
    let unlinked = it.unlink("device:1", "user:1").await.index.unwrap();
    for (who, other) in [("user:1", "device:1"), ("device:1", "user:1")] {
        let history = it.clients.history(who).await;
        let links: Vec<_> = history
            .iter()
            .filter_map(|item| Some((item.index, item.kind(), item.actor(), item.link.clone()?)))
            .collect();
        let record = |confidence: LinkConfidence, by: &str| proto::LinkRecord {
            other_subject: other.to_owned(),
            confidence: confidence.into(),
            asserted_by: by.to_owned(),
        };
        let operator = Actor::Operator;
        assert_eq!(
            links,
            [
                (
                    linked,
                    HistoryKind::Link,
                    operator,
                    record(LinkConfidence::Asserted, "login-service")
                ),
                (
                    unlinked,
                    HistoryKind::Unlink,
                    operator,
                    record(LinkConfidence::Unspecified, "support")
                ),
            ]
        );
    }
    // Who says so is nobody's business without the vault's key.
    let exported = it.server.as_ref().unwrap().cli(&["export"]).expect_code(0);
    assert!(!exported.stdout.contains("login-service") && !exported.stdout.contains("device:1"));

    // From memory, and from the ledger once memory is gone.
    for _ in 0..2 {
        let want = [
            (linked, "user:1", "device:1", LinkConfidence::Asserted),
            (unlinked, "device:1", "user:1", LinkConfidence::Unspecified),
        ];
        for (filter, wants_links) in [
            (proto::WatchFilter::default(), true),
            (proto::WatchFilter { purposes: vec![OFFERS.into()], ..Default::default() }, true),
            (proto::WatchFilter { namespaces: vec!["device".into()], ..Default::default() }, true),
            (proto::WatchFilter { namespaces: vec!["email".into()], ..Default::default() }, false),
            (
                proto::WatchFilter {
                    kinds: vec![EventKind::Withdraw.into()],
                    ..Default::default()
                },
                false,
            ),
        ] {
            let heard = it.heard(linked, filter.clone()).await;
            let heard: Vec<_> = heard
                .iter()
                .map(|message| match message {
                    Message::Link(link) => (
                        link.index,
                        link.subject.as_str(),
                        link.other_subject.as_str(),
                        link.confidence(),
                    ),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(heard, if wants_links { &want[..] } else { &[] }, "{filter:?}");
        }
        it.restart(true, false).await;
    }
}

#[tokio::test]
async fn a_stop_is_told_to_whom_it_reaches_through_links() {
    let mut it = It::new().await;
    it.says("email:jo", Action::Grant).await;
    it.says("user:42", Action::Grant).await;
    let first = it.link("user:42", "email:jo", LinkConfidence::Asserted).await.index.unwrap();
    let second = it.link("user:42", "device:1", LinkConfidence::Verified).await.index.unwrap();
    let index = it.says("user:42", Action::Withdraw).await;
    it.says("user:43", Action::Withdraw).await;
    assert_eq!(it.reason("email:jo").await, Reason::Withdrawn);
    // From memory, and from the ledger once memory is gone, which knows the present links only.
    for is_from_memory in [true, false] {
        let filter = |namespace: &str| proto::WatchFilter {
            namespaces: vec![namespace.to_owned()],
            ..Default::default()
        };
        let heard = it.heard(first, filter("email")).await;
        let told: Vec<_> = heard
            .into_iter()
            .map(|message| match message {
                Message::Consent(mut event) => {
                    event.linked_subjects.sort();
                    (event.index, event.subject, event.linked_subjects)
                }
                Message::Link(mut event) => {
                    event.linked_subjects.sort();
                    (event.index, event.other_subject, event.linked_subjects)
                }
                other => panic!("those are left out: {other:?}"),
            })
            .collect();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let then = if is_from_memory { names(&[]) } else { names(&["device:1"]) };
        let want = [
            (first, "email:jo".to_owned(), then),
            (second, "device:1".to_owned(), names(&["email:jo"])),
            (index, "user:42".to_owned(), names(&["device:1", "email:jo"])),
        ];
        assert_eq!(told, want);
        assert!(it.heard(index, filter("phone")).await.is_empty());
        it.restart(true, false).await;
    }
}

#[tokio::test]
async fn restarts_and_rebuilds_answer_the_same() {
    let mut it = It::new().await;
    let subjects = ["user:1", "device:1", "email:1@example.org", "cookie:1"];
    it.says("user:1", Action::Grant).await;
    it.record(act("device:1", vec![change(Action::Withdraw, "*", "sms")])).await;
    it.link("user:1", "device:1", LinkConfidence::Verified).await;
    it.link("email:1@example.org", "device:1", LinkConfidence::Asserted).await;
    it.link("cookie:1", "user:1", LinkConfidence::Asserted).await;
    it.says("email:1@example.org", Action::Refuse).await;
    it.says("device:1", Action::Grant).await;
    it.unlink("user:1", "cookie:1").await;
    it.link("user:1", "cookie:1", LinkConfidence::Verified).await;
    it.link("user:1", "device:1", LinkConfidence::Asserted).await;
    let before = (it.everything(&subjects).await, it.reasons(&subjects).await);
    for (killed, without_view) in [(true, false), (false, false), (true, true), (false, true)] {
        it.restart(killed, without_view).await;
        let after = (it.everything(&subjects).await, it.reasons(&subjects).await);
        assert_eq!(after, before, "killed {killed}, without view {without_view}");
    }
    // And goes on from there.
    assert!(!it.link("cookie:1", "user:1", LinkConfidence::Verified).await.changed);
    it.unlink("email:1@example.org", "device:1").await;
    assert_eq!(it.reason("device:1").await, Reason::Granted);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let mut it = It::new().await;
    let good = || link("user:1", "user:2", LinkConfidence::Verified);
    let size = it.size().await;
    for (request, reason, field) in [
        (
            proto::LinkSubjectsRequest { subject: String::new(), ..good() },
            "INVALID_FIELD",
            "subject",
        ),
        (
            proto::LinkSubjectsRequest { other_subject: "two".into(), ..good() },
            "INVALID_FIELD",
            "other_subject",
        ),
        (
            proto::LinkSubjectsRequest { other_subject: "user:1".into(), ..good() },
            "INVALID_FIELD",
            "other_subject",
        ),
        (proto::LinkSubjectsRequest { confidence: 0, ..good() }, "INVALID_FIELD", "confidence"),
        (proto::LinkSubjectsRequest { confidence: 9, ..good() }, "INVALID_FIELD", "confidence"),
        (
            proto::LinkSubjectsRequest { asserted_by: String::new(), ..good() },
            "INVALID_FIELD",
            "asserted_by",
        ),
        (
            proto::LinkSubjectsRequest { asserted_by: "x".repeat(257), ..good() },
            "LIMIT_EXCEEDED",
            "asserted_by",
        ),
    ] {
        let error = it.try_link(request).await.unwrap_err();
        let want = TypedError {
            code: Code::InvalidArgument,
            reason: reason.to_owned(),
            fields: vec![field.to_owned()],
        };
        assert_eq!(error, want);
    }
    for request in [
        unlink("user:1", "user:2"),
        proto::UnlinkSubjectsRequest { dry_run: true, ..unlink("user:1", "user:2") },
    ] {
        let error = it.try_unlink(request).await.unwrap_err();
        assert_eq!(error.reason, "SUBJECTS_NOT_LINKED");
    }
    let error = it.try_unlink(unlink("user:1", "user:1")).await.unwrap_err();
    assert_eq!(
        (error.reason.as_str(), &error.fields[..]),
        ("INVALID_FIELD", &["other_subject".to_owned()][..])
    );
    assert_eq!(it.size().await, size);

    for n in 1..64 {
        it.link("user:0", &format!("user:{n}"), LinkConfidence::Asserted).await;
    }
    let error = it.try_link(link("user:64", "user:7", LinkConfidence::Verified)).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, "LIMIT_EXCEEDED"));
    assert_eq!(error.fields, ["other_subject"]);
}

#[tokio::test]
async fn the_command_line_links_and_tells_what_changes() {
    let mut it = It::new().await;
    it.says("user:1", Action::Grant).await;
    it.says("device:1", Action::Withdraw).await;
    let size = it.size().await;
    let server = it.server.as_ref().unwrap();
    let words = ["user:1", "device:1", "--asserted-by", "web"];
    let link = |more: &[&'static str]| {
        let words = [&["link"], &words[..], &["--confidence", "asserted"], more].concat();
        server.cli(&words).expect_code(0)
    };
    let asked = link(&["--dry-run"]).stdout;
    assert!(asked.starts_with(&format!("nothing was written  revision {size}\n")), "{asked}");
    let row = "deny    user:1   marketing.newsletter  email    withdrawn  allow, granted";
    assert!(asked.contains(row), "{asked}");
    let linked = link(&["--json"]).json();
    assert_eq!(linked["index"], size.to_string());
    assert_eq!(linked["cells"][0]["effectAfter"], "EFFECT_DENY");
    let again = link(&[]).stdout;
    assert_eq!(
        again,
        format!("nothing to write: the link exists already  revision {}\n", size + 1)
    );
    let unlinked = server.cli(&[&["unlink"], &words[..]].concat()).expect_code(0).stdout;
    assert!(unlinked.starts_with(&format!("index {}  revision {}\n", size + 1, size + 2)));
    assert!(unlinked.contains("allow   user:1   marketing.newsletter  email    granted"));
    let refused = server.cli(&[&["unlink"], &words[..]].concat()).expect_code(1);
    assert!(refused.stderr.contains("SUBJECTS_NOT_LINKED"), "{}", refused.stderr);
    let history = server.cli(&["history", "--subject", "device:1"]).expect_code(0).stdout;
    assert!(history.contains("asserted by web"), "{history}");
}
