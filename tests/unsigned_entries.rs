//! Entries that no checkpoint covers: nobody has signed them yet. `verify` says how many there are, and so
//! does a server that takes them over. One that the ledger has not written is refused: what is sealed needs
//! its keys, and what is in clear has a MAC.

use std::{fs, path::Path, sync::Arc};

use consent_ledger::{
    backend::{LocalLog, LogBackend as _},
    format::{entry::Body, keys::ledger::ClearKey},
    proto::{
        self, Action,
        ledger::{ChannelPut, ClockCorrected, PurposePut},
    },
    storage::disk::RealDisk,
    tlog::key::SignerKey,
    vault::Kek,
};
use serde_json::{Value, json};

use crate::support::{self, Finished, Server, run};

/// Appends an entry that continues the chain, as somebody could who can write the files.
fn append(data_dir: &Path, body: Body, key: &ClearKey) {
    let disk = Arc::new(RealDisk);
    let (log, opened) =
        LocalLog::open(disk, data_dir.join("ledger"), 64 << 20, [0; 16], 0).unwrap();
    log.settle().unwrap();
    let (_, bytes, _) = opened.tip.link(opened.tip.recorded_at_s, body, key).unwrap();
    log.append(opened.tip.next_index, &[bytes]).unwrap();
}

fn channel() -> Body {
    Body::Channel(ChannelPut { key: "unsigned".to_owned(), ..ChannelPut::default() })
}

/// The key with which the server would have written it.
fn own_key(data_dir: &Path) -> ClearKey {
    support::clear_key_of(data_dir, &Kek::from_file(&data_dir.join("kek")).unwrap())
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
async fn an_entry_behind_the_last_checkpoint_is_never_called_checked() {
    let dir = tempfile::tempdir().unwrap();
    let key = signed(dir.path()).await;
    for trust in [&[][..], &["--key", &key]] {
        let found = verify(dir.path(), &[&["--json"], trust].concat()).expect_code(0).json();
        assert_eq!(uncovered(&found), (&json!(0), false));
    }

    append(dir.path(), channel(), &own_key(dir.path()));
    for trust in [&[][..], &["--key", &key]] {
        let found = verify(dir.path(), &[&["--json"], trust].concat()).expect_code(0).json();
        assert_eq!(uncovered(&found), (&json!(1), true), "{found}");
        let text = verify(dir.path(), trust).expect_code(0).stdout;
        assert!(text.contains("NOT CHECKED the last 1 entry: no checkpoint covers"), "{text}");
    }
    // It is as an entry of a crash. A server says what it is about to sign.
    let server = Server::start(dir.path());
    let log = server.log();
    assert!(log.contains(TAKEN_OVER) && log.contains("entries=1"), "{log}");
    server.terminate();
}

/// Whoever can write the files has no key, and may know everything that is in clear.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_in_clear_that_the_ledger_has_not_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = signed(dir.path()).await;
    let kek = dir.path().join("kek").display().to_string();
    let all = verify(dir.path(), &["--json"]).expect_code(0).json()["entries"].as_u64().unwrap();
    // All that was recorded was a moment ago by a clock that was ahead: the stop was before the grant.
    let correction = ClockCorrected {
        first_index: 1,
        end_index: all,
        right_until_ms: 1,
        right_again_ms: 2,
        reason: "a clock that was ahead".to_owned(),
    };
    let purpose = PurposePut {
        key: "news".to_owned(),
        version: 2,
        title: "News".to_owned(),
        legal_basis: proto::LegalBasis::LegalObligation.into(),
        oldest_compatible_version: 1,
        ..PurposePut::default()
    };
    let forged = [Body::ClockCorrected(correction), Body::Purpose(purpose), channel()];
    for body in forged {
        let copy = tempfile::tempdir().unwrap();
        support::copy_tree(dir.path(), copy.path());
        append(copy.path(), body, &support::clear_key());
        let found = verify(copy.path(), &["--json", "--key", &key]).expect_code(0).json();
        assert_eq!(uncovered(&found), (&json!(1), true), "without the key nothing shows it");
        let opened = verify(copy.path(), &["--json", "--key", &key, "--kek-file", &kek]);
        let found = opened.expect_code(1).json();
        let damage = &found["damage"];
        assert_eq!((&damage["index"], &found["intact"]), (&json!(all), &json!(false)), "{found}");
        assert_eq!((&found["entries"], &found["vault"]["agrees"]), (&json!(all), &json!(true)));
        let what = damage["what"].as_str().unwrap();
        assert!(what.contains("the ledger has not written it: its MAC is wrong"), "{what}");
        for has_view in [true, false] {
            if !has_view {
                fs::remove_dir_all(copy.path().join("view")).unwrap();
            }
            let refused = Server::refused(copy.path(), &[]);
            assert!(refused.contains("the ledger has not written it"), "{refused}");
        }
    }
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
