//! The log as independent software verifies it, from its public files alone: Go's checksum database
//! packages (`tests/go/verify.go`), and a Python program written from the specifications
//! (`tests/python/verify_log.py`). Neither shares code with the service.
//!
//! When the tests are built, `CONSENT_LEDGER_TEST_GO` names a `go` with its source tree, and
//! `CONSENT_LEDGER_TEST_PYTHON` a Python with the packages of `tests/python/requirements.txt`.
//! Nothing is downloaded: Go's own tree holds the packages.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use consent_ledger::{
    domain::{Effect, Reason},
    format::entry::Body,
    ledger::{FORMAT_VERSION, LEVEL, chain},
    proto::{
        self, Action,
        get_inclusion_proof_request::Entry,
        ledger::{ChannelPut, LedgerOpened},
    },
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::{SignerKey, VerifierKey},
        merkle::Hash,
        note::Note,
        proof::TlogProof,
        tile::Tile,
    },
    token::{Lifetime, Signer, Statement, SubjectHash},
    web::WebClient,
};

use crate::support::{
    self, Clients, Process, Server, act, change, check_request, clear_key, cosigner_key,
    signer_key,
    tree::{SIZES, Tree},
};

const ORIGIN: &str = "consent.example.org/eu";

/// A ledger of entries that are linked as in any ledger.
fn ledger(size: u64) -> Tree {
    let mut tip = chain::Tip::genesis();
    Tree::new((0..size).map(|index| {
        let body = if index == 0 {
            Body::Opened(LedgerOpened {
                ledger_id: vec![7; 16],
                origin: ORIGIN.to_owned(),
                format_version: FORMAT_VERSION,
                created_at_s: 1_790_000_000,
                feature_level: LEVEL,
            })
        } else {
            let (key, title) = ("email".to_owned(), format!("Email {index}"));
            Body::Channel(ChannelPut { key, title, retired: false })
        };
        let (_, bytes, next) = tip.link(1_790_000_000, body, &clear_key()).unwrap();
        tip = next;
        bytes
    }))
}

/// Keys that sign besides the log's own.
fn other_key(name: &str) -> SignerKey {
    signer_key(name, 9)
}

fn witness_key() -> SignerKey {
    cosigner_key("witness.example/w1", 3)
}

/// Writes the files that `tests/go/verify.go` describes.
struct Vectors<'a> {
    dir: &'a Path,
    tree: &'a Tree,
}

impl Vectors<'_> {
    /// Keys and, for each size, the log's files and an auditor's requests.
    fn write(&self, log: &SignerKey, sizes: &[u64]) {
        self.write_keys(log.verifier());
        for (at, size) in sizes.iter().enumerate() {
            for tile in Tile::all(*size) {
                self.put(&tile.to_string(), self.tree.tile(&tile));
            }
            let checkpoint = Checkpoint {
                origin: log.verifier().name().to_owned(),
                size: *size,
                root: self.tree.root(*size),
                extensions: String::new(),
            };
            let checkpoint = SignedCheckpoint::sign(checkpoint, log).unwrap();
            self.write_proofs(*size, &self.write_checkpoint(checkpoint));
            for first in &sizes[..=at] {
                let proof = self.tree.consistency(*first, *size);
                self.put_in(*size, &format!("consistency/{first}"), lines(&proof));
            }
        }
    }

    fn write_keys(&self, log: &VerifierKey) {
        self.put("log.vkey", format!("{log}\n"));
        self.put("other.vkey", other_key(log.name()).verifier().to_string());
        self.put("witness.vkey", witness_key().verifier().to_string());
    }

    /// Writes a checkpoint of the log with others' signatures.
    fn write_checkpoint(&self, mut signed: SignedCheckpoint) -> SignedCheckpoint {
        let Checkpoint { origin, size, .. } = &signed.checkpoint;
        let other = other_key(origin);
        let mut by_other = Note::new(signed.note.text().to_owned()).unwrap();
        by_other.sign(&other, 0);
        self.put_in(*size, "checkpoint.other", by_other.to_string());
        signed.note.sign(&other, 0);
        signed.note.sign(&witness_key(), 1_790_000_000);
        self.put_in(*size, "checkpoint", signed.note.to_string());
        signed
    }

    fn write_proofs(&self, size: u64, checkpoint: &SignedCheckpoint) {
        for index in places(size) {
            let path = self.tree.inclusion(index, size);
            self.put_in(size, &format!("inclusion/{index}"), lines(&path));
            self.write_segment(index, size, path.len());
            let proof = TlogProof {
                extra: Some(self.tree.entry(index).to_vec()),
                index,
                path,
                checkpoint: checkpoint.clone(),
            };
            self.put_in(size, &format!("proof/{index}"), proof.to_string());
        }
    }

    /// As many hashes as the path has, so that only their values are wrong.
    fn write_segment(&self, index: u64, size: u64, hashes: usize) {
        let link = |up| chain::hash(self.tree.entry((index + up) % size));
        let links: Vec<Hash> = (0..hashes.max(1) as u64).map(link).collect();
        self.put_in(size, &format!("segment/{index}"), lines(&links));
    }

    fn put_in(&self, size: u64, name: &str, bytes: impl AsRef<[u8]>) {
        self.put(&format!("trees/{size}/{name}"), bytes);
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A token that is signed with the key that signs checkpoints.
fn decision_token(key: &SignerKey) -> String {
    Signer::from_seed(&key.seed()).sign(&Statement {
        issuer: key.verifier().name().to_owned(),
        lifetime: Lifetime { issued_at_s: 1_790_000_000, expires_at_s: 1_790_000_900 },
        subject: SubjectHash::new("user:42", [5; 16]),
        purpose: "marketing.newsletter".to_owned(),
        channel: "email".to_owned(),
        region: None,
        data_categories: Vec::new(),
        effect: Effect::Deny,
        reason: Reason::NoRecord,
        grounds: "opaque".to_owned(),
        has_obligations: false,
        obligations_ignored: false,
    })
}

fn lines(hashes: &[Hash]) -> String {
    hashes.iter().map(|hash| BASE64_STANDARD.encode(hash) + "\n").collect()
}

/// Entries at the edges of a tree, and one in its middle.
fn places(size: u64) -> Vec<u64> {
    let mut all = vec![0, 1, 255, 256, size / 2, size - 1];
    all.retain(|index| *index < size);
    all.sort_unstable();
    all.dedup();
    all
}

/// The expected report for trees of these sizes, so that no check can be skipped.
fn report(sizes: &[u64]) -> Vec<String> {
    let of_one = |(at, size): (usize, &u64)| {
        let (count, consistent) = (places(*size).len(), at + 1);
        let swapped = if *size > 1 { "swapped entries, " } else { "" };
        [
            format!(
                "ok: {size} entries: note, cosignature, root from bundles, root from tiles, \
                 {count} inclusion, {consistent} consistency, {count} tlog-proofs"
            ),
            format!(
                "refused: {size} entries: another key of the name, a changed checkpoint, \
                 a changed entry, {swapped}a chain segment, a changed path"
            ),
        ]
    };
    sizes.iter().enumerate().flat_map(of_one).collect()
}

fn output_lines(command: Command) -> Vec<String> {
    let done = Process::spawn(command).wait(support::LONG_PATIENCE).expect_code(0);
    done.stdout.lines().map(str::to_owned).collect()
}

/// A program that verifies a log.
struct Verifier {
    program: PathBuf,
    script: Option<PathBuf>,
    /// The directory of the build.
    _dir: Option<tempfile::TempDir>,
}

impl Verifier {
    fn command(&self, vectors: &Path) -> Command {
        let mut command = support::clean(Command::new(&self.program));
        command.args(&self.script).arg(vectors);
        command.envs([("PYTHONDONTWRITEBYTECODE", "1"), ("PYTHONUTF8", "1")]);
        command
    }

    /// Builds `tests/go/verify.go` with the packages of Go's own source tree.
    fn go() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let go = env::var("CONSENT_LEDGER_TEST_GO").expect("it was there for the build");
        let go = |args: &[&str]| {
            let mut command = support::clean(Command::new(&go));
            command
                .args(args)
                .current_dir(dir.path())
                // A cache, so that the next test does not compile again.
                .env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"))
                .envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local")])
                .envs([("GOENV", "off"), ("GOWORK", "off"), ("GO111MODULE", "on")])
                .env("GOPATH", dir.path().join("go"))
                .env_remove("GOROOT");
            output_lines(command)
        };
        let packages =
            Path::new(&go(&["env", "GOROOT"])[0]).join("src/cmd/vendor/golang.org/x/mod/sumdb");
        for package in ["note", "tlog"] {
            let to = dir.path().join("mod/sumdb").join(package);
            support::copy_tree(&packages.join(package), &to);
        }
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("mod/go.mod", "module golang.org/x/mod\n\ngo 1.22\n");
        put(
            "go.mod",
            "module verify\n\ngo 1.22\n\nrequire golang.org/x/mod v0.0.0\n\n\
             replace golang.org/x/mod => ./mod\n",
        );
        let program = support::repository("tests/go/verify.go");
        put("verify.go", &fs::read_to_string(program).unwrap());
        go(&["build", "-o", "verify", "."]);
        Self { program: dir.path().join("verify"), script: None, _dir: Some(dir) }
    }

    fn python() -> Self {
        let python = env::var_os("CONSENT_LEDGER_TEST_PYTHON").expect("it was there for the build");
        let script = support::repository("tests/python/verify_log.py");
        Self { program: python.into(), script: Some(script), _dir: None }
    }
}

/// The log's key, and the vectors of trees of all sizes.
fn vectors() -> (SignerKey, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let key = signer_key(ORIGIN, 1);
    let tree = ledger(SIZES[SIZES.len() - 1]);
    Vectors { dir: dir.path(), tree: &tree }.write(&key, &SIZES);
    (key, dir)
}

#[test]
#[cfg_attr(not(test_go), ignore = "needs CONSENT_LEDGER_TEST_GO: a `go` with its source tree")]
fn trees_of_all_sizes_verify_with_the_packages_of_go() {
    let (key, dir) = vectors();
    fs::write(dir.path().join("log.skey"), key.to_secret_text().as_bytes()).unwrap();
    let mut want = report(&SIZES);
    want.push("ok: signer key".to_owned());
    assert_eq!(output_lines(Verifier::go().command(dir.path())), want);
}

#[test]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python with pymerkle and cryptography"
)]
fn trees_of_all_sizes_verify_in_python() {
    let (key, dir) = vectors();
    fs::write(dir.path().join("decision.jwt"), decision_token(&key)).unwrap();
    let mut want = report(&SIZES);
    want.push("ok: decision token".to_owned());
    assert_eq!(output_lines(Verifier::python().command(dir.path())), want);
}

/// Both verifiers fail, and say why, when a file of the log was changed.
fn fails_on_damage(verifier: &Verifier) {
    let dir = tempfile::tempdir().unwrap();
    let key = signer_key(ORIGIN, 1);
    let (tree, sizes) = (ledger(300), [300]);
    Vectors { dir: dir.path(), tree: &tree }.write(&key, &sizes);
    assert_eq!(output_lines(verifier.command(dir.path())), report(&sizes));
    for name in [
        "tile/entries/000",
        "tile/entries/001.p/44",
        "tile/0/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "trees/300/inclusion/255",
        "trees/300/checkpoint",
        "log.vkey",
    ] {
        let path = dir.path().join(name);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        // A letter of a text becomes another valid letter.
        let place = if name == "log.vkey" { whole.len() - 8 } else { 10 };
        changed[place] = if changed[place] == b'a' { b'b' } else { b'a' };
        fs::write(&path, changed).unwrap();
        let done =
            Process::spawn(verifier.command(dir.path())).wait(support::PATIENCE).expect_code(1);
        assert!(!done.stderr.is_empty(), "{name}");
        assert!(!done.stdout.contains("ok: "), "{name}: {}", done.stdout);
        fs::write(&path, whole).unwrap();
    }
}

/// Both verifiers fail when the log serves other entries than it signed before, even if its own key
/// signed both.
fn fails_on_another_history(verifier: &Verifier) {
    let dir = tempfile::tempdir().unwrap();
    let key = signer_key(ORIGIN, 1);
    let before = ledger(300);
    // The same entries without one in the middle.
    let after = Tree::new((0..520).filter(|index| *index != 150).map(|index| {
        if index < 300 { before.entry(index).to_vec() } else { index.to_string().into_bytes() }
    }));
    Vectors { dir: dir.path(), tree: &after }.write(&key, &[300, 519]);
    assert_eq!(
        output_lines(verifier.command(dir.path())),
        report(&[300, 519]),
        "each alone is good"
    );
    let kept = tempfile::tempdir().unwrap();
    Vectors { dir: kept.path(), tree: &before }.write(&key, &[300]);
    for name in ["checkpoint", "checkpoint.other"] {
        let name = format!("trees/300/{name}");
        fs::copy(kept.path().join(&name), dir.path().join(&name)).unwrap();
    }
    let done = Process::spawn(verifier.command(dir.path())).wait(support::PATIENCE).expect_code(1);
    assert!(done.stderr.contains("the root from the entries"), "{}", done.stderr);
}

#[test]
#[cfg_attr(not(test_go), ignore = "needs CONSENT_LEDGER_TEST_GO: a `go` with its source tree")]
fn the_packages_of_go_find_a_changed_file_and_another_history() {
    let go = Verifier::go();
    fails_on_damage(&go);
    fails_on_another_history(&go);
}

#[test]
#[cfg_attr(
    not(test_python),
    ignore = "needs CONSENT_LEDGER_TEST_PYTHON: a Python with pymerkle and cryptography"
)]
fn python_finds_a_changed_file_and_another_history() {
    let python = Verifier::python();
    fails_on_damage(&python);
    fails_on_another_history(&python);
}

/// A running ledger, and the files fetched from it: over HTTP for monitors, over gRPC for auditors.
struct Live {
    server: Server,
    clients: Clients,
    /// URL of the tiles.
    tiles: String,
    web: WebClient,
    dir: tempfile::TempDir,
    vectors: tempfile::TempDir,
    sizes: Vec<u64>,
}

impl Live {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = ["--origin", ORIGIN, "--tiles-listen", "127.0.0.1:0"];
        let server = Server::start_with(dir.path(), &flags);
        let tiles = format!("http://{}", server.printed("tiles on ").unwrap());
        let clients = server.clients_with_catalog(&["marketing.newsletter"], &["email"]).await;
        let (vectors, sizes) = (tempfile::tempdir().unwrap(), Vec::new());
        let web = WebClient::new(support::PATIENCE, None).unwrap();
        Self { server, clients, tiles, web, dir, vectors, sizes }
    }

    /// Records acts up to a number of entries, then fetches everything about the checkpoint over
    /// them.
    async fn grow_to(&mut self, size: u64) {
        let head = self.clients.checkpoint().await.size;
        for chunk in (head..size).collect::<Vec<_>>().chunks(500) {
            let acts = chunk.iter().map(|n| {
                let mut consent = self.clients.consent.clone();
                let grant = change(Action::Grant, "marketing.newsletter", "email");
                let act = act(&format!("user:{}", n % 700), vec![grant]);
                async move { consent.record_consent(act).await.unwrap() }
            });
            futures_util::future::join_all(acts).await;
        }
        let request = proto::GetCheckpointRequest { at_least_size: Some(size) };
        let answer = self.clients.audit.get_checkpoint(request).await.unwrap().into_inner();
        assert_eq!(answer.checkpoint_size, size);
        let signed = self.get("checkpoint").await;
        assert_eq!(signed, answer.checkpoint.as_bytes());
        let signed = SignedCheckpoint::parse(&answer.checkpoint).unwrap();
        // The key that the operator publishes equals that of the key file.
        let key = fs::read_to_string(self.dir.path().join("signing-key")).unwrap();
        let key = SignerKey::parse(&key).unwrap().verifier().clone();
        assert_eq!(key.to_string(), answer.verifier_key);
        self.sizes.push(size);
        self.fetch(size, &key, signed).await;
    }

    async fn fetch(&self, size: u64, key: &VerifierKey, signed: SignedCheckpoint) {
        let request = proto::ListEntriesRequest { start_index: 0, end_index: Some(size) };
        let mut audit = self.clients.audit.clone();
        let mut stream = audit.list_entries(request).await.unwrap().into_inner();
        let mut entries = Vec::new();
        while let Some(answer) = stream.message().await.unwrap() {
            entries.push(answer.entry);
        }
        let tree = Tree::new(entries);
        let vectors = Vectors { dir: self.vectors.path(), tree: &tree };
        vectors.write_keys(key);
        vectors.write_checkpoint(signed);
        for tile in Tile::all(size).map(|tile| tile.to_string()) {
            vectors.put(&tile, self.get(&tile).await);
        }
        for index in places(size) {
            let request = proto::GetInclusionProofRequest {
                entry: Some(Entry::Index(index)),
                tree_size: Some(size),
                ..Default::default()
            };
            let proof = audit.get_inclusion_proof(request).await.unwrap().into_inner();
            vectors.put_in(size, &format!("inclusion/{index}"), lines(&hashes(&proof.hashes)));
            vectors.put_in(size, &format!("proof/{index}"), proof.proof);
            vectors.write_segment(index, size, proof.hashes.len());
        }
        for first in &self.sizes {
            let request =
                proto::GetConsistencyProofRequest { first_size: *first, second_size: Some(size) };
            let proof = audit.get_consistency_proof(request).await.unwrap().into_inner();
            let text = lines(&hashes(&proof.hashes));
            vectors.put_in(size, &format!("consistency/{first}"), text);
        }
    }

    async fn get(&self, path: &str) -> Vec<u8> {
        let url = format!("{}/{path}", self.tiles);
        let answer = self.web.get(&url, 16 << 20).await.unwrap();
        assert_eq!(answer.status, 200, "{url}");
        answer.body
    }

    async fn fetch_token(&mut self) {
        let question = check_request("user:1", "marketing.newsletter", "email");
        let question = proto::CheckRequest { want_token: true, ..question };
        let answer = self.clients.ask(question).await;
        let path = self.vectors.path().join("decision.jwt");
        fs::write(path, answer.token).unwrap();
    }
}

fn hashes(proof: &[Vec<u8>]) -> Vec<Hash> {
    proof.iter().map(|hash| hash.as_slice().try_into().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(test_go, test_python)),
    ignore = "needs CONSENT_LEDGER_TEST_GO and CONSENT_LEDGER_TEST_PYTHON"
)]
async fn a_running_ledger_verifies_with_both() {
    let mut live = Live::start().await;
    live.grow_to(1_300).await;
    live.grow_to(3_072).await;
    let want = report(&live.sizes);
    let report_of = |verifier: &Verifier| output_lines(verifier.command(live.vectors.path()));
    assert_eq!(report_of(&Verifier::go()), want);
    assert_eq!(report_of(&Verifier::python()), want);

    live.fetch_token().await;
    let lines = output_lines(Verifier::python().command(live.vectors.path()));
    assert_eq!(lines.last().unwrap(), "ok: decision token");
    live.server.terminate();
}
