//! Linked data subjects over gRPC against the built binary: how a link changes decisions, and that
//! neither a link nor its end rewrites an entry.

use consent_ledger::proto::{
    self, Action, Actor, Effect, EventKind, HistoryKind, LinkConfidence, Outcome, Reason,
    as_of::Moment, watch_response::Message,
};
use tonic::Code;

use crate::support::{
    self, Clients, Server, TypedError, act, change, check_request, link_request, typed,
    unlink_request,
};

const NEWS: &str = "marketing.newsletter";
const OFFERS: &str = "marketing.offers";
const PURPOSES: [&str; 2] = [NEWS, OFFERS];
const CHANNELS: [&str; 2] = ["email", "sms"];

/// A server with a small catalogue, and clients of it.
struct Ledger {
    server: Option<Server>,
    clients: Clients,
    dir: tempfile::TempDir,
}

/// A changed cell: subject, purpose, channel, and its reasons before and after.
type Cell = (String, String, String, Reason, Reason);

impl Ledger {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir.path());
        let mut clients = server.clients_with_catalog(&PURPOSES, &CHANNELS).await;
        // Changes of retired channels are not reported.
        clients.put_channel("fax", true).await;
        Self { server: Some(server), clients, dir }
    }

    async fn record(
        &mut self,
        request: proto::RecordConsentRequest,
    ) -> proto::RecordConsentResponse {
        self.clients.record(request).await
    }

    /// Records one change of the newsletter by e-mail; returns its index.
    async fn record_change(&mut self, subject: &str, action: Action) -> u64 {
        self.clients.record_change(subject, action, NEWS, "email").await.index
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
        self.clients.link(subject, other, confidence).await
    }

    async fn try_unlink(
        &mut self,
        request: proto::UnlinkSubjectsRequest,
    ) -> Result<proto::UnlinkSubjectsResponse, TypedError> {
        let answer = self.clients.privacy.unlink_subjects(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| typed(&status))
    }

    async fn unlink(&mut self, subject: &str, other: &str) -> proto::UnlinkSubjectsResponse {
        self.clients.unlink(subject, other).await
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
            name_linked_persons: true,
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

    /// Every answer about these subjects that does not depend on the time.
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

    /// The events from an index up to the end of the ledger.
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

fn changed_cells(cells: &[proto::CellChange]) -> Vec<Cell> {
    let row = |cell: &proto::CellChange| {
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
    cells.iter().map(row).collect()
}

const BOTH: [LinkConfidence; 2] = [LinkConfidence::Verified, LinkConfidence::Asserted];

#[tokio::test]
async fn a_merged_profile_does_not_revive_a_revoked_consent() {
    let mut ledger = Ledger::new().await;
    let mut pairs = 0;
    for confidence in BOTH {
        for linked_first in [false, true] {
            for swapped in [false, true] {
                pairs += 1;
                let (user, email) = (format!("user:{pairs}"), format!("email:{pairs}@example.org"));
                let (one, two) = if swapped { (&email, &user) } else { (&user, &email) };
                if linked_first {
                    ledger.link(one, two, confidence).await;
                }
                ledger.record_change(&email, Action::Grant).await;
                ledger.record_change(&user, Action::Grant).await;
                let stop = ledger.record_change(&user, Action::Withdraw).await;
                if !linked_first {
                    assert_eq!(ledger.reason(&email).await, Reason::Granted);
                    let answer = ledger.link(one, two, confidence).await;
                    let cell = (NEWS.to_owned(), "email".to_owned());
                    let want = (email.clone(), cell.0, cell.1, Reason::Granted, Reason::Withdrawn);
                    assert_eq!(changed_cells(&answer.cells), [want]);
                }
                for who in [&user, &email] {
                    let answer = ledger.check(who).await;
                    assert_eq!(answer.reason(), Reason::Withdrawn, "{who} {confidence:?}");
                    assert_eq!(answer.decided_by_index, Some(stop));
                }
            }
        }
    }
}

#[tokio::test]
async fn a_late_upload_to_the_other_profile_does_not_revive_it_either() {
    let mut ledger = Ledger::new().await;
    for (n, confidence) in BOTH.into_iter().enumerate() {
        let (user, device) = (format!("user:{n}"), format!("device:{n}"));
        ledger.link(&user, &device, confidence).await;
        let before = support::now_ms() - 60_000;
        ledger.record_change(&user, Action::Withdraw).await;
        // Given before the withdrawal, uploaded after it.
        let mut late = act(&device, vec![change(Action::Grant, NEWS, "email")]);
        late.effective_at = Some(support::timestamp(before));
        let late = ledger.record(late).await;
        assert_eq!(late.results[0].outcome(), Outcome::SupersededByLater, "{confidence:?}");
        // The cause is an act about the other subject, which is never named.
        assert_eq!(late.results[0].cause_index, None);
        // Only an act of the person lifts the stop.
        let mut import = act(&device, vec![change(Action::Grant, NEWS, "email")]);
        import.actor = Actor::Import.into();
        let import = ledger.record(import).await;
        assert_eq!(import.results[0].outcome(), Outcome::BlockedByStop, "{confidence:?}");
        assert_eq!(import.results[0].cause_index, None);
        for who in [&user, &device] {
            assert_eq!(ledger.reason(who).await, Reason::Withdrawn, "{who} {confidence:?}");
        }
    }
}

#[tokio::test]
async fn a_later_grant_lifts_a_stop_across_verified_links_only() {
    let mut ledger = Ledger::new().await;
    for (n, confidence) in BOTH.into_iter().enumerate() {
        let (user, device) = (format!("user:{n}"), format!("device:{n}"));
        ledger.record_change(&user, Action::Withdraw).await;
        let grant = ledger.record_change(&device, Action::Grant).await;
        let answer = ledger.link(&user, &device, confidence).await;
        let user_answer = ledger.check(&user).await;
        assert_eq!(ledger.check(&device).await.decided_by_index, Some(grant));
        assert_eq!(ledger.reason(&device).await, Reason::Granted);
        if confidence == LinkConfidence::Verified {
            assert_eq!(user_answer.reason(), Reason::Granted);
            assert_eq!(user_answer.decided_by_index, Some(grant));
            assert_eq!(answer.cells.len(), 1);
        } else {
            assert_eq!(user_answer.reason(), Reason::Withdrawn);
            assert_eq!(changed_cells(&answer.cells), []);
        }
    }
}

#[tokio::test]
async fn an_unverified_side_contributes_stops_only() {
    let mut ledger = Ledger::new().await;
    ledger.record_change("user:1", Action::Grant).await;
    let preferences = proto::ContactPreferences { language: "de".into(), ..Default::default() };
    let german =
        proto::RecordConsentRequest { preferences: Some(preferences), ..act("user:1", Vec::new()) };
    ledger.record(german).await;
    ledger.link("user:1", "device:1", LinkConfidence::Asserted).await;
    assert_eq!(ledger.reason("device:1").await, Reason::NoRecord);
    assert_eq!(ledger.preferences("device:1").await.preferences, None);
    assert_eq!(ledger.reason("user:1").await, Reason::Granted);

    ledger.record_change("device:1", Action::Object).await;
    assert_eq!(ledger.reason("user:1").await, Reason::Objected);
    // Once the link is verified, the person's own later grant counts on both sides.
    ledger.record_change("user:1", Action::Grant).await;
    assert_eq!(ledger.reason("device:1").await, Reason::Objected);
    let answer = ledger.link("device:1", "user:1", LinkConfidence::Verified).await;
    assert!(answer.changed);
    assert_eq!(ledger.reason("device:1").await, Reason::Granted);
    assert_eq!(ledger.preferences("device:1").await.preferences.unwrap().language, "de");
    // Asserted again, it no longer does.
    assert!(ledger.link("user:1", "device:1", LinkConfidence::Asserted).await.changed);
    assert_eq!(ledger.reason("device:1").await, Reason::Objected);
}

#[tokio::test]
async fn links_reach_through_links() {
    use LinkConfidence::{Asserted, Verified};
    let mut ledger = Ledger::new().await;
    let chain = ["user:a", "user:b", "user:c", "user:d"];
    for (pair, confidence) in chain.windows(2).zip([Verified, Asserted, Verified]) {
        ledger.link(pair[0], pair[1], confidence).await;
    }
    ledger.record_change("user:a", Action::Grant).await;
    for (who, want) in
        chain.iter().zip([Reason::Granted, Reason::Granted, Reason::NoRecord, Reason::NoRecord])
    {
        assert_eq!(ledger.reason(who).await, want, "{who}");
    }
    let named = |links: [(&str, LinkConfidence); 3]| links.map(|(who, how)| (who.to_owned(), how));
    let want = named([("user:b", Verified), ("user:c", Asserted), ("user:d", Asserted)]);
    assert_eq!(ledger.links("user:a").await, want);
    let want = named([("user:a", Asserted), ("user:b", Asserted), ("user:c", Verified)]);
    assert_eq!(ledger.links("user:d").await, want);

    let stop = ledger.record_change("user:d", Action::Withdraw).await;
    for who in chain {
        assert_eq!(ledger.check(who).await.decided_by_index, Some(stop), "{who}");
    }
    // The chain breaks at its asserted link.
    let answer = ledger.unlink("user:b", "user:c").await;
    let changes = changed_cells(&answer.cells);
    let reopened: Vec<_> =
        changes.iter().map(|(who, _, _, _, after)| (who.as_str(), *after)).collect();
    assert_eq!(reopened, [("user:a", Reason::Granted), ("user:b", Reason::Granted)]);
    assert_eq!(ledger.links("user:a").await, [("user:b".to_owned(), Verified)]);
    assert_eq!(ledger.reason("user:c").await, Reason::Withdrawn);
}

#[tokio::test]
async fn the_reported_cells_are_those_that_change() {
    let mut ledger = Ledger::new().await;
    let subjects = ["device:1", "email:jo@example.org", "user:1", "user:2"];
    ledger
        .record(act(
            "user:1",
            vec![
                change(Action::Grant, NEWS, "email"),
                change(Action::Grant, NEWS, "sms"),
                change(Action::Grant, OFFERS, "sms"),
            ],
        ))
        .await;
    ledger.record(act("device:1", vec![change(Action::Withdraw, "*", "sms")])).await;
    ledger.record(act("user:2", vec![change(Action::Refuse, OFFERS, "*")])).await;
    ledger.link("user:2", "device:1", LinkConfidence::Asserted).await;
    ledger.link("user:1", "email:jo@example.org", LinkConfidence::Verified).await;
    let requests = [
        link_request("email:jo@example.org", "device:1", LinkConfidence::Verified),
        link_request("user:1", "user:2", LinkConfidence::Verified),
        link_request("user:1", "user:2", LinkConfidence::Asserted),
    ];
    for request in requests {
        let before = ledger.reasons(&subjects).await;
        let size = ledger.size().await;
        let dry_run = ledger
            .try_link(proto::LinkSubjectsRequest { dry_run: true, ..request.clone() })
            .await
            .unwrap();
        assert_eq!((dry_run.index, dry_run.changed, dry_run.revision), (None, true, size));
        assert_eq!((ledger.size().await, ledger.reasons(&subjects).await), (size, before.clone()));

        let answer = ledger.try_link(request).await.unwrap();
        assert_eq!((answer.index, answer.revision), (Some(size), size + 1));
        assert_eq!(changed_cells(&answer.cells), changed_cells(&dry_run.cells));
        assert!(!answer.cells.is_empty());
        let after = ledger.reasons(&subjects).await;
        let differ = before.into_iter().zip(after).filter(|(before, after)| before.3 != after.3);
        let want: Vec<Cell> =
            differ.map(|((s, p, c, before), (.., after))| (s, p, c, before, after)).collect();
        assert_eq!(changed_cells(&answer.cells), want);
    }
}

#[tokio::test]
async fn an_unlink_restores_the_answers_and_rewrites_nothing() {
    let mut ledger = Ledger::new().await;
    let subjects = ["user:1", "device:1"];
    ledger.record_change("user:1", Action::Grant).await;
    let last = ledger.record_change("device:1", Action::Withdraw).await;
    let before = ledger.reasons(&subjects).await;
    let entries = ledger.clients.entries(0).await;
    let linked = ledger.link("user:1", "device:1", LinkConfidence::Verified).await;
    assert_eq!(ledger.reason("user:1").await, Reason::Withdrawn);
    let revision = linked.revision;

    // Repeating the link, from either side, writes nothing.
    for (one, other) in [("user:1", "device:1"), ("device:1", "user:1")] {
        let again = ledger.link(one, other, LinkConfidence::Verified).await;
        assert_eq!((again.index, again.changed, again.revision), (None, false, revision));
        assert_eq!(again.cells, []);
    }
    let dry_run = ledger
        .try_unlink(proto::UnlinkSubjectsRequest {
            dry_run: true,
            ..unlink_request("device:1", "user:1")
        })
        .await
        .unwrap();
    assert_eq!((dry_run.index, dry_run.revision, ledger.size().await), (None, revision, revision));
    let answer = ledger.unlink("device:1", "user:1").await;
    assert_eq!((answer.index, answer.cells.len()), (Some(revision), 1));
    assert_eq!(answer.cells, dry_run.cells);
    assert_eq!(ledger.reasons(&subjects).await, before);
    assert_eq!(ledger.links("user:1").await, []);
    let error = ledger.try_unlink(unlink_request("user:1", "device:1")).await.unwrap_err();
    assert_eq!(error.reason, "SUBJECTS_NOT_LINKED");
    assert_eq!(
        (error.code, error.fields),
        (Code::FailedPrecondition, vec!["other_subject".into()])
    );

    let now = ledger.clients.entries(0).await;
    assert_eq!(now.len(), entries.len() + 2);
    assert_eq!(now[..entries.len()], entries);
    // Answers about past revisions stay the same.
    for (revision, want) in
        [(last + 1, Reason::Granted), (last + 2, Reason::Withdrawn), (last + 3, Reason::Granted)]
    {
        assert_eq!(ledger.reason_at("user:1", revision).await, want, "{revision}");
    }
}

#[tokio::test]
async fn a_link_is_in_both_histories_and_an_event() {
    let mut ledger = Ledger::new().await;
    ledger.record_change("user:1", Action::Grant).await;
    let linked = ledger.link("user:1", "device:1", LinkConfidence::Asserted).await.index.unwrap();
    let unlinked = ledger.unlink("device:1", "user:1").await.index.unwrap();
    for who in ["user:1", "device:1"] {
        let history = ledger.clients.history(who).await;
        let links: Vec<_> = history
            .iter()
            .filter_map(|item| Some((item.index, item.kind(), item.actor(), item.link.clone()?)))
            .collect();
        let record = |confidence: LinkConfidence, by: &str| proto::LinkRecord {
            // Not the same person: a name is for services and staff, on demand.
            other_subject: String::new(),
            confidence: confidence.into(),
            asserted_by: by.to_owned(),
            other_relation: proto::NameRelation::LinkedPerson.into(),
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
    // Without the vault's key, an export shows neither the subjects nor the asserting service.
    let exported = ledger.server.as_ref().unwrap().cli(&["export"]).expect_code(0);
    assert!(!exported.stdout.contains("login-service") && !exported.stdout.contains("device:1"));

    // First from memory; after the restart, from the ledger.
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
            let heard = ledger.heard(linked, filter.clone()).await;
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
        ledger.restart(true, false).await;
    }
}

#[tokio::test]
async fn a_stop_is_an_event_for_linked_subjects_too() {
    let mut ledger = Ledger::new().await;
    ledger.record_change("email:jo@x.example", Action::Grant).await;
    ledger.record_change("user:42", Action::Grant).await;
    let first =
        ledger.link("user:42", "email:jo@x.example", LinkConfidence::Asserted).await.index.unwrap();
    let second = ledger.link("user:42", "device:1", LinkConfidence::Verified).await.index.unwrap();
    let index = ledger.record_change("user:42", Action::Withdraw).await;
    ledger.record_change("user:43", Action::Withdraw).await;
    assert_eq!(ledger.reason("email:jo@x.example").await, Reason::Withdrawn);
    // First from memory; after the restart, from the ledger, which knows only the present links.
    for is_from_memory in [true, false] {
        let filter = |namespace: &str| proto::WatchFilter {
            namespaces: vec![namespace.to_owned()],
            ..Default::default()
        };
        let heard = ledger.heard(first, filter("email")).await;
        let recipients: Vec<_> = heard
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
            (first, "email:jo@x.example".to_owned(), then),
            (second, "device:1".to_owned(), names(&["email:jo@x.example"])),
            (index, "user:42".to_owned(), names(&["device:1", "email:jo@x.example"])),
        ];
        assert_eq!(recipients, want);
        assert!(ledger.heard(index, filter("phone")).await.is_empty());
        ledger.restart(true, false).await;
    }
}

#[tokio::test]
async fn restarts_and_rebuilds_answer_the_same() {
    let mut ledger = Ledger::new().await;
    let subjects = ["user:1", "device:1", "email:1@example.org", "cookie:1"];
    ledger.record_change("user:1", Action::Grant).await;
    ledger.record(act("device:1", vec![change(Action::Withdraw, "*", "sms")])).await;
    ledger.link("user:1", "device:1", LinkConfidence::Verified).await;
    ledger.link("email:1@example.org", "device:1", LinkConfidence::Asserted).await;
    ledger.link("cookie:1", "user:1", LinkConfidence::Asserted).await;
    ledger.record_change("email:1@example.org", Action::Refuse).await;
    ledger.record_change("device:1", Action::Grant).await;
    ledger.unlink("user:1", "cookie:1").await;
    ledger.link("user:1", "cookie:1", LinkConfidence::Verified).await;
    ledger.link("user:1", "device:1", LinkConfidence::Asserted).await;
    let before = (ledger.everything(&subjects).await, ledger.reasons(&subjects).await);
    for (killed, without_view) in [(true, false), (false, false), (true, true), (false, true)] {
        ledger.restart(killed, without_view).await;
        let after = (ledger.everything(&subjects).await, ledger.reasons(&subjects).await);
        assert_eq!(after, before, "killed {killed}, without view {without_view}");
    }
    // Links can still be changed after the restarts.
    assert!(!ledger.link("cookie:1", "user:1", LinkConfidence::Verified).await.changed);
    ledger.unlink("email:1@example.org", "device:1").await;
    assert_eq!(ledger.reason("device:1").await, Reason::Granted);
}

#[tokio::test]
async fn a_faulty_link_is_refused_with_its_field() {
    let mut ledger = Ledger::new().await;
    let good = || link_request("user:1", "user:2", LinkConfidence::Verified);
    let size = ledger.size().await;
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
        let error = ledger.try_link(request).await.unwrap_err();
        assert_eq!(error, TypedError::new(Code::InvalidArgument, reason, &[field]));
    }
    for request in [
        unlink_request("user:1", "user:2"),
        proto::UnlinkSubjectsRequest { dry_run: true, ..unlink_request("user:1", "user:2") },
    ] {
        let error = ledger.try_unlink(request).await.unwrap_err();
        assert_eq!(error.reason, "SUBJECTS_NOT_LINKED");
    }
    let error = ledger.try_unlink(unlink_request("user:1", "user:1")).await.unwrap_err();
    assert_eq!(
        (error.reason.as_str(), &error.fields[..]),
        ("INVALID_FIELD", &["other_subject".to_owned()][..])
    );
    assert_eq!(ledger.size().await, size);

    for n in 1..64 {
        ledger.link("user:0", &format!("user:{n}"), LinkConfidence::Asserted).await;
    }
    let error = ledger
        .try_link(link_request("user:64", "user:7", LinkConfidence::Verified))
        .await
        .unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, "LIMIT_EXCEEDED"));
    assert_eq!(error.fields, ["other_subject"]);
}

#[tokio::test]
async fn the_command_line_links_and_lists_the_changed_cells() {
    let mut ledger = Ledger::new().await;
    ledger.record_change("user:1", Action::Grant).await;
    ledger.record_change("device:1", Action::Withdraw).await;
    let size = ledger.size().await;
    let server = ledger.server.as_ref().unwrap();
    let words = ["user:1", "device:1", "--asserted-by", "web"];
    let link = |more: &[&'static str]| {
        let words = [&["link"], &words[..], &["--confidence", "asserted"], more].concat();
        server.cli(&words).expect_code(0)
    };
    let dry_run = link(&["--dry-run"]).stdout;
    assert!(dry_run.starts_with(&format!("nothing was written  revision {size}\n")), "{dry_run}");
    let row = "deny    user:1   marketing.newsletter  email    withdrawn  allow, granted";
    assert!(dry_run.contains(row), "{dry_run}");
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
