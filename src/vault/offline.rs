//! A vault that is read from its files without an index, also while a server runs on them.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use super::{FRAME_BYTES_MAX, Kek, LOG_KIND, VaultError, person};
use crate::{
    format::{
        keys::ledger::{ConfidentialRoot, LedgerSecret},
        vault::{self as format, Distinct, Vault as Chain},
    },
    ledger::sealed::Person,
    storage::{FrameAt, LogError, ScanEnd, TornTail, disk::Disk, scan},
};

/// The subjects of a vault.
#[derive(Debug)]
pub struct People {
    /// The ledger that the vault belongs to.
    pub ledger_id: [u8; 16],
    /// The ledger's secret.
    pub secret: LedgerSecret,
    /// The keys of what is confidential and names nobody.
    pub confidential: ConfidentialRoot,
    /// In the order in which they came.
    pub persons: Vec<Arc<Person>>,
    /// An unfinished write at the end.
    pub torn: Option<TornTail>,
}

/// The facts about a vault whose frames have their form. Nothing of it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The ledger that the vault belongs to.
    pub ledger_id: [u8; 16],
    /// Number of data subjects, with the erased ones.
    pub subjects: u64,
    /// An unfinished write at the end.
    pub torn: Option<TornTail>,
}

impl People {
    /// Reads and opens the vault in `dir`: every frame continues the one before, and no data subject comes
    /// twice. Changes nothing.
    ///
    /// # Errors
    /// The files can not be read or are damaged, or the key is another one.
    pub fn read(disk: &dyn Disk, dir: &Path, kek: &Kek) -> Result<Self, VaultError> {
        let (mut chain, mut persons, mut distinct) = (None, Vec::new(), Distinct::default());
        let mut take = |frame: &FrameAt<'_>| -> Result<(), VaultError> {
            let Some(chain) = &mut chain else {
                let ledger_id = format::ledger_of(frame.payload)?;
                chain = Some(Chain::open(ledger_id, kek.key(), frame.payload)?);
                return Ok(());
            };
            let (id, content) = chain.follow(frame.payload)?;
            distinct.meet(chain.secrets(), frame.index, id, &content)?;
            persons.extend(person(id, content)?.map(Arc::new));
            Ok(())
        };
        let end = walk(disk, dir, &mut take)?;
        let chain = chain.ok_or_else(|| LogError::NoSegment(dir.to_owned()))?;
        let ledger_id = *chain.ledger_id();
        check_ledger(dir, ledger_id, &end)?;
        let secret = chain.secrets().ledger.clone();
        let confidential = secret.confidential();
        Ok(Self { ledger_id, secret, confidential, persons, torn: end.torn })
    }
}

/// Verifies the segments in `dir` without any key: checksums, the order and form of the frames, and the
/// ledger that they belong to.
///
/// # Errors
/// The first damage, named by segment, offset and frame.
pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Inspected, VaultError> {
    let (mut first, mut generation) = (None, None);
    let end = walk(disk, dir, &mut |frame| {
        let found = format::check_form(frame.index, frame.payload)?;
        let want = *generation.get_or_insert(found);
        if found != want {
            let number = frame.index;
            return Err(format::VaultError::Generation { number, want, got: found }.into());
        }
        if frame.index == 0 {
            first = Some(format::ledger_of(frame.payload)?);
        }
        Ok(())
    })?;
    let ledger_id = first.ok_or_else(|| LogError::NoSegment(dir.to_owned()))?;
    check_ledger(dir, ledger_id, &end)?;
    Ok(Inspected { ledger_id, subjects: end.frames.saturating_sub(1), torn: end.torn })
}

/// Walks over all frames. A frame that is refused is damage, at its place.
fn walk(
    disk: &dyn Disk,
    dir: &Path,
    take: &mut dyn FnMut(&FrameAt<'_>) -> Result<(), VaultError>,
) -> Result<ScanEnd, VaultError> {
    let mut wrong_key = false;
    let walked = scan(disk, dir, LOG_KIND, FRAME_BYTES_MAX, 0, &mut |frame| match take(&frame) {
        Ok(()) => ControlFlow::Continue(()),
        Err(problem) => {
            wrong_key = matches!(problem, VaultError::WrongKey);
            ControlFlow::Break(problem.to_string())
        }
    });
    match walked {
        Err(_) if wrong_key => Err(VaultError::WrongKey),
        walked => Ok(walked?),
    }
}

/// The sums of the frames contain the id of the segments.
fn check_ledger(dir: &Path, ledger_id: [u8; 16], end: &ScanEnd) -> Result<(), VaultError> {
    if ledger_id == end.id {
        return Ok(());
    }
    let problem = "its first frame opens the vault of another ledger".to_owned();
    Err(LogError::Foreign { path: dir.to_owned(), problem }.into())
}
