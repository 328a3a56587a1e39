//! The vault on disk, compared with the data subjects that the ledger's entries name.
//!
//! It is read after the entries: a data subject is in the vault before the first entry that names it.

use std::{collections::HashMap, path::Path};

use serde::Serialize;

use crate::{
    cli::offline::TornTail,
    domain::{LedgerOpened, SubjectRef},
    storage::{disk::RealDisk, holds_segments},
    vault::{self, KekFile, LedgerNote, VaultError},
};

/// The data subjects that entries name, with the first entry of each.
pub type NamedSubjects = HashMap<SubjectRef, u64>;

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultCompared {
    /// Number of data subjects in the vault; 0 if it is missing or damaged.
    pub subjects: u64,
    /// Number of data subjects that the entries name.
    pub named: u64,
    /// Whether every key and identity was opened, with the key-encryption key.
    pub opened: bool,
    /// An unfinished write at the end. Not damage.
    pub torn_tail: Option<TornTail>,
    /// Whether the vault is intact, and holds every data subject that is named.
    pub agrees: bool,
    /// The first fault.
    #[serde(rename = "what")]
    pub fault: Option<String>,
}

impl VaultCompared {
    /// Verifies the vault of a data directory. None if there is none and no entry needs one.
    pub fn of(
        data_dir: &Path,
        opened: Option<&LedgerOpened>,
        named: NamedSubjects,
        kek: Option<&KekFile>,
    ) -> Option<Self> {
        let dir = data_dir.join(vault::DIR);
        let count = named.len() as u64;
        // A folder that can not be listed is reported by the inspection.
        let is_there = holds_segments(&RealDisk, &dir).unwrap_or(true);
        if !is_there && named.is_empty() {
            return None;
        }
        let fault = |fault: String| Self {
            subjects: 0,
            named: count,
            opened: false,
            torn_tail: None,
            agrees: false,
            fault: Some(fault),
        };
        if !is_there {
            let problem = format!(
                "it is missing, and the entries name {count} data subjects; --ledger-only verifies a \
                 copy that has none"
            );
            return Some(fault(problem));
        }
        let mut missing = named;
        let key = kek.map(|file| &file.kek);
        let inspected = vault::inspect(&RealDisk, &dir, key, &mut |subject| {
            missing.remove(&subject);
        });
        let is_foreign = |id| opened.is_some_and(|opened| opened.ledger_id != id);
        let inspected = match inspected {
            Ok(inspected) => inspected,
            // Another ledger's vault has another key, too.
            Err(VaultError::WrongKey) if vault_id(&dir).is_some_and(is_foreign) => {
                return Some(fault(FOREIGN.to_owned()));
            }
            Err(error) => return Some(fault(problem(&error))),
        };
        let foreign = is_foreign(inspected.ledger_id);
        let lost = missing.values().min();
        let fault = match (foreign, lost) {
            (true, _) => Some(FOREIGN.to_owned()),
            (false, Some(first)) => Some(format!(
                "it lacks {} of the data subjects that the entries name, the first of them in entry \
                 {first}: it has lost data, or is older than the ledger",
                missing.len()
            )),
            (false, None) => {
                let origin = opened.map(|opened| opened.origin.as_str());
                kek.and_then(|file| unnamed(file, inspected.ledger_id, origin))
            }
        };
        Some(Self {
            subjects: inspected.subjects,
            named: count,
            opened: kek.is_some(),
            torn_tail: inspected.torn.map(TornTail::from),
            agrees: fault.is_none(),
            fault,
        })
    }
}

const FOREIGN: &str = "it is of another ledger than the entries";

/// The ledger that a vault belongs to.
fn vault_id(dir: &Path) -> Option<[u8; 16]> {
    vault::id_of(&RealDisk, dir).ok().flatten()
}

/// The fault of a key-encryption key's file that names only other ledgers. Without any name, the file was
/// read-only when the ledger was made, or the key did not come from a file.
fn unnamed(file: &KekFile, ledger_id: [u8; 16], origin: Option<&str>) -> Option<String> {
    let is_this = |note: &LedgerNote| {
        note.id == ledger_id && origin.is_none_or(|origin| origin == note.origin)
    };
    let is_named = file.ledgers.iter().any(is_this);
    (!is_named && !file.ledgers.is_empty()).then(|| {
        "the file of the key-encryption key opens it, and names other ledgers only: it was changed, \
         or the line of this ledger is missing"
            .to_owned()
    })
}

/// The fault, for people. A log names itself when it is damaged.
fn problem(error: &VaultError) -> String {
    match error {
        VaultError::Log(error) => error.to_string(),
        VaultError::WrongKey => {
            "it was sealed with another key-encryption key than the given one".to_owned()
        }
        error => error.to_string(),
    }
}
