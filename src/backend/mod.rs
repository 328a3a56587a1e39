//! The contract of a log that cannot fork, and its implementations.

mod local;

pub use local::{LocalLog, Opened};
use thiserror::Error;
use tokio::sync::watch;

use crate::{ledger::ChainError, storage::LogError};

/// The ledger's entries, in order.
///
/// Every implementation promises:
/// * `append` is a compare-and-set on the number of entries: of two writers that append at the same
///   index, one succeeds and the other gets [`Appended::Lost`]. The chain cannot fork.
/// * A batch that was appended is on stable storage, whole and in order, before `append` returns.
/// * `append` resolves a lost answer by reading back, and never returns an uncertain result. If it cannot
///   find out, it fails, and nothing more is appended until restart.
/// * `read` gives exactly the bytes that were appended, or an error.
pub trait LogBackend: std::fmt::Debug + Send + Sync {
    /// Appends entries at `expected_index`, the number of entries that the caller knows of.
    ///
    /// # Errors
    /// The log can not be written, now and until restart.
    fn append(&self, expected_index: u64, entries: &[Vec<u8>]) -> Result<Appended, BackendError>;

    /// Entries from `start` to before `end`: about `bytes_max` bytes, and at least one entry if the range
    /// has one.
    ///
    /// # Errors
    /// The log can not be read, or is damaged.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Vec<u8>>, BackendError>;

    /// The number of entries.
    fn head(&self) -> u64;

    /// Follows the head.
    fn tail(&self) -> watch::Receiver<u64>;

    /// Bytes on stable storage.
    fn size_bytes(&self) -> u64;
}

/// The result of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The batch was appended.
    Landed,
    /// Another writer appended first; nothing of the batch was written.
    Lost {
        /// The number of entries now.
        head: u64,
    },
}

/// A failure of the log.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The files failed or are damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An entry is intact, but does not continue the chain.
    #[error("ledger entry {index}: {problem}")]
    Chain {
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        problem: ChainError,
    },
}
