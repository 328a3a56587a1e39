//! The contract of a log that can not fork, and its homes.

mod local;

pub use local::{LocalLog, Opened};
use thiserror::Error;
use tokio::sync::watch;

use crate::{ledger::chain::ChainError, storage::LogError};

/// Where the ledger's entries are kept, in order.
///
/// The promises that every home makes:
/// * `append` is a compare-and-set on the number of entries: of two writers that append at the same
///   index, one lands and the other is told that it lost. The chain can not fork.
/// * A batch that landed is on stable storage, whole and in order, before `append` returns.
/// * An answer that was lost on the way is resolved inside `append`, by reading back: it never says
///   "perhaps". Where it can not find out, it fails, and nothing more is appended until restart.
/// * `read` gives exactly the bytes that were appended, or an error.
pub trait LogBackend: std::fmt::Debug + Send + Sync {
    /// Appends entries at `expected_index`, the number of entries that the caller knows of.
    ///
    /// # Errors
    /// The log can not be written, now and until restart.
    fn append(&self, expected_index: u64, entries: &[Vec<u8>]) -> Result<Appended, BackendError>;

    /// Entries from `start` on, before `end`: about `bytes_max` bytes of them, and at least one if
    /// there is one.
    ///
    /// # Errors
    /// The log can not be read, or is damaged.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Vec<u8>>, BackendError>;

    /// The number of entries.
    fn head(&self) -> u64;

    /// Tells of each new head.
    fn tail(&self) -> watch::Receiver<u64>;

    /// Bytes on stable storage.
    fn size_bytes(&self) -> u64;
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The batch is the log's.
    Landed,
    /// Somebody else appended first; nothing of the batch was written.
    Lost {
        /// The number of entries now.
        head: u64,
    },
}

/// Why a log could not be used.
#[derive(Debug, Error)]
pub enum BackendError {
    /// Its files failed or are damaged.
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
