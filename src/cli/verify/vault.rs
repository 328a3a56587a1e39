//! The vault on disk, compared with the data subjects that the ledger's entries name.
//!
//! It is read after the entries: a data subject is in the vault before the first entry that names it.

use std::{collections::HashMap, path::Path};

use serde::Serialize;

use crate::{
    domain::SubjectRef,
    storage::{disk::RealDisk, holds_segments},
    vault::{self, Kek, VaultError},
};

/// The data subjects that entries name, with the first entry of each.
pub type NamedSubjects = HashMap<SubjectRef, u64>;

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VaultCompared {
    /// Number of data subjects in the vault; 0 if it is missing or damaged.
    pub subjects: u64,
    /// Number of data subjects that the entries name.
    pub named: u64,
    /// Whether every key and identity was opened, with the key-encryption key.
    pub opened: bool,
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
        ledger_id: Option<[u8; 16]>,
        named: NamedSubjects,
        kek: Option<&Kek>,
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
        let inspected = vault::inspect(&RealDisk, &dir, kek, &mut |subject| {
            missing.remove(&subject);
        });
        let inspected = match inspected {
            Ok(inspected) => inspected,
            Err(error) => return Some(fault(problem(&error))),
        };
        let foreign = ledger_id.is_some_and(|id| id != inspected.ledger_id);
        let lost = missing.values().min();
        let fault = match (foreign, lost) {
            (true, _) => Some("it is of another ledger".to_owned()),
            (false, Some(first)) => Some(format!(
                "it lacks {} of the data subjects that the entries name, the first of them in entry \
                 {first}: it has lost data, or is older than the ledger",
                missing.len()
            )),
            (false, None) => None,
        };
        Some(Self {
            subjects: inspected.subjects,
            named: count,
            opened: kek.is_some(),
            agrees: fault.is_none(),
            fault,
        })
    }
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
