//! `export --kek-file`: everything that entries say, opened with the keys of the vault.

use std::os::unix::fs::PermissionsExt as _;

use consent_ledger::proto::{self, Action, LinkConfidence};
use serde_json::{Value, json};

use crate::support::{self, Finished, Server, run};

#[track_caller]
fn export(data_dir: &str, more: &[&str]) -> Finished {
    run([&["export", "--data-dir", data_dir], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_encryption_key_opens_everything_that_is_exported() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    let mut act = support::one_change("user:1", Action::Withdraw, "news", "email");
    act.evidence =
        Some(proto::Evidence { touchpoint: "settings".to_owned(), ..Default::default() });
    let act = clients.record(act).await.index;
    let link = clients.link("user:1", "device:2", LinkConfidence::Verified).await.index.unwrap();
    let subscription = proto::Subscription { name: "mailer".to_owned(), ..Default::default() };
    let created = clients.subscribe(subscription).await.subscription.unwrap();
    let used = proto::RecordUseRequest {
        subject: "user:1".to_owned(),
        purpose: "news".to_owned(),
        channel: "email".to_owned(),
        ..Default::default()
    };
    let used = clients.consent.record_use(used).await.unwrap().into_inner().index;
    drop(clients);
    server.terminate();

    let data_dir = dir.path().to_str().unwrap();
    let kek = dir.path().join("kek").display().to_string();
    let sealed = export(data_dir, &[]).expect_code(0).json_lines();
    let opened = export(data_dir, &["--kek-file", &kek]).expect_code(0).json_lines();
    assert_eq!(opened.len(), sealed.len());
    for (opened, sealed) in opened.iter().zip(&sealed) {
        assert_eq!((&opened["hash"], &opened["entry"]), (&sealed["hash"], &sealed["entry"]));
        assert!(sealed.get("opened").is_none());
    }
    let said = |index: u64| &opened[usize::try_from(index).unwrap()]["opened"];
    assert_eq!(said(0), &json!({}), "what is in clear needs no keys");
    let of_act = &said(act)["records"][0];
    assert_eq!((&of_act["slot"], &of_act["subject"]), (&json!(0), &json!("user:1")));
    assert_eq!(of_act["record"]["kind"], "RECORD_KIND_ACT");
    assert_eq!(of_act["record"]["changes"][0]["action"], "ACTION_WITHDRAW");
    assert_eq!(of_act["evidence"]["touchpoint"], "settings");
    let of_link = said(link)["records"].as_array().unwrap();
    let mut linked: Vec<&Value> = of_link.iter().map(|record| &record["subject"]).collect();
    linked.sort_by_key(|subject| subject.as_str());
    assert_eq!(linked, ["device:2", "user:1"]);
    assert!(of_link.iter().all(|it| it["evidence"].is_null()), "several have none");
    assert_eq!(said(used)["use"]["subjects"], json!(["user:1"]));
    assert_eq!(said(used)["use"]["content"]["purpose"], 1);
    assert_eq!(said(used).get("records"), None);
    let item = &said(created.created_index)["items"][0];
    assert_eq!(item["subscriptionCreated"]["name"], "mailer");

    // A part of the ledger needs all before it, and says the same.
    let range =
        ["--kek-file", &kek, "--start", &link.to_string(), "--end", &(link + 1).to_string()];
    assert_eq!(
        export(data_dir, &range).expect_code(0).json_lines(),
        [opened[usize::try_from(link).unwrap()].clone()]
    );

    // Personal data is for the owner of the file alone.
    let output = dir.path().join("opened.ndjson");
    let to_file = ["--kek-file", &kek, "--output", output.to_str().unwrap()];
    export(data_dir, &to_file).expect_code(0);
    assert_eq!(output.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = export(data_dir, &to_file).expect_code(1);
    assert!(again.stderr.contains("opened.ndjson"), "{}", again.stderr);

    // The key opens nothing elsewhere.
    let raw = export(data_dir, &["--raw", "--kek-file", &kek]).expect_code(2);
    assert!(raw.stderr.contains("--raw"), "{}", raw.stderr);
    let remote = run(["export", "--addr", "http://127.0.0.1:1", "--kek-file", &kek]).expect_code(2);
    assert!(remote.stderr.contains("--data-dir"), "{}", remote.stderr);
    let other = dir.path().join("other");
    std::fs::write(&other, "22".repeat(32)).unwrap();
    let refused = export(data_dir, &["--kek-file", other.to_str().unwrap()]).expect_code(1);
    assert!(refused.stderr.contains("key-encryption key"), "{}", refused.stderr);
    assert_eq!(refused.stdout, "");
}
