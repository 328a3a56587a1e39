//! The key-encryption key: read from a text or a file, and never printed.
//!
//! The file holds the key, and below it a line for each ledger that was made with it. So a key that is
//! kept apart from the data directory still knows its ledger when that directory is lost:
//!
//! ```text
//! 5a5a5a…                                       64 hexadecimal digits
//! ledger 3f9a… consent.example.org/eu           id and name
//! ```

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    format::secret::Key,
    storage::{AtPath as _, FileError, if_exists, secret},
    tlog::{hex, unhex},
};

/// The key that wraps every other key of the vault.
#[derive(Clone)]
pub struct Kek(Key);

/// Why there is no usable key-encryption key.
#[derive(Debug, Error)]
pub enum KekError {
    /// The text is not a key.
    #[error("the key-encryption key must be 64 hexadecimal digits")]
    Malformed,
    /// The file does not hold a key.
    #[error(
        "{0} must hold 64 hexadecimal digits, and below them nothing but the lines of ledgers that \
         `consent-ledger init` adds"
    )]
    MalformedFile(PathBuf),
    /// The file is missing although the vault needs it.
    #[error(
        "there is no file {0}: it must hold the key-encryption key that the vault was sealed with. Name \
         the right file by --kek-file, restore it, or give the key by CONSENT_LEDGER_KEK"
    )]
    Missing(PathBuf),
    /// The file can not be read or created.
    #[error("the file of the key-encryption key can not be read or made: {0}")]
    File(#[from] FileError),
    /// The file says that the key belongs to another ledger than this one.
    #[error(
        "the key-encryption key in {file} was made for the {noted}, and this is the {found}: one of the \
         two is another's. Name the right file by --kek-file, or the right directory by --data-dir"
    )]
    OtherLedger {
        /// The file.
        file: PathBuf,
        /// The ledger that it names.
        noted: LedgerNote,
        /// This ledger.
        found: LedgerNote,
    },
}

impl Kek {
    /// A fresh random key.
    #[must_use]
    pub fn random() -> Self {
        Self(Key::random(&mut rand::rng()))
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KekError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, KekError> {
        let hash = blake3::Hash::from_hex(text.trim()).map_err(|_| KekError::Malformed)?;
        Ok(Self(Key::new(*hash.as_bytes())))
    }

    /// Reads the key from a file, whatever ledgers it names.
    ///
    /// # Errors
    /// See [`KekError`].
    pub fn from_file(path: &Path) -> Result<Self, KekError> {
        let file = KekFile::read(path)?.ok_or_else(|| KekError::Missing(path.to_owned()))?;
        Ok(file.kek)
    }

    /// Reads the key of a ledger from a file.
    ///
    /// # Errors
    /// See [`KekError`].
    pub fn of_ledger(path: &Path, ledger: &LedgerNote) -> Result<Self, KekError> {
        let file = KekFile::read(path)?.ok_or_else(|| KekError::Missing(path.to_owned()))?;
        if let Some(noted) = file.contradicts(ledger) {
            let (file, noted, found) = (path.to_owned(), noted.clone(), ledger.clone());
            return Err(KekError::OtherLedger { file, noted, found });
        }
        if !file.ledgers.is_empty() && !file.ledgers.contains(ledger) {
            warn!(
                file = %path.display(),
                missing = %ledger,
                "the file of the key-encryption key names other ledgers and not this one: add the \
                 missing line below the key"
            );
        }
        Ok(file.kek)
    }

    /// The key, for the vault alone.
    pub(super) fn key(&self) -> &Key {
        &self.0
    }

    fn write_new(&self, path: &Path) -> io::Result<bool> {
        secret::write_once(path, &self.text())
    }

    fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(blake3::Hash::from_bytes(*self.0.bytes()).to_hex().to_string())
    }
}

/// A ledger that was made with a key-encryption key, as the file of the key notes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerNote {
    /// Identity of the ledger.
    pub id: [u8; 16],
    /// Name of the ledger.
    pub origin: String,
}

impl LedgerNote {
    fn parse(line: &str) -> Option<Self> {
        let (id, origin) = line.strip_prefix("ledger ")?.split_once(' ')?;
        let id = unhex(id)?.try_into().ok()?;
        let is_name = !origin.is_empty() && !origin.contains(' ');
        is_name.then(|| Self { id, origin: origin.to_owned() })
    }
}

impl fmt::Display for LedgerNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger {} {}", hex(&self.id), self.origin)
    }
}

/// The file of a key-encryption key.
#[derive(Debug)]
pub struct KekFile {
    /// The key.
    pub kek: Kek,
    /// The ledgers that were made with it.
    pub ledgers: Vec<LedgerNote>,
}

impl KekFile {
    /// Reads a file; none if there is no such file.
    ///
    /// # Errors
    /// See [`KekError`].
    pub fn read(path: &Path) -> Result<Option<Self>, KekError> {
        let malformed = || KekError::MalformedFile(path.to_owned());
        let text = match if_exists(fs::read_to_string(path).map(Zeroizing::new)) {
            // Not UTF-8.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(malformed()),
            text => text.at(path)?,
        };
        let Some(text) = text else { return Ok(None) };
        secret::warn_if_open_to_others(path, "the key-encryption key");
        let mut lines = text.trim().lines();
        let kek = Kek::parse(lines.next().unwrap_or_default()).map_err(|_| malformed())?;
        let ledgers: Option<_> = lines.map(LedgerNote::parse).collect();
        Ok(Some(Self { kek, ledgers: ledgers.ok_or_else(malformed)? }))
    }

    /// Reads a file. If it is missing, creates key and file.
    ///
    /// # Errors
    /// See [`KekError`].
    pub fn read_or_create(path: &Path) -> Result<Self, KekError> {
        if let Some(file) = Self::read(path)? {
            return Ok(file);
        }
        Kek::random().write_new(path).at(path)?;
        // Read back: another process may have created the file first.
        Self::read(path)?.ok_or_else(|| KekError::Missing(path.to_owned()))
    }

    /// The ledger of this name that was made with the key.
    #[must_use]
    pub fn ledger_of(&self, origin: &str) -> Option<&LedgerNote> {
        self.ledgers.iter().find(|note| note.origin == origin)
    }

    /// A line that can not be of the same key as this ledger: it has the ledger's name and another id, or
    /// its id and another name.
    fn contradicts(&self, ledger: &LedgerNote) -> Option<&LedgerNote> {
        let has_same = |note: &&LedgerNote| note.id == ledger.id || note.origin == ledger.origin;
        match self.ledgers.contains(ledger) {
            true => None,
            false => self.ledgers.iter().find(has_same),
        }
    }

    /// Adds a ledger to a file, durably. The file is replaced as a whole: a crash leaves the old or the
    /// new one.
    ///
    /// # Errors
    /// The file can not be replaced, for example because its file system is read-only. It is unchanged.
    pub fn note(mut self, path: &Path, ledger: LedgerNote) -> Result<(), FileError> {
        if self.ledgers.contains(&ledger) {
            return Ok(());
        }
        self.ledgers.push(ledger);
        let mut text = self.kek.text();
        for note in &self.ledgers {
            text.push_str(&format!("\n{note}"));
        }
        secret::replace(path, &text).at(path)
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

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let ledger = LedgerNote { id: [7; 16], origin: "ledger.example".to_owned() };
        let read = || Kek::of_ledger(&path, &ledger);
        assert!(matches!(read(), Err(KekError::Missing(_))));
        let key = KekFile::read_or_create(&path).unwrap().kek;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(KekFile::read_or_create(&path).unwrap().kek.key(), key.key());
        assert_eq!(read().unwrap().key(), key.key());
        for bad in [&b"nonsense"[..], b"\xff", format!("{}\nledger", "00".repeat(32)).as_bytes()] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(read(), Err(KekError::MalformedFile(_))), "{bad:?}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(), Err(KekError::File(_))));
    }

    #[test]
    fn a_key_file_knows_the_ledgers_that_were_made_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        // As `openssl rand -hex 32 | tr -d '\n'` leaves it, with a mode of its own.
        fs::write(&path, "5a".repeat(32)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let read = || KekFile::read(&path).unwrap().unwrap();
        assert_eq!(read().ledger_of("a.example"), None);
        let ledgers = [1, 2].map(|n| LedgerNote { id: [n; 16], origin: format!("{n}.example") });
        for ledger in &ledgers {
            read().note(&path, ledger.clone()).unwrap();
            read().note(&path, ledger.clone()).unwrap();
        }
        assert_eq!(read().ledgers, ledgers);
        assert_eq!(read().ledger_of("2.example"), Some(&ledgers[1]));
        assert_eq!(read().kek.key(), &Key::new([0x5a; 32]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_key_that_was_made_for_another_ledger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let note = |id, origin: &str| LedgerNote { id: [id; 16], origin: origin.to_owned() };
        let this = note(1, "one.example");
        for (lines, is_refused) in [
            (vec![], false),
            (vec![note(1, "one.example")], false),
            (vec![note(2, "two.example"), note(1, "one.example")], false),
            // The file was read-only when this ledger was made.
            (vec![note(2, "two.example")], false),
            (vec![note(2, "one.example")], true),
            (vec![note(3, "two.example"), note(1, "two.example")], true),
        ] {
            let lines: String = lines.iter().map(|note| format!("\n{note}")).collect();
            fs::write(&path, format!("{}{lines}", "5a".repeat(32))).unwrap();
            let read = Kek::of_ledger(&path, &this);
            assert_eq!(matches!(read, Err(KekError::OtherLedger { .. })), is_refused, "{lines}");
            assert_eq!(read.is_ok(), !is_refused, "{lines}");
        }
    }

    proptest! {
        #[test]
        fn the_line_of_a_ledger_is_read_back(id: [u8; 16], origin in "[!-*,-~]{1,40}") {
            let note = LedgerNote { id, origin };
            prop_assert_eq!(LedgerNote::parse(&note.to_string()), Some(note));
        }
    }

    #[test]
    fn of_several_that_make_a_key_all_get_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek.hex");
        // Both found no file, and now both write one.
        let first = Kek::random();
        first.write_new(&path).unwrap();
        Kek::random().write_new(&path).unwrap();
        assert_eq!(KekFile::read_or_create(&path).unwrap().kek.key(), first.key());
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
