//! Checkpoints: signed over what is on disk, never contradicted, and the mark below which no entry
//! may be missing.

use std::{fs, path::Path, sync::Arc, time::Duration};

use consent_ledger::{
    ledger::{LOG_KIND, verify},
    node::{
        CheckpointNotReached, FindActError, InitError, Node, NodeConfig, OpenError, ProveError,
        ReadError, init,
    },
    storage::{FrameLog, LogSpec, disk::RealDisk},
    telemetry::Metrics,
    tlog::{
        key::SignerKey,
        merkle::{self, Hash},
        tile::{Kind, Tile, root_of, unbundle},
    },
    tree::Signed,
};

use crate::support::{
    PATIENCE,
    node::{config, grant, init_if_empty, once_free, open, put_catalog, subject, with_key},
    wait_until,
};

fn open_with(config: &NodeConfig) -> (Result<Arc<Node>, OpenError>, Arc<Metrics>) {
    init_if_empty(config);
    let metrics = Arc::new(Metrics::default());
    (once_free(|| Node::open(config, Arc::clone(&metrics))), metrics)
}

/// Records acts of new data subjects, one after the other.
async fn grants(node: &Node, people: std::ops::Range<u64>) {
    for n in people {
        node.record(grant(&format!("user:{n}"))).await.unwrap();
    }
}

/// The root over the ledger's files, computed independently of the node.
fn root_on_disk(dir: &Path, size: u64) -> Hash {
    let mut leaves = Vec::new();
    verify::verify(&RealDisk, &dir.join("ledger"), &mut |entry, frame| {
        if entry.index < size {
            leaves.push(merkle::leaf_hash(frame.payload));
        }
    })
    .unwrap();
    merkle_root(&leaves)
}

fn merkle_root(leaves: &[Hash]) -> Hash {
    match leaves.len() {
        0 => merkle::empty_root(),
        1 => leaves[0],
        n => {
            let (left, right) = leaves.split_at(n.next_power_of_two() / 2);
            merkle::node_hash(&merkle_root(left), &merkle_root(right))
        }
    }
}

/// A small ledger after a clean close, with its last checkpoint.
async fn closed(dir: &Path) -> Arc<Signed> {
    let node = open(dir);
    put_catalog(&node).await;
    grants(&node, 0..5).await;
    let released = node.released_at_least(node.revision()).await.unwrap();
    drop(node);
    released
}

fn refused(dir: &Path) -> OpenError {
    let before = files(dir);
    let error = open_with(&config(dir)).0.unwrap_err();
    assert_eq!(files(dir), before, "a start that is refused changes nothing: {error}");
    error
}

/// Every file of ledger and vault, and the checkpoint file.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for part in ["ledger", "vault"] {
        for file in fs::read_dir(dir.join(part)).into_iter().flatten() {
            let path = file.unwrap().path();
            files.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    let book = dir.join("checkpoint.json");
    files.extend(fs::read(&book).map(|text| (book.display().to_string(), text)));
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_entries_are_signed_and_provable() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    node.record(with_key(grant("user:1"), "signup-1")).await.unwrap();
    let released = node.released_at_least(node.revision()).await.unwrap();
    released.checkpoint.verify(node.verifier_key()).unwrap();
    assert_eq!(released.checkpoint.checkpoint.origin, "consent.example.org/test");
    assert_eq!(released.size(), 5);
    assert_eq!(released.root(), root_on_disk(dir.path(), 5));
    assert!(!released.witnessed, "no witnesses are configured");
    for index in 0..5 {
        let proven = node.inclusion(index, 5, None).unwrap();
        let proof = proven.tlog_proof(None).unwrap();
        proof.verify(&merkle::leaf_hash(&proven.entry), node.verifier_key()).unwrap();
    }
    assert_eq!(node.index_of_key(&subject("user:1"), "signup-1"), Ok(4));
    assert_eq!(node.index_of_key(&subject("user:1"), "signup-2"), Err(FindActError::Unknown));
    let other = node.index_of_key(&subject("user:2"), "signup-1");
    assert_eq!(other, Err(FindActError::Unknown), "a key belongs to one person");
    grants(&node, 2..9).await;
    let later = node.released_at_least(node.revision()).await.unwrap();
    for first in 0..=later.size() {
        let proof = node.consistency(first, later.size(), None).unwrap();
        assert_eq!(proof.second.1, later.root());
        if first == released.size() {
            assert_eq!(proof.first.1, released.root());
        }
    }
    for (index, size) in [(5, 5), (0, 13), (13, 12), (0, u64::MAX)] {
        let error = node.inclusion(index, size, None).unwrap_err();
        assert!(matches!(error, ProveError::BeyondCheckpoint { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_and_bundles_are_those_of_the_released_tree() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    let acts = (0..600).map(|n| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.record(grant(&format!("user:{n}"))).await.unwrap() })
    });
    for act in acts.collect::<Vec<_>>() {
        act.await.unwrap();
    }
    let size = node.released_at_least(604).await.unwrap().size();
    assert_eq!(size, 604);
    let mut leaves = Vec::new();
    for tile in Tile::all(size) {
        let bytes = node.tile(tile).unwrap().unwrap();
        match tile.kind {
            Kind::Level(0) => leaves.extend(bytes.as_chunks::<32>().0.iter().copied()),
            Kind::Level(1) => {
                let full: Vec<_> = leaves.chunks_exact(256).map(<[Hash]>::concat).collect();
                let above: Vec<_> = full.iter().map(|tile| root_of(tile).unwrap()).collect();
                assert_eq!(above.concat(), bytes);
            }
            Kind::Level(_) => panic!("a tree of 604 entries has two levels of tiles"),
            Kind::Entries => {
                for (at, entry) in unbundle(&bytes).unwrap().into_iter().enumerate() {
                    let index = usize::try_from(tile.start()).unwrap() + at;
                    assert_eq!(merkle::leaf_hash(entry), leaves[index]);
                }
            }
        }
    }
    assert_eq!(merkle_root(&leaves), root_on_disk(dir.path(), size));
    let beyond = |kind, number, width| node.tile(Tile { kind, number, width }).unwrap();
    assert_eq!(beyond(Kind::Level(0), 2, 93), None);
    assert_eq!(beyond(Kind::Level(0), 2, 256), None);
    assert_eq!(beyond(Kind::Level(1), 0, 3), None);
    assert_eq!(beyond(Kind::Level(63), u64::MAX / 256, 1), None);
    assert_eq!(beyond(Kind::Entries, 3, 1), None);
    assert_eq!(beyond(Kind::Level(0), 2, 3).unwrap().len(), 96, "an earlier tree had this one");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_keep_their_interval_and_a_close_signs_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let hourly =
        NodeConfig { checkpoint_interval: Duration::from_secs(3_600), ..config(dir.path()) };
    let (node, metrics) = open_with(&hourly);
    let node = node.unwrap();
    let first = node.released_at_least(1).await.unwrap();
    put_catalog(&node).await;
    grants(&node, 0..20).await;
    assert_eq!(metrics.checkpoints.get(), 1);
    assert_eq!(node.released().unwrap(), first);
    // A drain signs a checkpoint at once, so that waiting requests are answered.
    node.drain();
    assert_eq!(node.released_at_least(node.revision()).await.unwrap().size(), node.revision());
    until("a second checkpoint", || metrics.checkpoints.get() == 2);
    node.close();
    assert_eq!(node.released().unwrap().size(), node.revision());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_a_checkpoint_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let wait = NodeConfig { checkpoint_wait: Duration::from_millis(20), ..config(dir.path()) };
    let node = open_with(&wait).0.unwrap();
    let size = node.released_at_least(1).await.unwrap().size();
    let error = node.released_at_least(99).await.unwrap_err();
    assert_eq!(error, CheckpointNotReached { wanted: 99, reached: size });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_short_or_wrong_tree_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let before = closed(dir.path()).await;
    let tree = dir.path().join("tree");
    let hashes = tree.join("0.hashes");
    let good = fs::read(&hashes).unwrap();
    assert_eq!(good.len() as u64, 32 * before.size());
    let lose = || fs::remove_dir_all(&tree).unwrap();
    let cut = || fs::write(&hashes, &good[..good.len() - 1]).unwrap();
    let change = || {
        let mut wrong = good.clone();
        wrong[3] ^= 1;
        fs::write(&hashes, wrong).unwrap();
    };
    let longer = || fs::write(&hashes, [&good[..], &[7; 50]].concat()).unwrap();
    for (damage, spoil) in
        [("lost", &lose as &dyn Fn()), ("short", &cut), ("wrong", &change), ("longer", &longer)]
    {
        spoil();
        let node = open(dir.path());
        assert_eq!(node.tree_root(before.size()), Ok(before.root()), "{damage}");
        assert_eq!(node.released().unwrap(), before, "{damage}");
        drop(node);
        assert_eq!(fs::read(&hashes).unwrap(), good, "{damage}");
    }
}

/// Changes a byte of the second hash in the open file.
fn change_a_hash(data_dir: &Path) {
    let path = data_dir.join("tree/0.hashes");
    let byte = !fs::read(&path).unwrap()[32 + 5];
    let file = fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[byte], 32 + 5).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_hash_is_never_used_in_a_proof() {
    let dir = tempfile::tempdir().unwrap();
    let node = open(dir.path());
    put_catalog(&node).await;
    grants(&node, 0..5).await;
    let size = node.released_at_least(node.revision()).await.unwrap().size();
    // Changed in the open file, unnoticed by the node.
    change_a_hash(dir.path());
    let error = node.inclusion(0, size, None).unwrap_err();
    assert!(matches!(error, ProveError::Read(ReadError::StateUnreadable(_))), "{error}");
    drop(node);
    let node = open(dir.path());
    assert!(node.inclusion(0, size, None).is_ok(), "the next start builds the tree again");
    // The tile is refused too: caches would keep it forever.
    change_a_hash(dir.path());
    let tile = Tile { kind: Kind::Level(0), number: 0, width: 3 };
    assert!(matches!(node.tile(tile), Err(ReadError::StateUnreadable(_))));
    let bundle = Tile { kind: Kind::Entries, ..tile };
    assert!(matches!(node.tile(bundle), Err(ReadError::StateUnreadable(_))));
    assert!(node.writes_stopped().borrow().is_none(), "the entries are as they were signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_changed_on_disk_stops_writes() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = open(dir.path());
    put_catalog(&node).await;
    grants(&node, 0..5).await;
    let size = node.released_at_least(node.revision()).await.unwrap().size();
    rewrite(dir.path(), other.path(), size - 1);
    let error = node.inclusion(size - 1, size, None).unwrap_err();
    assert!(matches!(error, ProveError::Read(ReadError::StateUnreadable(_))), "{error}");
    assert!(node.writes_stopped().borrow().is_some());
    assert!(dir.path().join("tree/0.hashes").exists(), "the evidence of the change is kept");
}

/// Changes a byte of an entry in place and recomputes all checksums, as an attacker could who knows
/// the format.
fn rewrite(dir: &Path, scratch: &Path, index: u64) {
    let (mut frames, mut id) = (Vec::new(), [0; 16]);
    let ledger = dir.join("ledger");
    let report = verify::verify(&RealDisk, &ledger, &mut |entry, frame| {
        let mut bytes = frame.payload.to_vec();
        if entry.index == index {
            *bytes.last_mut().unwrap() ^= 1;
        }
        frames.push(bytes);
    });
    id.copy_from_slice(&report.unwrap().ledger_id);
    let spec = LogSpec {
        dir: scratch.join("ledger"),
        kind: LOG_KIND,
        segment_bytes_max: 64 << 10,
        frame_bytes_max: 65_535,
        frames_min: 0,
    };
    let (mut log, _) = FrameLog::open(Arc::new(RealDisk), spec, id).unwrap();
    // A frame names the start of its batch; the node wrote each in its own.
    frames.iter().for_each(|frame| log.append(&[frame]).unwrap());
    let name = "00000000000000000000.seg";
    let changed = fs::read(scratch.join("ledger").join(name)).unwrap();
    let file = fs::File::options().write(true).open(ledger.join(name)).unwrap();
    assert_eq!(file.metadata().unwrap().len(), changed.len() as u64);
    std::os::unix::fs::FileExt::write_all_at(&file, &changed, 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_shorter_than_its_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let before = closed(dir.path()).await;
    let segment = dir.path().join("ledger/00000000000000000000.seg");
    let whole = fs::read(&segment).unwrap();
    // Cut inside the last frame, at its very beginning, and in the middle of the file: without the
    // checkpoint the first two look like a torn tail.
    let last = last_frame_offset(dir.path());
    for cut in [whole.len() - 1, last, last - 1, whole.len() / 2] {
        fs::write(&segment, &whole[..cut]).unwrap();
        let error = refused(dir.path());
        assert!(error.is_damage(), "{error}");
        assert!(error.to_string().contains("were durable"), "{cut}: {error}");
    }
    fs::remove_file(&segment).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Half { .. }));
    fs::write(&segment, &whole).unwrap();
    assert_eq!(open(dir.path()).revision(), before.size());
}

fn last_frame_offset(dir: &Path) -> usize {
    let mut offset = 0;
    verify::verify(&RealDisk, &dir.join("ledger"), &mut |_, frame| offset = frame.offset).unwrap();
    usize::try_from(offset).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_behind_the_checkpoint_may_be_torn() {
    let dir = tempfile::tempdir().unwrap();
    let before = closed(dir.path()).await;
    let segment = dir.path().join("ledger/00000000000000000000.seg");
    let whole = fs::read(&segment).unwrap();
    fs::write(&segment, [&whole[..], &whole[60..63]].concat()).unwrap();
    assert_eq!(open(dir.path()).revision(), before.size());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewritten_ledger_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed(dir.path()).await;
    closed(other.path()).await;
    // Another ledger with its vault, intact in itself, beside this one's checkpoint.
    for part in ["ledger", "vault", "view", "tree"] {
        fs::remove_dir_all(dir.path().join(part)).unwrap();
        fs::rename(other.path().join(part), dir.path().join(part)).unwrap();
    }
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::BookOfOther { .. }), "{error}");
    // A book of an earlier version does not say whose it is.
    let book = dir.path().join("checkpoint.json");
    let mut page: serde_json::Value = serde_json::from_slice(&fs::read(&book).unwrap()).unwrap();
    for field in ["checksum", "ledger_id"] {
        page.as_object_mut().unwrap().remove(field).unwrap();
    }
    fs::write(&book, page.to_string()).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Rewritten { size: 9 }), "{error}");
    assert!(error.is_damage());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_broken_checkpoint_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let before = closed(dir.path()).await;
    let book = dir.path().join("checkpoint.json");
    let text = fs::read(&book).unwrap();
    fs::remove_file(&book).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::BookMissing { .. }));
    fs::write(&book, &text[..text.len() / 2]).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Book(_)));
    fs::write(&book, &text).unwrap();
    assert_eq!(open(dir.path()).released().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_is_not_replaced_silently() {
    let dir = tempfile::tempdir().unwrap();
    let before = closed(dir.path()).await;
    fs::remove_file(dir.path().join("signing-key")).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::KeyFileMissing { .. }));
    // Another key of the same name is not accepted either.
    let other = tempfile::tempdir().unwrap();
    drop(closed(other.path()).await);
    let foreign = other.path().join("signing-key");
    let mistaken = NodeConfig { signing_key_file: Some(foreign), ..config(dir.path()) };
    assert!(matches!(open_with(&mistaken).0, Err(OpenError::KeyOther { .. })));
    let new = NodeConfig { new_signing_key: true, ..config(dir.path()) };
    // The entry that names the new key is waited for.
    let node = tokio::task::block_in_place(|| open_with(&new)).0.unwrap();
    assert!(before.checkpoint.verify(node.verifier_key()).is_err());
    until("a checkpoint over the change", || {
        let released = node.released().unwrap();
        released.size() == before.size() + 1
            && released.checkpoint.verify(node.verifier_key()).is_ok()
    });
    put_catalog(&node).await;
    grants(&node, 8..9).await;
    let later = node.released_at_least(node.revision()).await.unwrap();
    later.checkpoint.verify(node.verifier_key()).unwrap();
    assert_eq!(node.consistency(before.size(), later.size(), None).unwrap().first.1, before.root());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_while_the_clock_is_before_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let before = closed(dir.path()).await;
    let book = dir.path().join("checkpoint.json");
    let mut page: serde_json::Value = serde_json::from_slice(&fs::read(&book).unwrap()).unwrap();
    page.as_object_mut().unwrap().remove("checksum").unwrap();
    for line in ["signed", "released"] {
        page[line]["signed_at_ms"] = (before.signed_at.0 + 3_600_000).into();
    }
    fs::write(&book, page.to_string()).unwrap();
    let (node, metrics) = open_with(&config(dir.path()));
    let node = node.unwrap();
    grants(&node, 10..11).await;
    until("signing stops", || metrics.signing_stopped.get() == 1);
    assert_eq!(node.released().unwrap().size(), before.size());
    assert_eq!(metrics.checkpoints.get(), 0);
    assert!(node.writes_stopped().borrow().is_none(), "acts are still taken");
}

/// A node closed before its last act was signed, and the checkpoint before that act.
async fn with_an_act_that_waits(dir: &Path) -> (Arc<Node>, Arc<Metrics>, Arc<Signed>) {
    closed(dir).await;
    let slow = NodeConfig { checkpoint_interval: Duration::from_secs(3_600), ..config(dir) };
    let (node, metrics) = open_with(&slow);
    let node = node.unwrap();
    // The first checkpoint of this run is signed at once; later acts wait for the interval.
    node.record(grant("user:20")).await.unwrap();
    node.released_at_least(node.revision()).await.unwrap();
    node.record(grant("user:21")).await.unwrap();
    let before = node.released().unwrap();
    (node, metrics, before)
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_read_back_differently_are_never_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (node, metrics, before) = with_an_act_that_waits(dir.path()).await;
    let segment = dir.path().join("ledger/00000000000000000000.seg");
    let length = fs::metadata(&segment).unwrap().len();
    let file = fs::File::options().write(true).open(&segment).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xaa; 4], length - 30).unwrap();
    node.close();
    assert_eq!(node.released().unwrap(), before);
    assert_eq!(metrics.signing_stopped.get(), 1);
    assert!(node.writes_stopped().borrow().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_entries_other_than_the_written_ones_are_never_signed() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (node, metrics, before) = with_an_act_that_waits(dir.path()).await;
    rewrite(dir.path(), other.path(), node.revision() - 1);
    node.close();
    assert_eq!(node.released().unwrap(), before);
    assert_eq!(metrics.signing_stopped.get(), 1);
    let reason = node.writes_stopped().borrow().clone().unwrap();
    assert!(reason.contains("as they are read back"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_requests_fail_at_once_when_signing_stops() {
    let dir = tempfile::tempdir().unwrap();
    let patient = NodeConfig { checkpoint_wait: Duration::from_secs(600), ..config(dir.path()) };
    let node = open_with(&patient).0.unwrap();
    node.released_at_least(1).await.unwrap();
    // The next checkpoint file can not be written: a directory has its name.
    fs::create_dir(dir.path().join("checkpoint.json.new")).unwrap();
    put_catalog(&node).await;
    let error = node.released_at_least(node.revision()).await.unwrap_err();
    assert!(error.reached < error.wanted, "{error}");
    assert!(node.writes_stopped().borrow().is_none(), "acts are still taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_kept_and_can_be_configured() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    closed(dir.path()).await;
    let file = dir.path().join("signing-key");
    let key = SignerKey::parse(&fs::read_to_string(&file).unwrap()).unwrap();
    let node = open(dir.path());
    assert_eq!(node.verifier_key(), key.verifier());
    assert_eq!(node.decision_key().0.to_bytes(), key.verifier().public_key());
    drop(node);
    let given = NodeConfig { signing_key_file: Some(file.clone()), ..config(other.path()) };
    // The key may have signed: the data directory may be the wrong one.
    assert!(matches!(init(&given), Err(InitError::SigningKeyThere(there)) if there == file));
    let given = NodeConfig { unused_signing_key: true, ..given };
    let node = open_with(&given).0.unwrap();
    assert_eq!(node.verifier_key(), key.verifier());
    drop(node);
    assert!(!other.path().join("signing-key").exists());
    let renamed = NodeConfig {
        signing_key_file: Some(file),
        origin: Some("consent.example.org/other".to_owned()),
        unused_signing_key: true,
        ..config(tempfile::tempdir().unwrap().path())
    };
    let error = init(&renamed).unwrap_err();
    assert!(matches!(error, InitError::Open(OpenError::SigningKey(_))), "{error}");
}

fn until(goal: &str, condition: impl Fn() -> bool) {
    wait_until(goal, PATIENCE, || condition().then_some(()));
}
