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
    /// Whether all compared hashes are right.
    pub agrees: bool,
    /// The first hash that is wrong, or the first level that lacks some.
    #[serde(rename = "what")]
    pub wrong: Option<String>,
}

/// The files of a tree, read as the entries are.
pub struct TreeFiles {
    levels: Vec<Level>,
    compared: u64,
    unsynced: u64,
    wrong: Option<String>,
}

struct Level {
    file: BufReader<File>,
    /// Number of hashes under the checkpoint.
    hashes: u64,
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
        let mut files = Self { levels: Vec::new(), compared: 0, unsynced: 0, wrong: None };
        for level in 0..LEVELS_MAX {
            let path = data_dir.join(tree::DIR).join(format!("{level}.hashes"));
            let hashes = count_at(Kind::Level(level), signed);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    files.note_missing(level, hashes, 0);
                    break;
                }
                Err(error) => return Err(error),
            };
            let bytes = file.metadata()?.len();
            files.note_missing(level, hashes, bytes / HASH_BYTES as u64);
            files.unsynced += bytes.div_ceil(HASH_BYTES as u64).saturating_sub(hashes);
            files.levels.push(Level { file: BufReader::with_capacity(64 * 1024, file), hashes });
        }
        Ok(Some(files))
    }

    fn note_missing(&mut self, level: u8, wanted: u64, on_disk: u64) {
        if on_disk < wanted && self.wrong.is_none() {
            self.wrong = Some(format!("level {level} has {on_disk} of {wanted} hashes"));
        }
    }

    /// Compares the next hash of a level.
    pub fn compare(&mut self, level: u8, number: u64, hash: &Hash) {
        let Some(on_disk) = self.levels.get_mut(usize::from(level)) else { return };
        if number >= on_disk.hashes || self.wrong.is_some() {
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

    /// The result.
    pub fn end(self) -> TreeCompared {
        let Self { compared: hashes, unsynced, wrong, .. } = self;
        TreeCompared { hashes, unsynced, agrees: wrong.is_none(), wrong }
    }
}
