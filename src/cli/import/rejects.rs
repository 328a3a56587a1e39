//! The file of rejects: NDJSON, there only if there are any.
//!
//! What the state of an import does not know of is cut off when the import goes on, so that no row
//! is rejected twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::resume::sync_dir;
use crate::{cli::error::CliError, proto::ImportReject};

/// A row that was not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Reject {
    /// Line of the input on which the row begins, counted from 1.
    pub line: u64,
    /// Column or field at fault; empty if it is the row as a whole.
    pub field: String,
    /// Reason of the server; in lower case it is the command's own, and the row was not sent.
    pub reason: String,
    /// What is wrong.
    pub message: String,
}

impl From<ImportReject> for Reject {
    fn from(reject: ImportReject) -> Self {
        Self {
            line: reject.line,
            field: reject.field,
            reason: reject.reason,
            message: reject.message,
        }
    }
}

/// The file.
pub(super) struct Rejects {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Rejects {
    /// Begins with `bytes` of an earlier run; with none, there is no file.
    pub(super) fn begin(path: PathBuf, bytes: u64) -> Result<Self, CliError> {
        let failed = |error| CliError::file(&path, error);
        let file = match bytes {
            0 => remove(&path).map_err(failed)?,
            _ => Some(cut(&path, bytes).map_err(failed)?),
        };
        Ok(Self { file, path, bytes })
    }

    /// Adds rejects. They are on stable storage once this returns.
    pub(super) fn add(&mut self, rejects: &[Reject]) -> Result<(), CliError> {
        if rejects.is_empty() {
            return Ok(());
        }
        self.write(rejects).map_err(|error| CliError::file(&self.path, error))
    }

    fn write(&mut self, rejects: &[Reject]) -> io::Result<()> {
        let mut lines = Vec::new();
        for reject in rejects {
            serde_json::to_writer(&mut lines, reject)?;
            lines.push(b'\n');
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => create(&self.path)?,
        };
        file.write_all(&lines)?;
        file.sync_data()?;
        self.bytes += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        self.file = Some(file);
        Ok(())
    }

    /// Length of the file; 0 if there is none.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the file is, or would be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the rejects are, if there are any.
    pub(super) fn place(&self) -> Option<&Path> {
        self.file.is_some().then_some(self.path.as_path())
    }
}

fn remove(path: &Path) -> io::Result<Option<File>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("is not a regular file")),
        Ok(_) => fs::remove_file(path).map(|()| None),
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    sync_dir(path)?;
    Ok(file)
}

fn cut(path: &Path, bytes: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() < bytes {
        return Err(io::Error::other(
            "is shorter than it was when the import stopped; begin again with --restart",
        ));
    }
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reject(line: u64) -> Reject {
        let text = |text: &str| text.to_owned();
        Reject { line, field: text("a"), reason: text("r"), message: text("m") }
    }

    #[test]
    fn there_is_a_file_only_if_there_are_rejects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects");
        fs::write(&path, "of an earlier import").unwrap();
        let mut rejects = Rejects::begin(path.clone(), 0).unwrap();
        rejects.add(&[]).unwrap();
        assert!(!path.exists() && rejects.place().is_none());
        rejects.add(&[reject(1)]).unwrap();
        let line = "{\"line\":1,\"field\":\"a\",\"reason\":\"r\",\"message\":\"m\"}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), line);
        assert_eq!(rejects.place(), Some(path.as_path()));
    }

    #[test]
    fn what_is_not_known_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects");
        let mut rejects = Rejects::begin(path.clone(), 0).unwrap();
        rejects.add(&[reject(1)]).unwrap();
        let known = rejects.bytes();
        rejects.add(&[reject(2)]).unwrap();
        let mut rejects = Rejects::begin(path.clone(), known).unwrap();
        rejects.add(&[reject(3)]).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("\"line\":3") && !text.contains("\"line\":2"));
        assert!(Rejects::begin(path, 1 << 20).is_err());
    }
}
