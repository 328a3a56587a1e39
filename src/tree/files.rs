//! The hashes of the tree in files: one file a level, `tree/<level>.hashes`.
//!
//! Level l holds, end to end, the tiles of C2SP tlog-tiles of that level: the hashes of the complete
//! subtrees of height `8 * l`, 32 bytes each, hash n at byte `32 * n`. There is no header. Hashes of
//! other heights are computed from these when needed.
//!
//! Hashes up to the size of a signed checkpoint were synced before it was signed. Hashes after it may
//! be damaged and are written again.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use thiserror::Error;

use crate::{
    storage::{
        AtPath as _, FileError,
        disk::{Disk, DiskFile},
        if_exists,
    },
    tlog::{
        merkle::{self, Hash, Range},
        tile::{HASH_BYTES, InTile, Kind, TILE_HEIGHT, TILE_WIDTH, count_at, locate, root_of},
    },
};

/// Levels of the tallest tree that can be: 2^64 leaves.
const LEVELS: u8 = 8;

/// Why the tree can not be read or written.
#[derive(Debug, Error)]
pub enum TreeError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is missing or shorter than it must be.
    #[error("{path} does not hold the hashes of {size} entries")]
    Short {
        /// The file.
        path: PathBuf,
        /// The number of leaves that it must hold.
        size: u64,
    },
    /// A hash is not that of the entries.
    #[error("hash {number} in {path} is not that of the entries")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Number of the hash in its level.
        number: u64,
    },
    /// The hash does not exist.
    #[error("the tree of {size} entries has no such hash")]
    Beyond {
        /// The number of leaves.
        size: u64,
    },
}

/// Reads the tree. Clones read the same files.
#[derive(Debug, Clone)]
pub struct TreeFiles {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    levels: RwLock<Vec<Arc<dyn DiskFile>>>,
    /// Number of leaves whose hashes, on all levels, are in the files.
    size: AtomicU64,
}

impl TreeFiles {
    /// Opens the files of a tree of at least `size` leaves, and cuts off further ones.
    ///
    /// # Errors
    /// [`TreeError::Short`] if the tree has to be built again, or [`TreeError::File`].
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, size: u64) -> Result<Self, TreeError> {
        Self::opened(disk, dir, size, true)
    }

    /// The root over the first `size` leaves of the files. Changes nothing.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn root_on_disk(disk: Arc<dyn Disk>, dir: &Path, size: u64) -> Result<Hash, TreeError> {
        Self::opened(disk, dir, size, false)?.root(size)
    }

    fn opened(disk: Arc<dyn Disk>, dir: &Path, size: u64, cuts: bool) -> Result<Self, TreeError> {
        let files = Self::new(disk, dir);
        {
            let mut levels = files.shared.levels.write();
            for level in 0..LEVELS {
                let count = count_at(Kind::Level(level), size);
                if count == 0 {
                    break;
                }
                let path = files.shared.path(level);
                let short = || TreeError::Short { path: path.clone(), size };
                let file = match files.shared.disk.open_write(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(short()),
                    opened => opened.at(&path)?,
                };
                let bytes = count * HASH_BYTES as u64;
                if file.len().at(&path)? < bytes {
                    return Err(short());
                }
                if cuts {
                    file.set_len(bytes).at(&path)?;
                }
                levels.push(Arc::from(file));
            }
        }
        files.shared.size.store(size, Ordering::Release);
        Ok(files)
    }

    /// Creates an empty tree, and deletes existing files.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, TreeError> {
        let files = Self::new(disk, dir);
        let disk = &files.shared.disk;
        disk.create_dir_all(dir).at(dir)?;
        for name in disk.list(dir).at(dir)? {
            if name.ends_with(".hashes") {
                disk.remove(&dir.join(name)).at(dir)?;
            }
        }
        disk.sync_dir(dir).at(dir)?;
        Ok(files)
    }

    fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        let (levels, size) = (RwLock::default(), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { disk, dir: dir.to_owned(), levels, size }) }
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.size.load(Ordering::Acquire)
    }

    /// The hash of a complete subtree.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn subtree(&self, height: u32, number: u64) -> Result<Hash, TreeError> {
        let InTile { level, tile, first, count } = locate(height, number);
        let start = tile * TILE_WIDTH + first as u64;
        let hashes = self.hashes(level, start, count)?;
        root_of(&hashes).ok_or(TreeError::Beyond { size: self.size() })
    }

    /// Consecutive hashes of a level, 32 bytes each.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn hashes(&self, level: u8, start: u64, count: usize) -> Result<Vec<u8>, TreeError> {
        let size = self.size();
        let end = start.checked_add(count as u64);
        if end.is_none_or(|end| end > count_at(Kind::Level(level), size)) {
            return Err(TreeError::Beyond { size });
        }
        let file = self.shared.levels.read().get(usize::from(level)).cloned();
        let file = file.ok_or(TreeError::Beyond { size })?;
        let mut hashes = vec![0; count * HASH_BYTES];
        let read = file.read_exact_at(&mut hashes, start * HASH_BYTES as u64);
        read.map_err(|source| FileError { path: self.shared.path(level), source })?;
        Ok(hashes)
    }

    /// The root over the first `size` leaves.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn root(&self, size: u64) -> Result<Hash, TreeError> {
        merkle::root(size, |height, number| self.subtree(height, number))
    }

    /// Makes the next start build the tree again, because its hashes are wrong.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn condemn(&self) -> Result<(), TreeError> {
        let path = self.shared.path(0);
        if_exists(self.shared.disk.remove(&path)).at(&path)?;
        Ok(())
    }
}

impl Shared {
    fn path(&self, level: u8) -> PathBuf {
        self.dir.join(format!("{level}.hashes"))
    }

    /// The file of a level, which is created for the next level.
    fn level(&self, level: u8) -> Result<Arc<dyn DiskFile>, TreeError> {
        if let Some(file) = self.levels.read().get(usize::from(level)) {
            return Ok(Arc::clone(file));
        }
        let path = self.path(level);
        // A crash may have left a file of a level that the tree did not reach.
        if_exists(self.disk.remove(&path)).at(&path)?;
        let file: Arc<dyn DiskFile> = self.disk.create(&path).at(&path)?.into();
        self.disk.sync_dir(&self.dir).at(&path)?;
        self.levels.write().push(Arc::clone(&file));
        Ok(file)
    }
}

/// Compares the hashes of every level with those of the leaves, which come one by one.
#[derive(Debug)]
pub struct TreeCheck {
    files: TreeFiles,
    range: Range,
    /// The hashes of each level that were read ahead, and the number of the first of them.
    ahead: Vec<(Vec<u8>, u64)>,
}

impl TreeCheck {
    /// A check of these files, from the first leaf on.
    #[must_use]
    pub fn new(files: TreeFiles) -> Self {
        let ahead = vec![(Vec::new(), 0); usize::from(LEVELS)];
        Self { files, range: Range::empty(0), ahead }
    }

    /// Number of leaves so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.range.end()
    }

    /// Takes the next leaf, and compares it and the subtrees that it completes.
    ///
    /// # Errors
    /// [`TreeError::Wrong`], or the file can not be read. The check must not be used further.
    pub fn push(&mut self, leaf: Hash) -> Result<(), TreeError> {
        let index = self.range.end();
        let mut complete = vec![(0, index, leaf)];
        self.range.push_telling(leaf, &mut |height, hash| {
            let level = height / TILE_HEIGHT;
            if let (true, Ok(level)) = (height.is_multiple_of(TILE_HEIGHT), u8::try_from(level)) {
                complete.push((level, index >> height, *hash));
            }
        });
        complete.iter().try_for_each(|(level, number, hash)| self.compare(*level, *number, hash))
    }

    fn compare(&mut self, level: u8, number: u64, hash: &Hash) -> Result<(), TreeError> {
        let Some((read, first)) = self.ahead.get_mut(usize::from(level)) else { return Ok(()) };
        let is_read = |read: &[u8], first| number < first + (read.len() / HASH_BYTES) as u64;
        if !is_read(read, *first) {
            let there = count_at(Kind::Level(level), self.files.size()).saturating_sub(number);
            let count = usize::try_from(there.min(TILE_WIDTH)).unwrap_or_default();
            (*read, *first) = (self.files.hashes(level, number, count)?, number);
        }
        let at = usize::try_from(number - *first).unwrap_or(usize::MAX);
        if read.as_chunks::<HASH_BYTES>().0.get(at) == Some(hash) {
            return Ok(());
        }
        Err(TreeError::Wrong { path: self.files.shared.path(level), number })
    }
}

/// Adds leaves. A tree has at most one writer.
#[derive(Debug)]
pub struct TreeWriter {
    files: TreeFiles,
    range: Range,
    /// Hashes that are not in the files yet, by level.
    pending: Vec<Vec<u8>>,
    /// Whether each level was written since the last sync.
    unsynced: Vec<bool>,
}

impl TreeWriter {
    /// Continues the tree in the files.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub fn new(files: TreeFiles) -> Result<Self, TreeError> {
        let range = Range::of_size(files.size(), |height, number| files.subtree(height, number))?;
        let pending = vec![Vec::new(); usize::from(LEVELS)];
        let unsynced = vec![false; usize::from(LEVELS)];
        Ok(Self { files, range, pending, unsynced })
    }

    /// The tree in its files.
    #[must_use]
    pub fn files(&self) -> &TreeFiles {
        &self.files
    }

    /// Number of leaves, including those that are not in the files yet.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.range.end()
    }

    /// The root over the added leaves.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.range.root().unwrap_or_else(merkle::empty_root)
    }

    /// The subtrees that the root is over.
    #[must_use]
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Adds a leaf, in memory.
    pub fn push(&mut self, leaf: Hash) {
        let Self { range, pending, .. } = self;
        pending[0].extend_from_slice(&leaf);
        range.push_telling(leaf, &mut |height, hash| {
            if height.is_multiple_of(TILE_HEIGHT)
                && let Some(level) = pending.get_mut((height / TILE_HEIGHT) as usize)
            {
                level.extend_from_slice(hash);
            }
        });
    }

    /// Writes the added leaves to the files. After an error the writer must not be used further.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn write(&mut self) -> Result<(), TreeError> {
        let shared = &self.files.shared;
        for level in 0..LEVELS {
            let hashes = &mut self.pending[usize::from(level)];
            if hashes.is_empty() {
                continue;
            }
            let start = count_at(Kind::Level(level), self.files.size()) * HASH_BYTES as u64;
            let written = shared.level(level)?.write_all_at(hashes, start);
            written.at(&shared.path(level))?;
            hashes.clear();
            self.unsynced[usize::from(level)] = true;
        }
        shared.size.store(self.range.end(), Ordering::Release);
        Ok(())
    }

    /// Syncs the written files.
    ///
    /// # Errors
    /// A file operation failed.
    pub fn sync(&mut self) -> Result<(), TreeError> {
        let shared = &self.files.shared;
        for level in 0..LEVELS {
            if std::mem::take(&mut self.unsynced[usize::from(level)]) {
                let synced = shared.level(level)?.sync_data();
                synced.at(&shared.path(level))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        storage::{disk::RealDisk, sim::SimDisk},
        tlog::merkle::{leaf_hash, prove_consistency, prove_inclusion},
    };

    const DIR: &str = "/tree";

    fn leaf(n: u64) -> Hash {
        leaf_hash(&n.to_be_bytes())
    }

    fn grow(writer: &mut TreeWriter, to: u64) {
        for n in writer.size()..to {
            writer.push(leaf(n));
        }
        writer.write().unwrap();
    }

    fn fresh(disk: &Arc<dyn Disk>) -> TreeWriter {
        TreeWriter::new(TreeFiles::create(Arc::clone(disk), Path::new(DIR)).unwrap()).unwrap()
    }

    fn root_of_first(size: u64) -> Hash {
        let mut range = Range::empty(0);
        (0..size).for_each(|n| range.push(leaf(n)));
        range.root().unwrap()
    }

    #[test]
    fn the_files_give_every_root_and_proof() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let mut writer = fresh(&disk);
        for to in [0, 1, 2, 255, 256, 257, 1_000, 70_000] {
            grow(&mut writer, to);
            assert_eq!(writer.files.root(to).unwrap(), writer.root(), "{to}");
        }
        let files = &writer.files;
        for size in [1, 255, 256, 257, 4_711, 65_536, 65_537, 70_000] {
            let root = files.root(size).unwrap();
            assert_eq!(root, root_of_first(size));
            let subtree = |height, number| files.subtree(height, number);
            for index in [0, size / 2, size - 1] {
                let path = prove_inclusion(index, size, subtree).unwrap();
                merkle::verify_inclusion(&leaf(index), index, size, &path, &root).unwrap();
            }
            let (whole, proof) =
                (files.root(70_000).unwrap(), prove_consistency(size, 70_000, subtree).unwrap());
            merkle::verify_consistency((size, &root), (70_000, &whole), &proof).unwrap();
        }
        assert!(matches!(files.subtree(0, 70_000), Err(TreeError::Beyond { size: 70_000 })));
        assert!(files.hashes(0, u64::MAX, 1).is_err());
    }

    #[test]
    fn what_is_behind_the_size_is_written_again() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        grow(&mut fresh(&disk), 700);
        let files = TreeFiles::open(Arc::clone(&disk), Path::new(DIR), 500).unwrap();
        let mut writer = TreeWriter::new(files).unwrap();
        assert_eq!((writer.size(), writer.root()), (500, root_of_first(500)));
        grow(&mut writer, 800);
        assert_eq!(writer.files.root(800).unwrap(), root_of_first(800));
    }

    #[test]
    fn a_check_finds_every_wrong_hash() {
        let root = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let mut writer =
            TreeWriter::new(TreeFiles::create(Arc::clone(&disk), root.path()).unwrap()).unwrap();
        grow(&mut writer, 700);
        let checked = || {
            let mut check = TreeCheck::new(writer.files.clone());
            (0..700).try_for_each(|n| check.push(leaf(n)))
        };
        assert!(checked().is_ok());
        for (level, hash) in [(0, 0), (0, 255), (0, 256), (0, 699), (1, 0), (1, 1)] {
            let path = root.path().join(format!("{level}.hashes"));
            let bytes = std::fs::read(&path).unwrap();
            let mut changed = bytes.clone();
            changed[hash * HASH_BYTES + 7] ^= 1;
            std::fs::write(&path, changed).unwrap();
            let wrong = checked().unwrap_err();
            assert!(
                matches!(&wrong, TreeError::Wrong { number, .. } if *number == hash as u64),
                "{wrong}"
            );
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(checked().is_ok());
    }

    #[test]
    fn files_that_are_short_or_missing_are_said_to_be() {
        let root = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let open = |size| TreeFiles::open(Arc::clone(&disk), root.path(), size);
        assert!(open(0).is_ok());
        assert!(matches!(open(1), Err(TreeError::Short { .. })));
        let mut writer =
            TreeWriter::new(TreeFiles::create(Arc::clone(&disk), root.path()).unwrap()).unwrap();
        grow(&mut writer, 300);
        assert!(open(300).is_ok());
        assert!(matches!(open(301), Err(TreeError::Short { .. })));
        writer.files.condemn().unwrap();
        assert!(matches!(open(300), Err(TreeError::Short { .. })));
    }
}
