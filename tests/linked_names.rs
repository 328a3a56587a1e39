//! What may be handed to a person names nobody else: asked over gRPC and on the command line.
//!
//! A, whose e-mail address is verified, shares a phone with B by asserted links. Stops of the phone and
//! of B count for A. A's answers say so, and name neither.

use consent_ledger::proto::{
    self, Action, GetReceiptRequest, LinkConfidence, NameRelation, Reason, as_of::Moment,
    get_receipt_request::Act,
};

use crate::support::{Clients, Server, act, change};

const NEWS: &str = "marketing.newsletter";
const OFFERS: &str = "marketing.offers";
const A: &str = "user:a-4711";
const A_MAIL: &str = "email:a@x.example";
const PHONE: &str = "tel:+436641234567";
const B: &str = "user:b-0815";

struct Household {
    server: Server,
    clients: Clients,
    /// The act of A, that of A's address, that of B.
    grant: u64,
    objection: u64,
    stop_of_b: u64,
    _dir: tempfile::TempDir,
}

impl Household {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), &["--checkpoint-interval=50ms"]);
        let mut clients = server.clients_with_catalog(&[NEWS, OFFERS], &["email", "sms"]).await;
        let grants = vec![
            change(Action::Grant, NEWS, "email"),
            change(Action::Grant, NEWS, "sms"),
            change(Action::Grant, OFFERS, "sms"),
        ];
        let grant = clients.record(act(A, grants)).await.index;
        let objection = clients.record_change(A_MAIL, Action::Object, NEWS, "email").await.index;
        let stop_of_b = clients.record_change(B, Action::Withdraw, NEWS, "sms").await.index;
        clients.link(A, A_MAIL, LinkConfidence::Verified).await;
        clients.link(A, PHONE, LinkConfidence::Asserted).await;
        clients.link(PHONE, B, LinkConfidence::Asserted).await;
        Self { server, clients, grant, objection, stop_of_b, _dir: dir }
    }

    async fn preferences(
        &mut self,
        request: proto::GetPreferencesRequest,
    ) -> proto::GetPreferencesResponse {
        self.clients.consent.get_preferences(request).await.unwrap().into_inner()
    }

    async fn history(
        &mut self,
        subject: &str,
        name_linked_persons: bool,
    ) -> Vec<proto::LinkRecord> {
        let request = proto::ListHistoryRequest {
            subject: subject.to_owned(),
            name_linked_persons,
            ..Default::default()
        };
        let mut stream = self.clients.consent.list_history(request).await.unwrap().into_inner();
        let mut links = Vec::new();
        while let Some(item) = stream.message().await.unwrap() {
            links.extend(item.link);
        }
        links
    }
}

fn of(subject: &str) -> proto::GetPreferencesRequest {
    proto::GetPreferencesRequest { subject: subject.to_owned(), ..Default::default() }
}

fn under(relation: NameRelation, subject: &str) -> Option<proto::RecordedUnder> {
    Some(proto::RecordedUnder { relation: relation.into(), subject: subject.to_owned() })
}

fn cells(answer: &proto::GetPreferencesResponse) -> Vec<(Reason, Option<proto::RecordedUnder>)> {
    answer.cells.iter().map(|cell| (cell.reason(), cell.recorded_under.clone())).collect()
}

#[tokio::test]
async fn each_line_of_preferences_says_under_which_name_it_stands() {
    let mut house = Household::new().await;
    let answer = house.preferences(of(A)).await;
    let of_linked_person = under(NameRelation::LinkedPerson, "");
    let of_same_person = under(NameRelation::SamePerson, A_MAIL);
    assert_eq!(
        cells(&answer),
        [
            (Reason::Objected, of_same_person.clone()),
            (Reason::Withdrawn, of_linked_person.clone()),
            (Reason::Granted, under(NameRelation::Asked, A)),
        ]
    );
    let stops: Vec<_> =
        answer.stops.iter().map(|stop| (stop.index, stop.recorded_under.clone())).collect();
    let (objection, stop_of_b) = (house.objection, house.stop_of_b);
    assert_eq!(stops, [(objection, of_same_person), (stop_of_b, of_linked_person.clone())]);
    let links: Vec<_> =
        answer.links.iter().map(|link| (link.subject.as_str(), link.confidence())).collect();
    let (verified, asserted) = (LinkConfidence::Verified, LinkConfidence::Asserted);
    assert_eq!(links, [(A_MAIL, verified), ("", asserted), ("", asserted)]);

    // A moment in the past is answered alike.
    let moment = Some(Moment::Revision(answer.revision));
    let past = proto::GetPreferencesRequest { as_of: Some(proto::AsOf { moment }), ..of(A) };
    assert_eq!(cells(&house.preferences(past).await), cells(&answer));

    // Services and staff may ask who it is.
    let staff = proto::GetPreferencesRequest { name_linked_persons: true, ..of(A) };
    let answer = house.preferences(staff).await;
    assert_eq!(answer.cells[1].recorded_under, under(NameRelation::LinkedPerson, B));
    let links: Vec<_> = answer.links.iter().map(|link| link.subject.as_str()).collect();
    assert_eq!(links, [A_MAIL, PHONE, B]);

    // Nobody's act: silence, and a decision of the catalogue.
    let retired = proto::Purpose {
        oldest_compatible_version: 0,
        retired: true,
        ..crate::support::consent_purpose(OFFERS)
    };
    house.clients.put_purpose(retired).await;
    let every_cell = proto::GetPreferencesRequest { all_cells: false, ..of(A) };
    let answer = house.preferences(every_cell).await;
    assert_eq!(cells(&answer)[2], (Reason::PurposeRetired, None));
    let unknown = proto::GetPreferencesRequest { all_cells: true, ..of("user:nobody") };
    let answer = house.preferences(unknown).await;
    assert!(answer.cells.iter().all(|cell| cell.recorded_under.is_none()), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_may_be_handed_to_a_person_names_another() {
    let mut house = Household::new().await;
    let verified_once = house.clients.link(A, B, LinkConfidence::Verified).await;
    let revision = verified_once.revision;
    house.clients.unlink(A, B).await;

    // Not erased: a person who was linked.
    let then = ["preferences", "--subject", A, "--as-of-revision", &revision.to_string()];
    let text = house.server.cli(&then).expect_code(0).stdout;
    assert!(text.contains("a linked person") && !text.contains("erased"), "{text}");

    let mut answers = Vec::new();
    for all_cells in [false, true] {
        let now = proto::GetPreferencesRequest { all_cells, ..of(A) };
        // At that moment a verified link led to B. It was a mistake.
        let moment = Some(Moment::Revision(revision));
        let then =
            proto::GetPreferencesRequest { as_of: Some(proto::AsOf { moment }), ..now.clone() };
        for request in [now, then] {
            answers.push(format!("{:?}", house.preferences(request).await));
        }
    }
    let links = house.history(A, false).await;
    assert_eq!(links.len(), 4);
    assert_eq!(
        (links[0].other_subject.as_str(), links[0].other_relation()),
        (A_MAIL, NameRelation::SamePerson)
    );
    for link in &links[1..] {
        assert_eq!(
            (link.other_subject.as_str(), link.other_relation()),
            ("", NameRelation::LinkedPerson)
        );
    }
    answers.push(format!("{links:?}"));
    answers.push(format!("{:?}", house.clients.history(A).await));
    let request = GetReceiptRequest { act: Some(Act::Index(house.grant)), ..Default::default() };
    let receipt = house.clients.audit.get_receipt(request).await.unwrap().into_inner();
    answers.push(receipt.payload);
    for words in [
        &["preferences", "--subject", A][..],
        &["preferences", "--subject", A, "--json"],
        &["preferences", "--subject", A, "--all-cells"],
        &["history", "--subject", A],
        &["history", "--subject", A, "--json"],
    ] {
        answers.push(house.server.cli(words).expect_code(0).stdout);
    }
    for answer in answers {
        assert!(!answer.contains("0815") && !answer.contains("43664"), "{answer}");
    }

    let text = house.server.cli(&["preferences", "--subject", A]).expect_code(0).stdout;
    let line =
        |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or_default().to_owned();
    assert!(line("objected").contains(A_MAIL), "{text}");
    assert!(line("sms      withdrawn").contains("a linked person"), "{text}");
    assert!(line("sms      granted").contains(A), "{text}");
    assert!(text.contains("linked to a person who is not named here (asserted)"), "{text}");
    let text = house.server.cli(&["history", "--subject", A]).expect_code(0).stdout;
    assert!(text.contains("a linked person"), "{text}");

    let staff = ["--name-linked-persons"];
    let links = house.history(A, true).await;
    let others: Vec<_> = links.iter().map(|link| link.other_subject.as_str()).collect();
    assert_eq!(others, [A_MAIL, PHONE, B, B]);
    for words in [["preferences", "--subject", A], ["history", "--subject", A]] {
        let text = house.server.cli(&[&words[..], &staff].concat()).expect_code(0).stdout;
        assert!(text.contains(B) && text.contains(PHONE), "{text}");
    }
}
