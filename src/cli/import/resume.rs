//! What an import keeps beside its file, so that it can go on after a stop.
//!
//! Written after every answered stream: to a temporary file, synced, renamed, and the directory
//! synced. Whatever the moment of a crash, the old state or the new one is there, and the rows
//! after it are sent once more, which the server recognizes.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::input::Place;
use crate::{
    cli::{error::CliError, words},
    proto::{GetCheckpointResponse, ImportConsentsResponse, Outcome},
};

/// What is imported. Another one is another import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Name of the source.
    pub source: String,
    /// BLAKE3 of the file: of all of it, or a row that was mended in its place would be passed over.
    pub file_digest: String,
    /// SHA-256 of the mapping; empty for NDJSON.
    pub mapping_digest: String,
}

impl Identity {
    /// The identity of importing a file.
    pub(super) fn of(path: &Path, source: &str, mapping_digest: &str) -> Result<Self, CliError> {
        let failed = |error| CliError::file(path, error);
        let file = File::open(path).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(failed)?;
        Ok(Self {
            source: source.to_owned(),
            file_digest: hasher.finalize().to_string(),
            mapping_digest: mapping_digest.to_owned(),
        })
    }

    /// What of this is not as it was.
    fn difference(&self, was: &Self) -> Option<String> {
        if self.source != was.source {
            return Some(format!("was of the source `{}`", was.source));
        }
        if self.file_digest != was.file_digest {
            return Some("was of other content: the file has changed".to_owned());
        }
        (self.mapping_digest != was.mapping_digest)
            .then(|| "went by another mapping: it has changed".to_owned())
    }
}

/// SHA-256 in hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    words::hex(&Sha256::digest(bytes))
}

/// What became of the rows so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Rows read.
    pub rows: u64,
    /// Rows recorded.
    pub recorded: u64,
    /// Rows that say nothing new.
    pub unchanged: u64,
    /// Rows of an earlier import.
    pub replayed: u64,
    /// Rows rejected, here or by the server.
    pub rejected: u64,
    /// Changes by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Highest revision that includes any of them.
    pub revision: u64,
}

impl Counts {
    /// Adds the answer to a stream.
    pub(super) fn add(&mut self, answer: &ImportConsentsResponse) {
        self.rows += answer.rows;
        self.recorded += answer.recorded;
        self.unchanged += answer.unchanged;
        self.replayed += answer.replayed;
        self.rejected += answer.rejected;
        self.revision = self.revision.max(answer.revision);
        for outcome in &answer.outcomes {
            let word = words::word::<Outcome>(outcome.outcome);
            *self.outcomes.entry(word).or_default() += outcome.count;
        }
    }

    /// Adds rows that were not sent.
    pub(super) fn reject(&mut self, rows: usize) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        self.rows += rows;
        self.rejected += rows;
    }
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// What is imported.
    pub identity: Identity,
    /// Identity of the ledger that has the rows before, in hex.
    pub ledger: String,
    /// Where it goes on.
    pub place: Place,
    /// What became of the rows before.
    pub counts: Counts,
    /// File of the rejects.
    pub rejects: PathBuf,
    /// How much of it belongs to the rows before.
    pub rejects_bytes: u64,
}

impl State {
    /// Whether a ledger has the rows before: it is the same, and as long as it was.
    pub(super) fn check_ledger(&self, ledger: &GetCheckpointResponse) -> Result<(), CliError> {
        let message = if words::hex(&ledger.ledger_id) != self.ledger {
            "the import that stopped here was into another ledger"
        } else if ledger.size < self.counts.revision {
            "the ledger has lost entries since the import stopped: was it restored from a backup?"
        } else {
            return Ok(());
        };
        Err(CliError::failed(message).with_hint(RESTART))
    }
}

/// Where the state of an import is kept.
#[derive(Debug)]
pub(super) struct Keep {
    path: PathBuf,
}

impl Keep {
    /// The state beside a file.
    pub(super) fn beside(file: &Path) -> Self {
        Self { path: with_suffix(file, ".import-state.json") }
    }

    /// The state, if there is one.
    pub(super) fn read(&self) -> Result<Option<State>, CliError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CliError::file(&self.path, error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            CliError::failed(format!("{}: {error}", self.path.display())).with_hint(RESTART)
        })
    }

    /// The state, if there is one, of the same import.
    pub(super) fn read_own(
        &self,
        identity: &Identity,
        rejects: &Path,
    ) -> Result<Option<State>, CliError> {
        let Some(state) = self.read()? else { return Ok(None) };
        let difference = identity.difference(&state.identity).or_else(|| {
            (state.rejects != rejects)
                .then(|| format!("keeps its rejects in {}", state.rejects.display()))
        });
        match difference {
            None => Ok(Some(state)),
            Some(difference) => {
                let path = self.path.display();
                let message = format!("the import that stopped here {difference} ({path})");
                Err(CliError::failed(message).with_hint(RESTART))
            }
        }
    }

    /// Keeps a state.
    pub(super) fn write(&self, state: &State) -> Result<(), CliError> {
        self.replace(state).map_err(|error| CliError::file(&self.path, error))
    }

    fn replace(&self, state: &State) -> io::Result<()> {
        let temporary = with_suffix(&self.path, ".tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(state)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        sync_dir(&self.path)
    }

    /// Forgets the state.
    pub(super) fn remove(&self) -> Result<(), CliError> {
        let removed = match fs::remove_file(&self.path) {
            Ok(()) => sync_dir(&self.path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(|error| CliError::file(&self.path, error))
    }
}

const RESTART: &str = "begin again with --restart: rows that were recorded are not recorded twice";

/// A path with something after its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

/// Makes a name that was just given, or taken away, survive a crash.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_goes_on_if_it_is_the_same_and_has_lost_nothing() {
        let state = State {
            identity: Identity {
                source: "crm".to_owned(),
                file_digest: String::new(),
                mapping_digest: String::new(),
            },
            ledger: "0aff".to_owned(),
            place: Place::START,
            counts: Counts { revision: 7, ..Counts::default() },
            rejects: PathBuf::new(),
            rejects_bytes: 0,
        };
        let check = |ledger_id: [u8; 2], size| {
            let ledger_id = ledger_id.to_vec();
            state.check_ledger(&GetCheckpointResponse { ledger_id, size, ..Default::default() })
        };
        assert!(check([0x0a, 0xff], 7).is_ok() && check([0x0a, 0xff], 8).is_ok());
        let message = |checked: Result<(), CliError>| checked.unwrap_err().to_string();
        assert!(message(check([0x0a, 0xff], 6)).contains("has lost entries"));
        assert!(message(check([0x0b, 0xff], 8)).contains("another ledger"));
    }
}
