//! What a witness remembers, over faults and power cuts.

use parking_lot::Condvar;
use tokio::sync::watch;

use super::*;
use crate::{
    storage::{
        disk::DiskFile,
        sim::{Fault, Keep, SimDisk},
    },
    tlog::{
        checkpoint::Checkpoint,
        merkle::{Range, leaf_hash},
        note::{NOTE_BYTES_MAX, NoteError, SIGNATURES_MAX},
    },
};

pub(in crate::witness) fn log_key(n: u8) -> SignerKey {
    SignerKey::from_seed("log.example", Algorithm::Note, &[n; 32]).unwrap()
}

pub(in crate::witness) fn witness_key(n: u8) -> SignerKey {
    let name = format!("witness.example/w{n}");
    SignerKey::from_seed(&name, Algorithm::Cosignature, &[n; 32]).unwrap()
}

/// A log in memory, whose leaves are what `leaf` says.
#[derive(Debug, Clone)]
pub(in crate::witness) struct Tree(pub Vec<Hash>);

impl Tree {
    pub fn of(leaves: impl IntoIterator<Item = u64>) -> Self {
        Self(leaves.into_iter().map(|leaf| leaf_hash(&leaf.to_be_bytes())).collect())
    }

    fn subtree(&self, height: u32, number: u64) -> Result<Hash, ()> {
        let begin = usize::try_from(number << height).unwrap();
        let mut range = Range::empty(0);
        self.0[begin..begin + (1 << height)].iter().for_each(|leaf| range.push(*leaf));
        range.root().ok_or(())
    }

    pub fn proof(&self, first: u64, second: u64) -> Vec<Hash> {
        merkle::prove_consistency(first, second, |h, n| self.subtree(h, n)).unwrap()
    }

    pub fn signed(&self, size: u64, key: &SignerKey) -> SignedCheckpoint {
        let root = merkle::root(size, |h, n| self.subtree(h, n)).unwrap();
        let origin = key.verifier().name().to_owned();
        let checkpoint = Checkpoint { origin, size, root, extensions: String::new() };
        SignedCheckpoint::sign(checkpoint, key).unwrap()
    }

    pub fn request(&self, old_size: u64, size: u64) -> AddCheckpoint {
        let proof = if old_size <= size { self.proof(old_size, size) } else { Vec::new() };
        AddCheckpoint { old_size, proof, checkpoint: self.signed(size, &log_key(1)) }
    }
}

const PATH: &str = "w/state";

pub(in crate::witness) fn state_on(
    disk: &(impl Disk + Clone),
    fresh: bool,
) -> Result<State, StateError> {
    let logs = vec![log_key(1).verifier().clone()];
    State::open(Arc::new(disk.clone()), Path::new(PATH), witness_key(1), logs, None, fresh)
}

/// A disk that hangs when it is to create a file, for as long as a test says so.
#[derive(Debug, Clone)]
pub(in crate::witness) struct HangingDisk {
    disk: SimDisk,
    hangs: Arc<(Mutex<bool>, Condvar)>,
    waiting: watch::Sender<bool>,
}

/// Lets the disk go on once it is dropped, also when a test fails.
pub(in crate::witness) struct Hanging(HangingDisk);

impl HangingDisk {
    pub fn new() -> Self {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("w")).unwrap();
        Self { disk, hangs: Arc::default(), waiting: watch::Sender::new(false) }
    }

    pub fn hang(&self) -> Hanging {
        *self.hangs.0.lock() = true;
        Hanging(self.clone())
    }

    /// Waits until somebody waits for it.
    pub async fn is_waited_for(&self) {
        self.waiting.subscribe().wait_for(|waiting| *waiting).await.unwrap();
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        *self.0.hangs.0.lock() = false;
        self.0.hangs.1.notify_all();
    }
}

impl Disk for HangingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut hangs = self.hangs.0.lock();
        self.waiting.send_replace(*hangs);
        self.hangs.1.wait_while(&mut hangs, |hangs| *hangs);
        self.disk.create(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_read(path)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_write(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

fn latest(state: &State) -> Option<SignedCheckpoint> {
    let text = state.latest(&Sha256::digest("log.example").into())?;
    Some(SignedCheckpoint::parse(&text).unwrap())
}

fn fresh() -> (SimDisk, State) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("w")).unwrap();
    let state = state_on(&disk, true).unwrap();
    (disk, state)
}

#[test]
fn what_continues_is_cosigned_and_kept() {
    let (disk, state) = fresh();
    let tree = Tree::of(0..20);
    assert!(latest(&state).is_none());
    // From nothing, from the empty tree, on, and the same again at another time.
    for (time, old, size) in [(1, 0, 0), (2, 0, 7), (3, 7, 20), (4, 20, 20)] {
        let request = tree.request(old, size);
        let line = state.cosign(&request, time).unwrap();
        let mut note = request.checkpoint.note.clone();
        note.add_lines(&line).unwrap();
        assert_eq!(note.verify(witness_key(1).verifier()), Ok(Some(time)));
        assert_eq!(latest(&state).unwrap().note.to_string(), note.to_string());
        let again = state_on(&disk, false).unwrap();
        assert_eq!(latest(&again), latest(&state));
    }
}

#[test]
fn what_does_not_continue_is_refused_and_changes_nothing() {
    let (_disk, state) = fresh();
    let (tree, other) = (Tree::of(0..20), Tree::of((0..10).chain(30..40)));
    state.cosign(&tree.request(0, 12), 1).unwrap();
    let conflict = |request: &AddCheckpoint| match state.cosign(request, 2).unwrap_err() {
        Refusal::Conflict { size } => size,
        other => panic!("{other}"),
    };
    assert_eq!(conflict(&tree.request(0, 20)), 12);
    assert_eq!(conflict(&tree.request(11, 20)), 12);
    assert_eq!(conflict(&tree.request(7, 7)), 12, "an older one is no longer cosigned");
    assert!(matches!(
        state.cosign(&tree.request(13, 12), 2),
        Err(Refusal::OldSize { old: 13, size: 12 })
    ));
    let inconsistent = |request: &AddCheckpoint| {
        matches!(state.cosign(request, 2), Err(Refusal::Inconsistent { .. }))
    };
    assert!(inconsistent(&other.request(12, 20)), "another past");
    assert!(inconsistent(&other.request(12, 12)), "another root at the same size");
    let forked = |request: &AddCheckpoint| {
        matches!(state.cosign(request, 2), Err(Refusal::Inconsistent { forked: true, .. }))
    };
    assert!(forked(&other.request(12, 12)) && !forked(&other.request(12, 20)));
    let mut request = tree.request(12, 20);
    request.proof.pop();
    assert!(inconsistent(&request), "no whole proof");
    request.proof = tree.proof(12, 20);
    request.proof.push([0; 32]);
    assert!(inconsistent(&request), "more than a proof");
    let mut request = tree.request(12, 12);
    request.proof.push([0; 32]);
    assert!(inconsistent(&request), "a proof where none is needed");
    assert_eq!(latest(&state).unwrap().checkpoint.size, 12);
    assert!(state.cosign(&tree.request(12, 20), 3).is_ok());
}

#[test]
fn the_empty_tree_has_one_root_and_needs_no_proof() {
    let (_disk, state) = fresh();
    let tree = Tree::of(0..4);
    let mut request = tree.request(0, 0);
    let checkpoint = Checkpoint { root: [7; 32], ..request.checkpoint.checkpoint };
    request.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(1)).unwrap();
    assert!(matches!(state.cosign(&request, 1), Err(Refusal::Inconsistent { .. })));
    let mut request = tree.request(0, 4);
    request.proof.push([0; 32]);
    assert!(matches!(state.cosign(&request, 1), Err(Refusal::Inconsistent { .. })));
    assert!(latest(&state).is_none());
}

#[test]
fn only_its_log_can_sign_a_checkpoint() {
    let (_disk, state) = fresh();
    let tree = Tree::of(0..4);
    let request = |checkpoint| AddCheckpoint { old_size: 0, proof: Vec::new(), checkpoint };
    let stranger = SignerKey::from_seed("other.example", Algorithm::Note, &[1; 32]).unwrap();
    let refused = state.cosign(&request(tree.signed(4, &stranger)), 1).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownOrigin(_)), "{refused}");
    let refused = state.cosign(&request(tree.signed(4, &log_key(2))), 1).unwrap_err();
    assert!(matches!(refused, Refusal::Signature(SignatureError::Missing(_))), "{refused}");
    // A good signature does not excuse a false one; those of strangers are left out.
    let good = tree.signed(4, &log_key(1));
    let mut both = good.clone();
    both.note.add(tree.signed(3, &log_key(1)).note.signatures()[0].clone());
    let refused = state.cosign(&request(both), 1).unwrap_err();
    assert!(matches!(refused, Refusal::Signature(SignatureError::Bad(_))), "{refused}");
    let mut both = good;
    both.note.sign(&log_key(2), 0);
    both.note.sign(&witness_key(2), 9);
    state.cosign(&request(both), 1).unwrap();
    let kept = latest(&state).unwrap().note;
    assert_eq!(kept.signatures().len(), 2, "{kept}");
    assert!(kept.verify(log_key(1).verifier()).is_ok());
}

/// Anybody can copy a line of a public checkpoint as often as a note may have lines.
#[test]
fn copied_signatures_are_not_kept() {
    let (disk, state) = fresh();
    let mut request = Tree::of(0..4).request(0, 4);
    let signature = request.checkpoint.note.signatures()[0].clone();
    for _ in 1..SIGNATURES_MAX {
        request.checkpoint.note.add(signature.clone());
    }
    let request = AddCheckpoint::parse(&request.to_string()).unwrap();
    assert_eq!(request.checkpoint.note.signatures().len(), SIGNATURES_MAX);
    state.cosign(&request, 1).unwrap();
    let kept = latest(&state).unwrap().note;
    assert_eq!(kept.signatures().len(), 2, "the log's and the witness's");
    let again = state_on(&disk, false).unwrap();
    assert_eq!(latest(&again).unwrap().note, kept);
}

#[test]
fn what_could_not_be_read_again_is_not_kept() {
    let (disk, state) = fresh();
    let tree = Tree::of(0..8);
    state.cosign(&tree.request(0, 4), 1).unwrap();
    let before = latest(&state);
    let mut request = tree.request(4, 8);
    let blank = request.checkpoint.to_string().len();
    let mut extended = |bytes: usize| {
        let extensions = format!("{}\n", "x".repeat(bytes - 1));
        let checkpoint = Checkpoint { extensions, ..request.checkpoint.checkpoint.clone() };
        request.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(1)).unwrap();
        AddCheckpoint::parse(&request.to_string()).unwrap()
    };
    // As large as a note may be, without the line that a witness adds.
    let refused = state.cosign(&extended(NOTE_BYTES_MAX - blank), 2).unwrap_err();
    let too_large = CheckpointError::Note(NoteError::TooLarge);
    assert!(matches!(&refused, Refusal::Unreadable(why) if *why == too_large), "{refused}");
    assert_eq!(latest(&state), before);
    assert_eq!(latest(&state_on(&disk, false).unwrap()), before);
    // With room for it.
    state.cosign(&extended(NOTE_BYTES_MAX - blank - 200), 3).unwrap();
    assert_eq!(latest(&state_on(&disk, false).unwrap()), latest(&state));
    assert!(latest(&state) != before);
}

#[test]
fn the_same_again_costs_one_write_in_a_second() {
    let (disk, state) = fresh();
    let tree = Tree::of(0..4);
    let first = state.cosign(&tree.request(0, 4), 7).unwrap();
    let operations = disk.operations();
    for _ in 0..10 {
        assert_eq!(state.cosign(&tree.request(4, 4), 7).unwrap(), first);
    }
    assert_eq!(disk.operations(), operations);
    // Later, and after a clock that was set back.
    for time in [8, 5] {
        let line = state.cosign(&tree.request(4, 4), time).unwrap();
        let mut note = tree.request(4, 4).checkpoint.note;
        note.add_lines(&line).unwrap();
        assert_eq!(note.verify(witness_key(1).verifier()), Ok(Some(time)));
    }
    assert!(disk.operations() > operations);
    // Another text is another checkpoint, whatever the time.
    let mut request = tree.request(4, 4);
    let extensions = "more\n".to_owned();
    let checkpoint = Checkpoint { extensions, ..request.checkpoint.checkpoint };
    request.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(1)).unwrap();
    let line = state.cosign(&request, 5).unwrap();
    request.checkpoint.note.add_lines(&line).unwrap();
    assert_eq!(request.checkpoint.note.verify(witness_key(1).verifier()), Ok(Some(5)));
}

#[test]
fn lines_that_follow_are_signed_with_the_rest() {
    let (_disk, state) = fresh();
    let mut request = Tree::of(0..4).request(0, 4);
    let extensions = "one\ntwo\n".to_owned();
    let checkpoint = Checkpoint { extensions, ..request.checkpoint.checkpoint };
    request.checkpoint = SignedCheckpoint::sign(checkpoint, &log_key(1)).unwrap();
    state.cosign(&request, 1).unwrap();
    assert_eq!(latest(&state).unwrap().checkpoint.extensions, "one\ntwo\n");
}

#[test]
fn of_two_that_continue_the_same_only_one_is_cosigned() {
    let (_disk, state) = fresh();
    let tree = Tree::of(0..64);
    state.cosign(&tree.request(0, 8), 1).unwrap();
    for round in 0..20_u64 {
        let old = latest(&state).unwrap().checkpoint.size;
        let requests = [tree.request(old, old + 1), tree.request(old, old + 2)];
        let cosigned = std::thread::scope(|scope| {
            let threads =
                requests.each_ref().map(|request| scope.spawn(|| state.cosign(request, round)));
            threads.map(|thread| thread.join().unwrap().is_ok())
        });
        let sizes = requests.iter().zip(cosigned).filter(|(_, good)| *good);
        let sizes: Vec<u64> = sizes.map(|(signed, _)| signed.checkpoint.checkpoint.size).collect();
        assert_eq!(sizes, [latest(&state).unwrap().checkpoint.size]);
    }
}

#[test]
fn a_changed_or_foreign_file_is_refused() {
    let (disk, state) = fresh();
    state.cosign(&Tree::of(0..4).request(0, 4), 1).unwrap();
    let path = Path::new(PATH);
    let kept = read(&disk, path).unwrap();
    let write = |change: &dyn Fn(&mut File)| {
        let mut file = read(&disk, path).unwrap();
        change(&mut file);
        let bytes = serde_json::to_vec(&file).unwrap();
        let to = disk.open_write(path).unwrap();
        to.set_len(0).unwrap();
        to.write_all_at(&bytes, 0).unwrap();
        state_on(&disk, false)
    };
    let restore = |file: &mut File| {
        file.checkpoints.clone_from(&kept.checkpoints);
        (file.format, file.witness) = (kept.format.clone(), kept.witness.clone());
    };
    let smaller =
        |file: &mut File| file.checkpoints[0] = file.checkpoints[0].replace("\n4\n", "\n3\n");
    assert!(matches!(write(&smaller), Err(StateError::Damaged { .. })));
    let unsigned = |file: &mut File| {
        restore(file);
        file.checkpoints[0] = Tree::of(0..4).signed(3, &log_key(1)).to_string();
    };
    assert!(matches!(write(&unsigned), Err(StateError::Damaged { .. })));
    let format = |file: &mut File| file.format.push('2');
    assert!(matches!(write(&format), Err(StateError::Damaged { .. })));
    let foreign = |file: &mut File| {
        restore(file);
        file.witness = witness_key(2).verifier().to_string();
    };
    assert!(matches!(write(&foreign), Err(StateError::OtherWitness { .. })));
    assert!(write(&restore).is_ok());
}

/// At every operation, each fault, and every way in which a power cut can go: what was answered is
/// remembered, and what is there can be read.
#[test]
fn what_was_cosigned_survives_faults_and_power_cuts() {
    let tree = Tree::of(0..40);
    let run = |state: &State| {
        let mut answered = 0;
        for size in [3, 8, 21] {
            let Ok(_) = state.cosign(&tree.request(answered, size), size) else { break };
            answered = size;
        }
        answered
    };
    let (disk, state) = fresh();
    let begun = disk.operations();
    assert_eq!(run(&state), 21);
    let operations = disk.operations() - begun;
    assert!(operations >= 12, "{operations}");
    for at in begun..begun + operations {
        for fault in [Fault::Lost, Fault::Persisted, Fault::Partial(100)] {
            for keep in [Keep::SyncedOnly, Keep::Everything, Keep::Torn { seed: at }] {
                let (disk, state) = fresh();
                disk.freeze_at(at, fault);
                let answered = run(&state);
                let disk = disk.power_cut(keep);
                let again = state_on(&disk, false)
                    .unwrap_or_else(|error| panic!("{at} {fault:?} {keep:?}: {error}"));
                let size = latest(&again).map_or(0, |latest| latest.checkpoint.size);
                assert!(size >= answered, "{at} {fault:?} {keep:?}: {size} after {answered}");
                assert!(
                    again.cosign(&tree.request(size, 40), 9).is_ok(),
                    "{at} {fault:?} {keep:?}"
                );
            }
        }
    }
}

#[test]
fn a_file_that_may_be_either_stops_cosigning() {
    let tree = Tree::of(0..9);
    let (disk, state) = fresh();
    // Remove, create, write, sync; then rename and sync of the directory.
    let begun = disk.operations();
    state.cosign(&tree.request(0, 1), 1).unwrap();
    let each = disk.operations() - begun;
    let next = disk.operations();
    disk.fail_at(next + each - 1, Fault::Persisted);
    assert!(matches!(state.cosign(&tree.request(1, 2), 1), Err(Refusal::NotKept(_))));
    assert!(state.poisoned().is_some());
    assert!(matches!(state.cosign(&tree.request(1, 2), 1), Err(Refusal::NotKept(_))));
    // A disk that was full for a moment, on the other hand, is no reason.
    let (disk, state) = fresh();
    disk.fail_at(disk.operations() + 1, Fault::Lost);
    assert!(matches!(state.cosign(&tree.request(0, 1), 1), Err(Refusal::NotKept(_))));
    assert!(state.poisoned().is_none());
    assert!(state.cosign(&tree.request(0, 1), 1).is_ok());
}
