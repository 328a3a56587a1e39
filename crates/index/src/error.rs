//! Why an operation of the map failed.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why an operation failed.
#[derive(Debug, Error)]
pub enum IndexError {
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A page is not what was written there. The map is made again at the next start.
    #[error("{path}: {what} is not what was written there")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
    },
    /// Rows could not be written to disk; they stay readable from memory until the process ends.
    #[error("the index takes no more rows: {0}")]
    Stopped(String),
}

/// Adds the path to the error of a file operation.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, IndexError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, IndexError> {
        self.map_err(|source| IndexError::File { path: path.to_owned(), source })
    }
}
