//! A witness's files: its key, its state, and the lock that keeps a second process out.
//!
//! A witness is worth what it remembers, so nothing here forgets by accident: a key without its state
//! is refused, and so is a state that is older than the last that was written. Where both, and the
//! lock beside them, are restored from one old copy, nothing on this machine can tell; a log that
//! remembers what the witness has cosigned can.

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

/// Where a witness keeps what it is.
#[derive(Debug, Clone)]
pub struct Files {
    /// The state.
    pub state: PathBuf,
    /// The secret key.
    pub key: PathBuf,
    /// Whether a missing state is begun anew, although the key is there.
    pub new_state: bool,
}

/// Why a witness does not start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the state.
    #[error("{0} is in use by another process; one state is for one witness")]
    InUse(PathBuf),
    /// A file can not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name can not be a witness's.
    #[error("--name {0}")]
    Name(KeyError),
    /// The key's file holds no key.
    #[error("{path} holds no key of a witness: the key {problem}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The key is of another name.
    #[error("{path} is the key of `{found}`, not of `{wanted}`")]
    OtherName {
        /// The file.
        path: PathBuf,
        /// Name of the key.
        found: String,
        /// Name that was asked for.
        wanted: String,
    },
    /// The key has cosigned, and what it has cosigned is gone.
    #[error(
        "{state} is missing although the key {key} is there: without what it has cosigned, the \
         witness could be shown another past. Restore the file"
    )]
    StateMissing {
        /// The state.
        state: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The state is of a key that is gone.
    #[error("{key} is missing although the state {state} is there. Restore the file")]
    KeyMissing {
        /// The state.
        state: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A state is there that was to be begun anew.
    #[error("--new-state is for a state that is lost, and {0} is there")]
    StateThere(PathBuf),
    /// The state can not be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl OpenError {
    /// What whoever runs the witness can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::StateMissing { .. } => Some(
                "a lost state makes a witness worthless to those who trust it: rather give it a new \
                 key and name; if nothing was cosigned yet, say --new-state once",
            ),
            Self::State(StateError::RolledBack { .. }) => {
                Some("restore the latest state; if it is lost, give the witness a new key and name")
            }
            Self::StateThere(_) => Some("start without --new-state"),
            _ => None,
        }
    }
}

/// Opens a witness, or creates its key and its state where neither is there.
///
/// # Errors
/// See [`OpenError`]. What was there is not changed.
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
            // The key comes last. A crash before leaves a state in which nothing was cosigned.
            let opened = open(key.clone(), Some(lock), true)?;
            let written = secret::write_once(&files.key, &key.to_secret_text());
            match written.map_err(|source| io_error(&files.key, source))? {
                true => {}
                false => return Err(io_error(&files.key, io::ErrorKind::AlreadyExists.into())),
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

/// Keeps other processes from a state, and remembers the number of its last change, so that an old
/// copy of the state is noticed. What it remembers may lag behind after a power cut, never be ahead.
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
        // A power cut can leave anything here; what it remembers is a help, and no promise.
        let sequence = String::from_utf8_lossy(&bytes).trim().parse().unwrap_or_default();
        Ok(Self { file, sequence })
    }

    /// Number of the last change that was remembered.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn remember(&mut self, sequence: u64) {
        self.sequence = sequence;
        if let Err(error) = self.file.write_all_at(format!("{sequence:020}\n").as_bytes(), 0) {
            warn!(%error, "the number of the state's last change is not remembered");
        }
    }
}
