//! The book of checkpoints: the latest signed and the latest released checkpoint.
//!
//! One small file, `checkpoint.json`, replaced as a whole. A checkpoint is durable in it before any
//! caller sees it. So after any crash the ledger knows what it has signed, refuses to start with fewer
//! entries, and never signs a second root for the same size.
//!
//! A checksum stands over the file, so that damage is not taken for a note by another key. It finds
//! accidents; only a key finds forgeries.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    domain::Millis,
    ledger::key_change::KeyChange,
    storage::{AtPath as _, FileError, disk::Disk, if_exists},
    tlog::{
        checkpoint::{CheckpointError, SignedCheckpoint},
        hex,
        merkle::Hash,
        note::NOTE_BYTES_MAX,
        policy::Policy,
        unhex,
    },
};

/// Name of the file in a data directory.
pub const BOOK_FILE: &str = "checkpoint.json";
const FORMAT: u32 = 1;
/// Two notes, and the notes of many changes of the key.
const BOOK_BYTES_MAX: usize = 16 * NOTE_BYTES_MAX;

/// A signed checkpoint, durable in the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The checkpoint, with the signature of the ledger and the cosignatures of witnesses.
    pub checkpoint: SignedCheckpoint,
    /// Its text.
    pub text: Arc<str>,
    /// When the ledger signed it.
    pub signed_at: Millis,
    /// Whether it has the cosignatures that the policy requires. False without a policy.
    pub witnessed: bool,
}

impl Signed {
    /// A checkpoint, verified against a policy.
    #[must_use]
    pub fn new(checkpoint: SignedCheckpoint, signed_at: Millis, policy: &Policy) -> Self {
        let witnessed = policy.asks_for_witnesses() && policy.verify(&checkpoint.note).is_ok();
        let text = checkpoint.to_string().into();
        Self { checkpoint, text, signed_at, witnessed }
    }

    /// Number of entries under it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.checkpoint.checkpoint.size
    }

    /// Root of the tree over them.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.checkpoint.checkpoint.root
    }
}

/// The checkpoints that a ledger has signed and released last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// The ledger that it belongs to. A book of an earlier version does not say it.
    pub ledger_id: Option<[u8; 16]>,
    /// The latest checkpoint that was signed.
    pub signed: Option<Arc<Signed>>,
    /// The latest one that was released; the same, or an earlier one.
    pub released: Option<Arc<Signed>>,
    /// The changes of the signing key from one key to another, in order.
    pub key_changes: Vec<KeyChange>,
}

/// Why the book can not be read or written.
#[derive(Debug, Error)]
pub enum BookError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not a book.
    #[error("{path} is damaged: {problem}. Restore it: it says what this ledger has signed")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    format: u32,
    /// In hexadecimal. Pages of before had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ledger_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed: Option<Line>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released: Option<Line>,
    /// The proofs of the changes of the signing key, as C2SP tlog-proofs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    key_changes: Vec<String>,
    /// BLAKE3 of the page without this field, in hexadecimal. Pages of before had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

impl Page {
    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always have a JSON form")
    }

    fn with_checksum(self) -> Self {
        let bare = Self { checksum: None, ..self };
        let checksum = Some(blake3::hash(&bare.text()).to_hex().to_string());
        Self { checksum, ..bare }
    }

    /// Reads the text of a page.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let page: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if page.format != FORMAT {
            return Err(format!("its format is {}, this program reads {FORMAT}", page.format));
        }
        if page.checksum.is_none() {
            return Ok(page);
        }
        let page = page.with_checksum();
        if page.text() == text { Ok(page) } else { Err("its checksum does not match".to_owned()) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    note: String,
    signed_at_ms: i64,
}

impl Line {
    fn of(signed: &Signed) -> Self {
        Self { note: signed.text.to_string(), signed_at_ms: signed.signed_at.0 }
    }

    fn open(self, policy: &Policy) -> Result<Arc<Signed>, CheckpointError> {
        let checkpoint = SignedCheckpoint::parse(&self.note)?;
        Ok(Arc::new(Signed::new(checkpoint, Millis(self.signed_at_ms), policy)))
    }
}

impl Book {
    /// The book of a new ledger, which has signed nothing.
    #[must_use]
    pub fn of_ledger(ledger_id: [u8; 16]) -> Self {
        Self { ledger_id: Some(ledger_id), ..Self::default() }
    }

    /// Reads the book of a data directory; none if there is no such file.
    ///
    /// # Errors
    /// See [`BookError`].
    pub fn read(
        disk: &dyn Disk,
        data_dir: &Path,
        policy: &Policy,
    ) -> Result<Option<Self>, BookError> {
        let path = data_dir.join(BOOK_FILE);
        let Some(file) = if_exists(disk.open_read(&path)).at(&path)? else { return Ok(None) };
        let malformed = |problem: String| BookError::Malformed { path: path.clone(), problem };
        let bytes = usize::try_from(file.len().at(&path)?).ok();
        let bytes = bytes.filter(|bytes| *bytes <= BOOK_BYTES_MAX);
        let mut text = vec![0; bytes.ok_or_else(|| malformed("it is too large".to_owned()))?];
        file.read_exact_at(&mut text, 0).at(&path)?;
        let page = Page::parse(&text).map_err(malformed)?;
        let open = |line: Option<Line>| line.map(|line| line.open(policy)).transpose();
        let both = open(page.signed).and_then(|signed| Ok((signed, open(page.released)?)));
        let (signed, released) = both.map_err(|error| malformed(error.to_string()))?;
        let size = |signed: &Option<Arc<Signed>>| signed.as_ref().map_or(0, |signed| signed.size());
        if size(&released) > size(&signed) {
            return Err(malformed("it has released more than it has signed".to_owned()));
        }
        let changes = page.key_changes.iter().map(|text| KeyChange::parse(text));
        let key_changes: Result<Vec<_>, _> = changes.collect();
        let key_changes = key_changes.map_err(|error| malformed(error.to_string()))?;
        let id = |text: &String| unhex(text)?.try_into().ok();
        let ledger_id = page.ledger_id.as_ref().map(|text| {
            id(text).ok_or_else(|| malformed("its ledger_id is not 16 bytes in hexadecimal".into()))
        });
        Ok(Some(Self { ledger_id: ledger_id.transpose()?, signed, released, key_changes }))
    }

    /// Replaces the book of a data directory, durably.
    ///
    /// # Errors
    /// A file operation failed. The file then holds the old or the new book; which one is unknown.
    pub fn write(&self, disk: &dyn Disk, data_dir: &Path) -> Result<(), BookError> {
        let (path, beside) = (data_dir.join(BOOK_FILE), data_dir.join(format!("{BOOK_FILE}.new")));
        let line = |signed: &Option<Arc<Signed>>| signed.as_deref().map(Line::of);
        let (signed, released) = (line(&self.signed), line(&self.released));
        let key_changes = self.key_changes.iter().map(|change| change.proof.to_string()).collect();
        let ledger_id = self.ledger_id.as_ref().map(|id| hex(id));
        let page =
            Page { format: FORMAT, ledger_id, signed, released, key_changes, checksum: None };
        let text = page.with_checksum().text();
        let replaced = || {
            if_exists(disk.remove(&beside))?;
            let file = disk.create(&beside)?;
            file.write_all_at(&text, 0)?;
            file.sync_data()?;
            disk.rename(&beside, &path)?;
            disk.sync_dir(data_dir)
        };
        Ok(replaced().at(&path)?)
    }

    /// Number of entries that the ledger must have at least.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.signed.as_ref().map_or(0, |signed| signed.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        storage::sim::SimDisk,
        tlog::{
            checkpoint::Checkpoint,
            key::{Algorithm, SignerKey},
        },
    };

    fn signed(size: u64) -> Arc<Signed> {
        let key = SignerKey::from_seed("ledger.example", Algorithm::Note, &[1; 32]).unwrap();
        let checkpoint = Checkpoint {
            origin: "ledger.example".to_owned(),
            size,
            root: [3; 32],
            extensions: String::new(),
        };
        let checkpoint = SignedCheckpoint::sign(checkpoint, &key).unwrap();
        Arc::new(Signed::new(checkpoint, Millis(5), &Policy::none()))
    }

    #[test]
    fn a_book_round_trips_and_replaces_the_one_before() {
        let (disk, dir) = (SimDisk::new(), Path::new("/data"));
        disk.create_dir_all(dir).unwrap();
        let read = || Book::read(&disk, dir, &Policy::none()).unwrap();
        assert_eq!(read(), None);
        for book in [
            Book::default(),
            Book { signed: Some(signed(4)), ..Book::default() },
            Book { signed: Some(signed(9)), released: Some(signed(4)), ..Book::of_ledger([7; 16]) },
        ] {
            book.write(&disk, dir).unwrap();
            assert_eq!(read(), Some(book));
        }
        assert_eq!(read().unwrap().size(), 9);
    }

    #[test]
    fn every_flipped_bit_is_damage_of_the_file() {
        let root = tempfile::tempdir().unwrap();
        let disk = crate::storage::disk::RealDisk;
        let book =
            Book { signed: Some(signed(9)), released: Some(signed(4)), ..Book::of_ledger([7; 16]) };
        book.write(&disk, root.path()).unwrap();
        let path = root.path().join(BOOK_FILE);
        let text = std::fs::read(&path).unwrap();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                std::fs::write(&path, changed).unwrap();
                let read = Book::read(&disk, root.path(), &Policy::none());
                assert!(matches!(read, Err(BookError::Malformed { .. })), "{at} {bit}: {read:?}");
            }
        }
        // A book of a version that wrote no checksum is read.
        let line = serde_json::to_string(&Line::of(&signed(3))).unwrap();
        std::fs::write(&path, format!(r#"{{"format":1,"signed":{line}}}"#)).unwrap();
        let read = Book::read(&disk, root.path(), &Policy::none()).unwrap().unwrap();
        assert_eq!(read, Book { signed: Some(signed(3)), ..Book::default() });
    }

    #[test]
    fn what_is_no_book_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let disk = crate::storage::disk::RealDisk;
        let line = |size| serde_json::to_string(&Line::of(&signed(size))).unwrap();
        for text in [
            String::new(),
            "{}".to_owned(),
            r#"{"format":2}"#.to_owned(),
            r#"{"format":1,"sigend":null}"#.to_owned(),
            r#"{"format":1,"checksum":""}"#.to_owned(),
            r#"{"format":1,"ledger_id":"07"}"#.to_owned(),
            r#"{"format":1,"signed":{"note":"x","signed_at_ms":1}}"#.to_owned(),
            format!(r#"{{"format":1,"signed":{},"released":{}}}"#, line(3), line(4)),
        ] {
            std::fs::write(root.path().join(BOOK_FILE), &text).unwrap();
            let error = Book::read(&disk, root.path(), &Policy::none()).unwrap_err();
            assert!(matches!(error, BookError::Malformed { .. }), "{text}: {error}");
        }
    }
}
