//! The map: rows in memory, runs behind them, and the threads that write and merge runs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use consent_ledger_framelog::disk::Disk;
use parking_lot::{Condvar, Mutex, RwLock};
use quick_cache::sync::Cache;
use tracing::{error, warn};

use crate::{
    error::{AtPath as _, IndexError},
    filter::KeyHash,
    manifest,
    memory::Memory,
    merge::{Rows, merged},
    run::{Form, PageWeight, Pages, Run, RunFacts, RunWriter, path_of},
    seal::MapKey,
};

/// A row: key, and the value or its removal.
pub type Row = (Vec<u8>, Option<Vec<u8>>);

/// Runs, newest first.
type Runs = Vec<Arc<Run>>;

/// Priority of the threads that write: below those that answer requests.
const NICE: i32 = 19;
/// How many pages the cache expects, for its tables.
const PAGES_EXPECTED: usize = 10_000;

/// Limits of a map.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Memory for decoded pages, in bytes.
    pub cache_bytes: u64,
    /// The greatest number of rows in memory; above it, the writer waits.
    pub memory_rows_max: usize,
    /// The greatest number of their bytes.
    pub memory_bytes_max: usize,
    /// So many rows in memory are written to disk.
    pub write_rows: usize,
    /// Rows wait no longer than this.
    pub write_after: Duration,
    /// How many runs of a level are merged to one.
    pub fan_in: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// The keys that are looked up though they may not be there: filters say so without a page.
    pub is_filtered: fn(&[u8]) -> bool,
    /// The keys that are often listed, and their prefixes. Listing others is slow: it looks at all of them in
    /// memory.
    pub is_listed: fn(&[u8]) -> bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            memory_rows_max: 400_000,
            memory_bytes_max: 256 << 20,
            write_rows: 131_072,
            write_after: Duration::from_secs(60),
            fan_in: 8,
            page_bytes: 4 << 10,
            is_filtered: |_| true,
            is_listed: |_| true,
        }
    }
}

/// What was in a directory when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No map.
    Nothing,
    /// A map, as it was after some earlier put.
    Usable,
    /// One that could not be used, and was deleted.
    Discarded(&'static str),
}

/// The map.
#[derive(Debug)]
pub struct Index {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    key: MapKey,
    filter_key: [u8; 32],
    config: Config,
    state: RwLock<State>,
    pages: Pages,
    control: Mutex<Control>,
    changed: Condvar,
    /// Held while the runs change, on disk and then in memory.
    manifest: Mutex<()>,
    written_bytes: AtomicU64,
}

/// What readers see. A key is looked up in `active`, then in `writing`, then in the runs.
#[derive(Debug)]
struct State {
    active: Memory,
    writing: Arc<Memory>,
    runs: Arc<Runs>,
}

/// What the threads tell each other. It is locked after the state, never before.
#[derive(Debug, Default)]
struct Control {
    rows: usize,
    bytes: usize,
    /// How often the runs changed.
    changes: u64,
    /// When the oldest row came that is not being written.
    since: Option<Instant>,
    is_closing: bool,
    /// All rows are written, and no more come: merges end too.
    is_written: bool,
    is_damaged: bool,
    failed: Option<String>,
}

impl Index {
    /// Opens the map of an owner in `dir`, or makes a new one if there is none that can be used.
    ///
    /// # Errors
    /// The directory can not be used at all.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        key: &[u8; 32],
        owner: [u8; 16],
        config: Config,
    ) -> Result<(Self, Found), IndexError> {
        let key = MapKey::new(key, owner);
        disk.create_dir_all(dir).at(dir)?;
        let (runs, found) = match manifest::read(&*disk, dir, &key)? {
            manifest::Read::None => (Runs::new(), Found::Nothing),
            manifest::Read::Unusable(reason) => (Runs::new(), Found::Discarded(reason)),
            manifest::Read::Runs(facts) => match open_runs(&disk, dir, &key, &facts)? {
                Some(runs) => (runs, Found::Usable),
                None => (Runs::new(), Found::Discarded("a part of it is missing")),
            },
        };
        if found != Found::Usable {
            manifest::remove(&*disk, dir)?;
        }
        remove_others(&*disk, dir, &runs)?;
        let shared = Arc::new(Shared {
            filter_key: key.filter(),
            state: RwLock::new(State {
                active: Memory::new(config.is_listed),
                writing: Arc::new(Memory::new(config.is_listed)),
                runs: Arc::new(runs),
            }),
            pages: Cache::with_weighter(PAGES_EXPECTED, config.cache_bytes, PageWeight),
            dir: dir.to_owned(),
            disk,
            key,
            config,
            control: Mutex::default(),
            changed: Condvar::new(),
            manifest: Mutex::default(),
            written_bytes: AtomicU64::new(0),
        });
        let threads =
            [("index", Shared::write_behind as fn(&Shared)), ("index-merge", Shared::merge)];
        let threads = threads.map(|(name, run)| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared)).at(dir)
        });
        let threads = threads.into_iter().collect::<Result<_, _>>()?;
        Ok((Self { shared, threads: Mutex::new(threads) }, found))
    }

    /// Puts rows: all become visible at once, before the call returns. After a crash there are all of them, or
    /// none. Waits while too many rows are in memory.
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
        if rows.is_empty() {
            return;
        }
        let wake = {
            let mut state = self.shared.state.write();
            state.active.put(rows);
            let mut control = self.shared.control.lock();
            let is_first = control.since.is_none();
            control.since.get_or_insert_with(Instant::now);
            control.count(&state);
            is_first || state.active.rows() >= self.shared.config.write_rows
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
        let config = &self.shared.config;
        let mut control = self.shared.control.lock();
        while (control.rows > config.memory_rows_max || control.bytes > config.memory_bytes_max)
            && control.failed.is_none()
            && !control.is_closing
        {
            self.shared.changed.wait(&mut control);
        }
        control.failed.clone().map_or(Ok(()), |reason| Err(IndexError::Stopped(reason)))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// A file can not be read, or is not what was written.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let runs = {
            let state = self.shared.state.read();
            if let Some(value) = state.active.get(key).or_else(|| state.writing.get(key)) {
                return Ok(value.clone());
            }
            Arc::clone(&state.runs)
        };
        let is_filtered = (self.shared.config.is_filtered)(key);
        let hash = is_filtered.then(|| KeyHash::of(&self.shared.filter_key, key));
        for run in runs.iter() {
            let found = run.get(key, hash, &self.shared.pages);
            if let Some(value) = self.shared.checked(found)? {
                return Ok(value);
            }
        }
        Ok(None)
    }

    /// Up to `limit` keys that start with `prefix`, from `from` on, in order.
    ///
    /// # Errors
    /// A file can not be read, or is not what was written.
    pub fn keys(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, IndexError> {
        let mut keys = Keys { prefix, limit, found: BTreeMap::new() };
        let runs = {
            let state = self.shared.state.read();
            for rows in [&state.active, state.writing.as_ref()] {
                let mut count = 0;
                rows.keys(prefix, from, &mut |key, is_there| keys.take(key, is_there, &mut count));
            }
            Arc::clone(&state.runs)
        };
        for run in runs.iter() {
            let taken = keys.take_run(run, from, &self.shared.pages);
            self.shared.checked(taken)?;
        }
        let found = keys.found.into_iter().filter(|(_, stays)| *stays);
        Ok(found.map(|(key, _)| key).take(limit).collect())
    }

    /// Number of rows that are not on disk yet.
    #[must_use]
    pub fn pending_rows(&self) -> usize {
        self.shared.control.lock().rows
    }

    /// Whether a page was found that is not what was written there. The next opening makes a new map.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.shared.control.lock().is_damaged
    }

    /// Number of bytes written to disk so far.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.shared.written_bytes.load(Ordering::Relaxed)
    }

    /// Writes all rows to stable storage, and ends the threads. Reads still work afterwards.
    ///
    /// # Errors
    /// A row could not be written.
    pub fn close(&self) -> Result<(), IndexError> {
        self.shared.control.lock().is_closing = true;
        self.shared.changed.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                return Err(IndexError::Stopped("a thread of the index ended early".to_owned()));
            }
        }
        let failed = self.shared.control.lock().failed.clone();
        failed.map_or(Ok(()), |reason| Err(IndexError::Stopped(reason)))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            error!(%error, "the index was not closed: it is that of an earlier moment at the next start");
        }
    }
}

impl Control {
    fn count(&mut self, state: &State) {
        self.rows = state.active.rows() + state.writing.rows();
        self.bytes = state.active.bytes() + state.writing.bytes();
    }
}

impl Shared {
    fn form(&self) -> Form<'_> {
        Form {
            disk: &*self.disk,
            dir: &self.dir,
            key: &self.key,
            page_bytes: self.config.page_bytes,
            filter_key: &self.filter_key,
            is_filtered: self.config.is_filtered,
        }
    }

    /// Notes damage: the map is made again at the next start.
    fn checked<T>(&self, result: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(error @ IndexError::Damaged { .. }) = &result {
            let _changing = self.manifest.lock();
            // Once: every read of a damaged page comes here, and must not wait for a sync.
            if !std::mem::replace(&mut self.control.lock().is_damaged, true) {
                error!(%error, "the index is damaged, and is made again at the next start");
                if let Err(error) = manifest::remove(&*self.disk, &self.dir) {
                    error!(%error, "the damage could not be noted");
                }
            }
        }
        result
    }

    fn write_behind(&self) {
        be_nice();
        if let Err(error) = self.write_until_closed() {
            error!(%error, "rows can not be brought to the index on disk");
            self.control.lock().failed = Some(error.to_string());
        }
        self.control.lock().is_written = true;
        self.changed.notify_all();
    }

    fn write_until_closed(&self) -> Result<(), IndexError> {
        loop {
            {
                let mut control = self.control.lock();
                while !control.is_closing && control.rows < self.config.write_rows {
                    match control.since {
                        None => self.changed.wait(&mut control),
                        Some(since) => {
                            let until = since + self.config.write_after;
                            if self.changed.wait_until(&mut control, until).timed_out() {
                                break;
                            }
                        }
                    }
                }
                if control.rows == 0 && control.is_closing {
                    return Ok(());
                }
            }
            self.write_memory()?;
        }
    }

    /// Writes the rows in memory as a run.
    fn write_memory(&self) -> Result<(), IndexError> {
        let rows = {
            let mut state = self.state.write();
            let active = Memory::new(self.config.is_listed);
            state.writing = Arc::new(std::mem::replace(&mut state.active, active));
            self.control.lock().since = None;
            Arc::clone(&state.writing)
        };
        if rows.rows() == 0 {
            return Ok(());
        }
        let form = self.form();
        let mut run = RunWriter::create(&form)?;
        for (key, value) in rows.sorted() {
            run.push(key, value)?;
        }
        let run = self.durable(run.finish(0)?)?;
        self.change_runs(&mut |runs| runs.insert(0, Arc::clone(&run)), &mut |state| {
            state.writing = Arc::new(Memory::new(self.config.is_listed));
        })?;
        self.changed.notify_all();
        Ok(())
    }

    /// Opens a run that was written, and makes its name durable.
    fn durable(&self, facts: RunFacts) -> Result<Arc<Run>, IndexError> {
        self.written_bytes.fetch_add(facts.bytes, Ordering::Relaxed);
        self.disk.sync_dir(&self.dir).at(&self.dir)?;
        let run = Run::open(&self.disk, &self.dir, &self.key, facts)?;
        run.map(Arc::new).ok_or_else(|| IndexError::Damaged {
            path: path_of(&self.dir, &facts.id),
            what: "its length".to_owned(),
        })
    }

    /// Changes the runs: first on disk, then for readers.
    fn change_runs(
        &self,
        change: &mut dyn FnMut(&mut Runs),
        then: &mut dyn FnMut(&mut State),
    ) -> Result<(), IndexError> {
        let _changing = self.manifest.lock();
        let mut runs = Runs::clone(&self.state.read().runs);
        change(&mut runs);
        // A damaged map has no manifest any more, so that the next start makes it again.
        if !self.control.lock().is_damaged {
            let facts = runs.iter().map(|run| run.facts);
            manifest::write(&*self.disk, &self.dir, &self.key, facts)?;
        }
        let mut state = self.state.write();
        state.runs = Arc::new(runs);
        then(&mut state);
        let mut control = self.control.lock();
        control.changes += 1;
        control.count(&state);
        Ok(())
    }

    fn merge(&self) {
        be_nice();
        let mut failed_at = None;
        loop {
            let changes = self.control.lock().changes;
            let runs = Arc::clone(&self.state.read().runs);
            let group = self.group(&runs).filter(|_| failed_at != Some(changes));
            let Some(group) = group else {
                let mut control = self.control.lock();
                while control.changes == changes && !control.is_written {
                    self.changed.wait(&mut control);
                }
                if control.is_written {
                    return;
                }
                continue;
            };
            let merged = self.merge_group(&runs[group.clone()], group.end == runs.len());
            if let Err(error) = self.checked(merged) {
                warn!(%error, "runs of the index could not be merged: the next run tries again");
                failed_at = Some(changes);
            }
            if self.control.lock().is_closing {
                return;
            }
        }
    }

    /// The runs that are merged next: as many as gathered on one level.
    fn group(&self, runs: &Runs) -> Option<std::ops::Range<usize>> {
        let mut start = 0;
        for group in runs.chunk_by(|one, other| one.facts.level == other.facts.level) {
            let end = start + group.len();
            if group.len() >= self.config.fan_in {
                return Some(start..end);
            }
            start = end;
        }
        None
    }

    /// Merges neighbours to one run. Where the oldest run takes part, removed rows go.
    fn merge_group(&self, group: &[Arc<Run>], is_oldest: bool) -> Result<(), IndexError> {
        let form = self.form();
        let mut run = RunWriter::create(&form)?;
        let facts = self.write_merged(group, is_oldest, &mut run);
        let Ok(Some(facts)) = facts else {
            run.abandon()?;
            return facts.map(|_| ());
        };
        let run = self.durable(facts)?;
        let is_merged = |run: &Arc<Run>| group.iter().any(|merged| Arc::ptr_eq(merged, run));
        self.change_runs(
            &mut |runs| {
                let at = runs.iter().position(is_merged).unwrap_or(runs.len());
                runs.retain(|run| !is_merged(run));
                runs.insert(at, Arc::clone(&run));
            },
            &mut |_| {},
        )?;
        if !self.control.lock().is_damaged {
            group.iter().for_each(|run| run.supersede());
        }
        Ok(())
    }

    /// None if the map is closed before the end.
    fn write_merged(
        &self,
        group: &[Arc<Run>],
        is_oldest: bool,
        run: &mut RunWriter<'_>,
    ) -> Result<Option<RunFacts>, IndexError> {
        let is_whole = merged(group, &mut |key, value| {
            if value.is_some() || !is_oldest {
                run.push(key, value)?;
            }
            Ok(!self.control.lock().is_closing)
        })?;
        let level = group.first().map_or(0, |run| run.facts.level.saturating_add(1));
        if is_whole { run.finish(level).map(Some) } else { Ok(None) }
    }
}

/// Keys that were found so far, and whether they have a value.
struct Keys<'a> {
    prefix: &'a [u8],
    limit: usize,
    found: BTreeMap<Vec<u8>, bool>,
}

impl Keys<'_> {
    /// Takes a key of older rows than those before; `count` of these have a value so far. For a key that
    /// is there already, the newer row counts. False if no more are needed.
    fn take(&mut self, key: &[u8], is_there: bool, count: &mut usize) -> bool {
        if *count >= self.limit || !key.starts_with(self.prefix) {
            return false;
        }
        let stays = match self.found.get(key) {
            Some(stays) => *stays,
            None => {
                self.found.insert(key.to_vec(), is_there);
                is_there
            }
        };
        *count += usize::from(stays);
        true
    }

    fn take_run(&mut self, run: &Run, from: &[u8], pages: &Pages) -> Result<(), IndexError> {
        let (mut rows, mut count) = (Rows::new(run, Some(pages), from)?, 0);
        while let Some((key, value)) = rows.row() {
            if !self.take(key, value.is_some(), &mut count) {
                break;
            }
            rows.step()?;
        }
        Ok(())
    }
}

/// If the system does not allow it, the thread keeps its priority.
fn be_nice() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

fn open_runs(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    key: &MapKey,
    facts: &[RunFacts],
) -> Result<Option<Runs>, IndexError> {
    let runs = facts.iter().map(|facts| Run::open(disk, dir, key, *facts));
    let runs: Vec<Option<Run>> = runs.collect::<Result<_, _>>()?;
    Ok(runs.into_iter().map(|run| run.map(Arc::new)).collect())
}

/// Removes the files that the manifest does not name: those of an unfinished write, and of an unusable map.
fn remove_others(disk: &dyn Disk, dir: &Path, runs: &Runs) -> Result<(), IndexError> {
    let named: Vec<PathBuf> = runs.iter().map(|run| path_of(dir, &run.facts.id)).collect();
    for name in disk.list(dir).at(dir)? {
        let path = dir.join(&name);
        if name != manifest::NAME && !named.contains(&path) {
            manifest::remove_if_there(disk, &path)?;
        }
    }
    Ok(())
}
