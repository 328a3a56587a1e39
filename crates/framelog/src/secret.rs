//! Files with a secret: written once, atomically, and readable only by their owner.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tracing::warn;

use super::disk::{Disk, RealDisk, parent};

/// Writes a secret as one line to a temporary name and links it to `path`: a crash leaves the whole file
/// or none, and an existing file is never overwritten. Returns whether the file is new.
///
/// # Errors
/// An error of the system.
pub fn write_once(path: &Path, secret: &str) -> io::Result<bool> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // An earlier process with the same id may have crashed here.
    let _ = fs::remove_file(&beside);
    let linked = write(&beside, secret).and_then(|()| fs::hard_link(&beside, path));
    let removed = fs::remove_file(&beside);
    let is_new = match linked {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    removed?;
    RealDisk.sync_dir(parent(path))?;
    Ok(is_new)
}

fn write(path: &Path, secret: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Logs a warning if users other than the owner can read a secret. `name` is for example "the signing
/// key".
pub fn warn_if_open_to_others(path: &Path, name: &str) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        warn!(
            file = %path.display(),
            mode = %format_args!("{mode:o}"),
            "{name} can be read by others: its mode should be 600"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_secret_stays_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        // Left behind by an earlier process with the same id that crashed.
        fs::write(dir.path().join(format!("secret.{}.new", std::process::id())), "ha").unwrap();
        assert!(write_once(&path, "first").unwrap());
        assert!(!write_once(&path, "second").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_can_not_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/secret");
        assert_eq!(write_once(&path, "x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
