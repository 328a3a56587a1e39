//! Shared by all tests: the built binary and its clients, a node in this process, oracles, and
//! helpers to wait, read and copy.

mod clients;
pub mod clock;
pub mod example;
pub mod model;
pub mod node;
pub mod opened;
pub mod oracle;
mod process;
mod server;
pub mod tree;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use consent_ledger::{
    format::{
        keys::ledger::{ClearKey, LedgerSecret},
        secret::Key,
    },
    storage::disk::RealDisk,
    tlog::key::{Algorithm, SignerKey},
    vault::{self, Kek, People},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;

pub use self::{
    clients::{
        Clients, NAMESPACES, TypedError, act, change, check_request, consent_purpose, link_request,
        one_change, scope, typed, unlink_request,
    },
    process::{BINARY, Finished, Process, binary, clean, run, verify},
    server::{Server, client_of, verify_decisions},
};

/// Limit for the start of a server, for one answer, and for its end.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Limit for a command that works through a whole example.
pub const LONG_PATIENCE: Duration = Duration::from_secs(300);

/// The path of a file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The pause between two tries of a condition.
const POLL: Duration = Duration::from_millis(5);

/// Tries until there is an answer; fails the test when the deadline passes.
#[track_caller]
pub fn wait_until<T>(goal: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {goal}");
        thread::sleep(POLL);
    }
}

/// Like [`wait_until`], for an async condition.
pub async fn eventually<T>(goal: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, goal, ask).await
}

/// Like [`eventually`], with another limit.
pub async fn eventually_within<T>(
    patience: Duration,
    goal: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {goal}");
        tokio::time::sleep(POLL).await;
    }
}

/// Parses one JSON value a line.
#[track_caller]
pub fn json_lines(text: &str) -> Vec<serde_json::Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{line}"));
    text.lines().map(parse).collect()
}

pub fn millis(time: Option<&prost_types::Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000)
}

pub fn timestamp(millis: i64) -> prost_types::Timestamp {
    let nanos = millis.rem_euclid(1_000) * 1_000_000;
    prost_types::Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(nanos).expect("below a second"),
    }
}

/// Milliseconds since the Unix epoch, now.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now();
    let since_epoch = now.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since_epoch.as_millis()).expect("for some million years")
}

/// Waits until the clock shows this time.
#[track_caller]
pub fn wait_until_time(time_ms: i64) {
    wait_until("a later time", PATIENCE, || (now_ms() >= time_ms).then_some(()));
}

/// A response over plain HTTP/1.1, with its head.
pub fn http_get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("a server that listens");
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
        .expect("the request is sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer in UTF-8");
    answer
}

/// The value of a metric in an exposition.
#[track_caller]
pub fn metric(exposition: &str, name: &str) -> u64 {
    let line = exposition.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {name} in\n{exposition}"));
    value.parse().unwrap_or_else(|error| panic!("{name} {value}: {error}"))
}

/// Serves a fake service on a free port while the runtime lasts; returns its address.
pub async fn serve_fake(services: Routes) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let server = tonic::transport::Server::builder().add_routes(services);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// The key of a log, from a seed.
pub fn signer_key(name: &str, seed: u8) -> SignerKey {
    SignerKey::from_seed(name, Algorithm::Note, &[seed; 32]).expect("a valid name")
}

/// The key of a witness, from a seed.
pub fn cosigner_key(name: &str, seed: u8) -> SignerKey {
    SignerKey::from_seed(name, Algorithm::Cosignature, &[seed; 32]).expect("a valid name")
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file below a directory, with its contents.
pub fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let path = entry.expect("an unchanged directory").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = fs::read(&path).expect("a file that stays");
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Copies a directory tree with its permissions.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a place for the copy");
    for entry in fs::read_dir(from).expect("the source is there") {
        let entry = entry.expect("an unchanged directory");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("room for the copy");
        }
    }
}

/// The segment files of the ledger in a data directory, oldest first.
pub fn ledger_segments(data_dir: &Path) -> Vec<PathBuf> {
    files(&data_dir.join("ledger"))
        .into_keys()
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect()
}

/// A key of entries in clear, of a ledger that has no vault.
pub fn clear_key() -> ClearKey {
    LedgerSecret::new(Key::new([1; 32])).confidential().clear
}

/// The key of entries in clear of a data directory.
pub fn clear_key_of(data_dir: &Path, kek: &Kek) -> ClearKey {
    let people = People::read(&RealDisk, &data_dir.join(vault::DIR), kek).unwrap();
    people.confidential.clear
}

/// The seed of a random test: given by `CONSENT_LEDGER_TEST_SEED`, or new; printed in any case.
pub fn seed(test: &str) -> u64 {
    let seed = std::env::var("CONSENT_LEDGER_TEST_SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    println!("{test}: CONSENT_LEDGER_TEST_SEED={seed}");
    seed
}

/// Every order of the first numbers.
pub fn by_permutation(count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for number in 0..count {
        let insert = |order: Vec<usize>| {
            (0..=order.len()).map(move |place| {
                let mut order = order.clone();
                order.insert(place, number);
                order
            })
        };
        orders = orders.into_iter().flat_map(insert).collect();
    }
    orders
}
