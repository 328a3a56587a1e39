//! Checkpoints and proofs of a real server, over gRPC and as tiles over HTTP.

use std::time::Duration;

use consent_ledger::{
    format::entry::Entry as SealedEntry,
    proto::{self, get_inclusion_proof_request::Entry},
    tlog::{
        checkpoint::SignedCheckpoint,
        key::VerifierKey,
        merkle::{self, Hash},
        proof::TlogProof,
        tile::{Kind, Tile, unbundle},
    },
    web::{Answer, WebClient},
};

use crate::support::{Clients, Server, act, change, typed};

struct Ledger {
    server: Server,
    clients: Clients,
    key: VerifierKey,
    _dir: tempfile::TempDir,
}

fn grant(n: usize, wait_for_checkpoint: bool) -> proto::RecordConsentRequest {
    proto::RecordConsentRequest {
        idempotency_key: format!("signup-{n}"),
        wait_for_checkpoint,
        ..act(&format!("user:{n}"), vec![change(proto::Action::Grant, "news", "email")])
    }
}

fn hash(bytes: &[u8]) -> Hash {
    bytes.try_into().unwrap()
}

impl Ledger {
    async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = [&["--tiles-listen=127.0.0.1:0", "--checkpoint-interval=20ms"], flags].concat();
        let server = Server::start_with(dir.path(), &flags);
        let clients = server.clients_with_catalog(&["news"], &["email"]).await;
        let key = VerifierKey::parse(&server.printed("verifier key ").unwrap()).unwrap();
        Self { server, clients, key, _dir: dir }
    }

    async fn record(&mut self, n: usize, wait: bool) -> proto::RecordConsentResponse {
        self.clients.record(grant(n, wait)).await
    }

    async fn inclusion(
        &mut self,
        entry: Entry,
        tree_size: Option<u64>,
    ) -> Result<proto::GetInclusionProofResponse, tonic::Status> {
        let number = match &entry {
            Entry::IdempotencyKey(key) => key.strip_prefix("signup-").unwrap_or("1"),
            Entry::Index(_) => "1",
        };
        let subject = format!("user:{number}");
        let request = proto::GetInclusionProofRequest { subject, entry: Some(entry), tree_size };
        Ok(self.clients.audit.get_inclusion_proof(request).await?.into_inner())
    }

    async fn tiles(&self, path: &str) -> Answer {
        let address = self.server.printed("tiles on ").unwrap();
        let client = WebClient::new(Duration::from_secs(30), None).unwrap();
        client.get(&format!("http://{address}/{path}"), 1 << 20).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_waits_is_covered_by_its_checkpoint() {
    let mut ledger = Ledger::start(&[]).await;
    for n in 0..3 {
        let recorded = ledger.record(n, true).await;
        let checkpoint = SignedCheckpoint::open(&recorded.checkpoint, &ledger.key).unwrap();
        assert!(checkpoint.checkpoint.size > recorded.index);
        let proven = ledger.inclusion(Entry::Index(recorded.index), None).await.unwrap();
        let proof = TlogProof::parse(&proven.proof).unwrap();
        proof.verify(&merkle::leaf_hash(&proven.entry), &ledger.key).unwrap();
        assert_eq!(proof.extra.as_deref(), Some(proven.entry.as_slice()));
        let entry = SealedEntry::decode(&proven.entry).unwrap();
        assert_eq!(entry.index, recorded.index);
    }
    // The same key is the same act, with or without waiting.
    let again = ledger.record(1, false).await;
    assert!(again.replayed && again.checkpoint.is_empty(), "{again:?}");
    let waiting = ledger.record(1, true).await;
    assert!(waiting.replayed && waiting.index == again.index);
    SignedCheckpoint::open(&waiting.checkpoint, &ledger.key).unwrap();
    let by_hand = ledger.server.cli(&[
        "record",
        "--subject=user:9",
        "--grant=news:email",
        "--wait-for-checkpoint",
        "--json",
    ]);
    let printed = by_hand.expect_code(0).json()["checkpoint"].as_str().unwrap().to_owned();
    SignedCheckpoint::open(&printed, &ledger.key).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_checkpoint_is_a_prefix_of_the_ledger() {
    let mut ledger = Ledger::start(&[]).await;
    let first = ledger.record(0, true).await.checkpoint;
    for n in 1..40 {
        ledger.record(n, n == 39).await;
    }
    let kept = SignedCheckpoint::open(&first, &ledger.key).unwrap().checkpoint;
    let request = proto::GetConsistencyProofRequest { first_size: kept.size, second_size: None };
    let answer = ledger.clients.audit.get_consistency_proof(request).await.unwrap().into_inner();
    let now = SignedCheckpoint::open(&answer.checkpoint, &ledger.key).unwrap().checkpoint;
    assert_eq!((answer.first_size, answer.second_size), (kept.size, now.size));
    let proof: Vec<Hash> = answer.hashes.iter().map(|bytes| hash(bytes)).collect();
    let (kept, now) = ((kept.size, &kept.root), (now.size, &now.root));
    merkle::verify_consistency(kept, now, &proof).unwrap();
    assert_eq!((hash(&answer.first_root_hash), hash(&answer.second_root_hash)), (*kept.1, *now.1));
    // An older proof is available too, for a checkpoint that somebody kept.
    let old =
        ledger.inclusion(Entry::IdempotencyKey("signup-0".into()), Some(kept.0)).await.unwrap();
    let path: Vec<Hash> = old.hashes.iter().map(|bytes| hash(bytes)).collect();
    let leaf = merkle::leaf_hash(&old.entry);
    assert_eq!(hash(&old.leaf_hash), leaf);
    merkle::verify_inclusion(&leaf, old.index, kept.0, &path, kept.1).unwrap();
    assert!(old.proof.is_empty() && old.checkpoint.is_empty(), "no checkpoint of that size");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_can_wait_for_a_checkpoint() {
    let mut ledger = Ledger::start(&["--checkpoint-wait=300ms"]).await;
    let index = ledger.record(0, false).await.index;
    let of = |size| proto::GetCheckpointRequest { at_least_size: Some(size) };
    let answer = ledger.clients.audit.get_checkpoint(of(index + 1)).await.unwrap().into_inner();
    let checkpoint = SignedCheckpoint::open(&answer.checkpoint, &ledger.key).unwrap().checkpoint;
    assert_eq!(
        (answer.checkpoint_size, hash(&answer.root_hash)),
        (checkpoint.size, checkpoint.root)
    );
    assert_eq!(answer.verifier_key, ledger.key.to_string());
    assert!(checkpoint.size > index && !answer.witnessed);
    let status = ledger.clients.audit.get_checkpoint(of(1_000)).await.unwrap_err();
    let error = typed(&status);
    assert_eq!(error.reason, "CHECKPOINT_NOT_REACHED");
    assert_eq!(status.code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn unprovable_requests_are_refused_with_a_reason() {
    let mut ledger = Ledger::start(&[]).await;
    let head = ledger.record(0, true).await.index + 1;
    for (entry, tree_size, reason) in [
        (Entry::Index(head), None, "INDEX_OUT_OF_RANGE"),
        (Entry::Index(u64::MAX), None, "INDEX_OUT_OF_RANGE"),
        (Entry::Index(0), Some(head + 1), "INDEX_OUT_OF_RANGE"),
        (Entry::Index(2), Some(2), "INDEX_OUT_OF_RANGE"),
        (Entry::Index(0), Some(0), "INDEX_OUT_OF_RANGE"),
        (Entry::IdempotencyKey("nobody".into()), None, "ACT_UNKNOWN"),
        (Entry::IdempotencyKey(String::new()), None, "INVALID_FIELD"),
        (Entry::IdempotencyKey("x".repeat(257)), None, "LIMIT_EXCEEDED"),
    ] {
        let status = ledger.inclusion(entry.clone(), tree_size).await.unwrap_err();
        assert_eq!(typed(&status).reason, reason, "{entry:?} {tree_size:?}");
    }
    let nothing = proto::GetInclusionProofRequest::default();
    let status = ledger.clients.audit.get_inclusion_proof(nothing).await.unwrap_err();
    assert_eq!(typed(&status).reason, "INVALID_FIELD");
    for (first_size, second_size, reason) in [
        (3, Some(2), "INVALID_FIELD"),
        (0, Some(head + 1), "INDEX_OUT_OF_RANGE"),
        (head + 1, None, "INDEX_OUT_OF_RANGE"),
    ] {
        let request = proto::GetConsistencyProofRequest { first_size, second_size };
        let status = ledger.clients.audit.get_consistency_proof(request).await.unwrap_err();
        assert_eq!(typed(&status).reason, reason, "{first_size} {second_size:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_can_rebuild_the_ledger_from_its_tiles() {
    let mut ledger = Ledger::start(&[]).await;
    for n in 0..300 {
        ledger.record(n, n == 299).await;
    }
    let answer = ledger.tiles("checkpoint").await;
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "text/plain; charset=utf-8"));
    let text = String::from_utf8(answer.body).unwrap();
    let checkpoint = SignedCheckpoint::open(&text, &ledger.key).unwrap().checkpoint;
    let (mut range, mut leaves) = (merkle::Range::empty(0), Vec::new());
    for tile in Tile::all(checkpoint.size) {
        let answer = ledger.tiles(&tile.to_string()).await;
        assert_eq!(answer.status, 200, "{tile}");
        assert_eq!(answer.content_type, "application/octet-stream");
        match tile.kind {
            Kind::Level(0) => leaves.extend(answer.body.as_chunks::<32>().0.iter().copied()),
            Kind::Level(_) => {}
            Kind::Entries => {
                for entry in unbundle(&answer.body).unwrap() {
                    range.push(merkle::leaf_hash(entry));
                    SealedEntry::decode(entry).unwrap();
                }
            }
        }
    }
    assert_eq!(range.root(), Some(checkpoint.root));
    let mut from_hashes = merkle::Range::empty(0);
    leaves.iter().for_each(|leaf| from_hashes.push(*leaf));
    assert_eq!(from_hashes, range);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_tile_paths_are_not_found_and_not_cached() {
    let mut ledger = Ledger::start(&[]).await;
    ledger.record(0, true).await;
    for path in [
        "",
        "tile/0/000",
        "tile/0/000.p/200",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "tile/00/000.p/1",
        "tile/0/000.p/01",
        "tile/entries/000",
        "tile/entries/x000/000.p/1",
        "tile/entries/..%2f..%2fkek",
        "checkpoints",
    ] {
        assert_eq!(ledger.tiles(path).await.status, 404, "{path}");
    }
    assert_eq!(ledger.tiles("tile/0/000.p/3").await.body.len(), 96, "an earlier tree's tile");
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_of_the_log_carry_their_cache_control() {
    let mut ledger = Ledger::start(&[]).await;
    ledger.record(0, true).await;
    let address = ledger.server.printed("tiles on ").unwrap();
    for (path, cache, compressed) in [
        ("checkpoint", "public, max-age=1", false),
        ("tile/0/000.p/2", "public, max-age=31536000, immutable", false),
        ("tile/entries/000.p/2", "public, max-age=31536000, immutable", true),
        ("tile/0/000", "no-store", false),
    ] {
        let text = raw(&address, path);
        assert!(text.contains(&format!("\r\ncache-control: {cache}\r\n")), "{path}: {text}");
        assert_eq!(text.contains("\r\ncontent-encoding: gzip\r\n"), compressed, "{path}: {text}");
    }
}

/// The raw head of an HTTP response.
fn raw(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase()
}
