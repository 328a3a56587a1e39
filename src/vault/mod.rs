//! The vault: the identities and keys of subjects. The only primary data that may ever be deleted.
//!
//! Its frames ([`crate::format::vault`]) are stored like those of the ledger, and are durable before the
//! first entry that needs them. Each is sealed under the vault's key, which the key-encryption key wraps,
//! and bound to all frames before it. The index finds a frame by a keyed hash of the identity; these rows
//! can be rebuilt from the frames at any time.

mod kek;
mod keys;
mod offline;

use std::{
    borrow::Borrow,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use hashbrown::{DefaultHashBuilder, HashSet};
pub use kek::{Kek, KekError, KekFile, LedgerNote};
use keys::Key;
pub use offline::{Inspected, People, inspect};
use parking_lot::Mutex;
use quick_cache::{UnitWeighter, sync::Cache};
use rand::RngExt;
use thiserror::Error;

use crate::{
    domain::{Identity, Subject, SubjectError, SubjectRef},
    format::{
        Tag,
        keys::{
            ledger::{ConfidentialRoot, LedgerSecret},
            person::PersonKeys,
        },
        vault::{self as format, Content, Secrets, Vault as Chain},
    },
    ledger::sealed::{Lane, Person},
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

/// The largest frame; most have about 650 bytes.
const FRAME_BYTES_MAX: u32 = 36 << 10;
/// Vault segments are small, so that each can be compacted by itself; in tests, so that there are several.
const SEGMENT_BYTES_MAX: u64 = if cfg!(test) { 4 << 10 } else { 16 << 20 };
/// The greatest number of opened subjects that are kept in memory.
const PERSONS_MAX: usize = 50_000;
/// How many frames are indexed between two calls of `progress`.
const INDEX_STEP: u64 = 1_000;
/// How many bytes of frames are read at once while indexing, at most.
const INDEX_READ_BYTES_MAX: usize = 1 << 20;

/// Why an operation of the vault failed.
#[derive(Debug, Error)]
pub enum VaultError {
    /// Its files can not be read or written, or are damaged.
    #[error("vault: {0}")]
    Log(#[from] LogError),
    /// The index failed.
    #[error("vault look-up: {0}")]
    Index(#[from] IndexError),
    /// A frame is none, is not the next one, or does not open.
    #[error(transparent)]
    Frame(format::VaultError),
    /// The key-encryption key is not the one that the vault was sealed with.
    #[error(
        "the key-encryption key is not the one that the vault was sealed with; give the right one \
         by --kek-file or CONSENT_LEDGER_KEK"
    )]
    WrongKey,
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
    /// A frame is of a subject that an earlier frame has: by its identity, its id or its keys.
    #[error(
        "vault frame {number}: an earlier frame has the same data subject, id or keys, and no vault that a \
         server wrote has that. Restore the vault from a backup"
    )]
    Repeated {
        /// Number of the frame.
        number: u64,
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
    log: Mutex<Written>,
    reader: LogReader,
    dir: PathBuf,
    index: Arc<Index>,
    /// The vault after its first frame, which opens every other.
    opened: Chain,
    confidential: ConfidentialRoot,
    lookups: Lru<[u8; 32], SubjectRef>,
    persons: Lru<SubjectRef, Arc<Person>>,
}

/// The log, and what continues it.
#[derive(Debug)]
struct Written {
    frames: FrameLog,
    chain: Chain,
}

/// The opened files of the vault, before look-ups are possible.
#[derive(Debug)]
pub struct VaultFiles {
    dir: PathBuf,
    log: FrameLog,
    first_frame: Vec<u8>,
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
            let rng = &mut rand::rng();
            let (_, frame) = Chain::create(log.id(), kek.key(), Secrets::random(rng), rng)?;
            log.append(&[frame])?;
        }
        let files = Self::of(log, dir)?;
        files.unlock(kek)?;
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
        let first_frame = log.reader().read(0)?;
        format::ledger_of(&first_frame)?;
        Ok(Self { dir, log, first_frame })
    }

    /// The chain of the vault after its first frame, with the secrets.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`], or the first frame is not one.
    pub fn unlock(&self, kek: &Kek) -> Result<Chain, VaultError> {
        Ok(Chain::open(self.log.id(), kek.key(), &self.first_frame)?)
    }

    /// Identity of the ledger that the vault belongs to.
    #[must_use]
    pub fn ledger_id(&self) -> [u8; 16] {
        self.log.id()
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

impl From<format::VaultError> for VaultError {
    fn from(error: format::VaultError) -> Self {
        match error {
            format::VaultError::WrongKey => Self::WrongKey,
            error => Self::Frame(error),
        }
    }
}

/// A subject that is not in the vault yet.
#[derive(Debug)]
pub struct NewSubject {
    /// Who it is, and its keys.
    pub person: Arc<Person>,
    lookup: [u8; 32],
}

impl Vault {
    /// Unlocks the vault. Look-ups are complete only after [`Self::catch_up`]; up to `hot_subjects_max`
    /// of them are kept in memory.
    ///
    /// # Errors
    /// [`VaultError::WrongKey`].
    pub fn open(
        files: VaultFiles,
        index: Arc<Index>,
        kek: &Kek,
        hot_subjects_max: usize,
    ) -> Result<Self, VaultError> {
        let opened = files.unlock(kek)?;
        let VaultFiles { dir, log, .. } = files;
        Ok(Self {
            reader: log.reader(),
            dir,
            log: Mutex::new(Written { frames: log, chain: opened.clone() }),
            index,
            confidential: opened.secrets().ledger.confidential(),
            opened,
            lookups: cache(hot_subjects_max),
            persons: cache(PERSONS_MAX),
        })
    }

    /// Sets a torn tail aside, which nothing needs, and reports it. Must come before the first
    /// [`Self::persist`].
    ///
    /// # Errors
    /// The disk failed.
    pub fn settle(&self) -> Result<Option<TornTail>, VaultError> {
        Ok(self.log.lock().frames.settle()?)
    }

    /// Indexes all frames. Calls `progress` with the number of indexed frames and their total.
    ///
    /// # Errors
    /// A frame can not be read, or the vault has lost frames.
    pub fn catch_up(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), VaultError> {
        let frames = self.reader.next_index();
        let mut log = self.log.lock();
        let known = match self.index.get(&Key::Indexed.encode())? {
            None => 1,
            Some(row) => {
                let (known, mac) = row.split_first_chunk().ok_or(VaultError::Row)?;
                let known = u64::from_be_bytes(*known);
                if known > frames {
                    return Err(VaultError::LostFrames { frames, known });
                }
                let (last, mac) = (known.saturating_sub(1), mac.try_into());
                let mac = mac.map_err(|_| VaultError::Row)?;
                log.chain.resume(last, mac, &self.reader.read(last)?)?;
                known
            }
        };
        let mut next = known;
        while next < frames {
            let end = frames.min(next + INDEX_STEP);
            let (mut rows, mut met) = (Vec::new(), HashSet::new());
            for bytes in self.reader.read_range(next, end, INDEX_READ_BYTES_MAX)? {
                let (id, content) = log.chain.follow(&bytes)?;
                if let Content::Person(person) = content {
                    let lookup = self.opened.secrets().lookup(&person.identity);
                    for (key, row) in subject_rows(&lookup, SubjectRef(id), &person.keys, next) {
                        // A look-up that was written before a crash is the same again.
                        let known = self.index.get(&key)?;
                        if !met.insert(key.clone()) || known.is_some() && known != row {
                            return Err(VaultError::Repeated { number: next });
                        }
                        rows.push((key, row));
                    }
                }
                next += 1;
            }
            rows.push(indexed_row(&log.chain));
            self.index.put(rows)?;
            progress(next, frames);
        }
        Ok(())
    }

    /// Reads all frames from the disk, follows their chain, and answers whether it reached their end. Opening
    /// reads only what is new. `visit` gets the bytes and number of each frame, and may stop the walk.
    ///
    /// # Errors
    /// The first damage.
    pub fn verify(
        &self,
        disk: &dyn Disk,
        visit: &mut dyn FnMut(&[u8], u64) -> ControlFlow<()>,
    ) -> Result<bool, VaultError> {
        let frames = self.reader.next_index();
        let end = self.reader.first_index_of_last_segment();
        let (mut next, mut chain) = (0, self.opened.clone());
        let mut problem = None;
        let mut step = |payload: &[u8], number| {
            problem = match number {
                0 => format::check_form(0, payload).err(),
                _ => chain.pass(payload).err(),
            };
            problem.is_none() && visit(payload, number).is_continue()
        };
        let walked = scan(disk, &self.dir, LOG_KIND, FRAME_BYTES_MAX, 0, &mut |frame| {
            if frame.index == end || !step(frame.payload, frame.index) {
                return ControlFlow::Break(String::new());
            }
            next = frame.index + 1;
            ControlFlow::Continue(())
        });
        match walked {
            // The walk was stopped here, in the middle or where the newest segment begins.
            Err(LogError::Damaged(damage)) if damage.problem.is_empty() => {}
            walked => drop(walked?),
        }
        // The newest segment is being written: the reader knows where its last whole frame ends.
        let mut goes_on = next == end;
        while goes_on && next < frames {
            for payload in self.reader.read_range(next, frames, INDEX_READ_BYTES_MAX)? {
                goes_on = goes_on && step(&payload, next);
                next += u64::from(goes_on);
            }
        }
        problem.map_or(Ok(next == frames), |problem| Err(problem.into()))
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
        frames.filter_map(|at| match self.read(at) {
            Ok(None) => None,
            Ok(Some(person)) if self.has_erased(person.subject_ref) => {
                Some(Ok((person.subject_ref, Identity::Erased)))
            }
            Ok(Some(person)) => Some(Ok((person.subject_ref, Identity::Known(person.identity)))),
            Err(error) => Some(Err(error)),
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

    /// Makes a reference and keys for a subject. Stores nothing: see [`Self::persist`].
    #[must_use]
    pub fn create(&self, subject: &Subject) -> NewSubject {
        let subject_ref = SubjectRef(rand::rng().random());
        let keys = PersonKeys::random(&mut rand::rng());
        let person = Arc::new(Person { subject_ref, keys, identity: subject.clone() });
        NewSubject { person, lookup: self.lookup(subject) }
    }

    /// Stores new subjects: durable, and found by look-ups, when the call returns.
    ///
    /// # Errors
    /// The first failed write or sync stops the vault; see [`FrameLog::append`].
    pub fn persist<S: Borrow<NewSubject>>(&self, subjects: &[S]) -> Result<(), VaultError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let mut log = self.log.lock();
        let Written { frames, chain } = &mut *log;
        let first = chain.next_number();
        let subjects: Vec<&NewSubject> = subjects.iter().map(Borrow::borrow).collect();
        let sealed = subjects.iter().map(|subject| {
            let Person { subject_ref, keys, identity } = &*subject.person;
            let person =
                format::Person { keys: keys.clone(), identity: identity.as_str().to_owned() };
            chain.append_as(subject_ref.0, &Content::Person(person), &mut rand::rng())
        });
        frames.append(&sealed.collect::<Result<Vec<_>, _>>()?)?;
        let mut rows = Vec::with_capacity(4 * subjects.len() + 1);
        for (frame, subject) in (first..).zip(&subjects) {
            let Person { subject_ref, keys, .. } = &*subject.person;
            rows.extend(subject_rows(&subject.lookup, *subject_ref, keys, frame));
        }
        rows.push(indexed_row(chain));
        self.index.put(rows)?;
        for subject in subjects {
            self.lookups.insert(subject.lookup, subject.person.subject_ref);
            self.persons.insert(subject.person.subject_ref, Arc::clone(&subject.person));
        }
        Ok(())
    }

    /// A subject: who it is, and its keys.
    ///
    /// # Errors
    /// [`VaultError::UnknownSubject`], also if the subject is erased, or the frame can not be read or
    /// opened.
    pub fn person(&self, subject: SubjectRef) -> Result<Arc<Person>, VaultError> {
        if let Some(person) = self.persons.get(&subject) {
            return Ok(person);
        }
        let person = Arc::new(self.frame(subject)?);
        self.persons.insert(subject, Arc::clone(&person));
        Ok(person)
    }

    /// The identity of a subject, which may be erased.
    ///
    /// # Errors
    /// [`VaultError::UnknownSubject`], or the frame can not be read or opened.
    pub fn identity(&self, subject: SubjectRef) -> Result<Identity, VaultError> {
        if self.has_erased(subject) {
            return Ok(Identity::Erased);
        }
        if let Some(person) = self.persons.get(&subject) {
            return Ok(Identity::Known(person.identity.clone()));
        }
        Ok(Identity::Known(self.frame(subject)?.identity))
    }

    /// The subject whose first tag in a lane this is.
    ///
    /// # Errors
    /// The look-up failed.
    pub fn first_tag(&self, tag: &Tag) -> Result<Option<(SubjectRef, Lane)>, VaultError> {
        let Some(row) = self.index.get(&Key::FirstTag(*tag).encode())? else { return Ok(None) };
        match row.split_first_chunk::<16>() {
            Some((subject, [0])) => Ok(Some((SubjectRef(*subject), Lane::Records))),
            Some((subject, [1])) => Ok(Some((SubjectRef(*subject), Lane::Uses))),
            _ => Err(VaultError::Row),
        }
    }

    /// Identity of the ledger.
    #[must_use]
    pub fn ledger_id(&self) -> [u8; 16] {
        *self.opened.ledger_id()
    }

    /// The ledger's secret.
    #[must_use]
    pub fn ledger_secret(&self) -> &LedgerSecret {
        &self.opened.secrets().ledger
    }

    /// The keys of what is confidential and names nobody.
    #[must_use]
    pub fn confidential(&self) -> &ConfidentialRoot {
        &self.confidential
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
        tests::ERASED.lock().contains(&(self.ledger_id(), subject))
    }

    /// Makes a subject appear erased, in every vault of this ledger.
    #[cfg(test)]
    pub(crate) fn pretend_erased(&self, subject: SubjectRef) {
        tests::ERASED.lock().insert((self.ledger_id(), subject));
        self.persons.remove(&subject);
        self.lookups.clear();
    }

    fn frame(&self, subject: SubjectRef) -> Result<Person, VaultError> {
        let row = self.index.get(&Key::Frame(subject.0).encode())?;
        let row = row.ok_or(VaultError::UnknownSubject(subject))?;
        let frame = u64::from_be_bytes(row.try_into().map_err(|_| VaultError::Row)?);
        match self.read(frame)? {
            Some(person) if person.subject_ref == subject => Ok(person),
            _ => Err(VaultError::Row),
        }
    }

    /// The person of a frame; none if it is a tombstone.
    fn read(&self, frame: u64) -> Result<Option<Person>, VaultError> {
        let (id, content) = self.opened.open_at(frame, &self.reader.read(frame)?)?;
        person(id, content)
    }

    fn lookup(&self, subject: &Subject) -> [u8; 32] {
        self.opened.secrets().lookup(subject.as_str())
    }
}

/// The person that a frame holds; none if it is a tombstone.
fn person(id: [u8; 16], content: Content) -> Result<Option<Person>, VaultError> {
    let Content::Person(format::Person { keys, identity }) = content else { return Ok(None) };
    let identity = Subject::parse(&identity).map_err(VaultError::Identity)?;
    Ok(Some(Person { subject_ref: SubjectRef(id), keys, identity }))
}

fn cache<K: Eq + std::hash::Hash, V: Clone>(items_max: usize) -> Lru<K, V> {
    let hasher = DefaultHashBuilder::default();
    Cache::with(items_max, items_max as u64, UnitWeighter, hasher, Default::default())
}

/// The rows that find a subject: by its identity, by its reference, and by its first tag in each lane.
fn subject_rows(
    lookup: &[u8; 32],
    subject: SubjectRef,
    keys: &PersonKeys,
    frame: u64,
) -> impl Iterator<Item = Row> {
    let frame = frame.to_be_bytes();
    let first_tag = |tag: Tag, lane: u8| {
        (Key::FirstTag(tag).encode(), Some([subject.0.as_slice(), &[lane]].concat()))
    };
    let rows = [
        (Key::Lookup(*lookup).encode(), Some([subject.0.as_slice(), &frame].concat())),
        (Key::Frame(subject.0).encode(), Some(frame.to_vec())),
        first_tag(keys.tags().tag(0), 0),
    ];
    rows.into_iter().chain(keys.use_tag(0).map(|tag| first_tag(tag, 1)))
}

fn indexed_row(chain: &Chain) -> Row {
    let (frames, mac) = (chain.next_number().to_be_bytes(), chain.mac());
    (Key::Indexed.encode(), Some([frames.as_slice(), &mac].concat()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tempfile::TempDir;

    use super::*;
    use crate::storage::{disk::RealDisk, scratch_index};

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
            self.open_with(&self.kek).unwrap()
        }

        fn open_with(&self, kek: &Kek) -> Result<Vault, VaultError> {
            let index = scratch_index(&self.dir.path().join("view"));
            let dir = self.dir.path().join(DIR);
            if !dir.exists() {
                VaultFiles::create(Arc::new(RealDisk), dir.clone(), kek, [7; 16])?;
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
        vault.persist(std::slice::from_ref(&new)).unwrap();
        let check = |vault: &Vault| {
            let found = vault.find(&subject(1)).unwrap().unwrap();
            assert_eq!(found, new.person.subject_ref);
            assert_eq!(vault.identity(found).unwrap(), Identity::Known(subject(1)));
            assert_eq!(vault.person(found).unwrap(), new.person);
            let keys = &new.person.keys;
            let first = vault.first_tag(&keys.tags().tag(0)).unwrap();
            assert_eq!(first, Some((found, Lane::Records)));
            let first = vault.first_tag(&keys.use_tag(0).unwrap()).unwrap();
            assert_eq!(first, Some((found, Lane::Uses)));
            assert_eq!(vault.first_tag(&keys.tags().tag(1)).unwrap(), None);
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
    fn a_second_frame_of_a_subject_is_refused_by_whoever_reads_the_frames() {
        for again in [1, 2] {
            let place = Place::new();
            let vault = place.open();
            vault.persist(&[vault.create(&subject(1)), vault.create(&subject(again))]).unwrap();
            drop(vault);
            std::fs::remove_dir_all(place.dir.path().join("view")).unwrap();
            match place.open_with(&place.kek) {
                Err(VaultError::Repeated { number: 2 }) => assert_eq!(again, 1),
                opened => assert!(opened.is_ok() && again == 2),
            }
        }
    }

    #[test]
    fn another_key_is_refused() {
        let place = Place::new();
        drop(place.open());
        assert!(matches!(place.open_with(&Kek::random()), Err(VaultError::WrongKey)));
    }

    #[test]
    fn a_vault_that_lost_frames_is_refused() {
        let place = Place::new();
        let vault = place.open();
        let new = vault.create(&subject(1));
        vault.persist(&[new]).unwrap();
        drop(vault);
        std::fs::remove_dir_all(place.dir.path().join(DIR)).unwrap();
        let error = place.open_with(&place.kek).unwrap_err();
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
