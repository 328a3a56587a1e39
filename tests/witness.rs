//! Witnesses as real processes: the meaning of each status, that no crash, race or old copy undoes
//! a cosignature, and a ledger whose checkpoints three witnesses cosign.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use consent_ledger::{
    proto::Action,
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::{Algorithm, SignerKey, VerifierKey},
        note::{NOTE_BYTES_MAX, Note, SIGNATURES_MAX},
        policy::{Policy, Witness as Known},
        witness::AddCheckpoint,
    },
    web::{Answer, WebClient},
};
use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{
    self, Finished, PATIENCE, Process, Server, binary, copy_tree, eventually, hex, signer_key,
    tree::Tree,
};

const ORIGIN: &str = "ledger.example/eu";

fn log_key() -> SignerKey {
    signer_key(ORIGIN, 7)
}

/// A log in memory.
struct Log(Tree);

impl Log {
    fn of(leaves: impl IntoIterator<Item = u64>) -> Self {
        Self(Tree::new(leaves.into_iter().map(|leaf| leaf.to_be_bytes().to_vec())))
    }

    fn request(&self, old_size: u64, size: u64) -> AddCheckpoint {
        let checkpoint = Checkpoint {
            origin: ORIGIN.to_owned(),
            size,
            root: self.0.root(size),
            extensions: String::new(),
        };
        let proof = if old_size <= size { self.0.consistency(old_size, size) } else { Vec::new() };
        let checkpoint = SignedCheckpoint::sign(checkpoint, &log_key()).unwrap();
        AddCheckpoint { old_size, proof, checkpoint }
    }
}

/// The directory of a witness, and its name.
struct Home {
    dir: PathBuf,
    name: String,
    log: VerifierKey,
}

impl Home {
    fn new(root: &Path, name: &str) -> Self {
        let dir = root.join(name.replace('/', "-"));
        Self { dir, name: name.to_owned(), log: log_key().verifier().clone() }
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    fn process(&self, flags: &[&str]) -> Process {
        let mut command = binary();
        command.args(["witness", "--name", &self.name, "--log", &self.log.to_string()]);
        command.arg("--state-file").arg(self.state()).arg("--key-file").arg(self.key());
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(flags);
        Process::spawn(command)
    }

    #[track_caller]
    fn start(&self) -> Witness {
        self.start_with(&[])
    }

    #[track_caller]
    fn start_with(&self, flags: &[&str]) -> Witness {
        let process = self.process(flags);
        let address = process.printed("listening on ").unwrap();
        let key = VerifierKey::parse(&process.printed("verifier key ").unwrap()).unwrap();
        Witness { process, address, key, web: WebClient::new(PATIENCE, None).unwrap() }
    }

    /// The error with which it refuses to start.
    #[track_caller]
    fn refused(&self, flags: &[&str], code: i32) -> Finished {
        self.process(flags).wait(PATIENCE).expect_code(code)
    }
}

/// A running witness.
struct Witness {
    process: Process,
    address: String,
    key: VerifierKey,
    web: WebClient,
}

impl Witness {
    async fn add(&self, request: &AddCheckpoint) -> Answer {
        let url = format!("http://{}/add-checkpoint", self.address);
        self.web.post(&url, request.to_string(), 1 << 16).await.unwrap()
    }

    /// The latest checkpoint, verified, if there is one.
    async fn latest(&self) -> Option<SignedCheckpoint> {
        let hash = hex(Sha256::digest(ORIGIN));
        let url = format!("http://{}/{hash}/checkpoint", self.address);
        let answer = self.web.get(&url, 1 << 16).await.unwrap();
        if answer.status == 404 {
            return None;
        }
        let text = String::from_utf8(answer.body).unwrap();
        let latest = SignedCheckpoint::open(&text, log_key().verifier()).unwrap();
        latest.note.verify(&self.key).unwrap();
        Some(latest)
    }

    async fn size(&self) -> u64 {
        self.latest().await.map_or(0, |signed| signed.checkpoint.size)
    }

    /// The value of the flag of `serve`.
    fn flag(&self) -> String {
        self.flag_at(&self.address)
    }

    fn flag_at(&self, address: &str) -> String {
        format!("--witness={} http://{address}", self.key)
    }

    fn terminate(self) -> Finished {
        self.process.terminate()
    }
}

/// A fixed address in front of a witness that restarts at changing ones.
struct Relay {
    address: String,
    target: watch::Sender<String>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn to(witness: &Witness) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = watch::Sender::new(witness.address.clone());
        let targets = target.subscribe();
        let accepting = tokio::spawn(async move {
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let target = targets.borrow().clone();
                tokio::spawn(async move {
                    // While the witness is down, connections break.
                    if let Ok(mut to) = TcpStream::connect(&target).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { address, target, accepting }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test]
async fn a_witness_answers_as_the_specification_says() {
    let root = tempfile::tempdir().unwrap();
    let witness = Home::new(root.path(), "witness.example/w1").start();
    let (tree, other) = (Log::of(0..40), Log::of((0..10).chain(100..140)));
    assert!(witness.latest().await.is_none());
    let first = tree.request(0, 12);
    let answer = witness.add(&first).await;
    assert_eq!(answer.status, 200);
    let mut note = Note::new(first.checkpoint.note.text().to_owned()).unwrap();
    note.add_lines(std::str::from_utf8(&answer.body).unwrap()).unwrap();
    let at_s = note.verify(&witness.key).unwrap().unwrap();
    let now_s = u64::try_from(support::now_ms() / 1_000).unwrap();
    assert!(now_s.abs_diff(at_s) < 3_600, "{at_s} is not now");
    for (request, status) in [
        (tree.request(0, 20), 409),
        (tree.request(13, 12), 400),
        (other.request(12, 20), 422),
        (other.request(12, 12), 422),
        (tree.request(12, 12), 200),
        (tree.request(12, 40), 200),
        (tree.request(12, 40), 409),
    ] {
        let answer = witness.add(&request).await;
        assert_eq!(answer.status, status, "{request}: {:?}", String::from_utf8(answer.body));
    }
    let conflict = witness.add(&tree.request(12, 20)).await;
    assert_eq!(conflict.content_type, "text/x.tlog.size");
    assert_eq!(conflict.body, b"40\n");
    let strangers: [(&str, u8, u16); 2] = [("other.example", 7, 404), (ORIGIN, 8, 403)];
    for (origin, seed, status) in strangers {
        let key = signer_key(origin, seed);
        let mut request = tree.request(40, 40);
        let checkpoint =
            Checkpoint { origin: origin.to_owned(), ..request.checkpoint.checkpoint.clone() };
        request.checkpoint = SignedCheckpoint::sign(checkpoint, &key).unwrap();
        assert_eq!(witness.add(&request).await.status, status, "{origin}");
    }
    assert_eq!(witness.size().await, 40);
    // A fork that the log has signed is evidence, and is kept in the log.
    let log = witness.terminate().stderr;
    assert!(log.contains("the log has signed two roots for one size"), "{log}");
    assert!(
        log.contains("the checkpoint is not proven to be consistent with the last one"),
        "{log}"
    );
}

#[tokio::test]
async fn no_request_of_a_stranger_keeps_a_witness_from_restarting() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::new(root.path(), "witness.example/w1");
    let tree = Log::of(0..64);
    let witness = home.start();
    let mut repeated = tree.request(0, 10);
    let line = repeated.checkpoint.note.signatures()[0].clone();
    (1..SIGNATURES_MAX).for_each(|_| repeated.checkpoint.note.add(line.clone()));
    assert_eq!(witness.add(&repeated).await.status, 200);
    let mut large = tree.request(10, 20);
    let bytes = NOTE_BYTES_MAX - large.checkpoint.to_string().len();
    let extensions = format!("{}\n", "x".repeat(bytes - 1));
    let checkpoint = Checkpoint { extensions, ..large.checkpoint.checkpoint };
    large.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key()).unwrap();
    assert_eq!(witness.add(&large).await.status, 400);
    witness.terminate();
    let witness = home.start();
    assert_eq!(witness.size().await, 10);
    assert_eq!(witness.add(&tree.request(10, 20)).await.status, 200);
    witness.terminate();
}

#[tokio::test]
async fn cosignatures_survive_kill_9() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::new(root.path(), "witness.example/w1");
    let tree = Log::of(0..64);
    let mut old = 0;
    let mut key = None;
    for size in [0, 3, 17, 17, 64] {
        let mut witness = home.start();
        assert_eq!(*key.get_or_insert(witness.key.clone()), witness.key, "one key for ever");
        assert_eq!(witness.size().await, old);
        assert_eq!(witness.add(&tree.request(old, size)).await.status, 200);
        witness.process.kill();
        old = size;
    }
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(home.key()), mode(home.state())), (0o600, 0o600));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_never_lower_the_size() {
    let root = tempfile::tempdir().unwrap();
    let witness = Home::new(root.path(), "witness.example/w1").start();
    let tree = Log::of(0..200);
    let mut old = 0;
    while old < 150 {
        let requests: Vec<AddCheckpoint> =
            (1..=8).map(|more| tree.request(old, old + more)).collect();
        let answers = requests.iter().map(|request| witness.add(request));
        let answers = futures_util::future::join_all(answers).await;
        let cosigned: Vec<u64> = (answers.iter().zip(&requests))
            .filter(|(answer, _)| answer.status == 200)
            .map(|(_, request)| request.checkpoint.checkpoint.size)
            .collect();
        assert_eq!(cosigned.len(), 1, "each continues the same, so only one can: {cosigned:?}");
        assert!(answers.iter().all(|answer| [200, 409].contains(&answer.status)));
        assert_eq!(witness.size().await, cosigned[0]);
        old = cosigned[0];
    }
}

#[tokio::test]
async fn a_witness_does_not_start_from_an_old_or_a_lost_state() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::new(root.path(), "witness.example/w1");
    let tree = Log::of(0..64);
    let witness = home.start();
    assert_eq!(witness.add(&tree.request(0, 10)).await.status, 200);
    witness.terminate();
    let old = fs::read(home.state()).unwrap();
    let witness = home.start();
    assert_eq!(witness.add(&tree.request(10, 20)).await.status, 200);
    // While one runs, a second refuses to start.
    let second = home.refused(&[], 1).stderr;
    assert!(second.contains("in use by another process"), "{second}");
    witness.terminate();
    let newest = fs::read(home.state()).unwrap();

    fs::write(home.state(), &old).unwrap();
    let log = home.refused(&[], 1).stderr;
    assert!(log.contains("an old copy was restored"), "{log}");
    fs::remove_file(home.state()).unwrap();
    let log = home.refused(&[], 1).stderr;
    assert!(log.contains("is missing although the key"), "{log}");
    assert!(log.contains("--new-state"), "{log}");
    assert!(!home.state().exists());
    fs::write(home.state(), &newest[..newest.len() / 2]).unwrap();
    assert!(home.refused(&[], 1).stderr.contains("no state that this witness has kept"));
    fs::write(home.state(), &newest).unwrap();
    assert!(home.refused(&["--new-state"], 2).stderr.contains("--new-state is for"));
    let witness = home.start();
    assert_eq!(witness.size().await, 20);
    witness.terminate();

    // An explicit flag allows a fresh start.
    fs::remove_file(home.state()).unwrap();
    let witness = home.start_with(&["--new-state"]);
    assert_eq!(witness.size().await, 0);
    witness.terminate();
}

#[test]
fn usage_errors_name_the_fault() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::new(root.path(), "witness.example/w1");
    home.start().terminate();
    let key = fs::read(home.key()).unwrap();
    let other = Home {
        name: "witness.example/w2".to_owned(),
        ..Home::new(root.path(), "witness.example/w1")
    };
    let log = other.refused(&[], 2).stderr;
    assert!(log.contains("is the key of `witness.example/w1`"), "{log}");
    let log = home.refused(&["--listen", "0.0.0.0:0"], 2).stderr;
    assert!(log.contains("--insecure"), "{log}");
    let log = home.refused(&["--tls-cert", "absent.pem"], 2).stderr;
    assert!(log.contains("--tls-key"), "{log}");
    assert_eq!(fs::read(home.key()).unwrap(), key, "a key is never written over");
    fs::remove_file(home.key()).unwrap();
    // Nothing was cosigned, so nothing is lost.
    home.start().terminate();
    assert_ne!(fs::read(home.key()).unwrap(), key);
    let bad = Home { log: home.start().key, ..Home::new(root.path(), "witness.example/w3") };
    let log = bad.refused(&[], 2).stderr;
    assert!(log.contains("is a witness's key, not a log's"), "{log}");
}

#[test]
fn json_announces_address_and_key() {
    let root = tempfile::tempdir().unwrap();
    let process = Home::new(root.path(), "witness.example/w1").process(&["--json"]);
    let line = process.stdout.wait_for(PATIENCE, |text| text.strip_suffix('\n').map(str::to_owned));
    let announced: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
    assert!(announced["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    let key = VerifierKey::parse(announced["verifierKey"].as_str().unwrap()).unwrap();
    assert_eq!((key.name(), key.algorithm()), ("witness.example/w1", Algorithm::Cosignature));
}

#[test]
fn a_policy_can_name_the_logs() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("policy");
    fs::write(&file, format!("log {}\nquorum none\n", log_key().verifier())).unwrap();
    let (state, key) = (root.path().join("state"), root.path().join("key"));
    let start = |policy: &Path| {
        let mut command = binary();
        command.args(["witness", "--name", "w.example", "--listen", "127.0.0.1:0"]);
        command.arg("--state-file").arg(&state).arg("--key-file").arg(&key);
        command.arg("--policy").arg(policy);
        Process::spawn(command)
    };
    let process = start(&file);
    process.stderr.wait_for(PATIENCE, |text| text.contains(ORIGIN).then_some(())).unwrap();
    drop(process);
    fs::write(&file, "quorum none\n").unwrap();
    let log = start(&file).wait(PATIENCE).expect_code(2).stderr;
    assert!(log.contains("no log to follow"), "{log}");
}

/// A ledger with witnesses.
struct Ledger {
    dir: PathBuf,
    key_file: PathBuf,
}

impl Ledger {
    fn new(root: &Path) -> Self {
        let key_file = root.join("signing-key");
        fs::write(&key_file, format!("{}\n", *log_key().to_secret_text())).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        Self { dir: root.join("data"), key_file }
    }

    #[track_caller]
    fn start(&self, witnesses: &[&Witness], flags: &[&str]) -> Served {
        let witness_flags: Vec<String> = witnesses.iter().map(|witness| witness.flag()).collect();
        let key_file = format!("--signing-key-file={}", self.key_file.display());
        let mut all = vec![
            "--origin",
            ORIGIN,
            &key_file,
            "--unused-signing-key",
            "--metrics-listen=127.0.0.1:0",
            "--tiles-listen=127.0.0.1:0",
            "--checkpoint-interval=10ms",
        ];
        all.extend(witness_flags.iter().map(String::as_str));
        all.extend(flags);
        let server = Server::start_with(&self.dir, &all);
        let tiles = server.printed("tiles on ").unwrap();
        let metrics = server.printed("metrics on ").unwrap();
        Served { server, tiles, metrics, web: WebClient::new(PATIENCE, None).unwrap() }
    }
}

struct Served {
    server: Server,
    tiles: String,
    metrics: String,
    web: WebClient,
}

impl Served {
    /// Records an act; returns the number of entries after it.
    async fn record(&self, subject: &str) -> u64 {
        let mut clients = self.server.clients().await;
        clients.put_catalog(&["a.b"], &["email"]).await;
        clients.record_change(subject, Action::Grant, "a.b", "email").await.revision
    }

    /// The latest released checkpoint.
    async fn released(&self) -> Option<SignedCheckpoint> {
        let answer = self.web.get(&format!("http://{}/checkpoint", self.tiles), 1 << 16).await;
        let answer = answer.unwrap();
        let text = String::from_utf8(answer.body).unwrap();
        (answer.status == 200).then(|| SignedCheckpoint::open(&text, log_key().verifier()).unwrap())
    }

    async fn released_size(&self) -> u64 {
        self.released().await.map_or(0, |signed| signed.checkpoint.size)
    }

    async fn metric(&self, name: &str) -> u64 {
        let answer = self.web.get(&format!("http://{}/metrics", self.metrics), 1 << 20).await;
        support::metric(&String::from_utf8(answer.unwrap().body).unwrap(), name)
    }
}

fn two_of(witnesses: &[&Witness]) -> Policy {
    let known = |witness: &&Witness| Known {
        name: witness.key.name().to_owned(),
        key: witness.key.clone(),
        url: None,
    };
    Policy::any_of(2, witnesses.iter().map(known).collect()).unwrap()
}

#[tokio::test]
async fn two_of_three_witnesses_are_enough() {
    let root = tempfile::tempdir().unwrap();
    let homes = [1, 2, 3].map(|n| Home::new(root.path(), &format!("witness.example/w{n}")));
    let [mut one, mut two, three] = homes.each_ref().map(Home::start);
    let policy = two_of(&[&one, &two, &three]);
    let ledger = Ledger::new(root.path());
    let flags = ["--witness-quorum=2", "--witness-timeout=500ms", "--witness-fail=open"];
    let served = ledger.start(&[&one, &two, &three], &flags);

    // All three run: every checkpoint released within the timeout is cosigned.
    let size = served.record("user:1").await;
    eventually("witnessed by two or three", async || {
        let released = served.released().await?;
        let is_cosigned = policy.verify(&released.note).is_ok();
        (released.checkpoint.size >= size && is_cosigned).then_some(())
    })
    .await;
    // One is down.
    one.process.kill();
    let size = served.record("user:2").await;
    eventually("witnessed by two", async || {
        let released = served.released().await?;
        let is_cosigned = policy.verify(&released.note).is_ok();
        (released.checkpoint.size >= size && is_cosigned).then_some(())
    })
    .await;
    eventually("the metric follows", async || {
        (served.metric("consent_ledger_checkpoint_witnessed_entries").await >= size).then_some(())
    })
    .await;
    // Two are down: released without a quorum, and logged.
    two.process.kill();
    let before = served.metric("consent_ledger_checkpoints_unwitnessed_total").await;
    let size = served.record("user:3").await;
    eventually("released without", async || (served.released_size().await >= size).then_some(()))
        .await;
    assert!(policy.verify(&served.released().await.unwrap().note).is_err());
    let after = served.metric("consent_ledger_checkpoints_unwitnessed_total").await;
    assert!(after > before, "{before} {after}");
    let log = served.server.terminate().stderr;
    assert!(log.contains("too few witnesses have seen it"), "{log}");
}

#[tokio::test]
async fn failing_closed_releases_nothing_without_witnesses() {
    let root = tempfile::tempdir().unwrap();
    let homes = [1, 2].map(|n| Home::new(root.path(), &format!("witness.example/w{n}")));
    let [one, mut two] = homes.each_ref().map(Home::start);
    let policy = two_of(&[&one, &two]);
    let ledger = Ledger::new(root.path());
    // By default, both must cosign.
    let relay = Relay::to(&two).await;
    let relayed = two.flag_at(&relay.address);
    let flags = [relayed.as_str(), "--witness-fail=closed", "--witness-timeout=50ms"];
    let served = ledger.start(&[&one], &flags);
    let size = served.record("user:1").await;
    eventually("witnessed", async || (served.released_size().await >= size).then_some(())).await;
    two.process.kill();
    // Requests on their way to both have arrived by now, or never will.
    let size = served.record("user:2").await;
    eventually("the other has seen it", async || (one.size().await >= size).then_some(())).await;
    let held = served.released().await.unwrap();
    assert!(held.checkpoint.size < size, "it is held back");
    policy.verify(&held.note).unwrap();
    // Once the witness is back at its size, the checkpoint is released.
    let two = homes[1].start();
    relay.target.send_replace(two.address.clone());
    eventually("released", async || (served.released_size().await >= size).then_some(())).await;
    policy.verify(&served.released().await.unwrap().note).unwrap();
    assert_eq!(served.metric("consent_ledger_checkpoints_unwitnessed_total").await, 0);
    assert!(two.size().await >= size);
    served.server.terminate();
}

#[tokio::test]
async fn an_old_copy_of_a_ledger_is_detected_at_its_first_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let witness = Home::new(root.path(), "witness.example/w1").start();
    let ledger = Ledger::new(root.path());
    let served = ledger.start(&[&witness], &[]);
    let size = served.record("user:1").await;
    eventually("seen", async || (witness.size().await >= size).then_some(())).await;
    served.server.terminate();
    let copy = root.path().join("copy");
    copy_tree(&ledger.dir, &copy);

    let served = ledger.start(&[&witness], &[]);
    let size = served.record("user:2").await;
    eventually("seen", async || (witness.size().await >= size).then_some(())).await;
    assert_eq!(served.metric("consent_ledger_witness_conflicts_total").await, 0);
    served.server.terminate();
    fs::remove_dir_all(&ledger.dir).unwrap();
    copy_tree(&copy, &ledger.dir);

    let served = ledger.start(&[&witness], &["--witness-timeout=1s"]);
    let released = served.metric("consent_ledger_checkpoint_released_entries").await;
    served.record("user:3").await;
    eventually("noticed", async || {
        (served.metric("consent_ledger_witness_conflicts_total").await > 0).then_some(())
    })
    .await;
    // It diverges from there, and can not prove that it is consistent with the last checkpoint.
    for n in 4..8 {
        served.record(&format!("user:{n}")).await;
    }
    let forked = "consent_ledger_witness_requests_total\
                  {witness=\"witness.example/w1\",outcome=\"inconsistent\"}";
    eventually("a fork", async || (served.metric(forked).await > 0).then_some(())).await;
    assert_eq!(witness.size().await, size, "the witness stays with what it has seen");
    // It does not publish a contradicting checkpoint, although it fails open.
    let shown = served.metric("consent_ledger_checkpoint_released_entries").await;
    assert_eq!(shown, released);
    let log = served.server.terminate().stderr;
    assert!(log.contains("this ledger was rolled back, or forked: the witness"), "{log}");
    assert!(log.contains("this ledger was forked"), "{log}");
}

#[tokio::test]
async fn a_witness_can_be_asked_over_tls() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| support::repository("tests/fixtures/tls").join(name);
    let (cert, key) = (file("localhost.cert.pem"), file("localhost.key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let witness = Home::new(root.path(), "witness.example/w1").start_with(&[
        "--tls-cert",
        cert,
        "--tls-key",
        key,
    ]);
    let flag = witness.flag().replace(" http://", " https://");
    let ca = format!("--witness-ca={cert}");
    // Both must be as they should; with `closed`, the first checkpoint shows it.
    let served = Ledger::new(root.path()).start(&[], &[&flag, &ca, "--witness-fail=closed"]);
    eventually("witnessed", async || (served.released_size().await > 0).then_some(())).await;
    let released = served.released().await.unwrap();
    released.note.verify(&witness.key).unwrap();
    served.server.terminate();
    witness.terminate();
}

#[tokio::test]
async fn no_ledger_is_made_whose_name_a_witness_knows() {
    let root = tempfile::tempdir().unwrap();
    let witness = Home::new(root.path(), "witness.example/w1").start();
    let ledger = Ledger::new(root.path());
    let served = ledger.start(&[&witness], &[]);
    let size = served.record("user:1").await;
    eventually("seen", async || (witness.size().await >= size).then_some(())).await;
    served.server.terminate();
    fs::remove_dir_all(&ledger.dir).unwrap();

    let init = |flags: &[&str]| {
        let mut command = binary();
        command.arg("init").arg("--data-dir").arg(&ledger.dir).args(flags);
        Process::spawn(command).wait(PATIENCE)
    };
    let key_file = ledger.key_file.to_str().unwrap();
    let same_key = ["--signing-key-file", key_file, "--unused-signing-key"];
    let flag = witness.flag();
    let refused = |flags: &[&str]| {
        let refused = init(&[&["--origin", ORIGIN, &flag], flags].concat()).expect_code(1);
        assert!(!ledger.dir.exists(), "nothing was made: {}", refused.stderr);
        refused.stderr
    };
    // With the key that the witness knows, and with a new one.
    let error = refused(&same_key);
    assert!(error.contains(&format!("has cosigned {size} entries")), "{error}");
    let error = refused(&[]);
    assert!(error.contains("signs with another key"), "{error}");
    let flag_of_nobody = witness.flag_at("127.0.0.1:1");
    let unreachable = init(&["--origin", ORIGIN, &flag_of_nobody]).expect_code(1);
    assert!(unreachable.stderr.contains("can not be asked"), "{}", unreachable.stderr);
    assert!(unreachable.stderr.contains("--skip-witnesses"), "{}", unreachable.stderr);
    assert!(!ledger.dir.exists());

    // A name that the witness does not follow.
    let other = root.path().join("other");
    let mut command = binary();
    command.arg("init").arg("--data-dir").arg(&other).args(["--origin", "other.example", &flag]);
    Process::spawn(command).wait(PATIENCE).expect_code(0);
    assert_eq!(witness.size().await, size);
    // Deliberately.
    init(&["--origin", ORIGIN, &flag_of_nobody, "--skip-witnesses"]).expect_code(0);
}

#[tokio::test]
async fn a_witness_that_has_seen_nothing_lets_its_ledger_be_made() {
    let root = tempfile::tempdir().unwrap();
    let witness = Home::new(root.path(), "witness.example/w1").start();
    let ledger = Ledger::new(root.path());
    let mut command = binary();
    command.arg("init").arg("--data-dir").arg(&ledger.dir).args(["--origin", ORIGIN]);
    command.arg("--signing-key-file").arg(&ledger.key_file);
    command.args(["--unused-signing-key", &witness.flag()]);
    Process::spawn(command).wait(PATIENCE).expect_code(0);
    let served = ledger.start(&[&witness], &["--witness-fail=closed"]);
    let size = served.record("user:1").await;
    eventually("seen", async || (witness.size().await >= size).then_some(())).await;
}
