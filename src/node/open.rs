//! From a data directory to a running node: lock, recover, bring the view up to date.

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
        LogError, TornTail,
        disk::Disk,
        holds_segments,
        index::{Found, Index, IndexError},
    },
    tlog::{
        key::{Algorithm, SignerKey},
        merkle::{self, Hash, Range},
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

/// How far the last entry may lie in the future without a word, in milliseconds.
const CLOCK_AHEAD_MS_NOTABLE: i64 = 10_000;

/// How many entries, and about how many bytes, are folded at once while the view catches up.
const CATCH_UP_ENTRIES: u64 = 2_000;
const CATCH_UP_BYTES: usize = 4 << 20;

/// Why a node did not start. Nothing of ledger and vault was changed, except that a torn tail may have
/// been set aside. What is disposable, view and tree, may have been thrown away or built anew.
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
        /// The other process, if it left its number.
        pid: Option<String>,
    },
    /// The data directory is something else.
    #[error("{0} is not a directory; choose another --data-dir")]
    NotADirectory(PathBuf),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no usable key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The ledger can not be opened.
    #[error("the ledger can not be opened: {0}")]
    Ledger(#[from] BackendError),
    /// The ledger's files were verified and are damaged.
    #[error("the ledger can not be opened: {0}")]
    Damaged(#[from] verify::VerifyError),
    /// An entry that the view needs can not be read.
    #[error("ledger entry {index}: {problem}")]
    Entry {
        /// Index of the entry.
        index: u64,
        /// What is wrong.
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
    /// The signing key is gone, or is another than the one that has signed.
    #[error(
        "{0} does not hold the key that the last checkpoint was signed with. Restore it, or say \
         --new-signing-key to go on with another one, and tell everybody who verifies"
    )]
    KeyMissing(PathBuf),
    /// The tree can not be built.
    #[error("the tree over the ledger can not be built: {0}")]
    Tree(#[from] TreeError),
    /// The book of checkpoints is gone although the key may have signed.
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
    /// The ledger is not the one that was signed.
    #[error(
        "the first {size} ledger entries are not those that a checkpoint was signed for: the ledger \
         was changed since, or one of the two is another's"
    )]
    Rewritten {
        /// Number of entries under the checkpoint.
        size: u64,
    },
    /// One of the two primary stores is there without the other.
    #[error(
        "{missing} is missing although {present} is there; restore it from a backup, or start with \
         an empty data directory"
    )]
    Half {
        /// What is missing.
        missing: PathBuf,
        /// What is there.
        present: PathBuf,
    },
    /// Ledger and vault are not of one another.
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
    /// Whether stored data is damaged, rather than in use or out of reach.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let of_log = |error: &LogError| matches!(error, LogError::Damaged(_));
        match self {
            Self::Ledger(BackendError::Log(error))
            | Self::Damaged(verify::VerifyError::Log(error))
            | Self::Vault(VaultError::Log(error)) => of_log(error),
            Self::Ledger(BackendError::Chain { .. })
            | Self::Entry { .. }
            | Self::SubjectMissing { .. }
            | Self::Rewritten { .. }
            | Self::Vault(
                VaultError::LostFrames { .. } | VaultError::Frame { .. } | VaultError::Order(_),
            ) => true,
            _ => false,
        }
    }
}

/// What opening goes through, for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Vault frames indexed, of how many.
    Vault(u64, u64),
    /// Ledger entries applied to the view, of how many.
    View(u64, u64),
    /// Ledger entries hashed into the tree, of how many.
    Tree(u64, u64),
}

/// Everything that a node stands on.
#[derive(Debug)]
pub(super) struct Opened {
    pub backend: Arc<dyn LogBackend>,
    pub vault: Arc<Vault>,
    pub view: Arc<View>,
    pub index: Arc<Index>,
    pub tip: Tip,
    pub ledger: LedgerOpened,
    pub checked_from: u64,
    pub torn: u64,
    pub tree: OpenedTree,
    pub lock: DirLock,
}

/// Opens or creates a data directory.
pub(super) fn open(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Opened, OpenError> {
    let stores = open_stores(config, disk, progress)?;
    let Stores { log, opened, vault, view, index, ledger, book, torn, mut lock } = stores;
    let key = signing_key(config, &ledger.origin, &book)?;
    let dir = config.data_dir.join(tree::DIR);
    let (writer, signed_range) = open_tree(disk, &dir, &log, book.signed.as_deref(), progress)?;
    let files = writer.files().clone();
    lock.announce()?;
    let ahead_ms = opened.tip.recorded_at.0.saturating_sub(Millis::now().0);
    if ahead_ms > CLOCK_AHEAD_MS_NOTABLE {
        warn!(ahead_ms, "the ledger's last entry lies in the future: is the clock right?");
    }
    Ok(Opened {
        backend: Arc::new(log),
        vault: Arc::new(vault),
        view: Arc::new(view),
        index,
        tip: opened.tip,
        ledger,
        checked_from: opened.checked_from,
        torn,
        tree: OpenedTree { writer, signed_range, files, book, key },
        lock,
    })
}

/// Deletes the view of a data directory that no process has open, and builds it again. Answers the
/// number of entries and of data subjects.
///
/// # Errors
/// The directory is in use, damaged, or can not be written.
pub fn rebuild_view(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(u64, u64), OpenError> {
    discard_view(&config.data_dir)?;
    let stores = open_stores(config, disk, progress)?;
    let rebuilt = (stores.view.applied(), stores.vault.subjects());
    stores.index.close()?;
    Ok(rebuilt)
}

/// The primary stores, and the view over them.
struct Stores {
    log: LocalLog,
    opened: crate::backend::Opened,
    vault: Vault,
    view: View,
    index: Arc<Index>,
    ledger: LedgerOpened,
    book: Book,
    torn: u64,
    lock: DirLock,
}

fn open_stores(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Stores, OpenError> {
    // The name of the directory itself must survive a power cut, too.
    let created = disk.create_dir_all(&config.data_dir);
    created.map_err(|source| not_created(&config.data_dir, source))?;
    let lock = DirLock::take(&config.data_dir)?;
    let places = Places::of(&config.data_dir);
    let had_ledger = holds_segments(&**disk, &places.ledger).map_err(BackendError::from)?;
    let had_vault = holds_segments(&**disk, &places.vault).map_err(VaultError::from)?;
    if had_ledger && !had_vault {
        return Err(OpenError::Half { missing: places.vault, present: places.ledger });
    }
    let book = read_book(config, &**disk, had_ledger)?;
    let kek = match &config.kek {
        Some(kek) => kek.clone(),
        None => {
            let file = config.kek_file.clone().unwrap_or(config.data_dir.join(KEK_FILE));
            Kek::from_file(&file, !had_vault)?
        }
    };

    // The vault is whole before the ledger begins, so its word on the ledger's identity counts.
    let vault_dir = places.vault.clone();
    let new_ledger_id = rand::rng().random();
    let (files, vault_torn) = VaultFiles::open(Arc::clone(disk), vault_dir, &kek, new_ledger_id)?;
    let ledger_id = files.ledger_id();
    if !had_ledger && !files.is_empty() {
        return Err(OpenError::Half { missing: places.ledger, present: places.vault });
    }
    let (log, mut opened) = open_log(config, disk, &places, ledger_id, book.size())?;
    if opened.log_id != ledger_id {
        return Err(OpenError::Foreign { ledger: places.ledger, vault: places.vault });
    }
    let mut torn = 0;
    for (what, tail) in [("ledger", &opened.torn), ("vault", &vault_torn)] {
        if let Some(tail) = tail {
            torn += 1;
            report_torn(what, tail);
        }
    }
    if log.head() == 0 {
        if !files.is_empty() {
            return Err(OpenError::Half { missing: places.ledger, present: places.vault });
        }
        opened.tip = create(&log, ledger_id, &config.origin)?;
    }
    let ledger = first_entry(&log)?;
    if ledger.ledger_id != ledger_id {
        return Err(OpenError::Foreign { ledger: places.ledger, vault: places.vault });
    }

    let index = open_index(config, &places, &ledger_id, &log)?;
    let hot_subjects_max = hot_subjects_max(config.hot_bytes_max);
    let vault = Vault::open(files, Arc::clone(&index), kek, hot_subjects_max)?;
    vault.catch_up(&mut |done, of| progress(Progress::Vault(done, of)))?;
    let view =
        View::open(Arc::clone(&index), &ledger_id, hot_states_bytes(config.hot_bytes_max), |at| {
            read_entry(&log, at)
        })?;
    catch_up(&log, &vault, &view, progress)?;
    Ok(Stores { log, opened, vault, view, index, ledger, book, torn, lock })
}

/// Deletes the view of a data directory that no process has open. The next start rebuilds it.
///
/// # Errors
/// The directory is in use, or can not be written.
fn discard_view(data_dir: &Path) -> Result<(), OpenError> {
    let _lock = DirLock::take(data_dir)?;
    let view = Places::of(data_dir).view;
    match fs::remove_dir_all(&view) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error(&view, source)),
        _ => Ok(()),
    }
}

/// A quarter of the hot memory goes to look-ups from identity to subject.
fn hot_subjects_max(hot_bytes_max: u64) -> usize {
    const LOOKUP_BYTES: u64 = 96;
    usize::try_from(hot_bytes_max / 4 / LOOKUP_BYTES).unwrap_or(usize::MAX).max(1_000)
}

fn hot_states_bytes(hot_bytes_max: u64) -> u64 {
    hot_bytes_max - hot_bytes_max / 4
}

struct Places {
    ledger: PathBuf,
    vault: PathBuf,
    view: PathBuf,
}

impl Places {
    fn of(data_dir: &Path) -> Self {
        Self {
            ledger: data_dir.join(ledger::DIR),
            vault: data_dir.join(vault::DIR),
            view: data_dir.join(VIEW_DIR),
        }
    }
}

/// Why a data directory can not be created.
fn not_created(dir: &Path, source: io::Error) -> OpenError {
    if dir.exists() && !dir.is_dir() {
        OpenError::NotADirectory(dir.to_owned())
    } else {
        io_error(dir, source)
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), source }
}

/// Opens the ledger's log. An entry that does not continue the chain is looked for once more by
/// verification, which names its place.
fn open_log(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    places: &Places,
    new_id: [u8; 16],
    entries_min: u64,
) -> Result<(LocalLog, crate::backend::Opened), OpenError> {
    let dir = places.ledger.clone();
    match LocalLog::open(Arc::clone(disk), dir, config.segment_bytes_max, new_id, entries_min) {
        Err(error @ BackendError::Chain { .. }) => {
            verify::verify(&**disk, &places.ledger, &mut |_, _| {})?;
            Err(error.into())
        }
        other => Ok(other?),
    }
}

/// Opens the index; one that is no view of this ledger is thrown away.
fn open_index(
    config: &NodeConfig,
    places: &Places,
    ledger_id: &[u8; 16],
    log: &LocalLog,
) -> Result<Arc<Index>, OpenError> {
    let (index, found) = Index::open(&places.view, config.sled_cache_bytes)?;
    if let Found::Discarded(reason) = found {
        warn!(reason, "the view is thrown away and rebuilt from the ledger");
    }
    let hash_of = |at| {
        if at >= log.head() {
            return Ok(None);
        }
        let bytes = log.read(at, at + 1, usize::MAX)?.pop();
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
    fs::remove_dir_all(&places.view).map_err(|source| io_error(&places.view, source))?;
    Ok(Arc::new(Index::open(&places.view, config.sled_cache_bytes)?.0))
}

fn report_torn(what: &str, tail: &TornTail) {
    warn!(
        log = what,
        segment = %tail.segment,
        offset = tail.offset,
        bytes = tail.bytes,
        index = tail.next_index,
        set_aside = ?tail.set_aside,
        "a torn tail was set aside: a crash cut off a write before it was acknowledged"
    );
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

/// Applies what the view has not seen.
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

/// The key that signs. One that is lost is not made again in silence: every auditor has to be told.
fn signing_key(config: &NodeConfig, origin: &str, book: &Book) -> Result<SignerKey, OpenError> {
    let file = signing_key_file(config);
    if book.size() > 0 && !config.new_signing_key && !file.exists() {
        return Err(OpenError::KeyMissing(file));
    }
    let key = load_key(&file, origin, Algorithm::Note)?;
    let other = |signed: &Signed| signed.checkpoint.verify(key.verifier()).is_err();
    if !config.new_signing_key && book.signed.as_deref().is_some_and(other) {
        return Err(OpenError::KeyMissing(file));
    }
    Ok(key)
}

fn signing_key_file(config: &NodeConfig) -> PathBuf {
    config.signing_key_file.clone().unwrap_or_else(|| config.data_dir.join(tree::KEY_FILE))
}

/// The book of checkpoints, before anything is changed. It is there before the key is, so that a key
/// without a book has lost it.
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

/// Opens the tree, or builds it again, and brings it to the ledger's head. Where a checkpoint was
/// signed, the tree under it must be that one. Answers the subtrees under that, too.
fn open_tree(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    log: &LocalLog,
    signed: Option<&Signed>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(TreeWriter, Range), OpenError> {
    let (size, root) = signed.map_or((0, merkle::empty_root()), |own| (own.size(), own.root()));
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

/// The tree as it was left, if it is the one under the signed checkpoint.
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
    log: &LocalLog,
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

/// Keeps other processes out of a data directory for as long as it lives.
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
        let mut file = options.open(&path).map_err(|source| io_error(&path, source))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let pid = file.read_to_string(&mut pid).ok().map(|_| pid.trim().to_owned());
                let pid = pid.filter(|pid| !pid.is_empty());
                return Err(OpenError::InUse { dir: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io_error(&path, source)),
        }
        Ok(Self { file, path })
    }

    /// Leaves the number of this process for whoever finds the directory in use.
    fn announce(&mut self) -> Result<(), OpenError> {
        self.file
            .set_len(0)
            .and_then(|()| writeln!(self.file, "{}", std::process::id()))
            .map_err(|source| io_error(&self.path, source))
    }
}
