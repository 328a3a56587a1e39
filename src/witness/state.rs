//! A witness's memory: for each log the latest checkpoint that it has cosigned.
//!
//! A cosignature says that the log's checkpoints so far continue one another, so it leaves only when
//! the checkpoint under it is on stable storage, and a checkpoint is compared and kept in one step:
//! of two requests that continue the same checkpoint, one finds it gone. One lock for all logs is
//! enough for as many as a witness is configured with. It is held while the disk works, so whoever
//! only wants to know asks for what was published after the last change, and waits for no disk.
//!
//! Anybody can send what a log has signed, again and in any shape. So one signature of each key is
//! kept, nothing is kept that a restart could not read, and the same checkpoint is cosigned once in a
//! second.
//!
//! The file is one JSON object, written anew beside the old and renamed over it:
//!
//! ```json
//! {"format": "consent-ledger witness state v1",
//!  "witness": "witness.example/w1+8d6c20b1+BI…",
//!  "sequence": 12,
//!  "checkpoints": ["ledger.example/eu\n20852163\nCsUYapGG…=\n\n— ledger.example/eu Az3g…\n— …\n"]}
//! ```
//!
//! Each checkpoint carries the log's signature and the witness's own, and both are verified when the
//! file is read: it holds no checkpoint that this witness has not cosigned. Which of them it holds,
//! and under which number, nobody has signed: whoever can write the file can put back an older
//! checkpoint, or take one away. The number guards against an old copy, not against such a person,
//! and the file needs the protection of the key.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::open::Lock;
use crate::{
    storage::disk::Disk,
    tlog::{
        checkpoint::{CheckpointError, SignedCheckpoint},
        key::{Algorithm, SignerKey, VerifierKey},
        merkle::{self, Hash, ProofError},
        note::{Note, SignatureError},
        witness::AddCheckpoint,
    },
};

/// What the file says that it is.
const FORMAT: &str = "consent-ledger witness state v1";
/// The most logs that a witness follows.
pub const LOGS_MAX: usize = 1_024;
/// The largest state file that is read, in bytes.
pub const STATE_BYTES_MAX: u64 = 512 << 20;

/// A witness: its key, the logs that it follows, and what it has seen of them.
#[derive(Debug)]
pub struct State {
    key: SignerKey,
    logs: BTreeMap<String, Log>,
    kept: Mutex<Kept>,
    published: ArcSwap<Published>,
    /// Since when the disk has been at work.
    keeping_since: ArcSwapOption<Instant>,
}

/// The latest checkpoint of each log, by origin.
type Latest = BTreeMap<String, Arc<SignedCheckpoint>>;

/// What there is to know without waiting for the disk.
#[derive(Debug)]
struct Published {
    latest: Latest,
    poisoned: Option<String>,
}

/// A log that is followed.
#[derive(Debug, Default)]
struct Log {
    keys: Vec<VerifierKey>,
}

/// What is remembered, and where.
#[derive(Debug)]
struct Kept {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// None where no other process can be, as in tests.
    lock: Option<Lock>,
    /// Number of the last change.
    sequence: u64,
    latest: Latest,
    /// Why nothing more is cosigned, once the file's name may be of either content.
    poisoned: Option<String>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: String,
    witness: String,
    sequence: u64,
    checkpoints: Vec<String>,
}

/// Why a state can not be used. Nothing was changed.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file can not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is none of ours, or was changed.
    #[error("{path} is no state that this witness has kept: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The file is of another witness.
    #[error("{path} is the state of {found}, not of {wanted}")]
    OtherWitness {
        /// The file.
        path: PathBuf,
        /// Verifier key in the file.
        found: String,
        /// Verifier key of this witness.
        wanted: String,
    },
    /// The file is a copy of before.
    #[error(
        "{path} is of change {found}, and this witness has kept change {wanted}: an old copy was \
         restored, from which it could be led to cosign another past"
    )]
    RolledBack {
        /// The file.
        path: PathBuf,
        /// Its number.
        found: u64,
        /// The number that it must have at least.
        wanted: u64,
    },
    /// A log is followed with a key of something else.
    #[error("{0} is a witness's key, not a log's")]
    NotALog(String),
    /// More logs than are followed.
    #[error("more than {LOGS_MAX} logs")]
    TooManyLogs,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No log of this name is followed.
    #[error("no log `{0}` is followed here")]
    UnknownOrigin(String),
    /// No signature of the log, or one that is not.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The old size is larger than the new.
    #[error("the old size {old} is larger than the checkpoint's {size}")]
    OldSize {
        /// The old size.
        old: u64,
        /// Size of the checkpoint.
        size: u64,
    },
    /// The checkpoint that was cosigned last is of another size than the request says.
    #[error("the checkpoint that was cosigned last is of {size} entries")]
    Conflict {
        /// Its size.
        size: u64,
    },
    /// It is not shown that the log continues what it was.
    #[error("{why}")]
    Inconsistent {
        /// What the proof lacks.
        why: ProofError,
        /// The checkpoint, with the log's own signatures.
        signed: String,
        /// Whether it is proof of two pasts: another root for the size that was cosigned last.
        forked: bool,
    },
    /// With the cosignature under it, it could not be read again.
    #[error("the checkpoint can not be kept with its signatures: {0}")]
    Unreadable(#[from] CheckpointError),
    /// The new checkpoint can not be kept.
    #[error("the state can not be kept: {0}")]
    NotKept(String),
}

impl State {
    /// Reads what was kept, or begins with nothing where `file` is not there and `fresh` says so.
    ///
    /// # Errors
    /// See [`StateError`].
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        key: SignerKey,
        logs: Vec<VerifierKey>,
        lock: Option<Lock>,
        fresh: bool,
    ) -> Result<Self, StateError> {
        let logs = followed(logs)?;
        let least = lock.as_ref().map_or(0, Lock::sequence);
        let mut kept = Kept {
            disk,
            path: path.to_owned(),
            lock,
            sequence: least,
            latest: BTreeMap::new(),
            poisoned: None,
        };
        if fresh {
            let written = kept.replace(&key, Latest::new());
            written.map_err(|source| StateError::Io { path: path.to_owned(), source })?;
        } else {
            let file = read(&*kept.disk, path)?;
            (kept.sequence, kept.latest) = file.restore(path, &key, &logs, least)?;
        }
        let published = ArcSwap::from_pointee(kept.published());
        let keeping_since = ArcSwapOption::empty();
        Ok(Self { key, logs, kept: Mutex::new(kept), published, keeping_since })
    }

    /// The key that verifies this witness's cosignatures.
    #[must_use]
    pub fn verifier_key(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// Names of the logs that are followed.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.logs.keys().map(String::as_str)
    }

    /// Cosigns a checkpoint that continues the latest, and keeps it. Answers the signature line: that
    /// of before, if it is the latest and was cosigned in this very second. `now_s` is the time in
    /// seconds since the Unix epoch. Blocking.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn cosign(&self, request: &AddCheckpoint, now_s: u64) -> Result<String, Refusal> {
        let AddCheckpoint { old_size, proof, checkpoint } = request;
        let mut signed = self.signed(checkpoint)?;
        let (old, size) = (*old_size, checkpoint.checkpoint.size);
        if old > size {
            return Err(Refusal::OldSize { old, size });
        }
        let mut kept = self.kept.lock();
        kept.check_continues(old, &signed, proof)?;
        if let Some(line) = kept.cosigned_at(&signed, self.key.verifier(), now_s) {
            return Ok(line);
        }
        signed.note.sign(&self.key, now_s);
        // What a restart would read, or would stop at.
        let signed = own_checkpoint(&signed.to_string(), &self.key, &self.logs)?;
        let line = line(&signed.note, self.key.verifier());
        self.keep(&mut kept, signed)?;
        Ok(line)
    }

    /// The latest checkpoint that was cosigned of the log whose origin has this SHA-256 hash.
    #[must_use]
    pub fn latest(&self, origin_hash: &Hash) -> Option<String> {
        let hashed = |origin: &&String| Hash::from(Sha256::digest(origin)) == *origin_hash;
        let origin = self.logs.keys().find(hashed)?;
        self.published.load().latest.get(origin).map(ToString::to_string)
    }

    /// Why nothing more is cosigned until restart, once that is so.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.published.load().poisoned.clone()
    }

    /// How long the disk has been at work for the checkpoint that is being kept.
    #[must_use]
    pub fn keeping_for(&self) -> Option<Duration> {
        self.keeping_since.load().as_ref().map(|since| since.elapsed())
    }

    /// Keeps a checkpoint, or nothing, and lets others know.
    fn keep(&self, kept: &mut Kept, new: SignedCheckpoint) -> Result<(), Refusal> {
        self.keeping_since.store(Some(Arc::new(Instant::now())));
        let done = kept.keep(&self.key, new);
        self.published.store(Arc::new(kept.published()));
        self.keeping_since.store(None);
        done
    }

    /// The checkpoint with the signatures of the log's known keys alone.
    fn signed(&self, checkpoint: &SignedCheckpoint) -> Result<SignedCheckpoint, Refusal> {
        let SignedCheckpoint { checkpoint, note } = checkpoint;
        let unknown = || Refusal::UnknownOrigin(checkpoint.origin.clone());
        let log = self.logs.get(&checkpoint.origin).ok_or_else(unknown)?;
        Ok(SignedCheckpoint { checkpoint: checkpoint.clone(), note: log.signed(note)? })
    }
}

/// The line of a key's signature under a note.
fn line(note: &Note, key: &VerifierKey) -> String {
    note.by(key).next().map(|signature| format!("{signature}\n")).unwrap_or_default()
}

impl Log {
    /// A note with the signatures of known keys alone: one of each that has signed, one at least, and
    /// none where one is false.
    fn signed(&self, note: &Note) -> Result<Note, Refusal> {
        let mut kept = Note::new(note.text().to_owned()).map_err(CheckpointError::from)?;
        let mut missing = None;
        for key in &self.keys {
            match note.verify(key) {
                Ok(_) => note.by(key).take(1).for_each(|signature| kept.add(signature.clone())),
                Err(bad @ SignatureError::Bad(_)) => return Err(bad.into()),
                Err(none) => missing = Some(none),
            }
        }
        match missing {
            Some(none) if kept.signatures().is_empty() => Err(none.into()),
            _ => Ok(kept),
        }
    }
}

impl Kept {
    fn check_continues(
        &self,
        old: u64,
        new: &SignedCheckpoint,
        proof: &[Hash],
    ) -> Result<(), Refusal> {
        if let Some(why) = &self.poisoned {
            return Err(Refusal::NotKept(why.clone()));
        }
        let latest = self.latest.get(&new.checkpoint.origin).map(|latest| &latest.checkpoint);
        let (size, root) =
            latest.map_or_else(|| (0, merkle::empty_root()), |latest| (latest.size, latest.root));
        if old != size {
            return Err(Refusal::Conflict { size });
        }
        let head = &new.checkpoint;
        let proven = if head.size == 0 && head.root != merkle::empty_root() {
            Err(ProofError::Root)
        } else {
            merkle::verify_consistency((size, &root), (head.size, &head.root), proof)
        };
        proven.map_err(|why| Refusal::Inconsistent {
            why,
            signed: new.to_string(),
            forked: size == head.size && root != head.root,
        })
    }

    /// This witness's line under the latest checkpoint, if it is this one and was cosigned at `now_s`.
    /// Whoever asks again and again costs no writes.
    fn cosigned_at(&self, new: &SignedCheckpoint, key: &VerifierKey, now_s: u64) -> Option<String> {
        let latest = &self.latest.get(&new.checkpoint.origin)?.note;
        let same = latest.text() == new.note.text() && latest.verify(key) == Ok(Some(now_s));
        same.then(|| line(latest, key))
    }

    fn published(&self) -> Published {
        Published { latest: self.latest.clone(), poisoned: self.poisoned.clone() }
    }

    /// Keeps a checkpoint, or nothing.
    fn keep(&mut self, key: &SignerKey, new: SignedCheckpoint) -> Result<(), Refusal> {
        let mut latest = self.latest.clone();
        latest.insert(new.checkpoint.origin.clone(), Arc::new(new));
        self.replace(key, latest).map_err(|error| Refusal::NotKept(error.to_string()))
    }

    /// Writes the file anew. What is in memory changes only when it is on stable storage.
    fn replace(&mut self, key: &SignerKey, latest: Latest) -> io::Result<()> {
        let file = File {
            format: FORMAT.to_owned(),
            witness: key.verifier().to_string(),
            sequence: self.sequence + 1,
            checkpoints: latest.values().map(ToString::to_string).collect(),
        };
        let mut bytes = serde_json::to_vec(&file)?;
        bytes.push(b'\n');
        if bytes.len() as u64 > STATE_BYTES_MAX {
            let problem = format!("it would be larger than {STATE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
        }
        let beside = self.write_beside(&bytes)?;
        // From here on, nobody knows which of the two files a failure leaves behind the name.
        let named = self.disk.rename(&beside, &self.path);
        if let Err(error) = named.and_then(|()| self.disk.sync_dir(parent(&self.path))) {
            self.poisoned = Some(error.to_string());
            return Err(error);
        }
        (self.sequence, self.latest) = (file.sequence, latest);
        if let Some(lock) = &mut self.lock {
            lock.remember(self.sequence);
        }
        Ok(())
    }

    fn write_beside(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        match self.disk.remove(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&beside)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        Ok(beside)
    }
}

impl File {
    /// What it remembers, once every word of it is verified.
    fn restore(
        self,
        path: &Path,
        key: &SignerKey,
        logs: &BTreeMap<String, Log>,
        least: u64,
    ) -> Result<(u64, Latest), StateError> {
        let path = path.to_owned();
        let damaged =
            |path: &Path, problem: String| StateError::Damaged { path: path.to_owned(), problem };
        if self.format != FORMAT {
            return Err(damaged(&path, format!("its format is `{}`", self.format)));
        }
        let wanted = key.verifier().to_string();
        if self.witness != wanted {
            return Err(StateError::OtherWitness { path, found: self.witness, wanted });
        }
        if self.sequence < least {
            return Err(StateError::RolledBack { path, found: self.sequence, wanted: least });
        }
        let mut latest = Latest::new();
        for text in &self.checkpoints {
            let checkpoint = own_checkpoint(text, key, logs)
                .map_err(|error| damaged(&path, error.to_string()))?;
            latest.insert(checkpoint.checkpoint.origin.clone(), Arc::new(checkpoint));
        }
        Ok((self.sequence, latest))
    }
}

/// A checkpoint as this witness has cosigned it. A log whose key was changed since keeps its
/// checkpoint: what was seen was seen.
fn own_checkpoint(
    text: &str,
    key: &SignerKey,
    logs: &BTreeMap<String, Log>,
) -> Result<SignedCheckpoint, CheckpointError> {
    let signed = SignedCheckpoint::parse(text)?;
    signed.note.verify(key.verifier())?;
    for log in logs.get(&signed.checkpoint.origin).into_iter().flat_map(|log| &log.keys) {
        if let Err(bad @ SignatureError::Bad(_)) = signed.note.verify(log) {
            return Err(bad.into());
        }
    }
    Ok(signed)
}

/// Whether nothing was cosigned under a state.
pub(super) fn is_blank(disk: &dyn Disk, path: &Path) -> Result<bool, StateError> {
    Ok(read(disk, path)?.checkpoints.is_empty())
}

fn read(disk: &dyn Disk, path: &Path) -> Result<File, StateError> {
    let io_error = |source| StateError::Io { path: path.to_owned(), source };
    let damaged = |problem: String| StateError::Damaged { path: path.to_owned(), problem };
    let file = disk.open_read(path).map_err(io_error)?;
    let len = file.len().map_err(io_error)?;
    if len > STATE_BYTES_MAX {
        return Err(damaged(format!("it is larger than {STATE_BYTES_MAX} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
}

fn followed(keys: Vec<VerifierKey>) -> Result<BTreeMap<String, Log>, StateError> {
    let mut logs: BTreeMap<String, Log> = BTreeMap::new();
    for key in keys {
        if key.algorithm() != Algorithm::Note {
            return Err(StateError::NotALog(key.to_string()));
        }
        let log = logs.entry(key.name().to_owned()).or_default();
        if !log.keys.contains(&key) {
            log.keys.push(key);
        }
    }
    if logs.len() > LOGS_MAX { Err(StateError::TooManyLogs) } else { Ok(logs) }
}

/// The directory above, which for a bare name is the current one.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
pub(super) mod tests;
