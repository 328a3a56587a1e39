//! How a log can fail, and what a recovery found.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why the log can not do what was asked.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done to it, for example "write".
        operation: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Something on disk is not what was written. Nothing was changed.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// An intact segment, but of another log, another kind of log or another format.
    #[error("{} is not part of this log: {problem}", path.display())]
    Foreign {
        /// The segment file.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
    /// There is no log in the directory.
    #[error("no segment in {}", .0.display())]
    NoSegment(PathBuf),
    /// An earlier write or sync failed; what is on disk is known only after a restart.
    #[error("an earlier write failed: the log takes no more until it is opened again")]
    Poisoned,
    /// A frame larger than the log's limit.
    #[error("a frame of {bytes} bytes is larger than the limit of {limit}")]
    FrameTooLarge {
        /// Size of the frame.
        bytes: usize,
        /// The greatest size.
        limit: u32,
    },
    /// A frame without bytes.
    #[error("a frame must not be empty")]
    EmptyFrame,
    /// A read beyond the last durable frame.
    #[error("index {index} is beyond the last frame: the log has {next_index}")]
    OutOfRange {
        /// What was asked for.
        index: u64,
        /// Number of durable frames.
        next_index: u64,
    },
}

/// Where a log is damaged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Name of the segment file.
    pub segment: String,
    /// Where the broken frame or header begins, in bytes from the start of the file.
    pub offset: u64,
    /// Index of the frame that should stand there.
    pub index: u64,
    /// What is wrong.
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
    /// Index of the first frame that the tail can have held.
    pub next_index: u64,
    /// Where the tail was kept; none if nothing was changed.
    pub set_aside: Option<PathBuf>,
}

/// Gives an I/O error its file and operation.
pub(super) trait During<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, LogError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, operation: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io { path: path.to_owned(), operation, source })
    }
}
