//! A misspelt purpose or channel: the answer says which key was meant, and nothing is taken for it.

use consent_ledger::proto::{
    self, Action, ImportRow, ImportRows, ImportStart, Reason, import_consents_request::Message,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{Clients, Server, act, change, check_request, scope};

const NEWS: &str = "marketing.newsletter";
const MISSPELT: &str = "marketing.newsleter";
const MEANT: &str = "did you mean `marketing.newsletter`?";

async fn ledger(dir: &tempfile::TempDir) -> (Server, Clients) {
    let server = Server::start(dir.path());
    let purposes = [NEWS, "marketing.offers", "service.billing"];
    let mut clients = server.clients_with_catalog(&purposes, &["email", "sms"]).await;
    // What is retired is not proposed.
    let retired = proto::Purpose {
        retired: true,
        ..crate::support::consent_purpose("marketing.newsletters")
    };
    clients.put_purpose(retired).await;
    (server, clients)
}

#[tokio::test]
async fn a_refused_call_names_the_keys_that_were_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = ledger(&dir).await;
    let size = clients.checkpoint().await.size;
    let meant = |status: &tonic::Status| {
        let info = status.get_details_error_info().unwrap();
        (info.reason, info.metadata.get("did_you_mean").cloned().unwrap_or_default())
    };
    for (purpose, channel, reason, keys) in [
        (MISSPELT, "email", "UNKNOWN_PURPOSE", NEWS),
        ("newsletter", "email", "UNKNOWN_PURPOSE", NEWS),
        ("mktg.newsletter", "email", "UNKNOWN_PURPOSE", NEWS),
        ("service", "email", "UNKNOWN_PURPOSE", "service.billing"),
        ("nothing.of.the.kind", "email", "UNKNOWN_PURPOSE", ""),
        (NEWS, "emial", "UNKNOWN_CHANNEL", "email"),
        (NEWS, "fax", "UNKNOWN_CHANNEL", ""),
    ] {
        let request = act("user:1", vec![change(Action::Withdraw, purpose, channel)]);
        let refused = clients.consent.record_consent(request).await.unwrap_err();
        assert_eq!(
            (refused.code(), meant(&refused)),
            (Code::NotFound, (reason.into(), keys.into()))
        );
        assert_eq!(refused.message().contains("did you mean"), !keys.is_empty(), "{refused:?}");
        let request = proto::RecordUseRequest {
            subject: "user:1".into(),
            purpose: purpose.into(),
            channel: channel.into(),
            ..Default::default()
        };
        let refused = clients.consent.record_use(request).await.unwrap_err();
        assert_eq!(meant(&refused), (reason.into(), keys.into()));
    }
    let request = act("emial:jo@example.org", vec![change(Action::Withdraw, NEWS, "email")]);
    let refused = clients.consent.record_consent(request).await.unwrap_err();
    assert_eq!(meant(&refused), ("UNKNOWN_NAMESPACE".into(), "email".into()));
    assert!(refused.message().contains("did you mean `email`?"), "{refused:?}");
    for (purpose, channel, meant) in
        [("Marketing.Newsletter", "email", MEANT), (NEWS, "SMS", "did you mean `sms`?")]
    {
        let request = act("user:1", vec![change(Action::Withdraw, purpose, channel)]);
        let refused = clients.consent.record_consent(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(meant), "{refused:?}");
    }
    let request = proto::GetPurposeRequest { key: MISSPELT.into(), ..Default::default() };
    let refused = clients.catalog.get_purpose(request).await.unwrap_err();
    assert_eq!(meant(&refused), ("UNKNOWN_PURPOSE".into(), NEWS.into()));
    assert!(refused.message().contains(MEANT), "{refused:?}");
    assert_eq!(clients.checkpoint().await.size, size, "nothing was recorded");
    // A question is answered, and what was asked is denied.
    let answer = clients.ask(check_request("user:1", MISSPELT, "email")).await;
    assert_eq!(answer.reason(), Reason::UnknownPurpose);
}

#[tokio::test]
async fn a_rejected_row_names_the_keys_that_were_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, mut clients) = ledger(&dir).await;
    let row = |line: u64, purpose: &str, channel: &str| ImportRow {
        line,
        subject: format!("user:{line}"),
        changes: vec![proto::Change {
            action: Action::Withdraw.into(),
            scope: Some(scope(purpose, channel)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let start = ImportStart { source: "crm".into(), dry_run: false };
    let rows = vec![
        row(1, MISSPELT, "email"),
        row(2, MISSPELT, "email"),
        row(3, NEWS, "emial"),
        row(4, NEWS, "email"),
    ];
    let messages = [Message::Start(start), Message::Rows(ImportRows { rows })];
    let messages = messages.map(|message| proto::ImportConsentsRequest { message: Some(message) });
    let stream = tokio_stream::iter(messages);
    let answer = clients.consent.import_consents(stream).await.unwrap().into_inner();
    assert_eq!((answer.recorded, answer.rejected), (1, 3));
    let texts: Vec<_> = answer.rejects.iter().map(|reject| reject.message.as_str()).collect();
    assert!(texts[0].contains(MEANT) && texts[1].contains(MEANT), "{texts:?}");
    assert!(texts[2].contains("did you mean `email`?"), "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_which_key_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (server, mut clients) = ledger(&dir).await;
    let ids = dir.path().join("ids.txt");
    std::fs::write(&ids, "user:1\n").unwrap();
    let ids = ids.to_str().unwrap();
    let grant = format!("{MISSPELT}:email");
    let cell = ["--purpose", MISSPELT, "--channel", "email"];
    let check = [&["check", "--subject", "user:1"][..], &cell].concat();
    let usage = [&["use", "--subject", "user:1"][..], &cell].concat();
    let audience = [&["audience", ids][..], &cell].concat();
    for (words, code) in [
        (&check[..], 3),
        (&usage, 1),
        (&audience, 0),
        (&["record", "--subject", "user:1", "--grant", &grant], 1),
    ] {
        let said = server.cli(words).expect_code(code);
        assert!(said.stderr.contains(MEANT), "{words:?}: {}", said.stderr);
        assert!(!said.stdout.contains("did you mean"), "{words:?}: {}", said.stdout);
    }
    let said = server.cli(&[&check[..], &["--json"]].concat()).expect_code(3);
    let hint: serde_json::Value = serde_json::from_str(&said.stderr).unwrap();
    assert!(hint["hint"].as_str().unwrap().contains(MEANT), "{hint}");
    assert_eq!(said.json()["reason"], "REASON_UNKNOWN_PURPOSE");

    // A filter may name what comes later: it is no error, and it is said.
    clients.record_change("user:1", Action::Withdraw, NEWS, "email").await;
    let watch = ["watch", "--from", "0", "--count", "1", "--purpose", NEWS, "--purpose", MISSPELT];
    let said = server.cli(&[&watch[..], &["--channel", "emial,email"]].concat()).expect_code(0);
    assert!(said.stderr.contains(MEANT) && said.stderr.contains("`email`?"), "{}", said.stderr);
    let create = ["subscription", "create", "crm", "--owner", "team", "--purpose", MISSPELT];
    let said = server.cli(&create).expect_code(0);
    assert!(said.stderr.contains(MEANT), "{}", said.stderr);

    let cell = ["check", "--subject", "emial:jo@example.org", "--purpose", NEWS];
    let said = server.cli(&[&cell[..], &["--channel", "email"]].concat()).expect_code(3);
    assert!(said.stderr.contains("no namespace `emial`"), "{}", said.stderr);
    assert!(said.stderr.contains("did you mean `email`?"), "{}", said.stderr);

    // What is spelled as it should be is not commented.
    let cell = ["check", "--subject", "user:1", "--purpose", NEWS, "--channel", "email"];
    assert_eq!(server.cli(&cell).expect_code(3).stderr, "");
}
