//! The files of a witness: its key, its state, and the lock against a second process.
//!
//! A witness must not forget what it has cosigned. So it refuses a key without a state, and a state
//! that is older than the last one written. If all files, with the lock, are restored from one old
//! copy, nothing on this machine shows it; only a log that remembers the cosignatures can.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::RngExt;
use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use super::state::{self, State, StateError, parent};
use crate::{
    storage::{
        disk::{Disk, RealDisk},
        secret,
    },
    tlog::key::{Algorithm, KeyError, SignerKey, VerifierKey},
};

/// The largest key file that is read, in bytes.
const KEY_BYTES_MAX: u64 = 4 << 10;

/// Paths of a witness's files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The state.
    pub state: PathBuf,
    /// The secret key.
    pub key: PathBuf,
    /// Whether to start with an empty state if the state is missing and the key exists.
    pub new_state: bool,
}

/// Why a witness can not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process uses the state.
    #[error("{0} is in use by another process; one state is for one witness")]
    InUse(PathBuf),
    /// A file can not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The name is not valid for a key.
    #[error("--name {0}")]
    Name(KeyError),
    /// The key file holds no witness key.
    #[error("{path} holds no key of a witness: the key {problem}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The key has another name.
    #[error("{path} is the key of `{found}`, not of `{wanted}`")]
    OtherName {
        /// The file.
        path: PathBuf,
        /// Name in the key file.
        found: String,
        /// Expected name.
        wanted: String,
    },
    /// The state is missing although the key exists.
    #[error(
        "{state} is missing although the key {key} is there: without its state, the \
         witness could cosign a fork. Restore the file"
    )]
    StateMissing {
        /// The state.
        state: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The key is missing although the state exists.
    #[error("{key} is missing although the state {state} is there. Restore the file")]
    KeyMissing {
        /// The state.
        state: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A new state was asked for, and a state exists.
    #[error("--new-state is for a state that is lost, and {0} is there")]
    StateThere(PathBuf),
    /// The state can not be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl OpenError {
    /// What the operator can do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::StateMissing { .. } => Some(
                "without its state the witness can not be trusted: give it a new key and name; if it \
                 has cosigned nothing yet, start it once with --new-state",
            ),
            Self::State(StateError::RolledBack { .. }) => {
                Some("restore the latest state; if it is lost, give the witness a new key and name")
            }
            Self::StateThere(_) => Some("start without --new-state"),
            _ => None,
        }
    }
}

/// Opens a witness. Creates its key and state if neither exists.
///
/// # Errors
/// See [`OpenError`]. Existing files are unchanged.
pub fn open(files: &Files, name: &str, logs: Vec<VerifierKey>) -> Result<State, OpenError> {
    let disk = RealDisk;
    for path in [&files.state, &files.key] {
        disk.create_dir_all(parent(path)).map_err(|source| io_error(parent(path), source))?;
    }
    let lock = Lock::take(&files.state)?;
    let key = read_key(&files.key, name)?;
    let has_state = files.state.try_exists().map_err(|source| io_error(&files.state, source))?;
    let (state, fresh) = (&files.state, !has_state);
    let open = |key, lock, fresh| State::open(Arc::new(disk), state, key, logs, lock, fresh);
    match key {
        Some(_) if has_state && files.new_state => Err(OpenError::StateThere(state.clone())),
        Some(_) if fresh && !files.new_state => {
            Err(OpenError::StateMissing { state: state.clone(), key: files.key.clone() })
        }
        Some(key) => Ok(open(key, Some(lock), fresh)?),
        None if has_state && !state::is_blank(&disk, state)? => {
            Err(OpenError::KeyMissing { state: state.clone(), key: files.key.clone() })
        }
        None => {
            let seed = Zeroizing::new(rand::rng().random());
            let key = SignerKey::from_seed(name, Algorithm::Cosignature, &seed);
            let key = key.map_err(OpenError::Name)?;
            // The key is written last: a crash before it leaves a state without cosignatures.
            let opened = open(key.clone(), Some(lock), true)?;
            let written = secret::write_once(&files.key, &key.to_secret_text());
            if !written.map_err(|source| io_error(&files.key, source))? {
                return Err(io_error(&files.key, io::ErrorKind::AlreadyExists.into()));
            }
            Ok(opened)
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), source }
}

fn read_key(path: &Path, name: &str) -> Result<Option<SignerKey>, OpenError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| io_error(path, source))?,
    };
    let mut text = Zeroizing::new(String::new());
    let read = file.take(KEY_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|source| io_error(path, source))?;
    let wrong = |problem| OpenError::Key { path: path.to_owned(), problem };
    let key = SignerKey::parse(&text).map_err(|error| wrong(error.to_string()))?;
    let verifier = key.verifier();
    if verifier.algorithm() != Algorithm::Cosignature {
        return Err(wrong("is a log's: a witness's has signature type 4".to_owned()));
    }
    if verifier.name() != name {
        let (found, wanted) = (verifier.name().to_owned(), name.to_owned());
        return Err(OpenError::OtherName { path: path.to_owned(), found, wanted });
    }
    secret::warn_if_open_to_others(path, "the witness's key");
    Ok(Some(key))
}

/// Locks a state against other processes, and holds the number of its last change, so that an old copy
/// of the state is detected. After a power cut the number may be too low, never too high.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    sequence: u64,
}

impl Lock {
    fn take(state: &Path) -> Result<Self, OpenError> {
        let mut path = state.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut file = options.open(&path).map_err(|source| io_error(&path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(state.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error(&path, source)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| io_error(&path, source))?;
        // A power cut can leave any bytes here; without a number, an old copy is not detected.
        let sequence = String::from_utf8_lossy(&bytes).trim().parse().unwrap_or_default();
        Ok(Self { file, sequence })
    }

    /// Number of the last recorded change.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records the number of a change.
    pub(super) fn record(&mut self, sequence: u64) {
        self.sequence = sequence;
        if let Err(error) = self.file.write_all_at(format!("{sequence:020}\n").as_bytes(), 0) {
            warn!(%error, "the number of the state's last change is not remembered");
        }
    }
}
