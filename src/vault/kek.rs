//! The key-encryption key: read from a text or a file, and never printed.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    seal::{self, SecretKey},
    storage::{AtPath as _, FileError, secret},
};

/// The key that wraps every other key of the vault.
#[derive(Clone)]
pub struct Kek(SecretKey);

/// Why there is no usable key-encryption key.
#[derive(Debug, Error)]
pub enum KekError {
    /// The text is not a key.
    #[error("the key-encryption key must be 64 hexadecimal digits")]
    Malformed,
    /// The file does not hold a key.
    #[error("{0} must hold 64 hexadecimal digits and nothing else")]
    MalformedFile(PathBuf),
    /// The file is missing although the vault needs it.
    #[error(
        "{0} is missing; the vault was sealed with the key that it held. Restore the file, or give \
         the key by CONSENT_LEDGER_KEK"
    )]
    Missing(PathBuf),
    /// The file can not be read or created.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Kek {
    /// A fresh random key.
    #[must_use]
    pub fn random() -> Self {
        Self(seal::random_key())
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KekError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, KekError> {
        let hash = blake3::Hash::from_hex(text.trim()).map_err(|_| KekError::Malformed)?;
        Ok(Self(Zeroizing::new(*hash.as_bytes())))
    }

    /// Reads the key from a file. If the file is missing and `may_create`, creates key and file.
    ///
    /// # Errors
    /// See [`KekError`].
    pub fn from_file(path: &Path, may_create: bool) -> Result<Self, KekError> {
        match Self::read(path)? {
            Some(key) => {
                secret::warn_if_open_to_others(path, "the key-encryption key");
                return Ok(key);
            }
            None if !may_create => return Err(KekError::Missing(path.to_owned())),
            None => {}
        }
        Self::random().write_new(path).at(path)?;
        // Read back: another process may have created the file first.
        Self::read(path)?.ok_or_else(|| KekError::Missing(path.to_owned()))
    }

    fn read(path: &Path) -> Result<Option<Self>, KekError> {
        match fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => match Self::parse(&text) {
                Ok(key) => Ok(Some(key)),
                Err(_) => Err(KekError::MalformedFile(path.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError { path: path.to_owned(), source }.into()),
        }
    }

    /// The key's bytes, for the vault alone.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn write_new(&self, path: &Path) -> io::Result<bool> {
        let hex = Zeroizing::new(blake3::Hash::from_bytes(*self.0).to_hex().to_string());
        secret::write_once(path, &hex)
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        assert!(matches!(Kek::from_file(&path, false), Err(KekError::Missing(_))));
        let key = Kek::from_file(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Kek::from_file(&path, true).unwrap().bytes(), key.bytes());
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Kek::from_file(&path, true), Err(KekError::MalformedFile(_))));
    }

    #[test]
    fn of_several_that_make_a_key_all_get_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek.hex");
        // Both found no file, and now both write one.
        let first = Kek::random();
        first.write_new(&path).unwrap();
        Kek::random().write_new(&path).unwrap();
        assert_eq!(Kek::from_file(&path, true).unwrap().bytes(), first.bytes());
        let names = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside the key");
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_key() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(Kek::parse(&digits).is_ok());
        assert!(Kek::parse(&format!("{digits}\n")).is_ok());
        for bad in ["", "12", &digits[1..], &digits.replace('0', "g")] {
            assert!(matches!(Kek::parse(bad), Err(KekError::Malformed)), "{bad}");
        }
    }
}
