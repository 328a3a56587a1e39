//! A disk in memory that fails on demand and can lose its power, for tests.
//!
//! It distinguishes written and synced data. A failed sync behaves as on Linux: its data stays readable
//! and counts as clean, so that the next sync does not write it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

const SECTOR_LEN: usize = 512;

/// The effect of an operation that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It did nothing.
    Lost,
    /// It did everything, but returned an error.
    Persisted,
    /// A write wrote this many of its bytes; any other operation did nothing.
    Partial(usize),
    /// It did nothing and panics.
    Panic,
}

/// The part of unsynced data that survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    SyncedOnly,
    /// All of it.
    Everything,
    /// Some names, some lengths, some sectors, and zeros in place of the others.
    Torn {
        /// Which.
        seed: u64,
    },
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not durable, oldest first.
    pending: Vec<Rename>,
    operations: u64,
    bytes_read: u64,
    faults: BTreeMap<u64, (Fault, bool)>,
    frozen: bool,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors of `now` that the next sync writes.
    dirty: BTreeSet<usize>,
}

/// A change of names: a creation has no `from`, a removal no `to`.
#[derive(Debug, Clone)]
struct Rename {
    from: Option<PathBuf>,
    to: Option<PathBuf>,
    inode: usize,
}

impl Rename {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(from) = &self.from {
            names.remove(from);
        }
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.inode);
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        self.from.iter().chain(&self.to).any(|path| path.parent() == Some(dir))
    }
}

/// How much of an operation happens.
#[derive(Clone, Copy)]
enum Extent {
    Whole,
    Part(usize),
    Nothing,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the n-th mutating operation, counted from 0, fail. Those after it succeed.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.world.lock().faults.insert(n, (fault, false));
    }

    /// Makes the n-th mutating operation, counted from 0, fail, and all that comes after it,
    /// reads as well, until [`SimDisk::thaw`] or [`SimDisk::power_cut`].
    pub fn freeze_at(&self, n: u64, fault: Fault) {
        self.world.lock().faults.insert(n, (fault, true));
    }

    /// Lets operations succeed again: the process was restarted, the machine was not.
    pub fn thaw(&self) {
        let mut world = self.world.lock();
        world.frozen = false;
        world.faults.clear();
    }

    /// Number of mutating operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.world.lock().operations
    }

    /// Number of bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.world.lock().bytes_read
    }

    /// The disk as it is after a power cut at this moment. This one is not changed.
    #[must_use]
    pub fn power_cut(&self, keep: Keep) -> Self {
        let world = self.world.lock();
        let mut chance = Chance::new(keep);
        let mut names = world.durable_names.clone();
        for change in &world.pending {
            if chance.keeps() {
                change.apply(&mut names);
            }
        }
        let mut after = World::default();
        for (path, inode) in names {
            let content = world.inodes[inode].after_power_cut(&mut chance);
            after.put(path, content);
        }
        Self { world: Arc::new(Mutex::new(after)) }
    }

    /// The content of a file, if it exists.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.lock();
        world.names.get(path).map(|&inode| world.inodes[inode].now.clone())
    }

    /// Puts a file on the disk, durably, in place of any that is there.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        self.world.lock().put(path.to_owned(), content);
    }

    /// Every file with its content.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let world = self.world.lock();
        world.names.iter().map(|(p, &inode)| (p.clone(), world.inodes[inode].now.clone())).collect()
    }

    /// Runs a mutating operation, as far as no fault forbids it.
    fn mutate<T>(
        &self,
        operation: impl FnOnce(&mut World, Extent) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut world = self.lock()?;
        let n = world.operations;
        world.operations += 1;
        let Some((fault, freeze)) = world.faults.remove(&n) else {
            return operation(&mut world, Extent::Whole);
        };
        world.frozen = freeze;
        let extent = match fault {
            Fault::Lost => Extent::Nothing,
            Fault::Persisted => Extent::Whole,
            Fault::Partial(bytes) => Extent::Part(bytes),
            Fault::Panic => panic!("injected: operation {n}"),
        };
        operation(&mut world, extent)?;
        Err(io::Error::other(format!("injected: operation {n}, {fault:?}")))
    }

    fn lock(&self) -> io::Result<MutexGuard<'_, World>> {
        let world = self.world.lock();
        if world.frozen { Err(io::Error::other("the disk is frozen")) } else { Ok(world) }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.lock()?.inode(path)?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }
}

impl World {
    fn put(&mut self, path: PathBuf, content: Vec<u8>) {
        self.inodes.push(Inode { durable: content.clone(), now: content, ..Inode::default() });
        let inode = self.inodes.len() - 1;
        self.durable_names.insert(path.clone(), inode);
        self.names.insert(path, inode);
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, path.display().to_string());
        self.names.get(path).copied().ok_or_else(missing)
    }

    fn change_names(&mut self, change: Rename, extent: Extent) {
        if let Extent::Whole = extent {
            change.apply(&mut self.names);
            self.pending.push(change);
        }
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        // Every directory exists.
        self.lock().map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.lock()?;
        let inside = world.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(ToOwned::to_owned).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.mutate(|world, extent| {
            if world.names.contains_key(path) {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            world.inodes.push(Inode::default());
            let inode = world.inodes.len() - 1;
            world.change_names(Rename { from: None, to: Some(path.to_owned()), inode }, extent);
            Ok(inode)
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.mutate(|world, extent| {
            let inode = world.inode(from)?;
            let (from, to) = (Some(from.to_owned()), Some(to.to_owned()));
            world.change_names(Rename { from, to, inode }, extent);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.mutate(|world, extent| {
            let inode = world.inode(path)?;
            world.change_names(Rename { from: Some(path.to_owned()), to: None, inode }, extent);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.mutate(|world, extent| {
            if let Extent::Whole = extent {
                let pending = std::mem::take(&mut world.pending);
                let (here, elsewhere) = pending.into_iter().partition(|change| change.is_in(dir));
                let here: Vec<Rename> = here;
                here.iter().for_each(|change| change.apply(&mut world.durable_names));
                world.pending = elsewhere;
            }
            Ok(())
        })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock()?.inodes[self.inode].now.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.lock()?;
        world.bytes_read += buf.len() as u64;
        let start = length(offset)?;
        let bytes = world.inodes[self.inode].now.get(start..start.saturating_add(buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let offset = length(offset)?;
        self.disk.mutate(|world, extent| {
            let bytes = match extent {
                Extent::Whole => buf,
                Extent::Part(bytes) => &buf[..bytes.min(buf.len())],
                Extent::Nothing => &[],
            };
            world.inodes[self.inode].write(bytes, offset);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = length(len)?;
        self.disk.mutate(|world, extent| {
            if let Extent::Whole = extent {
                world.inodes[self.inode].set_len(len);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.mutate(|world, extent| {
            let inode = &mut world.inodes[self.inode];
            match extent {
                Extent::Whole => inode.sync(),
                Extent::Part(_) | Extent::Nothing => inode.dirty.clear(),
            }
            Ok(())
        })
    }
}

fn length(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR_LEN..=(end - 1) / SECTOR_LEN);
    }

    fn set_len(&mut self, len: usize) {
        let longest = self.now.len().max(len);
        self.now.resize(len, 0);
        self.dirty.extend(len / SECTOR_LEN..longest.div_ceil(SECTOR_LEN));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&mut self.durable, &self.now, sector);
        }
    }

    fn after_power_cut(&self, chance: &mut Chance) -> Vec<u8> {
        if chance.keep == Keep::Everything {
            return self.now.clone();
        }
        let mut after = self.durable.clone();
        after.resize(chance.between(self.durable.len(), self.now.len()), 0);
        for &sector in &self.dirty {
            if chance.keeps() {
                copy_sector(&mut after, &self.now, sector);
            }
        }
        after
    }
}

/// Copies a sector as far as `to` has it; zeros where `from` is shorter.
fn copy_sector(to: &mut [u8], from: &[u8], sector: usize) {
    let start = sector * SECTOR_LEN;
    for at in start..(start + SECTOR_LEN).min(to.len()) {
        to[at] = from.get(at).copied().unwrap_or(0);
    }
}

/// Decides which data survives. SplitMix64, so that a seed always has the same result.
struct Chance {
    keep: Keep,
    state: u64,
    /// Of eight things, so many survive.
    eighths: u64,
}

impl Chance {
    fn new(keep: Keep) -> Self {
        let state = if let Keep::Torn { seed } = keep { seed } else { 0 };
        let mut chance = Self { keep, state, eighths: 0 };
        chance.eighths = 1 + chance.next() % 7;
        chance
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn keeps(&mut self) -> bool {
        match self.keep {
            Keep::SyncedOnly => false,
            Keep::Everything => true,
            Keep::Torn { .. } => self.next() % 8 < self.eighths,
        }
    }

    /// A length between the synced one and the one written, often one of the two.
    fn between(&mut self, synced: usize, written: usize) -> usize {
        let (low, high) = (synced.min(written), synced.max(written));
        match (self.keep, self.next() % 4) {
            (Keep::SyncedOnly, _) | (Keep::Torn { .. }, 0) => synced,
            (Keep::Everything, _) | (Keep::Torn { .. }, 1 | 2) => written,
            (Keep::Torn { .. }, _) => {
                let span = (high - low) as u64 + 1;
                // At most `high`, which is a length.
                low + usize::try_from(self.next() % span).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> PathBuf {
        PathBuf::from("/dir/file")
    }

    fn synced(disk: &SimDisk, content: &[u8]) -> Box<dyn DiskFile> {
        let file = disk.create(&path()).unwrap();
        file.write_all_at(content, 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/dir")).unwrap();
        file
    }

    #[test]
    fn only_what_was_synced_is_sure_to_survive() {
        let disk = SimDisk::new();
        let file = synced(&disk, b"synced");
        file.write_all_at(b"written", 6).unwrap();
        disk.create(Path::new("/dir/other")).unwrap();
        let after = |keep| disk.power_cut(keep).files();
        assert_eq!(after(Keep::SyncedOnly), [(path(), b"synced".to_vec())].into());
        assert_eq!(after(Keep::Everything)[&path()], b"syncedwritten");
        assert_eq!(after(Keep::Everything).len(), 2);
        let torn: BTreeSet<_> = (0..100)
            .map(|seed| disk.power_cut(Keep::Torn { seed }).content(&path()).unwrap())
            .collect();
        assert!(torn.iter().all(|content| content.starts_with(b"synced")));
        assert!(torn.contains(b"synced".as_slice()));
        assert!(torn.contains(b"syncedwritten".as_slice()));
        assert!(torn.contains(b"synced\0\0\0\0\0\0\0".as_slice()));
    }

    #[test]
    fn a_name_is_not_durable_before_its_directory_is_synced() {
        let disk = SimDisk::new();
        let file = disk.create(&path()).unwrap();
        file.write_all_at(b"text", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.power_cut(Keep::SyncedOnly).files(), BTreeMap::new());
        assert_eq!(disk.power_cut(Keep::Everything).content(&path()).unwrap(), b"text");
    }

    #[test]
    fn each_fault_does_what_it_says() {
        for (fault, there) in
            [(Fault::Lost, "x"), (Fault::Persisted, "xtext"), (Fault::Partial(2), "xte")]
        {
            let disk = SimDisk::new();
            let file = synced(&disk, b"x");
            disk.fail_at(disk.operations(), fault);
            assert!(file.write_all_at(b"text", 1).is_err());
            assert_eq!(disk.content(&path()).unwrap(), there.as_bytes());
            file.sync_data().unwrap();
        }
    }

    #[test]
    fn what_a_failed_sync_did_not_write_no_later_sync_writes() {
        let disk = SimDisk::new();
        let file = synced(&disk, b"x");
        file.write_all_at(b"text", 1).unwrap();
        disk.fail_at(disk.operations(), Fault::Lost);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(disk.content(&path()).unwrap(), b"xtext");
        let after = disk.power_cut(Keep::SyncedOnly);
        assert_eq!(after.content(&path()).unwrap(), b"x\0\0\0\0");
    }

    #[test]
    fn a_frozen_disk_does_nothing_until_it_is_thawed() {
        let disk = SimDisk::new();
        let file = synced(&disk, b"x");
        disk.freeze_at(disk.operations(), Fault::Lost);
        assert!(file.sync_data().is_err());
        assert!(file.write_all_at(b"y", 1).is_err());
        assert!(file.len().is_err());
        disk.thaw();
        assert_eq!(file.len().unwrap(), 1);
    }
}
