//! A write-behind index: an ordered map of bytes that is current at once and on disk later.
//!
//! A row is visible to the next read, from memory; one thread writes it to sled behind the writer. The
//! index is never the only copy: sled's flush does not survive a power cut, so after one the whole
//! index is deleted and rebuilt from ledger and vault. After a killed process, the operating system
//! still has what sled wrote; sled recovers a prefix of it, and the marks of view and vault tell how
//! far that prefix reaches.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, RwLock};
use thiserror::Error;
use tracing::{error, warn};

use super::{AtPath as _, FileError, if_exists};

/// The greatest number of rows in one sled batch. Reads of sled wait while it applies a batch.
const SLED_BATCH_ROWS_MAX: usize = 256;
/// The greatest numbers of rows and of their bytes in memory; above them, the writer waits.
const PENDING_ROWS_MAX: usize = 400_000;
const PENDING_BYTES_MAX: usize = 256 << 20;
/// Rows gather up to this number, or for this time, before they are written to sled together: a row
/// that is put twice meanwhile is written once, and neighbours are written in order.
const GATHERED_ROWS_MIN: usize = 65_536;
const GATHER_TIME: Duration = Duration::from_secs(1);
/// Priority of the thread that writes to sled: below the threads that answer requests.
const NICE: i32 = 19;
/// Time between two flushes of sled.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// A row: key, and the value or its removal.
pub type Row = (Vec<u8>, Option<Vec<u8>>);

type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
/// Keys, and whether they have a value.
type Keys = BTreeMap<Vec<u8>, bool>;

/// Why an operation of the index failed.
#[derive(Debug, Error)]
pub enum IndexError {
    /// sled failed.
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Rows could not be written to disk; they stay readable from memory until the process ends.
    #[error("the index takes no more rows: {0}")]
    Stopped(String),
}

/// The condition of an index when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It did not exist.
    Nothing,
    /// It is valid up to its marks. An index without marks holds nothing.
    Usable,
    /// It was deleted: unreadable, or the machine went down while it was open.
    Discarded(&'static str),
}

/// The index.
#[derive(Debug)]
pub struct Index {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    db: sled::Db,
    overlay: RwLock<Overlay>,
    control: Mutex<Control>,
    changed: Condvar,
}

/// Rows that sled does not have yet. A key is looked up in `active`, then in `flushing`, then in sled.
#[derive(Debug, Default)]
struct Overlay {
    active: Rows,
    /// Size of the rows that were put into `active`. A row that replaced another counts twice.
    active_bytes: usize,
    flushing: Arc<Rows>,
    flushing_bytes: usize,
}

#[derive(Debug, Default)]
struct Control {
    pending_rows: usize,
    pending_bytes: usize,
    closing: bool,
    damaged: bool,
    failed: Option<String>,
}

impl Index {
    /// Opens the index in `dir`, or creates a new one if there is no valid one.
    ///
    /// # Errors
    /// The directory can not be used at all.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<(Self, Found), IndexError> {
        let (db, found) = match Marker::read(dir)? {
            Some(reason) => {
                if_exists(fs::remove_dir_all(dir)).at(dir)?;
                (open_sled(dir, cache_bytes)?, Found::Discarded(reason))
            }
            None if !dir.join("db").exists() => (open_sled(dir, cache_bytes)?, Found::Nothing),
            None => match open_sled(dir, cache_bytes) {
                Ok(db) => (db, Found::Usable),
                Err(error) => {
                    warn!(%error, "the index can not be read and is thrown away");
                    if_exists(fs::remove_dir_all(dir)).at(dir)?;
                    (open_sled(dir, cache_bytes)?, Found::Discarded("it can not be read"))
                }
            },
        };
        Marker::write(dir, &Marker::boot())?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            db,
            overlay: RwLock::default(),
            control: Mutex::default(),
            changed: Condvar::new(),
        });
        let behind = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("index".to_owned())
            .spawn(move || behind.write_behind())
            .at(dir)?;
        Ok((Self { shared, thread: Mutex::new(Some(thread)) }, found))
    }

    /// Puts rows: all become visible at once, before the call returns. Waits while too many rows are in
    /// memory.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] once rows could not be written to disk.
    pub fn put(&self, rows: Vec<Row>) -> Result<(), IndexError> {
        self.make_readable(rows);
        self.wait_for_room()
    }

    /// As [`Self::put`], without waiting. The caller must call [`Self::wait_for_room`] before it puts the
    /// next rows: this limits the memory.
    pub fn make_readable(&self, rows: Vec<Row>) {
        let wake = {
            let mut overlay = self.shared.overlay.write();
            overlay.active_bytes += rows.iter().map(row_bytes).sum::<usize>();
            overlay.active.extend(rows);
            let mut control = self.shared.control.lock();
            let before = control.pending_rows;
            control.pend(&overlay);
            before == 0 || control.pending_rows >= GATHERED_ROWS_MIN
        };
        if wake {
            self.shared.changed.notify_all();
        }
    }

    /// Waits while too many rows are in memory.
    ///
    /// # Errors
    /// [`IndexError::Stopped`] once rows could not be written to disk.
    pub fn wait_for_room(&self) -> Result<(), IndexError> {
        let mut control = self.shared.control.lock();
        while control.is_over_limit() && control.failed.is_none() && !control.closing {
            self.shared.changed.wait(&mut control);
        }
        control.failed.clone().map_or(Ok(()), |reason| Err(IndexError::Stopped(reason)))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// sled could not read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        {
            let overlay = self.shared.overlay.read();
            if let Some(value) = overlay.active.get(key).or_else(|| overlay.flushing.get(key)) {
                return Ok(value.clone());
            }
        }
        // A row that left memory in between is in sled.
        Ok(self.shared.guarded(|| self.shared.db.get(key))?.map(|value| value.to_vec()))
    }

    /// Up to `limit` keys that start with `prefix`, from `from` on, in order.
    ///
    /// # Errors
    /// sled could not read.
    pub fn keys(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, IndexError> {
        // The newest rows come first. The overlay is read under one lock: a row that moves to sled
        // meanwhile is seen twice, which the map allows, but never missed.
        let mut keys = Keys::new();
        {
            let overlay = self.shared.overlay.read();
            for rows in [&overlay.active, overlay.flushing.as_ref()] {
                let within = rows.range(from.to_vec()..).take_while(|(k, _)| k.starts_with(prefix));
                let within = within.map(|(key, value)| Ok((key.clone(), value.is_some())));
                merge_keys(&mut keys, limit, within)?;
            }
        }
        let mut rows = self.shared.db.range(from..);
        let within = std::iter::from_fn(|| {
            let key = match self.shared.guarded(|| rows.next().transpose()).transpose()? {
                Ok((key, _)) => key.starts_with(prefix).then(|| key.to_vec())?,
                Err(error) => return Some(Err(error)),
            };
            Some(Ok((key, true)))
        });
        merge_keys(&mut keys, limit, within)?;
        Ok(keys.into_iter().filter(|(_, stays)| *stays).map(|(key, _)| key).take(limit).collect())
    }

    /// Number of rows that sled does not have yet.
    #[must_use]
    pub fn pending_rows(&self) -> usize {
        self.shared.control.lock().pending_rows
    }

    /// Writes all rows to stable storage, and ends the thread. Reads still work afterwards.
    ///
    /// # Errors
    /// A row could not be written; the next start rebuilds the index.
    pub fn close(&self) -> Result<(), IndexError> {
        self.shared.control.lock().closing = true;
        self.shared.changed.notify_all();
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        if thread.join().is_err() {
            return Err(IndexError::Stopped("the index thread ended early".to_owned()));
        }
        if let Some(reason) = self.shared.control.lock().failed.clone() {
            return Err(IndexError::Stopped(reason));
        }
        self.shared.guarded(|| self.shared.db.flush())?;
        if self.shared.control.lock().damaged { Ok(()) } else { Marker::remove(&self.shared.dir) }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            error!(%error, "the index was not closed cleanly and will be rebuilt");
        }
    }
}

impl Control {
    fn pend(&mut self, overlay: &Overlay) {
        self.pending_rows = overlay.active.len() + overlay.flushing.len();
        self.pending_bytes = overlay.active_bytes + overlay.flushing_bytes;
    }

    fn is_over_limit(&self) -> bool {
        self.pending_rows > PENDING_ROWS_MAX || self.pending_bytes > PENDING_BYTES_MAX
    }
}

fn row_bytes((key, value): &Row) -> usize {
    key.len() + value.as_ref().map_or(0, Vec::len)
}

impl Shared {
    /// Calls sled. After an error or a panic, which some kinds of damage cause in sled, the next start
    /// rebuilds the index.
    fn guarded<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
        let result = catch_unwind(AssertUnwindSafe(call))
            .unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".to_owned())));
        result.map_err(|error| {
            // The marker is written only once: every read of a damaged page comes here, and must not
            // wait for a sync.
            if !std::mem::replace(&mut self.control.lock().damaged, true) {
                error!(%error, "the index is damaged and will be rebuilt at the next start");
                if let Err(error) = Marker::write(&self.dir, Marker::DAMAGED) {
                    error!(%error, "the damage could not be noted");
                }
            }
            IndexError::Sled(error)
        })
    }

    fn write_behind(&self) {
        // If the system does not allow it, the thread keeps its priority.
        let thread = Some(rustix::thread::gettid());
        let _ = rustix::process::setpriority_process(thread, NICE);
        if let Err(error) = self.write_until_closed() {
            error!(%error, "rows can not be brought to the index on disk");
            self.control.lock().failed = Some(error.to_string());
            self.changed.notify_all();
        }
    }

    fn write_until_closed(&self) -> Result<(), IndexError> {
        let mut flushed_at = Instant::now();
        let mut dirty = false;
        loop {
            let closing = {
                let mut control = self.control.lock();
                if control.pending_rows == 0 && !control.closing {
                    self.changed.wait_for(&mut control, FLUSH_INTERVAL);
                }
                let until = Instant::now() + GATHER_TIME;
                while (1..GATHERED_ROWS_MIN).contains(&control.pending_rows) && !control.closing {
                    if self.changed.wait_until(&mut control, until).timed_out() {
                        break;
                    }
                }
                control.closing
            };
            let moved = self.move_generation()?;
            dirty |= moved > 0;
            if dirty && flushed_at.elapsed() >= FLUSH_INTERVAL {
                self.guarded(|| self.db.flush())?;
                (flushed_at, dirty) = (Instant::now(), false);
            }
            if moved == 0 && closing {
                return Ok(());
            }
        }
    }

    /// Moves the active rows into sled, marks last. Answers the number of rows.
    fn move_generation(&self) -> Result<usize, IndexError> {
        let rows = {
            let mut overlay = self.overlay.write();
            overlay.flushing = Arc::new(std::mem::take(&mut overlay.active));
            overlay.flushing_bytes = std::mem::take(&mut overlay.active_bytes);
            Arc::clone(&overlay.flushing)
        };
        #[cfg(test)]
        self.guarded(|| {
            assert!(!rows.contains_key(tests::PANIC.as_bytes()), "as sled does");
            Ok(())
        })?;
        let mut batch = sled::Batch::default();
        for (count, (key, value)) in (1..).zip(rows.iter()) {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
            if count % SLED_BATCH_ROWS_MAX == 0 || count == rows.len() {
                self.guarded(|| self.db.apply_batch(std::mem::take(&mut batch)))?;
            }
        }
        {
            let mut overlay = self.overlay.write();
            overlay.flushing = Arc::default();
            overlay.flushing_bytes = 0;
            self.control.lock().pend(&overlay);
        }
        self.changed.notify_all();
        Ok(rows.len())
    }
}

/// Adds keys of older rows, in order, until `limit` of them have a value. For a key that is in the map
/// already, the newer row counts.
fn merge_keys(
    keys: &mut Keys,
    limit: usize,
    rows: impl Iterator<Item = Result<(Vec<u8>, bool), IndexError>>,
) -> Result<(), IndexError> {
    let mut found = 0;
    for row in rows {
        let (key, is_there) = row?;
        found += usize::from(*keys.entry(key).or_insert(is_there));
        if found >= limit {
            break;
        }
    }
    Ok(())
}

fn open_sled(dir: &Path, cache_bytes: u64) -> Result<sled::Db, IndexError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).at(dir)?;
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(None);
    // Some kinds of damage make sled panic.
    catch_unwind(AssertUnwindSafe(|| config.open()))
        .unwrap_or_else(|_| {
            Err(sled::Error::ReportableBug("sled panicked while it opened".to_owned()))
        })
        .map_err(IndexError::from)
}

/// A file in the index's directory while the index is open. It holds the id of the boot: if it is still
/// there after another boot, the machine went down while the index was open.
struct Marker;

impl Marker {
    const NAME: &str = "opened-during-boot";
    const DAMAGED: &str = "damaged";

    /// Why the index in this directory is not valid; none if it is valid.
    fn read(dir: &Path) -> Result<Option<&'static str>, IndexError> {
        let path = dir.join(Self::NAME);
        Ok(match if_exists(fs::read_to_string(&path)).at(&path)? {
            None => None,
            Some(boot) if !boot.is_empty() && boot == Self::boot() => None,
            Some(text) if text == Self::DAMAGED => Some("it was found damaged"),
            Some(_) => Some("the machine went down while it was open"),
        })
    }

    fn write(dir: &Path, text: &str) -> Result<(), IndexError> {
        let path = dir.join(Self::NAME);
        let written = fs::write(&path, text)
            .and_then(|()| fs::File::open(&path)?.sync_all())
            .and_then(|()| fs::File::open(dir)?.sync_all());
        Ok(written.at(&path)?)
    }

    /// Syncs every file of the index, which sled itself does not do, and removes the marker.
    fn remove(dir: &Path) -> Result<(), IndexError> {
        let synced = (|| {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    fs::File::open(entry.path())?.sync_all()?;
                }
            }
            fs::File::open(dir)?.sync_all()?;
            fs::remove_file(dir.join(Self::NAME))?;
            fs::File::open(dir)?.sync_all()
        })();
        Ok(synced.at(dir)?)
    }

    /// The id of this boot; empty if the system has none.
    fn boot() -> String {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE_BYTES: u64 = 1 << 20;
    /// A key whose row can not be brought to sled.
    pub(super) const PANIC: &str = "panic";

    fn row(key: &str, value: Option<&str>) -> Row {
        (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()))
    }

    #[test]
    fn rows_are_visible_at_once_and_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let (index, found) = Index::open(&dir.path().join("view"), CACHE_BYTES).unwrap();
        assert_eq!(found, Found::Nothing);
        index.put(vec![row("a", Some("1")), row("b", Some("2"))]).unwrap();
        index.put(vec![row("a", None), row("b", Some("3")), row("bc", Some(""))]).unwrap();
        let check = |index: &Index| {
            assert_eq!(index.get(b"a").unwrap(), None);
            assert_eq!(index.get(b"b").unwrap().as_deref(), Some(b"3".as_slice()));
            assert_eq!(index.keys(b"b", b"b", 9).unwrap(), [b"b".to_vec(), b"bc".to_vec()]);
            assert_eq!(index.keys(b"b", b"b", 1).unwrap(), [b"b".to_vec()]);
            assert_eq!(index.keys(b"b", b"ba", 9).unwrap(), [b"bc".to_vec()]);
        };
        check(&index);
        index.close().unwrap();
        check(&index);
        assert_eq!(index.pending_rows(), 0);
        drop(index);
        let (index, found) = Index::open(&dir.path().join("view"), CACHE_BYTES).unwrap();
        assert_eq!(found, Found::Usable);
        check(&index);
    }

    #[test]
    fn an_index_that_another_boot_left_open_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        index.put(vec![row("a", Some("1"))]).unwrap();
        drop(index);
        fs::write(dir.path().join(Marker::NAME), "another boot").unwrap();
        let (index, found) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        assert!(matches!(found, Found::Discarded(_)));
        assert_eq!(index.get(b"a").unwrap(), None);
    }

    #[test]
    fn the_directory_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("view");
        let _index = Index::open(&dir, CACHE_BYTES).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn nonsense_on_disk_is_not_taken_for_rows() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        index.put((0..5_000).map(|i| row(&format!("{i}"), Some("x"))).collect()).unwrap();
        drop(index);
        let nonsense = vec![0x55; 1 << 20];
        fs::write(dir.path().join("db"), nonsense).unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        assert_eq!(index.get(b"1").unwrap(), None);
    }

    #[test]
    fn an_index_that_failed_a_reader_is_thrown_away_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        index.put(vec![row("a", Some("1"))]).unwrap();
        assert!(index.shared.guarded(|| -> sled::Result<()> { panic!("as sled does") }).is_err());
        drop(index);
        let (_, found) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        assert!(matches!(found, Found::Discarded(_)));
    }

    #[test]
    fn a_failure_behind_the_writer_is_told_and_what_was_put_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        index.put(vec![row("a", Some("1")), row(PANIC, Some(""))]).unwrap_or_default();
        let stopped = loop {
            match index.put(vec![row("b", Some("2"))]) {
                Ok(()) => thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert!(matches!(stopped, IndexError::Stopped(_)), "{stopped:?}");
        assert_eq!(index.get(b"a").unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!(index.get(b"b").unwrap().as_deref(), Some(b"2".as_slice()));
        assert!(matches!(index.close(), Err(IndexError::Stopped(_))));
        drop(index);
        let (_, found) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        assert!(matches!(found, Found::Discarded(_)));
    }

    #[test]
    fn the_writer_waits_while_large_rows_are_on_their_way() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        let large = "x".repeat(1 << 20);
        for n in 0..300 {
            index.put(vec![row(&format!("{}", n % 3), Some(&large))]).unwrap();
            let control = index.shared.control.lock();
            assert!(control.pending_bytes <= PENDING_BYTES_MAX, "{}", control.pending_bytes);
        }
        while index.pending_rows() > 0 {
            thread::yield_now();
        }
        assert_eq!(index.shared.control.lock().pending_bytes, 0);
    }

    #[test]
    fn keys_are_limited_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        let name = |n: u32| format!("k{n:03}");
        index.put((0..300).map(|n| row(&name(n), Some(""))).collect()).unwrap();
        while index.pending_rows() > 0 {
            thread::yield_now();
        }
        // Removals and additions on top, in memory or on their way.
        index.put((0..300).step_by(2).map(|n| row(&name(n), None)).collect()).unwrap();
        index.put((300..600).map(|n| row(&name(n), Some(""))).collect()).unwrap();
        let want: Vec<_> =
            (0..600).filter(|n| *n >= 300 || n % 2 == 1).map(|n| name(n).into_bytes()).collect();
        for limit in [0, 1, 7, 149, 150, 151, 450, 1_000] {
            let keys = index.keys(b"k", b"k", limit).unwrap();
            assert_eq!(keys, want[..limit.min(want.len())], "{limit}");
        }
        assert!(index.keys(b"j", b"j", 9).unwrap().is_empty());
    }

    #[test]
    fn damage_is_noted_once() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        let marker = dir.path().join(Marker::NAME);
        let fail = || index.shared.guarded(|| -> sled::Result<()> { panic!("as sled does") });
        assert!(fail().is_err());
        assert_eq!(fs::read_to_string(&marker).unwrap(), Marker::DAMAGED);
        fs::write(&marker, "not written again").unwrap();
        assert!(fail().is_err());
        assert_eq!(fs::read_to_string(&marker).unwrap(), "not written again");
    }

    #[test]
    fn readers_never_miss_a_row_that_moves_to_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(dir.path(), CACHE_BYTES).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..2_000u32 {
                    let value = i.to_be_bytes().to_vec();
                    index.put(vec![(b"counter".to_vec(), Some(value))]).unwrap();
                }
            });
            let mut last = 0;
            while last < 1_999 {
                if let Some(value) = index.get(b"counter").unwrap() {
                    let now = u32::from_be_bytes(value.try_into().unwrap());
                    assert!(now >= last, "went back from {last} to {now}");
                    last = now;
                }
            }
        });
    }
}
