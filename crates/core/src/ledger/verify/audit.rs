//! Verification on all cores.
//!
//! One thread reads the frames, as every other reader does, and cuts them into parts. Workers
//! follow the chain inside a part and hash its leaves. The parts are then joined in order: the
//! first entry of a part must be linked to the last of the one before. So the report names the
//! first damage in the order of the ledger, and ignores everything after it.

use std::{
    collections::BTreeMap,
    mem,
    num::NonZero,
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread,
};

use super::{OfPersons, Report, VerifyError, opened};
use crate::{
    domain::LedgerOpened,
    ledger::{ChainError, Claim, ENTRY_BYTES_MAX, LOG_KIND, Tip},
    storage::{Damage, FrameAt, LogError, ScanEnd, disk::Disk, scan},
    tlog::{
        merkle::{Hash, Range, empty_root, leaf_hash},
        tile::TILE_HEIGHT,
    },
};

/// A part is closed when its entries have this many bytes.
const PART_BYTES: usize = 256 * 1024;
/// How many parts may wait for each worker, and how many followed parts may wait to be joined. They
/// take most of the memory of an audit. Parts that overtake a slow one wait as hashes only.
const PARTS_WAITING: usize = 2;
/// The most workers; one thread walks for all of them.
const WORKERS_MAX: usize = 16;

/// Takes a hash of the tree: level, number and hash, as C2SP tlog-tiles counts them.
pub type TakeHash<'a> = dyn FnMut(u8, u64, &Hash) + 'a;

/// Optional outputs of an audit.
#[derive(Default)]
pub struct Wanted<'a> {
    /// Numbers of entries at which the root of the tree is wanted.
    pub roots_at: &'a [u64],
    /// Takes every hash of every level of tiles; each level in order.
    pub hashes: Option<&'a mut TakeHash<'a>>,
    /// Receives the number of bytes of entries that are verified.
    pub progress: Option<&'a mut dyn FnMut(u64)>,
}

/// The intact entries, from the first on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Good {
    /// The end of the chain so far.
    pub tip: Tip,
    /// Bytes of these entries.
    pub bytes: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// How the ledger is opened.
    pub opened: Option<LedgerOpened>,
    /// What they show of data subjects.
    pub of_persons: OfPersons,
    /// Roots that were asked for, of those sizes that the good entries reach.
    pub roots: BTreeMap<u64, Hash>,
}

impl Good {
    /// No entries.
    #[must_use]
    pub fn none() -> Self {
        let root = empty_root();
        Self {
            tip: Tip::genesis(),
            bytes: 0,
            root,
            opened: None,
            of_persons: OfPersons::default(),
            roots: [(0, root)].into(),
        }
    }
}

/// The outcome of an audit.
#[derive(Debug)]
pub struct Audited {
    /// The intact entries.
    pub good: Good,
    /// The report on the whole ledger if it is intact, otherwise the first damage.
    pub result: Result<Report, VerifyError>,
}

/// Verifies the segments in `dir` on all cores.
#[must_use]
pub fn audit(disk: &dyn Disk, dir: &Path, wanted: Wanted<'_>) -> Audited {
    let workers = workers();
    let mut sizes = wanted.roots_at.to_vec();
    sizes.sort_unstable();
    let wants_hashes = wanted.hashes.is_some();
    let stop = AtomicBool::new(false);
    let mut join = Join::new(wanted);
    let walked = thread::scope(|scope| {
        let (parts, waiting) = mpsc::sync_channel::<Part>(workers * PARTS_WAITING);
        let (followed, joined) = mpsc::sync_channel(workers * PARTS_WAITING);
        let (spare, spares) = mpsc::channel();
        let (waiting, sizes, stop) = (Arc::new(Mutex::new(waiting)), &sizes, &stop);
        for _ in 0..workers {
            let (waiting, followed) = (Arc::clone(&waiting), followed.clone());
            let spare = spare.clone();
            scope.spawn(move || work(&waiting, &followed, &spare, sizes, wants_hashes));
        }
        drop((waiting, followed, spare));
        let walker = scope.spawn(move || walk(disk, dir, &parts, &spares, stop));
        join.all(&joined);
        // The walker and the workers must not block on full channels.
        stop.store(true, Ordering::Relaxed);
        joined.into_iter().for_each(drop);
        walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    join.end(dir, walked)
}

/// How many threads follow and hash: as many as there are cores.
#[must_use]
pub fn workers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS_MAX)
}

/// Consecutive entries of one segment.
struct Part {
    /// How many parts come before it.
    number: u64,
    segment: String,
    first_index: u64,
    bytes: Vec<u8>,
    /// Where each entry begins in its segment, and where it ends in `bytes`.
    places: Vec<(u64, usize)>,
}

impl Part {
    /// A part that begins with a frame. It reuses the memory of an earlier part if there is some:
    /// the system clears new memory, which takes longer than a checksum.
    fn of(number: u64, frame: &FrameAt<'_>, spare: Option<Vec<u8>>) -> Self {
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(PART_BYTES + ENTRY_BYTES_MAX));
        Self {
            number,
            segment: frame.segment.to_owned(),
            first_index: frame.index,
            bytes,
            places: Vec::new(),
        }
    }

    fn push(&mut self, frame: &FrameAt<'_>) {
        self.bytes.extend_from_slice(frame.payload);
        self.places.push((frame.offset, self.bytes.len()));
    }

    /// Index, offset and bytes of each entry.
    fn entries(&self) -> impl Iterator<Item = (u64, u64, &[u8])> {
        let mut start = 0;
        (self.first_index..).zip(&self.places).map(move |(index, (offset, end))| {
            let bytes = &self.bytes[mem::replace(&mut start, *end)..*end];
            (index, *offset, bytes)
        })
    }
}

/// Walks over all frames and sends them in parts. Ends early if `stop` is set.
fn walk(
    disk: &dyn Disk,
    dir: &Path,
    parts: &SyncSender<Part>,
    spares: &Receiver<Vec<u8>>,
    stop: &AtomicBool,
) -> Result<ScanEnd, LogError> {
    let frame_bytes_max = u32::try_from(ENTRY_BYTES_MAX).unwrap_or(u32::MAX);
    let mut part: Option<Part> = None;
    let mut number = 0;
    let send = |part: Part| match parts.send(part) {
        Ok(()) if !stop.load(Ordering::Relaxed) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(String::new()),
    };
    let walked = scan(disk, dir, LOG_KIND, frame_bytes_max, 0, &mut |frame| {
        let full = |part: &mut Part| {
            part.segment != frame.segment || part.bytes.len() + frame.payload.len() > PART_BYTES
        };
        if let Some(full) = part.take_if(full) {
            send(full)?;
        }
        let part = part.get_or_insert_with(|| {
            number += 1;
            Part::of(number - 1, &frame, spares.try_recv().ok())
        });
        part.push(&frame);
        ControlFlow::Continue(())
    });
    // The entries before a damage are verified, too.
    if let Some(last) = part {
        let _ = send(last);
    }
    walked
}

/// A part whose entries follow each other.
struct Followed {
    number: u64,
    segment: String,
    /// Where its first entry begins in its segment.
    offset: u64,
    /// What the first entry claims.
    claim: Option<Claim>,
    tip: Tip,
    bytes: u64,
    opened: Option<LedgerOpened>,
    of_persons: OfPersons,
    leaves: Range,
    /// The beginnings of `leaves` that end at a wanted size.
    beginnings: Vec<Range>,
    /// Level, number and hash of the subtrees that are complete inside the part, if wanted.
    hashes: Vec<(u8, u64, Hash)>,
    /// The first entry that does not follow.
    broken: Option<Damage>,
}

fn work(
    waiting: &Mutex<Receiver<Part>>,
    followed: &SyncSender<Followed>,
    spare: &Sender<Vec<u8>>,
    sizes: &[u64],
    wants_hashes: bool,
) {
    loop {
        // Held for as long as it takes to get one part, or to learn that there are no more.
        let part = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut part) = part else { return };
        if followed.send(Followed::new(&part, sizes, wants_hashes)).is_err() {
            return;
        }
        part.bytes.clear();
        // A walker that is done needs no more.
        let _ = spare.send(part.bytes);
    }
}

impl Followed {
    fn new(part: &Part, sizes: &[u64], wants_hashes: bool) -> Self {
        let first = part.first_index;
        let claim = part.entries().next().and_then(|(_, _, bytes)| Claim::read(bytes));
        let start = claim.map_or_else(Tip::genesis, |claim| claim.tip());
        let start = Tip { next_index: first, ..start };
        let mut followed = Self {
            number: part.number,
            segment: part.segment.clone(),
            offset: part.places.first().map_or(0, |(offset, _)| *offset),
            claim,
            tip: start,
            bytes: 0,
            opened: None,
            of_persons: OfPersons::default(),
            leaves: Range::empty(first),
            beginnings: Vec::new(),
            hashes: Vec::new(),
            broken: None,
        };
        for (index, offset, bytes) in part.entries() {
            if let Err(problem) = followed.follow(bytes, wants_hashes) {
                followed.broken = Some(followed.damage(offset, index, &problem));
                break;
            }
            if sizes.binary_search(&(index + 1)).is_ok() {
                followed.beginnings.push(followed.leaves.clone());
            }
        }
        followed
    }

    fn follow(&mut self, bytes: &[u8], wants_hashes: bool) -> Result<(), ChainError> {
        let index = self.tip.next_index;
        let (entry, next) = self.tip.follow(bytes)?;
        self.opened = self.opened.take().or_else(|| opened(&entry));
        self.of_persons.add(OfPersons::of(&entry));
        self.tip = next;
        self.bytes += bytes.len() as u64;
        let leaf = leaf_hash(bytes);
        if !wants_hashes {
            self.leaves.push(leaf);
            return Ok(());
        }
        let hashes = &mut self.hashes;
        hashes.push((0, index, leaf));
        self.leaves.push_telling(leaf, &mut |height, hash| {
            hashes.extend(level_of(height).map(|level| (level, index >> height, *hash)));
        });
        Ok(())
    }

    fn damage(&self, offset: u64, index: u64, problem: &ChainError) -> Damage {
        Damage { segment: self.segment.clone(), offset, index, problem: problem.to_string() }
    }
}

/// The level of tiles that holds subtrees of this height.
fn level_of(height: u32) -> Option<u8> {
    let level = height.is_multiple_of(TILE_HEIGHT).then_some(height / TILE_HEIGHT)?;
    u8::try_from(level).ok()
}

/// Puts parts together in order.
struct Join<'a> {
    tip: Tip,
    bytes: u64,
    opened: Option<LedgerOpened>,
    of_persons: OfPersons,
    leaves: Range,
    roots: BTreeMap<u64, Hash>,
    broken: Option<Damage>,
    hashes: Option<&'a mut TakeHash<'a>>,
    progress: Option<&'a mut dyn FnMut(u64)>,
}

impl<'a> Join<'a> {
    fn new(wanted: Wanted<'a>) -> Self {
        let zero = wanted.roots_at.contains(&0).then(|| (0, empty_root()));
        Self {
            tip: Tip::genesis(),
            bytes: 0,
            opened: None,
            of_persons: OfPersons::default(),
            leaves: Range::empty(0),
            roots: zero.into_iter().collect(),
            broken: None,
            hashes: wanted.hashes,
            progress: wanted.progress,
        }
    }

    /// Joins parts until there are no more, or one does not fit.
    fn all(&mut self, parts: &Receiver<Followed>) {
        let mut early = BTreeMap::new();
        let mut next = 0;
        for part in parts {
            early.insert(part.number, part);
            while let Some(part) = early.remove(&next) {
                self.one(&part);
                next += 1;
            }
            if self.broken.is_some() {
                return;
            }
        }
    }

    fn one(&mut self, part: &Followed) {
        if self.broken.is_some() {
            return;
        }
        // If the first entry of a part does not decode, the part has no claim and reports the
        // damage itself.
        if let Some(Err(problem)) = part.claim.map(|claim| self.tip.is_continued_by(&claim)) {
            self.broken = Some(part.damage(part.offset, self.tip.next_index, &problem));
            return;
        }
        self.take_hashes(part);
        self.broken.clone_from(&part.broken);
        if part.leaves.begin() < part.leaves.end() {
            self.tip = part.tip;
            self.opened = self.opened.take().or_else(|| part.opened.clone());
            self.of_persons.add(part.of_persons);
        }
        self.bytes += part.bytes;
        if let Some(progress) = &mut self.progress {
            progress(self.bytes);
        }
    }

    fn take_hashes(&mut self, part: &Followed) {
        for beginning in &part.beginnings {
            let mut leaves = self.leaves.clone();
            let joined = leaves.append(beginning);
            debug_assert!(joined, "the walk counts without gaps");
            self.roots.extend(leaves.root().map(|root| (leaves.end(), root)));
        }
        let begin = part.leaves.begin();
        let hashes = &mut self.hashes;
        let joined = self.leaves.append_telling(&part.leaves, &mut |height, hash| {
            if let (Some(take), Some(level)) = (hashes.as_mut(), level_of(height)) {
                take(level, begin >> height, hash);
            }
        });
        debug_assert!(joined, "the walk counts without gaps");
        if let Some(take) = hashes {
            part.hashes.iter().for_each(|(level, number, hash)| take(*level, *number, hash));
        }
    }

    fn end(self, dir: &Path, walked: Result<ScanEnd, LogError>) -> Audited {
        let good = Good {
            tip: self.tip,
            bytes: self.bytes,
            // A row that begins with the first leaf has a root.
            root: self.leaves.root().unwrap_or_else(empty_root),
            opened: self.opened,
            of_persons: self.of_persons,
            roots: self.roots,
        };
        if let (None, Ok(end)) = (&self.broken, &walked) {
            assert_eq!(end.frames, good.tip.next_index, "every frame that was walked was followed");
        }
        let result = match (self.broken, walked) {
            (Some(damage), _) => Err(LogError::from(damage).into()),
            (None, Err(LogError::NoSegment(dir))) => Err(VerifyError::NoLedger(dir)),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(end)) => Report::of(dir, good.opened.clone(), good.tip, end),
        };
        Audited { good, result }
    }
}
