//! The ledger's side against witnesses in process, good and bad.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    domain::Millis,
    listener,
    storage::{disk::Disk, sim::SimDisk},
    witness::{
        server,
        state::{
            State,
            tests::{Tree, log_key, witness_key},
        },
    },
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A ledger in memory.
struct Fake {
    tree: Mutex<Tree>,
    signed: watch::Sender<Option<Arc<Signed>>>,
    /// Names of those who have cosigned, with the size of the checkpoint.
    added: watch::Sender<Vec<(u64, String)>>,
    /// What it was told of conflicts, in order.
    held_back: Mutex<Vec<bool>>,
}

impl Fake {
    fn new(leaves: impl IntoIterator<Item = u64>) -> Arc<Self> {
        let (signed, added) = (watch::Sender::new(None), watch::Sender::default());
        let tree = Mutex::new(Tree::of(leaves));
        Arc::new(Self { tree, signed, added, held_back: Mutex::default() })
    }

    fn sign(&self, size: u64) {
        let checkpoint = self.tree.lock().signed(size, &log_key(1));
        let signed = Signed::new(checkpoint, Millis(0), &Policy::none());
        self.signed.send_replace(Some(Arc::new(signed)));
    }

    async fn cosigned(&self, size: u64, names: &[&str]) {
        let mut added = self.added.subscribe();
        let has = |name: &&str| added_has(&self.added.borrow(), size, name);
        let all = tokio::time::timeout(PATIENCE, async {
            while !names.iter().all(has) {
                added.changed().await.unwrap();
            }
        });
        all.await.unwrap_or_else(|_| panic!("{size} by {names:?}: {:?}", self.added.borrow()));
    }
}

fn added_has(added: &[(u64, String)], size: u64, name: &str) -> bool {
    added.iter().any(|(added_size, by)| *added_size == size && by == name)
}

impl Ledger for Fake {
    fn signed(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.signed.subscribe()
    }

    fn prove_consistency(&self, first: u64, second: u64) -> Result<Vec<Hash>, ProveError> {
        Ok(self.tree.lock().proof(first, second))
    }

    fn add_cosignatures(
        &self,
        size: u64,
        signatures: Vec<NoteSignature>,
    ) -> Result<usize, ReadError> {
        let count = signatures.len();
        self.added.send_modify(|added| {
            added.extend(signatures.iter().map(|one| (size, one.name().to_owned())));
        });
        Ok(count)
    }

    fn hold_back(&self, conflict: bool) {
        self.held_back.lock().push(conflict);
    }
}

/// A witness that listens until it is dropped.
struct Running {
    witness: Witness,
    _stop: tokio_util::sync::DropGuard,
}

fn witness(n: u8, url: String) -> Witness {
    let key = witness_key(n).verifier().clone();
    Witness { name: key.name().to_owned(), key, url: Some(url) }
}

fn clock() -> u64 {
    static NOW: AtomicU64 = AtomicU64::new(1);
    NOW.fetch_add(1, Ordering::Relaxed)
}

async fn run(n: u8, disk: &SimDisk) -> Running {
    let path = std::path::Path::new("w/state");
    let has = disk.list(path.parent().unwrap()).unwrap().contains(&"state".to_owned());
    disk.create_dir_all(path.parent().unwrap()).unwrap();
    let logs = vec![log_key(1).verifier().clone()];
    let state = State::open(Arc::new(disk.clone()), path, witness_key(n), logs, None, !has);
    serve(n, server::router(Arc::new(state.unwrap()), clock)).await
}

async fn serve(n: u8, router: axum::Router) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(listener::serve(listener, None, router, server::CONNECTIONS_MAX, stop.clone()));
    Running { witness: witness(n, url), _stop: stop.drop_guard() }
}

fn start(ledger: &Arc<Fake>, witnesses: &[&Witness], metrics: &Arc<Metrics>) -> Witnesses {
    let witnesses = witnesses.iter().map(|witness| (*witness).clone()).collect();
    let policy = Policy::any_of(0, witnesses).unwrap();
    let asking = Asking {
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(10),
        ..Asking::new(Duration::from_secs(30), None).unwrap()
    };
    Witnesses::start(ledger, &policy, &asking, metrics)
}

fn counted(metrics: &Metrics, witness: &str, outcome: &str) -> u64 {
    let name = "consent_ledger_witness_requests_total";
    let prefix = format!("{name}{{witness=\"{witness}\",outcome=\"{outcome}\"}} ");
    let text = metrics.encode().unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix));
    value.unwrap_or_else(|| panic!("no {prefix} in {text}")).parse().unwrap()
}

async fn until(condition: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {condition}"));
}

const W1: &str = "witness.example/w1";
const W2: &str = "witness.example/w2";

#[tokio::test]
async fn every_witness_cosigns_what_is_signed() {
    let (one, two) = (run(1, &SimDisk::new()).await, run(2, &SimDisk::new()).await);
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    let courier = start(&ledger, &[&one.witness, &two.witness], &metrics);
    for size in [0, 1, 7, 32, 49] {
        ledger.sign(size);
        ledger.cosigned(size, &[W1, W2]).await;
    }
    assert_eq!(counted(&metrics, W1, "cosigned"), 5);
    assert_eq!(counted(&metrics, W1, "outdated"), 0, "the size is remembered");
    // After a restart, the witness says what it has seen.
    drop(courier);
    let _own = start(&ledger, &[&one.witness], &metrics);
    ledger.sign(50);
    ledger.cosigned(50, &[W1]).await;
    assert_eq!(counted(&metrics, W1, "refused") + counted(&metrics, W1, "inconsistent"), 0);
    assert_eq!(metrics.witness_conflicts.get(), 0);
}

#[tokio::test]
async fn a_witness_without_a_response_does_not_delay_others() {
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_witness = witness(2, format!("http://{}", silent.local_addr().unwrap()));
    let gone = witness(3, "http://127.0.0.1:9".to_owned());
    let one = run(1, &SimDisk::new()).await;
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    let _own = start(&ledger, &[&silent_witness, &gone, &one.witness], &metrics);
    for size in 1..10 {
        ledger.sign(size);
        ledger.cosigned(size, &[W1]).await;
    }
    until("a failure", || counted(&metrics, "witness.example/w3", "unreachable") > 0).await;
    drop(silent);
}

#[tokio::test]
async fn a_witness_that_comes_back_is_told_the_newest() {
    let disk = SimDisk::new();
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    // The port stays ours; until the witness is there, every connection breaks off.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap();
    let (back, mut is_back) = tokio::sync::oneshot::channel::<()>();
    let gone = tokio::spawn(async move {
        loop {
            tokio::select! {
                accepted = listener.accept() => drop(accepted),
                _ = &mut is_back => return listener,
            }
        }
    });
    let _own = start(&ledger, &[&witness(1, format!("http://{port}"))], &metrics);
    ledger.sign(3);
    until("a failure", || counted(&metrics, W1, "unreachable") > 0).await;
    ledger.sign(9);
    let state = {
        disk.create_dir_all(std::path::Path::new("w")).unwrap();
        let (path, logs) = (std::path::Path::new("w/state"), vec![log_key(1).verifier().clone()]);
        State::open(Arc::new(disk), path, witness_key(1), logs, None, true).unwrap()
    };
    back.send(()).unwrap();
    let listener = gone.await.unwrap();
    let router = server::router(Arc::new(state), clock);
    tokio::spawn(listener::serve(
        listener,
        None,
        router,
        server::CONNECTIONS_MAX,
        CancellationToken::new(),
    ));
    ledger.cosigned(9, &[W1]).await;
    assert!(!added_has(&ledger.added.borrow(), 3, W1));
}

#[tokio::test]
async fn a_witness_that_lost_its_state_starts_again() {
    let (before, after) = (run(1, &SimDisk::new()).await, run(1, &SimDisk::new()).await);
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    let mut courier = courier(&ledger, &metrics);
    let submitted = async |courier: &mut Courier<Fake>, to: &Running, size| {
        courier.url = format!("{}add-checkpoint", to.witness.url.as_ref().unwrap());
        ledger.sign(size);
        let signed = ledger.signed.borrow().clone().unwrap();
        courier.submit(&signed).await
    };
    submitted(&mut courier, &before, 20).await.unwrap();
    submitted(&mut courier, &after, 30).await.unwrap();
    assert_eq!(counted(&metrics, W1, "outdated"), 1);
    // The first witness gets a request with a size that it has not seen.
    submitted(&mut courier, &before, 40).await.unwrap();
}

#[tokio::test]
async fn a_rollback_is_reported() {
    let one = run(1, &SimDisk::new()).await;
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    let courier = start(&ledger, &[&one.witness], &metrics);
    ledger.sign(20);
    ledger.cosigned(20, &[W1]).await;
    drop(courier);
    // An old copy, which goes its own way.
    let (copy, metrics) = (Fake::new((0..15).chain(100..200)), Arc::new(Metrics::new()));
    let _own = start(&copy, &[&one.witness], &metrics);
    copy.sign(15);
    until("a conflict", || metrics.witness_conflicts.get() > 0).await;
    assert!(counted(&metrics, W1, "rolled_back") > 0);
    // Once it has as many entries, it can not prove that it continues what was seen.
    for size in [20, 30] {
        copy.sign(size);
        let before = counted(&metrics, W1, "inconsistent");
        until("a fork", || counted(&metrics, W1, "inconsistent") > before + 1).await;
    }
    assert!(copy.added.borrow().is_empty());
}

#[tokio::test]
async fn what_is_no_answer_is_not_taken() {
    use axum::{http::StatusCode, routing::post};
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    ledger.sign(5);
    // The cosignature of somebody else, and one of another checkpoint.
    let mut strange = ledger.tree.lock().signed(5, &log_key(1)).note;
    strange.sign(&witness_key(2), 1);
    let strange = format!("{}\n", strange.signatures()[1]);
    let mut other = ledger.tree.lock().signed(4, &log_key(1)).note;
    other.sign(&witness_key(1), 1);
    let other = format!("{}\n", other.signatures()[1]);
    // Those that tell no time.
    let timed = |time_s| {
        let mut note = ledger.tree.lock().signed(5, &log_key(1)).note;
        note.sign(&witness_key(1), time_s);
        format!("{}\n", note.signatures()[1])
    };
    let type_of = |content_type: &'static str| [("content-type", content_type)];
    for (status, content_type, body, outcome) in [
        (200, "text/plain", strange, "bad_answer"),
        (200, "text/plain", other, "bad_answer"),
        (200, "text/plain", timed(0), "bad_answer"),
        (200, "text/plain", timed(1 << 63), "bad_answer"),
        (200, "text/plain", String::new(), "bad_answer"),
        (200, "text/plain", "x".repeat(ANSWER_BYTES_MAX + 1), "bad_answer"),
        (409, "text/plain", "3\n".to_owned(), "bad_answer"),
        (409, SIZE_TYPE, "03\n".to_owned(), "bad_answer"),
        (409, SIZE_TYPE, "3\n".to_owned(), "bad_answer"),
        (409, SIZE_TYPE, "99\n".to_owned(), "rolled_back"),
        (404, "text/plain", "who?\n".to_owned(), "refused"),
        (302, "text/plain", String::new(), "refused"),
        (500, "text/plain", String::new(), "refused"),
    ] {
        let answer = (StatusCode::from_u16(status).unwrap(), type_of(content_type), body);
        let router = axum::Router::new()
            .route("/add-checkpoint", post(move || std::future::ready(answer.clone())));
        let one = serve(1, router).await;
        let before = counted_or_none(&metrics, outcome);
        let _own = start(&ledger, &[&one.witness], &metrics);
        until(outcome, || counted_or_none(&metrics, outcome) > before).await;
    }
    assert!(ledger.added.borrow().is_empty());
}

fn counted_or_none(metrics: &Metrics, outcome: &str) -> u64 {
    let named = metrics.encode().unwrap().contains(W1);
    if named { counted(metrics, W1, outcome) } else { 0 }
}

fn courier(ledger: &Arc<Fake>, metrics: &Arc<Metrics>) -> Courier<Fake> {
    Courier {
        ledger: Arc::clone(ledger),
        name: W1.to_owned(),
        key: witness_key(1).verifier().clone(),
        url: String::new(),
        asking: Asking::new(PATIENCE, None).unwrap(),
        counted: metrics.witness(W1),
        metrics: Arc::clone(metrics),
        conflicts: Arc::default(),
        cosigned_size: 0,
        failures: 1,
    }
}

#[tokio::test]
async fn one_cosignature_of_a_response_is_kept() {
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    ledger.sign(5);
    let signed = ledger.signed.borrow().clone().unwrap();
    let mut note = Note::new(signed.checkpoint.note.text().to_owned()).unwrap();
    for time_s in [0, 3, 9, 4] {
        note.sign(&witness_key(1), time_s);
    }
    let newest = note.signatures()[2].clone();
    let lines: String =
        note.signatures().iter().map(|signature| format!("{signature}\n")).collect();
    let cosignature = courier(&ledger, &metrics).cosignature(&signed, &lines);
    assert_eq!(cosignature.unwrap(), newest);
}

#[tokio::test]
async fn a_ledger_in_conflict_holds_back_until_it_is_resolved() {
    let (one, two) = (run(1, &SimDisk::new()).await, run(2, &SimDisk::new()).await);
    let (ledger, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    let courier = start(&ledger, &[&one.witness, &two.witness], &metrics);
    ledger.sign(20);
    ledger.cosigned(20, &[W1, W2]).await;
    assert!(ledger.held_back.lock().is_empty());
    drop(courier);
    // An old copy: both have seen more.
    let (copy, metrics) = (Fake::new(0..50), Arc::new(Metrics::new()));
    let _own = start(&copy, &[&one.witness, &two.witness], &metrics);
    copy.sign(15);
    until("both say so", || {
        let said = |name| counted(&metrics, name, "rolled_back") > 0;
        said(W1) && said(W2)
    })
    .await;
    assert_eq!(*copy.held_back.lock(), [true], "called once");
    // It was only behind, and goes on from what they have seen.
    copy.sign(30);
    copy.cosigned(30, &[W1, W2]).await;
    until("resolved", || *copy.held_back.lock() == [true, false]).await;
}

#[test]
fn only_a_cosignature_takes_a_conflict_back() {
    let (ledger, metrics) = (Fake::new(0..1), Arc::new(Metrics::new()));
    let mut courier = courier(&ledger, &metrics);
    courier.report(&Failure::Inconsistent { seen: 1, size: 2, answer: String::new() });
    courier.report(&Failure::Refused { status: 500, answer: String::new() });
    courier.report(&Failure::BadAnswer(String::new()));
    assert_eq!(*ledger.held_back.lock(), [true]);
    // Another witness has nothing to take back.
    courier.conflicts.set(witness_key(2).verifier(), false, &*ledger);
    assert_eq!(*ledger.held_back.lock(), [true]);
    courier.conflicts.set(witness_key(1).verifier(), false, &*ledger);
    assert_eq!(*ledger.held_back.lock(), [true, false]);
}

#[test]
fn pauses_grow_to_a_bound() {
    let mut courier = courier(&Fake::new(0..1), &Arc::new(Metrics::new()));
    for (failures, most) in
        [(1, PAUSE_MIN), (2, PAUSE_MIN * 2), (5, PAUSE_MIN * 16), (u32::MAX, PAUSE_MAX)]
    {
        courier.failures = failures;
        let pause = courier.pause();
        assert!(pause <= most && pause >= most / 2, "{failures}: {pause:?}");
    }
}
