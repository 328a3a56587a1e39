//! What an act does to linked data subjects: its outcome says that it did something, and to how many, and
//! never to which.

use consent_ledger::proto::{
    self,
    Action::{Grant, Refuse, Withdraw},
    Effect, LinkConfidence, Outcome,
    import_consents_request::Message,
};
use futures_util::stream;
use tempfile::TempDir;

use crate::support::{Clients, Server, act, change, check_request};

const NEWS: &str = "marketing.newsletter";
const PEOPLE: [&str; 4] = ["user:a", "user:b", "user:c", "user:d"];

async fn ledger() -> (Server, Clients, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    (server, clients, dir)
}

async fn effects(clients: &mut Clients) -> Vec<Effect> {
    let mut effects = Vec::new();
    for person in PEOPLE {
        effects.push(clients.ask(check_request(person, NEWS, "email")).await.effect());
    }
    effects
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_that_stops_a_linked_person_is_applied_and_says_how_many() {
    let (server, mut clients, _dir) = ledger().await;
    for person in ["user:a", "user:c"] {
        clients.record_change(person, Grant, NEWS, "email").await;
    }
    clients.link("user:a", "user:b", LinkConfidence::Asserted).await;
    clients.link("user:a", "user:c", LinkConfidence::Verified).await;
    let before = effects(&mut clients).await;
    let recorded = clients.record_change("user:b", Withdraw, NEWS, "email").await;
    let result = &recorded.results[0];
    assert_eq!((result.outcome(), result.linked_subjects), (Outcome::Applied, 2));
    let after = effects(&mut clients).await;
    assert_eq!(before, [Effect::Allow, Effect::Deny, Effect::Allow, Effect::Deny]);
    assert_eq!(after, [Effect::Deny; 4]);
    // Nothing in the answer names one of them.
    let answer = format!("{recorded:?}");
    assert!(!answer.contains("user:a") && !answer.contains("user:c"), "{answer}");

    let again = clients.record_change("user:b", Withdraw, NEWS, "email").await;
    assert_eq!(again.results[0].outcome(), Outcome::NoEffect);
    assert_eq!(again.results[0].linked_subjects, 0);

    let history = clients.history("user:b").await;
    let kept: Vec<_> = history.iter().flat_map(|item| &item.changes).collect();
    assert_eq!(kept.iter().map(|change| change.linked_subjects).collect::<Vec<_>>(), [2, 0]);
    let history = server.cli(&["history", "--subject", "user:b"]).expect_code(0);
    assert!(history.stdout.contains("applied +2 linked"), "{history:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_counts_for_none_of_them_is_not_applied() {
    let (_server, mut clients, _dir) = ledger().await;
    clients.link("user:a", "user:b", LinkConfidence::Asserted).await;
    let recorded = clients.record_change("user:b", Withdraw, NEWS, "email").await;
    assert_eq!(recorded.results[0].outcome(), Outcome::NoEffect);
    // A grant counts for nobody who only may be the same person.
    let recorded = clients.record_change("user:b", Grant, NEWS, "email").await;
    let result = &recorded.results[0];
    assert_eq!((result.outcome(), result.linked_subjects), (Outcome::Applied, 0));
    assert_eq!(effects(&mut clients).await[0], Effect::Deny);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_counts_the_changes_of_linked_persons() {
    let (_server, mut clients, _dir) = ledger().await;
    clients.record_change("user:a", Grant, NEWS, "email").await;
    clients.link("user:a", "user:b", LinkConfidence::Asserted).await;
    let row = |subject: &str, action| proto::ImportRow {
        subject: subject.to_owned(),
        changes: vec![change(action, NEWS, "email")],
        ..proto::ImportRow::default()
    };
    let rows = vec![row("user:b", Withdraw), row("user:d", Refuse)];
    let start = proto::ImportStart { source: "list".to_owned(), dry_run: false };
    let messages = [Message::Start(start), Message::Rows(proto::ImportRows { rows })]
        .map(|message| proto::ImportConsentsRequest { message: Some(message) });
    let answer = clients.consent.import_consents(stream::iter(messages)).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.recorded, answer.changes_of_linked_subjects), (2, 1));
    assert_eq!(effects(&mut clients).await[0], Effect::Deny);
}

/// Every pair of links and every short history: an answer changes only with a change that is told so.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_about_anybody_changes_without_an_outcome_that_says_so() {
    let (_server, mut clients, _dir) = ledger().await;
    let mut round = 0;
    for confidence in [LinkConfidence::Asserted, LinkConfidence::Verified] {
        for order in crate::support::by_permutation(4) {
            round += 1;
            let [a, b] = ["a", "b"].map(|name| format!("user:{name}-{round}"));
            clients.link(&a, &b, confidence).await;
            let steps = [
                (&a, change(Grant, NEWS, "email")),
                (&b, change(Withdraw, "*", "*")),
                (&b, change(Grant, NEWS, "email")),
                (&a, change(Refuse, NEWS, "*")),
            ];
            for step in order {
                let (who, change) = steps[step].clone();
                let other = if *who == a { &b } else { &a };
                let request = check_request(other, NEWS, "email");
                let before = clients.ask(request.clone()).await.effect();
                let recorded = clients.record(act(who, vec![change])).await;
                let after = clients.ask(request).await.effect();
                let result = &recorded.results[0];
                let is_told = result.outcome() == Outcome::Applied && result.linked_subjects == 1;
                assert!(before == after || is_told, "{who} {before:?} {after:?} {result:?}");
            }
        }
    }
}
