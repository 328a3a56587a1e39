//! Reading the ledger: its revision, its checkpoint and its entries.

use tokio::time::timeout;

use super::{Core, Node, ReadError, RevisionNotReached, open::is_in_clear};
use crate::{
    domain::{Entry, LedgerOpened, Millis},
    entry::EntryError,
    format::entry::Entry as SealedEntry,
    ledger::chain,
};

/// About how many bytes of entries are read for one answer.
const READ_BYTES: usize = 1 << 20;

/// Size and chain hash of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the ledger.
    pub origin: String,
    /// Identity of the ledger.
    pub ledger_id: [u8; 16],
    /// Number of entries.
    pub size: u64,
    /// `hash(size - 1)`.
    pub chain_hash: [u8; 32],
    /// When the last of these entries was recorded.
    pub recorded_at: Millis,
}

/// The times of a question. They differ only while the clock is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AskedAt {
    /// When it is decided: by the clock, trusted or not.
    pub(super) at: Millis,
    /// When its obligations must be met: by the sane time, because uses are recorded with it.
    pub(super) due_at: Millis,
}

impl AskedAt {
    /// A question about a moment in the past.
    pub(super) fn past(at: Millis) -> Self {
        Self { at, due_at: at }
    }
}

impl Node {
    /// Number of entries that every answer includes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.core.view.applied()
    }

    /// Waits until the node is at `revision`, within the configured time.
    ///
    /// # Errors
    /// [`RevisionNotReached`].
    pub async fn reach(&self, revision: Option<u64>) -> Result<(), RevisionNotReached> {
        let Some(wanted) = revision.filter(|&wanted| wanted > self.revision()) else {
            return Ok(());
        };
        let mut applied = self.core.view.applied_changes();
        let reached = timeout(self.revision_wait, applied.wait_for(|&applied| applied >= wanted));
        if let Ok(Ok(_)) = reached.await {
            return Ok(());
        }
        Err(RevisionNotReached { wanted, reached: self.revision() })
    }

    /// The content of entry 0: identity and name of the ledger.
    #[must_use]
    pub fn ledger(&self) -> &LedgerOpened {
        &self.core.ledger
    }

    /// Number of data subjects that the vault holds.
    #[must_use]
    pub fn subjects(&self) -> u64 {
        self.core.vault.subjects()
    }

    /// Size and chain hash of the ledger. Blocking.
    ///
    /// # Errors
    /// [`ReadError::StateUnreadable`].
    pub fn checkpoint(&self) -> Result<Checkpoint, ReadError> {
        let core = &self.core;
        let size = core.view.applied();
        let bytes = core.entry_bytes(size.saturating_sub(1))?;
        Ok(Checkpoint {
            origin: core.ledger.origin.clone(),
            ledger_id: core.ledger.ledger_id,
            size,
            chain_hash: chain::hash(&bytes),
            recorded_at: core.opener.entry(&bytes)?.recorded_at,
        })
    }

    /// The exact bytes of entries from `start` on, before `end`, as many as fit into about 1 MiB
    /// and at least one if there is one. Blocking.
    ///
    /// # Errors
    /// [`ReadError::IndexOutOfRange`] if `start` lies beyond the head.
    pub fn entries(&self, start: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
        self.core.entries(start, end)
    }
}

impl Core {
    /// The time for all that is written or signed: the clock while it is trusted, but never before the
    /// last entry.
    pub(super) fn now(&self) -> Millis {
        self.clock.read().sane.max(self.writes.recorded_at())
    }

    /// The time at which questions are decided: the clock, trusted or not, but never before the last
    /// entry. So a clock that is set back does not revive expired grants, and one in doubt allows
    /// nothing that has ended if it is right.
    pub(super) fn question_time(&self) -> Millis {
        self.asked_now().at
    }

    /// The times of a question that is asked now.
    pub(super) fn asked_now(&self) -> AskedAt {
        let (reading, last) = (self.clock.read(), self.writes.recorded_at());
        AskedAt { at: reading.claimed.max(last), due_at: reading.sane.max(last) }
    }

    /// The exact bytes of entries. Blocking.
    pub(super) fn entries(&self, start: u64, end: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
        let head = self.view.applied();
        if start > head {
            return Err(ReadError::IndexOutOfRange { index: start, head });
        }
        let end = end.min(head);
        if start >= end {
            return Ok(Vec::new());
        }
        Ok((start..).zip(self.backend.read(start, end, READ_BYTES)?).collect())
    }

    /// One entry. Blocking.
    pub(super) fn entry(&self, index: u64) -> Result<Entry, ReadError> {
        Ok(self.opener.entry(&self.entry_bytes(index)?)?)
    }

    /// When an entry was recorded. One in clear has whole seconds, so it counts as recorded with the entry
    /// before it in the same second. So these times never go back. Blocking.
    pub(super) fn recorded_at(&self, mut index: u64) -> Result<Millis, ReadError> {
        let second = self.second_of(index)?.0;
        loop {
            let (_, is_in_clear) = self.second_of(index)?;
            let Some(before) = index.checked_sub(1).filter(|_| is_in_clear) else { break };
            if self.second_of(before)?.0 < second {
                break;
            }
            index = before;
        }
        Ok(self.entry(index)?.recorded_at)
    }

    /// The second of an entry, and whether it has no milliseconds.
    fn second_of(&self, index: u64) -> Result<(i64, bool), ReadError> {
        let entry = SealedEntry::decode(&self.entry_bytes(index)?).map_err(EntryError::from)?;
        Ok((entry.recorded_at_s, is_in_clear(&entry.body)))
    }

    pub(super) fn entry_bytes(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        let mut entries = self.backend.read(index, index + 1, READ_BYTES)?;
        entries.pop().ok_or(ReadError::IndexOutOfRange { index, head: self.view.applied() })
    }
}
