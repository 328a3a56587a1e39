//! Files with a secret: written or replaced atomically, and readable only by their owner.

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
    let beside = beside(path);
    let linked = write(&beside, secret, 0o600).and_then(|()| fs::hard_link(&beside, path));
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

/// Replaces the content of a file with a secret, durably; the file keeps its mode, and a symbolic link
/// its target. A crash leaves the old or the new content.
///
/// # Errors
/// An error of the system. The file then has its old content.
pub fn replace(path: &Path, secret: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
    let beside = beside(&path);
    write(&beside, secret, mode)
        .and_then(|()| fs::rename(&beside, &path))
        .inspect_err(|_| drop(fs::remove_file(&beside)))?;
    RealDisk.sync_dir(parent(&path))
}

/// The temporary name of a file, which is free.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // An earlier process with the same id may have crashed here.
    let _ = fs::remove_file(&beside);
    beside
}

fn write(path: &Path, secret: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
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
    fn a_replaced_secret_keeps_its_mode_and_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("secret"), dir.path().join("link"));
        write_once(&path, "first").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o440);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_can_not_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/secret");
        assert_eq!(write_once(&path, "x").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
