//! Signing and releasing of checkpoints.
//!
//! One thread follows the writer. It adds the leaves of new entries to the tree, and signs the next
//! checkpoint once the interval has passed. Before it signs, it computes the root a second time, from
//! the bytes of the entries as read back from the ledger, and compares it with the root over the
//! tree's files: so it signs what the disk holds. It never signs a checkpoint that contradicts an
//! earlier one: the second computation continues from the last signed root, and the thread does not
//! sign if the size or the clock went back.
//!
//! A checkpoint is durable in the book before any caller sees it. It is *released* at once, or, under
//! a policy of witnesses, once enough of them have cosigned it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{Core, NodeConfig, key_change::SigningKeys};
use crate::{
    backend::BackendError,
    ledger::key_change::KeyChange,
    shutdown::{Shutdown, Stage, Threads},
    storage::{LogError, disk::Disk},
    tlog::{
        checkpoint::{Checkpoint, SignedCheckpoint},
        key::SignerKey,
        merkle::{Hash, Range, leaf_hash, prove_inclusion},
        note::{Note, NoteSignature},
        policy::Policy,
        proof::TlogProof,
    },
    tree::{Book, Signed, TreeFiles, TreeWriter, WitnessFail},
};

/// So many leaves wake the signing thread before it wakes by itself.
const LEAVES_AT_ONCE: usize = 1_024;
/// The greatest number of leaves that wait for the tree; further leaves are read from the ledger.
const LEAVES_MAX: usize = 1 << 20;
/// About how many bytes of entries are read back at a time.
const READ_BYTES: usize = 1 << 20;
/// The shortest time between two looks at a clock that went back.
const CLOCK_WAIT_MIN: Duration = Duration::from_millis(100);

/// The tree of an opened data directory, and the key that signs it.
pub(super) struct OpenedTree {
    pub writer: TreeWriter,
    /// The subtrees under the last signed checkpoint.
    pub signed_range: Range,
    pub keys: SigningKeys,
}

/// The signing key before the current one.
pub(super) struct Before {
    /// The key, if it signs checkpoints, too.
    pub key: Option<SignerKey>,
    /// The entry of the change, until a checkpoint of both keys covers it.
    pub unproven: Option<u64>,
}

/// The checkpoints of a node. Of the two locks, `book` is taken before `inbox`.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// The signing key. Never changes.
    pub key: SignerKey,
    /// The tree's files. Only the signing thread writes them; written hashes never change.
    pub files: TreeFiles,
    policy: Policy,
    fail: WitnessFail,
    witness_wait: Duration,
    data_dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// The book on disk. Changed by the signing thread, and by requests that add cosignatures.
    book: Mutex<Book>,
    /// The book's last signed checkpoint; sent only while `book` is locked.
    pub signed: watch::Sender<Option<Arc<Signed>>>,
    /// The book's last released checkpoint; sent only while `book` is locked.
    pub released: watch::Sender<Option<Arc<Signed>>>,
    /// Filled by the writer, emptied by the signing thread.
    inbox: Mutex<Inbox>,
    /// Notified after each change of `inbox`.
    inbox_changed: Condvar,
    /// The proofs of the book's changes of the signing key that a released checkpoint covers, one below the
    /// other; sent only while `book` is locked.
    pub key_changes: watch::Sender<Arc<str>>,
    /// Why signing has stopped, once it has. The first reason stays.
    pub ended: watch::Sender<Option<String>>,
    /// Whether a witness has seen another history of this ledger. Set by the tasks that ask witnesses.
    conflict: AtomicBool,
    /// From [`Stage::Draining`] on the interval does not count; at [`Stage::Signing`] the last
    /// checkpoint is signed.
    shutdown: Shutdown,
}

/// Work for the signing thread.
#[derive(Debug, Default)]
struct Inbox {
    /// Index of the first leaf.
    first: u64,
    leaves: Vec<Hash>,
    /// Number of entries in the ledger, which may be more than there are leaves for.
    end: u64,
    /// Something other than the leaves changed.
    changed: bool,
    /// The signing thread wakes by itself before the next checkpoint is due: until then leaves gather, and
    /// an act does not wake it.
    gathers: bool,
    /// Signing has stopped, and no more leaves are taken.
    ended: bool,
}

impl Inbox {
    /// Whether the signing thread has something to do now.
    fn is_due(&self) -> bool {
        let leaves_max = if self.gathers { LEAVES_AT_ONCE } else { 1 };
        self.leaves.len() >= leaves_max || self.changed || self.ended
    }
}

impl Checkpoints {
    pub(super) fn new(
        config: &NodeConfig,
        disk: Arc<dyn Disk>,
        key: SignerKey,
        files: TreeFiles,
        mut book: Book,
        shutdown: &Shutdown,
    ) -> Self {
        if !config.witness_policy.asks_for_witnesses() {
            book.released.clone_from(&book.signed);
        }
        Self {
            key,
            files,
            policy: config.witness_policy.clone(),
            fail: config.witness_fail,
            witness_wait: config.witness_timeout,
            data_dir: config.data_dir.clone(),
            disk,
            signed: watch::Sender::new(book.signed.clone()),
            released: watch::Sender::new(book.released.clone()),
            key_changes: watch::Sender::new(released_key_changes(&book)),
            book: Mutex::new(book),
            inbox: Mutex::default(),
            inbox_changed: Condvar::new(),
            ended: watch::Sender::new(None),
            conflict: AtomicBool::new(false),
            shutdown: shutdown.clone(),
        }
    }

    /// Takes the leaves of new entries. The first entry has the index `first`.
    pub(super) fn landed(&self, first: u64, leaves: impl ExactSizeIterator<Item = Hash>) {
        let mut inbox = self.inbox.lock();
        if inbox.ended {
            return;
        }
        if inbox.leaves.is_empty() {
            inbox.first = first;
        }
        // Leaves beyond the limit are read from the ledger.
        let is_next = inbox.first + inbox.leaves.len() as u64 == first;
        inbox.end = first + leaves.len() as u64;
        if is_next && inbox.leaves.len() < LEAVES_MAX {
            inbox.leaves.extend(leaves);
        }
        if inbox.is_due() {
            self.inbox_changed.notify_one();
        }
    }

    fn may_release_unwitnessed(&self) -> bool {
        self.fail == WitnessFail::Open && !self.conflict.load(Ordering::Relaxed)
    }

    /// Sets whether a witness has seen another history of this ledger. While it is set, no checkpoint
    /// is released without enough cosignatures, whatever is configured.
    pub(super) fn hold_back(&self, conflict: bool) {
        self.conflict.store(conflict, Ordering::Relaxed);
        self.wake();
    }

    /// Wakes the signing thread.
    fn wake(&self) {
        self.inbox.lock().changed = true;
        self.inbox_changed.notify_one();
    }

    /// Adds cosignatures to the last signed checkpoint, if it has this size. Answers how many were
    /// added.
    pub(super) fn add_cosignatures(
        &self,
        core: &Core,
        size: u64,
        cosignatures: Vec<NoteSignature>,
    ) -> Result<usize, String> {
        let mut book = self.book.lock();
        let Some(signed) = book.signed.clone().filter(|signed| signed.size() == size) else {
            return Ok(0);
        };
        let mut note = signed.checkpoint.note.clone();
        let mut added = 0;
        for cosignature in cosignatures {
            if self.is_first_of_witness(&note, &cosignature) {
                note.add(cosignature);
                added += 1;
            }
        }
        if added == 0 {
            return Ok(0);
        }
        let checkpoint = SignedCheckpoint { note, ..signed.checkpoint.clone() };
        let cosigned = Arc::new(Signed::new(checkpoint, signed.signed_at, &self.policy));
        let was_released = book.released.as_ref().is_some_and(|released| released.size() == size);
        let mut next = Book { signed: Some(Arc::clone(&cosigned)), ..book.clone() };
        if was_released || cosigned.witnessed {
            next.released = Some(cosigned);
        }
        self.replace_book(core, &mut book, next)?;
        drop(book);
        self.wake();
        Ok(added)
    }

    /// Whether a cosignature is valid, by a witness of the policy, and the first of that witness.
    fn is_first_of_witness(&self, note: &Note, cosignature: &NoteSignature) -> bool {
        let Ok(mut alone) = Note::new(note.text().to_owned()) else { return false };
        alone.add(cosignature.clone());
        self.policy.witnesses().iter().any(|witness| {
            alone.verify(&witness.key).is_ok() && note.by(&witness.key).next().is_none()
        })
    }

    /// Replaces the book: durable first, then visible to others.
    fn replace_book(&self, core: &Core, book: &mut Book, next: Book) -> Result<(), String> {
        // After a failure the content of the file is unknown, and it is not written again.
        if let Some(reason) = self.ended.borrow().clone() {
            return Err(reason);
        }
        next.write(&*self.disk, &self.data_dir).map_err(|error| {
            let reason = error.to_string();
            self.stop(core, &reason);
            reason
        })?;
        *book = next;
        core.metrics.checkpoint_signed_entries.set(book.size());
        // Signed first: no receiver sees a released checkpoint before it is signed.
        if book.signed != *self.signed.borrow() {
            self.signed.send_replace(book.signed.clone());
        }
        if book.released != *self.released.borrow() {
            let size = book.released.as_ref().map_or(0, |released| released.size());
            core.metrics.checkpoint_released_entries.set(size);
            self.released.send_replace(book.released.clone());
            let changes = released_key_changes(book);
            self.key_changes.send_if_modified(|sent| {
                let is_other = *sent != changes;
                *sent = changes;
                is_other
            });
        }
        Ok(())
    }

    /// Stops signing until restart.
    fn stop(&self, core: &Core, reason: &str) {
        let mut inbox = self.inbox.lock();
        inbox.leaves = Vec::new();
        if !std::mem::replace(&mut inbox.ended, true) {
            error!(reason, "no more checkpoints are signed until restart");
            core.metrics.signing_stopped.set(1);
            self.ended.send_replace(Some(reason.to_owned()));
        }
        self.inbox_changed.notify_one();
    }
}

/// Starts the signing thread. It ends at [`Stage::Signing`], or when signing is stopped.
pub(super) fn start(
    core: &Arc<Core>,
    threads: &Threads,
    writer: TreeWriter,
    second: Range,
    before: Before,
    interval: Duration,
) -> io::Result<()> {
    let book = core.checkpoints.book.lock();
    // A checkpoint that was not released before a crash waits for its witnesses again.
    let last = (book.released != book.signed).then(Instant::now);
    drop(book);
    let signing = Signing {
        core: Arc::clone(core),
        writer,
        second,
        before,
        interval,
        last,
        started: Instant::now(),
        clock_warned: false,
    };
    let run = move || {
        let core = Arc::clone(&signing.core);
        if catch_unwind(AssertUnwindSafe(|| signing.run())).is_err() {
            core.checkpoints.stop(&core, "the thread that signs panicked");
        }
    };
    let woken = Arc::clone(core);
    threads.spawn("checkpoints", Stage::Signing, move || woken.checkpoints.wake(), run)?;
    Ok(())
}

struct Signing {
    core: Arc<Core>,
    writer: TreeWriter,
    /// The tree again, computed from entries that are read back.
    second: Range,
    before: Before,
    interval: Duration,
    /// When the last checkpoint was signed.
    last: Option<Instant>,
    started: Instant,
    clock_warned: bool,
}

/// Work that was taken from the inbox.
struct Work {
    first: u64,
    leaves: Vec<Hash>,
    end: u64,
    /// The node is draining: sign without waiting for the interval.
    draining: bool,
    /// This is the last work.
    closing: bool,
}

impl Signing {
    fn run(mut self) {
        let core = Arc::clone(&self.core);
        core.metrics.checkpoint_signed_entries.set(core.checkpoints.book.lock().size());
        let released =
            core.checkpoints.released.borrow().as_ref().map_or(0, |released| released.size());
        core.metrics.checkpoint_released_entries.set(released);
        while let Some(work) = self.next() {
            let closing = work.closing;
            if let Err(reason) = self.process(&work) {
                core.checkpoints.stop(&core, &reason);
                return;
            }
            if closing {
                return;
            }
        }
    }

    fn process(&mut self, work: &Work) -> Result<(), String> {
        self.grow(work)?;
        if work.closing || work.draining || self.is_due() {
            self.sign()?;
        }
        self.release_unwitnessed()
    }

    /// Waits for leaves, for the time to sign or to release, or for the end. None if signing has
    /// stopped.
    fn next(&self) -> Option<Work> {
        let checkpoints = &self.core.checkpoints;
        let until = self.next_time();
        let mut inbox = checkpoints.inbox.lock();
        inbox.gathers = until.is_some();
        while !inbox.is_due() {
            match until {
                None => checkpoints.inbox_changed.wait(&mut inbox),
                Some(until) => {
                    if checkpoints.inbox_changed.wait_until(&mut inbox, until).timed_out() {
                        break;
                    }
                }
            }
        }
        if inbox.ended {
            return None;
        }
        inbox.changed = false;
        let leaves = std::mem::take(&mut inbox.leaves);
        // Read with the inbox locked: when `closing` is true, the inbox has the last entries.
        let draining = checkpoints.shutdown.has_reached(Stage::Draining);
        let closing = checkpoints.shutdown.has_reached(Stage::Signing);
        Some(Work { first: inbox.first, leaves, end: inbox.end, draining, closing })
    }

    /// When to sign or release next, if the inbox does not change before.
    fn next_time(&self) -> Option<Instant> {
        let checkpoints = &self.core.checkpoints;
        let book = checkpoints.book.lock();
        let waits = book.released != book.signed && checkpoints.may_release_unwitnessed();
        let released_at = self.last.filter(|_| waits).map(|last| last + checkpoints.witness_wait);
        let signed_at = self.is_unsigned(&book).then(|| self.due(&book));
        let clock = self.clock_warned.then(|| Instant::now() + self.interval.max(CLOCK_WAIT_MIN));
        let signed_at = signed_at.map(|at| clock.map_or(at, |clock| at.max(clock)));
        released_at.into_iter().chain(signed_at).min()
    }

    fn is_due(&self) -> bool {
        let book = self.core.checkpoints.book.lock();
        self.is_unsigned(&book) && Instant::now() >= self.due(&book)
    }

    /// Whether the tree has entries that this key has not signed yet.
    fn is_unsigned(&self, book: &Book) -> bool {
        let key = self.core.checkpoints.key.verifier();
        let signed = book.signed.as_ref();
        self.writer.size() > book.size()
            || signed.is_some_and(|signed| signed.checkpoint.verify(key).is_err())
    }

    /// When the next checkpoint may be signed: after the interval, and after the time of the witnesses
    /// for the last one.
    fn due(&self, book: &Book) -> Instant {
        let Some(last) = self.last else { return self.started };
        let held = book.released != book.signed;
        let wait = if held { self.core.checkpoints.witness_wait } else { Duration::ZERO };
        last + self.interval.max(wait)
    }

    /// Adds new entries to the tree. Leaves that are not in the inbox are read from the ledger.
    fn grow(&mut self, work: &Work) -> Result<(), String> {
        if self.writer.size() >= work.end {
            return Ok(());
        }
        self.grow_from_ledger(work.first.min(work.end))?;
        for leaf in &work.leaves {
            self.writer.push(*leaf);
        }
        self.grow_from_ledger(work.end)?;
        self.writer.write().map_err(|error| error.to_string())
    }

    fn grow_from_ledger(&mut self, end: u64) -> Result<(), String> {
        let (core, writer) = (&self.core, &mut self.writer);
        let read = core.leaves(writer.size(), end, &mut |leaf| writer.push(leaf));
        read.map_err(|error| error.to_string())
    }

    /// Signs the tree, unless it is signed already.
    fn sign(&mut self) -> Result<(), String> {
        let core = Arc::clone(&self.core);
        let checkpoints = &core.checkpoints;
        let size = self.writer.size();
        let before = {
            let book = checkpoints.book.lock();
            // The keys of a change sign nothing before its entry.
            let has_change = self.before.unproven.is_none_or(|index| index < size);
            if !self.is_unsigned(&book) || !has_change {
                return Ok(());
            }
            book.signed.clone()
        };
        // Not beyond the sane time: after a jump, nothing could be signed until the clock catches up.
        let now = core.clock.read().sane;
        // A correction of the clock after the last checkpoint says that its time was wrong.
        let is_corrected = |signed: &Signed| {
            let catalog = core.view.catalog();
            let mut corrections = catalog.catalog.clock_corrections().iter();
            corrections.any(|correction| (signed.size()..size).contains(&correction.index))
        };
        if before.as_ref().is_some_and(|signed| now < signed.signed_at && !is_corrected(signed)) {
            self.clock_went_back();
            return Ok(());
        }
        if std::mem::take(&mut self.clock_warned) {
            core.metrics.signing_stopped.set(0);
        }
        self.writer.sync().map_err(|error| error.to_string())?;
        let root = self.compare_roots(size)?;
        if let Some(signed) = &before
            && (size < signed.size() || (size == signed.size() && root != signed.root()))
        {
            return Err(format!("a checkpoint of {} entries contradicts this one", signed.size()));
        }
        let checkpoint = Checkpoint {
            origin: core.ledger.origin.clone(),
            size,
            root,
            extensions: String::new(),
        };
        let signed = SignedCheckpoint::sign(checkpoint, &checkpoints.key);
        let mut signed = signed.map_err(|error| error.to_string())?;
        if let Some(key) = &self.before.key {
            signed.note.sign(key, 0);
        }
        let key_change = self.key_change(&signed)?;
        let signed = Arc::new(Signed::new(signed, now, &checkpoints.policy));
        let mut book = checkpoints.book.lock();
        let mut next = Book { signed: Some(Arc::clone(&signed)), ..book.clone() };
        if !checkpoints.policy.asks_for_witnesses() {
            next.released = Some(signed);
        }
        next.key_changes.extend(key_change);
        checkpoints.replace_book(&core, &mut book, next)?;
        self.before.unproven = None;
        core.metrics.checkpoints.inc();
        self.last = Some(Instant::now());
        Ok(())
    }

    /// The proof of a change of the signing key, if it has none yet: with the first checkpoint over its entry.
    fn key_change(&self, signed: &SignedCheckpoint) -> Result<Option<KeyChange>, String> {
        let (core, size) = (&self.core, signed.checkpoint.size);
        let Some(index) = self.before.unproven else { return Ok(None) };
        let entry = core.backend.read(index, index + 1, READ_BYTES);
        let entry = entry.map_err(|error| self.unreadable(&error))?.pop();
        let subtree = |height, number| core.checkpoints.files.subtree(height, number);
        let path = prove_inclusion(index, size, subtree).map_err(|error| error.to_string())?;
        let proof = TlogProof { extra: entry, index, path, checkpoint: signed.clone() };
        let change = KeyChange::of(proof).map_err(|error| format!("entry {index}: {error}"))?;
        info!(index, entries = size, "the change of the signing key is signed with both keys");
        Ok(Some(change))
    }

    /// The root over the tree's files. Fails if the root over the entries as read back, or over the
    /// entries as written, is another one.
    fn compare_roots(&mut self, size: u64) -> Result<Hash, String> {
        let (core, second) = (&self.core, &mut self.second);
        let read = core.leaves(second.end(), size, &mut |leaf| second.push(leaf));
        read.map_err(|error| self.unreadable(&error))?;
        let root = self.core.checkpoints.files.root(size).map_err(|error| error.to_string())?;
        if self.second.root() != Some(self.writer.root()) {
            let reason = format!(
                "the root over the first {size} entries as they are read back is not the one over \
                 the entries as they were written"
            );
            self.core.stop_writes(&reason);
            return Err(reason);
        }
        if self.writer.root() != root {
            // The entries are intact; the tree is disposable.
            let _ = self.core.checkpoints.files.condemn();
            return Err(format!(
                "the tree's files do not lead to the root over the first {size} entries: the tree is \
                 built again at the next start"
            ));
        }
        Ok(root)
    }

    /// The reason why entries can not be read back. A fault of the disk stops signing; damage stops all
    /// writes, too.
    fn unreadable(&self, error: &BackendError) -> String {
        let reason = error.to_string();
        if matches!(error, BackendError::Log(LogError::Damaged(_))) {
            self.core.stop_writes(&reason);
        }
        reason
    }

    /// A clock that went back may mean that this machine is a restored copy. Nothing is signed until
    /// the clock has passed the last checkpoint.
    fn clock_went_back(&mut self) {
        if !std::mem::replace(&mut self.clock_warned, true) {
            error!(
                "the clock is before the last checkpoint: nothing is signed until it has passed it"
            );
            self.core.metrics.signing_stopped.set(1);
        }
    }

    /// Releases a checkpoint without enough cosignatures, if the time of the witnesses has passed and
    /// the configuration allows it.
    fn release_unwitnessed(&mut self) -> Result<(), String> {
        let core = Arc::clone(&self.core);
        let checkpoints = &core.checkpoints;
        let Some(last) = self.last else { return Ok(()) };
        let mut book = checkpoints.book.lock();
        let waited = last.elapsed() >= checkpoints.witness_wait;
        if book.released == book.signed || !waited || !checkpoints.may_release_unwitnessed() {
            return Ok(());
        }
        warn!(
            entries = book.size(),
            "a checkpoint is released although too few witnesses have seen it"
        );
        core.metrics.checkpoints_unwitnessed.inc();
        let next = Book { released: book.signed.clone(), ..book.clone() };
        checkpoints.replace_book(&core, &mut book, next)
    }
}

/// The proofs of the changes that a released checkpoint covers, one below the other.
fn released_key_changes(book: &Book) -> Arc<str> {
    let released = book.released.as_ref().map_or(0, |released| released.size());
    let proofs = book.key_changes.iter().map(|change| &change.proof);
    let released = proofs.filter(|proof| proof.checkpoint.checkpoint.size <= released);
    released.map(ToString::to_string).collect::<String>().into()
}

impl Core {
    /// Reads back the entries from `start` on, before `end`, and calls `each` with every leaf.
    fn leaves(&self, start: u64, end: u64, each: &mut dyn FnMut(Hash)) -> Result<(), BackendError> {
        let mut next = start;
        while next < end {
            for bytes in self.backend.read(next, end, READ_BYTES)? {
                each(leaf_hash(&bytes));
                next += 1;
            }
        }
        Ok(())
    }
}

/// Logs the key that verifies checkpoints.
pub(super) fn announce(core: &Core) {
    info!(verifier_key = %core.checkpoints.key.verifier(), "checkpoints are signed");
}
