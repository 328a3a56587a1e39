//! Runs: immutable files of rows in key order.
//!
//! ```text
//! pages, each sealed | the footer, sealed
//! footer   last key | number of pages | for each: first key, bytes of the sealed page | filter
//! ```
//!
//! The manifest says where the footer is. A page is at the sum of the bytes before it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use consent_ledger_framelog::disk::{Disk, DiskFile};
use quick_cache::{Weighter, sync::Cache};
use tracing::warn;

use crate::{
    code::{Reader, put_bytes, put_number, shared},
    error::{AtPath as _, IndexError},
    filter::{self, KeyHash},
    page::{Page, PageBuilder},
    seal::{MapKey, Part, RunId, Seal},
};

/// Sealed pages gather up to this many bytes before they are written.
const WRITE_BYTES: usize = 1 << 18;

/// What the manifest says of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunFacts {
    /// Its id.
    pub id: RunId,
    /// How often its rows were merged.
    pub level: u8,
    /// Number of its rows, with the removed ones.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Where the footer begins.
    pub footer_at: u64,
    /// Length of the sealed footer.
    pub footer_bytes: u64,
}

/// The path of a run.
pub fn path_of(dir: &Path, id: &RunId) -> PathBuf {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    dir.join(format!("{hex}.run"))
}

/// How runs are written.
#[derive(Debug)]
pub struct Form<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// The directory.
    pub dir: &'a Path,
    /// The key of the map.
    pub key: &'a MapKey,
    /// Bytes of a page before it is sealed.
    pub page_bytes: usize,
    /// The key of filters.
    pub filter_key: &'a [u8; 32],
    /// Which keys are in the filters.
    pub is_filtered: fn(&[u8]) -> bool,
}

/// Writes a run.
#[derive(Debug)]
pub struct RunWriter<'a> {
    form: &'a Form<'a>,
    id: RunId,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    seal: Seal,
    page: PageBuilder,
    first_keys: Vec<(Vec<u8>, u64)>,
    hashes: Vec<KeyHash>,
    last: Vec<u8>,
    rows: u64,
    waiting: Vec<u8>,
    written: u64,
}

impl<'a> RunWriter<'a> {
    pub fn create(form: &'a Form<'a>) -> Result<Self, IndexError> {
        let id: RunId = rand::random();
        let path = path_of(form.dir, &id);
        let file = form.disk.create(&path).at(&path)?;
        Ok(Self {
            form,
            id,
            path,
            file,
            seal: form.key.run(&id),
            page: PageBuilder::default(),
            first_keys: Vec::new(),
            hashes: Vec::new(),
            last: Vec::new(),
            rows: 0,
            waiting: Vec::new(),
            written: 0,
        })
    }

    /// Appends a row, whose key is greater than those before.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), IndexError> {
        if (self.form.is_filtered)(key) {
            self.hashes.push(KeyHash::of(self.form.filter_key, key));
        }
        self.page.push(key, value);
        self.rows += 1;
        self.last.clear();
        self.last.extend_from_slice(key);
        if self.page.bytes() >= self.form.page_bytes { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> Result<(), IndexError> {
        let number = u32::try_from(self.first_keys.len())
            .map_err(|_| IndexError::Stopped("a run has too many pages".to_owned()))?;
        let (first, text) = self.page.finish();
        let sealed = self.seal.close(Part::Page(number), &text);
        self.first_keys.push((first, sealed.len() as u64));
        self.waiting.extend_from_slice(&sealed);
        if self.waiting.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), IndexError> {
        self.file.write_all_at(&self.waiting, self.written).at(&self.path)?;
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Removes what was written.
    pub fn abandon(self) -> Result<(), IndexError> {
        self.form.disk.remove(&self.path).at(&self.path)
    }

    /// Ends the run and makes it durable, but for its name.
    pub fn finish(&mut self, level: u8) -> Result<RunFacts, IndexError> {
        if self.page.bytes() > 0 {
            self.end_page()?;
        }
        let footer_at = self.written + self.waiting.len() as u64;
        let mut footer = Vec::new();
        put_bytes(&self.last, &mut footer);
        put_number(self.first_keys.len() as u64, &mut footer);
        let mut before: &[u8] = &[];
        for (first, bytes) in &self.first_keys {
            let common = shared(before, first);
            put_number(common as u64, &mut footer);
            put_bytes(&first[common..], &mut footer);
            put_number(*bytes, &mut footer);
            before = first;
        }
        put_bytes(&filter::build(&self.hashes), &mut footer);
        let sealed = self.seal.close(Part::Footer, &footer);
        self.waiting.extend_from_slice(&sealed);
        self.write()?;
        self.file.sync_data().at(&self.path)?;
        Ok(RunFacts {
            id: self.id,
            level,
            rows: self.rows,
            bytes: self.written,
            footer_at,
            footer_bytes: sealed.len() as u64,
        })
    }
}

/// Decoded pages in memory.
pub type Pages = Cache<(u64, u32), Arc<Page>, PageWeight>;

/// What a page weighs in the cache.
#[derive(Debug, Clone)]
pub struct PageWeight;

impl Weighter<(u64, u32), Arc<Page>> for PageWeight {
    fn weight(&self, _: &(u64, u32), page: &Arc<Page>) -> u64 {
        page.memory_bytes() as u64 + 64
    }
}

/// A row of a run: its value, or that it is removed.
pub type Found = Option<Vec<u8>>;

/// A run that is open.
#[derive(Debug)]
pub struct Run {
    /// What the manifest says of it.
    pub facts: RunFacts,
    /// Its number in this process, for the cache.
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    seal: Seal,
    footer: OnceLock<Footer>,
    disk: Arc<dyn Disk>,
    is_superseded: AtomicBool,
}

#[derive(Debug)]
struct Footer {
    last: Box<[u8]>,
    /// First key of each page, and where the page begins.
    pages: Box<[(Box<[u8]>, u64)]>,
    filter: Box<[u8]>,
}

impl Run {
    /// Opens a run. None if the file is not there, or has another length.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        key: &MapKey,
        facts: RunFacts,
    ) -> Result<Option<Self>, IndexError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = path_of(dir, &facts.id);
        let file = match disk.open_read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.at(&path)?,
        };
        let end = facts.footer_at.checked_add(facts.footer_bytes);
        if file.len().at(&path)? != facts.bytes || end != Some(facts.bytes) {
            return Ok(None);
        }
        Ok(Some(Self {
            facts,
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            path,
            file,
            seal: key.run(&facts.id),
            footer: OnceLock::new(),
            disk: Arc::clone(disk),
            is_superseded: AtomicBool::new(false),
        }))
    }

    /// Its file goes once nobody reads it.
    pub fn supersede(&self) {
        self.is_superseded.store(true, Ordering::Relaxed);
    }

    /// The row of a key; none if the run has none. `hash` is there if the key is in filters.
    pub fn get(
        &self,
        key: &[u8],
        hash: Option<KeyHash>,
        pages: &Pages,
    ) -> Result<Option<Found>, IndexError> {
        let footer = self.footer()?;
        if hash.is_some_and(|hash| !filter::may_have(&footer.filter, hash)) {
            return Ok(None);
        }
        let Some(number) = footer.page_of(key) else { return Ok(None) };
        let page = self.page(number, pages)?;
        let row = page.row(page.position(key)).filter(|(found, _)| *found == key);
        Ok(row.map(|(_, value)| value.map(<[u8]>::to_vec)))
    }

    /// Number of its pages.
    pub fn pages(&self) -> Result<u32, IndexError> {
        Ok(u32::try_from(self.footer()?.pages.len()).unwrap_or(u32::MAX))
    }

    /// The page in which the first key that is not less would be.
    pub fn first_page(&self, key: &[u8]) -> Result<u32, IndexError> {
        let footer = self.footer()?;
        Ok(footer.page_of(key).unwrap_or(if key > &footer.last[..] { u32::MAX } else { 0 }))
    }

    /// A page, from memory if it is there.
    pub fn page(&self, number: u32, pages: &Pages) -> Result<Arc<Page>, IndexError> {
        if let Some(page) = pages.get(&(self.number, number)) {
            return Ok(page);
        }
        let page = Arc::new(self.read_page(number)?);
        pages.insert((self.number, number), Arc::clone(&page));
        Ok(page)
    }

    /// A page, from the file.
    pub fn read_page(&self, number: u32) -> Result<Page, IndexError> {
        let footer = self.footer()?;
        let at = |number: usize| {
            footer.pages.get(number).map_or(self.facts.footer_at, |(_, begins)| *begins)
        };
        let number_of = number as usize;
        let text = self.open_part(Part::Page(number), at(number_of), at(number_of + 1))?;
        Page::decode(&text).ok_or_else(|| self.damaged(Part::Page(number)))
    }

    fn footer(&self) -> Result<&Footer, IndexError> {
        if let Some(footer) = self.footer.get() {
            return Ok(footer);
        }
        let text = self.open_part(Part::Footer, self.facts.footer_at, self.facts.bytes)?;
        let footer = Footer::decode(&text, self.facts.footer_at);
        let footer = footer.ok_or_else(|| self.damaged(Part::Footer))?;
        Ok(self.footer.get_or_init(|| footer))
    }

    fn open_part(&self, part: Part, from: u64, to: u64) -> Result<Vec<u8>, IndexError> {
        let length = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut sealed = vec![0; length];
        self.file.read_exact_at(&mut sealed, from).at(&self.path)?;
        self.seal.open(part, &sealed).ok_or_else(|| self.damaged(part))
    }

    fn damaged(&self, part: Part) -> IndexError {
        IndexError::Damaged { path: self.path.clone(), what: part.to_string() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_superseded.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.disk.remove(&self.path) {
            warn!(path = %self.path.display(), %error, "an old run stays until the next start");
        }
    }
}

impl Footer {
    fn decode(text: &[u8], footer_at: u64) -> Option<Self> {
        let mut reader = Reader(text);
        let last = reader.bytes()?.into();
        let count = reader.length()?;
        let (mut pages, mut at) = (Vec::<(Box<[u8]>, u64)>::new(), 0_u64);
        for _ in 0..count {
            let before = pages.last().map_or(&[][..], |(first, _)| first);
            let common = before.get(..reader.length()?)?;
            let first = [common, reader.bytes()?].concat();
            pages.push((first.into(), at));
            at = at.checked_add(reader.number()?)?;
        }
        let filter = reader.bytes()?.into();
        let is_whole = reader.is_at_end() && at == footer_at;
        is_whole.then(|| Self { last, pages: pages.into(), filter })
    }

    /// The page that has a key, if the run has it.
    fn page_of(&self, key: &[u8]) -> Option<u32> {
        if key > &self.last[..] {
            return None;
        }
        let after = self.pages.partition_point(|(first, _)| &first[..] <= key);
        u32::try_from(after.checked_sub(1)?).ok()
    }
}
