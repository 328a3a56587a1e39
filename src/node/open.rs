//! Opening a data directory: lock, recover, bring view and tree up to date.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Write},
    ops,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use thiserror::Error;
use tracing::{error, info, warn};

use super::{
    NodeConfig,
    key_change::SigningKeys,
    signing::OpenedTree,
    survey::{Absence, LedgerId, survey},
};
use crate::{
    backend::{BackendError, LocalLog, LogBackend},
    domain::{LedgerOpened, Millis},
    entry::{Entry, EntryError},
    fold::CatalogAt,
    format::{
        entry::{Body as SealedBody, Entry as SealedEntry},
        secret::Key,
    },
    ledger::{self, Tip, chain, sealed, verify},
    opener::{CatchUp, Opener},
    storage::{
        AtPath as _, FileError, LogError,
        disk::{Disk, RealDisk},
        if_exists,
        index::{self, Found, Index, IndexError},
    },
    tlog::merkle::{self, Hash, Range},
    tree::{self, Book, BookError, Signed, SigningKeyError, TreeError, TreeFiles, TreeWriter},
    vault::{self, Kek, KekError, LedgerNote, Vault, VaultError, VaultFiles},
    view::{self, Unusable, View, ViewError},
};

/// Name of the view's folder in a data directory.
pub const VIEW_DIR: &str = "view";
/// Name of the key-encryption key's file in a data directory.
pub const KEK_FILE: &str = "kek";
/// Name of the lock file in a data directory.
pub(super) const LOCK_FILE: &str = "lock";

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

/// Why a node did not start. Ledger, vault and keys are unchanged, unless the disk failed. View and tree,
/// which are disposable, may have been deleted or rebuilt.
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
    /// There is no file of a signing key.
    #[error(
        "there is no file {file}: {flag} must name the file of a key that signs this ledger. Name the \
         right one, mount its disk, or restore it. Only if the key is lost for good, see \"Change the \
         signing key\" in docs/operations.md"
    )]
    KeyFileMissing {
        /// The file.
        file: PathBuf,
        /// The flag that names it.
        flag: &'static str,
    },
    /// The signing key is not the key that signed the last checkpoint.
    #[error(
        "{file} holds the key {found}, and it is not the one that signed the last checkpoint of this \
         ledger. Name the file of that key by {flag}, or restore it"
    )]
    KeyOther {
        /// The file.
        file: PathBuf,
        /// The key in it.
        found: String,
        /// The flag that names the file.
        flag: &'static str,
    },
    /// The signing key is one that another took the place of.
    #[error(
        "{file} holds a key that entry {index} has retired, and a retired key never signs again: give \
         the one that took its place by --signing-key-file"
    )]
    KeyRetired {
        /// The file.
        file: PathBuf,
        /// The entry.
        index: u64,
    },
    /// The key before is the same as the signing key.
    #[error(
        "{key} and {previous} hold the same key: --signing-key-file names the new one, and \
         --previous-signing-key-file the one before"
    )]
    SameKey {
        /// The file of the signing key.
        key: PathBuf,
        /// The file of the key before.
        previous: PathBuf,
    },
    /// A change of the signing key was begun, and not with the configured keys.
    #[error(
        "entry {index} changes the signing key to {next}, and no checkpoint covers it yet: give this key \
         by --signing-key-file{}. If a key is lost for good, see \"Change the signing key\" in \
         docs/operations.md",
        previous.as_ref().map_or(String::new(), |previous| format!(
            ", and the one before, {previous}, by --previous-signing-key-file"
        ))
    )]
    KeyChangeUnfinished {
        /// The entry.
        index: u64,
        /// The key that it names.
        next: String,
        /// The key before; none if it was lost.
        previous: Option<String>,
    },
    /// The change of the signing key could not be written to the ledger.
    #[error("the change of the signing key could not be recorded: {0}")]
    KeyChange(super::WriteError),
    /// The last checkpoint is signed with another key, and is not of these entries.
    #[error(
        "the checkpoint in {book} is signed with another key than the one in {key}, and it is not of this \
         ledger's entries: one of the two files is another's. Restore it"
    )]
    BookOrKey {
        /// The book.
        book: PathBuf,
        /// The key.
        key: PathBuf,
    },
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
    /// The book of checkpoints is of another ledger.
    #[error("{book} is of the ledger {found}, this one is {wanted}. Restore the right one")]
    BookOfOther {
        /// The book.
        book: PathBuf,
        /// The ledger that it is of.
        found: LedgerId,
        /// This ledger.
        wanted: LedgerId,
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
    /// The data directory holds no ledger.
    #[error("{dir}: {absence}. No ledger is made here: only `consent-ledger init` makes one")]
    NoLedger {
        /// The data directory.
        dir: PathBuf,
        /// What it holds instead.
        absence: Absence,
    },
    /// The ledger is not the expected one.
    #[error("{dir} holds the ledger {found}, and --expect-ledger names {expected}")]
    OtherLedger {
        /// The data directory.
        dir: PathBuf,
        /// The ledger in it.
        found: LedgerId,
        /// The expected ledger.
        expected: LedgerId,
    },
    /// The ledger has another name than the expected one.
    #[error("{dir} holds the ledger `{found}`, and --origin names `{expected}`")]
    OtherOrigin {
        /// The data directory.
        dir: PathBuf,
        /// Name of the ledger in it.
        found: String,
        /// The expected name.
        expected: String,
    },
    /// A ledger of another format.
    #[error(
        "{dir} holds a ledger of format {found}, and this version reads format {} alone. Format 1 was never \
         released for production: make a new ledger with `consent-ledger init`, and import into it",
        ledger::FORMAT_VERSION
    )]
    Format {
        /// The ledger's folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The ledger has not even its first entry.
    #[error("{0} holds no entry, not even the first: its files were emptied. Restore a backup")]
    NoEntry(PathBuf),
    /// One of ledger and vault exists without the other.
    #[error(
        "{missing} is missing, or has no segments, although {present} is there. Mount its disk, or \
         restore a backup of both"
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
    /// The ledger has an entry of a subject that the vault does not hold.
    #[error(
        "ledger entry {index} is about a subject that the vault does not hold: the vault has lost \
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
            | Self::NoEntry(_)
            | Self::SubjectMissing { .. }
            | Self::Rewritten { .. }
            | Self::NoteChanged { .. }
            | Self::Book(BookError::Malformed { .. })
            | Self::Vault(
                VaultError::LostFrames { .. } | VaultError::Repeated { .. } | VaultError::Frame(_),
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
    pub log: Arc<LocalLog>,
    pub vault: Arc<Vault>,
    pub view: Arc<View>,
    pub index: Arc<Index>,
    pub book: Book,
    /// The end of the chain.
    pub tip: Tip,
    /// When the last entry was recorded.
    pub recorded_at: Millis,
    /// The content of entry 0.
    pub ledger: LedgerOpened,
    /// Recovery has verified the entries from this index on.
    pub checked_from: u64,
    pub lock: DirLock,
}

/// A data directory that was opened.
pub(super) struct Opened {
    pub stores: Stores,
    pub tree: OpenedTree,
    /// Number of torn tails that were set aside.
    pub torn_tails: u64,
}

/// Opens a data directory. Creates no ledger: see [`super::init()`].
pub(super) fn open(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Opened, OpenError> {
    let locked = Locked::take(config, &**disk)?;
    let keys = SigningKeys::choose(config, disk, &locked.ledger.origin, &locked.book)?;
    let stores = open_stores(config, disk, locked, progress)?;
    let mut keys = keys.continued(&*stores.log, &stores.book)?;
    let dir = config.data_dir.join(tree::DIR);
    let signed = stores.book.signed.as_deref();
    let (writer, signed_range) = open_tree(disk, &dir, &*stores.log, signed, progress)?;
    let torn_tails = settle(&stores)?;
    tell_unsigned(&stores);
    let ahead_ms = stores.recorded_at.0.saturating_sub(Millis::now().0);
    if ahead_ms > CLOCK_AHEAD_MS_NOTABLE {
        warn!(
            ahead_ms,
            "the ledger's last entry lies in the future: is the clock right? If it is, correct what \
             a wrong one wrote with `consent-ledger clock correct`"
        );
    }
    keys.save()?;
    Ok(Opened { stores, tree: OpenedTree { writer, signed_range, keys }, torn_tails })
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
    let locked = Locked::take(config, &**disk)?;
    let dir = config.data_dir.join(VIEW_DIR);
    if_exists(fs::remove_dir_all(&dir)).at(&dir)?;
    let stores = open_stores(config, disk, locked, progress)?;
    let rebuilt = (stores.view.applied(), stores.vault.subjects());
    stores.index.close()?;
    Ok(rebuilt)
}

/// A locked data directory with a ledger, and what can be read of it without a change.
struct Locked {
    lock: DirLock,
    ledger: LedgerOpened,
    book: Book,
    kek: Kek,
}

impl Locked {
    fn take(config: &NodeConfig, disk: &dyn Disk) -> Result<Self, OpenError> {
        // A directory without a ledger gets no lock file either.
        survey(config, disk)?;
        let lock = DirLock::take(&config.data_dir)?;
        let ledger = survey(config, disk)?;
        // `init` may have been killed before it made the end of its work durable.
        disk.sync_dir(&config.data_dir).at(&config.data_dir)?;
        let book = read_book(config, disk, LedgerId(ledger.ledger_id))?;
        let kek = kek(config, &ledger)?;
        Ok(Self { lock, ledger, book, kek })
    }
}

fn open_stores(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    locked: Locked,
    progress: &mut dyn FnMut(Progress),
) -> Result<Stores, OpenError> {
    let Locked { mut lock, ledger, book, kek } = locked;
    let [ledger_dir, vault_dir] = [ledger::DIR, vault::DIR].map(|name| config.data_dir.join(name));
    let files = VaultFiles::open(Arc::clone(disk), vault_dir.clone())?;
    let ledger_id = files.ledger_id();
    if ledger.ledger_id != ledger_id {
        return Err(OpenError::Foreign { ledger: ledger_dir, vault: vault_dir });
    }
    let (log, opened) = open_log(config, disk, &ledger_dir, ledger_id, book.size())?;
    if opened.log_id != ledger_id {
        return Err(OpenError::Foreign { ledger: ledger_dir, vault: vault_dir });
    }
    let key = files.unlock(&kek)?.secrets().view.clone();
    let mut index = open_index(config, &key, &ledger_id, &log)?;
    // What follows may take minutes.
    lock.announce()?;
    let views = match open_view(config, files, &kek, &index, &log, progress) {
        Err(error) if index.is_damaged() => {
            warn!(%error, "the view is thrown away and rebuilt from the ledger");
            drop(index);
            index = open_index(config, &key, &ledger_id, &log)?;
            let files = VaultFiles::open(Arc::clone(disk), vault_dir)?;
            open_view(config, files, &kek, &index, &log, progress)?
        }
        opened => opened?,
    };
    let Views { vault, view, recorded_at } = views;
    Ok(Stores {
        log: Arc::new(log),
        vault,
        view,
        recorded_at,
        index,
        book,
        tip: opened.tip,
        ledger,
        checked_from: opened.checked_from,
        lock,
    })
}

/// Vault and view over an index, both up to date.
struct Views {
    vault: Arc<Vault>,
    view: Arc<View>,
    recorded_at: Millis,
}

fn open_view(
    config: &NodeConfig,
    files: VaultFiles,
    kek: &Kek,
    index: &Arc<Index>,
    log: &LocalLog,
    progress: &mut dyn FnMut(Progress),
) -> Result<Views, OpenError> {
    let ledger_id = files.ledger_id();
    let hot_lookups_bytes = config.hot_bytes_max / HOT_LOOKUPS_PART;
    let hot_subjects_max = usize::try_from(hot_lookups_bytes / LOOKUP_BYTES).unwrap_or(usize::MAX);
    let hot_subjects_max = hot_subjects_max.max(HOT_SUBJECTS_MIN);
    let vault = Vault::open(files, Arc::clone(index), kek, hot_subjects_max)?;
    vault.catch_up(&mut |done, total| progress(Progress::Vault(done, total)))?;
    let hot_states_bytes = config.hot_bytes_max - hot_lookups_bytes;
    let view = View::open(Arc::clone(index), &ledger_id, hot_states_bytes, |index| {
        read_entry_of_nobody(log, &vault, index)
    })?;
    catch_up(log, &vault, &view, progress)?;
    let (vault, view) = (Arc::new(vault), Arc::new(view));
    let opener = Opener::new(Arc::clone(&vault), Arc::clone(&view));
    let recorded_at = last_recorded_at(log, &opener)?;
    Ok(Views { vault, view, recorded_at })
}

/// Sets torn tails aside, and answers how many there were. Only a start that is not refused does: bytes
/// that are missing there may be lost, and then no crash has cut them off.
fn settle(stores: &Stores) -> Result<u64, OpenError> {
    let mut torn_tails = 0;
    for (store, tail) in [("ledger", stores.log.settle()?), ("vault", stores.vault.settle()?)] {
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
    Ok(torn_tails)
}

/// Says how many entries nobody has signed yet. A signature by this start says that they are the ledger's.
fn tell_unsigned(stores: &Stores) {
    let (entries, signed) = (stores.tip.next_index, stores.book.size());
    // A new ledger has signed nothing, and holds its first entry.
    if entries > signed.max(1) {
        warn!(
            entries = entries - signed,
            first = signed,
            "entries after the last signed checkpoint are taken over and signed now: after a crash a \
             few are normal; if the server was stopped in order, somebody has added them"
        );
    }
}

/// Opens the ledger's log. If an entry does not continue the chain, verification runs to name its
/// place.
fn open_log(
    config: &NodeConfig,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    ledger_id: [u8; 16],
    entries_signed: u64,
) -> Result<(LocalLog, crate::backend::Opened), OpenError> {
    let (segment_bytes_max, disk) = (config.segment_bytes_max, Arc::clone(disk));
    // A ledger has its first entry from the beginning.
    let entries_min = entries_signed.max(1);
    match LocalLog::open(disk.clone(), dir.to_owned(), segment_bytes_max, ledger_id, entries_min) {
        Err(error @ BackendError::Chain { .. }) => {
            verify::verify(&*disk, dir, &mut |_, _| {})?;
            Err(error.into())
        }
        other => Ok(other?),
    }
}

/// Opens the index. Deletes an index that is not a view of this ledger.
fn open_index(
    config: &NodeConfig,
    key: &Key,
    ledger_id: &[u8; 16],
    log: &LocalLog,
) -> Result<Arc<Index>, OpenError> {
    let dir = config.data_dir.join(VIEW_DIR);
    let open = || {
        let limits = index::Config {
            cache_bytes: config.view_cache_bytes,
            is_filtered: view::keys::is_looked_up,
            is_listed: view::keys::is_listed,
            ..index::Config::default()
        };
        Index::open(Arc::new(RealDisk), &dir, key.bytes(), *ledger_id, limits)
    };
    let (index, found) = open()?;
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
    let unusable = match view::unusable(&index, ledger_id, hash_of) {
        Err(_) if index.is_damaged() => Some(Unusable::Damaged),
        unusable => unusable?,
    };
    let reason = match unusable {
        None | Some(Unusable::Empty) => return Ok(Arc::new(index)),
        Some(Unusable::Damaged) => "it is damaged",
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
    Ok(Arc::new(open()?.0))
}

fn read_bytes(log: &LocalLog, index: u64) -> Result<Vec<u8>, OpenError> {
    Ok(log.read(index, index + 1, usize::MAX)?.pop().unwrap_or_default())
}

fn decode(index: u64, bytes: &[u8]) -> Result<SealedEntry, OpenError> {
    let problem = |problem: crate::format::entry::EntryError| OpenError::Entry {
        index,
        problem: problem.into(),
    };
    SealedEntry::decode(bytes).map_err(problem)
}

/// An entry of the catalogue, or about a subscription.
fn read_entry_of_nobody(log: &LocalLog, vault: &Vault, index: u64) -> Result<Entry, OpenError> {
    let entry = decode(index, &read_bytes(log, index)?)?;
    sealed::open_of_nobody(&entry, vault.ledger_id(), vault.confidential())
        .map_err(|problem| OpenError::Entry { index, problem })
}

/// When the last entry was recorded. Entries in clear have whole seconds, and may come after one that has
/// milliseconds in the same second.
fn last_recorded_at(log: &LocalLog, opener: &Opener) -> Result<Millis, OpenError> {
    let mut latest = Millis(i64::MIN);
    for index in (0..log.head()).rev() {
        let bytes = read_bytes(log, index)?;
        let entry = opener.entry(&bytes).map_err(|problem| OpenError::Entry { index, problem })?;
        let is_earlier_second = entry.recorded_at.0.div_euclid(1_000) < latest.0.div_euclid(1_000);
        if is_earlier_second {
            break;
        }
        latest = latest.max(entry.recorded_at);
        if !is_in_clear(&decode(index, &bytes)?.body) {
            break;
        }
    }
    Ok(latest)
}

/// Whether a body has no milliseconds.
pub(super) fn is_in_clear(body: &SealedBody) -> bool {
    !matches!(body, SealedBody::Persons(_) | SealedBody::Uses(_) | SealedBody::Confidential(_))
}

/// Applies the entries that the view does not have yet.
fn catch_up(
    log: &LocalLog,
    vault: &Vault,
    view: &View,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), OpenError> {
    let (start, head) = (view.applied(), log.head());
    if start >= head {
        return Ok(());
    }
    match start {
        0 => info!(entries = head, "there is no view that can be used: it is made from the ledger"),
        _ => info!(applied = start, entries = head, "bringing the view up to date"),
    }
    // One thread opens entries while this one applies those before them.
    thread::scope(|scope| {
        let (sender, parts) = mpsc::sync_channel(1);
        let opening = scope.spawn(move || open_entries(log, vault, view, start..head, &sender));
        for OpenedPart { entries, chain_hash } in parts {
            view.catch_up(&entries, chain_hash)?;
            progress(Progress::View(view.applied(), head));
        }
        opening.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Entries that are opened, and the chain hash of the last.
struct OpenedPart {
    entries: Vec<sealed::Opened>,
    chain_hash: [u8; 32],
}

/// Opens entries part by part, until all are sent or nobody takes them any more.
fn open_entries(
    log: &LocalLog,
    vault: &Vault,
    view: &View,
    ops::Range { start: mut next, end: head }: ops::Range<u64>,
    parts: &mpsc::SyncSender<OpenedPart>,
) -> Result<(), OpenError> {
    let opener = CatchUp::new(vault, view);
    let mut catalog = CatalogAt::clone(&view.catalog());
    while next < head {
        let mut part = OpenedPart { entries: Vec::new(), chain_hash: [0; 32] };
        opener.begin();
        for bytes in log.read(next, head.min(next + CATCH_UP_ENTRIES), CATCH_UP_BYTES)? {
            let opened = opener.open(&decode(next, &bytes)?, &catalog.catalog);
            let opened = opened.map_err(|problem| match problem {
                EntryError::NoKey { index } => OpenError::SubjectMissing { index },
                problem => OpenError::Entry { index: next, problem },
            })?;
            catalog.fold(opened.entry.fact());
            part.chain_hash = chain::hash(&bytes);
            part.entries.push(opened);
            next += 1;
        }
        if parts.send(part).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn kek(config: &NodeConfig, ledger: &LedgerOpened) -> Result<Kek, KekError> {
    match &config.kek {
        Some(kek) => Ok(kek.clone()),
        None => {
            let note = LedgerNote { id: ledger.ledger_id, origin: ledger.origin.clone() };
            Kek::of_ledger(&kek_file(config), &note)
        }
    }
}

/// The file of the signing key.
pub(super) fn signing_key_file(config: &NodeConfig) -> PathBuf {
    config.signing_key_file.clone().unwrap_or_else(|| config.data_dir.join(tree::KEY_FILE))
}

/// The file of the key-encryption key.
pub(super) fn kek_file(config: &NodeConfig) -> PathBuf {
    config.kek_file.clone().unwrap_or_else(|| config.data_dir.join(KEK_FILE))
}

/// Reads the book of checkpoints. Every ledger has one from the beginning.
fn read_book(config: &NodeConfig, disk: &dyn Disk, ledger: LedgerId) -> Result<Book, OpenError> {
    if let Some(book) = Book::read(disk, &config.data_dir, &config.witness_policy)? {
        return match book.ledger_id.map(LedgerId).filter(|found| *found != ledger) {
            None => Ok(Book { ledger_id: Some(ledger.0), ..book }),
            Some(found) => {
                let book = config.data_dir.join(tree::BOOK_FILE);
                Err(OpenError::BookOfOther { book, found, wanted: ledger })
            }
        };
    }
    if !config.unused_signing_key {
        let (book, key) = (config.data_dir.join(tree::BOOK_FILE), signing_key_file(config));
        return Err(OpenError::BookMissing { book, key });
    }
    let book = Book::of_ledger(ledger.0);
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
