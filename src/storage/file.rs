//! Errors of file operations, with the path.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A file operation failed.
#[derive(Debug, Error)]
#[error("{path}: {source}")]
pub struct FileError {
    /// The file or directory.
    pub path: PathBuf,
    /// The error of the system.
    pub source: io::Error,
}

/// Adds the path to the error of a file operation.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, FileError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { path: path.to_owned(), source })
    }
}

/// The result of a removal, which also succeeds if the file was missing.
pub(crate) fn missing_is_ok(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
