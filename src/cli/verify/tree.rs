//! The tree on disk, compared with the hashes of the entries as they are read.
//!
//! The tree is disposable: a server can compute it again. But until then a wrong tree gives wrong
//! proofs. The hashes under a checkpoint of the directory were synced before it was signed: every one of
//! them, on every level, must be there and right. Later hashes may be anything after a crash: the server
//! writes them again, and they are not damage.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use serde::Serialize;

use crate::{
    tlog::{
        merkle::Hash,
        tile::{HASH_BYTES, Kind, count_at},
    },
    tree,
};

/// Maximum number of levels of a tree with `u64` entries.
const LEVELS_MAX: u8 = 8;

/// The result of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TreeCompared {
    /// Number of compared hashes.
    pub hashes: u64,
    /// Number of hashes of unsigned entries: no server reads them.
    pub unsynced: u64,
    /// Number of hashes of entries that the ledger does not have. No server reads them either, but a tree
    /// never grows before its ledger.
    pub beyond: u64,
    /// Whether all compared hashes are right.
    pub agrees: bool,
    /// The first hash that is wrong, or the first level that lacks some.
    #[serde(rename = "what")]
    pub wrong: Option<String>,
}

impl TreeCompared {
    /// Whether nothing says which of the hashes had to be there.
    pub fn is_unknown(&self) -> bool {
        self.agrees && self.hashes == 0 && self.unsynced + self.beyond > 0
    }
}

/// The files of a tree, read as the entries are.
pub struct TreeFiles {
    levels: Vec<Level>,
    /// Number of entries under a checkpoint.
    signed: u64,
    compared: u64,
    wrong: Option<String>,
}

struct Level {
    file: BufReader<File>,
    /// Number of hashes under the checkpoint.
    hashes: u64,
    /// Size of the file.
    bytes: u64,
}

impl Level {
    fn on_disk(&self) -> u64 {
        self.bytes / HASH_BYTES as u64
    }
}

impl TreeFiles {
    /// Opens the tree, to compare the hashes of the first `signed` entries. None if there is no tree.
    ///
    /// # Errors
    /// A file can not be opened.
    pub fn open(data_dir: &Path, signed: u64) -> io::Result<Option<Self>> {
        if !data_dir.join(tree::DIR).try_exists()? {
            return Ok(None);
        }
        let mut files = Self { levels: Vec::new(), signed, compared: 0, wrong: None };
        for level in 0..LEVELS_MAX {
            let path = data_dir.join(tree::DIR).join(format!("{level}.hashes"));
            let hashes = count_at(Kind::Level(level), signed);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let bytes = file.metadata()?.len();
            let file = BufReader::with_capacity(64 * 1024, file);
            files.levels.push(Level { file, hashes, bytes });
        }
        Ok(Some(files))
    }

    /// Compares the next hash of a level.
    pub fn compare(&mut self, level: u8, number: u64, hash: &Hash) {
        let Some(on_disk) = self.levels.get_mut(usize::from(level)) else { return };
        // Hashes that the file lacks are counted at the end.
        let is_due = number < on_disk.hashes.min(on_disk.on_disk());
        if !is_due || self.wrong.is_some() {
            return;
        }
        let mut read = [0; HASH_BYTES];
        self.compared += 1;
        self.wrong = match on_disk.file.read_exact(&mut read) {
            Ok(()) if read == *hash => None,
            Ok(()) => Some(format!("hash {number} of level {level} is not that of the entries")),
            Err(error) => Some(format!("hash {number} of level {level}: {error}")),
        };
    }

    /// The result, for a ledger of `entries`.
    pub fn end(self, entries: u64) -> TreeCompared {
        let (mut unsynced, mut beyond) = (0, 0);
        for (number, level) in (0..LEVELS_MAX).zip(&self.levels) {
            let on_disk = level.bytes.div_ceil(HASH_BYTES as u64);
            let of_entries = count_at(Kind::Level(number), entries).max(level.hashes);
            unsynced += on_disk.min(of_entries).saturating_sub(level.hashes);
            beyond += on_disk.saturating_sub(of_entries);
        }
        let wrong = self.wrong.or_else(|| missing(&self.levels, self.signed.min(entries)));
        TreeCompared { hashes: self.compared, unsynced, beyond, agrees: wrong.is_none(), wrong }
    }
}

/// The first level that lacks hashes of the first `entries` entries.
fn missing(levels: &[Level], entries: u64) -> Option<String> {
    (0..LEVELS_MAX).find_map(|level| {
        let wanted = count_at(Kind::Level(level), entries);
        let on_disk = levels.get(usize::from(level)).map_or(0, Level::on_disk);
        (on_disk < wanted).then(|| format!("level {level} has {on_disk} of {wanted} hashes"))
    })
}
