//! The files of the view are disposable, and nothing in them is believed before it is checked: whoever can
//! write them changes no answer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use consent_ledger::proto::{Action, CheckResponse, Effect, Reason};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tonic::Status;

use crate::support::{self, Clients, Server, check_request, copy_tree};

const PERSONS: usize = 40;
const CHANGES: usize = 12;

fn person(n: usize) -> String {
    format!("user:{n}")
}

/// Everybody is granted.
async fn all_granted(dir: &Path) {
    let server = Server::start(dir);
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    for n in 0..PERSONS {
        clients.record_change(&person(n), Action::Grant, "news", "email").await;
    }
    drop(clients);
    server.terminate();
}

/// Every second person has withdrawn.
async fn grown(dir: &Path) {
    let server = Server::start(dir);
    let mut clients = server.clients_with_catalog(&["news"], &["email"]).await;
    for n in 0..PERSONS {
        clients.record_change(&person(n), Action::Grant, "news", "email").await;
        if n % 2 == 0 {
            clients.record_change(&person(n), Action::Withdraw, "news", "email").await;
        }
    }
    drop(clients);
    server.terminate();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    support::files(&dir.join("view")).into_keys().collect()
}

async fn ask(clients: &mut Clients, n: usize) -> Result<CheckResponse, Status> {
    let request = check_request(&person(n), "news", "email");
    clients.check.check(request).await.map(tonic::Response::into_inner)
}

/// Each answer is right, or there is none.
async fn expect_no_wrong_answer(server: &Server) -> usize {
    let mut clients = server.clients().await;
    let mut unanswered = 0;
    for n in 0..PERSONS {
        match ask(&mut clients, n).await {
            Err(_) => unanswered += 1,
            Ok(answer) if n % 2 == 0 => assert_eq!(answer.effect(), Effect::Deny, "{answer:?}"),
            Ok(answer) if answer.reason() == Reason::Granted => {}
            Ok(answer) => assert_eq!(answer.effect(), Effect::Deny, "{answer:?}"),
        }
    }
    unanswered
}

async fn expect_right_answers(dir: &Path) {
    let server = Server::start(dir);
    let mut clients = server.clients().await;
    for n in 0..PERSONS {
        let want = if n % 2 == 0 { Reason::Withdrawn } else { Reason::Granted };
        assert_eq!(ask(&mut clients, n).await.unwrap().reason(), want, "{}", person(n));
    }
    drop(clients);
    server.terminate();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_the_view_changes_no_answer() {
    let changes = std::env::var("CONSENT_LEDGER_TEST_CHANGES")
        .map_or(CHANGES, |text| text.parse().expect("a number"));
    let mut dice = StdRng::seed_from_u64(support::seed("view_files"));
    let [sound, granted] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    grown(sound.path()).await;
    all_granted(granted.path()).await;

    for change in 0..changes {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(sound.path(), copy.path());
        let files = files(copy.path());
        let file = &files[dice.random_range(0..files.len())];
        let mut bytes = fs::read(file).unwrap();
        match change % 4 {
            0 => {
                let at = dice.random_range(0..bytes.len());
                bytes[at] ^= 1 << dice.random_range(0..8);
                fs::write(file, bytes).unwrap();
            }
            1 => {
                bytes.truncate(dice.random_range(0..bytes.len()));
                fs::write(file, bytes).unwrap();
            }
            2 => fs::remove_file(file).unwrap(),
            // The view of another ledger, in which everybody is granted.
            _ => {
                fs::remove_dir_all(copy.path().join("view")).unwrap();
                copy_tree(&granted.path().join("view"), &copy.path().join("view"));
            }
        }
        let server = Server::start(copy.path());
        expect_no_wrong_answer(&server).await;
        server.terminate();
        expect_right_answers(copy.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_view_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    all_granted(dir.path()).await;
    let older = tempfile::tempdir().unwrap();
    copy_tree(&dir.path().join("view"), older.path());
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    for n in (0..PERSONS).step_by(2) {
        clients.record_change(&person(n), Action::Withdraw, "news", "email").await;
    }
    drop(clients);
    server.terminate();
    let is_run = |path: &Path| path.extension().is_some_and(|ending| ending == "run");
    let all = files(dir.path());
    // The manifest of before, with all files there are; then the whole folder of before.
    fs::copy(older.path().join("manifest"), dir.path().join("view/manifest")).unwrap();
    assert!(all.iter().filter(|path| is_run(path)).count() > 1);
    expect_right_answers(dir.path()).await;
    fs::remove_dir_all(dir.path().join("view")).unwrap();
    copy_tree(older.path(), &dir.path().join("view"));
    expect_right_answers(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_keeps_its_view() {
    let dir = tempfile::tempdir().unwrap();
    grown(dir.path()).await;
    let server = Server::start(dir.path());
    let mut clients = server.clients().await;
    clients.record_change(&person(1), Action::Withdraw, "news", "email").await;
    clients.record_change(&person(1), Action::Grant, "news", "email").await;
    drop(clients);
    server.kill();
    let server = Server::start(dir.path());
    let log = server.log();
    assert!(!log.contains("thrown away") && !log.contains("applied=0"), "{log}");
    assert_eq!(expect_no_wrong_answer(&server).await, 0);
}
