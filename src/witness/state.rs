//! The state of a witness: the latest cosigned checkpoint of each log.
//!
//! A cosignature says that all checkpoints of the log so far are consistent. So it is returned only
//! once its checkpoint is on stable storage, and comparing and storing a checkpoint is one step under
//! a lock: of two requests with the same old size, the second fails. One lock serves all logs. It is
//! held while the disk works, so readers take the snapshot that was published after the last change,
//! and do not wait for the disk.
//!
//! Anyone can submit a checkpoint that a log has signed, repeatedly and with any other signature
//! lines. So one signature of each key is stored, a note that a restart could not read is refused,
//! and the same checkpoint is cosigned at most once a second.
//!
//! The file is one JSON object, written to a new file and renamed over the old one:
//!
//! ```json
//! {"format": "consent-ledger witness state v1",
//!  "witness": "witness.example/w1+8d6c20b1+BI…",
//!  "sequence": 12,
//!  "checkpoints": ["ledger.example/eu\n20852163\nCsUYapGG…=\n\n— ledger.example/eu Az3g…\n— …\n"]}
//! ```
//!
//! Each checkpoint carries the signatures of the log and the witness, and both are verified when the
//! file is read: it holds only checkpoints that this witness has cosigned. But the list and its
//! number are not signed: a person with write access can put back an older checkpoint or remove one.
//! The number protects against an old copy, not against such a person, so the file needs the same
//! protection as the key.

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

/// Value of `format` in the file.
const FORMAT: &str = "consent-ledger witness state v1";
/// Maximum number of logs that a witness follows.
pub const LOGS_MAX: usize = 1_024;
/// Maximum size of a state file, in bytes.
pub const STATE_BYTES_MAX: u64 = 512 << 20;

/// A witness: its key, the logs that it follows, and their latest checkpoints.
#[derive(Debug)]
pub struct State {
    key: SignerKey,
    logs: Logs,
    kept: Mutex<Kept>,
    published: ArcSwap<Published>,
    /// Start of the write in progress.
    keeping_since: ArcSwapOption<Instant>,
}

/// The latest checkpoint of each log, by origin.
type Latest = BTreeMap<String, Arc<SignedCheckpoint>>;

/// Keys of the followed logs, by origin.
type Logs = BTreeMap<String, Vec<VerifierKey>>;

/// The snapshot for readers.
#[derive(Debug)]
struct Published {
    latest: Latest,
    poisoned: Option<String>,
}

/// The stored state and its file.
#[derive(Debug)]
struct Kept {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// None in tests, where there is no other process.
    lock: Option<Lock>,
    /// Number of the last change.
    sequence: u64,
    latest: Latest,
    /// The error after which it is unknown which of the two files has the name: the witness cosigns
    /// nothing more until restart.
    poisoned: Option<String>,
}

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: String,
    witness: String,
    sequence: u64,
    checkpoints: Vec<String>,
}

/// Why a state can not be used. The file is unchanged.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file can not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file is not a state of this witness, or was changed.
    #[error("{path} is no state that this witness has kept: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The file belongs to another witness.
    #[error("{path} is the state of {found}, not of {wanted}")]
    OtherWitness {
        /// The file.
        path: PathBuf,
        /// Verifier key in the file.
        found: String,
        /// Verifier key of this witness.
        wanted: String,
    },
    /// The file is an old copy.
    #[error(
        "{path} is of change {found}, and this witness has kept change {wanted}: an old copy was \
         restored, with which the witness could cosign a fork"
    )]
    RolledBack {
        /// The file.
        path: PathBuf,
        /// Its number.
        found: u64,
        /// The lowest valid number.
        wanted: u64,
    },
    /// A key is not the key of a log.
    #[error("{0} is a witness's key, not a log's")]
    NotALog(String),
    /// More than [`LOGS_MAX`] logs.
    #[error("more than {LOGS_MAX} logs")]
    TooManyLogs,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The log is not followed.
    #[error("no log `{0}` is followed here")]
    UnknownOrigin(String),
    /// The signature of the log is missing or wrong.
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
    /// The latest cosigned checkpoint has another size than the request says.
    #[error("the checkpoint that was cosigned last is of {size} entries")]
    Conflict {
        /// Its size.
        size: u64,
    },
    /// The proof does not show that the checkpoint is consistent with the latest.
    #[error("{why}")]
    Inconsistent {
        /// The problem with the proof.
        why: ProofError,
        /// The checkpoint, with the log's own signatures.
        signed: String,
        /// Whether the log has signed two roots for the size that was cosigned last.
        forked: bool,
    },
    /// With the cosignature, a restart could not read it.
    #[error("the checkpoint can not be kept with its signatures: {0}")]
    Unreadable(#[from] CheckpointError),
    /// The new checkpoint can not be stored.
    #[error("the state can not be kept: {0}")]
    NotKept(String),
}

impl State {
    /// Reads the file at `path`, or with `fresh` creates it with an empty state.
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
        let logs = by_origin(logs)?;
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

    /// Names of the followed logs.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.logs.keys().map(String::as_str)
    }

    /// Cosigns a checkpoint that is consistent with the latest, and stores it. Returns the signature
    /// line; for the latest checkpoint in the second of its cosignature, the same line again. `now_s` is
    /// in seconds since the Unix epoch. Blocking.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn cosign(&self, request: &AddCheckpoint, now_s: u64) -> Result<String, Refusal> {
        let AddCheckpoint { old_size, proof, checkpoint } = request;
        let mut signed = self.with_known_signatures(checkpoint)?;
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
        // A restart must be able to read it.
        let signed = parse_cosigned(&signed.to_string(), &self.key, &self.logs)?;
        let line = line(&signed.note, self.key.verifier());
        self.keep(&mut kept, signed)?;
        Ok(line)
    }

    /// The latest cosigned checkpoint of the log whose origin has this SHA-256 hash.
    #[must_use]
    pub fn latest(&self, origin_hash: &Hash) -> Option<String> {
        let has_hash = |origin: &&String| Hash::from(Sha256::digest(origin)) == *origin_hash;
        let origin = self.logs.keys().find(has_hash)?;
        self.published.load().latest.get(origin).map(ToString::to_string)
    }

    /// The error after which nothing is cosigned until restart, if there was one.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.published.load().poisoned.clone()
    }

    /// Duration of the write in progress.
    #[must_use]
    pub fn keeping_for(&self) -> Option<Duration> {
        self.keeping_since.load().as_ref().map(|since| since.elapsed())
    }

    /// Stores a checkpoint and publishes the new state.
    fn keep(&self, kept: &mut Kept, new: SignedCheckpoint) -> Result<(), Refusal> {
        self.keeping_since.store(Some(Arc::new(Instant::now())));
        let mut latest = kept.latest.clone();
        latest.insert(new.checkpoint.origin.clone(), Arc::new(new));
        let replaced = kept.replace(&self.key, latest);
        self.published.store(Arc::new(kept.published()));
        self.keeping_since.store(None);
        replaced.map_err(|error| Refusal::NotKept(error.to_string()))
    }

    /// The checkpoint with one signature of each known key of its log. At least one is needed; a wrong
    /// one is an error.
    fn with_known_signatures(
        &self,
        checkpoint: &SignedCheckpoint,
    ) -> Result<SignedCheckpoint, Refusal> {
        let SignedCheckpoint { checkpoint, note } = checkpoint;
        let unknown = || Refusal::UnknownOrigin(checkpoint.origin.clone());
        let keys = self.logs.get(&checkpoint.origin).ok_or_else(unknown)?;
        let mut signed = Note::new(note.text().to_owned()).map_err(CheckpointError::from)?;
        let mut missing = None;
        for key in keys {
            match note.verify(key) {
                Ok(_) => note.by(key).take(1).for_each(|signature| signed.add(signature.clone())),
                Err(bad @ SignatureError::Bad(_)) => return Err(bad.into()),
                Err(error) => missing = Some(error),
            }
        }
        match missing {
            Some(error) if signed.signatures().is_empty() => Err(error.into()),
            _ => Ok(SignedCheckpoint { checkpoint: checkpoint.clone(), note: signed }),
        }
    }
}

/// The signature line of a key in a note.
fn line(note: &Note, key: &VerifierKey) -> String {
    note.by(key).next().map(|signature| format!("{signature}\n")).unwrap_or_default()
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

    /// The witness's signature line of the latest checkpoint, if that is `new` and was cosigned at
    /// `now_s`. So repeated requests cause no writes.
    fn cosigned_at(&self, new: &SignedCheckpoint, key: &VerifierKey, now_s: u64) -> Option<String> {
        let latest = &self.latest.get(&new.checkpoint.origin)?.note;
        let same = latest.text() == new.note.text() && latest.verify(key) == Ok(Some(now_s));
        same.then(|| line(latest, key))
    }

    fn published(&self) -> Published {
        Published { latest: self.latest.clone(), poisoned: self.poisoned.clone() }
    }

    /// Replaces the file. The state in memory changes only once the file is on stable storage.
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
        let new_path = self.write_new(&bytes)?;
        // After a failure from here on, it is unknown which of the two files has the name.
        let renamed = self.disk.rename(&new_path, &self.path);
        if let Err(error) = renamed.and_then(|()| self.disk.sync_dir(parent(&self.path))) {
            self.poisoned = Some(error.to_string());
            return Err(error);
        }
        (self.sequence, self.latest) = (file.sequence, latest);
        if let Some(lock) = &mut self.lock {
            lock.record(self.sequence);
        }
        Ok(())
    }

    fn write_new(&self, bytes: &[u8]) -> io::Result<PathBuf> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".new");
        let path = PathBuf::from(path);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&path)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        Ok(path)
    }
}

impl File {
    /// Verifies the content and returns its number and checkpoints.
    fn restore(
        self,
        path: &Path,
        key: &SignerKey,
        logs: &Logs,
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
            let checkpoint = parse_cosigned(text, key, logs)
                .map_err(|error| damaged(&path, error.to_string()))?;
            latest.insert(checkpoint.checkpoint.origin.clone(), Arc::new(checkpoint));
        }
        Ok((self.sequence, latest))
    }
}

/// Parses a checkpoint with the signature of this witness. It stays valid if the log's key in the
/// configuration was changed since.
fn parse_cosigned(
    text: &str,
    key: &SignerKey,
    logs: &Logs,
) -> Result<SignedCheckpoint, CheckpointError> {
    let signed = SignedCheckpoint::parse(text)?;
    signed.note.verify(key.verifier())?;
    for log_key in logs.get(&signed.checkpoint.origin).into_iter().flatten() {
        if let Err(bad @ SignatureError::Bad(_)) = signed.note.verify(log_key) {
            return Err(bad.into());
        }
    }
    Ok(signed)
}

/// Whether a state has no checkpoints.
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

fn by_origin(keys: Vec<VerifierKey>) -> Result<Logs, StateError> {
    let mut logs = Logs::new();
    for key in keys {
        if key.algorithm() != Algorithm::Note {
            return Err(StateError::NotALog(key.to_string()));
        }
        let known = logs.entry(key.name().to_owned()).or_default();
        if !known.contains(&key) {
            known.push(key);
        }
    }
    if logs.len() > LOGS_MAX { Err(StateError::TooManyLogs) } else { Ok(logs) }
}

/// The parent directory; for a bare name, the current directory.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
pub(super) mod tests;
