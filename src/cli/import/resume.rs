//! The state file of an import, from which it can resume.
//!
//! It is replaced after every response: written to a temporary file, synced and renamed, and the
//! directory is synced. So a crash leaves the old state or the new one. The rows after it are sent
//! again, and the server recognizes them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::input::{Compiled, Place};
use crate::{
    cli::{error::CliError, words},
    proto::{GetCheckpointResponse, ImportConsentsResponse, Outcome},
    storage::if_exists,
};

/// Identifies an import: a state is valid only for the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    /// Name of the source.
    pub source: String,
    /// BLAKE3 of the whole file, so that a corrected row among the answered ones is noticed.
    pub file_digest: String,
    /// SHA-256 of the mapping; empty for NDJSON.
    pub mapping_digest: String,
    /// Encoding of the file; empty if it is detected.
    pub encoding: String,
}

impl Identity {
    /// The identity of importing a file.
    pub(super) fn of(
        path: &Path,
        source: &str,
        mapping_digest: &str,
        encoding: &str,
    ) -> Result<Self, CliError> {
        let failed = |error| CliError::file(path, error);
        let file = File::open(path).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(failed)?;
        Ok(Self {
            source: source.to_owned(),
            file_digest: hasher.finalize().to_string(),
            mapping_digest: mapping_digest.to_owned(),
            encoding: encoding.to_owned(),
        })
    }

    /// How an earlier import differs from this one.
    fn difference(&self, earlier: &Self) -> Option<String> {
        if self.source != earlier.source {
            return Some(format!("was of the source `{}`", earlier.source));
        }
        if self.file_digest != earlier.file_digest {
            return Some("was of other content: the file has changed".to_owned());
        }
        if self.encoding != earlier.encoding {
            return Some("had another --encoding".to_owned());
        }
        (self.mapping_digest != earlier.mapping_digest)
            .then(|| "used another mapping: it has changed".to_owned())
    }
}

/// SHA-256 in hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    words::hex(&Sha256::digest(bytes))
}

/// Number of rows so far, by result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Rows read.
    pub rows: u64,
    /// Rows recorded.
    pub recorded: u64,
    /// Rows without changes.
    pub unchanged: u64,
    /// Rows that an earlier import recorded.
    pub replayed: u64,
    /// Rows rejected by this command or the server.
    pub rejected: u64,
    /// Fields rejected by this command of rows whose stops were imported.
    pub rejected_fields: u64,
    /// Warnings.
    pub warnings: u64,
    /// Changes that applied to linked data subjects.
    #[serde(default)]
    pub changes_of_linked_subjects: u64,
    /// Changes by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Highest revision of a row.
    pub revision: u64,
}

impl Counts {
    /// Adds the response to a stream.
    pub(super) fn add(&mut self, response: &ImportConsentsResponse) {
        self.rows += response.rows;
        self.recorded += response.recorded;
        self.unchanged += response.unchanged;
        self.replayed += response.replayed;
        self.rejected += response.rejected;
        self.warnings += u64::try_from(response.warnings.len()).unwrap_or(u64::MAX);
        self.changes_of_linked_subjects += response.changes_of_linked_subjects;
        self.revision = self.revision.max(response.revision);
        for outcome in &response.outcomes {
            let word = words::word::<Outcome>(outcome.outcome);
            *self.outcomes.entry(word).or_default() += outcome.count;
        }
    }

    /// Adds what a row came to before sending.
    pub(super) fn compile(&mut self, compiled: &Compiled) {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        self.warnings += count(compiled.warnings.len());
        if !compiled.rows.is_empty() {
            self.rejected_fields += count(compiled.rejects.len());
            return;
        }
        self.rows += 1;
        match compiled.rejects.is_empty() {
            true => self.unchanged += 1,
            false => self.rejected += 1,
        }
    }

    /// Number of grants that the server refused beside the stops of their rows.
    pub(super) fn refused_grants(&self) -> u64 {
        let outcome = words::word::<Outcome>(Outcome::NotRecorded.into());
        self.outcomes.get(&outcome).copied().unwrap_or(0)
    }
}

/// The content of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The import.
    pub identity: Identity,
    /// Identity of the ledger, in hex.
    pub ledger: String,
    /// End of the answered rows.
    pub place: Place,
    /// Counts of the answered rows.
    pub counts: Counts,
    /// File of the rejects.
    pub rejects: PathBuf,
    /// Length of its part for the answered rows.
    pub rejects_bytes: u64,
}

impl State {
    /// Checks that the ledger of a server is the same and has lost no entries.
    pub(super) fn check_ledger(&self, checkpoint: &GetCheckpointResponse) -> Result<(), CliError> {
        let message = if words::hex(&checkpoint.ledger_id) != self.ledger {
            "the import that stopped here was into another ledger"
        } else if checkpoint.size < self.counts.revision {
            "the ledger has lost entries since the import stopped: was it restored from a backup?"
        } else {
            return Ok(());
        };
        Err(CliError::failed(message).with_hint(RESTART))
    }
}

/// The state file of an import.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The state file beside an input file.
    pub(super) fn beside(file: &Path) -> Self {
        Self { path: with_suffix(file, ".import-state.json") }
    }

    /// Reads the state, if the file exists.
    pub(super) fn read(&self) -> Result<Option<State>, CliError> {
        let text = if_exists(fs::read(&self.path));
        let text = text.map_err(|error| CliError::file(&self.path, error))?;
        let Some(text) = text else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            CliError::failed(format!("{}: {error}", self.path.display())).with_hint(RESTART)
        })
    }

    /// Reads the state, if the file exists. It must be of the same import.
    pub(super) fn read_for(
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

    /// Replaces the file.
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

    /// Removes the file.
    pub(super) fn remove(&self) -> Result<(), CliError> {
        let removed = if_exists(fs::remove_file(&self.path));
        let synced = removed.and_then(|removed| removed.map_or(Ok(()), |()| sync_dir(&self.path)));
        synced.map_err(|error| CliError::file(&self.path, error))
    }
}

const RESTART: &str = "begin again with --restart: rows that were recorded are not recorded twice";

/// A path with a suffix after its name.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(suffix);
    name.into()
}

/// Syncs the directory of a path, so that a new or removed name survives a crash.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_resumes_into_the_same_ledger_without_lost_entries() {
        let state = State {
            identity: Identity {
                source: "crm".to_owned(),
                file_digest: String::new(),
                mapping_digest: String::new(),
                encoding: String::new(),
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
