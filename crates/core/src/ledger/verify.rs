//! Verification of a ledger's files. It needs no server and no keys, and may run while a writer
//! runs. What entries say of data subjects stays sealed.
//!
//! It reads every byte once and changes nothing. It proves that the files hold one unbroken chain.
//! To prove that the whole chain was not replaced takes a checkpoint of an outside witness, which
//! is compared with the roots of the tree over the entries (`audit`).

mod audit;
mod bundle;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use self::{
    audit::{Audited, Good, TakeHash, Wanted, audit, workers},
    bundle::audit_bundle,
};
use super::{ENTRY_BYTES_MAX, LOG_KIND, Tip};
use crate::{
    domain::{LedgerOpened, Millis},
    format::entry::{Body, Entry},
    storage::{FrameAt, LogError, ScanEnd, TornTail, disk::Disk, scan},
};

/// The facts about an intact ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the ledger.
    pub origin: String,
    /// Identity of the ledger.
    pub ledger_id: [u8; 16],
    /// Number of entries.
    pub entries: u64,
    /// Bytes in all segments.
    pub bytes: u64,
    /// Hash of the last entry.
    pub chain_hash: [u8; 32],
    /// When the last entry was recorded, in whole seconds.
    pub recorded_at: Millis,
    /// Bytes after the last whole frame: a write under way, or one that a crash cut off.
    pub torn: Option<TornTail>,
}

/// Why a ledger could not be verified.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// There is no ledger.
    #[error("there is no ledger in {0}")]
    NoLedger(PathBuf),
    /// Damage, or files that can not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A bundle does not begin with entry 0.
    #[error("{name} begins with entry {index}, and only a file from entry 0 on can be verified")]
    Beginning {
        /// The file.
        name: String,
        /// Its first entry.
        index: u64,
    },
}

/// Verifies the segments in `dir`. `visit` sees every entry, in order.
///
/// # Errors
/// The first damage, named by segment, offset and index.
pub fn verify(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(&Entry, &FrameAt<'_>),
) -> Result<Report, VerifyError> {
    let mut walk = Walk::new();
    let end = walk.over(disk, dir, &mut |entry, frame| {
        visit(entry, frame);
        ControlFlow::Continue(())
    })?;
    let Some(end) = end else { return Err(VerifyError::NoLedger(dir.to_owned())) };
    Report::of(dir, walk.opened, walk.tip, end)
}

impl Report {
    /// The report of a walk over the whole ledger.
    fn of(
        dir: &Path,
        opened: Option<LedgerOpened>,
        tip: Tip,
        end: ScanEnd,
    ) -> Result<Self, VerifyError> {
        let Some(opened) = opened else { return Err(VerifyError::NoLedger(dir.to_owned())) };
        check_identity(dir, &opened, &end)?;
        Ok(Self {
            origin: opened.origin,
            ledger_id: opened.ledger_id,
            entries: end.frames,
            bytes: end.bytes,
            chain_hash: tip.hash,
            recorded_at: Millis(tip.recorded_at_s.saturating_mul(1_000)),
            torn: end.torn,
        })
    }
}

/// Verifies only the entries before `end`. `visit` may stop the walk. Returns the index that it
/// reached.
///
/// # Errors
/// The first damage, named by segment, offset and index.
pub fn verify_before(
    disk: &dyn Disk,
    dir: &Path,
    end: u64,
    visit: &mut dyn FnMut(&Entry, &FrameAt<'_>) -> ControlFlow<()>,
) -> Result<u64, VerifyError> {
    if end == 0 {
        return Ok(0);
    }
    let mut walk = Walk::new();
    walk.over(disk, dir, &mut |entry, frame| {
        visit(entry, frame)?;
        if entry.index + 1 < end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(walk.tip.next_index)
}

/// Refuses segments of another ledger than their first entry opens.
fn check_identity(dir: &Path, opened: &LedgerOpened, end: &ScanEnd) -> Result<(), VerifyError> {
    if opened.ledger_id == end.id {
        return Ok(());
    }
    let problem = "its first entry opens another ledger".to_owned();
    Err(LogError::Foreign { path: dir.to_owned(), problem }.into())
}

/// How an entry opens the ledger, if it is entry 0.
fn opened(entry: &Entry) -> Option<LedgerOpened> {
    match &entry.body {
        Body::Opened(opened) => LedgerOpened::try_from(opened).ok(),
        _ => None,
    }
}

/// What entries show of data subjects to who has no key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfPersons {
    /// Number of entries that have tags of data subjects.
    pub entries: u64,
    /// The least number of data subjects whose tags they can be: an entry names nobody twice.
    pub persons_min: u64,
}

impl OfPersons {
    fn of(entry: &Entry) -> Self {
        let named = match &entry.body {
            Body::Persons(persons) => persons.slots.len() as u64,
            // Some of its tags stand for nobody.
            Body::Uses(_) => 1,
            _ => 0,
        };
        Self { entries: named.min(1), persons_min: named }
    }

    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.persons_min = self.persons_min.max(other.persons_min);
    }
}

/// A walk along the chain.
struct Walk {
    tip: Tip,
    opened: Option<LedgerOpened>,
    stopped: bool,
}

impl Walk {
    fn new() -> Self {
        Self { tip: Tip::genesis(), opened: None, stopped: false }
    }

    /// Walks over all segments; returns none if `visit` stopped the walk.
    fn over(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        visit: &mut dyn FnMut(&Entry, &FrameAt<'_>) -> ControlFlow<()>,
    ) -> Result<Option<ScanEnd>, VerifyError> {
        let frame_bytes_max = u32::try_from(ENTRY_BYTES_MAX).unwrap_or(u32::MAX);
        let walked = scan(disk, dir, LOG_KIND, frame_bytes_max, 0, &mut |frame| {
            let (entry, next) = match self.tip.follow(frame.payload) {
                Ok(followed) => followed,
                Err(problem) => return ControlFlow::Break(problem.to_string()),
            };
            if let Some(opened) = opened(&entry) {
                self.opened = Some(opened);
            }
            self.tip = next;
            visit(&entry, &frame).map_break(|()| {
                self.stopped = true;
                String::new()
            })
        });
        match walked {
            Err(_) if self.stopped => Ok(None),
            Ok(end) => {
                self.opened.iter().try_for_each(|opened| check_identity(dir, opened, &end))?;
                Ok(Some(end))
            }
            Err(LogError::NoSegment(dir)) => Err(VerifyError::NoLedger(dir)),
            Err(error) => Err(error.into()),
        }
    }
}
