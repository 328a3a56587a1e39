//! A change of the signing key.
//!
//! The operator gives the new key as the signing key, and the old one beside it
//! (`--previous-signing-key-file`). Before anything is signed with the new key, an entry names both. As
//! long as the old key is given, every checkpoint is signed with both, so that witnesses and auditors may
//! take over the new key one after another. The first checkpoint over the entry goes into the book with
//! the entry and its proof: that is what somebody follows who knows the old key alone.
//!
//! A start after a crash finds out how far the change came: from the book, which has the proof once a
//! checkpoint of both keys is durable, and before that from the entries that no checkpoint covers yet.
//!
//! A key that an entry took out of use never signs again, whatever the operator says. To know it, the whole
//! ledger is read, but only when a change is to be recorded or a key is refused.
//!
//! A lost key can sign nothing any more. Then (`--new-signing-key`) the entry names the new key alone, and
//! whoever verifies must be told the key in another way.

use std::{path::PathBuf, sync::Arc};

use tracing::info;

use super::{NodeConfig, OpenError, WriteError, open::signing_key_file, writer::Jobs};
use crate::{
    backend::LogBackend,
    domain::{Body, SigningKeyChanged},
    entry::EntryError,
    format::entry::{Body as Sealed, Entry},
    ledger::{self, key_change::Recorded, verify::VerifyError},
    storage::disk::Disk,
    tlog::{
        checkpoint::CheckpointError,
        key::{Algorithm, SignerKey, VerifierKey},
        note::SignatureError,
    },
    tree::{self, Book, Signed, TreeFiles, generate_key, read_key, write_key},
};

/// The flags that name the files of keys.
const FLAG: &str = "--signing-key-file";
const PREVIOUS_FLAG: &str = "--previous-signing-key-file";

/// About how many bytes of entries are read at once.
const READ_BYTES: usize = 1 << 20;

/// The keys that sign, and the change that has to be recorded first.
#[derive(Debug)]
pub(super) struct SigningKeys {
    /// Signs checkpoints, receipts and decision tokens.
    pub key: SignerKey,
    /// The key before, which signs every checkpoint, too.
    pub previous: Option<SignerKey>,
    /// The change, if it is in no entry yet.
    pub unrecorded: Option<SigningKeyChanged>,
    /// The entry of a change that no checkpoint of both keys covers yet.
    pub unproven: Option<u64>,
    /// Where the key has to be written to: it is new.
    unsaved: Option<PathBuf>,
}

/// The files of a data directory that say which key is the right one.
struct Place<'a> {
    config: &'a NodeConfig,
    disk: &'a Arc<dyn Disk>,
    origin: &'a str,
    book: &'a Book,
}

impl SigningKeys {
    /// The keys that the configuration names, if they are those that the book of checkpoints asks for.
    /// Changes nothing.
    ///
    /// # Errors
    /// A key is missing or another's, or the book is damaged. A lost key is not replaced in silence,
    /// because every auditor needs the new one.
    pub(super) fn choose(
        config: &NodeConfig,
        disk: &Arc<dyn Disk>,
        origin: &str,
        book: &Book,
    ) -> Result<Self, OpenError> {
        let place = Place { config, disk, origin, book };
        let file = signing_key_file(config);
        let key = read_key(&file, origin, Algorithm::Note)?;
        match (&config.previous_signing_key_file, key) {
            (Some(previous_file), key) => place.changed(previous_file, key, file),
            (None, None) if !config.new_signing_key => {
                Err(OpenError::KeyFileMissing { file, flag: FLAG })
            }
            (None, Some(key)) if !config.new_signing_key => {
                place.check(&key, file, FLAG)?;
                Ok(Self::of(key))
            }
            (None, key) => place.lost(key, file),
        }
    }

    fn of(key: SignerKey) -> Self {
        Self { key, previous: None, unrecorded: None, unproven: None, unsaved: None }
    }

    /// Takes into account the entries that no checkpoint covers yet, which may hold the change already.
    ///
    /// # Errors
    /// [`OpenError::KeyChangeUnfinished`] if they hold another change than the configured one.
    pub(super) fn continued(self, log: &dyn LogBackend, book: &Book) -> Result<Self, OpenError> {
        let Some((index, begun)) = begun(log, book.size())? else { return Ok(self) };
        let has_lost = |change: &SigningKeyChanged| change.previous.is_none();
        match &self.unrecorded {
            Some(change) if *change == begun => {
                let unproven = (!has_lost(&begun)).then_some(index);
                Ok(Self { unrecorded: None, unproven, ..self })
            }
            // The operator has said that a key is lost.
            Some(change) if has_lost(change) => Ok(self),
            _ => Err(unfinished(index, &begun)),
        }
    }

    /// Writes a new key to its file.
    ///
    /// # Errors
    /// A file operation failed.
    pub(super) fn save(&mut self) -> Result<(), OpenError> {
        if let Some(file) = self.unsaved.take() {
            write_key(&file, &self.key)?;
        }
        Ok(())
    }
}

/// Writes the entry of a change, if there is none yet. Answers the entry that a checkpoint of both keys
/// has to cover, if there is one.
///
/// # Errors
/// The entry could not be written.
pub(super) fn record(
    jobs: &Jobs,
    unrecorded: Option<SigningKeyChanged>,
    unproven: Option<u64>,
) -> Result<Option<u64>, WriteError> {
    let Some(change) = unrecorded else { return Ok(unproven) };
    let (next, is_proven) = (change.next.clone(), change.previous.is_some());
    let body = Body::SigningKeyChanged(Box::new(change));
    let index = jobs.write(move |batch| batch.write(batch.recorded_at(), body, &[]))?;
    info!(index, verifier_key = %next, "the signing key was changed");
    Ok(is_proven.then_some(index))
}

impl Place<'_> {
    /// The keys of a change from one key to another.
    fn changed(
        &self,
        previous_file: &std::path::Path,
        key: Option<SignerKey>,
        file: PathBuf,
    ) -> Result<SigningKeys, OpenError> {
        let previous = read_key(previous_file, self.origin, Algorithm::Note)?.ok_or_else(|| {
            OpenError::KeyFileMissing { file: previous_file.to_owned(), flag: PREVIOUS_FLAG }
        })?;
        if key.as_ref().is_some_and(|key| key.verifier() == previous.verifier()) {
            return Err(OpenError::SameKey { key: file, previous: previous_file.to_owned() });
        }
        if let Some(key) = &key
            && self.has_changed(previous.verifier(), key.verifier())
        {
            self.check(key, file, FLAG)?;
            return Ok(SigningKeys { previous: Some(previous), ..SigningKeys::of(key.clone()) });
        }
        self.check(&previous, previous_file.to_owned(), PREVIOUS_FLAG)?;
        let (key, unsaved) = self.or_new(key, file.clone())?;
        self.check_never_retired(&key, file, &self.recorded()?)?;
        let (next, before) = (key.verifier().clone(), Some(previous.verifier().clone()));
        Ok(SigningKeys {
            previous: Some(previous),
            unrecorded: Some(SigningKeyChanged { next, previous: before }),
            unsaved,
            ..SigningKeys::of(key)
        })
    }

    /// The key that continues after a lost one.
    fn lost(&self, key: Option<SignerKey>, file: PathBuf) -> Result<SigningKeys, OpenError> {
        let (key, unsaved) = self.or_new(key, file.clone())?;
        let signed = self.book.signed.as_deref();
        let is_other = signed
            .is_some_and(|signed| signed.checkpoint.verify(key.verifier()).is_err())
            || self.retired(key.verifier()).is_some();
        if is_other {
            self.check_never_retired(&key, file, &self.recorded()?)?;
        }
        let next = key.verifier().clone();
        let unrecorded = is_other.then_some(SigningKeyChanged { next, previous: None });
        Ok(SigningKeys { unrecorded, unsaved, ..SigningKeys::of(key) })
    }

    /// A key that was read, or a new one and the file that it has to be written to.
    fn or_new(
        &self,
        key: Option<SignerKey>,
        file: PathBuf,
    ) -> Result<(SignerKey, Option<PathBuf>), OpenError> {
        match key {
            Some(key) => Ok((key, None)),
            None => Ok((generate_key(self.origin, Algorithm::Note)?, Some(file))),
        }
    }

    /// Whether the last change in the book is from one key to the other.
    fn has_changed(&self, previous: &VerifierKey, next: &VerifierKey) -> bool {
        let last = self.book.key_changes.last();
        last.is_some_and(|change| change.previous == *previous && change.next == *next)
    }

    /// The changes in all entries.
    fn recorded(&self) -> Result<Recorded, OpenError> {
        let dir = self.config.data_dir.join(ledger::DIR);
        Ok(Recorded::read(&**self.disk, &dir).map_err(VerifyError::from)?)
    }

    /// Refuses a key that an entry has taken out of use.
    fn check_never_retired(
        &self,
        key: &SignerKey,
        file: PathBuf,
        recorded: &Recorded,
    ) -> Result<(), OpenError> {
        match recorded.retired(key.verifier()) {
            Some(index) => Err(OpenError::KeyRetired { file, index }),
            None => Ok(()),
        }
    }

    /// The index of the entry that retired a key. The last checkpoint may be signed with it all the same,
    /// beside the key that took its place.
    fn retired(&self, key: &VerifierKey) -> Option<u64> {
        let signed = self.book.signed.as_deref()?;
        let change = self.book.key_changes.last()?;
        let is_current = signed.checkpoint.verify(&change.next).is_ok() && change.next != *key;
        is_current.then_some(change.proof.index)
    }

    /// Whether a key, which is in `file`, is the one that signed last. `flag` names the file.
    fn check(&self, key: &SignerKey, file: PathBuf, flag: &'static str) -> Result<(), OpenError> {
        let Some(signed) = self.book.signed.as_deref() else { return Ok(()) };
        let book_file = || self.config.data_dir.join(tree::BOOK_FILE);
        match signed.checkpoint.verify(key.verifier()) {
            Ok(()) => match self.retired(key.verifier()) {
                Some(index) => Err(OpenError::KeyRetired { file, index }),
                None => Ok(()),
            },
            Err(CheckpointError::Signature(SignatureError::Bad(_))) => {
                Err(OpenError::NoteChanged { book: book_file(), key: file })
            }
            // The name of the key is the ledger's: the checkpoint is not.
            Err(CheckpointError::Origin { found, wanted }) => {
                Err(OpenError::BookForeign { book: book_file(), found, wanted })
            }
            Err(_) if self.is_of_tree(signed) => {
                let recorded = self.recorded()?;
                self.check_never_retired(key, file.clone(), &recorded)?;
                // The key of a change that was begun has signed nothing yet.
                if let Some((index, begun)) = recorded.last()
                    && *index >= self.book.size()
                    && begun.next == *key.verifier()
                {
                    return Err(unfinished(*index, begun));
                }
                let found = key.verifier().to_string();
                Err(OpenError::KeyOther { file, found, flag })
            }
            Err(_) => Err(OpenError::BookOrKey { book: book_file(), key: file }),
        }
    }

    /// Whether the tree's files lead to the root of a checkpoint, which is then of this ledger.
    fn is_of_tree(&self, signed: &Signed) -> bool {
        let dir = self.config.data_dir.join(tree::DIR);
        let found = TreeFiles::root_on_disk(Arc::clone(self.disk), &dir, signed.size());
        found.is_ok_and(|root| root == signed.root())
    }
}

/// The refusal of keys that are not those of a change that was begun.
fn unfinished(index: u64, begun: &SigningKeyChanged) -> OpenError {
    OpenError::KeyChangeUnfinished {
        index,
        next: begun.next.to_string(),
        previous: begun.previous.as_ref().map(ToString::to_string),
    }
}

/// The last change among the entries from `start` on.
fn begun(log: &dyn LogBackend, start: u64) -> Result<Option<(u64, SigningKeyChanged)>, OpenError> {
    let (mut next, mut begun) = (start, None);
    while next < log.head() {
        for bytes in log.read(next, log.head(), READ_BYTES)? {
            let failed = |problem| OpenError::Entry { index: next, problem };
            let entry = Entry::decode(&bytes).map_err(|error| failed(EntryError::from(error)))?;
            if let Sealed::KeyTransition(transition) = &entry.body {
                begun = Some((next, transition.try_into().map_err(failed)?));
            }
            next += 1;
        }
    }
    Ok(begun)
}
