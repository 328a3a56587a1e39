//! Entries that no checkpoint covers: nobody has signed them yet, so a forged one among them looks like any
//! other. `verify` says how many there are, and so does a server that takes them over.

use std::{fs, path::Path, sync::Arc};

use consent_ledger::{
    backend::{LocalLog, LogBackend as _},
    format::entry::Body,
    proto::{Action, ledger::ChannelPut},
    storage::disk::RealDisk,
    tlog::key::SignerKey,
};
use serde_json::{Value, json};

use crate::support::{Finished, Server, run};

/// Appends an entry that continues the chain, as somebody could who can write the files.
fn forge(data_dir: &Path) {
    let disk = Arc::new(RealDisk);
    let (log, opened) =
        LocalLog::open(disk, data_dir.join("ledger"), 64 << 20, [0; 16], 0).unwrap();
    log.settle().unwrap();
    let put = ChannelPut { key: "forged".to_owned(), ..ChannelPut::default() };
    let (_, bytes, _) = opened.tip.link(opened.tip.recorded_at_s, Body::Channel(put)).unwrap();
    log.append(opened.tip.next_index, &[bytes]).unwrap();
}

/// A closed data directory, all of whose entries are signed, and the verifier key.
async fn signed(data_dir: &Path) -> String {
    let server = Server::start(data_dir);
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    clients.record_change("user:1", Action::Withdraw, "news", "email").await;
    drop(clients);
    server.terminate();
    let key = fs::read_to_string(data_dir.join("signing-key")).unwrap();
    SignerKey::parse(&key).unwrap().verifier().to_string()
}

#[track_caller]
fn verify(data_dir: &Path, more: &[&str]) -> Finished {
    run([&["verify", "--data-dir", data_dir.to_str().unwrap()], more].concat())
}

fn uncovered(found: &Value) -> (&Value, bool) {
    let is_said = found["notChecked"].as_array().unwrap().contains(&json!("uncoveredEntries"));
    (&found["uncoveredEntries"], is_said)
}

const TAKEN_OVER: &str = "entries after the last signed checkpoint are taken over";

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_entry_behind_the_last_checkpoint_is_never_called_checked() {
    let dir = tempfile::tempdir().unwrap();
    let key = signed(dir.path()).await;
    for trust in [&[][..], &["--key", &key]] {
        let found = verify(dir.path(), &[&["--json"], trust].concat()).expect_code(0).json();
        assert_eq!(uncovered(&found), (&json!(0), false));
    }

    forge(dir.path());
    for trust in [&[][..], &["--key", &key]] {
        let found = verify(dir.path(), &[&["--json"], trust].concat()).expect_code(0).json();
        assert_eq!(uncovered(&found), (&json!(1), true), "{found}");
        let text = verify(dir.path(), trust).expect_code(0).stdout;
        assert!(text.contains("NOT CHECKED the last 1 entry: no checkpoint covers"), "{text}");
    }
    // A server can not tell it from an entry of a crash. It says what it is about to sign.
    let server = Server::start(dir.path());
    let log = server.log();
    assert!(log.contains(TAKEN_OVER) && log.contains("entries=1"), "{log}");
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_stopped_in_order_takes_nothing_over() {
    let dir = tempfile::tempdir().unwrap();
    signed(dir.path()).await;
    for _ in 0..2 {
        let server = Server::start(dir.path());
        assert!(!server.log().contains(TAKEN_OVER), "{}", server.log());
        server.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_checkpoint_all_entries_are_uncovered() {
    let dir = tempfile::tempdir().unwrap();
    signed(dir.path()).await;
    let raw = dir.path().join("raw").display().to_string();
    let data_dir = dir.path().to_str().unwrap();
    run(["export", "--raw", "--data-dir", data_dir, "--output", &raw]).expect_code(0);
    let found = run(["verify", "--json", "--raw-file", &raw]).expect_code(0).json();
    assert_eq!(uncovered(&found), (&found["entries"], true));
}
