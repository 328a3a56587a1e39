//! Writes files that users keep: checkpoints, proofs and receipts. An existing file is replaced
//! atomically, so that a crash or a full disk does not destroy the only copy.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::error::CliError;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// As the process's umask or the replaced file allows.
    Any,
    /// Its owner only.
    Owner,
}

/// Writes a temporary file, syncs it and renames it. Returns whether it replaced another file.
///
/// # Errors
/// A file operation failed; an existing file is then unchanged.
pub fn write(path: &Path, text: &str, readers: Readers) -> Result<bool, CliError> {
    write_bytes(path, text.as_bytes(), readers)
}

/// As [`write`], for bytes.
///
/// # Errors
/// As [`write`].
pub fn write_bytes(path: &Path, bytes: &[u8], readers: Readers) -> Result<bool, CliError> {
    replace(path, bytes, readers).map_err(|error| CliError::file(path, error))
}

fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<bool> {
    let existing = match fs::metadata(path) {
        // A terminal or a pipe is not replaced but written to.
        Ok(metadata) if !metadata.is_file() => return fs::write(path, bytes).map(|()| false),
        Ok(metadata) => Some(metadata.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // A symbolic link stays; its target is replaced.
    let path = if existing.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    // An earlier process with the same id may have left one behind.
    let _ = fs::remove_file(&temporary);
    let mode = match (readers, &existing) {
        (Readers::Owner, _) => 0o600,
        (Readers::Any, Some(permissions)) => permissions.mode() & 0o777,
        (Readers::Any, None) => 0o666,
    };
    write_synced(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, &path))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(existing.is_some())
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kept");
        assert!(!write(&path, "first", Readers::Any).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let held = fs::File::open(&path).unwrap();
        assert!(write(&path, "second", Readers::Any).unwrap());
        assert_eq!((fs::read_to_string(&path).unwrap(), mode(&path)), ("second".into(), 0o640));
        // An open handle still reads the old content.
        assert_eq!(io::read_to_string(held).unwrap(), "first");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(write(&link, "third", Readers::Any).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "third");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
        assert!(write(&dir.path().join("no/kept"), "x", Readers::Any).is_err());
        assert!(!write(Path::new("/dev/null"), "x", Readers::Any).unwrap());
    }

    #[test]
    fn what_is_personal_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receipt");
        write(&path, "x", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, "y", Readers::Owner).unwrap();
        assert_eq!(mode(&path), 0o600);
    }
}
