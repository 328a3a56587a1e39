//! What a data directory holds: looked at without a lock and without changes, before anything in it is
//! opened. A directory without a ledger is a lost mount until somebody says otherwise with `init`.

use std::{collections::BTreeSet, fmt, fs, io, ops::ControlFlow, path::Path, str::FromStr};

use thiserror::Error;

use super::{KEK_FILE, NodeConfig, OpenError, VIEW_DIR, open::LOCK_FILE};
use crate::{
    backend::BackendError,
    domain::LedgerOpened,
    entry::EntryError,
    format::entry::{Body, Entry},
    ledger::{self, ChainError, ENTRY_BYTES_MAX, Tip},
    storage::{AtPath as _, FileError, LogError, disk::Disk, holds_segments, if_exists, scan},
    tlog::{hex, unhex},
    tree,
    vault::{self, VaultError},
};

/// Name of the file that stands in a data directory until `init` has finished.
pub const UNFINISHED_FILE: &str = "init-unfinished";

/// Names that stand in a directory although nobody has put anything into it.
const NOTHING: [&str; 2] = [LOCK_FILE, "lost+found"];

/// Files and folders of a ledger.
const PARTS: [&str; 7] =
    [ledger::DIR, vault::DIR, VIEW_DIR, tree::DIR, tree::BOOK_FILE, KEK_FILE, tree::KEY_FILE];

/// Identity of a ledger: 16 bytes, random, in entry 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerId(pub [u8; 16]);

/// The text is not the identity of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the id of a ledger has 16 bytes: 32 hexadecimal digits, as `init` and `serve` print it, or base64, \
     as they do with --json"
)]
pub struct LedgerIdError;

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for LedgerId {
    type Err = LedgerIdError;

    fn from_str(text: &str) -> Result<Self, LedgerIdError> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        let bytes = match text.len() {
            32 => unhex(text),
            _ => BASE64_STANDARD.decode(text).ok(),
        };
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(LedgerIdError)
    }
}

/// Why a data directory has no ledger to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// There is no such directory.
    NoDirectory,
    /// The directory is empty.
    Empty,
    /// `init` was stopped before the ledger was complete.
    Unfinished,
    /// Ledger and vault are gone; these files and folders of a ledger are left.
    Remains(Vec<String>),
    /// There are other files, and none of a ledger.
    Others(Vec<String>),
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOUNTED: &str = "If a ledger should be there, mount its disk or restore a backup";
        match self {
            Self::NoDirectory => write!(f, "the directory does not exist. {MOUNTED}"),
            Self::Empty => write!(f, "the directory is empty. {MOUNTED}"),
            Self::Unfinished => f.write_str(
                "`consent-ledger init` was stopped before the ledger was complete: run it again",
            ),
            Self::Remains(names) => write!(
                f,
                "neither ledger nor vault is there, only {}. If a ledger was there, mount the disk that \
                 has the rest, or restore a backup",
                names.join(", ")
            ),
            Self::Others(names) => {
                write!(f, "it holds no ledger, but {}. {MOUNTED}", listed(names))
            }
        }
    }
}

/// How many names an error lists.
const NAMES_MAX: usize = 5;

/// The first names of a list, and how many more there are.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The ledger of a data directory, as entry 0 names it, if it is the one that the configuration expects.
///
/// # Errors
/// There is no ledger, a half of it is missing, it is another one, or it can not be read.
pub fn survey(config: &NodeConfig, disk: &dyn Disk) -> Result<LedgerOpened, OpenError> {
    let dir = &config.data_dir;
    let absent = |absence| OpenError::NoLedger { dir: dir.clone(), absence };
    let names = names(dir)?.ok_or_else(|| absent(Absence::NoDirectory))?;
    if is_unfinished(dir, disk)? {
        return Err(absent(Absence::Unfinished));
    }
    let [ledger_dir, vault_dir] = [ledger::DIR, vault::DIR].map(|name| dir.join(name));
    let has_ledger = holds_segments(disk, &ledger_dir).map_err(BackendError::from)?;
    let has_vault = holds_segments(disk, &vault_dir).map_err(VaultError::from)?;
    match (has_ledger, has_vault) {
        (true, true) => {}
        (true, false) => {
            return Err(OpenError::Half { missing: vault_dir, present: ledger_dir });
        }
        (false, true) => {
            return Err(OpenError::Half { missing: ledger_dir, present: vault_dir });
        }
        (false, false) => return Err(absent(without_stores(names))),
    }
    let opened = first_entry(disk, &ledger_dir)?;
    let found = LedgerId(opened.ledger_id);
    if let Some(expected) = config.expect_ledger.filter(|expected| *expected != found) {
        return Err(OpenError::OtherLedger { dir: dir.clone(), found, expected });
    }
    if let Some(expected) = config.origin.clone().filter(|expected| *expected != opened.origin) {
        return Err(OpenError::OtherOrigin { dir: dir.clone(), found: opened.origin, expected });
    }
    Ok(opened)
}

/// What a directory holds that has neither a ledger nor a vault.
pub(super) fn without_stores(names: BTreeSet<String>) -> Absence {
    let (parts, others): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|name| PARTS.contains(&name.as_str()));
    match (parts.is_empty(), others.is_empty()) {
        (false, _) => Absence::Remains(parts),
        (true, false) => Absence::Others(others),
        (true, true) => Absence::Empty,
    }
}

/// Names in a data directory that somebody has put there; none if there is no such directory.
pub(super) fn names(dir: &Path) -> Result<Option<BTreeSet<String>>, OpenError> {
    let entries = match if_exists(fs::read_dir(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(OpenError::NotADirectory(dir.to_owned()));
        }
        entries => entries.at(dir)?,
    };
    let Some(entries) = entries else { return Ok(None) };
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let names: io::Result<BTreeSet<String>> = entries.map(name).collect();
    let mut names = names.at(dir)?;
    names.retain(|name| !NOTHING.contains(&name.as_str()));
    Ok(Some(names))
}

/// Whether `init` has begun to make a ledger in a directory and has not finished.
pub(super) fn is_unfinished(dir: &Path, disk: &dyn Disk) -> Result<bool, FileError> {
    let path = dir.join(UNFINISHED_FILE);
    Ok(if_exists(disk.open_read(&path)).at(&path)?.is_some())
}

/// Entry 0 of a ledger. Reads no more than it needs.
pub(super) fn first_entry(disk: &dyn Disk, ledger_dir: &Path) -> Result<LedgerOpened, OpenError> {
    let mut first = None;
    let frame_bytes_max = u32::try_from(ENTRY_BYTES_MAX).unwrap_or(u32::MAX);
    let mut take = |frame: crate::storage::FrameAt<'_>| {
        first = Some(frame.payload.to_vec());
        ControlFlow::Break(String::new())
    };
    let scanned = scan(disk, ledger_dir, ledger::LOG_KIND, frame_bytes_max, 0, &mut take);
    let bytes = match (first, scanned) {
        (Some(bytes), _) => bytes,
        // Another process may have cut the log between two looks.
        (None, Err(LogError::NoSegment(_)) | Ok(_)) => {
            return Err(OpenError::NoEntry(ledger_dir.to_owned()));
        }
        (None, Err(error)) => return Err(BackendError::from(error).into()),
    };
    let broken = |problem: ChainError| match problem {
        ChainError::Format(found) => OpenError::Format { dir: ledger_dir.to_owned(), found },
        problem => BackendError::Chain { index: 0, problem }.into(),
    };
    let malformed = |problem| OpenError::Entry { index: 0, problem };
    match Tip::genesis().follow(&bytes).map_err(broken)? {
        (Entry { body: Body::Opened(opened), .. }, _) => (&opened).try_into().map_err(malformed),
        (entry, _) => Err(malformed(EntryError::Kind(entry.body.noun()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_read_back_from_both_of_its_texts(bytes: [u8; 16]) {
            use base64::prelude::{BASE64_STANDARD, Engine as _};
            let id = LedgerId(bytes);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(BASE64_STANDARD.encode(bytes).parse(), Ok(id));
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        let digits = "0123456789abcdef".repeat(2);
        for bad in ["", "0", &digits[1..], &digits.replace('0', "g"), &"ä".repeat(16), "AAAA"] {
            assert_eq!(bad.parse::<LedgerId>(), Err(LedgerIdError), "{bad}");
        }
    }

    #[test]
    fn a_long_list_of_names_is_cut() {
        let names: Vec<String> = (0..7).map(|n| format!("f{n}")).collect();
        assert_eq!(listed(&names), "f0, f1, f2, f3, f4 and 2 more");
        assert_eq!(listed(&names[..2]), "f0, f1");
    }
}
