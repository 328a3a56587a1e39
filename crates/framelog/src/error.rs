//! Errors of a log, and the findings of a recovery.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why an operation of a log failed.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operation, for example "write".
        operation: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The bytes on disk are not those that were written. The log is unchanged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A segment is intact, but has another log id, kind or format.
    #[error("{} is not part of this log: {problem}", path.display())]
    Foreign {
        /// The segment file.
        path: PathBuf,
        /// The difference.
        problem: String,
    },
    /// There is no log in the directory.
    #[error("no segment in {}", .0.display())]
    NoSegment(PathBuf),
    /// An earlier write or sync failed; the content on disk is unknown until a restart.
    #[error("an earlier write failed: the log takes no more until it is opened again")]
    Poisoned,
    /// A frame larger than the log's limit.
    #[error("a frame of {bytes} bytes is larger than the limit of {limit}")]
    FrameTooLarge {
        /// Size of the frame.
        bytes: usize,
        /// The maximum size.
        limit: u32,
    },
    /// A frame with an empty payload.
    #[error("a frame must not be empty")]
    EmptyFrame,
    /// A read beyond the last durable frame.
    #[error("index {index} is beyond the last frame: the log has {next_index}")]
    OutOfRange {
        /// The index that was asked for.
        index: u64,
        /// Number of durable frames.
        next_index: u64,
    },
}

/// A damaged place in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the segment file.
    pub segment: String,
    /// Where the broken frame or header begins, in bytes from the start of the file.
    pub offset: u64,
    /// Index of the frame that should be there.
    pub index: u64,
    /// The problem.
    pub problem: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, offset, index, problem } = self;
        write!(f, "segment {segment} is damaged at byte {offset}, index {index}: {problem}")
    }
}

impl std::error::Error for Damage {}

/// A tail that a crash left behind: written, but never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// Name of the segment file.
    pub segment: String,
    /// Where the tail begins, in bytes from the start of the file.
    pub offset: u64,
    /// Size of the tail.
    pub bytes: u64,
    /// Index of the first frame that the tail may have contained.
    pub next_index: u64,
    /// Where the tail was kept; none if nothing was changed.
    pub set_aside: Option<PathBuf>,
}

/// Adds file and operation to an I/O error.
pub(super) trait During<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { path: path.to_owned(), operation, source })
    }
}
