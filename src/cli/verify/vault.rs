//! The vault on disk, and whether it has the keys of the ledger's entries.
//!
//! It is read after the entries: a data subject is in the vault before the first entry about it.

use std::{ops::ControlFlow, path::Path};

use serde::Serialize;

use crate::{
    cli::offline::{Damage, TornTail},
    domain::LedgerOpened,
    entry::EntryError,
    fold::CatalogAt,
    format::error::OpenError,
    ledger::{self, verify::Good},
    opener::Offline,
    storage::{disk::RealDisk, holds_segments},
    vault::{self, Inspected, KekFile, LedgerNote, People, VaultError},
};

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VaultCompared {
    /// Number of data subjects in the vault; 0 if it is missing or damaged.
    pub subjects: u64,
    /// Number of data subjects without an entry; `null` if the vault was not opened. A crash can leave some,
    /// and so can a ledger that lost its last entries.
    pub without_entry: Option<u64>,
    /// Whether all of it was opened with the key-encryption key, and the entries with its keys.
    pub opened: bool,
    /// An unfinished write at the end. Not damage.
    pub torn_tail: Option<TornTail>,
    /// Whether the vault is intact, and nothing that was opened is wrong.
    pub agrees: bool,
    /// The first fault.
    #[serde(rename = "what")]
    pub fault: Option<String>,
}

/// What a vault shows.
#[derive(Debug, Default)]
pub struct Shown {
    /// Of itself; none if there is none and no entry needs one.
    pub vault: Option<VaultCompared>,
    /// The first entry that the ledger has not written, by the ledger's secret.
    pub forged: Option<Damage>,
}

impl Shown {
    /// Verifies the vault of a data directory whose entries are good, and with its keys the entries.
    pub fn by(data_dir: &Path, good: &Good, kek: Option<&KekFile>) -> Self {
        let mut forged = None;
        let vault = VaultCompared::of(data_dir, good, kek, &mut forged);
        Self { vault, forged }
    }
}

impl VaultCompared {
    fn of(
        data_dir: &Path,
        good: &Good,
        kek: Option<&KekFile>,
        forged: &mut Option<Damage>,
    ) -> Option<Self> {
        let dir = data_dir.join(vault::DIR);
        // A folder that can not be listed is reported by the inspection.
        let is_there = holds_segments(&RealDisk, &dir).unwrap_or(true);
        let fault = |fault: String| Self {
            subjects: 0,
            without_entry: None,
            opened: false,
            torn_tail: None,
            agrees: false,
            fault: Some(fault),
        };
        let named = good.of_persons;
        match (is_there, named.entries) {
            (true, _) => {}
            (false, 0) => return None,
            (false, count) => {
                let problem = format!(
                    "it is missing, and {count} entries are about data subjects; --ledger-only verifies \
                     a copy that has none"
                );
                return Some(fault(problem));
            }
        }
        let read = match kek {
            None => vault::inspect(&RealDisk, &dir).map(|inspected| (inspected, None)),
            Some(file) => People::read(&RealDisk, &dir, &file.kek).map(|mut people| {
                let subjects = people.persons.len() as u64;
                let (ledger_id, torn) = (people.ledger_id, people.torn.take());
                (Inspected { ledger_id, subjects, torn }, Some((file, people)))
            }),
        };
        let opened = good.opened.as_ref();
        let is_foreign = |id| opened.is_some_and(|opened| opened.ledger_id != id);
        let (inspected, people) = match read {
            Ok(read) => read,
            // Another ledger's vault has another key, too.
            Err(VaultError::WrongKey) if vault_id(&dir).is_some_and(is_foreign) => {
                return Some(fault(FOREIGN.to_owned()));
            }
            Err(error) => return Some(fault(problem(&error))),
        };
        let was_opened = people.is_some();
        let mut without_entry = None;
        let fault = match (is_foreign(inspected.ledger_id), people) {
            (true, _) => Some(FOREIGN.to_owned()),
            (false, None) if inspected.subjects < named.persons_min => Some(format!(
                "it has {} data subjects, and the entries are about {} or more: it has lost data, or is \
                 older than the ledger",
                inspected.subjects, named.persons_min
            )),
            (false, None) => None,
            (false, Some((file, people))) => {
                let ledger_dir = data_dir.join(ledger::DIR);
                match open_all(&ledger_dir, good.tip.next_index, people) {
                    Ok(opener) => {
                        without_entry = Some(opener.without_entry());
                        unnamed(file, inspected.ledger_id, opened)
                    }
                    Err(Fault::OfVault(fault)) => Some(fault),
                    Err(Fault::Forged(damage)) => {
                        *forged = Some(damage);
                        None
                    }
                }
            }
        };
        Some(Self {
            subjects: inspected.subjects,
            without_entry,
            opened: was_opened,
            torn_tail: inspected.torn.map(TornTail::from),
            agrees: fault.is_none(),
            fault,
        })
    }
}

/// Why the first entry that does not open does not.
enum Fault {
    OfVault(String),
    Forged(Damage),
}

/// Opens all good entries with the keys of a vault. The error is the fault of the first that does not open.
fn open_all(dir: &Path, entries: u64, people: People) -> Result<Offline, Fault> {
    let (opener, mut catalog) = (Offline::new(people), CatalogAt::default());
    let mut fault = None;
    // Damage behind the good entries is reported elsewhere.
    let _ = ledger::verify::verify_before(
        &RealDisk,
        dir,
        entries,
        &mut |entry, frame| match opener.open(entry, &catalog.catalog) {
            Ok(opened) => {
                catalog.fold(opened.entry.fact());
                ControlFlow::Continue(())
            }
            Err(EntryError::NoKey { .. }) => {
                let index = entry.index;
                fault = Some(Fault::OfVault(format!(
                    "it lacks the keys of entry {index}: it has lost data, or is older than the ledger"
                )));
                ControlFlow::Break(())
            }
            Err(EntryError::Open(error @ OpenError::Mac { index })) => {
                let (segment, offset, what) =
                    (frame.segment.to_owned(), frame.offset, error.to_string());
                fault = Some(Fault::Forged(Damage { segment, offset, index, what }));
                ControlFlow::Break(())
            }
            Err(error) => {
                let index = entry.index;
                let problem = format!("entry {index} does not open with its keys: {error}");
                fault = Some(Fault::OfVault(problem));
                ControlFlow::Break(())
            }
        },
    );
    fault.map_or(Ok(opener), Err)
}

const FOREIGN: &str = "it is of another ledger than the entries";

/// The ledger that a vault belongs to.
fn vault_id(dir: &Path) -> Option<[u8; 16]> {
    vault::id_of(&RealDisk, dir).ok().flatten()
}

/// The fault of a key-encryption key's file that names only other ledgers. Without any name, the file was
/// read-only when the ledger was made, or the key did not come from a file.
fn unnamed(file: &KekFile, ledger_id: [u8; 16], opened: Option<&LedgerOpened>) -> Option<String> {
    let origin = opened.map(|opened| opened.origin.as_str());
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
