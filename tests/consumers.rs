//! The examples that consume a subscription, and the command that does: they hear and acknowledge
//! every event although the server dies half-way, and end cleanly on a signal.
//!
//! The Python one needs a Python with grpcio and grpcio-tools, named by
//! `CONSENT_LEDGER_TEST_PYTHON` when the tests are built. The TypeScript one needs `npm install` in
//! `examples/typescript`, and the path of its `node_modules/.bin/tsx` in `CONSENT_LEDGER_TEST_TSX`.

use std::{env, path::Path, process::Command};

use consent_ledger::proto::{self, Action};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{self, PATIENCE, Process, Server};

const SUBSCRIPTION: &str = "mailer";
/// Acts before and after the server dies: more than the examples' credits.
const ACTS: u64 = 100;

fn example(path: &str, runner: &str, address: &[&str]) -> Command {
    let runner = env::var(runner).expect("it was there for the build");
    let mut command = support::clean(Command::new(runner));
    command.arg(support::repository(path)).arg(SUBSCRIPTION).args(address);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python with grpcio and grpcio-tools"
)]
async fn the_python_example_survives_a_server_that_dies() {
    survives(|address| {
        let address = ["--address", address];
        example("examples/python/consume.py", "CONSENT_LEDGER_TEST_PYTHON", &address)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(test_tsx),
    ignore = "needs CONSENT_LEDGER_TEST_TSX: tsx, as `npm install` brings it to examples/typescript"
)]
async fn the_typescript_example_survives_a_server_that_dies() {
    survives(|address| {
        example("examples/typescript/consume.ts", "CONSENT_LEDGER_TEST_TSX", &[address])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_survives_a_server_that_dies() {
    survives(|address| {
        let mut command = support::client_of(address);
        command.args(["subscription", "consume", SUBSCRIPTION, "--json"]);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_follows_survives_a_server_that_dies() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.clients().await.put_catalog(&["ads"], &["email"]).await;
    let mut command = support::client_of(&server.address);
    command.args(["watch", "--follow", "--json", "--from", "0", "--kind", "withdraw"]);
    let (watch, recorded, server) = die_half_way(dir.path(), server, command).await;
    let log = watch.stderr.text();
    assert!(log.contains("\"interrupted\"") && log.contains("\"reconnected\""), "{log}");
    watch.signal(Signal::INT);
    let ended = watch.wait(PATIENCE).expect_code(0);
    assert_eq!(ended.json_lines().len(), recorded.len(), "nothing twice");
    let resume = recorded.last().unwrap() + 1;
    assert!(ended.stderr.contains(&format!("{{\"resumeFrom\":{resume}}}")), "{}", ended.stderr);
    server.terminate();
}

async fn withdraw(server: &Server, ids: std::ops::Range<u64>) -> Vec<u64> {
    let mut clients = server.clients().await;
    let mut indexes = Vec::new();
    for id in ids {
        let subject = format!("user:{id}");
        indexes.push(clients.record_change(&subject, Action::Withdraw, "ads", "email").await.index);
    }
    indexes
}

/// The indexes of the printed events, each once, by first appearance.
fn heard(stdout: &str) -> Vec<u64> {
    let mut indexes = Vec::new();
    for line in stdout.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let output: Value = serde_json::from_str(line).unwrap();
        let Some(index) = output.get("consent").map(|event| &event["index"]) else { continue };
        let index = index.as_str().unwrap().parse().unwrap();
        if !indexes.contains(&index) {
            indexes.push(index);
        }
    }
    indexes
}

async fn survives(consumer: impl FnOnce(&str) -> Command) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let address = server.address.clone();
    let mut clients = server.clients_with_catalog(&["ads"], &["email"]).await;
    // The same subscription as the examples create.
    let subscription = proto::Subscription {
        name: SUBSCRIPTION.into(),
        owner: "examples".into(),
        ..Default::default()
    };
    clients.subscribe(subscription).await;

    let (consumer, _, server) = die_half_way(dir.path(), server, consumer(&address)).await;
    until_acknowledged(&server).await;
    consumer.signal(Signal::INT);
    consumer.wait(PATIENCE).expect_code(0);
    server.terminate();
}

/// Runs a consumer while the server dies and restarts; returns the recorded events once it heard
/// them all.
async fn die_half_way(
    dir: &Path,
    server: Server,
    consumer: Command,
) -> (Process, Vec<u64>, Server) {
    let consumer = Process::spawn(consumer);
    let mut recorded = withdraw(&server, 0..ACTS).await;
    let first = consumer.stdout.wait_for(PATIENCE, |text| heard(text).first().copied());
    assert_eq!(first, recorded.first().copied(), "{}", consumer.stderr.text());
    let address = server.address.clone();
    server.kill();
    let server = Server::start_at(dir, &address);
    recorded.extend(withdraw(&server, ACTS..2 * ACTS).await);
    let all = consumer.stdout.wait_for(PATIENCE, |text| (heard(text) == recorded).then_some(()));
    assert!(all.is_some(), "{:?} of {recorded:?}", heard(&consumer.stdout.text()));
    (consumer, recorded, server)
}

/// Waits until every event is acknowledged.
async fn until_acknowledged(server: &Server) {
    let mut clients = server.clients().await;
    support::eventually("everything is acknowledged", async || {
        let shard = &clients.subscriptions().await[0].shards[0];
        (shard.lag.is_none() && shard.lag_entries == 0).then_some(())
    })
    .await;
}
