//! The vault: the identities and keys of subjects. The only primary data that may ever be deleted.
//!
//! Its frames are stored like those of the ledger, and are durable before the first entry that needs
//! them. Identities are looked up by a keyed hash, so that no clear identity is on disk. The index maps
//! each hash to a frame; these rows can be rebuilt from the frames at any time.

mod frame;
mod inspect;
mod kek;
mod keys;

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
pub use frame::FrameError;
use frame::{Frame, Opened, SubjectFrame};
use hashbrown::DefaultHashBuilder;
pub use inspect::{Inspected, inspect};
pub use kek::{Kek, KekError, KekFile, LedgerNote};
use keys::Key;
use parking_lot::Mutex;
use quick_cache::{UnitWeighter, sync::Cache};
use rand::RngExt;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    domain::{IdempotencyMark, Identity, Sealed, Subject, SubjectError, SubjectRef},
    seal::{self, OpenError as SealError, SecretKey, context, evidence_context},
    storage::{
        FrameAt, FrameLog, LogError, LogReader, LogSpec, TornTail,
        disk::Disk,
        index::{Index, IndexError, Row},
        scan,
    },
};

/// Kind of the vault's segment files.
pub const LOG_KIND: [u8; 4] = *b"VALT";
/// Name of the vault's folder in a data directory.
pub const DIR: &str = "vault";

/// The largest frame; a subject's frame has about 450 bytes.
const FRAME_BYTES_MAX: u32 = 4_096;
/// Vault segments are small, so that each can be compacted by itself; in tests, so that there are several.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 4 << 10 } else { 16 << 20 };
/// The greatest number of unwrapped subject keys that are kept in memory.
const KEYS_MAX: usize = 50_000;
/// How many frames are indexed between two calls of `progress`.
const INDEX_STEP: u64 = 1_000;
/// How many bytes of frames are read at once while indexing, at most.
const INDEX_READ_BYTES_MAX: usize = 1 << 20;

const LOOKUP_CONTEXT: &str = "consent-ledger v1 identity lookup";
const IDEMPOTENCY_CONTEXT: &str = "consent-ledger v1 idempotency key";
const REQUEST_CONTEXT: &str = "consent-ledger v1 request digest";
const CONFIRMATION_CONTEXT: &str = "consent-ledger v1 confirmation token";
const WEBHOOK_CONTEXT: &str = "consent-ledger v1 webhook secret";

/// Why an operation of the vault failed.
#[derive(Debug, Error)]
pub enum VaultError {
    /// Its files can not be read or written, or are damaged.
    #[error("vault: {0}")]
    Log(#[from] LogError),
    /// The index failed.
    #[error("vault look-up: {0}")]
    Index(#[from] IndexError),
    /// A frame is intact, but malformed or of an unknown format.
    #[error("vault frame {frame}: {problem}")]
    Frame {
        /// Number of the frame.
        frame: u64,
        /// The error.
        problem: FrameError,
    },
    /// The first frame does not open the vault, or another one does.
    #[error("vault frame {0} is not what stands there in a vault")]
    Order(u64),
    /// A data subject, or an identity, has two frames.
    #[error("vault frame {0} is of a data subject that an earlier frame is of")]
    Twice(u64),
    /// The look-up of a frame is that of another identity.
    #[error("the look-up of {0:?} in the vault is not that of its identity")]
    LookUp(SubjectRef),
    /// The key-encryption key is not the one that the vault was sealed with.
    #[error(
        "the key-encryption key is not the one that the vault was sealed with; give the right one \
         by --kek-file or CONSENT_LEDGER_KEK"
    )]
    WrongKey,
    /// A subject's key or identity can not be opened.
    #[error("what the vault holds of {0:?} can not be opened")]
    Sealed(SubjectRef),
    /// The vault does not know a subject that the ledger names.
    #[error("the vault does not know {0:?}")]
    UnknownSubject(SubjectRef),
    /// An identity was opened, but is malformed.
    #[error("what the vault holds of a subject is no identity: {0}")]
    Identity(SubjectError),
    /// The index has rows of frames that do not exist.
    #[error(
        "the vault has {frames} frames, but {known} were known: it has lost data. Restore it from a \
         backup that is at least as new as the ledger"
    )]
    LostFrames {
        /// Number of existing frames.
        frames: u64,
        /// Number of indexed frames.
        known: u64,
    },
    /// A row of the index is malformed.
    #[error("a look-up row of the vault is malformed")]
    Row,
}

/// A cache that counts items.
type Lru<K, V> = Cache<K, V, UnitWeighter, DefaultHashBuilder>;

/// The vault.
#[derive(Debug)]
pub struct Vault {
    log: Mutex<FrameLog>,
    reader: LogReader,
    dir: PathBuf,
    index: Arc<Index>,
    kek: Kek,
    ledger_id: [u8; 16],
    secrets: Secrets,
    lookups: Lru<[u8; 32], SubjectRef>,
    keys: Lru<SubjectRef, SubjectKey>,
}

/// Keys that are derived from the vault's master secret.
struct Secrets {
    lookup: SecretKey,
    idempotency: SecretKey,
    request: SecretKey,
    confirmation: SecretKey,
    webhook: SecretKey,
}

/// The opened files of the vault, before look-ups are possible.
#[derive(Debug)]
pub struct VaultFiles {
    dir: PathBuf,
    log: FrameLog,
    opened: Opened,
}

impl VaultFiles {
    /// Makes the files in `dir` for a new ledger. Files that an interrupted call left behind are
    /// completed, and keep the id that they have.
    ///
    /// # Errors
    /// See [`VaultError`]; [`VaultError::WrongKey`] if those files were made with another key.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        kek: &Kek,
        new_ledger_id: [u8; 16],
    ) -> Result<Self, VaultError> {
        let (mut log, _) = FrameLog::open(disk, Self::spec(dir.clone(), 0), new_ledger_id)?;
        if log.next_index() == 0 {
            let context = context(&log.id(), b"master", &[]);
            let master = seal::seal(kek.bytes(), &context, &*seal::random_key());
            log.append(&[Frame::Opened(Opened { ledger_id: log.id(), master }).encode()])?;
        }
        let files = Self::of(log, dir)?;
        files.opened.unlock(kek)?;
        Ok(files)
    }

    /// Opens the files in `dir`. Creates none, and leaves a torn tail where it is until
    /// [`Vault::settle`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, VaultError> {
        // A vault has its first frame from the beginning.
        Self::of(FrameLog::look(disk, Self::spec(dir.clone(), 1), Default::default())?, dir)
    }

    fn spec(dir: PathBuf, frames_min: u64) -> LogSpec {
        LogSpec {
            dir,
            kind: LOG_KIND,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            frame_bytes_max: FRAME_BYTES_MAX,
            frames_min,
        }
    }

    fn of(log: FrameLog, dir: PathBuf) -> Result<Self, VaultError> {
        match decode(0, &log.reader().read(0)?)? {
            Frame::Opened(opened) => Ok(Self { dir, log, opened }),
            Frame::Subject(_) => Err(VaultError::Order(0)),
        }
    }

    /// Identity of the ledger that the vault belongs to.
    #[must_use]
    pub fn ledger_id(&self) -> [u8; 16] {
        self.opened.ledger_id
    }

    /// Whether the vault has no subjects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.log.next_index() <= 1
    }
}

/// Identity of the ledger that the vault in `dir` belongs to; none if there is no vault, or one that was
/// cut off while it was made. Changes nothing.
///
/// # Errors
/// The files can not be read, or are damaged.
pub fn id_of(disk: &dyn Disk, dir: &Path) -> Result<Option<[u8; 16]>, VaultError> {
    let mut ignore = |_: FrameAt<'_>| ControlFlow::Continue(());
    match scan(disk, dir, LOG_KIND, FRAME_BYTES_MAX, 0, &mut ignore) {
        Ok(end) => Ok((end.id != [0; 16]).then_some(end.id)),
        Err(LogError::NoSegment(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A subject that is not in the vault yet.
#[derive(Debug)]
pub struct NewSubject {
    /// Reference in the ledger.
    pub subject_ref: SubjectRef,
    /// Its key.
    pub key: SubjectKey,
    lookup: [u8; 32],
    frame: Vec<u8>,
}

/// The key that seals the evidence of a subject.
#[derive(Clone)]
pub struct SubjectKey(Arc<SecretKey>);

impl Vault {
    /// Unlocks the vault. Look-ups are complete only after [`Self::catch_up`]; up to `hot_subjects_max`
    /// of them are kept in memory.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`].
    pub fn open(
        files: VaultFiles,
        index: Arc<Index>,
        kek: Kek,
        hot_subjects_max: usize,
    ) -> Result<Self, VaultError> {
        let VaultFiles { dir, log, opened } = files;
        let secrets = opened.unlock(&kek)?;
        Ok(Self {
            reader: log.reader(),
            dir,
            log: Mutex::new(log),
            index,
            kek,
            ledger_id: opened.ledger_id,
            secrets,
            lookups: cache(hot_subjects_max),
            keys: cache(KEYS_MAX),
        })
    }

    /// Sets a torn tail aside, which nothing needs, and reports it. Must come before the first
    /// [`Self::persist`].
    ///
    /// # Errors
    /// The disk failed.
    pub fn settle(&self) -> Result<Option<TornTail>, VaultError> {
        Ok(self.log.lock().settle()?)
    }

    /// Indexes all frames. Calls `progress` with the number of indexed frames and their total.
    ///
    /// # Errors
    /// A frame can not be read, or the vault has lost frames.
    pub fn catch_up(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), VaultError> {
        let frames = self.reader.next_index();
        let known = match self.index.get(&Key::Indexed.encode())? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| VaultError::Row)?),
        };
        if known > frames {
            return Err(VaultError::LostFrames { frames, known });
        }
        let mut next = known;
        while next < frames {
            let end = frames.min(next + INDEX_STEP);
            let mut rows = Vec::new();
            for bytes in self.reader.read_range(next, end, INDEX_READ_BYTES_MAX)? {
                match decode(next, &bytes)? {
                    Frame::Opened(_) if next == 0 => {}
                    Frame::Subject(subject) if next > 0 => {
                        rows.extend(lookup_rows(&subject.lookup, subject.subject_ref, next));
                    }
                    _ => return Err(VaultError::Order(next)),
                }
                next += 1;
            }
            rows.push(indexed_row(next));
            self.index.put(rows)?;
            progress(next, frames);
        }
        Ok(())
    }

    /// Reads the older segments, which opening does not, and answers whether it reached their end.
    /// `visit` gets the bytes and number of each frame, and may stop the walk.
    ///
    /// # Errors
    /// The first damage.
    pub fn verify(
        &self,
        disk: &dyn Disk,
        visit: &mut dyn FnMut(&[u8], u64) -> ControlFlow<()>,
    ) -> Result<bool, VaultError> {
        let end = self.reader.first_index_of_last_segment();
        let mut next = 0;
        let mut problem = None;
        let walked = scan(disk, &self.dir, LOG_KIND, FRAME_BYTES_MAX, 0, &mut |frame| {
            if frame.index == end {
                return ControlFlow::Break(String::new());
            }
            problem = decode(frame.index, frame.payload).err();
            next = frame.index + 1;
            match (&problem, visit(frame.payload, frame.index)) {
                (None, ControlFlow::Continue(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(String::new()),
            }
        });
        match (problem, walked) {
            (Some(problem), _) => Err(problem),
            // The walk was stopped here, in the middle or where the newest segment begins.
            (None, Err(LogError::Damaged(damage))) if damage.problem.is_empty() => Ok(next == end),
            (None, walked) => walked.map(|_| next == end).map_err(VaultError::from),
        }
    }

    /// Number of subjects in the vault.
    #[must_use]
    pub fn subjects(&self) -> u64 {
        self.reader.next_index().saturating_sub(1)
    }

    /// The reference of a subject, if it is in the vault.
    ///
    /// # Errors
    /// The look-up failed.
    pub fn find(&self, subject: &Subject) -> Result<Option<SubjectRef>, VaultError> {
        let lookup = self.lookup(subject);
        if let Some(found) = self.lookups.get(&lookup) {
            return Ok(Some(found));
        }
        let Some(row) = self.index.get(&Key::Lookup(lookup).encode())? else { return Ok(None) };
        let (subject_ref, _) = row.split_first_chunk::<16>().ok_or(VaultError::Row)?;
        let subject_ref = SubjectRef(*subject_ref);
        if self.has_erased(subject_ref) {
            return Ok(None);
        }
        // A look-up never changes, so this overwrites nothing newer.
        self.lookups.insert(lookup, subject_ref);
        Ok(Some(subject_ref))
    }

    /// Whether a subject is one of those that were looked up lately.
    #[must_use]
    pub fn remembers(&self, subject: &Subject) -> bool {
        self.lookups.get(&self.lookup(subject)).is_some()
    }

    /// The identities in the order in which they came, from the `first` on. Reads and opens each of them.
    ///
    /// # Errors
    /// In place of an identity: its frame can not be read or opened.
    pub fn identities(
        &self,
        first: u64,
    ) -> impl Iterator<Item = Result<(SubjectRef, Identity), VaultError>> {
        let frames = first.saturating_add(1)..self.reader.next_index();
        frames.map(|at| match decode(at, &self.reader.read(at)?)? {
            Frame::Subject(frame) => Ok((frame.subject_ref, self.identity(frame.subject_ref)?)),
            _ => Err(VaultError::Order(at)),
        })
    }

    /// Whether one of the subjects from the `first` on fits.
    ///
    /// # Errors
    /// An identity can not be read.
    pub fn has_person_since(
        &self,
        first: u64,
        fits: impl Fn(&Subject) -> bool,
    ) -> Result<bool, VaultError> {
        for found in self.identities(first) {
            if found?.1.known().is_some_and(|subject| fits(&subject)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a reference and a key for a subject. Stores nothing: see [`Self::persist`].
    #[must_use]
    pub fn create(&self, subject: &Subject) -> NewSubject {
        let subject_ref = SubjectRef(rand::rng().random());
        let key = seal::random_key();
        let lookup = self.lookup(subject);
        let frame = Frame::Subject(SubjectFrame {
            subject_ref,
            lookup,
            key: seal::seal(self.kek.bytes(), &key_context(&self.ledger_id, subject_ref), &*key),
            identity: seal::seal(
                &key,
                &identity_context(&self.ledger_id, subject_ref),
                subject.as_str().as_bytes(),
            ),
        });
        NewSubject { subject_ref, key: SubjectKey(Arc::new(key)), lookup, frame: frame.encode() }
    }

    /// Stores new subjects: durable, and found by look-ups, when the call returns.
    ///
    /// # Errors
    /// The first failed write or sync stops the vault; see [`FrameLog::append`].
    pub fn persist(&self, subjects: &[NewSubject]) -> Result<(), VaultError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let mut log = self.log.lock();
        let first = log.next_index();
        log.append(&subjects.iter().map(|subject| &subject.frame).collect::<Vec<_>>())?;
        let mut rows = Vec::with_capacity(2 * subjects.len() + 1);
        for (frame, subject) in (first..).zip(subjects) {
            rows.extend(lookup_rows(&subject.lookup, subject.subject_ref, frame));
        }
        rows.push(indexed_row(log.next_index()));
        self.index.put(rows)?;
        for subject in subjects {
            self.lookups.insert(subject.lookup, subject.subject_ref);
            self.keys.insert(subject.subject_ref, subject.key.clone());
        }
        Ok(())
    }

    /// A subject's key.
    ///
    /// # Errors
    /// [`VaultError::UnknownSubject`], also if the subject is erased, or the frame can not be read or
    /// opened.
    pub fn key(&self, subject: SubjectRef) -> Result<SubjectKey, VaultError> {
        if self.has_erased(subject) {
            return Err(VaultError::UnknownSubject(subject));
        }
        if let Some(key) = self.keys.get(&subject) {
            return Ok(key);
        }
        let key = self.open_key(&self.frame(subject)?)?;
        self.keys.insert(subject, key.clone());
        Ok(key)
    }

    /// The identity of a subject, which may be erased.
    ///
    /// # Errors
    /// [`VaultError::UnknownSubject`], or the frame can not be read or opened.
    pub fn identity(&self, subject: SubjectRef) -> Result<Identity, VaultError> {
        if self.has_erased(subject) {
            return Ok(Identity::Erased);
        }
        let frame = self.frame(subject)?;
        let key = self.open_key(&frame)?;
        frame.open_identity(&self.ledger_id, &key).map(Identity::Known)
    }

    /// Whether a subject of the ledger is in the vault, or erased. If not, the vault has lost it.
    ///
    /// # Errors
    /// The look-up failed.
    pub fn accounts_for(&self, subject: SubjectRef) -> Result<bool, VaultError> {
        Ok(self.has_erased(subject) || self.index.get(&Key::Frame(subject.0).encode())?.is_some())
    }

    /// Whether the subject was erased. No code erases subjects yet; tests pretend it.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the vault will hold the erased subjects")]
    fn has_erased(&self, _: SubjectRef) -> bool {
        false
    }

    #[cfg(test)]
    fn has_erased(&self, subject: SubjectRef) -> bool {
        tests::ERASED.lock().contains(&(self.ledger_id, subject))
    }

    /// Makes a subject appear erased, in every vault of this ledger.
    #[cfg(test)]
    pub(crate) fn pretend_erased(&self, subject: SubjectRef) {
        tests::ERASED.lock().insert((self.ledger_id, subject));
        self.keys.remove(&subject);
        self.lookups.clear();
    }

    /// The keyed hash that stands for an idempotency key in the ledger.
    #[must_use]
    pub fn idempotency_key_hash(&self, key: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.secrets.idempotency, key.as_bytes()).as_bytes()
    }

    /// The keyed hash that stands for a request in the ledger.
    #[must_use]
    pub fn request_digest(&self, request: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.secrets.request, request).as_bytes()
    }

    /// The confirmation token of the act at a place in the chain: 43 characters that can not be guessed
    /// without the vault.
    #[must_use]
    pub fn confirmation_token(&self, index: u64, prev_hash: &[u8; 32]) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.secrets.confirmation);
        hasher.update(&self.ledger_id).update(&index.to_be_bytes()).update(prev_hash);
        BASE64_URL_SAFE_NO_PAD.encode(hasher.finalize().as_bytes())
    }

    /// The secret that signs the webhook deliveries of the subscription that an entry created, in the
    /// form of Standard Webhooks: `whsec_` and 32 bytes in base64. It is derived from the vault's secret
    /// and stored nowhere.
    #[must_use]
    pub fn webhook_secret(&self, created_index: u64) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.secrets.webhook);
        hasher.update(&self.ledger_id).update(&created_index.to_be_bytes());
        format!("whsec_{}", BASE64_STANDARD.encode(hasher.finalize().as_bytes()))
    }

    /// Seals the evidence of an act under its subject's key.
    #[must_use]
    pub fn seal_evidence(
        &self,
        key: &SubjectKey,
        idempotency: Option<&IdempotencyMark>,
        evidence: &[u8],
    ) -> Sealed {
        seal::seal(&key.0, &evidence_context(&self.ledger_id, idempotency), evidence)
    }

    /// Seals who asserted a link, under the key of the first of the two subjects.
    #[must_use]
    pub fn seal_assertion(&self, key: &SubjectKey, asserted_by: &str) -> Sealed {
        seal::seal(&key.0, &self.assertion_context(), asserted_by.as_bytes())
    }

    /// Opens who asserted a link; none if the subject, and so its key, is erased.
    ///
    /// # Errors
    /// [`VaultError::Sealed`] if it is not this subject's.
    pub fn open_assertion(
        &self,
        subject: SubjectRef,
        sealed: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        if self.has_erased(subject) {
            return Ok(None);
        }
        open(subject, &self.key(subject)?.0, &self.assertion_context(), sealed).map(Some)
    }

    /// Opens the evidence of an act.
    ///
    /// # Errors
    /// [`VaultError::Sealed`] if it is not this subject's, or not this act's.
    pub fn open_evidence(
        &self,
        subject: SubjectRef,
        idempotency: Option<&IdempotencyMark>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let context = evidence_context(&self.ledger_id, idempotency);
        open(subject, &self.key(subject)?.0, &context, sealed)
    }

    /// The key that opens only this sealed text of a subject.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn entry_key(&self, subject: SubjectRef, sealed: &Sealed) -> Result<SecretKey, VaultError> {
        Ok(seal::one_time_key(&self.key(subject)?.0, &sealed.salt))
    }

    fn frame(&self, subject: SubjectRef) -> Result<SubjectFrame, VaultError> {
        let row = self.index.get(&Key::Frame(subject.0).encode())?;
        let row = row.ok_or(VaultError::UnknownSubject(subject))?;
        let frame = u64::from_be_bytes(row.try_into().map_err(|_| VaultError::Row)?);
        match decode(frame, &self.reader.read(frame)?)? {
            Frame::Subject(found) if found.subject_ref == subject => Ok(found),
            _ => Err(VaultError::Order(frame)),
        }
    }

    fn open_key(&self, frame: &SubjectFrame) -> Result<SubjectKey, VaultError> {
        frame.open_key(&self.ledger_id, &self.kek)
    }

    fn lookup(&self, subject: &Subject) -> [u8; 32] {
        self.secrets.lookup_of(subject)
    }

    fn assertion_context(&self) -> Vec<u8> {
        context(&self.ledger_id, b"assertion", &[])
    }
}

impl Opened {
    /// The secrets of the vault.
    fn unlock(&self, kek: &Kek) -> Result<Secrets, VaultError> {
        let context = context(&self.ledger_id, b"master", &[]);
        let master = seal::open(kek.bytes(), &context, &self.master);
        master.map(|master| Secrets::derive(&master)).map_err(|SealError| VaultError::WrongKey)
    }
}

impl SubjectFrame {
    fn open_key(&self, ledger_id: &[u8; 16], kek: &Kek) -> Result<SubjectKey, VaultError> {
        let subject = self.subject_ref;
        let key = open(subject, kek.bytes(), &key_context(ledger_id, subject), &self.key)?;
        let key = key.as_slice().try_into().map_err(|_| VaultError::Sealed(subject))?;
        Ok(SubjectKey(Arc::new(Zeroizing::new(key))))
    }

    fn open_identity(&self, ledger_id: &[u8; 16], key: &SubjectKey) -> Result<Subject, VaultError> {
        let subject = self.subject_ref;
        let context = identity_context(ledger_id, subject);
        let identity = open(subject, &key.0, &context, &self.identity)?;
        let text = std::str::from_utf8(&identity).map_err(|_| VaultError::Sealed(subject))?;
        Subject::parse(text).map_err(VaultError::Identity)
    }
}

fn key_context(ledger_id: &[u8; 16], subject: SubjectRef) -> Vec<u8> {
    context(ledger_id, b"subject key", &subject.0)
}

fn identity_context(ledger_id: &[u8; 16], subject: SubjectRef) -> Vec<u8> {
    context(ledger_id, b"identity", &subject.0)
}

impl Secrets {
    fn lookup_of(&self, subject: &Subject) -> [u8; 32] {
        *blake3::keyed_hash(&self.lookup, subject.as_str().as_bytes()).as_bytes()
    }

    fn derive(master: &[u8]) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, master));
        Self {
            lookup: derive(LOOKUP_CONTEXT),
            idempotency: derive(IDEMPOTENCY_CONTEXT),
            request: derive(REQUEST_CONTEXT),
            confirmation: derive(CONFIRMATION_CONTEXT),
            webhook: derive(WEBHOOK_CONTEXT),
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(…)")
    }
}

impl std::fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubjectKey(…)")
    }
}

fn cache<K: Eq + std::hash::Hash, V: Clone>(items_max: usize) -> Lru<K, V> {
    let hasher = DefaultHashBuilder::default();
    Cache::with(items_max, items_max as u64, UnitWeighter, hasher, Default::default())
}

/// Opens a sealed text of a subject.
fn open(
    subject: SubjectRef,
    key: &[u8; 32],
    context: &[u8],
    sealed: &Sealed,
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    seal::open(key, context, sealed).map_err(|SealError| VaultError::Sealed(subject))
}

fn decode(frame: u64, bytes: &[u8]) -> Result<Frame, VaultError> {
    Frame::decode(bytes).map_err(|problem| VaultError::Frame { frame, problem })
}

fn lookup_rows(lookup: &[u8; 32], subject: SubjectRef, frame: u64) -> [Row; 2] {
    let frame = frame.to_be_bytes();
    [
        (Key::Lookup(*lookup).encode(), Some([subject.0.as_slice(), &frame].concat())),
        (Key::Frame(subject.0).encode(), Some(frame.to_vec())),
    ]
}

fn indexed_row(frames: u64) -> Row {
    (Key::Indexed.encode(), Some(frames.to_be_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tempfile::TempDir;

    use super::*;
    use crate::storage::disk::RealDisk;

    /// The subjects that tests pretend to have been erased, with their ledgers.
    pub(super) static ERASED: Mutex<BTreeSet<([u8; 16], SubjectRef)>> = Mutex::new(BTreeSet::new());

    struct Place {
        dir: TempDir,
        kek: Kek,
    }

    impl Place {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), kek: Kek::random() }
        }

        fn open(&self) -> Vault {
            self.open_with(self.kek.clone()).unwrap()
        }

        fn open_with(&self, kek: Kek) -> Result<Vault, VaultError> {
            let (index, _) = Index::open(&self.dir.path().join("view"), 1 << 20).unwrap();
            let dir = self.dir.path().join(DIR);
            if !dir.exists() {
                VaultFiles::create(Arc::new(RealDisk), dir.clone(), &kek, [7; 16])?;
            }
            let files = VaultFiles::open(Arc::new(RealDisk), dir)?;
            let vault = Vault::open(files, Arc::new(index), kek, 100)?;
            assert_eq!(vault.settle()?, None);
            vault.catch_up(&mut |_, _| {})?;
            Ok(vault)
        }
    }

    fn subject(id: u32) -> Subject {
        Subject::parse(&format!("email:person{id}@example.org")).unwrap()
    }

    #[test]
    fn subjects_are_found_again_with_their_keys() {
        let place = Place::new();
        let vault = place.open();
        assert_eq!(vault.find(&subject(1)).unwrap(), None);
        let new = vault.create(&subject(1));
        assert_eq!(vault.find(&subject(1)).unwrap(), None, "nothing is kept before persist");
        let sealed = vault.seal_evidence(&new.key, None, b"shown");
        vault.persist(std::slice::from_ref(&new)).unwrap();
        let check = |vault: &Vault| {
            let found = vault.find(&subject(1)).unwrap().unwrap();
            assert_eq!(found, new.subject_ref);
            assert_eq!(vault.identity(found).unwrap(), Identity::Known(subject(1)));
            assert_eq!(vault.open_evidence(found, None, &sealed).unwrap().as_slice(), b"shown");
            assert!(vault.accounts_for(found).unwrap());
            assert_eq!(vault.find(&subject(2)).unwrap(), None);
        };
        check(&vault);
        drop(vault);
        check(&place.open());
        std::fs::remove_dir_all(place.dir.path().join("view")).unwrap();
        check(&place.open());
    }

    #[test]
    fn evidence_opens_for_its_own_subject_and_key_only() {
        let place = Place::new();
        let vault = place.open();
        let (one, two) = (vault.create(&subject(1)), vault.create(&subject(2)));
        let mark = IdempotencyMark { key_hash: [1; 32], request_digest: [2; 32] };
        let sealed = vault.seal_evidence(&one.key, Some(&mark), b"shown");
        let (one_ref, two_ref) = (one.subject_ref, two.subject_ref);
        vault.persist(&[one, two]).unwrap();
        assert!(vault.open_evidence(one_ref, Some(&mark), &sealed).is_ok());
        assert!(vault.open_evidence(one_ref, None, &sealed).is_err());
        assert!(vault.open_evidence(two_ref, Some(&mark), &sealed).is_err());
    }

    #[test]
    fn another_key_is_refused() {
        let place = Place::new();
        drop(place.open());
        assert!(matches!(place.open_with(Kek::random()), Err(VaultError::WrongKey)));
    }

    #[test]
    fn a_vault_that_lost_frames_is_refused() {
        let place = Place::new();
        let vault = place.open();
        let new = vault.create(&subject(1));
        vault.persist(&[new]).unwrap();
        drop(vault);
        std::fs::remove_dir_all(place.dir.path().join(DIR)).unwrap();
        let error = place.open_with(place.kek.clone()).unwrap_err();
        assert!(matches!(error, VaultError::LostFrames { frames: 1, known: 2 }), "{error}");
    }

    #[test]
    fn damage_in_an_older_segment_is_found_by_who_looks() {
        let place = Place::new();
        let vault = place.open();
        let new: Vec<_> = (0..50).map(|id| vault.create(&subject(id))).collect();
        vault.persist(&new).unwrap();
        drop(vault);
        let vault = place.open();
        let verify = |vault: &Vault| vault.verify(&RealDisk, &mut |_, _| ControlFlow::Continue(()));
        assert!(verify(&vault).unwrap());
        let stopped = vault.verify(&RealDisk, &mut |_, _| ControlFlow::Break(()));
        assert!(!stopped.unwrap());
        let first = place.dir.path().join(DIR).join(format!("{:020}.seg", 0));
        let mut bytes = std::fs::read(&first).unwrap();
        bytes[2_000] ^= 1;
        std::fs::write(&first, bytes).unwrap();
        let error = verify(&vault).unwrap_err();
        assert!(matches!(error, VaultError::Log(LogError::Damaged(_))), "{error}");
    }

    #[test]
    fn no_identity_is_on_disk_in_clear() {
        let place = Place::new();
        let vault = place.open();
        let new: Vec<_> = (0..50).map(|id| vault.create(&subject(id))).collect();
        vault.persist(&new).unwrap();
        drop(vault);
        let found = |text: &str| {
            let grep = std::process::Command::new("grep")
                .args(["-rqa", text])
                .arg(place.dir.path())
                .status()
                .unwrap();
            grep.success()
        };
        assert!(found("VALT"), "the search works");
        assert!(!found("person7@") && !found("example.org"));
    }
}
