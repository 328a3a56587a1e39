//! Opening a data directory: lock, recover, bring view and tree up to date.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::RngExt;
use thiserror::Error;
use tracing::{error, info, warn};

use super::{NodeConfig, signing::OpenedTree};
use crate::{
    backend::{Appended, BackendError, LocalLog, LogBackend},
    domain::{Body, LedgerOpened, Millis},
    entry::{Entry, EntryError},
    ledger::{
        self,
        chain::{self, Tip},
        envelope, verify,
    },
    storage::{
        AtPath as _, FileError, LogError,
        disk::Disk,
        holds_segments, if_exists,
        index::{Found, Index, IndexError},
    },
    tlog::{
        checkpoint::CheckpointError,
        key::{Algorithm, SignerKey},
        merkle::{self, Hash, Range},
        note::SignatureError,
    },
    tree::{
        self, Book, BookError, Signed, SigningKeyError, TreeError, TreeFiles, TreeWriter, load_key,
    },
    vault::{self, Kek, KekError, Vault, VaultError, VaultFiles},
    view::{self, Unusable, View, ViewError},
};

/// Name of the view's folder in a data directory.
pub const VIEW_DIR: &str = "view";
/// Name of the key-encryption key's file in a data directory.
pub const KEK_FILE: &str = "kek";
/// Name of the lock file in a data directory.
const LOCK_FILE: &str = "lock";

/// How far the last entry may lie in the future without a warning, in milliseconds.
const CLOCK_AHEAD_MS_NOTABLE: i64 = 10_000;

/// How many entries and about how many bytes are folded at once while the view catches up.
const CATCH_UP_ENTRIES: u64 = 2_000;
const CATCH_UP_BYTES: usize = 4 << 20;

/// The look-ups from identity to subject get one part in so many of the hot memory.
const HOT_LOOKUPS_PART: u64 = 4;
/// Memory of one look-up.
const LOOKUP_BYTES: u64 = 96;
/// The smallest number of look-ups in memory.
const HOT_SUBJECTS_MIN: usize = 1_000;

/// Why a node did not start. Ledger and vault are unchanged, except that a torn tail may have been set
/// aside. View and tree, which are disposable, may have been deleted or rebuilt.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the data directory.
    #[error(
        "{dir} is in use by another process{}; stop it first, or choose another --data-dir",
        pid.as_ref().map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Process id of the other process, if it wrote one.
        pid: Option<String>,
    },
    /// The path of the data directory is not a directory.
    #[error("{0} is not a directory; choose another --data-dir")]
    NotADirectory(PathBuf),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no usable key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The ledger can not be opened.
    #[error("the ledger can not be opened: {0}")]
    Ledger(#[from] BackendError),
    /// The ledger's files are damaged.
    #[error("the ledger can not be opened: {0}")]
    Damaged(#[from] verify::VerifyError),
    /// An entry that the view needs can not be read.
    #[error("ledger entry {index}: {problem}")]
    Entry {
        /// Index of the entry.
        index: u64,
        /// The problem.
        problem: EntryError,
    },
    /// The vault can not be opened.
    #[error("{0}")]
    Vault(#[from] VaultError),
    /// The view can not be brought up to date.
    #[error("the view can not be brought up to date: {0}")]
    View(#[from] ViewError),
    /// The index can not be opened.
    #[error("the view can not be opened: {0}")]
    Index(#[from] IndexError),
    /// The book of checkpoints can not be read or written.
    #[error("{0}")]
    Book(#[from] BookError),
    /// There is no usable signing key.
    #[error("{0}")]
    SigningKey(#[from] SigningKeyError),
    /// The signing key is missing, or is not the key that signed the last checkpoint.
    #[error(
        "{0} does not hold the key that the last checkpoint was signed with. Restore it, or say \
         --new-signing-key to go on with another one, and tell everybody who verifies"
    )]
    KeyMissing(PathBuf),
    /// The last checkpoint is of another ledger.
    #[error("{book} is of the ledger `{found}`, this one is `{wanted}`. Restore the right one")]
    BookForeign {
        /// The book.
        book: PathBuf,
        /// The ledger that it is of.
        found: String,
        /// This ledger.
        wanted: String,
    },
    /// The last checkpoint was changed since it was signed.
    #[error(
        "the checkpoint in {book} was changed since it was signed with the key in {key}. Restore the \
         file; the key is the right one, keep it"
    )]
    NoteChanged {
        /// The book.
        book: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The tree can not be built.
    #[error("the tree over the ledger can not be built: {0}")]
    Tree(#[from] TreeError),
    /// The book of checkpoints is missing although the key may have signed checkpoints.
    #[error(
        "{book} is missing, which says what was signed with {key}. Restore it (is this the right data \
         directory?); if nothing was ever signed with this key, say --unused-signing-key"
    )]
    BookMissing {
        /// The book.
        book: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The ledger is not the one that the last checkpoint was signed for.
    #[error(
        "the first {size} ledger entries are not those that a checkpoint was signed for: the ledger \
         was changed since, or one of the two is another's"
    )]
    Rewritten {
        /// Number of entries under the checkpoint.
        size: u64,
    },
    /// The identities of another version of the canonical form could not be brought into this one's.
    #[error("identities could not be brought into their new canonical form: {0}")]
    Forms(super::WriteError),
    /// One of ledger and vault exists without the other.
    #[error(
        "{missing} is missing although {present} is there; restore it from a backup, or start with \
         an empty data directory"
    )]
    Half {
        /// The missing store.
        missing: PathBuf,
        /// The existing store.
        present: PathBuf,
    },
    /// Ledger and vault do not belong together.
    #[error("{ledger} and {vault} belong to different ledgers")]
    Foreign {
        /// The ledger's folder.
        ledger: PathBuf,
        /// The vault's folder.
        vault: PathBuf,
    },
    /// The ledger names a subject that the vault does not hold.
    #[error(
        "ledger entry {index} names a subject that the vault does not hold: the vault has lost \
         data. Restore it from a backup that is at least as new as the ledger"
    )]
    SubjectMissing {
        /// Index of the entry.
        index: u64,
    },
}

impl OpenError {
    /// Whether stored data is damaged.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let is_log_damage = |error: &LogError| matches!(error, LogError::Damaged(_));
        match self {
            Self::Ledger(BackendError::Log(error))
            | Self::Damaged(verify::VerifyError::Log(error))
            | Self::Vault(VaultError::Log(error)) => is_log_damage(error),
            Self::Ledger(BackendError::Chain { .. })
            | Self::Entry { .. }
            | Self::SubjectMissing { .. }
            | Self::Rewritten { .. }
            | Self::NoteChanged { .. }
            | Self::Book(BookError::Malformed { .. })
            | Self::Vault(
                VaultError::LostFrames { .. } | VaultError::Frame { .. } | VaultError::Order(_),
            ) => true,
            _ => false,
        }
    }
}

/// Progress of opening a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Vault frames indexed, and their total.
    Vault(u64, u64),
    /// Ledger entries applied to the view, and their total.
    View(u64, u64),
    /// Ledger entries hashed into the tree, and their total.
    Tree(u64, u64),
    /// Data subjects looked at whose canonical form may be of another version, and their total.
    Forms(u64, u64),
}

/// The stores of a data directory, up to date.
pub(super) struct Stores {
    pub log: Arc<dyn LogBackend>,
    pub vault: Arc<Vault>,
    pub view: Arc<View>,
    pub index: Arc<Index>,
    pub book: Book,
    /// The end of the chain.
    pub tip: Tip,
    /// The content of entry 0.
    pub ledger: LedgerOpened,
    /// Recovery has verified the entries from this index on.
    pub checked_from: u64,
    /// Number of torn tails that were set aside.
    pub torn_tails: u64,
    pub lock: DirLock,
}

/// Opens or creates a data directory.
pub(super) fn open(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Stores, OpenedTree), OpenError> {
    let mut stores = open_stores(config, disk, progress)?;
    let key = signing_key(config, &stores.ledger.origin, &stores.book)?;
    let dir = config.data_dir.join(tree::DIR);
    let signed = stores.book.signed.as_deref();
    let (writer, signed_range) = open_tree(disk, &dir, &*stores.log, signed, progress)?;
    stores.lock.announce()?;
    let ahead_ms = stores.tip.recorded_at.0.saturating_sub(Millis::now().0);
    if ahead_ms > CLOCK_AHEAD_MS_NOTABLE {
        warn!(ahead_ms, "the ledger's last entry lies in the future: is the clock right?");
    }
    Ok((stores, OpenedTree { writer, signed_range, key }))
}

/// Deletes the view of a data directory and builds it again. Answers the number of entries and of data
/// subjects.
///
/// # Errors
/// The directory is in use, damaged, or can not be written.
pub fn rebuild_view(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(u64, u64), OpenError> {
    let lock = DirLock::take(&config.data_dir)?;
    let dir = config.data_dir.join(VIEW_DIR);
    if_exists(fs::remove_dir_all(&dir)).at(&dir)?;
    drop(lock);
    let stores = open_stores(config, disk, progress)?;
    let rebuilt = (stores.view.applied(), stores.vault.subjects());
    stores.index.close()?;
    Ok(rebuilt)
}

fn open_stores(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Stores, OpenError> {
    // `Disk` syncs the parent, so that the directory survives a power cut.
    let created = disk.create_dir_all(&config.data_dir);
    created.map_err(|source| not_created(&config.data_dir, source))?;
    let lock = DirLock::take(&config.data_dir)?;
    let [ledger_dir, vault_dir] = [ledger::DIR, vault::DIR].map(|name| config.data_dir.join(name));
    let had_ledger = holds_segments(&**disk, &ledger_dir).map_err(BackendError::from)?;
    let had_vault = holds_segments(&**disk, &vault_dir).map_err(VaultError::from)?;
    if had_ledger && !had_vault {
        return Err(OpenError::Half { missing: vault_dir, present: ledger_dir });
    }
    let book = read_book(config, &**disk, had_ledger)?;
    let kek = match &config.kek {
        Some(kek) => kek.clone(),
        None => {
            let file = config.kek_file.clone().unwrap_or(config.data_dir.join(KEK_FILE));
            Kek::from_file(&file, !had_vault)?
        }
    };

    // The vault is created before the ledger, so the identity in the vault counts.
    let new_ledger_id = rand::rng().random();
    let (files, vault_torn) =
        VaultFiles::open(Arc::clone(disk), vault_dir.clone(), &kek, new_ledger_id)?;
    let ledger_id = files.ledger_id();
    if !had_ledger && !files.is_empty() {
        return Err(OpenError::Half { missing: ledger_dir, present: vault_dir });
    }
    let (log, mut opened) = open_log(config, disk, &ledger_dir, ledger_id, book.size())?;
    if opened.log_id != ledger_id {
        return Err(OpenError::Foreign { ledger: ledger_dir, vault: vault_dir });
    }
    let mut torn_tails = 0;
    for (store, tail) in [("ledger", &opened.torn), ("vault", &vault_torn)] {
        let Some(tail) = tail else { continue };
        torn_tails += 1;
        warn!(
            log = store,
            segment = %tail.segment,
            offset = tail.offset,
            bytes = tail.bytes,
            index = tail.next_index,
            set_aside = ?tail.set_aside,
            "a torn tail was set aside: a crash cut off a write before it was acknowledged"
        );
    }
    if log.head() == 0 {
        if !files.is_empty() {
            return Err(OpenError::Half { missing: ledger_dir, present: vault_dir });
        }
        opened.tip = create(&log, ledger_id, &config.origin)?;
    }
    let ledger = first_entry(&log)?;
    if ledger.ledger_id != ledger_id {
        return Err(OpenError::Foreign { ledger: ledger_dir, vault: vault_dir });
    }

    let index = open_index(config, &ledger_id, &log)?;
    let hot_lookups_bytes = config.hot_bytes_max / HOT_LOOKUPS_PART;
    let hot_subjects_max = usize::try_from(hot_lookups_bytes / LOOKUP_BYTES).unwrap_or(usize::MAX);
    let hot_subjects_max = hot_subjects_max.max(HOT_SUBJECTS_MIN);
    let vault = Vault::open(files, Arc::clone(&index), kek, hot_subjects_max)?;
    vault.catch_up(&mut |done, total| progress(Progress::Vault(done, total)))?;
    let hot_states_bytes = config.hot_bytes_max - hot_lookups_bytes;
    let view = View::open(Arc::clone(&index), &ledger_id, hot_states_bytes, |index| {
        read_entry(&log, index)
    })?;
    catch_up(&log, &vault, &view, progress)?;
    Ok(Stores {
        log: Arc::new(log),
        vault: Arc::new(vault),
        view: Arc::new(view),
        index,
        book,
        tip: opened.tip,
        ledger,
        checked_from: opened.checked_from,
        torn_tails,
        lock,
    })
}

/// Why a data directory can not be created.
fn not_created(dir: &Path, source: io::Error) -> OpenError {
    if dir.exists() && !dir.is_dir() {
        OpenError::NotADirectory(dir.to_owned())
    } else {
        FileError { path: dir.to_owned(), source }.into()
    }
}

/// Opens the ledger's log. If an entry does not continue the chain, verification runs to name its
/// place.
fn open_log(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    new_id: [u8; 16],
    entries_min: u64,
) -> Result<(LocalLog, crate::backend::Opened), OpenError> {
    let segment_bytes_max = config.segment_bytes_max;
    match LocalLog::open(Arc::clone(disk), dir.to_owned(), segment_bytes_max, new_id, entries_min) {
        Err(error @ BackendError::Chain { .. }) => {
            verify::verify(&**disk, dir, &mut |_, _| {})?;
            Err(error.into())
        }
        other => Ok(other?),
    }
}

/// Opens the index. Deletes an index that is not a view of this ledger.
fn open_index(
    config: &NodeConfig,
    ledger_id: &[u8; 16],
    log: &LocalLog,
) -> Result<Arc<Index>, OpenError> {
    let dir = config.data_dir.join(VIEW_DIR);
    let (index, found) = Index::open(&dir, config.sled_cache_bytes)?;
    if let Found::Discarded(reason) = found {
        warn!(reason, "the view is thrown away and rebuilt from the ledger");
    }
    let hash_of = |index| {
        if index >= log.head() {
            return Ok(None);
        }
        let bytes = log.read(index, index + 1, usize::MAX)?.pop();
        Ok::<_, OpenError>(bytes.map(|bytes| chain::hash(&bytes)))
    };
    let reason = match view::unusable(&index, ledger_id, hash_of)? {
        None | Some(Unusable::Empty) => return Ok(Arc::new(index)),
        Some(Unusable::Foreign) => "it is of another ledger or format",
        Some(Unusable::Forked) => {
            error!("the view is of another copy of this ledger: one of the two was put back");
            "it is of another copy of the ledger"
        }
        Some(Unusable::Ahead { applied }) => {
            error!(
                applied,
                entries = log.head(),
                "the view had applied more entries than the ledger has: acknowledged entries are lost"
            );
            "it is ahead of the ledger"
        }
    };
    warn!(reason, "the view is thrown away and rebuilt from the ledger");
    drop(index);
    if_exists(fs::remove_dir_all(&dir)).at(&dir)?;
    Ok(Arc::new(Index::open(&dir, config.sled_cache_bytes)?.0))
}

/// Writes entry 0.
fn create(log: &LocalLog, ledger_id: [u8; 16], origin: &str) -> Result<Tip, OpenError> {
    let now = Millis::now();
    let opened = LedgerOpened {
        ledger_id,
        origin: origin.to_owned(),
        format_version: ledger::FORMAT_VERSION,
        created_at: now,
    };
    let linked = Tip::genesis().link(now, Body::Opened(opened));
    let (_, bytes, tip) = linked.map_err(|problem| BackendError::Chain { index: 0, problem })?;
    match log.append(0, &[bytes])? {
        Appended::Landed => {
            info!(origin, "a new ledger was created");
            Ok(tip)
        }
        Appended::Lost { .. } => unreachable!("the directory is locked"),
    }
}

fn first_entry(log: &LocalLog) -> Result<LedgerOpened, OpenError> {
    let entry = read_entry(log, 0)?;
    let opened = entry.body.opened().cloned();
    opened.ok_or(OpenError::Entry { index: 0, problem: EntryError::Body })
}

fn read_entry(log: &LocalLog, index: u64) -> Result<Entry, OpenError> {
    let bytes = log.read(index, index + 1, usize::MAX)?.pop().unwrap_or_default();
    envelope::decode(&bytes).map_err(|problem| OpenError::Entry { index, problem })
}

/// Applies the entries that the view does not have yet.
fn catch_up(
    log: &LocalLog,
    vault: &Vault,
    view: &View,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), OpenError> {
    let head = log.head();
    let mut next = view.applied();
    if next < head {
        info!(applied = next, entries = head, "bringing the view up to date");
    }
    while next < head {
        let mut entries = Vec::new();
        let mut chain_hash = [0; 32];
        for bytes in log.read(next, head.min(next + CATCH_UP_ENTRIES), CATCH_UP_BYTES)? {
            let entry = envelope::decode(&bytes)
                .map_err(|problem| OpenError::Entry { index: next, problem })?;
            for subject in entry.body.kind().named() {
                if !vault.accounts_for(subject)? {
                    return Err(OpenError::SubjectMissing { index: next });
                }
            }
            chain_hash = chain::hash(&bytes);
            entries.push(entry);
            next += 1;
        }
        view.catch_up(&entries, chain_hash)?;
        progress(Progress::View(next, head));
    }
    Ok(())
}

/// The signing key. A lost key is not replaced in silence, because every auditor needs the new one.
fn signing_key(config: &NodeConfig, origin: &str, book: &Book) -> Result<SignerKey, OpenError> {
    let file = signing_key_file(config);
    if book.size() > 0 && !config.new_signing_key && !file.exists() {
        return Err(OpenError::KeyMissing(file));
    }
    let key = load_key(&file, origin, Algorithm::Note)?;
    let signed = book.signed.as_deref().map(|signed| signed.checkpoint.verify(key.verifier()));
    match signed {
        Some(Err(CheckpointError::Signature(SignatureError::Bad(_)))) => {
            let book = config.data_dir.join(tree::BOOK_FILE);
            return Err(OpenError::NoteChanged { book, key: file });
        }
        // The name of the key is the ledger's: the checkpoint is not.
        Some(Err(CheckpointError::Origin { found, wanted })) => {
            let book = config.data_dir.join(tree::BOOK_FILE);
            return Err(OpenError::BookForeign { book, found, wanted });
        }
        Some(Err(_)) if !config.new_signing_key => return Err(OpenError::KeyMissing(file)),
        Some(Ok(()) | Err(_)) | None => {}
    }
    Ok(key)
}

fn signing_key_file(config: &NodeConfig) -> PathBuf {
    config.signing_key_file.clone().unwrap_or_else(|| config.data_dir.join(tree::KEY_FILE))
}

/// Reads the book of checkpoints, or creates it. It is created before the key: a key without a book
/// means that the book is lost.
fn read_book(config: &NodeConfig, disk: &dyn Disk, had_ledger: bool) -> Result<Book, OpenError> {
    if let Some(book) = Book::read(disk, &config.data_dir, &config.witness_policy)? {
        if !had_ledger && book.size() > 0 {
            let (missing, present) = (config.data_dir.join(ledger::DIR), tree::BOOK_FILE.into());
            return Err(OpenError::Half { missing, present });
        }
        return Ok(book);
    }
    let (key, tree) = (signing_key_file(config), config.data_dir.join(tree::DIR));
    let has_signed = key.exists() || (had_ledger && tree.exists());
    if has_signed && !config.unused_signing_key {
        return Err(OpenError::BookMissing { book: config.data_dir.join(tree::BOOK_FILE), key });
    }
    let book = Book::default();
    book.write(disk, &config.data_dir)?;
    Ok(book)
}

/// Opens the tree or builds it again, and brings it to the ledger's head. It must have the root of the
/// last signed checkpoint. Answers the subtrees under that checkpoint, too.
fn open_tree(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    log: &dyn LogBackend,
    signed: Option<&Signed>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(TreeWriter, Range), OpenError> {
    let (size, root) =
        signed.map_or((0, merkle::empty_root()), |signed| (signed.size(), signed.root()));
    let files = match found_tree(disk, dir, size, &root)? {
        Some(files) => files,
        None => {
            info!(entries = log.head(), "the tree is built from the ledger");
            TreeFiles::create(Arc::clone(disk), dir)?
        }
    };
    let mut writer = TreeWriter::new(files)?;
    grow(&mut writer, log, size, progress)?;
    if writer.root() != root {
        return Err(OpenError::Rewritten { size });
    }
    let signed_range = writer.range().clone();
    grow(&mut writer, log, log.head(), progress)?;
    Ok((writer, signed_range))
}

/// The tree in its files, if it has the root of the signed checkpoint.
fn found_tree(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    size: u64,
    root: &Hash,
) -> Result<Option<TreeFiles>, OpenError> {
    if size == 0 {
        return Ok(None);
    }
    match TreeFiles::open(Arc::clone(disk), dir, size) {
        Ok(files) if files.root(size)? == *root => Ok(Some(files)),
        Ok(_) => {
            warn!("the root of the tree's files is not the one that was signed");
            Ok(None)
        }
        Err(error @ TreeError::Short { .. }) => {
            warn!(%error, "the tree's files can not be used");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds the entries before `end` to the tree.
fn grow(
    writer: &mut TreeWriter,
    log: &dyn LogBackend,
    end: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), OpenError> {
    while writer.size() < end {
        for bytes in log.read(writer.size(), end, CATCH_UP_BYTES)? {
            writer.push(merkle::leaf_hash(&bytes));
        }
        writer.write()?;
        progress(Progress::Tree(writer.size(), log.head()));
    }
    Ok(())
}

/// Locks a data directory against other processes until it is dropped.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
    path: PathBuf,
}

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_FILE);
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(&path).at(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let pid = file.read_to_string(&mut pid).ok().map(|_| pid.trim().to_owned());
                let pid = pid.filter(|pid| !pid.is_empty());
                return Err(OpenError::InUse { dir: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => {
                return Err(FileError { path, source }.into());
            }
        }
        Ok(Self { file, path })
    }

    /// Writes the id of this process into the lock file, for the error message of other processes.
    fn announce(&mut self) -> Result<(), OpenError> {
        self.file.set_len(0).at(&self.path)?;
        Ok(writeln!(self.file, "{}", std::process::id()).at(&self.path)?)
    }
}
