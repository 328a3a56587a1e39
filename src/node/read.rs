//! Reading the ledger as it is: up to which revision, entry by entry; and every way in which a
//! question has no answer.

use thiserror::Error;
use tokio::time::timeout;

use super::{Core, Node, WriteError};
use crate::{
    backend::BackendError,
    domain::{Entry, Key, Millis},
    ledger::{
        chain,
        entry::{self, EntryError},
    },
    vault::VaultError,
    view::ViewError,
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

/// Why a question has no answer. The caller must act as if the answer were no.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The node did not reach the revision in time.
    #[error("revision {wanted} was not reached in time, the node is at {reached}")]
    RevisionNotReached {
        /// The revision asked for.
        wanted: u64,
        /// The revision that the node is at.
        reached: u64,
    },
    /// The index lies beyond the head.
    #[error("index {index} lies beyond the head of the ledger, which is {head}")]
    IndexOutOfRange {
        /// The index asked for.
        index: u64,
        /// The number of entries.
        head: u64,
    },
    /// A moment in the past that has not come.
    #[error("as_of must not lie in the future")]
    AsOfInFuture,
    /// No checkpoint of that size was released in time.
    #[error("no checkpoint of {wanted} entries was released in time, the latest is of {reached}")]
    CheckpointNotReached {
        /// The number of entries asked for.
        wanted: u64,
        /// The number of entries of the latest released checkpoint; 0 if there is none.
        reached: u64,
    },
    /// A tree that is larger than the latest checkpoint, or an index that is not in it.
    #[error("{what} {wanted} lies beyond the latest checkpoint, which is of {size} entries")]
    BeyondCheckpoint {
        /// What was asked for: a size or an index.
        what: &'static str,
        /// Its value.
        wanted: u64,
        /// Number of entries of the checkpoint, or of the tree that was asked about.
        size: u64,
    },
    /// No act was recorded with this idempotency key, or it is another data subject's.
    #[error("no such act is on record, or it is another data subject's")]
    ActUnknown,
    /// The entry is no act of consent.
    #[error("entry {index} is no act of consent, so there is no receipt of it")]
    NotAnAct {
        /// Index of the entry.
        index: u64,
    },
    /// The receipt would be longer than any verifier takes.
    #[error("the receipt would have {bytes} bytes, the limit is {limit}")]
    ReceiptTooLong {
        /// How long it would be.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// There is no subscription of this name.
    #[error("there is no subscription `{name}`")]
    SubscriptionNotFound {
        /// The name.
        name: String,
    },
    /// The subscription is consumed, not delivered by HTTP.
    #[error("subscription `{name}` is consumed, not delivered by HTTP")]
    NotWebhook {
        /// The name.
        name: Key,
    },
    /// A token is none of this snapshot.
    #[error("the token is not one of this snapshot")]
    SnapshotToken,
    /// Stored state could not be read.
    #[error("stored state could not be read: {0}")]
    StateUnreadable(String),
}

/// Names each fault that makes stored state unreadable.
macro_rules! unreadable {
    ($($error:ty),+) => {
        $(impl From<$error> for ReadError {
            fn from(error: $error) -> Self {
                Self::StateUnreadable(error.to_string())
            }
        })+
    };
}

unreadable!(ViewError, VaultError, BackendError, EntryError);

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        Self::StateUnreadable(error.to_string())
    }
}

impl Node {
    /// Number of entries that every answer takes into account.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.core.view.applied()
    }

    /// Waits until the node is at `revision`, for as long as the configuration allows.
    ///
    /// # Errors
    /// [`ReadError::RevisionNotReached`].
    pub async fn reach(&self, revision: Option<u64>) -> Result<(), ReadError> {
        let Some(wanted) = revision.filter(|&wanted| wanted > self.revision()) else {
            return Ok(());
        };
        let mut applied = self.core.view.applied_changes();
        let reached = timeout(self.revision_wait, applied.wait_for(|&applied| applied >= wanted));
        if let Ok(Ok(_)) = reached.await {
            return Ok(());
        }
        Err(ReadError::RevisionNotReached { wanted, reached: self.revision() })
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
        self.core.checkpoint()
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
    /// The moment at which questions are decided: the machine's now, but never before the last
    /// entry. A clock that is set back does not bring expired grants back.
    pub(super) fn now(&self) -> Millis {
        Millis::now().max(self.writes.recorded_at())
    }

    /// Size and chain hash of the ledger. Blocking.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, ReadError> {
        let size = self.view.applied();
        let bytes = self.entry_bytes(size.saturating_sub(1))?;
        Ok(Checkpoint {
            origin: self.ledger.origin.clone(),
            ledger_id: self.ledger.ledger_id,
            size,
            chain_hash: chain::hash(&bytes),
            recorded_at: entry::decode(&bytes)?.recorded_at,
        })
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
        Ok(entry::decode(&self.entry_bytes(index)?)?)
    }

    pub(super) fn entry_bytes(&self, index: u64) -> Result<Vec<u8>, ReadError> {
        let mut entries = self.backend.read(index, index + 1, READ_BYTES)?;
        entries.pop().ok_or(ReadError::IndexOutOfRange { index, head: self.view.applied() })
    }
}
