//! The order of an import: neighbours in a file are none in the ledger, and the rows of one person keep theirs.

use std::collections::BTreeMap;

use consent_ledger::{
    domain::Body,
    proto::{
        self, Action, LinkConfidence, Reason,
        import_consents_request::Message::{Rows, Start},
    },
};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Clients, Server, change, check_request, eventually, opened};

const NEWS: &str = "news";

fn row(line: u64, subject: &str, action: Action) -> proto::ImportRow {
    proto::ImportRow {
        line,
        subject: subject.to_owned(),
        changes: vec![change(action, NEWS, "email")],
        ..proto::ImportRow::default()
    }
}

fn messages(rows: Vec<proto::ImportRow>) -> Vec<proto::ImportConsentsRequest> {
    let start = Start(proto::ImportStart { source: "crm-2026".to_owned(), dry_run: false });
    let rows = Rows(proto::ImportRows { rows });
    [start, rows].map(|message| proto::ImportConsentsRequest { message: Some(message) }).into()
}

async fn reason(clients: &mut Clients, person: &str) -> Reason {
    clients.ask(check_request(person, NEWS, "email")).await.reason()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_written_in_a_random_order_and_those_of_one_person_in_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    clients.link("user:laptop", "device:phone", LinkConfidence::Verified).await;
    // Of rows without times the later counts, also of two data subjects that are one person.
    let mut rows = vec![
        row(1, "user:back", Action::Withdraw),
        row(2, "user:laptop", Action::Grant),
        row(3, "user:out", Action::Grant),
    ];
    for line in 4..400 {
        rows.push(match line % 100 {
            0 => row(line, "user:", Action::Grant),
            _ => row(line, &format!("user:{line}"), Action::Grant),
        });
    }
    rows.extend([
        row(400, "device:phone", Action::Withdraw),
        row(401, "user:out", Action::Withdraw),
        row(402, "user:back", Action::Grant),
    ]);
    let answer = clients.consent.import_consents(stream::iter(messages(rows))).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!((answer.rows, answer.recorded, answer.rejected), (402, 399, 3), "{answer:?}");
    // What is told of rows comes in the order of the file.
    let rejects: Vec<u64> = answer.rejects.iter().map(|reject| reject.line).collect();
    assert_eq!(rejects, [100, 200, 300]);
    for person in ["user:laptop", "device:phone", "user:out"] {
        assert_eq!(reason(&mut clients, person).await, Reason::Revoked, "{person}");
    }
    // A grant of an import lifts no stop.
    assert_eq!(reason(&mut clients, "user:back").await, Reason::Revoked);

    let history = clients.history("user:out").await;
    let origins: Vec<_> = history.iter().map(|line| line.import.clone().unwrap()).collect();
    assert_eq!(origins.iter().map(|origin| origin.row).collect::<Vec<_>>(), [3, 401]);
    assert!(origins.iter().all(|origin| origin.source == "crm-2026"));
    let shown = server.cli(&["history", "--subject", "user:out"]).expect_code(0).stdout;
    assert!(shown.contains("row 401 of crm-2026"), "{shown}");
    server.terminate();

    let mut order = Vec::new();
    let mut of_person: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for entry in opened::Ledger::open(dir.path()).entries() {
        if let Body::Act(act) = &entry.body {
            let row = act.import.as_ref().unwrap().row;
            order.push(row);
            of_person.entry(act.subject_ref).or_default().push(row);
        }
    }
    assert_eq!(order.len(), 399);
    assert!(of_person.values().all(|rows| rows.is_sorted()));
    let neighbours = order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    assert!(neighbours < 20, "{neighbours} of 398 neighbours of the file are neighbours here");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_slow_stream_do_not_wait_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&[NEWS], &["email"]).await;
    let (sender, receiver) = mpsc::channel(4);
    // A row without a line counts from the beginning of the stream.
    for message in messages(vec![row(0, "user:1", Action::Withdraw)]) {
        sender.send(message).await.unwrap();
    }
    let mut importing = clients.consent.clone();
    let import =
        tokio::spawn(async move { importing.import_consents(ReceiverStream::new(receiver)).await });
    eventually("the stop counts", async || {
        (reason(&mut clients, "user:1").await == Reason::Revoked).then_some(())
    })
    .await;
    let rows = vec![row(0, "user:2", Action::Withdraw)];
    let more = Rows(proto::ImportRows { rows });
    sender.send(proto::ImportConsentsRequest { message: Some(more) }).await.unwrap();
    drop(sender);
    let answer = import.await.unwrap().unwrap().into_inner();
    assert_eq!((answer.rows, answer.recorded), (2, 2));
    let origin = clients.history("user:2").await[0].import.clone().unwrap();
    assert_eq!(origin.row, 2);
}
