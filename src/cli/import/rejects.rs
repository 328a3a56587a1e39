//! The file of rejects: each line is an `ImportReject` in ProtoJSON. It exists only if there are any.
//!
//! A reason in lower case is one of this command: the row was not sent.
//!
//! When an import resumes, rejects that its state does not count are cut off, so that no row is
//! rejected twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::resume::sync_dir;
use crate::{cli::error::CliError, json::ProtoJson, proto::ImportReject};

/// The file.
pub(super) struct Rejects {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Rejects {
    /// Continues the first `bytes` of an earlier run. With 0, removes the file.
    pub(super) fn begin(path: PathBuf, bytes: u64) -> Result<Self, CliError> {
        let failed = |error| CliError::file(&path, error);
        let file = match bytes {
            0 => remove(&path).map_err(failed)?,
            _ => Some(cut(&path, bytes).map_err(failed)?),
        };
        Ok(Self { file, path, bytes })
    }

    /// Adds rejects. They are on stable storage when this returns.
    pub(super) fn add(&mut self, rejects: &[ImportReject]) -> Result<(), CliError> {
        if rejects.is_empty() {
            return Ok(());
        }
        self.write(rejects).map_err(|error| CliError::file(&self.path, error))
    }

    fn write(&mut self, rejects: &[ImportReject]) -> io::Result<()> {
        let mut lines = Vec::new();
        for reject in rejects {
            serde_json::to_writer(&mut lines, &ProtoJson(reject))?;
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

    /// The path, whether or not the file exists.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path, if the file exists.
    pub(super) fn existing_path(&self) -> Option<&Path> {
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

    fn reject(line: u64) -> ImportReject {
        let text = |text: &str| text.to_owned();
        ImportReject { line, field: text("a"), reason: text("r"), message: text("m") }
    }

    #[test]
    fn there_is_a_file_only_if_there_are_rejects() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects");
        fs::write(&path, "of an earlier import").unwrap();
        let mut rejects = Rejects::begin(path.clone(), 0).unwrap();
        rejects.add(&[]).unwrap();
        assert!(!path.exists() && rejects.existing_path().is_none());
        rejects.add(&[reject(1)]).unwrap();
        let line = "{\"line\":\"1\",\"field\":\"a\",\"reason\":\"r\",\"message\":\"m\"}\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), line);
        assert_eq!(rejects.existing_path(), Some(path.as_path()));
    }

    #[test]
    fn uncounted_rejects_are_cut_off() {
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
        assert!(text.contains("\"line\":\"3\"") && !text.contains("\"line\":\"2\""));
        assert!(Rejects::begin(path, 1 << 20).is_err());
    }
}
