//! Files that are kept: checkpoints, proofs and receipts. One that is there is replaced as a whole, so
//! that no crash and no full disk takes the only copy away.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::error::CliError;

/// Who may read a file that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Whom the process's umask lets, or the file that stands there.
    Any,
    /// Its owner alone.
    Owner,
}

/// Writes a file beside its place, syncs it and renames it. Answers whether it took the place of
/// another.
///
/// # Errors
/// The system's; then what was there is there still.
pub fn write(path: &Path, text: &str, readers: Readers) -> Result<bool, CliError> {
    replace(path, text.as_bytes(), readers).map_err(|error| CliError::file(path, error))
}

fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<bool> {
    let own = match fs::metadata(path) {
        // A terminal or a pipe is not replaced but written to.
        Ok(there) if !there.is_file() => return fs::write(path, bytes).map(|()| false),
        Ok(there) => Some(there.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // A link stays one: what it leads to is replaced.
    let path = if own.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // A process of this number may have crashed here.
    let _ = fs::remove_file(&beside);
    let mode = match (readers, &own) {
        (Readers::Owner, _) => 0o600,
        (Readers::Any, Some(own)) => own.mode() & 0o777,
        (Readers::Any, None) => 0o666,
    };
    let written = write_synced(&beside, bytes, mode).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(own.is_some())
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
        // The old file was not written into: whoever has it open reads what it was.
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
